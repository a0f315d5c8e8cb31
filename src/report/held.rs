//! Who holds a set of blocks: those that lived at the peak, or that are left at the end.

use std::collections::HashMap;

use super::bins::Spread;
use super::survey::Lived;

/// Blocks of one size.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) size: u64,
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    /// How many of them live at the end, and when the oldest began to live.
    pub(super) left: u64,
    pub(super) oldest: u64,
    /// The streams, and threads, of the first few.
    pub(super) streams: Vec<u32>,
    pub(super) threads: Vec<u32>,
    pub(super) lived: Spread,
}

/// The blocks by size, those that hold most first.
pub(super) fn by_size(blocks: &[Lived]) -> Vec<Held> {
    let mut groups: HashMap<u64, Held> = HashMap::new();
    for lived in blocks {
        let block = &lived.block;
        let first = || Held { size: block.size, oldest: block.from, ..Held::default() };
        let held = groups.entry(block.size).or_insert_with(first);
        held.blocks += 1;
        held.bytes = held.bytes.saturating_add(block.size);
        held.oldest = held.oldest.min(block.from);
        for (names, name) in [(&mut held.streams, block.stream), (&mut held.threads, block.thread)]
        {
            if names.len() < 4 && !names.contains(&name) {
                names.push(name);
            }
        }
        match lived.to {
            Some(to) => held.lived.add(to - block.from),
            None => held.left += 1,
        }
    }
    let mut all: Vec<Held> = groups.into_values().collect();
    all.sort_unstable_by_key(|held| std::cmp::Reverse((held.bytes, held.size)));
    all
}

/// Places, each with its blocks and bytes, those with most bytes first.
pub(super) type Sums = Vec<(u32, (u64, u64))>;

/// The blocks by their place in one of a survey's tallies.
pub(super) fn by_place(blocks: &[Lived], of: fn(&Lived) -> u32) -> Sums {
    let mut sums: HashMap<u32, (u64, u64)> = HashMap::new();
    for lived in blocks {
        let (blocks, bytes) = sums.entry(of(lived)).or_insert((0, 0));
        *blocks += 1;
        *bytes = bytes.saturating_add(lived.block.size);
    }
    let mut sums: Sums = sums.into_iter().collect();
    sums.sort_unstable_by_key(|&(place, (_, bytes))| (std::cmp::Reverse(bytes), place));
    sums
}
