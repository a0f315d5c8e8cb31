//! Random programs of a prefetcher on a simulated GPU, under the checker of order: it finds nothing,
//! and each bug that is planted.

use crate::gpu::{Gpu, cu};
use crate::order::Stream;
use crate::planted::{Bug, plant};
use crate::pool::{self, Pool};
use crate::prefetch::{Config, Leaf, Prefetcher, Source};

/// Steps of a program, and most bytes of a batch.
const STEPS: usize = 600;
const MOST: usize = 3000;

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 20) % end as u64) as usize
    }
}

/// A batch that was submitted.
struct Known {
    ticket: u64,
    /// Kept until it is over.
    source: Vec<u8>,
    /// Where it is read, once it was waited for.
    on: Option<Stream>,
}

/// An access without order that a program finds, or a batch that is not what was submitted.
fn finds(seed: u64) -> Option<String> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let gpu =
        Gpu::with(sim_cuda::Config { reuse_handles: seed.is_multiple_of(2), ..Default::default() });
    // With this policy the library has no thread of its own, and a program runs the same each time.
    let policy = pool::Policy::AggressiveReuse;
    let pool = gpu.pool(&pool::Config { max_bytes: 64 << 20, policy, ..Default::default() });
    // All on this thread, where the bug is planted.
    let config = Config { slots: 1 + seed as u32 % 4, copy_threads: 0, ..Config::default() };
    let prefetcher = Prefetcher::over(&pool, &config).unwrap();
    let mut streams: Vec<Stream> = (0..3).map(|_| gpu.stream()).collect();
    let mut out: Vec<Known> = Vec::new();
    let mut pinned = 0u64;
    assert_eq!(
        cu!(gpu, cuMemHostAlloc(&mut pinned => *mut u64, STEPS * MOST => usize, 0 => u32)),
        0
    );
    let mut seen: Vec<(usize, u8, usize)> = Vec::new();
    for step in 0..STEPS {
        let stream = streams[random.below(streams.len())];
        let any = (!out.is_empty()).then(|| random.below(out.len()));
        match (random.below(20), any) {
            (0..7, _) => {
                let source = vec![step as u8; 100 + random.below(MOST - 100)];
                let memory = Source::Memory { address: source.as_ptr() as usize, pinned: false };
                let leaf = Leaf { source: memory, bytes: source.len() as u64 };
                let now = Some(std::time::Duration::ZERO);
                // SAFETY: the source is kept as long as the ticket.
                let submitted = unsafe { prefetcher.submit([leaf].into_iter(), now) };
                if let Ok(ticket) = submitted {
                    out.push(Known { ticket, source, on: None });
                }
            }
            (7..13, Some(at)) => {
                let Known { ticket, source, on } = &mut out[at];
                let stream = on.unwrap_or(stream);
                let batch = prefetcher.wait(*ticket, stream).unwrap();
                *on = Some(stream);
                let range = (batch.address as u64, batch.bytes);
                let ns = 1000 + random.below(100_000) as u64;
                assert_eq!(sim_cuda::launch(stream.0, "read", &[range], &[], ns, None), 0);
                // What it reads is looked at in the end, for to look now would be to wait.
                let at = seen.len() * MOST;
                let to = pinned + at as u64;
                let (from, bytes) = (batch.address as u64, source.len());
                let code = cu!(gpu, cuMemcpyDtoHAsync_v2(
                    to => u64, from => u64, bytes => usize, stream.0 => u64));
                assert_eq!(code, 0);
                seen.push((to as usize, source[0], bytes));
            }
            (13..17, Some(at)) => {
                let Known { ticket, on, .. } = out.swap_remove(at);
                match on {
                    Some(on) => prefetcher.release(ticket, on).unwrap(),
                    None => prefetcher.cancel(ticket).unwrap(),
                }
            }
            (17, _) => sim_cuda::advance(random.below(200_000) as u64),
            (18, _) => {
                // The pool's blocks are others' as well.
                let size = 1 + random.below(100_000);
                let block = pool.alloc(size, stream).unwrap();
                gpu.write(stream, block, size, 0xee);
                pool.free(block, stream).unwrap();
            }
            _ => {
                if out.iter().all(|known| known.on != Some(stream)) {
                    pool.forget_stream(stream).unwrap();
                    gpu.destroy(stream);
                    streams.retain(|&other| other != stream);
                    streams.push(gpu.stream());
                }
            }
        }
    }
    for Known { ticket, on, .. } in out {
        if let Some(on) = on {
            prefetcher.release(ticket, on).unwrap();
        }
    }
    prefetcher.destroy().unwrap();
    assert_eq!(pool.stats().live_blocks, 0);
    plant(None);
    sim_cuda::run_all();
    let wrong = seen.iter().any(|&(at, value, bytes)| {
        // SAFETY: in the memory that was allocated above, and nothing writes there any more.
        let bytes = unsafe { std::slice::from_raw_parts(at as *const u8, bytes) };
        bytes.iter().any(|&byte| byte != value)
    });
    // Before the pool goes: of a stream that is gone the simulated device does not tell the host.
    let found = sim_cuda::take_hazards();
    Pool::destroy(pool).unwrap();
    let wrong = wrong.then(|| "a batch was not what was submitted".into());
    found.first().map(|hazard| hazard.to_string()).or(wrong)
}

#[test]
fn each_planted_bug_is_found_and_nothing_without() {
    for seed in 0..12 {
        let found = finds(seed);
        assert!(found.is_none(), "without a bug, seed {seed}: {}", found.unwrap_or_default());
    }
    for bug in Bug::PREFETCH {
        let found = (0..12).any(|seed| {
            plant(Some(bug));
            finds(seed).is_some()
        });
        assert!(found, "{bug:?}");
    }
}
