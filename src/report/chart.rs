//! Charts: SVG that is stretched over its figure, with its labels beside it as text, so that they
//! keep their size on a small screen and on paper.

use std::fmt::Write;

use super::bins::{BINS, limits};
use super::grid::COLUMNS;
use super::planned::Placed;
use super::rounding::Rounding;
use super::series::Bucket;
use super::survey::{Shape, Survey};
use super::units::{Span, short_count, ticks};
use crate::lifetime::picture::svg::{Bytes, COLOURS, Escaped, Short};

/// The size of a drawing in its own units, whatever it is stretched to.
const WIDTH: f64 = 4000.0;
const HEIGHT: f64 = 1000.0;

/// Steps in which cells of a map are shaded, and the most lines of cells.
const SHADES: usize = 4;
const LINES: usize = 128;

// Writing to a string does not fail; what it says is dropped.

/// Where something is from left to right.
pub(super) fn across(survey: &Survey, at: u64) -> f64 {
    WIDTH * at as f64 / survey.extent.max(1) as f64
}

/// Sizes in groups, each with about as many bytes over time as the others: the last bin of each.
pub(super) fn groups(survey: &Survey) -> Vec<usize> {
    let mut weights = [0.0f64; BINS];
    for bucket in &survey.series.buckets {
        weights.iter_mut().zip(bucket.held).for_each(|(weight, held)| *weight += held as f64);
    }
    let all: f64 = weights.iter().sum();
    let (mut last, mut covered) = (Vec::new(), 0.0);
    for (bin, weight) in weights.iter().enumerate() {
        covered += weight;
        let due = (last.len() + 1) as f64 * all <= covered * COLOURS.len() as f64;
        if *weight > 0.0 && due && last.len() + 1 < COLOURS.len() {
            last.push(bin);
        }
    }
    if let Some(largest) = (0..BINS).rev().find(|&bin| weights[bin] > 0.0)
        && last.last() != Some(&largest)
    {
        last.push(largest);
    }
    last
}

/// The colour of group `at` of `groups`: few are far apart.
pub(super) fn colour(groups: &[usize], at: usize) -> usize {
    at.min(groups.len().saturating_sub(1)) * (COLOURS.len() - 1)
        / groups.len().saturating_sub(1).max(1)
}

/// What a group is called.
pub(super) fn group_name(groups: &[usize], at: usize) -> String {
    let from = at.checked_sub(1).map_or(0, |before| limits(groups[before]).1.saturating_add(1));
    let to = limits(groups[at]).1;
    match from {
        0 => format!("below {}", Bytes(to.saturating_add(1))),
        _ => format!("{} to {}", Bytes(from), Bytes(to.saturating_add(1))),
    }
}

fn colour_of(groups: &[usize], size: u64) -> usize {
    let bin = super::bins::bin_of(size);
    colour(groups, groups.partition_point(|&last| last < bin))
}

/// A figure: `name` is its id, `tall` its height in pixels, `most` the top of its vertical axis.
struct Figure<'a> {
    name: &'a str,
    said: String,
    tall: u32,
    vertical: Vec<(f64, String)>,
    drawing: String,
    /// Texts over the drawing: how far from the left, 0 to 1, and what is said.
    marks: Vec<(f64, String)>,
}

impl Figure<'_> {
    fn write(&self, survey: &Survey, to: &mut String) {
        let Figure { name, said, tall, vertical, drawing, marks } = self;
        let _ = write!(
            to,
            "<div class=\"chart\" id=\"{name}\" style=\"--tall:{tall}px\"><div class=\"y\" \
             aria-hidden=\"true\">"
        );
        for (share, text) in vertical {
            let _ = write!(to, "<span style=\"bottom:{}%\">{text}</span>", Short(100.0 * share));
        }
        let _ = write!(
            to,
            "</div><div class=\"plot\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">",
            Escaped(said)
        );
        for (share, _) in vertical {
            let y = Short(HEIGHT * (1.0 - share));
            let _ = write!(to, "<path class=\"g\" d=\"M0 {y}H{WIDTH}\"/>");
        }
        to.push_str(drawing);
        to.push_str("</svg>");
        for (share, text) in marks {
            let side = if *share > 0.6 { " class=\"mark before\"" } else { " class=\"mark\"" };
            let share = share.clamp(0.0, 1.0);
            let _ = write!(
                to,
                "<span{side} data-x=\"{share:.5}\" style=\"left:{}%\">{text}</span>",
                Short(100.0 * share)
            );
        }
        to.push_str("</div><div class=\"x\" aria-hidden=\"true\">");
        for (value, text) in ticks(survey.axis, survey.extent, 6) {
            let left = Short(100.0 * across(survey, value) / WIDTH);
            let _ = write!(to, "<span style=\"left:{left}%\">{text}</span>");
        }
        to.push_str("</div></div>\n");
    }
}

