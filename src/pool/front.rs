//! Front caches: what a thread freed a moment ago, kept for its next allocation.
//!
//! A [`Slot`] belongs to one thread, one pool and one stream at a time. Its bins hold
//! blocks of one size each. The owner uses it without a lock and without a locked
//! instruction ([`super::handshake`]); others stop the owner first, which the ladder does
//! when memory is short.
//!
//! Whose block is it? The word of a block names the slot that gave it out. The owner of that
//! slot may take it back with a plain store; everybody else with a compare-and-swap, and not
//! before the owner was told ([`Slot::share`]) to do the same from then on. So of two calls
//! that free a block only one succeeds, whoever makes them, and a program pays for that only
//! in threads whose blocks are freed elsewhere.

use std::cell::UnsafeCell;

use super::bin::{Bin, Entry};
use super::block::{BINS, Head, LARGE_BINS, Word, state};
use super::handshake::{Door, attention, barrier};
use super::slots::Slots;
use super::stats::{self, Counters};
use super::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use super::sync::{Mutex, MutexGuard};
use crate::order::Stream;
use crate::space::{ClassTable, MAX_CLASSES};

/// The contents of a front cache.
#[derive(Debug)]
pub struct Cache {
    /// By size class, then by hash of the size.
    pub bins: [Bin; BINS],
    /// Most bytes of runs that it holds, but for one, which is always fine. What it holds of
    /// small blocks is bounded by the bins' places.
    pub bound: u64,
    /// Where the next eviction starts.
    hand: usize,
    /// How often another size wanted a bin for runs since that changed hands.
    claims: [u8; LARGE_BINS],
    /// A bit for each bin for runs that is for some size.
    sized: u128,
}

const _: () = assert!(LARGE_BINS == u128::BITS as usize);

/// How often a size has to want a bin that holds runs of another size before it gets it. A rare
/// size does not, and is served by the core: to make way for it would cost the other size
/// more than a bin of its own would save.
const CLAIMS: u8 = 8;
/// Bytes of runs of one size that a front cache holds, and least and most of them.
const LARGE_BYTES: u64 = 4 << 20;
const LARGE_PLACES: std::ops::RangeInclusive<usize> = 8..=64;
/// Bytes of small blocks of one class that a front cache holds, and most of them.
const SMALL_BYTES: u64 = 128 << 10;
const SMALL_PLACES: u64 = 1024;
/// For how many allocations it counts that a front cache had to be emptied.
const DRAINED_LATELY: u64 = 1024;
/// Most small blocks that go between a front cache and the core at a time.
pub const SMALL_BATCH: usize = 64;

impl Cache {
    fn new(bound: u64) -> Cache {
        let bins = std::array::from_fn(|_| Bin::default());
        Cache { bins, bound, hand: 0, claims: [0; LARGE_BINS], sized: 0 }
    }

    /// Makes `bin` one for blocks of `size`; false when it holds blocks of another size, or
    /// front caches hold nothing.
    pub fn prepare(&mut self, bin: usize, size: u64) -> bool {
        if self.bound == 0 {
            return false;
        }
        let entry = &mut self.bins[bin];
        if entry.size() != size && entry.len() == 0 {
            let places = if bin < MAX_CLASSES {
                (SMALL_BYTES / size).clamp(16, SMALL_PLACES) as usize
            } else {
                ((LARGE_BYTES / size) as usize).clamp(*LARGE_PLACES.start(), *LARGE_PLACES.end())
            };
            entry.dedicate(size, places);
            if bin >= MAX_CLASSES {
                self.sized |= 1 << (bin - MAX_CLASSES);
            }
        }
        entry.size() == size
    }

    /// A run of another size wants the bin `number` for runs. True when that was asked often
    /// enough: what the bin holds shall make way.
    pub fn claim(&mut self, number: usize) -> bool {
        let claims = &mut self.claims[number - MAX_CLASSES];
        *claims = (*claims + 1) % CLAIMS;
        *claims == 0
    }

    /// Takes out what makes it hold more than it should, going around the bins of runs; of the
    /// `held` bytes it returns how many are left. The youngest entry of `keep` stays.
    ///
    /// Large runs first, down to three quarters of the bound: each makes as much room as many
    /// small ones, and whatever goes is one miss later. When that is not enough all go, down to
    /// half.
    fn evict(&mut self, mut held: u64, keep: usize, out: &mut Vec<Entry>) -> u64 {
        let bound = self.bound;
        for (above, enough) in [(bound / 16, bound / 4 * 3), (0, bound / 2)] {
            // The bins that are for some size, from the hand on.
            let start = self.hand;
            let mut ahead = self.sized.rotate_right(start as u32);
            while ahead != 0 && held > enough {
                let number = (start + ahead.trailing_zeros() as usize) % LARGE_BINS;
                ahead &= ahead - 1;
                let bin = &mut self.bins[MAX_CLASSES + number];
                if bin.size() > above {
                    let kept = usize::from(MAX_CLASSES + number == keep);
                    let count = bin.len().saturating_sub(kept);
                    bin.drain(count, out);
                    held -= bin.size() * count as u64;
                    self.hand = (number + 1) % LARGE_BINS;
                }
            }
            if held <= bound {
                break;
            }
        }
        held
    }

