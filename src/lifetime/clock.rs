//! How long a plan may take, and who is told of it.

use std::time::{Duration, Instant};

/// What the planner is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Orders that place one tensor after the other.
    Greedy,
    /// The exact search, at one height after the other.
    Search,
}

/// How far the planner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// Arena bytes of the best plan so far.
    pub arena_bytes: u64,
    /// The peak of live bytes.
    pub lower_bound: u64,
    /// Since it began.
    pub elapsed: Duration,
}

/// Asked now and then; false ends the planning with the best so far.
pub type Watch<'a> = dyn FnMut(&Progress) -> bool + 'a;

/// Calls of the watch are at least this far apart.
const REPORT_EVERY: Duration = Duration::from_millis(50);

/// The time a plan may take.
pub(super) struct Clock<'a> {
    begun: Instant,
    limit: Duration,
    watch: Option<&'a mut Watch<'a>>,
    reported: Duration,
    stopped: bool,
    /// What the watch is told.
    pub(super) stage: Stage,
    pub(super) arena_bytes: u64,
    pub(super) lower_bound: u64,
}

impl<'a> Clock<'a> {
    pub(super) fn start(limit: Duration, watch: Option<&'a mut Watch<'a>>) -> Clock<'a> {
        Clock {
            begun: Instant::now(),
            limit,
            watch,
            reported: Duration::ZERO,
            stopped: false,
            stage: Stage::Greedy,
            arena_bytes: 0,
            lower_bound: 0,
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// True from the moment the time is over, or the watch has had enough.
    pub(super) fn over(&mut self) -> bool {
        if self.stopped {
            return true;
        }
        let elapsed = self.elapsed();
        if elapsed >= self.limit {
            self.stopped = true;
        } else if elapsed - self.reported >= REPORT_EVERY {
            self.reported = elapsed;
            let progress = self.progress();
            if let Some(watch) = &mut self.watch {
                self.stopped = !watch(&progress);
            }
        }
        self.stopped
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            stage: self.stage,
            arena_bytes: self.arena_bytes,
            lower_bound: self.lower_bound,
            elapsed: self.elapsed(),
        }
    }
}
