//! Caches: random calls beside a list of what may be there, pools at their limit, threads, streams.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod rig;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use forebay::cache::{Cache, Config, Kind, Read};
use forebay::error::Kind as ErrorKind;
use forebay::order::Stream;
use forebay::pool::{self, Pool};
use proptest::prelude::*;
use rig::{Gate, KIB, MIB, Random, TestStream, within};

const DEFAULT: Stream = Stream::DEFAULT;

fn pool_of(max_bytes: usize) -> Arc<Pool> {
    Pool::on_host(&pool::Config { max_bytes: max_bytes as u64, ..Default::default() }).unwrap()
}

fn cache_of(pool: &Arc<Pool>, max_bytes: usize) -> Arc<Cache> {
    let config = Config { max_bytes: max_bytes as u64, ..Config::default() };
    Cache::over(std::slice::from_ref(pool), &config).unwrap()
}

/// A block whose bytes tell whose they are, put.
fn put(cache: &Cache, pool: &Pool, key: &[u8], size: usize, stamp: u64) {
    let block = pool.alloc(size, DEFAULT).unwrap();
    rig::write(block, size, stamp);
    cache.put(key, block, DEFAULT).unwrap();
}

/// Everything that a cache could do wrong, whatever it keeps.
struct Model {
    pool: Arc<Pool>,
    cache: Arc<Cache>,
    max_bytes: u64,
    max_entries: u64,
    /// Of each key, the stamps and sizes of the blocks that may still be there, oldest first.
    keys: BTreeMap<Vec<u8>, Vec<(u64, usize)>>,
    reads: Vec<(Read, u64, usize)>,
    /// Blocks that were taken out.
    own: Vec<(usize, u64, usize)>,
    stamp: u64,
    expected: [u64; 4],
}

#[derive(Clone, Debug)]
enum Op {
    Put { key: usize, size: usize },
    PutOwn { key: usize, which: usize },
    Copy { key: usize, size: usize },
    Get { key: usize },
    Release { which: usize },
    ReleaseTwice { which: usize },
    Take { key: usize },
    Remove { key: usize },
    Evict { bytes: u64 },
    Clear,
    Age { milliseconds: u64 },
    Expire { milliseconds: u64 },
    Free { which: usize },
    Press { size: usize },
}

const KEYS: usize = 12;

fn key_of(number: usize) -> Vec<u8> {
    // Lengths beside those where the hash takes another way.
    let lengths = [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100, 65536];
    vec![number as u8 + 1; lengths[number % KEYS]]
}

fn any_op() -> impl Strategy<Value = Op> {
    let key = || 0..KEYS;
    let which = any::<usize>;
    let size = || prop_oneof![3 => 1..=4 * KIB, 3 => 1..=300 * KIB, 1 => 1..=3 * MIB];
    prop_oneof![
        12 => (key(), size()).prop_map(|(key, size)| Op::Put { key, size }),
        4 => (key(), which()).prop_map(|(key, which)| Op::PutOwn { key, which }),
        2 => (key(), size()).prop_map(|(key, size)| Op::Copy { key, size }),
        12 => key().prop_map(|key| Op::Get { key }),
        9 => which().prop_map(|which| Op::Release { which }),
        1 => which().prop_map(|which| Op::ReleaseTwice { which }),
        5 => key().prop_map(|key| Op::Take { key }),
        2 => key().prop_map(|key| Op::Remove { key }),
        2 => (0..4 * MIB as u64).prop_map(|bytes| Op::Evict { bytes }),
        1 => Just(Op::Clear),
        2 => (0..400u64).prop_map(|milliseconds| Op::Age { milliseconds }),
        1 => (0..1000u64).prop_map(|milliseconds| Op::Expire { milliseconds }),
        4 => which().prop_map(|which| Op::Free { which }),
        1 => (MIB..12 * MIB).prop_map(|size| Op::Press { size }),
    ]
}

impl Model {
    fn new(max_bytes: u64, max_entries: u64, policy: Kind, live: Option<Duration>) -> Model {
        let pool = pool_of(16 * MIB);
        let config =
            Config { max_bytes, max_entries, policy, time_to_live: live, ..Config::default() };
        let cache = Cache::over(std::slice::from_ref(&pool), &config).unwrap();
        let any = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        Model {
            pool,
            cache,
            max_bytes: any(max_bytes),
            max_entries: any(max_entries),
            keys: BTreeMap::new(),
            reads: Vec::new(),
            own: Vec::new(),
            stamp: 0,
            expected: [0; 4],
        }
    }

