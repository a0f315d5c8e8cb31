//! Follows whichever of a few policies does best.

use hashbrown::HashTable;

use super::ghost::hash_of;
use super::list::{self, Link, Linked, List, NONE};
use super::load::{Budget, Load, Room, Size};
use super::sketch::Short;
use super::{Goal, Id, Policy};

pub static PARAMS: [std::sync::atomic::AtomicU64; 8] =
    [const { std::sync::atomic::AtomicU64::new(0) }; 8];
fn param(i: usize) -> f64 {
    f64::from_bits(PARAMS[i].load(std::sync::atomic::Ordering::Relaxed))
}
pub const MOST: usize = 6;

#[derive(Clone, Copy, Debug)]
struct Record {
    /// Among the real entries that the leader does not have.
    link: Link,
    key: Short,
    size: Size,
    entry: Id,
    /// The shadows that have it.
    members: u8,
    list: u8,
}

const NO_LIST: u8 = 2;

impl Linked for Record {
    fn link(&self) -> Link {
        self.link
    }
    fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

struct Shadow {
    policy: Box<dyn Policy>,
    load: Load,
    hits: u64,
}

/// Follows.
pub struct Adaptive {
    goal: Goal,
    record_of: Vec<u32>,
    records: Vec<Record>,
    vacant: List,
    by_key: HashTable<u32>,
    shadows: Vec<Shadow>,
    leader: usize,
    spare: [List; 2],
    room: Room,
    cursor: u32,
    /// worth of accesses that the first hit and second missed
    only: [[f64; MOST]; MOST],
    cusum: [f64; MOST],
    /// entries that k has and the real cache has not
    scale: f64,
    tick: u64,
    real_only: [i64; MOST],
    lacks: [f64; MOST],
    /// switches
    pub switches: u64,
    last: [u64; MOST],
    counts: Vec<u64>,
}

impl Adaptive {
    /// .
    pub fn new(goal: Goal, shadows: Vec<Box<dyn Policy>>) -> Adaptive {
        Adaptive {
            goal,
            record_of: Vec::new(),
            records: Vec::new(),
            vacant: List::EMPTY,
            by_key: HashTable::new(),
            shadows: shadows
                .into_iter()
                .map(|policy| Shadow { policy, load: Load::default(), hits: 0 })
                .collect(),
            leader: 0,
            spare: [List::EMPTY; 2],
            room: Room::new(),
            cursor: NONE,
            only: [[0.0; MOST]; MOST],
            cusum: [0.0; MOST],
            scale: 1.0,
            tick: 0,
            real_only: [0; MOST],
            lacks: [0.0; MOST],
            switches: 0,
            last: [0; MOST],
            counts: vec![0; MOST],
        }
    }

    fn record(&self, key: Short) -> Option<u32> {
        let same = |&at: &u32| self.records[at as usize].key == key;
        self.by_key.find(hash_of(key), same).copied()
    }

    fn new_record(&mut self, key: Short, size: Size) -> u32 {
        let fresh = Record { link: Link::FREE, key, size, entry: NONE, members: 0, list: NO_LIST };
        let at = match self.vacant.newest() {
            NONE => {
                self.records.push(fresh);
                self.records.len() as u32 - 1
            }
            at => {
                self.vacant.remove(&mut self.records, at);
                self.records[at as usize] = fresh;
                at
            }
        };
        let records = &self.records;
        self.by_key.insert_unique(hash_of(key), at, |&at| hash_of(records[at as usize].key));
        at
    }

    fn weight(&self, at: u32) -> f64 {
        let size = self.records[at as usize].size;
        self.goal.worth(size.bytes()) as f64
    }

    /// Puts the record where it belongs, or forgets it.
    fn settle(&mut self, at: u32) {
        let record = &mut self.records[at as usize];
        if record.entry == NONE && record.members == 0 {
            if record.list != NO_LIST {
                self.spare[record.list as usize].remove(&mut self.records, at);
            }
            let record = &mut self.records[at as usize];
            record.list = NO_LIST;
            let hash = hash_of(record.key);
            if let Ok(found) = self.by_key.find_entry(hash, |&other| other == at) {
                found.remove();
            }
            self.vacant.push(&mut self.records, at);
            return;
        }
        let list = if record.entry == NONE || record.members >> self.leader & 1 == 1 {
            NO_LIST
        } else if record.members == 0 {
            0
        } else {
            1
        };
        if list != record.list {
            let old = std::mem::replace(&mut record.list, list);
            if old != NO_LIST {
                self.spare[old as usize].remove(&mut self.records, at);
            }
            if list != NO_LIST {
                self.spare[list as usize].push(&mut self.records, at);
            }
        }
    }

