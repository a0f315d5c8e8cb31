//! What a cache knows, under its lock: entries, keys, pins, who uses what up to when. Nothing here
//! calls a pool.
//!
//! Entries lie side by side in one array and name each other by their place in it. An entry is
//! *listed* while it is found by its key. One that leaves while it is pinned is *detached*: its
//! bytes count until its last pin is gone.

use std::sync::Arc;

use super::config::Limits;
use super::index::Index;
use super::key::{Asked, Hash, Longs, Name};
use super::pins::{BEYOND, Marks, Pins, is_pin};
use super::policy::{Budget, Chosen, Entries, Id, Leaving, Policy, Short, Size};
use super::stats::Counters;
use crate::error::{Error, Result, fail};
use crate::order::{Fence, Stream};

/// No entry, use or pin.
pub const NONE: u32 = u32::MAX;
/// Stands for `prev` in an entry that is detached, and in one that is none.
const DETACHED: u32 = u32::MAX - 1;
const VACANT: u32 = u32::MAX - 2;
/// In one that is about to be none: its block has left and is in the hands of a call.
const LEAVING: u32 = u32::MAX - 3;
/// Most entries.
pub const ENTRIES_MAX: u32 = u32::MAX - 4;
/// Most entries of a key that are looked at for one of a certain stream.
const LOOKED_AT: usize = 16;
/// Entries that are read and are looked at for one that may go, in one go.
const READ_LOOKED_AT: usize = 64;
/// How often that is done for a new entry before it goes itself.
const ROUNDS: u32 = 16;
/// No lane.
pub const NO_LANE: u16 = u16::MAX;

/// A number of 48 bits and one of 16 in a word. No address has more, nor has a block more bytes
/// than there are addresses.
#[derive(Clone, Copy)]
struct Pair(u64);

impl Pair {
    const WIDE: u32 = 48;

    #[inline]
    fn new(wide: u64, narrow: u16) -> Pair {
        debug_assert!(wide >> Pair::WIDE == 0);
        Pair(wide | u64::from(narrow) << Pair::WIDE)
    }

    #[inline]
    fn wide(self) -> u64 {
        self.0 & ((1 << Pair::WIDE) - 1)
    }

    #[inline]
    fn narrow(self) -> u16 {
        (self.0 >> Pair::WIDE) as u16
    }
}

/// Addresses below this can be kept.
pub const ADDRESSES: u64 = 1 << Pair::WIDE;

/// The fence that the writing of an entry is behind, in 16 bits: 0 when it is known to have
/// passed, else the lower bits of its number.
///
/// What is read back is the newest fence with these bits that writing on the lane was put behind
/// so far: that fence, or, when thousands of others were since, a later one. Who waits for that
/// waits for the writing too.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Written(u16);

impl Written {
    const PASSED: Written = Written(0);
    const BITS: u64 = u16::MAX as u64 >> 1;

    #[inline]
    fn behind(sequence: u64) -> Written {
        match sequence {
            0 => Written::PASSED,
            _ => Written((sequence << 1) as u16 | 1),
        }
    }

    /// The fence, on a lane on which the last was `last`; 0 when it has passed.
    #[inline]
    fn sequence(self, last: u64) -> u64 {
        match self {
            Written::PASSED => 0,
            Written(bits) => last - (last.wrapping_sub(u64::from(bits >> 1)) & Written::BITS),
        }
    }
}

/// A key and the block that it names. Without gaps, which would be 4 bytes.
#[repr(Rust, packed(4))]
struct Entry {
    name: Name,
    /// The first byte of the block, and the lane it was put on.
    place: Pair,
    /// Bytes of the block, and the fence that its writing is behind.
    extent: Pair,
    /// Bytes of the block that were not asked for.
    waste: u32,
    /// When it was put.
    stamp: u32,
    /// The next older entry of the same key, or the next of those that are none.
    next: u32,
    /// The next newer one, [`NONE`] for the newest, which is the one in the table of keys.
    prev: u32,
    /// Who reads it, in `Table::pins`, and behind those who has read it, in `Table::uses`, with
    /// the bit [`BEYOND`].
    readers: u32,
}

const _: () = assert!(size_of::<Entry>() == 52);

impl Entry {
    fn is_listed(&self) -> bool {
        self.prev < LEAVING || self.prev == NONE
    }

    #[inline]
    fn bytes(&self) -> u64 {
        { self.extent }.wide()
    }

