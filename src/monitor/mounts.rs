//! Where the control groups' file systems are mounted, from `/proc/self/mountinfo` (kernel
//! documentation, proc.rst, and proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use super::files::Files;
use super::group::Version;

/// A mount of a hierarchy of control groups that may have a memory controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) version: Version,
    /// The group whose folder the mount point is, as this process's view of groups names it.
    /// What it cannot name begins with `/..`.
    pub(super) root: PathBuf,
    /// Where it is mounted.
    pub(super) point: PathBuf,
}

impl Mount {
    /// All of them, in the order of the file; the usual places where there is no such file.
    pub(super) fn all(files: &Files) -> Vec<Mount> {
        let listed = files.bytes("/proc/self/mountinfo").unwrap_or_default();
        let listed: Vec<Mount> =
            listed.split(|&byte| byte == b'\n').filter_map(Mount::parse).collect();
        if !listed.is_empty() {
            return listed;
        }
        let usual = |version, point: &str| Mount { version, root: "/".into(), point: point.into() };
        vec![usual(Version::One, "/sys/fs/cgroup/memory"), usual(Version::Two, "/sys/fs/cgroup")]
    }

    /// A line `id parent device root point options [optional...] - type source options`.
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut words = line.split(|&byte| byte == b' ');
        let (root, point) = (words.nth(3)?, words.next()?);
        words.find(|word| *word == b"-")?;
        let (kind, options) = (words.next()?, words.nth(1).unwrap_or_default());
        let version = match kind {
            b"cgroup2" => Version::Two,
            b"cgroup" if options.split(|&byte| byte == b',').any(|word| word == b"memory") => {
                Version::One
            }
            _ => return None,
        };
        Some(Mount { version, root: path(root), point: path(point) })
    }

    /// What leads from the mount's root to `group`; none where the group is not below it.
    pub(super) fn way_to<'a>(&self, group: &'a Path) -> Option<&'a Path> {
        let way = group.strip_prefix(&self.root).ok()?;
        // A group outside of what this process may name is in no folder that it can name.
        way.components().all(|part| matches!(part, Component::Normal(_))).then_some(way)
    }
}

/// A path as the kernel writes it: spaces, tabs, ends of lines and backslashes as `\` and three
/// octal digits.
fn path(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, behind)) = rest.split_first() {
        let escaped = behind.get(..3).filter(|_| first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &behind[3..] } else { behind };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let parse = |line: &str| Mount::parse(line.as_bytes());
        let two = parse(
            "41 31 0:38 /a\\040b /mnt/c\\134d rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw",
        );
        let (root, point) = ("/a b".into(), "/mnt/c\\d".into());
        assert_eq!(two, Some(Mount { version: Version::Two, root, point }));
        let one = parse("35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,cpu,memory");
        assert_eq!(one.unwrap().version, Version::One);
        for other in [
            "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset",
            "34 31 0:31 / /sys/fs/cgroup/memory rw - tmpfs memory rw,memory",
            "34 31 0:31 / /point rw",
            "34 31",
            "",
            "34 31 0:31 / /point rw -",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_backslash_without_digits_stays() {
        assert_eq!(path(b"\\"), Path::new("\\"));
        assert_eq!(path(b"a\\04"), Path::new("a\\04"));
        assert_eq!(path(b"a\\0488\\777"), Path::new("a\\0488\\777"));
        assert_eq!(path(b"\\011x"), Path::new("\tx"));
    }

    #[test]
    fn the_way_to_a_group() {
        let mount =
            |root: &str| Mount { version: Version::Two, root: root.into(), point: "/m".into() };
        let way = |root: &str, group: &'static str| {
            mount(root).way_to(Path::new(group)).map(|way| way.to_str().unwrap())
        };
        assert_eq!(way("/", "/a/b"), Some("a/b"));
        assert_eq!(way("/a", "/a/b"), Some("b"));
        assert_eq!(way("/a/b", "/a/b"), Some(""));
        assert_eq!(way("/a", "/ab"), None);
        assert_eq!(way("/", "/../b"), None);
        assert_eq!(way("/..", "/"), None);
    }
}
