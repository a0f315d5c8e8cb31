//! The kernel's files, and the two forms in which they have numbers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the kernel's files are, and how many were read.
#[derive(Debug)]
pub(super) struct Files {
    /// A folder that stands for the root of the file system; none for the root itself.
    root: Option<PathBuf>,
    reads: AtomicU64,
}

impl Files {
    /// Those of this system.
    pub(super) const fn of_system() -> Files {
        Files { root: None, reads: AtomicU64::new(0) }
    }

    /// Made-up ones, under `root`.
    pub(super) fn under(root: &Path) -> Files {
        Files { root: Some(root.to_owned()), reads: AtomicU64::new(0) }
    }

    /// Where the file with an absolute path is.
    fn place(&self, path: &Path) -> PathBuf {
        match &self.root {
            None => path.to_owned(),
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        }
    }

    /// What is in a file; none where it is not there or not for us.
    pub(super) fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        std::fs::read(self.place(path.as_ref())).ok()
    }

    /// As [`Files::bytes`], as text. What is no text becomes what no number has in it.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        self.bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The number that is all that a file has; none for `max` and for anything else.
    pub(super) fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.text(path)?.trim().parse().ok()
    }

    /// Whether there is a folder.
    pub(super) fn has_folder(&self, path: &Path) -> bool {
        self.place(path).is_dir()
    }

    /// Files that were read so far, or were not there to be read.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

/// The number behind `name` in lines of `name:   number`, as `/proc/meminfo` has counts.
pub(super) fn count(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// As [`count`], of kibibytes (`name:   number kB`), in bytes.
pub(super) fn kib(text: &str, name: &str) -> Option<u64> {
    count(text, name)?.checked_mul(1024)
}

/// The number behind `name` in lines of `name number`, as `memory.stat` has them.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}
