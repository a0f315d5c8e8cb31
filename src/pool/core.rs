//! What the threads of a pool share, under one lock: the space, the heads, and what waits
//! for streams. Nothing here calls the device.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::block::{BlockTable, Head, Heads, Word, state};
use super::budget::{Budget, Situation};
use super::graph::Expected;
use super::housekeeper;
use super::lane::Lane;
use super::policy::{Preset, TrimWhen};
use super::sleep::Sleep;
use super::stats::Sums;
use super::stock::Stock;
use crate::order::{Fence, Order, Stream};
use crate::space::{Place, READY, Space};

/// A block to be found: its place, its head and its number in it.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// The head, which stays where it is until the pool is gone.
    pub head: *const Head,
    /// The block's number in it.
    pub index: usize,
}

impl Block {
    /// Its head.
    pub fn head(&self) -> &Head {
        // SAFETY: heads stay where they are until the pool is gone, and blocks are only used
        // by calls into the pool.
        unsafe { &*self.head }
    }

    /// Its first byte.
    pub fn address(&self) -> usize {
        self.head().address(self.index)
    }

    fn place(&self) -> Place {
        if self.head().is_large() {
            Place::Large { run: self.head().id() }
        } else {
            Place::Small { slab: self.head().id(), index: self.index as u32 }
        }
    }
}

/// What kind of block an allocation needs.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Bytes asked for.
    pub size: u64,
    /// Bytes of the block; of a run of its own, exactly.
    pub block: u64,
    /// The size class, or none for a run of its own.
    pub class: Option<usize>,
    /// The block's first byte is a multiple of this.
    pub alignment: u64,
    /// In whose order it is used.
    pub lane: Lane,
}

impl Need {
    /// Bytes and alignment of what has to be mapped for it.
    pub fn mapping(&self, space: &Space) -> (u64, u64) {
        match self.class {
            Some(class) => (space.classes().slab_bytes(class), crate::space::CHUNK),
            None => (self.block, self.alignment),
        }
    }
}

/// A freed block that more than one stream, or the rest of a capture, has to be done with.
struct Waiting {
    block: Block,
    fences: Vec<Fence>,
    /// The graph whose capture has to end, 0 for none.
    graph: u64,
    /// The tag that it is free under then.
    to: u32,
}

/// The graph of pages that stay where they are, because other processes have them: of no
/// capture, and never released.
const FIXED: Lane = Lane { stream: Stream::DEFAULT, graph: u64::MAX };

/// What is known of a live block besides its word.
#[derive(Default)]
struct Note {
    /// Streams that use it besides the one it was allocated on.
    streams: Vec<Stream>,
    /// What has to pass besides them.
    fences: Vec<Fence>,
    /// The tag that it goes back to, of a graph or [`FIXED`]; `READY` for none.
    graph: u32,
}

/// What a tag stands for.
struct Owner {
    lane: Lane,
    /// Of a graph that was released, or a stream that is destroyed: what has to pass until all of
    /// its memory is anybody's. It gets no more; a stream with the same handle is another one.
    closing: Option<Vec<Fence>>,
    /// Up to which fence its free runs were made ready when they were last looked through: until
    /// more has passed there is nothing to find.
    polled: u64,
}

impl Owner {
    fn of(lane: Lane) -> Owner {
        Owner { lane, closing: None, polled: NEVER_POLLED }
    }
}

/// No fence: whatever has passed is news.
const NEVER_POLLED: u64 = u64::MAX - 1;

/// What a graph freed has no fence of its own, and is not passed as long as the graph lives.
const OF_GRAPH: u64 = 1;

