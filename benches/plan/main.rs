//! The planner on instances and traces: `make bench-plan PLANS=folder TRACES=folder`.

use std::path::Path;
use std::time::Duration;

use forebay::lifetime::{self, Instance, Lifetime, Options, Plan};
use forebay::trace::Trace;

fn read(path: &Path) -> Instance {
    let name = path.to_string_lossy();
    if name.ends_with(".csv.gz") {
        let trace = Trace::load(path).unwrap();
        let mut lifetime = Lifetime::new();
        lifetime.add_trace(&trace, 0, 512).unwrap();
        return lifetime.instance().unwrap();
    }
    lifetime::file::read_instance(path).unwrap()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|one| one != "--bench").collect();
    let limit: f64 = arguments[0].parse().unwrap();
    let seed: u64 = arguments[1].parse().unwrap();
    for path in &arguments[2..] {
        let instance = read(Path::new(path));
        let options = Options { time_limit: Duration::from_secs_f64(limit), seed };
        let greedy = Options { time_limit: Duration::ZERO, ..options };
        let before: Plan = lifetime::plan(instance.clone(), &greedy, None).unwrap();
        let plan = lifetime::plan(instance, &options, None).unwrap();
        println!(
            "{path} {} tensors, greedy {:.5} in {:.3} s; {:.5} in {:.3} s, {} of {}, optimal {}",
            plan.offsets().len(),
            before.arena_bytes() as f64 / before.lower_bound() as f64,
            before.elapsed().as_secs_f64(),
            plan.arena_bytes() as f64 / plan.lower_bound() as f64,
            plan.elapsed().as_secs_f64(),
            plan.arena_bytes(),
            plan.lower_bound(),
            plan.optimal(),
        );
    }
}
