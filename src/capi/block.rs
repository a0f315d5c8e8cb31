//! Blocks: taken, given back, asked about.

use std::ffi::c_void;
use std::ptr::null_mut;

use super::guard::out;
use super::pool::{forebay_pool, id_of, with_open_pool, with_pool};
use super::status::forebay_status;
use super::stream::{forebay_stream, stream_of};
use crate::error::{Result, fail};
use crate::pool::Pool;
use crate::pool::fast::{self, AtHand, Slot};

/// Takes a block of at least `size` bytes for work on `stream` and writes its first byte to
/// `*out`. It is the caller's until `forebay_free`. The address is a multiple of 16, and of 512
/// for more than 32 KiB. Its bytes hold anything, unless policy or flags say otherwise.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` or `out` is NULL, a
/// size of 0 or of more than 2^46 bytes, not a stream), `FOREBAY_ERROR_OUT_OF_MEMORY` (the
/// message has requested, live and reserved bytes, the limit, the largest free run and the
/// largest live sizes), `FOREBAY_ERROR_INVALID_STATE` (the pool sleeps; a capture that was not
/// announced; CUDA after a fork; the driver failed), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` is NULL or came from `forebay_pool_create`; `out` is NULL or valid for writing.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_alloc(
    pool: *mut forebay_pool,
    size: usize,
    stream: forebay_stream,
    out: *mut *mut c_void,
) -> forebay_status {
    if !out.is_null()
        // SAFETY: the caller's promise.
        && let Some(id) = unsafe { id_of(pool) }
        && let Some(address) = fast::alloc(id, size, stream_of(stream))
    {
        // SAFETY: the caller's promise.
        unsafe { *out = address as *mut c_void };
        return forebay_status::ForebayOk;
    }
    // SAFETY: the caller's promise.
    unsafe { alloc_slow(pool, size, stream, out) }
}

/// What `forebay_alloc` does when the hit path, which cannot fail, has no block.
#[cold]
#[inline(never)]
unsafe extern "C" fn alloc_slow(
    pool: *mut forebay_pool,
    size: usize,
    stream: forebay_stream,
    out: *mut *mut c_void,
) -> forebay_status {
    let body = |pool: &Pool| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        *out = pool.alloc_slow(size, 1, stream_of(stream))? as *mut c_void;
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// As `forebay_alloc`, with the first byte at a multiple of `alignment`, a power of two of at
/// most 2^30.
///
/// # Safety
/// As for `forebay_alloc`.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_alloc_aligned(
    pool: *mut forebay_pool,
    size: usize,
    alignment: usize,
    stream: forebay_stream,
    out: *mut *mut c_void,
) -> forebay_status {
    let body = |pool: &Pool| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        *out = pool.alloc_aligned(size, alignment, stream_of(stream))? as *mut c_void;
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// Gives a block back on `stream`: work queued there before this call may still use it.
/// `stream` gets it again at once, other streams once that work is done. NULL is fine:
/// nothing happens. Any thread may free a block.
///
/// Errors: `FOREBAY_ERROR_INVALID_POINTER` (not the start of a live block of this pool; counted,
/// nothing changed), `FOREBAY_ERROR_CORRUPTION` (its guard bytes were overwritten; it is freed),
/// `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `pool` as for `forebay_alloc`. `ptr` is not followed; whoever frees it no longer uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_free(
    pool: *mut forebay_pool,
    ptr: *mut c_void,
    stream: forebay_stream,
) -> forebay_status {
    // SAFETY: the caller's promise.
    let Some(id) = (unsafe { id_of(pool) }) else {
        // SAFETY: the caller's promise.
        return unsafe { free_slow(pool, ptr, stream) };
    };
    match fast::free(id, ptr as usize, stream_of(stream)) {
        fast::Freed::Done => forebay_status::ForebayOk,
        // SAFETY: the caller's promise.
        fast::Freed::Over => unsafe { relieve(pool, ptr, stream) },
        // SAFETY: the caller's promise.
        fast::Freed::Not => unsafe { free_shared(pool, ptr, stream) },
    }
}

/// What `forebay_free` does when the block is not the thread's alone to take back: it cannot
/// fail either.
#[inline(never)]
unsafe extern "C" fn free_shared(
    pool: *mut forebay_pool,
    ptr: *mut c_void,
    stream: forebay_stream,
) -> forebay_status {
    // SAFETY: the caller's promise.
    let id = unsafe { id_of(pool) }.unwrap_or(0);
    match fast::free_shared(id, ptr as usize, stream_of(stream)) {
        fast::Freed::Done => forebay_status::ForebayOk,
        // SAFETY: the caller's promise.
        fast::Freed::Over => unsafe { relieve(pool, ptr, stream) },
        // SAFETY: the caller's promise.
        fast::Freed::Not => unsafe { free_slow(pool, ptr, stream) },
    }
}

