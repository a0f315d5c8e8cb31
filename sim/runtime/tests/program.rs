//! As a program's runtime, on the simulated driver as its driver: both found by the loader in
//! LD_LIBRARY_PATH, in a process of their own.
#![allow(clippy::unwrap_used)]

use std::ffi::{CStr, CString, c_void};
use std::process::Command;

const CHILD: &str = "SIM_CUDART_PROGRAM_CHILD";
const NAME: &CStr = if cfg!(feature = "cuda-12") { c"libcudart.so.12" } else { c"libcudart.so.13" };

fn symbol(library: &CStr, name: &str) -> *mut c_void {
    let name = CString::new(name).unwrap();
    // SAFETY: libraries of this repository, and strings.
    let at = unsafe {
        let library = libc::dlopen(library.as_ptr(), libc::RTLD_NOW);
        assert!(!library.is_null(), "{:?}", CStr::from_ptr(libc::dlerror()));
        libc::dlsym(library, name.as_ptr())
    };
    assert!(!at.is_null(), "{name:?}");
    at
}

/// Calls a function of a library by its name, with arguments of these types; gives its code.
macro_rules! call {
    ($library:expr, $name:ident($($arg:expr => $type:ty),* $(,)?)) => {{
        let at = symbol($library, stringify!($name));
        // SAFETY: the types are those that NVIDIA documents.
        unsafe {
            let call = std::mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn($($type),*) -> u32,
            >(at);
            call($($arg),*)
        }
    }};
}

macro_rules! cuda {
    ($($call:tt)*) => { call!(NAME, $($call)*) };
}

macro_rules! cu {
    ($($call:tt)*) => { call!(c"libcuda.so.1", $($call)*) };
}

/// Runs a test once more in a process that finds the libraries; true in that process.
fn inside(test: &str, environment: &[(&str, &str)]) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    let built = program.parent().unwrap();
    let folder = std::env::temp_dir().join(format!("sim_cudart_{test}_{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (file, name) in [
        ("libsim_cuda.so", "libcuda.so.1"),
        ("libsim_cudart.so", NAME.to_str().unwrap()),
        ("libsim_cudart.so", "libnvidia-ml.so.1"),
    ] {
        assert!(built.join(file).exists(), "{file} in {built:?}");
        std::os::unix::fs::symlink(built.join(file), folder.join(name)).unwrap();
    }
    let output = Command::new(program)
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .env("LD_LIBRARY_PATH", &folder)
        .env("SIM_CUDART_LOG", "1")
        .envs(environment.iter().copied())
        .output();
    std::fs::remove_dir_all(&folder).unwrap();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // The log names each refusal once.
    for name in ["a kernel", "cudaIpcGetMemHandle"] {
        let times = said.matches(&format!("sim_cudart: {name}")).count();
        assert!(times <= 1, "{said}");
    }
    false
}

fn malloc(bytes: usize) -> Result<u64, u32> {
    let mut at = 0u64;
    match cuda!(cudaMalloc(&mut at => *mut u64, bytes => usize)) {
        0 => Ok(at),
        code => Err(code),
    }
}

fn device() -> i32 {
    let mut device = -1;
    assert_eq!(cuda!(cudaGetDevice(&mut device => *mut i32)), 0);
    device
}

fn set_device(device: i32) -> u32 {
    cuda!(cudaSetDevice(device => i32))
}

fn stream() -> u64 {
    let mut stream = 0u64;
    assert_eq!(cuda!(cudaStreamCreateWithFlags(&mut stream => *mut u64, 1 => u32)), 0);
    stream
}

fn last() -> u32 {
    cuda!(cudaGetLastError())
}

fn copy(to: u64, from: u64, bytes: usize) {
    assert_eq!(cuda!(cudaMemcpy(to => u64, from => u64, bytes => usize, 4 => u32)), 0);
}

