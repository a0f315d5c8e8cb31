//! The hit: a block taken from and given to the calling thread's own front cache.
//!
//! Neither takes a lock, uses a locked instruction, or can fail in any other way than to
//! leave the call to the slow path. Every instruction here is one of every allocation, which
//! is why nothing is asked for twice and why what is needed of the pool lies in the slot.

use std::sync::atomic::{AtomicU32, Ordering};

use super::bin::Entry;
use super::block::{Word, find_block, large_bin, state};
use super::front::Slot;
use super::handshake::attention;
use super::{SIZE_MAX, thread};
use crate::order::Stream;
use crate::space::{CHUNK, GRANULE, MAX_CLASSES, SMALL_MAX, step_of};

/// Takes a block for `size` bytes from the front cache for the pool `pool` and `stream`; 0
/// when there is none.
#[inline(always)]
pub fn alloc(pool: u64, size: usize, stream: Stream) -> usize {
    alloc_with(pool, size, stream, 0)
}

/// As [`alloc`], for an owner whose blocks are taken back by others, too.
pub fn alloc_shared(pool: u64, size: usize, stream: Stream) -> usize {
    alloc_with(pool, size, stream, attention::SHARED)
}

#[inline(always)]
fn alloc_with(pool: u64, size: usize, stream: Stream, flags: u32) -> usize {
    let Some(slot) = thread::last_slot(pool, stream) else { return 0 };
    // SAFETY: the calling thread's slot of a pool that is there to be called.
    let slot = unsafe { &*slot };
    if size.wrapping_sub(1) < SMALL_MAX {
        alloc_small(slot, size, flags)
    } else {
        alloc_large(slot, size, flags)
    }
}

#[inline(always)]
fn alloc_small(slot: &Slot, size: usize, flags: u32) -> usize {
    // SAFETY: the owner's thread; the reference ends before the door is left.
    let Some(cache) = (unsafe { slot.enter(flags) }) else { return 0 };
    // Inside the door, because the size classes only change with every door shut.
    // SAFETY: a table that stays until the pool is gone.
    let classes = unsafe { &*slot.pooled.classes.load(Ordering::Relaxed) };
    let class = classes[step_of(size)] as usize;
    let bin = &mut cache.bins[class];
    let Some(entry) = bin.pop() else {
        slot.door.leave();
        return 0;
    };
    let block = bin.size();
    let waste = (block as u32).wrapping_sub(size as u32);
    // SAFETY: words live in heads, which stay until the pool is gone.
    unsafe { (*entry.word).store(slot.live_word | waste << 16, Ordering::Release) };
    slot.counters.allocated(size as u64, block);
    slot.door.leave();
    entry.address
}

#[inline(always)]
fn alloc_large(slot: &Slot, size: usize, flags: u32) -> usize {
    if size.wrapping_sub(1) as u64 >= SIZE_MAX {
        return 0;
    }
    let mask = slot.pooled.block_mask | (GRANULE as usize - 1);
    let block = ((size + mask) & !mask) as u64;
    // SAFETY: the owner's thread; the reference ends before the door is left.
    let Some(cache) = (unsafe { slot.enter(flags) }) else { return 0 };
    let bin = &mut cache.bins[large_bin(block)];
    let entry = if bin.size() == block { bin.pop() } else { None };
    let Some(entry) = entry else {
        slot.door.leave();
        return 0;
    };
    set_large_live(slot.live_word, &entry, (block - size as u64) as u32);
    slot.held.add(block.wrapping_neg());
    slot.counters.allocated(size as u64, block);
    slot.door.leave();
    entry.address
}

/// Marks the run of `entry` as given out, with the word `live`.
#[inline(always)]
pub fn set_large_live(live: u32, entry: &Entry, waste: u32) {
    // SAFETY: words live in heads, which stay until the pool is gone; a run of its own has a
    // second word, for its waste.
    unsafe {
        (*entry.word.add(1)).store(waste, Ordering::Relaxed);
        (*entry.word).store(live, Ordering::Release);
    }
}

/// How an attempt to free on the fast path ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// Not, and nothing changed: not a live block of that cache, or no place in it.
    Not,
    /// The block is in the cache.
    Done,
    /// As done, and the cache holds more than it should: [`super::Pool::relieve_after`].
    Over,
}

/// Gives the block at `address` to the front cache for the pool `pool` and `stream`.
#[inline(always)]
pub fn free(pool: u64, address: usize, stream: Stream) -> Freed {
    free_with(pool, address, stream, 0, |word, _, cached| {
        // Nobody else may: `Slot::share` has them wait until the owner knows.
        word.store(cached, Ordering::Relaxed);
        true
    })
}

/// As [`free`], for an owner whose blocks are taken back by others, too: whoever changes the
/// word has the block.
pub fn free_shared(pool: u64, address: usize, stream: Stream) -> Freed {
    free_with(pool, address, stream, attention::SHARED, |word, seen, cached| {
        word.compare_exchange(seen, cached, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    })
}

#[inline(always)]
fn free_with(
    pool: u64,
    address: usize,
    stream: Stream,
    flags: u32,
    take: impl FnOnce(&AtomicU32, u32, u32) -> bool,
) -> Freed {
    let Some(slot) = thread::last_slot(pool, stream) else { return Freed::Not };
    // SAFETY: the calling thread's slot of a pool that is there to be called.
    let slot = unsafe { &*slot };
    let (base, entries, count) = slot.pooled.table;
    let chunk = address.wrapping_sub(base) / CHUNK as usize;
    if chunk >= count {
        return Freed::Not;
    }
    // SAFETY: one of the `count` entries of the pool's table.
    let Some((head, index)) = find_block(unsafe { &*entries.add(chunk) }, address) else {
        return Freed::Not;
    };
    let word = head.word(index);
    // SAFETY: the owner's thread; the reference ends before the door is left.
    let Some(cache) = (unsafe { slot.enter(flags) }) else { return Freed::Not };
    let seen = word.load(Ordering::Relaxed);
    let size = head.size();
    let number = head.bin();
    // SAFETY: heads name bins, of which every cache has as many.
    let bin = unsafe { cache.bins.get_unchecked_mut(number) };
    if seen as u16 != slot.live_word as u16
        || !bin.push_if(size, Entry { address, word }, || {
            take(word, seen, slot.live_word ^ state::LIVE ^ state::CACHED)
        })
    {
        slot.door.leave();
        return Freed::Not;
    }
    if number < MAX_CLASSES {
        slot.counters.freed(size - u64::from(Word(seen).waste()), size);
        slot.door.leave();
        return Freed::Done;
    }
    slot.counters.freed(size - head.large_waste(), size);
    slot.held.add(size);
    let over = slot.held.get() > cache.bound;
    slot.door.leave();
    if over { Freed::Over } else { Freed::Done }
}
