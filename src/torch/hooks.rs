//! The hooks of the global way. PyTorch is given them by their addresses, with the setters of
//! `torch._C._CUDAPluggableAllocator`; `python/forebay/torch` does that.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use super::allocator::{Thrown, caught, complain, stream_of};
use super::device::{self, Gpu};
use crate::error::{Result, fail};
use crate::order::Stream;

/// A pool of PyTorch's graphs by its two numbers, one of which is zero: (n, 0) was made for a
/// graph, (0, n) by `graph_pool_handle()`. None for the default pool, (0, 0).
fn graph_of(first: u64, second: u64) -> Option<u64> {
    match (first, second) {
        (0, 0) => None,
        (first, 0) => Some(first << 1),
        (first, second) => Some(second << 1 | 1 | first << 32),
    }
}

/// Throws the error of a hook, whose caller can take it.
fn checked(device: c_int, body: impl FnOnce() -> Result<()>) {
    let Err(error) = caught(device, body) else { return };
    let thrown = Thrown::of(error);
    thrown.throw();
}

/// Whether PyTorch was given the hooks; it calls that of the start before anything is allocated.
static HOOKED: AtomicBool = AtomicBool::new(false);

/// Without hooks nobody announces captures, and what is taken in one would be used again outside
/// of its graph: the error for that.
#[inline]
pub(super) fn check_hooks(gpu: &Gpu, stream: Stream) -> Result<()> {
    if HOOKED.load(Ordering::Relaxed) { Ok(()) } else { check_capture(gpu, stream) }
}

#[cold]
#[inline(never)]
fn check_capture(gpu: &Gpu, stream: Stream) -> Result<()> {
    if gpu.pool.is_announced() || !gpu.pool.is_capturing(stream)? {
        return Ok(());
    }
    Err(fail!(
        InvalidState,
        "stream {:#x} is capturing a graph, and PyTorch was not given forebay's hooks, which say \
         so: use forebay.torch.enable()",
        stream.0
    ))
}

/// Hook `set_init_fn`: PyTorch has found `device_count` devices. A pool is made when its device is
/// first used.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_torch_init(device_count: c_int) {
    HOOKED.store(true, Ordering::Relaxed);
    tracing::debug!(device_count, "PyTorch's CUDA is initialised");
}

/// Hook `set_reset_fn`, for `torch.cuda.empty_cache()`: idle memory goes back to the devices. Waits
/// for work that uses what was freed, as PyTorch's own does. Never throws.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_torch_reset() {
    for gpu in device::all() {
        let trimmed = caught(gpu.ordinal as c_int, || {
            gpu.pool.wait_for_frees()?;
            gpu.pool.trim(0)
        });
        if let Err(error) = trimmed {
            complain("forebay_torch_reset", error);
        }
    }
}

/// Hook `set_memory_fraction_fn`, for `torch.cuda.set_per_process_memory_fraction`: the pool of
/// `device` takes at most this part of the device's memory, from now on.
///
/// Throws `c10::Error` (a RuntimeError) when live tensors take more than that, or `fraction` is not
/// in (0, 1].
#[unsafe(no_mangle)]
pub extern "C-unwind" fn forebay_torch_set_memory_fraction(fraction: f64, device: c_int) {
    checked(device, || device::set_fraction(device, fraction));
}

/// Hook `set_base_alloc_fn`: the first byte of the block that `ptr` lies in, and its bytes to
/// `*size` (may be NULL); NULL for what is not ours.
///
/// # Safety
/// `size` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_torch_base_allocation(
    ptr: *mut c_void,
    size: *mut usize,
) -> *mut c_void {
    let found = caught(-1, || {
        let gpu = device::owner_of(ptr as usize);
        Ok(gpu.and_then(|gpu| gpu.pool.owner(ptr as usize)))
    });
    let Ok(Some((address, bytes))) = found else { return std::ptr::null_mut() };
    // SAFETY: the caller's promise.
    if let Some(size) = unsafe { size.as_mut() } {
        *size = bytes as usize;
    }
    address as *mut c_void
}

/// Hook `set_record_stream_fn`, for `Tensor.record_stream`: work on `stream` uses the memory of
/// `ptr`. What is not ours, a tensor that was made elsewhere, is left alone.
///
/// Throws `c10::Error` when the stream cannot be followed: to go on would not be safe.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn forebay_torch_record_stream(ptr: *mut c_void, stream: *mut c_void) {
    let Some(gpu) = device::owner_of(ptr as usize) else { return };
    checked(gpu.ordinal as c_int, || gpu.pool.record_stream(ptr as usize, stream_of(stream)));
}

/// Hook `set_begin_allocate_to_pool`: a graph is about to be captured, and what is taken in its
/// capture belongs to the pool with the numbers `first` and `second`. The last argument, a
/// `std::function` that says which streams are meant, is not looked at: the driver says which
/// streams capture.
///
/// Throws `c10::Error` when that pool is being captured into already.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn forebay_torch_begin_allocate_to_pool(
    device: c_int,
    first: u64,
    second: u64,
    _filter: *mut c_void,
) {
    let Some(graph) = graph_of(first, second) else { return };
    checked(device, || device::gpu(device)?.pool.expect_graph(graph));
}

/// Hook `set_end_allocate_to_pool_fn`: the capture is over. Never throws.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_torch_end_allocate_to_pool(device: c_int, first: u64, second: u64) {
    let Some(graph) = graph_of(first, second) else { return };
    if let Err(error) = caught(device, || device::gpu(device)?.pool.end_graph(graph)) {
        complain("forebay_torch_end_allocate_to_pool", error);
    }
}

/// Hook `set_release_pool`, called once for each graph that was captured into the pool: with the
/// last one its memory is everybody's. Never throws: it is called by destructors.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_torch_release_pool(device: c_int, first: u64, second: u64) {
    let Some(graph) = graph_of(first, second) else { return };
    if let Err(error) = caught(device, || device::gpu(device)?.pool.release_graph(graph)) {
        complain("forebay_torch_release_pool", error);
    }
}

#[cfg(test)]
mod tests {
    use super::graph_of;

    #[test]
    fn pools_of_graphs_have_numbers_of_their_own() {
        assert_eq!(graph_of(0, 0), None);
        let ids = [(1, 0), (0, 1), (2, 0), (0, 2), (1, 1), (2, 1)];
        let numbers: std::collections::HashSet<_> =
            ids.iter().filter_map(|&(first, second)| graph_of(first, second)).collect();
        assert_eq!(numbers.len(), ids.len());
        assert!(!numbers.contains(&0) && numbers.iter().all(|&number| number < 1 << 63));
    }
}
