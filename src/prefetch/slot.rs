//! What a prefetcher knows, under its lock: its slots, and the work that is to be done.

use std::collections::VecDeque;
use std::sync::Arc;

use super::source::Job;
use super::stats::Stats;
use super::target::Room;
use crate::error::{Error, Kind, Result, fail};
use crate::order::Stream;

/// A ticket is its slot's number and how many there were before it.
const SLOT_BITS: u32 = 8;

/// What a slot is for at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nobody's.
    Free,
    /// Somebody is about to submit a batch in it, or to write one there.
    Lent,
    /// Its batch waits for a thread.
    Waiting,
    /// A thread sees to it that the staging memory may be written.
    Preparing,
    /// Threads write.
    Staging,
    /// A thread tells the device to copy.
    Sending,
    /// The batch is staged and sent, or has failed.
    Ready,
    /// A consumer has it.
    Held,
    /// The consumer is done but for what it queued on this stream.
    Leaving(Stream),
}

/// A slot.
#[derive(Debug)]
pub struct Slot {
    /// Of its batch; 0 for none.
    pub ticket: u64,
    pub phase: Phase,
    /// The batch is called off: threads stop.
    pub cancelled: bool,
    /// A consumer's stream was made to wait for the batch.
    pub followed: bool,
    /// Threads that are on it without the lock.
    pub busy: u32,
    /// The next chunk to be written, and how many of all are not written yet.
    next: u32,
    left: u32,
    chunks: u32,
    /// Why it failed.
    pub failure: Option<(Kind, String)>,
    /// None while it is being filled.
    pub job: Option<Arc<Job>>,
    pub room: Room,
}

impl Slot {
    /// Whether a device may be reading sources of its batch where they are, and nobody has got it.
    pub fn is_read_in_place(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Sending)
            && self.job.as_ref().is_some_and(|job| job.goes_straight())
    }
}

/// What a thread is to do next.
pub struct Task {
    pub slot: usize,
    pub job: Arc<Job>,
    pub room: Room,
    pub step: Step,
}

/// See [`Task`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Prepare,
    Write(u32),
}

/// What comes after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Others are still at it, or it is over.
    Nothing,
    /// Chunks may be written.
    Write,
    /// All is written: the thread tells the device.
    Send,
}

/// All slots.
#[derive(Debug)]
pub struct Slots {
    pub slots: Vec<Slot>,
    /// Free ones, first the one that has been so for longest: its last copy is over soonest.
    free: VecDeque<usize>,
    /// Those with work for threads, in the order in which they were submitted.
    queue: VecDeque<usize>,
    tickets: u64,
    pub closing: bool,
    pub stats: Stats,
}

impl Slots {
    pub fn new(count: usize) -> Slots {
        let slot = |_| Slot {
            ticket: 0,
            phase: Phase::Free,
            cancelled: false,
            followed: false,
            busy: 0,
            next: 0,
            left: 0,
            chunks: 0,
            failure: None,
            job: None,
            room: Room::default(),
        };
        let mut queue = VecDeque::new();
        queue.reserve_exact(count);
        Slots {
            slots: (0..count).map(slot).collect(),
            free: (0..count).collect(),
            queue,
            tickets: 0,
            closing: false,
            stats: Stats::default(),
        }
    }

    /// Takes a free slot for a batch that is to come.
    pub fn take(&mut self) -> Option<usize> {
        let index = self.free.pop_front()?;
        self.tickets += 1;
        let slot = &mut self.slots[index];
        debug_assert!(slot.phase == Phase::Free && slot.busy == 0);
        slot.phase = Phase::Lent;
        slot.ticket = (self.tickets << SLOT_BITS) | index as u64;
        (slot.cancelled, slot.followed, slot.failure) = (false, false, None);
        (slot.next, slot.left) = (0, 0);
        Some(index)
    }