    fn alloc(&mut self, size: usize) -> Option<(usize, u64)> {
        let block = self.pool.alloc(size, DEFAULT).map_err(|error| {
            assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
            let stats = self.cache.stats();
            assert_eq!(stats.bytes, stats.pinned_bytes, "out of memory beside a cache: {error}");
        });
        self.stamp += 1;
        rig::write(block.ok()?, size, self.stamp);
        Some((block.ok()?, self.stamp))
    }

    fn put(&mut self, key: usize, (block, stamp): (usize, u64), size: usize) {
        let key = key_of(key);
        let allocated = self.pool.usable_size(block).unwrap();
        match self.cache.put(&key, block, DEFAULT) {
            Ok(()) => {
                assert!(allocated <= self.max_bytes);
                self.keys.entry(key).or_default().push((stamp, size));
            }
            Err(error) => {
                assert!(allocated > self.max_bytes, "{error}");
                self.own.push((block, stamp, size));
            }
        }
    }

    /// What the key's entries can be, given that the one found has this stamp.
    fn found(&mut self, key: &[u8], stamp: Option<u64>) -> usize {
        let known = self.keys.get_mut(key);
        let Some(stamp) = stamp else {
            known.map(Vec::clear);
            return 0;
        };
        let known = known.unwrap();
        let at = known.iter().position(|&(known, _)| known == stamp);
        let at = at.unwrap_or_else(|| panic!("stamp {stamp} is none of {known:?}"));
        // Newer ones must be gone for good.
        known.truncate(at + 1);
        known[at].1
    }

    fn stamp_at(address: usize, bytes: usize) -> u64 {
        if bytes >= 16 {
            // SAFETY: a live block of at least so many bytes.
            return unsafe { (address as *const u64).read_unaligned() };
        }
        // SAFETY: as above.
        unsafe { u64::from(*(address as *const u8)) }
    }