    #[inline]
    fn requested(&self) -> u64 {
        self.bytes() - u64::from(self.waste)
    }

    #[inline]
    fn address(&self) -> usize {
        { self.place }.wide() as usize
    }

    #[inline]
    fn lane(&self) -> usize {
        usize::from({ self.place }.narrow())
    }

    #[inline]
    fn written(&self) -> Written {
        Written({ self.extent }.narrow())
    }

    fn set_written(&mut self, written: Written) {
        self.extent = Pair::new(self.bytes(), written.0);
    }
}

/// The first use, if there is one, of what follows an entry's pins.
#[inline]
fn first_use(beyond: u32) -> u32 {
    if beyond == NONE { NONE } else { beyond & !BEYOND }
}

/// Reads of an entry on a lane, done by a fence.
struct Use {
    sequence: u64,
    next: u32,
    lane: u16,
    /// The lane was behind the entry's writing before it read.
    behind: bool,
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
    /// The last fence that an entry's writing is behind.
    last: u64,
    /// What is here by it.
    pub count: u32,
}

/// Fences of reads that are told in one go.
const FENCES: usize = 2;

/// A block that left, to be given back without the lock.
#[derive(Clone, Copy, Debug)]
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
    /// The fences that its reads are behind, as far as there is a place for them.
    pub read: Fences,
    /// Its other reads, in `Table::uses`: see [`Table::more_reads`].
    pub rest: u32,
}

/// A few fences.
#[derive(Clone, Copy, Debug)]
pub struct Fences {
    some: [Fence; FENCES + 1],
    count: usize,
}

impl Fences {
    const NONE: Fences =
        Fences { some: [Fence { stream: Stream::DEFAULT, sequence: 0 }; FENCES + 1], count: 0 };

    #[inline]
    fn push(&mut self, fence: Fence) {
        self.some[self.count] = fence;
        self.count += 1;
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// They.
    #[inline]
    pub fn get(&self) -> &[Fence] {
        &self.some[..self.count]
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
    ticket: u64,
    pin: u32,
    entry: Id,
    /// Which of the cache's pools its block is of.
    pub home: u16,
}

/// What [`Table::evict`] ended with.
pub enum Evicted {
    /// A block.
    This(Gone),
    /// There is none.
    None,
    /// There may be one behind many that are read: to be asked again, not more than
    /// [`Table::rounds`] times in a row.
    MaybeLater,
}

/// What a search for one that may go ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    This(Id),
    None,
    /// Too many are read; those are not in the way any more.
    MaybeLater,
}

/// Entries, as a policy asks about them.
struct Known<'a> {
    entries: &'a [Entry],
    hash: Hash,
}

impl Entries for Known<'_> {
    #[inline]
    fn key(&self, entry: Id) -> Short {
        Short::of(self.hash.of(self.entries[entry as usize].name))
    }

    #[inline]
    fn size(&self, entry: Id) -> Size {
        Size::of(self.entries[entry as usize].bytes())
    }
}

/// As [`Known`], by who has the hash of one entry's key at hand.
struct KnownWith<'a> {
    known: Known<'a>,
    id: Id,
    hash: u64,
}

impl Entries for KnownWith<'_> {
    #[inline]
    fn key(&self, entry: Id) -> Short {
        if entry == self.id { Short::of(self.hash) } else { self.known.key(entry) }
    }

    #[inline]
    fn size(&self, entry: Id) -> Size {
        self.known.size(entry)
    }
}

/// A search for an entry that may go.
struct Search<'a> {
    entries: &'a mut [Entry],
    hash: Hash,
    pins: &'a mut Pins,
    lanes: &'a mut [Lane],
    /// Of which pool it has to be, if that matters.
    home: Option<u16>,
    /// The first that were met and are read.
    read: &'a mut [Id; READ_LOOKED_AT],
    count: usize,
    /// Too many were met that are read; whatever came after them was not looked at.
    enough: bool,
    /// The first that was met and may go.
    free: Option<Id>,
}

impl Entries for Search<'_> {
    #[inline]
    fn key(&self, entry: Id) -> Short {
        Known { entries: self.entries, hash: self.hash }.key(entry)
    }

    #[inline]
    fn size(&self, entry: Id) -> Size {
        Known { entries: self.entries, hash: self.hash }.size(entry)
    }
}

