//! Statuses, and the thread's last error.

use std::ffi::c_char;

use crate::error::{self, Error, Kind};

/// What a call came to. `FOREBAY_OK` is 0; everything else is an error, and
/// `forebay_last_error` has its message.
///
/// cbindgen:prefix-with-name=false
#[allow(non_camel_case_types, clippy::enum_variant_names)]
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum forebay_status {
    /// Done.
    ForebayOk = 0,
    /// An argument is outside what the function accepts; the message names it and the limit.
    ForebayErrorInvalidArgument = 1,
    /// The limit, the device or the address space has no room left.
    ForebayErrorOutOfMemory = 2,
    /// A pointer that this pool did not give out, or that was freed before. Nothing changed.
    ForebayErrorInvalidPointer = 3,
    /// A panic was caught inside this pool earlier. It can only be destroyed.
    ForebayErrorPoisoned = 4,
    /// The object is not in a state in which this can be done.
    ForebayErrorInvalidState = 5,
    /// This system, device or build cannot do it.
    ForebayErrorUnsupported = 6,
    /// A file could not be read or written.
    ForebayErrorIo = 7,
    /// A trace, or a file of tensors or of a plan, does not follow its format; or a trace frees
    /// what it never allocated.
    ForebayErrorMalformedTrace = 8,
    /// Guard bytes behind a block were overwritten.
    ForebayErrorCorruption = 9,
    /// A defect of forebay.
    ForebayErrorInternal = 10,
    /// Nothing is to be had without waiting; try again.
    ForebayErrorBusy = 11,
}

impl From<Kind> for forebay_status {
    fn from(kind: Kind) -> forebay_status {
        match kind {
            Kind::InvalidArgument => forebay_status::ForebayErrorInvalidArgument,
            Kind::OutOfMemory => forebay_status::ForebayErrorOutOfMemory,
            Kind::InvalidPointer => forebay_status::ForebayErrorInvalidPointer,
            Kind::Poisoned => forebay_status::ForebayErrorPoisoned,
            Kind::InvalidState => forebay_status::ForebayErrorInvalidState,
            Kind::Unsupported => forebay_status::ForebayErrorUnsupported,
            Kind::Io => forebay_status::ForebayErrorIo,
            Kind::MalformedTrace => forebay_status::ForebayErrorMalformedTrace,
            Kind::Corruption => forebay_status::ForebayErrorCorruption,
            Kind::Internal => forebay_status::ForebayErrorInternal,
            Kind::Busy => forebay_status::ForebayErrorBusy,
        }
    }
}

impl From<Error> for forebay_status {
    fn from(error: Error) -> forebay_status {
        error.kind().into()
    }
}

/// This thread's last error as text: which argument, which limit, which number. Never NULL;
/// empty if no call of this thread has failed yet. A call that succeeds leaves it as it is.
///
/// The text belongs to the thread and stays until its next call that fails, or its end.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_last_error() -> *const c_char {
    error::with_last(|_, text| text.as_ptr().cast())
}

/// The name of `status`, such as "FOREBAY_ERROR_OUT_OF_MEMORY"; "FOREBAY_UNKNOWN" for a number
/// that is none. The text is static.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_status_name(status: i32) -> *const c_char {
    let name = match status {
        0 => c"FOREBAY_OK",
        1 => c"FOREBAY_ERROR_INVALID_ARGUMENT",
        2 => c"FOREBAY_ERROR_OUT_OF_MEMORY",
        3 => c"FOREBAY_ERROR_INVALID_POINTER",
        4 => c"FOREBAY_ERROR_POISONED",
        5 => c"FOREBAY_ERROR_INVALID_STATE",
        6 => c"FOREBAY_ERROR_UNSUPPORTED",
        7 => c"FOREBAY_ERROR_IO",
        8 => c"FOREBAY_ERROR_MALFORMED_TRACE",
        9 => c"FOREBAY_ERROR_CORRUPTION",
        10 => c"FOREBAY_ERROR_INTERNAL",
        11 => c"FOREBAY_ERROR_BUSY",
        _ => c"FOREBAY_UNKNOWN",
    };
    name.as_ptr()
}

/// The version of the library that is running: major << 16 | minor << 8 | patch. Compare with
/// `FOREBAY_VERSION`, that of the header.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_version() -> u32 {
    const fn number(text: &str) -> u32 {
        let (bytes, mut value, mut at) = (text.as_bytes(), 0, 0);
        while at < bytes.len() {
            value = value * 10 + (bytes[at] - b'0') as u32;
            at += 1;
        }
        value
    }
    const VERSION: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | number(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | number(env!("CARGO_PKG_VERSION_PATCH"));
    VERSION
}
