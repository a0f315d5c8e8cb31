//! Whether the rows of a trace make sense one after the other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::event::{Action, Event};
use crate::error::{Result, fail};

/// One row that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line of the file.
    pub line: u64,
    /// What is wrong, without the line.
    pub message: String,
}

/// The rows that make no sense: all of them counted, the first ones kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// How many there are.
    pub total: u64,
    /// The first of them, at most [`Faults::KEPT`].
    pub first: Vec<Fault>,
}

impl Faults {
    /// How many faults are kept with line and message.
    pub const KEPT: usize = 100;

    /// An error that counts the faults of the trace `name` and names the first one.
    ///
    /// # Errors
    /// `MalformedTrace` when there is a fault.
    pub fn check(&self, name: &std::path::Path) -> Result<()> {
        match self.first.first() {
            None => Ok(()),
            Some(Fault { line, message }) => Err(fail!(
                MalformedTrace,
                "trace `{}`, line {line}: {message} ({} such rows in all)",
                name.display(),
                self.total
            )),
        }
    }

    fn add(&mut self, line: u64, message: String) {
        self.total += 1;
        if self.first.len() < Faults::KEPT {
            self.first.push(Fault { line, message });
        }
    }
}

/// What an event does to the set of live blocks.
///
/// A slot is a dense number in place of a pointer: two blocks that are live at one time
/// never share one, and slots are used again, the last freed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A block begins to live.
    Allocate {
        /// Where the block is kept.
        slot: usize,
    },
    /// A block is freed.
    Free {
        /// Where the block was kept.
        slot: usize,
    },
    /// No block is concerned: an allocation failed, a block of no bytes has the null
    /// pointer, or the row makes no sense.
    Nothing,
}

/// Follows the live blocks through a trace, event by event, and finds the rows that make
/// no sense:
///
/// - an allocation of a pointer that is live (ignored: the first block lives on),
/// - an allocation of some bytes at the null pointer (ignored),
/// - a free of a pointer that is not live (ignored),
/// - a free whose size is not the allocation's (the block is freed: its pointer names it).
#[derive(Debug, Default)]
pub struct Checker {
    live: HashMap<u64, Block>,
    vacant: Vec<usize>,
    slots: usize,
    // Wide enough for any number of blocks of any size.
    requested: u128,
    peak_requested: u128,
    faults: Faults,
}

#[derive(Debug)]
struct Block {
    slot: usize,
    size: u64,
    line: u64,
}

impl Checker {
    /// A checker that knows no block yet.
    pub fn new() -> Checker {
        Checker::default()
    }

    /// Takes the next event, which stands in this line.
    pub fn check(&mut self, line: u64, event: &Event) -> Meaning {
        match event.action {
            Action::AllocateFailure => Meaning::Nothing,
            // Allocators may answer a request for no bytes with the null pointer, and take
            // it back; many such blocks can be live at once.
            Action::Allocate | Action::Free if event.pointer == 0 && event.size == 0 => {
                Meaning::Nothing
            }
            Action::Allocate => self.allocate(line, event),
            Action::Free => self.free(line, event),
        }
    }

    fn allocate(&mut self, line: u64, event: &Event) -> Meaning {
        let Event { pointer, size, .. } = *event;
        if pointer == 0 {
            self.faults.add(line, format!("allocate of {size} bytes at the null pointer"));
            return Meaning::Nothing;
        }
        match self.live.entry(pointer) {
            Entry::Occupied(block) => {
                let since = block.get().line;
                let message = format!("allocate of {pointer:#x}, which is live since line {since}");
                self.faults.add(line, message);
                Meaning::Nothing
            }
            Entry::Vacant(place) => {
                let slot = self.vacant.pop().unwrap_or_else(|| {
                    self.slots += 1;
                    self.slots - 1
                });
                place.insert(Block { slot, size, line });
                self.requested += u128::from(size);
                self.peak_requested = self.peak_requested.max(self.requested);
                Meaning::Allocate { slot }
            }
        }
    }

    fn free(&mut self, line: u64, event: &Event) -> Meaning {
        let Event { pointer, size, .. } = *event;
        let Some(block) = self.live.remove(&pointer) else {
            self.faults.add(line, format!("free of {pointer:#x}, which is not live"));
            return Meaning::Nothing;
        };
        if block.size != size {
            let Block { size: allocated, line: since, .. } = block;
            self.faults.add(
                line,
                format!(
                    "free of {pointer:#x} with {size} bytes, which has {allocated} since line \
                     {since}"
                ),
            );
        }
        self.requested -= u128::from(block.size);
        self.vacant.push(block.slot);
        Meaning::Free { slot: block.slot }
    }

    /// How many slots were given out: every slot is below this number.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The most bytes requested by blocks that were live at one time; at most `u64::MAX`.
    pub fn peak_requested(&self) -> u64 {
        u64::try_from(self.peak_requested).unwrap_or(u64::MAX)
    }

    /// The rows that made no sense so far.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::error::Kind;

