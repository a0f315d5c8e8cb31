//! Slots on a GPU: staged in pinned memory, and copied on a stream of their own.
//!
//! Two marks a slot are all that orders it. `sent` is behind the copy into it: a consumer's stream
//! waits for it, and so does a thread before it writes to the staging memory again. `left` is
//! behind the consumer's last work: the next copy waits for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::over_pool::upgrade;
use super::source::DIRECT_ALIGNMENT;
use super::target::Room;
use crate::device::cuda::{Context, CopyStream, Mark, Piece};
use crate::device::{Device, Host, HostOptions, PAGE, Pinned};
use crate::error::Result;
use crate::order::Stream;
#[cfg(test)]
use crate::planted::{Bug, is_planted};
use crate::pool::Pool;
use crate::sync::Mutex;

/// Staging memory of a slot.
#[derive(Clone, Copy)]
enum Staging {
    Pinned(usize, u64),
    /// As far as it could not be pinned: the driver copies from it in its own way, and slower.
    Pageable(usize, u64),
}

impl Staging {
    fn address(self) -> usize {
        match self {
            Staging::Pinned(address, _) | Staging::Pageable(address, _) => address,
        }
    }
}

/// What a slot has.
#[derive(Clone, Copy, Default)]
struct Memory {
    address: usize,
    staging: Option<Staging>,
}

struct Slot {
    memory: Mutex<Memory>,
    sent: Mark,
    left: Mark,
    /// The copy into it may not be over.
    is_sent: AtomicBool,
    /// Its reader may not be done.
    is_left: AtomicBool,
}

/// Slots in a pool on a GPU.
pub struct OverCuda {
    // Marks go before the stream.
    slots: Vec<Slot>,
    copies: CopyStream,
    pool: Weak<Pool>,
    pinned: Pinned,
    pageable: Host,
    most_pinned: u64,
    pinned_bytes: AtomicU64,
    pageable_bytes: AtomicU64,
}

impl OverCuda {
    pub fn new(
        pool: &Arc<Pool>,
        context: &Arc<Context>,
        slots: usize,
        most: u64,
    ) -> Result<OverCuda> {
        let slot = |_| {
            Ok(Slot {
                memory: Mutex::default(),
                sent: Mark::new(context)?,
                left: Mark::new(context)?,
                is_sent: AtomicBool::new(false),
                is_left: AtomicBool::new(false),
            })
        };
        let pinned = Pinned::of(context);
        // Half of what the process may have is the most that is ever pinned.
        let most_pinned = if most == 0 { pinned.memory_bytes() / 2 } else { most };
        Ok(OverCuda {
            slots: (0..slots).map(slot).collect::<Result<_>>()?,
            copies: CopyStream::new(context)?,
            pool: Arc::downgrade(pool),
            pinned,
            pageable: Host::new(HostOptions::default()),
            most_pinned,
            pinned_bytes: AtomicU64::new(0),
            pageable_bytes: AtomicU64::new(0),
        })
    }

    fn stream(&self) -> Stream {
        Stream(self.copies.handle())
    }

