//! The slots of a pool: made when a thread first meets it, used again when a thread ends.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::sync::{Mutex, MutexGuard};

use super::front::{Locked, Slot};
use super::handshake::barrier;
use super::stats::Counters;
use crate::order::Stream;

/// Most slots of a pool: one per thread and stream that use it at the same time. Beyond it,
/// threads do without a front cache.
pub const SLOTS_MAX: usize = 4096;

/// All slots of a pool, their owners stopped.
pub struct AllStopped<'a> {
    /// The slots.
    pub slots: Vec<Locked<'a>>,
    _unowned: MutexGuard<'a, Vec<u32>>,
}

/// The slots of a pool. They are made one by one and stay where they are.
pub struct Slots {
    slots: Box<[AtomicPtr<Slot>]>,
    count: AtomicUsize,
    /// Numbers of slots that have no owner.
    unowned: Mutex<Vec<u32>>,
}

impl Slots {
    /// No slots.
    pub fn new() -> Slots {
        let slots = (0..SLOTS_MAX).map(|_| AtomicPtr::default()).collect();
        Slots { slots, count: AtomicUsize::new(0), unowned: Mutex::new(Vec::new()) }
    }

    /// The slot `id`, if there is one.
    pub fn get(&self, id: u32) -> Option<&Slot> {
        // SAFETY: null, or a slot that stays where it is until `Slots` is dropped.
        unsafe { self.slots.get(id as usize)?.load(Ordering::Acquire).as_ref() }
    }

    /// How many slots were ever made.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// All slots.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        (0..self.len() as u32).filter_map(|id| self.get(id))
    }

    /// What all slots count.
    pub fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.iter().map(|slot| &slot.counters)
    }

    /// The counters of the only slot there ever was, if there was only one.
    pub fn only(&self) -> Option<&Counters> {
        if self.len() == 1 { self.get(0).map(|slot| &slot.counters) } else { None }
    }

    /// A slot for the calling thread and `stream`: one without an owner, or a new one. None
    /// when there are too many.
    ///
    /// `make` gets the new one's number, under the lock that [`Slots::stop_all`] holds: so
    /// whoever changes something for all slots either finds the new one or is seen by it.
    pub fn own(&self, stream: Stream, make: impl FnOnce(u32) -> Slot) -> Option<&Slot> {
        let mut unowned = self.unowned.lock();
        let found = match unowned.pop() {
            Some(id) => self.get(id)?,
            None => {
                let id = self.len();
                if id >= SLOTS_MAX {
                    return None;
                }
                let slot = Box::new(make(id as u32));
                self.slots[id].store(Box::into_raw(slot), Ordering::Release);
                self.count.store(id + 1, Ordering::Release);
                self.get(id as u32)?
            }
        };
        found.set_stream(stream);
        Some(found)
    }

    /// Raises `flag` at the doors of all slots.
    pub fn raise(&self, flag: u32) {
        let unowned = self.unowned.lock();
        self.iter().for_each(|slot| slot.door.raise(flag));
        drop(unowned);
    }

    /// The owner of `slot` has no use for it any more; its cache is empty.
    pub fn disown(&self, slot: &Slot) {
        self.unowned.lock().push(slot.id);
    }

    /// Stops the owners of all slots but those that are in their own slow path, and returns
    /// their caches. The calling thread holds no slot's lock.
    pub fn stop(&self) -> Vec<Locked<'_>> {
        let stopping: Vec<_> = self.iter().filter_map(Slot::begin_stop).collect();
        if stopping.is_empty() {
            return Vec::new();
        }
        barrier();
        stopping.into_iter().map(|one| one.wait()).collect()
    }

    /// Stops the owners of all slots, and keeps new ones from being made.
    pub fn stop_all(&self) -> AllStopped<'_> {
        let unowned = self.unowned.lock();
        // In the order of their numbers, as everybody who takes several.
        let stopping: Vec<_> = self.iter().map(Slot::begin_stop_waiting).collect();
        barrier();
        let slots = stopping.into_iter().map(|one| one.wait()).collect();
        AllStopped { slots, _unowned: unowned }
    }
}

impl AllStopped<'_> {
    /// In the child of a fork: owners that were caught knocking are not here to turn away.
    pub fn leave_doors(&self) {
        self.slots.iter().for_each(|locked| locked.slot().door.leave());
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        for slot in &self.slots {
            let slot = slot.load(Ordering::Acquire);
            if !slot.is_null() {
                // SAFETY: made by `Box::into_raw` in `own`; nobody uses the pool any more.
                drop(unsafe { Box::from_raw(slot) });
            }
        }
    }
}