    /// The stamp of a block that was found under a key.
    fn stamp_of(&self, key: &[u8], address: usize, bytes: usize) -> u64 {
        let seen = Self::stamp_at(address, bytes);
        if bytes >= 16 {
            return seen;
        }
        // Of the few bytes only the remainder is known: the newest that fits.
        let known = self.keys.get(key).unwrap();
        let fits = |&&(stamp, size): &&(u64, usize)| stamp % 251 + 1 == seen && size == bytes;
        known.iter().rev().find(fits).unwrap().0
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Put { key, size } => {
                if let Some(block) = self.alloc(size) {
                    self.put(key, block, size);
                }
            }
            Op::PutOwn { key, which } => {
                if !self.own.is_empty() {
                    let (block, stamp, size) = self.own.swap_remove(which % self.own.len());
                    self.put(key, (block, stamp), size);
                }
            }
            Op::Copy { key, size } => {
                self.stamp += 1;
                let mut bytes = vec![0u8; size];
                rig::write(bytes.as_mut_ptr() as usize, size, self.stamp);
                let key = key_of(key);
                // SAFETY: bytes that are here.
                let put =
                    unsafe { self.cache.put_copy(&key, bytes.as_ptr() as usize, size, DEFAULT) };
                match put {
                    Ok(()) => self.keys.entry(key).or_default().push((self.stamp, size)),
                    Err(error) => assert!(
                        error.kind() == ErrorKind::OutOfMemory || size as u64 > self.max_bytes / 2,
                        "{error}"
                    ),
                }
            }
            Op::Get { key } => {
                let key = key_of(key);
                match self.cache.get(&key, DEFAULT).unwrap() {
                    None => {
                        self.found(&key, None);
                        self.expected[1] += 1;
                    }
                    Some(read) => {
                        let bytes = read.bytes as usize;
                        let stamp = self.stamp_of(&key, read.address, bytes);
                        assert_eq!(self.found(&key, Some(stamp)), bytes);
                        rig::read(read.address, bytes, stamp).unwrap();
                        self.reads.push((read, stamp, bytes));
                        self.expected[0] += 1;
                    }
                }
            }
            Op::Release { which } | Op::ReleaseTwice { which } => {
                if self.reads.is_empty() {
                    return;
                }
                let (read, stamp, size) = self.reads.swap_remove(which % self.reads.len());
                rig::read(read.address, size, stamp).unwrap();
                self.cache.release(read.ticket, read.address, DEFAULT).unwrap();
                if matches!(op, Op::ReleaseTwice { .. }) {
                    let again = self.cache.release(read.ticket, read.address, DEFAULT);
                    assert_eq!(again.unwrap_err().kind(), ErrorKind::InvalidArgument);
                }
            }
            Op::Take { key } => {
                let key = key_of(key);
                match self.cache.take(&key, DEFAULT) {
                    Ok(None) => {
                        self.found(&key, None);
                        self.expected[1] += 1;
                    }
                    Ok(Some(taken)) => {
                        let bytes = taken.bytes as usize;
                        let stamp = self.stamp_of(&key, taken.address, bytes);
                        rig::read(taken.address, bytes, stamp).unwrap();
                        assert!(
                            self.reads.iter().all(|(read, ..)| read.address != taken.address),
                            "taken while it is read"
                        );
                        // Newer ones may be there, and pinned.
                        let known = self.keys.get_mut(&key).unwrap();
                        known.retain(|&(known, _)| known != stamp);
                        self.own.push((taken.address, stamp, bytes));
                        self.expected[0] += 1;
                        self.expected[2] += 1;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::InvalidState, "{error}");
                        assert!(!self.reads.is_empty());
                    }
                }
            }
            Op::Remove { key } => {
                let key = key_of(key);
                let removed = self.cache.remove(&key).unwrap();
                let known = self.keys.remove(&key).unwrap_or_default();
                assert!(removed <= known.len() as u64);
                self.expected[3] += removed;
                assert!(self.cache.remove(&key).unwrap() == 0);
            }
            Op::Evict { bytes } => {
                let before = self.cache.stats();
                let freed = self.cache.evict(bytes).unwrap();
                let after = self.cache.stats();
                assert_eq!(before.bytes - after.bytes, freed);
                assert_eq!(before.pinned_bytes, after.pinned_bytes);
                assert!(freed >= bytes || after.bytes == after.pinned_bytes);
            }
            Op::Clear => {
                self.expected[3] += self.cache.clear().unwrap();
                self.keys.clear();
            }
            Op::Age { milliseconds } => self.cache.advance(Duration::from_millis(milliseconds)),
            Op::Expire { milliseconds } => {
                self.cache.expire(Duration::from_millis(milliseconds)).unwrap();
            }
            Op::Free { which } => {
                if !self.own.is_empty() {
                    let (block, stamp, size) = self.own.swap_remove(which % self.own.len());
                    rig::read(block, size, stamp).unwrap();
                    self.pool.free(block, DEFAULT).unwrap();
                }
            }
            Op::Press { size } => {
                if let Some((block, stamp)) = self.alloc(size) {
                    self.own.push((block, stamp, size));
                }
            }
        }
    }

    fn check(&self) {
        self.cache.check().unwrap();
        let stats = self.cache.stats();
        assert!(stats.bytes <= self.max_bytes && stats.entries <= self.max_entries, "{stats:?}");
        assert!(stats.counters.bytes_peak <= self.max_bytes);
        assert_eq!(self.pool.stats().live_blocks, stats.entries + self.own.len() as u64);
        let count = stats.counters;
        assert_eq!([count.hits, count.misses, count.taken, count.removed], self.expected);
        let mut pinned: Vec<usize> = self.reads.iter().map(|(read, ..)| read.address).collect();
        pinned.sort_unstable();
        pinned.dedup();
        assert_eq!(stats.pinned_entries, pinned.len() as u64);
        let left = count.evicted + count.refused + count.pressed + count.expired + count.removed;
        assert!(count.puts - left - count.taken <= stats.entries);
    }

    fn end(mut self) {
        self.pool.check().unwrap();
        for (read, stamp, size) in std::mem::take(&mut self.reads) {
            rig::read(read.address, size, stamp).unwrap();
            self.cache.release(read.ticket, read.address, DEFAULT).unwrap();
        }
        self.check();
        for (block, stamp, size) in self.own {
            rig::read(block, size, stamp).unwrap();
            self.pool.free(block, DEFAULT).unwrap();
        }
        Cache::destroy(self.cache).unwrap();
        Pool::destroy(self.pool).unwrap();
    }
}

