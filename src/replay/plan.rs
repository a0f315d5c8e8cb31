//! A trace made ready for replay.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use crate::trace::{Action, Checker, Faults, Meaning, Trace};

/// A trace made ready for replay: what is looked up by name there is an index here.
#[derive(Debug)]
pub struct Plan {
    pub(super) steps: Vec<Step>,
    /// The line of each step, apart from the steps: only messages need it.
    pub(super) lines: Vec<u64>,
    /// The steps in runs of one thread each.
    pub(super) runs: Vec<Run>,
    /// How many distinct threads the runs have.
    pub(super) threads: usize,
    /// Every slot of the steps is below this number.
    pub(super) slots: usize,
    pub(super) events: u64,
    pub(super) recorded_failures: u64,
    pub(super) peak_requested: u64,
    pub(super) faults: Faults,
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Allocate { slot: usize, size: usize, stream: usize },
    Free { slot: usize, stream: usize },
}

/// Steps of one thread that follow each other in the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// A dense number, in order of appearance.
    pub(super) thread: usize,
    pub(super) steps: Range<usize>,
}

// Sizes of a trace have 64 bits.
const _: () = assert!(usize::BITS >= u64::BITS);

impl Plan {
    /// The most threads that a replay with threads starts.
    pub const MAX_THREADS: usize = 1024;

    /// Checks `trace` and makes it ready. `streams` is called once for each stream number,
    /// in order of appearance, and returns the target's handle for it.
    pub fn new(trace: &Trace, streams: impl FnMut(u64) -> usize) -> Plan {
        let mut checker = Checker::new();
        let mut streams = Streams { known: HashMap::new(), map: streams };
        let mut threads = HashMap::new();
        let mut runs: Vec<Run> = Vec::new();
        let mut steps = Vec::with_capacity(trace.events.len());
        let mut lines = Vec::with_capacity(trace.events.len());
        let mut recorded_failures = 0;
        for (index, event) in trace.events.iter().enumerate() {
            let line = Trace::line_of(index);
            let step = match checker.check(line, event) {
                Meaning::Allocate { slot } => {
                    let stream = streams.handle(event.stream);
                    Step::Allocate { slot, size: event.size as usize, stream }
                }
                Meaning::Free { slot } => Step::Free { slot, stream: streams.handle(event.stream) },
                Meaning::Nothing => {
                    recorded_failures += u64::from(event.action == Action::AllocateFailure);
                    continue;
                }
            };
            let next = threads.len();
            let thread = *threads.entry(event.thread).or_insert(next);
            match runs.last_mut() {
                Some(run) if run.thread == thread => run.steps.end += 1,
                _ => runs.push(Run { thread, steps: steps.len()..steps.len() + 1 }),
            }
            steps.push(step);
            lines.push(line);
        }
        Plan {
            steps,
            lines,
            runs,
            threads: threads.len(),
            slots: checker.slots(),
            events: trace.events.len() as u64,
            recorded_failures,
            peak_requested: checker.peak_requested(),
            faults: checker.faults().clone(),
        }
    }

    /// The rows of the trace that make no sense.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

/// The caller's map of streams, asked once for each.
struct Streams<F> {
    known: HashMap<u64, usize>,
    map: F,
}

impl<F: FnMut(u64) -> usize> Streams<F> {
    fn handle(&mut self, stream: u64) -> usize {
        match self.known.entry(stream) {
            Entry::Occupied(handle) => *handle.get(),
            Entry::Vacant(place) => *place.insert((self.map)(stream)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Event;

    fn event(thread: u64, action: Action, pointer: u64, size: u64, stream: u64) -> Event {
        Event { thread, time: 0, action, pointer, size, stream }
    }

    fn trace(events: Vec<Event>) -> Trace {
        Trace { path: "t.csv".into(), events }
    }

    use Action::{Allocate, AllocateFailure, Free};

    #[test]
    fn names_become_indices() {
        let trace = trace(vec![
            event(70, Allocate, 0xa, 1, 9),
            event(70, AllocateFailure, 0, 5, 9),
            event(70, Allocate, 0xb, 2, 8),
            event(80, Free, 0xa, 1, 8),
            event(80, Free, 0xdead, 1, 7),
            event(70, Allocate, 0xc, 3, 9),
        ]);
        let mut asked = Vec::new();
        let plan = Plan::new(&trace, |stream| {
            asked.push(stream);
            stream as usize * 100
        });
        assert_eq!(
            plan.steps,
            [
                Step::Allocate { slot: 0, size: 1, stream: 900 },
                Step::Allocate { slot: 1, size: 2, stream: 800 },
                Step::Free { slot: 0, stream: 800 },
                Step::Allocate { slot: 0, size: 3, stream: 900 },
            ]
        );
        assert_eq!(plan.lines, [2, 4, 5, 7]);
        let runs = [(0, 0..2), (1, 2..3), (0, 3..4)];
        assert_eq!(plan.runs, runs.map(|(thread, steps)| Run { thread, steps }));
        assert_eq!((plan.threads, plan.slots, plan.peak_requested), (2, 2, 5));
        assert_eq!((plan.events, plan.recorded_failures), (6, 1));
        assert_eq!((plan.faults().total, plan.faults().first[0].line), (1, 6));
        // The stream of the row that makes no sense is never needed.
        assert_eq!(asked, [9, 8]);
    }

    #[test]
    fn an_empty_trace_has_nothing_to_do() {
        let plan = Plan::new(&trace(vec![]), |_| unreachable!("there is no stream"));
        assert_eq!((plan.steps.len(), plan.runs.len(), plan.events), (0, 0, 0));
    }
}
