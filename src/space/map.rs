//! The page map: from any offset to the run or slab that holds it.
//!
//! One entry per chunk says which block starts there. A block that starts in a chunk
//! reaches at least to the chunk's end (only blocks larger than a chunk and slabs, which
//! start at one, are entered), so there is at most one per chunk. Bitmaps in three levels
//! find the last start at or before a chunk, so an offset deep inside a large block is
//! found without an entry for every chunk that the block covers.

use super::CHUNK;
use super::runs::{NONE, RunId};

/// Which used run starts in which chunk.
#[derive(Debug)]
pub struct PageMap {
    /// Run id + 1; 0 = nothing starts here. All zeros at first, so that memory is taken
    /// only where entries are made.
    starts: Vec<u32>,
    /// Level 0 has a bit per chunk, each higher level one per word of the level below.
    levels: [Vec<u64>; 3],
    entered: usize,
}

impl PageMap {
    /// A map over `bytes` of offsets.
    pub fn new(bytes: u64) -> PageMap {
        let chunks = bytes.div_ceil(CHUNK) as usize;
        let words = |bits: usize| vec![0u64; bits.div_ceil(64)];
        let first = words(chunks);
        let second = words(first.len());
        let third = words(second.len());
        PageMap { starts: vec![0; chunks], levels: [first, second, third], entered: 0 }
    }

    /// Enters `run` as starting at `offset`.
    pub fn insert(&mut self, offset: u64, run: RunId) {
        let chunk = (offset / CHUNK) as usize;
        debug_assert_eq!(self.starts[chunk], 0, "two used runs start in chunk {chunk}");
        self.starts[chunk] = run + 1;
        self.entered += 1;
        let mut at = chunk;
        for level in &mut self.levels {
            level[at / 64] |= 1 << (at % 64);
            at /= 64;
        }
    }

    /// Takes out the run that starts at `offset`.
    pub fn remove(&mut self, offset: u64) {
        let chunk = (offset / CHUNK) as usize;
        debug_assert_ne!(self.starts[chunk], 0, "no used run starts in chunk {chunk}");
        self.starts[chunk] = 0;
        self.entered -= 1;
        let mut at = chunk;
        for level in &mut self.levels {
            level[at / 64] &= !(1 << (at % 64));
            if level[at / 64] != 0 {
                break;
            }
            at /= 64;
        }
    }

    /// The run that starts in the chunk of `offset` or, failing that, in the nearest chunk
    /// before it in which one starts. Whether it reaches `offset` is for the caller to see:
    /// a block may start in the chunk of `offset` but behind it, see [`PageMap::before`].
    pub fn at_or_before(&self, offset: u64) -> Option<RunId> {
        self.last_start((offset / CHUNK) as usize)
    }

    /// The run that starts in the nearest chunk before the chunk of `offset`.
    pub fn before(&self, offset: u64) -> Option<RunId> {
        self.last_start(((offset / CHUNK) as usize).checked_sub(1)?)
    }

    fn last_start(&self, chunk: usize) -> Option<RunId> {
        let mut at = chunk;
        // Climb until a level has a bit at or before `at`, then descend to the last bit.
        for (height, level) in self.levels.iter().enumerate() {
            let here = level.get(at / 64)? & (u64::MAX >> (63 - at % 64));
            if here != 0 {
                at = at / 64 * 64 + 63 - here.leading_zeros() as usize;
                for below in self.levels[..height].iter().rev() {
                    at = at * 64 + 63 - below[at].leading_zeros() as usize;
                }
                return Some(self.starts[at] - 1);
            }
            at = (at / 64).checked_sub(1)?;
        }
        // Beyond the third level's word: walk its words, one per 8 GiB of offsets.
        let top = &self.levels[2];
        let mut word = (at + 1).min(top.len());
        while word > 0 {
            word -= 1;
            if top[word] != 0 {
                at = word * 64 + 63 - top[word].leading_zeros() as usize;
                for below in self.levels[..2].iter().rev() {
                    at = at * 64 + 63 - below[at].leading_zeros() as usize;
                }
                return Some(self.starts[at] - 1);
            }
        }
        None
    }

    /// How many runs are entered.
    pub fn len(&self) -> usize {
        self.entered
    }

    /// Whether no run is entered.
    pub fn is_empty(&self) -> bool {
        self.entered == 0
    }

    /// The run entered for the chunk of `offset`, or `NONE`.
    pub fn start_in(&self, offset: u64) -> RunId {
        self.starts.get((offset / CHUNK) as usize).map_or(NONE, |&entry| entry.wrapping_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn finds_what_an_ordered_map_finds(
            operations in prop::collection::vec((any::<bool>(), 0u64..600_000), 1..200)
        ) {
            // 600,000 chunks reach beyond one word of the third level.
            let mut map = PageMap::new(600_000 * CHUNK);
            let mut model = BTreeMap::new();
            for (run, (insert, chunk)) in operations.into_iter().enumerate() {
                if insert && !model.contains_key(&chunk) {
                    map.insert(chunk * CHUNK, run as u32);
                    model.insert(chunk, run as u32);
                } else if let Some((&chunk, _)) = model.range(..=chunk).next_back() {
                    map.remove(chunk * CHUNK);
                    model.remove(&chunk);
                }
                prop_assert_eq!(map.len(), model.len());
                for probe in [chunk, chunk / 2, (chunk + 1).min(599_999), 599_999] {
                    let expected = model.range(..=probe).next_back().map(|(_, &run)| run);
                    prop_assert_eq!(map.at_or_before(probe * CHUNK), expected);
                    let expected = model.range(..probe).next_back().map(|(_, &run)| run);
                    prop_assert_eq!(map.before(probe * CHUNK), expected);
                }
            }
        }
    }
}
