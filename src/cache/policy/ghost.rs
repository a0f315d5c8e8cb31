//! Ghosts: keys of entries that were evicted, in the order they were, with their bytes.

use super::super::index::Index;
use super::list::{Link, Linked, List, NONE};
use super::load::{Load, Size};
use super::sketch::Short;

#[derive(Clone, Copy, Debug)]
struct Node {
    link: Link,
    key: Short,
    size: Size,
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

/// Keys that are remembered. Two keys with the same short number are one here.
pub struct Ghosts {
    nodes: Vec<Node>,
    /// Nodes that are not used, by their link to the newer.
    vacant: List,
    by_key: Index,
    list: List,
    load: Load,
}

/// The table's hash of a key: its place is in the lower bits, its mark in the upper ones.
#[inline]
pub fn hash_of(key: Short) -> u64 {
    u64::from(key.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Ghosts {
    pub const fn new() -> Ghosts {
        Ghosts {
            nodes: Vec::new(),
            vacant: List::EMPTY,
            by_key: Index::new(),
            list: List::EMPTY,
            load: Load { bytes: 0, entries: 0 },
        }
    }

    pub fn load(&self) -> Load {
        self.load
    }

    /// Remembers a key as the newest. Without memory the oldest is forgotten for it.
    pub fn push(&mut self, key: Short, size: Size) {
        self.take(key);
        if !self.reserve(key) {
            self.pop();
            if !self.reserve(key) {
                return;
            }
        }
        let node = Node { link: Link::FREE, key, size };
        let at = match self.vacant.newest() {
            NONE => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
            at => {
                self.vacant.remove(&mut self.nodes, at);
                self.nodes[at as usize] = node;
                at
            }
        };
        self.list.push(&mut self.nodes, at);
        self.load.add(size);
        self.by_key.insert(hash_of(key), at);
    }

    fn reserve(&mut self, key: Short) -> bool {
        let nodes = &self.nodes;
        self.by_key.reserve(hash_of(key), |at| hash_of(nodes[at as usize].key))
            && (self.vacant.count() > 0 || self.nodes.try_reserve(1).is_ok())
    }

    /// Forgets a key. Whether it was remembered.
    pub fn take(&mut self, key: Short) -> bool {
        if self.load.entries == 0 {
            return false;
        }
        let nodes = &self.nodes;
        let found = self.by_key.take(hash_of(key), |at| nodes[at as usize].key == key);
        found.inspect(|&at| self.drop_node(at)).is_some()
    }

    /// Forgets the oldest.
    pub fn pop(&mut self) {
        let oldest = self.list.oldest();
        if oldest != NONE {
            self.take(self.nodes[oldest as usize].key);
        }
    }

    fn drop_node(&mut self, at: u32) {
        self.load.sub(self.nodes[at as usize].size);
        self.list.remove(&mut self.nodes, at);
        self.vacant.push(&mut self.nodes, at);
    }

    pub fn bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.by_key.bytes()
    }

    pub fn validate(&self) -> Result<(), String> {
        let keys = self.list.check(&self.nodes)?;
        let mut sum = Load::default();
        for &at in &keys {
            let Node { key, size, .. } = self.nodes[at as usize];
            sum.add(size);
            let same = |other: u32| self.nodes[other as usize].key == key;
            if self.by_key.find(hash_of(key), same) != Some(at) {
                return Err(format!("ghost {at} is not found by its key"));
            }
        }
        let vacant = self.vacant.check(&self.nodes)?.len();
        let counts = (keys.len(), keys.len() + vacant, sum);
        if counts != (self.by_key.len(), self.nodes.len(), self.load) {
            return Err(format!("ghosts: {counts:?}, {vacant} vacant, {:?}", self.load));
        }
        Ok(())
    }
}
