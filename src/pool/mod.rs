//! The stream-ordered pool.
//!
//! A call tries the calling thread's front cache ([`front`], [`fast`]), which takes no lock; then
//! ([`take`], [`give`]) the shared core ([`core`]) under the pool's lock, which knows what is
//! mapped; then the ladder ([`ladder`]), which finds memory in ever more costly ways before it
//! gives up. The device is only ever called without a lock. Memory is used in lanes ([`lane`]): a
//! stream's, or a graph's that is being captured.

mod batch;
mod bin;
mod block;
mod budget;
mod config;
mod contents;
mod core;
pub(crate) mod fast;
mod fork;
mod front;
mod give;
mod graph;
mod handshake;
#[cfg(test)]
mod hazard_tests;
mod holders;
mod housekeeper;
mod ladder;
mod lane;
mod live;
mod maintenance;
mod own;
mod planned;
mod policy;
mod registry;
mod report;
mod resize;
mod share;
mod sleep;
mod slots;
mod snapshot;
mod stats;
mod stock;
mod sync;
mod take;
mod thread;

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crate::sync::{Mutex, RwLock};

pub use config::{BLOCK_SIZE_MAX, Config, Flags, GUARD_BYTES};
pub use fork::prepare_once as prepare_for_forks;
pub use holders::{Extent as BlockExtent, Holder};
pub use ladder::OomCallback;
pub use maintenance::{DECAY_MAX, DefragReport};
pub use planned::PlanUsage;
pub use policy::{Policy, Preset, TrimWhen};
pub use share::Extent;
pub use sleep::SleepMode;
pub use snapshot::{Piece, PieceState, Stretch};
pub use stats::Stats;

use self::block::BlockTable;
use self::core::{Block, Core};
use self::handshake::attention;
use self::slots::Slots;
use crate::device::cuda::Context;
use crate::device::{Cuda, CudaOptions, Device, Host, HostOptions, Pinned};
use crate::error::{self, Result, fail};
use crate::order::{CudaOrder, HostOrder, Order, Stream};
use crate::space::{PAGE, SizeClasses, Space};
use crate::trace::Recorder;

use registry::{is_alive, retire_slot};

/// Largest size of an allocation and largest limit of a pool, in bytes.
pub const SIZE_MAX: u64 = 1 << 46;

/// Largest alignment, in bytes.
pub const ALIGNMENT_MAX: usize = 1 << 30;

/// Sizes on a GPU are multiples of this, in bytes.
const CUDA_BLOCK: u64 = 512;

/// Most bytes that a front cache holds, and the share of the limit that it is.
const FRONT_BYTES: u64 = 64 << 20;
const FRONT_SHARE: u64 = 32;

/// Bytes at an arena's start that huge pages are not asked for: about as many as today's processors
/// have places for small pages in their second table of addresses (1,536 to 2,048 of 4 KiB).
const SMALL_FIRST: u64 = 4 * PAGE;

/// A stream-ordered pool.
pub struct Pool {
    id: u64,
    /// What has to be added to a size and masked off, for `block_size`.
    block_mask: usize,
    table: BlockTable,
    classes: AtomicPtr<SizeClasses>,
    slots: Slots,
    flags: Flags,
    zeroed: AtomicBool,
    /// See `Preset::large_alignment`.
    large_alignment: AtomicU64,
    policy: AtomicU32,
    front_bound: AtomicU64,
    attention: AtomicU32,
    device: Box<dyn Device>,
    order: Box<dyn Order>,
    core: Mutex<Core>,
    /// The core's.
    idle_pages: Arc<AtomicBool>,
    /// All tables of classes that ever were current, for those who still look at one.
    #[allow(clippy::vec_box)]
    classes_kept: Mutex<Vec<Box<SizeClasses>>>,
    recorder: RwLock<Option<Arc<Recorder>>>,
    callback: Mutex<Option<OomCallback>>,
    /// Who has blocks that nobody uses at the moment.
    holders: RwLock<Vec<Weak<dyn Holder>>>,
    /// A plan, while one is applied.
    planned: Mutex<Option<planned::Planned>>,
    /// What the plan served; written under its lock.
    planned_counters: stats::Counters,
    peaks: stats::Peaks,
    /// What is counted by calls that have no slot; adds are atomic there.
    slotless: SlotlessCounters,
    misses: AtomicU64,
    failed: AtomicU64,
    invalid_frees: AtomicU64,
    trims: AtomicU64,
    /// After how many milliseconds what is idle goes back; 0 for what the policy says.
    decay: AtomicU64,
    barriers: AtomicU64,
    /// The pool sleeps, or is about to.
    asleep: AtomicBool,
    /// Graphs that are being captured.
    captures: AtomicU32,
    poisoned: AtomicBool,
    /// The pool's device cannot be used any more: this is a forked child.
    forked: AtomicBool,
    /// Panics are wished for here, by tests of what follows one.
    panic_at: AtomicUsize,
}

