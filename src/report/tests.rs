//! The survey beside the definition of everything that it counts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::bins::{BINS, bin_of};
use super::rounding::Rounding;
use super::survey::{Axis, Survey, Surveyor};
use super::{Beside, Options, Progress, page_of};
use crate::pool::{Config, Pool};
use crate::replay;
use crate::space::PAGE;
use crate::trace::{Action, Event, NANOSECONDS_PER_DAY, Trace, Writer};

/// A block as the definition sees it: everything by number of event.
#[derive(Clone, Debug)]
struct Known {
    event: Event,
    begin: usize,
    end: Option<usize>,
    freed_by: Option<Event>,
}

prop_compose! {
    /// What happens, with times that mostly go on. Blocks never overlap; some rows make no sense.
    fn any_trace()(
        steps in prop::collection::vec(
            (0..10u8, any::<u16>(), 0..40u32, 0..3u64, 0..3u64, 0..5000u64),
            1..120,
        ),
        aligned in any::<bool>(),
    ) -> Vec<Event> {
        let (mut live, mut place, mut time) = (Vec::<(u64, u64)>::new(), 0u64, 1_000_000u64);
        let grain = if aligned { 512 } else { 16 };
        steps.into_iter().map(|(what, choice, size, thread, stream, later)| {
            time += later.saturating_sub(1000) * 1000;
            let event =
                |action, pointer, size| Event { thread, time, action, pointer, size, stream };
            match what {
                0 => event(Action::AllocateFailure, 0, u64::from(choice)),
                // Of nobody.
                1 => event(Action::Free, 0xdead_0001, 5),
                2..=5 if !live.is_empty() => {
                    let (pointer, size) = live.swap_remove(usize::from(choice) % live.len());
                    event(Action::Free, pointer, size)
                }
                _ => {
                    let size = (1u64 << (size % 24)) + u64::from(choice) - 1;
                    place += (1 << 25) + u64::from(choice) * grain;
                    live.push((place, size));
                    event(Action::Allocate, place, size)
                }
            }
        }).collect()
    }
}

/// The blocks, and which of them live after each event.
fn by_definition(events: &[Event]) -> (Vec<Known>, Vec<Vec<usize>>) {
    let (mut blocks, mut after) = (Vec::<Known>::new(), Vec::new());
    let mut live: Vec<usize> = Vec::new();
    for (number, event) in events.iter().enumerate() {
        let found = live.iter().position(|&at| blocks[at].event.pointer == event.pointer);
        match (event.action, found) {
            (Action::Allocate, None) => {
                live.push(blocks.len());
                blocks.push(Known { event: *event, begin: number, end: None, freed_by: None });
            }
            (Action::Free, Some(at)) => {
                let block = &mut blocks[live.swap_remove(at)];
                (block.end, block.freed_by) = (Some(number), Some(*event));
            }
            _ => {}
        }
        after.push(live.clone());
    }
    (blocks, after)
}

fn survey_of(events: &[Event], axis: Axis, buckets: usize) -> Survey {
    let mut surveyor = Surveyor::new(axis, buckets);
    for (line, event) in (2..).zip(events) {
        surveyor.add(line, event, b"").unwrap();
    }
    surveyor.finish()
}

