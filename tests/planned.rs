//! Pools that serve a step from its plan: what is where, what it costs, and what a program that
//! does otherwise gets. The order on a GPU is in `cuda_hazards.rs`, the matching in `repeat.rs`.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics, in helpers too.

mod rig;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay::error::Kind;
use forebay::lifetime::{self, Lifetime, Options, Plan};
use forebay::order::Stream;
use forebay::pool::{Config, Flags, Policy, Pool};
use rig::{Gate, KIB, MIB, PAGE, TestStream, within};

const D: Stream = Stream::DEFAULT;
const LIMIT: u64 = 512 << 20;

#[derive(Clone, Copy, Debug)]
enum Op {
    Take { tensor: usize, size: usize },
    Give { tensor: usize },
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 20) % end as u64) as usize
    }
}

/// A step of `count` tensors of up to 2 MiB, and its plan.
fn step_of(count: usize, seed: u64) -> (Vec<Op>, Plan) {
    let mut random = Random(seed * 2 + 1);
    let (mut lifetime, mut ops) = (Lifetime::new(), Vec::new());
    let (mut live, mut time): (Vec<usize>, u64) = (Vec::new(), 0);
    for tensor in 0..count {
        let most = [KIB, 64 * KIB, 2 * MIB][random.below(3)];
        let size = 1 + random.below(most);
        ops.push(Op::Take { tensor, size });
        lifetime.record_alloc(time, tensor as u64, size as u64).unwrap();
        lifetime.align(tensor as u64, 512).unwrap();
        live.push(tensor);
        time += 1;
        while !live.is_empty() && (random.below(16) < live.len() || tensor + 1 == count) {
            let tensor = live.swap_remove(random.below(live.len()));
            ops.push(Op::Give { tensor });
            lifetime.record_free(time, tensor as u64).unwrap();
            time += 1;
        }
    }
    let options = Options { time_limit: Duration::from_millis(200), seed };
    (ops, lifetime::plan(lifetime.instance().unwrap(), &options, None).unwrap())
}

fn pool_with(plan: &Plan) -> Arc<Pool> {
    let pool = Pool::on_host(&Config { max_bytes: LIMIT, ..Config::default() }).unwrap();
    pool.apply_plan(plan, D).unwrap();
    pool
}

/// Blocks with contents that are checked before they are freed.
#[derive(Default)]
struct Held(HashMap<usize, (usize, usize, u64)>);

impl Held {
    fn take(&mut self, pool: &Pool, tensor: usize, size: usize, stamp: u64) {
        let address = pool.alloc(size, D).unwrap();
        rig::write(address, size, stamp);
        self.0.insert(tensor, (address, size, stamp));
    }

    fn give(&mut self, pool: &Pool, tensor: usize) {
        let Some((address, size, stamp)) = self.0.remove(&tensor) else { return };
        rig::read(address, size, stamp).unwrap();
        pool.free(address, D).unwrap();
    }

    fn give_all(&mut self, pool: &Pool) {
        let left: Vec<usize> = self.0.keys().copied().collect();
        left.into_iter().for_each(|tensor| self.give(pool, tensor));
    }
}

#[test]
fn a_repeating_step_needs_its_arena_and_no_call_of_the_system() {
    let (ops, plan) = step_of(300, 1);
    let pool = pool_with(&plan);
    let mut held = Held::default();
    let mut run = |step: u64| {
        for op in &ops {
            match *op {
                Op::Take { tensor, size } => {
                    held.take(&pool, tensor, size, step << 32 | tensor as u64);
                }
                Op::Give { tensor } => held.give(&pool, tensor),
            }
        }
    };
    run(0);
    let calls = pool.stats().system_calls;
    (1..50).for_each(&mut run);
    let stats = pool.stats();
    assert_eq!(stats.system_calls, calls);
    let arena = plan.arena_bytes().next_multiple_of(PAGE);
    assert_eq!((stats.reserved[0], stats.reserved[1]), (arena, arena));
    let usage = pool.plan_usage().unwrap();
    assert_eq!((usage.served, usage.diverged, usage.steps), (50 * 300, 0, 50));
    assert_eq!((usage.arena_bytes, usage.live), (arena, 0));
    assert_eq!((stats.allocations, stats.frees, stats.live_blocks), (50 * 300, 50 * 300, 0));
    // All that was asked for at a time, whoever served it.
    let peak = peak_of(&ops);
    assert_eq!(stats.requested[..2], [0, peak]);
    assert_eq!(stats.misses, 1, "the arena");
    pool.check().unwrap();
    pool.remove_plan().unwrap();
    pool.trim(0).unwrap();
    assert_eq!(pool.stats().reserved[0], 0);
}

