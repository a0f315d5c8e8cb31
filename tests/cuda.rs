//! Pools on a GPU: who gets whose memory, and when. The same tests run on the simulated driver
//! and, with `FOREBAY_TEST_GPU=1`, on a real one.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod gpu;

use forebay::device::Device;
use forebay::error::Kind;
use forebay::lifetime::{self, Lifetime, Options};
use forebay::order::Stream;
use forebay::pool::{Config, Flags, Policy, Pool};
use gpu::{Gpu, MIB, PAGE, cu};

const D: Stream = Stream::DEFAULT;

#[test]
fn a_stream_gets_its_own_blocks_back_without_a_call_of_the_driver() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(256 << 20);
    let stream = gpu.stream();
    for size in [1, 512, 5000, 100_000, MIB, 40 * MIB] {
        let first = pool.alloc(size, stream).unwrap();
        assert_eq!(first % 512, 0);
        pool.free(first, stream).unwrap();
        let calls = gpu.calls(|| {
            for _ in 0..100 {
                let again = pool.alloc(size, stream).unwrap();
                assert_eq!(again, first);
                gpu.write(stream, again, size, 1);
                pool.free(again, stream).unwrap();
            }
        });
        assert_eq!(calls, 0, "{size} bytes");
    }
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn another_stream_gets_a_block_when_its_work_is_done_and_not_before() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let (a, b) = (gpu.stream(), gpu.stream());
    for size in [MIB, 20 * MIB] {
        gpu.hold(a);
        let block = pool.alloc(size, a).unwrap();
        gpu.write(a, block, size, 1);
        pool.free(block, a).unwrap();
        let other = pool.alloc(size, b).unwrap();
        assert_ne!(other, block, "it is in use");
        gpu.write(b, other, size, 2);
        gpu.let_go(a);
        gpu.synchronize(a);
        // What was freed lies in this thread's front cache; trim gives it to everybody.
        pool.trim(u64::MAX).unwrap();
        // The event that tells of it was recorded just now, and is an instant behind.
        gpu.synchronize(a);
        let reserved = pool.stats().reserved[0];
        let third = pool.alloc(size, b).unwrap();
        assert_eq!(pool.stats().reserved[0], reserved, "nothing new is needed");
        gpu.write(b, third, size, 3);
        assert!(gpu.is_all(b, other, size, 2) && gpu.is_all(b, third, size, 3));
        pool.free(other, b).unwrap();
        pool.free(third, b).unwrap();
    }
    pool.check().unwrap();
    gpu.finish();
}

/// The three-stream rule: work is held on A, which frees X; B's miss merges it; C takes it.
#[test]
fn bytes_survive_three_streams() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(8 << 20);
    let (a, b, c) = (gpu.stream(), gpu.stream(), gpu.stream());
    let [x, y] = [(); 2].map(|()| pool.alloc(3 * MIB, a).unwrap());
    gpu.hold(a);
    for block in [x, y] {
        gpu.write(a, block, 3 * MIB, 1);
        pool.free(block, a).unwrap();
    }
    // Too large for what nobody uses: B has to wait for A, on the device.
    let merged = pool.alloc(6 * MIB, b).unwrap();
    gpu.write(b, merged, 6 * MIB, 2);
    pool.free(merged, b).unwrap();
    let taken = pool.alloc(5 * MIB, c).unwrap();
    gpu.write(c, taken, 5 * MIB, 3);
    gpu.let_go(a);
    gpu.synchronize_all();
    assert!(gpu.is_all(c, taken, 5 * MIB, 3));
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn under_pressure_a_stream_waits_on_the_device_and_the_caller_does_not() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(16 << 20);
    let (a, b) = (gpu.stream(), gpu.stream());
    let block = pool.alloc(12 * MIB, a).unwrap();
    gpu.hold(a);
    gpu.write(a, block, 12 * MIB, 1);
    pool.free(block, a).unwrap();
    // Held work never ends by itself: a caller that waited for it would hang here.
    let taken = pool.alloc(10 * MIB, b).unwrap();
    gpu.write(b, taken, 10 * MIB, 2);
    gpu.let_go(a);
    assert!(gpu.is_all(b, taken, 10 * MIB, 2));
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn many_frees_cost_one_event() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(256 << 20);
    let stream = gpu.stream();
    let blocks: Vec<usize> = (0..64).map(|_| pool.alloc(2 * MIB, stream).unwrap()).collect();
    blocks.iter().for_each(|&block| gpu.write(stream, block, 2 * MIB, 1));
    let calls = gpu.calls(|| blocks.iter().for_each(|&block| pool.free(block, stream).unwrap()));
    assert_eq!(calls, 0, "frees ask nobody");
    if gpu.is_simulated() {
        let before = sim_cuda::calls("cuEventRecord");
        pool.trim(u64::MAX).unwrap();
        assert_eq!(sim_cuda::calls("cuEventRecord") - before, 1);
    }
    gpu.finish();
}

