//! Graphs that were captured, runs of them, objects that live with them, and functions of the
//! host.

#[allow(dead_code, unused_imports)]
mod common;

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{alloc, cu, event, read, record, start, stream, wait, write};
use sim_cuda::{Config, Kind, take_hazards};

type Function = Option<unsafe extern "C" fn(*mut c_void)>;

fn begin(stream: u64) {
    assert_eq!(cu!(cuStreamBeginCapture_v2(stream => u64, 0 => u32)), 0);
}

fn end(stream: u64) -> u64 {
    let mut graph = 0u64;
    assert_eq!(cu!(cuStreamEndCapture(stream => u64, &mut graph => *mut u64)), 0);
    graph
}

fn instantiate(graph: u64) -> u64 {
    let mut exec = 0u64;
    let code = cu!(cuGraphInstantiateWithFlags(&mut exec => *mut u64, graph => u64, 0 => u64));
    assert_eq!(code, 0);
    exec
}

fn launch(exec: u64, stream: u64) {
    assert_eq!(cu!(cuGraphLaunch(exec => u64, stream => u64)), 0);
}

fn destroy(exec: u64) -> u32 {
    cu!(cuGraphExecDestroy(exec => u64))
}

fn drop_graph(graph: u64) -> u32 {
    cu!(cuGraphDestroy(graph => u64))
}

fn contents(at: u64) -> u8 {
    let mut byte = 0u8;
    let to = &mut byte as *mut u8 as u64;
    assert_eq!(cu!(cuMemcpyDtoH_v2(to => u64, at => u64, 1 => usize)), 0);
    byte
}

fn kinds() -> Vec<Kind> {
    take_hazards().iter().map(|hazard| hazard.kind).collect()
}

/// Captures in `a`: a write, then in `b` a copy of it, which is joined.
fn forked(a: u64, b: u64, at: u64) -> u64 {
    let (fork, join) = (event(), event());
    begin(a);
    write(a, at, 7);
    record(fork, a);
    wait(b, fork);
    let code = cu!(cuMemcpyDtoDAsync_v2(at + 4096 => u64, at => u64, 4096 => usize, b => u64));
    assert_eq!(code, 0);
    record(join, b);
    wait(a, join);
    end(a)
}

#[test]
fn each_run_does_the_work_again() {
    let _guard = start(Config::default());
    let (a, b, c, at) = (stream(), stream(), stream(), alloc(8192).unwrap());
    let graph = forked(a, b, at);
    let exec = instantiate(graph);
    assert_eq!((drop_graph(graph), drop_graph(graph)), (0, 1), "its runs need it no more");
    for _ in 0..2 {
        write(c, at + 4096, 1);
        launch(exec, c);
        assert_eq!(cu!(cuStreamQuery(c => u64)), 600);
        assert_eq!(cu!(cuStreamSynchronize(c => u64)), 0);
        assert_eq!((contents(at), contents(at + 4096)), (7, 7));
        assert_eq!(cu!(cuMemsetD8_v2(at => u64, 3 => u8, 8192 => usize)), 0);
        assert_eq!(cu!(cuCtxSynchronize()), 0);
    }
    assert_eq!(kinds(), []);
    assert_eq!((destroy(exec), destroy(exec)), (0, 1));
}

#[test]
fn a_run_is_in_order_with_its_stream_and_no_other() {
    for right in [false, true] {
        let _guard = start(Config::default());
        let (a, b, done, at) = (stream(), stream(), event(), alloc(8192).unwrap());
        let exec = instantiate(forked(a, b, at));
        launch(exec, a);
        record(done, a);
        if right {
            wait(b, done);
        }
        read(b, at + 4096);
        assert_eq!(kinds(), if right { vec![] } else { vec![Kind::Race] });
    }
}

