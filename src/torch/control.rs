//! What PyTorch itself does not ask for: options, numbers, the pool behind a device.

use std::ffi::{CStr, c_char, c_int};

use super::device::{self, Gpu};
use super::observer::{self, forebay_torch_observer};
use super::usage::{Live, Numbers};
use crate::capi::guard::{PublicStruct, guard, out, write_sized};
use crate::capi::pool::forebay_pool;
use crate::capi::status::forebay_status;
use crate::error::{Result, fail};

/// How many of something there are, and there were.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct forebay_torch_number {
    /// Now.
    pub current: u64,
    /// At most, since the peaks were last reset; exact in all threads.
    pub peak: u64,
    /// Added in all, since the totals were last reset.
    pub allocated: u64,
    /// Taken away in all, since then.
    pub freed: u64,
}

/// Blocks and bytes of a kind of tensors.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct forebay_torch_numbers {
    /// Blocks.
    pub blocks: forebay_torch_number,
    /// Bytes of the blocks.
    pub allocated_bytes: forebay_torch_number,
    /// Bytes that were asked for.
    pub requested_bytes: forebay_torch_number,
}

/// What PyTorch's `memory_stats` tells of one device, for tensors of up to 1 MiB, larger ones, and
/// all of them. Set `struct_size` before the call.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_torch_statistics {
    /// sizeof(forebay_torch_statistics).
    pub struct_size: usize,
    /// All tensors.
    pub all: forebay_torch_numbers,
    /// Those of up to 1 MiB.
    pub small: forebay_torch_numbers,
    /// Larger ones.
    pub large: forebay_torch_numbers,
    /// Bytes mapped now.
    pub reserved_bytes: u64,
    /// The most that was, since the peaks were last reset.
    pub reserved_peak: u64,
    /// All bytes ever mapped.
    pub reserved_total: u64,
    /// Bytes that are freed and held for work on streams, or for graphs.
    pub waiting_bytes: u64,
    /// Stretches of mapped addresses.
    pub stretches: u64,
    /// Free pieces of mapped memory.
    pub free_runs: u64,
    /// Allocations for which pages were mapped or moved.
    pub misses: u64,
    /// Allocations that failed for lack of memory, or otherwise.
    pub failed: u64,
    /// Times that idle pages were given back.
    pub trims: u64,
    /// Most bytes that may be mapped.
    pub limit_bytes: u64,
    /// Bytes that the device has.
    pub device_bytes: u64,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_torch_statistics {
    const FIRST: usize = size_of::<forebay_torch_statistics>();
    const NAME: &'static str = "forebay_torch_statistics";
}

const _: () = assert!(size_of::<forebay_torch_statistics>() == 384);

fn numbers(numbers: Numbers) -> forebay_torch_numbers {
    let number = |of: fn(&Live) -> u64| forebay_torch_number {
        current: of(&numbers.now),
        peak: of(&numbers.peak),
        allocated: of(&numbers.given),
        freed: of(&numbers.returned),
    };
    forebay_torch_numbers {
        blocks: number(|live| live.blocks),
        allocated_bytes: number(|live| live.allocated),
        requested_bytes: number(|live| live.requested),
    }
}

/// # Safety
/// `text` is NULL or ends with a NUL.
unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    match unsafe { CStr::from_ptr(text) }.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(fail!(InvalidArgument, "{name} is not UTF-8")),
    }
}

fn gpu_with_pool(device: c_int) -> Result<&'static Gpu> {
    device::ready(device).ok_or_else(|| {
        fail!(InvalidState, "device {device} has no pool yet: nothing was allocated on it")
    })
}

