//! A cache without memory for its bookkeeping: every allocation of a call is made to fail in
//! turn. Out of memory is a result then; nothing is lost by it, and what is there stays in order.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use forebay::cache::{Cache, Config, Kind, Memory, Read};
use forebay::error::{Kind as ErrorKind, Result};
use forebay::order::{Fence, Stream};
use forebay::pool::{BlockExtent, Holder};

const BLOCKS: usize = 8192;
const FIRST: usize = 1 << 20;
const SIZE: usize = 512;
const DEFAULT: Stream = Stream::DEFAULT;

thread_local! {
    /// Allocations of this thread until one fails; from then on all do. None while none is to.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    /// How many failed.
    static FAILED: Cell<u64> = const { Cell::new(0) };
    /// Bytes that this thread allocated, less those that it gave back.
    static HELD: Cell<i64> = const { Cell::new(0) };
}

fn note(bytes: i64) {
    let _ = HELD.try_with(|held| held.set(held.get() + bytes));
}

struct Failing;

fn may_have_it() -> bool {
    let allowed = LEFT.try_with(|left| match left.get() {
        None => true,
        Some(0) => {
            FAILED.set(FAILED.get() + 1);
            false
        }
        Some(more) => {
            left.set(Some(more - 1));
            true
        }
    });
    allowed.unwrap_or(true)
}

// SAFETY: the system's allocator, or NULL, which says that there is no memory.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !may_have_it() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            note(layout.size() as i64);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
        note(-(layout.size() as i64));
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !may_have_it() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        let block = unsafe { System.realloc(block, layout, size) };
        if !block.is_null() {
            note(size as i64 - layout.size() as i64);
        }
        block
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Runs `body` with memory for so many allocations. What it returns, and whether one failed.
fn with_memory_for<T>(allocations: u64, body: impl FnOnce() -> T) -> (T, bool) {
    FAILED.set(0);
    LEFT.set(Some(allocations));
    let result = body();
    LEFT.set(None);
    (result, FAILED.get() > 0)
}

/// Blocks without bytes, that need no memory to be taken and given back.
struct Blocks {
    live: Vec<AtomicBool>,
    count: AtomicU64,
    /// Where a free one is looked for next.
    next: AtomicUsize,
}

