//! Random programs on eight streams, whose every access the simulated driver checks for order.
//! `FOREBAY_HAZARD_OPERATIONS=1000000` makes them longer.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod gpu;
mod hazards;

use hazards::Program;

fn operations() -> usize {
    let wished = std::env::var("FOREBAY_HAZARD_OPERATIONS").ok();
    wished.and_then(|number| number.parse().ok()).unwrap_or(100_000)
}

#[test]
fn random_programs_are_in_order() {
    if gpu::is_real() {
        return;
    }
    let seeds = 8;
    let mut refused = 0;
    for seed in 0..seeds {
        let mut program = Program::new(seed);
        program.run(operations() / seeds as usize, 64);
        let found = program.hazards();
        assert!(found.is_empty(), "seed {seed}: {}", found[0]);
        refused += program.refused;
        program.end();
    }
    assert!(refused > 0, "there was enough memory all the time, so the ladder was not climbed");
}
