//! Prefetch: batches are in front of who works on them before they are asked for, in bounded
//! memory.
//!
//! A prefetcher has a few slots, one more than the batches it is ahead. A producer submits a
//! batch: bytes in memory or ranges of files, the leaves of what a loader gave. Copy threads
//! pack them into a slot's staging memory, pinned where the pool is on a GPU; from there one
//! copy takes them to the slot on the device, on a stream that does nothing else. A consumer
//! waits for the batch with a stream of its own: what is queued there from then on runs behind
//! that copy. Releasing the batch puts a mark behind the consumer's last work, and the next copy
//! into that slot waits for it on the device. On the host the slot is written to directly.
//!
//! Memory is what the slots have, taken once; who submits while all are in use waits, or is told
//! to come again. The host waits for a device in one place alone: a copy thread, before it
//! writes to pinned memory that an earlier copy may still read.
//!
//! [`engine`] is the protocol, under one lock that is held for a few dozen instructions; what a
//! slot's memory is, and how streams wait, says a [`target`].

mod config;
mod copy;
mod engine;
mod file;
#[cfg(test)]
mod hazard_tests;
mod over_cuda;
mod over_host;
mod over_pool;
mod slot;
mod source;
mod stats;
mod sync;
mod target;

pub use config::{Config, SLOTS_DEFAULT, SLOTS_MAX, THREADS_DEFAULT, THREADS_MAX};
pub use engine::{Batch, Lent, Prefetcher, Progress};
pub use over_pool::OnPool;
pub use source::{ALIGNMENT, DIRECT_ALIGNMENT, LEAVES_MAX, Leaf, Source};
pub use stats::Stats;
pub use target::{Over, Room, Target};
