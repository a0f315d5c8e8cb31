//! Prefetchers: batches in front of who works on them.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use super::guard::{PublicStruct, guard, out, read_sized, write_sized};
use super::handle::{Handles, Owned};
use super::pool::{forebay_pool, shared_pool};
use super::status::forebay_status;
use super::stream::{forebay_stream, stream_of};
use crate::error::{Result, fail};
use crate::prefetch::{
    Config, Leaf, OnPool, Prefetcher, Progress, SLOTS_DEFAULT, Source, THREADS_DEFAULT,
};

/// A prefetcher: a few slots of a pool, and what fills them with batches ahead of their use.
/// Opaque. Every function that takes one may be called from any thread.
#[allow(non_camel_case_types)]
pub struct forebay_prefetcher {
    _private: [u8; 0],
}

static HANDLES: Handles<Owned<Prefetcher<OnPool>>> =
    Handles::new("prefetcher", "forebay_prefetcher_create");

/// No copy threads: the thread that submits a batch copies and reads. Beside `copy_threads` 0.
pub const FOREBAY_PREFETCHER_SYNCHRONOUS: u64 = 1;

/// The leaf is a range of a file.
pub const FOREBAY_PREFETCH_LEAF_FILE: u32 = 1;
/// The leaf's memory is pinned: a device copies from there, and nothing is staged. For a pool on the
/// host it makes no difference.
pub const FOREBAY_PREFETCH_LEAF_PINNED: u32 = 2;
/// The file is read past the page cache, as far as its system can (O_DIRECT).
pub const FOREBAY_PREFETCH_LEAF_DIRECT: u32 = 4;

/// A leaf begins at a multiple of this in its batch.
pub const FOREBAY_PREFETCH_ALIGNMENT: usize = 256;
/// One with `FOREBAY_PREFETCH_LEAF_DIRECT` begins at a multiple of this; if `offset` is one too,
/// nothing but its end goes through the page cache.
pub const FOREBAY_PREFETCH_DIRECT_ALIGNMENT: usize = 4096;

/// Wait as long as it takes.
pub const FOREBAY_PREFETCH_FOREVER: u32 = u32::MAX;

const _: () = assert!(FOREBAY_PREFETCH_ALIGNMENT as u64 == crate::prefetch::ALIGNMENT);
const _: () =
    assert!(FOREBAY_PREFETCH_DIRECT_ALIGNMENT as u64 == crate::prefetch::DIRECT_ALIGNMENT);

/// What a prefetcher is made from. Set `struct_size`; all else may be 0.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_prefetcher_config {
    /// sizeof(forebay_prefetcher_config).
    pub struct_size: usize,
    /// Slots, 1 to 64: the batches that it is ahead, and the one that is worked on. 0 = 3.
    pub slots: u32,
    /// Threads that copy and read, up to 64. 0 = 2.
    pub copy_threads: u32,
    /// Bytes of a slot at first. 0: slots are taken with the first batches.
    pub slot_bytes: u64,
    /// Bytes that a slot grows to for a larger batch. 0: `slot_bytes`; if both are 0, no limit but
    /// the pool's.
    pub max_slot_bytes: u64,
    /// Most bytes of pinned memory, for a pool on a GPU; slots beyond it are staged in memory that
    /// is not, which is slower. 0: a quarter of what the process may have of the system's, in a
    /// container of what that allows.
    pub max_pinned_bytes: u64,
    /// `FOREBAY_PREFETCHER_` flags.
    pub flags: u64,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_prefetcher_config {
    const FIRST: usize = 48;
    const NAME: &'static str = "forebay_prefetcher_config";
}

/// A part of a batch: `size` bytes at `data`, or in a file.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_prefetch_leaf {
    /// First byte; NULL for a file.
    pub data: *const c_void,
    /// How many bytes; may be 0.
    pub size: usize,
    /// First byte in the file.
    pub offset: u64,
    /// An open file, with `FOREBAY_PREFETCH_LEAF_FILE`.
    pub fd: i32,
    /// `FOREBAY_PREFETCH_LEAF_` flags.
    pub flags: u32,
}

