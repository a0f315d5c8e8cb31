//! The constructor and the destructor: what is on, and what is said at the end.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::library::Statistics;
use crate::options::{self, Problem};
use crate::say::{Line, say};
use crate::{cuda, next, pool};

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = start;

#[used]
#[unsafe(link_section = ".fini_array")]
static END: extern "C" fn() = end;

/// A table is wanted at the end.
static STATS: AtomicBool = AtomicBool::new(false);

/// The host half is on.
static HOST: AtomicBool = AtomicBool::new(false);

/// Calls of a process that one of these has its hands in are left to it.
const CHECKERS: [&CStr; 5] =
    [c"__asan_init", c"__hwasan_init", c"__tsan_init", c"__msan_init", c"__lsan_init"];

/// Variables by which the C library is told how to keep its heap.
const HEAP_VARIABLES: [&[u8]; 3] = [b"GLIBC_TUNABLES=", b"MALLOC_MMAP_", b"MALLOC_TRIM_"];

extern "C" fn start(_: c_int, _: *const *const c_char, environment: *const *const c_char) {
    next::find();
    let given = variables(environment)
        .find_map(|entry| entry.strip_prefix(options::NAME.as_bytes())?.strip_prefix(b"="));
    let options = match options::parse(given.unwrap_or(&[])) {
        Ok(options) => options,
        Err(problem) => return refuse(problem),
    };
    STATS.store(options.stats, Ordering::Relaxed);
    cuda::want(&options);
    if options.host && !is_checked() && pool::is_reached(options.threshold, request) {
        HOST.store(true, Ordering::Relaxed);
        // What somebody has said of the C library's heap holds.
        let said = |entry: &[u8]| HEAP_VARIABLES.iter().any(|name| entry.starts_with(name));
        pool::want(&options, !variables(environment).any(said));
    }
}

#[cold]
fn refuse(problem: Problem) {
    say!("{}: {problem}; nothing is pooled", options::NAME);
}

/// Variables of the environment, each with its value.
fn variables(environment: *const *const c_char) -> impl Iterator<Item = &'static [u8]> {
    let mut at = environment;
    core::iter::from_fn(move || {
        // SAFETY: the loader's list of strings, which ends with NULL. It stays, as the strings do.
        unsafe {
            if at.is_null() || (*at).is_null() {
                return None;
            }
            let entry = CStr::from_ptr(*at).to_bytes();
            at = at.add(1);
            Some(entry)
        }
    })
}

fn is_checked() -> bool {
    // SAFETY: names that end with a NUL.
    CHECKERS.iter().any(|name| unsafe { !libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()).is_null() })
}

/// Asks for memory in the way in which a program does.
fn request(bytes: usize) {
    // SAFETY: the functions of these names, which every process has, with their types.
    unsafe {
        let malloc = libc::dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr());
        let free = libc::dlsym(libc::RTLD_DEFAULT, c"free".as_ptr());
        type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
        type Free = unsafe extern "C" fn(*mut c_void);
        let malloc = core::mem::transmute::<*mut c_void, Option<Malloc>>(malloc);
        let free = core::mem::transmute::<*mut c_void, Option<Free>>(free);
        if let (Some(malloc), Some(free)) = (malloc, free) {
            free(malloc(bytes));
        }
    }
}

extern "C" fn end() {
    pool::end_trace();
    cuda::end();
    if STATS.load(Ordering::Relaxed) {
        print_tables();
    }
}

fn row(table: &mut Line, name: &str, value: u64) {
    let _ = writeln!(table, "forebay_preload:   {name:<34}{value:>18}");
}

fn rows(table: &mut Line, numbers: &Statistics) {
    for (name, value) in [
        ("requests served", numbers.allocations),
        ("of them from what was mapped", numbers.hits),
        ("that had pages mapped or moved", numbers.misses),
        ("refused, to the next allocator", numbers.failed),
        ("bytes requested", numbers.requested_total),
        ("bytes requested, peak", numbers.requested_peak),
        ("bytes mapped, peak", numbers.reserved_peak),
        ("bytes mapped now", numbers.reserved_bytes),
        ("live blocks now", numbers.live_blocks),
        ("system or driver calls", numbers.system_calls),
        ("times idle memory was given back", numbers.trims),
    ] {
        row(table, name, value);
    }
}

fn print_tables() {
    // SAFETY: a plain query.
    let process = unsafe { libc::getpid() };
    if HOST.load(Ordering::Relaxed) {
        let report = pool::report();
        let mut table = Line::new();
        let _ = writeln!(table, "forebay_preload: process {process}, host");
        row(&mut table, "large requests before the pool", report.passed.0);
        row(&mut table, "their bytes", report.passed.1);
        if let Some(numbers) = &report.pool {
            rows(&mut table, numbers);
        }
        crate::say::raw(table.as_bytes());
    }
    for (device, ordered, numbers) in
        cuda::numbers().filter(|(.., numbers)| numbers.allocations > 0)
    {
        let mut table = Line::new();
        let order = if ordered { "in stream order" } else { "freed by waiting" };
        let _ = writeln!(table, "forebay_preload: process {process}, GPU {device}, {order}");
        rows(&mut table, &numbers);
        crate::say::raw(table.as_bytes());
    }
}
