//! Caches: blocks of pools that are kept under a key as long as they are worth their bytes.
//!
//! A cache has two budgets, bytes and entries, and is within both whenever a call returns. Its
//! pools know it as somebody who can give memory back ([`Holder`](crate::pool::Holder)): before an allocation fails,
//! entries that nobody reads go, those first that are worth least.
//!
//! Everything that a cache knows is in its table, under one lock, which is held for a few
//! dozen instructions and never across a call of a pool: blocks that leave are collected under the
//! lock and given back without it, and who is done reading says so without it, too. Which entry
//! leaves says a [`policy`]. An entry is used in stream order: whoever gets it on another stream than it was written on is made to wait for
//! the writing, and its block is nobody else's before all who read it are done.

mod clock;
mod config;
mod engine;
mod fork;
mod index;
mod key;
pub mod key_trace;
mod memory;
mod over_pools;
mod pins;
pub mod policy;
pub mod simulate;
mod stats;
mod sync;
mod table;

pub use config::Config;
pub use engine::{Cache, POOLS_MAX, Read, Taken};
pub use key::{DIMENSIONS_MAX, KEY_MAX, of_tensor as key_of_tensor};
pub use memory::Memory;
pub use policy::{Goal, Kind};
pub use stats::{Counters, Stats};
