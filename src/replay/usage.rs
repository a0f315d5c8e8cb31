//! What a thread has used: CPU time and page faults.

use std::ops::AddAssign;

/// CPU time and page faults of some stretch of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) nanoseconds: u64,
    pub(super) minor_faults: u64,
    pub(super) major_faults: u64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.nanoseconds += other.nanoseconds;
        self.minor_faults += other.minor_faults;
        self.major_faults += other.major_faults;
    }
}

/// A stretch of work of this thread that is being measured.
pub(super) struct Meter {
    minor_faults: u64,
    major_faults: u64,
    started: u64,
}

impl Meter {
    pub(super) fn start() -> Meter {
        // The clock is read last here and first in `stop`, so that counting faults is not
        // part of the time.
        let (minor_faults, major_faults) = faults();
        Meter { minor_faults, major_faults, started: cpu_time() }
    }

    /// What was used since the start, less `reading`: see [`cost_of_reading`].
    pub(super) fn stop(self, reading: u64) -> Usage {
        let stopped = cpu_time();
        let (minor_faults, major_faults) = faults();
        Usage {
            nanoseconds: (stopped - self.started).saturating_sub(reading),
            minor_faults: minor_faults - self.minor_faults,
            major_faults: major_faults - self.major_faults,
        }
    }
}

/// Nanoseconds that a measurement of no work shows. Where threads take turns after every
/// call, this would be more than the calls themselves.
pub(super) fn cost_of_reading() -> u64 {
    (0..64).map(|_| Meter::start().stop(0).nanoseconds).min().unwrap_or(0)
}

/// CPU time of this thread, in nanoseconds.
fn cpu_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to be written; the clock exists since Linux 2.6.12, so
    // that the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Minor and major page faults of this thread.
fn faults() -> (u64, u64) {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is an rusage to be written, and zeroes are a valid one.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    (usage.ru_minflt as u64, usage.ru_majflt as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_measured_and_sleep_is_not() {
        let meter = Meter::start();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let slept = meter.stop(0).nanoseconds;
        assert!(slept < 40_000_000, "{slept}");

        let meter = Meter::start();
        let until = cpu_time() + 2_000_000;
        while cpu_time() < until {}
        let worked = meter.stop(0).nanoseconds;
        assert!(worked >= 2_000_000, "{worked}");
    }

    #[test]
    fn fresh_pages_are_minor_faults() {
        let meter = Meter::start();
        // Too large for the allocator to have at hand, so that its pages are fresh.
        let mut block: Vec<u8> = Vec::with_capacity(64 << 20);
        block.resize(16 << 20, 1);
        std::hint::black_box(&block);
        let usage = meter.stop(0);
        // Huge pages make it one fault per 2 MiB, ordinary ones one per 4 KiB.
        assert!(usage.minor_faults >= 8, "{usage:?}");
    }

    #[test]
    fn the_reading_is_taken_off_and_no_more() {
        assert_eq!(Meter::start().stop(u64::MAX).nanoseconds, 0);
        assert!(cost_of_reading() < 1_000_000);
    }
}
