//! Pure bookkeeping of an arena, in offsets. Nothing here knows an address, a device or a
//! thread, and nothing here is unsafe; what the arena holds is never touched.
//!
//! An arena is a line of addresses, `0..bytes`. [`Runs`] divides it into neighbouring pieces
//! that are used, free (mapped) or without pages; [`Slab`] cuts a used run into small blocks;
//! [`PageMap`] finds the block at an address; [`SizeClasses`] says which sizes small blocks
//! have. [`Space`] is what the pool uses of them.
//!
//! Pages are the unit of mapping, not of rounding: a run of its own takes a multiple of
//! [`GRANULE`] bytes and shares its first and last page with its neighbours.
#![forbid(unsafe_code)]

mod bins;
mod growth;
mod map;
mod relocation;
mod runs;
mod size_class;
mod slab;

pub use growth::{Growth, Window};
pub use map::PageMap;
pub use runs::{NONE, READY, Run, RunId, Runs, State};
pub use size_class::{ClassTable, MAX_CLASSES, SMALL_MAX, SizeClasses, round_large, step_of};
pub use slab::{Slab, SlabId};

/// Sizes and offsets of runs are multiples of this, in bytes.
pub const GRANULE: u64 = 512;

/// The smallest thing that is mapped and unmapped, in bytes.
pub const PAGE: u64 = 2 << 20;

/// The resolution of the page map, in bytes. Slabs start at multiples of it, and a run of
/// its own is at least this large.
pub const CHUNK: u64 = 32 << 10;

/// Where an offset lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Inside a run of its own.
    Large {
        /// The run.
        run: RunId,
    },
    /// Inside a block of a slab.
    Small {
        /// The slab.
        slab: SlabId,
        /// The block's number in it.
        index: u32,
    },
}

/// The bookkeeping of one arena.
#[derive(Debug)]
pub struct Space {
    runs: Runs,
    map: PageMap,
    classes: SizeClasses,
    slabs: Vec<Slab>,
    vacant_slabs: Vec<SlabId>,
    /// First slab with free blocks, by tag and class.
    partial: Vec<Vec<SlabId>>,
    bytes: u64,
    used_bytes: u64,
    mapped_bytes: u64,
    /// Bytes that growths under way move: their addresses are counted in `mapped_bytes` on
    /// both sides.
    moving_bytes: u64,
}

impl Space {
    /// An arena of `bytes` addresses (a multiple of [`PAGE`]) without a page in it.
    pub fn new(bytes: u64, classes: SizeClasses) -> Space {
        assert!(bytes > 0 && bytes.is_multiple_of(PAGE));
        Space {
            runs: Runs::new(bytes),
            map: PageMap::new(bytes),
            classes,
            slabs: Vec::new(),
            vacant_slabs: Vec::new(),
            partial: Vec::new(),
            bytes,
            used_bytes: 0,
            mapped_bytes: 0,
            moving_bytes: 0,
        }
    }

    /// Says at which address offset 0 is, modulo a number that every alignment divides, so
    /// that addresses are aligned and not only offsets. 0 unless it is said;
    /// always a multiple of [`PAGE`].
    pub fn set_origin(&mut self, origin: u64) {
        debug_assert!(origin.is_multiple_of(PAGE));
        self.runs.set_origin(origin);
    }

    /// Addresses in the arena.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes in pages that are mapped, or about to be.
    pub fn mapped_bytes(&self) -> u64 {
        self.mapped_bytes - self.moving_bytes
    }

    /// Bytes in runs of their own and in slabs.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Bytes of whole pages that nobody uses and nobody has to be waited for.
    pub fn idle_bytes(&self) -> u64 {
        self.runs.idle_bytes()
    }

    /// The size classes.
    pub fn classes(&self) -> &SizeClasses {
        &self.classes
    }

    /// Replaces the size classes. Slabs that exist keep their blocks' size, so this is only
    /// possible while there is no slab.
    pub fn set_classes(&mut self, classes: SizeClasses) -> bool {
        let possible = self.slabs.len() == self.vacant_slabs.len();
        if possible {
            self.classes = classes;
            self.partial.clear();
        }
        possible
    }

    /// The runs, for reports.
    pub fn runs(&self) -> &Runs {
        &self.runs
    }

    /// The slab `id`.
    pub fn slab(&self, id: SlabId) -> &Slab {
        &self.slabs[id as usize]
    }

    /// Slabs in use.
    pub fn slabs(&self) -> impl Iterator<Item = (SlabId, &Slab)> {
        (0..).zip(&self.slabs).filter(|(_, slab)| slab.run != NONE)
    }

