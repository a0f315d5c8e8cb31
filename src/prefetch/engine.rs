//! The prefetcher: what is done under its lock, and what after it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::config::Config;
use super::slot::{Next, Phase, Slots, Step, Task};
use super::source::{Job, Leaf};
use super::stats::Stats;
use super::sync::{Condvar, JoinHandle, Mutex, MutexGuard, spawn};
use super::target::{Over, Room, Target};
use crate::error::{self, Error, Result, fail};
use crate::order::{Stream, host_stream};

/// A batch that a consumer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// First byte of the first leaf.
    pub address: usize,
    /// Bytes to the end of the last.
    pub bytes: u64,
}

/// A slot for a producer to write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lent {
    /// Of the batch that it is going to be.
    pub ticket: u64,
    /// First byte.
    pub address: usize,
    /// Bytes there.
    pub bytes: u64,
}

/// How far a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its sources are still needed.
    Staging,
    /// It is on its way: sources that were not pinned are not needed any more.
    Sent,
    /// It is where consumers find it.
    There,
}

/// What threads share.
pub struct Shared<T: Target> {
    target: T,
    config: Config,
    /// The process that it was made in: a forked child has no threads for it.
    process: u32,
    slots: Mutex<Slots>,
    /// There is work for threads.
    work: Condvar,
    /// A slot is free, for producers.
    freed: Condvar,
    /// A batch is ready, or no thread is on it any more.
    changed: Condvar,
    poisoned: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Its memory was given back.
    over: AtomicBool,
}

/// Batches in front of who works on them. See the [module](super).
pub struct Prefetcher<T: Target> {
    shared: Arc<Shared<T>>,
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cold]
fn closed() -> Error {
    fail!(InvalidState, "the prefetcher is closed")
}

/// When who waits for `most` gives up.
fn deadline(most: Option<Duration>) -> Option<Instant> {
    most.and_then(|most| Instant::now().checked_add(most))
}

impl<T: Target> Shared<T> {
    /// Its slots' memory, for `tests/prefetch_orders`.
    #[cfg(test)]
    #[allow(dead_code)]
    pub(super) fn target(&self) -> &T {
        &self.target
    }

    /// Whether this is a forked child: the threads are in the parent, and so is whoever has a lock.
    fn is_of_parent(&self) -> bool {
        self.process != host_stream::process()
    }

    fn check_open(&self) -> Result<()> {
        if self.is_of_parent() {
            return Err(fail!(
                InvalidState,
                "the prefetcher was made before fork(); its threads are in the parent. Make one in \
                 the child"
            ));
        }
        if self.poisoned.load(Ordering::Relaxed) {
            return Err(fail!(
                Poisoned,
                "the prefetcher caught a panic earlier and answers nothing else any more; destroy it"
            ));
        }
        Ok(())
    }

    /// A slot for a batch; waits for one until `deadline`, for ever if there is none. An error
    /// when none is to be had by then.
    fn take(&self, no_wait: bool, deadline: Option<Instant>) -> Result<usize> {
        let mut slots = self.slots.lock();
        let mut began = None;
        let taken = loop {
            if slots.closing {
                return Err(closed());
            }
            if let Some(index) = slots.take() {
                break Ok(index);
            }
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            if no_wait || left == Some(Duration::ZERO) {
                break Err(fail!(
                    Busy,
                    "all {} slots are in use; release a batch first",
                    slots.slots.len()
                ));
            }
            began.get_or_insert_with(Instant::now);
            slots = match left {
                Some(left) => self.freed.wait_for(slots, left),
                None => self.freed.wait(slots),
            };
        };
        if let Some(began) = began {
            slots.stats.submit_wait_ns += nanoseconds(began);
        }
        taken
    }

    fn give(&self, index: usize) {
        let mut slots = self.slots.lock();
        slots.give(index);
        drop(slots);
        self.freed.notify_one();
    }

