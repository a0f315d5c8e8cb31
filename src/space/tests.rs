//! A model beside the real thing: every operation is also done on a plain list of what is
//! live, and every invariant is scanned after every step.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Operation {
    Large { size: u64, alignment: u32, tag: u32, moved: bool },
    Small { size: usize, tag: u32 },
    Free { pick: usize, tag: u32 },
    Resize { pick: usize, size: u64 },
    Pass { tag: u32, fence: u64 },
    Release { pages: u64 },
    AbortedGrowth { size: u64, moved: bool },
}

fn operations() -> impl Strategy<Value = Operation> {
    let large = prop_oneof![CHUNK..4 * CHUNK, CHUNK..3 * PAGE, PAGE..9 * PAGE];
    let size = large.clone().prop_map(|size| round_large(size).unwrap());
    let tag = 0u32..3;
    prop_oneof![
        4 => (size.clone(), prop_oneof![Just(0u32), 9u32..22], tag.clone(), any::<bool>())
            .prop_map(|(size, alignment, tag, moved)| Operation::Large { size, alignment, tag, moved }),
        6 => (1..=SMALL_MAX, tag.clone()).prop_map(|(size, tag)| Operation::Small { size, tag }),
        6 => (any::<usize>(), tag.clone()).prop_map(|(pick, tag)| Operation::Free { pick, tag }),
        1 => (any::<usize>(), size.clone()).prop_map(|(pick, size)| Operation::Resize { pick, size }),
        2 => (1u32..3, 0u64..200).prop_map(|(tag, fence)| Operation::Pass { tag, fence }),
        1 => (0u64..6).prop_map(|pages| Operation::Release { pages }),
        1 => (size, any::<bool>()).prop_map(|(size, moved)| Operation::AbortedGrowth { size, moved }),
    ]
}

const BYTES: u64 = 64 * PAGE;

struct Checked {
    space: Space,
    /// First byte -> (bytes, place, tag it was taken for).
    live: BTreeMap<u64, (u64, Place, u32)>,
    clock: u64,
}

impl Checked {
    fn enter(&mut self, place: Place, tag: u32) {
        let (offset, size) = self.space.extent(place);
        let below = self.live.range(..offset + size).next_back();
        assert!(
            below.is_none_or(|(&at, &(bytes, ..))| at + bytes <= offset),
            "overlap at {offset}"
        );
        self.live.insert(offset, (size, place, tag));
    }

    fn take_large(&mut self, size: u64, alignment: u64, tag: u32, moved: bool) -> bool {
        if let Some(run) = self.space.take_large(size, alignment, tag) {
            self.enter(Place::Large { run }, tag);
            return true;
        }
        let Some(window) = self.space.best_window(size, alignment, tag) else { return false };
        let mapped = self.space.mapped_bytes();
        let growth = self.space.begin_growth(window, if moved { u64::MAX } else { 0 });
        assert_eq!(growth.fresh_bytes() + growth.moved_bytes(), window.pages);
        self.space.validate().unwrap();
        let (fresh, moved) = (growth.fresh_bytes(), growth.moved.clone());
        for (from, to, bytes) in moved {
            let inside = |at: u64| at >= window.offset / PAGE * PAGE && at < window.offset + size;
            assert!(!inside(from) && inside(to) && bytes % PAGE == 0);
        }
        let run = self.space.finish_growth(growth);
        assert_eq!(self.space.mapped_bytes(), mapped + fresh);
        assert_eq!(self.space.runs().get(run).offset, window.offset);
        assert!(window.offset.is_multiple_of(alignment.max(GRANULE)));
        self.enter(Place::Large { run }, tag);
        true
    }

