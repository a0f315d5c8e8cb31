//! Physical memory of devices, and files by which other processes reach it.
//!
//! A piece that was exported is in a file of memory: its bytes, and behind them a header by
//! which an importer knows what it has got. Before that it has no file, of which a process may
//! have few.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};

use crate::State;
use crate::code::{
    ERROR_INVALID_VALUE, ERROR_NOT_SUPPORTED, ERROR_OUT_OF_MEMORY, ERROR_UNKNOWN, Outcome,
};
use crate::memory::Handle;
use crate::span::Span;

/// The handle type of file descriptors.
pub const FILE: u32 = 1;

/// Physical memory of a device, under a number that no other had.
pub struct Piece {
    pub id: u64,
    pub device: usize,
    pub bytes: u64,
    /// None where only counts are kept.
    alias: Option<Span>,
    /// What it can be exported as.
    pub exports: u32,
    /// Where the bytes are, once that was asked for.
    file: OnceLock<OwnedFd>,
}

/// What is behind the bytes in a file.
#[derive(Clone, Copy, PartialEq)]
struct Header {
    bytes: u64,
    device: u64,
}

const MAGIC: &[u8; 16] = b"simulated memory";

impl Header {
    fn write(self, file: &OwnedFd) -> Outcome {
        let mut words = MAGIC.to_vec();
        words.extend(self.bytes.to_le_bytes());
        words.extend(self.device.to_le_bytes());
        let at = self.bytes as libc::off_t;
        // SAFETY: the words live during the call.
        let written =
            unsafe { libc::pwrite(file.as_raw_fd(), words.as_ptr().cast(), words.len(), at) };
        if written == words.len() as isize { Ok(()) } else { Err(ERROR_OUT_OF_MEMORY) }
    }

    /// The header at the end of a file, if there is one.
    fn read(file: RawFd) -> Option<Header> {
        let mut words = [0u8; 32];
        let at = status(file)?.st_size - words.len() as libc::off_t;
        // SAFETY: room for as many bytes.
        let read = unsafe { libc::pread(file, words.as_mut_ptr().cast(), words.len(), at) };
        if read != words.len() as isize || words[..16] != *MAGIC {
            return None;
        }
        let number = |from: usize| words[from..from + 8].try_into().map(u64::from_le_bytes).ok();
        let header = Header { bytes: number(16)?, device: number(24)? };
        (header.bytes == at as u64).then_some(header)
    }
}

fn status(file: RawFd) -> Option<libc::stat> {
    let mut status = std::mem::MaybeUninit::uninit();
    // SAFETY: room for the answer, which is there if the call succeeds.
    unsafe { (libc::fstat(file, status.as_mut_ptr()) == 0).then(|| status.assume_init()) }
}

