//! Windows of time solved anew: for problems that the exact search cannot take as a whole.
//!
//! What ends above the height that is wanted has to go lower. A window of time around it is
//! chosen, everything that lies within the window is taken out, and the exact search puts it
//! back among what stays, below that height. Windows that fail grow.

use super::clock::Clock;
use super::problem::{Fixed, Item, Problem};
use super::search::{Outcome, Search};

/// Items of the smallest window, and of the largest.
const ITEMS: std::ops::RangeInclusive<usize> = 24..=1500;

/// Nodes that a window may take, per item in it.
const NODES_PER_ITEM: u64 = 24;

/// Moves what ends above `capacity` below it. True when all does; `offsets` is a plan
/// in any case, and never higher than before.
pub(super) fn lower(
    problem: &Problem,
    offsets: &mut [u64],
    capacity: u64,
    seed: u64,
    clock: &mut Clock<'_>,
) -> bool {
    let mut by_first: Vec<u32> = (0..problem.items.len() as u32).collect();
    by_first.sort_by_key(|&place| problem.items[place as usize].first);
    let mut wanted = *ITEMS.start();
    let mut seed = seed;
    loop {
        let mut failed = 0usize;
        let mut high: Vec<u32> = (0..problem.items.len() as u32)
            .filter(|&place| ends(problem, offsets, place) > capacity)
            .collect();
        if high.is_empty() {
            return true;
        }
        // The highest first.
        high.sort_by_key(|&place| std::cmp::Reverse(ends(problem, offsets, place)));
        for &place in &high {
            if clock.over() {
                return false;
            }
            if ends(problem, offsets, place) > capacity {
                seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                let window = window(problem, &by_first, place, wanted, seed);
                failed += usize::from(!solve(problem, offsets, &window, capacity, seed, clock));
            }
        }
        if failed > 0 {
            if wanted >= *ITEMS.end() || wanted >= 2 * problem.items.len() {
                return false;
            }
            wanted *= 2;
        }
    }
}

fn ends(problem: &Problem, offsets: &[u64], place: u32) -> u64 {
    offsets[place as usize] + problem.items[place as usize].size
}

/// Sections around those of `place` within which about `wanted` items lie.
fn window(
    problem: &Problem,
    by_first: &[u32],
    place: u32,
    wanted: usize,
    seed: u64,
) -> std::ops::Range<u32> {
    let item = &problem.items[place as usize];
    let length = u64::from(item.end - item.first);
    let within = |window: &std::ops::Range<u32>| {
        let from = by_first.partition_point(|&at| problem.items[at as usize].first < window.start);
        let to = by_first.partition_point(|&at| problem.items[at as usize].first < window.end);
        by_first[from..to]
            .iter()
            .filter(|&&at| problem.items[at as usize].end <= window.end)
            .count()
    };
    // Not always in the middle: another window sees another arrangement.
    let share = 25 + seed % 51;
    let mut around = 1u64;
    loop {
        let (before, behind) = (around * share / 100, around - around * share / 100);
        let window = item.first.saturating_sub(before as u32)
            ..(item.end + behind as u32).min(problem.sections as u32);
        let all = window.end - window.start == problem.sections as u32;
        if all || within(&window) >= wanted {
            return window;
        }
        around = (around * 3 / 2).max(around + 1 + length / 8);
    }
}

/// Solves one window; whether it ends below `capacity` now.
fn solve(
    problem: &Problem,
    offsets: &mut [u64],
    window: &std::ops::Range<u32>,
    capacity: u64,
    seed: u64,
    clock: &mut Clock<'_>,
) -> bool {
    let (mut places, mut cut) = (Vec::new(), Problem::default());
    cut.sections = (window.end - window.start) as usize;
    let clip = |first: u32, end: u32| {
        let (first, end) = (first.max(window.start), end.min(window.end));
        (first < end).then(|| (first - window.start, end - window.start))
    };
    for (place, item) in problem.items.iter().enumerate() {
        let Some((first, end)) = clip(item.first, item.end) else { continue };
        let (offset, size) = (offsets[place], item.size);
        if item.first >= window.start && item.end <= window.end {
            places.push(place);
            cut.items.push(Item { first, end, ..*item });
        } else if offset + size > capacity {
            // It stays too high whatever happens here.
            return false;
        } else {
            cut.fixed.push(Fixed { first, end, offset, size });
        }
    }
    for fixed in &problem.fixed {
        if let Some((first, end)) = clip(fixed.first, fixed.end) {
            cut.fixed.push(Fixed { first, end, ..*fixed });
        }
    }
    if places.len() > 4 * *ITEMS.end() {
        return false;
    }
    let mut search = Search::new(&cut, seed);
    let nodes = 2000 + NODES_PER_ITEM * places.len() as u64;
    if search.run(capacity, nodes, clock) != Outcome::Found {
        return false;
    }
    for (&place, &offset) in places.iter().zip(search.offsets()) {
        offsets[place] = offset;
    }
    true
}
