//! GDSF: uses and worth for the room they take, and an age that rises with what is given up
//! (Cherkasova: "Improving WWW proxies performance with greedy-dual-size-frequency caching
//! policy", HP Laboratories report HPL-98-69R1, 1998).
//!
//! An entry's rank is the age when it was last used plus what its uses are worth for the room of a
//! byte; the least goes, and its rank is the age from then on. Where all entries are of one size
//! that is the number of uses, with dynamic aging. The ranks are a heap, so that an access
//! takes the logarithm of the number of entries.

use super::list;
use super::load::{Budget, Load, Room, Size};
use super::{Entries, Goal, Id, Leaving, Policy};

/// The first so many that are not to go are counted as used instead of searching them all.
const LOOKS: u32 = 64;
/// Not in the heap.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    rank: f64,
    uses: u32,
    /// Its place in the heap.
    place: u32,
}

impl Node {
    const VACANT: Node = Node { rank: 0.0, uses: 0, place: NONE };
}

/// Gives up what is worth least for its room.
pub struct Gdsf {
    goal: Goal,
    nodes: Vec<Node>,
    /// Entries; none has a lower rank than the one at half its place.
    heap: Vec<Id>,
    /// The rank of what went last.
    age: f64,
    /// No rank is higher.
    highest: f64,
    room: Room,
}

impl Gdsf {
    /// Without entries.
    pub const fn new(goal: Goal) -> Gdsf {
        Gdsf {
            goal,
            nodes: Vec::new(),
            heap: Vec::new(),
            age: 0.0,
            highest: 0.0,
            room: Room::new(),
        }
    }

    /// The rank of an entry that is used now.
    #[inline]
    fn rank_of(&self, size: Size, uses: u32) -> f64 {
        let worth = self.goal.worth(size.bytes()) as f64;
        self.age + f64::from(uses) * worth / self.room.room_of(size) as f64
    }

    fn set_rank(&mut self, entry: Id, rank: f64) {
        self.highest = self.highest.max(rank);
        let node = &mut self.nodes[entry as usize];
        node.rank = rank;
        let place = node.place as usize;
        self.sift(place);
    }

    /// Behind all others, so that a search gets to them.
    fn set_last(&mut self, entry: Id) {
        self.set_rank(entry, self.highest + self.highest * f64::EPSILON);
    }

    #[inline]
    fn is_before(&self, one: Id, other: Id) -> bool {
        self.nodes[one as usize].rank < self.nodes[other as usize].rank
    }

    #[inline]
    fn set(&mut self, place: usize, entry: Id) {
        self.heap[place] = entry;
        self.nodes[entry as usize].place = place as u32;
    }

    /// Moves the entry at `place` to where its rank belongs.
    fn sift(&mut self, mut place: usize) {
        let entry = self.heap[place];
        while place > 0 {
            let above = (place - 1) / 2;
            if !self.is_before(entry, self.heap[above]) {
                break;
            }
            self.set(place, self.heap[above]);
            place = above;
        }
        loop {
            let left = 2 * place + 1;
            if left >= self.heap.len() {
                break;
            }
            let right = left + 1;
            let is_right =
                right < self.heap.len() && self.is_before(self.heap[right], self.heap[left]);
            let below = if is_right { right } else { left };
            if !self.is_before(self.heap[below], entry) {
                break;
            }
            self.set(place, self.heap[below]);
            place = below;
        }
        self.set(place, entry);
    }
}

impl Policy for Gdsf {
    fn reserve(&mut self, entries: u32) -> bool {
        let more = (entries as usize).saturating_sub(self.heap.len());
        self.heap.try_reserve(more).is_ok() && list::reserve(&mut self.nodes, entries, Node::VACANT)
    }

    fn missed(&mut self, _: u64, _: &dyn Entries) {}

    fn hit(&mut self, entry: Id, of: &dyn Entries) {
        let uses = self.nodes[entry as usize].uses.saturating_add(1);
        self.nodes[entry as usize].uses = uses;
        self.set_rank(entry, self.rank_of(of.size(entry), uses));
    }

    fn in_use(&mut self, entry: Id, _: &dyn Entries) {
        self.set_last(entry);
    }

    fn insert(&mut self, entry: Id, of: &dyn Entries) {
        let size = of.size(entry);
        self.room.add(size);
        let (rank, place) = (self.rank_of(size, 1), self.heap.len());
        self.nodes[entry as usize] = Node { rank, uses: 1, place: place as u32 };
        self.heap.push(entry);
        self.set_rank(entry, rank);
    }

    fn remove(&mut self, entry: Id, evicted: bool, of: &dyn Entries) {
        let Node { rank, place, .. } = self.nodes[entry as usize];
        self.nodes[entry as usize] = Node::VACANT;
        self.room.sub(of.size(entry));
        self.heap.swap_remove(place as usize);
        if let Some(&moved) = self.heap.get(place as usize) {
            self.nodes[moved as usize].place = place;
            self.sift(place as usize);
        }
        if evicted {
            self.age = self.age.max(rank);
        }
    }

    fn victim(&mut self, of: &mut dyn Leaving) -> Option<Id> {
        self.room.asked();
        let least = *self.heap.first()?;
        if of.may_go(least) {
            return Some(least);
        }
        // It, and those that would follow it, are not to go: they are in use.
        for _ in 0..LOOKS {
            self.set_last(self.heap[0]);
            if of.may_go(self.heap[0]) {
                return Some(self.heap[0]);
            }
        }
        // The heap is in order only along its branches: of all that may go, the least.
        let free = self.heap.iter().copied().filter(|&entry| of.may_go(entry));
        free.min_by(|&one, &other| {
            self.nodes[one as usize].rank.total_cmp(&self.nodes[other as usize].rank)
        })
    }

    fn set_budget(&mut self, budget: Budget, _: &dyn Entries) {
        self.room.set_budget(budget);
    }

    fn bookkeeping_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.heap.capacity() * size_of::<Id>()
    }

    fn validate(&self, of: &dyn Entries) -> Result<(), String> {
        let mut load = Load::default();
        for (place, &entry) in self.heap.iter().enumerate() {
            let node = &self.nodes[entry as usize];
            load.add(of.size(entry));
            if node.place as usize != place {
                return Err(format!("entry {entry} is at {place}, not at {}", node.place));
            }
            if place > 0 && self.is_before(entry, self.heap[(place - 1) / 2]) {
                return Err(format!("entry {entry} at {place} is before the one above"));
            }
        }
        match load == self.room.load {
            true => Ok(()),
            false => Err(format!("there are {load:?}, not {:?}", self.room.load)),
        }
    }
}
