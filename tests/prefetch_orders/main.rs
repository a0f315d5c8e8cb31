//! The prefetcher under every order of steps that a model checker tries: the engine as it is, built
//! from the checker's locks and threads, over slots whose copies happen as late as they may.
//!
//! What the slots are asked to do, they check: one thread at a time, and none after the end. A copy
//! to the device reads its source when somebody waits for it, and not before, so that a source or
//! staging memory that is used again too early shows in what the consumer gets.

#![allow(missing_docs)]
// That is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
#[path = "../../src/prefetch/config.rs"]
mod config;
#[allow(dead_code, unused_imports)]
#[path = "../../src/prefetch/copy.rs"]
mod copy;
#[allow(dead_code)]
#[path = "../../src/prefetch/engine.rs"]
mod engine;
#[allow(dead_code, unused_imports)]
#[path = "../../src/prefetch/file.rs"]
mod file;
#[allow(dead_code)]
#[path = "../../src/prefetch/slot.rs"]
mod slot;
#[allow(dead_code)]
#[path = "../../src/prefetch/source.rs"]
mod source;
#[allow(dead_code)]
#[path = "../../src/prefetch/stats.rs"]
mod stats;
mod sync;
#[allow(dead_code)]
#[path = "../../src/prefetch/target.rs"]
mod target;

use forebay::{device, order, pool};

mod error {
    pub use forebay::error::*;

    macro_rules! fail {
        ($kind:ident, $($message:tt)*) => {
            $crate::error::Error::new($crate::error::Kind::$kind, format_args!($($message)*))
        };
    }
    pub(crate) use fail;
}

use std::sync::Arc;
use std::time::Duration;

use config::Config;
use device::cuda::Piece;
use engine::{Batch, Prefetcher};
use error::{Kind, Result, fail};
use order::Stream;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread::{JoinHandle, spawn, yield_now};
use shuttle::{Config as Checker, Runner};
use source::{CHUNK, Leaf, Source};
use target::{Over, Room, Target};

/// Orders of steps that are tried of each scenario, by each of two schedulers.
const RUNS: usize = 1_000;

const DEFAULT: Stream = Stream::DEFAULT;
/// A stream whose readers are done when the test says so.
const LATE: Stream = Stream(16);

#[derive(Default)]
struct Row {
    staging: Vec<u8>,
    device: Vec<u8>,
    /// What was sent and has not happened yet.
    pending: Vec<Piece>,
    /// A thread is in a call that is for one.
    entered: bool,
}

impl Row {
    fn happen(&mut self) {
        for Piece { from, to, bytes } in self.pending.drain(..) {
            // SAFETY: what the test of the engine is about; both are vectors of the test's that live.
            unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        }
    }
}

/// What fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Prepare,
    Send,
}

struct Few {
    rows: sync::Mutex<Vec<Row>>,
    overs: sync::Mutex<Vec<Over<Few>>>,
    fault: Fault,
}

impl Few {
    fn alone<T>(&self, slot: usize, body: impl FnOnce(&mut Row) -> T) -> T {
        let enter = |entered| {
            let mut rows = self.rows.lock();
            assert_ne!(rows[slot].entered, entered, "two threads at slot {slot}");
            rows[slot].entered = entered;
        };
        enter(true);
        yield_now();
        let answer = body(&mut self.rows.lock()[slot]);
        enter(false);
        answer
    }
}

impl Target for Few {
    fn is_streaming(&self) -> bool {
        true
    }

    fn make_room(&self, slot: usize, bytes: u64) -> Result<Room> {
        self.alone(slot, |row| {
            row.happen();
            row.staging = vec![0; bytes as usize];
            row.device = vec![0; bytes as usize];
            let address = row.device.as_ptr() as usize;
            Ok(Room { staging: row.staging.as_ptr() as usize, address, bytes })
        })
    }

    fn prepare(&self, slot: usize) -> Result<()> {
        if self.fault == Fault::Prepare {
            return Err(fail!(Io, "as the test wants it"));
        }
        self.alone(slot, |row| row.happen());
        Ok(())
    }

    unsafe fn send(&self, slot: usize, pieces: &[Piece]) -> Result<()> {
        if self.fault == Fault::Send {
            return Err(fail!(Io, "as the test wants it"));
        }
        self.alone(slot, |row| {
            assert!(row.pending.is_empty(), "staging memory was used before its copy");
            row.pending = pieces.to_vec();
        });
        Ok(())
    }

    fn follow(&self, slot: usize, _: Stream) -> Result<()> {
        self.rows.lock()[slot].happen();
        Ok(())
    }

    fn is_there(&self, slot: usize) -> Result<bool> {
        Ok(self.rows.lock()[slot].pending.is_empty())
    }

    fn wait(&self, slot: usize) -> Result<()> {
        self.alone(slot, |row| row.happen());
        Ok(())
    }

