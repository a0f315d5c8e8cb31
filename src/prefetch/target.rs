//! What a prefetcher asks of where batches go.

use std::sync::Arc;

use super::engine::Shared;
use crate::device::cuda::Piece;
use crate::error::Result;
use crate::order::Stream;

/// Where a slot's bytes are. Both addresses are multiples of 4096.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Where threads write to.
    pub staging: usize,
    /// Where consumers find the batch: the same, where no copy is between.
    pub address: usize,
    /// How many there are.
    pub bytes: u64,
}

/// Slots' memory, and the order of streams. No lock of a prefetcher is held across a call. Of one
/// slot one thread calls at a time, but for [`Target::follow`] and [`Target::is_there`].
pub trait Target: Send + Sync + Sized + 'static {
    /// Whether what is staged is read by a device alone, which then copies it: processors' caches
    /// are not for it, and pinned sources need no staging.
    fn is_streaming(&self) -> bool;

    /// Gives a slot that nobody uses memory for `bytes` at least, instead of what it has. With an
    /// error it has what it had.
    fn make_room(&self, slot: usize, bytes: u64) -> Result<Room>;

    /// Waits until the slot's staging memory may be written.
    fn prepare(&self, slot: usize) -> Result<()>;

    /// Brings `pieces` to the slot, behind its last reader.
    ///
    /// # Safety
    /// The bytes are there, and stay as they are until [`Target::is_there`].
    unsafe fn send(&self, slot: usize, pieces: &[Piece]) -> Result<()>;

    /// Makes what is queued on `stream` from now on wait for what was sent.
    fn follow(&self, slot: usize, stream: Stream) -> Result<()>;

    /// Whether what was sent has arrived. Does not wait.
    fn is_there(&self, slot: usize) -> Result<bool>;

    /// Waits until what was sent has arrived, or never will.
    fn wait(&self, slot: usize) -> Result<()>;

    /// The slot's reader is done with what is queued on `stream` by now: `over` is run once the
    /// slot may be used for the next batch, which may be before this returns. With an error it is
    /// not run.
    fn leave(&self, slot: usize, stream: Stream, over: Over<Self>) -> Result<()>;

    /// Gives everything back but the blocks of the slots in `kept`, which somebody still reads.
    /// Called once, as the last call.
    fn close(&self, kept: &[usize]) -> Result<()>;

    /// Bytes of pinned memory that there are, and of other memory that stands in for it.
    fn staging_bytes(&self) -> (u64, u64);
}

/// Says that a slot may be used again.
pub struct Over<T: Target> {
    pub(super) shared: Arc<Shared<T>>,
    pub(super) slot: usize,
}

impl<T: Target> Over<T> {
    /// Says so.
    pub fn run(self) {
        self.shared.free_after_reader(self.slot);
    }
}
