//! Pools as a whole.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::guard::{
    PublicStruct, User, check_sized, guard, guard_or, out, read_sized, write_sized,
};
use super::handle::{Handles, Owned};
use super::status::forebay_status;
use super::stream::{forebay_stream, stream_of};
use crate::device::CudaOptions;
use crate::error::{Result, fail};
use crate::pool::{Config, Flags, Policy, Pool, SleepMode};

/// A pool: memory of one device, handed out and taken back in stream order. Opaque. Every
/// function that takes one may be called from any thread.
#[allow(non_camel_case_types)]
pub struct forebay_pool {
    _private: [u8; 0],
}

/// What a `forebay_pool` pointer leads to.
#[repr(C)]
struct Handle {
    /// The pool's number, or `NO_POOL`.
    id: AtomicU64,
    pool: Owned<Pool>,
    /// The pool is the library's own, and is not for callers to destroy.
    lasting: bool,
}

static HANDLES: Handles<Handle> = Handles::new("pool", "forebay_pool_create");

/// A handle for a pool that stays until the process ends.
pub fn lasting_handle_of(pool: Arc<Pool>) -> *mut forebay_pool {
    handle_of(pool, true).cast()
}

/// Makes a handle for `pool`.
fn handle_of(pool: Arc<Pool>, lasting: bool) -> *mut Handle {
    HANDLES.keep(Handle { id: AtomicU64::new(pool.id()), pool: Owned::new(pool), lasting })
}

/// The number of no pool, and not that with which a thread starts either.
const NO_POOL: u64 = u64::MAX;

/// Where a pool's bytes live.
#[allow(non_camel_case_types)]
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum forebay_device_kind {
    /// System memory.
    Host = 0,
    /// An NVIDIA GPU, by its driver.
    Cuda = 1,
    /// System memory that GPUs copy from and to at full speed. All of the limit is taken, and
    /// registered with the driver, when the pool is created.
    Pinned = 2,
}

/// How a pool weighs speed against memory.
#[allow(non_camel_case_types)]
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum forebay_policy {
    /// Eight size classes per doubling; keeps up to half of the limit idle, and gives back
    /// what has been idle for ten seconds, and everything idle when less than a sixteenth of
    /// the memory is left, of the machine's or of what a control group allows.
    Balanced = 0,
    /// Sixteen size classes per doubling, no front caches; a free gives its pages back.
    Conservative = 1,
    /// One size class per doubling; gives nothing back unless asked.
    AggressiveReuse = 2,
    /// As balanced, but every block is zeroed, blocks of 2 MiB and more begin at a multiple
    /// of that, and up to three quarters of the limit are kept idle until little is left.
    QualityFirst = 3,
    /// Four size classes per doubling; `initial_bytes` are mapped and touched at the start,
    /// and nothing is given back unless asked.
    LatencyFirst = 4,
}

/// Blocks are zeroed before they are given out.
pub const FOREBAY_POOL_ZERO_ON_ALLOC: u64 = 1;
/// Freed bytes are overwritten with 0xDF.
pub const FOREBAY_POOL_POISON_ON_FREE: u64 = 2;
/// At least 16 guard bytes lie behind each block; they are checked when it is freed and by
/// `forebay_pool_check`.
pub const FOREBAY_POOL_GUARD_BYTES: u64 = 4;
/// Threads keep no just-freed blocks for themselves: every call goes to the shared pool.
pub const FOREBAY_POOL_NO_FRONT_CACHE: u64 = 8;

/// What a pool is made from. Set `struct_size` and leave the rest zero for a balanced pool on
/// system memory; `FOREBAY_POOL_CONFIG_INIT` does.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_pool_config {
    /// sizeof(forebay_pool_config).
    pub struct_size: usize,
    /// Where the bytes live: a `forebay_device_kind`.
    pub device_kind: i32,
    /// Which GPU, as the driver counts them (for pinned memory: whose streams order its use);
    /// 0 on the host.
    pub device_index: i32,
    /// Most bytes mapped at a time; 0 = as many as the device has.
    pub max_bytes: u64,
    /// Bytes mapped at creation.
    pub initial_bytes: u64,
    /// 0, or a power of two: every size is rounded up to a multiple of it.
    pub block_size: u64,
    /// A `forebay_policy`.
    pub policy: i32,
    /// Zero.
    pub reserved: u32,
    /// `FOREBAY_POOL_...`, ORed together.
    pub flags: u64,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_pool_config {
    const FIRST: usize = 56;
    const NAME: &'static str = "forebay_pool_config";
}

