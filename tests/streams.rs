//! Stream order: whose a freed block is, and when.
//!
//! Work is queued on the streams and writes and reads the blocks there, as a program's would:
//! a block that reaches a stream too early shows as bytes that are somebody else's.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod rig;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use forebay::error::Kind;
use forebay::order::{HostOrder, HostStream, Stream};
use forebay::pool::{Config, Flags, Policy, Pool};
use rig::{Gate, KIB, MIB, Random, TestStream, handle, overlap, within};

fn pool_of(max_bytes: usize) -> Arc<Pool> {
    Pool::on_host(&Config { max_bytes: max_bytes as u64, ..Config::default() }).unwrap()
}

/// What work on the streams saw, in the order in which it ran.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Queues work that stamps a block.
fn write_on(stream: &TestStream, log: &Log, name: &'static str, address: usize, bytes: usize) {
    let log = log.clone();
    stream.submit(move || {
        rig::write(address, bytes, stamp_of(name));
        log.note(name);
    });
}

/// Queues work that checks the stamp that [`write_on`] left.
fn read_on(stream: &TestStream, log: &Log, name: &'static str, address: usize, bytes: usize) {
    let log = log.clone();
    stream.submit(move || {
        if let Err(wrong) = rig::read(address, bytes, stamp_of(name)) {
            log.note(format!("{name}: {wrong}"));
        }
    });
}

fn stamp_of(name: &str) -> u64 {
    name.bytes().fold(7, |stamp, byte| stamp * 31 + u64::from(byte))
}

#[test]
fn a_freed_block_is_its_streams_at_once_and_nobody_elses_before_the_work_is_done() {
    for size in [24, 3000, 32 * KIB, 100 * KIB, 3 * MIB] {
        for no_front_cache in [false, true] {
            let flags = Flags { no_front_cache, ..Flags::default() };
            let config = Config { max_bytes: 64 << 20, flags, ..Config::default() };
            let pool = Pool::on_host(&config).unwrap();
            let (a, b) = (TestStream::new(), TestStream::new());
            let log = Log::default();
            let block = pool.alloc(size, a.handle()).unwrap();
            let gate = Gate::on(&a);
            write_on(&a, &log, "a", block, size);
            read_on(&a, &log, "a", block, size);
            pool.free(block, a.handle()).unwrap();
            // More than a slab holds, so that the free block would be found.
            let count = (256 * KIB / size).max(4);
            let others: Vec<_> = [b.handle(), Stream::DEFAULT]
                .into_iter()
                .flat_map(|stream| (0..count).map(move |_| stream))
                .map(|stream| (stream, pool.alloc(size, stream).unwrap()))
                .collect();
            for &(stream, other) in &others {
                assert!(
                    !overlap((block, size), (other, size)),
                    "{size} bytes went to stream {stream:?} while a's work was pending"
                );
                rig::write(other, size, 1);
            }
            assert_eq!(pool.alloc(size, a.handle()).unwrap(), block, "a's own, of {size} bytes");
            pool.free(block, a.handle()).unwrap();
            pool.check().unwrap();
            gate.open();
            a.synchronize();
            assert_eq!(log.take(), ["a"]);
            for &(stream, other) in &others {
                rig::read(other, size, 1).unwrap();
                pool.free(other, stream).unwrap();
            }
            b.synchronize();
            pool.trim(0).unwrap();
            assert_eq!(pool.stats().reserved[0], 0);
        }
    }
}

#[test]
fn a_freed_block_reaches_another_stream_after_the_work_is_done() {
    // Room for one block only, so that the other stream has to get the same one.
    let pool = pool_of(8 * MIB);
    let (a, b) = (TestStream::new(), TestStream::new());
    let first = pool.alloc(6 * MIB, a.handle()).unwrap();
    a.submit(|| ());
    pool.free(first, a.handle()).unwrap();
    a.synchronize();
    let marks = b.record();
    let second = pool.alloc(6 * MIB, b.handle()).unwrap();
    assert_eq!(b.record(), marks, "b was made to wait for work that was done");
    pool.free(second, b.handle()).unwrap();
    pool.alloc(6 * MIB, Stream::DEFAULT).unwrap();
    pool.check().unwrap();
}

