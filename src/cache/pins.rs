//! Pins: who reads what.
//!
//! A pin is a mark and what the table knows of it. The mark is outside the table's lock: who is
//! done reading clears it with one instruction, and the table finds out when it next wants to
//! know whether somebody reads. Only of an entry that has left meanwhile the marks are *watched*:
//! the last reader has its block to give back, under the lock.

use std::sync::{Arc, OnceLock};

use super::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use super::table::{Lane, NO_LANE, NONE};
use crate::error::{Error, Result, fail};

/// An entry has one word for who reads it: its first pin, the last of which is followed by what
/// else there is to know, a number that is none of a pin's.
pub const BEYOND: u32 = 1 << 31;
/// Most pins.
const PINS_MAX: u32 = BEYOND;

/// Whether this is a pin.
#[inline]
pub fn is_pin(word: u32) -> bool {
    word < BEYOND
}

/// Pins that there is always room for, and of the first chunk; every chunk has twice as many as
/// the one before it.
const FIRST: u32 = 32;
const CHUNKS: usize = 27;
/// Pins that are looked at for one that was released, for each that is wanted.
const LOOKS: usize = 16;

/// What a mark's lower half says: nobody has it, somebody reads.
const HELD: u64 = 1;
/// With [`HELD`]: only under the lock it is released.
const WATCHED: u64 = 2;
const STATE: u64 = u32::MAX as u64;

/// What a reader needs to be done.
#[derive(Default)]
struct Mark {
    /// How often this place was given out, and in the lower half whether it is held.
    word: AtomicU64,
    /// Of the block that is read.
    address: AtomicUsize,
}

/// The marks of all pins. They stay where they are.
pub struct Marks {
    first: [Mark; FIRST as usize],
    chunks: [OnceLock<Box<[Mark]>>; CHUNKS],
}

/// How a release without the lock ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// As wished.
    Done,
    /// Not: the mark is watched, or there is no such pin.
    Not,
}

impl Marks {
    pub fn new() -> Marks {
        Marks {
            first: std::array::from_fn(|_| Mark::default()),
            chunks: [const { OnceLock::new() }; CHUNKS],
        }
    }

    #[inline]
    fn get(&self, at: u32) -> Option<&Mark> {
        match self.first.get(at as usize) {
            Some(mark) => Some(mark),
            None => self.get_beyond(at),
        }
    }

    /// The chunk of a mark that is not one of the first, and its place there.
    fn place(at: u32) -> (usize, usize) {
        let chunk = (at / FIRST).ilog2();
        (chunk as usize, (at - (FIRST << chunk)) as usize)
    }

    #[inline(never)]
    fn get_beyond(&self, at: u32) -> Option<&Mark> {
        let (chunk, place) = Marks::place(at);
        self.chunks[chunk].get()?.get(place)
    }

    /// Makes sure that there is a mark number `at`. False without memory.
    fn reserve(&self, at: u32) -> bool {
        if self.get(at).is_some() {
            return true;
        }
        let (chunk, _) = Marks::place(at);
        let (mut marks, count) = (Vec::new(), (FIRST as usize) << chunk);
        if marks.try_reserve_exact(count).is_err() {
            return false;
        }
        marks.resize_with(count, Mark::default);
        self.chunks[chunk].set(marks.into_boxed_slice()).is_ok()
    }

    /// Clears the mark of the pin with this ticket, of the block at `address`. What its reader did
    /// is seen by whoever finds it clear.
    #[inline]
    pub fn release(&self, ticket: u64, address: usize) -> Released {
        let Some(mark) = self.get(ticket as u32) else { return Released::Not };
        let held = ticket & !STATE | HELD;
        if mark.address.load(Ordering::Relaxed) == address
            && mark
                .word
                .compare_exchange(held, held & !STATE, Ordering::Release, Ordering::Relaxed)
                .is_ok()
        {
            return Released::Done;
        }
        Released::Not
    }

    fn bytes(&self) -> usize {
        self.chunks.iter().filter_map(OnceLock::get).map(|chunk| size_of_val(&**chunk)).sum()
    }
}

/// What the table knows of a pin.
struct Pin {
    /// The entry; [`NONE`] when nobody has it.
    entry: u32,
    /// The next pin of the same entry, or what follows them; or the next that nobody has.
    next: u32,
    /// The one before it.
    prev: u32,
    /// On which lane it was got, if that is known, which is behind the writing then.
    lane: u16,
}

/// All pins, under the table's lock.
pub struct Pins {
    marks: Arc<Marks>,
    pins: Vec<Pin>,
    vacant: u32,
    /// Which is looked at next.
    cursor: usize,
}

