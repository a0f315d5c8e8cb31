//! Records live traffic into a trace file, from any thread.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::sync::Mutex;
use flate2::Compression;

use super::event::{Action, Event, NANOSECONDS_PER_DAY};
use super::site::{SITE_MAX, site};
use super::writer::{Row, Writer, write_failed};
use crate::error::{Result, fail};

/// Appends a row per call to one file.
///
/// Rows stand in the order of the calls of [`Recorder::record`]. For the file to make
/// sense, an allocation is recorded after the block was given out and a free before it is
/// given back: the other way round, another thread's allocation of the same address could
/// come first. No lock of a pool should be held meanwhile, since a full buffer is written
/// to the file by the call that filled it.
///
/// A recorder dropped without [`Recorder::finish`] writes what it holds and loses any
/// error on the way.
pub struct Recorder {
    path: PathBuf,
    sites: bool,
    state: Mutex<State>,
}

struct State {
    rows: u64,
    output: Output,
}

enum Output {
    Open(Writer),
    /// A write failed; nothing is recorded after it, and `finish` tells.
    Broken(io::Error),
    Finished,
}

impl Recorder {
    /// Creates the file at `path`, or empties the one that is there. A name that ends in
    /// `.gz` makes a gzip file, packed fast rather than small.
    ///
    /// # Errors
    /// `Io` when the file cannot be created.
    pub fn create(path: impl AsRef<Path>) -> Result<Recorder> {
        Recorder::open(path.as_ref(), false)
    }

    /// As [`Recorder::create`], with a site for each allocation: what its thread said last, by
    /// [`set_site`](super::set_site).
    ///
    /// # Errors
    /// `Io` when the file cannot be created.
    pub fn create_with_sites(path: impl AsRef<Path>) -> Result<Recorder> {
        Recorder::open(path.as_ref(), true)
    }

    fn open(path: &Path, sites: bool) -> Result<Recorder> {
        let writer = Writer::create_compressed(path, Compression::fast(), sites)?;
        let state = State { rows: 0, output: Output::Open(writer) };
        Ok(Recorder { path: path.to_owned(), sites, state: Mutex::new(state) })
    }

    /// Appends a row for this thread, now. Allocates nothing. `pointer` is the block's
    /// address, `size` the bytes requested, `stream` the stream's handle.
    ///
    /// A write that fails stops the recording and is reported by [`Recorder::finish`];
    /// after that, and after `finish`, this does nothing.
    pub fn record(&self, action: Action, pointer: u64, size: u64, stream: u64) {
        let thread = thread_number();
        let mut row = Row::new(&Event { thread, time: 0, action, pointer, size, stream });
        let mut text = self.sites.then_some([0; SITE_MAX]);
        // Who frees a block is not who asked for it.
        let said = text.as_mut().map(|text| match action {
            Action::Free => &[][..],
            Action::Allocate | Action::AllocateFailure => site(text),
        });
        let mut state = self.state.lock();
        if let Output::Open(writer) = &mut state.output {
            // The clock is read under the lock, so that times rise with the rows.
            row.set_time(time_of_day());
            let written = match said {
                Some(said) => writer.write_row_of(&row, said),
                None => writer.write_row(&row),
            };
            match written {
                Ok(()) => state.rows += 1,
                Err(error) => state.output = Output::Broken(error),
            }
        }
    }

    /// In the child of a fork: the file is the parent's, which writes the rows that were
    /// gathered so far. Here they are dropped, and nothing is recorded from now on.
    pub fn abandon(&self) {
        if let Output::Open(writer) =
            std::mem::replace(&mut self.state.lock().output, Output::Finished)
        {
            writer.abandon();
        }
    }

    /// Writes everything out, closes the file and tells the number of rows.
    ///
    /// # Errors
    /// `Io` when this or an earlier write failed: the file then ends early, possibly
    /// within a row. `InvalidState` when the recording was finished before.
    pub fn finish(&self) -> Result<u64> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut state.output, Output::Finished) {
            Output::Open(writer) => writer.finish().map(|()| state.rows),
            Output::Broken(error) => Err(write_failed(&self.path, &error)),
            Output::Finished => {
                let path = self.path.display();
                Err(fail!(InvalidState, "trace `{path}`: the recording was finished before"))
            }
        }
    }
}

/// Nanoseconds since midnight, UTC. A clock set before 1970 reads as midnight.
fn time_of_day() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() % 86_400 * 1_000_000_000 + u64::from(now.subsec_nanos())
}

const _: () = assert!(NANOSECONDS_PER_DAY == 86_400 * 1_000_000_000);

