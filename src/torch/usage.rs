//! What PyTorch counts and a pool does not: live blocks and their bytes, small and large ones
//! apart, with peaks that are exact in all threads.
//!
//! Counts and bytes share a word, so that an allocation costs one step of each: PyTorch takes
//! a lock of its own around every call, and what this costs is little beside it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

/// Sizes up to this are small, as PyTorch has it.
pub const SMALL_BYTES: usize = 1 << 20;

/// Blocks on a GPU are multiples of this, in bytes.
const GRANULE: u64 = 512;

/// Bits of a word that count granules: 32 TiB. The others count blocks.
const GRANULE_BITS: u32 = 36;

const ONE_BLOCK: u64 = 1 << GRANULE_BITS;

/// What lives, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub allocated: u64,
    /// The bytes that were asked for.
    pub requested: u64,
}

/// All blocks that were ever given out, or given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Now.
    pub now: Live,
    /// At most.
    pub peak: Live,
    /// Ever given out, since the totals were last forgotten.
    pub given: Live,
    /// Ever given back, since then.
    pub returned: Live,
}

#[derive(Debug, Default)]
struct Kind {
    packed: AtomicU64,
    requested: AtomicU64,
    peak: Peak,
    given_blocks: AtomicU64,
    given_bytes: AtomicU64,
    given_requested: AtomicU64,
}

#[derive(Debug, Default)]
struct Peak {
    blocks: AtomicU64,
    allocated: AtomicU64,
    requested: AtomicU64,
}

impl Peak {
    #[inline]
    fn lift(&self, packed: u64, requested: u64) {
        let lift = |cell: &AtomicU64, value: u64| {
            // A peak is rarely a new one.
            if value > cell.load(Relaxed) {
                cell.fetch_max(value, Relaxed);
            }
        };
        lift(&self.blocks, packed >> GRANULE_BITS);
        lift(&self.allocated, packed & (ONE_BLOCK - 1));
        lift(&self.requested, requested);
    }

    fn get(&self) -> Live {
        Live {
            blocks: self.blocks.load(Relaxed),
            allocated: self.allocated.load(Relaxed) * GRANULE,
            requested: self.requested.load(Relaxed),
        }
    }

    fn restart(&self, packed: u64, requested: u64) {
        self.blocks.store(packed >> GRANULE_BITS, Relaxed);
        self.allocated.store(packed & (ONE_BLOCK - 1), Relaxed);
        self.requested.store(requested, Relaxed);
    }
}

/// The counters of one device.
#[derive(Debug, Default)]
pub struct Usage {
    kinds: [Kind; 2],
    /// Of both kinds together.
    peak: Peak,
    /// What was given out and given back when the totals were last forgotten.
    base: crate::sync::Mutex<[(Live, Live); 2]>,
}

/// The word that stands for a block.
fn word(block: u64) -> u64 {
    ONE_BLOCK + block / GRANULE
}

impl Usage {
    /// A block of `block` bytes was given out for `size`.
    #[inline]
    pub fn taken(&self, size: usize, block: u64) {
        let large = usize::from(size > SMALL_BYTES);
        let (kind, other) = (&self.kinds[large], &self.kinds[1 - large]);
        // In one order for all threads: whoever counts last sees what both kinds are.
        let packed = kind.packed.fetch_add(word(block), SeqCst) + word(block);
        let requested = kind.requested.fetch_add(size as u64, SeqCst) + size as u64;
        kind.given_blocks.fetch_add(1, Relaxed);
        kind.given_bytes.fetch_add(block, Relaxed);
        kind.given_requested.fetch_add(size as u64, Relaxed);
        kind.peak.lift(packed, requested);
        let (packed, requested) =
            (packed + other.packed.load(SeqCst), requested + other.requested.load(SeqCst));
        self.peak.lift(packed, requested);
    }

    /// A block of `block` bytes that was given out for `size` came back.
    #[inline]
    pub fn freed(&self, size: usize, block: u64) {
        let kind = &self.kinds[usize::from(size > SMALL_BYTES)];
        kind.packed.fetch_sub(word(block), SeqCst);
        kind.requested.fetch_sub(size as u64, SeqCst);
    }