proptest! {
    #![proptest_config(rig::cases(128))]

    #[test]
    fn random_calls(
        ops in proptest::collection::vec(any_op(), 1..200),
        max_bytes in prop_oneof![Just(0), Just(MIB as u64), 1..10 * MIB as u64],
        max_entries in prop_oneof![Just(0), 1..20u64],
        live in proptest::option::of(1..500u64),
        policy in proptest::sample::select(Kind::ALL.to_vec()),
    ) {
        let max_entries = if max_bytes == 0 { max_entries.max(1) } else { max_entries };
        let live = live.map(Duration::from_millis);
        let mut model = Model::new(max_bytes, max_entries, policy, live);
        for op in &ops {
            model.step(op);
            model.check();
        }
        model.end();
    }
}

/// A pool at its limit beside a full cache: whatever fits without the cache's unpinned bytes is
/// served, in 10,000 rounds.
#[test]
fn a_pool_at_its_limit_gets_what_its_cache_can_spare() {
    const LIMIT: usize = 48 * MIB;
    let mut random = Random(7);
    let (mut served, mut refused, mut pressed) = (0, 0, 0);
    for seed in 0..20u64 {
        let pool = pool_of(LIMIT);
        let cache = cache_of(&pool, LIMIT);
        let mut own: Vec<(usize, usize, u64)> = Vec::new();
        let mut reads: Vec<(Read, u64)> = Vec::new();
        let mut sizes: BTreeMap<u64, usize> = BTreeMap::new();
        for round in 0..500u64 {
            let stamp = seed << 32 | round << 8 | 1;
            // The cache fills the pool.
            for number in 0..8u64 {
                let most = [KIB, 64 * KIB, MIB, 4 * MIB][random.below(4)];
                let size = 1 + random.below(most);
                if let Ok(block) = pool.alloc(size.max(16), DEFAULT) {
                    let stamp = stamp + number;
                    rig::write(block, size.max(16), stamp);
                    sizes.insert(stamp, size.max(16));
                    cache.put(&stamp.to_le_bytes(), block, DEFAULT).unwrap();
                }
            }
            if random.below(3) == 0 {
                let key = (stamp + random.below(8) as u64).to_le_bytes();
                if let Some(read) = cache.get(&key, DEFAULT).unwrap() {
                    reads.push((read, u64::from_le_bytes(key)));
                }
            }
            if reads.len() > 6 || (!reads.is_empty() && random.below(4) == 0) {
                let (read, key) = reads.swap_remove(random.below(reads.len()));
                rig::read(read.address, sizes[&key], key).unwrap();
                cache.release(read.ticket, read.address, DEFAULT).unwrap();
            }
            let most = [KIB, 256 * KIB, 6 * MIB, 40 * MIB][random.below(4)];
            let size = 16 + random.below(most);
            match pool.alloc(size, DEFAULT) {
                Ok(block) => {
                    rig::write(block, size, stamp | 0xFF);
                    own.push((block, size, stamp | 0xFF));
                    served += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
                    // It gave all it could, and that is not enough.
                    let stats = cache.stats();
                    assert_eq!(stats.bytes, stats.pinned_bytes, "{error}");
                    assert!(pool.alloc(size, DEFAULT).is_err(), "{error}");
                    refused += 1;
                }
            }
            while own.len() > 8 || own.iter().map(|&(_, size, _)| size).sum::<usize>() > LIMIT / 2 {
                let (block, size, stamp) = own.swap_remove(random.below(own.len()));
                rig::read(block, size, stamp).unwrap();
                pool.free(block, DEFAULT).unwrap();
            }
            for (read, key) in &reads {
                rig::read(read.address, sizes[key].min(4096), *key)
                    .or_else(|_| rig::read(read.address, sizes[key], *key))
                    .unwrap();
            }
            assert!(cache.stats().bytes <= LIMIT as u64);
            if round.is_multiple_of(16) {
                cache.check().unwrap();
                pool.check().unwrap();
            }
        }
        pressed += cache.stats().counters.pressed;
        for (read, _) in reads {
            cache.release(read.ticket, read.address, DEFAULT).unwrap();
        }
        for (block, _, _) in own {
            pool.free(block, DEFAULT).unwrap();
        }
        Cache::destroy(cache).unwrap();
        Pool::destroy(pool).unwrap();
    }
    assert!(served > 5000 && pressed > 5000, "{served} served, {pressed} pressed");
    assert!(refused > 10, "{refused}: there was enough memory all the time");
}

