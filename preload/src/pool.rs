//! The host pool of the process: when it is made, what is taken from it and given back.
//!
//! It is made once a program has asked for large blocks often enough, by a thread of its own: to
//! load a library in the middle of an allocation could wait for a lock of the loader whose holder
//! waits for one of the program's. A program that does nothing large loads nothing and has no
//! thread. What it asked for before stays the next allocator's.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_void};
use core::fmt::Write;
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

use crate::library::{
    self, Config, INVALID_POINTER, Library, NO_POOL, NO_STREAM, OK, RawPool, Statistics,
};
use crate::options::{Options, PATH_MOST};
use crate::own::{Errno, Inside};
use crate::say::{Line, say};
use crate::{next, zero};

/// Requests are rounded up to a multiple of this, which is what blocks are anyway: so all that
/// `malloc_usable_size` promises is kept when a block changes its size.
pub const GRANULE: usize = 512;
/// Least size that a block of the pool is cut to: below, a pool rounds in another way.
const BLOCK_LEAST: usize = (32 << 10) + 1;
/// Greatest size and alignment of a pool.
const BLOCK_MOST: usize = 1 << 46;
const ALIGNMENT_MOST: usize = 1 << 30;
/// After how many milliseconds idle memory goes back to the system.
const DECAY: u64 = 2000;
/// How many large requests, and bytes of them, make a pool worth its while; and bytes that do so
/// however many they are in. A program that asks for some tens and goes on with small blocks would
/// have the pool's idle pages beside those at its peak: with a third of this gcc had 76 MiB and CPython's
/// tests 63, with this 69 and 51, as without the library. What it costs is some 10,000 page faults
/// of a program with large temporaries, once.
const WORTH_COUNT: u64 = 48;
const WORTH_BYTES: u64 = 8 << 20;
const WORTH_ANYHOW: u64 = 48 << 20;
/// By how many bytes large blocks grow before there is a pool until the C library may keep them.
const KEPT_FROM: u64 = 8 << 20;

/// The least request that may be the pool's. What is compared with first, at every call.
pub static THRESHOLD: AtomicUsize = AtomicUsize::new(usize::MAX);
/// The first address of the pool. Without one, such that no address is less than [`BYTES`] behind
/// it, whichever of the two is seen first.
pub static FIRST: AtomicUsize = AtomicUsize::new(1 << (usize::BITS - 1));
/// How many addresses it has.
pub static BYTES: AtomicUsize = AtomicUsize::new(0);

/// The pool and what is needed to use it.
struct Host {
    library: &'static Library,
    pool: *mut RawPool,
}

/// What a hit needs, each by itself and without asking whether there is a pool: at first such that
/// nothing is at hand.
pub mod hit {
    use core::ffi::c_void;
    use core::ptr::null_mut;
    use core::sync::atomic::{AtomicPtr, AtomicUsize};

    use crate::library::{AllocMiss, FreeMiss, RawPool};

    /// The pool.
    pub static POOL: AtomicPtr<RawPool> = AtomicPtr::new(null_mut());
    /// `forebay_alloc_at_hand`.
    pub static ALLOC: AtomicPtr<c_void> = AtomicPtr::new(no_block as *mut c_void);
    /// `forebay_free_at_hand`.
    pub static FREE: AtomicPtr<c_void> = AtomicPtr::new(no_place as *mut c_void);
    /// Where the library's code begins. It allocates too, some of it with its locks held.
    pub static CODE: AtomicUsize = AtomicUsize::new(0);
    /// How many bytes it has.
    pub static CODE_BYTES: AtomicUsize = AtomicUsize::new(0);

    unsafe extern "C" fn no_block(_: *mut RawPool, size: usize, miss: AllocMiss) -> *mut c_void {
        // SAFETY: a function of this type.
        unsafe { miss(size, 0) }
    }

    unsafe extern "C" fn no_place(_: *mut RawPool, ptr: *mut c_void, miss: FreeMiss) -> i32 {
        // SAFETY: a function of this type.
        unsafe { miss(ptr, 0) }
    }
}

/// Where the one [`Host`] lies.
struct Place(UnsafeCell<MaybeUninit<Host>>);

// SAFETY: written once, by the thread that makes the pool, before `HOST` leads to it.
unsafe impl Sync for Place {}

