//! Plans that are repeated by programs that do as planned, and by programs that do not: a model
//! of what is where beside it, after every operation.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics, in helpers too.

use std::collections::HashMap;
use std::time::Duration;

use forebay::error::Kind;
use forebay::lifetime::{self, Instance, Lifetime, Options, Plan, Repeat, Tensor};
use proptest::prelude::*;

const GRAIN: u64 = 512;

/// What a step does, in order.
#[derive(Clone, Copy, Debug)]
enum Op {
    Take { tensor: usize, size: u64 },
    Give { tensor: usize },
}

/// A step of `count` tensors, of `sizes` different sizes, and its plan.
fn step_of(count: usize, sizes: u64, seed: u64) -> (Vec<Op>, Plan) {
    let mut random = Random(seed);
    let (mut lifetime, mut ops) = (Lifetime::new(), Vec::new());
    let (mut live, mut time): (Vec<usize>, u64) = (Vec::new(), 0);
    for tensor in 0..count {
        let size = 1 + random.below(sizes) * 700;
        ops.push(Op::Take { tensor, size });
        lifetime.record_alloc(time, tensor as u64, size).unwrap();
        lifetime.align(tensor as u64, GRAIN).unwrap();
        live.push(tensor);
        time += 1;
        while !live.is_empty() && (random.below(12) < live.len() as u64 || tensor + 1 == count) {
            let tensor = live.swap_remove(random.below(live.len() as u64) as usize);
            ops.push(Op::Give { tensor });
            lifetime.record_free(time, tensor as u64).unwrap();
            time += 1;
        }
    }
    let options = Options { time_limit: Duration::ZERO, seed };
    (ops, lifetime::plan(lifetime.instance().unwrap(), &options, None).unwrap())
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A program that repeats a step, and what it has.
struct Program {
    repeat: Repeat,
    /// By the plan's tensor: where it is, and how long.
    live: HashMap<usize, (u64, u64)>,
    served: u64,
    missed: u64,
}

impl Program {
    fn new(plan: &Plan) -> Program {
        let repeat = Repeat::new(plan, GRAIN).unwrap();
        Program { repeat, live: HashMap::new(), served: 0, missed: 0 }
    }

    /// Takes `size` bytes, from the plan or elsewhere; says which tensor that is.
    fn take(&mut self, size: u64) -> Option<usize> {
        let Some(taken) = self.repeat.take(size, 1, &mut |_| true) else {
            self.missed += 1;
            return None;
        };
        assert!(taken.bytes >= size && taken.offset.is_multiple_of(GRAIN));
        assert!(taken.offset + taken.bytes <= self.repeat.arena_bytes());
        for (&other, &(from, to)) in &self.live {
            let apart = taken.offset + taken.bytes <= from || to <= taken.offset;
            assert!(apart, "{taken:?} overlaps {other} at {from}..{to}");
        }
        self.live.insert(taken.tensor, (taken.offset, taken.offset + taken.bytes));
        self.repeat.validate().unwrap();
        self.served += 1;
        Some(taken.tensor)
    }

    fn give(&mut self, tensor: Option<usize>) {
        let Some(tensor) = tensor else { return };
        let (from, _) = self.live.remove(&tensor).unwrap();
        assert_eq!(self.repeat.at(from), Some(tensor));
        self.repeat.give(tensor);
        assert_eq!(self.repeat.at(from), None);
    }

    /// One step as planned.
    fn run(&mut self, ops: &[Op]) {
        let mut held = HashMap::new();
        for op in ops {
            match *op {
                Op::Take { tensor, size } => drop(held.insert(tensor, self.take(size))),
                Op::Give { tensor } => self.give(held.remove(&tensor).unwrap()),
            }
        }
    }

    /// One step in which of a hundred operations about `percent` are others than planned. What is
    /// freed late goes to `late`.
    fn run_otherwise(
        &mut self,
        ops: &[Op],
        percent: u64,
        random: &mut Random,
        late: &mut Vec<Option<usize>>,
    ) {
        let mut held: HashMap<usize, Option<usize>> = HashMap::new();
        let mut ops = ops.to_vec();
        let mut at = 0;
        while at < ops.len() {
            let strange = random.below(100) < percent;
            match (ops[at], if strange { random.below(6) } else { 9 }) {
                // One more.
                (_, 0) => {
                    let extra = self.take(1 + random.below(20_000));
                    late.push(extra);
                }
                // The step ends here.
                (_, 1) if percent < 50 && random.below(8) == 0 => {
                    late.extend(held.drain().map(|(_, taken)| taken));
                    return;
                }
                // Another size, or none at all.
                (Op::Take { tensor, .. }, 2) => {
                    let other = self.take(1 + random.below(20_000));
                    held.insert(tensor, other);
                    at += 1;
                    continue;
                }
                (Op::Take { tensor, .. }, 3) => {
                    held.insert(tensor, None);
                    at += 1;
                    continue;
                }
                // Another order: this one after the next.
                (Op::Take { .. }, 4) if matches!(ops.get(at + 1), Some(Op::Take { .. })) => {
                    ops.swap(at, at + 1);
                }
                // Freed in a later step.
                (Op::Give { tensor }, _) if strange => {
                    late.push(held.remove(&tensor).unwrap());
                    at += 1;
                    continue;
                }
                _ => {}
            }
            match ops[at] {
                Op::Take { tensor, size } => drop(held.insert(tensor, self.take(size))),
                Op::Give { tensor } => self.give(held.remove(&tensor).unwrap()),
            }
            at += 1;
            if !late.is_empty() && random.below(40) == 0 {
                let one = late.swap_remove(random.below(late.len() as u64) as usize);
                self.give(one);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_program_that_does_as_planned_is_always_served(
        count in 1..60usize, sizes in 1..40u64, seed in any::<u64>(),
    ) {
        let (ops, plan) = step_of(count, sizes, seed);
        let mut program = Program::new(&plan);
        for step in 1..6 {
            program.run(&ops);
            prop_assert_eq!((program.served, program.missed), (step * count as u64, 0));
            prop_assert_eq!(program.repeat.steps(), step);
        }
    }

    #[test]
    fn nothing_overlaps_whatever_a_program_does(
        count in 1..60usize, sizes in 1..40u64, seed in any::<u64>(),
        percent in prop_oneof![Just(1u64), Just(10), Just(60)], told in any::<bool>(),
    ) {
        let (ops, plan) = step_of(count, sizes, seed);
        let mut program = Program::new(&plan);
        let (mut random, mut late) = (Random(seed ^ 1), Vec::new());
        for _ in 0..30 {
            if told {
                program.repeat.begin_step();
            }
            program.run_otherwise(&ops, percent, &mut random, &mut late);
        }
        late.drain(..).for_each(|one| program.give(one));
        prop_assert!(program.live.is_empty());
        // Back on the plan at the next step.
        program.repeat.begin_step();
        let served = program.served;
        program.run(&ops);
        prop_assert_eq!(program.served - served, count as u64);
    }
}

#[test]
fn a_program_finds_its_way_back_without_being_told() {
    let mut missed = 0;
    for seed in 0..500 {
        // So many sizes that hardly any four in a row are there twice.
        let (ops, plan) = step_of(20 + seed as usize % 40, 1000, seed);
        let mut program = Program::new(&plan);
        program.run(&ops);
        // A step that ends early, wherever.
        let mut held = HashMap::new();
        for op in &ops[..seed as usize * 7 % ops.len()] {
            match *op {
                Op::Take { tensor, size } => drop(held.insert(tensor, program.take(size))),
                Op::Give { tensor } => program.give(held.remove(&tensor).unwrap()),
            }
        }
        held.into_values().for_each(|taken| program.give(taken));
        program.run(&ops);
        missed += program.missed;
        let (before, count) = (program.served, plan.offsets().len() as u64);
        program.run(&ops);
        assert_eq!(program.served - before, count, "seed {seed}");
    }
    // Four sizes say where it is; now and then one of them is that of a tensor to come.
    assert!(missed <= 500 * 5, "{missed} missed in 500 steps after one that ended early");
}

fn plan_of(tensors: &[(u64, u64, u64, u64)]) -> Plan {
    let mut instance = Instance::new();
    let mut offsets = Vec::new();
    for (id, &(lower, upper, size, offset)) in (0..).zip(tensors) {
        instance.add(Tensor { alignment: GRAIN, ..Tensor::new(id, lower, upper, size) }).unwrap();
        offsets.push(offset);
    }
    Plan::new(instance, offsets).unwrap()
}

#[test]
fn what_is_freed_late_keeps_its_place() {
    let plan = plan_of(&[(0, 1, 1000, 0), (1, 2, 3000, 0), (2, 3, 2000, 0)]);
    let mut program = Program::new(&plan);
    let first = program.take(1000);
    assert!(first.is_some());
    // The second and the third would lie on it.
    assert_eq!((program.take(3000), program.take(2000)), (None, None));
    program.give(first);
    program.run(&[Op::Take { tensor: 0, size: 1000 }, Op::Give { tensor: 0 }]);
    assert_eq!(program.served, 2);
}

#[test]
fn what_lives_on_is_not_waited_for() {
    // Weights, and then a step: they are not allocated again.
    let plan =
        plan_of(&[(0, 9, 4000, 0), (0, 9, 5000, 4096), (1, 2, 1000, 9728), (2, 3, 2000, 9728)]);
    let mut program = Program::new(&plan);
    let weights = [program.take(4000), program.take(5000)];
    for _ in 0..10 {
        let one = program.take(1000);
        program.give(one);
        let two = program.take(2000);
        program.give(two);
    }
    assert_eq!((program.served, program.missed), (22, 0));
    weights.into_iter().for_each(|one| program.give(one));
}

#[test]
fn one_that_may_not_be_used_yet_is_not_given() {
    let plan = plan_of(&[(0, 1, 1000, 0), (1, 2, 3000, 0)]);
    let mut repeat = Repeat::new(&plan, GRAIN).unwrap();
    // In the first step, nobody had the bytes but in the step before.
    let mut asked = Vec::new();
    let taken = repeat.take(1000, 1, &mut |tensor| {
        asked.push(tensor);
        true
    });
    repeat.give(taken.unwrap().tensor);
    assert_eq!(asked, [1]);
    assert_eq!(repeat.take(3000, 1, &mut |tensor| tensor != 0), None);
    // A larger alignment than the place has.
    repeat.begin_step();
    assert!(repeat.take(1000, 4096, &mut |_| true).is_some());
    let plan = plan_of(&[(0, 2, 1000, 0), (1, 2, 3000, 1024)]);
    let mut repeat = Repeat::new(&plan, GRAIN).unwrap();
    assert!(repeat.take(1000, 4096, &mut |_| true).is_some());
    assert_eq!(repeat.take(3000, 4096, &mut |_| true), None);
}

#[test]
fn a_plan_that_does_not_fit_is_refused() {
    let refused = |plan: &Plan| {
        let error = Repeat::new(plan, GRAIN).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        error.message().to_owned()
    };
    let mut instance = Instance::new();
    assert!(refused(&Plan::new(instance.clone(), Vec::new()).unwrap()).contains("no tensors"));
    instance.add(Tensor::new(7, 0, 1, 10)).unwrap();
    let message = refused(&Plan::new(instance, vec![100]).unwrap());
    assert!(message.contains("tensor 7 is at 100") && message.contains("512"), "{message}");
}
