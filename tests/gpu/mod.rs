//! A GPU as the tests use it: the simulated driver, or with `FOREBAY_TEST_GPU=1` that of the
//! machine. Everything that a test does on a device goes through the driver's own functions, so
//! that the same test runs on both; what only a simulation can tell is in [`Gpu::finish`].

// Every test file has its own copy of this module and uses a part of it.
#![allow(dead_code, unused_imports, clippy::unwrap_used)]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay::device::cuda::DriverApi;
use forebay::device::{Cuda, CudaOptions};
use forebay::error::Result;
use forebay::order::Stream;
use forebay::pool::{Config, Pool};

pub const MIB: usize = 1 << 20;
pub const PAGE: u64 = 2 << 20;

/// Tests on a real device take turns, as those on the simulated one do.
static TURN: Mutex<()> = Mutex::new(());

/// Keeps the driver for one test.
enum Turn {
    Simulated { _guard: sim_cuda::Guard },
    Real { _guard: MutexGuard<'static, ()> },
}

/// A machine with GPUs, for one test.
pub struct Gpu {
    turn: Turn,
    pub api: Arc<DriverApi>,
    lookup: fn(&CStr) -> *mut c_void,
    /// Streams that a real device holds back, and what lets them go.
    held: Mutex<HashMap<u64, Arc<AtomicBool>>>,
    scratch: Mutex<HashMap<u64, u64>>,
}

fn in_library(name: &CStr) -> *mut c_void {
    // SAFETY: opens a library that stays open, and looks a name up in it.
    unsafe {
        let library = libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW);
        assert!(!library.is_null(), "FOREBAY_TEST_GPU is set, but there is no libcuda.so.1");
        libc::dlsym(library, name.as_ptr())
    }
}

/// Whether the tests run on the machine's GPU.
pub fn is_real() -> bool {
    std::env::var_os("FOREBAY_TEST_GPU").is_some_and(|value| value == "1")
}

/// Calls a function of the driver, with arguments of these types; gives its code.
macro_rules! cu {
    ($gpu:expr, $name:ident($($arg:expr => $type:ty),* $(,)?)) => {{
        let at = $gpu.entry(stringify!($name));
        // SAFETY: the types are those that the driver documents.
        unsafe {
            let call = std::mem::transmute::<
                *mut std::ffi::c_void,
                unsafe extern "C" fn($($type),*) -> u32,
            >(at);
            call($($arg),*)
        }
    }};
}
#[allow(unused_imports)]
pub(crate) use cu;

impl Gpu {
    /// A GPU as most tests want it.
    pub fn new() -> Gpu {
        Gpu::with(sim_cuda::Config::default())
    }

    /// As [`Gpu::new`]; a simulated one as `config` says.
    pub fn with(config: sim_cuda::Config) -> Gpu {
        let (turn, lookup): (Turn, fn(&CStr) -> *mut c_void) = if is_real() {
            let guard = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            (Turn::Real { _guard: guard }, in_library)
        } else {
            (Turn::Simulated { _guard: sim_cuda::exclusive(config) }, |name| sim_cuda::lookup(name))
        };
        let api = Arc::new(DriverApi::resolve(&lookup).unwrap());
        let (held, scratch) = (Mutex::default(), Mutex::default());
        let gpu = Gpu { turn, api, lookup, held, scratch };
        gpu.enter(0);
        gpu
    }

    pub fn is_simulated(&self) -> bool {
        matches!(self.turn, Turn::Simulated { .. })
    }

    pub fn entry(&self, name: &str) -> *mut c_void {
        let at = (self.lookup)(&CString::new(name).unwrap());
        assert!(!at.is_null(), "{name}");
        at
    }

    /// Makes a device's primary context current.
    pub fn enter(&self, device: i32) {
        let mut context = 0u64;
        assert_eq!(cu!(self, cuDevicePrimaryCtxRetain(&mut context => *mut u64, device => i32)), 0);
        assert_eq!(cu!(self, cuCtxSetCurrent(context => u64)), 0);
    }

    pub fn pool(&self, config: &Config) -> Arc<Pool> {
        self.try_pool(config, 0).unwrap()
    }

    pub fn try_pool(&self, config: &Config, ordinal: u32) -> Result<Arc<Pool>> {
        let options = CudaOptions { ordinal, ..CudaOptions::default() };
        Pool::on_device(config, Cuda::with_driver(&self.api, &options)?)
    }

    /// A pool of at most so many bytes.
    pub fn pool_of(&self, bytes: u64) -> Arc<Pool> {
        self.pool(&Config { max_bytes: bytes, ..Config::default() })
    }

    /// A stream that is not in order with the default one.
    pub fn stream(&self) -> Stream {
        let mut stream = 0u64;
        assert_eq!(cu!(self, cuStreamCreate(&mut stream => *mut u64, 1 => u32)), 0);
        Stream(stream)
    }

