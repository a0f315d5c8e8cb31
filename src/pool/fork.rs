//! A fork: the child may free and allocate.
//!
//! Another thread may hold any lock of ours while one forks; in the child nobody would ever
//! let go of it. So the forking thread takes them all, in their order, stops the owners of
//! all front caches, and both processes let go again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::core::Core;
use super::planned::Planned;
use super::slots::AllStopped;
use super::stats::Counters;
use super::{Holder, OomCallback, Pool, housekeeper, registry};
use crate::order::host_stream;
use crate::space::SizeClasses;
use crate::sync::{MutexGuard, RwLockWriteGuard};
use crate::trace::Recorder;

/// What is held across a fork. Fields are dropped in this order: inner locks first.
struct Held {
    _streams: host_stream::Held,
    locks: Vec<Locks>,
    _registry: RwLockWriteGuard<'static, HashMap<u64, Weak<Pool>>>,
    /// Last, for the locks are in them. A pool that was given up by another thread meanwhile
    /// goes here, without a lock held.
    pools: Vec<Arc<Pool>>,
}

/// The locks of a pool, inner ones first.
struct Locks {
    core: MutexGuard<'static, Core>,
    _slotless: MutexGuard<'static, Counters>,
    recorder: RwLockWriteGuard<'static, Option<Arc<Recorder>>>,
    _planned: MutexGuard<'static, Option<Planned>>,
    _callback: MutexGuard<'static, Option<OomCallback>>,
    _holders: RwLockWriteGuard<'static, Vec<Weak<dyn Holder>>>,
    slots: AllStopped<'static>,
    #[allow(clippy::vec_box)]
    _classes: MutexGuard<'static, Vec<Box<SizeClasses>>>,
}

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
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
    let registry = registry::pools().write();
    let lock = |pool: &Arc<Pool>| {
        // SAFETY: `Held` keeps the pool longer than its locks.
        let pool: &'static Pool = unsafe { &*Arc::as_ptr(pool) };
        // In the order in which they are taken elsewhere: `set_policy` stops slots while it
        // holds the classes.
        let classes = pool.classes_kept.lock();
        let slots = pool.slots.stop_all();
        let holders = pool.holders.write();
        let callback = pool.callback.lock();
        let planned = pool.planned.lock();
        let recorder = pool.recorder.write();
        let slotless = pool.slotless.cells.lock();
        Locks {
            core: pool.core.lock(),
            _slotless: slotless,
            recorder,
            _planned: planned,
            _callback: callback,
            _holders: holders,
            slots,
            _classes: classes,
        }
    };
    let locks = pools.iter().map(lock).collect();
    // Last, for a core that is locked asks streams how far they are.
    let streams = host_stream::before_fork();
    let held = Held { _streams: streams, locks, _registry: registry, pools };
    // A thread that forks while it ends has no place for them: then they are let go again, and
    // the fork is as it would be without us.
    let _ = HELD.try_with(|place| *place.borrow_mut() = Some(held));
}

static CHILD: AtomicBool = AtomicBool::new(false);

/// Whether this is the child of a fork: what other threads of the parent had for a moment, they
/// have here for ever.
pub(super) fn is_child() -> bool {
    CHILD.load(Ordering::Relaxed)
}

fn take() -> Option<Held> {
    HELD.try_with(|place| place.borrow_mut().take()).ok().flatten()
}

extern "C" fn in_parent() {
    drop(take());
}

extern "C" fn in_child() {
    CHILD.store(true, Ordering::Relaxed);
    let mut held = take();
    host_stream::after_fork_in_child();
    housekeeper::after_fork_in_child();
    crate::monitor::pinned_are_lost();
    let mut traced = Vec::new();
    if let Some(Held { locks, pools, .. }) = &mut held {
        for (locks, pool) in locks.iter_mut().zip(&*pools) {
            locks.slots.leave_doors();
            // Those who made these calls stayed in the parent: nobody is to wait for them.
            (locks.core.device_calls, locks.core.releases) = (0, 0);
            if pool.device.is_lost_in_child() {
                pool.close_in_child();
            }
            // The trace is the parent's: rows that the child has a copy of are not its to write.
            if let Some(recorder) = locks.recorder.take() {
                recorder.abandon();
                traced.push(Arc::clone(pool));
            }
        }
    }
    drop(held);
    traced.iter().for_each(|pool| pool.update_attention());
}