#[test]
fn a_recorded_stream_is_waited_for() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(8 << 20);
    let (a, b) = (gpu.stream(), gpu.stream());
    let block = pool.alloc(6 * MIB, a).unwrap();
    gpu.hold(b);
    gpu.read(b, block, 6 * MIB);
    pool.record_stream(block, b).unwrap();
    pool.free(block, a).unwrap();
    // It is A's own, but B still reads it, and there is room for one only: A waits for B, and
    // the caller for nobody.
    let again = pool.alloc(6 * MIB, a).unwrap();
    gpu.write(a, again, 6 * MIB, 1);
    gpu.let_go(b);
    assert!(gpu.is_all(a, again, 6 * MIB, 1));
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn a_stream_that_is_about_to_be_destroyed_leaves_its_memory_to_all() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(16 << 20);
    let (a, b) = (gpu.stream(), gpu.stream());
    let block = pool.alloc(12 * MIB, a).unwrap();
    gpu.write(a, block, 12 * MIB, 1);
    pool.free(block, a).unwrap();
    pool.forget_stream(a).unwrap();
    gpu.destroy(a);
    let taken = pool.alloc(12 * MIB, b).unwrap();
    gpu.write(b, taken, 12 * MIB, 2);
    pool.free(taken, b).unwrap();
    // Its handle is no stream's any more, which a real driver need not survive.
    if gpu.is_simulated() {
        let error = pool.alloc(MIB, a).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidState, "{error}");
    }
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn the_default_stream_has_two_names_and_that_of_a_thread_is_refused() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(8 << 20);
    let block = pool.alloc(6 * MIB, Stream(0)).unwrap();
    gpu.write(D, block, 6 * MIB, 1);
    pool.free(block, Stream(1)).unwrap();
    let again = pool.alloc(6 * MIB, Stream(1)).unwrap();
    pool.free(again, D).unwrap();
    let again = pool.alloc(6 * MIB, D).unwrap();
    pool.free(again, D).unwrap();
    let error = pool.alloc(100, Stream(2)).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.message().contains("0x2"), "{error}");
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn idle_pages_are_stitched_instead_of_taking_more() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(96 << 20);
    let stream = gpu.stream();
    let blocks: Vec<usize> = (0..48).map(|_| pool.alloc(2 * MIB, stream).unwrap()).collect();
    // Every second one: 48 MiB are free, in pieces of 2.
    for &block in blocks.iter().step_by(2) {
        gpu.write(stream, block, 2 * MIB, 1);
        pool.free(block, stream).unwrap();
    }
    for &block in blocks.iter().skip(1).step_by(2) {
        gpu.write(stream, block, 2 * MIB, 7);
    }
    gpu.synchronize(stream);
    let large = pool.alloc(48 * MIB, stream).unwrap();
    gpu.write(stream, large, 48 * MIB, 9);
    assert_eq!(pool.stats().reserved[1], 96 << 20, "nothing more was taken");
    for &block in blocks.iter().skip(1).step_by(2) {
        assert!(gpu.is_all(stream, block, 2 * MIB, 7), "what lives has not moved");
    }
    assert!(gpu.is_all(stream, large, 48 * MIB, 9));
    pool.check().unwrap();
    gpu.finish();
}

