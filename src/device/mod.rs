//! The ground floor: everything forebay asks of a device, on one page.
//!
//! What holds for every call, so that it is said once:
//! - Addresses are in a reservation that [`Device::reserve`] returned and nobody released.
//! - Addresses and lengths of page calls are multiples of [`PAGE`]; lengths are not zero.
//! - Nobody touches memory that has no pages. Pages without an owner hold anything.
//! - Two threads never make page calls for the same addresses at once; for different
//!   addresses they may.
//! - No caller holds a lock that an allocation may want: these calls are slow.
//! - A call that fails has changed nothing.

pub mod cuda;
mod host;
mod pinned;
mod saved;

pub use cuda::{Cuda, CudaOptions};
pub use host::{Host, HostOptions};
pub use pinned::Pinned;
pub use saved::Saved;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::error::{Result, fail};

/// The unit of mapping, in bytes.
pub const PAGE: u64 = 2 << 20;

/// How pages are given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveBack {
    /// The device may take them when it wants; taking them into use again first is cheap.
    Lazily,
    /// They are gone when the call returns.
    Now,
}

/// A device: where bytes live, and how addresses get pages.
pub trait Device: Send + Sync {
    /// What the device is called in reports: `host`, `cuda` or `pinned`.
    fn name(&self) -> &'static str;

    /// Bytes of memory that the device has in all.
    fn memory_bytes(&self) -> u64;

    /// Whether the device has little left, so that what lies idle should go back at once.
    fn is_short(&self) -> bool;

    /// Reserves addresses without pages: `wanted` bytes or, when the system refuses, as many
    /// as it gives, at least `least`. Returns the first address and the bytes.
    fn reserve(&self, wanted: u64, least: u64) -> Result<(usize, u64)>;

    /// Gives a whole reservation back, with its pages.
    fn release(&self, address: usize, bytes: u64);

    /// Puts pages under `[address, address + bytes)`. Where pages were given back lazily,
    /// they may be the same ones.
    fn commit(&self, address: usize, bytes: u64) -> Result<()>;

    /// Takes the pages of `[address, address + bytes)` away; the addresses stay reserved.
    fn decommit(&self, address: usize, bytes: u64, how: GiveBack) -> Result<()>;

    /// Whether pages can be moved. If not, a reservation has all its pages from the start, as
    /// many as are wanted, and keeps them: commit and decommit do nothing.
    fn can_move(&self) -> bool {
        true
    }

    /// Moves the pages under `from` to `to`, which has none. `from` has none afterwards.
    /// Contents move along.
    fn move_pages(&self, from: usize, to: usize, bytes: u64) -> Result<()>;

    /// Whether pages in use should be moved to save copying them: [`Device::move_pages`] does
    /// without it, and is not so used up that it should be left to idle pages.
    fn moves_without_copying(&self) -> bool {
        true
    }

    /// A file descriptor of the page at `address`, with which another process can map it. The
    /// page is shared from now on: it is neither moved nor taken away any more.
    fn share(&self, address: usize) -> Result<OwnedFd> {
        Err(fail!(Unsupported, "the page at {address:#x} is memory that cannot be shared"))
    }

    /// Whether a page in `[address, address + bytes)` is shared.
    fn is_shared(&self, address: usize, bytes: u64) -> bool {
        let _ = (address, bytes);
        false
    }

    /// Lets the device of this kind with the number `ordinal` use the memory, now and from now
    /// on.
    fn allow_peer(&self, ordinal: u32) -> Result<()> {
        Err(fail!(Unsupported, "memory on {} is not for device {ordinal}", self.name()))
    }

    /// Copies ranges of pages, `(address, bytes)` each, to where they can be got back from while
    /// the device has other use for the pages. Nobody uses them meanwhile.
    fn save(&self, ranges: &[(usize, u64)]) -> Result<Saved> {
        let bytes: u64 = ranges.iter().map(|&(_, bytes)| bytes).sum();
        Err(fail!(
            Unsupported,
            "a backup of {bytes} bytes on {} would take as much memory as it frees",
            self.name()
        ))
    }

    /// Copies what was saved of these ranges back; they have pages again.
    fn restore(&self, saved: &Saved, ranges: &[(usize, u64)]) -> Result<()> {
        let _ = (saved, ranges);
        Err(fail!(Unsupported, "nothing was saved of {}", self.name()))
    }

    /// Makes every page of `[address, address + bytes)` resident, so that its first use
    /// causes no fault.
    fn populate(&self, address: usize, bytes: u64) -> Result<()>;

    /// Whether pages should be as large as the hardware has them, for the whole reservation.
    fn advise_huge(&self, address: usize, bytes: u64, huge: bool);

    /// The context of the device's own copies from system memory; none where it is the processor
    /// that writes there.
    fn context(&self) -> Option<&Arc<cuda::Context>> {
        None
    }

    /// Whether the three calls below are work on a stream. If not, they are done when they
    /// return, and whoever makes them sees to it that the stream is done with the bytes.
    fn works_on_streams(&self) -> bool {
        false
    }

    /// Sets `bytes` bytes at `address` to `value`, behind what is queued on `stream`.
    ///
    /// # Safety
    /// The bytes have pages and belong to the caller, in the order of `stream`.
    unsafe fn fill(&self, address: usize, bytes: usize, value: u8, stream: u64) -> Result<()>;

    /// Copies `bytes` bytes, behind what is queued on `stream`; the ranges do not overlap.
    ///
    /// # Safety
    /// Both ranges have pages and belong to the caller, in the order of `stream`.
    unsafe fn copy(&self, from: usize, to: usize, bytes: usize, stream: u64) -> Result<()>;

    /// The first address in `[address, address + bytes)` that does not hold `value` once what
    /// is queued on `stream` is done. Waits for that.
    ///
    /// # Safety
    /// The bytes have pages and nobody writes to them, in the order of `stream`.
    unsafe fn find_other(
        &self,
        address: usize,
        bytes: usize,
        value: u8,
        stream: u64,
    ) -> Result<Option<usize>>;

    /// Whether a forked child cannot use the device that its parent opened.
    fn is_lost_in_child(&self) -> bool {
        false
    }

    /// System or driver calls made so far.
    fn calls(&self) -> u64;
}
