//! What debug flags and policies do to the bytes of blocks: zeroing, poison, guard bytes.

use std::sync::atomic::Ordering;

use super::core::Block;
use super::{GUARD_BYTES, Pool, handshake::attention};
use crate::error::{Result, fail};
use crate::order::{Fence, Stream};

/// Freed bytes are overwritten with this.
const POISON: u8 = 0xDF;
/// Guard bytes hold this.
const GUARD: u8 = 0xFD;
/// Most guard bytes written behind a block. All of a small block's rest is guarded.
const GUARD_MOST: u64 = 4096;

impl Pool {
    /// The device is about to write to bytes that were freed on `stream`, where work may be
    /// queued that still uses them: waits for it, unless the writing is work on `stream` too.
    pub(super) fn settle(&self, stream: Stream) {
        if !self.device.works_on_streams() {
            self.finish(stream);
        }
    }

    /// Waits for what is queued on `stream`.
    fn finish(&self, stream: Stream) {
        if !self.order.is_immediate(stream) {
            self.order.wait(Fence { stream, sequence: self.order.mark(stream) });
        }
    }

    /// Prepares the bytes of a block that is about to be given out on `stream`.
    pub(super) fn prepare_contents(
        &self,
        block: &Block,
        size: usize,
        stream: Stream,
    ) -> Result<()> {
        if self.attention.load(Ordering::Relaxed) & attention::SLOW == 0 {
            return Ok(());
        }
        let address = block.address();
        self.zero_contents(address, size, stream)?;
        if self.flags.guard_bytes {
            self.settle(stream);
            let (from, bytes) = guarded(block, size as u64);
            // SAFETY: as above; the bytes behind `size` up to the block's end are the pool's.
            unsafe { self.device.fill(from, bytes, GUARD, stream.0) }?;
        }
        Ok(())
    }

    /// Zeroes bytes that are about to be given out on `stream`, if the pool zeroes what it gives
    /// out.
    pub(super) fn zero_contents(&self, address: usize, size: usize, stream: Stream) -> Result<()> {
        if !self.flags.zero_on_alloc && !self.zeroed.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.settle(stream);
        // SAFETY: the bytes were just taken for the caller and have pages.
        unsafe { self.device.fill(address, size, 0, stream.0) }
    }

    /// Before the bytes of a live block are poisoned: waits for the work that is queued on
    /// `stream`, and on those that were recorded for it.
    pub(super) fn settle_for_poison(&self, block: &Block, stream: Stream) {
        if self.flags.poison_on_free {
            self.settle(stream);
            let followers = self.core.lock().followers(&*self.order, block.address());
            for fence in followers {
                self.order.wait(fence);
            }
        }
    }

    /// Overwrites the bytes of a block that was just taken back on `stream`.
    pub(super) fn poison_contents(&self, block: &Block, stream: Stream) {
        if self.flags.poison_on_free && self.check_awake().is_ok() {
            let (address, bytes) = (block.address(), block.head().size() as usize);
            // SAFETY: the block was taken back from its owner and is in nobody's hands yet.
            let filled = unsafe { self.device.fill(address, bytes, POISON, stream.0) };
            if let Err(error) = filled {
                tracing::warn!(pool = self.id, %error, "a freed block was not overwritten");
            }
        }
    }

    /// Writes the guard bytes of all live blocks again, whose contents were given up.
    pub(super) fn renew_guards(&self) -> Result<()> {
        if !self.flags.guard_bytes {
            return Ok(());
        }
        // Nobody frees a block meanwhile.
        let _stopped = self.slots.stop_all();
        let _slotless = self.slotless.cells.lock();
        let live = self.core.lock().live_blocks();
        for block in &live {
            let (from, bytes) = guarded(block, block.head().requested(block.index));
            // SAFETY: the bytes behind what was asked for are the pool's; they have pages.
            unsafe { self.device.fill(from, bytes, GUARD, Stream::DEFAULT.0) }?;
        }
        if self.device.works_on_streams() { self.order.wait_for_all() } else { Ok(()) }
    }

    /// Checks the guard bytes behind a live block, in the order of `stream`.
    pub(super) fn check_guard(&self, block: &Block, stream: Stream) -> Result<()> {
        if !self.flags.guard_bytes || self.check_awake().is_err() {
            return Ok(());
        }
        let size = block.head().requested(block.index);
        if !block.is_live() {
            // Another thread is freeing it, which checks them too and then overwrites them.
            return Ok(());
        }
        let (from, bytes) = guarded(block, size);
        // SAFETY: guard bytes are the pool's; their block has pages.
        match unsafe { self.device.find_other(from, bytes, GUARD, stream.0) }? {
            Some(_) if !block.is_live() => Ok(()),
            None => Ok(()),
            Some(at) => Err(fail!(
                Corruption,
                "the block at {:#x} of {size} bytes was written past its end, {} bytes behind \
                 its start",
                block.address(),
                at - block.address()
            )),
        }
    }
}

/// Address and number of the guard bytes of a block of which `size` bytes were asked for.
fn guarded(block: &Block, size: u64) -> (usize, usize) {
    let rest = block.head().size() - size;
    debug_assert!(rest >= GUARD_BYTES as u64);
    (block.address() + size as usize, rest.min(GUARD_MOST) as usize)
}
