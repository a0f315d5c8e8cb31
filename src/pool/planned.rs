//! Planned pools: an arena in which every tensor of a repeating step has its place.
//!
//! While a plan is applied no call takes the fast path; each asks the plan first
//! ([`Repeat`](crate::lifetime::Repeat)), and what is not of the plan goes the ordinary way. The
//! arena is one run that nobody holds as a block, with the word of one that is on its way.
//!
//! A place is used again in stream order: whoever had bytes of it last left a fence, and the
//! stream of whoever comes next is behind it anyway, or is made to wait on the device. A caller is
//! never stopped for a place: then the allocation goes the ordinary way.

use std::sync::atomic::Ordering;

use super::block::Word;
use super::core::Need;
use super::handshake::attention;
use super::lane::Lane;
use super::{Piece, PieceState, Pool, SIZE_MAX};
use crate::error::{Result, fail};
use crate::lifetime::{Plan, Repeat};
use crate::order::{Fence, Stream};
use crate::space::{GRANULE, PAGE};

/// What is known of a tensor's last use, or of its present one.
#[derive(Clone, Debug)]
struct Use {
    /// Bytes that were asked for, and on which stream.
    requested: u64,
    stream: Stream,
    /// Streams that use it besides the one it was taken on.
    followers: Vec<Stream>,
    /// What has to pass before its bytes are used again.
    fences: Vec<Fence>,
}

/// A plan that is applied.
pub(super) struct Planned {
    /// The arena.
    base: usize,
    bytes: u64,
    repeat: Repeat,
    uses: Vec<Use>,
    /// Whether there ever was a fence.
    fenced: bool,
    served: u64,
    diverged: u64,
    diverged_bytes: u64,
}

/// How well a plan fits what the pool is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanUsage {
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Tensors of a step.
    pub tensors: u64,
    /// Steps that began.
    pub steps: u64,
    /// Allocations that got their place in the plan.
    pub served: u64,
    /// Allocations that went the ordinary way.
    pub diverged: u64,
    /// All bytes that were asked for in these.
    pub diverged_bytes: u64,
    /// Tensors that are in their places now.
    pub live: u64,
}

impl Pool {
    /// Serves what is allocated from now on from `plan`, in an arena that is taken on `stream`.
    ///
    /// # Errors
    /// `InvalidState` when a plan is applied, or debug flags need bytes beside those of blocks;
    /// `InvalidArgument` when a tensor is where no block can be; `OutOfMemory` when the pool has
    /// not enough for the arena.
    pub fn apply_plan(&self, plan: &Plan, stream: Stream) -> Result<()> {
        self.check_open()?;
        self.check_awake()?;
        if self.flags.guard_bytes || self.flags.poison_on_free {
            return Err(fail!(
                InvalidState,
                "pool {} writes guard bytes or poison, for which a plan has no room",
                self.id
            ));
        }
        self.check_unplanned(&self.planned.lock())?;
        let repeat = Repeat::new(plan, GRANULE.max(self.block_mask as u64 + 1).min(PAGE))?;
        let slot_checked = self.slot_for(stream)?;
        if slot_checked.is_none() {
            self.order.check(stream)?;
        }
        let lane = self.lane_for(stream)?;
        self.check_eager(lane)?;
        let bytes = repeat.arena_bytes();
        if bytes > SIZE_MAX {
            return Err(fail!(
                InvalidArgument,
                "the plan's arena has {bytes} bytes; the limit is {SIZE_MAX}"
            ));
        }
        let block = bytes.next_multiple_of(PAGE);
        let need = Need { size: bytes, block, class: None, alignment: PAGE, lane };
        self.flush_all();
        let block = self.take_from_core(&need).map_or_else(|| self.climb(&need), Ok)?;
        block.set_word(Word::HELD);
        let first = (!self.order.is_immediate(lane.stream))
            .then(|| Fence { stream: lane.stream, sequence: self.order.mark(lane.stream) });
        let unused = Use {
            requested: 0,
            stream: lane.stream,
            followers: Vec::new(),
            fences: first.into_iter().collect(),
        };
        let planned = Planned {
            base: block.address(),
            bytes: need.block,
            uses: vec![unused; repeat.tensors()],
            repeat,
            fenced: first.is_some(),
            served: 0,
            diverged: 0,
            diverged_bytes: 0,
        };
        let mut held = self.planned.lock();
        if let Err(error) = self.check_unplanned(&held) {
            drop(held);
            self.core.lock().give(&self.table, &*self.order, block, lane);
            return Err(error);
        }
        *held = Some(planned);
        drop(held);
        self.update_attention();
        self.flush_all();
        self.give_back_idle();
        tracing::debug!(pool = self.id, bytes, "plan applied");
        Ok(())
    }

