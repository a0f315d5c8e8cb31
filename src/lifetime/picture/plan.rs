//! A plan as a picture: address by time, and what lives at each time beneath.

use super::svg::{self, Area, Bytes, COLOURS, Grouped, SHADES, Scale, Short, Svg};
use super::timeline::{Columns, above, key, level};
use crate::error::Result;
use crate::lifetime::{Plan, Tensor};

/// What the colours of tensors say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// Their size: each covers about as much of the picture as the others.
    Size,
    /// Nothing but that they are different tensors.
    Id,
}

/// Heights of the panels: of one plan, of each of two, and of live bytes.
const ONE: f64 = 560.0;
const EACH: f64 = 380.0;
const LIVE: f64 = 130.0;

/// The tensors with a shape and a text of their own: the largest in a panel. The others are
/// pieces of one path for each colour.
const TOLD: usize = 4000;

/// The side of the cells in which small tensors are merged, in pixels.
const CELL: f64 = 2.0;

/// A picture of `plan`, and of `before` above it, a plan of the same tensors, on the same scale.
///
/// # Errors
/// `InvalidArgument` when `before` is a plan of other tensors.
pub fn plan(plan: &Plan, before: Option<&Plan>, colours: Colours) -> Result<String> {
    if let Some(before) = before {
        before.check_for(plan.instance())?;
    }
    let count = Grouped(plan.offsets().len() as u64);
    let title = format!("{count} tensors, {} in all", Bytes(plan.total_bytes()));
    let panels: Vec<(&str, &Plan)> = match before {
        Some(before) => vec![("before: ", before), ("after: ", plan)],
        None => vec![("", plan)],
    };
    let height = if before.is_some() { EACH } else { ONE };
    let top = 112.0;
    let live_top = top + panels.len() as f64 * (height + 56.0);
    let mut svg = Svg::new(live_top + LIVE + 32.0, &title);
    svg.text(svg::LEFT, 28.0, "t", &title);
    let said = format!("bound (most live bytes) {}", Bytes(plan.lower_bound()));
    svg.text(svg::LEFT, 50.0, "", &said);
    let palette = Palette::of(plan, colours);
    palette.key(&mut svg, 76.0);

    let tensors = plan.instance().tensors();
    let from = tensors.iter().map(|tensor| tensor.lower).min().unwrap_or(0);
    let to = tensors.iter().map(|tensor| tensor.upper).max().unwrap_or(0);
    let most = panels.iter().map(|(_, plan)| plan.arena_bytes()).max().unwrap_or(0);
    for (number, (name, plan)) in panels.iter().enumerate() {
        let panel = Area::panel(top + number as f64 * (height + 56.0), height);
        let (time, bytes) = (Scale::across(panel, from, to), Scale::upwards(panel, most));
        let (arena, bound) = (plan.arena_bytes(), plan.lower_bound());
        let said = format!("{name}arena {}, {}", Bytes(arena), above(arena, bound));
        svg.text(panel.x, panel.y - 8.0, "", &said);
        svg::axes(&mut svg, panel, &time, &bytes, "time");
        Placed::of(plan, &time, &bytes).draw(&mut svg, plan, &palette, panel);
        level(&mut svg, "a", panel, &bytes, arena);
        level(&mut svg, "b", panel, &bytes, bound);
    }

    let panel = Area::panel(live_top, LIVE);
    let (time, bytes) = (Scale::across(panel, from, to), Scale::upwards(panel, most));
    svg::axes(&mut svg, panel, &time, &bytes, "time");
    let live = live(plan, &time, panel).outline(&bytes, panel);
    svg.path("l", &format!("{live}V{}H{}z", Short(panel.bottom()), Short(panel.x)));
    level(&mut svg, "a", panel, &bytes, plan.arena_bytes());
    level(&mut svg, "b", panel, &bytes, plan.lower_bound());
    key(&mut svg, live_top - 8.0, &[("l", "live"), ("b", "bound"), ("a", "arena")]);
    Ok(svg.end())
}

