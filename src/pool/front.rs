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
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::block::BINS;
use super::handshake::{Door, attention, barrier};
use super::stats::{self, Counters};
use crate::order::Stream;
use crate::space::MAX_CLASSES;

/// A block in a front cache.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its first byte.
    pub address: usize,
    /// Its word, in a head that stays where it is.
    pub word: *const AtomicU32,
}

/// The blocks of one size that a front cache holds, the last one freed on top.
#[derive(Debug, Default)]
pub struct Bin {
    /// The size; for bins of runs it changes with what is put in.
    pub size: u64,
    /// Most entries.
    pub most: u32,
    /// The blocks.
    pub entries: Vec<Entry>,
}

/// The contents of a front cache.
#[derive(Debug)]
pub struct Cache {
    /// By size class, then by hash of the size.
    pub bins: Box<[Bin]>,
    /// Most bytes that it holds, but for one block, which is always fine.
    pub bound: u64,
    /// Where the next eviction starts.
    hand: usize,
}

/// Most runs of one size that a front cache holds.
const LARGE_ENTRIES: u32 = 8;
/// Bytes of small blocks of one class that a front cache holds, and most of them.
const SMALL_BYTES: u64 = 64 << 10;
const SMALL_ENTRIES: u64 = 128;

impl Cache {
    fn new(bound: u64) -> Cache {
        Cache { bins: (0..BINS).map(|_| Bin::default()).collect(), bound, hand: 0 }
    }

    /// Makes room for blocks of `size` in `bin`; false when front caches hold nothing.
    pub fn prepare(&mut self, bin: usize, size: u64) -> bool {
        if self.bound == 0 {
            return false;
        }
        let entry = &mut self.bins[bin];
        if entry.size != size && entry.entries.is_empty() {
            let most = if bin < MAX_CLASSES {
                (SMALL_BYTES / size).clamp(4, SMALL_ENTRIES) as u32
            } else {
                LARGE_ENTRIES
            };
            entry.size = size;
            entry.most = most;
            entry.entries.reserve(most as usize);
        }
        entry.size == size
    }

    /// Takes out what makes it hold more than half of its bound, going around the bins; of
    /// the `held` bytes it returns how many are left. The youngest entry of `keep` stays.
    fn evict(&mut self, mut held: u64, keep: usize, out: &mut Vec<Entry>) -> u64 {
        for _ in 0..BINS {
            if held <= self.bound / 2 {
                break;
            }
            self.hand = (self.hand + 1) % BINS;
            let bin = &mut self.bins[self.hand];
            let count = bin.entries.len().saturating_sub(usize::from(self.hand == keep));
            out.extend(bin.entries.drain(..count));
            held -= bin.size * count as u64;
        }
        held
    }

    /// Forgets which sizes its bins are for; they are empty.
    pub fn forget_sizes(&mut self) {
        self.bins.iter_mut().for_each(|bin| bin.size = 0);
    }

    /// How many blocks it holds.
    pub fn count(&self) -> usize {
        self.bins.iter().map(|bin| bin.entries.len()).sum()
    }
}

/// A front cache with its door.
#[derive(Debug)]
#[repr(align(128))]
pub struct Slot {
    /// Its number in the pool, the owner in the words of its blocks.
    pub id: u32,
    /// The door to `cache`.
    pub door: Door,
    /// Whether other threads take back what this slot gave out, so that its owner has to
    /// compare and swap too.
    shared: AtomicBool,
    /// Its owner did not survive a fork and left the cache in the middle of a change.
    lost: AtomicBool,
    /// The stream on which its blocks were freed.
    stream: AtomicU64,
    /// What its owner counts.
    pub counters: Counters,
    /// Bytes in its cache.
    pub held: stats::Cell,
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
    pub fn new(id: u32, stream: Stream, bound: u64, flags: u32) -> Slot {
        let slot = Slot {
            id,
            door: Door::default(),
            shared: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            stream: AtomicU64::new(stream.0),
            counters: Counters::default(),
            held: stats::Cell::default(),
            lock: Mutex::new(()),
            cache: UnsafeCell::new(Cache::new(bound)),
        };
        slot.door.raise(flags);
        slot
    }

