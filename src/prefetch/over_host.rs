//! Slots on system memory: they are written to where consumers find them.

use std::sync::{Arc, Weak};

use super::over_pool::upgrade;
use super::source::DIRECT_ALIGNMENT;
use super::target::Room;
use crate::error::Result;
use crate::order::{HostOrder, HostStream, Order, Stream};
use crate::pool::Pool;
use crate::sync::Mutex;

/// A slot's block, and the stream of its last reader.
#[derive(Clone, Copy)]
struct Held {
    room: Room,
    left_on: Stream,
}

/// Slots in a pool on system memory.
pub struct OverHost {
    pool: Weak<Pool>,
    slots: Mutex<Vec<Held>>,
}

impl OverHost {
    pub fn new(pool: &Arc<Pool>, slots: usize) -> OverHost {
        let none = Held { room: Room::default(), left_on: Stream::DEFAULT };
        OverHost { pool: Arc::downgrade(pool), slots: Mutex::new(vec![none; slots]) }
    }

    pub fn make_room(&self, slot: usize, bytes: u64) -> Result<Room> {
        let (pool, alignment) = (upgrade(&self.pool)?, DIRECT_ALIGNMENT as usize);
        let address = pool.alloc_aligned(bytes as usize, alignment, Stream::DEFAULT)?;
        let room = Room { staging: address, address, bytes };
        let old = std::mem::replace(&mut self.slots.lock()[slot].room, room);
        if old.bytes > 0 {
            // Its readers are done, or it would not be free.
            pool.free(old.address, Stream::DEFAULT)?;
        }
        Ok(room)
    }

    /// A batch is there before anybody gets it: all that can be wrong is the stream.
    pub fn follow(&self, stream: Stream) -> Result<()> {
        HostOrder.check(stream)
    }

    pub fn leave(
        &self,
        slot: usize,
        stream: Stream,
        over: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        if stream == Stream::DEFAULT {
            over();
            return Ok(());
        }
        let queue = HostStream::find(stream)?;
        self.slots.lock()[slot].left_on = stream;
        queue.submit(Box::new(over))
    }

    pub fn close(&self, kept: &[usize]) -> Result<()> {
        let slots = std::mem::take(&mut *self.slots.lock());
        let (pool, mut outcome) = (upgrade(&self.pool)?, Ok(()));
        for (index, held) in slots.iter().enumerate() {
            if held.room.bytes == 0 || kept.contains(&index) {
                continue;
            }
            // A stream that is gone is done with everything.
            let freed = pool
                .free(held.room.address, held.left_on)
                .or_else(|_| pool.free(held.room.address, Stream::DEFAULT));
            outcome = outcome.and(freed);
        }
        outcome
    }
}
