//! A driver for unit tests: each test's thread has its own. It keeps the rules that matter
//! here (what may be mapped, unmapped, released and touched; which context is current; what a
//! capturing stream forbids) and answers with the driver's codes when one is broken.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_int, c_uint, c_ulonglong, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdeviceptr, CUevent, CUmemAccessDesc, CUmemAllocationProp, CUresult,
    CUstream,
};

use super::DriverApi;

const PAGE: u64 = crate::device::PAGE;

/// The state that tests look at and change.
pub struct Driver {
    pub current: Vec<usize>,
    pub mode: c_uint,
    pub retained: i32,
    /// Pages that can be created.
    pub room: usize,
    pub granularity: usize,
    pub pages: HashMap<u64, Page>,
    /// Page and access, by address.
    pub mapped: BTreeMap<u64, (u64, bool)>,
    pub reserved: BTreeMap<u64, u64>,
    pub plain: BTreeMap<u64, u64>,
    /// Pinned system memory.
    pub registered: BTreeMap<usize, usize>,
    pub streams: HashMap<usize, Stream>,
    /// How far streams are, by number: those of destroyed ones too.
    pub done: HashMap<u64, u64>,
    /// The stream's number and the point in it, once recorded.
    pub events: HashMap<usize, Option<(u64, u64)>>,
    /// Which stream waits for which event's point.
    pub waits: Vec<(usize, (u64, u64))>,
    pub log: Vec<&'static str>,
    /// Numbers of calls that are refused, and with what, counted by `calls`.
    pub refused: HashMap<u64, u32>,
    calls: u64,
    next: u64,
}

#[derive(Default)]
pub struct Page {
    released: bool,
    mappings: usize,
    bytes: Vec<u8>,
}

pub struct Stream {
    pub context: usize,
    pub id: u64,
    pub queued: u64,
    pub capturing: bool,
}

thread_local! {
    static DRIVER: RefCell<Driver> = RefCell::new(Driver::new());
}

/// Looks at the driver of this thread, or changes it.
pub fn with<T>(body: impl FnOnce(&mut Driver) -> T) -> T {
    DRIVER.with_borrow_mut(body)
}

/// A fresh driver for this thread.
pub fn fresh() -> Arc<DriverApi> {
    without(&[])
}

/// A fresh driver that lacks some symbols.
pub fn without(names: &[&str]) -> Arc<DriverApi> {
    with(|driver| *driver = Driver::new());
    let lookup = |symbol: &CStr| {
        let name = symbol.to_str().unwrap();
        if names.contains(&name) { null_mut() } else { find(name) }
    };
    Arc::new(DriverApi::resolve(&lookup).unwrap())
}

impl Driver {
    fn new() -> Driver {
        let legacy = Stream { context: 0, id: 0, queued: 0, capturing: false };
        Driver {
            current: Vec::new(),
            mode: 0,
            retained: 0,
            room: 64,
            granularity: PAGE as usize,
            pages: HashMap::new(),
            mapped: BTreeMap::new(),
            reserved: BTreeMap::new(),
            plain: BTreeMap::new(),
            registered: BTreeMap::new(),
            streams: HashMap::from([(0, legacy)]),
            done: HashMap::new(),
            events: HashMap::new(),
            waits: Vec::new(),
            log: Vec::new(),
            refused: HashMap::new(),
            calls: 0,
            next: 100,
        }
    }

    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Makes a stream with this handle, in the context of device 0.
    pub fn make_stream(&mut self, handle: usize) {
        let id = self.next();
        let stream = Stream { context: context_of(0), id, queued: 0, capturing: false };
        assert!(self.streams.insert(handle, stream).is_none());
    }

    pub fn queue(&mut self, handle: usize) {
        self.streams.get_mut(&handle).unwrap().queued += 1;
    }

    /// Everything queued so far on the stream is done.
    pub fn finish(&mut self, handle: usize) {
        let stream = &self.streams[&handle];
        self.done.insert(stream.id, stream.queued);
    }

    fn is_done(&self, point: (u64, u64)) -> bool {
        self.done.get(&point.0).copied().unwrap_or(0) >= point.1
    }

    /// Of the calls from now on, number `first` is refused, and the one `gap` calls behind it.
    pub fn refuse_after(&mut self, first: u64, gap: u64, code: u32) {
        let at = self.calls + first;
        self.refused = HashMap::from([(at, code), (at + 1 + gap, code)]);
    }

