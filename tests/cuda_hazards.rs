//! Memory that changes streams and graphs, and what the simulated driver finds wrong with it.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod gpu;

use gpu::{Gpu, MIB};

/// A stream that was forgotten in time is not mistaken for one that was destroyed without
/// notice, for which the host waits for the whole device.
#[test]
fn releasing_a_graph_does_not_wait_for_forgotten_streams() {
    let gpu = Gpu::new();
    if !gpu.is_simulated() {
        return;
    }
    let pool = gpu.pool_of(64 << 20);
    let (a, b) = (gpu.stream(), gpu.stream());
    let block = pool.alloc(4 * MIB, a).unwrap();
    pool.free(block, a).unwrap();
    pool.begin_graph(1, b).unwrap();
    let block = pool.alloc(4 * MIB, b).unwrap();
    pool.free(block, b).unwrap();
    pool.end_graph(1).unwrap();
    pool.forget_stream(a).unwrap();
    gpu.destroy(a);
    let before = sim_cuda::calls("cuCtxSynchronize");
    pool.release_graph(1).unwrap();
    pool.trim(0).unwrap();
    assert_eq!(sim_cuda::calls("cuCtxSynchronize"), before);
    gpu.finish();
}
