//! The planner on random instances, its validator on planted faults, files, and records.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics, in helpers too.

use std::time::Duration;

use forebay::error::Kind;
use forebay::lifetime::{self, Instance, Lifetime, Options, Plan, Tensor, file, sweep};
use proptest::prelude::*;

/// As the definition says: every pair is looked at, and every time at which something begins.
fn check_by_definition(plan: &Plan) {
    let tensors = plan.instance().tensors();
    for (one, (a, &at)) in tensors.iter().zip(plan.offsets()).enumerate() {
        assert!(at.is_multiple_of(a.alignment), "{a:?} at {at}");
        assert!(a.offset.is_none_or(|offset| offset == at), "{a:?} at {at}");
        for (two, (b, &bt)) in tensors.iter().zip(plan.offsets()).enumerate().skip(one + 1) {
            let together = a.lower < b.upper && b.lower < a.upper;
            let overlap = at < bt + b.size && bt < at + a.size;
            let allowed = at == bt && group(tensors, one) == group(tensors, two);
            assert!(!together || !overlap || allowed, "{a:?} at {at}, {b:?} at {bt}");
        }
    }
    let height = tensors.iter().zip(plan.offsets()).map(|(tensor, at)| at + tensor.size).max();
    assert_eq!(plan.arena_bytes(), height.unwrap_or(0));
    assert!(plan.arena_bytes() >= plan.lower_bound());
    assert!(plan.lower_bound() >= peak_by_definition(tensors));
}

/// The first of the tensors that may be in one place.
fn group(tensors: &[Tensor], mut place: usize) -> usize {
    while let Some(alias) = tensors[place].alias {
        place = tensors.iter().position(|tensor| tensor.id == alias).unwrap();
    }
    place
}

/// Live bytes, without those that aliases may save.
fn peak_by_definition(tensors: &[Tensor]) -> u64 {
    let live = |time: u64| {
        let mut largest = std::collections::HashMap::new();
        for (place, tensor) in tensors.iter().enumerate() {
            if tensor.lower <= time && time < tensor.upper {
                let most = largest.entry(group(tensors, place)).or_insert(0);
                *most = tensor.size.max(*most);
            }
        }
        largest.values().sum::<u64>()
    };
    tensors.iter().map(|tensor| live(tensor.lower)).max().unwrap_or(0)
}

fn instance_of(tensors: &[Tensor]) -> Instance {
    let mut instance = Instance::new();
    tensors.iter().for_each(|tensor| instance.add(*tensor).unwrap());
    instance
}

prop_compose! {
    fn any_tensor()(
        lower in 0..60u64,
        lived in 1..25u64,
        size in 1..200u64,
        alignment in prop_oneof![4 => Just(1u64), 1 => Just(8), 1 => Just(64)],
        offset in prop::option::weighted(0.05, 0..40u64),
        alias in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) -> (Tensor, Option<prop::sample::Index>) {
        let offset = offset.map(|offset| offset * 64);
        (Tensor { alignment, offset, ..Tensor::new(0, lower, lower + lived, size) }, alias)
    }
}

