//! Blocks as the hit path sees them: from an address to the state of its block, without a
//! lock.
//!
//! Each run of its own and each slab has a [`Head`]: where it starts, how large its blocks
//! are, and a word of state per block. [`BlockTable`] leads from an address to its head. The
//! bytes of a block are never touched, so the same table serves memory that the host cannot
//! read.
//!
//! A head's memory stays until the pool is gone and is used again only for a head of as many
//! words. So a stray address can at worst find the head of another block, never freed
//! memory; whether it names a block is then settled by start, size and state.

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::space::{CHUNK, MAX_CLASSES};

/// The owner of a block that no front cache gave out.
pub const NO_OWNER: u32 = (1 << 14) - 1;

/// Whether a block is given out. The word of a block:
///
/// ```text
/// bits  0..2   state
/// bits  2..16  the slot (front cache) that gave the block out or keeps it, or NO_OWNER
/// bits 16..32  bytes of the block that were not asked for (slabs; runs keep them apart)
/// ```
pub mod state {
    /// In the shared pool, or never given out.
    pub const FREE: u32 = 0;
    /// Given out.
    pub const LIVE: u32 = 1;
    /// Kept by a front cache, or, with no owner, by a call that is under way.
    pub const CACHED: u32 = 2;
    /// Given out, and other streams use it too.
    pub const FOLLOWED: u32 = 3;
}

/// A block's word in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u32);

impl Word {
    /// The word of a block that a call is about to give out or has just taken back: nobody
    /// else's, and in no cache.
    pub const HELD: Word = Word(state::CACHED | NO_OWNER << 2);

    /// Puts a word together.
    #[inline]
    pub fn new(state: u32, owner: u32, waste: u32) -> Word {
        Word(state | owner << 2 | waste << 16)
    }

    /// The state.
    #[inline]
    pub fn state(self) -> u32 {
        self.0 & 3
    }

    /// The owner.
    #[inline]
    pub fn owner(self) -> u32 {
        self.0 >> 2 & NO_OWNER
    }

    /// The bytes that were not asked for, of a block in a slab.
    #[inline]
    pub fn waste(self) -> u32 {
        self.0 >> 16
    }

    /// Whether the block is given out.
    #[inline]
    pub fn is_live(self) -> bool {
        self.0 & 1 != 0
    }
}

/// As many words as a cache line has. Words of different heads are never in one line: threads
/// write them all the time.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [AtomicU32; 16]);

/// A run of its own, or a slab. Read at every free: in a cache line of its own, so that nobody
/// writes beside it.
#[derive(Debug)]
#[repr(align(64))]
pub struct Head {
    start: AtomicU64,
    size: AtomicU64,
    /// 2^40 / size rounded up, to divide by multiplying; 0 for a run of its own.
    reciprocal: AtomicU64,
    /// The bin of a front cache that its blocks go to.
    bin: AtomicU32,
    /// Its run or slab in the space.
    id: AtomicU32,
    /// A word per block; a run of its own has a second one, for its waste.
    count: usize,
    words: *const AtomicU32,
    /// The words of a run of its own, so that whoever frees it finds all in one line.
    own: [AtomicU32; LARGE_WORDS],
}

/// A run of its own has two words: state and waste.
const LARGE_WORDS: usize = 2;

const _: () = assert!(size_of::<Head>() == 64);

/// Bins of front caches: one per size class, then the ones for runs by a hash of their size.
pub const LARGE_BINS: usize = 128;
/// All bins of a front cache.
pub const BINS: usize = MAX_CLASSES + LARGE_BINS;

/// The bin for runs of `size` bytes.
#[inline]
pub fn large_bin(size: u64) -> usize {
    // Fibonacci hashing of the size in granules: their 512 bytes are divided out of the factor.
    let hash = size.wrapping_mul(0x9E37_79B9_7F4A_7C15 / 512);
    MAX_CLASSES + (hash >> (64 - LARGE_BINS.trailing_zeros())) as usize
}

impl Head {
    /// A head of nothing yet, with `count` words at `words`.
    fn new(count: usize, words: *const AtomicU32) -> Head {
        Head {
            start: AtomicU64::new(0),
            size: AtomicU64::new(0),
            reciprocal: AtomicU64::new(0),
            bin: AtomicU32::new(0),
            id: AtomicU32::new(0),
            count,
            words,
            own: Default::default(),
        }
    }

