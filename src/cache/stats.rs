//! Numbers of a cache.

use std::fmt::Write;

/// Version of the JSON's schema. It grows when a key changes its meaning or goes away; new keys do
/// not change it.
const SCHEMA: u32 = 1;

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Gets and takes that found something.
    pub hits: u64,
    /// Gets and takes that did not.
    pub misses: u64,
    /// Blocks that were put.
    pub puts: u64,
    /// Of them, those that the policy did not let in.
    pub refused: u64,
    /// Entries that made room for others.
    pub evicted: u64,
    /// Their bytes.
    pub evicted_bytes: u64,
    /// Entries that a pool wanted back.
    pub pressed: u64,
    /// Their bytes.
    pub pressed_bytes: u64,
    /// Entries that were too old.
    pub expired: u64,
    /// Entries that were removed by their key, or with all others.
    pub removed: u64,
    /// Entries that were taken.
    pub taken: u64,
    /// Most bytes at a time.
    pub bytes_peak: u64,
}

/// The numbers of a cache at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// What happened so far.
    pub counters: Counters,
    /// Entries, those too that left and are still read.
    pub entries: u64,
    /// Bytes of their blocks.
    pub bytes: u64,
    /// Entries that are pinned.
    pub pinned_entries: u64,
    /// Bytes of their blocks.
    pub pinned_bytes: u64,
    /// Most entries.
    pub max_entries: u64,
    /// Most bytes.
    pub max_bytes: u64,
    /// Bytes of bookkeeping, without keys.
    pub bookkeeping_bytes: u64,
    /// The policy's name.
    pub policy: &'static str,
}

impl Stats {
    /// Hits by gets and takes; 0 before the first.
    pub fn hit_ratio(&self) -> f64 {
        let asked = self.counters.hits + self.counters.misses;
        if asked == 0 { 0.0 } else { self.counters.hits as f64 / asked as f64 }
    }

    /// As JSON.
    pub fn json(&self) -> String {
        let count = &self.counters;
        // What has no limit has none in the report.
        let limit = |limit: u64| if limit == u64::MAX { "null".into() } else { limit.to_string() };
        let mut text = String::with_capacity(640);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{{\"schema\":{SCHEMA},\"policy\":\"{}\",\"max_bytes\":{},\"max_entries\":{},\
             \"entries\":{},\"bytes\":{},\"bytes_peak\":{},\"pinned_entries\":{},\
             \"pinned_bytes\":{},\"bookkeeping_bytes\":{},\"hits\":{},\"misses\":{},\
             \"hit_ratio\":{:.6},\"puts\":{},\"refused\":{},\"evicted\":{},\"evicted_bytes\":{},\
             \"pressed\":{},\"pressed_bytes\":{},\"expired\":{},\"removed\":{},\"taken\":{}}}",
            self.policy,
            limit(self.max_bytes),
            limit(self.max_entries),
            self.entries,
            self.bytes,
            count.bytes_peak,
            self.pinned_entries,
            self.pinned_bytes,
            self.bookkeeping_bytes,
            count.hits,
            count.misses,
            self.hit_ratio(),
            count.puts,
            count.refused,
            count.evicted,
            count.evicted_bytes,
            count.pressed,
            count.pressed_bytes,
            count.expired,
            count.removed,
            count.taken,
        );
        text
    }
}
