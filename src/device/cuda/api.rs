//! The entry points of the CUDA driver that forebay calls, looked up once.
//!
//! Types and constants are cudarc's, its calls are not: they panic where there is no driver,
//! and they return an enum for which a code of a newer driver is undefined behaviour. Names
//! are the oldest ones that do: a driver exports old names on, with the meaning they had.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUgraph, CUgraphNode,
    CUmemAccessDesc, CUmemAllocationGranularity_flags, CUmemAllocationHandleType,
    CUmemAllocationProp, CUmemGenericAllocationHandle, CUresult, CUstream,
};

use crate::error::{Error, Kind, Result, fail};
use crate::sync::Mutex;

/// A call of the driver that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The symbol.
    pub call: &'static str,
    /// What it returned: any number, for newer drivers have newer codes.
    pub code: u32,
}

impl Failure {
    /// Whether the driver gave this code.
    pub fn is(self, code: CUresult) -> bool {
        self.code == code as u32
    }
}

/// What a call of the driver comes to.
pub type Outcome<T = ()> = std::result::Result<T, Failure>;

macro_rules! driver_api {
    (
        needed {
            $($needed:ident = $needed_symbol:ident($($arg:ident: $type:ty),*) $($other:ident)?;)*
        }
        optional {
            $($optional:ident = $optional_symbol:ident($($oarg:ident: $otype:ty),*)
                $($oother:ident)?;)*
        }
    ) => {
        /// The addresses of the entry points.
        struct Table {
            $($needed: unsafe extern "C" fn($($type),*) -> c_uint,)*
            $($optional: Option<unsafe extern "C" fn($($otype),*) -> c_uint>,)*
        }

        impl Table {
            fn resolve(lookup: &dyn Fn(&CStr) -> *mut c_void) -> Result<Table> {
                let find = |name: &'static CStr| {
                    let at = lookup(name);
                    (!at.is_null()).then_some(at)
                };
                $(let $needed = find(const { symbol(concat!(stringify!($needed_symbol), "\0")) });)*
                $(let $optional = find(const { symbol(concat!(stringify!($optional_symbol), "\0")) });)*
                Ok(Table {
                    $($needed: {
                        let at = $needed.ok_or_else(|| missing(stringify!($needed_symbol)))?;
                        // SAFETY: whoever looks up vouches that the symbol is the driver's,
                        // and this is the signature that its documentation gives it.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($type),*) -> c_uint,
                            >(at)
                        }
                    },)*
                    // SAFETY: as above; no symbol is no function.
                    $($optional: $optional.map(|at| unsafe {
                        std::mem::transmute::<
                            *mut c_void,
                            unsafe extern "C" fn($($otype),*) -> c_uint,
                        >(at)
                    }),)*
                })
            }
        }

        #[allow(missing_docs, clippy::missing_safety_doc, clippy::too_many_arguments)]
        impl DriverApi {
            $(
                #[doc = concat!("`", stringify!($needed_symbol), "`. # Safety: as the driver documents it.")]
                pub unsafe fn $needed(&self, $($arg: $type),*) -> Outcome {
                    // SAFETY: the caller's promise.
                    self.call(stringify!($needed_symbol), || unsafe { (self.table.$needed)($($arg),*) })
                }
            )*
            $(
                #[doc = concat!("`", stringify!($optional_symbol), "`; where the driver does not have it, ",
                    "the code for that. # Safety: as the driver documents it.")]
                pub unsafe fn $optional(&self, $($oarg: $otype),*) -> Outcome {
                    match self.table.$optional {
                        // SAFETY: the caller's promise.
                        Some(at) => self.call(stringify!($optional_symbol), || unsafe { at($($oarg),*) }),
                        None => Err(Failure {
                            call: stringify!($optional_symbol),
                            code: CUresult::CUDA_ERROR_NOT_FOUND as u32,
                        }),
                    }
                }
            )*
        }

        #[cfg(test)]
        impl Table {
            /// The names that a driver must have, and those it may have.
            const SYMBOLS: (&[&str], &[&str]) = (
                &[$(stringify!($needed_symbol)),*],
                &[$(stringify!($optional_symbol)),*],
            );

            /// The compiler compares the signatures with cudarc's: a wrong one does not build.
            #[allow(dead_code, clippy::useless_transmute, clippy::missing_transmute_annotations)]
            fn compare() {
                $(same!($needed_symbol($($arg: $type),*) $($other)?);)*
                $(same!($optional_symbol($($oarg: $otype),*) $($oother)?);)*
            }
        }
    };
}

