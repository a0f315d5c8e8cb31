//! Every pool of the process: who an address belongs to, and whose idle pages can be had.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use crate::sync::RwLock;

use super::front::Slot;
use super::{Pool, fork};

type Pools = RwLock<HashMap<u64, Weak<Pool>>>;

pub(super) fn pools() -> &'static Pools {
    static POOLS: OnceLock<Pools> = OnceLock::new();
    POOLS.get_or_init(Pools::default)
}

/// A number for a pool; never given twice, and never zero.
pub(super) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Enters a new pool, and forgets those that are gone.
pub(super) fn enter(pool: &Arc<Pool>) {
    fork::prepare_once();
    let mut pools = pools().write();
    pools.retain(|_, pool| pool.strong_count() > 0);
    pools.insert(pool.id, Arc::downgrade(pool));
}

/// Takes a pool out. Who found it before is done with it in a moment, and is waited for: then the
/// caller's is the last there is of it.
pub(super) fn leave(pool: &Arc<Pool>) {
    pools().write().remove(&pool.id);
    // Not in a child: who had it may be a thread of the parent.
    while Arc::strong_count(pool) > 1 && !fork::is_child() {
        std::thread::yield_now();
    }
}

/// Every pool that is there.
pub(super) fn all() -> Vec<Arc<Pool>> {
    pools().read().values().filter_map(Weak::upgrade).collect()
}

/// Whether the pool is there.
pub(super) fn is_alive(id: u64) -> bool {
    pools().read().get(&id).is_some_and(|pool| pool.strong_count() > 0)
}

/// The pool whose addresses `address` is among.
pub(super) fn owner_of(address: usize) -> Option<u64> {
    let inside =
        |pool: &Arc<Pool>| (address.wrapping_sub(pool.table.base()) as u64) < pool.table.bytes();
    all().iter().find(|pool| inside(pool)).map(|pool| pool.id)
}

/// A thread that had `slot` of the pool `id` is ending.
pub(super) fn retire_slot(id: u64, slot: *const Slot) {
    let pool = pools().read().get(&id).and_then(Weak::upgrade);
    if let Some(pool) = pool {
        pool.retire(slot);
    }
}

/// Gives the idle pages of all pools but `id` back; returns the bytes.
pub(super) fn trim_others(id: u64) -> u64 {
    all().iter().filter(|pool| pool.id != id).map(|pool| pool.release_idle(u64::MAX)).sum()
}