#[test]
fn branches_without_an_order_race() {
    for right in [false, true] {
        let _guard = start(Config::default());
        let (a, b, at) = (stream(), stream(), alloc(8192).unwrap());
        let (fork, join) = (event(), event());
        begin(a);
        if right {
            write(a, at, 1);
        }
        record(fork, a);
        wait(b, fork);
        if !right {
            write(a, at, 1);
        }
        read(b, at);
        record(join, b);
        wait(a, join);
        let exec = instantiate(end(a));
        assert_eq!(kinds(), [], "nothing ran yet");
        launch(exec, a);
        assert_eq!(kinds(), if right { vec![] } else { vec![Kind::Race] });
        sim_cuda::run_all();
        assert_eq!(sim_cuda::now(), if right { 2000 } else { 1000 }, "beside each other");
    }
}

#[test]
fn runs_of_one_graph_are_in_order_with_each_other() {
    let _guard = start(Config::default());
    let (a, b, at) = (stream(), stream(), alloc(4096).unwrap());
    begin(a);
    write(a, at, 1);
    let graph = end(a);
    let (one, two) = (instantiate(graph), instantiate(graph));
    launch(one, a);
    launch(one, b);
    assert_eq!(kinds(), []);
    launch(two, a);
    assert_eq!(kinds(), [Kind::Race], "with the first one's run in the other stream");
}

#[test]
fn a_run_on_memory_that_is_gone() {
    let _guard = start(Config::default());
    let (a, at) = (stream(), alloc(4096).unwrap());
    begin(a);
    write(a, at, 1);
    let exec = instantiate(end(a));
    launch(exec, a);
    assert_eq!(cu!(cuMemFree_v2(at => u64)), 0);
    assert_eq!(kinds(), [Kind::Retired], "under a run");
    launch(exec, a);
    assert_eq!(kinds(), [Kind::Unmapped]);
    assert_eq!(cu!(cuStreamSynchronize(a => u64)), 700);
}

#[test]
fn graphs_that_are_not_there_yet_or_cannot_be_captured() {
    let _guard = start(Config::default());
    let a = stream();
    begin(a);
    let (mut status, mut graph, mut exec) = (0u32, 0u64, 0u64);
    let null = std::ptr::null_mut::<u64>();
    let code = cu!(cuStreamGetCaptureInfo_v2(a => u64, &mut status => *mut u32, null => *mut u64,
        &mut graph => *mut u64, null => *mut u64, null => *mut u64));
    assert_eq!((code, status), (0, 1));
    let code = cu!(cuGraphInstantiateWithFlags(&mut exec => *mut u64, graph => u64, 0 => u64));
    assert_eq!((code, drop_graph(graph)), (1, 1), "before its capture ends");
    assert_eq!(end(a), graph);
    let exec = instantiate(graph);
    begin(a);
    assert_eq!(cu!(cuGraphLaunch(exec => u64, a => u64)), 900);
    assert_eq!(cu!(cuGraphLaunch(77 => u64, a => u64)), 1);
}

unsafe extern "C" fn count(data: *mut c_void) {
    // SAFETY: a counter of the test.
    unsafe { &*data.cast::<AtomicU64>() }.fetch_add(1, Ordering::Relaxed);
}

fn object(counter: &AtomicU64) -> u64 {
    let (mut object, data) = (0u64, counter as *const AtomicU64 as u64);
    let call: Function = Some(count);
    let code = cu!(cuUserObjectCreate(&mut object => *mut u64, data => u64, call => Function,
        1 => u32, 1 => u32));
    assert_eq!(code, 0);
    object
}

#[test]
fn objects_live_as_long_as_graphs_and_their_runs() {
    let _guard = start(Config::default());
    let (a, at, destroyed) = (stream(), alloc(4096).unwrap(), AtomicU64::new(0));
    let is = |number: u64| assert_eq!(destroyed.load(Ordering::Relaxed), number);
    let release = |it: u64, n: u32| cu!(cuUserObjectRelease(it => u64, n => u32));
    let keep = |graph: u64, it: u64, flags: u32| cu!(cuGraphRetainUserObject(graph => u64, it => u64, 1 => u32, flags => u32));
    assert_eq!(release(object(&destroyed), 1), 0);
    is(1);
    begin(a);
    write(a, at, 1);
    let graph = end(a);
    let (moved, shared) = (object(&destroyed), object(&destroyed));
    assert_eq!((keep(graph, moved, 1), keep(graph, shared, 0)), (0, 0));
    assert_eq!((release(shared, 1), release(shared, 2)), (0, 1));
    is(1);
    let (late, exec) = (object(&destroyed), instantiate(graph));
    assert_eq!((keep(graph, late, 0), drop_graph(graph)), (0, 0));
    assert_eq!(release(late, 1), 0);
    is(2);
    launch(exec, a);
    assert_eq!(destroy(exec), 0);
    is(2);
    assert_eq!(cu!(cuStreamSynchronize(a => u64)), 0);
    sim_cuda::run_all();
    is(4);
    assert_eq!(release(moved, 1), 1);
}

