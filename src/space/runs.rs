//! Runs: the arena as one list of neighbouring pieces, each free, used or without pages.
//!
//! Free runs are kept per *tag*. A tag says under whose order a run was freed; tag
//! [`READY`] means that nobody has to be waited for. Neighbours coalesce only under one tag,
//! and what they become carries the later of their two fences: a run never forgets whom it
//! has to wait for.

use std::collections::BTreeSet;

use super::bins::{Bins, bin_of};
use super::{GRANULE, PAGE};

/// Names a run. Ids are reused.
pub type RunId = u32;

/// No run.
pub const NONE: RunId = u32::MAX;

/// The tag of free memory that anyone may take at once.
pub const READY: u32 = 0;

/// How many entries of a bin are looked at for the best fit before the next bin is taken:
/// what keeps the search O(1).
const LOOK_AT: usize = 24;

/// What a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Mapped and free, listed in a bin of its tag.
    Free,
    /// Mapped and handed out (or held back while its pages are on their way).
    Used,
    /// Addresses without pages.
    Unmapped,
    /// An unused record.
    Vacant,
}

/// A piece of the arena. In a cache line of its own: an operation reads two or three of them,
/// anywhere in the table.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Run {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub state: State,
    /// Whose free memory it is.
    pub tag: u32,
    /// Under that tag: passed once this sequence number is.
    pub fence: u64,
    /// The slab it is cut into, or `NONE`.
    pub slab: u32,
    /// The neighbour below.
    pub below: RunId,
    /// The neighbour above.
    pub above: RunId,
    in_bin_previous: RunId,
    in_bin_next: RunId,
}

impl Run {
    /// First byte behind it.
    pub fn end(&self) -> u64 {
        self.offset + self.size
    }

    /// Whole pages inside it: `(first, end)` offsets, empty when there is none.
    pub fn pages(&self) -> (u64, u64) {
        let first = self.offset.next_multiple_of(PAGE);
        (first, (self.end() / PAGE * PAGE).max(first))
    }

    /// Bytes of whole pages inside it.
    fn idle(&self) -> u64 {
        let (first, end) = self.pages();
        end - first
    }
}

/// All runs of an arena.
#[derive(Debug)]
pub struct Runs {
    runs: Vec<Run>,
    vacant: Vec<RunId>,
    bins: Vec<Bins>,
    /// Runs without pages, by address.
    pub(super) unmapped: BTreeSet<(u64, RunId)>,
    /// Bytes in free runs, by tag.
    free_bytes: Vec<u64>,
    /// Bytes of whole pages inside free runs tagged [`READY`].
    idle_bytes: u64,
    /// See [`Runs::set_origin`].
    origin: u64,
}

impl Runs {
    /// One run of `bytes` addresses without pages.
    pub fn new(bytes: u64) -> Runs {
        let mut runs = Runs {
            runs: Vec::new(),
            vacant: Vec::new(),
            bins: vec![Bins::default()],
            unmapped: BTreeSet::new(),
            free_bytes: vec![0],
            idle_bytes: 0,
            origin: 0,
        };
        let id = runs.record(Run {
            offset: 0,
            size: bytes,
            state: State::Unmapped,
            tag: READY,
            fence: 0,
            slab: NONE,
            below: NONE,
            above: NONE,
            in_bin_previous: NONE,
            in_bin_next: NONE,
        });
        runs.unmapped.insert((0, id));
        runs
    }

    /// The run `id`.
    pub fn get(&self, id: RunId) -> &Run {
        &self.runs[id as usize]
    }

    fn get_mut(&mut self, id: RunId) -> &mut Run {
        &mut self.runs[id as usize]
    }

    /// Bytes in free runs of `tag`.
    pub fn free_bytes(&self, tag: u32) -> u64 {
        self.free_bytes.get(tag as usize).copied().unwrap_or(0)
    }

    /// Bytes of whole pages in free runs that are ready.
    pub fn idle_bytes(&self) -> u64 {
        self.idle_bytes
    }

    /// Tags that have been used.
    pub fn tags(&self) -> u32 {
        self.bins.len() as u32
    }

    /// All runs from the lowest address up.
    pub fn iter(&self) -> impl Iterator<Item = (RunId, &Run)> {
        // Record 0 is the first ever made and stays the lowest run: splits keep the lower
        // part's id, and a run merges into its lower neighbour.
        let mut at = 0;
        std::iter::from_fn(move || {
            (at != NONE).then(|| {
                let id = at;
                at = self.get(id).above;
                (id, self.get(id))
            })
        })
    }

