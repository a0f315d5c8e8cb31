//! The exact search: whether a problem fits below a height, and how.
//!
//! The skyline says for each section how high it is filled. A *valley* is a run of sections at
//! one height with higher ones, or nothing, on both sides. What comes next in a section of a
//! valley, at its height, is one of the items that lie within the valley and cover the section,
//! or nothing: then the section is lost up to the next height at which something can begin.
//! These cases exclude each other, so no plan is met twice. The search always branches in the
//! section with the fewest cases; where there is none, the section is lost without asking,
//! and a section whose bytes no longer fit below the height ends the branch. That is why it
//! rarely goes far astray where the height leaves nothing to waste.
//!
//! Items are pressed down: every plan can be, so that each lies on another, on something
//! fixed, or on the ground, and nothing is missed by looking only at those. Where no item
//! crosses between two sections any more, each side is solved alone.
//!
//! Most of the time goes into branches that failed early. So the search begins anew with
//! other orders after ever more nodes, and prefers sections in which it failed before (Boussemart
//! et al., "Boosting systematic search by weighting constraints", ECAI 2004). The problem and
//! the idea of bounds per section are those of Moffitt, "MiniMalloc" (ASPLOS 2023).

use super::clock::Clock;
use super::problem::Problem;

/// The height of a section in which nothing is left to place.
const WALL: u64 = u64::MAX / 4;

/// Every so many rounds one is long.
const LONG: u64 = 16;

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All items are placed.
    Found,
    /// There is no plan below this height.
    Impossible,
    /// The nodes or the time ran out.
    GaveUp,
}

/// Which of the items that can come next is tried first.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// That among the most bytes.
    Load,
    /// That in the most sections, by size among these.
    Width,
    Size,
    Area,
}

const ORDERS: [Order; 4] = [Order::Size, Order::Area, Order::Load, Order::Width];

/// Where the search decides, and what it has not tried there yet.
struct Frame {
    /// The sections that this frame is to fill.
    first: usize,
    end: usize,
    /// Where it decides, and how high that is.
    section: usize,
    height: u64,
    /// How high the section is if nothing comes next.
    lost: u64,
    /// The cases: of `choices`, from the one to try next.
    choices: usize,
    next: usize,
    choices_end: usize,
    /// How much of `changes` and `order` was there before the sections known to be lost, and
    /// before the decision.
    entered: usize,
    changed: usize,
    placed: usize,
    /// How many of `pending` are those of frames below.
    pending: usize,
}

/// A valley's best section to decide in.
#[derive(Clone, Copy)]
struct Pick {
    section: usize,
    height: u64,
    lost: u64,
    key: f64,
}

/// What is known of the sections at one height that begin somewhere. Every section belongs to
/// at most one of these that holds; it no longer does when one of its sections changes. Few do
/// from one node to the next.
#[derive(Clone, Copy)]
struct Level {
    holds: bool,
    end: usize,
    /// The lower of the heights beside it when it was surveyed as a valley, or 0; and the pick.
    rim: u64,
    pick: Pick,
}

/// How the sections `first..end`, which were alike, were before.
struct Change {
    first: u32,
    end: u32,
    passed: u32,
    floor: u64,
}

