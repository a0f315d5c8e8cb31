//! An index: from hashes of keys to the numbers of what has them.
//!
//! Open addressing in order of distance (Celis, "Robin Hood hashing", University of Waterloo,
//! 1986). Each place says how far its number is from home and eight bits of its hash; who goes is
//! made good by moving those behind one place back. So nothing is left over by what comes and
//! goes: an index that has as many as ever needs no more memory and is never made anew, where one
//! with tombstones doubles, or pauses to clear them away. Six bytes a place, an eighth of them
//! free.

/// What a place says that is free.
const FREE: u16 = 0;
/// One place further from home.
const STEP: u16 = 1 << 8;
/// Places behind the last home: nobody is further away.
const TAIL: usize = 256;
/// The distance from which on there is no room for one more.
const FAR: u16 = 254;

/// Numbers by hash.
pub struct Index {
    /// Of each place, one more than the distance from home, and below that bits of the hash.
    marks: Vec<u16>,
    numbers: Vec<u32>,
    homes: u32,
    len: usize,
    /// Nothing is further from home, in places.
    farthest: u16,
}

impl Index {
    /// Without room.
    pub const fn new() -> Index {
        Index { marks: Vec::new(), numbers: Vec::new(), homes: 0, len: 0, farthest: 0 }
    }

    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes that it has.
    pub fn bytes(&self) -> usize {
        self.marks.capacity() * size_of::<u16>() + self.numbers.capacity() * size_of::<u32>()
    }

    /// For how many there is room.
    #[inline]
    fn capacity(&self) -> usize {
        self.homes as usize - self.homes as usize / 8
    }

    /// Where a hash is at home, and what it says there.
    #[inline]
    fn home(&self, hash: u64) -> (usize, u16) {
        let home = (hash >> 32) * u64::from(self.homes) >> 32;
        (home as usize, STEP | hash as u16 & (STEP - 1))
    }

    /// The place of the number with this hash that `is` the one.
    #[inline]
    fn place(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<usize> {
        let (mut at, mut mark) = self.home(hash);
        // Nearer ones are behind: where there is one, it is not here.
        while let Some(&found) = self.marks.get(at)
            && found >= mark
        {
            if found == mark && is(self.numbers[at]) {
                return Some(at);
            }
            (at, mark) = (at + 1, mark + STEP);
        }
        None
    }

    /// The number with this hash that `is` the one.
    #[inline]
    pub fn find(&self, hash: u64, is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.place(hash, is).map(|at| self.numbers[at])
    }

    /// Makes sure that there is room for one more. False without memory. `hash_of` says the hash
    /// of a number that is in it.
    #[inline]
    pub fn reserve(&mut self, hash_of: impl Fn(u32) -> u64) -> bool {
        if self.len < self.capacity() && self.farthest < FAR {
            return true;
        }
        let more = if self.farthest < FAR { self.len / 4 } else { self.len };
        self.reserve_for(self.len + more.max(12), hash_of)
    }

    /// Makes sure that there is room for `count`. False without memory.
    #[cold]
    pub fn reserve_for(&mut self, count: usize, hash_of: impl Fn(u32) -> u64) -> bool {
        if count <= self.capacity() && self.farthest < FAR {
            return true;
        }
        let Ok(homes) = u32::try_from(count + count / 7 + 1) else { return false };
        let places = homes as usize + TAIL;
        let mut fresh = Index { homes, ..Index::new() };
        if fresh.marks.try_reserve_exact(places).is_err()
            || fresh.numbers.try_reserve_exact(places).is_err()
        {
            return false;
        }
        fresh.marks.resize(places, FREE);
        fresh.numbers.resize(places, 0);
        self.iter().for_each(|number| fresh.insert(hash_of(number), number));
        *self = fresh;
        true
    }

    /// Enters a number. There is room, see [`Index::reserve`].
    #[inline]
    pub fn insert(&mut self, hash: u64, number: u32) {
        debug_assert!(self.len < self.capacity() && self.farthest <= FAR, "there is room");
        let (mut at, mut mark) = self.home(hash);
        while self.marks[at] >= mark {
            (at, mark) = (at + 1, mark + STEP);
        }
        // From here on all go one place further.
        let mut number = number;
        while mark != FREE {
            self.farthest = self.farthest.max(mark / STEP - 1);
            std::mem::swap(&mut mark, &mut self.marks[at]);
            std::mem::swap(&mut number, &mut self.numbers[at]);
            if mark != FREE {
                (at, mark) = (at + 1, mark + STEP);
            }
        }
        self.len += 1;
    }

    /// Has `new` instead of `old`, which has this hash.
    #[inline]
    pub fn replace(&mut self, hash: u64, old: u32, new: u32) {
        if let Some(at) = self.place(hash, |number| number == old) {
            self.numbers[at] = new;
        }
    }

    /// Takes the number with this hash out that `is` the one.
    #[inline]
    pub fn take(&mut self, hash: u64, is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.place(hash, is)?;
        let number = self.numbers[at];
        // Those behind that are not at home come nearer.
        while self.marks[at + 1] >= 2 * STEP {
            self.marks[at] = self.marks[at + 1] - STEP;
            self.numbers[at] = self.numbers[at + 1];
            at += 1;
        }
        self.marks[at] = FREE;
        self.len -= 1;
        Some(number)
    }

    /// Takes a number out, which has this hash.
    #[inline]
    pub fn remove(&mut self, hash: u64, number: u32) {
        self.take(hash, |other| other == number);
    }

    /// All numbers.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let used = |(mark, number): (&u16, &u32)| (*mark != FREE).then_some(*number);
        self.marks.iter().zip(&self.numbers).filter_map(used)
    }

