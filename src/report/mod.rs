//! A trace as one page to read: what lived when, who held the peak, and what to do about it.
//!
//! The trace is read once, row by row, by `survey`; memory is bounded by what lives in it at a
//! time. `planned` asks the planner what an arena for it would need, `verdict` says what follows,
//! and `page` writes it all as one file of HTML that needs nothing else.

mod bins;
mod chart;
mod data;
mod footprint;
mod grid;
mod held;
mod page;
mod planned;
mod rounding;
mod series;
mod survey;
mod table;
#[cfg(test)]
mod tests;
mod units;
mod verdict;

pub use survey::{Axis, Beside};

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Result, fail};
use crate::lifetime;
use crate::trace::{Faults, Reader};
use data::Said;
use survey::{Survey, Surveyor};

/// How a report is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// The heading of the page; empty is the name of the trace.
    pub title: String,
    /// The most points of a track over time, at least [`Options::POINTS_MIN`] and at most
    /// [`Options::POINTS_MAX`]: half of them are the least of a stretch of time, half the most.
    pub points: usize,
    /// How long the planner may take; zero leaves the plan out.
    pub plan_limit: Duration,
    /// Events instead of time from left to right. Without it, a trace whose clock stands still
    /// among its first events has them too.
    pub by_events: bool,
}

impl Options {
    /// The least of [`Options::points`].
    pub const POINTS_MIN: usize = 100;
    /// The most of [`Options::points`].
    pub const POINTS_MAX: usize = 4000;
}

impl Default for Options {
    /// Two thousand points, and a second for the plan.
    fn default() -> Options {
        Options {
            title: String::new(),
            points: 2000,
            plan_limit: Duration::from_secs(1),
            by_events: false,
        }
    }
}

/// How far a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Rows of the trace that were read.
    pub events: u64,
    /// Whether all of it was read, and the plan is being made.
    pub planning: bool,
    /// Since it began.
    pub elapsed: Duration,
}

/// Asked now and then; false ends the reading, or the planning, with what there is so far.
pub type Watch<'a> = dyn FnMut(&Progress) -> bool + 'a;

/// Calls of the watch are at least this far apart.
const REPORT_EVERY: Duration = Duration::from_millis(50);

/// Rows between two looks at the clock.
const LOOK_EVERY: u64 = 1 << 12;

/// Events that show whether the clock of a trace goes.
const FIRST: usize = 1 << 12;

/// Reads the trace in the file `trace` and writes the page to the file `out`. Returns the rows that
/// make no sense: the page is about all others. With a pool `beside`, which does what the trace
/// says, the page has what that reserves too.
///
/// # Errors
/// `Io`, `MalformedTrace` when a row is not one of a trace, `InvalidArgument` when the number of
/// points is not within its limits. Before the trace is read whole, nothing is written.
pub fn report(
    trace: impl AsRef<Path>,
    out: impl AsRef<Path>,
    options: &Options,
    beside: Option<Beside<'_>>,
    watch: Option<&mut Watch<'_>>,
) -> Result<Faults> {
    let (page, faults) = page_of(trace.as_ref(), options, beside, watch)?;
    let out = out.as_ref();
    let written = std::fs::write(out, page);
    written.map_err(|error| fail!(Io, "report `{}`: cannot write: {error}", out.display()))?;
    Ok(faults)
}

fn page_of(
    trace: &Path,
    options: &Options,
    beside: Option<Beside<'_>>,
    mut watch: Option<&mut Watch<'_>>,
) -> Result<(String, Faults)> {
    let (least, most) = (Options::POINTS_MIN, Options::POINTS_MAX);
    if !(least..=most).contains(&options.points) {
        let points = options.points;
        return Err(fail!(
            InvalidArgument,
            "points is {points}; it must be from {least} to {most}"
        ));
    }
    let begun = Instant::now();
    let (survey, whole) = read(trace, options, beside, begun, watch.as_deref_mut())?;
    let mut told = |_: &lifetime::Progress| match &mut watch {
        Some(watch) => {
            let (events, elapsed) = (survey.events, begun.elapsed());
            watch(&Progress { events, planning: true, elapsed })
        }
        None => true,
    };
    let planned = planned::plan(&survey, options.plan_limit, Some(&mut told));
    let name = trace.display().to_string();
    let file = trace.file_name().map(|file| file.to_string_lossy().into_owned());
    let title = match options.title.is_empty() {
        true => file.unwrap_or_else(|| name.clone()),
        false => options.title.clone(),
    };
    let said = Said {
        title: &title,
        trace: &name,
        whole,
        survey: &survey,
        planned: &planned,
        actions: &verdict::actions(&survey, &planned),
        holders: &held::by_size(&survey.holders),
        left: &held::by_size(&survey.left),
        groups: &chart::groups(&survey),
    };
    Ok((page::page(&said), survey.faults.clone()))
}

/// Reads the trace; false when the watch ended it early.
fn read(
    trace: &Path,
    options: &Options,
    beside: Option<Beside<'_>>,
    begun: Instant,
    mut watch: Option<&mut Watch<'_>>,
) -> Result<(Survey, bool)> {
    let mut reader = Reader::open(trace)?;
    let mut first = Vec::new();
    while first.len() < FIRST
        && let Some(event) = reader.read()?
    {
        first.push((reader.line(), event, reader.site().to_vec()));
    }
    let stands = match (first.first(), first.last()) {
        (Some((_, first, _)), Some((_, last, _))) => first.time == last.time,
        _ => false,
    };
    let axis = if options.by_events || stands { Axis::Events } else { Axis::Time };
    let mut surveyor = Surveyor::new(axis, options.points / 4 * 2).beside(beside);
    for (line, event, site) in &first {
        surveyor.add(*line, event, site)?;
    }
    let (mut events, mut reported) = (first.len() as u64, Duration::ZERO);
    while let Some(event) = reader.read()? {
        surveyor.add(reader.line(), &event, reader.site())?;
        events += 1;
        if events.is_multiple_of(LOOK_EVERY)
            && let Some(watch) = &mut watch
        {
            let elapsed = begun.elapsed();
            if elapsed - reported >= REPORT_EVERY {
                reported = elapsed;
                if !watch(&Progress { events, planning: false, elapsed }) {
                    return Ok((surveyor.finish(), false));
                }
            }
        }
    }
    Ok((surveyor.finish(), true))
}
