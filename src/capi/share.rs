//! Blocks that other processes and other devices use.

use std::collections::HashMap;
use std::ffi::c_void;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::sync::OnceLock;

use super::guard::{PublicStruct, check_sized, guard, out, read_sized, write_sized};
use super::pool::{forebay_pool, with_pool};
use super::status::forebay_status;
use crate::device::cuda::{Context, DriverApi, Imported};
use crate::error::{Result, fail};
use crate::pool::{Pool, SIZE_MAX};
use crate::space::PAGE;
use crate::sync::Mutex;

/// Where an exported block lies in its pages. Set `struct_size` before the call; another process
/// needs it together with the descriptors.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_shared_block {
    /// sizeof(forebay_shared_block).
    pub struct_size: usize,
    /// How many pages of 2 MiB there are, each with a descriptor.
    pub pages: u64,
    /// How far into the first page the block begins, in bytes.
    pub offset: u64,
    /// Bytes of the block.
    pub size: u64,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_shared_block {
    const FIRST: usize = 32;
    const NAME: &'static str = "forebay_shared_block";
}

/// Exports the block at `ptr` of a cuda pool, so that another process on this machine can use it:
/// writes a file descriptor for each of its pages to `fds`, which has room for `capacity` of
/// them, and where the block lies in them to `*shared`. The descriptors are the caller's, to be
/// sent over a socket and closed. With `fds` NULL only `*shared` is written.
///
/// What else lies in the block's first and last page is shared with it. A page that was exported
/// is never moved or given back before the pool is destroyed, and new blocks may come to lie in
/// it once the block is freed: it is for the two processes to agree when that is.
///
/// Errors, with nothing written: `FOREBAY_ERROR_INVALID_ARGUMENT` (`capacity` is too little; the
/// block has 32 KiB or less; `shared` is NULL), `FOREBAY_ERROR_INVALID_POINTER`,
/// `FOREBAY_ERROR_UNSUPPORTED` (memory that cannot be shared), `FOREBAY_ERROR_INVALID_STATE` (the
/// pool sleeps, or the driver failed).
///
/// # Safety
/// `pool` as for every call; `fds` is NULL or has room for `capacity` numbers; `shared` is NULL or
/// points to a struct with `struct_size` set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_block_export(
    pool: *mut forebay_pool,
    ptr: *mut c_void,
    fds: *mut i32,
    capacity: usize,
    shared: *mut forebay_shared_block,
) -> forebay_status {
    let body = |pool: &Pool| {
        // SAFETY: the caller's promise.
        unsafe {
            out(shared, "shared")?;
            check_sized(shared)?;
        }
        let extent = pool.exported_extent(ptr as usize)?;
        let layout = forebay_shared_block {
            struct_size: 0,
            pages: extent.pages,
            offset: extent.offset,
            size: extent.size,
        };
        if !fds.is_null() {
            if (capacity as u64) < extent.pages {
                return Err(fail!(
                    InvalidArgument,
                    "capacity is {capacity}; the block has {} pages, a descriptor each",
                    extent.pages
                ));
            }
            for (number, page) in pool.export(ptr as usize)?.into_iter().enumerate() {
                // SAFETY: the caller's promise; there are no more pages than `capacity`.
                unsafe { *fds.add(number) = page.into_raw_fd() };
            }
        }
        // SAFETY: the caller's promise.
        unsafe { write_sized(shared, &layout) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// Imported blocks, by address.
fn imported() -> &'static Mutex<HashMap<usize, Imported>> {
    static IMPORTED: OnceLock<Mutex<HashMap<usize, Imported>>> = OnceLock::new();
    IMPORTED.get_or_init(Mutex::default)
}

/// Maps a block that another process exported, for the GPU `device_index`, and writes its first
/// byte to `*out`. `fds` are the descriptors of its pages, in their order; they stay the caller's
/// and may be closed afterwards. End it with `forebay_block_close`. The processes order
/// their work on it themselves.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL, a layout that cannot
/// be, a descriptor that is no such page, no such device), `FOREBAY_ERROR_UNSUPPORTED` (no
/// driver, or one that cannot), `FOREBAY_ERROR_OUT_OF_MEMORY` (no addresses).
///
/// # Safety
/// `fds` is NULL or has `shared->pages` numbers; `shared` is NULL or points to a struct with
/// `struct_size` set; `out` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_block_import(
    device_index: i32,
    fds: *const i32,
    shared: *const forebay_shared_block,
    out: *mut *mut c_void,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        let Ok(ordinal) = u32::try_from(device_index) else {
            return Err(fail!(
                InvalidArgument,
                "device_index is {device_index}; devices count from 0"
            ));
        };
        if shared.is_null() {
            return Err(fail!(
                InvalidArgument,
                "shared is NULL; it must come with the descriptors"
            ));
        }
        if fds.is_null() {
            return Err(fail!(InvalidArgument, "fds is NULL; it must have a number for each page"));
        }
        // SAFETY: the caller's promise.
        let layout = check(&unsafe { read_sized(shared)? })?;
        // SAFETY: the caller's promise.
        let numbers = unsafe { std::slice::from_raw_parts(fds, layout.pages as usize) };
        if let Some(at) = numbers.iter().position(|&number| number < 0) {
            let number = numbers[at];
            return Err(fail!(InvalidArgument, "fds[{at}] is {number}, no descriptor"));
        }
        // SAFETY: open for the time of this call, by the caller's promise; one that is not is
        // refused by the driver.
        let borrow = |&number: &i32| unsafe { BorrowedFd::borrow_raw(number) };
        let descriptors: Vec<BorrowedFd<'_>> = numbers.iter().map(borrow).collect();
        let context = Context::of_device(&DriverApi::open()?, ordinal)?;
        let mapped = Imported::map(&context, &descriptors)?;
        let address = mapped.base() + layout.offset as usize;
        imported().lock().insert(address, mapped);
        *out = address as *mut c_void;
        Ok(())
    })
}

