//! Kernels: registered, and not run. A launch is refused rather than answered with memory that
//! nothing was written to; with `SIM_CUDART_KERNELS=skip` it takes its place in its stream, for
//! programs whose results nobody looks at.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use crate::answer::{entry_points, give, inside};
use crate::driver::{Code, Driver, INVALID_VALUE, NOT_SUPPORTED, Outcome, checked};
use crate::refused::say;

/// `dim3`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Dimensions {
    x: u32,
    y: u32,
    z: u32,
}

/// `cudaLaunchConfig_t`, as far as it is needed here.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Configuration {
    grid: Dimensions,
    block: Dimensions,
    shared: usize,
    stream: u64,
}

thread_local! {
    /// Configurations between `<<<` and `>>>`.
    static PUSHED: RefCell<Vec<Configuration>> = const { RefCell::new(Vec::new()) };
}

/// How long a kernel takes that does nothing, in nanoseconds.
const KERNEL_NS: u64 = 2000;

fn launch(cu: &Driver, stream: u64) -> Outcome {
    static SKIPS: OnceLock<bool> = OnceLock::new();
    let skips = *SKIPS
        .get_or_init(|| std::env::var("SIM_CUDART_KERNELS").is_ok_and(|choice| choice == "skip"));
    let at = cu.find(c"simLaunch".as_ptr());
    if !skips || at.is_null() {
        static SAID: AtomicBool = AtomicBool::new(false);
        say("a kernel (SIM_CUDART_KERNELS=skip queues it)", &SAID);
        return Err(NOT_SUPPORTED);
    }
    type Launch = unsafe extern "C" fn(
        u64,
        *const c_char,
        *const c_void,
        usize,
        *const c_void,
        usize,
        u64,
        i32,
    ) -> Code;
    let (name, none): (&CStr, _) = (c"kernel", std::ptr::null());
    // SAFETY: the simulated driver's function of this name has this type; no ranges.
    checked(unsafe {
        let launch = std::mem::transmute::<*mut c_void, Launch>(at);
        launch(stream, name.as_ptr(), none, 0, none, 0, KERNEL_NS, -1)
    })
}

entry_points! {
    inside fn cudaLaunchKernel(_function: *const c_void, _grid: Dimensions, _block: Dimensions,
        _arguments: *mut *mut c_void, _shared: usize, stream: u64) |cu| launch(cu, stream);
    inside fn cudaLaunchCooperativeKernel(_function: *const c_void, _grid: Dimensions,
        _block: Dimensions, _arguments: *mut *mut c_void, _shared: usize, stream: u64) |cu|
        launch(cu, stream);
    inside fn __cudaLaunchKernel(_kernel: *const c_void, _grid: Dimensions, _block: Dimensions,
        _arguments: *mut *mut c_void, _shared: usize, stream: u64) |cu| launch(cu, stream);
    inside fn cudaLaunchKernelExC(configuration: *const Configuration, _function: *const c_void,
        _arguments: *mut *mut c_void) |cu| launch(cu, (*configuration).stream);
    answer fn __cudaGetKernel(to: *mut *const c_void, function: *const c_void) |_cu| {
        give(to, function)
    };
    answer fn cudaFuncGetAttributes(to: *mut u8, _function: *const c_void) |_cu| {
        to.write_bytes(0, 144);
        // maxThreadsPerBlock, behind three sizes.
        give(to.add(24).cast::<i32>(), 1024)
    };
    answer fn cudaFuncSetAttribute(_function: *const c_void, _attribute: u32, _value: i32) |_cu| Ok(());
    answer fn cudaOccupancyMaxActiveBlocksPerMultiprocessor(to: *mut i32, _function: *const c_void,
        _block: i32, _shared: usize) |_cu| give(to, 8);
    answer fn cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(to: *mut i32,
        _function: *const c_void, _block: i32, _shared: usize, _flags: u32) |_cu| give(to, 8);
}

/// Registers an image of kernels, which is not looked at.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFatBinary(image: *mut c_void) -> *mut *mut c_void {
    // Any address will do; the image's own stays where it is.
    image.cast()
}

/// Nothing is to be done.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFatBinaryEnd(_image: *mut *mut c_void) {}

/// Nothing is to be done.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaUnregisterFatBinary(_image: *mut *mut c_void) {}

/// Nothing is to be done.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFunction() {}

/// Nothing is to be done.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterVar() {}

/// Nothing is to be done.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaInitModule(_image: *mut *mut c_void) -> c_char {
    1
}

/// Keeps a configuration until the launch asks for it.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaPushCallConfiguration(
    grid: Dimensions,
    block: Dimensions,
    shared: usize,
    stream: u64,
) -> u32 {
    PUSHED.with_borrow_mut(|pushed| pushed.push(Configuration { grid, block, shared, stream }));
    0
}

/// Gives the configuration that was kept last.
///
/// # Safety
/// The places are valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cudaPopCallConfiguration(
    grid: *mut Dimensions,
    block: *mut Dimensions,
    shared: *mut usize,
    stream: *mut u64,
) -> Code {
    inside(|_| {
        let Some(kept) = PUSHED.with_borrow_mut(Vec::pop) else {
            return Err(INVALID_VALUE);
        };
        // SAFETY: the caller's promise.
        unsafe {
            give(grid, kept.grid)?;
            give(block, kept.block)?;
            give(shared, kept.shared)?;
            give(stream, kept.stream)
        }
    })
}
