//! Prefetchers over pools: what is not the same for every device.

use std::sync::{Arc, Weak};

use super::config::Config;
use super::engine::{Prefetcher, Shared};
use super::over_cuda::OverCuda;
use super::over_host::OverHost;
use super::target::{Over, Room, Target};
use crate::device::cuda::Piece;
use crate::error::{Result, fail};
use crate::order::Stream;
use crate::pool::{Holder, Pool};

/// Slots in a pool.
pub enum OnPool {
    #[doc(hidden)]
    Host(OverHost),
    #[doc(hidden)]
    Cuda(Box<OverCuda>),
}

impl Prefetcher<OnPool> {
    /// A prefetcher whose slots are blocks of `pool`.
    pub fn over(pool: &Arc<Pool>, config: &Config) -> Result<Prefetcher<OnPool>> {
        config.check()?;
        pool.check_open()?;
        let slots = config.slots as usize;
        let target = match (pool.context(), pool.device_name()) {
            (Some(context), _) => {
                let over = OverCuda::new(pool, context, slots, config.max_pinned_bytes)?;
                OnPool::Cuda(Box::new(over))
            }
            (None, "host") => OnPool::Host(OverHost::new(pool, slots)),
            (None, name) => {
                return Err(fail!(
                    Unsupported,
                    "pool is on {name}; batches go to a pool on host or on cuda, which stages in \
                     pinned memory of its own"
                ));
            }
        };
        let prefetcher = Prefetcher::create(target, config)?;
        let holder: Weak<Shared<OnPool>> = Arc::downgrade(prefetcher.shared());
        pool.enter_holder(holder);
        Ok(prefetcher)
    }
}

/// Its pool tells it when it is about to go. What slots have it keeps as long as it lives: they are
/// what bounds its memory.
impl Holder for Shared<OnPool> {
    fn held(&self, _: u64) -> u64 {
        0
    }

    fn give_up(&self, _: u64, _: u64) -> u64 {
        0
    }

    fn leave(&self, _: u64) {
        // What consumers still have the pool tells of itself, as of other live blocks.
        let _ = self.end();
    }
}

/// The pool of a prefetcher, as long as there is one.
pub(super) fn upgrade(pool: &Weak<Pool>) -> Result<Arc<Pool>> {
    pool.upgrade().ok_or_else(|| fail!(InvalidState, "the prefetcher's pool was destroyed"))
}

impl Target for OnPool {
    fn is_streaming(&self) -> bool {
        matches!(self, OnPool::Cuda(_))
    }

    fn make_room(&self, slot: usize, bytes: u64) -> Result<Room> {
        match self {
            OnPool::Host(over) => over.make_room(slot, bytes),
            OnPool::Cuda(over) => over.make_room(slot, bytes),
        }
    }

    fn prepare(&self, slot: usize) -> Result<()> {
        match self {
            OnPool::Host(_) => Ok(()),
            OnPool::Cuda(over) => over.prepare(slot),
        }
    }

    unsafe fn send(&self, slot: usize, pieces: &[Piece]) -> Result<()> {
        match self {
            OnPool::Host(_) => Ok(()),
            // SAFETY: the caller's promise.
            OnPool::Cuda(over) => unsafe { over.send(slot, pieces) },
        }
    }

    fn follow(&self, slot: usize, stream: Stream) -> Result<()> {
        match self {
            OnPool::Host(over) => over.follow(stream),
            OnPool::Cuda(over) => over.follow(slot, stream),
        }
    }

    fn is_there(&self, slot: usize) -> Result<bool> {
        match self {
            OnPool::Host(_) => Ok(true),
            OnPool::Cuda(over) => over.is_there(slot),
        }
    }

    fn wait(&self, slot: usize) -> Result<()> {
        match self {
            OnPool::Host(_) => Ok(()),
            OnPool::Cuda(over) => over.wait(slot),
        }
    }

    fn leave(&self, slot: usize, stream: Stream, over: Over<OnPool>) -> Result<()> {
        match self {
            OnPool::Host(host) => host.leave(slot, stream, || over.run()),
            OnPool::Cuda(cuda) => cuda.leave(slot, stream, || over.run()),
        }
    }

    fn close(&self, kept: &[usize]) -> Result<()> {
        match self {
            OnPool::Host(over) => over.close(kept),
            OnPool::Cuda(over) => over.close(kept),
        }
    }

    fn staging_bytes(&self) -> (u64, u64) {
        match self {
            OnPool::Host(_) => (0, 0),
            OnPool::Cuda(over) => over.staging_bytes(),
        }
    }
}
