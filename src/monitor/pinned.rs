//! Memory that forebay itself has pinned for devices.
//!
//! It is resident, and so is charged to the machine and to control groups as any other memory is:
//! what is left does not have it twice. It is told apart since no reclaim and no swap frees it.

use std::sync::atomic::{AtomicU64, Ordering};

static BYTES: AtomicU64 = AtomicU64::new(0);

/// Counts memory that was pinned.
pub fn pinned(bytes: u64) {
    BYTES.fetch_add(bytes, Ordering::Relaxed);
}

/// Counts memory that is no longer pinned.
pub fn unpinned(bytes: u64) {
    // Never below zero: a forked child may end what its parent pinned.
    let _ = BYTES
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| Some(all.saturating_sub(bytes)));
}

/// Forgets all of it: a forked child has none of its parent's.
pub fn pinned_are_lost() {
    BYTES.store(0, Ordering::Relaxed);
}

/// Bytes that are pinned now.
pub(super) fn bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}