#[test]
fn functions_of_the_host_run_in_order() {
    let _guard = start(Config::default());
    let (a, b, at, calls) = (stream(), stream(), alloc(4096).unwrap(), AtomicU64::new(0));
    let (call, data): (Function, _) = (Some(count), &calls as *const AtomicU64 as u64);
    let queue = |stream: u64| cu!(cuLaunchHostFunc(stream => u64, call => Function, data => u64));
    write(a, at, 1);
    assert_eq!(queue(a), 0);
    sim_cuda::advance(999);
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    sim_cuda::advance(1);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    write(b, at, 2);
    assert_eq!(kinds(), [], "the host knows what came before its function");
    begin(a);
    assert_eq!(queue(a), 0);
    let exec = instantiate(end(a));
    launch(exec, a);
    launch(exec, a);
    sim_cuda::run_all();
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    let none: Function = None;
    assert_eq!(cu!(cuLaunchHostFunc(a => u64, none => Function, 0 => u64)), 1);
}

unsafe extern "C" fn ask(data: *mut c_void) {
    let mut free = [0usize; 2];
    // SAFETY: the function's type, and a number of the test.
    unsafe {
        let call: unsafe extern "C" fn(*mut usize, *mut usize) -> u32 =
            std::mem::transmute(INFO.load(Ordering::Relaxed) as *const c_void);
        *data.cast::<u32>() = call(&mut free[0], &mut free[1]);
    }
}

static INFO: AtomicU64 = AtomicU64::new(0);

#[test]
fn functions_of_the_host_may_not_call_the_driver() {
    let _guard = start(Config::default());
    INFO.store(common::entry("cuMemGetInfo_v2") as u64, Ordering::Relaxed);
    let (a, mut answer) = (stream(), 0u32);
    let (call, data): (Function, _) = (Some(ask), &mut answer as *mut u32 as u64);
    assert_eq!(cu!(cuLaunchHostFunc(a => u64, call => Function, data => u64)), 0);
    assert_eq!(cu!(cuStreamSynchronize(a => u64)), 0);
    // SAFETY: a number of this test, written above.
    assert_eq!(unsafe { (&raw const answer).read_volatile() }, 800);
}

#[test]
fn a_graph_tells_its_nodes() {
    let _guard = start(Config::default());
    let (a, b, at) = (stream(), stream(), alloc(8192).unwrap());
    let get = |graph: u64, nodes: *mut u64, count: &mut usize| cu!(cuGraphGetNodes(graph => u64, nodes => *mut u64, count => *mut usize));
    begin(a);
    let empty = end(a);
    let graph = forked(a, b, at);
    let mut count = 9;
    assert_eq!((get(empty, std::ptr::null_mut(), &mut count), count), (0, 0));
    assert_eq!((get(graph, std::ptr::null_mut(), &mut count), count), (0, 2));
    let mut nodes = [9u64; 3];
    count = 1;
    assert_eq!((get(graph, nodes.as_mut_ptr(), &mut count), count), (0, 1));
    assert!(nodes[0] != 9 && nodes[1..] == [9, 9]);
    count = 3;
    assert_eq!((get(graph, nodes.as_mut_ptr(), &mut count), count), (0, 2));
    assert!(nodes[0] != nodes[1] && nodes[1] != 9 && nodes[2] == 0);
    assert_eq!((drop_graph(graph), drop_graph(empty)), (0, 0));
    assert_eq!(get(graph, std::ptr::null_mut(), &mut count), 1);
}