    /// Checks every invariant.
    pub fn validate(&self, hash_of: impl Fn(u32) -> u64) -> Result<(), String> {
        let mut len = 0;
        for (at, &mark) in self.marks.iter().enumerate().filter(|(_, mark)| **mark != FREE) {
            len += 1;
            let (home, first) = self.home(hash_of(self.numbers[at]));
            let distance = usize::from(mark / STEP) - 1;
            if home + distance != at || mark % STEP != first % STEP {
                return Err(format!("place {at} says {mark:#x}; its home is {home}"));
            }
            let before = if at == 0 { FREE } else { self.marks[at - 1] };
            if distance > 0 && before < mark - STEP {
                return Err(format!("place {at} says {mark:#x}, the one before {before:#x}"));
            }
            if distance > usize::from(self.farthest) {
                return Err(format!("place {at} is {distance} from home"));
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
    use std::collections::BTreeMap;

    fn mixed(number: u64) -> u64 {
        let mixed = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb)
    }

    /// Random entries and removals beside a map; hashes of few values, or of many.
    #[test]
    fn it_is_what_a_map_would_be() {
        for spread in [u64::MAX, 0x1f_0000_0000, 7 << 56 | 3] {
            let hash_of = |number: u32| mixed(u64::from(number) + 1) & spread;
            let (mut index, mut model) = (Index::new(), BTreeMap::new());
            for step in 0..6000u64 {
                let number = (mixed(step) % 160) as u32;
                let hash = hash_of(number);
                assert_eq!(index.find(hash, |other| other == number).is_some(), {
                    model.contains_key(&number)
                });
                match model.remove(&number) {
                    Some(()) if step % 5 == 0 => {
                        index.replace(hash, number, number);
                        model.insert(number, ());
                    }
                    Some(()) => {
                        assert_eq!(index.take(hash, |other| other == number), Some(number));
                    }
                    None => {
                        assert!(index.reserve(hash_of));
                        index.insert(hash, number);
                        model.insert(number, ());
                    }
                }
                index.validate(hash_of).unwrap();
                let mut all: Vec<u32> = index.iter().collect();
                all.sort_unstable();
                assert_eq!(all, model.keys().copied().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn it_grows_when_something_is_far_from_home() {
        let mut index = Index::new();
        assert!(index.reserve_for(1000, |_| 0));
        let bytes = index.bytes();
        // All are at home in one place.
        for number in 0..=u32::from(FAR) {
            assert!(index.reserve(|number| u64::from(number)));
            index.insert(u64::from(number), number);
        }
        assert_eq!(index.bytes(), bytes);
        let spread = |number: u32| mixed(u64::from(number));
        assert!(index.reserve(spread));
        index.validate(spread).unwrap();
        assert_eq!(index.len(), usize::from(FAR) + 1);
    }

    #[test]
    fn churn_needs_no_more_memory() {
        let mut index = Index::new();
        let hash_of = |number: u32| mixed(u64::from(number) + 9);
        assert!(index.reserve_for(1000, hash_of));
        let bytes = index.bytes();
        (0..1000).for_each(|number| index.insert(hash_of(number), number));
        for number in 1000..100_000 {
            index.remove(hash_of(number - 1000), number - 1000);
            assert!(index.reserve(hash_of));
            index.insert(hash_of(number), number);
        }
        index.validate(hash_of).unwrap();
        assert_eq!(index.bytes(), bytes);
        assert!(bytes <= 1000 * 8 + 6 * TAIL);
    }
}