    /// The calls since the last look.
    pub fn take_log(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.log)
    }

    /// Pages that exist.
    pub fn held(&self) -> usize {
        self.pages.len()
    }

    fn drop_unused(&mut self) {
        self.pages.retain(|_, page| !page.released || page.mappings > 0);
    }

    fn byte_places(&self, at: u64, bytes: usize) -> Option<Vec<(u64, usize)>> {
        let place = |at: u64| {
            let page = at / PAGE * PAGE;
            let &(handle, access) = self.mapped.get(&page)?;
            access.then_some((handle, (at - page) as usize))
        };
        (at..at + bytes as u64).map(place).collect()
    }

    fn byte(&mut self, (handle, at): (u64, usize)) -> &mut u8 {
        let bytes = &mut self.pages.get_mut(&handle).unwrap().bytes;
        bytes.resize(PAGE as usize, 0);
        &mut bytes[at]
    }
}

fn context_of(device: usize) -> usize {
    0x1000 + device
}

/// The rest of an entry point: ends with success, or with the error it breaks off with.
fn call(name: &'static str, body: impl FnOnce(&mut Driver) -> Result<(), CUresult>) -> c_uint {
    with(|driver| {
        driver.log.push(name);
        driver.calls += 1;
        if let Some(&code) = driver.refused.get(&(driver.calls - 1)) {
            return code;
        }
        body(driver).map_or_else(|code| code as c_uint, |()| 0)
    })
}

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const HANDLE: CUresult = CUresult::CUDA_ERROR_INVALID_HANDLE;

fn must(holds: bool, code: CUresult) -> Result<(), CUresult> {
    if holds { Ok(()) } else { Err(code) }
}

