//! A device that fails: whichever call it is, the pool says so and nothing is lost. And one
//! that looks whether the pool holds a lock while it waits for the device, or has little left.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod rig;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, Weak};
use std::time::Duration;

use forebay::device::{Device, GiveBack, Host, HostOptions};
use forebay::error::{Error, Kind, Result};
use forebay::order::{HostOrder, Stream};
use forebay::pool::{Config, Policy, Pool};
use rig::{KIB, MIB, PAGE, within};

type Hook = Box<dyn Fn(&'static str) + Send + Sync>;

/// What a test and its device share.
#[derive(Default)]
struct Control {
    /// Calls that can fail, so far.
    calls: AtomicU64,
    /// The number of the first call that fails; none: `u64::MAX`.
    first: AtomicU64,
    /// Whether all calls from then on fail, or only that one.
    lasting: AtomicBool,
    /// Names of the calls that failed.
    failed: Mutex<Vec<&'static str>>,
    /// Every call, of whatever kind.
    all: AtomicU64,
    hook: Mutex<Option<Arc<Hook>>>,
    /// Whether it says that it has little left.
    short: AtomicBool,
}

impl Control {
    fn new(first: u64, lasting: bool) -> Arc<Control> {
        let control = Control::default();
        control.first.store(first, Ordering::SeqCst);
        control.lasting.store(lasting, Ordering::SeqCst);
        Arc::new(control)
    }

    fn has_failed(&self) -> bool {
        !self.failed.lock().unwrap().is_empty()
    }

    fn recover(&self) {
        self.first.store(u64::MAX, Ordering::SeqCst);
    }
}

/// System memory with a will of its own.
struct Faulty {
    host: Host,
    control: Arc<Control>,
}

impl Faulty {
    fn call(&self, name: &'static str) -> Result<()> {
        self.control.all.fetch_add(1, Ordering::SeqCst);
        let hook = self.control.hook.lock().unwrap().clone();
        if let Some(hook) = hook {
            hook(name);
        }
        let number = self.control.calls.fetch_add(1, Ordering::SeqCst);
        let first = self.control.first.load(Ordering::SeqCst);
        if number == first || number > first && self.control.lasting.load(Ordering::SeqCst) {
            self.control.failed.lock().unwrap().push(name);
            return Err(Error::new(Kind::OutOfMemory, format_args!("{name} fails in this test")));
        }
        Ok(())
    }
}

impl Device for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn memory_bytes(&self) -> u64 {
        64 << 20
    }

    fn is_short(&self) -> bool {
        self.control.short.load(Ordering::SeqCst)
    }

    fn reserve(&self, wanted: u64, least: u64) -> Result<(usize, u64)> {
        self.call("reserve")?;
        self.host.reserve(wanted, least)
    }

    fn release(&self, address: usize, bytes: u64) {
        self.host.release(address, bytes);
    }

    fn commit(&self, address: usize, bytes: u64) -> Result<()> {
        self.call("commit")?;
        self.host.commit(address, bytes)
    }

    fn decommit(&self, address: usize, bytes: u64, _: GiveBack) -> Result<()> {
        self.call("decommit")?;
        // At once, whatever was asked for: a byte that is used after it is gone shows.
        self.host.decommit(address, bytes, GiveBack::Now)
    }

    fn move_pages(&self, from: usize, to: usize, bytes: u64) -> Result<()> {
        self.call("move_pages")?;
        self.host.move_pages(from, to, bytes)
    }

    fn populate(&self, address: usize, bytes: u64) -> Result<()> {
        self.call("populate")?;
        self.host.populate(address, bytes)
    }

    fn advise_huge(&self, address: usize, bytes: u64, huge: bool) {
        self.control.all.fetch_add(1, Ordering::SeqCst);
        self.host.advise_huge(address, bytes, huge);
    }

    unsafe fn fill(&self, address: usize, bytes: usize, value: u8, stream: u64) -> Result<()> {
        self.control.all.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { self.host.fill(address, bytes, value, stream) }
    }

    unsafe fn copy(&self, from: usize, to: usize, bytes: usize, stream: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.host.copy(from, to, bytes, stream) }
    }

    unsafe fn find_other(
        &self,
        address: usize,
        bytes: usize,
        value: u8,
        stream: u64,
    ) -> Result<Option<usize>> {
        // SAFETY: the caller's promise.
        unsafe { self.host.find_other(address, bytes, value, stream) }
    }

    fn calls(&self) -> u64 {
        self.host.calls()
    }
}

