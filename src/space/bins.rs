//! Free runs by size, in two levels of bitmaps, so that a fitting run is found in O(1)
//! (the scheme of TLSF: Masmano, Ripoll, Crespo, Real, "TLSF: a new dynamic memory
//! allocator for real-time systems", ECRTS 2004).

use super::GRANULE;
use super::runs::{NONE, RunId};

/// Steps per doubling: 3 % from one bin to the next.
const STEPS_LOG2: u32 = 5;
const STEPS: usize = 1 << STEPS_LOG2;
/// Doublings above `STEPS` granules: reaches 2^36 granules, 32 TiB.
const DOUBLINGS: usize = 32;

/// The number of bins.
pub const BINS: usize = DOUBLINGS * STEPS;

/// Heads of the lists of free runs, one list per bin.
#[derive(Clone, Debug)]
pub struct Bins {
    doublings: u32,
    steps: [u32; DOUBLINGS],
    heads: Box<[RunId; BINS]>,
}

impl Default for Bins {
    fn default() -> Bins {
        Bins { doublings: 0, steps: [0; DOUBLINGS], heads: Box::new([NONE; BINS]) }
    }
}

/// The bin of a run of `size` bytes.
pub fn bin_of(size: u64) -> usize {
    let granules = size / GRANULE;
    if granules < STEPS as u64 {
        return granules as usize;
    }
    let log2 = 63 - granules.leading_zeros();
    let shift = log2 - STEPS_LOG2;
    let step = (granules >> shift) as usize & (STEPS - 1);
    let bin = ((shift as usize + 1) << STEPS_LOG2) + step;
    bin.min(BINS - 1)
}

impl Bins {
    /// The first run of `bin`.
    pub fn head(&self, bin: usize) -> RunId {
        self.heads[bin]
    }

    /// Makes `run` the first of `bin` (`NONE`: the bin is empty now).
    pub fn set_head(&mut self, bin: usize, run: RunId) {
        self.heads[bin] = run;
        let (doubling, step) = (bin >> STEPS_LOG2, bin & (STEPS - 1));
        if run == NONE {
            self.steps[doubling] &= !(1 << step);
            if self.steps[doubling] == 0 {
                self.doublings &= !(1 << doubling);
            }
        } else {
            self.steps[doubling] |= 1 << step;
            self.doublings |= 1 << doubling;
        }
    }

    /// The first bin that is not empty, from `bin` on.
    pub fn next_filled(&self, bin: usize) -> Option<usize> {
        if bin >= BINS {
            return None;
        }
        let (doubling, step) = (bin >> STEPS_LOG2, bin & (STEPS - 1));
        let here = self.steps[doubling] & (u32::MAX << step);
        if here != 0 {
            return Some((doubling << STEPS_LOG2) + here.trailing_zeros() as usize);
        }
        let above = self.doublings & u32::MAX.checked_shl(doubling as u32 + 1).unwrap_or(0);
        if above == 0 {
            return None;
        }
        let doubling = above.trailing_zeros() as usize;
        Some((doubling << STEPS_LOG2) + self.steps[doubling].trailing_zeros() as usize)
    }

    /// The last bin that is not empty: where the largest runs are.
    pub fn last_filled(&self) -> Option<usize> {
        self.last_filled_below(BINS)
    }

    /// The last bin below `bin` that is not empty.
    pub fn last_filled_below(&self, bin: usize) -> Option<usize> {
        (bin > 0).then_some(())?;
        let (doubling, step) = ((bin - 1) >> STEPS_LOG2, (bin - 1) & (STEPS - 1));
        let here = self.steps[doubling] & (u32::MAX >> (STEPS - 1 - step));
        if here != 0 {
            return Some((doubling << STEPS_LOG2) + 31 - here.leading_zeros() as usize);
        }
        let below = self.doublings & !(u32::MAX << doubling);
        if below == 0 {
            return None;
        }
        let doubling = 31 - below.leading_zeros() as usize;
        Some((doubling << STEPS_LOG2) + 31 - self.steps[doubling].leading_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_monotonic_and_three_percent_wide() {
        let mut last = 0;
        for granules in 1..200_000u64 {
            let bin = bin_of(granules * GRANULE);
            assert!(bin == last || bin == last + 1, "{granules}");
            last = bin;
        }
        assert!(bin_of(u64::MAX / 2) < BINS);
        assert!(bin_of(1 << 40) < BINS - 1);
    }

    #[test]
    fn filled_bins_are_found_both_ways() {
        let mut bins = Bins::default();
        assert_eq!((bins.next_filled(0), bins.last_filled()), (None, None));
        for bin in [3, 40, 41, 700, BINS - 1] {
            bins.set_head(bin, 1);
        }
        let up: Vec<_> =
            std::iter::successors(bins.next_filled(0), |&bin| bins.next_filled(bin + 1)).collect();
        assert_eq!(up, [3, 40, 41, 700, BINS - 1]);
        let mut down: Vec<_> =
            std::iter::successors(bins.last_filled(), |&bin| bins.last_filled_below(bin)).collect();
        down.reverse();
        assert_eq!(down, up);
        for bin in up {
            bins.set_head(bin, NONE);
        }
        assert_eq!((bins.next_filled(0), bins.last_filled()), (None, None));
    }
}
