//! Caches over pools on a GPU: who reads what, on which stream, and when memory is used again. On
//! the simulated driver every access is checked for order; the rest runs on a real one as well.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod gpu;

use std::sync::Arc;

use forebay::cache::{Cache, Config, Kind, Read};
use forebay::order::Stream;
use forebay::pool::Pool;
use gpu::{Gpu, MIB};

fn cache_of(pool: &Arc<Pool>, config: Config) -> Arc<Cache> {
    Cache::over(std::slice::from_ref(pool), &config).unwrap()
}

fn of_bytes(pool: &Arc<Pool>, max_bytes: usize) -> Arc<Cache> {
    cache_of(pool, Config { max_bytes: max_bytes as u64, ..Config::default() })
}

/// Nothing is left, nothing was wrong. A pool that is destroyed is gone when that returns, so that
/// the library's own thread does not call the driver for it in the next test.
fn end(gpu: &Gpu, pool: Arc<Pool>, cache: Arc<Cache>) {
    cache.check().unwrap();
    Cache::destroy(cache).unwrap();
    pool.check().unwrap();
    gpu.end_of_scratch();
    gpu.finish();
    Pool::destroy(pool).unwrap();
}

#[test]
fn a_hit_on_the_stream_of_the_writing_calls_no_driver() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let cache = of_bytes(&pool, 32 * MIB);
    let stream = gpu.stream();
    let put = |key: &[u8]| {
        let block = pool.alloc(MIB, stream).unwrap();
        gpu.write(stream, block, MIB, 7);
        cache.put(key, block, stream).unwrap();
    };
    put(b"x");
    let calls = gpu.calls(|| {
        for _ in 0..100 {
            let read = cache.get(b"x", stream).unwrap().unwrap();
            cache.release(read.ticket, read.address, stream).unwrap();
        }
        // What is evicted, the stream has at once.
        for key in 0..100u8 {
            cache.evict(MIB as u64).unwrap();
            put(&[key]);
        }
    });
    assert_eq!(calls, 0);
    let read = cache.get(&[99], stream).unwrap().unwrap();
    assert!(gpu.is_all(stream, read.address, MIB, 7));
    cache.release(read.ticket, read.address, stream).unwrap();
    end(&gpu, pool, cache);
}

#[test]
fn another_stream_waits_for_the_writing_once() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let cache = of_bytes(&pool, 32 * MIB);
    let (a, b) = (gpu.stream(), gpu.stream());
    let block = pool.alloc(4 * MIB, a).unwrap();
    gpu.hold(a);
    gpu.write(a, block, 4 * MIB, 3);
    cache.put(b"x", block, a).unwrap();
    let read = cache.get(b"x", b).unwrap().unwrap();
    gpu.read(b, read.address, 4 * MIB);
    cache.release(read.ticket, read.address, b).unwrap();
    // It is behind the writing now, and waits no more.
    let calls = gpu.calls(|| {
        let again = cache.get(b"x", b).unwrap().unwrap();
        cache.release(again.ticket, again.address, b).unwrap();
    });
    assert_eq!(calls, 0);
    gpu.let_go(a);
    // The host reads what is written.
    let read = cache.get(b"x", Stream::DEFAULT).unwrap().unwrap();
    assert!(gpu.is_all(Stream::DEFAULT, read.address, 4 * MIB, 3));
    cache.release(read.ticket, read.address, Stream::DEFAULT).unwrap();
    cache.clear().unwrap();
    end(&gpu, pool, cache);
}

#[test]
fn what_another_stream_reads_is_not_used_before_that_is_done() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(16 << 20);
    let cache = of_bytes(&pool, 16 * MIB);
    let (a, b) = (gpu.stream(), gpu.stream());
    let block = pool.alloc(6 * MIB, a).unwrap();
    gpu.write(a, block, 6 * MIB, 1);
    cache.put(b"x", block, a).unwrap();
    gpu.hold(b);
    let read = cache.get(b"x", b).unwrap().unwrap();
    gpu.read(b, read.address, 6 * MIB);
    cache.release(read.ticket, read.address, b).unwrap();
    cache.evict(1).unwrap();
    let other = pool.alloc(6 * MIB, a).unwrap();
    assert_ne!(other, block);
    gpu.write(a, other, 6 * MIB, 2);
    gpu.let_go(b);
    gpu.synchronize(b);
    pool.free(other, a).unwrap();
    // With the pool full, the ladder finds that memory behind a wait.
    let (first, second) = (pool.alloc(6 * MIB, a).unwrap(), pool.alloc(8 * MIB, a).unwrap());
    gpu.write(a, first, 6 * MIB, 4);
    gpu.write(a, second, 8 * MIB, 5);
    assert!(gpu.is_all(a, first, 6 * MIB, 4));
    pool.free(first, a).unwrap();
    pool.free(second, a).unwrap();
    end(&gpu, pool, cache);
}