fn create(config: &Config, control: &Arc<Control>) -> Result<Arc<Pool>> {
    let host = Host::new(HostOptions::default());
    let device = Faulty { host, control: Arc::clone(control) };
    Pool::create(config, Box::new(device), Box::new(HostOrder))
}

/// A pool in a test, and the blocks that have to be live in it.
struct Run {
    pool: Arc<Pool>,
    live: Vec<(usize, usize, u64)>,
    stamps: u64,
}

impl Run {
    fn check(&self) {
        self.pool.check().unwrap();
        for &(address, size, stamp) in &self.live {
            rig::read(address, size, stamp).unwrap();
        }
        let stats = self.pool.stats();
        let requested: usize = self.live.iter().map(|&(_, size, _)| size).sum();
        assert_eq!(
            (stats.live_blocks, stats.requested[0]),
            (self.live.len() as u64, requested as u64)
        );
        assert!(stats.reserved[0] <= stats.limit);
    }

    fn enter(&mut self, address: usize, size: usize) {
        self.stamps += 1;
        rig::write(address, size, self.stamps);
        self.live.push((address, size, self.stamps));
    }

    fn alloc(&mut self, size: usize, stream: Stream) {
        match self.pool.alloc(size, stream) {
            Ok(address) => self.enter(address, size),
            Err(error) => assert_eq!(error.kind(), Kind::OutOfMemory, "{error}"),
        }
        self.check();
    }

    /// Frees every block that is number `keep` of each `of`, from the last.
    fn free_some(&mut self, of: usize, stream: Stream) {
        for at in (0..self.live.len()).rev().filter(|at| at % of == 0) {
            let (address, size, stamp) = self.live.remove(at);
            rig::read(address, size, stamp).unwrap();
            // A free does not fail for what the device does.
            self.pool.free(address, stream).unwrap();
        }
        self.check();
    }

    /// A script in which a pool calls its device in every way it knows.
    fn script(&mut self) {
        let stream = rig::TestStream::new();
        for size in [100, 5000, 40 * KIB, 300 * KIB, MIB, 5 * MIB] {
            self.alloc(size, Stream::DEFAULT);
            self.alloc(size, stream.handle());
        }
        for _ in 0..8 {
            self.alloc(3 * MIB / 2, Stream::DEFAULT);
        }
        self.free_some(2, Stream::DEFAULT);
        // Wider than any gap: pages move.
        self.alloc(9 * MIB, Stream::DEFAULT);
        self.free_some(3, stream.handle());
        stream.synchronize();
        if let Err(error) = self.pool.defragment() {
            assert_eq!(error.kind(), Kind::OutOfMemory, "{error}");
        }
        self.check();
        self.alloc(11 * MIB, stream.handle());
        if let Some(at) = (0..self.live.len()).find(|&at| self.live[at].1 == 300 * KIB) {
            let (address, size, stamp) = self.live[at];
            match self.pool.realloc(address, 4 * MIB, Stream::DEFAULT) {
                Ok(fresh) => {
                    self.live.remove(at);
                    rig::read(fresh, size, stamp).unwrap();
                    self.enter(fresh, 4 * MIB);
                }
                Err(error) => assert_eq!(error.kind(), Kind::OutOfMemory, "{error}"),
            }
            self.check();
        }
        let sizes = [700, 2 * MIB, 900 * KIB];
        match self.pool.alloc_batch(&sizes, Stream::DEFAULT) {
            Ok(addresses) => {
                addresses.into_iter().zip(sizes).for_each(|(at, size)| self.enter(at, size));
            }
            Err(error) => assert_eq!(error.kind(), Kind::OutOfMemory, "{error}"),
        }
        self.check();
        self.free_some(2, Stream::DEFAULT);
        let before = self.pool.stats().reserved[0];
        let released = self.pool.trim(12 << 20).unwrap();
        assert_eq!(before - self.pool.stats().reserved[0], released);
        self.check();
        self.pool.set_policy(Policy::Conservative).unwrap();
        self.check();
        self.free_some(3, Stream::DEFAULT);
        let limit = self.pool.stats().reserved[0];
        if let Err(error) = self.pool.set_limit(limit.max(PAGE)) {
            assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        }
        self.check();
        self.alloc(7 * MIB, Stream::DEFAULT);
        self.pool.set_policy(Policy::QualityFirst).unwrap();
        self.alloc(2 * MIB, Stream::DEFAULT);
        self.free_some(1, Stream::DEFAULT);
    }
}