static PLACE: Place = Place(UnsafeCell::new(MaybeUninit::uninit()));
/// NULL until there is a pool.
static HOST: AtomicPtr<Host> = AtomicPtr::new(null_mut());

/// How far it is with the pool.
mod state {
    /// Not wanted, or failed.
    pub const OFF: u32 = 0;
    /// What comes through is only counted: this library finds out whether anything does.
    pub const PROBED: u32 = 1;
    /// Something did.
    pub const SEEN: u32 = 2;
    /// For a program that makes it worth its while.
    pub const WAITING: u32 = 3;
    /// A thread is making it.
    pub const MADE: u32 = 4;
    /// There.
    pub const READY: u32 = 5;
}

static STATE: AtomicU32 = AtomicU32::new(state::OFF);
/// The process it is for, to tell the child of a `vfork`, which is none of its own.
static PROCESS: AtomicI32 = AtomicI32::new(0);
/// Large requests before there was a pool.
static PASSED_COUNT: AtomicU64 = AtomicU64::new(0);
static PASSED_BYTES: AtomicU64 = AtomicU64::new(0);
/// By how many bytes large blocks grew before.
static GROWN_BYTES: AtomicU64 = AtomicU64::new(0);
/// The C library was told not to keep large blocks.
static TOLD: AtomicBool = AtomicBool::new(false);
/// Options, from before the pool is wanted.
static POLICY: AtomicI32 = AtomicI32::new(0);
static TRACE: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static TRACE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// `quality_first`, which zeroes every block.
const ZEROING_POLICY: i32 = 3;

/// Finds out whether calls of the program's come here: they do not where the program has an
/// allocator of its own linked in, or runs under a tool that puts its own in place of all.
/// `request` makes one of so many bytes, in the way the program does.
pub fn is_reached(threshold: usize, request: impl FnOnce(usize)) -> bool {
    STATE.store(state::PROBED, Ordering::Release);
    THRESHOLD.store(threshold, Ordering::Release);
    request(threshold);
    THRESHOLD.store(usize::MAX, Ordering::Release);
    STATE.swap(state::OFF, Ordering::AcqRel) == state::SEEN
}

/// Has large requests be served, once they are worth it. The C library is told not to keep them until
/// then, if it is `ours_to_tell`.
pub fn want(options: &Options, ours_to_tell: bool) {
    POLICY.store(options.policy, Ordering::Relaxed);
    if let Some(trace) = options.trace {
        TRACE_BYTES.store(trace.len(), Ordering::Relaxed);
        TRACE.store(trace.as_ptr().cast_mut(), Ordering::Relaxed);
    }
    // SAFETY: a plain query.
    PROCESS.store(unsafe { libc::getpid() }, Ordering::Relaxed);
    // SAFETY: functions that stay, this library is never unloaded. A refusal leaves forks as they
    // are without us.
    unsafe { libc::pthread_atfork(Some(before_fork), None, Some(in_child)) };
    TOLD.store(ours_to_tell && next::map_from(options.threshold), Ordering::Relaxed);
    STATE.store(state::WAITING, Ordering::Release);
    THRESHOLD.store(options.threshold, Ordering::Release);
}

/// There will be no pool.
fn give_up() {
    THRESHOLD.store(usize::MAX, Ordering::Release);
    STATE.store(state::OFF, Ordering::Release);
    if TOLD.swap(false, Ordering::Relaxed) {
        next::keep_large();
    }
}

fn host() -> Option<&'static Host> {
    // SAFETY: NULL, or the one that was written before and stays.
    unsafe { HOST.load(Ordering::Acquire).as_ref() }
}

/// A large request came while there was no pool.
#[cold]
fn passed(size: usize) {
    if STATE.load(Ordering::Relaxed) == state::PROBED {
        STATE.store(state::SEEN, Ordering::Relaxed);
        return;
    }
    let count = PASSED_COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    let bytes = PASSED_BYTES.fetch_add(size as u64, Ordering::Relaxed).saturating_add(size as u64);
    if (count < WORTH_COUNT || bytes < WORTH_BYTES) && bytes < WORTH_ANYHOW {
        return;
    }
    // SAFETY: a plain query.
    let here = unsafe { libc::getpid() } == PROCESS.load(Ordering::Relaxed);
    let begin = |from, to| STATE.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
    if here && begin(state::WAITING, state::MADE).is_ok() && !start_maker() {
        STATE.store(state::WAITING, Ordering::Release);
        // As long as threads are refused, not with every request.
        PASSED_COUNT.store(0, Ordering::Relaxed);
    }
}