/// A small number for this thread, from 1, handed out at its first row and never reused
/// (the system reuses its thread ids within one recording).
fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Zero means none yet. There is nothing to drop, so that the number can be read even
    // while the thread's other locals are being destroyed.
    thread_local!(static NUMBER: Cell<u64> = const { Cell::new(0) });
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::reader::Trace;
    use super::super::scratch::Scratch;
    use super::*;
    use crate::error::Kind;

    #[test]
    fn rows_of_all_threads_are_kept_in_their_order() {
        for name in ["threads.csv", "threads.csv.gz"] {
            let file = Scratch::new(name);
            let recorder = Recorder::create(file.path()).unwrap();
            std::thread::scope(|scope| {
                for lane in 1..=4u64 {
                    let recorder = &recorder;
                    scope.spawn(move || {
                        for step in 0..1000 {
                            recorder.record(Action::Allocate, lane << 32 | step, step, lane);
                            recorder.record(Action::Free, lane << 32 | step, step, lane);
                        }
                    });
                }
            });
            assert_eq!(recorder.finish(), Ok(8000));

            let trace = Trace::load(file.path()).unwrap();
            assert_eq!(trace.events.len(), 8000);
            let mut numbers = HashSet::new();
            for lane in 1..=4u64 {
                let own: Vec<_> = trace.events.iter().filter(|e| e.stream == lane).collect();
                assert_eq!(own.len(), 2000);
                for (index, event) in own.iter().enumerate() {
                    let step = index as u64 / 2;
                    let action = [Action::Allocate, Action::Free][index % 2];
                    assert_eq!((event.action, event.size), (action, step));
                    assert_eq!(event.pointer, lane << 32 | step);
                    assert_eq!(event.thread, own[0].thread);
                }
                numbers.insert(own[0].thread);
            }
            assert_eq!(numbers.len(), 4);
        }
    }

    #[test]
    fn allocations_have_the_site_that_their_thread_said() {
        let file = Scratch::new("sites.csv.gz");
        let recorder = Recorder::create_with_sites(file.path()).unwrap();
        let record = |action, pointer| recorder.record(action, pointer, 8, 0);
        std::thread::scope(|scope| {
            let other = || {
                super::super::set_site(b"other.c:2 g");
                record(Action::Allocate, 1);
                record(Action::Free, 1);
                super::super::set_site(b"");
                record(Action::AllocateFailure, 2);
            };
            scope.spawn(other).join().unwrap();
            scope.spawn(|| record(Action::Allocate, 3)).join().unwrap();
        });
        assert_eq!(recorder.finish(), Ok(4));
        let mut reader = super::super::Reader::open(file.path()).unwrap();
        let mut sites = Vec::new();
        while let Some(event) = reader.read().unwrap() {
            sites.push((event.pointer, String::from_utf8_lossy(reader.site()).into_owned()));
        }
        let sites: Vec<_> = sites.iter().map(|(at, site)| (*at, site.as_str())).collect();
        assert_eq!(sites, [(1, "other.c:2 g"), (1, ""), (2, ""), (3, "")]);
    }

    #[test]
    fn the_time_is_the_clocks() {
        let file = Scratch::new("clock.csv");
        let recorder = Recorder::create(file.path()).unwrap();
        let before = time_of_day();
        recorder.record(Action::AllocateFailure, 0, 1, 0);
        let after = time_of_day();
        recorder.finish().unwrap();
        let time = Trace::load(file.path()).unwrap().events[0].time;
        // Around midnight the two readings are of different days.
        assert!(after < before || (before / 1000 * 1000..=after).contains(&time));
    }

    #[test]
    fn finishing_ends_the_recording() {
        let file = Scratch::new("finish.csv");
        let recorder = Recorder::create(file.path()).unwrap();
        recorder.record(Action::Allocate, 1, 2, 3);
        assert_eq!(recorder.finish(), Ok(1));
        recorder.record(Action::Free, 1, 2, 3);
        assert_eq!(recorder.finish().unwrap_err().kind(), Kind::InvalidState);
        assert_eq!(Trace::load(file.path()).unwrap().events.len(), 1);
    }

    #[test]
    fn a_failed_write_stops_the_recording_and_is_told_at_the_end() {
        let packed = Scratch::new("full.csv.gz");
        std::os::unix::fs::symlink("/dev/full", packed.path()).unwrap();
        for path in [Path::new("/dev/full"), packed.path()] {
            let recorder = Recorder::create(path).unwrap();
            // Numbers that pack badly, enough of them to fill every buffer on the way.
            let mut number = 1u64;
            for _ in 0..20_000 {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                recorder.record(Action::Allocate, number, number, number);
            }
            assert!(matches!(recorder.state.lock().output, Output::Broken(_)));
            let stopped_at = recorder.state.lock().rows;
            recorder.record(Action::Allocate, 1, 1, 1);
            assert_eq!(recorder.state.lock().rows, stopped_at);
            let told = std::thread::scope(|scope| {
                let finish = || recorder.finish().map_err(|error| (error.kind(), error.message()));
                scope.spawn(finish).join().unwrap()
            });
            let (kind, message) = told.unwrap_err();
            assert_eq!(kind, Kind::Io);
            let start = format!("trace `{}`: cannot write", path.display());
            assert!(message.starts_with(&start), "{message}");
        }
    }
}
