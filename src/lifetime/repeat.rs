//! A plan as a program repeats it: which tensor an allocation is, and whether its place is free.
//!
//! Nothing is trusted but what was taken and given back. Of every tensor it is known from the
//! plan which tensors had its bytes just before it, in the order of a step, the first of a step
//! behind the last of the step before: those *below* it. There are few, three on average at
//! most: a place is painted over by what comes next, so every tensor is seen once by each that
//! covers a part of it. A tensor may have its place when none of those below is there any more;
//! of one below that did not come in this step, those below that one are asked.
//!
//! So a program that does as the plan says pays for a few comparisons, and one that does not
//! never gets a place that somebody has.

use std::collections::{BTreeMap, HashMap};

use super::plan::Plan;
use crate::error::{Result, fail};

/// How many tensors may be missing, or come later, before an allocation is not looked for any
/// more.
const WINDOW: usize = 8;

/// How many sizes in a row say where a program is, when it is somewhere else.
const GRAM: usize = 4;

/// After so many allocations in a row that were none of the plan's, several places with the same
/// sizes are no reason to wait for others.
const LOST: u32 = 16;

/// Marks one below that is of the step before.
const BEFORE: u32 = 1 << 31;

/// No tensor.
const NONE: u32 = u32::MAX;

/// A tensor, in the order in which they are taken.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Its size, rounded as requests are.
    size: u64,
    offset: u64,
    /// The step in which it was taken last, and the one that went on without it; 0 for none.
    taken: u64,
    skipped: u64,
    /// The last walk that met it, and in which step.
    met: (u64, u64),
    /// Where those below it begin, and its offset in [`Live`].
    below: u32,
    place: u32,
    live: bool,
}

impl Slot {
    fn end(&self) -> u64 {
        self.offset + self.size
    }
}

/// A plan that is being repeated.
#[derive(Debug)]
pub struct Repeat {
    /// And one behind the last, which is always there.
    slots: Vec<Slot>,
    below: Vec<u32>,
    /// Sizes are rounded up to multiples of this, a power of two, as offsets are.
    grain: u64,
    arena_bytes: u64,
    live: Live,
    step: u64,
    /// Whether anything was taken in this step.
    begun: bool,
    /// What comes next, and what was passed over lately.
    next: usize,
    missing: Vec<u32>,
    /// Sizes asked for, the latest last; how many in a row were none of the plan's.
    sizes: [u64; GRAM],
    strange: u32,
    /// By the hash of `GRAM` sizes in a row: what comes after them.
    grams: HashMap<u64, Vec<u32>>,
    walks: u64,
    /// Scratch of a walk: whom to ask, in which step; and who is given up by it.
    asked: Vec<(u32, u64)>,
    given_up: Vec<u32>,
}

/// A tensor that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which one, in the order of a step.
    pub tensor: usize,
    /// Where it is.
    pub offset: u64,
    /// Bytes of its place.
    pub bytes: u64,
}

