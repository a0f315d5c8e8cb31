//! What a batch is made of, and where in a slot each part of it goes.

use std::os::fd::RawFd;

use super::{copy, file};
use crate::device::cuda::Piece;
use crate::error::{Result, fail};

/// A leaf begins at a multiple of this in the slot, in bytes.
pub const ALIGNMENT: u64 = 256;

/// One that is read past the page cache begins at a multiple of this, and so does its range in the
/// file.
pub const DIRECT_ALIGNMENT: u64 = 4096;

/// Most leaves of a batch.
pub const LEAVES_MAX: usize = 1 << 20;

/// Bytes that a thread takes at a time. Small enough that several threads share a batch, and that
/// a batch is called off soon; large enough that the lock between two of them costs nothing.
pub const CHUNK: u64 = 512 << 10;

/// Where bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Memory at this address.
    Memory {
        /// First byte.
        address: usize,
        /// Whether a device can copy from there by itself: then nothing is staged.
        pinned: bool,
    },
    /// A file.
    File {
        /// It stays open until the bytes are staged.
        fd: RawFd,
        /// First byte.
        offset: u64,
        /// Whether to read past the page cache.
        direct: bool,
    },
}

/// A part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Where it comes from.
    pub source: Source,
    /// How many bytes.
    pub bytes: u64,
}

/// A leaf and where in the slot it goes.
#[derive(Clone, Copy, Debug)]
struct Placed {
    leaf: Leaf,
    at: u64,
}

impl Placed {
    fn end(&self) -> u64 {
        self.at + self.leaf.bytes
    }

    /// Whether a thread writes it to the staging memory.
    fn is_staged(&self) -> bool {
        !matches!(self.leaf.source, Source::Memory { pinned: true, .. })
    }
}

/// A batch, as it is packed. Used again for the next one in its slot, so that no memory is asked
/// for on each step.
#[derive(Debug, Default)]
pub struct Job {
    placed: Vec<Placed>,
    /// Bytes from the start of the first leaf to the end of the last.
    total: u64,
    /// Of them, those that threads write.
    staged: u64,
    /// What is copied to the device.
    pieces: Vec<Piece>,
}

// What a job reads was promised to be there by who submitted it.
impl Job {
    /// Becomes the batch of `leaves`; what is not pinned already is staged, if there is something
    /// to stage for: on the host everything is.
    pub fn fill(
        &mut self,
        leaves: impl ExactSizeIterator<Item = Leaf>,
        all_staged: bool,
        most: u64,
    ) -> Result<()> {
        self.clear();
        if leaves.len() > LEAVES_MAX {
            return Err(fail!(
                InvalidArgument,
                "count is {}; a batch has at most {LEAVES_MAX} leaves",
                leaves.len()
            ));
        }
        if self.placed.try_reserve(leaves.len()).is_err() {
            return Err(fail!(OutOfMemory, "no memory to note {} leaves", leaves.len()));
        }
        let mut end = 0u64;
        for (index, mut leaf) in leaves.enumerate() {
            let mut alignment = ALIGNMENT;
            match &mut leaf.source {
                Source::Memory { address: 0, .. } if leaf.bytes > 0 => {
                    return Err(fail!(
                        InvalidArgument,
                        "leaves[{index}].data is NULL, and its size is {}",
                        leaf.bytes
                    ));
                }
                Source::Memory { pinned, .. } => *pinned &= !all_staged && leaf.bytes > 0,
                Source::File { fd, .. } if *fd < 0 => {
                    return Err(fail!(
                        InvalidArgument,
                        "leaves[{index}].fd is {fd}; it must be a file that is open"
                    ));
                }
                Source::File { offset, direct, .. } => {
                    if offset.checked_add(leaf.bytes).is_none_or(|end| i64::try_from(end).is_err())
                    {
                        return Err(fail!(
                            InvalidArgument,
                            "leaves[{index}].offset is {offset}, and its size is {}; no file is so \
                             long",
                            leaf.bytes
                        ));
                    }
                    if *direct {
                        alignment = DIRECT_ALIGNMENT;
                    }
                }
            }
            let at = end.next_multiple_of(alignment);
            let over = || {
                fail!(
                    InvalidArgument,
                    "leaves[0..={index}] need more than {most} bytes, which is what a slot has at \
                     most"
                )
            };
            end = at.checked_add(leaf.bytes).filter(|&end| end <= most).ok_or_else(over)?;
            if leaf.bytes > 0 {
                self.placed.push(Placed { leaf, at });
            }
        }
        self.total = end;
        self.staged = self.placed.iter().filter(|it| it.is_staged()).map(|it| it.leaf.bytes).sum();
        Ok(())
    }

