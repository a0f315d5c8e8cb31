//! The driver's own pools: memory that is given and taken back in the order of streams.
//!
//! Every allocation has addresses of its own until what frees it is done, so that to use one
//! that was freed is found. A pool only counts: what it has from the device, and what of that
//! is in use.

use std::collections::BTreeMap;

use crate::State;
use crate::code::*;
use crate::memory::PLAIN;
use crate::order::{Epoch, What};
use crate::stream::Point;
use crate::work::Work;

/// A number now, and the highest that it has been.
#[derive(Clone, Copy, Default)]
struct Level {
    now: u64,
    high: u64,
}

impl Level {
    fn set(&mut self, now: u64) {
        self.now = now;
        self.high = self.high.max(now);
    }
}

struct Pool {
    device: usize,
    /// What is kept at least when the host synchronises.
    threshold: u64,
    /// Ways to reuse what was freed: behind events, once it is done, with a wait put in.
    reuse: [bool; 3],
    /// From the device.
    reserved: Level,
    /// Not freed yet, in the order of the calls.
    used: Level,
    /// Freed in streams, and not known to be free for all.
    freed: Vec<(Point, Epoch, u64)>,
    /// Devices that may use it.
    access: u64,
    /// Destroyed; allocations still live.
    gone: bool,
}

/// All pools, by handle, and the one of each device that allocations come from.
#[derive(Default)]
pub struct Pools {
    rows: BTreeMap<u64, Pool>,
    defaults: BTreeMap<usize, u64>,
    current: BTreeMap<usize, u64>,
}

impl Pool {
    /// Bytes that are in no use and not waiting for any.
    fn idle(&self) -> u64 {
        let waiting: u64 = self.freed.iter().map(|&(_, _, bytes)| bytes).sum();
        self.reserved.now - self.used.now - waiting
    }
}

impl State {
    fn pools_there(&self) -> Outcome {
        if self.config.memory_pools { Ok(()) } else { Err(ERROR_NOT_SUPPORTED) }
    }

    fn add_pool(&mut self, device: usize) -> u64 {
        let handle = self.handle();
        let (reserved, used, freed) = (Level::default(), Level::default(), Vec::new());
        let (threshold, reuse, access, gone) = (0, [true; 3], 1 << device, false);
        let pool = Pool { device, threshold, reuse, reserved, used, freed, access, gone };
        self.pools.rows.insert(handle, pool);
        handle
    }

    /// The pool that a device comes with.
    pub fn default_pool(&mut self, device: i32) -> Outcome<u64> {
        self.pools_there()?;
        let device = self.device(device)?;
        if let Some(&pool) = self.pools.defaults.get(&device) {
            return Ok(pool);
        }
        let pool = self.add_pool(device);
        self.pools.defaults.insert(device, pool);
        Ok(pool)
    }

    /// The pool that allocations of a device come from.
    pub fn current_pool(&mut self, device: i32) -> Outcome<u64> {
        let default = self.default_pool(device)?;
        Ok(self.pools.current.get(&(device as usize)).copied().unwrap_or(default))
    }

    pub fn set_current_pool(&mut self, device: i32, pool: u64) -> Outcome {
        let device = self.device(device)?;
        if self.pool(pool)?.device != device {
            return Err(ERROR_INVALID_VALUE);
        }
        self.pools.current.insert(device, pool);
        Ok(())
    }

    pub fn create_pool(&mut self, device: i32) -> Outcome<u64> {
        self.pools_there()?;
        let device = self.device(device)?;
        Ok(self.add_pool(device))
    }

    fn pool(&mut self, pool: u64) -> Outcome<&mut Pool> {
        self.pools.rows.get_mut(&pool).filter(|it| !it.gone).ok_or(ERROR_INVALID_VALUE)
    }

    pub fn destroy_pool(&mut self, pool: u64) -> Outcome {
        if self.pools.defaults.values().any(|&it| it == pool) {
            return Err(ERROR_INVALID_VALUE);
        }
        self.pool(pool)?.gone = true;
        self.pools.current.retain(|_, &mut it| it != pool);
        self.shrink(pool, 0);
        Ok(())
    }