    fn check_unplanned(&self, planned: &Option<Planned>) -> Result<()> {
        match planned {
            None => Ok(()),
            Some(_) => {
                Err(fail!(InvalidState, "a plan is applied to pool {}; remove it first", self.id))
            }
        }
    }

    fn unplanned(&self) -> crate::error::Error {
        fail!(InvalidState, "no plan is applied to pool {}", self.id)
    }

    /// Ends what [`Pool::apply_plan`] began; the arena's memory is the pool's again.
    ///
    /// # Errors
    /// `InvalidState` when no plan is applied, or tensors are in its arena still.
    pub fn remove_plan(&self) -> Result<()> {
        self.check_open()?;
        // What nobody uses any more is given back on the default stream.
        self.slot_for(Stream::DEFAULT)?;
        let mut held = self.planned.lock();
        let Some(planned) = &*held else { return Err(self.unplanned()) };
        let live = planned.repeat.living().count();
        if live > 0 {
            return Err(fail!(
                InvalidState,
                "{live} blocks of the plan of pool {} are given out; free them first",
                self.id
            ));
        }
        let base = planned.base;
        // The latest of each stream stands for all.
        let mut fences: Vec<Fence> =
            planned.uses.iter().flat_map(|used| used.fences.clone()).collect();
        fences.sort_unstable_by_key(|fence| (fence.stream, std::cmp::Reverse(fence.sequence)));
        fences.dedup_by_key(|fence| fence.stream);
        fences.retain(|&fence| !self.has_passed(fence));
        *held = None;
        drop(held);
        let mut core = self.core.lock();
        for fence in fences {
            core.follow_fence(base, fence);
        }
        if let Some(block) = self.block_at(base) {
            let lane = Lane::eager(self.order.name(Stream::DEFAULT));
            core.give(&self.table, &*self.order, block, lane);
        }
        drop(core);
        self.update_attention();
        self.after_free();
        Ok(())
    }

    /// The next allocation is the first of a step. A step that goes as planned needs not be told:
    /// the first follows the last.
    ///
    /// # Errors
    /// `InvalidState` when no plan is applied.
    pub fn begin_step(&self) -> Result<()> {
        self.check_open()?;
        match &mut *self.planned.lock() {
            Some(planned) => planned.repeat.begin_step(),
            None => return Err(self.unplanned()),
        }
        Ok(())
    }

    /// How well the plan fits.
    ///
    /// # Errors
    /// `InvalidState` when no plan is applied.
    pub fn plan_usage(&self) -> Result<PlanUsage> {
        self.check_open()?;
        let held = self.planned.lock();
        let Some(planned) = &*held else { return Err(self.unplanned()) };
        Ok(planned.usage())
    }

    /// Whether calls have to ask a plan.
    #[inline(always)]
    pub(super) fn asks_plan(&self) -> bool {
        self.attention.load(Ordering::Relaxed) & attention::PLANNED != 0
    }

