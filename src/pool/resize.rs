//! Changing the size of a block: in place, by moving its pages, or by copying its bytes.

use std::sync::atomic::Ordering;

use super::Pool;
use super::block::{Word, state};
use super::core::{Block, Need};
use super::front::Slot;
use super::handshake::attention;
use crate::error::{self, Result};
use crate::order::Stream;
use crate::space::{Growth, PAGE};

/// The least bytes of whole pages in a block that are worth moving.
///
/// Measured for growth by half, the new half written (CPU time, medians of 24 interleaved
/// rounds): where nothing is idle moving wins at any size, 0.21 against 0.79 ms for 4 MiB and
/// 1.8 against 6.5 ms for 32. Where enough idle pages are resident to copy into, 4 MiB take 0.47
/// moved and 0.32 copied, 8 MiB 0.60 and 0.95, 64 MiB 2.8 and 9.2.
const MOVED_LEAST: u64 = 4 * PAGE;

/// The least bytes that are worth looking for room around, before they are copied.
const COPIED_LEAST: u64 = 256 << 10;

/// How a block got pages for more bytes.
enum Regrown {
    /// Not, and nothing changed.
    Not,
    /// Where it is: as large as was needed.
    InPlace,
    /// By going to other addresses with its pages: the block that it is now.
    Moved(Block),
}

impl Pool {
    /// Changes the block at `address` to `size` bytes: in place where that is possible, else
    /// by a new block that gets the old one's bytes. The old block is gone when that
    /// succeeds, and untouched when it fails.
    pub fn realloc(&self, address: usize, size: usize, stream: Stream) -> Result<usize> {
        self.check_open()?;
        self.check_awake()?;
        // First of all, so that fences are taken on streams that are known.
        self.slot_for(stream)?;
        if let Some((requested, _)) = self.planned_extent(address) {
            return self.realloc_by_copy((address, requested), size, stream);
        }
        let block = self.live_block(address)?;
        let need = self.need(size, 1, self.lane_for(stream)?)?;
        let head = block.head();
        let old @ (old_size, old_requested) = (head.size(), head.requested(block.index));
        // A trace has no row for a change in place, and debug flags have bytes to write.
        let plain = self.attention.load(Ordering::Relaxed) & !attention::PLANNED == 0;
        let mut in_place = plain && (need.block == old_size || self.resize_run(&block, &need));
        if plain && !in_place {
            match self.regrow(&block, &need, old)? {
                Regrown::Not => {}
                Regrown::InPlace => in_place = true,
                Regrown::Moved(fresh) => return Ok(fresh.address()),
            }
        }
        // A block that grew mostly grows again: each time it is copied it should be for long.
        let grows = plain && need.class.is_none() && head.is_large() && need.block > old_size;
        let looks = grows && !self.device.works_on_streams() && need.lane.is_eager();
        let seeks = looks && !in_place && old_requested >= COPIED_LEAST;
        if seeks && self.drain_own_runs(stream)? > 0 {
            in_place = self.resize_run(&block, &need);
        }
        if in_place {
            let waste = (need.block - need.size) as u32;
            if head.is_large() {
                head.word(1).store(waste, Ordering::Relaxed);
            } else {
                let word = head.word(block.index);
                let rewaste = |seen: u32| {
                    let seen = Word(seen);
                    seen.is_live().then(|| Word::new(seen.state(), seen.owner(), waste).0)
                };
                // Not a plain store: it must not bring back a block that was freed meanwhile.
                if word.fetch_update(Ordering::AcqRel, Ordering::Acquire, rewaste).is_err() {
                    return Err(self.freed_before(address));
                }
            }
            let change = (old_requested, old_size, need.size, need.block);
            match self.slot_for(stream)? {
                Some(slot) => slot.counters.resized(change),
                None => self.slotless.cells.lock().resized(change),
            }
            return Ok(address);
        }
        // Before anything is taken: a free that finds them overwritten would lose the new block.
        self.check_guard(&block, stream)?;
        if seeks && let Some(fresh) = self.take_below_room(&need, stream)? {
            return self.copy_over((address, old_requested), fresh, size, stream);
        }
        self.realloc_by_copy((address, old_requested), size, stream)
    }

    /// Gives the runs that the calling thread keeps for itself back; returns how many there were.
    fn drain_own_runs(&self, stream: Stream) -> Result<usize> {
        let Some(slot) = self.slot_for(stream)? else { return Ok(0) };
        // SAFETY: the owner's thread, outside the door.
        let mut locked = unsafe { slot.lock() };
        let entries = locked.drain_runs();
        let count = entries.len();
        self.give_entries(slot, entries);
        Ok(count)
    }

