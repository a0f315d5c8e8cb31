//! How much of each stretch of addresses is used in each stretch of time.

use std::collections::HashMap;

/// The most rows and columns.
pub(super) const ROWS: usize = 1024;
pub(super) const COLUMNS: usize = 256;

/// Addresses by time, in cells. Rows are stretches of addresses in which something lived at some
/// time; columns begin at zero. When there are too many of one, neighbours become one.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    /// Bytes of a row, as a power of two, and time of a column.
    pub(super) shift: u32,
    pub(super) width: u64,
    /// By number: `address >> shift`. Bytes times time of each cell.
    pub(super) rows: HashMap<u64, Vec<f64>>,
}

impl Grid {
    pub(super) fn new() -> Grid {
        Grid { shift: 9, width: 1, rows: HashMap::new() }
    }

    /// `size` bytes at `address`, at least one, lived from `from` until `to`.
    pub(super) fn add(&mut self, address: u64, size: u64, from: u64, to: u64) {
        let last = address.saturating_add(size - 1);
        while (last >> self.shift) - (address >> self.shift) >= ROWS as u64 {
            self.join_rows();
        }
        while to.saturating_sub(1).max(from) / self.width >= COLUMNS as u64 {
            self.join_columns();
        }
        for number in address >> self.shift..=last >> self.shift {
            let begin = number << self.shift;
            let end = begin | ((1 << self.shift) - 1);
            let bytes = (last.min(end) - address.max(begin)) as f64 + 1.0;
            let row = self.rows.entry(number).or_insert_with(|| vec![0.0; COLUMNS]);
            let columns = from / self.width..=to.saturating_sub(1).max(from) / self.width;
            for column in columns {
                let begin = column * self.width;
                let time = to.min(begin.saturating_add(self.width)) - from.max(begin);
                row[column as usize] += bytes * time as f64;
            }
        }
        while self.rows.len() > ROWS {
            self.join_rows();
        }
    }

    fn join_rows(&mut self) {
        self.shift += 1;
        let rows = std::mem::take(&mut self.rows);
        for (number, cells) in rows {
            match self.rows.entry(number / 2) {
                std::collections::hash_map::Entry::Vacant(place) => drop(place.insert(cells)),
                std::collections::hash_map::Entry::Occupied(mut row) => {
                    row.get_mut().iter_mut().zip(cells).for_each(|(cell, other)| *cell += other);
                }
            }
        }
    }

    fn join_columns(&mut self) {
        self.width *= 2;
        for cells in self.rows.values_mut() {
            for at in 0..COLUMNS / 2 {
                cells[at] = cells[2 * at] + cells[2 * at + 1];
            }
            cells[COLUMNS / 2..].fill(0.0);
        }
    }

    /// The rows in the order of their addresses: number and cells.
    pub(super) fn sorted(&self) -> Vec<(u64, &[f64])> {
        let mut rows: Vec<(u64, &[f64])> =
            self.rows.iter().map(|(&number, cells)| (number, cells.as_slice())).collect();
        rows.sort_unstable_by_key(|&(number, _)| number);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_add_up_and_stay_where_they_are() {
        let mut grid = Grid::new();
        let mut state = 1u64;
        let mut next = |end: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % end
        };
        let mut all = 0.0;
        let far = 1 << 47;
        for at in 0..20_000u64 {
            let (size, lived) = (1 + next(1 << 16), next(500));
            let address = far * next(2) + next(1 << 30);
            grid.add(address, size, at, at + lived);
            all += size as f64 * lived as f64;
            assert!(grid.rows.len() <= ROWS);
        }
        let sum: f64 = grid.rows.values().flatten().sum();
        assert!((sum - all).abs() < all * 1e-9, "{sum} {all}");
        let rows = grid.sorted();
        let (gap, low) = (far >> grid.shift, (1 << 31) >> grid.shift);
        assert!(rows.iter().all(|&(number, _)| number < low || (gap..gap + low).contains(&number)));
        assert!(rows.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn the_ends_of_all_numbers_have_cells() {
        let mut grid = Grid::new();
        grid.add(0, u64::MAX, 0, u64::MAX);
        grid.add(u64::MAX, 1, u64::MAX, u64::MAX);
        grid.add(5, 1, 7, 7);
        let sum: f64 = grid.rows.values().flatten().sum();
        assert!((sum / (u64::MAX as f64 * u64::MAX as f64) - 1.0).abs() < 1e-9, "{sum}");
    }
}
