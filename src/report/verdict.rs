//! What to do: at most three things, each with its bytes, and none where nothing stands out.

use std::collections::HashMap;

use super::planned::Planned;
use super::survey::{Lived, Survey};
use crate::lifetime::picture::svg::{Bytes, Grouped};
use crate::space::PAGE;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Action {
    /// A word for programs.
    pub(super) kind: &'static str,
    /// What is at stake.
    pub(super) bytes: u64,
    /// What was found, and what to do.
    pub(super) found: String,
    pub(super) advice: String,
}

/// The most that are told.
const TOLD: usize = 3;

/// A growth is told when a line fits it at least so well, and it is this share of the peak.
const FIT: f64 = 0.9;
const GROWN: f64 = 0.1;

/// What to do, the most urgent first.
pub(super) fn actions(survey: &Survey, planned: &Planned) -> Vec<Action> {
    let urgent = [failures(survey), growth(survey)];
    let mut memory: Vec<Action> =
        [pages(survey, planned), spike(survey), rounding(survey)].into_iter().flatten().collect();
    memory.sort_by_key(|action| std::cmp::Reverse(action.bytes));
    // The bytes of the last are traffic: they cannot be compared with those before.
    let actions = urgent.into_iter().flatten().chain(memory).chain(streams(survey));
    let mut actions: Vec<Action> = actions.collect();
    actions.truncate(TOLD);
    actions
}

/// At least `percent` of `whole`, and a page.
fn matters(bytes: u64, whole: u64, percent: u64) -> bool {
    bytes >= PAGE && u128::from(bytes) * 100 >= u128::from(whole) * u128::from(percent)
}

fn failures(survey: &Survey) -> Option<Action> {
    let (count, largest) = (survey.failures, survey.largest_failure);
    (count > 0).then(|| Action {
        kind: "failures",
        bytes: largest,
        found: format!(
            "{} {} failed, the largest of {}; at most {} were live at a time.",
            Grouped(count),
            if count == 1 { "allocation" } else { "allocations" },
            Bytes(largest),
            Bytes(survey.peak.live)
        ),
        advice: String::from("Raise the pool's limit, or lower the peak: see who held it."),
    })
}

/// A line through the least live bytes of each bucket, without the first quarter, in which
/// programs fill what they keep.
fn growth(survey: &Survey) -> Option<Action> {
    let buckets = &survey.series.buckets;
    let settled = &buckets[buckets.len() / 4..];
    let least: Vec<f64> = settled.iter().map(|bucket| bucket.live.least as f64).collect();
    let (slope, fit) = line(&least)?;
    let grown = slope * (least.len() - 1) as f64;
    if fit < FIT || grown < PAGE as f64 || grown < GROWN * survey.peak.live as f64 {
        return None;
    }
    let (size, count, bytes) = largest_group(survey.left.iter())?;
    Some(Action {
        kind: "growth",
        bytes: grown as u64,
        found: format!(
            "Live bytes grow by {} over the last three quarters of the trace (R\u{b2} {fit:.2}). \
             Of what is left at the end, {} blocks of {} hold most: {}.",
            Bytes(grown as u64),
            Grouped(count),
            Bytes(size),
            Bytes(bytes)
        ),
        advice: String::from("Find who keeps them; without that the program runs out of memory."),
    })
}

/// The slope per step of the line through `values`, and how well it fits, as R².
fn line(values: &[f64]) -> Option<(f64, f64)> {
    let count = values.len() as f64;
    if values.len() < 8 {
        return None;
    }
    let (middle, mean) = ((count - 1.0) / 2.0, values.iter().sum::<f64>() / count);
    let (mut both, mut across, mut up) = (0.0, 0.0, 0.0);
    for (at, value) in values.iter().enumerate() {
        let (x, y) = (at as f64 - middle, value - mean);
        both += x * y;
        across += x * x;
        up += y * y;
    }
    (up > 0.0).then(|| (both / across, both * both / (across * up)))
}

/// The size of which the blocks hold most: size, blocks, bytes.
fn largest_group<'a>(blocks: impl Iterator<Item = &'a Lived>) -> Option<(u64, u64, u64)> {
    let mut groups: HashMap<u64, u64> = HashMap::new();
    blocks.for_each(|lived| *groups.entry(lived.block.size).or_insert(0) += 1);
    let all = groups.into_iter().map(|(size, count)| (size, count, size.saturating_mul(count)));
    all.max_by_key(|&(size, _, bytes)| (bytes, size))
}

