//! Memory: plain, virtual, and pinned memory of the host.

use std::os::fd::IntoRawFd;

use super::{entry_points, give, take};
use crate::code::{ERROR_INVALID_VALUE, ERROR_NOT_SUPPORTED};
use crate::memory::PAGE;
use crate::piece::FILE;

/// Where memory is: 1 is a device, with its number.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Location {
    /// The kind of place.
    pub kind: u32,
    /// Which one.
    pub id: i32,
}

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Properties {
    /// 1: pinned.
    pub kind: u32,
    /// What it can be exported as.
    pub exports: u32,
    /// Where.
    pub location: Location,
    /// For another system.
    pub win32: usize,
    /// Compression and the like.
    pub flags: [u8; 8],
}

impl Properties {
    /// The same, for export as these kinds of handles.
    pub fn exported(self, exports: u32) -> Properties {
        Properties { exports, ..self }
    }

    /// Memory of a device that is not exported.
    pub fn on(device: i32) -> Properties {
        let location = Location { kind: 1, id: device };
        Properties { kind: 1, exports: 0, location, win32: 0, flags: [0; 8] }
    }
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Whose.
    pub location: Location,
    /// 0 none, 1 read, 3 read and write.
    pub flags: u32,
}

fn checked(properties: *const Properties) -> Result<Properties, u32> {
    let properties = take(properties)?;
    if properties.kind != 1 || properties.location.kind != 1 {
        return Err(ERROR_INVALID_VALUE);
    }
    Ok(properties)
}

entry_points! {
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) |state| {
        let (left, all) = state.memory_info()?;
        give(free, left as usize)?;
        give(total, all as usize)
    }
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) |state| {
        if address.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        let at = state.alloc(bytes as u64)?;
        give(address, at)
    }
    fn cuMemFree_v2(address: u64) |state| { state.free(address) }
    fn cuMemAllocHost_v2(at: *mut u64, bytes: usize) |state| {
        let given = state.alloc_host(bytes as u64)?;
        give(at, given)
    }
    fn cuMemHostAlloc(at: *mut u64, bytes: usize, flags: u32) |state| {
        if flags & !7 != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let given = state.alloc_host(bytes as u64)?;
        give(at, given)
    }
    fn cuMemFreeHost(at: u64) |state| { state.free_host(at) }
    fn cuMemHostRegister_v2(at: u64, bytes: usize, flags: u32) |state| {
        if flags & !15 != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        state.current_device()?;
        state.pin(at, bytes as u64)
    }
    fn cuMemHostUnregister(at: u64) |state| { state.unpin(at) }
    fn cuMemGetAllocationGranularity(bytes: *mut usize, properties: *const Properties, which: u32)
    |state| {
        if !state.config.virtual_memory {
            return Err(ERROR_NOT_SUPPORTED);
        }
        state.device(checked(properties)?.location.id)?;
        if which > 1 { Err(ERROR_INVALID_VALUE) } else { give(bytes, PAGE as usize) }
    }
    fn cuMemAddressReserve(address: *mut u64, bytes: usize, align: usize, hint: u64, flags: u64)
    |state| {
        if !state.config.virtual_memory {
            return Err(ERROR_NOT_SUPPORTED);
        }
        // A wish for an address may be ignored, and is.
        let _ = hint;
        if flags != 0 || address.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        let at = state.reserve(bytes as u64, align as u64)?;
        give(address, at)
    }
    fn cuMemAddressFree(address: u64, bytes: usize) |state| {
        state.unreserve(address, bytes as u64)
    }
    fn cuMemCreate(handle: *mut u64, bytes: usize, properties: *const Properties, flags: u64)
    |state| {
        if !state.config.virtual_memory {
            return Err(ERROR_NOT_SUPPORTED);
        }
        let properties = checked(properties)?;
        if flags != 0 || handle.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        let created = state.create(properties.location.id, bytes as u64, properties.exports)?;
        give(handle, created)
    }
    fn cuMemRelease(handle: u64) |state| { state.release_page(handle) }
    fn cuMemRetainAllocationHandle(handle: *mut u64, address: u64) |state| {
        let retained = state.retain_page(address)?;
        give(handle, retained)
    }
    fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, flags: u64) |state| {
        if flags != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        state.map(address, bytes as u64, offset as u64, handle)
    }
    fn cuMemUnmap(address: u64, bytes: usize) |state| { state.unmap(address, bytes as u64) }
    fn cuMemGetAllocationPropertiesFromHandle(properties: *mut Properties, handle: u64) |state| {
        let (device, exports) = state.properties(handle)?;
        give(properties, Properties::on(device as i32).exported(exports))
    }
    fn cuMemExportToShareableHandle(to: *mut i32, handle: u64, kind: u32, flags: u64) |state| {
        if flags != 0 || kind != FILE || to.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        let file = state.export(handle)?;
        give(to, file.into_raw_fd())
    }
    fn cuMemImportFromShareableHandle(handle: *mut u64, from: usize, kind: u32) |state| {
        // The descriptor itself is the pointer.
        let file = i32::try_from(from).map_err(|_| ERROR_INVALID_VALUE)?;
        if kind != FILE || handle.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        let imported = state.import(file)?;
        give(handle, imported)
    }
    fn cuMemGetAccess(flags: *mut u64, of: *const Location, address: u64) |state| {
        let of = take(of)?;
        if of.kind != 1 {
            return Err(ERROR_INVALID_VALUE);
        }
        let may = state.access_of(address, of.id)?;
        give(flags, if may { 3 } else { 0 })
    }
    fn cuMemSetAccess(address: u64, bytes: usize, access: *const Access, count: usize) |state| {
        if access.is_null() || count == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        for index in 0..count {
            let Access { location, flags } = take(access.wrapping_add(index))?;
            if location.kind != 1 || !matches!(flags, 0 | 1 | 3) {
                return Err(ERROR_INVALID_VALUE);
            }
            if flags == 1 {
                return Err(ERROR_NOT_SUPPORTED);
            }
            state.may_access(address, bytes as u64, location.id)?;
        }
        for index in 0..count {
            let Access { location, flags } = take(access.wrapping_add(index))?;
            state.set_access(address, bytes as u64, location.id, flags == 3)?;
        }
        Ok(())
    }
}