/// Labels along a vertical axis of bytes up to `most`.
fn byte_labels(most: u64, top: f64) -> Vec<(f64, String)> {
    let step = (most / 8).max(1).checked_next_power_of_two().unwrap_or(1 << 63);
    let labels = (0..=most / step).map(|number| number * step);
    labels.map(|value| (value as f64 / top, Bytes(value).to_string())).collect()
}

/// The top of a vertical axis: a little room above `most`.
fn top_of(most: u64) -> f64 {
    most.max(1) as f64 * 1.04
}

/// Steps over the buckets, from the left end to the right; `of` is from 0 to 1.
fn steps(survey: &Survey, back: bool, of: impl Fn(&Bucket) -> f64) -> String {
    let mut path = String::new();
    let (width, buckets) = (survey.series.width, &survey.series.buckets);
    let y = |bucket: &Bucket| (HEIGHT * (1.0 - of(bucket).clamp(0.0, 1.0))).round();
    let x = |index: usize| {
        across(survey, (index as u64).saturating_mul(width).min(survey.extent)).round()
    };
    let count = buckets.len();
    if count == 0 {
        return format!("{}0 {HEIGHT}", if back { 'L' } else { 'M' });
    }
    let mut last = None;
    for step in 0..count {
        let index = if back { count - 1 - step } else { step };
        let (edge, y) = (x(if back { index + 1 } else { index }), y(&buckets[index]));
        let _ = match last {
            None => write!(path, "{}{edge} {y}", if back { 'L' } else { 'M' }),
            Some(last) if last != y => write!(path, "H{edge}V{y}"),
            Some(_) => Ok(()),
        };
        last = Some(y);
    }
    let _ = write!(path, "H{}", if back { 0.0 } else { x(count) });
    path
}

/// Bytes over time: what lives by size, as much of it as there was at the most in each stretch;
/// what blocks and pages take; the peak.
pub(super) fn bytes(survey: &Survey, groups: &[usize], to: &mut String) {
    let allocated = survey.device;
    let most_of =
        |of: &dyn Fn(&Bucket) -> u64| survey.series.buckets.iter().map(of).max().unwrap_or(0);
    let most = survey.most_pages.max(most_of(&|bucket| bucket.allocated[allocated].most));
    let most = most.max(survey.reserved.map_or(0, |reserved| reserved.most));
    let top = top_of(most.max(survey.peak.live));
    let mut drawing = String::new();
    let pages = steps(survey, false, |bucket| bucket.pages.most as f64 / top);
    let rounded = steps(survey, false, |bucket| bucket.allocated[allocated].most as f64 / top);
    let _ = write!(drawing, "<path class=\"pages\" d=\"{pages}V{HEIGHT}H0z\"/>");
    let _ = write!(drawing, "<path class=\"rounded\" d=\"{rounded}V{HEIGHT}H0z\"/>");
    let upto = |bucket: &Bucket, group: Option<usize>| -> f64 {
        let bins = group.map_or(0, |at| groups[at] + 1);
        bucket.held[..bins].iter().map(|&bytes| bytes as f64).sum::<f64>() / top
    };
    for at in 0..groups.len() {
        let class = colour(groups, at);
        let upper = steps(survey, false, |bucket| upto(bucket, Some(at)));
        let lower = steps(survey, true, |bucket| upto(bucket, at.checked_sub(1)));
        let _ = write!(drawing, "<path class=\"c{class}\" d=\"{upper}{lower}z\"/>");
    }
    let least = steps(survey, false, |bucket| bucket.live.least as f64 / top);
    let _ = write!(drawing, "<path class=\"l least\" d=\"{least}\"/>");
    if survey.reserved.is_some() {
        let reserved = steps(survey, false, |bucket| bucket.reserved.most as f64 / top);
        let _ = write!(drawing, "<path class=\"l reserved\" d=\"{reserved}\"/>");
    }
    let x = across(survey, survey.peak.at);
    let _ = write!(drawing, "<path class=\"l peak\" d=\"M{} 0V{HEIGHT}\"/>", Short(x));
    let said = format!(
        "Live bytes over time; the peak is {} at {}",
        Bytes(survey.peak.live),
        Span(survey.axis, survey.peak.at)
    );
    let mark = format!("peak {}", Bytes(survey.peak.live));
    let vertical = byte_labels(most.max(survey.peak.live), top);
    let marks = vec![(x / WIDTH, mark)];
    Figure { name: "bytes", said, tall: 280, vertical, drawing, marks }.write(survey, to);
}

