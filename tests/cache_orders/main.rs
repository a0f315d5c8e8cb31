//! The cache under every order of steps that a model checker tries: the engine as it is, built from
//! the checker's locks, over a memory of a few blocks that asks it for some when it has none.
//!
//! What the memory is asked to do, it checks: a block is freed once, by who has it, and not while
//! somebody reads it.

#![allow(missing_docs)]
// That is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
#[path = "../../src/cache/clock.rs"]
mod clock;
#[allow(dead_code)]
#[path = "../../src/cache/config.rs"]
mod config;
#[allow(dead_code)]
#[path = "../../src/cache/engine.rs"]
mod engine;
#[allow(dead_code, unused_imports)]
#[path = "../../src/cache/index.rs"]
mod index;
#[allow(dead_code, unused_imports)]
#[path = "../../src/cache/key.rs"]
mod key;
#[allow(dead_code)]
#[path = "../../src/cache/memory.rs"]
mod memory;
#[allow(dead_code)]
#[path = "../../src/cache/pins.rs"]
mod pins;
#[allow(dead_code, unused_imports)]
#[path = "../../src/cache/policy/mod.rs"]
mod policy;
#[allow(dead_code)]
#[path = "../../src/cache/stats.rs"]
mod stats;
mod sync;
#[allow(dead_code, unused_imports)]
#[path = "../../src/cache/table.rs"]
mod table;

use forebay::{order, pool};

mod error {
    pub use forebay::error::*;

    macro_rules! fail {
        ($kind:ident, $($message:tt)*) => {
            $crate::error::Error::new($crate::error::Kind::$kind, format_args!($($message)*))
        };
    }
    pub(crate) use fail;
}

use std::sync::{Arc, Weak};

use config::Config;
use engine::Cache;
use error::{Result, fail};
use memory::Memory;
use order::{Fence, Stream};
use pool::{BlockExtent, Holder};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread::{JoinHandle, spawn};
use shuttle::{Config as Checker, Runner};

/// Orders of steps that are tried of each scenario, by each of two schedulers.
const RUNS: usize = 4_000;

const BLOCKS: usize = 3;
const DEFAULT: Stream = Stream::DEFAULT;
const SIZE: u64 = 100;
const ID: u64 = 7;

/// Who has a block, by the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Live,
}

struct Blocks {
    states: [State; BLOCKS],
    /// How many read each.
    readers: [u32; BLOCKS],
}

/// A pool of three blocks. Its streams other than the default one are done when they are waited
/// for, and not before.
struct Few {
    blocks: sync::Mutex<Blocks>,
    holders: sync::Mutex<Vec<Weak<dyn Holder>>>,
    passed: sync::Mutex<u64>,
}

fn address(block: usize) -> usize {
    0x1000 + block
}

impl Few {
    fn new() -> Arc<Few> {
        let blocks = Blocks { states: [State::Free; BLOCKS], readers: [0; BLOCKS] };
        Arc::new(Few {
            blocks: sync::Mutex::new(blocks),
            holders: sync::Mutex::new(Vec::new()),
            passed: sync::Mutex::new(0),
        })
    }

    fn take(&self) -> Option<usize> {
        let mut blocks = self.blocks.lock();
        let free = blocks.states.iter().position(|&state| state == State::Free)?;
        blocks.states[free] = State::Live;
        Some(address(free))
    }

    /// As the ladder of a pool: asks who holds blocks, without a lock.
    fn alloc(&self) -> Option<usize> {
        loop {
            if let Some(block) = self.take() {
                return Some(block);
            }
            let holders: Vec<_> = self.holders.lock().iter().filter_map(Weak::upgrade).collect();
            let given: u64 = holders.iter().map(|holder| holder.give_up(ID, SIZE)).sum();
            if given == 0 {
                return None;
            }
        }
    }

    fn read(&self, at: usize, by: i32) {
        let mut blocks = self.blocks.lock();
        let block = at - address(0);
        assert_eq!(blocks.states[block], State::Live, "block {block} is read");
        let readers = &mut blocks.readers[block];
        *readers = readers.checked_add_signed(by).unwrap();
    }

