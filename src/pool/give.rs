//! How a block is given back: to the calling thread's cache, to another thread's, or to what
//! they share.

use std::sync::atomic::Ordering;

use super::bin::Entry;
use super::block::{Word, state};
use super::core::Block;
use super::front::{Locked, SMALL_BATCH, Slot};
use super::lane::Lane;
use super::stock::Batch;
use super::{Pool, fast};
use crate::error::Result;
use crate::order::Stream;

impl Pool {
    #[cold]
    #[inline(never)]
    pub(crate) fn free_slow(&self, address: usize, stream: Stream) -> Result<()> {
        if self.asks_plan()
            && let Some(given) = self.give_planned(address, stream)
        {
            return given;
        }
        match fast::free_shared(self.id, address, stream) {
            fast::Freed::Done => return Ok(()),
            fast::Freed::Over => {
                self.relieve_after(address, stream);
                return Ok(());
            }
            fast::Freed::Not => {}
        }
        self.check_open()?;
        let slot = self.slot_for(stream)?;
        self.free_block(address, stream, slot)?;
        self.after_free();
        Ok(())
    }

    pub(super) fn free_block(
        &self,
        address: usize,
        stream: Stream,
        slot: Option<&Slot>,
    ) -> Result<()> {
        let block = self.live_block(address)?;
        let head = block.head();
        let word = head.word(block.index);
        let guard = self.check_guard(&block, stream);
        // Streams are waited for without a lock.
        self.settle_for_poison(&block, stream);
        let lane = self.lane_for_free(stream)?;
        loop {
            let seen = Word(word.load(Ordering::Acquire));
            if !seen.is_live() {
                return Err(self.freed_before(address));
            }
            if slot.is_none_or(|slot| slot.id != seen.owner())
                && let Some(owner) = self.slots.get(seen.owner())
            {
                self.share(owner);
                if let Some(slot) = slot {
                    slot.frees_for_others.set(1);
                }
            }
            let hold = || {
                let held = Word::HELD.0;
                word.compare_exchange(seen.0, held, Ordering::AcqRel, Ordering::Acquire).is_ok()
            };
            // A device is not called under a lock, and nobody's bytes are overwritten before
            // they are this call's. A fork in between loses the block, in the child.
            let poison = self.flags.poison_on_free;
            // A word that says that it is held has no room for what was asked for.
            let (requested, size) = (head.requested(block.index), head.size());
            if poison {
                if !hold() {
                    continue;
                }
                self.poison_contents(&block, stream);
            }
            // From here to the end under the slot's lock (or that of those who have none): who
            // stops all slots finds no block that is half freed.
            // SAFETY: the owner's thread, outside the door.
            let mut locked = slot.map(|slot| unsafe { slot.lock() });
            let slotless = slot.is_none().then(|| self.slotless.cells.lock());
            if !poison && !hold() {
                continue;
            }
            self.record(crate::trace::Action::Free, address, requested as usize, stream);
            let counters = slot.map(|slot| &slot.counters).or(slotless.as_deref());
            if let Some(counters) = counters {
                counters.freed(requested, size);
            }
            let followed = seen.state() == state::FOLLOWED;
            let kept = match &mut locked {
                Some(locked) => (!followed && locked.cache().bound > 0).then_some(locked),
                None => None,
            };
            let over = match kept {
                Some(locked) => self.keep(locked, &block),
                None => {
                    self.core.lock().give(&self.table, &*self.order, block, lane);
                    false
                }
            };
            drop(locked);
            if let Some(slot) = slot.filter(|_| over) {
                self.relieve(slot, head.bin());
            }
            return guard;
        }
    }

    /// Has the owner of `slot` compare and swap from now on.
    pub(super) fn share(&self, slot: &Slot) {
        self.barriers.fetch_add(u64::from(slot.share()), Ordering::Relaxed);
    }

