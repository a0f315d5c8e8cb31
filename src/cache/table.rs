//! What a cache knows, under its lock: entries, keys, pins, who uses what up to when. Nothing here
//! calls a pool.
//!
//! Entries lie side by side in one array and name each other by their place in it. An entry is
//! *listed* while it is found by its key. One that leaves while it is pinned is *detached*: its
//! bytes count until its last pin is gone.

use hashbrown::HashTable;

use super::config::Limits;
use super::key::{Asked, Hash, Longs, Name};
use super::policy::{Id, Policy};
use super::stats::Counters;
use crate::error::{Error, Result, fail};
use crate::order::{Fence, Stream};

/// No entry, use or pin.
pub const NONE: u32 = u32::MAX;
/// Stands for `prev` in an entry that is detached, and in one that is none.
const DETACHED: u32 = u32::MAX - 1;
const VACANT: u32 = u32::MAX - 2;
/// Most entries, and most pins.
pub const ENTRIES_MAX: u32 = u32::MAX - 3;
/// Most pins of one entry.
const PINS_MAX: u16 = u16::MAX;
/// Most entries of a key that are looked at for one of a certain stream.
const LOOKED_AT: usize = 16;
/// No lane.
const NO_LANE: u16 = u16::MAX;

/// A key and the block that it names: one cache line.
#[repr(align(64))]
struct Entry {
    name: Name,
    address: usize,
    /// Bytes of the block.
    allocated: u64,
    /// The fence on its own lane that its writing is behind; 0 once that is known to have passed.
    written: u64,
    /// Bytes of the block that were not asked for.
    waste: u32,
    /// When it was put.
    stamp: u32,
    /// The next older entry of the same key, or the next of those that are none.
    next: u32,
    /// The next newer one, [`NONE`] for the newest, which is the one in the table of keys.
    prev: u32,
    /// Who has read it, in `Table::uses`.
    uses: u32,
    /// The lane it was put on.
    lane: u16,
    pins: u16,
}

const _: () = assert!(size_of::<Entry>() == 64);

impl Entry {
    fn is_listed(&self) -> bool {
        self.prev < VACANT || self.prev == NONE
    }

    fn requested(&self) -> u64 {
        self.allocated - u64::from(self.waste)
    }
}

/// Reads of an entry on a lane, done by a fence.
struct Use {
    sequence: u64,
    next: u32,
    lane: u16,
    /// The lane was behind the entry's writing before it read.
    behind: bool,
}

/// Somebody's hold on an entry.
struct Pin {
    /// The entry, or the next pin that is none.
    entry: u32,
    /// How often this place was given up: a pin that was released is not taken for a later one.
    generation: u32,
    /// On which lane it was got, if that is known, which is behind the writing then.
    lane: u16,
}

/// A stream of one of the pools: the one that has this handle now or, of those that had it before,
/// one that began with another fence.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    /// Which of the cache's pools.
    pub home: u16,
    /// The stream.
    pub stream: Stream,
    /// See `Order::began`.
    pub began: u64,
    /// What is here by it.
    count: u32,
}

/// A block that left, to be given back without the lock.
#[derive(Debug)]
pub struct Gone {
    /// Which of the cache's pools it is of.
    pub home: u16,
    /// Its first byte.
    pub address: usize,
    /// Bytes that were asked for.
    pub requested: u64,
    /// Bytes of the block.
    pub allocated: u64,
    /// The stream it was put on, and its first fence.
    pub stream: (Stream, u64),
    /// The fence that its writing is behind, if that is not known to have passed.
    pub written: Option<Fence>,
    /// The fences that its reads are behind.
    pub read: Vec<Fence>,
}

impl Gone {
    /// All that has to pass before it is anybody's; few of them, mostly none.
    pub fn with_fences<R>(&self, body: impl FnOnce(&[Fence]) -> R) -> R {
        match (self.written, self.read.is_empty()) {
            (None, _) => body(&self.read),
            (Some(written), true) => body(&[written]),
            (Some(written), false) => {
                let mut all = self.read.clone();
                all.push(written);
                body(&all)
            }
        }
    }
}

