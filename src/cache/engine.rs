//! The cache: what is done under its lock, and what after it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::clock::Clock;
use super::config::{Config, Limits};
use super::key::{self, Asked, Hash};
use super::memory::{Home, Memory};
use super::pins::{Marks, Released};
use super::policy::Kind;
use super::stats::Stats;
use super::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use super::sync::{Mutex, MutexGuard, yield_now};
use super::table::{ADDRESSES, Evicted, Fresh, Gone, NONE, Pinned, Table, Why};
use crate::error::{Error, Result, fail};
use crate::order::Stream;
use crate::pool::{Holder, Pool};

/// Most pools of a cache.
pub const POOLS_MAX: usize = 256;

/// How often a thread that is short of memory makes way for those who are about to give some back.
const AWAITED: u32 = 10_000;

/// Entries looked at in one go: others get at the cache in between.
const GO: usize = 256;
/// Blocks that leave in one go.
const BATCH: usize = 16;

/// Blocks that left under the lock, to be given back without it. Nothing is allocated for them:
/// they leave when memory is short.
struct Batch {
    gone: [Option<Gone>; BATCH],
    count: usize,
}

impl Batch {
    const fn new() -> Batch {
        Batch { gone: [None; BATCH], count: 0 }
    }

    fn is_full(&self) -> bool {
        self.count == BATCH
    }

    /// It is not full.
    fn push(&mut self, gone: Option<Gone>) {
        if gone.is_some() {
            self.gone[self.count] = gone;
            self.count += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Gone> {
        self.gone[..self.count].iter().flatten()
    }
}

/// An entry that is being read: it stays until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// What [`Cache::release`] wants to know.
    pub ticket: u64,
    /// First byte of the block.
    pub address: usize,
    /// Bytes that were asked for when it was allocated.
    pub bytes: u64,
}

/// A block that is the caller's again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// First byte.
    pub address: usize,
    /// Bytes that were asked for when it was allocated.
    pub bytes: u64,
}

/// Blocks by key. See the [module](super).
pub struct Cache<M: Memory = Pool> {
    id: u64,
    homes: Box<[Home<M>]>,
    hash: Hash,
    limits: Limits,
    policy: Kind,
    clock: Clock,
    /// In ticks of the clock.
    time_to_live: Option<u32>,
    pub(super) table: Mutex<Table>,
    marks: Arc<Marks>,
    /// Bytes that were given back so far, of those that the table says have left.
    given_back: AtomicU64,
    poisoned: AtomicBool,
}

impl<M: Memory> Cache<M> {
    /// A cache for blocks of `pools`.
    pub fn create(pools: &[Arc<M>], config: &Config) -> Result<Arc<Cache<M>>> {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        if pools.is_empty() || pools.len() > POOLS_MAX {
            return Err(fail!(
                InvalidArgument,
                "count is {}; a cache has 1 to {POOLS_MAX} pools",
                pools.len()
            ));
        }
        for (at, pool) in pools.iter().enumerate() {
            if pools[..at].iter().any(|other| other.id() == pool.id()) {
                return Err(fail!(InvalidArgument, "pools[{at}] is there twice"));
            }
            let (first, bytes) = pool.addresses();
            if (first as u64).saturating_add(bytes) > ADDRESSES {
                return Err(fail!(
                    Unsupported,
                    "pools[{at}] has {bytes} bytes of addresses from {first:#x} on; a cache knows \
                     those below {ADDRESSES:#x}"
                ));
            }
        }
        let limits = config.limits()?;
        let hash = Hash::new();
        let marks = Arc::new(Marks::new());
        let cache = Arc::new(Cache {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            homes: pools.iter().map(Home::of).collect(),
            hash,
            limits,
            policy: config.policy,
            clock: Clock::new(),
            time_to_live: config.time_to_live.map(Clock::ticks),
            given_back: AtomicU64::new(0),
            table: Mutex::new(Table::new(
                hash,
                config.policy.build(config.goal),
                limits,
                pools.len(),
                Arc::clone(&marks),
            )),
            marks,
            poisoned: AtomicBool::new(false),
        });
        for pool in pools {
            let holder: Weak<Cache<M>> = Arc::downgrade(&cache);
            pool.enter(holder);
        }
        Ok(cache)
    }

