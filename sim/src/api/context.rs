//! Contexts.

use super::{entry_points, give};

entry_points! {
    fn cuDevicePrimaryCtxRetain(context: *mut u64, device: i32) |state| {
        let retained = state.retain(device)?;
        give(context, retained)
    }
    fn cuDevicePrimaryCtxRelease_v2(device: i32) |state| { state.release(device) }
    fn cuDevicePrimaryCtxGetState(device: i32, flags: *mut u32, active: *mut i32) |state| {
        let retained = state.is_retained(device)?;
        give(flags, 0)?;
        give(active, i32::from(retained))
    }
    fn cuCtxGetCurrent(context: *mut u64) |state| { give(context, state.current()) }
    fn cuCtxSetCurrent(context: u64) |state| { state.set_current(context) }
    fn cuCtxPushCurrent_v2(context: u64) |state| { state.push(context) }
    fn cuCtxPopCurrent_v2(context: *mut u64) |state| {
        let popped = state.pop()?;
        if context.is_null() { Ok(()) } else { give(context, popped) }
    }
    fn cuCtxGetDevice(device: *mut i32) |state| { give(device, state.current_device()? as i32) }
    fn cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) |state| {
        state.current_device()?;
        let (low, high) = crate::stream::PRIORITIES;
        if !least.is_null() {
            give(least, low)?;
        }
        if greatest.is_null() { Ok(()) } else { give(greatest, high) }
    }
    fn cuCtxDisablePeerAccess(peer: u64) |state| { state.disable_peer(peer) }
    fn cuCtxEnablePeerAccess(peer: u64, flags: u32) |state| {
        if flags != 0 {
            return Err(crate::code::ERROR_INVALID_VALUE);
        }
        state.enable_peer(peer)
    }
}