/// Why an entry leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There was no room for it.
    Evicted,
    /// The policy did not let it in.
    Refused,
    /// A pool wanted its bytes.
    Pressed,
    /// It was too old.
    Expired,
    /// Its user said so.
    Removed,
    /// Its user has it now.
    Taken,
    /// Its pool goes.
    Left,
}

/// A block that is put.
pub struct Fresh {
    /// First byte.
    pub address: usize,
    /// Bytes of the block.
    pub allocated: u64,
    /// Bytes of it that were asked for.
    pub requested: u64,
    /// Its lane.
    pub lane: u16,
    /// The fence that its writing is behind, 0 if that has passed.
    pub written: u64,
    /// When.
    pub stamp: u32,
}

/// What a pinned entry is to its reader.
#[derive(Clone, Copy, Debug)]
pub struct Pinned {
    /// The pin.
    pub ticket: u64,
    /// First byte.
    pub address: usize,
    /// Bytes that were asked for.
    pub requested: u64,
    /// Whether its writing is known to have passed.
    pub is_written: bool,
}

/// A pin that is held, under the lock.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pin: u32,
    entry: Id,
    /// Which of the cache's pools its block is of.
    pub home: u16,
}

/// What a cache knows.
pub struct Table {
    /// The newest entry of each key.
    keys: HashTable<u32>,
    hash: Hash,
    entries: Vec<Entry>,
    vacant: u32,
    /// How many entries there is memory for, here and in the policy.
    room: usize,
    uses: Vec<Use>,
    vacant_use: u32,
    pins: Vec<Pin>,
    vacant_pin: u32,
    lanes: Vec<Lane>,
    longs: Longs,
    policy: Box<dyn Policy>,
    /// The budgets.
    pub limits: Limits,
    /// Bytes of blocks, of detached entries too.
    pub bytes: u64,
    /// Entries, detached ones too.
    pub count: u64,
    /// Of them, those that are pinned, and their bytes.
    pub pinned: (u64, u64),
    /// Bytes of all blocks that ever left.
    pub left_bytes: u64,
    /// Bytes by pool.
    pub bytes_of: Vec<u64>,
    /// Pools that are gone, by number.
    left: Vec<bool>,
    /// What happened so far.
    pub counters: Counters,
}

impl Table {
    /// Empty, for blocks of `homes` pools.
    pub fn new(hash: Hash, mut policy: Box<dyn Policy>, limits: Limits, homes: usize) -> Table {
        policy.set_budget(limits.bytes, limits.entries);
        let lane = |home| Lane { home, stream: Stream::DEFAULT, began: 0, count: 1 };
        Table {
            keys: HashTable::new(),
            hash,
            entries: Vec::new(),
            vacant: NONE,
            room: 0,
            uses: Vec::new(),
            vacant_use: NONE,
            pins: Vec::new(),
            vacant_pin: NONE,
            // The lanes of those who work without streams, by the number of the pool; they stay.
            lanes: (0..homes as u16).map(lane).collect(),
            longs: Longs::default(),
            policy,
            limits,
            bytes: 0,
            count: 0,
            pinned: (0, 0),
            left_bytes: 0,
            bytes_of: vec![0; homes],
            left: vec![false; homes],
            counters: Counters::default(),
        }
    }

    /// The newest entry of a key.
    #[inline]
    pub fn find(&self, key: &Asked<'_>) -> Option<Id> {
        let found = match key.name() {
            Some(name) => {
                self.keys.find(key.hash, |&id: &u32| self.entries[id as usize].name == name)
            }
            None => self.keys.find(key.hash, |&id: &u32| self.has_long(id, key)),
        };
        found.copied()
    }

    fn has_long(&self, id: Id, key: &Asked<'_>) -> bool {
        let name = self.entries[id as usize].name;
        let is = |place| self.hash.of(name) == key.hash && self.longs.get(place) == key.bytes;
        name.place().is_some_and(is)
    }

    /// The next older entry of the same key.
    pub fn older(&self, id: Id) -> Option<Id> {
        let next = self.entries[id as usize].next;
        (next != NONE).then_some(next)
    }

