//! One item after the other, each where it fits among those before it.

use std::collections::{BTreeMap, BTreeSet};

use super::clock::Clock;
use super::problem::{Item, Problem};

/// Which item comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Size,
    Area,
    Lifetime,
    /// By the section in which it begins, larger first: what an allocator sees.
    Birth,
    /// By the section in which it ends, backwards.
    Death,
}

/// Which of the gaps in which it fits an item gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The lowest.
    First,
    /// The smallest.
    Best,
}

/// The orders and fits that are tried, the most successful first.
pub(super) const PORTFOLIO: [(Order, Fit); 8] = [
    (Order::Size, Fit::First),
    (Order::Area, Fit::First),
    (Order::Birth, Fit::Best),
    (Order::Lifetime, Fit::First),
    (Order::Size, Fit::Best),
    (Order::Death, Fit::Best),
    (Order::Area, Fit::Best),
    (Order::Birth, Fit::First),
];

/// The items of `problem` in `order`.
pub(super) fn sorted(problem: &Problem, order: Order) -> Vec<u32> {
    let mut places: Vec<u32> = (0..problem.items.len() as u32).collect();
    let lifetime = |item: &Item| u64::from(item.end - item.first);
    let descending = |key: u128| std::cmp::Reverse(key);
    places.sort_by_cached_key(|&place| {
        let item = &problem.items[place as usize];
        let size = u128::from(item.size);
        let (major, minor) = match order {
            Order::Size => (size, u128::from(lifetime(item))),
            Order::Area => (size * u128::from(lifetime(item)), size),
            Order::Lifetime => (u128::from(lifetime(item)), size),
            Order::Birth => (u128::from(u32::MAX - item.first), size),
            Order::Death => (u128::from(item.end), size),
        };
        (descending(major), descending(minor), place)
    });
    places
}

/// What an order goes by: sizes, times the number of sections and the load at the item's peak, each
/// to a power. Large instances have the best order somewhere between those by size and by area.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Weights {
    pub(super) width: f64,
    pub(super) load: f64,
}

impl Weights {
    /// What is tried first, the most successful before the others.
    pub(super) const FIRST: [Weights; 6] = [
        Weights { width: 0.1, load: 1.0 },
        Weights { width: 0.0, load: 2.0 },
        Weights { width: 0.25, load: 0.0 },
        Weights { width: 0.1, load: 4.0 },
        Weights { width: 0.05, load: 0.0 },
        Weights { width: 0.15, load: 1.0 },
    ];

    /// Others not far from these. `random` has a value in [0, 1) each time.
    pub(super) fn near(self, mut random: impl FnMut() -> f64) -> Weights {
        Weights {
            width: (self.width + 0.15 * (random() - 0.5)).max(0.0),
            load: (self.load + 2.0 * (random() - 0.5)).max(0.0),
        }
    }
}

/// Per item: the most bytes that live together with it, among its own.
pub(super) fn peaks(problem: &Problem) -> Vec<u64> {
    let mut load = vec![0; problem.sections];
    for item in &problem.items {
        load[item.sections()].iter_mut().for_each(|load| *load += item.size);
    }
    let peak = |item: &Item| load[item.sections()].iter().copied().max().unwrap_or(0);
    problem.items.iter().map(peak).collect()
}

/// The items of `problem` in the order of `weights`; `peaks` are those of [`peaks`].
pub(super) fn weighted(problem: &Problem, peaks: &[u64], weights: Weights) -> Vec<u32> {
    let key = |(item, &peak): (&Item, &u64)| {
        let width = f64::from(item.end - item.first);
        item.size as f64 * width.powf(weights.width) * (peak as f64).powf(weights.load)
    };
    let keys: Vec<f64> = problem.items.iter().zip(peaks).map(key).collect();
    let mut places: Vec<u32> = (0..problem.items.len() as u32).collect();
    places.sort_by(|&a, &b| keys[b as usize].total_cmp(&keys[a as usize]).then(a.cmp(&b)));
    places
}

/// Places the items one by one in the order `places`; returns the offsets, or none when the
/// clock says that it is over.
pub(super) fn place(
    problem: &Problem,
    places: &[u32],
    fit: Fit,
    clock: Option<&mut Clock<'_>>,
) -> Option<Vec<u64>> {
    let mut offsets = vec![0; problem.items.len()];
    let mut index = Index::new(problem);
    let mut around: Vec<(u64, u64)> = Vec::new();
    let mut clock = clock;
    let mut work = 0;
    for &place in places {
        let item = &problem.items[place as usize];
        around.clear();
        index.over(item.first, item.end, &mut around);
        around.sort_unstable();
        work += around.len() + 16;
        if work > 1 << 16 {
            work = 0;
            if clock.as_mut().is_some_and(|clock| clock.over()) {
                return None;
            }
        }
        let offset = gap(item, fit, &around);
        offsets[place as usize] = offset;
        index.put(place, offset);
    }
    Some(offsets)
}

/// As an allocator would: in the order of time, the larger first, each in the smallest gap.
/// Takes little time however many live together. Nothing may be fixed.
pub(super) fn sweep(problem: &Problem) -> Vec<u64> {
    let mut ending: Vec<u32> = (0..problem.items.len() as u32).collect();
    ending.sort_by_key(|&place| problem.items[place as usize].end);
    let mut ending = ending.into_iter().peekable();
    let mut offsets = vec![0; problem.items.len()];
    let mut gaps = Gaps::default();
    for place in sorted(problem, Order::Birth) {
        let item = &problem.items[place as usize];
        while let Some(ended) = ending.next_if(|&at| problem.items[at as usize].end <= item.first) {
            let from = offsets[ended as usize];
            gaps.give(from, from + problem.items[ended as usize].size);
        }
        offsets[place as usize] = gaps.take(item);
    }
    offsets
}

