//! What is done to a pool as a whole: trim, defragment, limits, policies, checks.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::sync::MutexGuard;

use super::core::Core;
use super::policy::TrimWhen;
use super::{OomCallback, Policy, Pool, housekeeper};
use crate::device::GiveBack;
use crate::error::{Result, fail};
use crate::order::Stream;
use crate::space::{PAGE, READY};

/// Most bytes of pages that are moved at a time: they are nobody's meanwhile.
const DEFRAG_PASS: u64 = 128 << 20;

/// The share of what caches hold that they are asked for, each second that the device is short.
const HELD_SHARE: u64 = 4;

/// Longest time that [`Pool::set_decay`] takes.
pub const DECAY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What [`Pool::defragment`] did.
#[derive(Clone, Copy, Debug, Default)]
pub struct DefragReport {
    /// Pages moved.
    pub pages_moved: u64,
    /// By how much the largest free run grew, in bytes.
    pub bytes_gained: u64,
    /// System calls made.
    pub system_calls: u64,
    /// The largest free run before, in bytes.
    pub largest_before: u64,
    /// The largest free run after, in bytes.
    pub largest_after: u64,
}

impl Pool {
    /// Maps `bytes` at the start, and touches them if `touch`.
    pub(super) fn map_initial(&self, bytes: u64, touch: bool) -> Result<()> {
        let bytes = bytes.next_multiple_of(PAGE);
        let mut core = self.core.lock();
        let Some(window) = core.space.best_window(bytes, PAGE, READY) else {
            return Err(fail!(
                OutOfMemory,
                "initial_bytes is {bytes}; the system gave {} bytes of addresses",
                core.space.bytes()
            ));
        };
        let growth = core.space.begin_growth(window, 0);
        core.note_reserved(growth.fresh_bytes());
        drop(core);
        let at = self.table.base() + window.offset as usize;
        let mapped = self
            .map(&growth)
            .and_then(|()| if touch { self.device.populate(at, bytes) } else { Ok(()) });
        let mut core = self.core.lock();
        match mapped {
            Ok(()) => core.space.finish_growth_free(growth),
            Err(_) => core.space.abort_growth(growth),
        }
        core.idle_low = core.space.idle_bytes();
        mapped
    }

    /// Gives up to `bytes` of idle pages back to the device; returns how many.
    pub(super) fn release_idle(&self, bytes: u64) -> u64 {
        self.release(bytes, GiveBack::Lazily)
    }

    /// Gives everything idle back to the device.
    pub(super) fn give_back_idle(&self) {
        self.release(u64::MAX, GiveBack::Now);
    }

    fn release(&self, bytes: u64, how: GiveBack) -> u64 {
        if !self.device.can_move() {
            // It has all its pages from the start, and keeps them.
            return 0;
        }
        let mut core = self.polled();
        if !core.sleep.is_awake() {
            return 0;
        }
        let taken = core.space.begin_release(bytes);
        core.device_calls += 1;
        core.releases += 1;
        drop(core);
        let mut released = 0;
        let mut done = Vec::with_capacity(taken.len());
        for &(run, offset, bytes) in &taken {
            let at = self.table.base() + offset as usize;
            let gone = self.device.decommit(at, bytes, how).is_ok();
            released += if gone { bytes } else { 0 };
            done.push((run, gone));
        }
        let mut core = self.core.lock();
        core.device_calls -= 1;
        core.releases -= 1;
        for (run, gone) in done {
            if gone {
                core.space.finish_release(run);
            } else {
                core.space.abort_release(run);
            }
        }
        core.idle_low = core.idle_low.min(core.space.idle_bytes());
        if released > 0 {
            self.trims.fetch_add(1, Ordering::Relaxed);
        }
        released
    }

    /// After a block went back to the core: gives back what the policy does not keep.
    #[inline]
    pub(super) fn after_free(&self) {
        if self.idle_pages.load(Ordering::Relaxed) {
            self.give_up_idle();
        }
    }

