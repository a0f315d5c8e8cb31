//! What the tests of the pool share: bytes that tell whose they are, work that waits for the
//! test, and an end to tests that hang.

// Every test file has its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use forebay::order::{HostOrder, HostStream, Order, Stream};

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;
pub const PAGE: u64 = 2 << 20;

/// Bytes at the start of a block that hold its whole stamp.
const HEAD: usize = 8;

fn byte_of(stamp: u64) -> u8 {
    (stamp % 251) as u8 + 1
}

/// Writes all `bytes` bytes at `address`, so that [`read`] can tell whose they are.
pub fn write(address: usize, bytes: usize, stamp: u64) {
    // SAFETY: callers pass live blocks of theirs.
    unsafe {
        std::ptr::write_bytes(address as *mut u8, byte_of(stamp), bytes);
        if bytes >= 2 * HEAD {
            (address as *mut u64).write_unaligned(stamp);
        }
    }
}

/// Checks that the first `bytes` bytes at `address` are what [`write`] wrote.
pub fn read(address: usize, bytes: usize, stamp: u64) -> Result<(), String> {
    let mut rest = bytes_at(address, bytes);
    if bytes >= 2 * HEAD {
        let head = u64::from_ne_bytes(rest[..HEAD].try_into().map_err(|_| "no head")?);
        if head != stamp {
            return Err(format!("the block at {address:#x} has stamp {head}, not {stamp}"));
        }
        rest = &rest[HEAD..];
    }
    // Comparing a slice with itself, shifted, is one call of memcmp.
    let same = rest[0] == byte_of(stamp) && rest[1..] == rest[..rest.len() - 1];
    if same {
        return Ok(());
    }
    let at = rest.iter().position(|&byte| byte != byte_of(stamp));
    let at = at.map(|at| at + bytes - rest.len());
    Err(format!("the block at {address:#x} of {bytes} bytes, stamp {stamp}, differs at {at:?}"))
}

/// Whether all `bytes` bytes at `address` are zero.
pub fn is_zero(address: usize, bytes: usize) -> bool {
    let bytes = bytes_at(address, bytes);
    bytes[0] == 0 && bytes[1..] == bytes[..bytes.len() - 1]
}

fn bytes_at<'a>(address: usize, bytes: usize) -> &'a [u8] {
    // SAFETY: callers pass live blocks of theirs.
    unsafe { std::slice::from_raw_parts(address as *const u8, bytes) }
}

/// Whether two blocks share a byte.
pub fn overlap(a: (usize, usize), b: (usize, usize)) -> bool {
    a.0 < b.0 + b.1 && b.0 < a.0 + a.1
}

/// Holds a stream's work back until it is opened or dropped.
pub struct Gate(#[allow(dead_code, reason = "its drop is what counts")] Sender<()>);

impl Gate {
    /// Queues work on `stream` that is not done before the gate is open.
    pub fn on(stream: &HostStream) -> Gate {
        let (sender, receiver) = channel();
        // Nothing is ever sent: the work ends when the sender is gone, so that a test that
        // fails does not leave the stream waiting.
        stream
            .submit(Box::new(move || {
                let _ = receiver.recv();
            }))
            .unwrap();
        Gate(sender)
    }

    pub fn open(self) {}
}

/// A stream that is destroyed at the end of its test.
pub struct TestStream(Arc<HostStream>);

impl TestStream {
    pub fn new() -> TestStream {
        TestStream(HostStream::create().unwrap())
    }

    pub fn submit(&self, work: impl FnOnce() + Send + 'static) {
        self.0.submit(Box::new(work)).unwrap();
    }

    /// The kind of the error when the stream takes no work.
    pub fn submit_or_error(&self) -> Option<forebay::error::Kind> {
        self.0.submit(Box::new(|| ())).err().map(|error| error.kind())
    }

    pub fn synchronize(&self) {
        assert!(HostOrder.wait(self.0.record()));
    }
}

impl std::ops::Deref for TestStream {
    type Target = HostStream;

    fn deref(&self) -> &HostStream {
        &self.0
    }
}

impl Drop for TestStream {
    fn drop(&mut self) {
        // A test may have destroyed it itself.
        let _ = self.0.destroy();
    }
}

/// The handle of a stream, or of the default one.
pub fn handle(stream: Option<&TestStream>) -> Stream {
    stream.map_or(Stream::DEFAULT, |stream| stream.handle())
}

/// Runs `body` in a thread of its own and returns its result; a `body` that takes longer
/// than `seconds` fails the test instead of stopping all of them.
pub fn within<T: Send + 'static>(
    seconds: u64,
    what: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = channel();
    let thread = std::thread::spawn(move || sender.send(body()));
    match receiver.recv_timeout(Duration::from_secs(seconds)) {
        Ok(value) => {
            // It sent its result, so it did not panic.
            let _ = thread.join();
            value
        }
        Err(RecvTimeoutError::Timeout) => panic!("{what}: not done after {seconds} s"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) => unreachable!("the thread ended without a result"),
        },
    }
}

/// Numbers that look random and repeat with their seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// How many cases a property is tried with: `PROPTEST_CASES`, or else `cases`.
pub fn cases(cases: u32) -> proptest::test_runner::Config {
    let config = proptest::test_runner::Config::default();
    let by_user = std::env::var_os("PROPTEST_CASES").is_some();
    let cases = if by_user { config.cases } else { cases };
    // Failures are printed; a file of seeds in the tree would not be looked at.
    proptest::test_runner::Config { cases, failure_persistence: None, ..config }
}
