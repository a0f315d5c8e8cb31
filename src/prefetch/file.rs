//! Reads of files.

use std::os::fd::RawFd;

use crate::error::{Result, fail};

/// Reads `bytes` bytes from `offset` on to `to`. An error names the offset at which it was.
///
/// # Safety
/// The bytes at `to` are there, and are the caller's.
pub unsafe fn read(fd: RawFd, offset: u64, to: usize, bytes: usize, _direct: bool) -> Result<()> {
    let mut done = 0;
    while done < bytes {
        let at = offset + done as u64;
        // SAFETY: the caller's promise.
        let got =
            unsafe { libc::pread64(fd, (to + done) as *mut libc::c_void, bytes - done, at as i64) };
        if got > 0 {
            done += got as usize;
        } else if got == 0 {
            return Err(fail!(
                Io,
                "the file behind descriptor {fd} ends at {at}, {} bytes short of what was asked \
                 for",
                bytes - done
            ));
        } else {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(fail!(
                    Io,
                    "{} bytes at {at} of the file behind descriptor {fd} could not be read: \
                     {error}",
                    bytes - done
                ));
            }
        }
    }
    Ok(())
}
