//! PyTorch's door.
//!
//! PyTorch loads a pluggable allocator by the addresses of two functions, and of up to eight
//! hooks, in C. Nothing here is built against a version of it. Two ways lead in:
//!
//! | way | entered by | whose blocks |
//! | --- | --- | --- |
//! | global | `torch.cuda.memory.change_current_allocator` | forebay's: [`allocator`], [`hooks`] |
//! | pool | `torch.cuda.MemPool` | PyTorch's, cut from segments of forebay's: [`segment`] |
//!
//! [`control`] is what `python/forebay/torch` calls besides: limits, numbers, the pool itself.
//! [`throw`] raises PyTorch's own exceptions. The pools ([`device`]) are made when a device is
//! first used and never destroyed: tensors outlive the end of the interpreter.
//!
//! What PyTorch expects of these functions is written down nowhere in one place. The rules
//! they keep: a size of 0 gets NULL, and no other does, in the global way, for NULL would
//! become a tensor without memory; in the pool way NULL means out of memory. Nothing is thrown
//! from a free, which runs in destructors. The device that is current when something is freed
//! is any; the stream is the one of the allocation. Nobody ever waits for the interpreter's
//! lock here.

pub mod allocator;
pub mod control;
mod device;
pub mod hooks;
mod message;
pub mod observer;
mod options;
pub mod segment;
mod throw;
mod usage;
