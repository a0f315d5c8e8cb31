//! What the engine is made of besides itself. Apart, so that `tests/prefetch_orders` can build it
//! from the parts of a model checker instead.

use std::thread::Builder;

pub use crate::sync::{Condvar, Mutex, MutexGuard};
pub use std::thread::JoinHandle;

/// Starts a thread.
pub fn spawn(body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name("forebay-copy".into()).spawn(body)
}