/// What the threads of a pool share.
pub struct Core {
    /// The arena.
    pub space: Space,
    /// The heads of its blocks.
    pub heads: Heads,
    /// Whose tag each is; tag 0 is `READY`.
    owners: Vec<Owner>,
    /// Of live blocks, by address.
    notes: HashMap<usize, Note>,
    waiting: Vec<Waiting>,
    /// Graphs that are being captured, and on which stream that was announced.
    pub captures: Vec<Lane>,
    /// Graphs whose capture was announced without a stream, and has not been met yet.
    pub expected: Vec<Expected>,
    /// Whether the pool sleeps.
    pub sleep: Sleep,
    /// Calls that are asking the device for pages, or giving it some.
    pub device_calls: u32,
    /// Of these, those that give it some.
    pub releases: u32,
    /// How often each graph was begun, less how often it was released.
    pub graphs: HashMap<u64, u32>,
    /// Blocks on their way from one front cache to another.
    pub stock: Stock,
    /// What the policy says.
    pub preset: Preset,
    /// Most bytes mapped.
    pub limit: u64,
    /// Highest `space.used_bytes()`.
    pub used_peak: u64,
    /// Highest `space.mapped_bytes()`.
    pub reserved_peak: u64,
    /// All bytes ever mapped.
    pub reserved_total: u64,
    /// How much may be mapped.
    budget: Budget,
    /// Least idle bytes since `idle_since`: what nobody needed for that long.
    pub idle_low: u64,
    /// See `idle_low`.
    pub idle_since: Instant,
    /// Raised when pages lie idle that the policy does not keep, or that nobody looks after.
    pub idle_pages: Arc<AtomicBool>,
}

// SAFETY: the pointers in `waiting` and `stock` lead to heads that `heads` owns and never moves,
// or into them; they go wherever the core goes.
unsafe impl Send for Core {}

impl Core {
    /// The core of a pool over `space`.
    pub fn new(space: Space, preset: Preset, limit: u64) -> Core {
        Core {
            space,
            heads: Heads::default(),
            owners: vec![Owner::of(Lane::eager(Stream::DEFAULT))],
            notes: HashMap::new(),
            waiting: Vec::new(),
            captures: Vec::new(),
            expected: Vec::new(),
            sleep: Sleep::default(),
            device_calls: 0,
            releases: 0,
            graphs: HashMap::new(),
            stock: Stock::default(),
            preset,
            limit,
            used_peak: 0,
            reserved_peak: 0,
            reserved_total: 0,
            budget: Budget::default(),
            idle_low: 0,
            idle_since: Instant::now(),
            idle_pages: Arc::default(),
        }
    }

    /// The tag of `lane`.
    pub fn tag(&mut self, order: &dyn Order, lane: Lane) -> u32 {
        if lane.is_eager() && order.is_immediate(lane.stream) {
            return READY;
        }
        let same = |owner: &Owner| owner.lane == lane && owner.closing.is_none();
        if let Some(tag) = self.owners[1..].iter().position(same) {
            return tag as u32 + 1;
        }
        // A tag whose stream is done with everything and owns nothing any more serves again.
        let owns = |tag: u32| {
            self.space.runs().free_bytes(tag) > 0
                || self.space.slabs().any(|(_, slab)| slab.tag == tag)
                || self.notes.values().any(|note| note.graph == tag)
                || self.waiting.iter().any(|waiting| waiting.to == tag)
        };
        let gone = self.tags().find(|&tag| self.passed(order, tag) == u64::MAX && !owns(tag));
        let owner = Owner::of(lane);
        match gone {
            Some(tag) => {
                self.owners[tag as usize] = owner;
                tag
            }
            None => {
                self.owners.push(owner);
                self.owners.len() as u32 - 1
            }
        }
    }

    fn lane_of(&self, tag: u32) -> Lane {
        self.owners[tag as usize].lane
    }

    /// Up to which fence what was freed under `tag` is anybody's.
    fn passed(&self, order: &dyn Order, tag: u32) -> u64 {
        let Owner { lane, closing, .. } = &self.owners[tag as usize];
        #[cfg(test)]
        {
            use crate::planted::{Bug, is_planted};
            let early = lane.is_eager() && is_planted(Bug::EarlyUnmap);
            let leaked = !lane.is_eager() && is_planted(Bug::LeakedGraph);
            if early || leaked {
                return u64::MAX;
            }
        }
        let done = |fence: &Fence| order.passed(fence.stream) >= fence.sequence;
        if closing.as_ref().is_some_and(|fences| fences.iter().all(done)) {
            u64::MAX
        } else if lane.is_eager() {
            order.passed(lane.stream)
        } else {
            0
        }
    }

    /// Tags in use, but for `READY`.
    pub fn tags(&self) -> impl Iterator<Item = u32> + use<> {
        1..self.owners.len() as u32
    }

    /// Makes ready what streams are done with by now.
    pub fn poll(&mut self, table: &BlockTable, order: &dyn Order) {
        if !self.waiting.is_empty() {
            self.poll_waiting(table, order);
        }
        // Behind those: a block that comes back may have been the last of its slab.
        for tag in self.tags() {
            if self.space.runs().free_bytes(tag) > 0 {
                let passed = self.passed(order, tag);
                if passed != self.owners[tag as usize].polled {
                    self.space.pass(tag, passed);
                    self.owners[tag as usize].polled = passed;
                }
            }
        }
    }

