//! Prefetchers over pools on the host: what a batch is, who may have it when, and that every end
//! is in bounded time.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod rig;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use forebay::device::cuda::Piece;
use forebay::error::{Kind, Result};
use forebay::order::Stream;
use forebay::pool::{self, Pool};
use forebay::prefetch::{
    ALIGNMENT, Batch, Config, DIRECT_ALIGNMENT, Leaf, OnPool, Over, Prefetcher, Progress, Room,
    SLOTS_MAX, Source, Target,
};
use rig::{Random, TestStream};

const DEFAULT: Stream = Stream::DEFAULT;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

type OnHost = Prefetcher<OnPool>;

fn pool() -> Arc<Pool> {
    Pool::on_host(&pool::Config { max_bytes: 256 << 20, ..Default::default() }).unwrap()
}

fn config(slots: u32, copy_threads: u32) -> Config {
    Config { slots, copy_threads, ..Config::default() }
}

fn memory(bytes: &[u8]) -> Leaf {
    let source = Source::Memory { address: bytes.as_ptr() as usize, pinned: false };
    Leaf { source, bytes: bytes.len() as u64 }
}

fn in_file(file: &File, offset: u64, bytes: u64, direct: bool) -> Leaf {
    Leaf { source: Source::File { fd: file.as_raw_fd(), offset, direct }, bytes }
}

fn submit(prefetcher: &OnHost, leaves: &[Leaf]) -> u64 {
    // SAFETY: tests keep sources until they have waited for the batch, or called it off.
    unsafe { prefetcher.submit(leaves.iter().copied(), None) }.unwrap()
}

fn bytes_of(batch: Batch) -> &'static [u8] {
    // SAFETY: tests look at batches that they have.
    unsafe { std::slice::from_raw_parts(batch.address as *const u8, batch.bytes as usize) }
}

/// Bytes that tell where they are from.
fn pattern(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (seed * 31 + at * 7 + at / 256) as u8).collect()
}

/// Nothing is left of it.
fn end(prefetcher: OnHost, pool: Arc<Pool>) {
    prefetcher.destroy().unwrap();
    assert_eq!(pool.stats().live_blocks, 0);
    pool.check().unwrap();
    Pool::destroy(pool).unwrap();
}

/// A file that is gone with its handle.
fn file_of(bytes: &[u8]) -> File {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name = format!("prefetch-{}-{:?}", std::process::id(), std::thread::current().id());
    let path = path.join(name);
    File::create(&path).unwrap().write_all(bytes).unwrap();
    let file = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

#[test]
fn a_batch_is_its_leaves_side_by_side() {
    for threads in [0, 1, 3] {
        let pool = pool();
        let prefetcher = Prefetcher::over(&pool, &config(3, threads)).unwrap();
        let sizes = [1, 256, 0, 255, 3 * MIB + 17, 4096, 700 * KIB];
        let sources: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(seed, &bytes)| pattern(seed, bytes)).collect();
        let leaves: Vec<Leaf> = sources.iter().map(|source| memory(source)).collect();
        for _ in 0..20 {
            let ticket = submit(&prefetcher, &leaves);
            let batch = prefetcher.wait(ticket, DEFAULT).unwrap();
            let (mut at, all) = (0usize, bytes_of(batch));
            for source in &sources {
                at = at.next_multiple_of(ALIGNMENT as usize);
                assert_eq!(all[at..at + source.len()], source[..]);
                at += source.len();
            }
            assert_eq!(at, all.len());
            assert_eq!(prefetcher.poll(ticket).unwrap(), Progress::There);
            prefetcher.release(ticket, DEFAULT).unwrap();
        }
        let stats = prefetcher.stats().unwrap();
        assert_eq!((stats.submitted, stats.delivered, stats.used_slots), (20, 20, 0));
        // One copy of each byte, and slots that grew once.
        assert_eq!(stats.staged_bytes, 20 * sizes.iter().sum::<usize>() as u64);
        assert_eq!((stats.grown, stats.sends, stats.pinned_peak), (0, 0, 0));
        end(prefetcher, pool);
    }
}

