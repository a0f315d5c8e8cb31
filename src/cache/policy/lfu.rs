//! W-TinyLFU: a window for what is new, a main part for what is asked for often (Einziger,
//! Friedman, Manes: "TinyLFU: a highly efficient cache admission policy", ACM Transactions on
//! Storage 13(4), 2017).
//!
//! A new entry begins in the window, a list by last use with a fifth of the room. When the
//! cache is full, the window's oldest is held against the main part's: whichever was asked for
//! less often, per byte and by the [`Goal`], goes. How often says a [`Sketch`], which knows keys
//! that left, too, and forgets. In the main part an entry is on probation until it is used
//! again; four fifths of it are protected.
//!
//! The paper's window is a hundredth. A fifth costs little on scans and wins what a hundredth
//! loses where keys come back soon and then never (-4.6 to -1.7 points from the best on eleven
//! recorded traces).

use super::list::{self, Link, List, NONE};
use super::load::{Budget, Load, Room, Size};
use super::sketch::{Short, Sketch};
use super::twos::Twos;
use super::{Entries, Goal, Id, Leaving, Policy};

/// The window's part of the room: one in so many.
const WINDOW: u64 = 5;
/// What of the main part is not protected: one in so many.
const PROBATION: u64 = 5;
/// Entries at most that a new one is held against.
const VICTIMS: u32 = 16;

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Window,
    Probation,
    Protected,
}

/// Gives up what is asked for least often, by an estimate that forgets.
pub struct Lfu {
    goal: Goal,
    /// The entries' places in the lists.
    places: Vec<Link>,
    /// The entries' parts.
    parts: Twos,
    sketch: Sketch,
    lists: [List; 3],
    loads: [Load; 3],
    room: Room,
    window: u64,
}

impl Lfu {
    /// Without entries.
    pub fn new(goal: Goal) -> Lfu {
        Lfu::with_window(goal, 0)
    }

    /// With a window of so many hundredths; 0 for a fifth.
    pub fn with_window(goal: Goal, percent: u64) -> Lfu {
        Lfu {
            goal,
            places: Vec::new(),
            parts: Twos::new(),
            sketch: Sketch::new(),
            lists: [List::EMPTY; 3],
            loads: [Load::default(); 3],
            room: Room::new(),
            window: if percent == 0 { 100 / WINDOW } else { percent },
        }
    }

    /// Its counts, which are another's from now on, or were.
    pub(super) fn swap_sketch(&mut self, sketch: &mut Sketch) {
        std::mem::swap(&mut self.sketch, sketch);
    }

    #[inline]
    fn part(&self, entry: Id) -> Part {
        match self.parts.get(entry) {
            0 => Part::Window,
            1 => Part::Probation,
            _ => Part::Protected,
        }
    }

    #[inline]
    fn enter(&mut self, entry: Id, size: Size, part: Part) {
        self.parts.set(entry, part as u8);
        self.loads[part as usize].add(size);
        self.lists[part as usize].push(&mut self.places, entry);
    }

    #[inline]
    fn leave(&mut self, entry: Id, size: Size) {
        let part = self.part(entry) as usize;
        self.loads[part].sub(size);
        self.lists[part].remove(&mut self.places, entry);
    }

    #[inline]
    fn shift(&mut self, entry: Id, part: Part, of: &dyn Entries) {
        let size = of.size(entry);
        self.leave(entry, size);
        self.enter(entry, size, part);
    }

    fn load(&self, part: Part) -> u64 {
        self.room.measure(self.loads[part as usize])
    }

    /// What the window may have.
    #[inline]
    fn window_max(&self) -> u64 {
        let all = self.room.measure(self.room.load);
        match all.checked_mul(self.window) {
            Some(hundredths) => hundredths / 100,
            None => (u128::from(all) * u128::from(self.window) / 100) as u64,
        }
    }

    /// Whether the window has more than that.
    #[inline]
    fn window_is_over(&self) -> bool {
        self.load(Part::Window) > self.window_max().max(1)
    }

    fn takes_the_window(&self, size: Size) -> bool {
        self.room.measure(Load { bytes: size.bytes(), entries: 1 }) > self.window_max().max(1)
    }

    #[inline]
    fn demote(&mut self, of: &dyn Entries) {
        loop {
            let (protected, probation) = (self.load(Part::Protected), self.load(Part::Probation));
            let main = protected + probation;
            let list = self.lists[Part::Protected as usize];
            if list.count() <= 1 || protected <= main - main / PROBATION {
                return;
            }
            self.shift(list.oldest(), Part::Probation, of);
        }
    }