    pub fn destroy(&self, stream: Stream) {
        assert_eq!(cu!(self, cuStreamDestroy_v2(stream.0 => u64)), 0);
    }

    pub fn event(&self) -> u64 {
        let mut event = 0u64;
        assert_eq!(cu!(self, cuEventCreate(&mut event => *mut u64, 2 => u32)), 0);
        event
    }

    /// Makes `later` wait for what is queued on `earlier`.
    pub fn order(&self, earlier: Stream, later: Stream) {
        let event = self.event();
        assert_eq!(cu!(self, cuEventRecord(event => u64, earlier.0 => u64)), 0);
        assert_eq!(cu!(self, cuStreamWaitEvent(later.0 => u64, event => u64, 0 => u32)), 0);
        assert_eq!(cu!(self, cuEventDestroy_v2(event => u64)), 0);
    }

    /// Work on `stream` that sets these bytes.
    pub fn write(&self, stream: Stream, at: usize, bytes: usize, value: u8) {
        let code = cu!(self, cuMemsetD8Async(
            at as u64 => u64, value => u8, bytes => usize, stream.0 => u64));
        assert_eq!(code, 0);
    }

    /// Work on `stream` that reads these bytes.
    pub fn read(&self, stream: Stream, at: usize, bytes: usize) {
        let bytes = bytes.min(MIB);
        let scratch = *self.scratch.lock().unwrap().entry(stream.0).or_insert_with(|| {
            let mut scratch = 0u64;
            assert_eq!(cu!(self, cuMemAlloc_v2(&mut scratch => *mut u64, MIB => usize)), 0);
            scratch
        });
        let code = cu!(self, cuMemcpyDtoDAsync_v2(
            scratch => u64, at as u64 => u64, bytes => usize, stream.0 => u64));
        assert_eq!(code, 0);
    }

    /// Gives back what [`Gpu::read`] reads into.
    pub fn end_of_scratch(&self) {
        self.synchronize_all();
        for (_, scratch) in self.scratch.lock().unwrap().drain() {
            assert_eq!(cu!(self, cuMemFree_v2(scratch => u64)), 0);
        }
    }

    /// Waits for `stream`.
    pub fn synchronize(&self, stream: Stream) {
        assert_eq!(cu!(self, cuStreamSynchronize(stream.0 => u64)), 0);
    }

    /// Waits for everything.
    pub fn synchronize_all(&self) {
        assert_eq!(cu!(self, cuCtxSynchronize()), 0);
    }

    /// What is in these bytes once `stream` is done.
    pub fn contents(&self, stream: Stream, at: usize, bytes: usize) -> Vec<u8> {
        let mut contents = vec![0u8; bytes];
        let code = cu!(self, cuMemcpyDtoHAsync_v2(
            contents.as_mut_ptr() => *mut u8, at as u64 => u64, bytes => usize, stream.0 => u64));
        assert_eq!(code, 0);
        self.synchronize(stream);
        contents
    }

    /// Whether all these bytes are `value` once `stream` is done.
    pub fn is_all(&self, stream: Stream, at: usize, bytes: usize, value: u8) -> bool {
        self.contents(stream, at, bytes).iter().all(|&byte| byte == value)
    }

    /// What is queued on `stream` from now on does not run before [`Gpu::let_go`].
    pub fn hold(&self, stream: Stream) {
        if self.is_simulated() {
            assert_eq!(sim_cuda::hold(stream.0), 0);
            return;
        }
        extern "C" fn block(open: *mut c_void) {
            // SAFETY: made by `Arc::into_raw` below, for this one call.
            let open = unsafe { Arc::from_raw(open as *const AtomicBool) };
            while !open.load(Ordering::Acquire) {
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        }
        let open = Arc::new(AtomicBool::new(false));
        let user = Arc::into_raw(Arc::clone(&open)) as u64;
        let code = cu!(self, cuLaunchHostFunc(
            stream.0 => u64, block as *const () as u64 => u64, user => u64));
        assert_eq!(code, 0);
        self.held.lock().unwrap().insert(stream.0, open);
    }

    pub fn let_go(&self, stream: Stream) {
        if self.is_simulated() {
            assert_eq!(sim_cuda::release(stream.0), 0);
        } else if let Some(open) = self.held.lock().unwrap().remove(&stream.0) {
            open.store(true, Ordering::Release);
        }
    }

    /// Calls of the driver that the library made in `body`.
    pub fn calls(&self, body: impl FnOnce()) -> u64 {
        let before = self.api.calls();
        body();
        self.api.calls() - before
    }

    /// The end of a test: everything runs, and a simulation found nothing wrong.
    pub fn finish(&self) {
        for open in self.held.lock().unwrap().values() {
            open.store(true, Ordering::Release);
        }
        if self.is_simulated() {
            sim_cuda::run_all();
            let hazards = sim_cuda::take_hazards();
            assert!(hazards.is_empty(), "{}", hazards[0]);
        } else {
            self.synchronize_all();
        }
    }
}