#[test]
fn batches_are_ahead_by_the_slots_and_no_more() {
    let pool = pool();
    let prefetcher = Prefetcher::over(&pool, &config(3, 2)).unwrap();
    let source = pattern(1, 100 * KIB);
    let tickets: Vec<u64> = (0..3).map(|_| submit(&prefetcher, &[memory(&source)])).collect();
    // SAFETY: the source stays.
    let refused = unsafe { prefetcher.submit([memory(&source)].into_iter(), Some(Duration::ZERO)) };
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.message().contains("all 3 slots"), "{error}");
    let began = Instant::now();
    // SAFETY: as above.
    let refused = unsafe {
        prefetcher.submit([memory(&source)].into_iter(), Some(Duration::from_millis(30)))
    };
    assert_eq!(refused.unwrap_err().kind(), Kind::Busy);
    assert!(began.elapsed() >= Duration::from_millis(30));
    // Who waits gets the slot that is released.
    let released = AtomicBool::new(false);
    scope(|threads| {
        threads.spawn(|| {
            let ticket = submit(&prefetcher, &[memory(&source)]);
            assert!(released.load(Ordering::Acquire));
            prefetcher.wait(ticket, DEFAULT).unwrap();
            prefetcher.release(ticket, DEFAULT).unwrap();
        });
        sleep(Duration::from_millis(20));
        prefetcher.wait(tickets[0], DEFAULT).unwrap();
        released.store(true, Ordering::Release);
        prefetcher.release(tickets[0], DEFAULT).unwrap();
    });
    for &ticket in &tickets[1..] {
        prefetcher.wait(ticket, DEFAULT).unwrap();
        prefetcher.release(ticket, DEFAULT).unwrap();
    }
    let stats = prefetcher.stats().unwrap();
    assert!(stats.submit_wait_ns >= 30_000_000, "{stats:?}");
    assert_eq!(pool.stats().live_blocks, 3);
    end(prefetcher, pool);
}

#[test]
fn a_slot_is_lent_to_be_written_to() {
    let pool = pool();
    let prefetcher = Prefetcher::over(&pool, &config(2, 1)).unwrap();
    let lent = prefetcher.lend(MIB as u64, None).unwrap();
    assert_eq!((lent.address % DIRECT_ALIGNMENT as usize, lent.bytes >= MIB as u64), (0, true));
    let error = prefetcher.wait(lent.ticket, DEFAULT).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidState);
    let error = prefetcher.submit_lent(lent.ticket, lent.bytes + 1).unwrap_err();
    assert!(error.message().contains("size is"), "{error}");
    rig::write(lent.address, MIB, 77);
    prefetcher.submit_lent(lent.ticket, MIB as u64).unwrap();
    assert_eq!(prefetcher.submit_lent(lent.ticket, 1).unwrap_err().kind(), Kind::InvalidState);
    let batch = prefetcher.wait(lent.ticket, DEFAULT).unwrap();
    assert_eq!(batch, Batch { address: lent.address, bytes: MIB as u64 });
    rig::read(batch.address, MIB, 77).unwrap();
    prefetcher.release(lent.ticket, DEFAULT).unwrap();
    // One that is not submitted is given back.
    let lent = prefetcher.lend(1, None).unwrap();
    prefetcher.cancel(lent.ticket).unwrap();
    let stats = prefetcher.stats().unwrap();
    assert_eq!((stats.staged_bytes, stats.submitted, stats.used_slots), (0, 1, 0));
    end(prefetcher, pool);
}

#[test]
fn a_slot_is_used_again_behind_its_reader() {
    let pool = pool();
    for threads in [0, 2] {
        let prefetcher = Prefetcher::over(&pool, &config(1, threads)).unwrap();
        let stream = TestStream::new();
        for round in 0..50 {
            let source = pattern(round, 64 * KIB);
            let ticket = submit(&prefetcher, &[memory(&source)]);
            let batch = prefetcher.wait(ticket, stream.handle()).unwrap();
            let read = move || {
                sleep(Duration::from_micros(200));
                assert_eq!(bytes_of(batch), source);
            };
            let failed = Arc::new(AtomicBool::new(true));
            let told = Arc::clone(&failed);
            stream.submit(move || {
                read();
                told.store(false, Ordering::Release);
            });
            prefetcher.release(ticket, stream.handle()).unwrap();
            // The next batch is written when that is done.
            let next = pattern(round + 1, 64 * KIB);
            let ticket = submit(&prefetcher, &[memory(&next)]);
            assert!(!failed.load(Ordering::Acquire), "round {round}");
            prefetcher.wait(ticket, DEFAULT).unwrap();
            prefetcher.release(ticket, DEFAULT).unwrap();
        }
        prefetcher.destroy().unwrap();
    }
    assert_eq!(pool.stats().live_blocks, 0);
}

