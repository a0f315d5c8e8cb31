//! The order of a GPU's streams.
//!
//! A fence is a number per stream: that of the next event to be recorded there. Taking one
//! costs no call of the driver. [`Order::refresh`] records one event on each stream that
//! fences were taken on since, however many, and looks which events have passed.
//!
//! Events are numbered before they are recorded, and every fence with a number was taken
//! before that number was given to an event. So an event covers its own number and all before
//! it, even where two threads record in another order than they numbered.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, CUstream};

use super::{Fence, Order, Stream};
use crate::device::cuda::{Context, DriverApi, Failure, Outcome, is_gone, twice};
use crate::error::{Result, fail};
use crate::sync::{Condvar, Mutex, MutexGuard, RwLock};

/// The legacy stream goes by two names.
const LEGACY: Stream = Stream(1);
/// The default stream of whichever thread calls.
const PER_THREAD: Stream = Stream(2);

/// Events that can be recorded again.
struct Events {
    context: Arc<Context>,
    free: Mutex<Vec<usize>>,
}

/// An event, given back when nobody waits for it any more.
struct Event {
    raw: usize,
    home: Arc<Events>,
}

impl Event {
    fn raw(&self) -> CUevent {
        self.raw as CUevent
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.home.free.lock().push(self.raw);
    }
}

impl Events {
    fn take(home: &Arc<Events>, api: &DriverApi) -> Outcome<Arc<Event>> {
        let free = home.free.lock().pop();
        let raw = match free {
            Some(raw) => raw,
            None => {
                let mut raw = null_mut();
                let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
                // SAFETY: a place for the answer.
                unsafe { api.event_create(&mut raw, flags) }?;
                raw as usize
            }
        };
        Ok(Arc::new(Event { raw, home: Arc::clone(home) }))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let free = std::mem::take(&mut *self.free.lock());
        self.context.undo(|api| {
            for &raw in &free {
                // SAFETY: an event of ours that nobody has any more.
                let _ = twice(|| unsafe { api.event_destroy(raw as CUevent) });
            }
        });
    }
}

/// An event that has its number.
struct Numbered {
    number: u64,
    /// None while it is being recorded.
    event: Option<Arc<Event>>,
}

/// What is known of a stream.
struct Known {
    /// The number of the next event. Fences are taken with it.
    next: AtomicU64,
    /// Whether fences were taken with it.
    dirty: AtomicBool,
    /// All events up to this number have passed.
    passed: AtomicU64,
    /// See [`Order::began`].
    began: AtomicU64,
    /// The stream is destroyed, or about to be: nothing is recorded on it any more until it is
    /// checked anew. Changes under the lock of `line`.
    forgotten: AtomicBool,
    /// The stream was destroyed without notice, and fences were taken on it: only
    /// [`Order::recover`], or whoever waits for one, finds out when they have passed.
    lost: AtomicBool,
    line: Mutex<Line>,
    /// Tells who forgets the stream that nobody records on it.
    recorded: Condvar,
}

#[derive(Default)]
struct Line {
    /// Events that have not passed, by number.
    events: VecDeque<Numbered>,
    /// How many of them are being recorded.
    recording: u32,
    /// The driver's number of the stream, which is never used twice; 0 where it has none.
    id: u64,
}

impl Known {
    /// A stream whose first event will have the number `first`.
    fn new(id: u64, first: u64) -> Known {
        Known {
            next: AtomicU64::new(first),
            dirty: AtomicBool::new(false),
            passed: AtomicU64::new(first - 1),
            began: AtomicU64::new(first),
            forgotten: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            line: Mutex::new(Line { id, ..Line::default() }),
            recorded: Condvar::new(),
        }
    }

    fn has_passed(&self, number: u64) -> bool {
        self.passed.load(Ordering::Acquire) >= number
    }

    /// The number of the next event, which covers every fence taken so far.
    fn number(&self, _: &mut Line) -> u64 {
        // The mark goes first: a fence that is taken between the two has this number, and the
        // stream is marked for nothing. The other way round a fence would be missed.
        self.dirty.store(false, Ordering::Release);
        self.next.fetch_add(1, Ordering::AcqRel)
    }

