//! A pool as what a trace is replayed into.

use super::Target;
use crate::error::Result;
use crate::order::Stream;
use crate::pool::Pool;

// SAFETY: a block of a pool has the bytes asked for and is nobody else's until it is freed.
unsafe impl Target for Pool {
    fn alloc(&self, size: usize, stream: usize) -> Result<*mut u8> {
        self.alloc(size, Stream(stream as u64)).map(|address| address as *mut u8)
    }

    // The pool checks the pointer itself, so it relies on no promise.
    unsafe fn free(&self, ptr: *mut u8, stream: usize) -> Result<()> {
        self.free(ptr as usize, Stream(stream as u64))
    }

    fn cpu_writable(&self) -> bool {
        self.is_cpu_writable()
    }
}