    /// A run became free under `tag` with a fence that may have passed before it was looked at.
    fn note_late(&mut self, tag: u32, sequence: u64) {
        let polled = &mut self.owners[tag as usize].polled;
        if sequence <= *polled {
            *polled = NEVER_POLLED;
        }
    }

    /// Runs became free again under fences of whenever.
    pub fn look_again(&mut self) {
        self.owners.iter_mut().for_each(|owner| owner.polled = NEVER_POLLED);
    }

    fn poll_waiting(&mut self, table: &BlockTable, order: &dyn Order) {
        let passed = |waiting: &Waiting| {
            (waiting.graph == 0 || self.captures.iter().all(|it| it.graph != waiting.graph))
                && waiting.fences.iter().all(|fence| order.passed(fence.stream) >= fence.sequence)
        };
        let (ready, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(passed);
        self.waiting = waiting;
        let ready: Vec<Waiting> = ready;
        for Waiting { block, to, .. } in ready {
            self.put_back(table, block, to, if to == READY { 0 } else { OF_GRAPH });
        }
    }

    /// The last fence that somebody's freed memory waits for, of every stream.
    pub fn fences(&self, order: &dyn Order) -> Vec<Fence> {
        let mut fences: Vec<Fence> =
            self.waiting.iter().flat_map(|waiting| waiting.fences.iter().copied()).collect();
        for tag in self.tags() {
            let lane = self.lane_of(tag);
            if lane.is_eager()
                && let Some(sequence) = self.space.runs().latest_fence(tag)
            {
                fences.push(Fence { stream: lane.stream, sequence });
            }
            if let Some(closing) = &self.owners[tag as usize].closing
                && self.space.runs().free_bytes(tag) > 0
            {
                fences.extend_from_slice(closing);
            }
        }
        fences.retain(|fence| order.passed(fence.stream) < fence.sequence);
        fences
    }

    /// Bytes that were freed and that nobody may take yet, by the stream that is waited for; of
    /// several, the one that was noted last.
    pub fn holdings(&self) -> Vec<(Stream, u64)> {
        let runs = self.tags().map(|tag| (self.stream_of(tag), self.space.runs().free_bytes(tag)));
        let blocks = self.waiting.iter().map(|waiting| {
            let last = waiting.fences.last().map_or(Stream::DEFAULT, |fence| fence.stream);
            (last, waiting.block.head().size())
        });
        let mut held: Vec<(Stream, u64)> = Vec::new();
        for (stream, bytes) in runs.chain(blocks) {
            match held.iter_mut().find(|(other, _)| *other == stream) {
                Some((_, sum)) => *sum += bytes,
                None => held.push((stream, bytes)),
            }
        }
        held
    }

    /// `fresh` bytes were mapped.
    pub fn note_reserved(&mut self, fresh: u64) {
        self.reserved_total += fresh;
        self.reserved_peak = self.reserved_peak.max(self.space.mapped_bytes());
    }

    /// Whether `pages` missing under a block of `size` bytes can be new ones without more being
    /// mapped than the policy likes.
    pub fn within_budget(&self, size: u64, pages: u64, sums: &Sums) -> bool {
        let now = self.situation(size, sums);
        self.budget.above(self.preset.move_above_percent, pages, &now) == 0
    }

    /// How many bytes of `pages` missing under a block of `size` bytes should be moved there
    /// from where they lie idle, instead of being taken new.
    pub fn bytes_to_move(&mut self, size: u64, pages: u64, sums: &Sums) -> u64 {
        let now = self.situation(size, sums);
        self.budget.moves_for(&self.preset, size, pages, &now)
    }

    /// `bytes` are moved for an allocation.
    pub fn note_moved(&mut self, bytes: u64) {
        self.budget.note_moved(bytes);
    }

    fn situation(&self, size: u64, sums: &Sums) -> Situation {
        Situation {
            live: self.used_peak.max(self.space.used_bytes() + size),
            mapped: self.space.mapped_bytes(),
            limit: self.limit,
            allocations: sums.allocations,
            allocated: sums.allocated_total,
        }
    }

    /// The block at `address` is in pages that stay where they are from now on.
    pub fn fix(&mut self, address: usize) {
        let same = |owner: &Owner| owner.lane == FIXED;
        let tag = self.owners.iter().position(same).unwrap_or_else(|| {
            self.owners.push(Owner::of(FIXED));
            self.owners.len() - 1
        });
        self.notes.entry(address).or_default().graph = tag as u32;
    }

    /// Whether something is known of the live block at `address` that its word does not say.
    pub fn is_noted(&self, address: usize) -> bool {
        self.notes.contains_key(&address)
    }

    /// A run from pages that stay where they are.
    #[cold]
    #[inline(never)]
    fn take_fixed(&mut self, table: &BlockTable, need: &Need) -> Option<Block> {
        let tag = self.owners.iter().position(|owner| owner.lane == FIXED)? as u32;
        if self.space.runs().free_bytes(tag) < need.block || !need.lane.is_eager() {
            return None;
        }
        let block = self.take_large(table, need, tag)?;
        self.notes.insert(block.address(), Note { graph: tag, ..Note::default() });
        Some(block)
    }

    /// Bytes of the largest run that is free for anybody.
    pub fn largest_free(&self) -> u64 {
        let runs = self.space.runs();
        match runs.largest(READY) {
            crate::space::NONE => 0,
            run => runs.get(run).size,
        }
    }

    /// Takes a block from mapped memory.
    pub fn take(&mut self, table: &BlockTable, need: &Need, tag: u32) -> Option<Block> {
        let block = match need.class {
            Some(class) => self.take_small(table, class, tag)?,
            None => match self.take_large(table, need, tag) {
                Some(block) => block,
                None => self.take_fixed(table, need)?,
            },
        };
        block.set_word(Word::HELD);
        self.used_peak = self.used_peak.max(self.space.used_bytes());
        self.idle_low = self.idle_low.min(self.space.idle_bytes());
        Some(block)
    }

    fn take_small(&mut self, table: &BlockTable, class: usize, tag: u32) -> Option<Block> {
        let (slab, index) = match self.space.take_small(class, tag) {
            Some(taken) => taken,
            None => {
                let id = self.space.new_slab(class, tag)?;
                self.enter_slab(table, id);
                self.space.take_small(class, tag)?
            }
        };
        Some(Block { head: self.heads.of_slab(slab), index: index as usize })
    }

    /// Makes heads for a slab that is there now, and takes a block of it.
    pub fn enter_slab_and_take(&mut self, table: &BlockTable, id: u32) -> Option<Block> {
        self.enter_slab(table, id);
        let (class, tag) = (self.space.slab(id).class as usize, self.space.slab(id).tag);
        let block = self.take_small(table, class, tag)?;
        block.set_word(Word::HELD);
        self.used_peak = self.used_peak.max(self.space.used_bytes());
        Some(block)
    }

    fn enter_slab(&mut self, table: &BlockTable, id: u32) {
        let slab = self.space.slab(id);
        let class = slab.class as usize;
        let (size, bytes) =
            (self.space.classes().size(class) as u64, self.space.classes().slab_bytes(class));
        self.heads.add_slab(table, id, class, (slab.offset, size, bytes, slab.capacity));
    }

    fn take_large(&mut self, table: &BlockTable, need: &Need, tag: u32) -> Option<Block> {
        let run = self.space.take_large(need.block, need.alignment, tag)?;
        Some(self.enter_run(table, run))
    }

    /// A run of its own with as many free bytes above it, out of what is mapped and is no page that
    /// stays where it is.
    pub fn take_below_room(
        &mut self,
        table: &BlockTable,
        need: &Need,
        tag: u32,
        fence: u64,
    ) -> Option<Block> {
        let roomy = need.block.saturating_mul(2);
        let run = self.space.take_large(roomy, need.alignment, tag)?;
        let cut = self.space.resize_large(run, need.block, tag, fence);
        debug_assert!(cut, "a run can always be cut");
        self.look_again();
        self.idle_low = self.idle_low.min(self.space.idle_bytes());
        let block = self.enter_run(table, run);
        block.set_word(Word::HELD);
        Some(block)
    }

    /// Makes a head for a run that is used now.
    pub fn enter_run(&mut self, table: &BlockTable, run: u32) -> Block {
        let (offset, size) = self.space.extent(Place::Large { run });
        self.used_peak = self.used_peak.max(self.space.used_bytes());
        let block = Block { head: self.heads.add_run(table, run, offset, size), index: 0 };
        block.set_word(Word::HELD);
        block
    }

    /// Takes back a block that was freed in `lane`.
    pub fn give(&mut self, table: &BlockTable, order: &dyn Order, block: Block, lane: Lane) {
        let of_graph = |note: &Note| self.lane_of(note.graph).graph == lane.graph;
        if !lane.is_eager() && self.notes.get(&block.address()).is_some_and(of_graph) {
            return self.give_in_capture(table, order, block, lane);
        }
        // What is not the graph's own is used by work that ran before, or by other graphs. Its
        // fence is recorded when the capture is over.
        self.give_all(table, order, std::iter::once(block), lane.stream);
    }

    /// Takes back blocks that were freed on `stream`. They are all behind one fence.
    pub fn give_all(
        &mut self,
        table: &BlockTable,
        order: &dyn Order,
        blocks: impl Iterator<Item = Block>,
        stream: Stream,
    ) {
        let (tag, sequence) = self.fence(order, stream);
        blocks.for_each(|block| self.give_behind(table, order, block, tag, sequence));
        self.look_for_idle();
    }

    /// Takes back a block of the graph that is being captured in `lane`.
    fn give_in_capture(&mut self, table: &BlockTable, order: &dyn Order, block: Block, lane: Lane) {
        block.set_word(Word::new(state::FREE, 0, 0));
        let note = self.notes.remove(&block.address()).unwrap_or_default();
        let to = self.tag(order, lane);
        let alone = note.streams.is_empty() && note.fences.is_empty();
        let own = match block.place() {
            Place::Large { .. } => alone,
            Place::Small { slab, .. } => alone && self.space.slab(slab).tag == to,
        };
        if own {
            self.put_back(table, block, to, OF_GRAPH);
        } else {
            // All streams of a capture are joined where it ends.
            let (fences, graph) = (note.fences, lane.graph);
            self.waiting.push(Waiting { block, fences, graph, to });
        }
    }

    /// The tag of `stream`, and the sequence number behind what is queued there.
    #[inline(always)]
    pub fn fence(&mut self, order: &dyn Order, stream: Stream) -> (u32, u64) {
        let tag = self.tag(order, Lane::eager(stream));
        (tag, if tag == READY { 0 } else { order.mark(stream) })
    }

    /// Takes back a block that was freed under `tag` at `sequence`, a fence that was marked
    /// since the call began. [`Core::look_for_idle`] is due after the last one.
    pub fn give_behind(
        &mut self,
        table: &BlockTable,
        order: &dyn Order,
        block: Block,
        tag: u32,
        sequence: u64,
    ) {
        block.set_word(Word::new(state::FREE, 0, 0));
        // Mostly there are none: then nothing is hashed.
        if !self.notes.is_empty()
            && let Some(note) = self.notes.remove(&block.address())
        {
            let mut fences: Vec<Fence> = note
                .streams
                .into_iter()
                .map(|stream| Fence { stream, sequence: order.mark(stream) })
                .chain(note.fences)
                .collect();
            if tag != READY {
                fences.push(Fence { stream: self.lane_of(tag).stream, sequence });
            }
            self.waiting.push(Waiting { block, fences, graph: 0, to: note.graph });
            return;
        }
        let own = match block.place() {
            Place::Large { .. } => true,
            Place::Small { slab, .. } => self.space.slab(slab).tag == tag || tag == READY,
        };
        if own {
            self.put_back(table, block, tag, sequence);
        } else {
            // A slab is one stream's; its block was freed on another one.
            let fences = vec![Fence { stream: self.lane_of(tag).stream, sequence }];
            self.waiting.push(Waiting { block, fences, graph: 0, to: READY });
        }
    }

    fn put_back(&mut self, table: &BlockTable, block: Block, tag: u32, sequence: u64) {
        match block.place() {
            Place::Large { run } => {
                self.heads.remove_run(table, run);
                self.space.give_large(run, tag, sequence);
                self.note_late(tag, sequence);
            }
            Place::Small { slab, index } => {
                let own = self.space.slab(slab).tag;
                if self.space.give_small(slab, index, sequence) {
                    self.note_late(own, 0);
                    let class = self.space.slab(slab).class as usize;
                    let bytes = self.space.classes().slab_bytes(class);
                    self.heads.remove_slab(table, slab, bytes);
                }
            }
        }
    }

    /// How many bytes of idle pages the policy keeps.
    pub fn keeps(&self) -> u64 {
        self.limit / 4 * self.preset.keep_quarters
    }

    /// Tells frees when there is something for them to do about idle pages, so that they need
    /// not take the lock to see.
    pub fn look_for_idle(&mut self) {
        let idle = self.space.idle_bytes();
        let due = match self.preset.trim {
            TrimWhen::AtOnce => true,
            TrimWhen::Idle(_) | TrimWhen::Pressure => {
                idle > 0 && (idle > self.keeps() || !housekeeper::is_there())
            }
            TrimWhen::Asked => idle > self.keeps(),
        };
        if due {
            self.idle_pages.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that work queued on `stream` uses the live block at `address`.
    pub fn follow(&mut self, address: usize, stream: Stream) {
        let streams = &mut self.notes.entry(address).or_default().streams;
        if !streams.contains(&stream) {
            streams.push(stream);
        }
    }

    /// Notes that `fence` has to pass before the live block at `address` is used again.
    pub fn follow_fence(&mut self, address: usize, fence: Fence) {
        let fences = &mut self.notes.entry(address).or_default().fences;
        match fences.iter_mut().find(|known| known.stream == fence.stream) {
            Some(known) => known.sequence = known.sequence.max(fence.sequence),
            None => fences.push(fence),
        }
    }

    /// What was recorded for the block at `address`, as fences: of streams, those of now.
    pub fn followers(&self, order: &dyn Order, address: usize) -> Vec<Fence> {
        let Some(note) = self.notes.get(&address) else { return Vec::new() };
        let now = |&stream: &Stream| Fence { stream, sequence: order.mark(stream) };
        note.streams.iter().map(now).chain(note.fences.iter().copied()).collect()
    }

    /// Notes that `block`, which is about to be given out, belongs to the graph of `lane`.
    pub fn enter_graph(&mut self, order: &dyn Order, block: &Block, lane: Lane) {
        let graph = self.tag(order, lane);
        self.notes.insert(block.address(), Note { graph, ..Note::default() });
    }

    /// A capture in `lane` begins: what the graph had freed on other streams is free on this
    /// one. The captures of a graph, and their launches, come one after the other.
    pub fn begin_capture(&mut self, order: &dyn Order, lane: Lane) {
        let to = self.tag(order, lane);
        for from in self.tags_of(lane.graph) {
            self.space.hand_over(from, u64::MAX, to, OF_GRAPH);
        }
        self.captures.push(lane);
    }

    fn tags_of(&self, graph: u64) -> Vec<u32> {
        let of = |&tag: &u32| {
            let owner = &self.owners[tag as usize];
            owner.lane.graph == graph && owner.closing.is_none()
        };
        self.tags().filter(of).collect()
    }

    /// `stream` is about to be destroyed: what was freed on it is not that of a stream that gets its
    /// handle later.
    pub fn close_stream(&mut self, order: &dyn Order, stream: Stream) {
        let same =
            |owner: &&mut Owner| owner.lane == Lane::eager(stream) && owner.closing.is_none();
        if let Some(owner) = self.owners[1..].iter_mut().find(same) {
            owner.closing = Some(vec![Fence { stream, sequence: order.mark(stream) }]);
        }
    }

    /// The last use of `graph` is over: what it freed is everybody's once `fences` have passed.
    pub fn close_graph(&mut self, graph: u64, fences: &[Fence]) {
        for tag in self.tags_of(graph) {
            self.owners[tag as usize].closing = Some(fences.to_vec());
        }
    }

    /// Moves what was freed before the last of the fences in `waited` over to `to`, whose
    /// stream was made to wait for all of them; `behind` is a fence of it behind those waits.
    /// The same for blocks that wait for several streams, if these are the ones, and for what
    /// graphs that were released had.
    pub fn hand_over(
        &mut self,
        table: &BlockTable,
        order: &dyn Order,
        waited: &[Fence],
        to: u32,
        behind: Fence,
    ) {
        let began = order.began(behind.stream);
        if let Some(last) = waited.last() {
            for from in self.tags() {
                if self.lane_of(from) == Lane::eager(last.stream) {
                    self.space.hand_over(from, last.sequence, to, behind.sequence);
                }
            }
        }
        let is_behind = |fence: &Fence| {
            let covers = |it: &Fence| it.stream == fence.stream && it.sequence >= fence.sequence;
            let own = fence.stream == behind.stream && fence.sequence >= began;
            own || waited.iter().any(covers) || order.passed(fence.stream) >= fence.sequence
        };
        for from in self.tags() {
            let closing = &self.owners[from as usize].closing;
            if closing.as_ref().is_some_and(|fences| fences.iter().all(is_behind)) {
                self.space.hand_over(from, u64::MAX, to, behind.sequence);
            }
        }
        for at in (0..self.waiting.len()).rev() {
            let Waiting { block, fences, graph: 0, to: READY } = &self.waiting[at] else {
                continue;
            };
            let own = match block.place() {
                Place::Large { .. } => true,
                Place::Small { slab, .. } => self.space.slab(slab).tag == to,
            };
            if own && fences.iter().all(is_behind) {
                let block = *block;
                self.waiting.swap_remove(at);
                self.put_back(table, block, to, behind.sequence);
            }
        }
    }

    /// The stream under whose order memory of `tag` was freed.
    pub fn stream_of(&self, tag: u32) -> Stream {
        self.lane_of(tag).stream
    }

    /// The stream on which the live block at `address` was taken, of those that have notes.
    pub fn note_stream(&self, address: usize) -> Stream {
        self.notes.get(&address).map_or(Stream::DEFAULT, |note| self.stream_of(note.graph))
    }

    /// The block that `address` lies in, if it is given out.
    pub fn live_block_around(&self, table: &BlockTable, address: usize) -> Option<Block> {
        let offset = (address as u64).checked_sub(table.base() as u64)?;
        let block = match self.space.locate(offset)? {
            Place::Large { run } => Block { head: self.heads.of_run(run), index: 0 },
            Place::Small { slab, index } => {
                Block { head: self.heads.of_slab(slab), index: index as usize }
            }
        };
        block.is_live().then_some(block)
    }

    /// Every block that is given out, in no order.
    pub fn live_blocks(&self) -> Vec<Block> {
        self.blocks().filter(Block::is_live).collect()
    }

    /// Every block of a slab and every run of its own.
    pub fn blocks(&self) -> impl Iterator<Item = Block> {
        let of_slabs = self.space.slabs().flat_map(|(id, slab)| {
            let head: *const Head = self.heads.of_slab(id);
            (0..slab.capacity as usize).map(move |index| Block { head, index })
        });
        let used = |&(id, run): &(u32, &crate::space::Run)| {
            run.slab == crate::space::NONE && self.space.is_large(id, run)
        };
        let runs = self.space.runs().iter().filter(used).map(|(id, _)| {
            let head: *const Head = self.heads.of_run(id);
            Block { head, index: 0 }
        });
        of_slabs.chain(runs)
    }

    /// Checks the space, and the words of its blocks against it. The owners of front caches
    /// are stopped, and `cached` counts what they hold.
    pub fn validate(&self, table: &BlockTable, cached: usize) -> Result<(), String> {
        self.space.validate()?;
        let waiting: std::collections::HashSet<usize> =
            self.waiting.iter().map(|followed| followed.block.address()).collect();
        let mut in_caches = 0;
        for block in self.blocks() {
            let word = Word(block.head().word(block.index).load(Ordering::Relaxed));
            let address = block.address();
            let found = table.find(address);
            if !matches!(found, super::block::Found::Block(head, index)
                if std::ptr::eq(head, block.head) && index == block.index)
            {
                return Err(format!("block {address:#x} is not found in the table"));
            }
            let free = match block.place() {
                Place::Large { .. } => false,
                Place::Small { slab, index } => self.space.slab(slab).is_free(index),
            };
            match word.state() {
                state::FREE if free || waiting.contains(&address) => {}
                state::CACHED if !free && word == Word::HELD => {}
                state::CACHED if !free => in_caches += 1,
                state::LIVE if !free => {}
                state::FOLLOWED if !free && self.notes.contains_key(&address) => {}
                _ => return Err(format!("block {address:#x} has word {word:?}, free {free}")),
            }
        }
        let cached = cached + self.stock.count();
        if in_caches != cached {
            return Err(format!("{in_caches} blocks say they are cached, {cached} are"));
        }
        Ok(())
    }
}

impl Block {
    /// Sets its word, which nobody else may do at this moment.
    pub fn set_word(&self, word: Word) {
        self.head().word(self.index).store(word.0, Ordering::Release);
    }

    /// Whether it is given out.
    pub fn is_live(&self) -> bool {
        Word(self.head().word(self.index).load(Ordering::Acquire)).is_live()
    }
}
