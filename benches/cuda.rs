//! Pools on a GPU: `make bench-cuda [TRACES=folder]`. What it costs to find memory, with how much
//! of it lives; what recorded and synthetic traces reserve, and the calls of the driver that this
//! takes. On the simulated driver, or with `FOREBAY_TEST_GPU=1` on a real one.
//!
//! One JSON line per figure on stdout: bench, case, ours, peer_name, peer, ratio, target, met.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/gpu/mod.rs"]
mod gpu;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Instant;

use forebay::order::Stream;
use forebay::pool::{Config, Pool};
use forebay::replay::{Options, replay};
use forebay::trace::{Action, Trace};
use gpu::{Gpu, MIB};

/// Microseconds of a map, an access grant and an unmap, on an A100.
const MAP_US: f64 = 1.5;
const ACCESS_US: f64 = 36.0;
const UNMAP_US: f64 = 26.0;

fn emit(case: &str, ours: f64, peer: Option<(&str, f64)>, target: Option<f64>) {
    let number = |value: Option<f64>| value.map_or("null".into(), |value| format!("{value:.4}"));
    let (name, peer) = peer
        .map_or((String::from("null"), None), |(name, value)| (format!("\"{name}\""), Some(value)));
    let ratio = peer.map(|peer| ours / peer);
    let met = target.map_or("null".into(), |target| (ratio.unwrap_or(ours) <= target).to_string());
    println!(
        "{{\"bench\":\"cuda\",\"case\":\"{case}\",\"ours\":{ours:.4},\"peer_name\":{name},\
         \"peer\":{},\"ratio\":{},\"target\":{},\"met\":{met}}}",
        number(peer),
        number(ratio),
        number(target),
    );
}

/// CPU time of the calling thread, in nanoseconds.
fn thread_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn simulated() -> sim_cuda::Config {
    // The clock goes on with the calls, so that work is done some calls after it was queued.
    sim_cuda::Config {
        bookkeeping: true,
        check_order: false,
        tick_ns: 1000,
        capacity: 100 << 30,
        ..Default::default()
    }
}

/// Nanoseconds per operation of a pair, with `live` blocks.
fn hits(gpu: &Gpu, live: usize) -> (f64, u64) {
    let pool = gpu.pool_of(64 << 30);
    let stream = gpu.stream();
    let blocks: Vec<usize> = (0..live).map(|_| pool.alloc(64 << 10, stream).unwrap()).collect();
    let turns = 200_000;
    let mut calls = 0;
    let rounds = (0..7).map(|_| {
        let before = gpu.api.calls();
        let start = thread_ns();
        for turn in 0..turns {
            let size = 1 << (9 + turn % 12);
            let block = pool.alloc(size, stream).unwrap();
            pool.free(block, stream).unwrap();
        }
        let end = thread_ns();
        calls = gpu.api.calls() - before;
        (end - start) as f64 / (2 * turns) as f64
    });
    let ns = median(rounds.collect());
    blocks.into_iter().for_each(|block| pool.free(block, stream).unwrap());
    (ns, calls)
}

/// Nanoseconds per operation of one thread, and of each of two on two streams.
fn threads(gpu: &Gpu) -> (f64, f64) {
    let pool = gpu.pool_of(4 << 30);
    let pairs = |stream: Stream| {
        let turns = 300_000;
        let start = thread_ns();
        for turn in 0..turns {
            let block = pool.alloc(1 << (9 + turn % 12), stream).unwrap();
            pool.free(block, stream).unwrap();
        }
        (thread_ns() - start) as f64 / (2 * turns) as f64
    };
    let streams = [gpu.stream(), gpu.stream()];
    let (mut alone, mut both) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        alone.push(std::thread::scope(|scope| scope.spawn(|| pairs(streams[0])).join().unwrap()));
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            let spawn = |stream| {
                let (start, pairs) = (&start, &pairs);
                scope.spawn(move || {
                    start.wait();
                    pairs(stream)
                })
            };
            let two: Vec<_> = streams.map(spawn).into_iter().collect();
            let two: f64 = two.into_iter().map(|one| one.join().unwrap()).sum();
            both.push(two / 2.0);
        });
    }
    (median(alone), median(both))
}

