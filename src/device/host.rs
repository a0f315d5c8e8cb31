//! System memory: one private reservation per pool, pages committed by `mprotect`, given
//! back by `madvise` and moved by `mremap`.
//!
//! Measured costs that decide here (2 MiB, a virtual machine, kernel 6.18): commit by
//! mprotect 1 µs; giving back with MADV_DONTNEED and touching again 240 to 770 µs, with
//! MADV_FREE 4 to 160 µs; moving resident pages with mremap 4 to 5 µs when source and target
//! are congruent modulo 2 MiB. So pages are given back lazily where that will do, and moved
//! rather than given back and taken anew. Private anonymous memory gives a forked child its
//! own copy.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use libc::{
    MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE,
};

use super::{Device, GiveBack, PAGE};
use crate::error::{Result, fail};

/// How system memory is to be used.
#[derive(Clone, Copy, Debug)]
pub struct HostOptions {
    /// Most page moves whose pieces may exist at a time: each can cost the process two of
    /// its mappings, of which Linux gives it 65,530 by default. Beyond it, pages are copied.
    pub move_budget: usize,
}

/// Once over the budget of moves, mappings are counted again after so many more.
const COUNT_EVERY: usize = 1024;

impl Default for HostOptions {
    fn default() -> HostOptions {
        HostOptions { move_budget: 8192 }
    }
}

/// System memory.
#[derive(Debug)]
pub struct Host {
    options: HostOptions,
    calls: AtomicU64,
    moves: AtomicUsize,
}

impl Host {
    /// System memory with `options`.
    pub fn new(options: HostOptions) -> Host {
        Host { options, calls: AtomicU64::new(0), moves: AtomicUsize::new(0) }
    }

    fn count(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether fewer than `budget` moves count. All that were made or asked for do, until there
    /// are as many as that; then the mappings there are, because neighbours that fit together
    /// have become one again.
    fn is_within(&self, budget: usize) -> bool {
        let made = self.moves.load(Ordering::Relaxed);
        if made < budget {
            return true;
        }
        if !(made - budget).is_multiple_of(COUNT_EVERY) {
            return false;
        }
        self.count();
        let Ok(maps) = std::fs::read("/proc/self/maps") else { return false };
        let moves = maps.iter().filter(|&&byte| byte == b'\n').count() / 2;
        if moves < budget {
            self.moves.store(moves, Ordering::Relaxed);
        }
        moves < budget
    }

    fn protect(&self, address: usize, bytes: u64, protection: i32) -> Result<()> {
        self.count();
        // SAFETY: the range lies in a reservation of ours, and whoever asks owns it.
        let code = unsafe { libc::mprotect(address as *mut _, bytes as usize, protection) };
        if code != 0 {
            return Err(fail!(
                OutOfMemory,
                "the system refused {bytes} bytes: {}",
                last_os_error()
            ));
        }
        Ok(())
    }

    fn advise(&self, address: usize, bytes: u64, advice: i32) -> bool {
        self.count();
        // SAFETY: the range lies in a reservation of ours, and whoever asks owns it.
        unsafe { libc::madvise(address as *mut _, bytes as usize, advice) == 0 }
    }

    /// The address space this process may still reserve, when a limit says so; half of it is
    /// left to everybody else.
    fn address_space_left() -> Option<u64> {
        crate::monitor::system().address_space_left().map(|left| left / 2)
    }
}

fn last_os_error() -> std::io::Error {
    std::io::Error::last_os_error()
}

impl Device for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn memory_bytes(&self) -> u64 {
        // SAFETY: plain queries.
        let (pages, size) =
            unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
        (pages.max(0) as u64).saturating_mul(size.max(0) as u64).max(PAGE)
    }

    fn is_short(&self) -> bool {
        crate::monitor::system().is_short(std::time::Instant::now())
    }

