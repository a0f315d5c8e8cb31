//! What is queued on streams: waits, and writes and looks at the bytes of blocks.

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Work behind a gate goes on by itself after this: a call that waits for a stream, as the
/// ladder does when memory is short, would otherwise wait for the program that it stopped.
const GATE: Duration = Duration::from_millis(2);

/// What queued work found wrong; read by the program's thread.
pub static WRONG: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub struct Gate {
    pub open: Mutex<bool>,
    pub opened: Condvar,
}

/// A piece of queued work.
pub enum Work {
    Wait(Arc<Gate>),
    Fill(Bytes),
    Check(Bytes),
    /// Zeros were promised.
    CheckZero(Bytes),
}

impl Work {
    fn run(&self) {
        let wrong = match self {
            Work::Wait(gate) => {
                let open = gate.open.lock().unwrap();
                let _ = gate.opened.wait_timeout_while(open, GATE, |open| !*open).unwrap();
                None
            }
            Work::Fill(bytes) => {
                bytes.fill();
                None
            }
            Work::Check(bytes) => bytes.wrong(bytes.size),
            Work::CheckZero(bytes) => bytes.not_zero(),
        };
        if let Some(wrong) = wrong {
            WRONG.lock().unwrap().push(wrong);
        }
    }
}

pub unsafe extern "C" fn run_work(work: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `submit`, run once.
    unsafe { Box::from_raw(work.cast::<Work>()) }.run();
}

/// The bytes of a block, of which some are written and looked at.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    pub address: usize,
    pub size: usize,
    pub seed: u64,
}

impl Bytes {
    /// Which bytes of a block are used: its ends, and a few in between.
    fn spots(size: usize) -> impl Iterator<Item = usize> {
        let ends = (0..size.min(96)).chain(size.saturating_sub(96).max(size.min(96))..size);
        ends.chain((1..16).map(move |part| size / 16 * part).filter(move |_| size > 4096))
    }

    fn value(&self, at: usize) -> u8 {
        // Never 0, 0xDF or 0xFD, which the pool writes itself.
        ((self.seed ^ at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57) as u8 + 1
    }

    pub fn fill(&self) {
        for at in Bytes::spots(self.size) {
            // SAFETY: inside a live block of this program.
            unsafe { (self.address as *mut u8).add(at).write_volatile(self.value(at)) };
        }
    }

    fn read(&self, at: usize) -> u8 {
        // SAFETY: inside a block that is live, or was freed on a stream whose work this is.
        unsafe { (self.address as *const u8).add(at).read_volatile() }
    }

    /// Looks at the first `size` bytes.
    pub fn wrong(&self, size: usize) -> Option<String> {
        let at = Bytes::spots(self.size)
            .filter(|&at| at < size)
            .find(|&at| self.read(at) != self.value(at))?;
        let (found, value) = (self.read(at), self.value(at));
        Some(format!("byte {at} of {self:x?} is {found:#x}, not {value:#x}"))
    }

    pub fn not_zero(&self) -> Option<String> {
        let at = Bytes::spots(self.size).find(|&at| self.read(at) != 0)?;
        Some(format!("byte {at} of {self:x?} is {:#x}, not zero", self.read(at)))
    }
}
