//! What a trace says, in one pass: nothing is kept per event, and of blocks only those that live,
//! those that lived at the peak, and the largest.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;

use super::bins::{BINS, Spread, bin_of};
use super::footprint::Footprint;
use super::grid::Grid;
use super::rounding::Rounding;
use super::series::{Series, Values};
use crate::error::Result;
use crate::pool::Pool;
use crate::replay::Blocks;
use crate::space::GRANULE;
use crate::trace::{Action, Checker, Event, Faults, Meaning, NANOSECONDS_PER_DAY};

/// What runs from left to right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Axis {
    /// Nanoseconds since the first event.
    #[default]
    Time,
    /// Events since the first.
    Events,
}

/// Rectangles in the address map.
pub(super) const SHAPES: usize = 1200;
/// Streams, and threads, that are told apart.
const NAMES: usize = 1024;
/// Sizes that are told apart.
const SIZES: usize = 1 << 16;
/// Call sites that are told apart.
const SITES: usize = 1 << 14;
/// Blocks that are planned: 48 bytes each are kept for that.
pub(super) const PLANNED: usize = 1 << 20;

/// A block, from its allocation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) address: u64,
    pub(super) size: u64,
    /// When it began to live, on the axis and as the number of its event.
    pub(super) from: u64,
    pub(super) event: u64,
    /// Places in [`Survey::threads`], [`Survey::streams`] and [`Survey::sites`].
    pub(super) thread: u32,
    pub(super) stream: u32,
    pub(super) site: u32,
}

/// A block with its end, if there was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lived {
    pub(super) block: Block,
    pub(super) to: Option<u64>,
}

/// A rectangle of the address map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    /// Bytes times time. The first field: that is what shapes are kept by.
    area: u128,
    pub(super) address: u64,
    pub(super) size: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) freed: bool,
    /// Its place in [`Survey::tensors`].
    pub(super) tensor: Option<usize>,
}

/// A block as a plan sees it: by events, with the ends on the axis beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) lower: u64,
    pub(super) upper: u64,
    pub(super) size: u64,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// What there was of a size, a stream or a thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) allocations: u64,
    pub(super) frees: u64,
    /// Bytes of all those allocations.
    pub(super) bytes: u128,
    /// Blocks and bytes that live, and the most of each at a time.
    pub(super) live: u64,
    pub(super) live_bytes: u128,
    pub(super) most: u64,
    pub(super) most_bytes: u128,
    /// Blocks of others that were freed here, and their bytes.
    pub(super) foreign: u64,
    pub(super) foreign_bytes: u128,
    pub(super) failures: u64,
}

impl Tally {
    fn begin(&mut self, size: u64) {
        self.allocations += 1;
        self.bytes += u128::from(size);
        self.live += 1;
        self.live_bytes += u128::from(size);
        self.most = self.most.max(self.live);
        self.most_bytes = self.most_bytes.max(self.live_bytes);
    }

    fn end(&mut self, size: u64) {
        self.frees += 1;
        self.live -= 1;
        self.live_bytes -= u128::from(size);
    }
}

/// Tallies by name, in order of appearance. Beyond the limit all others have one.
#[derive(Clone, Debug)]
pub(super) struct Tallies<Name = u64> {
    places: HashMap<Name, u32>,
    limit: usize,
    /// None for all others.
    pub(super) all: Vec<(Option<Name>, Tally)>,
}

impl<Name: Hash + Eq> Tallies<Name> {
    fn new(limit: usize) -> Tallies<Name> {
        Tallies { places: HashMap::new(), limit, all: Vec::new() }
    }

    fn place<N>(&mut self, name: &N) -> u32
    where
        N: Hash + Eq + ToOwned<Owned = Name> + ?Sized,
        Name: Borrow<N>,
    {
        if let Some(&place) = self.places.get(name) {
            return place;
        }
        let place = self.all.len();
        if place > self.limit {
            return self.limit as u32;
        }
        // The last place is for all others.
        let others = place == self.limit;
        self.all.push(((!others).then(|| name.to_owned()), Tally::default()));
        if !others {
            self.places.insert(name.to_owned(), place as u32);
        }
        place as u32
    }

    fn tally(&mut self, place: u32) -> &mut Tally {
        &mut self.all[place as usize].1
    }
}

/// The moment at which most bytes were live, the first if there are several.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peak {
    pub(super) live: u64,
    /// Blocks that lived.
    pub(super) blocks: u64,
    pub(super) allocated: [u64; 2],
    pub(super) pages: u64,
    pub(super) event: u64,
    pub(super) at: u64,
}

/// A pool that does what the trace says, while it is read.
pub struct Beside<'a> {
    /// The pool. It has all its blocks back afterwards.
    pub pool: &'a Pool,
    /// The pool's stream for a number of the trace; called once for each, in order of appearance.
    pub stream: &'a mut dyn FnMut(u64) -> Result<usize>,
}