    fn live(&self) -> usize {
        let blocks = self.blocks.lock();
        blocks.states.iter().filter(|&&state| state == State::Live).count()
    }
}

impl Memory for Few {
    fn id(&self) -> u64 {
        ID
    }

    fn enter(&self, holder: Weak<dyn Holder>) {
        self.holders.lock().push(holder);
    }

    fn addresses(&self) -> (usize, u64) {
        (address(0), BLOCKS as u64)
    }

    fn is_immediate(&self, stream: Stream) -> bool {
        stream == DEFAULT
    }

    fn extent(&self, at: usize) -> Result<BlockExtent> {
        match self.blocks.lock().states[at - address(0)] {
            State::Live => Ok(BlockExtent { requested: SIZE, allocated: SIZE }),
            State::Free => Err(fail!(InvalidPointer, "freed before")),
        }
    }

    fn mark(&self, stream: Stream) -> Result<(Fence, u64)> {
        let passed = self.passed.lock();
        Ok((Fence { stream, sequence: *passed + 1 }, 1))
    }

    fn has_passed(&self, fence: Fence) -> bool {
        *self.passed.lock() >= fence.sequence
    }

    fn wait_on(&self, _: Stream, fences: &[Fence]) -> Result<()> {
        let mut passed = self.passed.lock();
        for fence in fences {
            *passed = (*passed).max(fence.sequence);
        }
        Ok(())
    }

    fn follow(&self, at: usize, _: &[Fence]) -> Result<()> {
        self.extent(at).map(|_| ())
    }

    fn free(&self, at: usize, _: (Stream, u64), _: &[Fence]) -> Result<()> {
        let mut blocks = self.blocks.lock();
        let block = at - address(0);
        assert_eq!(blocks.states[block], State::Live, "block {block} is freed twice");
        assert_eq!(blocks.readers[block], 0, "block {block} is freed while it is read");
        blocks.states[block] = State::Free;
        Ok(())
    }
}

type Small = Cache<Few>;

struct World {
    memory: Arc<Few>,
    cache: Arc<Small>,
}

impl World {
    fn new(max_entries: u64) -> Arc<World> {
        let memory = Few::new();
        let config = Config { max_entries, ..Config::default() };
        let cache = Cache::create(std::slice::from_ref(&memory), &config).unwrap();
        Arc::new(World { memory, cache })
    }

    fn put(&self, key: &[u8], stream: Stream) -> bool {
        let Some(block) = self.memory.alloc() else { return false };
        if let Err(error) = self.cache.put(key, block, stream) {
            // The pool went meanwhile.
            assert_eq!(error.kind(), error::Kind::InvalidState);
            self.memory.free(block, (DEFAULT, 0), &[]).unwrap();
        }
        true
    }

    fn get(&self, key: &[u8], stream: Stream) -> bool {
        let Some(read) = self.cache.get(key, stream).unwrap() else { return false };
        self.memory.read(read.address, 1);
        shuttle::thread::yield_now();
        self.memory.read(read.address, -1);
        self.cache.release(read.ticket, read.address, stream).unwrap();
        let again = self.cache.release(read.ticket, read.address, stream);
        assert!(again.is_err(), "a pin is released twice");
        true
    }

    fn take(&self, key: &[u8]) -> bool {
        match self.cache.take(key, DEFAULT) {
            Ok(Some(taken)) => {
                self.memory.free(taken.address, (DEFAULT, 0), &[]).unwrap();
                true
            }
            Ok(None) => false,
            // It is being read.
            Err(error) => {
                assert_eq!(error.kind(), error::Kind::InvalidState);
                false
            }
        }
    }

    fn end(&self, own: usize) {
        self.cache.check().unwrap();
        let stats = self.cache.stats();
        assert_eq!(stats.pinned_entries, 0);
        assert_eq!(self.memory.live(), stats.entries as usize + own);
        self.cache.clear().unwrap();
        assert_eq!(self.memory.live(), own);
    }
}