    /// Makes it the head of `id`, whose blocks of `size` bytes go to `bin`.
    fn set(&self, table: &BlockTable, (start, size): (u64, u64), bin: usize, id: u32) {
        self.start.store(table.base as u64 + start, Ordering::Relaxed);
        self.size.store(size, Ordering::Relaxed);
        self.bin.store(bin as u32, Ordering::Relaxed);
        self.id.store(id, Ordering::Relaxed);
    }

    /// Bytes of one block.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// The bin its blocks go to.
    #[inline]
    pub fn bin(&self) -> usize {
        self.bin.load(Ordering::Relaxed) as usize
    }

    /// Whether it is a run of its own.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.bin() >= MAX_CLASSES
    }

    /// Its run or slab.
    pub fn id(&self) -> u32 {
        self.id.load(Ordering::Relaxed)
    }

    /// Address of block `index`.
    pub fn address(&self, index: usize) -> usize {
        (self.start.load(Ordering::Relaxed) + self.size() * index as u64) as usize
    }

    /// The word of block `index`.
    #[inline(always)]
    pub fn word(&self, index: usize) -> &AtomicU32 {
        &self.words()[index]
    }

    #[inline(always)]
    fn words(&self) -> &[AtomicU32] {
        // SAFETY: `count` words, one behind the other, of its own or in lines that stay as long
        // as it does.
        unsafe { std::slice::from_raw_parts(self.words, self.count) }
    }

    /// The block of `size` bytes, which is the head's size, that starts at `address`.
    #[inline(always)]
    pub fn index_of(&self, address: usize, size: u64) -> Option<usize> {
        let into = (address as u64).wrapping_sub(self.start.load(Ordering::Relaxed));
        // A slab is at most 256 KiB, so this is exact: into < 2^18, the reciprocal's error
        // below 2^15, their product below 2^40.
        let index = (into.wrapping_mul(self.reciprocal.load(Ordering::Relaxed)) >> 40) as usize;
        (index < self.count && index as u64 * size == into).then_some(index)
    }

    /// Bytes asked for of live block `index`.
    #[inline]
    pub fn requested(&self, index: usize) -> u64 {
        self.size() - self.waste(index)
    }

    /// Bytes of live block `index` that were not asked for.
    #[inline]
    pub fn waste(&self, index: usize) -> u64 {
        if self.is_large() {
            self.run_waste()
        } else {
            u64::from(Word(self.word(index).load(Ordering::Relaxed)).waste())
        }
    }

    /// The same of a run of its own.
    #[inline(always)]
    pub fn run_waste(&self) -> u64 {
        u64::from(self.own[1].load(Ordering::Relaxed))
    }

    /// The word of a run of its own, if it starts at `address`.
    #[inline(always)]
    pub fn run_word(&self, address: usize) -> Option<&AtomicU32> {
        (self.start.load(Ordering::Relaxed) == address as u64).then_some(&self.own[0])
    }
}

/// What an address is to a pool.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// The first byte of a block, which may be free: its head, its number in it.
    Block(&'a Head, usize),
    /// An address of the pool that is not the first byte of a block.
    Inside,
    /// Not an address of the pool.
    Foreign,
}

/// From addresses to heads.
pub struct BlockTable {
    base: usize,
    bytes: u64,
    heads: Box<[AtomicPtr<Head>]>,
}

impl BlockTable {
    /// A table for the addresses `[base, base + bytes)`.
    pub fn new(base: usize, bytes: u64) -> BlockTable {
        // SAFETY: all zeros is a null pointer, which is a valid AtomicPtr. Asking for zeroed
        // memory, instead of writing the nulls, leaves untouched parts of the table without
        // pages.
        let heads = unsafe {
            Box::<[AtomicPtr<Head>]>::new_zeroed_slice((bytes / CHUNK) as usize).assume_init()
        };
        BlockTable { base, bytes, heads }
    }

    /// First address.
    pub fn base(&self) -> usize {
        self.base
    }