    fn leave(&self, slot: usize, stream: Stream, over: Over<Few>) -> Result<()> {
        if stream == LATE {
            self.overs.lock().push(over);
        } else {
            self.alone(slot, |_| ());
            over.run();
        }
        Ok(())
    }

    fn close(&self, kept: &[usize]) -> Result<()> {
        let rows = self.rows.lock();
        for (slot, row) in rows.iter().enumerate() {
            assert!(!row.entered, "a thread is still at slot {slot}");
        }
        assert!(kept.is_empty(), "{kept:?}");
        Ok(())
    }

    fn staging_bytes(&self) -> (u64, u64) {
        (0, 0)
    }
}

type Small = Prefetcher<Few>;

fn world(slots: u32, copy_threads: u32, fault: Fault) -> Arc<Small> {
    let rows = (0..slots).map(|_| Row::default()).collect();
    let (rows, overs) = (sync::Mutex::new(rows), sync::Mutex::new(Vec::new()));
    let config = Config { slots, copy_threads, ..Config::default() };
    Arc::new(Prefetcher::create(Few { rows, overs, fault }, &config).unwrap())
}

fn with<T: Send + 'static>(
    prefetcher: &Arc<Small>,
    body: impl FnOnce(&Small) -> T + Send + 'static,
) -> JoinHandle<T> {
    let prefetcher = Arc::clone(prefetcher);
    spawn(move || body(&prefetcher))
}

fn leaf(bytes: &[u8], pinned: bool) -> Leaf {
    let source = Source::Memory { address: bytes.as_ptr() as usize, pinned };
    Leaf { source, bytes: bytes.len() as u64 }
}

/// Submits `bytes`, which the caller keeps as long as the contract asks for.
fn submit(prefetcher: &Small, bytes: &[u8], pinned: bool) -> Result<u64> {
    // SAFETY: the caller keeps them.
    unsafe { prefetcher.submit([leaf(bytes, pinned)].into_iter(), None) }
}

fn check(batch: Batch, value: u8) {
    // SAFETY: the test has the batch.
    let bytes =
        unsafe { std::slice::from_raw_parts(batch.address as *const u8, batch.bytes as usize) };
    assert!(
        bytes.first() == Some(&value) && bytes.last() == Some(&value),
        "not what was submitted"
    );
}

/// Nothing is in use, and it ends.
fn end(prefetcher: Arc<Small>) {
    assert_eq!(prefetcher.stats().unwrap().used_slots, 0);
    Arc::into_inner(prefetcher).unwrap().destroy().unwrap();
}

/// A producer, a consumer, and more batches than slots, of more than one chunk.
fn batches_come_as_they_were_submitted() {
    let prefetcher = world(2, 2, Fault::None);
    let (sender, receiver) = shuttle::sync::mpsc::channel();
    let producer = with(&prefetcher, move |prefetcher| {
        for value in 1..5u8 {
            // A source of its own, gone when the batch is sent.
            let source = vec![value; if value == 2 { CHUNK as usize + 1 } else { 3 }];
            let ticket = submit(prefetcher, &source, false).unwrap();
            while prefetcher.poll(ticket).is_ok_and(|it| it == engine::Progress::Staging) {
                yield_now();
            }
            drop(source);
            sender.send((ticket, value)).unwrap();
        }
    });
    for (ticket, value) in receiver {
        let batch = prefetcher.wait(ticket, DEFAULT).unwrap();
        yield_now();
        check(batch, value);
        prefetcher.release(ticket, DEFAULT).unwrap();
    }
    producer.join().unwrap();
    end(prefetcher);
}

/// One calls a batch off, and another waits for it: one of them has it, and the source is free.
fn a_batch_is_got_or_called_off() {
    for pinned in [false, true] {
        let prefetcher = world(1, 2, Fault::None);
        let mut source = vec![7; 3];
        let ticket = submit(&prefetcher, &source, pinned).unwrap();
        let waiter = with(&prefetcher, move |prefetcher| match prefetcher.wait(ticket, DEFAULT) {
            Ok(batch) => {
                check(batch, 7);
                prefetcher.release(ticket, DEFAULT).unwrap();
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::InvalidArgument);
                false
            }
        });
        let cancelled = prefetcher.cancel(ticket).is_ok();
        if cancelled {
            source.fill(0);
        }
        assert_ne!(waiter.join().unwrap(), cancelled);
        // The slot is there for the next one.
        let ticket = submit(&prefetcher, &[9], false).unwrap();
        check(prefetcher.wait(ticket, DEFAULT).unwrap(), 9);
        prefetcher.release(ticket, DEFAULT).unwrap();
        end(prefetcher);
    }
}

