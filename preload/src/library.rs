//! `libforebay.so.0`: the one the program has loaded, or the one beside this library, or the one
//! the loader finds.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::Write;
use core::ptr::null_mut;
use std::sync::OnceLock;

use crate::say::{Line, say};

/// Its name for the loader.
const NAME: &CStr = c"libforebay.so.0";

/// A pool of the library's, which only it looks into.
#[repr(C)]
pub struct RawPool {
    _private: [u8; 0],
}

/// `FOREBAY_OK`.
pub const OK: i32 = 0;
/// `FOREBAY_ERROR_INVALID_POINTER`.
pub const INVALID_POINTER: i32 = 3;

/// `forebay_pool_config`.
#[repr(C)]
#[derive(Default)]
pub struct Config {
    /// Bytes of this.
    pub struct_size: usize,
    /// 0 for system memory, 1 for a GPU.
    pub device_kind: i32,
    /// Which GPU.
    pub device_index: i32,
    /// Most bytes mapped; 0 for all there are.
    pub max_bytes: u64,
    /// Bytes mapped at creation.
    pub initial_bytes: u64,
    /// Zero.
    pub block_size: u64,
    /// A `forebay_policy`.
    pub policy: i32,
    /// Zero.
    pub reserved: u32,
    /// Zero.
    pub flags: u64,
}

/// `forebay_pool_statistics`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
#[allow(missing_docs)] // The header says what they are.
pub struct Statistics {
    pub struct_size: usize,
    pub requested_bytes: u64,
    pub requested_peak: u64,
    pub requested_total: u64,
    pub allocated_bytes: u64,
    pub allocated_peak: u64,
    pub allocated_total: u64,
    pub reserved_bytes: u64,
    pub reserved_peak: u64,
    pub reserved_total: u64,
    pub allocations: u64,
    pub frees: u64,
    pub hits: u64,
    pub misses: u64,
    pub failed: u64,
    pub invalid_frees: u64,
    pub system_calls: u64,
    pub trims: u64,
    pub limit_bytes: u64,
    pub live_blocks: u64,
}

/// `forebay_alloc_miss_fn`.
pub type AllocMiss = unsafe extern "C" fn(usize, i32) -> *mut c_void;
/// `forebay_free_miss_fn`.
pub type FreeMiss = unsafe extern "C" fn(*mut c_void, i32) -> i32;

/// The entry points, with the types of `forebay.h`. A stream is a number here.
macro_rules! library {
    ($($field:ident: $name:literal, fn($($type:ty),*) -> $result:ty;)*) => {
        /// The library's functions.
        #[allow(missing_docs)] // The header says what they do.
        pub struct Library {
            $(pub $field: unsafe extern "C" fn($($type),*) -> $result,)*
        }

        impl Library {
            /// The entry points of `handle`, or the name of the first that it lacks.
            fn of(handle: *mut c_void) -> Result<Library, &'static CStr> {
                Ok(Library {
                    $($field: {
                        // SAFETY: a library that is loaded, and a name that ends with a NUL.
                        let found = unsafe { libc::dlsym(handle, $name.as_ptr()) };
                        if found.is_null() {
                            return Err($name);
                        }
                        // SAFETY: the function of this name is declared to have this type.
                        unsafe {
                            core::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($type),*) -> $result,
                            >(found)
                        }
                    },)*
                })
            }
        }
    };
}

library! {
    last_error: c"forebay_last_error", fn() -> *const c_char;
    pool_create: c"forebay_pool_create", fn(*const Config, *mut *mut RawPool) -> i32;
    pool_set_decay: c"forebay_pool_set_decay", fn(*mut RawPool, u64) -> i32;
    pool_addresses: c"forebay_pool_addresses", fn(*mut RawPool, *mut usize, *mut usize) -> i32;
    pool_stats: c"forebay_pool_stats", fn(*mut RawPool, *mut Statistics) -> i32;
    alloc: c"forebay_alloc", fn(*mut RawPool, usize, usize, *mut *mut c_void) -> i32;
    alloc_aligned: c"forebay_alloc_aligned",
        fn(*mut RawPool, usize, usize, usize, *mut *mut c_void) -> i32;
    alloc_at_hand: c"forebay_alloc_at_hand",
        fn(*mut RawPool, usize, AllocMiss) -> *mut c_void;
    free: c"forebay_free", fn(*mut RawPool, *mut c_void, usize) -> i32;
    free_at_hand: c"forebay_free_at_hand", fn(*mut RawPool, *mut c_void, FreeMiss) -> i32;
    realloc: c"forebay_realloc",
        fn(*mut RawPool, *mut c_void, usize, usize, *mut *mut c_void) -> i32;
    usable_size: c"forebay_usable_size", fn(*mut RawPool, *const c_void, *mut usize) -> i32;
    trace_start: c"forebay_trace_start", fn(*mut RawPool, *const c_char) -> i32;
    trace_stop: c"forebay_trace_stop", fn(*mut RawPool) -> i32;
}

