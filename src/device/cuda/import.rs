//! Pages of another process, mapped into this one.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use cudarc::driver::sys::CUmemAllocationHandleType;

use super::arena::PageKind;
use super::context::{Context, twice};
use super::keep::Handle;
use crate::device::PAGE;
use crate::error::{Result, fail};

/// Pages that another process shares, side by side at addresses of their own.
pub struct Imported {
    context: Arc<Context>,
    base: usize,
    bytes: usize,
    handles: Vec<Handle>,
    /// How many of them are mapped, from the first on.
    mapped: usize,
}

impl Imported {
    /// Maps the pages behind `descriptors`, in their order, for the device of `context`. The
    /// descriptors stay the caller's and are not needed afterwards.
    pub fn map(context: &Arc<Context>, descriptors: &[BorrowedFd<'_>]) -> Result<Imported> {
        let bytes = descriptors.len() * PAGE as usize;
        let base = context.with(|api| {
            let mut base = 0;
            // SAFETY: a place for the answer; the driver chooses the address.
            unsafe { api.address_reserve(&mut base, bytes, PAGE as usize, 0, 0) }?;
            Ok(base as usize)
        })?;
        // From here on dropping it undoes what was done so far.
        let context = Arc::clone(context);
        let mut imported = Imported { context, base, bytes, handles: Vec::new(), mapped: 0 };
        for (number, descriptor) in descriptors.iter().enumerate() {
            imported.add(descriptor).map_err(|error| {
                fail!(InvalidArgument, "fds[{number}] is no page that can be used: {error}")
            })?;
        }
        let kind = PageKind::new(imported.context.device(), &[], false);
        imported.context.with(|api| kind.grant(api, base, bytes))?;
        Ok(imported)
    }

    fn add(&mut self, descriptor: &BorrowedFd<'_>) -> Result<()> {
        let kind = CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
        let at = (self.base + self.handles.len() * PAGE as usize) as u64;
        let mut handle = 0;
        let number = descriptor.as_raw_fd() as usize as *mut _;
        // SAFETY: an open descriptor, given as this kind wants it, and a place for the answer.
        self.context.with(|api| unsafe { api.page_import(&mut handle, number, kind) })?;
        self.handles.push(handle);
        // SAFETY: a page that is ours to use, under addresses that are ours and have none.
        self.context.with(|api| unsafe { api.page_map(at, PAGE as usize, 0, handle, 0) })?;
        self.mapped += 1;
        Ok(())
    }

    /// Its first address.
    pub fn base(&self) -> usize {
        self.base
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        self.context.undo(|api| {
            // Work that was queued may still use it.
            // SAFETY: no preconditions.
            let _ = twice(|| unsafe { api.context_synchronize() });
            let at = self.base as u64;
            if self.mapped > 0 {
                // SAFETY: whoever drops it no longer uses it.
                let _ = twice(|| unsafe { api.page_unmap(at, self.mapped * PAGE as usize) });
            }
            for &handle in &self.handles {
                // SAFETY: ours, and mapped nowhere.
                let _ = twice(|| unsafe { api.page_release(handle) });
            }
            // SAFETY: the whole reservation, which is empty now.
            let _ = twice(|| unsafe { api.address_free(at, self.bytes) });
        });
    }
}
