//! The functions of the C allocator, by their names.
//!
//! What is small goes on to the next allocator by a comparison and a jump, with the arguments where
//! they are: no frame, nothing saved. That is written out in instructions on x86-64, where also the
//! address is at hand that a call came from.

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::Ordering;

use crate::next;
use crate::own::Errno;
use crate::pool::{self, THRESHOLD};

fn is_large(size: usize) -> bool {
    size >= THRESHOLD.load(Ordering::Relaxed)
}

fn set_errno(code: c_int) {
    // SAFETY: the calling thread's own.
    unsafe { *libc::__errno_location() = code };
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod entry {
    use super::{
        c_int, c_void, free_missed, large_aligned_alloc, large_calloc, large_free, large_memalign,
        large_posix_memalign, large_realloc, malloc_missed,
    };
    use crate::pool::hit;
    use crate::{next, pool};
    use core::arch::naked_asm;

    /// `malloc`.
    ///
    /// # Safety
    /// As in C; so for all here.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
        naked_asm!(
            "cmp rdi, qword ptr [rip + {threshold}]",
            "jae 2f",
            "jmp qword ptr [rip + {next}]",
            // What the pool's own library asks for, and who is inside, is the next allocator's.
            "2:",
            "mov rax, qword ptr [rsp]",
            "sub rax, qword ptr [rip + {code}]",
            "cmp rax, qword ptr [rip + {code_bytes}]",
            "jb 3f",
            "mov rax, qword ptr [rip + forebay_preload_own@GOTTPOFF]",
            "cmp qword ptr fs:[rax], 0",
            "jne 3f",
            // To the granule above; what has none is no size.
            "lea rsi, [rdi + {granule} - 1]",
            "and rsi, -{granule}",
            "jz 3f",
            "mov rdi, qword ptr [rip + {pool}]",
            "lea rdx, [rip + {missed}]",
            "jmp qword ptr [rip + {alloc}]",
            "3:",
            "jmp qword ptr [rip + {next}]",
            threshold = sym pool::THRESHOLD,
            next = sym next::MALLOC,
            code = sym hit::CODE,
            code_bytes = sym hit::CODE_BYTES,
            granule = const pool::GRANULE,
            pool = sym hit::POOL,
            alloc = sym hit::ALLOC,
            missed = sym malloc_missed,
        )
    }

    /// `calloc`.
    ///
    /// # Safety
    /// As above.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
        naked_asm!(
            "mov rax, rdi",
            "mul rsi",
            "jo 3f",
            "cmp rax, qword ptr [rip + {threshold}]",
            "jae 2f",
            // What is no size is the next allocator's to refuse.
            "3:",
            "jmp qword ptr [rip + {next}]",
            "2:",
            "mov rdx, qword ptr [rsp]",
            "jmp {large}",
            threshold = sym pool::THRESHOLD,
            next = sym next::CALLOC,
            large = sym large_calloc,
        )
    }

    /// `realloc`.
    ///
    /// # Safety
    /// As above.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
        naked_asm!(
            "cmp rsi, qword ptr [rip + {threshold}]",
            "jae 2f",
            "mov rax, rdi",
            "sub rax, qword ptr [rip + {first}]",
            "cmp rax, qword ptr [rip + {bytes}]",
            "jb 2f",
            "jmp qword ptr [rip + {next}]",
            "2:",
            "mov rdx, qword ptr [rsp]",
            "jmp {large}",
            threshold = sym pool::THRESHOLD,
            first = sym pool::FIRST,
            bytes = sym pool::BYTES,
            next = sym next::REALLOC,
            large = sym large_realloc,
        )
    }

    /// `free`.
    ///
    /// # Safety
    /// As above.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn free(ptr: *mut c_void) {
        naked_asm!(
            "mov rax, rdi",
            "sub rax, qword ptr [rip + {first}]",
            "cmp rax, qword ptr [rip + {bytes}]",
            "jb 2f",
            "jmp qword ptr [rip + {next}]",
            "2:",
            "mov rax, qword ptr [rip + forebay_preload_own@GOTTPOFF]",
            "cmp qword ptr fs:[rax], 0",
            "jne 3f",
            "mov rsi, rdi",
            "mov rdi, qword ptr [rip + {pool}]",
            "lea rdx, [rip + {missed}]",
            "jmp qword ptr [rip + {free}]",
            "3:",
            "jmp {large}",
            first = sym pool::FIRST,
            bytes = sym pool::BYTES,
            next = sym next::FREE,
            pool = sym hit::POOL,
            free = sym hit::FREE,
            missed = sym free_missed,
            large = sym large_free,
        )
    }

    /// `memalign`.
    ///
    /// # Safety
    /// As above.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn memalign(alignment: usize, size: usize) -> *mut c_void {
        naked_asm!("mov rdx, qword ptr [rsp]", "jmp {any}", any = sym large_memalign)
    }

    /// `aligned_alloc`.
    ///
    /// # Safety
    /// As above.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
        naked_asm!("mov rdx, qword ptr [rsp]", "jmp {any}", any = sym large_aligned_alloc)
    }

    /// `posix_memalign`.
    ///
    /// # Safety
    /// As above.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn posix_memalign(
        out: *mut *mut c_void,
        alignment: usize,
        size: usize,
    ) -> c_int {
        naked_asm!("mov rcx, qword ptr [rsp]", "jmp {any}", any = sym large_posix_memalign)
    }
}