/// Runs the script with the device failing from call `first`; returns which calls failed.
fn run(first: u64, lasting: bool) -> Vec<&'static str> {
    let control = Control::new(first, lasting);
    let config = Config {
        max_bytes: 32 << 20,
        initial_bytes: 4 << 20,
        policy: Policy::LatencyFirst,
        ..Config::default()
    };
    let pool = match create(&config, &control) {
        Ok(pool) => pool,
        Err(error) => {
            assert!(control.has_failed(), "{error}");
            assert_eq!(error.kind(), Kind::OutOfMemory, "{error}");
            return std::mem::take(&mut *control.failed.lock().unwrap());
        }
    };
    let mut run = Run { pool, live: Vec::new(), stamps: 0 };
    run.script();
    assert!(run.live.is_empty());
    // The device is well again: nothing was lost.
    control.recover();
    run.pool.set_limit(32 << 20).unwrap();
    let whole = run.pool.alloc(30 * MIB, Stream::DEFAULT).unwrap();
    rig::write(whole, 30 * MIB, 5);
    run.pool.free(whole, Stream::DEFAULT).unwrap();
    run.pool.trim(0).unwrap();
    assert_eq!(run.pool.stats().reserved[0], 0);
    run.pool.check().unwrap();
    run.pool.close().unwrap();
    std::mem::take(&mut *control.failed.lock().unwrap())
}

#[test]
fn each_call_of_the_device_may_fail() {
    for lasting in [false, true] {
        let mut kinds = BTreeSet::new();
        let mut first = 0;
        loop {
            let failed = run(first, lasting);
            kinds.extend(failed.iter().copied());
            if failed.is_empty() {
                break;
            }
            first += 1;
        }
        assert!(first > 15, "the script makes {first} calls only");
        let all = ["commit", "decommit", "move_pages", "populate", "reserve"];
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), all);
    }
}

/// A block that grows by moving its pages, and has idle pages moved to it besides, in a pool
/// that could not hold it twice.
#[test]
fn a_block_that_cannot_be_moved_stays_as_it_was() {
    let mut kinds = BTreeSet::new();
    for lasting in [false, true] {
        for number in 0.. {
            let control = Control::new(u64::MAX, false);
            let config = Config { max_bytes: 40 << 20, ..Config::default() };
            let pool = create(&config, &control).unwrap();
            let mut run = Run { pool, live: Vec::new(), stamps: 0 };
            for size in [40 * KIB, 20 * MIB, MIB, 9 * MIB, 3 * MIB] {
                run.alloc(size, Stream::DEFAULT);
            }
            let (idle, _, _) = run.live.remove(3);
            run.pool.free(idle, Stream::DEFAULT).unwrap();
            run.check();
            control.calls.store(0, Ordering::SeqCst);
            control.lasting.store(lasting, Ordering::SeqCst);
            control.first.store(number, Ordering::SeqCst);
            let (address, size, stamp) = run.live[1];
            let result = run.pool.realloc(address, 30 * MIB, Stream::DEFAULT);
            control.recover();
            let failed = std::mem::take(&mut *control.failed.lock().unwrap());
            kinds.extend(failed.iter().copied());
            match result {
                Ok(fresh) => {
                    assert_ne!(fresh, address);
                    assert!(failed.is_empty() || !lasting);
                    run.live.remove(1);
                    rig::read(fresh, size, stamp).unwrap();
                    run.enter(fresh, 30 * MIB);
                }
                Err(error) => {
                    assert!(!failed.is_empty(), "{error}");
                    assert_eq!(error.kind(), Kind::OutOfMemory, "{error}");
                }
            }
            run.check();
            run.free_some(1, Stream::DEFAULT);
            run.pool.trim(0).unwrap();
            assert_eq!(run.pool.stats().reserved[0], 0);
            run.check();
            if failed.is_empty() {
                assert!(number >= 3, "{number} calls only");
                break;
            }
        }
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["commit", "decommit", "move_pages"]);
}

