//! Virtual memory management: reservations, handles and mappings.

use std::sync::Arc;

use crate::State;
use crate::code::{ERROR_INVALID_VALUE, Outcome};
use crate::memory::{Handle, Mapping, Memory, PAGE};
use crate::order::Clock;
use crate::span::Span;

fn whole_pages(number: u64) -> Outcome {
    if number.is_multiple_of(PAGE) { Ok(()) } else { Err(ERROR_INVALID_VALUE) }
}

impl Memory {
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

impl State {
    /// Lets go of a handle that nothing holds.
    fn drop_unused(&mut self, handle: u64) {
        let idle = |it: &Handle| it.references == 0 && it.mappings == 0;
        if self.memory.handles.get(&handle).is_some_and(idle)
            && let Some(it) = self.memory.handles.remove(&handle)
        {
            self.let_go(&it.piece);
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

    pub fn create(&mut self, device: i32, bytes: u64, exports: u32) -> Outcome<u64> {
        let device = self.device(device)?;
        if bytes == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        whole_pages(bytes)?;
        let piece = self.piece(device, bytes, exports)?;
        let handle = piece.id;
        self.memory.handles.insert(handle, Handle { piece, references: 1, mappings: 0 });
        Ok(handle)
    }

    pub fn release_page(&mut self, handle: u64) -> Outcome {
        let it = self.memory.handles.get_mut(&handle).ok_or(ERROR_INVALID_VALUE)?;
        it.references = it.references.checked_sub(1).ok_or(ERROR_INVALID_VALUE)?;
        self.drop_unused(handle);
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
        let mapping = Mapping {
            bytes,
            piece,
            handle: Some(handle),
            access: 0,
            uses,
            pool: None,
            freed: None,
        };
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
            self.drop_unused(handle);
        }
        Ok(())
    }

    /// The device of a handle's memory, and what it can be exported as.
    pub fn properties(&self, handle: u64) -> Outcome<(usize, u32)> {
        let it = self.memory.handles.get(&handle).ok_or(ERROR_INVALID_VALUE)?;
        Ok((it.piece.device, it.piece.exports))
    }

    /// Whether a device may use what is mapped at an address.
    pub fn access_of(&mut self, address: u64, device: i32) -> Outcome<bool> {
        let device = self.device(device)?;
        let (_, mapping) = self.memory.around(address).ok_or(ERROR_INVALID_VALUE)?;
        Ok(mapping.access & 1 << device != 0)
    }

    /// Whether a device can be let use mapped memory.
    pub fn may_access(&self, address: u64, bytes: u64, device: i32) -> Outcome {
        let device = self.device(device)?;
        for start in self.memory.exactly(address, bytes)? {
            let owner = self.memory.mapped.get(&start).map_or(device, |it| it.piece.device);
            if device != owner && !self.config.reaches(device, owner) {
                return Err(ERROR_INVALID_VALUE);
            }
        }
        Ok(())
    }

    /// Lets a device use mapped memory, or no longer.
    pub fn set_access(&mut self, address: u64, bytes: u64, device: i32, allow: bool) -> Outcome {
        let device = self.device(device)?;
        for start in self.memory.exactly(address, bytes)? {
            let Some(mapping) = self.memory.mapped.get_mut(&start) else { continue };
            mapping.access &= !(1 << device);
            mapping.access |= u64::from(allow) << device;
        }
        Ok(())
    }
}