fn peak_of(ops: &[Op]) -> u64 {
    let (mut live, mut peak, mut sizes) = (0, 0, HashMap::new());
    for op in ops {
        match *op {
            Op::Take { tensor, size } => {
                sizes.insert(tensor, size as u64);
                live += size as u64;
            }
            Op::Give { tensor } => live -= sizes[&tensor],
        }
        peak = peak.max(live);
    }
    peak
}

/// A thousand steps in which one operation of a hundred is another than planned: no byte is
/// lost, and what is mapped is the arena and what diverged.
#[test]
fn a_program_that_does_otherwise_needs_what_diverges_and_no_more() {
    let (ops, plan) = step_of(100, 2);
    let pool = pool_with(&plan);
    let (mut held, mut random) = (Held::default(), Random(7));
    let mut strange = 1000;
    for step in 0..1000u64 {
        for op in &ops {
            let diverges = random.below(100) == 0;
            let kind = random.below(3);
            match *op {
                // Another size.
                Op::Take { tensor, .. } if diverges && kind == 0 => {
                    held.take(&pool, tensor, 1 + random.below(100 * KIB), step);
                }
                // Not at all.
                Op::Take { .. } if diverges && kind == 1 => {}
                Op::Take { tensor, size } => {
                    if diverges {
                        // One more, which is there for a while.
                        held.take(&pool, strange, 1 + random.below(100 * KIB), step);
                        strange += 1;
                        held.give(&pool, strange.saturating_sub(4));
                    }
                    held.take(&pool, tensor, size, step << 32 | tensor as u64);
                }
                Op::Give { tensor } => held.give(&pool, tensor),
            }
        }
        if step % 100 == 0 {
            pool.check().unwrap();
        }
    }
    held.give_all(&pool);
    let usage = pool.plan_usage().unwrap();
    let (served, diverged) = (usage.served as f64, usage.diverged as f64);
    assert!(diverged / (served + diverged) < 0.05, "{usage:?}");
    // What diverges, at a time: three of up to 100 KiB, and tensors whose place somebody had.
    let arena = plan.arena_bytes().next_multiple_of(PAGE);
    let reserved = pool.stats().reserved[1];
    assert!(reserved <= arena + 5 * PAGE, "{reserved} bytes, {arena} of them the arena's");
    pool.check().unwrap();
    pool.remove_plan().unwrap();
}

#[test]
fn threads_share_a_plan() {
    let (ops, plan) = step_of(200, 3);
    let pool = pool_with(&plan);
    let work = |stamp: u64| {
        let (pool, ops) = (Arc::clone(&pool), ops.clone());
        move || {
            let mut held = Held::default();
            for step in 0..40 {
                for op in &ops {
                    match *op {
                        Op::Take { tensor, size } => {
                            held.take(&pool, tensor, size, stamp + step * 1000 + tensor as u64);
                        }
                        Op::Give { tensor } => held.give(&pool, tensor),
                    }
                }
            }
        }
    };
    let others = [1, 2, 3].map(|thread| std::thread::spawn(work(thread << 40)));
    others.into_iter().for_each(|one| one.join().unwrap());
    let (usage, stats) = (pool.plan_usage().unwrap(), pool.stats());
    assert_eq!(usage.served + usage.diverged, 3 * 40 * 200);
    assert_eq!((stats.allocations, stats.live_blocks, usage.live), (3 * 40 * 200, 0, 0));
    pool.check().unwrap();
}

/// Two tensors of which the second has the place of the first.
fn one_place() -> Plan {
    let mut lifetime = Lifetime::new();
    for (id, time) in [(0, 0), (1, 2)] {
        lifetime.record_alloc(time, id, MIB as u64).unwrap();
        lifetime.align(id, 512).unwrap();
        lifetime.record_free(time + 1, id).unwrap();
    }
    let plan = lifetime::plan(lifetime.instance().unwrap(), &Options::default(), None).unwrap();
    assert_eq!(plan.arena_bytes(), MIB as u64);
    plan
}

