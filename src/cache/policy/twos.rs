//! Two bits for each of many nodes, by number.

/// How many nodes a word has the bits of.
const PER_WORD: usize = 32;

/// Numbers from 0 to 3, packed.
pub struct Twos(Vec<u64>);

impl Twos {
    pub const fn new() -> Twos {
        Twos(Vec::new())
    }

    /// Makes room for nodes below `count`; those that are new have 0. False without memory.
    pub fn reserve(&mut self, count: usize) -> bool {
        let words = count.div_ceil(PER_WORD);
        let more = words.saturating_sub(self.0.len());
        // Who asks for many at once knows how many there will be.
        let reserved =
            if more == 1 { self.0.try_reserve(1) } else { self.0.try_reserve_exact(more) };
        if reserved.is_err() {
            return false;
        }
        self.0.resize(words.max(self.0.len()), 0);
        true
    }

    #[inline]
    fn place(node: u32) -> (usize, u32) {
        (node as usize / PER_WORD, node % PER_WORD as u32 * 2)
    }

    #[inline]
    pub fn get(&self, node: u32) -> u8 {
        let (word, shift) = Twos::place(node);
        (self.0[word] >> shift & 3) as u8
    }

    #[inline]
    pub fn set(&mut self, node: u32, to: u8) {
        let (word, shift) = Twos::place(node);
        let word = &mut self.0[word];
        *word = *word & !(3 << shift) | u64::from(to & 3) << shift;
    }

    /// For how many nodes there is room.
    pub fn held(&self) -> usize {
        self.0.len() * PER_WORD
    }

    pub fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_its_own() {
        let mut twos = Twos::new();
        for count in [1, 32, 33, 200] {
            assert!(twos.reserve(count) && twos.held() >= count);
        }
        (0..200).for_each(|node| twos.set(node, (node % 4) as u8));
        (0..200).step_by(3).for_each(|node| twos.set(node, 3 - (node % 4) as u8));
        let wanted =
            |node: u32| (if node.is_multiple_of(3) { 3 - node % 4 } else { node % 4 }) as u8;
        assert!((0..200).all(|node| twos.get(node) == wanted(node)));
        assert_eq!(twos.bytes(), 7 * 8);
    }
}
