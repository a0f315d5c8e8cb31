//! From the calling thread to its front cache of a pool.
//!
//! The thread has one pointer of its own, to a short list of (pool, stream, slot). It is read
//! at every allocation, so on x86-64 it lives in initial-exec thread-local storage, which
//! stable Rust offers no other way to ask for: 4 ns a pair of calls against 7 with the
//! general model of a shared library. It is 8 bytes, so the library still loads with
//! `dlopen`, where room for such storage is short.

use std::sync::OnceLock;

use super::front::Slot;
use crate::order::Stream;

/// A thread's front caches.
struct List {
    /// Used last; also in `all`.
    last: Entry,
    all: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    pool: u64,
    stream: Stream,
    slot: *const Slot,
}

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod storage {
    use super::List;

    std::arch::global_asm!(
        ".pushsection .tbss.forebay_thread_list, \"awT\", @nobits",
        ".p2align 3",
        ".globl forebay_thread_list",
        ".hidden forebay_thread_list",
        ".type forebay_thread_list, @object",
        ".size forebay_thread_list, 8",
        "forebay_thread_list:",
        ".zero 8",
        ".popsection",
    );

    #[inline(always)]
    pub fn get() -> *mut List {
        let list: *mut List;
        // SAFETY: reads the thread's own 8 bytes, which exist as long as the thread does.
        unsafe {
            std::arch::asm!(
                "mov {list}, qword ptr [rip + forebay_thread_list@GOTTPOFF]",
                "mov {list}, qword ptr fs:[{list}]",
                list = out(reg) list,
                options(nostack, preserves_flags, readonly),
            );
        }
        list
    }

    pub fn set(list: *mut List) {
        // SAFETY: writes the thread's own 8 bytes.
        unsafe {
            std::arch::asm!(
                "mov {at}, qword ptr [rip + forebay_thread_list@GOTTPOFF]",
                "mov qword ptr fs:[{at}], {list}",
                at = out(reg) _,
                list = in(reg) list,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
mod storage {
    use super::List;
    use std::cell::Cell;

    thread_local!(static LIST: Cell<*mut List> = const { Cell::new(std::ptr::null_mut()) });

    #[inline(always)]
    pub fn get() -> *mut List {
        LIST.get()
    }

    pub fn set(list: *mut List) {
        LIST.set(list);
    }
}

/// The slot that the calling thread has for `pool` and `stream`, when it was the last one it
/// used. Valid as long as the pool is.
#[inline(always)]
pub fn last_slot(pool: u64, stream: Stream) -> Option<*const Slot> {
    // SAFETY: null, or the list that this thread made and nobody else knows.
    let list = unsafe { storage::get().as_ref() }?;
    (list.last.pool == pool && list.last.stream == stream).then_some(list.last.slot)
}

/// The slot that the calling thread has for `pool` and `stream`.
pub fn find_slot(pool: u64, stream: Stream) -> Option<*const Slot> {
    // SAFETY: as in `last_slot`; the reference ends before anything else looks.
    let list = unsafe { storage::get().as_mut() }?;
    let found = list.all.iter().find(|entry| entry.pool == pool && entry.stream == stream)?;
    list.last = *found;
    Some(found.slot)
}

/// Remembers `slot` as the calling thread's for `pool` and `stream`. False when the thread is
/// ending, or the system has no room to be told of its end: then it has to do without.
pub fn remember_slot(pool: u64, stream: Stream, slot: *const Slot) -> bool {
    if ENDING.get() || !notice_end() {
        return false;
    }
    let mut list = storage::get();
    if list.is_null() {
        let none = Entry { pool: 0, stream: Stream::DEFAULT, slot: std::ptr::null() };
        list = Box::into_raw(Box::new(List { last: none, all: Vec::new() }));
        storage::set(list);
    }
    // SAFETY: the list that this thread made and nobody else knows.
    let list = unsafe { &mut *list };
    // Pools that are gone leave entries behind; they go when their number is noticed.
    if list.all.len() >= 64 {
        list.all.retain(|entry| super::is_alive(entry.pool));
    }
    let entry = Entry { pool, stream, slot };
    list.all.push(entry);
    list.last = entry;
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
        Some(key) => unsafe { libc::pthread_setspecific(key, 1 as *const _) == 0 },
        None => false,
    }
}

/// The thread ends: its slots go back to their pools.
extern "C" fn end(_: *mut libc::c_void) {
    ENDING.set(true);
    let list = storage::get();
    storage::set(std::ptr::null_mut());
    if list.is_null() {
        return;
    }
    // SAFETY: made by `Box::into_raw` in `remember_slot`, known to this thread only.
    let list = unsafe { Box::from_raw(list) };
    for entry in list.all {
        super::retire_slot(entry.pool, entry.slot);
    }
}
