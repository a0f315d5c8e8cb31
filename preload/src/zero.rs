//! Zeroing what is not zero yet.
//!
//! A block of the pool may lie in pages that nobody has written to since they came from the
//! kernel. Linux says which (`PAGEMAP_SCAN`, from 6.7 on): those are left alone. Without it all is
//! written. In a program that goes on most blocks are written all over, which `mincore` says sooner.

use core::ffi::c_void;

/// Blocks from this size on are asked about: 1.4 µs where all of it has memory, 7 to 20 where not. To
/// write as many bytes takes 17 µs where they have memory, and 100 to 200 where they have not.
const ASKED_FROM: usize = 1 << 20;
/// Blocks to this size are asked for their memory first. To write a larger one takes so long that
/// one question more would not be seen.
const ALL_THERE_MOST: usize = 8 << 20;
const PAGE: usize = 4096;

/// `struct pm_scan_arg` of the kernel.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `PAGEMAP_SCAN`, `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
/// `PAGE_IS_PRESENT`, `PAGE_IS_SWAPPED`, `PAGE_IS_PFNZERO`.
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;
const OF_ZEROS: u64 = 1 << 5;

/// Zeroes `bytes` bytes at `ptr`.
///
/// # Safety
/// They are the caller's alone, private anonymous memory, and may be written to.
pub unsafe fn zero(ptr: *mut c_void, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let start = ptr as usize;
        if bytes < ASKED_FROM || is_all_there(start, bytes) || !zero_written(start, bytes) {
            ptr.cast::<u8>().write_bytes(0, bytes);
        }
    }
}

/// Whether all of the bytes from `start` on have memory at this moment: then there is nothing to be
/// saved. False too where it is not known.
fn is_all_there(start: usize, bytes: usize) -> bool {
    let mut there = [0u8; ALL_THERE_MOST / PAGE + 1];
    let first = start / PAGE * PAGE;
    let pages = (start + bytes - first).div_ceil(PAGE);
    let Some(there) = there.get_mut(..pages) else { return false };
    // SAFETY: whole pages that are mapped, and a byte for each of them.
    let status = unsafe { libc::mincore(first as *mut c_void, pages * PAGE, there.as_mut_ptr()) };
    status == 0 && there.iter().all(|page| page & 1 == 1)
}

/// Zeroes what was ever written to of the bytes from `start` on. False when the kernel does not
/// say; some of them are zeroed then.
///
/// # Safety
/// As for [`zero`].
unsafe fn zero_written(start: usize, bytes: usize) -> bool {
    let end = start + bytes;
    let (first, last) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    // Opened each time: a descriptor that stays is one that programs close, and a child would ask
    // about its parent with it.
    // SAFETY: a name that ends with a NUL.
    let pagemap =
        unsafe { libc::open(c"/proc/self/pagemap".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if pagemap < 0 {
        return false;
    }
    let write = |from: usize, to: usize| {
        // SAFETY: a part of the caller's bytes.
        unsafe { (from as *mut u8).write_bytes(0, to.saturating_sub(from)) };
    };
    let mut at = first;
    let mut known = true;
    while at < last {
        let mut regions = [Region::default(); 32];
        let mut scan = Scan {
            size: size_of::<Scan>() as u64,
            start: at as u64,
            end: last as u64,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            category_anyof_mask: PRESENT | SWAPPED,
            return_mask: PRESENT | SWAPPED | OF_ZEROS,
            ..Scan::default()
        };
        // SAFETY: the kernel writes to the two places that it is told of.
        let found = unsafe { libc::ioctl(pagemap, PAGEMAP_SCAN, &raw mut scan) };
        let Ok(found) = usize::try_from(found) else {
            known = false;
            break;
        };
        for region in regions.iter().take(found) {
            if region.categories & OF_ZEROS == 0 {
                write(region.start as usize, region.end as usize);
            }
        }
        if scan.walk_end as usize <= at {
            known = false;
            break;
        }
        at = scan.walk_end as usize;
    }
    // SAFETY: opened above.
    unsafe { libc::close(pagemap) };
    if known {
        write(start, first);
        write(last, end);
    }
    known
}

#[cfg(test)]
mod tests {
    use super::{ASKED_FROM, PAGE, zero};

    fn mapped(bytes: usize) -> *mut u8 {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh mapping at an address of the system's choice.
        let at = unsafe { libc::mmap(core::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        at.cast()
    }

    #[test]
    fn what_was_written_is_zero_and_nothing_else_changes() {
        let bytes = 4 * ASKED_FROM;
        for (start, end) in [(0, bytes), (1, bytes - 1), (PAGE, bytes), (16, ASKED_FROM + 17)] {
            for step in [1, PAGE, 3 * PAGE, bytes] {
                let at = mapped(bytes);
                // SAFETY: inside the mapping.
                unsafe {
                    for written in (0..bytes).step_by(step) {
                        at.add(written).write(7);
                    }
                    zero(at.add(start).cast(), end - start);
                    for n in 0..bytes {
                        let outside = !(start..end).contains(&n) && n.is_multiple_of(step);
                        assert_eq!(at.add(n).read(), if outside { 7 } else { 0 }, "{n} {step}");
                    }
                    libc::munmap(at.cast(), bytes);
                }
            }
        }
    }

    #[test]
    fn pages_that_were_never_written_stay_away() {
        let bytes = 64 << 20;
        let at = mapped(bytes);
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * PAGE
        };
        let before = resident();
        // SAFETY: the whole mapping.
        unsafe { zero(at.cast(), bytes) };
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = kernel.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version >= (6, 7) {
            assert!(resident() < before + (8 << 20), "{before} {}", resident());
        }
        // SAFETY: as above.
        unsafe { libc::munmap(at.cast(), bytes) };
    }
}