    /// The block that the plan has for an allocation, if it has one. `stream` was checked, and
    /// captures nothing.
    pub(super) fn take_planned(
        &self,
        size: usize,
        alignment: usize,
        stream: Stream,
    ) -> Result<Option<usize>> {
        let mut held = self.planned.lock();
        let Some(planned) = &mut *held else { return Ok(None) };
        let (size, alignment) = (size as u64, alignment as u64);
        if size == 0 || size > SIZE_MAX {
            return Ok(None);
        }
        let Planned { repeat, uses, fenced, .. } = planned;
        let mut waits: Vec<Fence> = Vec::new();
        let taken = if alignment > PAGE {
            // The arena is a page's multiple and no more.
            None
        } else if *fenced {
            let (immediate, began) = (self.order.is_immediate(stream), self.order.began(stream));
            let mut may = |tensor: usize| {
                let open = uses[tensor].fences.iter().filter(|fence| {
                    (fence.stream != stream || fence.sequence < began) && !self.has_passed(**fence)
                });
                let known = waits.len();
                waits.extend(open);
                !immediate || waits.len() == known
            };
            repeat.take(size, alignment, &mut may)
        } else {
            repeat.take(size, alignment, &mut |_| true)
        };
        let Some(taken) = taken else {
            planned.diverged += 1;
            planned.diverged_bytes = planned.diverged_bytes.saturating_add(size);
            self.publish_planned_peak();
            return Ok(None);
        };
        debug_assert_eq!(planned.repeat.validate(), Ok(()));
        let used = &mut planned.uses[taken.tensor];
        (used.requested, used.stream) = (size, stream);
        used.followers.clear();
        used.fences.clear();
        planned.served += 1;
        self.planned_counters.allocated(size, taken.bytes);
        let address = planned.base + taken.offset as usize;
        drop(held);
        #[cfg(test)]
        if crate::planted::is_planted(crate::planted::Bug::UnorderedPlan) {
            waits.clear();
        }
        if let Err(error) = self.prepare_place(address, size as usize, stream, &waits) {
            // As if it had been used: what had to pass before it has to pass still.
            self.give_planned_behind(address, waits);
            return match error {
                Some(error) => Err(error),
                None => Ok(None),
            };
        }
        Ok(Some(address))
    }

    /// Orders `stream` behind `waits`, and does to the bytes what the pool's policy says. An error
    /// without a reason is a stream that cannot be made to wait.
    fn prepare_place(
        &self,
        address: usize,
        size: usize,
        stream: Stream,
        waits: &[Fence],
    ) -> std::result::Result<(), Option<crate::error::Error>> {
        for &fence in waits {
            if !self.has_passed(fence) && !self.order.make_wait(stream, fence) {
                return Err(None);
            }
        }
        if self.attention.load(Ordering::Relaxed) & attention::SLOW == 0 {
            return Ok(());
        }
        self.zero_contents(address, size, stream).map_err(Some)
    }

    /// Takes back a place that was not given out after all.
    fn give_planned_behind(&self, address: usize, fences: Vec<Fence>) {
        let mut held = self.planned.lock();
        let Some(planned) = &mut *held else { return };
        let Some(tensor) = planned.tensor_at(address) else { return };
        let (_, bytes) = planned.repeat.place(tensor);
        let used = &mut planned.uses[tensor];
        used.fences = fences;
        self.planned_counters.freed(used.requested, bytes);
        planned.diverged += 1;
        planned.diverged_bytes = planned.diverged_bytes.saturating_add(used.requested);
        planned.served -= 1;
        planned.repeat.give(tensor);
    }

    /// What others have given out is about to change: the plan's peak is one of all together up to
    /// here. Called under the plan's lock.
    fn publish_planned_peak(&self) {
        self.publish_peaks();
        self.planned_counters.restart_highs();
    }

    /// Takes a block of the plan back; none when `address` is none of its arena.
    pub(super) fn give_planned(&self, address: usize, stream: Stream) -> Option<Result<()>> {
        let lane = match self.check_open().and_then(|()| self.lane_for_checked(stream)) {
            Ok(lane) => lane,
            Err(error) => return Some(Err(error)),
        };
        let mut held = self.planned.lock();
        let Some(planned) = held.as_mut().filter(|planned| planned.contains(address)) else {
            self.publish_planned_peak();
            return None;
        };
        if !lane.is_eager() {
            return Some(Err(fail!(
                InvalidState,
                "ptr {address:#x} is in the arena of the pool's plan, and stream {:#x} is capturing \
                 a graph; free it before or after",
                stream.0
            )));
        }
        let Some(tensor) = planned.tensor_at(address) else {
            drop(held);
            self.invalid_frees.fetch_add(1, Ordering::Relaxed);
            return Some(Err(fail!(
                InvalidPointer,
                "ptr {address:#x} is in the arena of the pool's plan, but no live block starts \
                 there"
            )));
        };
        let (_, bytes) = planned.repeat.place(tensor);
        let used = &mut planned.uses[tensor];
        self.record(crate::trace::Action::Free, address, used.requested as usize, stream);
        if !self.order.is_immediate(lane.stream) {
            let sequence = self.order.mark(lane.stream);
            used.fences.push(Fence { stream: lane.stream, sequence });
        }
        for &stream in &used.followers {
            used.fences.push(Fence { stream, sequence: self.order.mark(stream) });
        }
        planned.fenced |= !used.fences.is_empty();
        self.planned_counters.freed(used.requested, bytes);
        planned.repeat.give(tensor);
        Some(Ok(()))
    }

