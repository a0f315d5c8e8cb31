//! Plans: where each tensor of a record goes.

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use super::guard::{PublicStruct, guard, out, path as path_of, read_sized, write_sized};
use super::handle::{Handles, Shared};
use super::lifetime::{forebay_lifetime, lifetime_behind};
use super::status::forebay_status;
use crate::error::{Error, Result, fail};
use crate::lifetime::picture::{self, Colours};
use crate::lifetime::{self, Options, Plan, Progress, Watch, file};

/// Write a plan in the compact form, with a checksum, instead of CSV.
pub const FOREBAY_PLAN_BINARY: u32 = 1;

/// Offsets for the tensors of a record, so that no two that live at one time overlap. Opaque, and
/// never changes. Every function that takes one may be called from any thread.
#[allow(non_camel_case_types)]
pub struct forebay_plan {
    _private: [u8; 0],
}

static HANDLES: Handles<Shared<Plan>> =
    Handles::new("plan", "forebay_lifetime_plan or forebay_plan_load");

/// How far the planner is.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_plan_progress {
    /// sizeof(forebay_plan_progress), as the library knows it.
    pub struct_size: usize,
    /// Bytes of the best arena so far.
    pub arena_bytes: u64,
    /// What no arena can be below.
    pub lower_bound: u64,
    /// Since it began, in nanoseconds.
    pub elapsed_ns: u64,
}

/// How a plan is made. Set `struct_size`; all else zero is within a second.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_plan_options {
    /// sizeof(forebay_plan_options).
    pub struct_size: usize,
    /// When to stop with the best so far, in milliseconds; 0 is 1000, or no time at all with
    /// `FOREBAY_PLAN_GREEDY`.
    pub time_limit_ms: u64,
    /// Two runs with one seed do the same, up to where the time ends.
    pub seed: u64,
    /// `FOREBAY_PLAN_GREEDY`, or 0.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// Called at most twenty times a second, by the planning thread; anything but 0 ends the
    /// planning with the best so far. NULL: not called.
    pub progress: Option<
        unsafe extern "C" fn(progress: *const forebay_plan_progress, user: *mut c_void) -> i32,
    >,
    /// Passed to `progress`.
    pub user: *mut c_void,
}

/// Take no time: the best of a few orders in which tensors are placed one after the other.
pub const FOREBAY_PLAN_GREEDY: u32 = 1;

// SAFETY: repr(C), the size first; numbers and pointers, for which zero is a value.
unsafe impl PublicStruct for forebay_plan_options {
    const FIRST: usize = 48;
    const NAME: &'static str = "forebay_plan_options";
}

/// A plan as a whole. Set `struct_size` before the call.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_plan_summary {
    /// sizeof(forebay_plan_summary).
    pub struct_size: usize,
    /// Tensors.
    pub tensors: u64,
    /// Bytes of an arena for it: the largest offset plus size.
    pub arena_bytes: u64,
    /// What no arena can be below: the peak of live bytes.
    pub lower_bound: u64,
    /// Bytes of all tensors.
    pub total_bytes: u64,
    /// How long it took to make, in nanoseconds; 0 for one that was loaded.
    pub elapsed_ns: u64,
    /// 1 when it is known that no plan is smaller, else 0.
    pub optimal: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_plan_summary {
    const FIRST: usize = 56;
    const NAME: &'static str = "forebay_plan_summary";
}

const _: () = assert!(size_of::<forebay_plan_options>() == forebay_plan_options::FIRST);
const _: () = assert!(size_of::<forebay_plan_summary>() == forebay_plan_summary::FIRST);

/// One tensor of a plan.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_plan_tensor {
    /// Its id.
    pub id: u64,
    /// When it begins to live.
    pub lower: u64,
    /// When it no longer lives.
    pub upper: u64,
    /// Its bytes.
    pub size: u64,
    /// Where it is in the arena.
    pub offset: u64,
}

/// The plan behind a handle.
///
/// # Safety
/// `plan` is NULL or came from this library.
pub(super) unsafe fn plan_behind(plan: *const forebay_plan) -> Result<Arc<Plan>> {
    // SAFETY: the caller's promise.
    unsafe { HANDLES.behind(plan) }
}

