//! What the machine has left, by what the kernel says of itself and of the control groups that
//! this process is in.

mod memory;

pub use memory::{Memory, memory};
