//! Pinned system memory: a GPU copies from and to it at full speed, and it never moves.
//!
//! An arena is one reservation of system memory, registered with the driver as a whole when it
//! is made and exactly as large as was asked for. Registering it in parts would save memory
//! that no block uses, but a block over the border of two parts cannot be copied in one go.

use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::sys::CU_MEMHOSTREGISTER_PORTABLE;

use super::cuda::{Context, DriverApi, twice};
use super::{Device, GiveBack, Host, HostOptions, PAGE};
use crate::error::{Result, fail};

/// Pinned memory is taken away from everybody else: at most this share of what the process could
/// have, which in a container is less than the system has.
const SHARE_MOST: u64 = 2;

/// Pinned system memory.
pub struct Pinned {
    host: Host,
    context: Arc<Context>,
    /// What the process could have of the system's memory, as it was when this was made.
    allowed: u64,
}

impl Pinned {
    /// Memory pinned through the driver of device `ordinal`, for all devices.
    pub fn open(ordinal: u32) -> Result<Pinned> {
        Pinned::with_driver(&DriverApi::open()?, ordinal)
    }

    /// As [`Pinned::open`], of a device that `api` knows.
    pub fn with_driver(api: &Arc<DriverApi>, ordinal: u32) -> Result<Pinned> {
        Ok(Pinned::of(&Context::of_device(api, ordinal)?))
    }

    /// Memory pinned through a context, for all devices.
    pub fn of(context: &Arc<Context>) -> Pinned {
        let allowed = crate::monitor::system().total(Instant::now()).unwrap_or(u64::MAX);
        Pinned { host: Host::new(HostOptions::default()), context: Arc::clone(context), allowed }
    }

    /// The context whose streams work with it.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Gives `[address, address + bytes)` memory that the driver has pinned.
    fn pin(&self, address: usize, bytes: u64) -> Result<()> {
        self.host.commit(address, bytes)?;
        self.host.advise_huge(address, bytes, true);
        let size = bytes as usize;
        // A forked child would share the pages, and whoever wrote first would get others than
        // the device copies from. Where the system refuses, a fork is the program's risk.
        // SAFETY: a reservation that was just made.
        unsafe { libc::madvise(address as *mut _, size, libc::MADV_DONTFORK) };
        // SAFETY: as above, and it has pages.
        self.context.with(|api| unsafe {
            api.host_register(address as *mut _, size, CU_MEMHOSTREGISTER_PORTABLE)
        })
    }
}

