//! An instance as the planner sees it: times become sections, aliases become one item.

use std::collections::HashMap;

use super::instance::Instance;
use super::sweep;

/// Something to place: it covers the sections `first..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) first: u32,
    pub(super) end: u32,
    pub(super) size: u64,
    pub(super) alignment: u64,
}

impl Item {
    pub(super) fn sections(&self) -> std::ops::Range<usize> {
        self.first as usize..self.end as usize
    }

    /// The lowest place for it at `offset` or above.
    pub(super) fn aligned(&self, offset: u64) -> u64 {
        offset.next_multiple_of(self.alignment)
    }
}

/// Something that has its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    pub(super) first: u32,
    pub(super) end: u32,
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Items over sections. A section is a time at which something ends that lived together with
/// what began last: every set of items that live together lives together in some section, and
/// there are at most as many sections as items.
#[derive(Clone, Debug, Default)]
pub(super) struct Problem {
    pub(super) items: Vec<Item>,
    pub(super) fixed: Vec<Fixed>,
    pub(super) sections: usize,
}

/// A problem, and which item stands for each tensor.
pub(super) struct Made {
    pub(super) problem: Problem,
    /// Per tensor: its item, or none for one that is fixed.
    pub(super) item_of: Vec<Option<u32>>,
    /// Per tensor: its offset if it is fixed, itself or by whom it is written over.
    pub(super) fixed_at: Vec<u64>,
}

/// Tensors in one place.
#[derive(Clone, Copy)]
struct Group {
    lower: u64,
    upper: u64,
    size: u64,
    alignment: u64,
    offset: Option<u64>,
}

/// Puts tensors that may alias in one place, where that takes no more bytes over time than
/// two places. Returns the groups, and the group of each tensor.
fn join(instance: &Instance) -> (Vec<Group>, Vec<u32>) {
    let tensors = instance.tensors();
    let mut groups: Vec<Group> = Vec::with_capacity(tensors.len());
    let mut group_of = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let own = Group {
            lower: tensor.lower,
            upper: tensor.upper,
            size: tensor.size,
            alignment: tensor.alignment,
            offset: tensor.offset,
        };
        let with = tensor.alias.and_then(|alias| instance.place_of(alias));
        let with = with.map(|place| group_of[place]);
        let joined = with.and_then(|with: u32| joint(&groups[with as usize], &own));
        match (with, joined) {
            (Some(with), Some(joined)) => {
                groups[with as usize] = joined;
                group_of.push(with);
            }
            _ => {
                group_of.push(groups.len() as u32);
                groups.push(own);
            }
        }
    }
    (groups, group_of)
}

/// The two in one place, if that is no loss.
fn joint(one: &Group, two: &Group) -> Option<Group> {
    // Where one is fixed, the other could collide with a third in the longer lifetime.
    if one.offset.is_some() || two.offset.is_some() {
        return None;
    }
    let both = Group {
        lower: one.lower.min(two.lower),
        upper: one.upper.max(two.upper),
        size: one.size.max(two.size),
        alignment: one.alignment.max(two.alignment),
        offset: None,
    };
    let area = |group: &Group| u128::from(group.upper - group.lower) * u128::from(group.size);
    (area(&both) <= area(one) + area(two)).then_some(both)
}

impl Problem {
    /// The problem of `instance`.
    pub(super) fn of(instance: &Instance) -> Made {
        let (groups, group_of) = join(instance);
        let mut events = Vec::with_capacity(2 * groups.len());
        for (index, group) in groups.iter().enumerate() {
            events.push((group.lower, true, index));
            events.push((group.upper, false, index));
        }
        events.sort_unstable();
        let mut spans = vec![(0u32, 0u32); groups.len()];
        let (mut section, mut ended) = (0, false);
        for (_, begins, index) in events {
            if begins {
                section += u32::from(std::mem::take(&mut ended));
                spans[index].0 = section;
            } else {
                ended = true;
                spans[index].1 = section + 1;
            }
        }
        let mut problem = Problem {
            sections: if groups.is_empty() { 0 } else { section as usize + 1 },
            ..Problem::default()
        };
        let mut items = vec![None; groups.len()];
        for (index, (group, &(first, end))) in groups.iter().zip(&spans).enumerate() {
            let Group { size, alignment, .. } = *group;
            match group.offset {
                Some(offset) => problem.fixed.push(Fixed { first, end, offset, size }),
                None => {
                    items[index] = Some(problem.items.len() as u32);
                    problem.items.push(Item { first, end, size, alignment });
                }
            }
        }
        Made {
            problem,
            item_of: group_of.iter().map(|&group| items[group as usize]).collect(),
            fixed_at: group_of
                .iter()
                .map(|&group| groups[group as usize].offset.unwrap_or(0))
                .collect(),
        }
    }

