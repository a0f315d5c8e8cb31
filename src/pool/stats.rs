//! Numbers: what a pool counts, and how threads count without waiting for each other.
//!
//! Every slot counts for itself, in cells that only its owner writes; a reader adds them up.
//! A sum of currents is exact. A peak of a sum cannot be, without waiting: it is taken
//! whenever a call has to go past the front caches. While one thread uses the pool, its slot
//! notes its own highest, and the peak is exact; with several it can be low, by no more than
//! what their front caches hold.

use std::sync::atomic::{AtomicU64, Ordering};

/// A cell that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Its value.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds; only its writer calls this.
    #[inline(always)]
    pub fn add(&self, value: u64) {
        self.0.store(self.get().wrapping_add(value), Ordering::Relaxed);
    }

    /// Sets; only its writer calls this.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// A sum of bytes that rises and falls, with the highest that it was: in two cells, so that
/// neither a rise nor a fall has to compare anything but a sign.
#[derive(Debug, Default)]
pub struct Level {
    /// The highest, as a signed number: a slot whose blocks others free goes below zero.
    high: Cell,
    /// How far below the highest it is.
    room: Cell,
    /// All that it ever rose by.
    total: Cell,
}

impl Level {
    /// Rises; only its writer calls this.
    #[inline(always)]
    pub fn rise(&self, bytes: u64) {
        self.total.add(bytes);
        let room = self.room.get().wrapping_sub(bytes);
        self.room.set(room);
        if (room as i64) < 0 {
            self.lift();
        }
    }

    /// Not a call: a function that calls none saves no registers.
    #[inline(always)]
    fn lift(&self) {
        let room = self.room.get();
        self.high.set(self.high.get().wrapping_sub(room));
        self.room.set(0);
    }

    /// Falls; only its writer calls this.
    #[inline(always)]
    pub fn fall(&self, bytes: u64) {
        self.room.add(bytes);
    }

    /// What it is now.
    pub fn now(&self) -> u64 {
        self.high.get().wrapping_sub(self.room.get())
    }

    /// How far it is below the highest.
    fn below_high(&self) -> u64 {
        // Below zero for the moment in which its writer lifts the highest.
        (self.room.get() as i64).max(0) as u64
    }

    /// Starts the highest again from where it is.
    fn restart(&self) {
        self.high.set(self.now());
        self.room.set(0);
    }
}

/// What the owner of a slot counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Allocations that succeeded.
    pub allocations: Cell,
    /// Frees that succeeded.
    pub frees: Cell,
    /// Allocations that the front cache did not serve.
    pub misses: Cell,
    /// Bytes asked for.
    pub requested: Level,
    /// Bytes of blocks given out.
    pub allocated: Level,
}

impl Counters {
    /// An allocation of `size` bytes got a block of `block` bytes.
    #[inline(always)]
    pub fn allocated(&self, size: u64, block: u64) {
        self.allocations.add(1);
        self.requested.rise(size);
        self.allocated.rise(block);
    }

    /// A block of `block` bytes, of which `size` were asked for, came back.
    #[inline(always)]
    pub fn freed(&self, size: u64, block: u64) {
        self.frees.add(1);
        self.requested.fall(size);
        self.allocated.fall(block);
    }

    /// A block changed in place: bytes asked for and of the block, before and after.
    pub fn resized(&self, (requested, block, size, new_block): (u64, u64, u64, u64)) {
        self.requested.fall(requested);
        self.allocated.fall(block);
        self.requested.rise(size);
        self.allocated.rise(new_block);
    }

    /// Starts the highest values again from where they are. Called by the owner, or with the
    /// owner stopped.
    pub fn restart_highs(&self) {
        self.requested.restart();
        self.allocated.restart();
    }
}

/// Peaks of sums over slots.
#[derive(Debug, Default)]
pub struct Peaks {
    requested: AtomicU64,
    allocated: AtomicU64,
}

/// Sums over slots.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// Allocations that succeeded.
    pub allocations: u64,
    /// Frees that succeeded.
    pub frees: u64,
    /// Allocations that no front cache served.
    pub misses: u64,
    /// Bytes asked for: in blocks given out now.
    pub requested: u64,
    /// In all blocks ever given out.
    pub requested_total: u64,
    /// Bytes of blocks given out now.
    pub allocated: u64,
    /// Of all blocks ever given out.
    pub allocated_total: u64,
}

impl Sums {
    /// Adds up what `counters` say.
    pub fn of<'a>(counters: impl Iterator<Item = &'a Counters>) -> Sums {
        let mut sums = Sums::default();
        for one in counters {
            sums.allocations += one.allocations.get();
            sums.frees += one.frees.get();
            sums.misses += one.misses.get();
            // A slot whose blocks are freed by others goes below zero: only the sum of all
            // has a meaning.
            sums.requested = sums.requested.wrapping_add(one.requested.now());
            sums.allocated = sums.allocated.wrapping_add(one.allocated.now());
            sums.requested_total = sums.requested_total.wrapping_add(one.requested.total.get());
            sums.allocated_total = sums.allocated_total.wrapping_add(one.allocated.total.get());
        }
        // A block that was given out behind the reader and freed before it was here takes its bytes
        // away and brings none.
        let not_below_zero = |sum: u64| (sum as i64).max(0) as u64;
        sums.requested = not_below_zero(sums.requested);
        sums.allocated = not_below_zero(sums.allocated);
        sums
    }
}

impl Peaks {
    /// The peaks, given the sums now and, while the pool has only ever had one slot, that
    /// slot's counters, which know what rose and fell in between: `(requested, allocated)`.
    ///
    /// What a plan serves was higher before, with all else as it is now.
    pub fn publish(&self, sums: &Sums, only: Option<&Counters>, planned: &Counters) -> (u64, u64) {
        let mut requested = sums.requested + planned.requested.below_high();
        let mut allocated = sums.allocated + planned.allocated.below_high();
        if let Some(only) = only {
            requested = requested.max(only.requested.high.get());
            allocated = allocated.max(only.allocated.high.get());
        }
        (
            self.requested.fetch_max(requested, Ordering::Relaxed).max(requested),
            self.allocated.fetch_max(allocated, Ordering::Relaxed).max(allocated),
        )
    }

    /// Forgets the peaks: they start again from what is live.
    pub fn reset(&self, sums: &Sums) {
        self.requested.store(sums.requested, Ordering::Relaxed);
        self.allocated.store(sums.allocated, Ordering::Relaxed);
    }
}

/// What a pool reports in the fast tier: sums and counters, no walk over anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Bytes asked for: now, at most, ever.
    pub requested: [u64; 3],
    /// Bytes of blocks given out: now, at most, ever.
    pub allocated: [u64; 3],
    /// Bytes mapped: now, at most, ever.
    pub reserved: [u64; 3],
    /// Allocations that succeeded.
    pub allocations: u64,
    /// Frees that succeeded.
    pub frees: u64,
    /// Allocations served without new pages.
    pub hits: u64,
    /// Allocations that the caller's front cache did not serve.
    pub front_misses: u64,
    /// Allocations that needed pages to be mapped or moved.
    pub misses: u64,
    /// Allocations that failed.
    pub failed: u64,
    /// Frees of what is not a live block.
    pub invalid_frees: u64,
    /// System calls made for the pool.
    pub system_calls: u64,
    /// Times that idle pages were given back.
    pub trims: u64,
    /// Most bytes that may be mapped.
    pub limit: u64,
    /// Blocks given out.
    pub live_blocks: u64,
}
