//! Sleep: the device has a pool's memory for other use, and every address stays.
//!
//! What sleeps is every page that is mapped, but for those that other processes have. Blocks
//! live on, and may be freed meanwhile: their pages do not come back. Nothing can be taken.

use std::sync::atomic::Ordering;

use super::Pool;
use super::core::Core;
use super::registry;
use crate::device::{GiveBack, Saved};
use crate::error::{Kind, Result, fail};
use crate::space::{PAGE, State};

/// What becomes of the bytes of a pool that sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepMode {
    /// They are gone: after waking, blocks hold anything.
    Discard,
    /// They are kept in pinned system memory, and come back.
    Backup,
}

/// Whether a pool sleeps, under the core's lock.
#[derive(Default)]
pub enum Sleep {
    /// It does not.
    #[default]
    Awake,
    /// It is about to, or about to wake: device calls for it are the sleeper's alone.
    Between,
    /// It does.
    Asleep(Asleep),
}

/// A pool's pages, gone.
pub struct Asleep {
    /// `(offset, bytes)` of what has no pages now.
    ranges: Vec<(u64, u64)>,
    saved: Option<Saved>,
}

impl Sleep {
    /// Bytes that count as mapped and have no pages.
    pub fn bytes(&self) -> u64 {
        match self {
            Sleep::Asleep(asleep) => asleep.ranges.iter().map(|&(_, bytes)| bytes).sum(),
            Sleep::Awake | Sleep::Between => 0,
        }
    }

    /// Whether the device may be called for the pool by others than who puts it to sleep.
    pub fn is_awake(&self) -> bool {
        matches!(self, Sleep::Awake)
    }
}

impl Pool {
    /// Gives the device all of the pool's memory back and keeps every address. Waits for all
    /// work on the device first.
    pub fn sleep(&self, mode: SleepMode) -> Result<()> {
        self.check_open()?;
        if !self.device.can_move() {
            return Err(fail!(
                Unsupported,
                "pool {} cannot sleep: its memory on {} is in one piece that keeps its pages",
                self.id,
                self.device.name()
            ));
        }
        if self.captures.load(Ordering::Acquire) > 0 {
            return Err(fail!(InvalidState, "a graph is being captured; end that before sleep"));
        }
        self.order.wait_for_all()?;
        self.flush_all();
        self.give_back_idle();
        self.begin_sleep()?;
        let ranges = self.sleeping_ranges();
        let saved = match mode {
            SleepMode::Discard => Ok(None),
            SleepMode::Backup => self.device.save(&self.at_addresses(&ranges)).map(Some),
        };
        let saved = match saved {
            Ok(saved) => saved,
            Err(error) => {
                self.end_sleep(Sleep::Awake);
                return Err(error);
            }
        };
        let gone = |&(offset, bytes): &(u64, u64)| {
            let at = self.table.base() + offset as usize;
            let gone = self.device.decommit(at, bytes, GiveBack::Now);
            if let Err(error) = &gone {
                // It keeps its pages, and its contents with them.
                tracing::warn!(pool = self.id, bytes, %error, "pages were not given back");
            }
            gone.is_ok()
        };
        let ranges = ranges.into_iter().filter(gone).collect();
        self.end_sleep(Sleep::Asleep(Asleep { ranges, saved }));
        Ok(())
    }

    /// Gets memory for every address that had some, and what was in it if that was kept. When
    /// the device has not enough, the pool sleeps on, and loses nothing.
    pub fn wake(&self) -> Result<()> {
        self.check_open()?;
        let mut core = self.polled();
        let asleep = match std::mem::replace(&mut core.sleep, Sleep::Between) {
            Sleep::Asleep(asleep) => asleep,
            other => {
                core.sleep = other;
                return Err(fail!(InvalidState, "pool {} does not sleep", self.id));
            }
        };
        let Asleep { ranges, saved } = asleep;
        let ranges = drop_freed(&mut core, ranges);
        drop(core);
        let mut awake = self.wake_ranges(&ranges, saved.as_ref());
        if matches!(&awake, Err(error) if error.kind() == Kind::OutOfMemory)
            && registry::trim_others(self.id) > 0
        {
            awake = self.wake_ranges(&ranges, saved.as_ref());
        }
        if awake.is_ok() && saved.is_none() {
            awake = self.renew_guards();
        }
        match awake {
            Ok(()) => self.end_sleep(Sleep::Awake),
            Err(_) => self.end_sleep(Sleep::Asleep(Asleep { ranges, saved })),
        }
        awake
    }