fn with<T: Send + 'static>(
    world: &Arc<World>,
    body: impl FnOnce(&World) -> T + Send + 'static,
) -> JoinHandle<T> {
    let world = Arc::clone(world);
    spawn(move || body(&world))
}

fn streams() -> [Stream; 2] {
    [DEFAULT, Stream(16)]
}

/// Reads, a removal and an eviction of one entry.
fn what_is_read_stays() {
    for stream in streams() {
        let world = World::new(3);
        assert!(world.put(b"k", stream));
        let reader = with(&world, move |world| world.get(b"k", stream));
        let second = with(&world, |world| world.get(b"k", DEFAULT));
        let remover = with(&world, |world| world.cache.remove(b"k").unwrap());
        let evicted = world.cache.evict(1).unwrap();
        reader.join().unwrap();
        second.join().unwrap();
        let removed = remover.join().unwrap();
        assert!(evicted == 0 || removed == 0);
        assert_eq!(world.memory.live(), 0);
        world.end(0);
    }
}

/// Two take, one has it.
fn an_entry_is_taken_once() {
    let world = World::new(3);
    assert!(world.put(b"k", DEFAULT));
    let takers = [0, 1].map(|_| with(&world, |world| world.take(b"k")));
    let evicted = world.cache.evict(1).unwrap() > 0;
    let taken = takers.into_iter().map(|taker| taker.join().unwrap());
    assert_eq!(taken.filter(|&taken| taken).count() + usize::from(evicted), 1);
    world.end(0);
}

/// More entries than there is room for, by two, who read them as well.
fn budgets_hold() {
    let world = World::new(1);
    let puts = [b"a", b"b"].map(|key| {
        with(&world, move |world| {
            let put = world.put(key, DEFAULT);
            assert!(world.cache.stats().entries <= 1);
            world.get(key, DEFAULT);
            put
        })
    });
    assert!(world.put(b"c", DEFAULT));
    assert!(world.cache.stats().entries <= 1);
    for put in puts {
        assert!(put.join().unwrap());
    }
    world.end(0);
}

/// The memory is full of entries: whoever needs some gets it, but what is read stays.
fn pressure_is_met() {
    let world = World::new(3);
    for key in [b"a", b"b", b"c"] {
        assert!(world.put(key, DEFAULT));
    }
    let needs = [0, 1].map(|_| {
        with(&world, |world| {
            let block = world.memory.alloc().expect("two blocks are enough for three");
            world.memory.free(block, (DEFAULT, 0), &[]).unwrap();
        })
    });
    let reader = with(&world, |world| world.get(b"a", DEFAULT));
    for need in needs {
        need.join().unwrap();
    }
    reader.join().unwrap();
    world.end(0);
}

/// The pool goes while others put and read.
fn a_pool_leaves() {
    let world = World::new(3);
    assert!(world.put(b"a", DEFAULT));
    let putter = with(&world, |world| world.put(b"b", DEFAULT));
    let reader = with(&world, |world| world.get(b"a", DEFAULT));
    world.cache.leave(ID);
    putter.join().unwrap();
    reader.join().unwrap();
    assert_eq!(world.cache.stats().entries, 0);
    world.end(0);
}

fn main() {
    let scenarios: [(&str, fn()); 5] = [
        ("what_is_read_stays", what_is_read_stays),
        ("an_entry_is_taken_once", an_entry_is_taken_once),
        ("budgets_hold", budgets_hold),
        ("pressure_is_met", pressure_is_met),
        ("a_pool_leaves", a_pool_leaves),
    ];
    for (name, scenario) in scenarios {
        let start = std::time::Instant::now();
        // At random, and then with few but well-placed changes of thread.
        Runner::new(RandomScheduler::new(RUNS), Checker::new()).run(scenario);
        Runner::new(PctScheduler::new(3, RUNS), Checker::new()).run(scenario);
        let seconds = start.elapsed().as_secs_f64();
        println!("{name}: {} orders of steps in {seconds:.1} s", 2 * RUNS);
    }
}