/// Most live bytes of a trace, each block a multiple of 512.
fn peak_live(trace: &Trace) -> u64 {
    let mut blocks = HashMap::new();
    let (mut live, mut peak) = (0, 0);
    for event in &trace.events {
        match event.action {
            Action::Allocate => {
                let size = event.size.next_multiple_of(512);
                live += size;
                blocks.insert(event.pointer, size);
            }
            Action::Free => live -= blocks.remove(&event.pointer).unwrap_or(0),
            Action::AllocateFailure => {}
        }
        peak = peak.max(live);
    }
    peak
}

struct Replayed {
    failed: u64,
    reserved: u64,
    maps: u64,
    ranges: u64,
    calls: u64,
    waits: u64,
    us: f64,
    ns: f64,
}

fn replay_one(trace: &Trace, limit: u64) -> Replayed {
    let gpu = Gpu::with(simulated());
    let pool = gpu.pool(&Config { max_bytes: limit, ..Config::default() });
    let called = |names: &[&str]| -> u64 { names.iter().map(|name| sim_cuda::calls(name)).sum() };
    let waits = ["cuEventSynchronize", "cuStreamSynchronize", "cuCtxSynchronize"];
    let (calls, waited) = (gpu.api.calls(), called(&waits));
    let report = replay(trace, &*pool, &Options::default(), |number| {
        if number == 0 { 0 } else { gpu.stream().0 as usize }
    })
    .unwrap();
    let (maps, ranges) = (called(&["cuMemMap"]), called(&["cuMemSetAccess"]));
    let unmaps = called(&["cuMemUnmap"]);
    let replayed = Replayed {
        failed: report.failed_allocations,
        reserved: pool.stats().reserved[1],
        maps,
        ranges,
        calls: gpu.api.calls() - calls,
        waits: called(&waits) - waited,
        us: maps as f64 * MAP_US + ranges as f64 * ACCESS_US + unmaps as f64 * UNMAP_US,
        ns: report.nanoseconds as f64 / (report.allocations + report.frees) as f64,
    };
    pool.check().unwrap();
    let _ = pool.close();
    drop(pool);
    replayed
}

fn traces(folder: &PathBuf) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(".csv"))
        .collect();
    files.sort();
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy();
        let name = name.split(".csv").next().unwrap();
        let trace = Trace::load(&path).unwrap();
        let live = peak_live(&trace);
        let target = if live < 1 << 30 { 1.03 } else { 1.02 };
        let free = replay_one(&trace, 96 << 30);
        let peak = Some(("peak live, GiB", live as f64 / (1u64 << 30) as f64));
        let gib = free.reserved as f64 / (1u64 << 30) as f64;
        emit(&format!("{name}-reserved"), gib, peak, Some(target));
        for (what, value) in [
            ("pages-mapped", free.maps as f64),
            ("ranges-mapped", free.ranges as f64),
            ("driver-calls", free.calls as f64),
            ("driver-ms", free.us / 1000.0),
            ("ns-per-call", free.ns),
        ] {
            emit(&format!("{name}-{what}"), value, None, None);
        }
        let limit = (live as f64 * 1.03) as u64 / gpu::PAGE * gpu::PAGE;
        let limited = replay_one(&trace, limit);
        emit(&format!("{name}-limited-failures"), limited.failed as f64, None, Some(0.0));
        emit(&format!("{name}-limited-host-waits"), limited.waits as f64, None, Some(0.0));
        emit(&format!("{name}-limited-pages-mapped"), limited.maps as f64, None, None);
        emit(&format!("{name}-limited-driver-ms"), limited.us / 1000.0, None, None);
    }
}

