//! What a policy asks of the cache whose entries it has nodes for.

use super::Id;
use super::load::Size;
use super::sketch::Short;

/// Entries, as their cache knows them. A policy has no copy of what can be asked here: with the
/// shadows it would be there six times.
pub trait Entries {
    /// A number for the entry's key.
    fn key(&self, entry: Id) -> Short;

    /// The entry's bytes.
    fn size(&self, entry: Id) -> Size;
}

/// Entries of which some are to go.
pub trait Leaving: Entries {
    /// Whether the entry may go: one that is read may not.
    fn may_go(&mut self, entry: Id) -> bool;
}

/// All of them may go.
pub struct All<'a>(pub &'a dyn Entries);

impl Entries for All<'_> {
    #[inline]
    fn key(&self, entry: Id) -> Short {
        self.0.key(entry)
    }

    #[inline]
    fn size(&self, entry: Id) -> Size {
        self.0.size(entry)
    }
}

impl Leaving for All<'_> {
    #[inline]
    fn may_go(&mut self, _: Id) -> bool {
        true
    }
}
