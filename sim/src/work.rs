//! What streams run: kernels, copies and sets; where their bytes are, and that their accesses
//! are in order.

use std::ffi::c_void;
use std::sync::Arc;

use crate::code::*;
use crate::graph::{Objects, Task};
use crate::order::{Clock, Epoch, Kind, What};
use crate::piece::Piece;
use crate::stream::Point;
use crate::{HOST, State};

/// Bytes of the host that an operation reads or writes.
pub struct Run {
    base: *mut u8,
    bytes: usize,
    /// Keeps a device's memory until the operation is done.
    _piece: Option<Arc<Piece>>,
    /// Keeps what was staged, which is where `base` points.
    _staged: Option<Vec<u8>>,
}

// SAFETY: an address; it is used under the driver's lock.
unsafe impl Send for Run {}

/// What is done when an operation ends.
pub enum Work {
    Nothing,
    Record {
        event: u64,
        number: u64,
    },
    Copy {
        to: Vec<Run>,
        from: Vec<Run>,
    },
    Set {
        to: Vec<Run>,
        value: u8,
    },
    /// A call, and what happens before it.
    Host(Call, Clock),
    /// Memory is taken back.
    Free(u64),
    /// References of a graph to objects.
    Release(Objects),
    /// It used addresses that are not mapped.
    Fault,
}

/// A function of the host and its argument.
#[derive(Clone, Copy)]
pub struct Call {
    pub function: unsafe extern "C" fn(*mut c_void),
    pub data: u64,
}

/// One side of a copy.
#[derive(Clone, Copy)]
pub enum Place {
    Device(u64),
    /// Memory of a device as that device sees it, whichever one copies.
    Of(usize, u64),
    Host(u64),
}

/// Address and bytes of each.
type Ranges<'a> = &'a [(u64, u64)];

/// The runs of a range, none where it may not be used.
pub type Runs = Option<Vec<Run>>;

impl State {
    /// Notes an access of an operation to a range of device addresses.
    pub fn access(&mut self, at: Epoch, device: usize, range: (u64, u64), write: bool) -> Runs {
        if self.memory.is_pinned(range.0, range.1) {
            let (base, bytes) = (range.0 as *mut u8, range.1 as usize);
            return Some(vec![Run { base, bytes, _piece: None, _staged: None }]);
        }
        let parts = match self.parts(at, device, range) {
            Ok(parts) => parts,
            Err(earlier) => {
                self.order.report(Kind::Unmapped, range, earlier, at);
                return None;
            }
        };
        let mut runs = Vec::new();
        for part in parts {
            if self.order.checks {
                let clock = self.order.clock(at.slot).clone();
                let within = (part.offset, part.offset + part.bytes);
                let accesses = self.memory.accesses.entry(part.piece.id).or_default();
                // The host's past is that of every operation to come.
                accesses.forget(self.order.clock(HOST));
                let mut found = Vec::new();
                accesses.access(within, write, at, &clock, |earlier, (from, to)| {
                    found.push((earlier, (part.address + (from - part.offset), to - from)));
                });
                for (earlier, range) in found {
                    self.order.report(Kind::Race, range, earlier, at);
                }
            }
            if let Some(base) = part.piece.at(part.offset) {
                let bytes = part.bytes as usize;
                runs.push(Run { base, bytes, _piece: Some(part.piece), _staged: None });
            }
        }
        Some(runs)
    }

    /// Queues a task, or captures it. Gives the point behind it.
    pub fn submit(&mut self, stream: u64, task: Task) -> Outcome<Point> {
        let key = self.stream_key(stream)?;
        self.check(&task)?;
        if let Some(capture) = self.capture_of(key)? {
            if !self.may_capture(&task) {
                self.refuse_capture(key)?;
            }
            self.add_node(capture, key, task);
            return Ok((key, 0));
        }
        self.start(key, &task)
    }

    /// Whether the addresses of a task are such as it may have.
    fn check(&mut self, task: &Task) -> Outcome {
        match task {
            Task::Kernel { .. } | Task::Host(_) => Ok(()),
            Task::Set { to, .. } => self.owner_of(*to).map(drop),
            Task::Copy { to, from, .. } => {
                for place in [to, from] {
                    match *place {
                        Place::Device(address) => self.owner_of(address).map(drop)?,
                        Place::Of(device, address) if self.owner_of(address)? == device => {}
                        Place::Of(..) => return Err(ERROR_INVALID_VALUE),
                        Place::Host(0) => return Err(ERROR_INVALID_VALUE),
                        Place::Host(_) => {}
                    }
                }
                Ok(())
            }
        }
    }

    /// Memory of the host that is not pinned cannot be part of a graph.
    fn may_capture(&self, task: &Task) -> bool {
        let Task::Copy { to, from, bytes } = *task else { return true };
        [to, from].iter().all(|place| match *place {
            Place::Device(_) | Place::Of(..) => true,
            Place::Host(address) => self.memory.is_pinned(address, bytes),
        })
    }

    /// Gives a task its place at the end of a stream.
    pub fn start(&mut self, key: u64, task: &Task) -> Outcome<Point> {
        match task {
            Task::Kernel { name, reads, writes, ns, fill } => {
                self.kernel(key, Arc::clone(name), (reads, writes), *ns, *fill)
            }
            Task::Copy { to, from, bytes } => self.copy(key, *to, *from, *bytes),
            Task::Set { to, value, bytes } => self.set(key, *to, *value, *bytes),
            Task::Host(call) => {
                let (at, after) = self.place(key, What::Host)?;
                let clock = self.order.clock(at.slot).clone();
                Ok(self.enqueue(key, after, 0, Work::Host(*call, clock)))
            }
        }
    }

