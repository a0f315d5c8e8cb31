//! Address space of the host.

use std::ptr::null_mut;

use crate::code::{ERROR_OUT_OF_MEMORY, Outcome};

/// Bytes of the host, unmapped with the last one who holds them.
pub struct Span {
    pub base: *mut u8,
    pub bytes: usize,
}

// SAFETY: an address; those who use it are under the driver's lock.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

impl Span {
    pub fn new(bytes: u64, access: i32, align: u64) -> Outcome<Span> {
        let bytes = usize::try_from(bytes).map_err(|_| ERROR_OUT_OF_MEMORY)?;
        let wide = bytes.checked_add(align as usize).ok_or(ERROR_OUT_OF_MEMORY)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping where the system likes it.
        let base = unsafe { libc::mmap(null_mut(), wide, access, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(ERROR_OUT_OF_MEMORY);
        }
        let base = base.cast::<u8>();
        let before = base.align_offset(align as usize);
        // SAFETY: the ends of the mapping above; what is between them stays.
        unsafe {
            if before > 0 {
                libc::munmap(base.cast(), before);
            }
            if wide - before > bytes {
                libc::munmap(base.add(before + bytes).cast(), wide - before - bytes);
            }
            Ok(Span { base: base.add(before), bytes })
        }
    }
}

impl Span {
    /// The first bytes of a file, as those of all who map it.
    pub fn of_file(file: i32, bytes: u64) -> Outcome<Span> {
        let bytes = usize::try_from(bytes).map_err(|_| ERROR_OUT_OF_MEMORY)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping where the system likes it.
        let base = unsafe { libc::mmap(null_mut(), bytes, access, libc::MAP_SHARED, file, 0) };
        if base == libc::MAP_FAILED {
            return Err(ERROR_OUT_OF_MEMORY);
        }
        Ok(Span { base: base.cast(), bytes })
    }

    /// Puts the bytes into an empty file, and the file in their place: the addresses stay.
    pub fn move_to(&self, file: i32) -> Outcome {
        const STEP: usize = 4096;
        // SAFETY: nobody else is at the bytes under the driver's lock.
        let all = unsafe { std::slice::from_raw_parts(self.base, self.bytes) };
        for (n, some) in all.chunks(STEP).enumerate() {
            // What is zero is so in the file, and costs nothing there.
            if some.iter().all(|&byte| byte == 0) {
                continue;
            }
            let at = (n * STEP) as libc::off_t;
            // SAFETY: the bytes live during the call.
            let written = unsafe { libc::pwrite(file, some.as_ptr().cast(), some.len(), at) };
            if written != some.len() as isize {
                return Err(ERROR_OUT_OF_MEMORY);
            }
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: over a mapping of this span alone, with the same bytes.
        let base = unsafe { libc::mmap(self.base.cast(), self.bytes, access, flags, file, 0) };
        if base == libc::MAP_FAILED { Err(ERROR_OUT_OF_MEMORY) } else { Ok(()) }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` left.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}