fn check(events: &[Event], axis: Axis, buckets: usize) {
    let survey = survey_of(events, axis, buckets);
    let (blocks, after) = by_definition(events);
    let at = |number: usize| match axis {
        Axis::Time => events[number].time - events[0].time,
        Axis::Events => number as u64,
    };
    let requested = |live: &[usize]| live.iter().map(|&b| blocks[b].event.size).sum::<u64>();
    let rounding = Rounding::new();
    let rounded = |live: &[usize], device: usize| -> u64 {
        live.iter().map(|&b| rounding.blocks(blocks[b].event.size)[device]).sum()
    };
    let pages = |live: &[usize]| {
        let spans = live.iter().filter(|&&b| blocks[b].event.size > 0).flat_map(|&b| {
            let Event { pointer, size, .. } = blocks[b].event;
            pointer / PAGE..=(pointer + size - 1) / PAGE
        });
        spans.collect::<BTreeSet<u64>>().len() as u64 * PAGE
    };

    // The trace as a whole.
    let count = |action| events.iter().filter(|event| event.action == action).count() as u64;
    assert_eq!(survey.events, events.len() as u64);
    assert_eq!(survey.allocations, blocks.len() as u64);
    assert_eq!(survey.frees, blocks.iter().filter(|block| block.end.is_some()).count() as u64);
    assert_eq!(survey.failures, count(Action::AllocateFailure));
    assert_eq!(survey.requested, blocks.iter().map(|b| u128::from(b.event.size)).sum::<u128>());
    assert_eq!(
        survey.faults.total,
        events.iter().filter(|e| e.pointer == 0xdead_0001).count() as u64
    );
    assert_eq!(survey.duration, events[events.len() - 1].time - events[0].time);
    let aligned = blocks.iter().all(|block| block.event.pointer.is_multiple_of(512));
    assert_eq!(survey.device == Rounding::GPU, aligned);

    // The peak: the first moment at which most is live.
    let most = after.iter().map(|live| requested(live)).max().unwrap_or(0);
    assert_eq!(survey.peak.live, most);
    assert_eq!(survey.most_pages, after.iter().map(|live| pages(live)).max().unwrap_or(0));
    if let Some(first) = blocks.first() {
        let peak = (first.begin..after.len()).find(|&n| requested(&after[n]) == most).unwrap();
        assert_eq!((survey.peak.event, survey.peak.at), (peak as u64, at(peak)));
        assert_eq!(survey.peak.blocks, after[peak].len() as u64);
        assert_eq!(survey.peak.allocated, [0, 1].map(|device| rounded(&after[peak], device)));
        assert_eq!(survey.peak.pages, pages(&after[peak]));
        let key =
            |b: usize| (blocks[b].event.pointer, blocks[b].begin as u64, blocks[b].end.map(at));
        let expected: BTreeSet<_> = after[peak].iter().map(|&b| key(b)).collect();
        let told =
            |lived: &super::survey::Lived| (lived.block.address, lived.block.event, lived.to);
        assert_eq!(survey.holders.iter().map(told).collect::<BTreeSet<_>>(), expected);
        assert_eq!(survey.holders.len(), expected.len());
        let left: BTreeSet<_> = after[after.len() - 1].iter().map(|&b| key(b)).collect();
        assert_eq!(survey.left.iter().map(told).collect::<BTreeSet<_>>(), left);
        assert!(survey.holders.is_sorted_by(|one, two| one.block.size >= two.block.size));
    }

    // Over time.
    let series = &survey.series;
    assert!(series.buckets.len() <= buckets);
    assert_eq!(series.buckets.len() as u64, at(events.len() - 1) / series.width + 1);
    for (index, bucket) in series.buckets.iter().enumerate() {
        let inside = |&number: &usize| at(number) / series.width == index as u64;
        let here: Vec<usize> = (0..events.len()).filter(inside).collect();
        let before = (0..events.len()).take_while(|&n| at(n) / series.width < index as u64).last();
        let none = Vec::new();
        let mut states = vec![before.map_or(&none, |number| &after[number])];
        states.extend(here.iter().map(|&number| &after[number]));
        let least =
            |of: &dyn Fn(&[usize]) -> u64| states.iter().map(|live| of(live)).min().unwrap();
        let most = |of: &dyn Fn(&[usize]) -> u64| states.iter().map(|live| of(live)).max().unwrap();
        assert_eq!((bucket.live.least, bucket.live.most), (least(&requested), most(&requested)));
        assert_eq!((bucket.pages.least, bucket.pages.most), (least(&pages), most(&pages)));
        for device in [0, 1] {
            let of = |live: &[usize]| rounded(live, device);
            let range = &bucket.allocated[device];
            assert_eq!((range.least, range.most), (least(&of), most(&of)));
        }
        let highest = states.iter().find(|live| requested(live) == bucket.live.most).unwrap();
        let mut held = [0; BINS];
        highest.iter().for_each(|&b| held[bin_of(blocks[b].event.size)] += blocks[b].event.size);
        assert_eq!(bucket.held.iter().sum::<u64>(), bucket.live.most);
        if here.len() <= 1 {
            assert_eq!(bucket.held, held);
        }
        let begun = |number: &&usize| blocks.iter().any(|block| block.begin == **number);
        let ended = |number: &&usize| blocks.iter().any(|block| block.end == Some(**number));
        assert_eq!(bucket.allocations, here.iter().filter(begun).count() as u64);
        assert_eq!(bucket.frees, here.iter().filter(ended).count() as u64);
    }

    // By size, stream and thread.
    for (bin, (tally, lifetimes)) in survey.bins.iter().enumerate() {
        let of_bin = |b: &usize| bin_of(blocks[*b].event.size) == bin;
        let own: Vec<usize> = (0..blocks.len()).filter(of_bin).collect();
        assert_eq!(
            (tally.allocations, tally.bytes),
            (own.len() as u64, u128::from(requested(&own)))
        );
        let live = |live: &Vec<usize>| -> Vec<usize> {
            live.iter().copied().filter(|b| of_bin(b)).collect()
        };
        let most = after.iter().map(|all| live(all).len()).max().unwrap_or(0);
        let most_bytes = after.iter().map(|all| requested(&live(all))).max().unwrap_or(0);
        assert_eq!((tally.most, tally.most_bytes), (most as u64, u128::from(most_bytes)));
        let lived = own.iter().filter_map(|&b| Some(at(blocks[b].end?) - at(blocks[b].begin)));
        assert_eq!(lifetimes.sum(), lived.clone().map(u128::from).sum::<u128>());
        assert_eq!(lifetimes.most(), lived.max());
    }
    let mut sizes = BTreeMap::new();
    blocks.iter().for_each(|block| *sizes.entry(Some(block.event.size)).or_insert(0) += 1);
    let told = survey.sizes.all.iter().map(|(size, tally)| (*size, tally.allocations));
    assert_eq!(told.collect::<BTreeMap<_, _>>(), sizes);
    for (name, tally) in &survey.streams.all {
        let own = blocks.iter().filter(|block| Some(block.event.stream) == *name);
        assert_eq!(tally.allocations, own.clone().count() as u64);
        assert_eq!(tally.frees, own.filter(|block| block.end.is_some()).count() as u64);
        let foreign = blocks.iter().filter(|block| {
            let stream = block.freed_by.map(|event| event.stream);
            stream.is_some() && stream == *name && stream != Some(block.event.stream)
        });
        assert_eq!(tally.foreign_bytes, foreign.map(|b| u128::from(b.event.size)).sum::<u128>());
    }
    let threads = survey.threads.all.iter().map(|(_, tally)| tally);
    assert_eq!(threads.clone().map(|tally| tally.allocations).sum::<u64>(), blocks.len() as u64);
    assert_eq!(threads.map(|tally| tally.failures).sum::<u64>(), survey.failures);

    // Rectangles: all that have an area, with so few blocks.
    let extent = survey.extent;
    assert_eq!(extent, at(events.len() - 1) + 1);
    let end = |block: &Known| block.end.map_or(extent, at);
    let shapes: BTreeSet<_> = blocks
        .iter()
        .filter(|block| block.event.size > 0 && end(block) > at(block.begin))
        .map(|block| (block.event.pointer, block.event.size, at(block.begin), end(block)))
        .collect();
    let told = survey.shapes.iter().map(|shape| (shape.address, shape.size, shape.from, shape.to));
    assert_eq!(told.collect::<BTreeSet<_>>(), shapes);
    let areas = shapes.iter().map(|&(_, size, from, to)| size as f64 * (to - from) as f64);
    let (areas, cells) = (areas.sum::<f64>(), survey.grid.rows.values().flatten().sum::<f64>());
    assert!((areas - cells).abs() <= areas * 1e-9, "{areas} {cells}");
    let tensors = survey.tensors.as_ref().unwrap();
    assert_eq!(tensors.len(), blocks.iter().filter(|block| block.event.size > 0).count());
    for shape in &survey.shapes {
        let tensor = tensors[shape.tensor.unwrap()];
        assert_eq!((tensor.size, tensor.from, tensor.to), (shape.size, shape.from, shape.to));
        assert!(tensor.lower < tensor.upper);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_survey_says_what_the_definition_says(events in any_trace(), buckets in 1..40usize) {
        check(&events, Axis::Time, 2 * buckets);
        check(&events, Axis::Events, 2 * buckets);
    }
}

#[test]
fn sums_beyond_64_bits_stay_at_the_most() {
    let event =
        |action, pointer, size| Event { thread: 0, time: 0, action, pointer, size, stream: 0 };
    let most = u64::MAX;
    let survey = survey_of(
        &[
            event(Action::Allocate, 1, most),
            event(Action::Allocate, 2, most),
            event(Action::Free, 1, most),
        ],
        Axis::Time,
        10,
    );
    assert_eq!((survey.peak.live, survey.peak.blocks), (most, 1));
    assert_eq!((survey.most_pages, survey.requested), (most, 2 * u128::from(most)));
    assert_eq!(survey.left.len(), 1);
}

#[test]
fn names_beyond_the_limit_have_one_tally_together() {
    let events: Vec<Event> = (0..5000)
        .flat_map(|name| {
            let event = |action| Event {
                thread: name,
                time: name * 1000,
                action,
                pointer: 0x1000,
                size: 64,
                stream: name,
            };
            [event(Action::Allocate), event(Action::Free)]
        })
        .collect();
    let survey = survey_of(&events, Axis::Time, 10);
    for tallies in [&survey.streams.all, &survey.threads.all] {
        assert_eq!(tallies.len(), 1025);
        let (name, others) = &tallies[1024];
        assert_eq!((*name, others.allocations, others.frees), (None, 5000 - 1024, 5000 - 1024));
        assert_eq!((others.live, others.foreign), (0, 0));
    }
}

/// A file that is gone when the test ends.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str, events: impl Iterator<Item = Event>) -> Scratch {
        let path = std::env::temp_dir().join(format!("forebay-{}-{name}", std::process::id()));
        let mut writer = Writer::create(&path).unwrap();
        events.for_each(|event| writer.write(&event).unwrap());
        writer.finish().unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Blocks of all sizes at addresses far apart, so that nothing can be drawn as one.
fn ragged(count: u64) -> impl Iterator<Item = Event> {
    let mut state = 88_172_645_463_325_252u64;
    let mut next = move |end: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % end
    };
    let (mut live, mut time) = (Vec::new(), 0);
    (0..count).map(move |number| {
        let most = 1 << next(20);
        time += 1000 * (1 + next(most));
        let event = |action, pointer, size, stream| Event {
            thread: number % 7,
            time,
            action,
            pointer,
            size,
            stream,
        };
        if live.len() > 40 && next(2) == 0 || live.len() > 3000 {
            let at = next(live.len() as u64) as usize;
            let (pointer, size) = live.swap_remove(at);
            return event(Action::Free, pointer, size, next(50) << 40);
        }
        let most = 1 << next(36);
        let size = 1 + next(most);
        let pointer = (1 + number) << 37 | next(1 << 36);
        live.push((pointer, size));
        event(Action::Allocate, pointer, size, next(50) << 40)
    })
}