    /// A kernel that reads and writes these ranges for so long; `fill` is what it writes.
    fn kernel(
        &mut self,
        key: u64,
        name: Arc<str>,
        (reads, writes): (Ranges<'_>, Ranges<'_>),
        ns: u64,
        fill: Option<u8>,
    ) -> Outcome<Point> {
        let device = self.stream(key)?.device;
        let (at, after) = self.place(key, What::Kernel(name))?;
        let (mut to, mut fault) = (Vec::new(), false);
        for &range in reads {
            fault |= self.access(at, device, range, false).is_none();
        }
        for &range in writes {
            match self.access(at, device, range, true) {
                Some(runs) => to.extend(runs),
                None => fault = true,
            }
        }
        let work = match fill {
            _ if fault => Work::Fault,
            Some(value) => Work::Set { to, value },
            None => Work::Nothing,
        };
        Ok(self.enqueue(key, after, ns, work))
    }

    fn set(&mut self, key: u64, to: u64, value: u8, bytes: u64) -> Outcome<Point> {
        let device = self.stream(key)?.device;
        let (at, after) = self.place(key, What::Set { to, bytes })?;
        let work = match self.access(at, device, (to, bytes), true) {
            Some(to) => Work::Set { to, value },
            None => Work::Fault,
        };
        let ns = bytes / self.config.device_bandwidth.max(1);
        Ok(self.enqueue(key, after, ns, work))
    }

    fn owner_of(&mut self, address: u64) -> Outcome<usize> {
        self.memory.owner(address).ok_or(ERROR_INVALID_VALUE)
    }

    /// Which side an address is on.
    pub fn find_place(&mut self, address: u64) -> Place {
        match self.memory.owner(address) {
            Some(_) => Place::Device(address),
            None => Place::Host(address),
        }
    }

    /// A copy in a stream. Memory of the host that is not pinned is read when this is called,
    /// and written before it returns.
    fn copy(&mut self, key: u64, to: Place, from: Place, bytes: u64) -> Outcome<Point> {
        let device = self.stream(key)?.device;
        let number = |place| match place {
            Place::Device(address) | Place::Of(_, address) | Place::Host(address) => address,
        };
        let what = What::Copy { to: number(to), from: number(from), bytes };
        let (at, after) = self.place(key, what)?;
        let source = self.side(at, device, from, bytes, false);
        let target = self.side(at, device, to, bytes, true);
        let work = match (target, source) {
            (Some(to), Some(from)) => Work::Copy { to, from },
            _ => Work::Fault,
        };
        // The device that copies, where a side is of no other.
        let mut of = |place| match place {
            Place::Device(address) => self.memory.owner(address),
            Place::Of(device, _) => Some(device),
            Place::Host(_) => None,
        };
        let within = of(to) == Some(device) && of(from) == Some(device);
        let speed = if within { self.config.device_bandwidth } else { self.config.link_bandwidth };
        let point = self.enqueue(key, after, bytes / speed.max(1), work);
        if matches!(to, Place::Host(at) if !self.memory.is_pinned(at, bytes)) {
            self.synchronize(key)?;
        }
        Ok(point)
    }

    fn side(&mut self, at: Epoch, device: usize, place: Place, bytes: u64, write: bool) -> Runs {
        let address = match place {
            Place::Device(address) => return self.access(at, device, (address, bytes), write),
            Place::Of(device, address) => {
                return self.access(at, device, (address, bytes), write);
            }
            Place::Host(address) => address,
        };
        let (mut base, bytes) = (address as *mut u8, bytes as usize);
        let mut staged = None;
        if !write && !self.memory.is_pinned(address, bytes as u64) {
            // SAFETY: the caller of the entry point vouches for the bytes during the call.
            let mut copy = unsafe { std::slice::from_raw_parts(base, bytes) }.to_vec();
            base = copy.as_mut_ptr();
            staged = Some(copy);
        }
        Some(vec![Run { base, bytes, _piece: None, _staged: staged }])
    }

    /// An operation ends.
    pub fn perform(&mut self, work: Work) {
        match work {
            Work::Nothing => {}
            Work::Record { event, number } => self.passed(event, number),
            Work::Free(address) => self.freed(address),
            Work::Release(objects) => self.release_objects(&objects),
            Work::Host(call, clock) => {
                call.make();
                // It ran, so that the host knows what came before.
                self.order.join(HOST, &clock);
            }
            Work::Fault => self.sticky = Some(ERROR_ILLEGAL_ADDRESS),
            Work::Set { to, value } => {
                for run in to {
                    // SAFETY: the run lives, and nobody else is at it under the lock.
                    unsafe { run.base.write_bytes(value, run.bytes) };
                }
            }
            Work::Copy { to, from } => copy_runs(&to, &from),
        }
    }
}

fn copy_runs(to: &[Run], from: &[Run]) {
    let (mut to, mut from) = (to.iter(), from.iter());
    let (mut target, mut source) = (to.next(), from.next());
    let (mut written, mut read) = (0, 0);
    while let (Some(a), Some(b)) = (target, source) {
        let bytes = (a.bytes - written).min(b.bytes - read);
        // SAFETY: `bytes` are left in both runs, which may overlap.
        unsafe { std::ptr::copy(b.base.add(read), a.base.add(written), bytes) };
        written += bytes;
        read += bytes;
        if written == a.bytes {
            (target, written) = (to.next(), 0);
        }
        if read == b.bytes {
            (source, read) = (from.next(), 0);
        }
    }
}