/// Settles how pools are made, before the first one is. `limit` is the most that each may map:
/// bytes ("17179869184", "16GiB") or a part of the device ("0.9", "90%"); `policy` is the name of a
/// `forebay_policy` ("balanced", "conservative", "aggressive_reuse", "quality_first",
/// "latency_first"). NULL stands for `FOREBAY_TORCH_LIMIT` and `FOREBAY_TORCH_POLICY`, and where they
/// are not set for all of the device, and balanced. Both texts stay the caller's.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (the message names what cannot be read),
/// `FOREBAY_ERROR_INVALID_STATE` (a device has its pool already).
///
/// # Safety
/// `limit` and `policy` are NULL or strings that end with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_torch_configure(
    limit: *const c_char,
    policy: *const c_char,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (limit, policy) = unsafe { (text(limit, "limit")?, text(policy, "policy")?) };
        device::configure(limit, policy)
    })
}

/// Writes the pool behind PyTorch's tensors on `device` to `*out`; it is made now if there is none.
/// All functions of this header may be used on it but `forebay_pool_destroy`: it stays the
/// library's, until the process ends.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL, there is no such
/// device, or what the environment says cannot be read), and those of `forebay_pool_create`.
///
/// # Safety
/// `out` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_torch_pool(
    device: c_int,
    out: *mut *mut forebay_pool,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        *out = device::gpu(device)?.handle;
        Ok(())
    })
}

/// Whether the device has its pool: something was allocated on it, or `forebay_torch_pool` was
/// called. 0 or 1.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_torch_is_used(device: c_int) -> i32 {
    device::ready(device).is_some().into()
}

/// Writes the numbers of `device` to `*out`. Walks over the free runs, not over the blocks.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL, its `struct_size` is not set),
/// `FOREBAY_ERROR_INVALID_STATE` (the device has no pool yet).
///
/// # Safety
/// `out` is NULL or points to a struct with `struct_size` set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_torch_stats(
    device: c_int,
    out: *mut forebay_torch_statistics,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { self::out(out, "out")? };
        let gpu = gpu_with_pool(device)?;
        let stats = gpu.pool.stats();
        let (stretches, free_runs) = gpu.pool.shape();
        let value = forebay_torch_statistics {
            struct_size: 0,
            all: numbers(gpu.usage.all()),
            small: numbers(gpu.usage.of(false)),
            large: numbers(gpu.usage.of(true)),
            reserved_bytes: stats.reserved[0],
            reserved_peak: stats.reserved[1],
            reserved_total: stats.reserved[2],
            waiting_bytes: gpu.pool.holdings().iter().map(|&(_, bytes)| bytes).sum(),
            stretches,
            free_runs,
            misses: stats.misses,
            failed: stats.failed,
            trims: stats.trims,
            limit_bytes: stats.limit,
            device_bytes: gpu.pool.device_bytes(),
        };
        // SAFETY: the caller's promise.
        unsafe { write_sized(out, &value) }
    })
}

/// Starts the peaks of `device` again from what is there now.
///
/// Errors: `FOREBAY_ERROR_INVALID_STATE` (the device has no pool yet).
#[unsafe(no_mangle)]
pub extern "C" fn forebay_torch_reset_peaks(device: c_int) -> forebay_status {
    guard(|| {
        let gpu = gpu_with_pool(device)?;
        gpu.usage.reset_peaks();
        gpu.pool.reset_peaks();
        Ok(())
    })
}

/// Starts what `device` gave out and took back again from nothing.
///
/// Errors: `FOREBAY_ERROR_INVALID_STATE` (the device has no pool yet).
#[unsafe(no_mangle)]
pub extern "C" fn forebay_torch_reset_totals(device: c_int) -> forebay_status {
    guard(|| {
        gpu_with_pool(device)?.usage.reset_totals();
        Ok(())
    })
}

/// Has `observer` see every allocation, free and refusal from now on; NULL for nobody. It stays
/// the caller's, and is callable until another one is set and calls under way are over.
///
/// # Safety
/// `observer` is NULL or may be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_torch_set_observer(observer: forebay_torch_observer) {
    observer::set(observer);
}
