//! Times and counts as text, and round steps along an axis.

use std::fmt::{self, Display};

use super::survey::Axis;
use crate::lifetime::picture::svg::{Grouped, round_step};

const UNITS: [(u64, &str); 6] = [
    (3_600_000_000_000, "h"),
    (60_000_000_000, "min"),
    (1_000_000_000, "s"),
    (1_000_000, "ms"),
    (1000, "µs"),
    (1, "ns"),
];

/// The largest unit of which there is one in `value`.
fn unit_of(value: u64) -> (u64, &'static str) {
    let found = UNITS.into_iter().find(|(unit, _)| value >= *unit);
    found.unwrap_or((1, "ns"))
}

/// A place or a length on the axis: a time to three digits, or a number of events.
pub(super) struct Span(pub(super) Axis, pub(super) u64);

impl Display for Span {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Span(axis, value) = self;
        match axis {
            Axis::Events => {
                write!(to, "{} {}", Grouped(value), if value == 1 { "event" } else { "events" })
            }
            Axis::Time if value == 0 => to.write_str("0 s"),
            Axis::Time => {
                let (unit, name) = unit_of(value);
                let number = value as f64 / unit as f64;
                let digits = match number {
                    _ if unit == 1 => 0,
                    number if number >= 99.95 => 0,
                    number if number >= 9.995 => 1,
                    _ => 2,
                };
                write!(to, "{number:.digits$} {name}")
            }
        }
    }
}

/// A count in few letters.
pub(super) fn short_count(count: u64) -> String {
    match count {
        0..10_000 => Grouped(count).to_string(),
        10_000..10_000_000 => format!("{}k", Grouped(count / 1000)),
        _ => format!("{}M", Grouped(count / 1_000_000)),
    }
}

/// Round numbers from 0 to `extent`, at most `most` apart from 0, each with its text.
pub(super) fn ticks(axis: Axis, extent: u64, most: u64) -> Vec<(u64, String)> {
    let step = step(axis, extent.div_ceil(most));
    let (unit, name) = match axis {
        Axis::Events => (1, ""),
        Axis::Time => unit_of(extent / step * step),
    };
    (0..=extent / step)
        .map(|number| {
            let value = number * step;
            let text = match axis {
                Axis::Events => Grouped(value).to_string(),
                Axis::Time if value == 0 => String::from("0"),
                Axis::Time => {
                    format!("{} {name}", (value as f64 / unit as f64 * 1000.0).round() / 1000.0)
                }
            };
            (value, text)
        })
        .collect()
}

/// A round number, `least` or more.
fn step(axis: Axis, least: u64) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    const CLOCK: [u64; 12] = [15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14_400, 43_200, 86_400];
    if axis == Axis::Time && (10 * SECOND + 1..=86_400 * SECOND).contains(&least) {
        let round = CLOCK.into_iter().find(|seconds| seconds * SECOND >= least);
        return round.unwrap_or(86_400) * SECOND;
    }
    round_step(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        for (time, text) in [
            (0, "0 s"),
            (999, "999 ns"),
            (1000, "1.00 µs"),
            (123_456_789, "123 ms"),
            (59_999_999_999, "60.0 s"),
            (5_400_000_000_000, "1.50 h"),
        ] {
            assert_eq!(Span(Axis::Time, time).to_string(), text);
        }
        assert_eq!(Span(Axis::Events, 1).to_string(), "1 event");
        assert_eq!(Span(Axis::Events, 123_456).to_string(), "123,456 events");
    }

    #[test]
    fn ticks_are_round_and_few() {
        let texts = |axis, extent| -> Vec<String> {
            ticks(axis, extent, 6).into_iter().map(|(_, text)| text).collect()
        };
        assert_eq!(texts(Axis::Time, 3_644_001), ["0", "1 ms", "2 ms", "3 ms"]);
        assert_eq!(texts(Axis::Time, 900), ["0", "200 ns", "400 ns", "600 ns", "800 ns"]);
        assert_eq!(texts(Axis::Time, 400_000_000_000)[1..3], ["2 min", "4 min"]);
        assert_eq!(texts(Axis::Events, 1_000_000)[5], "1,000,000");
        for extent in (0..64).map(|bit| 1u64 << bit).chain([u64::MAX]) {
            for axis in [Axis::Time, Axis::Events] {
                let ticks = ticks(axis, extent, 6);
                assert!((1..=7).contains(&ticks.len()), "{extent}: {ticks:?}");
                assert!(ticks.iter().all(|&(value, _)| value <= extent));
            }
        }
    }
}
