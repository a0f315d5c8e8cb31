//! Who wants to see every allocation: the memory history of `python/forebay/torch`.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Happening {
    /// Memory was given out.
    Alloc = 0,
    /// Memory is about to be taken back.
    Free = 1,
    /// There was none; the address is NULL.
    OutOfMemory = 2,
}

/// Called with what happened (0: an allocation, 1: a free, 2: an allocation that was refused for
/// lack of memory, whose address is NULL), the address, the bytes that were asked for, the device
/// and the stream; without a lock, on the thread that allocates or frees. It may take the
/// interpreter's lock. It must not throw.
#[allow(non_camel_case_types)]
pub type forebay_torch_observer = Option<
    unsafe extern "C" fn(
        happening: i32,
        ptr: *mut c_void,
        size: usize,
        device: c_int,
        stream: *mut c_void,
    ),
>;

static OBSERVER: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Has `observer` see what happens from now on; none for nobody.
pub fn set(observer: forebay_torch_observer) {
    let address = observer.map_or(std::ptr::null_mut(), |function| function as *mut c_void);
    OBSERVER.store(address, Ordering::Release);
}

/// Tells the observer, if there is one.
#[inline(always)]
pub fn tell(
    happening: Happening,
    ptr: *mut c_void,
    size: usize,
    device: c_int,
    stream: *mut c_void,
) {
    let address = OBSERVER.load(Ordering::Acquire);
    if !address.is_null() {
        tell_it(address, happening, ptr, size, device, stream);
    }
}

#[cold]
#[inline(never)]
fn tell_it(
    address: *mut c_void,
    happening: Happening,
    ptr: *mut c_void,
    size: usize,
    device: c_int,
    stream: *mut c_void,
) {
    // SAFETY: not null, so what `set` stored: such a function, or none.
    let observer = unsafe { std::mem::transmute::<*mut c_void, forebay_torch_observer>(address) };
    if let Some(observer) = observer {
        // SAFETY: a function that may be called from any thread, by the promise it was set with.
        unsafe { observer(happening as i32, ptr, size, device, stream) };
    }
}
