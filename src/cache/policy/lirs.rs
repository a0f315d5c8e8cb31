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
use super::load::{Budget, Load, Room};
use super::sketch::Short;
use super::twos::Twos;
use super::{Entries, Id, Leaving, Policy};

/// The queue's part of the room: one in so many.
const HIGH: u64 = 100;
/// Ghosts for each entry.
const GHOSTS: u64 = 2;

/// What a node is. All but those that are `High` are on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the queue alone.
    High,
    /// In the queue and on the stack.
    Stacked,
    Low,
    Ghost,
}

/// An entry, or a ghost.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Its place in the queue, or among the ghosts.
    link: Link,
    /// The entry's number, or the ghost's key.
    name: u32,
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
    /// The nodes' states.
    states: Twos,
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
            states: Twos::new(),
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
    fn state(&self, node: u32) -> State {
        match self.states.get(node) {
            0 => State::High,
            1 => State::Stacked,
            2 => State::Low,
            _ => State::Ghost,
        }
    }

    #[inline]
    fn set_state(&mut self, node: u32, state: State) {
        self.states.set(node, state as u8);
    }

    /// Puts a node on top of the stack, where it may be already, as its state until now says.
    #[inline]
    fn stack_top(&mut self, node: u32, state: State) {
        match state {
            State::High => self.stack.push(&mut self.places, node),
            _ => self.stack.renew(&mut self.places, node),
        }
    }

    /// Takes what is below the lowest low entry off the stack.
    fn prune(&mut self) {
        loop {
            let node = self.stack.oldest();
            if node == NONE {
                return;
            }
            match self.state(node) {
                State::Ghost => self.forget(node),
                State::Stacked => {
                    self.stack.remove(&mut self.places, node);
                    self.set_state(node, State::High);
                }
                State::Low | State::High => return,
            }
        }
    }

    /// Makes low entries high until they have no more than they may, but for the last.
    fn demote(&mut self, of: &dyn Entries) {
        while self.low_load() > self.low_max() && self.low.entries > 1 {
            self.prune();
            self.make_high(self.stack.oldest(), of);
        }
        self.prune();
    }

    /// Makes a low entry high, off the stack.
    fn make_high(&mut self, node: u32, of: &dyn Entries) {
        self.low.sub(of.size(self.nodes[node as usize].name));
        self.stack.remove(&mut self.places, node);
        self.queue.push(&mut self.nodes, node);
        self.set_state(node, State::High);
    }

    /// By a quarter, or to as many as there will be: ghosts are more than entries, and half of the
    /// nodes unused would be most of what there is.
    #[cold]
    fn grow(&mut self) -> bool {
        let now = self.nodes.len();
        let most = self.node_of.len() * (1 + GHOSTS as usize);
        let more = (now / 4).min(most.saturating_sub(now)).max(16);
        self.reserve_nodes(more)
    }

    fn reserve_nodes(&mut self, more: usize) -> bool {
        self.nodes.try_reserve_exact(more).is_ok()
            && self.places.try_reserve_exact(more).is_ok()
            && self.states.reserve(self.nodes.len() + more)
    }

    /// For how many nodes there is memory.
    fn held(&self) -> usize {
        self.nodes.capacity().min(self.places.capacity()).min(self.states.held())
    }

    fn forget(&mut self, ghost: u32) {
        self.stack.remove(&mut self.places, ghost);
        self.ghosts.remove(&mut self.nodes, ghost);
        let hash = hash_of(self.key(ghost));
        self.ghost_by_key.remove(hash, ghost);
        self.vacant.push(&mut self.nodes, ghost);
    }

    /// The key of a ghost.
    fn key(&self, ghost: u32) -> Short {
        Short(self.nodes[ghost as usize].name)
    }

    /// The ghost of a key, which is one no more; it is still on the stack.
    fn revive(&mut self, key: Short) -> Option<u32> {
        let nodes = &self.nodes;
        let node = self.ghost_by_key.take(hash_of(key), |at| nodes[at as usize].name == key.0)?;
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
        list::reserve(&mut self.node_of, entries, NONE) && self.reserve_nodes(more)
    }

    fn missed(&mut self, _: u64, _: &dyn Entries) {}

    fn hit(&mut self, entry: Id, of: &dyn Entries) {
        let node = self.node_of[entry as usize];
        let state = self.state(node);
        if state == State::Low {
            let was_lowest = self.stack.oldest() == node;
            self.stack.renew(&mut self.places, node);
            if was_lowest {
                self.prune();
            }
        } else if state == State::Stacked || self.low.entries == 0 {
            self.queue.remove(&mut self.nodes, node);
            self.low.add(of.size(entry));
            self.stack_top(node, state);
            self.set_state(node, State::Low);
            self.demote(of);
        } else {
            self.stack_top(node, state);
            self.set_state(node, State::Stacked);
            self.queue.renew(&mut self.nodes, node);
        }
    }

    fn insert(&mut self, entry: Id, of: &dyn Entries) {
        let (key, size) = (of.key(entry), of.size(entry));
        self.room.add(size);
        let ghost = self.revive(key);
        let unit = self.room.measure(Load { bytes: size.bytes(), entries: 1 });
        // The first is low, whatever its bytes: the stack ends with it.
        let is_low =
            ghost.is_some() || self.low_load() + unit <= self.low_max() || self.low.entries == 0;
        let fresh = Node { link: Link::FREE, name: entry };
        let is_more = ghost.is_none() && self.vacant.count() == 0;
        if is_more && self.nodes.len() >= self.held() && !self.grow() {
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
        // A ghost is on the stack already.
        self.stack_top(node, if ghost.is_some() { State::Ghost } else { State::High });
        if is_low {
            self.low.add(size);
            self.set_state(node, State::Low);
            self.demote(of);
        } else {
            self.set_state(node, State::Stacked);
            self.queue.push(&mut self.nodes, node);
        }
    }

    fn remove(&mut self, entry: Id, evicted: bool, of: &dyn Entries) {
        let node = std::mem::replace(&mut self.node_of[entry as usize], NONE);
        let (state, size) = (self.state(node), of.size(entry));
        self.room.sub(size);
        match state {
            State::Low => self.low.sub(size),
            _ => self.queue.remove(&mut self.nodes, node),
        }
        let nodes = &self.nodes;
        let hash_at = |at: u32| hash_of(Short(nodes[at as usize].name));
        let is_stacked = state != State::High;
        let key = of.key(entry);
        if evicted && is_stacked && self.ghost_by_key.reserve(hash_of(key), hash_at) {
            // Several entries can have had the key.
            if let Some(older) = self.revive(key) {
                self.stack.remove(&mut self.places, older);
                self.vacant.push(&mut self.nodes, older);
            }
            self.nodes[node as usize].name = key.0;
            self.set_state(node, State::Ghost);
            self.ghosts.push(&mut self.nodes, node);
            self.ghost_by_key.insert(hash_of(key), node);
        } else {
            if is_stacked {
                self.stack.remove(&mut self.places, node);
            }
            self.vacant.push(&mut self.nodes, node);
        }
        self.prune();
        while u64::from(self.ghosts.count()) > self.room.load.entries.max(1) * GHOSTS {
            self.forget(self.ghosts.oldest());
            self.prune();
        }
    }

    fn victim(&mut self, of: &mut dyn Leaving) -> Option<Id> {
        self.room.asked();
        self.demote(of);
        let (nodes, states) = (&self.nodes, &self.states);
        let mut allowed = |node: u32| {
            states.get(node) != State::Ghost as u8 && of.may_go(nodes[node as usize].name)
        };
        let node = self
            .queue
            .find_oldest(nodes, &mut allowed)
            .or_else(|| self.stack.find_oldest(&self.places, &mut allowed))?;
        Some(self.nodes[node as usize].name)
    }

    fn set_budget(&mut self, budget: Budget, of: &dyn Entries) {
        self.room.set_budget(budget);
        self.demote(of);
    }

    fn bookkeeping_bytes(&self) -> usize {
        self.node_of.capacity() * size_of::<u32>()
            + self.nodes.capacity() * size_of::<Node>()
            + self.places.capacity() * size_of::<Link>()
            + self.states.bytes()
            + self.ghost_by_key.bytes()
    }

    fn validate(&self, of: &dyn Entries) -> Result<(), String> {
        let (mut low, mut all) = (Load::default(), Load::default());
        let stack = self.stack.check(&self.places)?;
        if let Some(&lowest) = stack.first()
            && self.state(lowest) != State::Low
        {
            return Err(format!("the stack ends with {:?}", self.state(lowest)));
        }
        let mut stacked = 0;
        for &node in &self.queue.check(&self.nodes)? {
            match self.state(node) {
                State::High => {}
                State::Stacked => stacked += 1,
                state => return Err(format!("node {node} is in the queue and {state:?}")),
            }
        }
        for &node in &self.ghosts.check(&self.nodes)? {
            let (state, key) = (self.state(node), self.key(node));
            let same = |other: u32| self.key(other) == key;
            if state != State::Ghost || self.ghost_by_key.find(hash_of(key), same) != Some(node) {
                return Err(format!("node {node} is among the ghosts and {state:?}, or not found"));
            }
        }
        for (entry, &node) in self.node_of.iter().enumerate().filter(|(_, node)| **node != NONE) {
            let (name, state) = (self.nodes[node as usize].name, self.state(node));
            if name as usize != entry || state == State::Ghost {
                return Err(format!("entry {entry} has a node of {name}, {state:?}"));
            }
            all.add(of.size(name));
            if state == State::Low {
                low.add(of.size(name));
            }
        }
        let on_stack = stacked + low.entries as usize + self.ghosts.count() as usize;
        if on_stack != stack.len() || stack.iter().any(|&node| self.state(node) == State::High) {
            return Err(format!("{} are on the stack, {on_stack} say so", stack.len()));
        }
        let vacant = self.vacant.check(&self.nodes)?.len();
        let nodes = self.nodes.len();
        let sum = all.entries as usize + self.ghosts.count() as usize + vacant;
        if low != self.low || all != self.room.load || sum != nodes {
            return Err(format!("{low:?} of {all:?}, {sum} of {nodes}, not {:?}", self.room));
        }
        Ok(())
    }
}
