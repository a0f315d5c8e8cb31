//! Prefetchers over pools on a GPU: who waits for what, what it costs, and that copies and kernels
//! overlap as far as they can. On the simulated driver every access is checked for order and time is
//! exact; the rest runs on a real one as well.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod gpu;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use forebay::error::Kind;
use forebay::order::Stream;
use forebay::pool::Pool;
use forebay::prefetch::{Batch, Config, Leaf, OnPool, Prefetcher, Progress, Source};
use gpu::{Gpu, MIB, cu};

const PAGE: u64 = 2 << 20;

type OnGpu = Prefetcher<OnPool>;

/// One that does all on the calling thread, so that a run is the same each time.
fn alone(slots: u32) -> Config {
    Config { slots, copy_threads: 0, ..Config::default() }
}

fn memory(bytes: &[u8]) -> Leaf {
    let source = Source::Memory { address: bytes.as_ptr() as usize, pinned: false };
    Leaf { source, bytes: bytes.len() as u64 }
}

fn submit(prefetcher: &OnGpu, leaves: &[Leaf]) -> u64 {
    // SAFETY: tests keep sources until they are not needed.
    unsafe { prefetcher.submit(leaves.iter().copied(), None) }.unwrap()
}

fn end(gpu: &Gpu, pool: Arc<Pool>, prefetcher: OnGpu) {
    prefetcher.destroy().unwrap();
    assert_eq!(pool.stats().live_blocks, 0);
    pool.check().unwrap();
    gpu.end_of_scratch();
    gpu.finish();
    Pool::destroy(pool).unwrap();
}

/// Whether the bytes of a batch are these, once `stream` is done.
fn holds(gpu: &Gpu, stream: Stream, batch: Batch, bytes: &[u8]) -> bool {
    gpu.contents(stream, batch.address, bytes.len()) == bytes
}

#[test]
fn a_batch_goes_in_one_copy() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(256 << 20);
    for threads in [0, 2] {
        let config = Config { copy_threads: threads, ..alone(3) };
        let prefetcher = Prefetcher::over(&pool, &config).unwrap();
        let stream = gpu.stream();
        let sources: Vec<Vec<u8>> = (0..780).map(|at| vec![at as u8; 1 + at * 37 % 9000]).collect();
        let leaves: Vec<Leaf> = sources.iter().map(|source| memory(source)).collect();
        for _ in 0..5 {
            let ticket = submit(&prefetcher, &leaves);
            let batch = prefetcher.wait(ticket, stream).unwrap();
            let whole = gpu.contents(stream, batch.address, batch.bytes as usize);
            let mut at = 0usize;
            for source in &sources {
                at = at.next_multiple_of(256);
                assert!(whole[at..at + source.len()] == source[..]);
                at += source.len();
            }
            assert_eq!(prefetcher.poll(ticket).unwrap(), Progress::There);
            prefetcher.release(ticket, stream).unwrap();
        }
        let stats = prefetcher.stats().unwrap();
        let payload: usize = sources.iter().map(Vec::len).sum();
        assert_eq!((stats.sends, stats.staged_bytes), (5, 5 * payload as u64));
        prefetcher.destroy().unwrap();
        pool.forget_stream(stream).unwrap();
        gpu.destroy(stream);
    }
    let prefetcher = Prefetcher::over(&pool, &alone(1)).unwrap();
    end(&gpu, pool, prefetcher);
}

#[test]
fn pinned_memory_is_as_much_as_the_slots_and_goes_with_them() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(256 << 20);
    for (slots, bytes) in [(1, 100), (3, 5 << 20), (4, 4 << 20)] {
        let config = Config { slot_bytes: bytes, ..alone(slots) };
        let prefetcher = Prefetcher::over(&pool, &config).unwrap();
        let source = vec![7; bytes as usize];
        for _ in 0..10 {
            let ticket = submit(&prefetcher, &[memory(&source)]);
            prefetcher.wait(ticket, Stream::DEFAULT).unwrap();
            prefetcher.release(ticket, Stream::DEFAULT).unwrap();
        }
        let stats = prefetcher.stats().unwrap();
        let expected = u64::from(slots) * bytes.next_multiple_of(PAGE);
        assert_eq!((stats.pinned_bytes, stats.pinned_peak), (expected, expected));
        assert_eq!((stats.slot_bytes, stats.pageable_bytes), (u64::from(slots) * bytes, 0));
        prefetcher.destroy().unwrap();
    }
    // What is over the limit is staged without.
    let config = Config { slot_bytes: PAGE, max_pinned_bytes: 2 * PAGE, ..alone(3) };
    let prefetcher = Prefetcher::over(&pool, &config).unwrap();
    let stats = prefetcher.stats().unwrap();
    assert_eq!((stats.pinned_bytes, stats.pageable_bytes), (2 * PAGE, PAGE));
    let stream = gpu.stream();
    for value in 0..9 {
        let source = vec![value; MIB];
        let ticket = submit(&prefetcher, &[memory(&source)]);
        let batch = prefetcher.wait(ticket, stream).unwrap();
        assert!(holds(&gpu, stream, batch, &source));
        prefetcher.release(ticket, stream).unwrap();
    }
    end(&gpu, pool, prefetcher);
}