/// What is asked for is about what is given, where it lies together.
#[test]
fn pressure_takes_what_is_needed_and_the_worst_first() {
    let pool = pool_of(64 * MIB);
    let cache = cache_of(&pool, 64 * MIB);
    for number in 0..32u64 {
        put(&cache, &pool, &number.to_le_bytes(), 2 * MIB - 4096, number);
    }
    assert_eq!(cache.stats().entries, 32);
    let block = pool.alloc(8 * MIB, DEFAULT).unwrap();
    let pressed = cache.stats().counters.pressed;
    assert!((4..=8).contains(&pressed), "{pressed} entries for 4");
    for number in 0..32u64 {
        let found = cache.get(&number.to_le_bytes(), DEFAULT).unwrap();
        assert_eq!(found.is_some(), number >= pressed, "{number}");
        if let Some(read) = found {
            cache.release(read.ticket, read.address, DEFAULT).unwrap();
        }
    }
    pool.free(block, DEFAULT).unwrap();
    // Two caches of one pool: who holds more is asked first.
    let other = cache_of(&pool, 64 * MIB);
    put(&other, &pool, b"small", MIB, 1);
    let block = pool.alloc(12 * MIB, DEFAULT).unwrap();
    assert!(other.get(b"small", DEFAULT).unwrap().is_some());
    assert_eq!(other.stats().counters.pressed, 0);
    assert!(cache.stats().counters.pressed > pressed);
    pool.free(block, DEFAULT).unwrap();
}

#[test]
fn threads_share_a_cache_under_pressure() {
    const LIMIT: usize = 32 * MIB;
    within(120, "threads on a cache", || {
        let pool = pool_of(LIMIT);
        let cache = cache_of(&pool, 24 * MIB);
        let stop = AtomicBool::new(false);
        let stamps = AtomicU64::new(1);
        std::thread::scope(|scope| {
            let mut workers = Vec::new();
            for seed in 0..4u64 {
                let (pool, cache, stop, stamps) = (&pool, &cache, &stop, &stamps);
                workers.push(scope.spawn(move || {
                    let mut random = Random(seed);
                    for _ in 0..20_000 {
                        let key = (random.below(200) as u64).to_le_bytes();
                        match random.below(10) {
                            0..4 => {
                                let most = [KIB, 64 * KIB, MIB][random.below(3)];
                                let size = 16 + random.below(most);
                                let Ok(block) = pool.alloc(size, DEFAULT) else { continue };
                                let stamp = stamps.fetch_add(1, Ordering::Relaxed);
                                // The first bytes tell the size and the key, the rest are stamped.
                                rig::write(block, size, stamp);
                                cache.put(&key, block, DEFAULT).unwrap();
                            }
                            4..8 => {
                                if let Some(read) = cache.get(&key, DEFAULT).unwrap() {
                                    let bytes = read.bytes as usize;
                                    let stamp = Model::stamp_at(read.address, bytes);
                                    rig::read(read.address, bytes, stamp).unwrap();
                                    std::thread::yield_now();
                                    rig::read(read.address, bytes, stamp).unwrap();
                                    cache.release(read.ticket, read.address, DEFAULT).unwrap();
                                }
                            }
                            8 => {
                                if let Ok(Some(taken)) = cache.take(&key, DEFAULT) {
                                    rig::write(taken.address, taken.bytes as usize, 0);
                                    pool.free(taken.address, DEFAULT).unwrap();
                                }
                            }
                            _ => match random.below(8) {
                                0 => drop(cache.remove(&key).unwrap()),
                                1 => drop(cache.evict(random.below(MIB) as u64).unwrap()),
                                _ => {
                                    let size = 1 + random.below(8 * MIB);
                                    if let Ok(block) = pool.alloc(size, DEFAULT) {
                                        rig::write(block, size.min(4096), 3);
                                        pool.free(block, DEFAULT).unwrap();
                                    }
                                }
                            },
                        }
                    }
                    stop.store(true, Ordering::Relaxed);
                }));
            }
            let (cache, stop) = (&cache, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let stats = cache.stats();
                    assert!(stats.bytes <= stats.max_bytes, "{stats:?}");
                    cache.check().unwrap();
                    std::thread::yield_now();
                }
            });
        });
        let stats = cache.stats();
        assert_eq!(stats.pinned_entries, 0);
        assert_eq!(pool.stats().live_blocks, stats.entries);
        assert!(stats.counters.pressed > 0 && stats.counters.evicted > 0, "{stats:?}");
        cache.check().unwrap();
        pool.check().unwrap();
        Cache::destroy(cache).unwrap();
        Pool::destroy(pool).unwrap();
    });
}

