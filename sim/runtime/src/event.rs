//! Events.

use crate::answer::entry_points;
use crate::driver::checked;

entry_points! {
    inside fn cudaEventCreate(to: *mut u64) |cu| checked((cu.cuEventCreate)(to, 0));
    inside fn cudaEventCreateWithFlags(to: *mut u64, flags: u32) |cu| {
        checked((cu.cuEventCreate)(to, flags))
    };
    inside fn cudaEventDestroy(event: u64) |cu| checked((cu.cuEventDestroy_v2)(event));
    inside fn cudaEventRecord(event: u64, stream: u64) |cu| {
        checked((cu.cuEventRecord)(event, stream))
    };
    inside fn cudaEventRecordWithFlags(event: u64, stream: u64, _flags: u32) |cu| {
        checked((cu.cuEventRecord)(event, stream))
    };
    inside fn cudaEventQuery(event: u64) |cu| checked((cu.cuEventQuery)(event));
    inside fn cudaEventSynchronize(event: u64) |cu| checked((cu.cuEventSynchronize)(event));
    inside fn cudaEventElapsedTime(to: *mut f32, from: u64, until: u64) |cu| {
        checked((cu.cuEventElapsedTime)(to, from, until))
    };
}
