//! What a program that loads this as its driver can ask for beside the driver's functions.

use std::ffi::{CStr, c_char};

use super::take;
use crate::code::{Code, ERROR_INVALID_VALUE};

/// An address and bytes from there.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// First byte.
    pub address: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Queues a kernel, as [`crate::launch`]; `fill` below 0 is none.
///
/// # Safety
///
/// `name` is a string, and the ranges are as many as their counts say.
#[unsafe(no_mangle)]
#[allow(non_snake_case, clippy::too_many_arguments)]
pub unsafe extern "C" fn simLaunch(
    stream: u64,
    name: *const c_char,
    reads: *const Range,
    read_count: usize,
    writes: *const Range,
    write_count: usize,
    ns: u64,
    fill: i32,
) -> Code {
    let ranges = |from: *const Range, count: usize| {
        (0..count)
            .map(|n| take(from.wrapping_add(n)).map(|range| (range.address, range.bytes)))
            .collect::<Result<Vec<_>, _>>()
    };
    let (Ok(reads), Ok(writes)) = (ranges(reads, read_count), ranges(writes, write_count)) else {
        return ERROR_INVALID_VALUE;
    };
    if name.is_null() {
        return ERROR_INVALID_VALUE;
    }
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    crate::launch(stream, &name, &reads, &writes, ns, u8::try_from(fill).ok())
}

/// The context that is current to this thread, 0 for none. No call: it is neither counted nor logged,
/// and takes no lock.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn simCurrentContext() -> u64 {
    crate::context::current()
}

/// Moves the clock by `ns`.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn simAdvance(ns: u64) {
    crate::advance(ns);
}

/// How many hazards were found; they are written to standard error and forgotten.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn simHazards() -> usize {
    let found = crate::take_hazards();
    for hazard in &found {
        eprintln!("{hazard}");
    }
    found.len()
}
