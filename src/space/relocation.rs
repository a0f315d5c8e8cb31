//! Growth of a run that is in use: upwards where it is, or at other addresses, to which its
//! whole pages go along. Neither needs a second copy of what is in it.
//!
//! Pages can only go where they lie alike: a run begins at a multiple of [`super::GRANULE`],
//! and its new place is as far behind the start of a page as the old one is. What it has of its
//! first and last page is for the caller to copy.

use super::{Growth, NONE, PAGE, READY, Run, RunId, Space, State, Window};

impl Space {
    /// The addresses that the used run `run` lacks to be `size` bytes, right above it; nothing
    /// is changed. `None` when they are not all free for `tag`.
    pub fn room_above(&self, run: RunId, size: u64, tag: u32) -> Option<Window> {
        let Run { size: old, above, .. } = *self.runs.get(run);
        let offset = self.runs.get(run).end();
        let pages = self.missing_above(above, offset + size - old, tag)?;
        Some(Window { offset, size: size - old, pages, first: above })
    }

    /// Bytes of pages that are missing from the start of run `first` up to `end`; `None` when
    /// not all of it is free for `tag`.
    fn missing_above(&self, first: RunId, end: u64, tag: u32) -> Option<u64> {
        let (mut at, mut pages) = (first, 0);
        loop {
            if at == NONE {
                return None;
            }
            let run = *self.runs.get(at);
            if run.state == State::Unmapped {
                pages += end.next_multiple_of(PAGE).min(run.end()) - run.offset;
            } else if !is_free_for(&run, tag) {
                return None;
            }
            if run.end() >= end {
                return Some(pages);
            }
            at = run.above;
        }
    }

    /// Where the used run `run` could have `size` bytes with its whole pages moved there, for
    /// the fewest pages beside those; nothing is changed.
    pub fn relocation_window(&self, run: RunId, size: u64, tag: u32) -> Option<Window> {
        let old = *self.runs.get(run);
        let (first_page, end_page) = old.pages();
        let carried = end_page - first_page;
        // How much of a page lies below the run's first whole page.
        let head = first_page - old.offset;
        let mut best: Option<(u64, u64, Window)> = None;
        for &(start, id) in &self.runs.unmapped {
            let free = *self.runs.get(id);
            let below = free.below;
            // The head in a free rest of a page right below, or else in a page of its own.
            let rest = head > 0 && below != NONE && {
                let below = self.runs.get(below);
                is_free_for(below, tag) && below.size >= head
            };
            let whole = if head == 0 || rest { start } else { start + PAGE };
            if whole + carried > free.end() {
                continue;
            }
            let offset = whole - head;
            let Some(pages) = self.missing_above(id, offset + size, tag) else { continue };
            let pages = pages - carried;
            if best.is_none_or(|(least, room, _)| (pages, free.size) < (least, room)) {
                let first = if rest { below } else { id };
                best = Some((pages, free.size, Window { offset, size, pages, first }));
            }
        }
        best.map(|(_, _, window)| window)
    }

    /// Holds the addresses of `window`, which must be fresh from [`Space::relocation_window`]
    /// for the used run `run`, as [`Space::begin_growth`] does. Ends with
    /// [`Space::finish_relocation`] or [`Space::abort_growth`].
    pub fn begin_relocation(&mut self, run: RunId, window: Window, move_bytes: u64) -> Growth {
        let old = *self.runs.get(run);
        let (first, end) = old.pages();
        let to = first - old.offset + window.offset;
        self.begin(window, move_bytes, Some((first, to, end - first)), (0, 0))
    }

    /// The whole pages of the used run `run` are in its new place, which becomes a run of its
    /// own. What is left of the old one is free for `tag`, for others once `fence` is passed.
    pub fn finish_relocation(&mut self, growth: Growth, run: RunId, tag: u32, fence: u64) -> RunId {
        let old = *self.runs.get(run);
        self.map.remove(old.offset);
        self.used_bytes -= old.size;
        let fresh = self.finish_growth(growth);
        let (first, end) = old.pages();
        if old.end() > end {
            let tail = self.runs.cut_used(run, end - old.offset);
            self.runs.give(tail, tag, fence);
        }
        let head = first > old.offset;
        let pages = if head { self.runs.cut_used(run, first - old.offset) } else { run };
        self.mapped_bytes -= end - first;
        self.runs.unmap(pages);
        if head {
            self.runs.give(run, tag, fence);
        }
        fresh
    }

    /// The pages above the used run `run` are there: they are its own.
    pub fn finish_growth_above(&mut self, growth: Growth, run: RunId) {
        let (_, bytes) = growth.block();
        self.settle_growth(growth);
        self.runs.join_used(run);
        self.used_bytes += bytes;
    }
}

fn is_free_for(run: &Run, tag: u32) -> bool {
    run.state == State::Free && (run.tag == tag || run.tag == READY)
}