    /// changes of membership: how much k has that real has not
    fn drop_member(&mut self, at: u32, k: usize) {
        let r = &mut self.records[at as usize];
        r.members &= !(1 << k);
        if r.entry == NONE {
            self.lacks[k] -= self.weight(at);
        }
    }

    fn shadow_insert(&mut self, k: usize, at: u32, key: u64, bytes: u64) {
        let full = self.room.full();
        if !self.shadows[k].policy.reserve(self.records.capacity() as u32) {
            return;
        }
        let size = self.records[at as usize].size;
        self.records[at as usize].members |= 1 << k;
        if self.records[at as usize].entry == NONE {
            self.lacks[k] += self.weight(at);
        }
        self.shadows[k].policy.insert(at, key, bytes);
        self.shadows[k].load.add(size);
        while self.shadows[k].load.is_over(full) {
            let Some(victim) = self.shadows[k].policy.victim(&mut |_| true) else { break };
            self.shadows[k].policy.remove(victim, true);
            let size = self.records[victim as usize].size;
            self.shadows[k].load.sub(size);
            self.drop_member(victim, k);
            if victim != at {
                self.settle(victim);
            }
        }
    }

    fn saw(&mut self, members: u8, weight: f64) {
        self.tick += 1;
        let n = self.shadows.len();
        let full = self.room.full();
        let capacity = self.room.measure(Load { bytes: full.bytes, entries: full.entries }) as f64;
        let held = self.room.load.entries.max(1) as f64;
        let _ = capacity;
        let decay = (-1.0 / (param(0) * held)).exp();
        for k in 0..n {
            if members >> k & 1 == 1 {
                self.shadows[k].hits += 1;
            }
        }
        let all = (1u8 << n) - 1;
        self.scale /= decay;
        if self.scale > 1e100 {
            for row in &mut self.only {
                for x in row.iter_mut() {
                    *x /= self.scale;
                }
            }
            self.scale = 1.0;
        }
        if members == 0 || members == all {
            return;
        }
        for k in 0..n {
            for j in 0..n {
                if members >> k & 1 == 1 && members >> j & 1 == 0 {
                    self.only[k][j] += weight * self.scale;
                }
            }
            let hit = |k: usize| f64::from(members >> k & 1);
            self.cusum[k] = (self.cusum[k] + (hit(k) - hit(self.leader)) * weight).max(0.0);
        }
        let l = self.leader;
        let mut best = (0.0, l);
        for k in 0..n {
            if k == l {
                continue;
            }
            let (gain, loss) = (self.only[k][l] / self.scale, self.only[l][k] / self.scale);
            let ok;
            match param(7) as u32 {
                0 => {
                    // plain CUSUM
                    ok = self.cusum[k] > param(1) * self.lacks[k] + param(2) * weight;
                }
                1 => {
                    let ratio = if gain > 0.0 { (loss / gain).min(2.0) } else { 2.0 };
                    ok = self.cusum[k]
                        > (param(1) + param(3) * ratio) * self.lacks[k] + param(2) * weight;
                }
                _ => {
                    ok = gain - param(3) * loss > param(1) * self.lacks[k] + param(2) * weight;
                }
            }
            if ok {
                let margin = gain - loss;
                if margin >= best.0 {
                    best = (margin, k);
                }
            }
        }
        if best.1 != l {
            self.leader = best.1;
            self.switches += 1;
            self.cusum = [0.0; MOST];
            for at in 0..self.records.len() as u32 {
                let r = &self.records[at as usize];
                if r.entry != NONE || r.members != 0 {
                    self.settle(at);
                }
            }
        }
    }
}

impl Drop for Adaptive {
    fn drop(&mut self) {
        if std::env::var("V").is_ok() {
            let h: Vec<_> = self
                .shadows
                .iter()
                .map(|s| s.hits as f64 * 100.0 / self.tick as f64)
                .map(|x| format!("{x:.2}"))
                .collect();
            print!(" [{} switches, leader {} {}] ", self.switches, self.leader, h.join(" "));
        }
    }
}

impl Policy for Adaptive {
    fn reserve(&mut self, entries: u32) -> bool {
        list::reserve(&mut self.record_of, entries, NONE)
    }

