//! Streams, events, copies and sets under the clock.

#[allow(dead_code, unused_imports)]
mod common;

use common::{alloc, context, cu, event, record, start, stream, wait, write};
use sim_cuda::{Config, Kind};

fn contents(at: u64, bytes: usize) -> Vec<u8> {
    let mut host = vec![0u8; bytes];
    let to = host.as_mut_ptr() as u64;
    assert_eq!(cu!(cuMemcpyDtoH_v2(to => u64, at => u64, bytes => usize)), 0);
    host
}

fn query(event: u64) -> u32 {
    cu!(cuEventQuery(event => u64))
}

#[test]
fn nothing_ends_until_the_clock_moves() {
    let _guard = start(Config::default());
    let (a, at) = (stream(), alloc(4096).unwrap());
    let (begin, end) = (event(), event());
    assert_eq!(query(begin), 0, "never recorded");
    record(begin, a);
    write(a, at, 7);
    record(end, a);
    assert_eq!(cu!(cuStreamQuery(a => u64)), 600);
    sim_cuda::advance(999);
    assert_eq!((query(begin), query(end)), (0, 600));
    let mut ms = 0f32;
    let elapsed = |ms: &mut f32| cu!(cuEventElapsedTime(ms => *mut f32, begin => u64, end => u64));
    assert_eq!(elapsed(&mut ms), 600);
    sim_cuda::advance(1);
    assert_eq!((query(end), elapsed(&mut ms)), (0, 0));
    assert_eq!(ms, 0.001);
    record(end, a);
    assert_eq!(query(end), 600, "recorded again");
    assert_eq!(cu!(cuStreamSynchronize(a => u64)), 0);
    assert_eq!((query(end), sim_cuda::now()), (0, 1000));
    assert_eq!(contents(at, 4096), [7; 4096]);
}

#[test]
fn streams_wait_for_events_and_run_beside_each_other() {
    let _guard = start(Config::default());
    let (a, b, done) = (stream(), stream(), event());
    let at = alloc(8192).unwrap();
    write(a, at, 1);
    write(b, at + 4096, 1);
    record(done, a);
    wait(b, done);
    write(b, at, 2);
    sim_cuda::hold(a);
    sim_cuda::advance(10_000);
    assert_eq!(query(done), 600);
    sim_cuda::release(a);
    sim_cuda::advance(1000);
    assert_eq!(query(done), 0);
    sim_cuda::run_all();
    assert_eq!(sim_cuda::now(), 12_000);
    assert_eq!(cu!(cuStreamSynchronize(b => u64)), 0);
    assert_eq!(contents(at, 4096), [2; 4096]);
    assert!(sim_cuda::take_hazards().is_empty());
}

#[test]
fn to_wait_for_a_held_stream_is_found() {
    let _guard = start(Config::default());
    let (a, at) = (stream(), alloc(4096).unwrap());
    sim_cuda::hold(a);
    write(a, at, 1);
    assert_eq!(cu!(cuStreamSynchronize(a => u64)), 702);
    assert_eq!(sim_cuda::take_hazards()[0].kind, Kind::Stuck);
    sim_cuda::release(a);
    assert_eq!(cu!(cuCtxSynchronize()), 0);
}

#[test]
fn a_destroyed_stream_ends_its_work() {
    let _guard = start(Config::default());
    let (a, at, done) = (stream(), alloc(4096).unwrap(), event());
    write(a, at, 5);
    record(done, a);
    assert_eq!(cu!(cuStreamDestroy_v2(a => u64)), 0);
    assert_eq!(cu!(cuStreamDestroy_v2(a => u64)), 400);
    assert_eq!(cu!(cuStreamQuery(a => u64)), 400);
    assert_eq!(cu!(cuEventSynchronize(done => u64)), 0);
    assert_eq!(contents(at, 4096), [5; 4096]);
}

#[test]
fn copies_and_sets() {
    let _guard = start(Config::default());
    let (a, x, y) = (stream(), alloc(4096).unwrap(), alloc(4096).unwrap());
    let mut from: Vec<u8> = (0..=255).cycle().take(4096).collect();
    let expected = from.clone();
    let host = from.as_mut_ptr() as u64;
    let bytes = 4096usize;
    assert_eq!(cu!(cuMemcpyHtoDAsync_v2(x => u64, host => u64, bytes => usize, a => u64)), 0);
    from.fill(0); // Not pinned: it was read during the call.
    assert_eq!(cu!(cuMemcpyDtoDAsync_v2(y => u64, x => u64, bytes => usize, a => u64)), 0);
    assert_eq!(cu!(cuMemsetD8Async(y + 1 => u64, 9 => u8, 2 => usize, a => u64)), 0);
    assert_eq!(cu!(cuStreamSynchronize(a => u64)), 0);
    assert_eq!(contents(x, 4096), expected);
    assert_eq!(contents(y, 4), [0, 9, 9, 3]);
    assert_eq!(cu!(cuMemsetD8_v2(host => u64, 0 => u8, bytes => usize)), 1, "not a device's");
    assert!(sim_cuda::take_hazards().is_empty());
}

#[test]
fn a_copy_to_pinned_memory_is_there_when_the_clock_says_so() {
    let _guard = start(Config::default());
    let (a, x) = (stream(), alloc(4096).unwrap());
    let mut host = 0u64;
    assert_eq!(cu!(cuMemAllocHost_v2(&mut host => *mut u64, 4096 => usize)), 0);
    // SAFETY: memory of the driver, as long as it is not freed.
    let first = || unsafe { (host as *const u8).read_volatile() };
    write(a, x, 3);
    assert_eq!(cu!(cuMemcpyDtoHAsync_v2(host => u64, x => u64, 4096 => usize, a => u64)), 0);
    assert_eq!(first(), 0);
    sim_cuda::run_all();
    assert_eq!(first(), 3);
    assert_eq!(cu!(cuMemFreeHost(host => u64)), 0);
}

#[test]
fn streams_know_their_context_and_events_keep_to_it() {
    let _guard = start(Config::default());
    let (a, mine) = (stream(), event());
    let other = context(1);
    let theirs = event();
    let mut of = 0u64;
    assert_eq!(cu!(cuStreamGetCtx(a => u64, &mut of => *mut u64)), 0);
    assert_ne!(of, other);
    assert_eq!(cu!(cuEventRecord(theirs => u64, a => u64)), 400);
    assert_eq!(cu!(cuEventRecord(mine => u64, a => u64)), 0);
    assert_eq!(cu!(cuEventRecord(77 => u64, a => u64)), 400);
    let b = stream();
    wait(b, mine);
    sim_cuda::run_all();
    assert_eq!(cu!(cuStreamQuery(b => u64)), 0);
}