#[test]
fn pinned_sources_and_slots_that_are_lent_are_not_copied() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(128 << 20);
    let prefetcher = Prefetcher::over(&pool, &alone(2)).unwrap();
    let stream = gpu.stream();
    let mut pinned = 0u64;
    assert_eq!(cu!(gpu, cuMemHostAlloc(&mut pinned => *mut u64, MIB => usize, 0 => u32)), 0);
    // SAFETY: just allocated.
    let own = unsafe { std::slice::from_raw_parts_mut(pinned as *mut u8, MIB) };
    let small = vec![1; 1000];
    for round in 0..5u8 {
        own.fill(round + 10);
        let source = Source::Memory { address: pinned as usize, pinned: true };
        let straight = Leaf { source, bytes: MIB as u64 };
        let ticket = submit(&prefetcher, &[memory(&small), straight, memory(&small)]);
        let batch = prefetcher.wait(ticket, stream).unwrap();
        let whole = gpu.contents(stream, batch.address, batch.bytes as usize);
        assert!(whole[..1000] == small[..] && whole[1024..1024 + MIB] == *own);
        assert!(whole[1024 + MIB..] == small[..]);
        prefetcher.release(ticket, stream).unwrap();
        let lent = prefetcher.lend(MIB as u64, None).unwrap();
        // SAFETY: it is lent to the test.
        unsafe { std::ptr::write_bytes(lent.address as *mut u8, round + 90, MIB) };
        prefetcher.submit_lent(lent.ticket, MIB as u64).unwrap();
        let batch = prefetcher.wait(lent.ticket, stream).unwrap();
        assert!(gpu.is_all(stream, batch.address, MIB, round + 90));
        prefetcher.release(lent.ticket, stream).unwrap();
    }
    // One that is called off is not read any more.
    let source = Source::Memory { address: pinned as usize, pinned: true };
    let ticket = submit(&prefetcher, &[Leaf { source, bytes: MIB as u64 }]);
    prefetcher.cancel(ticket).unwrap();
    let stats = prefetcher.stats().unwrap();
    assert_eq!((stats.staged_bytes, stats.sends), (5 * 2000, 5 * 3 + 5 + 1));
    // Nor is one that nobody has got when it is over for all.
    let ticket = submit(&prefetcher, &[Leaf { source, bytes: MIB as u64 }]);
    if gpu.is_simulated() {
        assert_eq!(prefetcher.poll(ticket).unwrap(), Progress::Sent);
    }
    prefetcher.close().unwrap();
    assert_eq!(prefetcher.poll(ticket).unwrap(), Progress::There);
    assert_eq!(cu!(gpu, cuMemFreeHost(pinned => u64)), 0);
    end(&gpu, pool, prefetcher);
}

