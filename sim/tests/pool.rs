//! The driver's own pools: order of allocation, use and free, and what the pools keep.

#[allow(dead_code, unused_imports)]
mod common;

use common::{PAGE, alloc, context, cu, event, read, record, start, stream, wait, write};
use sim_cuda::api::memory::{Access, Location};
use sim_cuda::api::pool::Properties;
use sim_cuda::{Config, Kind};

const RESERVED: u32 = 5;
const USED: u32 = 7;
const USED_HIGH: u32 = 8;
const THRESHOLD: u32 = 4;

fn alloc_async(bytes: u64, stream: u64) -> Result<u64, u32> {
    let mut at = 0u64;
    let code = cu!(cuMemAllocAsync(&mut at => *mut u64, bytes as usize => usize, stream => u64));
    if code == 0 { Ok(at) } else { Err(code) }
}

fn alloc_from(pool: u64, bytes: u64, stream: u64) -> Result<u64, u32> {
    let mut at = 0u64;
    let code = cu!(cuMemAllocFromPoolAsync(&mut at => *mut u64, bytes as usize => usize,
        pool => u64, stream => u64));
    if code == 0 { Ok(at) } else { Err(code) }
}

fn free_async(at: u64, stream: u64) -> u32 {
    cu!(cuMemFreeAsync(at => u64, stream => u64))
}

fn default_pool() -> u64 {
    let mut pool = 0u64;
    assert_eq!(cu!(cuDeviceGetDefaultMemPool(&mut pool => *mut u64, 0 => i32)), 0);
    pool
}

fn create() -> u64 {
    let (mut pool, of) = (0u64, Properties::on(0));
    assert_eq!(cu!(cuMemPoolCreate(&mut pool => *mut u64, &of => *const Properties)), 0);
    pool
}

fn get(pool: u64, attribute: u32) -> u64 {
    let mut value = 0u64;
    let to = &mut value as *mut u64;
    assert_eq!(cu!(cuMemPoolGetAttribute(pool => u64, attribute => u32, to => *mut u64)), 0);
    value
}

fn set(pool: u64, attribute: u32, value: u64) -> u32 {
    let from = &value as *const u64;
    cu!(cuMemPoolSetAttribute(pool => u64, attribute => u32, from => *const u64))
}

fn synchronize(stream: u64) {
    assert_eq!(cu!(cuStreamSynchronize(stream => u64)), 0);
}

fn kinds() -> Vec<Kind> {
    sim_cuda::take_hazards().iter().map(|hazard| hazard.kind).collect()
}

#[test]
fn use_in_order_with_allocation_and_free() {
    // Without a wait: before the allocation, after the free, and a free under work.
    for wrong in 0..4 {
        let _guard = start(Config::default());
        let (a, b, made, used) = (stream(), stream(), event(), event());
        let at = alloc_async(4096, a).unwrap();
        record(made, a);
        if wrong != 1 {
            wait(b, made);
        }
        write(b, at, 1);
        record(used, b);
        if wrong != 2 {
            wait(a, used);
        }
        assert_eq!(free_async(at, a), 0);
        if wrong == 3 {
            write(a, at, 2);
        }
        let expected: &[Kind] = match wrong {
            0 => &[],
            1 => &[Kind::Race],
            2 => &[Kind::Retired],
            _ => &[Kind::Unmapped],
        };
        assert_eq!(kinds(), expected, "{wrong}");
        assert_eq!(free_async(at, a), 1, "twice");
    }
}

#[test]
fn work_beside_a_free() {
    let _guard = start(Config::default());
    let (a, b) = (stream(), stream());
    let at = alloc_async(4096, a).unwrap();
    synchronize(a);
    assert_eq!(free_async(at, a), 0);
    read(b, at);
    assert_eq!(kinds(), [Kind::Race]);
    sim_cuda::run_all();
    read(b, at);
    assert_eq!(kinds(), [Kind::Unmapped], "it is gone");
}