/// A batch that a consumer has: from `forebay_prefetch_wait` to `forebay_prefetch_release`. A plain
/// value.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_prefetch_batch {
    /// First byte of the first leaf, in the pool's memory; NULL when nothing was ever in the slot.
    pub ptr: *mut c_void,
    /// Bytes to the end of the last leaf.
    pub size: usize,
}

/// How far a batch is.
#[allow(non_camel_case_types)]
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum forebay_prefetch_progress {
    /// Its sources are still needed.
    Staging = 0,
    /// It is on its way to the device: sources that are not pinned are not needed any more.
    Sent = 1,
    /// It is there.
    There = 2,
}

/// The counters of a prefetcher. Set `struct_size` before the call.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_prefetch_statistics {
    /// sizeof(forebay_prefetch_statistics).
    pub struct_size: usize,
    /// Slots.
    pub slots: u64,
    /// Of them, those in use.
    pub used_slots: u64,
    /// Bytes of the slots in the pool.
    pub slot_bytes: u64,
    /// Bytes of pinned memory for staging now.
    pub pinned_bytes: u64,
    /// And at most.
    pub pinned_peak: u64,
    /// Bytes of staging memory that could not be pinned, or was not to be.
    pub pageable_bytes: u64,
    /// Batches that were submitted.
    pub submitted: u64,
    /// Their bytes.
    pub submitted_bytes: u64,
    /// Of them, those that threads copied or read.
    pub staged_bytes: u64,
    /// Batches that a consumer got.
    pub delivered: u64,
    /// Of them, those that were not staged yet when they were waited for.
    pub late: u64,
    /// Batches that were called off.
    pub cancelled: u64,
    /// Batches that could not be read, or sent.
    pub failed: u64,
    /// Copies that the device was told to make.
    pub sends: u64,
    /// How often a slot became larger.
    pub grown: u64,
    /// Nanoseconds that submits waited for a slot.
    pub submit_wait_ns: u64,
    /// Nanoseconds that consumers waited for a batch to be staged.
    pub wait_ns: u64,
    /// Nanoseconds that threads copied and read, all together.
    pub stage_ns: u64,
    /// Nanoseconds that threads waited for the device to be done with staging memory.
    pub drain_ns: u64,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_prefetch_statistics {
    const FIRST: usize = 160;
    const NAME: &'static str = "forebay_prefetch_statistics";
}

const _: () = assert!(size_of::<forebay_prefetcher_config>() == forebay_prefetcher_config::FIRST);
const _: () =
    assert!(size_of::<forebay_prefetch_statistics>() == forebay_prefetch_statistics::FIRST);

/// Runs `body` with the prefetcher behind a handle; a panic in it poisons the prefetcher.
///
/// # Safety
/// `prefetcher` is NULL or came from `forebay_prefetcher_create`, and is not destroyed before this
/// returns.
unsafe fn with_prefetcher(
    prefetcher: *const forebay_prefetcher,
    body: impl FnOnce(&Prefetcher<OnPool>) -> Result<()>,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { HANDLES.with(prefetcher, body, Prefetcher::poison) }
}

fn config_of(config: &forebay_prefetcher_config) -> Result<Config> {
    if config.flags & !FOREBAY_PREFETCHER_SYNCHRONOUS != 0 {
        return Err(fail!(
            InvalidArgument,
            "flags is {:#x}; this library knows {FOREBAY_PREFETCHER_SYNCHRONOUS:#x}",
            config.flags
        ));
    }
    let or = |number: u32, default: u32| if number == 0 { default } else { number };
    let copy_threads = match config.flags & FOREBAY_PREFETCHER_SYNCHRONOUS {
        0 => or(config.copy_threads, THREADS_DEFAULT),
        _ if config.copy_threads > 0 => {
            return Err(fail!(
                InvalidArgument,
                "copy_threads is {}; with FOREBAY_PREFETCHER_SYNCHRONOUS it must be 0",
                config.copy_threads
            ));
        }
        _ => 0,
    };
    Ok(Config {
        slots: or(config.slots, SLOTS_DEFAULT),
        copy_threads,
        slot_bytes: config.slot_bytes,
        max_slot_bytes: config.max_slot_bytes,
        max_pinned_bytes: config.max_pinned_bytes,
    })
}

