//! Fences.

use super::Stream;

/// A point in a stream's order: passed once everything queued before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The stream.
    pub stream: Stream,
    /// How many pieces of work have to be done on it.
    pub sequence: u64,
}
