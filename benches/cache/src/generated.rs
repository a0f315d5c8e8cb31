//! Key traces that are made here, the same in every run. Of those of one size there are two halves
//! with other seeds and other parameters: policies were tuned on the first alone.

use forebay::cache::key_trace::KeyTrace;

/// Numbers in no order, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, count: u64) -> u64 {
        self.next() % count
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Of `count`, the popular ones first: Zipf with this exponent, below 1.
    fn zipf(&mut self, count: u64, exponent: f64) -> u64 {
        let end = (count as f64).powf(1.0 - exponent);
        let at = (self.unit() * (end - 1.0) + 1.0).powf(1.0 / (1.0 - exponent));
        (at as u64 - 1).min(count - 1)
    }

    /// 4 KiB to 64 MiB, every doubling as likely.
    fn tensor(&mut self) -> u64 {
        ((4096.0 * (self.unit() * 14.0).exp2()) as u64).next_multiple_of(512)
    }
}

/// Tensors by popularity that drifts by one every so many accesses, and one in `scans` that is
/// asked for once.
pub fn mixed_tensors(seed: u64, count: u64, exponent: f64, scans: u64, drift: u64) -> KeyTrace {
    let mut numbers = Numbers(seed);
    let mut bytes: Vec<u64> = (0..count).map(|_| numbers.tensor()).collect();
    let accesses = (0..200_000u64)
        .map(|at| match numbers.below(scans) {
            0 => {
                bytes.push(numbers.tensor());
                bytes.len() as u32 - 1
            }
            _ => ((numbers.zipf(count, exponent) + at / drift) % count) as u32,
        })
        .collect();
    KeyTrace::of(accesses, bytes, true)
}

/// A loader of training data: each of `count` tensors once an epoch, in another order each time.
pub fn epochs(seed: u64, count: u32) -> KeyTrace {
    let mut numbers = Numbers(seed);
    let bytes = (0..count).map(|_| numbers.tensor()).collect();
    let mut order: Vec<u32> = (0..count).collect();
    let mut accesses = Vec::new();
    for _ in 0..40 {
        for last in (1..order.len()).rev() {
            order.swap(last, numbers.below(last as u64 + 1) as usize);
        }
        accesses.extend_from_slice(&order);
    }
    KeyTrace::of(accesses, bytes, true)
}

/// One half of the traces.
#[derive(Clone, Copy, Debug)]
pub enum Half {
    /// Policies were tuned on it.
    Tuned,
    /// Nothing was chosen by it.
    HeldOut,
}

impl Half {
    /// Both.
    pub const BOTH: [Half; 2] = [Half::Tuned, Half::HeldOut];

    /// Its name in cases.
    pub fn name(self) -> &'static str {
        match self {
            Half::Tuned => "-generated",
            Half::HeldOut => "-held-out",
        }
    }
}

/// A trace of objects of one size, and the entries it is run with.
pub struct Generated {
    pub name: String,
    pub trace: KeyTrace,
    pub entries: [u64; 3],
}

/// Three of each kind.
pub fn of_one_size(half: Half) -> Vec<Generated> {
    let number = half as u64;
    let make = |kind: &str, of: u64, (accesses, objects): (Vec<u32>, u64), entries| Generated {
        name: format!("{kind}-{}{}", of + 1, half.name()),
        trace: KeyTrace::of(accesses, vec![1; objects as usize], false),
        entries,
    };
    let three = |of: u64| {
        let keys = 3000 + 2000 * of;
        [
            make("phases", of, phases(number, of, keys), [keys / 20, keys / 5, keys / 2]),
            make("recent", of, recent(number, of), [200, 1000, 4000]),
            make("talks", of, talks(number, of), [500, 3000, 10_000]),
        ]
    };
    (0..3).flat_map(three).collect()
}

/// Popularity, a loop, and a window that moves on, in turn.
fn phases(half: u64, of: u64, keys: u64) -> (Vec<u32>, u64) {
    let mut numbers = Numbers(1000 * half + of);
    let mut accesses = Vec::new();
    for phase in 0..6 {
        for at in 0..40_000 {
            accesses.push(match (phase + of + half) % 3 {
                0 => numbers.zipf(keys, 0.7 + 0.1 * of as f64),
                1 => at % (keys * (2 + half) / 4),
                _ => (at / 20 + numbers.below(400 + 200 * of)) % keys,
            } as u32);
        }
    }
    (accesses, keys)
}

/// What was asked for of late is asked for again, among what is asked for once.
fn recent(half: u64, of: u64) -> (Vec<u32>, u64) {
    let mut numbers = Numbers(77 * half + of);
    let (mut accesses, mut fresh) = (Vec::new(), 20_000);
    for at in 0..200_000 {
        if numbers.below(3 + of) == 0 {
            accesses.push(fresh as u32);
            fresh += 1;
        } else {
            let back = numbers.zipf(4000, 0.6 + 0.1 * half as f64);
            accesses.push(((at / (4 + 3 * of) + 4000 - back) % 20_000) as u32);
        }
    }
    (accesses, fresh)
}

/// Conversations: what was said is asked for again with more behind it, until one ends.
fn talks(half: u64, of: u64) -> (Vec<u32>, u64) {
    const TALKS: usize = 200;
    let mut numbers = Numbers(55 * half + of);
    let (mut accesses, mut next) = (Vec::new(), 64);
    let mut live: Vec<Vec<u32>> = Vec::new();
    while accesses.len() < 200_000 {
        if live.len() < TALKS || numbers.below(3 + of) == 0 {
            if live.len() >= TALKS {
                live.swap_remove(numbers.below(TALKS as u64) as usize);
            }
            let head = numbers.below(8) as u32 * 8;
            live.push((head..head + 8).collect());
        }
        let at = numbers.below(live.len() as u64) as usize;
        for _ in 0..1 + numbers.below(10 + 10 * half) {
            live[at].push(next);
            next += 1;
        }
        accesses.extend_from_slice(&live[at]);
    }
    (accesses, u64::from(next))
}
