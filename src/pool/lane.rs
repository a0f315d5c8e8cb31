//! Lanes: in whose order memory is used.

use crate::order::Stream;

/// The order that a block is used in: a stream's or, while a graph is being captured on that
/// stream, the graph's. What is freed in a lane is that lane's again at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The stream.
    pub stream: Stream,
    /// The graph whose capture it takes part in, 0 for none.
    pub graph: u64,
}

impl Lane {
    /// Work on `stream` that runs when it is queued.
    pub fn eager(stream: Stream) -> Lane {
        Lane { stream, graph: 0 }
    }

    /// Whether the work runs when it is queued, not when a graph is launched.
    pub fn is_eager(self) -> bool {
        self.graph == 0
    }
}
