//! Reports: the counters, and the walk over everything as JSON.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::stats::{Stats, Sums};
use super::{Block, Pool};
use crate::space::{READY, State};

/// Version of the JSON's schema. It grows when a key changes its meaning or goes away; new
/// keys do not change it.
const SCHEMA: u32 = 1;

/// How many of the largest live blocks the JSON names.
const LARGEST: usize = 16;

impl Pool {
    /// What all slots, and the calls without one, count.
    pub(super) fn sums(&self) -> Sums {
        let slotless = self.slotless.cells.lock();
        Sums::of(self.slots.counters().chain([&*slotless, &self.planned_counters]))
    }

    /// Takes the peaks; returns them.
    pub(super) fn publish_peaks(&self) -> (u64, u64) {
        let sums = self.sums();
        self.peaks.publish(&sums, self.slots.only(), &self.planned_counters)
    }

    /// The fast tier: counters, no walk.
    pub fn stats(&self) -> Stats {
        let (requested_peak, allocated_peak) = self.publish_peaks();
        let sums = self.sums();
        let core = self.core.lock();
        let asleep = core.sleep.bytes();
        let reserved =
            [core.space.mapped_bytes() - asleep, core.reserved_peak, core.reserved_total];
        let limit = core.limit;
        drop(core);
        let misses = self.misses.load(Ordering::Relaxed);
        Stats {
            requested: [sums.requested, requested_peak, sums.requested_total],
            allocated: [sums.allocated, allocated_peak, sums.allocated_total],
            reserved,
            allocations: sums.allocations,
            frees: sums.frees,
            hits: sums.allocations.saturating_sub(misses),
            front_misses: sums.misses,
            misses,
            failed: self.failed.load(Ordering::Relaxed),
            invalid_frees: self.invalid_frees.load(Ordering::Relaxed),
            system_calls: self.device.calls() + self.barriers.load(Ordering::Relaxed),
            trims: self.trims.load(Ordering::Relaxed),
            limit,
            live_blocks: sums.allocations.wrapping_sub(sums.frees),
        }
    }

    /// Starts all peaks again from what they are peaks of.
    pub fn reset_peaks(&self) {
        let stopped = self.slots.stop_all();
        self.slots.counters().for_each(super::stats::Counters::restart_highs);
        let planned = self.planned.lock();
        self.planned_counters.restart_highs();
        drop(planned);
        drop(stopped);
        self.peaks.reset(&self.sums());
        let mut core = self.core.lock();
        core.reserved_peak = core.space.mapped_bytes();
    }

