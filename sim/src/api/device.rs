//! The driver itself, and its devices.

use std::ffi::{c_char, c_void};

use super::{entry_points, give};
use crate::code::{ERROR_INVALID_VALUE, ERROR_NO_DEVICE, Outcome, SUCCESS, words};

/// The PCI bus of a device.
fn bus(device: i32) -> i32 {
    device + 1
}

/// Attributes that all devices have alike: those of one of compute capability 9.0. What is not
/// named is 0.
fn fixed(attribute: u32) -> i32 {
    match attribute {
        // Threads of a block, its dimensions, and those of a grid.
        1..=3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65535,
        // Bytes that a block shares; constants; threads of a warp; registers of a block.
        8 => 48 << 10,
        9 => 64 << 10,
        10 => 32,
        12 => 64 << 10,
        // Alignment of textures, multiprocessors, memory of the host under its address.
        14 => 512,
        16 => 132,
        19 => 1,
        // Kernels beside each other, bits of the memory's bus, bytes of the cache.
        31 => 1,
        37 => 5120,
        38 => 50 << 20,
        // Threads of a multiprocessor, copies beside kernels, one address space.
        39 => 2048,
        40 => 2,
        41 => 1,
        // Compute capability; priorities of streams.
        75 => 9,
        76 => 0,
        78 => 1,
        // Of a multiprocessor: shared bytes, registers, blocks. Of a block: shared bytes at most,
        // and those that the driver takes.
        81 => 228 << 10,
        82 => 64 << 10,
        97 => 227 << 10,
        106 => 32,
        111 => 1 << 10,
        _ => 0,
    }
}

entry_points! {
    fn cuInit(flags: u32) |state| {
        if flags != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        if state.config.devices == 0 {
            return Err(ERROR_NO_DEVICE);
        }
        state.ready = true;
        Ok(())
    }
    fn cuDriverGetVersion(version: *mut i32) |state| { give(version, state.config.version) }
    fn cuDeviceGetCount(count: *mut i32) |state| { give(count, state.config.devices as i32) }
    fn cuDeviceGet(device: *mut i32, ordinal: i32) |state| {
        state.device(ordinal)?;
        give(device, ordinal)
    }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) |state| {
        state.device(device)?;
        give(bytes, state.config.capacity as usize)
    }
    fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: i32) |state| {
        give(uuid, [state.device(device)? as u8 + 1; 16])
    }
    fn cuDeviceGetName(name: *mut c_char, length: i32, device: i32) |state| {
        let full = format!("Simulated device {}", state.device(device)?);
        if name.is_null() || length <= 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let kept = full.len().min(length as usize - 1);
        // SAFETY: the caller has room for `length` bytes.
        unsafe {
            name.copy_from_nonoverlapping(full.as_ptr().cast(), kept);
            name.add(kept).write(0);
        }
        Ok(())
    }
    fn cuDeviceGetAttribute(value: *mut i32, attribute: u32, device: i32) |state| {
        state.device(device)?;
        let known = match attribute {
            // The bus that it is on.
            33 => bus(device),
            // Virtual memory management, and its export as file descriptors.
            102 => i32::from(state.config.virtual_memory),
            103 => i32::from(state.config.virtual_memory && state.config.exports),
            // Memory pools of the driver.
            115 => i32::from(state.config.memory_pools),
            1..=150 => fixed(attribute),
            _ => return Err(ERROR_INVALID_VALUE),
        };
        give(value, known)
    }
    fn cuDeviceGetPCIBusId(to: *mut c_char, length: i32, device: i32) |state| {
        state.device(device)?;
        let full = format!("0000:{:02X}:00.0\0", bus(device));
        if to.is_null() || usize::try_from(length).unwrap_or(0) < full.len() {
            return Err(ERROR_INVALID_VALUE);
        }
        // SAFETY: the caller has room for `length` bytes.
        unsafe { to.copy_from_nonoverlapping(full.as_ptr().cast(), full.len()) };
        Ok(())
    }
    fn cuDeviceCanAccessPeer(answer: *mut i32, device: i32, peer: i32) |state| {
        let (from, to) = (state.device(device)?, state.device(peer)?);
        let reach = from != to && state.config.reaches(from, to);
        give(answer, i32::from(reach))
    }
}

/// A word for a code, or null and an error.
fn word(code: u32, to: *mut *const c_char, second: bool) -> u32 {
    let word = words(code).map(|(name, text)| if second { text } else { name });
    let at = word.map_or(std::ptr::null(), |word| word.as_ptr().cast());
    let given: Outcome = give(to, at);
    if given.is_ok() && word.is_some() { SUCCESS } else { ERROR_INVALID_VALUE }
}

/// As the driver documents it.
///
/// # Safety
///
/// As the driver documents it.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C" fn cuGetErrorName(code: u32, name: *mut *const c_char) -> u32 {
    word(code, name, false)
}

/// As the driver documents it.
///
/// # Safety
///
/// As the driver documents it.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C" fn cuGetErrorString(code: u32, text: *mut *const c_char) -> u32 {
    word(code, text, true)
}

pub(super) fn find_words(name: &str) -> Option<*mut c_void> {
    match name {
        "cuGetErrorName" => Some(cuGetErrorName as *mut c_void),
        "cuGetErrorString" => Some(cuGetErrorString as *mut c_void),
        _ => None,
    }
}