#[test]
fn files_are_read_into_the_slot() {
    let bytes = pattern(5, 5 * MIB + 321);
    let file = file_of(&bytes);
    for direct in [false, true] {
        for threads in [0, 2] {
            let pool = pool();
            let prefetcher = Prefetcher::over(&pool, &config(3, threads)).unwrap();
            for (offset, length) in
                [(0, bytes.len()), (1, 4096), (4096, 3 * MIB + 1), (8192, 100), (12_345, 2 * MIB)]
            {
                let extra = pattern(9, 300);
                let leaves = [memory(&extra), in_file(&file, offset as u64, length as u64, direct)];
                let ticket = submit(&prefetcher, &leaves);
                let batch = bytes_of(prefetcher.wait(ticket, DEFAULT).unwrap());
                let at = if direct { DIRECT_ALIGNMENT as usize } else { 512 };
                assert_eq!(batch[..300], extra[..]);
                assert!(batch[at..] == bytes[offset..offset + length], "{offset} +{length}");
                prefetcher.release(ticket, DEFAULT).unwrap();
            }
            end(prefetcher, pool);
        }
    }
}

#[test]
fn what_cannot_be_read_is_an_error_in_its_place() {
    let file = file_of(&pattern(1, MIB));
    let unreadable = std::fs::OpenOptions::new().append(true).open("/dev/null").unwrap();
    for threads in [0, 2] {
        let pool = pool();
        let prefetcher = Prefetcher::over(&pool, &config(4, threads)).unwrap();
        let good = pattern(2, 1000);
        let tickets = [
            submit(&prefetcher, &[memory(&good)]),
            submit(&prefetcher, &[memory(&good), in_file(&file, 4096, 2 * MIB as u64, false)]),
            submit(&prefetcher, &[in_file(&unreadable, 7, 10, false)]),
            submit(&prefetcher, &[memory(&good)]),
        ];
        for (at, &ticket) in tickets.iter().enumerate() {
            let waited = prefetcher.wait(ticket, DEFAULT);
            match at {
                1 => {
                    let error = waited.unwrap_err();
                    assert_eq!(error.kind(), Kind::Io);
                    assert!(error.message().contains("ends at 1048576"), "{error}");
                }
                2 => {
                    let error = waited.unwrap_err();
                    assert_eq!(error.kind(), Kind::Io);
                    assert!(error.message().contains("at 7 of the file"), "{error}");
                }
                _ => {
                    assert_eq!(bytes_of(waited.unwrap()), good);
                    prefetcher.release(ticket, DEFAULT).unwrap();
                }
            }
            // It is over either way.
            assert_eq!(prefetcher.poll(ticket).unwrap_err().kind(), Kind::InvalidArgument);
        }
        let stats = prefetcher.stats().unwrap();
        assert_eq!((stats.failed, stats.delivered, stats.used_slots), (2, 2, 0));
        end(prefetcher, pool);
    }
}

#[test]
fn slots_grow_as_far_as_they_may() {
    let pool = pool();
    let growing = Config { slot_bytes: 4096, max_slot_bytes: MIB as u64, ..config(2, 1) };
    let prefetcher = Prefetcher::over(&pool, &growing).unwrap();
    assert_eq!(prefetcher.stats().unwrap().slot_bytes, 2 * 4096);
    for bytes in [4096, 4097, 100_000, MIB] {
        let source = pattern(bytes, bytes);
        for _ in 0..3 {
            let ticket = submit(&prefetcher, &[memory(&source)]);
            assert_eq!(bytes_of(prefetcher.wait(ticket, DEFAULT).unwrap()), source);
            prefetcher.release(ticket, DEFAULT).unwrap();
        }
    }
    let stats = prefetcher.stats().unwrap();
    assert_eq!((stats.slot_bytes, stats.grown), (2 * MIB as u64, 6));
    let source = pattern(1, MIB + 1);
    // SAFETY: it is refused.
    let error = unsafe { prefetcher.submit([memory(&source)].into_iter(), None) }.unwrap_err();
    assert!(error.message().contains("more than 1048576 bytes"), "{error}");
    assert_eq!(prefetcher.stats().unwrap().used_slots, 0);
    end(prefetcher, pool);
}

