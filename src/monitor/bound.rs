//! What bounds this process's memory, and which of the bounds is reached first.

use std::fmt;

use super::group::{GroupLimit, Version};

/// Where a limit comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The machine: its memory, and what the kernel says is available of it.
    Machine,
    /// A control group.
    Group {
        /// Which of the two it is a group of.
        version: Version,
        /// Its name.
        path: String,
        /// Which of its limits.
        limit: GroupLimit,
    },
    /// `RLIMIT_AS`: addresses that are mapped.
    AddressSpace,
    /// `RLIMIT_DATA`: private memory that can be written to.
    Data,
    /// What the kernel promises, where it keeps its promises.
    Commit,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Machine => f.write_str("MemAvailable"),
            Source::Group { version, path, limit } => {
                write!(f, "cgroup v{} {path} {}", version.number(), limit.file(*version))
            }
            Source::AddressSpace => f.write_str("RLIMIT_AS"),
            Source::Data => f.write_str("RLIMIT_DATA"),
            Source::Commit => f.write_str("CommitLimit"),
        }
    }
}

/// A limit, and how much of it is left, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Whose it is.
    pub source: Source,
    /// All of it.
    pub limit: u64,
    /// What is left, at most all of it.
    pub left: u64,
}

/// Less than this share left is little.
const LITTLE: u64 = 16;

/// Whether little is left of a limit, a GPU's memory too: less than a sixteenth, or nothing.
pub fn is_little(left: u64, limit: u64) -> bool {
    left == 0 || left < limit / LITTLE
}

impl Bound {
    /// Whether little is left.
    pub fn is_short(&self) -> bool {
        is_little(self.left, self.limit)
    }

    /// Whether less than this share is left, in percent, or nothing.
    pub(super) fn is_below(&self, percent: u64) -> bool {
        self.left == 0 || u128::from(self.left) * 100 < u128::from(self.limit) * u128::from(percent)
    }
}

/// What is left in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// The bound of which least is left: that is reached first.
    pub bound: Bound,
    /// What should stay unused all the same.
    pub reserve: u64,
}

impl Headroom {
    /// At least this much is kept in reserve ...
    const RESERVE: u64 = 256 << 20;
    /// ... but no more than this share of a small limit ...
    const SMALL: u64 = 8;
    /// ... and at least this share of a large one.
    const LARGE: u64 = 50;

    /// Of all bounds; none where there is none.
    pub fn of(bounds: &[Bound]) -> Option<Headroom> {
        let bound = bounds.iter().min_by_key(|bound| bound.left)?.clone();
        let small = Headroom::RESERVE.min(bound.limit / Headroom::SMALL);
        Some(Headroom { reserve: small.max(bound.limit / Headroom::LARGE), bound })
    }

    /// What can be had: what is left, less the reserve.
    pub fn available(&self) -> u64 {
        self.bound.left.saturating_sub(self.reserve)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(source: Source, limit: u64, left: u64) -> Bound {
        Bound { source, limit, left }
    }

    #[test]
    fn the_least_is_what_is_left() {
        assert_eq!(Headroom::of(&[]), None);
        const GIB: u64 = 1 << 30;
        let machine = bound(Source::Machine, 100 * GIB, 50 * GIB);
        let data = bound(Source::Data, 64 * GIB, 8 * GIB);
        let headroom = Headroom::of(&[machine.clone(), data.clone()]).unwrap();
        assert_eq!((headroom.bound.clone(), headroom.reserve), (data, 64 * GIB / 50));
        assert_eq!(headroom.available(), 8 * GIB - 64 * GIB / 50);
        let of = |limit| Headroom::of(&[bound(Source::Machine, limit, limit)]).unwrap();
        // 2 %, 256 MiB, and an eighth where that would be most of it.
        assert_eq!(of(100 * GIB).reserve, 2 * GIB);
        assert_eq!(of(4 * GIB).reserve, GIB / 4);
        assert_eq!(of(GIB).reserve, GIB / 8);
        assert_eq!((of(0).reserve, of(0).available()), (0, 0));
        let none = Headroom::of(&[machine, bound(Source::Data, GIB, 3)]).unwrap();
        assert_eq!(none.available(), 0);
    }

    #[test]
    fn little_is_less_than_a_sixteenth() {
        assert!(bound(Source::Machine, 1600, 99).is_short());
        assert!(!bound(Source::Machine, 1600, 100).is_short());
        // Administrators set `memory.high` to 0 to have all of it reclaimed.
        assert!(
            bound(Source::Machine, 0, 0).is_short() && bound(Source::Machine, 0, 0).is_below(3)
        );
        assert!(bound(Source::Machine, u64::MAX, u64::MAX / 100).is_below(3));
        assert!(!bound(Source::Machine, 100, 3).is_below(3));
        assert!(bound(Source::Machine, 100, 2).is_below(3));
    }

    #[test]
    fn sources_have_names() {
        let path = "/a/b".to_owned();
        let group = Source::Group { version: Version::Two, path, limit: GroupLimit::High };
        assert_eq!(group.to_string(), "cgroup v2 /a/b memory.high");
        assert_eq!(Source::Machine.to_string(), "MemAvailable");
        assert_eq!(Source::AddressSpace.to_string(), "RLIMIT_AS");
    }
}
