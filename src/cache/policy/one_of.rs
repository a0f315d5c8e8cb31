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
            fn missed(&mut self, key: u64) {
                match self { $($name::$variant(it) => it.missed(key)),* }
            }

            #[inline]
            fn hit(&mut self, entry: super::Id) {
                match self { $($name::$variant(it) => it.hit(entry)),* }
            }

            fn in_use(&mut self, entry: super::Id) {
                match self { $($name::$variant(it) => it.in_use(entry)),* }
            }

            #[inline]
            fn insert(&mut self, entry: super::Id, key: u64, bytes: u64) {
                match self { $($name::$variant(it) => it.insert(entry, key, bytes)),* }
            }

            #[inline]
            fn remove(&mut self, entry: super::Id, evicted: bool) {
                match self { $($name::$variant(it) => it.remove(entry, evicted)),* }
            }

            #[inline]
            fn victim(
                &mut self,
                may: &mut dyn FnMut(super::Id) -> bool,
            ) -> Option<super::Id> {
                match self { $($name::$variant(it) => it.victim(may)),* }
            }

            fn set_budget(&mut self, bytes: u64, entries: u64) {
                match self { $($name::$variant(it) => it.set_budget(bytes, entries)),* }
            }

            fn bookkeeping_bytes(&self) -> usize {
                match self { $($name::$variant(it) => it.bookkeeping_bytes()),* }
            }

            fn validate(&self) -> Result<(), String> {
                match self { $($name::$variant(it) => it.validate()),* }
            }
        }
    };
}

pub(super) use one_of;
