//! A thread that gives back what lies idle in pools whose policy says so, for programs that
//! have stopped calling. It is there only while some pool has idle pages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::registry;

static RUNNING: AtomicBool = AtomicBool::new(false);

/// How often it looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Whether it is there.
pub(super) fn is_there() -> bool {
    RUNNING.load(Ordering::Relaxed)
}

/// Makes sure that it is there.
pub(super) fn wake() {
    if is_there() || RUNNING.swap(true, Ordering::AcqRel) {
        return;
    }
    let spawned = std::thread::Builder::new().name("forebay-idle".into()).spawn(keep);
    if spawned.is_err() {
        // No thread to be had: slow paths look themselves, when they come by.
        RUNNING.store(false, Ordering::Release);
    }
}

fn keep() {
    loop {
        std::thread::sleep(PERIOD);
        let now = Instant::now();
        let busy = registry::all().iter().filter(|pool| pool.tick(now)).count();
        if busy == 0 {
            RUNNING.store(false, Ordering::Release);
            return;
        }
    }
}

/// The thread stayed in the parent.
pub(super) fn after_fork_in_child() {
    RUNNING.store(false, Ordering::Release);
}