prop_compose! {
    fn any_instance()(drawn in prop::collection::vec(any_tensor(), 1..40)) -> Instance {
        let mut instance = Instance::new();
        for (id, (tensor, alias)) in (100..).zip(drawn) {
            let known = instance.tensors();
            let alias = alias.filter(|_| !known.is_empty()).map(|index| index.get(known).id);
            // A fixed one in the way of another fixed one is left to the planner.
            let clash = known.iter().any(|other| {
                tensor.offset.zip(other.offset).is_some_and(|(a, b)| {
                    a < b + other.size
                        && b < a + tensor.size
                        && tensor.lower < other.upper
                        && other.lower < tensor.upper
                })
            });
            let offset = tensor.offset.filter(|_| !clash);
            instance.add(Tensor { id, alias, offset, ..tensor }).unwrap();
        }
        instance
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn random_instances_are_planned_without_overlap(instance in any_instance(), seed: u64) {
        let options = Options { time_limit: Duration::from_millis(2), seed };
        check_by_definition(&lifetime::plan(instance, &options, None).unwrap());
    }
}

/// All offsets of all tensors, one after the other: the least height there is.
fn least_height(instance: &Instance) -> u64 {
    fn fits(tensors: &[Tensor], offsets: &mut Vec<u64>, height: u64) -> bool {
        let Some(next) = tensors.get(offsets.len()) else { return true };
        for at in 0..=height - next.size.min(height) {
            let free = tensors.iter().zip(offsets.iter()).all(|(other, &offset)| {
                other.upper <= next.lower
                    || next.upper <= other.lower
                    || offset + other.size <= at
                    || at + next.size <= offset
            });
            if free && at.is_multiple_of(next.alignment) && at + next.size <= height {
                offsets.push(at);
                if fits(tensors, offsets, height) {
                    return true;
                }
                offsets.pop();
            }
        }
        false
    }
    let mut height = lifetime::sweep::lower_bound(instance);
    while !fits(instance.tensors(), &mut Vec::new(), height) {
        height += 1;
    }
    height
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn small_instances_are_planned_as_low_as_can_be(
        drawn in prop::collection::vec((0..8u64, 1..5u64, 1..6u64, 0..3u32), 1..6),
    ) {
        let tensors: Vec<Tensor> = (0..).zip(&drawn).map(|(id, &(lower, lived, size, log))| {
            Tensor { alignment: 1 << log, ..Tensor::new(id, lower, lower + lived, size) }
        }).collect();
        let instance = instance_of(&tensors);
        let least = least_height(&instance);
        let options = Options { time_limit: Duration::from_secs(60), seed: 1 };
        let plan = lifetime::plan(instance, &options, None).unwrap();
        prop_assert!(plan.optimal());
        prop_assert_eq!(plan.arena_bytes(), least);
    }
}

/// Rectangles cut from one: a plan at the bound exists, and nothing may be wasted.
fn cut(seed: u64, pieces: usize) -> Instance {
    let mut random = seed;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (random >> 33) % below
    };
    let mut cut = vec![(0u64, 1000u64, 0u64, 100_000u64)];
    while cut.len() < pieces {
        let at = next(cut.len() as u64) as usize;
        let (left, right, low, high) = cut.swap_remove(at);
        if next(2) == 0 && right - left > 1 {
            let middle = left + 1 + next(right - left - 1);
            cut.extend([(left, middle, low, high), (middle, right, low, high)]);
        } else if high - low > 1 {
            let middle = low + 1 + next(high - low - 1);
            cut.extend([(left, right, low, middle), (left, right, middle, high)]);
        } else {
            cut.push((left, right, low, high));
        }
    }
    let tensor = |(id, &(left, right, low, high))| Tensor::new(id, left, right, high - low);
    instance_of(&(0..).zip(&cut).map(tensor).collect::<Vec<_>>())
}

#[test]
fn what_was_cut_from_a_rectangle_fits_in_it_again() {
    for seed in 0..20 {
        let options = Options { time_limit: Duration::from_secs(20), seed };
        let plan = lifetime::plan(cut(seed, 40), &options, None).unwrap();
        check_by_definition(&plan);
        assert_eq!((plan.arena_bytes(), plan.lower_bound()), (100_000, 100_000), "seed {seed}");
        assert!(plan.optimal());
    }
}

#[test]
fn one_seed_has_one_plan() {
    let options = Options { time_limit: Duration::from_secs(20), seed: 7 };
    let one = lifetime::plan(cut(3, 30), &options, None).unwrap();
    let two = lifetime::plan(cut(3, 30), &options, None).unwrap();
    assert_eq!(one.offsets(), two.offsets());
}

#[test]
fn the_watch_ends_the_planning() {
    let mut asked = 0;
    let instance = cut(11, 400);
    let bound = sweep::lower_bound(&instance);
    let options = Options { time_limit: Duration::from_secs(600), seed: 0 };
    let mut watch = |progress: &lifetime::Progress| {
        asked += 1;
        assert_eq!(progress.lower_bound, bound);
        asked < 3
    };
    let plan = lifetime::plan(instance, &options, Some(&mut watch)).unwrap();
    check_by_definition(&plan);
    assert!(plan.optimal() || asked == 3);
}

fn message_of<T: std::fmt::Debug>(result: forebay::error::Result<T>, kind: Kind) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind);
    error.to_string()
}

