//! System memory: how much there is for this process, and how much of that is left.
//!
//! The machine says so in `/proc/meminfo`. A control group may allow less: version 2 in
//! `memory.max` and `memory.current`, version 1 in `memory.limit_in_bytes` and
//! `memory.usage_in_bytes`, each group on the way up to the root for itself. What a group uses
//! includes files that the kernel keeps because nobody needed the room yet (`inactive_file`);
//! those bytes are counted as left, as `MemAvailable` does for the machine (kernel
//! documentation, cgroup-v2.rst and proc.rst).

use std::path::{Path, PathBuf};

/// Memory that may be used, and how much of it is left, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be had without anything being swapped or killed.
    pub available: u64,
}

impl Memory {
    /// Less than this share of it left is little.
    const LITTLE: u64 = 16;

    /// Whether little is left: less than a sixteenth.
    pub fn is_short(&self) -> bool {
        self.available < self.total / Memory::LITTLE
    }

    /// Whether a smaller share of this is left than of `other`.
    fn is_tighter(&self, other: &Memory) -> bool {
        u128::from(self.available) * u128::from(other.total)
            < u128::from(other.available) * u128::from(self.total)
    }
}

/// The memory of the machine, or of the control group around this process of which the
/// smallest share is left. None where the kernel does not say.
pub fn memory() -> Option<Memory> {
    tightest(Path::new("/"))
}

/// As [`memory`], with the kernel's files under `root`.
fn tightest(root: &Path) -> Option<Memory> {
    let read = |path: PathBuf| std::fs::read_to_string(root.join(path)).ok();
    let machine = read("proc/meminfo".into()).as_deref().and_then(of_machine);
    let groups = read("proc/self/cgroup".into()).unwrap_or_default();
    groups
        .lines()
        .filter_map(hierarchy)
        .flat_map(|(version, group)| version.folders(group))
        .filter_map(|(version, folder)| version.of_group(&folder, &read))
        .chain(machine)
        .reduce(|tightest, other| if other.is_tighter(&tightest) { other } else { tightest })
}

/// `MemTotal` and `MemAvailable`.
fn of_machine(meminfo: &str) -> Option<Memory> {
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (total, available) = (kib("MemTotal")?, kib("MemAvailable")?);
    Some(Memory { total: total.checked_mul(1024)?, available: available.checked_mul(1024)? })
}

/// The two ways in which the kernel tells of control groups.
#[derive(Clone, Copy)]
enum Version {
    One,
    Two,
}

/// The version and the path of the group, from a line `number:controllers:path` of
/// `/proc/self/cgroup`; none for hierarchies that have nothing to do with memory.
fn hierarchy(line: &str) -> Option<(Version, &str)> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    if number == "0" && controllers.is_empty() {
        Some((Version::Two, path))
    } else if controllers.split(',').any(|controller| controller == "memory") {
        Some((Version::One, path))
    } else {
        None
    }
}

impl Version {
    /// The folders of a group and of those around it. A container may see its own group as
    /// the root, and then the path leads nowhere, which does no harm.
    fn folders(self, group: &str) -> Vec<(Version, PathBuf)> {
        let mount = match self {
            Version::One => Path::new("sys/fs/cgroup/memory"),
            Version::Two => Path::new("sys/fs/cgroup"),
        };
        let inside = Path::new(group.trim_start_matches('/'));
        inside.ancestors().map(|part| (self, mount.join(part))).collect()
    }

    /// What a group allows and what of it is left; none where it sets no limit.
    fn of_group(self, folder: &Path, read: &impl Fn(PathBuf) -> Option<String>) -> Option<Memory> {
        let (limit, usage, reclaimable) = match self {
            Version::One => {
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            }
            Version::Two => ("memory.max", "memory.current", "inactive_file"),
        };
        let bytes = |name: &str| read(folder.join(name))?.trim().parse::<u64>().ok();
        // "max", or a number near 2^63, when there is none.
        let total = bytes(limit).filter(|&limit| limit < 1 << 62)?;
        let used = bytes(usage)?;
        let stat = read(folder.join("memory.stat")).unwrap_or_default();
        let files = stat.lines().find_map(|line| line.strip_prefix(reclaimable)?.strip_prefix(' '));
        let files = files.and_then(|count| count.trim().parse().ok()).unwrap_or(0);
        Some(Memory { total, available: total.saturating_sub(used.saturating_sub(files)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the kernel's files, gone at the end of the test.
    struct Root(PathBuf);

    impl Root {
        fn with(name: &str, files: &[(&str, &str)]) -> Root {
            let root = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Root(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const MEMINFO: &str = "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\n";

    #[test]
    fn the_machine_alone() {
        let root = Root::with("machine", &[("proc/meminfo", MEMINFO)]);
        let memory = tightest(&root.0).unwrap();
        assert_eq!(memory, Memory { total: 1_024_000, available: 409_600 });
        assert!(!memory.is_short());
        assert!(Memory { total: 1600, available: 99 }.is_short());
        assert!(!Memory { total: 1600, available: 100 }.is_short());
        assert!(tightest(Path::new("/nowhere/at/all")).is_none());
    }

    #[test]
    fn the_tightest_group_of_version_2() {
        let root = Root::with(
            "version2",
            &[
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", "0::/outer/inner\n"),
                ("sys/fs/cgroup/outer/memory.max", "1000\n"),
                ("sys/fs/cgroup/outer/memory.current", "990\n"),
                ("sys/fs/cgroup/outer/memory.stat", "anon 1\ninactive_file 40\nfile 9\n"),
                ("sys/fs/cgroup/outer/inner/memory.max", "max\n"),
                ("sys/fs/cgroup/outer/inner/memory.current", "990\n"),
            ],
        );
        let memory = tightest(&root.0).unwrap();
        assert_eq!(memory, Memory { total: 1000, available: 50 });
        assert!(memory.is_short());
    }

    #[test]
    fn a_group_of_version_1_and_one_without_a_limit() {
        let group = "9:cpu,memory:/box\n3:cpuset:/other\n0::/\n";
        let root = Root::with(
            "version1",
            &[
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", group),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "7\n"),
                ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "2000\n"),
                ("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "1900\n"),
                (
                    "sys/fs/cgroup/memory/box/memory.stat",
                    "inactive_file 3\ntotal_inactive_file 5\n",
                ),
            ],
        );
        assert_eq!(tightest(&root.0).unwrap(), Memory { total: 2000, available: 105 });
    }

    #[test]
    fn this_machine_says_something() {
        let memory = memory().unwrap();
        assert!(memory.total > 0 && memory.available <= memory.total, "{memory:?}");
    }
}