#[test]
fn a_pool_keeps_what_it_is_told_to() {
    let _guard = start(Config { capacity: 8 * PAGE, ..Config::default() });
    let (a, pool) = (stream(), default_pool());
    let at = alloc_async(PAGE, a).unwrap();
    assert_eq!((get(pool, RESERVED), get(pool, USED), sim_cuda::used(0)), (PAGE, PAGE, PAGE));
    assert_eq!(free_async(at, a), 0);
    assert_eq!((get(pool, RESERVED), get(pool, USED)), (PAGE, 0));
    let again = alloc_async(PAGE, a).unwrap();
    assert_eq!(get(pool, RESERVED), PAGE, "what was freed in the same stream");
    assert_eq!(free_async(again, a), 0);
    synchronize(a);
    assert_eq!((get(pool, RESERVED), sim_cuda::used(0)), (0, 0));
    assert_eq!(set(pool, THRESHOLD, PAGE), 0);
    let both = [alloc_async(PAGE, a).unwrap(), alloc_async(PAGE, a).unwrap()];
    assert!(both.into_iter().all(|at| free_async(at, a) == 0));
    synchronize(a);
    assert_eq!((get(pool, RESERVED), get(pool, USED_HIGH)), (PAGE, 2 * PAGE));
    assert_eq!((set(pool, USED_HIGH, 7), set(pool, USED_HIGH, 0)), (1, 0));
    assert_eq!(get(pool, USED_HIGH), 0);
    assert_eq!(cu!(cuMemPoolTrimTo(pool => u64, 0 => usize)), 0);
    assert_eq!(get(pool, RESERVED), 0);
}

#[test]
fn what_another_stream_freed_is_reused_when_it_may_be() {
    let _guard = start(Config::default());
    let (a, b, pool) = (stream(), stream(), create());
    let at = alloc_from(pool, PAGE, a).unwrap();
    write(a, at, 1);
    assert_eq!(free_async(at, a), 0);
    alloc_from(pool, PAGE, b).unwrap();
    assert_eq!(get(pool, RESERVED), 2 * PAGE, "the work is not done");
    sim_cuda::run_all();
    alloc_from(pool, PAGE, b).unwrap();
    assert_eq!(get(pool, RESERVED), 2 * PAGE, "now it is");
    assert_eq!(kinds(), []);
}

#[test]
fn no_memory_is_left_unless_other_pools_have_some() {
    let _guard = start(Config { capacity: 4 * PAGE, ..Config::default() });
    let (a, pool, other) = (stream(), create(), create());
    assert_eq!((set(other, THRESHOLD, u64::MAX), set(77, THRESHOLD, 0)), (0, 1));
    let at = alloc_from(other, 3 * PAGE, a).unwrap();
    assert_eq!(alloc_from(pool, 2 * PAGE, a), Err(2));
    assert_eq!(free_async(at, a), 0);
    synchronize(a);
    assert_eq!(sim_cuda::used(0), 3 * PAGE, "kept");
    assert_eq!(alloc(2 * PAGE), Err(2), "for pools alone");
    let at = alloc_from(pool, 2 * PAGE, a).unwrap();
    assert_eq!(sim_cuda::used(0), 2 * PAGE);
    let destroy = |pool: u64| cu!(cuMemPoolDestroy(pool => u64));
    assert_eq!((destroy(pool), destroy(pool), destroy(default_pool())), (0, 1, 1));
    assert_eq!(alloc_from(pool, PAGE, a), Err(1));
    assert_eq!(free_async(at, a), 0);
    sim_cuda::run_all();
    assert_eq!(sim_cuda::used(0), 0, "the last one takes the pool with it");
}

