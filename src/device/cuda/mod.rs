//! A GPU, through its driver.
//!
//! Where the driver has virtual memory management (10.2 and later, on all but few systems),
//! an arena is one reservation of addresses, and pages are mapped into it and moved about in
//! it. Elsewhere an arena is one plain allocation that has all its pages from the start.

mod api;
mod arena;
mod context;
mod copy_stream;
mod import;
mod keep;
#[cfg(test)]
pub(crate) mod stand_in;
#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cudarc::driver::sys::{CUdevice, CUdevice_attribute, CUdeviceptr, CUresult, CUstream};

pub use api::{DriverApi, Failure, Outcome};
pub use context::{Context, twice};
pub use copy_stream::{CopyStream, Mark, Piece};
pub use import::Imported;

use self::arena::{Arena, PageKind};
use super::{Device, GiveBack, PAGE, Saved};
use crate::error::{Kind, Result, fail};
use crate::monitor::is_little;
use crate::sync::Mutex;

/// Bytes that are fetched at a time to be looked at.
const LOOK_BYTES: usize = 64 << 10;

/// How a GPU's memory is to be used.
#[derive(Clone, Debug, Default)]
pub struct CudaOptions {
    /// The driver's number of the device.
    pub ordinal: u32,
    /// Numbers of further devices that may use its memory.
    pub peers: Vec<u32>,
}

/// The arenas of a device, which are of one kind.
enum Ground {
    /// Pages are mapped.
    Pages(Arc<PageKind>, Mutex<Vec<Arc<Arena>>>),
    /// Plain allocations, by the first address that is used: what the driver gave.
    Plain(Mutex<Vec<(usize, CUdeviceptr)>>),
}

/// A GPU.
pub struct Cuda {
    context: Arc<Context>,
    ground: Ground,
}

impl Cuda {
    /// A GPU of this machine.
    pub fn open(options: &CudaOptions) -> Result<Cuda> {
        Cuda::with_driver(&DriverApi::open()?, options)
    }

    /// A GPU that `api` knows.
    pub fn with_driver(api: &Arc<DriverApi>, options: &CudaOptions) -> Result<Cuda> {
        let context = Context::of_device(api, options.ordinal)?;
        let has = |attribute| context.attribute(attribute).is_ok_and(|value| value != 0);
        use CUdevice_attribute as Attribute;
        let pages = api.has_pages()
            && has(Attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
        if !pages {
            if !options.peers.is_empty() {
                return Err(fail!(
                    Unsupported,
                    "device {} has no virtual memory management; its memory cannot be given to \
                     other devices",
                    options.ordinal
                ));
            }
            return Ok(Cuda { context, ground: Ground::Plain(Mutex::default()) });
        }
        let peers = Cuda::peers(&context, &options.peers)?;
        let shareable =
            has(Attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
        let kind = PageKind::new(context.device(), &peers, shareable);
        let granularity = context.with(|api| kind.granularity(api))? as u64;
        if granularity == 0 || !PAGE.is_multiple_of(granularity) {
            return Err(fail!(
                Unsupported,
                "device {} maps memory in pages of {granularity} bytes; forebay's have {PAGE}",
                options.ordinal
            ));
        }
        Ok(Cuda { context, ground: Ground::Pages(Arc::new(kind), Mutex::default()) })
    }

    fn peers(context: &Context, ordinals: &[u32]) -> Result<Vec<CUdevice>> {
        let find = |&ordinal: &u32| {
            let (mut peer, mut can, mut count) = (0, 0, 0);
            let own = context.device();
            // SAFETY: a place for the answer.
            context.with(|api| unsafe { api.device_count(&mut count) })?;
            if i64::from(ordinal) >= i64::from(count) {
                return Err(fail!(
                    InvalidArgument,
                    "device_index is {ordinal}; this machine has {count} CUDA devices"
                ));
            }
            context.with(|api| {
                // SAFETY: places for the answers.
                unsafe {
                    api.device_get(&mut peer, ordinal as i32)?;
                    api.can_access_peer(&mut can, peer, own)
                }
            })?;
            if can == 0 || peer == own {
                return Err(fail!(
                    Unsupported,
                    "device {ordinal} cannot use the memory of device {}",
                    context.ordinal()
                ));
            }
            Ok(peer)
        };
        ordinals.iter().map(find).collect()
    }

    /// The context its memory is in.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn arena(&self, address: usize) -> Result<Option<Arc<Arena>>> {
        let Ground::Pages(_, arenas) = &self.ground else { return Ok(None) };
        let arena = arenas.lock().iter().find(|arena| arena.has(address)).cloned();
        arena.map(Some).ok_or_else(|| {
            fail!(Internal, "address {address:#x} is in no reservation of this device")
        })
    }

    fn reserve_plain(&self, bytes: u64) -> Result<(usize, CUdeviceptr)> {
        self.context.with(|api| {
            let mut raw = 0;
            // SAFETY: a place for the answer. One page more, so that the start can be aligned.
            unsafe { api.memory_alloc(&mut raw, (bytes + PAGE) as usize) }?;
            Ok(((raw as usize).next_multiple_of(PAGE as usize), raw))
        })
    }

    fn reserve_exactly(&self, bytes: u64) -> Result<usize> {
        match &self.ground {
            Ground::Pages(kind, arenas) => {
                let arena = Arc::new(Arena::reserve(&self.context, kind, bytes)?);
                let base = arena.base();
                arenas.lock().push(arena);
                Ok(base)
            }
            Ground::Plain(plain) => {
                let (base, raw) = self.reserve_plain(bytes)?;
                plain.lock().push((base, raw));
                Ok(base)
            }
        }
    }

    /// Free and all bytes of memory.
    fn memory_info(&self) -> Result<(u64, u64)> {
        self.context.with(|api| {
            let (mut free, mut total) = (0, 0);
            // SAFETY: places for the answers.
            unsafe { api.memory_info(&mut free, &mut total) }?;
            Ok((free as u64, total as u64))
        })
    }
}

fn stream_of(handle: u64) -> CUstream {
    handle as usize as CUstream
}

impl Device for Cuda {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn memory_bytes(&self) -> u64 {
        let mut bytes = 0;
        let device = self.context.device();
        // SAFETY: a place for the answer.
        let known = self.context.with(|api| unsafe { api.device_memory(&mut bytes, device) });
        known.map_or(0, |()| bytes as u64).max(PAGE)
    }

