//! LIRS: entries that come back soon are kept, whatever was used last (Jiang, Zhang: "LIRS: an
//! efficient low inter-reference recency set replacement policy to improve buffer cache
//! performance", SIGMETRICS 2002).
//!
//! A stack has keys by last use. Its *low* entries came back while they were on it and are not
//! given up; *high* ones are in a queue, a hundredth of the room, and go in its order. What left
//! stays on the stack as a ghost: if it comes back while it is there it is low, and the stack's
//! lowest low entry becomes high. The stack always ends with a low one.

use super::super::index::Index;
use super::ghost::hash_of;
use super::list::{self, Link, Linked, List, NONE};
use super::load::{Budget, Load, Room, Size};
use super::sketch::Short;
use super::{Id, Policy};

/// The queue's part of the room: one in so many.
const HIGH: u64 = 100;
/// Ghosts for each entry.
const GHOSTS: u64 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Low,
    High,
    Ghost,
}

/// A key on the stack, or in a queue, or both.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Its place in the queue, or among the ghosts.
    link: Link,
    key: Short,
    size: Size,
    entry: Id,
    state: State,
    is_stacked: bool,
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

/// Keeps what comes back soon.
pub struct Lirs {
    /// The node of each entry.
    node_of: Vec<u32>,
    nodes: Vec<Node>,
    /// The nodes' places on the stack.
    places: Vec<Link>,
    vacant: List,
    ghost_by_key: Index,
    stack: List,
    queue: List,
    ghosts: List,
    low: Load,
    room: Room,
}

impl Lirs {
    /// Without entries.
    pub const fn new() -> Lirs {
        Lirs {
            node_of: Vec::new(),
            nodes: Vec::new(),
            places: Vec::new(),
            vacant: List::EMPTY,
            ghost_by_key: Index::new(),
            stack: List::EMPTY,
            queue: List::EMPTY,
            ghosts: List::EMPTY,
            low: Load { bytes: 0, entries: 0 },
            room: Room::new(),
        }
    }

    /// What low entries may have.
    fn low_max(&self) -> u64 {
        let Budget { bytes, entries } = self.room.full();
        let full = self.room.measure(Load { bytes, entries });
        full - (full / HIGH).max(1).min(full)
    }

    fn low_load(&self) -> u64 {
        self.room.measure(self.low)
    }

    #[inline]
    fn stack_top(&mut self, node: u32) {
        if self.nodes[node as usize].is_stacked {
            self.stack.renew(&mut self.places, node);
        } else {
            self.nodes[node as usize].is_stacked = true;
            self.stack.push(&mut self.places, node);
        }
    }

    #[inline]
    fn unstack(&mut self, node: u32) {
        if std::mem::take(&mut self.nodes[node as usize].is_stacked) {
            self.stack.remove(&mut self.places, node);
        }
    }

    /// Takes what is below the lowest low entry off the stack.
    fn prune(&mut self) {
        loop {
            let node = self.stack.oldest();
            if node == NONE {
                return;
            }
            match self.nodes[node as usize].state {
                State::Low => return,
                State::High => self.unstack(node),
                State::Ghost => self.forget(node),
            }
        }
    }

    /// Makes low entries high until they have no more than they may, but for the last.
    fn demote(&mut self) {
        while self.low_load() > self.low_max() && self.low.entries > 1 {
            self.prune();
            self.make_high(self.stack.oldest());
        }
        self.prune();
    }

    /// Makes a low entry high, off the stack.
    fn make_high(&mut self, node: u32) {
        let at = &mut self.nodes[node as usize];
        at.state = State::High;
        self.low.sub(at.size);
        self.unstack(node);
        self.queue.push(&mut self.nodes, node);
    }

    /// By a quarter: ghosts are more than entries, and half of the nodes unused would be most of
    /// what there is.
    #[cold]
    fn grow(&mut self) -> bool {
        let more = (self.nodes.len() / 4).max(16);
        self.nodes.try_reserve_exact(more).is_ok() && self.places.try_reserve_exact(more).is_ok()
    }

    fn forget(&mut self, ghost: u32) {
        self.unstack(ghost);
        self.ghosts.remove(&mut self.nodes, ghost);
        let hash = hash_of(self.nodes[ghost as usize].key);
        self.ghost_by_key.remove(hash, ghost);
        self.vacant.push(&mut self.nodes, ghost);
    }

    /// The ghost of a key, which is one no more.
    fn revive(&mut self, key: Short) -> Option<u32> {
        let nodes = &self.nodes;
        let node = self.ghost_by_key.take(hash_of(key), |at| nodes[at as usize].key == key)?;
        self.ghosts.remove(&mut self.nodes, node);
        Some(node)
    }
}

impl Default for Lirs {
    fn default() -> Lirs {
        Lirs::new()
    }
}

impl Policy for Lirs {
    fn reserve(&mut self, entries: u32) -> bool {
        // For the ghosts there is room when there is room.
        let more = (entries as usize).saturating_sub(self.nodes.len());
        list::reserve(&mut self.node_of, entries, NONE)
            && self.nodes.try_reserve_exact(more).is_ok()
            && self.places.try_reserve_exact(more).is_ok()
    }

    fn missed(&mut self, _: u64) {}

    fn hit(&mut self, entry: Id) {
        let node = self.node_of[entry as usize];
        let Node { state, size, is_stacked, .. } = self.nodes[node as usize];
        if state == State::Low {
            let was_lowest = self.stack.oldest() == node;
            self.stack_top(node);
            if was_lowest {
                self.prune();
            }
        } else if is_stacked || self.low.entries == 0 {
            self.queue.remove(&mut self.nodes, node);
            self.nodes[node as usize].state = State::Low;
            self.low.add(size);
            self.stack_top(node);
            self.demote();
        } else {
            self.stack_top(node);
            self.queue.renew(&mut self.nodes, node);
        }
    }