    /// Takes a run of `size` bytes (a multiple of [`GRANULE`], at least [`CHUNK`]) at
    /// `alignment` (a power of two) for `tag`: from what was freed under the same tag or what is
    /// ready.
    pub fn take_large(&mut self, size: u64, alignment: u64, tag: u32) -> Option<RunId> {
        let run = self.take_run(size, alignment, tag)?;
        self.map.insert(self.runs.get(run).offset, run);
        Some(run)
    }

    fn take_run(&mut self, size: u64, alignment: u64, tag: u32) -> Option<RunId> {
        let alignment = alignment.max(GRANULE);
        let run = if tag == READY {
            self.runs.take(READY, size, alignment)
        } else {
            self.runs.take_better(tag, size, alignment)
        };
        self.used_bytes += if run.is_some() { size } else { 0 };
        run
    }

    /// Gives a run of its own back: free for `tag` at once, for others once `fence` is
    /// passed.
    pub fn give_large(&mut self, run: RunId, tag: u32, fence: u64) {
        let Run { offset, size, .. } = *self.runs.get(run);
        self.map.remove(offset);
        self.used_bytes -= size;
        self.runs.give(run, tag, fence);
    }

    /// Changes the size of a run of its own in place: cuts it, or grows it into a free
    /// neighbour above. False, and nothing changed, when that is not possible.
    pub fn resize_large(&mut self, run: RunId, size: u64, tag: u32, fence: u64) -> bool {
        let old = self.runs.get(run).size;
        match size.cmp(&old) {
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Less => self.runs.shrink(run, size, tag, fence),
            std::cmp::Ordering::Greater if !self.runs.extend(run, size, tag) => return false,
            std::cmp::Ordering::Greater => {}
        }
        self.used_bytes = self.used_bytes + size - old;
        true
    }

    /// Takes a block of `class` from a slab of `tag` that has one.
    pub fn take_small(&mut self, class: usize, tag: u32) -> Option<(SlabId, u32)> {
        let id = *self.partial.get(tag as usize)?.get(class)?;
        if id == NONE {
            return None;
        }
        let slab = &mut self.slabs[id as usize];
        let index = slab.take()?;
        if slab.free == 0 {
            self.unlist_slab(id);
        }
        Some((id, index))
    }

    /// Makes a slab of `class` for `tag` from mapped memory.
    pub fn new_slab(&mut self, class: usize, tag: u32) -> Option<SlabId> {
        let run = self.take_run(self.classes.slab_bytes(class), CHUNK, tag)?;
        Some(self.slab_in(run, class, tag))
    }

    /// Cuts the used run `run` into a slab.
    fn slab_in(&mut self, run: RunId, class: usize, tag: u32) -> SlabId {
        let Run { offset, size, .. } = *self.runs.get(run);
        let capacity = size / self.classes.size(class) as u64;
        let slab = Slab::new(run, offset, class as u16, tag, capacity as u32);
        let id = match self.vacant_slabs.pop() {
            Some(id) => {
                self.slabs[id as usize] = slab;
                id
            }
            None => {
                self.slabs.push(slab);
                self.slabs.len() as SlabId - 1
            }
        };
        self.runs.set_slab(run, id);
        self.map.insert(offset, run);
        self.list_slab(id);
        id
    }

    /// Gives a block of a slab back, passed at `fence` under the slab's own tag. True when
    /// the slab is gone with it: its run is free then.
    pub fn give_small(&mut self, id: SlabId, index: u32, fence: u64) -> bool {
        let slab = &mut self.slabs[id as usize];
        let was_full = slab.free == 0;
        let given = slab.give(index);
        debug_assert!(given, "block {index} of slab {id} was free already");
        slab.fence = slab.fence.max(fence);
        if slab.free < slab.capacity {
            if was_full {
                self.list_slab(id);
            }
            return false;
        }
        let (run, tag, fence, offset) = (slab.run, slab.tag, slab.fence, slab.offset);
        if !was_full {
            self.unlist_slab(id);
        }
        self.slabs[id as usize].run = NONE;
        self.vacant_slabs.push(id);
        self.runs.set_slab(run, NONE);
        self.map.remove(offset);
        self.used_bytes -= self.runs.get(run).size;
        self.runs.give(run, tag, fence);
        true
    }

    fn list_slab(&mut self, id: SlabId) {
        let (tag, class) = (self.slab(id).tag as usize, self.slab(id).class as usize);
        if self.partial.len() <= tag {
            self.partial.resize_with(tag + 1, Vec::new);
        }
        if self.partial[tag].is_empty() {
            self.partial[tag] = vec![NONE; self.classes.len()];
        }
        let head = std::mem::replace(&mut self.partial[tag][class], id);
        if head != NONE {
            self.slabs[head as usize].previous = id;
        }
        let slab = &mut self.slabs[id as usize];
        (slab.previous, slab.next) = (NONE, head);
    }