/// Live bytes over time. Tensors in each other's place count each.
fn live(plan: &Plan, time: &Scale, panel: Area) -> Columns {
    let tensors = plan.instance().tensors();
    let (mut columns, mut live, mut since) = (Columns::new(panel), 0, time.from);
    for event in plan.instance().events() {
        if event.time > since {
            columns.add(time, since, event.time, live);
            since = event.time;
        }
        let size = tensors[event.place as usize].size;
        live = if event.begins { live + size } else { live - size };
    }
    columns
}

/// Tensors in a panel, in pixels.
struct Placed {
    /// Those of at least a pixel, the largest first: place and area.
    shapes: Vec<(usize, Area)>,
    /// How much of each cell the others cover, row by row.
    merged: Vec<f32>,
    columns: usize,
    origin: (f64, f64),
}

impl Placed {
    fn of(plan: &Plan, time: &Scale, bytes: &Scale) -> Placed {
        let top = bytes.at + bytes.length;
        let columns = (time.length / CELL).ceil() as usize;
        let rows = (-bytes.length / CELL).ceil() as usize;
        let merged = vec![0.0; columns * rows];
        let mut placed = Placed { shapes: Vec::new(), merged, columns, origin: (time.at, top) };
        for (place, (tensor, &offset)) in
            plan.instance().tensors().iter().zip(plan.offsets()).enumerate()
        {
            let (left, right) = (time.pixel(tensor.lower), time.pixel(tensor.upper));
            let (low, high) = (bytes.pixel(offset), bytes.pixel(offset + tensor.size));
            let area = Area { x: left, y: high, width: right - left, height: low - high };
            if area.pixels() >= 1.0 {
                placed.shapes.push((place, area));
            } else {
                placed.merge(area);
            }
        }
        placed.shapes.sort_by(|(_, one), (_, two)| two.pixels().total_cmp(&one.pixels()));
        placed
    }

    /// Spreads `area` over the cells that it touches.
    fn merge(&mut self, area: Area) {
        let rows = self.merged.len() / self.columns;
        let parts = |from: f64, length: f64, count: usize| {
            let first = ((from / CELL) as usize).min(count - 1);
            let last = (((from + length) / CELL) as usize).clamp(first, count - 1);
            (first..=last).map(move |cell| {
                let begin = if cell == first { from } else { cell as f64 * CELL };
                let end = from + length;
                let end = if cell == last { end } else { end.min((cell + 1) as f64 * CELL) };
                (cell, end - begin)
            })
        };
        for (row, height) in parts(area.y - self.origin.1, area.height, rows) {
            for (column, width) in parts(area.x - self.origin.0, area.width, self.columns) {
                self.merged[row * self.columns + column] += (width * height) as f32;
            }
        }
    }

    fn draw(&self, svg: &mut Svg, plan: &Plan, palette: &Palette, panel: Area) {
        self.draw_merged(svg, panel);
        // The many small ones first, for those with a border to be seen whole.
        let tensors = plan.instance().tensors();
        let mut pieces = vec![String::new(); COLOURS.len()];
        for (place, area) in self.shapes.iter().skip(TOLD) {
            area.piece(&mut pieces[palette.colour(&tensors[*place])]);
        }
        for (colour, pieces) in pieces.iter().enumerate() {
            svg.path(&format!("c{colour}"), pieces);
        }
        for (place, area) in self.shapes.iter().take(TOLD) {
            let tensor = &tensors[*place];
            let said = format!(
                "tensor {}: {} at {}, time {} to {}",
                tensor.id,
                Bytes(tensor.size),
                Bytes(plan.offsets()[*place]),
                tensor.lower,
                tensor.upper
            );
            // A border would hide what is thin.
            let border = if area.width.min(area.height) >= 3.0 { "c " } else { "" };
            let class = format!("{border}c{}", palette.colour(tensor));
            svg.rect(&class, *area, Some(&said));
        }
    }

