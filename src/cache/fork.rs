//! A fork: the child may go on with the caches of host pools.
//!
//! The forking thread takes the locks of all caches, and both processes let go of them. That is
//! before it takes the pools' locks, for handlers run in the reverse of the order in which they
//! were registered, and the pools' come first.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock, Weak};

use super::engine::Cache;
use super::sync;
use super::table::Table;
use crate::pool::{self, Pool};
use crate::sync::{Mutex, MutexGuard};

/// What is held across a fork: inner locks first, then the caches that they are in.
struct Held {
    _tables: Vec<sync::MutexGuard<'static, Table>>,
    _list: MutexGuard<'static, Vec<Weak<Cache<Pool>>>>,
    _caches: Vec<Arc<Cache<Pool>>>,
}

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

fn list() -> &'static Mutex<Vec<Weak<Cache<Pool>>>> {
    static LIST: Mutex<Vec<Weak<Cache<Pool>>>> = Mutex::new(Vec::new());
    &LIST
}

/// Has forks take care of `cache`.
pub(super) fn enter(cache: &Arc<Cache<Pool>>) {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        pool::prepare_for_forks();
        // SAFETY: functions that stay loaded, the library is never unloaded. A refusal (no
        // memory) leaves forks as they are without us.
        unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
    });
    let mut list = list().lock();
    list.retain(|cache| cache.strong_count() > 0);
    list.push(Arc::downgrade(cache));
}

extern "C" fn before() {
    // Found without the list's lock held: the last hold on a cache may be one of these.
    let mut caches: Vec<_> = list().lock().iter().filter_map(Weak::upgrade).collect();
    caches.sort_by_key(|cache| cache.id());
    let list = list().lock();
    let lock = |cache: &Arc<Cache<Pool>>| {
        // SAFETY: `Held` keeps the cache longer than its lock.
        let cache: &'static Cache<Pool> = unsafe { &*Arc::as_ptr(cache) };
        cache.table.lock()
    };
    let tables = caches.iter().map(lock).collect();
    let held = Held { _tables: tables, _list: list, _caches: caches };
    // A thread that forks while it ends has no place for them: then they are let go again, and
    // the fork is as it would be without us.
    let _ = HELD.try_with(|place| *place.borrow_mut() = Some(held));
}

extern "C" fn after() {
    let held = HELD.try_with(|place| place.borrow_mut().take());
    drop(held);
}
