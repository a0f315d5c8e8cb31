//! The driver's own pools.

use std::ffi::c_void;

use crate::answer::entry_points;
use crate::driver::checked;

entry_points! {
    answer fn cudaDeviceGetDefaultMemPool(to: *mut u64, of: i32) |cu| {
        checked((cu.cuDeviceGetDefaultMemPool)(to, of))
    };
    answer fn cudaMemPoolTrimTo(pool: u64, keep: usize) |cu| {
        checked((cu.cuMemPoolTrimTo)(pool, keep))
    };
    answer fn cudaMemPoolGetAttribute(pool: u64, attribute: u32, to: *mut u64) |cu| {
        checked((cu.cuMemPoolGetAttribute)(pool, attribute, to))
    };
    answer fn cudaMemPoolSetAttribute(pool: u64, attribute: u32, from: *const u64) |cu| {
        checked((cu.cuMemPoolSetAttribute)(pool, attribute, from))
    };
    answer fn cudaMemPoolSetAccess(pool: u64, access: *const c_void, count: usize) |cu| {
        checked((cu.cuMemPoolSetAccess)(pool, access, count))
    };
    inside fn cudaMallocAsync(to: *mut u64, bytes: usize, stream: u64) |cu| {
        checked((cu.cuMemAllocAsync)(to, bytes, stream))
    };
    inside fn cudaFreeAsync(address: u64, stream: u64) |cu| {
        checked((cu.cuMemFreeAsync)(address, stream))
    };
}