#[test]
fn a_stream_that_is_forgotten_leaves_its_entries() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let cache = of_bytes(&pool, 32 * MIB);
    let reader = gpu.stream();
    for round in 0..20u8 {
        let stream = gpu.stream();
        let block = pool.alloc(MIB, stream).unwrap();
        gpu.write(stream, block, MIB, round + 1);
        cache.put(&[round], block, stream).unwrap();
        let read = cache.get(&[round], reader).unwrap().unwrap();
        gpu.read(reader, read.address, MIB);
        cache.release(read.ticket, read.address, reader).unwrap();
        pool.forget_stream(stream).unwrap();
        gpu.destroy(stream);
    }
    // A stream with the handle of one that is gone is another one, and waits.
    let fresh = gpu.stream();
    for round in 0..10u8 {
        let read = cache.get(&[round], fresh).unwrap().unwrap();
        assert!(gpu.is_all(fresh, read.address, MIB, round + 1), "round {round}");
        cache.release(read.ticket, read.address, fresh).unwrap();
    }
    assert_eq!(cache.clear().unwrap(), 20);
    assert_eq!(pool.stats().live_blocks, 0);
    pool.check().unwrap();
    let block =
        pool.alloc(48 * MIB, fresh).unwrap_or_else(|error| panic!("{error} {}", pool.stats_json()));
    gpu.write(fresh, block, 48 * MIB, 9);
    pool.free(block, fresh).unwrap();
    end(&gpu, pool, cache);
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 20) % end as u64) as usize
    }
}

/// A random program on four streams, in an order that the contract asks for: whatever the checker
/// finds is the cache's or the pool's.
struct Program {
    gpu: Gpu,
    pool: Arc<Pool>,
    cache: Arc<Cache>,
    streams: Vec<Stream>,
    random: Random,
    /// Of a pin, the bytes and the stream that it was got on.
    reads: Vec<(Read, Stream)>,
    /// Blocks outside, each used on its own stream.
    own: Vec<(usize, usize, Stream)>,
    refused: u64,
    hits: u64,
    waited: u64,
}

impl Program {
    fn new(seed: u64) -> Program {
        let config = sim_cuda::Config {
            bookkeeping: true,
            reuse_handles: seed.is_multiple_of(2),
            ..Default::default()
        };
        let gpu = Gpu::with(config);
        let pool = gpu.pool_of(96 << 20);
        let policy = Kind::ALL[seed as usize % Kind::ALL.len()];
        let max_bytes = (64 + 16 * (seed % 3)) << 20;
        let cache = cache_of(&pool, Config { max_bytes, policy, ..Config::default() });
        let streams = (0..4).map(|_| gpu.stream()).collect();
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (reads, own) = (Vec::new(), Vec::new());
        Program { gpu, pool, cache, streams, random, reads, own, refused: 0, hits: 0, waited: 0 }
    }

    fn queue(&self, stream: Stream, reads: &[(usize, usize)], writes: &[(usize, usize)]) {
        let range = |&(at, bytes): &(usize, usize)| (at as u64, bytes as u64);
        let reads: Vec<_> = reads.iter().map(range).collect();
        let writes: Vec<_> = writes.iter().map(range).collect();
        assert_eq!(sim_cuda::launch(stream.0, "kernel", &reads, &writes, 5_000, None), 0);
    }

    fn key(&mut self) -> [u8; 2] {
        [b'k', self.random.below(24) as u8]
    }

