//! A plan: where each tensor is.

use std::time::Duration;

use super::instance::{Instance, Tensor};
use super::problem;
use super::sweep;
use crate::error::{Result, fail};

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

    /// The place of the tensor `id` among the offsets.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none.
    pub fn place_of(&self, id: u64) -> Result<usize> {
        let place = self.instance.place_of(id);
        place.ok_or_else(|| fail!(InvalidArgument, "tensor {id}: the plan has none with this id"))
    }

    /// The ids of the tensors that have bytes of the arena in common with the tensor `id`.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such tensor.
    pub fn sharers(&self, id: u64) -> Result<Vec<u64>> {
        let own = self.place_of(id)?;
        let tensors = self.instance.tensors();
        let (from, to) = (self.offsets[own], self.offsets[own] + tensors[own].size);
        let shares = |&(place, (tensor, &offset)): &(usize, (&Tensor, &u64))| {
            place != own && offset < to && from < offset + tensor.size
        };
        let all = tensors.iter().zip(&self.offsets).enumerate();
        Ok(all.filter(shares).map(|(_, (tensor, _))| tensor.id).collect())
    }

    /// Checks that this is a plan for `instance`: the same tensors, validly placed.
    ///
    /// # Errors
    /// `InvalidArgument` with the tensor that differs, or as [`sweep::validate`].
    pub fn check_for(&self, instance: &Instance) -> Result<()> {
        let (ours, theirs) = (self.instance.tensors(), instance.tensors());
        if ours.len() != theirs.len() {
            return Err(fail!(
                InvalidArgument,
                "the plan is for {} tensors, not for these {}",
                ours.len(),
                theirs.len()
            ));
        }
        for (our, their) in ours.iter().zip(theirs) {
            // A plan as CSV does not say which of its offsets were fixed.
            if (our.id, our.lower, our.upper, our.size)
                != (their.id, their.lower, their.upper, their.size)
            {
                return Err(fail!(
                    InvalidArgument,
                    "the plan is for other tensors: it has tensor {} of {} bytes in [{}, {}) where \
                     there is tensor {} of {} bytes in [{}, {})",
                    our.id,
                    our.size,
                    our.lower,
                    our.upper,
                    their.id,
                    their.size,
                    their.lower,
                    their.upper
                ));
            }
        }
        sweep::validate(instance, &self.offsets).map(|_| ())
    }
}
