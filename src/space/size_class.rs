//! Size classes: which block sizes the slabs are cut into.
//!
//! Every doubling of the size is divided into the same number of steps, so that the bytes
//! lost to rounding are bounded by one step: 12.5 % at eight steps per doubling.

use super::{CHUNK, GRANULE};

/// The largest size that is served from a slab, in bytes. Anything larger is a run of its
/// own.
pub const SMALL_MAX: usize = 32 << 10;

/// The most classes a table can have; a class number fits one byte.
pub const MAX_CLASSES: usize = 256;

/// Steps in which [`ClassTable`] tells sizes apart, in bytes; every class is a multiple.
const STEP: usize = 16;

/// The class of a small size, by the size in steps of 16 bytes, rounded up; [`NO_CLASS`] where
/// only a run of its own will do.
pub type ClassTable = [u8; SMALL_MAX / STEP + 1];

/// Not a class: there are fewer.
pub const NO_CLASS: u8 = 255;

/// The place of a small `size` in a [`ClassTable`].
#[inline(always)]
pub fn step_of(size: usize) -> usize {
    size.div_ceil(STEP)
}

/// A table of size classes; a class is its index.
#[derive(Clone, Debug)]
pub struct SizeClasses {
    sizes: Vec<u32>,
    table: Box<ClassTable>,
    per_doubling: u32,
}

impl SizeClasses {
    /// Classes from `quantum` bytes to [`SMALL_MAX`], `per_doubling` steps per doubling,
    /// all multiples of `quantum` (a power of two, at least 16).
    pub fn new(quantum: usize, per_doubling: u32) -> SizeClasses {
        SizeClasses::with_rounding(quantum, per_doubling, 1)
    }

    /// As [`SizeClasses::new`], for sizes that are first rounded up to a multiple of
    /// `rounding`, a power of two.
    pub fn with_rounding(quantum: usize, per_doubling: u32, rounding: usize) -> SizeClasses {
        assert!(quantum.is_power_of_two() && (STEP..=SMALL_MAX).contains(&quantum));
        assert!(rounding.is_power_of_two() && per_doubling > 0);
        let mut sizes: Vec<u32> = Vec::new();
        let mut base = quantum;
        while base < SMALL_MAX {
            for step in 0..per_doubling as usize {
                let size = base + base * step / per_doubling as usize;
                let size = size.next_multiple_of(quantum) as u32;
                if sizes.last().is_none_or(|&last| last < size) {
                    sizes.push(size);
                }
            }
            base *= 2;
        }
        sizes.push(SMALL_MAX as u32);
        assert!(sizes.len() < NO_CLASS as usize);
        let mut table = Box::new([NO_CLASS; SMALL_MAX / STEP + 1]);
        let mut class = 0;
        for (step, entry) in table.iter_mut().enumerate() {
            let size = (step * STEP).next_multiple_of(rounding);
            if size > SMALL_MAX {
                break;
            }
            while (sizes[class] as usize) < size {
                class += 1;
            }
            *entry = class as u8;
        }
        SizeClasses { sizes, table, per_doubling }
    }

    /// The class by size, for the hit path.
    pub fn table(&self) -> &ClassTable {
        &self.table
    }

    /// The class that serves `size` bytes; none when only a run of its own does.
    pub fn class_of(&self, size: usize) -> Option<usize> {
        let class = *self.table.get(step_of(size))?;
        (class != NO_CLASS).then_some(class as usize)
    }

    /// The smallest class that serves `size` bytes at `alignment` (a power of two), or none
    /// when only a run of its own can.
    pub fn class_of_aligned(&self, size: usize, alignment: usize) -> Option<usize> {
        if alignment as u64 > CHUNK {
            return None;
        }
        // A slab begins at a multiple of CHUNK, so its blocks are aligned to whatever power
        // of two divides their size.
        (self.class_of(size)?..self.sizes.len())
            .find(|&class| (self.sizes[class] as usize).is_multiple_of(alignment))
    }

    /// Bytes of a block of `class`.
    #[inline]
    pub fn size(&self, class: usize) -> usize {
        self.sizes[class] as usize
    }

    /// How many classes there are.
    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    /// Never true: a table has at least one class.
    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// Steps per doubling this table was made with.
    pub fn per_doubling(&self) -> u32 {
        self.per_doubling
    }

    /// Bytes of a slab of `class`. They grow with the class, so that a slab holds at least
    /// eight blocks and a partly used slab stays small beside the blocks it serves.
    pub fn slab_bytes(&self, class: usize) -> u64 {
        let bytes = (self.size(class) as u64 * 8).next_power_of_two();
        bytes.clamp(64 << 10, 256 << 10).max(CHUNK)
    }
}

/// `size` rounded up to what a run of its own takes: a multiple of [`GRANULE`]. `None` when
/// that overflows.
#[inline]
pub fn round_large(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(GRANULE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_bounded_by_one_step() {
        for per_doubling in [1, 4, 8, 16] {
            let classes = SizeClasses::new(16, per_doubling);
            for size in 1..=SMALL_MAX {
                let given = classes.size(classes.class_of(size).unwrap());
                assert!(given >= size);
                // One step, or one quantum where the steps are finer than that.
                let step = size.next_power_of_two() / 2 / per_doubling as usize;
                assert!(given - size < step.max(16), "{size} -> {given} at {per_doubling}");
            }
        }
    }

    #[test]
    fn eight_steps_are_at_most_an_eighth_apart() {
        let classes = SizeClasses::new(16, 8);
        for class in 1..classes.len() {
            let (a, b) = (classes.size(class - 1), classes.size(class));
            assert!((b - a) * 8 <= a || b - a == 16, "{a} {b}");
        }
    }

    #[test]
    fn rounding_comes_before_the_class() {
        let classes = SizeClasses::with_rounding(16, 8, 4096);
        assert_eq!(classes.class_of(1).map(|class| classes.size(class)), Some(4096));
        assert_eq!(classes.class_of(4097).map(|class| classes.size(class)), Some(8192));
        assert_eq!(SizeClasses::with_rounding(16, 8, 1 << 20).class_of(1), None);
    }

    #[test]
    fn multiples_of_512_where_a_device_wants_them() {
        let classes = SizeClasses::new(512, 8);
        assert!((0..classes.len()).all(|class| classes.size(class).is_multiple_of(512)));
    }

    #[test]
    fn an_aligned_class_divides() {
        let classes = SizeClasses::new(16, 8);
        for alignment in [16, 64, 256, 4096, 32768] {
            for size in [1, 100, 1000, 5000, 20000, SMALL_MAX] {
                let class = classes.class_of_aligned(size, alignment).unwrap();
                assert!(classes.size(class) >= size);
                assert!(classes.size(class).is_multiple_of(alignment));
            }
        }
        assert_eq!(classes.class_of_aligned(16, 65536), None);
    }
}
