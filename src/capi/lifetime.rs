//! Lifetimes: what is recorded of the tensors of a program.

use std::ffi::c_char;
use std::sync::Arc;

use super::guard::{PublicStruct, guard, out, path as path_of, write_sized};
use super::handle::{Handles, Shared};
use super::plan::{forebay_plan, plan_behind};
use super::status::forebay_status;
use crate::error::{Result, fail};
use crate::lifetime::{Lifetime, file};
use crate::sync::Mutex;
use crate::trace::Trace;

/// Lifetimes of the tensors of a program, as they are recorded. Opaque. Every function that takes
/// one may be called from any thread.
#[allow(non_camel_case_types)]
pub struct forebay_lifetime {
    _private: [u8; 0],
}

static HANDLES: Handles<Shared<Mutex<Lifetime>>> =
    Handles::new("lifetime", "forebay_lifetime_create");

/// What could be better in a program, by bytes. Set `struct_size` before the call.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_lifetime_suggestions {
    /// sizeof(forebay_lifetime_suggestions).
    pub struct_size: usize,
    /// Tensors.
    pub tensors: u64,
    /// Steps or times from the first to the last, both included.
    pub steps: u64,
    /// Bytes of all tensors.
    pub total_bytes: u64,
    /// The peak of live bytes.
    pub peak_bytes: u64,
    /// What the plan needs.
    pub planned_bytes: u64,
    /// `total_bytes` less `planned_bytes`: what the plan saves over a place for each.
    pub reusable_bytes: u64,
    /// Tensors that live for at most a tenth of the time.
    pub temporary_tensors: u64,
    /// Their bytes.
    pub temporary_bytes: u64,
    /// Tensors that live for at least nine tenths of it.
    pub long_lived_tensors: u64,
    /// Their bytes.
    pub long_lived_bytes: u64,
    /// Tensors that were allocated and never used; 0 where no uses were recorded at all.
    pub never_read_tensors: u64,
    /// Their bytes.
    pub never_read_bytes: u64,
    /// Tensors that were freed later than after their last use.
    pub free_earlier_tensors: u64,
    /// Their bytes.
    pub free_earlier_bytes: u64,
    /// By how much `peak_bytes` would sink if they were freed after their last use.
    pub free_earlier_peak_bytes: u64,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_lifetime_suggestions {
    const FIRST: usize = 128;
    const NAME: &'static str = "forebay_lifetime_suggestions";
}

const _: () =
    assert!(size_of::<forebay_lifetime_suggestions>() == forebay_lifetime_suggestions::FIRST);

/// The lifetimes behind a handle.
///
/// # Safety
/// `lifetime` is NULL or came from `forebay_lifetime_create`.
pub(super) unsafe fn lifetime_behind(
    lifetime: *const forebay_lifetime,
) -> Result<Arc<Mutex<Lifetime>>> {
    // SAFETY: the caller's promise.
    unsafe { HANDLES.behind(lifetime) }
}

/// Runs `body` on the lifetimes.
///
/// # Safety
/// As `lifetime_behind`.
unsafe fn with_lifetime(
    lifetime: *mut forebay_lifetime,
    body: impl FnOnce(&mut Lifetime) -> Result<()>,
) -> forebay_status {
    // SAFETY: the caller's promise.
    guard(|| body(&mut unsafe { lifetime_behind(lifetime)? }.lock()))
}

/// Creates an empty record and writes it to `*out`. It is the caller's, until
/// `forebay_lifetime_destroy`.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL).
///
/// # Safety
/// `out` is NULL or valid for writing.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_lifetime_create(
    out: *mut *mut forebay_lifetime,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        *out = HANDLES.keep_shared(Mutex::new(Lifetime::new())).cast();
        Ok(())
    })
}

