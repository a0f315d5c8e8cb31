//! Reports: a trace as one page to read.

use std::ffi::{CStr, c_char, c_void};
use std::time::Duration;

use super::guard::{PublicStruct, guard, path_named, read_sized};
use super::pool::{forebay_pool, pool_behind};
use super::status::forebay_status;
use super::trace::Streams;
use crate::error::{Result, fail};
use crate::report::{self, Beside, Options, Progress, Watch};

/// Events instead of time from left to right.
pub const FOREBAY_REPORT_BY_EVENTS: u32 = 1;
/// Leave the plan out.
pub const FOREBAY_REPORT_NO_PLAN: u32 = 2;

/// How far a report is.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_report_progress {
    /// sizeof(forebay_report_progress), as the library knows it.
    pub struct_size: usize,
    /// Rows of the trace that were read.
    pub events: u64,
    /// Since it began, in nanoseconds.
    pub elapsed_ns: u64,
    /// 1 when the trace was read and the plan is being made, else 0.
    pub planning: u32,
    /// Zero.
    pub reserved: u32,
}

/// How a report is made. Set `struct_size`; all else zero is the usual.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_report_options {
    /// sizeof(forebay_report_options).
    pub struct_size: usize,
    /// The heading, in UTF-8; what is not becomes U+FFFD. NULL or empty: the file's name.
    pub title: *const c_char,
    /// The most points of a track over time, from 100 to 4000; 0 is 2000.
    pub max_points: u32,
    /// `FOREBAY_REPORT_...`, ORed together.
    pub flags: u32,
    /// How long the planner may take, in milliseconds; 0 is 1000.
    pub plan_time_limit_ms: u64,
    /// Called at most twenty times a second, by the calling thread; anything but 0 ends the
    /// reading, or the planning, and the report is of what there is so far and says so. NULL: not
    /// called.
    pub progress: Option<
        unsafe extern "C" fn(progress: *const forebay_report_progress, user: *mut c_void) -> i32,
    >,
    /// Passed to `progress`.
    pub user: *mut c_void,
    /// Does what the trace says while it is read, on host streams without work, and the report has
    /// what it reserves over time. It has all its blocks back afterwards. NULL: that is left out.
    pub pool: *mut forebay_pool,
}

// SAFETY: repr(C), the size first; numbers and pointers, for which zero is a value.
unsafe impl PublicStruct for forebay_report_options {
    const FIRST: usize = 56;
    const NAME: &'static str = "forebay_report_options";
}

const _: () = assert!(size_of::<forebay_report_options>() == forebay_report_options::FIRST);

/// Writes a report of the trace in the file `trace`, plain or gzip, to the file `out`: one page of
/// HTML below 2 MB that needs nothing else, light or dark as its reader has it. It shows what lived
/// when, who held the peak, addresses over time as they were and as a plan would have them, sizes,
/// streams, threads, what is live at the end, and at most three things to do. Its numbers are in it
/// as JSON too, in the element with the id "data". The trace is read once; memory is bounded by
/// what lives in it at a time, and some 100 MB for the plan. `options` may be NULL.
///
/// Errors: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (the message names line and column,
/// and nothing is written; or the trace frees what it never allocated, in which case the report of
/// everything else is written and names such rows), `FOREBAY_ERROR_INVALID_ARGUMENT` (`trace` or
/// `out` is NULL, the pool is destroyed; the message names the field of `options`), and those of
/// `forebay_free`.
///
/// # Safety
/// `trace` and `out` are NULL or strings that end with a NUL; `options` is NULL or points to a
/// struct with `struct_size` set, whose `title` is NULL or such a string, whose `progress` can
/// be called, and whose `pool` is NULL or as for `forebay_alloc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_trace_report(
    trace: *const c_char,
    out: *const c_char,
    options: *const forebay_report_options,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (trace, out) = unsafe { (path_named(trace, "trace")?, path_named(out, "out")?) };
        let given = match options.is_null() {
            true => None,
            // SAFETY: the caller's promise.
            false => Some(unsafe { read_sized(options)? }),
        };
        let options = match &given {
            None => Options::default(),
            // SAFETY: the caller's promise.
            Some(given) => unsafe { options_of(given)? },
        };
        let callback = given.and_then(|given| Some((given.progress?, given.user)));
        let mut told = |progress: &Progress| match callback {
            None => true,
            Some((callback, user)) => {
                let progress = progress_of(progress);
                // SAFETY: the caller's promise; the struct lives as long as the call.
                unsafe { callback(&raw const progress, user) == 0 }
            }
        };
        let watch: Option<&mut Watch<'_>> = if callback.is_some() { Some(&mut told) } else { None };
        let pool = given.map_or(std::ptr::null_mut(), |given| given.pool);
        // SAFETY: the caller's promise.
        let pool = if pool.is_null() { None } else { Some(unsafe { pool_behind(pool)? }) };
        let mut streams = Streams::default();
        let mut stream = |number| {
            let handle = streams.handle(number);
            streams.result.map(|()| handle)
        };
        let beside = pool.map(|pool| Beside { pool, stream: &mut stream });
        report::report(&trace, &out, &options, beside, watch)?.check(&trace)
    })
}

/// # Safety
/// `title` is NULL or a string that ends with a NUL.
unsafe fn options_of(given: &forebay_report_options) -> Result<Options> {
    let known = FOREBAY_REPORT_BY_EVENTS | FOREBAY_REPORT_NO_PLAN;
    if given.flags & !known != 0 {
        return Err(fail!(
            InvalidArgument,
            "flags is {:#x}; this library knows the bits {known:#x}",
            given.flags
        ));
    }
    let usual = Options::default();
    let title = match given.title.is_null() {
        true => String::new(),
        // SAFETY: the caller's promise.
        false => unsafe { CStr::from_ptr(given.title) }.to_string_lossy().into_owned(),
    };
    let (least, most) = (Options::POINTS_MIN, Options::POINTS_MAX);
    let points = match given.max_points as usize {
        0 => usual.points,
        points if (least..=most).contains(&points) => points,
        points => {
            return Err(fail!(
                InvalidArgument,
                "max_points is {points}; it must be 0 or from {least} to {most}"
            ));
        }
    };
    let plan_limit = match (given.plan_time_limit_ms, given.flags & FOREBAY_REPORT_NO_PLAN != 0) {
        (_, true) => Duration::ZERO,
        (0, false) => usual.plan_limit,
        (limit, false) => Duration::from_millis(limit),
    };
    let by_events = given.flags & FOREBAY_REPORT_BY_EVENTS != 0;
    Ok(Options { title, points, plan_limit, by_events })
}

fn progress_of(progress: &Progress) -> forebay_report_progress {
    forebay_report_progress {
        struct_size: size_of::<forebay_report_progress>(),
        events: progress.events,
        elapsed_ns: u64::try_from(progress.elapsed.as_nanos()).unwrap_or(u64::MAX),
        planning: u32::from(progress.planning),
        reserved: 0,
    }
}
