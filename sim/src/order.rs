//! Which operations are in order, and which accesses are not.
//!
//! Every stream and the host has a *slot*: a row of operations, numbered by *ticks*. A vector
//! clock says, for each slot, up to which tick its operations happen before. An access
//! happens after an earlier one if its clock has reached the tick of that one. Clocks join
//! where the driver's documentation gives an order and nowhere else.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

/// An operation: its slot, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    pub slot: u32,
    /// From 1; 0 is no operation.
    pub tick: u32,
}

impl Epoch {
    pub const NONE: Epoch = Epoch { slot: 0, tick: 0 };
}

/// For each slot, the tick up to which its operations happen before.
#[derive(Clone, Debug, Default)]
pub struct Clock(Vec<u32>);

impl Clock {
    pub fn at(&self, slot: u32) -> u32 {
        self.0.get(slot as usize).copied().unwrap_or(0)
    }

    pub fn set(&mut self, at: Epoch) {
        let slot = at.slot as usize;
        if self.0.len() <= slot {
            self.0.resize(slot + 1, 0);
        }
        self.0[slot] = at.tick;
    }

    pub fn join(&mut self, other: &Clock) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// Whether the operation happens before.
    pub fn covers(&self, at: Epoch) -> bool {
        self.at(at.slot) >= at.tick
    }

    /// The first operation of `self` that does not happen before `other`.
    fn beyond(&self, other: &Clock) -> Option<Epoch> {
        (0u32..)
            .zip(&self.0)
            .map(|(slot, &tick)| Epoch { slot, tick })
            .find(|&at| !other.covers(at))
    }
}

/// What an operation is, for reports.
#[derive(Clone, Debug)]
pub enum What {
    /// A kernel, by name.
    Kernel(Arc<str>),
    /// A copy.
    Copy { to: u64, from: u64, bytes: u64 },
    /// A set.
    Set { to: u64, bytes: u64 },
    /// A record of an event.
    Record(u64),
    /// A wait for an event.
    Wait(u64),
    /// A function of the host.
    Host,
    /// A run of a graph begins.
    Begin(u64),
    /// And ends.
    End(u64),
    /// A branch of a graph waits for another.
    Branch(u64),
    /// A call of the host on a range.
    Call(&'static str, u64, u64),
}

impl fmt::Display for What {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Kernel(name) => write!(out, "kernel {name}"),
            What::Copy { to, from, bytes } => write!(out, "copy {from:#x} to {to:#x} +{bytes:#x}"),
            What::Set { to, bytes } => write!(out, "set {to:#x} +{bytes:#x}"),
            What::Record(event) => write!(out, "record of event {event:#x}"),
            What::Wait(event) => write!(out, "wait for event {event:#x}"),
            What::Host => write!(out, "function of the host"),
            What::Begin(graph) => write!(out, "graph {graph:#x} begins"),
            What::End(graph) => write!(out, "graph {graph:#x} ends"),
            What::Branch(graph) => write!(out, "wait within graph {graph:#x}"),
            What::Call(name, at, 0) => write!(out, "{name} {at:#x}"),
            What::Call(name, at, bytes) => write!(out, "{name} {at:#x} +{bytes:#x}"),
        }
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Two accesses to the same bytes, one of them a write, that no order separates.
    Race,
    /// Memory unmapped or freed while work that uses it may not be done.
    Retired,
    /// Work was given addresses that are not mapped, or not for its device.
    Unmapped,
    /// A call waited for work that nothing let go on.
    Stuck,
}

/// Something that goes wrong on a device, on some day.
#[derive(Clone, Debug)]
pub struct Hazard {
    /// What was found.
    pub kind: Kind,
    /// First byte.
    pub address: u64,
    /// Bytes.
    pub bytes: u64,
    /// The earlier operation, empty where there is none.
    pub earlier: String,
    /// The later one.
    pub later: String,
    /// Operations of the earlier one's stream up to it, oldest first.
    pub earlier_chain: Vec<String>,
    /// Operations of the later one's stream up to it, oldest first.
    pub later_chain: Vec<String>,
}

impl fmt::Display for Hazard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::Race => "no order between two accesses",
            Kind::Retired => "memory retired while work may use it",
            Kind::Unmapped => "use of memory that is not mapped",
            Kind::Stuck => "a call waited for work that nothing lets go on",
        };
        write!(out, "{what}: {:#x} +{:#x}", self.address, self.bytes)?;
        for (name, operation, chain) in [
            ("earlier", &self.earlier, &self.earlier_chain),
            ("later", &self.later, &self.later_chain),
        ] {
            if operation.is_empty() {
                continue;
            }
            write!(out, "\n  {name}: {operation}")?;
            for before in chain {
                write!(out, "\n    {before}")?;
            }
        }
        Ok(())
    }
}

struct Slot {
    name: String,
    tick: u32,
    clock: Clock,
    /// The last operations; the newest has number `tick`.
    history: VecDeque<What>,
}