/// The share of pages in which nothing lives, over time.
pub(super) fn unused(survey: &Survey, to: &mut String) {
    let upper = steps(survey, false, |bucket| f64::from(bucket.unused.most));
    let lower = steps(survey, true, |bucket| f64::from(bucket.unused.least));
    let line = steps(survey, false, |bucket| f64::from(bucket.unused.least));
    let drawing = format!(
        "<path class=\"band\" d=\"{upper}{lower}z\"/><path class=\"l level\" d=\"{line}\"/>"
    );
    let vertical = [0.0, 0.5, 1.0].map(|share| (share, format!("{} %", share * 100.0))).to_vec();
    let said = String::from("The share of pages in which nothing lives, over time");
    Figure { name: "unused", said, tall: 110, vertical, drawing, marks: Vec::new() }
        .write(survey, to);
}

/// Allocations over time.
pub(super) fn rate(survey: &Survey, to: &mut String) {
    let most = survey.series.buckets.iter().map(|bucket| bucket.allocations).max().unwrap_or(0);
    let top = top_of(most);
    let upper = steps(survey, false, |bucket| bucket.allocations as f64 / top);
    let drawing = format!("<path class=\"rate\" d=\"{upper}V{HEIGHT}H0z\"/>");
    let vertical = vec![(0.0, String::from("0")), (most as f64 / top, short_count(most))];
    let said = format!(
        "Allocations over time; at the most {most} in {}",
        Span(survey.axis, survey.series.width)
    );
    Figure { name: "rate", said, tall: 110, vertical, drawing, marks: Vec::new() }
        .write(survey, to);
}

/// Addresses, without those in which nothing ever lived.
pub(super) struct Addresses<'a> {
    rows: Vec<(u64, &'a [f64])>,
    shift: u32,
}

