//! Many threads on one pool.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod rig;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};

use forebay::error::Kind;
use forebay::order::Stream;
use forebay::pool::{Config, Flags, Policy, Pool};
use rig::{KIB, MIB, Random, within};

const THREADS: usize = 8;

fn pool_with(max_bytes: usize, policy: Policy) -> Arc<Pool> {
    Pool::on_host(&Config { max_bytes: max_bytes as u64, policy, ..Config::default() }).unwrap()
}

/// Nothing is live, and everything can be given back.
fn empty(pool: &Pool) {
    pool.check().unwrap();
    let stats = pool.stats();
    assert_eq!((stats.live_blocks, stats.requested[0], stats.allocated[0]), (0, 0, 0));
    assert_eq!(stats.allocations, stats.frees);
    pool.trim(0).unwrap();
    assert_eq!(pool.stats().reserved[0], 0, "{}", pool.stats_json());
    pool.check().unwrap();
    pool.close().unwrap();
}

fn size_of(random: &mut Random) -> usize {
    match random.below(10) {
        0..=5 => 1 + random.below(2 * KIB),
        6..=7 => 1 + random.below(60 * KIB),
        8 => 64 * KIB + random.below(400 * KIB),
        _ => MIB + random.below(2 * MIB),
    }
}

type Block = (usize, usize, u64);

fn free(pool: &Pool, (address, size, stamp): Block) {
    rig::read(address, size, stamp).unwrap();
    pool.free(address, Stream::DEFAULT).unwrap();
}

/// Allocates, and frees own blocks and those that others hand over.
fn traffic(pool: &Pool, seed: u64, inbox: &Receiver<Block>, others: &[Sender<Block>]) {
    let mut random = Random(seed);
    let mut own: Vec<Block> = Vec::new();
    for step in 0..1500 {
        let size = size_of(&mut random);
        match pool.alloc(size, Stream::DEFAULT) {
            Ok(address) => {
                let stamp = seed << 32 | step;
                rig::write(address, size, stamp);
                own.push((address, size, stamp));
            }
            Err(error) => assert_eq!(error.kind(), Kind::OutOfMemory, "{error}"),
        }
        while own.len() > 12 {
            let block = own.swap_remove(random.below(own.len()));
            if random.below(3) == 0 {
                // A thread that is done already does not take it any more.
                if let Err(back) = others[random.below(others.len())].send(block) {
                    free(pool, back.0);
                }
            } else {
                free(pool, block);
            }
        }
        inbox.try_iter().for_each(|block| free(pool, block));
        match step % 500 {
            100 => drop(pool.trim(random.next() % (64 << 20)).unwrap()),
            200 => pool.check().unwrap(),
            300 => drop(pool.defragment().unwrap()),
            400 => pool.set_policy(Policy::ALL[random.below(5)]).unwrap(),
            _ => drop(pool.stats()),
        }
    }
    own.into_iter().for_each(|block| free(pool, block));
}

#[test]
fn eight_threads_hand_blocks_to_each_other() {
    for policy in [Policy::Balanced, Policy::Conservative] {
        within(60, "eight threads", move || {
            let pool = pool_with(128 * MIB, policy);
            let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| channel()).unzip();
            let threads: Vec<_> = receivers
                .into_iter()
                .enumerate()
                .map(|(number, inbox)| {
                    let (pool, others) = (Arc::clone(&pool), senders.clone());
                    std::thread::spawn(move || {
                        traffic(&pool, number as u64 + 1, &inbox, &others);
                        drop(others);
                        inbox
                    })
                })
                .collect();
            drop(senders);
            let inboxes: Vec<_> =
                threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            inboxes.iter().flat_map(Receiver::try_iter).for_each(|block| free(&pool, block));
            empty(&pool);
        });
    }
}

