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

/// Takes a block for `size` bytes from the front cache for the pool `pool` and `stream`, if
/// there is one.
#[inline(always)]
pub fn alloc(pool: u64, size: usize, stream: Stream) -> Option<usize> {
    let slot = thread::last_slot(pool, stream)?;
    // SAFETY: the calling thread's slot of a pool that is there to be called.
    let slot = unsafe { &*slot };
    if size.wrapping_sub(1) < SMALL_MAX { alloc_small(slot, size) } else { alloc_large(slot, size) }
}

#[inline(always)]
fn alloc_small(slot: &Slot, size: usize) -> Option<usize> {
    // Whether others take back its blocks makes no difference here.
    // SAFETY: the owner's thread; the reference ends before the door is left.
    let cache = unsafe { slot.enter(attention::BUT_SHARED) }?;
    // Inside the door, because the size classes only change with every door shut.
    // SAFETY: a table that stays until the pool is gone.
    let classes = unsafe { &*slot.pooled.classes.load(Ordering::Relaxed) };
    let class = classes[step_of(size)] as usize;
    let bin = &mut cache.bins[class];
    let Some(entry) = bin.pop() else {
        slot.door.leave();
        return None;
    };
    let block = bin.size();
    let waste = (block as u32).wrapping_sub(size as u32);
    // SAFETY: words live in heads, which stay until the pool is gone.
    unsafe { (*entry.word).store(slot.live_word | waste << 16, Ordering::Release) };
    slot.counters.allocated(size as u64, block);
    slot.door.leave();
    Some(entry.address)
}

#[inline(always)]
fn alloc_large(slot: &Slot, size: usize) -> Option<usize> {
    if size.wrapping_sub(1) as u64 >= SIZE_MAX {
        return None;
    }
    let mask = slot.pooled.block_mask | (GRANULE as usize - 1);
    let block = ((size + mask) & !mask) as u64;
    // SAFETY: the owner's thread; the reference ends before the door is left.
    let cache = unsafe { slot.enter(attention::BUT_SHARED) }?;
    let bin = &mut cache.bins[large_bin(block)];
    let entry = if bin.size() == block { bin.pop() } else { None };
    let Some(entry) = entry else {
        slot.door.leave();
        return None;
    };
    set_large_live(slot.live_word, &entry, (block - size as u64) as u32);
    slot.held.add(block.wrapping_neg());
    slot.counters.allocated(size as u64, block);
    slot.door.leave();
    Some(entry.address)
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
    let own = |slot: &Slot, seen: u32| seen as u16 == slot.live_word as u16;
    free_with(pool, address, stream, attention::ALL, own, |slot, word, _| {
        // Nobody else may: `Slot::share` has them wait until the owner knows.
        word.store(slot.cached_word(), Ordering::Relaxed);
        true
    })
}

/// As [`free`], for blocks that several may try to take back, this thread's or another's:
/// whoever changes the word has the block.
#[inline(never)]
pub fn free_shared(pool: u64, address: usize, stream: Stream) -> Freed {
    let shared = |slot: &Slot, seen: u32| {
        let owner = Word(seen).owner();
        // SAFETY: the pool's slots, which stay as long as it does.
        let slots = unsafe { &*slot.pooled.slots };
        // A block without an owner was never anybody's to take back with a plain store. Of one
        // that several streams use, more is to be done.
        Word(seen).state() == state::LIVE
            && (owner == slot.id || slots.get(owner).is_none_or(Slot::is_shared))
    };
    free_with(pool, address, stream, attention::BUT_SHARED, shared, |slot, word, seen| {
        let cached = slot.cached_word();
        if Word(seen).owner() != slot.id {
            slot.frees_for_others.set(1);
        }
        word.compare_exchange(seen, cached, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    })
}

/// `may` says of a block's word whether this thread may try to take it back, `take` does.
#[inline(always)]
fn free_with(
    pool: u64,
    address: usize,
    stream: Stream,
    heeded: u32,
    may: impl FnOnce(&Slot, u32) -> bool,
    take: impl FnOnce(&Slot, &AtomicU32, u32) -> bool,
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
    let Some((head, index, size)) = find_block(unsafe { &*entries.add(chunk) }, address) else {
        return Freed::Not;
    };
    let word = head.word(index);
    // SAFETY: the owner's thread; the reference ends before the door is left.
    let Some(cache) = (unsafe { slot.enter(heeded) }) else { return Freed::Not };
    let seen = word.load(Ordering::Relaxed);
    let number = head.bin();
    // SAFETY: heads name bins, of which every cache has as many.
    let bin = unsafe { cache.bins.get_unchecked_mut(number) };
    if !may(slot, seen) || !bin.push_if(size, Entry { address, word }, || take(slot, word, seen)) {
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
