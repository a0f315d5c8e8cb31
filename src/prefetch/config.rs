//! What a prefetcher is made from.

use crate::error::{Result, fail};
use crate::pool::SIZE_MAX;

/// Most slots of a prefetcher.
pub const SLOTS_MAX: u32 = 64;

/// Slots where nothing is said: two batches ahead. More rarely help, and cost memory: PyTorch's
/// FSDP found the same for its rate limiter (pytorch/pytorch#83917).
pub const SLOTS_DEFAULT: u32 = 3;

/// Most copy threads.
pub const THREADS_MAX: u32 = 64;

/// Copy threads where nothing is said.
pub const THREADS_DEFAULT: u32 = 2;

/// What a prefetcher is made from.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Slots: the batches that it is ahead, and the one that is worked on.
    pub slots: u32,
    /// Threads that copy and read. 0: whoever submits does it.
    pub copy_threads: u32,
    /// Bytes of a slot at first; 0: nothing is taken before there is a batch.
    pub slot_bytes: u64,
    /// Bytes that a slot grows to when a batch is larger; 0 is `slot_bytes` or, if that is 0 too,
    /// no limit but the pool's.
    pub max_slot_bytes: u64,
    /// Most bytes of pinned memory; what is over is staged in memory that is not. 0: a quarter of
    /// what the process may have of the system's, in a container what that allows.
    pub max_pinned_bytes: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            slots: SLOTS_DEFAULT,
            copy_threads: THREADS_DEFAULT,
            slot_bytes: 0,
            max_slot_bytes: 0,
            max_pinned_bytes: 0,
        }
    }
}

impl Config {
    /// The error that names what cannot be.
    pub(super) fn check(&self) -> Result<()> {
        let Config { slots, copy_threads, slot_bytes, max_slot_bytes, .. } = *self;
        if slots == 0 || slots > SLOTS_MAX {
            return Err(fail!(InvalidArgument, "slots is {slots}; it must be 1 to {SLOTS_MAX}"));
        }
        if copy_threads > THREADS_MAX {
            return Err(fail!(
                InvalidArgument,
                "copy_threads is {copy_threads}; the limit is {THREADS_MAX}"
            ));
        }
        for (name, bytes) in [("slot_bytes", slot_bytes), ("max_slot_bytes", max_slot_bytes)] {
            if bytes > SIZE_MAX {
                return Err(fail!(InvalidArgument, "{name} is {bytes}; the limit is {SIZE_MAX}"));
            }
        }
        if max_slot_bytes != 0 && max_slot_bytes < slot_bytes {
            return Err(fail!(
                InvalidArgument,
                "max_slot_bytes is {max_slot_bytes}, less than slot_bytes, {slot_bytes}"
            ));
        }
        Ok(())
    }

    /// Most bytes of a batch.
    pub(super) fn batch_most(&self) -> u64 {
        match (self.max_slot_bytes, self.slot_bytes) {
            (0, 0) => SIZE_MAX,
            (0, bytes) => bytes,
            (most, _) => most,
        }
    }
}
