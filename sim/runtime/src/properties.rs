//! `cudaDeviceProp`: where its fields are, in either version.

use crate::driver::{Driver, INVALID_VALUE, Outcome, checked};

/// The version of CUDA.
pub const MAJOR: i32 = if cfg!(feature = "cuda-12") { 12 } else { 13 };

/// Bytes of the struct.
const SIZE: usize = if cfg!(feature = "cuda-12") { 1032 } else { 1008 };

/// Fields of four bytes: their place in CUDA 12, in 13, and the value.
const WORDS: [(usize, usize, i32); 20] = [
    (304, 304, 65536), // regsPerBlock
    (308, 308, 32),    // warpSize
    (320, 320, 1024),  // maxThreadsPerBlock
    (324, 324, 1024),  // maxThreadsDim
    (328, 328, 1024),
    (332, 332, 64),
    (336, 336, i32::MAX), // maxGridSize
    (340, 340, 65535),
    (344, 344, 65535),
    (388, 384, 132),      // multiProcessorCount
    (400, 392, 1),        // canMapHostMemory
    (576, 560, 1),        // concurrentKernels
    (600, 584, 2),        // asyncEngineCount
    (604, 588, 1),        // unifiedAddressing
    (612, 592, 5120),     // memoryBusWidth
    (616, 596, 50 << 20), // l2CacheSize
    (624, 604, 2048),     // maxThreadsPerMultiProcessor
    (648, 632, 65536),    // regsPerMultiprocessor
    (712, 688, 32),       // maxBlocksPerMultiProcessor
    (744, 720, 1),        // memoryPoolsSupported
];

/// Fields of eight bytes, likewise.
const LONGS: [(usize, usize, u64); 5] = [
    (296, 296, 48 << 10),  // sharedMemPerBlock
    (352, 352, 64 << 10),  // totalConstMem
    (368, 368, 512),       // textureAlignment
    (640, 624, 228 << 10), // sharedMemPerMultiprocessor
    (696, 672, 227 << 10), // sharedMemPerBlockOptin
];

/// Writes what there is to know of device `of`. It passes for one of compute capability 9.0.
///
/// # Safety
/// `to` is NULL or has room for the struct.
pub unsafe fn write(cu: &Driver, to: *mut u8, of: i32) -> Outcome {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    let mut total = 0usize;
    let place = |twelve: usize, thirteen: usize| if MAJOR == 12 { twelve } else { thirteen };
    // SAFETY: inside the struct; names and numbers where NVIDIA's header has them.
    unsafe {
        to.write_bytes(0, SIZE);
        checked((cu.cuDeviceGetName)(to.cast(), 256, of))?;
        checked((cu.cuDeviceGetUuid)(to.add(256), of))?;
        checked((cu.cuDeviceTotalMem_v2)(&mut total, of))?;
        to.add(288).cast::<usize>().write(total);
        to.add(360).cast::<i32>().write(9);
        to.add(364).cast::<i32>().write(0);
        to.add(place(584, 568)).cast::<i32>().write(of + 1);
        for (twelve, thirteen, value) in WORDS {
            to.add(place(twelve, thirteen)).cast::<i32>().write(value);
        }
        for (twelve, thirteen, value) in LONGS {
            to.add(place(twelve, thirteen)).cast::<u64>().write(value);
        }
    }
    Ok(())
}