#[test]
fn who_asked_is_told_where_the_trace_tells() {
    let path = std::env::temp_dir().join(format!("forebay-{}-sites.csv", std::process::id()));
    let row = |number: usize, action, pointer, size, site| {
        format!("1,00:00:00.{number:06},{action},{pointer:#x},{size},0x0,{site}\n")
    };
    let rows = [
        ("allocate", 0x1000, 1000, "model.py:7 forward < train.py:3 step"),
        ("allocate", 0x2000, 300, "<script>.py:1 a, b"),
        ("allocate", 0x3000, 200, ""),
        ("allocate", 0x4000, 5000, "model.py:7 forward < train.py:3 step"),
        ("free", 0x1000, 1000, "of the free"),
        ("free", 0x2000, 300, ""),
        ("allocate", 0x5000, 10, "later.py:1 f"),
    ];
    let rows: String = (0..)
        .zip(rows)
        .map(|(number, (action, pointer, size, site))| row(number, action, pointer, size, site))
        .collect();
    let trace = Scratch(path);
    std::fs::write(&trace.0, format!("Thread,Time,Action,Pointer,Size,Stream,Site\n{rows}"))
        .unwrap();
    let (page, faults) = page_of(&trace.0, &Options::default(), None, None).unwrap();
    assert_eq!((faults.total, page.matches("<script").count()), (0, 2));
    // At the peak, in the order of their bytes: 6000, 300 and 200; and at the end.
    let captions = page.matches("<caption>By call site</caption>").count();
    assert_eq!((captions, page.matches("Call sites by bytes</caption>").count()), (2, 1));
    let peak = page.split("id=\"peak\"").nth(1).unwrap().split("</table>").next().unwrap();
    let sites: Vec<&str> = peak.split("class=\"site\">").skip(1).collect();
    assert_eq!(sites.len(), 3);
    assert!(sites[0].starts_with("<code>model.py:7 forward &lt; train.py:3 step</code>"));
    assert!(sites[0].contains("6,000 bytes"), "{}", sites[0]);
    assert!(sites[1].starts_with("<code>&lt;script&gt;.py:1 a, b</code>"), "{}", sites[1]);
    assert!(sites[2].starts_with("not told</span>"), "{}", sites[2]);
    assert!(!page.contains("of the free"));
    let told = "\"name\":\"model.py:7 forward \\u003c train.py:3 step\",\"peak_bytes\":6000,\
                \"allocations\":2,\"frees\":1,\"bytes\":6000,\"most_bytes\":6000,\"left_bytes\":5000}";
    assert!(page.contains(told), "{page}");
    // A trace like any other to whoever does not ask.
    assert_eq!(Trace::load(&trace.0).unwrap().events.len(), 7);
    let trace = Scratch::new("no-sites.csv", ragged(50));
    let (page, _) = page_of(&trace.0, &Options::default(), None, None).unwrap();
    assert!(!page.contains("y call site</caption>") && page.contains("\"sites\":[]"));
}