/// What is free at one time: gaps by offset and by size, and all from the top on. None touches
/// another, or the top.
#[derive(Default)]
struct Gaps {
    by_offset: BTreeMap<u64, u64>,
    by_size: BTreeSet<(u64, u64)>,
    top: u64,
}

impl Gaps {
    /// How many gaps that are large enough are asked for one with the right alignment.
    const TRIES: usize = 64;

    fn take(&mut self, item: &Item) -> u64 {
        let large = self.by_size.range((item.size, 0)..).take(Gaps::TRIES);
        let fit =
            large.copied().find(|&(size, from)| item.aligned(from) + item.size <= from + size);
        let (from, to) = match fit {
            Some((size, from)) => {
                self.by_size.remove(&(size, from));
                self.by_offset.remove(&from);
                (from, from + size)
            }
            None => {
                let from = self.top;
                self.top = item.aligned(from) + item.size;
                (from, self.top)
            }
        };
        let offset = item.aligned(from);
        self.give(from, offset);
        self.give(offset + item.size, to);
        offset
    }

    fn give(&mut self, from: u64, to: u64) {
        if from == to {
            return;
        }
        let (mut from, mut to) = (from, to);
        let before = self.by_offset.range(..from).next_back().map(|(&before, &end)| (before, end));
        if let Some((before, end)) = before.filter(|&(_, end)| end == from) {
            self.by_offset.remove(&before);
            self.by_size.remove(&(end - before, before));
            from = before;
        }
        if let Some(end) = self.by_offset.remove(&to) {
            self.by_size.remove(&(end - to, to));
            to = end;
        }
        if to == self.top {
            self.top = from;
        } else {
            self.by_offset.insert(from, to);
            self.by_size.insert((to - from, from));
        }
    }
}

/// Where `item` goes among the `taken` ranges, which are sorted.
fn gap(item: &Item, fit: Fit, taken: &[(u64, u64)]) -> u64 {
    let (mut end, mut best) = (0, None);
    for &(from, to) in taken {
        let offset = item.aligned(end);
        if offset + item.size <= from {
            let wasted = from - end - item.size;
            if fit == Fit::First {
                return offset;
            }
            if best.is_none_or(|(least, _)| wasted < least) {
                best = Some((wasted, offset));
            }
        }
        end = end.max(to);
    }
    best.map_or_else(|| item.aligned(end), |(_, offset)| offset)
}

/// What is placed already, by time: a tree over the items sorted by where they begin, with
/// the latest end below each node.
pub(super) struct Index {
    /// (first, end, offset, end of its bytes) of everything, sorted.
    entries: Vec<Entry>,
    entry_of: Vec<u32>,
    /// The latest end of what is placed, per node; 0 where nothing is.
    latest: Vec<u32>,
    leaves: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    first: u32,
    end: u32,
    from: u64,
    to: u64,
    size: u64,
}

impl Index {
    /// Only what is fixed is placed.
    pub(super) fn new(problem: &Problem) -> Index {
        let items = problem.items.iter().map(|item| (item.first, item.end, item.size, None));
        let fixed = problem.fixed.iter();
        let fixed = fixed.map(|fixed| (fixed.first, fixed.end, fixed.size, Some(fixed.offset)));
        let all: Vec<(u32, u32, u64, Option<u64>)> = items.chain(fixed).collect();
        let mut sorted: Vec<u32> = (0..all.len() as u32).collect();
        sorted.sort_by_key(|&place| all[place as usize].0);
        let mut entry_of = vec![0; all.len()];
        let mut entries = Vec::with_capacity(all.len());
        for (at, &place) in sorted.iter().enumerate() {
            let (first, end, size, offset) = all[place as usize];
            let from = offset.unwrap_or(0);
            entry_of[place as usize] = at as u32;
            entries.push(Entry { first, end, from, to: from + size, size });
        }
        let leaves = entries.len().next_power_of_two();
        let mut index = Index { entries, entry_of, latest: vec![0; 2 * leaves], leaves };
        for (place, (.., offset)) in all.iter().enumerate() {
            if let Some(offset) = offset {
                index.put(place as u32, *offset);
            }
        }
        index
    }

    /// The item `place` is at `offset` now.
    pub(super) fn put(&mut self, place: u32, offset: u64) {
        let at = self.entry_of[place as usize] as usize;
        let entry = &mut self.entries[at];
        (entry.from, entry.to) = (offset, offset + entry.size);
        let end = entry.end;
        let mut node = self.leaves + at;
        while node > 0 && self.latest[node] < end {
            self.latest[node] = end;
            node /= 2;
        }
    }

    /// Adds the bytes of all that lives in one of the sections `first..end` to `found`.
    pub(super) fn over(&self, first: u32, end: u32, found: &mut Vec<(u64, u64)>) {
        let before = self.entries.partition_point(|entry| entry.first < end);
        self.visit(1, 0, self.leaves, before, first, found);
    }

    fn visit(
        &self,
        node: usize,
        begin: usize,
        width: usize,
        before: usize,
        first: u32,
        found: &mut Vec<(u64, u64)>,
    ) {
        if begin >= before || self.latest[node] <= first {
            return;
        }
        if width == 1 {
            found.push((self.entries[begin].from, self.entries[begin].to));
            return;
        }
        let half = width / 2;
        self.visit(2 * node, begin, half, before, first, found);
        self.visit(2 * node + 1, begin + half, half, before, first, found);
    }
}
