//! The front door: the C functions of `forebay.h`, one file per noun.
//!
//! What happens here is argument checks, the panic guard, and turning results into statuses;
//! what is checked here and what is checked further in have one rule: the floor that knows
//! the limit names it. The order of the nouns in the header is in `tests/header.rs`.

pub mod block;
pub mod cache;
pub mod cache_simulate;
pub mod graph;
pub mod guard;
pub mod handle;
pub mod lifetime;
pub mod log;
pub mod monitor;
pub mod plan;
pub mod planned;
pub mod pool;
pub mod prefetch;
pub mod report;
pub mod share;
pub mod stats;
pub mod status;
pub mod stream;
pub mod trace;