/// The error of a leaf that makes no sense, before a slot is waited for.
fn check_leaf(index: usize, leaf: &forebay_prefetch_leaf) -> Result<()> {
    let forebay_prefetch_leaf { data, offset, fd, flags, .. } = *leaf;
    let known =
        FOREBAY_PREFETCH_LEAF_FILE | FOREBAY_PREFETCH_LEAF_PINNED | FOREBAY_PREFETCH_LEAF_DIRECT;
    let has = |flag: u32| flags & flag != 0;
    if flags & !known != 0 {
        return Err(fail!(
            InvalidArgument,
            "leaves[{index}].flags is {flags:#x}; this library knows {known:#x}"
        ));
    }
    if has(FOREBAY_PREFETCH_LEAF_FILE) {
        if has(FOREBAY_PREFETCH_LEAF_PINNED) || !data.is_null() {
            return Err(fail!(
                InvalidArgument,
                "leaves[{index}] is a file, and has data or is pinned; it must be one or the other"
            ));
        }
    } else if has(FOREBAY_PREFETCH_LEAF_DIRECT) || offset != 0 || fd != 0 {
        return Err(fail!(
            InvalidArgument,
            "leaves[{index}] is no file, but has what only one has: fd, offset or \
             FOREBAY_PREFETCH_LEAF_DIRECT"
        ));
    }
    Ok(())
}

fn leaf_of(leaf: &forebay_prefetch_leaf) -> Leaf {
    let has = |flag: u32| leaf.flags & flag != 0;
    let source = if has(FOREBAY_PREFETCH_LEAF_FILE) {
        let direct = has(FOREBAY_PREFETCH_LEAF_DIRECT);
        Source::File { fd: leaf.fd, offset: leaf.offset, direct }
    } else {
        let pinned = has(FOREBAY_PREFETCH_LEAF_PINNED);
        Source::Memory { address: leaf.data as usize, pinned }
    };
    Leaf { source, bytes: leaf.size as u64 }
}

fn timeout_of(milliseconds: u32) -> Option<Duration> {
    (milliseconds != FOREBAY_PREFETCH_FOREVER).then_some(Duration::from_millis(milliseconds.into()))
}

/// Creates a prefetcher whose slots are blocks of `pool`, on the host or on a GPU, and writes it to
/// `*out`. It is the caller's, until `forebay_prefetcher_destroy`; `config` NULL is all defaults.
/// The pool stays the caller's; if it is destroyed first, it closes the prefetcher and takes its
/// blocks, and what is left to do is `forebay_prefetcher_destroy`. While the pool sleeps no batch may
/// be on its way.
///
/// Memory is (slots) x (bytes of a slot) in the pool, and on a GPU as much again of the system's,
/// pinned, in whole pages of 2 MiB for each slot. It is taken here as far as `slot_bytes` says.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL, `pool` is NULL or
/// destroyed; the message names the field of `config`), `FOREBAY_ERROR_OUT_OF_MEMORY`,
/// `FOREBAY_ERROR_UNSUPPORTED` (a pool on pinned memory), `FOREBAY_ERROR_INVALID_STATE` (a pool on a
/// GPU that was made before a fork), `FOREBAY_ERROR_POISONED` (the pool is).
///
/// # Safety
/// `pool` is NULL or came from `forebay_pool_create`; `config` is NULL or points to a config with
/// `struct_size` set; `out` is NULL or valid for writing.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_prefetcher_create(
    pool: *mut forebay_pool,
    config: *const forebay_prefetcher_config,
    out: *mut *mut forebay_prefetcher,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        // SAFETY: the caller's promise.
        let pool = unsafe { shared_pool(pool)? };
        let config = if config.is_null() {
            Config::default()
        } else {
            // SAFETY: the caller's promise.
            config_of(&unsafe { read_sized(config)? })?
        };
        *out = HANDLES.keep(Owned::new(Arc::new(Prefetcher::over(&pool, &config)?))).cast();
        Ok(())
    })
}

