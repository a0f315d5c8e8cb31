//! A thread that gives back what lies idle in pools whose policy says so, for programs that
//! have stopped calling. It is there only while some pool has idle pages, or pages at all where
//! [`Pool::set_decay`](super::Pool::set_decay) was called.

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
    let spawned = without_signals(|| {
        std::thread::Builder::new().name("forebay-idle".into()).spawn(keep).map(drop)
    });
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
        if busy > 0 {
            continue;
        }
        RUNNING.store(false, Ordering::SeqCst);
        // Who made pages idle a moment ago may have seen that it was still there.
        let busy = registry::all().iter().any(|pool| pool.tick(now));
        if !busy || RUNNING.swap(true, Ordering::SeqCst) {
            return;
        }
    }
}

/// Calls `spawn` with every signal blocked, which its thread inherits: signals are for the
/// program's own threads, where handlers and `sigwait` expect them.
fn without_signals<T>(spawn: impl FnOnce() -> T) -> T {
    // SAFETY: two sets of this frame, filled before they are read; the mask is this thread's.
    unsafe {
        let (mut all, mut before) = std::mem::zeroed::<(libc::sigset_t, libc::sigset_t)>();
        libc::sigfillset(&mut all);
        let changed = libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) == 0;
        let result = spawn();
        if changed {
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        }
        result
    }
}

/// The thread stayed in the parent.
pub(super) fn after_fork_in_child() {
    RUNNING.store(false, Ordering::Release);
}