#[test]
fn memory_holds_what_was_copied() {
    if !inside("memory_holds_what_was_copied", &[]) {
        return;
    }
    let sent: Vec<u8> = (0..10000).map(|n| n as u8).collect();
    let mut got = vec![0u8; sent.len()];
    let (from, to) = (sent.as_ptr() as u64, got.as_mut_ptr() as u64);
    let (a, b) = (malloc(sent.len()).unwrap(), malloc(sent.len()).unwrap());
    copy(a, from, sent.len());
    copy(b, a, sent.len());
    assert_eq!(cuda!(cudaDeviceSynchronize()), 0, "such a copy does not wait");
    let s = stream();
    let set = cuda!(cudaMemsetAsync(b => u64, 0x1ff => i32, 100 => usize, s => u64));
    let asked =
        cuda!(cudaMemcpyAsync(to => u64, b => u64, sent.len() => usize, 4 => u32, s => u64));
    assert_eq!((set, asked, cuda!(cudaStreamSynchronize(s => u64))), (0, 0, 0));
    assert!(got[..100].iter().all(|&byte| byte == 0xff) && got[100..] == sent[100..]);
    assert_eq!(set_device(1), 0);
    let c = malloc(sent.len()).unwrap();
    let between = cuda!(cudaMemcpyPeerAsync(c => u64, 1 => i32, a => u64, 0 => i32,
        sent.len() => usize, 0 => u64));
    assert_eq!((between, cuda!(cudaDeviceSynchronize())), (0, 0));
    copy(to, c, sent.len());
    assert!(got == sent);
    // Of `cudaPointerAttributes`: the kind, and the device.
    for (at, expected) in [(c + 5, [2, 1]), (a, [2, 0]), (to, [0, -2])] {
        let mut about = [0i32; 32];
        let code = cuda!(cudaPointerGetAttributes(about.as_mut_ptr() => *mut i32, at => u64));
        assert_eq!((code, [about[0], about[1]]), (0, expected));
    }
    for at in [a, b, c] {
        assert_eq!(cuda!(cudaFree(at => u64)), 0);
    }
    assert_eq!((malloc(0), cuda!(cudaFree(0 => u64)), cuda!(cudaFree(a => u64))), (Ok(0), 0, 1));
    // SAFETY: the simulated driver's own function.
    let hazards = unsafe {
        std::mem::transmute::<*mut c_void, extern "C" fn() -> usize>(symbol(
            c"libcuda.so.1",
            "simHazards",
        ))
    };
    assert_eq!(hazards(), 0);
}

#[test]
fn each_thread_has_its_error() {
    if !inside("each_thread_has_its_error", &[("SIM_CUDA_CAPACITY", "1048576")]) {
        return;
    }
    let at = malloc(1 << 20).unwrap();
    assert_eq!((last(), malloc(512), malloc(512)), (0, Err(2), Err(2)));
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!((last(), cuda!(cudaStreamQuery(7 << 20 => u64))), (0, 400)));
    });
    assert_eq!(cuda!(cudaFree(at => u64)), 0, "which leaves the error as it is");
    assert_eq!((cuda!(cudaPeekAtLastError()), last(), last()), (2, 2, 0));
    for name in [symbol(NAME, "cudaGetErrorName"), symbol(NAME, "cudaGetErrorString")] {
        // SAFETY: as NVIDIA documents them; the texts are static.
        let text = unsafe {
            let text = std::mem::transmute::<*mut c_void, extern "C" fn(u32) -> *const i8>(name);
            CStr::from_ptr(text(2).cast())
        };
        assert!([c"cudaErrorMemoryAllocation", c"out of memory"].contains(&text));
    }
    let refused = || cuda!(cudaIpcGetMemHandle(std::ptr::null_mut() => *mut u8, 0 => u64));
    assert_eq!((refused(), refused(), last()), (801, 801, 801));
}

#[test]
fn a_thread_s_device_is_that_of_its_context() {
    if !inside("a_thread_s_device_is_that_of_its_context", &[]) {
        return;
    }
    let mut context = 0u64;
    assert_eq!(device(), 0);
    assert_eq!(cu!(cuCtxGetCurrent(&mut context => *mut u64)), 0);
    assert_eq!(context, 0, "to ask makes none");
    assert_eq!((set_device(2), set_device(-1), device()), (101, 101, 0));
    assert_eq!((set_device(1), device()), (0, 1));
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(device(), 0));
    });
    assert_eq!(cu!(cuCtxGetCurrent(&mut context => *mut u64)), 0);
    let at = malloc(4096).unwrap();
    assert_eq!(set_device(0), 0);
    assert_eq!(cu!(cuCtxPushCurrent_v2(context => u64)), 0);
    assert_eq!(device(), 1, "made current by the driver");
    let mut free = (0usize, 0usize);
    assert_eq!(cuda!(cudaMemGetInfo(&mut free.0 => *mut usize, &mut free.1 => *mut usize)), 0);
    assert_eq!(free.1 - free.0, 4096);
    assert_eq!(cu!(cuCtxPopCurrent_v2(std::ptr::null_mut() => *mut u64)), 0);
    assert_eq!((device(), cuda!(cudaFree(at => u64))), (0, 0), "of the other device");
}

