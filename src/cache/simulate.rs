//! A key trace against policies: what each would have had, so that users decide on their own
//! trace.

use super::key_trace::KeyTrace;
use super::policy::{Budget, Goal, Id, Kind, Policy};
use crate::error::{Result, fail};

const NONE: Id = Id::MAX;

/// What a policy had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Accesses.
    pub requests: u64,
    /// Of them, those that were in the cache.
    pub hits: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// Of them, those that were in the cache.
    pub hit_bytes: u64,
    /// What the hits were worth by the goal, of `worth_of_all`.
    pub hit_worth: u128,
    /// What hits alone would have been worth.
    pub worth: u128,
    /// Bytes of bookkeeping of the policy at the end.
    pub bookkeeping_bytes: u64,
    /// Entries in the cache at the end.
    pub entries: u64,
}

impl Outcome {
    /// Hits in all requests, in percent.
    pub fn hit_percent(&self) -> f64 {
        percent(self.hits as f64, self.requests as f64)
    }

    /// Bytes that were there in all bytes, in percent.
    pub fn byte_percent(&self) -> f64 {
        percent(self.hit_bytes as f64, self.bytes as f64)
    }

    /// By the goal, in percent.
    pub fn worth_percent(&self) -> f64 {
        percent(self.hit_worth as f64, self.worth as f64)
    }
}

fn percent(part: f64, all: f64) -> f64 {
    if all > 0.0 { 100.0 * part / all } else { 0.0 }
}

/// A cache without contents.
struct Cache<'a> {
    trace: &'a KeyTrace,
    policy: Box<dyn Policy>,
    /// The entry of each object.
    entry_of: Vec<Id>,
    object_of: Vec<u32>,
    vacant: Vec<Id>,
    budget: Budget,
    held: Budget,
}

impl Cache<'_> {
    fn remove(&mut self, entry: Id) {
        let object = self.object_of[entry as usize] as usize;
        self.policy.remove(entry, true);
        self.entry_of[object] = NONE;
        self.vacant.push(entry);
        self.held.bytes -= self.trace.bytes[object];
        self.held.entries -= 1;
    }

    fn insert(&mut self, object: u32) -> Result<()> {
        let bytes = self.trace.bytes[object as usize];
        if bytes > self.budget.bytes || self.budget.entries == 0 {
            return Ok(());
        }
        let entry = self.vacant.pop().unwrap_or(self.object_of.len() as Id);
        if !self.policy.reserve(entry + 1) {
            let path = self.trace.path.display();
            return Err(fail!(OutOfMemory, "key trace `{path}`: no memory for entry {entry}"));
        }
        match self.object_of.get_mut(entry as usize) {
            Some(of) => *of = object,
            None => self.object_of.push(object),
        }
        self.entry_of[object as usize] = entry;
        self.held.bytes += bytes;
        self.held.entries += 1;
        self.policy.insert(entry, key_of(object), bytes);
        while self.held.bytes > self.budget.bytes || self.held.entries > self.budget.entries {
            match self.policy.victim(&mut |_| true) {
                Some(victim) => self.remove(victim),
                None => return Err(fail!(Internal, "a policy had no victim")),
            }
        }
        Ok(())
    }
}

/// A hash that the object would have.
fn key_of(object: u32) -> u64 {
    let mut key = u64::from(object).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    key = (key ^ key >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    key = (key ^ key >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ key >> 31
}

/// Runs `trace` against a cache of this policy: every access is a lookup, and a put when it
/// is not there.
///
/// # Errors
/// `OutOfMemory`.
pub fn run(trace: &KeyTrace, kind: Kind, goal: Goal, budget: Budget) -> Result<Outcome> {
    run_with(trace, kind.build(goal), goal, budget)
}

/// As [`run`].
pub fn run_with(
    trace: &KeyTrace,
    mut policy: Box<dyn Policy>,
    goal: Goal,
    budget: Budget,
) -> Result<Outcome> {
    policy.set_budget(budget.bytes, budget.entries);
    let mut cache = Cache {
        trace,
        policy,
        entry_of: vec![NONE; trace.bytes.len()],
        object_of: Vec::new(),
        vacant: Vec::new(),
        budget,
        held: Budget { bytes: 0, entries: 0 },
    };
    let mut outcome = Outcome::default();
    for &object in &trace.accesses {
        let bytes = trace.bytes[object as usize];
        let worth = u128::from(goal.worth(bytes));
        outcome.requests += 1;
        outcome.bytes += bytes;
        outcome.worth += worth;
        match cache.entry_of[object as usize] {
            NONE => {
                cache.policy.missed(key_of(object));
                cache.insert(object)?;
            }
            entry => {
                outcome.hits += 1;
                outcome.hit_bytes += bytes;
                outcome.hit_worth += worth;
                cache.policy.hit(entry);
            }
        }
    }
    outcome.bookkeeping_bytes = cache.policy.bookkeeping_bytes() as u64;
    outcome.entries = cache.held.entries;
    Ok(outcome)
}