    fn stage(&self, bytes: u64) -> Result<Staging> {
        let bytes = bytes.next_multiple_of(PAGE);
        let within = |before: u64| Some(before + bytes).filter(|&sum| sum <= self.most_pinned);
        let taken = self.pinned_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, within);
        if taken.is_ok() {
            match self.pinned.reserve(bytes, bytes) {
                Ok((address, bytes)) => return Ok(Staging::Pinned(address, bytes)),
                Err(error) => {
                    self.pinned_bytes.fetch_sub(bytes, Ordering::AcqRel);
                    tracing::warn!(bytes, %error, "memory for staging could not be pinned");
                }
            }
        }
        let (address, bytes) = self.pageable.reserve(bytes, bytes)?;
        if let Err(error) = self.pageable.commit(address, bytes) {
            self.pageable.release(address, bytes);
            return Err(error);
        }
        self.pageable_bytes.fetch_add(bytes, Ordering::AcqRel);
        Ok(Staging::Pageable(address, bytes))
    }

    fn give_back(&self, staging: Staging) {
        match staging {
            Staging::Pinned(address, bytes) => {
                self.pinned.release(address, bytes);
                self.pinned_bytes.fetch_sub(bytes, Ordering::AcqRel);
            }
            Staging::Pageable(address, bytes) => {
                self.pageable.release(address, bytes);
                self.pageable_bytes.fetch_sub(bytes, Ordering::AcqRel);
            }
        }
    }

    pub fn make_room(&self, slot: usize, bytes: u64) -> Result<Room> {
        let own = &self.slots[slot];
        let (pool, stream) = (upgrade(&self.pool)?, self.stream());
        let alignment = DIRECT_ALIGNMENT as usize;
        let address = pool.alloc_aligned(bytes as usize, alignment, stream)?;
        let staging = self.prepare(slot).and_then(|()| self.stage(bytes));
        let staging = staging.inspect_err(|_| {
            let _ = pool.free(address, stream);
        })?;
        let old = *own.memory.lock();
        if old.address != 0 {
            // The block goes back in the order of this stream, so that has to be behind its reader.
            let behind = match own.is_left.load(Ordering::Acquire) {
                true => own.left.hold_back(stream.0),
                false => Ok(()),
            };
            if let Err(error) = behind.and_then(|()| pool.free(old.address, stream)) {
                let _ = pool.free(address, stream);
                self.give_back(staging);
                return Err(error);
            }
        }
        *own.memory.lock() = Memory { address, staging: Some(staging) };
        if let Some(staging) = old.staging {
            self.give_back(staging);
        }
        Ok(Room { staging: staging.address(), address, bytes })
    }

    pub fn prepare(&self, slot: usize) -> Result<()> {
        let own = &self.slots[slot];
        #[cfg(test)]
        if is_planted(Bug::HastyStaging) {
            return Ok(());
        }
        if own.is_sent.load(Ordering::Acquire) {
            if !own.sent.has_passed()? {
                own.sent.wait()?;
            }
            own.is_sent.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// # Safety
    /// See [`super::Target::send`].
    pub unsafe fn send(&self, slot: usize, pieces: &[Piece]) -> Result<()> {
        let own = &self.slots[slot];
        let after = own.is_left.load(Ordering::Acquire).then_some(&own.left);
        #[cfg(test)]
        let after = after.filter(|_| !is_planted(Bug::HastyCopy));
        // SAFETY: the slot's block was taken on this stream, and its last reader is before `after`.
        unsafe { self.copies.send(after, pieces, &own.sent)? };
        own.is_left.store(false, Ordering::Release);
        own.is_sent.store(true, Ordering::Release);
        Ok(())
    }

    pub fn follow(&self, slot: usize, stream: Stream) -> Result<()> {
        #[cfg(test)]
        if is_planted(Bug::UnfollowedCopy) {
            return Ok(());
        }
        self.slots[slot].sent.hold_back(stream.0)
    }

    pub fn is_there(&self, slot: usize) -> Result<bool> {
        self.slots[slot].sent.has_passed()
    }

    pub fn wait(&self, slot: usize) -> Result<()> {
        self.slots[slot].sent.wait()
    }

    pub fn leave(&self, slot: usize, stream: Stream, over: impl FnOnce()) -> Result<()> {
        let own = &self.slots[slot];
        own.left.record(stream.0)?;
        own.is_left.store(true, Ordering::Release);
        over();
        Ok(())
    }

    pub fn close(&self, kept: &[usize]) -> Result<()> {
        // Everything that was queued: copies out of staging memory, and readers of slots.
        let mut outcome = self.copies.wait_for_device();
        let pool = upgrade(&self.pool)?;
        for (index, slot) in self.slots.iter().enumerate() {
            let memory = std::mem::take(&mut *slot.memory.lock());
            if let Some(staging) = memory.staging {
                self.give_back(staging);
            }
            if memory.address != 0 && !kept.contains(&index) {
                let freed = pool.free(memory.address, self.stream());
                outcome = outcome.and(freed);
            }
        }
        outcome.and(pool.forget_stream(self.stream()))
    }

    pub fn staging_bytes(&self) -> (u64, u64) {
        (self.pinned_bytes.load(Ordering::Acquire), self.pageable_bytes.load(Ordering::Acquire))
    }
}