/// Without the address of the caller: what the pool's own library asks for is told apart where it
/// is called from here, but not in threads of its own, which ask for little.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod entry {
    use super::{
        c_int, c_void, is_large, large_aligned_alloc, large_calloc, large_free, large_malloc,
        large_memalign, large_posix_memalign, large_realloc,
    };
    use crate::{next, pool};

    /// `malloc`.
    ///
    /// # Safety
    /// As in C; so for all here.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
        // SAFETY: the caller's promise.
        unsafe { if is_large(size) { large_malloc(size, 0) } else { next::malloc(size) } }
    }

    /// `calloc`.
    ///
    /// # Safety
    /// As above.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
        // SAFETY: the caller's promise.
        unsafe {
            match count.checked_mul(size) {
                Some(bytes) if is_large(bytes) => large_calloc(count, size, 0),
                _ => next::calloc(count, size),
            }
        }
    }

    /// `realloc`.
    ///
    /// # Safety
    /// As above.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
        // SAFETY: the caller's promise.
        unsafe {
            if is_large(size) || pool::owns(ptr) {
                large_realloc(ptr, size, 0)
            } else {
                next::realloc(ptr, size)
            }
        }
    }

    /// `free`.
    ///
    /// # Safety
    /// As above.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn free(ptr: *mut c_void) {
        // SAFETY: the caller's promise.
        unsafe { if pool::owns(ptr) { large_free(ptr) } else { next::free(ptr) } }
    }

    /// `memalign`.
    ///
    /// # Safety
    /// As above.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn memalign(alignment: usize, size: usize) -> *mut c_void {
        // SAFETY: the caller's promise.
        unsafe { large_memalign(alignment, size, 0) }
    }

    /// `aligned_alloc`.
    ///
    /// # Safety
    /// As above.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
        // SAFETY: the caller's promise.
        unsafe { large_aligned_alloc(alignment, size, 0) }
    }

    /// `posix_memalign`.
    ///
    /// # Safety
    /// As above.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn posix_memalign(
        out: *mut *mut c_void,
        alignment: usize,
        size: usize,
    ) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { large_posix_memalign(out, alignment, size, 0) }
    }
}

/// Nothing was at hand for `malloc`, which has seen that the thread is not inside.
///
/// # Safety
/// As for `malloc`.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[cold]
unsafe extern "C" fn malloc_missed(size: usize, busy: c_int) -> *mut c_void {
    // SAFETY: as for `malloc`.
    unsafe { if busy == 0 { large_malloc(size, 0) } else { next::malloc(size) } }
}

/// A block of the pool was not to be taken back at hand, for `free`, which has seen that the thread
/// is not inside.
///
/// # Safety
/// As for `free`.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[cold]
unsafe extern "C" fn free_missed(ptr: *mut c_void, busy: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { if busy == 0 { pool::give(ptr) } else { pool::leave(ptr) } };
    0
}

/// # Safety
/// As for `malloc`.
unsafe extern "C" fn large_malloc(size: usize, caller: usize) -> *mut c_void {
    // SAFETY: as for `malloc`.
    pool::take(size, 1, caller).unwrap_or_else(|| unsafe { next::malloc(size) })
}

/// # Safety
/// As for `calloc`.
unsafe extern "C" fn large_calloc(count: usize, size: usize, caller: usize) -> *mut c_void {
    // It was seen to be a size before.
    pool::take_zeroed(count.wrapping_mul(size), caller)
        // SAFETY: as for `calloc`.
        .unwrap_or_else(|| unsafe { next::calloc(count, size) })
}

