//! What a cache asks of a pool.

use std::sync::{Arc, Weak};

use crate::error::Result;
use crate::order::{Fence, Stream};
use crate::pool::{BlockExtent, Holder, Pool};

/// The memory that entries are made of. No lock of a cache is held across a call of it, but for
/// [`Memory::has_passed`].
pub trait Memory: Send + Sync + 'static {
    /// A number that no other memory has.
    fn id(&self) -> u64;

    /// Has `holder` asked for memory before an allocation fails.
    fn enter(&self, holder: Weak<dyn Holder>);

    /// Its addresses: the first, and how many.
    fn addresses(&self) -> (usize, u64);

    /// Whether what is queued on `stream` is done as soon as it was called.
    fn is_immediate(&self, stream: Stream) -> bool;

    /// What the live block at `address` is.
    fn extent(&self, address: usize) -> Result<BlockExtent>;

    /// The fence behind what is queued on `stream` so far, and with which fence the stream began
    /// that has this handle now.
    fn mark(&self, stream: Stream) -> Result<(Fence, u64)>;

    /// Whether `fence` is known to have passed.
    fn has_passed(&self, fence: Fence) -> bool;

    /// Makes what is queued on `stream` from now on wait for `fences`.
    fn wait_on(&self, stream: Stream, fences: &[Fence]) -> Result<()>;

    /// Notes that a live block is not to be used again, once it is freed, before `fences` have
    /// passed: some of those that are too many for one [`Memory::free`].
    fn follow(&self, address: usize, fences: &[Fence]) -> Result<()>;

    /// Frees a block whose last uses are behind `fences`, on the stream of `home` if that is
    /// still the one that began with the fence beside it.
    fn free(&self, address: usize, home: (Stream, u64), fences: &[Fence]) -> Result<()>;
}

impl Memory for Pool {
    fn id(&self) -> u64 {
        self.id()
    }

    fn enter(&self, holder: Weak<dyn Holder>) {
        self.enter_holder(holder);
    }

    fn addresses(&self) -> (usize, u64) {
        self.addresses()
    }

    fn is_immediate(&self, stream: Stream) -> bool {
        self.is_immediate(stream)
    }

    fn extent(&self, address: usize) -> Result<BlockExtent> {
        self.extent(address)
    }

    fn mark(&self, stream: Stream) -> Result<(Fence, u64)> {
        let fence = self.mark(stream)?;
        Ok((fence, self.began(stream)))
    }

    fn has_passed(&self, fence: Fence) -> bool {
        self.has_passed(fence)
    }

    fn wait_on(&self, stream: Stream, fences: &[Fence]) -> Result<()> {
        self.wait_on(stream, fences)
    }

    fn follow(&self, address: usize, fences: &[Fence]) -> Result<()> {
        self.follow(address, fences)
    }

    fn free(&self, address: usize, home: (Stream, u64), fences: &[Fence]) -> Result<()> {
        self.free_behind(address, home, fences)
    }
}

/// Where a cache's memory is: it may be gone before the cache is.
pub(super) struct Home<M> {
    pub memory: Weak<M>,
    pub id: u64,
    pub addresses: (usize, u64),
    /// Whether the calling thread itself is its default stream.
    pub immediate: bool,
}

impl<M: Memory> Home<M> {
    pub fn of(memory: &Arc<M>) -> Home<M> {
        Home {
            memory: Arc::downgrade(memory),
            id: memory.id(),
            addresses: memory.addresses(),
            immediate: memory.is_immediate(Stream::DEFAULT),
        }
    }

    /// Whether `stream` is done with what is queued as soon as it was called.
    #[inline]
    pub fn is_immediate(&self, stream: Stream) -> bool {
        self.immediate && stream == Stream::DEFAULT
    }

    pub fn has(&self, address: usize) -> bool {
        (address.wrapping_sub(self.addresses.0) as u64) < self.addresses.1
    }
}