#[test]
fn a_place_is_used_again_in_the_order_of_streams() {
    let pool = pool_with(&one_place());
    let (a, b) = (TestStream::new(), TestStream::new());
    let first = pool.alloc(MIB, a.handle()).unwrap();
    let gate = Gate::on(&a);
    a.submit(move || rig::write(first, MIB, 1));
    pool.free(first, a.handle()).unwrap();
    // The calling thread is not stopped for it: its block is beside the plan.
    let own = pool.alloc(MIB, D).unwrap();
    assert_ne!(own, first);
    rig::write(own, MIB, 3);
    // The stream that had the place has it again at once; another one waits for it.
    let second = pool.alloc(MIB, a.handle()).unwrap();
    assert_eq!(second, first);
    a.submit(move || rig::write(second, MIB, 2));
    pool.free(second, a.handle()).unwrap();
    let third = pool.alloc(MIB, b.handle()).unwrap();
    assert_eq!(third, first);
    b.submit(move || rig::write(third, MIB, 4));
    gate.open();
    b.synchronize();
    rig::read(third, MIB, 4).unwrap();
    rig::read(own, MIB, 3).unwrap();
    // A stream that was recorded has to be done too.
    let gate = Gate::on(&a);
    pool.record_stream(third, a.handle()).unwrap();
    pool.free(third, b.handle()).unwrap();
    b.synchronize();
    let other = pool.alloc(MIB, D).unwrap();
    assert_ne!(other, first);
    gate.open();
    a.synchronize();
    for block in [own, other] {
        pool.free(block, D).unwrap();
    }
    pool.begin_step().unwrap();
    let again = pool.alloc(MIB, D).unwrap();
    assert_eq!(again, first);
    pool.free(again, D).unwrap();
    pool.check().unwrap();
}

#[test]
fn a_plan_that_is_removed_gives_its_memory_back_behind_all_streams() {
    let pool = pool_with(&one_place());
    let a = TestStream::new();
    let block = pool.alloc(MIB, a.handle()).unwrap();
    assert_eq!(pool.remove_plan().unwrap_err().kind(), Kind::InvalidState);
    let gate = Gate::on(&a);
    a.submit(move || rig::write(block, MIB, 1));
    pool.free(block, a.handle()).unwrap();
    pool.remove_plan().unwrap();
    let other = pool.alloc(MIB, D).unwrap();
    assert!(!rig::overlap((other, MIB), (block, MIB)), "work on it is queued");
    rig::write(other, MIB, 2);
    gate.open();
    a.synchronize();
    rig::read(other, MIB, 2).unwrap();
    pool.free(other, D).unwrap();
    pool.trim(0).unwrap();
    assert_eq!(pool.stats().reserved[0], 0);
    // Another plan, and the same again.
    pool.apply_plan(&step_of(50, 4).1, D).unwrap();
    pool.remove_plan().unwrap();
    pool.apply_plan(&one_place(), D).unwrap();
    pool.check().unwrap();
}

#[test]
fn every_call_knows_blocks_of_a_plan() {
    let pool = pool_with(&one_place());
    let block = pool.alloc(MIB, D).unwrap();
    assert_eq!(pool.usable_size(block).unwrap(), MIB as u64);
    assert_eq!(pool.owner(block + 5), Some((block, MIB as u64)));
    let extent = pool.extent(block).unwrap();
    assert_eq!((extent.requested, extent.allocated), (MIB as u64, MIB as u64));
    assert_eq!(pool.export(block).unwrap_err().kind(), Kind::InvalidArgument);
    rig::write(block, MIB, 5);
    let larger = pool.realloc(block, 3 * MIB, D).unwrap();
    assert_ne!(larger, block);
    rig::read(larger, MIB, 5).unwrap();
    let in_plan = pool.plan_usage().unwrap().live;
    assert_eq!(in_plan, 0);
    pool.begin_step().unwrap();
    let both = pool.alloc_batch(&[MIB, 5], D).unwrap();
    assert_eq!(both[0], block);
    let pieces: Vec<_> = pool.snapshot().into_iter().flat_map(|stretch| stretch.pieces).collect();
    let live = pieces.iter().find(|piece| piece.address == block).unwrap();
    assert_eq!((live.requested, live.state), (MIB as u64, forebay::pool::PieceState::Live));
    assert_eq!(pool.free_batch(&both, D).0, 2);
    for address in [block, block + 512] {
        assert_eq!(pool.free(address, D).unwrap_err().kind(), Kind::InvalidPointer);
    }
    pool.free(larger, D).unwrap();
    // Zeroed where the policy says so.
    pool.set_policy(Policy::QualityFirst).unwrap();
    pool.begin_step().unwrap();
    let zeroed = pool.alloc(MIB, D).unwrap();
    assert!(zeroed == block && rig::is_zero(zeroed, MIB));
    pool.free(zeroed, D).unwrap();
    // What aligns to more than a page is none of the plan's.
    pool.begin_step().unwrap();
    let aligned = pool.alloc_aligned(MIB, 2 * PAGE as usize, D).unwrap();
    assert!(aligned.is_multiple_of(2 * PAGE as usize));
    assert_eq!(pool.plan_usage().unwrap().live, 0);
    pool.free(aligned, D).unwrap();
    pool.check().unwrap();
    assert_eq!(pool.stats().live_blocks, 0);
}