fn check(layout: &forebay_shared_block) -> Result<forebay_shared_block> {
    let &forebay_shared_block { pages, offset, size, .. } = layout;
    let fits = pages > 0
        && pages <= SIZE_MAX / PAGE
        && offset < PAGE
        && size > 0
        && size <= pages * PAGE - offset;
    if !fits {
        return Err(fail!(
            InvalidArgument,
            "shared says {size} bytes from byte {offset} of {pages} pages of {PAGE} bytes on, which \
             cannot be"
        ));
    }
    Ok(*layout)
}

/// Unmaps an imported block, once work on the device is done, which this waits for. NULL is fine:
/// nothing happens.
///
/// Errors: `FOREBAY_ERROR_INVALID_POINTER` (not what `forebay_block_import` gave, or closed
/// before).
#[unsafe(no_mangle)]
pub extern "C" fn forebay_block_close(ptr: *mut c_void) -> forebay_status {
    guard(|| {
        if ptr.is_null() {
            return Ok(());
        }
        // It goes without the lock.
        let block = imported().lock().remove(&(ptr as usize));
        match block {
            Some(block) => {
                drop(block);
                Ok(())
            }
            None => Err(fail!(InvalidPointer, "ptr {ptr:p} is no imported block")),
        }
    })
}

/// Lets the GPU `device_index` use the memory of a pool on another GPU, now and from now on. Its
/// streams are not the pool's: make them wait for the pool's own before they use a block, and the
/// other way round before it is freed.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (no such device), `FOREBAY_ERROR_UNSUPPORTED` (the
/// two cannot reach each other, or the pool has no virtual memory management).
///
/// # Safety
/// `pool` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_pool_allow_peer(
    pool: *mut forebay_pool,
    device_index: i32,
) -> forebay_status {
    let body = |pool: &Pool| {
        let Ok(ordinal) = u32::try_from(device_index) else {
            return Err(fail!(
                InvalidArgument,
                "device_index is {device_index}; devices count from 0"
            ));
        };
        pool.allow_peer(ordinal)
    };
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}