    /// All or nothing.
    fn wake_ranges(&self, ranges: &[(u64, u64)], saved: Option<&Saved>) -> Result<()> {
        let addresses = self.at_addresses(ranges);
        let mut done = 0;
        let mut result = Ok(());
        for &(at, bytes) in &addresses {
            result = self.device.commit(at, bytes);
            if result.is_err() {
                break;
            }
            done += 1;
        }
        if let (Ok(()), Some(saved)) = (&result, saved) {
            result = self.device.restore(saved, &addresses);
        }
        if result.is_err() {
            // Copies may be under way. A second try, for what failed may have been a wait.
            let _ = self.order.wait_for_all().or_else(|_| self.order.wait_for_all());
            for &(at, bytes) in &addresses[..done] {
                let _ = self.device.decommit(at, bytes, GiveBack::Now);
            }
        }
        result
    }

    /// From here on nobody else calls the device for this pool.
    fn begin_sleep(&self) -> Result<()> {
        let mut core = self.core.lock();
        if !core.sleep.is_awake() {
            return Err(fail!(InvalidState, "pool {} sleeps already", self.id));
        }
        core.sleep = Sleep::Between;
        self.asleep.store(true, Ordering::Release);
        drop(core);
        self.update_attention();
        // Calls that were under way end by themselves.
        while self.core.lock().device_calls > 0 {
            std::thread::yield_now();
        }
        Ok(())
    }

    fn end_sleep(&self, sleep: Sleep) {
        let awake = sleep.is_awake();
        // What it replaces says nothing any more.
        self.core.lock().sleep = sleep;
        if awake {
            self.asleep.store(false, Ordering::Release);
            self.update_attention();
        }
    }

    /// Every mapped page but those that others have.
    fn sleeping_ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (_, run) in self.core.lock().space.runs().iter() {
            if run.state == State::Unmapped {
                continue;
            }
            match ranges.last_mut() {
                Some((offset, bytes)) if *offset + *bytes == run.offset => *bytes += run.size,
                _ => ranges.push((run.offset, run.size)),
            }
        }
        let is_shared = |offset: u64, bytes: u64| {
            self.device.is_shared(self.table.base() + offset as usize, bytes)
        };
        let (shared, mut own): (Vec<_>, Vec<_>) =
            ranges.into_iter().partition(|&(offset, bytes)| is_shared(offset, bytes));
        for (offset, bytes) in shared {
            let pages = (offset..offset + bytes).step_by(PAGE as usize);
            own.extend(pages.filter(|&at| !is_shared(at, PAGE)).map(|at| (at, PAGE)));
        }
        own
    }

    fn at_addresses(&self, ranges: &[(u64, u64)]) -> Vec<(usize, u64)> {
        let base = self.table.base();
        ranges.iter().map(|&(offset, bytes)| (base + offset as usize, bytes)).collect()
    }

    /// An error while the pool sleeps.
    #[inline]
    pub(super) fn check_awake(&self) -> Result<()> {
        if self.asleep.load(Ordering::Acquire) {
            return Err(fail!(
                InvalidState,
                "pool {} sleeps; forebay_pool_wake comes first",
                self.id
            ));
        }
        Ok(())
    }
}

/// Pages that became idle in the sleep do not come back: returns `ranges` without them.
fn drop_freed(core: &mut Core, ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut left = ranges;
    for (run, offset, bytes) in core.space.begin_release(u64::MAX) {
        let inside =
            |&&(from, length): &&(u64, u64)| from <= offset && offset + bytes <= from + length;
        let Some(&(from, length)) = left.iter().find(inside) else {
            // Some of it has pages still.
            core.space.abort_release(run);
            continue;
        };
        core.space.finish_release(run);
        left.retain(|&range| range != (from, length));
        let (end, freed_end) = (from + length, offset + bytes);
        left.extend([(from, offset - from), (freed_end, end - freed_end)]);
        left.retain(|&(_, bytes)| bytes > 0);
    }
    left
}