/// One signature beside cudarc's. `with_numbers`: cudarc has an enum where ours has a number,
/// since a newer driver may give more than the enum has.
#[cfg(test)]
macro_rules! same {
    ($name:ident($($arg:ident: $type:ty),*)) => {
        // SAFETY: never called.
        let _ = |$($arg: $type),*| unsafe { cudarc::driver::sys::$name($($arg),*) };
    };
    ($name:ident($a:ident: $at:ty, $b:ident: $bt:ty) with_numbers) => {
        // SAFETY: never called; every such enum has the size of a number.
        let _ = |$a: $at, $b: $bt| unsafe {
            const { assert!(size_of::<CUresult>() == size_of::<c_uint>()) };
            cudarc::driver::sys::$name(std::mem::transmute($a), std::mem::transmute($b))
        };
    };
    ($name:ident($a:ident: $at:ty, $b:ident: $bt:ty, $($rest:ident: $type:ty),*) with_numbers) => {
        // SAFETY: as above.
        let _ = |$a: $at, $b: $bt, $($rest: $type),*| unsafe {
            cudarc::driver::sys::$name($a, std::mem::transmute($b), $($rest),*)
        };
    };
    ($name:ident($a:ident: $at:ty) with_numbers) => {
        // SAFETY: as above.
        let _ = |$a: $at| unsafe { cudarc::driver::sys::$name(std::mem::transmute($a)) };
    };
}

driver_api! {
    needed {
        init = cuInit(flags: c_uint);
        device_count = cuDeviceGetCount(count: *mut c_int);
        device_get = cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
        device_attribute = cuDeviceGetAttribute(value: *mut c_int, attribute: CUdevice_attribute, device: CUdevice);
        device_memory = cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
        primary_retain = cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
        primary_release = cuDevicePrimaryCtxRelease_v2(device: CUdevice);
        context_current = cuCtxGetCurrent(context: *mut CUcontext);
        context_push = cuCtxPushCurrent_v2(context: CUcontext);
        context_pop = cuCtxPopCurrent_v2(context: *mut CUcontext);
        context_synchronize = cuCtxSynchronize();
        memory_info = cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
        memory_alloc = cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
        memory_free = cuMemFree_v2(address: CUdeviceptr);
        host_register = cuMemHostRegister_v2(at: *mut c_void, bytes: usize, flags: c_uint);
        host_unregister = cuMemHostUnregister(at: *mut c_void);
        set_d8_async = cuMemsetD8Async(to: CUdeviceptr, value: u8, bytes: usize, stream: CUstream);
        copy_dtod_async = cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream);
        copy_dtoh_async = cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
        copy_htod_async = cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
        stream_create = cuStreamCreate(stream: *mut CUstream, flags: c_uint);
        stream_destroy = cuStreamDestroy_v2(stream: CUstream);
        stream_synchronize = cuStreamSynchronize(stream: CUstream);
        stream_wait_event = cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint);
        stream_context = cuStreamGetCtx(stream: CUstream, context: *mut CUcontext);
        // What it answers is an enum of cudarc's, which a newer driver may extend.
        stream_is_capturing = cuStreamIsCapturing(stream: CUstream, status: *mut c_uint) with_numbers;
        stream_capture = cuStreamGetCaptureInfo_v2(stream: CUstream, status: *mut c_uint, number: *mut c_ulonglong,
             graph: *mut CUgraph, nodes: *mut *const CUgraphNode, count: *mut usize) with_numbers;
        event_create = cuEventCreate(event: *mut CUevent, flags: c_uint);
        event_record = cuEventRecord(event: CUevent, stream: CUstream);
        event_query = cuEventQuery(event: CUevent);
        event_synchronize = cuEventSynchronize(event: CUevent);
        event_destroy = cuEventDestroy_v2(event: CUevent);
        // In and out; what comes out goes back in.
        exchange_capture_mode = cuThreadExchangeStreamCaptureMode(mode: *mut c_uint) with_numbers;
    }
    optional {
        error_name = cuGetErrorName(code: c_uint, name: *mut *const c_char) with_numbers;
        error_text = cuGetErrorString(code: c_uint, text: *mut *const c_char) with_numbers;
        granularity = cuMemGetAllocationGranularity(bytes: *mut usize, properties: *const CUmemAllocationProp,
             which: CUmemAllocationGranularity_flags);
        address_reserve = cuMemAddressReserve(address: *mut CUdeviceptr, bytes: usize, alignment: usize, at: CUdeviceptr,
             flags: c_ulonglong);
        address_free = cuMemAddressFree(address: CUdeviceptr, bytes: usize);
        page_create = cuMemCreate(handle: *mut CUmemGenericAllocationHandle, bytes: usize,
             properties: *const CUmemAllocationProp, flags: c_ulonglong);
        page_release = cuMemRelease(handle: CUmemGenericAllocationHandle);
        page_map = cuMemMap(address: CUdeviceptr, bytes: usize, offset: usize,
             handle: CUmemGenericAllocationHandle, flags: c_ulonglong);
        page_unmap = cuMemUnmap(address: CUdeviceptr, bytes: usize);
        page_access = cuMemSetAccess(address: CUdeviceptr, bytes: usize, access: *const CUmemAccessDesc, count: usize);
        page_export = cuMemExportToShareableHandle(shared: *mut c_void, handle: CUmemGenericAllocationHandle,
             kind: CUmemAllocationHandleType, flags: c_ulonglong);
        page_import = cuMemImportFromShareableHandle(handle: *mut CUmemGenericAllocationHandle, shared: *mut c_void,
             kind: CUmemAllocationHandleType);
        can_access_peer = cuDeviceCanAccessPeer(answer: *mut c_int, device: CUdevice, peer: CUdevice);
        // Since 12.0: tells a stream from a later one with the same handle.
        stream_id = cuStreamGetId(stream: CUstream, id: *mut c_ulonglong);
    }
}