/// Destroys a record; plans made from it stay. NULL is fine: nothing happens.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (destroyed before).
///
/// # Safety
/// `lifetime` is NULL or came from `forebay_lifetime_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_lifetime_destroy(
    lifetime: *mut forebay_lifetime,
) -> forebay_status {
    // SAFETY: the caller's promise.
    guard(|| unsafe { HANDLES.destroy(lifetime) })
}

/// The tensor `id` of `bytes` bytes is used in `step`. A tensor that was not allocated before
/// lives from the step of its first use to that of its last, both included.
///
/// Errors, with nothing recorded: `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` is NULL or
/// destroyed; `step` is below the last one, or 2^64 - 1; `bytes` is 0, or not that of the first
/// use), `FOREBAY_ERROR_INVALID_STATE` (it was freed), `FOREBAY_ERROR_OUT_OF_MEMORY`.
///
/// # Safety
/// `lifetime` as for `forebay_lifetime_destroy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_lifetime_record(
    lifetime: *mut forebay_lifetime,
    step: u64,
    id: u64,
    bytes: u64,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_lifetime(lifetime, |lifetime| lifetime.record(step, id, bytes)) }
}

/// The tensor `id` of `bytes` bytes is allocated at `time`, which may be a step: it lives until
/// `forebay_lifetime_record_free`, or to the end.
///
/// Errors, with nothing recorded: `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` is NULL or
/// destroyed; `time` is below the last one, or 2^64 - 1; `bytes` is 0; `id` is known),
/// `FOREBAY_ERROR_OUT_OF_MEMORY`.
///
/// # Safety
/// `lifetime` as for `forebay_lifetime_destroy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_lifetime_record_alloc(
    lifetime: *mut forebay_lifetime,
    time: u64,
    id: u64,
    bytes: u64,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_lifetime(lifetime, |lifetime| lifetime.record_alloc(time, id, bytes)) }
}

/// The tensor `id` is freed at `time`: what is allocated then may have its place.
///
/// Errors, with nothing recorded: `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` is NULL or
/// destroyed; `id` is not known; `time` is below the last one, or not after the tensor's
/// allocation and last use), `FOREBAY_ERROR_INVALID_STATE` (it was freed before).
///
/// # Safety
/// `lifetime` as for `forebay_lifetime_destroy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_lifetime_record_free(
    lifetime: *mut forebay_lifetime,
    time: u64,
    id: u64,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_lifetime(lifetime, |lifetime| lifetime.record_free(time, id)) }
}

/// The offset of the tensor `id` shall be a multiple of `alignment`, a power of two.
///
/// Errors, with nothing changed: `FOREBAY_ERROR_INVALID_ARGUMENT`.
///
/// # Safety
/// `lifetime` as for `forebay_lifetime_destroy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_lifetime_align(
    lifetime: *mut forebay_lifetime,
    id: u64,
    alignment: u64,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_lifetime(lifetime, |lifetime| lifetime.align(id, alignment)) }
}

/// The tensor `id` shall be at `offset`.
///
/// Errors, with nothing changed: `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` is NULL or
/// destroyed, `id` is not known). Whether it can be there is seen when a plan is made.
///
/// # Safety
/// `lifetime` as for `forebay_lifetime_destroy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_lifetime_fix(
    lifetime: *mut forebay_lifetime,
    id: u64,
    offset: u64,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_lifetime(lifetime, |lifetime| lifetime.fix(id, offset)) }
}

/// The tensor `id` may be written in the place of `with`, as an operator does that works in place:
/// they may have the same offset while both live. `with` was recorded before `id`.
///
/// Errors, with nothing changed: `FOREBAY_ERROR_INVALID_ARGUMENT`.
///
/// # Safety
/// `lifetime` as for `forebay_lifetime_destroy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_lifetime_alias(
    lifetime: *mut forebay_lifetime,
    id: u64,
    with: u64,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_lifetime(lifetime, |lifetime| lifetime.alias(id, with)) }
}

