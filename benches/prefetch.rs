//! Prefetchers: `make bench-prefetch`. What staging, handing on and overlapping cost beside the limit
//! that was measured in the same run: two threads that copy, `pread`, and stages that never wait.
//!
//! One JSON line per figure on stdout: bench, case, ours, peer_name, peer, ratio, target, met. On a
//! machine where others run, figures of time are what they are.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/gpu/mod.rs"]
mod gpu;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use forebay::order::Stream;
use forebay::pool::{self, Pool};
use forebay::prefetch::{Config, Leaf, OnPool, Prefetcher, Source};
use gpu::Gpu;

const MIB: usize = 1 << 20;
const ROUNDS: usize = 7;

/// Prints a figure; `least`: the ratio is to be that, and `most`: ours is to be at most that.
fn emit(case: &str, ours: f64, peer: Option<(&str, f64)>, least: Option<f64>, most: Option<f64>) {
    let number = |value: Option<f64>| value.map_or("null".into(), |value| format!("{value:.4}"));
    let ratio = peer.map(|(_, peer)| ours / peer);
    let name = peer.map_or("null".into(), |(name, _)| format!("\"{name}\""));
    let met = match (least, most) {
        (Some(least), _) => (ratio.unwrap_or(ours) >= least).to_string(),
        (_, Some(most)) => (ours <= most).to_string(),
        _ => "null".into(),
    };
    println!(
        "{{\"bench\":\"prefetch\",\"case\":\"{case}\",\"ours\":{ours:.4},\"peer_name\":{name},\
         \"peer\":{},\"ratio\":{},\"target\":{},\"met\":{met}}}",
        number(peer.map(|(_, peer)| peer)),
        number(ratio),
        number(least.or(most)),
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn memory(bytes: &[u8]) -> Leaf {
    let source = Source::Memory { address: bytes.as_ptr() as usize, pinned: false };
    Leaf { source, bytes: bytes.len() as u64 }
}

fn submit(prefetcher: &Prefetcher<OnPool>, leaf: Leaf) -> u64 {
    // SAFETY: sources live as long as the measurement.
    unsafe { prefetcher.submit([leaf].into_iter(), None) }.unwrap()
}

fn take(prefetcher: &Prefetcher<OnPool>, ticket: u64) {
    prefetcher.wait(ticket, Stream::DEFAULT).unwrap();
    prefetcher.release(ticket, Stream::DEFAULT).unwrap();
}

fn host_pool() -> Arc<Pool> {
    Pool::on_host(&pool::Config::default()).unwrap()
}

fn with_slots(slots: u32, copy_threads: u32, slot_bytes: usize) -> Config {
    let slot_bytes = slot_bytes as u64;
    Config { slots, copy_threads, slot_bytes, ..Config::default() }
}

/// GB/s of `bytes` staged `count` times by two threads.
fn staged(prefetcher: &Prefetcher<OnPool>, source: &[u8], count: usize) -> f64 {
    let begun = Instant::now();
    let mut ahead = VecDeque::new();
    for _ in 0..count {
        if ahead.len() == 3 {
            take(prefetcher, ahead.pop_front().unwrap());
        }
        ahead.push_back(submit(prefetcher, memory(source)));
    }
    ahead.into_iter().for_each(|ticket| take(prefetcher, ticket));
    (count * source.len()) as f64 / begun.elapsed().as_nanos() as f64
}

/// GB/s of two threads that copy halves of `source` to three places in turn.
fn copied(targets: &mut [Vec<u8>], source: &[u8], count: usize) -> f64 {
    let half = source.len() / 2;
    let begun = Instant::now();
    let mut parts: [Vec<&mut [u8]>; 2] = [Vec::new(), Vec::new()];
    for target in targets.iter_mut() {
        let (first, second) = target.split_at_mut(half);
        parts[0].push(first);
        parts[1].push(second);
    }
    scope(|threads| {
        for (index, mut own) in parts.into_iter().enumerate() {
            let from = &source[index * half..(index + 1) * half];
            threads.spawn(move || {
                for round in 0..count {
                    let places = own.len();
                    own[round % places].copy_from_slice(from);
                }
            });
        }
    });
    (count * half * 2) as f64 / begun.elapsed().as_nanos() as f64
}

fn staging() {
    let bytes = 32 * MIB;
    let source = vec![7u8; bytes];
    let mut targets: Vec<Vec<u8>> = (0..3).map(|_| vec![1u8; bytes]).collect();
    let count = 12;
    let pool = host_pool();
    let host = Prefetcher::over(&pool, &with_slots(3, 2, bytes)).unwrap();
    // A device whose memory is counted and not there, so that all that is measured is staging.
    let gpu = Gpu::with(sim_cuda::Config { bookkeeping: true, ..Default::default() });
    let device = gpu.pool_of(1 << 30);
    let cuda = Prefetcher::over(&device, &with_slots(3, 2, bytes)).unwrap();
    let (mut plain, mut on_host, mut on_cuda) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(copied(&mut targets, &source, count));
        on_host.push(staged(&host, &source, count));
        on_cuda.push(staged(&cuda, &source, count));
    }
    // The best of each: what others do on the machine takes from all of them.
    let best = |rates: Vec<f64>| rates.into_iter().fold(0.0, f64::max);
    let plain = best(plain);
    let peer = Some(("memcpy, two threads, GB/s", plain));
    emit("stage-32MiB-host-gbps", best(on_host), peer, Some(0.95), None);
    emit("stage-32MiB-pinned-gbps", best(on_cuda), peer, Some(0.95), None);
    host.destroy().unwrap();
    cuda.destroy().unwrap();
}

fn handing_on() {
    let pool = host_pool();
    let prefetcher = Prefetcher::over(&pool, &with_slots(3, 1, 4096)).unwrap();
    let source = [1u8; 64];
    let (mut round_trip, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..20_000 {
        let begun = Instant::now();
        let ticket = submit(&prefetcher, memory(&source));
        take(&prefetcher, ticket);
        round_trip.push(begun.elapsed().as_nanos() as f64 / 1000.0);
    }
    for _ in 0..5_000 {
        let ticket = submit(&prefetcher, memory(&source));
        while prefetcher.poll(ticket).unwrap() != forebay::prefetch::Progress::There {
            std::thread::yield_now();
        }
        let begun = Instant::now();
        take(&prefetcher, ticket);
        ready.push(begun.elapsed().as_nanos() as f64 / 1000.0);
    }
    emit("hand-on-ready-us", median(ready), None, None, Some(10.0));
    emit("submit-to-wait-us", median(round_trip), None, None, None);
    prefetcher.destroy().unwrap();
}

/// A loader and a consumer that sleep, each on its own thread: T_ideal / T_measured.
fn overlap(load: u64, compute: u64) {
    let pool = host_pool();
    let steps = 40u32;
    let (load, compute) = (Duration::from_millis(load), Duration::from_millis(compute));
    let source = vec![3u8; 100_000];
    let best = (0..3).map(|_| {
        let prefetcher = Prefetcher::over(&pool, &with_slots(3, 2, source.len())).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let begun = Instant::now();
        scope(|threads| {
            threads.spawn(|| {
                for _ in 0..steps {
                    sleep(load);
                    sender.send(submit(&prefetcher, memory(&source))).unwrap();
                }
                drop(sender);
            });
            for ticket in receiver {
                prefetcher.wait(ticket, Stream::DEFAULT).unwrap();
                sleep(compute);
                prefetcher.release(ticket, Stream::DEFAULT).unwrap();
            }
        });
        let took = begun.elapsed();
        prefetcher.destroy().unwrap();
        (load.min(compute) + load.max(compute) * steps).as_secs_f64() / took.as_secs_f64()
    });
    let best = best.fold(0.0, f64::max);
    let case = format!("overlap-load-{}ms-compute-{}ms", load.as_millis(), compute.as_millis());
    emit(&case, best, Some(("stages that never wait", 1.0)), Some(0.95), None);
}

fn files() {
    let path = std::env::temp_dir().join(format!("forebay-bench-{}", std::process::id()));
    let bytes = 64 * MIB;
    File::create(&path).unwrap().write_all(&vec![5u8; bytes]).unwrap();
    let file = File::open(&path).unwrap();
    let pool = host_pool();
    let prefetcher = Prefetcher::over(&pool, &with_slots(3, 2, 8 * MIB)).unwrap();
    let mut buffer = vec![0u8; 8 * MIB];
    let (mut plain, mut ours) = (0.0f64, 0.0f64);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for offset in (0..bytes).step_by(8 * MIB) {
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut buffer, offset as u64).unwrap();
        }
        plain = plain.max(bytes as f64 / begun.elapsed().as_nanos() as f64);
        let begun = Instant::now();
        let mut ahead = VecDeque::new();
        for offset in (0..bytes).step_by(8 * MIB) {
            if ahead.len() == 3 {
                take(&prefetcher, ahead.pop_front().unwrap());
            }
            let source =
                Source::File { fd: file.as_raw_fd(), offset: offset as u64, direct: false };
            ahead.push_back(submit(&prefetcher, Leaf { source, bytes: 8 * MIB as u64 }));
        }
        ahead.into_iter().for_each(|ticket| take(&prefetcher, ticket));
        ours = ours.max(bytes as f64 / begun.elapsed().as_nanos() as f64);
    }
    let _ = std::fs::remove_file(&path);
    emit("file-64MiB-cached-gbps", ours, Some(("pread, one thread, GB/s", plain)), None, None);
    prefetcher.destroy().unwrap();
}

fn main() {
    staging();
    handing_on();
    for (load, compute) in [(5, 5), (10, 20), (20, 10)] {
        overlap(load, compute);
    }
    files();
}
