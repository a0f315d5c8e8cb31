//! The numbers of a report as JSON, for the page's own script and for programs.

use std::fmt::Write;

use super::bins::limits;
use super::chart;
use super::held::Held;
use super::planned::Planned;
use super::series::Bucket;
use super::survey::{Axis, Survey, Tallies};
use super::verdict::Action;

/// Text between quotes. Nothing in it can end the element of HTML that it stands in.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_char('"')?;
        for letter in self.0.chars() {
            match letter {
                '"' => to.write_str("\\\"")?,
                '\\' => to.write_str("\\\\")?,
                '<' | '>' | '&' | '\'' | '\u{2028}' | '\u{2029}' => {
                    write!(to, "\\u{:04x}", u32::from(letter))?;
                }
                letter if letter.is_control() => write!(to, "\\u{:04x}", u32::from(letter))?,
                letter => to.write_char(letter)?,
            }
        }
        to.write_char('"')
    }
}

/// An object or an array in the making. Writing to a string does not fail.
pub(super) struct Json(pub(super) String);

impl Json {
    fn comma(&mut self) {
        if !self.0.ends_with(['{', '[']) {
            self.0.push(',');
        }
    }

    fn name(&mut self, name: &str) -> &mut Json {
        self.comma();
        let _ = write!(self.0, "\"{name}\":");
        self
    }

    fn put(&mut self, name: &str, value: impl std::fmt::Display) -> &mut Json {
        self.name(name);
        let _ = write!(self.0, "{value}");
        self
    }

    fn text(&mut self, name: &str, value: &str) -> &mut Json {
        self.put(name, Quoted(value))
    }

    fn object(&mut self, name: &str, fill: impl FnOnce(&mut Json)) -> &mut Json {
        self.name(name).braces('{', '}', fill)
    }

    fn list<T>(
        &mut self,
        name: &str,
        all: impl IntoIterator<Item = T>,
        mut fill: impl FnMut(&mut Json, T),
    ) -> &mut Json {
        self.name(name).braces('[', ']', |to| {
            for one in all {
                to.comma();
                to.braces('{', '}', |to| fill(to, one));
            }
        })
    }

    fn numbers<T: std::fmt::Display>(
        &mut self,
        name: &str,
        all: impl IntoIterator<Item = T>,
    ) -> &mut Json {
        self.name(name).braces('[', ']', |to| {
            for one in all {
                to.comma();
                let _ = write!(to.0, "{one}");
            }
        })
    }

    fn braces(&mut self, open: char, close: char, fill: impl FnOnce(&mut Json)) -> &mut Json {
        self.0.push(open);
        fill(self);
        self.0.push(close);
        self
    }
}

/// What a report says, in numbers.
pub(super) struct Said<'a> {
    pub(super) title: &'a str,
    pub(super) trace: &'a str,
    pub(super) whole: bool,
    pub(super) survey: &'a Survey,
    pub(super) planned: &'a Planned,
    pub(super) actions: &'a [Action],
    pub(super) holders: &'a [Held],
    pub(super) left: &'a [Held],
    pub(super) groups: &'a [usize],
}

/// The schema of what [`json`] writes; it changes when something is taken away.
const SCHEMA: u32 = 1;

pub(super) fn json(said: &Said<'_>) -> String {
    let mut json = Json(String::with_capacity(256 << 10));
    json.braces('{', '}', |to| fill(to, said));
    json.0
}