/// Ends a prefetcher for everybody: batches that nobody got are called off, their sources are not
/// needed any more when this returns, and calls that wait, or come later, get
/// `FOREBAY_ERROR_INVALID_STATE`. Batches that consumers have stay, and are still to be released.
/// Waits for its threads, which end with the part of a batch, at most 512 KiB, or the call of the
/// driver that they are at, and for the device where a batch that is called off came from pinned
/// memory. May be called while others are under way, and twice.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`prefetcher` is NULL or destroyed),
/// `FOREBAY_ERROR_INVALID_STATE` (it was made before a fork), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `prefetcher` is NULL or came from `forebay_prefetcher_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_prefetcher_close(
    prefetcher: *mut forebay_prefetcher,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_prefetcher(prefetcher, Prefetcher::close) }
}

/// Destroys a prefetcher, closed or not: its blocks go back to the pool, and its pinned memory to
/// the system. Waits for what is queued on the device. NULL is fine: nothing happens. No call with
/// it may be under way in another thread; later ones get `FOREBAY_ERROR_INVALID_ARGUMENT`. In a
/// forked child nothing is given back: it is the parent's.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (destroyed before), `FOREBAY_ERROR_INVALID_STATE`
/// (batches were not released; it is destroyed all the same, and their blocks are live blocks of
/// the pool, for who has them to free with `forebay_free`). An error of the device is told after
/// everything was given back that could be.
///
/// # Safety
/// `prefetcher` is NULL or came from `forebay_prefetcher_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_prefetcher_destroy(
    prefetcher: *mut forebay_prefetcher,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { HANDLES.take(prefetcher) }?.map_or(Ok(()), |prefetcher| prefetcher.destroy())
    })
}

/// Submits a batch: the `count` leaves, one behind the other in a slot, each at the next multiple of
/// `FOREBAY_PREFETCH_ALIGNMENT` (or, where it says so, of `FOREBAY_PREFETCH_DIRECT_ALIGNMENT`).
/// Returns at once; threads copy and read. Its ticket, never 0, goes to `*ticket`. When all slots
/// are in use, this waits for one, at most `timeout_ms` milliseconds; 0 = not at all,
/// `FOREBAY_PREFETCH_FOREVER` = as long as it takes.
///
/// `leaves` is only read in this call. What the leaves lead to stays the caller's, and stays as it
/// is until `forebay_prefetch_poll` says that it is not needed, or the batch was waited for, or
/// cancelled. Pinned memory is needed until the batch is there.
///
/// Errors, with `*ticket` untouched and nothing needed any more: `FOREBAY_ERROR_BUSY` (no slot in
/// time), `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL; the message names the leaf; more bytes than a
/// slot may have), `FOREBAY_ERROR_OUT_OF_MEMORY` (the slot has to grow, and the pool has no room),
/// `FOREBAY_ERROR_INVALID_STATE` (closed; made before a fork), `FOREBAY_ERROR_POISONED`. What goes
/// wrong later is told by who waits for the batch.
///
/// # Safety
/// `prefetcher` as for every call; `leaves` is NULL or has `count` elements, whose `data` have their
/// sizes; `ticket` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_prefetch_submit(
    prefetcher: *mut forebay_prefetcher,
    leaves: *const forebay_prefetch_leaf,
    count: usize,
    timeout_ms: u32,
    ticket: *mut u64,
) -> forebay_status {
    let body = |prefetcher: &Prefetcher<OnPool>| {
        // SAFETY: the caller's promise.
        let ticket = unsafe { out(ticket, "ticket")? };
        let leaves = match count {
            0 => &[],
            _ if leaves.is_null() => {
                return Err(fail!(
                    InvalidArgument,
                    "leaves is NULL; it must have {count} elements"
                ));
            }
            // SAFETY: the caller's promise.
            _ => unsafe { std::slice::from_raw_parts(leaves, count) },
        };
        for (index, leaf) in leaves.iter().enumerate() {
            check_leaf(index, leaf)?;
        }
        let leaves = leaves.iter().map(leaf_of);
        // SAFETY: the caller's promise.
        *ticket = unsafe { prefetcher.submit(leaves, timeout_of(timeout_ms))? };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_prefetcher(prefetcher, body) }
}

