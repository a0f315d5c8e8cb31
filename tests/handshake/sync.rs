//! As `src/pool/sync.rs`, of the model checker's parts.

pub use shuttle::thread::yield_now;
pub use shuttle::thread::yield_now as spin_loop;

pub mod atomic {
    pub use shuttle::sync::atomic::*;
    pub use std::sync::atomic::compiler_fence;
}

pub use shuttle::sync::MutexGuard;

/// The checker's lock with the functions of `src/sync.rs`.
#[derive(Debug)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }
}
