//! A stream for copies from pinned memory, and marks in streams that say how far they are.
//!
//! A mark is an event that is made once and recorded again and again: what waits for it waits
//! for the newest recording. The fences of `order` are numbers that share events, and cover a
//! little more than what they were taken for; a copy that is waited for on every step has to be
//! waited for alone.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, CUstream, CUstream_flags};

use super::api::{DriverApi, Failure, Outcome};
use super::context::{Context, twice};
use super::is_gone;
use crate::error::{Error, Result, fail};

fn raw(stream: u64) -> CUstream {
    stream as usize as CUstream
}

/// Bytes to be copied to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First byte in system memory.
    pub from: usize,
    /// First byte on the device.
    pub to: usize,
    /// How many.
    pub bytes: usize,
}

/// A point in a stream.
pub struct Mark {
    context: Arc<Context>,
    raw: usize,
}

impl Mark {
    /// A mark that is nowhere yet, and has passed.
    pub fn new(context: &Arc<Context>) -> Result<Mark> {
        let mut raw = null_mut();
        // Who waits for one on the host sleeps.
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING as u32
            | CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
        // SAFETY: a place for the answer.
        context.with(|api| unsafe { api.event_create(&mut raw, flags) })?;
        Ok(Mark { context: Arc::clone(context), raw: raw as usize })
    }

    fn raw(&self) -> CUevent {
        self.raw as CUevent
    }

    /// Puts it behind what is queued on `stream`. With an error it is where it was.
    pub fn record(&self, stream: u64) -> Result<()> {
        self.on(stream, |api| {
            // SAFETY: an event of ours, and a stream that answered just now.
            unsafe { api.event_record(self.raw(), raw(stream)) }
        })
    }

    /// Makes what is queued on `stream` from now on wait for it.
    pub fn hold_back(&self, stream: u64) -> Result<()> {
        self.on(stream, |api| {
            // SAFETY: as above.
            unsafe { api.stream_wait_event(raw(stream), self.raw(), 0) }
        })
    }

    /// A call about a stream of the caller's, which takes no part in a capture: there the call
    /// would become part of a graph, or spoil it.
    fn on(&self, stream: u64, body: impl FnOnce(&DriverApi) -> Outcome) -> Result<()> {
        let answer = self.context.with(|api| {
            let mut status = 0;
            // SAFETY: a stream of the caller's, and a place for the answer.
            match unsafe { api.stream_is_capturing(raw(stream), &mut status) } {
                Ok(()) if status == 0 => body(api).map(|()| None),
                Ok(()) => Ok(Some(Refused::Capturing)),
                Err(failure) if failure.is(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) => {
                    Ok(Some(Refused::Capturing))
                }
                Err(failure) if is_gone(failure) => Ok(Some(Refused::Unknown)),
                Err(failure) => Err(failure),
            }
        })?;
        answer.map_or(Ok(()), |refused| Err(refused.error(stream)))
    }

    /// Whether what is before it is done.
    pub fn has_passed(&self) -> Result<bool> {
        self.context.with(|api| {
            // SAFETY: an event of ours.
            match unsafe { api.event_query(self.raw()) } {
                Ok(()) => Ok(true),
                Err(failure) if failure.is(CUresult::CUDA_ERROR_NOT_READY) => Ok(false),
                Err(failure) => Err(failure),
            }
        })
    }

    /// Stops the calling thread until what is before it is done.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: an event of ours.
        self.context.with(|api| unsafe { api.event_synchronize(self.raw()) })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.context.undo(|api| {
            // SAFETY: an event of ours that nobody has any more.
            let _ = twice(|| unsafe { api.event_destroy(self.raw()) });
        });
    }
}

/// Why nothing was done on a stream.
enum Refused {
    Capturing,
    Unknown,
}

impl Refused {
    #[cold]
    fn error(self, stream: u64) -> Error {
        match self {
            Refused::Capturing => fail!(
                InvalidState,
                "stream {stream:#x} is capturing a graph, which batches cannot be part of: wait \
                 for one, and release it, outside of captures"
            ),
            Refused::Unknown => {
                fail!(InvalidArgument, "stream {stream:#x} is no stream of this device")
            }
        }
    }
}

/// A stream that copies from system memory to the device, beside all others.
pub struct CopyStream {
    context: Arc<Context>,
    raw: usize,
    /// A copy was queued, and the device would not say when it is done.
    lost: AtomicBool,
}

impl CopyStream {
    /// A new one.
    pub fn new(context: &Arc<Context>) -> Result<CopyStream> {
        let mut raw = null_mut();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a place for the answer.
        context.with(|api| unsafe { api.stream_create(&mut raw, flags) })?;
        let lost = AtomicBool::new(false);
        Ok(CopyStream { context: Arc::clone(context), raw: raw as usize, lost })
    }

    /// Its handle, as that of other streams.
    pub fn handle(&self) -> u64 {
        self.raw as u64
    }

    /// Whether copies may be under way that nothing tells the end of.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Queues `pieces`, behind `after` if there is one, and puts `done` behind them. With an error
    /// none of them is under way, unless [`CopyStream::is_lost`].
    ///
    /// # Safety
    /// The device's bytes belong to the caller in the order of this stream behind `after`; those of
    /// the system stay as they are until `done` has passed.
    pub unsafe fn send(&self, after: Option<&Mark>, pieces: &[Piece], done: &Mark) -> Result<()> {
        if self.is_lost() {
            return Err(fail!(
                InvalidState,
                "an earlier copy failed, and the device does not say whether it goes on"
            ));
        }
        self.context.with(|api| {
            let stream = raw(self.handle());
            if let Some(after) = after {
                // SAFETY: an event and a stream of ours.
                unsafe { api.stream_wait_event(stream, after.raw(), 0) }?;
            }
            for (at, piece) in pieces.iter().enumerate() {
                let from = piece.from as *const c_void;
                // SAFETY: the caller's promise.
                unsafe { api.copy_htod_async(piece.to as u64, from, piece.bytes, stream) }
                    .map_err(|failure| self.call_off(api, at > 0, failure))?;
            }
            // SAFETY: an event and a stream of ours.
            unsafe { api.event_record(done.raw(), stream) }
                .map_err(|failure| self.call_off(api, !pieces.is_empty(), failure))
        })
    }

    /// Waits for copies that no mark tells of.
    #[cold]
    fn call_off(&self, api: &DriverApi, queued: bool, failure: Failure) -> Failure {
        // SAFETY: a stream of ours.
        let wait = || unsafe { api.stream_synchronize(raw(self.handle())) };
        if queued && twice(wait).is_err() {
            self.lost.store(true, Ordering::Release);
        }
        failure
    }

    /// Waits for everything on the device.
    pub fn wait_for_device(&self) -> Result<()> {
        // SAFETY: no preconditions.
        self.context.with(|api| twice(|| unsafe { api.context_synchronize() }))
    }
}

impl Drop for CopyStream {
    fn drop(&mut self) {
        self.context.undo(|api| {
            // SAFETY: a stream of ours that nobody has any more; what is queued still runs.
            let _ = twice(|| unsafe { api.stream_destroy(raw(self.handle())) });
        });
    }
}
