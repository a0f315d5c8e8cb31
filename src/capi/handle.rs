//! Handles of objects that are only looked at: they outlive their object, so that a use after
//! the destruction is an error and not a crash.

use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::error::{Result, fail};
use crate::sync::Mutex;

/// What an opaque pointer leads to.
pub struct Handle<T> {
    held: Mutex<Option<Arc<T>>>,
    /// The handle made before, so that leak checkers find every one of them.
    #[allow(dead_code)]
    previous: AtomicPtr<Handle<T>>,
}

impl<T> Handle<T> {
    /// Makes a handle for `object`; `newest` is the last one made of this kind.
    pub fn create(object: T, newest: &AtomicPtr<Handle<T>>) -> *mut Handle<T> {
        let handle = Box::into_raw(Box::new(Handle {
            held: Mutex::new(Some(Arc::new(object))),
            previous: AtomicPtr::new(std::ptr::null_mut()),
        }));
        let previous = newest.swap(handle, Ordering::AcqRel);
        // SAFETY: made above, and never freed.
        unsafe { (*handle).previous.store(previous, Ordering::Release) };
        handle
    }

    /// The object behind `handle`, which is called `name` in messages.
    ///
    /// # Safety
    /// `handle` is NULL or came from `create`.
    pub unsafe fn behind(handle: *const Handle<T>, name: &str) -> Result<Arc<T>> {
        // SAFETY: the caller's promise; handles are never freed.
        let Some(handle) = (unsafe { handle.as_ref() }) else {
            return Err(fail!(InvalidArgument, "{name} is NULL"));
        };
        let held = handle.held.lock().clone();
        held.ok_or_else(|| fail!(InvalidArgument, "{name} {handle:p} was destroyed before"))
    }

    /// Destroys the object; calls that are under way with it finish first. NULL is fine.
    ///
    /// # Safety
    /// As `behind`.
    pub unsafe fn destroy(handle: *const Handle<T>, name: &str) -> Result<()> {
        // SAFETY: the caller's promise; handles are never freed.
        let Some(handle) = (unsafe { handle.as_ref() }) else { return Ok(()) };
        match handle.held.lock().take() {
            Some(_) => Ok(()),
            None => Err(fail!(InvalidArgument, "{name} {handle:p} was destroyed before")),
        }
    }
}
