//! What a cache is made from.

use std::time::Duration;

use super::policy::{Goal, Kind};
use crate::error::{Result, fail};

/// What a cache is made from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    /// Most bytes of blocks; 0 = no limit of the cache's own.
    pub max_bytes: u64,
    /// Most entries; 0 = no limit.
    pub max_entries: u64,
    /// Which entries stay.
    pub policy: Kind,
    /// What a hit is worth.
    pub goal: Goal,
    /// How old an entry may be when it is got; none for any age.
    pub time_to_live: Option<Duration>,
}

impl Config {
    pub(super) fn limits(&self) -> Result<Limits> {
        if self.max_bytes == 0 && self.max_entries == 0 {
            return Err(fail!(
                InvalidArgument,
                "max_bytes and max_entries are both 0; a cache has one limit at least"
            ));
        }
        let or_any = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        Ok(Limits { bytes: or_any(self.max_bytes), entries: or_any(self.max_entries) })
    }
}

/// Budgets: what there is at most when a call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of blocks.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}
