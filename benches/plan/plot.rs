//! Time against size, both by powers of ten, as an SVG.

use std::fmt::Write;

/// How long it took until a plan was near the bound, or until the end where it never was.
pub struct Point {
    pub family: &'static str,
    pub tensors: f64,
    pub seconds: f64,
    pub near: bool,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 84.0;
const TOP: f64 = 64.0;
const RIGHT: f64 = 110.0;
const BOTTOM: f64 = 52.0;

/// Powers of ten at the ends of both axes.
const TENSORS: (f64, f64) = (3.0, 5.0);
const SECONDS: (f64, f64) = (-3.0, 2.0);

const COLOURS: [(&str, &str); 3] =
    [("#3f73b8", "#6ea6e6"), ("#c7731a", "#f2a65a"), ("#2d8a6e", "#5cc7a4")];

/// The share of `value` between two powers of ten.
fn share((from, to): (f64, f64), value: f64) -> f64 {
    (value.log10() - from) / (to - from)
}

fn x(tensors: f64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * share(TENSORS, tensors)
}

fn y(seconds: f64) -> f64 {
    HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share(SECONDS, seconds.max(1e-3))
}

/// The picture; `what` is said above it.
pub fn draw(points: &[Point], what: &str) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <title>{what}</title>\n<style>text{{font:13px system-ui,sans-serif;fill:#333}}\
         .t{{font-weight:600}}.e{{text-anchor:end}}.m{{text-anchor:middle}}.g{{fill:#fff}}\
         .x{{stroke:#ddd;fill:none}}.h{{fill:#fff;stroke-width:2}}.l{{stroke-width:2;fill:none}}"
    );
    let mut dark =
        String::from("text{fill:#ddd}.g{fill:#16181b}.x{stroke:#3a3e44}.h{fill:#16181b}");
    for (number, (on_light, on_dark)) in COLOURS.iter().enumerate() {
        write!(svg, ".l{number}{{stroke:{on_light}}}.c{number}{{fill:{on_light}}}").unwrap();
        write!(dark, ".l{number}{{stroke:{on_dark}}}.c{number}{{fill:{on_dark}}}").unwrap();
    }
    writeln!(svg, "@media(prefers-color-scheme:dark){{{dark}}}</style>").unwrap();
    writeln!(svg, "<rect class=\"g\" width=\"100%\" height=\"100%\"/>").unwrap();
    writeln!(svg, "<text class=\"t\" x=\"{LEFT}\" y=\"30\">{what}</text>").unwrap();
    let hollow = "hollow: not reached, stopped there";
    writeln!(svg, "<text x=\"{LEFT}\" y=\"50\">{hollow}</text>").unwrap();
    grid(&mut svg);
    let mut families: Vec<&str> = points.iter().map(|point| point.family).collect();
    families.dedup();
    let mut names = Vec::new();
    for (number, family) in families.iter().enumerate() {
        let own = points.iter().filter(|point| point.family == *family);
        let line: Vec<(f64, f64, bool)> =
            own.map(|point| (x(point.tensors), y(point.seconds), point.near)).collect();
        let near = line.iter().filter(|(.., near)| *near);
        let path: Vec<String> = near.map(|(x, y, _)| format!("{x:.1} {y:.1}")).collect();
        if !path.is_empty() {
            writeln!(svg, "<path class=\"l l{number}\" d=\"M{}\"/>", path.join("L")).unwrap();
        }
        for (x, y, near) in &line {
            let class = if *near { format!("c{number}") } else { format!("l{number} h") };
            writeln!(svg, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>")
                .unwrap();
        }
        if let Some((x, y, _)) = line.last() {
            names.push((x + 10.0, y + 4.0, *family));
        }
    }
    // Names stand behind their lines, and not on each other.
    names.sort_by(|(_, one, _), (_, two, _)| one.total_cmp(two));
    let mut last = 0.0f64;
    for (x, y, family) in names {
        last = y.max(last + 16.0);
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{last:.1}\">{family}</text>").unwrap();
    }
    svg + "</svg>\n"
}

fn grid(svg: &mut String) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for power in TENSORS.0 as i32..=TENSORS.1 as i32 {
        for factor in [1.0, 2.0, 5.0] {
            let tensors = factor * 10f64.powi(power);
            let at = x(tensors);
            if at > right + 0.5 {
                continue;
            }
            writeln!(svg, "<path class=\"x\" d=\"M{at:.1} {TOP}V{bottom}\"/>").unwrap();
            let label = format!("{},000", tensors as u64 / 1000);
            writeln!(
                svg,
                "<text class=\"m\" x=\"{at:.1}\" y=\"{:.1}\">{label}</text>",
                bottom + 20.0
            )
            .unwrap();
        }
    }
    for power in SECONDS.0 as i32..=SECONDS.1 as i32 {
        let at = y(10f64.powi(power));
        writeln!(svg, "<path class=\"x\" d=\"M{LEFT} {at:.1}H{right}\"/>").unwrap();
        let label = match power {
            -3 => "1 ms",
            -2 => "10 ms",
            -1 => "100 ms",
            0 => "1 s",
            1 => "10 s",
            _ => "100 s",
        };
        writeln!(
            svg,
            "<text class=\"e\" x=\"{}\" y=\"{:.1}\">{label}</text>",
            LEFT - 8.0,
            at + 4.0
        )
        .unwrap();
    }
    let middle = LEFT + (right - LEFT) / 2.0;
    writeln!(svg, "<text class=\"m\" x=\"{middle}\" y=\"{}\">tensors</text>", HEIGHT - 10.0)
        .unwrap();
}