#[test]
fn a_device_is_described() {
    if !inside("a_device_is_described", &[]) {
        return;
    }
    let mut about = [0u32; 512];
    let get = if cfg!(feature = "cuda-12") {
        cuda!(cudaGetDeviceProperties_v2(about.as_mut_ptr() => *mut u32, 1 => i32))
    } else {
        cuda!(cudaGetDeviceProperties(about.as_mut_ptr() => *mut u32, 1 => i32))
    };
    assert_eq!(get, 0);
    assert_eq!(&about[..4], bytes(b"Simulated device"));
    assert_eq!((about[288 / 4], about[292 / 4]), (0, 2), "8 GiB");
    assert_eq!((about[360 / 4], about[364 / 4], about[308 / 4]), (9, 0, 32));
    let size = if cfg!(feature = "cuda-12") { 1032 } else { 1008 };
    about.fill(u32::MAX);
    if cfg!(feature = "cuda-12") {
        cuda!(cudaGetDeviceProperties_v2(about.as_mut_ptr() => *mut u32, 0 => i32));
    } else {
        cuda!(cudaGetDeviceProperties(about.as_mut_ptr() => *mut u32, 0 => i32));
    }
    let written = about.iter().rposition(|&word| word != u32::MAX).unwrap() + 1;
    assert_eq!(written * 4, size);
    let mut count = 0;
    assert_eq!((cuda!(cudaGetDeviceCount(&mut count => *mut i32)), count), (0, 2));
    let ml = c"libnvidia-ml.so.1";
    let mut handle = 0usize;
    assert_eq!(call!(ml, nvmlInit_v2()), 0);
    assert_eq!((call!(ml, nvmlDeviceGetCount_v2(&mut count => *mut i32)), count), (0, 2));
    let mut device = 0usize;
    let get = |index: u32, device: &mut usize| call!(ml, nvmlDeviceGetHandleByIndex_v2(index => u32, device => *mut usize));
    assert_eq!((get(2, &mut device), get(1, &mut device)), (2, 0));
    let mut text = [0u8; 96];
    let name = |text: &mut [u8; 96], room: u32| call!(ml, nvmlDeviceGetName(device => usize, text.as_mut_ptr() => *mut u8, room => u32));
    assert_eq!((name(&mut text, 18), name(&mut text, 96)), (7, 0));
    assert_eq!(&text[..19], b"Simulated device 1\0");
    assert_eq!(
        call!(ml, nvmlDeviceGetUUID(device => usize, text.as_mut_ptr() => *mut u8, 96 => u32)),
        0
    );
    assert_eq!(&text[..41], b"GPU-02020202-0202-0202-0202-020202020202\0");
    assert_eq!(call!(ml, nvmlSystemGetDriverVersion(text.as_mut_ptr() => *mut u8, 96 => u32)), 0);
    // `nvmlMemory_v2_t`: version, total, reserved, free, used.
    let memory = |version: u64| {
        let mut memory = [version, 0, 0, 0, 0];
        let code =
            call!(ml, nvmlDeviceGetMemoryInfo_v2(device => usize, memory.as_mut_ptr() => *mut u64));
        (code, memory)
    };
    assert_eq!(memory(1 << 24).0, 25);
    let (code, before) = memory(0x0200_0028);
    assert_eq!((code, before[2], before[1]), (0, 0, before[3] + before[4]));
    assert_eq!((self::device(), set_device(1)), (0, 0));
    let block = malloc(4 << 20).unwrap();
    assert_eq!(set_device(0), 0);
    let (_, after) = memory(0x0200_0028);
    assert_eq!((after[1], after[4]), (before[1], before[4] + (4 << 20)));
    assert_eq!((self::device(), cuda!(cudaFree(block => u64))), (0, 0));
    for (bus, expected) in [
        (c"00000000:02:00.0", (0, 2)),
        (c"0000:01:00.0", (0, 1)),
        (c"0000:09:00.0", (6, 1)),
        (c"here", (2, 1)),
    ] {
        let code = call!(ml, nvmlDeviceGetHandleByPciBusId_v2(bus.as_ptr() => *const i8,
            &mut handle => *mut usize));
        assert_eq!((code, handle), expected, "{bus:?}");
    }
}

