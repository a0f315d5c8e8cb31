use std::sync::Arc;

use super::*;
use crate::device::cuda::stand_in::{self, with};
use crate::device::cuda::{Cuda, CudaOptions};

const A: Stream = Stream(0xa0);
const B: Stream = Stream(0xb0);

fn order(api: &Arc<DriverApi>) -> CudaOrder {
    let cuda = Cuda::with_driver(api, &CudaOptions::default()).unwrap();
    let order = CudaOrder::new(cuda.context());
    for stream in [A, B] {
        with(|driver| driver.make_stream(stream.0 as usize));
        order.check(stream).unwrap();
    }
    order
}

fn queue(stream: Stream) {
    with(|driver| driver.queue(stream.0 as usize));
}

fn finish(stream: Stream) {
    with(|driver| driver.finish(stream.0 as usize));
}

fn destroy(stream: Stream) {
    with(|driver| driver.streams.remove(&(stream.0 as usize)).unwrap());
}

/// The calls that are about events and the whole context.
fn calls_of<T>(body: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    with(|driver| driver.take_log());
    let result = body();
    let log = with(|driver| driver.take_log());
    let of_interest = |name: &&str| {
        name.starts_with("cuEvent") || name.contains("Wait") || name.contains("CtxSync")
    };
    (result, log.into_iter().filter(of_interest).collect())
}

#[test]
fn many_frees_cost_one_event() {
    let api = stand_in::fresh();
    let order = order(&api);
    queue(A);
    let before = api.calls();
    let fences: Vec<u64> = (0..1000).map(|_| order.mark(A)).collect();
    order.passed(A);
    assert_eq!(api.calls(), before, "a fence costs no call");
    assert!(fences.iter().all(|&fence| fence == 1));
    let ((), calls) = calls_of(|| order.refresh());
    assert_eq!(calls, ["cuEventCreate", "cuEventRecord", "cuEventQuery"]);
    assert_eq!(order.passed(A), 0);
    assert_eq!(order.mark(A), 2, "a new fence is behind the event");
    finish(A);
    let ((), calls) = calls_of(|| order.refresh());
    let (create, record, query) = ("cuEventCreate", "cuEventRecord", "cuEventQuery");
    assert_eq!(calls, [create, record, query, query], "both have passed");
    assert_eq!(order.passed(A), 2);
    let before = api.calls();
    order.refresh();
    assert_eq!(api.calls(), before, "nothing is asked where nothing is open");
    order.mark(B);
    let ((), calls) = calls_of(|| order.refresh());
    assert_eq!(calls, [record, query], "events are used again");
}

#[test]
fn a_stream_waits_on_the_device() {
    let api = stand_in::fresh();
    let order = order(&api);
    queue(A);
    let fence = Fence { stream: A, sequence: order.mark(A) };
    queue(A);
    let (waits, calls) = calls_of(|| order.make_wait(B, fence));
    assert!(waits);
    assert_eq!(calls, ["cuEventCreate", "cuEventRecord", "cuStreamWaitEvent"]);
    let (waits, calls) = calls_of(|| order.make_wait(B, fence));
    assert!(waits && calls == ["cuStreamWaitEvent"], "the event is there already");
    with(|driver| assert_eq!(driver.waits.len(), 2));
    assert!(order.wait(fence));
    assert!(order.passed(A) >= fence.sequence);
    let (waits, calls) = calls_of(|| order.make_wait(B, fence) && order.wait(fence));
    assert!(waits && calls.is_empty(), "what has passed is not waited for");
    assert!(order.make_wait(A, Fence { stream: A, sequence: order.mark(A) }), "its own order");
}

#[test]
fn streams_that_cannot_be_used_are_refused() {
    let api = stand_in::fresh();
    let order = order(&api);
    let error = order.check(Stream(2)).unwrap_err();
    assert!(error.message().contains("cudaStreamCreate"), "{error}");
    let error = order.check(Stream(0x77)).unwrap_err();
    assert!(error.message().contains("cuStreamGetCtx"), "{error}");
    with(|driver| driver.streams.get_mut(&0xa0).unwrap().context = 0x1001);
    let error = order.check(A).unwrap_err();
    assert!(error.message().contains("device 0"), "{error}");
    order.check(Stream(0)).unwrap();
    order.check(Stream(1)).unwrap();
    let number = order.mark(Stream(0));
    order.refresh();
    assert_eq!(order.mark(Stream(1)), number + 1, "one stream with two names");
    assert!(order.forget(Stream(1)).is_err());
}

#[test]
fn a_capturing_stream_is_left_alone() {
    let api = stand_in::fresh();
    let order = order(&api);
    queue(A);
    let fence = Fence { stream: A, sequence: order.mark(A) };
    with(|driver| driver.streams.get_mut(&0xa0).unwrap().capturing = true);
    let ((), calls) = calls_of(|| order.refresh());
    assert_eq!(calls, [""; 0]);
    assert!(!order.make_wait(B, fence) && !order.wait(fence) && order.forget(A).is_err());
    let of_b = Fence { stream: B, sequence: order.mark(B) };
    assert!(!order.make_wait(A, of_b), "it would become part of the graph");
    assert_eq!(order.passed(A), 0);
    with(|driver| driver.streams.get_mut(&0xa0).unwrap().capturing = false);
    finish(A);
    order.refresh();
    assert!(order.passed(A) >= fence.sequence);
}

