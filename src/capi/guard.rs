//! The panic guard, and the checks that every noun shares.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use super::status::forebay_status;
use crate::error::{Result, fail};

/// Runs `body`; nothing it throws crosses the boundary.
#[inline(always)]
pub fn guard(body: impl FnOnce() -> Result<()>) -> forebay_status {
    guard_or(body, || ())
}

/// As [`guard`]; a panic calls `panicked` besides.
#[inline(always)]
pub fn guard_or(body: impl FnOnce() -> Result<()>, panicked: impl FnOnce()) -> forebay_status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => forebay_status::ForebayOk,
        Ok(Err(error)) => error.into(),
        Err(panic) => {
            panicked();
            report(panic).into()
        }
    }
}

#[cold]
#[inline(never)]
fn report(panic: Box<dyn std::any::Any + Send>) -> crate::error::Error {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => "a panic without a message",
    };
    tracing::error!(panic = text, "a panic was caught at the C boundary");
    fail!(Internal, "a defect of forebay: {text}")
}

/// The place for a result, or the error that names it.
///
/// # Safety
/// `out` is NULL or valid for writing a `T`.
#[inline(always)]
pub unsafe fn out<'a, T>(out: *mut T, name: &str) -> Result<&'a mut T> {
    // SAFETY: the caller's promise.
    match unsafe { out.as_mut() } {
        Some(out) => Ok(out),
        None => {
            Err(fail!(InvalidArgument, "{name} is NULL; it must point to where the result goes"))
        }
    }
}

/// A path given as a C string.
///
/// # Safety
/// `path` is NULL or a string that ends with a NUL.
pub unsafe fn path(path: *const c_char) -> Result<PathBuf> {
    // SAFETY: the caller's promise.
    unsafe { path_named(path, "path") }
}

/// A path given as a C string, which is called `name` in messages.
///
/// # Safety
/// As [`path`].
pub unsafe fn path_named(path: *const c_char, name: &str) -> Result<PathBuf> {
    if path.is_null() {
        return Err(fail!(
            InvalidArgument,
            "{name} is NULL; it must be a string that ends with a NUL"
        ));
    }
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr(path) }.to_bytes();
    if bytes.is_empty() {
        return Err(fail!(InvalidArgument, "{name} is empty"));
    }
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(bytes)))
}

/// A public struct that begins with its size, as the caller knows it.
///
/// # Safety
/// The type is `repr(C)`, its first field is a `usize` that says how many bytes it has, any
/// bytes are a valid value of it, and so are all zeros.
pub unsafe trait PublicStruct: Copy {
    /// Bytes that it had in the first release that had it.
    const FIRST: usize;
    /// Its name in C.
    const NAME: &'static str;
}

/// Reads a struct of whatever release: what the caller's lacks is zero; what ours lacks must
/// be zero there.
///
/// # Safety
/// `from` points to a `T` of some release, whose first field is its size.
pub unsafe fn read_sized<T: PublicStruct>(from: *const T) -> Result<T> {
    // SAFETY: the caller's promise; every release has the size first.
    let size = unsafe { checked_size(from)? };
    let ours = size_of::<T>();
    let bytes = from.cast::<u8>();
    for at in ours..size {
        // SAFETY: inside the caller's struct, by its own word.
        if unsafe { bytes.add(at).read() } != 0 {
            return Err(fail!(
                InvalidArgument,
                "{}: byte {at} of struct_size {size} is not zero; this library knows {ours} bytes",
                T::NAME
            ));
        }
    }
    // SAFETY: all zeros are a value of `T`, and so is any prefix copied over them.
    unsafe {
        let mut value: T = std::mem::zeroed();
        std::ptr::copy_nonoverlapping(bytes, (&raw mut value).cast::<u8>(), size.min(ours));
        Ok(value)
    }
}

/// The error for a struct that [`write_sized`] would refuse, before there is anything to write:
/// a call that fails for it must not have done its work.
///
/// # Safety
/// `to` is NULL or points to a `T` of some release, whose first field is its size.
pub unsafe fn check_sized<T: PublicStruct>(to: *const T) -> Result<()> {
    if !to.is_null() {
        // SAFETY: the caller's promise.
        unsafe { checked_size(to)? };
    }
    Ok(())
}

/// Writes as much of `value` as the caller's struct has; what ours lacks becomes zero. The
/// caller's size stays.
///
/// # Safety
/// `to` points to a `T` of some release, whose first field is its size.
pub unsafe fn write_sized<T: PublicStruct>(to: *mut T, value: &T) -> Result<()> {
    // SAFETY: the caller's promise; every release has the size first.
    let size = unsafe { checked_size(to)? };
    let ours = size_of::<T>();
    let word = size_of::<usize>();
    // SAFETY: inside the caller's struct, by its own word, and inside ours.
    unsafe {
        let (from, to) = ((&raw const *value).cast::<u8>(), to.cast::<u8>());
        std::ptr::copy_nonoverlapping(from.add(word), to.add(word), size.min(ours) - word);
        if size > ours {
            to.add(ours).write_bytes(0, size - ours);
        }
    }
    Ok(())
}

/// Writes `text` with a NUL behind it to `buffer`, which has `capacity` bytes, and its length to
/// `*length`. `buffer` NULL with `capacity` 0 asks for the length only.
///
/// # Safety
/// `buffer` is NULL or has `capacity` bytes; `length` is NULL or valid for writing.
pub unsafe fn write_text(
    text: &str,
    what: &str,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> Result<()> {
    // SAFETY: the caller's promise.
    if let Some(length) = unsafe { length.as_mut() } {
        *length = text.len();
    }
    if buffer.is_null() && capacity == 0 {
        return Ok(());
    }
    if buffer.is_null() {
        return Err(fail!(InvalidArgument, "buffer is NULL, but capacity is {capacity}"));
    }
    if capacity <= text.len() {
        return Err(fail!(
            InvalidArgument,
            "capacity is {capacity}; the {what} and its NUL need {} bytes",
            text.len() + 1
        ));
    }
    // SAFETY: the caller's promise, and the text and its NUL fit.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast::<u8>(), text.len());
        buffer.add(text.len()).write(0);
    }
    Ok(())
}

/// Larger than any struct will ever be: catches a `struct_size` that was never set.
const SIZE_MAX: usize = 64 << 10;

/// # Safety
/// `at` points to a `T` of some release, whose first field is its size.
unsafe fn checked_size<T: PublicStruct>(at: *const T) -> Result<usize> {
    // SAFETY: the caller's promise.
    let size = unsafe { at.cast::<usize>().read() };
    if !(T::FIRST..=SIZE_MAX).contains(&size) {
        return Err(fail!(
            InvalidArgument,
            "{}.struct_size is {size}; set it to sizeof({}), which is {} here and was {} at \
             first",
            T::NAME,
            T::NAME,
            size_of::<T>(),
            T::FIRST
        ));
    }
    Ok(size)
}

/// A pointer of the caller's that is only passed on to its own functions.
#[derive(Clone, Copy)]
pub struct User(pub *mut c_void);

// SAFETY: forebay never follows it; the functions that get it were promised to be callable
// from any thread.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}