    fn record(&mut self, run: Run) -> RunId {
        match self.vacant.pop() {
            Some(id) => {
                *self.get_mut(id) = run;
                id
            }
            None => {
                self.runs.push(run);
                self.runs.len() as RunId - 1
            }
        }
    }

    /// Cuts `id` (not listed anywhere) after `size` bytes and returns the upper part, which
    /// has the same state, tag and fence and is not listed either.
    fn cut(&mut self, id: RunId, size: u64) -> RunId {
        let run = *self.get(id);
        debug_assert!(size > 0 && size < run.size && size.is_multiple_of(GRANULE));
        let upper = self.record(Run {
            offset: run.offset + size,
            size: run.size - size,
            below: id,
            in_bin_previous: NONE,
            in_bin_next: NONE,
            ..run
        });
        if run.above != NONE {
            self.get_mut(run.above).below = upper;
        }
        let lower = self.get_mut(id);
        lower.size = size;
        lower.above = upper;
        upper
    }

    /// Joins `id` with the run above it; neither is listed. The lower id stays.
    fn join(&mut self, id: RunId) {
        let upper_id = self.get(id).above;
        let upper = *self.get(upper_id);
        if upper.above != NONE {
            self.get_mut(upper.above).below = id;
        }
        self.get_mut(upper_id).state = State::Vacant;
        self.vacant.push(upper_id);
        let lower = self.get_mut(id);
        lower.size += upper.size;
        lower.above = upper.above;
        #[cfg(test)]
        if crate::planted::is_planted(crate::planted::Bug::StaleFence) {
            lower.fence = lower.fence.min(upper.fence);
            return;
        }
        lower.fence = lower.fence.max(upper.fence);
    }

    fn list(&mut self, id: RunId) {
        let run = *self.get(id);
        match run.state {
            State::Free => {
                let tag = run.tag as usize;
                if tag >= self.bins.len() {
                    self.bins.resize_with(tag + 1, Bins::default);
                    self.free_bytes.resize(tag + 1, 0);
                }
                let bin = bin_of(run.size);
                let head = self.bins[tag].head(bin);
                if head != NONE {
                    self.get_mut(head).in_bin_previous = id;
                }
                let entry = self.get_mut(id);
                entry.in_bin_previous = NONE;
                entry.in_bin_next = head;
                self.bins[tag].set_head(bin, id);
                self.free_bytes[tag] += run.size;
                if run.tag == READY {
                    self.idle_bytes += run.idle();
                }
            }
            State::Unmapped => {
                self.unmapped.insert((run.offset, id));
            }
            State::Used | State::Vacant => {}
        }
    }

    fn unlist(&mut self, id: RunId) {
        let run = *self.get(id);
        match run.state {
            State::Free => {
                let tag = run.tag as usize;
                if run.in_bin_previous == NONE {
                    self.bins[tag].set_head(bin_of(run.size), run.in_bin_next);
                } else {
                    self.get_mut(run.in_bin_previous).in_bin_next = run.in_bin_next;
                }
                if run.in_bin_next != NONE {
                    self.get_mut(run.in_bin_next).in_bin_previous = run.in_bin_previous;
                }
                self.free_bytes[tag] -= run.size;
                if run.tag == READY {
                    self.idle_bytes -= run.idle();
                }
            }
            State::Unmapped => {
                self.unmapped.remove(&(run.offset, id));
            }
            State::Used | State::Vacant => {}
        }
    }

    /// Gives `id` (not listed) a state and lists it, joined with neighbours that are the
    /// same. Returns the run it has become part of.
    fn settle(&mut self, mut id: RunId, state: State, tag: u32, fence: u64) -> RunId {
        let run = self.get_mut(id);
        (run.state, run.tag, run.fence) = (state, tag, fence);
        if state != State::Used {
            let alike = |other: &Run| other.state == state && other.tag == tag;
            let above = self.get(id).above;
            if above != NONE && alike(self.get(above)) {
                self.unlist(above);
                self.join(id);
            }
            let below = self.get(id).below;
            if below != NONE && alike(self.get(below)) {
                self.unlist(below);
                self.join(below);
                id = below;
            }
        }
        self.list(id);
        id
    }

