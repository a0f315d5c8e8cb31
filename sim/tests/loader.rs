//! As a program's driver: `libcuda.so.1`, found by the loader in LD_LIBRARY_PATH.

use std::ffi::{CStr, c_void};
use std::process::Command;

const CHILD: &str = "SIM_CUDA_LOADER_CHILD";

/// The function with this name in the library.
///
/// # Safety
///
/// The library is open, and `F` the type of the function.
unsafe fn symbol<F: Copy>(library: *mut c_void, name: &CStr) -> F {
    // SAFETY: the caller's promise; a function pointer is copied out.
    unsafe {
        let at = libc::dlsym(library, name.as_ptr());
        assert!(!at.is_null(), "{name:?}");
        std::mem::transmute_copy(&at)
    }
}

fn child() {
    type Launch =
        extern "C" fn(u64, *const i8, *const u64, usize, *const u64, usize, u64, i32) -> u32;
    // SAFETY: a library of this crate, its functions with their documented types.
    unsafe {
        let driver = libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW);
        assert!(!driver.is_null());
        let init: extern "C" fn(u32) -> u32 = symbol(driver, c"cuInit");
        let count: extern "C" fn(&mut i32) -> u32 = symbol(driver, c"cuDeviceGetCount");
        let retain: extern "C" fn(&mut u64, i32) -> u32 =
            symbol(driver, c"cuDevicePrimaryCtxRetain");
        let current: extern "C" fn(u64) -> u32 = symbol(driver, c"cuCtxSetCurrent");
        let alloc: extern "C" fn(&mut u64, usize) -> u32 = symbol(driver, c"cuMemAlloc_v2");
        let free: extern "C" fn(u64) -> u32 = symbol(driver, c"cuMemFree_v2");
        let launch: Launch = symbol(driver, c"simLaunch");
        let hazards: extern "C" fn() -> usize = symbol(driver, c"simHazards");
        let (mut devices, mut context, mut at) = (0, 0, 0);
        assert_eq!(count(&mut devices), 3, "before cuInit");
        assert_eq!((init(0), count(&mut devices)), (0, 0));
        assert_eq!(devices, 3, "as the environment says");
        assert_eq!((retain(&mut context, 0), current(context), alloc(&mut at, 4096)), (0, 0, 0));
        let range = [at, 4096];
        let name = c"kernel".as_ptr().cast();
        assert_eq!(launch(0, name, std::ptr::null(), 0, range.as_ptr(), 1, 1000, 1), 0);
        assert_eq!((hazards(), free(at), hazards()), (0, 0, 1), "freed under the kernel");
    }
}

#[test]
fn a_program_loads_it_as_its_driver() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let program = std::env::current_exe().unwrap();
    let built = program.parent().unwrap().join("libsim_cuda.so");
    assert!(built.exists(), "{built:?}");
    let folder = std::env::temp_dir().join(format!("sim_cuda_{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink(&built, folder.join("libcuda.so.1")).unwrap();
    let status = Command::new(program)
        .args(["--exact", "a_program_loads_it_as_its_driver"])
        .env(CHILD, "1")
        .env("SIM_CUDA_DEVICES", "3")
        .env("LD_LIBRARY_PATH", &folder)
        .status();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(status.unwrap().success());
}
