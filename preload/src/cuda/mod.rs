//! The allocation calls of CUDA's runtime and driver, by their names, routed to pools in stream
//! order. Managed memory is not among them: it passes by, and so does the free of it.

mod device;
mod family;

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use self::device::{Pools, pools_of};
use self::family::{Code, DRIVER, Family, INVALID_VALUE, RUNTIME, SUCCESS};
use crate::library::{NO_STREAM, Statistics};
use crate::options::Options;
use crate::say::say;

/// `cudaStreamPerThread`: what the null stream stands for in functions with this ending.
const PER_THREAD: usize = 2;

static WANTED: AtomicBool = AtomicBool::new(false);
static POLICY: AtomicI32 = AtomicI32::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);
static SAID: AtomicBool = AtomicBool::new(false);

/// Has the calls be served, if that is wanted.
pub fn want(options: &Options) {
    WANTED.store(options.cuda, Ordering::Relaxed);
    POLICY.store(options.policy, Ordering::Relaxed);
}

/// At the end: says so when a program with a GPU never called here, which has its runtime linked in
/// statically.
pub fn end() {
    if WANTED.load(Ordering::Relaxed)
        && CALLS.load(Ordering::Relaxed) == 0
        && family::loaded(DRIVER.file).is_some()
    {
        say!(
            "cuda: no call of CUDA's allocation functions came here; a program with the runtime \
             linked in statically (nvcc's default, see -cudart=shared) makes none that can be seen"
        );
    }
}

/// What the pools of every GPU counted: device, whether in stream order, numbers.
pub fn numbers() -> impl Iterator<Item = (i32, bool, Statistics)> {
    device::all().flat_map(|pools| {
        [(false, &pools.plain), (true, &pools.ordered)]
            .map(|(ordered, pool)| (pools.device, ordered, pool.numbers()))
    })
}

/// The pools of the thread's device, where that is wanted.
fn current(family: &Family) -> Option<&'static Pools> {
    if !WANTED.load(Ordering::Relaxed) {
        return None;
    }
    CALLS.fetch_add(1, Ordering::Relaxed);
    if !family.is_there() {
        if !SAID.swap(true, Ordering::Relaxed) {
            say!(
                "cuda: there is no shared libcudart or libcuda behind this library; nothing is \
                 pooled on GPUs"
            );
        }
        return None;
    }
    pools_of(family.device()?, POLICY.load(Ordering::Relaxed))
}

/// Writes a block, if there is one, to where it is wanted.
///
/// # Safety
/// `out` is valid for writing.
unsafe fn answer(out: *mut u64, block: Option<u64>) -> bool {
    let Some(block) = block else { return false };
    // SAFETY: the caller's promise.
    unsafe { out.write(block) };
    true
}

/// # Safety
/// As CUDA documents its functions; so for all here.
unsafe fn alloc(family: &Family, out: *mut u64, size: usize) -> Code {
    if size > 0
        && !out.is_null()
        && let Some(pools) = current(family)
        // SAFETY: not NULL, and the caller's promise.
        && unsafe { answer(out, pools.plain.take(size, NO_STREAM)) }
    {
        return SUCCESS;
    }
    // Whatever was wrong: CUDA says it in its own way, if it has no memory either.
    family.alloc(out, size)
}

/// # Safety
/// As for [`alloc`].
unsafe fn alloc_async(family: &Family, out: *mut u64, size: usize, stream: usize) -> Code {
    if size > 0
        && !out.is_null()
        && let Some(pools) = current(family)
        // SAFETY: not NULL, and the caller's promise.
        && unsafe { answer(out, pools.ordered.take(size, stream)) }
    {
        return SUCCESS;
    }
    family.alloc_async(out, size, stream)
}

fn freed(freed: bool) -> Code {
    if freed { SUCCESS } else { INVALID_VALUE }
}