/// What became of that.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reserved {
    pub(super) most: u64,
    /// Allocations that the pool had no memory for.
    pub(super) refused: u64,
}

struct Follower<'a> {
    beside: Beside<'a>,
    blocks: Blocks<'a>,
    streams: HashMap<u64, usize>,
}

impl Follower<'_> {
    fn stream(&mut self, number: u64) -> Result<usize> {
        if let Some(&stream) = self.streams.get(&number) {
            return Ok(stream);
        }
        let stream = (self.beside.stream)(number)?;
        self.streams.insert(number, stream);
        Ok(stream)
    }
}

/// What a trace says.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) axis: Axis,
    pub(super) events: u64,
    /// Allocations and frees that make sense.
    pub(super) allocations: u64,
    pub(super) frees: u64,
    /// Bytes of all those allocations.
    pub(super) requested: u128,
    pub(super) failures: u64,
    pub(super) largest_failure: u64,
    /// From the first event to the last, in nanoseconds, and on the axis.
    pub(super) duration: u64,
    pub(super) extent: u64,
    pub(super) peak: Peak,
    /// The most pages that held something.
    pub(super) most_pages: u64,
    /// None without a pool that did the same.
    pub(super) reserved: Option<Reserved>,
    /// Blocks that lived at the peak, and those that live at the end; the largest first.
    pub(super) holders: Vec<Lived>,
    pub(super) left: Vec<Lived>,
    pub(super) series: Series,
    pub(super) grid: Grid,
    /// The largest rectangles, in no order.
    pub(super) shapes: Vec<Shape>,
    pub(super) bins: Vec<(Tally, Spread)>,
    pub(super) sizes: Tallies,
    pub(super) streams: Tallies,
    pub(super) threads: Tallies,
    /// What is not told has the empty name.
    pub(super) sites: Tallies<Vec<u8>>,
    /// None when there are more than [`PLANNED`].
    pub(super) tensors: Option<Vec<Tensor>>,
    /// Which of the numbers of [`Rounding`] is for this trace.
    pub(super) device: usize,
    pub(super) faults: Faults,
}

impl Survey {
    /// Whether the trace told of any allocation where it was asked for.
    pub(super) fn has_sites(&self) -> bool {
        self.sites.all.iter().any(|(site, _)| site.as_ref().is_none_or(|site| !site.is_empty()))
    }
}

/// A survey in the making.
pub(super) struct Surveyor<'a> {
    survey: Survey,
    checker: Checker,
    clock: Clock,
    rounding: Rounding,
    footprint: Footprint,
    /// By slot.
    blocks: Vec<Option<Block>>,
    now: Values,
    live: u128,
    allocated: [u128; 2],
    count: u64,
    departed: Vec<Lived>,
    largest: BinaryHeap<Reverse<Shape>>,
    aligned: bool,
    follower: Option<Follower<'a>>,
}

