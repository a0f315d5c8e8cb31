//! An index: from hashes of keys to the numbers of what has them.
//!
//! Buckets of eight places. A number is in one of two: at home, which its hash says, or in the
//! bucket that is as far on the other side of a point, which eight bits of its hash say: each of
//! the two is found from the other (Fan, Andersen, Kaminsky, Mitzenmacher: "Cuckoo filter:
//! practically better than Bloom", CoNEXT 2014). Where both are full, one of those that are there
//! makes way into its other bucket. So nothing is left over by what comes and goes: an index that
//! has as many as ever needs no more memory and is never made anew, where one with tombstones
//! doubles, or pauses to clear them away. Five bytes a place, a quarter of them free: with fewer, too
//! many have to make way.

/// Places of a bucket, and how many are used at most, on average.
const PLACES: usize = 8;
const USED: usize = 6;
const ONES: u64 = 0x0101_0101_0101_0101;
const LOWS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
/// How many may make way for each other, one after the other.
const DEPTH: u32 = 3;
/// It does not grow for the sake of equal hashes beyond so many places for each number.
const SPARSE: usize = 64;

/// Eight bits of the hash of each number in a bucket; 0 where there is none.
type Tags = u64;

/// The places that have `tag`, as the high bits of their bytes.
#[inline]
fn with_tag(tags: Tags, tag: u8) -> u64 {
    let other = tags ^ (u64::from(tag) * ONES);
    !(((other & LOWS) + LOWS) | other | LOWS)
}