/// As `stats::Counters`, for many writers.
#[derive(Default)]
struct SlotlessCounters {
    cells: Mutex<stats::Counters>,
}

/// Asks for huge pages behind the first few of the arena. Those are the first to be used: a program
/// that holds little has memory for what it writes to, not for whole pages around it.
fn advise_huge(device: &dyn Device, base: usize, bytes: u64) {
    let from = SMALL_FIRST.min(bytes);
    device.advise_huge(base + from as usize, bytes - from, true);
}

/// What `policy` stands for on `device`.
fn preset_on(device: &dyn Device, policy: Policy) -> Preset {
    let preset = policy.preset();
    if device.works_on_streams() { preset.for_gpu() } else { preset }
}

impl Pool {
    /// A pool on system memory.
    pub fn on_host(config: &Config) -> Result<Arc<Pool>> {
        Pool::create(config, Box::new(Host::new(HostOptions::default())), Box::new(HostOrder))
    }

    /// A pool on a GPU.
    pub fn on_cuda(config: &Config, options: &CudaOptions) -> Result<Arc<Pool>> {
        config.check()?;
        Pool::on_device(config, Cuda::open(options)?)
    }

    /// As [`Pool::on_cuda`], of a device that is open.
    pub fn on_device(config: &Config, device: Cuda) -> Result<Arc<Pool>> {
        let order = Box::new(CudaOrder::new(device.context()));
        // Copies and kernels are at their best from such addresses on.
        let config = Config { block_size: config.block_size.max(CUDA_BLOCK), ..*config };
        Pool::create(&config, Box::new(device), order)
    }

    /// A pool on system memory that GPUs copy from and to at full speed, in the order of the
    /// streams of the one with the number `ordinal`.
    pub fn on_pinned(config: &Config, ordinal: u32) -> Result<Arc<Pool>> {
        config.check()?;
        let device = Pinned::open(ordinal)?;
        let order = Box::new(CudaOrder::new(device.context()));
        Pool::create(config, Box::new(device), order)
    }

    /// A pool on `device`, whose streams are `order`'s.
    pub fn create(
        config: &Config,
        device: Box<dyn Device>,
        order: Box<dyn Order>,
    ) -> Result<Arc<Pool>> {
        error::prepare_thread();
        config.check()?;
        let limit = if config.max_bytes == 0 { device.memory_bytes() } else { config.max_bytes };
        let limit = limit / PAGE * PAGE;
        if config.initial_bytes > limit {
            return Err(fail!(
                InvalidArgument,
                "initial_bytes is {}, more than the device's {limit}",
                config.initial_bytes
            ));
        }
        // Room beyond the limit, because addresses are cut up by what lives while pages are
        // moved to where they fit.
        let room = if device.can_move() { 4 } else { 1 };
        let wanted = limit.saturating_mul(room).min(SIZE_MAX);
        let (base, bytes) = device.reserve(wanted, 2 * PAGE)?;
        let limit = limit.min(bytes);
        let preset = preset_on(&*device, config.policy);
        if preset.huge_pages {
            advise_huge(&*device, base, bytes);
        }
        let rounding = config.block_size.max(1) as usize;
        let classes =
            Box::new(SizeClasses::with_rounding(16, preset.classes_per_doubling, rounding));
        let mut space = Space::new(bytes, (*classes).clone());
        space.set_origin((base % ALIGNMENT_MAX) as u64);
        let core = Core::new(space, preset, limit);
        let pool = Arc::new(Pool {
            id: registry::next_id(),
            block_mask: config.block_size.max(1) as usize - 1,
            table: BlockTable::new(base, bytes),
            classes: AtomicPtr::new(std::ptr::from_ref(&*classes).cast_mut()),
            slots: Slots::new(),
            flags: config.flags,
            zeroed: AtomicBool::new(preset.zeroed),
            large_alignment: AtomicU64::new(preset.large_alignment),
            policy: AtomicU32::new(config.policy as u32),
            front_bound: AtomicU64::new(0),
            attention: AtomicU32::new(0),
            device,
            order,
            idle_pages: Arc::clone(&core.idle_pages),
            core: Mutex::new(core),
            classes_kept: Mutex::new(vec![classes]),
            recorder: RwLock::new(None),
            callback: Mutex::new(None),
            holders: RwLock::new(Vec::new()),
            planned: Mutex::new(None),
            planned_counters: stats::Counters::default(),
            peaks: stats::Peaks::default(),
            slotless: SlotlessCounters::default(),
            misses: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            invalid_frees: AtomicU64::new(0),
            trims: AtomicU64::new(0),
            decay: AtomicU64::new(0),
            barriers: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            captures: AtomicU32::new(0),
            poisoned: AtomicBool::new(false),
            forked: AtomicBool::new(false),
            panic_at: AtomicUsize::new(0),
        });
        pool.front_bound.store(pool.front_bound_for(&preset, limit), Ordering::Relaxed);
        pool.attention.store(pool.steady_attention(), Ordering::Relaxed);
        // Where pages cannot be moved they all are there already.
        let initial = if pool.device.can_move() { config.initial_bytes } else { bytes };
        if initial > 0 {
            pool.map_initial(initial, preset.touch_initial)?;
        }
        registry::enter(&pool);
        tracing::debug!(pool = pool.id, limit, policy = config.policy.name(), "pool created");
        Ok(pool)
    }

