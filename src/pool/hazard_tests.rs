//! The checker of order finds what is wrong with a pool: bugs are planted, and the program that
//! finds nothing without them has to find each.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::gpu;
use crate::planted::{Bug, plant};

#[path = "../../tests/hazards/mod.rs"]
mod hazards;

use hazards::Program;

/// Whether the program finds something.
fn finds(seed: u64, planned: bool) -> bool {
    let mut program = Program::new(seed);
    if planned {
        program.apply_plan();
    }
    // Where the bug is, the simulated device may fail too, and the program with it.
    let run = catch_unwind(AssertUnwindSafe(|| {
        (0..400).any(|_| {
            program.run(20, usize::MAX);
            program.has_found()
        })
    }));
    let found = !program.hazards().is_empty();
    assert_eq!(run.unwrap_or(true), found, "it failed, and nothing was found");
    plant(None);
    found
}

#[test]
fn each_planted_bug_is_found_and_nothing_without() {
    for seed in 0..2 {
        for planned in [false, true] {
            assert!(!finds(seed, planned), "without a bug, seed {seed}, planned {planned}");
        }
    }
    for bug in Bug::ALL {
        let found = (0..8).any(|seed| {
            plant(Some(bug));
            finds(seed, bug == Bug::UnorderedPlan)
        });
        assert!(found, "{bug:?}");
    }
}
