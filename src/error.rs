//! Errors: a kind that travels in the `Result`, and a message that stays with the thread.
//!
//! An [`Error`] is one byte, so a `Result` of it costs nothing on the hit path. Its text
//! is written where the error is found, into a buffer of the thread, and read there by
//! `forebay_last_error()`. Nothing is allocated to report an error once the thread has its
//! buffer ([`prepare_thread`]); a thread that has none gets a fixed sentence per kind.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Write};

/// What went wrong, in the words of the C contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An argument is outside what the function accepts.
    InvalidArgument,
    /// The device, the limit or the address space has no room left.
    OutOfMemory,
    /// A pointer that this pool did not give out, or that was freed before.
    InvalidPointer,
    /// A panic was caught inside this pool earlier; it answers nothing else any more.
    Poisoned,
    /// The object is not in a state in which this can be done.
    InvalidState,
    /// The system, the device or this build cannot do it.
    Unsupported,
    /// A file could not be read or written.
    Io,
    /// A trace or a plan does not follow its format, or a trace frees what it never allocated.
    MalformedTrace,
    /// Guard bytes behind a block were overwritten.
    Corruption,
    /// A defect of forebay itself.
    Internal,
    /// Nothing is to be had without waiting.
    Busy,
}

impl Kind {
    /// The sentence shown when no message could be kept.
    pub const fn text(self) -> &'static std::ffi::CStr {
        match self {
            Kind::InvalidArgument => c"invalid argument",
            Kind::OutOfMemory => c"out of memory",
            Kind::InvalidPointer => c"invalid pointer: not from this pool, or freed before",
            Kind::Poisoned => c"the pool is poisoned: a panic was caught inside it earlier",
            Kind::InvalidState => c"invalid state",
            Kind::Unsupported => c"not supported here",
            Kind::Io => c"input or output failed",
            Kind::MalformedTrace => c"malformed trace",
            Kind::Corruption => c"guard bytes were overwritten",
            Kind::Internal => c"internal error: a defect of forebay",
            Kind::Busy => c"busy: nothing is to be had without waiting",
        }
    }
}

/// An error whose message is kept by the thread that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(Kind);

/// The result of everything in forebay that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Records `message` as this thread's last error and returns the error to pass up.
    #[cold]
    #[inline(never)]
    pub fn new(kind: Kind, message: fmt::Arguments<'_>) -> Error {
        // The thread's storage may be gone already (a destructor at thread exit): then the
        // kind alone has to do.
        let _ = LAST.try_with(|last| {
            last.kind.set(Some(kind));
            if let Ok(mut text) = last.text.try_borrow_mut() {
                match text.as_deref_mut() {
                    Some(text) => {
                        text.len = 0;
                        let _ = text.write_fmt(message);
                    }
                    // Out of memory is reported without asking for memory.
                    None if kind == Kind::OutOfMemory => {}
                    None => {
                        let mut fresh = Box::new(Text { len: 0, bytes: [0; CAPACITY + 1] });
                        let _ = fresh.write_fmt(message);
                        *text = Some(fresh);
                    }
                }
            }
        });
        Error(kind)
    }

    /// What went wrong.
    pub fn kind(self) -> Kind {
        self.0
    }

    /// The message, when this error is the thread's last one; else the kind's sentence.
    pub fn message(self) -> String {
        let mut text = String::new();
        with_last(|kind, bytes| {
            if kind == Some(self.0) {
                text = String::from_utf8_lossy(&bytes[..bytes.len() - 1]).into_owned();
            }
        });
        if text.is_empty() { self.0.text().to_string_lossy().into_owned() } else { text }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Error {}

/// `Error::new` with a format string: `fail!(InvalidArgument, "size is {size}; ...")`.
macro_rules! fail {
    ($kind:ident, $($message:tt)*) => {
        $crate::error::Error::new($crate::error::Kind::$kind, format_args!($($message)*))
    };
}
pub(crate) use fail;

/// Gives this thread its message buffer, so that a later out-of-memory has room for its
/// text without allocating. Called off the hit path, when a thread first meets a pool.
pub fn prepare_thread() {
    let _ = LAST.try_with(|last| {
        if let Ok(mut text) = last.text.try_borrow_mut() {
            text.get_or_insert_with(|| Box::new(Text { len: 0, bytes: [0; CAPACITY + 1] }));
        }
    });
}

/// Calls `read` with this thread's last error: its kind (none if there was no error yet)
/// and its message as bytes that end with a NUL.
pub fn with_last<R>(mut read: impl FnMut(Option<Kind>, &[u8]) -> R) -> R {
    let outcome = LAST.try_with(|last| {
        let kind = last.kind.get();
        match (kind, last.text.try_borrow()) {
            (Some(_), Ok(text)) if text.as_ref().is_some_and(|text| text.len > 0) => {
                let text = text.as_ref().map_or(&[0][..], |text| &text.bytes[..=text.len]);
                read(kind, text)
            }
            (Some(kind), _) => read(Some(kind), kind.text().to_bytes_with_nul()),
            (None, _) => read(None, c"".to_bytes_with_nul()),
        }
    });
    match outcome {
        Ok(value) => value,
        Err(_) => read(None, c"".to_bytes_with_nul()),
    }
}

/// Longest message kept, in bytes; what is longer is cut.
const CAPACITY: usize = 1023;

struct Last {
    kind: Cell<Option<Kind>>,
    text: RefCell<Option<Box<Text>>>,
}

struct Text {
    len: usize,
    bytes: [u8; CAPACITY + 1],
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut take = text.len().min(CAPACITY - self.len);
        while !text.is_char_boundary(take) {
            take -= 1;
        }
        self.bytes[self.len..self.len + take].copy_from_slice(&text.as_bytes()[..take]);
        self.len += take;
        self.bytes[self.len] = 0;
        Ok(())
    }
}

thread_local! {
    static LAST: Last = const { Last { kind: Cell::new(None), text: RefCell::new(None) } };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_stays_with_the_thread() {
        let error = fail!(InvalidArgument, "size is {}; the limit is {}", 0, 7);
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert_eq!(error.message(), "size is 0; the limit is 7");
        std::thread::spawn(|| with_last(|kind, text| assert_eq!((kind, text), (None, &b"\0"[..]))))
            .join()
            .unwrap();
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let long = "ü".repeat(CAPACITY);
        let error = fail!(Io, "{long}");
        assert_eq!(error.message().len(), CAPACITY - 1);
    }

    #[test]
    fn out_of_memory_allocates_no_buffer() {
        std::thread::spawn(|| {
            let error = fail!(OutOfMemory, "no room for a buffer of its own");
            assert_eq!(error.message(), "out of memory");
            prepare_thread();
            assert_eq!(fail!(OutOfMemory, "room {}", 1).message(), "room 1");
        })
        .join()
        .unwrap();
    }
}