const fn symbol(name: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a symbol's name ends with its only NUL"),
    }
}

#[cold]
fn missing(name: &str) -> Error {
    fail!(
        Unsupported,
        "the CUDA driver has no {name}; forebay needs a driver of CUDA 11.4 or later: update it"
    )
}

/// The driver.
pub struct DriverApi {
    table: Table,
    /// The process that initialised it.
    pub(super) process: u32,
    calls: AtomicU64,
    /// The number of the first call that is refused, and the code it gets: for tests.
    refused: (AtomicU64, AtomicU64),
}

impl DriverApi {
    /// The driver of this machine, loaded by the first call that finds it.
    pub fn open() -> Result<Arc<DriverApi>> {
        static DRIVER: Mutex<Option<Arc<DriverApi>>> = Mutex::new(None);
        let opened = DRIVER.lock().clone();
        if let Some(opened) = opened {
            return Ok(opened);
        }
        // SAFETY: a library that stays loaded; NOLOAD first, so that one the program brought
        // itself is the one that is used.
        let library = unsafe {
            let name = c"libcuda.so.1".as_ptr();
            let there = libc::dlopen(name, libc::RTLD_NOW | libc::RTLD_NOLOAD);
            if there.is_null() { libc::dlopen(name, libc::RTLD_NOW) } else { there }
        };
        if library.is_null() {
            return Err(fail!(
                Unsupported,
                "the CUDA driver, libcuda.so.1, was not found: install NVIDIA's driver, or use \
                 a pool on the host"
            ));
        }
        // SAFETY: an open library and names that end with NUL.
        let api = DriverApi::resolve(&|name| unsafe { libc::dlsym(library, name.as_ptr()) })?;
        let api = Arc::new(api);
        // Two threads may come here; the first one's is everybody's.
        Ok(Arc::clone(DRIVER.lock().get_or_insert(api)))
    }

    /// The driver whose entry points `lookup` finds by name, null for none. Those that it
    /// finds must be what the driver documents under their names.
    pub fn resolve(lookup: &dyn Fn(&CStr) -> *mut c_void) -> Result<DriverApi> {
        let table = Table::resolve(lookup)?;
        let never = AtomicU64::new(u64::MAX);
        let api = DriverApi {
            table,
            process: super::context::process(),
            calls: AtomicU64::new(0),
            refused: (never, AtomicU64::new(0)),
        };
        // SAFETY: no preconditions. Once per process would do; more do no harm.
        unsafe { api.init(0) }.map_err(|failure| api.error(failure))?;
        Ok(api)
    }