/// A large block of the next allocator grows by so many bytes. A program that has its large blocks
/// grow, and asks for few, is better off where the next block lies where this one lay.
pub fn grown(bytes: usize) {
    if TOLD.load(Ordering::Relaxed)
        && host().is_none()
        && GROWN_BYTES.fetch_add(bytes as u64, Ordering::Relaxed) >= KEPT_FROM
        && TOLD.swap(false, Ordering::Relaxed)
    {
        next::keep_large();
    }
}

/// Starts the thread that makes the pool; false when there is none to be had.
fn start_maker() -> bool {
    let Some(_inside) = Inside::enter() else { return false };
    let _errno = Errno::keep();
    // SAFETY: places of this frame, filled before they are read. The thread has all signals
    // blocked: they are for the program's own.
    unsafe {
        let (mut all, mut before) = core::mem::zeroed::<(libc::sigset_t, libc::sigset_t)>();
        libc::sigfillset(&mut all);
        if libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) != 0 {
            return false;
        }
        let mut attributes: libc::pthread_attr_t = core::mem::zeroed();
        let mut started = libc::pthread_attr_init(&mut attributes) == 0;
        if started {
            libc::pthread_attr_setdetachstate(&mut attributes, libc::PTHREAD_CREATE_DETACHED);
            let mut thread = 0;
            started = libc::pthread_create(&mut thread, &attributes, make, null_mut()) == 0;
            libc::pthread_attr_destroy(&mut attributes);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, null_mut());
        started
    }
}

/// The thread that makes the pool.
extern "C" fn make(_: *mut c_void) -> *mut c_void {
    let _inside = Inside::enter();
    let made = library::library().and_then(make_of);
    match made {
        Some(host) => {
            let place = PLACE.0.get();
            // SAFETY: this thread is the only one ever that makes a pool, and nobody looks yet.
            unsafe { (*place).write(host) };
            HOST.store(place.cast(), Ordering::Release);
            // What misses finds the pool.
            if let Some(host) = self::host() {
                hit::ALLOC.store(host.library.alloc_at_hand as *mut c_void, Ordering::Release);
                hit::FREE.store(host.library.free_at_hand as *mut c_void, Ordering::Release);
            }
            STATE.store(state::READY, Ordering::Release);
        }
        None => give_up(),
    }
    null_mut()
}

fn make_of(library: &'static Library) -> Option<Host> {
    let config = Config { policy: POLICY.load(Ordering::Relaxed), ..Config::new() };
    let (mut pool, mut first, mut bytes) = (NO_POOL, 0, 0);
    // SAFETY: a config with its size set, and places of this frame.
    let made = unsafe {
        (library.pool_create)(&config, &mut pool) == OK
            && (library.pool_addresses)(pool, &mut first, &mut bytes) == OK
    };
    if !made {
        say!("no host pool: {}; nothing is pooled", library.why());
        return None;
    }
    // SAFETY: the pool made above.
    unsafe { (library.pool_set_decay)(pool, DECAY) };
    start_trace(library, pool);
    // Before anything can come from there.
    FIRST.store(first, Ordering::Release);
    BYTES.store(bytes, Ordering::Release);
    let (code, code_bytes) = library::extent_of(library);
    hit::CODE.store(code, Ordering::Release);
    hit::CODE_BYTES.store(code_bytes, Ordering::Release);
    hit::POOL.store(pool, Ordering::Release);
    Some(Host { library, pool })
}

