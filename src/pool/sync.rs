//! What the door of a front cache is made of. Apart, so that `tests/handshake` can build
//! [`super::handshake`] and [`super::front`] from the parts of a model checker instead.

pub use std::hint::spin_loop;
pub use std::sync::atomic;
pub use std::thread::yield_now;

pub use parking_lot::{Mutex, MutexGuard};

use parking_lot::RawMutex;
use parking_lot::lock_api::RawMutex as _;

/// Lets go of a lock that was taken for a fork. In the child it is made anew: those who wait
/// for it are not in this process, and to let go the ordinary way may hand it to one of them.
///
/// # Safety
/// This thread (in the child: the thread that it is a copy of) took the lock and forgot it.
pub unsafe fn unlock<T>(mutex: &Mutex<T>, child: bool) {
    // SAFETY: the caller's promise; in the child, moreover, there is no other thread.
    unsafe {
        if child {
            std::ptr::from_ref(mutex.raw()).cast_mut().write(RawMutex::INIT);
        } else {
            mutex.force_unlock();
        }
    }
}
