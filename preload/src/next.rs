//! The allocator that was there: the C library's, or the one that the program links or another
//! preloaded library brings. It is whichever comes next in the loader's order.
//!
//! It is looked up with the first call. The lookup may itself allocate: that comes from a buffer
//! here, and so does whatever else a thread needs meanwhile.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use crate::own::Inside;
use crate::say::say;

/// A place for an entry point.
pub type Entry = AtomicPtr<c_void>;

type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
type Calloc = unsafe extern "C" fn(usize, usize) -> *mut c_void;
type Realloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Memalign = unsafe extern "C" fn(usize, usize) -> *mut c_void;
type PosixMemalign = unsafe extern "C" fn(*mut *mut c_void, usize, usize) -> c_int;
type Mallopt = unsafe extern "C" fn(c_int, c_int) -> c_int;
type UsableSize = unsafe extern "C" fn(*mut c_void) -> usize;

/// Entry points; at first what looks them up.
pub static MALLOC: Entry = Entry::new(first_malloc as *mut c_void);
/// As above.
pub static CALLOC: Entry = Entry::new(first_calloc as *mut c_void);
/// As above.
pub static REALLOC: Entry = Entry::new(first_realloc as *mut c_void);
/// As above.
pub static FREE: Entry = Entry::new(first_free as *mut c_void);
static MEMALIGN: Entry = Entry::new(null_mut());
static ALIGNED_ALLOC: Entry = Entry::new(null_mut());
static POSIX_MEMALIGN: Entry = Entry::new(null_mut());
static VALLOC: Entry = Entry::new(null_mut());
static PVALLOC: Entry = Entry::new(null_mut());
static USABLE_SIZE: Entry = Entry::new(null_mut());
static MALLOPT: Entry = Entry::new(null_mut());

/// The entry point in a place, as a function of a type.
macro_rules! entry {
    ($place:expr, $type:ty) => {{
        let at = $place.load(Ordering::Acquire);
        // SAFETY: only functions of that type, or NULL, which is none, are put there.
        unsafe { core::mem::transmute::<*mut c_void, Option<$type>>(at) }
    }};
}

/// Most that the C library's `mallopt` takes for a size from which on blocks are mapped one by one; its
/// own rule does not go beyond it either.
const MAPPED_FROM_MOST: usize = 32 << 20;
/// What may be free at the end of its heap, where its own rule is off: twice the largest block that it
/// saw freed, by that rule.
const FREE_AT_END: usize = 4 << 20;

/// Has the C library map blocks of `threshold` bytes and more one by one, and so give each back with
/// its free. By its own rule it starts to keep such blocks when the first is freed: what came before
/// there was a pool would stay beside it for ever. False when it is another one's heap.
pub fn map_from(threshold: usize) -> bool {
    set_sizes(threshold, FREE_AT_END)
}

/// Has the C library keep large blocks, as its own rule does in the end: for a program that gets no
/// pool.
pub fn keep_large() {
    set_sizes(MAPPED_FROM_MOST, 2 * MAPPED_FROM_MOST);
}

fn set_sizes(mapped_from: usize, free_at_end: usize) -> bool {
    let Some(set) = entry!(MALLOPT, Mallopt) else { return false };
    let as_int = |bytes: usize| c_int::try_from(bytes).unwrap_or(c_int::MAX);
    // SAFETY: the function of this name, with its numbers. It refuses what it does not take.
    unsafe {
        set(libc::M_MMAP_THRESHOLD, as_int(mapped_from)) == 1
            && set(libc::M_TRIM_THRESHOLD, as_int(free_at_end)) == 1
    }
}

/// `malloc` of the next allocator.
///
/// # Safety
/// As for the C function of that name; so for all here.
pub unsafe fn malloc(size: usize) -> *mut c_void {
    match entry!(MALLOC, Malloc) {
        // SAFETY: the caller's promise.
        Some(next) => unsafe { next(size) },
        None => null_mut(),
    }
}

/// `calloc` of the next allocator.
///
/// # Safety
/// As above.
pub unsafe fn calloc(count: usize, size: usize) -> *mut c_void {
    match entry!(CALLOC, Calloc) {
        // SAFETY: the caller's promise.
        Some(next) => unsafe { next(count, size) },
        None => null_mut(),
    }
}

/// `realloc` of the next allocator.
///
/// # Safety
/// As above.
pub unsafe fn realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    match entry!(REALLOC, Realloc) {
        // SAFETY: the caller's promise.
        Some(next) => unsafe { next(ptr, size) },
        None => null_mut(),
    }
}

/// `free` of the next allocator.
///
/// # Safety
/// As above.
pub unsafe fn free(ptr: *mut c_void) {
    if let Some(next) = entry!(FREE, Free) {
        // SAFETY: the caller's promise.
        unsafe { next(ptr) };
    }
}

