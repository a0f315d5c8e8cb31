//! Least recently used.

use super::list::{self, Link, Linked, List};
use super::{Budget, Entries, Id, Leaving, Policy};

impl Linked for Link {
    #[inline]
    fn link(&self) -> Link {
        *self
    }

    #[inline]
    fn link_mut(&mut self) -> &mut Link {
        self
    }
}

/// Gives up what was not used for longest. The goal is nothing to it.
pub struct Lru {
    nodes: Vec<Link>,
    entries: List,
}

impl Lru {
    /// Without entries.
    pub const fn new() -> Lru {
        Lru { nodes: Vec::new(), entries: List::EMPTY }
    }
}

impl Default for Lru {
    fn default() -> Lru {
        Lru::new()
    }
}

impl Policy for Lru {
    fn reserve(&mut self, entries: u32) -> bool {
        list::reserve(&mut self.nodes, entries, Link::FREE)
    }

    fn missed(&mut self, _: u64, _: &dyn Entries) {}

    #[inline]
    fn hit(&mut self, entry: Id, _: &dyn Entries) {
        self.entries.renew(&mut self.nodes, entry);
    }

    #[inline]
    fn insert(&mut self, entry: Id, _: &dyn Entries) {
        self.entries.push(&mut self.nodes, entry);
    }

    #[inline]
    fn remove(&mut self, entry: Id, _: bool, _: &dyn Entries) {
        self.entries.remove(&mut self.nodes, entry);
    }

    #[inline]
    fn victim(&mut self, of: &mut dyn Leaving) -> Option<Id> {
        self.entries.find_oldest(&self.nodes, &mut |entry| of.may_go(entry))
    }

    fn set_budget(&mut self, _: Budget, _: &dyn Entries) {}

    fn bookkeeping_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Link>()
    }

    fn validate(&self, _: &dyn Entries) -> Result<(), String> {
        self.entries.check(&self.nodes).map(|_| ())
    }
}
