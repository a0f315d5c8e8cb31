//! Changing the size of a block.

use std::sync::atomic::Ordering;

use super::Pool;
use super::block::Word;
use super::core::{Block, Need};
use crate::error::{self, Result};
use crate::order::Stream;

impl Pool {
    /// Changes the block at `address` to `size` bytes: in place where that is possible, else
    /// by a new block that gets the old one's bytes. The old block is gone when that
    /// succeeds, and untouched when it fails.
    pub fn realloc(&self, address: usize, size: usize, stream: Stream) -> Result<usize> {
        self.check_open()?;
        let block = self.live_block(address)?;
        let need = self.need(size, 1, stream)?;
        let head = block.head();
        let (old_size, old_requested) = (head.size(), head.requested(block.index));
        // A trace has no row for a change in place, and debug flags have bytes to write.
        let plain = self.attention.load(Ordering::Relaxed) == 0;
        if plain && (need.block == old_size || self.resize_run(&block, &need)) {
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
        let fresh = self.alloc(size, stream)?;
        // Work on `stream` that was queued before may still use what became `fresh`.
        self.settle(stream);
        let bytes = (old_requested as usize).min(size);
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

    /// Cuts a run of its own, or grows it into free memory above it.
    fn resize_run(&self, block: &Block, need: &Need) -> bool {
        let head = block.head();
        if need.class.is_some() || !head.is_large() {
            return false;
        }
        let mut core = self.core.lock();
        let tag = core.tag(&*self.order, need.stream);
        let fence = self.order.mark(need.stream);
        if !core.space.resize_large(head.id(), need.block, tag, fence) {
            return false;
        }
        core.used_peak = core.used_peak.max(core.space.used_bytes());
        core.idle_low = core.idle_low.min(core.space.idle_bytes());
        core.heads.resize_run(head.id(), need.block);
        true
    }
}