impl Device for Pinned {
    fn name(&self) -> &'static str {
        "pinned"
    }

    fn memory_bytes(&self) -> u64 {
        (self.host.memory_bytes().min(self.allowed) / SHARE_MOST).max(PAGE)
    }

    fn is_short(&self) -> bool {
        self.host.is_short()
    }

    fn reserve(&self, wanted: u64, _: u64) -> Result<(usize, u64)> {
        let most = self.memory_bytes();
        if wanted > most {
            return Err(fail!(
                InvalidArgument,
                "{wanted} bytes are to be pinned; at most {most}, half of the memory that this \
                 process may have, can be"
            ));
        }
        let bytes = wanted.next_multiple_of(PAGE);
        let (address, bytes) = self.host.reserve(bytes, bytes)?;
        match self.pin(address, bytes) {
            Ok(()) => {
                crate::monitor::pinned(bytes);
                Ok((address, bytes))
            }
            Err(error) => {
                self.host.release(address, bytes);
                Err(error)
            }
        }
    }

    fn release(&self, address: usize, bytes: u64) {
        // Copies that were queued may still use it.
        let gone = std::cell::Cell::new(false);
        self.context.undo(|api| {
            // SAFETY: no preconditions.
            let _ = twice(|| unsafe { api.context_synchronize() });
            // SAFETY: a whole reservation, which its owner no longer uses.
            gone.set(twice(|| unsafe { api.host_unregister(address as *mut _) }).is_ok());
        });
        if gone.get() {
            crate::monitor::unpinned(bytes);
            self.host.release(address, bytes);
        } else {
            // The device may still copy from and to these pages.
            tracing::warn!(address, bytes, "pinned memory was not given back");
        }
    }

    fn commit(&self, _: usize, _: u64) -> Result<()> {
        Ok(())
    }

    fn decommit(&self, _: usize, _: u64, _: GiveBack) -> Result<()> {
        Ok(())
    }

    fn can_move(&self) -> bool {
        false
    }

    fn move_pages(&self, _: usize, _: usize, _: u64) -> Result<()> {
        Err(fail!(Unsupported, "pinned memory cannot be moved"))
    }

    fn populate(&self, _: usize, _: u64) -> Result<()> {
        Ok(())
    }

    fn advise_huge(&self, _: usize, _: u64, _: bool) {}

    unsafe fn fill(&self, address: usize, bytes: usize, value: u8, stream: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.host.fill(address, bytes, value, stream) }
    }

    unsafe fn copy(&self, from: usize, to: usize, bytes: usize, stream: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.host.copy(from, to, bytes, stream) }
    }

    unsafe fn find_other(
        &self,
        address: usize,
        bytes: usize,
        value: u8,
        stream: u64,
    ) -> Result<Option<usize>> {
        // SAFETY: the caller's promise.
        unsafe { self.host.find_other(address, bytes, value, stream) }
    }

    fn is_lost_in_child(&self) -> bool {
        true
    }

    fn calls(&self) -> u64 {
        self.host.calls() + self.context.api().calls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::stand_in::{self, with};
    use crate::error::Kind;

    #[test]
    fn exactly_what_was_asked_for_is_pinned_while_it_is_needed() {
        let api = stand_in::fresh();
        let pinned = Pinned::with_driver(&api, 0).unwrap();
        let (address, bytes) = pinned.reserve(3 * PAGE, PAGE).unwrap();
        assert_eq!((bytes, address as u64 % PAGE), (3 * PAGE, 0));
        with(|driver| assert_eq!(driver.registered, [(address, bytes as usize)].into()));
        pinned.commit(address, PAGE).unwrap();
        pinned.decommit(address, PAGE, GiveBack::Now).unwrap();
        // SAFETY: the bytes are there and belong to the test.
        unsafe {
            pinned.fill(address, bytes as usize, 3, 0).unwrap();
            assert_eq!(pinned.find_other(address, bytes as usize, 3, 0).unwrap(), None);
        }
        assert!(!pinned.can_move());
        let moved = pinned.move_pages(address, address + 2 * PAGE as usize, PAGE);
        assert_eq!(moved.unwrap_err().kind(), Kind::Unsupported);
        pinned.release(address, bytes);
        with(|driver| assert!(driver.registered.is_empty()));
    }

    #[test]
    fn half_of_what_the_process_may_have_is_the_most() {
        let api = stand_in::fresh();
        let mut pinned = Pinned::with_driver(&api, 0).unwrap();
        let allowed = crate::monitor::system().total(Instant::now()).unwrap();
        assert_eq!(pinned.memory_bytes(), allowed.min(pinned.host.memory_bytes()) / 2);
        // As in a container with little.
        pinned.allowed = 8 * PAGE;
        assert_eq!(pinned.memory_bytes(), 4 * PAGE);
        let (address, bytes) = pinned.reserve(4 * PAGE, PAGE).unwrap();
        pinned.release(address, bytes);
        let error = pinned.reserve(4 * PAGE + 1, PAGE).unwrap_err();
        assert!(error.message().contains(&(4 * PAGE).to_string()), "{error}");
        // Where nothing is known of groups it is the system's.
        pinned.allowed = u64::MAX;
        assert_eq!(pinned.memory_bytes(), pinned.host.memory_bytes() / 2);
    }

    #[test]
    fn too_much_is_refused_and_a_refusal_keeps_nothing() {
        let api = stand_in::fresh();
        let pinned = Pinned::with_driver(&api, 0).unwrap();
        let error = pinned.reserve(pinned.memory_bytes() + 1, PAGE).unwrap_err();
        assert!(error.message().contains("half"), "{error}");
        for number in 0..4 {
            api.refuse(number, 2);
            let error = pinned.reserve(5 * PAGE, PAGE).unwrap_err();
            assert_eq!(error.kind(), Kind::OutOfMemory, "call {number}");
            with(|driver| {
                assert!(driver.registered.is_empty());
                assert!(driver.current.is_empty() && driver.mode == 0);
            });
        }
    }
}