    /// Its number in messages.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Relaxed) {
            return Err(fail!(
                Poisoned,
                "cache {} caught a panic earlier and answers nothing else any more; destroy it",
                self.id
            ));
        }
        Ok(())
    }

    /// A panic was caught in a call of this cache: what it left behind is unknown.
    pub fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(super) fn memory(&self, home: u16) -> Result<Arc<M>> {
        let home = &self.homes[home as usize];
        home.memory.upgrade().ok_or_else(|| gone(home.id))
    }

    /// Puts the live block at `address`, whose contents are written by what is queued on `stream`,
    /// under `key`. From now on it is the cache's; what has no room goes back to its pool, and
    /// that may be this very block. With an error it stays the caller's.
    pub fn put(&self, key: &[u8], address: usize, stream: Stream) -> Result<()> {
        self.check_open()?;
        key::check(key)?;
        let Some(home) = self.homes.iter().position(|home| home.has(address)) else {
            return Err(fail!(
                InvalidPointer,
                "ptr {address:#x} is of no pool of cache {}",
                self.id
            ));
        };
        let home = home as u16;
        let memory = self.memory(home)?;
        let extent = memory.extent(address)?;
        self.check_size(extent.allocated)?;
        let marked = match self.homes[home as usize].is_immediate(stream) {
            true => None,
            false => Some(memory.mark(stream)?),
        };
        let stamp = self.clock.now();
        let key = self.hash.ask(key);
        let mut table = self.table.lock();
        if table.has_left(home) {
            return Err(gone(self.homes[home as usize].id));
        }
        let (lane, written) = match marked {
            None => (home, 0),
            Some((fence, began)) => (table.lane_for(home, fence.stream, began)?, fence.sequence),
        };
        let (allocated, requested) = (extent.allocated, extent.requested);
        let fresh = Fresh { address, allocated, requested, lane, written, stamp };
        let id = table.insert(&key, &fresh)?;
        // Mostly one makes room, and then the key is all that was allocated. What is pinned stays.
        // The new one never is, so that it goes if all others are.
        let (mut first, mut leaving) = (None, NONE);
        if table.is_over() {
            let (victim, why) = table.evict_for(id);
            first = table.remove(victim, why);
            while table.is_over() {
                let (victim, why) = table.evict_for(id);
                table.remove_later(victim, why, &mut leaving);
            }
        }
        table.note_peak();
        drop(table);
        if let Some(first) = &mut first {
            self.give_back_to(&memory, home, first);
        }
        if leaving != NONE {
            self.give_back_all(leaving);
        }
        Ok(())
    }

    #[cold]
    fn give_back_all(&self, mut leaving: u32) {
        while leaving != NONE {
            let mut batch = Batch::new();
            let mut table = self.table.lock();
            while leaving != NONE && !batch.is_full() {
                batch.push(table.next_leaving(&mut leaving));
            }
            drop(table);
            self.give_back(&batch);
        }
    }

    pub(super) fn check_size(&self, allocated: u64) -> Result<()> {
        if allocated > self.limits.bytes {
            return Err(fail!(
                InvalidArgument,
                "the block has {allocated} bytes; max_bytes of cache {} is {}",
                self.id,
                self.limits.bytes
            ));
        }
        Ok(())
    }

    /// Gets the newest entry of `key` to read, for work that is queued on `stream` from now on;
    /// where that cannot be made to wait for the entry's writing, the caller waits. None when
    /// there is none.
    #[inline]
    pub fn get(&self, key: &[u8], stream: Stream) -> Result<Option<Read>> {
        self.check_open()?;
        key::check(key)?;
        let key = self.hash.ask(key);
        let mut table = self.table.lock();
        let mut found = table.find(&key);
        if let Some(id) = found
            && self.is_old(&table, id)
        {
            found = None;
            table = self.expire_key(table, &key);
        }
        let Some(id) = found else {
            table.missed(key.hash);
            return Ok(None);
        };
        let pinned = table.pin(id)?;
        table.hit(id, key.hash);
        drop(table);
        if !pinned.is_written {
            self.follow_writing(&pinned, stream).inspect_err(|_| {
                // No work of the reader's is queued.
                let _ = self.unpin(pinned.ticket, pinned.address);
            })?;
        }
        let Pinned { ticket, address, requested, .. } = pinned;
        Ok(Some(Read { ticket, address, bytes: requested }))
    }

    #[inline]
    fn is_old(&self, table: &Table, id: u32) -> bool {
        let Some(most) = self.time_to_live else { return false };
        self.clock.now().wrapping_sub(table.stamp(id)) >= most
    }

    /// All entries of a key are too old, for the newest is.
    #[cold]
    fn expire_key<'a>(
        &'a self,
        mut table: MutexGuard<'a, Table>,
        key: &Asked<'_>,
    ) -> MutexGuard<'a, Table> {
        loop {
            let mut batch = Batch::new();
            while !batch.is_full()
                && let Some(id) = table.find(key)
            {
                batch.push(table.remove(id, Why::Expired));
            }
            if batch.count == 0 {
                return table;
            }
            drop(table);
            self.give_back(&batch);
            table = self.table.lock();
            // What was put meanwhile is young.
            if table.find(key).is_none_or(|id| !self.is_old(&table, id)) {
                return table;
            }
        }
    }

    /// Makes `stream` wait for the writing of a pinned entry, if it is not behind it already.
    #[cold]
    fn follow_writing(&self, pinned: &Pinned, stream: Stream) -> Result<()> {
        // Pinned, it is the same entry whenever the lock is taken.
        let held = self.table.lock().held(pinned.ticket, pinned.address)?;
        let (lane, fence) = self.table.lock().writing(held);
        let memory = self.memory(held.home)?;
        let immediate = self.homes[held.home as usize].is_immediate(stream);
        if immediate && !memory.has_passed(fence) {
            memory.wait_on(stream, &[fence])?;
        }
        if immediate || memory.has_passed(fence) {
            self.table.lock().note_written(held);
            return Ok(());
        }
        let (own, began) = memory.mark(stream)?;
        let behind = {
            let mut table = self.table.lock();
            let lane = table.lane_for(lane.home, own.stream, began)?;
            table.is_behind(held, lane)
        };
        if !behind {
            memory.wait_on(stream, &[fence])?;
            let mut table = self.table.lock();
            let lane = table.lane_for(lane.home, own.stream, began)?;
            table.note_behind(held, lane);
        }
        Ok(())
    }

    /// The reader of the block at `address` is done with what is queued on `stream` by now.
    #[inline]
    pub fn release(&self, ticket: u64, address: usize, stream: Stream) -> Result<()> {
        self.check_open()?;
        let mut homes = self.homes.iter();
        if homes.find(|home| home.has(address)).is_some_and(|home| home.is_immediate(stream))
            && self.marks.release(ticket, address) == Released::Done
        {
            return Ok(());
        }
        self.release_under_lock(ticket, address, stream)
    }

    #[cold]
    fn release_under_lock(&self, ticket: u64, address: usize, stream: Stream) -> Result<()> {
        let home = self.table.lock().held(ticket, address)?.home;
        match self.homes[home as usize].is_immediate(stream) {
            true => self.unpin(ticket, address),
            false => self.release_on(ticket, address, home, stream),
        }
    }

    fn release_on(&self, ticket: u64, address: usize, home: u16, stream: Stream) -> Result<()> {
        let Ok(memory) = self.memory(home) else { return self.unpin(ticket, address) };
        let (fence, began) = memory.mark(stream)?;
        let mut table = self.table.lock();
        // Another thread may have released it meanwhile.
        let held = table.held(ticket, address)?;
        let lane = table.lane_for(home, fence.stream, began)?;
        table.note_read(held, lane, fence.sequence, |fence| memory.has_passed(fence))?;
        let gone = table.unpin(held)?;
        drop(table);
        if let Some(gone) = gone {
            self.give_one_back(gone);
        }
        Ok(())
    }

    fn unpin(&self, ticket: u64, address: usize) -> Result<()> {
        let mut table = self.table.lock();
        let held = table.held(ticket, address)?;
        let gone = table.unpin(held)?;
        drop(table);
        if let Some(gone) = gone {
            self.give_one_back(gone);
        }
        Ok(())
    }

    /// Takes an entry of `key` that nobody reads out: its block is the caller's, for work that is
    /// queued on `stream` from now on. Of several, one whose last use was on `stream`, if there is
    /// one, else the newest. None when there is none; an error when all are being read.
    pub fn take(&self, key: &[u8], stream: Stream) -> Result<Option<Taken>> {
        self.check_open()?;
        key::check(key)?;
        let key = self.hash.ask(key);
        let mut table = self.table.lock();
        let mut newest = table.find(&key);
        if let Some(id) = newest
            && self.is_old(&table, id)
        {
            newest = None;
            table = self.expire_key(table, &key);
        }
        let Some(newest) = newest else {
            table.missed(key.hash);
            return Ok(None);
        };
        let Some(id) = table.free_one(newest, stream) else {
            return Err(fail!(
                InvalidState,
                "every entry of this key is being read; what is pinned cannot be taken"
            ));
        };
        table.hit(id, key.hash);
        // It is not pinned, so it leaves.
        let gone = table.remove(id, Why::Taken);
        drop(table);
        let Some(gone) = gone else { return Ok(None) };
        if let Err((gone, error)) = self.wait_for_all(gone, stream) {
            self.give_one_back(gone);
            return Err(error);
        }
        self.given_back.fetch_add(gone.allocated, Ordering::AcqRel);
        Ok(Some(Taken { address: gone.address, bytes: gone.requested }))
    }

    /// Has `stream` wait for all who read a block. With an error, what is left to wait for.
    fn wait_for_all(
        &self,
        mut gone: Gone,
        stream: Stream,
    ) -> std::result::Result<(), (Gone, Error)> {
        if gone.read.get().is_empty() {
            return Ok(());
        }
        let failed = |gone| move |error| (gone, error);
        let memory = self.memory(gone.home).map_err(failed(gone))?;
        if !self.homes[gone.home as usize].is_immediate(stream) {
            // An error if there is no such stream.
            memory.mark(stream).map_err(failed(gone))?;
        }
        loop {
            memory.wait_on(stream, gone.read.get()).map_err(failed(gone))?;
            if gone.rest == NONE {
                return Ok(());
            }
            gone.read.clear();
            self.table.lock().more_reads(&mut gone);
        }
    }

    /// Removes the entries of `key`; returns how many. No get finds them any more; the blocks of
    /// those that are being read go with their last release.
    pub fn remove(&self, key: &[u8]) -> Result<u64> {
        self.check_open()?;
        key::check(key)?;
        let key = self.hash.ask(key);
        let mut removed = 0;
        loop {
            let mut batch = Batch::new();
            let mut table = self.table.lock();
            let before = removed;
            while !batch.is_full()
                && let Some(id) = table.find(&key)
            {
                batch.push(table.remove(id, Why::Removed));
                removed += 1;
            }
            drop(table);
            self.give_back(&batch);
            if removed == before || !batch.is_full() {
                return Ok(removed);
            }
        }
    }

    /// Evicts entries until `bytes` are free, or nothing is left that nobody reads. Returns the
    /// bytes.
    pub fn evict(&self, bytes: u64) -> Result<u64> {
        self.check_open()?;
        Ok(self.evict_some(None, bytes, Why::Evicted))
    }

    fn evict_some(&self, home: Option<u16>, bytes: u64, why: Why) -> u64 {
        let (mut freed, mut rounds) = (0, 0);
        while freed < bytes {
            let mut batch = Batch::new();
            let mut table = self.table.lock();
            let mut last = Evicted::None;
            while freed < bytes && !batch.is_full() {
                last = table.evict(home, why);
                let Evicted::This(gone) = last else { break };
                freed += gone.allocated;
                batch.push(Some(gone));
            }
            rounds = if batch.count == 0 { rounds + 1 } else { 0 };
            let again = matches!(last, Evicted::MaybeLater) && rounds <= table.rounds();
            let is_end = batch.count == 0 && !again;
            drop(table);
            if is_end {
                break;
            }
            self.give_back(&batch);
        }
        freed
    }

    /// Removes the entries that are `age` old or older; returns how many. Ages are known to four
    /// milliseconds.
    pub fn expire(&self, age: Duration) -> Result<u64> {
        self.check_open()?;
        let (now, most) = (self.clock.now(), Clock::ticks(age));
        Ok(self.remove_where(Why::Expired, |table, id| now.wrapping_sub(table.stamp(id)) >= most))
    }

    /// Removes all entries; returns how many.
    pub fn clear(&self) -> Result<u64> {
        self.check_open()?;
        Ok(self.remove_where(Why::Removed, |_, _| true))
    }

    fn remove_where(&self, why: Why, which: impl Fn(&Table, u32) -> bool) -> u64 {
        let (mut removed, mut from) = (0, 0);
        loop {
            let mut batch = Batch::new();
            let mut table = self.table.lock();
            let (places, to) = (table.places(), from + GO);
            while from < to.min(places) && !batch.is_full() {
                if let Some(id) = table.listed(from)
                    && which(&table, id)
                {
                    batch.push(table.remove(id, why));
                    removed += 1;
                }
                from += 1;
            }
            drop(table);
            self.give_back(&batch);
            if from >= places {
                return removed;
            }
        }
    }

    /// Gives blocks that left back to their pools.
    fn give_back(&self, batch: &Batch) {
        batch.iter().for_each(|gone| self.give_one_back(*gone));
    }

    #[inline]
    fn give_back_to(&self, memory: &Arc<M>, home: u16, gone: &mut Gone) {
        if gone.home != home {
            return self.give_one_back(*gone);
        }
        if gone.rest != NONE {
            self.follow_reads(memory, gone);
        }
        let freed = memory.free(gone.address, gone.stream, gone.read.get());
        if let Err(error) = freed {
            tracing::warn!(cache = self.id, address = gone.address, %error, "not given back");
        }
        self.given_back.fetch_add(gone.allocated, Ordering::AcqRel);
    }

    /// Tells the memory of reads until there are only a few left to tell with the free.
    #[cold]
    fn follow_reads(&self, memory: &Arc<M>, gone: &mut Gone) {
        while gone.rest != NONE {
            if let Err(error) = memory.follow(gone.address, gone.read.get()) {
                tracing::warn!(cache = self.id, address = gone.address, %error, "not followed");
            }
            gone.read.clear();
            self.table.lock().more_reads(gone);
        }
    }

    /// Waits for blocks that have left and are on their way back to their pools by other threads'
    /// hands. Returns their bytes, as far as they arrived.
    #[cold]
    fn await_leaving(&self) -> u64 {
        let before = self.given_back.load(Ordering::Acquire);
        let left = self.table.lock().left_bytes;
        // Not for ever: a free that waits for a stream might wait for this very call.
        for _ in 0..AWAITED {
            if self.given_back.load(Ordering::Acquire) >= left {
                break;
            }
            yield_now();
        }
        self.given_back.load(Ordering::Acquire) - before
    }

    #[inline(never)]
    fn give_one_back(&self, mut gone: Gone) {
        match self.memory(gone.home) {
            Ok(memory) => self.give_back_to(&memory, gone.home, &mut gone),
            // The memory of a pool that is gone is gone too.
            Err(_) => {
                self.forget_reads(gone);
                self.given_back.fetch_add(gone.allocated, Ordering::AcqRel);
            }
        }
    }

    /// Nobody has to be told of the reads of a block.
    fn forget_reads(&self, mut gone: Gone) {
        while gone.rest != NONE {
            gone.read.clear();
            self.table.lock().more_reads(&mut gone);
        }
    }

    /// Destroys a cache: what nobody reads is given back when this returns. An error tells of what
    /// is still pinned, whose blocks stay live.
    pub fn destroy(cache: Arc<Cache<M>>) -> Result<()> {
        if cache.poisoned.load(Ordering::Acquire) {
            return Ok(());
        }
        cache.remove_where(Why::Left, |_, _| true);
        let (entries, bytes) = cache.table.lock().pinned();
        if entries == 0 {
            return Ok(());
        }
        let id = cache.id;
        tracing::warn!(cache = id, entries, bytes, "cache destroyed with pinned entries");
        Err(fail!(
            InvalidState,
            "cache {id} was destroyed with {entries} pinned entries of {bytes} bytes; their blocks \
             are live blocks of their pools, for who reads them to free"
        ))
    }

    /// Its numbers.
    pub fn stats(&self) -> Stats {
        let mut table = self.table.lock();
        let pinned = table.pinned();
        Stats {
            counters: table.counters,
            entries: table.count,
            bytes: table.bytes,
            pinned_entries: pinned.0,
            pinned_bytes: pinned.1,
            max_entries: self.limits.entries,
            max_bytes: self.limits.bytes,
            bookkeeping_bytes: table.bookkeeping_bytes() as u64,
            policy: self.policy.name(),
        }
    }

    /// Checks every invariant. Walks over everything: for tests and debugging.
    pub fn check(&self) -> Result<()> {
        self.check_open()?;
        let checked = self.table.lock().validate();
        checked.map_err(|what| {
            fail!(Internal, "the bookkeeping of cache {} is wrong: {what}", self.id)
        })
    }

    /// Lets time pass, for tests of what is old.
    #[doc(hidden)]
    pub fn advance(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// Has a panic be caught, for tests of what follows one.
    #[doc(hidden)]
    pub fn panic_now(&self) {
        panic!("a panic that a test wished for");
    }
}