impl Repeat {
    /// `plan`, for an arena whose blocks are at multiples of `grain`, a power of two.
    ///
    /// # Errors
    /// `InvalidArgument` when the plan has no tensors, or one at another offset.
    pub fn new(plan: &Plan, grain: u64) -> Result<Repeat> {
        let tensors = plan.instance().tensors();
        if tensors.is_empty() {
            return Err(fail!(InvalidArgument, "the plan has no tensors"));
        }
        let odd = tensors.iter().zip(plan.offsets()).find(|(_, at)| !at.is_multiple_of(grain));
        if let Some((tensor, offset)) = odd {
            return Err(fail!(
                InvalidArgument,
                "tensor {} is at {offset}; blocks of this pool are at multiples of {grain}. \
                 Align the tensors to that before the plan is made",
                tensor.id
            ));
        }
        // All offsets are multiples of it, so what is rounded up to it meets nobody.
        let common = tensors.iter().map(|tensor| tensor.alignment).min().unwrap_or(1);
        let grain = grain.max(common.min(crate::space::PAGE));
        let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
        order.sort_by_key(|&place| tensors[place as usize].lower);
        let slots = order.iter().map(|&place| Slot {
            size: tensors[place as usize].size.next_multiple_of(grain),
            offset: plan.offsets()[place as usize],
            taken: 0,
            skipped: 0,
            met: (0, 0),
            below: 0,
            place: 0,
            live: false,
        });
        let mut slots: Vec<Slot> = slots.collect();
        let below = all_below(&mut slots);
        let arena_bytes = slots.iter().map(Slot::end).max().unwrap_or(0);
        Ok(Repeat {
            live: Live::new(&mut slots),
            grams: grams(&slots),
            slots,
            below,
            grain,
            arena_bytes,
            step: 1,
            begun: false,
            next: 0,
            missing: Vec::with_capacity(WINDOW + 1),
            sizes: [0; GRAM],
            strange: 0,
            walks: 0,
            asked: Vec::new(),
            given_up: Vec::new(),
        })
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> u64 {
        self.arena_bytes
    }

    /// How many tensors a step has.
    pub fn tensors(&self) -> usize {
        self.slots.len() - 1
    }

    /// Steps that began.
    pub fn steps(&self) -> u64 {
        self.step - u64::from(!self.begun)
    }

    /// The next allocation is the first of a step.
    pub fn begin_step(&mut self) {
        if self.begun {
            self.step += 1;
            self.begun = false;
        }
        self.next = 0;
        self.missing.clear();
    }

    /// The tensor that an allocation of `size` bytes, at a multiple of `alignment`, is, if it is
    /// one and its place is free. `may` is asked about tensors that had bytes of it, and may say
    /// no.
    #[inline]
    pub fn take(
        &mut self,
        size: u64,
        alignment: u64,
        may: &mut impl FnMut(usize) -> bool,
    ) -> Option<Taken> {
        let size = size.checked_next_multiple_of(self.grain)?;
        self.sizes.rotate_left(1);
        self.sizes[GRAM - 1] = size;
        // The one that is due, as it mostly is.
        if let Some(slot) = self.slots.get(self.next)
            && slot.size == size
            && !slot.live
        {
            let at = self.next;
            self.next += 1;
            return self.take_at(at, alignment, may);
        }
        self.look_for(size, alignment, may)
    }

    #[cold]
    fn look_for(
        &mut self,
        size: u64,
        alignment: u64,
        may: &mut impl FnMut(usize) -> bool,
    ) -> Option<Taken> {
        // What is there still from an earlier step is not asked for again.
        self.pass_live();
        if self.is_due(size, self.next) {
            self.next += 1;
            return self.take_at(self.next - 1, alignment, may);
        }
        // One that was passed over.
        let step = self.step;
        let late = |&at: &u32| {
            let slot = &self.slots[at as usize];
            slot.size == size && slot.skipped != step && !slot.live
        };
        if let Some(late) = self.missing.iter().position(late) {
            let at = self.missing.remove(late) as usize;
            return self.take_at(at, alignment, may);
        }
        let count = self.tensors();
        if self.next == count {
            self.begin_step();
            self.pass_live();
            if self.is_due(size, self.next) {
                self.next += 1;
                return self.take_at(self.next - 1, alignment, may);
            }
        }
        // One that is due soon, in this step or the next.
        for ahead in 0..WINDOW.min(count) {
            let at = self.next + ahead;
            if !self.is_due(size, at % count) {
                continue;
            }
            if at >= count {
                self.begin_step();
            }
            let at = at % count;
            let from = self.next;
            if !self.is_clear(at, may) {
                return None;
            }
            self.next = at + 1;
            self.pass_over(from, at);
            return self.enter(at, alignment);
        }
        self.strange += 1;
        self.find_again();
        None
    }

    fn is_due(&self, size: u64, at: usize) -> bool {
        self.slots.get(at).is_some_and(|slot| slot.size == size && !slot.live)
    }

    fn pass_live(&mut self) {
        while self.next < self.tensors() && self.slots[self.next].live {
            self.next += 1;
        }
    }

    /// The tensors `from..to` did not come yet.
    fn pass_over(&mut self, from: usize, to: usize) {
        for at in from..to {
            if !self.slots[at].live && self.slots[at].taken != self.step {
                self.missing.push(at as u32);
            }
        }
        let old = self.missing.len().saturating_sub(WINDOW);
        self.missing.drain(..old);
    }

    /// The last sizes are none that are due: goes where they are in the plan, if that is one
    /// place.
    fn find_again(&mut self) {
        let Some(places) = self.grams.get(&hash(&self.sizes)) else { return };
        let next = self.next as u32;
        let place = match places[..] {
            [only] => only,
            _ if self.strange < LOST => return,
            _ => places.iter().copied().find(|&place| place > next).unwrap_or(places[0]),
        } as usize;
        if place <= self.next {
            self.begin_step();
        }
        self.missing.clear();
        self.next = place;
        self.strange = 0;
    }

    /// Takes the tensor `at`, which is passed in any case.
    #[inline]
    fn take_at(
        &mut self,
        at: usize,
        alignment: u64,
        may: &mut impl FnMut(usize) -> bool,
    ) -> Option<Taken> {
        if self.is_clear(at, may) {
            return self.enter(at, alignment);
        }
        self.slots[at].skipped = self.step;
        None
    }

    #[inline]
    fn enter(&mut self, at: usize, alignment: u64) -> Option<Taken> {
        let step = self.step;
        let slot = &mut self.slots[at];
        if slot.offset & (alignment - 1) != 0 {
            slot.skipped = step;
            return None;
        }
        (slot.live, slot.taken) = (true, step);
        let taken = Taken { tensor: at, offset: slot.offset, bytes: slot.size };
        self.live.entries[slot.place as usize].1 = at as u32;
        self.begun = true;
        self.strange = 0;
        if self.next == self.tensors() && self.missing.is_empty() {
            self.begin_step();
        }
        Some(taken)
    }

    /// Whether nobody has bytes of the tensor `at`, and nobody who comes before it in a step will
    /// have them in this one.
    #[inline]
    fn is_clear(&mut self, at: usize, may: &mut impl FnMut(usize) -> bool) -> bool {
        let below = self.slots[at].below as usize..self.slots[at + 1].below as usize;
        self.asked.clear();
        for &edge in &self.below[below] {
            let (other, step) = step_of(edge, self.step);
            let slot = &self.slots[other];
            if slot.live || !may(other) {
                return false;
            }
            if slot.taken < step {
                self.asked.push((other as u32, step));
            }
        }
        self.asked.is_empty() || self.is_clear_below(at, may)
    }

    /// As [`Repeat::is_clear`], of those below what did not come, as far as they have bytes of the
    /// tensor.
    #[cold]
    fn is_clear_below(&mut self, tensor: usize, may: &mut impl FnMut(usize) -> bool) -> bool {
        let (from, to) = (self.slots[tensor].offset, self.slots[tensor].end());
        self.walks += 1;
        self.given_up.clear();
        while let Some((at, step)) = self.asked.pop() {
            let slot = &mut self.slots[at as usize];
            // Whoever was met stands for the steps before too: once round the plan, and nobody
            // was there.
            if slot.met.0 == self.walks && slot.met.1 >= step {
                continue;
            }
            slot.met = (self.walks, step);
            if step == self.step {
                // Should it still come, it comes too late.
                self.given_up.push(at);
            }
            let below = slot.below as usize..self.slots[at as usize + 1].below as usize;
            for &edge in &self.below[below] {
                let (other, step) = step_of(edge, step);
                let slot = &self.slots[other];
                if slot.end() <= from || to <= slot.offset {
                    continue;
                }
                if slot.live || !may(other) {
                    return false;
                }
                if slot.taken < step {
                    self.asked.push((other as u32, step));
                }
            }
        }
        for &at in &self.given_up {
            self.slots[at as usize].skipped = self.step;
        }
        true
    }

    /// The tensor that is at `offset` now.
    #[inline]
    pub fn at(&self, offset: u64) -> Option<usize> {
        let at = self.live.get(offset)?;
        (at != NONE).then_some(at as usize)
    }

    /// Where `tensor` is, and its bytes.
    pub fn place(&self, tensor: usize) -> (u64, u64) {
        (self.slots[tensor].offset, self.slots[tensor].size)
    }

    /// The tensors that are there now, in the order of a step.
    pub fn living(&self) -> impl Iterator<Item = usize> {
        let slots = self.slots[..self.tensors()].iter().enumerate();
        slots.filter(|(_, slot)| slot.live).map(|(at, _)| at)
    }

    /// `tensor`, which is there, is given back.
    #[inline]
    pub fn give(&mut self, tensor: usize) {
        let slot = &mut self.slots[tensor];
        slot.live = false;
        self.live.entries[slot.place as usize].1 = NONE;
    }

    /// Checks that no two tensors that are there have bytes in common.
    ///
    /// # Errors
    /// Two that have.
    pub fn validate(&self) -> std::result::Result<(), String> {
        let mut live: Vec<usize> = self.living().collect();
        live.sort_by_key(|&at| self.slots[at].offset);
        for pair in live.windows(2) {
            let (one, two) = (&self.slots[pair[0]], &self.slots[pair[1]]);
            if one.end() > two.offset {
                return Err(format!("tensors {} and {} of the plan overlap", pair[0], pair[1]));
            }
        }
        match live.iter().find(|&&at| self.at(self.slots[at].offset) != Some(at)) {
            Some(at) => Err(format!("tensor {at} of the plan is not found by its offset")),
            None => Ok(()),
        }
    }
}

/// The tensor of an edge, and the step it is about, seen from `step`.
#[inline]
fn step_of(edge: u32, step: u64) -> (usize, u64) {
    ((edge & !BEFORE) as usize, step.saturating_sub(u64::from(edge >> 31)))
}

/// Who is below whom: paints a step after the other into the arena. A slot behind the last one
/// says where those below end.
fn all_below(slots: &mut Vec<Slot>) -> Vec<u32> {
    let mut picture = BTreeMap::new();
    for (at, slot) in slots.iter().enumerate() {
        paint(&mut picture, slot, at as u32 | BEFORE, &mut |_| {});
    }
    let mut below: Vec<u32> = Vec::with_capacity(2 * slots.len());
    for (at, slot) in slots.iter_mut().enumerate() {
        let first = below.len();
        paint(&mut picture, slot, at as u32, &mut |edge| below.push(edge));
        below[first..].sort_unstable();
        let mut end = first;
        for from in first..below.len() {
            if end == first || below[end - 1] != below[from] {
                below[end] = below[from];
                end += 1;
            }
        }
        below.truncate(end);
        slot.below = first as u32;
    }
    let end = Slot {
        size: 0,
        offset: 0,
        taken: 0,
        skipped: 0,
        met: (0, 0),
        below: below.len() as u32,
        place: 0,
        live: true,
    };
    slots.push(end);
    below
}

/// Paints the place of `slot`; says what was there.
fn paint(
    picture: &mut BTreeMap<u64, (u64, u32)>,
    slot: &Slot,
    colour: u32,
    was: &mut impl FnMut(u32),
) {
    let (from, to) = (slot.offset, slot.end());
    // What reaches into it from below is cut.
    let lower = picture.range(..from).next_back().map(|(&start, &piece)| (start, piece));
    if let Some((start, (end, other))) = lower.filter(|&(_, (end, _))| end > from) {
        picture.insert(start, (from, other));
        picture.insert(from, (end, other));
    }
    while let Some((&start, &(end, other))) = picture.range(from..to).next() {
        was(other);
        picture.remove(&start);
        if end > to {
            picture.insert(to, (end, other));
        }
    }
    picture.insert(from, (to, colour));
}

fn hash(sizes: &[u64]) -> u64 {
    let mix =
        |hash: u64, &size: &u64| (hash ^ size).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    sizes.iter().fold(0, mix)
}

/// By the hash of `GRAM` sizes in a row, around the end of a step too: what comes after them.
fn grams(slots: &[Slot]) -> HashMap<u64, Vec<u32>> {
    let mut grams: HashMap<u64, Vec<u32>> = HashMap::new();
    let count = slots.len() - 1;
    for at in 0..count {
        let sizes: [u64; GRAM] =
            std::array::from_fn(|back| slots[(at + count * GRAM + 1 + back - GRAM) % count].size);
        grams.entry(hash(&sizes)).or_default().push(at as u32 + 1);
    }
    grams
}

/// Who is at an offset: open addressing over all offsets that there are.
#[derive(Debug)]
struct Live {
    entries: Box<[(u64, u32)]>,
    shift: u32,
}

impl Live {
    /// No offset.
    const EMPTY: u64 = u64::MAX;

    fn new(slots: &mut [Slot]) -> Live {
        let size = (2 * slots.len()).next_power_of_two();
        let mut live = Live {
            entries: vec![(Live::EMPTY, NONE); size].into_boxed_slice(),
            shift: 64 - size.trailing_zeros(),
        };
        let count = slots.len() - 1;
        for slot in &mut slots[..count] {
            let at = live.find(slot.offset);
            live.entries[at].0 = slot.offset;
            slot.place = at as u32;
        }
        live
    }

    /// The entry of `offset`, or the one where it would be.
    #[inline]
    fn find(&self, offset: u64) -> usize {
        let mut at = (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize;
        while self.entries[at].0 != offset && self.entries[at].0 != Live::EMPTY {
            at = (at + 1) & (self.entries.len() - 1);
        }
        at
    }

    #[inline]
    fn get(&self, offset: u64) -> Option<u32> {
        let (known, at) = self.entries[self.find(offset)];
        (known == offset).then_some(at)
    }
}
