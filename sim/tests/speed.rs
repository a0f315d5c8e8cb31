//! A million operations through the checker, in bounded time and memory.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, unused_imports)]
mod common;

use std::time::Instant;

use common::{alloc, cu, event, record, start, stream, wait};
use sim_cuda::Config;

/// Bytes that this process has in memory.
fn resident() -> u64 {
    let words = std::fs::read_to_string("/proc/self/statm").unwrap();
    words.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn random(seed: &mut u64, below: u64) -> u64 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*seed >> 33) % below
}

/// Queues `operations` and says how many of them were kernels. Each stream writes blocks of its
/// own, reads those of others behind their events, and the host waits now and then.
fn mixed(operations: u64, seed: &mut u64) -> u64 {
    const STREAMS: usize = 8;
    const BLOCKS: u64 = 512;
    let streams: Vec<u64> = (0..STREAMS).map(|_| stream()).collect();
    let events: Vec<u64> = (0..STREAMS).map(|_| event()).collect();
    let at = alloc(1 << 40).unwrap();
    let mut kernels = 0;
    for n in 0..operations {
        let me = random(seed, STREAMS as u64) as usize;
        let other = random(seed, STREAMS as u64) as usize;
        match n % 8 {
            0 => record(events[me], streams[me]),
            1 => wait(streams[me], events[other]),
            _ => {
                // Blocks that all read, and the stream's own, of any size and place in it.
                let block = |of: u64, n: u64| at + (of << 32) + n * 65536;
                let bytes = 1 + random(seed, 65536);
                let from = random(seed, 65536 - bytes + 1);
                let own = block(me as u64, random(seed, BLOCKS)) + from;
                let common = block(STREAMS as u64, random(seed, BLOCKS));
                let reads = [(common, 65536), (own, bytes)];
                let writes = [(block(me as u64 + 64, random(seed, BLOCKS)) + from, bytes)];
                assert_eq!(sim_cuda::launch(streams[me], "mixed", &reads, &writes, 100, None), 0);
                kernels += 1;
            }
        }
        if n % 64 == 63 {
            sim_cuda::advance(1000);
        }
        if n % 4096 == 4095 {
            assert_eq!(cu!(cuCtxSynchronize()), 0);
        }
    }
    assert!(sim_cuda::take_hazards().is_empty());
    kernels
}

#[test]
fn a_million_operations() {
    let config = Config { bookkeeping: true, capacity: 1 << 42, ..Config::default() };
    let _guard = start(config);
    let mut seed = 1;
    let begun = Instant::now();
    mixed(100_000, &mut seed);
    let (early, before) = (begun.elapsed(), resident());
    let kernels = mixed(900_000, &mut seed);
    let (took, grown) = (begun.elapsed(), resident().saturating_sub(before));
    println!("{took:?} (the first tenth {early:?}), {kernels} kernels, grown by {grown} bytes");
    assert!(took.as_secs() < 60, "{took:?}");
    assert!(grown < 64 << 20, "{grown} bytes");
}

/// Streams that know of each other by events alone, on 2 GiB: the host learns nothing, so that
/// nothing may be forgotten, and what is kept is bounded by the blocks there are.
#[test]
fn a_million_operations_that_the_host_never_waits_for() {
    const BLOCK: u64 = 64 << 10;
    let _guard = start(Config { bookkeeping: true, ..Config::default() });
    let streams: Vec<u64> = (0..8).map(|_| stream()).collect();
    let events: Vec<u64> = (0..8).map(|_| event()).collect();
    let (at, mut seed, mut early) = (alloc(2 << 30).unwrap(), 1, 0);
    let blocks = (2 << 30) / BLOCK;
    let begun = Instant::now();
    for n in 0..1_000_000u64 {
        let (me, other) = (random(&mut seed, 8) as usize, random(&mut seed, 8) as usize);
        match n % 4 {
            0 => record(events[me], streams[me]),
            1 => wait(streams[me], events[other]),
            _ => {
                let mut block = || (at + random(&mut seed, blocks) * BLOCK, BLOCK);
                let (reads, write) = ([block(), block()], block());
                let code = sim_cuda::launch(streams[me], "mixed", &reads, &[write], 100, None);
                assert_eq!(code, 0);
            }
        }
        if n % 512 == 511 {
            sim_cuda::run_all();
        }
        if n == 200_000 {
            early = resident();
        }
    }
    let (took, grown) = (begun.elapsed(), resident().saturating_sub(early));
    println!("{took:?}, {} hazards, grown by {grown} bytes", sim_cuda::take_hazards().len());
    assert!(took.as_secs() < 30, "{took:?}");
    assert!(grown < 64 << 20, "{grown} bytes");
}

#[test]
fn streams_that_come_and_go_unseen_cost_little() {
    let _guard = start(Config { bookkeeping: true, ..Config::default() });
    let at = alloc(1 << 30).unwrap();
    let (begun, before) = (Instant::now(), resident());
    for n in 0..10_000u64 {
        let (a, done) = (stream(), event());
        assert_eq!(sim_cuda::launch(a, "read", &[(at + n * 4096, 4096)], &[], 100, None), 0);
        record(done, a);
        assert_eq!(cu!(cuStreamDestroy_v2(a => u64)), 0);
        assert_eq!(cu!(cuEventDestroy_v2(done => u64)), 0);
        if n % 16 == 15 {
            sim_cuda::run_all();
        }
    }
    let (took, grown) = (begun.elapsed(), resident().saturating_sub(before));
    println!("{took:?}, grown by {grown} bytes");
    assert!(took.as_secs() < 30 && grown < 64 << 20, "{took:?}, {grown} bytes");
    // What is known of them is still enough to find a race, and to tell it.
    let b = stream();
    assert_eq!(sim_cuda::launch(b, "write", &[], &[(at, 4096)], 100, None), 0);
    let found = sim_cuda::take_hazards();
    assert_eq!(found.len(), 1);
    assert!(found[0].earlier.contains("kernel read"), "{}", found[0]);
}