#[test]
fn a_trace_of_a_planned_pool_is_a_trace_like_any_other() {
    let folder = std::env::temp_dir().join(format!("forebay-planned-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("trace.csv");
    let (ops, plan) = step_of(60, 5);
    let pool = pool_with(&plan);
    pool.start_trace(|| forebay::trace::Recorder::create(&path)).unwrap();
    let mut held = Held::default();
    for op in &ops {
        match *op {
            Op::Take { tensor, size } => held.take(&pool, tensor, size, 1),
            Op::Give { tensor } => held.give(&pool, tensor),
        }
    }
    assert_eq!(pool.stop_trace().unwrap(), ops.len() as u64);
    let mut lifetime = Lifetime::new();
    lifetime.add_trace(&forebay::trace::Trace::load(&path).unwrap(), 0, 512).unwrap();
    let again = lifetime::plan(lifetime.instance().unwrap(), &Options::default(), None).unwrap();
    assert_eq!(again.lower_bound(), plan.lower_bound().next_multiple_of(512));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_child_of_a_fork_goes_on_with_the_plan() {
    let (ops, plan) = step_of(100, 6);
    let pool = pool_with(&plan);
    let busy = {
        let (pool, ops) = (Arc::clone(&pool), ops.clone());
        std::thread::spawn(move || {
            let mut held = Held::default();
            for _ in 0..200 {
                for op in &ops {
                    match *op {
                        Op::Take { tensor, size } => held.take(&pool, tensor, size, 1),
                        Op::Give { tensor } => held.give(&pool, tensor),
                    }
                }
            }
        })
    };
    forebay::pool::prepare_for_forks();
    within(60, "forks", move || {
        for _ in 0..20 {
            // SAFETY: the child allocates, frees and leaves at once.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let fine = pool.alloc(MIB, D).and_then(|block| pool.free(block, D)).is_ok();
                // SAFETY: leaves without what the parent's threads had begun.
                unsafe { libc::_exit(if fine { 0 } else { 1 }) };
            }
            let mut status = 0;
            // SAFETY: waits for the child made above.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert_eq!(status, 0);
        }
    });
    busy.join().unwrap();
}

#[test]
fn pools_that_cannot_have_a_plan_say_why() {
    let plan = one_place();
    for flags in [
        Flags { guard_bytes: true, ..Flags::default() },
        Flags { poison_on_free: true, ..Flags::default() },
    ] {
        let pool = Pool::on_host(&Config { max_bytes: LIMIT, flags, ..Config::default() }).unwrap();
        assert_eq!(pool.apply_plan(&plan, D).unwrap_err().kind(), Kind::InvalidState);
    }
    let small = Pool::on_host(&Config { max_bytes: PAGE, ..Config::default() }).unwrap();
    let taken = small.alloc(MIB + 1, D).unwrap();
    assert_eq!(small.apply_plan(&plan, D).unwrap_err().kind(), Kind::OutOfMemory);
    small.free(taken, D).unwrap();
    small.apply_plan(&plan, D).unwrap();
    assert_eq!(small.apply_plan(&plan, D).unwrap_err().kind(), Kind::InvalidState);
    assert_eq!(small.apply_plan(&plan, Stream(8)).unwrap_err().kind(), Kind::InvalidState);
    small.remove_plan().unwrap();
    assert_eq!(small.apply_plan(&plan, Stream(8)).unwrap_err().kind(), Kind::InvalidArgument);
    for error in [small.remove_plan(), small.begin_step(), small.plan_usage().map(|_| ())] {
        assert_eq!(error.unwrap_err().kind(), Kind::InvalidState);
    }
}
