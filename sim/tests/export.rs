//! Memory in several handles, and in several processes.

#[allow(dead_code, unused_imports)]
mod common;

use std::process::Command;

use common::{PAGE, cu, event, read, record, start, stream, wait, write};
use sim_cuda::api::memory::{Access, Location, Properties};
use sim_cuda::{Config, Kind};

const FILE: &str = "SIM_CUDA_EXPORT_CHILD";

fn create(exports: u32) -> (u32, u64) {
    let (mut handle, of) = (0u64, Properties::on(0).exported(exports));
    let code = cu!(cuMemCreate(&mut handle => *mut u64, PAGE as usize => usize,
        &of => *const Properties, 0 => u64));
    (code, handle)
}

fn export(handle: u64) -> (u32, i32) {
    let mut file = -1;
    let code = cu!(cuMemExportToShareableHandle(&mut file => *mut i32, handle => u64, 1 => u32,
        0 => u64));
    (code, file)
}

fn import(file: i32) -> (u32, u64) {
    let mut handle = 0u64;
    let code = cu!(cuMemImportFromShareableHandle(&mut handle => *mut u64, file as usize => usize,
        1 => u32));
    (code, handle)
}

fn close(file: i32) {
    // SAFETY: a descriptor of the test.
    assert_eq!(unsafe { libc::close(file) }, 0);
}

fn release(handle: u64) -> u32 {
    cu!(cuMemRelease(handle => u64))
}

/// Maps a handle where device 0 may use it.
fn map(handle: u64) -> u64 {
    let (mut at, page) = (0u64, PAGE as usize);
    let access = Access { location: Location { kind: 1, id: 0 }, flags: 3 };
    let code = cu!(cuMemAddressReserve(&mut at => *mut u64, page => usize, 0 => usize,
        0 => u64, 0 => u64));
    assert_eq!(code, 0);
    let code = cu!(cuMemMap(at => u64, page => usize, 0 => usize, handle => u64, 0 => u64));
    assert_eq!(code, 0);
    let code = cu!(cuMemSetAccess(at => u64, page => usize, &access => *const Access, 1 => usize));
    assert_eq!(code, 0);
    at
}

fn contents(at: u64) -> u8 {
    let mut byte = 0u8;
    let to = &mut byte as *mut u8 as u64;
    assert_eq!(cu!(cuMemcpyDtoH_v2(to => u64, at => u64, 1 => usize)), 0);
    byte
}

#[test]
fn a_second_handle_is_the_same_memory() {
    let _guard = start(Config::default());
    let (code, first) = create(1);
    assert_eq!(code, 0);
    let (code, file) = export(first);
    assert_eq!(code, 0);
    let (code, second) = import(file);
    assert_eq!((code, second != first), (0, true));
    close(file);
    assert_eq!(sim_cuda::used(0), PAGE, "counted once");
    let (a, b, done, x, y) = (stream(), stream(), event(), map(first), map(second));
    assert_eq!(release(first), 0);
    write(a, x, 9);
    record(done, a);
    wait(b, done);
    read(b, y);
    assert!(sim_cuda::take_hazards().is_empty());
    write(a, x, 8);
    assert_eq!(sim_cuda::take_hazards()[0].kind, Kind::Race, "with the read of the other");
    assert_eq!(cu!(cuCtxSynchronize()), 0);
    assert_eq!(contents(y), 8);
    assert_eq!(cu!(cuMemUnmap(x => u64, PAGE as usize => usize)), 0);
    assert_eq!((contents(y), sim_cuda::used(0)), (8, PAGE));
    assert_eq!(cu!(cuMemUnmap(y => u64, PAGE as usize => usize)), 0);
    assert_eq!((release(second), sim_cuda::used(0)), (0, 0));
}

#[test]
fn what_cannot_be_exported_or_imported() {
    let guard = start(Config::default());
    let (_, plain) = create(0);
    assert_eq!((export(plain).0, export(77).0), (1, 1));
    assert_eq!(create(8).0, 801, "a kind that the device does not have");
    assert_eq!((import(1 << 20).0, import(0).0), (1, 1), "not such a file");
    let mut value = 0;
    let attribute = |number: u32, to: &mut i32| {
        assert_eq!(cu!(cuDeviceGetAttribute(to => *mut i32, number => u32, 0 => i32)), 0);
    };
    attribute(103, &mut value);
    assert_eq!(value, 1);
    drop(guard);
    let _guard = start(Config { exports: false, ..Config::default() });
    attribute(103, &mut value);
    assert_eq!((value, create(1).0, create(0).0), (0, 801, 0));
}