impl Blocks {
    fn alloc(&self) -> usize {
        let free = |live: &AtomicBool| !live.swap(true, Ordering::Relaxed);
        let from = self.next.load(Ordering::Relaxed);
        let places = (from..self.live.len()).chain(0..from);
        let block = places.into_iter().find(|&at| free(&self.live[at])).unwrap();
        self.next.store((block + 1) % self.live.len(), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        FIRST + block * SIZE
    }

    fn release(&self, address: usize) {
        let block = (address - FIRST) / SIZE;
        assert!(self.live[block].swap(false, Ordering::Relaxed), "block {block} is freed twice");
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    fn live(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Memory for Blocks {
    fn id(&self) -> u64 {
        1
    }

    fn enter(&self, _: Weak<dyn Holder>) {}

    fn addresses(&self) -> (usize, u64) {
        (FIRST, (self.live.len() * SIZE) as u64)
    }

    fn is_immediate(&self, _: Stream) -> bool {
        true
    }

    fn extent(&self, _: usize) -> Result<BlockExtent> {
        Ok(BlockExtent { requested: SIZE as u64, allocated: SIZE as u64 })
    }

    fn mark(&self, stream: Stream) -> Result<(Fence, u64)> {
        Ok((Fence { stream, sequence: 1 }, 1))
    }

    fn has_passed(&self, _: Fence) -> bool {
        true
    }

    fn wait_on(&self, _: Stream, _: &[Fence]) -> Result<()> {
        Ok(())
    }

    fn follow(&self, _: usize, _: &[Fence]) -> Result<()> {
        Ok(())
    }

    fn free(&self, address: usize, _: (Stream, u64), _: &[Fence]) -> Result<()> {
        self.release(address);
        Ok(())
    }
}

fn world(policy: Kind, max_entries: u64) -> (Arc<Blocks>, Arc<Cache<Blocks>>) {
    world_of(BLOCKS, policy, max_entries)
}

fn world_of(blocks: usize, policy: Kind, max_entries: u64) -> (Arc<Blocks>, Arc<Cache<Blocks>>) {
    let live = (0..blocks).map(|_| AtomicBool::new(false)).collect();
    let (count, next) = (AtomicU64::new(0), AtomicUsize::new(0));
    let pool = Arc::new(Blocks { live, count, next });
    let config = Config { max_entries, policy, ..Config::default() };
    let cache = Cache::create(std::slice::from_ref(&pool), &config).unwrap();
    (pool, cache)
}

/// Short keys, and some that are kept apart.
fn key_of(number: u64) -> Vec<u8> {
    let mut key = number.to_le_bytes().to_vec();
    key.resize(if number.is_multiple_of(3) { 8 } else { 24 }, 7);
    key
}

/// A put, a get and its release; the get comes with as many failures. How many failed.
fn step(
    pool: &Blocks,
    cache: &Cache<Blocks>,
    key: u64,
    allocations: u64,
    pins: &mut Vec<Read>,
) -> u32 {
    let bytes = key_of(key);
    let block = pool.alloc();
    let (put, failed) = with_memory_for(allocations, || cache.put(&bytes, block, DEFAULT));
    let mut count = u32::from(failed);
    if let Err(error) = put {
        assert!(failed, "{error}");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        // It is still the caller's.
        pool.release(block);
    }
    let (got, failed) = with_memory_for(allocations, || cache.get(&bytes, DEFAULT));
    count += u32::from(failed);
    match got {
        Ok(Some(read)) => pins.push(read),
        Ok(None) => {}
        Err(error) => {
            assert!(failed && error.kind() == ErrorKind::OutOfMemory, "{error}");
        }
    }
    if count > 0 {
        cache.check().unwrap();
    }
    count
}

#[test]
fn puts_and_gets_without_memory() {
    for policy in Kind::ALL {
        let mut failures = 0;
        for allocations in 0..6 {
            let (pool, cache) = world(policy, 300);
            let mut pins = Vec::new();
            // Growing, then full; keys come back, so that ghosts and shadows have something to do.
            for turn in 0..1500u64 {
                let key = if turn.is_multiple_of(2) { turn % 700 } else { turn * turn % 200 };
                // With memory now and then, so that there is something to lose.
                let allocations = if turn.is_multiple_of(5) { 1 << 40 } else { allocations };
                failures += step(&pool, &cache, key, allocations, &mut pins);
                // Some are read for long.
                if pins.len() > 90 {
                    let one = pins.swap_remove((turn % 90) as usize);
                    cache.release(one.ticket, one.address, DEFAULT).unwrap();
                }
            }
            for one in pins {
                cache.release(one.ticket, one.address, DEFAULT).unwrap();
            }
            let live = cache.stats().entries;
            assert_eq!(pool.live(), live, "what was put and not got is the cache's");
            cache.clear().unwrap();
            assert_eq!(pool.live(), 0);
        }
        assert!(failures > 100, "{policy:?}: {failures} calls met a failure");
    }
}

/// What takes entries out needs no memory at all.
#[test]
fn what_leaves_needs_no_memory() {
    for policy in Kind::ALL {
        let (pool, cache) = world(policy, 4000);
        let fill = || {
            for key in 0..1000 {
                let block = pool.alloc();
                cache.put(&key_of(key % 900), block, DEFAULT).unwrap();
            }
        };
        fill();
        let (five, seven) = (key_of(5), key_of(7));
        let read = cache.get(&five, DEFAULT).unwrap().unwrap();
        let (removed, _) = with_memory_for(0, || cache.remove(&five));
        assert_eq!(removed.unwrap(), 2);
        let (released, _) =
            with_memory_for(0, || cache.release(read.ticket, read.address, DEFAULT));
        released.unwrap();
        let (taken, _) = with_memory_for(0, || cache.take(&seven, DEFAULT));
        pool.release(taken.unwrap().unwrap().address);
        let (evicted, _) = with_memory_for(0, || cache.evict(100 * 512));
        assert_eq!(evicted.unwrap(), 100 * 512);
        cache.check().unwrap();
        let (cleared, _) = with_memory_for(0, || cache.clear());
        assert_eq!(cleared.unwrap(), 1000 - 3 - 100);
        assert_eq!(pool.live(), 0);
        fill();
        cache.advance(std::time::Duration::from_secs(9));
        let (expired, _) = with_memory_for(0, || cache.expire(std::time::Duration::from_secs(1)));
        assert_eq!(expired.unwrap(), 1000);
        assert_eq!(pool.live(), 0);
        cache.check().unwrap();
    }
}

/// What an entry costs besides its key, counted where memory is allocated: lists, ghosts, shadows,
/// what is kept free; and what the cache says of itself is no less.
#[test]
fn an_entry_costs_few_bytes() {
    const ENTRIES: u64 = 50_000;
    for (policy, most) in [(Kind::Lru, 51.0), (Kind::Lfu, 62.0), (Kind::Adaptive, 160.0)] {
        let (pool, cache) = world_of(2 * ENTRIES as usize, policy, ENTRIES);
        let before = HELD.get();
        let mut random = 1u64;
        // New ones only, so that ghosts are as many as they can be, then popular ones among them,
        // so that shadows have others than the cache and another policy leads.
        for turn in 0..8 * ENTRIES {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let popular = (random >> 33) % ENTRIES * ((random >> 20) % 8) / 4;
            let is_new = turn < 4 * ENTRIES || turn.is_multiple_of(3);
            let key = if is_new { 1 << 40 | turn } else { popular }.to_le_bytes();
            match cache.get(&key, DEFAULT).unwrap() {
                Some(read) => cache.release(read.ticket, read.address, DEFAULT).unwrap(),
                None => cache.put(&key, pool.alloc(), DEFAULT).unwrap(),
            }
            if (turn + 1).is_multiple_of(ENTRIES) {
                let stats = cache.stats();
                assert_eq!(stats.entries, ENTRIES);
                let held = (HELD.get() - before) as u64;
                assert!(held <= stats.bookkeeping_bytes + 1024, "{policy:?}: {held}, {stats:?}");
                // Sixteen of them are the key and its length.
                let each = held as f64 / ENTRIES as f64 - 16.0;
                assert!(each <= most, "{policy:?}: {each} bytes");
            }
        }
        cache.check().unwrap();
    }
}
