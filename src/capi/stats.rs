//! Numbers of a pool.

use std::ffi::c_char;

use super::guard::{PublicStruct, out, write_sized, write_text};
use super::pool::{forebay_pool, with_open_pool};
use super::status::forebay_status;
use crate::pool::Pool;

/// The counters of a pool. Set `struct_size` before the call. Requested, allocated and
/// reserved are three numbers: bytes asked for, bytes of the blocks given out, bytes mapped.
/// "Now" is exact; a peak is exact while one thread uses the pool, and otherwise low by no
/// more than what front caches hold.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_pool_statistics {
    /// sizeof(forebay_pool_statistics).
    pub struct_size: usize,
    /// Bytes asked for by blocks that are given out now.
    pub requested_bytes: u64,
    /// The most that was.
    pub requested_peak: u64,
    /// Bytes asked for by all allocations.
    pub requested_total: u64,
    /// Bytes of the blocks given out now.
    pub allocated_bytes: u64,
    /// The most that was.
    pub allocated_peak: u64,
    /// Bytes of all blocks ever given out.
    pub allocated_total: u64,
    /// Bytes mapped now.
    pub reserved_bytes: u64,
    /// The most that was.
    pub reserved_peak: u64,
    /// All bytes ever mapped.
    pub reserved_total: u64,
    /// Allocations that succeeded.
    pub allocations: u64,
    /// Frees that succeeded.
    pub frees: u64,
    /// Allocations served from what was mapped and in place.
    pub hits: u64,
    /// Allocations for which pages had to be mapped or moved.
    pub misses: u64,
    /// Allocations that failed.
    pub failed: u64,
    /// Frees of what was no live block.
    pub invalid_frees: u64,
    /// System calls made for this pool.
    pub system_calls: u64,
    /// Times that idle pages were given back.
    pub trims: u64,
    /// Most bytes that may be mapped.
    pub limit_bytes: u64,
    /// Blocks given out now.
    pub live_blocks: u64,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_pool_statistics {
    const FIRST: usize = 160;
    const NAME: &'static str = "forebay_pool_statistics";
}

const _: () = assert!(size_of::<forebay_pool_statistics>() == forebay_pool_statistics::FIRST);

/// Writes the counters of `pool` to `*out`. Walks over nothing, and makes no thread wait.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL, its `struct_size` is not set),
/// `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for `forebay_alloc`; `out` is NULL or points to a struct with `struct_size` set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_stats(
    pool: *mut forebay_pool,
    out: *mut forebay_pool_statistics,
) -> forebay_status {
    let body = |pool: &Pool| {
        // SAFETY: the caller's promise.
        unsafe { self::out(out, "out")? };
        let stats = pool.stats();
        let value = forebay_pool_statistics {
            struct_size: 0,
            requested_bytes: stats.requested[0],
            requested_peak: stats.requested[1],
            requested_total: stats.requested[2],
            allocated_bytes: stats.allocated[0],
            allocated_peak: stats.allocated[1],
            allocated_total: stats.allocated[2],
            reserved_bytes: stats.reserved[0],
            reserved_peak: stats.reserved[1],
            reserved_total: stats.reserved[2],
            allocations: stats.allocations,
            frees: stats.frees,
            hits: stats.hits,
            misses: stats.misses,
            failed: stats.failed,
            invalid_frees: stats.invalid_frees,
            system_calls: stats.system_calls,
            trims: stats.trims,
            limit_bytes: stats.limit,
            live_blocks: stats.live_blocks,
        };
        // SAFETY: the caller's promise.
        unsafe { write_sized(out, &value) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_open_pool(pool, body) }
}

/// Starts the peaks again from what is there now.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for `forebay_alloc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_reset_peaks(pool: *mut forebay_pool) -> forebay_status {
    let body = |pool: &Pool| {
        pool.reset_peaks();
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_open_pool(pool, body) }
}

/// Writes a report on everything as JSON, with a NUL behind it, to `buffer`, which has
/// `capacity` bytes; its length without the NUL goes to `*length` (may be NULL). `buffer` NULL
/// with `capacity` 0 asks for the length only; leave some room, for it changes with the pool.
/// Walks over every block: for reports, not for every step.
///
/// The object has "schema" (1), "pool", "device", "policy", "limit_bytes", "address_bytes";
/// "requested", "allocated" and "reserved", each {"current", "peak", "total"}; the counters of
/// `forebay_pool_statistics` and "front_cache_misses"; "free_bytes", "free_runs", "idle_bytes"
/// (whole pages nobody uses), "waiting_bytes" (freed, but streams may use them),
/// "front_cache_bytes", "unmapped_runs", "largest_free_run"; "external_fragmentation" (1 -
/// largest free run / free) and "internal_fragmentation" (1 - requested / allocated); "large"
/// {"live_blocks", "live_bytes"}; "size_classes", a list of {"size", "slabs", "blocks",
/// "live_blocks", "requested_bytes"}; "largest_live_blocks", a list of up to 16 {"address",
/// "requested_bytes"}. All sizes are bytes.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`buffer` is NULL, or too small: `*length` is set, the
/// buffer untouched), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for `forebay_alloc`; `buffer` is NULL or has `capacity` bytes; `length` is NULL or
/// valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_stats_json(
    pool: *mut forebay_pool,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> forebay_status {
    let body = |pool: &Pool| {
        // SAFETY: the caller's promise.
        unsafe { write_text(&pool.stats_json(), "report", buffer, capacity, length) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_open_pool(pool, body) }
}

/// Writes a picture of the memory of `pool` as JSON, in the way of `forebay_pool_stats_json`: every
/// mapped stretch of addresses, piece by piece. Walks over every block.
///
/// The object has "schema" (1), "pool", and "stretches", a list in the order of addresses of
/// {"address", "size", "pieces"}; pieces are lists [address, size, requested, state, stream,
/// small] that follow each other without a gap: bytes, and the bytes that were asked for (0 of what
/// is not live); "live", "waiting" (freed, but streams may use it, or it is a graph's) or "free";
/// the stream it was taken or freed on, 0 where nobody knows; 1 for blocks of slabs, of up to
/// 32 KiB.
///
/// Errors: those of `forebay_pool_stats_json`.
///
/// # Safety
/// As for `forebay_pool_stats_json`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_snapshot_json(
    pool: *mut forebay_pool,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> forebay_status {
    let body = |pool: &Pool| {
        // SAFETY: the caller's promise.
        unsafe { write_text(&pool.snapshot_json(), "report", buffer, capacity, length) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_open_pool(pool, body) }
}
