//! The driver's own pools.

use super::memory::{Access, Location};
use super::{entry_points, give, take};
use crate::code::{ERROR_INVALID_VALUE, ERROR_NOT_SUPPORTED};

/// `CUmemPoolProps`.
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
    /// Bytes at most, 0 for no limit.
    pub limit: usize,
    /// For which hardware.
    pub usage: u16,
    /// Zero.
    pub reserved: [u8; 54],
}

impl Properties {
    /// A pool of a device.
    pub fn on(device: i32) -> Properties {
        let location = Location { kind: 1, id: device };
        let (exports, win32, limit, usage) = (0, 0, 0, 0);
        Properties { kind: 1, exports, location, win32, limit, usage, reserved: [0; 54] }
    }
}

entry_points! {
    fn cuDeviceGetDefaultMemPool(pool: *mut u64, device: i32) |state| {
        let default = state.default_pool(device)?;
        give(pool, default)
    }
    fn cuDeviceGetMemPool(pool: *mut u64, device: i32) |state| {
        let current = state.current_pool(device)?;
        give(pool, current)
    }
    fn cuDeviceSetMemPool(device: i32, pool: u64) |state| { state.set_current_pool(device, pool) }
    fn cuMemPoolCreate(pool: *mut u64, properties: *const Properties) |state| {
        let properties = take(properties)?;
        if properties.kind != 1 || properties.location.kind != 1 || pool.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        if properties.exports != 0 || properties.limit != 0 {
            return Err(ERROR_NOT_SUPPORTED);
        }
        let created = state.create_pool(properties.location.id)?;
        give(pool, created)
    }
    fn cuMemPoolDestroy(pool: u64) |state| { state.destroy_pool(pool) }
    fn cuMemPoolTrimTo(pool: u64, keep: usize) |state| { state.trim_pool(pool, keep as u64) }
    fn cuMemPoolGetAttribute(pool: u64, attribute: u32, value: *mut u64) |state| {
        let (number, short) = state.pool_attribute(pool, attribute)?;
        if short { give(value.cast(), number as u32) } else { give(value, number) }
    }
    fn cuMemPoolSetAttribute(pool: u64, attribute: u32, value: *const u64) |state| {
        let (_, short) = state.pool_attribute(pool, attribute)?;
        let number = if short { u64::from(take(value.cast::<u32>())?) } else { take(value)? };
        state.set_pool_attribute(pool, attribute, number)
    }
    fn cuMemPoolSetAccess(pool: u64, access: *const Access, count: usize) |state| {
        for index in 0..count {
            let Access { location, flags } = take(access.wrapping_add(index))?;
            if location.kind != 1 || !matches!(flags, 0 | 3) {
                return Err(ERROR_INVALID_VALUE);
            }
            state.set_pool_access(pool, location.id, flags == 3)?;
        }
        Ok(())
    }
    fn cuMemPoolGetAccess(flags: *mut u32, pool: u64, of: *const Location) |state| {
        let of = take(of)?;
        let may = of.kind == 1 && state.pool_access(pool, of.id)?;
        give(flags, if may { 3 } else { 0 })
    }
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: u64) |state| {
        if address.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        let at = state.alloc_async(bytes as u64, None, stream)?;
        give(address, at)
    }
    fn cuMemAllocFromPoolAsync(address: *mut u64, bytes: usize, pool: u64, stream: u64) |state| {
        if address.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        let at = state.alloc_async(bytes as u64, Some(pool), stream)?;
        give(address, at)
    }
    fn cuMemFreeAsync(address: u64, stream: u64) |state| { state.free_async(address, stream) }
}
