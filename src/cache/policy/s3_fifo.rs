//! S3-FIFO: two queues and a memory of what left the small one (Yang, Zhang, Qiu, Yue,
//! Vinayak: "FIFO queues are all you need for cache eviction", SOSP 2023).
//!
//! A new entry waits in the small queue, a tenth of the room. What was used twice by the time
//! it comes to the front goes on to the main queue, what was not is given up and its key
//! remembered; when that key comes back it starts in the main queue. There an entry goes round
//! once for every use, three at most.

use super::ghost::Ghosts;
use super::list::{self, Link, Linked, List};
use super::load::{Budget, Load, Room, Size};
use super::sketch::Short;
use super::{Entries, Id, Leaving, Policy};

/// The small queue's part of the room: one in so many.
const SMALL: u64 = 10;
/// Uses that take an entry from the small queue to the main one.
const PROVEN: u8 = 2;
/// Uses that are counted.
const USES_MAX: u8 = 3;

#[derive(Clone, Copy, Debug)]
struct Node {
    link: Link,
    key: Short,
    size: Size,
    uses: u8,
    is_main: bool,
}

impl Node {
    const VACANT: Node =
        Node { link: Link::FREE, key: Short(0), size: Size::ZERO, uses: 0, is_main: false };
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

/// Gives up in the order of arrival what was not used meanwhile.
pub struct S3Fifo {
    nodes: Vec<Node>,
    small: List,
    small_load: Load,
    main: List,
    ghosts: Ghosts,
    room: Room,
}

impl S3Fifo {
    /// Without entries.
    pub const fn new() -> S3Fifo {
        S3Fifo {
            nodes: Vec::new(),
            small: List::EMPTY,
            small_load: Load { bytes: 0, entries: 0 },
            main: List::EMPTY,
            ghosts: Ghosts::new(),
            room: Room::new(),
        }
    }

    fn enter(&mut self, entry: Id, is_main: bool) {
        let node = &mut self.nodes[entry as usize];
        (node.is_main, node.uses) = (is_main, 0);
        if is_main {
            self.main.push(&mut self.nodes, entry);
        } else {
            self.small_load.add(node.size);
            self.small.push(&mut self.nodes, entry);
        }
    }

    fn leave(&mut self, entry: Id) {
        let Node { size, is_main, .. } = self.nodes[entry as usize];
        if is_main {
            self.main.remove(&mut self.nodes, entry);
        } else {
            self.small_load.sub(size);
            self.small.remove(&mut self.nodes, entry);
        }
    }

    fn small_is_over(&self) -> bool {
        let all = self.room.measure(self.room.load);
        self.room.measure(self.small_load) > all / SMALL
    }
}

impl Default for S3Fifo {
    fn default() -> S3Fifo {
        S3Fifo::new()
    }
}

impl Policy for S3Fifo {
    fn reserve(&mut self, entries: u32) -> bool {
        list::reserve(&mut self.nodes, entries, Node::VACANT)
    }

    fn missed(&mut self, _: u64, _: &dyn Entries) {}

    #[inline]
    fn hit(&mut self, entry: Id, _: &dyn Entries) {
        let node = &mut self.nodes[entry as usize];
        node.uses = USES_MAX.min(node.uses + 1);
    }

    fn insert(&mut self, entry: Id, of: &dyn Entries) {
        let (key, size) = (of.key(entry), of.size(entry));
        let node = &mut self.nodes[entry as usize];
        (node.key, node.size) = (key, size);
        self.room.add(size);
        let known = self.ghosts.take(key);
        self.enter(entry, known);
    }

    fn remove(&mut self, entry: Id, evicted: bool, _: &dyn Entries) {
        let Node { key, size, is_main, .. } = self.nodes[entry as usize];
        self.leave(entry);
        self.room.sub(size);
        if evicted && !is_main {
            self.ghosts.push(key, size);
            let all = self.room.measure(self.room.load);
            while self.room.measure(self.ghosts.load()) > all - all / SMALL {
                self.ghosts.pop();
            }
        }
    }

    fn victim(&mut self, of: &mut dyn Leaving) -> Option<Id> {
        self.room.asked();
        // Every entry goes round at most as often as it was used, and once more for a pin.
        let rounds = u64::from(USES_MAX) + 2;
        for _ in 0..self.room.load.entries * rounds {
            let main = self.main.oldest();
            if self.small.count() > 0 && (self.small_is_over() || self.main.count() == 0) {
                let entry = self.small.oldest();
                if self.nodes[entry as usize].uses >= PROVEN || !of.may_go(entry) {
                    self.leave(entry);
                    self.enter(entry, true);
                } else {
                    return Some(entry);
                }
            } else if self.nodes[main as usize].uses > 0 || !of.may_go(main) {
                self.main.renew(&mut self.nodes, main);
                let node = &mut self.nodes[main as usize];
                node.uses = node.uses.saturating_sub(1);
            } else {
                return Some(main);
            }
        }
        // Whatever may go: one of the small queue, which was not its turn.
        self.small.find_oldest(&self.nodes, &mut |entry| of.may_go(entry))
    }

    fn set_budget(&mut self, budget: Budget, _: &dyn Entries) {
        self.room.set_budget(budget);
    }

    fn bookkeeping_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.ghosts.bytes()
    }

    fn validate(&self, _: &dyn Entries) -> Result<(), String> {
        self.ghosts.validate()?;
        let (mut small, mut all) = (Load::default(), Load::default());
        for (list, is_main) in [(self.small, false), (self.main, true)] {
            for entry in list.check(&self.nodes)? {
                let node = &self.nodes[entry as usize];
                if node.is_main != is_main || node.uses > USES_MAX {
                    return Err(format!("entry {entry} is in the wrong queue, or {}", node.uses));
                }
                all.add(node.size);
                if !is_main {
                    small.add(node.size);
                }
            }
        }
        match (small == self.small_load, all == self.room.load) {
            (true, true) => Ok(()),
            _ => Err(format!("{small:?} of {all:?}, not {:?}", (self.small_load, self.room))),
        }
    }
}