    /// The work of a slot's last reader is done.
    pub(super) fn free_after_reader(&self, index: usize) {
        let mut slots = self.slots.lock();
        debug_assert!(matches!(slots.slots[index].phase, Phase::Leaving(_)));
        slots.give(index);
        drop(slots);
        self.freed.notify_one();
    }

    /// Sees to it that a slot of the caller's has `bytes`.
    fn make_room(&self, index: usize, bytes: u64) -> Result<Room> {
        let room = self.slots.lock().slots[index].room;
        if room.bytes >= bytes {
            return Ok(room);
        }
        let most = self.config.batch_most();
        // By half at least, so that batches that grow bit by bit do not cost a slot each.
        let grown = bytes.max(room.bytes + room.bytes / 2).min(most);
        let fresh = self.target.make_room(index, grown);
        let (pinned, pageable) = self.target.staging_bytes();
        let mut slots = self.slots.lock();
        let fresh = fresh?;
        if room.bytes > 0 {
            slots.stats.grown += 1;
        }
        slots.stats.slot_bytes += fresh.bytes - room.bytes;
        (slots.stats.pinned_bytes, slots.stats.pageable_bytes) = (pinned, pageable);
        slots.stats.pinned_peak = slots.stats.pinned_peak.max(pinned);
        slots.slots[index].room = fresh;
        Ok(fresh)
    }

    /// The job that a slot had, to be filled again.
    fn job(&self, index: usize) -> Arc<Job> {
        let had = self.slots.lock().slots[index].job.take();
        had.unwrap_or_default()
    }

    fn put_job_back(&self, index: usize, job: Arc<Job>) {
        self.slots.lock().slots[index].job = Some(job);
    }

    /// Does `task`, and what follows from it that nobody else does.
    fn work(&self, task: Task) {
        let Task { slot, job, room, step } = task;
        let began = Instant::now();
        let body = || match step {
            Step::Prepare => self.target.prepare(slot),
            // SAFETY: who submitted the batch promised its sources; the slot is this batch's, and
            // the chunk this thread's.
            Step::Write(chunk) => unsafe {
                job.write(chunk, room.staging, self.target.is_streaming())
            },
        };
        let done = caught(body);
        // Threads let go of the job before they say so: the next batch is put into it.
        drop(job);
        let spent = nanoseconds(began);
        let mut slots = self.slots.lock();
        match step {
            Step::Prepare => slots.stats.drain_ns += spent,
            Step::Write(_) => slots.stats.stage_ns += spent,
        }
        let next = slots.after(slot, step, done);
        // Only who sends it: any other hold on it could outlive the batch.
        let job = if next == Next::Send { slots.slots[slot].job.clone() } else { None };
        drop(slots);
        match (next, job) {
            (Next::Write, _) => self.work.notify_all(),
            (Next::Send, Some(job)) => self.send(slot, job),
            _ => self.changed.notify_all(),
        }
    }

    fn send(&self, slot: usize, job: Arc<Job>) {
        // SAFETY: what is staged stays in the slot, and of what is not who submitted it promised
        // that it stays.
        let sent = caught(|| unsafe { self.target.send(slot, job.pieces()) });
        drop(job);
        self.slots.lock().sent(slot, sent);
        self.changed.notify_all();
    }

    /// Does all work that nobody does yet.
    fn help(&self) {
        loop {
            let task = self.slots.lock().next_task();
            let Some(task) = task else { return };
            self.work(task);
        }
    }

    /// What a copy thread does.
    fn serve(&self) {
        let mut slots = self.slots.lock();
        loop {
            if let Some(task) = slots.next_task() {
                drop(slots);
                self.work(task);
                slots = self.slots.lock();
            } else if slots.closing {
                return;
            } else {
                slots = self.work.wait(slots);
            }
        }
    }

