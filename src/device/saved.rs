//! What a device's pages held, kept in pinned memory while the device has other use for them.

use std::sync::Arc;

use super::cuda::Context;
use super::{Device, Pinned};
use crate::error::{Result, fail};

/// Contents of ranges of a device, in pinned system memory.
pub struct Saved {
    memory: Pinned,
    address: usize,
    bytes: u64,
    /// Address on the device, bytes, and where they are in `memory`.
    pieces: Vec<(usize, u64, u64)>,
}

impl Saved {
    /// Copies `ranges` out, `(address, bytes)` each. Nobody writes to them meanwhile.
    pub(super) fn take(context: &Arc<Context>, ranges: &[(usize, u64)]) -> Result<Saved> {
        let mut at = 0;
        let pieces: Vec<(usize, u64, u64)> = ranges
            .iter()
            .map(|&(address, bytes)| {
                at += bytes;
                (address, bytes, at - bytes)
            })
            .collect();
        let memory = Pinned::of(context);
        let (address, bytes) = if at == 0 {
            (0, 0)
        } else {
            memory.reserve(at, at).map_err(|error| {
                fail!(OutOfMemory, "no pinned memory for what the device holds: {error}")
            })?
        };
        let saved = Saved { memory, address, bytes, pieces };
        context.with(|api| {
            for &(from, bytes, at) in &saved.pieces {
                let to = (saved.address + at as usize) as *mut _;
                // SAFETY: the caller's promise for the range; the other is ours and has room.
                unsafe { api.copy_dtoh_async(to, from as u64, bytes as usize, saved_stream()) }?;
            }
            // SAFETY: the default stream.
            unsafe { api.stream_synchronize(saved_stream()) }
        })?;
        Ok(saved)
    }

    /// Copies back what lies in `ranges`, which have pages again.
    pub(super) fn put_back(&self, context: &Context, ranges: &[(usize, u64)]) -> Result<()> {
        context.with(|api| {
            for &(piece, bytes, at) in &self.pieces {
                for &(range, length) in ranges {
                    let from = piece.max(range);
                    let to = (piece + bytes as usize).min(range + length as usize);
                    if from < to {
                        let source = self.address + at as usize + (from - piece);
                        let (source, bytes) = (source as *const _, to - from);
                        // SAFETY: both are there, and nobody else is at them yet.
                        unsafe { api.copy_htod_async(from as u64, source, bytes, saved_stream()) }?;
                    }
                }
            }
            // SAFETY: the default stream.
            unsafe { api.stream_synchronize(saved_stream()) }
        })
    }
}

/// Everything else is done while a pool falls asleep or wakes: any stream does.
fn saved_stream() -> cudarc::driver::sys::CUstream {
    std::ptr::null_mut()
}

impl Drop for Saved {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory.release(self.address, self.bytes);
        }
    }
}
