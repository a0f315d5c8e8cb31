//! Streams: queues of work under a clock that only tests and waiting calls move.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::code::*;
use crate::order::{Epoch, Kind, What};
use crate::work::Work;
use crate::{HOST, State};

/// A point in a stream: its key, and how many operations come before.
pub type Point = (u64, u64);

/// Priorities of streams, the least and the greatest.
pub const PRIORITIES: (i32, i32) = (0, -5);

pub struct Stream {
    pub device: usize,
    pub slot: u32,
    /// Whether it keeps order with the legacy stream.
    pub blocking: bool,
    pub priority: i32,
    held: bool,
    /// Destroyed; what is queued still runs.
    gone: bool,
    pub submitted: u64,
    done: u64,
    queue: VecDeque<Op>,
    /// When the first of the queue is done, once it has begun.
    ends: Option<u64>,
}

struct Op {
    after: Vec<Point>,
    ns: u64,
    work: Work,
}

/// All streams, by keys that are never used twice.
#[derive(Default)]
pub struct Streams {
    rows: BTreeMap<u64, Stream>,
    /// Keys by the handles that the program has.
    handles: HashMap<u64, u64>,
    /// Handles of streams that are gone, for the next ones.
    spare: Vec<u64>,
    /// The streams that no one makes: the legacy one of a device under thread 0, and those of
    /// threads.
    own: HashMap<(u64, usize), u64>,
    /// Nanoseconds of the virtual clock.
    pub now: u64,
}

