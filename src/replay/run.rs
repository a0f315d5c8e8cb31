//! The replay itself.

use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::sync::{Condvar, Mutex};

use super::plan::{Plan, Run, Step};
use super::usage::{Meter, cost_of_reading};
use super::{Options, Report, Target};
use crate::error::{Error, Kind, Result, fail, prepare_thread};

/// One byte in so many is written when blocks are touched: one in every page.
const TOUCH_EVERY: usize = 4096;

impl Plan {
    /// Replays the plan into `target`. Blocks that are left when the replay ends, by an
    /// error too, are freed.
    ///
    /// # Errors
    /// As [`super::replay`].
    pub fn run<T: Target + ?Sized>(&self, target: &T, options: &Options) -> Result<Report> {
        if options.repeat == 0 {
            return Err(fail!(InvalidArgument, "options.repeat is 0; it must be at least 1"));
        }
        if options.threads && self.threads > Plan::MAX_THREADS {
            return Err(fail!(
                InvalidArgument,
                "options.threads: the trace has {} threads; the limit is {}",
                self.threads,
                Plan::MAX_THREADS
            ));
        }
        if options.touch && !target.cpu_writable() {
            return Err(fail!(
                Unsupported,
                "options.touch: the CPU cannot write to the blocks of this target"
            ));
        }
        let slots = (0..self.slots).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        let replay = Replay { plan: self, target, options, slots, reading: cost_of_reading() };
        let mut report = Report {
            peak_requested: self.peak_requested,
            faults: self.faults.clone(),
            ..Report::default()
        };
        let outcome = match options.threads {
            true => replay.in_turns(&mut report),
            false => replay.alone(&mut report),
        };
        match outcome {
            Ok(()) => Ok(report),
            Err(stop) => {
                // The blocks go back; whether the target takes them changes nothing about
                // the error that ended the replay.
                let _ = replay.release(stop.executed);
                Err(Error::new(stop.kind, format_args!("{}", stop.message)))
            }
        }
    }
}

struct Replay<'a, T: ?Sized> {
    plan: &'a Plan,
    target: &'a T,
    options: &'a Options,
    /// The live blocks; null where there is none. Threads take turns under a lock, which
    /// orders their accesses: relaxed ones are enough, and cost what plain ones do.
    slots: Vec<AtomicPtr<u8>>,
    /// What a measurement of nothing shows, in nanoseconds.
    reading: u64,
}

/// Why a replay ended early. It holds the message itself, since an error's message stays
/// with the thread that met it.
#[derive(Debug)]
struct Stop {
    /// How many steps of the round were begun.
    executed: usize,
    kind: Kind,
    message: String,
}

