//! GPUs as their driver's management library, NVML, sees them: devices, not contexts, so that
//! memory of other processes counts and nothing is started on a GPU to ask.
//!
//! The library is found at run time, as the driver is; where there is none, there are no GPUs to
//! speak of. Signatures and layouts are those of NVIDIA's NVML API reference.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

/// A GPU. Sizes are bytes; none is what the driver does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// Its number as NVML counts: all GPUs of the machine, in the order of their buses.
    pub index: u32,
    /// What it is called.
    pub name: Option<String>,
    /// Which one it is, on any machine.
    pub uuid: Option<String>,
    /// All of its memory.
    pub total: Option<u64>,
    /// What nobody has.
    pub free: Option<u64>,
    /// What processes have; what is reserved is not used.
    pub used: Option<u64>,
    /// What the driver and the GPU's firmware keep for themselves.
    pub reserved: Option<u64>,
    /// What this process has. None in containers, where NVML may count processes otherwise.
    pub own: Option<u64>,
}

/// All GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpus {
    /// `ok`, `none` where there is no NVML, or what went wrong.
    pub state: String,
    /// The driver's version.
    pub driver: Option<String>,
    /// One entry for each.
    pub devices: Vec<Gpu>,
}

/// How long a reading holds: asking costs the driver's locks.
const HOLDS: Duration = Duration::from_secs(1);

/// The state where there is no library.
const NONE: &str = "none";

const LIBRARY: &CStr = c"libnvidia-ml.so.1";

impl Gpus {
    fn nothing(state: impl Into<String>) -> Gpus {
        Gpus { state: state.into(), ..Gpus::default() }
    }

    /// The GPUs of this machine, as they are or were less than a second ago. Who asks while
    /// another thread does gets what was read before.
    pub fn of_system(now: Instant) -> Arc<Gpus> {
        struct Last {
            nvml: Option<Arc<Nvml>>,
            gpus: Option<(Arc<Gpus>, Instant)>,
            reading: bool,
        }
        static LAST: Mutex<Last> = Mutex::new(Last { nvml: None, gpus: None, reading: false });
        static DONE: Condvar = Condvar::new();
        /// The process that opened the library, 0 before.
        static OPENED_BY: AtomicU32 = AtomicU32::new(0);

        // NVML says nothing of forks; its locks and its open files may be anybody's then.
        let process = std::process::id();
        let opened = OPENED_BY.compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed);
        if opened.is_err_and(|other| other != process) {
            return Arc::new(Gpus::nothing("NVML was opened before a fork"));
        }
        let mut last = LAST.lock();
        loop {
            match &last.gpus {
                Some((gpus, at)) if last.reading || now.saturating_duration_since(*at) < HOLDS => {
                    return Arc::clone(gpus);
                }
                _ if last.reading => last = DONE.wait(last),
                _ => break,
            }
        }
        last.reading = true;
        let known = last.nvml.clone();
        drop(last);
        // No call of the driver under the lock.
        let nvml = known.map_or_else(|| Nvml::open().map(Arc::new), Ok);
        let gpus = Arc::new(match &nvml {
            Ok(nvml) => nvml.read(),
            Err(state) => Gpus::nothing(state),
        });
        if gpus.state == NONE {
            // There was nothing to open, which holds for a forked child too.
            OPENED_BY.store(0, Ordering::Relaxed);
        }
        let mut last = LAST.lock();
        last.nvml = nvml.ok();
        last.gpus = Some((Arc::clone(&gpus), now));
        last.reading = false;
        drop(last);
        DONE.notify_all();
        gpus
    }
}

/// A device's handle.
type Handle = *mut c_void;

/// `nvmlMemory_v2_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Memory {
    version: c_uint,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

impl Memory {
    /// Its size, and version 2 in the highest byte.
    const VERSION: c_uint = size_of::<Memory>() as c_uint | 2 << 24;
}

/// `nvmlMemory_t`, of drivers before 510: what is reserved is among what is used.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct OldMemory {
    total: u64,
    free: u64,
    used: u64,
}

/// `nvmlProcessInfo_v2_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Running {
    process: c_uint,
    used: u64,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// `NVML_ERROR_INSUFFICIENT_SIZE`.