#[test]
fn a_pool_that_is_full_is_an_error_and_nothing_is_lost() {
    let pool = Pool::on_host(&pool::Config { max_bytes: 4 << 20, ..Default::default() }).unwrap();
    let large = Config { slot_bytes: 3 << 20, ..config(2, 1) };
    let error = Prefetcher::over(&pool, &large).err().unwrap();
    assert_eq!(error.kind(), Kind::OutOfMemory);
    assert_eq!(pool.stats().live_blocks, 0);
    let prefetcher = Prefetcher::over(&pool, &config(2, 1)).unwrap();
    let (small, large) = (pattern(1, MIB), pattern(2, 5 * MIB));
    let ticket = submit(&prefetcher, &[memory(&small)]);
    // SAFETY: it is refused.
    let error = unsafe { prefetcher.submit([memory(&large)].into_iter(), None) }.unwrap_err();
    assert_eq!(error.kind(), Kind::OutOfMemory);
    assert_eq!(bytes_of(prefetcher.wait(ticket, DEFAULT).unwrap()), small);
    prefetcher.release(ticket, DEFAULT).unwrap();
    end(prefetcher, pool);
}

#[test]
fn wrong_use_is_refused() {
    let pool = pool();
    let error = |wrong: Config, part: &str| {
        let error = Prefetcher::over(&pool, &wrong).err().unwrap();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.message().contains(part), "{error}");
    };
    error(config(0, 1), "slots is 0");
    error(config(SLOTS_MAX + 1, 1), "slots is 65");
    error(config(1, 65), "copy_threads is 65");
    error(Config { slot_bytes: 2, max_slot_bytes: 1, ..config(1, 1) }, "max_slot_bytes is 1");
    error(Config { slot_bytes: 1 << 60, ..config(1, 1) }, "slot_bytes is");
    let prefetcher = Prefetcher::over(&pool, &config(2, 1)).unwrap();
    let source = pattern(1, 10);
    let ticket = submit(&prefetcher, &[memory(&source)]);
    assert_eq!(prefetcher.release(ticket, DEFAULT).unwrap_err().kind(), Kind::InvalidState);
    assert!(prefetcher.wait(ticket, Stream(0x12340)).is_err());
    prefetcher.wait(ticket, DEFAULT).unwrap();
    prefetcher.wait(ticket, DEFAULT).unwrap();
    assert_eq!(prefetcher.cancel(ticket).unwrap_err().kind(), Kind::InvalidState);
    assert!(prefetcher.release(ticket, Stream(0x12340)).is_err());
    prefetcher.release(ticket, DEFAULT).unwrap();
    for gone in [0, ticket, ticket + 1, u64::MAX, 63] {
        assert_eq!(prefetcher.release(gone, DEFAULT).unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(prefetcher.wait(gone, DEFAULT).unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(prefetcher.poll(gone).unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(prefetcher.cancel(gone).unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(prefetcher.submit_lent(gone, 0).unwrap_err().kind(), Kind::InvalidArgument);
    }
    let null = Leaf { source: Source::Memory { address: 0, pinned: false }, bytes: 1 };
    let closed = Leaf { source: Source::File { fd: -1, offset: 0, direct: false }, bytes: 1 };
    let end_of_time = Source::File { fd: 0, offset: u64::MAX, direct: false };
    let far = Leaf { source: end_of_time, bytes: 1 };
    for (leaf, part) in [
        (null, "leaves[1].data is NULL"),
        (closed, "leaves[1].fd is -1"),
        (far, "leaves[1].offset"),
    ] {
        // SAFETY: it is refused.
        let error =
            unsafe { prefetcher.submit([memory(&source), leaf].into_iter(), None) }.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.message().contains(part), "{error}");
    }
    // What is empty is a batch as well.
    let ticket = submit(&prefetcher, &[]);
    assert_eq!(prefetcher.wait(ticket, DEFAULT).unwrap().bytes, 0);
    prefetcher.release(ticket, DEFAULT).unwrap();
    end(prefetcher, pool);
}

#[test]
fn it_ends_whatever_is_under_way() {
    let pool = pool();
    for round in 0..60 {
        let prefetcher = Prefetcher::over(&pool, &config(3, 1 + round % 3)).unwrap();
        let source = pattern(3, 4 * MIB);
        let held = submit(&prefetcher, &[memory(&source[..100])]);
        let batch = prefetcher.wait(held, DEFAULT).unwrap();
        for _ in 0..2 {
            submit(&prefetcher, &[memory(&source)]);
        }
        let began = Instant::now();
        scope(|threads| {
            // A producer that waits for a slot, and a consumer that waits for a batch.
            let producer = threads.spawn(|| {
                // SAFETY: the source stays until the prefetcher is closed.
                unsafe { prefetcher.submit([memory(&source)].into_iter(), None) }
            });
            if round % 2 == 0 {
                sleep(Duration::from_micros(u64::from(round) * 50));
            }
            prefetcher.close().unwrap();
            assert_eq!(producer.join().unwrap().unwrap_err().kind(), Kind::InvalidState);
        });
        assert!(began.elapsed() < Duration::from_secs(60));
        // SAFETY: it is refused.
        let error = unsafe { prefetcher.submit([].into_iter(), None) }.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidState);
        prefetcher.close().unwrap();
        if round % 2 == 0 {
            prefetcher.release(held, DEFAULT).unwrap();
            prefetcher.destroy().unwrap();
        } else {
            let error = prefetcher.destroy().unwrap_err();
            assert!(error.message().contains("1 batches"), "{error}");
            // The block of the batch is the reader's.
            assert_eq!(pool.stats().live_blocks, 1);
            pool.free(batch.address, DEFAULT).unwrap();
        }
        assert_eq!(pool.stats().live_blocks, 0);
    }
}

/// A batch as the model has it.
struct Known {
    ticket: u64,
    /// What is where in it.
    parts: Vec<(usize, Arc<Vec<u8>>)>,
    waited: bool,
}

/// Random calls beside a model: what each ticket's batch is.
#[test]
fn random_calls_beside_a_model() {
    for seed in 1..7u64 {
        let mut random = Random(seed);
        let pool = pool();
        let slots = 1 + seed as u32 % 4;
        let prefetcher = Prefetcher::over(&pool, &config(slots, seed as u32 % 3)).unwrap();
        let file_bytes = pattern(77, 2 * MIB);
        let file = file_of(&file_bytes);
        let stream = TestStream::new();
        let mut out: Vec<Known> = Vec::new();
        let (mut submitted, mut delivered, mut cancelled) = (0, 0, 0);
        for step in 0..500 {
            let any = (!out.is_empty()).then(|| random.below(out.len()));
            let on = [DEFAULT, stream.handle()][random.below(2)];
            match (random.below(10), any) {
                (0..4, _) => {
                    let (mut parts, mut leaves, mut end) = (Vec::new(), Vec::new(), 0);
                    for _ in 0..random.below(5) {
                        let bytes = [0, 10, 1000, 200 * KIB][random.below(4)] + random.below(999);
                        let at = usize::next_multiple_of(end, ALIGNMENT as usize);
                        if random.below(4) == 0 {
                            let offset = random.below(file_bytes.len() - bytes);
                            leaves.push(in_file(&file, offset as u64, bytes as u64, false));
                            parts.push((at, Arc::new(file_bytes[offset..offset + bytes].to_vec())));
                        } else {
                            let source = Arc::new(pattern(step, bytes));
                            leaves.push(memory(&source));
                            parts.push((at, source));
                        }
                        end = at + bytes;
                    }
                    // SAFETY: sources stay in `out`.
                    match unsafe { prefetcher.submit(leaves.iter().copied(), Some(Duration::ZERO)) }
                    {
                        Ok(ticket) => {
                            assert!((out.len() as u32) < slots);
                            out.push(Known { ticket, parts, waited: false });
                            submitted += 1;
                        }
                        Err(error) => {
                            assert_eq!((error.kind(), out.len() as u32), (Kind::Busy, slots));
                        }
                    }
                }
                (4..7, Some(at)) => {
                    let Known { ticket, parts, waited } = &mut out[at];
                    let batch = prefetcher.wait(*ticket, on).unwrap();
                    delivered += u64::from(!*waited);
                    *waited = true;
                    let all = bytes_of(batch);
                    for (at, part) in parts.iter() {
                        assert!(all[*at..*at + part.len()] == part[..], "seed {seed}, step {step}");
                    }
                    let end = parts.last().map_or(0, |(at, part)| at + part.len());
                    assert_eq!(all.len(), end);
                }
                (7 | 8, Some(at)) => {
                    let Known { ticket, waited, .. } = out.swap_remove(at);
                    if waited {
                        prefetcher.release(ticket, on).unwrap();
                        // The slot is free once the stream says so, which a model does not know.
                        stream.synchronize();
                    } else {
                        prefetcher.cancel(ticket).unwrap();
                        cancelled += 1;
                    }
                }
                (9, Some(at)) => drop(prefetcher.poll(out[at].ticket).unwrap()),
                _ => {}
            }
            let stats = prefetcher.stats().unwrap();
            assert_eq!(stats.used_slots, out.len() as u64, "seed {seed}, step {step}");
            let counted = (stats.submitted, stats.delivered, stats.cancelled, stats.failed);
            assert_eq!(counted, (submitted, delivered, cancelled, 0));
        }
        assert!(delivered > 30 && cancelled > 5);
        for known in out.iter().filter(|known| known.waited) {
            prefetcher.release(known.ticket, DEFAULT).unwrap();
        }
        end(prefetcher, pool);
    }
}

/// Where a defect is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Prepare,
    Send,
    Follow,
    Leave,
}