    /// Forgets which sizes its bins are for; they are empty.
    pub fn forget_sizes(&mut self) {
        self.bins.iter_mut().for_each(Bin::undedicate);
        self.sized = 0;
    }

    /// How many blocks it holds.
    pub fn count(&self) -> usize {
        self.bins.iter().map(Bin::len).sum()
    }
}

/// What the fast path has to know of the pool, beside the slot so that it is at hand.
#[derive(Debug)]
pub struct Pooled {
    /// Of its table from addresses to heads: the first address, the entries, their number.
    pub table: (usize, *const AtomicPtr<Head>, usize),
    /// The class of each small size. Changes while the owner is stopped.
    pub classes: AtomicPtr<ClassTable>,
    /// What is added to the size of a run, and what is kept of the sum then.
    pub rounding: (usize, usize),
    /// All slots of the pool, by their numbers.
    pub slots: *const Slots,
}

/// A front cache with its door.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Slot {
    /// The door to `cache`.
    pub door: Door,
    /// Its number in the pool, the owner in the words of its blocks.
    pub id: u32,
    /// The word of a block that it gave out, without waste.
    pub live_word: u32,
    /// The owner has seen `attention::SHARED`.
    shared: AtomicBool,
    /// The pool.
    pub pooled: Pooled,
    /// The stream on which its blocks were freed.
    stream: AtomicU64,
    /// What its owner counts.
    pub counters: Counters,
    /// Bytes of runs in its cache.
    pub held: stats::Cell,
    /// How many allocations its owner had made, and then some, when it last had to be emptied for
    /// one; 0 for never.
    drained: stats::Cell,
    /// 1 if its owner freed a block that another one's cache gave out since its own ran over.
    pub frees_for_others: stats::Cell,
    /// How many calls its owner had made when a window of [`super::Pool::set_decay`] ended.
    pub calls_before: AtomicU64,
    /// For whoever uses the cache other than through the door's fast path.
    lock: Mutex<()>,
    cache: UnsafeCell<Cache>,
}

// SAFETY: `cache` is reached only inside the door or under `lock` after a stop, see `enter`,
// `lock` and `stop`; the entries' pointers lead to heads that stay until the pool is gone.
// Everything else is atomic.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    /// An empty front cache that holds at most `bound` bytes.
    pub fn new(id: u32, stream: Stream, bound: u64, flags: u32, pooled: Pooled) -> Slot {
        let slot = Slot {
            door: Door::default(),
            id,
            live_word: Word::new(state::LIVE, id, 0).0,
            pooled,
            shared: AtomicBool::new(false),
            stream: AtomicU64::new(stream.0),
            counters: Counters::default(),
            held: stats::Cell::default(),
            drained: stats::Cell::default(),
            frees_for_others: stats::Cell::default(),
            calls_before: AtomicU64::new(0),
            lock: Mutex::new(()),
            cache: UnsafeCell::new(Cache::new(bound)),
        };
        slot.door.raise(flags);
        slot
    }

    /// The word of a block that it keeps.
    #[inline(always)]
    pub fn cached_word(&self) -> u32 {
        self.live_word ^ state::LIVE ^ state::CACHED
    }

    /// Its owner has to empty it for an allocation.
    pub fn note_drained(&self) {
        self.drained.set(self.counters.allocations.get() + DRAINED_LATELY);
    }

    /// Whether its owner had to empty it not long ago.
    pub fn was_drained_lately(&self) -> bool {
        self.counters.allocations.get() < self.drained.get()
    }

    /// The stream on which its blocks were freed.
    pub fn stream(&self) -> Stream {
        Stream(self.stream.load(Ordering::Relaxed))
    }

    /// Gives an empty, unowned slot another stream.
    pub fn set_stream(&self, stream: Stream) {
        self.stream.store(stream.0, Ordering::Relaxed);
    }

    /// The owner's fast path: the cache, until `door.leave()`; none when one of the flags
    /// `heeded` is raised.
    ///
    /// # Safety
    /// Only the owner's thread calls this, and it lets go of the reference before it leaves
    /// the door or calls anything else of the slot.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn enter(&self, heeded: u32) -> Option<&mut Cache> {
        // SAFETY: inside the door the owner is alone: a stopper raises its flag, has a
        // barrier run, and waits until the owner is outside; and the owner itself is not
        // inside twice, by the caller's promise.
        if self.door.enter(heeded) { Some(unsafe { &mut *self.cache.get() }) } else { None }
    }

    /// Gives the stopped owner another table of classes, which stays until the pool is gone.
    pub fn set_classes(&self, classes: &ClassTable) {
        let classes = std::ptr::from_ref(classes).cast_mut();
        self.pooled.classes.store(classes, Ordering::Release);
    }

    /// The owner's slow path: the cache under the slot's lock, without the door. Waits for a
    /// stopper to be done.
    ///
    /// # Safety
    /// Only the owner's thread calls this, outside the door.
    pub unsafe fn lock(&self) -> Locked<'_> {
        Locked { slot: self, _guard: self.lock.lock(), stopped: false }
    }

    /// Raises the flag that stops the owner, if nobody else is using the lock. The next step
    /// is [`barrier`], one for many slots, and then [`Stopping::wait`].
    pub fn begin_stop(&self) -> Option<Stopping<'_>> {
        let guard = self.lock.try_lock()?;
        self.door.raise(attention::STOP);
        Some(Stopping { slot: self, guard })
    }

    /// As [`Slot::begin_stop`], but waits for the lock.
    pub fn begin_stop_waiting(&self) -> Stopping<'_> {
        let guard = self.lock.lock();
        self.door.raise(attention::STOP);
        Stopping { slot: self, guard }
    }

    /// Whether its owner compares and swaps, so that others may too.
    #[inline]
    pub fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Acquire)
    }

    /// Has the owner compare and swap from now on, so that others may too. True when that was
    /// news, and took a barrier.
    pub fn share(&self) -> bool {
        if self.is_shared() {
            return false;
        }
        let stopping = self.begin_stop_waiting();
        self.door.raise(attention::SHARED);
        barrier();
        // Outside once, it has seen the flag or will before it takes anything back.
        let stopped = stopping.wait();
        // Not before: whoever finds the flag raised alone may be faster than the owner.
        self.shared.store(true, Ordering::Release);
        drop(stopped);
        true
    }
}

