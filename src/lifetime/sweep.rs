//! One pass over time: what no plan can be below, and whether a plan is one.

use std::collections::{BTreeMap, HashMap};

use super::instance::Instance;
use crate::error::{Result, fail};

/// The peak of live bytes. Tensors that may be written in each other's place count once, with
/// the largest that lives. No fixed tensor ends above it either.
pub fn lower_bound(instance: &Instance) -> u64 {
    let tensors = instance.tensors();
    let groups = groups(instance);
    // Few tensors have company; only theirs needs a list.
    let mut together: HashMap<u32, Vec<u64>> = HashMap::new();
    let (mut live, mut peak) = (0u64, 0u64);
    for event in instance.events() {
        let place = event.place as usize;
        let size = tensors[place].size;
        let Some(group) = groups.get(&event.place) else {
            live = if event.begins { live + size } else { live - size };
            peak = peak.max(live);
            continue;
        };
        let sizes = together.entry(*group).or_default();
        live -= sizes.iter().copied().max().unwrap_or(0);
        match sizes.iter().position(|&other| !event.begins && other == size) {
            Some(at) => drop(sizes.swap_remove(at)),
            None => sizes.push(size),
        }
        live += sizes.iter().copied().max().unwrap_or(0);
        peak = peak.max(live);
    }
    let fixed = tensors.iter().filter_map(|tensor| Some(tensor.offset? + tensor.size)).max();
    peak.max(fixed.unwrap_or(0))
}

/// The group of each tensor that has an alias or is one.
pub(super) fn groups(instance: &Instance) -> HashMap<u32, u32> {
    let mut groups = HashMap::new();
    for (place, tensor) in instance.tensors().iter().enumerate() {
        if let Some(with) = tensor.alias.and_then(|alias| instance.place_of(alias)) {
            let group = *groups.entry(with as u32).or_insert(with as u32);
            groups.insert(place as u32, group);
        }
    }
    groups
}

/// Checks that `offsets`, one per tensor, is a plan: every tensor is at a multiple of its
/// alignment and where it has to be, and no two that live at one time overlap. Returns the
/// largest offset plus size.
///
/// # Errors
/// `InvalidArgument` with the tensors that are in each other's way.
pub fn validate(instance: &Instance, offsets: &[u64]) -> Result<u64> {
    let tensors = instance.tensors();
    if offsets.len() != tensors.len() {
        return Err(fail!(
            InvalidArgument,
            "the plan has {} offsets for {} tensors",
            offsets.len(),
            tensors.len()
        ));
    }
    let mut height = 0;
    for (tensor, &offset) in tensors.iter().zip(offsets) {
        let (id, size) = (tensor.id, tensor.size);
        if !offset.is_multiple_of(tensor.alignment) {
            let alignment = tensor.alignment;
            return Err(fail!(
                InvalidArgument,
                "tensor {id} is at {offset}, which is no multiple of its alignment {alignment}"
            ));
        }
        if let Some(fixed) = tensor.offset.filter(|&fixed| fixed != offset) {
            return Err(fail!(
                InvalidArgument,
                "tensor {id} is at {offset}; it has to be at {fixed}"
            ));
        }
        let Some(end) = offset.checked_add(size) else {
            return Err(fail!(
                InvalidArgument,
                "tensor {id} is at {offset}; with its size {size} it ends beyond 64 bits"
            ));
        };
        height = height.max(end);
    }
    let groups = groups(instance);
    let group = |place: u32| groups.get(&place).copied().unwrap_or(place);
    // What lives, by offset: more than one only where tensors are written in each other's place.
    let mut live: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let end_of = |place: u32| offsets[place as usize] + tensors[place as usize].size;
    let top = |places: &[u32]| places.iter().copied().max_by_key(|&place| end_of(place));
    for event in instance.events() {
        let (place, offset) = (event.place, offsets[event.place as usize]);
        if !event.begins {
            if let Some(places) = live.get_mut(&offset) {
                places.retain(|&other| other != place);
                if places.is_empty() {
                    live.remove(&offset);
                }
            }
            continue;
        }
        let below = live.range(..offset).next_back().and_then(|(_, places)| top(places));
        let below = below.filter(|&below| end_of(below) > offset);
        let here = live.get(&offset).and_then(|places| places.first().copied());
        let here = here.filter(|&here| group(here) != group(place));
        let above = live.range(offset + 1..).next().map(|(_, places)| places[0]);
        let above = above.filter(|&above| offsets[above as usize] < end_of(place));
        if let Some(other) = below.or(here).or(above) {
            let (one, two) = (&tensors[place as usize], &tensors[other as usize]);
            return Err(fail!(
                InvalidArgument,
                "tensors {} at {offset} and {} at {} overlap at time {}; they have {} and {} bytes",
                one.id,
                two.id,
                offsets[other as usize],
                event.time,
                one.size,
                two.size
            ));
        }
        live.entry(offset).or_default().push(place);
    }
    Ok(height)
}