/// Slots in memory of the test's, with a defect that shows at one call, on whichever thread it is.
struct Defective {
    place: Place,
    /// Calls there before the one that panics.
    sound: AtomicUsize,
    memory: Mutex<Vec<Vec<u8>>>,
}

impl Defective {
    fn called(&self, place: Place) {
        if place == self.place {
            let left = self.sound.fetch_sub(1, Ordering::AcqRel);
            assert!(left != 0, "a panic that a test wished for");
        }
    }
}

impl Target for Defective {
    fn is_streaming(&self) -> bool {
        false
    }

    fn make_room(&self, slot: usize, bytes: u64) -> Result<Room> {
        let memory = &mut self.memory.lock().unwrap()[slot];
        memory.resize(bytes as usize + 4096, 0);
        let address = (memory.as_ptr() as usize).next_multiple_of(4096);
        Ok(Room { staging: address, address, bytes })
    }

    fn prepare(&self, _: usize) -> Result<()> {
        self.called(Place::Prepare);
        Ok(())
    }

    unsafe fn send(&self, _: usize, _: &[Piece]) -> Result<()> {
        self.called(Place::Send);
        Ok(())
    }

    fn follow(&self, _: usize, _: Stream) -> Result<()> {
        self.called(Place::Follow);
        Ok(())
    }

