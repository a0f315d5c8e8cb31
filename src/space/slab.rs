//! Slabs: a run cut into equal blocks of one size class, with the free ones as bits in a
//! bitmap outside the memory.

use super::runs::{NONE, RunId};

/// Names a slab. Ids are reused.
pub type SlabId = u32;

/// A run that is cut into blocks of one class.
#[derive(Debug)]
pub struct Slab {
    /// The run it occupies; `NONE` while the record is unused.
    pub run: RunId,
    /// First byte.
    pub offset: u64,
    /// The size class of its blocks.
    pub class: u16,
    /// Whose slab it is: blocks freed under this tag are free here at once.
    pub tag: u32,
    /// The latest fence of a block that was given back.
    pub fence: u64,
    /// How many blocks it is cut into.
    pub capacity: u32,
    /// How many of them are free.
    pub free: u32,
    /// Bit set = block free.
    bits: Vec<u64>,
    /// No word before this one has a bit set.
    hint: u32,
    /// Neighbours in the list of slabs of the same tag and class that have free blocks.
    pub(super) previous: SlabId,
    pub(super) next: SlabId,
}

impl Slab {
    /// A slab with every block free.
    pub fn new(run: RunId, offset: u64, class: u16, tag: u32, capacity: u32) -> Slab {
        let mut bits = vec![u64::MAX; capacity.div_ceil(64) as usize];
        if let (Some(last), rest @ 1..) = (bits.last_mut(), capacity % 64) {
            *last = (1 << rest) - 1;
        }
        Slab {
            run,
            offset,
            class,
            tag,
            fence: 0,
            capacity,
            free: capacity,
            bits,
            hint: 0,
            previous: NONE,
            next: NONE,
        }
    }

    /// Takes the free block with the lowest index.
    pub fn take(&mut self) -> Option<u32> {
        let from = self.hint as usize;
        let word = from + self.bits[from..].iter().position(|&bits| bits != 0)?;
        self.hint = word as u32;
        let bit = self.bits[word].trailing_zeros();
        self.bits[word] &= self.bits[word] - 1;
        self.free -= 1;
        Some(word as u32 * 64 + bit)
    }

    /// Gives block `index` back. False, and nothing changed, when it was free already.
    pub fn give(&mut self, index: u32) -> bool {
        let (word, bit) = ((index / 64) as usize, 1u64 << (index % 64));
        if index >= self.capacity || self.bits[word] & bit != 0 {
            return false;
        }
        self.bits[word] |= bit;
        self.hint = self.hint.min(word as u32);
        self.free += 1;
        true
    }

    /// Whether block `index` is free.
    pub fn is_free(&self, index: u32) -> bool {
        self.bits[(index / 64) as usize] & (1 << (index % 64)) != 0
    }

    /// Checks the bitmap against the count.
    pub fn validate(&self) -> Result<(), String> {
        let set: u32 = self.bits.iter().map(|bits| bits.count_ones()).sum();
        if set != self.free || self.free > self.capacity {
            return Err(format!("slab at {}: {} bits set, {} free", self.offset, set, self.free));
        }
        if self.bits[..self.hint as usize].iter().any(|&bits| bits != 0) {
            return Err(format!("slab at {}: a free block before the hint", self.offset));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_once_and_back() {
        for capacity in [1, 8, 63, 64, 65, 4096] {
            let mut slab = Slab::new(0, 0, 0, 0, capacity);
            let taken: Vec<_> = std::iter::from_fn(|| slab.take()).collect();
            assert_eq!(taken, (0..capacity).collect::<Vec<_>>());
            assert_eq!((slab.free, slab.take()), (0, None));
            for index in (0..capacity).rev() {
                assert!(!slab.is_free(index));
                assert!(slab.give(index));
                assert!(!slab.give(index), "given twice");
                slab.validate().unwrap();
            }
            assert!(!slab.give(capacity), "past the end");
            assert_eq!(slab.free, capacity);
        }
    }
}