impl Leaving for Search<'_> {
    #[inline]
    fn may_go(&mut self, id: Id) -> bool {
        let entry = &mut self.entries[id as usize];
        debug_assert!(entry.is_listed());
        if self.home.is_some_and(|home| self.lanes[entry.lane()].home != home) {
            return false;
        }
        let is_read = self.pins.is_read(&mut entry.readers, self.lanes);
        // An answer that ends the search.
        self.enough |= is_read && self.count == READ_LOOKED_AT;
        if self.enough {
            return true;
        }
        if is_read {
            self.read[self.count] = id;
            self.count += 1;
        } else {
            self.free = self.free.or(Some(id));
        }
        !is_read
    }
}

/// What a cache knows.
pub struct Table {
    /// The newest entry of each key.
    keys: Index,
    hash: Hash,
    entries: Vec<Entry>,
    vacant: u32,
    /// How many entries there is memory for, here and in the policy.
    room: usize,
    uses: Vec<Use>,
    vacant_use: u32,
    pins: Pins,
    /// What a search met that is read. Here, for it is many words and mostly none are needed.
    read: [Id; READ_LOOKED_AT],
    lanes: Vec<Lane>,
    longs: Longs,
    policy: Chosen,
    /// The budgets.
    pub limits: Limits,
    /// Bytes of blocks, of detached entries too.
    pub bytes: u64,
    /// Entries, detached ones too.
    pub count: u64,
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
    pub fn new(
        hash: Hash,
        mut policy: Chosen,
        limits: Limits,
        homes: usize,
        marks: Arc<Marks>,
    ) -> Table {
        let budget = Budget { bytes: limits.bytes, entries: limits.entries };
        policy.set_budget(budget, &Known { entries: &[], hash });
        let lane = |home| Lane { home, stream: Stream::DEFAULT, began: 0, last: 0, count: 1 };
        Table {
            keys: Index::new(),
            hash,
            entries: Vec::new(),
            vacant: NONE,
            room: 0,
            uses: Vec::new(),
            vacant_use: NONE,
            pins: Pins::new(marks),
            read: [NONE; READ_LOOKED_AT],
            // The lanes of those who work without streams, by the number of the pool; they stay.
            lanes: (0..homes as u16).map(lane).collect(),
            longs: Longs::default(),
            policy,
            limits,
            bytes: 0,
            count: 0,
            left_bytes: 0,
            bytes_of: vec![0; homes],
            left: vec![false; homes],
            counters: Counters::default(),
        }
    }

    /// The newest entry of a key.
    #[inline]
    pub fn find(&self, key: &Asked<'_>) -> Option<Id> {
        match key.name() {
            Some(name) => self.keys.find(key.hash, |id| { self.entries[id as usize].name } == name),
            None => self.keys.find(key.hash, |id| self.has_long(id, key)),
        }
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

    /// The entry, of a key with this hash, was looked up and is there.
    #[inline]
    pub fn hit(&mut self, id: Id, hash: u64) {
        self.counters.hits += 1;
        let known = Known { entries: &self.entries, hash: self.hash };
        self.policy.hit(id, &KnownWith { known, id, hash });
    }

    /// A key was looked up and is not there.
    pub fn missed(&mut self, hash: u64) {
        self.counters.misses += 1;
        self.policy.missed(hash, &Known { entries: &self.entries, hash: self.hash });
    }

    /// The number of a lane of the stream that began with the fence `began`. What it is asked for
    /// must be entered before the lock is given up.
    pub fn lane_for(&mut self, home: u16, stream: Stream, began: u64) -> Result<u16> {
        let same = |lane: &Lane| (lane.home, lane.stream, lane.began) == (home, stream, began);
        let unused = |lane: &Lane| lane.count == 0;
        if let Some(at) = self.lanes.iter().position(same) {
            return Ok(at as u16);
        }
        let lane = Lane { home, stream, began, last: 0, count: 0 };
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

    /// Makes sure that there is memory for one more entry, of a key with this hash.
    #[inline]
    fn reserve(&mut self, hash: u64) -> bool {
        if self.vacant == NONE && self.entries.len() >= self.room && !self.reserve_entries() {
            return false;
        }
        let (entries, hashes) = (&self.entries, self.hash);
        self.keys.reserve(hash, |id| hashes.of(entries[id as usize].name))
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
        // Keys grow with it; if there is no memory for so many, a few at a time.
        let (entries, hash) = (&self.entries, self.hash);
        self.keys.reserve_for(self.room, |id| hash.of(entries[id as usize].name));
        true
    }

    /// Enters a block under a key. An error when there is no memory for it; nothing has changed.
    pub fn insert(&mut self, key: &Asked<'_>, fresh: &Fresh) -> Result<Id> {
        if !self.reserve(key.hash) {
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
            place: Pair::new(fresh.address as u64, fresh.lane),
            extent: Pair::new(fresh.allocated, Written::behind(fresh.written).0),
            // What is more, which no block is that was asked for as it is, shows as more bytes.
            waste: u32::try_from(fresh.allocated - fresh.requested).unwrap_or(0),
            stamp: fresh.stamp,
            next: older.unwrap_or(NONE),
            prev: NONE,
            readers: NONE,
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
                self.keys.replace(key.hash, older, id);
            }
            None => self.keys.insert(key.hash, id),
        }
        let lane = &mut self.lanes[fresh.lane as usize];
        lane.count += 1;
        lane.last = lane.last.max(fresh.written);
        self.bytes_of[lane.home as usize] += fresh.allocated;
        self.bytes += fresh.allocated;
        self.count += 1;
        self.counters.puts += 1;
        let known = Known { entries: &self.entries, hash: self.hash };
        self.policy.insert(id, &KnownWith { known, id, hash: key.hash });
        Ok(id)
    }

    /// Whether there is more than the budgets allow.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.bytes > self.limits.bytes || self.count > self.limits.entries
    }

