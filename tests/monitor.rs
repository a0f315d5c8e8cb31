//! What is left to this process, on made-up trees of the kernel's files.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics, in helpers too.

#[path = "gpu/mod.rs"]
mod gpu;
mod native;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use forebay::device::{Device, PAGE, Pinned};
use forebay::monitor::{Gpu, Gpus, Info, Level, Monitor, Source, system};
use proptest::prelude::*;

const GIB: u64 = 1 << 30;

/// A folder with the kernel's files, gone at the end of the test.
struct Root(PathBuf);

impl Root {
    fn new() -> Root {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let root = folder.join(format!("monitor-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        Root(root)
    }

    /// A machine of 64 GiB of which 40 are available, and no groups.
    fn machine() -> Root {
        Root::new().with("proc/meminfo", &meminfo(64 * GIB, 40 * GIB))
    }

    fn with(self, path: &str, text: &str) -> Root {
        self.set(path, text);
        self
    }

    fn set(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A group of version 2.
    fn two(self, folder: &str, max: &str, high: &str, current: u64, stat: &str) -> Root {
        let root = self.with(&format!("{folder}/memory.max"), &format!("{max}\n"));
        let root = root.with(&format!("{folder}/memory.high"), &format!("{high}\n"));
        let root = root.with(&format!("{folder}/memory.current"), &format!("{current}\n"));
        root.with(&format!("{folder}/memory.stat"), stat)
    }

    /// A group of version 1.
    fn one(self, folder: &str, limit: u64, usage: u64, stat: &str) -> Root {
        let root = self.with(&format!("{folder}/memory.limit_in_bytes"), &format!("{limit}\n"));
        let root = root.with(&format!("{folder}/memory.usage_in_bytes"), &format!("{usage}\n"));
        root.with(&format!("{folder}/memory.stat"), stat)
    }

    fn info(&self) -> Info {
        let info = Monitor::under(&self.0).info(Instant::now()).unwrap();
        // The shorter reading says the same.
        assert_eq!(Monitor::under(&self.0).total(Instant::now()).unwrap_or(0), info.total);
        info
    }

    fn is_short(&self) -> bool {
        Monitor::under(&self.0).is_short(Instant::now())
    }

    /// What is left, and which bound says so.
    fn left(&self) -> (u64, String) {
        let bound = self.info().headroom.bound;
        (bound.left, bound.source.to_string())
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn meminfo(total: u64, available: u64) -> String {
    let (total, available) = (total / 1024, available / 1024);
    format!(
        "MemTotal: {total} kB\nMemFree: 1024 kB\nMemAvailable: {available} kB\n\
         SwapTotal: 8388608 kB\nSwapFree: 4194304 kB\n"
    )
}

fn left(bytes: u64, source: &str) -> (u64, String) {
    (bytes, source.to_owned())
}

const NO_LIMIT: u64 = 9_223_372_036_854_771_712;
const TWO: &str = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

#[test]
fn the_machine_alone() {
    let root = Root::machine();
    let info = root.info();
    assert_eq!(root.left(), left(40 * GIB, "MemAvailable"));
    assert_eq!(info.headroom.reserve, 64 * GIB / 50);
    assert_eq!(info.headroom.available(), 40 * GIB - 64 * GIB / 50);
    assert_eq!((info.total, info.swap_available, info.oom_kills), (64 * GIB, 4 * GIB, 0));
    assert_eq!((info.level, info.pressure(), info.groups.len()), (Level::Ok, None, 0));
    assert!(!root.is_short());
    // Less than a sixteenth.
    root.set("proc/meminfo", meminfo(64 * GIB, 4 * GIB));
    assert!(!root.is_short());
    root.set("proc/meminfo", meminfo(64 * GIB, 4 * GIB - 1024));
    assert!(root.is_short());
    root.set("proc/vmstat", "oom_kills 5\noom_kill 2\n");
    assert_eq!(root.info().oom_kills, 2);
    // Nothing at all is known.
    let nothing = Root::new();
    assert!(Monitor::under(&nothing.0).info(Instant::now()).is_none());
    assert_eq!(Monitor::under(&nothing.0).total(Instant::now()), None);
    assert!(!nothing.is_short());
}

#[test]
fn version_2_with_the_tighter_limit_in_the_middle() {
    let stat = format!(
        "anon 5\nfile {GIB}\ninactive_file {GIB}\nactive_file {}\nshmem {GIB}\nslab_reclaimable 4096\n",
        2 * GIB
    );
    let root = Root::machine()
        .with("proc/self/cgroup", "0::/outer/middle/inner\n")
        .with("proc/self/mountinfo", TWO)
        .two("sys/fs/cgroup/outer", &(32 * GIB).to_string(), "max", 20 * GIB, "")
        .two("sys/fs/cgroup/outer/middle", &(9 * GIB).to_string(), "max", 8 * GIB, &stat)
        .two("sys/fs/cgroup/outer/middle/inner", "max", "max", 6 * GIB, "");
    // 9 - (8 - (1 + 2 / 2 + 4096 bytes)): half of the active files, no shared memory.
    assert_eq!(root.left(), left(3 * GIB + 4096, "cgroup v2 /outer/middle memory.max"));
    let info = root.info();
    assert_eq!((info.total, info.groups.len()), (9 * GIB, 4));
    assert_eq!(info.groups[1].0.max, Some(9 * GIB));
    assert_eq!((info.groups[0].0.max, info.groups[0].1.unwrap().used), (None, 6 * GIB));
    assert!(!root.is_short());

    // memory.high binds before memory.max does.
    root.set("sys/fs/cgroup/outer/middle/memory.high", (7 * GIB).to_string());
    assert_eq!(root.left(), left(GIB + 4096, "cgroup v2 /outer/middle memory.high"));
    assert_eq!(root.info().total, 7 * GIB);
    assert!(!root.is_short());
    root.set("sys/fs/cgroup/outer/middle/memory.current", (9 * GIB).to_string());
    assert_eq!(root.left(), left(4096, "cgroup v2 /outer/middle memory.high"));
    assert!(root.is_short());
    assert_eq!((root.info().headroom.available(), root.info().level), (0, Level::Critical));

    // Above the limit nothing is left; the machine may have less still.
    root.set("sys/fs/cgroup/outer/middle/memory.current", (30 * GIB).to_string());
    assert_eq!(root.left().0, 0);
    root.set("sys/fs/cgroup/outer/middle/memory.current", "0");
    root.set("proc/meminfo", meminfo(64 * GIB, 5 * GIB));
    assert_eq!(root.left(), left(5 * GIB, "MemAvailable"));
}

#[test]
fn version_1_counts_swap_and_keeps_to_its_hierarchy() {
    let stat = "inactive_file 3\ntotal_inactive_file 500\ntotal_active_file 200\ntotal_shmem 9\n";
    let root = Root::machine()
        .with("proc/self/cgroup", "9:cpu,memory:/box/inner\n3:cpuset:/other\n0::/\n")
        .with(
            "proc/self/mountinfo",
            "35 31 0:32 / /cg/mem rw,relatime shared:3 - cgroup cgroup rw,cpu,memory\n\
             36 31 0:33 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n",
        )
        .one("cg/mem", NO_LIMIT, 7, "")
        .one("cg/mem/box", 2 * GIB, GIB, stat)
        .one("cg/mem/box/inner", NO_LIMIT, 900, "");
    assert_eq!(root.left(), left(GIB + 600, "cgroup v1 /box memory.limit_in_bytes"));
    assert_eq!(root.info().groups.len(), 3);
    assert_eq!(root.info().swap_available, 4 * GIB);

    // Memory and swap together: 3 GiB, of which 2.5 are used; 1 GiB of swap, of which 1.5 would be.
    root.set("cg/mem/box/memory.memsw.limit_in_bytes", (3 * GIB).to_string());
    root.set("cg/mem/box/memory.memsw.usage_in_bytes", (5 * GIB / 2).to_string());
    let source = "cgroup v1 /box memory.memsw.limit_in_bytes";
    assert_eq!(root.left(), left(GIB / 2 + 600, source));
    assert_eq!(root.info().swap_available, 0);
    root.set("cg/mem/box/memory.memsw.usage_in_bytes", (5 * GIB / 4).to_string());
    assert_eq!(root.info().swap_available, 3 * GIB / 4);

    root.set(
        "cg/mem/box/inner/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    );
    root.set("cg/mem/box/inner/memory.failcnt", "12\n");
    let events = root.info().events.unwrap();
    assert_eq!((events.max, events.oom_kill, root.info().oom_kills), (12, 3, 3));

    // A group that does not count what is used in those in it bounds nothing.
    root.set("cg/mem/box/memory.use_hierarchy", "0\n");
    assert_eq!(root.left(), left(40 * GIB, "MemAvailable"));
    assert_eq!(root.info().groups.len(), 1);
    root.set("cg/mem/box/memory.use_hierarchy", "1\n");
    assert_eq!(root.info().groups.len(), 3);
}

#[test]
fn both_versions_at_once() {
    let root = Root::machine()
        .with("proc/self/cgroup", "4:memory:/box\n1:name=systemd:/\n0::/unit\n")
        .with(
            "proc/self/mountinfo",
            "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        )
        .one("sys/fs/cgroup/memory/box", 4 * GIB, GIB, "")
        .with(
            "sys/fs/cgroup/unified/unit/memory.pressure",
            "some avg10=11.00 avg60=0.00 avg300=0.00 total=1\n\
             full avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
        );
    assert_eq!(root.left(), left(3 * GIB, "cgroup v1 /box memory.limit_in_bytes"));
    // The controller is in the one, the time that was lost in the other.
    assert_eq!(root.info().group_pressure.unwrap().some.avg10, 11.0);
    assert_eq!(root.info().level, Level::Elevated);
    // The other way round it is the other one that binds.
    let root = root.two("sys/fs/cgroup/unified/unit", &(2 * GIB).to_string(), "max", GIB, "");
    assert_eq!(root.left(), left(GIB, "cgroup v2 /unit memory.max"));
}

#[test]
fn where_groups_are_mounted_is_what_the_kernel_says() {
    let limit = GIB.to_string();
    let tree = |own: &str, mountinfo: &str| {
        Root::machine().with("proc/self/cgroup", own).with("proc/self/mountinfo", mountinfo)
    };
    // A namespace: the group is the root, and its files are there.
    let root = tree("0::/\n", TWO).two("sys/fs/cgroup", &limit, "max", 24, "");
    assert_eq!(root.left(), left(GIB - 24, "cgroup v2 / memory.max"));
    // No namespace, but only the own group is mounted.
    let mount = "31 23 0:28 /docker/c0 /sys/fs/cgroup ro shared:1 - cgroup2 cgroup rw\n";
    let root = tree("0::/docker/c0/job\n", mount).two("sys/fs/cgroup", &limit, "max", 24, "").two(
        "sys/fs/cgroup/job",
        "max",
        "max",
        8,
        "",
    );
    assert_eq!(root.left(), left(GIB - 24, "cgroup v2 /docker/c0 memory.max"));
    assert_eq!(root.info().groups.len(), 2);
    // What is mounted begins above the namespace: its top is a group around this one.
    let mount = "31 23 0:28 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    let root = tree("0::/\n", mount).two("sys/fs/cgroup", &limit, "max", 24, "");
    assert_eq!(root.left(), left(GIB - 24, "cgroup v2 /../.. memory.max"));
    // The group is outside of the namespace: no folder is its, and `..` leads nowhere else.
    let root = tree("0::/../secret\n", "31 23 0:28 / /cg/ns rw - cgroup2 cgroup2 rw\n")
        .two("cg/secret", "1", "max", 1, "")
        .two("cg/ns", &limit, "max", 24, "");
    assert_eq!(root.left(), left(GIB - 24, "cgroup v2 / memory.max"));
    // Of two mounts the one that shows more; the order does not matter.
    let mounts = [
        "31 23 0:28 /a /mnt/part rw - cgroup2 x rw\n",
        "32 23 0:28 / /mnt/all rw - cgroup2 x rw\n",
    ];
    for mounts in [mounts.concat(), [mounts[1], mounts[0]].concat()] {
        let root = tree("0::/a/b\n", &mounts)
            .two("mnt/part/b", "max", "max", 5, "")
            .two("mnt/all/a/b", "max", "max", 5, "")
            .two("mnt/all/a", &limit, "max", 5, "");
        assert_eq!(root.left(), left(GIB - 5, "cgroup v2 /a memory.max"));
    }
    // Spaces and backslashes in names; a group that is no more; nothing mounted.
    let mount = "31 23 0:28 / /my\\040groups rw - cgroup2 cgroup2 rw\n";
    let root = tree("0::/a b\\c (deleted)\n", mount).two("my groups/a b\\c", &limit, "max", 1, "");
    assert_eq!(root.left(), left(GIB - 1, "cgroup v2 /a b\\c memory.max"));
    let root = tree("0::/a\n", "22 27 0:21 / /proc rw - proc proc rw\n");
    assert_eq!(root.left().0, 40 * GIB, "the usual place has no such folder");
    let root = root.two("sys/fs/cgroup/a", &limit, "max", 1, "");
    assert_eq!(root.left(), left(GIB - 1, "cgroup v2 /a memory.max"));
}

#[test]
fn what_is_missing_or_garbage_bounds_nothing_and_breaks_nothing() {
    let root = Root::machine()
        .with("proc/self/cgroup", "0::/a\n")
        .with("proc/self/mountinfo", TWO)
        .two("sys/fs/cgroup/a", "4294967296", "max", GIB, "inactive_file 1000\n");
    let with = left(3 * GIB + 1000, "cgroup v2 /a memory.max");
    assert_eq!(root.left(), with);
    let file = |name: &str| format!("sys/fs/cgroup/a/{name}");
    for garbage in ["", "\n", "max\n", "-1", "0x10", "12 13", "\u{fffd}", "99999999999999999999999"]
    {
        root.set(&file("memory.high"), garbage);
        assert_eq!(root.left(), with, "{garbage:?}");
    }
    root.set(&file("memory.high"), [0xff, 0xfe, 0]);
    // Without the numbers, what is used is not known, and the limit holds all the same.
    for stat in ["inactive_file\n", "inactive_file x\n", "inactive_files 7\n", "\u{0}"] {
        root.set(&file("memory.stat"), stat);
        assert_eq!(root.left().0, 3 * GIB, "{stat:?}");
    }
    // More is reclaimable than is used: no more than all is left.
    root.set(&file("memory.stat"), format!("inactive_file {0}\nactive_file {0}\n", u64::MAX));
    assert_eq!(root.left().0, 4 * GIB);
    std::fs::remove_file(root.0.join(file("memory.current"))).unwrap();
    assert_eq!(root.left(), left(4 * GIB, "cgroup v2 /a memory.max"));
    for garbage in ["", "x", "::::", "0:\n0\n:", "0::", "5:memory\n"] {
        root.set("proc/self/cgroup", garbage);
        assert!(root.left().0 > 0, "{garbage:?}");
    }
    root.set("proc/self/cgroup", [0xff; 300]);
    root.set("proc/self/mountinfo", [0xff; 300]);
    assert_eq!(root.left(), left(40 * GIB, "MemAvailable"));
    // A limit of nothing is one.
    root.set("proc/self/cgroup", "0::/a\n");
    root.set(&file("memory.max"), "0\n");
    assert_eq!((root.left().0, root.info().headroom.available()), (0, 0));
}

#[test]
fn limits_of_the_process_count_what_they_limit() {
    let limits = |addresses: &str, data: &str| {
        format!(
            "Limit                     Soft Limit           Hard Limit           Units\n\
             Max data size             {data}            unlimited            bytes\n\
             Max address space         {addresses}            unlimited            bytes\n"
        )
    };
    let root = Root::machine()
        .with("proc/self/status", "VmSize: 3145728 kB\nVmData: 1048576 kB\nVmRSS: 4096 kB\n")
        .with("proc/self/limits", &limits("unlimited", "unlimited"));
    assert_eq!(root.left().1, "MemAvailable");
    assert_eq!(Monitor::under(&root.0).address_space_left(), None);
    root.set("proc/self/limits", limits(&(8 * GIB).to_string(), "unlimited"));
    assert_eq!(root.left(), left(5 * GIB, "RLIMIT_AS"));
    assert_eq!(Monitor::under(&root.0).address_space_left(), Some(5 * GIB));
    root.set("proc/self/limits", limits(&(8 * GIB).to_string(), &(2 * GIB).to_string()));
    assert_eq!(root.left(), left(GIB, "RLIMIT_DATA"));
    assert_eq!((root.info().total, root.info().process.resident), (64 * GIB, 4 << 20));
    // Giving pages back makes neither any better.
    root.set("proc/self/limits", limits(&GIB.to_string(), &GIB.to_string()));
    assert_eq!((root.left().0, root.info().level, root.is_short()), (0, Level::Critical, false));

    let root = Root::machine().with("proc/sys/vm/overcommit_memory", "2\n");
    let promises = "CommitLimit: 2097152 kB\nCommitted_AS: 1048576 kB\n";
    root.set("proc/meminfo", meminfo(64 * GIB, 40 * GIB) + promises);
    assert_eq!(root.left(), left(GIB, "CommitLimit"));
    root.set("proc/sys/vm/overcommit_memory", "0\n");
    assert_eq!(root.left().1, "MemAvailable");
}

#[test]
fn levels() {
    let pressure = |some: f64, full: f64| {
        format!(
            "some avg10={some:.2} avg60=0.00 avg300=0.00 total=5\n\
             full avg10={full:.2} avg60=0.00 avg300=0.00 total=5\n"
        )
    };
    let root = Root::machine()
        .with("proc/self/cgroup", "0::/a\n")
        .with("proc/self/mountinfo", TWO)
        .two("sys/fs/cgroup/a", &(100 * GIB).to_string(), "max", GIB, "")
        .with("proc/pressure/memory", &pressure(10.0, 5.0));
    let level = |root: &Root| root.info().level;
    assert_eq!(level(&root), Level::Ok);
    root.set("proc/pressure/memory", pressure(10.5, 5.0));
    assert_eq!(level(&root), Level::Elevated);
    root.set("proc/pressure/memory", pressure(10.5, 5.5));
    assert_eq!(level(&root), Level::Critical);
    // The group's own says more of this process than the machine's.
    root.set("sys/fs/cgroup/a/memory.pressure", pressure(0.0, 0.0));
    assert_eq!(level(&root), Level::Ok);
    assert_eq!(root.info().machine_pressure.unwrap().full.avg10, 5.5);
    for (used, expected) in
        [(90, Level::Ok), (91, Level::Elevated), (97, Level::Elevated), (98, Level::Critical)]
    {
        root.set("sys/fs/cgroup/a/memory.current", (used * GIB).to_string());
        assert_eq!(level(&root), expected, "{used}");
    }
}

#[test]
fn being_slowed_down_is_critical_for_a_while() {
    let root = Root::machine()
        .with("proc/self/cgroup", "0::/a/b\n")
        .with("proc/self/mountinfo", TWO)
        .two("sys/fs/cgroup/a", "max", &(10 * GIB).to_string(), GIB, "")
        .two("sys/fs/cgroup/a/b", "max", "max", GIB, "")
        .with("sys/fs/cgroup/a/b/memory.events", "low 0\nhigh 9\nmax 1\noom 2\noom_kill 1\n")
        .with("sys/fs/cgroup/a/memory.events", "low 0\nhigh 70\nmax 0\noom 0\noom_kill 0\n")
        .with("sys/fs/cgroup/a/memory.events.local", "low 0\nhigh 4\nmax 0\noom 0\noom_kill 0\n");
    let monitor = Monitor::under(&root.0);
    let start = Instant::now();
    let level = |seconds| monitor.info(start + Duration::from_secs(seconds)).unwrap().level;
    let events = monitor.info(start).unwrap().events.unwrap();
    assert_eq!((events.high, events.max, events.oom, events.oom_kill), (9, 1, 2, 1));
    assert_eq!(level(1), Level::Ok);
    // Others below the same limit were: that is not its own count.
    root.set("sys/fs/cgroup/a/memory.events", "high 80\n");
    assert_eq!(level(2), Level::Ok);
    root.set("sys/fs/cgroup/a/memory.events.local", "high 5\n");
    assert_eq!([level(3), level(4), level(12)], [Level::Critical; 3]);
    assert_eq!(level(13), Level::Ok);
    // A count of another group does not go on from this one's.
    root.set("sys/fs/cgroup/c/memory.high", "99999999999\n");
    root.set("sys/fs/cgroup/c/memory.events", "high 500\n");
    root.set("proc/self/cgroup", "0::/c\n");
    assert_eq!([level(14), level(15)], [Level::Ok; 2]);
    // No count is too large to go on from.
    root.set("sys/fs/cgroup/memory.high", "99999999999\n");
    root.set("sys/fs/cgroup/memory.events.local", format!("high {}\n", u64::MAX));
    assert_eq!([level(16), level(26)], [Level::Critical, Level::Ok]);
}

#[test]
fn pools_that_ask_read_few_files() {
    let root = Root::machine()
        .with("proc/self/cgroup", "0::/a/b/c\n")
        .with("proc/self/mountinfo", TWO)
        .two("sys/fs/cgroup/a", &(10 * GIB).to_string(), "max", GIB, "")
        .two("sys/fs/cgroup/a/b", "max", "max", GIB, "")
        .two("sys/fs/cgroup/a/b/c", "max", "max", GIB, "");
    let monitor = Monitor::under(&root.0);
    let start = Instant::now();
    let reads = |milliseconds: u64, expected: bool| {
        let before = monitor.reads();
        assert_eq!(monitor.is_short(start + Duration::from_millis(milliseconds)), expected);
        monitor.reads() - before
    };
    // The machine, the group's name, where groups are mounted, two limits of four groups, and what
    // is used of the one limit.
    assert_eq!(reads(0, false), 1 + 1 + 1 + 8 + 2);
    // Half a second later for as many pools as there are.
    assert_eq!([reads(1, false), reads(499, false)], [0, 0]);
    assert_eq!(reads(1000, false), 2 + 2);
    // Limits are read again after five seconds.
    root.set("sys/fs/cgroup/a/b/memory.high", GIB.to_string());
    assert_eq!(reads(4999, false), 2 + 2);
    // The inmost group that is short is enough to know.
    assert_eq!(reads(6000, true), 2 + 8 + 2);
    // Short is not remembered: who gave back may have helped.
    assert_eq!(reads(6001, true), 2 + 2);
    root.set("sys/fs/cgroup/a/b/memory.current", "5");
    assert_eq!(reads(6002, false), 2 + 2 + 2);
    // A process that was moved has other groups.
    root.set("proc/self/cgroup", "0::/a\n");
    assert_eq!(reads(7000, false), 2 + 1 + 4 + 2);
}

#[test]
fn the_report_has_all_of_it() {
    let root = Root::machine()
        .with("proc/self/cgroup", "0::/say \"hi\"\n")
        .with("proc/self/mountinfo", TWO)
        .two("sys/fs/cgroup/say \"hi\"", "max", &(8 * GIB).to_string(), GIB, "");
    let gpu = Gpu { index: 1, name: Some("card".into()), total: Some(80), ..Gpu::default() };
    let gpus = Gpus { state: "ok".into(), driver: None, devices: vec![gpu] };
    let json = root.info().json(&gpus);
    for part in [
        r#"{"schema":1,"available_bytes":7247757312,"left_bytes":7516192768,"reserve_bytes":268435456,"limit_bytes":8589934592,"#,
        r#""limit_source":"cgroup v2 /say \"hi\" memory.high","total_bytes":8589934592,"swap_available_bytes":4294967296,"level":"ok","#,
        r#""groups":[{"version":2,"path":"/say \"hi\"","max_bytes":null,"high_bytes":8589934592,"used_bytes":1073741824,"reclaimable_bytes":0"#,
        r#"},{"version":2,"path":"/","max_bytes":null,"high_bytes":null,"used_bytes":null,"reclaimable_bytes":null}],"#,
        r#""pressure":{"machine":null,"group":null},"events":null,"nvml":"ok","driver_version":null,"#,
        r#""gpus":[{"index":1,"name":"card","uuid":null,"total_bytes":80,"free_bytes":null,"used_bytes":null,"reserved_bytes":null,"process_bytes":null}]}"#,
    ] {
        assert!(json.contains(part), "{part}\n{json}");
    }
}

#[test]
fn what_is_pinned_is_counted_while_it_is() {
    let gpu = gpu::Gpu::new();
    let pinned = || system().info(Instant::now()).unwrap().pinned;
    let device = Pinned::with_driver(&gpu.api, 0).unwrap();
    assert_eq!(pinned(), 0);
    let first = device.reserve(3 * PAGE, PAGE).unwrap();
    let second = device.reserve(PAGE, PAGE).unwrap();
    assert_eq!(pinned(), 4 * PAGE);
    // What the driver refuses is not.
    for number in 0.. {
        gpu.api.refuse(number, 2);
        if let Ok((address, bytes)) = device.reserve(PAGE, PAGE) {
            assert!(number > 1, "every call was refused once");
            gpu.api.refuse(u64::MAX, 0);
            device.release(address, bytes);
            break;
        }
        assert_eq!(pinned(), 4 * PAGE, "call {number}");
    }
    device.release(first.0, first.1);
    assert_eq!(pinned(), PAGE);
    device.release(second.0, second.1);
    assert_eq!(pinned(), 0);
}

/// The made-up library of GPUs, where the loader finds it, and a program that asks for reports.
fn made_up_gpus(test: &str) -> Command {
    let folder = native::empty_folder(&format!("monitor-{test}"));
    let source = |name: &str| vec![native::root().join("tests/monitor").join(name)];
    let library = folder.join("libnvidia-ml.so.1");
    native::compile(native::Language::C, "c99", &source("nvml.c"), &library, ["-shared", "-fPIC"]);
    let program = folder.join("ask");
    let arguments = native::with_library(&format!("monitor-{test}"));
    native::compile(native::Language::C, "c99", &source("ask.c"), &program, arguments);
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", folder).env_remove("MADE_UP_REFUSED");
    command
}

/// A report from `"nvml"` on, and without what the process itself has, which is null in containers.
fn of_gpus(report: &str) -> String {
    let gpus = &report[report.find("\"nvml\"").unwrap()..];
    gpus.replace("\"process_bytes\":77", "\"process_bytes\":null")
}

fn all_gpus(used: u64) -> String {
    let gpu = |index| {
        format!(
            r#"{{"index":{index},"name":"Made-up \"H0\"","uuid":"GPU-0001","total_bytes":1000,"free_bytes":{},"used_bytes":{used},"reserved_bytes":100,"process_bytes":null}}"#,
            900 - used,
        )
    };
    let (first, second) = (gpu(0), gpu(1));
    format!(r#""nvml":"ok","driver_version":"570.86.15","gpus":[{first},{second}]}}"#)
}

#[test]
fn gpus_are_asked_once_a_second_and_never_after_a_fork() {
    let said = native::stdout_of(&mut made_up_gpus("gpus"));
    let reports: Vec<String> = said.lines().map(of_gpus).collect();
    assert_eq!(reports[..3], [all_gpus(1), all_gpus(1), all_gpus(2)], "{said}");
    let none = r#""nvml":"NVML was opened before a fork","driver_version":null,"gpus":[]}"#;
    assert_eq!((reports[3].as_str(), reports.len()), (none, 4), "{said}");
}

#[test]
fn of_gpus_that_refuse_a_call_the_rest_is_known() {
    let mut command = made_up_gpus("refused");
    let all = all_gpus(1);
    let without = |name: &str| {
        // The value of a key, in both GPUs.
        let (before, rest) = all.split_at(all.find(&format!("\"{name}\":")).unwrap());
        let value = &rest[name.len() + 3..rest.find([',', '}']).unwrap()];
        format!("{before}{rest}")
            .replace(&format!("\"{name}\":{value}"), &format!("\"{name}\":null"))
    };
    let failed = |call: &str, driver: &str| {
        format!(r#""nvml":"{call} failed with 15","driver_version":{driver},"gpus":[]}}"#)
    };
    let no_memory = ["total_bytes", "free_bytes", "used_bytes", "reserved_bytes"];
    let no_memory = no_memory.iter().fold(all.clone(), |text, name| {
        let value = format!("\"{name}\":");
        let mut parts = text.split(&value);
        let first = parts.next().unwrap().to_owned();
        parts.fold(first, |text, part| {
            let end = part.find([',', '}']).unwrap();
            format!("{text}{value}null{}", &part[end..])
        })
    });
    let nothing = "\"name\":null,\"uuid\":null,\"total_bytes\":null,\"free_bytes\":null,\"used_bytes\":null,\"reserved_bytes\":null,\"process_bytes\":null";
    let no_handle = format!(
        r#""nvml":"ok","driver_version":"570.86.15","gpus":[{{"index":0,{nothing}}},{{"index":1,{nothing}}}]}}"#
    );
    for (call, expected) in [
        ("nothing", all.clone()),
        ("nvmlInit_v2", failed("nvmlInit_v2", "null")),
        ("nvmlSystemGetDriverVersion", without("driver_version")),
        ("nvmlDeviceGetCount_v2", failed("nvmlDeviceGetCount_v2", "\"570.86.15\"")),
        ("nvmlDeviceGetHandleByIndex_v2", no_handle),
        ("nvmlDeviceGetName", without("name")),
        ("nvmlDeviceGetUUID", without("uuid")),
        ("nvmlDeviceGetMemoryInfo_v2", no_memory),
        ("nvmlDeviceGetComputeRunningProcesses_v2", all.clone()),
    ] {
        let said =
            native::stdout_of(command.arg("once").env("MADE_UP_REFUSED", format!("{call} 15")));
        assert_eq!(of_gpus(said.trim_end()), expected, "{call}");
    }
}

#[test]
fn this_system_says_something() {
    let info = system().info(Instant::now()).unwrap();
    assert!(info.headroom.bound.left <= info.headroom.bound.limit, "{info:?}");
    assert!(info.total > 0 && info.total <= info.machine.total, "{info:?}");
    assert!(info.process.resident > 0 && info.process.resident <= info.process.mapped, "{info:?}");
    assert!(info.process.resident <= info.process.resident_peak, "{info:?}");
    // Twice in a row it is about the same: no part of it is left over from the first time.
    let again = system().info(Instant::now()).unwrap();
    assert_eq!(again.groups.len(), info.groups.len());
    assert_eq!(again.bounds.len(), info.bounds.len());
}

/// A group as the kernel would show it: version 2's files.
#[derive(Clone, Debug)]
struct Level2 {
    max: Option<u64>,
    high: Option<u64>,
    current: u64,
    inactive: u64,
    active: u64,
    slabs: u64,
}

fn level() -> impl Strategy<Value = Level2> {
    let bytes = || prop_oneof![0..=64 * GIB, Just(0), Just(u64::MAX), any::<u64>()];
    let limit = || proptest::option::of(prop_oneof![0..=64 * GIB, Just(0), 0..(1u64 << 62)]);
    (limit(), limit(), bytes(), bytes(), bytes(), bytes()).prop_map(
        |(max, high, current, inactive, active, slabs)| Level2 {
            max,
            high,
            current,
            inactive,
            active,
            slabs,
        },
    )
}

impl Level2 {
    /// What the group leaves, by its definition.
    fn headroom(&self, version_1: bool) -> Option<u64> {
        let limit = self.max.into_iter().chain(self.high).min()?;
        let slabs = if version_1 { 0 } else { u128::from(self.slabs) };
        let reclaimable = u128::from(self.inactive) + u128::from(self.active / 2) + slabs;
        let needed = u128::from(self.current).saturating_sub(reclaimable);
        Some(u128::from(limit).saturating_sub(needed) as u64)
    }
}

/// Every file that is read of a process in two hierarchies.
const FILES: [&str; 21] = [
    "proc/meminfo",
    "proc/vmstat",
    "proc/self/cgroup",
    "proc/self/mountinfo",
    "proc/self/status",
    "proc/self/limits",
    "proc/pressure/memory",
    "proc/sys/vm/overcommit_memory",
    "cg/a/memory.max",
    "cg/a/memory.high",
    "cg/a/memory.current",
    "cg/a/memory.stat",
    "cg/a/memory.events",
    "cg/a/memory.events.local",
    "cg/a/memory.pressure",
    "cg/memory.high",
    "cg/memory.events.local",
    "cg/memory.swap.max",
    "cg/a/memory.limit_in_bytes",
    "cg/a/memory.memsw.limit_in_bytes",
    "cg/a/memory.oom_control",
];

/// Lines that mean something in some file, with numbers of any size, and some that do not.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let number = || {
        prop_oneof![
            any::<u64>().prop_map(|number| number.to_string()),
            Just("max".into()),
            Just("0".into()),
            Just("2".into()),
            Just(u64::MAX.to_string()),
            Just("-1".into())
        ]
    };
    let line = (0..24usize, number()).prop_map(|(which, n): (usize, String)| match which {
        0 => format!("MemTotal: {n} kB"),
        1 => format!("MemAvailable: {n} kB"),
        2 => format!("CommitLimit: {n} kB"),
        3 => format!("Committed_AS: {n} kB"),
        4 => "0::/a".into(),
        5 => "3:memory:/a".into(),
        6 => "1 1 0:1 / /cg rw - cgroup2 x rw".into(),
        7 => "1 1 0:1 / /cg rw - cgroup x rw,memory".into(),
        8 => "1 1 0:1 /.. /cg\\040 rw - cgroup x rw,memory".into(),
        9 => format!("VmSize: {n} kB"),
        10 => format!("Max address space   {n}  {n}  bytes"),
        11 => format!("Max data size   {n}  {n}  bytes"),
        12 => format!("some avg10={n} avg60=1.0 avg300=0 total={n}"),
        13 => format!("full avg10=6.5 avg60=1.0 avg300=0 total={n}"),
        14 => format!("inactive_file {n}"),
        15 => format!("active_file {n}"),
        16 => format!("total_inactive_file {n}"),
        17 => format!("high {n}"),
        18 => format!("oom_kill {n}"),
        19 => "\u{0}\"\\ \u{7f}:::".into(),
        20 => String::new(),
        _ => n,
    });
    let lines =
        proptest::collection::vec(line, 0..40).prop_map(|lines| lines.join("\n").into_bytes());
    let one = number().prop_map(String::into_bytes);
    prop_oneof![4 => lines, 4 => one, 1 => proptest::collection::vec(any::<u8>(), 0..40)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the files say, nothing breaks, and no more is left than there is.
    #[test]
    fn any_text_is_survived(texts in proptest::collection::vec(text(), FILES.len())) {
        let root = Root::new();
        for (file, text) in FILES.iter().zip(&texts) {
            root.set(file, text);
        }
        let monitor = Monitor::under(&root.0);
        let start = Instant::now();
        for second in 0..2 {
            let now = start + Duration::from_secs(second);
            monitor.is_short(now);
            monitor.address_space_left();
            let Some(info) = monitor.info(now) else { continue };
            for bound in &info.bounds {
                prop_assert!(bound.left <= bound.limit, "{bound:?}");
                prop_assert!(info.headroom.bound.left <= bound.left);
            }
            prop_assert!(info.headroom.available() <= info.headroom.bound.left);
            let json = info.json(&Gpus::default());
            let end = "\"gpus\":[]}";
            prop_assert!(json.ends_with(end), "{json}");
            prop_assert!(json.bytes().all(|byte| byte >= b' '));
        }
    }

    /// The answer is never more than what any level leaves, and is what the tightest one leaves.
    #[test]
    fn never_more_than_any_level(
        levels in proptest::collection::vec(level(), 1..5),
        total in 1..(1u64 << 40),
        free in any::<u64>(),
        addresses in proptest::option::of(0..(1u64 << 45)),
        version_1 in any::<bool>(),
    ) {
        let total = total / 1024 * 1024;
        let available = free % (total + 1) / 1024 * 1024;
        let names: String = (0..levels.len()).map(|at| format!("/g{at}")).collect();
        let root = Root::new().with("proc/meminfo", &meminfo(total, available));
        let (own, mount) = if version_1 {
            (format!("3:memory:{names}\n"), "35 31 0:32 / /cg rw - cgroup cgroup rw,memory\n")
        } else {
            (format!("0::{names}\n"), "35 31 0:32 / /cg rw - cgroup2 cgroup2 rw\n")
        };
        let mut root = root.with("proc/self/cgroup", &own).with("proc/self/mountinfo", mount);
        let mut folder = "cg".to_owned();
        for (at, level) in levels.iter().enumerate() {
            folder += &format!("/g{at}");
            let limit = |limit: Option<u64>| limit.map_or("max".to_owned(), |limit| limit.to_string());
            let Level2 { inactive, active, slabs, .. } = level;
            root = if version_1 {
                let stat = format!("total_inactive_file {inactive}\ntotal_active_file {active}\n");
                let root = root.one(&folder, level.max.unwrap_or(NO_LIMIT), level.current, &stat);
                if let Some(high) = level.high {
                    root.set(&format!("{folder}/memory.memsw.limit_in_bytes"), high.to_string());
                }
                root
            } else {
                let stat = format!("inactive_file {inactive}\nactive_file {active}\nslab_reclaimable {slabs}\n");
                root.two(&folder, &limit(level.max), &limit(level.high), level.current, &stat)
            };
        }
        if let Some(addresses) = addresses {
            root.set("proc/self/limits", format!("Max address space    {addresses}   unlimited  bytes\n"));
            root.set("proc/self/status", "VmSize: 1024 kB\n");
        }
        let info = root.info();
        let of_levels = levels.iter().filter_map(|level| level.headroom(version_1));
        let of_limits = addresses.map(|limit| limit.saturating_sub(1 << 20));
        let least = of_levels.chain(of_limits).chain([available]).min().unwrap();
        prop_assert_eq!(info.headroom.bound.left, least);
        prop_assert!(info.headroom.available() <= least);
        prop_assert!(least - info.headroom.available() <= info.headroom.reserve);
        let is_small = info.headroom.bound.limit < 12 * GIB;
        prop_assert!(is_small || info.headroom.reserve == (info.headroom.bound.limit / 50).max(256 << 20));
        // Pools see the same, as far as giving back helps.
        let short = info.bounds.iter().filter(|bound| {
            matches!(bound.source, Source::Machine | Source::Group { .. })
        });
        prop_assert_eq!(root.is_short(), short.into_iter().any(|bound| bound.left == 0 || bound.left < bound.limit / 16));
        let json = info.json(&Gpus::default());
        prop_assert_eq!(json.matches("\"version\":").count(), levels.len() + 1);
    }
}
