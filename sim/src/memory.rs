//! Memory of devices: pieces of it, addresses, and what is mapped where.
//!
//! A device address is a reservation without access, so that the host faults on it. The bytes
//! are in another place, the alias, which only the simulator knows. Untouched bytes cost no
//! memory of the host.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::code::{ERROR_INVALID_VALUE, ERROR_OUT_OF_MEMORY, Outcome};
use crate::order::{Accesses, Clock, Epoch, What};
use crate::piece::Piece;
use crate::span::Span;
use crate::{HOST, State};

/// The granularity of virtual memory management.
pub const PAGE: u64 = 2 << 20;
/// What plain allocations are counted in.
pub const PLAIN: u64 = 512;

/// What `cuMemCreate` gave.
pub struct Handle {
    pub piece: Arc<Piece>,
    pub references: u64,
    pub mappings: u64,
}

pub struct Mapping {
    pub bytes: u64,
    pub piece: Arc<Piece>,
    /// The handle, none for plain memory.
    pub handle: Option<u64>,
    /// Devices that may use it.
    pub access: u64,
    /// Operations that used it.
    pub uses: Clock,
    /// The driver's pool that it came from.
    pub pool: Option<u64>,
    /// The operation of a stream that takes it back.
    pub freed: Option<Epoch>,
}

/// A part of a range of device addresses: the piece, and where in it.
pub struct Part {
    pub piece: Arc<Piece>,
    pub offset: u64,
    pub address: u64,
    pub bytes: u64,
}

/// Everything that devices have in memory.
pub struct Memory {
    pub used: Vec<u64>,
    pub reserved: BTreeMap<u64, Span>,
    pub mapped: BTreeMap<u64, Mapping>,
    pub handles: HashMap<u64, Handle>,
    /// Handles and plain allocations of each piece.
    pub holders: HashMap<u64, u32>,
    /// The last accesses, by piece.
    pub accesses: HashMap<u64, Accesses>,
    /// Pinned memory of the host; with a span if it came from here.
    pub pinned: BTreeMap<u64, (u64, Option<Span>)>,
}

impl Memory {
    pub fn new(devices: usize) -> Memory {
        Memory {
            used: vec![0; devices],
            reserved: BTreeMap::new(),
            mapped: BTreeMap::new(),
            handles: HashMap::new(),
            holders: HashMap::new(),
            accesses: HashMap::new(),
            pinned: BTreeMap::new(),
        }
    }

    pub fn used(&self, device: usize) -> u64 {
        self.used[device]
    }

    pub fn occupy(&mut self, device: usize, bytes: u64) {
        self.used[device] = self.used[device].saturating_add(bytes);
    }

    /// The mapping that an address is in.
    pub fn around(&mut self, address: u64) -> Option<(u64, &mut Mapping)> {
        let (&start, mapping) = self.mapped.range_mut(..=address).next_back()?;
        (address - start < mapping.bytes).then_some((start, mapping))
    }

    /// The device whose memory an address is in.
    pub fn owner(&mut self, address: u64) -> Option<usize> {
        self.around(address).map(|(_, mapping)| mapping.piece.device)
    }
}

impl State {
    /// Free and all bytes of the current device.
    pub fn memory_info(&self) -> Outcome<(u64, u64)> {
        let device = self.current_device()?;
        let capacity = self.config.capacity;
        Ok((capacity.saturating_sub(self.memory.used[device]), capacity))
    }

    pub fn alloc(&mut self, bytes: u64) -> Outcome<u64> {
        let device = self.current_device()?;
        if bytes == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let room = bytes.checked_next_multiple_of(PLAIN).ok_or(ERROR_OUT_OF_MEMORY)?;
        if room > self.config.capacity {
            return Err(ERROR_OUT_OF_MEMORY);
        }
        let piece = self.piece(device, room, 0)?;
        self.place_plain(piece, 1 << device, None)
    }

    /// Gives a piece addresses of its own, as plain memory of the devices in `access`.
    pub fn place_plain(
        &mut self,
        piece: Arc<Piece>,
        access: u64,
        pool: Option<u64>,
    ) -> Outcome<u64> {
        let bytes = piece.bytes;
        let span = match Span::new(bytes.next_multiple_of(4096), libc::PROT_NONE, 4096) {
            Ok(span) => span,
            Err(code) => {
                self.let_go(&piece);
                return Err(code);
            }
        };
        let (address, uses) = (span.base as u64, Clock::default());
        let mapping = Mapping { bytes, piece, handle: None, access, uses, pool, freed: None };
        self.memory.reserved.insert(address, span);
        self.memory.mapped.insert(address, mapping);
        Ok(address)
    }

    pub fn free(&mut self, address: u64) -> Outcome {
        if address == 0 {
            return Ok(());
        }
        let mapping = self.memory.mapped.get(&address);
        if mapping.is_none_or(|it| it.handle.is_some() || it.freed.is_some()) {
            return Err(ERROR_INVALID_VALUE);
        }
        self.retire("cuMemFree", address);
        if let Some(mapping) = self.memory.mapped.remove(&address) {
            self.let_go(&mapping.piece);
            if let Some(pool) = mapping.pool {
                self.return_to(pool, mapping.bytes);
            }
        }
        self.memory.reserved.remove(&address);
        Ok(())
    }

    /// A mapping goes: the work that used it must be known to be done.
    pub fn retire(&mut self, name: &'static str, address: u64) {
        let Some(mapping) = self.memory.mapped.get(&address) else { return };
        if self.order.checks {
            let by = self.order.step(HOST, What::Call(name, address, mapping.bytes));
            self.order.retire_uses(&mapping.uses, (address, mapping.bytes), by);
        }
    }

    /// The parts of a range that an operation of a device uses. If it may not use all of it,
    /// the operation that took the memory back, or none.
    pub fn parts(
        &mut self,
        at: Epoch,
        device: usize,
        (address, bytes): (u64, u64),
    ) -> Result<Vec<Part>, Epoch> {
        let end = address.checked_add(bytes).ok_or(Epoch::NONE)?;
        let (mut parts, mut reached) = (Vec::new(), address);
        let (contexts, clock) = (&self.contexts, self.order.clock(at.slot));
        while reached < end {
            let (start, mapping) = self.memory.around(reached).ok_or(Epoch::NONE)?;
            let plain = mapping.handle.is_none() && mapping.pool.is_none();
            let may = mapping.access & 1 << device != 0
                || plain && contexts.reaches(device, mapping.piece.device);
            if let Some(freed) = mapping.freed.filter(|&freed| clock.covers(freed)) {
                return Err(freed);
            }
            if !may {
                return Err(Epoch::NONE);
            }
            mapping.uses.set(at);
            let stop = end.min(start + mapping.bytes);
            let piece = Arc::clone(&mapping.piece);
            let (offset, bytes) = (reached - start, stop - reached);
            parts.push(Part { piece, offset, address: reached, bytes });
            reached = stop;
        }
        Ok(parts)
    }
}
