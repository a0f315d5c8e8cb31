//! ARC: what was used once, what was used more often, and a boundary that what left moves
//! (Megiddo, Modha: "ARC: a self-tuning, low overhead replacement cache", FAST 2003).

use super::ghost::Ghosts;
use super::list::{self, Link, Linked, List, NONE};
use super::load::{Budget, Load, Room, Size};
use super::sketch::Short;
use super::{Entries, Id, Leaving, Policy};

#[derive(Clone, Copy, Debug)]
struct Node {
    link: Link,
    key: Short,
    /// Its [`Size`], and in the bits that this leaves free its list.
    size_and_list: u32,
}

impl Node {
    const VACANT: Node = Node { link: Link::FREE, key: Short(0), size_and_list: 0 };

    #[inline]
    fn size(&self) -> Size {
        Size::from_bits(self.size_and_list)
    }

    #[inline]
    fn list(&self) -> usize {
        (self.size_and_list >> (u32::BITS - Size::SPARE)) as usize
    }

    #[inline]
    fn set_list(&mut self, list: usize) {
        self.size_and_list = self.size().bits() | (list as u32) << (u32::BITS - Size::SPARE);
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

const ONCE: usize = 0;
const OFTEN: usize = 1;

/// Gives up what was used once or what was used more often, whichever is missed less.
pub struct Arc {
    nodes: Vec<Node>,
    lists: [List; 2],
    loads: [Load; 2],
    /// What left each list.
    ghosts: [Ghosts; 2],
    /// What those used once may have.
    target: u64,
    /// The newest entry, which has no say in what goes for it, and whether it had left from
    /// those used often.
    fresh: (Id, bool),
    room: Room,
}

impl Arc {
    /// Without entries.
    pub const fn new() -> Arc {
        Arc {
            nodes: Vec::new(),
            lists: [List::EMPTY; 2],
            loads: [Load { bytes: 0, entries: 0 }; 2],
            ghosts: [Ghosts::new(), Ghosts::new()],
            target: 0,
            fresh: (NONE, false),
            room: Room::new(),
        }
    }

    #[inline]
    fn enter(&mut self, entry: Id, list: usize) {
        let node = &mut self.nodes[entry as usize];
        node.set_list(list);
        self.loads[list].add(node.size());
        self.lists[list].push(&mut self.nodes, entry);
    }

    #[inline]
    fn leave(&mut self, entry: Id) {
        let node = &self.nodes[entry as usize];
        let list = node.list();
        self.loads[list].sub(node.size());
        self.lists[list].remove(&mut self.nodes, entry);
    }

    fn load(&self, list: usize) -> u64 {
        self.room.measure(self.loads[list])
    }

    fn ghost_load(&self, list: usize) -> u64 {
        self.room.measure(self.ghosts[list].load())
    }

    /// What the cache is full with.
    fn full(&self) -> u64 {
        let Budget { bytes, entries } = self.room.full();
        self.room.measure(Load { bytes, entries })
    }
}

impl Default for Arc {
    fn default() -> Arc {
        Arc::new()
    }
}

impl Policy for Arc {
    fn reserve(&mut self, entries: u32) -> bool {
        list::reserve(&mut self.nodes, entries, Node::VACANT)
    }

    fn missed(&mut self, _: u64, _: &dyn Entries) {}

    #[inline]
    fn hit(&mut self, entry: Id, _: &dyn Entries) {
        if self.nodes[entry as usize].list() == OFTEN {
            self.lists[OFTEN].renew(&mut self.nodes, entry);
        } else {
            self.leave(entry);
            self.enter(entry, OFTEN);
        }
    }

    fn insert(&mut self, entry: Id, of: &dyn Entries) {
        let (key, size) = (of.key(entry), of.size(entry));
        let node = &mut self.nodes[entry as usize];
        (node.key, node.size_and_list) = (key, size.bits());
        self.room.add(size);
        let (once, often) = (self.ghost_load(ONCE).max(1), self.ghost_load(OFTEN).max(1));
        let unit = self.room.measure(Load { bytes: size.bytes(), entries: 1 });
        let scaled = |by: u64, of: u64| (u128::from(unit) * u128::from(by) / u128::from(of)) as u64;
        let list = if self.ghosts[ONCE].take(key) {
            self.target =
                self.target.saturating_add(unit.max(scaled(often, once))).min(self.full());
            self.fresh = (entry, false);
            OFTEN
        } else if self.ghosts[OFTEN].take(key) {
            self.target = self.target.saturating_sub(unit.max(scaled(once, often)));
            self.fresh = (entry, true);
            OFTEN
        } else {
            self.fresh = (entry, false);
            ONCE
        };
        self.enter(entry, list);
    }

    fn remove(&mut self, entry: Id, evicted: bool, _: &dyn Entries) {
        let node = self.nodes[entry as usize];
        self.leave(entry);
        self.room.sub(node.size());
        if self.fresh.0 == entry {
            self.fresh = (NONE, false);
        }
        if evicted {
            self.ghosts[node.list()].push(node.key, node.size());
            // What is there and what left: as much again as the cache has.
            let all = self.room.measure(self.room.load);
            while self.load(ONCE) + self.ghost_load(ONCE) > all && self.ghost_load(ONCE) > 0 {
                self.ghosts[ONCE].pop();
            }
            while self.ghost_load(ONCE) + self.ghost_load(OFTEN) > all {
                let list = if self.ghost_load(OFTEN) > 0 { OFTEN } else { ONCE };
                self.ghosts[list].pop();
            }
        }
    }

    fn victim(&mut self, of: &mut dyn Leaving) -> Option<Id> {
        self.room.asked();
        self.target = self.target.min(self.full());
        let (fresh, was_often) = self.fresh;
        let mut once = self.load(ONCE);
        if fresh != NONE && self.nodes[fresh as usize].list() == ONCE {
            let size = self.nodes[fresh as usize].size();
            once -= self.room.measure(Load { bytes: size.bytes(), entries: 1 });
        }
        let from_once = once > self.target || (was_often && once == self.target && once > 0);
        let order = if from_once { [ONCE, OFTEN] } else { [OFTEN, ONCE] };
        let mut not_fresh = |entry: Id| entry != fresh && of.may_go(entry);
        let victim = order
            .into_iter()
            .find_map(|list| self.lists[list].find_oldest(&self.nodes, &mut not_fresh));
        victim.or_else(|| (fresh != NONE && of.may_go(fresh)).then_some(fresh))
    }

    fn set_budget(&mut self, budget: Budget, _: &dyn Entries) {
        self.room.set_budget(budget);
        self.target = self.target.min(self.full());
    }

    fn bookkeeping_bytes(&self) -> usize {
        let ghosts: usize = self.ghosts.iter().map(Ghosts::bytes).sum();
        self.nodes.capacity() * size_of::<Node>() + ghosts
    }

    fn validate(&self, _: &dyn Entries) -> Result<(), String> {
        let mut all = Load::default();
        for list in [ONCE, OFTEN] {
            self.ghosts[list].validate()?;
            let mut sum = Load::default();
            for entry in self.lists[list].check(&self.nodes)? {
                let node = &self.nodes[entry as usize];
                if node.list() != list {
                    return Err(format!("entry {entry} is in list {list}, not its own"));
                }
                sum.add(node.size());
                all.add(node.size());
            }
            if sum != self.loads[list] {
                return Err(format!("list {list} has {sum:?}, not {:?}", self.loads[list]));
            }
        }
        if all != self.room.load || self.target > self.full() {
            return Err(format!("there are {all:?}, target {}, {:?}", self.target, self.room));
        }
        Ok(())
    }
}