/// Current and relaxed, as every call but a few has to be made.
fn ready(driver: &Driver) -> Result<(), CUresult> {
    must(driver.current.last() == Some(&context_of(0)), CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
    must(driver.mode == 2, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
}

macro_rules! entries {
    ($($name:ident($driver:ident $(, $arg:ident: $type:ty)*) $body:block)*) => {
        $(
            #[allow(non_snake_case)]
            unsafe extern "C" fn $name($($arg: $type),*) -> c_uint {
                call(stringify!($name), |$driver: &mut Driver| {
                    // SAFETY: a test's caller gives places for the answers.
                    #[allow(unused_unsafe)]
                    unsafe { $body }
                    #[allow(unreachable_code)]
                    Ok(())
                })
            }
        )*

        fn find(name: &str) -> *mut c_void {
            match name {
                $(stringify!($name) => $name as *mut c_void,)*
                _ => null_mut(),
            }
        }
    };
}

entries! {
    cuInit(_driver, _flags: c_uint) {}
    cuDeviceGetCount(_driver, count: *mut c_int) { *count = 2; }
    cuDeviceGet(_driver, device: *mut CUdevice, ordinal: c_int) {
        must(ordinal < 2, CUresult::CUDA_ERROR_INVALID_DEVICE)?;
        *device = ordinal;
    }
    cuDeviceGetAttribute(_driver, value: *mut c_int, _attribute: c_int, _device: CUdevice) {
        *value = 1;
    }
    cuDeviceTotalMem_v2(driver, bytes: *mut usize, _device: CUdevice) {
        *bytes = driver.room * PAGE as usize;
    }
    cuDeviceCanAccessPeer(_driver, can: *mut c_int, _device: CUdevice, _peer: CUdevice) {
        *can = 1;
    }
    cuDevicePrimaryCtxRetain(driver, context: *mut CUcontext, device: CUdevice) {
        driver.retained += 1;
        *context = context_of(device as usize) as CUcontext;
    }
    cuDevicePrimaryCtxRelease_v2(driver, _device: CUdevice) { driver.retained -= 1; }
    cuCtxGetCurrent(driver, context: *mut CUcontext) {
        *context = driver.current.last().copied().unwrap_or(0) as CUcontext;
    }
    cuCtxPushCurrent_v2(driver, context: CUcontext) { driver.current.push(context as usize); }
    cuCtxPopCurrent_v2(driver, context: *mut CUcontext) {
        *context = driver.current.pop().ok_or(INVALID)? as CUcontext;
    }
    cuCtxSynchronize(driver) {
        ready(driver)?;
        let streams: Vec<(u64, u64)> =
            driver.streams.values().map(|stream| (stream.id, stream.queued)).collect();
        driver.done.extend(streams);
        let points: Vec<(u64, u64)> = driver.events.values().flatten().copied().collect();
        for (id, at) in points {
            let done = driver.done.entry(id).or_default();
            *done = at.max(*done);
        }
    }
    cuThreadExchangeStreamCaptureMode(driver, mode: *mut c_uint) {
        *mode = std::mem::replace(&mut driver.mode, *mode);
    }
    cuMemGetInfo_v2(driver, free: *mut usize, total: *mut usize) {
        ready(driver)?;
        *total = driver.room * PAGE as usize;
        *free = *total - driver.held() * PAGE as usize;
    }
    cuMemAlloc_v2(driver, address: *mut CUdeviceptr, bytes: usize) {
        ready(driver)?;
        must(bytes <= driver.room * PAGE as usize, CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        *address = 0x9_0000_0200;
        driver.plain.insert(*address, bytes as u64);
    }
    cuMemFree_v2(driver, address: CUdeviceptr) {
        must(driver.plain.remove(&address).is_some(), INVALID)?;
    }
    cuMemHostRegister_v2(driver, at: *mut c_void, bytes: usize, flags: c_uint) {
        ready(driver)?;
        must(flags == 1 && driver.registered.insert(at as usize, bytes).is_none(), INVALID)?;
    }
    cuMemHostUnregister(driver, at: *mut c_void) {
        ready(driver)?;
        must(driver.registered.remove(&(at as usize)).is_some(), INVALID)?;
    }
    cuMemGetAllocationGranularity(
        driver, bytes: *mut usize, _properties: *const CUmemAllocationProp, _which: c_uint
    ) {
        *bytes = driver.granularity;
    }
    cuMemAddressReserve(
        driver, address: *mut CUdeviceptr, bytes: usize, _alignment: usize, _at: CUdeviceptr,
        _flags: c_ulonglong
    ) {
        ready(driver)?;
        must(bytes as u64 <= 1 << 40, CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        *address = driver.next() << 41;
        driver.reserved.insert(*address, bytes as u64);
    }
    cuMemAddressFree(driver, address: CUdeviceptr, bytes: usize) {
        must(driver.reserved.get(&address) == Some(&(bytes as u64)), INVALID)?;
        must(driver.mapped.range(address..address + bytes as u64).next().is_none(), INVALID)?;
        driver.reserved.remove(&address);
    }
    cuMemCreate(
        driver, handle: *mut u64, bytes: usize, _properties: *const CUmemAllocationProp,
        _flags: c_ulonglong
    ) {
        ready(driver)?;
        must(bytes as u64 == PAGE, INVALID)?;
        must(driver.held() < driver.room, CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        *handle = driver.next();
        driver.pages.insert(*handle, Page::default());
    }
    cuMemRelease(driver, handle: u64) {
        let page = driver.pages.get_mut(&handle).ok_or(INVALID)?;
        must(!page.released, INVALID)?;
        page.released = true;
        driver.drop_unused();
    }
    cuMemMap(
        driver, address: CUdeviceptr, bytes: usize, offset: usize, handle: u64,
        _flags: c_ulonglong
    ) {
        ready(driver)?;
        must(bytes as u64 == PAGE && offset == 0 && address.is_multiple_of(PAGE), INVALID)?;
        let inside = driver.reserved.iter().any(|(&at, &all)| (at..at + all).contains(&address));
        must(inside && !driver.mapped.contains_key(&address), INVALID)?;
        let page = driver.pages.get_mut(&handle).ok_or(INVALID)?;
        must(!page.released, INVALID)?;
        page.mappings += 1;
        driver.mapped.insert(address, (handle, false));
    }
    cuMemUnmap(driver, address: CUdeviceptr, bytes: usize) {
        ready(driver)?;
        let pages = || (address..address + bytes as u64).step_by(PAGE as usize);
        must(pages().all(|at| driver.mapped.contains_key(&at)), INVALID)?;
        for at in pages() {
            let (handle, _) = driver.mapped.remove(&at).ok_or(INVALID)?;
            driver.pages.get_mut(&handle).ok_or(INVALID)?.mappings -= 1;
        }
        driver.drop_unused();
    }
    cuMemSetAccess(
        driver, address: CUdeviceptr, bytes: usize, _access: *const CUmemAccessDesc, count: usize
    ) {
        ready(driver)?;
        must(count > 0, INVALID)?;
        for at in (address..address + bytes as u64).step_by(PAGE as usize) {
            driver.mapped.get_mut(&at).ok_or(INVALID)?.1 = true;
        }
    }
    cuMemExportToShareableHandle(
        driver, shared: *mut c_int, handle: u64, _kind: c_uint, _flags: c_ulonglong
    ) {
        must(driver.pages.contains_key(&handle), INVALID)?;
        *shared = libc::dup(0);
    }
    cuMemsetD8Async(
        driver, to: CUdeviceptr, value: u8, bytes: usize, stream: CUstream
    ) {
        ready(driver)?;
        must(driver.streams.contains_key(&(stream as usize)), HANDLE)?;
        let places = driver.byte_places(to, bytes).ok_or(INVALID)?;
        places.into_iter().for_each(|place| *driver.byte(place) = value);
    }
    cuMemcpyDtoDAsync_v2(
        driver, to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream
    ) {
        ready(driver)?;
        must(driver.streams.contains_key(&(stream as usize)), HANDLE)?;
        let from = driver.byte_places(from, bytes).ok_or(INVALID)?;
        let to = driver.byte_places(to, bytes).ok_or(INVALID)?;
        from.into_iter().zip(to).for_each(|(from, to)| *driver.byte(to) = *driver.byte(from));
    }
    cuMemcpyDtoHAsync_v2(
        driver, to: *mut u8, from: CUdeviceptr, bytes: usize, stream: CUstream
    ) {
        ready(driver)?;
        must(driver.streams.contains_key(&(stream as usize)), HANDLE)?;
        let from = driver.byte_places(from, bytes).ok_or(INVALID)?;
        from.into_iter().enumerate().for_each(|(at, from)| *to.add(at) = *driver.byte(from));
    }
    cuMemcpyHtoDAsync_v2(driver, to: CUdeviceptr, from: *const u8, bytes: usize, stream: CUstream) {
        ready(driver)?;
        must(driver.streams.contains_key(&(stream as usize)), HANDLE)?;
        let to = driver.byte_places(to, bytes).ok_or(INVALID)?;
        to.into_iter().enumerate().for_each(|(at, to)| *driver.byte(to) = *from.add(at));
    }
    cuStreamCreate(driver, stream: *mut CUstream, flags: c_uint) {
        ready(driver)?;
        must(flags == 1, INVALID)?;
        let handle = driver.next() as usize;
        driver.make_stream(handle);
        *stream = handle as CUstream;
    }
    cuStreamDestroy_v2(driver, stream: CUstream) {
        ready(driver)?;
        driver.streams.remove(&(stream as usize)).ok_or(HANDLE)?;
    }
    cuStreamSynchronize(driver, stream: CUstream) { driver.finish(stream as usize); }
    cuStreamGetCtx(driver, stream: CUstream, context: *mut CUcontext) {
        ready(driver)?;
        *context = driver.streams.get(&(stream as usize)).ok_or(HANDLE)?.context as CUcontext;
    }
    cuStreamGetId(driver, stream: CUstream, id: *mut c_ulonglong) {
        ready(driver)?;
        *id = driver.streams.get(&(stream as usize)).ok_or(HANDLE)?.id;
    }
    cuStreamIsCapturing(driver, stream: CUstream, status: *mut c_uint) {
        ready(driver)?;
        *status = driver.streams.get(&(stream as usize)).ok_or(HANDLE)?.capturing.into();
    }
    cuStreamGetCaptureInfo_v2(driver, stream: CUstream, status: *mut c_uint,
        number: *mut c_ulonglong, _graph: *mut c_void, _nodes: *mut c_void, _count: *mut c_void) {
        ready(driver)?;
        let stream = driver.streams.get(&(stream as usize)).ok_or(HANDLE)?;
        (*status, *number) = (stream.capturing.into(), stream.id);
    }
    cuStreamWaitEvent(driver, stream: CUstream, event: CUevent, _flags: c_uint) {
        ready(driver)?;
        let target = driver.streams.get(&(stream as usize)).ok_or(HANDLE)?;
        must(!target.capturing, CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION)?;
        let point = driver.events[&(event as usize)].ok_or(INVALID)?;
        driver.waits.push((stream as usize, point));
    }
    cuEventCreate(driver, event: *mut CUevent, flags: c_uint) {
        ready(driver)?;
        must(flags == 2 || flags == 3, INVALID)?;
        let name = driver.next() as usize;
        driver.events.insert(name, None);
        *event = name as CUevent;
    }
    cuEventRecord(driver, event: CUevent, stream: CUstream) {
        ready(driver)?;
        let stream = driver.streams.get(&(stream as usize)).ok_or(HANDLE)?;
        must(!stream.capturing, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)?;
        let point = Some((stream.id, stream.queued));
        *driver.events.get_mut(&(event as usize)).ok_or(HANDLE)? = point;
    }
    cuEventQuery(driver, event: CUevent) {
        ready(driver)?;
        let point = driver.events[&(event as usize)].ok_or(INVALID)?;
        must(driver.is_done(point), CUresult::CUDA_ERROR_NOT_READY)?;
    }
    cuEventSynchronize(driver, event: CUevent) {
        ready(driver)?;
        let (id, at) = driver.events[&(event as usize)].ok_or(INVALID)?;
        let done = driver.done.entry(id).or_default();
        *done = at.max(*done);
    }
    cuEventDestroy_v2(driver, event: CUevent) {
        must(driver.events.remove(&(event as usize)).is_some(), HANDLE)?;
    }
}