/// What one step of a consumer costs, once the first ones are over: no allocation, no wait of the
/// host, and calls of the driver that are counted here.
#[test]
fn a_step_allocates_nothing_and_waits_for_nothing() {
    let gpu = Gpu::new();
    if !gpu.is_simulated() {
        return;
    }
    let pool = gpu.pool_of(64 << 20);
    let prefetcher = Prefetcher::over(&pool, &alone(3)).unwrap();
    let stream = gpu.stream();
    let source = vec![3u8; MIB];
    let step = |ahead: &mut Vec<u64>| {
        ahead.push(submit(&prefetcher, &[memory(&source)]));
        if ahead.len() < 3 {
            return;
        }
        let ticket = ahead.remove(0);
        let batch = prefetcher.wait(ticket, stream).unwrap();
        let range = (batch.address as u64, batch.bytes);
        assert_eq!(sim_cuda::launch(stream.0, "read", &[range], &[], 10_000, None), 0);
        prefetcher.release(ticket, stream).unwrap();
        // The loader takes longer than the copy.
        sim_cuda::advance(60_000);
    };
    let mut ahead = Vec::new();
    (0..6).for_each(|_| step(&mut ahead));
    let waits =
        || ["cuEventSynchronize", "cuStreamSynchronize", "cuCtxSynchronize"].map(sim_cuda::calls);
    let made = || {
        ["cuEventCreate", "cuMemAlloc_v2", "cuMemCreate", "cuMemHostRegister_v2"]
            .map(sim_cuda::calls)
    };
    let step_calls = || {
        [
            "cuMemcpyHtoDAsync_v2",
            "cuEventRecord",
            "cuStreamWaitEvent",
            "cuEventQuery",
            "cuStreamIsCapturing",
        ]
        .map(sim_cuda::calls)
    };
    let (waited, made_before, pool_before) = (waits(), made(), pool.stats());
    let (calls, library) = (step_calls(), gpu.api.calls());
    (0..1000).for_each(|_| step(&mut ahead));
    assert_eq!((waits(), made()), (waited, made_before));
    assert_eq!(pool.stats().requested[2], pool_before.requested[2]);
    let per_step: Vec<u64> =
        step_calls().iter().zip(calls).map(|(now, before)| (now - before) / 1000).collect();
    // One copy; a mark behind it and one behind the consumer; a wait for each.
    assert_eq!(per_step, [1, 2, 2, 1, 2]);
    // And entering the context for each of five calls: current, and the mode there and back.
    assert!(gpu.api.calls() - library <= 24 * 1000, "{}", gpu.api.calls() - library);
    for ticket in ahead {
        prefetcher.cancel(ticket).unwrap();
    }
    end(&gpu, pool, prefetcher);
}

/// Nanoseconds of the virtual clock that `steps` steps take. The loader and the consumer are one
/// thread of the host, the consumer `behind` batches behind.
fn time_of(
    slots: u32,
    behind: usize,
    load: u64,
    bytes: usize,
    compute: impl Fn(u64) -> u64,
    steps: u64,
) -> u64 {
    let gpu = Gpu::with(sim_cuda::Config { bookkeeping: true, ..Default::default() });
    let pool = gpu.pool_of(1 << 30);
    let config = Config { slot_bytes: bytes as u64, ..alone(slots) };
    let prefetcher = Prefetcher::over(&pool, &config).unwrap();
    let stream = gpu.stream();
    let source = vec![1u8; bytes];
    sim_cuda::run_all();
    let begin = sim_cuda::now();
    let mut ahead = VecDeque::new();
    for step in 0..steps + behind as u64 {
        if step < steps {
            // The device goes on meanwhile.
            sim_cuda::advance(load);
            ahead.push_back((submit(&prefetcher, &[memory(&source)]), step));
        }
        if step >= behind as u64
            && let Some((ticket, step)) = ahead.pop_front()
        {
            let batch = prefetcher.wait(ticket, stream).unwrap();
            let range = (batch.address as u64, batch.bytes);
            assert_eq!(sim_cuda::launch(stream.0, "step", &[range], &[], compute(step), None), 0);
            prefetcher.release(ticket, stream).unwrap();
        }
    }
    sim_cuda::run_all();
    let took = sim_cuda::now() - begin;
    end(&gpu, pool, prefetcher);
    took
}

/// Nanoseconds that a copy of so many bytes takes on the simulated link.
fn copy_ns(bytes: usize) -> u64 {
    bytes as u64 / sim_cuda::Config::default().link_bandwidth
}

#[test]
fn stages_overlap_completely() {
    if gpu::is_real() {
        return;
    }
    let bytes = 25 * 40_000;
    let copy = copy_ns(bytes);
    assert_eq!(copy, 40_000);
    // Copy and compute; load, copy and compute: each of them the slowest in turn.
    for (load, compute) in [
        (0, 10_000),
        (0, 40_000),
        (0, 90_000),
        (30_000, 10_000),
        (90_000, 20_000),
        (30_000, 70_000),
    ] {
        let slowest = load.max(copy).max(compute);
        let time = |behind, steps| time_of(3, behind, load, bytes, |_| compute, steps);
        // The other stages once, and the slowest in every step.
        let ideal = load + copy + compute - slowest + 300 * slowest;
        assert_eq!(time(0, 300), ideal, "load {load}, copy {copy}, compute {compute}");
        // A consumer that begins two batches later loses that, and nothing in any later step.
        assert_eq!(time(2, 300) - time(2, 100), 200 * slowest, "load {load}, compute {compute}");
    }
    // With one slot nothing overlaps: that is what synchronous means.
    assert_eq!(time_of(1, 0, 0, bytes, |_| 40_000, 300), 300 * (copy + 40_000));
}

