//! Streams and events.

use super::{entry_points, give};
use crate::State;
use crate::code::{ERROR_INVALID_VALUE, ERROR_NOT_SUPPORTED};

entry_points! {
    fn cuStreamCreate(stream: *mut u64, flags: u32) |state| {
        let created = state.create_stream(flags, 0)?;
        give(stream, created)
    }
    fn cuStreamCreateWithPriority(stream: *mut u64, flags: u32, priority: i32) |state| {
        // Priorities out of range are moved into it, and order does not depend on them.
        let (least, greatest) = crate::stream::PRIORITIES;
        let created = state.create_stream(flags, priority.clamp(greatest, least))?;
        give(stream, created)
    }
    fn cuStreamGetPriority(stream: u64, priority: *mut i32) |state| {
        let key = state.stream_key(stream)?;
        give(priority, state.stream(key)?.priority)
    }
    fn cuStreamDestroy_v2(stream: u64) |state| { state.destroy_stream(stream) }
    fn cuStreamQuery(stream: u64) |state| {
        let key = state.stream_key(stream)?;
        state.query(key)
    }
    fn cuStreamSynchronize(stream: u64) |state| {
        let key = state.stream_key(stream)?;
        state.synchronize(key)
    }
    fn cuStreamWaitEvent(stream: u64, event: u64, flags: u32) |state| {
        if flags > 1 {
            return Err(ERROR_INVALID_VALUE);
        }
        // 1: for an event outside of the capture, as a node that waits for it in each run.
        if flags == 1 {
            return Err(ERROR_NOT_SUPPORTED);
        }
        state.wait_event(stream, event)
    }
    fn cuStreamGetCtx(stream: u64, context: *mut u64) |state| {
        let key = state.stream_key(stream)?;
        give(context, State::context_of(state.stream(key)?.device))
    }
    fn cuStreamGetId(stream: u64, id: *mut u64) |state| {
        let key = state.stream_key(stream)?;
        give(id, key)
    }
    fn cuCtxSynchronize() |state| { state.synchronize_device() }
    fn cuEventCreate(event: *mut u64, flags: u32) |state| {
        let created = state.create_event(flags)?;
        give(event, created)
    }
    fn cuEventDestroy_v2(event: u64) |state| { state.destroy_event(event) }
    fn cuEventRecord(event: u64, stream: u64) |state| { state.record(event, stream) }
    fn cuEventQuery(event: u64) |state| { state.query_event(event) }
    fn cuEventSynchronize(event: u64) |state| { state.synchronize_event(event) }
    fn cuEventElapsedTime(milliseconds: *mut f32, from: u64, to: u64) |state| {
        give(milliseconds, state.elapsed(from, to)?)
    }
}
