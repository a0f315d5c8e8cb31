//! Arbitrary bytes as a program that uses the C functions, and a model beside it that knows
//! what each call has to answer.
//!
//! Where the contract is certain, the model is: which blocks are live, that they do not
//! overlap, that their bytes survive what queued work may still do, which status a wrong
//! argument gets, what the counters say. Where it is not (does this allocation still fit?),
//! both answers are taken and the model follows.
//!
//! `program.rs` decodes, `steps.rs` makes the calls, `work.rs` is what streams run. The fuzz target
//! and `tests/c_door.rs` share this folder. Its unsafe blocks call the C functions as their
//! contract has it, or on purpose not quite: with arguments that it promises to refuse.

mod program;
mod steps;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};

use forebay::capi::block::*;
use forebay::capi::lifetime::*;
use forebay::capi::plan::*;
use forebay::capi::planned::*;
use forebay::capi::pool::*;
use forebay::capi::stats::*;
use forebay::capi::status::*;
use forebay::capi::stream::*;
use forebay::capi::trace::*;
use forebay_status::*;
use program::Program;
use work::{Bytes, Gate, WRONG, Work, run_work};

const PAGE: u64 = 2 << 20;
const SIZE_MAX: u64 = 1 << 46;
/// The invariants of the pool are scanned after every so many steps.
const CHECK_EVERY: usize = 16;

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
    /// Whether a plan is applied.
    planned: bool,
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
            planned: false,
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
        if std::mem::take(&mut self.planned) {
            // SAFETY: a live pool, of whose plan no block is given out.
            expect(unsafe { forebay_pool_remove_plan(self.pool) }, ForebayOk);
        }
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