    fn is_there(&self, _: usize) -> Result<bool> {
        Ok(true)
    }

    fn wait(&self, _: usize) -> Result<()> {
        Ok(())
    }

    fn leave(&self, _: usize, _: Stream, over: Over<Defective>) -> Result<()> {
        self.called(Place::Leave);
        over.run();
        Ok(())
    }

    fn close(&self, _: &[usize]) -> Result<()> {
        Ok(())
    }

    fn staging_bytes(&self) -> (u64, u64) {
        (0, 0)
    }
}

#[test]
fn a_panic_is_an_error_of_its_batch_and_no_hang() {
    const SLOTS: usize = 3;
    let sources: Vec<Vec<u8>> = (0..8).map(|seed| pattern(seed, MIB + seed)).collect();
    for place in [Place::Prepare, Place::Send, Place::Follow, Place::Leave] {
        for threads in 0..3 {
            for at in [0, 4, 7] {
                let rooms = Mutex::new(vec![Vec::new(); SLOTS]);
                let target = Defective { place, sound: AtomicUsize::new(at), memory: rooms };
                let prefetcher = Prefetcher::create(target, &config(3, threads)).unwrap();
                let submit = |source: &Vec<u8>| {
                    // SAFETY: sources live longer than the prefetcher.
                    unsafe { prefetcher.submit([memory(source)].into_iter(), None) }.unwrap()
                };
                let (mut tickets, mut failed) = (Vec::new(), Vec::new());
                for (number, source) in sources.iter().enumerate() {
                    // Two ahead, so that it is the other batches, too, that a thread is to come to.
                    tickets.extend(
                        sources[tickets.len()..]
                            .iter()
                            .take(number + 3 - tickets.len())
                            .map(submit),
                    );
                    let ticket = tickets[number];
                    let waited = prefetcher.wait(ticket, DEFAULT);
                    let outcome = match &waited {
                        Ok(batch) => {
                            assert!(bytes_of(*batch) == source, "{place:?}, batch {number}");
                            prefetcher.release(ticket, DEFAULT)
                        }
                        Err(_) => waited.map(drop),
                    };
                    if let Err(error) = outcome {
                        assert_eq!(error.kind(), Kind::Internal, "{error}");
                        failed.push(number);
                        match place {
                            // It is over.
                            Place::Prepare | Place::Send => {
                                let gone = prefetcher.poll(ticket).unwrap_err();
                                assert_eq!(gone.kind(), Kind::InvalidArgument);
                            }
                            // It is as it was, and the next call does what this one did not.
                            Place::Follow => {
                                assert_eq!(
                                    bytes_of(prefetcher.wait(ticket, DEFAULT).unwrap()),
                                    source
                                );
                                prefetcher.release(ticket, DEFAULT).unwrap();
                            }
                            Place::Leave => prefetcher.release(ticket, DEFAULT).unwrap(),
                        }
                    }
                }
                // With two threads a later batch may be prepared first.
                assert_eq!(failed.len(), 1, "{place:?} {threads} {failed:?}");
                assert!(threads == 2 || failed == [at], "{place:?} {threads} {failed:?}");
                assert_eq!(prefetcher.stats().unwrap().used_slots, 0);
                prefetcher.destroy().unwrap();
            }
        }
    }
}

