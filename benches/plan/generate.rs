//! Instances made from a seed.

use forebay::lifetime::{Instance, Tensor};

/// A family of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// One rectangle of bytes and time, cut up: nothing may be wasted at the bound.
    Cut,
    /// Training steps: activations that wait for the way back, and what lives within a layer.
    Training,
    /// Sizes and lifetimes of all orders of magnitude, at any time.
    Random,
}

impl Family {
    pub const ALL: [Family; 3] = [Family::Cut, Family::Training, Family::Random];

    pub fn name(self) -> &'static str {
        match self {
            Family::Cut => "cut",
            Family::Training => "training",
            Family::Random => "random",
        }
    }

    /// An instance of `count` tensors.
    pub fn instance(self, count: usize, seed: u64) -> Instance {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..16 {
            random.next();
        }
        let drawn = match self {
            Family::Cut => cut(count, &mut random),
            Family::Training => training(count, &mut random),
            Family::Random => scattered(count, &mut random),
        };
        let mut instance = Instance::new();
        for (id, (lower, upper, size)) in (0..).zip(drawn) {
            instance.add(Tensor::new(id, lower, upper, size)).unwrap();
        }
        instance
    }
}

/// Lower, upper, size.
type Drawn = (u64, u64, u64);

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    /// Each order of magnitude between the two as often as the others.
    fn magnitude(&mut self, least: u64, most: u64) -> u64 {
        let share = self.below(1 << 40) as f64 / (1u64 << 40) as f64;
        (least as f64 * (most as f64 / least as f64).powf(share)) as u64
    }
}

fn cut(count: usize, random: &mut Random) -> Vec<Drawn> {
    let mut pieces = vec![(0, 4 * count as u64, 0, 32u64 << 30)];
    while pieces.len() < count {
        let at = random.below(pieces.len() as u64) as usize;
        let (left, right, low, high) = pieces.swap_remove(at);
        let (time, bytes) = (right - left, high - low);
        if random.below(2) == 0 && time > 1 {
            let middle = left + 1 + random.below(time - 1);
            pieces.extend([(left, middle, low, high), (middle, right, low, high)]);
        } else if bytes > 1 {
            let middle = low + 1 + random.below(bytes - 1);
            pieces.extend([(left, right, low, middle), (left, right, middle, high)]);
        } else {
            pieces.push((left, right, low, high));
        }
    }
    pieces.into_iter().map(|(left, right, low, high)| (left, right, high - low)).collect()
}

fn scattered(count: usize, random: &mut Random) -> Vec<Drawn> {
    let time = 2 * count as u64;
    let one = |_| {
        let lower = random.below(time);
        let lived = random.magnitude(1, time / 8);
        (lower, lower + lived, 512 * random.magnitude(1, 128 << 10))
    };
    (0..count).map(one).collect()
}

/// Weights for the whole time; then steps of a network whose batches differ in length. Of each
/// layer's forward pass two or three tensors wait for its backward pass, and some live for a few
/// operations; on the way back there are gradients instead.
fn training(count: usize, random: &mut Random) -> Vec<Drawn> {
    let layers = 24;
    let widths: Vec<u64> = (0..layers).map(|_| 512 * (1 + random.below(12))).collect();
    let mut drawn: Vec<Drawn> = Vec::with_capacity(count + 64);
    let mut now = 0u64;
    for width in &widths {
        drawn.push((0, 0, width * width * 4));
    }
    let weights = drawn.len();
    while drawn.len() < count {
        let tokens = 64 * (4 + random.below(28));
        let mut waiting: Vec<Vec<usize>> = Vec::new();
        for width in &widths {
            let mut layer = Vec::new();
            for _ in 0..2 + random.below(2) {
                layer.push(drawn.len());
                drawn.push((now, 0, tokens * width * (2 + 2 * random.below(3))));
                now += 1;
            }
            passing(&mut drawn, &mut now, tokens * width, random);
            waiting.push(layer);
        }
        let mut gradient = None;
        for (width, layer) in widths.iter().zip(waiting).rev() {
            let before = gradient.replace(drawn.len());
            drawn.push((now, 0, tokens * width * 2));
            now += 1;
            passing(&mut drawn, &mut now, tokens * width, random);
            for ended in layer.into_iter().chain(before) {
                drawn[ended].1 = now;
                now += 1;
            }
        }
        if let Some(last) = gradient {
            drawn[last].1 = now;
            now += 1;
        }
    }
    drawn.truncate(count.max(weights));
    // What was cut off no longer ends anything.
    for (lower, upper, _) in &mut drawn {
        if *upper <= *lower {
            *upper = now;
        }
    }
    drawn
}

/// Tensors that live for a few operations.
fn passing(drawn: &mut Vec<Drawn>, now: &mut u64, bytes: u64, random: &mut Random) {
    for _ in 0..3 + random.below(4) {
        let lived = 2 + random.below(4);
        drawn.push((*now, *now + lived, 512 * (bytes * random.magnitude(1, 64) / 4096 + 1)));
        *now += 1;
    }
}