/// With times that vary, a pipeline is as fast as the slots allow: the next copy into a slot begins
/// when the link is free, the batch is loaded, and the slot's last reader is done.
#[test]
fn jitter_costs_what_the_slots_cannot_take_and_no_more() {
    if gpu::is_real() {
        return;
    }
    let bytes = 25 * 40_000;
    let copy = copy_ns(bytes);
    let steps = 400u64;
    let noise = |seed: u64, step: u64| (step * 2_654_435_761 + seed * 40_503) >> 7 & 0xffff;
    let compute = |step| 10_000 + noise(1, step);
    for slots in [2u32, 3, 5] {
        let took = time_of(slots, 0, 0, bytes, compute, steps);
        // The same in arithmetic.
        let (mut copied, mut computed) = (vec![0u64; steps as usize], vec![0u64; steps as usize]);
        for step in 0..steps as usize {
            let link = if step > 0 { copied[step - 1] } else { 0 };
            let slot = step.checked_sub(slots as usize).map_or(0, |last| computed[last]);
            copied[step] = link.max(slot) + copy;
            let free = if step > 0 { computed[step - 1] } else { 0 };
            computed[step] = copied[step].max(free) + compute(step as u64);
        }
        assert_eq!(took, computed[steps as usize - 1], "{slots} slots");
    }
}

/// Kernels that read batches on several streams, slots that are used again, and readers that are
/// late: no access is without order, and every batch is what was submitted.
#[test]
fn ten_thousand_steps_with_late_readers() {
    let gpu = Gpu::new();
    let steps = if gpu.is_simulated() { 10_000 } else { 2_000 };
    let pool = gpu.pool_of(64 << 20);
    for threads in [0, 2] {
        let config = Config { copy_threads: threads, ..alone(3) };
        let prefetcher = Prefetcher::over(&pool, &config).unwrap();
        let streams = [gpu.stream(), gpu.stream()];
        let bytes = 20_000;
        let mut sources: Vec<Vec<u8>> = (0..4).map(|_| vec![0; bytes]).collect();
        let mut ahead = VecDeque::new();
        let mut sum = 0u64;
        for step in 0..steps {
            let value = (step % 251) as u8;
            // Its batch was waited for, so that it is not needed any more.
            let source = &mut sources[step % 4];
            source.fill(value);
            let ticket = submit(&prefetcher, &[memory(source)]);
            ahead.push_back((ticket, value));
            if ahead.len() == 3 {
                let (ticket, value) = ahead.pop_front().unwrap();
                let stream = streams[step % 2];
                let batch = prefetcher.wait(ticket, stream).unwrap();
                gpu.read(stream, batch.address, bytes);
                if step % 64 == 0 {
                    assert!(gpu.is_all(stream, batch.address, bytes, value), "step {step}");
                    sum += 1;
                }
                prefetcher.release(ticket, stream).unwrap();
            }
        }
        assert_eq!(sum, steps as u64 / 64);
        for (ticket, _) in ahead {
            prefetcher.cancel(ticket).unwrap();
        }
        prefetcher.destroy().unwrap();
    }
    let prefetcher = Prefetcher::over(&pool, &alone(1)).unwrap();
    end(&gpu, pool, prefetcher);
}

#[test]
fn a_stream_that_captures_is_refused_and_the_capture_goes_on() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let prefetcher = Prefetcher::over(&pool, &alone(2)).unwrap();
    let stream = gpu.stream();
    let source = vec![5u8; 1000];
    let held = submit(&prefetcher, &[memory(&source)]);
    prefetcher.wait(held, stream).unwrap();
    let ticket = submit(&prefetcher, &[memory(&source)]);
    assert_eq!(cu!(gpu, cuStreamBeginCapture_v2(stream.0 => u64, 2 => u32)), 0);
    for refused in [prefetcher.wait(ticket, stream).map(drop), prefetcher.release(held, stream)] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidState);
        assert!(error.message().contains("capturing"), "{error}");
    }
    let mut graph = 0u64;
    assert_eq!(cu!(gpu, cuStreamEndCapture(stream.0 => u64, &mut graph => *mut u64)), 0);
    assert_eq!(cu!(gpu, cuGraphDestroy(graph => u64)), 0);
    prefetcher.release(held, stream).unwrap();
    let batch = prefetcher.wait(ticket, stream).unwrap();
    assert!(holds(&gpu, stream, batch, &source));
    prefetcher.release(ticket, stream).unwrap();
    let error = prefetcher.wait(ticket, Stream(0x77770)).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    end(&gpu, pool, prefetcher);
}

