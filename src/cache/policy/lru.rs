//! Least recently used.

use super::{Id, Policy};

const NONE: Id = Id::MAX;

#[derive(Clone, Copy)]
struct Node {
    /// Towards the most recently used.
    newer: Id,
    older: Id,
}

/// Evicts what was not used for longest.
pub struct Lru {
    nodes: Vec<Node>,
    newest: Id,
    oldest: Id,
}

impl Lru {
    /// Without entries.
    pub fn new() -> Lru {
        Lru { nodes: Vec::new(), newest: NONE, oldest: NONE }
    }

    fn unlink(&mut self, entry: Id) {
        let Node { newer, older } = self.nodes[entry as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
    }

    fn link(&mut self, entry: Id) {
        self.nodes[entry as usize] = Node { newer: NONE, older: self.newest };
        match self.newest {
            NONE => self.oldest = entry,
            newest => self.nodes[newest as usize].newer = entry,
        }
        self.newest = entry;
    }
}

impl Default for Lru {
    fn default() -> Lru {
        Lru::new()
    }
}

impl Policy for Lru {
    fn reserve(&mut self, entries: u32) -> bool {
        let more = (entries as usize).saturating_sub(self.nodes.len());
        if self.nodes.try_reserve_exact(more).is_err() {
            return false;
        }
        let unused = Node { newer: NONE, older: NONE };
        self.nodes.resize(self.nodes.len() + more, unused);
        true
    }

    fn missed(&mut self, _: u64) {}

    fn hit(&mut self, entry: Id) {
        if self.newest != entry {
            self.unlink(entry);
            self.link(entry);
        }
    }

    fn insert(&mut self, entry: Id, _: u64, _: u64) {
        self.link(entry);
    }

    fn remove(&mut self, entry: Id, _: bool) {
        self.unlink(entry);
    }

    fn victim(&mut self, may: &mut dyn FnMut(Id) -> bool) -> Option<Id> {
        let mut entry = self.oldest;
        while entry != NONE {
            if may(entry) {
                return Some(entry);
            }
            entry = self.nodes[entry as usize].newer;
        }
        None
    }

    fn set_budget(&mut self, _: u64, _: u64) {}

    fn bookkeeping_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
    }

    fn validate(&self) -> Result<(), String> {
        let (mut newer, mut entry) = (NONE, self.newest);
        for _ in 0..=self.nodes.len() {
            if entry == NONE {
                return if newer == self.oldest {
                    Ok(())
                } else {
                    Err("the oldest is another".into())
                };
            }
            if self.nodes[entry as usize].newer != newer {
                return Err(format!("entry {entry} does not know what is newer"));
            }
            (newer, entry) = (entry, self.nodes[entry as usize].older);
        }
        Err("the list has no end".into())
    }
}