    /// Puts a block that a call holds into the slot's cache. True when that holds more than it
    /// should then.
    pub(super) fn keep(&self, locked: &mut Locked<'_>, block: &Block) -> bool {
        let head = block.head();
        let (number, size) = (head.bin(), head.size());
        if !locked.cache().prepare(number, size) {
            // Another size is in the bin, and makes way when this one is not a rare one.
            if head.is_large() && !locked.cache().claim(number) {
                let lane = Lane::eager(locked.slot().stream());
                self.core.lock().give(&self.table, &*self.order, *block, lane);
                return false;
            }
            let count = locked.cache().bins[number].len();
            let entries = locked.drain(number, count);
            self.give_entries(locked.slot(), entries);
            locked.cache().prepare(number, size);
        }
        let bin = &locked.cache().bins[number];
        if !bin.has_place(size) {
            // The older ones go, so that the next frees find room without a lock.
            let count = bin.len().div_ceil(2).min(SMALL_BATCH);
            let entries = locked.drain(number, count);
            self.pass_on(locked, entries);
        }
        let entry = Entry { address: block.address(), word: head.word(block.index) };
        let pushed = locked.push(number, size, entry);
        debug_assert!(pushed, "a bin that was made for it, with a place that was made free");
        block.set_word(Word::new(state::CACHED, locked.slot().id, 0));
        locked.is_over()
    }

    /// What the slot's cache has no place for, blocks of one size side by side, goes in stock if
    /// it is likely to be another thread that wants it, else back to the core.
    pub(super) fn pass_on(&self, locked: &mut Locked<'_>, mut entries: Vec<Entry>) {
        let slot = locked.slot();
        if slot.frees_for_others.get() == 0 {
            return self.give_entries(slot, entries);
        }
        slot.frees_for_others.set(0);
        let (stream, bound) = (slot.stream(), locked.cache().bound);
        while let Some(block) = entries.last().and_then(|entry| self.block_at(entry.address)) {
            let (bin, size) = (block.head().bin(), block.head().size());
            let other = |entry: &Entry| {
                self.block_at(entry.address).is_none_or(|block| block.head().size() != size)
            };
            let from = entries.iter().rposition(other).map_or(0, |at| at + 1);
            let batch = Batch { bin, size, stream, entries: entries.split_off(from) };
            let refused = self.core.lock().stock.put(batch, bound);
            if let Err(batch) = refused {
                self.give_entries(locked.slot(), batch.entries);
            }
        }
    }

    /// A free left the calling thread's cache with more than it should hold.
    #[cold]
    #[inline(never)]
    pub(crate) fn relieve_after(&self, address: usize, stream: Stream) {
        if let (Ok(Some(slot)), Some(block)) = (self.slot_for(stream), self.block_at(address)) {
            self.relieve(slot, block.head().bin());
        }
    }

    /// The slot's cache holds more than it should: gives some of it back to the core. The
    /// block freed last, in bin `keep`, stays.
    #[cold]
    #[inline(never)]
    pub(super) fn relieve(&self, slot: &Slot, keep: usize) {
        // SAFETY: the owner's thread, outside the door.
        let mut locked = unsafe { slot.lock() };
        let entries = locked.evict(keep);
        self.pass_on(&mut locked, entries);
        drop(locked);
        self.after_free();
    }

    /// Gives everything in the slot's cache back to the core; returns how many blocks.
    pub(super) fn flush(&self, locked: &mut Locked<'_>) -> usize {
        let entries = locked.drain_all();
        let count = entries.len();
        self.give_entries(locked.slot(), entries);
        count
    }

    pub(super) fn give_entries(&self, slot: &Slot, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let blocks = entries.iter().filter_map(|entry| self.block_at(entry.address));
        self.core.lock().give_all(&self.table, &*self.order, blocks, slot.stream());
    }

    /// Gives what is in stock back to the core; returns how many blocks that were.
    pub(super) fn flush_stock(&self) -> usize {
        let mut core = self.core.lock();
        let batches = core.stock.drain();
        let mut count = 0;
        for batch in batches {
            count += batch.entries.len();
            let blocks = batch.entries.iter().filter_map(|entry| self.block_at(entry.address));
            core.give_all(&self.table, &*self.order, blocks, batch.stream);
        }
        count
    }
}
