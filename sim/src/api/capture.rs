//! Capture of streams.

use super::{entry_points, give, take};
use crate::code::ERROR_INVALID_VALUE;

entry_points! {
    fn cuStreamBeginCapture_v2(stream: u64, mode: u32) |state| {
        state.begin_capture(stream, mode)
    }
    fn cuStreamEndCapture(stream: u64, graph: *mut u64) |state| {
        give(graph, 0)?;
        let captured = state.end_capture(stream)?;
        give(graph, captured)
    }
    fn cuStreamIsCapturing(stream: u64, status: *mut u32) |state| {
        give(status, state.capture_info(stream)?.status)
    }
    fn cuStreamGetCaptureInfo_v2(stream: u64, status: *mut u32, id: *mut u64, graph: *mut u64,
        nodes: *mut *const u64, count: *mut usize)
    |state| {
        let info = state.capture_info(stream)?;
        give(status, info.status)?;
        // All but the status may be left out, and is only written while a capture is active.
        if info.status != 1 {
            return Ok(());
        }
        for (to, value) in [(id, info.id), (graph, info.graph)] {
            if !to.is_null() {
                give(to, value)?;
            }
        }
        if !nodes.is_null() {
            give(nodes, info.nodes.0)?;
        }
        if count.is_null() { Ok(()) } else { give(count, info.nodes.1) }
    }
    fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) |state| {
        let new = take(mode)?;
        if new > 2 {
            return Err(ERROR_INVALID_VALUE);
        }
        give(mode, state.exchange_mode(new))
    }
}
