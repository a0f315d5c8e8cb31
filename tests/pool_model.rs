//! Random calls to pools beside a plain list of what has to be live.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay::error::Kind;
use forebay::order::Stream;
use forebay::pool::{Config, Flags, Policy, Pool};
use proptest::prelude::*;
use rig::{KIB, MIB, PAGE, TestStream};

const POOLS: usize = 3;
const STREAMS: usize = 2;
/// The largest slab: a small block that lives may keep as much beside it from moving.
const SLAB_MAX: usize = 256 * KIB;
const SMALL_MAX: usize = 32 * KIB;

#[derive(Clone, Debug)]
enum Op {
    Alloc { pool: usize, size: usize, stream: usize },
    AllocAligned { pool: usize, size: usize, alignment: usize, stream: usize },
    AllocInvalid { pool: usize, size: usize, alignment: usize },
    Free { block: usize, stream: usize },
    FreeAgain { freed: usize },
    FreeInside { block: usize, into: usize },
    FreeElsewhere { block: usize, pool: usize },
    Realloc { block: usize, size: usize, stream: usize },
    AllocBatch { pool: usize, sizes: Vec<usize>, stream: usize },
    FreeBatch { pool: usize, count: usize, stream: usize },
    RecordStream { block: usize, stream: usize },
    Submit { stream: usize },
    Overrun { block: usize },
    Trim { pool: usize, keep: u64 },
    Defragment { pool: usize },
    SetLimit { pool: usize, pages: u64 },
    SetPolicy { pool: usize, policy: Policy },
    ResetPeaks { pool: usize },
}

fn any_size() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 1..=64usize,
        4 => 1..=4 * KIB,
        3 => 1..=SMALL_MAX + 1,
        4 => SMALL_MAX..=300 * KIB,
        4 => 300 * KIB..=8 * MIB,
        1 => 8 * MIB..=70 * MIB,
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    proptest::sample::select(Policy::ALL.to_vec())
}

fn any_op() -> impl Strategy<Value = Op> {
    let pool = || 0..POOLS;
    let stream = || prop_oneof![2 => Just(0), 1 => 1..=STREAMS];
    let block = any::<usize>;
    prop_oneof![
        24 => (pool(), any_size(), stream())
            .prop_map(|(pool, size, stream)| Op::Alloc { pool, size, stream }),
        6 => (pool(), any_size(), 0..=22u32, stream()).prop_map(|(pool, size, log, stream)| {
            Op::AllocAligned { pool, size, alignment: 1 << log, stream }
        }),
        1 => (pool(), prop_oneof![Just((0, 1)), Just((usize::MAX, 1)), Just(((1 << 46) + 1, 1)),
                Just((8, 0)), Just((8, 24)), Just((8, 1 << 31)), Just((usize::MAX - 7, 4096))])
            .prop_map(|(pool, (size, alignment))| Op::AllocInvalid { pool, size, alignment }),
        20 => (block(), stream()).prop_map(|(block, stream)| Op::Free { block, stream }),
        2 => block().prop_map(|freed| Op::FreeAgain { freed }),
        2 => (block(), block()).prop_map(|(block, into)| Op::FreeInside { block, into }),
        1 => (block(), pool()).prop_map(|(block, pool)| Op::FreeElsewhere { block, pool }),
        8 => (block(), any_size(), stream())
            .prop_map(|(block, size, stream)| Op::Realloc { block, size, stream }),
        3 => (pool(), proptest::collection::vec(any_size(), 0..6), stream())
            .prop_map(|(pool, sizes, stream)| Op::AllocBatch { pool, sizes, stream }),
        3 => (pool(), 0..8usize, stream())
            .prop_map(|(pool, count, stream)| Op::FreeBatch { pool, count, stream }),
        3 => (block(), stream()).prop_map(|(block, stream)| Op::RecordStream { block, stream }),
        2 => stream().prop_map(|stream| Op::Submit { stream }),
        1 => block().prop_map(|block| Op::Overrun { block }),
        2 => (pool(), prop_oneof![Just(0), 0..64 * MIB as u64])
            .prop_map(|(pool, keep)| Op::Trim { pool, keep }),
        2 => pool().prop_map(|pool| Op::Defragment { pool }),
        2 => (pool(), 1..=40u64).prop_map(|(pool, pages)| Op::SetLimit { pool, pages }),
        1 => (pool(), any_policy()).prop_map(|(pool, policy)| Op::SetPolicy { pool, policy }),
        1 => pool().prop_map(|pool| Op::ResetPeaks { pool }),
    ]
}

