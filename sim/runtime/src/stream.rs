//! Streams and their capture.

use std::ffi::c_void;

use crate::answer::entry_points;
use crate::driver::{Code, Driver, INVALID_VALUE, Outcome, checked};

type Deps = *mut u64;

/// Nodes and their edges are not told: where they are asked for, there are none.
unsafe fn capture_info(
    cu: &Driver,
    stream: u64,
    (status, id): (*mut u32, *mut u64),
    graph: *mut u64,
    (nodes, count): (Deps, *mut usize),
) -> Outcome {
    let mut plain = 0;
    let status = if status.is_null() { &raw mut plain } else { status };
    // SAFETY: places that the caller gave, or one of ours.
    checked(unsafe { (cu.cuStreamGetCaptureInfo_v2)(stream, status, id, graph, nodes, count) })
}

struct Callback {
    function: unsafe extern "C" fn(u64, Code, *mut c_void),
    stream: u64,
    data: u64,
}

unsafe extern "C" fn call_back(callback: *mut c_void) {
    // SAFETY: made by `cudaStreamAddCallback`, for this one call.
    let callback = unsafe { Box::from_raw(callback.cast::<Callback>()) };
    // SAFETY: what the caller gave to be called.
    unsafe { (callback.function)(callback.stream, 0, callback.data as *mut c_void) };
}

entry_points! {
    inside fn cudaStreamCreate(to: *mut u64) |cu| checked((cu.cuStreamCreate)(to, 0));
    inside fn cudaStreamCreateWithFlags(to: *mut u64, flags: u32) |cu| {
        checked((cu.cuStreamCreate)(to, flags))
    };
    inside fn cudaStreamCreateWithPriority(to: *mut u64, flags: u32, priority: i32) |cu| {
        checked((cu.cuStreamCreateWithPriority)(to, flags, priority))
    };
    inside fn cudaStreamDestroy(stream: u64) |cu| checked((cu.cuStreamDestroy_v2)(stream));
    inside fn cudaStreamQuery(stream: u64) |cu| checked((cu.cuStreamQuery)(stream));
    inside fn cudaStreamSynchronize(stream: u64) |cu| checked((cu.cuStreamSynchronize)(stream));
    inside fn cudaStreamWaitEvent(stream: u64, event: u64, flags: u32) |cu| {
        checked((cu.cuStreamWaitEvent)(stream, event, flags))
    };
    inside fn cudaStreamGetPriority(stream: u64, to: *mut i32) |cu| {
        checked((cu.cuStreamGetPriority)(stream, to))
    };
    inside fn cudaStreamBeginCapture(stream: u64, mode: u32) |cu| {
        checked((cu.cuStreamBeginCapture_v2)(stream, mode))
    };
    inside fn cudaStreamEndCapture(stream: u64, graph: *mut u64) |cu| {
        checked((cu.cuStreamEndCapture)(stream, graph))
    };
    inside fn cudaStreamIsCapturing(stream: u64, status: *mut u32) |cu| {
        checked((cu.cuStreamIsCapturing)(stream, status))
    };
    inside fn cudaStreamGetCaptureInfo_v2(stream: u64, status: *mut u32, id: *mut u64,
        graph: *mut u64, nodes: Deps, count: *mut usize) |cu|
    {
        capture_info(cu, stream, (status, id), graph, (nodes, count))
    };
    inside fn cudaStreamGetCaptureInfo(stream: u64, status: *mut u32, id: *mut u64,
        graph: *mut u64, nodes: Deps, edges: *mut *mut c_void, count: *mut usize) |cu|
    {
        if !edges.is_null() {
            edges.write(std::ptr::null_mut());
        }
        capture_info(cu, stream, (status, id), graph, (nodes, count))
    };
    answer fn cudaThreadExchangeStreamCaptureMode(mode: *mut u32) |cu| {
        checked((cu.cuThreadExchangeStreamCaptureMode)(mode))
    };
    inside fn cudaLaunchHostFunc(stream: u64, function: Option<unsafe extern "C" fn(*mut c_void)>,
        data: u64) |cu|
    {
        checked((cu.cuLaunchHostFunc)(stream, function, data))
    };
    inside fn cudaStreamAddCallback(stream: u64,
        function: Option<unsafe extern "C" fn(u64, Code, *mut c_void)>, data: u64, _flags: u32) |cu|
    {
        let Some(function) = function else { return Err(INVALID_VALUE) };
        let callback = Box::into_raw(Box::new(Callback { function, stream, data }));
        let queued = checked((cu.cuLaunchHostFunc)(stream, Some(call_back), callback as u64));
        if queued.is_err() {
            drop(Box::from_raw(callback));
        }
        queued
    };
}
