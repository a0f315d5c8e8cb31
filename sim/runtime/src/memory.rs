//! Memory of devices, and pinned memory of the host.

use crate::answer::{entry_points, give};
use crate::driver::{Driver, INVALID_VALUE, Outcome, checked};

/// `cudaPointerAttributes`; what CUDA 13 has behind it is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes {
    kind: u32,
    device: i32,
    on_device: u64,
    on_host: u64,
    #[cfg(not(feature = "cuda-12"))]
    reserved: [u64; 8],
}

/// `CU_POINTER_ATTRIBUTE_MEMORY_TYPE`, `_DEVICE_POINTER`, `_HOST_POINTER`, `_DEVICE_ORDINAL`.
const MEMORY_TYPE: u32 = 2;
const DEVICE_POINTER: u32 = 3;
const HOST_POINTER: u32 = 4;
const DEVICE_ORDINAL: u32 = 9;

/// `cudaInvalidDeviceId`.
const NO_DEVICE: i32 = -2;

fn attributes_of(cu: &Driver, address: u64) -> Attributes {
    let ask = |attribute| {
        let mut value = [0; 8];
        // SAFETY: no attribute here takes more than eight bytes.
        let code = unsafe { (cu.cuPointerGetAttribute)(value.as_mut_ptr(), attribute, address) };
        (code == 0).then(|| u64::from_le_bytes(value))
    };
    let Some(kind) = ask(MEMORY_TYPE) else {
        // Memory that CUDA does not know is the host's.
        return Attributes { device: NO_DEVICE, on_host: address, ..Attributes::default() };
    };
    Attributes {
        kind: kind as u32,
        device: ask(DEVICE_ORDINAL).unwrap_or(0) as i32,
        on_device: ask(DEVICE_POINTER).unwrap_or(0),
        on_host: ask(HOST_POINTER).unwrap_or(0),
        #[cfg(not(feature = "cuda-12"))]
        reserved: [0; 8],
    }
}

/// Nothing is allocated for no bytes.
unsafe fn sized(to: *mut u64, bytes: usize, body: impl FnOnce() -> Outcome) -> Outcome {
    // SAFETY: the caller's promise: NULL or valid for writing.
    if bytes == 0 { unsafe { give(to, 0) } } else { body() }
}

entry_points! {
    inside fn cudaMalloc(to: *mut u64, bytes: usize) |cu| {
        sized(to, bytes, || checked((cu.cuMemAlloc_v2)(to, bytes)))
    };
    inside fn cudaFree(address: u64) |cu| {
        if address == 0 { Ok(()) } else { checked((cu.cuMemFree_v2)(address)) }
    };
    inside fn cudaHostAlloc(to: *mut u64, bytes: usize, flags: u32) |cu| {
        sized(to, bytes, || checked((cu.cuMemHostAlloc)(to, bytes, flags)))
    };
    inside fn cudaFreeHost(address: u64) |cu| {
        if address == 0 { Ok(()) } else { checked((cu.cuMemFreeHost)(address)) }
    };
    inside fn cudaHostRegister(address: u64, bytes: usize, flags: u32) |cu| {
        checked((cu.cuMemHostRegister_v2)(address, bytes, flags))
    };
    inside fn cudaHostUnregister(address: u64) |cu| checked((cu.cuMemHostUnregister)(address));
    inside fn cudaHostGetDevicePointer(to: *mut u64, address: u64, flags: u32) |cu| {
        checked((cu.cuMemHostGetDevicePointer_v2)(to, address, flags))
    };
    inside fn cudaPointerGetAttributes(to: *mut Attributes, address: u64) |cu| {
        if to.is_null() {
            return Err(INVALID_VALUE);
        }
        give(to, attributes_of(cu, address))
    };
}
