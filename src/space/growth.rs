//! Growth: putting pages under addresses that are free but have none, in two halves.
//!
//! [`Space::begin_growth`] chooses the addresses and holds them, so that the device can be
//! asked for pages without a lock; [`Space::finish_growth`] or [`Space::abort_growth`] ends
//! it. Pages come fresh from the device or are moved from where they lie idle.

use super::{NONE, PAGE, READY, Run, RunId, SlabId, Space, State};

/// Addresses that are about to get pages.
#[derive(Debug)]
pub struct Growth {
    hold: RunId,
    /// What the held addresses were, in order.
    pieces: Vec<Piece>,
    /// The block inside the held addresses: first byte, bytes.
    want: (u64, u64),
    /// `(offset, bytes)` that get fresh pages, whole pages.
    pub fresh: Vec<(u64, u64)>,
    /// `(from, to, bytes)`: idle pages that move, whole pages.
    pub moved: Vec<(u64, u64, u64)>,
    /// `(from, to, bytes)`: whole pages of a block that go with it, see
    /// [`Space::begin_relocation`]. They move last: then nothing can fail behind them.
    pub carried: Option<(u64, u64, u64)>,
    /// The runs that the moved pages come from.
    donors: Vec<RunId>,
}

impl Growth {
    /// Bytes of fresh pages.
    pub fn fresh_bytes(&self) -> u64 {
        self.fresh.iter().map(|&(_, bytes)| bytes).sum()
    }

    /// Bytes of moved pages.
    pub fn moved_bytes(&self) -> u64 {
        self.moved.iter().chain(&self.carried).map(|&(_, _, bytes)| bytes).sum()
    }

    /// The block inside the held addresses: first byte, bytes.
    pub fn block(&self) -> (u64, u64) {
        self.want
    }
}

/// Addresses for a block, found by [`Space::best_window`].
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes of pages that are missing in it.
    pub pages: u64,
    pub(super) first: RunId,
}

/// What a part of the held addresses was before.
#[derive(Clone, Copy, Debug)]
struct Piece {
    size: u64,
    mapped: bool,
    tag: u32,
    fence: u64,
}

/// A stretch of addresses that nobody uses.
struct Region {
    segments: Vec<(RunId, Run)>,
    /// Bytes without pages before each segment, and at last before the region's end.
    before: Vec<u64>,
    end: u64,
}

impl Region {
    /// The segment that `offset` lies in.
    fn segment_at(&self, offset: u64) -> usize {
        self.segments.partition_point(|(_, run)| run.end() <= offset)
    }

    /// Bytes without pages in the region below `offset`, counting a page that `offset` cuts
    /// as whole (`up`) or not at all.
    fn unmapped_below(&self, offset: u64, up: bool) -> u64 {
        let at = self.segment_at(offset);
        let Some((_, run)) = self.segments.get(at) else {
            return self.before.last().copied().unwrap_or(0);
        };
        let into = offset.saturating_sub(run.offset);
        let part = if run.state != State::Unmapped {
            0
        } else if up {
            into.next_multiple_of(PAGE)
        } else {
            into / PAGE * PAGE
        };
        self.before[at] + part
    }
}

impl Space {
    /// Chooses where `size` bytes at `alignment` for `tag` need the fewest new pages; nothing
    /// is changed. `None` when the addresses are too cut up, or used up.
    pub fn best_window(&self, size: u64, alignment: u64, tag: u32) -> Option<Window> {
        let mut best: Option<Window> = None;
        let mut done = 0;
        for &(offset, id) in &self.runs.unmapped {
            if offset < done {
                continue;
            }
            let region = self.region_around(id, tag);
            let start = region.segments[0].1.offset;
            done = region.end;
            if done - start < size {
                continue;
            }
            for (_, segment) in &region.segments {
                let lowest = self.runs.align(segment.offset, alignment);
                let highest = self.runs.align_down(segment.end().saturating_sub(size), alignment);
                for from in std::iter::once(lowest).chain(highest) {
                    if from < start || from.checked_add(size).is_none_or(|end| end > done) {
                        continue;
                    }
                    let pages = region.unmapped_below(from + size, true)
                        - region.unmapped_below(from, false);
                    if best.as_ref().is_none_or(|best| (pages, from) < (best.pages, best.offset)) {
                        let first = region.segments[region.segment_at(from)].0;
                        best = Some(Window { offset: from, size, pages, first });
                    }
                }
            }
        }
        best
    }

