//! The primary context of one device, and how its calls are made.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{c_int, c_uint};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute, CUstreamCaptureMode};

use super::api::{DriverApi, Outcome};
use super::keep::Keep;
use crate::error::{Error, Result, fail};
use crate::sync::Mutex;

/// Counts forks, cheaper to compare than to ask the system for the process's number.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Which process this is.
pub(super) fn process() -> u32 {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        extern "C" fn in_child() {
            FORKS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: a function that stays loaded, the library is never unloaded. A refusal (no
        // memory) leaves forks unseen.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
    FORKS.load(Ordering::Relaxed)
}

/// The primary context of a device: the one that the runtime, and every library on it, use.
pub struct Context {
    api: Arc<DriverApi>,
    ordinal: u32,
    device: CUdevice,
    raw: CUcontext,
    /// The process that made it, as `FORKS` was. After a fork the driver cannot be used.
    process: u32,
    /// Physical pages that no arena of the device needs at the moment.
    pub(super) keep: Keep,
}

// SAFETY: a context is the driver's, and may be used from any thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// The context of device `ordinal`, shared by all who ask for it.
    pub fn of_device(api: &Arc<DriverApi>, ordinal: u32) -> Result<Arc<Context>> {
        if api.process != process() {
            return Err(after_fork());
        }
        type Known = HashMap<(usize, u32), Weak<Context>>;
        static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
        let key = (Arc::as_ptr(api) as usize, ordinal);
        let known = KNOWN.lock().as_ref().and_then(|known| known.get(&key)?.upgrade());
        if let Some(known) = known.filter(|known| !known.is_of_parent()) {
            return Ok(known);
        }
        let fresh = Arc::new(Context::retain(api, ordinal)?);
        let mut known = KNOWN.lock();
        let known = known.get_or_insert_default();
        // Two threads may come here: the first one's is everybody's. The other retained it
        // once more than needed and lets go when this returns.
        let first = known.get(&key).and_then(Weak::upgrade);
        if let Some(first) = first.filter(|first| !first.is_of_parent()) {
            return Ok(first);
        }
        known.insert(key, Arc::downgrade(&fresh));
        Ok(fresh)
    }

    fn retain(api: &Arc<DriverApi>, ordinal: u32) -> Result<Context> {
        let error = |failure| api.error(failure);
        let mut count: c_int = 0;
        // SAFETY: a place for the answer.
        unsafe { api.device_count(&mut count) }.map_err(error)?;
        if i64::from(ordinal) >= i64::from(count) {
            return Err(fail!(
                InvalidArgument,
                "device_index is {ordinal}; this machine has {count} CUDA devices"
            ));
        }
        let (mut device, mut raw) = (0, null_mut());
        // SAFETY: a device that exists, and places for the answers.
        unsafe {
            api.device_get(&mut device, ordinal as c_int).map_err(error)?;
            api.primary_retain(&mut raw, device).map_err(error)?;
        }
        let process = process();
        Ok(Context { api: Arc::clone(api), ordinal, device, raw, process, keep: Keep::default() })
    }

    /// The driver.
    pub fn api(&self) -> &DriverApi {
        &self.api
    }

    /// The driver's number of the device.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// The driver's name of the device.
    pub(super) fn device(&self) -> CUdevice {
        self.device
    }

    /// The context itself.
    pub fn raw(&self) -> CUcontext {
        self.raw
    }

    /// An attribute of the device.
    pub(super) fn attribute(&self, attribute: CUdevice_attribute) -> Outcome<i32> {
        let mut value = 0;
        // SAFETY: a place for the answer.
        unsafe { self.api.device_attribute(&mut value, attribute, self.device) }?;
        Ok(value)
    }

    /// Whether it was made before a fork and this is the child.
    pub fn is_of_parent(&self) -> bool {
        self.process != FORKS.load(Ordering::Relaxed)
    }

    /// Makes calls of the driver with this context current and in relaxed capture mode, so
    /// that a capture under way in another thread neither forbids them nor is spoilt by them.
    /// What was current before is current afterwards.
    pub fn with<T>(&self, calls: impl FnOnce(&DriverApi) -> Outcome<T>) -> Result<T> {
        if self.is_of_parent() {
            return Err(after_fork());
        }
        self.enter(calls).map_err(|failure| self.api.error(failure))
    }

    /// As [`Context::with`], for what is given back: an error has nobody to go to, so where the
    /// context could not be entered it is tried once more. In a forked child there is nothing to
    /// give back.
    pub fn undo(&self, calls: impl Fn(&DriverApi)) {
        let entered = Cell::new(false);
        for _ in 0..2 {
            let _ = self.with(|api| {
                entered.set(true);
                calls(api);
                Ok(())
            });
            if entered.get() || self.is_of_parent() {
                return;
            }
        }
        tracing::warn!(device = self.ordinal, "something was not given back to the driver");
    }

    fn enter<T>(&self, calls: impl FnOnce(&DriverApi) -> Outcome<T>) -> Outcome<T> {
        let api = &*self.api;
        let mut current = null_mut();
        // SAFETY: a place for the answer.
        unsafe { api.context_current(&mut current) }?;
        let pushed = current != self.raw;
        if pushed {
            // SAFETY: the context is retained as long as `self` lives.
            unsafe { api.context_push(self.raw) }?;
        }
        let _popped = Undo(|| {
            let mut top = null_mut();
            // SAFETY: places for the answers. A pop that fails is tried again where it did
            // not pop: a call may report what went wrong earlier. Beyond that there is nobody
            // to tell.
            unsafe {
                if pushed
                    && api.context_pop(&mut top).is_err()
                    && api.context_current(&mut top).is_ok()
                    && top == self.raw
                {
                    let _ = api.context_pop(&mut top);
                }
            }
        });
        let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED as c_uint;
        // SAFETY: a mode that exists, and a place for the one before.
        unsafe { api.exchange_capture_mode(&mut mode) }?;
        let _restored = Undo(|| {
            let restore = |mut mode: c_uint| {
                // SAFETY: the mode that the driver gave.
                unsafe { api.exchange_capture_mode(&mut mode) }
            };
            let _ = restore(mode).or_else(|_| restore(mode));
        });
        calls(api)
    }
}

/// A call that gives something back, made again if it failed: a call may report what went wrong
/// earlier, and was not made then.
pub fn twice(call: impl Fn() -> Outcome) -> Outcome {
    call().or_else(|_| call())
}

#[cold]
fn after_fork() -> Error {
    fail!(
        InvalidState,
        "CUDA was used before fork() and cannot be used in the child: fork before the first pool \
         on a device, or start the child anew with exec()"
    )
}

/// Called when it is dropped, so also when what comes between panics.
struct Undo<F: FnMut()>(F);

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.is_of_parent() {
            return;
        }
        let kept = self.keep.take_all();
        for handle in kept {
            // SAFETY: a handle of ours that is mapped nowhere.
            let _ = twice(|| unsafe { self.api.page_release(handle) });
        }
        // SAFETY: retained once by `retain`.
        let _ = twice(|| unsafe { self.api.primary_release(self.device) });
    }
}
