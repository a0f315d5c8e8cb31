//! Policies: which entries of a cache are worth their bytes.

mod lru;

pub use lru::Lru;

/// An entry of the engine: an index into its table of entries, small and used again after
/// [`Policy::remove`].
pub type Id = u32;

/// Which entries are worth their bytes. Pure bookkeeping: no lock, no clock, no I/O, one
/// allocation at most per call (tables grow by doubling; ghosts are bounded).
pub trait Policy: Send {
    /// Makes room for entries with numbers below `entries`. False when there is no memory for
    /// it; nothing has changed then.
    #[must_use]
    fn reserve(&mut self, entries: u32) -> bool;

    /// `key` (a 64-bit hash of the key bytes) was looked up and is not there.
    fn missed(&mut self, key: u64);

    /// The entry was looked up and is there.
    fn hit(&mut self, entry: Id);

    /// A new entry: its key's hash and its cost (bytes, or bytes plus the cost per entry).
    fn insert(&mut self, entry: Id, key: u64, cost: u64);

    /// The entry is gone: taken, removed, expired, or, with `evicted`, a victim that was indeed
    /// evicted, which is when ghosts remember it.
    fn remove(&mut self, entry: Id, evicted: bool);

    /// The entry that is worth least per byte and that `may` allows (pinned ones are not); None
    /// when there is none. It may be the newest one: that is how admission is refused. Does not
    /// remove it.
    fn victim(&mut self, may: &mut dyn FnMut(Id) -> bool) -> Option<Id>;

    /// The budgets, in cost and entries, when they change.
    fn set_budget(&mut self, cost: u64, entries: u64);

    /// Bytes of bookkeeping that it holds now.
    fn bookkeeping_bytes(&self) -> usize;

    /// Checks every invariant.
    ///
    /// # Errors
    /// What does not hold.
    fn validate(&self) -> Result<(), String>;
}