/// Runs `body` on the plan.
///
/// # Safety
/// As `plan_behind`.
unsafe fn with_plan(
    plan: *const forebay_plan,
    body: impl FnOnce(&Plan) -> Result<()>,
) -> forebay_status {
    // SAFETY: the caller's promise.
    guard(|| body(&*unsafe { plan_behind(plan)? }))
}

/// Makes a plan for what `lifetime` has recorded so far and writes it to `*out`. The plan is the
/// caller's, until `forebay_plan_destroy`. `options` NULL is the same as all zero. Blocks until the
/// plan is known to be the best, the time is over, or the callback ends it. The record stays as it
/// is, and other threads may go on recording.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` or `out` is NULL;
/// `lifetime` is destroyed; two tensors with fixed offsets overlap; all bytes together are beyond
/// 2^60; the message names the field of `options`), `FOREBAY_ERROR_OUT_OF_MEMORY`.
///
/// # Safety
/// `lifetime` as for `forebay_lifetime_destroy`; `options` is NULL or points to a struct with
/// `struct_size` set, whose `progress` can be called; `out` is NULL or valid for writing.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_lifetime_plan(
    lifetime: *mut forebay_lifetime,
    options: *const forebay_plan_options,
    out: *mut *mut forebay_plan,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        // SAFETY: the caller's promise.
        let lifetime = unsafe { lifetime_behind(lifetime)? };
        let given = match options.is_null() {
            true => None,
            // SAFETY: the caller's promise.
            false => Some(unsafe { read_sized(options)? }),
        };
        let options = given.as_ref().map_or(Ok(Options::default()), options_of)?;
        let callback = given.and_then(|given| Some((given.progress?, given.user)));
        let mut told = |progress: &Progress| match callback {
            None => true,
            Some((callback, user)) => {
                let progress = progress_of(progress);
                // SAFETY: the caller's promise; the struct lives as long as the call.
                unsafe { callback(&raw const progress, user) == 0 }
            }
        };
        let instance = lifetime.lock().instance()?;
        let watch: Option<&mut Watch<'_>> = if callback.is_some() { Some(&mut told) } else { None };
        let plan = lifetime::plan(instance, &options, watch)?;
        *out = HANDLES.keep_shared(plan).cast();
        Ok(())
    })
}

fn options_of(options: &forebay_plan_options) -> Result<Options> {
    if options.flags & !FOREBAY_PLAN_GREEDY != 0 || options.reserved != 0 {
        return Err(fail!(
            InvalidArgument,
            "flags is {:#x} and reserved {}; this library knows the bits {FOREBAY_PLAN_GREEDY:#x}, \
             and reserved is 0",
            options.flags,
            options.reserved
        ));
    }
    let time_limit = match (options.time_limit_ms, options.flags & FOREBAY_PLAN_GREEDY != 0) {
        (_, true) => Duration::ZERO,
        (0, false) => Options::default().time_limit,
        (limit, false) => Duration::from_millis(limit),
    };
    Ok(Options { time_limit, seed: options.seed })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn progress_of(progress: &Progress) -> forebay_plan_progress {
    forebay_plan_progress {
        struct_size: size_of::<forebay_plan_progress>(),
        arena_bytes: progress.arena_bytes,
        lower_bound: progress.lower_bound,
        elapsed_ns: nanoseconds(progress.elapsed),
    }
}

/// Destroys a plan. NULL is fine: nothing happens.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (destroyed before).
///
/// # Safety
/// `plan` is NULL or came from `forebay_lifetime_plan` or `forebay_plan_load`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_plan_destroy(plan: *mut forebay_plan) -> forebay_status {
    // SAFETY: the caller's promise.
    guard(|| unsafe { HANDLES.destroy(plan) })
}