    fn apply(&mut self, operation: Operation) {
        self.clock += 1;
        match operation {
            Operation::Large { size, alignment, tag, moved } => {
                self.take_large(size, 1 << alignment, tag, moved);
            }
            Operation::Small { size, tag } => {
                let class = self.space.classes().class_of(size).unwrap();
                let block = self.space.take_small(class, tag).or_else(|| {
                    if self.space.new_slab(class, tag).is_none() {
                        let bytes = self.space.classes().slab_bytes(class);
                        let window = self.space.best_window(bytes, CHUNK, tag)?;
                        let growth = self.space.begin_growth(window, 0);
                        self.space.finish_growth_slab(growth, class, tag);
                    }
                    self.space.take_small(class, tag)
                });
                if let Some((slab, index)) = block {
                    assert_eq!(self.space.slab(slab).tag, tag);
                    self.enter(Place::Small { slab, index }, tag);
                }
            }
            Operation::Free { pick, tag } if !self.live.is_empty() => {
                let (&offset, &(_, place, _)) =
                    self.live.iter().nth(pick % self.live.len()).unwrap();
                self.live.remove(&offset);
                match place {
                    Place::Large { run } => {
                        self.space.give_large(run, tag, if tag == READY { 0 } else { self.clock });
                    }
                    Place::Small { slab, index } => {
                        let fence = if self.space.slab(slab).tag == READY { 0 } else { self.clock };
                        self.space.give_small(slab, index, fence);
                    }
                }
            }
            Operation::Resize { pick, size } if !self.live.is_empty() => {
                let (&offset, &(old, place, tag)) =
                    self.live.iter().nth(pick % self.live.len()).unwrap();
                if let Place::Large { run } = place {
                    let done = self.space.resize_large(run, size, READY, 0);
                    assert!(done || size > old);
                    if done {
                        self.live.remove(&offset);
                        self.enter(place, tag);
                    }
                }
            }
            Operation::Pass { tag, fence } => self.space.pass(tag, fence),
            Operation::Release { pages } => {
                let before = self.space.mapped_bytes();
                let taken = self.space.begin_release(pages * PAGE);
                self.space.validate().unwrap();
                let mut sum = 0;
                for (number, (run, offset, bytes)) in taken.into_iter().enumerate() {
                    assert!(offset % PAGE == 0 && bytes % PAGE == 0);
                    if number % 2 == 0 {
                        sum += bytes;
                        self.space.finish_release(run);
                    } else {
                        self.space.abort_release(run);
                    }
                }
                assert_eq!(self.space.mapped_bytes(), before - sum);
            }
            Operation::AbortedGrowth { size, moved } => {
                let picture = |space: &Space| {
                    space
                        .runs()
                        .iter()
                        .map(|(_, run)| (run.offset, run.size, run.state, run.tag, run.fence))
                        .collect::<Vec<_>>()
                };
                let before = picture(&self.space);
                if let Some(window) = self.space.best_window(size, 1, 1) {
                    let growth = self.space.begin_growth(window, if moved { u64::MAX } else { 0 });
                    self.space.validate().unwrap();
                    self.space.abort_growth(growth);
                    assert_eq!(picture(&self.space), before);
                }
            }
            Operation::Free { .. } | Operation::Resize { .. } => {}
        }
        self.space.validate().unwrap();
        for (&offset, &(size, place, _)) in &self.live {
            for inside in [offset, offset + size / 2, offset + size - 1] {
                assert_eq!(self.space.locate(inside), Some(place));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 192 }, ..ProptestConfig::default() })]
    #[test]
    fn the_model_agrees(steps in prop::collection::vec(operations(), 1..if cfg!(miri) { 40 } else { 160 })) {
        let space = Space::new(BYTES, SizeClasses::new(16, 8));
        let mut checked = Checked { space, live: BTreeMap::new(), clock: 0 };
        for step in steps {
            checked.apply(step);
        }
        // Given back and passed, everything is one piece again.
        let blocks: Vec<_> = checked.live.values().map(|&(_, place, _)| place).collect();
        for place in blocks {
            match place {
                Place::Large { run } => checked.space.give_large(run, READY, 0),
                Place::Small { slab, index } => {
                    checked.space.give_small(slab, index, 0);
                }
            }
        }
        for tag in 0..checked.space.runs().tags() {
            checked.space.pass(tag, u64::MAX);
        }
        checked.space.validate().unwrap();
        prop_assert_eq!(checked.space.used_bytes(), 0);
        let mapped = checked.space.mapped_bytes();
        prop_assert_eq!(checked.space.idle_bytes(), mapped);
        for (run, ..) in checked.space.begin_release(mapped) {
            checked.space.finish_release(run);
        }
        prop_assert_eq!(checked.space.mapped_bytes(), 0);
        prop_assert_eq!(checked.space.runs().iter().count(), 1);
    }
}

