//! Reads of files: several at a time through io_uring, and with pread where the kernel refuses that.
//!
//! Everything but the speed is pread's: what a ring did not read, for whatever reason, pread reads
//! again, and says what is wrong.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use io_uring::{IoUring, opcode, types};

use super::source::DIRECT_ALIGNMENT;
use crate::error::{Result, fail};
use crate::order::host_stream;

/// Bytes of one read in a ring. Below two of them a ring is not worth its calls.
const PART: usize = 128 << 10;

/// Most reads in a ring at a time.
const ENTRIES: u32 = 16;

/// The kernel has no rings, or none for this process.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// A thread's ring, and the process that it was made in: a forked child shares its memory.
struct Ring {
    ring: IoUring,
    process: u32,
}

thread_local! {
    static RING: RefCell<Option<Ring>> = const { RefCell::new(None) };
}

/// Reads `bytes` bytes from `offset` on to `to`. `direct`: past the page cache, as far as the file's
/// system can and the range begins and ends at its blocks. An error names the offset at which it was.
///
/// # Safety
/// The bytes at `to` are there, and are the caller's.
pub unsafe fn read(fd: RawFd, offset: u64, to: usize, bytes: usize, direct: bool) -> Result<()> {
    let block = DIRECT_ALIGNMENT as usize;
    let aligned = direct && offset.is_multiple_of(DIRECT_ALIGNMENT) && to.is_multiple_of(block);
    let whole = if aligned { bytes / block * block } else { 0 };
    let past_cache = if whole > 0 { open_direct(fd) } else { None };
    let done = match &past_cache {
        // SAFETY: a part of the caller's bytes.
        Some(file) => unsafe { read_ahead(file.as_raw_fd(), offset, to, whole) },
        None => 0,
    };
    // SAFETY: as above.
    unsafe {
        let done = done + read_ahead(fd, offset + done as u64, to + done, bytes - done);
        read_plain(fd, offset + done as u64, to + done, bytes - done)
    }
}

/// The file behind a descriptor, opened once more for reads past the page cache; the caller's own
/// stays as it is. None where its system has none.
fn open_direct(fd: RawFd) -> Option<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(libc::O_DIRECT);
    options.open(format!("/proc/self/fd/{fd}")).ok()
}

/// Reads with a ring, from the start on, as much as it can; returns how many bytes.
///
/// # Safety
/// As for [`read`].
unsafe fn read_ahead(fd: RawFd, offset: u64, to: usize, bytes: usize) -> usize {
    if bytes < 2 * PART || REFUSED.load(Ordering::Relaxed) {
        return 0;
    }
    let read = RING.try_with(|place| {
        let Ok(mut place) = place.try_borrow_mut() else { return 0 };
        if place.as_ref().is_none_or(|own| own.process != host_stream::process()) {
            let Ok(ring) = IoUring::new(ENTRIES) else {
                REFUSED.store(true, Ordering::Relaxed);
                return 0;
            };
            *place = Some(Ring { ring, process: host_stream::process() });
        }
        let Some(own) = place.as_mut() else { return 0 };
        let mut done = 0;
        while done < bytes {
            let more = bytes.min(done + PART * ENTRIES as usize) - done;
            let (fd, at) = (types::Fd(fd), offset + done as u64);
            // SAFETY: a part of the caller's bytes.
            let Some(got) = (unsafe { read_round(&mut own.ring, fd, at, to + done, more) }) else {
                *place = None;
                break;
            };
            done += got;
            if got < more {
                break;
            }
        }
        done
    });
    // A thread that ends has no ring any more.
    read.unwrap_or(0)
}

