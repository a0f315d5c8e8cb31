//! Arbitrary bytes as a program that uses the C functions, and a model beside it that knows
//! what each call has to answer.
//!
//! Where the contract is certain, the model is: which blocks are live, that they do not
//! overlap, that their bytes survive what queued work may still do, which status a wrong
//! argument gets, what the counters say. Where it is not (does this allocation still fit?),
//! both answers are taken and the model follows.
//!
//! The fuzz target and `tests/c_door.rs` share this file.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use forebay::capi::block::*;
use forebay::capi::pool::*;
use forebay::capi::stats::*;
use forebay::capi::status::*;
use forebay::capi::stream::*;
use forebay::capi::trace::*;
use forebay_status::*;

const PAGE: u64 = 2 << 20;
const SIZE_MAX: u64 = 1 << 46;
/// The invariants of the pool are scanned after every so many steps.
const CHECK_EVERY: usize = 16;
/// Work behind a gate goes on by itself after this: a call that waits for a stream, as the
/// ladder does when memory is short, would otherwise wait for the program that it stopped.
const GATE: Duration = Duration::from_millis(2);

/// The program: numbers out of bytes, zeros once they have run out.
struct Program<'a>(&'a [u8]);

impl Program<'_> {
    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn number(&mut self, bytes: u32) -> u64 {
        (0..bytes).fold(0, |value, _| value << 8 | u64::from(self.byte()))
    }

    fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { self.number(2) as usize % limit }
    }

    /// True once in `times`.
    fn rarely(&mut self, times: u8) -> bool {
        self.byte() % times == times - 1
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.byte() as usize % from.len()]
    }
}

/// What queued work found wrong; read by the program's thread.
static WRONG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

/// A piece of queued work.
enum Work {
    Wait(Arc<Gate>),
    Fill(Bytes),
    Check(Bytes),
    /// Zeros were promised.
    CheckZero(Bytes),
}

impl Work {
    fn run(&self) {
        let wrong = match self {
            Work::Wait(gate) => {
                let open = gate.open.lock().unwrap();
                let _ = gate.opened.wait_timeout_while(open, GATE, |open| !*open).unwrap();
                None
            }
            Work::Fill(bytes) => {
                bytes.fill();
                None
            }
            Work::Check(bytes) => bytes.wrong(bytes.size),
            Work::CheckZero(bytes) => bytes.not_zero(),
        };
        if let Some(wrong) = wrong {
            WRONG.lock().unwrap().push(wrong);
        }
    }
}

unsafe extern "C" fn run_work(work: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `submit`, run once.
    unsafe { Box::from_raw(work.cast::<Work>()) }.run();
}

/// The bytes of a block, of which some are written and looked at.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    address: usize,
    size: usize,
    seed: u64,
}

impl Bytes {
    /// Which bytes of a block are used: its ends, and a few in between.
    fn spots(size: usize) -> impl Iterator<Item = usize> {
        let ends = (0..size.min(96)).chain(size.saturating_sub(96).max(size.min(96))..size);
        ends.chain((1..16).map(move |part| size / 16 * part).filter(move |_| size > 4096))
    }