/// Hazards that are kept; more say nothing new.
const KEPT: usize = 64;
/// Operations of a chain in a report.
const CHAIN: usize = 8;
/// Operations of a stream that is gone, for reports.
const REMEMBERED: usize = 32;

/// All slots, and what was found.
pub struct Order {
    slots: Vec<Slot>,
    /// Slots of streams that are gone.
    retired: Vec<u32>,
    history: usize,
    pub checks: bool,
    pub found: Vec<Hazard>,
}

impl Order {
    pub fn new(history: usize, checks: bool) -> Order {
        let (slots, retired, found) = (Vec::new(), Vec::new(), Vec::new());
        let mut order = Order { slots, retired, history, checks, found };
        order.slot("host".into(), None);
        order
    }

    /// A slot for a new stream or thread that `by` made. It takes one of a stream that is
    /// gone if all of that happens before: then no order is invented.
    pub fn slot(&mut self, name: String, by: Option<u32>) -> u32 {
        if let Some(by) = by {
            let clock = &self.slots[by as usize].clock;
            let last = |slot: u32| Epoch { slot, tick: self.slots[slot as usize].tick };
            if let Some(at) = self.retired.iter().position(|&slot| clock.covers(last(slot))) {
                let slot = self.retired.swap_remove(at);
                self.slots[slot as usize].name = name;
                self.slots[slot as usize].history.clear();
                return slot;
            }
        }
        let slot = self.slots.len() as u32;
        let (tick, clock, history) = (0, Clock::default(), VecDeque::new());
        self.slots.push(Slot { name, tick, clock, history });
        slot
    }

    /// The stream of the slot is gone, with all that it had to do: nobody asks for its clock,
    /// and only its last operations stay for reports.
    pub fn retire(&mut self, slot: u32) {
        let row = &mut self.slots[slot as usize];
        row.clock = Clock::default();
        let long_ago = row.history.len().saturating_sub(REMEMBERED);
        row.history.drain(..long_ago);
        row.history.shrink_to_fit();
        self.retired.push(slot);
    }

    pub fn clock(&self, slot: u32) -> &Clock {
        &self.slots[slot as usize].clock
    }

    /// All that happens before `other` happens before what comes in `slot`.
    pub fn join(&mut self, slot: u32, other: &Clock) {
        self.slots[slot as usize].clock.join(other);
    }

    /// The same, of another slot's present.
    pub fn join_slot(&mut self, slot: u32, other: u32) {
        if slot != other {
            let theirs = std::mem::take(&mut self.slots[other as usize].clock);
            self.slots[slot as usize].clock.join(&theirs);
            self.slots[other as usize].clock = theirs;
        }
    }

    /// The next operation of a slot.
    pub fn step(&mut self, slot: u32, what: What) -> Epoch {
        let limit = self.history;
        let row = &mut self.slots[slot as usize];
        row.tick += 1;
        let at = Epoch { slot, tick: row.tick };
        row.clock.set(at);
        if row.history.len() >= limit {
            row.history.pop_front();
        }
        row.history.push_back(what);
        at
    }

    /// An operation and those before it in its slot, in words.
    fn chain(&self, at: Epoch) -> (String, Vec<String>) {
        if at == Epoch::NONE {
            return (String::new(), Vec::new());
        }
        let row = &self.slots[at.slot as usize];
        let oldest = row.tick + 1 - row.history.len() as u32;
        let word = |tick: u32| match tick.checked_sub(oldest) {
            Some(index) => match row.history.get(index as usize) {
                Some(what) => format!("{what} (number {tick} on {})", row.name),
                None => format!("number {tick} on {}", row.name),
            },
            None => format!("number {tick} on {}, long ago", row.name),
        };
        let first = at.tick.saturating_sub(CHAIN as u32).max(oldest).max(1);
        (word(at.tick), (first..at.tick).map(word).collect())
    }

    pub fn report(
        &mut self,
        kind: Kind,
        (address, bytes): (u64, u64),
        earlier: Epoch,
        later: Epoch,
    ) {
        if self.found.len() >= KEPT {
            return;
        }
        let (earlier, earlier_chain) = self.chain(earlier);
        let (later, later_chain) = self.chain(later);
        let hazard = Hazard { kind, address, bytes, earlier, later, earlier_chain, later_chain };
        self.found.push(hazard);
    }

    /// Work that used a mapping must happen before the host retires it.
    pub fn retire_uses(&mut self, uses: &Clock, range: (u64, u64), by: Epoch) {
        if let Some(earlier) = uses.beyond(self.clock(by.slot)) {
            self.report(Kind::Retired, range, earlier, by);
        }
    }
}

struct Segment {
    end: u64,
    write: Epoch,
    /// Reads since the write, none of which happens before another.
    reads: Vec<Epoch>,
}

/// The last accesses to the bytes of one piece of memory.
#[derive(Default)]
pub struct Accesses {
    rows: BTreeMap<u64, Segment>,
    /// Rows at which old ones are forgotten.
    limit: usize,
}

/// Rows that are kept without a look at their age.
const ROWS: usize = 1024;