    /// What an entry is worth by its uses, and the room it takes.
    fn value(&self, entry: Id, of: &dyn Entries) -> (u128, u64) {
        let (size, times) = (of.size(entry), self.sketch.estimate(of.key(entry)));
        (u128::from(self.goal.worth(size.bytes())) * u128::from(times), self.room.room_of(size))
    }

    /// Whether `new` is worth more than what goes for it: `old`, and those behind that, if it
    /// needs the room of more than one.
    fn is_worth_more(&self, new: Id, old: Id, of: &dyn Entries) -> bool {
        let (value, room) = self.value(new, of);
        let (mut against, mut found) = (0, 0);
        let mut entry = old;
        for _ in 0..VICTIMS {
            let (its_value, its_room) = self.value(entry, of);
            against += its_value;
            found += its_room;
            entry = List::newer(&self.places, entry);
            if found >= room || entry == NONE {
                break;
            }
        }
        // Of the last one only so much as is needed; of what was not looked at the average.
        value * u128::from(found) > against * u128::from(room)
    }
}

impl Policy for Lfu {
    fn reserve(&mut self, entries: u32) -> bool {
        list::reserve(&mut self.places, entries, Link::FREE)
            && self.parts.reserve(self.places.len())
    }

    fn missed(&mut self, key: u64, _: &dyn Entries) {
        self.sketch.count(Short::of(key));
    }

    fn hit(&mut self, entry: Id, of: &dyn Entries) {
        self.sketch.count(of.key(entry));
        match self.part(entry) {
            Part::Probation => {
                self.shift(entry, Part::Protected, of);
                self.demote(of);
            }
            part => self.lists[part as usize].renew(&mut self.places, entry),
        }
    }

    fn in_use(&mut self, entry: Id, of: &dyn Entries) {
        match self.part(entry) {
            // It would be in the way of the main part's.
            Part::Window => self.shift(entry, Part::Probation, of),
            Part::Probation => {
                self.shift(entry, Part::Protected, of);
                self.demote(of);
            }
            Part::Protected => {
                self.lists[Part::Protected as usize].renew(&mut self.places, entry);
            }
        }
    }

    fn insert(&mut self, entry: Id, of: &dyn Entries) {
        let size = of.size(entry);
        self.room.add(size);
        self.sketch.hold(self.room.load.entries);
        self.enter(entry, size, Part::Window);
        if self.room.is_over() && self.takes_the_window(size) {
            // It would push all others out of the window before it is looked at itself.
            self.lists[Part::Window as usize].age(&mut self.places, entry);
        }
        while !self.room.is_over() && self.window_is_over() {
            self.shift(self.lists[Part::Window as usize].oldest(), Part::Probation, of);
        }
    }

    fn remove(&mut self, entry: Id, _: bool, of: &dyn Entries) {
        let size = of.size(entry);
        self.room.sub(size);
        self.leave(entry, size);
    }

    fn victim(&mut self, of: &mut dyn Leaving) -> Option<Id> {
        self.room.asked();
        let [window, probation, protected] = &self.lists;
        let mut may = |entry| of.may_go(entry);
        let new = window.find_oldest(&self.places, &mut may);
        let old = probation
            .find_oldest(&self.places, &mut may)
            .or_else(|| protected.find_oldest(&self.places, &mut may));
        match (new, old) {
            (Some(new), Some(old)) => {
                if !self.is_worth_more(new, old, of) {
                    return Some(new);
                }
                if self.window_is_over() {
                    self.shift(new, Part::Probation, of);
                }
                Some(old)
            }
            (new, old) => old.or(new),
        }
    }

    fn set_budget(&mut self, budget: Budget, _: &dyn Entries) {
        self.room.set_budget(budget);
    }

    fn bookkeeping_bytes(&self) -> usize {
        self.places.capacity() * size_of::<Link>() + self.parts.bytes() + self.sketch.bytes()
    }

    fn validate(&self, of: &dyn Entries) -> Result<(), String> {
        let mut all = Load::default();
        for (list, (load, part)) in self.lists.iter().zip(self.loads.iter().zip(0..)) {
            let mut sum = Load::default();
            for entry in list.check(&self.places)? {
                if self.parts.get(entry) != part {
                    let own = self.part(entry);
                    return Err(format!("entry {entry} is in list {part}, not {own:?}"));
                }
                sum.add(of.size(entry));
                all.add(of.size(entry));
            }
            if sum != *load {
                return Err(format!("list {part} has {sum:?}, not {load:?}"));
            }
        }
        if all != self.room.load {
            return Err(format!("there are {all:?}, not {:?}", self.room.load));
        }
        Ok(())
    }
}