    /// When the entry was put.
    pub fn stamp(&self, id: Id) -> u32 {
        self.entries[id as usize].stamp
    }

    /// The entry was looked up and is there.
    #[inline]
    pub fn hit(&mut self, id: Id) {
        self.counters.hits += 1;
        self.policy.hit(id);
    }

    /// A key was looked up and is not there.
    pub fn missed(&mut self, hash: u64) {
        self.counters.misses += 1;
        self.policy.missed(hash);
    }

    /// The number of a lane of the stream that began with the fence `began`. What it is asked for
    /// must be entered before the lock is given up.
    pub fn lane_for(&mut self, home: u16, stream: Stream, began: u64) -> Result<u16> {
        let same = |lane: &Lane| (lane.home, lane.stream, lane.began) == (home, stream, began);
        let unused = |lane: &Lane| lane.count == 0;
        if let Some(at) = self.lanes.iter().position(same) {
            return Ok(at as u16);
        }
        let lane = Lane { home, stream, began, count: 0 };
        if let Some(at) = self.lanes.iter().position(unused) {
            self.lanes[at] = lane;
            return Ok(at as u16);
        }
        if self.lanes.len() >= NO_LANE as usize || self.lanes.try_reserve(1).is_err() {
            return Err(fail!(
                OutOfMemory,
                "entries of this cache are used on {} streams; there is no room for one more",
                self.lanes.len()
            ));
        }
        self.lanes.push(lane);
        Ok(self.lanes.len() as u16 - 1)
    }

    /// Makes sure that there is memory for one more entry.
    #[inline]
    fn reserve(&mut self) -> bool {
        (self.vacant != NONE || self.entries.len() < self.room || self.reserve_entries())
            && (self.keys.len() < self.keys.capacity() || self.reserve_keys())
    }

    #[cold]
    fn reserve_entries(&mut self) -> bool {
        // By doubling, but not beyond what there will ever be.
        let most = self.limits.entries.min(u64::from(ENTRIES_MAX)) as usize;
        let len = self.entries.len();
        let more = len.max(16).min(most.saturating_sub(len).saturating_add(1));
        if len >= ENTRIES_MAX as usize
            || self.entries.try_reserve_exact(more).is_err()
            || !self.policy.reserve(self.entries.capacity() as u32)
        {
            return false;
        }
        self.room = self.entries.capacity();
        true
    }

    #[cold]
    fn reserve_keys(&mut self) -> bool {
        let (entries, hash) = (&self.entries, self.hash);
        self.keys.try_reserve(1, |&id: &u32| hash.of(entries[id as usize].name)).is_ok()
    }

    /// Enters a block under a key. An error when there is no memory for it; nothing has changed.
    pub fn insert(&mut self, key: &Asked<'_>, fresh: &Fresh) -> Result<Id> {
        if !self.reserve() {
            return Err(no_memory(key));
        }
        let older = self.find(key);
        let name = match key.name() {
            Some(name) => name,
            None => {
                let place = self.longs.keep(key.bytes).ok_or_else(|| no_memory(key))?;
                Name::of_long(key.hash, place)
            }
        };
        let entry = Entry {
            name,
            address: fresh.address,
            allocated: fresh.allocated,
            written: fresh.written,
            // What is more, which no block is that was asked for as it is, shows as more bytes.
            waste: u32::try_from(fresh.allocated - fresh.requested).unwrap_or(0),
            stamp: fresh.stamp,
            next: older.unwrap_or(NONE),
            prev: NONE,
            uses: NONE,
            lane: fresh.lane,
            pins: 0,
        };
        let id = match self.vacant {
            NONE => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
            id => {
                let place = &mut self.entries[id as usize];
                self.vacant = place.next;
                *place = entry;
                id
            }
        };
        match older {
            // In front of those with the same key.
            Some(older) => {
                self.entries[older as usize].prev = id;
                if let Some(head) = self.keys.find_mut(key.hash, |&head| head == older) {
                    *head = id;
                }
            }
            None => {
                let (entries, hash) = (&self.entries, self.hash);
                let rehash = |&id: &u32| hash.of(entries[id as usize].name);
                self.keys.insert_unique(key.hash, id, rehash);
            }
        }
        let lane = &mut self.lanes[fresh.lane as usize];
        lane.count += 1;
        self.bytes_of[lane.home as usize] += fresh.allocated;
        self.bytes += fresh.allocated;
        self.count += 1;
        self.counters.puts += 1;
        self.policy.insert(id, key.hash, fresh.allocated);
        Ok(id)
    }

