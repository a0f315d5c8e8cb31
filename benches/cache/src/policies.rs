//! Policies on recorded key traces: hit ratios of each, and how far each is from the best at
//! that point. The traces lie in a folder that is given; those that do not are named.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use forebay::cache::key_trace::KeyTrace;
use forebay::cache::policy::{Budget, Goal};
use forebay::cache::simulate::{Outcome, compare};

use super::emit;

/// A file, the entries it is run with, and the best that was published or measured elsewhere
/// with as many, in percent (other caches included: mini-moka, moka, foyer, libCacheSim).
type Points = (&'static str, [(u64, f64); 3]);

const TRACES: [Points; 7] = [
    ("loop.trace.gz", [(250, 24.66), (500, 49.32), (750, 74.00)]),
    ("multi1.trace.gz", [(26, 18.01), (130, 45.99), (521, 56.46)]),
    ("sprite.trace.gz", [(70, 23.93), (353, 67.12), (1415, 92.21)]),
    ("2_pools.trace.gz", [(99, 48.44), (496, 51.96), (1987, 59.29)]),
    ("gli.trace.gz", [(250, 16.03), (500, 33.60), (1000, 50.84)]),
    ("cache2k_web12.trace.xz", [(137, 43.35), (687, 65.00), (2751, 78.14)]),
    ("mooncake_conversation.jsonl.xz", [(1827, 9.78), (9139, 21.21), (36558, 34.46)]),
];

/// The one with sizes; also run as if all were one.
const SIZED: &str = "adapt_size_request.trace.xz";
/// Budgets of traces with sizes, in percent of the bytes of all their objects.
const PERCENT: [u64; 4] = [5, 10, 20, 40];
/// Hits, or bytes: the goal's name, the goal, and who it is held against.
const GOALS: [(&str, Goal, &[&str]); 2] = [
    ("objects", Goal::HITS, &["gdsf", "w-tinylfu-1%", "lru"]),
    ("bytes", Goal::BYTES, &["s3-fifo", "lru", "w-tinylfu-1%"]),
];

fn load(path: &Path) -> Option<KeyTrace> {
    let failed = |what: String| {
        eprintln!("bench-cache: left out {}: {what}", path.display());
        None
    };
    if path.extension().is_none_or(|extension| extension != "xz") {
        return KeyTrace::load(path).map_or_else(|error| failed(error.to_string()), Some);
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return failed(error.to_string()),
    };
    let unpacked = Command::new("xz").arg("-dc").stdin(file).stdout(Stdio::piped()).spawn();
    let mut xz = match unpacked {
        Ok(xz) => xz,
        Err(error) => return failed(format!("xz: {error}")),
    };
    let trace = KeyTrace::read(xz.stdout.take()?, path);
    if !xz.wait().is_ok_and(|status| status.success()) {
        return failed("xz failed".into());
    }
    trace.map_or_else(|error| failed(error.to_string()), Some)
}

/// Points lost to the best, by policy.
struct Gaps(Vec<(&'static str, Vec<f64>)>);

impl Gaps {
    fn add(&mut self, name: &'static str, gap: f64) {
        match self.0.iter_mut().find(|(other, _)| *other == name) {
            Some((_, gaps)) => gaps.push(gap),
            None => self.0.push((name, vec![gap])),
        }
    }
}

fn name_of(name: &'static std::ffi::CStr) -> &'static str {
    name.to_str().unwrap_or("?")
}

/// Each policy's percent, the best first.
fn percents(
    trace: &KeyTrace,
    goal: Goal,
    budget: Budget,
    percent: fn(&Outcome) -> f64,
) -> Vec<(&'static str, f64)> {
    match compare(trace, goal, budget) {
        Ok(found) => found.map(|(who, outcome)| (name_of(who.name), percent(&outcome))).to_vec(),
        Err(error) => {
            eprintln!("bench-cache: {error}");
            Vec::new()
        }
    }
}

fn point(file: &str, trace: &KeyTrace, entries: u64, known: f64, gaps: &mut Gaps) {
    let name = file.split('.').next().unwrap_or(file);
    let budget = Budget { bytes: u64::MAX, entries };
    let found = percents(trace, Goal::HITS, budget, Outcome::hit_percent);
    let best = found.iter().map(|(_, percent)| *percent).fold(known, f64::max);
    let peer = found.iter().find(|(_, percent)| *percent == best).map_or("other", |(name, _)| name);
    for (policy, percent) in found {
        emit(&format!("hits/{name}@{entries}/{policy}"), percent, Some((peer, best)), None);
        gaps.add(policy, best - percent);
    }
}

/// Objects of sizes: against those that are named, by goal.
fn sized(name: &str, trace: &KeyTrace) {
    for (goal_name, goal, others) in GOALS {
        let percent = if goal == Goal::HITS { Outcome::hit_percent } else { Outcome::byte_percent };
        for part in PERCENT {
            let bytes = (trace.total_bytes() / 100).saturating_mul(part).max(1);
            let budget = Budget { bytes, entries: u64::MAX };
            let found = percents(trace, goal, budget, percent);
            let of = |wanted: &str| found.iter().find(|(name, _)| *name == wanted).copied();
            let rivals = others.iter().filter_map(|name| of(name));
            let best = rivals.max_by(|one, other| one.1.total_cmp(&other.1));
            for policy in ["lru", "lfu", "adaptive"] {
                if let (Some((_, ours)), Some((peer, best))) = (of(policy), best) {
                    let case = format!("{goal_name}/{name}@{part}%/{policy}");
                    emit(&case, ours, Some((peer, best)), None);
                    if policy == "adaptive" {
                        let case = format!("{goal_name}/{name}@{part}%/points-lost");
                        emit(&case, best - ours, None, Some(0.5));
                    }
                }
            }
        }
    }
}

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

/// Tensors by popularity that drifts, and one in seven that is asked for once.
fn mixed_tensors() -> KeyTrace {
    let mut numbers = Numbers(1);
    let mut bytes: Vec<u64> = (0..20_000).map(|_| numbers.tensor()).collect();
    let accesses = (0..200_000u64)
        .map(|at| match numbers.next() % 7 {
            0 => {
                bytes.push(numbers.tensor());
                bytes.len() as u32 - 1
            }
            _ => ((numbers.zipf(20_000, 0.8) + at / 50) % 20_000) as u32,
        })
        .collect();
    KeyTrace::of(accesses, bytes, true)
}

/// A loader of training data: each of 4000 tensors once an epoch, in another order each time.
fn epochs() -> KeyTrace {
    let mut numbers = Numbers(2);
    let bytes = (0..4000).map(|_| numbers.tensor()).collect();
    let mut order: Vec<u32> = (0..4000).collect();
    let mut accesses = Vec::new();
    for _ in 0..40 {
        for last in (1..order.len()).rev() {
            order.swap(last, (numbers.next() % (last as u64 + 1)) as usize);
        }
        accesses.extend_from_slice(&order);
    }
    KeyTrace::of(accesses, bytes, true)
}

/// All of it. `folder`: where the recorded traces are, if they are.
pub fn run(folder: Option<&Path>) {
    sized("mixed-tensors", &mixed_tensors());
    sized("epochs", &epochs());
    let Some(folder) = folder else {
        eprintln!("bench-cache: no recorded key traces; TRACES=folder has them looked for");
        return;
    };
    let mut gaps = Gaps(Vec::new());
    for (file, points) in TRACES {
        if let Some(trace) = load(&folder.join(file)) {
            points.into_iter().for_each(|(at, known)| point(file, &trace, at, known, &mut gaps));
        }
    }
    if let Some(trace) = load(&folder.join(SIZED)) {
        for part in [1, 5, 20] {
            point(SIZED, &trace, trace.bytes.len() as u64 * part / 100, 0.0, &mut gaps);
        }
        sized("adapt_size_request", &trace);
    }
    for (policy, gaps) in gaps.0 {
        let is_ours = policy == "adaptive";
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        emit(&format!("points-lost-mean/{policy}"), mean, None, is_ours.then_some(0.5));
        let worst = gaps.into_iter().fold(0.0, f64::max);
        emit(&format!("points-lost-worst/{policy}"), worst, None, is_ours.then_some(4.0));
    }
}