    fn missed(&mut self, key: u64) {
        let short = Short::of(key);
        for s in &mut self.shadows {
            s.policy.missed(key);
        }
        match self.record(short) {
            None => self.saw(0, 0.0),
            Some(at) => {
                let members = self.records[at as usize].members;
                for k in 0..self.shadows.len() {
                    if members >> k & 1 == 1 {
                        self.shadows[k].policy.hit(at);
                    }
                }
                let w = self.weight(at);
                self.saw(members, w);
            }
        }
    }

    fn hit(&mut self, entry: Id) {
        let at = self.record_of[entry as usize];
        let Record { members, key, size, .. } = self.records[at as usize];
        let w = self.weight(at);
        for k in 0..self.shadows.len() {
            if members >> k & 1 == 1 {
                self.shadows[k].policy.hit(at);
            } else {
                self.shadows[k].policy.missed(u64::from(key.0) << 32);
                self.shadow_insert(k, at, u64::from(key.0) << 32, size.bytes());
            }
        }
        self.settle(at);
        self.saw(members, w);
    }

    fn insert(&mut self, entry: Id, key: u64, bytes: u64) {
        let short = Short::of(key);
        let size = Size::of(bytes);
        self.room.add(size);
        let at = match self.record(short) {
            Some(at) => at,
            None => self.new_record(short, size),
        };
        self.record_of[entry as usize] = at;
        let w = self.weight(at);
        for k in 0..self.shadows.len() {
            if self.records[at as usize].members >> k & 1 == 1 {
                self.lacks[k] -= w;
            }
        }
        self.records[at as usize].entry = entry;
        for k in 0..self.shadows.len() {
            if self.records[at as usize].members >> k & 1 == 0 {
                self.shadow_insert(k, at, u64::from(short.0) << 32, size.bytes());
            }
        }
        self.settle(at);
    }

    fn remove(&mut self, entry: Id, evicted: bool) {
        let at = self.record_of[entry as usize];
        let size = self.records[at as usize].size;
        self.room.sub(size);
        if !evicted {
            for k in 0..self.shadows.len() {
                if self.records[at as usize].members >> k & 1 == 1 {
                    self.shadows[k].policy.remove(at, false);
                    self.shadows[k].load.sub(size);
                }
            }
            self.records[at as usize].members = 0;
        }
        let w = self.weight(at);
        for k in 0..self.shadows.len() {
            if self.records[at as usize].members >> k & 1 == 1 {
                self.lacks[k] += w;
            }
        }
        self.records[at as usize].entry = NONE;
        self.settle(at);
    }

    fn victim(&mut self, may: &mut dyn FnMut(Id) -> bool) -> Option<Id> {
        let before = self.room.full();
        self.room.asked();
        let records = &self.records;
        for list in &self.spare {
            let mut ok = |at: u32| may(records[at as usize].entry);
            if let Some(at) = list.find_oldest(records, &mut ok) {
                return Some(records[at as usize].entry);
            }
        }
        let _ = before;
        let mut ok =
            |at: u32| records[at as usize].entry != NONE && may(records[at as usize].entry);
        let at = self.shadows[self.leader].policy.victim(&mut ok)?;
        Some(self.records[at as usize].entry)
    }

    fn set_budget(&mut self, bytes: u64, entries: u64) {
        self.room.set_budget(Budget { bytes, entries });
        for s in &mut self.shadows {
            s.policy.set_budget(bytes, entries);
        }
    }

    fn bookkeeping_bytes(&self) -> usize {
        self.records.capacity() * size_of::<Record>()
            + self.record_of.capacity() * 4
            + self.by_key.allocation_size()
            + self.shadows.iter().map(|s| s.policy.bookkeeping_bytes()).sum::<usize>()
    }

    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}
