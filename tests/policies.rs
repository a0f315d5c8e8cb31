//! The five policies: what each of them promises, measured.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod rig;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::order::Stream;
use forebay::pool::{Config, Flags, Policy, Pool, Stats};
use forebay::trace::{Action, Trace};
use rig::{KIB, MIB, Random};

/// Rounds after which a repeating trace on one stream has settled.
const WARM_UP: usize = 48;

/// A row of a trace: a block is taken, or given back, by its number.
#[derive(Clone, Copy)]
enum Row {
    Take(usize, usize),
    Give(usize),
}

/// One training step of a small transformer: activations that live until their gradient is
/// there, temporaries of every size in between, and nothing live at the end.
fn transformer() -> Vec<Row> {
    const LAYERS: usize = 12;
    const TOKENS: usize = 512;
    const WIDTH: usize = 768;
    let hidden = TOKENS * WIDTH * 2;
    let mut rows = Vec::new();
    let mut next = 0;
    let mut random = Random(7);
    let mut take = |rows: &mut Vec<Row>, size: usize| {
        rows.push(Row::Take(next, size));
        next += 1;
        next - 1
    };
    let mut kept = Vec::new();
    for _ in 0..LAYERS {
        let norm = [take(&mut rows, TOKENS * 4), take(&mut rows, TOKENS * 4)];
        let query_key_value = take(&mut rows, 3 * hidden);
        let scores = take(&mut rows, 12 * TOKENS * 256 * 2);
        let mask = take(&mut rows, TOKENS / 8 + random.below(300));
        rows.push(Row::Give(scores));
        let attention = take(&mut rows, hidden);
        let up = take(&mut rows, 4 * hidden);
        let scalars: Vec<_> = (0..8).map(|_| take(&mut rows, 4 + random.below(2000))).collect();
        let gate = take(&mut rows, 4 * hidden);
        rows.push(Row::Give(gate));
        scalars.into_iter().for_each(|block| rows.push(Row::Give(block)));
        kept.push([norm[0], norm[1], query_key_value, mask, attention, up]);
    }
    for layer in kept.into_iter().rev() {
        let gradient = take(&mut rows, 4 * hidden);
        let weights = take(&mut rows, WIDTH * WIDTH * 4 * 2);
        layer.into_iter().for_each(|block| rows.push(Row::Give(block)));
        rows.push(Row::Give(weights));
        rows.push(Row::Give(gradient));
    }
    rows
}

/// The recorded step, with what it leaves live given back at the end.
fn recorded() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples_c/gpt_step.csv.gz");
    let trace = Trace::load(path).unwrap();
    let mut numbers = HashMap::new();
    let mut next = 0;
    let mut rows = Vec::new();
    for event in trace.events {
        match event.action {
            Action::Allocate if event.size > 0 => {
                numbers.insert(event.pointer, next);
                rows.push(Row::Take(next, event.size as usize));
                next += 1;
            }
            Action::Free => rows.extend(numbers.remove(&event.pointer).map(Row::Give)),
            Action::Allocate | Action::AllocateFailure => {}
        }
    }
    let mut left: Vec<usize> = numbers.into_values().collect();
    left.sort_unstable();
    rows.extend(left.into_iter().map(Row::Give));
    rows
}

/// Plays `rows` once, `at` after each; bookkeeping only, no byte is touched.
fn play(pool: &Pool, rows: &[Row], stream: impl Fn(usize) -> Stream, mut at: impl FnMut(&Pool)) {
    let mut blocks = HashMap::new();
    for row in rows {
        match *row {
            Row::Take(number, size) => {
                blocks.insert(number, pool.alloc(size, stream(number)).unwrap());
            }
            Row::Give(number) => {
                pool.free(blocks.remove(&number).unwrap(), stream(number)).unwrap();
            }
        }
        at(pool);
    }
    assert!(blocks.is_empty());
}

fn on_default(_: usize) -> Stream {
    Stream::DEFAULT
}

fn pool_with(policy: Policy, max_bytes: usize) -> Arc<Pool> {
    Pool::on_host(&Config { max_bytes: max_bytes as u64, policy, ..Config::default() }).unwrap()
}

/// Reserved over requested where requested was highest, and the peaks of both.
fn reserved_at_peak(pool: &Pool, rows: &[Row]) -> (f64, f64) {
    let mut best = Stats::default();
    play(pool, rows, on_default, |pool| {
        let stats = pool.stats();
        if stats.requested[0] > best.requested[0] {
            best = stats;
        }
    });
    let stats = pool.stats();
    let at_peak = best.reserved[0] as f64 / best.requested[0] as f64;
    (at_peak, stats.reserved[1] as f64 / stats.requested[1] as f64)
}