#[test]
fn fences_of_a_forgotten_stream_pass_and_its_handle_serves_again() {
    let api = stand_in::fresh();
    let order = order(&api);
    queue(A);
    let old = order.mark(A);
    let old_id = with(|driver| driver.streams[&0xa0].id);
    order.forget(A).unwrap();
    destroy(A);
    let ((), calls) = calls_of(|| order.refresh());
    assert_eq!(calls, ["cuEventQuery"]);
    assert_eq!(order.passed(A), 0, "its work may still run");
    // The new stream is done before the old one.
    with(|driver| driver.make_stream(0xa0));
    order.check(A).unwrap();
    queue(A);
    let new = order.mark(A);
    assert!(new > old);
    finish(A);
    order.refresh();
    assert_eq!(order.passed(A), 0, "the old stream's work still runs");
    with(|driver| driver.done.insert(old_id, 1));
    order.refresh();
    assert!(order.passed(A) >= new);
    order.forget(A).unwrap();
    destroy(A);
    assert_eq!(order.passed(A), u64::MAX, "done with everything");
    let ((), calls) = calls_of(|| {
        let late = order.mark(A);
        assert!(order.passed(A) < late, "a fence on a stream that is gone");
        order.refresh();
        assert!(order.passed(A) < late, "that would be a wait");
        order.recover();
        assert!(order.passed(A) >= late);
    });
    assert_eq!(calls, ["cuCtxSynchronize"], "its handle is not touched");
}

#[test]
fn a_stream_that_was_destroyed_without_notice_is_waited_for() {
    for reused in [false, true] {
        let api = stand_in::fresh();
        let order = order(&api);
        queue(A);
        let fence = Fence { stream: A, sequence: order.mark(A) };
        destroy(A);
        if reused {
            with(|driver| driver.make_stream(0xa0));
        }
        assert!(!order.make_wait(B, fence), "no event tells of it");
        let (waited, calls) = calls_of(|| order.wait(fence));
        assert!(waited && calls == ["cuCtxSynchronize"], "{calls:?}");
        if reused {
            // It goes on as the new stream, though nobody checked it.
            queue(A);
            let new = order.mark(A);
            let ((), calls) = calls_of(|| order.refresh());
            assert_eq!(calls, ["cuEventCreate", "cuEventRecord", "cuEventQuery"]);
            assert!(order.passed(A) < new);
        }
    }
}

#[test]
fn a_new_stream_s_work_is_not_counted_as_the_old_one_s() {
    let api = stand_in::fresh();
    let order = order(&api);
    queue(A);
    let old = order.mark(A);
    destroy(A);
    with(|driver| driver.make_stream(0xa0));
    let (checked, calls) = calls_of(|| order.check(A));
    checked.unwrap();
    assert_eq!(calls, ["cuCtxSynchronize"]);
    assert!(order.passed(A) >= old);
    queue(A);
    assert!(order.mark(A) > order.passed(A));
}

/// Fences are taken and waited for in all ways; none may pass before its work is done.
fn script(order: &CudaOrder) {
    let mut fences = Vec::new();
    let holds = |fences: &[(Fence, (u64, u64))]| {
        for &(fence, (id, at)) in fences {
            let done = with(|driver| driver.done.get(&id).copied().unwrap_or(0)) >= at;
            assert!(done || order.passed(fence.stream) < fence.sequence, "{fence:?} passed early");
        }
    };
    for round in 0..4 {
        for stream in [A, B] {
            queue(stream);
            let point = with(|driver| {
                let stream = &driver.streams[&(stream.0 as usize)];
                (stream.id, stream.queued)
            });
            fences.push((Fence { stream, sequence: order.mark(stream) }, point));
        }
        order.refresh();
        holds(&fences);
        let (fence, point) = fences[fences.len() - 2];
        let before = with(|driver| driver.waits.len());
        if order.make_wait(B, fence) && order.passed(A) < fence.sequence {
            let waits = with(|driver| driver.waits[before..].to_vec());
            assert!(waits.iter().any(|&(_, (id, at))| id == point.0 && at >= point.1));
        }
        holds(&fences);
        if round % 2 == 0 {
            finish(B);
        }
        order.wait(fence);
        holds(&fences);
    }
    let _ = order.forget(A);
    holds(&fences);
    for _ in 0..2 {
        [A, B].into_iter().for_each(finish);
        order.recover();
        holds(&fences);
    }
    for (fence, _) in &fences {
        assert!(order.passed(fence.stream) >= fence.sequence, "{fence:?} never passed");
    }
}

#[test]
fn whichever_call_fails_no_fence_passes_early_and_all_pass() {
    let whole = {
        let api = stand_in::fresh();
        let order = order(&api);
        let before = api.calls();
        script(&order);
        api.calls() - before
    };
    assert!(whole > 50);
    // Out of memory, an invalid handle, not ready, a code of tomorrow.
    for code in [2, 400, 600, 7777] {
        for number in 0..whole {
            let api = stand_in::fresh();
            let order = order(&api);
            api.refuse(number, code);
            script(&order);
        }
    }
}

#[test]
fn events_are_destroyed_with_the_order() {
    let api = stand_in::fresh();
    let order = order(&api);
    for stream in [A, B] {
        queue(stream);
        order.mark(stream);
    }
    order.refresh();
    with(|driver| assert_eq!(driver.events.len(), 2));
    drop(order);
    with(|driver| assert_eq!((driver.events.len(), driver.retained), (0, 0)));
}