#[test]
fn a_reader_waits_for_the_writing_and_memory_for_the_reader() {
    let pool = pool_of(64 * MIB);
    let cache = cache_of(&pool, 32 * MIB);
    let (writer, reader, third) = (TestStream::new(), TestStream::new(), TestStream::new());
    let size = 4 * MIB;
    let block = pool.alloc(size, writer.handle()).unwrap();
    rig::write(block, size, 1);
    let gate = Gate::on(&writer);
    writer.submit(move || rig::write(block, size, 2));
    cache.put(b"x", block, writer.handle()).unwrap();
    // On the writer's own stream nothing has to wait; on another one work does, the caller not.
    let own = cache.get(b"x", writer.handle()).unwrap().unwrap();
    let read = cache.get(b"x", reader.handle()).unwrap().unwrap();
    let (sender, seen) = std::sync::mpsc::channel();
    reader.submit(move || sender.send(rig::read(read.address, size, 2)).unwrap());
    assert!(seen.recv_timeout(Duration::from_millis(30)).is_err());
    gate.open();
    seen.recv().unwrap().unwrap();
    cache.release(own.ticket, own.address, writer.handle()).unwrap();

    // Evicted while work of a reader is queued: the memory is nobody else's before that is done.
    let gate = Gate::on(&reader);
    let (sender, seen) = std::sync::mpsc::channel();
    reader.submit(move || sender.send(rig::read(read.address, size, 2)).unwrap());
    cache.release(read.ticket, read.address, reader.handle()).unwrap();
    assert_eq!(cache.evict(1).unwrap(), size as u64);
    let others: Vec<usize> = [writer.handle(), third.handle(), DEFAULT]
        .into_iter()
        .map(|on| {
            let other = pool.alloc(size, on).unwrap();
            rig::write(other, size, 9);
            other
        })
        .collect();
    assert!(!others.contains(&block));
    gate.open();
    seen.recv().unwrap().unwrap();
    reader.synchronize();

    // Read on its own stream alone, it is that stream's again at once.
    let gate = Gate::on(&writer);
    let block = others[0];
    cache.put(b"y", block, writer.handle()).unwrap();
    cache.evict(1).unwrap();
    assert_eq!(pool.alloc(size, writer.handle()).unwrap(), block);
    gate.open();
    pool.check().unwrap();
}

#[test]
fn who_takes_an_entry_waits_for_all_readers() {
    let pool = pool_of(64 * MIB);
    let cache = cache_of(&pool, 32 * MIB);
    let streams: Vec<TestStream> = (0..3).map(|_| TestStream::new()).collect();
    let block = pool.alloc(MIB, DEFAULT).unwrap();
    rig::write(block, MIB, 1);
    cache.put(b"x", block, DEFAULT).unwrap();
    let gates: Vec<Gate> = streams.iter().map(|stream| Gate::on(stream)).collect();
    let (sender, seen) = std::sync::mpsc::channel();
    for stream in &streams {
        let read = cache.get(b"x", stream.handle()).unwrap().unwrap();
        let sender = sender.clone();
        stream.submit(move || sender.send(rig::read(read.address, MIB, 1)).unwrap());
        cache.release(read.ticket, read.address, stream.handle()).unwrap();
    }
    let last = TestStream::new();
    let taken = cache.take(b"x", last.handle()).unwrap().unwrap();
    assert_eq!((taken.address, taken.bytes), (block, MIB as u64));
    last.submit(move || rig::write(block, MIB, 2));
    drop(gates);
    for _ in &streams {
        seen.recv().unwrap().unwrap();
    }
    last.synchronize();
    rig::read(block, MIB, 2).unwrap();
    pool.free(block, last.handle()).unwrap();
    cache.check().unwrap();
}

