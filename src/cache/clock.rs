//! How old entries are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts ticks of four milliseconds since it was made. After 198 days it begins anew: an entry
/// that is older looks younger by as much.
pub struct Clock {
    start: u64,
    /// Milliseconds that a test let pass.
    ahead: AtomicU64,
}

/// Milliseconds of a tick: what the clock that is asked goes on by, at most.
const TICK: u64 = 4;

/// Milliseconds of the system's coarse clock, which costs a fifth of the fine one.
fn milliseconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

impl Clock {
    /// A clock that begins now.
    pub fn new() -> Clock {
        Clock { start: milliseconds(), ahead: AtomicU64::new(0) }
    }

    /// Now.
    #[inline]
    pub fn now(&self) -> u32 {
        let passed = milliseconds() - self.start + self.ahead.load(Ordering::Relaxed);
        (passed / TICK) as u32
    }

    /// An age as ticks, rounded up: what is as old as that is old enough.
    pub fn ticks(age: Duration) -> u32 {
        u32::try_from(age.as_millis().div_ceil(u128::from(TICK))).unwrap_or(u32::MAX)
    }

    /// Lets `time` pass.
    pub fn advance(&self, time: Duration) {
        self.ahead.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }
}