/// Writes what `plan` needs, and how good it is, to `*out`.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`plan` or `out` is NULL, `plan`
/// is destroyed, `struct_size` is not set).
///
/// # Safety
/// `plan` as for `forebay_plan_destroy`; `out` is NULL or points to a struct with `struct_size` set.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_plan_summarize(
    plan: *const forebay_plan,
    out: *mut forebay_plan_summary,
) -> forebay_status {
    let body = |plan: &Plan| {
        // SAFETY: the caller's promise.
        unsafe { self::out(out, "out")? };
        let summary = forebay_plan_summary {
            struct_size: 0,
            tensors: plan.offsets().len() as u64,
            arena_bytes: plan.arena_bytes(),
            lower_bound: plan.lower_bound(),
            total_bytes: plan.total_bytes(),
            elapsed_ns: nanoseconds(plan.elapsed()),
            optimal: u32::from(plan.optimal()),
            reserved: 0,
        };
        // SAFETY: the caller's promise.
        unsafe { write_sized(out, &summary) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_plan(plan, body) }
}

/// Writes the offset of the tensor `id` to `*out`, in bytes.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`plan` or `out` is NULL, `plan`
/// is destroyed, no such `id`).
///
/// # Safety
/// `plan` as for `forebay_plan_destroy`; `out` is NULL or valid for writing.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_plan_offset(
    plan: *const forebay_plan,
    id: u64,
    out: *mut u64,
) -> forebay_status {
    let body = |plan: &Plan| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        *out = plan.offsets()[plan.place_of(id)?];
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_plan(plan, body) }
}

/// Writes the tensor number `index`, in the order of recording, to `*out`.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`plan` or `out` is NULL, `plan`
/// is destroyed, `index` is not below the number of tensors).
///
/// # Safety
/// `plan` as for `forebay_plan_destroy`; `out` is NULL or valid for writing.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_plan_tensor_at(
    plan: *const forebay_plan,
    index: usize,
    out: *mut forebay_plan_tensor,
) -> forebay_status {
    let body = |plan: &Plan| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        let tensors = plan.instance().tensors();
        let Some(tensor) = tensors.get(index) else {
            let count = tensors.len();
            return Err(fail!(InvalidArgument, "index is {index}; the plan has {count} tensors"));
        };
        *out = forebay_plan_tensor {
            id: tensor.id,
            lower: tensor.lower,
            upper: tensor.upper,
            size: tensor.size,
            offset: plan.offsets()[index],
        };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_plan(plan, body) }
}

/// Writes the ids of the tensors that share bytes of the arena with the tensor `id` to `ids`, which
/// has room for `capacity` of them, and how many there are to `*count`. Those beyond `capacity` are
/// not written. `ids` NULL with `capacity` 0 asks for the number only.
///
/// Errors, with nothing written: `FOREBAY_ERROR_INVALID_ARGUMENT` (`plan` or `count` is NULL, `ids`
/// is NULL and `capacity` is not 0, `plan` is destroyed, no such `id`).
///
/// # Safety
/// `plan` as for `forebay_plan_destroy`; `ids` is NULL or has `capacity` elements; `count` is NULL or
/// valid for writing.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_plan_sharers(
    plan: *const forebay_plan,
    id: u64,
    ids: *mut u64,
    capacity: usize,
    count: *mut usize,
) -> forebay_status {
    let body = |plan: &Plan| {
        // SAFETY: the caller's promise.
        let count = unsafe { out(count, "count")? };
        if ids.is_null() && capacity > 0 {
            return Err(fail!(InvalidArgument, "ids is NULL, but capacity is {capacity}"));
        }
        let sharers = plan.sharers(id)?;
        for (at, &sharer) in sharers.iter().enumerate().take(capacity) {
            // SAFETY: below `capacity`, by the caller's promise.
            unsafe { ids.add(at).write(sharer) };
        }
        *count = sharers.len();
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_plan(plan, body) }
}

/// Checks that `plan` is a plan for what `lifetime` has recorded: the same tensors, no two that
/// live at one time overlap, each where its alignment and its fixed offset allow.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL, something destroyed; the message names the
/// tensors that are in each other's way, or that only one side has).
///
/// # Safety
/// `plan` as for `forebay_plan_destroy`; `lifetime` as for `forebay_lifetime_destroy`.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_plan_validate(
    plan: *const forebay_plan,
    lifetime: *mut forebay_lifetime,
) -> forebay_status {
    let body = |plan: &Plan| {
        // SAFETY: the caller's promise.
        let instance = unsafe { lifetime_behind(lifetime)? }.lock().instance()?;
        plan.check_for(&instance)
    };
    // SAFETY: the caller's promise.
    unsafe { with_plan(plan, body) }
}

