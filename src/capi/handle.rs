//! Handles: what opaque pointers lead to. A handle outlives its object by design, a few bytes for
//! each that was ever made, so that a use after the destruction is an error and not a crash.

use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::guard::guard_or;
use super::status::forebay_status;
use crate::error::{Error, Result, fail};
use crate::sync::Mutex;

/// The handles of a kind. None is ever freed. All are in a list, so that leak checkers find every
/// one of them and a program under valgrind is not told that they are lost.
pub struct Handles<H> {
    /// What messages call the object, and the function that it must come from.
    name: &'static str,
    maker: &'static str,
    newest: AtomicPtr<Kept<H>>,
}

/// A handle, first, so that a pointer to this is one to it; and the one made before.
#[repr(C)]
struct Kept<H> {
    handle: H,
    previous: *mut Kept<H>,
}

impl<H> Handles<H> {
    /// No handles yet.
    pub const fn new(name: &'static str, maker: &'static str) -> Handles<H> {
        Handles { name, maker, newest: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// Keeps `handle` from now on.
    pub fn keep(&self, handle: H) -> *mut H {
        let kept = Box::into_raw(Box::new(Kept { handle, previous: std::ptr::null_mut() }));
        let mut previous = self.newest.load(Ordering::Relaxed);
        loop {
            // SAFETY: made above, and nobody else reads this field.
            unsafe { (*kept).previous = previous };
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            match self.newest.compare_exchange_weak(previous, kept, success, failure) {
                Ok(_) => return kept.cast(),
                Err(newer) => previous = newer,
            }
        }
    }

    /// The handle that `pointer` leads to.
    ///
    /// # Safety
    /// `pointer` is NULL or came from [`Handles::keep`] of this kind.
    #[inline(always)]
    pub unsafe fn at<'a, P>(&self, pointer: *const P) -> Result<&'a H> {
        // SAFETY: the caller's promise; handles are never freed.
        unsafe { pointer.cast::<H>().as_ref() }.ok_or_else(|| self.null())
    }

    #[cold]
    #[inline(never)]
    fn null(&self) -> Error {
        fail!(InvalidArgument, "{} is NULL; it must come from {}", self.name, self.maker)
    }

    /// The error of an object that is gone.
    #[cold]
    #[inline(never)]
    pub fn destroyed(&self) -> Error {
        fail!(InvalidArgument, "{} was destroyed before", self.name)
    }
}

/// An object that is not destroyed while a call with it is under way, which is the callers' part:
/// to look at it takes no lock.
pub struct Owned<T>(AtomicPtr<T>);

impl<T> Owned<T> {
    /// Holds `object`.
    pub fn new(object: Arc<T>) -> Owned<T> {
        Owned(AtomicPtr::new(Arc::into_raw(object).cast_mut()))
    }

    /// The object, if it was not taken out.
    ///
    /// # Safety
    /// It is not taken out while the reference is used.
    #[inline(always)]
    pub unsafe fn get<'a>(&self) -> Option<&'a T> {
        // SAFETY: NULL, or the object of an `Arc` that is held here, by the caller's promise.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Takes the object out; none when that was done before.
    pub fn take(&self) -> Option<Arc<T>> {
        let object = self.0.swap(std::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: made by `Arc::into_raw` in `new`, and taken out once.
        (!object.is_null()).then(|| unsafe { Arc::from_raw(object) })
    }
}

impl<T> Handles<Owned<T>> {
    /// Runs `body` with the object that `pointer` leads to; a panic in it is told by `poison`.
    ///
    /// # Safety
    /// As for [`Handles::at`]; the object is not destroyed before this returns.
    #[inline(always)]
    pub unsafe fn with<P>(
        &self,
        pointer: *const P,
        body: impl FnOnce(&T) -> Result<()>,
        poison: impl FnOnce(&T),
    ) -> forebay_status {
        // SAFETY: the caller's promise.
        let object = match unsafe { self.at(pointer) } {
            // SAFETY: the caller's promise.
            Ok(handle) => unsafe { handle.get() },
            Err(error) => return error.into(),
        };
        let Some(object) = object else { return self.destroyed().into() };
        guard_or(|| body(object), || poison(object))
    }

    /// Takes the object out that `pointer` leads to; none for NULL.
    ///
    /// # Safety
    /// As for [`Handles::at`].
    pub unsafe fn take<P>(&self, pointer: *const P) -> Result<Option<Arc<T>>> {
        if pointer.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's promise.
        unsafe { self.at(pointer) }?.take().map(Some).ok_or_else(|| self.destroyed())
    }
}

/// An object that may be destroyed while calls with it are under way: they finish with it.
pub type Shared<T> = Mutex<Option<Arc<T>>>;

impl<T> Handles<Shared<T>> {
    /// Makes a handle for `object`.
    pub fn keep_shared(&self, object: T) -> *mut Shared<T> {
        self.keep(Mutex::new(Some(Arc::new(object))))
    }

    /// The object that `pointer` leads to.
    ///
    /// # Safety
    /// As for [`Handles::at`].
    pub unsafe fn behind<P>(&self, pointer: *const P) -> Result<Arc<T>> {
        // SAFETY: the caller's promise.
        let held = unsafe { self.at(pointer) }?.lock().clone();
        held.ok_or_else(|| self.destroyed())
    }

    /// Destroys the object that `pointer` leads to. NULL is fine.
    ///
    /// # Safety
    /// As for [`Handles::at`].
    pub unsafe fn destroy<P>(&self, pointer: *const P) -> Result<()> {
        if pointer.is_null() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        let object = unsafe { self.at(pointer) }?.lock().take();
        object.map(drop).ok_or_else(|| self.destroyed())
    }
}
