//! The checker finds what no rule orders, and is silent about the correct twin of each.

#[allow(dead_code, unused_imports)]
mod common;

use common::{alloc, cu, event, read, record, start, stream, wait, write};
use sim_cuda::{Config, Kind, take_hazards};

fn kinds() -> Vec<Kind> {
    take_hazards().iter().map(|hazard| hazard.kind).collect()
}

/// Runs `body` once without and once with what makes it right.
fn twins(kind: Kind, body: impl Fn(bool)) {
    for right in [false, true] {
        let _guard = start(Config::default());
        body(right);
        sim_cuda::run_all();
        let found = kinds();
        if right {
            assert_eq!(found, [], "the correct twin");
        } else {
            assert_eq!(found, [kind]);
        }
    }
}

#[test]
fn missing_wait_between_streams() {
    twins(Kind::Race, |right| {
        let (a, b, at, done) = (stream(), stream(), alloc(4096).unwrap(), event());
        write(a, at, 1);
        record(done, a);
        if right {
            wait(b, done);
        }
        read(b, at);
    });
}

#[test]
fn write_after_read_across_streams() {
    twins(Kind::Race, |right| {
        let (a, b, at, done) = (stream(), stream(), alloc(4096).unwrap(), event());
        read(a, at);
        record(done, a);
        if right {
            assert_eq!(cu!(cuEventSynchronize(done => u64)), 0);
        }
        write(b, at, 1);
    });
}

#[test]
fn stale_event() {
    twins(Kind::Race, |right| {
        let (a, b, at, done) = (stream(), stream(), alloc(4096).unwrap(), event());
        record(done, a);
        write(a, at, 1);
        if right {
            record(done, a);
        }
        wait(b, done);
        write(b, at, 2);
    });
}

#[test]
fn a_query_that_says_ready_is_an_order_and_time_alone_is_none() {
    twins(Kind::Race, |right| {
        let (a, b, at, done) = (stream(), stream(), alloc(4096).unwrap(), event());
        write(a, at, 1);
        record(done, a);
        assert_eq!(cu!(cuEventQuery(done => u64)), 600);
        sim_cuda::run_all();
        if right {
            assert_eq!(cu!(cuEventQuery(done => u64)), 0);
        }
        write(b, at, 2);
    });
}

#[test]
fn free_while_work_uses_it() {
    twins(Kind::Retired, |right| {
        let (a, at) = (stream(), alloc(4096).unwrap());
        write(a, at, 1);
        if right {
            assert_eq!(cu!(cuStreamSynchronize(a => u64)), 0);
        }
        assert_eq!(cu!(cuMemFree_v2(at => u64)), 0);
    });
}

#[test]
fn reuse_of_one_block_by_two_streams_through_a_third() {
    // X is freed by A while its work is held; B gets it and passes it on to C.
    twins(Kind::Race, |right| {
        let (a, b, c) = (stream(), stream(), stream());
        let (at, from_a, from_b) = (alloc(4096).unwrap(), event(), event());
        write(a, at, 1);
        record(from_a, a);
        if right {
            wait(b, from_a);
        }
        record(from_b, b);
        wait(c, from_b);
        write(c, at, 3);
    });
}

#[test]
fn use_after_free_is_an_illegal_address_for_ever() {
    let _guard = start(Config::default());
    let (a, at) = (stream(), alloc(4096).unwrap());
    assert_eq!(cu!(cuMemFree_v2(at => u64)), 0);
    write(a, at, 1);
    assert_eq!(kinds(), [Kind::Unmapped]);
    assert_eq!(cu!(cuStreamSynchronize(a => u64)), 700);
    assert_eq!(alloc(1), Err(700));
}

#[test]
fn the_legacy_stream_is_in_order_with_blocking_ones() {
    for flags in [0, 1] {
        let _guard = start(Config::default());
        let mut a = 0u64;
        assert_eq!(cu!(cuStreamCreate(&mut a => *mut u64, flags => u32)), 0);
        let at = alloc(4096).unwrap();
        write(a, at, 1);
        write(0, at, 2);
        write(a, at, 3);
        assert_eq!(kinds().len(), 2 * flags as usize);
    }
}