fn start_trace(library: &Library, pool: *mut RawPool) {
    let (at, bytes) = (TRACE.load(Ordering::Relaxed), TRACE_BYTES.load(Ordering::Relaxed));
    if at.is_null() {
        return;
    }
    // SAFETY: a part of the environment as it was at the start, which stays.
    let name = unsafe { core::slice::from_raw_parts(at, bytes) };
    // "%p" stands for the process, as several may have the same variable.
    let mut path = [0u8; PATH_MOST + 512];
    let mut length = 0;
    let mut put = |byte| {
        if let Some(place) = path.get_mut(length).filter(|_| length <= PATH_MOST + 500) {
            *place = byte;
            length += 1;
        }
    };
    let mut rest = name.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte == b'%' && rest.next_if_eq(&b'p').is_some() {
            let mut process = Line::new();
            let _ = write!(process, "{}", PROCESS.load(Ordering::Relaxed));
            process.as_bytes().iter().copied().for_each(&mut put);
        } else {
            put(byte);
        }
    }
    let Ok(path) = CStr::from_bytes_until_nul(&path) else { return };
    // SAFETY: a pool of the library's, and a string that ends with a NUL.
    if unsafe { (library.trace_start)(pool, path.as_ptr()) } != OK {
        say!("no trace: {}", library.why());
    }
}

/// Whether the library itself calls.
fn is_library(caller: usize) -> bool {
    caller.wrapping_sub(hit::CODE.load(Ordering::Relaxed)) < hit::CODE_BYTES.load(Ordering::Relaxed)
}

/// A block of at least `size` bytes whose address is a multiple of `alignment`, for who calls from
/// `caller`; none when it is not the pool's to give.
#[inline]
pub fn take(size: usize, alignment: usize, caller: usize) -> Option<*mut c_void> {
    let Some(host) = host() else {
        passed(size);
        return None;
    };
    if size > BLOCK_MOST || alignment > ALIGNMENT_MOST || is_library(caller) {
        return None;
    }
    let _inside = Inside::enter()?;
    let size = size.next_multiple_of(GRANULE);
    let mut block = null_mut();
    // SAFETY: the pool, and a place of this frame.
    let status = unsafe {
        if alignment <= GRANULE {
            (host.library.alloc)(host.pool, size, NO_STREAM, &mut block)
        } else {
            let alloc = host.library.alloc_aligned;
            alloc(host.pool, size, alignment, NO_STREAM, &mut block)
        }
    };
    if !LEFT.load(Ordering::Relaxed).is_null() {
        let _errno = Errno::keep();
        give_left(host);
    }
    (status == OK).then_some(block)
}

/// As [`take`], all of it zero.
#[inline]
pub fn take_zeroed(size: usize, caller: usize) -> Option<*mut c_void> {
    let block = take(size, 1, caller)?;
    if POLICY.load(Ordering::Relaxed) != ZEROING_POLICY {
        let _errno = Errno::keep();
        // SAFETY: a block of so many bytes that is this call's; pools map private memory.
        unsafe { zero::zero(block, size) };
    }
    Some(block)
}

/// Whether `ptr` is of the pool.
#[inline(always)]
pub fn owns(ptr: *const c_void) -> bool {
    (ptr as usize).wrapping_sub(FIRST.load(Ordering::Acquire)) < BYTES.load(Ordering::Acquire)
}

/// Blocks that were freed by a thread that was inside, in a signal's handler: the first, which
/// leads to the next by its first word. They go back with a call that is no hit.
static LEFT: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// Gives back a block of the pool.
///
/// # Safety
/// Nobody uses it any more.
#[inline]
pub unsafe fn give(ptr: *mut c_void) {
    let Some(host) = host() else { return };
    let Some(_inside) = Inside::enter() else {
        // SAFETY: the caller's promise: its first word is nobody's.
        unsafe { leave(ptr) };
        return;
    };
    let _errno = Errno::keep();
    give_inside(host, ptr);
    if !LEFT.load(Ordering::Relaxed).is_null() {
        give_left(host);
    }
}

/// Leaves a block of the pool to the next call that may give it back.
///
/// # Safety
/// As for [`give`].
#[cold]
pub unsafe fn leave(ptr: *mut c_void) {
    let mut first = LEFT.load(Ordering::Relaxed);
    loop {
        // SAFETY: the caller's promise; blocks are aligned to more than a word.
        unsafe { ptr.cast::<*mut c_void>().write(first) };
        match LEFT.compare_exchange_weak(first, ptr, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return,
            Err(seen) => first = seen,
        }
    }
}

#[cold]
fn give_left(host: &Host) {
    let mut at = LEFT.swap(null_mut(), Ordering::AcqRel);
    while !at.is_null() {
        // SAFETY: written by `leave`, and read before the block is given back.
        let next = unsafe { at.cast::<*mut c_void>().read() };
        give_inside(host, at);
        at = next;
    }
}