/// Lends the caller a slot of at least `size` bytes, to write a batch to: its first byte, in memory
/// of the host that is pinned for a pool on a GPU, goes to `*ptr`, the ticket to `*ticket`. It is
/// submitted with `forebay_prefetch_submit_slot`, or given back with `forebay_prefetch_cancel`. So
/// nothing of the batch is copied by a processor. Waits as `forebay_prefetch_submit` does, and for
/// the device where it still copies what the slot had before.
///
/// Errors, with the results untouched: as of `forebay_prefetch_submit`.
///
/// # Safety
/// `prefetcher` as for every call; `ticket` and `ptr` are NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_prefetch_slot(
    prefetcher: *mut forebay_prefetcher,
    size: usize,
    timeout_ms: u32,
    ticket: *mut u64,
    ptr: *mut *mut c_void,
) -> forebay_status {
    let body = |prefetcher: &Prefetcher<OnPool>| {
        // SAFETY: the caller's promise.
        let (ticket, ptr) = unsafe { (out(ticket, "ticket")?, out(ptr, "ptr")?) };
        let lent = prefetcher.lend(size as u64, timeout_of(timeout_ms))?;
        (*ticket, *ptr) = (lent.ticket, lent.address as *mut c_void);
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_prefetcher(prefetcher, body) }
}

/// Submits what was written to a slot that was lent: its first `size` bytes. Nobody writes there any
/// more.
///
/// Errors, with the slot still lent: `FOREBAY_ERROR_INVALID_ARGUMENT` (`prefetcher` is NULL; no such
/// ticket; `size` is more than the slot has), `FOREBAY_ERROR_INVALID_STATE` (submitted before;
/// closed; the device refused), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `prefetcher` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_prefetch_submit_slot(
    prefetcher: *mut forebay_prefetcher,
    ticket: u64,
    size: usize,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_prefetcher(prefetcher, |it| it.submit_lent(ticket, size as u64)) }
}

/// Gets a batch, for work that is queued on `stream` from now on, and writes where it is to `*out`.
/// On a GPU `stream` is made to wait for the copy, on the device; the caller waits here for nothing
/// but the staging, if that is not done yet. The batch stays as it is until
/// `forebay_prefetch_release`. It may be got again, for another stream; that those are done with it
/// before it is released is the caller's part. Batches may be waited for in any order.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL; no such ticket; no such
/// stream), `FOREBAY_ERROR_INVALID_STATE` (nothing was submitted yet; closed; `stream` is capturing a
/// graph), `FOREBAY_ERROR_POISONED`, and that of a batch that could not be staged or sent, for
/// instance `FOREBAY_ERROR_IO`: that batch is over, its ticket is none any more. After the others it
/// may be waited for again.
///
/// # Safety
/// `prefetcher` as for every call; `out` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_prefetch_wait(
    prefetcher: *mut forebay_prefetcher,
    ticket: u64,
    stream: forebay_stream,
    out: *mut forebay_prefetch_batch,
) -> forebay_status {
    let body = |prefetcher: &Prefetcher<OnPool>| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        let batch = prefetcher.wait(ticket, stream_of(stream))?;
        let (ptr, size) = (batch.address as *mut c_void, batch.bytes as usize);
        *out = forebay_prefetch_batch { ptr, size };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_prefetcher(prefetcher, body) }
}