#[test]
fn under_pressure_a_stream_waits_for_the_block_instead_of_the_caller() {
    let pool = pool_of(8 * MIB);
    let (a, b) = (TestStream::new(), TestStream::new());
    let log = Log::default();
    let first = pool.alloc(6 * MIB, a.handle()).unwrap();
    let gate = Gate::on(&a);
    write_on(&a, &log, "a", first, 6 * MIB);
    read_on(&a, &log, "a", first, 6 * MIB);
    pool.free(first, a.handle()).unwrap();
    // Returns while a is held.
    let second = pool.alloc(6 * MIB, b.handle()).unwrap();
    write_on(&b, &log, "b", second, 6 * MIB);
    assert_eq!(log.take(), [""; 0]);
    gate.open();
    b.synchronize();
    assert_eq!(log.take(), ["a", "b"]);
    rig::read(second, 6 * MIB, stamp_of("b")).unwrap();
    pool.free(second, b.handle()).unwrap();
    pool.check().unwrap();
}

#[test]
fn out_of_memory_waits_for_fences_before_it_fails() {
    let pool = pool_of(8 * MIB);
    let a = TestStream::new();
    let first = pool.alloc(6 * MIB, a.handle()).unwrap();
    let gate = Gate::on(&a);
    pool.free(first, a.handle()).unwrap();
    let returned = Arc::new(AtomicBool::new(false));
    let (of_thread, said) = (Arc::clone(&pool), Arc::clone(&returned));
    let waiting = std::thread::spawn(move || {
        let block = of_thread.alloc(6 * MIB, Stream::DEFAULT);
        said.store(true, Ordering::SeqCst);
        block.map(|block| rig::write(block, 6 * MIB, 1))
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!returned.load(Ordering::SeqCst), "the default stream got a block that a uses");
    // Nobody else waits meanwhile.
    let small = within(10, "an allocation beside one that waits", {
        let pool = Arc::clone(&pool);
        move || pool.alloc(100, Stream::DEFAULT).and_then(|block| pool.free(block, Stream::DEFAULT))
    });
    small.unwrap();
    gate.open();
    waiting.join().unwrap().unwrap();
    pool.check().unwrap();
}

#[test]
fn a_recorded_stream_has_to_be_done_too() {
    for size in [200, 48 * KIB, 6 * MIB] {
        let pool = pool_of(8 * MIB);
        let (a, b) = (TestStream::new(), TestStream::new());
        let log = Log::default();
        let block = pool.alloc(size, a.handle()).unwrap();
        let gate = Gate::on(&b);
        write_on(&b, &log, "b", block, size);
        read_on(&b, &log, "b", block, size);
        pool.record_stream(block, b.handle()).unwrap();
        // Twice is as good as once; the stream it was allocated on is no other.
        pool.record_stream(block, b.handle()).unwrap();
        pool.record_stream(block, a.handle()).unwrap();
        pool.free(block, a.handle()).unwrap();
        let error = pool.free(block, a.handle()).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidPointer, "{error}");
        pool.check().unwrap();
        // Even a, whose block it was, does not get it while b works on it.
        if size < MIB {
            for _ in 0..(256 * KIB / size).max(4) {
                let other = pool.alloc(size, a.handle()).unwrap();
                assert!(!overlap((block, size), (other, size)), "{size}");
                rig::write(other, size, 1);
            }
            gate.open();
            b.synchronize();
        } else {
            // Room for one: whether a waits for b or the caller does, b's work comes first.
            let opener = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(50));
                gate.open();
            });
            let other = pool.alloc(size, a.handle()).unwrap();
            write_on(&a, &log, "a", other, size);
            opener.join().unwrap();
            a.synchronize();
            assert_eq!(log.take(), ["b", "a"]);
            log.note("b");
        }
        assert_eq!(log.take(), ["b"], "{size}");
        pool.check().unwrap();
    }
}

#[test]
fn the_third_stream_waits_for_the_first() {
    // Work held on a; x and y freed on a; b's miss takes both as one; c gets them from b.
    for whole in [true, false] {
        let pool = pool_of(8 * MIB);
        let (a, b, c) = (TestStream::new(), TestStream::new(), TestStream::new());
        let log = Log::default();
        let x = pool.alloc(3 * MIB, a.handle()).unwrap();
        let y = pool.alloc(3 * MIB, a.handle()).unwrap();
        let gate = Gate::on(&a);
        for (name, block) in [("ax", x), ("ay", y)] {
            write_on(&a, &log, name, block, 3 * MIB);
            read_on(&a, &log, name, block, 3 * MIB);
        }
        pool.free(x, a.handle()).unwrap();
        pool.free(y, a.handle()).unwrap();
        // All of it, or a part: what is left of the merged run changes owners all the same.
        let of_b = if whole { 7 * MIB } else { 5 * MIB };
        let z = pool.alloc(of_b, b.handle()).unwrap();
        write_on(&b, &log, "b", z, of_b);
        read_on(&b, &log, "b", z, of_b);
        let of_c = if whole {
            pool.free(z, b.handle()).unwrap();
            7 * MIB
        } else {
            5 * MIB / 2
        };
        let last = pool.alloc(of_c, c.handle()).unwrap();
        write_on(&c, &log, "c", last, of_c);
        read_on(&c, &log, "c", last, of_c);
        pool.check().unwrap();
        assert_eq!(log.take(), [""; 0], "somebody did not wait");
        gate.open();
        c.synchronize();
        b.synchronize();
        let order = log.take();
        let at = |name| order.iter().position(|entry| entry == name);
        assert_eq!(order.len(), 4, "{order:?}");
        assert!(at("ax") < at("ay") && at("ay") < at("b") && at("ay") < at("c"), "{order:?}");
        if whole {
            assert!(at("b") < at("c"), "{order:?}");
        } else {
            rig::read(z, of_b, stamp_of("b")).unwrap();
        }
        rig::read(last, of_c, stamp_of("c")).unwrap();
        pool.check().unwrap();
    }
}