/// Blocks live and die on four streams, and are used on a second one before they die. Returns
/// microseconds per step, and peak reserved over peak live bytes.
fn four_streams(gpu: &Gpu) -> (f64, f64) {
    let pool = gpu.pool_of(8 << 30);
    let streams: Vec<Stream> = (0..4).map(|_| gpu.stream()).collect();
    let mut state = 1u64;
    let (mut live, mut peak) = (0, 0);
    let mut held: Vec<(usize, usize, Stream)> = Vec::new();
    gpu.synchronize_all();
    let start = Instant::now();
    let steps = 400;
    for step in 0..steps {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let size = 1 + (state >> 33) as usize % (16 * MIB);
        let stream = streams[step % 4];
        let block = pool.alloc(size, stream).unwrap();
        gpu.write(stream, block, size, 0);
        held.push((block, size, stream));
        live += size;
        peak = peak.max(live);
        if held.len() > 40 {
            let other = streams[(step + 1) % 4];
            let (block, size, own) = held.remove(step * 7 % 40);
            gpu.order(own, other);
            gpu.write(other, block, size, 1);
            if other != own {
                pool.record_stream(block, other).unwrap();
            }
            pool.free(block, own).unwrap();
            live -= size;
        }
    }
    for (block, _, stream) in held {
        pool.free(block, stream).unwrap();
    }
    gpu.synchronize_all();
    let us = start.elapsed().as_secs_f64() * 1e6 / steps as f64;
    (us, pool.stats().reserved[1] as f64 / peak as f64)
}

/// Nanoseconds per operation where one of many live blocks of mixed sizes is replaced at random.
fn replacing(gpu: &Gpu, live: usize) -> f64 {
    let pool = gpu.pool_of(60 << 30);
    let stream = gpu.stream();
    let mut state = 1u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize
    };
    let mut blocks: Vec<usize> =
        (0..live).map(|_| pool.alloc(512 + next() % (256 << 10), stream).unwrap()).collect();
    let turns = 100_000;
    let rounds = (0..5).map(|_| {
        let start = thread_ns();
        for _ in 0..turns {
            let at = next() % live;
            pool.free(blocks[at], stream).unwrap();
            blocks[at] = pool.alloc(512 + next() % (256 << 10), stream).unwrap();
        }
        (thread_ns() - start) as f64 / (2 * turns) as f64
    });
    let ns = median(rounds.collect());
    blocks.into_iter().for_each(|block| pool.free(block, stream).unwrap());
    ns
}

/// Calls of the driver in a step that was repeated eight times before.
fn calls_of_a_step(gpu: &Gpu) -> u64 {
    let pool: std::sync::Arc<Pool> = gpu.pool_of(1 << 30);
    let stream = gpu.stream();
    let step = || {
        let blocks: Vec<usize> =
            (1..40).map(|number| pool.alloc(number * MIB / 3, stream).unwrap()).collect();
        blocks.into_iter().for_each(|block| pool.free(block, stream).unwrap());
    };
    (0..8).for_each(|_| step());
    gpu.calls(step)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let gpu = Gpu::with(simulated());
    for live in [1_000, 10_000, 100_000] {
        let (ns, calls) = hits(&gpu, live);
        emit(&format!("hit-{live}-live-ns"), ns, None, Some(40.0));
        emit(&format!("hit-{live}-live-driver-calls"), calls as f64, None, Some(0.0));
    }
    let (alone, both) = threads(&gpu);
    emit("two-threads-two-streams-ns", both, Some(("one thread", alone)), Some(1.1));
    emit("repeated-step-driver-calls", calls_of_a_step(&gpu) as f64, None, Some(0.0));
    for live in [1_000, 10_000, 100_000] {
        emit(&format!("replace-{live}-live-ns"), replacing(&gpu, live), None, None);
    }
    let (us, reserved) = four_streams(&gpu);
    emit("four-streams-us-per-step", us, None, None);
    emit("four-streams-reserved", reserved, None, None);
    drop(gpu);
    match arguments.first() {
        Some(folder) if !gpu::is_real() => traces(&PathBuf::from(folder)),
        Some(_) => eprintln!("bench-cuda: traces are replayed on the simulated driver only"),
        None => eprintln!("bench-cuda: no TRACES=folder: no trace was replayed"),
    }
}