    /// Waits until no thread is on a slot.
    fn quiet<'a>(
        &'a self,
        mut slots: MutexGuard<'a, Slots>,
        index: usize,
    ) -> MutexGuard<'a, Slots> {
        while slots.slots[index].busy > 0 {
            slots = self.changed.wait(slots);
        }
        slots
    }

    /// Calls the target about a slot without the lock. It stays what it is meanwhile: whoever ends
    /// its batch waits.
    fn with_busy<R>(
        &self,
        mut slots: MutexGuard<'_, Slots>,
        index: usize,
        body: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        slots.slots[index].busy += 1;
        drop(slots);
        let answer = caught(body);
        let mut slots = self.slots.lock();
        slots.slots[index].busy -= 1;
        drop(slots);
        self.changed.notify_all();
        answer
    }

    /// See [`Prefetcher::close`].
    fn close(&self) {
        let mut slots = self.slots.lock();
        slots.closing = true;
        for index in 0..slots.slots.len() {
            let phase = slots.slots[index].phase;
            if !matches!(phase, Phase::Free | Phase::Lent | Phase::Held | Phase::Leaving(_)) {
                slots.stats.cancelled += u64::from(!slots.slots[index].cancelled);
                slots.call_off(index);
            }
        }
        drop(slots);
        self.work.notify_all();
        self.freed.notify_all();
        self.changed.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // What a thread's step throws is caught, so there is no panic to pass on.
            let _ = thread.join();
        }
        let mut slots = self.slots.lock();
        for index in 0..slots.slots.len() {
            slots = self.quiet(slots, index);
            if slots.slots[index].is_read_in_place() {
                // What becomes of the copy is nobody's concern any more, but that it is over.
                let _ = self.with_busy(slots, index, || self.target.wait(index));
                slots = self.slots.lock();
            }
        }
    }

    /// Closes it and gives its memory back, once. See [`Prefetcher::destroy`].
    pub(super) fn end(&self) -> Result<()> {
        // In a forked child what there is is the parent's.
        if self.is_of_parent() || self.over.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.close();
        let slots = self.slots.lock();
        let kept = slots.slots.iter().enumerate().filter(|(_, slot)| slot.phase == Phase::Held);
        let kept: Vec<usize> = kept.map(|(index, _)| index).collect();
        drop(slots);
        self.target.close(&kept)?;
        if kept.is_empty() {
            return Ok(());
        }
        Err(fail!(
            InvalidState,
            "the prefetcher was destroyed with {} batches that were not released; their blocks are \
             live blocks of the pool",
            kept.len()
        ))
    }
}

/// A panic on a thread is an error of the batch.
fn caught<R>(body: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| Err(fail!(Internal, "a defect of forebay: a step of a batch panicked")))
}

impl<T: Target> Prefetcher<T> {
    /// A prefetcher over `target`.
    pub fn create(target: T, config: &Config) -> Result<Prefetcher<T>> {
        config.check()?;
        error::prepare_thread();
        let count = config.slots as usize;
        let shared = Arc::new(Shared {
            target,
            config: *config,
            process: host_stream::process(),
            slots: Mutex::new(Slots::new(count)),
            work: Condvar::new(),
            freed: Condvar::new(),
            changed: Condvar::new(),
            poisoned: AtomicBool::new(false),
            threads: Mutex::new(Vec::new()),
            over: AtomicBool::new(false),
        });
        // From here on it gives back what it has when it is dropped.
        let prefetcher = Prefetcher { shared };
        if config.slot_bytes > 0 {
            (0..count).try_for_each(|index| {
                prefetcher.shared.make_room(index, config.slot_bytes).map(drop)
            })?;
        }
        for _ in 0..config.copy_threads {
            let shared = Arc::clone(&prefetcher.shared);
            let thread = spawn(move || {
                error::prepare_thread();
                shared.serve();
            })
            .map_err(|error| fail!(OutOfMemory, "a copy thread did not start: {error}"))?;
            prefetcher.shared.threads.lock().push(thread);
        }
        Ok(prefetcher)
    }

    /// A panic was caught in a call: what it left behind is unknown.
    pub fn poison(&self) {
        self.shared.poisoned.store(true, Ordering::Release);
    }

