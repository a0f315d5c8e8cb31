//! Bugs for tests to plant, so that the checker of order is seen to find them. Of no library
//! that is not built for its own tests.

use std::cell::Cell;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Two free runs that become one carry the earlier of their fences.
    StaleFence,
    /// Memory changes streams without the wait for its fence.
    MissingWait,
    /// Pages are everybody's, to be unmapped too, before the fence has passed.
    EarlyUnmap,
    /// `record_stream` does nothing.
    IgnoredStream,
    /// What a graph freed is everybody's while the graph lives.
    LeakedGraph,
    /// What is left over of a run that was cut has no fence.
    BareRemainder,
    /// A place in a plan is used again without a wait for the stream that had it.
    UnorderedPlan,
    /// A consumer's stream does not wait for the copy of its batch.
    UnfollowedCopy,
    /// A batch is copied over one that is still being read.
    HastyCopy,
    /// Staging memory is written while it is being copied from.
    HastyStaging,
}

impl Bug {
    /// Those of a prefetcher.
    pub const PREFETCH: [Bug; 3] = [Bug::UnfollowedCopy, Bug::HastyCopy, Bug::HastyStaging];

    /// Those of a pool.
    pub const ALL: [Bug; 7] = [
        Bug::StaleFence,
        Bug::MissingWait,
        Bug::EarlyUnmap,
        Bug::IgnoredStream,
        Bug::LeakedGraph,
        Bug::BareRemainder,
        Bug::UnorderedPlan,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in the calling thread, or takes it away.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether the calling thread has this one.
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
