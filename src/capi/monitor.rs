//! What is left to this process.

use std::ffi::c_char;
use std::time::Instant;

use super::guard::{PublicStruct, check_sized, guard, out, write_sized, write_text};
use super::status::forebay_status;
use crate::error::{Result, fail};
use crate::monitor::{Gpus, GroupLimit, Info, Level, Source, system};

/// What bounds the memory of a process.
#[allow(non_camel_case_types)]
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum forebay_memory_limit {
    /// The machine: what the kernel says is available of it (`MemAvailable`).
    Machine = 0,
    /// A control group, at the limit where the kernel begins to kill: `memory.max` or, in version
    /// 1, `memory.limit_in_bytes`.
    GroupMax = 1,
    /// A control group, at the limit where whoever allocates is slowed down: `memory.high`.
    GroupHigh = 2,
    /// A control group of version 1, memory and swap together: `memory.memsw.limit_in_bytes`.
    GroupSwap = 3,
    /// `RLIMIT_AS`: addresses that are mapped, reservations of pools included.
    AddressSpace = 4,
    /// `RLIMIT_DATA`: private memory that can be written to.
    Data = 5,
    /// What the kernel promises, where it keeps to it (`vm.overcommit_memory` is 2).
    Commit = 6,
}

/// How things stand with memory.
#[allow(non_camel_case_types)]
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum forebay_memory_level {
    /// There is enough.
    Ok = 0,
    /// Some task waits for memory for more than 10 % of the time, or less than 10 % of some limit
    /// is left.
    Elevated = 1,
    /// All tasks wait for memory for more than 5 % of the time, or less than 3 % of some limit is
    /// left, or a control group has slowed down who allocates since a reading in the last ten
    /// seconds.
    Critical = 2,
}

/// What is left to this process, and why. Set `struct_size` before the call. Sizes are bytes; what
/// the kernel does not say is 0.
///
/// Of each limit there is something left: of the machine what the kernel says is available, of a
/// control group its limit less what it uses, without what could be reclaimed (inactive files,
/// half of the active ones, reclaimable slabs; never shared memory), of the process's own limits
/// the rest. The least of them is what is left.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_memory_info_t {
    /// sizeof(forebay_memory_info_t).
    pub struct_size: usize,
    /// What can be had: what is left, less the reserve, and not below 0.
    pub available_bytes: u64,
    /// What is left of the limit that is reached first.
    pub left_bytes: u64,
    /// What should stay unused: 256 MiB or an eighth of the limit, whichever is less, and at least
    /// 2 % of the limit.
    pub reserve_bytes: u64,
    /// The limit that is reached first ...
    pub limit_bytes: u64,
    /// ... and which it is: a `forebay_memory_limit`. `forebay_memory_info_json` names its group.
    pub limit_source: i32,
    /// How things stand: a `forebay_memory_level`.
    pub level: i32,
    /// The most memory that this process could have: the machine's, or what the tightest group
    /// allows.
    pub total_bytes: u64,
    /// The machine's memory, whatever groups allow.
    pub machine_total_bytes: u64,
    /// What of that is available to somebody: `MemAvailable`.
    pub machine_available_bytes: u64,
    /// Swap space that is free and may be used by this process.
    pub swap_available_bytes: u64,
    /// Bytes of this process that are resident (`VmRSS`).
    pub process_resident_bytes: u64,
    /// The most that were (`VmHWM`).
    pub process_resident_peak: u64,
    /// Bytes of addresses that are mapped (`VmSize`), reservations included.
    pub process_mapped_bytes: u64,
    /// Bytes that are locked (`VmLck`).
    pub process_locked_bytes: u64,
    /// Bytes that are pinned for devices (`VmPin`), as far as their drivers say so.
    pub process_pinned_bytes: u64,
    /// Bytes that forebay itself has pinned for GPUs. They are in use as all others are.
    pub pinned_bytes: u64,
    /// Percent of the last 10 seconds in which some task waited for memory: in the process's control
    /// group or, where that does not say, on the machine (PSI).
    pub pressure_some_avg10: f64,
    /// The same of the last 60 seconds.
    pub pressure_some_avg60: f64,
    /// Percent of the last 10 seconds in which all tasks waited.
    pub pressure_full_avg10: f64,
    /// The same of the last 60 seconds.
    pub pressure_full_avg60: f64,
    /// Microseconds that some task waited since the group, or the machine, was there.
    pub pressure_some_us: u64,
    /// Microseconds that all waited.
    pub pressure_full_us: u64,
    /// Times that the control group's processes were slowed down at a `memory.high`.
    pub high_events: u64,
    /// Processes that were killed for want of memory: in the control group, or on the machine
    /// where there is none.
    pub oom_kills: u64,
    /// Bytes of a huge page of those that an administrator set aside.
    pub huge_page_bytes: u64,
    /// How many of them there are.
    pub huge_pages: u64,
    /// How many of them are free.
    pub huge_pages_free: u64,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_memory_info_t {
    const FIRST: usize = 216;
    const NAME: &'static str = "forebay_memory_info_t";
}

const _: () = assert!(size_of::<forebay_memory_info_t>() == forebay_memory_info_t::FIRST);

/// A reading, or the error that there is none.
fn info() -> Result<Info> {
    system().info(Instant::now()).ok_or_else(|| {
        fail!(Unsupported, "the kernel does not say how much memory there is: no /proc/meminfo")
    })
}

