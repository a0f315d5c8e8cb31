//! Graphs that are captured from streams.

use super::pool::{forebay_pool, with_pool};
use super::status::forebay_status;
use super::stream::{forebay_stream, stream_of};
use crate::pool::Pool;

/// Announces that a graph is about to be captured on `stream`: from now on until
/// `forebay_graph_end`, what is taken on `stream`, and on streams that take part in its capture,
/// comes from memory of `graph`'s own, and stays it until `forebay_graph_release`. `graph` is any
/// number but 0 and 2^64 - 1. Several graphs may have one number, one after the other; they share
/// memory, and are launched one after the other too. To be called before the capture begins, or
/// in it before anything is taken. The pool's own calls of the driver do not disturb a capture.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` is NULL, the number, not a stream),
/// `FOREBAY_ERROR_INVALID_STATE` (the graph, or the stream, is being captured already),
/// `FOREBAY_ERROR_UNSUPPORTED` (a pool on the host).
///
/// # Safety
/// `pool` as for every call; `stream` is a stream of its device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_graph_begin(
    pool: *mut forebay_pool,
    graph: u64,
    stream: forebay_stream,
) -> forebay_status {
    let body = |pool: &Pool| pool.begin_graph(graph, stream_of(stream));
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, body) }
}

/// The capture of `graph` is over, and all streams that took part have joined. Blocks that live
/// may be freed from now on like any other, and are the graph's still.
///
/// Errors: `FOREBAY_ERROR_INVALID_STATE` (it is not being captured),
/// `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` is NULL).
///
/// # Safety
/// `pool` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_graph_end(pool: *mut forebay_pool, graph: u64) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, |pool| pool.end_graph(graph)) }
}

/// One graph of this number is gone: to be called once for each `forebay_graph_begin`. With the
/// last one its memory becomes everybody's, as soon as the work is done that is queued now on
/// streams that the pool knows: launches on other streams must be done already.
///
/// Errors: `FOREBAY_ERROR_INVALID_STATE` (no such graph, or it is being captured),
/// `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` is NULL).
///
/// # Safety
/// `pool` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_graph_release(
    pool: *mut forebay_pool,
    graph: u64,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_pool(pool, |pool| pool.release_graph(graph)) }
}
