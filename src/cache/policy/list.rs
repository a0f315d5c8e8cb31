//! Lists by number: the links lie in the nodes, a list is two ends and a count.

use super::Id;

/// No node.
pub const NONE: u32 = u32::MAX;

/// A node's place in the list it is in.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    newer: u32,
    older: u32,
}

impl Link {
    /// In no list.
    pub const FREE: Link = Link { newer: NONE, older: NONE };
}

/// A node that can hang in a list.
pub trait Linked {
    /// Its place.
    fn link(&self) -> Link;
    /// Its place, to change it.
    fn link_mut(&mut self) -> &mut Link;
}

/// Nodes in order, from the newest to the oldest.
#[derive(Clone, Copy, Debug)]
pub struct List {
    newest: u32,
    oldest: u32,
    count: u32,
}

impl List {
    /// Without nodes.
    pub const EMPTY: List = List { newest: NONE, oldest: NONE, count: 0 };

    /// The first to go, or [`NONE`].
    #[inline]
    pub fn oldest(&self) -> Id {
        self.oldest
    }

    /// The last to go, or [`NONE`].
    #[inline]
    pub fn newest(&self) -> Id {
        self.newest
    }

    /// How many there are.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Puts a node that is in no list at the newer end.
    #[inline]
    pub fn push<N: Linked>(&mut self, nodes: &mut [N], node: Id) {
        *nodes[node as usize].link_mut() = Link { newer: NONE, older: self.newest };
        match self.newest {
            NONE => self.oldest = node,
            newest => nodes[newest as usize].link_mut().newer = node,
        }
        self.newest = node;
        self.count += 1;
    }

    /// Takes a node of this list out.
    #[inline]
    pub fn remove<N: Linked>(&mut self, nodes: &mut [N], node: Id) {
        let Link { newer, older } = nodes[node as usize].link();
        match newer {
            NONE => self.newest = older,
            newer => nodes[newer as usize].link_mut().older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => nodes[older as usize].link_mut().newer = newer,
        }
        self.count -= 1;
    }

    /// Moves a node of this list to the newer end.
    #[inline]
    pub fn renew<N: Linked>(&mut self, nodes: &mut [N], node: Id) {
        if self.newest == node {
            return;
        }
        let Link { newer, older } = nodes[node as usize].link();
        // There is one, for this is not the newest.
        nodes[newer as usize].link_mut().older = older;
        match older {
            NONE => self.oldest = newer,
            older => nodes[older as usize].link_mut().newer = newer,
        }
        nodes[self.newest as usize].link_mut().newer = node;
        *nodes[node as usize].link_mut() = Link { newer: NONE, older: self.newest };
        self.newest = node;
    }

    /// Moves a node of this list to the older end.
    pub fn age<N: Linked>(&mut self, nodes: &mut [N], node: Id) {
        if self.oldest == node {
            return;
        }
        self.remove(nodes, node);
        *nodes[node as usize].link_mut() = Link { newer: self.oldest, older: NONE };
        match self.oldest {
            NONE => self.newest = node,
            oldest => nodes[oldest as usize].link_mut().older = node,
        }
        self.oldest = node;
        self.count += 1;
    }

    /// The next newer node, or [`NONE`].
    #[inline]
    pub fn newer<N: Linked>(nodes: &[N], node: Id) -> Id {
        nodes[node as usize].link().newer
    }

    /// The oldest node that `may` allows.
    #[inline]
    pub fn find_oldest<N: Linked>(
        &self,
        nodes: &[N],
        mut may: impl FnMut(Id) -> bool,
    ) -> Option<Id> {
        let mut node = self.oldest;
        while node != NONE && !may(node) {
            node = List::newer(nodes, node);
        }
        (node != NONE).then_some(node)
    }

    /// Its nodes, the oldest first. An error when the links do not fit together.
    pub fn check<N: Linked>(&self, nodes: &[N]) -> Result<Vec<Id>, String> {
        let (mut seen, mut older, mut node) = (Vec::new(), NONE, self.oldest);
        while node != NONE {
            let link = nodes.get(node as usize).ok_or(format!("node {node} is none"))?.link();
            if link.older != older || seen.len() >= nodes.len() {
                return Err(format!("node {node} is behind {older} and says {}", link.older));
            }
            seen.push(node);
            (older, node) = (node, link.newer);
        }
        match (older == self.newest, seen.len() == self.count as usize) {
            (true, true) => Ok(seen),
            _ => Err(format!("{self:?} ends at {older} after {}", seen.len())),
        }
    }
}

/// Room for nodes with numbers below `count`, filled up with `vacant`. False without memory.
pub fn reserve<N: Clone>(nodes: &mut Vec<N>, count: u32, vacant: N) -> bool {
    let count = count as usize;
    if count > nodes.capacity() {
        // Who asks for many at once knows how many there will be.
        let more = count - nodes.len();
        let reserved = if more == 1 { nodes.try_reserve(1) } else { nodes.try_reserve_exact(more) };
        if reserved.is_err() {
            return false;
        }
    }
    if count > nodes.len() {
        nodes.resize(nodes.capacity().max(count), vacant);
    }
    true
}
