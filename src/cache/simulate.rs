//! A key trace against policies: what each would have had, so that users decide on their own
//! trace.

use std::ffi::CStr;

use super::key_trace::KeyTrace;
use super::policy::{
    Adaptive, All, Arc, Budget, Entries, Gdsf, Goal, Id, Kind, Lfu, Lirs, Lru, Policy, S3Fifo,
    Short, Sieve, Size,
};
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

/// A policy that takes part.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    /// Its name, for C too.
    pub name: &'static CStr,
    /// As what a cache can have it; none for those to compare with.
    pub kind: Option<Kind>,
    make: fn(Goal) -> Box<dyn Policy>,
}

impl Contender {
    /// All of them. Those that a cache can have come first, the least bookkeeping before.
    pub const ALL: [Contender; 9] = [
        Contender { name: c"lru", kind: Some(Kind::Lru), make: |_| Box::new(Lru::new()) },
        Contender { name: c"lfu", kind: Some(Kind::Lfu), make: |goal| Box::new(Lfu::new(goal)) },
        Contender {
            name: c"adaptive",
            kind: Some(Kind::Adaptive),
            make: |goal| Box::new(Adaptive::new(goal)),
        },
        Contender { name: c"s3-fifo", kind: None, make: |_| Box::new(S3Fifo::new()) },
        Contender { name: c"sieve", kind: None, make: |_| Box::new(Sieve::new()) },
        Contender { name: c"arc", kind: None, make: |_| Box::new(Arc::new()) },
        Contender { name: c"lirs", kind: None, make: |_| Box::new(Lirs::new()) },
        Contender {
            name: c"w-tinylfu-1%",
            kind: None,
            make: |goal| Box::new(Lfu::with_window(goal, 1)),
        },
        Contender { name: c"gdsf", kind: None, make: |goal| Box::new(Gdsf::new(goal)) },
    ];

    /// Runs a trace against a cache of this policy.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn run(&self, trace: &KeyTrace, goal: Goal, budget: Budget) -> Result<Outcome> {
        run_with(trace, (self.make)(goal), goal, budget)
    }
}

/// Runs a trace against every policy; the best by the goal comes first. Of equals those come
/// first that need less bookkeeping.
///
/// # Errors
/// `InvalidArgument` when there is no limit or the sums of the trace do not fit, `OutOfMemory`.
pub fn compare(
    trace: &KeyTrace,
    goal: Goal,
    budget: Budget,
) -> Result<[(Contender, Outcome); Contender::ALL.len()]> {
    if budget == Budget::NONE || budget.bytes == 0 || budget.entries == 0 {
        return Err(fail!(
            InvalidArgument,
            "max_bytes and max_entries are both 0; a cache has one limit at least"
        ));
    }
    let mut outcomes = Contender::ALL.map(|contender| (contender, Outcome::default()));
    for (contender, outcome) in &mut outcomes {
        *outcome = contender.run(trace, goal, budget)?;
    }
    outcomes.sort_by_key(|(_, outcome)| std::cmp::Reverse(outcome.hit_worth));
    Ok(outcomes)
}

/// The object of each entry.
struct Objects<'a> {
    trace: &'a KeyTrace,
    of: Vec<u32>,
}

impl Objects<'_> {
    fn bytes(&self, entry: Id) -> u64 {
        self.trace.bytes[self.of[entry as usize] as usize]
    }
}

impl Entries for Objects<'_> {
    fn key(&self, entry: Id) -> Short {
        Short::of(key_of(self.of[entry as usize]))
    }

    fn size(&self, entry: Id) -> Size {
        Size::of(self.bytes(entry))
    }
}

/// A cache without contents.
struct Cache<'a> {
    policy: Box<dyn Policy>,
    /// The entry of each object.
    entry_of: Vec<Id>,
    objects: Objects<'a>,
    vacant: Vec<Id>,
    budget: Budget,
    held: Budget,
}

