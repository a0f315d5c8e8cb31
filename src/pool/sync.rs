//! What the door of a front cache is made of. Apart, so that `tests/handshake` can build
//! [`super::handshake`] and [`super::front`] from the parts of a model checker instead.

pub use std::hint::spin_loop;
pub use std::sync::atomic;
pub use std::thread::yield_now;

pub use crate::sync::{Mutex, MutexGuard};
