//! Lines on the standard error, put together without an allocation.

use core::fmt::{self, Write};

/// A line that is being put together; what does not fit is cut off.
pub struct Line {
    bytes: [u8; 2048],
    length: usize,
}

impl Line {
    /// An empty one.
    pub const fn new() -> Line {
        Line { bytes: [0; 2048], length: 0 }
    }

    /// What it has so far.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            // One place is kept for a NUL.
            if self.length + 1 < self.bytes.len()
                && let Some(place) = self.bytes.get_mut(self.length)
            {
                *place = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

/// Writes `text` as one line, whole or not at all, with the library's name in front.
pub fn line(text: fmt::Arguments<'_>) {
    let mut line = Line::new();
    let _ = writeln!(line, "forebay_preload: {text}");
    raw(line.as_bytes());
}

/// Writes `bytes` to the standard error.
pub fn raw(bytes: &[u8]) {
    // SAFETY: as many bytes as are there. The program's errno stays as it was.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(2, bytes.as_ptr().cast(), bytes.len());
        *errno = before;
    }
}

/// A line on the standard error, with a format as `println!` has it.
macro_rules! say {
    ($($argument:tt)*) => { $crate::say::line(format_args!($($argument)*)) };
}
pub(crate) use say;
