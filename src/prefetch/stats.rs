//! Numbers of a prefetcher.

/// What a prefetcher has, and what happened so far. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Slots.
    pub slots: u64,
    /// Of them, those in use.
    pub used_slots: u64,
    /// Bytes of the slots that consumers see.
    pub slot_bytes: u64,
    /// Bytes of pinned memory for staging, now and at most.
    pub pinned_bytes: u64,
    /// See `pinned_bytes`.
    pub pinned_peak: u64,
    /// Bytes of staging memory that is not pinned, because the limit or the system did not allow it.
    pub pageable_bytes: u64,
    /// Batches that were submitted.
    pub submitted: u64,
    /// Bytes of their leaves, and what is between them in a slot.
    pub submitted_bytes: u64,
    /// Bytes of them that threads copied or read.
    pub staged_bytes: u64,
    /// Batches that a consumer got.
    pub delivered: u64,
    /// Of them, those that were not staged yet when they were waited for.
    pub late: u64,
    /// Batches that were called off.
    pub cancelled: u64,
    /// Batches that could not be staged or sent.
    pub failed: u64,
    /// Copies that a device was told to make.
    pub sends: u64,
    /// Slots that became larger.
    pub grown: u64,
    /// How long producers waited for a slot.
    pub submit_wait_ns: u64,
    /// How long consumers waited for a batch to be staged.
    pub wait_ns: u64,
    /// How long threads copied and read, all together.
    pub stage_ns: u64,
    /// How long threads waited for a device to be done with staging memory.
    pub drain_ns: u64,
}
