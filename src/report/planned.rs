//! What a plan would make of the blocks of a trace.

use std::time::Duration;

use super::rounding::Rounding;
use super::survey::{PLANNED, Survey};
use crate::error::Result;
use crate::lifetime::{self, Instance, Options, Watch};
use crate::space::GRANULE;

/// A plan for all blocks, or why there is none.
#[derive(Clone, Debug)]
pub(super) enum Planned {
    /// There is one.
    Plan(Box<Placed>),
    /// The trace has more blocks than are planned for a report.
    TooMany,
    /// Nobody wanted one, or there is nothing to plan.
    Nothing,
    /// The planner does not take these blocks.
    Refused(String),
}

/// A plan, as far as a report needs it.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// What its arena needs, and what no arena can be below.
    pub(super) arena: u64,
    pub(super) bound: u64,
    pub(super) optimal: bool,
    /// Sizes are multiples of it.
    pub(super) alignment: u64,
    pub(super) elapsed: Duration,
    /// By place in [`Survey::tensors`].
    pub(super) offsets: Vec<u64>,
}

/// Plans the blocks of `survey` within `limit`; zero wants none.
pub(super) fn plan<'a>(
    survey: &Survey,
    limit: Duration,
    watch: Option<&'a mut Watch<'a>>,
) -> Planned {
    let Some(tensors) = &survey.tensors else { return Planned::TooMany };
    if tensors.is_empty() || limit.is_zero() {
        return Planned::Nothing;
    }
    debug_assert!(tensors.len() <= PLANNED);
    let alignment = if survey.device == Rounding::GPU { GRANULE } else { 16 };
    let instance = || -> Result<Instance> {
        let mut instance = Instance::new();
        for (id, tensor) in (0..).zip(tensors) {
            // What does not fit 64 bits is refused for its size.
            let size = tensor.size.checked_next_multiple_of(alignment).unwrap_or(tensor.size);
            let tensor = lifetime::Tensor::new(id, tensor.lower, tensor.upper, size);
            instance.add(lifetime::Tensor { alignment, ..tensor })?;
        }
        Ok(instance)
    };
    let options = Options { time_limit: limit, seed: 0 };
    match instance().and_then(|instance| lifetime::plan(instance, &options, watch)) {
        Ok(plan) => Planned::Plan(Box::new(Placed {
            arena: plan.arena_bytes(),
            bound: plan.lower_bound(),
            optimal: plan.optimal(),
            alignment,
            elapsed: plan.elapsed(),
            offsets: plan.offsets().to_vec(),
        })),
        Err(error) => Planned::Refused(error.message()),
    }
}
