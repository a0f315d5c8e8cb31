//! Random programs on eight streams, whose every access the simulated driver checks for order.
//! `FOREBAY_HAZARD_OPERATIONS=1000000` makes them longer, `FOREBAY_HAZARD_SEED=100` makes them
//! others.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod gpu;
mod hazards;

use gpu::{Gpu, MIB};
use hazards::Program;

fn wished(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn random_programs_are_in_order() {
    if gpu::is_real() {
        return;
    }
    let seeds = 8;
    let first = wished("FOREBAY_HAZARD_SEED", 0);
    let operations = wished("FOREBAY_HAZARD_OPERATIONS", 100_000) / seeds;
    let mut refused = 0;
    for seed in first..first + seeds {
        let mut program = Program::new(seed as u64);
        program.run(operations, 64);
        let found = program.hazards();
        assert!(found.is_empty(), "seed {seed}: {}", program.explain(&found[0]));
        refused += program.refused;
        program.end();
    }
    assert!(refused > 0, "there was enough memory all the time, so the ladder was not climbed");
}

#[test]
fn random_programs_with_a_plan_are_in_order() {
    if gpu::is_real() {
        return;
    }
    let seeds = 4;
    let first = wished("FOREBAY_HAZARD_SEED", 0);
    let operations = wished("FOREBAY_HAZARD_OPERATIONS", 40_000) / seeds;
    for seed in first..first + seeds {
        let mut program = Program::new(seed as u64);
        program.apply_plan();
        program.run(operations, 64);
        let found = program.hazards();
        assert!(found.is_empty(), "seed {seed}: {}", program.explain(&found[0]));
        let served = program.served();
        assert!(served > operations as u64 / 40, "{served} served in {operations} operations");
        program.end();
    }
}

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