/// A slot whose owner is being stopped.
pub struct Stopping<'a> {
    slot: &'a Slot,
    guard: MutexGuard<'a, ()>,
}

impl<'a> Stopping<'a> {
    /// Waits until the owner is outside. A [`barrier`] must have run since the stop began.
    pub fn wait(self) -> Locked<'a> {
        self.slot.door.wait_outside();
        Locked { slot: self.slot, _guard: self.guard, stopped: true }
    }
}

/// Exclusive use of a slot's cache.
pub struct Locked<'a> {
    slot: &'a Slot,
    _guard: MutexGuard<'a, ()>,
    stopped: bool,
}

impl Locked<'_> {
    /// The cache.
    pub fn cache(&mut self) -> &mut Cache {
        // SAFETY: the slot's lock is held, and the owner is either the caller, outside the
        // door, or stopped.
        unsafe { &mut *self.slot.cache.get() }
    }

    /// The slot.
    pub fn slot(&self) -> &Slot {
        self.slot
    }

    /// Whether the cache holds more than it should.
    pub fn is_over(&mut self) -> bool {
        self.slot.held.get() > self.cache().bound
    }

    /// Puts a block of `size` bytes into bin `number`; false when there is no place.
    pub fn push(&mut self, number: usize, size: u64, entry: Entry) -> bool {
        let bin = &mut self.cache().bins[number];
        if !bin.has_place(size) {
            return false;
        }
        bin.push(entry);
        self.slot.held.add(held_bytes(number, size, 1));
        true
    }

    /// Takes the youngest block out of bin `number`.
    pub fn pop(&mut self, number: usize) -> Option<Entry> {
        let bin = &mut self.cache().bins[number];
        let size = bin.size();
        let entry = bin.pop()?;
        self.slot.held.add(held_bytes(number, size, 1).wrapping_neg());
        Some(entry)
    }

    /// Takes the oldest `count` blocks out of bin `number`.
    pub fn drain(&mut self, number: usize, count: usize) -> Vec<Entry> {
        let bin = &mut self.cache().bins[number];
        let size = bin.size();
        let mut entries = Vec::with_capacity(count);
        bin.drain(count, &mut entries);
        self.slot.held.add(held_bytes(number, size, count).wrapping_neg());
        entries
    }

    /// Takes out what makes the cache hold more than half of its bound; the youngest block
    /// of bin `keep` stays.
    pub fn evict(&mut self, keep: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        let held = self.slot.held.get();
        let left = self.cache().evict(held, keep, &mut entries);
        self.slot.held.set(left);
        entries
    }

    /// Takes all runs out.
    pub fn drain_runs(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let cache = self.cache();
        let mut sized = cache.sized;
        while sized != 0 {
            let bin = &mut cache.bins[MAX_CLASSES + sized.trailing_zeros() as usize];
            sized &= sized - 1;
            bin.drain(bin.len(), &mut entries);
        }
        self.slot.held.set(0);
        entries
    }

    /// Takes everything out.
    pub fn drain_all(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for bin in self.cache().bins.iter_mut().filter(|bin| bin.len() > 0) {
            bin.drain(bin.len(), &mut entries);
        }
        self.slot.held.set(0);
        entries
    }
}

/// What `count` blocks of `size` bytes in bin `number` add to `Slot::held`.
#[inline(always)]
fn held_bytes(number: usize, size: u64, count: usize) -> u64 {
    if number < MAX_CLASSES { 0 } else { size * count as u64 }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.stopped {
            // Before the lock is let go: the next stopper raises it again under the lock.
            self.slot.door.lower(attention::STOP);
        }
    }
}