/// # Safety
/// As for `free`.
unsafe extern "C" fn large_free(ptr: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { pool::give(ptr) };
}

/// # Safety
/// As for `realloc`.
unsafe extern "C" fn large_realloc(ptr: *mut c_void, size: usize, caller: usize) -> *mut c_void {
    // SAFETY: the caller's promise for all of it; a copy is between two blocks of the caller's.
    unsafe {
        if pool::owns(ptr) {
            if size == 0 {
                pool::give(ptr);
                return null_mut();
            }
            return pool::resize(ptr, size);
        }
        if ptr.is_null() {
            return large_malloc(size, caller);
        }
        // What is large already stays where it is: the next allocator has means of its own to
        // make it grow. What becomes large moves over.
        let old = match next::usable_size(ptr) {
            Some(old) if !is_large(old) => old,
            old => {
                pool::grown(size.saturating_sub(old.unwrap_or(size)));
                return next::realloc(ptr, size);
            }
        };
        let Some(fresh) = pool::take(size, 1, caller) else { return next::realloc(ptr, size) };
        core::ptr::copy_nonoverlapping(ptr.cast::<u8>(), fresh.cast(), old.min(size));
        let _errno = Errno::keep();
        next::free(ptr);
        fresh
    }
}

/// The pool's block for a function with an alignment; none for the next allocator, which also
/// refuses what is no alignment.
fn aligned(alignment: usize, size: usize, caller: usize) -> Option<*mut c_void> {
    let fits = alignment.is_power_of_two() && is_large(size);
    if fits { pool::take(size, alignment, caller) } else { None }
}

/// # Safety
/// As for `memalign`.
unsafe extern "C" fn large_memalign(alignment: usize, size: usize, caller: usize) -> *mut c_void {
    aligned(alignment, size, caller)
        // SAFETY: as for `memalign`.
        .unwrap_or_else(|| unsafe { next::memalign(alignment, size) })
}

/// # Safety
/// As for `aligned_alloc`.
unsafe extern "C" fn large_aligned_alloc(
    alignment: usize,
    size: usize,
    caller: usize,
) -> *mut c_void {
    aligned(alignment, size, caller)
        // SAFETY: as for `aligned_alloc`.
        .unwrap_or_else(|| unsafe { next::aligned_alloc(alignment, size) })
}

/// # Safety
/// As for `posix_memalign`.
unsafe extern "C" fn large_posix_memalign(
    out: *mut *mut c_void,
    alignment: usize,
    size: usize,
    caller: usize,
) -> c_int {
    let words = alignment.is_multiple_of(size_of::<*mut c_void>());
    match if words { aligned(alignment, size, caller) } else { None } {
        Some(block) => {
            // SAFETY: the caller's promise.
            unsafe { out.write(block) };
            0
        }
        // SAFETY: the caller's promise.
        None => unsafe { next::posix_memalign(out, alignment, size) },
    }
}

fn page() -> usize {
    // SAFETY: a plain query.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// `valloc`.
///
/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valloc(size: usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    aligned(page(), size, 0).unwrap_or_else(|| unsafe { next::valloc(size) })
}

/// `pvalloc`.
///
/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pvalloc(size: usize) -> *mut c_void {
    let page = page();
    let whole = size.checked_next_multiple_of(page).unwrap_or(0);
    // SAFETY: the caller's promise.
    aligned(page, whole, 0).unwrap_or_else(|| unsafe { next::pvalloc(size) })
}

/// `reallocarray`.
///
/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(ptr: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller's promise.
        Some(bytes) => unsafe { entry::realloc(ptr, bytes) },
        None => {
            set_errno(libc::ENOMEM);
            null_mut()
        }
    }
}

/// `cfree`, which old programs call for `free`.
///
/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(ptr: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { entry::free(ptr) };
}

/// `free_sized` of C23: what is freed knows its size.
///
/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(ptr: *mut c_void, _size: usize) {
    // SAFETY: the caller's promise.
    unsafe { entry::free(ptr) };
}

/// `free_aligned_sized` of C23.
///
/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(ptr: *mut c_void, _alignment: usize, _size: usize) {
    // SAFETY: the caller's promise.
    unsafe { entry::free(ptr) };
}

/// `malloc_usable_size`.
///
/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(ptr: *mut c_void) -> usize {
    if pool::owns(ptr) {
        return pool::size_of(ptr);
    }
    // SAFETY: the caller's promise.
    unsafe { next::usable_size(ptr) }.unwrap_or(0)
}
