//! A reservation of addresses on a GPU, and which physical page lies under each of its pages.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::sys::{
    CUdevice, CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationGranularity_flags,
    CUmemAllocationHandleType, CUmemAllocationProp, CUmemAllocationProp_st__bindgen_ty_1,
    CUmemAllocationType, CUmemLocation, CUmemLocationType,
};

use super::api::{DriverApi, Outcome};
use super::context::{Context, twice};
use super::keep::Handle;
use crate::device::{GiveBack, PAGE};
use crate::error::{Result, fail};
use crate::sync::{Mutex, RwLock};

/// Nothing is mapped here.
const NONE: Handle = u64::MAX;
/// Something is mapped here that should be gone: unmapping failed. It is tried again before
/// the page is used again.
const STALE: Handle = u64::MAX - 1;

/// What the pages of an arena are like, and who may use them.
pub struct PageKind {
    properties: CUmemAllocationProp,
    /// Only ever grows.
    access: RwLock<Vec<CUmemAccessDesc>>,
}

// SAFETY: plain data; the one pointer in it is null.
unsafe impl Send for PageKind {}
// SAFETY: as above.
unsafe impl Sync for PageKind {}

fn at_device(device: CUdevice) -> CUmemLocation {
    CUmemLocation { type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: device }
}

impl PageKind {
    /// Pages in the memory of `device` that `peers` may use too.
    pub fn new(device: CUdevice, peers: &[CUdevice], shareable: bool) -> PageKind {
        let kind = if shareable {
            CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        } else {
            CUmemAllocationHandleType(0)
        };
        let properties = CUmemAllocationProp {
            type_: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            requestedHandleTypes: kind,
            location: at_device(device),
            win32HandleMetaData: std::ptr::null_mut(),
            allocFlags: CUmemAllocationProp_st__bindgen_ty_1 {
                compressionType: 0,
                gpuDirectRDMACapable: 0,
                usage: 0,
                reserved: [0; 4],
            },
        };
        let access = [&[device], peers].concat().into_iter().map(PageKind::access_for).collect();
        PageKind { properties, access: RwLock::new(access) }
    }

    fn access_for(device: CUdevice) -> CUmemAccessDesc {
        CUmemAccessDesc {
            location: at_device(device),
            flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        }
    }

    /// Pages that are mapped from now on are for `device` too.
    pub fn allow(&self, device: CUdevice) {
        let mut access = self.access.write();
        if access.iter().all(|one| one.location.id != device) {
            access.push(PageKind::access_for(device));
        }
    }

    /// Lets all devices that may use such pages use these.
    pub fn grant(&self, api: &DriverApi, address: usize, bytes: usize) -> Outcome {
        loop {
            let access = self.access.read().clone();
            let (at, count) = (address as u64, access.len());
            // SAFETY: a range that is mapped; descriptors that are whole.
            unsafe { api.page_access(at, bytes, access.as_ptr(), count) }?;
            // One that came meanwhile would miss these pages.
            if self.access.read().len() == count {
                return Ok(());
            }
        }
    }

    /// Whether other processes can be given such pages.
    pub fn is_shareable(&self) -> bool {
        self.properties.requestedHandleTypes.0 != 0
    }

    /// The smallest page that the device makes.
    pub fn granularity(&self, api: &DriverApi) -> Outcome<usize> {
        let mut bytes = 0;
        let least = CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
        // SAFETY: properties that are whole, and a place for the answer.
        unsafe { api.granularity(&mut bytes, &self.properties, least) }?;
        Ok(bytes)
    }
}

/// A reservation.
pub struct Arena {
    context: Arc<Context>,
    kind: Arc<PageKind>,
    base: usize,
    bytes: u64,
    /// The physical page under each page. Two threads never make calls for the same pages at
    /// once, so the order of a single cell is order enough.
    pages: Box<[AtomicU64]>,
    /// Pages that another process may have: they stay where they are.
    shared: Mutex<Vec<usize>>,
}

impl Arena {
    /// Reserves exactly `bytes` bytes of addresses.
    pub fn reserve(context: &Arc<Context>, kind: &Arc<PageKind>, bytes: u64) -> Result<Arena> {
        let base = context.with(|api| {
            let mut base = 0;
            // SAFETY: a place for the answer; the driver chooses the address.
            unsafe { api.address_reserve(&mut base, bytes as usize, PAGE as usize, 0, 0) }?;
            Ok(base as usize)
        })?;
        let pages = (0..bytes / PAGE).map(|_| AtomicU64::new(NONE)).collect();
        Ok(Arena {
            context: Arc::clone(context),
            kind: Arc::clone(kind),
            base,
            bytes,
            pages,
            shared: Mutex::default(),
        })
    }

    /// Its first address.
    pub fn base(&self) -> usize {
        self.base
    }

    /// How many of its pages are mapped.
    #[cfg(test)]
    pub fn mapped(&self) -> usize {
        self.pages.iter().filter(|cell| cell.load(Ordering::Relaxed) < STALE).count()
    }

