//! A panic inside the library: caught at the C boundary, and the pool answers nothing else
//! any more.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use forebay::capi::block::*;
use forebay::capi::pool::*;
use forebay::capi::stats::*;
use forebay::capi::status::{forebay_last_error, forebay_status as Status};

fn message() -> String {
    // SAFETY: the thread's own text, copied before the next call.
    unsafe { CStr::from_ptr(forebay_last_error()) }.to_string_lossy().into_owned()
}

fn create(policy: i32) -> *mut forebay_pool {
    let mut pool = null_mut();
    let config = forebay_pool_config {
        struct_size: size_of::<forebay_pool_config>(),
        device_kind: 0,
        device_index: 0,
        max_bytes: 64 << 20,
        initial_bytes: 0,
        block_size: 0,
        policy,
        reserved: 0,
        flags: 0,
    };
    // SAFETY: a config and a place for the result.
    assert_eq!(unsafe { forebay_pool_create(&config, &mut pool) }, Status::ForebayOk);
    pool
}

#[test]
fn a_panic_poisons_its_pool_and_no_other() {
    for policy in 0..=4 {
        let (pool, other) = (create(policy), create(policy));
        let untouched = 0x5A5A_usize as *mut std::ffi::c_void;
        let mut block = null_mut();
        // SAFETY: pools that are there, and places for results.
        unsafe {
            assert_eq!(forebay_alloc(pool, 100, null_mut(), &mut block), Status::ForebayOk);
            // So that the fast path would serve the next call.
            assert_eq!(forebay_free(pool, block, null_mut()), Status::ForebayOk);
            assert_eq!(forebay_alloc(pool, 100, null_mut(), &mut block), Status::ForebayOk);
            pool_behind(pool).unwrap().panic_next();
            let mut out = untouched;
            let status = forebay_alloc(pool, 100, null_mut(), &mut out);
            assert_eq!(status, Status::ForebayErrorInternal);
            assert!(message().contains("a panic that a test wished for"), "{}", message());
            assert_eq!(out, untouched);

            let mut number = 77;
            let mut batch = [untouched; 2];
            let poisoned = [
                ("alloc", forebay_alloc(pool, 100, null_mut(), &mut out)),
                ("alloc, large", forebay_alloc(pool, 1 << 20, null_mut(), &mut out)),
                ("alloc_aligned", forebay_alloc_aligned(pool, 9, 64, null_mut(), &mut out)),
                ("free", forebay_free(pool, block, null_mut())),
                ("realloc", forebay_realloc(pool, block, 200, null_mut(), &mut out)),
                (
                    "alloc_batch",
                    forebay_alloc_batch(pool, [8, 8].as_ptr(), 2, null_mut(), batch.as_mut_ptr()),
                ),
                ("free_batch", forebay_free_batch(pool, &block, 1, null_mut(), null_mut())),
                ("record_stream", forebay_record_stream(pool, block, null_mut())),
                ("trim", forebay_pool_trim(pool, 0, &mut number)),
                ("defragment", forebay_pool_defragment(pool, null_mut())),
                ("set_policy", forebay_pool_set_policy(pool, 0)),
                ("set_limit", forebay_pool_set_limit(pool, 128 << 20)),
                ("check", forebay_pool_check(pool)),
                ("usable_size", forebay_usable_size(pool, block, &mut number)),
                ("owns", forebay_pool_owns(pool, block, &mut out, null_mut())),
                ("reset_peaks", forebay_pool_reset_peaks(pool)),
                ("set_oom_callback", forebay_pool_set_oom_callback(pool, None, null_mut())),
            ];
            for (call, status) in poisoned {
                assert_eq!(status, Status::ForebayErrorPoisoned, "{call}");
            }
            assert!(message().contains("destroy"), "{}", message());
            assert_eq!((out, batch, number), (untouched, [untouched; 2], 77));

            // In other threads as well, those that have a front cache of it and new ones.
            let address = pool as usize;
            std::thread::spawn(move || {
                let mut out = null_mut();
                let pool = address as *mut forebay_pool;
                let status = forebay_alloc(pool, 100, null_mut(), &mut out);
                assert_eq!(status, Status::ForebayErrorPoisoned);
            })
            .join()
            .unwrap();

            let mut out = null_mut();
            assert_eq!(forebay_alloc(other, 100, null_mut(), &mut out), Status::ForebayOk);
            assert_eq!(forebay_pool_check(other), Status::ForebayOk);
            assert_eq!(forebay_free(other, out, null_mut()), Status::ForebayOk);
            assert_eq!(forebay_pool_destroy(other), Status::ForebayOk);
            assert_eq!(forebay_pool_destroy(pool), Status::ForebayOk);
            assert_eq!(forebay_pool_destroy(pool), Status::ForebayErrorInvalidArgument);
        }
    }
}

/// What must not panic itself: NULL in every place where a pointer goes.
#[test]
fn null_is_refused_by_name() {
    let pool = create(0);
    // SAFETY: NULL is what these calls are documented to refuse.
    unsafe {
        let refused = [
            (forebay_alloc(pool, 8, null_mut(), null_mut()), "out"),
            (forebay_alloc(null_mut(), 8, null_mut(), null_mut()), "pool"),
            (forebay_usable_size(pool, null(), null_mut()), "out"),
            (forebay_pool_stats(pool, null_mut()), "out"),
            (forebay_pool_create(null(), null_mut()), "out"),
            (forebay_alloc_batch(pool, null(), 1, null_mut(), null_mut()), "sizes"),
            (forebay_free_batch(pool, null(), 1, null_mut(), null_mut()), "ptrs"),
        ];
        for (status, name) in refused {
            assert_eq!(status, Status::ForebayErrorInvalidArgument, "{name}");
        }
        assert!(message().starts_with("ptrs is NULL"), "{}", message());
        assert_eq!(forebay_pool_destroy(pool), Status::ForebayOk);
    }
}