#[test]
fn the_validator_finds_planted_faults() {
    let options = Options::default();
    for seed in 0..200 {
        let plan = lifetime::plan(cut(seed, 12), &options, None).unwrap();
        let instance = plan.instance().clone();
        let moved = |place: usize, at: u64| {
            let mut offsets = plan.offsets().to_vec();
            offsets[place] = at;
            offsets
        };
        // Nothing is wasted in the whole, so whatever is moved by a byte is in another's way,
        // or ends above it.
        for place in 0..12 {
            let at = plan.offsets()[place];
            let up = sweep::validate(&instance, &moved(place, at + 1));
            assert!(up.is_err() || up == Ok(100_001), "seed {seed}, tensor {place}");
            if at > 0 {
                let text = message_of(
                    sweep::validate(&instance, &moved(place, at - 1)),
                    Kind::InvalidArgument,
                );
                assert!(text.contains("overlap"), "{text}");
            }
        }
    }
    let tensors = [
        Tensor { alignment: 64, ..Tensor::new(1, 0, 5, 10) },
        Tensor { offset: Some(64), ..Tensor::new(2, 0, 5, 10) },
    ];
    let instance = instance_of(&tensors);
    assert_eq!(sweep::validate(&instance, &[0, 64]), Ok(74));
    let text = message_of(sweep::validate(&instance, &[1, 64]), Kind::InvalidArgument);
    assert!(text.contains("tensor 1 is at 1") && text.contains("64"), "{text}");
    let text = message_of(sweep::validate(&instance, &[0, 128]), Kind::InvalidArgument);
    assert!(text.contains("tensor 2") && text.contains("has to be at 64"), "{text}");
    let text = message_of(sweep::validate(&instance, &[0]), Kind::InvalidArgument);
    assert!(text.contains("1 offsets for 2 tensors"), "{text}");
    let large = instance_of(&[Tensor::new(1, 0, 5, 10)]);
    let text = message_of(sweep::validate(&large, &[u64::MAX - 9]), Kind::InvalidArgument);
    assert!(text.contains("ends beyond 64 bits"), "{text}");
}

#[test]
fn aliases_share_a_place_and_only_they() {
    let written = Tensor { alias: Some(1), ..Tensor::new(2, 4, 9, 100) };
    let plan = |tensors: &[Tensor]| {
        lifetime::plan(instance_of(tensors), &Options::default(), None).unwrap()
    };
    let apart = plan(&[Tensor::new(1, 0, 5, 100), Tensor::new(2, 4, 9, 100)]);
    assert_eq!(apart.arena_bytes(), 200);
    let joined = plan(&[Tensor::new(1, 0, 5, 100), written]);
    assert_eq!((joined.arena_bytes(), joined.lower_bound(), joined.optimal()), (100, 100, true));
    // Not from the same offset on.
    let instance = instance_of(&[Tensor::new(1, 0, 5, 100), written]);
    assert!(sweep::validate(&instance, &[0, 1]).is_err());
}