/// Two threads free the same blocks at the same moment. `maker` is the one of the two that
/// allocates them, or neither.
fn free_twice(config: &Config, maker: Option<usize>) {
    const ROUNDS: usize = 4000;
    let pool = Pool::on_host(config).unwrap();
    let barrier = Arc::new(Barrier::new(3));
    let block = Arc::new(AtomicUsize::new(0));
    let freed = Arc::new(AtomicUsize::new(0));
    let make = |pool: &Pool, round: usize| {
        let size = [24, 4000, 50 * KIB][round % 3];
        pool.alloc(size, Stream::DEFAULT).unwrap()
    };
    let threads: Vec<_> = (0..2)
        .map(|number| {
            let (pool, barrier) = (Arc::clone(&pool), Arc::clone(&barrier));
            let (block, freed) = (Arc::clone(&block), Arc::clone(&freed));
            std::thread::spawn(move || {
                for round in 0..ROUNDS {
                    if maker == Some(number) {
                        block.store(make(&pool, round), Ordering::Relaxed);
                    }
                    barrier.wait();
                    match pool.free(block.load(Ordering::Relaxed), Stream::DEFAULT) {
                        Ok(()) => drop(freed.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => assert_eq!(error.kind(), Kind::InvalidPointer, "{error}"),
                    }
                    barrier.wait();
                    barrier.wait();
                }
            })
        })
        .collect();
    for round in 0..ROUNDS {
        if maker.is_none() {
            block.store(make(&pool, round), Ordering::Relaxed);
        }
        barrier.wait();
        barrier.wait();
        assert_eq!(freed.swap(0, Ordering::Relaxed), 1, "round {round}: so many frees succeeded");
        assert_eq!(pool.stats().live_blocks, 0);
        barrier.wait();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(pool.stats().invalid_frees, ROUNDS as u64);
    empty(&pool);
}

#[test]
fn of_two_frees_at_once_one_succeeds() {
    let no_front_cache = Flags { no_front_cache: true, ..Flags::default() };
    for flags in [Flags::default(), no_front_cache] {
        for maker in [Some(0), None] {
            within(60, "two threads that free the same block", move || {
                free_twice(&Config { max_bytes: 64 << 20, flags, ..Config::default() }, maker);
            });
        }
    }
}

#[test]
fn the_first_block_of_a_thread_may_be_freed_twice_at_once() {
    // The first time that a thread hears that others free its blocks: a new thread each round.
    within(60, "a thread per round", || {
        let pool = pool_with(64 * MIB, Policy::Balanced);
        for _ in 0..400 {
            let barrier = Arc::new(Barrier::new(2));
            let place = Arc::new(AtomicUsize::new(0));
            let (of_thread, gate, target) = (Arc::clone(&pool), barrier.clone(), place.clone());
            let owner = std::thread::spawn(move || {
                let block = of_thread.alloc(64, Stream::DEFAULT).unwrap();
                target.store(block, Ordering::Relaxed);
                gate.wait();
                of_thread.free(block, Stream::DEFAULT).is_ok()
            });
            barrier.wait();
            let here = pool.free(place.load(Ordering::Relaxed), Stream::DEFAULT).is_ok();
            assert!(here ^ owner.join().unwrap());
        }
        empty(&pool);
    });
}

#[test]
fn a_thread_that_ends_leaves_nothing_behind() {
    let pool = pool_with(256 * MIB, Policy::Balanced);
    for _ in 0..40 {
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let pool = Arc::clone(&pool);
                std::thread::spawn(move || {
                    let stream = rig::TestStream::new();
                    let mut random = Random(seed);
                    for stream in [Stream::DEFAULT, stream.handle()] {
                        let blocks: Vec<_> = (0..20)
                            .map(|_| pool.alloc(size_of(&mut random), stream).unwrap())
                            .collect();
                        blocks.iter().for_each(|&block| pool.free(block, stream).unwrap());
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let json = pool.stats_json();
        assert!(json.contains("\"front_cache_bytes\":0,"), "{json}");
    }
    empty(&pool);
}

#[test]
fn a_pool_that_is_gone_before_its_threads_is_forgotten() {
    let pool = pool_with(64 * MIB, Policy::Balanced);
    let (sender, receiver) = channel::<()>();
    let of_thread = Arc::clone(&pool);
    let thread = std::thread::spawn(move || {
        let block = of_thread.alloc(100, Stream::DEFAULT).unwrap();
        of_thread.free(block, Stream::DEFAULT).unwrap();
        drop(of_thread);
        // Ends only after the pool did.
        receiver.recv().unwrap_err();
        let other = pool_with(64 * MIB, Policy::Balanced);
        let block = other.alloc(100, Stream::DEFAULT).unwrap();
        other.free(block, Stream::DEFAULT).unwrap();
    });
    while Arc::strong_count(&pool) > 1 {
        std::thread::yield_now();
    }
    empty(&pool);
    drop(pool);
    drop(sender);
    thread.join().unwrap();
}

#[test]
fn what_front_caches_of_others_hold_is_had_before_memory_is_out() {
    let pool = pool_with(64 * MIB, Policy::Balanced);
    let (started, ready) = channel();
    let (sender, receiver) = channel::<()>();
    let of_thread = Arc::clone(&pool);
    let thread = std::thread::spawn(move || {
        let blocks: Vec<_> =
            (0..60).map(|_| of_thread.alloc(MIB, Stream::DEFAULT).unwrap()).collect();
        blocks.iter().for_each(|&block| of_thread.free(block, Stream::DEFAULT).unwrap());
        started.send(()).unwrap();
        receiver.recv().unwrap_err();
    });
    ready.recv().unwrap();
    assert!(!pool.stats_json().contains("\"front_cache_bytes\":0,"), "nothing to be had there");
    let block = pool.alloc(63 * MIB, Stream::DEFAULT).unwrap();
    pool.free(block, Stream::DEFAULT).unwrap();
    drop(sender);
    thread.join().unwrap();
    empty(&pool);
}

#[test]
fn out_of_memory_says_what_there_is() {
    let pool = pool_with(16 * MIB, Policy::Balanced);
    let sizes = [5 * MIB, 3 * MIB, 2 * MIB, 700 * KIB, 100, 60 * KIB, 9];
    let blocks: Vec<_> =
        sizes.iter().map(|&size| pool.alloc(size, Stream::DEFAULT).unwrap()).collect();
    let error = pool.alloc(9 * MIB, Stream::DEFAULT).unwrap_err();
    assert_eq!(error.kind(), Kind::OutOfMemory);
    let (stats, message) = (pool.stats(), error.message());
    let json = pool.stats_json();
    let largest_free = json.split("\"largest_free_run\":").nth(1).unwrap();
    let largest_free = largest_free.split(',').next().unwrap();
    for part in [
        format!("{} bytes requested", 9 * MIB),
        format!("live {} bytes in {} blocks", stats.allocated[0], sizes.len()),
        format!("requested {}", sizes.iter().sum::<usize>()),
        format!("reserved {}", stats.reserved[0]),
        format!("limit {}", 16 * MIB),
        format!("largest free run {largest_free}"),
        format!(
            "largest live sizes {} {} {} {} {}",
            5 * MIB,
            3 * MIB,
            2 * MIB,
            700 * KIB,
            60 * KIB
        ),
    ] {
        assert!(message.contains(&part), "`{part}` is not in: {message}");
    }
    assert_eq!(pool.stats().failed, 1);
    // Freeing makes the next one work.
    pool.free(blocks[0], Stream::DEFAULT).unwrap();
    let block = pool.alloc(9 * MIB, Stream::DEFAULT).unwrap();
    blocks[1..].iter().for_each(|&block| pool.free(block, Stream::DEFAULT).unwrap());
    pool.free(block, Stream::DEFAULT).unwrap();
    empty(&pool);
}

#[test]
fn the_callback_is_asked_before_memory_is_out_and_may_free() {
    let pool = pool_with(16 * MIB, Policy::Balanced);
    let kept = Arc::new(Mutex::new(vec![pool.alloc(12 * MIB, Stream::DEFAULT).unwrap()]));
    let (of_callback, cached) = (Arc::clone(&pool), Arc::clone(&kept));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let sizes = Arc::clone(&asked);
    pool.set_oom_callback(Some(Arc::new(move |bytes| {
        sizes.lock().unwrap().push(bytes);
        let Some(block) = cached.lock().unwrap().pop() else { return false };
        of_callback.free(block, Stream::DEFAULT).unwrap();
        true
    })));
    let block = pool.alloc(10 * MIB, Stream::DEFAULT).unwrap();
    assert_eq!(*asked.lock().unwrap(), [10 * MIB as u64]);
    // It has nothing left: it says so, and that is the end.
    let error = pool.alloc(10 * MIB, Stream::DEFAULT).unwrap_err();
    assert_eq!(error.kind(), Kind::OutOfMemory);
    assert_eq!(asked.lock().unwrap().len(), 2);
    pool.set_oom_callback(None);
    pool.free(block, Stream::DEFAULT).unwrap();
    empty(&pool);
}

#[test]
fn what_one_thread_frees_for_another_goes_there_in_batches() {
    within(60, "blocks handed on", || {
        for size in [256, 4 * KIB, 96 * KIB] {
            let pool = pool_with(256 * MIB, Policy::Balanced);
            let count = (4 * MIB / size).min(1000);
            let (send, receive) = channel::<Vec<usize>>();
            let (done, wait) = channel();
            let freeing = Arc::clone(&pool);
            let consumer = std::thread::spawn(move || {
                for blocks in receive {
                    for block in blocks {
                        freeing.free(block, Stream::DEFAULT).unwrap();
                    }
                    done.send(()).unwrap();
                }
            });
            let round = || {
                let blocks = (0..count).map(|_| pool.alloc(size, Stream::DEFAULT).unwrap());
                send.send(blocks.collect()).unwrap();
                wait.recv().unwrap();
                pool.check().unwrap();
            };
            (0..10).for_each(|_| round());
            let before = pool.stats();
            (0..10).for_each(|_| round());
            let after = pool.stats();
            // One miss a batch: of 64 small blocks, or as many as half of a bin has.
            let batch = if size > 32 * KIB { 4 } else { (128 * KIB / size / 2).min(64) };
            let misses = (after.front_misses - before.front_misses) as usize;
            assert!(misses <= 10 * count / batch + 40, "{size}: {misses} of {}", 10 * count);
            assert_eq!(after.reserved, before.reserved, "{size}");
            // Memory on its way from one to the other is not out of reach.
            let all = pool.alloc(252 * MIB, Stream::DEFAULT).unwrap();
            pool.free(all, Stream::DEFAULT).unwrap();
            drop(send);
            consumer.join().unwrap();
            empty(&pool);
        }
    });
}