    /// The fence that covers what is queued now.
    fn mark(&self) -> u64 {
        let number = self.next.load(Ordering::Acquire);
        // Behind the load, see `record`.
        self.dirty.store(true, Ordering::Release);
        number
    }

    /// Whether it is forgotten, and everything on it has passed.
    fn is_over(&self) -> bool {
        let line = self.line.lock();
        let last = self.next.load(Ordering::Acquire) - 1;
        self.is_forgotten()
            && line.events.is_empty()
            && !self.dirty.load(Ordering::Acquire)
            && self.passed.load(Ordering::Acquire) == last
    }

    fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }

    /// The events up to `number` have passed.
    fn pass(&self, line: &mut MutexGuard<'_, Line>, number: u64) {
        while line.events.front().is_some_and(|first| first.number <= number) {
            // The event goes back to its pool; that lock is below this one.
            line.events.pop_front();
        }
        self.passed.fetch_max(number, Ordering::Release);
    }
}

/// Why an event was not recorded.
enum NotRecorded {
    /// The stream is capturing, or one that waits for it is: what is recorded now would become
    /// part of a graph.
    Capturing,
    /// There is no such stream any more.
    Gone,
    /// It is another stream than before, with this number.
    Another(u64),
    /// The driver refused.
    Failed(Failure),
}

/// Streams are found by every call that goes past the front caches. Their handles are addresses:
/// one multiplication (by the golden ratio, as Knuth has it) spreads them.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

type Streams = HashMap<Stream, Arc<Known>, BuildHasherDefault<Spread>>;

/// The order of the streams of one GPU.
pub struct CudaOrder {
    context: Arc<Context>,
    events: Arc<Events>,
    streams: RwLock<Streams>,
    /// The number of the first event of a stream that is new: above those of all streams that are
    /// known no more, so that a fence of one of them has passed on whatever has its handle now.
    first: AtomicU64,
    /// How many streams are known when those that are over are looked for next.
    clear_at: AtomicUsize,
}

/// Least streams that are known before those that are over are looked for.
const CLEAR_LEAST: usize = 64;

fn raw(stream: Stream) -> CUstream {
    stream.0 as usize as CUstream
}

/// One name for what is one stream.
fn name(stream: Stream) -> Stream {
    if stream == LEGACY { Stream::DEFAULT } else { stream }
}

impl CudaOrder {
    /// The order of the streams of `context`.
    pub fn new(context: &Arc<Context>) -> CudaOrder {
        let events = Events { context: Arc::clone(context), free: Mutex::default() };
        CudaOrder {
            context: Arc::clone(context),
            events: Arc::new(events),
            streams: RwLock::default(),
            first: AtomicU64::new(1),
            clear_at: AtomicUsize::new(CLEAR_LEAST),
        }
    }

    fn known(&self, id: u64) -> Arc<Known> {
        Arc::new(Known::new(id, self.first.load(Ordering::Acquire)))
    }

    /// Streams that come and go would be looked through for ever.
    fn clear(&self) {
        if self.streams.read().len() < self.clear_at.load(Ordering::Relaxed) {
            return;
        }
        let mut streams = self.streams.write();
        streams.retain(|_, known| {
            let over = known.is_over();
            if over {
                self.first.fetch_max(known.next.load(Ordering::Acquire), Ordering::AcqRel);
            }
            !over
        });
        let next = (2 * streams.len()).max(CLEAR_LEAST);
        self.clear_at.store(next, Ordering::Relaxed);
    }

    fn find(&self, stream: Stream) -> Option<Arc<Known>> {
        self.look_at(stream, Arc::clone)
    }

    /// As [`CudaOrder::find`], for a glance.
    fn look_at<T>(&self, stream: Stream, body: impl FnOnce(&Arc<Known>) -> T) -> Option<T> {
        // In a forked child a thread that is not there may hold the lock.
        if self.context.is_of_parent() {
            return None;
        }
        self.streams.read().get(&name(stream)).map(body)
    }

