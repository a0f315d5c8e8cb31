//! Sleep and wake: the device gets a pool's memory, and every address stays.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod gpu;
mod rig;

use forebay::error::Kind;
use forebay::lifetime::{self, Lifetime, Options};
use forebay::order::Stream;
use forebay::pool::{Config, Flags, Policy, Pool, SleepMode};
use gpu::{Gpu, MIB, cu};

const D: Stream = Stream::DEFAULT;

/// Bytes of the device that nobody has.
fn free(gpu: &Gpu) -> u64 {
    let (mut free, mut total) = (0usize, 0usize);
    assert_eq!(cu!(gpu, cuMemGetInfo_v2(&mut free => *mut usize, &mut total => *mut usize)), 0);
    free as u64
}

/// That so many bytes of the device are nobody's. A real driver takes some for itself at times.
fn expect_free(gpu: &Gpu, bytes: u64) {
    let slack = if gpu.is_simulated() { 0 } else { 64 << 20 };
    let free = free(gpu);
    assert!(free.abs_diff(bytes) <= slack, "{free} bytes are free, {bytes} should be");
}

#[test]
fn contents_and_addresses_come_back() {
    let gpu = Gpu::new();
    let at_first = free(&gpu);
    let pool = gpu.pool_of(512 << 20);
    let stream = gpu.stream();
    let sizes = [700, 9000, 3 * MIB, 40 * MIB, MIB + 512];
    let blocks: Vec<usize> = sizes.iter().map(|&size| pool.alloc(size, stream).unwrap()).collect();
    for (number, (&block, &size)) in blocks.iter().zip(&sizes).enumerate() {
        gpu.write(stream, block, size, number as u8 + 1);
    }
    let idle = pool.alloc(100 * MIB, stream).unwrap();
    pool.free(idle, stream).unwrap();
    let reserved = pool.stats().reserved[0];
    for _ in 0..2 {
        pool.sleep(SleepMode::Backup).unwrap();
        assert_eq!(pool.stats().reserved[0], 0);
        expect_free(&gpu, at_first);
        pool.check().unwrap();
        pool.wake().unwrap();
        for (number, (&block, &size)) in blocks.iter().zip(&sizes).enumerate() {
            assert!(gpu.is_all(stream, block, size, number as u8 + 1), "{size}");
        }
        assert!(pool.stats().reserved[0] + (90 << 20) < reserved, "idle pages stay away");
    }
    for block in blocks {
        pool.free(block, stream).unwrap();
    }
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn what_is_discarded_leaves_the_addresses_usable() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let block = pool.alloc(20 * MIB, D).unwrap();
    gpu.write(D, block, 20 * MIB, 3);
    pool.sleep(SleepMode::Discard).unwrap();
    pool.wake().unwrap();
    gpu.write(D, block, 20 * MIB, 4);
    assert!(gpu.is_all(D, block, 20 * MIB, 4));
    pool.free(block, D).unwrap();
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn calls_while_it_sleeps() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let stream = gpu.stream();
    assert_eq!(pool.wake().unwrap_err().kind(), Kind::InvalidState);
    let [kept, small, freed] =
        [4 * MIB, 600, 30 * MIB].map(|size| pool.alloc(size, stream).unwrap());
    gpu.write(stream, kept, 4 * MIB, 1);
    gpu.write(stream, small, 600, 2);
    pool.sleep(SleepMode::Backup).unwrap();
    for error in [
        pool.sleep(SleepMode::Discard).unwrap_err(),
        pool.alloc(100, stream).unwrap_err(),
        pool.alloc(20 * MIB, stream).unwrap_err(),
        pool.realloc(kept, 8 * MIB, stream).unwrap_err(),
        pool.defragment().unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::InvalidState);
        assert!(error.message().contains("sleeps"), "{error}");
    }
    assert_eq!(pool.trim(0).unwrap(), 0, "it has nothing to give");
    pool.free(freed, stream).unwrap();
    pool.check().unwrap();
    gpu.synchronize(stream);
    pool.wake().unwrap();
    assert!(pool.stats().reserved[0] <= 36 << 20);
    assert!(gpu.is_all(stream, kept, 4 * MIB, 1) && gpu.is_all(stream, small, 600, 2));
    let again = pool.alloc(30 * MIB, stream).unwrap();
    gpu.write(stream, again, 30 * MIB, 3);
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn a_device_that_is_full_can_be_tried_again() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(512 << 20);
    let block = pool.alloc(200 * MIB, D).unwrap();
    gpu.write(D, block, 200 * MIB, 6);
    pool.sleep(SleepMode::Backup).unwrap();
    let mut others = 0u64;
    let bytes = (free(&gpu) - (100 << 20)) as usize;
    assert_eq!(cu!(gpu, cuMemAlloc_v2(&mut others => *mut u64, bytes => usize)), 0);
    let left = free(&gpu);
    for _ in 0..2 {
        assert_eq!(pool.wake().unwrap_err().kind(), Kind::OutOfMemory);
        assert_eq!(pool.alloc(1, D).unwrap_err().kind(), Kind::InvalidState);
        expect_free(&gpu, left);
    }
    assert_eq!(cu!(gpu, cuMemFree_v2(others => u64)), 0);
    pool.wake().unwrap();
    assert!(gpu.is_all(D, block, 200 * MIB, 6));
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn a_pool_that_sleeps_may_be_destroyed() {
    let gpu = Gpu::new();
    let before = free(&gpu);
    let pool = gpu.pool_of(64 << 20);
    pool.alloc(20 * MIB, D).unwrap();
    pool.sleep(SleepMode::Backup).unwrap();
    assert!(Pool::destroy(pool).is_err());
    expect_free(&gpu, before);
    gpu.finish();
}