#[test]
fn the_default_stream_as_the_third_waits_for_the_first() {
    let pool = pool_of(8 * MIB);
    let (a, b) = (TestStream::new(), TestStream::new());
    let log = Log::default();
    let x = pool.alloc(6 * MIB, a.handle()).unwrap();
    let gate = Gate::on(&a);
    write_on(&a, &log, "a", x, 6 * MIB);
    pool.free(x, a.handle()).unwrap();
    let z = pool.alloc(7 * MIB, b.handle()).unwrap();
    write_on(&b, &log, "b", z, 7 * MIB);
    pool.free(z, b.handle()).unwrap();
    let third = std::thread::spawn({
        let (pool, log) = (Arc::clone(&pool), log.clone());
        move || {
            let block = pool.alloc(7 * MIB, Stream::DEFAULT).unwrap();
            rig::write(block, 7 * MIB, 3);
            log.note("default");
            block
        }
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(log.take(), [""; 0]);
    gate.open();
    let block = third.join().unwrap();
    a.synchronize();
    b.synchronize();
    assert_eq!(log.take(), ["a", "b", "default"]);
    rig::read(block, 7 * MIB, 3).unwrap();
}

#[test]
fn what_a_destroyed_stream_freed_is_for_everybody() {
    for size in [500, 6 * MIB] {
        let pool = pool_of(8 * MIB);
        let (a, b) = (TestStream::new(), TestStream::new());
        let log = Log::default();
        let freed = pool.alloc(size, a.handle()).unwrap();
        let followed = (size < MIB).then(|| pool.alloc(size, Stream::DEFAULT).unwrap());
        write_on(&a, &log, "a", freed, size);
        if let Some(followed) = followed {
            pool.record_stream(followed, a.handle()).unwrap();
            pool.free(followed, Stream::DEFAULT).unwrap();
        }
        pool.free(freed, a.handle()).unwrap();
        a.destroy().unwrap();
        assert_eq!(log.take(), ["a"], "destroying it finishes its work");
        let whole = pool.alloc(7 * MIB, b.handle()).unwrap();
        pool.free(whole, b.handle()).unwrap();
        pool.check().unwrap();
        // A thread that never met the stream while it was there hears so.
        let (of_thread, gone) = (Arc::clone(&pool), a.handle());
        std::thread::spawn(move || {
            let error = of_thread.alloc(size, gone).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
            assert!(error.message().contains("stream"), "{error}");
            let block = of_thread.alloc(size, Stream::DEFAULT).unwrap();
            let error = of_thread.free(block, gone).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
            of_thread.free(block, Stream::DEFAULT).unwrap();
        })
        .join()
        .unwrap();
        b.synchronize();
        pool.trim(0).unwrap();
        assert_eq!(pool.stats().reserved[0], 0);
        pool.close().unwrap();
    }
}

#[test]
fn streams_that_come_and_go_leave_nothing_behind() {
    let pool = pool_of(16 * MIB);
    for round in 0..200 {
        let stream = TestStream::new();
        let small = pool.alloc(1000, stream.handle()).unwrap();
        let large = pool.alloc(6 * MIB, stream.handle()).unwrap();
        stream.submit(move || rig::write(large, 6 * MIB, round));
        pool.free(large, stream.handle()).unwrap();
        // Half of the small blocks outlive their stream.
        if round % 2 == 0 {
            pool.free(small, stream.handle()).unwrap();
        } else {
            stream.destroy().unwrap();
            pool.free(small, Stream::DEFAULT).unwrap();
        }
    }
    pool.check().unwrap();
    pool.trim(0).unwrap();
    assert_eq!(pool.stats().reserved[0], 0);
    pool.close().unwrap();
}

#[test]
fn work_on_a_stream_may_use_the_pool() {
    // Also when memory is short: work cannot wait for itself.
    let pool = pool_of(8 * MIB);
    let stream = Arc::new(TestStream::new());
    let (of_work, own) = (Arc::clone(&pool), stream.handle());
    let results = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&results);
    stream.submit(move || {
        let block = of_work.alloc(5 * MIB, own).unwrap();
        let refused = of_work.alloc(5 * MIB, own).map_err(|error| error.kind());
        of_work.free(block, own).unwrap();
        seen.lock().unwrap().push(refused);
    });
    let of_thread = Arc::clone(&stream);
    within(20, "work that runs out of memory", move || of_thread.synchronize());
    assert_eq!(*results.lock().unwrap(), [Err(Kind::OutOfMemory)]);
}

/// The bytes that a pool itself writes are in stream order like everybody's: a block that is
/// its stream's again at once may still be in use by the work queued before.
mod bytes_written_by_the_pool {
    use super::*;

    /// Frees a block on a stream whose work on it is pending, takes it again, and returns
    /// what the stream's next work sees in it.
    fn seen_after_reuse(
        config: &Config,
        use_block: impl FnOnce(&Pool, Stream) -> usize,
    ) -> Vec<u8> {
        let size = 100 * KIB;
        let pool = Pool::on_host(config).unwrap();
        let a = TestStream::new();
        let log = Log::default();
        let first = pool.alloc(size, a.handle()).unwrap();
        let gate = Gate::on(&a);
        write_on(&a, &log, "a", first, size);
        pool.free(first, a.handle()).unwrap();
        // Opened by the clock, in case the pool waits for the stream.
        let opener = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            gate.open();
        });
        let second = use_block(&pool, a.handle());
        let (sender, receiver) = std::sync::mpsc::channel();
        a.submit(move || {
            // SAFETY: a live block of this test of at least 16 bytes.
            let bytes = unsafe { std::slice::from_raw_parts(second as *const u8, 16) };
            sender.send(bytes.to_vec()).unwrap();
        });
        opener.join().unwrap();
        receiver.recv().unwrap()
    }

    #[test]
    fn zeroes_come_after_the_work_before() {
        let zero_on_alloc = Flags { zero_on_alloc: true, ..Flags::default() };
        for (policy, flags) in
            [(Policy::QualityFirst, Flags::default()), (Policy::Balanced, zero_on_alloc)]
        {
            let config = Config { max_bytes: 64 << 20, policy, flags, ..Config::default() };
            let seen = seen_after_reuse(&config, |pool, a| pool.alloc(100 * KIB, a).unwrap());
            assert_eq!(seen, [0; 16], "{policy:?} {flags:?}");
        }
    }

    #[test]
    fn bytes_moved_by_realloc_come_after_the_work_before() {
        let config = Config { max_bytes: 64 << 20, ..Config::default() };
        let seen = seen_after_reuse(&config, |pool, a| {
            let small = pool.alloc(1000, Stream::DEFAULT).unwrap();
            rig::write(small, 1000, 251);
            pool.realloc(small, 100 * KIB, a).unwrap()
        });
        assert_eq!(seen[8..], [1; 8]);
    }

    #[test]
    fn poison_comes_after_the_work_before() {
        let flags = Flags { poison_on_free: true, ..Flags::default() };
        let config = Config { max_bytes: 64 << 20, flags, ..Config::default() };
        let pool = Pool::on_host(&config).unwrap();
        let a = TestStream::new();
        let log = Log::default();
        let block = pool.alloc(100 * KIB, a.handle()).unwrap();
        write_on(&a, &log, "a", block, 100 * KIB);
        let gate = Gate::on(&a);
        read_on(&a, &log, "a", block, 100 * KIB);
        // Once the block is written, and before it is read.
        while log.0.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        let opener = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            gate.open();
        });
        pool.free(block, a.handle()).unwrap();
        opener.join().unwrap();
        a.synchronize();
        assert_eq!(log.take(), ["a"]);
    }
}