impl Pins {
    pub fn new(marks: Arc<Marks>) -> Pins {
        Pins { marks, pins: Vec::new(), vacant: NONE, cursor: 0 }
    }

    #[inline]
    fn state(&self, at: u32) -> u64 {
        self.marks.get(at).map_or(0, |mark| mark.word.load(Ordering::Acquire) & STATE)
    }

    /// A pin that nobody has, to be followed by [`Pins::hold`].
    #[inline]
    pub fn vacant(&self) -> Option<u32> {
        (self.vacant != NONE).then_some(self.vacant)
    }

    /// The next of those that are looked at in turns, when it was released, and its entry.
    #[inline]
    fn next_released(&mut self) -> Option<(u32, u32)> {
        self.cursor = if self.cursor + 1 < self.pins.len() { self.cursor + 1 } else { 0 };
        let entry = self.pins.get(self.cursor)?.entry;
        (self.state(self.cursor as u32) & HELD == 0).then_some((self.cursor as u32, entry))
    }

    /// One that was released, and its entry, to be dropped. None when that is not soon found.
    /// There is no vacant one.
    #[inline]
    pub fn released(&mut self) -> Option<(u32, u32)> {
        self.next_released().or_else(|| self.search())
    }

    #[cold]
    fn search(&mut self) -> Option<(u32, u32)> {
        (1..LOOKS.min(self.pins.len())).find_map(|_| self.next_released())
    }

    /// Of those from `from` on, the first that was released, and its entry, to be dropped.
    pub fn released_from(&self, from: u32) -> Option<(u32, u32)> {
        (from..self.pins.len() as u32)
            .map(|at| (at, self.pins[at as usize].entry))
            .find(|&(at, entry)| entry != NONE && self.state(at) & HELD == 0)
    }

    /// Entries that have pins.
    pub fn entries(&self) -> impl Iterator<Item = u32> {
        let first = |pin: &&Pin| pin.entry != NONE && pin.prev == NONE;
        self.pins.iter().filter(first).map(|pin| pin.entry)
    }

    /// One pin more that nobody has.
    #[cold]
    pub fn grow(&mut self) -> Result<u32> {
        let at = self.pins.len() as u32;
        if at >= PINS_MAX || !self.marks.reserve(at) || self.pins.try_reserve(1).is_err() {
            return Err(fail!(OutOfMemory, "no memory for one more pin"));
        }
        self.pins.push(Pin { entry: NONE, next: NONE, prev: NONE, lane: NO_LANE });
        self.vacant = at;
        Ok(at)
    }

    /// Gives the vacant pin `at` to a reader of `entry`, whose block is at `address` and whose first
    /// pin is `first`. Its ticket.
    #[inline]
    pub fn hold(&mut self, at: u32, entry: u32, first: &mut u32, address: usize) -> u64 {
        let next = std::mem::replace(first, at);
        if is_pin(next) {
            self.pins[next as usize].prev = at;
        }
        let pin = &mut self.pins[at as usize];
        self.vacant = pin.next;
        *pin = Pin { entry, next, prev: NONE, lane: NO_LANE };
        let Some(mark) = self.marks.get(at) else { return 0 };
        // Tickets of before are of no use any more. None is 0.
        let times = mark.word.load(Ordering::Relaxed) >> u32::BITS;
        let times = u64::from((times as u32).checked_add(1).unwrap_or(1)) << u32::BITS;
        mark.address.store(address, Ordering::Relaxed);
        mark.word.store(times | HELD, Ordering::Release);
        times | u64::from(at)
    }

    /// The pin with this ticket, of the block at `address`, and its entry; an error when it is
    /// not held.
    pub fn held(&self, ticket: u64, address: usize) -> Result<(u32, u32)> {
        let at = ticket as u32;
        if let Some(mark) = self.marks.get(at)
            && mark.word.load(Ordering::Acquire) & !WATCHED == ticket & !STATE | HELD
            && mark.address.load(Ordering::Relaxed) == address
        {
            return Ok((at, self.pins[at as usize].entry));
        }
        Err(no_pin(ticket))
    }

    /// Releases a pin that is held; an error when its reader did so meanwhile.
    pub fn release(&self, ticket: u64) -> Result<()> {
        let Some(mark) = self.marks.get(ticket as u32) else { return Err(no_pin(ticket)) };
        let seen = mark.word.load(Ordering::Acquire);
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        match seen & !WATCHED == ticket & !STATE | HELD
            && mark.word.compare_exchange(seen, seen & !STATE, success, failure).is_ok()
        {
            true => Ok(()),
            false => Err(no_pin(ticket)),
        }
    }

