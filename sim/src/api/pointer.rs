//! What is known of an address.

use super::{entry_points, give, take};
use crate::code::{ERROR_INVALID_CONTEXT, ERROR_INVALID_VALUE, ERROR_NOT_FOUND, Outcome};
use crate::pointer::{Known, Value};

/// Writes as many bytes as the attribute has.
fn give_value(to: *mut u8, (value, bytes): Value) -> Outcome {
    match bytes {
        1 => give(to, value as u8),
        4 => give(to.cast(), value as u32),
        _ => give(to.cast(), value),
    }
}

entry_points! {
    fn cuPointerGetAttribute(to: *mut u8, attribute: u32, address: u64) |state| {
        if state.current() == 0 {
            return Err(ERROR_INVALID_CONTEXT);
        }
        let known = state.known(address).ok_or(ERROR_INVALID_VALUE)?;
        give_value(to, known.attribute(attribute, address)?)
    }
    fn cuPointerGetAttributes(count: u32, attributes: *const u32, to: *const *mut u8, address: u64)
    |state| {
        if state.current() == 0 {
            return Err(ERROR_INVALID_CONTEXT);
        }
        let known = state.known(address);
        for index in 0..count as usize {
            let number = take(attributes.wrapping_add(index))?;
            // What does not apply is zero here, and no error.
            let value = match known.map(|known| known.attribute(number, address)) {
                Some(Ok(value)) => value,
                _ => Known::nothing(number)?,
            };
            give_value(take(to.wrapping_add(index))?, value)?;
        }
        Ok(())
    }
    fn cuMemGetAddressRange_v2(base: *mut u64, bytes: *mut usize, address: u64) |state| {
        state.current_device()?;
        let known = state.known(address).filter(|known| known.device.is_some());
        let known = known.ok_or(ERROR_NOT_FOUND)?;
        if !base.is_null() {
            give(base, known.start)?;
        }
        if bytes.is_null() { Ok(()) } else { give(bytes, known.bytes as usize) }
    }
    fn cuMemHostGetDevicePointer_v2(address: *mut u64, at: u64, flags: u32) |state| {
        state.current_device()?;
        if flags != 0 || !state.memory.is_pinned(at, 1) {
            return Err(ERROR_INVALID_VALUE);
        }
        // One address for the host and all devices.
        give(address, at)
    }
}
