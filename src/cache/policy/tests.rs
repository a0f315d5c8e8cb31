//! Policies under random operations: every invariant is scanned after every step, a model of
//! what there is runs beside each, and the simple ones have a model of what goes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Every policy there is, by number.
fn all(goal: Goal) -> Vec<Box<dyn Policy>> {
    vec![
        Box::new(Lru::new()),
        Box::new(Lfu::new(goal)),
        Box::new(Lfu::with_window(goal, 1)),
        Box::new(Adaptive::new(goal)),
        Box::new(Adaptive::with_sample(goal, 4)),
        Box::new(Lirs::new()),
        Box::new(S3Fifo::new()),
        Box::new(Arc::new()),
        Box::new(Sieve::new()),
        Box::new(Gdsf::new(goal)),
    ]
}

#[derive(Clone, Debug)]
enum Operation {
    /// A lookup, and a put if it is not there and `put` is set.
    Access {
        key: u64,
        size: u64,
        put: bool,
    },
    /// A put of a key that may be there already.
    Again {
        key: u64,
        size: u64,
    },
    Remove {
        pick: usize,
    },
    Pin {
        pick: usize,
    },
    /// It is met while it is read.
    InUse {
        pick: usize,
    },
    Release {
        pick: usize,
    },
    /// Entries go though the budgets allow them.
    Press {
        count: u32,
    },
    Budget {
        bytes: u64,
        entries: u64,
    },
}