    /// Whether `address` lies in it.
    pub fn has(&self, address: usize) -> bool {
        address >= self.base && ((address - self.base) as u64) < self.bytes
    }

    fn cells(&self, address: usize, bytes: u64) -> &[AtomicU64] {
        let first = (address - self.base) / PAGE as usize;
        &self.pages[first..first + (bytes / PAGE) as usize]
    }

    /// Puts pages under a range that has none.
    pub fn commit(&self, address: usize, bytes: u64) -> Result<()> {
        let count = (bytes / PAGE) as usize;
        self.context.with(|api| {
            let mut handles = Vec::with_capacity(count);
            let mapped = self.gather(api, count, &mut handles).and_then(|()| {
                self.clear_stale(api, address, bytes)?;
                self.map(api, address, &handles)
            });
            if mapped.is_err() {
                // Mostly the device is full: then nobody should keep what others could use.
                self.keep_or_release(api, &handles, GiveBack::Now);
            }
            mapped
        })
    }

    /// Kept pages first, then new ones.
    fn gather(&self, api: &DriverApi, count: usize, handles: &mut Vec<Handle>) -> Outcome {
        while handles.len() < count {
            let kept = self.context.keep.take();
            let handle = match kept {
                Some(handle) => handle,
                None => self.create(api)?,
            };
            handles.push(handle);
        }
        Ok(())
    }

    fn create(&self, api: &DriverApi) -> Outcome<Handle> {
        let mut handle = 0;
        let properties = &self.kind.properties;
        // SAFETY: properties that are whole, and a place for the answer.
        unsafe { api.page_create(&mut handle, PAGE as usize, properties, 0) }?;
        Ok(handle)
    }

    /// Maps `handles` from `address` on and grants access to all of it: all or nothing.
    fn map(&self, api: &DriverApi, address: usize, handles: &[Handle]) -> Outcome {
        let mut done = 0;
        let mut outcome = Ok(());
        for &handle in handles {
            let at = (address + done * PAGE as usize) as u64;
            // SAFETY: a page of ours, under addresses that are ours and have none.
            outcome = unsafe { api.page_map(at, PAGE as usize, 0, handle, 0) };
            if outcome.is_err() {
                break;
            }
            done += 1;
        }
        if outcome.is_ok() {
            outcome = self.kind.grant(api, address, done * PAGE as usize);
        }
        let cells = self.cells(address, (done as u64) * PAGE);
        if outcome.is_err() && done > 0 {
            // SAFETY: what was just mapped, and nobody knows of yet.
            let gone = unsafe { api.page_unmap(address as u64, done * PAGE as usize) };
            if gone.is_err() {
                cells.iter().for_each(|cell| cell.store(STALE, Ordering::Relaxed));
            }
        } else {
            for (cell, &handle) in cells.iter().zip(handles) {
                cell.store(handle, Ordering::Relaxed);
            }
        }
        outcome
    }

