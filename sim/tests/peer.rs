//! Two devices: who may use whose memory.

#[allow(dead_code, unused_imports)]
mod common;

use common::{PAGE, alloc, context, cu, event, read, record, start, stream, wait, write};
use sim_cuda::api::memory::{Access, Location, Properties};
use sim_cuda::{Config, Kind};

fn kinds() -> Vec<Kind> {
    sim_cuda::take_hazards().iter().map(|hazard| hazard.kind).collect()
}

fn synchronize(stream: u64) -> u32 {
    cu!(cuStreamSynchronize(stream => u64))
}

/// A page of device 0, mapped for these devices.
fn mapped(devices: &[i32]) -> (u32, u64) {
    let (mut at, mut handle, page) = (0u64, 0u64, PAGE as usize);
    let on = Properties::on(0);
    let code = cu!(cuMemAddressReserve(&mut at => *mut u64, page => usize, 0 => usize,
        0 => u64, 0 => u64));
    assert_eq!(code, 0);
    let code = cu!(cuMemCreate(&mut handle => *mut u64, page => usize, &on => *const Properties,
        0 => u64));
    assert_eq!(code, 0);
    let code = cu!(cuMemMap(at => u64, page => usize, 0 => usize, handle => u64, 0 => u64));
    assert_eq!(code, 0);
    let all: Vec<Access> =
        devices.iter().map(|&id| Access { location: Location { kind: 1, id }, flags: 3 }).collect();
    let code = cu!(cuMemSetAccess(at => u64, page => usize, all.as_ptr() => *const Access,
        all.len() => usize));
    (code, at)
}

#[test]
fn mapped_memory_is_for_the_devices_that_were_named() {
    for (devices, expected) in [(&[0][..], 700), (&[0, 1][..], 0)] {
        let _guard = start(Config::default());
        let (code, at) = mapped(devices);
        assert_eq!(code, 0);
        context(1);
        let a = stream();
        write(a, at, 1);
        assert_eq!(synchronize(a), expected);
        assert_eq!(kinds(), if expected == 0 { vec![] } else { vec![Kind::Unmapped] });
    }
}

#[test]
fn plain_memory_is_for_devices_that_enabled_it() {
    for enabled in [false, true] {
        let _guard = start(Config::default());
        let (at, mut first) = (alloc(4096).unwrap(), 0u64);
        assert_eq!(cu!(cuCtxGetCurrent(&mut first => *mut u64)), 0);
        context(1);
        let enable = || cu!(cuCtxEnablePeerAccess(first => u64, 0 => u32));
        let disable = || cu!(cuCtxDisablePeerAccess(first => u64));
        assert_eq!((disable(), enable(), enable()), (705, 0, 704));
        if !enabled {
            assert_eq!(disable(), 0);
        }
        let a = stream();
        read(a, at);
        assert_eq!(synchronize(a), if enabled { 0 } else { 700 });
    }
}

#[test]
fn devices_that_do_not_reach_each_other() {
    for peers in [false, true] {
        let _guard = start(Config { peers, ..Config::default() });
        let mut may = 9;
        let ask = |may: &mut i32, device: i32, peer: i32| {
            let may: *mut i32 = may;
            cu!(cuDeviceCanAccessPeer(may => *mut i32, device => i32, peer => i32))
        };
        assert_eq!((ask(&mut may, 0, 1), may), (0, i32::from(peers)));
        assert_eq!(ask(&mut may, 0, 2), 101);
        let second = context(1);
        context(0);
        let code = cu!(cuCtxEnablePeerAccess(second => u64, 0 => u32));
        assert_eq!((code, mapped(&[0, 1]).0), if peers { (0, 0) } else { (217, 1) });
    }
}

#[test]
fn a_copy_between_devices_needs_no_access_and_takes_the_link() {
    let _guard = start(Config { peers: false, ..Config::default() });
    let (from, mut first, mut byte) = (alloc(PAGE).unwrap(), 0u64, 0u8);
    assert_eq!(cu!(cuCtxGetCurrent(&mut first => *mut u64)), 0);
    let (a, done) = (stream(), event());
    assert_eq!(cu!(cuMemsetD8Async(from => u64, 4 => u8, PAGE as usize => usize, a => u64)), 0);
    record(done, a);
    let second = context(1);
    let (b, to) = (stream(), alloc(PAGE).unwrap());
    wait(b, done);
    let copy = |to: u64, from: u64| {
        cu!(cuMemcpyPeerAsync(to => u64, second => u64, from => u64, first => u64,
            PAGE as usize => usize, b => u64))
    };
    assert_eq!(copy(from, to), 1, "the other way round");
    assert_eq!((copy(to, from), synchronize(b)), (0, 0));
    assert!(sim_cuda::now() >= PAGE / 25);
    let host = &mut byte as *mut u8 as u64;
    assert_eq!(cu!(cuMemcpyDtoH_v2(host => u64, to => u64, 1 => usize)), 0);
    assert_eq!((byte, kinds()), (4, vec![]));
}

#[test]
fn some_pairs_of_devices_and_one_way() {
    let apart = vec![(0, 2), (2, 0), (1, 0)];
    let _guard = start(Config { devices: 3, apart, ..Config::default() });
    let contexts = [0, 1, 2].map(context);
    for from in 0..3 {
        context(from);
        for to in (0..3).filter(|&to| to != from) {
            let mut may = 9;
            let code = cu!(cuDeviceCanAccessPeer(&mut may => *mut i32, from => i32, to => i32));
            let expected = !matches!((from, to), (0, 2) | (2, 0) | (1, 0));
            assert_eq!((code, may), (0, i32::from(expected)), "{from} {to}");
            let code = cu!(cuCtxEnablePeerAccess(contexts[to as usize] => u64, 0 => u32));
            assert_eq!(code, if expected { 0 } else { 217 }, "{from} {to}");
        }
    }
    // Memory is of device 0, which nobody else reaches here.
    assert_eq!((mapped(&[0]).0, mapped(&[0, 2]).0), (0, 1));
    let (code, at) = mapped(&[0, 1]);
    let (mut flags, of) = (9u64, Location { kind: 1, id: 0 });
    assert_eq!(cu!(cuMemGetAccess(&mut flags => *mut u64, &of => *const Location, at => u64)), 0);
    assert_eq!((code, flags), (1, 0), "for nobody then");
}

#[test]
fn access_that_is_taken_away_again() {
    let _guard = start(Config::default());
    let (code, at) = mapped(&[0, 1]);
    assert_eq!(code, 0);
    context(1);
    let a = stream();
    write(a, at, 1);
    assert_eq!((synchronize(a), kinds()), (0, vec![]));
    let none = Access { location: Location { kind: 1, id: 1 }, flags: 0 };
    let code = cu!(cuMemSetAccess(at => u64, PAGE as usize => usize, &none => *const Access,
        1 => usize));
    assert_eq!(code, 0);
    read(a, at);
    assert_eq!(kinds(), vec![Kind::Unmapped], "found when it is queued");
    assert_eq!((synchronize(a), synchronize(a)), (700, 700));
}
