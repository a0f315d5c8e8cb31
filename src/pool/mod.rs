//! The stream-ordered pool.
//!
//! A call tries the calling thread's front cache ([`front`]), which takes no lock; then the
//! shared core ([`core`]) under the pool's lock, which knows what is mapped; then the ladder
//! ([`ladder`]), which finds memory in ever more costly ways before it gives up. The device
//! is only ever called without a lock.

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
mod graph;
mod handshake;
#[cfg(test)]
mod hazard_tests;
mod housekeeper;
mod ladder;
mod lane;
mod maintenance;
mod policy;
mod registry;
mod report;
mod resize;
mod share;
mod sleep;
mod slots;
mod stats;
mod stock;
mod sync;
mod thread;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::sync::{Mutex, RwLock};

pub use config::{BLOCK_SIZE_MAX, Config, Flags, GUARD_BYTES};
pub use fork::prepare_once as prepare_for_forks;
pub use ladder::OomCallback;
pub use maintenance::DefragReport;
pub use policy::{Policy, Preset, TrimWhen};
pub use share::Extent;
pub use sleep::SleepMode;
pub use stats::Stats;

use self::bin::Entry;
use self::block::{BlockTable, Found, NO_OWNER, Word, large_bin, state};
use self::core::{Block, Core, Need};
use self::front::{Locked, Pooled, SMALL_BATCH, Slot};
use self::handshake::attention;
use self::lane::Lane;
use self::slots::Slots;
use self::stock::Batch;
use crate::device::{Cuda, CudaOptions, Device, Host, HostOptions, Pinned};
use crate::error::{self, Result, fail};
use crate::order::{CudaOrder, HostOrder, Order, Stream};
use crate::space::{CHUNK, PAGE, SizeClasses, Space, round_large};
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
    peaks: stats::Peaks,
    /// What is counted by calls that have no slot; adds are atomic there.
    slotless: SlotlessCounters,
    misses: AtomicU64,
    failed: AtomicU64,
    invalid_frees: AtomicU64,
    trims: AtomicU64,
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
            device.advise_huge(base, bytes, true);
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
            peaks: stats::Peaks::default(),
            slotless: SlotlessCounters::default(),
            misses: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            invalid_frees: AtomicU64::new(0),
            trims: AtomicU64::new(0),
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
        let flag = |raised: bool, flag: u32| if raised { flag } else { 0 };
        flag(slow, attention::SLOW) | flag(closed, attention::CLOSED)
    }

    /// Applies `steady_attention` to all slots, those made later included.
    fn update_attention(&self) {
        let flags = self.steady_attention();
        self.attention.store(flags, Ordering::Release);
        let stopped = self.slots.stop_all();
        for one in &stopped.slots {
            one.slot().door.lower(!flags & (attention::SLOW | attention::CLOSED));
            one.slot().door.raise(flags);
        }
    }

    /// The name it goes by in the thread's list and in reports; never used twice.
    pub fn id(&self) -> u64 {
        self.id
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

    /// What an allocation of `size` bytes at `alignment` needs, or why it cannot be. Inlined,
    /// for a result of this size would go through memory.
    #[inline(always)]
    fn need(&self, size: usize, alignment: usize, lane: Lane) -> Result<Need> {
        if size == 0 {
            return Err(fail!(InvalidArgument, "size is 0; the least is 1 byte"));
        }
        if size as u64 > SIZE_MAX {
            return Err(fail!(InvalidArgument, "size is {size}; the limit is {SIZE_MAX}"));
        }
        let guard = if self.flags.guard_bytes { GUARD_BYTES } else { 0 };
        let rounded = (size + guard + self.block_mask) & !self.block_mask;
        let classes = self.classes();
        let class = classes.class_of_aligned(rounded, alignment);
        let Some(class) = class else {
            // At least a chunk, so that no two runs begin in the same one.
            let block = round_large(rounded as u64).unwrap_or(SIZE_MAX).max(CHUNK);
            let by_policy = self.large_alignment.load(Ordering::Relaxed);
            let alignment = if block >= PAGE { by_policy } else { 1 }.max(alignment as u64);
            return Ok(Need { size: size as u64, block, class: None, alignment, lane });
        };
        let block = classes.size(class) as u64;
        Ok(Need { size: size as u64, block, class: Some(class), alignment: 1, lane })
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn alloc_slow(
        &self,
        size: usize,
        alignment: usize,
        stream: Stream,
    ) -> Result<usize> {
        self.check_open()?;
        self.check_awake()?;
        let slot = self.slot_for(stream)?;
        let lane = self.lane_for(stream)?;
        let block = self.find_block(size, alignment, lane, slot).inspect_err(|_| {
            self.failed.fetch_add(1, Ordering::Relaxed);
        })?;
        let address = block.address();
        if !lane.is_eager() {
            self.core.lock().enter_graph(&*self.order, &block, lane);
        }
        if let Err(error) = self.prepare_contents(&block, size, stream) {
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.core.lock().give(&self.table, &*self.order, block, lane);
            return Err(error);
        }
        // A graph's block is nothing for front caches.
        let state = if lane.is_eager() { state::LIVE } else { state::FOLLOWED };
        self.give_out(&block, size as u64, slot, state);
        if self.slots.len() > 1 {
            self.publish_peaks();
        }
        self.record(crate::trace::Action::Allocate, address, size, stream);
        Ok(address)
    }

    /// Finds a block, which is the call's own until it is given out.
    fn find_block(
        &self,
        size: usize,
        alignment: usize,
        lane: Lane,
        slot: Option<&Slot>,
    ) -> Result<Block> {
        let Some(slot) = slot.filter(|_| lane.is_eager()) else {
            let need = self.need(size, alignment, lane)?;
            let block = self.take_from_core(&need);
            return block.map_or_else(|| self.climb(&need), Ok);
        };
        // SAFETY: the owner's thread, outside the door.
        let mut locked = unsafe { slot.lock() };
        // Under the slot's lock, because the size classes only change with every slot locked.
        let need = self.need(size, alignment, lane)?;
        if let Some(block) = self.pop(&mut locked, &need) {
            return Ok(block);
        }
        slot.counters.misses.add(1);
        let mut block = self.refill(&mut locked, &need);
        if block.is_none() && slot.was_drained_lately() && self.device.works_on_streams() {
            // What the cache would be emptied for, again and again, new pages may be worth; the
            // budget says how many. On the host a repeated step then never settles: there the
            // budget buys what it needs.
            drop(locked);
            if let Some(block) = self.grow_within_budget(&need) {
                return Ok(block);
            }
            // SAFETY: the owner's thread, outside the door.
            locked = unsafe { slot.lock() };
        }
        if block.is_none() {
            slot.note_drained();
            // What the thread itself holds back may be just what is missing: runs above all.
            // Small blocks are many, are little, and are wanted again.
            let entries = locked.drain_runs();
            self.give_entries(slot, entries);
            block = self.take_from_core(&need);
        }
        if block.is_none() && self.flush(&mut locked) > 0 {
            block = self.take_from_core(&need);
        }
        drop(locked);
        if let Some(block) = block {
            return Ok(block);
        }
        let block = self.climb(&need)?;
        if let Some(class) = need.class {
            // The rest of a new slab, so that another thread's next block is not one whose word
            // lies in a cache line with this one's.
            // SAFETY: the owner's thread, outside the door.
            let mut locked = unsafe { slot.lock() };
            if self.classes().size(class) as u64 == need.block {
                let mut core = self.core.lock();
                let tag = core.tag(&*self.order, lane);
                self.top_up(&mut locked, &mut core, class, need.block, tag);
            }
        }
        Ok(block)
    }

    /// A fitting block from the slot's cache.
    fn pop(&self, locked: &mut Locked<'_>, need: &Need) -> Option<Block> {
        let number = need.class.unwrap_or_else(|| large_bin(need.block));
        let bin = &locked.cache().bins[number];
        let aligned = bin.peek()?.address as u64 & (need.alignment - 1) == 0;
        if bin.size() != need.block || !aligned {
            return None;
        }
        let entry = locked.pop(number)?;
        let block = self.block_at(entry.address)?;
        block.set_word(Word::HELD);
        Some(block)
    }

    fn block_at(&self, address: usize) -> Option<Block> {
        match self.table.find(address) {
            Found::Block(head, index) => Some(Block { head, index }),
            Found::Inside | Found::Foreign => None,
        }
    }

    /// Takes a block from the core and, of small ones, some more for the slot's cache.
    fn refill(&self, locked: &mut Locked<'_>, need: &Need) -> Option<Block> {
        let mut core = self.core.lock();
        let tag = core.tag(&*self.order, need.lane);
        core.poll(&self.table, &*self.order);
        let number = need.class.unwrap_or_else(|| large_bin(need.block));
        if need.alignment == 1
            && let Some(batch) = core.stock.take(number, need.block, need.lane.stream)
        {
            drop(core);
            return self.unpack(locked, batch);
        }
        let block = core.take(&self.table, need, tag)?;
        let slot = locked.slot().id;
        if let Some(class) = need.class {
            self.top_up(locked, &mut core, class, need.block, tag);
        }
        // The last one of them rather than the first: the words of a slab lie side by side, and
        // the first one's may be in a cache line with one that another thread was given.
        let Some(class) = need.class else { return Some(block) };
        let last = locked.pop(class).and_then(|entry| self.block_at(entry.address));
        let Some(last) = last else { return Some(block) };
        let entry = Entry { address: block.address(), word: block.head().word(block.index) };
        let pushed = locked.push(class, need.block, entry);
        debug_assert!(pushed, "in the place of the one that was popped");
        block.set_word(Word::new(state::CACHED, slot, 0));
        last.set_word(Word::HELD);
        Some(last)
    }

    /// Takes blocks of `class`, which have `size` bytes, for the slot's cache; only from slabs
    /// that are there: a new one is made for a block that is needed, not for one that may be.
    fn top_up(&self, locked: &mut Locked<'_>, core: &mut Core, class: usize, size: u64, tag: u32) {
        if !locked.cache().prepare(class, size) {
            return;
        }
        let cached = Word::new(state::CACHED, locked.slot().id, 0).0;
        let bin = &locked.cache().bins[class];
        let batch = (bin.places() / 2).min(SMALL_BATCH).saturating_sub(bin.len());
        for _ in 1..batch {
            let Some((slab, index)) = core.space.take_small(class, tag) else { break };
            let head = core.heads.of_slab(slab);
            let word = head.word(index as usize);
            word.store(cached, Ordering::Relaxed);
            let entry = Entry { address: head.address(index as usize), word };
            let pushed = locked.push(class, size, entry);
            debug_assert!(pushed, "no more than half of the places of the bin");
        }
    }

    /// A block from a batch out of the stock; the others go to the slot's cache.
    fn unpack(&self, locked: &mut Locked<'_>, mut batch: Batch) -> Option<Block> {
        let block = batch.entries.pop().and_then(|entry| self.block_at(entry.address));
        if let Some(block) = block {
            block.set_word(Word::HELD);
        }
        let keeps = locked.cache().prepare(batch.bin, batch.size);
        while keeps
            && locked.cache().bins[batch.bin].has_place(batch.size)
            && let Some(entry) = batch.entries.pop()
        {
            locked.push(batch.bin, batch.size, entry);
        }
        self.give_entries(locked.slot(), batch.entries);
        block
    }

    /// Gives what is in stock back to the core; returns how many blocks that were.
    fn flush_stock(&self) -> usize {
        let mut core = self.core.lock();
        let batches = core.stock.drain();
        let mut count = 0;
        for batch in batches {
            count += batch.entries.len();
            let blocks = batch.entries.iter().filter_map(|entry| self.block_at(entry.address));
            core.give_all(&self.table, &*self.order, blocks, batch.stream);
        }
        count
    }

    /// A block from what is mapped and free.
    fn take_from_core(&self, need: &Need) -> Option<Block> {
        let mut core = self.core.lock();
        let tag = core.tag(&*self.order, need.lane);
        core.poll(&self.table, &*self.order);
        core.take(&self.table, need, tag)
    }

    /// Marks a block as given out for `size` bytes in `state`, and counts it.
    fn give_out(&self, block: &Block, size: u64, slot: Option<&Slot>, state: u32) {
        let head = block.head();
        let owner = slot.map_or(NO_OWNER, |slot| slot.id);
        let waste = (head.size() - size) as u32;
        if head.is_large() {
            let entry = Entry { address: block.address(), word: head.word(block.index) };
            fast::set_large_live(Word::new(state, owner, 0).0, &entry, waste);
        } else {
            block.set_word(Word::new(state, owner, waste));
        }
        match slot {
            Some(slot) => slot.counters.allocated(size, head.size()),
            None => self.slotless.cells.lock().allocated(size, head.size()),
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn free_slow(&self, address: usize, stream: Stream) -> Result<()> {
        match fast::free_shared(self.id, address, stream) {
            fast::Freed::Done => return Ok(()),
            fast::Freed::Over => {
                self.relieve_after(address, stream);
                return Ok(());
            }
            fast::Freed::Not => {}
        }
        self.check_open()?;
        let slot = self.slot_for(stream)?;
        self.free_block(address, stream, slot)?;
        self.after_free();
        Ok(())
    }

    fn free_block(&self, address: usize, stream: Stream, slot: Option<&Slot>) -> Result<()> {
        let block = self.live_block(address)?;
        let head = block.head();
        let word = head.word(block.index);
        let guard = self.check_guard(&block, stream);
        // Streams are waited for without a lock.
        self.settle_for_poison(&block, stream);
        let lane = self.lane_for_free(stream)?;
        loop {
            let seen = Word(word.load(Ordering::Acquire));
            if !seen.is_live() {
                return Err(self.freed_before(address));
            }
            if slot.is_none_or(|slot| slot.id != seen.owner())
                && let Some(owner) = self.slots.get(seen.owner())
            {
                self.share(owner);
                if let Some(slot) = slot {
                    slot.frees_for_others.set(1);
                }
            }
            let hold = || {
                let held = Word::HELD.0;
                word.compare_exchange(seen.0, held, Ordering::AcqRel, Ordering::Acquire).is_ok()
            };
            // A device is not called under a lock, and nobody's bytes are overwritten before
            // they are this call's. A fork in between loses the block, in the child.
            let poison = self.flags.poison_on_free;
            // A word that says that it is held has no room for what was asked for.
            let (requested, size) = (head.requested(block.index), head.size());
            if poison {
                if !hold() {
                    continue;
                }
                self.poison_contents(&block, stream);
            }
            // From here to the end under the slot's lock (or that of those who have none): who
            // stops all slots finds no block that is half freed.
            // SAFETY: the owner's thread, outside the door.
            let mut locked = slot.map(|slot| unsafe { slot.lock() });
            let slotless = slot.is_none().then(|| self.slotless.cells.lock());
            if !poison && !hold() {
                continue;
            }
            self.record(crate::trace::Action::Free, address, requested as usize, stream);
            let counters = slot.map(|slot| &slot.counters).or(slotless.as_deref());
            if let Some(counters) = counters {
                counters.freed(requested, size);
            }
            let followed = seen.state() == state::FOLLOWED;
            let kept = match &mut locked {
                Some(locked) => (!followed && locked.cache().bound > 0).then_some(locked),
                None => None,
            };
            let over = match kept {
                Some(locked) => self.keep(locked, &block),
                None => {
                    self.core.lock().give(&self.table, &*self.order, block, lane);
                    false
                }
            };
            drop(locked);
            if let Some(slot) = slot.filter(|_| over) {
                self.relieve(slot, head.bin());
            }
            return guard;
        }
    }

    /// Has the owner of `slot` compare and swap from now on.
    fn share(&self, slot: &Slot) {
        self.barriers.fetch_add(u64::from(slot.share()), Ordering::Relaxed);
    }

    /// Puts a block that a call holds into the slot's cache. True when that holds more than it
    /// should then.
    fn keep(&self, locked: &mut Locked<'_>, block: &Block) -> bool {
        let head = block.head();
        let (number, size) = (head.bin(), head.size());
        if !locked.cache().prepare(number, size) {
            // Another size is in the bin, and makes way when this one is not a rare one.
            if head.is_large() && !locked.cache().claim(number) {
                let lane = Lane::eager(locked.slot().stream());
                self.core.lock().give(&self.table, &*self.order, *block, lane);
                return false;
            }
            let count = locked.cache().bins[number].len();
            let entries = locked.drain(number, count);
            self.give_entries(locked.slot(), entries);
            locked.cache().prepare(number, size);
        }
        let bin = &locked.cache().bins[number];
        if !bin.has_place(size) {
            // The older ones go, so that the next frees find room without a lock.
            let count = bin.len().div_ceil(2).min(SMALL_BATCH);
            let entries = locked.drain(number, count);
            self.pass_on(locked, entries);
        }
        let entry = Entry { address: block.address(), word: head.word(block.index) };
        let pushed = locked.push(number, size, entry);
        debug_assert!(pushed, "a bin that was made for it, with a place that was made free");
        block.set_word(Word::new(state::CACHED, locked.slot().id, 0));
        locked.is_over()
    }

    /// What the slot's cache has no place for, blocks of one size side by side, goes in stock if
    /// it is likely to be another thread that wants it, else back to the core.
    fn pass_on(&self, locked: &mut Locked<'_>, mut entries: Vec<Entry>) {
        let slot = locked.slot();
        if slot.frees_for_others.get() == 0 {
            return self.give_entries(slot, entries);
        }
        slot.frees_for_others.set(0);
        let (stream, bound) = (slot.stream(), locked.cache().bound);
        while let Some(block) = entries.last().and_then(|entry| self.block_at(entry.address)) {
            let (bin, size) = (block.head().bin(), block.head().size());
            let other = |entry: &Entry| {
                self.block_at(entry.address).is_none_or(|block| block.head().size() != size)
            };
            let from = entries.iter().rposition(other).map_or(0, |at| at + 1);
            let batch = Batch { bin, size, stream, entries: entries.split_off(from) };
            let refused = self.core.lock().stock.put(batch, bound);
            if let Err(batch) = refused {
                self.give_entries(locked.slot(), batch.entries);
            }
        }
    }

    /// A free left the calling thread's cache with more than it should hold.
    #[cold]
    #[inline(never)]
    pub(crate) fn relieve_after(&self, address: usize, stream: Stream) {
        if let (Ok(Some(slot)), Some(block)) = (self.slot_for(stream), self.block_at(address)) {
            self.relieve(slot, block.head().bin());
        }
    }

    /// The slot's cache holds more than it should: gives some of it back to the core. The
    /// block freed last, in bin `keep`, stays.
    #[cold]
    #[inline(never)]
    fn relieve(&self, slot: &Slot, keep: usize) {
        // SAFETY: the owner's thread, outside the door.
        let mut locked = unsafe { slot.lock() };
        let entries = locked.evict(keep);
        self.pass_on(&mut locked, entries);
        drop(locked);
        self.after_free();
    }

    /// Gives everything in the slot's cache back to the core; returns how many blocks.
    fn flush(&self, locked: &mut Locked<'_>) -> usize {
        let entries = locked.drain_all();
        let count = entries.len();
        self.give_entries(locked.slot(), entries);
        count
    }

    fn give_entries(&self, slot: &Slot, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let blocks = entries.iter().filter_map(|entry| self.block_at(entry.address));
        self.core.lock().give_all(&self.table, &*self.order, blocks, slot.stream());
    }

    /// The live block that starts at `address`, or the error that says what is there.
    fn live_block(&self, address: usize) -> Result<Block> {
        match self.table.find(address) {
            Found::Block(head, index) => {
                let block = Block { head, index };
                if block.is_live() { Ok(block) } else { Err(self.freed_before(address)) }
            }
            Found::Inside => {
                self.invalid_frees.fetch_add(1, Ordering::Relaxed);
                let around = self.core.lock().live_block_around(&self.table, address);
                Err(match around {
                    Some(block) => fail!(
                        InvalidPointer,
                        "ptr {address:#x} lies inside the block at {:#x}, {} bytes behind its \
                         start; only the start of a block can be freed",
                        block.address(),
                        address - block.address()
                    ),
                    None => fail!(
                        InvalidPointer,
                        "ptr {address:#x} is in the pool's addresses, but no live block is there"
                    ),
                })
            }
            Found::Foreign => {
                self.invalid_frees.fetch_add(1, Ordering::Relaxed);
                Err(match registry::owner_of(address) {
                    Some(other) => fail!(
                        InvalidPointer,
                        "ptr {address:#x} belongs to pool {other}, not to pool {}",
                        self.id
                    ),
                    None => fail!(InvalidPointer, "ptr {address:#x} does not belong to this pool"),
                })
            }
        }
    }

    #[cold]
    fn freed_before(&self, address: usize) -> error::Error {
        self.invalid_frees.fetch_add(1, Ordering::Relaxed);
        fail!(InvalidPointer, "ptr {address:#x} is not given out: it was freed before")
    }

    /// The calling thread's slot for `stream`; none when it has to do without.
    #[inline]
    fn slot_for(&self, stream: Stream) -> Result<Option<&Slot>> {
        if let Some(slot) = thread::find_slot(self.id, stream) {
            // SAFETY: a slot of this pool, which is here to be called.
            let slot = unsafe { &*slot };
            if slot.door.is_raised(attention::UNCHECKED) {
                self.order.check(stream)?;
                slot.door.lower(attention::UNCHECKED);
            }
            return Ok(Some(slot));
        }
        self.own_slot(stream)
    }

    /// `stream` is about to be destroyed: what was freed on it is everybody's once its work
    /// is done, and its handle may be that of a new stream afterwards.
    pub fn forget_stream(&self, stream: Stream) -> Result<()> {
        self.check_open()?;
        let stream = self.order.name(stream);
        if self.core.lock().captures.iter().any(|lane| lane.stream == stream) {
            return Err(fail!(
                InvalidState,
                "stream {:#x} is capturing a graph; end that before the stream is destroyed",
                stream.0
            ));
        }
        // What caches hold of it gets its fence while there is a stream to record it on.
        let mut stopped = self.slots.stop_all();
        let own = stopped.slots.iter_mut().filter(|locked| locked.slot().stream() == stream);
        for locked in own {
            self.flush(locked);
            locked.slot().door.raise(attention::UNCHECKED);
        }
        drop(stopped);
        self.flush_stock();
        self.order.forget(stream)
    }

    /// The calling thread meets `stream` here for the first time. Not inlined, for a new slot
    /// is made on the stack, which takes dozens of its pages.
    #[cold]
    #[inline(never)]
    fn own_slot(&self, stream: Stream) -> Result<Option<&Slot>> {
        error::prepare_thread();
        self.order.check(stream)?;
        // What the only slot so far knows of peaks is lost when there are two.
        self.publish_peaks();
        let make = |id| {
            let pooled = Pooled {
                table: self.table.parts(),
                classes: AtomicPtr::new(std::ptr::from_ref(self.classes().table()).cast_mut()),
                block_mask: self.block_mask,
                slots: &raw const self.slots,
            };
            let bound = self.front_bound.load(Ordering::Acquire);
            Slot::new(id, stream, bound, self.attention.load(Ordering::Acquire), pooled)
        };
        let Some(slot) = self.slots.own(self.order.name(stream), make) else { return Ok(None) };
        if thread::remember_slot(self.id, stream, slot) {
            Ok(Some(slot))
        } else {
            self.slots.disown(slot);
            Ok(None)
        }
    }

    /// A thread that had `slot` is ending.
    fn retire(&self, slot: *const Slot) {
        let Some(slot) = self.slots.iter().find(|&own| std::ptr::eq(own, slot)) else { return };
        // SAFETY: called by the owner's thread, outside the door.
        let mut locked = unsafe { slot.lock() };
        self.flush(&mut locked);
        drop(locked);
        self.slots.disown(slot);
    }

    /// Notes that work on `stream` uses a block that was allocated on another one.
    pub fn record_stream(&self, address: usize, stream: Stream) -> Result<()> {
        self.check_open()?;
        self.order.check(stream)?;
        let stream = self.order.name(stream);
        let block = self.live_block(address)?;
        if self.order.is_immediate(stream) {
            return Ok(());
        }
        let word = block.head().word(block.index);
        #[cfg(test)]
        if crate::planted::is_planted(crate::planted::Bug::IgnoredStream) {
            return Ok(());
        }
        // Before the word says so, because whoever frees it then looks.
        self.core.lock().follow(address, stream);
        let mut seen = Word(word.load(Ordering::Acquire));
        while seen.state() != state::FOLLOWED {
            if !seen.is_live() {
                return Err(self.freed_before(address));
            }
            if let Some(owner) = self.slots.get(seen.owner()) {
                self.share(owner);
            }
            let next = Word::new(state::FOLLOWED, seen.owner(), seen.waste());
            match word.compare_exchange(seen.0, next.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => seen = Word(now),
            }
        }
        Ok(())
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

    /// Whether the processor can write to the pool's blocks.
    pub fn is_cpu_writable(&self) -> bool {
        !self.device.works_on_streams()
    }

    /// Bytes that the live block at `address` has room for.
    pub fn usable_size(&self, address: usize) -> Result<u64> {
        let block = self.live_block(address)?;
        let head = block.head();
        // Everything behind the bytes asked for is guarded, then.
        Ok(if self.flags.guard_bytes { head.requested(block.index) } else { head.size() })
    }

    /// First byte and bytes of the live block that `address` lies in.
    pub fn owner(&self, address: usize) -> Option<(usize, u64)> {
        let block = self.core.lock().live_block_around(&self.table, address)?;
        Some((block.address(), block.head().size()))
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

    fn record(&self, action: crate::trace::Action, address: usize, size: usize, stream: Stream) {
        if self.attention.load(Ordering::Relaxed) & attention::SLOW == 0 {
            return;
        }
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