    /// The largest offset plus size.
    pub(super) fn height(&self, offsets: &[u64]) -> u64 {
        let items = self.items.iter().zip(offsets).map(|(item, offset)| offset + item.size);
        let fixed = self.fixed.iter().map(|fixed| fixed.offset + fixed.size);
        items.chain(fixed).max().unwrap_or(0)
    }

    /// Every height is a multiple of this.
    pub(super) fn grain(&self) -> u64 {
        let mut grain = 0;
        for item in &self.items {
            grain = common(grain, item.size);
        }
        for item in self.items.iter().filter(|item| item.alignment > 1) {
            grain = common(grain, item.alignment);
        }
        for fixed in &self.fixed {
            grain = common(common(grain, fixed.offset), fixed.size);
        }
        grain.max(1)
    }

    /// The parts that have no time in common, each with the places of its items here.
    pub(super) fn parts(&self) -> Vec<(Problem, Vec<u32>)> {
        let mut crossed = vec![0i32; self.sections + 1];
        let spans = self.items.iter().map(|item| (item.first, item.end));
        let spans = spans.chain(self.fixed.iter().map(|fixed| (fixed.first, fixed.end)));
        for (first, end) in spans {
            crossed[first as usize + 1] += 1;
            crossed[end as usize] -= 1;
        }
        // Which part each section is in, and where that begins.
        let mut part_of = Vec::with_capacity(self.sections);
        let mut begins: Vec<u32> = Vec::new();
        let mut over = 0;
        for (section, change) in crossed.iter().take(self.sections).enumerate() {
            over += change;
            if over == 0 {
                begins.push(section as u32);
            }
            part_of.push(begins.len() - 1);
        }
        let mut parts: Vec<(Problem, Vec<u32>)> = Vec::new();
        for (index, &begin) in begins.iter().enumerate() {
            let end = begins.get(index + 1).map_or(self.sections, |&end| end as usize);
            let sections = end - begin as usize;
            parts.push((Problem { sections, ..Problem::default() }, Vec::new()));
        }
        for (place, item) in self.items.iter().enumerate() {
            let part = part_of[item.first as usize];
            let begin = begins[part];
            let item = Item { first: item.first - begin, end: item.end - begin, ..*item };
            parts[part].0.items.push(item);
            parts[part].1.push(place as u32);
        }
        for fixed in &self.fixed {
            let part = part_of[fixed.first as usize];
            let begin = begins[part];
            let fixed = Fixed { first: fixed.first - begin, end: fixed.end - begin, ..*fixed };
            parts[part].0.fixed.push(fixed);
        }
        parts
    }
}

/// The greatest common divisor.
fn common(mut one: u64, mut two: u64) -> u64 {
    while two > 0 {
        (one, two) = (two, one % two);
    }
    one
}

/// What no plan can be below: the peak of live bytes, and where all offsets have a factor in
/// common, the peak of sizes rounded up to it, but for the one on top.
pub(super) fn lower_bound(instance: &Instance) -> u64 {
    let peak = sweep::lower_bound(instance);
    let tensors = instance.tensors();
    let common = tensors.iter().map(|tensor| tensor.alignment).min().unwrap_or(1);
    if common == 1 || tensors.iter().any(|tensor| tensor.alias.is_some()) {
        return peak;
    }
    let (mut live, mut best) = (0u64, 0u64);
    // Live paddings by their bytes: the largest is the one that need not be there.
    let mut paddings: std::collections::BTreeMap<u64, u32> = std::collections::BTreeMap::new();
    for event in instance.events() {
        let size = tensors[event.place as usize].size;
        let rounded = size.next_multiple_of(common);
        let padding = rounded - size;
        if event.begins {
            live += rounded;
            *paddings.entry(padding).or_insert(0) += 1;
            let top = paddings.last_key_value().map_or(0, |(&padding, _)| padding);
            best = best.max(live - top);
        } else {
            live -= rounded;
            if let Some(count) = paddings.get_mut(&padding) {
                *count -= 1;
                if *count == 0 {
                    paddings.remove(&padding);
                }
            }
        }
    }
    peak.max(best)
}

/// Whether two fixed tensors are in each other's way, which no plan can heal.
pub(super) fn fixed_collide(instance: &Instance) -> crate::error::Result<()> {
    let mut only = Instance::new();
    let mut offsets = Vec::new();
    let mut known = HashMap::new();
    for tensor in instance.tensors() {
        if let Some(offset) = tensor.offset {
            // An alias that is not fixed has no place yet; its own alias may have one.
            let mut alias = tensor.alias;
            while let Some(id) = alias.filter(|id| !known.contains_key(id)) {
                alias = instance.place_of(id).and_then(|place| instance.tensors()[place].alias);
            }
            only.add(super::Tensor { alias, ..*tensor })?;
            known.insert(tensor.id, ());
            offsets.push(offset);
        }
    }
    sweep::validate(&only, &offsets).map(|_| ())
}