    /// The slot is nobody's again.
    pub fn give(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        debug_assert!(slot.phase != Phase::Free);
        (slot.phase, slot.ticket) = (Phase::Free, 0);
        self.free.push_back(index);
    }

    /// The slot of a ticket.
    pub fn find(&self, ticket: u64) -> Result<usize> {
        let index = (ticket & ((1 << SLOT_BITS) - 1)) as usize;
        match self.slots.get(index) {
            Some(slot) if ticket != 0 && slot.ticket == ticket => Ok(index),
            _ => Err(unknown(ticket)),
        }
    }

    /// Slots that are in use.
    pub fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A batch is to be staged.
    pub fn queue(&mut self, index: usize, job: Arc<Job>) {
        let slot = &mut self.slots[index];
        slot.phase = Phase::Waiting;
        (slot.next, slot.left, slot.chunks) = (0, job.chunks(), job.chunks());
        slot.job = Some(job);
        self.queue.push_back(index);
    }

    /// The next step, of the batch that was submitted first.
    pub fn next_task(&mut self) -> Option<Task> {
        for at in 0..self.queue.len() {
            let index = self.queue[at];
            let slot = &mut self.slots[index];
            let Some(job) = &slot.job else { continue };
            let step = match slot.phase {
                Phase::Waiting => {
                    slot.phase = Phase::Preparing;
                    Step::Prepare
                }
                Phase::Staging => {
                    slot.next += 1;
                    Step::Write(slot.next - 1)
                }
                _ => continue,
            };
            slot.busy += 1;
            let task = Task { slot: index, job: Arc::clone(job), room: slot.room, step };
            if matches!(step, Step::Write(_)) && slot.next == slot.chunks {
                self.queue.remove(at);
            }
            return Some(task);
        }
        None
    }

    fn leave_queue(&mut self, index: usize) {
        self.queue.retain(|&queued| queued != index);
    }

    /// A thread has done a step.
    pub fn after(&mut self, index: usize, step: Step, done: Result<()>) -> Next {
        let slot = &mut self.slots[index];
        slot.busy -= 1;
        if let Err(error) = done
            && slot.failure.is_none()
        {
            slot.failure = Some((error.kind(), error.message()));
        }
        if let Step::Write(_) = step {
            slot.left -= 1;
        }
        if slot.failure.is_some() || slot.cancelled {
            // Whoever is still at it ends its step; nobody begins another one.
            if slot.busy == 0 && !slot.cancelled {
                slot.phase = Phase::Ready;
                self.stats.failed += 1;
            }
            self.leave_queue(index);
            return Next::Nothing;
        }
        match step {
            Step::Prepare if slot.left > 0 => {
                slot.phase = Phase::Staging;
                Next::Write
            }
            Step::Write(_) if slot.left > 0 => Next::Nothing,
            Step::Prepare | Step::Write(_) => {
                slot.phase = Phase::Sending;
                slot.busy += 1;
                self.leave_queue(index);
                Next::Send
            }
        }
    }

    /// The device was told.
    pub fn sent(&mut self, index: usize, done: Result<()>) {
        let slot = &mut self.slots[index];
        slot.busy -= 1;
        match done {
            Ok(()) => {
                self.stats.sends += slot.job.as_ref().map_or(0, |job| job.pieces().len() as u64);
            }
            Err(error) => {
                self.stats.failed += 1;
                slot.failure = Some((error.kind(), error.message()));
            }
        }
        if !slot.cancelled {
            slot.phase = Phase::Ready;
        }
    }

    /// Calls a batch off; threads that are on it end their step.
    pub fn call_off(&mut self, index: usize) {
        self.leave_queue(index);
        self.slots[index].cancelled = true;
    }
}

#[cold]
pub fn unknown(ticket: u64) -> Error {
    fail!(
        InvalidArgument,
        "ticket {ticket:#x} is none of this prefetcher's, or its batch was released or cancelled"
    )
}
