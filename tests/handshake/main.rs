//! The door of a front cache, and who may take a block back, under every order of steps that
//! a model checker tries: `src/pool/handshake.rs` and `src/pool/front.rs` as they are, built
//! from the checker's atomics and locks.
//!
//! What is checked is the protocol. The checker knows no weaker order than the sequential one,
//! so that the owner's plain store and the stopper's `membarrier` amount to one is for the
//! stress test in `handshake.rs` to show. What a pool does around the door, `Owner` and
//! `free_elsewhere` below repeat in the steps of `fast.rs` and `free_block`; change them together.

#![allow(missing_docs)]
// That is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use forebay::{order, space};

#[allow(dead_code, unused_imports)]
#[path = "../../src/pool/bin.rs"]
mod bin;
#[allow(dead_code, unused_imports)]
#[path = "../../src/pool/block.rs"]
mod block;
#[allow(dead_code, unused_imports)]
#[path = "../../src/pool/front.rs"]
mod front;
#[allow(dead_code, unused_imports)]
#[path = "../../src/pool/handshake.rs"]
mod handshake;
#[allow(dead_code, unused_imports)]
#[path = "../../src/pool/slots.rs"]
mod slots;
#[allow(dead_code, unused_imports)]
#[path = "../../src/pool/stats.rs"]
mod stats;
mod sync;

use std::sync::Arc;

use bin::Entry;
use block::{Word, state};
use front::{Cache, Locked, Pooled, Slot};
use handshake::{attention, barrier};
use order::Stream;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};
use space::MAX_CLASSES;
use sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// Orders of steps that are tried of each scenario, by each of two schedulers.
const RUNS: usize = 15_000;

/// Some run's bin; all blocks here are of one size.
const BIN: usize = MAX_CLASSES;
const SIZE: u64 = 1 << 20;
const SLOT: u32 = 3;
/// Somebody else's slot, which keeps what its thread frees.
const OTHER: u32 = 4;
const BLOCKS: usize = 2;

struct World {
    slot: Slot,
    words: [AtomicU32; BLOCKS],
    /// Somebody uses the cache at this moment.
    busy: AtomicBool,
    /// Blocks outside the cache that nobody has: a bit each.
    elsewhere: AtomicU64,
}

/// Panics when two use the cache at a time.
struct Alone<'a>(&'a AtomicBool);

impl Alone<'_> {
    fn new(world: &World) -> Alone<'_> {
        assert!(!world.busy.swap(true, Ordering::SeqCst), "two use the cache");
        Alone(&world.busy)
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl World {
    /// All blocks are given out by the slot.
    fn new() -> Arc<World> {
        let pooled = Pooled {
            table: (0, std::ptr::null(), 0),
            classes: AtomicPtr::new(std::ptr::null_mut()),
            rounding: (0, !0),
            slots: std::ptr::null(),
        };
        let slot = Slot::new(SLOT, Stream::DEFAULT, 1 << 30, 0, pooled);
        // SAFETY: nobody else knows the slot yet.
        assert!(unsafe { slot.lock() }.cache().prepare(BIN, SIZE));
        let live = Word::new(state::LIVE, SLOT, 0).0;
        let words = std::array::from_fn(|_| AtomicU32::new(live));
        Arc::new(World { slot, words, busy: AtomicBool::new(false), elsewhere: AtomicU64::new(0) })
    }

    /// The entry of a block; its number stands for its address, and its word is looked up.
    fn entry(block: usize) -> Entry {
        Entry { address: block + 1, word: std::ptr::null() }
    }

    fn word(&self, entry: Entry) -> &AtomicU32 {
        &self.words[entry.address - 1]
    }

    fn put_elsewhere(&self, block: usize) {
        let before = self.elsewhere.fetch_add(1 << (8 * block), Ordering::SeqCst);
        assert_eq!(before >> (8 * block) & 0xFF, 0, "block {block} came back twice");
    }

    /// As `Pool::flush`, with whoever the cache's user is stopped or outside.
    fn flush(&self, locked: &mut Locked<'_>) {
        let alone = Alone::new(self);
        for entry in locked.drain_all() {
            self.word(entry).store(state::FREE, Ordering::Release);
            self.put_elsewhere(entry.address - 1);
        }
        drop(alone);
    }

    /// Every block is live, in the cache or elsewhere, in one place only and by its word.
    fn audit(&self, live: usize) {
        // SAFETY: all other threads have ended.
        let mut locked = unsafe { self.slot.lock() };
        let cached = locked.drain_all();
        for &entry in &cached {
            assert_eq!(Word(self.word(entry).load(Ordering::SeqCst)).state(), state::CACHED);
        }
        for block in 0..BLOCKS {
            let word = Word(self.words[block].load(Ordering::SeqCst));
            let in_cache = cached.iter().filter(|entry| entry.address == block + 1).count() as u64;
            let elsewhere = self.elsewhere.load(Ordering::SeqCst) >> (8 * block) & 0xFF;
            assert_eq!(in_cache + elsewhere + u64::from(word.is_live()), 1, "block {block}");
        }
        let found = self.words.iter().filter(|word| Word(word.load(Ordering::SeqCst)).is_live());
        assert_eq!(found.count(), live);
    }
}

