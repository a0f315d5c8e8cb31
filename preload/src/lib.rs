//! `libforebay_preload.so`: a library for `LD_PRELOAD` that gives forebay's pools to programs that
//! never heard of them.
//!
//! | file | what lives there |
//! | --- | --- |
//! | `start` | the constructor and the destructor: what is on, and what is said at the end |
//! | `malloc` | the functions of the C allocator, by their names |
//! | `cuda/` | the allocation calls of CUDA's runtime and driver, by their names |
//! | `pool` | the host pool: when it is made, what is taken from it and given back |
//! | `zero` | zeroing what is not zero yet |
//! | `library` | `libforebay.so.0`: found, loaded, its entry points |
//! | `next` | the allocator that was there, and memory from before it is found |
//! | `own` | what a thread has of its own: whether it is inside |
//! | `options` | the variable `FOREBAY_PRELOAD` |
//! | `say` | lines on the standard error |
//!
//! A file uses those below it. `unsafe` is in all but `options`: this is a room of foreign functions.
//!
//! # Rules
//! - Nothing here allocates, takes a lock, or panics on the way of a call of malloc's: only `core` is
//!   used there, and system calls. What makes a pool does, on a thread of its own or in a call of
//!   CUDA's.
//! - A request below the threshold costs a comparison and a jump to the next allocator; so does a
//!   free of what is not the pool's.
//! - A request goes to the pool or, whatever is wrong with the pool, to the next allocator. Nothing
//!   is refused that the next allocator would have given.
#![cfg_attr(test, allow(dead_code))]

mod cuda;
mod library;
// The program that runs the unit tests has an allocator of its own.
#[cfg(not(test))]
mod malloc;
mod next;
mod options;
mod own;
mod pool;
mod say;
#[cfg(not(test))]
mod start;
mod zero;