    fn give_up_idle(&self) {
        // Before the lock is taken: what becomes idle behind it raises it again.
        self.idle_pages.store(false, Ordering::Relaxed);
        let at_once = self.core.lock().preset.trim == TrimWhen::AtOnce;
        let core = if at_once { self.polled() } else { self.core.lock() };
        let idle = core.space.idle_bytes();
        if idle == 0 {
            return;
        }
        let keep = core.keeps();
        let trim = core.preset.trim;
        drop(core);
        if idle > keep {
            self.release_idle(idle - keep);
        } else if matches!(trim, TrimWhen::Idle(_) | TrimWhen::Pressure) {
            housekeeper::wake();
        }
    }

    /// Gives back what has been idle for as long as the policy says, `now` being the time, and
    /// everything that is idle when the device has little left. True while there is something
    /// to come back for. A thread of the library calls this every second while pools have idle
    /// pages; who cannot wait so long may call it too.
    pub fn tick(&self, now: Instant) -> bool {
        let decay = self.decay();
        let trim = decay.map_or_else(|| self.core.lock().preset.trim, TrimWhen::Idle);
        if !matches!(trim, TrimWhen::Idle(_) | TrimWhen::Pressure) {
            return false;
        }
        let cached: u64 = self.slots.iter().map(|slot| slot.held.get()).sum();
        let holders = self.all_holders();
        let held: u64 = holders.iter().map(|holder| holder.held(self.id)).sum();
        if self.polled().space.idle_bytes() + cached + held > 0 && self.device.is_short() {
            // Bit by bit: others may find more to give.
            self.ask_holders(held / HELD_SHARE);
            self.flush_all();
            let bytes = self.release(u64::MAX, GiveBack::Now);
            tracing::debug!(pool = self.id, bytes, "given back: the device has little left");
        }
        let mut core = self.polled();
        let idle = core.space.idle_bytes();
        // What front caches hold comes by no slow path, so who is to watch it stays.
        let mapped = decay.is_some() && core.space.mapped_bytes() > 0;
        let busy = idle > 0 || mapped || !holders.is_empty();
        let TrimWhen::Idle(after) = trim else { return busy };
        core.idle_low = core.idle_low.min(idle);
        if now.saturating_duration_since(core.idle_since) < after {
            return busy;
        }
        let mut unused = core.idle_low;
        drop(core);
        if decay.is_some() && self.flush_unused() > 0 {
            // Nobody needed these either.
            unused += self.polled().space.idle_bytes().saturating_sub(idle);
        }
        let mut core = self.core.lock();
        let idle = core.space.idle_bytes();
        unused = unused.min(idle);
        (core.idle_low, core.idle_since) = (idle - unused, now);
        drop(core);
        if unused > 0 {
            tracing::debug!(pool = self.id, bytes = unused, "idle pages given back");
            self.release(unused, if decay.is_some() { GiveBack::Now } else { GiveBack::Lazily });
        }
        idle > unused || mapped || !holders.is_empty()
    }

    /// Has what lay idle for `time` go back to the device at once, whatever the policy: what front
    /// caches hold, where a thread has made no call for that long, and what no call needed of
    /// the rest. Zero: the policy's own again.
    pub fn set_decay(&self, time: Duration) -> Result<()> {
        self.check_open()?;
        if time > DECAY_MAX {
            return Err(fail!(
                InvalidArgument,
                "milliseconds is {}; the limit is {}",
                time.as_millis(),
                DECAY_MAX.as_millis()
            ));
        }
        self.decay.store(time.as_millis() as u64, Ordering::Relaxed);
        let mapped = self.core.lock().space.mapped_bytes();
        if !time.is_zero() && mapped > 0 {
            housekeeper::wake();
        }
        Ok(())
    }

    /// After how long what is idle goes back, if it is not the policy that says so.
    pub(super) fn decay(&self) -> Option<Duration> {
        let milliseconds = self.decay.load(Ordering::Relaxed);
        (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
    }

    /// The core, with everything ready that streams are done with by now.
    pub(super) fn polled(&self) -> MutexGuard<'_, Core> {
        self.order.refresh();
        let mut core = self.core.lock();
        core.poll(&self.table, &*self.order);
        core
    }

