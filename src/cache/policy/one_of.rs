//! A policy that is one of several. Not a `dyn`, so that a lookup is one piece of code.

/// Implements [`Policy`](super::Policy) for an enum of policies in a module of this folder: every
/// call goes to whichever it is.
macro_rules! one_of {
    ($name:ident: $($variant:ident)*) => {
        impl super::Policy for $name {
            fn reserve(&mut self, entries: u32) -> bool {
                match self { $($name::$variant(it) => it.reserve(entries)),* }
            }

            #[inline]
            fn missed(&mut self, key: u64, of: &dyn super::Entries) {
                match self { $($name::$variant(it) => it.missed(key, of)),* }
            }

            #[inline]
            fn hit(&mut self, entry: super::Id, of: &dyn super::Entries) {
                match self { $($name::$variant(it) => it.hit(entry, of)),* }
            }

            fn in_use(&mut self, entry: super::Id, of: &dyn super::Entries) {
                match self { $($name::$variant(it) => it.in_use(entry, of)),* }
            }

            #[inline]
            fn insert(&mut self, entry: super::Id, of: &dyn super::Entries) {
                match self { $($name::$variant(it) => it.insert(entry, of)),* }
            }

            #[inline]
            fn remove(&mut self, entry: super::Id, evicted: bool, of: &dyn super::Entries) {
                match self { $($name::$variant(it) => it.remove(entry, evicted, of)),* }
            }

            #[inline]
            fn victim(&mut self, of: &mut dyn super::Leaving) -> Option<super::Id> {
                match self { $($name::$variant(it) => it.victim(of)),* }
            }

            fn set_budget(&mut self, budget: super::Budget, of: &dyn super::Entries) {
                match self { $($name::$variant(it) => it.set_budget(budget, of)),* }
            }

            fn bookkeeping_bytes(&self) -> usize {
                match self { $($name::$variant(it) => it.bookkeeping_bytes()),* }
            }

            fn validate(&self, of: &dyn super::Entries) -> Result<(), String> {
                match self { $($name::$variant(it) => it.validate(of)),* }
            }
        }
    };
}

pub(super) use one_of;
