//! Large blocks change their size by moving pages: what is in them goes along, the limit holds
//! at every moment, and nothing else notices.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod rig;

use std::sync::Arc;

use forebay::order::Stream;
use forebay::pool::{Config, Flags, Policy, Pool};
use rig::{KIB, MIB, Random};

const PAGE: usize = rig::PAGE as usize;

fn pool(max_bytes: usize) -> Arc<Pool> {
    Pool::on_host(&Config { max_bytes: max_bytes as u64, ..Config::default() }).unwrap()
}

/// Writes a number of its own every `step` bytes.
fn mark(address: usize, bytes: usize, step: usize, stamp: u64) {
    for at in (0..bytes.saturating_sub(8)).step_by(step) {
        // SAFETY: callers pass live blocks of theirs.
        unsafe { ((address + at) as *mut u64).write_unaligned(stamp ^ at as u64) };
    }
}

/// Checks what [`mark`] wrote.
fn marked(address: usize, bytes: usize, step: usize, stamp: u64) {
    for at in (0..bytes.saturating_sub(8)).step_by(step) {
        // SAFETY: callers pass live blocks of theirs.
        let found = unsafe { ((address + at) as *const u64).read_unaligned() };
        assert_eq!(found, stamp ^ at as u64, "{at} bytes into a block of {bytes}");
    }
}

/// There is no room for both the old block and the new one.
#[test]
fn a_block_grows_in_a_pool_that_has_no_room_for_it_twice() {
    let pool = pool(1 << 30);
    for offset in [0, 40 * KIB] {
        let first = pool.alloc(offset.max(512), Stream::DEFAULT).unwrap();
        let block = pool.alloc(600 * MIB, Stream::DEFAULT).unwrap();
        // Right above it, so that it cannot grow where it is.
        let above = pool.alloc(3 * MIB, Stream::DEFAULT).unwrap();
        mark(block, 600 * MIB, 64 * KIB, 7);
        mark(above, 3 * MIB, 512, 8);
        let before = pool.stats();
        let moved = pool.realloc(block, 700 * MIB, Stream::DEFAULT).unwrap();
        marked(moved, 600 * MIB, 64 * KIB, 7);
        marked(above, 3 * MIB, 512, 8);
        mark(moved, 700 * MIB, MIB, 9);
        pool.check().unwrap();
        let after = pool.stats();
        assert!(after.reserved[1] <= 1 << 30, "{}", pool.stats_json());
        assert_eq!(after.live_blocks, before.live_blocks);
        assert_eq!(after.requested[0], before.requested[0] + 100 * MIB as u64);
        // Never both at a time.
        assert_eq!(after.allocated[1], after.allocated[0]);
        if moved != block {
            assert_eq!(after.allocations, before.allocations + 1);
            assert_eq!(after.frees, before.frees + 1);
            pool.free(block, Stream::DEFAULT).unwrap_err();
        }
        for block in [first, moved, above] {
            pool.free(block, Stream::DEFAULT).unwrap();
        }
        pool.check().unwrap();
        pool.trim(0).unwrap();
        assert_eq!(pool.stats().reserved[0], 0);
    }
}

/// With nothing above it but addresses, a block stays where it is.
#[test]
fn a_block_grows_where_it_is_when_addresses_above_are_free() {
    let pool = pool(100 * MIB);
    let block = pool.alloc(20 * MIB, Stream::DEFAULT).unwrap();
    mark(block, 20 * MIB, 4 * KIB, 3);
    let before = pool.stats();
    let mut size = 20 * MIB;
    while size < 90 * MIB {
        let larger = size + 7 * MIB + 512;
        assert_eq!(pool.realloc(block, larger, Stream::DEFAULT).unwrap(), block);
        size = larger;
        pool.check().unwrap();
    }
    marked(block, 20 * MIB, 4 * KIB, 3);
    mark(block, size, 4 * KIB, 4);
    let after = pool.stats();
    assert_eq!((after.allocations, after.frees), (before.allocations, before.frees));
    assert_eq!((after.requested[0], after.hits + after.misses), (size as u64, after.allocations));
    // Beyond the limit: it fails, and the block is as it was.
    pool.realloc(block, 101 * MIB, Stream::DEFAULT).unwrap_err();
    marked(block, size, 4 * KIB, 4);
    pool.free(block, Stream::DEFAULT).unwrap();
    pool.check().unwrap();
}

/// Work on another stream may still use the block where it is.
#[test]
fn a_block_that_another_stream_uses_is_copied() {
    let pool = pool(200 * MIB);
    let stream = rig::TestStream::new();
    let block = pool.alloc(20 * MIB, Stream::DEFAULT).unwrap();
    let above = pool.alloc(3 * MIB, Stream::DEFAULT).unwrap();
    rig::write(block, 20 * MIB, 5);
    pool.record_stream(block, stream.handle()).unwrap();
    let gate = rig::Gate::on(&stream);
    let (sender, receiver) = std::sync::mpsc::channel();
    stream.submit(move || sender.send(rig::read(block, 20 * MIB, 5)).unwrap());
    let fresh = pool.realloc(block, 30 * MIB, Stream::DEFAULT).unwrap();
    assert_ne!(fresh, block);
    gate.open();
    receiver.recv().unwrap().unwrap();
    rig::read(fresh, 20 * MIB, 5).unwrap();
    stream.synchronize();
    for block in [fresh, above] {
        pool.free(block, Stream::DEFAULT).unwrap();
    }
    pool.check().unwrap();
}