    fn size_classes(&self, preset: &Preset) -> SizeClasses {
        SizeClasses::with_rounding(16, preset.classes_per_doubling, self.block_mask + 1)
    }

    fn front_bound_for(&self, preset: &Preset, limit: u64) -> u64 {
        if preset.front_caches && !self.flags.no_front_cache {
            FRONT_BYTES.min(limit / FRONT_SHARE)
        } else {
            0
        }
    }

    /// The flags that keep owners from the fast path as long as nothing changes.
    fn steady_attention(&self) -> u32 {
        let slow = self.flags.touch_contents()
            || self.zeroed.load(Ordering::Relaxed)
            || self.recorder.read().is_some()
            || self.asleep.load(Ordering::Acquire)
            || self.captures.load(Ordering::Acquire) > 0
            || !handshake::available();
        let closed = self.poisoned.load(Ordering::Relaxed) || self.forked.load(Ordering::Relaxed);
        let planned = self.planned.lock().is_some();
        let flag = |raised: bool, flag: u32| if raised { flag } else { 0 };
        flag(slow, attention::SLOW)
            | flag(closed, attention::CLOSED)
            | flag(planned, attention::PLANNED)
    }

    /// Applies `steady_attention` to all slots, those made later included.
    fn update_attention(&self) {
        let stopped = self.slots.stop_all();
        // Behind that lock, so that who looked first does not write last.
        let flags = self.steady_attention();
        self.attention.store(flags, Ordering::Release);
        for one in &stopped.slots {
            let steady = attention::SLOW | attention::CLOSED | attention::PLANNED;
            one.slot().door.lower(!flags & steady);
            one.slot().door.raise(flags);
        }
    }