    fn insert(&mut self, entry: Id, key: u64, bytes: u64) {
        let (key, size) = (Short::of(key), Size::of(bytes));
        self.room.add(size);
        let ghost = self.revive(key);
        let unit = self.room.measure(Load { bytes: size.bytes(), entries: 1 });
        // The first is low, whatever its bytes: the stack ends with it.
        let is_low =
            ghost.is_some() || self.low_load() + unit <= self.low_max() || self.low.entries == 0;
        let state = if is_low { State::Low } else { State::High };
        let is_stacked = ghost.is_some();
        let fresh = Node { link: Link::FREE, key, size, entry, state, is_stacked };
        let held = self.nodes.capacity().min(self.places.capacity());
        let room = self.nodes.len() < held || self.grow();
        if ghost.is_none() && self.vacant.count() == 0 && !room {
            self.forget(self.ghosts.oldest());
            self.prune();
        }
        let node = match (ghost, self.vacant.newest()) {
            (Some(node), _) => node,
            (None, NONE) => {
                self.nodes.push(fresh);
                self.places.push(Link::FREE);
                self.nodes.len() as u32 - 1
            }
            (None, node) => {
                self.vacant.remove(&mut self.nodes, node);
                node
            }
        };
        self.nodes[node as usize] = fresh;
        self.node_of[entry as usize] = node;
        self.stack_top(node);
        if is_low {
            self.low.add(size);
            self.demote();
        } else {
            self.queue.push(&mut self.nodes, node);
        }
    }

    fn remove(&mut self, entry: Id, evicted: bool) {
        let node = std::mem::replace(&mut self.node_of[entry as usize], NONE);
        let Node { state, size, is_stacked, key, .. } = self.nodes[node as usize];
        self.room.sub(size);
        match state {
            State::Low => self.low.sub(size),
            _ => self.queue.remove(&mut self.nodes, node),
        }
        let nodes = &self.nodes;
        let remembered = evicted
            && is_stacked
            && self.ghost_by_key.reserve(hash_of(key), |at| hash_of(nodes[at as usize].key));
        if remembered {
            // Several entries can have had the key.
            if let Some(older) = self.revive(key) {
                self.unstack(older);
                self.vacant.push(&mut self.nodes, older);
            }
            self.nodes[node as usize].state = State::Ghost;
            self.ghosts.push(&mut self.nodes, node);
            self.ghost_by_key.insert(hash_of(key), node);
        } else {
            self.unstack(node);
            self.vacant.push(&mut self.nodes, node);
        }
        self.prune();
        while u64::from(self.ghosts.count()) > self.room.load.entries.max(1) * GHOSTS {
            self.forget(self.ghosts.oldest());
            self.prune();
        }
    }

    fn victim(&mut self, may: &mut dyn FnMut(Id) -> bool) -> Option<Id> {
        self.room.asked();
        self.demote();
        let nodes = &self.nodes;
        let mut allowed = |node: u32| {
            let node = &nodes[node as usize];
            node.state != State::Ghost && may(node.entry)
        };
        let node = self
            .queue
            .find_oldest(nodes, &mut allowed)
            .or_else(|| self.stack.find_oldest(&self.places, &mut allowed))?;
        Some(self.nodes[node as usize].entry)
    }

    fn set_budget(&mut self, bytes: u64, entries: u64) {
        self.room.set_budget(Budget { bytes, entries });
        self.demote();
    }

    fn bookkeeping_bytes(&self) -> usize {
        self.node_of.capacity() * size_of::<u32>()
            + self.nodes.capacity() * size_of::<Node>()
            + self.places.capacity() * size_of::<Link>()
            + self.ghost_by_key.bytes()
    }

    fn validate(&self) -> Result<(), String> {
        let (mut low, mut all) = (Load::default(), Load::default());
        let stack = self.stack.check(&self.places)?;
        for &node in &stack {
            let node = &self.nodes[node as usize];
            if !node.is_stacked {
                return Err(format!("{node:?} is on the stack and does not know"));
            }
            if node.state == State::Low {
                low.add(node.size);
            }
        }
        if let Some(&lowest) = stack.first()
            && self.nodes[lowest as usize].state != State::Low
        {
            return Err(format!("the stack ends with {:?}", self.nodes[lowest as usize]));
        }
        for (list, state) in [(self.queue, State::High), (self.ghosts, State::Ghost)] {
            for node in list.check(&self.nodes)? {
                let node = &self.nodes[node as usize];
                if node.state != state || (state == State::Ghost && !node.is_stacked) {
                    return Err(format!("{node:?} is in the list of {state:?}"));
                }
            }
        }
        let stacked = self.nodes.iter().filter(|node| node.is_stacked).count();
        for (entry, &node) in self.node_of.iter().enumerate().filter(|(_, node)| **node != NONE) {
            let node = &self.nodes[node as usize];
            if node.entry as usize != entry || node.state == State::Ghost {
                return Err(format!("entry {entry} has {node:?}"));
            }
            all.add(node.size);
        }
        let vacant = self.vacant.check(&self.nodes)?.len();
        let nodes = self.nodes.len();
        let sum = all.entries as usize + self.ghosts.count() as usize + vacant;
        if low != self.low || all != self.room.load || sum != nodes || stacked != stack.len() {
            return Err(format!("{low:?} of {all:?}, {sum} of {nodes}, not {:?}", self.room));
        }
        Ok(())
    }
}
