//! Streams, fences and events: who may reuse what, and when.
//!
//! A stream runs its work in order. A fence names a point in that order: a stream and a
//! sequence number; it is passed once the work that was queued before it is done. The pool
//! asks of it what is in [`Order`]; [`HostOrder`] answers for system memory, [`CudaOrder`] for
//! a GPU.

mod cuda;
mod fence;
pub mod host_stream;

pub use cuda::CudaOrder;
pub use fence::Fence;
pub use host_stream::{HostOrder, HostStream, Job};

use crate::error::Result;

/// A stream by its handle. Zero is the default stream: on the host that is the calling
/// thread itself, whose work is done when its call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream(pub u64);

impl Stream {
    /// The default stream.
    pub const DEFAULT: Stream = Stream(0);
}

/// What the pool has to know of streams. [`Order::is_immediate`], [`Order::name`],
/// [`Order::mark`], [`Order::mark_all`] and [`Order::passed`] never ask the system and may be called under a lock; the others may, and
/// are called without. None waits for a stream but [`Order::wait`],
/// [`Order::wait_for_all`] and [`Order::recover`], and [`Order::check`] where a stream was
/// destroyed without [`Order::forget`].
pub trait Order: Send + Sync {
    /// An error when there is no such stream.
    fn check(&self, stream: Stream) -> Result<()>;

    /// Whether everything on `stream` is done as soon as it was called, so that it never
    /// has to be waited for.
    fn is_immediate(&self, stream: Stream) -> bool;

    /// The fence behind everything that was queued on `stream` so far, as its sequence
    /// number.
    fn mark(&self, stream: Stream) -> u64;

    /// The sequence number up to which `stream` is done. A stream that was destroyed is done
    /// with everything.
    fn passed(&self, stream: Stream) -> u64;

    /// The one name of a stream that goes by several.
    fn name(&self, stream: Stream) -> Stream {
        stream
    }

    /// Fences behind everything that was queued so far, on all streams that were checked.
    fn mark_all(&self) -> Vec<Fence> {
        Vec::new()
    }

    /// Asks the system how far streams are, for [`Order::passed`] to know.
    fn refresh(&self) {}

    /// Whether streams can capture what is queued on them as a graph, instead of running it.
    fn can_capture(&self) -> bool {
        false
    }

    /// The number of the capture that `stream` takes part in, if it does.
    fn capture(&self, stream: Stream) -> Result<Option<u64>> {
        let _ = stream;
        Ok(None)
    }

    /// The least sequence number of a fence on the stream that has this handle now. Those below are
    /// of streams that had it before, whose order is another one. The largest number when there is
    /// no such stream any more.
    fn began(&self, stream: Stream) -> u64 {
        let _ = stream;
        0
    }

    /// As [`Order::refresh`], and finds out about streams that were destroyed without
    /// [`Order::forget`]: if there are any, it waits for everything on the device.
    fn recover(&self) {}

    /// `stream` is about to be destroyed. Fences that were taken on it still pass; its handle
    /// may then be that of a new stream, which has to be checked. An error when it cannot be
    /// destroyed now.
    fn forget(&self, stream: Stream) -> Result<()> {
        let _ = stream;
        Ok(())
    }

    /// Makes what is queued on `stream` from now on wait for `fence`. False when this stream
    /// cannot be made to wait other than by stopping the caller.
    fn make_wait(&self, stream: Stream, fence: Fence) -> bool;

    /// Stops the calling thread until `fence` is passed. False when it never will be.
    fn wait(&self, fence: Fence) -> bool;

    /// Stops the calling thread until everything is done that was queued so far, on whichever
    /// stream.
    fn wait_for_all(&self) -> Result<()>;
}