#[test]
fn an_instance_refuses_what_cannot_be() {
    let mut instance = Instance::new();
    instance.add(Tensor::new(1, 0, 5, 10)).unwrap();
    let cases = [
        (Tensor::new(2, 5, 5, 1), "upper is 5"),
        (Tensor::new(2, 6, 5, 1), "upper is 5"),
        (Tensor::new(2, 0, 5, 0), "size is 0"),
        (Tensor::new(1, 0, 5, 1), "tensor 1: its id"),
        (Tensor { alignment: 0, ..Tensor::new(2, 0, 5, 1) }, "alignment is 0"),
        (Tensor { alignment: 24, ..Tensor::new(2, 0, 5, 1) }, "alignment is 24"),
        (Tensor { alignment: 8, offset: Some(4), ..Tensor::new(2, 0, 5, 1) }, "offset is 4"),
        (Tensor { alias: Some(7), ..Tensor::new(2, 0, 5, 1) }, "alias is 7"),
        (Tensor::new(2, 0, 5, u64::MAX), "beyond the limit"),
        (Tensor { offset: Some(u64::MAX - 1), ..Tensor::new(2, 0, 5, 1) }, "beyond the limit"),
    ];
    for (tensor, part) in cases {
        let text = message_of(instance.add(tensor), Kind::InvalidArgument);
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(instance.tensors().len(), 1);
    for (id, offset) in [(8, 100), (9, 105)] {
        instance.add(Tensor { offset: Some(offset), ..Tensor::new(id, 0, 5, 10) }).unwrap();
    }
    let result = lifetime::plan(instance, &Options::default(), None);
    assert!(message_of(result, Kind::InvalidArgument).contains("overlap"));
}

#[test]
fn nothing_to_plan_is_a_plan_of_no_bytes() {
    let plan = lifetime::plan(Instance::new(), &Options::default(), None).unwrap();
    assert_eq!((plan.arena_bytes(), plan.lower_bound(), plan.optimal()), (0, 0, true));
}

fn scratch(name: &str) -> std::path::PathBuf {
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("lifetime");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

#[test]
fn a_saved_plan_is_read_again_and_every_change_of_it_found() {
    let mut tensors = vec![Tensor::new(7, 3, 400, 1000), Tensor::new(u64::MAX, 0, 4, 513)];
    tensors.push(Tensor { alignment: 64, ..Tensor::new(8, 4, 9, 63) });
    tensors.push(Tensor { alias: Some(8), ..Tensor::new(9, 8, 19, 63) });
    let plan = lifetime::plan(instance_of(&tensors), &Options::default(), None).unwrap();
    for binary in [false, true] {
        let path = scratch(if binary { "plan.bin" } else { "plan.csv" });
        file::write_plan(&plan, &path, binary).unwrap();
        let read = file::read_plan(&path).unwrap();
        assert_eq!(read.instance().tensors(), plan.instance().tensors());
        assert_eq!(read.offsets(), plan.offsets());
        assert_eq!(read.arena_bytes(), plan.arena_bytes());
    }
    let bytes = std::fs::read(scratch("plan.bin")).unwrap();
    let path = scratch("changed.bin");
    for at in 0..bytes.len() {
        std::fs::write(&path, &bytes[..at]).unwrap();
        file::read_plan(&path).unwrap_err();
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            std::fs::write(&path, changed).unwrap();
            file::read_plan(&path).unwrap_err();
        }
    }
}

#[test]
fn a_file_that_is_no_instance_is_refused_by_line_and_column() {
    let path = scratch("bad.csv");
    let cases = [
        ("", "line 1"),
        ("id,lower,upper\n", "column size is missing"),
        ("id,lower,upper,size,colour\n", "colour"),
        ("id,lower,upper,size,size\n", "twice"),
        ("id,lower,upper,size\n1,2,3\n", "line 2: column size is missing"),
        ("id,lower,upper,size\n1,2,3,4,5\n", "line 2: more columns"),
        ("id,lower,upper,size\n1,0,3,4\n2,0,3,-4\n", "line 3: column size: `-4`"),
        ("id,lower,upper,size\n1,0,3,99999999999999999999\n", "line 2: column size"),
    ];
    for (text, part) in cases {
        std::fs::write(&path, text).unwrap();
        let said = message_of(file::read_instance(&path), Kind::MalformedTrace);
        assert!(said.contains(part), "{said}");
    }
    std::fs::write(&path, "id,lower,upper,size\n1,3,3,4\n").unwrap();
    message_of(file::read_instance(&path), Kind::InvalidArgument);
    std::fs::write(&path, "id,lower,upper,size,offset\n1,0,3,4,0\n2,0,3,4,3\n").unwrap();
    assert!(message_of(file::read_plan(&path), Kind::InvalidArgument).contains("overlap"));
    message_of(file::read_plan(scratch("none.csv")), Kind::Io);
}

#[test]
fn a_record_knows_what_could_be_better() {
    let mut lifetime = Lifetime::new();
    lifetime.record_alloc(0, 1, 1000).unwrap();
    lifetime.record_alloc(0, 2, 500).unwrap();
    lifetime.record(1, 1, 1000).unwrap();
    lifetime.record_alloc(5, 3, 1000).unwrap();
    lifetime.record(6, 3, 1000).unwrap();
    lifetime.record_free(90, 1).unwrap();
    lifetime.record_free(95, 3).unwrap();
    lifetime.record(99, 4, 10).unwrap();
    let plan = lifetime::plan(lifetime.instance().unwrap(), &Options::default(), None).unwrap();
    assert_eq!(plan.arena_bytes(), 2500);
    let found = lifetime.suggest(plan.arena_bytes()).unwrap();
    assert_eq!((found.tensors, found.steps, found.total_bytes), (4, 100, 2510));
    assert_eq!((found.peak_bytes, found.reusable_bytes), (2500, 10));
    assert_eq!((found.never_read_tensors, found.never_read_bytes), (1, 500));
    assert_eq!((found.free_earlier_tensors, found.free_earlier_bytes), (2, 2000));
    assert_eq!(found.free_earlier_peak_bytes, 1000);
    assert_eq!((found.temporary_tensors, found.long_lived_tensors), (1, 3));

    message_of(lifetime.record(98, 4, 10), Kind::InvalidArgument);
    message_of(lifetime.record(99, 4, 11), Kind::InvalidArgument);
    message_of(lifetime.record(99, 5, 0), Kind::InvalidArgument);
    message_of(lifetime.record(99, 1, 1000), Kind::InvalidState);
    message_of(lifetime.record_alloc(99, 1, 1), Kind::InvalidArgument);
    message_of(lifetime.record_free(99, 1), Kind::InvalidState);
    message_of(lifetime.record_free(99, 77), Kind::InvalidArgument);
    message_of(lifetime.record_free(99, 4), Kind::InvalidArgument);
}