    /// Has a batch made of `leaves`, one behind the other, each at the next multiple of its
    /// alignment. Waits for a slot as long as `most` says; none: as long as it takes. Returns its
    /// ticket.
    ///
    /// # Safety
    /// The sources stay as they are until [`Prefetcher::poll`] says that they are not needed, or
    /// the batch was waited for, has failed, or was cancelled. Pinned ones stay until it is there.
    pub unsafe fn submit(
        &self,
        leaves: impl ExactSizeIterator<Item = Leaf>,
        most: Option<Duration>,
    ) -> Result<u64> {
        let shared = &*self.shared;
        shared.check_open()?;
        let index = shared.take(most == Some(Duration::ZERO), deadline(most))?;
        self.submit_in(index, leaves).inspect_err(|_| shared.give(index))
    }

    fn submit_in(&self, index: usize, leaves: impl ExactSizeIterator<Item = Leaf>) -> Result<u64> {
        let shared = &*self.shared;
        let streaming = shared.target.is_streaming();
        let mut job = shared.job(index);
        // Nobody has it but the slot, whose last batch is over.
        let Some(filled) = Arc::get_mut(&mut job) else {
            return Err(fail!(Internal, "a thread is still on the last batch of a slot"));
        };
        let prepared = filled
            .fill(leaves, !streaming, shared.config.batch_most())
            .and_then(|()| shared.make_room(index, filled.total()));
        match prepared {
            Ok(room) if streaming => filled.cut(room.staging, room.address),
            Ok(_) => {}
            Err(error) => {
                shared.put_job_back(index, job);
                return Err(error);
            }
        }
        let mut slots = shared.slots.lock();
        if slots.closing {
            slots.slots[index].job = Some(job);
            return Err(closed());
        }
        slots.stats.submitted += 1;
        slots.stats.submitted_bytes += job.total();
        slots.stats.staged_bytes += job.staged();
        slots.queue(index, job);
        let ticket = slots.slots[index].ticket;
        drop(slots);
        if shared.config.copy_threads == 0 {
            shared.help();
        } else {
            shared.work.notify_one();
        }
        Ok(ticket)
    }

    /// A slot of at least `bytes` bytes for a producer to write a batch to, as it is going to be:
    /// nothing of it is copied by a processor. It is submitted with [`Prefetcher::submit_lent`], or
    /// given back with [`Prefetcher::cancel`].
    pub fn lend(&self, bytes: u64, most: Option<Duration>) -> Result<Lent> {
        let shared = &*self.shared;
        shared.check_open()?;
        let limit = shared.config.batch_most();
        if bytes > limit {
            return Err(fail!(InvalidArgument, "size is {bytes}; a slot has at most {limit}"));
        }
        let index = shared.take(most == Some(Duration::ZERO), deadline(most))?;
        let began = Instant::now();
        let room = shared
            .make_room(index, bytes)
            .and_then(|room| caught(|| shared.target.prepare(index)).map(|()| room))
            .inspect_err(|_| shared.give(index))?;
        let mut slots = shared.slots.lock();
        slots.stats.drain_ns += nanoseconds(began);
        let ticket = slots.slots[index].ticket;
        Ok(Lent { ticket, address: room.staging, bytes: room.bytes })
    }

