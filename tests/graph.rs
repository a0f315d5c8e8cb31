//! Graphs: what is taken in a capture is the graph's until it is released.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod gpu;

use forebay::error::Kind;
use forebay::order::Stream;
use gpu::{Gpu, MIB, cu};

const D: Stream = Stream::DEFAULT;

/// A capture's result, ready to be launched.
struct Graph {
    graph: u64,
    exec: u64,
}

fn begin(gpu: &Gpu, stream: Stream) {
    // Relaxed: others go on as they like.
    assert_eq!(cu!(gpu, cuStreamBeginCapture_v2(stream.0 => u64, 2 => u32)), 0);
}

fn end(gpu: &Gpu, stream: Stream) -> Graph {
    let (mut graph, mut exec) = (0u64, 0u64);
    assert_eq!(cu!(gpu, cuStreamEndCapture(stream.0 => u64, &mut graph => *mut u64)), 0);
    let code = cu!(gpu, cuGraphInstantiateWithFlags(
        &mut exec => *mut u64, graph => u64, 0 => u64));
    assert_eq!(code, 0);
    Graph { graph, exec }
}

fn launch(gpu: &Gpu, graph: &Graph, stream: Stream) {
    assert_eq!(cu!(gpu, cuGraphLaunch(graph.exec => u64, stream.0 => u64)), 0);
}

fn destroy(gpu: &Gpu, graph: &Graph) {
    assert_eq!(cu!(gpu, cuGraphExecDestroy(graph.exec => u64)), 0);
    assert_eq!(cu!(gpu, cuGraphDestroy(graph.graph => u64)), 0);
}

#[test]
fn what_a_graph_uses_is_nobody_else_s_until_it_is_released() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(512 << 20);
    let (s, other) = (gpu.stream(), gpu.stream());
    // What was freed before is not the graph's.
    let eager = pool.alloc(8 * MIB, s).unwrap();
    pool.free(eager, s).unwrap();
    for size in [700, 8 * MIB] {
        pool.begin_graph(7, s).unwrap();
        begin(&gpu, s);
        let first = pool.alloc(size, s).unwrap();
        assert_ne!(first, eager, "that may still be in use, eagerly");
        gpu.write(s, first, size, 1);
        pool.free(first, s).unwrap();
        // Within the graph it is used again at once.
        let second = pool.alloc(size, s).unwrap();
        assert_eq!(second, first);
        gpu.write(s, second, size, 2);
        let output = pool.alloc(size, s).unwrap();
        gpu.write(s, output, size, 3);
        pool.free(second, s).unwrap();
        let graph = end(&gpu, s);
        pool.end_graph(7).unwrap();
        pool.check().unwrap();
        // The output is freed eagerly, and stays the graph's.
        launch(&gpu, &graph, s);
        pool.free(output, s).unwrap();
        let mut taken = Vec::new();
        for round in 0..20 {
            for stream in [s, other] {
                let block = pool.alloc(size, stream).unwrap();
                assert!(block != first && block != output);
                gpu.write(stream, block, size, 50 + round);
                taken.push((block, stream, 50 + round));
            }
            launch(&gpu, &graph, s);
        }
        for &(block, stream, value) in &taken {
            assert!(gpu.is_all(stream, block, size, value), "a launch wrote to it");
            pool.free(block, stream).unwrap();
        }
        gpu.synchronize(s);
        destroy(&gpu, &graph);
        pool.release_graph(7).unwrap();
        gpu.synchronize_all();
        pool.check().unwrap();
    }
    gpu.synchronize_all();
    pool.trim(0).unwrap();
    gpu.synchronize_all();
    pool.trim(0).unwrap();
    assert_eq!(pool.stats().reserved[0], 0, "all of it is everybody's again");
    gpu.finish();
}