    /// Every call of the driver goes through here.
    fn call(&self, call: &'static str, body: impl FnOnce() -> c_uint) -> Outcome {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let code = if number == self.refused.0.load(Ordering::Relaxed) {
            self.refused.1.load(Ordering::Relaxed) as u32
        } else {
            body()
        };
        if code == 0 { Ok(()) } else { Err(Failure { call, code }) }
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// For tests: of the calls from now on, number `n` (0 is the next) is not made and
    /// answers `code`.
    pub fn refuse(&self, n: u64, code: u32) {
        self.refused.1.store(code.into(), Ordering::Relaxed);
        self.refused.0.store(self.calls().saturating_add(n), Ordering::Relaxed);
    }

    /// Whether the driver knows virtual memory management.
    pub fn has_pages(&self) -> bool {
        let table = &self.table;
        table.granularity.is_some()
            && table.address_reserve.is_some()
            && table.address_free.is_some()
            && table.page_create.is_some()
            && table.page_release.is_some()
            && table.page_map.is_some()
            && table.page_unmap.is_some()
            && table.page_access.is_some()
    }

    /// Whether the driver tells streams apart that had the same handle.
    pub fn has_stream_ids(&self) -> bool {
        self.table.stream_id.is_some()
    }

    /// The error for a call that failed, in the driver's words.
    #[cold]
    pub fn error(&self, failure: Failure) -> Error {
        let text = |of: Option<unsafe extern "C" fn(c_uint, *mut *const c_char) -> c_uint>| {
            let mut text = std::ptr::null();
            // SAFETY: a place for the answer, which is a string that lives on or nothing.
            let known = of.is_some_and(|of| unsafe { of(failure.code, &mut text) } == 0);
            if !known || text.is_null() {
                return "unknown";
            }
            // SAFETY: as above.
            unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("unknown")
        };
        let (name, meaning) = (text(self.table.error_name), text(self.table.error_text));
        let kind = if failure.is(CUresult::CUDA_ERROR_OUT_OF_MEMORY) {
            Kind::OutOfMemory
        } else if failure.is(CUresult::CUDA_ERROR_NO_DEVICE)
            || failure.is(CUresult::CUDA_ERROR_NOT_SUPPORTED)
            || failure.is(CUresult::CUDA_ERROR_NOT_FOUND)
        {
            Kind::Unsupported
        } else {
            Kind::InvalidState
        };
        let Failure { call, code } = failure;
        Error::new(kind, format_args!("{call} failed with {code}, {name}: {meaning}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    extern "C" fn answers() -> c_uint {
        0
    }

    fn without(name: &'static str) -> Result<DriverApi> {
        DriverApi::resolve(&|symbol| {
            let there = symbol.to_str() != Ok(name);
            if there { answers as *mut c_void } else { std::ptr::null_mut() }
        })
    }

    #[test]
    fn a_missing_symbol_is_named() {
        let (needed, optional) = Table::SYMBOLS;
        for name in needed {
            let error = without(name).err().unwrap();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.message().contains(name), "{error}");
        }
        for name in optional {
            assert!(without(name).is_ok(), "{name}");
        }
        assert!(!without("cuMemMap").unwrap().has_pages());
        assert!(without("cuStreamGetId").unwrap().has_pages());
        assert!(!without("cuStreamGetId").unwrap().has_stream_ids());
    }

    #[test]
    fn what_the_driver_lacks_is_a_failure_and_not_a_call() {
        let api = without("cuMemRelease").unwrap();
        let before = api.calls();
        // SAFETY: the function does not exist.
        let failure = unsafe { api.page_release(1) }.unwrap_err();
        assert!(failure.is(CUresult::CUDA_ERROR_NOT_FOUND));
        assert_eq!(api.calls(), before);
    }

    #[test]
    fn a_call_is_refused_when_a_test_says_so() {
        let api = without("").unwrap();
        assert_eq!(api.calls(), 1, "cuInit");
        api.refuse(1, 9999);
        // SAFETY: the stand-in does nothing.
        unsafe {
            assert_eq!(api.page_release(1), Ok(()));
            let failure = api.page_release(1).unwrap_err();
            assert_eq!(failure, Failure { call: "cuMemRelease", code: 9999 });
            let message = api.error(failure).message();
            assert_eq!(message, "cuMemRelease failed with 9999, unknown: unknown");
            assert_eq!(api.page_release(1), Ok(()));
        }
        assert_eq!(api.calls(), 4);
    }
}