#[test]
fn conservative_reserves_little_more_than_is_requested() {
    for (name, rows) in [("transformer", transformer()), ("recorded", recorded())] {
        let pool = pool_with(Policy::Conservative, 8 << 30);
        for round in 0..3 {
            let (at_peak, peaks) = reserved_at_peak(&pool, &rows);
            println!("conservative, {name}, round {round}: {at_peak:.4}, peaks {peaks:.4}");
            assert!(at_peak <= 1.07 && peaks <= 1.07, "{name}: {at_peak} {peaks}");
            // A free gives pages back, without anybody asking.
            assert_eq!(pool.stats().reserved[0], 0, "{name}: idle pages are kept");
        }
        assert!(pool.stats().trims > 0);
    }
}

#[test]
fn conservative_gives_pages_back_with_each_free() {
    let pool = pool_with(Policy::Conservative, 256 << 20);
    let blocks: Vec<_> = (0..20).map(|_| pool.alloc(10 * MIB, Stream::DEFAULT).unwrap()).collect();
    let stream = rig::TestStream::new();
    for (left, block) in blocks.into_iter().enumerate().rev() {
        // Of blocks freed on a stream, once it is done.
        let on = if left % 2 == 0 { Stream::DEFAULT } else { stream.handle() };
        pool.free(block, on).unwrap();
        let stats = pool.stats();
        // Blocks of 5 pages each share none.
        assert_eq!(
            (stats.reserved[0], stats.requested[0]),
            ((left * 10 * MIB) as u64, (left * 10 * MIB) as u64)
        );
    }
}

#[test]
fn balanced_reserves_at_most_thirty_percent_more() {
    for (name, rows) in [("transformer", transformer()), ("recorded", recorded())] {
        let pool = pool_with(Policy::Balanced, 8 << 30);
        for round in 0..3 {
            let (at_peak, peaks) = reserved_at_peak(&pool, &rows);
            println!("balanced, {name}, round {round}: {at_peak:.4}, peaks {peaks:.4}");
            assert!(at_peak <= 1.30 && peaks <= 1.30, "{name}: {at_peak} {peaks}");
        }
    }
}

#[test]
fn balanced_gives_back_what_was_idle_for_ten_seconds() {
    let pool = pool_with(Policy::Balanced, 256 << 20);
    let start = Instant::now();
    let kept = pool.alloc(20 * MIB, Stream::DEFAULT).unwrap();
    let idle = pool.alloc(60 * MIB, Stream::DEFAULT).unwrap();
    let used_now_and_then = pool.alloc(30 * MIB, Stream::DEFAULT).unwrap();
    pool.free(idle, Stream::DEFAULT).unwrap();
    pool.free(used_now_and_then, Stream::DEFAULT).unwrap();
    let all = pool.stats().reserved[0];
    assert!(all >= (110 * MIB) as u64);
    assert!(pool.tick(start + Duration::from_secs(9)), "there is something to come back for");
    assert_eq!(pool.stats().reserved[0], all, "not before its time");
    pool.tick(start + Duration::from_secs(11));
    // Used within the ten seconds that follow: what it needs is not idle.
    let again = pool.alloc(30 * MIB, Stream::DEFAULT).unwrap();
    pool.free(again, Stream::DEFAULT).unwrap();
    pool.tick(start + Duration::from_secs(22));
    let reserved = pool.stats().reserved[0];
    assert!(reserved < all, "what nobody used for ten seconds is kept");
    assert!(reserved >= (50 * MIB) as u64, "{reserved}: what was used is gone");
    // The thread's front cache keeps the block it freed last, whatever its size.
    let small = pool.alloc(100, Stream::DEFAULT).unwrap();
    pool.free(small, Stream::DEFAULT).unwrap();
    pool.tick(start + Duration::from_secs(33));
    pool.tick(start + Duration::from_secs(44));
    let reserved = pool.stats().reserved[0];
    // The block that lives, and the page of the small one.
    assert!(reserved <= (22 * MIB) as u64, "{reserved} after all that time");
    pool.check().unwrap();
    pool.free(kept, Stream::DEFAULT).unwrap();
}

