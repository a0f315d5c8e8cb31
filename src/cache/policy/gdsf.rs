//! GDSF: uses and worth for the room they take, and an age that rises with what is given up
//! (Cherkasova: "Improving WWW proxies performance with greedy-dual-size-frequency caching
//! policy", HP Laboratories report HPL-98-69R1, 1998).

use std::collections::BTreeSet;

use super::load::{Budget, Room, Size};
use super::{Goal, Id, Policy};

#[derive(Clone, Copy, Debug)]
struct Node {
    size: Size,
    uses: u32,
    /// Its rank, as bits: they are in the order of the numbers, none of which is negative.
    rank: u64,
}

/// Gives up what is worth least for its room. Takes the logarithm of the entries per access,
/// and memory for each: a yardstick, not for use in a cache.
pub struct Gdsf {
    goal: Goal,
    nodes: Vec<Option<Node>>,
    ranks: BTreeSet<(u64, Id)>,
    /// The rank of what went last.
    age: f64,
    room: Room,
}

impl Gdsf {
    /// Without entries.
    pub const fn new(goal: Goal) -> Gdsf {
        Gdsf { goal, nodes: Vec::new(), ranks: BTreeSet::new(), age: 0.0, room: Room::new() }
    }

    fn enter(&mut self, entry: Id, size: Size, uses: u32) {
        let room = self.room.room_of(size) as f64;
        let worth = f64::from(uses) * self.goal.worth(size.bytes()) as f64 / room;
        let rank = (self.age + worth).to_bits();
        self.nodes[entry as usize] = Some(Node { size, uses, rank });
        self.ranks.insert((rank, entry));
    }

    fn leave(&mut self, entry: Id) -> Option<Node> {
        let node = self.nodes[entry as usize].take()?;
        self.ranks.remove(&(node.rank, entry));
        Some(node)
    }
}

impl Policy for Gdsf {
    fn reserve(&mut self, entries: u32) -> bool {
        super::list::reserve(&mut self.nodes, entries, None)
    }

    fn missed(&mut self, _: u64) {}

    fn hit(&mut self, entry: Id) {
        if let Some(Node { size, uses, .. }) = self.leave(entry) {
            self.enter(entry, size, uses.saturating_add(1));
        }
    }

    fn insert(&mut self, entry: Id, _: u64, bytes: u64) {
        let size = Size::of(bytes);
        self.room.add(size);
        self.enter(entry, size, 1);
    }

    fn remove(&mut self, entry: Id, evicted: bool) {
        if let Some(Node { size, rank, .. }) = self.leave(entry) {
            self.room.sub(size);
            if evicted {
                self.age = f64::from_bits(rank);
            }
        }
    }

    fn victim(&mut self, may: &mut dyn FnMut(Id) -> bool) -> Option<Id> {
        self.room.asked();
        self.ranks.iter().map(|&(_, entry)| entry).find(|&entry| may(entry))
    }

    fn set_budget(&mut self, bytes: u64, entries: u64) {
        self.room.set_budget(Budget { bytes, entries });
    }

    fn bookkeeping_bytes(&self) -> usize {
        // A tree's nodes are about two thirds full.
        self.nodes.capacity() * size_of::<Option<Node>>()
            + self.ranks.len() * size_of::<(u64, Id)>() * 3 / 2
    }

    fn validate(&self) -> Result<(), String> {
        let known = self
            .nodes
            .iter()
            .zip(0..)
            .filter_map(|(node, entry)| Some((node.as_ref()?.rank, entry)));
        match known.collect::<BTreeSet<_>>() == self.ranks {
            true => Ok(()),
            false => Err("entries and their ranks are not the same".into()),
        }
    }
}
