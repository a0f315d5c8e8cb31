//! How often keys were asked for of late, estimated: a count-min sketch of 4-bit counters that
//! are halved now and then (Einziger, Friedman, Manes, as in `lfu`).
//!
//! A key has four counters, all in one cache line, and its estimate is the least of them. A
//! counter stops at 15. When there were ten times as many counts as there are entries, all
//! counters are halved: what was popular once fades.

/// Counters of one line: eight words of sixteen.
const LINE: usize = 8;
/// Lines at least: fewer keys than there are counters in a line share all of them by chance.
const LEAST: usize = 16;
/// Entries for which it counts at least.
const ENTRIES_LEAST: u64 = 128;
/// Counts until all are halved, per entry.
const PERIOD: u64 = 10;
const ONES: u64 = 0x1111_1111_1111_1111;
/// A counter's lower three bits, in all of them.
const LOW: u64 = 0x7777_7777_7777_7777;

/// A number for a key that is spread out over 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short(pub u32);

impl Short {
    /// That of a key's hash.
    #[inline]
    pub fn of(key: u64) -> Short {
        // The product's upper half depends on every bit of the key.
        Short((key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32)
    }
}

/// The counters.
#[derive(Clone, Debug)]
pub struct Sketch {
    lines: Vec<[u64; LINE]>,
    counted: u64,
    /// The most there were.
    entries: u64,
}

impl Sketch {
    pub const fn new() -> Sketch {
        Sketch { lines: Vec::new(), counted: 0, entries: 0 }
    }

    /// There are so many entries. It grows to eight bytes for each, in a power of two, and what
    /// was counted stays; without memory it stays as it is.
    #[inline]
    pub fn hold(&mut self, entries: u64) {
        if entries > self.entries {
            self.entries = entries;
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let lines = (self.entries as usize).div_ceil(LINE).next_power_of_two().max(LEAST);
        let now = self.lines.len();
        if lines <= now || self.lines.try_reserve_exact(lines - now).is_err() {
            return;
        }
        if now == 0 {
            self.lines.resize(lines, [0; LINE]);
        }
        // A line's keys are spread over the lines that have its number in their lower bits.
        while self.lines.len() < lines {
            self.lines.extend_from_within(..);
        }
    }

    /// The line of a key, and where in its words the four counters are.
    #[inline]
    fn place(&self, key: Short) -> (usize, u32) {
        let line = key.0 as usize & (self.lines.len() - 1);
        (line, (key.0 ^ key.0.rotate_left(15)).wrapping_mul(0x85eb_ca6b))
    }

    /// Counter `row` of a key: its word of the line, and its first bit.
    #[inline]
    fn counter(spread: u32, row: u32) -> (usize, u32) {
        let bits = spread >> (row * 8);
        ((row * 2 + (bits & 1)) as usize, (bits >> 1 & 15) * 4)
    }

    /// The key was asked for.
    #[inline]
    pub fn count(&mut self, key: Short) {
        if self.lines.is_empty() {
            return;
        }
        let (line, spread) = self.place(key);
        let words = &mut self.lines[line];
        let mut counted = false;
        for row in 0..4 {
            let (word, shift) = Sketch::counter(spread, row);
            if words[word] >> shift & 15 < 15 {
                words[word] += 1 << shift;
                counted = true;
            }
        }
        self.counted += u64::from(counted);
        if self.counted >= PERIOD * self.entries.max(ENTRIES_LEAST) {
            self.halve();
        }
    }

    /// How often it was asked for of late, 0 to 15.
    #[inline]
    pub fn estimate(&self, key: Short) -> u32 {
        if self.lines.is_empty() {
            return 0;
        }
        let (line, spread) = self.place(key);
        let words = &self.lines[line];
        let count = |row| {
            let (word, shift) = Sketch::counter(spread, row);
            (words[word] >> shift & 15) as u32
        };
        count(0).min(count(1)).min(count(2)).min(count(3))
    }

    fn halve(&mut self) {
        let mut odd = 0;
        for word in self.lines.as_flattened_mut() {
            odd += u64::from((*word & ONES).count_ones());
            *word = *word >> 1 & LOW;
        }
        // Every count raised four counters.
        self.counted = self.counted.saturating_sub(odd / 4) / 2;
    }

    pub fn bytes(&self) -> usize {
        self.lines.capacity() * size_of::<[u64; LINE]>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_never_too_low_until_they_are_halved() {
        let mut sketch = Sketch::new();
        assert_eq!(sketch.estimate(Short::of(1)), 0);
        sketch.hold(64);
        for key in 0..60 {
            (0..key % 10).for_each(|_| sketch.count(Short::of(key)));
        }
        let exact = |key: u64| sketch.estimate(Short::of(key)) == (key % 10) as u32;
        assert!((0..60).all(|key| sketch.estimate(Short::of(key)) >= (key % 10) as u32));
        assert!((0..60).filter(|&key| exact(key)).count() > 40);
    }

    #[test]
    fn growing_keeps_what_was_counted() {
        let mut sketch = Sketch::new();
        sketch.hold(1);
        (0..9).for_each(|_| sketch.count(Short::of(7)));
        sketch.hold(10_000);
        assert_eq!(sketch.estimate(Short::of(7)), 9);
        assert!(sketch.bytes() <= 16_384 * 8);
    }

    #[test]
    fn what_was_popular_fades() {
        let mut sketch = Sketch::new();
        sketch.hold(1000);
        (0..20).for_each(|_| sketch.count(Short::of(7)));
        assert_eq!(sketch.estimate(Short::of(7)), 15);
        (100..60_000).for_each(|key| sketch.count(Short::of(key % 900)));
        let left = sketch.estimate(Short::of(7));
        assert!(left < 15, "{left}");
    }
}