    /// Whether there is more than the budgets allow.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.bytes > self.limits.bytes || self.count > self.limits.entries
    }

    /// Makes room for the new entry `id`, by one entry that may be `id` itself.
    #[inline]
    pub fn evict_for(&mut self, id: Id) -> Option<Gone> {
        let entries = &self.entries;
        let victim = self.policy.victim(&mut |id| entries[id as usize].pins == 0);
        debug_assert!(victim.is_some(), "the new entry is not pinned");
        match victim {
            Some(victim) if victim != id => self.remove(victim, Why::Evicted),
            _ => self.remove(id, Why::Refused),
        }
    }

    /// Takes the entry out that is worth least, of those that nobody reads and, with `home`, that
    /// are of that pool. None when there is none.
    pub fn evict(&mut self, home: Option<u16>, why: Why) -> Option<Gone> {
        let (entries, lanes) = (&self.entries, &self.lanes);
        let mut may = |id: Id| {
            let entry = &entries[id as usize];
            debug_assert!(entry.is_listed());
            entry.pins == 0 && home.is_none_or(|home| lanes[entry.lane as usize].home == home)
        };
        let victim = self.policy.victim(&mut may)?;
        self.remove(victim, why)
    }

    /// Takes a listed entry out; its block leaves at once, or, when it is pinned, with its last pin.
    pub fn remove(&mut self, id: Id, why: Why) -> Option<Gone> {
        let evicted = matches!(why, Why::Evicted | Why::Pressed | Why::Refused);
        let Entry { next, prev, allocated, pins, .. } = self.entries[id as usize];
        let count = &mut self.counters;
        match why {
            Why::Evicted => {
                (count.evicted, count.evicted_bytes) =
                    (count.evicted + 1, count.evicted_bytes + allocated)
            }
            Why::Pressed => {
                (count.pressed, count.pressed_bytes) =
                    (count.pressed + 1, count.pressed_bytes + allocated)
            }
            Why::Refused => count.refused += 1,
            Why::Expired => count.expired += 1,
            Why::Removed => count.removed += 1,
            Why::Taken => count.taken += 1,
            Why::Left => {}
        }
        self.policy.remove(id, evicted);
        if next != NONE {
            self.entries[next as usize].prev = prev;
        }
        if prev != NONE {
            self.entries[prev as usize].next = next;
        } else {
            let hash = self.hash.of(self.entries[id as usize].name);
            if let Ok(head) = self.keys.find_entry(hash, |&head| head == id) {
                match next {
                    NONE => drop(head.remove()),
                    next => {
                        let mut head = head;
                        *head.get_mut() = next;
                    }
                }
            }
        }
        let entry = &mut self.entries[id as usize];
        (entry.next, entry.prev) = (NONE, DETACHED);
        if let Some(place) = entry.name.place() {
            self.longs.give_up(place);
        }
        (pins == 0).then(|| self.vacate(id))
    }

    /// The place of an entry that is in no list any more, nor pinned, is free; its block leaves.
    fn vacate(&mut self, id: Id) -> Gone {
        let mut read = Vec::new();
        let mut at = std::mem::replace(&mut self.entries[id as usize].uses, NONE);
        while at != NONE {
            let Use { sequence, next, lane, .. } = self.uses[at as usize];
            read.push(Fence { stream: self.lanes[lane as usize].stream, sequence });
            self.vacate_use(at);
            at = next;
        }
        let entry = &mut self.entries[id as usize];
        (entry.prev, entry.next) = (VACANT, self.vacant);
        self.vacant = id;
        let lane = &mut self.lanes[entry.lane as usize];
        // Lanes that serve again do so for entries that come later: this one's is read below.
        lane.count -= 1;
        let (stream, sequence) = (lane.stream, entry.written);
        let gone = Gone {
            home: lane.home,
            address: entry.address,
            requested: entry.requested(),
            allocated: entry.allocated,
            stream: (stream, lane.began),
            written: (sequence > 0).then_some(Fence { stream, sequence }),
            read,
        };
        self.bytes_of[lane.home as usize] -= gone.allocated;
        self.bytes -= gone.allocated;
        self.left_bytes += gone.allocated;
        self.count -= 1;
        gone
    }

    fn vacate_use(&mut self, at: u32) {
        let one = &mut self.uses[at as usize];
        self.lanes[one.lane as usize].count -= 1;
        one.next = std::mem::replace(&mut self.vacant_use, at);
    }

    /// Pins an entry for somebody who reads it.
    #[inline]
    pub fn pin(&mut self, id: Id) -> Result<Pinned> {
        if self.vacant_pin == NONE {
            self.more_pins()?;
        }
        let entry = &mut self.entries[id as usize];
        if entry.pins == PINS_MAX {
            return Err(too_many_pins());
        }
        if entry.pins == 0 {
            self.pinned.0 += 1;
            self.pinned.1 += entry.allocated;
        }
        entry.pins += 1;
        let at = self.vacant_pin;
        let pin = &mut self.pins[at as usize];
        self.vacant_pin = std::mem::replace(&mut pin.entry, id);
        Ok(Pinned {
            ticket: u64::from(pin.generation) << 32 | u64::from(at),
            address: entry.address,
            requested: entry.requested(),
            is_written: entry.written == 0,
        })
    }

    #[cold]
    fn more_pins(&mut self) -> Result<()> {
        if self.pins.len() >= ENTRIES_MAX as usize || self.pins.try_reserve(1).is_err() {
            return Err(fail!(OutOfMemory, "no memory for one more pin"));
        }
        self.pins.push(Pin { entry: NONE, generation: 1, lane: NO_LANE });
        self.vacant_pin = self.pins.len() as u32 - 1;
        Ok(())
    }

    /// The pin with this ticket, of the block at `address`; an error when it is not held.
    #[inline]
    pub fn held(&self, ticket: u64, address: usize) -> Result<Held> {
        let (at, generation) = (ticket as u32, (ticket >> 32) as u32);
        if let Some(pin) = self.pins.get(at as usize)
            && pin.generation == generation
            && let Some(entry) = self.entries.get(pin.entry as usize)
            && entry.pins > 0
            && entry.address == address
        {
            let home = self.lanes[entry.lane as usize].home;
            return Ok(Held { pin: at, entry: pin.entry, home });
        }
        Err(no_pin(ticket))
    }

    /// The lane that a pinned entry was written on, and the fence that its writing is behind.
    pub fn writing(&self, held: Held) -> (Lane, Fence) {
        let entry = &self.entries[held.entry as usize];
        let lane = self.lanes[entry.lane as usize];
        (lane, Fence { stream: lane.stream, sequence: entry.written })
    }

    /// Whether readers on `lane` are behind the writing of the pinned entry; if they are, the
    /// pin says so from now on.
    pub fn is_behind(&mut self, held: Held, lane: u16) -> bool {
        let entry = &self.entries[held.entry as usize];
        let behind = entry.written == 0
            || entry.lane == lane
            || self.uses_of(held.entry).any(|one| one.lane == lane && one.behind);
        if behind {
            self.note_behind(held, lane);
        }
        behind
    }

    /// Readers on `lane` are behind the writing of the pinned entry.
    pub fn note_behind(&mut self, held: Held, lane: u16) {
        let before = std::mem::replace(&mut self.pins[held.pin as usize].lane, lane);
        self.lanes[lane as usize].count += 1;
        if before != NO_LANE {
            self.lanes[before as usize].count -= 1;
        }
    }

    /// The writing of the pinned entry is known to have passed.
    pub fn note_written(&mut self, held: Held) {
        self.entries[held.entry as usize].written = 0;
    }

    fn uses_of(&self, id: Id) -> impl Iterator<Item = &Use> {
        let at = |at: u32| self.uses.get(at as usize);
        std::iter::successors(at(self.entries[id as usize].uses), move |one| at(one.next))
    }

    /// The reader is done. Its block leaves if it was the last one of an entry that is detached.
    #[inline]
    pub fn unpin(&mut self, held: Held) -> Option<Gone> {
        let pin = &mut self.pins[held.pin as usize];
        // A generation ends with its pin. None is 0, so that no ticket is.
        pin.generation = pin.generation.checked_add(1).unwrap_or(1);
        pin.entry = std::mem::replace(&mut self.vacant_pin, held.pin);
        if pin.lane != NO_LANE {
            self.lanes[pin.lane as usize].count -= 1;
            pin.lane = NO_LANE;
        }
        let entry = &mut self.entries[held.entry as usize];
        entry.pins -= 1;
        if entry.pins > 0 {
            return None;
        }
        self.pinned.0 -= 1;
        self.pinned.1 -= entry.allocated;
        (entry.prev == DETACHED).then(|| self.vacate(held.entry))
    }

    /// The holder of the pin has read on `lane`, by the fence `sequence`. Reads that have `passed`
    /// are forgotten.
    pub fn note_read(
        &mut self,
        held: Held,
        lane: u16,
        sequence: u64,
        passed: impl Fn(Fence) -> bool,
    ) -> Result<()> {
        let behind = self.pins[held.pin as usize].lane == lane;
        self.note_use(held.entry, lane, sequence, behind, passed)
    }

    fn note_use(
        &mut self,
        id: Id,
        lane: u16,
        sequence: u64,
        behind: bool,
        passed: impl Fn(Fence) -> bool,
    ) -> Result<()> {
        // Forget, and look for the lane's own, in one walk.
        let mut before = NONE;
        let mut at = self.entries[id as usize].uses;
        while at != NONE {
            let Use { sequence: last, next, lane: of, .. } = self.uses[at as usize];
            if of == lane {
                let one = &mut self.uses[at as usize];
                one.sequence = one.sequence.max(sequence);
                one.behind |= behind;
                return Ok(());
            }
            if passed(Fence { stream: self.lanes[of as usize].stream, sequence: last }) {
                match before {
                    NONE => self.entries[id as usize].uses = next,
                    before => self.uses[before as usize].next = next,
                }
                self.vacate_use(at);
            } else {
                before = at;
            }
            at = next;
        }
        let one = Use { sequence, next: self.entries[id as usize].uses, lane, behind };
        let at = match self.vacant_use {
            NONE => {
                if self.uses.try_reserve(1).is_err() {
                    return Err(fail!(OutOfMemory, "no memory to note who reads an entry"));
                }
                self.uses.push(one);
                self.uses.len() as u32 - 1
            }
            at => {
                self.vacant_use = self.uses[at as usize].next;
                self.uses[at as usize] = one;
                at
            }
        };
        self.lanes[lane as usize].count += 1;
        self.entries[id as usize].uses = at;
        Ok(())
    }

    /// Entries that are listed, of the places from `from` on, `most` places at a time; with the
    /// place to go on from.
    pub fn listed(
        &self,
        from: usize,
        most: usize,
    ) -> (impl Iterator<Item = Id> + use<>, Option<usize>) {
        let to = from.saturating_add(most).min(self.entries.len());
        let ids: Vec<Id> =
            (from..to).filter(|&at| self.entries[at].is_listed()).map(|at| at as Id).collect();
        (ids.into_iter(), (to < self.entries.len()).then_some(to))
    }

    /// The pool `home` is about to go.
    pub fn leave(&mut self, home: u16) {
        self.left[home as usize] = true;
    }

    /// Whether the pool `home` is gone.
    pub fn has_left(&self, home: u16) -> bool {
        self.left[home as usize]
    }

    /// Of the entry `newest` and the older ones of the same key, one that nobody reads, that was
    /// put on `stream` if there is one.
    pub fn free_one(&self, newest: Id, stream: Stream) -> Option<Id> {
        let free = || {
            let chain = std::iter::successors(Some(newest), |&id| self.older(id));
            chain.filter(|&id| self.entries[id as usize].pins == 0)
        };
        let own = |&id: &Id| self.lanes[self.entries[id as usize].lane as usize].stream == stream;
        free().take(LOOKED_AT).find(own).or_else(|| free().next())
    }

    /// The budgets are kept again.
    #[inline]
    pub fn note_peak(&mut self) {
        self.counters.bytes_peak = self.counters.bytes_peak.max(self.bytes);
    }

    /// Whether the entry is of the pool `home`.
    pub fn is_of(&self, id: Id, home: u16) -> bool {
        self.lanes[self.entries[id as usize].lane as usize].home == home
    }

    /// Bytes of bookkeeping, without the bytes of keys longer than 15.
    pub fn bookkeeping_bytes(&self) -> usize {
        self.keys.allocation_size()
            + self.entries.capacity() * size_of::<Entry>()
            + self.uses.capacity() * size_of::<Use>()
            + self.pins.capacity() * size_of::<Pin>()
            + self.lanes.capacity() * size_of::<Lane>()
            + self.longs.bookkeeping_bytes()
            + self.policy.bookkeeping_bytes()
    }

    /// Checks every invariant.
    pub fn validate(&self) -> std::result::Result<(), String> {
        let mut sums = (0, 0, 0, 0);
        let mut listed = 0;
        let mut pins = 0u64;
        let mut bytes_of = vec![0; self.bytes_of.len()];
        for (at, entry) in self.entries.iter().enumerate() {
            if entry.prev == VACANT {
                continue;
            }
            sums.0 += 1;
            sums.1 += entry.allocated;
            bytes_of[self.lanes[entry.lane as usize].home as usize] += entry.allocated;
            pins += u64::from(entry.pins);
            if entry.pins > 0 {
                sums.2 += 1;
                sums.3 += entry.allocated;
            }
            if !entry.is_listed() {
                if entry.pins == 0 {
                    return Err(format!("entry {at} is detached and not pinned"));
                }
                continue;
            }
            listed += 1;
            let hash = self.hash.of(entry.name);
            let same = |&head: &u32| {
                std::iter::successors(Some(head), |&id| self.older(id)).any(|id| id as usize == at)
            };
            let Some(&head) = self.keys.find(hash, same) else {
                return Err(format!("entry {at} is not found by its key"));
            };
            let chain = std::iter::successors(Some(head), |&id| self.older(id));
            if chain.take(self.entries.len() + 1).filter(|&id| id as usize == at).count() != 1 {
                return Err(format!("entry {at} is not once among those of its key"));
            }
        }
        let counted = (self.count, self.bytes, self.pinned.0, self.pinned.1);
        if sums != counted || bytes_of != self.bytes_of {
            return Err(format!("{sums:?} entries and bytes, counted {counted:?}"));
        }
        let heads: usize = self
            .keys
            .iter()
            .map(|&head| std::iter::successors(Some(head), |&id| self.older(id)).count())
            .sum();
        if heads != listed {
            return Err(format!("{listed} listed entries, {heads} by key"));
        }
        let vacant = std::iter::successors(Some(self.vacant_pin).filter(|&at| at != NONE), |&at| {
            Some(self.pins[at as usize].entry).filter(|&at| at != NONE)
        });
        let held = self.pins.len() as u64 - vacant.take(self.pins.len() + 1).count() as u64;
        if held != pins {
            return Err(format!("{held} pins, entries count {pins}"));
        }
        self.policy.validate()
    }
}

#[cold]
fn no_memory(key: &Asked<'_>) -> Error {
    fail!(OutOfMemory, "no memory for an entry with a key of {} bytes", key.bytes.len())
}

#[cold]
fn too_many_pins() -> Error {
    fail!(InvalidState, "the entry is pinned {PINS_MAX} times, which is the limit")
}

/// The error of a pin that is none.
#[cold]
fn no_pin(ticket: u64) -> Error {
    fail!(
        InvalidArgument,
        "pin {ticket:#x} is not held: it was released before, or is not of this cache"
    )
}