#[test]
fn properties_and_access() {
    let _guard = start(Config::default());
    let (_, handle) = create(1);
    let mut of = Properties::on(1);
    let code = cu!(cuMemGetAllocationPropertiesFromHandle(&mut of => *mut Properties,
        handle => u64));
    assert_eq!((code, of.exports, of.location.id), (0, 1, 0));
    let (at, mut flags) = (map(handle), 9u64);
    for (device, expected) in [(0, 3), (1, 0)] {
        let of = Location { kind: 1, id: device };
        let code = cu!(cuMemGetAccess(&mut flags => *mut u64, &of => *const Location, at => u64));
        assert_eq!((code, flags), (0, expected));
    }
    let of = Location { kind: 1, id: 0 };
    let code = cu!(cuMemGetAccess(&mut flags => *mut u64, &of => *const Location, 64 => u64));
    assert_eq!(code, 1);
}

fn child(file: i32) {
    let _guard = start(Config::default());
    let (code, handle) = import(file);
    assert_eq!((code, sim_cuda::used(0)), (0, PAGE));
    close(file);
    let at = map(handle);
    assert_eq!(contents(at), 5);
    assert_eq!(cu!(cuMemsetD8_v2(at => u64, 6 => u8, PAGE as usize => usize)), 0);
    assert_eq!(cu!(cuCtxSynchronize()), 0);
}

#[test]
fn another_process_sees_the_same_bytes() {
    if let Ok(file) = std::env::var(FILE) {
        return child(file.parse().unwrap());
    }
    let _guard = start(Config::default());
    let (_, handle) = create(1);
    let at = map(handle);
    assert_eq!(cu!(cuMemsetD8_v2(at => u64, 5 => u8, PAGE as usize => usize)), 0);
    assert_eq!(cu!(cuCtxSynchronize()), 0);
    let (code, file) = export(handle);
    assert_eq!(code, 0);
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "another_process_sees_the_same_bytes"])
        .env(FILE, file.to_string())
        .status();
    close(file);
    assert!(status.unwrap().success());
    assert_eq!(contents(at), 6);
}

#[test]
fn bytes_and_work_stay_where_they_are_when_they_are_exported() {
    let _guard = start(Config::default());
    let (_, handle) = create(1);
    let (at, a) = (map(handle), stream());
    write(a, at, 3);
    sim_cuda::run_all();
    // Queued before the export, run behind it.
    write(a, at + 8192, 4);
    let files = [export(handle), export(handle)];
    assert_eq!((files[0].0, files[1].0), (0, 0));
    sim_cuda::run_all();
    let mut bytes = [9u8; 3];
    for (byte, offset) in bytes.iter_mut().zip([0, 8192, PAGE as i64 - 1]) {
        // SAFETY: a descriptor of the test, and room for a byte.
        let read = unsafe { libc::pread(files[1].1, (byte as *mut u8).cast(), 1, offset) };
        assert_eq!(read, 1);
    }
    assert_eq!((bytes, contents(at)), ([3, 4, 0], 3));
    files.iter().for_each(|&(_, file)| close(file));
}

#[test]
fn what_could_be_exported_costs_no_descriptor() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    for bookkeeping in [false, true] {
        let _guard = start(Config { bookkeeping, ..Config::default() });
        let before = open();
        let handles: Vec<u64> = (0..200).map(|_| create(1).1).collect();
        assert!(open() < before + 100);
        // Counted memory is exported, too, though there is nothing in it.
        let file = export(handles[7]).1;
        let (code, again) = import(file);
        assert_eq!((code, sim_cuda::used(0)), (0, 200 * PAGE));
        close(file);
        handles.into_iter().chain([again]).for_each(|it| assert_eq!(release(it), 0));
        assert_eq!(sim_cuda::used(0), 0);
    }
}
