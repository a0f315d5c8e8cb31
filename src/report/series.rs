//! Values over time in a bounded number of buckets, however long it takes.

use super::bins::BINS;

/// The least and the most of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range<T> {
    pub(super) least: T,
    pub(super) most: T,
}

impl<T: PartialOrd + Copy> Range<T> {
    fn at(value: T) -> Range<T> {
        Range { least: value, most: value }
    }

    fn include(&mut self, other: Range<T>) {
        if other.least < self.least {
            self.least = other.least;
        }
        if other.most > self.most {
            self.most = other.most;
        }
    }
}

/// What is the case after an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Values {
    /// Bytes requested by live blocks.
    pub(super) live: u64,
    /// Bytes of those blocks, rounded, by [`super::rounding::Rounding`].
    pub(super) allocated: [u64; 2],
    /// Bytes of the pages that hold a live block.
    pub(super) pages: u64,
    /// Bytes that a pool has reserved, when one does the same beside.
    pub(super) reserved: u64,
    /// The live bytes by size.
    pub(super) held: [u64; BINS],
}

impl Default for Values {
    fn default() -> Values {
        Values { live: 0, allocated: [0; 2], pages: 0, reserved: 0, held: [0; BINS] }
    }
}

impl Values {
    /// The share of those pages in which nothing lives.
    pub(super) fn unused(&self) -> f32 {
        if self.pages <= self.live {
            0.0
        } else {
            1.0 - (self.live as f64 / self.pages as f64) as f32
        }
    }
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bucket {
    pub(super) live: Range<u64>,
    pub(super) allocated: [Range<u64>; 2],
    pub(super) pages: Range<u64>,
    pub(super) reserved: Range<u64>,
    pub(super) unused: Range<f32>,
    /// The live bytes by size, when most were live.
    pub(super) held: [u64; BINS],
    pub(super) allocations: u64,
    pub(super) frees: u64,
    /// Bytes requested by those allocations.
    pub(super) requested: u128,
}

impl Bucket {
    fn steady(now: &Values) -> Bucket {
        Bucket {
            live: Range::at(now.live),
            allocated: now.allocated.map(Range::at),
            pages: Range::at(now.pages),
            reserved: Range::at(now.reserved),
            unused: Range::at(now.unused()),
            held: now.held,
            allocations: 0,
            frees: 0,
            requested: 0,
        }
    }

    fn include(&mut self, now: &Values) {
        if now.live > self.live.most {
            self.held = now.held;
        }
        self.live.include(Range::at(now.live));
        for (range, value) in self.allocated.iter_mut().zip(now.allocated) {
            range.include(Range::at(value));
        }
        self.pages.include(Range::at(now.pages));
        self.reserved.include(Range::at(now.reserved));
        self.unused.include(Range::at(now.unused()));
    }

    fn join(&mut self, later: &Bucket) {
        if later.live.most > self.live.most {
            self.held = later.held;
        }
        self.live.include(later.live);
        for (range, other) in self.allocated.iter_mut().zip(later.allocated) {
            range.include(other);
        }
        self.pages.include(later.pages);
        self.reserved.include(later.reserved);
        self.unused.include(later.unused);
        self.allocations += later.allocations;
        self.frees += later.frees;
        self.requested += later.requested;
    }
}

/// Buckets of one width, from zero on without a gap. When there are too many, neighbours become
/// one: the least and the most stay exact.
#[derive(Clone, Debug)]
pub(super) struct Series {
    limit: usize,
    pub(super) width: u64,
    pub(super) buckets: Vec<Bucket>,
    now: Values,
}

impl Series {
    /// At most `limit` buckets, which is even.
    pub(super) fn new(limit: usize) -> Series {
        Series { limit, width: 1, buckets: Vec::with_capacity(limit), now: Values::default() }
    }

    /// From `at` on, which is not before the last, everything is as `now` says. Returns the bucket
    /// of `at`.
    pub(super) fn add(&mut self, at: u64, now: &Values) -> Option<&mut Bucket> {
        while at / self.width >= self.limit as u64 {
            self.halve();
        }
        let index = (at / self.width) as usize;
        while self.buckets.len() <= index {
            self.buckets.push(Bucket::steady(&self.now));
        }
        self.now = *now;
        let bucket = self.buckets.get_mut(index)?;
        bucket.include(now);
        Some(bucket)
    }

    fn halve(&mut self) {
        let halves = self.buckets.len().div_ceil(2);
        for at in 0..halves {
            let mut joined = self.buckets[2 * at];
            if let Some(later) = self.buckets.get(2 * at + 1) {
                joined.join(later);
            }
            self.buckets[at] = joined;
        }
        self.buckets.truncate(halves);
        self.width *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(live: u64) -> Values {
        let mut held = [0; BINS];
        held[3] = live;
        Values { live, allocated: [live, 2 * live], pages: 4 * live, reserved: 8 * live, held }
    }

    #[test]
    fn spikes_survive_any_number_of_halvings() {
        let mut series = Series::new(100);
        for at in 0..1_000_000 {
            let value = if at == 777_777 { 9 } else { 5 };
            series.add(at, &live(value)).unwrap().allocations += 1;
        }
        assert!((50..=100).contains(&series.buckets.len()), "{}", series.buckets.len());
        let spikes: Vec<_> = (0..).zip(&series.buckets).filter(|(_, b)| b.live.most == 9).collect();
        assert_eq!(spikes.len(), 1);
        let (index, bucket) = spikes[0];
        assert_eq!(index, 777_777 / series.width);
        assert_eq!((bucket.live.least, bucket.held[3], bucket.pages.most), (5, 9, 36));
        assert_eq!(bucket.reserved, Range { least: 40, most: 72 });
        assert_eq!(series.buckets.iter().map(|bucket| bucket.allocations).sum::<u64>(), 1_000_000);
        assert_eq!(series.buckets[0].live.least, 0);
        assert_eq!(series.buckets[1].live.least, 5);
    }

    #[test]
    fn what_was_before_a_gap_goes_on_in_it() {
        let mut series = Series::new(10);
        series.add(0, &live(7));
        series.add(86_400_000_000_000, &live(1));
        assert_eq!(series.buckets[0].live, Range { least: 0, most: 7 });
        let (last, between) = series.buckets[1..].split_last().unwrap();
        assert!(!between.is_empty());
        assert!(between.iter().all(|bucket| bucket.live == Range { least: 7, most: 7 }));
        assert_eq!(last.live, Range { least: 1, most: 7 });
    }

    #[test]
    fn the_last_moment_of_all_has_a_bucket() {
        let mut series = Series::new(2);
        assert!(series.add(u64::MAX, &live(1)).is_some());
        assert!(series.buckets.len() <= 2);
    }
}