#[test]
fn threads_that_go_on_get_an_error_and_lose_nothing() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(512 << 20);
    std::thread::scope(|scope| {
        for number in 0..3 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..400 {
                    let size = (1 + (number * 7 + round * 13) % 20) * MIB;
                    match pool.alloc(size, D) {
                        Ok(block) => pool.free(block, D).unwrap(),
                        Err(error) => assert_eq!(error.kind(), Kind::InvalidState, "{error}"),
                    }
                }
            });
        }
        for _ in 0..20 {
            pool.sleep(SleepMode::Discard).unwrap();
            pool.check().unwrap();
            pool.wake().unwrap();
        }
    });
    pool.check().unwrap();
    // The threads may be ending still, with a hold on the pool.
    Pool::destroy(pool).unwrap();
    gpu.finish();
}

#[test]
fn a_host_pool_sleeps_without_a_backup() {
    let flags = Flags { guard_bytes: true, poison_on_free: true, ..Flags::default() };
    for policy in Policy::ALL {
        let pool = Pool::on_host(&Config { flags, policy, ..Config::default() }).unwrap();
        let block = pool.alloc(8 * MIB, D).unwrap();
        rig::write(block, 8 * MIB, 1);
        let small = pool.alloc(100, D).unwrap();
        assert_eq!(pool.sleep(SleepMode::Backup).unwrap_err().kind(), Kind::Unsupported);
        rig::read(block, 8 * MIB, 1).unwrap();
        pool.sleep(SleepMode::Discard).unwrap();
        assert_eq!(pool.stats().reserved[0], 0);
        pool.wake().unwrap();
        rig::write(block, 8 * MIB, 2);
        rig::read(block, 8 * MIB, 2).unwrap();
        // Its guard bytes went with everything else, and are there again.
        pool.check().unwrap();
        for block in [block, small] {
            pool.free(block, D).unwrap();
        }
    }
}

/// Places of a plan are addresses like others, asleep and awake.
#[test]
fn the_arena_of_a_plan_sleeps_too() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let stream = gpu.stream();
    let mut lifetime = Lifetime::new();
    lifetime.record_alloc(0, 0, MIB as u64).unwrap();
    lifetime.align(0, 512).unwrap();
    let options = Options::default();
    let plan = lifetime::plan(lifetime.instance().unwrap(), &options, None).unwrap();
    pool.apply_plan(&plan, stream).unwrap();
    let block = pool.alloc(MIB, stream).unwrap();
    gpu.write(stream, block, MIB, 7);
    pool.sleep(SleepMode::Backup).unwrap();
    assert_eq!(pool.stats().reserved[0], 0);
    assert_eq!(pool.alloc(MIB, stream).unwrap_err().kind(), Kind::InvalidState);
    pool.wake().unwrap();
    assert!(gpu.is_all(stream, block, MIB, 7));
    pool.free(block, stream).unwrap();
    pool.sleep(SleepMode::Discard).unwrap();
    pool.wake().unwrap();
    assert_eq!(pool.alloc(MIB, stream).unwrap(), block);
    gpu.write(stream, block, MIB, 8);
    pool.free(block, stream).unwrap();
    pool.remove_plan().unwrap();
    pool.check().unwrap();
    gpu.finish();
}
