//! Sizes and lifetimes in bins.

/// One bin for each power of two, and one for zero.
pub(super) const BINS: usize = 65;

/// The bin of `size`: number 0 has zero, number `n` has `2^(n-1)` to `2^n - 1`.
pub(super) fn bin_of(size: u64) -> usize {
    (64 - size.leading_zeros()) as usize
}

/// The least and the most of bin `number`.
pub(super) fn limits(number: usize) -> (u64, u64) {
    match number {
        0 => (0, 0),
        64.. => (1 << 63, u64::MAX),
        _ => (1 << (number - 1), (1 << number) - 1),
    }
}

/// Numbers below this have a place of their own; above, there are so many steps per doubling.
const STEPS: u64 = 8;

/// How many numbers there were of about each size: to an eighth.
#[derive(Clone, Debug, Default)]
pub(super) struct Spread {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    most: u64,
}

impl Spread {
    pub(super) fn add(&mut self, value: u64) {
        let step = step_of(value);
        if self.counts.len() <= step {
            self.counts.resize(step + 1, 0);
        }
        self.counts[step] += 1;
        self.total += 1;
        self.sum += u128::from(value);
        self.most = self.most.max(value);
    }

    /// The number that `share` of all are at most; the least of its step, so at most an eighth
    /// below. None where there is no number.
    pub(super) fn quantile(&self, share: f64) -> Option<u64> {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (step, &count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Some(least_of(step));
            }
        }
        None
    }

    /// All of them together.
    #[cfg(test)]
    pub(super) fn sum(&self) -> u128 {
        self.sum
    }

    pub(super) fn mean(&self) -> Option<u64> {
        let mean = self.sum.checked_div(u128::from(self.total))?;
        Some(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    pub(super) fn most(&self) -> Option<u64> {
        (self.total > 0).then_some(self.most)
    }
}

fn step_of(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let log = value.ilog2();
    // The three bits behind the first.
    let behind = value >> (log - 3) & (STEPS - 1);
    (u64::from(log - 2) * STEPS + behind) as usize
}

fn least_of(step: usize) -> u64 {
    let (group, behind) = (step as u64 / STEPS, step as u64 % STEPS);
    match group {
        0 => behind,
        _ => (STEPS + behind) << (group - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_meet_without_a_gap() {
        for number in 0..BINS {
            let (least, most) = limits(number);
            assert_eq!((bin_of(least), bin_of(most)), (number, number));
            if number > 0 {
                assert_eq!(limits(number - 1).1 + 1, least);
            }
        }
        assert_eq!(bin_of(u64::MAX), BINS - 1);
    }

    #[test]
    fn steps_are_an_eighth_apart() {
        for value in
            (0..5000).chain((0..64).flat_map(|bit| [1 << bit, (1u64 << bit) - 1, u64::MAX]))
        {
            let least = least_of(step_of(value));
            assert!(least <= value && value - least <= value / 8, "{value} {least}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_numbers() {
        let mut spread = Spread::default();
        assert_eq!((spread.quantile(0.5), spread.mean(), spread.most()), (None, None, None));
        for value in 0..1000 {
            spread.add(value);
        }
        let half = spread.quantile(0.5).unwrap();
        assert!((437..=499).contains(&half), "{half}");
        assert_eq!(
            (spread.quantile(0.0), spread.mean(), spread.most()),
            (Some(0), Some(499), Some(999))
        );
    }
}