    /// The name it goes by in the thread's list and in reports; never used twice.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What its device is called.
    pub fn device_name(&self) -> &'static str {
        self.device.name()
    }

    /// The context of its device's own copies; none where the processor writes to its memory.
    pub fn context(&self) -> Option<&Arc<Context>> {
        self.device.context()
    }

    /// Its policy.
    pub fn policy(&self) -> Policy {
        let number = self.policy.load(Ordering::Relaxed);
        Policy::ALL.into_iter().find(|&policy| policy as u32 == number).unwrap_or_default()
    }

    fn classes(&self) -> &SizeClasses {
        // SAFETY: every table that was ever current is kept until the pool is gone.
        unsafe { &*self.classes.load(Ordering::Acquire) }
    }

    /// Takes a block of at least `size` bytes for use on `stream`. Its first byte is a
    /// multiple of 16, and of 512 above 32 KiB.
    #[inline(always)]
    pub fn alloc(&self, size: usize, stream: Stream) -> Result<usize> {
        match fast::alloc(self.id, size, stream) {
            Some(address) => Ok(address),
            None => self.alloc_slow(size, 1, stream),
        }
    }

    /// As [`Pool::alloc`], with the first byte at a multiple of `alignment`.
    pub fn alloc_aligned(&self, size: usize, alignment: usize, stream: Stream) -> Result<usize> {
        if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
            return Err(fail!(
                InvalidArgument,
                "alignment is {alignment}; it must be a power of two of at most {ALIGNMENT_MAX}"
            ));
        }
        if alignment <= 16 {
            self.alloc(size, stream)
        } else {
            self.alloc_slow(size, alignment, stream)
        }
    }

    /// Gives a block back on `stream`: work queued there before is the last to use it.
    #[inline(always)]
    pub fn free(&self, address: usize, stream: Stream) -> Result<()> {
        match fast::free(self.id, address, stream) {
            fast::Freed::Done => Ok(()),
            fast::Freed::Over => {
                self.relieve_after(address, stream);
                Ok(())
            }
            fast::Freed::Not => self.free_slow(address, stream),
        }
    }

    /// Destroys a pool: all its memory is given back when this returns. As [`Pool::close`] it
    /// reports what was still live. The caller's is the only hold on it but for those that the
    /// library has for a moment.
    pub fn destroy(pool: Arc<Pool>) -> Result<()> {
        for holder in pool.all_holders() {
            holder.leave(pool.id);
        }
        let closed = pool.close();
        registry::leave(&pool);
        drop(pool);
        closed
    }

    /// The pool is about to go: reports what is still live, as a warning in the log and as an
    /// error that changes nothing.
    pub fn close(&self) -> Result<()> {
        if let Some(recorder) = self.recorder.write().take() {
            let _ = recorder.finish();
        }
        let stats = self.stats();
        if stats.live_blocks == 0 || self.poisoned.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (blocks, bytes) = (stats.live_blocks, stats.requested[0]);
        tracing::warn!(pool = self.id, blocks, bytes, "pool destroyed with live blocks");
        Err(fail!(
            InvalidState,
            "pool {} was destroyed with {blocks} live blocks of {bytes} requested bytes; their \
             memory is gone",
            self.id
        ))
    }

    /// The error of a pool that caught a panic.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.panic_at.load(Ordering::Relaxed) == 1 {
            self.panic_at.store(0, Ordering::Relaxed);
            panic!("a panic that a test wished for");
        }
        if self.forked.load(Ordering::Relaxed) {
            return Err(fail!(
                InvalidState,
                "pool {} is on {} and was made before fork(); the child cannot use it. Make a \
                 pool after the fork, or start the child anew with exec()",
                self.id,
                self.device.name()
            ));
        }
        if self.poisoned.load(Ordering::Relaxed) {
            return Err(fail!(
                Poisoned,
                "pool {} caught a panic earlier and answers nothing else any more; destroy it",
                self.id
            ));
        }
        Ok(())
    }

    /// A panic was caught in a call of this pool: what it left behind is unknown.
    pub fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
        self.attention.fetch_or(attention::CLOSED, Ordering::AcqRel);
        self.slots.raise(attention::CLOSED);
    }

    /// This is a forked child, where the pool's device cannot be used.
    fn close_in_child(&self) {
        self.forked.store(true, Ordering::Release);
        self.attention.fetch_or(attention::CLOSED, Ordering::AcqRel);
        self.slots.iter().for_each(|slot| slot.door.raise(attention::CLOSED));
    }

    /// Whether this is a forked child, where the pool cannot be used.
    pub fn is_of_parent(&self) -> bool {
        self.forked.load(Ordering::Relaxed)
    }

    /// Has the next call that leaves the fast path panic, for tests of what follows one.
    #[doc(hidden)]
    pub fn panic_next(&self) {
        self.panic_at.store(1, Ordering::Relaxed);
        self.slots.raise(attention::SLOW);
    }

    /// Starts to record the pool's traffic with what `recorder` makes, which is not called
    /// when it is being recorded already: the file may be the very same.
    pub fn start_trace(&self, recorder: impl FnOnce() -> Result<Recorder>) -> Result<()> {
        self.check_open()?;
        let mut current = self.recorder.write();
        if current.is_some() {
            return Err(fail!(InvalidState, "pool {} is being traced already", self.id));
        }
        *current = Some(Arc::new(recorder()?));
        drop(current);
        self.update_attention();
        Ok(())
    }

    /// Ends the recording; returns how many rows it has.
    pub fn stop_trace(&self) -> Result<u64> {
        let recorder = self.recorder.write().take();
        self.update_attention();
        match recorder {
            Some(recorder) => recorder.finish(),
            None => Err(fail!(InvalidState, "pool {} is not being traced", self.id)),
        }
    }

    #[inline(always)]
    fn record(&self, action: crate::trace::Action, address: usize, size: usize, stream: Stream) {
        if self.attention.load(Ordering::Relaxed) & attention::SLOW != 0 {
            self.record_now(action, address, size, stream);
        }
    }

    #[cold]
    fn record_now(
        &self,
        action: crate::trace::Action,
        address: usize,
        size: usize,
        stream: Stream,
    ) {
        if let Some(recorder) = &*self.recorder.read() {
            recorder.record(action, address as u64, size as u64, stream.0);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.device.release(self.table.base(), self.table.bytes());
    }
}