fn free(family: &Family, address: u64) -> Code {
    for pools in device::all() {
        for pool in [&pools.plain, &pools.ordered] {
            if pool.owns(address) {
                // Streams that are not known here may use it.
                let code = family.wait_for_device(pools.device);
                return if code == SUCCESS { freed(pool.give(address, NO_STREAM)) } else { code };
            }
        }
    }
    family.free(address)
}

fn free_async(family: &Family, address: u64, stream: usize) -> Code {
    for pools in device::all() {
        if pools.ordered.owns(address) {
            return freed(pools.ordered.give(address, stream));
        }
        if pools.plain.owns(address) {
            // What is behind this point of the stream does not use it, and what was before has to
            // be over: the pool is of what nobody uses.
            let code = family.wait_for_stream(stream);
            return if code == SUCCESS {
                freed(pools.plain.give(address, NO_STREAM))
            } else {
                code
            };
        }
    }
    family.free_async(address, stream)
}

/// What lies idle in pools is there for who asks.
///
/// # Safety
/// As for [`alloc`].
unsafe fn mem_info(family: &Family, free: *mut usize, total: *mut usize) -> Code {
    let code = family.mem_info(free, total);
    if code != SUCCESS || !WANTED.load(Ordering::Relaxed) || free.is_null() || total.is_null() {
        return code;
    }
    if let Some(device) = family.device() {
        let own = device::all().filter(|pools| pools.device == device);
        let idle: u64 = own.map(|pools| pools.plain.idle() + pools.ordered.idle()).sum();
        // SAFETY: both were just written to.
        unsafe { free.write(free.read().saturating_add(idle as usize).min(total.read())) };
    }
    code
}

fn own_stream(stream: usize) -> usize {
    if stream == NO_STREAM { PER_THREAD } else { stream }
}

/// The functions by their names. What they promise and what they ask for, CUDA documents.
macro_rules! entry_points {
    ($($name:ident($($argument:ident: $type:ty),*) $body:block)*) => {
        $(
            /// As CUDA documents it.
            ///
            /// # Safety
            /// As CUDA documents it.
            #[cfg_attr(not(test), unsafe(no_mangle))]
            #[allow(non_snake_case, unused_unsafe)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> Code {
                // SAFETY: the caller's promise.
                unsafe { $body }
            }
        )*
    };
}

entry_points! {
    cudaMalloc(out: *mut u64, size: usize) { alloc(&RUNTIME, out, size) }
    cudaFree(address: u64) { free(&RUNTIME, address) }
    cudaMallocAsync(out: *mut u64, size: usize, stream: usize) {
        alloc_async(&RUNTIME, out, size, stream)
    }
    cudaMallocAsync_ptsz(out: *mut u64, size: usize, stream: usize) {
        alloc_async(&RUNTIME, out, size, own_stream(stream))
    }
    cudaFreeAsync(address: u64, stream: usize) { free_async(&RUNTIME, address, stream) }
    cudaFreeAsync_ptsz(address: u64, stream: usize) {
        free_async(&RUNTIME, address, own_stream(stream))
    }
    cudaMemGetInfo(free: *mut usize, total: *mut usize) { mem_info(&RUNTIME, free, total) }
    cuMemAlloc_v2(out: *mut u64, size: usize) { alloc(&DRIVER, out, size) }
    cuMemFree_v2(address: u64) { free(&DRIVER, address) }
    cuMemAllocAsync(out: *mut u64, size: usize, stream: usize) {
        alloc_async(&DRIVER, out, size, stream)
    }
    cuMemAllocAsync_ptsz(out: *mut u64, size: usize, stream: usize) {
        alloc_async(&DRIVER, out, size, own_stream(stream))
    }
    cuMemFreeAsync(address: u64, stream: usize) { free_async(&DRIVER, address, stream) }
    cuMemFreeAsync_ptsz(address: u64, stream: usize) {
        free_async(&DRIVER, address, own_stream(stream))
    }
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize) { mem_info(&DRIVER, free, total) }
}