fn limit_of(source: &Source) -> forebay_memory_limit {
    match source {
        Source::Machine => forebay_memory_limit::Machine,
        Source::Group { limit: GroupLimit::Max, .. } => forebay_memory_limit::GroupMax,
        Source::Group { limit: GroupLimit::High, .. } => forebay_memory_limit::GroupHigh,
        Source::Group { limit: GroupLimit::WithSwap, .. } => forebay_memory_limit::GroupSwap,
        Source::AddressSpace => forebay_memory_limit::AddressSpace,
        Source::Data => forebay_memory_limit::Data,
        Source::Commit => forebay_memory_limit::Commit,
    }
}

fn level_of(level: Level) -> forebay_memory_level {
    match level {
        Level::Ok => forebay_memory_level::Ok,
        Level::Elevated => forebay_memory_level::Elevated,
        Level::Critical => forebay_memory_level::Critical,
    }
}

/// Writes what is left to this process now, and why, to `*out`. Reads a few dozen small files of
/// the kernel's: for every second, not for every step. Asks no GPU.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL, its `struct_size` is not set),
/// `FOREBAY_ERROR_UNSUPPORTED` (the kernel does not say).
///
/// # Safety
/// `out` is NULL or points to a struct with `struct_size` set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_memory_info(out: *mut forebay_memory_info_t) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { self::out(out, "out")? };
        // SAFETY: as above.
        unsafe { check_sized(out)? };
        let info = info()?;
        let pressure = info.pressure().copied().unwrap_or_default();
        let value = forebay_memory_info_t {
            struct_size: 0,
            available_bytes: info.headroom.available(),
            left_bytes: info.headroom.bound.left,
            reserve_bytes: info.headroom.reserve,
            limit_bytes: info.headroom.bound.limit,
            limit_source: limit_of(&info.headroom.bound.source) as i32,
            level: level_of(info.level) as i32,
            total_bytes: info.total,
            machine_total_bytes: info.machine.total,
            machine_available_bytes: info.machine.available,
            swap_available_bytes: info.swap_available,
            process_resident_bytes: info.process.resident,
            process_resident_peak: info.process.resident_peak,
            process_mapped_bytes: info.process.mapped,
            process_locked_bytes: info.process.locked,
            process_pinned_bytes: info.process.pinned,
            pinned_bytes: info.pinned,
            pressure_some_avg10: pressure.some.avg10,
            pressure_some_avg60: pressure.some.avg60,
            pressure_full_avg10: pressure.full.avg10,
            pressure_full_avg60: pressure.full.avg60,
            pressure_some_us: pressure.some.total,
            pressure_full_us: pressure.full.total,
            high_events: info.events.map_or(0, |events| events.high),
            oom_kills: info.oom_kills,
            huge_page_bytes: info.machine.huge_page,
            huge_pages: info.machine.huge_pages,
            huge_pages_free: info.machine.huge_pages_free,
        };
        // SAFETY: the caller's promise.
        unsafe { write_sized(out, &value) }
    })
}

/// Writes everything that is known of this process's memory as JSON, with a NUL behind it, to
/// `buffer`, which has `capacity` bytes; its length without the NUL goes to `*length` (may be
/// NULL). `buffer` NULL with `capacity` 0 asks for the length only; leave some room, for it changes
/// from one reading to the next. GPUs are asked through NVML, if its library is there: the first
/// time that takes as long as opening it does, and then at most one reading a second is made, which
/// all callers share. No GPU is started to ask it.
///
/// The object has "schema" (1); the numbers of `forebay_memory_info_t` under "available_bytes",
/// "left_bytes", "reserve_bytes", "limit_bytes", "total_bytes", "swap_available_bytes",
/// "pinned_bytes", "oom_kills"; "limit_source", such as "MemAvailable", "cgroup v2 /a/b
/// memory.high", "RLIMIT_AS"; "level" ("ok", "elevated", "critical"); "machine" {"total_bytes",
/// "available_bytes", "free_bytes", "buffers_bytes", "cached_bytes", "shared_bytes" (tmpfs too),
/// "swap_total_bytes", "swap_free_bytes", "huge_page_bytes", "huge_pages", "huge_pages_free"};
/// "process" {"resident_bytes", "resident_peak", "anonymous_bytes", "shared_bytes",
/// "mapped_bytes", "data_bytes", "locked_bytes", "pinned_bytes", "swapped_bytes", "huge_bytes"};
/// "limits", all that bound this process, a list of {"source", "limit_bytes", "left_bytes"};
/// "groups", the control groups from the inmost outwards, a list of {"version",
/// "path", "max_bytes", "high_bytes" (version 1: "with_swap_max_bytes"), "used_bytes",
/// "reclaimable_bytes"}, the last two null without a limit, unless it is the inmost; "pressure",
/// {"machine", "group"}, each null or {"some", "full"}, each {"avg10", "avg60", "avg300",
/// "total_us"}; "events" of the control group, null or {"high", "max", "oom", "oom_kill"}; "nvml"
/// ("ok", "none" without the library, or what went wrong), "driver_version", and "gpus", a list of
/// {"index", "name", "uuid", "total_bytes", "free_bytes", "used_bytes" (without what is reserved),
/// "reserved_bytes", "process_bytes"}. null is what nobody says; "process_bytes" is null in
/// containers, where NVML may number processes otherwise.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`buffer` is NULL, or too small: `*length` is set, the
/// buffer untouched), `FOREBAY_ERROR_UNSUPPORTED` (the kernel does not say).
///
/// # Safety
/// `buffer` is NULL or has `capacity` bytes; `length` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_memory_info_json(
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> forebay_status {
    guard(|| {
        let info = info()?;
        let text = info.json(&Gpus::of_system(Instant::now()));
        // SAFETY: the caller's promise.
        unsafe { write_text(&text, "report", buffer, capacity, length) }
    })
}
