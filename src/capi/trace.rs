//! Traces: recorded from a pool, replayed into one.

use std::ffi::{CStr, c_char};

use super::guard::{
    PublicStruct, check_sized, guard, path as path_of, path_named, read_sized, write_sized,
};
use super::pool::{forebay_pool, pool_behind, with_pool};
use super::status::forebay_status;
use crate::error::{Result, fail};
use crate::lifetime::picture;
use crate::pool::Pool;
use crate::replay::{Options, Plan, Report, SystemMalloc};
use crate::trace::{Recorder, Trace, set_site};

/// Write one byte in every 4096 of each block, and its last byte.
pub const FOREBAY_REPLAY_TOUCH: u32 = 1;
/// One thread per thread of the trace, taking turns in the trace's order.
pub const FOREBAY_REPLAY_THREADS: u32 = 2;

/// How a trace is replayed. Set `struct_size`; all else zero is once, without touching.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_replay_options {
    /// sizeof(forebay_replay_options).
    pub struct_size: usize,
    /// `FOREBAY_REPLAY_...`, ORed together.
    pub flags: u32,
    /// How often the whole trace is replayed; 0 is taken for 1.
    pub repeat: u32,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_replay_options {
    const FIRST: usize = 16;
    const NAME: &'static str = "forebay_replay_options";
}

/// What a replay did and cost; sums over all rounds. Set `struct_size` before the call.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_replay_report {
    /// sizeof(forebay_replay_report).
    pub struct_size: usize,
    /// Rows.
    pub events: u64,
    /// Blocks that were allocated.
    pub allocations: u64,
    /// Blocks that rows of the trace freed. What lives at the end of a round is freed too,
    /// uncounted and unmeasured.
    pub frees: u64,
    /// Allocations that failed; their frees are skipped.
    pub failed_allocations: u64,
    /// Blocks that lived at the end of the last round.
    pub live_at_end: u64,
    /// Most bytes requested and live at a time, by the trace itself.
    pub peak_requested: u64,
    /// CPU time of the replaying threads, in nanoseconds: the calls, touching, and the loop
    /// around them.
    pub nanoseconds: u64,
    /// Page faults that needed no disk.
    pub minor_faults: u64,
    /// Page faults that did.
    pub major_faults: u64,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_replay_report {
    const FIRST: usize = 80;
    const NAME: &'static str = "forebay_replay_report";
}

const _: () = assert!(size_of::<forebay_replay_options>() == forebay_replay_options::FIRST);
const _: () = assert!(size_of::<forebay_replay_report>() == forebay_replay_report::FIRST);

/// Starts to write every allocation and free of `pool` to the file `path`, in the log format
/// of RAPIDS RMM (`Thread,Time,Action,Pointer,Size,Stream`), as gzip when the name ends in
/// ".gz". Until `forebay_trace_stop` every call takes a lock and writes a row, some 200 ns, and
/// 300 as gzip.
///
/// Errors: `FOREBAY_ERROR_INVALID_STATE` (it is being traced already), `FOREBAY_ERROR_IO` (the file
/// cannot be made), `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for `forebay_alloc`; `path` is NULL or a string that ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_trace_start(
    pool: *mut forebay_pool,
    path: *const c_char,
) -> forebay_status {
    let body = |pool: &Pool| {
        // SAFETY: the caller's promise.
        let path = unsafe { path_of(path)? };
        pool.start_trace(|| Recorder::create(path))
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// As `forebay_trace_start`, with one column more, `Site`: where the program asked, as
/// `forebay_trace_site` was told. `forebay_trace_report` explains the peak by it.
///
/// Errors: those of `forebay_trace_start`.
///
/// # Safety
/// `pool` as for `forebay_alloc`; `path` is NULL or a string that ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_trace_start_with_sites(
    pool: *mut forebay_pool,
    path: *const c_char,
) -> forebay_status {
    let body = |pool: &Pool| {
        // SAFETY: the caller's promise.
        let path = unsafe { path_of(path)? };
        pool.start_trace(|| Recorder::create_with_sites(path))
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// What the calling thread allocates from now on, from whatever pool, is asked for at `site`: any
/// text, such as "model.c:42 forward"; NULL or "" is not told. The text is copied: control
/// characters become blanks, and what is longer than 400 bytes is cut. Only traces with sites
/// look at it, so a program can leave the calls in.
///
/// Errors: none but `FOREBAY_ERROR_POISONED`, of a panic inside.
///
/// # Safety
/// `site` is NULL or a string that ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_trace_site(site: *const c_char) -> forebay_status {
    guard(|| {
        if site.is_null() {
            set_site(b"");
        } else {
            // SAFETY: the caller's promise.
            set_site(unsafe { CStr::from_ptr(site) }.to_bytes());
        }
        Ok(())
    })
}

/// Ends the recording and closes the file.
///
/// Errors: `FOREBAY_ERROR_INVALID_STATE` (it is not being traced), `FOREBAY_ERROR_IO` (a row could not
/// be written; the recording ended there), `FOREBAY_ERROR_INVALID_ARGUMENT`.
///
/// # Safety
/// `pool` as for `forebay_alloc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_trace_stop(pool: *mut forebay_pool) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, |pool| pool.stop_trace().map(|_| ())) }
}

/// Replays the trace in the file `path`, plain or gzip, into `pool`; `pool` NULL is the C
/// library's malloc and free, for comparison. Streams of the trace become streams of their
/// own on the host, without work on them. `options` and `report` may be NULL.
///
/// Errors: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (the message names line and column; or
/// the trace frees what it never allocated, in which case everything else was replayed and
/// `*report` is set), `FOREBAY_ERROR_INVALID_ARGUMENT`, and those of `forebay_free`. An allocation
/// that fails is counted and does not end the replay.
///
/// # Safety
/// `pool` is NULL or as for `forebay_alloc`; `path` is NULL or a string that ends with a NUL;
/// `options` and `report` are NULL or point to structs with `struct_size` set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_trace_replay(
    pool: *mut forebay_pool,
    path: *const c_char,
    options: *const forebay_replay_options,
    report: *mut forebay_replay_report,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { path_of(path)? };
        // SAFETY: the caller's promise.
        unsafe { check_sized(report)? };
        let options = if options.is_null() {
            Options::default()
        } else {
            // SAFETY: the caller's promise.
            options_of(&unsafe { read_sized(options)? })?
        };
        let trace = Trace::load(path)?;
        let mut streams = Streams::default();
        let plan = Plan::new(&trace, |number| streams.handle(number));
        streams.result?;
        let done = if pool.is_null() {
            plan.run(&SystemMalloc, &options)?
        } else {
            // SAFETY: the caller's promise.
            plan.run(unsafe { pool_behind(pool)? }, &options)?
        };
        if !report.is_null() {
            // SAFETY: the caller's promise.
            unsafe { write_sized(report, &report_of(&done))? };
        }
        done.faults.check(&trace.path)
    })
}