const TOO_SMALL: c_int = 7;
/// `NVML_VALUE_NOT_AVAILABLE`.
const UNKNOWN: u64 = u64::MAX;
/// `NVML_DEVICE_NAME_V2_BUFFER_SIZE`, and `NVML_DEVICE_UUID_V2_BUFFER_SIZE`: the largest there are.
const TEXT: usize = 96;
/// How many processes there is room for at first.
const PROCESSES: usize = 64;

macro_rules! entry_points {
    ($($field:ident = $symbol:ident($($type:ty),*);)*) => {
        /// The entry points, as far as the library has them.
        struct Table {
            $($field: Option<unsafe extern "C" fn($($type),*) -> c_int>,)*
        }

        impl Table {
            /// # Safety
            /// What `lookup` finds is what NVML documents under that name.
            unsafe fn resolve(lookup: &dyn Fn(&CStr) -> *mut c_void) -> Table {
                Table {
                    $($field: {
                        let name = concat!(stringify!($symbol), "\0");
                        let at = CStr::from_bytes_with_nul(name.as_bytes())
                            .map_or(std::ptr::null_mut(), lookup);
                        // SAFETY: the caller's promise; no symbol is no function.
                        (!at.is_null()).then(|| unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($type),*) -> c_int,
                            >(at)
                        })
                    },)*
                }
            }
        }
    };
}

entry_points! {
    init = nvmlInit_v2();
    driver = nvmlSystemGetDriverVersion(*mut c_char, c_uint);
    count = nvmlDeviceGetCount_v2(*mut c_uint);
    device = nvmlDeviceGetHandleByIndex_v2(c_uint, *mut Handle);
    name = nvmlDeviceGetName(Handle, *mut c_char, c_uint);
    uuid = nvmlDeviceGetUUID(Handle, *mut c_char, c_uint);
    memory = nvmlDeviceGetMemoryInfo_v2(Handle, *mut Memory);
    old_memory = nvmlDeviceGetMemoryInfo(Handle, *mut OldMemory);
    // Not _v3: a few drivers have it with larger entries.
    running = nvmlDeviceGetComputeRunningProcesses_v2(Handle, *mut c_uint, *mut Running);
}

/// The library, initialised.
pub struct Nvml {
    table: Table,
}

