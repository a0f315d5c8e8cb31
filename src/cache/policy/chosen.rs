//! The policy of a cache.

use super::one_of::one_of;
use super::{Adaptive, Lfu, Lru};

/// One of those that a cache can have.
pub enum Chosen {
    /// See [`Lru`].
    Lru(Lru),
    /// See [`Lfu`].
    Lfu(Lfu),
    /// See [`Adaptive`].
    Adaptive(Box<Adaptive>),
}

one_of! { Chosen: Lru Lfu Adaptive }
