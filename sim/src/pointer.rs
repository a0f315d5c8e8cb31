//! What is known of an address.

use crate::State;
use crate::code::{ERROR_INVALID_VALUE, Outcome};

/// An address that the driver knows.
#[derive(Clone, Copy)]
pub struct Known {
    /// None for memory of the host.
    pub device: Option<usize>,
    /// 0 where it belongs to none.
    pub context: u64,
    /// Bytes that are one allocation or mapping.
    pub start: u64,
    pub bytes: u64,
    /// A number that no other memory has.
    pub id: u64,
    /// What its handle can be exported as.
    pub exports: u32,
    /// The pool that it came from.
    pub pool: u64,
    /// Whether work of the current device may use it.
    pub mapped: bool,
}

/// What an attribute comes to: a number and its bytes.
pub type Value = (u64, usize);

impl Known {
    /// An attribute by its number.
    pub fn attribute(&self, number: u32, address: u64) -> Outcome<Value> {
        let host = self.device.is_none();
        Ok(match number {
            1 if self.context == 0 => return Err(ERROR_INVALID_VALUE),
            1 => (self.context, 8),
            // 1 is the host, 2 a device.
            2 => (2 - u64::from(host), 4),
            3 => (address, 8),
            4 if host => (address, 8),
            4 => return Err(ERROR_INVALID_VALUE),
            7 => (self.id, 8),
            // Managed; for the older way between processes.
            8 | 10 => (0, 1),
            9 => (self.device.unwrap_or(0) as u64, 4),
            11 => (self.start, 8),
            12 => (self.bytes, 8),
            13 => (u64::from(self.mapped), 1),
            14 => (u64::from(self.exports), 8),
            // 3: read and write.
            16 => (if self.mapped { 3 } else { 0 }, 4),
            17 => (self.pool, 8),
            _ => return Err(ERROR_INVALID_VALUE),
        })
    }

    /// Bytes of an attribute of an address that is not known: zero.
    pub fn nothing(number: u32) -> Outcome<Value> {
        let some = Known {
            device: None,
            context: 1,
            start: 0,
            bytes: 0,
            id: 0,
            exports: 0,
            pool: 0,
            mapped: false,
        };
        // No device has a number below 0.
        let value = if number == 9 { u64::from(-2i32 as u32) } else { 0 };
        Ok((value, some.attribute(number, 0)?.1))
    }
}

impl State {
    /// What is known of an address; none if nothing is there.
    pub fn known(&mut self, address: u64) -> Option<Known> {
        let current = self.current_device().ok();
        if let Some((start, mapping)) = self.memory.around(address) {
            let device = mapping.piece.device;
            let plain = mapping.handle.is_none() && mapping.pool.is_none();
            let access = mapping.access;
            let known = Known {
                device: Some(device),
                // Pages belong to no context.
                context: if plain { State::context_of(device) } else { 0 },
                start,
                bytes: mapping.bytes,
                id: mapping.piece.id,
                exports: mapping.piece.exports,
                pool: mapping.pool.unwrap_or(0),
                mapped: false,
            };
            let mapped = current.is_some_and(|current| {
                access & 1 << current != 0 || plain && self.contexts.reaches(current, device)
            });
            return Some(Known { mapped, ..known });
        }
        let (start, bytes) = self.memory.pinned_around(address)?;
        let context = State::context_of(current.unwrap_or(0));
        let (exports, pool, mapped) = (0, 0, true);
        Some(Known { device: None, context, start, bytes, id: start, exports, pool, mapped })
    }
}
