//! The pools of each GPU: one for memory that is ordered by waiting for the device, as `cudaFree`
//! does, one for memory in stream order.
//!
//! What `cudaMalloc` gives may be used on any stream at once, so it must come from memory that no
//! queued work uses. So it has a pool of its own, into which nothing is freed before the device is
//! done with it.

use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, Ordering};
use std::sync::OnceLock;

use crate::library::{Config, Library, NO_POOL, OK, RawPool, Statistics, library};
use crate::say::say;

/// Most devices that are served.
const DEVICES: usize = 64;
/// `FOREBAY_DEVICE_KIND_CUDA`.
const KIND: i32 = 1;

/// A pool with its addresses.
pub struct Pool {
    library: &'static Library,
    raw: *mut RawPool,
    first: usize,
    bytes: usize,
}

// SAFETY: the library's pools may be used by any thread.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

/// The pools of a device.
pub struct Pools {
    /// Which device.
    pub device: i32,
    /// Of memory that nothing queued uses.
    pub plain: Pool,
    /// Of memory in stream order.
    pub ordered: Pool,
}

static ALL: [OnceLock<Option<Pools>>; DEVICES] = [const { OnceLock::new() }; DEVICES];
/// The highest number of a device with pools, and one.
static USED: AtomicI32 = AtomicI32::new(0);

/// The pools of `device`, made with the first call; none when that was not possible.
pub fn pools_of(device: i32, policy: i32) -> Option<&'static Pools> {
    let place = ALL.get(usize::try_from(device).ok()?)?;
    let made = place.get_or_init(|| {
        let library = library()?;
        let plain = Pool::make(library, device, policy)?;
        let ordered = Pool::make(library, device, policy)?;
        Some(Pools { device, plain, ordered })
    });
    USED.fetch_max(device + 1, Ordering::AcqRel);
    made.as_ref()
}

/// The pools that there are.
pub fn all() -> impl Iterator<Item = &'static Pools> {
    let used = usize::try_from(USED.load(Ordering::Acquire)).unwrap_or(0);
    ALL.iter().take(used).filter_map(|place| place.get()?.as_ref())
}

impl Pool {
    fn make(library: &'static Library, device: i32, policy: i32) -> Option<Pool> {
        let config = Config { device_kind: KIND, device_index: device, policy, ..Config::new() };
        let (mut raw, mut first, mut bytes) = (NO_POOL, 0, 0);
        // SAFETY: a config with its size set, and places of this frame.
        let made = unsafe {
            (library.pool_create)(&config, &mut raw) == OK
                && (library.pool_addresses)(raw, &mut first, &mut bytes) == OK
        };
        if !made {
            say!("no pool for GPU {device}: {}; nothing is pooled there", library.why());
            return None;
        }
        Some(Pool { library, raw, first, bytes })
    }

    /// Whether `address` is of this pool.
    pub fn owns(&self, address: u64) -> bool {
        (address as usize).wrapping_sub(self.first) < self.bytes
    }

    /// A block for use on `stream`; none when the pool has none to give, for whatever reason.
    pub fn take(&self, size: usize, stream: usize) -> Option<u64> {
        let mut block: *mut c_void = null_mut();
        // SAFETY: the pool, and a place of this frame.
        let status = unsafe { (self.library.alloc)(self.raw, size, stream, &mut block) };
        (status == OK).then_some(block as u64)
    }

    /// Gives a block back on `stream`; false when it is none.
    pub fn give(&self, address: u64, stream: usize) -> bool {
        // SAFETY: the pool; the pointer is only looked up.
        unsafe { (self.library.free)(self.raw, address as *mut c_void, stream) == OK }
    }

    /// Bytes that it has from the device and nobody uses.
    pub fn idle(&self) -> u64 {
        let numbers = Statistics::of(self.library, self.raw);
        numbers.reserved_bytes.saturating_sub(numbers.allocated_bytes)
    }

    /// What it counted.
    pub fn numbers(&self) -> Statistics {
        Statistics::of(self.library, self.raw)
    }
}
