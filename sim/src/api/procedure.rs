//! Entry points by name and version.

use std::ffi::{CStr, c_char, c_void};

use super::{entry_points, find as entry, give};
use crate::code::{ERROR_INVALID_VALUE, ERROR_NOT_SUPPORTED};

/// The version of CUDA that brought an entry point, of those that came late.
fn since(name: &str) -> i32 {
    match name {
        "cuMemAllocAsync" | "cuMemFreeAsync" | "cuMemAllocFromPoolAsync" => 11020,
        "cuDeviceGetDefaultMemPool" => 11020,
        "cuStreamGetCaptureInfo_v2" => 11030,
        "cuStreamGetId" | "cuGetProcAddress_v2" => 12000,
        "cuGraphInstantiateWithFlags" => 11040,
        _ if name.starts_with("cuMemPool") => 11020,
        _ if name.contains("UserObject") => 11030,
        _ => 10020,
    }
}

entry_points! {
    fn cuGetProcAddress_v2(name: *const c_char, to: *mut *mut c_void, version: i32, flags: u64,
        status: *mut u32)
    |state| {
        if name.is_null() || flags > 2 {
            return Err(ERROR_INVALID_VALUE);
        }
        // 2: the functions whose default stream is that of the thread, which are not here.
        if flags == 2 {
            return Err(ERROR_NOT_SUPPORTED);
        }
        // SAFETY: a string, as the caller promises.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let newer = format!("{name}_v2");
        let full = if entry(&newer).is_some() { newer } else { name.clone() };
        let suffixed = name.ends_with("_v2");
        let absent = state.config.absent.contains(&full);
        let found = entry(&full).filter(|_| !suffixed && !absent);
        let late = since(&full) > version;
        let at = found.filter(|_| !late).unwrap_or(std::ptr::null_mut());
        give(to, at)?;
        // Not to find one is no error: the address is null.
        let word = if found.is_none() { 1 } else { 2 * u32::from(late) };
        if status.is_null() { Ok(()) } else { give(status, word) }
    }
}