fn any_config() -> impl Strategy<Value = Config> {
    let flags = any::<[bool; 4]>().prop_map(|[zero, poison, guard, no_cache]| Flags {
        zero_on_alloc: zero,
        poison_on_free: poison,
        guard_bytes: guard,
        no_front_cache: no_cache,
    });
    let flags = prop_oneof![2 => Just(Flags::default()), 1 => flags];
    let block_size = prop_oneof![3 => Just(0), 1 => Just(256), 1 => Just(64 << 10)];
    // Odd on purpose: limits count whole pages.
    let limit = (4..=32u64, 0..PAGE).prop_map(|(pages, more)| pages * PAGE + more);
    (limit, 0..=2u64, block_size, any_policy(), flags).prop_map(
        |(max_bytes, initial, block_size, policy, flags)| Config {
            max_bytes,
            initial_bytes: initial * PAGE,
            block_size,
            policy,
            flags,
        },
    )
}

/// A block that has to be live.
#[derive(Clone, Copy, Debug)]
struct Live {
    pool: usize,
    size: usize,
    /// Bytes of the block, what was not asked for included.
    block: usize,
    stamp: u64,
}

/// What a pool has to count.
#[derive(Default)]
struct Counts {
    limit: u64,
    allocations: u64,
    frees: u64,
    failed: u64,
    invalid_frees: u64,
}

struct World {
    pools: Vec<Arc<Pool>>,
    configs: Vec<Config>,
    policies: Vec<Policy>,
    counts: Vec<Counts>,
    streams: Vec<TestStream>,
    live: BTreeMap<usize, Live>,
    freed: Vec<(usize, usize)>,
    stamps: u64,
}

impl World {
    fn new(configs: Vec<Config>) -> World {
        let pools: Vec<_> = configs.iter().map(|config| Pool::on_host(config).unwrap()).collect();
        World {
            policies: configs.iter().map(|config| config.policy).collect(),
            counts: configs
                .iter()
                .map(|config| Counts { limit: config.max_bytes / PAGE * PAGE, ..Counts::default() })
                .collect(),
            streams: (0..STREAMS).map(|_| TestStream::new()).collect(),
            live: BTreeMap::new(),
            freed: Vec::new(),
            stamps: 0,
            pools,
            configs,
        }
    }

    fn stream(&self, number: usize) -> Stream {
        rig::handle(number.checked_sub(1).map(|number| &self.streams[number]))
    }

    fn pick(&self, number: usize) -> Option<(usize, Live)> {
        let at = number.checked_rem(self.live.len())?;
        self.live.iter().nth(at).map(|(&address, &live)| (address, live))
    }

    fn zeroed(&self, pool: usize) -> bool {
        self.configs[pool].flags.zero_on_alloc || self.policies[pool] == Policy::QualityFirst
    }

    /// A pool gave out `address`; `kept` bytes there are an older block's.
    fn enter(&mut self, pool: usize, address: usize, size: usize, alignment: usize, kept: usize) {
        let flags = self.configs[pool].flags;
        assert!(address.is_multiple_of(alignment.max(16)), "{address:#x} at {alignment}");
        if size > SMALL_MAX {
            assert!(address.is_multiple_of(512));
        }
        let (start, block) = self.pools[pool].owner(address + size / 2).unwrap();
        assert_eq!(start, address);
        let usable = self.pools[pool].usable_size(address).unwrap() as usize;
        // What lies behind the bytes asked for is guarded, then.
        assert_eq!(usable, if flags.guard_bytes { size } else { block as usize });
        assert!(usable >= size);
        let step = self.configs[pool].block_size.max(1) as usize;
        assert!(block as usize >= size.next_multiple_of(step));
        if self.zeroed(pool) && size > kept {
            assert!(rig::is_zero(address + kept, size - kept), "{size} bytes are not zeroed");
        }
        let below = self.live.range(..address).next_back();
        let above = self.live.range(address..).next();
        if let Some((&other, live)) = below {
            assert!(other + live.block <= address, "{address:#x} is in {other:#x} {live:?}");
        }
        if let Some((&other, live)) = above {
            assert!(
                address + block as usize <= other,
                "{address:#x} runs into {other:#x} {live:?}"
            );
        }
        self.stamps += 1;
        rig::write(address, size, self.stamps);
        let live = Live { pool, size, block: block as usize, stamp: self.stamps };
        self.live.insert(address, live);
        self.counts[pool].allocations += 1;
    }

