//! Control groups around this process: what each allows, and what of that is left.
//!
//! Version 2 says so in `memory.max`, which is where the kernel begins to kill, and in
//! `memory.high`, where it slows down whoever allocates (kernel documentation, cgroup-v2.rst);
//! version 1 in `memory.limit_in_bytes` and, with swap, `memory.memsw.limit_in_bytes`
//! (cgroup-v1/memory.rst). A group counts what all groups in it use, so each group on the way up
//! to the root can be the one that runs out. Machines with both versions have the memory
//! controller in one of them.
//!
//! What a group uses includes files that the kernel keeps because nobody needed the room yet.
//! Those are counted as left: all that were not used of late, half of the others, and what slabs
//! can give back. Shared memory and tmpfs look like files and are not: they stay.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::bound::{Bound, Source};
use super::files::{Files, field};
use super::mounts::Mount;
use super::pressure::Pressure;

/// The two ways in which the kernel tells of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    One,
    /// One for all.
    Two,
}

impl Version {
    /// Its number.
    pub fn number(self) -> u32 {
        match self {
            Version::One => 1,
            Version::Two => 2,
        }
    }
}

/// The limits that a group may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupLimit {
    /// Where the kernel begins to kill.
    Max,
    /// Where it slows down who allocates. Version 2 alone has it.
    High,
    /// Of memory and swap together. Version 1 alone has it.
    WithSwap,
}

impl GroupLimit {
    /// The file that has it.
    pub fn file(self, version: Version) -> &'static str {
        match (self, version) {
            (GroupLimit::Max, Version::One) => "memory.limit_in_bytes",
            (GroupLimit::Max, Version::Two) => "memory.max",
            (GroupLimit::High, _) => "memory.high",
            (GroupLimit::WithSwap, _) => "memory.memsw.limit_in_bytes",
        }
    }
}

/// Version 1 writes the largest number of pages for no limit.
const NO_LIMIT: u64 = 1 << 62;

/// A group around this process and what it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which of the two it is a group of.
    pub version: Version,
    /// Its name: the path from the top of the hierarchy, as far as this process can see.
    pub path: String,
    /// Most bytes that may be used, [`GroupLimit::Max`].
    pub max: Option<u64>,
    /// Most before allocations are slowed down, [`GroupLimit::High`].
    pub high: Option<u64>,
    /// Most of memory and swap together, [`GroupLimit::WithSwap`].
    pub with_swap: Option<u64>,
    folder: PathBuf,
}

/// What a group uses, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All that is charged to it; 0 where the kernel does not say.
    pub used: u64,
    /// Of that, what the kernel would free for who asks.
    pub reclaimable: u64,
    /// Version 1: memory and swap together.
    pub with_swap: u64,
}

/// How often a group ran into its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Its processes were slowed down at `memory.high`.
    pub high: u64,
    /// It was about to use more than it may.
    pub max: u64,
    /// Nothing could be reclaimed then.
    pub oom: u64,
    /// Processes that were killed for it.
    pub oom_kill: u64,
}

impl Group {
    /// The groups around this process, from the inmost outwards, those of version 1 in front;
    /// `own` is what `/proc/self/cgroup` says.
    pub(super) fn around(own: &[u8], files: &Files) -> Vec<Group> {
        let mounts = Mount::all(files);
        let lines = || own.split(|&byte| byte == b'\n').filter_map(hierarchy);
        let mut groups = Vec::new();
        for version in [Version::One, Version::Two] {
            for (_, path) in lines().filter(|&(of, _)| of == version) {
                groups.extend(of_hierarchy(version, path, &mounts, files));
            }
        }
        groups
    }

    /// Reads again what is allowed, which may change at any time.
    pub(super) fn read_limits(&mut self, files: &Files) {
        let limit = |limit: GroupLimit| {
            let file = self.folder.join(limit.file(self.version));
            files.number(file).filter(|&bytes| bytes < NO_LIMIT)
        };
        self.max = limit(GroupLimit::Max);
        match self.version {
            Version::One => self.with_swap = limit(GroupLimit::WithSwap),
            Version::Two => self.high = limit(GroupLimit::High),
        }
    }

    /// Whether there is a limit to run into.
    pub(super) fn is_limited(&self) -> bool {
        self.max.or(self.high).or(self.with_swap).is_some()
    }

    /// What the group uses.
    pub(super) fn usage(&self, files: &Files) -> Usage {
        let number = |name| files.number(self.folder.join(name)).unwrap_or(0);
        let stat = files.text(self.folder.join("memory.stat")).unwrap_or_default();
        let bytes = |name| field(&stat, name).unwrap_or(0);
        let (used, with_swap, reclaimable) = match self.version {
            Version::One => (
                number("memory.usage_in_bytes"),
                if self.with_swap.is_some() { number("memory.memsw.usage_in_bytes") } else { 0 },
                // It does not tell slabs that can be given back from others.
                [bytes("total_inactive_file"), bytes("total_active_file") / 2, 0],
            ),
            Version::Two => (
                number("memory.current"),
                0,
                [bytes("inactive_file"), bytes("active_file") / 2, bytes("slab_reclaimable")],
            ),
        };
        let reclaimable = reclaimable.into_iter().fold(0, u64::saturating_add);
        Usage { used, reclaimable: reclaimable.min(used), with_swap }
    }