fn bytes(text: &[u8; 16]) -> &[u32] {
    // SAFETY: four words in sixteen bytes; x86 reads them from anywhere.
    unsafe { std::slice::from_raw_parts(text.as_ptr().cast(), 4) }
}

#[test]
fn without_a_device() {
    if !inside("without_a_device", &[("SIM_CUDA_DEVICES", "0")]) {
        return;
    }
    let mut count = 7;
    assert_eq!(cuda!(cudaGetDeviceCount(&mut count => *mut i32)), 100);
    assert_eq!((malloc(1), last()), (Err(100), 100));
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Dimensions([u32; 3]);

fn launch(stream: u64) -> u32 {
    let one = Dimensions([1, 1, 1]);
    let null = std::ptr::null_mut();
    cuda!(cudaLaunchKernel(0 => usize, one => Dimensions, one => Dimensions, null => *mut u8,
        0 => usize, stream => u64))
}

#[test]
fn kernels_are_refused() {
    if !inside("kernels_are_refused", &[]) {
        return;
    }
    let s = stream();
    assert_eq!((launch(s), launch(s), last()), (801, 801, 801));
    assert_eq!(cuda!(cudaStreamQuery(s => u64)), 0, "nothing was queued");
    let push = |n: u32| {
        let of = Dimensions([n; 3]);
        cuda!(__cudaPushCallConfiguration(of => Dimensions, of => Dimensions, 5 => usize, s => u64))
    };
    let pop = || {
        let (mut grid, mut block) = (Dimensions::default(), Dimensions::default());
        let (mut shared, mut stream) = (0, 0);
        let code = cuda!(__cudaPopCallConfiguration(&mut grid => *mut Dimensions,
            &mut block => *mut Dimensions, &mut shared => *mut usize, &mut stream => *mut u64));
        (code, grid.0, block.0, shared, stream)
    };
    assert_eq!((push(1), push(2)), (0, 0));
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(pop().0, 1, "those of another thread"));
    });
    assert_eq!(pop(), (0, [2; 3], [2; 3], 5, s));
    assert_eq!(pop(), (0, [1; 3], [1; 3], 5, s));
    assert_eq!(pop().0, 1);
}

#[test]
fn kernels_take_their_place_if_that_is_wanted() {
    let test = "kernels_take_their_place_if_that_is_wanted";
    if !inside(test, &[("SIM_CUDART_KERNELS", "skip")]) {
        return;
    }
    let s = stream();
    assert_eq!((launch(s), cuda!(cudaStreamQuery(s => u64))), (0, 600));
    assert_eq!((cuda!(cudaStreamSynchronize(s => u64)), cuda!(cudaStreamQuery(s => u64))), (0, 0));
    let (mut graph, mut exec, mut nodes) = (0u64, 0u64, 0usize);
    assert_eq!(cuda!(cudaStreamBeginCapture(s => u64, 0 => u32)), 0);
    assert_eq!((launch(s), launch(s), malloc(512)), (0, 0, Err(900)));
    assert_eq!(cuda!(cudaStreamEndCapture(s => u64, &mut graph => *mut u64)), 901);
    let mode = &mut 2u32;
    assert_eq!(cuda!(cudaThreadExchangeStreamCaptureMode(mode => *mut u32)), 0);
    assert_eq!(cuda!(cudaStreamBeginCapture(s => u64, 2 => u32)), 0);
    assert!(launch(s) == 0 && malloc(512).is_ok());
    assert_eq!(cuda!(cudaStreamEndCapture(s => u64, &mut graph => *mut u64)), 0);
    let null = std::ptr::null_mut();
    let counted =
        cuda!(cudaGraphGetNodes(graph => u64, null => *mut u64, &mut nodes => *mut usize));
    assert_eq!((counted, nodes), (0, 1));
    let made = cuda!(cudaGraphInstantiateWithFlags(&mut exec => *mut u64, graph => u64, 0 => u64));
    assert_eq!((made, cuda!(cudaGraphLaunch(exec => u64, s => u64))), (0, 0));
    assert_eq!(cuda!(cudaStreamQuery(s => u64)), 600);
    assert_eq!(cuda!(cudaDeviceSynchronize()), 0);
    assert_eq!(cuda!(cudaStreamQuery(s => u64)), 0);
}