impl Nvml {
    /// That of this machine; `none` where there is none, or what is wrong with it.
    fn open() -> Result<Nvml, String> {
        // SAFETY: a library that stays loaded; NOLOAD first, so that one that the program brought
        // itself is the one that is used.
        let library = unsafe {
            let there = libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
            if there.is_null() { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW) } else { there }
        };
        if library.is_null() {
            return Err(NONE.to_owned());
        }
        // SAFETY: an open library, names that end with a NUL; it is NVML by its name.
        unsafe { Nvml::resolve(&|name| libc::dlsym(library, name.as_ptr())) }
    }

    /// The library whose entry points `lookup` finds by name, null for none.
    ///
    /// # Safety
    /// What `lookup` finds is what NVML documents under that name.
    pub unsafe fn resolve(lookup: &dyn Fn(&CStr) -> *mut c_void) -> Result<Nvml, String> {
        // SAFETY: the caller's promise.
        let table = unsafe { Table::resolve(lookup) };
        let init = table.init.ok_or("NVML has no nvmlInit_v2")?;
        // SAFETY: no preconditions. It counts: that the program did it before does no harm.
        match unsafe { init() } {
            0 => Ok(Nvml { table }),
            code => Err(format!("nvmlInit_v2 failed with {code}")),
        }
    }

    /// What all GPUs say. Of what is refused nothing is known; the rest is.
    pub fn read(&self) -> Gpus {
        let driver = self.table.driver.and_then(|driver| {
            // SAFETY: room for as many bytes as are named.
            text(|to, room| unsafe { driver(to, room) })
        });
        let mut count = 0;
        // SAFETY: a place for the answer.
        let code = self.table.count.map(|get| unsafe { get(&mut count) });
        let state = match code {
            Some(0) => "ok".to_owned(),
            Some(code) => format!("nvmlDeviceGetCount_v2 failed with {code}"),
            None => "NVML has no nvmlDeviceGetCount_v2".to_owned(),
        };
        let count = if code == Some(0) { count } else { 0 };
        let own_process = counts_as_nvml_does().then(std::process::id);
        let devices = (0..count).map(|index| self.device(index, own_process)).collect();
        Gpus { state, driver, devices }
    }

    fn device(&self, index: u32, own_process: Option<u32>) -> Gpu {
        let mut gpu = Gpu { index, ..Gpu::default() };
        let Some(get) = self.table.device else { return gpu };
        let mut handle = std::ptr::null_mut();
        // SAFETY: a place for the answer.
        if unsafe { get(index, &mut handle) } != 0 {
            return gpu;
        }
        // SAFETY: a device's handle, and room for as many bytes as are named; here and below.
        gpu.name =
            self.table.name.and_then(|name| text(|to, room| unsafe { name(handle, to, room) }));
        // SAFETY: as above.
        gpu.uuid =
            self.table.uuid.and_then(|uuid| text(|to, room| unsafe { uuid(handle, to, room) }));
        if let Some(memory) = self.memory(handle) {
            (gpu.total, gpu.free) = (Some(memory.total), Some(memory.free));
            (gpu.used, gpu.reserved) = (Some(memory.used), Some(memory.reserved));
        } else if let Some(memory) = self.old_memory(handle) {
            (gpu.total, gpu.free) = (Some(memory.total), Some(memory.free));
        }
        gpu.own = own_process.and_then(|process| self.used_by(handle, process));
        gpu
    }

    fn memory(&self, device: Handle) -> Option<Memory> {
        let mut memory = Memory { version: Memory::VERSION, ..Memory::default() };
        // SAFETY: a device's handle, and a struct of the version that it says it is.
        (unsafe { self.table.memory?(device, &mut memory) } == 0).then_some(memory)
    }

    fn old_memory(&self, device: Handle) -> Option<OldMemory> {
        let mut memory = OldMemory::default();
        // SAFETY: a device's handle, and a place for the answer.
        (unsafe { self.table.old_memory?(device, &mut memory) } == 0).then_some(memory)
    }

    /// What `process` has of a device, over all of its instances.
    fn used_by(&self, device: Handle, process: u32) -> Option<u64> {
        let running = self.table.running?;
        let mut room = PROCESSES;
        // Processes may start between two calls; a third time is not worth it.
        for _ in 0..2 {
            let mut list = vec![Running::default(); room];
            let mut count = room as c_uint;
            // SAFETY: a device's handle, and room for as many entries as are named.
            match unsafe { running(device, &mut count, list.as_mut_ptr()) } {
                0 => {
                    let own = list.iter().take(count as usize).filter(|of| of.process == process);
                    let bytes: Vec<u64> = own.map(|of| of.used).collect();
                    let known = !bytes.contains(&UNKNOWN);
                    return known.then(|| bytes.iter().copied().fold(0, u64::saturating_add));
                }
                TOO_SMALL => room = (count as usize).saturating_add(PROCESSES).min(1 << 16),
                _ => return None,
            }
        }
        None
    }
}

/// What a call writes that fills a buffer with text.
fn text(call: impl FnOnce(*mut c_char, c_uint) -> c_int) -> Option<String> {
    let mut buffer = [0u8; TEXT];
    if call(buffer.as_mut_ptr().cast(), TEXT as c_uint) != 0 {
        return None;
    }
    let text = CStr::from_bytes_until_nul(&buffer).ok()?;
    Some(text.to_string_lossy().into_owned())
}