/// The steps of the slot's own thread.
struct Owner(Arc<World>);

impl Owner {
    /// Runs `inside` in the door, told whether others may take blocks back; none when the
    /// door is shut.
    fn enter<R>(&self, inside: impl Fn(&mut Cache, bool) -> R) -> Option<R> {
        let slot = &self.0.slot;
        for (heeded, shared) in [(attention::ALL, false), (attention::BUT_SHARED, true)] {
            // SAFETY: the owner's thread; the reference ends before the door is left.
            if let Some(cache) = unsafe { slot.enter(heeded) } {
                let result = inside(cache, shared);
                slot.door.leave();
                return Some(result);
            }
        }
        None
    }

    /// `fast::alloc`, then the cache's part of `alloc_slow`.
    fn alloc(&self) -> Option<usize> {
        let world = &*self.0;
        let fast = self.enter(|cache, _| {
            let alone = Alone::new(world);
            let entry = cache.bins[BIN].pop();
            drop(alone);
            entry.inspect(|&entry| self.set_live(entry))
        });
        let entry = fast.flatten().or_else(|| {
            // SAFETY: the owner's thread, outside the door.
            let mut locked = unsafe { world.slot.lock() };
            let alone = Alone::new(world);
            let entry = locked.pop(BIN);
            drop(alone);
            entry.inspect(|&entry| self.set_live(entry))
        })?;
        Some(entry.address - 1)
    }

    fn set_live(&self, entry: Entry) {
        let word = self.0.word(entry);
        assert_eq!(Word(word.load(Ordering::SeqCst)).state(), state::CACHED, "not in the cache");
        word.store(self.0.slot.live_word, Ordering::Release);
    }

