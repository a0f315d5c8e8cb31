//! Capture: what becomes a node, what is illegal meanwhile, and what that does to the capture.

#[allow(dead_code, unused_imports)]
mod common;

use common::{alloc, cu, event, record, start, stream, wait, write};
use sim_cuda::Config;

const GLOBAL: u32 = 0;
const THREAD: u32 = 1;
const RELAXED: u32 = 2;

fn begin(stream: u64, mode: u32) -> u32 {
    cu!(cuStreamBeginCapture_v2(stream => u64, mode => u32))
}

fn end(stream: u64) -> (u32, u64) {
    let mut graph = 7u64;
    let code = cu!(cuStreamEndCapture(stream => u64, &mut graph => *mut u64));
    (code, graph)
}

fn status(stream: u64) -> u32 {
    let mut status = 9;
    assert_eq!(cu!(cuStreamIsCapturing(stream => u64, &mut status => *mut u32)), 0);
    status
}

fn info(stream: u64) -> (u32, u64, usize) {
    let (mut status, mut id, mut graph, mut count) = (9u32, 0u64, 0u64, 0usize);
    let mut nodes: *const u64 = std::ptr::null();
    let code = cu!(cuStreamGetCaptureInfo_v2(stream => u64, &mut status => *mut u32,
        &mut id => *mut u64, &mut graph => *mut u64, &mut nodes => *mut *const u64,
        &mut count => *mut usize));
    assert_eq!(code, 0);
    (status, id, count)
}

fn exchange(mut mode: u32) -> u32 {
    assert_eq!(cu!(cuThreadExchangeStreamCaptureMode(&mut mode => *mut u32)), 0);
    mode
}

fn query(event: u64) -> u32 {
    cu!(cuEventQuery(event => u64))
}

#[test]
fn what_is_captured_is_not_run() {
    let _guard = start(Config::default());
    let (a, at) = (stream(), alloc(4096).unwrap());
    assert_eq!((status(a), info(a).0, end(a)), (0, 0, (401, 0)));
    assert_eq!(begin(a, 3), 1);
    assert_eq!(begin(0, GLOBAL), 900, "the legacy stream");
    assert_eq!(begin(a, GLOBAL), 0);
    assert_eq!(begin(a, GLOBAL), 401, "twice");
    let (active, first, none) = info(a);
    assert_eq!((active, none, status(a)), (1, 0, 1));
    write(a, at, 7);
    assert_eq!(info(a), (1, first, 1));
    sim_cuda::run_all();
    assert_eq!(sim_cuda::now(), 0);
    let (code, graph) = end(a);
    assert_eq!((code, status(a)), (0, 0));
    assert_ne!(graph, 0);
    assert_eq!(cu!(cuStreamQuery(a => u64)), 0);
    assert_eq!(begin(a, GLOBAL), 0);
    assert_ne!(info(a).1, first, "an id of its own");
    assert_eq!(end(a).0, 0);
}

#[test]
fn other_streams_join_by_events_and_have_to_be_joined() {
    for right in [false, true] {
        let _guard = start(Config::default());
        let (a, b, fork, done) = (stream(), stream(), event(), event());
        let at = alloc(8192).unwrap();
        assert_eq!(begin(a, GLOBAL), 0);
        write(a, at, 1);
        record(fork, a);
        wait(b, fork);
        assert_eq!((status(b), info(b).1), (1, info(a).1));
        write(b, at, 2);
        write(a, at + 4096, 3);
        if right {
            record(done, b);
            wait(a, done);
            assert_eq!(info(a).2, 2, "after its own and that of the other");
        }
        let (code, graph) = end(a);
        assert_eq!((code, graph != 0), if right { (0, true) } else { (904, false) });
        assert_eq!((status(a), status(b)), (0, 0), "both are out of it");
    }
}

#[test]
fn waits_between_what_is_captured_and_what_is_not() {
    let _guard = start(Config::default());
    let (a, b, c, outside, inside) = (stream(), stream(), stream(), event(), event());
    record(outside, b);
    assert_eq!(begin(a, GLOBAL), 0);
    let code = cu!(cuStreamWaitEvent(a => u64, outside => u64, 0 => u32));
    assert_eq!((code, status(a)), (905, 2));
    assert_eq!(cu!(cuEventRecord(inside => u64, a => u64)), 901, "invalidated");
    assert_eq!(end(a), (901, 0));
    assert_eq!((begin(a, GLOBAL), begin(c, GLOBAL)), (0, 0));
    record(inside, a);
    let code = cu!(cuStreamWaitEvent(c => u64, inside => u64, 0 => u32));
    assert_eq!((code, status(a), status(c)), (902, 2, 2));
    assert_eq!((end(a).0, end(c).0), (901, 901));
    assert_eq!(query(inside), 907, "the event is still that of a capture");
    record(inside, a);
    sim_cuda::run_all();
    assert_eq!(query(inside), 0, "recorded again");
}

#[test]
fn the_host_may_not_ask_for_what_is_captured() {
    for mode in [GLOBAL, RELAXED] {
        let _guard = start(Config::default());
        let (a, inside) = (stream(), event());
        let calls: [&dyn Fn() -> u32; 5] = [
            &|| cu!(cuStreamQuery(a => u64)),
            &|| cu!(cuStreamSynchronize(a => u64)),
            &|| cu!(cuCtxSynchronize()),
            &|| query(inside),
            &|| cu!(cuEventSynchronize(inside => u64)),
        ];
        for (n, call) in calls.iter().enumerate() {
            exchange(mode);
            assert_eq!(begin(a, mode), 0);
            record(inside, a);
            let expected = if n > 2 { 907 } else { 900 };
            assert_eq!((call(), status(a)), (expected, 2), "call {n}");
            assert_eq!(end(a), (901, 0));
        }
    }
}

