//! The ladder: ever more costly ways to find memory, before an allocation fails.

use std::cell::Cell;
use std::sync::Arc;

use super::core::{Block, Need};
use super::handshake::barrier;
use super::{Pool, SIZE_MAX, housekeeper, registry, thread};
use crate::device::GiveBack;
use crate::error::{self, Kind, Result};
use crate::order::{Fence, Stream};
use crate::space::{Growth, PAGE, READY};

/// Called when memory is short, with the bytes that are needed: true to try again. It may
/// free blocks of the pool, and may be called by several threads at a time.
pub type OomCallback = Arc<dyn Fn(u64) -> bool + Send + Sync>;

thread_local! {
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// How an attempt to put more memory under addresses ended.
enum Grown {
    Done(Block),
    /// The limit is reached.
    Limit,
    /// The device has no more.
    Refused,
    /// No free addresses are left together.
    NoAddresses,
}

/// How far to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Growing {
    /// Only as far as no idle pages have to be moved.
    WithinBudget,
    /// As far as the limit.
    ToTheLimit,
}

/// Most times that the user's callback is asked for one allocation.
const CALLBACKS_MAX: u32 = 16;

impl Pool {
    /// Finds a block when none is free in what the calling thread and the core have. Takes
    /// no lock across calls of the device, of streams or of the user.
    #[cold]
    pub(super) fn climb(&self, need: &Need) -> Result<Block> {
        self.check_eager(need.lane)?;
        let mut callbacks = 0;
        // What caches are asked for. More each time, for what they give may not lie together.
        let mut wish = need.block;
        loop {
            let mut given = 0;
            if let Some(block) = self.climb_once(need, wish, &mut given) {
                return Ok(block);
            }
            if given > 0 {
                wish = wish.saturating_mul(2).min(SIZE_MAX);
                continue;
            }
            // A copy, called without a lock, so that it may use the pool; an allocation of
            // its own that finds nothing does not call it again.
            let callback = self.callback.lock().clone();
            let Some(callback) = callback.filter(|_| !IN_CALLBACK.get()) else { break };
            callbacks += 1;
            IN_CALLBACK.set(true);
            let again = callbacks <= CALLBACKS_MAX && callback(need.block);
            IN_CALLBACK.set(false);
            if !again {
                break;
            }
        }
        self.check_awake()?;
        Err(self.out_of_memory(need))
    }

    /// One way up. `given` is what caches gave of the `wish` bytes that they are asked for.
    fn climb_once(&self, need: &Need, wish: u64, given: &mut u64) -> Option<Block> {
        // 0. What is on its way from one thread to another, and what streams are done with: this
        // is where they are asked.
        self.flush_stock();
        self.order.refresh();
        // New pages within the budget cost nobody else anything.
        if let Grown::Done(block) = self.grow(need, Growing::WithinBudget) {
            return Some(block);
        }
        // 1. What other threads' front caches hold back.
        if self.flush_others(need)
            && let Some(block) = self.take_from_core(need)
        {
            return Some(block);
        }
        // 2. Idle pages moved together, 3. new pages; passed fences come with each try.
        let mut grown = self.grow(need, Growing::ToTheLimit);
        // 4. What caches hold: those worth least first, what is being read never.
        if !matches!(grown, Grown::Done(_)) && self.check_awake().is_ok() {
            *given = self.ask_holders(wish);
            if *given > 0 {
                // Some of it went into this thread's front cache.
                self.flush_all();
                grown = self.grow(need, Growing::ToTheLimit);
            }
        }
        // 5. What lies idle in other pools, when it is the device that has no more.
        if matches!(grown, Grown::Refused) && registry::trim_others(self.id) > 0 {
            grown = self.grow(need, Growing::ToTheLimit);
        }
        if let Grown::Done(block) = grown {
            return Some(block);
        }
        // The little that front caches hold may lie in the very pages that are missing.
        if self.flush_all() > 0
            && let Grown::Done(block) = self.grow(need, Growing::ToTheLimit)
        {
            return Some(block);
        }
        // 6. What other streams freed but may still use: this stream waits for them on the
        // device, or else the caller does here.
        let (tag, fences) = {
            let mut core = self.core.lock();
            (core.tag(&*self.order, need.lane), core.fences(&*self.order))
        };
        let (stream, eager) = (need.lane.stream, need.lane.is_eager());
        // Fences of which `stream` is behind, whatever it is given from now on.
        let mut waited = Vec::new();
        let began = self.order.began(stream);
        for fence in fences {
            if fence.stream == stream && fence.sequence >= began {
                continue;
            }
            if tag != READY && eager && self.makes_wait(stream, fence) {
                waited.push(fence);
                self.hand_over(&waited, tag, need);
            } else if !self.order.wait(fence) {
                continue;
            }
            if let Some(block) = self.take_from_core(need) {
                return Some(block);
            }
            if let Grown::Done(block) = self.grow(need, Growing::ToTheLimit) {
                return Some(block);
            }
        }
        // 7. What this stream itself has queued: once that is done, its memory can be moved.
        if tag != READY && eager {
            let own = Fence { stream, sequence: self.order.mark(stream) };
            if self.order.passed(own.stream) < own.sequence && self.order.wait(own) {
                self.core.lock().poll(&self.table, &*self.order);
                if let Grown::Done(block) = self.grow(need, Growing::ToTheLimit) {
                    return Some(block);
                }
            }
        }
        None
    }

