//! Caches, ours and others: `make bench-cache`. Nanoseconds per operation on 50,000 entries with
//! keys of 8 bytes: a get that hits (ours with its release), and a put that evicts, less what the
//! pool takes for the block. Thread CPU time, medians of interleaved rounds.
//!
//! Before that, hit ratios of the policies on key traces, see [`policies`].
//!
//! One JSON line per figure on stdout: bench, case, ours, peer_name, peer, ratio, target, met.

mod generated;
mod policies;

use std::num::NonZeroUsize;
use std::sync::{Arc, Barrier, Mutex};

use forebay::cache::{Cache, Config, Kind};
use forebay::order::Stream;
use forebay::pool::{self, Pool};

const ENTRIES: u64 = 50_000;
const HOT: u64 = 20_000;
const TURNS: u64 = 200_000;
const ROUNDS: usize = 9;
const SIZE: usize = 4096;
const DEFAULT: Stream = Stream::DEFAULT;

fn emit(case: &str, ours: f64, peer: Option<(&str, f64)>, target: Option<f64>) {
    let number = |value: Option<f64>| value.map_or("null".into(), |value| format!("{value:.4}"));
    let (name, peer) = peer
        .map_or((String::from("null"), None), |(name, value)| (format!("\"{name}\""), Some(value)));
    let ratio = peer.map(|peer| ours / peer);
    let met = target.map_or("null".into(), |target| (ours <= target).to_string());
    println!(
        "{{\"bench\":\"cache\",\"case\":\"{case}\",\"ours\":{ours:.4},\"peer_name\":{name},\
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

/// Nanoseconds of one of `TURNS` turns.
fn timed(mut turn: impl FnMut(u64)) -> f64 {
    let start = thread_ns();
    (0..TURNS).for_each(&mut turn);
    (thread_ns() - start) as f64 / TURNS as f64
}

/// A key of the hot ones, in no order.
fn hot(turn: u64) -> u64 {
    turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % HOT
}

/// What is measured.
trait Peer: Sync {
    fn name(&self) -> &'static str;
    fn get(&self, key: u64);
    fn put(&self, key: u64);
}

struct Ours {
    name: &'static str,
    pool: Arc<Pool>,
    cache: Arc<Cache>,
}

impl Ours {
    fn new(policy: Kind) -> Ours {
        let config = pool::Config { max_bytes: 4 << 30, ..Default::default() };
        let pool = Pool::on_host(&config).unwrap();
        let config = Config { max_entries: ENTRIES, policy, ..Config::default() };
        let cache = Cache::over(std::slice::from_ref(&pool), &config).unwrap();
        Ours { name: policy.name(), pool, cache }
    }
}

impl Peer for Ours {
    fn name(&self) -> &'static str {
        self.name
    }

    #[inline]
    fn get(&self, key: u64) {
        if let Some(read) = self.cache.get(&key.to_le_bytes(), DEFAULT).unwrap() {
            self.cache.release(read.ticket, read.address, DEFAULT).unwrap();
        }
    }

    #[inline]
    fn put(&self, key: u64) {
        let block = self.pool.alloc(SIZE, DEFAULT).unwrap();
        self.cache.put(&key.to_le_bytes(), block, DEFAULT).unwrap();
    }
}

/// The pool alone, doing what puts do to it: a block comes, another goes.
struct PoolAlone {
    pool: Arc<Pool>,
    blocks: Mutex<Vec<usize>>,
}

impl PoolAlone {
    fn new() -> PoolAlone {
        let config = pool::Config { max_bytes: 4 << 30, ..Default::default() };
        let pool = Pool::on_host(&config).unwrap();
        let blocks = (0..ENTRIES).map(|_| pool.alloc(SIZE, DEFAULT).unwrap()).collect();
        PoolAlone { pool, blocks: Mutex::new(blocks) }
    }

    fn turns(&self) -> f64 {
        let mut blocks = self.blocks.lock().unwrap();
        timed(|turn| {
            let block = &mut blocks[(turn % ENTRIES) as usize];
            let fresh = self.pool.alloc(SIZE, DEFAULT).unwrap();
            self.pool.free(std::mem::replace(block, fresh), DEFAULT).unwrap();
        })
    }
}

struct Lru(Mutex<lru::LruCache<u64, u64>>);

impl Peer for Lru {
    fn name(&self) -> &'static str {
        "lru crate behind a mutex"
    }

    fn get(&self, key: u64) {
        std::hint::black_box(self.0.lock().unwrap().get(&key).copied());
    }

    fn put(&self, key: u64) {
        std::hint::black_box(self.0.lock().unwrap().push(key, key));
    }
}

