//! Devices, contexts and memory: what is given, and which code a broken rule answers.

#[allow(dead_code, unused_imports)]
mod common;

use common::{PAGE, alloc, context, cu, start};
use sim_cuda::Config;
use sim_cuda::api::memory::{Access, Location, Properties};

fn create(bytes: u64) -> Result<u64, u32> {
    let mut handle = 0u64;
    let on = Properties::on(0);
    let code = cu!(cuMemCreate(&mut handle => *mut u64, bytes as usize => usize,
        &on => *const Properties, 0 => u64));
    if code == 0 { Ok(handle) } else { Err(code) }
}

fn reserve(bytes: u64) -> u64 {
    let mut at = 0u64;
    let code = cu!(cuMemAddressReserve(&mut at => *mut u64, bytes as usize => usize, 0 => usize,
        0 => u64, 0 => u64));
    assert_eq!(code, 0);
    at
}

fn map(at: u64, bytes: u64, handle: u64) -> u32 {
    cu!(cuMemMap(at => u64, bytes as usize => usize, 0 => usize, handle => u64, 0 => u64))
}

fn unmap(at: u64, bytes: u64) -> u32 {
    cu!(cuMemUnmap(at => u64, bytes as usize => usize))
}

fn release(handle: u64) -> u32 {
    cu!(cuMemRelease(handle => u64))
}

#[test]
fn nothing_works_before_init_and_without_a_context() {
    let _guard = sim_cuda::exclusive(Config::default());
    let mut count = 0;
    assert_eq!(cu!(cuDeviceGetCount(&mut count => *mut i32)), 3);
    assert_eq!(cu!(cuInit(0 => u32)), 0);
    assert_eq!(cu!(cuDeviceGetCount(&mut count => *mut i32)), 0);
    assert_eq!(count, 2);
    assert_eq!(alloc(1), Err(201));
    let first = context(0);
    let second = context(1);
    assert_ne!(first, second);
    let mut device = 9;
    assert_eq!(cu!(cuCtxGetDevice(&mut device => *mut i32)), 0);
    assert_eq!(device, 1);
    assert_eq!(cu!(cuDevicePrimaryCtxRelease_v2(1 => i32)), 0);
    assert_eq!(cu!(cuDevicePrimaryCtxRelease_v2(1 => i32)), 201);
    assert_eq!(alloc(1), Err(201), "the context is gone");
    assert_eq!(cu!(cuCtxSetCurrent(first => u64)), 0);
    assert!(alloc(1).is_ok());
    assert_eq!(cu!(cuDeviceGet(&mut device => *mut i32, 2 => i32)), 101);
}

#[test]
fn capacity_is_kept_and_given_back() {
    let _guard = start(Config { capacity: 4 * PAGE, ..Config::default() });
    let (a, b) = (alloc(2 * PAGE).unwrap(), create(2 * PAGE).unwrap());
    assert_eq!(sim_cuda::used(0), 4 * PAGE);
    assert_eq!((alloc(1), create(PAGE)), (Err(2), Err(2)));
    assert_eq!(cu!(cuMemFree_v2(a + 512 => u64)), 1, "not where it begins");
    assert_eq!(cu!(cuMemFree_v2(a => u64)), 0);
    assert_eq!(cu!(cuMemFree_v2(a => u64)), 1, "twice");
    assert_eq!(release(b), 0);
    assert_eq!(release(b), 1, "twice");
    assert_eq!(sim_cuda::used(0), 0);
    sim_cuda::occupy(0, 3 * PAGE);
    let (mut free, mut total) = (0usize, 0usize);
    assert_eq!(cu!(cuMemGetInfo_v2(&mut free => *mut usize, &mut total => *mut usize)), 0);
    assert_eq!((free as u64, total as u64), (PAGE, 4 * PAGE));
    assert_eq!(alloc(PAGE + 1), Err(2));
}

