//! The log of a pool's traffic: one row per allocation and free, in RMM's CSV format.
//!
//! The file starts with the header `Thread,Time,Action,Pointer,Size,Stream`; each further
//! line is one [`Event`]:
//!
//! ```text
//! 1,00:00:00.029409,allocate,0x100000200,6297600,0x0
//! ```
//!
//! | column | text |
//! | --- | --- |
//! | Thread | decimal |
//! | Time | `HH:MM:SS.ffffff`, time of day |
//! | Action | `allocate`, `allocate failure` or `free` |
//! | Pointer | hexadecimal, with or without `0x`; `(nil)` is the null pointer |
//! | Size | bytes requested, decimal |
//! | Stream | hexadecimal, with or without `0x` |
//! | Site | where the program asked, if the header goes on with `,Site`: all text up to the end of the line, perhaps none |
//!
//! A stream without `0x` is hexadecimal too: streams are handles, and a handle printed
//! without its prefix cannot be told from a decimal number by looking at it. What counts
//! is that distinct streams stay distinct, and they do.
//!
//! A file may be plain or gzip. Writers choose by the name (`.gz`), readers by the file's
//! first two bytes.

mod checker;
mod event;
mod reader;
mod recorder;
mod site;
mod writer;

pub use checker::{Checker, Fault, Faults, Meaning};
pub use event::{Action, Event, NANOSECONDS_PER_DAY};
pub use reader::{Reader, Trace};
pub use recorder::Recorder;
pub use site::set_site;
pub use writer::Writer;

/// The first line of every trace, and the names of its columns.
const HEADER: &str = "Thread,Time,Action,Pointer,Size,Stream";

/// What the first line goes on with where each row has one column more, the last: text, commas and
/// all, that says where the program asked. RMM has none.
const SITE: &str = ",Site";

#[cfg(test)]
mod scratch {
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A path of its own for one test, removed when dropped.
    pub struct Scratch(PathBuf);

    impl Scratch {
        pub fn new(name: &str) -> Scratch {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let file = format!("forebay-{}-{number}-{name}", std::process::id());
            Scratch(std::env::temp_dir().join(file))
        }

        pub fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            // A test that never wrote its file has nothing to remove.
            let _ = std::fs::remove_file(&self.0);
        }
    }
}