#[test]
fn balanced_keeps_at_most_half_of_the_limit_idle() {
    let pool = pool_with(Policy::Balanced, 128 << 20);
    let blocks: Vec<_> = (0..12).map(|_| pool.alloc(10 * MIB, Stream::DEFAULT).unwrap()).collect();
    blocks.into_iter().for_each(|block| pool.free(block, Stream::DEFAULT).unwrap());
    let reserved = pool.stats().reserved[0];
    // And one block in the thread's front cache.
    assert!(reserved <= (64 * MIB + 10 * MIB) as u64, "{reserved}");
    assert!(reserved >= 40 << 20, "{reserved}: nothing is kept for reuse");
}

#[test]
fn aggressive_reuse_hits_ninety_nine_of_a_hundred() {
    for (name, rows) in [("transformer", transformer()), ("recorded", recorded())] {
        let pool = pool_with(Policy::AggressiveReuse, 16 << 30);
        play(&pool, &rows, on_default, |_| ());
        let before = pool.stats();
        for _ in 0..10 {
            play(&pool, &rows, on_default, |_| ());
        }
        let after = pool.stats();
        let share =
            (after.hits - before.hits) as f64 / (after.allocations - before.allocations) as f64;
        println!("aggressive_reuse, {name}: {share:.5}");
        assert!(share >= 0.99, "{name}: {share}");
        assert_eq!(after.trims, 0, "it gave something back unasked");
    }
}

/// Fills pools with bytes that are not zero, of every kind of block.
fn dirty(pool: &Pool) {
    for size in [1, 16, 100, 1000, 4096, 20_000, 32 * KIB, 33 * KIB, 200 * KIB, MIB, 5 * MIB] {
        let blocks: Vec<_> = (0..3).map(|_| pool.alloc(size, Stream::DEFAULT).unwrap()).collect();
        for &block in &blocks {
            rig::write(block, pool.usable_size(block).unwrap() as usize, 0x0101_0101_0101_0101);
        }
        blocks.iter().for_each(|&block| pool.free(block, Stream::DEFAULT).unwrap());
    }
}

fn all_zero(pool: &Pool) {
    let mut random = Random(3);
    for round in 0..60 {
        let size = match round % 4 {
            0 => 1 + random.below(2000),
            1 => 1 + random.below(40 * KIB),
            2 => 1 + random.below(MIB),
            _ => MIB + random.below(5 * MIB),
        };
        let block = pool.alloc(size, Stream::DEFAULT).unwrap();
        assert!(rig::is_zero(block, size), "{size} bytes are not zero");
        if size >= 2 * MIB {
            assert_eq!(block % (2 * MIB), 0, "a large block begins at a page");
        }
        rig::write(block, size, 0xFFFF);
        // Every other way to get bytes.
        let larger = pool.realloc(block, 2 * size, Stream::DEFAULT).unwrap();
        rig::read(larger, size, 0xFFFF).unwrap();
        assert!(rig::is_zero(larger + size, size), "{size} bytes more by realloc are not zero");
        let aligned = pool.alloc_aligned(size, 4096, Stream::DEFAULT).unwrap();
        assert!(rig::is_zero(aligned, size), "{size} aligned bytes are not zero");
        rig::write(aligned, size, 0xFFFF);
        let batch = pool.alloc_batch(&[size, 100], Stream::DEFAULT).unwrap();
        assert!(rig::is_zero(batch[0], size) && rig::is_zero(batch[1], 100));
        rig::write(batch[0], size, 0xFFFF);
        rig::write(batch[1], 100, 0xFFFF);
        for block in [larger, aligned, batch[0], batch[1]] {
            pool.free(block, Stream::DEFAULT).unwrap();
        }
    }
    pool.check().unwrap();
}

#[test]
fn quality_first_gives_zeroes_only() {
    let pool = pool_with(Policy::QualityFirst, 128 << 20);
    dirty(&pool);
    all_zero(&pool);
    // Nor after everything went back to the system and came again.
    pool.trim(0).unwrap();
    all_zero(&pool);
}

#[test]
fn quality_first_is_not_downgraded_by_what_came_before() {
    for before in Policy::ALL {
        let pool = pool_with(before, 128 << 20);
        dirty(&pool);
        // A small block that lives keeps the old size classes in use.
        let live = pool.alloc(100, Stream::DEFAULT).unwrap();
        pool.set_policy(Policy::QualityFirst).unwrap();
        all_zero(&pool);
        // In a thread that had a front cache under the old policy, and in a new one.
        let of_thread = Arc::clone(&pool);
        std::thread::spawn(move || all_zero(&of_thread)).join().unwrap();
        pool.free(live, Stream::DEFAULT).unwrap();
        all_zero(&pool);
        pool.set_policy(before).unwrap();
        let block = pool.alloc(3 * MIB, Stream::DEFAULT).unwrap();
        pool.free(block, Stream::DEFAULT).unwrap();
        pool.check().unwrap();
    }
}

