//! Caches: blocks of pools that are kept under a key as long as they are worth their bytes.

pub mod key_trace;
pub mod policy;
pub mod simulate;
