//! What a thread has of its own: whether it is inside a call of the library already.
//!
//! Who is inside and asks for memory once more, in a signal's handler or because the library
//! itself does, gets it from the next allocator: so no lock is ever waited for by its holder.
//!
//! On x86-64 it lives in initial-exec thread-local storage, which stable Rust offers no other way
//! to ask for: the general model of a shared library calls a function, which may allocate.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod storage {
    core::arch::global_asm!(
        ".pushsection .tbss.forebay_preload_own, \"awT\", @nobits",
        ".p2align 3",
        ".globl forebay_preload_own",
        ".hidden forebay_preload_own",
        ".type forebay_preload_own, @object",
        ".size forebay_preload_own, 8",
        "forebay_preload_own:",
        ".zero 8",
        ".popsection",
    );

    /// The calling thread's own word.
    #[inline(always)]
    pub fn own() -> *mut u64 {
        let own: *mut u64;
        // SAFETY: computes an address from the thread pointer, which the first word at fs holds;
        // touches no other memory.
        unsafe {
            core::arch::asm!(
                "mov {own}, qword ptr fs:[0]",
                "add {own}, qword ptr [rip + forebay_preload_own@GOTTPOFF]",
                own = out(reg) own,
                options(nostack, pure, readonly),
            );
        }
        own
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod storage {
    use core::cell::Cell;

    std::thread_local! {
        static OWN: Cell<u64> = const { Cell::new(0) };
    }

    /// The calling thread's own word.
    #[inline(always)]
    pub fn own() -> *mut u64 {
        OWN.with(Cell::as_ptr)
    }
}

/// The calling thread is inside, until this is dropped.
pub struct Inside(());

impl Inside {
    /// Goes inside; none when the thread is there already.
    #[inline(always)]
    pub fn enter() -> Option<Inside> {
        let own = storage::own();
        // SAFETY: the thread's own word, which only it and its signal handlers touch; those leave
        // it as they found it. Volatile, for a handler sees it between any two instructions.
        unsafe {
            if own.read_volatile() != 0 {
                return None;
            }
            own.write_volatile(1);
        }
        // The handler of a signal must not see it raised late or lowered early.
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
        Some(Inside(()))
    }
}

impl Drop for Inside {
    #[inline(always)]
    fn drop(&mut self) {
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
        // SAFETY: as in `enter`.
        unsafe { storage::own().write_volatile(0) };
    }
}

/// Keeps the program's `errno` as it is.
pub struct Errno(i32);

impl Errno {
    /// As it is now.
    #[inline(always)]
    pub fn keep() -> Errno {
        // SAFETY: the calling thread's own.
        Errno(unsafe { *libc::__errno_location() })
    }
}

impl Drop for Errno {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the calling thread's own.
        unsafe { *libc::__errno_location() = self.0 };
    }
}