    /// Addresses.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Looks `address` up.
    #[inline]
    pub fn find(&self, address: usize) -> Found<'_> {
        let offset = address.wrapping_sub(self.base) as u64;
        let Some(entry) = self.heads.get((offset / CHUNK) as usize) else { return Found::Foreign };
        let block = head_at(entry).and_then(|head| {
            let index = head.index_of(address, head.size())?;
            Some(Found::Block(head, index))
        });
        block.unwrap_or(Found::Inside)
    }

    /// What leads to [`head_at`], for the hit path: first address, entries, their number.
    pub fn parts(&self) -> (usize, *const AtomicPtr<Head>, usize) {
        (self.base, self.heads.as_ptr(), self.heads.len())
    }

    /// Enters `head` for the chunks that hold a first byte of one of its blocks.
    fn enter(&self, head: &Head, bytes: u64) {
        self.set(head, bytes, std::ptr::from_ref(head).cast_mut());
    }

    fn set(&self, head: &Head, bytes: u64, to: *mut Head) {
        let start = head.start.load(Ordering::Relaxed) - self.base as u64;
        let first = (start / CHUNK) as usize;
        let chunks = if head.is_large() { 1 } else { (bytes / CHUNK) as usize };
        for entry in &self.heads[first..first + chunks] {
            entry.store(to, Ordering::Release);
        }
    }
}

/// The head of the blocks that start in the chunk of `entry`.
#[inline(always)]
pub fn head_at(entry: &AtomicPtr<Head>) -> Option<&Head> {
    // SAFETY: null, or a head of `Heads`, which keeps its heads where they are until the pool,
    // and its table with it, is gone. Acquire: what was written to the head before it was
    // entered is seen.
    unsafe { entry.load(Ordering::Acquire).as_ref() }
}

/// The head of a slab, with its words.
struct SlabHead {
    head: Head,
    /// Where `head.words` leads.
    _lines: Box<[Line]>,
}

impl SlabHead {
    fn new(count: usize) -> Box<SlabHead> {
        let lines: Box<[Line]> = (0..count.div_ceil(16)).map(|_| Line::default()).collect();
        Box::new(SlabHead { head: Head::new(count, lines.as_ptr().cast()), _lines: lines })
    }
}

/// As many heads of runs as are made at a time: a page of them, side by side.
const RUN_HEADS: usize = 64;

fn run_heads() -> Box<[Head]> {
    let mut heads: Box<[Head]> =
        (0..RUN_HEADS).map(|_| Head::new(LARGE_WORDS, std::ptr::null())).collect();
    // Here they stay.
    heads.iter_mut().for_each(|head| head.words = head.own.as_ptr());
    heads
}

/// The heads of a pool: made, used again, and kept where they are.
#[derive(Default)]
pub struct Heads {
    /// By the run's id. They stay with the id: runs come and go all the time, and as all of
    /// them have as many words, the next run of that id can have the same head.
    of_run: Vec<Box<[Head]>>,
    /// By the slab's id; none while there is no such slab.
    of_slab: Vec<Option<Box<SlabHead>>>,
    /// Of slabs that are gone: how many words, and the heads of as many, by that number.
    #[allow(clippy::vec_box)]
    unused: Vec<(usize, Vec<Box<SlabHead>>)>,
}

impl Heads {
    /// A head for the slab `id` of `bytes` at offset `start`, cut into `count` blocks of
    /// `size`, of class `class`.
    pub fn add_slab(
        &mut self,
        table: &BlockTable,
        id: u32,
        class: usize,
        (start, size, bytes, count): (u64, u64, u64, u32),
    ) {
        let count = count as usize;
        let again = match self.unused.binary_search_by_key(&count, |&(words, _)| words) {
            Ok(at) => self.unused[at].1.pop(),
            Err(_) => None,
        };
        let slab = again.unwrap_or_else(|| SlabHead::new(count));
        let head = &slab.head;
        head.reciprocal.store((1u64 << 40).div_ceil(size), Ordering::Relaxed);
        head.set(table, (start, size), class, id);
        for word in head.words() {
            word.store(state::FREE, Ordering::Relaxed);
        }
        table.enter(head, bytes);
        if self.of_slab.len() <= id as usize {
            self.of_slab.resize_with(id as usize + 1, || None);
        }
        self.of_slab[id as usize] = Some(slab);
    }