#[test]
fn a_report_names_both_operations_and_what_came_before() {
    let _guard = start(Config::default());
    let (a, b, at) = (stream(), stream(), alloc(8192).unwrap());
    read(a, at);
    write(a, at + 1024, 1);
    read(b, at);
    let hazards = take_hazards();
    let [hazard] = &hazards[..] else { panic!("{hazards:?}") };
    assert_eq!((hazard.address, hazard.bytes), (at + 1024, 3072));
    assert!(hazard.earlier.contains("kernel write"), "{hazard}");
    assert!(hazard.later.contains("kernel read"), "{hazard}");
    assert!(hazard.earlier_chain[0].contains("kernel read"), "{hazard}");
}

#[test]
fn many_operations_are_checked_in_seconds() {
    let _guard = start(Config { bookkeeping: true, ..Config::default() });
    let streams: Vec<u64> = (0..4).map(|_| stream()).collect();
    let at = alloc(4 << 30).unwrap();
    let begun = std::time::Instant::now();
    for n in 0..100_000u64 {
        let stream = streams[n as usize % 4];
        write(stream, at + (n % 4) * 65536 * 4096 + n % 65536 * 4096, 1);
        sim_cuda::advance(4000);
    }
    assert_eq!(kinds(), []);
    // Under a second where nothing else runs, unoptimised.
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

/// Two mappings of one page, which device 0 may use if `access`.
fn mapped_twice(access: bool) -> u64 {
    use sim_cuda::api::memory::{Access, Location, Properties};
    let (mut at, mut handle, page) = (0u64, 0u64, common::PAGE as usize);
    let on = Properties::on(0);
    let code = cu!(cuMemAddressReserve(&mut at => *mut u64, 2 * page => usize, 0 => usize,
        0 => u64, 0 => u64));
    assert_eq!(code, 0);
    let code = cu!(cuMemCreate(&mut handle => *mut u64, page => usize, &on => *const Properties,
        0 => u64));
    assert_eq!(code, 0);
    for to in [at, at + common::PAGE] {
        let code = cu!(cuMemMap(to => u64, page => usize, 0 => usize, handle => u64, 0 => u64));
        assert_eq!(code, 0);
    }
    if access {
        let access = Access { location: Location { kind: 1, id: 0 }, flags: 3 };
        let code = cu!(cuMemSetAccess(at => u64, 2 * page => usize, &access => *const Access,
            1 => usize));
        assert_eq!(code, 0);
    }
    at
}

#[test]
fn two_mappings_of_a_page_are_the_same_bytes() {
    twins(Kind::Race, |right| {
        let (a, b, at, done) = (stream(), stream(), mapped_twice(true), event());
        write(a, at, 6);
        record(done, a);
        if right {
            wait(b, done);
        }
        read(b, at + common::PAGE);
    });
    let _guard = start(Config::default());
    let (at, mut byte) = (mapped_twice(true), 0u8);
    assert_eq!(cu!(cuMemsetD8_v2(at + 5 => u64, 8 => u8, 1 => usize)), 0);
    let to = &mut byte as *mut u8 as u64;
    let code = cu!(cuMemcpyDtoH_v2(to => u64, at + common::PAGE + 5 => u64, 1 => usize));
    assert_eq!((code, byte), (0, 8));
}

#[test]
fn mapped_memory_is_not_for_use_without_access() {
    twins(Kind::Unmapped, |right| write(stream(), mapped_twice(right), 1));
}

#[test]
fn unmap_while_work_uses_it() {
    twins(Kind::Retired, |right| {
        let (a, at, done) = (stream(), mapped_twice(true), event());
        write(a, at, 1);
        record(done, a);
        if right {
            assert_eq!(cu!(cuEventSynchronize(done => u64)), 0);
        }
        assert_eq!(cu!(cuMemUnmap(at => u64, common::PAGE as usize => usize)), 0);
    });
}

#[test]
fn the_host_faults_on_a_device_address() {
    let _guard = start(Config::default());
    let at = alloc(4096).unwrap();
    // SAFETY: the child does nothing but read one byte and end.
    let status = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            std::hint::black_box((at as *const u8).read_volatile());
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        status
    };
    assert!(libc::WIFSIGNALED(status));
    assert_eq!(libc::WTERMSIG(status), libc::SIGSEGV);
}
