//! The driver's functions, found once by their names.

use std::ffi::{c_char, c_void};
use std::sync::OnceLock;

/// A code of the driver or the runtime: both count alike where it matters here.
pub type Code = u32;

/// `cudaErrorInvalidValue`.
pub const INVALID_VALUE: Code = 1;
/// `cudaErrorInsufficientDriver`.
pub const INSUFFICIENT_DRIVER: Code = 35;
/// `cudaErrorInvalidDevice`.
pub const INVALID_DEVICE: Code = 101;
/// `cudaErrorNotSupported`.
pub const NOT_SUPPORTED: Code = 801;

/// The outcome of a call.
pub type Outcome<T = ()> = Result<T, Code>;

/// What the driver's functions return, as an outcome.
pub fn checked(code: Code) -> Outcome {
    if code == 0 { Ok(()) } else { Err(code) }
}

macro_rules! driver {
    ($($name:ident($($type:ty),*);)*) => {
        /// The entry points.
        pub struct Driver {
            library: usize,
            $(pub $name: unsafe extern "C" fn($($type),*) -> Code,)*
        }

        impl Driver {
            fn load() -> Option<Driver> {
                // SAFETY: a name that ends with a NUL.
                let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
                if library.is_null() {
                    return None;
                }
                Some(Driver {
                    library: library as usize,
                    $($name: {
                        let name = concat!(stringify!($name), "\0");
                        // SAFETY: a library that is loaded, and a name that ends with a NUL.
                        let found = unsafe { libc::dlsym(library, name.as_ptr().cast()) };
                        if found.is_null() {
                            return None;
                        }
                        // SAFETY: the driver's function of this name is documented to be one
                        // of this type.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($type),*) -> Code,
                            >(found)
                        }
                    },)*
                })
            }
        }
    };
}

driver! {
    cuInit(u32);
    cuGetProcAddress_v2(*const c_char, *mut *mut c_void, i32, u64, *mut u32);
    cuDeviceGetCount(*mut i32);
    cuDeviceGetName(*mut c_char, i32, i32);
    cuDeviceGetUuid(*mut u8, i32);
    cuDeviceTotalMem_v2(*mut usize, i32);
    cuDeviceGetAttribute(*mut i32, u32, i32);
    cuDeviceGetPCIBusId(*mut c_char, i32, i32);
    cuDeviceCanAccessPeer(*mut i32, i32, i32);
    cuDevicePrimaryCtxRetain(*mut u64, i32);
    cuCtxGetCurrent(*mut u64);
    cuCtxGetDevice(*mut i32);
    cuCtxSetCurrent(u64);
    cuCtxSynchronize();
    cuCtxGetStreamPriorityRange(*mut i32, *mut i32);
    cuCtxEnablePeerAccess(u64, u32);
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemAlloc_v2(*mut u64, usize);
    cuMemFree_v2(u64);
    cuMemHostAlloc(*mut u64, usize, u32);
    cuMemFreeHost(u64);
    cuMemHostRegister_v2(u64, usize, u32);
    cuMemHostUnregister(u64);
    cuMemHostGetDevicePointer_v2(*mut u64, u64, u32);
    cuPointerGetAttribute(*mut u8, u32, u64);
    cuMemcpy(u64, u64, usize);
    cuMemcpyAsync(u64, u64, usize, u64);
    cuMemcpyPeerAsync(u64, u64, u64, u64, usize, u64);
    cuMemsetD8_v2(u64, u8, usize);
    cuMemsetD8Async(u64, u8, usize, u64);
    cuStreamCreate(*mut u64, u32);
    cuStreamCreateWithPriority(*mut u64, u32, i32);
    cuStreamDestroy_v2(u64);
    cuStreamGetPriority(u64, *mut i32);
    cuStreamQuery(u64);
    cuStreamSynchronize(u64);
    cuStreamWaitEvent(u64, u64, u32);
    cuEventCreate(*mut u64, u32);
    cuEventDestroy_v2(u64);
    cuEventRecord(u64, u64);
    cuEventQuery(u64);
    cuEventSynchronize(u64);
    cuEventElapsedTime(*mut f32, u64, u64);
    cuStreamBeginCapture_v2(u64, u32);
    cuStreamEndCapture(u64, *mut u64);
    cuStreamIsCapturing(u64, *mut u32);
    cuStreamGetCaptureInfo_v2(u64, *mut u32, *mut u64, *mut u64, *mut u64, *mut usize);
    cuThreadExchangeStreamCaptureMode(*mut u32);
    cuGraphInstantiateWithFlags(*mut u64, u64, u64);
    cuGraphGetNodes(u64, *mut u64, *mut usize);
    cuGraphLaunch(u64, u64);
    cuGraphExecDestroy(u64);
    cuGraphDestroy(u64);
    cuLaunchHostFunc(u64, Option<unsafe extern "C" fn(*mut c_void)>, u64);
    cuDeviceGetDefaultMemPool(*mut u64, i32);
    cuMemPoolTrimTo(u64, usize);
    cuMemPoolGetAttribute(u64, u32, *mut u64);
    cuMemPoolSetAttribute(u64, u32, *const u64);
    cuMemPoolSetAccess(u64, *const c_void, usize);
    cuMemAllocAsync(*mut u64, usize, u64);
    cuMemFreeAsync(u64, u64);
}

impl Driver {
    /// A function of its own, if it has one of that name, which ends with a NUL.
    pub fn find(&self, name: *const c_char) -> *mut c_void {
        // SAFETY: a library that is loaded, and a name that ends with a NUL.
        unsafe { libc::dlsym(self.library as *mut c_void, name) }
    }
}

/// The driver, initialised.
pub fn driver() -> Outcome<&'static Driver> {
    static DRIVER: OnceLock<Outcome<Driver>> = OnceLock::new();
    let driver = DRIVER.get_or_init(|| {
        let driver = Driver::load().ok_or(INSUFFICIENT_DRIVER)?;
        // SAFETY: no flags are known.
        checked(unsafe { (driver.cuInit)(0) })?;
        Ok(driver)
    });
    driver.as_ref().map_err(|&code| code)
}