    /// The slow tier: a walk over everything, as JSON.
    pub fn stats_json(&self) -> String {
        let stats = self.stats();
        let core = self.core.lock();
        let largest_free = core.largest_free();
        let idle = core.space.idle_bytes();
        let (mut free, mut free_runs, mut waiting, mut unmapped_holes) = (0, 0, 0, 0u64);
        for (_, run) in core.space.runs().iter() {
            match run.state {
                State::Free if run.tag == READY => {
                    (free, free_runs) = (free + run.size, free_runs + 1)
                }
                State::Free => waiting += run.size,
                State::Unmapped => unmapped_holes += 1,
                State::Used | State::Vacant => {}
            }
        }
        let classes = core.space.classes().clone();
        let mut per_class = vec![(0u64, 0u64, 0u64, 0u64); classes.len()];
        for (_, slab) in core.space.slabs() {
            let entry = &mut per_class[slab.class as usize];
            entry.0 += 1;
            entry.1 += u64::from(slab.capacity);
        }
        let (mut large_blocks, mut large_bytes) = (0u64, 0u64);
        let mut largest: Vec<(u64, u64)> = Vec::with_capacity(LARGEST + 1);
        for block in core.blocks().filter(Block::is_live) {
            let (size, requested) = (block.head().size(), block.head().requested(block.index));
            if block.head().is_large() {
                (large_blocks, large_bytes) = (large_blocks + 1, large_bytes + size);
            } else {
                let entry = &mut per_class[block.head().bin()];
                entry.2 += 1;
                entry.3 += requested;
            }
            if largest.len() < LARGEST || largest.last().is_some_and(|last| last.0 < requested) {
                let at = largest.partition_point(|&(other, _)| other >= requested);
                largest.insert(at, (requested, block.address() as u64));
                largest.truncate(LARGEST);
            }
        }
        let addresses = core.space.bytes();
        let asleep = core.sleep.bytes();
        drop(core);
        let held: u64 = self.slots.iter().map(|slot| slot.held.get()).sum();
        let ratio =
            |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let external = if free == 0 { 0.0 } else { 1.0 - ratio(largest_free, free) };
        let internal = 1.0
            - if stats.allocated[0] == 0 {
                1.0
            } else {
                ratio(stats.requested[0], stats.allocated[0])
            };
        let mut text = String::with_capacity(4096);
        let mut put = |part: std::fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = text.write_fmt(part);
        };
        put(format_args!(
            "{{\"schema\":{SCHEMA},\"pool\":{},\"device\":\"{}\",\"policy\":\"{}\",\
             \"limit_bytes\":{},\"address_bytes\":{addresses},\"moves_pages\":{}",
            self.id,
            self.device.name(),
            self.policy().name(),
            stats.limit,
            self.device.can_move()
        ));
        for (name, [current, peak, total]) in [
            ("requested", stats.requested),
            ("allocated", stats.allocated),
            ("reserved", stats.reserved),
        ] {
            put(format_args!(
                ",\"{name}\":{{\"current\":{current},\"peak\":{peak},\"total\":{total}}}"
            ));
        }
        for (name, value) in [
            ("allocations", stats.allocations),
            ("frees", stats.frees),
            ("live_blocks", stats.live_blocks),
            ("hits", stats.hits),
            ("misses", stats.misses),
            ("front_cache_misses", stats.front_misses),
            ("failed", stats.failed),
            ("invalid_frees", stats.invalid_frees),
            ("system_calls", stats.system_calls),
            ("trims", stats.trims),
            ("free_bytes", free),
            ("free_runs", free_runs),
            ("idle_bytes", idle),
            ("waiting_bytes", waiting),
            ("front_cache_bytes", held),
            ("asleep_bytes", asleep),
            ("unmapped_runs", unmapped_holes),
            ("largest_free_run", largest_free),
        ] {
            put(format_args!(",\"{name}\":{value}"));
        }
        if let Ok(plan) = self.plan_usage() {
            put(format_args!(
                ",\"plan\":{{\"arena_bytes\":{},\"tensors\":{},\"steps\":{},\"served\":{},\
                 \"diverged\":{},\"diverged_bytes\":{},\"live\":{}}}",
                plan.arena_bytes,
                plan.tensors,
                plan.steps,
                plan.served,
                plan.diverged,
                plan.diverged_bytes,
                plan.live
            ));
        }
        put(format_args!(
            ",\"external_fragmentation\":{external:.6},\"internal_fragmentation\":{internal:.6},\
             \"large\":{{\"live_blocks\":{large_blocks},\"live_bytes\":{large_bytes}}},\
             \"size_classes\":["
        ));
        let mut separator = "";
        for (class, &(slabs, blocks, live, requested)) in per_class.iter().enumerate() {
            if slabs > 0 {
                put(format_args!(
                    "{separator}{{\"size\":{},\"slabs\":{slabs},\"blocks\":{blocks},\
                     \"live_blocks\":{live},\"requested_bytes\":{requested}}}",
                    classes.size(class)
                ));
                separator = ",";
            }
        }
        put(format_args!("],\"largest_live_blocks\":["));
        separator = "";
        for (requested, address) in largest {
            put(format_args!(
                "{separator}{{\"address\":{address},\"requested_bytes\":{requested}}}"
            ));
            separator = ",";
        }
        put(format_args!("]}}"));
        text
    }
}
