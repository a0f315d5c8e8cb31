//! How many bytes a pool gives for a request.

use crate::space::{GRANULE, SizeClasses, round_large};

/// Which blocks a pool of the balanced policy would give.
#[derive(Clone, Debug)]
pub(super) struct Rounding {
    /// On the host, and on a GPU, where every address is a multiple of [`GRANULE`].
    classes: [SizeClasses; 2],
}

impl Rounding {
    /// Size classes per doubling of the balanced policy.
    pub(super) const PER_DOUBLING: u32 = 8;
    /// Which of the numbers is for which device.
    pub(super) const HOST: usize = 0;
    pub(super) const GPU: usize = 1;

    pub(super) fn new() -> Rounding {
        let classes = |rounding| SizeClasses::with_rounding(16, Rounding::PER_DOUBLING, rounding);
        Rounding { classes: [classes(1), classes(GRANULE as usize)] }
    }

    /// The block for `size` bytes on the host, and on a GPU.
    pub(super) fn blocks(&self, size: u64) -> [u64; 2] {
        [0, 1].map(|at| {
            let classes = &self.classes[at];
            let class = usize::try_from(size).ok().and_then(|size| classes.class_of(size));
            match class {
                Some(class) => classes.size(class) as u64,
                None => round_large(size).unwrap_or(u64::MAX),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_at_most_an_eighth_larger() {
        let rounding = Rounding::new();
        for size in (1..5000).map(|number| number * 97) {
            let [host, gpu] = rounding.blocks(size);
            assert!(host >= size && host - size <= (size / 8).max(16).max(511), "{size} {host}");
            assert!(
                gpu >= size && gpu.is_multiple_of(512) && gpu - size < (size / 8).max(512) + 512
            );
        }
        assert_eq!(rounding.blocks(u64::MAX)[0], u64::MAX);
        assert_eq!(rounding.blocks(1 << 20), [1 << 20; 2]);
    }
}