impl<'a> Addresses<'a> {
    pub(super) fn of(survey: &'a Survey) -> Addresses<'a> {
        Addresses { rows: survey.grid.sorted(), shift: survey.grid.shift }
    }

    /// Bytes of all its rows.
    pub(super) fn bytes(&self) -> u64 {
        (self.rows.len() as u64).saturating_mul(1 << self.shift)
    }

    /// How many bytes are below `address`, with gaps left out.
    fn below(&self, address: u64) -> f64 {
        let number = address >> self.shift;
        let row = self.rows.partition_point(|&(at, _)| at < number);
        let inside = (address & ((1 << self.shift) - 1)) as f64;
        row as f64 * (1u64 << self.shift) as f64 + inside
    }

    /// Where there are gaps, as bytes below.
    fn gaps(&self) -> impl Iterator<Item = f64> {
        let row = (1u64 << self.shift) as f64;
        let pairs = self.rows.windows(2).enumerate();
        pairs
            .filter(|(_, pair)| pair[0].0 + 1 < pair[1].0)
            .map(move |(at, _)| (at + 1) as f64 * row)
    }
}

/// Bytes upwards, in a drawing.
fn upwards(bytes: f64, top: f64) -> f64 {
    HEIGHT * (1.0 - bytes / top)
}

/// The map of addresses over time as recorded, up to `top` bytes.
pub(super) fn recorded(
    survey: &Survey,
    addresses: &Addresses<'_>,
    groups: &[usize],
    top: u64,
    to: &mut String,
) {
    let row = (1u64 << addresses.shift) as f64;
    let lines = addresses.rows.iter().enumerate();
    let cells =
        Cells::of(survey, top as f64, lines.map(|(at, &(_, cells))| (at as f64 * row, row, cells)));
    let mut drawing = cells.draw();
    for gap in addresses.gaps().take(64) {
        let y = Short(upwards(gap, top as f64));
        let _ = write!(drawing, "<path class=\"gap\" d=\"M0 {y}H{WIDTH}\"/>");
    }
    let said = |shape: &Shape| format!("at 0x{:x}", shape.address);
    let place = |shape: &Shape| Some(addresses.below(shape.address));
    shapes(survey, groups, top as f64, &mut drawing, place, said);
    let vertical = byte_labels(top, top as f64);
    let said = format!("Addresses over time as recorded: {} were used", Bytes(addresses.bytes()));
    Figure { name: "map", said, tall: 300, vertical, drawing, marks: Vec::new() }.write(survey, to);
}

/// The same blocks where a plan has them.
pub(super) fn planned(survey: &Survey, plan: &Placed, groups: &[usize], top: u64, to: &mut String) {
    let tensors = survey.tensors.as_deref().unwrap_or_default();
    let line = top as f64 / LINES as f64;
    let mut rows = vec![vec![0.0; COLUMNS]; LINES];
    let width = survey.grid.width;
    for (tensor, &offset) in tensors.iter().zip(&plan.offsets) {
        let (low, high) = (offset as f64, offset as f64 + tensor.size as f64);
        let last = ((high / line).ceil() as usize).clamp(1, LINES);
        for (at, row) in rows.iter_mut().enumerate().take(last).skip((low / line) as usize) {
            let bytes = high.min((at + 1) as f64 * line) - low.max(at as f64 * line);
            let columns =
                tensor.from / width..=tensor.to.saturating_sub(1).max(tensor.from) / width;
            for column in columns {
                let begin = column * width;
                let time = tensor.to.min(begin.saturating_add(width)) - tensor.from.max(begin);
                if let Some(cell) = row.get_mut(column as usize) {
                    *cell += bytes.max(0.0) * time as f64;
                }
            }
        }
    }
    let lines = rows.iter().enumerate();
    let cells = Cells::of(
        survey,
        top as f64,
        lines.map(|(at, row)| (at as f64 * line, line, row.as_slice())),
    );
    let mut drawing = cells.draw();
    let offset = |shape: &Shape| plan.offsets.get(shape.tensor?).copied();
    let said = |shape: &Shape| format!("at {}", Bytes(offset(shape).unwrap_or(0)));
    let place = |shape: &Shape| offset(shape).map(|offset| offset as f64);
    shapes(survey, groups, top as f64, &mut drawing, place, said);
    let y = Short(upwards(plan.arena as f64, top as f64));
    let _ = write!(drawing, "<path class=\"l peak\" d=\"M0 {y}H{WIDTH}\"/>");
    let vertical = byte_labels(top, top as f64);
    let said = format!("Addresses over time by a plan: an arena of {}", Bytes(plan.arena));
    Figure { name: "plan", said, tall: 300, vertical, drawing, marks: Vec::new() }
        .write(survey, to);
}

/// The largest blocks, each with what it is.
fn shapes(
    survey: &Survey,
    groups: &[usize],
    top: f64,
    drawing: &mut String,
    place: impl Fn(&Shape) -> Option<f64>,
    said: impl Fn(&Shape) -> String,
) {
    let mut all: Vec<&Shape> = survey.shapes.iter().collect();
    // The larger ones first, so that none is hidden.
    all.sort_unstable_by(|one, two| two.cmp(one));
    for shape in all {
        let Some(below) = place(shape) else { continue };
        let (x, end) = (across(survey, shape.from), across(survey, shape.to));
        // A block that says it ends behind the last address ends there.
        let inside = |y: f64| y.clamp(0.0, HEIGHT);
        let y = inside(upwards(below + shape.size as f64, top));
        let low = inside(upwards(below, top));
        let colour = colour_of(groups, shape.size);
        // A border would hide what is thin.
        let border = if end - x >= 12.0 && low - y >= 10.0 { "b " } else { "" };
        let until = match shape.freed {
            true => Span(survey.axis, shape.to - shape.from).to_string(),
            false => String::from("to the end"),
        };
        let _ = write!(
            drawing,
            "<rect class=\"{border}c{colour}\" x=\"{}\" y=\"{}\" width=\"{}\" \
             height=\"{}\"><title>{} {}, from {} for {until}</title></rect>",
            Short(x),
            Short(y),
            Short(end - x),
            Short(low - y),
            Bytes(shape.size),
            said(shape),
            Span(survey.axis, shape.from),
        );
    }
}

/// What blocks cover, in few lines of cells.
struct Cells {
    lines: Vec<[f64; COLUMNS]>,
    /// What a cell has when it is covered whole.
    whole: f64,
    columns: usize,
    column: f64,
}

impl Cells {
    /// From rows: where each begins, how many bytes it has, and what its cells have.
    fn of<'a>(
        survey: &Survey,
        top: f64,
        rows: impl Iterator<Item = (f64, f64, &'a [f64])>,
    ) -> Cells {
        let line = top / LINES as f64;
        let mut lines = vec![[0.0; COLUMNS]; LINES];
        for (begin, bytes, cells) in rows {
            let end = begin + bytes;
            let last = ((end / line).ceil() as usize).clamp(1, LINES);
            for (at, own) in lines.iter_mut().enumerate().take(last).skip((begin / line) as usize) {
                let inside = end.min((at + 1) as f64 * line) - begin.max(at as f64 * line);
                let share = (inside / bytes).max(0.0);
                own.iter_mut().zip(cells).for_each(|(cell, area)| *cell += area * share);
            }
        }
        let width = survey.grid.width;
        let columns = (survey.extent.div_ceil(width) as usize).clamp(1, COLUMNS);
        let column = across(survey, width.min(survey.extent));
        Cells { lines, whole: line * width as f64, columns, column }
    }

