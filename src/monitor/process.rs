//! The memory of this process, from `/proc/self/status` (kernel documentation, proc.rst).

use super::files::{Files, kib};

/// What this process has, in bytes; what the kernel does not say is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Resident: `VmRSS`.
    pub resident: u64,
    /// The most that was: `VmHWM`.
    pub resident_peak: u64,
    /// Of what is resident, memory that no file has.
    pub anonymous: u64,
    /// Of what is resident, shared memory and tmpfs.
    pub shared: u64,
    /// Addresses that are mapped, reservations included: `VmSize`.
    pub mapped: u64,
    /// Of those, private ones that can be written to: `VmData`.
    pub data: u64,
    /// Locked, so that it is not swapped: `VmLck`.
    pub locked: u64,
    /// Pinned for devices, so that it is not moved either: `VmPin`.
    pub pinned: u64,
    /// In swap space.
    pub swapped: u64,
    /// In huge pages that administrators set aside.
    pub huge: u64,
}

impl Process {
    pub(super) fn read(files: &Files) -> Process {
        files.text("/proc/self/status").map_or(Process::default(), |text| Process::parse(&text))
    }

    fn parse(text: &str) -> Process {
        let bytes = |name| kib(text, name).unwrap_or(0);
        Process {
            resident: bytes("VmRSS"),
            resident_peak: bytes("VmHWM"),
            anonymous: bytes("RssAnon"),
            shared: bytes("RssShmem"),
            mapped: bytes("VmSize"),
            data: bytes("VmData"),
            locked: bytes("VmLck"),
            pinned: bytes("VmPin"),
            swapped: bytes("VmSwap"),
            huge: bytes("HugetlbPages"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kilobytes_become_bytes() {
        let text = "Name:\tVmRSS: 5\nVmPeak:\t  90 kB\nVmSize:\t  80 kB\nVmLck:\t   1 kB\nVmPin:\t   2 kB\n\
                    VmHWM:\t  70 kB\nVmRSS:\t  60 kB\nRssAnon:\t 50 kB\nRssShmem:\t 4 kB\nVmData:\t 30 kB\n\
                    VmSwap:\t 3 kB\nHugetlbPages:\t 2048 kB\n";
        let process = Process::parse(text);
        assert_eq!((process.resident, process.resident_peak), (61_440, 71_680));
        assert_eq!((process.anonymous, process.shared), (51_200, 4096));
        assert_eq!((process.mapped, process.data), (81_920, 30_720));
        assert_eq!((process.locked, process.pinned), (1024, 2048));
        assert_eq!((process.swapped, process.huge), (3072, 2 << 20));
        assert_eq!(Process::parse("\u{fffd}VmRSS 12\nVmRSS:\n"), Process::default());
    }
}