/// What grows expandable segments without end: two sizes that leave a small block between
/// them, over and over.
#[test]
fn the_pathology_of_expandable_segments_stays_near_what_lives() {
    let gpu = Gpu::with(sim_cuda::Config { bookkeeping: true, ..Default::default() });
    let pool = gpu.pool_of(4 << 30);
    let stream = gpu.stream();
    let mut kept = Vec::new();
    for _ in 0..100 {
        let large = pool.alloc(91 * MIB, stream).unwrap();
        let middle = pool.alloc(45 * MIB + MIB / 2, stream).unwrap();
        kept.push(pool.alloc(2 * MIB, stream).unwrap());
        pool.free(large, stream).unwrap();
        pool.free(middle, stream).unwrap();
        gpu.synchronize(stream);
    }
    let live = pool.stats().allocated[1];
    let reserved = pool.stats().reserved[1];
    assert!(reserved * 10 <= live * 11, "{reserved} reserved for {live}");
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn only_what_streams_are_done_with_goes_back_to_the_device() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let stream = gpu.stream();
    let block = pool.alloc(20 * MIB, stream).unwrap();
    gpu.hold(stream);
    gpu.write(stream, block, 20 * MIB, 1);
    pool.free(block, stream).unwrap();
    assert_eq!(pool.trim(0).unwrap(), 0);
    gpu.let_go(stream);
    gpu.synchronize(stream);
    assert_eq!(pool.trim(0).unwrap(), 20 << 20);
    assert_eq!(pool.stats().reserved[0], 0);
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn a_pool_may_be_destroyed_while_work_is_queued() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let stream = gpu.stream();
    let block = pool.alloc(20 * MIB, stream).unwrap();
    gpu.write(stream, block, 20 * MIB, 1);
    assert_eq!(Pool::destroy(pool).unwrap_err().kind(), Kind::InvalidState);
    gpu.finish();
}

#[test]
fn contents_are_seen_to_in_the_order_of_the_stream() {
    let gpu = Gpu::new();
    let flags = Flags { guard_bytes: true, poison_on_free: true, ..Flags::default() };
    let config = Config { max_bytes: 64 << 20, flags, ..Config::default() };
    let pool = gpu.pool(&config);
    let (a, b) = (gpu.stream(), gpu.stream());
    for size in [100, 3 * MIB] {
        let block = pool.alloc(size, a).unwrap();
        gpu.write(a, block, size, 5);
        pool.check().unwrap();
        gpu.order(a, b);
        gpu.read(b, block, size);
        pool.record_stream(block, b).unwrap();
        pool.free(block, a).unwrap();
        let block = pool.alloc(size, a).unwrap();
        gpu.write(a, block, size + 1, 5);
        let error = pool.free(block, a).unwrap_err();
        assert_eq!(error.kind(), Kind::Corruption);
    }
    let zeroed = gpu.pool(&Config { max_bytes: 64 << 20, policy: Policy::QualityFirst, ..config });
    let block = zeroed.alloc(5 * MIB, a).unwrap();
    assert!(gpu.is_all(a, block, 5 * MIB, 0));
    gpu.write(a, block, 5 * MIB, 1);
    zeroed.free(block, a).unwrap();
    let block = zeroed.alloc(5 * MIB, a).unwrap();
    assert!(gpu.is_all(a, block, 5 * MIB, 0));
    gpu.finish();
}

#[test]
fn realloc_copies_in_the_order_of_the_stream() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(128 << 20);
    let stream = gpu.stream();
    for (from, to) in [(1000, 5000), (MIB, 3 * MIB), (16 * MIB, 40 * MIB), (40 * MIB, 16 * MIB)] {
        let block = pool.alloc(from, stream).unwrap();
        gpu.write(stream, block, from, 3);
        let moved = pool.realloc(block, to, stream).unwrap();
        assert!(gpu.is_all(stream, moved, from.min(to), 3));
        gpu.write(stream, moved, to, 4);
        pool.free(moved, stream).unwrap();
    }
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn bad_input_gets_an_error_and_nothing_is_lost() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(16 << 20);
    let error = gpu.try_pool(&Config::default(), 99).err().unwrap();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.message().contains("99"), "{error}");
    let block = pool.alloc(MIB, D).unwrap();
    let other = gpu.pool_of(16 << 20);
    let error = other.free(block, D).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidPointer);
    assert!(error.message().contains("belongs to pool"), "{error}");
    let error = pool.alloc(17 * MIB, D).unwrap_err();
    assert_eq!(error.kind(), Kind::OutOfMemory);
    assert!(error.message().contains("limit 16777216"), "{error}");
    assert!(pool.set_limit(1 << 20).is_err());
    pool.free(block, D).unwrap();
    assert_eq!(pool.free(block, D).unwrap_err().kind(), Kind::InvalidPointer);
    if gpu.is_simulated() {
        let error = pool.alloc(MIB, Stream(0x7777_0000)).unwrap_err();
        assert!(matches!(error.kind(), Kind::InvalidState | Kind::InvalidArgument), "{error}");
        gpu.enter(1);
        let foreign = gpu.stream();
        let error = pool.alloc(MIB, foreign).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.message().contains("another context"), "{error}");
        let second = gpu.try_pool(&Config::default(), 1).unwrap();
        let block = second.alloc(MIB, foreign).unwrap();
        gpu.write(foreign, block, MIB, 1);
        second.free(block, foreign).unwrap();
    }
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn without_virtual_memory_a_pool_is_one_allocation() {
    let config = sim_cuda::Config { virtual_memory: false, ..Default::default() };
    let gpu = Gpu::with(config);
    if !gpu.is_simulated() {
        return;
    }
    let pool = gpu.pool_of(32 << 20);
    assert_eq!(pool.stats().reserved[0], 32 << 20, "it has all its pages from the start");
    let stream = gpu.stream();
    let blocks: Vec<usize> = (0..8).map(|_| pool.alloc(3 * MIB, stream).unwrap()).collect();
    for &block in &blocks {
        gpu.write(stream, block, 3 * MIB, 1);
        pool.free(block, stream).unwrap();
    }
    assert_eq!(pool.trim(0).unwrap(), 0, "and keeps them");
    let all = pool.alloc(32 * MIB, stream).unwrap();
    gpu.write(stream, all, 32 * MIB, 1);
    assert!(pool.stats_json().contains("\"moves_pages\":false"));
    pool.free(all, stream).unwrap();
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn current_contexts_are_left_as_they_were() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(16 << 20);
    assert_eq!(cu!(gpu, cuCtxSetCurrent(0 => u64)), 0);
    let block = pool.alloc(MIB, D).unwrap();
    pool.free(block, D).unwrap();
    pool.trim(0).unwrap();
    let mut current = 1u64;
    assert_eq!(cu!(gpu, cuCtxGetCurrent(&mut current => *mut u64)), 0);
    assert_eq!(current, 0);
    gpu.finish();
}