    /// `fast::free` and `fast::free_shared`, then `free_block`.
    fn free(&self, block: usize) -> bool {
        let world = &*self.0;
        let word = &world.words[block];
        let cached = Word::new(state::CACHED, SLOT, 0).0;
        let fast = self.enter(|cache, shared| {
            let seen = word.load(Ordering::Relaxed);
            if seen as u16 != world.slot.live_word as u16 {
                return false;
            }
            let taken = if shared {
                word.compare_exchange(seen, cached, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            } else {
                word.store(cached, Ordering::Relaxed);
                true
            };
            if taken {
                let alone = Alone::new(world);
                cache.bins[BIN].push(World::entry(block));
                drop(alone);
            }
            taken
        });
        if fast == Some(true) {
            return true;
        }
        loop {
            let seen = word.load(Ordering::Acquire);
            if !Word(seen).is_live() {
                return false;
            }
            // SAFETY: the owner's thread, outside the door.
            let mut locked = unsafe { world.slot.lock() };
            let held = Word::HELD.0;
            if word.compare_exchange(seen, held, Ordering::AcqRel, Ordering::Acquire).is_err() {
                continue;
            }
            let alone = Alone::new(world);
            locked.push(BIN, SIZE, World::entry(block));
            word.store(cached, Ordering::Release);
            drop(alone);
            return true;
        }
    }
}

/// `fast::free_shared`, then `Pool::free_block`, by a thread that is not the slot's owner: into
/// its own cache, which is none of this test's business.
fn free_elsewhere(world: &World, block: usize) -> bool {
    let word = &world.words[block];
    let cached = Word::new(state::CACHED, OTHER, 0).0;
    let seen = word.load(Ordering::Relaxed);
    let fast = Word(seen).state() == state::LIVE
        && world.slot.is_shared()
        && word.compare_exchange(seen, cached, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if !fast {
        loop {
            let seen = word.load(Ordering::Acquire);
            if !Word(seen).is_live() {
                return false;
            }
            if Word(seen).owner() == SLOT {
                world.slot.share();
            }
            let held = Word::HELD.0;
            if word.compare_exchange(seen, held, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                break;
            }
        }
        word.store(cached, Ordering::Release);
    }
    world.put_elsewhere(block);
    true
}

/// `Slots::stop` and `Pool::flush_all`.
fn drain(world: &World) {
    if let Some(stopping) = world.slot.begin_stop() {
        barrier();
        world.flush(&mut stopping.wait());
    }
}

/// `Slots::stop_all`, which waits for the slot's lock.
fn drain_waiting(world: &World) {
    let stopping = world.slot.begin_stop_waiting();
    barrier();
    world.flush(&mut stopping.wait());
}

/// Two threads free the same block: one of them has it.
fn a_block_is_freed_once() {
    let world = World::new();
    let other = Arc::clone(&world);
    let elsewhere = shuttle::thread::spawn(move || free_elsewhere(&other, 0));
    let own = Owner(Arc::clone(&world)).free(0);
    let elsewhere = elsewhere.join().unwrap();
    assert!(own != elsewhere, "freed by the owner: {own}, by another thread: {elsewhere}");
    world.audit(BLOCKS - 1);
}

/// As before, with a third who frees it too, and a stopper.
fn a_block_is_freed_once_by_three() {
    let world = World::new();
    let frees: Vec<_> = (0..2)
        .map(|_| {
            let world = Arc::clone(&world);
            shuttle::thread::spawn(move || free_elsewhere(&world, 0))
        })
        .collect();
    let stopped = Arc::clone(&world);
    let stopper = shuttle::thread::spawn(move || drain(&stopped));
    let own = Owner(Arc::clone(&world)).free(0);
    let done = frees.into_iter().map(|free| free.join().unwrap()).filter(|&freed| freed).count();
    stopper.join().unwrap();
    assert_eq!(done + usize::from(own), 1);
    world.audit(BLOCKS - 1);
}

/// The owner allocates and frees while others empty its cache.
fn a_stopper_is_alone_with_the_cache() {
    let world = World::new();
    let stoppers = [drain, drain_waiting].map(|drain| {
        let world = Arc::clone(&world);
        shuttle::thread::spawn(move || drain(&world))
    });
    let owner = Owner(Arc::clone(&world));
    assert!(owner.free(0));
    let again = owner.alloc();
    assert!(owner.free(1));
    let third = owner.alloc();
    for stopper in stoppers {
        stopper.join().unwrap();
    }
    world.audit(again.iter().chain(&third).count());
}

/// Another thread frees one of the owner's blocks, and so makes it share, while the owner goes
/// on with the other block and somebody empties its cache.
fn sharing_begins_while_the_owner_goes_on() {
    let world = World::new();
    let (freed, stopped) = (Arc::clone(&world), Arc::clone(&world));
    let free = shuttle::thread::spawn(move || assert!(free_elsewhere(&freed, 1)));
    let stopper = shuttle::thread::spawn(move || drain(&stopped));
    let owner = Owner(Arc::clone(&world));
    assert!(owner.free(0));
    let live = owner.alloc();
    let live = live.map(|block| usize::from(!owner.free(block))).unwrap_or(0);
    free.join().unwrap();
    stopper.join().unwrap();
    world.audit(live);
}

fn config() -> Config {
    let mut config = Config::new();
    // A slot is made on the stack, and is larger than the checker's own stacks are.
    config.stack_size = 1 << 20;
    config
}

fn main() {
    assert!(handshake::available(), "this kernel has no membarrier");
    let scenarios: [(&str, fn()); 4] = [
        ("a_block_is_freed_once", a_block_is_freed_once),
        ("a_block_is_freed_once_by_three", a_block_is_freed_once_by_three),
        ("a_stopper_is_alone_with_the_cache", a_stopper_is_alone_with_the_cache),
        ("sharing_begins_while_the_owner_goes_on", sharing_begins_while_the_owner_goes_on),
    ];
    for (name, scenario) in scenarios {
        let start = std::time::Instant::now();
        // At random, and then with few but well-placed changes of thread.
        Runner::new(RandomScheduler::new(RUNS), config()).run(scenario);
        Runner::new(PctScheduler::new(3, RUNS), config()).run(scenario);
        let seconds = start.elapsed().as_secs_f64();
        println!("{name}: {} orders of steps in {seconds:.1} s", 2 * RUNS);
    }
}
