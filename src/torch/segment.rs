//! The two functions of the pool way: segments, which PyTorch cuts into blocks itself.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

use super::allocator::{caught, complain, stream_of};
use super::device::{self, Gpu};
use crate::error::Result;
use crate::order::Stream;
use crate::sync::Mutex;

/// Segments that were taken in a capture, and the graph that each was taken for.
static CAPTURED: Mutex<Option<HashMap<usize, u64>>> = Mutex::new(None);

/// Numbers of graphs of one segment each; those of hooks never come near.
static NEXT: AtomicU64 = AtomicU64::new(1 << 63);

/// Allocates a segment of `size` bytes on the device with the number `device`, for the allocator
/// of a `torch.cuda.MemPool`: to be named to `torch.cuda.memory.CUDAPluggableAllocator` together
/// with `forebay_torch_segment_free`. NULL when there is no memory, or for another error, which
/// is in `forebay_last_error`: PyTorch frees what it can, asks once more and then raises its own
/// `torch.OutOfMemoryError`. A size of 0 gets NULL.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_torch_segment_malloc(
    size: usize,
    device: c_int,
    stream: *mut c_void,
) -> *mut c_void {
    if size == 0 {
        return std::ptr::null_mut();
    }
    let taken = caught(device, || {
        let gpu = device::gpu(device)?;
        let address = take(gpu, size, stream_of(stream))?;
        gpu.usage.taken(size, gpu.pool.block_bytes(size));
        Ok(address)
    });
    match taken {
        Ok(address) => address as *mut c_void,
        Err(error) => {
            let text = error.message();
            tracing::warn!(size, device, %text, "no segment");
            std::ptr::null_mut()
        }
    }
}

/// A segment that is taken in a capture is used whenever the graph is launched, until PyTorch
/// gives it back: as if each such segment were a graph's only memory.
fn take(gpu: &Gpu, size: usize, stream: Stream) -> Result<usize> {
    if !gpu.pool.is_capturing(stream)? {
        return gpu.pool.alloc(size, stream);
    }
    let graph = NEXT.fetch_add(1, Ordering::Relaxed);
    // PyTorch calls this under a lock of the device, so no other capture on this stream is
    // announced at the same time.
    gpu.pool.begin_graph(graph, stream)?;
    let taken = gpu.pool.alloc(size, stream);
    gpu.pool.end_graph(graph)?;
    match taken {
        Ok(address) => {
            CAPTURED.lock().get_or_insert_default().insert(address, graph);
            Ok(address)
        }
        Err(error) => {
            // The error that counts is the first one.
            let _ = gpu.pool.release_graph(graph);
            Err(error)
        }
    }
}

/// Takes back what `forebay_torch_segment_malloc` gave; `size`, `device` and `stream` are those
/// of that call. NULL is fine. Never throws: what is not ours is reported on the standard error
/// and left alone.
///
/// # Safety
/// Work queued on `stream` is the last to use the memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_torch_segment_free(
    ptr: *mut c_void,
    size: usize,
    device: c_int,
    stream: *mut c_void,
) {
    if ptr.is_null() {
        return;
    }
    let address = ptr as usize;
    let freed = caught(device, || {
        let gpu = device::gpu(device)?;
        let graph = CAPTURED.lock().as_mut().and_then(|captured| captured.remove(&address));
        gpu.pool.free(address, stream_of(stream))?;
        gpu.usage.freed(size, gpu.pool.block_bytes(size));
        match graph {
            Some(graph) => gpu.pool.release_graph(graph),
            None => Ok(()),
        }
    });
    if let Err(error) = freed
        // What a forked child inherits and lets go of is its parent's still.
        && !device::ready(device).is_some_and(|gpu| gpu.pool.is_of_parent())
    {
        complain("forebay_torch_segment_free", error);
    }
}
