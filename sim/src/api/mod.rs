//! The entry points, one file per noun. Each is counted, may be made to fail, and hands its
//! arguments to the noun itself.

pub mod capture;
pub mod context;
pub mod copy;
pub mod device;
pub mod graph;
pub mod memory;
pub mod pointer;
pub mod pool;
pub mod procedure;
pub mod refused;
pub mod sim;
pub mod stream;

use std::ffi::c_void;

use crate::code::{ERROR_INVALID_VALUE, Outcome};

/// What an argument is in the log.
trait Argument {
    fn number(&self) -> u64;
}

macro_rules! arguments {
    ($($type:ty)*) => {
        $(impl Argument for $type {
            fn number(&self) -> u64 {
                *self as u64
            }
        })*
    };
}

arguments! { u8 i32 u32 u64 usize }

impl<T> Argument for *const T {
    fn number(&self) -> u64 {
        *self as *const u8 as u64
    }
}

impl<T> Argument for *mut T {
    fn number(&self) -> u64 {
        *self as *const u8 as u64
    }
}

impl Argument for graph::Function {
    fn number(&self) -> u64 {
        self.map_or(0, |function| function as usize as u64)
    }
}

/// Functions with the driver's names, and the search for one by name.
macro_rules! entry_points {
    ($(fn $name:ident($($arg:ident: $type:ty),*) |$state:ident| $body:block)*) => {
        $(
            /// As the driver documents it.
            ///
            /// # Safety
            ///
            /// As the driver documents it.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub unsafe extern "C" fn $name($($arg: $type),*) -> $crate::code::Code {
                let arguments: &[u64] = &[$($crate::api::Argument::number(&$arg)),*];
                $crate::call(stringify!($name), arguments, |$state| $body)
            }
        )*

        pub(super) fn find(name: &str) -> Option<*mut std::ffi::c_void> {
            match name {
                $(stringify!($name) => Some($name as *mut std::ffi::c_void),)*
                _ => None,
            }
        }
    };
}
use entry_points;

pub(crate) fn find(name: &str) -> Option<*mut c_void> {
    let nouns = [
        capture::find,
        context::find,
        copy::find,
        device::find,
        device::find_words,
        graph::find,
        memory::find,
        pointer::find,
        pool::find,
        procedure::find,
        refused::find,
        stream::find,
    ];
    nouns.iter().find_map(|noun| noun(name))
}

/// Puts an answer where the caller wants it.
fn give<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return Err(ERROR_INVALID_VALUE);
    }
    // SAFETY: not null, and the caller of the entry point vouches for the rest.
    unsafe { to.write(value) };
    Ok(())
}

/// What the caller points to.
fn take<T: Copy>(from: *const T) -> Outcome<T> {
    if from.is_null() {
        return Err(ERROR_INVALID_VALUE);
    }
    // SAFETY: as above.
    Ok(unsafe { from.read() })
}
