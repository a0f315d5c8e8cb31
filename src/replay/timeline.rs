//! Live and reserved bytes after each step of a trace.

use super::plan::Step;
use super::{Plan, Target};
use crate::error::Result;
use crate::lifetime::picture::Timeline;
use crate::pool::Pool;

impl Plan {
    /// What is live after each step by the trace itself, and, when it is replayed into `pool` for
    /// that, what the pool has reserved then. All blocks are freed again.
    ///
    /// # Errors
    /// The pool's own when it refuses to free a block.
    pub fn timeline(&self, pool: Option<&Pool>) -> Result<Timeline> {
        let mut timeline = Timeline::default();
        let mut sizes = vec![0; self.slots];
        let mut blocks = Blocks::of(pool);
        let mut live = 0;
        for step in &self.steps {
            match *step {
                Step::Allocate { slot, size, stream } => {
                    sizes[slot] = size as u64;
                    live += size as u64;
                    timeline.failed += u64::from(!blocks.alloc(slot, size, stream));
                }
                Step::Free { slot, stream } => {
                    live -= std::mem::take(&mut sizes[slot]);
                    blocks.free(slot, stream)?;
                }
            }
            timeline.live.push(live);
            if let Some(pool) = pool {
                timeline.reserved.push(pool.stats().reserved[0]);
            }
        }
        for slot in 0..self.slots {
            blocks.free(slot, 0)?;
        }
        Ok(timeline)
    }
}

/// The blocks that a pool gave, by slot. They are freed when this is dropped.
pub(crate) struct Blocks<'a> {
    held: Vec<Option<*mut u8>>,
    pool: Option<&'a Pool>,
}

impl<'a> Blocks<'a> {
    /// No blocks yet; without a pool there will be none.
    pub(crate) fn of(pool: Option<&'a Pool>) -> Blocks<'a> {
        Blocks { held: Vec::new(), pool }
    }

    /// False when the pool has no memory.
    pub(crate) fn alloc(&mut self, slot: usize, size: usize, stream: usize) -> bool {
        let Some(pool) = self.pool else { return true };
        if self.held.len() <= slot {
            self.held.resize(slot + 1, None);
        }
        self.held[slot] = Target::alloc(pool, size, stream).ok();
        self.held[slot].is_some()
    }

    /// # Errors
    /// The pool's own when it refuses the block.
    pub(crate) fn free(&mut self, slot: usize, stream: usize) -> Result<()> {
        let block = self.held.get_mut(slot).and_then(Option::take);
        let (Some(pool), Some(block)) = (self.pool, block) else { return Ok(()) };
        // SAFETY: the pool gave it, and whoever takes it from its slot frees it.
        unsafe { Target::free(pool, block, stream) }
    }
}

impl Drop for Blocks<'_> {
    fn drop(&mut self) {
        // After an error, which is told already.
        for slot in 0..self.held.len() {
            let _ = self.free(slot, 0);
        }
    }
}