#[test]
fn a_hit_calls_nothing() {
    let control = Control::new(u64::MAX, false);
    let config = Config { max_bytes: 1 << 30, ..Config::default() };
    let pool = create(&config, &control).unwrap();
    let stream = rig::TestStream::new();
    for stream in [Stream::DEFAULT, stream.handle()] {
        for size in [16, 1000, 32 * KIB, 100 * KIB, MIB, 2 * MIB, 20 * MIB] {
            let round = || pool.free(pool.alloc(size, stream).unwrap(), stream).unwrap();
            round();
            let (calls, before) = (control.all.load(Ordering::SeqCst), pool.stats());
            for _ in 0..1000 {
                round();
            }
            assert_eq!(control.all.load(Ordering::SeqCst), calls, "{size} bytes on {stream:?}");
            let after = pool.stats();
            assert_eq!(after.system_calls, before.system_calls, "{size} bytes on {stream:?}");
            assert_eq!(after.front_misses, before.front_misses, "{size} bytes on {stream:?}");
            assert_eq!(after.hits, before.hits + 1000);
        }
    }
}

#[test]
fn a_device_with_little_left_gets_back_what_lies_idle() {
    for (policy, gives) in [
        (Policy::Balanced, true),
        (Policy::QualityFirst, true),
        (Policy::AggressiveReuse, false),
        (Policy::LatencyFirst, false),
    ] {
        let control = Control::new(u64::MAX, false);
        let pool = create(&Config { policy, ..Config::default() }, &control).unwrap();
        let kept = pool.alloc(4 * MIB, Stream::DEFAULT).unwrap();
        let idle = pool.alloc(20 * MIB, Stream::DEFAULT).unwrap();
        pool.free(idle, Stream::DEFAULT).unwrap();
        let before = pool.stats().reserved[0];
        let now = std::time::Instant::now();
        pool.tick(now);
        assert_eq!(pool.stats().reserved[0], before, "{policy:?}: there is no need");
        control.short.store(true, Ordering::SeqCst);
        assert!(!pool.tick(now), "{policy:?}: nothing is left to come back for");
        let after = pool.stats().reserved[0];
        assert_eq!(after <= before - 20 * PAGE / 2, gives, "{policy:?}: {before} to {after}");
        assert!(after >= 4 * MIB as u64);
        pool.check().unwrap();
        pool.free(kept, Stream::DEFAULT).unwrap();
    }
}

