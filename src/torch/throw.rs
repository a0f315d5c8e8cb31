//! PyTorch's exceptions, thrown from Rust.
//!
//! PyTorch turns a C++ exception of type `c10::OutOfMemoryError` into `torch.OutOfMemoryError`,
//! any other `c10::Error` into `RuntimeError`. Both live in PyTorch's own libraries, which this
//! one is not linked with: their symbols are looked up in what the process has loaded, when the
//! first exception is thrown. An exception is made as compilers make it (the Itanium C++ ABI,
//! chapter 2: `__cxa_allocate_exception`, the constructor, `__cxa_throw`), with the constructor
//! of the base class and then the table of the class itself, because the constructor of
//! `OutOfMemoryError` is inline in some versions and not in others.
//!
//! Where a symbol is missing `std::bad_alloc` is thrown, a RuntimeError without a message of
//! its own; where there is no C++ at all the caller is no PyTorch, and gets NULL.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

/// What is thrown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// `c10::OutOfMemoryError`.
    OutOfMemory,
    /// `c10::Error`.
    Error,
}

/// `c10::SourceLocation`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SourceLocation {
    function: *const c_char,
    file: *const c_char,
    line: u32,
}

/// `std::string`, as libstdc++ has laid it out since GCC 5.
#[repr(C)]
struct NewString {
    data: *mut u8,
    length: usize,
    capacity_or_short: [usize; 2],
}

/// `std::string` before that, which PyTorch's wheels had to 2.6: one pointer.
type OldString = *mut c_void;

type Constructor<S> = unsafe extern "C-unwind" fn(*mut c_void, SourceLocation, *mut S);
type Destructor = unsafe extern "C-unwind" fn(*mut c_void);
type Allocate = unsafe extern "C" fn(usize) -> *mut c_void;
type Throw = unsafe extern "C-unwind" fn(*mut c_void, *mut c_void, Option<Destructor>) -> !;

/// How PyTorch's libraries want a string.
#[derive(Clone, Copy)]
enum Strings {
    New {
        constructor: Constructor<NewString>,
        allocate: Allocate,
        free: unsafe extern "C" fn(*mut c_void),
    },
    Old {
        constructor: Constructor<OldString>,
        string: unsafe extern "C-unwind" fn(*mut OldString, *const c_char, *const c_void),
        drop: unsafe extern "C-unwind" fn(*mut OldString),
    },
}

/// The C++ of the process.
#[derive(Clone, Copy)]
struct Cxx {
    allocate: Allocate,
    throw: Throw,
    bad_alloc: Class,
}

/// A class: its type and the first function of its table.
#[derive(Clone, Copy)]
struct Class {
    type_info: *mut c_void,
    table: *const *const c_void,
}

impl Class {
    /// Its destructor, the first function of its table.
    fn destructor(self) -> Option<Destructor> {
        // SAFETY: a table of C++, whose first functions are destructors; all classes here have
        // virtual ones.
        unsafe { std::mem::transmute::<*const c_void, Option<Destructor>>(*self.table) }
    }
}

/// PyTorch's classes.
#[derive(Clone, Copy)]
struct Torch {
    strings: Strings,
    out_of_memory: Class,
    error: Class,
}

// SAFETY: pointers into libraries that are never unloaded, which nobody writes through.
unsafe impl Send for Cxx {}
// SAFETY: as above.
unsafe impl Sync for Cxx {}
// SAFETY: as above.
unsafe impl Send for Torch {}
// SAFETY: as above.
unsafe impl Sync for Torch {}

/// Libraries that are loaded already, by name.
struct Loaded(Vec<*mut c_void>);

impl Loaded {
    fn of(names: &[&CStr]) -> Loaded {
        // SAFETY: names that end with a NUL. Nothing is loaded that was not before.
        let open = |name: &&CStr| unsafe {
            libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD)
        };
        Loaded(names.iter().map(open).filter(|handle| !handle.is_null()).collect())
    }

    fn find(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: a library that is loaded, and a name that ends with a NUL.
        let look = |&handle: &*mut c_void| unsafe { libc::dlsym(handle, name.as_ptr()) };
        self.0.iter().map(look).find(|found| !found.is_null())
    }

    fn class(&self, type_info: &CStr, table: &CStr) -> Option<Class> {
        let type_info = self.find(type_info)?;
        // A table begins with two words that are not functions.
        let table = self.find(table)?.cast::<*const c_void>().wrapping_add(2);
        Some(Class { type_info, table })
    }
}

/// A function by its address.
///
/// # Safety
/// `F` is a type of function pointers, and `address` is that of such a function.
unsafe fn function<F: Copy>(address: *mut c_void) -> F {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: the caller's promise.
    unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) }
}

/// What is found once is kept; what is not there yet may be loaded later.
fn kept<T: Copy>(place: &OnceLock<T>, look: impl FnOnce() -> Option<T>) -> Option<T> {
    if let Some(found) = place.get() {
        return Some(*found);
    }
    let found = look()?;
    Some(*place.get_or_init(|| found))
}

