//! How old entries are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts ticks of four milliseconds since it was made. After 198 days it begins anew: an entry
/// that is older looks younger by as much.
pub struct Clock {
    start: Instant,
    /// Milliseconds that a test let pass.
    ahead: AtomicU64,
}

/// Milliseconds of a tick.
const TICK: u64 = 4;

impl Clock {
    /// A clock that begins now.
    pub fn new() -> Clock {
        Clock { start: Instant::now(), ahead: AtomicU64::new(0) }
    }

    /// Now.
    pub fn now(&self) -> u32 {
        let milliseconds = self.start.elapsed().as_millis() as u64;
        ((milliseconds + self.ahead.load(Ordering::Relaxed)) / TICK) as u32
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
