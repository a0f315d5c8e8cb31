//! Policies on recorded key traces: hit ratios of each, and how far each is from the best at
//! that point. The traces lie in a folder that is given; those that do not are named.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use forebay::cache::key_trace::KeyTrace;
use forebay::cache::policy::{Budget, Goal};
use forebay::cache::simulate::{Outcome, compare};

use super::emit;
use super::generated::{Half, epochs, mixed_tensors, of_one_size};

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

    /// Means and the worst, of policies on traces that have this in their name.
    fn emit(self, what: &str) {
        for (policy, gaps) in self.0 {
            let is_ours = policy == "adaptive";
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let case = format!("points-lost-mean{what}/{policy}");
            emit(&case, mean, None, is_ours.then_some(0.5));
            let worst = gaps.into_iter().fold(0.0, f64::max);
            let case = format!("points-lost-worst{what}/{policy}");
            emit(&case, worst, None, is_ours.then_some(4.0));
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

/// All of it. `folder`: where the recorded traces are, if they are.
pub fn run(folder: Option<&Path>) {
    sized("mixed-tensors", &mixed_tensors(1, 20_000, 0.8, 7, 50));
    sized("epochs", &epochs(2, 4000));
    sized("mixed-tensors-held-out", &mixed_tensors(11, 12_000, 0.7, 5, 30));
    sized("epochs-held-out", &epochs(12, 2500));
    for half in Half::BOTH {
        let mut gaps = Gaps(Vec::new());
        for generated in of_one_size(half) {
            for entries in generated.entries {
                point(&generated.name, &generated.trace, entries, 0.0, &mut gaps);
            }
        }
        gaps.emit(half.name());
    }
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
    gaps.emit("");
}