    /// Gives idle memory back to the device, until the pool has `keep`.
    fn shrink(&mut self, pool: u64, keep: u64) {
        let streams = &self.streams;
        let Some(it) = self.pools.rows.get_mut(&pool) else { return };
        it.freed.retain(|&(point, ..)| !streams.is_done(point));
        let back = it.idle().min(it.reserved.now.saturating_sub(keep));
        it.reserved.now -= back;
        self.memory.used[it.device] -= back;
        if it.gone && it.reserved.now == 0 {
            self.pools.rows.remove(&pool);
        }
    }

    pub fn trim_pool(&mut self, pool: u64, keep: u64) -> Outcome {
        self.pool(pool)?;
        self.shrink(pool, keep);
        Ok(())
    }

    /// The host has synchronised: pools keep no more than they were told.
    pub fn shrink_pools(&mut self) {
        let all: Vec<_> = self.pools.rows.iter().map(|(&pool, it)| (pool, it.threshold)).collect();
        for (pool, threshold) in all {
            self.shrink(pool, threshold);
        }
    }

    /// An attribute, and whether it has 4 bytes.
    pub fn pool_attribute(&mut self, pool: u64, number: u32) -> Outcome<(u64, bool)> {
        let it = self.pool(pool)?;
        Ok(match number {
            1..=3 => (u64::from(it.reuse[number as usize - 1]), true),
            4 => (it.threshold, false),
            5 => (it.reserved.now, false),
            6 => (it.reserved.high, false),
            7 => (it.used.now, false),
            8 => (it.used.high, false),
            _ => return Err(ERROR_INVALID_VALUE),
        })
    }

    pub fn set_pool_attribute(&mut self, pool: u64, number: u32, value: u64) -> Outcome {
        let it = self.pool(pool)?;
        match number {
            1..=3 => it.reuse[number as usize - 1] = value != 0,
            4 => it.threshold = value,
            // Only begun anew.
            6 if value == 0 => it.reserved.high = it.reserved.now,
            8 if value == 0 => it.used.high = it.used.now,
            _ => return Err(ERROR_INVALID_VALUE),
        }
        Ok(())
    }

    pub fn pool_access(&mut self, pool: u64, device: i32) -> Outcome<bool> {
        let device = self.device(device)?;
        Ok(self.pool(pool)?.access & 1 << device != 0)
    }

    /// Lets a device use what comes from a pool, and what came from it before.
    pub fn set_pool_access(&mut self, pool: u64, device: i32, allow: bool) -> Outcome {
        let (device, owner) = (self.device(device)?, self.pool(pool)?.device);
        if device == owner && !allow || device != owner && !self.config.reaches(device, owner) {
            return Err(ERROR_INVALID_VALUE);
        }
        let it = self.pool(pool)?;
        it.access = it.access & !(1 << device) | u64::from(allow) << device;
        let access = it.access;
        for mapping in self.memory.mapped.values_mut().filter(|it| it.pool == Some(pool)) {
            mapping.access = access;
        }
        Ok(())
    }

    /// Memory that a stream's later work may use, of this pool or the stream's device's own.
    pub fn alloc_async(&mut self, bytes: u64, pool: Option<u64>, stream: u64) -> Outcome<u64> {
        self.pools_there()?;
        let key = self.stream_key(stream)?;
        // As nodes of graphs they are not simulated.
        self.refuse_capture(key)?;
        let device = self.stream(key)?.device;
        let pool = match pool {
            Some(pool) => pool,
            None => self.current_pool(device as i32)?,
        };
        let room = bytes.checked_next_multiple_of(PLAIN).ok_or(ERROR_OUT_OF_MEMORY)?;
        let of = self.pool(pool)?.device;
        if room == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        self.take_from(pool, key, room)?;
        let access = self.pool(pool)?.access;
        let placed =
            self.uncounted(of, room).and_then(|it| self.place_plain(it, access, Some(pool)));
        let address = match placed {
            Ok(address) => address,
            Err(code) => {
                self.return_to(pool, room);
                return Err(code);
            }
        };
        // Nothing may use it that does not come after this.
        let (at, after) = self.place(key, What::Call("cuMemAllocAsync", address, room))?;
        self.access(at, of, (address, room), true);
        self.enqueue(key, after, 0, Work::Nothing);
        Ok(address)
    }