/// Adds the blocks of the trace in the file `path`, as `forebay_trace_start` writes it: ids count
/// from `first_id`, times are rows, sizes are rounded up to `alignment`, a power of two, which is
/// the alignment of the offsets too.
///
/// Errors: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (what came before stays recorded),
/// `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` is NULL or destroyed; `path` is NULL; an id is
/// known), `FOREBAY_ERROR_OUT_OF_MEMORY`.
///
/// # Safety
/// `lifetime` as for `forebay_lifetime_destroy`; `path` is NULL or a string that ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_lifetime_add_trace(
    lifetime: *mut forebay_lifetime,
    path: *const c_char,
    first_id: u64,
    alignment: u64,
) -> forebay_status {
    let body = |lifetime: &mut Lifetime| {
        if !alignment.is_power_of_two() {
            return Err(fail!(
                InvalidArgument,
                "alignment is {alignment}; it must be a power of two"
            ));
        }
        // SAFETY: the caller's promise.
        let path = unsafe { path_of(path)? };
        lifetime.add_trace(&Trace::load(path)?, first_id, alignment)
    };
    // SAFETY: the caller's promise.
    unsafe { with_lifetime(lifetime, body) }
}

/// Adds the tensors of the CSV file `path`: columns `id,lower,upper,size`, and if they are there
/// `offset` (fixed), `alignment` and `alias`, empty where there is none.
///
/// Errors: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (the message names line and column),
/// `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` is NULL or destroyed; `path` is NULL; a tensor that
/// ends before it begins, has no bytes or the id of another), `FOREBAY_ERROR_OUT_OF_MEMORY`.
///
/// # Safety
/// `lifetime` as for `forebay_lifetime_destroy`; `path` is NULL or a string that ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_lifetime_add_instance(
    lifetime: *mut forebay_lifetime,
    path: *const c_char,
) -> forebay_status {
    let body = |lifetime: &mut Lifetime| {
        // SAFETY: the caller's promise.
        let path = unsafe { path_of(path)? };
        lifetime.add_instance(&file::read_instance(path)?)
    };
    // SAFETY: the caller's promise.
    unsafe { with_lifetime(lifetime, body) }
}

/// What could be better in the program, given `plan`, which was made from these lifetimes.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL, something destroyed, a
/// plan for other tensors, `struct_size` is not set).
///
/// # Safety
/// `lifetime` as for `forebay_lifetime_destroy`; `plan` as for `forebay_plan_destroy`; `out` is NULL
/// or points to a struct with `struct_size` set.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_lifetime_suggest(
    lifetime: *mut forebay_lifetime,
    plan: *const forebay_plan,
    out: *mut forebay_lifetime_suggestions,
) -> forebay_status {
    let body = |lifetime: &mut Lifetime| {
        // SAFETY: the caller's promise.
        unsafe { self::out(out, "out")? };
        // SAFETY: the caller's promise.
        let plan = unsafe { plan_behind(plan)? };
        plan.check_for(&lifetime.instance()?)?;
        let found = lifetime.suggest(plan.arena_bytes())?;
        let value = forebay_lifetime_suggestions {
            struct_size: 0,
            tensors: found.tensors,
            steps: found.steps,
            total_bytes: found.total_bytes,
            peak_bytes: found.peak_bytes,
            planned_bytes: found.planned_bytes,
            reusable_bytes: found.reusable_bytes,
            temporary_tensors: found.temporary_tensors,
            temporary_bytes: found.temporary_bytes,
            long_lived_tensors: found.long_lived_tensors,
            long_lived_bytes: found.long_lived_bytes,
            never_read_tensors: found.never_read_tensors,
            never_read_bytes: found.never_read_bytes,
            free_earlier_tensors: found.free_earlier_tensors,
            free_earlier_bytes: found.free_earlier_bytes,
            free_earlier_peak_bytes: found.free_earlier_peak_bytes,
        };
        // SAFETY: the caller's promise.
        unsafe { write_sized(out, &value) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_lifetime(lifetime, body) }
}