fn operations() -> impl Strategy<Value = Operation> {
    let key = prop_oneof![3 => 0u64..12, 1 => 0u64..60];
    let size = prop_oneof![4 => 1u64..9, 1 => Just(60u64)];
    let bytes = prop_oneof![3 => 20u64..120, 1 => Just(u64::MAX)];
    let entries = prop_oneof![3 => 1u64..30, 1 => Just(u64::MAX)];
    let access = (key.clone(), size.clone(), prop::bool::weighted(0.9));
    prop_oneof![
        30 => access.prop_map(|(key, size, put)| Operation::Access { key, size, put }),
        2 => (key, size).prop_map(|(key, size)| Operation::Again { key, size }),
        3 => any::<usize>().prop_map(|pick| Operation::Remove { pick }),
        1 => any::<usize>().prop_map(|pick| Operation::Pin { pick }),
        1 => any::<usize>().prop_map(|pick| Operation::InUse { pick }),
        2 => any::<usize>().prop_map(|pick| Operation::Release { pick }),
        1 => (1u32..6).prop_map(|count| Operation::Press { count }),
        1 => (bytes, entries).prop_map(|(bytes, entries)| Operation::Budget { bytes, entries }),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: u64,
    size: u64,
    pinned: bool,
    used: u64,
}

struct Held(BTreeMap<Id, Entry>);

impl Entries for Held {
    fn key(&self, entry: Id) -> Short {
        Short::of(hash(self.0[&entry].key))
    }

    fn size(&self, entry: Id) -> Size {
        Size::of(self.0[&entry].size)
    }
}

impl Leaving for Held {
    fn may_go(&mut self, entry: Id) -> bool {
        !self.0[&entry].pinned
    }
}

/// A cache without contents, slow and plain.
struct Cache {
    policy: Box<dyn Policy>,
    entries: Held,
    budget: Budget,
    /// For how many entries there is room in the policy.
    room: u32,
    clock: u64,
    /// Whether what goes must be what was not used for longest.
    is_lru: bool,
}

impl Cache {
    fn new(mut policy: Box<dyn Policy>, is_lru: bool) -> Cache {
        let budget = Budget { bytes: 60, entries: 12 };
        let entries = Held(BTreeMap::new());
        policy.set_budget(budget, &entries);
        Cache { policy, entries, budget, room: 0, clock: 0, is_lru }
    }

    fn is_over(&self) -> bool {
        let bytes: u64 = self.entries.0.values().map(|entry| entry.size).sum();
        bytes > self.budget.bytes || self.entries.0.len() as u64 > self.budget.entries
    }

    fn evict(&mut self) -> bool {
        let Some(victim) = self.policy.victim(&mut self.entries) else {
            assert!(self.entries.0.values().all(|entry| entry.pinned), "something could go");
            return false;
        };
        assert!(!self.entries.0[&victim].pinned, "a pinned entry went");
        if self.is_lru {
            let free = self.entries.0.iter().filter(|(_, entry)| !entry.pinned);
            let oldest = free.min_by_key(|(_, entry)| entry.used).map(|(id, _)| *id);
            assert_eq!(oldest, Some(victim));
        }
        // A victim stays until it is removed.
        self.policy.validate(&self.entries).unwrap();
        self.policy.remove(victim, true, &self.entries);
        self.entries.0.remove(&victim);
        true
    }

    fn put(&mut self, key: u64, size: u64) {
        let id = (0..).find(|id| !self.entries.0.contains_key(id)).unwrap();
        if id >= self.room {
            // By doubling, as the table does it.
            self.room = (id + 1).next_power_of_two();
            assert!(self.policy.reserve(self.room));
        }
        self.entries.0.insert(id, Entry { key, size, pinned: false, used: self.clock });
        self.policy.insert(id, &self.entries);
        while self.is_over() && self.evict() {}
    }

    fn pick(&self, pick: usize) -> Option<Id> {
        let count = self.entries.0.len();
        (count > 0).then(|| *self.entries.0.keys().nth(pick % count).unwrap())
    }

    fn apply(&mut self, operation: &Operation) {
        self.clock += 1;
        match *operation {
            Operation::Access { key, size, put } => {
                match self.entries.0.iter_mut().find(|(_, entry)| entry.key == key) {
                    Some((&id, entry)) => {
                        entry.used = self.clock;
                        self.policy.hit(id, &self.entries);
                    }
                    None => {
                        self.policy.missed(hash(key), &self.entries);
                        if put {
                            self.put(key, size);
                        }
                    }
                }
            }
            Operation::Again { key, size } => self.put(key, size),
            Operation::Remove { pick } => {
                if let Some(id) = self.pick(pick) {
                    self.policy.remove(id, false, &self.entries);
                    self.entries.0.remove(&id);
                }
            }
            Operation::Pin { pick } | Operation::Release { pick } => {
                if let Some(id) = self.pick(pick) {
                    let pinned = matches!(operation, Operation::Pin { .. });
                    self.entries.0.get_mut(&id).unwrap().pinned = pinned;
                }
            }
            Operation::InUse { pick } => {
                if let Some(id) = self.pick(pick) {
                    self.entries.0.get_mut(&id).unwrap().used = self.clock;
                    self.policy.in_use(id, &self.entries);
                }
            }
            Operation::Press { count } => {
                (0..count).take_while(|_| self.evict()).for_each(drop);
            }
            Operation::Budget { bytes, entries } => {
                self.budget = Budget { bytes, entries };
                self.policy.set_budget(self.budget, &self.entries);
                while self.is_over() && self.evict() {}
            }
        }
        self.policy.validate(&self.entries).unwrap();
    }

    /// Everything can go in the end, each once.
    fn finish(mut self) {
        self.entries.0.values_mut().for_each(|entry| entry.pinned = false);
        while self.evict() {
            self.policy.validate(&self.entries).unwrap();
        }
        assert!(self.entries.0.is_empty());
    }
}

fn hash(key: u64) -> u64 {
    (key + 1)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        .rotate_left(29)
        .wrapping_mul(0x94d0_49bb_1331_11eb)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn entries_go_once_and_pinned_ones_stay(
        operations in prop::collection::vec(operations(), 1..160),
        per_entry in prop_oneof![Just(0u64), Just(4), Just(1 << 50)],
    ) {
        for (number, policy) in all(Goal { per_entry }).into_iter().enumerate() {
            let mut cache = Cache::new(policy, number == 0);
            operations.iter().for_each(|operation| cache.apply(operation));
            cache.finish();
        }
    }
}

/// Hits of a policy with `entries` of one byte each.
fn hits(policy: Box<dyn Policy>, entries: u64, keys: impl Iterator<Item = u64>) -> u64 {
    let mut cache = Cache::new(policy, false);
    cache.budget = Budget { bytes: u64::MAX, entries };
    cache.policy.set_budget(cache.budget, &cache.entries);
    let mut hits = 0;
    for key in keys {
        hits += u64::from(cache.entries.0.values().any(|entry| entry.key == key));
        cache.clock += 1;
        match cache.entries.0.iter().find(|(_, entry)| entry.key == key) {
            Some((&id, _)) => cache.policy.hit(id, &cache.entries),
            None => {
                cache.policy.missed(hash(key), &cache.entries);
                cache.put(key, 1);
            }
        }
    }
    hits
}

/// A loop over more keys than there is room for, then keys that come back soon and then never.
fn loop_then_recency() -> Vec<u64> {
    let looped = (0..6000u64).map(|at| at % 150);
    let recent = (0..3000u64).flat_map(|at| [1000 + at, 1000 + at.saturating_sub(30)]);
    looped.chain(recent).collect()
}

#[test]
fn adaptive_follows_from_a_loop_to_recency() {
    let keys = loop_then_recency();
    let on_loop = |policy| hits(policy, 100, keys.iter().copied().take(6000));
    let on_all = |policy| hits(policy, 100, keys.iter().copied());
    assert_eq!(on_loop(Box::<Lru>::default()), 0);
    assert!(on_loop(Box::new(Adaptive::new(Goal::HITS))) > 3500);
    let [lru, lirs] = [on_all(Box::<Lru>::default()), on_all(Box::<Lirs>::default())];
    let adaptive = on_all(Box::new(Adaptive::new(Goal::HITS)));
    assert!(adaptive > lru + 2500 && adaptive > lirs + 1000, "{adaptive} {lru} {lirs}");
}

#[test]
fn a_sample_tells_what_all_would() {
    let keys = loop_then_recency();
    let all = hits(Box::new(Adaptive::new(Goal::HITS)), 100, keys.iter().copied());
    let few = hits(Box::new(Adaptive::with_sample(Goal::HITS, 50)), 100, keys.iter().copied());
    assert!(few + 600 > all, "{few} {all}");
}

#[test]
fn lfu_keeps_what_is_popular_through_a_scan() {
    let keys = || (0..200u64).flat_map(|at| [at % 10, at % 10, 1000 + at, 2000 + at, 3000 + at]);
    let lru = hits(Box::new(Lru::new()), 20, keys());
    let lfu = hits(Box::new(Lfu::new(Goal::HITS)), 20, keys());
    assert!(lfu > lru + 100, "{lfu} {lru}");
}

#[test]
fn the_goal_decides_between_many_small_and_few_large() {
    // Twenty entries of 1 and one of 20 in turn, with room for either.
    let keys = || (0..2000u64).map(|at| if at.is_multiple_of(21) { 99 } else { at % 21 });
    let with = |goal: Goal| {
        let mut cache = Cache::new(Box::new(Lfu::new(goal)), false);
        cache.budget = Budget { bytes: 22, entries: u64::MAX };
        cache.policy.set_budget(cache.budget, &cache.entries);
        keys().for_each(|key| {
            let size = if key == 99 { 20 } else { 1 };
            cache.apply(&Operation::Access { key, size, put: true });
        });
        cache.entries.0.len()
    };
    assert!(with(Goal::HITS) > 10);
}

#[test]
fn sizes_are_rounded_down_and_little() {
    for bytes in [0, 1, 511, 1 << 24, (1 << 25) - 1, 3 << 40, (1 << 48) + 12345] {
        let size = load::Size::of(bytes);
        assert!(size.bytes() <= bytes && bytes - size.bytes() <= bytes >> 24, "{bytes}");
        assert_eq!(load::Size::from_bits(size.bits()), size);
    }
}