fn cxx() -> Option<Cxx> {
    static CXX: OnceLock<Cxx> = OnceLock::new();
    kept(&CXX, || {
        let library = Loaded::of(&[c"libstdc++.so.6"]);
        // SAFETY: the functions of these names have these types, by the ABI of C++.
        let (allocate, throw) = unsafe {
            let allocate: Allocate = function(library.find(c"__cxa_allocate_exception")?);
            let throw: Throw = function(library.find(c"__cxa_throw")?);
            (allocate, throw)
        };
        let bad_alloc = library.class(c"_ZTISt9bad_alloc", c"_ZTVSt9bad_alloc")?;
        Some(Cxx { allocate, throw, bad_alloc })
    })
}

fn torch() -> Option<Torch> {
    static TORCH: OnceLock<Torch> = OnceLock::new();
    kept(&TORCH, || {
        let libraries = Loaded::of(&[c"libc10.so", c"libc10_cuda.so", c"libtorch_python.so"]);
        let standard = Loaded::of(&[c"libstdc++.so.6"]);
        let strings = strings(&libraries, &standard)?;
        let error = libraries.class(c"_ZTIN3c105ErrorE", c"_ZTVN3c105ErrorE")?;
        let out_of_memory =
            libraries.class(c"_ZTIN3c1016OutOfMemoryErrorE", c"_ZTVN3c1016OutOfMemoryErrorE")?;
        Some(Torch { strings, out_of_memory, error })
    })
}

fn strings(libraries: &Loaded, standard: &Loaded) -> Option<Strings> {
    let new = libraries.find(
        c"_ZN3c105ErrorC2ENS_14SourceLocationENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
    );
    // SAFETY: as above; the constructors are c10::Error(SourceLocation, std::string), with the
    // string of the one layout or the other, as their mangled names say.
    unsafe {
        if let Some(new) = new {
            let constructor = function(new);
            let allocate = function(standard.find(c"_Znwm")?);
            let free = function(standard.find(c"_ZdlPv")?);
            return Some(Strings::New { constructor, allocate, free });
        }
        let constructor = function(libraries.find(c"_ZN3c105ErrorC2ENS_14SourceLocationESs")?);
        let string = function(standard.find(c"_ZNSsC1EPKcRKSaIcE")?);
        let drop = function(standard.find(c"_ZNSsD1Ev")?);
        Some(Strings::Old { constructor, string, drop })
    }
}

/// Room for an exception. The largest version seen has less than half of it.
const EXCEPTION_BYTES: usize = 1024;

/// Longest text that is thrown, in bytes; what is longer is cut.
pub const TEXT_MAX: usize = 4095;

/// Throws `what` with `text`. Returns only when the process has no C++.
///
/// To be called where no frame above, up to PyTorch's, has anything to drop.
pub fn throw(what: Exception, text: &CStr) {
    let Some(cxx) = cxx() else { return };
    let location = SourceLocation {
        function: c"forebay_torch_malloc".as_ptr(),
        file: c"forebay".as_ptr(),
        line: 0,
    };
    // SAFETY: an exception is allocated, constructed and thrown as compilers do it; the classes
    // are what their symbols say.
    unsafe {
        let Some(torch) = torch() else {
            let exception = (cxx.allocate)(size_of::<*const c_void>());
            exception.cast::<*const *const c_void>().write(cxx.bad_alloc.table);
            (cxx.throw)(exception, cxx.bad_alloc.type_info, cxx.bad_alloc.destructor());
        };
        let class = match what {
            Exception::OutOfMemory => torch.out_of_memory,
            Exception::Error => torch.error,
        };
        let exception = (cxx.allocate)(EXCEPTION_BYTES);
        exception.cast::<u8>().write_bytes(0, EXCEPTION_BYTES);
        match torch.strings {
            Strings::New { constructor, allocate, free } => {
                let length = text.to_bytes().len();
                let data = allocate(length + 1).cast::<u8>();
                data.copy_from_nonoverlapping(text.as_ptr().cast(), length + 1);
                let mut string = NewString { data, length, capacity_or_short: [length, 0] };
                constructor(exception, location, &mut string);
                // The constructor may have taken the bytes; what it left is freed.
                let short = (&raw mut string.capacity_or_short).cast::<u8>();
                if string.data != short {
                    free(string.data.cast());
                }
            }
            Strings::Old { constructor, string: make, drop } => {
                let mut string: OldString = std::ptr::null_mut();
                // The allocator of a string has no state; its address is not followed.
                let allocator: c_int = 0;
                make(&mut string, text.as_ptr(), (&raw const allocator).cast());
                constructor(exception, location, &mut string);
                drop(&mut string);
            }
        }
        exception.cast::<*const *const c_void>().write(class.table);
        (cxx.throw)(exception, class.type_info, class.destructor());
    }
}
