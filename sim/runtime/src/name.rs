//! Names of codes.

use std::ffi::{CStr, c_char};

use crate::driver::Code;

macro_rules! codes {
    ($($code:literal $name:literal $text:literal;)*) => {
        fn texts(code: Code) -> (&'static CStr, &'static CStr) {
            match code {
                $($code => ($name, $text),)*
                _ => (c"cudaErrorUnknown", c"unknown error"),
            }
        }
    };
}

codes! {
    0 c"cudaSuccess" c"no error";
    1 c"cudaErrorInvalidValue" c"invalid argument";
    2 c"cudaErrorMemoryAllocation" c"out of memory";
    3 c"cudaErrorInitializationError" c"initialization error";
    35 c"cudaErrorInsufficientDriver" c"there is no simulated driver, libcuda.so.1";
    100 c"cudaErrorNoDevice" c"no CUDA-capable device is detected";
    101 c"cudaErrorInvalidDevice" c"invalid device ordinal";
    201 c"cudaErrorDeviceUninitialized" c"invalid device context";
    217 c"cudaErrorPeerAccessUnsupported" c"peer access is not supported between these devices";
    400 c"cudaErrorInvalidResourceHandle" c"invalid resource handle";
    401 c"cudaErrorIllegalState" c"not possible in the present state";
    500 c"cudaErrorSymbolNotFound" c"named symbol not found";
    600 c"cudaErrorNotReady" c"device not ready";
    700 c"cudaErrorIllegalAddress" c"an illegal memory access was encountered";
    702 c"cudaErrorLaunchTimeout" c"a wait for a stream that is held";
    704 c"cudaErrorPeerAccessAlreadyEnabled" c"peer access is already enabled";
    705 c"cudaErrorPeerAccessNotEnabled" c"peer access has not been enabled";
    712 c"cudaErrorHostMemoryAlreadyRegistered" c"part or all of the memory is registered already";
    713 c"cudaErrorHostMemoryNotRegistered" c"the memory is not registered";
    719 c"cudaErrorLaunchFailure" c"unspecified launch failure";
    800 c"cudaErrorNotPermitted" c"operation not permitted";
    801 c"cudaErrorNotSupported" c"the simulated CUDA runtime does not do this";
    900 c"cudaErrorStreamCaptureUnsupported" c"operation not permitted when stream is capturing";
    901 c"cudaErrorStreamCaptureInvalidated" c"an earlier error has invalidated the capture";
    902 c"cudaErrorStreamCaptureMerge" c"operation would merge two captures";
    903 c"cudaErrorStreamCaptureUnmatched" c"the capture did not begin in this stream";
    904 c"cudaErrorStreamCaptureUnjoined" c"a stream has not joined the one that the capture began in";
    905 c"cudaErrorStreamCaptureIsolation" c"dependency on work that is not captured";
    906 c"cudaErrorStreamCaptureImplicit" c"the legacy stream would depend on a capturing stream";
    907 c"cudaErrorCapturedEvent" c"the event was last recorded in a capturing stream";
    908 c"cudaErrorStreamCaptureWrongThread" c"the capture was begun by another thread";
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