    fn value(&self, at: usize) -> u8 {
        // Never 0, 0xDF or 0xFD, which the pool writes itself.
        ((self.seed ^ at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57) as u8 + 1
    }

    fn fill(&self) {
        for at in Bytes::spots(self.size) {
            // SAFETY: inside a live block of this program.
            unsafe { (self.address as *mut u8).add(at).write_volatile(self.value(at)) };
        }
    }

    fn read(&self, at: usize) -> u8 {
        // SAFETY: inside a block that is live, or was freed on a stream whose work this is.
        unsafe { (self.address as *const u8).add(at).read_volatile() }
    }

    /// Looks at the first `size` bytes.
    fn wrong(&self, size: usize) -> Option<String> {
        let at = Bytes::spots(self.size)
            .filter(|&at| at < size)
            .find(|&at| self.read(at) != self.value(at))?;
        let (found, value) = (self.read(at), self.value(at));
        Some(format!("byte {at} of {self:x?} is {found:#x}, not {value:#x}"))
    }

    fn not_zero(&self) -> Option<String> {
        let at = Bytes::spots(self.size).find(|&at| self.read(at) != 0)?;
        Some(format!("byte {at} of {self:x?} is {:#x}, not zero", self.read(at)))
    }
}

struct Live {
    bytes: Bytes,
    /// The stream that uses it, as a number in `streams`; none is the default one.
    home: Option<usize>,
    /// Streams that were recorded for it.
    followers: Vec<usize>,
    /// Bytes behind it were written, which the guard bytes tell.
    overrun: bool,
}

struct StreamModel {
    handle: forebay_stream,
    gate: Option<Arc<Gate>>,
}

/// A second thread that does as it is told.
struct Helper {
    orders: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Helper {
    fn new() -> Helper {
        let (orders, todo) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let thread = std::thread::spawn(move || todo.into_iter().for_each(|order| order()));
        Helper { orders, thread: Some(thread) }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let (none, _) = mpsc::channel();
        self.orders = none;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Which thread makes a call.
#[derive(Clone, Copy)]
enum Thread {
    Own,
    Helper,
    /// One that ends afterwards.
    Fresh,
}

#[derive(Clone, Copy)]
struct Sent<T>(T);
// SAFETY: the thread that gets it works while the one that sent it waits.
unsafe impl<T> Send for Sent<T> {}

/// What the out-of-memory callback may free, and what it has freed.
#[derive(Default)]
struct Victims {
    pool: usize,
    offered: Vec<usize>,
    freed: Vec<usize>,
}

unsafe extern "C" fn free_a_victim(_: usize, user: *mut c_void) -> i32 {
    // SAFETY: `Door::victims`, which lives as long as the pool.
    let victims = unsafe { &*user.cast::<Mutex<Victims>>() };
    let (pool, victim) = {
        let mut victims = victims.lock().unwrap();
        (victims.pool, victims.offered.pop())
    };
    let Some(victim) = victim else { return 0 };
    // SAFETY: the pool that calls this.
    let status = unsafe { forebay_free(pool as *mut _, victim as *mut c_void, null_mut()) };
    assert_eq!(status, ForebayOk);
    victims.lock().unwrap().freed.push(victim);
    1
}

struct Door {
    pool: *mut forebay_pool,
    config: forebay_pool_config,
    policy: i32,
    limit: u64,
    live: BTreeMap<usize, Live>,
    freed: VecDeque<usize>,
    streams: Vec<StreamModel>,
    destroyed: Vec<forebay_stream>,
    helper: Helper,
    victims: Box<Mutex<Victims>>,
    /// A pool of its own with one block, which is foreign to `pool`.
    other: (*mut forebay_pool, *mut c_void),
    seed: u64,
    allocations: u64,
    frees: u64,
    invalid: u64,
    /// While it is traced: the file, and how many rows it has to have.
    trace: Option<(CString, u64)>,
}

fn last_error() -> String {
    // SAFETY: the text stays until this thread's next call that fails.
    unsafe { CStr::from_ptr(forebay_last_error()) }.to_string_lossy().into_owned()
}

#[track_caller]
fn expect(status: forebay_status, expected: forebay_status) {
    assert_eq!(status, expected, "the message is: {}", last_error());
}

/// Runs one program; returns how many steps it had.
pub fn run(data: &[u8]) -> usize {
    let mut program = Program(data);
    let mut door = Door::open(&mut program);
    let mut steps = 0;
    while !program.is_over() {
        door.step(&mut program);
        steps += 1;
        if steps % CHECK_EVERY == 0 {
            door.check();
        }
    }
    let wishes = program.byte();
    door.close(wishes);
    steps
}

impl Door {
    /// Creates the pool, often after attempts with configurations that are refused.
    fn open(program: &mut Program) -> Door {
        let mut config = forebay_pool_config {
            struct_size: size_of::<forebay_pool_config>(),
            device_kind: 0,
            device_index: 0,
            max_bytes: program.pick(&[2 * PAGE, 5 * PAGE, 16 * PAGE, 32 * PAGE + 4711, PAGE]),
            initial_bytes: program.pick(&[0, 0, 0, 1, PAGE]),
            block_size: program.pick(&[0, 0, 0, 16, 4096, 1 << 20]),
            policy: i32::from(program.byte() % 5),
            reserved: 0,
            flags: program.pick(&[0, 0, 0, u64::MAX]) & u64::from(program.byte() & 15),
        };
        let good = config;
        if program.rarely(2) {
            match program.byte() % 11 {
                0 => config.struct_size = program.number(2) as usize % 56,
                1 => config.struct_size = (64 << 10) + 1,
                2 => config.device_kind = 1,
                3 => config.device_kind = -1,
                4 => config.device_index = 1,
                5 => config.max_bytes = 1 + program.number(2),
                6 => config.max_bytes = SIZE_MAX + 1,
                7 => config.initial_bytes = config.max_bytes + 1,
                8 => config.block_size = program.pick(&[3, 1 << 31, u64::MAX]),
                9 => config.policy = program.pick(&[-1, 5, i32::MAX]),
                _ => config.flags |= 16 << (program.byte() % 60),
            }
            let refused = match config.device_kind {
                1 => ForebayErrorUnsupported,
                _ => ForebayErrorInvalidArgument,
            };
            let mut pool = std::ptr::dangling_mut();
            // SAFETY: a config and a place for the result.
            expect(unsafe { forebay_pool_create(&config, &mut pool) }, refused);
            assert_eq!(pool, std::ptr::dangling_mut(), "the result was touched");
            // SAFETY: NULL is an error.
            expect(
                unsafe { forebay_pool_create(&config, null_mut()) },
                ForebayErrorInvalidArgument,
            );
        }
        let mut pool = null_mut();
        // SAFETY: as above.
        expect(unsafe { forebay_pool_create(&good, &mut pool) }, ForebayOk);
        let (mut other, mut block) = (null_mut(), null_mut());
        // SAFETY: as above.
        unsafe {
            let config = forebay_pool_config {
                struct_size: size_of::<forebay_pool_config>(),
                max_bytes: PAGE,
                ..std::mem::zeroed()
            };
            expect(forebay_pool_create(&config, &mut other), ForebayOk);
            expect(forebay_alloc(other, 100, null_mut(), &mut block), ForebayOk);
        }
        Door {
            pool,
            config: good,
            policy: good.policy,
            limit: good.max_bytes / PAGE * PAGE,
            live: BTreeMap::new(),
            freed: VecDeque::new(),
            streams: Vec::new(),
            destroyed: Vec::new(),
            helper: Helper::new(),
            victims: Box::new(Mutex::new(Victims { pool: pool as usize, ..Victims::default() })),
            other: (other, block),
            seed: 1,
            allocations: 0,
            frees: 0,
            invalid: 0,
            trace: None,
        }
    }

    /// Has `call` made by a thread, and waits for it.
    fn on<R>(&self, thread: Thread, call: impl FnOnce() -> R) -> R {
        let mut result = None;
        match thread {
            Thread::Own => return call(),
            Thread::Helper => {
                let (done, wait) = mpsc::sync_channel::<()>(1);
                let order = Sent((call, &raw mut result, done));
                let order: Box<dyn FnOnce()> = Box::new(move || {
                    let Sent((call, result, done)) = { order };
                    let value = call();
                    // SAFETY: whoever owns it waits for `done`.
                    unsafe { *result = Some(value) };
                    let _ = done.send(());
                });
                // SAFETY: only the lifetime changes: the order is done, or its thread is gone,
                // before this function returns.
                let order = Sent(unsafe {
                    std::mem::transmute::<Box<dyn FnOnce() + '_>, Box<dyn FnOnce() + 'static>>(
                        order,
                    )
                });
                let sent = self.helper.orders.send(Box::new(move || {
                    let Sent(order) = { order };
                    order();
                }));
                assert!(sent.is_ok() && wait.recv().is_ok(), "the helper's call panicked");
            }
            Thread::Fresh => {
                let order = Sent((call, &raw mut result));
                std::thread::scope(|scope| {
                    let thread = scope.spawn(move || {
                        let Sent((call, result)) = { order };
                        // SAFETY: whoever owns it waits for this thread.
                        unsafe { *result = Some(call()) };
                    });
                    assert!(thread.join().is_ok(), "the call panicked");
                });
            }
        }
        result.unwrap()
    }

    fn thread(program: &mut Program) -> Thread {
        match program.byte() {
            0..180 => Thread::Own,
            180..250 => Thread::Helper,
            _ => Thread::Fresh,
        }
    }

    fn size(&self, program: &mut Program) -> usize {
        let limit = self.limit as usize;
        match program.byte() {
            0..100 => 1 + program.number(2) as usize % 512,
            100..160 => 1 + program.number(2) as usize,
            160..200 => 1 + program.number(3) as usize % (1 << 20),
            200..230 => 1 + program.number(3) as usize % (limit / 2),
            230..240 => program.pick(&[16, 512, 32 << 10, (32 << 10) + 1, 1 << 20, 2 << 20]),
            240..248 => limit - program.number(3) as usize % limit,
            248..252 => limit + 1 + program.number(3) as usize,
            252..254 => program.pick(&[SIZE_MAX as usize, SIZE_MAX as usize + 1, usize::MAX]),
            _ => 0,
        }
    }

    /// A stream: the default one, or one of its own.
    fn stream(&self, program: &mut Program) -> Option<usize> {
        let number = program.byte() as usize;
        if number < 128 || self.streams.is_empty() {
            None
        } else {
            Some(number % self.streams.len())
        }
    }

    fn handle(&self, stream: Option<usize>) -> forebay_stream {
        stream.map_or(null_mut(), |number| self.streams[number].handle)
    }

    /// Has `stream` do `work`.
    fn submit(&self, stream: Option<usize>, work: Work) {
        let work = Box::into_raw(Box::new(work)).cast();
        // SAFETY: `run_work` takes it back.
        expect(
            unsafe { forebay_stream_submit(self.handle(stream), Some(run_work), work) },
            ForebayOk,
        );
    }

    fn synchronize(&mut self, stream: Option<usize>) {
        if let Some(number) = stream {
            if let Some(gate) = self.streams[number].gate.take() {
                *gate.open.lock().unwrap() = true;
                gate.opened.notify_all();
            }
            expect(forebay_stream_synchronize(self.streams[number].handle), ForebayOk);
        }
        Door::look_at_work();
    }

    fn synchronize_all(&mut self) {
        // What waits for another stream's gate is waited for by opening all of them first.
        for stream in &mut self.streams {
            if let Some(gate) = stream.gate.take() {
                *gate.open.lock().unwrap() = true;
                gate.opened.notify_all();
            }
        }
        for number in 0..self.streams.len() {
            self.synchronize(Some(number));
        }
    }

    fn look_at_work() {
        let wrong = std::mem::take(&mut *WRONG.lock().unwrap());
        assert!(wrong.is_empty(), "queued work found: {wrong:?}");
    }

    fn has_flag(&self, flag: u64) -> bool {
        self.config.flags & flag != 0
    }

    fn requested(&self) -> u64 {
        self.live.values().map(|live| live.bytes.size as u64).sum()
    }

    /// The status that an allocation is certain to get, if any.
    fn certain(&self, sizes: &[usize]) -> Option<forebay_status> {
        let mut sum = self.requested();
        if self.victims.lock().unwrap().offered.is_empty() {
            for &size in sizes {
                if size == 0 || size as u64 > SIZE_MAX {
                    return Some(ForebayErrorInvalidArgument);
                }
                sum += size as u64;
                if sum > self.limit {
                    return Some(ForebayErrorOutOfMemory);
                }
            }
        }
        None
    }

    /// Follows the answer of an allocation.
    #[track_caller]
    fn answered(&mut self, status: forebay_status, certain: Option<forebay_status>) -> bool {
        match (status, certain) {
            (status, Some(certain)) => expect(status, certain),
            (ForebayOk | ForebayErrorOutOfMemory | ForebayErrorInvalidArgument, None) => {}
            (status, None) => panic!("{status:?}: {}", last_error()),
        }
        self.bury_victims();
        status == ForebayOk
    }

    /// The out-of-memory callback has freed some blocks by itself.
    fn bury_victims(&mut self) {
        let freed = std::mem::take(&mut self.victims.lock().unwrap().freed);
        for address in freed {
            let live = self.live.remove(&address).expect("the callback freed a live block");
            self.forget(live);
        }
    }

    fn forget(&mut self, live: Live) {
        self.frees += 1;
        self.add_rows(1);
        self.freed.push_front(live.bytes.address);
        self.freed.truncate(32);
    }

    fn add_rows(&mut self, rows: u64) {
        if let Some((_, count)) = &mut self.trace {
            *count += rows;
        }
    }

    /// A block came: it must be nobody else's. Its stream writes to it.
    fn adopt(&mut self, address: usize, size: usize, alignment: usize, stream: Option<usize>) {
        self.allocations += 1;
        self.add_rows(1);
        let least = if size > 32 << 10 { 512 } else { 16 };
        assert!(address.is_multiple_of(alignment.max(least)), "{address:#x} for {size}");
        let below = self.live.range(..address + size).next_back();
        if let Some((&at, live)) = below {
            assert!(at + live.bytes.size <= address, "{address:#x} lies in {:x?}", live.bytes);
        }
        self.seed += 1;
        let bytes = Bytes { address, size, seed: self.seed };
        if self.has_flag(FOREBAY_POOL_ZERO_ON_ALLOC) || self.policy == 3 {
            self.submit(stream, Work::CheckZero(bytes));
        }
        self.submit(stream, Work::Fill(bytes));
        let live = Live { bytes, home: stream, followers: Vec::new(), overrun: false };
        self.live.insert(address, live);
    }

    fn pick_live(&self, program: &mut Program) -> Option<usize> {
        let number = program.below(self.live.len());
        self.live.keys().nth(number).copied()
    }

    /// An address that is no live block, and the status it gets.
    fn pick_invalid(&self, program: &mut Program) -> usize {
        static STATIC: AtomicU64 = AtomicU64::new(0);
        let local = 0u64;
        let address = match program.byte() % 7 {
            0 | 1 => self.freed.get(program.byte() as usize % 32).copied(),
            2 | 3 => self.pick_live(program).map(|address| {
                let size = self.live[&address].bytes.size;
                address + 1 + program.number(3) as usize % size
            }),
            4 => Some(self.other.1 as usize),
            5 => Some(program.pick(&[
                (&raw const local) as usize,
                STATIC.as_ptr() as usize,
                1,
                16,
                usize::MAX,
                usize::MAX - 15,
            ])),
            _ => Some(program.number(8) as usize),
        };
        match address {
            Some(address) if address != 0 && !self.live.contains_key(&address) => address,
            _ => 8,
        }
    }

    fn step(&mut self, program: &mut Program) {
        match program.byte() {
            0..80 => self.alloc(program),
            80..140 => self.free(program),
            140..152 => self.realloc(program),
            152..160 => self.batch(program),
            160..172 => self.invalid_pointer(program),
            172..180 => self.ask(program),
            180..186 => self.trim(program),
            186..190 => self.set_policy(program),
            190..195 => self.set_limit(program),
            195..200 => self.make_stream(program),
            200..210 => self.close_gate(program),
            210..213 => self.end_stream(program),
            213..222 => self.use_elsewhere(program),
            222..226 => self.synchronize_all(),
            226..230 => self.json(program),
            230..234 => self.start_trace(program),
            234..237 => self.stop_trace(),
            237..241 => self.overrun(program),
            241..245 => self.offer_victims(program),
            245..252 => self.bad_arguments(program),
            252..254 => self.free_all(),
            254.. => {
                // SAFETY: a live pool.
                expect(unsafe { forebay_pool_reset_peaks(self.pool) }, ForebayOk);
            }
        }
    }

    fn alloc(&mut self, program: &mut Program) {
        let (size, stream, thread) =
            (self.size(program), self.stream(program), Door::thread(program));
        let alignment = match program.byte() {
            0..200 => 1usize,
            200..245 => 1 << (program.byte() % 22),
            245..250 => 1 << (program.byte() % 31),
            _ => program.pick(&[0, 3, 1 << 31, usize::MAX]),
        };
        let aligned = alignment != 1 || program.rarely(4);
        let (pool, handle) = (self.pool, self.handle(stream));
        let valid = alignment.is_power_of_two() && alignment <= 1 << 30;
        let certain = if valid { self.certain(&[size]) } else { Some(ForebayErrorInvalidArgument) };
        let mut out = std::ptr::dangling_mut::<c_void>();
        let place = &mut out;
        let (status, message) = self.on(thread, || {
            // SAFETY: a live pool and a place for the result.
            let status = unsafe {
                match aligned {
                    true => forebay_alloc_aligned(pool, size, alignment, handle, place),
                    false => forebay_alloc(pool, size, handle, place),
                }
            };
            (status, last_error())
        });
        if self.answered(status, certain) {
            self.adopt(out as usize, size, alignment, stream);
        } else {
            assert_eq!(out, std::ptr::dangling_mut(), "the result was touched");
            assert!(!message.is_empty());
        }
    }

    /// Makes sure that a block may be freed on `stream`: work of other streams on it is
    /// waited for, or recorded.
    fn settle(&mut self, address: usize, stream: Option<usize>, record: bool) {
        let live = &self.live[&address];
        let (home, bytes) = (live.home, live.bytes);
        self.submit(home, Work::Check(bytes));
        if home == stream || home.is_none() {
            return;
        }
        if record {
            let (pool, handle) = (self.pool, self.handle(home));
            // SAFETY: a live pool.
            expect(
                unsafe { forebay_record_stream(pool, address as *mut c_void, handle) },
                ForebayOk,
            );
        } else {
            self.synchronize(home);
        }
    }

    fn free(&mut self, program: &mut Program) {
        let (stream, thread, record) =
            (self.stream(program), Door::thread(program), program.rarely(2));
        let Some(address) = self.pick_live(program) else { return };
        self.settle(address, stream, record);
        let live = self.live.remove(&address).unwrap();
        self.unoffer(address);
        let expected = if live.overrun { ForebayErrorCorruption } else { ForebayOk };
        let (pool, handle, ptr) = (self.pool, self.handle(stream), address as *mut c_void);
        // SAFETY: a live pool.
        let status = self.on(thread, || unsafe { forebay_free(pool, ptr, handle) });
        assert_eq!(status, expected);
        self.forget(live);
        Door::look_at_work();
    }

    fn unoffer(&mut self, address: usize) {
        self.victims.lock().unwrap().offered.retain(|&offered| offered != address);
    }

    fn realloc(&mut self, program: &mut Program) {
        let (size, stream, thread) =
            (self.size(program), self.stream(program), Door::thread(program));
        let address = if program.rarely(8) { None } else { self.pick_live(program) };
        if let Some(address) = address {
            // All work on it is to be done before its bytes are copied.
            let live = &self.live[&address];
            if live.overrun {
                return;
            }
            for user in [live.home].into_iter().chain(live.followers.clone().into_iter().map(Some))
            {
                self.synchronize(user);
            }
            self.unoffer(address);
        }
        let (pool, handle) = (self.pool, self.handle(stream));
        let ptr = address.unwrap_or(0) as *mut c_void;
        let mut out = std::ptr::dangling_mut::<c_void>();
        let place = &mut out;
        // SAFETY: a live pool and a place for the result.
        let status = self.on(thread, || unsafe { forebay_realloc(pool, ptr, size, handle, place) });
        let certain = match size as u64 {
            1..=SIZE_MAX => None,
            _ => Some(ForebayErrorInvalidArgument),
        };
        if !self.answered(status, certain) {
            assert_eq!(out, std::ptr::dangling_mut(), "the result was touched");
            return;
        }
        let Some(address) = address else { return self.adopt(out as usize, size, 1, stream) };
        let mut old = self.live.remove(&address).unwrap();
        let now = out as usize;
        let kept = Bytes { address: now, ..old.bytes };
        let wrong = kept.wrong(size.min(kept.size));
        assert!(wrong.is_none(), "after realloc to {size} at {now:#x}: {wrong:?}");
        if now == address {
            // In place: no block came or went, unless it is traced or counted as one of each.
            let stats = self.stats();
            let calls = stats.allocations - self.allocations;
            assert_eq!(calls, stats.frees - self.frees);
            self.allocations += calls;
            self.frees += calls;
            self.add_rows(2 * calls);
            old.bytes.size = size;
            old.home = stream;
            let below = self.live.range(..now + size).next_back();
            if let Some((&at, live)) = below {
                assert!(at + live.bytes.size <= now, "grew into {:x?}", live.bytes);
            }
            self.submit(stream, Work::Fill(old.bytes));
            self.live.insert(address, old);
        } else {
            self.forget(old);
            // Its first bytes are not zero by promise: they are the old ones.
            let policy = std::mem::replace(&mut self.policy, 0);
            let flags = std::mem::replace(&mut self.config.flags, 0);
            self.adopt(now, size, 1, stream);
            (self.policy, self.config.flags) = (policy, flags);
        }
    }

    fn batch(&mut self, program: &mut Program) {
        let (stream, thread) = (self.stream(program), Door::thread(program));
        let (pool, handle) = (self.pool, self.handle(stream));
        if program.rarely(2) {
            let sizes: Vec<usize> =
                (0..program.byte() % 40).map(|_| self.size(program) % (1 << 20) + 1).collect();
            let nothing = std::ptr::dangling_mut::<c_void>();
            let mut out = vec![nothing; sizes.len()];
            let place = &mut out;
            let certain = self.certain(&sizes);
            let status = self.on(thread, || {
                let out = place.as_mut_ptr();
                // SAFETY: a live pool, and as many results as sizes.
                unsafe { forebay_alloc_batch(pool, sizes.as_ptr(), sizes.len(), handle, out) }
            });
            let done = self.answered(status, certain);
            if done {
                for (&ptr, &size) in out.iter().zip(&sizes) {
                    self.adopt(ptr as usize, size, 1, stream);
                }
            } else {
                assert!(out.iter().all(|&ptr| ptr == nothing), "results were touched");
                // Those that came before the one that failed were given back.
                let stats = self.stats();
                let undone = stats.allocations - self.allocations;
                assert!(undone < sizes.len() as u64);
                assert_eq!(stats.frees - self.frees, undone);
                self.allocations += undone;
                self.frees += undone;
                self.add_rows(2 * undone);
            }
            return;
        }
        let mut ptrs = Vec::new();
        for _ in 0..program.byte() % 40 {
            match self.pick_live(program) {
                Some(address) if !ptrs.contains(&address) && !self.live[&address].overrun => {
                    self.settle(address, stream, false);
                    self.unoffer(address);
                    ptrs.push(address);
                }
                _ => ptrs.push(0),
            }
        }
        // A wrong one ends it there.
        let wrong = program.rarely(3).then(|| program.below(ptrs.len() + 1));
        if let Some(at) = wrong {
            ptrs.insert(at, self.pick_invalid(program));
        }
        let count = wrong.unwrap_or(ptrs.len());
        let mut freed = usize::MAX;
        let place = &mut freed;
        let status = self.on(thread, || {
            let list = ptrs.as_ptr().cast();
            // SAFETY: a live pool, a list, and a place for the number.
            unsafe { forebay_free_batch(pool, list, ptrs.len(), handle, place) }
        });
        assert_eq!(freed, count);
        for address in &ptrs[..count] {
            if let Some(live) = self.live.remove(address) {
                self.forget(live);
            }
        }
        match wrong {
            None => assert_eq!(status, ForebayOk),
            Some(_) => {
                self.invalid += 1;
                assert_eq!(status, ForebayErrorInvalidPointer);
            }
        }
    }

    /// Frees, reallocs, asks about and records what is no live block.
    fn invalid_pointer(&mut self, program: &mut Program) {
        let (stream, thread) = (self.stream(program), Door::thread(program));
        let address = self.pick_invalid(program);
        let (pool, handle, ptr) = (self.pool, self.handle(stream), address as *mut c_void);
        let (which, size) = (program.byte() % 6, 1 + program.number(2) as usize);
        let mut out = std::ptr::dangling_mut::<c_void>();
        let mut usable = 7usize;
        let (out_place, usable_place) = (&mut out, &mut usable);
        let status = self.on(thread, || {
            // SAFETY: a live pool, and places for the results.
            unsafe {
                match which {
                    0..3 => forebay_free(pool, ptr, handle),
                    3 => forebay_realloc(pool, ptr, size, handle, out_place),
                    4 => forebay_record_stream(pool, ptr, handle),
                    _ => forebay_usable_size(pool, ptr, usable_place),
                }
            }
        });
        assert_eq!(status, ForebayErrorInvalidPointer, "{address:#x} in call {which}");
        assert_eq!((out, usable), (std::ptr::dangling_mut(), 7), "a result was touched");
        self.invalid += 1;
    }

    fn ask(&mut self, program: &mut Program) {
        let live = self.pick_live(program);
        let Some(address) = live else { return };
        let size = self.live[&address].bytes.size;
        let at = address + program.number(3) as usize % size;
        let (mut block, mut bytes, mut usable) = (null_mut(), 0, 0);
        // SAFETY: a live pool, and places for the results.
        unsafe {
            expect(
                forebay_pool_owns(self.pool, at as *const c_void, &mut block, &mut bytes),
                ForebayOk,
            );
            assert_eq!(block as usize, address);
            assert!(bytes >= size);
            expect(
                forebay_usable_size(self.pool, address as *const c_void, &mut usable),
                ForebayOk,
            );
            assert!(usable >= size && usable <= bytes);
            let gone = self.freed.front().copied().unwrap_or(8);
            expect(
                forebay_pool_owns(self.pool, gone as *const c_void, &mut block, null_mut()),
                ForebayOk,
            );
        }
        let inside = self.live.range(..=self.freed.front().copied().unwrap_or(8)).next_back();
        // Between the bytes asked for and the block's end both answers are right.
        assert!(block.is_null() || inside.is_some_and(|(&at, _)| at == block as usize));
    }

    fn trim(&mut self, program: &mut Program) {
        let before = self.stats();
        if program.rarely(3) {
            let mut report = forebay_defrag_report {
                struct_size: size_of::<forebay_defrag_report>(),
                pages_moved: 0,
                bytes_gained: 0,
                system_calls: 0,
                largest_free_before: 0,
                largest_free_after: 0,
            };
            // SAFETY: a live pool and a report.
            expect(unsafe { forebay_pool_defragment(self.pool, &mut report) }, ForebayOk);
            assert!(report.largest_free_after >= report.largest_free_before);
            assert_eq!(self.stats().reserved_bytes, before.reserved_bytes);
        } else {
            let keep = if program.rarely(2) { 0 } else { program.number(4) as usize };
            let mut released = usize::MAX;
            // SAFETY: a live pool and a place for the number.
            expect(unsafe { forebay_pool_trim(self.pool, keep, &mut released) }, ForebayOk);
            let after = self.stats().reserved_bytes;
            assert_eq!(after + released as u64, before.reserved_bytes);
            assert!(after >= (keep as u64).min(before.reserved_bytes), "it kept too little");
        }
        self.look_at_all();
    }

    fn set_policy(&mut self, program: &mut Program) {
        let policy = i32::from(program.byte() % 7) - 1;
        // SAFETY: a live pool.
        let status = unsafe { forebay_pool_set_policy(self.pool, policy) };
        if (0..5).contains(&policy) {
            expect(status, ForebayOk);
            self.policy = policy;
        } else {
            expect(status, ForebayErrorInvalidArgument);
        }
    }

    fn set_limit(&mut self, program: &mut Program) {
        let limit = match program.byte() % 6 {
            0 => program.number(3),
            1 => program.pick(&[1, PAGE - 1, 1 << 60, u64::MAX]),
            2 => 0,
            _ => PAGE * (1 + program.number(1) % 40),
        };
        // SAFETY: a live pool.
        let status = unsafe { forebay_pool_set_limit(self.pool, limit) };
        let too_small = limit != 0 && (limit < PAGE || limit / PAGE * PAGE < self.requested());
        let now = self.stats().limit_bytes;
        match status {
            ForebayOk => {
                assert!(!too_small, "{limit} was accepted");
                assert!(limit == 0 || now == limit / PAGE * PAGE);
                self.limit = now;
            }
            _ => {
                expect(status, ForebayErrorInvalidArgument);
                assert_eq!(now, self.limit);
            }
        }
        self.look_at_all();
    }

    fn make_stream(&mut self, _: &mut Program) {
        if self.streams.len() >= 3 {
            return;
        }
        let mut handle = null_mut();
        // SAFETY: a place for the result.
        expect(unsafe { forebay_stream_create(&mut handle) }, ForebayOk);
        assert!(!handle.is_null() && !self.destroyed.contains(&handle));
        self.streams.push(StreamModel { handle, gate: None });
    }

    /// Everything that is queued on a stream from now on waits.
    fn close_gate(&mut self, program: &mut Program) {
        let Some(number) = self.stream(program) else { return };
        self.synchronize(Some(number));
        let gate = Arc::new(Gate { open: Mutex::new(false), opened: Condvar::new() });
        self.submit(Some(number), Work::Wait(Arc::clone(&gate)));
        self.streams[number].gate = Some(gate);
    }

    fn end_stream(&mut self, program: &mut Program) {
        let Some(number) = self.stream(program) else { return };
        let handle = self.streams[number].handle;
        if program.rarely(2) {
            // Without opening its gate: what is queued is done first all the same.
            expect(forebay_stream_destroy(handle), ForebayOk);
            Door::look_at_work();
        } else {
            self.synchronize_all();
            expect(forebay_stream_destroy(handle), ForebayOk);
        }
        self.streams.swap_remove(number);
        self.destroyed.push(handle);
        let (last, gone) = (self.streams.len(), number);
        for live in self.live.values_mut() {
            live.home = match live.home {
                Some(home) if home == gone => None,
                Some(home) if home == last => Some(gone),
                home => home,
            };
            live.followers.retain(|&follower| follower != gone);
            for follower in &mut live.followers {
                if *follower == last {
                    *follower = gone;
                }
            }
        }
        expect(forebay_stream_destroy(handle), ForebayErrorInvalidArgument);
        expect(forebay_stream_synchronize(handle), ForebayErrorInvalidArgument);
    }

    /// Work on another stream reads a block, behind the work of its own stream.
    fn use_elsewhere(&mut self, program: &mut Program) {
        let (Some(address), Some(number)) = (self.pick_live(program), self.stream(program)) else {
            return;
        };
        let thread = Door::thread(program);
        let (home, bytes) = (self.live[&address].home, self.live[&address].bytes);
        let (pool, handle) = (self.pool, self.streams[number].handle);
        let mut fence = forebay_fence::default();
        // SAFETY: a live pool and a place for the fence.
        unsafe {
            expect(forebay_stream_record(self.handle(home), &mut fence), ForebayOk);
            expect(forebay_stream_wait(handle, fence), ForebayOk);
            self.submit(Some(number), Work::Check(bytes));
            let ptr = address as *mut c_void;
            let status = self.on(thread, || forebay_record_stream(pool, ptr, handle));
            assert_eq!(status, ForebayOk);
        }
        if home != Some(number) {
            self.live.get_mut(&address).unwrap().followers.push(number);
        }
    }

    fn json(&mut self, program: &mut Program) {
        let mut length = 0;
        // SAFETY: a live pool; no buffer and its capacity of 0.
        expect(
            unsafe { forebay_pool_stats_json(self.pool, null_mut(), 0, &mut length) },
            ForebayOk,
        );
        let capacity = (length + 2).saturating_sub(program.byte() as usize % 8);
        let mut buffer = vec![0x7Fu8; length + 64];
        let mut again = 0;
        // SAFETY: as above, with a buffer of at least `capacity`.
        let status = unsafe {
            forebay_pool_stats_json(
                self.pool,
                buffer.as_mut_ptr().cast::<c_char>(),
                capacity,
                &mut again,
            )
        };
        let written = if again < capacity { again + 1 } else { 0 };
        assert!(buffer[written..].iter().all(|&byte| byte == 0x7F), "written past the end");
        if again < capacity {
            expect(status, ForebayOk);
            let text = std::str::from_utf8(&buffer[..again]).expect("JSON is UTF-8");
            assert!(text.starts_with('{') && text.ends_with('}') && buffer[again] == 0);
            let depth = text.bytes().fold(0, |depth, byte| match byte {
                b'{' | b'[' => depth + 1,
                b'}' | b']' => depth - 1,
                _ => depth,
            });
            assert_eq!(depth, 0, "{text}");
        } else {
            expect(status, ForebayErrorInvalidArgument);
        }
    }

    fn start_trace(&mut self, program: &mut Program) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % 1024;
        let end = if program.rarely(2) { "csv" } else { "csv.gz" };
        let name = format!("forebay-door-{}-{number}.{end}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let path = CString::new(path.into_os_string().into_encoded_bytes()).unwrap();
        match &self.trace {
            None => {
                // SAFETY: a live pool and a path.
                expect(unsafe { forebay_trace_start(self.pool, path.as_ptr()) }, ForebayOk);
                self.trace = Some((path, 0));
            }
            Some((path, _)) => {
                // SAFETY: as above. The file that is being written stays as it is.
                expect(
                    unsafe { forebay_trace_start(self.pool, path.as_ptr()) },
                    ForebayErrorInvalidState,
                );
            }
        }
    }

    fn stop_trace(&mut self) {
        // SAFETY: a live pool.
        let status = unsafe { forebay_trace_stop(self.pool) };
        let Some((path, rows)) = self.trace.take() else {
            return expect(status, ForebayErrorInvalidState);
        };
        expect(status, ForebayOk);
        Door::count_rows(path, rows);
    }

    fn count_rows(path: CString, rows: u64) {
        let path = std::path::PathBuf::from(path.into_string().unwrap());
        let trace = forebay::trace::Trace::load(&path);
        let _ = std::fs::remove_file(&path);
        let trace = trace.unwrap_or_else(|_| panic!("{}", last_error()));
        assert_eq!(trace.events.len() as u64, rows, "rows of the trace");
    }

    /// Writes behind a block, where guard bytes are.
    fn overrun(&mut self, program: &mut Program) {
        if !self.has_flag(FOREBAY_POOL_GUARD_BYTES) {
            return;
        }
        let Some(address) = self.pick_live(program) else { return };
        let home = self.live[&address].home;
        self.synchronize(home);
        self.unoffer(address);
        let size = self.live[&address].bytes.size;
        // SAFETY: guard bytes, of which there are 16.
        unsafe { ((address + size) as *mut u8).add(program.byte() as usize % 16).write(0) };
        self.live.get_mut(&address).unwrap().overrun = true;
        self.check();
    }

    /// Lets the out-of-memory callback free some blocks, or takes it away.
    fn offer_victims(&mut self, program: &mut Program) {
        let user = (&raw const *self.victims).cast_mut().cast();
        let callback: forebay_oom_fn = if program.rarely(4) { None } else { Some(free_a_victim) };
        // SAFETY: `victims` lives as long as the pool.
        expect(unsafe { forebay_pool_set_oom_callback(self.pool, callback, user) }, ForebayOk);
        self.victims.lock().unwrap().offered.clear();
        if callback.is_none() {
            return;
        }
        for _ in 0..program.byte() % 4 {
            let Some(address) = self.pick_live(program) else { return };
            let live = &self.live[&address];
            let offered = &mut self.victims.lock().unwrap().offered;
            // Their owner, the program, is done with them.
            if live.home.is_none() && !live.overrun && !offered.contains(&address) {
                offered.push(address);
            }
        }
    }

    fn bad_arguments(&mut self, program: &mut Program) {
        let pool = self.pool;
        let mut out = std::ptr::dangling_mut::<c_void>();
        let bogus = program.pick(&[1usize, 15, 1 << 60, usize::MAX]) as forebay_stream;
        // SAFETY: NULLs and numbers that are no streams are errors, by contract.
        let status = unsafe {
            match program.byte() % 14 {
                0 => forebay_alloc(null_mut(), 16, null_mut(), &mut out),
                1 => forebay_alloc(pool, 16, null_mut(), null_mut()),
                2 => forebay_alloc(pool, 16, bogus, &mut out),
                3 => forebay_free(null_mut(), out, null_mut()),
                4 => match self.pick_live(program) {
                    Some(address) => forebay_free(pool, address as *mut c_void, bogus),
                    None => return,
                },
                5 => forebay_realloc(pool, null_mut(), 16, bogus, &mut out),
                6 => forebay_alloc_batch(pool, std::ptr::null(), 3, null_mut(), &mut out),
                7 => forebay_free_batch(pool, std::ptr::null(), 3, null_mut(), null_mut()),
                8 => forebay_pool_stats(pool, null_mut()),
                9 => {
                    let mut stats = std::mem::zeroed::<forebay_pool_statistics>();
                    forebay_pool_stats(pool, &mut stats)
                }
                10 => forebay_stream_synchronize(bogus),
                11 => forebay_stream_submit(null_mut(), None, null_mut()),
                12 => forebay_trace_start(pool, std::ptr::null()),
                _ => forebay_pool_stats_json(pool, null_mut(), 9, null_mut()),
            }
        };
        expect(status, ForebayErrorInvalidArgument);
        assert_eq!(out, std::ptr::dangling_mut(), "the result was touched");
        // SAFETY: NULL is nothing to free.
        expect(unsafe { forebay_free(pool, null_mut(), null_mut()) }, ForebayOk);
    }

    /// Frees everything, after which the whole limit is there to be had.
    fn free_all(&mut self) {
        for address in self.live.keys().copied().collect::<Vec<_>>() {
            let home = self.live[&address].home;
            self.settle(address, home, false);
            let live = self.live.remove(&address).unwrap();
            self.unoffer(address);
            let (ptr, handle) = (address as *mut c_void, self.handle(home));
            // SAFETY: a live pool.
            let status = unsafe { forebay_free(self.pool, ptr, handle) };
            assert_eq!(status, if live.overrun { ForebayErrorCorruption } else { ForebayOk });
            self.forget(live);
        }
        self.synchronize_all();
        let guard = if self.has_flag(FOREBAY_POOL_GUARD_BYTES) { PAGE } else { 0 };
        let block_size = self.config.block_size.max(1);
        let size = (self.limit - guard) / block_size * block_size;
        if size == 0 || size > 1 << 28 {
            return;
        }
        let mut out = null_mut();
        // SAFETY: a live pool and a place for the result.
        let status = unsafe { forebay_alloc(self.pool, size as usize, null_mut(), &mut out) };
        assert_eq!(status, ForebayOk, "the empty pool has no {size} bytes: {}", last_error());
        self.adopt(out as usize, size as usize, 1, None);
    }

    fn stats(&self) -> forebay_pool_statistics {
        // SAFETY: all zeros are a value of it.
        let mut stats = unsafe { std::mem::zeroed::<forebay_pool_statistics>() };
        stats.struct_size = size_of::<forebay_pool_statistics>();
        // SAFETY: a live pool and a struct with its size.
        expect(unsafe { forebay_pool_stats(self.pool, &mut stats) }, ForebayOk);
        stats
    }

    /// Looks at the bytes of every block that no stream is using.
    fn look_at_all(&self) {
        for live in self.live.values().filter(|live| live.home.is_none()) {
            let wrong = live.bytes.wrong(live.bytes.size);
            assert!(wrong.is_none(), "{wrong:?}");
        }
    }

    fn check(&mut self) {
        Door::look_at_work();
        self.look_at_all();
        let overrun = self.live.values().any(|live| live.overrun);
        // SAFETY: a live pool.
        let status = unsafe { forebay_pool_check(self.pool) };
        expect(status, if overrun { ForebayErrorCorruption } else { ForebayOk });
        let stats = self.stats();
        assert_eq!(stats.live_blocks, self.live.len() as u64);
        assert_eq!(stats.requested_bytes, self.requested());
        assert_eq!(stats.allocations, self.allocations);
        assert_eq!(stats.frees, self.frees);
        assert_eq!(stats.invalid_frees, self.invalid);
        assert_eq!(stats.limit_bytes, self.limit);
        assert!(stats.allocated_bytes >= stats.requested_bytes);
        assert!(stats.reserved_bytes >= stats.allocated_bytes);
        assert!(stats.reserved_bytes <= stats.limit_bytes, "{stats:?}");
        assert!(stats.requested_peak >= stats.requested_bytes);
        assert!(stats.reserved_peak >= stats.reserved_bytes);
    }

    fn close(mut self, wishes: u8) {
        if wishes & 1 == 0 {
            self.free_all();
        }
        self.synchronize_all();
        self.check();
        let trace = self.trace.take();
        let expected = if self.live.is_empty() { ForebayOk } else { ForebayErrorInvalidState };
        // SAFETY: a live pool, then the handle of a destroyed one, which stays a handle.
        unsafe {
            expect(forebay_pool_destroy(self.pool), expected);
            expect(forebay_pool_destroy(self.pool), ForebayErrorInvalidArgument);
            let mut out = null_mut();
            let gone = ForebayErrorInvalidArgument;
            expect(forebay_alloc(self.pool, 16, null_mut(), &mut out), gone);
            expect(forebay_free(self.pool, out.wrapping_add(16), null_mut()), gone);
            expect(forebay_pool_check(self.pool), gone);
            expect(forebay_pool_destroy(null_mut()), ForebayOk);
            expect(forebay_free(self.other.0, self.other.1, null_mut()), ForebayOk);
            expect(forebay_pool_destroy(self.other.0), ForebayOk);
        }
        if let Some((path, rows)) = trace {
            Door::count_rows(path, rows);
        }
        for stream in &self.streams {
            expect(forebay_stream_destroy(stream.handle), ForebayOk);
        }
    }
}
