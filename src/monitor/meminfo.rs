//! The memory of the machine, from `/proc/meminfo` (kernel documentation, proc.rst).

use super::files::{Files, count, kib};

/// The machine's memory, in bytes; what the kernel does not say is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// All of it.
    pub total: u64,
    /// What the kernel can give without swapping, as it estimates itself: `MemAvailable`.
    pub available: u64,
    /// What nobody uses for anything.
    pub free: u64,
    /// Buffers of block devices.
    pub buffers: u64,
    /// Cached files, shared memory included.
    pub cached: u64,
    /// Shared memory and tmpfs, which no reclaim frees.
    pub shared: u64,
    /// Swap space.
    pub swap_total: u64,
    /// Of that, what is free.
    pub swap_free: u64,
    /// Bytes of a huge page of the pool that administrators set aside.
    pub huge_page: u64,
    /// How many of those there are.
    pub huge_pages: u64,
    /// How many of those are free.
    pub huge_pages_free: u64,
    /// What programs may be promised where promises are kept (`vm.overcommit_memory` is 2).
    pub commit_limit: u64,
    /// What they were promised.
    pub committed: u64,
}

impl Machine {
    /// None where `/proc/meminfo` does not say how much there is and how much of it is left.
    pub(super) fn read(files: &Files) -> Option<Machine> {
        Machine::parse(&files.text("/proc/meminfo")?)
    }

    fn parse(text: &str) -> Option<Machine> {
        let total = kib(text, "MemTotal")?;
        let free = kib(text, "MemFree");
        // Kernels before 3.14 have no estimate: then only what is free is sure.
        let available = kib(text, "MemAvailable").or(free)?.min(total);
        let bytes = |name| kib(text, name).unwrap_or(0);
        let pages = |name| count(text, name).unwrap_or(0);
        Some(Machine {
            total,
            available,
            free: free.unwrap_or(0),
            buffers: bytes("Buffers"),
            cached: bytes("Cached"),
            shared: bytes("Shmem"),
            swap_total: bytes("SwapTotal"),
            swap_free: bytes("SwapFree"),
            huge_page: bytes("Hugepagesize"),
            huge_pages: pages("HugePages_Total"),
            huge_pages_free: pages("HugePages_Free"),
            commit_limit: bytes("CommitLimit"),
            committed: bytes("Committed_AS"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_not_mixed_up() {
        let text = "MemTotal:       1000 kB\nMemFree:  100 kB\nMemAvailable:    400 kB\nBuffers: 1 kB\n\
                    SwapCached: 77 kB\nCached:  20 kB\nShmem: 3 kB\nShmemHugePages: 9 kB\nSwapTotal: 8 kB\n\
                    SwapFree: 5 kB\nCommitLimit: 6 kB\nCommitted_AS: 7 kB\nHugePages_Total:  4\n\
                    HugePages_Free:  2\nHugepagesize:    2048 kB\n";
        let machine = Machine::parse(text).unwrap();
        assert_eq!((machine.total, machine.available), (1_024_000, 409_600));
        assert_eq!((machine.free, machine.buffers, machine.cached), (102_400, 1024, 20_480));
        assert_eq!((machine.shared, machine.swap_total, machine.swap_free), (3072, 8192, 5120));
        assert_eq!((machine.commit_limit, machine.committed), (6144, 7168));
        let huge = (machine.huge_page, machine.huge_pages, machine.huge_pages_free);
        assert_eq!(huge, (2 << 20, 4, 2));
    }

    #[test]
    fn what_is_not_said_is_not_made_up() {
        let available = |text| Machine::parse(text).map(|machine| machine.available);
        assert_eq!(available(""), None);
        assert_eq!(available("MemTotal: 10 kB\n"), None);
        assert_eq!(available("MemTotal: 10 kB\nMemFree: 4 kB\n"), Some(4096));
        assert_eq!(available("MemTotal: 10 kB\nMemFree: 4 kB\nMemAvailable: ? kB\n"), Some(4096));
        assert_eq!(available("MemTotal: -1 kB\nMemFree: 4 kB\n"), None);
        assert_eq!(available("MemTotal: 18446744073709551615 kB\nMemFree: 4 kB\n"), None);
        // More than all of it is not to be had.
        assert_eq!(available("MemTotal: 10 kB\nMemAvailable: 40 kB\n"), Some(10_240));
    }
}