impl Accesses {
    /// Notes an access to `[from, to)` and tells `conflict` of each earlier one that is not in
    /// order with it.
    pub fn access(
        &mut self,
        (from, to): (u64, u64),
        write: bool,
        at: Epoch,
        clock: &Clock,
        mut conflict: impl FnMut(Epoch, (u64, u64)),
    ) {
        if from >= to {
            return;
        }
        // Most accesses are to the range of an earlier one.
        if self.rows.get(&from).is_none_or(|segment| segment.end != to) {
            self.split(from);
            self.split(to);
        }
        if write {
            let mut whole = false;
            for (&start, segment) in self.rows.range_mut(from..to) {
                let range = (start, segment.end);
                if !clock.covers(segment.write) {
                    conflict(segment.write, range);
                }
                for &read in segment.reads.iter().filter(|&&read| !clock.covers(read)) {
                    conflict(read, range);
                }
                whole = range == (from, to);
                segment.write = at;
                segment.reads.clear();
            }
            if !whole {
                let inner: Vec<u64> = self.rows.range(from..to).map(|(&start, _)| start).collect();
                for start in inner {
                    self.rows.remove(&start);
                }
                self.rows.insert(from, Segment { end: to, write: at, reads: Vec::new() });
            }
            return;
        }
        let mut gaps = Vec::new();
        let mut reached = from;
        for (&start, segment) in self.rows.range_mut(from..to) {
            if start > reached {
                gaps.push((reached, start));
            }
            reached = segment.end;
            if !clock.covers(segment.write) {
                conflict(segment.write, (start, segment.end));
            }
            segment.reads.retain(|&read| !clock.covers(read));
            segment.reads.push(at);
        }
        if reached < to {
            gaps.push((reached, to));
        }
        for (start, end) in gaps {
            self.rows.insert(start, Segment { end, write: Epoch::NONE, reads: vec![at] });
        }
    }

    /// Forgets accesses that happen before `known`, and so before all that is still to come, if
    /// there are many.
    pub fn forget(&mut self, known: &Clock) {
        if self.rows.len() >= self.limit.max(ROWS) {
            self.sweep(known);
            // Half of the rows are new when it is looked again: a look costs little each.
            self.limit = 2 * self.rows.len();
        }
    }

    fn sweep(&mut self, known: &Clock) {
        self.rows.retain(|_, segment| {
            segment.reads.retain(|&read| !known.covers(read));
            !segment.reads.is_empty() || !known.covers(segment.write)
        });
    }

    /// Makes `point` a border.
    fn split(&mut self, point: u64) {
        let Some((_, segment)) = self.rows.range_mut(..point).next_back() else { return };
        if segment.end > point {
            let end = std::mem::replace(&mut segment.end, point);
            let (write, reads) = (segment.write, segment.reads.clone());
            self.rows.insert(point, Segment { end, write, reads });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HOST;

    /// Byte by byte, beside the segments.
    #[derive(Clone, Default)]
    struct Byte {
        write: Option<Epoch>,
        reads: Vec<Epoch>,
    }

    #[test]
    fn segments_are_as_a_model_of_bytes() {
        let mut seed = 7u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        let mut order = Order::new(16, true);
        let slots: Vec<u32> = (0..4).map(|n| order.slot(format!("s{n}"), None)).collect();
        let mut accesses = Accesses::default();
        let mut model = vec![Byte::default(); 64];
        let (mut conflicts, mut forgotten) = (0, 0);
        for _ in 0..20_000 {
            let slot = slots[random(4) as usize];
            if random(3) == 0 {
                order.join_slot(slot, slots[random(4) as usize]);
            }
            // As streams do: what the host knows is before all that it queues.
            if random(8) == 0 {
                order.join_slot(HOST, slots[random(4) as usize]);
            }
            order.join_slot(slot, HOST);
            let rows = accesses.rows.len();
            accesses.sweep(order.clock(HOST));
            forgotten += rows - accesses.rows.len();
            let at = order.step(slot, What::Wait(0));
            let from = random(64);
            let to = (from + 1 + random(16)).min(64);
            let write = random(2) == 0;
            let clock = order.clock(slot).clone();
            let mut found = [false; 64];
            accesses.access((from, to), write, at, &clock, |_, (start, end)| {
                for byte in start..end {
                    found[byte as usize] = true;
                }
            });
            for byte in from..to {
                let state = &mut model[byte as usize];
                let mut bad = state.write.is_some_and(|earlier| !clock.covers(earlier));
                if write {
                    bad |= state.reads.iter().any(|&read| !clock.covers(read));
                    *state = Byte { write: Some(at), reads: Vec::new() };
                } else {
                    state.reads.push(at);
                }
                assert_eq!(found[byte as usize], bad, "byte {byte}");
                conflicts += u32::from(bad);
            }
            let mut last = 0;
            for (&start, segment) in &accesses.rows {
                assert!(last <= start && start < segment.end);
                last = segment.end;
            }
        }
        assert!(conflicts > 1000 && forgotten > 1000, "{conflicts} {forgotten}");
    }
}