    fn lane_for_checked(&self, stream: Stream) -> Result<Lane> {
        self.slot_for(stream)?;
        self.lane_for_free(stream)
    }

    /// Bytes asked for of the plan's live block at `address`, and those it has.
    pub(super) fn planned_extent(&self, address: usize) -> Option<(u64, u64)> {
        if !self.asks_plan() {
            return None;
        }
        let held = self.planned.lock();
        let planned = held.as_ref()?;
        let tensor = planned.tensor_at(address)?;
        Some((planned.uses[tensor].requested, planned.repeat.place(tensor).1))
    }

    /// First byte and bytes of the plan's live block that `address` lies in.
    pub(super) fn planned_owner(&self, address: usize) -> Option<(usize, u64)> {
        if !self.asks_plan() {
            return None;
        }
        let held = self.planned.lock();
        let planned = held.as_ref().filter(|planned| planned.contains(address))?;
        let into = (address - planned.base) as u64;
        let around = |&(offset, bytes): &(u64, u64)| offset <= into && into < offset + bytes;
        let places = planned.repeat.living().map(|tensor| planned.repeat.place(tensor));
        let (offset, bytes) = places.into_iter().find(around)?;
        Some((planned.base + offset as usize, bytes))
    }

    /// Notes a stream, or a fence, that the plan's live block at `address` is used behind; false
    /// when there is none.
    pub(super) fn follow_planned(
        &self,
        address: usize,
        stream: Option<Stream>,
        fence: Option<Fence>,
    ) -> bool {
        if !self.asks_plan() {
            return false;
        }
        let mut held = self.planned.lock();
        let Some(planned) = &mut *held else { return false };
        let Some(tensor) = planned.tensor_at(address) else { return false };
        let used = &mut planned.uses[tensor];
        if let Some(stream) = stream.filter(|stream| !used.followers.contains(stream)) {
            used.followers.push(stream);
        }
        used.fences.extend(fence);
        true
    }

    /// Checks the plan's places.
    pub(super) fn check_planned(&self) -> Result<()> {
        match &*self.planned.lock() {
            Some(planned) => planned.repeat.validate().map_err(|what| {
                fail!(Internal, "the bookkeeping of pool {} is wrong: {what}", self.id)
            }),
            None => Ok(()),
        }
    }
}

impl Planned {
    #[inline]
    fn contains(&self, address: usize) -> bool {
        (address.wrapping_sub(self.base) as u64) < self.bytes
    }

    #[inline]
    fn tensor_at(&self, address: usize) -> Option<usize> {
        let into = address.wrapping_sub(self.base) as u64;
        if into < self.bytes { self.repeat.at(into) } else { None }
    }

    /// Whether its arena begins at `address`.
    pub(super) fn is_at(&self, address: usize) -> bool {
        address == self.base
    }

    /// What lies in the arena, a run of `bytes`, in the order of addresses.
    pub(super) fn put_pieces(&self, bytes: u64, to: &mut Vec<Piece>) {
        let mut live: Vec<usize> = self.repeat.living().collect();
        live.sort_unstable_by_key(|&tensor| self.repeat.place(tensor).0);
        let mut put = |from: u64, size: u64, requested: Option<u64>, stream: Stream| {
            if size > 0 {
                to.push(Piece {
                    address: self.base + from as usize,
                    size,
                    requested: requested.unwrap_or(0),
                    state: if requested.is_some() { PieceState::Live } else { PieceState::Free },
                    stream,
                    small: false,
                });
            }
        };
        let mut end = 0;
        for tensor in live {
            let ((offset, size), used) = (self.repeat.place(tensor), &self.uses[tensor]);
            put(end, offset - end, None, Stream::DEFAULT);
            put(offset, size, Some(used.requested), used.stream);
            end = offset + size;
        }
        put(end, bytes - end, None, Stream::DEFAULT);
    }

    /// How well the plan fits.
    pub(super) fn usage(&self) -> PlanUsage {
        PlanUsage {
            arena_bytes: self.bytes,
            tensors: self.repeat.tensors() as u64,
            steps: self.repeat.steps(),
            served: self.served,
            diverged: self.diverged,
            diverged_bytes: self.diverged_bytes,
            live: self.repeat.living().count() as u64,
        }
    }
}