/// What `forebay_pool_defragment` did. Set `struct_size` before the call.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_defrag_report {
    /// sizeof(forebay_defrag_report).
    pub struct_size: usize,
    /// Pages of 2 MiB that were moved.
    pub pages_moved: u64,
    /// By how many bytes the largest free run grew.
    pub bytes_gained: u64,
    /// System calls that were made.
    pub system_calls: u64,
    /// Bytes of the largest free run before.
    pub largest_free_before: u64,
    /// Bytes of the largest free run after.
    pub largest_free_after: u64,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_defrag_report {
    const FIRST: usize = 48;
    const NAME: &'static str = "forebay_defrag_report";
}

/// Called when memory is short, with the bytes that are needed and the pointer it was set
/// with. It may free blocks of the pool. Non-zero: try again. Must not throw.
#[allow(non_camel_case_types)]
pub type forebay_oom_fn = Option<unsafe extern "C" fn(size: usize, user: *mut c_void) -> i32>;

/// Runs `body` with the pool behind a handle; a panic in it poisons the pool.
///
/// # Safety
/// `pool` is NULL or came from `forebay_pool_create`, and is not destroyed before this returns.
#[inline(always)]
pub unsafe fn with_pool(
    pool: *const forebay_pool,
    body: impl FnOnce(&Pool) -> Result<()>,
) -> forebay_status {
    // SAFETY: the caller's promise.
    match unsafe { pool_behind(pool) } {
        Ok(pool) => guard_or(|| body(pool), || pool.poison()),
        Err(error) => error.into(),
    }
}

/// As [`with_pool`], for calls that would answer for a poisoned pool too.
///
/// # Safety
/// As for [`with_pool`].
pub unsafe fn with_open_pool(
    pool: *const forebay_pool,
    body: impl FnOnce(&Pool) -> Result<()>,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, |pool| pool.check_open().and_then(|()| body(pool))) }
}

/// The number of the pool behind a handle, for the hit path; none for NULL.
///
/// # Safety
/// As for [`with_pool`].
#[inline(always)]
pub unsafe fn id_of(pool: *const forebay_pool) -> Option<u64> {
    // SAFETY: the caller's promise: NULL, or a handle, which is never freed.
    let handle = unsafe { pool.cast::<Handle>().as_ref() }?;
    Some(handle.id.load(Ordering::Relaxed))
}

fn policy_of(number: i32) -> Result<Policy> {
    match number {
        0 => Ok(Policy::Balanced),
        1 => Ok(Policy::Conservative),
        2 => Ok(Policy::AggressiveReuse),
        3 => Ok(Policy::QualityFirst),
        4 => Ok(Policy::LatencyFirst),
        _ => Err(fail!(InvalidArgument, "policy is {number}; it must be 0 to 4")),
    }
}

fn config_of(config: &forebay_pool_config) -> Result<Config> {
    let known = FOREBAY_POOL_ZERO_ON_ALLOC
        | FOREBAY_POOL_POISON_ON_FREE
        | FOREBAY_POOL_GUARD_BYTES
        | FOREBAY_POOL_NO_FRONT_CACHE;
    if config.flags & !known != 0 {
        return Err(fail!(
            InvalidArgument,
            "flags is {:#x}; this library knows the bits {known:#x}",
            config.flags
        ));
    }
    if config.reserved != 0 {
        return Err(fail!(InvalidArgument, "reserved is {}; it must be 0", config.reserved));
    }
    Ok(Config {
        max_bytes: config.max_bytes,
        initial_bytes: config.initial_bytes,
        block_size: config.block_size,
        policy: policy_of(config.policy)?,
        flags: Flags {
            zero_on_alloc: config.flags & FOREBAY_POOL_ZERO_ON_ALLOC != 0,
            poison_on_free: config.flags & FOREBAY_POOL_POISON_ON_FREE != 0,
            guard_bytes: config.flags & FOREBAY_POOL_GUARD_BYTES != 0,
            no_front_cache: config.flags & FOREBAY_POOL_NO_FRONT_CACHE != 0,
        },
    })
}

