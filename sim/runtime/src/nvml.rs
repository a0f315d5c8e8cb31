//! NVML, as far as PyTorch asks it before it maps pages and after it has run out of memory: the
//! same file is its `libnvidia-ml.so.1` too. There are no links, no fabric, and no processes.

use std::ffi::{CStr, c_char, c_void};

use crate::driver::{Driver, checked, driver};

type Answer = Result<(), u32>;

/// `NVML_ERROR_INVALID_ARGUMENT`.
const INVALID_ARGUMENT: u32 = 2;
/// `NVML_ERROR_NOT_SUPPORTED`.
const NOT_SUPPORTED: u32 = 3;
/// `NVML_ERROR_NOT_FOUND`.
const NOT_FOUND: u32 = 6;
/// `NVML_ERROR_DRIVER_NOT_LOADED`.
const NO_DRIVER: u32 = 9;
/// `NVML_ERROR_UNKNOWN`.
const UNKNOWN: u32 = 999;

/// `CU_DEVICE_ATTRIBUTE_PCI_BUS_ID`.
const BUS: u32 = 33;
/// Where `nvmlGpuFabricInfoV_t` has its state, in each version; 0 there is no fabric.
const FABRIC_STATE: usize = 28;

fn answer(body: impl FnOnce() -> Answer) -> u32 {
    body().err().unwrap_or(0)
}

fn ready() -> Result<&'static Driver, u32> {
    driver().map_err(|_| NO_DRIVER)
}

fn count() -> Result<i32, u32> {
    let (cu, mut count) = (ready()?, 0);
    // SAFETY: a place for the answer.
    checked(unsafe { (cu.cuDeviceGetCount)(&mut count) }).map_err(|_| UNKNOWN)?;
    Ok(count)
}

/// Puts an answer where the caller wants it.
///
/// # Safety
/// `to` is NULL or valid for writing.
unsafe fn give<T>(to: *mut T, value: T) -> Answer {
    // SAFETY: the caller's promise.
    unsafe { crate::answer::give(to, value) }.map_err(|_| INVALID_ARGUMENT)
}

/// A device's handle is its number, from 1.
unsafe fn give_device(to: *mut usize, device: i32) -> Answer {
    if !(0..count()?).contains(&device) {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: the caller's promise.
    unsafe { give(to, device as usize + 1) }
}

/// The device on a bus, named as `domain:bus:device.function`.
fn find(name: &CStr) -> Result<i32, u32> {
    let name = name.to_str().map_err(|_| INVALID_ARGUMENT)?;
    let mut parts = name.rsplit(':').skip(1);
    let bus = parts.next().and_then(|bus| i32::from_str_radix(bus, 16).ok());
    let bus = bus.ok_or(INVALID_ARGUMENT)?;
    let cu = ready()?;
    let on = |device: &i32| {
        let mut known = 0;
        // SAFETY: a place for the answer.
        let code = unsafe { (cu.cuDeviceGetAttribute)(&mut known, BUS, *device) };
        code == 0 && known == bus
    };
    (0..count()?).find(on).ok_or(NOT_FOUND)
}

macro_rules! entry_points {
    ($(fn $name:ident($($arg:ident: $type:ty),*) $body:expr;)*) => {
        $(
            /// As NVIDIA documents it.
            ///
            /// # Safety
            /// As NVIDIA documents it.
            #[unsafe(no_mangle)]
            #[allow(unused_unsafe)]
            pub unsafe extern "C" fn $name($($arg: $type),*) -> u32 {
                // SAFETY: the caller vouches for its arguments.
                answer(|| unsafe { $body })
            }
        )*
    };
}

entry_points! {
    fn nvmlInit() ready().map(drop);
    fn nvmlInit_v2() ready().map(drop);
    fn nvmlShutdown() Ok(());
    fn nvmlDeviceGetCount_v2(to: *mut i32) give(to, count()?);
    fn nvmlDeviceGetHandleByIndex_v2(index: u32, to: *mut usize) give_device(to, index as i32);
    fn nvmlDeviceGetHandleByPciBusId_v2(name: *const c_char, to: *mut usize) {
        if name.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        give_device(to, find(CStr::from_ptr(name))?)
    };
    fn nvmlDeviceGetGpuFabricInfoV(_device: usize, to: *mut u8) {
        if to.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        give(to.add(FABRIC_STATE), 0)
    };
    fn nvmlDeviceGetComputeRunningProcesses(_device: usize, count: *mut u32, _to: *mut c_void) {
        give(count, 0)
    };
    fn nvmlSystemGetCudaDriverVersion_v2(to: *mut i32) give(to, crate::device::VERSION);
    fn nvmlDeviceGetNvLinkRemoteDeviceType(_device: usize, _link: u32, _to: *mut u32) {
        Err(NOT_SUPPORTED)
    };
    fn nvmlDeviceGetNvLinkRemotePciInfo_v2(_device: usize, _link: u32, _to: *mut c_void) {
        Err(NOT_SUPPORTED)
    };
}
