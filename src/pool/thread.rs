//! From the calling thread to its front cache of a pool.
//!
//! The thread has 32 bytes of its own: the slot it used last, with the pool and stream it is
//! for, and a pointer to the list of all its slots. They are read at every allocation, so on
//! x86-64 they live in initial-exec thread-local storage, which stable Rust offers no other
//! way to ask for: 4 ns a pair of calls against 7 with the general model of a shared library.
//! It is little, so the library still loads with `dlopen`, where room for such storage is
//! short.

use std::sync::OnceLock;

use super::front::Slot;
use crate::order::Stream;

/// What a thread has of its own. All zeros at first; pools are numbered from 1.
#[repr(C)]
struct Own {
    last: Entry,
    all: *mut Vec<Entry>,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    pool: u64,
    stream: Stream,
    slot: *const Slot,
}

const NO_ENTRY: Entry = Entry { pool: 0, stream: Stream::DEFAULT, slot: std::ptr::null() };

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod storage {
    use super::Own;

    std::arch::global_asm!(
        ".pushsection .tbss.forebay_thread, \"awT\", @nobits",
        ".p2align 3",
        ".globl forebay_thread",
        ".hidden forebay_thread",
        ".type forebay_thread, @object",
        ".size forebay_thread, 32",
        "forebay_thread:",
        ".zero 32",
        ".popsection",
    );

    /// The calling thread's own.
    #[inline(always)]
    pub fn own() -> *mut Own {
        let own: *mut Own;
        // SAFETY: computes an address from the thread pointer, which the first word at fs
        // holds; touches no other memory.
        unsafe {
            std::arch::asm!(
                "mov {own}, qword ptr fs:[0]",
                "add {own}, qword ptr [rip + forebay_thread@GOTTPOFF]",
                own = out(reg) own,
                options(nostack, pure, readonly),
            );
        }
        own
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
mod storage {
    use super::{NO_ENTRY, Own};
    use std::cell::UnsafeCell;

    thread_local! {
        static OWN: UnsafeCell<Own> =
            const { UnsafeCell::new(Own { last: NO_ENTRY, all: std::ptr::null_mut() }) };
    }

    /// The calling thread's own.
    #[inline(always)]
    pub fn own() -> *mut Own {
        OWN.with(UnsafeCell::get)
    }
}

/// The slot that the calling thread has for `pool` and `stream`, when it was the last one it
/// used. Valid as long as the pool is.
#[inline(always)]
pub fn last_slot(pool: u64, stream: Stream) -> Option<*const Slot> {
    // SAFETY: the thread's own, which nobody else knows; no reference to it is kept.
    let last = unsafe { &(*storage::own()).last };
    (last.pool == pool && last.stream == stream).then_some(last.slot)
}

/// The slot that the calling thread has for `pool` and `stream`.
pub fn find_slot(pool: u64, stream: Stream) -> Option<*const Slot> {
    // SAFETY: as in `last_slot`; the references end before anything else looks.
    let own = unsafe { &mut *storage::own() };
    // SAFETY: null, or the list that this thread made.
    let all = unsafe { own.all.as_ref() }?;
    let found = all.iter().find(|entry| entry.pool == pool && entry.stream == stream)?;
    own.last = *found;
    Some(found.slot)
}

/// A slot that the calling thread has for `pool` and that `is_free` says has no use any more: it is
/// the thread's for `stream` from now on.
pub fn take_over(
    pool: u64,
    stream: Stream,
    is_free: impl Fn(*const Slot) -> bool,
) -> Option<*const Slot> {
    // SAFETY: as in `last_slot`; the references end before anything else looks.
    let own = unsafe { &mut *storage::own() };
    // SAFETY: null, or the list that this thread made.
    let all = unsafe { own.all.as_mut() }?;
    let entry = all.iter_mut().find(|entry| entry.pool == pool && is_free(entry.slot))?;
    entry.stream = stream;
    own.last = *entry;
    Some(entry.slot)
}

/// Remembers `slot` as the calling thread's for `pool` and `stream`. False when the thread is
/// ending, or the system has no room to be told of its end: then it has to do without.
pub fn remember_slot(pool: u64, stream: Stream, slot: *const Slot) -> bool {
    if ENDING.get() || !notice_end() {
        return false;
    }
    // SAFETY: as in `last_slot`; the references end before anything else looks.
    let own = unsafe { &mut *storage::own() };
    if own.all.is_null() {
        own.all = Box::into_raw(Box::default());
    }
    // SAFETY: the list that this thread made and nobody else knows.
    let all = unsafe { &mut *own.all };
    // Pools that are gone leave entries behind; they go when there are many.
    if all.len() >= 64 {
        all.retain(|entry| super::is_alive(entry.pool));
    }
    let entry = Entry { pool, stream, slot };
    all.push(entry);
    own.last = entry;
    true
}

thread_local! {
    static ENDING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Arranges for [`end`] to be called when this thread ends. A key rather than a destructor
/// of a `thread_local`, because registering one of those allocates.
fn notice_end() -> bool {
    static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: `key` is a valid place; `end` stays loaded, the library is never unloaded.
        (unsafe { libc::pthread_key_create(&mut key, Some(end)) } == 0).then_some(key)
    });
    match *key {
        // SAFETY: a key of ours; any value but null makes the destructor run.
        Some(key) => unsafe { libc::pthread_setspecific(key, std::ptr::dangling()) == 0 },
        None => false,
    }
}

/// The thread ends: its slots go back to their pools.
extern "C" fn end(_: *mut libc::c_void) {
    ENDING.set(true);
    // SAFETY: as in `last_slot`; the reference ends before anything else looks.
    let all = unsafe {
        let own = &mut *storage::own();
        own.last = NO_ENTRY;
        std::mem::replace(&mut own.all, std::ptr::null_mut())
    };
    if all.is_null() {
        return;
    }
    // SAFETY: made by `Box::into_raw` in `remember_slot`, known to this thread only.
    let all = unsafe { Box::from_raw(all) };
    for entry in *all {
        super::retire_slot(entry.pool, entry.slot);
    }
}
