//! forebay: memory held right in front of the processor that needs it, pooled and in stream
//! order, behind a stable C ABI.
//!
//! # The house
//!
//! Folders are floors. A floor uses the floors below it and none above; this list is the
//! order.
//!
//! | floor | what lives there | unsafe |
//! | --- | --- | --- |
//! | [`torch`] | PyTorch's door: its allocator and its hooks, both ways in; uses `capi` for handles and statuses | yes |
//! | [`capi`] | the front door: the C functions of `forebay.h`, one file per noun; argument checks, the panic guard, statuses | yes |
//! | [`report`] | a trace as one page to read: the peak explained, maps, plans, what to do | no |
//! | [`replay`] | a trace replayed into a pool, or into malloc, and what that cost | yes |
//! | [`prefetch`] | batches in slots of a pool ahead of their use: copy threads, files, a stream for copies | in `copy`, `engine`, `file`, `over_cuda`, `over_pool`, `source` |
//! | [`cache`] | blocks of pools kept under keys: the table under its lock, policies | for a copy, a fork and a clock |
//! | [`pool`] | the stream-ordered pool: front caches, the core under its lock, the ladder on out-of-memory, policies, numbers | in `batch`, `bin`, `block`, `contents`, `core`, `fast`, `fork`, `front`, `give`, `handshake`, `housekeeper`, `mod`, `own`, `resize`, `slots`, `take`, `thread` |
//! | [`lifetime`] | lifetimes of tensors, plans that place them at the lower bound, and who has its place in a plan that is repeated | no |
//! | [`trace`] | the log of a pool's traffic: recorder and formats | no |
//! | [`order`] | streams and fences: who may reuse what, and when | for a fork; `cuda` |
//! | [`space`] | bookkeeping of an arena in offsets: size classes, runs, slabs, page map; no device, no thread | forbidden |
//! | [`device`] | one trait, its preconditions said once; `host.rs`, `cuda/`, `pinned.rs` | yes |
//! | [`monitor`] | the ground: what is left of the machine, of control groups, of limits, of GPUs; and why | in `nvml` |
//!
//! [`error`] and [`sync`] are what all floors stand on.
//!
//! Beside them: `include/` has the contract, `forebay.h`, generated from `capi`, and
//! `forebay.hpp` for C++; `tests/c/`, `examples_c/` and the sections of the header have one
//! file per noun of `capi`, with its name.
//!
//! # Words
//!
//! *Requested* bytes were asked for, *allocated* bytes are those of the blocks given out,
//! *reserved* bytes are mapped. A *page* is 2 MiB, the unit of mapping. An *arena* is one
//! reservation of addresses, made once per pool. A *run* is a piece of it: free and mapped,
//! without pages, or used; a *slab* is a run cut into equal *blocks* of one size class. A
//! *stream* is a queue of work in order, a *fence* a point in it.

pub mod cache;
pub mod capi;
pub mod device;
pub mod error;
pub mod lifetime;
pub mod monitor;
pub mod order;
pub mod pool;
pub mod prefetch;
pub mod replay;
pub mod report;
pub mod space;
pub mod sync;
pub mod torch;
pub mod trace;

// Tests that are part of the library share programs with those beside it.
#[cfg(test)]
extern crate self as forebay;
#[cfg(test)]
#[path = "../tests/gpu/mod.rs"]
mod gpu;
#[cfg(test)]
mod planted;