    /// Becomes a batch of `bytes` bytes that are in the staging memory already.
    pub fn fill_lent(&mut self, bytes: u64) {
        self.clear();
        self.total = bytes;
    }

    /// Forgets the addresses of the batch.
    pub fn clear(&mut self) {
        self.placed.clear();
        self.pieces.clear();
        (self.total, self.staged) = (0, 0);
    }

    /// Bytes that the slot has to have.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that threads write.
    pub fn staged(&self) -> u64 {
        self.staged
    }

    /// In how many parts they are written.
    pub fn chunks(&self) -> u32 {
        if self.staged == 0 { 0 } else { self.total.div_ceil(CHUNK) as u32 }
    }

    /// Whether a device reads what was submitted where it is.
    pub fn goes_straight(&self) -> bool {
        self.placed.iter().any(|it| !it.is_staged())
    }

    /// Notes what a device copies, now that it is known where the slot is: one piece for all that
    /// is staged side by side.
    pub fn cut(&mut self, staging: usize, address: usize) {
        let place = |base: usize, at: u64| base + at as usize;
        if self.placed.is_empty() && self.total > 0 {
            let bytes = self.total as usize;
            self.pieces.push(Piece { from: staging, to: address, bytes });
        }
        let mut joined = false;
        for it in &self.placed {
            let to = place(address, it.at);
            match it.leaf.source {
                Source::Memory { address: from, pinned: true } => {
                    self.pieces.push(Piece { from, to, bytes: it.leaf.bytes as usize });
                    joined = false;
                }
                _ => match self.pieces.last_mut() {
                    Some(last) if joined => last.bytes = place(address, it.end()) - last.to,
                    _ => {
                        let (from, bytes) = (place(staging, it.at), it.leaf.bytes as usize);
                        self.pieces.push(Piece { from, to, bytes });
                        joined = true;
                    }
                },
            }
        }
    }

    /// What a device copies.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Writes a chunk of the batch to `staging`.
    ///
    /// # Safety
    /// The sources are there, and the slot has [`Job::total`] bytes at `staging`, this chunk of
    /// which nobody else uses.
    pub unsafe fn write(&self, chunk: u32, staging: usize, streaming: bool) -> Result<()> {
        let from = u64::from(chunk) * CHUNK;
        let to = (from + CHUNK).min(self.total);
        let first = self.placed.partition_point(|it| it.end() <= from);
        for it in self.placed[first..].iter().take_while(|it| it.at < to) {
            if !it.is_staged() {
                continue;
            }
            let (begin, end) = (it.at.max(from), it.end().min(to));
            let (skip, bytes) = (begin - it.at, (end - begin) as usize);
            let place = staging + begin as usize;
            // SAFETY: inside the leaf, and inside the chunk.
            unsafe {
                match it.leaf.source {
                    Source::Memory { address, .. } => {
                        copy::copy(address + skip as usize, place, bytes, streaming);
                    }
                    Source::File { fd, offset, direct } => {
                        file::read(fd, offset + skip, place, bytes, direct)?;
                    }
                }
            }
        }
        Ok(())
    }
}