/// The end comes while a producer waits for a slot and a consumer for a batch.
fn it_ends_whatever_is_under_way() {
    let prefetcher = world(1, 1, Fault::None);
    let source = Arc::new(vec![5u8; 4]);
    let ticket = submit(&prefetcher, &source, false).unwrap();
    let kept = Arc::clone(&source);
    let producer = with(&prefetcher, move |prefetcher| submit(prefetcher, &kept, false).is_ok());
    let consumer = with(&prefetcher, move |prefetcher| {
        prefetcher.wait(ticket, DEFAULT).is_ok_and(|batch| {
            check(batch, 5);
            prefetcher.release(ticket, DEFAULT).unwrap();
            true
        })
    });
    let closer = with(&prefetcher, |prefetcher| prefetcher.close().unwrap());
    prefetcher.close().unwrap();
    closer.join().unwrap();
    consumer.join().unwrap();
    producer.join().unwrap();
    assert!(submit(&prefetcher, &source, false).is_err());
    Arc::into_inner(prefetcher).unwrap().destroy().unwrap();
}

/// Whatever fails fails where it is waited for, once, and the slot is there for the next one.
fn what_fails_is_told_in_its_place() {
    for fault in [Fault::Prepare, Fault::Send] {
        let prefetcher = world(1, 2, fault);
        let source = Arc::new(vec![5u8; CHUNK as usize + 1]);
        let ticket = submit(&prefetcher, &source, false).unwrap();
        let waiters = [0, 1].map(|_| {
            with(&prefetcher, move |prefetcher| {
                prefetcher.wait(ticket, DEFAULT).unwrap_err().kind()
            })
        });
        let told: Vec<Kind> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
        assert!(told.contains(&Kind::Io) && told.contains(&Kind::InvalidArgument), "{told:?}");
        assert_eq!(prefetcher.stats().unwrap().failed, 1);
        end(prefetcher);
    }
}

/// A reader is done later, on another thread; the slot is not used before.
fn a_late_reader_keeps_its_slot() {
    let prefetcher = world(1, 1, Fault::None);
    let ticket = submit(&prefetcher, &[3], false).unwrap();
    let batch = prefetcher.wait(ticket, LATE).unwrap();
    prefetcher.release(ticket, LATE).unwrap();
    let next = with(&prefetcher, |prefetcher| {
        let source = [4];
        let ticket = submit(prefetcher, &source, false).unwrap();
        check(prefetcher.wait(ticket, DEFAULT).unwrap(), 4);
        prefetcher.release(ticket, DEFAULT).unwrap();
    });
    yield_now();
    check(batch, 3);
    let over = prefetcher.shared().target().overs.lock().pop();
    over.unwrap().run();
    next.join().unwrap();
    end(prefetcher);
}

/// A slot that is lent, submitted by two, waited for by two.
fn a_lent_slot_is_submitted_once() {
    let prefetcher = world(2, 1, Fault::None);
    let lent = prefetcher.lend(4, Some(Duration::ZERO)).unwrap();
    // SAFETY: lent to the test.
    unsafe { std::ptr::write_bytes(lent.address as *mut u8, 8, 4) };
    let submits =
        [0, 1].map(|_| with(&prefetcher, move |it| it.submit_lent(lent.ticket, 4).is_ok()));
    let submitted = submits.into_iter().filter(|_| true).map(|it| it.join().unwrap());
    assert_eq!(submitted.filter(|&done| done).count(), 1);
    let waits = [DEFAULT, DEFAULT].map(|stream| {
        with(&prefetcher, move |it| it.wait(lent.ticket, stream).map(|batch| check(batch, 8)))
    });
    for wait in waits {
        wait.join().unwrap().unwrap();
    }
    prefetcher.release(lent.ticket, DEFAULT).unwrap();
    assert!(prefetcher.release(lent.ticket, DEFAULT).is_err());
    assert_eq!(prefetcher.stats().unwrap().delivered, 1);
    end(prefetcher);
}

fn main() {
    let scenarios: [(&str, fn()); 6] = [
        ("batches_come_as_they_were_submitted", batches_come_as_they_were_submitted),
        ("a_batch_is_got_or_called_off", a_batch_is_got_or_called_off),
        ("it_ends_whatever_is_under_way", it_ends_whatever_is_under_way),
        ("what_fails_is_told_in_its_place", what_fails_is_told_in_its_place),
        ("a_late_reader_keeps_its_slot", a_late_reader_keeps_its_slot),
        ("a_lent_slot_is_submitted_once", a_lent_slot_is_submitted_once),
    ];
    for (name, scenario) in scenarios {
        let start = std::time::Instant::now();
        // At random, and then with few but well-placed changes of thread.
        Runner::new(RandomScheduler::new(RUNS), Checker::new()).run(scenario);
        Runner::new(PctScheduler::new(3, RUNS), Checker::new()).run(scenario);
        let seconds = start.elapsed().as_secs_f64();
        println!("{name}: {} orders of steps in {seconds:.1} s", 2 * RUNS);
    }
}