    fn region_around(&self, id: RunId, tag: u32) -> Region {
        let usable = |run: &Run| match run.state {
            State::Unmapped => true,
            State::Free => run.tag == tag || run.tag == READY,
            State::Used | State::Vacant => false,
        };
        let mut first = id;
        loop {
            let below = self.runs.get(first).below;
            if below == NONE || !usable(self.runs.get(below)) {
                break;
            }
            first = below;
        }
        let mut region = Region { segments: Vec::new(), before: vec![0], end: 0 };
        let (mut at, mut sum) = (first, 0);
        while at != NONE && usable(self.runs.get(at)) {
            let run = *self.runs.get(at);
            sum += if run.state == State::Unmapped { run.size } else { 0 };
            region.segments.push((at, run));
            region.before.push(sum);
            region.end = run.end();
            at = run.above;
        }
        region
    }

    /// The addresses from `from` on, at most up to `end`, that lack at most `pages` bytes of
    /// pages. `None` when somebody uses some of them; both ends are multiples of [`PAGE`].
    pub fn window_from(&self, from: u64, end: u64, pages: u64) -> Option<Window> {
        let first = self.runs.at(from);
        let (mut at, mut reached, mut missing) = (first, from, 0);
        while reached < end {
            let run = self.runs.get(at);
            let to = run.end().min(end);
            match run.state {
                State::Free if run.tag == READY => reached = to,
                State::Unmapped if missing + (to - reached) > pages => {
                    reached += pages - missing;
                    missing = pages;
                    break;
                }
                State::Unmapped => {
                    missing += to - reached;
                    reached = to;
                }
                State::Free | State::Used | State::Vacant => return None,
            }
            at = run.above;
        }
        let size = reached - from;
        (size > 0).then_some(Window { offset: from, size, pages: missing, first })
    }

    /// As [`Space::begin_growth`], of a part of `(from, end)`, whose idle pages stay where they
    /// are.
    pub fn begin_growth_within(&mut self, window: Window, whole: (u64, u64)) -> Growth {
        self.begin(window, window.pages, None, whole)
    }

    /// Holds the addresses of `window`, which must be fresh from [`Space::best_window`], and
    /// up to `move_bytes` of idle pages from elsewhere to be moved there; the rest gets fresh
    /// pages.
    pub fn begin_growth(&mut self, window: Window, move_bytes: u64) -> Growth {
        self.begin(window, move_bytes, None, (0, 0))
    }

    /// As [`Space::begin_growth`], with pages that are `carried` along: `(from, to, bytes)`,
    /// the target in one piece of addresses without pages. None of the idle pages that are moved
    /// are from the addresses `but`.
    pub(super) fn begin(
        &mut self,
        window: Window,
        move_bytes: u64,
        carried: Option<(u64, u64, u64)>,
        but: (u64, u64),
    ) -> Growth {
        let end = window.offset + window.size;
        let mut pieces = Vec::new();
        let mut holes = Vec::new();
        let mut hold = NONE;
        let mut at = window.first;
        loop {
            let run = *self.runs.get(at);
            let (mut from, mut to) = (window.offset.max(run.offset), end.min(run.end()));
            if run.state == State::Unmapped {
                (from, to) = (from / PAGE * PAGE, to.next_multiple_of(PAGE));
                match carried.filter(|&(_, at, _)| from <= at && at < to) {
                    Some((_, at, bytes)) => {
                        debug_assert!(at + bytes <= to);
                        holes.extend([(from, at - from), (at + bytes, to - at - bytes)]);
                    }
                    None => holes.push((from, to - from)),
                }
            }
            let claimed = self.runs.claim(at, from, to);
            pieces.push(Piece {
                size: to - from,
                mapped: run.state != State::Unmapped,
                tag: run.tag,
                fence: run.fence,
            });
            at = self.runs.get(claimed).above;
            if hold == NONE {
                hold = claimed;
            } else {
                self.runs.join_used(hold);
            }
            if to >= end {
                break;
            }
        }
        let mut growth = Growth {
            hold,
            pieces,
            want: (window.offset, window.size),
            fresh: Vec::new(),
            moved: Vec::new(),
            carried,
            donors: Vec::new(),
        };
        self.choose_pages(&mut growth, holes, move_bytes, but);
        self.mapped_bytes += growth.fresh_bytes() + growth.moved_bytes();
        self.moving_bytes += growth.moved_bytes();
        growth
    }