/// What `forebay_free` does when the hit path, which cannot fail, did not free the block.
#[cold]
#[inline(never)]
unsafe extern "C" fn free_slow(
    pool: *mut forebay_pool,
    ptr: *mut c_void,
    stream: forebay_stream,
) -> forebay_status {
    let body = |pool: &Pool| {
        if ptr.is_null() {
            return Ok(());
        }
        pool.free_slow(ptr as usize, stream_of(stream))
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// What `forebay_free` does when the thread's front cache holds more than it should.
#[cold]
#[inline(never)]
unsafe extern "C" fn relieve(
    pool: *mut forebay_pool,
    ptr: *mut c_void,
    stream: forebay_stream,
) -> forebay_status {
    let body = |pool: &Pool| {
        pool.relieve_after(ptr as usize, stream_of(stream));
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// Called when there is no block at hand, with the size that was asked for. `busy` is not 0 when the
/// call came in the middle of another one of the thread that it interrupted: the pool cannot be
/// asked then. What it returns is the result. Must not throw.
#[allow(non_camel_case_types)]
pub type forebay_alloc_miss_fn =
    Option<unsafe extern "C" fn(size: usize, busy: i32) -> *mut c_void>;

/// Called when a block is not the thread's to take back at hand, with its address. `busy` and the
/// result, a `forebay_status`, as for `forebay_alloc_miss_fn`.
#[allow(non_camel_case_types)]
pub type forebay_free_miss_fn = Option<unsafe extern "C" fn(ptr: *mut c_void, busy: i32) -> i32>;

/// Takes a block of at least `size` bytes that the calling thread has at hand, for work on the default
/// stream: no lock, no system call, `errno` as it was. Where there is none, whatever the reason,
/// returns what `miss` does, which may ask `forebay_alloc`; NULL when `miss` is NULL. The block is
/// as one of `forebay_alloc`.
///
/// For threads that must not wait, and for the handlers of signals: one may call this wherever the
/// thread is not in another function of this pool than `forebay_alloc_at_hand` and
/// `forebay_free_at_hand`.
///
/// # Safety
/// As for `forebay_alloc`; `miss` is NULL or a function of that type.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_alloc_at_hand(
    pool: *mut forebay_pool,
    size: usize,
    miss: forebay_alloc_miss_fn,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    let found = match unsafe { id_of(pool) } {
        Some(id) => fast::alloc_at_hand(id, size),
        None => AtHand::No,
    };
    match found {
        AtHand::Block(address) => address as *mut c_void,
        // SAFETY: the caller's promise.
        AtHand::No => unsafe { alloc_missed(size, miss, 0) },
        // SAFETY: as above.
        AtHand::Busy => unsafe { alloc_missed(size, miss, 1) },
    }
}

#[cold]
#[inline(never)]
unsafe extern "C" fn alloc_missed(
    size: usize,
    miss: forebay_alloc_miss_fn,
    busy: i32,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    miss.map_or(null_mut(), |miss| unsafe { miss(size, busy) })
}

/// Gives a block back that the calling thread can take back at hand, as `forebay_free` does on the
/// default stream: no lock, no system call, `errno` as it was. Else returns what `miss` does, which
/// may call `forebay_free`; `FOREBAY_ERROR_BUSY`, and nothing changed, when `miss` is NULL. The
/// result is a `forebay_status`.
///
/// Who may call it where: as for `forebay_alloc_at_hand`.
///
/// # Safety
/// As for `forebay_free`; `miss` is NULL or a function of that type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_free_at_hand(
    pool: *mut forebay_pool,
    ptr: *mut c_void,
    miss: forebay_free_miss_fn,
) -> i32 {
    // SAFETY: the caller's promise.
    let shared = |slot: Option<&Slot>, busy| unsafe { free_shared_at_hand(slot, ptr, miss, busy) };
    // SAFETY: the caller's promise.
    match unsafe { id_of(pool) } {
        Some(id) => fast::free_at_hand(id, ptr as usize, forebay_status::ForebayOk as i32, shared),
        None => shared(None, false),
    }
}

/// What `forebay_free_at_hand` does when the block is not the thread's alone to take back.
///
/// # Safety
/// As for that.
#[inline(never)]
unsafe fn free_shared_at_hand(
    slot: Option<&Slot>,
    ptr: *mut c_void,
    miss: forebay_free_miss_fn,
    busy: bool,
) -> i32 {
    if slot.is_some_and(|slot| fast::free_shared_at_hand(slot, ptr as usize)) {
        return forebay_status::ForebayOk as i32;
    }
    // SAFETY: the caller's promise.
    miss.map_or(forebay_status::ForebayErrorBusy as i32, |miss| unsafe { miss(ptr, busy.into()) })
}

/// Changes the block at `ptr` to `size` bytes and writes its first byte, which may be another
/// one, to `*out`; the bytes that both sizes have are kept. `ptr` NULL allocates. All work
/// on the block is done, as the bytes may be copied, or their pages moved, by this call. On
/// success `ptr` is no longer the caller's.
///
/// Errors, with the old block and `*out` untouched: those of `forebay_alloc`, and
/// `FOREBAY_ERROR_INVALID_POINTER`.
///
/// # Safety
/// As for `forebay_alloc` and `forebay_free`.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_realloc(
    pool: *mut forebay_pool,
    ptr: *mut c_void,
    size: usize,
    stream: forebay_stream,
    out: *mut *mut c_void,
) -> forebay_status {
    let body = |pool: &Pool| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        let stream = stream_of(stream);
        let address = if ptr.is_null() {
            pool.alloc(size, stream)?
        } else {
            pool.realloc(ptr as usize, size, stream)?
        };
        *out = address as *mut c_void;
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// No array has more bytes than half of the addresses, so a larger count is a mistake.
fn check_count(count: usize) -> Result<()> {
    const MOST: usize = isize::MAX as usize / size_of::<usize>();
    if count > MOST {
        return Err(fail!(InvalidArgument, "count is {count}; the limit is {MOST}"));
    }
    Ok(())
}

/// Takes a block for each of `count` sizes and writes their first bytes to `out[0 .. count]`:
/// all of them, or none. `count` 0 is fine.
///
/// Errors, with `out` untouched: those of `forebay_alloc`; the message names which size.
///
/// # Safety
/// As for `forebay_alloc`; `sizes` and `out` have `count` elements.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_alloc_batch(
    pool: *mut forebay_pool,
    sizes: *const usize,
    count: usize,
    stream: forebay_stream,
    out: *mut *mut c_void,
) -> forebay_status {
    let body = |pool: &Pool| {
        if count == 0 {
            return Ok(());
        }
        check_count(count)?;
        if sizes.is_null() {
            return Err(fail!(InvalidArgument, "sizes is NULL; it must have {count} elements"));
        }
        if out.is_null() {
            return Err(fail!(InvalidArgument, "out is NULL; it must have {count} elements"));
        }
        // SAFETY: the caller's promise.
        let (sizes, out) = unsafe {
            (std::slice::from_raw_parts(sizes, count), std::slice::from_raw_parts_mut(out, count))
        };
        let addresses = pool.alloc_batch(sizes, stream_of(stream))?;
        for (out, address) in out.iter_mut().zip(addresses) {
            *out = address as *mut c_void;
        }
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// Gives `count` blocks back on `stream`, in order. NULL pointers are passed over. Stops at
/// the first that cannot be freed; `*freed` (may be NULL) is how many pointers were dealt
/// with.
///
/// Errors: those of `forebay_free`; the message names which pointer.
///
/// # Safety
/// As for `forebay_free`; `ptrs` has `count` elements, `freed` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_free_batch(
    pool: *mut forebay_pool,
    ptrs: *const *mut c_void,
    count: usize,
    stream: forebay_stream,
    freed: *mut usize,
) -> forebay_status {
    let body = |pool: &Pool| {
        check_count(count)?;
        if count > 0 && ptrs.is_null() {
            return Err(fail!(InvalidArgument, "ptrs is NULL; it must have {count} elements"));
        }
        let ptrs: &[usize] = if count == 0 {
            &[]
        } else {
            // SAFETY: the caller's promise; a pointer is as large as an address.
            unsafe { std::slice::from_raw_parts(ptrs.cast(), count) }
        };
        let (done, result) = pool.free_batch(ptrs, stream_of(stream));
        // SAFETY: the caller's promise.
        if let Some(freed) = unsafe { freed.as_mut() } {
            *freed = done;
        }
        result
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// Writes how many bytes the live block at `ptr` has room for to `*out`: at least what was
/// asked for.
///
/// Errors: `FOREBAY_ERROR_INVALID_POINTER`, `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// As for `forebay_alloc`; `ptr` is not followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_usable_size(
    pool: *mut forebay_pool,
    ptr: *const c_void,
    out: *mut usize,
) -> forebay_status {
    let body = |pool: &Pool| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        *out = pool.usable_size(ptr as usize)? as usize;
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_open_pool(pool, body) }
}

/// Finds the live block that `address` lies in: its first byte goes to `*block` and its bytes
/// to `*size` (both may be NULL). When there is none, they become NULL and 0, and the call
/// succeeds.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool`), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// As for `forebay_alloc`; `block` and `size` are NULL or valid for writing; `address` is not
/// followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_owns(
    pool: *mut forebay_pool,
    address: *const c_void,
    block: *mut *mut c_void,
    size: *mut usize,
) -> forebay_status {
    let body = |pool: &Pool| {
        let (start, bytes) = pool.owner(address as usize).unwrap_or((0, 0));
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(block) = block.as_mut() {
                *block = start as *mut c_void;
            }
            if let Some(size) = size.as_mut() {
                *size = bytes as usize;
            }
        }
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_open_pool(pool, body) }
}

/// Says that work on `stream` uses the live block at `ptr`, which was allocated on another
/// stream. When the block is freed later, it is not given out again before what is queued on
/// `stream` by then is done. It stays the caller's.
///
/// Errors: `FOREBAY_ERROR_INVALID_POINTER`, `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// As for `forebay_alloc`; `ptr` is not followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_record_stream(
    pool: *mut forebay_pool,
    ptr: *mut c_void,
    stream: forebay_stream,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, |pool| pool.record_stream(ptr as usize, stream_of(stream))) }
}
