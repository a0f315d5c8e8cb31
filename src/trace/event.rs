//! One row of a trace.

/// Nanoseconds in a day: the times of events are below it.
pub const NANOSECONDS_PER_DAY: u64 = 86_400_000_000_000;

/// What a row says was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A block was given out.
    Allocate,
    /// A block was asked for and there was none; `pointer` means nothing.
    AllocateFailure,
    /// A block was given back.
    Free,
}

impl Action {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Allocate => "allocate",
            Action::AllocateFailure => "allocate failure",
            Action::Free => "free",
        }
    }

    /// The action with this word.
    pub(super) fn from_name(name: &[u8]) -> Option<Action> {
        [Action::Allocate, Action::Free, Action::AllocateFailure]
            .into_iter()
            .find(|action| action.name().as_bytes() == name)
    }
}

/// One row of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// The thread that called, by number.
    pub thread: u64,
    /// Nanoseconds since midnight, below [`NANOSECONDS_PER_DAY`]. Files keep microseconds.
    pub time: u64,
    /// What was done.
    pub action: Action,
    /// The block, by name: unique among the blocks live at one time.
    pub pointer: u64,
    /// Bytes requested.
    pub size: u64,
    /// The stream, by number.
    pub stream: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_is_found_by_its_name() {
        for action in [Action::Allocate, Action::AllocateFailure, Action::Free] {
            assert_eq!(Action::from_name(action.name().as_bytes()), Some(action));
        }
        for other in ["", "Allocate", "allocate ", "deallocate", "allocate  failure"] {
            assert_eq!(Action::from_name(other.as_bytes()), None, "{other}");
        }
    }
}