    fn leave(&mut self, address: usize) {
        let live = self.live.remove(&address).unwrap();
        rig::read(address, live.size, live.stamp).unwrap();
        self.freed.push((live.pool, address));
    }

    /// Whether an allocation has to succeed, however the addresses are cut up: pages without
    /// a live byte can be given back or moved together.
    fn must_fit(&self, pool: usize, size: usize, alignment: usize) -> bool {
        let config = self.configs[pool];
        let limit = self.counts[pool].limit;
        let page = PAGE as usize;
        let mut taken = BTreeSet::new();
        for (&address, live) in self.live.iter().filter(|(_, live)| live.pool == pool) {
            let beside = if live.block <= SMALL_MAX { SLAB_MAX } else { 0 };
            taken.extend((address - beside) / page..=(address + live.block + beside - 1) / page);
        }
        let by_policy = if self.policies[pool] == Policy::QualityFirst { page } else { 512 };
        let block = (size + 16).next_multiple_of((config.block_size as usize).max(512));
        let wanted = block.max(SLAB_MAX) + page + alignment.max(by_policy);
        // The pool reserves four times its first limit.
        let addresses = (config.max_bytes / PAGE * PAGE) as usize * 4 / page;
        let gap = (addresses - taken.len().min(addresses)) / (taken.len() + 1) * page;
        wanted <= gap && wanted + taken.len() * page <= limit as usize
    }

    fn alloc(&mut self, pool: usize, size: usize, alignment: Option<usize>, stream: usize) {
        let handle = self.stream(stream);
        let result = match alignment {
            Some(alignment) => self.pools[pool].alloc_aligned(size, alignment, handle),
            None => self.pools[pool].alloc(size, handle),
        };
        let alignment = alignment.unwrap_or(1);
        match result {
            Ok(address) => self.enter(pool, address, size, alignment, 0),
            Err(error) => {
                self.counts[pool].failed += 1;
                assert_eq!(error.kind(), Kind::OutOfMemory, "{error}");
                assert!(!self.must_fit(pool, size, alignment), "{error}");
            }
        }
    }