    /// Cuts `[from, to)` out of `id` (not listed) and settles what is left over on both
    /// sides as it was. Returns the middle, not listed.
    fn carve(&mut self, mut id: RunId, from: u64, to: u64) -> RunId {
        let run = *self.get(id);
        debug_assert!(run.offset <= from && from < to && to <= run.end());
        #[cfg(test)]
        if crate::planted::is_planted(crate::planted::Bug::BareRemainder) {
            self.get_mut(id).fence = 0;
        }
        if to < run.end() {
            let rest = self.cut(id, to - run.offset);
            self.list(rest);
        }
        if from > run.offset {
            let middle = self.cut(id, from - run.offset);
            self.list(id);
            id = middle;
        }
        id
    }

    /// The first offset from `offset` on whose address is a multiple of `alignment`, a power of
    /// two.
    pub fn align(&self, offset: u64, alignment: u64) -> u64 {
        // With masks: a division for every run looked at would be most of a search.
        debug_assert!(alignment.is_power_of_two());
        ((offset + self.origin + alignment - 1) & !(alignment - 1)) - self.origin
    }

    /// The last offset up to `offset` whose address is a multiple of `alignment`, a power of
    /// two.
    pub fn align_down(&self, offset: u64, alignment: u64) -> Option<u64> {
        debug_assert!(alignment.is_power_of_two());
        ((offset + self.origin) & !(alignment - 1)).checked_sub(self.origin)
    }

    /// Says at which address offset 0 is, modulo a number that every alignment divides.
    pub fn set_origin(&mut self, origin: u64) {
        self.origin = origin;
    }

    /// Takes `size` bytes at `alignment` from the best fitting free run of `tag`. The run
    /// that is returned is used.
    pub fn take(&mut self, tag: u32, size: u64, alignment: u64) -> Option<RunId> {
        let id = self.best_fit(tag, size, alignment)?;
        Some(self.take_from(id, size, alignment))
    }

    /// As [`Runs::take`], from the better fitting run of `tag` or of what is ready. To take from
    /// `tag` as long as it has something costs twice the pages moved: large runs that stay
    /// whole would have been of use.
    pub fn take_better(&mut self, tag: u32, size: u64, alignment: u64) -> Option<RunId> {
        let own = self.best_fit(tag, size, alignment);
        if let Some(own) = own
            && self.get(own).size == size
        {
            return Some(self.take_from(own, size, alignment));
        }
        let ready = self.best_fit(READY, size, alignment);
        let id = match (own, ready) {
            (Some(own), Some(ready)) if self.get(ready).size < self.get(own).size => ready,
            (own, ready) => own.or(ready)?,
        };
        Some(self.take_from(id, size, alignment))
    }

    #[inline(always)]
    fn take_from(&mut self, id: RunId, size: u64, alignment: u64) -> RunId {
        let from = self.align(self.get(id).offset, alignment);
        let run = self.get(id);
        if from == run.offset && run.size > size && bin_of(run.size - size) == bin_of(run.size) {
            self.take_lower(id, size);
            return id;
        }
        self.unlist(id);
        let id = self.carve(id, from, from + size);
        self.get_mut(id).state = State::Used;
        id
    }

    /// Cuts the first `size` bytes off the free run `id`, for use. The rest, which falls into the
    /// same bin, takes its place in the list there.
    fn take_lower(&mut self, id: RunId, size: u64) {
        let run = *self.get(id);
        let rest = self.cut(id, size);
        let entry = self.get_mut(rest);
        entry.in_bin_previous = run.in_bin_previous;
        entry.in_bin_next = run.in_bin_next;
        if run.in_bin_previous == NONE {
            self.bins[run.tag as usize].set_head(bin_of(run.size), rest);
        } else {
            self.get_mut(run.in_bin_previous).in_bin_next = rest;
        }
        if run.in_bin_next != NONE {
            self.get_mut(run.in_bin_next).in_bin_previous = rest;
        }
        self.free_bytes[run.tag as usize] -= size;
        if run.tag == READY {
            self.idle_bytes -= run.idle() - self.get(rest).idle();
        }
        self.get_mut(id).state = State::Used;
    }

    fn best_fit(&self, tag: u32, size: u64, alignment: u64) -> Option<RunId> {
        let bins = self.bins.get(tag as usize)?;
        let mut bin = bins.next_filled(bin_of(size))?;
        // Twice: the bin in which the size itself falls may hold nothing that is large
        // enough, any bin above it does, unless the alignment eats it up.
        loop {
            let mut best = NONE;
            let mut best_size = u64::MAX;
            let mut at = bins.head(bin);
            for _ in 0..LOOK_AT {
                if at == NONE {
                    break;
                }
                let run = self.get(at);
                let from = self.align(run.offset, alignment);
                if from.saturating_add(size) <= run.end() && run.size < best_size {
                    (best, best_size) = (at, run.size);
                    if run.size == size {
                        break;
                    }
                }
                at = run.in_bin_next;
            }
            if best != NONE {
                return Some(best);
            }
            bin = bins.next_filled(bin + 1)?;
        }
    }