impl<M: Memory> Holder for Cache<M> {
    fn held(&self, pool: u64) -> u64 {
        let home = self.homes.iter().position(|home| home.id == pool);
        home.map_or(0, |home| self.table.lock().bytes_of[home])
    }

    fn give_up(&self, pool: u64, bytes: u64) -> u64 {
        if self.poisoned.load(Ordering::Acquire) {
            return 0;
        }
        let Some(home) = self.homes.iter().position(|home| home.id == pool) else { return 0 };
        match self.evict_some(Some(home as u16), bytes, Why::Pressed) {
            // Another thread may have just been given what this one is asked for.
            0 => self.await_leaving(),
            freed => freed,
        }
    }

    fn leave(&self, pool: u64) {
        let Some(home) = self.homes.iter().position(|home| home.id == pool) else { return };
        self.table.lock().leave(home as u16);
        self.remove_where(Why::Left, |table, id| table.is_of(id, home as u16));
    }
}

impl<M: Memory> Drop for Cache<M> {
    fn drop(&mut self) {
        if !self.poisoned.load(Ordering::Acquire) {
            self.remove_where(Why::Left, |_, _| true);
        }
    }
}

#[cold]
fn gone(pool: u64) -> crate::error::Error {
    fail!(InvalidState, "pool {pool}, which this cache is over, was destroyed")
}