    fn reserve(&self, wanted: u64, least: u64) -> Result<(usize, u64)> {
        let ceiling = Host::address_space_left().unwrap_or(u64::MAX).max(least);
        let mut bytes = wanted.min(ceiling) / PAGE * PAGE;
        loop {
            // One page more, so that the start can be aligned.
            let size = (bytes + PAGE) as usize;
            self.count();
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
            // SAFETY: a fresh mapping at an address of the system's choice.
            let at = unsafe { libc::mmap(std::ptr::null_mut(), size, PROT_NONE, flags, -1, 0) };
            if at != MAP_FAILED {
                let start = (at as usize).next_multiple_of(PAGE as usize);
                let head = start - at as usize;
                let tail = PAGE as usize - head;
                // SAFETY: the two ends of the mapping just made, which nobody knows of.
                unsafe {
                    if head > 0 {
                        libc::munmap(at, head);
                    }
                    if tail > 0 {
                        libc::munmap((start + bytes as usize) as *mut _, tail);
                    }
                }
                return Ok((start, bytes));
            }
            if bytes / 2 < least.max(PAGE) {
                return Err(fail!(
                    OutOfMemory,
                    "the system refused to reserve {bytes} bytes of addresses ({}); at least \
                     {least} are needed",
                    last_os_error()
                ));
            }
            bytes = (bytes / 2).next_multiple_of(PAGE);
        }
    }

    fn release(&self, address: usize, bytes: u64) {
        self.count();
        // SAFETY: a whole reservation of ours that its owner no longer uses.
        unsafe { libc::munmap(address as *mut _, bytes as usize) };
    }

    fn commit(&self, address: usize, bytes: u64) -> Result<()> {
        self.protect(address, bytes, PROT_READ | PROT_WRITE)
    }

    fn decommit(&self, address: usize, bytes: u64, how: GiveBack) -> Result<()> {
        // Kernels and containers without MADV_FREE exist; the eager way is always there.
        if how == GiveBack::Lazily && self.advise(address, bytes, libc::MADV_FREE) {
            return Ok(());
        }
        if !self.advise(address, bytes, libc::MADV_DONTNEED) {
            return Err(fail!(Internal, "madvise refused {bytes} bytes: {}", last_os_error()));
        }
        self.protect(address, bytes, PROT_NONE)
    }

    fn move_pages(&self, from: usize, to: usize, bytes: u64) -> Result<()> {
        let within = self.is_within(self.options.move_budget);
        self.moves.fetch_add(1, Ordering::Relaxed);
        if within {
            self.count();
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
            let size = bytes as usize;
            // SAFETY: both ranges lie in our reservation and belong to the caller; the target
            // has no pages that anybody needs. DONTUNMAP leaves the source's addresses
            // reserved, so no other thread's mapping can appear there.
            let at =
                unsafe { libc::mremap(from as *mut _, size, size, flags, to as *mut libc::c_void) };
            if at != MAP_FAILED {
                return Ok(());
            }
        }
        // Over the budget, or a kernel older than 5.7: the same by copying. The target's
        // pages exist together with the source's for that long.
        self.commit(to, bytes)?;
        // SAFETY: both ranges have pages now and belong to the caller.
        unsafe { self.copy(from, to, bytes as usize, 0) }?;
        self.decommit(from, bytes, GiveBack::Now)
    }

    fn moves_without_copying(&self) -> bool {
        let within = self.is_within(self.options.move_budget / 2);
        if !within {
            self.moves.fetch_add(1, Ordering::Relaxed);
        }
        within
    }

    fn populate(&self, address: usize, bytes: u64) -> Result<()> {
        if self.advise(address, bytes, libc::MADV_POPULATE_WRITE) {
            return Ok(());
        }
        for at in (address..address + bytes as usize).step_by(4096) {
            // SAFETY: the pages are committed and belong to the caller; their bytes are kept.
            unsafe {
                let byte = at as *mut u8;
                byte.write_volatile(byte.read_volatile());
            }
        }
        Ok(())
    }

    fn advise_huge(&self, address: usize, bytes: u64, huge: bool) {
        // Advice: a kernel without huge pages is no error.
        let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        let _ = self.advise(address, bytes, advice);
    }

