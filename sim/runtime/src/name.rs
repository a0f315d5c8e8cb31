//! Names of codes.

use std::ffi::{CStr, c_char};

use crate::driver::Code;

fn texts(code: Code) -> (&'static CStr, &'static CStr) {
    match code {
        0 => (c"cudaSuccess", c"no error"),
        1 => (c"cudaErrorInvalidValue", c"invalid argument"),
        2 => (c"cudaErrorMemoryAllocation", c"out of memory"),
        3 => (c"cudaErrorInitializationError", c"initialization error"),
        4 => (c"cudaErrorCudartUnloading", c"driver shutting down"),
        35 => (c"cudaErrorInsufficientDriver", c"there is no simulated driver, libcuda.so.1"),
        100 => (c"cudaErrorNoDevice", c"no CUDA-capable device is detected"),
        101 => (c"cudaErrorInvalidDevice", c"invalid device ordinal"),
        201 => (c"cudaErrorDeviceUninitialized", c"invalid device context"),
        400 => (c"cudaErrorInvalidResourceHandle", c"invalid resource handle"),
        600 => (c"cudaErrorNotReady", c"device not ready"),
        700 => (c"cudaErrorIllegalAddress", c"an illegal memory access was encountered"),
        702 => (c"cudaErrorLaunchTimeout", c"a wait for a stream that is held"),
        704 => (c"cudaErrorPeerAccessAlreadyEnabled", c"peer access is already enabled"),
        705 => (c"cudaErrorPeerAccessNotEnabled", c"peer access has not been enabled"),
        800 => (c"cudaErrorNotPermitted", c"operation not permitted"),
        801 => (c"cudaErrorNotSupported", c"the simulated CUDA runtime does not do this"),
        900 => (
            c"cudaErrorStreamCaptureUnsupported",
            c"operation not permitted when stream is capturing",
        ),
        901 => (
            c"cudaErrorStreamCaptureInvalidated",
            c"operation failed due to a previous error during capture",
        ),
        905 => (c"cudaErrorStreamCaptureIsolation", c"dependency created on uncaptured work"),
        906 => (
            c"cudaErrorStreamCaptureImplicit",
            c"operation would make the legacy stream depend on a capturing blocking stream",
        ),
        907 => (
            c"cudaErrorCapturedEvent",
            c"operation not permitted on an event last recorded in a capturing stream",
        ),
        908 => (
            c"cudaErrorStreamCaptureWrongThread",
            c"attempt to terminate a thread-local capture from another thread",
        ),
        _ => (c"cudaErrorUnknown", c"unknown error"),
    }
}

/// The name of a code. The text is static.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGetErrorName(code: Code) -> *const c_char {
    texts(code).0.as_ptr()
}

/// What a code means. The text is static.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGetErrorString(code: Code) -> *const c_char {
    texts(code).1.as_ptr()
}
