//! The hit: a block taken from and given to the calling thread's own front cache.
//!
//! Neither takes a lock, uses a locked instruction, or can fail in any other way than to
//! leave the call to the slow path. Every instruction here is one of every allocation, which
//! is why nothing is asked for twice and why what is needed of the pool lies in the slot.

use std::sync::atomic::{AtomicU32, Ordering};

use super::bin::Entry;
use super::block::{Head, Word, head_at, large_bin, state};
pub use super::front::Slot;
use super::handshake::attention;
use super::thread;
use crate::order::Stream;
use crate::space::{CHUNK, SMALL_MAX, step_of};

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
    // What is more than a pool's blocks have is no bin's size, nor is the 0 that it may come to:
    // that is a bin's without a size, which is empty.
    let (up, kept) = slot.pooled.rounding;
    let block = (size.wrapping_add(up) & kept) as u64;
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
    let Some(slot) = thread::last_slot(pool, stream) else { return Freed::Not };
    // SAFETY: the calling thread's slot of a pool that is there to be called.
    free_with::<Own, false>(unsafe { &*slot }, address)
}

/// As [`free`], for blocks that several may try to take back, this thread's or another's:
/// whoever changes the word has the block.
#[inline(never)]
pub fn free_shared(pool: u64, address: usize, stream: Stream) -> Freed {
    let Some(slot) = thread::last_slot(pool, stream) else { return Freed::Not };
    // SAFETY: the calling thread's slot of a pool that is there to be called.
    free_with::<Shared, false>(unsafe { &*slot }, address)
}

/// How a thread takes a block back.
trait Way {
    /// What keeps it from that.
    const HEEDED: u32;
    /// Whether it may try to, by the block's word.
    fn may(slot: &Slot, seen: u32) -> bool;
    /// Takes it back; false when another one has.
    fn take(slot: &Slot, word: &AtomicU32, seen: u32) -> bool;
}

/// Its own, which nobody else may: `Slot::share` has them wait until the owner knows.
struct Own;

impl Way for Own {
    const HEEDED: u32 = attention::ALL;

    #[inline(always)]
    fn may(slot: &Slot, seen: u32) -> bool {
        seen as u16 == slot.live_word as u16
    }

    #[inline(always)]
    fn take(slot: &Slot, word: &AtomicU32, _: u32) -> bool {
        word.store(slot.cached_word(), Ordering::Relaxed);
        true
    }
}

/// One that several may try to.
struct Shared;

impl Way for Shared {
    const HEEDED: u32 = attention::BUT_SHARED;

    #[inline(always)]
    fn may(slot: &Slot, seen: u32) -> bool {
        let owner = Word(seen).owner();
        // SAFETY: the pool's slots, which stay as long as it does.
        let slots = unsafe { &*slot.pooled.slots };
        // A block without an owner was never anybody's to take back with a plain store. Of one
        // that several streams use, more is to be done.
        Word(seen).state() == state::LIVE
            && (owner == slot.id || slots.get(owner).is_none_or(Slot::is_shared))
    }