    /// Waits until streams are done with what was freed on them so far.
    pub fn wait_for_frees(&self) -> Result<()> {
        self.check_open()?;
        self.flush_all();
        let fences = self.core.lock().fences(&*self.order);
        for fence in fences {
            self.order.wait(fence);
        }
        Ok(())
    }

    /// Gives idle pages back until at most `keep_bytes` are mapped, or nothing is idle;
    /// returns the bytes given back.
    pub fn trim(&self, keep_bytes: u64) -> Result<u64> {
        self.check_open()?;
        self.flush_all();
        self.order.recover();
        let mapped = self.polled().space.mapped_bytes();
        // Rounded down: what is to be kept is kept.
        let released = self.release(mapped.saturating_sub(keep_bytes), GiveBack::Now);
        // What another thread is giving back is no longer idle, and mapped until it is done.
        loop {
            let core = self.core.lock();
            if core.releases == 0 || core.space.mapped_bytes() <= keep_bytes {
                return Ok(released);
            }
            drop(core);
            self.check_open()?;
            std::thread::yield_now();
        }
    }

    /// Moves idle pages together, so that the largest free run is as large as can be: a bounded
    /// number at a time, between which others get at the pool.
    pub fn defragment(&self) -> Result<DefragReport> {
        self.check_open()?;
        self.check_awake()?;
        self.flush_all();
        let calls = self.device.calls();
        let core = self.polled();
        if !core.sleep.is_awake() {
            drop(core);
            self.check_awake()?;
            return Ok(DefragReport::default());
        }
        let before = core.largest_free();
        let idle = core.space.idle_bytes();
        let mut report =
            DefragReport { largest_before: before, largest_after: before, ..Default::default() };
        // The window that has all idle pages in the end; those that lie in it already stay.
        let window = (idle > before).then(|| core.space.best_window(idle, PAGE, READY)).flatten();
        drop(core);
        let Some(window) = window.filter(|window| window.pages > 0) else { return Ok(report) };
        let whole = (window.offset, window.offset + window.size);
        let mut at = whole.0;
        while at < whole.1
            && let Some((end, moved)) = self.defragment_from(at, whole)?
        {
            at = end;
            report.pages_moved += moved / PAGE;
        }
        report.largest_after = self.core.lock().largest_free();
        report.bytes_gained = report.largest_after.saturating_sub(before);
        report.system_calls = self.device.calls() - calls;
        Ok(report)
    }

    /// One pass: fills the addresses `whole` from `at` on. Returns how far it came and the bytes
    /// it moved; none when it can go no further.
    fn defragment_from(&self, at: u64, whole: (u64, u64)) -> Result<Option<(u64, u64)>> {
        let mut core = self.core.lock();
        if !core.sleep.is_awake() {
            return Ok(None);
        }
        let window = core.space.window_from(at, whole.1, DEFRAG_PASS);
        let Some(window) = window else { return Ok(None) };
        let growth = core.space.begin_growth_within(window, whole);
        if growth.fresh_bytes() > 0 {
            core.space.abort_growth(growth);
            return Ok(None);
        }
        let moved = growth.moved_bytes();
        core.device_calls += 1;
        drop(core);
        let mapped = self.map(&growth);
        let mut core = self.core.lock();
        core.device_calls -= 1;
        if let Err(error) = mapped {
            core.space.abort_growth(growth);
            return Err(error);
        }
        core.space.finish_growth_free(growth);
        Ok(Some((window.offset + window.size, moved)))
    }

