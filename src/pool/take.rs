//! How a block is taken: from the calling thread's cache, from what the threads share, or by
//! the ladder.

use std::sync::atomic::Ordering;

use super::bin::Entry;
use super::block::{NO_OWNER, Word, large_bin, state};
use super::core::{Block, Core, Need};
use super::front::{Locked, SMALL_BATCH, Slot};
use super::lane::Lane;
use super::stock::Batch;
use super::{GUARD_BYTES, Pool, SIZE_MAX, fast};
use crate::error::{Result, fail};
use crate::order::Stream;
use crate::space::{CHUNK, PAGE, round_large};

impl Pool {
    /// What an allocation of `size` bytes at `alignment` needs, or why it cannot be. Inlined,
    /// for a result of this size would go through memory.
    #[inline(always)]
    pub(super) fn need(&self, size: usize, alignment: usize, lane: Lane) -> Result<Need> {
        if size == 0 {
            return Err(fail!(InvalidArgument, "size is 0; the least is 1 byte"));
        }
        if size as u64 > SIZE_MAX {
            return Err(fail!(InvalidArgument, "size is {size}; the limit is {SIZE_MAX}"));
        }
        let guard = if self.flags.guard_bytes { GUARD_BYTES } else { 0 };
        let rounded = (size + guard + self.block_mask) & !self.block_mask;
        let classes = self.classes();
        let class = classes.class_of_aligned(rounded, alignment);
        let Some(class) = class else {
            // At least a chunk, so that no two runs begin in the same one.
            let block = round_large(rounded as u64).unwrap_or(SIZE_MAX).max(CHUNK);
            let by_policy = self.large_alignment.load(Ordering::Relaxed);
            let alignment = if block >= PAGE { by_policy } else { 1 }.max(alignment as u64);
            return Ok(Need { size: size as u64, block, class: None, alignment, lane });
        };
        let block = classes.size(class) as u64;
        Ok(Need { size: size as u64, block, class: Some(class), alignment: 1, lane })
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn alloc_slow(
        &self,
        size: usize,
        alignment: usize,
        stream: Stream,
    ) -> Result<usize> {
        self.check_open()?;
        self.check_awake()?;
        let slot = self.slot_for(stream)?;
        let lane = self.lane_for(stream)?;
        if self.asks_plan()
            && lane.is_eager()
            && let Some(address) = self.take_planned(size, alignment, lane.stream)?
        {
            self.record(crate::trace::Action::Allocate, address, size, stream);
            return Ok(address);
        }
        let block = self.find_block(size, alignment, lane, slot).inspect_err(|_| {
            self.failed.fetch_add(1, Ordering::Relaxed);
        })?;
        let address = block.address();
        if !lane.is_eager() {
            self.core.lock().enter_graph(&*self.order, &block, lane);
        }
        if let Err(error) = self.prepare_contents(&block, size, stream) {
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.core.lock().give(&self.table, &*self.order, block, lane);
            return Err(error);
        }
        // A graph's block is nothing for front caches.
        let state = if lane.is_eager() { state::LIVE } else { state::FOLLOWED };
        self.give_out(&block, size as u64, slot, state);
        if self.slots.len() > 1 {
            self.publish_peaks();
        }
        self.record(crate::trace::Action::Allocate, address, size, stream);
        Ok(address)
    }

    /// Finds a block, which is the call's own until it is given out.
    pub(super) fn find_block(
        &self,
        size: usize,
        alignment: usize,
        lane: Lane,
        slot: Option<&Slot>,
    ) -> Result<Block> {
        let Some(slot) = slot.filter(|_| lane.is_eager()) else {
            let need = self.need(size, alignment, lane)?;
            let block = self.take_from_core(&need);
            return block.map_or_else(|| self.climb(&need), Ok);
        };
        // SAFETY: the owner's thread, outside the door.
        let mut locked = unsafe { slot.lock() };
        // Under the slot's lock, because the size classes only change with every slot locked.
        let need = self.need(size, alignment, lane)?;
        if let Some(block) = self.pop(&mut locked, &need) {
            return Ok(block);
        }
        slot.counters.misses.add(1);
        let mut block = self.refill(&mut locked, &need);
        if block.is_none() && slot.was_drained_lately() && self.device.works_on_streams() {
            // What the cache would be emptied for, again and again, new pages may be worth; the
            // budget says how many. On the host a repeated step then never settles: there the
            // budget buys what it needs.
            drop(locked);
            if let Some(block) = self.grow_within_budget(&need) {
                return Ok(block);
            }
            // SAFETY: the owner's thread, outside the door.
            locked = unsafe { slot.lock() };
        }
        if block.is_none() {
            slot.note_drained();
            // What the thread itself holds back may be just what is missing: runs above all.
            // Small blocks are many, are little, and are wanted again.
            let entries = locked.drain_runs();
            self.give_entries(slot, entries);
            block = self.take_from_core(&need);
        }
        if block.is_none() && self.flush(&mut locked) > 0 {
            block = self.take_from_core(&need);
        }
        drop(locked);
        if let Some(block) = block {
            return Ok(block);
        }
        let block = self.climb(&need)?;
        if let Some(class) = need.class {
            // The rest of a new slab, so that another thread's next block is not one whose word
            // lies in a cache line with this one's.
            // SAFETY: the owner's thread, outside the door.
            let mut locked = unsafe { slot.lock() };
            if self.classes().size(class) as u64 == need.block {
                let mut core = self.core.lock();
                let tag = core.tag(&*self.order, lane);
                self.top_up(&mut locked, &mut core, class, need.block, tag);
            }
        }
        Ok(block)
    }

    /// A fitting block from the slot's cache.
    pub(super) fn pop(&self, locked: &mut Locked<'_>, need: &Need) -> Option<Block> {
        let number = need.class.unwrap_or_else(|| large_bin(need.block));
        let bin = &locked.cache().bins[number];
        let aligned = bin.peek()?.address as u64 & (need.alignment - 1) == 0;
        if bin.size() != need.block || !aligned {
            return None;
        }
        let entry = locked.pop(number)?;
        let block = self.block_at(entry.address)?;
        block.set_word(Word::HELD);
        Some(block)
    }

    /// Takes a block from the core and, of small ones, some more for the slot's cache.
    pub(super) fn refill(&self, locked: &mut Locked<'_>, need: &Need) -> Option<Block> {
        let mut core = self.core.lock();
        let tag = core.tag(&*self.order, need.lane);
        core.poll(&self.table, &*self.order);
        let number = need.class.unwrap_or_else(|| large_bin(need.block));
        if need.alignment == 1
            && let Some(batch) = core.stock.take(number, need.block, need.lane.stream)
        {
            drop(core);
            return self.unpack(locked, batch);
        }
        let block = core.take(&self.table, need, tag)?;
        let slot = locked.slot().id;
        if let Some(class) = need.class {
            self.top_up(locked, &mut core, class, need.block, tag);
        }
        // The last one of them rather than the first: the words of a slab lie side by side, and
        // the first one's may be in a cache line with one that another thread was given.
        let Some(class) = need.class else { return Some(block) };
        let last = locked.pop(class).and_then(|entry| self.block_at(entry.address));
        let Some(last) = last else { return Some(block) };
        let entry = Entry { address: block.address(), word: block.head().word(block.index) };
        let pushed = locked.push(class, need.block, entry);
        debug_assert!(pushed, "in the place of the one that was popped");
        block.set_word(Word::new(state::CACHED, slot, 0));
        last.set_word(Word::HELD);
        Some(last)
    }

    /// Takes blocks of `class`, which have `size` bytes, for the slot's cache; only from slabs
    /// that are there: a new one is made for a block that is needed, not for one that may be.
    pub(super) fn top_up(
        &self,
        locked: &mut Locked<'_>,
        core: &mut Core,
        class: usize,
        size: u64,
        tag: u32,
    ) {
        if !locked.cache().prepare(class, size) {
            return;
        }
        let cached = Word::new(state::CACHED, locked.slot().id, 0).0;
        let bin = &locked.cache().bins[class];
        let batch = (bin.places() / 2).min(SMALL_BATCH).saturating_sub(bin.len());
        for _ in 1..batch {
            let Some((slab, index)) = core.space.take_small(class, tag) else { break };
            let head = core.heads.of_slab(slab);
            let word = head.word(index as usize);
            word.store(cached, Ordering::Relaxed);
            let entry = Entry { address: head.address(index as usize), word };
            let pushed = locked.push(class, size, entry);
            debug_assert!(pushed, "no more than half of the places of the bin");
        }
    }

    /// A block from a batch out of the stock; the others go to the slot's cache.
    pub(super) fn unpack(&self, locked: &mut Locked<'_>, mut batch: Batch) -> Option<Block> {
        let block = batch.entries.pop().and_then(|entry| self.block_at(entry.address));
        if let Some(block) = block {
            block.set_word(Word::HELD);
        }
        let keeps = locked.cache().prepare(batch.bin, batch.size);
        while keeps
            && locked.cache().bins[batch.bin].has_place(batch.size)
            && let Some(entry) = batch.entries.pop()
        {
            locked.push(batch.bin, batch.size, entry);
        }
        self.give_entries(locked.slot(), batch.entries);
        block
    }

    /// A block from what is mapped and free.
    pub(super) fn take_from_core(&self, need: &Need) -> Option<Block> {
        let mut core = self.core.lock();
        let tag = core.tag(&*self.order, need.lane);
        core.poll(&self.table, &*self.order);
        core.take(&self.table, need, tag)
    }

    /// Marks a block as given out for `size` bytes in `state`, and counts it.
    pub(super) fn give_out(&self, block: &Block, size: u64, slot: Option<&Slot>, state: u32) {
        let head = block.head();
        let owner = slot.map_or(NO_OWNER, |slot| slot.id);
        let waste = (head.size() - size) as u32;
        if head.is_large() {
            let entry = Entry { address: block.address(), word: head.word(block.index) };
            fast::set_large_live(Word::new(state, owner, 0).0, &entry, waste);
        } else {
            block.set_word(Word::new(state, owner, waste));
        }
        match slot {
            Some(slot) => slot.counters.allocated(size, head.size()),
            None => self.slotless.cells.lock().allocated(size, head.size()),
        }
    }
}
