//! Memory of devices: pieces of it, addresses, and what is mapped where.
//!
//! A device address is a reservation without access, so that the host faults on it. The bytes
//! are in another place, the alias, which only the simulator knows. Untouched bytes cost no
//! memory of the host.

use std::collections::{BTreeMap, HashMap};
use std::ptr::null_mut;
use std::sync::Arc;

use crate::code::{ERROR_INVALID_VALUE, ERROR_OUT_OF_MEMORY, Outcome};
use crate::order::{Accesses, Clock, What};
use crate::{HOST, State};

/// The granularity of virtual memory management.
pub const PAGE: u64 = 2 << 20;
/// What plain allocations are counted in.
const PLAIN: u64 = 512;

/// Bytes of the host, unmapped with the last one who holds them.
struct Span {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: an address; those who use it are under the driver's lock.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

impl Span {
    fn new(bytes: u64, access: i32, align: u64) -> Outcome<Span> {
        let bytes = usize::try_from(bytes).map_err(|_| ERROR_OUT_OF_MEMORY)?;
        let wide = bytes.checked_add(align as usize).ok_or(ERROR_OUT_OF_MEMORY)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping where the system likes it.
        let base = unsafe { libc::mmap(null_mut(), wide, access, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(ERROR_OUT_OF_MEMORY);
        }
        let base = base.cast::<u8>();
        let before = base.align_offset(align as usize);
        // SAFETY: the ends of the mapping above; what is between them stays.
        unsafe {
            if before > 0 {
                libc::munmap(base.cast(), before);
            }
            if wide - before > bytes {
                libc::munmap(base.add(before + bytes).cast(), wide - before - bytes);
            }
            Ok(Span { base: base.add(before), bytes })
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` left.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

/// Physical memory of a device, under a number that no other had.
pub struct Piece {
    pub id: u64,
    pub device: usize,
    bytes: u64,
    /// None where only counts are kept.
    alias: Option<Span>,
}

impl Piece {
    /// Where the bytes from `offset` on are.
    pub fn at(&self, offset: u64) -> Option<*mut u8> {
        let alias = self.alias.as_ref()?;
        Some(alias.base.wrapping_add(offset as usize))
    }
}

/// What `cuMemCreate` gave.
struct Handle {
    piece: Arc<Piece>,
    references: u64,
    mappings: u64,
}

pub struct Mapping {
    pub bytes: u64,
    pub piece: Arc<Piece>,
    /// The handle, none for plain memory.
    pub handle: Option<u64>,
    /// Devices that may use it.
    pub access: u64,
    /// Operations that used it.
    uses: Clock,
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
    used: Vec<u64>,
    reserved: BTreeMap<u64, Span>,
    mapped: BTreeMap<u64, Mapping>,
    handles: HashMap<u64, Handle>,
    /// The last accesses, by piece.
    pub accesses: HashMap<u64, Accesses>,
    /// Pinned memory of the host; with a span if it came from here.
    pinned: BTreeMap<u64, (u64, Option<Span>)>,
}

impl Memory {
    pub fn new(devices: usize) -> Memory {
        Memory {
            used: vec![0; devices],
            reserved: BTreeMap::new(),
            mapped: BTreeMap::new(),
            handles: HashMap::new(),
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

    /// Whether the host's range is pinned as a whole.
    pub fn is_pinned(&self, at: u64, bytes: u64) -> bool {
        let before = self.pinned.range(..=at).next_back();
        before.is_some_and(|(&start, &(length, _))| {
            at.checked_add(bytes).is_some_and(|end| end <= start + length)
        })
    }

    /// The pinned memory of the host that an address is in: its start and bytes.
    pub fn pinned_around(&self, at: u64) -> Option<(u64, u64)> {
        let (&start, &(bytes, _)) = self.pinned.range(..=at).next_back()?;
        (at - start < bytes).then_some((start, bytes))
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

    fn drop_unused(&mut self, handle: u64) {
        if let Some(it) = self.handles.get(&handle)
            && it.references == 0
            && it.mappings == 0
        {
            self.used[it.piece.device] -= it.piece.bytes;
            self.accesses.remove(&it.piece.id);
            self.handles.remove(&handle);
        }
    }

    /// The mappings that are exactly `[address, address + bytes)`, without holes.
    fn exactly(&self, address: u64, bytes: u64) -> Outcome<Vec<u64>> {
        let end = address.checked_add(bytes).ok_or(ERROR_INVALID_VALUE)?;
        let (mut found, mut reached) = (Vec::new(), address);
        while reached < end {
            let mapping = self.mapped.get(&reached).ok_or(ERROR_INVALID_VALUE)?;
            if mapping.handle.is_none() {
                return Err(ERROR_INVALID_VALUE);
            }
            found.push(reached);
            reached += mapping.bytes;
        }
        if reached == end && !found.is_empty() { Ok(found) } else { Err(ERROR_INVALID_VALUE) }
    }
}

fn whole_pages(number: u64) -> Outcome {
    if number.is_multiple_of(PAGE) { Ok(()) } else { Err(ERROR_INVALID_VALUE) }
}

impl State {
    fn piece(&mut self, device: usize, bytes: u64) -> Outcome<Arc<Piece>> {
        let used = self.memory.used[device];
        let after = used.checked_add(bytes).ok_or(ERROR_OUT_OF_MEMORY)?;
        if after > self.config.capacity {
            return Err(ERROR_OUT_OF_MEMORY);
        }
        let alias = match self.config.bookkeeping {
            true => None,
            false => Some(Span::new(bytes, libc::PROT_READ | libc::PROT_WRITE, 4096)?),
        };
        self.memory.used[device] = after;
        Ok(Arc::new(Piece { id: self.handle(), device, bytes, alias }))
    }

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
        let span = Span::new(room.next_multiple_of(4096), libc::PROT_NONE, 4096)?;
        let piece = self.piece(device, room)?;
        let address = span.base as u64;
        let mapping = Mapping {
            bytes: room,
            piece,
            handle: None,
            access: 1 << device,
            uses: Clock::default(),
        };
        self.memory.reserved.insert(address, span);
        self.memory.mapped.insert(address, mapping);
        Ok(address)
    }

    pub fn free(&mut self, address: u64) -> Outcome {
        if address == 0 {
            return Ok(());
        }
        let memory = &mut self.memory;
        if memory.mapped.get(&address).is_none_or(|mapping| mapping.handle.is_some()) {
            return Err(ERROR_INVALID_VALUE);
        }
        self.retire("cuMemFree", address);
        let memory = &mut self.memory;
        if let Some(mapping) = memory.mapped.remove(&address) {
            memory.used[mapping.piece.device] -= mapping.bytes;
            memory.accesses.remove(&mapping.piece.id);
        }
        memory.reserved.remove(&address);
        Ok(())
    }

    /// A mapping goes: the work that used it must be known to be done.
    fn retire(&mut self, name: &'static str, address: u64) {
        let Some(mapping) = self.memory.mapped.get(&address) else { return };
        if self.order.checks {
            let by = self.order.step(HOST, What::Call(name, address, mapping.bytes));
            self.order.retire_uses(&mapping.uses, (address, mapping.bytes), by);
        }
    }

    pub fn reserve(&mut self, bytes: u64, align: u64) -> Outcome<u64> {
        if bytes == 0 || align != 0 && !align.is_power_of_two() {
            return Err(ERROR_INVALID_VALUE);
        }
        whole_pages(bytes)?;
        let span = Span::new(bytes, libc::PROT_NONE, align.max(PAGE))?;
        let address = span.base as u64;
        self.memory.reserved.insert(address, span);
        Ok(address)
    }

    pub fn unreserve(&mut self, address: u64, bytes: u64) -> Outcome {
        let memory = &mut self.memory;
        let whole = memory.reserved.get(&address).is_some_and(|it| it.bytes as u64 == bytes);
        if !whole || memory.mapped.range(address..address + bytes).next().is_some() {
            return Err(ERROR_INVALID_VALUE);
        }
        memory.reserved.remove(&address);
        Ok(())
    }

    pub fn create(&mut self, device: i32, bytes: u64) -> Outcome<u64> {
        let device = self.device(device)?;
        if bytes == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        whole_pages(bytes)?;
        let piece = self.piece(device, bytes)?;
        let handle = piece.id;
        self.memory.handles.insert(handle, Handle { piece, references: 1, mappings: 0 });
        Ok(handle)
    }

    pub fn release_page(&mut self, handle: u64) -> Outcome {
        let it = self.memory.handles.get_mut(&handle).ok_or(ERROR_INVALID_VALUE)?;
        it.references = it.references.checked_sub(1).ok_or(ERROR_INVALID_VALUE)?;
        self.memory.drop_unused(handle);
        Ok(())
    }

    /// The handle of what is mapped at an address, with one reference more.
    pub fn retain_page(&mut self, address: u64) -> Outcome<u64> {
        let (_, mapping) = self.memory.around(address).ok_or(ERROR_INVALID_VALUE)?;
        let handle = mapping.handle.ok_or(ERROR_INVALID_VALUE)?;
        let it = self.memory.handles.get_mut(&handle).ok_or(ERROR_INVALID_VALUE)?;
        it.references += 1;
        Ok(handle)
    }

    pub fn map(&mut self, address: u64, bytes: u64, offset: u64, handle: u64) -> Outcome {
        let memory = &mut self.memory;
        let it = memory.handles.get_mut(&handle).ok_or(ERROR_INVALID_VALUE)?;
        whole_pages(address)?;
        whole_pages(bytes)?;
        let end = address.checked_add(bytes).ok_or(ERROR_INVALID_VALUE)?;
        if bytes == 0 || offset != 0 || bytes > it.piece.bytes || it.references == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let reserved = memory.reserved.range(..=address).next_back();
        if reserved.is_none_or(|(&start, span)| end > start + span.bytes as u64) {
            return Err(ERROR_INVALID_VALUE);
        }
        let before = memory.mapped.range(..end).next_back();
        if before.is_some_and(|(&start, mapping)| start + mapping.bytes > address) {
            return Err(ERROR_INVALID_VALUE);
        }
        it.mappings += 1;
        let (piece, uses) = (Arc::clone(&it.piece), Clock::default());
        let mapping = Mapping { bytes, piece, handle: Some(handle), access: 0, uses };
        memory.mapped.insert(address, mapping);
        Ok(())
    }

    pub fn unmap(&mut self, address: u64, bytes: u64) -> Outcome {
        for start in self.memory.exactly(address, bytes)? {
            self.retire("cuMemUnmap", start);
            let memory = &mut self.memory;
            let Some(mapping) = memory.mapped.remove(&start) else { continue };
            let Some(handle) = mapping.handle else { continue };
            if let Some(it) = memory.handles.get_mut(&handle) {
                it.mappings -= 1;
            }
            memory.drop_unused(handle);
        }
        Ok(())
    }

    /// Lets a device use mapped memory, or no longer.
    pub fn set_access(&mut self, address: u64, bytes: u64, device: i32, allow: bool) -> Outcome {
        let device = self.device(device)?;
        for start in self.memory.exactly(address, bytes)? {
            let Some(mapping) = self.memory.mapped.get_mut(&start) else { continue };
            if device != mapping.piece.device && !self.config.peers {
                return Err(ERROR_INVALID_VALUE);
            }
            mapping.access &= !(1 << device);
            mapping.access |= u64::from(allow) << device;
        }
        Ok(())
    }

    /// The parts of a range that work of a device may use; none if it may not use all of it.
    /// `mark` is told of every mapping's uses.
    pub fn parts(
        &mut self,
        device: usize,
        (address, bytes): (u64, u64),
        mut mark: impl FnMut(&mut Clock),
    ) -> Option<Vec<Part>> {
        let end = address.checked_add(bytes)?;
        let (mut parts, mut reached) = (Vec::new(), address);
        while reached < end {
            let contexts = &self.contexts;
            let (start, mapping) = self.memory.around(reached)?;
            let may = mapping.access & 1 << device != 0
                || mapping.handle.is_none() && contexts.reaches(device, mapping.piece.device);
            if !may {
                return None;
            }
            mark(&mut mapping.uses);
            let stop = end.min(start + mapping.bytes);
            let piece = Arc::clone(&mapping.piece);
            let (offset, bytes) = (reached - start, stop - reached);
            parts.push(Part { piece, offset, address: reached, bytes });
            reached = stop;
        }
        Some(parts)
    }

    pub fn pin(&mut self, at: u64, bytes: u64) -> Outcome {
        let pinned = &mut self.memory.pinned;
        let end = at.checked_add(bytes).ok_or(ERROR_INVALID_VALUE)?;
        if at == 0 || bytes == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let before = pinned.range(..end).next_back();
        if before.is_some_and(|(&start, &(length, _))| start + length > at) {
            return Err(crate::code::ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        }
        pinned.insert(at, (bytes, None));
        Ok(())
    }

    pub fn unpin(&mut self, at: u64) -> Outcome {
        match self.memory.pinned.get(&at) {
            Some((_, None)) => {
                self.memory.pinned.remove(&at);
                Ok(())
            }
            _ => Err(crate::code::ERROR_HOST_MEMORY_NOT_REGISTERED),
        }
    }

    pub fn alloc_host(&mut self, bytes: u64) -> Outcome<u64> {
        self.current_device()?;
        if bytes == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let span = Span::new(bytes, libc::PROT_READ | libc::PROT_WRITE, 4096)?;
        let at = span.base as u64;
        self.memory.pinned.insert(at, (bytes, Some(span)));
        Ok(at)
    }

    pub fn free_host(&mut self, at: u64) -> Outcome {
        match self.memory.pinned.get(&at) {
            Some((_, Some(_))) => {
                self.memory.pinned.remove(&at);
                Ok(())
            }
            _ => Err(ERROR_INVALID_VALUE),
        }
    }
}