    /// Runs of cells that are covered alike, as rectangles.
    fn draw(&self) -> String {
        let shade =
            |covered: f64| ((covered / self.whole * SHADES as f64).round() as usize).min(SHADES);
        let mut runs = vec![String::new(); SHADES + 1];
        let tall = HEIGHT / LINES as f64;
        for (at, cells) in self.lines.iter().enumerate() {
            let y = Short(HEIGHT - (at + 1) as f64 * tall);
            let mut begin = 0;
            while begin < self.columns {
                let own = shade(cells[begin]);
                let alike =
                    cells[begin..self.columns].iter().take_while(|&&cell| shade(cell) == own);
                let end = begin + alike.count();
                let x = (begin as f64 * self.column).round();
                let length = (end as f64 * self.column).round().min(WIDTH) - x;
                let (tall, back) = (Short(tall), -length);
                let _ = write!(runs[own], "M{x} {y}h{length}v{tall}h{back}z");
                begin = end;
            }
        }
        let mut drawing = String::new();
        for (shade, runs) in runs.iter().enumerate().skip(1).filter(|(_, runs)| !runs.is_empty()) {
            let _ = write!(drawing, "<path class=\"s s{shade}\" d=\"{runs}\"/>");
        }
        drawing
    }
}

/// What the blocks of a trace are rounded to.
pub(super) fn rounding_name(survey: &Survey) -> &'static str {
    match survey.device {
        Rounding::GPU => {
            "as a GPU pool of the balanced policy does (all addresses are multiples of 512)"
        }
        _ => "as a host pool of the balanced policy does",
    }
}
