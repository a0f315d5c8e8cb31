//! Allocators to measure forebay against, each behind one exported table.
//!
//! The tables hold the C functions themselves, so a peer is called exactly as a program that links
//! it would: no Rust wrapper stands in between (VMA's virtual block excepted: see `vma`).

#![allow(non_upper_case_globals)]

use std::ffi::c_void;

type Hook = Option<unsafe extern "C" fn()>;

/// One allocator. Its C twin is `struct peer_table` in benches/pool/allocator.c.
#[repr(C)]
pub struct PeerTable {
    /// Returns NULL when memory is short.
    alloc: unsafe extern "C" fn(usize) -> *mut c_void,
    /// Takes what `alloc` returned.
    free: unsafe extern "C" fn(*mut c_void),
    /// Called once, before anything else.
    process_start: Hook,
    /// Called on every further thread, before its first and after its last call.
    thread_start: Hook,
    thread_end: Hook,
}

// The crates are named only so that the C libraries they carry are linked.
use libmimalloc_sys as _;
use rpmalloc_sys as _;
use snmalloc_sys as _;
use vk_mem as _;

unsafe extern "C" {
    fn mi_malloc(size: usize) -> *mut c_void;
    fn mi_free(ptr: *mut c_void);

    fn rpmalloc_initialize() -> i32;
    fn rpmalloc_thread_initialize();
    fn rpmalloc_thread_finalize(release_caches: i32);
    fn rpmalloc(size: usize) -> *mut c_void;
    fn rpfree(ptr: *mut c_void);

    fn sn_malloc(size: usize) -> *mut c_void;
    fn sn_free(ptr: *mut c_void);
}

/// mimalloc 3.
#[unsafe(no_mangle)]
pub static peer_mimalloc: PeerTable = PeerTable {
    alloc: mi_malloc,
    free: mi_free,
    process_start: None,
    thread_start: None,
    thread_end: None,
};

/// snmalloc.
#[unsafe(no_mangle)]
pub static peer_snmalloc: PeerTable = PeerTable {
    alloc: sn_malloc,
    free: sn_free,
    process_start: None,
    thread_start: None,
    thread_end: None,
};

/// rpmalloc, which wants to be told about processes and threads.
#[unsafe(no_mangle)]
pub static peer_rpmalloc: PeerTable = PeerTable {
    alloc: rpmalloc,
    free: rpfree,
    process_start: Some(rpmalloc_process_start),
    thread_start: Some(rpmalloc_thread_initialize),
    thread_end: Some(rpmalloc_thread_end),
};

unsafe extern "C" fn rpmalloc_process_start() {
    // SAFETY: called once, before any other rpmalloc function, as PeerTable says.
    unsafe { rpmalloc_initialize() };
}

unsafe extern "C" fn rpmalloc_thread_end() {
    // SAFETY: called after the thread's last call into rpmalloc, as PeerTable says.
    unsafe { rpmalloc_thread_finalize(1) };
}

/// The TLSF of AMD's Vulkan Memory Allocator, in its form without a device ("virtual block"): it
/// keeps books over a range of offsets and never touches the memory. Not safe from two threads.
#[unsafe(no_mangle)]
pub static peer_vma: PeerTable = PeerTable {
    alloc: vma::alloc,
    free: vma::free,
    process_start: Some(vma::process_start),
    thread_start: None,
    thread_end: None,
};

mod vma {
    use std::ffi::c_void;
    use std::ptr::{null, null_mut};
    use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

    #[repr(C)]
    struct BlockInfo {
        size: u64,
        flags: u32,
        callbacks: *const c_void,
    }

    #[repr(C)]
    struct AllocationInfo {
        size: u64,
        alignment: u64,
        flags: u32,
        user_data: *mut c_void,
    }

    unsafe extern "C" {
        fn vmaCreateVirtualBlock(info: *const BlockInfo, block: *mut *mut c_void) -> i32;
        fn vmaVirtualAllocate(
            block: *mut c_void,
            info: *const AllocationInfo,
            allocation: *mut *mut c_void,
            offset: *mut u64,
        ) -> i32;
        fn vmaVirtualFree(block: *mut c_void, allocation: *mut c_void);
    }

    /// As large as the pool it is measured against.
    const BLOCK_BYTES: u64 = 64 << 30;
    static BLOCK: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

    pub unsafe extern "C" fn process_start() {
        let info = BlockInfo { size: BLOCK_BYTES, flags: 0, callbacks: null() };
        let mut block = null_mut();
        // SAFETY: both pointers are to live locals of the types VMA declares.
        if unsafe { vmaCreateVirtualBlock(&info, &mut block) } == 0 {
            BLOCK.store(block, Relaxed);
        }
    }

    /// Returns VMA's handle of the allocation, which stands for the block.
    pub unsafe extern "C" fn alloc(size: usize) -> *mut c_void {
        let block = BLOCK.load(Relaxed);
        if block.is_null() {
            return null_mut();
        }
        let info =
            AllocationInfo { size: size as u64, alignment: 16, flags: 0, user_data: null_mut() };
        let (mut allocation, mut offset) = (null_mut(), 0);
        // SAFETY: the block is live, the pointers are to live locals, one thread calls at a time.
        let result = unsafe { vmaVirtualAllocate(block, &info, &mut allocation, &mut offset) };
        if result == 0 { allocation } else { null_mut() }
    }

    pub unsafe extern "C" fn free(allocation: *mut c_void) {
        // SAFETY: the handle came from `alloc` and is given back once.
        unsafe { vmaVirtualFree(BLOCK.load(Relaxed), allocation) };
    }
}