    /// Who is to make room for the new entry `id`: maybe `id` itself.
    #[inline]
    pub fn evict_for(&mut self, id: Id) -> (Id, Why) {
        let mut victim = self.victim(None);
        for _ in 1..ROUNDS {
            if victim != Victim::MaybeLater {
                break;
            }
            victim = self.victim(None);
        }
        match victim {
            Victim::This(victim) if victim != id => (victim, Why::Evicted),
            // It is not pinned, nor is it too soon for it.
            _ => (id, Why::Refused),
        }
    }

    /// The entry that is worth least, of those that nobody reads and, with `home`, that are of
    /// that pool. Not more than a few that are read are looked at: they count as used then, so that
    /// they are not in the way again.
    #[inline]
    fn victim(&mut self, home: Option<u16>) -> Victim {
        let mut search = Search {
            entries: &mut self.entries,
            hash: self.hash,
            pins: &mut self.pins,
            lanes: &mut self.lanes,
            home,
            read: &mut self.read,
            count: 0,
            enough: false,
            free: None,
        };
        let victim = self.policy.victim(&mut search);
        let Search { enough, free, .. } = search;
        if !enough {
            return victim.map_or(Victim::None, Victim::This);
        }
        let known = Known { entries: &self.entries, hash: self.hash };
        self.read.iter().for_each(|&id| self.policy.in_use(id, &known));
        // What the policy says then is nothing to go by, but for what it saw before.
        free.map_or(Victim::MaybeLater, Victim::This)
    }

    /// Takes the entry out that is worth least, of those that nobody reads and, with `home`, that
    /// are of that pool.
    pub fn evict(&mut self, home: Option<u16>, why: Why) -> Evicted {
        match self.victim(home) {
            Victim::This(victim) => self.remove(victim, why).map_or(Evicted::None, Evicted::This),
            Victim::None => Evicted::None,
            Victim::MaybeLater => Evicted::MaybeLater,
        }
    }

    /// In how many goes all that are read were looked at, in whatever order the policy has them.
    pub fn rounds(&self) -> usize {
        4 * (self.entries.len() / READ_LOOKED_AT + 1)
    }

    /// Takes a listed entry out; its block leaves at once, or, when it is pinned, with its last pin.
    #[inline]
    pub fn remove(&mut self, id: Id, why: Why) -> Option<Gone> {
        if self.unlist(id, why) { Some(self.vacate(id)) } else { None }
    }

    /// As [`Table::remove`], of one of several: its block leaves with [`Table::next_leaving`].
    pub fn remove_later(&mut self, id: Id, why: Why, leaving: &mut u32) {
        if self.unlist(id, why) {
            let entry = &mut self.entries[id as usize];
            (entry.prev, entry.next) = (LEAVING, std::mem::replace(leaving, id));
        }
    }