/// A block somebody holds in the random test: stamped by work on `writer`.
struct Held {
    address: usize,
    size: usize,
    stamp: u64,
    writer: usize,
}

fn random_traffic(pool: &Pool, streams: &[TestStream], seed: u64, wrong: &Arc<AtomicU64>) -> u64 {
    let mut random = Random(seed);
    let mut held: Vec<Held> = Vec::new();
    let mut done = 0;
    let reader = |block: &Held, wrong: &Arc<AtomicU64>| {
        let (address, size, stamp) = (block.address, block.size, block.stamp);
        let wrong = Arc::clone(wrong);
        move || {
            if let Err(what) = rig::read(address, size, stamp) {
                eprintln!("{what}");
                wrong.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    for step in 0..1500u64 {
        let writer = random.below(streams.len());
        let size = match random.below(8) {
            0..=2 => 1 + random.below(4 * KIB),
            3 => 1 + random.below(32 * KIB),
            4..=5 => 32 * KIB + random.below(300 * KIB),
            _ => 256 * KIB + random.below(2 * MIB),
        };
        let result = pool.alloc(size, streams[writer].handle());
        match result {
            Ok(address) => {
                let block = Held { address, size, stamp: seed << 32 | step, writer };
                let (stamp, pause) = (block.stamp, random.below(60) as u64);
                streams[writer].submit(move || {
                    rig::write(address, size, stamp);
                    std::thread::sleep(std::time::Duration::from_micros(pause));
                });
                held.push(block);
                done += 1;
            }
            Err(error) => assert_eq!(error.kind(), Kind::OutOfMemory, "{error}"),
        }
        let most = if result.is_err() { held.len() / 2 } else { 24 };
        while held.len() > most {
            let block = held.swap_remove(random.below(held.len()));
            let own = &streams[block.writer];
            let other = &streams[random.below(streams.len())];
            match random.below(3) {
                0 => {
                    own.submit(reader(&block, wrong));
                    pool.free(block.address, own.handle()).unwrap();
                }
                1 => {
                    // Another stream is the last to use it, and frees it.
                    other.wait_for(own.record()).unwrap();
                    other.submit(reader(&block, wrong));
                    pool.free(block.address, other.handle()).unwrap();
                }
                _ => {
                    // Another stream uses it too; its own frees it.
                    other.wait_for(own.record()).unwrap();
                    other.submit(reader(&block, wrong));
                    pool.record_stream(block.address, other.handle()).unwrap();
                    own.submit(reader(&block, wrong));
                    pool.free(block.address, own.handle()).unwrap();
                }
            }
        }
    }
    for block in held {
        let own = &streams[block.writer];
        own.submit(reader(&block, wrong));
        pool.free(block.address, own.handle()).unwrap();
    }
    done
}

#[test]
fn random_traffic_on_four_streams_keeps_every_byte() {
    for (seed, policy) in
        [(1, Policy::Balanced), (2, Policy::Conservative), (3, Policy::AggressiveReuse)]
    {
        within(60, "random traffic", move || {
            // Small enough for pressure: blocks have to change streams.
            let config = Config { max_bytes: 24 << 20, policy, ..Config::default() };
            let pool = Pool::on_host(&config).unwrap();
            let streams: Arc<[TestStream]> = (0..4).map(|_| TestStream::new()).collect();
            let wrong = Arc::new(AtomicU64::new(0));
            let drivers: Vec<_> = (0..2)
                .map(|driver| {
                    let (pool, streams) = (Arc::clone(&pool), Arc::clone(&streams));
                    let wrong = Arc::clone(&wrong);
                    std::thread::spawn(move || {
                        random_traffic(&pool, &streams, seed * 2 + driver, &wrong)
                    })
                })
                .collect();
            let done: u64 = drivers.into_iter().map(|driver| driver.join().unwrap()).sum();
            streams.iter().for_each(TestStream::synchronize);
            assert_eq!(wrong.load(Ordering::Relaxed), 0, "blocks with another's bytes, {policy:?}");
            assert!(done > 1000, "{done} of 3000 allocations: too few for a test");
            pool.check().unwrap();
            assert_eq!(pool.stats().live_blocks, 0);
            pool.trim(0).unwrap();
            assert_eq!(pool.stats().reserved[0], 0);
        });
    }
}

#[test]
fn a_stream_that_never_was_is_refused() {
    let pool = pool_of(8 * MIB);
    let never = Stream(8);
    assert_eq!(pool.alloc(8, never).unwrap_err().kind(), Kind::InvalidArgument);
    let block = pool.alloc(8, handle(None)).unwrap();
    for error in [pool.free(block, never), pool.record_stream(block, never)] {
        assert_eq!(error.unwrap_err().kind(), Kind::InvalidArgument);
    }
    assert_eq!(pool.stats().live_blocks, 1, "it stays live");
    assert!(HostStream::find(never).is_err());
    assert!(HostOrder::query(forebay::order::Fence { stream: never, sequence: 0 }).is_err());
    pool.free(block, handle(None)).unwrap();
}