/// Reads at most [`ENTRIES`] parts at once; returns how many bytes there are without a gap. The
/// kernel is done with all of them when this returns. None when the ring is of no use any more.
///
/// # Safety
/// As for [`read`].
unsafe fn read_round(
    ring: &mut IoUring,
    fd: types::Fd,
    offset: u64,
    to: usize,
    bytes: usize,
) -> Option<usize> {
    let mut got = [0usize; ENTRIES as usize];
    let parts = bytes.div_ceil(PART);
    let length = |part: usize| PART.min(bytes - part * PART);
    let mut queued = 0;
    for part in 0..parts {
        let at = part * PART;
        let entry = opcode::Read::new(fd, (to + at) as *mut u8, length(part) as u32)
            .offset(offset + at as u64)
            .build()
            .user_data(part as u64);
        // SAFETY: the bytes are the caller's until this returns, and the kernel is done then.
        if unsafe { ring.submission().push(&entry) }.is_err() {
            break;
        }
        queued += 1;
    }
    let mut finished = 0;
    while finished < queued {
        // What the kernel has taken it will finish. With an error, such as a signal, the rest stays
        // in the ring; if that is all, the ring is given up.
        if ring.submit_and_wait(1).is_err() && ring.submission().len() == queued - finished {
            return None;
        }
        for done in ring.completion() {
            finished += 1;
            if let (Some(place), Ok(bytes)) =
                (got.get_mut(done.user_data() as usize), usize::try_from(done.result()))
            {
                *place = bytes;
            }
        }
    }
    let whole = (0..queued).take_while(|&part| got[part] == length(part)).count();
    let next = if whole < queued { got[whole] } else { 0 };
    Some((whole * PART).min(bytes) + next)
}

/// Reads with pread, to the end or the error.
///
/// # Safety
/// As for [`read`].
unsafe fn read_plain(fd: RawFd, offset: u64, to: usize, bytes: usize) -> Result<()> {
    let mut done = 0;
    while done < bytes {
        let at = offset + done as u64;
        // SAFETY: the caller's promise.
        let got =
            unsafe { libc::pread64(fd, (to + done) as *mut libc::c_void, bytes - done, at as i64) };
        if got > 0 {
            done += got as usize;
        } else if got == 0 {
            return Err(fail!(
                Io,
                "the file behind descriptor {fd} ends at {}, before {}, to which it was to be read",
                end_of(fd, at),
                offset + bytes as u64
            ));
        } else {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(fail!(
                    Io,
                    "{} bytes at {at} of the file behind descriptor {fd} could not be read: \
                     {error}",
                    bytes - done
                ));
            }
        }
    }
    Ok(())
}

/// Where the file behind a descriptor ends, of which there is nothing at `at`. Ranges are read in
/// parts, of which the first to fail may lie well behind the end.
fn end_of(fd: RawFd, at: u64) -> u64 {
    // SAFETY: all zeros is a value of it; filled before it is read.
    let mut about: libc::stat64 = unsafe { std::mem::zeroed() };
    // SAFETY: a place of this frame.
    let known = unsafe { libc::fstat64(fd, &raw mut about) } == 0;
    if known && about.st_mode & libc::S_IFMT == libc::S_IFREG {
        at.min(about.st_size as u64)
    } else {
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pattern(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 7 + at / 256) as u8).collect()
    }

    #[test]
    fn a_ring_reads_what_pread_reads() {
        host_stream::HostStream::create().unwrap().destroy().unwrap();
        let bytes = pattern(5 << 20);
        let name = format!("forebay-file-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        File::create(&path).unwrap().write_all(&bytes).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut target = vec![0u8; (5 << 20) + 4096];
        let to = (target.as_mut_ptr() as usize).next_multiple_of(4096);
        for refused in [false, true] {
            REFUSED.store(refused, Ordering::Relaxed);
            for direct in [false, true] {
                for (offset, length) in [(0, 5 << 20), (4096, 3_000_001), (1, 300_000), (99, 7)] {
                    // SAFETY: the target has room, at its first address that is aligned.
                    unsafe {
                        std::ptr::write_bytes(to as *mut u8, 0, length);
                        read(file.as_raw_fd(), offset as u64, to, length, direct).unwrap();
                        let got = std::slice::from_raw_parts(to as *const u8, length);
                        assert!(got == &bytes[offset..offset + length], "{offset} +{length}");
                        // Beyond the end, and of what is no file, it says where.
                        let end = bytes.len() as u64;
                        let short = read(file.as_raw_fd(), end - 4096, to, 1 << 20, direct);
                        assert!(short.unwrap_err().message().contains("ends at 5242880"));
                        let none = read(1_000_000, 0, to, 1 << 20, direct).unwrap_err();
                        assert!(none.message().contains("at 0 of the file"), "{none}");
                    }
                }
            }
        }
        REFUSED.store(false, Ordering::Relaxed);
    }
}