/// Whether two descriptors are of one file.
fn same(a: RawFd, b: RawFd) -> bool {
    match (status(a), status(b)) {
        (Some(a), Some(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

/// A descriptor of its own of the same file.
fn duplicate(file: RawFd) -> Outcome<OwnedFd> {
    // SAFETY: a system call on a number.
    let copy = unsafe { libc::dup(file) };
    if copy < 0 {
        return Err(ERROR_INVALID_VALUE);
    }
    // SAFETY: it is new, so that nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

impl Piece {
    /// Where the bytes from `offset` on are.
    pub fn at(&self, offset: u64) -> Option<*mut u8> {
        let alias = self.alias.as_ref()?;
        Some(alias.base.wrapping_add(offset as usize))
    }

    /// The file that the bytes are in, from now on.
    fn file(&self) -> Outcome<&OwnedFd> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = file(Header { bytes: self.bytes, device: self.device as u64 })?;
        if let Some(alias) = &self.alias {
            alias.move_to(file.as_raw_fd())?;
        }
        Ok(self.file.get_or_init(|| file))
    }

    fn new(
        (id, exports): (u64, u32),
        header: Header,
        counted: bool,
        file: Option<OwnedFd>,
    ) -> Outcome<Piece> {
        let Header { bytes, device } = header;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let alias = match &file {
            _ if counted => None,
            Some(file) => Some(Span::of_file(file.as_raw_fd(), bytes)?),
            None => Some(Span::new(bytes, access, 4096)?),
        };
        let file = file.map_or_else(OnceLock::new, OnceLock::from);
        Ok(Piece { id, device: device as usize, bytes, alias, exports, file })
    }
}

impl State {
    /// Memory of a device, counted to it until [`State::let_go`].
    pub fn piece(&mut self, device: usize, bytes: u64, exports: u32) -> Outcome<Arc<Piece>> {
        let header = Header { bytes, device: device as u64 };
        if exports != 0 && (exports != FILE || !self.config.exports) {
            return Err(ERROR_NOT_SUPPORTED);
        }
        self.held(header, exports, None)
    }

    fn fits(&self, header: Header) -> Outcome<u64> {
        let used = self.memory.used(header.device as usize);
        let after = used.checked_add(header.bytes).ok_or(ERROR_OUT_OF_MEMORY)?;
        if after > self.config.capacity { Err(ERROR_OUT_OF_MEMORY) } else { Ok(after) }
    }

    fn held(&mut self, header: Header, exports: u32, file: Option<OwnedFd>) -> Outcome<Arc<Piece>> {
        let after = self.fits(header)?;
        let counted = self.config.bookkeeping;
        let piece = Piece::new((self.handle(), exports), header, counted, file)?;
        self.memory.used[piece.device] = after;
        self.memory.holders.insert(piece.id, 1);
        Ok(Arc::new(piece))
    }

    /// Memory of a device that its pool counts.
    pub fn uncounted(&mut self, device: usize, bytes: u64) -> Outcome<Arc<Piece>> {
        let header = Header { bytes, device: device as u64 };
        let counted = self.config.bookkeeping;
        Ok(Arc::new(Piece::new((self.handle(), 0), header, counted, None)?))
    }

    /// One holder of a piece less: a handle, or a plain allocation.
    pub fn let_go(&mut self, piece: &Piece) {
        let memory = &mut self.memory;
        match memory.holders.get_mut(&piece.id) {
            Some(holders) if *holders > 1 => *holders -= 1,
            counted => {
                if counted.is_some() {
                    memory.used[piece.device] -= piece.bytes;
                }
                memory.holders.remove(&piece.id);
                memory.accesses.remove(&piece.id);
            }
        }
    }

    /// A file descriptor for the memory of a handle.
    pub fn export(&mut self, handle: u64) -> Outcome<OwnedFd> {
        let it = self.memory.handles.get(&handle).ok_or(ERROR_INVALID_VALUE)?;
        if it.piece.exports != FILE {
            return Err(ERROR_INVALID_VALUE);
        }
        duplicate(it.piece.file()?.as_raw_fd())
    }

    /// A new handle for the memory that a descriptor is of; the descriptor stays the caller's.
    pub fn import(&mut self, file: RawFd) -> Outcome<u64> {
        if !self.config.exports || !self.config.virtual_memory {
            return Err(ERROR_NOT_SUPPORTED);
        }
        let header = Header::read(file).ok_or(ERROR_INVALID_VALUE)?;
        self.device(header.device as i32)?;
        let known = self.memory.handles.values().find_map(|it| {
            let own = it.piece.file.get()?;
            same(own.as_raw_fd(), file).then(|| Arc::clone(&it.piece))
        });
        let piece = match known {
            Some(piece) => {
                *self.memory.holders.entry(piece.id).or_default() += 1;
                piece
            }
            None => self.held(header, FILE, Some(duplicate(file)?))?,
        };
        let handle = self.handle();
        self.memory.handles.insert(handle, Handle { piece, references: 1, mappings: 0 });
        Ok(handle)
    }
}

/// A file for bytes that are zero, with its header.
fn file(header: Header) -> Outcome<OwnedFd> {
    // SAFETY: a system call with a string that stays.
    let number = unsafe { libc::memfd_create(c"simulated".as_ptr(), libc::MFD_CLOEXEC) };
    if number < 0 {
        return Err(ERROR_UNKNOWN);
    }
    // SAFETY: it is new.
    let file = unsafe { OwnedFd::from_raw_fd(number) };
    header.write(&file)?;
    Ok(file)
}