fn grown(pages: u64) -> Space {
    let mut space = Space::new(BYTES, SizeClasses::new(16, 8));
    let window = space.best_window(pages * PAGE, 1, READY).unwrap();
    let growth = space.begin_growth(window, 0);
    space.finish_growth_free(growth);
    space
}

#[test]
fn neighbours_share_a_page() {
    let mut space = grown(1);
    for number in 0..4 {
        let run = space.take_large(PAGE / 4, 1, READY).unwrap();
        assert_eq!(space.runs().get(run).offset, number * PAGE / 4);
    }
    assert_eq!((space.mapped_bytes(), space.used_bytes()), (PAGE, PAGE));
    assert!(space.take_large(CHUNK, 1, READY).is_none());
}

#[test]
fn a_run_that_waits_is_not_given_to_others_and_merges_with_its_fence() {
    let mut space = grown(1);
    let runs: Vec<_> = (0..4).map(|_| space.take_large(PAGE / 4, 1, READY).unwrap()).collect();
    space.give_large(runs[0], 1, 5);
    space.give_large(runs[1], 1, 9);
    space.give_large(runs[2], 2, 1);
    assert!(space.take_large(PAGE / 4, 1, READY).is_none(), "nothing is ready");
    assert!(space.take_large(PAGE / 2, 1, 2).is_none(), "tag 1 and tag 2 do not merge");
    space.pass(1, 5);
    assert!(space.take_large(PAGE / 4, 1, READY).is_none(), "the merged run waits for 9");
    let own = space.take_large(PAGE / 2, 1, 1).unwrap();
    space.give_large(own, 1, 9);
    space.pass(1, 9);
    space.pass(2, 1);
    assert!(space.take_large(PAGE * 3 / 4, 1, READY).is_some());
}

#[test]
fn growth_uses_what_is_free_beside_the_hole() {
    let mut space = grown(1);
    let run = space.take_large(PAGE / 2, 1, READY).unwrap();
    let window = space.best_window(PAGE, 1, READY).unwrap();
    assert_eq!((window.offset, window.pages), (PAGE / 2, PAGE));
    let growth = space.begin_growth(window, 0);
    let grown = space.finish_growth(growth);
    assert_eq!(space.runs().get(grown).offset, PAGE / 2);
    space.give_large(run, READY, 0);
    assert_eq!(space.mapped_bytes(), 2 * PAGE);
    space.validate().unwrap();
}

#[test]
fn idle_pages_move_before_fresh_ones_are_taken() {
    let mut space = grown(8);
    let blocks: Vec<_> = (0..8).map(|_| space.take_large(PAGE, 1, READY).unwrap()).collect();
    for block in blocks.iter().step_by(2) {
        space.give_large(*block, READY, 0);
    }
    let window = space.best_window(4 * PAGE, 1, READY).unwrap();
    let growth = space.begin_growth(window, u64::MAX);
    assert_eq!((growth.moved_bytes(), growth.fresh_bytes()), (window.pages, 0));
    space.finish_growth(growth);
    space.validate().unwrap();
    assert_eq!(space.mapped_bytes(), 8 * PAGE, "nothing new was taken");
}
