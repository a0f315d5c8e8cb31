//! Stopping a thread at the door of its front cache, at no cost to the thread.
//!
//! The owner of a front cache announces itself with a plain store and looks with a plain
//! load whether it is wanted elsewhere; on x86-64 that is two instructions without a locked
//! one. For this to exclude whoever wants to stop it, the store must not be delayed past the
//! load. The stopper takes that cost alone: it raises its flag, has the kernel run a memory
//! barrier on every core that runs a thread of this process (`membarrier`, some
//! microseconds), and only then looks whether the owner is inside. (The scheme is Dekker's,
//! made asymmetric: Dice, Huang, Yang, "Asymmetric Dekker Synchronization", 2001.)
//!
//! Where the kernel has no `membarrier`, front caches are only used under their lock.

use std::sync::OnceLock;

use super::sync::atomic::{AtomicBool, AtomicU32, Ordering, compiler_fence};
use super::sync::{spin_loop, yield_now};

/// Flags that keep an owner from its fast path.
pub mod attention {
    /// Somebody stops the owner, for a moment.
    pub const STOP: u32 = 1;
    /// The pool does more per call than the fast path knows: debug flags, a trace, a policy
    /// that zeroes.
    pub const SLOW: u32 = 2;
    /// The pool caught a panic, or is gone.
    pub const CLOSED: u32 = 4;
    /// Other threads take back what this owner gave out: it has to compare and swap.
    pub const SHARED: u32 = 8;
    /// The stream was destroyed. Its handle may be that of another one, which has to be checked.
    pub const UNCHECKED: u32 = 16;
    /// A plan is applied to the pool.
    pub const PLANNED: u32 = 32;
    /// Any of them.
    pub const ALL: u32 = u32::MAX;
    /// All but that, for those who compare and swap, or have no need to.
    pub const BUT_SHARED: u32 = !SHARED;
}

/// The door of a front cache.
#[derive(Debug, Default)]
pub struct Door {
    inside: AtomicBool,
    attention: AtomicU32,
}

impl Door {
    /// The owner goes in, unless somebody wants its attention with one of the flags `heeded`.
    /// It leaves soon, and calls nothing that waits while inside.
    #[inline(always)]
    pub fn enter(&self, heeded: u32) -> bool {
        self.inside.store(true, Ordering::Relaxed);
        // The processor may still reorder the two; the stopper's barrier sees to that.
        compiler_fence(Ordering::SeqCst);
        if cfg!(miri) {
            std::sync::atomic::fence(Ordering::SeqCst);
        }
        if self.attention.load(Ordering::Acquire) & heeded != 0 {
            self.leave();
            return false;
        }
        true
    }

    /// Whether the owner is inside; only the owner's thread asks, in the handler of a signal.
    #[inline(always)]
    pub fn is_inside(&self) -> bool {
        self.inside.load(Ordering::Relaxed)
    }

    /// The owner goes out.
    #[inline(always)]
    pub fn leave(&self) {
        self.inside.store(false, Ordering::Release);
    }

    /// Raises a flag. Whether the owner has seen it is not known until
    /// [`Door::wait_outside`] after [`barrier`].
    pub fn raise(&self, flag: u32) {
        self.attention.fetch_or(flag, Ordering::SeqCst);
    }

    /// Lowers a flag.
    pub fn lower(&self, flag: u32) {
        self.attention.fetch_and(!flag, Ordering::Release);
    }

    /// Whether a flag is raised.
    pub fn is_raised(&self, flag: u32) -> bool {
        self.attention.load(Ordering::Acquire) & flag != 0
    }

    /// Waits until the owner is outside; with a flag raised and a barrier behind it, it stays
    /// there.
    pub fn wait_outside(&self) {
        let mut spins = 0u32;
        while self.inside.load(Ordering::Acquire) {
            spins += 1;
            if spins < 64 {
                spin_loop();
            } else {
                yield_now();
            }
        }
    }
}

const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: takes two numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0) == 0 }
}

/// Whether owners can be stopped; asks the kernel once.
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    cfg!(miri) || *AVAILABLE.get_or_init(|| membarrier(REGISTER_PRIVATE_EXPEDITED))
}

/// A memory barrier on every core that runs a thread of this process.
pub fn barrier() {
    std::sync::atomic::fence(Ordering::SeqCst);
    if cfg!(miri) {
        return;
    }
    if !membarrier(PRIVATE_EXPEDITED) {
        // Registered before, so this fails only in a child whose parent had registered and
        // whose kernel forgot: register again.
        membarrier(REGISTER_PRIVATE_EXPEDITED);
        membarrier(PRIVATE_EXPEDITED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn a_stopped_owner_stays_outside() {
        assert!(available(), "this kernel has no membarrier");
        static DOOR: Door = Door { inside: AtomicBool::new(false), attention: AtomicU32::new(0) };
        static VALUE: AtomicU64 = AtomicU64::new(0);
        static END: AtomicBool = AtomicBool::new(false);
        let owner = std::thread::spawn(|| {
            let mut entered = 0u64;
            while !END.load(Ordering::Relaxed) {
                if DOOR.enter(attention::ALL) {
                    // Not atomic as a whole: a stopper in between would lose an increment.
                    VALUE.store(VALUE.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    entered += 1;
                    DOOR.leave();
                }
            }
            entered
        });
        let stops = if cfg!(miri) { 20 } else { 20_000u64 };
        for _ in 0..stops {
            DOOR.raise(attention::STOP);
            barrier();
            DOOR.wait_outside();
            VALUE.store(VALUE.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            DOOR.lower(attention::STOP);
        }
        END.store(true, Ordering::Relaxed);
        let entered = owner.join().unwrap();
        assert_eq!(VALUE.load(Ordering::Relaxed), entered + stops);
    }
}
