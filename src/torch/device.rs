//! The pool of each device. It is made when the device is first used and stays until the
//! process ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::options::Options;
use super::usage::Usage;
use crate::capi::pool::{forebay_pool, lasting_handle_of};
use crate::device::{Cuda, CudaOptions, Device};
use crate::error::{Result, fail};
use crate::pool::Pool;
use crate::sync::Mutex;

/// Most devices of a process.
const DEVICES_MAX: usize = 64;

/// What there is for one device.
pub struct Gpu {
    /// Its number.
    pub ordinal: u32,
    /// The memory.
    pub pool: Arc<Pool>,
    /// The pool, as C knows it.
    pub handle: *mut forebay_pool,
    /// What is counted.
    pub usage: Usage,
}

// SAFETY: the handle is one that any thread may use.
unsafe impl Sync for Gpu {}

static GPUS: [AtomicPtr<Gpu>; DEVICES_MAX] = [const { AtomicPtr::new(std::ptr::null_mut()) }; _];

/// Bits of the part of each device's memory that was asked for before it had a pool; 0 for none.
static FRACTIONS: [AtomicU64; DEVICES_MAX] = [const { AtomicU64::new(0) }; _];

/// What pools are made from, once that is settled; held while one is entered.
static OPTIONS: Mutex<Option<Options>> = Mutex::new(None);

/// The device with the number `ordinal`, which gets its pool now if it has none.
#[inline]
pub fn gpu(ordinal: i32) -> Result<&'static Gpu> {
    match ready(ordinal) {
        Some(gpu) => Ok(gpu),
        None => make(ordinal),
    }
}

/// The device, if it has a pool.
#[inline]
pub fn ready(ordinal: i32) -> Option<&'static Gpu> {
    let slot = GPUS.get(usize::try_from(ordinal).ok()?)?;
    // SAFETY: null, or made by `make` and never destroyed.
    unsafe { slot.load(Ordering::Acquire).as_ref() }
}

/// All devices that have a pool.
pub fn all() -> impl Iterator<Item = &'static Gpu> {
    (0..DEVICES_MAX as i32).filter_map(ready)
}

/// The device whose memory `address` is among.
pub fn owner_of(address: usize) -> Option<&'static Gpu> {
    all().find(|gpu| gpu.pool.contains(address))
}

#[cold]
#[inline(never)]
fn make(ordinal: i32) -> Result<&'static Gpu> {
    let Some(slot) = usize::try_from(ordinal).ok().and_then(|at| GPUS.get(at)) else {
        return Err(fail!(
            InvalidArgument,
            "device is {ordinal}; devices count from 0 to {}",
            DEVICES_MAX - 1
        ));
    };
    let chosen = {
        let mut options = OPTIONS.lock();
        match *options {
            Some(chosen) => chosen,
            None => *options.insert(Options::of(None, None)?),
        }
    };
    let number = ordinal as u32;
    let device = Cuda::open(&CudaOptions { ordinal: number, ..CudaOptions::default() })?;
    let total = device.memory_bytes();
    let mut config = chosen.config(total);
    if let Some(bytes) = fraction_of(ordinal, total) {
        config.max_bytes = bytes;
    }
    let pool = Pool::on_device(&config, device)?;
    let settled = OPTIONS.lock();
    if let Some(gpu) = ready(ordinal) {
        // Another thread was first; its pool is everybody's.
        drop(settled);
        Pool::destroy(pool)?;
        return Ok(gpu);
    }
    let handle = lasting_handle_of(Arc::clone(&pool));
    let gpu =
        Box::into_raw(Box::new(Gpu { ordinal: number, pool, handle, usage: Usage::default() }));
    slot.store(gpu, Ordering::Release);
    drop(settled);
    // SAFETY: made above, and never destroyed.
    let gpu = unsafe { &*gpu };
    // Copies between devices read one's memory from the other, which mapped memory has to be
    // opened for. Devices that cannot are left as they are.
    for other in all().filter(|other| other.ordinal != number) {
        let _ = gpu.pool.allow_peer(other.ordinal);
        let _ = other.pool.allow_peer(number);
    }
    Ok(gpu)
}

/// Settles what pools are made from; an error once there is one.
pub fn configure(limit: Option<&str>, policy: Option<&str>) -> Result<()> {
    let mut options = OPTIONS.lock();
    if let Some(gpu) = all().next() {
        return Err(fail!(
            InvalidState,
            "device {} has its pool already: settle limit and policy before the first CUDA \
             tensor, or use forebay_pool_set_limit and forebay_pool_set_policy",
            gpu.ordinal
        ));
    }
    *options = Some(Options::of(limit, policy)?);
    Ok(())
}

/// Keeps the pool of a device to a part of its memory, now and when it is made.
pub fn set_fraction(ordinal: i32, fraction: f64) -> Result<()> {
    if !(fraction > 0.0 && fraction <= 1.0) {
        return Err(fail!(
            InvalidArgument,
            "fraction is {fraction}; it must be more than 0 and at most 1"
        ));
    }
    if let Some(slot) = usize::try_from(ordinal).ok().and_then(|at| FRACTIONS.get(at)) {
        slot.store(fraction.to_bits(), Ordering::Release);
    }
    match ready(ordinal) {
        Some(gpu) => gpu.pool.set_limit((gpu.pool.device_bytes() as f64 * fraction) as u64),
        None => Ok(()),
    }
}

fn fraction_of(ordinal: i32, total: u64) -> Option<u64> {
    let bits = FRACTIONS.get(usize::try_from(ordinal).ok()?)?.load(Ordering::Acquire);
    (bits != 0).then(|| (total as f64 * f64::from_bits(bits)) as u64)
}
