//! CUDA's runtime and its driver, which allocate by functions that look alike: found among what the
//! process has loaded.

use core::ffi::{CStr, c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

/// What a function of either answers; the two share their numbers where it matters here.
pub type Code = u32;

/// Success.
pub const SUCCESS: Code = 0;
/// `cudaErrorInvalidValue`, `CUDA_ERROR_INVALID_VALUE`.
pub const INVALID_VALUE: Code = 1;
/// `cudaErrorInitializationError`, `CUDA_ERROR_NOT_INITIALIZED`.
pub const NOT_INITIALIZED: Code = 3;

/// A function that is looked up when it is first wanted.
struct Function {
    name: &'static CStr,
    at: AtomicPtr<c_void>,
}

impl Function {
    const fn new(name: &'static CStr) -> Function {
        Function { name, at: AtomicPtr::new(null_mut()) }
    }

    /// Where it is: behind us in the loader's order, or in the library `file`, which a program may
    /// have loaded for itself. NULL when it is nowhere.
    fn find(&self, file: &'static [u8]) -> *mut c_void {
        let known = self.at.load(Ordering::Acquire);
        if !known.is_null() {
            return known;
        }
        // SAFETY: a name that ends with a NUL.
        let mut found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        if found.is_null()
            && let Some(library) = loaded(file)
        {
            // SAFETY: a library that stays loaded, and a name that ends with a NUL.
            found = unsafe { libc::dlsym(library, self.name.as_ptr()) };
        }
        self.at.store(found, Ordering::Release);
        found
    }
}

/// The library whose file has a name that begins with `file`, if the process has loaded it.
pub fn loaded(file: &'static [u8]) -> Option<*mut c_void> {
    struct Search {
        file: &'static [u8],
        found: *mut c_void,
    }

    unsafe extern "C" fn look(
        object: *mut libc::dl_phdr_info,
        _size: usize,
        search: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader's, for as long as this call takes, and what was given to it below.
        let (object, search) = unsafe { (&*object, &mut *search.cast::<Search>()) };
        if object.dlpi_name.is_null() {
            return 0;
        }
        // SAFETY: the loader's string, which ends with a NUL.
        let path = unsafe { CStr::from_ptr(object.dlpi_name) }.to_bytes();
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        if !name.starts_with(search.file) {
            return 0;
        }
        let how = libc::RTLD_NOW | libc::RTLD_NOLOAD;
        // SAFETY: as above. It is loaded, so this only counts.
        search.found = unsafe { libc::dlopen(object.dlpi_name, how) };
        c_int::from(!search.found.is_null())
    }

    let mut search = Search { file, found: null_mut() };
    // SAFETY: a function that reads what it is given, and its argument.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    (!search.found.is_null()).then_some(search.found)
}

/// The functions of one of the two.
pub struct Family {
    /// How its file's name begins.
    pub file: &'static [u8],
    alloc: Function,
    free: Function,
    alloc_async: Function,
    free_async: Function,
    mem_info: Function,
    device: Function,
    synchronize: Function,
    stream_synchronize: Function,
    /// What makes another device the thread's: of the runtime.
    set_device: Function,
    /// And of the driver.
    retain: Function,
    push: Function,
    pop: Function,
}

/// The runtime.
pub static RUNTIME: Family = Family {
    file: b"libcudart.so",
    alloc: Function::new(c"cudaMalloc"),
    free: Function::new(c"cudaFree"),
    alloc_async: Function::new(c"cudaMallocAsync"),
    free_async: Function::new(c"cudaFreeAsync"),
    mem_info: Function::new(c"cudaMemGetInfo"),
    device: Function::new(c"cudaGetDevice"),
    synchronize: Function::new(c"cudaDeviceSynchronize"),
    stream_synchronize: Function::new(c"cudaStreamSynchronize"),
    set_device: Function::new(c"cudaSetDevice"),
    retain: Function::new(c""),
    push: Function::new(c""),
    pop: Function::new(c""),
};

/// The driver.
pub static DRIVER: Family = Family {
    file: b"libcuda.so",
    alloc: Function::new(c"cuMemAlloc_v2"),
    free: Function::new(c"cuMemFree_v2"),
    alloc_async: Function::new(c"cuMemAllocAsync"),
    free_async: Function::new(c"cuMemFreeAsync"),
    mem_info: Function::new(c"cuMemGetInfo_v2"),
    device: Function::new(c"cuCtxGetDevice"),
    synchronize: Function::new(c"cuCtxSynchronize"),
    stream_synchronize: Function::new(c"cuStreamSynchronize"),
    set_device: Function::new(c""),
    retain: Function::new(c"cuDevicePrimaryCtxRetain"),
    push: Function::new(c"cuCtxPushCurrent_v2"),
    pop: Function::new(c"cuCtxPopCurrent_v2"),
};

/// Calls a function of a family with arguments of these types; gives its code, or that nothing is
/// initialised where it is not found.
macro_rules! call {
    ($family:expr, $function:ident, $($argument:expr => $type:ty),*) => {{
        let at = $family.$function.find($family.file);
        // SAFETY: NULL, or the function of this name, which is documented to have this type.
        let function = unsafe {
            core::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn($($type),*) -> Code>>(at)
        };
        match function {
            // SAFETY: the arguments are the program's own, or places of the caller's frame.
            Some(function) => unsafe { function($($argument),*) },
            None => NOT_INITIALIZED,
        }
    }};
}

impl Family {
    /// Whether it is loaded as a shared library.
    pub fn is_there(&self) -> bool {
        !self.alloc.find(self.file).is_null()
    }

    /// `cudaMalloc`.
    pub fn alloc(&self, out: *mut u64, size: usize) -> Code {
        call!(self, alloc, out => *mut u64, size => usize)
    }

    /// `cudaFree`.
    pub fn free(&self, address: u64) -> Code {
        call!(self, free, address => u64)
    }

    /// `cudaMallocAsync`.
    pub fn alloc_async(&self, out: *mut u64, size: usize, stream: usize) -> Code {
        call!(self, alloc_async, out => *mut u64, size => usize, stream => usize)
    }

    /// `cudaFreeAsync`.
    pub fn free_async(&self, address: u64, stream: usize) -> Code {
        call!(self, free_async, address => u64, stream => usize)
    }

    /// `cudaMemGetInfo`.
    pub fn mem_info(&self, free: *mut usize, total: *mut usize) -> Code {
        call!(self, mem_info, free => *mut usize, total => *mut usize)
    }

    /// The number of the thread's device.
    pub fn device(&self) -> Option<i32> {
        let mut device = -1;
        (call!(self, device, &mut device => *mut i32) == SUCCESS).then_some(device)
    }

    /// Waits for everything that was queued on the streams of `device`.
    pub fn wait_for_device(&self, device: i32) -> Code {
        match self.device() {
            Some(current) if current == device => call!(self, synchronize,),
            current if self.file == RUNTIME.file => {
                let chosen = call!(self, set_device, device => i32);
                if chosen != SUCCESS {
                    return chosen;
                }
                let code = call!(self, synchronize,);
                if let Some(current) = current {
                    call!(self, set_device, current => i32);
                }
                code
            }
            _ => {
                let (mut context, mut popped) = (null_mut(), null_mut());
                let mut code = call!(
                    self, retain, &mut context => *mut *mut c_void, device => i32
                );
                if code == SUCCESS {
                    code = call!(self, push, context => *mut c_void);
                }
                if code == SUCCESS {
                    code = call!(self, synchronize,);
                    call!(self, pop, &mut popped => *mut *mut c_void);
                }
                code
            }
        }
    }

    /// Waits for everything that was queued on `stream`.
    pub fn wait_for_stream(&self, stream: usize) -> Code {
        call!(self, stream_synchronize, stream => usize)
    }
}
