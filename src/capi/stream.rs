//! Streams and fences on the host.

use std::ffi::c_void;

use super::guard::{User, guard, out};
use super::status::forebay_status;
use crate::error::fail;
use crate::order::{Fence, HostOrder, HostStream, Order, Stream};

/// What a stream handle points to. Opaque; there is nothing to see.
#[allow(non_camel_case_types)]
pub struct forebay_stream_object {
    _private: [u8; 0],
}

/// A stream: a queue of work that is done in order. For host pools one comes from
/// `forebay_stream_create`; for cuda pools it is a `CUstream`. NULL is the default stream: on
/// the host that is the calling thread itself, whose work is done when its call returns.
/// A handle is a value: copying it copies nothing, and none is given twice. One of a destroyed
/// stream is refused, but for alloc and free by a thread that used it before: for them it is
/// a stream without work.
#[allow(non_camel_case_types)]
pub type forebay_stream = *mut forebay_stream_object;

/// Work for a stream. Called once, on the stream's own thread, with the pointer it was
/// queued with; must not throw.
#[allow(non_camel_case_types)]
pub type forebay_stream_fn = Option<unsafe extern "C" fn(user: *mut c_void)>;

/// A point in a stream's order: passed once everything queued before it is done. A plain
/// value; there is nothing to release.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct forebay_fence {
    /// The stream's handle as a number.
    pub stream: u64,
    /// How many pieces of work have to be done on it.
    pub sequence: u64,
}

/// The stream behind a handle.
#[inline(always)]
pub fn stream_of(handle: forebay_stream) -> Stream {
    Stream(handle as u64)
}

fn fence_of(fence: forebay_fence) -> Fence {
    Fence { stream: Stream(fence.stream), sequence: fence.sequence }
}

/// Makes a stream on the host, with a thread of its own, and writes its handle to `*out`.
/// End it with `forebay_stream_destroy`.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL), `FOREBAY_ERROR_OUT_OF_MEMORY` (no
/// thread to be had).
///
/// # Safety
/// `out` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_stream_create(out: *mut forebay_stream) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        // A pool does this too, but a stream may come first.
        crate::pool::prepare_for_forks();
        *out = HostStream::create()?.handle().0 as forebay_stream;
        Ok(())
    })
}

/// Does what is queued on `stream`, then ends it. NULL is fine: nothing happens. Blocks that
/// were freed on it are free for everybody afterwards.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (not a stream, or destroyed before),
/// `FOREBAY_ERROR_INVALID_STATE` (called by work on that very stream).
#[unsafe(no_mangle)]
pub extern "C" fn forebay_stream_destroy(stream: forebay_stream) -> forebay_status {
    guard(|| {
        if stream.is_null() {
            return Ok(());
        }
        HostStream::find(stream_of(stream))?.destroy()
    })
}

/// Queues `work(user)` on `stream`, behind everything queued before. `user` stays the
/// caller's and must be valid until the work is done. On NULL, the calling thread, the work
/// is done before this returns.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`work` is NULL, not a stream),
/// `FOREBAY_ERROR_INVALID_STATE` (the stream is being destroyed, or was made before a fork).
///
/// # Safety
/// `work` may be called with `user`, once, from another thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_stream_submit(
    stream: forebay_stream,
    work: forebay_stream_fn,
    user: *mut c_void,
) -> forebay_status {
    guard(|| {
        let Some(work) = work else {
            return Err(fail!(InvalidArgument, "work is NULL; it must be a function"));
        };
        let user = User(user);
        let job = move || {
            let User(user) = { user };
            // SAFETY: the caller's promise.
            unsafe { work(user) };
        };
        if stream.is_null() {
            job();
            return Ok(());
        }
        HostStream::find(stream_of(stream))?.submit(Box::new(job))
    })
}

/// Waits until everything that was queued on `stream` before this call is done.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (not a stream), `FOREBAY_ERROR_INVALID_STATE` (made
/// before a fork, in whose child its thread is missing).
#[unsafe(no_mangle)]
pub extern "C" fn forebay_stream_synchronize(stream: forebay_stream) -> forebay_status {
    guard(|| {
        if stream.is_null() {
            return Ok(());
        }
        let stream = HostStream::find(stream_of(stream))?;
        let fence = stream.record();
        wait(fence)
    })
}

/// Writes the fence behind everything queued on `stream` so far to `*out`.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL, not a stream).
///
/// # Safety
/// `out` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_stream_record(
    stream: forebay_stream,
    out: *mut forebay_fence,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        let fence = match stream_of(stream) {
            Stream::DEFAULT => Fence { stream: Stream::DEFAULT, sequence: 0 },
            stream => HostStream::find(stream)?.record(),
        };
        *out = forebay_fence { stream: fence.stream.0, sequence: fence.sequence };
        Ok(())
    })
}

/// Makes what is queued on `stream` from now on wait until `fence` is passed. On NULL, the
/// calling thread, it waits before this returns.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (not a stream), `FOREBAY_ERROR_INVALID_STATE` (the
/// stream is being destroyed, or was made before a fork).
#[unsafe(no_mangle)]
pub extern "C" fn forebay_stream_wait(
    stream: forebay_stream,
    fence: forebay_fence,
) -> forebay_status {
    guard(|| {
        let fence = fence_of(fence);
        HostOrder::query(fence)?;
        if stream.is_null() {
            return wait(fence);
        }
        HostStream::find(stream_of(stream))?.wait_for(fence)
    })
}

/// Writes 1 to `*passed` when `fence` is passed, else 0. Does not wait. The fences of a
/// destroyed stream are passed.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`passed` is NULL, the fence is of no stream).
///
/// # Safety
/// `passed` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_fence_query(
    fence: forebay_fence,
    passed: *mut i32,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let passed = unsafe { out(passed, "passed")? };
        *passed = i32::from(HostOrder::query(fence_of(fence))?);
        Ok(())
    })
}

/// Waits until `fence` is passed.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (the fence is of no stream),
/// `FOREBAY_ERROR_INVALID_STATE` (its stream was made before a fork, in whose child its thread is
/// missing).
#[unsafe(no_mangle)]
pub extern "C" fn forebay_fence_wait(fence: forebay_fence) -> forebay_status {
    guard(|| {
        HostOrder::query(fence_of(fence))?;
        wait(fence_of(fence))
    })
}

fn wait(fence: Fence) -> crate::error::Result<()> {
    if HostOrder.wait(fence) {
        return Ok(());
    }
    Err(fail!(
        InvalidState,
        "stream {:#x} was made before fork(); its thread, and the work it had queued, is in the \
         parent",
        fence.stream.0
    ))
}
