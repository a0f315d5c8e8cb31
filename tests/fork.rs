//! A fork: the child frees, allocates and makes streams, whatever other threads were doing.
//!
//! All in one test: a fork copies the whole process, and what the other threads of a test run
//! hold at that moment is not part of the question.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay::cache::Cache;
use forebay::error::Kind;
use forebay::order::{HostStream, Stream};
use forebay::pool::{Config, Policy, Pool};
use forebay::trace::{Action, Recorder, Trace};
use rig::{KIB, MIB, Random, TestStream};

/// Runs `body` in a forked child; its panic, a signal or taking more than 20 s fails the test.
fn in_child(what: &str, body: impl FnOnce()) {
    // SAFETY: the child runs `body` and `_exit`; of the C library it uses what its fork
    // handlers make usable.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        let code = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
            Ok(()) => 0,
            Err(_) => 1,
        };
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(code) };
    }
    let end = Instant::now() + Duration::from_secs(20);
    let mut status = 0;
    loop {
        // SAFETY: a child of ours and a place for its status.
        let done = unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) };
        if done == child {
            break;
        }
        assert_eq!(done, 0, "waitpid: {}", std::io::Error::last_os_error());
        if Instant::now() > end {
            // SAFETY: the child just made.
            unsafe { libc::kill(child, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(child, &mut status, 0) };
            panic!("{what}: the child hangs");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(libc::WIFEXITED(status), "{what}: the child died of {}", libc::WTERMSIG(status));
    assert_eq!(libc::WEXITSTATUS(status), 0, "{what}: the child panicked");
}

/// Keeps every kind of lock of the pools busy.
fn disturb(pool: &Pool, stream: Stream, seed: u64, stop: &AtomicBool) {
    let mut random = Random(seed);
    let mut blocks = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let on = if random.below(2) == 0 { Stream::DEFAULT } else { stream };
        match random.below(40) {
            0 => drop(pool.trim(random.next() % (32 << 20)).unwrap()),
            1 => pool.set_policy(Policy::ALL[random.below(5)]).unwrap(),
            2 => drop(pool.defragment().unwrap()),
            3 => drop(pool.stats_json()),
            4 => pool.set_oom_callback(None),
            5 => drop(pool.free(0x1000, Stream::DEFAULT).unwrap_err()),
            6 => drop(TestStream::new()),
            7 => pool.check().unwrap(),
            _ => {
                let size =
                    if random.below(4) == 0 { random.below(2 * MIB) } else { random.below(6000) };
                if let Ok(block) = pool.alloc(size + 1, on) {
                    blocks.push((block, on));
                }
            }
        }
        if blocks.len() > 30 {
            let (block, on) = blocks.swap_remove(random.below(blocks.len()));
            pool.free(block, on).unwrap();
        }
    }
    blocks.iter().for_each(|&(block, on)| pool.free(block, on).unwrap());
}

