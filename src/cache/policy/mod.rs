//! Policies: which entries of a cache are worth their bytes.
//!
//! A policy is bookkeeping alone. It is told what happens to the entries of a cache and says
//! which one to give up; the cache does the rest. What it knows of an entry is in a node, by
//! the entry's number; nodes hang in lists by number ([`list`]), so that nothing is allocated
//! for an access. What the cache knows of it, its key and its bytes, is asked of the cache
//! ([`Entries`]): where a list takes 8 bytes a node, each copy would be as much again.
//!
//! | policy | keeps | from |
//! | --- | --- | --- |
//! | [`Lru`] | what was used last | |
//! | [`Adaptive`] | what whichever is ahead of five of them would keep | this project |
//! | [`Lfu`] | what is used often, by an estimate that forgets | Einziger, Friedman, Manes: "TinyLFU: a highly efficient cache admission policy", ACM Transactions on Storage 13(4), 2017 |
//! | [`Lirs`] | what comes back soon | Jiang, Zhang, SIGMETRICS 2002 |
//! | [`Gdsf`] | what is worth most for its bytes | Cherkasova, HPL-98-69R1, 1998 |
//! | [`S3Fifo`], [`Arc`], [`Sieve`] | to compare with | see each |

mod adaptive;
mod arc;
mod chosen;
mod entries;
mod gdsf;
mod ghost;
mod lfu;
mod lirs;
mod list;
mod load;
mod lru;
mod one_of;
mod panel;
mod s3_fifo;
mod sieve;
mod sketch;
#[cfg(test)]
mod tests;
mod twos;

pub use adaptive::Adaptive;
pub use arc::Arc;
pub use chosen::Chosen;
pub use entries::{All, Entries, Leaving};
pub use gdsf::Gdsf;
pub use lfu::Lfu;
pub use lirs::Lirs;
pub use load::{Budget, Size};
pub use lru::Lru;
pub use s3_fifo::S3Fifo;
pub use sieve::Sieve;
pub use sketch::Short;

/// An entry of the cache: an index into its table of entries, small and used again after
/// [`Policy::remove`].
pub type Id = u32;

/// Which entries are worth their bytes. Pure bookkeeping: no lock, no clock, no I/O, one
/// allocation at most per call (tables grow by doubling; ghosts are bounded).
pub trait Policy: Send {
    /// Makes room for entries with numbers below `entries`. False when there is no memory for
    /// it; nothing has changed then.
    #[must_use]
    fn reserve(&mut self, entries: u32) -> bool;

    /// `key` (a 64-bit hash of the key's bytes) was looked up and is not there.
    fn missed(&mut self, key: u64, of: &dyn Entries);

    /// The entry was looked up and is there.
    fn hit(&mut self, entry: Id, of: &dyn Entries);

    /// The entry, which `victim` would have given up, is being read: it is in use, though nobody
    /// looked it up just now.
    fn in_use(&mut self, entry: Id, of: &dyn Entries) {
        self.hit(entry, of);
    }

    /// A new entry. There is room for its number. What the cache has may be over the budget from
    /// here until `victim` was asked often enough.
    fn insert(&mut self, entry: Id, of: &dyn Entries);

    /// The entry is gone: taken, removed, expired, or, with `evicted`, a victim that was indeed
    /// evicted, which is when ghosts remember it. Its cache still knows it.
    fn remove(&mut self, entry: Id, evicted: bool, of: &dyn Entries);

    /// The entry that is worth least per byte of those that may go (pinned ones may not); None
    /// when there is none. It may be the newest one: that is how admission is refused. Does not
    /// remove it; `remove` follows.
    fn victim(&mut self, of: &mut dyn Leaving) -> Option<Id>;

    /// The budgets, when they change.
    fn set_budget(&mut self, budget: Budget, of: &dyn Entries);

    /// Bytes of bookkeeping that it holds now.
    fn bookkeeping_bytes(&self) -> usize;

    /// Checks every invariant.
    ///
    /// # Errors
    /// What does not hold.
    fn validate(&self, of: &dyn Entries) -> Result<(), String>;
}

/// What a hit is worth: the bytes that need not be made again, and so much besides for each
/// entry. None per entry is the goal of most bytes, a great deal per entry that of most hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// Bytes that an entry counts for besides its own.
    pub per_entry: u64,
}

impl Goal {
    /// Most hits, whatever their bytes.
    pub const HITS: Goal = Goal { per_entry: 1 << 50 };
    /// Most bytes.
    pub const BYTES: Goal = Goal { per_entry: 0 };

    /// What a hit of an entry of so many bytes is worth.
    pub(crate) fn worth(self, bytes: u64) -> u64 {
        self.per_entry.saturating_add(bytes)
    }
}

impl Default for Goal {
    fn default() -> Goal {
        Goal { per_entry: 64 << 10 }
    }
}

/// The policies that a cache can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// [`Lru`].
    #[default]
    Lru,
    /// [`Lfu`].
    Lfu,
    /// [`Adaptive`].
    Adaptive,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Lru, Kind::Lfu, Kind::Adaptive];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Lru => "lru",
            Kind::Lfu => "lfu",
            Kind::Adaptive => "adaptive",
        }
    }

    /// Makes one.
    pub fn build(self, goal: Goal) -> Chosen {
        match self {
            Kind::Lru => Chosen::Lru(Lru::new()),
            Kind::Lfu => Chosen::Lfu(Lfu::new(goal)),
            Kind::Adaptive => Chosen::Adaptive(Box::new(Adaptive::new(goal))),
        }
    }
}
