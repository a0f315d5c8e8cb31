//! The planner: `make bench-plan [PLANS=folder] [TRACES=folder] [SEED=1] [PLOT=file] [PATIENCE=1]`.
//! How high its plans are, how long it takes, and what memory, on instances and traces from folders
//! and on generated ones.
//!
//! One JSON line per figure on stdout: bench, case, ours, peer_name, peer, ratio, target, met.
//! `PLOT=file` draws time against size from this run. Times are CPU times.
//! `PATIENCE=4` makes limits so many times longer, for a machine whose cores others use too.

#![allow(missing_docs, clippy::unwrap_used)]

mod generate;
mod plot;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use forebay::lifetime::{self, Instance, Lifetime, Options, Plan, Progress};
use forebay::trace::Trace;
use generate::Family;
use plot::Point;

/// Seeds with which each instance of a folder is planned.
const SEEDS: u64 = 5;

/// Tensors of generated instances, and the seconds that their plans may take.
const SIZES: [(usize, u64); 5] =
    [(1_000, 10), (3_000, 10), (10_000, 10), (20_000, 10), (60_000, 60)];

/// How far above the bound a large plan may be.
const NEAR: f64 = 1.015;

/// Plans at the bound are not known for these: the height that has to be beaten.
const OPEN: [(&str, u64); 1] = [("minimalloc_D", 1_048_576)];

fn emit(case: &str, ours: f64, peer: Option<(&str, f64)>, target: Option<f64>) {
    let number = |value: Option<f64>| value.map_or("null".into(), |value| format!("{value:.6}"));
    let name = peer.map_or(String::from("null"), |(name, _)| format!("\"{name}\""));
    let peer = peer.map(|(_, value)| value);
    let ratio = peer.map(|peer| ours / peer);
    let met = target.map_or("null".into(), |target| (ratio.unwrap_or(ours) <= target).to_string());
    println!(
        "{{\"bench\":\"plan\",\"case\":\"{case}\",\"ours\":{ours:.6},\"peer_name\":{name},\
         \"peer\":{},\"ratio\":{},\"target\":{},\"met\":{met}}}",
        number(peer),
        number(ratio),
        number(target),
    );
}

/// CPU time of the calling thread, which others on the machine do not change much. Limits are by the
/// clock on the wall, as the planner's are.
fn cpu_seconds() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// A plan, and the CPU time it took.
fn timed(instance: &Instance, options: &Options) -> (Plan, f64) {
    let (instance, begun) = (instance.clone(), cpu_seconds());
    let plan = lifetime::plan(instance, options, None).unwrap();
    (plan, cpu_seconds() - begun)
}

fn over(plan: &Plan) -> f64 {
    plan.arena_bytes() as f64 / plan.lower_bound() as f64
}

fn greedy(instance: &Instance) -> (Plan, f64) {
    timed(instance, &Options { time_limit: Duration::ZERO, seed: 0 })
}

fn files(folder: &Path, end: &str) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = entries.filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(end)?.to_owned();
        Some((name, path))
    });
    let mut found: Vec<_> = named.collect();
    found.sort();
    if found.is_empty() {
        eprintln!("bench-plan: no file in {} ends in {end}", folder.display());
    }
    found
}

/// Plans `instance` with each seed: the worst height, and seconds.
fn measure(name: &str, instance: &Instance, limit: u64, patience: u64, target: f64) {
    let (first, _) = greedy(instance);
    let planned = (0..SEEDS).map(|seed| {
        timed(instance, &Options { time_limit: Duration::from_secs(limit * patience), seed })
    });
    let (plans, mut seconds): (Vec<Plan>, Vec<f64>) = planned.unzip();
    let bound = ("lower bound", first.lower_bound() as f64);
    let worst = plans.iter().map(Plan::arena_bytes).max().unwrap_or(0);
    seconds.sort_by(f64::total_cmp);
    emit(&format!("{name}-height"), worst as f64, Some(bound), Some(target));
    emit(&format!("{name}-greedy-height"), first.arena_bytes() as f64, Some(bound), None);
    emit(&format!("{name}-seconds-median"), seconds[seconds.len() / 2], None, None);
    // The limit is looked at every few nodes of the search.
    let most = seconds[seconds.len() - 1];
    emit(&format!("{name}-seconds-worst"), most, None, Some(limit as f64 * 1.05));
}