    /// Submits what was written to a slot that was lent: its first `bytes` bytes. With an error it
    /// is still lent.
    pub fn submit_lent(&self, ticket: u64, bytes: u64) -> Result<()> {
        let shared = &*self.shared;
        shared.check_open()?;
        let mut slots = shared.slots.lock();
        if slots.closing {
            return Err(closed());
        }
        let index = slots.find(ticket)?;
        let slot = &mut slots.slots[index];
        if slot.phase != Phase::Lent || slot.busy > 0 {
            return Err(fail!(
                InvalidState,
                "the batch of ticket {ticket:#x} was submitted before"
            ));
        }
        if bytes > slot.room.bytes {
            return Err(fail!(
                InvalidArgument,
                "size is {bytes}; the slot has {}",
                slot.room.bytes
            ));
        }
        slot.phase = Phase::Sending;
        slot.busy += 1;
        let room = slot.room;
        let mut job = slot.job.take().unwrap_or_default();
        drop(slots);
        if let Some(filled) = Arc::get_mut(&mut job) {
            filled.fill_lent(bytes);
            if shared.target.is_streaming() {
                filled.cut(room.staging, room.address);
            }
        }
        // SAFETY: what was written stays in the slot.
        let sent = caught(|| unsafe { shared.target.send(index, job.pieces()) });
        let mut slots = shared.slots.lock();
        slots.slots[index].job = Some(job);
        if sent.is_err() {
            let slot = &mut slots.slots[index];
            slot.busy -= 1;
            slot.phase = Phase::Lent;
        } else {
            slots.stats.submitted += 1;
            slots.stats.submitted_bytes += bytes;
            slots.sent(index, Ok(()));
        }
        drop(slots);
        shared.changed.notify_all();
        sent
    }

    /// Gets a batch for work that is queued on `stream` from now on. Waits until it is staged; for
    /// the copy to the device waits `stream`. The caller has it until [`Prefetcher::release`], and
    /// may get it for further streams. A batch that failed is over, with its error.
    pub fn wait(&self, ticket: u64, stream: Stream) -> Result<Batch> {
        let shared = &*self.shared;
        shared.check_open()?;
        let mut slots = shared.slots.lock();
        let index = slots.find(ticket)?;
        let mut began = None;
        loop {
            let slot = &slots.slots[index];
            if slot.ticket != ticket || slot.cancelled {
                return Err(super::slot::unknown(ticket));
            }
            if slots.closing {
                return Err(closed());
            }
            match slot.phase {
                Phase::Ready | Phase::Held => break,
                Phase::Leaving(_) => return Err(super::slot::unknown(ticket)),
                Phase::Lent => {
                    return Err(fail!(
                        InvalidState,
                        "nothing was submitted for ticket {ticket:#x} yet"
                    ));
                }
                _ => {
                    began.get_or_insert_with(Instant::now);
                    slots = shared.changed.wait(slots);
                }
            }
        }
        if let Some(began) = began {
            slots.stats.wait_ns += nanoseconds(began);
            slots.stats.late += 1;
        }
        if let Some((kind, message)) = slots.slots[index].failure.take() {
            // No thread is on it: one that fails is ready once the last one is done.
            slots.give(index);
            drop(slots);
            shared.freed.notify_one();
            return Err(Error::new(kind, format_args!("{message}")));
        }
        let slot = &mut slots.slots[index];
        slot.phase = Phase::Held;
        slot.busy += 1;
        let bytes = slot.job.as_ref().map_or(0, |job| job.total());
        let batch = Batch { address: slot.room.address, bytes };
        drop(slots);
        let followed = caught(|| shared.target.follow(index, stream));
        let mut slots = shared.slots.lock();
        let slot = &mut slots.slots[index];
        slot.busy -= 1;
        match &followed {
            Ok(()) if !slot.followed => {
                slot.followed = true;
                slots.stats.delivered += 1;
            }
            Ok(()) => {}
            // It is as before, unless another thread has it or is about to.
            Err(_) if !slot.followed && slot.busy == 0 => slot.phase = Phase::Ready,
            Err(_) => {}
        }
        drop(slots);
        shared.changed.notify_all();
        followed.map(|()| batch)
    }

    /// How far a batch is. Does not wait. The error of one that failed, which is still to be waited
    /// for or cancelled.
    pub fn poll(&self, ticket: u64) -> Result<Progress> {
        let shared = &*self.shared;
        shared.check_open()?;
        let slots = shared.slots.lock();
        let index = slots.find(ticket)?;
        let slot = &slots.slots[index];
        match slot.phase {
            Phase::Ready | Phase::Held => {
                if let Some((kind, message)) = &slot.failure {
                    return Err(Error::new(*kind, format_args!("{message}")));
                }
                let there = shared.with_busy(slots, index, || shared.target.is_there(index))?;
                Ok(if there { Progress::There } else { Progress::Sent })
            }
            Phase::Leaving(_) => Err(super::slot::unknown(ticket)),
            _ => Ok(Progress::Staging),
        }
    }