/// In the child of a fork, what `body` returns is its status.
fn in_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child ends at once.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(body()),
            child => {
                let mut status = 0;
                assert_eq!(libc::waitpid(child, &mut status, 0), child);
                status
            }
        }
    }
}

#[test]
fn a_child_gets_an_error_and_the_parent_goes_on() {
    let pool = pool();
    let prefetcher = Prefetcher::over(&pool, &config(3, 2)).unwrap();
    let source = pattern(1, MIB);
    let ticket = submit(&prefetcher, &[memory(&source)]);
    let status = in_child(|| {
        let wrong = [
            prefetcher.wait(ticket, DEFAULT).is_ok(),
            prefetcher.poll(ticket).is_ok(),
            prefetcher.stats().is_ok(),
            prefetcher.close().is_ok(),
            !matches!(prefetcher.cancel(ticket), Err(error) if error.message().contains("fork()")),
        ];
        i32::from(wrong.contains(&true))
    });
    assert_eq!(status, 0);
    assert_eq!(bytes_of(prefetcher.wait(ticket, DEFAULT).unwrap()), source);
    prefetcher.release(ticket, DEFAULT).unwrap();
    end(prefetcher, pool);
}

#[test]
fn nothing_is_left_of_epochs_that_are_left_early() {
    let pool = pool();
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    let source = pattern(1, 300 * KIB);
    let before = (count("/proc/self/task"), count("/proc/self/fd"));
    for epoch in 0..200 {
        let prefetcher = Prefetcher::over(&pool, &config(3, 2)).unwrap();
        let tickets: Vec<u64> = (0..3).map(|_| submit(&prefetcher, &[memory(&source)])).collect();
        for &ticket in tickets.iter().take(epoch % 3) {
            prefetcher.wait(ticket, DEFAULT).unwrap();
            prefetcher.release(ticket, DEFAULT).unwrap();
        }
        prefetcher.destroy().unwrap();
    }
    // Other tests have threads too: it is many that would show.
    let after = (count("/proc/self/task"), count("/proc/self/fd"));
    assert!(after.0 < before.0 + 100 && after.1 < before.1 + 100, "{before:?} {after:?}");
    assert_eq!(pool.stats().live_blocks, 0);
}