/// What pages hold besides what lives.
fn pages(survey: &Survey, planned: &Planned) -> Option<Action> {
    let most = survey.most_pages;
    if let Planned::Plan(plan) = planned {
        let needed = plan.arena.checked_next_multiple_of(PAGE)?;
        let saved = most.saturating_sub(needed);
        return matters(saved, most, 5).then(|| Action {
            kind: "plan",
            bytes: saved,
            found: format!(
                "These blocks were on {} of pages at the most; a plan has room for them in {}.",
                Bytes(most),
                Bytes(plan.arena)
            ),
            advice: String::from(
                "If this repeats, place it by a plan: forebay_lifetime_plan, \
                 forebay_pool_apply_plan.",
            ),
        });
    }
    let unused = most.saturating_sub(survey.peak.live);
    matters(unused, most, 10).then(|| Action {
        kind: "fragmentation",
        bytes: unused,
        found: format!(
            "Blocks were on {} of pages at the most, and at most {} of it lived.",
            Bytes(most),
            Bytes(survey.peak.live)
        ),
        advice: String::from("Give idle pages back between phases: forebay_pool_defragment."),
    })
}

/// A peak that most of the time is far away.
fn spike(survey: &Survey) -> Option<Action> {
    let buckets = &survey.series.buckets;
    let mut most: Vec<u64> = buckets.iter().map(|bucket| bucket.live.most).collect();
    if most.len() < 40 {
        return None;
    }
    most.sort_unstable();
    let usual = most[most.len() * 95 / 100];
    let above = survey.peak.live.saturating_sub(usual);
    if !matters(above, survey.peak.live, 10) {
        return None;
    }
    let width = survey.series.width;
    let at = ((survey.peak.at / width) as usize).min(buckets.len() - 1);
    let high = |index: &usize| buckets[*index].live.most > usual;
    let first = (0..=at).rev().take_while(high).last().unwrap_or(at) as u64 * width;
    let last = (at..buckets.len()).take_while(high).last().unwrap_or(at) as u64 + 1;
    let short = survey.holders.iter().filter(|lived| {
        lived.block.from >= first && lived.to.is_some_and(|to| to <= last.saturating_mul(width))
    });
    let found = format!(
        "The peak is {} above what 95 % of the trace stays below, {}.",
        Bytes(above),
        Bytes(usual)
    );
    let advice = match largest_group(short) {
        Some((size, count, bytes)) => format!(
            "Of what lives only there, {} {} of {} hold most: {}. Split that work, or do it when \
             less is live.",
            Grouped(count),
            if count == 1 { "block" } else { "blocks" },
            Bytes(size),
            Bytes(bytes)
        ),
        None => String::from("Free what lives on into it earlier: see who held the peak."),
    };
    Some(Action { kind: "spike", bytes: above, found, advice })
}

fn rounding(survey: &Survey) -> Option<Action> {
    let peak = &survey.peak;
    let lost = peak.allocated[survey.device].saturating_sub(peak.live);
    matters(lost, peak.live, 3).then(|| Action {
        kind: "rounding",
        bytes: lost,
        found: format!("Rounding to size classes takes {} at the peak.", Bytes(lost)),
        advice: String::from(
            "Twice as many classes, policy conservative, take about half of that; or ask for sizes \
             that are powers of two.",
        ),
    })
}