    fn kind_totals(&self, large: usize) -> (Live, Live, Live) {
        let kind = &self.kinds[large];
        let (packed, requested) = (kind.packed.load(SeqCst), kind.requested.load(SeqCst));
        let now = Live {
            blocks: packed >> GRANULE_BITS,
            allocated: (packed & (ONE_BLOCK - 1)) * GRANULE,
            requested,
        };
        let given = Live {
            blocks: kind.given_blocks.load(Relaxed),
            allocated: kind.given_bytes.load(Relaxed),
            requested: kind.given_requested.load(Relaxed),
        };
        (now, given, given.less(now))
    }

    /// The numbers of small blocks, or of large ones.
    pub fn of(&self, large: bool) -> Numbers {
        let at = usize::from(large);
        let (now, given, returned) = self.kind_totals(at);
        let (base_given, base_returned) = self.base.lock()[at];
        Numbers {
            now,
            peak: self.kinds[at].peak.get(),
            given: given.less(base_given),
            returned: returned.less(base_returned),
        }
    }

    /// The numbers of all blocks.
    pub fn all(&self) -> Numbers {
        let (small, large) = (self.of(false), self.of(true));
        Numbers {
            now: small.now.plus(large.now),
            peak: self.peak.get(),
            given: small.given.plus(large.given),
            returned: small.returned.plus(large.returned),
        }
    }

    /// Starts the peaks again from what lives.
    pub fn reset_peaks(&self) {
        let mut sum = (0, 0);
        for kind in &self.kinds {
            let (packed, requested) = (kind.packed.load(SeqCst), kind.requested.load(SeqCst));
            kind.peak.restart(packed, requested);
            sum = (sum.0 + packed, sum.1 + requested);
        }
        self.peak.restart(sum.0, sum.1);
    }

    /// Starts what was given out and given back again from nothing.
    pub fn reset_totals(&self) {
        let mut base = self.base.lock();
        for (at, base) in base.iter_mut().enumerate() {
            let (_, given, returned) = self.kind_totals(at);
            *base = (given, returned);
        }
    }
}

impl Live {
    fn plus(self, other: Live) -> Live {
        Live {
            blocks: self.blocks + other.blocks,
            allocated: self.allocated + other.allocated,
            requested: self.requested + other.requested,
        }
    }

    /// What of it is there beyond `other`; both are read while threads go on.
    fn less(self, other: Live) -> Live {
        Live {
            blocks: self.blocks.saturating_sub(other.blocks),
            allocated: self.allocated.saturating_sub(other.allocated),
            requested: self.requested.saturating_sub(other.requested),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_those_of_both_kinds_together() {
        let usage = Usage::default();
        usage.taken(100, 512);
        usage.taken(2 << 20, 2 << 20);
        usage.freed(2 << 20, 2 << 20);
        usage.taken(1 << 20, 1 << 20);
        let (small, large, all) = (usage.of(false), usage.of(true), usage.all());
        assert_eq!(
            small.now,
            Live { blocks: 2, allocated: 512 + (1 << 20), requested: 100 + (1 << 20) }
        );
        assert_eq!(large.now, Live::default());
        assert_eq!(large.peak, Live { blocks: 1, allocated: 2 << 20, requested: 2 << 20 });
        assert_eq!(
            all.peak,
            Live { blocks: 2, allocated: (2 << 20) + 512, requested: (2 << 20) + 100 }
        );
        assert_eq!((all.given.blocks, all.returned.blocks), (3, 1));
        usage.reset_peaks();
        usage.reset_totals();
        assert_eq!(usage.all().peak, small.now);
        assert_eq!(usage.all().given, Live::default());
        usage.freed(100, 512);
        assert_eq!(usage.of(false).returned, Live { blocks: 1, allocated: 512, requested: 100 });
    }

    #[test]
    fn peaks_are_exact_in_all_threads() {
        let usage = Usage::default();
        let threads = 4;
        let barrier = std::sync::Barrier::new(threads);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for size in [600, 3 << 20] {
                        for _ in 0..1000 {
                            usage.taken(size, (size as u64).next_multiple_of(512));
                        }
                    }
                    barrier.wait();
                    for size in [600, 3 << 20] {
                        for _ in 0..1000 {
                            usage.freed(size, (size as u64).next_multiple_of(512));
                        }
                    }
                });
            }
        });
        let all = usage.all();
        assert_eq!(all.now, Live::default());
        assert_eq!(all.peak.blocks, 8000);
        assert_eq!(all.peak.allocated, 4000 * (1024 + (3 << 20)));
        assert_eq!(all.peak.requested, 4000 * (600 + (3 << 20)));
    }
}