    /// The driver's number of a stream: 0 for the legacy stream, which is never destroyed, and
    /// where the driver has none.
    fn id(api: &DriverApi, stream: Stream) -> Outcome<u64> {
        let mut id = 0;
        if api.has_stream_ids() && stream != Stream::DEFAULT {
            // SAFETY: a stream of the caller's, and a place for the answer.
            unsafe { api.stream_id(raw(stream), &mut id) }?;
        }
        Ok(id)
    }

    fn is_capturing(api: &DriverApi, stream: Stream) -> Outcome<bool> {
        let mut status = 0;
        // SAFETY: a stream of the caller's, and a place for the answer.
        match unsafe { api.stream_is_capturing(raw(stream), &mut status) } {
            Ok(()) => Ok(status != 0),
            // What the legacy stream answers while streams that it waits for are capturing.
            Err(failure) if failure.is(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) => Ok(true),
            Err(failure) => Err(failure),
        }
    }

    /// The number of the capture that a stream takes part in.
    fn capture_of(api: &DriverApi, stream: Stream) -> Outcome<Option<u64>> {
        let (mut status, mut number) = (0, 0);
        // SAFETY: a stream of the caller's, places for two answers, and none for those that
        // nobody asks for.
        let answer = unsafe {
            let (none, no_nodes, no_count) = (null_mut(), null_mut(), null_mut());
            api.stream_capture(raw(stream), &mut status, &mut number, none, no_nodes, no_count)
        };
        match answer {
            Ok(()) => Ok((status != 0).then_some(number)),
            // The legacy stream itself is never captured.
            Err(failure) if failure.is(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Records an event on `stream` that covers every fence taken so far.
    fn record(
        &self,
        api: &DriverApi,
        stream: Stream,
        known: &Known,
    ) -> std::result::Result<Arc<Event>, NotRecorded> {
        let number = {
            let mut line = known.line.lock();
            if known.is_forgotten() {
                return Err(NotRecorded::Gone);
            }
            let number = known.number(&mut line);
            line.events.push_back(Numbered { number, event: None });
            line.recording += 1;
            number
        };
        let made = self.record_without_a_lock(api, stream, known);
        let mut line = known.line.lock();
        line.recording -= 1;
        known.recorded.notify_all();
        let place = line.events.iter().position(|one| one.number == number);
        match &made {
            Ok(event) => {
                if let Some(place) = place {
                    line.events[place].event = Some(Arc::clone(event));
                }
            }
            // The fences that it was for wait for the next one.
            Err(_) => {
                if let Some(place) = place {
                    line.events.remove(place);
                }
                known.dirty.store(true, Ordering::Release);
            }
        }
        made
    }

    fn record_without_a_lock(
        &self,
        api: &DriverApi,
        stream: Stream,
        known: &Known,
    ) -> std::result::Result<Arc<Event>, NotRecorded> {
        let failed = |failure: Failure| {
            if is_gone(failure) { NotRecorded::Gone } else { NotRecorded::Failed(failure) }
        };
        let id = CudaOrder::id(api, stream).map_err(failed)?;
        if id != known.line.lock().id {
            return Err(NotRecorded::Another(id));
        }
        if CudaOrder::is_capturing(api, stream).map_err(failed)? {
            return Err(NotRecorded::Capturing);
        }
        let event = Events::take(&self.events, api).map_err(NotRecorded::Failed)?;
        // SAFETY: an event of ours, and a stream that answered just now.
        unsafe { api.event_record(event.raw(), raw(stream)) }.map_err(failed)?;
        Ok(event)
    }

    /// `stream` was destroyed without notice. What it had queued may still run, and no event
    /// tells of it: waits for everything on the device and counts it as passed. A stream that
    /// has its handle now goes by `id`.
    fn bury(
        &self,
        api: &DriverApi,
        stream: Stream,
        known: &Known,
        id: Option<u64>,
    ) -> Outcome<bool> {
        if self.is_any_capturing(api) {
            // To wait now would spoil the capture.
            known.lost.store(true, Ordering::Release);
            return Ok(false);
        }
        // Fences that are taken from now on may be of the new stream.
        let number = known.number(&mut known.line.lock());
        // SAFETY: no preconditions.
        if let Err(failure) = unsafe { api.context_synchronize() } {
            known.dirty.store(true, Ordering::Release);
            return Err(failure);
        }
        tracing::warn!(stream = stream.0, "a stream was destroyed before the pool forgot it");
        let mut line = known.line.lock();
        match id {
            Some(id) => line.id = id,
            None => known.forgotten.store(true, Ordering::Release),
        }
        known.lost.store(false, Ordering::Release);
        known.pass(&mut line, number);
        Ok(true)
    }

    /// Whether a stream is capturing, of those that are known.
    fn is_any_capturing(&self, api: &DriverApi) -> bool {
        let is_there = |known: &Known| !known.is_forgotten() && !known.lost.load(Ordering::Acquire);
        let streams: Vec<Stream> = {
            let streams = self.streams.read();
            streams.iter().filter(|(_, known)| is_there(known)).map(|(&it, _)| it).collect()
        };
        let capturing = |&stream: &Stream| CudaOrder::is_capturing(api, stream).unwrap_or(false);
        streams.iter().any(capturing)
    }

    /// Looks which events of a stream have passed, the first ones first.
    fn look(&self, api: &DriverApi, known: &Known) {
        loop {
            let first = {
                let line = known.line.lock();
                let first = line.events.front();
                first.and_then(|one| Some((one.number, Arc::clone(one.event.as_ref()?))))
            };
            let Some((number, event)) = first else { return };
            // SAFETY: an event of ours that was recorded.
            if unsafe { api.event_query(event.raw()) }.is_err() {
                // Not yet; or the device has failed, and then it never will be.
                return;
            }
            known.pass(&mut known.line.lock(), number);
        }
    }

    /// Does what is left to do where an event could not be recorded. True when all fences
    /// taken before have passed.
    fn settle(
        &self,
        api: &DriverApi,
        stream: Stream,
        known: &Known,
        why: NotRecorded,
    ) -> Outcome<bool> {
        match why {
            NotRecorded::Capturing => Ok(false),
            NotRecorded::Failed(failure) => Err(failure),
            NotRecorded::Gone => self.bury(api, stream, known, None),
            NotRecorded::Another(id) => self.bury(api, stream, known, Some(id)),
        }
    }

    /// An event that covers `number`: the first that was recorded, or one recorded now.
    fn covering(
        &self,
        api: &DriverApi,
        stream: Stream,
        known: &Known,
        number: u64,
    ) -> std::result::Result<(u64, Arc<Event>), NotRecorded> {
        let recorded = || {
            let line = known.line.lock();
            let mut events = line.events.iter().filter(|one| one.number >= number);
            events.find_map(|one| Some((one.number, Arc::clone(one.event.as_ref()?))))
        };
        if let Some(found) = recorded() {
            return Ok(found);
        }
        let event = self.record(api, stream, known)?;
        // A number of its own, or a later one that another thread recorded meanwhile.
        Ok(recorded().unwrap_or((number, event)))
    }

    fn make_wait_inner(&self, stream: Stream, fence: Fence) -> Result<bool> {
        let Some(known) = self.find(fence.stream) else { return Ok(true) };
        if known.has_passed(fence.sequence) {
            return Ok(true);
        }
        self.context.with(|api| {
            if CudaOrder::is_capturing(api, stream)? {
                return Ok(false);
            }
            match self.covering(api, name(fence.stream), &known, fence.sequence) {
                Ok((_, event)) => {
                    // SAFETY: an event of ours that was recorded, and a stream that answered.
                    unsafe { api.stream_wait_event(raw(stream), event.raw(), 0) }?;
                    Ok(true)
                }
                Err(NotRecorded::Failed(failure)) => Err(failure),
                Err(_) => Ok(false),
            }
        })
    }

    fn wait_inner(&self, fence: Fence) -> Result<bool> {
        let Some(known) = self.find(fence.stream) else { return Ok(true) };
        if known.has_passed(fence.sequence) {
            return Ok(true);
        }
        let stream = name(fence.stream);
        self.context.with(|api| {
            match self.covering(api, stream, &known, fence.sequence) {
                Ok((number, event)) => {
                    drop(event);
                    // Those before it may be of another stream that had the handle.
                    let first = || {
                        let line = known.line.lock();
                        let first = line.events.front().filter(|first| first.number <= number)?;
                        Some((first.number, Arc::clone(first.event.as_ref()?)))
                    };
                    while let Some((number, event)) = first() {
                        // SAFETY: an event of ours that was recorded.
                        unsafe { api.event_synchronize(event.raw()) }?;
                        known.pass(&mut known.line.lock(), number);
                    }
                    Ok(known.has_passed(fence.sequence))
                }
                Err(why) => {
                    Ok(self.settle(api, stream, &known, why)? && known.has_passed(fence.sequence))
                }
            }
        })
    }
}

impl Order for CudaOrder {
    fn check(&self, stream: Stream) -> Result<()> {
        if stream == PER_THREAD {
            return Err(fail!(
                InvalidArgument,
                "stream is 0x2, the default stream of the calling thread, which is another one \
                 in every thread; pass a stream made with cudaStreamCreate"
            ));
        }
        let stream = name(stream);
        let (context, id) = self.context.with(|api| {
            let mut context = self.context.raw();
            if stream != Stream::DEFAULT {
                // SAFETY: the caller's stream, and a place for the answer.
                unsafe { api.stream_context(raw(stream), &mut context) }?;
            }
            Ok((context, CudaOrder::id(api, stream)?))
        })?;
        if context != self.context.raw() {
            return Err(fail!(
                InvalidArgument,
                "stream {:#x} belongs to another context than the pool's, the primary one of \
                 device {}",
                stream.0,
                self.context.ordinal()
            ));
        }
        let Some(known) = self.find(stream) else {
            self.streams.write().entry(stream).or_insert_with(|| self.known(id));
            return Ok(());
        };
        if !known.is_forgotten() && known.line.lock().id != id {
            let buried = self.context.with(|api| self.bury(api, stream, &known, Some(id)))?;
            if !buried {
                return Err(fail!(
                    InvalidState,
                    "stream {:#x} is another one than before, whose memory cannot be waited for \
                     while a graph is being captured: call forebay_pool_forget_stream before a \
                     stream is destroyed",
                    stream.0
                ));
            }
        }
        let mut line = known.line.lock();
        if known.is_forgotten() {
            // A new stream with an old handle. Its events come behind those of the old one.
            line.id = id;
            known.began.store(known.next.load(Ordering::Acquire), Ordering::Release);
            known.forgotten.store(false, Ordering::Release);
        }
        Ok(())
    }

    fn is_immediate(&self, _: Stream) -> bool {
        false
    }

    fn mark(&self, stream: Stream) -> u64 {
        if let Some(number) = self.look_at(stream, |known| known.mark()) {
            return number;
        }
        if self.context.is_of_parent() {
            return 0;
        }
        // Nobody checked it, which is a defect. It must not be taken for done: it goes for a
        // stream that was destroyed, which is waited for.
        debug_assert!(false, "a fence on stream {:#x}, which was not checked", stream.0);
        let stream = name(stream);
        let id = if stream == Stream::DEFAULT { 0 } else { u64::MAX };
        let mut streams = self.streams.write();
        streams.entry(stream).or_insert_with(|| self.known(id)).mark()
    }

    fn passed(&self, stream: Stream) -> u64 {
        let open = |known: &Arc<Known>| {
            (!known.is_forgotten()).then(|| known.passed.load(Ordering::Acquire))
        };
        match self.look_at(stream, open) {
            None => return u64::MAX,
            Some(Some(passed)) => return passed,
            Some(None) => {}
        }
        let Some(known) = self.find(stream) else { return u64::MAX };
        if known.is_over() { u64::MAX } else { known.passed.load(Ordering::Acquire) }
    }

    fn name(&self, stream: Stream) -> Stream {
        name(stream)
    }

    fn mark_all(&self) -> Vec<Fence> {
        if self.context.is_of_parent() {
            return Vec::new();
        }
        let streams = self.streams.read();
        let marks = streams.iter().map(|(&stream, known)| {
            // Nothing more is queued on a forgotten stream, and nothing can be recorded there:
            // its last event covers all of it.
            let settled = known.is_forgotten() && !known.dirty.load(Ordering::Acquire);
            let sequence =
                if settled { known.next.load(Ordering::Acquire) - 1 } else { known.mark() };
            Fence { stream, sequence }
        });
        marks.collect()
    }

    fn can_capture(&self) -> bool {
        true
    }

    fn capture(&self, stream: Stream) -> Result<Option<u64>> {
        self.context.with(|api| CudaOrder::capture_of(api, name(stream)))
    }

    fn make_wait(&self, stream: Stream, fence: Fence) -> bool {
        let own = name(stream) == name(fence.stream) && fence.sequence >= self.began(stream);
        own || self.make_wait_inner(stream, fence).unwrap_or(false)
    }

    fn wait(&self, fence: Fence) -> bool {
        self.wait_inner(fence).unwrap_or(false)
    }

    fn wait_for_all(&self) -> Result<()> {
        // SAFETY: no preconditions.
        self.context.with(|api| unsafe { api.context_synchronize() })?;
        self.refresh();
        Ok(())
    }

    fn refresh(&self) {
        if self.context.is_of_parent() {
            return;
        }
        self.clear();
        let streams: Vec<(Stream, Arc<Known>)> = self
            .streams
            .read()
            .iter()
            .map(|(&stream, known)| (stream, Arc::clone(known)))
            .collect();
        let dirty = |known: &Known| {
            known.dirty.load(Ordering::Acquire) && !known.lost.load(Ordering::Acquire)
        };
        let busy = |known: &Known| dirty(known) || !known.line.lock().events.is_empty();
        let busy: Vec<_> = streams.into_iter().filter(|(_, known)| busy(known)).collect();
        if busy.is_empty() {
            return;
        }
        // Nothing is learned where that fails; calls that can fail say so.
        let _ = self.context.with(|api| {
            for (stream, known) in &busy {
                if dirty(known) {
                    match self.record(api, *stream, known) {
                        Ok(_) | Err(NotRecorded::Capturing) => {}
                        Err(NotRecorded::Gone | NotRecorded::Another(_)) => {
                            known.lost.store(true, Ordering::Release);
                        }
                        Err(NotRecorded::Failed(Failure { call, code })) => {
                            tracing::warn!(stream = stream.0, call, code, "fences stay open");
                        }
                    }
                }
                self.look(api, known);
            }
            Ok(())
        });
    }

    fn began(&self, stream: Stream) -> u64 {
        let began = |known: &Arc<Known>| match known.is_forgotten() {
            true => u64::MAX,
            false => known.began.load(Ordering::Acquire),
        };
        self.look_at(stream, began).unwrap_or(0)
    }

    fn recover(&self) {
        self.refresh();
        if self.context.is_of_parent() {
            return;
        }
        let lost: Vec<(Stream, Arc<Known>)> = {
            let streams = self.streams.read();
            let lost = |known: &Known| known.lost.load(Ordering::Acquire);
            let lost = streams.iter().filter(|(_, known)| lost(known));
            lost.map(|(&stream, known)| (stream, Arc::clone(known))).collect()
        };
        // Nothing is learned where that fails.
        let _ = self.context.with(|api| {
            for (stream, known) in lost {
                let id = CudaOrder::id(api, stream).ok().filter(|_| api.has_stream_ids());
                self.bury(api, stream, &known, id)?;
            }
            Ok(())
        });
    }

    fn forget(&self, stream: Stream) -> Result<()> {
        let stream = name(stream);
        if stream == Stream::DEFAULT {
            return Err(fail!(InvalidArgument, "stream 0 is always there; it is not forgotten"));
        }
        let Some(known) = self.find(stream) else { return Ok(()) };
        let settled = self.context.with(|api| {
            if !known.dirty.load(Ordering::Acquire) {
                return Ok(true);
            }
            self.record(api, stream, &known)
                .map(|_| true)
                .or_else(|why| self.settle(api, stream, &known, why))
        })?;
        if !settled {
            return Err(fail!(
                InvalidState,
                "stream {:#x} is capturing; end the capture before the stream is destroyed",
                stream.0
            ));
        }
        let mut line = known.line.lock();
        known.forgotten.store(true, Ordering::Release);
        while line.recording > 0 {
            line = known.recorded.wait(line);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;
