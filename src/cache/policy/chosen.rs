//! The policy of a cache.

use super::{Adaptive, Id, Lfu, Lru, Policy};

/// One of those that a cache can have. Not a `dyn`, so that a lookup is one piece of code.
pub enum Chosen {
    /// See [`Lru`].
    Lru(Lru),
    /// See [`Lfu`].
    Lfu(Lfu),
    /// See [`Adaptive`].
    Adaptive(Box<Adaptive>),
}

/// Calls a method of whichever it is.
macro_rules! each {
    ($chosen:expr, $it:ident => $call:expr) => {
        match $chosen {
            Chosen::Lru($it) => $call,
            Chosen::Lfu($it) => $call,
            Chosen::Adaptive($it) => $call,
        }
    };
}

impl Policy for Chosen {
    fn reserve(&mut self, entries: u32) -> bool {
        each!(self, it => it.reserve(entries))
    }

    #[inline]
    fn missed(&mut self, key: u64) {
        each!(self, it => it.missed(key));
    }

    #[inline]
    fn hit(&mut self, entry: Id) {
        each!(self, it => it.hit(entry));
    }

    fn in_use(&mut self, entry: Id) {
        each!(self, it => it.in_use(entry));
    }

    #[inline]
    fn insert(&mut self, entry: Id, key: u64, bytes: u64) {
        each!(self, it => it.insert(entry, key, bytes));
    }

    #[inline]
    fn remove(&mut self, entry: Id, evicted: bool) {
        each!(self, it => it.remove(entry, evicted));
    }

    #[inline]
    fn victim(&mut self, may: &mut dyn FnMut(Id) -> bool) -> Option<Id> {
        each!(self, it => it.victim(may))
    }

    fn set_budget(&mut self, bytes: u64, entries: u64) {
        each!(self, it => it.set_budget(bytes, entries));
    }

    fn bookkeeping_bytes(&self) -> usize {
        each!(self, it => it.bookkeeping_bytes())
    }

    fn validate(&self) -> Result<(), String> {
        each!(self, it => it.validate())
    }
}