/// `memalign` of the next allocator.
///
/// # Safety
/// As above.
pub unsafe fn memalign(alignment: usize, size: usize) -> *mut c_void {
    find();
    match entry!(MEMALIGN, Memalign) {
        // SAFETY: the caller's promise.
        Some(next) => unsafe { next(alignment, size) },
        None => first_aligned(alignment, size),
    }
}

/// `aligned_alloc` of the next allocator.
///
/// # Safety
/// As above.
pub unsafe fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    find();
    match entry!(ALIGNED_ALLOC, Memalign) {
        // SAFETY: the caller's promise.
        Some(next) => unsafe { next(alignment, size) },
        None => first_aligned(alignment, size),
    }
}

/// `posix_memalign` of the next allocator.
///
/// # Safety
/// As above.
pub unsafe fn posix_memalign(out: *mut *mut c_void, alignment: usize, size: usize) -> c_int {
    find();
    match entry!(POSIX_MEMALIGN, PosixMemalign) {
        // SAFETY: the caller's promise.
        Some(next) => unsafe { next(out, alignment, size) },
        None => libc::ENOMEM,
    }
}

/// `valloc` of the next allocator.
///
/// # Safety
/// As above.
pub unsafe fn valloc(size: usize) -> *mut c_void {
    find();
    match entry!(VALLOC, Malloc) {
        // SAFETY: the caller's promise.
        Some(next) => unsafe { next(size) },
        None => null_mut(),
    }
}

/// `pvalloc` of the next allocator.
///
/// # Safety
/// As above.
pub unsafe fn pvalloc(size: usize) -> *mut c_void {
    find();
    match entry!(PVALLOC, Malloc) {
        // SAFETY: the caller's promise.
        Some(next) => unsafe { next(size) },
        None => null_mut(),
    }
}

/// `malloc_usable_size` of the next allocator; none where it has no such function.
///
/// # Safety
/// As above.
pub unsafe fn usable_size(ptr: *mut c_void) -> Option<usize> {
    find();
    if first::owns(ptr) {
        // SAFETY: given out below.
        return Some(unsafe { first::size(ptr) });
    }
    // SAFETY: the caller's promise.
    entry!(USABLE_SIZE, UsableSize).map(|next| unsafe { next(ptr) })
}

/// The function `name` of the object that comes next in the loader's order.
fn after_us(name: &CStr) -> *mut c_void {
    // SAFETY: a name that ends with a NUL.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) }
}

static FOUND: AtomicBool = AtomicBool::new(false);

/// Looks the next allocator up, the first time. False when the calling thread is in the middle of
/// that.
pub fn find() -> bool {
    if FOUND.load(Ordering::Acquire) {
        return true;
    }
    let Some(_inside) = Inside::enter() else { return false };
    for (place, name) in [
        (&MEMALIGN, c"memalign"),
        (&ALIGNED_ALLOC, c"aligned_alloc"),
        (&POSIX_MEMALIGN, c"posix_memalign"),
        (&VALLOC, c"valloc"),
        (&PVALLOC, c"pvalloc"),
        (&USABLE_SIZE, c"malloc_usable_size"),
        (&MALLOPT, c"mallopt"),
    ] {
        place.store(after_us(name), Ordering::Release);
    }
    let found = [c"malloc", c"calloc", c"realloc", c"free"].map(after_us);
    if found.contains(&null_mut()) {
        say!("there is no next allocator: no malloc, calloc, realloc and free behind this library");
        // SAFETY: ends the process.
        unsafe { libc::abort() };
    }
    let [malloc, calloc, mut realloc, mut free] = found;
    NEXT_FREE.store(free, Ordering::Release);
    NEXT_REALLOC.store(realloc, Ordering::Release);
    if first::used() {
        // Some of it may come back.
        realloc = checked_realloc as *mut c_void;
        free = checked_free as *mut c_void;
    }
    REALLOC.store(realloc, Ordering::Release);
    FREE.store(free, Ordering::Release);
    CALLOC.store(calloc, Ordering::Release);
    MALLOC.store(malloc, Ordering::Release);
    FOUND.store(true, Ordering::Release);
    true
}

static NEXT_FREE: Entry = Entry::new(null_mut());
static NEXT_REALLOC: Entry = Entry::new(null_mut());

/// # Safety
/// As for `malloc`.
unsafe extern "C" fn first_malloc(size: usize) -> *mut c_void {
    // SAFETY: the caller's promise; the place has the next allocator's by then.
    if find() { unsafe { malloc(size) } } else { first::take(size, 16) }
}

/// # Safety
/// As for `calloc`.
unsafe extern "C" fn first_calloc(count: usize, size: usize) -> *mut c_void {
    if find() {
        // SAFETY: as above.
        return unsafe { calloc(count, size) };
    }
    // Never used before, so it is zero.
    count.checked_mul(size).map_or(null_mut(), |bytes| first::take(bytes, 16))
}