    fn makes_wait(&self, stream: Stream, fence: Fence) -> bool {
        #[cfg(test)]
        if crate::planted::is_planted(crate::planted::Bug::MissingWait) {
            return true;
        }
        self.order.make_wait(stream, fence)
    }

    /// The stream of `tag` is behind all fences in `waited` from now on: what was freed before
    /// the last of them is its own, behind that wait.
    fn hand_over(&self, waited: &[Fence], tag: u32, need: &Need) {
        let mut core = self.core.lock();
        let behind =
            Fence { stream: need.lane.stream, sequence: self.order.mark(need.lane.stream) };
        core.hand_over(&self.table, &*self.order, waited, tag, behind);
    }

    /// Empties other threads' front caches into the core, when they hold enough to matter.
    fn flush_others(&self, need: &Need) -> bool {
        let own = thread::find_slot(self.id, need.lane.stream);
        let others = self.slots.iter().filter(|&slot| own != Some(std::ptr::from_ref(slot)));
        let held: u64 = others.map(|slot| slot.held.get()).sum();
        held >= need.block.min(PAGE) && self.flush_all() > 0
    }

    /// Empties every front cache but those in use this very moment; returns how many
    /// blocks that were.
    pub(super) fn flush_all(&self) -> usize {
        let stocked = self.flush_stock();
        if self.slots.len() == 0 {
            return stocked;
        }
        self.barriers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.slots.stop().iter_mut().map(|locked| self.flush(locked)).sum::<usize>() + stocked
    }

    /// Empties the front caches whose owners have made no call since this was last called;
    /// returns how many blocks that were.
    pub(super) fn flush_unused(&self) -> usize {
        let mut stopping = Vec::new();
        for slot in self.slots.iter() {
            let calls = slot.counters.allocations.get().wrapping_add(slot.counters.frees.get());
            let before = slot.calls_before.swap(calls, std::sync::atomic::Ordering::Relaxed);
            if before == calls && slot.held.get() > 0 {
                stopping.extend(slot.begin_stop());
            }
        }
        if stopping.is_empty() {
            return 0;
        }
        self.barriers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        barrier();
        stopping.into_iter().map(|one| self.flush(&mut one.wait())).sum()
    }

    /// A block from new pages, if the policy's budget has them for what is given out: what front
    /// caches hold does not count here, for it is what a pool with less would take from them.
    pub(super) fn grow_within_budget(&self, need: &Need) -> Option<Block> {
        let live = self.sums().allocated + need.block;
        let possible = {
            let core = self.core.lock();
            let budget = (live * core.preset.move_above_percent / 100).max(live + 2 * PAGE);
            core.space.mapped_bytes() + need.block.next_multiple_of(PAGE) <= budget
        };
        match possible.then(|| self.grow(need, Growing::WithinBudget)) {
            Some(Grown::Done(block)) => Some(block),
            _ => None,
        }
    }

