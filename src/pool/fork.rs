//! A fork: the child may free and allocate.
//!
//! Another thread may hold any lock of ours while one forks; in the child nobody would ever
//! let go of it. So the forking thread takes them all, in their order, and both processes
//! let go of them.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use super::sync::unlock;
use super::{Pool, housekeeper, registry};
use crate::order::host_stream::{self, unlock_write};

thread_local! {
    static HELD: RefCell<Vec<Arc<Pool>>> = const { RefCell::new(Vec::new()) };
}

/// Registers the handlers, once per process.
pub fn prepare_once() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // SAFETY: three functions that stay loaded, the library is never unloaded. A refusal
        // (no memory) leaves forks as they are without us.
        unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    });
}

extern "C" fn before() {
    let mut pools = registry::all();
    pools.sort_by_key(|pool| pool.id);
    std::mem::forget(registry::pools().write());
    for pool in &pools {
        // `set_policy` stops slots while it holds this one.
        std::mem::forget(pool.classes_kept.lock());
        pool.slots.before_fork();
        std::mem::forget(pool.callback.lock());
        std::mem::forget(pool.recorder.write());
        std::mem::forget(pool.slotless.cells.lock());
        std::mem::forget(pool.core.lock());
    }
    // Last, for a core that is locked asks streams how far they are.
    host_stream::before_fork();
    HELD.with(|held| *held.borrow_mut() = pools);
}

extern "C" fn in_parent() {
    // SAFETY: `before` ran in this thread and took these locks.
    unsafe { release(false) };
}

extern "C" fn in_child() {
    // SAFETY: `before` ran in the thread that this one is a copy of.
    unsafe { release(true) };
    housekeeper::after_fork_in_child();
}

/// # Safety
/// `before` took the locks.
unsafe fn release(child: bool) {
    let pools = HELD.with(|held| std::mem::take(&mut *held.borrow_mut()));
    // SAFETY: the caller's promise.
    unsafe { host_stream::after_fork(child) };
    for pool in &pools {
        // SAFETY: the caller's promise, for each of them.
        unsafe {
            unlock(&pool.core, child);
            unlock(&pool.slotless.cells, child);
            unlock_write(&pool.recorder, child);
            unlock(&pool.callback, child);
            pool.slots.after_fork(child);
            unlock(&pool.classes_kept, child);
        }
    }
    // SAFETY: the caller's promise.
    unsafe { unlock_write(registry::pools(), child) };
    // A pool that was given up by another thread meanwhile goes here, without a lock held.
    drop(pools);
}