#[test]
fn plain_memory_and_that_of_pools_are_freed_either_way() {
    let _guard = start(Config::default());
    let (a, pool, plain) = (stream(), default_pool(), alloc(PAGE).unwrap());
    write(a, plain, 1);
    assert_eq!(free_async(plain, a), 0);
    assert_eq!(sim_cuda::used(0), PAGE);
    synchronize(a);
    assert_eq!(sim_cuda::used(0), 0);
    let at = alloc_async(PAGE, a).unwrap();
    synchronize(a);
    assert_eq!(cu!(cuMemFree_v2(at => u64)), 0);
    assert_eq!(get(pool, USED), 0);
    assert_eq!(kinds(), []);
    let (at, mut of) = (alloc_async(512, a).unwrap(), 0u64);
    let to = (&raw mut of).cast();
    assert_eq!(cu!(cuPointerGetAttribute(to => *mut u8, 17 => u32, at => u64)), 0);
    assert_eq!(of, pool);
}

#[test]
fn devices_reach_a_pool_if_it_says_so() {
    let _guard = start(Config::default());
    let (a, pool) = (stream(), create());
    let at = alloc_from(pool, 4096, a).unwrap();
    synchronize(a);
    common::context(1);
    let b = stream();
    read(b, at);
    assert_eq!(kinds(), [Kind::Unmapped]);
    let access = Access { location: Location { kind: 1, id: 1 }, flags: 3 };
    let code = cu!(cuMemPoolSetAccess(pool => u64, &access => *const Access, 1 => usize));
    assert_eq!(code, 0);
    read(b, at);
    assert_eq!(kinds(), []);
    let mut flags = 0u32;
    let of = &access.location as *const Location;
    assert_eq!(
        cu!(cuMemPoolGetAccess(&mut flags => *mut u32, pool => u64, of => *const Location)),
        0
    );
    assert_eq!(flags, 3);
}

#[test]
fn a_driver_without_pools_and_a_stream_that_captures() {
    let guard = start(Config { memory_pools: false, ..Config::default() });
    assert_eq!(alloc_async(512, stream()), Err(801));
    drop(guard);
    let _guard = start(Config::default());
    let a = stream();
    assert_eq!(cu!(cuStreamBeginCapture_v2(a => u64, 0 => u32)), 0);
    assert_eq!(alloc_async(512, a), Err(900), "not simulated");
}

#[test]
fn a_failure_leaves_things_as_they_were() {
    let _guard = start(Config { capacity: 2 * PAGE, ..Config::default() });
    let (a, pool) = (stream(), default_pool());
    assert_eq!(set(pool, THRESHOLD, u64::MAX), 0);
    let at = alloc_async(PAGE, a).unwrap();
    assert_eq!(free_async(at, a), 0);
    synchronize(a);
    assert_eq!(sim_cuda::used(0), PAGE);
    context(1);
    assert_eq!(alloc_async(4 * PAGE, stream()), Err(2));
    assert_eq!((sim_cuda::used(0), sim_cuda::used(1)), (PAGE, 0), "nobody else's idle bytes");
}

#[test]
fn more_than_there_are_addresses_for() {
    let _guard = start(Config { bookkeeping: true, capacity: 1 << 60, ..Config::default() });
    let (a, pool) = (stream(), default_pool());
    assert_eq!(alloc_async(1 << 55, a), Err(2));
    assert_eq!(get(pool, USED), 0);
    synchronize(a);
    assert_eq!((get(pool, RESERVED), sim_cuda::used(0)), (0, 0));
}

#[test]
fn an_address_that_is_given_again() {
    let _guard = start(Config::default());
    let (a, b) = (stream(), stream());
    let at = alloc_async(PAGE, a).unwrap();
    assert_eq!(free_async(at, a), 0);
    let other = alloc_async(PAGE, a).unwrap();
    assert_ne!(other, at, "the free is not done");
    sim_cuda::run_all();
    let again = alloc_async(PAGE, a).unwrap();
    // If it is the old address, to use that in another stream is still found.
    write(b, at, 1);
    let expected = if again == at { Kind::Race } else { Kind::Unmapped };
    assert_eq!(kinds(), vec![expected]);
}