/// The device is asked for its own name, so that a report says what it was.
#[test]
fn a_device_says_what_it_is() {
    let gpu = Gpu::new();
    let options = forebay::device::CudaOptions::default();
    let device = forebay::device::Cuda::with_driver(&gpu.api, &options).unwrap();
    assert_eq!(device.name(), "cuda");
    assert!(device.memory_bytes() > PAGE);
    gpu.finish();
}

#[test]
fn a_forked_child_gets_a_clear_error() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let block = pool.alloc(MIB, D).unwrap();
    pool.free(block, D).unwrap();
    let kept = pool.alloc(3 * MIB, D).unwrap();
    // SAFETY: the child only calls the pool, and ends without anything that a fork may break.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = |error: Option<forebay::error::Error>| {
            error.is_some_and(|error| {
                error.kind() == Kind::InvalidState && error.message().contains("fork()")
            })
        };
        let ok = refused(pool.alloc(MIB, D).err())
            && refused(pool.alloc(40 * MIB, D).err())
            && refused(pool.free(kept, D).err())
            && refused(pool.trim(0).err())
            && refused(gpu.try_pool(&Config::default(), 0).err());
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if ok { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: the child that was just made, and a place for the answer.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    pool.free(kept, D).unwrap();
    pool.check().unwrap();
    gpu.finish();
}

/// Threads with streams of their own, which free what others took, under pressure.
#[test]
fn threads_share_a_pool_and_streams_stay_in_order() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(96 << 20);
    let streams: Vec<Stream> = (0..4).map(|_| gpu.stream()).collect();
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..4).map(|_| std::sync::mpsc::channel::<(usize, Stream)>()).unzip();
    std::thread::scope(|scope| {
        for (number, receiver) in receivers.into_iter().enumerate() {
            let (gpu, pool, streams) = (&gpu, &pool, &streams);
            let next = senders[(number + 1) % 4].clone();
            scope.spawn(move || {
                gpu.enter(0);
                let own = streams[number];
                let mut held = Vec::new();
                for round in 0..300 {
                    let size = 1 + (round * 7919 + number * 104_729) % (3 * MIB);
                    match pool.alloc(size, own) {
                        Ok(block) => {
                            gpu.write(own, block, size, number as u8);
                            held.push(block);
                        }
                        Err(error) => assert_eq!(error.kind(), Kind::OutOfMemory, "{error}"),
                    }
                    if held.len() > 6 {
                        let block = held.swap_remove(round % held.len());
                        if round % 3 == 0 {
                            next.send((block, own)).unwrap();
                        } else {
                            pool.free(block, own).unwrap();
                        }
                    }
                    for (block, stream) in receiver.try_iter() {
                        gpu.order(stream, own);
                        pool.free(block, own).unwrap();
                    }
                    if round % 50 == 49 {
                        pool.trim((round as u64) << 16).unwrap();
                    }
                }
                held.into_iter().for_each(|block| pool.free(block, own).unwrap());
                drop(next);
                // What is still on its way is nobody's to use: it is freed behind its stream.
                for (block, stream) in receiver.iter() {
                    gpu.order(stream, own);
                    pool.free(block, own).unwrap();
                }
            });
        }
        drop(senders);
    });
    pool.check().unwrap();
    assert_eq!(pool.stats().live_blocks, 0);
    // The threads may be ending still, with a hold on the pool.
    Pool::destroy(pool).unwrap();
    gpu.finish();
}

