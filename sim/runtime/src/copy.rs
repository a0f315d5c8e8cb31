//! Copies and sets.

use crate::answer::{context_of, entry_points};
use crate::driver::checked;

entry_points! {
    inside fn cudaMemcpy(to: u64, from: u64, bytes: usize, _kind: u32) |cu| {
        if bytes == 0 { Ok(()) } else { checked((cu.cuMemcpy)(to, from, bytes)) }
    };
    inside fn cudaMemcpyAsync(to: u64, from: u64, bytes: usize, _kind: u32, stream: u64) |cu| {
        if bytes == 0 { Ok(()) } else { checked((cu.cuMemcpyAsync)(to, from, bytes, stream)) }
    };
    inside fn cudaMemcpyPeerAsync(to: u64, target: i32, from: u64, source: i32, bytes: usize,
        stream: u64) |cu|
    {
        let (target, source) = (context_of(cu, target)?, context_of(cu, source)?);
        checked((cu.cuMemcpyPeerAsync)(to, target, from, source, bytes, stream))
    };
    inside fn cudaMemset(to: u64, value: i32, bytes: usize) |cu| {
        if bytes == 0 { Ok(()) } else { checked((cu.cuMemsetD8_v2)(to, value as u8, bytes)) }
    };
    inside fn cudaMemsetAsync(to: u64, value: i32, bytes: usize, stream: u64) |cu| {
        let value = value as u8;
        if bytes == 0 { Ok(()) } else { checked((cu.cuMemsetD8Async)(to, value, bytes, stream)) }
    };
}