    /// Frees the used run `id` under `tag`, to be passed at `fence`.
    pub fn give(&mut self, id: RunId, tag: u32, fence: u64) {
        debug_assert_eq!(self.get(id).state, State::Used);
        self.settle(id, State::Free, tag, fence);
    }

    /// Cuts the used run `id` down to its first `size` bytes; the rest is freed.
    pub fn shrink(&mut self, id: RunId, size: u64, tag: u32, fence: u64) {
        let rest = self.cut(id, size);
        self.settle(rest, State::Free, tag, fence);
    }

    /// Grows the used run `id` to `size` bytes when the run above it is free under `tag` or
    /// ready, and large enough.
    pub fn extend(&mut self, id: RunId, size: u64, tag: u32) -> bool {
        let run = *self.get(id);
        let above = run.above;
        if above == NONE {
            return false;
        }
        let next = *self.get(above);
        let usable = next.state == State::Free && (next.tag == tag || next.tag == READY);
        let missing = size - run.size;
        if !usable || next.size < missing {
            return false;
        }
        self.unlist(above);
        let part = self.carve(above, next.offset, next.offset + missing);
        self.get_mut(part).state = State::Used;
        self.join(id);
        true
    }

    /// Makes every run of `tag` whose fence is at most `passed` ready.
    pub fn pass(&mut self, tag: u32, passed: u64) {
        self.retag(tag, passed, READY, 0);
    }

    /// Gives every free run of `tag` whose fence is at most `passed` the tag `to` and the
    /// fence `fence`.
    pub fn retag(&mut self, tag: u32, passed: u64, to: u32, fence: u64) {
        if tag == READY || tag == to || self.free_bytes(tag) == 0 {
            return;
        }
        let bins = &self.bins[tag as usize];
        let mut ready = Vec::new();
        let mut bin = bins.next_filled(0);
        while let Some(at) = bin {
            let mut id = bins.head(at);
            while id != NONE {
                let run = self.get(id);
                if run.fence <= passed {
                    ready.push(id);
                }
                id = run.in_bin_next;
            }
            bin = bins.next_filled(at + 1);
        }
        for id in ready {
            self.unlist(id);
            self.settle(id, State::Free, to, fence);
        }
    }

    /// The latest fence of a free run of `tag`.
    pub fn latest_fence(&self, tag: u32) -> Option<u64> {
        let bins = self.bins.get(tag as usize)?;
        let mut latest = None;
        let mut bin = bins.next_filled(0);
        while let Some(at) = bin {
            let mut id = bins.head(at);
            while id != NONE {
                latest = latest.max(Some(self.get(id).fence));
                id = self.get(id).in_bin_next;
            }
            bin = bins.next_filled(at + 1);
        }
        latest
    }

    /// The largest run that is free and ready, or `NONE`.
    pub fn largest(&self, tag: u32) -> RunId {
        let Some(bins) = self.bins.get(tag as usize) else { return NONE };
        let Some(bin) = bins.last_filled() else { return NONE };
        let mut best = bins.head(bin);
        let mut at = best;
        while at != NONE {
            if self.get(at).size > self.get(best).size {
                best = at;
            }
            at = self.get(at).in_bin_next;
        }
        best
    }

    /// The run that `offset` lies in.
    pub fn at(&self, offset: u64) -> RunId {
        let found = self.iter().find(|(_, run)| offset < run.end());
        found.map_or(NONE, |(id, _)| id)
    }

    /// The ready run with the most whole pages inside.
    pub fn idle_run(&self) -> Option<RunId> {
        self.idle_run_outside((0, 0))
    }

    /// As [`Runs::idle_run`], of those that have nothing in the addresses `(from, end)`.
    pub fn idle_run_outside(&self, (from, outside): (u64, u64)) -> Option<RunId> {
        let bins = &self.bins[READY as usize];
        let mut bin = bins.last_filled();
        while let Some(at) = bin {
            let (mut best, mut best_pages) = (NONE, 0);
            let mut id = bins.head(at);
            while id != NONE {
                let run = self.get(id);
                let (first, end) = run.pages();
                let inside = from < run.end() && run.offset < outside;
                if end - first > best_pages && !inside {
                    (best, best_pages) = (id, end - first);
                }
                id = run.in_bin_next;
            }
            if best != NONE {
                return Some(best);
            }
            if bin_of(PAGE) > at {
                return None;
            }
            bin = bins.last_filled_below(at);
        }
        None
    }