    /// The next block of those that are leaving.
    pub fn next_leaving(&mut self, leaving: &mut u32) -> Option<Gone> {
        let id = *leaving;
        if id == NONE {
            return None;
        }
        *leaving = self.entries[id as usize].next;
        Some(self.vacate(id))
    }

    /// Takes a listed entry out of all lists; its block does not count any more, unless it is
    /// pinned. Whether it leaves.
    #[inline]
    fn unlist(&mut self, id: Id, why: Why) -> bool {
        let evicted = matches!(why, Why::Evicted | Why::Pressed | Why::Refused);
        let Entry { next, prev, name, readers, .. } = self.entries[id as usize];
        let allocated = self.entries[id as usize].bytes();
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
        let hash = self.hash.of(name);
        let known = Known { entries: &self.entries, hash: self.hash };
        self.policy.remove(id, evicted, &KnownWith { known, id, hash });
        if next != NONE {
            self.entries[next as usize].prev = prev;
        }
        if prev != NONE {
            self.entries[prev as usize].next = next;
        } else {
            match next {
                NONE => self.keys.remove(hash, id),
                next => self.keys.replace(hash, id, next),
            }
        }
        let entry = &mut self.entries[id as usize];
        (entry.next, entry.prev) = (NONE, DETACHED);
        if let Some(place) = name.place() {
            self.longs.give_up(place);
        }
        let is_read = is_pin(readers) && self.pins.watch(&mut entry.readers, &mut self.lanes);
        if !is_read {
            self.discount(id);
        }
        !is_read
    }

    /// The block of an entry does not count any more.
    #[inline]
    fn discount(&mut self, id: Id) {
        let entry = &self.entries[id as usize];
        let (home, allocated) = (self.lanes[entry.lane()].home, entry.bytes());
        self.bytes_of[home as usize] -= allocated;
        self.bytes -= allocated;
        self.left_bytes += allocated;
        self.count -= 1;
    }

    /// The place of an entry that is in no list any more, nor pinned, is free; its block leaves.
    #[inline]
    fn vacate(&mut self, id: Id) -> Gone {
        let entry = &mut self.entries[id as usize];
        let uses = first_use(entry.readers);
        (entry.readers, entry.prev, entry.next) = (NONE, VACANT, self.vacant);
        self.vacant = id;
        let lane = &mut self.lanes[entry.lane()];
        // Lanes that serve again do so for entries that come later: this one's is read below.
        lane.count -= 1;
        let (stream, sequence) = (lane.stream, entry.written().sequence(lane.last));
        let mut gone = Gone {
            home: lane.home,
            address: entry.address(),
            requested: entry.requested(),
            allocated: entry.bytes(),
            stream: (stream, lane.began),
            read: Fences::NONE,
            rest: uses,
        };
        if sequence > 0 {
            gone.read.push(Fence { stream, sequence });
        }
        if uses != NONE {
            self.more_reads(&mut gone);
        }
        gone
    }

    /// Takes the next fences that the reads of a block are behind.
    #[cold]
    pub fn more_reads(&mut self, gone: &mut Gone) {
        for _ in 0..FENCES {
            let at = gone.rest;
            if at == NONE {
                return;
            }
            let Use { sequence, next, lane, .. } = self.uses[at as usize];
            gone.read.push(Fence { stream: self.lanes[lane as usize].stream, sequence });
            self.vacate_use(at);
            gone.rest = next;
        }
    }

    fn vacate_use(&mut self, at: u32) {
        let one = &mut self.uses[at as usize];
        self.lanes[one.lane as usize].count -= 1;
        one.next = std::mem::replace(&mut self.vacant_use, at);
    }

    /// Pins an entry for somebody who reads it.
    #[inline]
    pub fn pin(&mut self, id: Id) -> Result<Pinned> {
        let at = match self.pins.vacant() {
            Some(at) => at,
            None => self.make_pin()?,
        };
        let entry = &mut self.entries[id as usize];
        let (address, requested, is_written) =
            (entry.address(), entry.requested(), entry.written() == Written::PASSED);
        let ticket = self.pins.hold(at, id, &mut entry.readers, address);
        Ok(Pinned { ticket, address, requested, is_written })
    }

    /// A pin that nobody has: one that was released, or one more.
    #[inline]
    fn make_pin(&mut self) -> Result<u32> {
        let Some((at, entry)) = self.pins.released() else { return self.pins.grow() };
        self.pins.drop_pin(at, &mut self.entries[entry as usize].readers, &mut self.lanes);
        Ok(at)
    }

