//! Who owns which front cache: a thread's for a stream, from when they meet to when one of them
//! ends.

use std::sync::atomic::{AtomicPtr, Ordering};

use super::front::{Pooled, Slot};
use super::handshake::attention;
use super::{Pool, thread};
use crate::error::{self, Result, fail};
use crate::order::Stream;
use crate::space::GRANULE;

impl Pool {
    /// The calling thread's slot for `stream`; none when it has to do without.
    #[inline]
    pub(super) fn slot_for(&self, stream: Stream) -> Result<Option<&Slot>> {
        if let Some(slot) = thread::find_slot(self.id, stream) {
            // SAFETY: a slot of this pool, which is here to be called.
            let slot = unsafe { &*slot };
            if slot.door.is_raised(attention::UNCHECKED) {
                self.order.check(stream)?;
                slot.door.lower(attention::UNCHECKED);
            }
            return Ok(Some(slot));
        }
        self.own_slot(stream)
    }

    /// The calling thread meets `stream` here for the first time. Not inlined, for a new slot
    /// is made on the stack, which takes dozens of its pages.
    #[cold]
    #[inline(never)]
    pub(super) fn own_slot(&self, stream: Stream) -> Result<Option<&Slot>> {
        error::prepare_thread();
        self.order.check(stream)?;
        if let Some(slot) = self.forgotten_slot(stream) {
            return Ok(Some(slot));
        }
        // What the only slot so far knows of peaks is lost when there are two.
        self.publish_peaks();
        let up = self.block_mask | (GRANULE as usize - 1);
        let make = |id| {
            let pooled = Pooled {
                table: self.table.parts(),
                classes: AtomicPtr::new(std::ptr::from_ref(self.classes().table()).cast_mut()),
                rounding: (up, !up),
                slots: &raw const self.slots,
            };
            let bound = self.front_bound.load(Ordering::Acquire);
            Slot::new(id, stream, bound, self.attention.load(Ordering::Acquire), pooled)
        };
        let Some(slot) = self.slots.own(self.order.name(stream), make) else { return Ok(None) };
        if thread::remember_slot(self.id, stream, slot) {
            Ok(Some(slot))
        } else {
            self.slots.disown(slot);
            Ok(None)
        }
    }

    /// The calling thread's slot of a stream that is forgotten, for another one.
    fn forgotten_slot(&self, stream: Stream) -> Option<&Slot> {
        // SAFETY: slots of this pool, which is here to be called.
        let is_free = |slot: *const Slot| unsafe { (*slot).door.is_raised(attention::UNCHECKED) };
        // SAFETY: as above.
        let slot = unsafe { &*thread::take_over(self.id, stream, is_free)? };
        // SAFETY: the owner's thread, outside the door.
        let mut locked = unsafe { slot.lock() };
        // Nothing goes into it since the stream was forgotten, and nothing may go along.
        self.flush(&mut locked);
        slot.set_stream(self.order.name(stream));
        drop(locked);
        slot.door.lower(attention::UNCHECKED);
        Some(slot)
    }

    /// A thread that had `slot` is ending.
    pub(super) fn retire(&self, slot: *const Slot) {
        let Some(slot) = self.slots.iter().find(|&own| std::ptr::eq(own, slot)) else { return };
        // SAFETY: called by the owner's thread, outside the door.
        let mut locked = unsafe { slot.lock() };
        self.flush(&mut locked);
        drop(locked);
        self.slots.disown(slot);
    }

    /// `stream` is about to be destroyed: what was freed on it is everybody's once its work
    /// is done, and its handle may be that of a new stream afterwards.
    pub fn forget_stream(&self, stream: Stream) -> Result<()> {
        self.check_open()?;
        let stream = self.order.name(stream);
        if self.core.lock().captures.iter().any(|lane| lane.stream == stream) {
            return Err(fail!(
                InvalidState,
                "stream {:#x} is capturing a graph; end that before the stream is destroyed",
                stream.0
            ));
        }
        // What caches hold of it gets its fence while there is a stream to record it on.
        let mut stopped = self.slots.stop_all();
        let own = stopped.slots.iter_mut().filter(|locked| locked.slot().stream() == stream);
        for locked in own {
            self.flush(locked);
            locked.slot().door.raise(attention::UNCHECKED);
        }
        drop(stopped);
        self.flush_stock();
        self.order.check(stream)?;
        self.core.lock().close_stream(&*self.order, stream);
        self.order.forget(stream)
    }
}
