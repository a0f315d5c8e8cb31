//! Batches: more blocks than front caches hold, of all sizes, of other threads and streams.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod rig;

use std::collections::BTreeSet;

use forebay::error::Kind;
use forebay::order::Stream;
use forebay::pool::{Config, Pool};
use rig::{KIB, MIB, TestStream};

const SIZES: [usize; 6] = [256, 5000, 40 * KIB, 256, 300 * KIB, 17];

fn sizes(count: usize) -> Vec<usize> {
    (0..count).map(|number| SIZES[number % SIZES.len()]).collect()
}

fn pool() -> std::sync::Arc<Pool> {
    Pool::on_host(&Config { max_bytes: 512 << 20, ..Config::default() }).unwrap()
}

#[test]
fn a_batch_is_as_many_calls() {
    let pool = pool();
    let stream = TestStream::new();
    for on in [Stream::DEFAULT, stream.handle()] {
        let sizes = sizes(3000);
        let before = pool.stats();
        for round in 0..4u64 {
            let blocks = pool.alloc_batch(&sizes, on).unwrap();
            pool.check().unwrap();
            assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), blocks.len());
            for (&block, &size) in blocks.iter().zip(&sizes) {
                rig::write(block, size, block as u64 + round);
            }
            for (&block, &size) in blocks.iter().zip(&sizes) {
                rig::read(block, size, block as u64 + round).unwrap();
            }
            let stats = pool.stats();
            assert_eq!(stats.live_blocks, 3000);
            assert_eq!(stats.requested[0], sizes.iter().sum::<usize>() as u64);
            assert_eq!(pool.free_batch(&blocks, on).0, 3000);
            pool.check().unwrap();
        }
        let after = pool.stats();
        assert_eq!(after.allocations, before.allocations + 4 * 3000);
        assert_eq!(after.frees, before.frees + 4 * 3000);
        assert_eq!((after.live_blocks, after.requested[0], after.allocated[0]), (0, 0, 0));
    }
}

#[test]
fn a_batch_of_another_threads_blocks_is_freed_and_stops_at_one_freed_before() {
    let pool = pool();
    let blocks = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| {
            let blocks = pool.alloc_batch(&sizes(1500), Stream::DEFAULT).unwrap();
            pool.free(blocks[700], Stream::DEFAULT).unwrap();
            blocks
        });
        theirs.join().unwrap()
    });
    let (done, result) = pool.free_batch(&blocks, Stream::DEFAULT);
    let error = result.unwrap_err();
    assert_eq!((done, error.kind()), (700, Kind::InvalidPointer));
    assert!(error.message().starts_with("ptrs[700]: "), "{error}");
    let (done, result) = pool.free_batch(&blocks[701..], Stream::DEFAULT);
    result.unwrap();
    assert_eq!((done, pool.stats().live_blocks), (799, 0));
    pool.check().unwrap();
}

#[test]
fn what_another_stream_uses_comes_back_when_that_is_done() {
    let pool = pool();
    let stream = TestStream::new();
    let blocks = pool.alloc_batch(&sizes(1200), Stream::DEFAULT).unwrap();
    for &block in blocks.iter().step_by(3) {
        pool.record_stream(block, stream.handle()).unwrap();
    }
    let gate = rig::Gate::on(&stream);
    pool.free_batch(&blocks, Stream::DEFAULT).1.unwrap();
    let again = pool.alloc_batch(&sizes(1200), Stream::DEFAULT).unwrap();
    let used: BTreeSet<_> = blocks.iter().step_by(3).collect();
    assert!(again.iter().all(|block| !used.contains(block)));
    pool.check().unwrap();
    gate.open();
    stream.synchronize();
    pool.free_batch(&again, Stream::DEFAULT).1.unwrap();
    pool.check().unwrap();
    pool.trim(0).unwrap();
    assert_eq!(pool.stats().reserved[0], 0);
}

#[test]
fn a_batch_that_does_not_fit_leaves_nothing() {
    let pool = Pool::on_host(&Config { max_bytes: 64 << 20, ..Config::default() }).unwrap();
    let mut sizes = sizes(200);
    sizes.extend([10 * MIB; 8]);
    let error = pool.alloc_batch(&sizes, Stream::DEFAULT).unwrap_err();
    assert_eq!(error.kind(), Kind::OutOfMemory);
    assert!(error.message().starts_with("sizes[20"), "{error}");
    sizes[150] = 0;
    let error = pool.alloc_batch(&sizes, Stream::DEFAULT).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.message().starts_with("sizes[150]: "), "{error}");
    assert_eq!(pool.stats().live_blocks, 0);
    pool.check().unwrap();
}
