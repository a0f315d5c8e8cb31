//! Readings: what is read when, and what is remembered between two of them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bound::{Bound, Source};
use super::files::Files;
use super::group::Group;
use super::info::Info;
use super::meminfo::Machine;
use super::process::Process;
use super::rlimit::Limits;
use crate::sync::Mutex;

/// How long limits of control groups are believed: they are rarely changed, and are most of the
/// files that a reading takes.
const LIMITS_HOLD: Duration = Duration::from_secs(5);

/// How long "there is enough" holds, for all pools that ask.
const CALM_HOLDS: Duration = Duration::from_millis(500);

/// How long having been slowed down counts: the time that the kernel's own short average spans.
const SLOWED_HOLDS: Duration = Duration::from_secs(10);

/// Reads the kernel's files, of this system or made-up ones.
#[derive(Debug)]
pub struct Monitor {
    files: Files,
    /// Held for a moment, never while a file is read. Only ever tried: a forked child may find it
    /// held by nobody, and does without what is remembered.
    last: Mutex<Last>,
}

/// What is remembered of the last readings.
#[derive(Debug)]
struct Last {
    known: Option<Arc<Known>>,
    calm_until: Option<Instant>,
    /// How often groups had slowed somebody down at the last reading.
    slowed: Option<u64>,
    /// When that was last seen to grow.
    slowed_at: Option<Instant>,
}

/// The groups around this process, with their limits.
#[derive(Debug)]
struct Known {
    /// `/proc/self/cgroup`, by which a process that was moved to another group is known.
    own: Vec<u8>,
    groups: Vec<Group>,
    read_at: Instant,
}

static SYSTEM: Monitor = Monitor::of(Files::of_system());

/// That of this system.
pub fn system() -> &'static Monitor {
    &SYSTEM
}

impl Monitor {
    const fn of(files: Files) -> Monitor {
        let last = Last { known: None, calm_until: None, slowed: None, slowed_at: None };
        Monitor { files, last: Mutex::new(last) }
    }

    /// Reads a copy of the kernel's files under `root`: for tests.
    pub fn under(root: &Path) -> Monitor {
        Monitor::of(Files::under(root))
    }

    /// Files read so far.
    pub fn reads(&self) -> u64 {
        self.files.reads()
    }

    /// Whether little is left, less than a sixteenth, of the machine's memory or of what a control
    /// group allows; false where the kernel does not say. Pools ask this every second: it reads
    /// two files and two or three for each group with a limit, at most once in half a second as
    /// long as there is enough. Limits of the process itself do not count: giving pages back
    /// leaves addresses mapped.
    pub fn is_short(&self, now: Instant) -> bool {
        let calm_until = self.last.try_lock().and_then(|last| last.calm_until);
        if calm_until.is_some_and(|until| now < until) {
            return false;
        }
        let machine = Machine::read(&self.files);
        let short = machine.is_some_and(|machine| of_machine(&machine).is_short())
            || self.groups(now, LIMITS_HOLD).groups.iter().any(|group| {
                let read = || group.bounds(&group.usage(&self.files)).any(|bound| bound.is_short());
                group.is_limited() && read()
            });
        if let Some(mut last) = self.last.try_lock() {
            last.calm_until = (!short).then(|| now + CALM_HOLDS);
        }
        short
    }

    /// The most memory that this process could have: the machine's, or what the tightest group
    /// allows; none where the kernel does not say. Limits are no older than five seconds.
    pub fn total(&self, now: Instant) -> Option<u64> {
        let machine = Machine::read(&self.files);
        Info::total_of(machine.as_ref(), &self.groups(now, LIMITS_HOLD).groups)
    }

    /// Addresses that this process may still map, where a limit says so.
    pub fn address_space_left(&self) -> Option<u64> {
        let limit = Limits::read(&self.files).addresses?;
        Some(limit.saturating_sub(Process::read(&self.files).mapped))
    }

    /// Everything, as it is now; none where the kernel says nothing of any limit.
    pub fn info(&self, now: Instant) -> Option<Info> {
        let known = self.groups(now, Duration::ZERO);
        let slowed = known.groups.iter().map(|group| group.slowed(&self.files));
        let slowed = slowed.fold(0, u64::saturating_add);
        let is_slowed = self.is_slowed(slowed, now);
        Info::read(&self.files, &known.groups, is_slowed)
    }

    /// The groups around this process, with limits that are no older than `age`.
    fn groups(&self, now: Instant, age: Duration) -> Arc<Known> {
        let own = self.files.bytes("/proc/self/cgroup").unwrap_or_default();
        let known = self.last.try_lock().and_then(|last| last.known.clone());
        let known = known.filter(|known| known.own == own);
        let mut groups = match &known {
            Some(known) if now.saturating_duration_since(known.read_at) < age => {
                return Arc::clone(known);
            }
            Some(known) => known.groups.clone(),
            None => Group::around(&own, &self.files),
        };
        groups.iter_mut().for_each(|group| group.read_limits(&self.files));
        let moved = known.is_none();
        let known = Arc::new(Known { own, groups, read_at: now });
        if let Some(mut last) = self.last.try_lock() {
            last.known = Some(Arc::clone(&known));
            if moved {
                // Another group's count does not go on from this one's.
                (last.slowed, last.slowed_at) = (None, None);
            }
        }
        known
    }

    /// Whether groups slowed somebody down since a reading not long ago; `count` is how often
    /// they ever did.
    fn is_slowed(&self, count: u64, now: Instant) -> bool {
        let Some(mut last) = self.last.try_lock() else { return false };
        if last.slowed.is_some_and(|before| count > before) {
            last.slowed_at = Some(now);
        }
        last.slowed = Some(count);
        last.slowed_at.is_some_and(|at| now.saturating_duration_since(at) < SLOWED_HOLDS)
    }
}

/// The machine as a bound.
pub(super) fn of_machine(machine: &Machine) -> Bound {
    Bound { source: Source::Machine, limit: machine.total, left: machine.available }
}