    /// The least of the group's limits; none where it sets none.
    pub(super) fn limit(&self) -> Option<u64> {
        [self.max, self.high, self.with_swap].into_iter().flatten().min()
    }

    /// What the group's limits leave of memory.
    pub(super) fn bounds(&self, usage: &Usage) -> impl Iterator<Item = Bound> + use<> {
        let (version, path, reclaimable) = (self.version, self.path.clone(), usage.reclaimable);
        let limits = [
            (GroupLimit::Max, self.max, usage.used),
            (GroupLimit::High, self.high, usage.used),
            (GroupLimit::WithSwap, self.with_swap, usage.with_swap.max(usage.used)),
        ];
        limits.into_iter().filter_map(move |(which, limit, used)| {
            let limit = limit?;
            let left = limit.saturating_sub(used.saturating_sub(reclaimable));
            let source = Source::Group { version, path: path.clone(), limit: which };
            Some(Bound { source, limit, left })
        })
    }

    /// What the group leaves of swap space; none where it sets no limit.
    pub(super) fn swap_left(&self, usage: &Usage, files: &Files) -> Option<u64> {
        let number = |name| files.number(self.folder.join(name));
        match self.version {
            // What there may be of both, less what there may be of memory.
            Version::One => {
                let used = usage.with_swap.saturating_sub(usage.used);
                Some(self.with_swap?.saturating_sub(self.max?).saturating_sub(used))
            }
            Version::Two => {
                let limits = [number("memory.swap.max"), number("memory.swap.high")];
                let limit = limits.into_iter().flatten().min()?;
                Some(limit.saturating_sub(number("memory.swap.current").unwrap_or(0)))
            }
        }
    }

    /// Time that the group's tasks lost for want of memory. Version 1 has no such file.
    pub(super) fn pressure(&self, files: &Files) -> Option<Pressure> {
        let file = (self.version == Version::Two).then(|| self.folder.join("memory.pressure"))?;
        Pressure::parse(&files.text(file)?)
    }

    /// How often the group, and the groups in it, ran into limits.
    pub(super) fn events(&self, files: &Files) -> Option<Events> {
        let read = |name| files.text(self.folder.join(name));
        match self.version {
            Version::One => {
                let text = read("memory.oom_control")?;
                let max = files.number(self.folder.join("memory.failcnt")).unwrap_or(0);
                let oom_kill = field(&text, "oom_kill")?;
                Some(Events { high: 0, max, oom: oom_kill, oom_kill })
            }
            Version::Two => {
                let text = read("memory.events")?;
                let number = |name| field(&text, name).unwrap_or(0);
                let (high, max) = (number("high"), number("max"));
                Some(Events { high, max, oom: number("oom"), oom_kill: number("oom_kill") })
            }
        }
    }

    /// How often the group's own `memory.high`, and no other's, slowed somebody down.
    pub(super) fn slowed(&self, files: &Files) -> u64 {
        if self.high.is_none() {
            return 0;
        }
        let read = |name| files.text(self.folder.join(name));
        let text = read("memory.events.local").or_else(|| read("memory.events"));
        text.and_then(|text| field(&text, "high")).unwrap_or(0)
    }
}

/// The version and the path of a group, from a line `number:controllers:path` of
/// `/proc/self/cgroup`; none for hierarchies that have nothing to do with memory.
fn hierarchy(line: &[u8]) -> Option<(Version, &Path)> {
    let mut parts = line.splitn(3, |&byte| byte == b':');
    let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    // A group that was removed has the last name it had.
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let path = Path::new(OsStr::from_bytes(path));
    if number == b"0" && controllers.is_empty() {
        Some((Version::Two, path))
    } else if controllers.split(|&byte| byte == b',').any(|controller| controller == b"memory") {
        Some((Version::One, path))
    } else {
        None
    }
}

/// The groups of one hierarchy from `own` up to the top that is mounted.
fn of_hierarchy(version: Version, own: &Path, mounts: &[Mount], files: &Files) -> Vec<Group> {
    let of_version = || mounts.iter().filter(|mount| mount.version == version);
    // Of several mounts the one that shows most groups; a later one may hide an earlier one.
    let shown = of_version()
        .filter_map(|mount| Some((mount, mount.way_to(own)?)))
        .filter(|(mount, way)| files.has_folder(&mount.point.join(way)))
        .min_by_key(|(mount, _)| mount.root.components().count());
    let (mount, way) = match shown {
        Some(shown) => shown,
        None => match of_version().next() {
            // The group's own folder is not to be seen. The mount point is that of a group around
            // it, in all likelihood: a container that was shown no more than itself.
            Some(mount) => (mount, mount.way_to(own).unwrap_or(Path::new(""))),
            None => return Vec::new(),
        },
    };
    let mut groups = Vec::new();
    for inside in way.ancestors() {
        let folder = mount.point.join(inside);
        // In version 1 groups could be kept from counting what those in them use.
        let counts = version == Version::Two
            || groups.is_empty()
            || files.number(folder.join("memory.use_hierarchy")) != Some(0);
        if !counts {
            break;
        }
        let path = name_of(&mount.root.join(inside));
        groups.push(Group { version, path, max: None, high: None, with_swap: None, folder });
    }
    groups
}

/// A path without an end that `join` of nothing leaves, and with nothing that is no text.
fn name_of(path: &Path) -> String {
    let parts = path.components().filter(|part| !matches!(part, Component::CurDir));
    parts.collect::<PathBuf>().to_string_lossy().into_owned()
}