/// Writes how far a batch is, a `forebay_prefetch_progress`, to `*progress`. Does not wait.
///
/// Errors, with `*progress` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL, no such ticket),
/// `FOREBAY_ERROR_INVALID_STATE` (made before a fork), `FOREBAY_ERROR_POISONED`, and that of a batch
/// that could not be staged or sent, which is still to be waited for or cancelled.
///
/// # Safety
/// `prefetcher` as for every call; `progress` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_prefetch_poll(
    prefetcher: *mut forebay_prefetcher,
    ticket: u64,
    progress: *mut i32,
) -> forebay_status {
    let body = |prefetcher: &Prefetcher<OnPool>| {
        // SAFETY: the caller's promise.
        let progress = unsafe { out(progress, "progress")? };
        *progress = match prefetcher.poll(ticket)? {
            Progress::Staging => forebay_prefetch_progress::Staging,
            Progress::Sent => forebay_prefetch_progress::Sent,
            Progress::There => forebay_prefetch_progress::There,
        } as i32;
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_prefetcher(prefetcher, body) }
}

/// Calls a batch off that nobody got, or gives back a slot that was lent. When this returns its
/// sources are not needed any more, and its slot is free. Waits for threads to end the part of it
/// that they are at, at most 512 KiB each, and where it came from pinned memory for the device.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`prefetcher` is NULL, no such ticket),
/// `FOREBAY_ERROR_INVALID_STATE` (the batch was got: release it), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `prefetcher` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_prefetch_cancel(
    prefetcher: *mut forebay_prefetcher,
    ticket: u64,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_prefetcher(prefetcher, |it| it.cancel(ticket)) }
}

/// Gives a batch back whose last use is queued on `stream` by now. The slot gets the next batch
/// behind that: on a GPU the copy waits on the device.
///
/// Errors, with the batch still the caller's: `FOREBAY_ERROR_INVALID_ARGUMENT` (`prefetcher` is NULL;
/// no such ticket, or released before; no such stream), `FOREBAY_ERROR_INVALID_STATE` (it was not
/// waited for; `stream` is capturing a graph), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `prefetcher` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_prefetch_release(
    prefetcher: *mut forebay_prefetcher,
    ticket: u64,
    stream: forebay_stream,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_prefetcher(prefetcher, |it| it.release(ticket, stream_of(stream))) }
}

/// Writes the counters to `*out`, as many as its `struct_size` has room for.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL; `struct_size`),
/// `FOREBAY_ERROR_INVALID_STATE` (made before a fork), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `prefetcher` as for every call; `out` is NULL or points to a struct with `struct_size` set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_prefetch_stats(
    prefetcher: *mut forebay_prefetcher,
    out: *mut forebay_prefetch_statistics,
) -> forebay_status {
    let body = |prefetcher: &Prefetcher<OnPool>| {
        if out.is_null() {
            return Err(fail!(
                InvalidArgument,
                "out is NULL; it must point to where the result goes"
            ));
        }
        let stats = prefetcher.stats()?;
        let counted = forebay_prefetch_statistics {
            struct_size: 0,
            slots: stats.slots,
            used_slots: stats.used_slots,
            slot_bytes: stats.slot_bytes,
            pinned_bytes: stats.pinned_bytes,
            pinned_peak: stats.pinned_peak,
            pageable_bytes: stats.pageable_bytes,
            submitted: stats.submitted,
            submitted_bytes: stats.submitted_bytes,
            staged_bytes: stats.staged_bytes,
            delivered: stats.delivered,
            late: stats.late,
            cancelled: stats.cancelled,
            failed: stats.failed,
            sends: stats.sends,
            grown: stats.grown,
            submit_wait_ns: stats.submit_wait_ns,
            wait_ns: stats.wait_ns,
            stage_ns: stats.stage_ns,
            drain_ns: stats.drain_ns,
        };
        // SAFETY: the caller's promise.
        unsafe { write_sized(out, &counted) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_prefetcher(prefetcher, body) }
}