    /// Marks `[from, to)`, which lies in one free or unmapped run, as used. What it was is
    /// for the caller to remember.
    pub fn claim(&mut self, id: RunId, from: u64, to: u64) -> RunId {
        debug_assert!(matches!(self.get(id).state, State::Free | State::Unmapped));
        self.unlist(id);
        let id = self.carve(id, from, to);
        self.get_mut(id).state = State::Used;
        id
    }

    /// Joins used run `id` with the used run above it.
    pub fn join_used(&mut self, id: RunId) {
        debug_assert_eq!(self.get(id).state, State::Used);
        debug_assert_eq!(self.get(self.get(id).above).state, State::Used);
        self.join(id);
    }

    /// Cuts used run `id` after `size` bytes; both parts are used.
    pub fn cut_used(&mut self, id: RunId, size: u64) -> RunId {
        debug_assert_eq!(self.get(id).state, State::Used);
        self.cut(id, size)
    }

    /// Notes which slab the used run `id` is cut into (`NONE`: no slab any more).
    pub fn set_slab(&mut self, id: RunId, slab: u32) {
        self.get_mut(id).slab = slab;
    }

    /// Declares the used run `id` to be addresses without pages.
    pub fn unmap(&mut self, id: RunId) {
        debug_assert_eq!(self.get(id).state, State::Used);
        self.settle(id, State::Unmapped, READY, 0);
    }

    /// Checks the list, the bins and the sums.
    pub fn validate(&self, bytes: u64) -> Result<(), String> {
        let mut at = 0;
        let mut seen = 0;
        let mut free = vec![0u64; self.free_bytes.len()];
        let mut idle = 0;
        let mut listed = 0usize;
        let mut unmapped = 0usize;
        let mut previous: Option<(RunId, Run)> = None;
        for (id, run) in self.iter() {
            seen += 1;
            if seen > self.runs.len() {
                return Err("the list of runs has a cycle".into());
            }
            if run.offset != at || run.size == 0 || run.offset % GRANULE != 0 {
                return Err(format!("run {id} begins at {}, expected {at}", run.offset));
            }
            if run.below != previous.map_or(NONE, |(below, _)| below) {
                return Err(format!("run {id}: wrong neighbour below"));
            }
            if let Some((below, last)) = previous
                && run.state != State::Used
                && (last.state, last.tag) == (run.state, run.tag)
            {
                return Err(format!("runs {below} and {id} should be one"));
            }
            match run.state {
                State::Free => {
                    free[run.tag as usize] += run.size;
                    listed += 1;
                    if run.tag == READY {
                        idle += run.pages().1 - run.pages().0;
                    }
                }
                State::Unmapped => {
                    unmapped += 1;
                    if run.offset % PAGE != 0 || run.size % PAGE != 0 {
                        return Err(format!("unmapped run {id} is not of whole pages"));
                    }
                    if !self.unmapped.contains(&(run.offset, id)) {
                        return Err(format!("unmapped run {id} is not listed"));
                    }
                }
                State::Used => {}
                State::Vacant => return Err(format!("run {id} is vacant but in the list")),
            }
            at = run.end();
            previous = Some((id, *run));
        }
        if at != bytes {
            return Err(format!("runs end at {at}, the arena at {bytes}"));
        }
        if seen + self.vacant.len() != self.runs.len() {
            return Err("a run record was lost".into());
        }
        if free != self.free_bytes || idle != self.idle_bytes || unmapped != self.unmapped.len() {
            return Err(format!("sums: free {free:?} != {:?}, or idle {idle}", self.free_bytes));
        }
        for (tag, bins) in self.bins.iter().enumerate() {
            let mut bin = bins.next_filled(0);
            while let Some(number) = bin {
                let (mut id, mut before) = (bins.head(number), NONE);
                while id != NONE {
                    let run = self.get(id);
                    let right = run.state == State::Free
                        && run.tag as usize == tag
                        && bin_of(run.size) == number
                        && run.in_bin_previous == before;
                    if !right || listed == 0 {
                        return Err(format!("run {id} is listed wrongly under tag {tag}"));
                    }
                    listed -= 1;
                    (before, id) = (id, run.in_bin_next);
                }
                bin = bins.next_filled(number + 1);
            }
        }
        if listed != 0 {
            return Err(format!("{listed} free runs are in no bin"));
        }
        Ok(())
    }
}
