//! Many blocks in one call: what the front cache has and takes goes through it, all else
//! through the core under one lock.

use std::sync::atomic::Ordering;

use super::bin::Entry;
use super::block::{Found, Word, state};
use super::core::Block;
use super::front::Slot;
use super::handshake::attention;
use super::lane::Lane;
use super::{Pool, fast};
use crate::error::{Error, Result, fail};
use crate::order::Stream;

/// Why a run of frees under the locks ended.
enum Ended {
    /// All are done.
    Done,
    /// The next one has to be told to the owner of another slot, or cannot be freed.
    Alone,
}

impl Pool {
    /// Takes a block for each of `sizes`: all, or none and an error.
    pub fn alloc_batch(&self, sizes: &[usize], stream: Stream) -> Result<Vec<usize>> {
        let mut addresses = Vec::new();
        if addresses.try_reserve_exact(sizes.len()).is_err() {
            let count = sizes.len();
            return Err(fail!(OutOfMemory, "count is {count}; there is no memory for the list"));
        }
        // A size that the front cache does not have is not asked for again at once.
        let mut missed = 0;
        addresses.extend(sizes.iter().map(|&size| {
            let hit = if size == missed { None } else { fast::alloc(self.id, size, stream) };
            if hit.is_none() {
                missed = size;
            }
            hit.unwrap_or(0)
        }));
        let Err((number, error)) = self.take_missing(sizes, &mut addresses, stream) else {
            return Ok(addresses);
        };
        let message = error.message();
        for address in addresses.into_iter().filter(|&address| address != 0) {
            // Allocated a moment ago, so this cannot fail.
            let _ = self.free(address, stream);
        }
        Err(Error::new(error.kind(), format_args!("sizes[{number}]: {message}")))
    }

    /// Takes the blocks whose addresses are 0; the first that cannot be had is named.
    fn take_missing(
        &self,
        sizes: &[usize],
        addresses: &mut [usize],
        stream: Stream,
    ) -> std::result::Result<(), (usize, Error)> {
        let mut number = 0;
        let mut slot = None;
        // What is done for single ones only.
        let singly = attention::SLOW | attention::PLANNED;
        while let Some(ahead) = addresses[number..].iter().position(|&address| address == 0) {
            number += ahead;
            let first = number;
            let at = |error| (first, error);
            if slot.is_none() && self.attention.load(Ordering::Relaxed) & singly == 0 {
                self.check_open().map_err(at)?;
                slot = self.slot_for(stream).map_err(at)?;
            }
            if let Some(slot) = slot {
                number = self.take_under_lock(slot, sizes, addresses, number);
            }
            // One that is not there, cannot be, or needs what is done for single ones.
            if let (Some(&size), Some(0)) = (sizes.get(number), addresses.get(number)) {
                addresses[number] = self.alloc(size, stream).map_err(|error| (number, error))?;
            }
        }
        Ok(())
    }

    /// Takes missing blocks from number `from` on, from the slot's cache and the core, both
    /// locked once. Returns the number of the first that neither has.
    fn take_under_lock(
        &self,
        slot: &Slot,
        sizes: &[usize],
        addresses: &mut [usize],
        from: usize,
    ) -> usize {
        let stream = slot.stream();
        // SAFETY: the owner's thread, outside the door.
        let mut locked = unsafe { slot.lock() };
        let mut core = self.core.lock();
        let tag = core.tag(&*self.order, Lane::eager(stream));
        core.poll(&self.table, &*self.order);
        let mut number = from;
        for (&size, address) in sizes.iter().zip(&mut *addresses).skip(from) {
            if *address == 0 {
                let Ok(need) = self.need(size, 1, Lane::eager(stream)) else { break };
                let block = match self.pop(&mut locked, &need) {
                    Some(block) => block,
                    None => {
                        let Some(block) = core.take(&self.table, &need, tag) else { break };
                        slot.counters.misses.add(1);
                        block
                    }
                };
                self.give_out(&block, need.size, Some(slot), state::LIVE);
                *address = block.address();
            }
            number += 1;
        }
        drop(core);
        drop(locked);
        if self.slots.len() > 1 {
            self.publish_peaks();
        }
        number
    }

    /// Gives blocks back, up to the first that cannot be freed; zeros are passed over.
    /// Returns how many addresses were dealt with, too.
    pub fn free_batch(&self, addresses: &[usize], stream: Stream) -> (usize, Result<()>) {
        let mut number = 0;
        while let Some(&address) = addresses.get(number) {
            let freed =
                if address == 0 { fast::Freed::Done } else { fast::free(self.id, address, stream) };
            match freed {
                fast::Freed::Done => {}
                fast::Freed::Over => self.relieve_after(address, stream),
                fast::Freed::Not => {
                    let (done, ended) = self.give_under_lock(&addresses[number..], stream);
                    number += done;
                    if matches!(ended, Ended::Done) {
                        break;
                    }
                    let address = addresses[number];
                    if let Err(error) = self.free_slow(address, stream) {
                        let message = error.message();
                        let error =
                            Error::new(error.kind(), format_args!("ptrs[{number}]: {message}"));
                        return (number, Err(error));
                    }
                }
            }
            number += 1;
        }
        (addresses.len(), Ok(()))
    }

    /// Gives blocks to the slot's cache where it has places, and to the core behind one fence,
    /// both locked once. Returns how many addresses that were.
    fn give_under_lock(&self, addresses: &[usize], stream: Stream) -> (usize, Ended) {
        let closed = self.attention.load(Ordering::Relaxed) != 0 || self.check_open().is_err();
        let Ok(Some(slot)) = (if closed { Ok(None) } else { self.slot_for(stream) }) else {
            return (0, Ended::Alone);
        };
        // SAFETY: the owner's thread, outside the door.
        let mut locked = unsafe { slot.lock() };
        let mut core = self.core.lock();
        let (tag, sequence) = core.fence(&*self.order, stream);
        let mut done = 0;
        let mut kept = None;
        let mut given = false;
        for &address in addresses {
            if address == 0 {
                done += 1;
                continue;
            }
            let Found::Block(head, index) = self.table.find(address) else { break };
            let word = head.word(index);
            let seen = Word(word.load(Ordering::Acquire));
            let told =
                seen.owner() == slot.id || self.slots.get(seen.owner()).is_none_or(Slot::is_shared);
            let (requested, size, number) = (head.requested(index), head.size(), head.bin());
            let held = Word::HELD.0;
            if !seen.is_live()
                || !told
                || word.compare_exchange(seen.0, held, Ordering::AcqRel, Ordering::Acquire).is_err()
            {
                break;
            }
            slot.counters.freed(requested, size);
            let block = Block { head, index };
            if seen.state() == state::LIVE
                && !locked.is_over()
                && (locked.cache().bins[number].size() == size
                    || locked.cache().prepare(number, size))
                && locked.push(number, size, Entry { address, word })
            {
                block.set_word(Word::new(state::CACHED, slot.id, 0));
                kept = Some(number);
            } else {
                core.give_behind(&self.table, &*self.order, block, tag, sequence);
                given = true;
            }
            done += 1;
        }
        core.look_for_idle();
        drop(core);
        let over = kept.filter(|_| locked.is_over());
        drop(locked);
        if let Some(keep) = over {
            self.relieve(slot, keep);
        } else if given {
            self.after_free();
        }
        (done, if done == addresses.len() { Ended::Done } else { Ended::Alone })
    }
}