    /// Puts pages under addresses for `need`: idle pages from elsewhere, above the soft
    /// budget of the policy, or new ones up to the limit.
    fn grow(&self, need: &Need, how: Growing) -> Grown {
        let sums = self.sums();
        let mut core = self.core.lock();
        let tag = core.tag(&*self.order, need.lane);
        core.poll(&self.table, &*self.order);
        if let Some(block) = core.take(&self.table, need, tag) {
            return Grown::Done(block);
        }
        let (bytes, alignment) = need.mapping(&core.space);
        let Some(window) = core.space.best_window(bytes, alignment, tag) else {
            return Grown::NoAddresses;
        };
        if !core.sleep.is_awake() {
            return Grown::Limit;
        }
        let mapped = core.space.mapped_bytes();
        if how == Growing::WithinBudget && !core.within_budget(bytes, window.pages, &sums) {
            return Grown::Limit;
        }
        let to_move =
            if self.device.can_move() { core.bytes_to_move(bytes, window.pages, &sums) } else { 0 };
        let growth = core.space.begin_growth(window, to_move);
        if mapped + growth.fresh_bytes() > core.limit {
            core.space.abort_growth(growth);
            core.look_again();
            return Grown::Limit;
        }
        core.note_reserved(growth.fresh_bytes());
        core.note_moved(growth.moved_bytes());
        core.device_calls += 1;
        drop(core);
        let mapped = self.map(&growth);
        let mut core = self.core.lock();
        core.device_calls -= 1;
        if mapped.is_err() {
            core.reserved_total -= growth.fresh_bytes();
            core.space.abort_growth(growth);
            core.look_again();
            return Grown::Refused;
        }
        self.misses.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match need.class {
            None => {
                let run = core.space.finish_growth(growth);
                Grown::Done(core.enter_run(&self.table, run))
            }
            Some(class) => {
                let slab = core.space.finish_growth_slab(growth, class, tag);
                match core.enter_slab_and_take(&self.table, slab) {
                    Some(block) => Grown::Done(block),
                    // Not possible: the slab is new. The caller goes on looking.
                    None => Grown::Limit,
                }
            }
        }
    }

    /// Asks the device for the pages of `growth`; all or nothing.
    pub(super) fn map(&self, growth: &Growth) -> Result<()> {
        let at = |offset: u64| self.table.base() + offset as usize;
        let mut done = (0, 0);
        let mut result = Ok(());
        for &(from, to, bytes) in &growth.moved {
            result = self.device.move_pages(at(from), at(to), bytes);
            if result.is_err() {
                break;
            }
            done.0 += 1;
        }
        if result.is_ok() {
            for &(offset, bytes) in &growth.fresh {
                result = self.device.commit(at(offset), bytes);
                if result.is_err() {
                    break;
                }
                done.1 += 1;
            }
        }
        match result {
            Ok(()) if self.decay().is_some() => housekeeper::wake(),
            Ok(()) => {}
            Err(_) => self.unmap(growth, done),
        }
        result
    }

    /// Takes back what [`Pool::map`] did of `growth`: of what was to be moved and of what was
    /// to be taken new, as many as `done` says.
    pub(super) fn unmap(&self, growth: &Growth, done: (usize, usize)) {
        let at = |offset: u64| self.table.base() + offset as usize;
        for &(offset, bytes) in &growth.fresh[..done.1] {
            let _ = self.device.decommit(at(offset), bytes, GiveBack::Now);
        }
        for &(from, to, bytes) in growth.moved[..done.0].iter().rev() {
            // Back where they came from; if even that fails the addresses they came from get
            // other pages, for they are free and hold nothing.
            if self.device.move_pages(at(to), at(from), bytes).is_err() {
                let _ = self.device.commit(at(from), bytes);
            }
        }
    }

    /// What streams and graphs hold back of the free memory: bytes by stream, most first.
    pub fn holdings(&self) -> Vec<(Stream, u64)> {
        let mut held = self.core.lock().holdings();
        held.retain(|&(_, bytes)| bytes > 0);
        held.sort_unstable_by_key(|&(stream, bytes)| (std::cmp::Reverse(bytes), stream));
        held
    }

    /// The message has everything that is needed to see why, and allocates nothing but what
    /// the report itself walks over.
    #[cold]
    fn out_of_memory(&self, need: &Need) -> error::Error {
        let core = self.core.lock();
        let mapped = core.space.mapped_bytes();
        let largest = core.largest_free();
        let limit = core.limit;
        let waiting: u64 = core.tags().map(|tag| core.space.runs().free_bytes(tag)).sum();
        let mut sizes = [0u64; 5];
        for block in core.blocks() {
            if block.is_live() {
                let size = block.head().requested(block.index);
                // The smallest of the five makes way.
                if let Some(least) = sizes.iter_mut().min()
                    && *least < size
                {
                    *least = size;
                }
            }
        }
        drop(core);
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let sums = self.sums();
        tracing::warn!(pool = self.id, size = need.size, limit, "out of memory");
        error::Error::new(
            Kind::OutOfMemory,
            format_args!(
                "out of memory in pool {}: {} bytes requested (a block of {}, alignment {}); \
                 live {} bytes in {} blocks, requested {}, reserved {mapped}, limit {limit}, \
                 largest free run {largest}, freed but in use by streams {waiting}; largest \
                 live sizes {} {} {} {} {}",
                self.id,
                need.size,
                need.block,
                need.alignment,
                sums.allocated,
                sums.allocations.wrapping_sub(sums.frees),
                sums.requested,
                sizes[0],
                sizes[1],
                sizes[2],
                sizes[3],
                sizes[4],
            ),
        )
    }
}
