//! The C library's allocator, for comparison.

use super::Target;
use crate::error::{Result, fail};

/// `malloc` and `free` of the process. Streams mean nothing to them.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemMalloc;

// SAFETY: malloc gives out exclusive memory of the asked size that any thread may write.
unsafe impl Target for SystemMalloc {
    fn alloc(&self, size: usize, _stream: usize) -> Result<*mut u8> {
        // malloc may answer a request for no bytes with null, which would read as failure.
        // SAFETY: malloc can be called with any size.
        let ptr = unsafe { libc::malloc(size.max(1)) };
        match ptr.is_null() {
            true => Err(fail!(OutOfMemory, "malloc of {size} bytes failed")),
            false => Ok(ptr.cast()),
        }
    }

    unsafe fn free(&self, ptr: *mut u8, _stream: usize) -> Result<()> {
        // SAFETY: the caller passes a block of `alloc`, which is malloc's, once.
        unsafe { libc::free(ptr.cast()) };
        Ok(())
    }

    fn cpu_writable(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn blocks_come_and_go() {
        for size in [0, 1, 5000] {
            let block = SystemMalloc.alloc(size, 7).unwrap();
            assert!(!block.is_null());
            // SAFETY: the block is malloc's and freed once.
            assert_eq!(unsafe { SystemMalloc.free(block, 8) }, Ok(()));
        }
    }

    #[test]
    fn what_malloc_refuses_is_out_of_memory() {
        assert_eq!(SystemMalloc.alloc(usize::MAX, 0).unwrap_err().kind(), Kind::OutOfMemory);
    }
}