    fn refused(&mut self, pool: usize, address: usize) {
        let error = self.pools[pool].free(address, Stream::DEFAULT).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidPointer, "{error}");
        self.counts[pool].invalid_frees += 1;
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Alloc { pool, size, stream } => self.alloc(pool, size, None, stream),
            Op::AllocAligned { pool, size, alignment, stream } => {
                self.alloc(pool, size, Some(alignment), stream);
            }
            Op::AllocInvalid { pool, size, alignment } => {
                let error = self.pools[pool].alloc_aligned(size, alignment, Stream::DEFAULT);
                assert_eq!(error.unwrap_err().kind(), Kind::InvalidArgument);
                // Refused before it was tried, when it is the alignment.
                let tried = alignment.is_power_of_two() && alignment <= 1 << 30;
                self.counts[pool].failed += u64::from(tried);
            }
            Op::Free { block, stream } => {
                let Some((address, live)) = self.pick(block) else { return };
                self.leave(address);
                self.pools[live.pool].free(address, self.stream(stream)).unwrap();
                self.counts[live.pool].frees += 1;
            }
            Op::FreeAgain { freed } => {
                let Some(at) = freed.checked_rem(self.freed.len()) else { return };
                let (pool, address) = self.freed[at];
                if !self.live.contains_key(&address) {
                    self.refused(pool, address);
                }
            }
            Op::FreeInside { block, into } => {
                let Some((address, live)) = self.pick(block) else { return };
                if live.size > 1 {
                    self.refused(live.pool, address + 1 + into % (live.size - 1));
                }
            }
            Op::FreeElsewhere { block, pool } => {
                let on_the_stack = 0u64;
                self.refused(pool, std::ptr::from_ref(&on_the_stack) as usize);
                let Some((address, live)) = self.pick(block) else { return };
                if live.pool != pool {
                    self.refused(pool, address);
                }
            }
            Op::Realloc { block, size, stream } => {
                let Some((address, live)) = self.pick(block) else { return };
                let pool = live.pool;
                // Its bytes may be copied, so what was queued has to be done.
                self.streams.iter().for_each(TestStream::synchronize);
                match self.pools[pool].realloc(address, size, self.stream(stream)) {
                    Ok(fresh) => {
                        // The stamp is at the front, so a short block's bytes are all alike.
                        let kept = live.size.min(size);
                        let head = if live.size >= 16 && kept < 16 { None } else { Some(kept) };
                        if let Some(kept) = head {
                            rig::read(fresh, kept, live.stamp).unwrap();
                        }
                        self.live.remove(&address);
                        if fresh != address {
                            self.freed.push((pool, address));
                            self.counts[pool].frees += 1;
                        } else {
                            // In place: the same block, as far as counts go.
                            self.counts[pool].allocations -= 1;
                        }
                        self.enter(pool, fresh, size, 1, kept);
                    }
                    Err(error) => {
                        self.counts[pool].failed += 1;
                        assert_eq!(error.kind(), Kind::OutOfMemory, "{error}");
                        rig::read(address, live.size, live.stamp).unwrap();
                    }
                }
            }
            Op::AllocBatch { pool, sizes, stream } => {
                match self.pools[pool].alloc_batch(&sizes, self.stream(stream)) {
                    Ok(addresses) => {
                        assert_eq!(addresses.len(), sizes.len());
                        for (address, size) in addresses.into_iter().zip(sizes) {
                            self.enter(pool, address, size, 1, 0);
                        }
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::OutOfMemory, "{error}");
                        // All or nothing; what was taken and given back is counted.
                        let stats = self.pools[pool].stats();
                        let counts = &mut self.counts[pool];
                        let taken = stats.allocations - counts.allocations;
                        assert!(taken < sizes.len() as u64);
                        counts.allocations += taken;
                        counts.frees += taken;
                        counts.failed += 1;
                    }
                }
            }
            Op::FreeBatch { pool, count, stream } => {
                let of_pool = self.live.iter().filter(|(_, live)| live.pool == pool);
                let mut addresses: Vec<usize> =
                    of_pool.map(|(&address, _)| address).take(count).collect();
                addresses.iter().for_each(|&address| self.leave(address));
                self.counts[pool].frees += addresses.len() as u64;
                addresses.push(0);
                let (done, result) = self.pools[pool].free_batch(&addresses, self.stream(stream));
                result.unwrap();
                assert_eq!(done, addresses.len());
            }
            Op::RecordStream { block, stream } => {
                let Some((address, live)) = self.pick(block) else { return };
                self.pools[live.pool].record_stream(address, self.stream(stream)).unwrap();
            }
            Op::Submit { stream } => {
                if let Some(number) = stream.checked_sub(1) {
                    self.streams[number].submit(std::thread::yield_now);
                }
            }
            Op::Overrun { block } => {
                let Some((address, live)) = self.pick(block) else { return };
                if self.configs[live.pool].flags.guard_bytes {
                    let behind = (address + live.size) as *mut u8;
                    // SAFETY: at least 16 guard bytes are there; the byte is put back.
                    unsafe {
                        let byte = behind.read();
                        behind.write(!byte);
                        let error = self.pools[live.pool].check().unwrap_err();
                        assert_eq!(error.kind(), Kind::Corruption, "{error}");
                        behind.write(byte);
                    }
                }
            }
            Op::Trim { pool, keep } => {
                let before = self.pools[pool].stats().reserved[0];
                let released = self.pools[pool].trim(keep).unwrap();
                let after = self.pools[pool].stats().reserved[0];
                assert_eq!(before - after, released);
                assert!(after >= keep.min(before), "{after} left of {before}, {keep} to keep");
                self.read_all();
            }
            Op::Defragment { pool } => {
                let reserved = self.pools[pool].stats().reserved[0];
                let report = self.pools[pool].defragment().unwrap();
                assert_eq!(self.pools[pool].stats().reserved[0], reserved);
                assert_eq!(
                    report.bytes_gained,
                    report.largest_after.saturating_sub(report.largest_before)
                );
                assert!(report.largest_after >= report.largest_before, "{report:?}");
                self.read_all();
            }
            Op::SetLimit { pool, pages } => {
                let before = self.pools[pool].stats().reserved[0];
                let max_bytes = pages * PAGE + 1000;
                match self.pools[pool].set_limit(max_bytes) {
                    Ok(()) => self.counts[pool].limit = pages * PAGE,
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
                        let addresses = 4 * (self.configs[pool].max_bytes / PAGE);
                        assert!(before > pages * PAGE || pages > addresses, "{error}");
                    }
                }
                self.read_all();
            }
            Op::SetPolicy { pool, policy } => {
                self.pools[pool].set_policy(policy).unwrap();
                self.policies[pool] = policy;
                assert_eq!(self.pools[pool].policy(), policy);
                self.read_all();
            }
            Op::ResetPeaks { pool } => {
                self.pools[pool].reset_peaks();
                let stats = self.pools[pool].stats();
                for [current, peak, _] in [stats.requested, stats.allocated, stats.reserved] {
                    assert_eq!(current, peak);
                }
            }
        }
    }

    fn read_all(&self) {
        for (&address, live) in &self.live {
            rig::read(address, live.size, live.stamp).unwrap();
        }
    }

    fn check(&self) {
        for (number, (pool, counts)) in self.pools.iter().zip(&self.counts).enumerate() {
            pool.check().unwrap();
            let of_pool = || self.live.values().filter(|live| live.pool == number);
            let stats = pool.stats();
            assert_eq!(stats.live_blocks, of_pool().count() as u64);
            assert_eq!(stats.requested[0], of_pool().map(|live| live.size as u64).sum::<u64>());
            assert_eq!(stats.allocated[0], of_pool().map(|live| live.block as u64).sum::<u64>());
            assert_eq!(stats.limit, counts.limit);
            assert!(stats.reserved[0] <= stats.limit, "{stats:?}");
            assert!(stats.allocated[0] <= stats.reserved[0], "{stats:?}");
            for [current, peak, total] in [stats.requested, stats.allocated, stats.reserved] {
                assert!(current <= peak && peak <= total, "{stats:?}");
            }
            assert_eq!(stats.allocations, counts.allocations);
            assert_eq!(stats.frees, counts.frees);
            assert_eq!(stats.failed, counts.failed);
            assert_eq!(stats.invalid_frees, counts.invalid_frees);
            assert!(stats.hits + stats.misses >= stats.allocations, "{stats:?}");
        }
    }

    fn end(mut self) {
        let addresses: Vec<usize> = self.live.keys().copied().collect();
        for address in addresses {
            let pool = self.live[&address].pool;
            self.leave(address);
            self.pools[pool].free(address, Stream::DEFAULT).unwrap();
            self.counts[pool].frees += 1;
        }
        self.streams.iter().for_each(TestStream::synchronize);
        self.check();
        for pool in &self.pools {
            pool.trim(0).unwrap();
            // What streams were not done with at the time is given back by a second look.
            assert_eq!(pool.stats().reserved[0], 0, "{}", pool.stats_json());
            pool.check().unwrap();
            pool.close().unwrap();
        }
    }
}

proptest! {
    #![proptest_config(rig::cases(150))]

    #[test]
    fn pools_do_as_the_model_says(
        configs in proptest::collection::vec(any_config(), POOLS),
        ops in proptest::collection::vec(any_op(), 1..120),
    ) {
        let mut world = World::new(configs);
        for op in ops {
            world.step(op);
            world.check();
        }
        world.end();
    }
}
