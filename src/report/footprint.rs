//! The pages that live blocks are on.

use std::collections::HashMap;

use crate::space::PAGE;

/// Which pages hold a live block, by the addresses of the blocks.
///
/// What lies inside a block is on its pages alone; only the first and the last page of each is
/// counted by name. Blocks that overlap, which no allocator gives, count their inner pages twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Footprint {
    inner: u64,
    edges: HashMap<u64, u32>,
}

impl Footprint {
    /// A block of `size` bytes, at least one, at `address` begins or ends to live.
    pub(super) fn change(&mut self, address: u64, size: u64, begins: bool) {
        let (first, last) = (address / PAGE, address.saturating_add(size - 1) / PAGE);
        let inner = (last - first).saturating_sub(1);
        self.inner = if begins { self.inner + inner } else { self.inner - inner };
        for (at, page) in [first, last].into_iter().enumerate() {
            if at == 1 && last == first {
                continue;
            }
            let blocks = self.edges.entry(page).or_insert(0);
            *blocks = if begins { *blocks + 1 } else { *blocks - 1 };
            if *blocks == 0 {
                self.edges.remove(&page);
            }
        }
    }

    /// Bytes of those pages.
    pub(super) fn bytes(&self) -> u64 {
        self.inner.saturating_add(self.edges.len() as u64).saturating_mul(PAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_those_that_blocks_touch() {
        let mut footprint = Footprint::default();
        let blocks = [
            (0, 1),
            (1, PAGE - 1),
            (PAGE, 3 * PAGE),
            (4 * PAGE, 1),
            (4 * PAGE + 9, PAGE),
            (u64::MAX, 1),
        ];
        let mut live: Vec<(u64, u64)> = Vec::new();
        let check = |footprint: &Footprint, live: &[(u64, u64)]| {
            let pages: std::collections::BTreeSet<u64> = live
                .iter()
                .flat_map(|&(at, size)| at / PAGE..=at.saturating_add(size - 1) / PAGE)
                .collect();
            assert_eq!(footprint.bytes(), pages.len() as u64 * PAGE);
        };
        for (address, size) in blocks {
            footprint.change(address, size, true);
            live.push((address, size));
            check(&footprint, &live);
        }
        while let Some((address, size)) = live.pop() {
            footprint.change(address, size, false);
            check(&footprint, &live);
        }
    }
}
