//! Devices, the thread's among them, and its last error.

use std::ffi::{c_char, c_void};

use crate::answer::{context_of, device, entry_points, give, last, set_device};
use crate::driver::{Code, INVALID_DEVICE, checked};
use crate::properties;

/// The version that runtime and driver say they have.
pub const VERSION: i32 = if cfg!(feature = "cuda-12") { 12040 } else { 13000 };

entry_points! {
    answer fn cudaGetDeviceCount(count: *mut i32) |cu| checked((cu.cuDeviceGetCount)(count));
    answer fn cudaGetDevice(to: *mut i32) |cu| give(to, device(cu)?);
    answer fn cudaSetDevice(wanted: i32) |cu| {
        let mut count = 0;
        checked((cu.cuDeviceGetCount)(&mut count))?;
        if !(0..count).contains(&wanted) {
            return Err(INVALID_DEVICE);
        }
        set_device(cu, wanted)
    };
    inside fn cudaDeviceSynchronize() |cu| checked((cu.cuCtxSynchronize)());
    answer fn cudaDeviceGetAttribute(to: *mut i32, attribute: u32, of: i32) |cu| {
        checked((cu.cuDeviceGetAttribute)(to, attribute, of))
    };
    inside fn cudaDeviceGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) |cu| {
        checked((cu.cuCtxGetStreamPriorityRange)(least, greatest))
    };
    answer fn cudaDeviceCanAccessPeer(answer: *mut i32, of: i32, peer: i32) |cu| {
        checked((cu.cuDeviceCanAccessPeer)(answer, of, peer))
    };
    inside fn cudaDeviceEnablePeerAccess(peer: i32, flags: u32) |cu| {
        checked((cu.cuCtxEnablePeerAccess)(context_of(cu, peer)?, flags))
    };
    answer fn cudaDeviceGetPCIBusId(to: *mut c_char, length: i32, of: i32) |cu| {
        checked((cu.cuDeviceGetPCIBusId)(to, length, of))
    };
    answer fn cudaDriverGetVersion(to: *mut i32) |_cu| give(to, VERSION);
    answer fn cudaRuntimeGetVersion(to: *mut i32) |_cu| give(to, VERSION);
    inside fn cudaMemGetInfo(free: *mut usize, total: *mut usize) |cu| {
        checked((cu.cuMemGetInfo_v2)(free, total))
    };
    answer fn cudaProfilerStart() |_cu| Ok(());
    answer fn cudaProfilerStop() |_cu| Ok(());
    answer fn cudaGetDriverEntryPointByVersion(name: *const c_char, to: *mut *mut c_void,
        version: u32, flags: u64, status: *mut u32) |cu|
    {
        checked((cu.cuGetProcAddress_v2)(name, to, version as i32, flags, status))
    };
    answer fn cudaGetDeviceProperties(to: *mut u8, of: i32) |cu| properties::write(cu, to, of);
    answer fn cudaGetDeviceProperties_v2(to: *mut u8, of: i32) |cu| properties::write(cu, to, of);
}

/// The thread's last error, which is forgotten.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGetLastError() -> Code {
    last(true)
}

/// The thread's last error.
#[unsafe(no_mangle)]
pub extern "C" fn cudaPeekAtLastError() -> Code {
    last(false)
}
