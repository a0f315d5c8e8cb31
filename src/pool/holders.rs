//! Holders: who has blocks of a pool that nobody uses at the moment, and gives them back when
//! memory is short. The pool knows nothing else of them. They are caches, which a higher floor
//! builds from what is here: facts of live blocks, fences, waits, and a free behind fences.

use std::sync::{Arc, Weak};

use super::policy::TrimWhen;
use super::{Pool, housekeeper};
use crate::error::{Result, fail};
use crate::order::{Fence, Stream};

/// Holds live blocks of pools. Called without a lock of the pool, from calls of the pool on any
/// thread, several at a time; it may free blocks of the pool, and takes none.
pub trait Holder: Send + Sync {
    /// Bytes of blocks of the pool `pool` that it holds.
    fn held(&self, pool: u64) -> u64;

    /// Frees at least `bytes` of blocks of `pool`, those first that are worth least, or as many
    /// as it can. Returns how many.
    fn give_up(&self, pool: u64, bytes: u64) -> u64;

    /// `pool` is about to be destroyed: frees all it can, and never calls it again.
    fn leave(&self, pool: u64);
}

/// What a live block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes that were asked for.
    pub requested: u64,
    /// Bytes of the block.
    pub allocated: u64,
}

impl Pool {
    /// Has `holder` asked for memory before an allocation fails.
    pub fn enter_holder(&self, holder: Weak<dyn Holder>) {
        let mut holders = self.holders.write();
        holders.retain(|known| known.strong_count() > 0);
        holders.push(holder);
        drop(holders);
        if matches!(self.core.lock().preset.trim, TrimWhen::Idle(_) | TrimWhen::Pressure) {
            // It asks them when the device has little left.
            housekeeper::wake();
        }
    }

    pub(super) fn all_holders(&self) -> Vec<Arc<dyn Holder>> {
        self.holders.read().iter().filter_map(Weak::upgrade).collect()
    }

    /// Has holders give up `bytes`, who holds most first; returns how many they gave.
    pub(super) fn ask_holders(&self, bytes: u64) -> u64 {
        let mut holders = self.all_holders();
        holders.sort_by_cached_key(|holder| std::cmp::Reverse(holder.held(self.id)));
        let mut given = 0;
        for holder in holders {
            if given >= bytes {
                break;
            }
            given += holder.give_up(self.id, bytes - given);
        }
        if given > 0 {
            tracing::debug!(pool = self.id, bytes = given, "given up by caches");
        }
        given
    }

    /// Addresses of the pool: the first, and how many.
    pub fn addresses(&self) -> (usize, u64) {
        (self.table.base(), self.table.bytes())
    }

    /// What the live block at `address` is.
    pub fn extent(&self, address: usize) -> Result<Extent> {
        self.check_open()?;
        if let Some((requested, allocated)) = self.planned_extent(address) {
            return Ok(Extent { requested, allocated });
        }
        let block = self.live_block(address)?;
        let head = block.head();
        Ok(Extent { requested: head.requested(block.index), allocated: head.size() })
    }

    /// Whether what is queued on `stream` is done as soon as it was called.
    pub fn is_immediate(&self, stream: Stream) -> bool {
        self.order.is_immediate(stream)
    }

    /// The fence behind what is queued on `stream` so far; an error when there is no such stream.
    pub fn mark(&self, stream: Stream) -> Result<Fence> {
        self.check_open()?;
        // Where streams are checked, once for each thread that meets one.
        if self.slot_for(stream)?.is_none() {
            self.order.check(stream)?;
        }
        let stream = self.order.name(stream);
        Ok(Fence { stream, sequence: self.order.mark(stream) })
    }

    /// Whether `fence` is known to have passed. Asks no driver.
    pub fn has_passed(&self, fence: Fence) -> bool {
        self.order.passed(fence.stream) >= fence.sequence
    }

    /// The least sequence number of a fence on the stream that has this handle now: which of
    /// those it is that had the handle, one after the other.
    pub fn began(&self, stream: Stream) -> u64 {
        self.order.began(self.order.name(stream))
    }

    /// Makes what is queued on `stream` from now on wait for `fences`, on the device where that
    /// can be; where not, the caller waits. `stream` was given to [`Pool::mark`] before.
    pub fn wait_on(&self, stream: Stream, fences: &[Fence]) -> Result<()> {
        let stream = self.order.name(stream);
        for &fence in fences {
            if self.has_passed(fence) || self.is_own(stream, self.began(stream), fence) {
                continue;
            }
            let waits = !self.order.is_immediate(stream) && self.order.make_wait(stream, fence);
            if !waits && !self.order.wait(fence) {
                return Err(fail!(
                    InvalidState,
                    "stream {:#x} cannot wait for stream {:#x}, which was made before fork(), or \
                     whose work this is",
                    stream.0,
                    fence.stream.0
                ));
            }
        }
        Ok(())
    }

    /// Whether what is queued on `stream`, which began with `began`, is behind `fence` anyway.
    fn is_own(&self, stream: Stream, began: u64, fence: Fence) -> bool {
        stream == fence.stream && fence.sequence >= began
    }

    /// Frees the block at `address`, whose uses are behind `fences`: on `home`, whose [`Pool::began`]
    /// was `began`, when that stream is still there, so that the block is its own again at once.
    pub fn free_behind(
        &self,
        address: usize,
        (home, began): (Stream, u64),
        fences: &[Fence],
    ) -> Result<()> {
        if fences.is_empty() && self.order.is_immediate(home) {
            return self.free(address, home);
        }
        self.check_open()?;
        let there = self.began(home) == began;
        for &fence in fences {
            let own = there && self.is_own(home, began, fence);
            if !own && !self.has_passed(fence) {
                self.record_fence(address, fence)?;
            }
        }
        if there && self.free(address, home).is_ok() {
            return Ok(());
        }
        // Of a stream that is gone, nothing is its own any more.
        self.follow(address, fences)?;
        self.free(address, Stream::DEFAULT)
    }

    /// Notes that the live block at `address` is not to be used again, once it is freed, before
    /// `fences` have passed.
    pub fn follow(&self, address: usize, fences: &[Fence]) -> Result<()> {
        for &fence in fences {
            if !self.has_passed(fence) {
                self.record_fence(address, fence)?;
            }
        }
        Ok(())
    }

    /// Notes that the live block at `address` is not to be used again, once it is freed, before
    /// `fence` has passed.
    fn record_fence(&self, address: usize, fence: Fence) -> Result<()> {
        if self.follow_planned(address, None, Some(fence)) {
            return Ok(());
        }
        let block = self.live_block(address)?;
        // Before the word says so, because whoever frees it then looks.
        self.core.lock().follow_fence(address, fence);
        self.set_followed(&block, address)
    }
}