fn streams(survey: &Survey) -> Option<Action> {
    let streams = survey.streams.all.iter().map(|(_, tally)| tally);
    let (blocks, bytes) = streams.fold((0, 0u128), |(blocks, bytes), tally| {
        (blocks + tally.foreign, bytes + tally.foreign_bytes)
    });
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let requested = u64::try_from(survey.requested).unwrap_or(u64::MAX);
    matters(bytes, requested, 10).then(|| Action {
        kind: "streams",
        bytes,
        found: format!(
            "{} blocks, {} in all, were freed on another stream than they were allocated on: each \
             waits for a fence before its own stream has it again.",
            Grouped(blocks),
            Bytes(bytes)
        ),
        advice: String::from("Free on the stream of the allocation, after the last use."),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::survey::{Axis, Surveyor};
    use crate::trace::{Action as Did, Event};

    const MIB: u64 = 1 << 20;

    /// A surveyor that is told what happens, a microsecond apart.
    struct Told(Surveyor<'static>, u64);

    impl Told {
        fn new() -> Told {
            Told(Surveyor::new(Axis::Time, 1000), 0)
        }

        fn tell(&mut self, action: Did, pointer: u64, size: u64, stream: u64) {
            self.1 += 1;
            let event = Event { thread: 1, time: self.1 * 1000, action, pointer, size, stream };
            self.0.add(self.1 + 1, &event, b"").unwrap();
        }

        fn kinds(self) -> Vec<(&'static str, u64)> {
            let actions = actions(&self.0.finish(), &Planned::Nothing);
            assert!(actions.len() <= TOLD);
            actions.iter().map(|action| (action.kind, action.bytes)).collect()
        }
    }

    #[test]
    fn nothing_is_said_of_a_trace_in_which_nothing_stands_out() {
        assert_eq!(Told::new().kinds(), []);
        let mut told = Told::new();
        for step in 0..1000 {
            told.tell(Did::Allocate, 64 * MIB, 8 * MIB, step % 3);
            told.tell(Did::Free, 64 * MIB, 8 * MIB, step % 3);
        }
        assert_eq!(told.kinds(), []);
    }

    #[test]
    fn what_grows_is_told_and_what_is_kept_from_the_start_is_not() {
        for (every, grows) in [(1, true), (1000, false)] {
            let mut told = Told::new();
            for step in 0..1000 {
                let address = (step + 1) * 2 * MIB;
                told.tell(Did::Allocate, address, 2 * MIB, 0);
                if step % every > 0 {
                    told.tell(Did::Free, address, 2 * MIB, 0);
                }
            }
            let kinds = told.kinds();
            assert_eq!(kinds.iter().any(|(kind, _)| *kind == "growth"), grows, "{kinds:?}");
            if grows {
                assert!((1300 * MIB..1510 * MIB).contains(&kinds[0].1), "{kinds:?}");
            }
        }
    }

    #[test]
    fn failures_come_first_and_spikes_have_their_height() {
        let mut told = Told::new();
        told.tell(Did::Allocate, 2 * MIB, 2 * MIB, 0);
        for step in 0..2000 {
            told.tell(Did::Allocate, 64 * MIB, MIB, 0);
            told.tell(Did::Free, 64 * MIB, MIB, 0);
            if step == 1200 {
                told.tell(Did::AllocateFailure, 0, 900 * MIB, 0);
                told.tell(Did::Allocate, 128 * MIB, 40 * MIB, 0);
                told.tell(Did::Free, 128 * MIB, 40 * MIB, 0);
            }
        }
        assert_eq!(told.kinds(), [("failures", 900 * MIB), ("spike", 39 * MIB)]);
    }

    #[test]
    fn frees_elsewhere_rounding_and_scattered_blocks_have_their_bytes() {
        let mut told = Told::new();
        for step in 0..100 {
            told.tell(Did::Allocate, (step + 1) * 4 * MIB, 33 << 10, 1);
        }
        for step in 0..100 {
            told.tell(Did::Free, (step + 1) * 4 * MIB, 33 << 10, 2);
        }
        let bytes = 100 * (33 << 10);
        assert_eq!(told.kinds(), [("fragmentation", 200 * MIB - bytes), ("streams", bytes)]);
        let mut told = Told::new();
        for step in 0..10_000 {
            told.tell(Did::Allocate, 1 << 30 | step << 11, 1025, 1);
        }
        let lost = 10_000 * (1536 - 1025);
        assert!(told.kinds().contains(&("rounding", lost)));
    }

    #[test]
    fn a_line_fits_a_line() {
        let (slope, fit) = line(&[1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0]).unwrap();
        assert!((slope - 2.0).abs() < 1e-12 && (fit - 1.0).abs() < 1e-12);
        assert!(line(&[4.0; 20]).is_none() && line(&[1.0, 2.0]).is_none());
        let saw: Vec<f64> = (0..100).map(|at| f64::from(at % 2)).collect();
        assert!(line(&saw).unwrap().1 < 0.01);
    }
}