/// Writes a picture of the trace in the file `path`, plain or gzip, to the file `svg`: the bytes that
/// live after each of its steps, their most, below which no arena can be, and what `pool` has
/// reserved at each step when the trace is replayed into it; `pool` NULL leaves that out. One SVG of a
/// bounded size, light or dark as its reader has it. `flags` is 0.
///
/// Errors: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (the message names line and column; or
/// the trace frees what it never allocated, in which case the picture of everything else is written),
/// `FOREBAY_ERROR_INVALID_ARGUMENT` (`path` or `svg` is NULL, `flags` are not known), and those of
/// `forebay_free`. The picture says how many allocations failed.
///
/// # Safety
/// `pool` is NULL or as for `forebay_alloc`; `path` and `svg` are NULL or strings that end with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_trace_svg(
    pool: *mut forebay_pool,
    path: *const c_char,
    svg: *const c_char,
    flags: u32,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { path_of(path)? };
        // SAFETY: the caller's promise.
        let svg = unsafe { path_named(svg, "svg")? };
        if flags != 0 {
            return Err(fail!(InvalidArgument, "flags is {flags:#x}; this library knows none"));
        }
        let trace = Trace::load(path)?;
        let mut streams = Streams::default();
        let plan = Plan::new(&trace, |number| streams.handle(number));
        streams.result?;
        // SAFETY: the caller's promise.
        let pool = if pool.is_null() { None } else { Some(unsafe { pool_behind(pool)? }) };
        let mut timeline = plan.timeline(pool)?;
        timeline.name = trace.path.display().to_string();
        picture::write(&picture::timeline(&timeline), svg)?;
        plan.faults().check(&trace.path)
    })
}

fn options_of(options: &forebay_replay_options) -> Result<Options> {
    let known = FOREBAY_REPLAY_TOUCH | FOREBAY_REPLAY_THREADS;
    if options.flags & !known != 0 {
        return Err(fail!(
            InvalidArgument,
            "flags is {:#x}; this library knows the bits {known:#x}",
            options.flags
        ));
    }
    Ok(Options {
        touch: options.flags & FOREBAY_REPLAY_TOUCH != 0,
        threads: options.flags & FOREBAY_REPLAY_THREADS != 0,
        repeat: options.repeat.max(1),
    })
}

fn report_of(done: &Report) -> forebay_replay_report {
    forebay_replay_report {
        struct_size: 0,
        events: done.events,
        allocations: done.allocations,
        frees: done.frees,
        failed_allocations: done.failed_allocations,
        live_at_end: done.live_at_end,
        peak_requested: done.peak_requested,
        nanoseconds: done.nanoseconds,
        minor_faults: done.minor_faults,
        major_faults: done.major_faults,
    }
}

/// Streams on the host that stand for those of a trace, as long as it is replayed.
pub(super) struct Streams {
    made: Vec<std::sync::Arc<crate::order::HostStream>>,
    pub(super) result: Result<()>,
}

impl Default for Streams {
    fn default() -> Streams {
        Streams { made: Vec::new(), result: Ok(()) }
    }
}

impl Streams {
    /// The stream for this number; `result` has the error when it could not be made.
    pub(super) fn handle(&mut self, number: u64) -> usize {
        if number == 0 {
            return 0;
        }
        match crate::order::HostStream::create() {
            Ok(stream) => {
                let handle = stream.handle().0 as usize;
                self.made.push(stream);
                handle
            }
            Err(error) => {
                self.result = Err(error);
                0
            }
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for stream in &self.made {
            // Without work, so there is nothing that could be in the way.
            let _ = stream.destroy();
        }
    }
}
