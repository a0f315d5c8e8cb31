//! Everything that is known of this process's memory at one time.

use super::bound::{Bound, Headroom, Source};
use super::files::{Files, field};
use super::group::{Events, Group, Usage};
use super::meminfo::Machine;
use super::pinned;
use super::pressure::Pressure;
use super::process::Process;
use super::reader::of_machine;
use super::rlimit::Limits;

/// How things stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is enough.
    Ok,
    /// Tasks wait for memory for more than a tenth of the time, or less than a tenth of some limit
    /// is left.
    Elevated,
    /// All tasks wait for more than a twentieth of the time, or less than 3 % of some limit is
    /// left, or a group slows down who allocates.
    Critical,
}

impl Level {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Elevated => "elevated",
            Level::Critical => "critical",
        }
    }

    fn of(bounds: &[Bound], pressure: Option<&Pressure>, is_slowed: bool) -> Level {
        let some = pressure.is_some_and(|pressure| pressure.some.avg10 > 10.0);
        let full = pressure.is_some_and(|pressure| pressure.full.avg10 > 5.0);
        let is_below = |percent| bounds.iter().any(|bound| bound.is_below(percent));
        if full || is_slowed || is_below(3) {
            Level::Critical
        } else if some || is_below(10) {
            Level::Elevated
        } else {
            Level::Ok
        }
    }
}

/// A reading. Sizes are bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// What is left in all, and which bound says so.
    pub headroom: Headroom,
    /// Every bound there is.
    pub bounds: Vec<Bound>,
    /// The most memory that this process could have: the machine's, or what the tightest group
    /// allows.
    pub total: u64,
    /// Swap space that is free and may be used.
    pub swap_available: u64,
    /// How things stand.
    pub level: Level,
    /// The machine; zeros where it does not say.
    pub machine: Machine,
    /// This process.
    pub process: Process,
    /// What forebay has pinned.
    pub pinned: u64,
    /// The groups around this process, from the inmost outwards; what is used is read for the
    /// inmost and for those with limits.
    pub groups: Vec<(Group, Option<Usage>)>,
    /// Time lost on the machine for want of memory.
    pub machine_pressure: Option<Pressure>,
    /// The same of the inmost group.
    pub group_pressure: Option<Pressure>,
    /// How often the inmost group that counts it ran into limits.
    pub events: Option<Events>,
    /// Processes killed for want of memory: in that group, or on the machine where there is none.
    pub oom_kills: u64,
}

impl Info {
    /// Reads everything; `groups` have their limits.
    pub(super) fn read(files: &Files, groups: &[Group], is_slowed: bool) -> Option<Info> {
        let machine = Machine::read(files);
        let process = Process::read(files);
        let usage = |(at, group): (usize, &Group)| {
            (at == 0 || group.is_limited()).then(|| group.usage(files))
        };
        let usages: Vec<Option<Usage>> = groups.iter().enumerate().map(usage).collect();
        let in_use = || groups.iter().zip(usages.iter().map(|usage| usage.unwrap_or_default()));

        let mut bounds: Vec<Bound> = machine.iter().map(of_machine).collect();
        bounds.extend(in_use().flat_map(|(group, usage)| group.bounds(&usage)));
        let total = Info::total_of(machine.as_ref(), groups).unwrap_or(0);
        let limits = Limits::read(files);
        let own = |source, limit: Option<u64>, used: u64| {
            limit.map(|limit| Bound { source, limit, left: limit.saturating_sub(used) })
        };
        bounds.extend(own(Source::AddressSpace, limits.addresses, process.mapped));
        bounds.extend(own(Source::Data, limits.data, process.data));
        let machine = machine.unwrap_or_default();
        // 2: more than there is is not promised.
        let keeps = files.number("/proc/sys/vm/overcommit_memory") == Some(2);
        let promised = (keeps && machine.commit_limit > 0).then_some(machine.commit_limit);
        bounds.extend(own(Source::Commit, promised, machine.committed));

        let swap = in_use().filter_map(|(group, usage)| group.swap_left(&usage, files));
        let swap_available = swap.fold(machine.swap_free, u64::min);
        let machine_pressure =
            files.text("/proc/pressure/memory").and_then(|text| Pressure::parse(&text));
        let inmost = |version| groups.iter().find(|group| group.version == version);
        let group_pressure = inmost(super::Version::Two).and_then(|group| group.pressure(files));
        let events = groups.iter().find_map(|group| group.events(files));
        let on_machine = || field(&files.text("/proc/vmstat")?, "oom_kill");
        let killed = events.map(|events| events.oom_kill).or_else(on_machine);
        let pressure = group_pressure.as_ref().or(machine_pressure.as_ref());
        Some(Info {
            headroom: Headroom::of(&bounds)?,
            total,
            swap_available,
            level: Level::of(&bounds, pressure, is_slowed),
            machine,
            process,
            pinned: pinned::bytes(),
            groups: groups.iter().cloned().zip(usages.iter().copied()).collect(),
            bounds,
            machine_pressure,
            group_pressure,
            events,
            oom_kills: killed.unwrap_or(0),
        })
    }

    /// The most memory that this process could have; none where nothing says so.
    pub(super) fn total_of(machine: Option<&Machine>, groups: &[Group]) -> Option<u64> {
        let of_machine = machine.map(|machine| machine.total);
        groups.iter().filter_map(Group::limit).chain(of_machine).min()
    }

    /// Time lost where this process is: in its group or, where that does not say, on the machine.
    pub fn pressure(&self) -> Option<&Pressure> {
        self.group_pressure.as_ref().or(self.machine_pressure.as_ref())
    }
}
