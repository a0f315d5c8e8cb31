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

use super::list::{self, Link, Linked, List, NONE};
use super::load::{Budget, Load, Room, Size};
use super::sketch::{Short, Sketch};
use super::{Goal, Id, Policy};

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

#[derive(Clone, Copy, Debug)]
struct Node {
    link: Link,
    key: Short,
    /// Its [`Size`], and in the bits that this leaves free its part.
    size_and_part: u32,
}

impl Node {
    const VACANT: Node = Node { link: Link::FREE, key: Short(0), size_and_part: 0 };

    #[inline]
    fn size(&self) -> Size {
        Size::from_bits(self.size_and_part)
    }

    #[inline]
    fn part(&self) -> Part {
        match self.size_and_part >> (u32::BITS - Size::SPARE) {
            0 => Part::Window,
            1 => Part::Probation,
            _ => Part::Protected,
        }
    }

    #[inline]
    fn set_part(&mut self, part: Part) {
        self.size_and_part = self.size().bits() | (part as u32) << (u32::BITS - Size::SPARE);
    }
}

impl Linked for Node {
    #[inline]
    fn link(&self) -> Link {
        self.link
    }

    #[inline]
    fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

/// Gives up what is asked for least often, by an estimate that forgets.
pub struct Lfu {
    goal: Goal,
    nodes: Vec<Node>,
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
            nodes: Vec::new(),
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
    fn enter(&mut self, entry: Id, part: Part) {
        let node = &mut self.nodes[entry as usize];
        node.set_part(part);
        self.loads[part as usize].add(node.size());
        self.lists[part as usize].push(&mut self.nodes, entry);
    }

    #[inline]
    fn leave(&mut self, entry: Id) {
        let node = &self.nodes[entry as usize];
        let part = node.part() as usize;
        self.loads[part].sub(node.size());
        self.lists[part].remove(&mut self.nodes, entry);
    }

    #[inline]
    fn shift(&mut self, entry: Id, part: Part) {
        self.leave(entry);
        self.enter(entry, part);
    }

    fn load(&self, part: Part) -> u64 {
        self.room.measure(self.loads[part as usize])
    }

    /// What the window may have.
    #[inline]
    fn window_max(&self) -> u64 {
        let all = self.room.measure(self.room.load);
        ((u128::from(all) * u128::from(self.window)) / 100) as u64
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
    fn demote(&mut self) {
        loop {
            let (protected, probation) = (self.load(Part::Protected), self.load(Part::Probation));
            let main = protected + probation;
            let list = self.lists[Part::Protected as usize];
            if list.count() <= 1 || protected <= main - main / PROBATION {
                return;
            }
            self.shift(list.oldest(), Part::Probation);
        }
    }

    /// What an entry is worth by its uses, and the room it takes.
    fn value(&self, entry: Id) -> (u128, u64) {
        let node = &self.nodes[entry as usize];
        let (size, times) = (node.size(), self.sketch.estimate(node.key));
        (u128::from(self.goal.worth(size.bytes())) * u128::from(times), self.room.room_of(size))
    }

    /// Whether `new` is worth more than what goes for it: `old`, and those behind that, if it
    /// needs the room of more than one.
    fn is_worth_more(&self, new: Id, old: Id) -> bool {
        let (value, room) = self.value(new);
        let (mut against, mut found) = (0, 0);
        let mut entry = old;
        for _ in 0..VICTIMS {
            let (its_value, its_room) = self.value(entry);
            against += its_value;
            found += its_room;
            entry = List::newer(&self.nodes, entry);
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
        list::reserve(&mut self.nodes, entries, Node::VACANT)
    }

    fn missed(&mut self, key: u64) {
        self.sketch.count(Short::of(key));
    }

    fn hit(&mut self, entry: Id) {
        let node = &self.nodes[entry as usize];
        self.sketch.count(node.key);
        match node.part() {
            Part::Probation => {
                self.shift(entry, Part::Protected);
                self.demote();
            }
            part => self.lists[part as usize].renew(&mut self.nodes, entry),
        }
    }

    fn in_use(&mut self, entry: Id) {
        match self.nodes[entry as usize].part() {
            // It would be in the way of the main part's.
            Part::Window => self.shift(entry, Part::Probation),
            Part::Probation => {
                self.shift(entry, Part::Protected);
                self.demote();
            }
            Part::Protected => {
                self.lists[Part::Protected as usize].renew(&mut self.nodes, entry);
            }
        }
    }

    fn insert(&mut self, entry: Id, key: u64, bytes: u64) {
        let node = &mut self.nodes[entry as usize];
        let size = Size::of(bytes);
        (node.key, node.size_and_part) = (Short::of(key), size.bits());
        self.room.add(size);
        self.sketch.hold(self.room.load.entries);
        self.enter(entry, Part::Window);
        if self.room.is_over() && self.takes_the_window(size) {
            // It would push all others out of the window before it is looked at itself.
            self.lists[Part::Window as usize].age(&mut self.nodes, entry);
        }
        while !self.room.is_over() && self.window_is_over() {
            self.shift(self.lists[Part::Window as usize].oldest(), Part::Probation);
        }
    }

    fn remove(&mut self, entry: Id, _: bool) {
        self.room.sub(self.nodes[entry as usize].size());
        self.leave(entry);
    }

    fn victim(&mut self, may: &mut dyn FnMut(Id) -> bool) -> Option<Id> {
        self.room.asked();
        let [window, probation, protected] = &self.lists;
        let new = window.find_oldest(&self.nodes, may);
        let old = probation
            .find_oldest(&self.nodes, may)
            .or_else(|| protected.find_oldest(&self.nodes, may));
        match (new, old) {
            (Some(new), Some(old)) => {
                if !self.is_worth_more(new, old) {
                    return Some(new);
                }
                if self.window_is_over() {
                    self.shift(new, Part::Probation);
                }
                Some(old)
            }
            (new, old) => old.or(new),
        }
    }

    fn set_budget(&mut self, bytes: u64, entries: u64) {
        self.room.set_budget(Budget { bytes, entries });
    }

    fn bookkeeping_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.sketch.bytes()
    }

    fn validate(&self) -> Result<(), String> {
        let mut all = Load::default();
        for (list, (load, part)) in self.lists.iter().zip(self.loads.iter().zip(0..)) {
            let mut sum = Load::default();
            for entry in list.check(&self.nodes)? {
                let node = &self.nodes[entry as usize];
                if node.part() as u32 != part {
                    return Err(format!("entry {entry} is in list {part}, not {:?}", node.part()));
                }
                sum.add(node.size());
                all.add(node.size());
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
