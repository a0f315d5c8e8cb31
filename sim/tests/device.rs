//! Devices and drivers that lack something, and handles that are used again.

#[allow(dead_code, unused_imports)]
mod common;

use common::{PAGE, alloc, cu, event, record, start, stream, write};
use sim_cuda::Config;
use sim_cuda::api::memory::Properties;

fn attribute(number: u32) -> i32 {
    let mut value = 0;
    assert_eq!(cu!(cuDeviceGetAttribute(&mut value => *mut i32, number => u32, 0 => i32)), 0);
    value
}

fn destroy(stream: u64) {
    assert_eq!(cu!(cuStreamDestroy_v2(stream => u64)), 0);
}

fn query(event: u64) -> u32 {
    cu!(cuEventQuery(event => u64))
}

#[test]
fn a_device_without_virtual_memory() {
    for virtual_memory in [true, false] {
        let _guard = start(Config { virtual_memory, ..Config::default() });
        let yes = i32::from(virtual_memory);
        assert_eq!((attribute(102), attribute(103)), (yes, yes));
        let (mut at, mut bytes, of) = (0u64, 0usize, Properties::on(0));
        let page = PAGE as usize;
        let code = if virtual_memory { 0 } else { 801 };
        let reserved = cu!(cuMemAddressReserve(&mut at => *mut u64, page => usize, 0 => usize,
            0 => u64, 0 => u64));
        let created = cu!(cuMemCreate(&mut at => *mut u64, page => usize,
            &of => *const Properties, 0 => u64));
        let asked = cu!(cuMemGetAllocationGranularity(&mut bytes => *mut usize,
            &of => *const Properties, 0 => u32));
        assert_eq!((reserved, created, asked), (code, code, code));
        let imported = cu!(cuMemImportFromShareableHandle(&mut at => *mut u64, 0 => usize,
            1 => u32));
        assert_eq!(imported, if virtual_memory { 1 } else { 801 }, "no such file");
        assert!(alloc(PAGE).is_ok());
    }
}

#[test]
fn handles_are_used_again_if_that_is_wanted() {
    for reuse_handles in [false, true] {
        let _guard = start(Config { reuse_handles, ..Config::default() });
        let (a, e) = (stream(), event());
        destroy(a);
        assert_eq!(cu!(cuEventDestroy_v2(e => u64)), 0);
        assert_eq!((cu!(cuStreamQuery(a => u64)), query(e)), (400, 400));
        assert_eq!((stream() == a, event() == e), (reuse_handles, reuse_handles));
    }
}

#[test]
fn an_old_stream_and_event_are_not_the_new_ones() {
    let _guard = start(Config { reuse_handles: true, ..Config::default() });
    let (a, e, at) = (stream(), event(), alloc(4096).unwrap());
    let id = |stream: u64| {
        let mut id = 0u64;
        assert_eq!(cu!(cuStreamGetId(stream => u64, &mut id => *mut u64)), 0);
        id
    };
    let (first, kept) = (id(a), event());
    write(a, at, 1);
    record(e, a);
    record(kept, a);
    destroy(a);
    assert_eq!(cu!(cuEventDestroy_v2(e => u64)), 0);
    let (b, f) = (stream(), event());
    assert_eq!((b, f), (a, e));
    assert_ne!(id(b), first);
    assert_eq!((cu!(cuStreamQuery(b => u64)), query(f)), (0, 0), "nothing is theirs");
    write(b, at, 2);
    assert_eq!(sim_cuda::take_hazards().len(), 1, "no order with the stream that is gone");
    write(b, at, 3);
    record(f, b);
    sim_cuda::advance(1000);
    assert_eq!((query(kept), query(f)), (0, 600));
    let mut ms = 0f32;
    let elapsed = cu!(cuEventElapsedTime(&mut ms => *mut f32, kept => u64, f => u64));
    assert_eq!(elapsed, 600, "it was the old one that was passed");
    sim_cuda::run_all();
    assert_eq!(query(f), 0);
}

#[test]
fn a_device_has_its_bus_and_a_compute_capability() {
    let _guard = start(Config::default());
    assert_eq!((attribute(75), attribute(76), attribute(10)), (9, 0, 32));
    let mut name = [b'x'; 32];
    for (device, expected) in [(0, c"0000:01:00.0"), (1, c"0000:02:00.0")] {
        let code = cu!(cuDeviceGetPCIBusId(name.as_mut_ptr() => *mut u8, 32 => i32,
            device => i32));
        assert_eq!((code, std::ffi::CStr::from_bytes_until_nul(&name).unwrap()), (0, expected));
    }
    for (room, device, expected) in [(12, 0, 1), (-1, 0, 1), (13, 0, 0), (32, 2, 101)] {
        let code = cu!(cuDeviceGetPCIBusId(name.as_mut_ptr() => *mut u8, room => i32,
            device => i32));
        assert_eq!(code, expected, "{room} bytes for device {device}");
    }
}

#[test]
fn a_priority_is_moved_into_the_range() {
    let _guard = start(Config::default());
    let (mut least, mut greatest) = (0, 0);
    let code = cu!(cuCtxGetStreamPriorityRange(&mut least => *mut i32,
        &mut greatest => *mut i32));
    assert_eq!((code, least, greatest), (0, 0, -5));
    let got = |stream: u64| {
        let mut priority = 7;
        assert_eq!(cu!(cuStreamGetPriority(stream => u64, &mut priority => *mut i32)), 0);
        priority
    };
    for (wanted, expected) in [(0, 0), (-3, -3), (-9, -5), (2, 0)] {
        let mut stream = 0u64;
        let code = cu!(cuStreamCreateWithPriority(&mut stream => *mut u64, 1 => u32,
            wanted => i32));
        assert_eq!((code, got(stream)), (0, expected));
        destroy(stream);
        let code = cu!(cuStreamGetPriority(stream => u64, &mut least => *mut i32));
        assert_eq!(code, 400);
    }
    assert_eq!((got(stream()), got(0)), (0, 0));
}