    /// Runs of cells that are covered alike, as lines of one cell's height.
    fn draw_merged(&self, svg: &mut Svg, panel: Area) {
        use std::fmt::Write;
        let shade = |covered: f32| {
            let share = f64::from(covered) / (CELL * CELL);
            ((share * SHADES as f64).round() as usize).min(SHADES)
        };
        let mut runs = vec![String::new(); SHADES + 1];
        for (row, cells) in self.merged.chunks(self.columns).enumerate() {
            let y = Short(panel.y + (row as f64 + 0.5) * CELL);
            let mut begin = 0;
            while begin < cells.len() {
                let own = shade(cells[begin]);
                let alike = cells[begin..].iter().take_while(|&&cell| shade(cell) == own).count();
                let x = Short(panel.x + begin as f64 * CELL);
                let _ = write!(runs[own], "M{x} {y}h{}", Short(alike as f64 * CELL));
                begin += alike;
            }
        }
        for (shade, runs) in runs.iter().enumerate().skip(1) {
            svg.path(&format!("s s{shade}"), runs);
        }
    }
}

/// Which tensor has which colour.
struct Palette {
    colours: Colours,
    /// The largest size of each colour, ascending: each covers as much of the picture as the
    /// others, and there are fewer where one size covers more than that.
    most: Vec<u64>,
}

impl Palette {
    fn of(plan: &Plan, colours: Colours) -> Palette {
        let area = |tensor: &Tensor| tensor.size as f64 * (tensor.upper - tensor.lower) as f64;
        let tensors = plan.instance().tensors().iter();
        let mut sizes: Vec<(u64, f64)> =
            tensors.map(|tensor| (tensor.size, area(tensor))).collect();
        sizes.sort_by_key(|&(size, _)| size);
        let all: f64 = sizes.iter().map(|(_, area)| area).sum();
        let (mut most, mut covered) = (Vec::with_capacity(COLOURS.len()), 0.0);
        for (size, area) in &sizes {
            covered += area;
            while (most.len() + 1) as f64 * all <= covered * COLOURS.len() as f64
                && most.len() + 1 < COLOURS.len()
            {
                most.push(*size);
            }
        }
        most.extend(sizes.last().map(|&(size, _)| size));
        most.dedup();
        Palette { colours, most }
    }

    /// The colour of the sizes up to number `at` of the limits: few are far apart.
    fn of_limit(&self, at: usize) -> usize {
        at * (COLOURS.len() - 1) / (self.most.len() - 1).max(1)
    }