/// The pool that `config` asks for.
fn create(config: &forebay_pool_config) -> Result<Arc<Pool>> {
    let plain = config_of(config)?;
    let Ok(index) = u32::try_from(config.device_index) else {
        let index = config.device_index;
        return Err(fail!(InvalidArgument, "device_index is {index}; devices count from 0"));
    };
    match config.device_kind {
        0 if index != 0 => {
            Err(fail!(InvalidArgument, "device_index is {index}; the host has one device, 0"))
        }
        0 => Pool::on_host(&plain),
        1 => Pool::on_cuda(&plain, &CudaOptions { ordinal: index, ..CudaOptions::default() }),
        2 => Pool::on_pinned(&plain, index),
        other => Err(fail!(InvalidArgument, "device_kind is {other}; it must be 0 to 2")),
    }
}

/// Creates a pool and writes it to `*out`. `config` NULL stands for all defaults; it is not
/// kept. The pool is the caller's, until `forebay_pool_destroy`. Addresses for it are reserved
/// now, memory is mapped as it is needed.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL; the message
/// names the field of `config`; there is no device `device_index`), `FOREBAY_ERROR_UNSUPPORTED` (no
/// CUDA driver, or one that is too old), `FOREBAY_ERROR_OUT_OF_MEMORY` (no addresses, or not
/// `initial_bytes`), `FOREBAY_ERROR_INVALID_STATE` (the driver failed; CUDA was used before a fork).
///
/// # Safety
/// `config` is NULL or points to a config with `struct_size` set; `out` is NULL or valid for
/// writing.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_create(
    config: *const forebay_pool_config,
    out: *mut *mut forebay_pool,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        let pool = if config.is_null() {
            Pool::on_host(&Config::default())?
        } else {
            // SAFETY: the caller's promise.
            create(&unsafe { read_sized(config)? })?
        };
        *out = handle_of(pool, false).cast();
        Ok(())
    })
}

/// Destroys a pool and gives all its memory back, that of live blocks included: the log has
/// a warning with their number and bytes. NULL is fine: nothing happens. No call with this
/// pool may be under way in another thread; later ones get `FOREBAY_ERROR_INVALID_ARGUMENT`.
/// Works on a poisoned pool.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (destroyed before), `FOREBAY_ERROR_INVALID_STATE` (blocks
/// were live; the pool is destroyed all the same, and the message tells how many; or it is
/// PyTorch's allocator, from `forebay_torch_pool`, and stays).
///
/// # Safety
/// `pool` is NULL or came from `forebay_pool_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_destroy(pool: *mut forebay_pool) -> forebay_status {
    guard(|| {
        if pool.is_null() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        let handle = unsafe { HANDLES.at(pool) }?;
        if handle.lasting {
            return Err(fail!(
                InvalidState,
                "pool is PyTorch's allocator; it stays until the process ends"
            ));
        }
        handle.id.store(NO_POOL, Ordering::Release);
        Pool::destroy(handle.pool.take().ok_or_else(|| HANDLES.destroyed())?)
    })
}

