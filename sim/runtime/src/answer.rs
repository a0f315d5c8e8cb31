//! How every entry point answers: in the thread's context, and with an error that the thread
//! remembers.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::OnceLock;

use crate::driver::{Code, Driver, INVALID_VALUE, Outcome, checked, driver};

thread_local! {
    static LAST: Cell<Code> = const { Cell::new(0) };
    /// A context that was the thread's, and its device.
    static KNOWN: Cell<(u64, i32)> = const { Cell::new((0, 0)) };
}

/// The thread's last error, which is forgotten if `take`.
pub fn last(take: bool) -> Code {
    if take { LAST.replace(0) } else { LAST.get() }
}

/// Runs an entry point; the thread remembers its error.
pub fn answer(body: impl FnOnce(&'static Driver) -> Outcome) -> Code {
    match driver().and_then(body) {
        Ok(()) => 0,
        Err(code) => {
            LAST.set(code);
            code
        }
    }
}

/// The primary context of `device`, retained once.
pub fn context_of(cu: &Driver, device: i32) -> Outcome<u64> {
    const DEVICES: usize = 64;
    static CONTEXTS: std::sync::Mutex<[u64; DEVICES]> = std::sync::Mutex::new([0; DEVICES]);
    let Some(at) = usize::try_from(device).ok().filter(|&at| at < DEVICES) else {
        return Err(crate::driver::INVALID_DEVICE);
    };
    let mut contexts = CONTEXTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if contexts[at] == 0 {
        // SAFETY: a place for the answer.
        checked(unsafe { (cu.cuDevicePrimaryCtxRetain)(&mut contexts[at], device) })?;
    }
    Ok(contexts[at])
}

/// The thread's device: that of its context, whoever made it current, and the first if it has
/// none.
pub fn device(cu: &Driver) -> Outcome<i32> {
    let current = current(cu)?;
    let (known, mut device) = KNOWN.get();
    if current == 0 || known == current {
        return Ok(if current == 0 { 0 } else { device });
    }
    // SAFETY: a place for the answer.
    checked(unsafe { (cu.cuCtxGetDevice)(&mut device) })?;
    KNOWN.set((current, device));
    Ok(device)
}

/// The thread's context. Programs ask for their device at every turn, so the simulated driver is
/// asked without a call.
fn current(cu: &Driver) -> Outcome<u64> {
    type Current = extern "C" fn() -> u64;
    static QUICK: OnceLock<Option<Current>> = OnceLock::new();
    let quick = QUICK.get_or_init(|| {
        let found = cu.find(c"simCurrentContext".as_ptr());
        // SAFETY: null, or the simulated driver's function of this name, which has this type.
        unsafe { std::mem::transmute::<*mut c_void, Option<Current>>(found) }
    });
    if let Some(quick) = quick {
        return Ok(quick());
    }
    let mut current = 0;
    // SAFETY: a place for the answer.
    checked(unsafe { (cu.cuCtxGetCurrent)(&mut current) })?;
    Ok(current)
}

/// Makes a device's primary context current.
pub fn set_device(cu: &Driver, device: i32) -> Outcome {
    let context = context_of(cu, device)?;
    // SAFETY: a context that is retained.
    checked(unsafe { (cu.cuCtxSetCurrent)(context) })
}

/// Gives a thread that has no context that of the first device.
fn enter(cu: &Driver) -> Outcome {
    if current(cu)? == 0 { set_device(cu, 0) } else { Ok(()) }
}

/// As [`answer`], with a context current.
pub fn inside(body: impl FnOnce(&'static Driver) -> Outcome) -> Code {
    answer(|cu| enter(cu).and_then(|()| body(cu)))
}

/// Puts an answer where the caller wants it.
///
/// # Safety
/// `to` is NULL or valid for writing.
pub unsafe fn give<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: not null, and the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}

/// Entry points of the runtime. After `answer` the driver is there, after `inside` a context is
/// current too. Their callers promise what NVIDIA documents of each.
macro_rules! entry_points {
    ($($how:ident fn $name:ident($($arg:ident: $type:ty),*) |$cu:ident| $body:expr;)*) => {
        $(
            /// As NVIDIA documents it.
            ///
            /// # Safety
            /// As NVIDIA documents it.
            #[unsafe(no_mangle)]
            #[allow(clippy::too_many_arguments, unused_unsafe)]
            pub unsafe extern "C" fn $name($($arg: $type),*) -> $crate::driver::Code {
                // SAFETY: what is called is the function of the driver that this one stands
                // for, with the caller's arguments, for which the caller vouches.
                $crate::answer::$how(|$cu| unsafe { $body })
            }
        )*
    };
}
pub(crate) use entry_points;