impl Cache<'_> {
    fn remove(&mut self, entry: Id) {
        self.policy.remove(entry, true, &self.objects);
        self.entry_of[self.objects.of[entry as usize] as usize] = NONE;
        self.vacant.push(entry);
        self.held.bytes -= self.objects.bytes(entry);
        self.held.entries -= 1;
    }

    fn insert(&mut self, object: u32) -> Result<()> {
        let trace = self.objects.trace;
        let bytes = trace.bytes[object as usize];
        if bytes > self.budget.bytes || self.budget.entries == 0 {
            return Ok(());
        }
        let entry = self.vacant.pop().unwrap_or(self.objects.of.len() as Id);
        if !self.policy.reserve(entry + 1) {
            let path = trace.path.display();
            return Err(fail!(OutOfMemory, "key trace `{path}`: no memory for entry {entry}"));
        }
        if self.objects.of.try_reserve(1).is_err() || self.vacant.try_reserve(1).is_err() {
            let path = trace.path.display();
            return Err(fail!(OutOfMemory, "key trace `{path}`: no memory for entry {entry}"));
        }
        match self.objects.of.get_mut(entry as usize) {
            Some(of) => *of = object,
            None => self.objects.of.push(object),
        }
        self.entry_of[object as usize] = entry;
        self.held.bytes += bytes;
        self.held.entries += 1;
        self.policy.insert(entry, &self.objects);
        while self.held.bytes > self.budget.bytes || self.held.entries > self.budget.entries {
            match self.policy.victim(&mut All(&self.objects)) {
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
    run_with(trace, Box::new(kind.build(goal)), goal, budget)
}

/// As [`run`].
pub fn run_with(
    trace: &KeyTrace,
    mut policy: Box<dyn Policy>,
    goal: Goal,
    budget: Budget,
) -> Result<Outcome> {
    let objects = Objects { trace, of: Vec::new() };
    policy.set_budget(budget, &objects);
    let mut entry_of = Vec::new();
    if entry_of.try_reserve_exact(trace.bytes.len()).is_err() {
        let (path, count) = (trace.path.display(), trace.bytes.len());
        return Err(fail!(OutOfMemory, "key trace `{path}`: no memory for {count} objects"));
    }
    entry_of.resize(trace.bytes.len(), NONE);
    let mut cache = Cache {
        policy,
        entry_of,
        objects,
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
                cache.policy.missed(key_of(object), &cache.objects);
                cache.insert(object)?;
            }
            entry => {
                outcome.hits += 1;
                outcome.hit_bytes += bytes;
                outcome.hit_worth += worth;
                cache.policy.hit(entry, &cache.objects);
            }
        }
    }
    outcome.bookkeeping_bytes = cache.policy.bookkeeping_bytes() as u64;
    outcome.entries = cache.held.entries;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop of 100 objects with room for 60.
    fn looped() -> KeyTrace {
        KeyTrace::of((0..10_000).map(|at| at % 100).collect(), vec![1; 100], false)
    }

    fn of<'a>(outcomes: &'a [(Contender, Outcome)], name: &CStr) -> &'a Outcome {
        &outcomes.iter().find(|(contender, _)| contender.name == name).unwrap().1
    }

    #[test]
    fn a_loop_is_nothing_to_lru_and_something_to_lirs() {
        let budget = Budget { bytes: u64::MAX, entries: 60 };
        let outcomes = compare(&looped(), Goal::HITS, budget).unwrap();
        assert_eq!(of(&outcomes, c"lru").hits, 0);
        assert!(of(&outcomes, c"lirs").hit_percent() > 57.0);
        assert!(of(&outcomes, c"adaptive").hit_percent() > 57.0);
        assert!(outcomes.is_sorted_by_key(|(_, outcome)| std::cmp::Reverse(outcome.hits)));
        for (_, outcome) in outcomes {
            assert_eq!((outcome.requests, outcome.bytes), (10_000, 10_000));
            assert!(outcome.entries <= 60 && outcome.bookkeeping_bytes > 0);
        }
    }

    #[test]
    fn lru_is_what_a_plain_list_would_have() {
        let mut key = 1u32;
        let mut accesses = Vec::new();
        for _ in 0..4000 {
            key = key.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            accesses.push((key >> 16) % 64 * ((key >> 8) % 3));
        }
        let trace = KeyTrace::of(accesses, (0..128).map(|object| 1 + object % 9).collect(), true);
        let budget = Budget { bytes: 150, entries: 30 };
        let outcome = run(&trace, Kind::Lru, Goal::BYTES, budget).unwrap();
        let (mut list, mut hits, mut hit_bytes) = (Vec::<u32>::new(), 0, 0);
        let bytes_of =
            |list: &[u32]| -> u64 { list.iter().map(|&object| trace.bytes[object as usize]).sum() };
        for &object in &trace.accesses {
            let before = list.len();
            list.retain(|&other| other != object);
            if list.len() < before {
                hits += 1;
                hit_bytes += trace.bytes[object as usize];
            }
            list.push(object);
            while list.len() > 30 || bytes_of(&list) > 150 {
                list.remove(0);
            }
        }
        assert_eq!((outcome.hits, outcome.hit_bytes), (hits, hit_bytes));
        assert_eq!(outcome.hit_worth, u128::from(hit_bytes));
    }

    #[test]
    fn what_does_not_fit_is_not_kept_and_no_limit_is_an_error() {
        let trace = KeyTrace::of(vec![0, 0, 1, 1], vec![100, 1], true);
        let outcomes = compare(&trace, Goal::HITS, Budget { bytes: 10, entries: u64::MAX });
        assert!(outcomes.unwrap().iter().all(|(_, outcome)| outcome.hits == 1));
        let error = compare(&trace, Goal::HITS, Budget::NONE).unwrap_err();
        assert!(error.message().contains("both 0"));
    }
}