    fn event(action: Action, pointer: u64, size: u64) -> Event {
        Event { thread: 1, time: 0, action, pointer, size, stream: 0 }
    }

    /// Checks the events as lines 2, 3, ... and returns what they mean.
    fn check(checker: &mut Checker, events: &[(Action, u64, u64)]) -> Vec<Meaning> {
        let rows = events.iter().enumerate();
        rows.map(|(index, &(action, pointer, size))| {
            checker.check(index as u64 + 2, &event(action, pointer, size))
        })
        .collect()
    }

    use Action::{Allocate, AllocateFailure, Free};

    #[test]
    fn slots_are_dense_and_used_again() {
        let mut checker = Checker::new();
        let events = [(Allocate, 0xa, 1), (Allocate, 0xb, 2), (Free, 0xa, 1), (Allocate, 0xc, 3)];
        assert_eq!(
            check(&mut checker, &events),
            [
                Meaning::Allocate { slot: 0 },
                Meaning::Allocate { slot: 1 },
                Meaning::Free { slot: 0 },
                Meaning::Allocate { slot: 0 },
            ]
        );
        assert_eq!(checker.slots(), 2);
        assert_eq!(checker.peak_requested(), 5);
        assert_eq!(checker.faults(), &Faults::default());
        assert_eq!(checker.faults().check(Path::new("t.csv")), Ok(()));
    }

    /// The one fault of these events, and what they mean.
    fn fault(events: &[(Action, u64, u64)]) -> (Vec<Meaning>, u64, String) {
        let mut checker = Checker::new();
        let meanings = check(&mut checker, events);
        assert_eq!((checker.faults().total, checker.faults().first.len()), (1, 1));
        let fault = checker.faults().first[0].clone();
        (meanings, fault.line, fault.message)
    }

    #[test]
    fn a_live_pointer_is_not_allocated_again() {
        let (meanings, line, message) =
            fault(&[(Allocate, 0xa, 1), (Allocate, 0xa, 2), (Free, 0xa, 1)]);
        assert_eq!(meanings[1..], [Meaning::Nothing, Meaning::Free { slot: 0 }]);
        assert_eq!((line, &*message), (3, "allocate of 0xa, which is live since line 2"));
    }

    #[test]
    fn a_free_needs_an_allocation() {
        let (meanings, line, message) = fault(&[(Free, 0xa, 1), (Allocate, 0xa, 1)]);
        assert_eq!(meanings, [Meaning::Nothing, Meaning::Allocate { slot: 0 }]);
        assert_eq!((line, &*message), (2, "free of 0xa, which is not live"));
        let (meanings, line, _) = fault(&[(Allocate, 0xa, 1), (Free, 0xa, 1), (Free, 0xa, 1)]);
        assert_eq!((meanings[2], line), (Meaning::Nothing, 4));
    }

    #[test]
    fn a_free_of_another_size_is_named_and_frees() {
        let (meanings, line, message) = fault(&[(Allocate, 0xa, 1), (Free, 0xa, 2)]);
        assert_eq!(meanings[1], Meaning::Free { slot: 0 });
        let expected = "free of 0xa with 2 bytes, which has 1 since line 2";
        assert_eq!((line, &*message), (3, expected));
    }

    #[test]
    fn the_null_pointer_is_a_block_of_no_bytes_only() {
        let mut checker = Checker::new();
        let events = [
            (Allocate, 0, 0),
            (Allocate, 0, 0),
            (Free, 0, 0),
            (AllocateFailure, 0, 7),
            (AllocateFailure, 0xa, 7),
        ];
        assert_eq!(check(&mut checker, &events), [Meaning::Nothing; 5]);
        assert_eq!(checker.faults().total, 0);
        let (_, line, message) = fault(&[(Allocate, 0, 7)]);
        assert_eq!((line, &*message), (2, "allocate of 7 bytes at the null pointer"));
        let (_, line, message) = fault(&[(Free, 0, 7)]);
        assert_eq!((line, &*message), (2, "free of 0x0, which is not live"));
    }

    #[test]
    fn all_faults_are_counted_and_the_first_kept() {
        let mut checker = Checker::new();
        for line in 2..252 {
            checker.check(line, &event(Free, line, 1));
        }
        let faults = checker.faults();
        assert_eq!((faults.total, faults.first.len()), (250, Faults::KEPT));
        assert_eq!(faults.first[99].line, 101);
        let error = faults.check(Path::new("t.csv")).unwrap_err();
        assert_eq!(error.kind(), Kind::MalformedTrace);
        assert_eq!(
            error.message(),
            "trace `t.csv`, line 2: free of 0x2, which is not live (250 such rows in all)"
        );
    }

    #[test]
    fn sizes_add_up_beyond_64_bits() {
        let mut checker = Checker::new();
        let most = u64::MAX;
        check(&mut checker, &[(Allocate, 1, most), (Allocate, 2, most), (Free, 1, most)]);
        assert_eq!(checker.peak_requested(), u64::MAX);
        assert_eq!(checker.faults().total, 0);
    }
}