    /// Divides `holes`, of which some may be empty, between idle pages from elsewhere and fresh ones.
    fn choose_pages(
        &mut self,
        growth: &mut Growth,
        holes: Vec<(u64, u64)>,
        move_bytes: u64,
        but: (u64, u64),
    ) {
        let mut left = move_bytes / PAGE * PAGE;
        for (mut at, mut bytes) in holes {
            while bytes > 0 && left > 0 {
                let Some(donor) = self.runs.idle_run_outside(but) else { break };
                let run = *self.runs.get(donor);
                let (first, end) = run.pages();
                let take = bytes.min(left).min(end - first);
                // From the side that borders on addresses without pages, so that those stay
                // in one piece.
                let unmapped_below =
                    run.below != NONE && self.runs.get(run.below).state == State::Unmapped;
                let from = if unmapped_below { first } else { end - take };
                growth.donors.push(self.runs.claim(donor, from, from + take));
                growth.moved.push((from, at, take));
                (at, bytes, left) = (at + take, bytes - take, left - take);
            }
            if bytes > 0 {
                growth.fresh.push((at, bytes));
            }
        }
    }

    /// The pages are there: returns the used run of the wanted size, which is in no map yet.
    /// What was mapped beyond it is free.
    pub(super) fn settle_growth(&mut self, growth: Growth) -> RunId {
        self.moving_bytes -= growth.moved_bytes();
        for donor in growth.donors {
            self.mapped_bytes -= self.runs.get(donor).size;
            self.runs.unmap(donor);
        }
        let (offset, size) = growth.want;
        let mut run = growth.hold;
        let Run { offset: start, .. } = *self.runs.get(run);
        if offset > start {
            let upper = self.runs.cut_used(run, offset - start);
            self.runs.give(run, READY, 0);
            run = upper;
        }
        if self.runs.get(run).size > size {
            let rest = self.runs.cut_used(run, size);
            self.runs.give(rest, READY, 0);
        }
        run
    }

    /// The pages are there: the held addresses become a run of its own.
    pub fn finish_growth(&mut self, growth: Growth) -> RunId {
        let run = self.settle_growth(growth);
        let Run { offset, size, .. } = *self.runs.get(run);
        self.used_bytes += size;
        self.map.insert(offset, run);
        run
    }

    /// The pages are there: the held addresses become a slab of `class` for `tag`.
    pub fn finish_growth_slab(&mut self, growth: Growth, class: usize, tag: u32) -> SlabId {
        let run = self.settle_growth(growth);
        self.used_bytes += self.runs.get(run).size;
        self.slab_in(run, class, tag)
    }

    /// The pages are there: the held addresses, which were ready or without pages, become
    /// free.
    pub fn finish_growth_free(&mut self, growth: Growth) {
        let run = self.settle_growth(growth);
        self.runs.give(run, READY, 0);
    }

    /// The pages did not come: everything is as before [`Space::begin_growth`].
    pub fn abort_growth(&mut self, growth: Growth) {
        self.mapped_bytes -= growth.fresh_bytes() + growth.moved_bytes();
        self.moving_bytes -= growth.moved_bytes();
        for donor in growth.donors {
            self.runs.give(donor, READY, 0);
        }
        let mut at = growth.hold;
        for (number, piece) in growth.pieces.iter().enumerate() {
            let more = number + 1 < growth.pieces.len();
            let upper = if more { self.runs.cut_used(at, piece.size) } else { NONE };
            if piece.mapped {
                self.runs.give(at, piece.tag, piece.fence);
            } else {
                self.runs.unmap(at);
            }
            at = upper;
        }
    }

    /// Takes up to `bytes` of idle pages out of use, to be given back to the device, the
    /// largest runs first. The ranges are held until [`Space::finish_release`] or
    /// [`Space::abort_release`].
    pub fn begin_release(&mut self, bytes: u64) -> Vec<(RunId, u64, u64)> {
        let mut left = bytes / PAGE * PAGE;
        let mut taken = Vec::new();
        while left > 0 {
            let Some(id) = self.runs.idle_run() else { break };
            let (first, end) = self.runs.get(id).pages();
            let take = left.min(end - first);
            let run = self.runs.claim(id, end - take, end);
            taken.push((run, end - take, take));
            left -= take;
        }
        taken
    }

    /// The pages of a held range were given back.
    pub fn finish_release(&mut self, run: RunId) {
        self.mapped_bytes -= self.runs.get(run).size;
        self.runs.unmap(run);
    }

    /// The pages of a held range are kept after all.
    pub fn abort_release(&mut self, run: RunId) {
        self.runs.give(run, READY, 0);
    }
}
