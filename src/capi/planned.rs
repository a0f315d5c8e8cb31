//! Planned pools: pools that serve a repeating step from a plan.

use super::guard::{PublicStruct, out, write_sized};
use super::plan::{forebay_plan, plan_behind};
use super::pool::{forebay_pool, with_pool};
use super::status::forebay_status;
use super::stream::{forebay_stream, stream_of};
use crate::pool::Pool;

/// How well a plan fits what a pool is asked for. Set `struct_size` before the call.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_plan_usage {
    /// sizeof(forebay_plan_usage).
    pub struct_size: usize,
    /// Bytes of the plan's arena in the pool: whole pages of 2 MiB.
    pub arena_bytes: u64,
    /// Tensors of a step.
    pub tensors: u64,
    /// Steps that began.
    pub steps: u64,
    /// Allocations that got their place in the plan.
    pub served: u64,
    /// Allocations that got a block beside it: too many, of another size, in another order, or
    /// while somebody still had the place.
    pub diverged: u64,
    /// All bytes that were asked for in these.
    pub diverged_bytes: u64,
    /// Tensors that are in their places now.
    pub live: u64,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_plan_usage {
    const FIRST: usize = 64;
    const NAME: &'static str = "forebay_plan_usage";
}

const _: () = assert!(size_of::<forebay_plan_usage>() == forebay_plan_usage::FIRST);

/// Serves what is allocated in `pool` from now on from `plan`: an allocation that is the next
/// tensor of the plan, by its size, gets that tensor's place in one arena, and after the last
/// tensor comes the first of the next step. So a program that repeats a step needs the plan's
/// arena and no more, and no call of the device.
///
/// A program may do otherwise. An allocation that is none of the next tensors, or whose place
/// somebody still has, gets a block beside the arena, as without a plan, and is counted; the
/// plan is found again by the sizes that follow, or at `forebay_pool_begin_step`. Tensors that live
/// on over the end of a step, as weights do, are not expected again.
///
/// On a GPU places are used again in stream order: a stream that takes a place which another
/// one had waits for that one on the device. Work that is captured as a graph is not served from
/// a plan.
///
/// The arena's memory is taken on `stream`, whose work it is behind. What the pool has idle
/// besides is given back. All else stays as it was: blocks that were given out before, statistics,
/// the limit. `plan` may be destroyed afterwards.
///
/// The tensors' offsets are multiples of 512, or of the pool's block size if that is more: plan
/// with that alignment (`forebay_lifetime_add_trace`, `forebay_lifetime_align`). Sizes match when
/// they are equal after rounding up to the least alignment in the plan.
///
/// Errors, with nothing changed: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` or `plan` is NULL or
/// destroyed; the plan has no tensors, or one at another offset; the arena is beyond the limit of
/// sizes), `FOREBAY_ERROR_INVALID_STATE` (a plan is applied already; the pool sleeps; it writes
/// guard bytes or poison, for which a plan has no room; `stream` captures a graph),
/// `FOREBAY_ERROR_OUT_OF_MEMORY`, `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for every call; `plan` as for `forebay_plan_destroy`; `stream` is a stream of the
/// pool's device.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_apply_plan(
    pool: *mut forebay_pool,
    plan: *const forebay_plan,
    stream: forebay_stream,
) -> forebay_status {
    // SAFETY: the caller's promise.
    let body = |pool: &Pool| pool.apply_plan(&*unsafe { plan_behind(plan)? }, stream_of(stream));
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// Ends what `forebay_pool_apply_plan` began. The arena's memory is the pool's again, behind all
/// work that used it.
///
/// Errors, with nothing changed: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` is NULL or destroyed),
/// `FOREBAY_ERROR_INVALID_STATE` (no plan is applied, or blocks of it are given out),
/// `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_remove_plan(pool: *mut forebay_pool) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, Pool::remove_plan) }
}

/// Says that the next allocation is the first of a step. Steps that go as planned follow each
/// other without it. With it a step that went otherwise leaves no trace in the next, however
/// alike the sizes are.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` is NULL or destroyed),
/// `FOREBAY_ERROR_INVALID_STATE` (no plan is applied), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_begin_step(pool: *mut forebay_pool) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, Pool::begin_step) }
}

/// Writes how well the plan of `pool` fits to `*out`.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` is NULL or destroyed,
/// `out` is NULL, `struct_size` is not set), `FOREBAY_ERROR_INVALID_STATE` (no plan is applied),
/// `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for every call; `out` is NULL or points to a struct with `struct_size` set.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_plan_usage(
    pool: *mut forebay_pool,
    out: *mut forebay_plan_usage,
) -> forebay_status {
    let body = |pool: &Pool| {
        // SAFETY: the caller's promise.
        unsafe { self::out(out, "out")? };
        let usage = pool.plan_usage()?;
        let value = forebay_plan_usage {
            struct_size: 0,
            arena_bytes: usage.arena_bytes,
            tensors: usage.tensors,
            steps: usage.steps,
            served: usage.served,
            diverged: usage.diverged,
            diverged_bytes: usage.diverged_bytes,
            live: usage.live,
        };
        // SAFETY: the caller's promise.
        unsafe { write_sized(out, &value) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}
