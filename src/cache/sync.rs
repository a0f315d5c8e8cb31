//! What the engine is made of besides itself. Apart, so that `tests/cache_orders` can build it
//! from the parts of a model checker instead.

pub use std::sync::atomic;
pub use std::thread::yield_now;

pub use crate::sync::{Mutex, MutexGuard};