#[test]
fn rules_of_virtual_memory() {
    let _guard = start(Config::default());
    assert_eq!(create(PAGE + 1), Err(1));
    assert_eq!(create(0), Err(1));
    let (at, handle) = (reserve(4 * PAGE), create(2 * PAGE).unwrap());
    assert!(at.is_multiple_of(PAGE));
    assert_eq!(map(at + 3 * PAGE, 2 * PAGE, handle), 1, "beyond the reservation");
    assert_eq!(map(at, 4 * PAGE, handle), 1, "more than the handle has");
    assert_eq!(map(at + 4096, PAGE, handle), 1, "granularity");
    assert_eq!(map(at, 2 * PAGE, handle), 0);
    assert_eq!(map(at + PAGE, 2 * PAGE, handle), 1, "over another");
    assert_eq!(map(at + 2 * PAGE, 2 * PAGE, handle), 0, "a second mapping of the same");
    assert_eq!(unmap(at, PAGE), 1, "a part of a mapping");
    assert_eq!(release(handle), 0);
    assert_eq!(sim_cuda::used(0), 2 * PAGE, "mappings keep it");
    assert_eq!(cu!(cuMemAddressFree(at => u64, 4 * PAGE as usize => usize)), 1, "mapped");
    let mut again = 0u64;
    let retain =
        |again: &mut u64, at: u64| cu!(cuMemRetainAllocationHandle(again => *mut u64, at => u64));
    assert_eq!(retain(&mut again, at + 5), 0);
    assert_eq!(again, handle);
    assert_eq!(unmap(at, 4 * PAGE), 0);
    assert_eq!(sim_cuda::used(0), 2 * PAGE, "a reference keeps it");
    assert_eq!(release(handle), 0);
    assert_eq!(sim_cuda::used(0), 0);
    assert_eq!(retain(&mut again, at), 1);
    let access = Access { location: Location { kind: 1, id: 0 }, flags: 3 };
    let code = cu!(cuMemSetAccess(at => u64, PAGE as usize => usize, &access => *const Access,
        1 => usize));
    assert_eq!(code, 1, "nothing is mapped");
    assert_eq!(cu!(cuMemAddressFree(at => u64, PAGE as usize => usize)), 1, "a part");
    assert_eq!(cu!(cuMemAddressFree(at => u64, 4 * PAGE as usize => usize)), 0);
}

#[test]
fn bookkeeping_holds_any_size() {
    let config = Config { capacity: 80 << 40, bookkeeping: true, ..Config::default() };
    let _guard = start(config);
    let handles: Vec<u64> = (0..10_000).map(|_| create(4 << 30).unwrap()).collect();
    assert_eq!(sim_cuda::used(0), 10_000 * (4 << 30));
    assert!(handles.into_iter().all(|handle| release(handle) == 0));
}

#[test]
fn pinned_memory_of_the_host() {
    let _guard = start(Config::default());
    let mut bytes = vec![0u8; 8192];
    let at = bytes.as_mut_ptr() as u64;
    let register = || cu!(cuMemHostRegister_v2(at => u64, 8192 => usize, 0 => u32));
    assert_eq!(register(), 0);
    assert_eq!(register(), 712);
    assert_eq!(cu!(cuMemHostUnregister(at => u64)), 0);
    assert_eq!(cu!(cuMemHostUnregister(at => u64)), 713);
}

#[test]
fn calls_are_counted_kept_and_made_to_fail() {
    let _guard = start(Config::default());
    sim_cuda::keep_log();
    sim_cuda::fail("cuMemCreate", 1, 2);
    let first = create(PAGE).unwrap();
    assert_eq!(create(PAGE), Err(2));
    assert!(create(PAGE).is_ok());
    assert_eq!(sim_cuda::calls("cuMemCreate"), 3);
    assert_eq!(release(first), 0);
    let log = sim_cuda::take_log();
    assert_eq!(log.last().unwrap().name, "cuMemRelease");
    assert_eq!(log.last().unwrap().arguments, [first]);
    sim_cuda::break_with(700);
    assert_eq!((create(PAGE), alloc(1)), (Err(700), Err(700)));
    let mut name = std::ptr::null();
    assert_eq!(cu!(cuGetErrorName(700 => u32, &mut name => *mut *const std::ffi::c_char)), 0);
    // SAFETY: a string of the driver.
    let name = unsafe { std::ffi::CStr::from_ptr(name) };
    assert_eq!(name, c"CUDA_ERROR_ILLEGAL_ADDRESS");
    assert_eq!(cu!(cuGetErrorName(12345 => u32, &mut std::ptr::null() => *mut *const i8)), 1);
}

#[test]
fn a_name_that_is_absent_is_not_found() {
    let _guard = start(Config { absent: vec!["cuMemMap".into()], ..Config::default() });
    assert!(sim_cuda::lookup(c"cuMemMap").is_null());
    assert!(sim_cuda::lookup(c"cuMemAlloc").is_null(), "the driver exports cuMemAlloc_v2");
    assert!(!sim_cuda::lookup(c"cuMemUnmap").is_null());
}
