//! Pinned memory of the host.

use crate::State;
use crate::code::{
    ERROR_HOST_MEMORY_ALREADY_REGISTERED, ERROR_HOST_MEMORY_NOT_REGISTERED, ERROR_INVALID_VALUE,
    Outcome,
};
use crate::memory::Memory;
use crate::span::Span;

impl Memory {
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
}

impl State {
    pub fn pin(&mut self, at: u64, bytes: u64) -> Outcome {
        let pinned = &mut self.memory.pinned;
        let end = at.checked_add(bytes).ok_or(ERROR_INVALID_VALUE)?;
        if at == 0 || bytes == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let before = pinned.range(..end).next_back();
        if before.is_some_and(|(&start, &(length, _))| start + length > at) {
            return Err(ERROR_HOST_MEMORY_ALREADY_REGISTERED);
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
            _ => Err(ERROR_HOST_MEMORY_NOT_REGISTERED),
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
