//! SIEVE: arrival order, and a hand that gives up what was not used since it last came by
//! (Zhang, Yang, Yue, Vigfusson, Rashmi: "SIEVE is simpler than LRU: an efficient turn-key
//! eviction algorithm for web caches", NSDI 2024).

use super::list::{self, Link, Linked, List, NONE};
use super::{Budget, Entries, Id, Leaving, Policy};

#[derive(Clone, Copy, Debug)]
struct Node {
    link: Link,
    used: bool,
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

/// Gives up what was not used since the hand last came by.
pub struct Sieve {
    nodes: Vec<Node>,
    entries: List,
    hand: Id,
}

impl Sieve {
    /// Without entries.
    pub const fn new() -> Sieve {
        Sieve { nodes: Vec::new(), entries: List::EMPTY, hand: NONE }
    }
}

impl Default for Sieve {
    fn default() -> Sieve {
        Sieve::new()
    }
}

impl Policy for Sieve {
    fn reserve(&mut self, entries: u32) -> bool {
        list::reserve(&mut self.nodes, entries, Node { link: Link::FREE, used: false })
    }

    fn missed(&mut self, _: u64, _: &dyn Entries) {}

    fn hit(&mut self, entry: Id, _: &dyn Entries) {
        self.nodes[entry as usize].used = true;
    }

    fn insert(&mut self, entry: Id, _: &dyn Entries) {
        self.nodes[entry as usize].used = false;
        self.entries.push(&mut self.nodes, entry);
    }

    fn remove(&mut self, entry: Id, evicted: bool, _: &dyn Entries) {
        if self.hand == entry {
            let next = List::newer(&self.nodes, entry);
            // The newest came for the room that this one leaves: behind it was the end.
            let was_last = evicted && next == self.entries.newest();
            self.hand = if was_last { NONE } else { next };
        }
        self.entries.remove(&mut self.nodes, entry);
    }

    fn victim(&mut self, of: &mut dyn Leaving) -> Option<Id> {
        // Once round to see what was not used, once more for what was.
        for step in 0..3 * u64::from(self.entries.count()) + 1 {
            let round = step / (u64::from(self.entries.count()) * 2 + 1);
            if self.hand == NONE {
                self.hand = self.entries.oldest();
            }
            let entry = self.hand;
            if entry == NONE {
                return None;
            }
            let used = std::mem::take(&mut self.nodes[entry as usize].used);
            // The newest came after the hand would have found its victim.
            let is_newest = entry == self.entries.newest() && self.entries.count() > 1;
            let is_spared = used || (is_newest && round == 0);
            if !is_spared && of.may_go(entry) {
                return Some(entry);
            }
            self.hand = List::newer(&self.nodes, entry);
        }
        None
    }

    fn set_budget(&mut self, _: Budget, _: &dyn Entries) {}

    fn bookkeeping_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
    }

    fn validate(&self, _: &dyn Entries) -> Result<(), String> {
        let entries = self.entries.check(&self.nodes)?;
        match self.hand == NONE || entries.contains(&self.hand) {
            true => Ok(()),
            false => Err(format!("the hand is at {}, which is no entry", self.hand)),
        }
    }
}