static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();

/// The library, found and loaded with the first call. Not to be called from the middle of an
/// allocation: the loader allocates, and has a lock.
pub fn library() -> Option<&'static Library> {
    LIBRARY.get_or_init(Library::load).as_ref()
}

impl Library {
    /// What it said of the last error of this thread.
    pub fn why(&self) -> &str {
        // SAFETY: a string that ends with a NUL and stays until the next call that fails.
        let text = unsafe { CStr::from_ptr((self.last_error)()) };
        text.to_str().unwrap_or("unknown")
    }

    fn load() -> Option<Library> {
        let handle = open()?;
        match Library::of(handle) {
            Ok(library) => Some(library),
            Err(name) => {
                let name = name.to_str().unwrap_or("");
                say!("libforebay.so.0 is too old: it has no {name}; nothing is pooled");
                None
            }
        }
    }
}

fn open() -> Option<*mut c_void> {
    let open = |name: &CStr, how: c_int| {
        // SAFETY: a name that ends with a NUL.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | how) };
        (!handle.is_null()).then_some(handle)
    };
    // One core in a process: the program's own, if it has one.
    let found = open(NAME, libc::RTLD_NOLOAD)
        .or_else(|| {
            let mut path = Line::new();
            beside_us(&mut path)?;
            open(CStr::from_bytes_until_nul(path.as_bytes()).ok()?, 0)
        })
        .or_else(|| open(NAME, 0));
    if found.is_none() {
        // SAFETY: the thread's message, there because a call has failed.
        let why = unsafe { libc::dlerror() };
        let why = match why.is_null() {
            true => "",
            // SAFETY: a string that ends with a NUL.
            false => unsafe { CStr::from_ptr(why) }.to_str().unwrap_or(""),
        };
        say!("no libforebay.so.0, beside this library or elsewhere ({why}); nothing is pooled");
    }
    found
}

/// The path of the library that lies beside this one, with a NUL behind it.
fn beside_us(path: &mut Line) -> Option<()> {
    // SAFETY: zeros are a value of it.
    let mut about: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: an address of ours, and a place for the answer.
    let known = unsafe { libc::dladdr((&raw const HERE).cast(), &mut about) } != 0;
    if !known || about.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's string, which ends with a NUL.
    let own = unsafe { CStr::from_ptr(about.dli_fname) }.to_str().ok()?;
    let folder = own.rsplit_once('/')?.0;
    write!(path, "{folder}/libforebay.so.0\0").ok()?;
    // Cut off where it is too long.
    path.as_bytes().ends_with(b"\0").then_some(())
}

static HERE: u8 = 0;

/// The addresses of the library's own code: the first, and how many bytes. Who calls from there is
/// the library itself.
pub fn extent_of(library: &Library) -> (usize, usize) {
    struct Search {
        inside: usize,
        found: (usize, usize),
    }

    unsafe extern "C" fn look(
        object: *mut libc::dl_phdr_info,
        _size: usize,
        search: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader's, for as long as this call takes, and what was given to it below.
        let (object, search) = unsafe { (&*object, &mut *search.cast::<Search>()) };
        for at in 0..usize::from(object.dlpi_phnum) {
            // SAFETY: one of as many as there are.
            let part = unsafe { &*object.dlpi_phdr.add(at) };
            let start = (object.dlpi_addr as usize).wrapping_add(part.p_vaddr as usize);
            let bytes = part.p_memsz as usize;
            if part.p_type == libc::PT_LOAD && search.inside.wrapping_sub(start) < bytes {
                search.found = (start, bytes);
                return 1;
            }
        }
        0
    }

    let mut search = Search { inside: library.alloc as usize, found: (0, 0) };
    // SAFETY: a function that only reads what it is given, and its argument.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    search.found
}

impl Config {
    /// All defaults.
    pub fn new() -> Config {
        Config { struct_size: size_of::<Config>(), ..Config::default() }
    }
}

impl Statistics {
    /// Those of a pool; zeros when it does not say.
    pub fn of(library: &Library, pool: *mut RawPool) -> Statistics {
        let mut numbers = Statistics { struct_size: size_of::<Statistics>(), ..Default::default() };
        // SAFETY: a pool of the library's, or NULL, and a place with its size set.
        unsafe { (library.pool_stats)(pool, &mut numbers) };
        numbers
    }
}

/// No stream: the calling thread on the host, the default stream on a GPU.
pub const NO_STREAM: usize = 0;

/// No pool.
pub const NO_POOL: *mut RawPool = null_mut();
