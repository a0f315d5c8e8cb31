//! NVML, as far as PyTorch asks it before it maps pages and after it has run out of memory, and as
//! far as forebay asks what GPUs have: the same file is its `libnvidia-ml.so.1` too. There are no
//! links, no fabric, and no processes.

use std::ffi::{CStr, c_char, c_void};

use crate::answer::context_of;
use crate::driver::{Driver, checked, driver};

/// What a driver would have that is as new as the runtime.
const DRIVER: &str = if cfg!(feature = "cuda-12") { "550.0" } else { "580.0" };

type Answer = Result<(), u32>;

/// `NVML_ERROR_INVALID_ARGUMENT`.
const INVALID_ARGUMENT: u32 = 2;
/// `NVML_ERROR_NOT_SUPPORTED`.
const NOT_SUPPORTED: u32 = 3;
/// `NVML_ERROR_NOT_FOUND`.
const NOT_FOUND: u32 = 6;
/// `NVML_ERROR_INSUFFICIENT_SIZE`.
const INSUFFICIENT_SIZE: u32 = 7;
/// `NVML_ERROR_DRIVER_NOT_LOADED`.
const NO_DRIVER: u32 = 9;
/// `NVML_ERROR_ARGUMENT_VERSION_MISMATCH`.
const OTHER_VERSION: u32 = 25;
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

/// The device behind a handle.
fn device_of(handle: usize) -> Result<i32, u32> {
    let device = i32::try_from(handle).map_err(|_| INVALID_ARGUMENT)? - 1;
    if (0..count()?).contains(&device) { Ok(device) } else { Err(INVALID_ARGUMENT) }
}

/// Writes `text` and a NUL.
///
/// # Safety
/// `to` is NULL or has room for `room` bytes.
unsafe fn give_text(to: *mut c_char, room: u32, text: &str) -> Answer {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if room as usize <= text.len() {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the caller's promise, and the text and its NUL fit.
    unsafe {
        to.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

fn name(device: i32) -> Result<String, u32> {
    let mut name = [0 as c_char; 96];
    // SAFETY: room for as many bytes as are named.
    let code = unsafe { (ready()?.cuDeviceGetName)(name.as_mut_ptr(), 96, device) };
    checked(code).map_err(|_| UNKNOWN)?;
    // SAFETY: the driver ends it with a NUL.
    Ok(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
}

fn uuid(device: i32) -> Result<String, u32> {
    let mut bytes = [0u8; 16];
    // SAFETY: a place for the answer.
    let code = unsafe { (ready()?.cuDeviceGetUuid)(bytes.as_mut_ptr(), device) };
    checked(code).map_err(|_| UNKNOWN)?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Ok(format!("GPU-{}", parts.join("-")))
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
pub struct Memory {
    version: u32,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

/// `nvmlMemory_v2`: the size and the version.
const MEMORY_VERSION: u32 = size_of::<Memory>() as u32 | 2 << 24;

/// What the device has, in its primary context; the thread's own is current again afterwards.
fn memory(device: i32, to: &mut Memory) -> Answer {
    let cu = ready()?;
    let (mut before, mut free, mut total) = (0, 0, 0);
    // SAFETY: places for the answers, a context of the driver's and the one that was there.
    let code = unsafe {
        let mut code = (cu.cuCtxGetCurrent)(&mut before);
        if code == 0 {
            let context = context_of(cu, device).map_err(|_| UNKNOWN)?;
            code = (cu.cuCtxSetCurrent)(context);
        }
        if code == 0 {
            code = (cu.cuMemGetInfo_v2)(&mut free, &mut total);
            (cu.cuCtxSetCurrent)(before);
        }
        code
    };
    checked(code).map_err(|_| UNKNOWN)?;
    (to.total, to.free, to.reserved) = (total as u64, free as u64, 0);
    to.used = to.total.saturating_sub(to.free);
    Ok(())
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
    fn nvmlSystemGetDriverVersion(to: *mut c_char, room: u32) give_text(to, room, DRIVER);
    fn nvmlDeviceGetName(device: usize, to: *mut c_char, room: u32) {
        give_text(to, room, &name(device_of(device)?)?)
    };
    fn nvmlDeviceGetUUID(device: usize, to: *mut c_char, room: u32) {
        give_text(to, room, &uuid(device_of(device)?)?)
    };
    fn nvmlDeviceGetMemoryInfo_v2(device: usize, to: *mut Memory) {
        let to = to.as_mut().ok_or(INVALID_ARGUMENT)?;
        if to.version != MEMORY_VERSION {
            return Err(OTHER_VERSION);
        }
        memory(device_of(device)?, to)
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
    fn nvmlDeviceGetComputeRunningProcesses_v2(_device: usize, count: *mut u32, _to: *mut c_void) {
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