thread_local! {
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// A number for this thread, from 1.
pub fn thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    THREAD.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

impl Streams {
    pub fn is_done(&self, (key, count): Point) -> bool {
        self.rows.get(&key).is_none_or(|row| row.done >= count)
    }
}

impl State {
    pub fn add_stream(&mut self, device: usize, name: &str, blocking: bool) -> u64 {
        let key = self.handle();
        let slot = self.order.slot(format!("{name} {key:#x} of device {device}"), Some(HOST));
        let (queue, ends) = (VecDeque::new(), None);
        let (held, gone, submitted, done) = (false, false, 0, 0);
        let priority = PRIORITIES.0;
        let row =
            Stream { device, slot, blocking, priority, held, gone, submitted, done, queue, ends };
        self.streams.rows.insert(key, row);
        key
    }

    pub fn create_stream(&mut self, flags: u32, priority: i32) -> Outcome<u64> {
        let device = self.current_device()?;
        match flags {
            0 | 1 => {
                let key = self.add_stream(device, "stream", flags == 0);
                if let Some(row) = self.streams.rows.get_mut(&key) {
                    row.priority = priority;
                }
                let handle = self.streams.spare.pop().unwrap_or(key);
                self.streams.handles.insert(handle, key);
                Ok(handle)
            }
            _ => Err(ERROR_INVALID_VALUE),
        }
    }

    /// The key of the stream that a handle means: 0 and 1 are the legacy stream, 2 that of
    /// the thread.
    pub fn stream_key(&mut self, handle: u64) -> Outcome<u64> {
        if handle > 2 {
            return self.streams.handles.get(&handle).copied().ok_or(ERROR_INVALID_HANDLE);
        }
        let device = self.current_device()?;
        let (of, name) = if handle == 2 { (thread(), "thread's stream") } else { (0, "legacy") };
        if let Some(&key) = self.streams.own.get(&(of, device)) {
            return Ok(key);
        }
        let key = self.add_stream(device, name, true);
        self.streams.own.insert((of, device), key);
        Ok(key)
    }

    /// The device whose legacy stream this is, if it is one.
    pub fn legacy_device(&self, key: u64) -> Option<usize> {
        let device = self.streams.rows.get(&key)?.device;
        (self.streams.own.get(&(0, device)) == Some(&key)).then_some(device)
    }

    /// Keys of a device's streams.
    pub fn device_streams(&self, device: usize) -> Vec<u64> {
        let rows = self.streams.rows.iter();
        rows.filter(|(_, row)| row.device == device).map(|(&key, _)| key).collect()
    }

    /// Keys of those that keep order with the legacy stream.
    pub fn blocking_streams(&self, device: usize) -> Vec<u64> {
        let mut keys = self.device_streams(device);
        keys.retain(|key| self.stream(*key).is_ok_and(|row| row.blocking));
        keys
    }

    pub fn stream(&self, key: u64) -> Outcome<&Stream> {
        self.streams.rows.get(&key).ok_or(ERROR_INVALID_HANDLE)
    }

    pub fn destroy_stream(&mut self, handle: u64) -> Outcome {
        if handle <= 2 {
            return Err(ERROR_INVALID_HANDLE);
        }
        let key = self.stream_key(handle)?;
        self.refuse_capture(key)?;
        self.streams.handles.remove(&handle);
        if self.config.reuse_handles {
            self.streams.spare.push(handle);
        }
        self.end_stream(key)
    }

    /// A stream takes no more work; what it has still runs.
    pub fn end_stream(&mut self, key: u64) -> Outcome {
        let row = self.streams.rows.get_mut(&key).ok_or(ERROR_INVALID_HANDLE)?;
        row.gone = true;
        if row.queue.is_empty() {
            self.order.retire(row.slot);
            self.streams.rows.remove(&key);
        }
        Ok(())
    }

    /// Takes a place in the order for an operation of a stream: after what the host did, and
    /// what the legacy stream is in order with. Gives the points it has to wait for, too.
    pub fn place(&mut self, key: u64, what: What) -> Outcome<(Epoch, Vec<Point>)> {
        let row = self.stream(key)?;
        let (slot, device, blocking) = (row.slot, row.device, row.blocking);
        let legacy = self.streams.own.get(&(0, device)).copied();
        self.order.join_slot(slot, HOST);
        let mut after = Vec::new();
        let others = match legacy {
            Some(legacy) if blocking && legacy == key => self.blocking_streams(device),
            Some(legacy) if blocking => vec![legacy],
            _ => Vec::new(),
        };
        for other in others.into_iter().filter(|&other| other != key) {
            let Some(row) = self.streams.rows.get(&other) else { continue };
            self.order.join_slot(slot, row.slot);
            if row.submitted > row.done {
                after.push((other, row.submitted));
            }
        }
        Ok((self.order.step(slot, what), after))
    }

    /// Puts work at the end of a stream's queue; gives the point behind it.
    pub fn enqueue(&mut self, key: u64, after: Vec<Point>, ns: u64, work: Work) -> Point {
        let Some(row) = self.streams.rows.get_mut(&key) else { return (key, 0) };
        row.submitted += 1;
        row.queue.push_back(Op { after, ns, work });
        (key, row.submitted)
    }

    /// Whether all before a point is done.
    pub fn is_done(&self, point: Point) -> bool {
        self.streams.is_done(point)
    }

    /// Lets the next operation end, if one does by `until`.
    pub fn step(&mut self, until: u64) -> bool {
        let streams = &mut self.streams;
        let mut ready = Vec::new();
        for (&key, row) in &streams.rows {
            let first = row.queue.front().filter(|_| !row.held && row.ends.is_none());
            if let Some(op) = first
                && op.after.iter().all(|&point| streams.is_done(point))
            {
                ready.push((key, streams.now.saturating_add(op.ns)));
            }
        }
        for (key, ends) in ready {
            if let Some(row) = streams.rows.get_mut(&key) {
                row.ends = Some(ends);
            }
        }
        let running = streams.rows.iter().filter_map(|(&key, row)| Some((row.ends?, key)));
        let Some((ends, key)) = running.min().filter(|&(ends, _)| ends <= until) else {
            return false;
        };
        streams.now = streams.now.max(ends);
        let Some(row) = streams.rows.get_mut(&key) else { return false };
        row.ends = None;
        row.done += 1;
        let op = row.queue.pop_front();
        if row.gone && row.queue.is_empty() {
            self.order.retire(row.slot);
            streams.rows.remove(&key);
        }
        if let Some(op) = op {
            self.perform(op.work);
        }
        true
    }

    /// Moves the clock to `until`.
    pub fn run_until(&mut self, until: u64) {
        while self.step(until) {}
        self.streams.now = self.streams.now.max(until);
    }

    /// Moves the clock until a point is passed.
    pub fn wait_for(&mut self, point: Point) -> Outcome {
        while !self.is_done(point) {
            if !self.step(u64::MAX) {
                let what = What::Call("wait for stream", point.0, 0);
                let at = self.order.step(HOST, what);
                self.order.report(Kind::Stuck, (point.0, 0), Epoch::NONE, at);
                return Err(ERROR_LAUNCH_TIMEOUT);
            }
        }
        match self.sticky {
            Some(code) => Err(code),
            None => {
                self.shrink_pools();
                Ok(())
            }
        }
    }

    /// The host waits for a stream, and knows then that its work is done.
    pub fn synchronize(&mut self, key: u64) -> Outcome {
        self.refuse_to_wait(key)?;
        let row = self.stream(key)?;
        let (slot, point) = (row.slot, (key, row.submitted));
        // What the legacy stream has queued before, blocking streams run behind; that is in
        // the points of their operations.
        self.wait_for(point)?;
        self.order.join_slot(HOST, slot);
        Ok(())
    }

    pub fn synchronize_device(&mut self) -> Outcome {
        let device = self.current_device()?;
        self.refuse_capture_on(device)?;
        let rows = self.streams.rows.iter().filter(|(_, row)| row.device == device);
        let all: Vec<(Point, u32)> =
            rows.map(|(&key, row)| ((key, row.submitted), row.slot)).collect();
        for (point, slot) in all {
            self.wait_for(point)?;
            self.order.join_slot(HOST, slot);
        }
        Ok(())
    }

    pub fn query(&mut self, key: u64) -> Outcome {
        self.refuse_to_wait(key)?;
        let row = self.stream(key)?;
        let (slot, point) = (row.slot, (key, row.submitted));
        if !self.is_done(point) {
            return Err(ERROR_NOT_READY);
        }
        self.order.join_slot(HOST, slot);
        Ok(())
    }

    /// What has begun in a held stream begins again when it is let go.
    pub fn hold(&mut self, handle: u64, held: bool) -> Outcome {
        let key = self.stream_key(handle)?;
        if let Some(row) = self.streams.rows.get_mut(&key) {
            row.held = held;
            row.ends = None;
        }
        Ok(())
    }
}
