//! The two functions of the global way.

use std::ffi::{CStr, c_int, c_void};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::device;
use super::hooks;
use super::message;
use super::observer::{Happening, tell};
use super::throw::{Exception, TEXT_MAX, throw};
use crate::error::{Error, Kind, Result, fail};
use crate::order::Stream;

/// The stream that PyTorch names.
pub(super) fn stream_of(stream: *mut c_void) -> Stream {
    Stream(stream as u64)
}

/// A text to be thrown, on the stack: nothing may have to be dropped when it is.
pub(super) struct Thrown {
    what: Exception,
    text: [u8; TEXT_MAX + 1],
}

impl Thrown {
    pub(super) fn new(what: Exception, text: &str) -> Thrown {
        let mut bytes = [0; TEXT_MAX + 1];
        let end = text.floor_char_boundary(TEXT_MAX);
        bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        Thrown { what, text: bytes }
    }

    pub(super) fn of(error: Error) -> Thrown {
        let what = match error.kind() {
            Kind::OutOfMemory => Exception::OutOfMemory,
            _ => Exception::Error,
        };
        Thrown::new(what, &format!("forebay: {}", error.message()))
    }

    /// Throws it; returns where the process has no C++.
    pub(super) fn throw(&self) {
        throw(self.what, CStr::from_bytes_until_nul(&self.text).unwrap_or(c"forebay"));
    }
}

/// A complaint that has nobody to be thrown at.
#[cold]
pub(super) fn complain(what: &str, error: Error) {
    let text = error.message();
    tracing::error!(%what, %text, "PyTorch's door");
    let _ = writeln!(std::io::stderr(), "forebay: {what}: {text}");
}

/// Runs `body`; a panic becomes an error, and poisons the device's pool.
#[inline(always)]
pub(super) fn caught<T>(device: c_int, body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(poison(device)))
}

#[cold]
fn poison(device: c_int) -> Error {
    if let Some(gpu) = device::ready(device) {
        gpu.pool.poison();
    }
    fail!(Internal, "a defect of forebay; its pool answers nothing any more")
}

/// Allocates `size` bytes on the device with the number `device` for use on `stream`, in the
/// way that `torch.cuda.memory.CUDAPluggableAllocator` wants it: to be named to it together
/// with `forebay_torch_free`. The pool is made at the first call, with the limit and the policy
/// of `forebay_torch_configure`, or of `FOREBAY_TORCH_LIMIT` and `FOREBAY_TORCH_POLICY`.
///
/// A size of 0 gets NULL. Without memory it throws `c10::OutOfMemoryError`, which becomes
/// `torch.OutOfMemoryError`; for any other error `c10::Error`, a RuntimeError. A caller in a
/// process without PyTorch gets `std::bad_alloc`, and NULL where there is no C++;
/// `forebay_last_error` has the reason.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn forebay_torch_malloc(
    size: usize,
    device: c_int,
    stream: *mut c_void,
) -> *mut c_void {
    if size == 0 {
        return std::ptr::null_mut();
    }
    let taken = caught(device, || {
        let gpu = device::gpu(device)?;
        hooks::check_hooks(gpu, stream_of(stream))?;
        let address = gpu.pool.alloc(size, stream_of(stream))?;
        gpu.usage.taken(size, gpu.pool.block_bytes(size));
        Ok(address as *mut c_void)
    });
    match taken {
        Ok(ptr) => {
            tell(Happening::Alloc, ptr, size, device, stream);
            ptr
        }
        Err(error) => refuse(error, size, device, stream),
    }
}

/// Throws why there was no memory.
#[cold]
#[inline(never)]
fn refuse(error: Error, size: usize, device: c_int, stream: *mut c_void) -> *mut c_void {
    let thrown = match device::ready(device) {
        Some(gpu) if error.kind() == Kind::OutOfMemory => {
            tell(Happening::OutOfMemory, std::ptr::null_mut(), size, device, stream);
            Thrown::new(Exception::OutOfMemory, &message::out_of_memory(gpu, size))
        }
        _ => Thrown::of(error),
    };
    thrown.throw();
    std::ptr::null_mut()
}

/// Takes back what `forebay_torch_malloc` gave; `size`, `device` and `stream` are those of that
/// call. NULL is fine. Never throws: what is not ours is reported on the standard error, counted,
/// and left alone.
///
/// # Safety
/// Work queued on `stream`, and on streams that were recorded, is the last to use the memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_torch_free(
    ptr: *mut c_void,
    size: usize,
    device: c_int,
    stream: *mut c_void,
) {
    if ptr.is_null() {
        return;
    }
    tell(Happening::Free, ptr, size, device, stream);
    let freed = caught(device, || {
        let gpu = device::gpu(device)?;
        gpu.pool.free(ptr as usize, stream_of(stream))?;
        gpu.usage.freed(size, gpu.pool.block_bytes(size));
        Ok(())
    });
    if let Err(error) = freed
        // What a forked child inherits and lets go of is its parent's still.
        && !device::ready(device).is_some_and(|gpu| gpu.pool.is_of_parent())
    {
        complain("forebay_torch_free", error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        let error = caught(-1, || -> Result<()> { panic!("on purpose") }).unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        assert!(error.message().contains("a defect of forebay"));
    }

    #[test]
    fn what_is_thrown_is_cut_at_a_character() {
        let thrown = Thrown::new(Exception::Error, &"\u{fc}".repeat(TEXT_MAX));
        let text = CStr::from_bytes_until_nul(&thrown.text).unwrap().to_str().unwrap();
        assert_eq!(text.len(), TEXT_MAX - 1);
    }
}