#[test]
fn no_page_is_larger_than_two_megabytes() {
    let trace = Scratch::new("ragged.csv", ragged(40_000));
    for (points, by_events) in [(Options::POINTS_MAX, false), (Options::POINTS_MAX, true)] {
        let plan_limit = std::time::Duration::from_millis(1);
        let options = Options { points, by_events, plan_limit, title: "t".repeat(200) };
        let (page, faults) = page_of(&trace.0, &options, None, None).unwrap();
        assert_eq!(faults.total, 0);
        assert!(page.len() < 2_000_000, "{}", page.len());
        assert!(page.len() > 300_000, "{}", page.len());
    }
}

#[test]
fn whatever_a_title_says_is_text() {
    let trace = Scratch::new("title<svg onload=alert(1)>.csv", ragged(50));
    let title = "<script>alert(1)</script>{{data}}\"'&\u{0}";
    let options = Options { title: title.to_owned(), ..Options::default() };
    let (page, _) = page_of(&trace.0, &options, None, None).unwrap();
    // The data, and what reads it.
    assert_eq!(page.matches("<script").count(), 2);
    assert!(!page.contains("<svg onload") && !page.contains('\u{0}'));
    // In a title what could be a place of the template is not looked at.
    let text = "&lt;script&gt;alert(1)&lt;/script&gt;{{data}}&quot;";
    assert_eq!(page.matches(text).count(), 2);
    let quoted = "\"title\":\"\\u003cscript\\u003ealert(1)\\u003c/script\\u003e{{data}}\\\"";
    assert_eq!(page.matches(quoted).count(), 1);
}