#[test]
fn growing_slots_wait_for_who_uses_the_old_ones() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(256 << 20);
    let prefetcher = Prefetcher::over(&pool, &alone(2)).unwrap();
    let stream = gpu.stream();
    for size in [1000, 5000, 3 * MIB, 20 * MIB] {
        for value in 0..4u8 {
            let source = vec![value; size];
            let ticket = submit(&prefetcher, &[memory(&source)]);
            let batch = prefetcher.wait(ticket, stream).unwrap();
            assert!(gpu.is_all(stream, batch.address, size, value));
            gpu.read(stream, batch.address, size);
            prefetcher.release(ticket, stream).unwrap();
            // What the slot had goes to others only behind that.
            let other = gpu.stream();
            let block = pool.alloc(size, other).unwrap();
            gpu.write(other, block, size, 9);
            pool.free(block, other).unwrap();
            pool.forget_stream(other).unwrap();
            gpu.destroy(other);
        }
    }
    end(&gpu, pool, prefetcher);
}

/// One run of a script in which the driver's call number `n` is refused. Whatever became of a batch,
/// who got it got the right bytes.
fn script(gpu: &Gpu, n: u64) -> bool {
    let pool = gpu.pool_of(64 << 20);
    let streams = [gpu.stream(), gpu.stream()];
    gpu.api.refuse(n, 999);
    let before = gpu.api.calls();
    let config = Config { slot_bytes: 4096, max_slot_bytes: 1 << 20, ..alone(2) };
    if let Ok(prefetcher) = Prefetcher::over(&pool, &config) {
        for (step, size) in [100, 4096, 4096, 9000, 100, 9000, 5].into_iter().enumerate() {
            let stream = streams[step % 2];
            let source = vec![step as u8 + 1; size];
            // SAFETY: the source stays in this step, and the batch is over then.
            let submitted =
                unsafe { prefetcher.submit([memory(&source)].into_iter(), Some(Duration::ZERO)) };
            let Ok(ticket) = submitted else { continue };
            let mut waited = prefetcher.wait(ticket, stream);
            if waited.is_err() && prefetcher.poll(ticket).is_ok() {
                // The stream could not be told: the batch is still there.
                waited = prefetcher.wait(ticket, stream);
                assert!(waited.is_ok(), "call {n}: two errors");
            }
            let Ok(batch) = waited else { continue };
            assert!(gpu.is_all(stream, batch.address, size, step as u8 + 1), "call {n}");
            if prefetcher.release(ticket, stream).is_err() {
                prefetcher.release(ticket, stream).unwrap();
            }
        }
        let stats = prefetcher.stats().unwrap();
        assert_eq!(stats.used_slots, 0, "call {n}");
        let _ = prefetcher.destroy();
    }
    let reached = gpu.api.calls() - before > n;
    gpu.api.refuse(u64::MAX, 0);
    assert_eq!(pool.stats().live_blocks, 0, "call {n}");
    pool.check().unwrap();
    for stream in streams {
        pool.forget_stream(stream).unwrap();
        gpu.destroy(stream);
    }
    gpu.finish();
    Pool::destroy(pool).unwrap();
    reached
}

#[test]
fn every_call_of_the_driver_may_fail() {
    if gpu::is_real() {
        return;
    }
    let mut n = 0;
    loop {
        let gpu = Gpu::new();
        if !script(&gpu, n) {
            break;
        }
        let left = sim_cuda::used(0);
        assert_eq!(left, 0, "call {n}: {left} bytes of the device are left");
        n += 1;
    }
    assert!(n > 200, "{n}");
}

#[test]
fn a_device_that_breaks_is_an_error_for_everybody() {
    if gpu::is_real() {
        return;
    }
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let config = Config { copy_threads: 2, ..alone(3) };
    let prefetcher = Prefetcher::over(&pool, &config).unwrap();
    let source = vec![1u8; MIB];
    let ticket = submit(&prefetcher, &[memory(&source)]);
    prefetcher.wait(ticket, Stream::DEFAULT).unwrap();
    sim_cuda::break_with(700);
    // SAFETY: the source stays.
    let submitted = unsafe { prefetcher.submit([memory(&source)].into_iter(), None) };
    assert!(submitted.and_then(|ticket| prefetcher.wait(ticket, Stream::DEFAULT)).is_err());
    assert!(prefetcher.release(ticket, Stream::DEFAULT).is_err());
    assert!(prefetcher.destroy().is_err());
}