    /// The stream on which its blocks were freed.
    pub fn stream(&self) -> Stream {
        Stream(self.stream.load(Ordering::Relaxed))
    }

    /// Gives an empty, unowned slot another stream.
    pub fn set_stream(&self, stream: Stream) {
        self.stream.store(stream.0, Ordering::Relaxed);
    }

    /// The owner's fast path: the cache, until `door.leave()`.
    ///
    /// # Safety
    /// Only the owner's thread calls this, and it lets go of the reference before it leaves
    /// the door or calls anything else of the slot.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn enter(&self) -> Option<&mut Cache> {
        // SAFETY: inside the door the owner is alone: a stopper raises its flag, has a
        // barrier run, and waits until the owner is outside; and the owner itself is not
        // inside twice, by the caller's promise.
        if self.door.enter() { Some(unsafe { &mut *self.cache.get() }) } else { None }
    }

    /// Whether the owner has to compare and swap.
    #[inline(always)]
    pub fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
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
    /// is [`barrier`], one for many slots, and then [`Stopping::wait`]. None as well for the
    /// slot of a thread that a fork left behind in the middle of its fast path.
    pub fn begin_stop(&self) -> Option<Stopping<'_>> {
        let guard = self.lock.try_lock()?;
        self.stopping(guard)
    }

    /// As [`Slot::begin_stop`], but waits for the lock.
    pub fn begin_stop_waiting(&self) -> Option<Stopping<'_>> {
        let guard = self.lock.lock();
        self.stopping(guard)
    }

    fn stopping<'a>(&'a self, guard: MutexGuard<'a, ()>) -> Option<Stopping<'a>> {
        if self.lost.load(Ordering::Relaxed) {
            return None;
        }
        self.door.raise(attention::STOP);
        Some(Stopping { slot: self, guard })
    }

    /// For a fork: holds the lock until `after_fork`.
    pub fn before_fork(&self) {
        std::mem::forget(self.lock.lock());
    }

    /// Lets go of the lock. In the child, an owner that was inside its door is lost, and what
    /// its cache held with it.
    ///
    /// # Safety
    /// `before_fork` was called by this thread (in the child: by the thread it is a copy of).
    pub unsafe fn after_fork(&self, child: bool) {
        if child && self.door.is_inside() {
            self.lost.store(true, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { super::fork::unlock(&self.lock, child) };
    }

    /// Has the owner compare and swap from now on, so that others may too.
    pub fn share(&self) {
        if self.shared.load(Ordering::Acquire) {
            return;
        }
        let stopping = self.begin_stop_waiting();
        barrier();
        let stopped = stopping.map(Stopping::wait);
        self.shared.store(true, Ordering::Release);
        drop(stopped);
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

    /// Puts a block of `size` bytes into bin `number`.
    pub fn push(&mut self, number: usize, size: u64, entry: Entry) {
        self.cache().bins[number].entries.push(entry);
        self.slot.held.add(size);
    }

    /// Takes the youngest block out of bin `number`.
    pub fn pop(&mut self, number: usize) -> Option<Entry> {
        let bin = &mut self.cache().bins[number];
        let size = bin.size;
        let entry = bin.entries.pop()?;
        self.slot.held.add(size.wrapping_neg());
        Some(entry)
    }

    /// Takes the oldest `count` blocks out of bin `number`.
    pub fn drain(&mut self, number: usize, count: usize) -> Vec<Entry> {
        let bin = &mut self.cache().bins[number];
        let bytes = bin.size * count as u64;
        let entries = bin.entries.drain(..count).collect();
        self.slot.held.add(bytes.wrapping_neg());
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

    /// Takes everything out.
    pub fn drain_all(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for bin in &mut self.cache().bins {
            entries.append(&mut bin.entries);
        }
        self.slot.held.set(0);
        entries
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.stopped {
            // Before the lock is let go: the next stopper raises it again under the lock.
            self.slot.door.lower(attention::STOP);
        }
    }
}