    /// A block with as many free bytes above it, out of what is mapped, if there is such a run.
    fn take_below_room(&self, need: &Need, stream: Stream) -> Result<Option<usize>> {
        let slot = self.slot_for(stream)?;
        let mut core = self.core.lock();
        let (tag, fence) = core.fence(&*self.order, need.lane.stream);
        core.poll(&self.table, &*self.order);
        let Some(block) = core.take_below_room(&self.table, need, tag, fence) else {
            return Ok(None);
        };
        drop(core);
        if let Some(slot) = slot {
            slot.counters.misses.add(1);
        }
        self.give_out(&block, need.size, slot, state::LIVE);
        if self.slots.len() > 1 {
            self.publish_peaks();
        }
        Ok(Some(block.address()))
    }

    /// A new block with the bytes of the one at `address`, of which `requested` were asked for,
    /// and which is freed.
    fn realloc_by_copy(
        &self,
        (address, requested): (usize, u64),
        size: usize,
        stream: Stream,
    ) -> Result<usize> {
        let fresh = self.alloc(size, stream)?;
        self.copy_over((address, requested), fresh, size, stream)
    }

    /// Copies the block at `address`, of which `requested` bytes were asked for, to `fresh`, one of
    /// `size` bytes, and frees it.
    fn copy_over(
        &self,
        (address, requested): (usize, u64),
        fresh: usize,
        size: usize,
        stream: Stream,
    ) -> Result<usize> {
        // Work on `stream` that was queued before may still use what became `fresh`.
        self.settle(stream);
        let bytes = (requested as usize).min(size);
        // SAFETY: both blocks are live, the caller's, and distinct.
        if let Err(error) = unsafe { self.device.copy(address, fresh, bytes, stream.0) } {
            let message = error.message();
            // Allocated a moment ago, so this cannot fail.
            let _ = self.free(fresh, stream);
            return Err(error::Error::new(error.kind(), format_args!("{message}")));
        }
        self.free(address, stream)?;
        Ok(fresh)
    }

    /// A block on `stream` with a copy of the `size` bytes at `from`, which are where the device
    /// can read them.
    ///
    /// # Safety
    /// The bytes are there and are the caller's to read, in the order of `stream`.
    pub unsafe fn alloc_copy(&self, from: usize, size: usize, stream: Stream) -> Result<usize> {
        let fresh = self.alloc(size, stream)?;
        // Work on `stream` that was queued before may still use what became `fresh`.
        self.settle(stream);
        // SAFETY: the caller's promise, and a live block that is nobody else's.
        if let Err(error) = unsafe { self.device.copy(from, fresh, size, stream.0) } {
            let message = error.message();
            // Allocated a moment ago, so this cannot fail.
            let _ = self.free(fresh, stream);
            return Err(error::Error::new(error.kind(), format_args!("{message}")));
        }
        Ok(fresh)
    }

    /// Cuts a run of its own, or grows it into free memory above it.
    fn resize_run(&self, block: &Block, need: &Need) -> bool {
        let head = block.head();
        if need.class.is_some() || !head.is_large() {
            return false;
        }
        let mut core = self.core.lock();
        // What other streams, a graph or other processes use too is not cut: nothing says when
        // they are done with the rest.
        if core.is_noted(block.address()) {
            return false;
        }
        let (tag, fence) = core.fence(&*self.order, need.lane.stream);
        if !core.space.resize_large(head.id(), need.block, tag, fence) {
            return false;
        }
        core.look_again();
        core.used_peak = core.used_peak.max(core.space.used_bytes());
        core.idle_low = core.idle_low.min(core.space.idle_bytes());
        core.heads.resize_run(head.id(), need.block);
        true
    }
    /// Grows a run of its own by pages: new or idle ones above it, or else at other addresses,
    /// where its whole pages are moved. It is the call's own meanwhile.
    fn regrow(&self, block: &Block, need: &Need, old: (u64, u64)) -> Result<Regrown> {
        let head = block.head();
        let (address, size) = (block.address() as u64, head.size());
        let whole = ((address + size) / PAGE * PAGE).saturating_sub(address.next_multiple_of(PAGE));
        if need.class.is_some()
            || !head.is_large()
            || need.block < size
            || whole < MOVED_LEAST
            || need.alignment > PAGE
            || !address.is_multiple_of(need.alignment)
            || !self.device.moves_without_copying()
        {
            return Ok(Regrown::Not);
        }
        let slot = self.slot_for(need.lane.stream)?;
        let word = head.word(block.index);
        let seen = Word(word.load(Ordering::Acquire));
        // Pages that other streams may be using stay where they are.
        if seen.state() != state::LIVE {
            return Ok(Regrown::Not);
        }
        if slot.is_none_or(|slot| slot.id != seen.owner())
            && let Some(owner) = self.slots.get(seen.owner())
        {
            self.share(owner);
        }
        let held = Word::HELD.0;
        if word.compare_exchange(seen.0, held, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return Ok(Regrown::Not);
        }
        let mut regrown = self.regrow_held(block, need);
        if matches!(regrown, Regrown::Not) && self.flush_all() > 0 {
            regrown = self.regrow_held(block, need);
        }
        match &regrown {
            Regrown::Moved(fresh) => self.give_out_moved(fresh, need, old, slot),
            Regrown::Not | Regrown::InPlace => block.set_word(seen),
        }
        Ok(regrown)
    }

