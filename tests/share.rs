//! Blocks that other processes and other devices use.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod gpu;

use std::os::fd::AsFd;

use forebay::device::cuda::{Context, Imported};
use forebay::error::Kind;
use forebay::order::Stream;
use forebay::pool::SleepMode;
use gpu::{Gpu, MIB};

const D: Stream = Stream::DEFAULT;

#[test]
fn what_is_exported_is_the_same_memory_where_it_is_imported() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let before = pool.alloc(700 << 10, D).unwrap();
    let block = pool.alloc(5 * MIB, D).unwrap();
    gpu.write(D, block, 5 * MIB, 1);
    let extent = pool.exported_extent(block).unwrap();
    let pages = pool.export(block).unwrap();
    assert_eq!(pages.len() as u64, extent.pages);
    assert_eq!(extent.size, 5 << 20);
    let context = Context::of_device(&gpu.api, 0).unwrap();
    let descriptors: Vec<_> = pages.iter().map(AsFd::as_fd).collect();
    let imported = Imported::map(&context, &descriptors).unwrap();
    drop(pages);
    let there = imported.base() + extent.offset as usize;
    assert!(gpu.is_all(D, there, 5 * MIB, 1));
    gpu.write(D, there, 5 * MIB, 2);
    assert!(gpu.is_all(D, block, 5 * MIB, 2));
    drop(imported);
    pool.free(before, D).unwrap();
    pool.free(block, D).unwrap();
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn exported_pages_stay_and_are_used_again() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let blocks: Vec<usize> = (0..12).map(|_| pool.alloc(4 * MIB, D).unwrap()).collect();
    let shared = blocks[5];
    let pages = pool.export(shared).unwrap();
    for &block in &blocks {
        pool.free(block, D).unwrap();
    }
    gpu.synchronize(D);
    pool.trim(u64::MAX).unwrap();
    gpu.synchronize(D);
    let extent = pages.len() as u64 * gpu::PAGE;
    assert_eq!(pool.trim(0).unwrap(), (48 << 20) - extent);
    pool.defragment().unwrap();
    let context = Context::of_device(&gpu.api, 0).unwrap();
    let descriptors: Vec<_> = pages.iter().map(AsFd::as_fd).collect();
    let imported = Imported::map(&context, &descriptors).unwrap();
    // The largest there can be, twice: it finds room beside what stays, and in it.
    let large = pool.alloc(56 * MIB, D).unwrap();
    gpu.write(D, large, 56 * MIB, 4);
    let small = pool.alloc(3 * MIB, D).unwrap();
    gpu.write(D, small, 3 * MIB, 5);
    let there = imported.base() + (small % gpu::PAGE as usize);
    assert!(gpu.is_all(D, there, MIB, 5), "it lies in the page that stayed");
    pool.free(large, D).unwrap();
    pool.sleep(SleepMode::Backup).unwrap();
    assert_eq!(pool.stats().reserved[0], extent, "another process may be using it");
    pool.wake().unwrap();
    assert!(gpu.is_all(D, small, 3 * MIB, 5));
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let small = pool.alloc(1000, D).unwrap();
    assert_eq!(pool.export(small).unwrap_err().kind(), Kind::InvalidArgument);
    let block = pool.alloc(MIB, D).unwrap();
    assert_eq!(pool.export(block + 512).unwrap_err().kind(), Kind::InvalidPointer);
    pool.free(block, D).unwrap();
    assert_eq!(pool.export(block).unwrap_err().kind(), Kind::InvalidPointer);
    let host = forebay::pool::Pool::on_host(&Default::default()).unwrap();
    let block = host.alloc(MIB, D).unwrap();
    assert_eq!(host.export(block).unwrap_err().kind(), Kind::Unsupported);
    host.free(block, D).unwrap();
    assert_eq!(host.allow_peer(1).unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(pool.allow_peer(0).unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(pool.allow_peer(77).unwrap_err().kind(), Kind::InvalidArgument);
    gpu.finish();
}

#[test]
fn a_peer_uses_what_is_mapped_and_what_will_be() {
    let gpu = Gpu::new();
    if !gpu.is_simulated() {
        return;
    }
    let pool = gpu.pool_of(64 << 20);
    let early = pool.alloc(3 * MIB, D).unwrap();
    pool.allow_peer(1).unwrap();
    pool.allow_peer(1).unwrap();
    let late = pool.alloc(20 * MIB, D).unwrap();
    gpu.enter(1);
    let far = gpu.stream();
    for block in [early, late] {
        gpu.write(far, block, 3 * MIB, 1);
        assert!(gpu.is_all(far, block, 3 * MIB, 1));
    }
    gpu.enter(0);
    gpu.finish();
}