    fn step(&mut self) {
        let stream = self.streams[self.random.below(self.streams.len())];
        let key = self.key();
        match self.random.below(100) {
            0..25 => {
                let most = [64 << 10, MIB, 6 * MIB][self.random.below(3)];
                let size = 512 + self.random.below(most);
                let Ok(block) = self.pool.alloc(size, stream) else {
                    self.refused += 1;
                    return;
                };
                self.queue(stream, &[], &[(block, size)]);
                self.cache.put(&key, block, stream).unwrap();
            }
            25..60 => {
                if let Some(read) = self.cache.get(&key, stream).unwrap() {
                    self.hits += 1;
                    if self.random.below(8) == 0 {
                        // Nobody reads it after all, so that any stream may say so.
                        let any = self.streams[self.random.below(self.streams.len())];
                        self.cache.release(read.ticket, read.address, any).unwrap();
                        return;
                    }
                    self.queue(stream, &[(read.address, read.bytes as usize)], &[]);
                    self.reads.push((read, stream));
                }
            }
            60..75 => {
                if !self.reads.is_empty() {
                    let at = self.random.below(self.reads.len());
                    let (read, on) = self.reads.swap_remove(at);
                    let bytes = (read.address, read.bytes as usize);
                    let elsewhere = self.streams[self.random.below(self.streams.len())];
                    if self.random.below(4) == 0 && elsewhere != on {
                        // Handed on to another stream, which is made to wait and is the last one.
                        self.gpu.order(on, elsewhere);
                        self.queue(elsewhere, &[bytes], &[]);
                        self.cache.release(read.ticket, read.address, elsewhere).unwrap();
                    } else {
                        self.queue(on, &[bytes], &[]);
                        self.cache.release(read.ticket, read.address, on).unwrap();
                    }
                }
            }
            75..82 => {
                if let Ok(Some(taken)) = self.cache.take(&key, stream) {
                    let bytes = (taken.address, taken.bytes as usize);
                    self.queue(stream, &[], &[bytes]);
                    self.own.push((bytes.0, bytes.1, stream));
                }
            }
            82..88 => {
                if !self.own.is_empty() {
                    let at = self.random.below(self.own.len());
                    let (block, bytes, on) = self.own.swap_remove(at);
                    self.queue(on, &[], &[(block, bytes)]);
                    if self.random.below(2) == 0 {
                        self.cache.put(&key, block, on).unwrap();
                    } else {
                        self.pool.free(block, on).unwrap();
                    }
                }
            }
            88..91 => drop(self.cache.evict(self.random.below(8 * MIB) as u64).unwrap()),
            91 => drop(self.cache.remove(&key).unwrap()),
            92..96 => sim_cuda::advance(self.random.below(100_000) as u64),
            96 => self.gpu.synchronize(stream),
            97 => drop(self.pool.trim(self.random.below(64 * MIB) as u64).unwrap()),
            98 => self.replace_stream(),
            _ => {
                let size = MIB + self.random.below(40 * MIB);
                if let Ok(block) = self.pool.alloc(size, stream) {
                    self.queue(stream, &[], &[(block, size)]);
                    self.pool.free(block, stream).unwrap();
                    self.waited += 1;
                } else {
                    self.refused += 1;
                }
            }
        }
    }

    /// A stream ends, and another one comes: what is out on it is brought to an end first.
    fn replace_stream(&mut self) {
        let at = self.random.below(self.streams.len());
        let stream = self.streams[at];
        let (gone, stay) = self.reads.drain(..).partition(|&(_, on)| on == stream);
        self.reads = stay;
        let gone: Vec<(Read, Stream)> = gone;
        for (read, on) in gone {
            self.cache.release(read.ticket, read.address, on).unwrap();
        }
        let (gone, stay) = self.own.drain(..).partition(|&(_, _, on)| on == stream);
        self.own = stay;
        let gone: Vec<(usize, usize, Stream)> = gone;
        for (block, _, on) in gone {
            self.pool.free(block, on).unwrap();
        }
        self.pool.forget_stream(stream).unwrap();
        self.gpu.destroy(stream);
        self.streams[at] = self.gpu.stream();
    }

    fn run(mut self, steps: usize, seed: u64) -> (u64, u64) {
        for step in 0..steps {
            self.step();
            if step % 64 == 63 {
                let found = sim_cuda::take_hazards();
                assert!(found.is_empty(), "seed {seed}, step {step}: {}", found[0]);
                self.cache.check().unwrap();
                self.pool.check().unwrap();
                let stats = self.cache.stats();
                assert!(stats.bytes <= stats.max_bytes);
                let out = self.own.len() as u64;
                assert_eq!(self.pool.stats().live_blocks, stats.entries + out);
            }
        }
        for (read, on) in std::mem::take(&mut self.reads) {
            self.cache.release(read.ticket, read.address, on).unwrap();
        }
        Cache::destroy(self.cache).unwrap();
        for (block, _, on) in std::mem::take(&mut self.own) {
            self.pool.free(block, on).unwrap();
        }
        self.gpu.finish();
        Pool::destroy(self.pool).unwrap();
        assert!(self.hits > steps as u64 / 20 && self.waited > 0, "{} hits", self.hits);
        (self.refused, self.hits)
    }
}

#[test]
fn random_programs_are_in_order() {
    if gpu::is_real() {
        return;
    }
    let steps = std::env::var("FOREBAY_HAZARD_OPERATIONS").ok();
    let steps = steps.and_then(|steps| steps.parse().ok()).unwrap_or(48_000);
    let seeds = 12;
    for seed in 0..seeds {
        Program::new(seed).run(steps / seeds as usize, seed);
    }
}