    fn colour(&self, tensor: &Tensor) -> usize {
        match self.colours {
            Colours::Size => self.of_limit(self.most.partition_point(|&most| most < tensor.size)),
            // Ids that follow each other, and those that differ by a power of two, look different.
            Colours::Id => {
                (tensor.id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % COLOURS.len()
            }
        }
    }

    fn key(&self, svg: &mut Svg, y: f64) {
        let swatch = |svg: &mut Svg, x: f64, class: &str| {
            svg.rect(class, Area { x, y: y - 10.0, width: 14.0, height: 12.0 }, None);
        };
        let mut x = svg::LEFT;
        if self.colours == Colours::Size {
            for (at, &most) in self.most.iter().enumerate() {
                swatch(svg, x, &format!("c{}", self.of_limit(at)));
                svg.text(x + 20.0, y, "", &format!("to {}", Bytes(most)));
                x += 112.0;
            }
        }
        swatch(svg, x, "k");
        svg.text(x + 20.0, y, "", "smaller than a pixel, merged");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifetime::picture::svg::tests::shapes_of;
    use crate::lifetime::{Instance, Options};
    use std::time::Duration;

    /// Tensors of all sizes at all times, as a greedy plan has them.
    fn random(count: u64, most: u64) -> Plan {
        let mut state = 88_172_645_463_325_252u64;
        let mut next = |end: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % end
        };
        let mut instance = Instance::new();
        for id in 0..count {
            let lower = next(2 * count);
            let (longest, largest) = (1 << next(10), (most >> next(12)).max(1));
            let (lived, size) = (1 + next(longest), 1 + next(largest));
            instance.add(Tensor::new(id, lower, lower + lived, size)).unwrap();
        }
        let options = Options { time_limit: Duration::ZERO, seed: 0 };
        crate::lifetime::plan(instance, &options, None).unwrap()
    }

    #[test]
    fn every_tensor_of_a_pixel_has_a_shape_and_the_areas_add_up() {
        for (count, most) in [(1, 1), (40, 1 << 30), (3000, 1 << 20), (30_000, 5000)] {
            let plan = random(count, most);
            let panel = Area::panel(100.0, ONE);
            let tensors = plan.instance().tensors();
            let to = tensors.iter().map(|tensor| tensor.upper).max().unwrap();
            let time = Scale::across(panel, 0, to);
            let bytes = Scale::upwards(panel, plan.arena_bytes());
            let placed = Placed::of(&plan, &time, &bytes);
            let of_one = panel.pixels() / (time.to as f64 * bytes.to as f64);
            let pixels = |tensor: &Tensor| {
                (tensor.upper - tensor.lower) as f64 * tensor.size as f64 * of_one
            };
            // What is at the limit may be on either side of it.
            let surely = tensors.iter().filter(|tensor| pixels(tensor) > 1.0 + 1e-6).count();
            let perhaps = tensors.iter().filter(|tensor| pixels(tensor) > 1.0 - 1e-6).count();
            assert!((surely..=perhaps).contains(&placed.shapes.len()), "{count}");
            for (place, area) in &placed.shapes {
                assert!((area.pixels() - pixels(&tensors[*place])).abs() < 1e-3);
                assert!(area.x >= panel.x - 1e-6 && area.y >= panel.y - 1e-6);
                assert!(area.x + area.width <= panel.x + panel.width + 1e-6);
                assert!(area.bottom() <= panel.bottom() + 1e-6);
            }
            let shapes: f64 = placed.shapes.iter().map(|(_, area)| area.pixels()).sum();
            let merged: f64 = placed.merged.iter().map(|&cell| f64::from(cell)).sum();
            let all: f64 = tensors.iter().map(pixels).sum();
            assert!((shapes + merged - all).abs() < all * 1e-3, "{shapes} {merged} {all}");
            // Nothing overlaps, so no cell is covered more than once.
            let full = (CELL * CELL) as f32 * 1.001;
            assert!(placed.merged.iter().all(|&cell| cell <= full), "{count}");
        }
    }

    #[test]
    fn a_picture_is_well_formed_and_bounded() {
        for (count, most) in [(0, 1), (1, 1), (50, 1 << 40), (20_000, 300), (60_000, 1 << 20)] {
            let one = random(count, most.max(2));
            for colours in [Colours::Size, Colours::Id] {
                for before in [None, Some(&one)] {
                    let picture = plan(&one, before, colours).unwrap();
                    let shapes = shapes_of(&picture);
                    let panels = 1 + usize::from(before.is_some());
                    assert!(picture.len() < panels << 20, "{count}: {} bytes", picture.len());
                    let named = |name: &str| shapes.iter().filter(|shape| **shape == name).count();
                    assert!(named("rect") <= panels * (TOLD + 1) + 10, "{count}");
                    assert!(named("title") <= named("rect") + 1);
                    let told = TOLD.min(one.offsets().len());
                    assert!(named("title") <= panels * told + 1, "{count}");
                }
            }
        }
    }

    #[test]
    fn twenty_thousand_of_a_pixel_each_fit_in_two_megabytes() {
        let (mut instance, mut offsets) = (Instance::new(), Vec::new());
        for id in 0..20_000 {
            let (lower, offset) = (id % 200 * 5, id / 200 * 4096);
            instance.add(Tensor::new(id, lower, lower + 5, 4096)).unwrap();
            offsets.push(offset);
        }
        let grid = Plan::new(instance, offsets).unwrap();
        let picture = plan(&grid, Some(&grid), Colours::Id).unwrap();
        assert!(picture.len() < 2 << 20, "{} bytes", picture.len());
        // A piece of a path is one tensor; the others have a text of their own.
        let paths = picture.split("<path class=\"c").skip(1);
        let pieces = paths.map(|path| path.split_once('>').unwrap().0.matches('z').count());
        assert_eq!(pieces.sum::<usize>(), 2 * (20_000 - TOLD));
        assert_eq!(picture.matches("<title>tensor").count(), 2 * TOLD);
    }

    #[test]
    fn only_plans_of_the_same_tensors_are_before_and_after() {
        let (one, other) = (random(10, 100), random(11, 100));
        let error = plan(&one, Some(&other), Colours::Size).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::InvalidArgument);
        let picture = plan(&one, Some(&one), Colours::Size).unwrap();
        assert!(picture.contains(">before: arena") && picture.contains(">after: arena"));
    }
}
