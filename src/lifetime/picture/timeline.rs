//! Bytes over time: what lives, what is reserved, and what no arena can be below.

use super::svg::{self, Area, Bytes, Grouped, Scale, Short, Svg};

/// What was live and reserved after each step of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// What it is a picture of.
    pub name: String,
    /// Bytes that live, after each step.
    pub live: Vec<u64>,
    /// Bytes that are mapped, after each step; empty where nobody knows.
    pub reserved: Vec<u64>,
    /// Allocations that there was no memory for.
    pub failed: u64,
}

const PANEL: f64 = 420.0;

/// A picture of `timeline`.
pub fn timeline(timeline: &Timeline) -> String {
    let Timeline { name, live, reserved, failed } = timeline;
    let peak = |of: &[u64]| of.iter().copied().max().unwrap_or(0);
    let (bound, most) = (peak(live), peak(reserved));
    let panel = Area::panel(92.0, PANEL);
    let mut svg = Svg::new(panel.bottom() + 32.0, &format!("{name}: bytes over time"));
    svg.text(svg::LEFT, 28.0, "t", name);
    let mut said =
        format!("{} steps; bound (most live bytes) {}", Grouped(live.len() as u64), Bytes(bound));
    if !reserved.is_empty() {
        said += &format!("; most reserved {}", Bytes(most));
        if bound > 0 {
            said += &format!(", {}", above(most, bound));
        }
    }
    if *failed > 0 {
        said += &format!("; {} allocations failed", Grouped(*failed));
    }
    svg.text(svg::LEFT, 50.0, "", &said);
    let mut lines = vec![("l", "live"), ("b", "bound")];
    if !reserved.is_empty() {
        lines.push(("r", "reserved"));
    }
    key(&mut svg, 78.0, &lines);
    let time = Scale::across(panel, 0, live.len() as u64);
    let bytes = Scale::upwards(panel, bound.max(most));
    svg::axes(&mut svg, panel, &time, &bytes, "steps");
    let columns = |of: &[u64]| {
        let mut columns = Columns::new(panel);
        for (step, &value) in (0..).zip(of) {
            columns.add(&time, step, step + 1, value);
        }
        columns.outline(&bytes, panel)
    };
    svg.path("l", &format!("{}V{}H{}z", columns(live), Short(panel.bottom()), Short(panel.x)));
    svg.path("r", &columns(reserved));
    level(&mut svg, "b", panel, &bytes, bound);
    svg.end()
}

/// How far `height` is above `bound`, in words.
pub(super) fn above(height: u64, bound: u64) -> String {
    match height.checked_sub(bound) {
        Some(0) => String::from("at the bound"),
        Some(over) => format!("{:.2} % above the bound", 100.0 * over as f64 / bound as f64),
        None => String::from("below the bound"),
    }
}

/// Which line is what.
pub(super) fn key(svg: &mut Svg, y: f64, lines: &[(&str, &str)]) {
    let mut x = svg::LEFT;
    for (class, name) in lines {
        svg.line(class, (x, y - 4.0), (x + 28.0, y - 4.0));
        svg.text(x + 34.0, y, "", name);
        x += 60.0 + 7.0 * name.len() as f64;
    }
}

/// A line at `value`, all along the panel.
pub(super) fn level(svg: &mut Svg, class: &str, panel: Area, bytes: &Scale, value: u64) {
    let y = bytes.pixel(value);
    svg.line(class, (panel.x, y), (panel.x + panel.width, y));
}

/// The most of something in each column of pixels of a panel.
pub(super) struct Columns(Vec<u64>);

impl Columns {
    pub(super) fn new(panel: Area) -> Columns {
        Columns(vec![0; panel.width as usize])
    }

    /// It was `value` from `from` until `to`.
    pub(super) fn add(&mut self, time: &Scale, from: u64, to: u64, value: u64) {
        let column = |at: u64| time.pixel(at) - time.at;
        let first = (column(from) as usize).min(self.0.len() - 1);
        let end = (column(to).ceil() as usize).clamp(first + 1, self.0.len());
        for column in &mut self.0[first..end] {
            *column = value.max(*column);
        }
    }

    /// As a path from the left end to the right.
    pub(super) fn outline(&self, bytes: &Scale, panel: Area) -> String {
        use std::fmt::Write;
        let mut path = String::new();
        let mut last = None;
        for (column, &value) in self.0.iter().enumerate() {
            let (x, y) = (Short(panel.x + column as f64), Short(bytes.pixel(value)));
            let _ = match last {
                None => write!(path, "M{x} {y}"),
                Some(last) if last != value => write!(path, "H{x}V{y}"),
                Some(_) => Ok(()),
            };
            last = Some(value);
        }
        let _ = write!(path, "H{}", Short(panel.x + panel.width));
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_keep_the_most() {
        let panel = Area::panel(0.0, 100.0);
        let time = Scale::across(panel, 0, 1 << 20);
        let mut columns = Columns::new(panel);
        for step in 0..1 << 20 {
            columns.add(&time, step, step + 1, u64::from(step == 77_777));
        }
        assert_eq!(columns.0.iter().sum::<u64>(), 1);
        columns.add(&time, 0, 1 << 20, 5);
        assert!(columns.0.iter().all(|&most| most == 5));
    }

    #[test]
    fn a_timeline_has_what_is_known() {
        let mut known = Timeline {
            name: String::from("a<b>.csv"),
            live: vec![3 << 20, 8 << 20, 5 << 20],
            ..Timeline::default()
        };
        let picture = timeline(&known);
        assert!(picture.contains("a&lt;b&gt;.csv") && picture.contains("3 steps"), "{picture}");
        assert!(picture.contains("(most live bytes) 8 MiB"), "{picture}");
        assert!(!picture.contains("reserved"), "{picture}");
        known.reserved = vec![4 << 20, 10 << 20, 10 << 20];
        known.failed = 2;
        let picture = timeline(&known);
        assert!(picture.contains("most reserved 10 MiB, 25.00 % above the bound"), "{picture}");
        assert!(picture.contains("2 allocations failed"), "{picture}");
        let nothing = timeline(&Timeline::default());
        assert!(nothing.contains("0 steps"));
        assert!(svg::tests::shapes_of(&picture).len() > svg::tests::shapes_of(&nothing).len());
    }

    #[test]
    fn a_long_timeline_is_no_longer_than_its_pixels() {
        let live = (0..1_000_000u64).map(|step| step * 7919 % 10_007).collect();
        let reserved = vec![20_000; 1_000_000];
        let known = Timeline { live, reserved, ..Timeline::default() };
        assert!(timeline(&known).len() < 40_000);
    }
}