impl<T: Target + ?Sized> Replay<'_, T> {
    fn alone(&self, report: &mut Report) -> std::result::Result<(), Stop> {
        prepare_thread(); // So that a refused allocation has room for its message.
        for _ in 0..self.options.repeat {
            self.begin_round(report);
            self.measure(0..self.plan.steps.len(), report)?;
            self.end_round(report)?;
        }
        Ok(())
    }

    fn begin_round(&self, report: &mut Report) {
        report.rounds.push(0);
    }

    fn end_round(&self, report: &mut Report) -> std::result::Result<(), Stop> {
        report.events += self.plan.events;
        report.recorded_failures += self.plan.recorded_failures;
        let (live, stop) = self.release(self.plan.steps.len());
        report.live_at_end = live;
        stop.map_or(Ok(()), Err)
    }

    /// Executes these steps and adds what they cost to the current round.
    fn measure(&self, steps: Range<usize>, report: &mut Report) -> std::result::Result<(), Stop> {
        let meter = Meter::start();
        let outcome = self.execute(steps, report);
        let usage = meter.stop(self.reading);
        report.nanoseconds += usage.nanoseconds;
        report.minor_faults += usage.minor_faults;
        report.major_faults += usage.major_faults;
        if let Some(round) = report.rounds.last_mut() {
            *round += usage.nanoseconds;
        }
        outcome
    }

    fn execute(&self, steps: Range<usize>, report: &mut Report) -> std::result::Result<(), Stop> {
        let first = steps.start;
        for (offset, step) in self.plan.steps[steps].iter().enumerate() {
            match *step {
                Step::Allocate { slot, size, stream } => match self.target.alloc(size, stream) {
                    Ok(block) => {
                        if self.options.touch {
                            // SAFETY: the target says that its blocks can be written; this
                            // one has `size` bytes and belongs to this replay.
                            unsafe { touch(block, size) };
                        }
                        self.slots[slot].store(block, Ordering::Relaxed);
                        report.allocations += 1;
                    }
                    Err(error) => self.alloc_failed(first + offset, error, report),
                },
                Step::Free { slot, stream } => {
                    let block = self.slots[slot].swap(ptr::null_mut(), Ordering::Relaxed);
                    if block.is_null() {
                        continue; // Its allocation failed.
                    }
                    // SAFETY: slots hold blocks of this target; the swap left null, so that
                    // nobody frees this one again.
                    match unsafe { self.target.free(block, stream) } {
                        Ok(()) => report.frees += 1,
                        Err(error) => return Err(self.free_failed(first + offset, error)),
                    }
                }
            }
        }
        Ok(())
    }

    #[cold]
    fn alloc_failed(&self, step: usize, error: Error, report: &mut Report) {
        report.failed_allocations += 1;
        if report.first_failure.is_none() {
            report.first_failure = Some((self.plan.lines[step], error.message()));
        }
    }

    #[cold]
    fn free_failed(&self, step: usize, error: Error) -> Stop {
        let line = self.plan.lines[step];
        let message = format!("line {line} of the trace: the free failed: {}", error.message());
        Stop { executed: step + 1, kind: error.kind(), message }
    }

    /// Frees what is live after the first `executed` steps, each block on the stream of its
    /// allocation. Returns the number of blocks, and the first error on the way.
    fn release(&self, executed: usize) -> (u64, Option<Stop>) {
        let mut origins = vec![None; self.slots.len()];
        for (index, step) in self.plan.steps[..executed].iter().enumerate() {
            if let Step::Allocate { slot, stream, .. } = *step {
                origins[slot] = Some((index, stream));
            }
        }
        let (mut live, mut stop) = (0, None);
        for (slot, origin) in self.slots.iter().zip(origins) {
            let block = slot.swap(ptr::null_mut(), Ordering::Relaxed);
            let Some((index, stream)) = origin.filter(|_| !block.is_null()) else { continue };
            live += 1;
            // SAFETY: as in `execute`.
            if let Err(error) = unsafe { self.target.free(block, stream) } {
                let (line, why) = (self.plan.lines[index], error.message());
                stop.get_or_insert_with(|| Stop {
                    executed,
                    kind: error.kind(),
                    message: format!("the block of line {line}, live at the end: {why}"),
                });
            }
        }
        (live, stop)
    }

    /// As `alone`, with one thread per thread of the trace. The one whose turn it is holds
    /// the lock while it works.
    fn in_turns(&self, report: &mut Report) -> std::result::Result<(), Stop> {
        let runs = &self.plan.runs;
        if runs.is_empty() {
            return self.alone(report); // No thread has anything to do.
        }
        let turns = Turns {
            state: Mutex::new(State { next: Some(0), report: std::mem::take(report), stop: None }),
            wake: (0..self.plan.threads).map(|_| Condvar::new()).collect(),
        };
        let mut runs_of = vec![Vec::new(); self.plan.threads];
        for (index, run) in runs.iter().enumerate() {
            runs_of[run.thread].push(index);
        }
        std::thread::scope(|scope| {
            for (thread, own) in runs_of.iter().enumerate() {
                let turns = &turns;
                let builder = std::thread::Builder::new().name(format!("replay {thread}"));
                let work = move || self.take_turns(thread, own, turns);
                if let Err(error) = builder.spawn_scoped(scope, work) {
                    self.cannot_start(thread, turns, &error);
                    break;
                }
            }
        });
        let State { report: done, stop, .. } = turns.state.into_inner();
        *report = done;
        stop.map_or(Ok(()), Err)
    }

    /// Ends the replay because the thread of this number could not be started.
    fn cannot_start(&self, thread: usize, turns: &Turns, error: &std::io::Error) {
        let mut state = turns.state.lock();
        // The threads before it may have worked already, and may have met an error: that
        // one was first, then.
        if let Some(next) = state.next.take() {
            let (number, all) = (thread + 1, self.plan.threads);
            state.stop = Some(Stop {
                executed: self.plan.runs[next].steps.start,
                kind: Kind::OutOfMemory,
                message: format!("thread {number} of {all} cannot be started: {error}"),
            });
        }
        turns.wake_all();
    }

    /// The work of one thread, whose runs are `own`.
    fn take_turns(&self, thread: usize, own: &[usize], turns: &Turns) {
        let runs = &self.plan.runs;
        prepare_thread();
        // When the target panics, the others must not wait for this thread for ever.
        let _wake_all = WakeAllOnPanic(turns);
        for _ in 0..self.options.repeat {
            for &run in own {
                let mut state = turns.state.lock();
                while state.next.is_some_and(|next| next != run) {
                    state = turns.wake[thread].wait(state);
                }
                if state.next.take().is_none() {
                    return;
                }
                // Nobody is next while this thread works: none still if it panics.
                match self.one_run(run, &mut state.report) {
                    Ok(()) => {
                        let next = (run + 1) % runs.len();
                        state.next = Some(next);
                        turns.wake[runs[next].thread].notify_one();
                    }
                    Err(stop) => {
                        state.stop = Some(stop);
                        turns.wake_all();
                        return;
                    }
                }
            }
        }
    }

    fn one_run(&self, run: usize, report: &mut Report) -> std::result::Result<(), Stop> {
        if run == 0 {
            self.begin_round(report);
        }
        let Run { steps, .. } = &self.plan.runs[run];
        self.measure(steps.clone(), report)?;
        if run + 1 == self.plan.runs.len() {
            self.end_round(report)?;
        }
        Ok(())
    }
}