    /// Drops a pin that was released from those of its entry, of which `first` is the first.
    #[inline]
    pub fn drop_pin(&mut self, at: u32, first: &mut u32, lanes: &mut [Lane]) {
        let pin = &mut self.pins[at as usize];
        let (next, prev) = (pin.next, pin.prev);
        if pin.lane != NO_LANE {
            lanes[pin.lane as usize].count -= 1;
        }
        *pin = Pin { entry: NONE, next: self.vacant, prev: NONE, lane: NO_LANE };
        self.vacant = at;
        if is_pin(next) {
            self.pins[next as usize].prev = prev;
        }
        match prev {
            NONE => *first = next,
            prev => self.pins[prev as usize].next = next,
        }
    }

    /// Whether somebody reads the entry whose first pin this is. Those who are done are dropped on
    /// the way.
    #[inline]
    pub fn is_read(&mut self, first: &mut u32, lanes: &mut [Lane]) -> bool {
        while is_pin(*first) {
            if self.state(*first) & HELD != 0 {
                return true;
            }
            self.drop_pin(*first, first, lanes);
        }
        false
    }

    /// From now on all readers end under the lock. Whether there are any.
    pub fn watch(&mut self, first: &mut u32, lanes: &mut [Lane]) -> bool {
        let mut at = *first;
        while is_pin(at) {
            let next = self.pins[at as usize].next;
            let state = self.marks.get(at).map_or(0, |mark| {
                let seen = mark.word.load(Ordering::Relaxed);
                let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
                let watch =
                    |seen| mark.word.compare_exchange(seen, seen | WATCHED, success, failure);
                if seen & HELD == 0 { seen } else { watch(seen).unwrap_or_else(|seen| seen) }
            });
            if state & HELD == 0 {
                self.drop_pin(at, first, lanes);
            }
            at = next;
        }
        is_pin(*first)
    }

    /// What follows the pins of an entry, of which `first` is the first.
    pub fn beyond(&self, first: u32) -> u32 {
        let mut at = first;
        while is_pin(at) {
            at = self.pins[at as usize].next;
        }
        at
    }

    /// Has this follow the pins of an entry.
    pub fn set_beyond(&mut self, first: &mut u32, word: u32) {
        let (mut last, mut at) = (None, *first);
        while is_pin(at) {
            last = Some(at);
            at = self.pins[at as usize].next;
        }
        match last {
            Some(last) => self.pins[last as usize].next = word,
            None => *first = word,
        }
    }

    /// Notes that the reader is on `lane`. The lane that was noted before.
    pub fn note_lane(&mut self, at: u32, lane: u16) -> Option<u16> {
        let before = std::mem::replace(&mut self.pins[at as usize].lane, lane);
        (before != NO_LANE).then_some(before)
    }

    /// The lane that is noted.
    pub fn lane(&self, at: u32) -> u16 {
        self.pins[at as usize].lane
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.pins.capacity() * size_of::<Pin>() + self.marks.bytes()
    }

    /// The pins of an entry, by the first. An error when the links do not fit together.
    pub fn of_entry(
        &self,
        entry: u32,
        first: u32,
        watched: bool,
    ) -> std::result::Result<usize, String> {
        let (mut count, mut prev, mut at) = (0, NONE, first);
        while is_pin(at) {
            let pin = &self.pins[at as usize];
            if pin.entry != entry || pin.prev != prev || count > self.pins.len() {
                return Err(format!("pin {at} is among those of entry {entry}"));
            }
            if watched && self.state(at) & WATCHED == 0 {
                return Err(format!(
                    "pin {at} of entry {entry}, which is detached, is not watched"
                ));
            }
            (count, prev, at) = (count + 1, at, pin.next);
        }
        Ok(count)
    }

    /// How many belong to entries. An error when a vacant one is held.
    pub fn used(&self) -> std::result::Result<usize, String> {
        let (mut vacant, mut at) = (0, self.vacant);
        while at != NONE {
            let pin = &self.pins[at as usize];
            if pin.entry != NONE || self.state(at) & HELD != 0 || vacant > self.pins.len() {
                return Err(format!("pin {at} is vacant and held"));
            }
            (vacant, at) = (vacant + 1, pin.next);
        }
        Ok(self.pins.len() - vacant)
    }
}

/// The error of a pin that is none.
#[cold]
fn no_pin(ticket: u64) -> Error {
    fail!(
        InvalidArgument,
        "pin {ticket:#x} is not held: it was released before, or is not of this cache"
    )
}
