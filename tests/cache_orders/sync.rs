//! As `src/cache/sync.rs`, of the model checker's parts.

pub use shuttle::sync::{MutexGuard, atomic};
pub use shuttle::thread::yield_now;

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
}