struct Quick(quick_cache::sync::Cache<u64, u64>);

impl Peer for Quick {
    fn name(&self) -> &'static str {
        "quick_cache"
    }

    fn get(&self, key: u64) {
        std::hint::black_box(self.0.get(&key));
    }

    fn put(&self, key: u64) {
        self.0.insert(key, key);
    }
}

struct Moka(moka::sync::Cache<u64, u64>);

impl Peer for Moka {
    fn name(&self) -> &'static str {
        "moka"
    }

    fn get(&self, key: u64) {
        std::hint::black_box(self.0.get(&key));
    }

    fn put(&self, key: u64) {
        self.0.insert(key, key);
    }
}

fn gets(peer: &dyn Peer) -> f64 {
    timed(|turn| peer.get(hot(turn)))
}

/// Nanoseconds per get by each of two threads at a time.
fn gets_by_two(peer: &dyn Peer) -> f64 {
    let start = Barrier::new(2);
    let one = || {
        start.wait();
        gets(peer)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(one);
        let own = one();
        (own + other.join().unwrap()) / 2.0
    })
}

fn main() {
    let folder = std::env::args_os().nth(1);
    policies::run(folder.as_deref().map(std::path::Path::new));

    let ours: Vec<Ours> = Kind::ALL.into_iter().map(Ours::new).collect();
    let lru = Lru(Mutex::new(lru::LruCache::new(NonZeroUsize::new(ENTRIES as usize).unwrap())));
    let quick = Quick(quick_cache::sync::Cache::new(ENTRIES as usize));
    let moka = Moka(moka::sync::Cache::new(ENTRIES));
    let others: [&dyn Peer; 3] = [&lru, &quick, &moka];
    let all: Vec<&dyn Peer> = ours.iter().map(|one| one as &dyn Peer).chain(others).collect();
    let pool = PoolAlone::new();

    // Fresh keys first, so that caches are full of others, then the hot ones, twice.
    let mut next = 1 << 32;
    for peer in &all {
        (0..3 * ENTRIES).for_each(|key| peer.put(next + key));
        (0..3 * HOT).for_each(|turn| {
            peer.put(turn % HOT);
            peer.get(turn % HOT);
        });
    }
    next += 3 * ENTRIES;
    let (mut get, mut both, mut put) = (Vec::new(), Vec::new(), Vec::new());
    let mut alone = Vec::new();
    for _ in 0..ROUNDS {
        get.push(all.iter().map(|peer| gets(*peer)).collect::<Vec<f64>>());
        both.push(all.iter().map(|peer| gets_by_two(*peer)).collect::<Vec<f64>>());
    }
    for _ in 0..ROUNDS {
        put.push(all.iter().map(|peer| timed(|turn| peer.put(next + turn))).collect::<Vec<f64>>());
        next += TURNS;
        alone.push(pool.turns());
    }
    let of =
        |rounds: &[Vec<f64>], at: usize| median(rounds.iter().map(|round| round[at]).collect());
    let alone = median(alone);
    emit("pool-alone-ns", alone, None, None);
    for (at, one) in ours.iter().enumerate() {
        let target = if one.name == "adaptive" { 250.0 } else { 30.0 };
        let put_target = if one.name == "adaptive" { 250.0 } else { 60.0 };
        for (number, peer) in others.iter().enumerate() {
            let other = ours.len() + number;
            let name = peer.name();
            emit(
                &format!("get-hit-{}-ns", one.name),
                of(&get, at),
                Some((name, of(&get, other))),
                Some(target),
            );
            emit(
                &format!("put-evict-{}-ns", one.name),
                of(&put, at) - alone,
                Some((name, of(&put, other))),
                Some(put_target),
            );
            let ratio = |at: usize| of(&both, at) / of(&get, at);
            emit(
                &format!("two-threads-over-one-{}", one.name),
                ratio(at),
                Some((name, ratio(other))),
                (number == 0).then(|| ratio(other)),
            );
        }
        let stats = one.cache.stats();
        // A key's address and length are the key's.
        let each = stats.bookkeeping_bytes as f64 / ENTRIES as f64 - 16.0;
        let target = if one.name == "adaptive" { 160.0 } else { 64.0 };
        emit(&format!("bookkeeping-{}-bytes", one.name), each, None, Some(target));
    }
}