impl<'a> Surveyor<'a> {
    /// At most `buckets` of time, an even number.
    pub(super) fn new(axis: Axis, buckets: usize) -> Surveyor<'a> {
        Surveyor {
            survey: Survey {
                axis,
                events: 0,
                allocations: 0,
                frees: 0,
                requested: 0,
                failures: 0,
                largest_failure: 0,
                duration: 0,
                extent: 0,
                peak: Peak::default(),
                most_pages: 0,
                reserved: None,
                holders: Vec::new(),
                left: Vec::new(),
                series: Series::new(buckets),
                grid: Grid::new(),
                shapes: Vec::new(),
                bins: vec![Default::default(); BINS],
                sizes: Tallies::new(SIZES),
                streams: Tallies::new(NAMES),
                threads: Tallies::new(NAMES),
                sites: Tallies::new(SITES),
                tensors: Some(Vec::new()),
                device: Rounding::HOST,
                faults: Faults::default(),
            },
            checker: Checker::new(),
            clock: Clock::default(),
            rounding: Rounding::new(),
            footprint: Footprint::default(),
            blocks: Vec::new(),
            now: Values::default(),
            live: 0,
            allocated: [0; 2],
            count: 0,
            departed: Vec::new(),
            largest: BinaryHeap::new(),
            aligned: true,
            follower: None,
        }
    }

    /// The same, with a pool that does what the trace says.
    pub(super) fn beside(mut self, beside: Option<Beside<'a>>) -> Surveyor<'a> {
        self.survey.reserved = beside.is_some().then(Reserved::default);
        self.follower = beside.map(|beside| Follower {
            blocks: Blocks::of(Some(beside.pool)),
            beside,
            streams: HashMap::new(),
        });
        self
    }

    /// Takes the next event, which stands in this line; `site` is where the program asked, empty
    /// where that is not told.
    ///
    /// # Errors
    /// That of a stream that cannot be made, and the pool's own when it refuses to free a block.
    pub(super) fn add(&mut self, line: u64, event: &Event, site: &[u8]) -> Result<()> {
        let number = self.survey.events;
        self.survey.events += 1;
        self.survey.duration = self.clock.since_first(event.time);
        let at = match self.survey.axis {
            Axis::Time => self.survey.duration,
            Axis::Events => number,
        };
        self.survey.extent = at;
        let meaning = self.checker.check(line, event);
        self.follow(meaning, event)?;
        match meaning {
            Meaning::Allocate { slot } => self.allocate(slot, event, site, at, number),
            Meaning::Free { slot } => self.free(slot, event, at, number),
            Meaning::Nothing => {
                if event.action == Action::AllocateFailure {
                    self.fail(event);
                }
                self.survey.series.add(at, &self.now);
            }
        }
        Ok(())
    }

    /// Has the pool beside do the same.
    fn follow(&mut self, meaning: Meaning, event: &Event) -> Result<()> {
        let (Some(follower), Some(reserved)) = (&mut self.follower, &mut self.survey.reserved)
        else {
            return Ok(());
        };
        match meaning {
            Meaning::Allocate { slot } => {
                let stream = follower.stream(event.stream)?;
                let size = usize::try_from(event.size).unwrap_or(usize::MAX);
                reserved.refused += u64::from(!follower.blocks.alloc(slot, size, stream));
            }
            Meaning::Free { slot } => {
                let stream = follower.stream(event.stream)?;
                follower.blocks.free(slot, stream)?;
            }
            Meaning::Nothing => {}
        }
        self.now.reserved = follower.beside.pool.stats().reserved[0];
        reserved.most = reserved.most.max(self.now.reserved);
        Ok(())
    }

    fn allocate(&mut self, slot: usize, event: &Event, site: &[u8], at: u64, number: u64) {
        let Event { pointer: address, size, .. } = *event;
        let survey = &mut self.survey;
        let (thread, stream) =
            (survey.threads.place(&event.thread), survey.streams.place(&event.stream));
        survey.threads.tally(thread).begin(size);
        survey.streams.tally(stream).begin(size);
        let site = survey.sites.place(site);
        survey.sites.tally(site).begin(size);
        let place = survey.sizes.place(&size);
        survey.sizes.tally(place).begin(size);
        survey.bins[bin_of(size)].0.begin(size);
        survey.allocations += 1;
        survey.requested += u128::from(size);
        self.aligned &= address.is_multiple_of(GRANULE);
        if self.blocks.len() <= slot {
            self.blocks.resize(slot + 1, None);
        }
        let block = Block { address, size, from: at, event: number, thread, stream, site };
        self.blocks[slot] = Some(block);
        self.count += 1;
        self.change(address, size, true);
        if self.now.live > self.survey.peak.live || self.survey.allocations == 1 {
            self.survey.peak = Peak {
                live: self.now.live,
                blocks: self.count,
                allocated: self.now.allocated,
                pages: self.now.pages,
                event: number,
                at,
            };
            self.departed.clear();
        }
        self.survey.most_pages = self.survey.most_pages.max(self.now.pages);
        if let Some(bucket) = self.survey.series.add(at, &self.now) {
            bucket.allocations += 1;
            bucket.requested += u128::from(size);
        }
    }

    fn free(&mut self, slot: usize, event: &Event, at: u64, number: u64) {
        let Some(block) = self.blocks.get_mut(slot).and_then(Option::take) else { return };
        let survey = &mut self.survey;
        let (thread, stream) =
            (survey.threads.place(&event.thread), survey.streams.place(&event.stream));
        for (tallies, own, here) in [
            (&mut survey.threads, block.thread, thread),
            (&mut survey.streams, block.stream, stream),
        ] {
            tallies.tally(own).end(block.size);
            if own != here {
                let tally = tallies.tally(here);
                tally.foreign += 1;
                tally.foreign_bytes += u128::from(block.size);
            }
        }
        survey.sites.tally(block.site).end(block.size);
        let place = survey.sizes.place(&block.size);
        survey.sizes.tally(place).end(block.size);
        let (tally, lifetimes) = &mut survey.bins[bin_of(block.size)];
        tally.end(block.size);
        lifetimes.add(at - block.from);
        survey.frees += 1;
        self.count -= 1;
        self.change(block.address, block.size, false);
        let lived = Lived { block, to: Some(at) };
        if block.event <= self.survey.peak.event {
            self.departed.push(lived);
        }
        self.bury(&lived, at, number);
        if let Some(bucket) = self.survey.series.add(at, &self.now) {
            bucket.frees += 1;
        }
    }

    fn fail(&mut self, event: &Event) {
        let survey = &mut self.survey;
        survey.failures += 1;
        survey.largest_failure = survey.largest_failure.max(event.size);
        let thread = survey.threads.place(&event.thread);
        survey.threads.tally(thread).failures += 1;
        let stream = survey.streams.place(&event.stream);
        survey.streams.tally(stream).failures += 1;
    }

    /// What is the case after a block begins or ends to live.
    fn change(&mut self, address: u64, size: u64, begins: bool) {
        let short = |sum: u128| u64::try_from(sum).unwrap_or(u64::MAX);
        let add = |sum: u128, bytes: u64| match begins {
            true => sum + u128::from(bytes),
            false => sum - u128::from(bytes),
        };
        self.live = add(self.live, size);
        let blocks = self.rounding.blocks(size);
        for (sum, bytes) in self.allocated.iter_mut().zip(blocks) {
            *sum = add(*sum, bytes);
        }
        if size > 0 {
            self.footprint.change(address, size, begins);
        }
        self.now.live = short(self.live);
        self.now.allocated = self.allocated.map(short);
        self.now.pages = self.footprint.bytes();
        // By what the tally has: sums beyond 64 bits stay at the most.
        let bin = bin_of(size);
        self.now.held[bin] = short(self.survey.bins[bin].0.live_bytes);
    }

    /// What is kept of a block that has ended, or that is left at the end.
    fn bury(&mut self, lived: &Lived, to: u64, upper: u64) {
        let Block { address, size, from, event, .. } = lived.block;
        if size == 0 {
            return;
        }
        let survey = &mut self.survey;
        survey.grid.add(address, size, from, to);
        let mut tensor = None;
        if let Some(tensors) = &mut survey.tensors {
            tensor = Some(tensors.len());
            tensors.push(Tensor { lower: event, upper, size, from, to });
            if tensors.len() > PLANNED {
                survey.tensors = None;
            }
        }
        let area = u128::from(size) * u128::from(to - from);
        if area > 0 {
            let freed = lived.to.is_some();
            let shape = Shape { area, address, size, from, to, freed, tensor };
            if self.largest.len() < SHAPES {
                self.largest.push(Reverse(shape));
            } else if let Some(mut least) = self.largest.peek_mut()
                && least.0 < shape
            {
                *least = Reverse(shape);
            }
        }
    }

    /// What there is to say.
    pub(super) fn finish(mut self) -> Survey {
        // What is live at the last event lives a moment longer, so that it has an area.
        let end = self.survey.extent.saturating_add(1);
        self.survey.extent = end;
        let peak = self.survey.peak.event;
        let left: Vec<Lived> =
            self.blocks.iter().flatten().map(|&block| Lived { block, to: None }).collect();
        for lived in &left {
            self.bury(lived, end, self.survey.events);
        }
        let mut survey = self.survey;
        let mut holders = self.departed;
        holders.extend(left.iter().filter(|lived| lived.block.event <= peak));
        survey.holders = holders;
        survey.left = left;
        for blocks in [&mut survey.holders, &mut survey.left] {
            blocks.sort_unstable_by_key(|lived| (Reverse(lived.block.size), lived.block.event));
        }
        survey.shapes = self.largest.into_iter().map(|Reverse(shape)| shape).collect();
        survey.device = if self.aligned { Rounding::GPU } else { Rounding::HOST };
        survey.faults = self.checker.faults().clone();
        survey
    }
}

/// The times of day of a trace as time since its first event: they never go back, and go on over
/// midnight.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    first: Option<u64>,
    days: u64,
    last: u64,
    since: u64,
}

impl Clock {
    fn since_first(&mut self, time: u64) -> u64 {
        let first = *self.first.get_or_insert(time);
        // Half a day back is half a day on; less is threads that wrote out of turn.
        if time.saturating_add(NANOSECONDS_PER_DAY / 2) < self.last {
            self.days += 1;
        }
        self.last = time;
        let time = time.saturating_add(self.days.saturating_mul(NANOSECONDS_PER_DAY));
        self.since = self.since.max(time.saturating_sub(first));
        self.since
    }
}

#[cfg(test)]
mod clock_tests {
    use super::*;

    #[test]
    fn time_goes_on_over_midnight_and_never_back() {
        let mut clock = Clock::default();
        let hour = NANOSECONDS_PER_DAY / 24;
        let times = [23 * hour, 23 * hour + 5, 23 * hour + 3, 1, hour, 23 * hour, 2];
        let since = times.map(|time| clock.since_first(time));
        assert_eq!(since, [0, 5, 5, hour + 1, 2 * hour, 24 * hour, 25 * hour + 2]);
    }
}