fn plans(folder: &Path, patience: u64) {
    for (name, path) in files(folder, ".csv") {
        let instance = lifetime::file::read_instance(&path).unwrap();
        let open = OPEN.iter().find(|(open, _)| *open == name);
        let bound = lifetime::sweep::lower_bound(&instance) as f64;
        let target = open.map_or(1.0, |(_, height)| (height - 1) as f64 / bound);
        measure(&name, &instance, 1, patience, target);
    }
}

fn traces(folder: &Path, patience: u64) {
    for (name, path) in files(folder, ".csv.gz") {
        let mut lifetime = Lifetime::new();
        lifetime.add_trace(&Trace::load(&path).unwrap(), 0, 512).unwrap();
        measure(&name, &lifetime.instance().unwrap(), 2, patience, 1.001);
    }
}

/// The most memory that this process ever had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

/// In a process of its own, for its memory: plans one generated instance and prints what came
/// out.
fn child(arguments: &[String]) {
    let family = Family::ALL.into_iter().find(|family| family.name() == arguments[0]).unwrap();
    let number = |at: usize| arguments[at].parse::<u64>().unwrap();
    let (count, seed, limit) = (number(1) as usize, number(2), number(3));
    let instance = family.instance(count, seed);
    let before = peak_memory();
    let (first, first_seconds) = greedy(&instance);
    let (mut near, begun) = (None, cpu_seconds());
    let mut watch = |progress: &Progress| {
        let height = progress.arena_bytes as f64 / progress.lower_bound as f64;
        if height <= NEAR && near.is_none() {
            near = Some(cpu_seconds() - begun);
        }
        true
    };
    let options = Options { time_limit: Duration::from_secs(limit), seed };
    let plan = lifetime::plan(instance, &options, Some(&mut watch)).unwrap();
    let (seconds, memory) = (cpu_seconds() - begun, peak_memory() - before);
    // The greedy answer is there before the watch is asked for the first time.
    let near = match (over(&first) <= NEAR, over(&plan) <= NEAR) {
        (true, _) => first_seconds,
        (_, true) => near.unwrap_or(seconds),
        _ => f64::INFINITY,
    };
    println!("{} {} {seconds} {near} {memory}", over(&first), over(&plan));
}

fn generated(seed: u64, patience: u64) -> Vec<Point> {
    let mut points = Vec::new();
    for family in Family::ALL {
        for (count, limit) in SIZES {
            let name = family.name();
            let arguments = [count.to_string(), seed.to_string(), (limit * patience).to_string()];
            let mut command = Command::new(std::env::current_exe().unwrap());
            let output = command.args(["--child", name]).args(arguments).output().unwrap();
            assert!(output.status.success(), "{name} {count}: {output:?}");
            let said = String::from_utf8(output.stdout).unwrap();
            let numbers: Vec<f64> =
                said.split_whitespace().map(|word| word.parse().unwrap()).collect();
            let [first, height, seconds, near, memory] = numbers[..] else { panic!("{said}") };
            let case = format!("{name}-{count}");
            emit(&format!("{case}-height"), height, None, Some(NEAR));
            emit(&format!("{case}-greedy-height"), first, None, None);
            emit(&format!("{case}-seconds"), seconds, None, Some(limit as f64 * 1.05));
            if near.is_finite() {
                emit(&format!("{case}-seconds-to-{NEAR}"), near, None, Some(limit as f64));
            }
            let seconds = near.min(seconds);
            points.push(Point {
                family: name,
                tensors: count as f64,
                seconds,
                near: near.is_finite(),
            });
            emit(&format!("{case}-memory-per-tensor"), memory / count as f64, None, None);
        }
    }
    points
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|one| one != "--bench").collect();
    if arguments.first().is_some_and(|first| first == "--child") {
        return child(&arguments[1..]);
    }
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).filter(|value| !value.is_empty())
    };
    let number = |name: &str| option(name).map_or(1, |value| value.parse::<u64>().unwrap());
    let patience = number("--patience");
    match option("--plans") {
        Some(folder) => plans(Path::new(folder), patience),
        None => eprintln!("bench-plan: no PLANS=folder: no instance was read"),
    }
    match option("--traces") {
        Some(folder) => traces(Path::new(folder), patience),
        None => eprintln!("bench-plan: no TRACES=folder: no trace was read"),
    }
    let points = generated(number("--seed"), patience);
    if let Some(path) = option("--plot") {
        let what = format!(
            "Time to a plan at most {:.1} % above the bound (CPU time, one core)",
            100.0 * (NEAR - 1.0)
        );
        std::fs::write(path, plot::draw(&points, &what)).unwrap();
    }
}