#[test]
fn streams_that_come_and_go_leave_nothing_behind() {
    // As real drivers do, and without.
    for reuse_handles in [true, false] {
        let gpu = Gpu::with(sim_cuda::Config { reuse_handles, ..Default::default() });
        let pool = gpu.pool_of(32 << 20);
        let other = gpu.stream();
        let mut late = Vec::new();
        for round in 0..5000 {
            if gpu.is_simulated() {
                sim_cuda::advance(10_000);
            }
            let stream = gpu.stream();
            let [small, large] = [1000, 3 * MIB].map(|size| pool.alloc(size, stream).unwrap());
            gpu.write(stream, large, 4096, round as u8);
            pool.free(large, stream).unwrap();
            if round % 300 == 0 {
                // Some outlive their stream.
                gpu.order(stream, other);
                late.push(small);
            } else {
                pool.free(small, stream).unwrap();
            }
            pool.forget_stream(stream).unwrap();
            gpu.destroy(stream);
            if late.len() > 3 {
                pool.free(late.remove(0), other).unwrap();
            }
        }
        if gpu.is_simulated() {
            assert_eq!(sim_cuda::calls("cuCtxSynchronize"), 0, "nobody was waited for");
        }
        // The front cache is there still: a hit makes no call.
        let block = pool.alloc(MIB, other).unwrap();
        pool.free(block, other).unwrap();
        let calls = gpu.calls(|| assert!(pool.alloc(MIB, other).is_ok()));
        assert_eq!(calls, 0);
        late.into_iter().for_each(|block| pool.free(block, other).unwrap());
        pool.check().unwrap();
        gpu.finish();
    }
}

#[test]
fn a_planned_step_makes_no_call_of_the_driver() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(256 << 20);
    let (a, b) = (gpu.stream(), gpu.stream());
    // Ten tensors of which each has the place of the last but one.
    let mut lifetime = Lifetime::new();
    let size = |id: u64| MIB + id as usize * 5000;
    for id in 0..10 {
        lifetime.record_alloc(2 * id, id, size(id) as u64).unwrap();
        lifetime.align(id, 512).unwrap();
        if id > 0 {
            lifetime.record_free(2 * id + 1, id - 1).unwrap();
        }
    }
    let options = Options::default();
    let plan = lifetime::plan(lifetime.instance().unwrap(), &options, None).unwrap();
    assert!(plan.arena_bytes() < 3 * MIB as u64);
    pool.apply_plan(&plan, a).unwrap();
    let step = |on: &dyn Fn(u64) -> Stream| {
        let mut last = None;
        for id in 0..10 {
            let block = pool.alloc(size(id), on(id)).unwrap();
            gpu.write(on(id), block, size(id), id as u8);
            if let Some((block, stream)) = last.replace((block, on(id))) {
                pool.free(block, stream).unwrap();
            }
        }
        let (block, stream) = last.unwrap();
        pool.free(block, stream).unwrap();
    };
    step(&|_| a);
    let calls = gpu.calls(|| (0..50).for_each(|_| step(&|_| a)));
    assert_eq!(calls, 0);
    // On two streams that take turns each waits for the other on the device, and no host does.
    step(&|id| if id % 2 == 0 { a } else { b });
    let usage = pool.plan_usage().unwrap();
    assert_eq!((usage.served, usage.diverged), (520, 0));
    assert_eq!(pool.stats().reserved[1], plan.arena_bytes().next_multiple_of(PAGE));
    if gpu.is_simulated() {
        let host = ["cuStreamSynchronize", "cuEventSynchronize", "cuCtxSynchronize"];
        assert_eq!(host.map(sim_cuda::calls), [0; 3]);
    }
    pool.check().unwrap();
    gpu.finish();
}