    #[inline(always)]
    fn take(slot: &Slot, word: &AtomicU32, seen: u32) -> bool {
        let cached = slot.cached_word();
        if Word(seen).owner() != slot.id {
            slot.frees_for_others.set(1);
        }
        word.compare_exchange(seen, cached, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// `WITHIN` the bound, nothing is taken that would have the cache hold more than it should.
#[inline(always)]
fn free_with<W: Way, const WITHIN: bool>(slot: &Slot, address: usize) -> Freed {
    let (base, entries, count) = slot.pooled.table;
    let chunk = address.wrapping_sub(base) / CHUNK as usize;
    if chunk >= count {
        return Freed::Not;
    }
    // SAFETY: one of the `count` entries of the pool's table.
    let Some(head) = head_at(unsafe { &*entries.add(chunk) }) else { return Freed::Not };
    // Two ways from here on, so that neither has registers saved for the other.
    match head.is_large() {
        true => free_run::<W, WITHIN>(slot, head, address),
        false => free_small::<W>(slot, head, address),
    }
}

#[inline(always)]
fn free_small<W: Way>(slot: &Slot, head: &Head, address: usize) -> Freed {
    let (number, size) = (head.bin(), head.size());
    let Some(index) = head.index_of(address, size) else { return Freed::Not };
    let word = head.word(index);
    // SAFETY: the owner's thread; the reference ends before the door is left.
    let Some(cache) = (unsafe { slot.enter(W::HEEDED) }) else { return Freed::Not };
    let seen = word.load(Ordering::Relaxed);
    // SAFETY: heads name bins, of which every cache has as many.
    let bin = unsafe { cache.bins.get_unchecked_mut(number) };
    let entry = Entry { address, word };
    if !W::may(slot, seen) || !bin.push_if(size, entry, || W::take(slot, word, seen)) {
        slot.door.leave();
        return Freed::Not;
    }
    slot.counters.freed(size - u64::from(Word(seen).waste()), size);
    slot.door.leave();
    Freed::Done
}

#[inline(always)]
fn free_run<W: Way, const WITHIN: bool>(slot: &Slot, head: &Head, address: usize) -> Freed {
    let Some(word) = head.run_word(address) else { return Freed::Not };
    // SAFETY: the owner's thread; the reference ends before the door is left.
    let Some(cache) = (unsafe { slot.enter(W::HEEDED) }) else { return Freed::Not };
    let (number, size) = (head.bin(), head.size());
    let held = slot.held.get().wrapping_add(size);
    let over = held > cache.bound;
    // SAFETY: heads name bins, of which every cache has as many.
    let bin = unsafe { cache.bins.get_unchecked_mut(number) };
    let seen = word.load(Ordering::Relaxed);
    let entry = Entry { address, word };
    if (WITHIN && over)
        || !W::may(slot, seen)
        || !bin.push_if(size, entry, || W::take(slot, word, seen))
    {
        slot.door.leave();
        return Freed::Not;
    }
    slot.held.set(held);
    slot.counters.freed(size - head.run_waste(), size);
    slot.door.leave();
    if over { Freed::Over } else { Freed::Done }
}

/// What is at hand for a call that may have interrupted another one of its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtHand {
    /// A block.
    Block(usize),
    /// Nothing.
    No,
    /// The thread is in the middle of a hit.
    Busy,
}

/// As [`alloc`] on the default stream, also for the handler of a signal that came in the middle of
/// it.
#[inline(always)]
pub fn alloc_at_hand(pool: u64, size: usize) -> AtHand {
    let Some(slot) = thread::last_slot(pool, Stream::DEFAULT) else { return AtHand::No };
    // SAFETY: the calling thread's slot of a pool that is there to be called.
    let slot = unsafe { &*slot };
    if slot.door.is_inside() {
        return AtHand::Busy;
    }
    let block = if size > SMALL_MAX {
        alloc_large(slot, size)
    } else if size > 0 {
        alloc_small(slot, size)
    } else {
        None
    };
    block.map_or(AtHand::No, AtHand::Block)
}

/// As [`free`] on the default stream, also for the handler of a signal that came in the middle of it,
/// and with no more to be done afterwards: `done`. Else `not`, with the thread's slot if it is one
/// to go on with, and whether the thread is in the middle of a hit.
#[inline(always)]
pub fn free_at_hand<T>(
    pool: u64,
    address: usize,
    done: T,
    not: impl Fn(Option<&Slot>, bool) -> T,
) -> T {
    let Some(slot) = thread::last_slot(pool, Stream::DEFAULT) else { return not(None, false) };
    // SAFETY: the calling thread's slot of a pool that is there to be called.
    let slot = unsafe { &*slot };
    if slot.door.is_inside() {
        return not(None, true);
    }
    match free_with::<Own, true>(slot, address) {
        Freed::Not => not(Some(slot), false),
        _ => done,
    }
}

/// As [`free_at_hand`], which it is called after, for blocks that several may try to take back.
#[inline(always)]
pub fn free_shared_at_hand(slot: &Slot, address: usize) -> bool {
    free_with::<Shared, true>(slot, address) != Freed::Not
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Config, Pool};

    #[test]
    fn who_is_in_the_middle_of_a_hit_is_told_so() {
        let pool = Pool::on_host(&Config::default()).unwrap();
        let sizes = [100, SMALL_MAX, SMALL_MAX + 1, 64 << 10, 3 << 20];
        let block = pool.alloc(8 << 20, Stream::DEFAULT).unwrap();
        pool.free(block, Stream::DEFAULT).unwrap();
        let slot = thread::find_slot(pool.id(), Stream::DEFAULT).unwrap();
        // SAFETY: this thread's slot of a pool that is there.
        let slot = unsafe { &*slot };
        for size in sizes {
            let block = pool.alloc(size, Stream::DEFAULT).unwrap();
            pool.free(block, Stream::DEFAULT).unwrap();
            assert!(slot.door.enter(attention::ALL));
            assert_eq!(alloc_at_hand(pool.id(), size), AtHand::Busy);
            slot.door.leave();
            let AtHand::Block(block) = alloc_at_hand(pool.id(), size) else { panic!("{size}") };
            assert!(slot.door.enter(attention::ALL));
            let busy = |none: Option<&Slot>, busy| none.is_none() && busy;
            assert!(free_at_hand(pool.id(), block, false, busy));
            slot.door.leave();
            assert!(free_at_hand(pool.id(), block, true, |_, _| false));
            // It is there once.
            assert!(!free_at_hand(pool.id(), block, true, |_, _| false));
        }
        for none in [0, usize::MAX, usize::MAX - 1000, 1 << 46, SMALL_MAX + 1025] {
            assert_eq!(alloc_at_hand(pool.id(), none), AtHand::No, "{none}");
        }
        assert_eq!(pool.stats().live_blocks, 0);
        assert_eq!(pool.stats().allocations, 2 * sizes.len() as u64 + 1);
        Pool::destroy(pool).unwrap();
    }
}