#[test]
fn points_and_the_clock_are_checked() {
    let trace = Scratch::new("points.csv", ragged(50));
    for points in [0, 99, 4001] {
        let error =
            page_of(&trace.0, &Options { points, ..Options::default() }, None, None).unwrap_err();
        assert!(error.message().contains(&format!("points is {points};")), "{error}");
    }
    // A clock that stands still has nothing to show.
    let still = Scratch::new("still.csv", ragged(50).map(|event| Event { time: 5, ..event }));
    let (page, _) = page_of(&still.0, &Options::default(), None, None).unwrap();
    assert!(page.contains("\"axis\":\"events\""));
}

#[test]
fn a_watch_ends_the_reading() {
    let trace = Scratch::new("watched.csv", ragged(20_000));
    let mut calls = 0;
    let (page, _) = page_of(
        &trace.0,
        &Options::default(),
        None,
        Some(&mut |progress: &Progress| {
            calls += 1;
            progress.planning
        }),
    )
    .unwrap();
    // A machine that reads it all within the first fiftieth of a second is asked nothing before
    // that.
    assert_eq!(page.contains("\"whole\":false"), !page.contains("\"events\":20000,"));
    assert!(calls > 0 || page.contains("\"whole\":true"));
}

prop_compose! {
    /// Numbers of which many are at the ends of what a row can say.
    fn any_extreme()(
        rows in prop::collection::vec(
            (0..3u8, 0..7usize, any::<u64>(), 0..7usize, any::<u64>(), 0..4u8),
            0..60,
        )
    ) -> Vec<Event> {
        let edge = |which: usize, other: u64| {
            [0, 1, 511, u64::MAX, u64::MAX - 1, 1 << 63, other][which]
        };
        rows.into_iter().map(|(action, pointer, one, size, two, time)| Event {
            thread: one,
            time: [0, 1000, NANOSECONDS_PER_DAY / 2, NANOSECONDS_PER_DAY - 1][usize::from(time)],
            action: [Action::Allocate, Action::Free, Action::AllocateFailure][usize::from(action)],
            pointer: edge(pointer, one % 5),
            size: edge(size, two >> (one % 64)),
            stream: two,
        }).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_rows_say_there_is_a_page(events in any_extreme(), by_events in any::<bool>()) {
        let trace = Scratch::new("extreme.csv", events.iter().copied());
        let plan_limit = std::time::Duration::from_millis(1);
        let options = Options { by_events, plan_limit, ..Options::default() };
        let (page, _) = page_of(&trace.0, &options, None, None).unwrap();
        assert!(page.ends_with("</html>\n") && page.len() < 2_000_000);
        for wrong in ["NaN", "inf\"", "inf ", "-inf"] {
            // The script has the word.
            let before = page.split("<script>").next().unwrap();
            assert!(!before.contains(wrong), "{wrong}");
        }
    }
}

#[test]
fn a_pool_beside_reserves_what_a_replay_says() {
    let trace = Scratch::new("beside.csv", ragged(3000).map(|event| Event { stream: 0, ..event }));
    let whole = Trace::load(&trace.0).unwrap();
    let pool = || Pool::on_host(&Config { max_bytes: 8 << 30, ..Config::default() }).unwrap();
    let (first, second) = (pool(), pool());
    let expected = replay::Plan::new(&whole, |_| 0).timeline(Some(&first)).unwrap();
    let mut asked = Vec::new();
    let mut stream = |number| {
        asked.push(number);
        Ok(0)
    };
    let beside = Beside { pool: &second, stream: &mut stream };
    let mut surveyor = Surveyor::new(Axis::Events, 1000).beside(Some(beside));
    for (line, event) in (2..).zip(&whole.events) {
        surveyor.add(line, event, b"").unwrap();
    }
    let survey = surveyor.finish();
    let reserved = survey.reserved.unwrap();
    assert_eq!(Some(reserved.most), expected.reserved.iter().copied().max());
    assert_eq!(reserved.refused, expected.failed);
    for (index, bucket) in survey.series.buckets.iter().enumerate() {
        let width = survey.series.width as usize;
        let until = (width * (index + 1)).min(expected.reserved.len());
        let most =
            expected.reserved[(width * index).saturating_sub(1)..until].iter().max().unwrap();
        assert_eq!(bucket.reserved.most, *most);
    }
    assert_eq!(asked, [0]);
    // It has everything back.
    assert_eq!(second.stats().requested[0], 0);
}
