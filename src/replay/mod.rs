//! Replays a trace into an allocator and measures what its calls cost.
//!
//! A [`Plan`] is made first: pointers become dense slots, streams become handles, and rows
//! that make no sense are found. The timed part is then indexing, the calls, and, when
//! asked for, touching the memory.

mod plan;
mod pool_target;
mod run;
mod system_malloc;
mod timeline;
mod usage;

pub use plan::Plan;
pub use system_malloc::SystemMalloc;
pub(crate) use timeline::Blocks;

use crate::error::Result;
use crate::trace::{Faults, Trace};

/// What a trace is replayed into.
///
/// # Safety
/// A block returned by `alloc` has at least `size` bytes, which stay valid, and belong to
/// nobody else, until it is freed. When `cpu_writable` is true, any thread may write them.
pub unsafe trait Target: Sync {
    /// Gives out a block of `size` bytes in the order of `stream`. Never null.
    ///
    /// # Errors
    /// Any: the replay counts a failed allocation and goes on.
    fn alloc(&self, size: usize, stream: usize) -> Result<*mut u8>;

    /// Takes a block back in the order of `stream`.
    ///
    /// # Errors
    /// Any: the replay ends with it.
    ///
    /// # Safety
    /// `ptr` came from `alloc` of this target and was not freed since.
    unsafe fn free(&self, ptr: *mut u8, stream: usize) -> Result<()>;

    /// Whether the CPU can write to the blocks. Asked once, before a replay that touches.
    fn cpu_writable(&self) -> bool;
}

/// How a trace is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Write one byte in every 4096 of each block, and its last byte.
    pub touch: bool,
    /// One thread per thread number of the trace, at most [`Plan::MAX_THREADS`], which take
    /// turns so that the calls keep the trace's order. Otherwise the calling thread does
    /// everything.
    pub threads: bool,
    /// How often the whole trace is replayed; at least 1. Blocks live at the end of one
    /// round are freed before the next, outside the measurement.
    pub repeat: u32,
}

impl Default for Options {
    /// Once, on the calling thread, without touching.
    fn default() -> Options {
        Options { touch: false, threads: false, repeat: 1 }
    }
}

/// What a replay did and cost. Counts and costs are sums over all rounds.
///
/// The blocks that are live at the end of each round are freed without being counted or
/// measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows of the trace.
    pub events: u64,
    /// Blocks the target gave out.
    pub allocations: u64,
    /// Blocks given back by rows of the trace.
    pub frees: u64,
    /// Allocations the target refused. The frees of these blocks are skipped.
    pub failed_allocations: u64,
    /// Rows in which the trace itself says that an allocation failed. They are skipped.
    pub recorded_failures: u64,
    /// The first refused allocation: its line, and the target's message.
    pub first_failure: Option<(u64, String)>,
    /// Blocks live at the end of the last round.
    pub live_at_end: u64,
    /// The most bytes that were requested and live at one time, by the trace itself.
    pub peak_requested: u64,
    /// CPU time of the replaying threads inside the target's calls, touching and the loop
    /// around them, in nanoseconds: the sum of `rounds`. With `threads`, the wait for the
    /// turn is not in it, but what a thread finds cold after the wait is: compare targets
    /// with each other, not with a replay on one thread.
    pub nanoseconds: u64,
    /// The same, round by round.
    pub rounds: Vec<u64>,
    /// Page faults served without reading from a disk, in the measured part.
    pub minor_faults: u64,
    /// Page faults that had to read from a disk, in the measured part.
    pub major_faults: u64,
    /// Rows that make no sense, of the trace itself: see [`crate::trace::Checker`]. They
    /// are skipped, but for frees that merely give another size.
    pub faults: Faults,
}

/// Replays `trace` into `target`. `streams` is called once for each stream number of the
/// trace, in order of appearance, and returns the target's handle for it.
///
/// # Errors
/// `InvalidArgument` when `options` are outside their limits, `Unsupported` when blocks the
/// CPU cannot write are to be touched, the target's own when it refuses to free a block,
/// `OutOfMemory` when a thread cannot be started.
pub fn replay<T: Target + ?Sized>(
    trace: &Trace,
    target: &T,
    options: &Options,
    streams: impl FnMut(u64) -> usize,
) -> Result<Report> {
    Plan::new(trace, streams).run(target, options)
}