    /// Counts bytes as used: from what the pool has and the stream may have, or the device.
    fn take_from(&mut self, pool: u64, key: u64, room: u64) -> Outcome {
        let slot = self.stream(key)?.slot;
        let (streams, clock) = (&self.streams, self.order.clock(slot));
        let it = self.pools.rows.get_mut(&pool).ok_or(ERROR_INVALID_VALUE)?;
        let reuse = it.reuse;
        it.freed.retain(|&(point, epoch, _)| {
            let known = epoch.slot == slot || reuse[0] && clock.covers(epoch);
            !(known || reuse[1] && streams.is_done(point))
        });
        let lack = room.saturating_sub(it.idle());
        let device = it.device;
        let capacity = self.config.capacity;
        if self.memory.used[device].saturating_add(lack) > capacity {
            // What other pools do not use is taken before there is no memory.
            let rows = self.pools.rows.iter();
            let others = rows.filter(|&(&other, it)| other != pool && it.device == device);
            let others: Vec<u64> = others.map(|(&other, _)| other).collect();
            others.into_iter().for_each(|other| self.shrink(other, 0));
        }
        if self.memory.used[device].saturating_add(lack) > capacity {
            return Err(ERROR_OUT_OF_MEMORY);
        }
        self.memory.used[device] += lack;
        let it = self.pool(pool)?;
        it.reserved.set(it.reserved.now + lack);
        it.used.set(it.used.now + room);
        Ok(())
    }

    /// Takes memory back behind the work of a stream.
    pub fn free_async(&mut self, address: u64, stream: u64) -> Outcome {
        self.pools_there()?;
        let key = self.stream_key(stream)?;
        self.refuse_capture(key)?;
        let mapping = self.memory.mapped.get(&address).filter(|it| it.handle.is_none());
        let mapping = mapping.ok_or(ERROR_INVALID_VALUE)?;
        if mapping.freed.is_some() {
            return Err(ERROR_INVALID_VALUE);
        }
        let (bytes, pool, uses) = (mapping.bytes, mapping.pool, mapping.uses.clone());
        let (at, after) = self.place(key, What::Call("cuMemFreeAsync", address, bytes))?;
        if self.order.checks {
            self.order.retire_uses(&uses, (address, bytes), at);
        }
        self.mark_freed(address, at);
        let point = self.enqueue(key, after, 0, Work::Free(address));
        if let Some(it) = pool.and_then(|pool| self.pools.rows.get_mut(&pool)) {
            it.used.now -= bytes;
            it.freed.push((point, at, bytes));
        }
        Ok(())
    }

    /// What was taken back in a stream is gone: the work before it is done.
    pub fn freed(&mut self, address: u64) {
        let Some(mapping) = self.memory.mapped.remove(&address) else { return };
        self.memory.reserved.remove(&address);
        self.let_go(&mapping.piece);
        if let Some(pool) = mapping.pool
            && self.pools.rows.get(&pool).is_some_and(|it| it.gone)
        {
            self.shrink(pool, 0);
        }
    }

    /// `cuMemFree` of what came from a pool.
    pub fn return_to(&mut self, pool: u64, bytes: u64) {
        if let Some(it) = self.pools.rows.get_mut(&pool) {
            it.used.now -= bytes;
            if it.gone {
                self.shrink(pool, 0);
            }
        }
    }

    /// From here on the memory is for no work that comes after.
    fn mark_freed(&mut self, address: u64, at: Epoch) {
        let Some(mapping) = self.memory.mapped.get_mut(&address) else { return };
        mapping.freed = Some(at);
        let (id, bytes) = (mapping.piece.id, mapping.bytes);
        if self.order.checks {
            let accesses = self.memory.accesses.entry(id).or_default();
            accesses.access((0, bytes), true, at, self.order.clock(at.slot), |_, _| {});
        }
    }
}