#[test]
fn what_waits_or_asks_is_unsafe_beside_a_capture_too() {
    for mode in [GLOBAL, RELAXED] {
        let _guard = start(Config::default());
        let (a, b, outside, at) = (stream(), stream(), event(), alloc(64).unwrap());
        let calls: [&dyn Fn() -> u32; 5] = [
            &|| cu!(cuStreamQuery(b => u64)),
            &|| cu!(cuStreamSynchronize(b => u64)),
            &|| query(outside),
            &|| cu!(cuEventSynchronize(outside => u64)),
            &|| cu!(cuMemsetD8_v2(at => u64, 0 => u8, 64 => usize)),
        ];
        for (n, call) in calls.iter().enumerate() {
            exchange(mode);
            assert_eq!(begin(a, GLOBAL), 0);
            let expected = if mode == RELAXED { (0, 1) } else { (900, 2) };
            assert_eq!((call(), status(a)), expected, "call {n}");
            end(a);
            sim_cuda::run_all();
        }
        assert_eq!(begin(a, GLOBAL), 0);
        let mut given = 0u64;
        let code = cu!(cuMemAllocAsync(&mut given => *mut u64, 64 => usize, b => u64));
        assert_eq!((code, cu!(cuMemFreeAsync(given => u64, b => u64))), (0, 0));
        assert_eq!(cu!(cuStreamDestroy_v2(b => u64)), 0);
        assert_eq!(end(a).0, 0, "these are for streams");
    }
}

#[test]
fn unsafe_calls_by_mode_of_capture_and_thread() {
    // Of the capture, of the thread that calls, whether that is the one that began; whether
    // the call is legal.
    for (of, by, same, legal) in [
        (GLOBAL, GLOBAL, true, false),
        (GLOBAL, THREAD, true, false),
        (GLOBAL, RELAXED, true, true),
        (GLOBAL, GLOBAL, false, false),
        (GLOBAL, THREAD, false, true),
        (THREAD, GLOBAL, true, false),
        (THREAD, GLOBAL, false, true),
        (RELAXED, GLOBAL, true, true),
        (RELAXED, GLOBAL, false, true),
    ] {
        let _guard = start(Config::default());
        let a = stream();
        let mut context = 0u64;
        assert_eq!(cu!(cuCtxGetCurrent(&mut context => *mut u64)), 0);
        assert_eq!(begin(a, of), 0);
        let call = || {
            assert_eq!(cu!(cuCtxSetCurrent(context => u64)), 0);
            assert_eq!(exchange(by), GLOBAL, "what a thread begins with");
            let code = alloc(512).err().unwrap_or(0);
            assert_eq!(exchange(GLOBAL), by);
            code
        };
        let code =
            if same { call() } else { std::thread::scope(|it| it.spawn(call).join()).unwrap() };
        let expected = if legal { (0, 1) } else { (900, 2) };
        assert_eq!((code, status(a)), expected, "{of} {by} {same}");
        assert_eq!(end(a).0, if legal { 0 } else { 901 });
    }
}

#[test]
fn the_legacy_stream_while_blocking_streams_capture() {
    for blocking in [false, true] {
        let _guard = start(Config::default());
        let (mut a, at) = (0u64, alloc(4096).unwrap());
        let flags = u32::from(!blocking);
        assert_eq!(cu!(cuStreamCreate(&mut a => *mut u64, flags => u32)), 0);
        assert_eq!(begin(a, RELAXED), 0);
        let mut legacy = 9;
        let asked = cu!(cuStreamIsCapturing(0 => u64, &mut legacy => *mut u32));
        assert_eq!(asked, if blocking { 906 } else { 0 });
        assert_eq!(status(a), 1, "to ask does no harm");
        let code = sim_cuda::launch(0, "write", &[], &[(at, 1)], 1, None);
        assert_eq!((code, status(a)), if blocking { (906, 2) } else { (0, 1) });
        assert_eq!(end(a).0, if blocking { 901 } else { 0 });
    }
}

#[test]
fn a_capture_ends_where_it_began() {
    let _guard = start(Config::default());
    let (a, b, fork) = (stream(), stream(), event());
    assert_eq!(begin(a, GLOBAL), 0);
    record(fork, a);
    wait(b, fork);
    assert_eq!((end(b).0, status(a)), (903, 2));
    assert_eq!(end(a).0, 901);
    for (mode, expected) in [(THREAD, 908), (RELAXED, 0)] {
        assert_eq!(begin(a, mode), 0);
        let other = std::thread::scope(|it| it.spawn(|| end(a).0).join()).unwrap();
        assert_eq!(other, expected);
        assert_eq!(end(a).0, if expected == 0 { 401 } else { 901 });
    }
}

#[test]
fn only_pinned_memory_of_the_host_is_captured() {
    let _guard = start(Config::default());
    let (a, at, mut pinned) = (stream(), alloc(4096).unwrap(), 0u64);
    assert_eq!(cu!(cuMemAllocHost_v2(&mut pinned => *mut u64, 4096 => usize)), 0);
    let bytes = [0u8; 64];
    let copy = |from: u64| cu!(cuMemcpyHtoDAsync_v2(at => u64, from => u64, 64 => usize, a => u64));
    assert_eq!(begin(a, GLOBAL), 0);
    assert_eq!((copy(pinned), info(a).2), (0, 1));
    assert_eq!(copy(bytes.as_ptr() as u64), 900);
    assert_eq!(end(a).0, 901);
}
