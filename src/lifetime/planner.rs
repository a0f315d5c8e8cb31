//! From an instance to a plan, in stages.

use std::time::Duration;

use super::clock::{Clock, Stage, Watch};
use super::greedy::{self, Fit, PORTFOLIO, Weights};
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

/// The most orders after one try.
const ORDERS: u64 = 16;

/// Powers of the number of sections by which the skyline of a large part is filled.
const WIDTHS: [f64; 8] = [0.1, 0.25, 0.0, 0.5, 0.15, 0.05, 0.2, 0.35];

/// Items up to which all orders are tried before anything else: milliseconds.
const SMALL: usize = 2048;

/// A part of the problem that has no time in common with the others.
struct Part<'a> {
    problem: &'a Problem,
    search: Option<Search<'a>>,
    orders: Option<Orders>,
    fills: usize,
    offsets: Vec<u64>,
    height: u64,
}

/// The orders that were tried for a large part.
struct Orders {
    peaks: Vec<u64>,
    tried: usize,
    /// The best so far, and how high that was.
    best: Weights,
    height: u64,
    random: u64,
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
    let small = |part: &Part<'_>| part.problem.items.len() <= SMALL;
    for how in &PORTFOLIO {
        for part in parts.iter_mut().filter(|part| small(part) && part.height > bound) {
            part.try_greedy(*how, None);
        }
    }
    clock.arena_bytes = highest(parts);
    // Where orders take long, one round of the search comes first: it often ends at the bound.
    if !parts.iter().all(small) && !clock.over() {
        for part in parts.iter_mut().filter(|part| part.height > bound) {
            if part.try_below(bound, 1, seed, clock) != Outcome::Found {
                break;
            }
        }
        for part in parts.iter_mut().filter(|part| !small(part) && part.height > bound) {
            part.try_order(seed, clock);
            part.try_fill(bound, seed, clock);
        }
    }
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
                // Orders take about as long as that many nodes.
                for _ in 0..(nodes / NODES).min(ORDERS) {
                    for part in parts.iter_mut().filter(|part| !small(part)) {
                        if part.height <= capacity || clock.over() {
                            continue;
                        }
                        match part.orders_are_near() {
                            true => part.try_order(seed, clock),
                            false => part.try_fill(bound, seed, clock),
                        }
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
        Part {
            problem,
            search: None,
            orders: None,
            fills: 0,
            offsets: Vec::new(),
            height: u64::MAX,
        }
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

    /// Fills the skyline as if the bound were the aim, without going back, in a way that was not
    /// tried before.
    fn try_fill(&mut self, bound: u64, seed: u64, clock: &mut Clock<'_>) {
        let Some(&width) = WIDTHS.get(self.fills) else { return };
        self.fills += 1;
        clock.stage = Stage::Search;
        let problem = self.problem;
        let search = self.search.get_or_insert_with(|| Search::new(problem, seed));
        if let Some(offsets) = search.fill(bound, width, clock).map(<[u64]>::to_vec) {
            self.keep(&offsets);
        }
    }

    /// Whether orders are worth their time: they are not far above what else was found.
    fn orders_are_near(&self) -> bool {
        self.orders.as_ref().is_none_or(|orders| {
            orders.tried < 2 || orders.height <= self.height.saturating_add(self.height / 32)
        })
    }

    /// Tries one more order: those that are known to be good first, then others near the best.
    fn try_order(&mut self, seed: u64, clock: &mut Clock<'_>) {
        clock.stage = Stage::Greedy;
        let problem = self.problem;
        let orders = self.orders.get_or_insert_with(|| Orders {
            peaks: greedy::peaks(problem),
            tried: 0,
            best: Weights::FIRST[0],
            height: u64::MAX,
            // Any state but zero.
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        });
        let random = &mut orders.random;
        let weights = Weights::FIRST.get(orders.tried).copied().unwrap_or_else(|| {
            orders.best.near(|| {
                *random ^= *random << 13;
                *random ^= *random >> 7;
                *random ^= *random << 17;
                (*random >> 11) as f64 / (1u64 << 53) as f64
            })
        });
        orders.tried += 1;
        let places = greedy::weighted(problem, &orders.peaks, weights);
        let Some(offsets) = greedy::place(problem, &places, Fit::First, Some(clock)) else {
            return;
        };
        let height = problem.height(&offsets);
        if height < orders.height {
            (orders.best, orders.height) = (weights, height);
        }
        self.keep(&offsets);
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
