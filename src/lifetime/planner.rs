//! From an instance to a plan, in stages.

use std::time::Duration;

use super::clock::{Clock, Stage, Watch};
use super::greedy::{self, PORTFOLIO};
use super::instance::Instance;
use super::plan::Plan;
use super::problem::{self, Problem};
use super::search::{Outcome, Search};
use crate::error::Result;

/// How a plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// When to stop with the best so far. Zero is the best of the greedy orders.
    pub time_limit: Duration,
    /// Two runs with one seed do the same, up to where the time ends.
    pub seed: u64,
}

impl Default for Options {
    /// A second.
    fn default() -> Options {
        Options { time_limit: Duration::from_secs(1), seed: 0 }
    }
}

/// Nodes of the first try at one height, and twice as many at the bound; each round of tries has
/// four times as many as the last.
const NODES: u64 = 1 << 15;

/// Items up to which all orders are tried before anything else: milliseconds.
const SMALL: usize = 2048;

/// A part of the problem that has no time in common with the others.
struct Part<'a> {
    problem: &'a Problem,
    search: Option<Search<'a>>,
    offsets: Vec<u64>,
    height: u64,
}

/// Plans `instance` within the time of `options`. `watch` is told how far it is, at most
/// twenty times a second, and ends it by returning false.
///
/// # Errors
/// `InvalidArgument` when tensors that are fixed overlap.
pub fn plan<'a>(
    instance: Instance,
    options: &Options,
    watch: Option<&'a mut Watch<'a>>,
) -> Result<Plan> {
    let mut clock = Clock::start(options.time_limit, watch);
    problem::fixed_collide(&instance)?;
    let bound = problem::lower_bound(&instance);
    clock.lower_bound = bound;
    let made = Problem::of(&instance);
    let parts = made.problem.parts();
    let mut offsets = vec![0; made.problem.items.len()];
    let mut solved: Vec<Part<'_>> = parts.iter().map(|(part, _)| Part::new(part)).collect();
    let optimal = solve(&mut solved, bound, options.seed, &mut clock);
    for (part, (_, places)) in solved.iter().zip(&parts) {
        for (&place, &offset) in places.iter().zip(&part.offsets) {
            offsets[place as usize] = offset;
        }
    }
    let placed = made.item_of.iter().zip(&made.fixed_at);
    let offsets =
        placed.map(|(item, &fixed)| item.map_or(fixed, |item| offsets[item as usize])).collect();
    let elapsed = clock.elapsed();
    Ok(Plan::new(instance, offsets)?.found(elapsed, optimal))
}

/// Brings the highest part as low as the time allows; true when it is proved that no plan is
/// lower.
fn solve(parts: &mut [Part<'_>], bound: u64, seed: u64, clock: &mut Clock<'_>) -> bool {
    let highest = |parts: &[Part<'_>]| parts.iter().map(|part| part.height).max().unwrap_or(0);
    clock.stage = Stage::Greedy;
    // The first order is tried whatever the clock says: there is always a plan.
    for part in &mut *parts {
        match part.problem.fixed.is_empty() {
            true => part.keep(&greedy::sweep(part.problem)),
            false => part.try_greedy(PORTFOLIO[0], None),
        }
    }
    // Where orders take long, the search comes sooner: it often ends at the bound at once.
    let small = |part: &Part<'_>| part.problem.items.len() <= SMALL;
    for how in &PORTFOLIO {
        for part in parts.iter_mut().filter(|part| small(part) && part.height > bound) {
            part.try_greedy(*how, None);
        }
    }
    let mut orders = PORTFOLIO.iter();
    let grain = parts.iter().map(|part| part.problem.grain()).min().unwrap_or(1);
    // The highest failed try and whether it failed for good.
    let (mut failed, mut proved) = (None::<u64>, None::<u64>);
    let (mut nodes, mut tries) = (NODES, 0u64);
    loop {
        let height = highest(parts);
        clock.arena_bytes = height;
        if height <= bound || proved.is_some_and(|proved| proved + 1 >= height) {
            return true;
        }
        if clock.over() {
            return false;
        }
        // At the bound first; then halfway between what failed and what is there. When there
        // is little between them, from the bound on again, with more nodes.
        let low = proved.map_or(bound, |proved| proved + 1).max(bound);
        let (capacity, nodes) = match failed {
            None => (low, nodes.saturating_mul(2)),
            Some(failed) if height - failed > grain.max((height - low) / 8) => {
                (failed + (height - failed) / 2, nodes)
            }
            Some(_) => {
                nodes = nodes.saturating_mul(4);
                failed = None;
                continue;
            }
        };
        tries += 1;
        let capacity = (capacity / grain * grain).max(failed.map_or(low, |failed| failed + 1));
        let mut outcome = Outcome::Found;
        for part in parts.iter_mut().filter(|part| part.height > capacity) {
            outcome = part.try_below(capacity, nodes, seed.wrapping_add(tries), clock);
            if outcome != Outcome::Found {
                break;
            }
        }
        match outcome {
            Outcome::Found => {}
            Outcome::GaveUp => {
                failed = Some(capacity);
                // One more order for the large ones after each try.
                if let Some(how) = orders.next() {
                    clock.stage = Stage::Greedy;
                    for part in
                        parts.iter_mut().filter(|part| !small(part) && part.height > capacity)
                    {
                        part.try_greedy(*how, Some(&mut *clock));
                    }
                }
            }
            Outcome::Impossible => {
                (failed, proved) = (Some(capacity), Some(capacity));
            }
        }
    }
}

impl<'a> Part<'a> {
    fn new(problem: &'a Problem) -> Part<'a> {
        Part { problem, search: None, offsets: Vec::new(), height: u64::MAX }
    }

    fn keep(&mut self, offsets: &[u64]) {
        let height = self.problem.height(offsets);
        if height < self.height {
            self.height = height;
            self.offsets = offsets.to_vec();
        }
    }

    fn try_greedy(
        &mut self,
        (order, fit): (greedy::Order, greedy::Fit),
        clock: Option<&mut Clock<'_>>,
    ) {
        let places = greedy::sorted(self.problem, order);
        if let Some(offsets) = greedy::place(self.problem, &places, fit, clock) {
            self.keep(&offsets);
        }
    }

    /// Tries to end at `capacity` or below.
    fn try_below(
        &mut self,
        capacity: u64,
        nodes: u64,
        seed: u64,
        clock: &mut Clock<'_>,
    ) -> Outcome {
        clock.stage = Stage::Search;
        let problem = self.problem;
        let search = self.search.get_or_insert_with(|| Search::new(problem, seed));
        let outcome = search.run(capacity, nodes, clock);
        if outcome == Outcome::Found {
            let offsets = search.offsets().to_vec();
            self.keep(&offsets);
        }
        outcome
    }
}
