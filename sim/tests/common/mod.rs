//! What the tests share: the driver as a program sees it.
#![allow(clippy::unwrap_used)]

use std::ffi::CString;

use sim_cuda::{Config, Guard};

/// Calls an entry point by its name, with arguments of these types; gives its code.
macro_rules! cu {
    ($name:ident($($arg:expr => $type:ty),* $(,)?)) => {{
        let at = crate::common::entry(stringify!($name));
        // SAFETY: the types are those that the driver documents.
        unsafe {
            let call = std::mem::transmute::<
                *mut std::ffi::c_void,
                unsafe extern "C" fn($($type),*) -> u32,
            >(at);
            call($($arg),*)
        }
    }};
}
pub(crate) use cu;

pub const PAGE: u64 = 2 << 20;

pub fn entry(name: &str) -> *mut std::ffi::c_void {
    let at = sim_cuda::lookup(&CString::new(name).unwrap());
    assert!(!at.is_null(), "{name}");
    at
}

/// A driver for one test, with the context of device 0 current.
pub fn start(config: Config) -> Guard {
    let guard = sim_cuda::exclusive(config);
    assert_eq!(cu!(cuInit(0 => u32)), 0);
    context(0);
    guard
}

/// Makes a device's context current.
pub fn context(device: i32) -> u64 {
    let mut context = 0u64;
    assert_eq!(cu!(cuDevicePrimaryCtxRetain(&mut context => *mut u64, device => i32)), 0);
    assert_eq!(cu!(cuCtxSetCurrent(context => u64)), 0);
    context
}

pub fn alloc(bytes: u64) -> Result<u64, u32> {
    let mut address = 0u64;
    match cu!(cuMemAlloc_v2(&mut address => *mut u64, bytes as usize => usize)) {
        0 => Ok(address),
        code => Err(code),
    }
}

/// A stream that is not in order with the legacy one.
pub fn stream() -> u64 {
    let mut stream = 0u64;
    assert_eq!(cu!(cuStreamCreate(&mut stream => *mut u64, 1 => u32)), 0);
    stream
}

pub fn event() -> u64 {
    let mut event = 0u64;
    assert_eq!(cu!(cuEventCreate(&mut event => *mut u64, 0 => u32)), 0);
    event
}

pub fn record(event: u64, stream: u64) {
    assert_eq!(cu!(cuEventRecord(event => u64, stream => u64)), 0);
}

pub fn wait(stream: u64, event: u64) {
    assert_eq!(cu!(cuStreamWaitEvent(stream => u64, event => u64, 0 => u32)), 0);
}

pub fn write(stream: u64, at: u64, value: u8) {
    assert_eq!(sim_cuda::launch(stream, "write", &[], &[(at, 4096)], 1000, Some(value)), 0);
}

pub fn read(stream: u64, at: u64) {
    assert_eq!(sim_cuda::launch(stream, "read", &[(at, 4096)], &[], 1000, None), 0);
}
