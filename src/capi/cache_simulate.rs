//! A key trace against policies.

use std::ffi::c_char;

use super::guard::{
    PublicStruct, check_sized, guard, out, path as path_of, read_sized, write_sized,
};
use super::status::forebay_status;
use crate::cache::key_trace::KeyTrace;
use crate::cache::policy::{Budget, Goal, Kind};
use crate::cache::simulate::{Contender, Outcome, compare};
use crate::error::fail;

/// The cache that is simulated. Set `struct_size`, and at least one of the two limits. Fields
/// are as in `forebay_cache_config`.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_cache_simulate_options {
    /// sizeof(forebay_cache_simulate_options).
    pub struct_size: usize,
    /// Most bytes of objects; 0 = no limit.
    pub max_bytes: u64,
    /// Most objects; 0 = no limit.
    pub max_entries: u64,
    /// What a hit is worth besides its bytes, as bytes. 0 = 64 KiB; 1 is the goal of most bytes,
    /// 2^50 that of most hits.
    pub entry_worth: u64,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_cache_simulate_options {
    const FIRST: usize = 32;
    const NAME: &'static str = "forebay_cache_simulate_options";
}

/// What a policy had. Set `struct_size` of the first in an array before the call; it holds for
/// all of them.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_cache_outcome {
    /// sizeof(forebay_cache_outcome).
    pub struct_size: usize,
    /// The policy's name; the library's, for good.
    pub name: *const c_char,
    /// A `forebay_cache_policy`, or -1 for one that is here to compare with.
    pub policy: i32,
    /// Zero.
    pub reserved: u32,
    /// Accesses.
    pub requests: u64,
    /// Of them, those that found their object.
    pub hits: u64,
    /// Bytes of the objects that were asked for.
    pub bytes: u64,
    /// Of them, those that were found.
    pub hit_bytes: u64,
    /// Hits by what they are worth, in parts of what all accesses are worth: 0 to 1.
    pub worth: f64,
    /// Bytes of the policy's bookkeeping for each object that was kept at the end.
    pub bookkeeping_per_entry: f64,
}

// SAFETY: repr(C), the size first, numbers and a pointer, all of which may be zero.
unsafe impl PublicStruct for forebay_cache_outcome {
    const FIRST: usize = 72;
    const NAME: &'static str = "forebay_cache_outcome";
}

const _: () =
    assert!(size_of::<forebay_cache_simulate_options>() == forebay_cache_simulate_options::FIRST);
const _: () = assert!(size_of::<forebay_cache_outcome>() == forebay_cache_outcome::FIRST);

/// Runs the key trace in the file `path`, plain or gzip, against caches of every policy, without
/// memory of a pool, and writes what each had to `outcomes`, an array of `capacity`: the best by
/// what hits are worth first. The first whose `policy` is not -1 is the one to choose. `*count`
/// is how many policies there are (9 in this release); when `capacity` is less, the best are
/// written, and `outcomes` may be NULL when it is 0. `count` may be NULL.
///
/// Every access of the trace is a `forebay_cache_get`, and a put of the object when it was not
/// there. A trace is text with a key a line; or key and bytes; or time, key and bytes; or lines of
/// JSON with keys in the array "hash_ids"; or binary, each key four bytes with the highest
/// first. Where it has no bytes each object has one. It is read into memory, 4 bytes an
/// access and some 40 an object. Other packers: `xz -dc trace.xz | program`, with "/dev/stdin" for
/// a path.
///
/// Errors: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (the message names the line),
/// `FOREBAY_ERROR_OUT_OF_MEMORY`, `FOREBAY_ERROR_INVALID_ARGUMENT`. After an error nothing was written.
///
/// # Safety
/// `path` is NULL or a string that ends with a NUL; `options` is NULL or points to a struct with
/// `struct_size` set; `outcomes` is NULL or has `capacity` structs, of as many bytes each as
/// `struct_size` of the first says; `count` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_simulate(
    path: *const c_char,
    options: *const forebay_cache_simulate_options,
    outcomes: *mut forebay_cache_outcome,
    capacity: usize,
    count: *mut usize,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { path_of(path)? };
        if options.is_null() {
            return Err(fail!(InvalidArgument, "options is NULL; it must point to its struct"));
        }
        // SAFETY: the caller's promise, and not NULL.
        let options = unsafe { read_sized(options)? };
        if capacity > 0 {
            // SAFETY: the caller's promise; NULL is an error here.
            unsafe { out(outcomes, "outcomes")? };
            // SAFETY: the caller's promise.
            unsafe { check_sized(outcomes)? };
        }
        let or_any = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        let budget =
            Budget { bytes: or_any(options.max_bytes), entries: or_any(options.max_entries) };
        let goal = match options.entry_worth {
            0 => Goal::default(),
            per_entry => Goal { per_entry },
        };
        let found = compare(&KeyTrace::load(path)?, goal, budget)?;
        let wanted = capacity.min(found.len());
        // SAFETY: the caller's promise; the size was looked at above.
        let stride = if wanted > 0 { unsafe { (*outcomes).struct_size } } else { 0 };
        for (at, (contender, outcome)) in found.iter().take(wanted).enumerate() {
            // SAFETY: inside the array, by the caller's word.
            let to: *mut forebay_cache_outcome = unsafe { outcomes.byte_add(at * stride) };
            // SAFETY: as above; every struct is as large as the first says.
            unsafe {
                to.cast::<usize>().write(stride);
                write_sized(to, &outcome_of(contender, outcome))?;
            }
        }
        // SAFETY: the caller's promise.
        if let Some(count) = unsafe { count.as_mut() } {
            *count = found.len();
        }
        Ok(())
    })
}

fn outcome_of(contender: &Contender, outcome: &Outcome) -> forebay_cache_outcome {
    let number = |kind| Kind::ALL.iter().position(|&other| other == kind);
    let per_entry = outcome.bookkeeping_bytes as f64 / outcome.entries.max(1) as f64;
    forebay_cache_outcome {
        struct_size: size_of::<forebay_cache_outcome>(),
        name: contender.name.as_ptr(),
        policy: contender.kind.and_then(number).map_or(-1, |number| number as i32),
        reserved: 0,
        requests: outcome.requests,
        hits: outcome.hits,
        bytes: outcome.bytes,
        hit_bytes: outcome.hit_bytes,
        worth: outcome.worth_percent() / 100.0,
        bookkeeping_per_entry: per_entry,
    }
}