#[test]
fn latency_first_makes_no_system_call_after_warm_up() {
    for (name, rows) in [("transformer", transformer()), ("recorded", recorded())] {
        let config = Config {
            max_bytes: 4 << 30,
            // Mapped and touched at the start: where it is enough, that is all the warm-up.
            initial_bytes: 1 << 30,
            policy: Policy::LatencyFirst,
            ..Config::default()
        };
        let peak = {
            let probe = pool_with(Policy::LatencyFirst, 8 << 30);
            play(&probe, &rows, on_default, |_| ());
            probe.stats().reserved[1]
        };
        let config =
            Config { initial_bytes: (peak + (64 << 20)).min(config.initial_bytes), ..config };
        if peak > config.initial_bytes {
            // Too much to touch in a test: the first steps map the rest.
            println!("{name}: peak {peak}");
        }
        let pool = Pool::on_host(&config).unwrap();
        if peak > config.initial_bytes {
            for _ in 0..WARM_UP {
                play(&pool, &rows, on_default, |_| ());
            }
        }
        let before = pool.stats();
        for _ in 0..3 {
            play(&pool, &rows, on_default, |_| ());
        }
        let after = pool.stats();
        assert_eq!(after.system_calls, before.system_calls, "{name}");
        assert_eq!((after.trims, after.misses), (0, before.misses), "{name}");
    }
}

#[test]
fn latency_first_touches_its_initial_bytes() {
    let config = Config {
        max_bytes: 64 << 20,
        initial_bytes: 32 << 20,
        policy: Policy::LatencyFirst,
        ..Config::default()
    };
    let pool = Pool::on_host(&config).unwrap();
    assert_eq!(pool.stats().reserved[0], 32 << 20);
    let block = pool.alloc(30 * MIB, Stream::DEFAULT).unwrap();
    let faults = || {
        // SAFETY: all zeros is a value of it, and it is a place for the answer.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) }, 0);
        usage.ru_minflt
    };
    let before = faults();
    rig::write(block, 30 * MIB, 9);
    assert_eq!(faults(), before, "page faults where everything was touched at the start");
    pool.free(block, Stream::DEFAULT).unwrap();
}

#[test]
fn after_warm_up_a_repeating_trace_makes_no_system_call() {
    // Conservative is the policy that does: it gives pages back.
    let stream = rig::TestStream::new();
    let handle = stream.handle();
    for policy in
        [Policy::Balanced, Policy::AggressiveReuse, Policy::QualityFirst, Policy::LatencyFirst]
    {
        for (name, rows) in [("transformer", transformer()), ("recorded", recorded())] {
            if policy == Policy::QualityFirst && name == "recorded" {
                // It writes every byte it gives out, some hundred gigabytes here.
                continue;
            }
            for on in [Stream::DEFAULT, handle] {
                let pool = pool_with(policy, 16 << 30);
                for _ in 0..WARM_UP {
                    play(&pool, &rows, |_| on, |_| ());
                }
                let before = pool.stats();
                for _ in 0..5 {
                    play(&pool, &rows, |_| on, |_| ());
                }
                let after = pool.stats();
                assert_eq!(after.system_calls, before.system_calls, "{policy:?}, {name}, {on:?}");
                assert_eq!(after.misses, before.misses, "{policy:?}, {name}, {on:?}");
                assert_eq!(after.reserved, before.reserved, "{policy:?}, {name}, {on:?}");
            }
        }
    }
}

#[test]
fn after_warm_up_a_repeating_trace_on_two_streams_makes_no_system_call() {
    let stream = rig::TestStream::new();
    let streams = [Stream::DEFAULT, stream.handle()];
    for policy in [Policy::Balanced, Policy::AggressiveReuse, Policy::LatencyFirst] {
        for rows in [transformer(), recorded()] {
            let pool = pool_with(policy, 16 << 30);
            for _ in 0..2 * WARM_UP {
                play(&pool, &rows, |number| streams[number % 2], |_| ());
            }
            let before = pool.stats();
            for _ in 0..5 {
                play(&pool, &rows, |number| streams[number % 2], |_| ());
            }
            let after = pool.stats();
            assert_eq!(after.system_calls, before.system_calls, "{policy:?}, {} rows", rows.len());
        }
    }
}

