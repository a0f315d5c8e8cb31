//! A plan: where each tensor is.

use std::time::Duration;

use super::instance::Instance;
use super::problem;
use super::sweep;
use crate::error::Result;

/// Offsets for the tensors of an instance, checked.
#[derive(Clone, Debug)]
pub struct Plan {
    instance: Instance,
    offsets: Vec<u64>,
    arena_bytes: u64,
    lower_bound: u64,
    optimal: bool,
    elapsed: Duration,
}

impl Plan {
    /// The plan that has the tensors of `instance` at `offsets`.
    ///
    /// # Errors
    /// `InvalidArgument` when that is no plan: see [`sweep::validate`].
    pub fn new(instance: Instance, offsets: Vec<u64>) -> Result<Plan> {
        let arena_bytes = sweep::validate(&instance, &offsets)?;
        let lower_bound = problem::lower_bound(&instance);
        let optimal = arena_bytes == lower_bound;
        Ok(Plan { instance, offsets, arena_bytes, lower_bound, optimal, elapsed: Duration::ZERO })
    }

    /// The same plan, which took `elapsed` and was proved `optimal` by other means than its bound.
    pub(super) fn found(mut self, elapsed: Duration, optimal: bool) -> Plan {
        self.elapsed = elapsed;
        self.optimal |= optimal;
        self
    }

    /// What it places.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// One per tensor, in their order.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// The largest offset plus size.
    pub fn arena_bytes(&self) -> u64 {
        self.arena_bytes
    }

    /// What no plan can be below.
    pub fn lower_bound(&self) -> u64 {
        self.lower_bound
    }

    /// Whether it is known that no plan is lower.
    pub fn optimal(&self) -> bool {
        self.optimal
    }

    /// How long it took to find.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The bytes of all tensors, as if none shared memory with another.
    pub fn total_bytes(&self) -> u64 {
        self.instance.tensors().iter().map(|tensor| tensor.size).sum()
    }
}