/// A device that has little left gets what caches hold, a quarter at a time.
#[test]
fn caches_give_up_bit_by_bit_when_the_device_is_short() {
    let control = Control::new(u64::MAX, false);
    let config = Config { max_bytes: 64 << 20, ..Config::default() };
    let pool = create(&config, &control).unwrap();
    let config = forebay::cache::Config { max_bytes: 32 << 20, ..Default::default() };
    let cache = forebay::cache::Cache::over(std::slice::from_ref(&pool), &config).unwrap();
    for number in 0..16u64 {
        let block = pool.alloc(2 * MIB, Stream::DEFAULT).unwrap();
        cache.put(&number.to_le_bytes(), block, Stream::DEFAULT).unwrap();
    }
    let now = std::time::Instant::now();
    assert!(pool.tick(now), "the cache may be asked later");
    assert_eq!(cache.stats().entries, 16);
    control.short.store(true, Ordering::SeqCst);
    let mut rounds = 0;
    while cache.stats().entries > 0 {
        let before = cache.stats().entries;
        assert!(pool.tick(now));
        let after = cache.stats().entries;
        // The library's own thread may have come by as well.
        let quarter = before.div_ceil(4);
        assert!(after <= before - quarter && (rounds > 0 || after >= before / 2), "{after}");
        // Which is still at it, perhaps.
        let goal = after * PAGE;
        while pool.stats().reserved[0] > goal {
            std::thread::yield_now();
        }
        rounds += 1;
    }
    assert!(rounds > 2);
    forebay::cache::Cache::destroy(cache).unwrap();
    assert!(!pool.tick(now), "there is nobody to ask");
}

#[test]
fn a_trim_ends_when_nothing_is_on_its_way_back() {
    let control = Control::new(u64::MAX, false);
    let config = Config { max_bytes: 32 << 20, ..Config::default() };
    let pool = create(&config, &control).unwrap();
    let block = pool.alloc(4 * MIB, Stream::DEFAULT).unwrap();
    pool.free(block, Stream::DEFAULT).unwrap();
    // One thread is in the device's call; the pages are not idle any more, and not gone.
    let gate = Arc::new(Barrier::new(2));
    let (at_gate, calls) = (Arc::clone(&gate), AtomicU64::new(0));
    let hook: Hook = Box::new(move |name| {
        if name == "decommit" && calls.fetch_add(1, Ordering::SeqCst) == 0 {
            at_gate.wait();
            at_gate.wait();
        }
    });
    *control.hook.lock().unwrap() = Some(Arc::new(hook));
    let of_first = Arc::clone(&pool);
    let first = std::thread::spawn(move || of_first.trim(0).unwrap());
    gate.wait();
    let of_second = Arc::clone(&pool);
    let second = std::thread::spawn(move || {
        let released = of_second.trim(0).unwrap();
        (released, of_second.stats().reserved[0])
    });
    // One that asks for no more than that is not kept waiting.
    assert_eq!(pool.trim(4 * MIB as u64).unwrap(), 0);
    std::thread::sleep(Duration::from_millis(20));
    assert!(!second.is_finished());
    gate.wait();
    assert_eq!(first.join().unwrap(), 4 * MIB as u64);
    assert_eq!(within(60, "the second trim", || second.join().unwrap()), (0, 0));
}

#[test]
fn no_lock_is_held_while_the_device_is_called() {
    within(120, "the script with a device that asks the pool", || {
        let control = Control::new(u64::MAX, false);
        let config = Config { max_bytes: 32 << 20, ..Config::default() };
        let pool = create(&config, &control).unwrap();
        let asked = Arc::new(Mutex::new(BTreeSet::new()));
        let (weak, names) = (Arc::downgrade(&pool), Arc::clone(&asked));
        let hook: Hook = Box::new(move |name| ask(&weak, name, &names));
        *control.hook.lock().unwrap() = Some(Arc::new(hook));
        let mut run = Run { pool, live: Vec::new(), stamps: 0 };
        run.script();
        run.pool.trim(0).unwrap();
        *control.hook.lock().unwrap() = None;
        let asked = asked.lock().unwrap();
        assert_eq!(asked.iter().copied().collect::<Vec<_>>(), ["commit", "decommit", "move_pages"]);
    });
}

/// From another thread, as the locks of the caller's own could be taken again unseen: the
/// pool answers, checks every front cache, gives blocks and takes them.
fn ask(pool: &Weak<Pool>, name: &'static str, names: &Mutex<BTreeSet<&'static str>>) {
    let Some(pool) = pool.upgrade() else { return };
    names.lock().unwrap().insert(name);
    within(60, name, move || {
        assert!(pool.stats().limit > 0);
        assert!(pool.stats_json().starts_with('{'));
        pool.check().unwrap();
        assert!(pool.usable_size(1).is_err());
    });
}