    /// A head for the run `id` of `size` bytes at offset `start`.
    pub fn add_run(&mut self, table: &BlockTable, id: u32, start: u64, size: u64) -> &Head {
        while self.of_run.len() <= id as usize / RUN_HEADS {
            self.of_run.push(run_heads());
        }
        let head = self.of_run(id);
        head.set(table, (start, size), large_bin(size), id);
        // The waste is set with every allocation.
        head.word(0).store(state::FREE, Ordering::Relaxed);
        table.enter(head, size);
        head
    }

    /// The head of slab `id`, which there is.
    pub fn of_slab(&self, id: u32) -> &Head {
        match &self.of_slab[id as usize] {
            Some(slab) => &slab.head,
            None => unreachable!("slab {id} without a head"),
        }
    }

    /// The head of run `id`, which there is.
    pub fn of_run(&self, id: u32) -> &Head {
        &self.of_run[id as usize / RUN_HEADS][id as usize % RUN_HEADS]
    }

    /// The run `id` has another size now.
    pub fn resize_run(&mut self, id: u32, size: u64) {
        let head = self.of_run(id);
        head.size.store(size, Ordering::Relaxed);
        head.bin.store(large_bin(size) as u32, Ordering::Relaxed);
    }

    /// Takes the head of a slab of `bytes` out.
    pub fn remove_slab(&mut self, table: &BlockTable, id: u32, bytes: u64) {
        let Some(slab) = self.of_slab[id as usize].take() else { return };
        table.set(&slab.head, bytes, std::ptr::null_mut());
        let count = slab.head.count;
        match self.unused.binary_search_by_key(&count, |&(words, _)| words) {
            Ok(at) => self.unused[at].1.push(slab),
            Err(at) => self.unused.insert(at, (count, vec![slab])),
        }
    }

    /// Takes the head of a run out.
    pub fn remove_run(&mut self, table: &BlockTable, id: u32) {
        table.set(self.of_run(id), 0, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::PAGE;

    #[test]
    fn every_first_byte_is_found_and_nothing_else() {
        let base = 7 * PAGE as usize;
        let table = BlockTable::new(base, PAGE);
        let mut heads = Heads::default();
        let classes = crate::space::SizeClasses::new(16, 8);
        for class in 0..classes.len() {
            let (size, bytes) = (classes.size(class) as u64, classes.slab_bytes(class));
            let count = (bytes / size) as u32;
            heads.add_slab(&table, 3, class, (2 * CHUNK, size, bytes, count));
            for into in 0..bytes {
                let found = table.find(base + (2 * CHUNK + into) as usize);
                let index = (into / size) as usize;
                match found {
                    Found::Block(head, at) => {
                        assert_eq!((into % size, at, head.bin()), (0, index, class));
                    }
                    Found::Inside => assert!(into % size != 0 || index >= count as usize),
                    Found::Foreign => panic!("{into}"),
                }
            }
            heads.remove_slab(&table, 3, bytes);
            assert!(matches!(table.find(base + 2 * CHUNK as usize), Found::Inside));
        }
        assert!(matches!(table.find(base - 1), Found::Foreign));
        assert!(matches!(table.find(base + PAGE as usize), Found::Foreign));
    }

    #[test]
    fn a_run_is_found_by_its_first_byte() {
        let table = BlockTable::new(0, PAGE);
        let mut heads = Heads::default();
        heads.add_run(&table, 9, 512, 3 * CHUNK);
        assert!(matches!(table.find(512), Found::Block(head, 0) if head.id() == 9));
        for inside in [0, 511, 513, 1024, 512 + 3 * CHUNK as usize] {
            assert!(matches!(table.find(inside), Found::Inside), "{inside}");
        }
    }

    #[test]
    fn a_word_keeps_its_parts() {
        let word = Word::new(state::CACHED, 12_345, 65_535);
        assert_eq!((word.state(), word.owner(), word.waste()), (state::CACHED, 12_345, 65_535));
        assert!(!word.is_live() && Word::new(state::FOLLOWED, 0, 0).is_live());
    }
}