    /// As [`Pool::regrow`], of a block that is the call's own.
    fn regrow_held(&self, block: &Block, need: &Need) -> Regrown {
        let Some(growth) = self.begin_regrowth(block, need) else { return Regrown::Not };
        let mapped = match growth.carried {
            None => self.map(&growth),
            Some(pages) => self.map(&growth).and_then(|()| {
                let moved = self.carry(block, &growth, pages, need.lane.stream);
                moved.inspect_err(|_| {
                    self.unmap(&growth, (growth.moved.len(), growth.fresh.len()));
                })
            }),
        };
        let run = block.head().id();
        let mut core = self.core.lock();
        core.device_calls -= 1;
        if mapped.is_err() {
            core.reserved_total -= growth.fresh_bytes();
            core.space.abort_growth(growth);
            core.look_again();
            return Regrown::Not;
        }
        let regrown = if growth.carried.is_some() {
            let (tag, fence) = core.fence(&*self.order, need.lane.stream);
            block.set_word(Word::new(state::FREE, 0, 0));
            core.heads.remove_run(&self.table, run);
            let fresh = core.space.finish_relocation(growth, run, tag, fence);
            core.look_again();
            Regrown::Moved(core.enter_run(&self.table, fresh))
        } else {
            core.space.finish_growth_above(growth, run);
            core.heads.resize_run(run, need.block);
            Regrown::InPlace
        };
        core.used_peak = core.used_peak.max(core.space.used_bytes());
        core.idle_low = core.idle_low.min(core.space.idle_bytes());
        regrown
    }

    /// Holds the addresses that a block lacks, or those to which it goes.
    fn begin_regrowth(&self, block: &Block, need: &Need) -> Option<Growth> {
        let sums = self.sums();
        let run = block.head().id();
        let missing = need.block - block.head().size();
        let mut core = self.core.lock();
        let tag = core.tag(&*self.order, need.lane);
        core.poll(&self.table, &*self.order);
        if !core.sleep.is_awake() || core.is_noted(block.address()) {
            return None;
        }
        let above = core.space.room_above(run, need.block, tag);
        let window = above.or_else(|| core.space.relocation_window(run, need.block, tag))?;
        let mapped = core.space.mapped_bytes();
        let too_many = (mapped + window.pages).saturating_sub(core.limit);
        let to_move = core.bytes_to_move(missing, window.pages, &sums).max(too_many);
        let growth = match above {
            Some(_) => core.space.begin_growth(window, to_move),
            None => core.space.begin_relocation(run, window, to_move),
        };
        if mapped + growth.fresh_bytes() > core.limit {
            core.space.abort_growth(growth);
            core.look_again();
            return None;
        }
        core.device_calls += 1;
        core.note_reserved(growth.fresh_bytes());
        Some(growth)
    }

    /// Brings what is in a block to where `growth` put pages: the ends by copying, then the
    /// whole `pages` between them. Nothing has changed when that fails.
    fn carry(
        &self,
        block: &Block,
        growth: &Growth,
        (from, to, bytes): (u64, u64, u64),
        stream: Stream,
    ) -> Result<()> {
        // Work that was queued before may still use the block, and what its ends go to.
        self.settle(stream);
        let base = self.table.base();
        let (old, fresh) = (block.address(), base + growth.block().0 as usize);
        let requested = block.head().requested(block.index) as usize;
        let head = (base + from as usize - old).min(requested);
        let tail = head + bytes as usize;
        for (start, end) in [(0, head), (tail, requested.max(tail))] {
            if start < end {
                // SAFETY: the block is the call's own, and so are the held addresses, which
                // have pages but for those that are about to be moved.
                unsafe { self.device.copy(old + start, fresh + start, end - start, stream.0) }?;
            }
        }
        self.device.move_pages(base + from as usize, base + to as usize, bytes)
    }

    /// Gives out a block that went to other addresses: in the statistics an allocation and a
    /// free, like one that was copied, though never both at a time.
    fn give_out_moved(
        &self,
        fresh: &Block,
        need: &Need,
        (old_size, old_requested): (u64, u64),
        slot: Option<&Slot>,
    ) {
        self.misses.fetch_add(1, Ordering::Relaxed);
        match slot {
            Some(slot) => {
                slot.counters.misses.add(1);
                slot.counters.freed(old_requested, old_size);
            }
            None => self.slotless.cells.lock().freed(old_requested, old_size),
        }
        self.give_out(fresh, need.size, slot, state::LIVE);
        if self.slots.len() > 1 {
            self.publish_peaks();
        }
        self.after_free();
    }
}