    /// Entries that are pinned, and their bytes.
    pub fn pinned(&mut self) -> (u64, u64) {
        let mut from = 0;
        while let Some((at, entry)) = self.pins.released_from(from) {
            self.pins.drop_pin(at, &mut self.entries[entry as usize].readers, &mut self.lanes);
            from = at + 1;
        }
        let bytes = self.pins.entries().map(|entry| self.entries[entry as usize].bytes());
        bytes.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes))
    }

    /// The pin with this ticket, of the block at `address`; an error when it is not held.
    pub fn held(&self, ticket: u64, address: usize) -> Result<Held> {
        let (pin, entry) = self.pins.held(ticket, address)?;
        let home = self.lanes[self.entries[entry as usize].lane()].home;
        Ok(Held { ticket, pin, entry, home })
    }

    /// The lane that a pinned entry was written on, and the fence that its writing is behind.
    pub fn writing(&self, held: Held) -> (Lane, Fence) {
        let entry = &self.entries[held.entry as usize];
        let lane = self.lanes[entry.lane()];
        (lane, Fence { stream: lane.stream, sequence: entry.written().sequence(lane.last) })
    }

    /// Whether readers on `lane` are behind the writing of the pinned entry; if they are, the
    /// pin says so from now on.
    pub fn is_behind(&mut self, held: Held, lane: u16) -> bool {
        let entry = &self.entries[held.entry as usize];
        let behind = entry.written() == Written::PASSED
            || entry.lane() == lane as usize
            || self.uses_of(held.entry).any(|one| one.lane == lane && one.behind);
        if behind {
            self.note_behind(held, lane);
        }
        behind
    }

    /// Readers on `lane` are behind the writing of the pinned entry.
    pub fn note_behind(&mut self, held: Held, lane: u16) {
        self.lanes[lane as usize].count += 1;
        if let Some(before) = self.pins.note_lane(held.pin, lane) {
            self.lanes[before as usize].count -= 1;
        }
    }

    /// The writing of the pinned entry is known to have passed.
    pub fn note_written(&mut self, held: Held) {
        self.entries[held.entry as usize].set_written(Written::PASSED);
    }

    fn uses_of(&self, id: Id) -> impl Iterator<Item = &Use> {
        let at = |at: u32| self.uses.get(at as usize);
        std::iter::successors(at(self.first_use(id)), move |one| at(one.next))
    }

    fn first_use(&self, id: Id) -> u32 {
        first_use(self.pins.beyond(self.entries[id as usize].readers))
    }

    fn set_first_use(&mut self, id: Id, at: u32) {
        self.pins.set_beyond(&mut self.entries[id as usize].readers, at | BEYOND);
    }

    /// The reader is done. Its block leaves if it was the last one of an entry that is detached.
    pub fn unpin(&mut self, held: Held) -> Result<Option<Gone>> {
        self.pins.release(held.ticket)?;
        let entry = &mut self.entries[held.entry as usize];
        self.pins.drop_pin(held.pin, &mut entry.readers, &mut self.lanes);
        if is_pin(entry.readers) || entry.prev != DETACHED {
            return Ok(None);
        }
        self.discount(held.entry);
        Ok(Some(self.vacate(held.entry)))
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
        let behind = self.pins.lane(held.pin) == lane;
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
        let mut at = self.first_use(id);
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
                    NONE => self.set_first_use(id, next),
                    before => self.uses[before as usize].next = next,
                }
                self.vacate_use(at);
            } else {
                before = at;
            }
            at = next;
        }
        let one = Use { sequence, next: self.first_use(id), lane, behind };
        let at = match self.vacant_use {
            NONE => {
                if self.uses.len() >= BEYOND as usize - 1 || self.uses.try_reserve(1).is_err() {
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
        self.set_first_use(id, at);
        Ok(())
    }

    /// How many places for entries there are.
    pub fn places(&self) -> usize {
        self.entries.len()
    }

    /// The entry in this place, if it is listed.
    pub fn listed(&self, place: usize) -> Option<Id> {
        self.entries.get(place).filter(|entry| entry.is_listed()).map(|_| place as Id)
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
    pub fn free_one(&mut self, newest: Id, stream: Stream) -> Option<Id> {
        let (mut first, mut seen, mut at) = (None, 0, Some(newest));
        while let Some(id) = at {
            let entry = &mut self.entries[id as usize];
            if !self.pins.is_read(&mut entry.readers, &mut self.lanes) {
                if self.lanes[entry.lane()].stream == stream {
                    return Some(id);
                }
                first = first.or(Some(id));
                seen += 1;
                if seen == LOOKED_AT {
                    break;
                }
            }
            at = self.older(id);
        }
        first
    }

    /// The budgets are kept again.
    #[inline]
    pub fn note_peak(&mut self) {
        self.counters.bytes_peak = self.counters.bytes_peak.max(self.bytes);
    }

    /// Whether the entry is of the pool `home`.
    pub fn is_of(&self, id: Id, home: u16) -> bool {
        self.lanes[self.entries[id as usize].lane()].home == home
    }

    /// Bytes of bookkeeping, without the bytes of keys longer than 15.
    pub fn bookkeeping_bytes(&self) -> usize {
        self.keys.bytes()
            + self.entries.capacity() * size_of::<Entry>()
            + self.uses.capacity() * size_of::<Use>()
            + self.pins.bytes()
            + self.lanes.capacity() * size_of::<Lane>()
            + self.longs.bookkeeping_bytes()
            + self.policy.bookkeeping_bytes()
    }

    /// Checks every invariant.
    pub fn validate(&self) -> std::result::Result<(), String> {
        let mut sums = (0, 0);
        let mut listed = 0;
        let mut pins = 0;
        let mut bytes_of = vec![0; self.bytes_of.len()];
        for (at, entry) in self.entries.iter().enumerate() {
            if entry.prev == VACANT || entry.prev == LEAVING {
                continue;
            }
            sums.0 += 1;
            sums.1 += entry.bytes();
            bytes_of[self.lanes[entry.lane()].home as usize] += entry.bytes();
            pins += self.pins.of_entry(at as u32, entry.readers, !entry.is_listed())?;
            if !entry.is_listed() {
                if !is_pin(entry.readers) {
                    return Err(format!("entry {at} is detached and not pinned"));
                }
                continue;
            }
            listed += 1;
            let hash = self.hash.of(entry.name);
            let same = |head: u32| {
                std::iter::successors(Some(head), |&id| self.older(id)).any(|id| id as usize == at)
            };
            let Some(head) = self.keys.find(hash, same) else {
                return Err(format!("entry {at} is not found by its key"));
            };
            let chain = std::iter::successors(Some(head), |&id| self.older(id));
            if chain.take(self.entries.len() + 1).filter(|&id| id as usize == at).count() != 1 {
                return Err(format!("entry {at} is not once among those of its key"));
            }
        }
        let counted = (self.count, self.bytes);
        if sums != counted || bytes_of != self.bytes_of {
            return Err(format!("{sums:?} entries and bytes, counted {counted:?}"));
        }
        let heads: usize = self
            .keys
            .iter()
            .map(|head| std::iter::successors(Some(head), |&id| self.older(id)).count())
            .sum();
        if heads != listed {
            return Err(format!("{listed} listed entries, {heads} by key"));
        }
        let used = self.pins.used()?;
        if used != pins {
            return Err(format!("{used} pins, entries have {pins}"));
        }
        self.keys.validate(|id| self.hash.of(self.entries[id as usize].name))?;
        self.policy.validate(&Known { entries: &self.entries, hash: self.hash })
    }
}

#[cold]
fn no_memory(key: &Asked<'_>) -> Error {
    fail!(OutOfMemory, "no memory for an entry with a key of {} bytes", key.bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_in_sixteen_bits_is_never_an_earlier_one() {
        assert_eq!(Written::behind(0).sequence(77), 0);
        for sequence in [1, 2, 0x7fff, 0x8000, 0x8001, 1 << 40, (1 << 40) + 5] {
            let written = Written::behind(sequence);
            assert!(written != Written::PASSED);
            for later in (0..0x8000).step_by(331) {
                assert_eq!(written.sequence(sequence + later), sequence);
            }
            for later in [0x8000, 0x8001, 0x17_0000, 1 << 41] {
                let last = sequence + later;
                let read = written.sequence(last);
                assert!(sequence <= read && read <= last && last - read < 0x8000);
            }
        }
    }

    #[test]
    fn a_pair_has_both() {
        let pair = Pair::new(ADDRESSES - 1, 7);
        assert_eq!((pair.wide(), pair.narrow()), (ADDRESSES - 1, 7));
    }
}
