//! `cudaDeviceProp`: where its fields are, in either version.

use crate::driver::{Driver, INVALID_VALUE, Outcome, checked};

/// Bytes of the struct.
const SIZE: usize = if cfg!(feature = "cuda-12") { 1032 } else { 1008 };

/// Bytes of a field.
#[derive(Clone, Copy)]
enum Width {
    Four,
    Eight,
}
use Width::{Eight, Four};

/// Fields that are attributes of the driver: their place in CUDA 12 and in 13, their width, and
/// the number of the attribute.
const FIELDS: [(usize, usize, Width, u32); 35] = [
    (296, 296, Eight, 8), // sharedMemPerBlock
    (304, 304, Four, 12), // regsPerBlock
    (308, 308, Four, 10), // warpSize
    (320, 320, Four, 1),  // maxThreadsPerBlock
    (324, 324, Four, 2),  // maxThreadsDim
    (328, 328, Four, 3),
    (332, 332, Four, 4),
    (336, 336, Four, 5), // maxGridSize
    (340, 340, Four, 6),
    (344, 344, Four, 7),
    (352, 352, Eight, 9),   // totalConstMem
    (360, 360, Four, 75),   // major
    (364, 364, Four, 76),   // minor
    (368, 368, Eight, 14),  // textureAlignment
    (388, 384, Four, 16),   // multiProcessorCount
    (396, 388, Four, 18),   // integrated
    (400, 392, Four, 19),   // canMapHostMemory
    (576, 560, Four, 31),   // concurrentKernels
    (584, 568, Four, 33),   // pciBusID
    (588, 572, Four, 34),   // pciDeviceID
    (592, 576, Four, 50),   // pciDomainID
    (600, 584, Four, 40),   // asyncEngineCount
    (604, 588, Four, 41),   // unifiedAddressing
    (612, 592, Four, 37),   // memoryBusWidth
    (616, 596, Four, 38),   // l2CacheSize
    (624, 604, Four, 39),   // maxThreadsPerMultiProcessor
    (628, 608, Four, 78),   // streamPrioritiesSupported
    (640, 624, Eight, 81),  // sharedMemPerMultiprocessor
    (648, 632, Four, 82),   // regsPerMultiprocessor
    (652, 636, Four, 83),   // managedMemory
    (688, 668, Four, 95),   // cooperativeLaunch
    (696, 672, Eight, 97),  // sharedMemPerBlockOptin
    (712, 688, Four, 106),  // maxBlocksPerMultiProcessor
    (720, 696, Eight, 111), // reservedSharedMemPerBlock
    (744, 720, Four, 115),  // memoryPoolsSupported
];

/// Writes what there is to know of device `of`: what the driver says.
///
/// # Safety
/// `to` is NULL or has room for the struct.
pub unsafe fn write(cu: &Driver, to: *mut u8, of: i32) -> Outcome {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    let mut total = 0usize;
    // SAFETY: inside the struct; names and numbers where NVIDIA's header has them.
    unsafe {
        to.write_bytes(0, SIZE);
        checked((cu.cuDeviceGetName)(to.cast(), 256, of))?;
        checked((cu.cuDeviceGetUuid)(to.add(256), of))?;
        checked((cu.cuDeviceTotalMem_v2)(&mut total, of))?;
        to.add(288).cast::<usize>().write(total);
        for (twelve, thirteen, width, attribute) in FIELDS {
            let mut value = 0;
            checked((cu.cuDeviceGetAttribute)(&mut value, attribute, of))?;
            let at = to.add(if cfg!(feature = "cuda-12") { twelve } else { thirteen });
            match width {
                Four => at.cast::<i32>().write(value),
                Eight => at.cast::<u64>().write(value as u64),
            }
        }
    }
    Ok(())
}