    fn is_short(&self) -> bool {
        // What is kept is nobody's: the next pool that wants pages gets these.
        let kept = self.context.keep.len() as u64 * PAGE;
        self.memory_info().is_ok_and(|(free, total)| is_little(free + kept, total))
    }

    fn reserve(&self, wanted: u64, least: u64) -> Result<(usize, u64)> {
        let mut bytes = wanted / PAGE * PAGE;
        loop {
            match self.reserve_exactly(bytes) {
                Ok(base) => return Ok((base, bytes)),
                Err(error) if error.kind() != Kind::OutOfMemory => return Err(error),
                Err(_) if bytes / 2 < least.max(PAGE) => {
                    return Err(fail!(
                        OutOfMemory,
                        "device {} refused to reserve {bytes} bytes; at least {least} are needed",
                        self.context.ordinal()
                    ));
                }
                Err(_) => bytes = (bytes / 2).next_multiple_of(PAGE),
            }
        }
    }

    fn release(&self, address: usize, _: u64) {
        // Work that was queued may still use it. If that cannot be waited for, it has failed.
        self.context.undo(|api| {
            // SAFETY: no preconditions.
            let _ = twice(|| unsafe { api.context_synchronize() });
        });
        match &self.ground {
            Ground::Pages(_, arenas) => {
                let mut held = arenas.lock();
                let own = held.iter().position(|arena| arena.base() == address);
                let arena = own.map(|index| held.swap_remove(index));
                // The arena goes without the lock.
                drop(held);
                drop(arena);
            }
            Ground::Plain(plain) => {
                let mut held = plain.lock();
                let own = held.iter().position(|&(base, _)| base == address);
                let raw = own.map(|index| held.swap_remove(index).1);
                drop(held);
                if let Some(raw) = raw {
                    self.context.undo(|api| {
                        // SAFETY: what the driver gave, which its owner no longer uses.
                        let _ = twice(|| unsafe { api.memory_free(raw) });
                    });
                }
            }
        }
    }

    fn commit(&self, address: usize, bytes: u64) -> Result<()> {
        self.arena(address)?.map_or(Ok(()), |arena| arena.commit(address, bytes))
    }

    fn decommit(&self, address: usize, bytes: u64, how: GiveBack) -> Result<()> {
        self.arena(address)?.map_or(Ok(()), |arena| arena.decommit(address, bytes, how))
    }