#[test]
fn a_child_frees_allocates_and_makes_streams() {
    let pools: Vec<Arc<Pool>> = [Policy::Balanced, Policy::Conservative]
        .into_iter()
        .map(|policy| {
            Pool::on_host(&Config { max_bytes: 256 << 20, policy, ..Config::default() }).unwrap()
        })
        .collect();
    let stream = TestStream::new();
    let own: Vec<(usize, usize, usize)> = (0..40)
        .map(|number| {
            let size = [40, 3000, 50 * KIB, MIB][number % 4];
            let block = pools[number % 2].alloc(size, Stream::DEFAULT).unwrap();
            rig::write(block, size, number as u64);
            (number % 2, block, size)
        })
        .collect();
    let of_stream = pools[0].alloc(5000, stream.handle()).unwrap();
    // A block of a thread that is not in the child, with that thread's front cache around it.
    let (sender, receiver) = std::sync::mpsc::channel();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let of_thread = Arc::clone(&pools[0]);
    let other = std::thread::spawn(move || {
        let block = of_thread.alloc(777, Stream::DEFAULT).unwrap();
        let cached = of_thread.alloc(20 * KIB, Stream::DEFAULT).unwrap();
        rig::write(block, 777, 99);
        of_thread.free(cached, Stream::DEFAULT).unwrap();
        sender.send(block).unwrap();
        wait.recv().unwrap_err();
        rig::read(block, 777, 99).unwrap();
        of_thread.free(block, Stream::DEFAULT).unwrap();
    });
    let others_block = receiver.recv().unwrap();

    // Quiet: nobody else calls, so counts are exact.
    in_child("a quiet fork", || {
        let live = pools[0].stats().live_blocks;
        pools[0].check().unwrap();
        rig::read(others_block, 777, 99).unwrap();
        rig::write(others_block, 777, 1);
        pools[0].free(others_block, Stream::DEFAULT).unwrap();
        for (number, &(pool, block, size)) in own.iter().enumerate() {
            rig::read(block, size, number as u64).unwrap();
            rig::write(block, size, 5);
            pools[pool].free(block, Stream::DEFAULT).unwrap();
        }
        assert_eq!(pools[0].stats().live_blocks, live - 21);
        // The parent's stream has no thread here, and says so.
        let error = stream.submit_or_error();
        assert_eq!(error, Some(Kind::InvalidState));
        pools[0].free(of_stream, stream.handle()).unwrap();
        let fresh = HostStream::create().unwrap();
        let block = pools[0].alloc(3 * MIB, fresh.handle()).unwrap();
        fresh.submit(Box::new(move || rig::write(block, 3 * MIB, 8))).unwrap();
        fresh.destroy().unwrap();
        rig::read(block, 3 * MIB, 8).unwrap();
        pools[0].free(block, Stream::DEFAULT).unwrap();
        for pool in &pools {
            pool.check().unwrap();
            pool.set_policy(Policy::AggressiveReuse).unwrap();
            pool.trim(0).unwrap();
            assert_eq!(pool.stats().reserved[0], 0, "{}", pool.stats_json());
            pool.close().unwrap();
        }
        let pool = Pool::on_host(&Config::default()).unwrap();
        let block = pool.alloc(10 * MIB, Stream::DEFAULT).unwrap();
        rig::write(block, 10 * MIB, 2);
        pool.free(block, Stream::DEFAULT).unwrap();
        // A child of the child as well.
        in_child("a fork of the child", || {
            let block = pool.alloc(100, Stream::DEFAULT).unwrap();
            pool.free(block, Stream::DEFAULT).unwrap();
        });
    });
    // The child's writes and frees are its own.
    for (number, &(_, block, size)) in own.iter().enumerate() {
        rig::read(block, size, number as u64).unwrap();
    }

    // Noisy: whatever lock the others hold, neither process is stuck.
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            let (pool, stop) = (Arc::clone(&pools[seed % 2]), Arc::clone(&stop));
            let on = stream.handle();
            std::thread::spawn(move || disturb(&pool, on, seed as u64, &stop))
        })
        .collect();
    // Who is stuck in fork() itself cannot be told so: the process ends with a message.
    let finished = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&finished);
    std::thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(60);
        while !watched.load(Ordering::Relaxed) {
            if Instant::now() > end {
                eprintln!("a fork beside busy threads is not done after 60 s");
                std::process::abort();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    for round in 0..60 {
        in_child("a noisy fork", || {
            for &(pool, block, size) in &own {
                rig::write(block, size, 6);
                pools[pool].free(block, Stream::DEFAULT).unwrap();
            }
            let fresh = HostStream::create().unwrap();
            for pool in &pools {
                for size in [30, 4000, 100 * KIB, 3 * MIB] {
                    for on in [Stream::DEFAULT, fresh.handle()] {
                        let block = pool.alloc(size, on).unwrap();
                        rig::write(block, size, round);
                        pool.free(block, on).unwrap();
                    }
                }
                pool.trim(0).unwrap();
            }
            fresh.destroy().unwrap();
        });
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    finished.store(true, Ordering::Relaxed);
    for (number, &(pool, block, size)) in own.iter().enumerate() {
        rig::read(block, size, number as u64).unwrap();
        pools[pool].free(block, Stream::DEFAULT).unwrap();
    }
    drop(done);
    other.join().unwrap();
    pools[0].free(of_stream, stream.handle()).unwrap();
    for pool in &pools {
        pool.check().unwrap();
        pool.trim(0).unwrap();
        assert_eq!(pool.stats().reserved[0], 0);
        pool.close().unwrap();
    }
}

/// Rows wait in a buffer when a process forks: they are the parent's to write, once.
#[test]
fn a_child_leaves_the_trace_to_its_parent() {
    let directory = std::env::temp_dir();
    for name in ["fork.csv", "fork.csv.gz"] {
        let path = directory.join(format!("forebay-{}-{name}", std::process::id()));
        let own = directory.join(format!("forebay-{}-child-{name}", std::process::id()));
        let pool = Pool::on_host(&Config::default()).unwrap();
        pool.start_trace(|| Recorder::create(&path)).unwrap();
        let block = pool.alloc(1234, Stream::DEFAULT).unwrap();
        in_child("a fork while a trace is recorded", || {
            let second = pool.alloc(99, Stream::DEFAULT).unwrap();
            assert_eq!(pool.stop_trace().unwrap_err().kind(), Kind::InvalidState);
            // One of its own is fine.
            pool.start_trace(|| Recorder::create(&own)).unwrap();
            pool.free(second, Stream::DEFAULT).unwrap();
            assert_eq!(pool.stop_trace().unwrap(), 1);
            pool.free(block, Stream::DEFAULT).unwrap();
            pool.close().unwrap();
        });
        in_child("a fork that destroys the pool", || {
            assert_eq!(pool.close().unwrap_err().kind(), Kind::InvalidState);
        });
        pool.free(block, Stream::DEFAULT).unwrap();
        assert_eq!(pool.stop_trace().unwrap(), 2);
        let rows = |path| -> Vec<(Action, u64, u64)> {
            let trace = Trace::load(path).unwrap();
            let events = trace.events.iter();
            events.map(|event| (event.action, event.pointer, event.size)).collect()
        };
        let both = [Action::Allocate, Action::Free].map(|action| (action, block as u64, 1234));
        assert_eq!(rows(&path), both, "{name}");
        assert_eq!(rows(&own).len(), 1, "{name}");
        for path in [&path, &own] {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// Has threads stop at the end of a scope.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A child goes on with the caches of host pools, whatever other threads were doing with them, and
/// gets what they hold when a pool is short of memory.
#[test]
fn caches_go_on_in_a_child() {
    let pool = Pool::on_host(&Config { max_bytes: 64 << 20, ..Config::default() }).unwrap();
    let config = forebay::cache::Config { max_bytes: 32 << 20, ..Default::default() };
    let cache = Cache::over(std::slice::from_ref(&pool), &config).unwrap();
    let put = |key: u64, size: usize| {
        let Ok(block) = pool.alloc(size, Stream::DEFAULT) else { return };
        rig::write(block, size, key);
        cache.put(&key.to_le_bytes(), block, Stream::DEFAULT).unwrap();
    };
    let read = |key: u64| {
        let found = cache.get(&key.to_le_bytes(), Stream::DEFAULT).unwrap();
        let Some(found) = found else { return false };
        rig::read(found.address, found.bytes as usize, key).unwrap();
        cache.release(found.ticket, found.address, Stream::DEFAULT).unwrap();
        true
    };
    put(7, MIB);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Whatever becomes of the forks.
        let _stop = Stop(&stop);
        for seed in 0..3 {
            let (stop, put, read, cache) = (&stop, &put, &read, &cache);
            scope.spawn(move || {
                let mut random = Random(seed);
                while !stop.load(Ordering::Relaxed) {
                    let key = 100 + random.below(50) as u64;
                    match random.below(12) {
                        0..4 => put(key, 16 + random.below(MIB)),
                        4..9 => drop(read(key)),
                        9 => drop(cache.remove(&key.to_le_bytes()).unwrap()),
                        10 => drop(cache.evict(random.below(MIB) as u64).unwrap()),
                        _ => drop(cache.stats()),
                    }
                }
            });
        }
        for _ in 0..40 {
            put(7, MIB);
            in_child("a fork beside threads on a cache", || {
                cache.check().unwrap();
                put(8, 3 * MIB);
                assert!(read(8));
                // More than the cache leaves: it gives way. What other threads were reading, or
                // about to give back, stays theirs.
                let block = pool.alloc(40 * MIB, Stream::DEFAULT).unwrap();
                pool.free(block, Stream::DEFAULT).unwrap();
                cache.clear().unwrap();
                cache.check().unwrap();
                let own = Pool::on_host(&Config::default()).unwrap();
                let config = forebay::cache::Config { max_entries: 2, ..Default::default() };
                let fresh = Cache::over(std::slice::from_ref(&own), &config).unwrap();
                let block = own.alloc(100, Stream::DEFAULT).unwrap();
                fresh.put(b"x", block, Stream::DEFAULT).unwrap();
                Cache::destroy(fresh).unwrap();
                Pool::destroy(own).unwrap();
                // Threads of the parent have it for ever; that does not stop anybody.
                let _ = Pool::destroy(Arc::clone(&pool));
            });
        }
    });
    cache.check().unwrap();
    Cache::destroy(cache).unwrap();
    Pool::destroy(pool).unwrap();
}
