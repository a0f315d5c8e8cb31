//! Live blocks: found by their address, asked about, used on further streams.

use std::sync::atomic::Ordering;

use super::block::{Found, Word, state};
use super::core::Block;
use super::{Pool, registry};
use crate::error::{self, Result, fail};
use crate::order::Stream;
use crate::space::{CHUNK, round_large};

impl Pool {
    pub(super) fn block_at(&self, address: usize) -> Option<Block> {
        match self.table.find(address) {
            Found::Block(head, index) => Some(Block { head, index }),
            Found::Inside | Found::Foreign => None,
        }
    }

    /// The live block that starts at `address`, or the error that says what is there.
    pub(super) fn live_block(&self, address: usize) -> Result<Block> {
        match self.table.find(address) {
            Found::Block(head, index) => {
                let block = Block { head, index };
                if block.is_live() { Ok(block) } else { Err(self.freed_before(address)) }
            }
            Found::Inside => {
                self.invalid_frees.fetch_add(1, Ordering::Relaxed);
                let around = self.core.lock().live_block_around(&self.table, address);
                Err(match around {
                    Some(block) => fail!(
                        InvalidPointer,
                        "ptr {address:#x} lies inside the block at {:#x}, {} bytes behind its \
                         start; only the start of a block can be freed",
                        block.address(),
                        address - block.address()
                    ),
                    None => fail!(
                        InvalidPointer,
                        "ptr {address:#x} is in the pool's addresses, but no live block is there"
                    ),
                })
            }
            Found::Foreign => {
                self.invalid_frees.fetch_add(1, Ordering::Relaxed);
                Err(match registry::owner_of(address) {
                    Some(other) => fail!(
                        InvalidPointer,
                        "ptr {address:#x} belongs to pool {other}, not to pool {}",
                        self.id
                    ),
                    None => fail!(InvalidPointer, "ptr {address:#x} does not belong to this pool"),
                })
            }
        }
    }

    #[cold]
    pub(super) fn freed_before(&self, address: usize) -> error::Error {
        self.invalid_frees.fetch_add(1, Ordering::Relaxed);
        fail!(InvalidPointer, "ptr {address:#x} is not given out: it was freed before")
    }

    /// Bytes that the live block at `address` has room for.
    pub fn usable_size(&self, address: usize) -> Result<u64> {
        if let Some((_, bytes)) = self.planned_extent(address) {
            return Ok(bytes);
        }
        let block = self.live_block(address)?;
        let head = block.head();
        // Everything behind the bytes asked for is guarded, then.
        Ok(if self.flags.guard_bytes { head.requested(block.index) } else { head.size() })
    }

    /// Bytes that the pool's device has.
    pub fn device_bytes(&self) -> u64 {
        self.device.memory_bytes()
    }

    /// Bytes of the largest free run.
    pub fn largest_free(&self) -> u64 {
        self.core.lock().largest_free()
    }

    /// Whether `address` is among the pool's addresses.
    pub fn contains(&self, address: usize) -> bool {
        (address.wrapping_sub(self.table.base()) as u64) < self.table.bytes()
    }

    /// Bytes of the block that an allocation of `size` bytes gets.
    #[inline]
    pub fn block_bytes(&self, size: usize) -> u64 {
        let rounded = size.wrapping_add(self.block_mask) & !self.block_mask;
        let classes = self.classes();
        match classes.class_of(rounded) {
            Some(class) => classes.size(class) as u64,
            None => round_large(rounded as u64).unwrap_or(u64::MAX).max(CHUNK),
        }
    }

    /// First byte and bytes of the live block that `address` lies in.
    pub fn owner(&self, address: usize) -> Option<(usize, u64)> {
        let planned = self.planned_owner(address);
        if planned.is_some() {
            return planned;
        }
        let block = self.core.lock().live_block_around(&self.table, address)?;
        Some((block.address(), block.head().size()))
    }

    /// Notes that work on `stream` uses a block that was allocated on another one.
    pub fn record_stream(&self, address: usize, stream: Stream) -> Result<()> {
        self.check_open()?;
        self.order.check(stream)?;
        let stream = self.order.name(stream);
        let followed = (!self.order.is_immediate(stream)).then_some(stream);
        if self.follow_planned(address, followed, None) {
            return Ok(());
        }
        let block = self.live_block(address)?;
        if self.order.is_immediate(stream) {
            return Ok(());
        }
        #[cfg(test)]
        if crate::planted::is_planted(crate::planted::Bug::IgnoredStream) {
            return Ok(());
        }
        // Before the word says so, because whoever frees it then looks.
        self.core.lock().follow(address, stream);
        self.set_followed(&block, address)
    }

    /// Has whoever frees the block look at what is noted of it.
    pub(super) fn set_followed(&self, block: &Block, address: usize) -> Result<()> {
        let word = block.head().word(block.index);
        let mut seen = Word(word.load(Ordering::Acquire));
        while seen.state() != state::FOLLOWED {
            if !seen.is_live() {
                return Err(self.freed_before(address));
            }
            if let Some(owner) = self.slots.get(seen.owner()) {
                self.share(owner);
            }
            let next = Word::new(state::FOLLOWED, seen.owner(), seen.waste());
            match word.compare_exchange(seen.0, next.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => seen = Word(now),
            }
        }
        Ok(())
    }

    /// Whether the processor can write to the pool's blocks.
    pub fn is_cpu_writable(&self) -> bool {
        !self.device.works_on_streams()
    }
}