    unsafe fn fill(&self, address: usize, bytes: usize, value: u8, _: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::write_bytes(address as *mut u8, value, bytes) };
        Ok(())
    }

    unsafe fn copy(&self, from: usize, to: usize, bytes: usize, _: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn find_other(
        &self,
        address: usize,
        bytes: usize,
        value: u8,
        _: u64,
    ) -> Result<Option<usize>> {
        // SAFETY: the caller's promise.
        let slice = unsafe { std::slice::from_raw_parts(address as *const u8, bytes) };
        Ok(slice.iter().position(|&byte| byte != value).map(|index| address + index))
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_reservation(pages: u64, test: impl FnOnce(&Host, usize)) {
        let host = Host::new(HostOptions::default());
        let (address, bytes) = host.reserve(pages * PAGE, PAGE).unwrap();
        assert_eq!((address as u64 % PAGE, bytes), (0, pages * PAGE));
        test(&host, address);
        host.release(address, bytes);
    }

    #[test]
    fn pages_come_and_go_under_the_same_addresses() {
        with_reservation(4, |host, address| {
            host.commit(address, PAGE).unwrap();
            // SAFETY: the page is committed and ours.
            unsafe {
                host.fill(address, PAGE as usize, 7, 0).unwrap();
                assert_eq!(host.find_other(address, PAGE as usize, 7, 0).unwrap(), None);
                host.decommit(address, PAGE, GiveBack::Now).unwrap();
                host.commit(address, PAGE).unwrap();
                assert_eq!(
                    host.find_other(address, PAGE as usize, 0, 0).unwrap(),
                    None,
                    "fresh pages"
                );
                host.fill(address + 100, 1, 1, 0).unwrap();
                assert_eq!(
                    host.find_other(address, PAGE as usize, 0, 0).unwrap(),
                    Some(address + 100)
                );
            }
            host.decommit(address, PAGE, GiveBack::Lazily).unwrap();
            host.commit(address, PAGE).unwrap();
            host.populate(address, PAGE).unwrap();
        });
    }

    #[test]
    fn contents_move_with_the_pages() {
        for move_budget in [8, 0] {
            let host = Host::new(HostOptions { move_budget });
            let (address, bytes) = host.reserve(4 * PAGE, PAGE).unwrap();
            host.commit(address, PAGE).unwrap();
            let to = address + 2 * PAGE as usize;
            // SAFETY: the pages are committed and ours.
            unsafe {
                host.fill(address, PAGE as usize, 9, 0).unwrap();
                host.move_pages(address, to, PAGE).unwrap();
                assert_eq!(host.find_other(to, PAGE as usize, 9, 0).unwrap(), None);
                host.commit(address, PAGE).unwrap();
                assert_eq!(host.find_other(address, PAGE as usize, 0, 0).unwrap(), None);
            }
            host.release(address, bytes);
        }
    }

    #[test]
    fn pieces_that_came_together_again_leave_room_for_more_moves() {
        let host = Host::new(HostOptions { move_budget: 2000 });
        let (address, bytes) = host.reserve(2 * PAGE, PAGE).unwrap();
        host.commit(address, PAGE).unwrap();
        let to = address + PAGE as usize;
        let before = host.calls();
        for _ in 0..3000 {
            host.move_pages(address, to, PAGE).unwrap();
            host.move_pages(to, address, PAGE).unwrap();
        }
        // A call for each move, and a count of the mappings now and then; a copy is three.
        let calls = host.calls() - before;
        assert!((6000..6020).contains(&calls), "{calls}");
        host.release(address, bytes);
    }

    #[test]
    fn a_reservation_that_is_too_large_gets_what_there_is() {
        crate::error::prepare_thread();
        let host = Host::new(HostOptions::default());
        let (address, bytes) = host.reserve(1 << 60, PAGE).unwrap();
        assert!((PAGE..1 << 60).contains(&bytes));
        host.release(address, bytes);
        let error = host.reserve(1 << 60, 1 << 59).unwrap_err();
        assert!(error.message().contains("at least"), "{error}");
    }
}