/// How threads take turns.
struct Turns {
    state: Mutex<State>,
    /// One per thread, so that passing the turn on wakes only the thread that gets it.
    wake: Vec<Condvar>,
}

struct State {
    /// The run whose turn it is; none when the replay has stopped.
    next: Option<usize>,
    report: Report,
    stop: Option<Stop>,
}

impl Turns {
    fn wake_all(&self) {
        for wake in &self.wake {
            wake.notify_all();
        }
    }
}

struct WakeAllOnPanic<'a>(&'a Turns);

impl Drop for WakeAllOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.wake_all();
        }
    }
}

/// Writes to every page of the block, and to its last byte.
///
/// # Safety
/// `block` has `size` bytes that can be written and belong to the caller.
unsafe fn touch(block: *mut u8, size: usize) {
    let last = size.checked_sub(1);
    for offset in (0..size).step_by(TOUCH_EVERY).chain(last) {
        // Volatile, or the compiler may see that nobody reads what was written.
        // SAFETY: `offset` is below `size`.
        unsafe { block.add(offset).write_volatile(1) };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::thread::ThreadId;

    use proptest::prelude::*;

    use super::super::{SystemMalloc, replay};
    use super::*;
    use crate::trace::{Action, Event, Trace};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Call {
        Alloc {
            size: usize,
            stream: usize,
        },
        /// `touched` counts the bytes that are not zero any more.
        Free {
            size: usize,
            stream: usize,
            touched: usize,
        },
    }

    /// Zeroed blocks of exact size, and a record of what was asked.
    #[derive(Default)]
    struct Shelf {
        blocks: Mutex<HashMap<usize, usize>>,
        calls: Mutex<Vec<(Call, ThreadId)>>,
        refuse_alloc: Option<usize>,
        refuse_free: Option<usize>,
        panic_at: Option<usize>,
    }

    impl Shelf {
        fn calls(&self) -> Vec<Call> {
            self.calls.lock().iter().map(|&(call, _)| call).collect()
        }

        fn live(&self) -> usize {
            self.blocks.lock().len()
        }

        fn note(&self, call: Call) {
            self.calls.lock().push((call, std::thread::current().id()));
        }
    }

    // SAFETY: each block is a boxed slice of its own of at least `size` bytes.
    unsafe impl Target for Shelf {
        fn alloc(&self, size: usize, stream: usize) -> Result<*mut u8> {
            assert_ne!(self.panic_at, Some(size), "told to panic");
            self.note(Call::Alloc { size, stream });
            if self.refuse_alloc == Some(size) {
                return Err(fail!(OutOfMemory, "the shelf refuses {size} bytes"));
            }
            let block = Box::into_raw(vec![0u8; size.max(1)].into_boxed_slice()).cast::<u8>();
            self.blocks.lock().insert(block as usize, size);
            Ok(block)
        }

        unsafe fn free(&self, block: *mut u8, stream: usize) -> Result<()> {
            let size = self.blocks.lock().remove(&(block as usize)).expect("a block of ours");
            let slice = ptr::slice_from_raw_parts_mut(block, size.max(1));
            // SAFETY: it was made by Box::into_raw with this length, and was in the map.
            let block = unsafe { Box::from_raw(slice) };
            let touched = block.iter().filter(|&&byte| byte != 0).count();
            self.note(Call::Free { size, stream, touched });
            match self.refuse_free == Some(size) {
                true => Err(fail!(InvalidPointer, "the shelf keeps {size} bytes")),
                false => Ok(()),
            }
        }

        fn cpu_writable(&self) -> bool {
            true
        }
    }

    use Action::{Allocate, AllocateFailure, Free};

    /// A trace of (thread, action, pointer, size); the stream is ten times the thread.
    fn trace(rows: &[(u64, Action, u64, u64)]) -> Trace {
        let events = rows.iter().map(|&(thread, action, pointer, size)| Event {
            thread,
            time: 0,
            action,
            pointer,
            size,
            stream: thread * 10,
        });
        Trace { path: "t.csv".into(), events: events.collect() }
    }

    fn alloc(size: usize, stream: usize) -> Call {
        Call::Alloc { size, stream }
    }

    fn free(size: usize, stream: usize) -> Call {
        Call::Free { size, stream, touched: 0 }
    }

    const ALONE: Options = Options { touch: false, threads: false, repeat: 1 };
    const THREADS: Options = Options { threads: true, ..ALONE };

    fn same(stream: u64) -> usize {
        stream as usize
    }

    #[test]
    fn rows_become_calls() {
        let rows = [
            (1, Allocate, 0xa, 100),
            (1, AllocateFailure, 0, 7),
            (2, Allocate, 0xb, 200),
            (2, Free, 0xa, 100),
            (1, Allocate, 0xc, 300),
        ];
        for options in [ALONE, THREADS] {
            let shelf = Shelf::default();
            let report = replay(&trace(&rows), &shelf, &options, |stream| same(stream) + 1);
            let report = report.unwrap();
            let calls = [alloc(100, 11), alloc(200, 21), free(100, 21), alloc(300, 11)];
            assert_eq!(shelf.calls()[..4], calls);
            // What is live at the end goes back where it came from.
            let mut rest = shelf.calls()[4..].to_vec();
            rest.sort_by_key(|call| matches!(call, Call::Free { size: 300, .. }));
            assert_eq!(rest, [free(200, 21), free(300, 11)]);
            let expected = Report {
                events: 5,
                allocations: 3,
                frees: 1,
                recorded_failures: 1,
                live_at_end: 2,
                peak_requested: 500,
                nanoseconds: report.nanoseconds,
                rounds: report.rounds.clone(),
                minor_faults: report.minor_faults,
                major_faults: report.major_faults,
                ..Report::default()
            };
            assert_eq!(report, expected);
        }
    }

    #[test]
    fn rounds_are_alike_and_add_up() {
        let rows = [(1, Allocate, 0xa, 100), (2, Allocate, 0xb, 200), (1, Free, 0xa, 100)];
        for options in [ALONE, THREADS] {
            let shelf = Shelf::default();
            let options = Options { repeat: 3, ..options };
            let report = replay(&trace(&rows), &shelf, &options, same).unwrap();
            let round = [alloc(100, 10), alloc(200, 20), free(100, 10), free(200, 20)];
            assert_eq!(shelf.calls(), round.repeat(3));
            assert_eq!((report.events, report.allocations, report.frees), (9, 6, 3));
            assert_eq!((report.live_at_end, report.peak_requested), (1, 300));
            assert_eq!(report.rounds.len(), 3);
            assert_eq!(report.nanoseconds, report.rounds.iter().sum::<u64>());
            assert!(report.nanoseconds > 0);
        }
    }

    #[test]
    fn a_refused_allocation_is_counted_and_its_free_skipped() {
        let rows = [
            (1, Allocate, 0xa, 100),
            (1, Allocate, 0xb, 666),
            (2, Free, 0xb, 666),
            (2, Allocate, 0xc, 666),
            (1, Free, 0xa, 100),
        ];
        for options in [ALONE, THREADS] {
            let shelf = Shelf { refuse_alloc: Some(666), ..Shelf::default() };
            let report = replay(&trace(&rows), &shelf, &options, same).unwrap();
            let calls = [alloc(100, 10), alloc(666, 10), alloc(666, 20), free(100, 10)];
            assert_eq!(shelf.calls(), calls);
            assert_eq!((report.allocations, report.failed_allocations), (1, 2));
            assert_eq!((report.frees, report.live_at_end), (1, 0));
            let message = "the shelf refuses 666 bytes".to_owned();
            assert_eq!(report.first_failure, Some((3, message)));
        }
    }

    #[test]
    fn rows_that_make_no_sense_are_reported_once_and_skipped() {
        let rows = [
            (1, Free, 0xa, 100),
            (1, Allocate, 0xa, 100),
            (1, Allocate, 0xa, 200),
            (1, Free, 0xa, 300),
        ];
        let shelf = Shelf::default();
        let options = Options { repeat: 2, ..ALONE };
        let report = replay(&trace(&rows), &shelf, &options, same).unwrap();
        assert_eq!(shelf.calls(), [alloc(100, 10), free(100, 10)].repeat(2));
        assert_eq!((report.events, report.allocations, report.frees), (8, 2, 2));
        let faults: Vec<_> = report.faults.first.iter().map(|fault| fault.line).collect();
        assert_eq!((report.faults.total, faults), (3, vec![2, 4, 5]));
    }

    #[test]
    fn a_refused_free_ends_the_replay() {
        let rows = [
            (1, Allocate, 0xa, 100),
            (2, Allocate, 0xb, 666),
            (2, Free, 0xb, 666),
            (1, Allocate, 0xc, 300),
        ];
        for options in [ALONE, THREADS] {
            let shelf = Shelf { refuse_free: Some(666), ..Shelf::default() };
            let error = replay(&trace(&rows), &shelf, &options, same).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidPointer);
            let message = "line 4 of the trace: the free failed: the shelf keeps 666 bytes";
            assert_eq!(error.message(), message);
            let calls = [alloc(100, 10), alloc(666, 20), free(666, 20), free(100, 10)];
            assert_eq!(shelf.calls(), calls);
        }
    }

    #[test]
    fn a_free_refused_at_the_end_is_an_error_too() {
        let rows = [(1, Allocate, 0xa, 666), (2, Allocate, 0xb, 100)];
        for options in [ALONE, THREADS] {
            let shelf = Shelf { refuse_free: Some(666), ..Shelf::default() };
            let error = replay(&trace(&rows), &shelf, &options, same).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidPointer);
            let message = "the block of line 2, live at the end: the shelf keeps 666 bytes";
            assert_eq!(error.message(), message);
            assert_eq!(shelf.live(), 0);
        }
    }

    #[test]
    fn touching_writes_to_each_page_and_the_last_byte() {
        let sizes = [0, 1, 2, 4096, 4097, 4098, 8192, 10_000];
        let written = [0, 1, 2, 2, 2, 3, 3, 4];
        for (size, touched) in std::iter::zip(sizes, written) {
            let trace = trace(&[(1, Allocate, 0xa, size as u64), (1, Free, 0xa, size as u64)]);
            for (touch, touched) in [(true, touched), (false, 0)] {
                let shelf = Shelf::default();
                replay(&trace, &shelf, &Options { touch, ..ALONE }, same).unwrap();
                assert_eq!(shelf.calls()[1], Call::Free { size, stream: 10, touched });
            }
        }
    }

    #[test]
    fn page_faults_are_counted() {
        let size = 64 << 20;
        let trace = trace(&[(1, Allocate, 0xa, size), (1, Free, 0xa, size)]);
        for options in [ALONE, THREADS] {
            let touched = Options { touch: true, ..options };
            let report = replay(&trace, &SystemMalloc, &touched, same).unwrap();
            // At least one per 2 MiB, should the system use huge pages.
            assert!(report.minor_faults >= 32, "{report:?}");
            let untouched = replay(&trace, &SystemMalloc, &options, same).unwrap();
            assert!(untouched.minor_faults < 32, "{untouched:?}");
            assert!(untouched.nanoseconds < report.nanoseconds);
        }
    }

    #[test]
    fn each_thread_of_the_trace_is_one_thread() {
        let mut rows = Vec::new();
        for step in 0..200 {
            // Threads 0 to 6 in a mixed order, with runs of several rows.
            rows.push((step * step % 7, Allocate, step + 1, step));
        }
        let trace = trace(&rows);
        let shelf = Shelf::default();
        replay(&trace, &shelf, &Options { repeat: 2, ..THREADS }, same).unwrap();
        let calls = shelf.calls.lock();
        let allocs: Vec<_> =
            calls.iter().filter(|(call, _)| matches!(call, Call::Alloc { .. })).collect();
        assert_eq!(allocs.len(), 400);
        let mut ids: HashMap<u64, ThreadId> = HashMap::new();
        for (index, &&(call, id)) in allocs.iter().enumerate() {
            let (thread, _, _, size) = rows[index % 200];
            assert_eq!(call, alloc(size as usize, thread as usize * 10));
            assert_eq!(*ids.entry(thread).or_insert(id), id);
        }
        assert_eq!(ids.values().collect::<HashSet<_>>().len(), ids.len());
        assert!(!ids.values().any(|&id| id == std::thread::current().id()));
    }

    #[test]
    fn a_panic_in_the_target_reaches_the_caller() {
        let rows = [
            (1, Allocate, 0xa, 1),
            (2, Allocate, 0xb, 13),
            (3, Allocate, 0xc, 1),
            (1, Free, 0xa, 1),
        ];
        let shelf = Shelf { panic_at: Some(13), ..Shelf::default() };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            replay(&trace(&rows), &shelf, &THREADS, same)
        }));
        assert!(outcome.is_err());
        assert_eq!(shelf.calls(), [alloc(1, 10)]);
    }

    #[test]
    fn a_thread_that_cannot_start_ends_the_replay() {
        let plan = Plan::new(&trace(&[(1, Allocate, 0xa, 1), (2, Allocate, 0xb, 2)]), same);
        let shelf = Shelf::default();
        let slots = (0..plan.slots).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        let replay = Replay { plan: &plan, target: &shelf, options: &THREADS, slots, reading: 0 };
        let state = State { next: Some(0), report: Report::default(), stop: None };
        let turns = Turns { state: Mutex::new(state), wake: vec![Condvar::new(), Condvar::new()] };
        replay.take_turns(0, &[0], &turns);
        let error = std::io::Error::from_raw_os_error(libc::EAGAIN);
        replay.cannot_start(1, &turns, &error);
        replay.take_turns(1, &[1], &turns); // Returns at once, since the replay has stopped.
        let stop = turns.state.into_inner().stop.unwrap();
        assert_eq!((stop.executed, stop.kind), (1, Kind::OutOfMemory));
        assert!(stop.message.starts_with("thread 2 of 2 cannot be started"), "{}", stop.message);
        assert_eq!((replay.release(stop.executed).0, shelf.live()), (1, 0));
    }

    #[test]
    fn options_have_limits() {
        struct Device;
        // SAFETY: it gives out nothing.
        unsafe impl Target for Device {
            fn alloc(&self, _size: usize, _stream: usize) -> Result<*mut u8> {
                Err(fail!(OutOfMemory, "no memory"))
            }
            unsafe fn free(&self, _block: *mut u8, _stream: usize) -> Result<()> {
                Err(fail!(InvalidPointer, "not ours"))
            }
            fn cpu_writable(&self) -> bool {
                false
            }
        }
        let refused = |trace: &Trace, options: Options| {
            let error = replay(trace, &Device, &options, same).unwrap_err();
            (error.kind(), error.message())
        };
        let one = trace(&[(1, Allocate, 0xa, 1)]);
        let (kind, message) = refused(&one, Options { repeat: 0, ..ALONE });
        assert_eq!(kind, Kind::InvalidArgument);
        assert_eq!(message, "options.repeat is 0; it must be at least 1");
        let (kind, message) = refused(&one, Options { touch: true, ..ALONE });
        assert_eq!(kind, Kind::Unsupported);
        assert!(message.starts_with("options.touch: the CPU cannot write"), "{message}");
        let rows: Vec<_> = (1..=1025).map(|thread| (thread, Allocate, thread, 1)).collect();
        let (kind, message) = refused(&trace(&rows), THREADS);
        assert_eq!(kind, Kind::InvalidArgument);
        assert_eq!(message, "options.threads: the trace has 1025 threads; the limit is 1024");
        // On one thread, any number of them will do.
        assert_eq!(replay(&trace(&rows), &Device, &ALONE, same).unwrap().failed_allocations, 1025);
    }

    #[test]
    fn an_empty_trace_is_replayed() {
        for options in [ALONE, THREADS] {
            let options = Options { repeat: 2, ..options };
            let report = replay(&trace(&[]), &SystemMalloc, &options, same).unwrap();
            assert_eq!((report.events, report.rounds.len()), (0, 2));
            assert_eq!(report.live_at_end, 0);
        }
    }

    /// Rows of three threads over eight pointers, sensible or not.
    fn rows() -> impl Strategy<Value = Vec<(u64, Action, u64, u64)>> {
        let action = prop_oneof![Just(Allocate), Just(Free), Just(AllocateFailure)];
        let row = (1..4u64, action, 0..8u64, 0..3u64);
        let row = row.prop_map(|(thread, action, pointer, size)| {
            (thread, action, pointer, pointer * 5000 + size / 2)
        });
        proptest::collection::vec(row, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_rows_are_replayed_alike_with_and_without_threads(
            rows in rows(), touch: bool, repeat in 1..3u32, refuse_alloc in 0..8usize,
        ) {
            let trace = trace(&rows);
            let mut seen = Vec::new();
            for threads in [false, true] {
                let refuse_alloc = Some(refuse_alloc * 5000);
                let shelf = Shelf { refuse_alloc, ..Shelf::default() };
                let options = Options { touch, threads, repeat };
                let report = replay(&trace, &shelf, &options, same).unwrap();
                prop_assert_eq!(shelf.live(), 0);
                prop_assert_eq!(report.events, rows.len() as u64 * u64::from(repeat));
                let allocs = report.allocations + report.failed_allocations;
                let live = report.live_at_end * u64::from(repeat);
                prop_assert_eq!(report.allocations, report.frees + live);
                prop_assert_eq!(shelf.calls().len() as u64, allocs + report.frees + live);
                seen.push((shelf.calls(), report.failed_allocations, report.faults));
            }
            prop_assert_eq!(&seen[0], &seen[1]);
        }
    }
}