    /// Calls a batch off that nobody has got: when this returns its sources are not needed any
    /// more, and its slot is free. Waits for what threads are at, a chunk each, and if it came from
    /// pinned memory for the device.
    pub fn cancel(&self, ticket: u64) -> Result<()> {
        let shared = &*self.shared;
        shared.check_open()?;
        let mut slots = shared.slots.lock();
        let index = slots.find(ticket)?;
        let slot = &slots.slots[index];
        if matches!(slot.phase, Phase::Held | Phase::Leaving(_)) {
            return Err(fail!(
                InvalidState,
                "the batch of ticket {ticket:#x} was waited for; release it instead"
            ));
        }
        if slot.cancelled {
            return Err(super::slot::unknown(ticket));
        }
        slots.call_off(index);
        let slots = shared.quiet(slots, index);
        let waited = if slots.slots[index].is_read_in_place() {
            shared.with_busy(slots, index, || shared.target.wait(index))
        } else {
            drop(slots);
            Ok(())
        };
        let mut slots = shared.slots.lock();
        slots.stats.cancelled += 1;
        slots.give(index);
        drop(slots);
        shared.freed.notify_one();
        // Who waits for it learns that it is over.
        shared.changed.notify_all();
        waited
    }

    /// The consumer's last work with the batch is queued on `stream` by now: its slot is for the
    /// next one behind that.
    pub fn release(&self, ticket: u64, stream: Stream) -> Result<()> {
        let shared = &*self.shared;
        shared.check_open()?;
        let mut slots = shared.slots.lock();
        let index = slots.find(ticket)?;
        slots = shared.quiet(slots, index);
        let slot = &mut slots.slots[index];
        match slot.phase {
            _ if slot.ticket != ticket => return Err(super::slot::unknown(ticket)),
            Phase::Held => slot.phase = Phase::Leaving(stream),
            Phase::Leaving(_) => return Err(super::slot::unknown(ticket)),
            _ => {
                return Err(fail!(
                    InvalidState,
                    "the batch of ticket {ticket:#x} was not waited for; cancel it instead"
                ));
            }
        }
        drop(slots);
        let over = Over { shared: Arc::clone(&self.shared), slot: index };
        let left = caught(|| shared.target.leave(index, stream, over));
        if left.is_err() {
            shared.slots.lock().slots[index].phase = Phase::Held;
        }
        left
    }

    /// The numbers.
    pub fn stats(&self) -> Result<Stats> {
        self.shared.check_open()?;
        let slots = self.shared.slots.lock();
        let mut stats = slots.stats;
        stats.slots = slots.slots.len() as u64;
        stats.used_slots = slots.used() as u64;
        Ok(stats)
    }

    /// Ends it for everybody: batches that nobody has got are called off, calls that wait return
    /// with an error, as do later ones, and the threads end. Waits for what they are at, and for the
    /// device where it reads a batch that was called off from pinned memory. What consumers have
    /// stays, and is still to be released.
    pub fn close(&self) -> Result<()> {
        self.shared.check_open()?;
        self.shared.close();
        Ok(())
    }

    /// Closes it and gives its memory back. An error when consumers have batches: their blocks stay
    /// live in the pool, to be freed by who has them.
    pub fn destroy(&self) -> Result<()> {
        self.shared.end()
    }

    pub(super) fn shared(&self) -> &Arc<Shared<T>> {
        &self.shared
    }
}

impl<T: Target> Drop for Prefetcher<T> {
    fn drop(&mut self) {
        let _ = self.shared.end();
        if self.shared.is_of_parent() {
            // Handles of threads that are not here are not to be touched.
            std::mem::forget(Arc::clone(&self.shared));
        }
    }
}