    /// Changes the limit. What is mapped beyond a lower one is given back first; an error,
    /// and the old limit, when blocks are in the way.
    pub fn set_limit(&self, max_bytes: u64) -> Result<()> {
        self.check_open()?;
        let limit = if max_bytes == 0 { self.device.memory_bytes() } else { max_bytes };
        let limit = limit.min(super::SIZE_MAX) / PAGE * PAGE;
        let addresses = self.table.bytes();
        if limit == 0 {
            return Err(fail!(
                InvalidArgument,
                "max_bytes is {max_bytes}; a pool maps pages of {PAGE} bytes, so that is the least"
            ));
        }
        if limit > addresses && max_bytes != 0 {
            return Err(fail!(
                InvalidArgument,
                "max_bytes is {max_bytes}; this pool reserved {addresses} bytes of addresses \
                 when it was created, and that is its limit"
            ));
        }
        let limit = limit.min(addresses);
        let mapped = self.core.lock().space.mapped_bytes();
        if mapped > limit {
            self.flush_all();
            drop(self.polled());
            self.release(mapped - limit, GiveBack::Now);
        }
        let mut core = self.core.lock();
        let mapped = core.space.mapped_bytes();
        if mapped > limit {
            let used = core.space.used_bytes();
            return Err(fail!(
                InvalidArgument,
                "max_bytes is {max_bytes}; live blocks take {used} bytes in {mapped} mapped ones. \
                 The limit stays at {}",
                core.limit
            ));
        }
        core.limit = limit;
        let bound = self.front_bound_for(&core.preset, limit);
        drop(core);
        self.set_front_bound(bound);
        Ok(())
    }

    fn set_front_bound(&self, bound: u64) {
        self.front_bound.store(bound, Ordering::Relaxed);
        for locked in &mut self.slots.stop_all().slots {
            locked.cache().bound = bound;
            if locked.is_over() || bound == 0 {
                self.flush(locked);
            }
        }
    }

    /// Changes the policy. Size classes follow as soon as no small block is live; until then
    /// small blocks keep the classes they have.
    pub fn set_policy(&self, policy: Policy) -> Result<()> {
        self.check_open()?;
        let preset = super::preset_on(&*self.device, policy);
        let mut kept = self.classes_kept.lock();
        let mut stopped = self.slots.stop_all();
        for locked in &mut stopped.slots {
            self.flush(locked);
        }
        self.flush_stock();
        let mut core = self.core.lock();
        core.preset = preset;
        let bound = self.front_bound_for(&preset, core.limit);
        let fresh = Box::new(self.size_classes(&preset));
        if core.space.set_classes((*fresh).clone()) {
            self.classes.store(std::ptr::from_ref(&*fresh).cast_mut(), Ordering::Release);
            kept.push(fresh);
        }
        drop(core);
        for locked in &mut stopped.slots {
            locked.slot().set_classes(self.classes().table());
            locked.cache().bound = bound;
            // Bins of small blocks are for classes, which may be others now.
            locked.cache().forget_sizes();
        }
        drop(stopped);
        drop(kept);
        self.front_bound.store(bound, Ordering::Relaxed);
        self.policy.store(policy as u32, Ordering::Relaxed);
        self.zeroed.store(preset.zeroed, Ordering::Relaxed);
        self.large_alignment.store(preset.large_alignment, Ordering::Relaxed);
        self.update_attention();
        let (base, bytes) = (self.table.base(), self.table.bytes());
        if preset.huge_pages {
            super::advise_huge(&*self.device, base, bytes);
        } else {
            self.device.advise_huge(base, bytes, false);
        }
        self.give_up_idle();
        Ok(())
    }

    /// Sets what is called when memory is short; none for nothing.
    pub fn set_oom_callback(&self, callback: Option<OomCallback>) {
        *self.callback.lock() = callback;
    }

    /// Checks the guard bytes of every live block, and every invariant of the bookkeeping.
    pub fn check(&self) -> Result<()> {
        self.check_open()?;
        self.check_planned()?;
        let mut stopped = self.slots.stop_all();
        let cached: usize = stopped.slots.iter_mut().map(|locked| locked.cache().count()).sum();
        // Those who have no slot hold this while a block is half freed.
        let _slotless = self.slotless.cells.lock();
        let core = self.core.lock();
        if let Err(what) = core.validate(&self.table, cached) {
            return Err(fail!(Internal, "the bookkeeping of pool {} is wrong: {what}", self.id));
        }
        if !self.flags.guard_bytes {
            return Ok(());
        }
        let live = core.live_blocks();
        // The device is not called under the core's lock. All others are held, so that nobody
        // frees a block meanwhile.
        drop(core);
        if self.device.works_on_streams() {
            self.order.wait_for_all()?;
        }
        live.iter().try_for_each(|block| self.check_guard(block, Stream::DEFAULT))
    }
}