    fn unlist_slab(&mut self, id: SlabId) {
        let slab = &self.slabs[id as usize];
        let (previous, next) = (slab.previous, slab.next);
        let (tag, class) = (slab.tag as usize, slab.class as usize);
        if previous == NONE {
            self.partial[tag][class] = next;
        } else {
            self.slabs[previous as usize].next = next;
        }
        if next != NONE {
            self.slabs[next as usize].previous = previous;
        }
    }

    /// The block that `offset` lies in, whether it is the block's first byte or not. For a
    /// slab the block may be a free one; offsets behind the last block of a slab are nowhere.
    pub fn locate(&self, offset: u64) -> Option<Place> {
        if offset >= self.bytes {
            return None;
        }
        let holds = |&run: &RunId| {
            let run = self.runs.get(run);
            run.offset <= offset && offset < run.end()
        };
        // A run that starts in the same chunk may start behind the offset: then the one
        // before it is asked.
        let run = self
            .map
            .at_or_before(offset)
            .filter(holds)
            .or_else(|| self.map.before(offset).filter(holds))?;
        let slab = self.runs.get(run).slab;
        if slab == NONE {
            return Some(Place::Large { run });
        }
        let Slab { offset: start, class, capacity, .. } = *self.slab(slab);
        let index = ((offset - start) / self.classes.size(class as usize) as u64) as u32;
        (index < capacity).then_some(Place::Small { slab, index })
    }

    /// First byte and bytes of the block at `place`.
    pub fn extent(&self, place: Place) -> (u64, u64) {
        match place {
            Place::Large { run } => (self.runs.get(run).offset, self.runs.get(run).size),
            Place::Small { slab, index } => {
                let size = self.classes.size(self.slab(slab).class as usize) as u64;
                (self.slab(slab).offset + size * u64::from(index), size)
            }
        }
    }

    /// Makes everything that was freed under `tag` with a fence of at most `passed` ready.
    pub fn pass(&mut self, tag: u32, passed: u64) {
        self.runs.pass(tag, passed);
    }

    /// Moves what was freed under `from` with a fence of at most `sequence` to the tag `to`
    /// with the fence `fence`, which must be behind a wait for the old one.
    pub fn hand_over(&mut self, from: u32, sequence: u64, to: u32, fence: u64) {
        self.runs.retag(from, sequence, to, fence);
    }

    /// Whether the used run `id` is a run of its own, rather than a slab or addresses held
    /// for a growth.
    pub fn is_large(&self, id: RunId, run: &Run) -> bool {
        run.state == State::Used && run.slab == NONE && self.map.start_in(run.offset) == id
    }

    /// Checks every invariant; what is wrong is named.
    pub fn validate(&self) -> Result<(), String> {
        self.runs.validate(self.bytes)?;
        let (mut used, mut mapped, mut entered) = (0, 0, 0);
        for (id, run) in self.runs.iter() {
            if run.state != State::Unmapped {
                mapped += run.size;
            }
            let in_map = self.map.start_in(run.offset) == id;
            if run.state != State::Used {
                if in_map || run.slab != NONE {
                    return Err(format!("run {id} is not used but has a slab or is in the map"));
                }
            } else if in_map {
                used += run.size;
                entered += 1;
                if run.slab != NONE && self.slab(run.slab).run != id {
                    return Err(format!("run {id} names slab {}, which is not its", run.slab));
                }
            }
        }
        if entered != self.map.len() {
            return Err(format!("{} entries in the map, {entered} runs", self.map.len()));
        }
        if used != self.used_bytes || mapped != self.mapped_bytes {
            let (said_used, said_mapped) = (self.used_bytes, self.mapped_bytes);
            return Err(format!(
                "used {used}, not {said_used}; mapped {mapped}, not {said_mapped}"
            ));
        }
        let mut with_free = 0;
        for (id, slab) in self.slabs() {
            slab.validate()?;
            if slab.free == slab.capacity && slab.capacity > 0 {
                let fresh = self.partial[slab.tag as usize][slab.class as usize] == id;
                if !fresh {
                    return Err(format!("slab {id} is empty but was kept"));
                }
            }
            with_free += usize::from(slab.free > 0);
        }
        for (tag, classes) in self.partial.iter().enumerate() {
            for (class, &head) in classes.iter().enumerate() {
                let (mut id, mut before) = (head, NONE);
                while id != NONE {
                    let slab = self.slab(id);
                    let right = slab.run != NONE
                        && (slab.tag as usize, slab.class as usize) == (tag, class)
                        && slab.free > 0
                        && slab.previous == before;
                    if !right || with_free == 0 {
                        return Err(format!("slab {id} is listed wrongly"));
                    }
                    with_free -= 1;
                    (before, id) = (id, slab.next);
                }
            }
        }
        if with_free != 0 {
            return Err(format!("{with_free} slabs with free blocks are not listed"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