#[test]
fn graphs_of_one_number_share_memory_and_it_lasts_as_long_as_the_last() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let (s, t) = (gpu.stream(), gpu.stream());
    let mut graphs = Vec::new();
    let mut blocks = Vec::new();
    for stream in [s, t] {
        pool.begin_graph(1, stream).unwrap();
        begin(&gpu, stream);
        let block = pool.alloc(20 * MIB, stream).unwrap();
        gpu.write(stream, block, 20 * MIB, 1);
        pool.free(block, stream).unwrap();
        graphs.push(end(&gpu, stream));
        pool.end_graph(1).unwrap();
        blocks.push(block);
    }
    assert_eq!(blocks[0], blocks[1]);
    assert_eq!(pool.stats().reserved[0], 20 << 20);
    pool.release_graph(1).unwrap();
    gpu.synchronize_all();
    assert_eq!(pool.trim(0).unwrap(), 0, "the other graph uses it");
    launch(&gpu, &graphs[1], t);
    gpu.synchronize_all();
    graphs.iter().for_each(|graph| destroy(&gpu, graph));
    pool.release_graph(1).unwrap();
    assert_eq!(pool.release_graph(1).unwrap_err().kind(), Kind::InvalidState);
    pool.trim(0).unwrap();
    gpu.synchronize_all();
    pool.trim(0).unwrap();
    assert_eq!(pool.stats().reserved[0], 0);
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn streams_that_join_a_capture_are_of_its_graph() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let (s, t) = (gpu.stream(), gpu.stream());
    pool.begin_graph(3, s).unwrap();
    begin(&gpu, s);
    let block = pool.alloc(4 * MIB, s).unwrap();
    gpu.write(s, block, 4 * MIB, 1);
    gpu.order(s, t);
    gpu.write(t, block, 4 * MIB, 2);
    let side = pool.alloc(6 * MIB, t).unwrap();
    gpu.write(t, side, 6 * MIB, 3);
    // Used on both, freed on one: nobody has it again before the capture ends.
    pool.record_stream(block, t).unwrap();
    pool.free(block, s).unwrap();
    let next = pool.alloc(4 * MIB, s).unwrap();
    assert_ne!(next, block);
    gpu.write(s, next, 4 * MIB, 4);
    pool.free(side, t).unwrap();
    gpu.order(t, s);
    pool.free(next, s).unwrap();
    let graph = end(&gpu, s);
    pool.end_graph(3).unwrap();
    pool.check().unwrap();
    for _ in 0..3 {
        launch(&gpu, &graph, s);
    }
    gpu.synchronize_all();
    assert!(gpu.is_all(s, next, 4 * MIB, 4), "the graph's, still");
    pool.release_graph(3).unwrap();
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn eager_blocks_freed_in_a_capture_wait_for_its_end() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(8 << 20);
    let (s, other) = (gpu.stream(), gpu.stream());
    let eager = pool.alloc(6 * MIB, s).unwrap();
    gpu.write(s, eager, 6 * MIB, 1);
    pool.begin_graph(3, s).unwrap();
    begin(&gpu, s);
    pool.free(eager, s).unwrap();
    assert_eq!(pool.alloc(6 * MIB, other).unwrap_err().kind(), Kind::OutOfMemory);
    let graph = end(&gpu, s);
    pool.end_graph(3).unwrap();
    let again = pool.alloc(6 * MIB, other).unwrap();
    gpu.write(other, again, 6 * MIB, 2);
    destroy(&gpu, &graph);
    pool.release_graph(3).unwrap();
    pool.check().unwrap();
    gpu.finish();
}

#[test]
fn captures_are_announced_once_each_and_ended_before_they_are_released() {
    let gpu = Gpu::new();
    let pool = gpu.pool_of(64 << 20);
    let (s, t) = (gpu.stream(), gpu.stream());
    let is = |result: forebay::error::Result<()>, kind: Kind, what: &str| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(what), "{error}");
    };
    is(pool.begin_graph(0, s), Kind::InvalidArgument, "graph is 0");
    is(pool.end_graph(1), Kind::InvalidState, "is not being captured");
    pool.begin_graph(1, s).unwrap();
    is(pool.begin_graph(1, t), Kind::InvalidState, "already");
    is(pool.begin_graph(2, s), Kind::InvalidState, "already");
    is(pool.release_graph(1), Kind::InvalidState, "end that");
    is(pool.sleep(forebay::pool::SleepMode::Discard), Kind::InvalidState, "captured");
    is(pool.forget_stream(s), Kind::InvalidState, "capturing");
    pool.begin_graph(2, t).unwrap();
    pool.end_graph(1).unwrap();
    pool.end_graph(2).unwrap();
    // One that nobody announced is found out where memory is looked for.
    begin(&gpu, s);
    let error = pool.alloc(3 * MIB, s).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidState);
    assert!(error.message().contains("forebay_graph_begin"), "{error}");
    let graph = end(&gpu, s);
    destroy(&gpu, &graph);
    let block = pool.alloc(3 * MIB, s).unwrap();
    pool.free(block, s).unwrap();
    let host = forebay::pool::Pool::on_host(&Default::default()).unwrap();
    is(host.begin_graph(1, D), Kind::Unsupported, "host");
    pool.check().unwrap();
    gpu.finish();
}