/// A search over one problem; its scratch memory and what it learned stay between runs.
pub(super) struct Search<'a> {
    problem: &'a Problem,
    capacity: u64,
    /// Per section: how high it is filled, how many of the fixed things there lie below that,
    /// bytes and number of items not placed yet.
    floor: Vec<u64>,
    passed: Vec<u32>,
    left: Vec<u64>,
    alive: Vec<u32>,
    /// Items not placed yet that live before the section and in it.
    crossing: Vec<u32>,
    /// Fixed things per section, by offset, as (offset, end), none touching the next.
    fixed: Vec<(u64, u64)>,
    fixed_from: Vec<u32>,
    /// Bytes of the fixed things of a section from each one on.
    fixed_bytes: Vec<u64>,
    /// Items by the section in which they begin.
    beginning: Vec<u32>,
    beginning_from: Vec<u32>,
    is_placed: Vec<bool>,
    offsets: Vec<u64>,
    changes: Vec<Change>,
    order: Vec<u32>,
    frames: Vec<Frame>,
    choices: Vec<u32>,
    pending: Vec<(usize, usize)>,
    priority: Vec<f64>,
    failures: Vec<f64>,
    /// Per section of a valley: cases, and bytes that can come next; differences first.
    cases: Vec<i64>,
    bytes: Vec<u64>,
    load: Vec<u64>,
    /// By the section in which they begin; and where the level of each section does.
    levels: Vec<Level>,
    level_of: Vec<u32>,
    random: u64,
    rounds: u64,
    /// Nodes of the next round, and those left of this one.
    limit: u64,
    nodes: u64,
    /// Sections may end above the capacity, so that no branch ends early.
    lenient: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(problem: &'a Problem, seed: u64) -> Search<'a> {
        let (sections, items) = (problem.sections, problem.items.len());
        let mut beginning_from = vec![0u32; sections + 1];
        for item in &problem.items {
            beginning_from[item.first as usize + 1] += 1;
        }
        for section in 0..sections {
            beginning_from[section + 1] += beginning_from[section];
        }
        let mut beginning = vec![0; items];
        let mut next = beginning_from.clone();
        for (place, item) in problem.items.iter().enumerate() {
            let at = &mut next[item.first as usize];
            beginning[*at as usize] = place as u32;
            *at += 1;
        }
        let (fixed, fixed_from) = fixed_by_section(problem);
        let mut fixed_bytes = vec![0; fixed.len() + 1];
        for section in 0..sections {
            let mut sum = 0;
            for at in (fixed_from[section]..fixed_from[section + 1]).rev() {
                let (offset, end) = fixed[at as usize];
                sum += end - offset;
                fixed_bytes[at as usize] = sum;
            }
        }
        let mut search = Search {
            problem,
            capacity: 0,
            floor: vec![0; sections],
            passed: vec![0; sections],
            left: vec![0; sections],
            alive: vec![0; sections],
            crossing: vec![0; sections + 1],
            fixed,
            fixed_from,
            fixed_bytes,
            beginning,
            beginning_from,
            is_placed: vec![false; items],
            offsets: vec![0; items],
            changes: Vec::new(),
            order: Vec::new(),
            frames: Vec::new(),
            choices: Vec::new(),
            pending: Vec::new(),
            priority: vec![0.0; items],
            failures: vec![0.0; sections],
            cases: vec![0; sections + 1],
            bytes: vec![0; sections + 1],
            load: Vec::new(),
            levels: vec![
                Level {
                    holds: false,
                    end: 0,
                    rim: 0,
                    pick: Pick { section: 0, height: 0, lost: 0, key: 0.0 }
                };
                sections
            ],
            level_of: (0..sections as u32).collect(),
            // Any state but zero.
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            rounds: 0,
            limit: 0,
            nodes: 0,
            lenient: false,
        };
        search.reset();
        search.load = search.left.clone();
        search
    }

    /// Where each item is, after [`Outcome::Found`].
    pub(super) fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// Looks for a plan that ends at `capacity` or below, with at most `nodes` nodes, or one round.
    pub(super) fn run(&mut self, capacity: u64, nodes: u64, clock: &mut Clock<'_>) -> Outcome {
        self.capacity = capacity;
        let items = self.problem.items.len() as u64;
        // Plans are found soon after a good beginning, or not at all: many short rounds.
        let mut limit = self.limit.max(items + 500);
        let mut spent = 0;
        while spent < nodes && !clock.over() {
            self.reset();
            self.prioritise();
            // Now and then a long one, lest a proof never gets to its end.
            let long = if self.rounds % LONG == LONG - 1 { LONG / 2 } else { 1 };
            self.nodes = (limit * long).min((nodes - spent).max(items + 500));
            spent += self.nodes;
            self.rounds += 1;
            let outcome = self.descend(clock);
            if outcome != Outcome::GaveUp {
                return outcome;
            }
            if self.rounds.is_multiple_of(ORDERS.len() as u64) {
                limit += limit / 32;
            }
            self.failures.iter_mut().for_each(|failures| *failures *= 0.99);
        }
        self.limit = limit;
        Outcome::GaveUp
    }

    /// Fills all sections without ever going back, as if `capacity` were the aim and not the limit.
    /// Items come by size, times their sections to the power `width`. None when the time is over.
    pub(super) fn fill(
        &mut self,
        capacity: u64,
        width: f64,
        clock: &mut Clock<'_>,
    ) -> Option<&[u64]> {
        self.capacity = capacity;
        self.reset();
        for (priority, item) in self.priority.iter_mut().zip(&self.problem.items) {
            *priority = item.size as f64 * f64::from(item.end - item.first).powf(width);
        }
        (self.nodes, self.lenient) = (u64::MAX, true);
        let outcome = self.descend(clock);
        self.lenient = false;
        (outcome == Outcome::Found).then_some(&self.offsets)
    }

    /// Nothing is placed.
    fn reset(&mut self) {
        self.changes.clear();
        self.order.clear();
        self.frames.clear();
        self.choices.clear();
        self.pending.clear();
        self.levels.iter_mut().for_each(|level| level.holds = false);
        self.is_placed.fill(false);
        self.left.fill(0);
        self.alive.fill(0);
        self.crossing.fill(0);
        for item in &self.problem.items {
            for section in item.sections() {
                self.left[section] += item.size;
                self.alive[section] += 1;
            }
            for section in item.first as usize + 1..item.end as usize {
                self.crossing[section] += 1;
            }
        }
        for section in 0..self.problem.sections {
            self.passed[section] = self.fixed_from[section];
            self.floor[section] = if self.alive[section] == 0 { WALL } else { 0 };
            if self.alive[section] > 0 {
                self.pass_fixed(section);
            }
        }
    }

    /// Gives every item its priority in this round.
    fn prioritise(&mut self) {
        let order = ORDERS[(self.rounds % ORDERS.len() as u64) as usize];
        let shaken = self.rounds >= ORDERS.len() as u64;
        for place in 0..self.problem.items.len() {
            let item = self.problem.items[place];
            let (width, size) = (f64::from(item.end - item.first), item.size as f64);
            let small = size * 1e-9;
            let priority = match order {
                Order::Load => {
                    self.load[item.sections()].iter().map(|&load| load as f64).sum::<f64>() + small
                }
                Order::Width => width + small,
                Order::Size => size,
                Order::Area => width * size,
            };
            let shake = if shaken { (self.random() % 1024) as f64 * (0.3 / 1024.0) } else { 0.0 };
            self.priority[place] = priority * (1.0 + shake);
        }
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// The first fixed thing in `section` that is not below its floor.
    fn next_fixed(&self, section: usize) -> Option<(u64, u64)> {
        let at = self.passed[section];
        (at < self.fixed_from[section + 1]).then(|| self.fixed[at as usize])
    }

    /// What cannot be below the capacity any more says that this branch is wrong.
    fn fits(&self, section: usize, floor: u64, left: u64) -> bool {
        if self.lenient {
            return true;
        }
        let at = self.passed[section];
        let fixed = match at < self.fixed_from[section + 1] {
            true => self.fixed_bytes[at as usize],
            false => 0,
        };
        floor + left + fixed <= self.capacity
    }

    /// Lifts the floor of `section` over fixed things that begin there or below.
    fn pass_fixed(&mut self, section: usize) {
        while let Some((offset, end)) = self.next_fixed(section) {
            if offset > self.floor[section] {
                break;
            }
            self.floor[section] = self.floor[section].max(end);
            self.passed[section] += 1;
        }
    }

    /// Notes how the sections `first..end` are: all alike. Where nothing is undone, nobody asks.
    fn note(&mut self, first: usize, end: usize) {
        if self.lenient {
            return;
        }
        let (passed, floor) = (self.passed[first], self.floor[first]);
        self.changes.push(Change { first: first as u32, end: end as u32, passed, floor });
    }

    /// Sets the floor of a section that was noted.
    fn lift(&mut self, section: usize, floor: u64) {
        self.floor[section] = floor;
        self.levels[self.level_of[section] as usize].holds = false;
        if floor != WALL {
            self.pass_fixed(section);
        }
    }

    fn set_floor(&mut self, section: usize, floor: u64) {
        self.note(section, section + 1);
        self.lift(section, floor);
    }

    /// Puts an item at `height`; false when a section overflows by it.
    fn place(&mut self, place: u32, height: u64) -> bool {
        let item = self.problem.items[place as usize];
        let offset = item.aligned(height);
        self.offsets[place as usize] = offset;
        self.is_placed[place as usize] = true;
        self.order.push(place);
        for section in item.first as usize + 1..item.end as usize {
            self.crossing[section] -= 1;
        }
        // It lies within a valley, whose sections differ in nothing but the fixed things there. One
        // note for all of them: or memory would grow by sections times items.
        let alike = self.fixed.is_empty();
        if alike {
            self.note(item.first as usize, item.end as usize);
        }
        let mut fits = true;
        for section in item.sections() {
            if !alike {
                self.note(section, section + 1);
            }
            self.left[section] -= item.size;
            self.alive[section] -= 1;
            let last = self.alive[section] == 0;
            self.lift(section, if last { WALL } else { offset + item.size });
            fits &= match last {
                true => self.lenient || offset + item.size <= self.capacity,
                false => self.fits(section, self.floor[section], self.left[section]),
            };
        }
        fits
    }

    fn undo(&mut self, changes: usize, placed: usize) {
        while self.changes.len() > changes {
            let Some(change) = self.changes.pop() else { break };
            for section in change.first as usize..change.end as usize {
                self.levels[self.level_of[section] as usize].holds = false;
                self.floor[section] = change.floor;
                self.passed[section] = change.passed;
            }
        }
        while self.order.len() > placed {
            let Some(place) = self.order.pop() else { break };
            let item = self.problem.items[place as usize];
            self.is_placed[place as usize] = false;
            for section in item.sections() {
                self.left[section] += item.size;
                self.alive[section] += 1;
            }
            for section in item.first as usize + 1..item.end as usize {
                self.crossing[section] += 1;
            }
        }
    }

    /// Fills all sections, deciding until one way works or none does.
    fn descend(&mut self, clock: &mut Clock<'_>) -> Outcome {
        self.split(0, self.problem.sections);
        // The frame on top waits for the result of what it decided last; none: it has to decide.
        let mut result = None;
        loop {
            let own = self.frames.last().map_or(0, |frame| frame.pending);
            match result {
                None if self.frames.is_empty() && self.pending.is_empty() => {
                    return Outcome::Found;
                }
                None if self.frames.is_empty() => result = Some(true),
                None => {
                    if self.nodes == 0 || (self.nodes.is_multiple_of(64) && clock.over()) {
                        return Outcome::GaveUp;
                    }
                    self.nodes -= 1;
                    result = self.decide();
                }
                // Sides of a decision are solved one after the other.
                Some(true) if self.pending.len() > own => {
                    if let Some((first, end)) = self.pending.pop() {
                        result = self.enter(first, end);
                    }
                }
                Some(true) => {
                    let Some(frame) = self.frames.pop() else { return Outcome::Found };
                    self.choices.truncate(frame.choices);
                }
                // No other way to solve one side would help the other.
                Some(false) => {
                    if self.frames.is_empty() {
                        return Outcome::Impossible;
                    }
                    self.pending.truncate(own);
                    result = None;
                }
            }
        }
    }

    /// Begins to fill the sections `first..end`; says so if that is no work, or impossible.
    fn enter(&mut self, first: usize, end: usize) -> Option<bool> {
        let (entered, placed) = (self.changes.len(), self.order.len());
        let Some(pick) = self.survey(first, end) else {
            self.undo(entered, placed);
            return Some(false);
        };
        let Some(Pick { section, height, lost, .. }) = pick else { return Some(true) };
        let choices = self.choices.len();
        self.choose(section, height);
        self.frames.push(Frame {
            first,
            end,
            section,
            height,
            lost,
            choices,
            next: choices,
            choices_end: self.choices.len(),
            entered,
            changed: self.changes.len(),
            placed,
            pending: self.pending.len(),
        });
        None
    }

    /// Tries the next case of the frame on top.
    fn decide(&mut self) -> Option<bool> {
        let frame = self.frames.last_mut()?;
        let Frame { first, end, section, height, lost, changed, placed, .. } = *frame;
        let next = frame.next;
        frame.next += 1;
        let choices_end = frame.choices_end;
        self.undo(changed, placed);
        if next < choices_end {
            if self.place(self.choices[next], height) {
                self.split(first, end);
                return Some(true);
            }
            return None;
        }
        if next == choices_end {
            if self.fits(section, lost, self.left[section]) {
                self.set_floor(section, lost);
                if self.fits(section, self.floor[section], self.left[section]) {
                    self.pending.push((first, end));
                    return Some(true);
                }
            }
            return None;
        }
        let frame = self.frames.pop()?;
        self.undo(frame.entered, frame.placed);
        self.choices.truncate(frame.choices);
        Some(false)
    }

    /// Leaves the parts of `first..end` that have nothing in common to be filled one by one,
    /// the shortest first.
    fn split(&mut self, first: usize, end: usize) {
        let own = self.pending.len();
        let mut section = first;
        while section < end {
            if self.alive[section] == 0 {
                section += 1;
                continue;
            }
            let begin = section;
            section += 1;
            while section < end && self.crossing[section] > 0 {
                section += 1;
            }
            self.pending.push((begin, section));
        }
        if self.pending.len() > own + 1 {
            self.pending[own..].sort_by_key(|&(first, end)| std::cmp::Reverse(end - first));
        }
    }

    /// The items that can come next in `section`, by priority.
    fn choose(&mut self, section: usize, height: u64) {
        let begin = self.level_of[section] as usize;
        let end = self.levels[begin].end;
        let own = self.choices.len();
        for at in self.beginning_from[begin]..self.beginning_from[section + 1] {
            let place = self.beginning[at as usize];
            let item = &self.problem.items[place as usize];
            if item.end as usize > section && self.can_come(place, end, height) {
                self.choices.push(place);
            }
        }
        let priority = &self.priority;
        self.choices[own..].sort_by(|&a, &b| {
            priority[b as usize].total_cmp(&priority[a as usize]).then(a.cmp(&b))
        });
        // One of several that are alike is enough.
        let mut kept = own;
        for at in own..self.choices.len() {
            let place = self.choices[at];
            let item = &self.problem.items[place as usize];
            let alike = |&other: &u32| self.problem.items[other as usize] == *item;
            if !self.choices[own..kept].iter().any(alike) {
                self.choices[kept] = place;
                kept += 1;
            }
        }
        self.choices.truncate(kept);
    }

    /// Whether an item that begins in a valley that ends at `end` can lie at its `height`.
    fn can_come(&self, place: u32, end: usize, height: u64) -> bool {
        let item = &self.problem.items[place as usize];
        if self.is_placed[place as usize] || item.end as usize > end {
            return false;
        }
        if self.fixed.is_empty() {
            return true;
        }
        let top = item.aligned(height) + item.size;
        item.sections()
            .all(|section| self.next_fixed(section).is_none_or(|(offset, _)| offset >= top))
    }

    /// Looks at all valleys of `first..end`: lifts sections in which nothing can come next, and
    /// picks the one to decide in. None when a section overflows; no pick when all is placed.
    #[allow(clippy::option_option)] // None is the overflow, as `?` has it.
    fn survey(&mut self, first: usize, end: usize) -> Option<Option<Pick>> {
        loop {
            let mut best: Option<Pick> = None;
            let (mut lifted, mut begin) = (false, first);
            while begin < end {
                let height = self.floor[begin];
                let behind = self.level(begin, end);
                let left = if begin > first { self.floor[begin - 1] } else { WALL };
                let right = if behind < end { self.floor[behind] } else { WALL };
                let rim = left.min(right);
                // Beside a section just lifted, the rim may be at this height: the next pass
                // sees the valley whole.
                if height < WALL && height < rim {
                    let level = self.levels[begin];
                    let pick = if level.rim == rim {
                        Some(level.pick)
                    } else {
                        self.survey_valley(begin, behind, rim)?
                    };
                    match pick {
                        Some(pick) if best.as_ref().is_none_or(|best| pick.key < best.key) => {
                            best = Some(pick);
                        }
                        Some(_) => {}
                        None => lifted = true,
                    }
                }
                begin = behind;
            }
            if !lifted {
                return Some(best);
            }
        }
    }

    /// Where the sections at the height of `begin` end, `end` at the latest.
    fn level(&mut self, begin: usize, end: usize) -> usize {
        let (height, known) = (self.floor[begin], self.levels[begin]);
        if known.holds && (known.end == end || known.end < end && self.floor[known.end] != height) {
            return known.end;
        }
        let mut behind = begin;
        while behind < end && self.floor[behind] == height {
            let old = std::mem::replace(&mut self.level_of[behind], begin as u32);
            self.levels[old as usize].holds = false;
            behind += 1;
        }
        self.levels[begin] = Level { holds: true, end: behind, rim: 0, ..known };
        behind
    }

    /// One valley: where to decide in it; no pick when a section of it was lifted, and none at
    /// all when one overflows.
    #[allow(clippy::option_option)] // As above.
    fn survey_valley(&mut self, begin: usize, end: usize, rim: u64) -> Option<Option<Pick>> {
        let height = self.floor[begin];
        self.cases[begin..=end].fill(0);
        self.bytes[begin..=end].fill(0);
        // The lowest place above the floor at which anything can begin: on an item of the
        // valley, on something fixed in it, or on its rim.
        let mut lost = rim;
        for at in self.beginning_from[begin]..self.beginning_from[end] {
            let place = self.beginning[at as usize];
            let item = &self.problem.items[place as usize];
            if self.is_placed[place as usize] || item.end as usize > end {
                continue;
            }
            let (first, item_end, size) = (item.first as usize, item.end as usize, item.size);
            lost = lost.min(height + size);
            // Wherever it comes, it does below what lies on the rim.
            self.bytes[first] = self.bytes[first].wrapping_add(size);
            self.bytes[item_end] = self.bytes[item_end].wrapping_sub(size);
            if self.can_come(place, end, height) {
                self.cases[first] += 1;
                self.cases[item_end] -= 1;
            }
        }
        if !self.fixed.is_empty() {
            let ends = (begin..end).filter_map(|section| self.next_fixed(section));
            lost = ends.map(|(_, end)| end).min().map_or(lost, |end| lost.min(end));
        }
        let (mut cases, mut bytes, mut lifted) = (0, 0u64, false);
        let mut best: Option<Pick> = None;
        for section in begin..end {
            cases += self.cases[section];
            bytes = bytes.wrapping_add(self.bytes[section]);
            let left = self.left[section];
            if cases == 0 {
                // Where no item of the valley is left, what comes lies on the rim at least.
                let lost = if bytes == 0 { rim } else { lost };
                self.set_floor(section, lost);
                if lost >= WALL || !self.fits(section, self.floor[section], left) {
                    self.failures[section] += 1.0;
                    return None;
                }
                lifted = true;
                continue;
            }
            // What does not lie within the valley begins on its rim or above.
            let from = if rim < WALL && height + bytes < rim { rim - bytes } else { height };
            let over = from + left > self.capacity && !self.lenient;
            if over || !self.fits(section, height, left) {
                self.failures[section] += 1.0;
                return None;
            }
            let skippable = u8::from(self.fits(section, lost, left));
            let slack = self.capacity.saturating_sub(from + left);
            // One case is no decision: it comes first wherever it is.
            let ways = cases as f64 + f64::from(skippable) - 0.9;
            let failures = if self.lenient { 0.0 } else { self.failures[section] };
            let key = (ways + 0.1 * slack as f64 / self.capacity as f64) / (1.0 + 0.5 * failures);
            if best.as_ref().is_none_or(|best| key < best.key) {
                best = Some(Pick { section, height, lost, key });
            }
        }
        let pick = best.filter(|_| !lifted);
        if let Some(pick) = pick {
            self.levels[begin] = Level { holds: true, end, rim, pick };
        }
        Some(pick)
    }
}

/// Fixed things by section, those that touch or overlap as one; and where each section's begin.
fn fixed_by_section(problem: &Problem) -> (Vec<(u64, u64)>, Vec<u32>) {
    let mut from = vec![0u32; problem.sections + 1];
    if problem.fixed.is_empty() {
        return (Vec::new(), from);
    }
    let mut by_section: Vec<Vec<(u64, u64)>> = vec![Vec::new(); problem.sections];
    for fixed in &problem.fixed {
        for here in &mut by_section[fixed.first as usize..fixed.end as usize] {
            here.push((fixed.offset, fixed.offset + fixed.size));
        }
    }
    let mut all: Vec<(u64, u64)> = Vec::new();
    for (section, mut here) in by_section.into_iter().enumerate() {
        here.sort_unstable();
        let own = all.len();
        for (offset, end) in here {
            match all[own..].last_mut() {
                Some(last) if offset <= last.1 => last.1 = last.1.max(end),
                _ => all.push((offset, end)),
            }
        }
        from[section + 1] = all.len() as u32;
    }
    (all, from)
}