/// Writes `plan` to the file `path`: CSV with the columns `id,lower,upper,size,offset` (and
/// `alignment` and `alias` where a tensor has one), or with `FOREBAY_PLAN_BINARY` in `flags` the
/// compact form, which has a checksum.
///
/// Errors: `FOREBAY_ERROR_IO` (what was written of the file stays), `FOREBAY_ERROR_INVALID_ARGUMENT`
/// (`plan` or `path` is NULL, `plan` is destroyed, `flags` are not known).
///
/// # Safety
/// `plan` as for `forebay_plan_destroy`; `path` is NULL or a string that ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_plan_save(
    plan: *const forebay_plan,
    path: *const c_char,
    flags: u32,
) -> forebay_status {
    let body = |plan: &Plan| {
        // SAFETY: the caller's promise.
        let path = unsafe { path_of(path)? };
        if flags & !FOREBAY_PLAN_BINARY != 0 {
            return Err(fail!(
                InvalidArgument,
                "flags is {flags:#x}; this library knows the bits {FOREBAY_PLAN_BINARY:#x}"
            ));
        }
        file::write_plan(plan, path, flags & FOREBAY_PLAN_BINARY != 0)
    };
    // SAFETY: the caller's promise.
    unsafe { with_plan(plan, body) }
}

/// Colour tensors by their id, and not by their size.
pub const FOREBAY_PLAN_SVG_BY_ID: u32 = 1;

/// Writes a picture of `plan` to the file `path`: address by time, a rectangle per tensor, and live
/// bytes beneath. With `before`, another plan of the same tensors, that one is above it, on the
/// same scale; NULL leaves it out. One SVG of at most some 2 MB, light or dark as its reader has
/// it: tensors smaller than a pixel are merged, and the largest say what they are where the pointer
/// rests. Colours are by size, or with `FOREBAY_PLAN_SVG_BY_ID` in `flags` by id.
///
/// Errors: `FOREBAY_ERROR_IO` (what was written of the file stays), `FOREBAY_ERROR_INVALID_ARGUMENT`
/// (`plan` or `path` is NULL, a plan is destroyed, `before` is one of other tensors, `flags` are not
/// known).
///
/// # Safety
/// `plan` and `before` as for `forebay_plan_destroy`; `path` is NULL or a string that ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_plan_svg(
    plan: *const forebay_plan,
    before: *const forebay_plan,
    path: *const c_char,
    flags: u32,
) -> forebay_status {
    let body = |plan: &Plan| {
        // SAFETY: the caller's promise.
        let path = unsafe { path_of(path)? };
        if flags & !FOREBAY_PLAN_SVG_BY_ID != 0 {
            return Err(fail!(
                InvalidArgument,
                "flags is {flags:#x}; this library knows the bits {FOREBAY_PLAN_SVG_BY_ID:#x}"
            ));
        }
        let before = match before.is_null() {
            true => None,
            // SAFETY: the caller's promise.
            false => Some(unsafe { HANDLES.behind(before) }.map_err(|error| {
                let message = error.message();
                Error::new(error.kind(), format_args!("before: {message}"))
            })?),
        };
        let by_id = flags & FOREBAY_PLAN_SVG_BY_ID != 0;
        let colours = if by_id { Colours::Id } else { Colours::Size };
        picture::write(&picture::plan(plan, before.as_deref(), colours)?, path)
    };
    // SAFETY: the caller's promise.
    unsafe { with_plan(plan, body) }
}

/// Reads a plan from the file `path`, in either form, checks it, and writes it to `*out`. The plan
/// is the caller's, until `forebay_plan_destroy`.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (the file is not
/// one, was cut or changed), `FOREBAY_ERROR_INVALID_ARGUMENT` (`path` or `out` is NULL; tensors in it
/// overlap, or are not what can be recorded).
///
/// # Safety
/// `path` is NULL or a string that ends with a NUL; `out` is NULL or valid for writing.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_plan_load(
    path: *const c_char,
    out: *mut *mut forebay_plan,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        // SAFETY: the caller's promise.
        let plan = file::read_plan(unsafe { path_of(path)? })?;
        *out = HANDLES.keep_shared(plan).cast();
        Ok(())
    })
}