/// Gives idle memory back to the system until at most `keep_bytes` are mapped, or nothing
/// idle is left. Front caches are emptied first. The bytes given back go to `*released`
/// (may be NULL).
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for every call; `released` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_trim(
    pool: *mut forebay_pool,
    keep_bytes: usize,
    released: *mut usize,
) -> forebay_status {
    let body = |pool: &Pool| {
        let bytes = pool.trim(keep_bytes as u64)?;
        // SAFETY: the caller's promise.
        if let Some(released) = unsafe { released.as_mut() } {
            *released = bytes as usize;
        }
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// Waits until streams are done with what was freed on them so far, so that all of it is idle:
/// before a `forebay_pool_trim` that is to give back as much as there is.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_wait_for_frees(pool: *mut forebay_pool) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, Pool::wait_for_frees) }
}

/// Moves idle pages together, so that the largest free run is as large as it can be; live
/// blocks stay where they are. What it did goes to `*report` (may be NULL).
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`, `FOREBAY_ERROR_OUT_OF_MEMORY` (the
/// system refused to move pages; nothing is lost).
///
/// # Safety
/// `pool` as for every call; `report` is NULL or points to a report with `struct_size` set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_defragment(
    pool: *mut forebay_pool,
    report: *mut forebay_defrag_report,
) -> forebay_status {
    let body = |pool: &Pool| {
        // SAFETY: the caller's promise.
        unsafe { check_sized(report)? };
        let done = pool.defragment()?;
        if report.is_null() {
            return Ok(());
        }
        let value = forebay_defrag_report {
            struct_size: 0,
            pages_moved: done.pages_moved,
            bytes_gained: done.bytes_gained,
            system_calls: done.system_calls,
            largest_free_before: done.largest_before,
            largest_free_after: done.largest_after,
        };
        // SAFETY: the caller's promise.
        unsafe { write_sized(report, &value) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// Changes the policy, a `forebay_policy`. Size classes follow when no small block is live;
/// otherwise those that live keep the old ones in use.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_set_policy(
    pool: *mut forebay_pool,
    policy: i32,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, |pool| pool.set_policy(policy_of(policy)?)) }
}

/// Changes the limit to `max_bytes` mapped bytes; 0 = as many as the device has. Idle memory
/// beyond a lower limit is given back.
///
/// Errors, with the old limit kept: `FOREBAY_ERROR_INVALID_ARGUMENT` (less than a page of 2 MiB,
/// less than what live blocks take, or more than the addresses that were reserved at
/// creation, four times the limit it was created with), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_set_limit(
    pool: *mut forebay_pool,
    max_bytes: u64,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, |pool| pool.set_limit(max_bytes)) }
}

/// What becomes of the bytes of a pool that sleeps.
#[allow(non_camel_case_types)]
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum forebay_sleep_mode {
    /// They are gone: after waking, blocks hold anything.
    Discard = 0,
    /// They are kept in pinned system memory, and come back. Cuda pools only.
    Backup = 1,
}

/// Gives the device all memory of a pool back and keeps every address, blocks included, until
/// `forebay_pool_wake`. Waits for all work on the device first; nobody queues work that uses the
/// pool's blocks before it is awake. `mode` is a `forebay_sleep_mode`. Meanwhile blocks may be
/// freed, and their pages do not come back; calls that need memory answer
/// `FOREBAY_ERROR_INVALID_STATE`. Pages that were exported stay. What the pool has reserved says
/// `forebay_pool_stats`.
///
/// Errors, with nothing changed: `FOREBAY_ERROR_INVALID_ARGUMENT` (`mode`),
/// `FOREBAY_ERROR_INVALID_STATE` (it sleeps already; a graph is being captured; the driver
/// failed), `FOREBAY_ERROR_OUT_OF_MEMORY` (no pinned memory for the backup),
/// `FOREBAY_ERROR_UNSUPPORTED` (a backup of a host pool; memory that cannot be given back in
/// parts).
///
/// # Safety
/// `pool` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_sleep(pool: *mut forebay_pool, mode: i32) -> forebay_status {
    let body = |pool: &Pool| match mode {
        0 => pool.sleep(SleepMode::Discard),
        1 => pool.sleep(SleepMode::Backup),
        _ => Err(fail!(InvalidArgument, "mode is {mode}; it must be 0 or 1")),
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// Gets memory from the device for every address of the pool that has live blocks, and the
/// backup into it, if there is one.
///
/// Errors: `FOREBAY_ERROR_OUT_OF_MEMORY` (the device has not enough: the pool sleeps on, nothing
/// is lost, and this can be called again), `FOREBAY_ERROR_INVALID_STATE` (it does not sleep; the
/// driver failed).
///
/// # Safety
/// `pool` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_wake(pool: *mut forebay_pool) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, Pool::wake) }
}

/// Tells a cuda pool that `stream` is about to be destroyed: what was freed on it is everybody's
/// once its work is done, and the handle may be another stream's afterwards. A stream that was
/// destroyed without this is found out, and costs a wait for everything on the device.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (the default stream, which stays; a stream of another
/// device), `FOREBAY_ERROR_INVALID_STATE` (the stream is capturing a graph, or is no stream).
///
/// # Safety
/// `pool` as for every call; `stream` is a stream of its device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_forget_stream(
    pool: *mut forebay_pool,
    stream: forebay_stream,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, |pool| pool.forget_stream(stream_of(stream))) }
}

/// Has memory that lay idle for `milliseconds` go back to the system at once, whatever the policy
/// says; 0 = as the policy says. Front caches count: what a thread kept that has made no call for
/// that long goes back too. A thread of the library looks every second while pages are mapped, so
/// it takes up to twice the time and a second. At first it is 0.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (more than 86400000, a day), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_set_decay(
    pool: *mut forebay_pool,
    milliseconds: u64,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, |pool| pool.set_decay(Duration::from_millis(milliseconds))) }
}

/// Writes the first of the addresses that a pool reserved when it was created to `*first`, and how
/// many bytes they are to `*bytes` (both may be NULL). Every block of the pool lies there, and
/// nothing else does, until it is destroyed: so a pointer is told from others by one
/// comparison.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool`), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for every call; `first` and `bytes` are NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_addresses(
    pool: *mut forebay_pool,
    first: *mut *const c_void,
    bytes: *mut usize,
) -> forebay_status {
    let body = |pool: &Pool| {
        let (base, size) = pool.addresses();
        // SAFETY: the caller's promise.
        if let Some(first) = unsafe { first.as_mut() } {
            *first = base as *const c_void;
        }
        // SAFETY: the caller's promise.
        if let Some(bytes) = unsafe { bytes.as_mut() } {
            *bytes = size as usize;
        }
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// Has `callback(size, user)` called before an allocation fails for lack of memory, up to 16
/// times for one allocation; NULL for nothing. `user` stays the caller's and must be valid
/// until another function is set, or the pool is destroyed.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for every call; `callback` may be called with `user` from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_set_oom_callback(
    pool: *mut forebay_pool,
    callback: forebay_oom_fn,
    user: *mut c_void,
) -> forebay_status {
    let body = |pool: &Pool| {
        let user = User(user);
        pool.set_oom_callback(callback.map(|callback| {
            let shared: crate::pool::OomCallback = Arc::new(move |bytes| {
                let User(user) = { user };
                // SAFETY: the caller's promise.
                unsafe { callback(bytes as usize, user) != 0 }
            });
            shared
        }));
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_open_pool(pool, body) }
}

/// Checks every invariant of the pool's bookkeeping and, with `FOREBAY_POOL_GUARD_BYTES`, the
/// guard bytes of every live block. Walks over everything: for tests and debugging.
///
/// Errors: `FOREBAY_ERROR_CORRUPTION` (the message names the block and the byte),
/// `FOREBAY_ERROR_INTERNAL` (the bookkeeping is wrong), `FOREBAY_ERROR_INVALID_ARGUMENT`,
/// `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_check(pool: *mut forebay_pool) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, Pool::check) }
}

/// The pool behind a handle, for those who have to keep it.
///
/// # Safety
/// As for [`with_pool`].
#[inline(always)]
pub unsafe fn pool_behind<'a>(pool: *const forebay_pool) -> Result<&'a Pool> {
    // SAFETY: the caller's promise.
    let handle = unsafe { HANDLES.at(pool) }?;
    // SAFETY: not destroyed while it is used, by the caller's promise.
    unsafe { handle.pool.get() }.ok_or_else(|| HANDLES.destroyed())
}

/// As [`pool_behind`], for those who keep it longer than a call.
///
/// # Safety
/// As for [`with_pool`].
pub unsafe fn shared_pool(pool: *const forebay_pool) -> Result<Arc<Pool>> {
    // SAFETY: the caller's promise.
    let pool: *const Pool = unsafe { pool_behind(pool)? };
    // SAFETY: the object of an `Arc` that the handle holds, and not destroyed before this returns.
    unsafe {
        Arc::increment_strong_count(pool);
        Ok(Arc::from_raw(pool))
    }
}

const _: () = assert!(size_of::<forebay_pool_config>() == forebay_pool_config::FIRST);
const _: () = assert!(size_of::<forebay_defrag_report>() == forebay_defrag_report::FIRST);