/// The first place that has `tag`.
#[inline]
fn first_with(tags: Tags, tag: u8) -> Option<usize> {
    let found = with_tag(tags, tag);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// Numbers by hash.
pub struct Index {
    tags: Vec<Tags>,
    numbers: Vec<[u32; PLACES]>,
    len: usize,
}

impl Index {
    /// Without room.
    pub const fn new() -> Index {
        Index { tags: Vec::new(), numbers: Vec::new(), len: 0 }
    }

    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes that it has.
    pub fn bytes(&self) -> usize {
        self.tags.capacity() * size_of::<Tags>()
            + self.numbers.capacity() * size_of::<[u32; PLACES]>()
    }

    /// For how many there is room.
    #[inline]
    fn capacity(&self) -> usize {
        self.tags.len() * USED
    }

    /// The tag of a hash, and where it is at home.
    #[inline]
    fn home(&self, hash: u64) -> (usize, u8) {
        let home = ((hash >> 32) * self.tags.len() as u64) >> 32;
        (home as usize, (hash as u8).max(1))
    }

    /// The other bucket of what is in `bucket`.
    #[inline]
    fn other(&self, bucket: usize, tag: u8) -> usize {
        let buckets = self.tags.len();
        let both = usize::from(tag) * buckets / 256;
        if both >= bucket { both - bucket } else { both + buckets - bucket }
    }

    #[inline]
    fn place_in(&self, bucket: usize, tag: u8, is: &mut impl FnMut(u32) -> bool) -> Option<usize> {
        let mut found = with_tag(*self.tags.get(bucket)?, tag);
        while found != 0 {
            let place = found.trailing_zeros() as usize / 8;
            if is(self.numbers[bucket][place]) {
                return Some(place);
            }
            found &= found - 1;
        }
        None
    }

    /// The bucket and the place of the number with this hash that `is` the one.
    #[inline]
    fn place(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<(usize, usize)> {
        let (home, tag) = self.home(hash);
        if let Some(place) = self.place_in(home, tag, &mut is) {
            return Some((home, place));
        }
        let other = self.other(home, tag);
        self.place_in(other, tag, &mut is).map(|place| (other, place))
    }

    /// The number with this hash that `is` the one.
    #[inline]
    pub fn find(&self, hash: u64, is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.place(hash, is).map(|(bucket, place)| self.numbers[bucket][place])
    }

    /// Makes sure that there is room for one more, with this hash. False without memory.
    /// `hash_of` says the hash of a number that is in it.
    #[inline]
    pub fn reserve(&mut self, hash: u64, hash_of: impl Fn(u32) -> u64) -> bool {
        let (home, tag) = self.home(hash);
        let has_room = self.len < self.capacity()
            && (first_with(self.tags[home], 0).is_some()
                || first_with(self.tags[self.other(home, tag)], 0).is_some());
        has_room || self.make_room(hash, hash_of)
    }

    #[cold]
    fn make_room(&mut self, hash: u64, hash_of: impl Fn(u32) -> u64) -> bool {
        loop {
            let (home, tag) = self.home(hash);
            let has_room = self.len < self.capacity()
                && (first_with(self.tags[home], 0).is_some()
                    || first_with(self.tags[self.other(home, tag)], 0).is_some()
                    || self.clear_one(home, DEPTH));
            if has_room {
                return true;
            }
            // By a quarter. When the room is not used up, too many have the same bits.
            let count = self.capacity().max(PLACES) / 4 * 5;
            if count / SPARSE > self.len + PLACES || !self.reserve_for(count, &hash_of) {
                return false;
            }
        }
    }

    /// Has one that is in `bucket` make way. Whether there is a free place now.
    fn clear_one(&mut self, bucket: usize, depth: u32) -> bool {
        for place in 0..PLACES {
            let tag = (self.tags[bucket] >> (place * 8)) as u8;
            let other = self.other(bucket, tag);
            let may = first_with(self.tags[other], 0).is_some()
                || (depth > 1 && other != bucket && self.clear_one(other, depth - 1));
            // Those that made way may have come here.
            if first_with(self.tags[bucket], 0).is_some() {
                return true;
            }
            let is_there = (self.tags[bucket] >> (place * 8)) as u8 == tag;
            if may && is_there && self.put_in(other, tag, self.numbers[bucket][place]) {
                self.tags[bucket] &= !(0xff << (place * 8));
                return true;
            }
        }
        false
    }

    /// Whether there was a free place in the bucket.
    #[inline]
    fn put_in(&mut self, bucket: usize, tag: u8, number: u32) -> bool {
        let Some(place) = first_with(self.tags[bucket], 0) else { return false };
        self.tags[bucket] |= u64::from(tag) << (place * 8);
        self.numbers[bucket][place] = number;
        true
    }

    /// Makes sure that there is room for `count`, as far as their hashes allow. False without
    /// memory; nothing has changed then.
    #[cold]
    pub fn reserve_for(&mut self, count: usize, hash_of: impl Fn(u32) -> u64) -> bool {
        if count <= self.capacity() {
            return true;
        }
        let mut buckets = count.div_ceil(USED);
        loop {
            let mut fresh = Index::new();
            if buckets > u32::MAX as usize
                || buckets / SPARSE > count
                || fresh.tags.try_reserve_exact(buckets).is_err()
                || fresh.numbers.try_reserve_exact(buckets).is_err()
            {
                return false;
            }
            fresh.tags.resize(buckets, 0);
            fresh.numbers.resize(buckets, [0; PLACES]);
            if self.iter().all(|number| fresh.enter(hash_of(number), number)) {
                *self = fresh;
                return true;
            }
            buckets += buckets.div_ceil(4);
        }
    }

    fn enter(&mut self, hash: u64, number: u32) -> bool {
        let (home, tag) = self.home(hash);
        let entered = self.put_in(home, tag, number)
            || self.put_in(self.other(home, tag), tag, number)
            || (self.clear_one(home, DEPTH) && self.put_in(home, tag, number));
        self.len += usize::from(entered);
        entered
    }

    /// Enters a number. There is room for it, see [`Index::reserve`].
    #[inline]
    pub fn insert(&mut self, hash: u64, number: u32) {
        let (home, tag) = self.home(hash);
        let entered =
            self.put_in(home, tag, number) || self.put_in(self.other(home, tag), tag, number);
        debug_assert!(entered, "there is room");
        self.len += usize::from(entered);
    }

    /// Has `new` instead of `old`, which has this hash.
    #[inline]
    pub fn replace(&mut self, hash: u64, old: u32, new: u32) {
        if let Some((bucket, place)) = self.place(hash, |number| number == old) {
            self.numbers[bucket][place] = new;
        }
    }

    /// Takes the number with this hash out that `is` the one.
    #[inline]
    pub fn take(&mut self, hash: u64, is: impl FnMut(u32) -> bool) -> Option<u32> {
        let (bucket, place) = self.place(hash, is)?;
        self.tags[bucket] &= !(0xff << (place * 8));
        self.len -= 1;
        Some(self.numbers[bucket][place])
    }

    /// Takes a number out, which has this hash.
    #[inline]
    pub fn remove(&mut self, hash: u64, number: u32) {
        self.take(hash, |other| other == number);
    }

    /// All numbers.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let places = |(tags, numbers): (&Tags, &[u32; PLACES])| {
            let (tags, numbers) = (tags.to_le_bytes(), *numbers);
            (0..PLACES).filter(move |&place| tags[place] != 0).map(move |place| numbers[place])
        };
        self.tags.iter().zip(&self.numbers).flat_map(places)
    }

    /// Checks every invariant.
    pub fn validate(&self, hash_of: impl Fn(u32) -> u64) -> Result<(), String> {
        let mut len = 0;
        for number in self.iter() {
            len += 1;
            if self.place(hash_of(number), |other| other == number).is_none() {
                return Err(format!("{number} is in the index and not where its hash says"));
            }
        }
        match len == self.len && len <= self.capacity() {
            true => Ok(()),
            false => Err(format!("{len} are in the index, {} counted", self.len)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn mixed(number: u64) -> u64 {
        let mixed = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb)
    }

    /// Random entries and removals beside a set; hashes of many values, or of few.
    #[test]
    fn it_is_what_a_set_would_be() {
        for spread in [u64::MAX, 0xffff_ffff_0000_0003, 0xfe00_0000_0000_00ff] {
            let hash_of = |number: u32| mixed(u64::from(number) + 1) & spread;
            let (mut index, mut model) = (Index::new(), BTreeSet::new());
            for step in 0..6000u64 {
                let number = (mixed(step) % 160) as u32;
                let hash = hash_of(number);
                let is = |other| other == number;
                assert_eq!(index.find(hash, is), model.get(&number).copied());
                match model.contains(&number) {
                    true if step % 5 == 0 => index.replace(hash, number, number),
                    true => {
                        assert_eq!(index.take(hash, is), Some(number));
                        model.remove(&number);
                    }
                    false => {
                        assert!(index.reserve(hash, hash_of));
                        index.insert(hash, number);
                        model.insert(number);
                    }
                }
                index.validate(hash_of).unwrap();
                assert_eq!(index.iter().collect::<BTreeSet<_>>(), model);
            }
        }
    }

    #[test]
    fn equal_hashes_are_an_end() {
        let mut index = Index::new();
        let entered = (0..100).take_while(|&number| {
            let reserved = index.reserve(7 << 32 | 7, |_| 7 << 32 | 7);
            if reserved {
                index.insert(7 << 32 | 7, number);
            }
            reserved
        });
        let entered = entered.count();
        assert!((PLACES..=2 * PLACES).contains(&entered), "{entered}");
        assert!(index.bytes() < 100_000);
        index.validate(|_| 7 << 32 | 7).unwrap();
    }

    #[test]
    fn churn_needs_no_more_memory() {
        for count in [1000, 40_000] {
            let mut index = Index::new();
            let hash_of = |number: u32| mixed(u64::from(number) + 9);
            assert!(index.reserve_for(count as usize, hash_of));
            let bytes = index.bytes();
            for number in 0..5 * count {
                if number >= count {
                    index.remove(hash_of(number - count), number - count);
                }
                assert!(index.reserve(hash_of(number), hash_of));
                index.insert(hash_of(number), number);
            }
            index.validate(hash_of).unwrap();
            assert_eq!((index.bytes(), index.len()), (bytes, count as usize));
            assert!(bytes <= count as usize * 7);
        }
    }
}
