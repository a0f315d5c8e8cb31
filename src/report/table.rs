//! Tables of the page: what is in a cell, and what it is sorted by.

use std::fmt::Display;

use super::survey::{Axis, Survey, Tallies, Tally};
use super::units::Span;
use crate::lifetime::picture::svg::{Bytes, Escaped, Grouped, Short};

/// Rows of a table at most.
pub(super) const ROWS: usize = 24;

/// Adds to a string, which does not fail.
macro_rules! put {
    ($to:expr, $($text:tt)*) => {{
        use std::fmt::Write;
        let _ = write!($to, $($text)*);
    }};
}

pub(super) use put;

/// Bytes in a unit, with all of them where the pointer rests.
pub(super) struct Exact(pub(super) u64);

impl Display for Exact {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "<span title=\"{} bytes\">{}</span>", Grouped(self.0), Bytes(self.0))
    }
}

/// Whatever adds up beyond 64 bits.
pub(super) fn short(sum: u128) -> u64 {
    u64::try_from(sum).unwrap_or(u64::MAX)
}

/// A table: its rows can be sorted by each column.
pub(super) struct Table<'a> {
    pub(super) name: &'a str,
    pub(super) columns: &'a [&'a str],
}

/// A cell: what is shown, which is HTML, and a number to sort by.
pub(super) type Cell = (String, f64);

pub(super) fn bytes(value: u64) -> Cell {
    (Exact(value).to_string(), value as f64)
}

pub(super) fn number(value: u64) -> Cell {
    (Grouped(value).to_string(), value as f64)
}

pub(super) fn span(axis: Axis, value: Option<u64>) -> Cell {
    match value {
        Some(value) => (Span(axis, value).to_string(), value as f64),
        None => (String::from("\u{2013}"), -1.0),
    }
}

pub(super) fn share(part: u64, whole: u64) -> Cell {
    let share = if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let bar = format!(
        "<svg class=\"bar\" viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" \
         aria-hidden=\"true\"><path d=\"M0 0h{}v10H0z\"/></svg> {:.1} %",
        Short(100.0 * share.min(1.0)),
        100.0 * share
    );
    (bar, share)
}

impl Table<'_> {
    pub(super) fn write(&self, rows: impl Iterator<Item = Vec<Cell>>, to: &mut String) {
        put!(
            to,
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" \
             aria-label=\"{}\"><table><caption>{}</caption><thead><tr>",
            self.name,
            self.name
        );
        for column in self.columns {
            put!(to, "<th scope=\"col\">{column}</th>");
        }
        put!(to, "</tr></thead><tbody>\n");
        for row in rows {
            put!(to, "<tr>");
            for (text, value) in row {
                put!(to, "<td data-v=\"{value}\">{text}</td>");
            }
            put!(to, "</tr>\n");
        }
        put!(to, "</tbody></table></div>\n");
    }
}

/// Names of streams or threads, in few letters.
pub(super) fn some(tallies: &Tallies, places: &[u32], hexadecimal: bool) -> Cell {
    let name = |place: &u32| match tallies.all.get(*place as usize).and_then(|(name, _)| *name) {
        Some(name) if hexadecimal => format!("0x{name:x}"),
        Some(name) => name.to_string(),
        None => String::from("others"),
    };
    let mut text: Vec<String> = places.iter().take(3).map(name).collect();
    if places.len() > 3 {
        text.push(String::from("\u{2026}"));
    }
    (text.join(" "), places.first().map_or(0.0, |place| f64::from(*place)))
}

/// Where a program asked for something.
pub(super) fn site(survey: &Survey, place: u32) -> Cell {
    let text = match survey.sites.all.get(place as usize) {
        Some((Some(site), _)) if site.is_empty() => String::from("not told"),
        Some((Some(site), _)) => {
            format!("<code>{}</code>", Escaped(&String::from_utf8_lossy(site)))
        }
        _ => String::from("others"),
    };
    (format!("<span class=\"site\">{text}</span>"), f64::from(place))
}

/// How often the most that lived at a time was allocated.
pub(super) fn turned(tally: &Tally) -> Cell {
    match tally.most_bytes {
        0 => (String::from("\u{2013}"), -1.0),
        most => {
            let times = tally.bytes as f64 / most as f64;
            (format!("{times:.1} \u{d7}"), times)
        }
    }
}

pub(super) fn more(count: usize, what: &str, to: &mut String) {
    if count > ROWS {
        put!(
            to,
            "<p class=\"note\">{} {what} in all; the first {ROWS} are shown.</p>\n",
            Grouped(count as u64)
        );
    }
}