    fn can_move(&self) -> bool {
        matches!(self.ground, Ground::Pages(..))
    }

    fn move_pages(&self, from: usize, to: usize, bytes: u64) -> Result<()> {
        match self.arena(from)? {
            Some(arena) => arena.move_pages(from, to, bytes),
            None => Err(fail!(
                Unsupported,
                "device {} has no virtual memory management; pages cannot be moved",
                self.context.ordinal()
            )),
        }
    }

    fn moves_without_copying(&self) -> bool {
        // Work that is queued uses pages where they are.
        false
    }

    fn share(&self, address: usize) -> Result<OwnedFd> {
        match self.arena(address)? {
            Some(arena) => arena.share(address),
            None => Err(fail!(
                Unsupported,
                "device {} has no virtual memory management; it cannot share pages",
                self.context.ordinal()
            )),
        }
    }

    fn is_shared(&self, address: usize, bytes: u64) -> bool {
        self.arena(address).is_ok_and(|found| found.is_some_and(|it| it.is_shared(address, bytes)))
    }

    fn allow_peer(&self, ordinal: u32) -> Result<()> {
        let Ground::Pages(kind, arenas) = &self.ground else {
            return Err(fail!(
                Unsupported,
                "device {} has no virtual memory management; its memory cannot be given to \
                 other devices",
                self.context.ordinal()
            ));
        };
        for peer in Cuda::peers(&self.context, &[ordinal])? {
            kind.allow(peer);
        }
        let arenas = arenas.lock().clone();
        arenas.iter().try_for_each(|arena| arena.grant_all())
    }

    fn save(&self, ranges: &[(usize, u64)]) -> Result<Saved> {
        Saved::take(&self.context, ranges)
    }

    fn restore(&self, saved: &Saved, ranges: &[(usize, u64)]) -> Result<()> {
        saved.put_back(&self.context, ranges)
    }

    fn populate(&self, _: usize, _: u64) -> Result<()> {
        // What is mapped here is resident.
        Ok(())
    }

    fn advise_huge(&self, _: usize, _: u64, _: bool) {}

    fn works_on_streams(&self) -> bool {
        true
    }

    fn context(&self) -> Option<&Arc<Context>> {
        Some(&self.context)
    }

    unsafe fn fill(&self, address: usize, bytes: usize, value: u8, stream: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        self.context.with(|api| unsafe {
            api.set_d8_async(address as u64, value, bytes, stream_of(stream))
        })
    }

    unsafe fn copy(&self, from: usize, to: usize, bytes: usize, stream: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        self.context.with(|api| unsafe {
            api.copy_dtod_async(to as u64, from as u64, bytes, stream_of(stream))
        })
    }

    unsafe fn find_other(
        &self,
        address: usize,
        bytes: usize,
        value: u8,
        stream: u64,
    ) -> Result<Option<usize>> {
        let mut buffer: Vec<u8> = Vec::new();
        if buffer.try_reserve_exact(bytes.min(LOOK_BYTES)).is_err() {
            return Err(fail!(OutOfMemory, "there is no memory to look at {bytes} bytes"));
        }
        buffer.resize(bytes.min(LOOK_BYTES), 0);
        let mut at = address;
        while at < address + bytes {
            let part = LOOK_BYTES.min(address + bytes - at);
            let to = buffer.as_mut_ptr().cast::<c_void>();
            // SAFETY: the caller's promise; the buffer has room, and is not looked at before
            // the stream is done with it.
            self.context.with(|api| unsafe {
                api.copy_dtoh_async(to, at as u64, part, stream_of(stream))?;
                api.stream_synchronize(stream_of(stream))
            })?;
            if let Some(index) = buffer[..part].iter().position(|&byte| byte != value) {
                return Ok(Some(at + index));
            }
            at += part;
        }
        Ok(None)
    }

    fn is_lost_in_child(&self) -> bool {
        true
    }

    fn calls(&self) -> u64 {
        self.context.api().calls()
    }
}

/// Whether `failure` says that there is no such stream, or no such context, any more.
pub fn is_gone(failure: Failure) -> bool {
    [
        CUresult::CUDA_ERROR_INVALID_HANDLE,
        CUresult::CUDA_ERROR_INVALID_CONTEXT,
        CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED,
    ]
    .into_iter()
    .any(|code| failure.is(code))
}