/// # Safety
/// As for `realloc`.
unsafe extern "C" fn first_realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    if find() {
        // SAFETY: as above.
        return unsafe { realloc(ptr, size) };
    }
    let fresh = first::take(size, 16);
    if !fresh.is_null() && first::owns(ptr) {
        // SAFETY: two blocks of the buffer, of at least so many bytes.
        unsafe { core::ptr::copy_nonoverlapping(ptr, fresh, first::size(ptr).min(size)) };
    }
    fresh
}

/// # Safety
/// As for `free`.
unsafe extern "C" fn first_free(ptr: *mut c_void) {
    if !first::owns(ptr) && find() {
        // SAFETY: as above.
        unsafe { free(ptr) };
    }
}

fn first_aligned(alignment: usize, size: usize) -> *mut c_void {
    if alignment.is_power_of_two() { first::take(size, alignment.max(16)) } else { null_mut() }
}

/// # Safety
/// As for `free`.
unsafe extern "C" fn checked_free(ptr: *mut c_void) {
    if !first::owns(ptr)
        && let Some(next) = entry!(NEXT_FREE, Free)
    {
        // SAFETY: the caller's promise.
        unsafe { next(ptr) };
    }
}

/// # Safety
/// As for `realloc`.
unsafe extern "C" fn checked_realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    if first::owns(ptr) {
        // SAFETY: a block of the buffer, with as many bytes as it says, and a new one.
        unsafe {
            let fresh = malloc(size);
            if !fresh.is_null() {
                core::ptr::copy_nonoverlapping(ptr, fresh, first::size(ptr).min(size));
            }
            return fresh;
        }
    }
    match entry!(NEXT_REALLOC, Realloc) {
        // SAFETY: the caller's promise.
        Some(next) => unsafe { next(ptr, size) },
        None => null_mut(),
    }
}

/// Memory from before the next allocator is found: a buffer that is never taken back.
mod first {
    use super::{AtomicUsize, Ordering, UnsafeCell, c_void, null_mut};

    const BYTES: usize = 64 << 10;
    /// In front of each block, its size.
    const HEAD: usize = 16;

    #[repr(align(4096))]
    struct Buffer(UnsafeCell<[u8; BYTES]>);

    // SAFETY: its pieces are given out once each, by the counter below.
    unsafe impl Sync for Buffer {}

    static BUFFER: Buffer = Buffer(UnsafeCell::new([0; BYTES]));
    static NEXT: AtomicUsize = AtomicUsize::new(0);

    fn start() -> usize {
        BUFFER.0.get() as usize
    }

    /// Whether any of it was given out.
    pub fn used() -> bool {
        NEXT.load(Ordering::Relaxed) > 0
    }

    /// Whether `ptr` is of the buffer.
    pub fn owns(ptr: *mut c_void) -> bool {
        (ptr as usize).wrapping_sub(start()) < BYTES
    }

    /// How many bytes a block has.
    ///
    /// # Safety
    /// It was given out here.
    pub unsafe fn size(ptr: *mut c_void) -> usize {
        // SAFETY: the caller's promise; the word lies in front of the block.
        unsafe { ptr.cast::<u8>().sub(HEAD).cast::<usize>().read() }
    }

    /// A block that was never used before; NULL when there is none left.
    pub fn take(size: usize, alignment: usize) -> *mut c_void {
        let room = |from: usize| {
            let at = (start() + from + HEAD).checked_next_multiple_of(alignment)? - start();
            let end = at.checked_add(size)?.checked_next_multiple_of(16)?;
            (end <= BYTES).then_some((at, end))
        };
        let taken = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |from| {
            room(from).map(|(_, end)| end)
        });
        let Some((at, _)) = taken.ok().and_then(room) else { return null_mut() };
        let block = (start() + at) as *mut u8;
        // SAFETY: inside the buffer, in front of the block, and this call's alone.
        unsafe { block.sub(HEAD).cast::<usize>().write(size) };
        block.cast()
    }
}

#[cfg(test)]
mod tests {
    use super::first;

    #[test]
    fn first_memory_is_aligned_apart_and_ends() {
        let mut last_end = 0;
        for (size, alignment) in [(1, 16), (40, 16), (100, 256), (0, 16), (5000, 4096)] {
            let at = first::take(size, alignment);
            assert!(first::owns(at));
            assert!((at as usize).is_multiple_of(alignment));
            assert!(at as usize >= last_end);
            last_end = at as usize + size;
            // SAFETY: given out a moment ago.
            assert_eq!(unsafe { first::size(at) }, size);
        }
        assert!(first::take(1 << 20, 16).is_null());
        assert!(first::take(usize::MAX, 16).is_null());
        assert!(!first::take(8, 16).is_null());
        assert!(!first::owns(core::ptr::null_mut()));
    }
}