/// A block that was put on a stream that is gone is given back all the same, and a cache with many
/// streams does not run out of them.
#[test]
fn streams_come_and_go() {
    let pool = pool_of(64 * MIB);
    let cache = cache_of(&pool, 4 * MIB);
    for number in 0..300u64 {
        let stream = TestStream::new();
        let block = pool.alloc(MIB, stream.handle()).unwrap();
        cache.put(&number.to_le_bytes(), block, stream.handle()).unwrap();
        let reader = TestStream::new();
        let read = cache.get(&number.to_le_bytes(), reader.handle()).unwrap().unwrap();
        let gate = Gate::on(&reader);
        cache.release(read.ticket, read.address, reader.handle()).unwrap();
        gate.open();
        drop(stream);
        cache.check().unwrap();
    }
    assert_eq!(pool.stats().live_blocks, cache.stats().entries);
    Cache::destroy(cache).unwrap();
    pool.check().unwrap();
    Pool::destroy(pool).unwrap();
}

#[test]
fn a_panic_poisons_the_cache_alone() {
    let pool = pool_of(64 * MIB);
    let cache = cache_of(&pool, 4 * MIB);
    put(&cache, &pool, b"x", 100, 1);
    cache.poison();
    let answers = [
        cache.get(b"x", DEFAULT).map(drop),
        cache.put(b"y", 0, DEFAULT),
        cache.take(b"x", DEFAULT).map(drop),
        cache.release(1, 1, DEFAULT),
        cache.remove(b"x").map(drop),
        cache.evict(1).map(drop),
        cache.expire(Duration::ZERO).map(drop),
        cache.clear().map(drop),
        cache.check(),
    ];
    for answer in answers {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Poisoned);
    }
    let block = pool.alloc(MIB, DEFAULT).unwrap();
    pool.free(block, DEFAULT).unwrap();
    Cache::destroy(cache).unwrap();
    // What it had is lost to it, and the pool's still.
    assert_eq!(pool.stats().live_blocks, 1);
}

#[test]
fn what_is_read_is_not_in_the_way() {
    const ENTRIES: usize = 3000;
    for policy in Kind::ALL {
        for spare in [0..7, 1500..1507, 2993..3000] {
            let pool = pool_of(64 * MIB);
            let config = Config { max_entries: ENTRIES as u64, policy, ..Config::default() };
            let cache = Cache::over(std::slice::from_ref(&pool), &config).unwrap();
            for key in 0..ENTRIES {
                put(&cache, &pool, &key.to_le_bytes(), 4 * KIB, key as u64);
            }
            let read: Vec<Read> = (0..ENTRIES)
                .filter(|key| !spare.contains(key))
                .map(|key| cache.get(&key.to_le_bytes(), DEFAULT).unwrap().unwrap())
                .collect();
            assert_eq!(cache.evict(u64::MAX).unwrap(), 7 * 4 * KIB as u64, "{policy:?}");
            assert_eq!(cache.evict(1).unwrap(), 0);
            // There is room for seven; then every new one is refused, and nobody's budget broken.
            for key in 0..20 {
                put(&cache, &pool, &(ENTRIES + key).to_le_bytes(), 4 * KIB, 0);
                assert!(cache.stats().entries <= ENTRIES as u64);
            }
            cache.check().unwrap();
            let stats = cache.stats();
            assert_eq!((stats.pinned_entries, stats.entries), (ENTRIES as u64 - 7, 3000));
            for one in read {
                cache.release(one.ticket, one.address, DEFAULT).unwrap();
            }
            assert_eq!(cache.stats().pinned_entries, 0);
            assert_eq!(cache.evict(u64::MAX).unwrap(), (ENTRIES * 4 * KIB) as u64);
            cache.check().unwrap();
        }
    }
}