/// Whether processes have the numbers here that they have for NVML, which may count as the host
/// does: so it is in the host's own namespace, whose number the kernel fixes
/// (`PROC_PID_INIT_INO`), and elsewhere nobody knows.
fn counts_as_nvml_does() -> bool {
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    namespace.is_ok_and(|name| name.as_os_str() == "pid:[4026531836]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    thread_local! {
        /// The call that is refused, and with what.
        static REFUSED: Cell<(&'static str, c_int)> = const { Cell::new(("", 0)) };
        static CALLS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
        static RUNNING: Cell<u32> = const { Cell::new(2) };
    }

    fn answer(call: &'static str, body: impl FnOnce()) -> c_int {
        CALLS.with_borrow_mut(|calls| calls.push(call));
        let (refused, code) = REFUSED.get();
        if refused == call {
            return code;
        }
        body();
        0
    }

    unsafe fn say(text: &str, to: *mut c_char, room: c_uint) {
        assert!(text.len() < room as usize);
        // SAFETY: there is room.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), text.len()) };
    }

    // SAFETY of all: called as the table says.
    unsafe extern "C" fn init() -> c_int {
        answer("nvmlInit_v2", || ())
    }
    unsafe extern "C" fn driver(to: *mut c_char, room: c_uint) -> c_int {
        // SAFETY: the caller's room.
        answer("nvmlSystemGetDriverVersion", || unsafe { say("570.1", to, room) })
    }
    unsafe extern "C" fn count(to: *mut c_uint) -> c_int {
        // SAFETY: the caller's place.
        answer("nvmlDeviceGetCount_v2", || unsafe { *to = 2 })
    }
    unsafe extern "C" fn device(index: c_uint, to: *mut Handle) -> c_int {
        // SAFETY: the caller's place.
        answer("nvmlDeviceGetHandleByIndex_v2", || unsafe { *to = (index as usize + 8) as Handle })
    }
    unsafe extern "C" fn name(device: Handle, to: *mut c_char, room: c_uint) -> c_int {
        // SAFETY: the caller's room.
        answer("nvmlDeviceGetName", || unsafe {
            say(&format!("card {}", device as usize - 8), to, room)
        })
    }
    unsafe extern "C" fn uuid(_: Handle, to: *mut c_char, room: c_uint) -> c_int {
        // SAFETY: the caller's room.
        answer("nvmlDeviceGetUUID", || unsafe { say("GPU-1", to, room) })
    }
    unsafe extern "C" fn memory(_: Handle, to: *mut Memory) -> c_int {
        // SAFETY: the caller's place.
        let to = unsafe { &mut *to };
        assert_eq!(to.version, 0x0200_0028);
        answer("nvmlDeviceGetMemoryInfo_v2", || {
            (to.total, to.reserved, to.free, to.used) = (1000, 100, 600, 300);
        })
    }
    unsafe extern "C" fn old_memory(_: Handle, to: *mut OldMemory) -> c_int {
        // SAFETY: the caller's place.
        answer("nvmlDeviceGetMemoryInfo", || unsafe {
            *to = OldMemory { total: 1000, free: 600, used: 400 };
        })
    }
    unsafe extern "C" fn running(_: Handle, count: *mut c_uint, to: *mut Running) -> c_int {
        let there = RUNNING.get();
        // SAFETY: the caller's place, and as many entries as it says there is room for.
        let (count, list) =
            unsafe { (&mut *count, std::slice::from_raw_parts_mut(to, *count as usize)) };
        *count = there;
        if (list.len() as u32) < there {
            return TOO_SMALL;
        }
        answer("nvmlDeviceGetComputeRunningProcesses_v2", || {
            for (at, entry) in list.iter_mut().take(there as usize).enumerate() {
                entry.process = if at == 0 { 1 } else { 77 };
                entry.used = 10;
            }
        })
    }

    const ALL: [(&str, *mut c_void); 9] = [
        ("nvmlInit_v2", init as *mut c_void),
        ("nvmlSystemGetDriverVersion", driver as *mut c_void),
        ("nvmlDeviceGetCount_v2", count as *mut c_void),
        ("nvmlDeviceGetHandleByIndex_v2", device as *mut c_void),
        ("nvmlDeviceGetName", name as *mut c_void),
        ("nvmlDeviceGetUUID", uuid as *mut c_void),
        ("nvmlDeviceGetMemoryInfo_v2", memory as *mut c_void),
        ("nvmlDeviceGetMemoryInfo", old_memory as *mut c_void),
        ("nvmlDeviceGetComputeRunningProcesses_v2", running as *mut c_void),
    ];

    /// A library without the call `missing`.
    fn without(missing: &str) -> Result<Nvml, String> {
        let lookup = |wanted: &CStr| {
            let found =
                ALL.iter().find(|(name, _)| wanted.to_str() == Ok(name) && *name != missing);
            found.map_or(std::ptr::null_mut(), |&(_, at)| at)
        };
        // SAFETY: they are what the table says.
        unsafe { Nvml::resolve(&lookup) }
    }

    /// What is known of a GPU, as text to compare.
    fn known(gpus: &Gpus) -> Vec<String> {
        gpus.devices
            .iter()
            .map(|gpu| {
                let (name, uuid) = (gpu.name.as_deref(), gpu.uuid.as_deref());
                let number =
                    |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| bytes.to_string());
                let bytes = [gpu.total, gpu.free, gpu.used, gpu.reserved].map(number).join(" ");
                format!("{} {} {} {bytes}", gpu.index, name.unwrap_or("-"), uuid.unwrap_or("-"))
            })
            .collect()
    }

    #[test]
    fn every_call_refused_in_turn_loses_what_it_says_and_no_more() {
        let all = ["0 card 0 GPU-1 1000 600 300 100", "1 card 1 GPU-1 1000 600 300 100"];
        let gpus = without("").unwrap().read();
        assert_eq!((gpus.state.as_str(), gpus.driver.as_deref()), ("ok", Some("570.1")));
        assert_eq!(known(&gpus), all);
        for (call, _) in ALL {
            for code in [1, 3, 9, 999, -5] {
                let read = |refused: bool| {
                    REFUSED.set(if refused { (call, code) } else { ("", 0) });
                    let nvml = without(if refused { "" } else { call });
                    let gpus = nvml.map(|nvml| nvml.read());
                    REFUSED.set(("", 0));
                    gpus
                };
                // Refused, and not there at all.
                for (refused, why) in [
                    (true, format!("{call} failed with {code}")),
                    (false, format!("NVML has no {call}")),
                ] {
                    let gpus = read(refused);
                    match call {
                        "nvmlInit_v2" => assert_eq!(gpus, Err(why)),
                        "nvmlDeviceGetCount_v2" => {
                            let gpus = gpus.unwrap();
                            assert_eq!((gpus.state, gpus.devices), (why, Vec::new()));
                            assert_eq!(gpus.driver.as_deref(), Some("570.1"));
                        }
                        _ => {
                            let gpus = gpus.unwrap();
                            assert_eq!(gpus.state, "ok", "{call}");
                            let expected = all.map(|line| match call {
                                "nvmlDeviceGetHandleByIndex_v2" => {
                                    format!("{} - - - - - -", &line[..1])
                                }
                                "nvmlDeviceGetName" => {
                                    line.replace("card 0", "-").replace("card 1", "-")
                                }
                                "nvmlDeviceGetUUID" => line.replace("GPU-1", "-"),
                                "nvmlDeviceGetMemoryInfo_v2" => line.replace("300 100", "- -"),
                                _ => line.to_owned(),
                            });
                            assert_eq!(known(&gpus), expected, "{call}");
                            let has_driver = call != "nvmlSystemGetDriverVersion";
                            assert_eq!(gpus.driver.is_some(), has_driver, "{call}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_process_has_is_summed() {
        let nvml = without("").unwrap();
        let device = 8 as Handle;
        assert_eq!(nvml.used_by(device, 77), Some(10));
        assert_eq!(nvml.used_by(device, 78), Some(0));
        // More than there is room for at first.
        RUNNING.set(PROCESSES as u32 + 3);
        assert_eq!(nvml.used_by(device, 77), Some(10 * (PROCESSES as u64 + 2)));
        CALLS.with_borrow(|calls| assert!(calls.contains(&"nvmlInit_v2")));
        REFUSED.set(("nvmlDeviceGetComputeRunningProcesses_v2", 4));
        assert_eq!(nvml.used_by(device, 77), None);
    }

    #[test]
    fn layouts_are_the_documented_ones() {
        assert_eq!((size_of::<Memory>(), size_of::<OldMemory>()), (40, 24));
        assert_eq!((size_of::<Running>(), std::mem::offset_of!(Running, used)), (24, 8));
    }
}
