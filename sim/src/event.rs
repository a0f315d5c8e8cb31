//! Events: points in streams.

use crate::State;
use crate::capture::Mark;
use crate::code::*;
use crate::order::{Clock, What};
use crate::stream::Point;
use crate::work::Work;

pub struct Event {
    device: usize,
    timing: bool,
    /// The last record, by a number that no other has; only that one counts.
    last: u64,
    point: Option<Point>,
    /// What happens before the last record.
    clock: Clock,
    /// When the last record was passed.
    passed: Option<u64>,
    /// What it stands for if it was last recorded in a capture.
    mark: Option<Mark>,
}

impl State {
    pub fn create_event(&mut self, flags: u32) -> Outcome<u64> {
        let device = self.current_device()?;
        // Blocking wait, no timing, for other processes; the last needs no timing.
        if flags & !7 != 0 || flags & 6 == 4 {
            return Err(ERROR_INVALID_VALUE);
        }
        let event = Event {
            device,
            timing: flags & 2 == 0,
            last: 0,
            point: None,
            clock: Clock::default(),
            passed: None,
            mark: None,
        };
        let handle = self.spare_events.pop().unwrap_or_else(|| self.handle());
        self.events.insert(handle, event);
        Ok(handle)
    }

    pub fn destroy_event(&mut self, event: u64) -> Outcome {
        self.events.remove(&event).ok_or(ERROR_INVALID_HANDLE)?;
        if self.config.reuse_handles {
            self.spare_events.push(event);
        }
        Ok(())
    }

    fn event(&self, event: u64) -> Outcome<&Event> {
        self.events.get(&event).ok_or(ERROR_INVALID_HANDLE)
    }

    pub fn record(&mut self, event: u64, stream: u64) -> Outcome {
        let device = self.event(event)?.device;
        let key = self.stream_key(stream)?;
        if self.stream(key)?.device != device {
            return Err(ERROR_INVALID_HANDLE);
        }
        if let Some(capture) = self.capture_of(key)? {
            let mark = self.mark(capture, key);
            if let Some(it) = self.events.get_mut(&event) {
                it.mark = mark;
            }
            return Ok(());
        }
        let (at, after) = self.place(key, What::Record(event))?;
        let number = self.handle();
        let point = self.enqueue(key, after, 0, Work::Record { event, number });
        let clock = self.order.clock(at.slot).clone();
        if let Some(it) = self.events.get_mut(&event) {
            (it.last, it.point, it.clock, it.passed) = (number, Some(point), clock, None);
            it.mark = None;
        }
        Ok(())
    }

    /// The record with this number was passed.
    pub fn passed(&mut self, event: u64, number: u64) {
        let now = self.streams.now;
        if let Some(it) = self.events.get_mut(&event).filter(|it| it.last == number) {
            it.passed = Some(now);
        }
    }

    /// A stream waits for the last record so far; a later one does not count.
    pub fn wait_event(&mut self, stream: u64, event: u64) -> Outcome {
        let key = self.stream_key(stream)?;
        if let Some(mark) = self.event(event)?.mark.clone() {
            return self.join_capture(key, &mark);
        }
        if let Some(capture) = self.capture_of(key)? {
            return Err(self.isolate(capture));
        }
        let slot = self.stream(key)?.slot;
        let it = self.events.get(&event).ok_or(ERROR_INVALID_HANDLE)?;
        let Some(point) = it.point else { return Ok(()) };
        self.order.join(slot, &it.clock);
        let (_, mut after) = self.place(key, What::Wait(event))?;
        after.push(point);
        self.enqueue(key, after, 0, Work::Nothing);
        Ok(())
    }

    /// An event that was last recorded in a capture never comes to pass.
    fn refuse_mark(&mut self, event: u64) -> Outcome {
        match self.event(event)?.mark.clone() {
            Some(mark) => Err(self.refuse_captured(&mark)),
            None => self.allow_unsafe(),
        }
    }

    pub fn query_event(&mut self, event: u64) -> Outcome {
        self.refuse_mark(event)?;
        let it = self.event(event)?;
        if it.point.is_some_and(|point| !self.is_done(point)) {
            return Err(ERROR_NOT_READY);
        }
        self.learn(event);
        Ok(())
    }

    /// The host knows that the last record was passed.
    fn learn(&mut self, event: u64) {
        if let Some(it) = self.events.get(&event) {
            self.order.join(crate::HOST, &it.clock);
        }
    }

    pub fn synchronize_event(&mut self, event: u64) -> Outcome {
        self.refuse_mark(event)?;
        if let Some(point) = self.event(event)?.point {
            self.wait_for(point)?;
        }
        self.learn(event);
        Ok(())
    }

    /// Milliseconds between two records.
    pub fn elapsed(&mut self, from: u64, to: u64) -> Outcome<f32> {
        for event in [from, to] {
            if let Some(mark) = self.event(event)?.mark.clone() {
                return Err(self.refuse_captured(&mark));
            }
        }
        let (from, to) = (self.event(from)?, self.event(to)?);
        if !from.timing || !to.timing || from.point.is_none() || to.point.is_none() {
            return Err(ERROR_INVALID_HANDLE);
        }
        let (Some(from), Some(to)) = (from.passed, to.passed) else { return Err(ERROR_NOT_READY) };
        Ok((to as f64 - from as f64) as f32 / 1e6)
    }
}
