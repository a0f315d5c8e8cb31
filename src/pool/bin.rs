//! A bin of a front cache: the blocks of one size that a thread holds, the last one freed on
//! top.
//!
//! The youngest block has a place of its own, beside a stack for the others. A free followed
//! by an allocation then goes through one store and one load of that place; through a stack
//! alone it is three in a row, each waiting for the one before (counted in cycles that is most
//! of a hit).

use std::sync::atomic::AtomicU32;

/// A block in a front cache.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its first byte.
    pub address: usize,
    /// Its word, in a head that stays where it is until the pool is gone.
    pub word: *const AtomicU32,
}

/// The blocks of one size.
#[derive(Debug)]
#[repr(align(64))]
pub struct Bin {
    /// The youngest; its address is 0 while there is none.
    hot: Entry,
    /// Bytes of a block; 0 while there is no place for any.
    size: u64,
    /// Behind the youngest entry of the stack.
    top: *mut Entry,
    /// The oldest entry of the stack.
    bottom: *mut Entry,
    /// Behind the last place of the stack.
    limit: *mut Entry,
}

const NO_ENTRY: Entry = Entry { address: 0, word: std::ptr::null() };

impl Default for Bin {
    fn default() -> Bin {
        let none = std::ptr::null_mut();
        Bin { hot: NO_ENTRY, size: 0, top: none, bottom: none, limit: none }
    }
}

impl Bin {
    /// Bytes of a block that it is for.
    #[inline(always)]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many blocks it holds.
    pub fn len(&self) -> usize {
        let stacked = (self.top as usize - self.bottom as usize) / size_of::<Entry>();
        stacked + usize::from(self.hot.address != 0)
    }

    /// How many blocks it has places for.
    pub fn places(&self) -> usize {
        if self.size == 0 { 0 } else { self.stack_places() + 1 }
    }

    fn stack_places(&self) -> usize {
        (self.limit as usize - self.bottom as usize) / size_of::<Entry>()
    }

    /// Whether it is for blocks of `size` bytes and has a place for one more.
    #[inline(always)]
    pub fn has_place(&self, size: u64) -> bool {
        self.size == size && (self.hot.address == 0 || self.top != self.limit)
    }

    /// Makes the empty bin one for `places` blocks of `size` bytes.
    pub fn dedicate(&mut self, size: u64, places: usize) {
        debug_assert_eq!(self.len(), 0);
        let stacked = places.max(2) - 1;
        if self.stack_places() != stacked {
            self.free_places();
            let mut entries = Vec::<Entry>::with_capacity(stacked);
            self.bottom = entries.as_mut_ptr();
            // SAFETY: one behind the end of the allocation.
            self.limit = unsafe { self.bottom.add(stacked) };
            std::mem::forget(entries);
        }
        self.top = self.bottom;
        self.size = size;
    }

    /// Forgets which size it was for; it is empty.
    pub fn undedicate(&mut self) {
        debug_assert_eq!(self.len(), 0);
        self.size = 0;
    }

    fn free_places(&mut self) {
        if !self.bottom.is_null() {
            // SAFETY: made from a vector of this capacity in `dedicate`; entries need no drop.
            drop(unsafe { Vec::from_raw_parts(self.bottom, 0, self.stack_places()) });
        }
        let none = std::ptr::null_mut();
        (self.top, self.bottom, self.limit) = (none, none, none);
    }

    /// Puts a block of `size` bytes on top, if it is for such blocks, has a place, and `take`
    /// agrees.
    #[inline(always)]
    pub fn push_if(&mut self, size: u64, entry: Entry, take: impl FnOnce() -> bool) -> bool {
        if self.size != size {
            return false;
        }
        if self.hot.address != 0 {
            if self.top == self.limit || !take() {
                return false;
            }
            // SAFETY: below the limit, so inside the allocation.
            unsafe {
                self.top.write(self.hot);
                self.top = self.top.add(1);
            }
        } else if !take() {
            return false;
        }
        self.hot = entry;
        true
    }

    /// Puts a block on top, for which there is a place.
    pub fn push(&mut self, entry: Entry) {
        debug_assert!(self.has_place(self.size) && self.size > 0);
        if self.hot.address != 0 {
            // SAFETY: below the limit, so inside the allocation.
            unsafe {
                self.top.write(self.hot);
                self.top = self.top.add(1);
            }
        }
        self.hot = entry;
    }

    /// Takes the block on top.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<Entry> {
        let hot = self.hot;
        if hot.address != 0 {
            self.hot.address = 0;
            return Some(hot);
        }
        if self.top == self.bottom {
            return None;
        }
        // SAFETY: above the bottom, so an entry that was written.
        unsafe {
            self.top = self.top.sub(1);
            Some(self.top.read())
        }
    }

    /// The block on top.
    pub fn peek(&self) -> Option<Entry> {
        if self.hot.address != 0 {
            return Some(self.hot);
        }
        // SAFETY: above the bottom, so an entry that was written.
        (self.top != self.bottom).then(|| unsafe { self.top.sub(1).read() })
    }

    /// Moves the `count` oldest blocks to `out`.
    pub fn drain(&mut self, count: usize, out: &mut Vec<Entry>) {
        let len = self.len();
        assert!(count <= len);
        let stacked = len - usize::from(self.hot.address != 0);
        let from_stack = count.min(stacked);
        if from_stack > 0 {
            // SAFETY: `stacked` entries lie between the bottom and the top; what is left of
            // them moves down inside the same allocation.
            unsafe {
                out.extend_from_slice(std::slice::from_raw_parts(self.bottom, from_stack));
                std::ptr::copy(self.bottom.add(from_stack), self.bottom, stacked - from_stack);
                self.top = self.top.sub(from_stack);
            }
        }
        if count > from_stack {
            out.push(std::mem::replace(&mut self.hot, NO_ENTRY));
        }
    }
}

impl Drop for Bin {
    fn drop(&mut self) {
        self.free_places();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(address: usize) -> Entry {
        Entry { address, word: std::ptr::null() }
    }

    #[test]
    fn a_stack_with_an_open_bottom() {
        let addresses = |out: &[Entry]| out.iter().map(|entry| entry.address).collect::<Vec<_>>();
        let mut bin = Bin::default();
        assert!(!bin.has_place(64) && bin.pop().is_none() && bin.peek().is_none());
        bin.dedicate(64, 4);
        assert!(!bin.has_place(128));
        for address in 1..=4 {
            assert!(bin.has_place(64));
            bin.push(entry(address));
        }
        assert!(!bin.has_place(64));
        assert_eq!(bin.pop().map(|entry| entry.address), Some(4));
        let mut out = Vec::new();
        bin.drain(2, &mut out);
        assert_eq!(addresses(&out), [1, 2]);
        assert_eq!((bin.len(), bin.peek().map(|entry| entry.address)), (1, Some(3)));
        bin.push(entry(5));
        bin.drain(2, &mut out);
        assert_eq!(addresses(&out), [1, 2, 3, 5]);
        bin.dedicate(128, 2);
        assert_eq!((bin.size(), bin.places(), bin.len()), (128, 2, 0));
        bin.push(entry(9));
        bin.push(entry(8));
        assert!(!bin.has_place(128));
        bin.drain(2, &mut out);
        bin.undedicate();
        assert!(!bin.has_place(128));
    }
}