#[inline(always)]
fn give_inside(host: &Host, ptr: *mut c_void) {
    // SAFETY: the pool; the pointer is only looked up.
    let status = unsafe { (host.library.free)(host.pool, ptr, NO_STREAM) };
    if status == INVALID_POINTER {
        wrong(host, "free");
    }
}

/// A pointer of the pool's addresses that is no live block: freed twice, or not the start of
/// one. The C library ends the process then, and so does this.
#[cold]
fn wrong(host: &Host, call: &str) -> ! {
    say!("{call}(): invalid pointer: {}", host.library.why());
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}

/// How many bytes the block at `ptr` of the pool has.
pub fn size_of(ptr: *const c_void) -> usize {
    let Some(host) = host() else { return 0 };
    let mut bytes = 0;
    // SAFETY: the pool, a pointer that is only looked up, and a place of this frame.
    if unsafe { (host.library.usable_size)(host.pool, ptr, &mut bytes) } == INVALID_POINTER {
        wrong(host, "malloc_usable_size");
    }
    bytes
}

/// The block at `ptr` of the pool with `size` bytes: where it is, elsewhere in the pool or, when
/// it is small or the pool has no room, of the next allocator. NULL, and nothing has changed, when
/// that has none either.
///
/// # Safety
/// As for `realloc`.
pub unsafe fn resize(ptr: *mut c_void, size: usize) -> *mut c_void {
    let Some(host) = host() else { return null_mut() };
    if (BLOCK_LEAST..=BLOCK_MOST).contains(&size)
        && let Some(_inside) = Inside::enter()
    {
        let errno = Errno::keep();
        let mut block = null_mut();
        let size = size.next_multiple_of(GRANULE);
        let realloc = host.library.realloc;
        // SAFETY: the pool, a block of it that is the caller's, and a place of this frame.
        let status = unsafe { realloc(host.pool, ptr, size, NO_STREAM, &mut block) };
        drop(errno);
        match status {
            OK => return block,
            INVALID_POINTER => wrong(host, "realloc"),
            _ => {}
        }
    }
    // SAFETY: the caller's promise, and two blocks of at least so many bytes.
    unsafe {
        let fresh = next::malloc(size);
        if !fresh.is_null() {
            core::ptr::copy_nonoverlapping(ptr.cast::<u8>(), fresh.cast(), size_of(ptr).min(size));
            give(ptr);
        }
        fresh
    }
}

/// How long a fork waits for the pool that is being made: in the child nobody would finish it, and
/// the loader may be in the middle of things.
const FORK_WAITS_MS: u32 = 200;

extern "C" fn before_fork() {
    for _ in 0..FORK_WAITS_MS {
        if STATE.load(Ordering::Acquire) != state::MADE {
            return;
        }
        let pause = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        // SAFETY: a time of this frame. Cut short by a signal it is only asked about sooner.
        unsafe { libc::nanosleep(&pause, null_mut()) };
    }
}

extern "C" fn in_child() {
    // SAFETY: a plain query.
    PROCESS.store(unsafe { libc::getpid() }, Ordering::Relaxed);
    if STATE.load(Ordering::Acquire) == state::MADE {
        // It is the parent's thread that was making it.
        give_up();
    }
}

/// What is known at the end.
pub struct Report {
    /// Large requests, and bytes of them, before there was a pool.
    pub passed: (u64, u64),
    /// What the pool counted, if there is one.
    pub pool: Option<Statistics>,
}

/// What is known by now.
pub fn report() -> Report {
    let passed = (PASSED_COUNT.load(Ordering::Relaxed), PASSED_BYTES.load(Ordering::Relaxed));
    let _inside = Inside::enter();
    Report { passed, pool: host().map(|host| Statistics::of(host.library, host.pool)) }
}

/// Ends the trace, if there is one.
pub fn end_trace() {
    let (Some(host), Some(_inside)) = (host(), Inside::enter()) else { return };
    if !TRACE.load(Ordering::Relaxed).is_null() {
        // SAFETY: the pool. In a forked child there is none to end, and that is all it says.
        unsafe { (host.library.trace_stop)(host.pool) };
    }
}
