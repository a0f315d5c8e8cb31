//! Copies and sets.

use super::entry_points;
use crate::State;
use crate::code::Outcome;
use crate::graph::Task;
use crate::work::Place::{self, Device, Host, Of};

/// Whether a call may go to the legacy stream without being told so.
fn legacy(state: &mut State) -> Outcome {
    let key = state.stream_key(0)?;
    state.capture_of(key)?;
    state.allow_unsafe()
}

/// A copy in the legacy stream; the host waits if it has a side in it.
fn at_once(state: &mut State, to: Place, from: Place, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    legacy(state)?;
    let point = state.submit(0, Task::Copy { to, from, bytes: bytes as u64 })?;
    if matches!((to, from), (Device(_), Device(_))) {
        return Ok(());
    }
    state.synchronize(point.0)
}

fn later(state: &mut State, to: Place, from: Place, bytes: usize, stream: u64) -> Outcome {
    if bytes == 0 {
        return state.stream_key(stream).map(drop);
    }
    state.submit(stream, Task::Copy { to, from, bytes: bytes as u64 }).map(drop)
}

fn set(state: &mut State, to: u64, value: u8, bytes: usize, stream: u64) -> Outcome {
    if bytes == 0 {
        return state.stream_key(stream).map(drop);
    }
    state.submit(stream, Task::Set { to, value, bytes: bytes as u64 }).map(drop)
}

entry_points! {
    fn cuMemcpyHtoD_v2(to: u64, from: u64, bytes: usize) |state| {
        at_once(state, Device(to), Host(from), bytes)
    }
    fn cuMemcpyDtoH_v2(to: u64, from: u64, bytes: usize) |state| {
        at_once(state, Host(to), Device(from), bytes)
    }
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) |state| {
        at_once(state, Device(to), Device(from), bytes)
    }
    fn cuMemcpy(to: u64, from: u64, bytes: usize) |state| {
        let (to, from) = (state.find_place(to), state.find_place(from));
        at_once(state, to, from, bytes)
    }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) |state| {
        later(state, Device(to), Host(from), bytes, stream)
    }
    fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) |state| {
        later(state, Host(to), Device(from), bytes, stream)
    }
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) |state| {
        later(state, Device(to), Device(from), bytes, stream)
    }
    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: u64) |state| {
        let (to, from) = (state.find_place(to), state.find_place(from));
        later(state, to, from, bytes, stream)
    }
    fn cuMemcpyPeerAsync(to: u64, target: u64, from: u64, source: u64, bytes: usize, stream: u64)
    |state| {
        let to = Of(state.context_device(target)?, to);
        let from = Of(state.context_device(source)?, from);
        later(state, to, from, bytes, stream)
    }
    fn cuMemsetD8_v2(to: u64, value: u8, bytes: usize) |state| {
        if bytes > 0 {
            legacy(state)?;
        }
        set(state, to, value, bytes, 0)
    }
    fn cuMemsetD8Async(to: u64, value: u8, bytes: usize, stream: u64) |state| {
        set(state, to, value, bytes, stream)
    }
}