/// Queued work on the block's own stream comes first.
#[test]
fn pages_move_after_the_work_before() {
    let pool = pool(200 * MIB);
    let stream = rig::TestStream::new();
    let on = stream.handle();
    let block = pool.alloc(20 * MIB, on).unwrap();
    let above = pool.alloc(3 * MIB, on).unwrap();
    stream.submit(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        rig::write(block, 20 * MIB, 6);
    });
    let fresh = pool.realloc(block, 30 * MIB, on).unwrap();
    rig::read(fresh, 20 * MIB, 6).unwrap();
    for block in [fresh, above] {
        pool.free(block, on).unwrap();
    }
    pool.check().unwrap();
}

/// Random blocks, resized at random, beside what they should hold.
#[test]
fn blocks_keep_their_bytes_and_the_pool_its_limit() {
    const LIMIT: usize = 96 * MIB;
    let mut pages_moved = 0;
    for seed in 0..12 {
        let mut random = Random(seed);
        let policy = Policy::ALL[seed as usize % Policy::ALL.len()];
        let flags = Flags { guard_bytes: seed == 11, ..Flags::default() };
        let config = Config { max_bytes: LIMIT as u64, policy, flags, ..Config::default() };
        let pool = Pool::on_host(&config).unwrap();
        let stream = rig::TestStream::new();
        let mut live: Vec<(usize, usize, u64)> = Vec::new();
        for step in 0..300u64 {
            let size = match random.below(4) {
                0 => random.below(20 * KIB),
                1 => random.below(2 * MIB),
                2 => random.below(10) * PAGE,
                _ => random.below(30 * MIB),
            } + 16;
            let on = if random.below(3) == 0 { stream.handle() } else { Stream::DEFAULT };
            match random.below(5) {
                0 | 1 => {
                    if let Ok(block) = pool.alloc(size, on) {
                        mark(block, size, 4 * KIB, step);
                        live.push((block, size, step));
                    }
                }
                2 if !live.is_empty() => {
                    let (block, size, stamp) = live.swap_remove(random.below(live.len()));
                    marked(block, size, 4 * KIB, stamp);
                    pool.free(block, on).unwrap();
                }
                _ if !live.is_empty() => {
                    let at = random.below(live.len());
                    let (block, old, stamp) = live[at];
                    let misses = pool.stats().misses;
                    if let Ok(fresh) = pool.realloc(block, size, on) {
                        marked(fresh, old.min(size), 4 * KIB, stamp);
                        mark(fresh, size, 4 * KIB, step);
                        live[at] = (fresh, size, step);
                        pages_moved += pool.stats().misses - misses;
                    } else {
                        marked(block, old, 4 * KIB, stamp);
                    }
                }
                _ => {}
            }
            pool.check().unwrap();
            let stats = pool.stats();
            assert!(stats.reserved[0] <= LIMIT as u64 && stats.reserved[1] <= LIMIT as u64);
            let requested: usize = live.iter().map(|&(_, size, _)| size).sum();
            assert_eq!(
                (stats.requested[0], stats.live_blocks),
                (requested as u64, live.len() as u64)
            );
        }
        for (block, size, stamp) in live {
            marked(block, size, 4 * KIB, stamp);
            pool.free(block, Stream::DEFAULT).unwrap();
        }
        pool.check().unwrap();
        stream.synchronize();
        pool.trim(0).unwrap();
        assert_eq!(pool.stats().reserved[0], 0);
    }
    assert!(pages_moved > 50, "{pages_moved}");
}

/// What is copied is copied to where it has room to grow, whatever of other sizes was freed before.
#[test]
fn a_block_that_grows_by_little_is_copied_a_few_times() {
    let pool = pool(1 << 30);
    let mut random = Random(11);
    let grow = || {
        let (mut moves, mut size) = (0, 64 * KIB);
        let mut block = pool.alloc(size, Stream::DEFAULT).unwrap();
        mark(block, size, KIB, 5);
        while size < 7 * MIB {
            let larger = size + size / 16;
            let now = pool.realloc(block, larger, Stream::DEFAULT).unwrap();
            marked(now, size, KIB, 5);
            mark(now, larger, KIB, 5);
            moves += usize::from(now != block);
            (block, size) = (now, larger);
        }
        pool.check().unwrap();
        pool.free(block, Stream::DEFAULT).unwrap();
        moves
    };
    let mut moves = Vec::new();
    for _ in 0..20 {
        // Holes of many sizes, in the thread's own cache and elsewhere.
        let sizes: Vec<usize> = (0..40).map(|_| 64 * KIB + random.below(512 * KIB)).collect();
        let blocks: Vec<usize> =
            sizes.iter().map(|&size| pool.alloc(size, Stream::DEFAULT).unwrap()).collect();
        blocks.iter().for_each(|&block| pool.free(block, Stream::DEFAULT).unwrap());
        moves.push(grow());
    }
    // Before 256 KiB by whatever comes, behind it once for each time its size doubles.
    let worst = moves.iter().max().unwrap();
    assert!(*worst <= 24 + 5, "{moves:?}");
    assert!(moves.iter().sum::<usize>() <= 20 * 14, "{moves:?}");
    assert_eq!(pool.stats().live_blocks, 0);
}
