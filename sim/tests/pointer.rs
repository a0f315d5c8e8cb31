//! What the driver says of addresses, and its functions by name and version.

#[allow(dead_code, unused_imports)]
mod common;

use std::ffi::{CStr, c_char, c_void};

use common::{PAGE, alloc, context, cu, start, stream};
use sim_cuda::Config;
use sim_cuda::api::memory::{Access, Location, Properties};

fn attribute(number: u32, at: u64) -> Result<u64, u32> {
    let mut value = 0u64;
    let to = &mut value as *mut u64;
    match cu!(cuPointerGetAttribute(to.cast() => *mut u8, number => u32, at => u64)) {
        0 => Ok(value),
        code => Err(code),
    }
}

fn range(at: u64) -> (u32, u64, u64) {
    let (mut base, mut bytes) = (0u64, 0usize);
    let code = cu!(cuMemGetAddressRange_v2(&mut base => *mut u64, &mut bytes => *mut usize,
        at => u64));
    (code, base, bytes as u64)
}

/// A mapped page of device 0.
fn mapped() -> u64 {
    let (mut at, mut handle, page) = (0u64, 0u64, PAGE as usize);
    let (on, access) =
        (Properties::on(0), Access { location: Location { kind: 1, id: 0 }, flags: 3 });
    let code = cu!(cuMemAddressReserve(&mut at => *mut u64, page => usize, 0 => usize,
        0 => u64, 0 => u64));
    assert_eq!(code, 0);
    let code = cu!(cuMemCreate(&mut handle => *mut u64, page => usize, &on => *const Properties,
        0 => u64));
    assert_eq!(code, 0);
    let code = cu!(cuMemMap(at => u64, page => usize, 0 => usize, handle => u64, 0 => u64));
    assert_eq!(code, 0);
    let code = cu!(cuMemSetAccess(at => u64, page => usize, &access => *const Access, 1 => usize));
    assert_eq!(code, 0);
    at
}

#[test]
fn addresses_of_each_kind() {
    let _guard = start(Config::default());
    let mut first = 0u64;
    assert_eq!(cu!(cuCtxGetCurrent(&mut first => *mut u64)), 0);
    let (plain, pages, mut pinned) = (alloc(1024).unwrap(), mapped(), 0u64);
    assert_eq!(cu!(cuMemAllocHost_v2(&mut pinned => *mut u64, 4096 => usize)), 0);
    let second = context(1);
    let other = alloc(512).unwrap();
    // Context, kind of memory, device, start, bytes, mapped.
    let all = |at: u64| [1, 2, 9, 11, 12, 13].map(|number| attribute(number, at));
    assert_eq!(all(plain + 5), [Ok(first), Ok(2), Ok(0), Ok(plain), Ok(1024), Ok(0)]);
    assert_eq!(all(pages + 5), [Err(1), Ok(2), Ok(0), Ok(pages), Ok(PAGE), Ok(0)]);
    assert_eq!(all(other), [Ok(second), Ok(2), Ok(1), Ok(other), Ok(512), Ok(1)]);
    assert_eq!(all(pinned + 1)[1..], [Ok(1), Ok(0), Ok(pinned), Ok(4096), Ok(1)]);
    let local = 0u8;
    assert_eq!(all(&raw const local as u64), [Err(1); 6]);
    assert_eq!(attribute(4, pinned), Ok(pinned));
    assert_eq!((attribute(4, plain), attribute(99, plain)), (Err(1), Err(1)));
    assert_eq!(range(plain + 1023), (0, plain, 1024));
    assert_eq!((range(plain + 1024).0, range(pinned).0), (500, 500));
}

#[test]
fn many_attributes_at_once() {
    let _guard = start(Config::default());
    let at = alloc(1024).unwrap();
    let (mut kind, mut device, mut start) = (9u32, 9i32, 9u64);
    let (numbers, to) = (
        [2u32, 9, 11],
        [(&raw mut kind).cast::<u8>(), (&raw mut device).cast(), (&raw mut start).cast()],
    );
    let ask = |at: u64| {
        cu!(cuPointerGetAttributes(3 => u32, numbers.as_ptr() => *const u32,
            to.as_ptr() => *const *mut u8, at => u64))
    };
    assert_eq!(ask(at), 0);
    assert_eq!((kind, device, start), (2, 0, at));
    assert_eq!(ask(8), 0, "an unknown address is no error here");
    // SAFETY: numbers of this test, written by the call above.
    let read = unsafe { ((&raw const kind).read_volatile(), (&raw const start).read_volatile()) };
    assert_eq!(read, (0, 0));
}

#[test]
fn kernels_use_pinned_memory() {
    let _guard = start(Config::default());
    let (a, mut pinned, mut seen) = (stream(), 0u64, 0u64);
    assert_eq!(cu!(cuMemAllocHost_v2(&mut pinned => *mut u64, 4096 => usize)), 0);
    let code = cu!(cuMemHostGetDevicePointer_v2(&mut seen => *mut u64, pinned => u64, 0 => u32));
    assert_eq!((code, seen), (0, pinned));
    let code = cu!(cuMemHostGetDevicePointer_v2(&mut seen => *mut u64, 4096 => u64, 0 => u32));
    assert_eq!(code, 1, "not pinned");
    common::write(a, seen, 3);
    assert_eq!(cu!(cuStreamSynchronize(a => u64)), 0);
    // SAFETY: memory of the driver that is not freed.
    assert_eq!(unsafe { (pinned as *const u8).read_volatile() }, 3);
    assert!(sim_cuda::take_hazards().is_empty());
}

fn procedure(name: &CStr, version: i32) -> (u32, u32, *mut c_void) {
    let (mut at, mut status) = (std::ptr::null_mut(), 9u32);
    let code = cu!(cuGetProcAddress_v2(name.as_ptr() => *const c_char,
        &mut at => *mut *mut c_void, version => i32, 0 => u64, &mut status => *mut u32));
    (code, status, at)
}

#[test]
fn functions_by_name_and_version() {
    let absent = vec!["cuMemMap".into()];
    let _guard = sim_cuda::exclusive(Config { absent, ..Config::default() });
    let none = std::ptr::null_mut();
    assert_eq!(procedure(c"cuMemAlloc", 12000), (0, 0, common::entry("cuMemAlloc_v2")));
    assert_eq!(procedure(c"cuInit", 12000), (0, 0, common::entry("cuInit")), "before it");
    assert_eq!(procedure(c"cuMemAlloc_v2", 12000), (0, 1, none), "a name has no version");
    assert_eq!(procedure(c"cuNoSuch", 12000), (0, 1, none));
    assert_eq!(procedure(c"cuMemMap", 12000), (0, 1, none));
    assert_eq!(procedure(c"cuStreamGetId", 11080), (0, 2, none));
}
