//! Copies by the processor.

/// Copies `bytes` bytes. `streaming`: nothing but a device reads them next, so they need not push
/// anything else out of the caches.
///
/// # Safety
/// Both ranges are there; nobody writes to the first or uses the second meanwhile.
pub unsafe fn copy(from: usize, to: usize, bytes: usize, streaming: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        if streaming && bytes >= STREAMING_LEAST {
            stream(from as *const u8, to as *mut u8, bytes);
        } else {
            std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes);
        }
    }
}

/// Below this a copy stays in the caches anyway.
const STREAMING_LEAST: usize = 16 << 10;

/// A line of the caches.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// # Safety
/// As for [`copy`].
#[cfg(target_arch = "x86_64")]
unsafe fn stream(from: *const u8, to: *mut u8, bytes: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    let head = to.align_offset(LINE).min(bytes);
    let lines = (bytes - head) / LINE;
    // SAFETY: head, lines and tail are the ranges of the caller; stores go to whole lines, which
    // are aligned; SSE2 is part of this architecture.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, head);
        let (mut from, mut to) = (from.add(head), to.add(head));
        for _ in 0..lines {
            let (source, target) = (from.cast::<__m128i>(), to.cast::<__m128i>());
            let line = [
                _mm_loadu_si128(source),
                _mm_loadu_si128(source.add(1)),
                _mm_loadu_si128(source.add(2)),
                _mm_loadu_si128(source.add(3)),
            ];
            _mm_stream_si128(target, line[0]);
            _mm_stream_si128(target.add(1), line[1]);
            _mm_stream_si128(target.add(2), line[2]);
            _mm_stream_si128(target.add(3), line[3]);
            from = from.add(LINE);
            to = to.add(LINE);
        }
        std::ptr::copy_nonoverlapping(from, to, bytes - head - lines * LINE);
        // Such stores are in no order with others: what tells a device to read comes behind.
        _mm_sfence();
    }
}

/// # Safety
/// As for [`copy`].
#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_no_other_is_copied() {
        let source: Vec<u8> = (0..100_000u32).map(|at| (at * 7 + at / 251) as u8).collect();
        for streaming in [false, true] {
            for (skip, start, bytes) in
                [(0, 0, 65536), (1, 3, 65536), (5, 63, 16384), (0, 1, 99_000), (7, 64, 40_001)]
            {
                let mut target = vec![0xee; 110_000];
                let to = target.as_mut_ptr() as usize + start;
                // SAFETY: inside both.
                unsafe { copy(source.as_ptr() as usize + skip, to, bytes, streaming) };
                assert_eq!(target[start..start + bytes], source[skip..skip + bytes]);
                let outside = target[..start].iter().chain(&target[start + bytes..]);
                assert!(outside.into_iter().all(|&byte| byte == 0xee));
            }
        }
    }
}