#[test]
fn debug_flags_poison_and_guard() {
    let flags = Flags { poison_on_free: true, guard_bytes: true, ..Flags::default() };
    let pool = Pool::on_host(&Config { max_bytes: 64 << 20, flags, ..Config::default() }).unwrap();
    for size in [40, 5000, 100 * KIB] {
        // Its neighbour lives, so that the page stays.
        let neighbour = pool.alloc(size, Stream::DEFAULT).unwrap();
        let block = pool.alloc(size, Stream::DEFAULT).unwrap();
        rig::write(block, size, 5);
        pool.free(block, Stream::DEFAULT).unwrap();
        // SAFETY: the pool keeps the page; nobody else uses it.
        let bytes = unsafe { std::slice::from_raw_parts(block as *const u8, size) };
        assert!(bytes.iter().all(|&byte| byte == 0xDF), "{size}");
        for behind in [0, 15] {
            let block = pool.alloc(size, Stream::DEFAULT).unwrap();
            pool.check().unwrap();
            // SAFETY: one of the guard bytes.
            unsafe { *((block + size + behind) as *mut u8) ^= 1 };
            assert_eq!(pool.check().unwrap_err().kind(), forebay::error::Kind::Corruption);
            let error = pool.free(block, Stream::DEFAULT).unwrap_err();
            assert_eq!(error.kind(), forebay::error::Kind::Corruption, "{error}");
            assert!(error.message().contains(&format!("{block:#x}")), "{error}");
            // It is freed all the same.
            let error = pool.free(block, Stream::DEFAULT).unwrap_err();
            assert_eq!(error.kind(), forebay::error::Kind::InvalidPointer, "{error}");
        }
        pool.free(neighbour, Stream::DEFAULT).unwrap();
    }
    pool.check().unwrap();
    assert_eq!(pool.stats().live_blocks, 0);
}

/// From empty places to empty places: a place drawn at random is given back if it holds a
/// block, else gets one of a tensor's size drawn at random.
fn drawn() -> Vec<Row> {
    const SIZES: [usize; 10] = [2, 64, 128, 256, 512, 1024, 3136, 6272, 12544, 37632];
    let (mut random, mut rows, mut next) = (Random(4), Vec::new(), 0);
    let mut places = [None; 64];
    for _ in 0..330 {
        let place = &mut places[random.below(64)];
        match place.take() {
            Some(block) => rows.push(Row::Give(block)),
            None => {
                rows.push(Row::Take(next, SIZES[random.below(10)] * KIB));
                *place = Some(next);
                next += 1;
            }
        }
    }
    rows.extend(places.into_iter().flatten().map(Row::Give));
    rows
}

#[test]
fn a_trace_without_a_rhythm_does_not_move_pages_for_ever() {
    // Sizes and places are drawn, so that no size moves at even intervals.
    let (pool, rows) = (pool_with(Policy::Balanced, 16 << 30), drawn());
    let steps = |count| (0..count).for_each(|_| play(&pool, &rows, |_| Stream::DEFAULT, |_| ()));
    steps(4 * WARM_UP);
    let before = pool.stats();
    steps(WARM_UP);
    let after = pool.stats();
    assert_eq!(after.system_calls, before.system_calls);
    let (reserved, allocated) = (after.reserved[1], after.allocated[1]);
    assert!(reserved * 3 <= allocated * 4, "{reserved} reserved for {allocated}");
}

/// Kilobytes that are resident in the mapping that has `address`.
#[cfg(target_os = "linux")]
fn resident_around(address: usize) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in maps.lines() {
        let first = line.split(' ').next().unwrap();
        if let Some((start, end)) = first.split_once('-') {
            let [start, end] = [start, end].map(|part| usize::from_str_radix(part, 16).unwrap());
            inside = (start..end).contains(&address);
        } else if inside && first == "Rss:" {
            return line.split_whitespace().nth(1).unwrap().parse().unwrap();
        }
    }
    panic!("{address:#x} is not mapped");
}

/// Huge pages are for who uses much.
#[cfg(target_os = "linux")]
#[test]
fn a_few_small_blocks_take_no_huge_page() {
    for policy in Policy::ALL {
        let config = Config { policy, max_bytes: 256 * MIB as u64, ..Config::default() };
        let pool = Pool::on_host(&config).unwrap();
        let block = pool.alloc(64 * KIB, Stream::DEFAULT).unwrap();
        // SAFETY: a block of so many bytes that is this test's.
        unsafe { std::ptr::write_bytes(block as *mut u8, 1, 64 * KIB) };
        let resident = resident_around(block);
        assert!((64..1024).contains(&resident), "{}: {resident} KiB", policy.name());
        pool.free(block, Stream::DEFAULT).unwrap();
    }
}