    /// Takes away what an earlier unmapping left behind.
    fn clear_stale(&self, api: &DriverApi, address: usize, bytes: u64) -> Outcome {
        for (number, cell) in self.cells(address, bytes).iter().enumerate() {
            if cell.load(Ordering::Relaxed) == STALE {
                let at = (address + number * PAGE as usize) as u64;
                // SAFETY: a mapping of one page of ours that nobody uses.
                unsafe { api.page_unmap(at, PAGE as usize) }?;
                cell.store(NONE, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Takes the pages of a range away.
    pub fn decommit(&self, address: usize, bytes: u64, how: GiveBack) -> Result<()> {
        self.refuse_shared(address, bytes)?;
        self.context.with(|api| {
            // SAFETY: the caller's promise: nobody uses the range, and it has pages.
            unsafe { api.page_unmap(address as u64, bytes as usize) }?;
            let empty = |cell: &AtomicU64| cell.swap(NONE, Ordering::Relaxed);
            let handles: Vec<Handle> = self.cells(address, bytes).iter().map(empty).collect();
            self.keep_or_release(api, &handles, how);
            Ok(())
        })
    }

    fn keep_or_release(&self, api: &DriverApi, handles: &[Handle], how: GiveBack) {
        let kept = match how {
            GiveBack::Lazily => Vec::new(),
            // Whoever wants memory back now wants that as well.
            GiveBack::Now => self.context.keep.take_all(),
        };
        for handle in kept.into_iter().chain(handles.iter().copied()) {
            let over = match how {
                GiveBack::Lazily => self.context.keep.give(handle),
                GiveBack::Now => Some(handle),
            };
            if let Some(handle) = over {
                // SAFETY: a page of ours. One that is still mapped, because unmapping failed,
                // goes once it is not.
                if unsafe { api.page_release(handle) }.is_err()
                    && self.context.keep.give(handle).is_some()
                {
                    tracing::warn!("a page of the device was not given back, and is lost");
                }
            }
        }
    }

    /// Moves the pages of one range to another one that has none. They are mapped there first
    /// and only then unmapped here, so that a call that fails costs nothing.
    pub fn move_pages(&self, from: usize, to: usize, bytes: u64) -> Result<()> {
        self.refuse_shared(from, bytes)?;
        self.context.with(|api| {
            let source = self.cells(from, bytes);
            let handles: Vec<Handle> =
                source.iter().map(|cell| cell.load(Ordering::Relaxed)).collect();
            self.clear_stale(api, to, bytes)?;
            self.map(api, to, &handles)?;
            // SAFETY: the caller's promise: nobody uses the range, and it has pages.
            let gone = unsafe { api.page_unmap(from as u64, bytes as usize) };
            let (empty, left) = match gone {
                Ok(()) => (source, NONE),
                // SAFETY: what was just mapped, and nobody knows of yet.
                Err(_) => match unsafe { api.page_unmap(to as u64, bytes as usize) } {
                    Ok(()) => (self.cells(to, bytes), NONE),
                    Err(_) => (self.cells(to, bytes), STALE),
                },
            };
            empty.iter().for_each(|cell| cell.store(left, Ordering::Relaxed));
            gone
        })
    }

    /// A page as a file descriptor that another process can map. It stays where it is from
    /// now on.
    pub fn share(&self, address: usize) -> Result<OwnedFd> {
        if !self.kind.is_shareable() {
            return Err(fail!(
                Unsupported,
                "device {} cannot share memory by file descriptor",
                self.context.ordinal()
            ));
        }
        let page = (address - self.base) / PAGE as usize;
        let handle = self.pages[page].load(Ordering::Relaxed);
        // Before the other process can have it.
        self.shared.lock().push(page);
        let shared = self.context.with(|api| {
            let mut descriptor = -1i32;
            let place = (&raw mut descriptor).cast();
            let kind = CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
            // SAFETY: a page of ours, and the place that this kind of answer needs.
            unsafe { api.page_export(place, handle, kind, 0) }?;
            // SAFETY: a descriptor that the driver opened for us.
            Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
        });
        if shared.is_err() {
            let mut shared = self.shared.lock();
            if let Some(last) = shared.iter().rposition(|&other| other == page) {
                shared.swap_remove(last);
            }
        }
        shared
    }

    /// Grants access to everything that is mapped once more, after [`PageKind::allow`].
    pub fn grant_all(&self) -> Result<()> {
        self.context.with(|api| {
            let is_mapped = |cell: &AtomicU64| cell.load(Ordering::Relaxed) < STALE;
            let mut first = 0;
            for range in self.pages.chunk_by(|a, b| is_mapped(a) == is_mapped(b)) {
                let address = self.base + first * PAGE as usize;
                first += range.len();
                let granted = || self.kind.grant(api, address, range.len() * PAGE as usize);
                if is_mapped(&range[0]) && granted().is_err() {
                    // Some of it went away meanwhile: page by page what is there.
                    for (number, cell) in range.iter().enumerate() {
                        let at = address + number * PAGE as usize;
                        let page = || self.kind.grant(api, at, PAGE as usize);
                        if is_mapped(cell) {
                            page().or_else(|failed| {
                                if is_mapped(cell) { page() } else { Ok(()) }.map_err(|_| failed)
                            })?;
                        }
                    }
                }
            }
            Ok(())
        })
    }

    /// Whether a page of the range is shared.
    pub fn is_shared(&self, address: usize, bytes: u64) -> bool {
        let first = (address - self.base) / PAGE as usize;
        let pages = first..first + (bytes / PAGE) as usize;
        self.shared.lock().iter().any(|page| pages.contains(page))
    }

    fn refuse_shared(&self, address: usize, bytes: u64) -> Result<()> {
        if self.is_shared(address, bytes) {
            return Err(fail!(
                InvalidState,
                "a page in the {bytes} bytes at {address:#x} is shared with another process; it \
                 cannot be moved or given back"
            ));
        }
        Ok(())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.context.undo(|api| {
            let held: Vec<Handle> = self.pages.iter().map(|c| c.load(Ordering::Relaxed)).collect();
            let mut first = 0;
            for range in held.chunk_by(|a, b| (*a == NONE) == (*b == NONE)) {
                let address = self.base + first * PAGE as usize;
                first += range.len();
                if range[0] != NONE {
                    let bytes = range.len() * PAGE as usize;
                    // SAFETY: whoever drops an arena no longer uses it.
                    let _ = twice(|| unsafe { api.page_unmap(address as u64, bytes) });
                }
            }
            // All of them: what another process has must not become somebody else's here, and
            // a pool that is gone keeps nothing for others.
            for &handle in held.iter().filter(|&&handle| handle < STALE) {
                // SAFETY: a page of ours that is mapped nowhere here.
                let _ = twice(|| unsafe { api.page_release(handle) });
            }
            // SAFETY: the whole reservation, which is empty now.
            let _ = twice(|| unsafe { api.address_free(self.base as u64, self.bytes as usize) });
        });
    }
}
