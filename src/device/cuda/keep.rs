//! Physical pages kept for the next arena that wants some: creating one costs 193 µs on an
//! A100, mapping one 1.5 µs.

use crate::sync::Mutex;

/// Most pages kept per device: 256 MiB, which other programs on it can do without.
const KEPT_MAX: usize = 128;

/// A physical page, as the driver names it.
pub type Handle = u64;

/// Pages that are mapped nowhere. All arenas of a device take from it and give to it, so what
/// one pool keeps is no loss to another.
#[derive(Default)]
pub struct Keep(Mutex<Vec<Handle>>);

impl Keep {
    /// A page, if there is one.
    pub fn take(&self) -> Option<Handle> {
        self.0.lock().pop()
    }

    /// Every page.
    pub fn take_all(&self) -> Vec<Handle> {
        std::mem::take(&mut *self.0.lock())
    }

    /// Keeps `handle`; gives it back when there is no room.
    pub fn give(&self, handle: Handle) -> Option<Handle> {
        let mut kept = self.0.lock();
        if kept.len() >= KEPT_MAX {
            return Some(handle);
        }
        kept.push(handle);
        None
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }
}