fn fill(to: &mut Json, said: &Said<'_>) {
    let survey = said.survey;
    let axis = if survey.axis == Axis::Time { "time" } else { "events" };
    to.put("schema", SCHEMA).text("title", said.title).text("trace", said.trace);
    to.put("whole", said.whole).text("axis", axis).put("extent", survey.extent);
    to.put("duration_ns", survey.duration).put("events", survey.events);
    to.put("allocations", survey.allocations).put("frees", survey.frees);
    to.put("requested_bytes", survey.requested).put("failures", survey.failures);
    to.put("largest_failure_bytes", survey.largest_failure);
    to.put("faults", survey.faults.total).put("most_pages_bytes", survey.most_pages);
    match survey.reserved {
        Some(reserved) => to.object("reserved", |to| {
            to.put("most_bytes", reserved.most).put("refused", reserved.refused);
        }),
        None => to.put("reserved", "null"),
    };
    to.object("peak", |to| {
        let peak = &survey.peak;
        to.put("live_bytes", peak.live).put("blocks", peak.blocks);
        to.put("allocated_bytes", peak.allocated[survey.device]).put("pages_bytes", peak.pages);
        to.put("event", peak.event).put("at", peak.at);
    });
    match said.planned {
        Planned::Plan(plan) => to.object("plan", |to| {
            to.put("arena_bytes", plan.arena).put("lower_bound", plan.bound);
            to.put("optimal", plan.optimal).put("alignment", plan.alignment);
            to.put("elapsed_ns", u64::try_from(plan.elapsed.as_nanos()).unwrap_or(u64::MAX));
        }),
        _ => to.put("plan", "null"),
    };
    to.list("actions", said.actions, |to, action| {
        to.text("kind", action.kind).put("bytes", action.bytes);
        to.text("found", &action.found).text("advice", &action.advice);
    });
    for (name, held) in [("holders", said.holders), ("left", said.left)] {
        to.list(name, held, |to, held| {
            to.put("size", held.size).put("blocks", held.blocks).put("bytes", held.bytes);
            to.put("left", held.left).put("oldest", held.oldest);
        });
    }
    let bins = survey.bins.iter().enumerate().filter(|(_, (tally, _))| tally.allocations > 0);
    to.list("sizes", bins, |to, (bin, (tally, lifetimes))| {
        let (from, upto) = limits(bin);
        to.put("from", from).put("to", upto).put("allocations", tally.allocations);
        to.put("bytes", tally.bytes).put("most_blocks", tally.most);
        to.put("most_bytes", tally.most_bytes).put("left_bytes", tally.live_bytes);
        let known = |time: Option<u64>| time.map_or(String::from("null"), |time| time.to_string());
        to.put("lifetime_median", known(lifetimes.quantile(0.5)));
        to.put("lifetime_mean", known(lifetimes.mean()))
            .put("lifetime_most", known(lifetimes.most()));
    });
    tallies(to, "streams", &survey.streams);
    tallies(to, "threads", &survey.threads);
    sites(to, survey);
    to.object("series", |to| {
        let buckets = &survey.series.buckets;
        let device = survey.device;
        to.put("width", survey.series.width);
        let mut track = |name: &str, of: &dyn Fn(&Bucket) -> u64| {
            to.numbers(name, buckets.iter().map(of));
        };
        track("live_least", &|bucket| bucket.live.least);
        track("live_most", &|bucket| bucket.live.most);
        track("allocated_least", &|bucket| bucket.allocated[device].least);
        track("allocated_most", &|bucket| bucket.allocated[device].most);
        track("pages_least", &|bucket| bucket.pages.least);
        track("pages_most", &|bucket| bucket.pages.most);
        if survey.reserved.is_some() {
            track("reserved_least", &|bucket| bucket.reserved.least);
            track("reserved_most", &|bucket| bucket.reserved.most);
        }
        track("allocations", &|bucket| bucket.allocations);
        track("frees", &|bucket| bucket.frees);
        for (name, least) in [("unused_least", true), ("unused_most", false)] {
            let of = |bucket: &Bucket| if least { bucket.unused.least } else { bucket.unused.most };
            to.numbers(name, buckets.iter().map(|bucket| format!("{:.3}", of(bucket))));
        }
        let requested = buckets.iter().map(|bucket| bucket.requested);
        to.numbers("requested", requested);
    });
    let groups = said.groups;
    to.list("groups", 0..groups.len(), |to, at| {
        to.text("name", &chart::group_name(groups, at)).put("colour", chart::colour(groups, at));
        let from = at.checked_sub(1).map_or(0, |before| groups[before] + 1);
        let held = |bucket: &Bucket| -> u128 {
            bucket.held[from..=groups[at]].iter().map(|&bytes| u128::from(bytes)).sum()
        };
        to.numbers("held", survey.series.buckets.iter().map(held));
    });
}

fn tallies(to: &mut Json, name: &str, tallies: &Tallies) {
    to.list(name, &tallies.all, |to, (name, tally)| {
        to.put("name", name.map_or(String::from("null"), |name| name.to_string()));
        to.put("allocations", tally.allocations).put("frees", tally.frees);
        to.put("bytes", tally.bytes).put("most_bytes", tally.most_bytes);
        to.put("left_bytes", tally.live_bytes).put("foreign_frees", tally.foreign);
        to.put("foreign_bytes", tally.foreign_bytes).put("failures", tally.failures);
    });
}

/// Call sites that are in the data, those with most bytes at the peak.
const SITES: usize = 200;

/// Who asked; nothing where the trace does not tell.
fn sites(to: &mut Json, survey: &Survey) {
    if !survey.has_sites() {
        to.numbers::<u8>("sites", []);
        return;
    }
    let mut held = vec![0u64; survey.sites.all.len()];
    for lived in &survey.holders {
        let sum = &mut held[lived.block.site as usize];
        *sum = sum.saturating_add(lived.block.size);
    }
    let mut all: Vec<_> = held.into_iter().zip(&survey.sites.all).collect();
    all.sort_by_key(|(held, (_, tally))| std::cmp::Reverse((*held, tally.bytes)));
    to.list("sites", all.into_iter().take(SITES), |to, (held, (name, tally))| {
        match name {
            Some(name) => to.text("name", &String::from_utf8_lossy(name)),
            None => to.put("name", "null"),
        };
        to.put("peak_bytes", held).put("allocations", tally.allocations);
        to.put("frees", tally.frees).put("bytes", tally.bytes);
        to.put("most_bytes", tally.most_bytes).put("left_bytes", tally.live_bytes);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_quotes_ends_them_or_the_element() {
        let text = "a\"b\\c</script><!--&\u{1}\u{2028}é";
        let quoted = Quoted(text).to_string();
        assert_eq!(quoted, "\"a\\\"b\\\\c\\u003c/script\\u003e\\u003c!--\\u0026\\u0001\\u2028é\"");
    }
}
