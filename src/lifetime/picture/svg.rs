//! SVG as text: shapes, axes, units. One file that needs nothing else, light or dark as its reader
//! has it.

use std::fmt::{self, Display, Write};

/// The width of every picture, and what is left and right of its panels, in pixels.
pub(super) const WIDTH: f64 = 1200.0;
pub(super) const LEFT: f64 = 92.0;
pub(super) const RIGHT: f64 = 24.0;

/// From small to large, or one after the other; on a light ground and on a dark one. Neighbours
/// differ in lightness as well, for those who do not see all colours.
pub(crate) const COLOURS: [(&str, &str); 7] = [
    ("#8fb7e3", "#3f5f9c"),
    ("#3f73b8", "#6ea6e6"),
    ("#3fb39b", "#1f8a76"),
    ("#a6cf63", "#a9cf5e"),
    ("#f0c63c", "#e0b02c"),
    ("#e8833a", "#f09a55"),
    ("#b3322f", "#d9544d"),
];

/// How much of a cell is covered, in this many steps.
pub(super) const SHADES: usize = 4;

/// Class names are short: there are thousands of them.
const STYLE: &str = "\
text{font:12px system-ui,sans-serif;fill:#333}\
.t{font-size:16px;font-weight:600}.e{text-anchor:end}.m{text-anchor:middle}\
.g{fill:#fff}.p{fill:#f4f4f4}.x{stroke:#ccc;stroke-width:.5}\
.b{stroke:#c0392b;stroke-width:1.2;stroke-dasharray:6 4;fill:none}\
.a{stroke:#222;stroke-width:1.2;fill:none}\
.l{fill:#9db4cf;stroke:#5b7ea8;stroke-width:.7}.r{stroke:#c7731a;stroke-width:1.4;fill:none}\
rect.c{stroke:#fff;stroke-width:.4}.s{stroke:#666;stroke-width:2;fill:none}.k{fill:#666}";

const DARK: &str = "\
text{fill:#ddd}.g{fill:#16181b}.p{fill:#202327}.x{stroke:#444}\
.b{stroke:#ff7b6b}.a{stroke:#eee}.l{fill:#3a5273;stroke:#84a9d8}.r{stroke:#f2a65a}\
rect.c{stroke:#16181b}.s{stroke:#aaa}.k{fill:#aaa}";

/// A picture in the making.
pub(super) struct Svg(String);

// Writing to a string does not fail; what it says is dropped.
impl Svg {
    /// An empty picture of this height, which says `what` it is.
    pub(super) fn new(height: f64, what: &str) -> Svg {
        let mut text = String::new();
        let _ = write!(
            text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}",
            Escaped(what)
        );
        for (number, (light, _)) in COLOURS.iter().enumerate() {
            let _ = write!(text, ".c{number}{{fill:{light}}}");
        }
        for shade in 1..=SHADES {
            let _ = write!(text, ".s{shade}{{opacity:{}}}", Short(shade as f64 / SHADES as f64));
        }
        let _ = write!(text, "@media(prefers-color-scheme:dark){{{DARK}");
        for (number, (_, dark)) in COLOURS.iter().enumerate() {
            let _ = write!(text, ".c{number}{{fill:{dark}}}");
        }
        let _ = writeln!(text, "}}</style>\n<rect class=\"g\" width=\"100%\" height=\"100%\"/>");
        Svg(text)
    }

    pub(super) fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }

    pub(super) fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let (x, y, text) = (Short(x), Short(y), Escaped(text));
        let _ = writeln!(self.0, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>");
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = writeln!(
            self.0,
            "<path class=\"{class}\" d=\"M{} {}L{} {}\"/>",
            Short(from.0),
            Short(from.1),
            Short(to.0),
            Short(to.1)
        );
    }

    /// A rectangle, with what is said of it where the pointer rests.
    pub(super) fn rect(&mut self, class: &str, area: Area, said: Option<&str>) {
        let (x, y) = (Short(area.x), Short(area.y));
        let (width, height) = (Short(area.width), Short(area.height));
        let _ = write!(
            self.0,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\""
        );
        let _ = match said {
            Some(said) => writeln!(self.0, "><title>{}</title></rect>", Escaped(said)),
            None => writeln!(self.0, "/>"),
        };
    }

    /// Many pieces as one path.
    pub(super) fn path(&mut self, class: &str, pieces: &str) {
        if !pieces.is_empty() {
            let _ = writeln!(self.0, "<path class=\"{class}\" d=\"{pieces}\"/>");
        }
    }
}

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Area {
    /// Where a panel of this height is, from `top` on.
    pub(super) fn panel(top: f64, height: f64) -> Area {
        Area { x: LEFT, y: top, width: WIDTH - LEFT - RIGHT, height }
    }

    pub(super) fn bottom(&self) -> f64 {
        self.y + self.height
    }

    pub(super) fn pixels(&self) -> f64 {
        self.width * self.height
    }

    /// As a piece of a path.
    pub(super) fn piece(&self, to: &mut String) {
        let (width, back) = (Short(self.width), Short(-self.width));
        let height = Short(self.height);
        let _ = write!(to, "M{} {}h{width}v{height}h{back}z", Short(self.x), Short(self.y));
    }
}

/// Numbers along one side of a panel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) from: u64,
    pub(super) to: u64,
    /// Where `from` is, and how far from there `to` is: below zero for what grows upwards.
    pub(super) at: f64,
    pub(super) length: f64,
}

impl Scale {
    /// From left to right in `panel`.
    pub(super) fn across(panel: Area, from: u64, to: u64) -> Scale {
        Scale { from, to: to.max(from.saturating_add(1)), at: panel.x, length: panel.width }
    }

    /// Bytes upwards in `panel`, with a little room above `most`.
    pub(super) fn upwards(panel: Area, most: u64) -> Scale {
        let to = most.max(1).saturating_add(most / 32);
        Scale { from: 0, to, at: panel.bottom(), length: -panel.height }
    }

    pub(super) fn pixel(&self, value: u64) -> f64 {
        let span = (self.to - self.from) as f64;
        self.at + self.length * (value.saturating_sub(self.from)) as f64 / span
    }

    /// Multiples of `step` on it.
    fn ticks(&self, step: u64) -> impl Iterator<Item = u64> + use<> {
        let (first, to) = (self.from.div_ceil(step), self.to);
        (first..=to / step).map(move |number| number * step)
    }
}

/// The ground of a panel, its lines and its numbers.
pub(super) fn axes(svg: &mut Svg, panel: Area, time: &Scale, bytes: &Scale, unit: &str) {
    svg.rect("p", panel, None);
    let span = bytes.to - bytes.from;
    // At most one label in forty pixels.
    let most = ((panel.height / 40.0) as u64).max(1);
    let step = (span / most).max(1).checked_next_power_of_two().unwrap_or(1 << 63);
    for tick in bytes.ticks(step) {
        let y = bytes.pixel(tick);
        svg.line("x", (panel.x, y), (panel.x + panel.width, y));
        svg.text(panel.x - 8.0, y + 4.0, "e", &Bytes(tick).to_string());
    }
    for tick in time.ticks(round_step((time.to - time.from) / 8)) {
        let x = time.pixel(tick);
        svg.line("x", (x, panel.y), (x, panel.bottom()));
        // Not where the unit stands.
        if x < panel.x + panel.width - 60.0 {
            svg.text(x, panel.bottom() + 16.0, "m", &Grouped(tick).to_string());
        }
    }
    svg.text(panel.x + panel.width, panel.bottom() + 16.0, "e", unit);
}

/// One, two or five and zeros, `least` or more.
pub(crate) fn round_step(least: u64) -> u64 {
    let mut power = 1u64;
    loop {
        for factor in [1, 2, 5] {
            let step = power.saturating_mul(factor);
            if step >= least {
                return step.max(1);
            }
        }
        power = power.saturating_mul(10);
    }
}

/// For text in XML: what has a meaning there, and what may not be in it at all.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => to.write_str("&amp;")?,
                '<' => to.write_str("&lt;")?,
                '>' => to.write_str("&gt;")?,
                '"' => to.write_str("&quot;")?,
                '\u{fffe}' | '\u{ffff}' => to.write_char('\u{fffd}')?,
                letter if letter.is_control() => to.write_char('\u{fffd}')?,
                letter => to.write_char(letter)?,
            }
        }
        Ok(())
    }
}

/// A number of pixels, to a hundredth.
pub(crate) struct Short(pub(crate) f64);

impl Display for Short {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = (self.0 * 100.0).round() as i64;
        if hundredths < 0 {
            to.write_char('-')?;
        }
        let (whole, rest) = (hundredths.abs() / 100, hundredths.abs() % 100);
        write!(to, "{whole}")?;
        match rest {
            0 => Ok(()),
            rest if rest % 10 == 0 => write!(to, ".{}", rest / 10),
            rest => write!(to, ".{rest:02}"),
        }
    }
}

/// Bytes to three digits, in the largest unit of which there is one.
pub(crate) struct Bytes(pub(crate) u64);

impl Display for Bytes {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let unit = self.0.checked_ilog2().map_or(0, |log| log as usize / 10);
        let value = self.0 as f64 / (1u64 << (10 * unit)) as f64;
        let digits = match value {
            _ if unit == 0 => 0,
            value if value >= 99.95 => 0,
            value if value >= 9.995 => 1,
            _ => 2,
        };
        let text = format!("{value:.digits$}");
        let text = match digits {
            0 => text.as_str(),
            _ => text.trim_end_matches('0').trim_end_matches('.'),
        };
        write!(to, "{text} {}", UNITS[unit])
    }
}

/// A number with its thousands apart.
pub(crate) struct Grouped(pub(crate) u64);

impl Display for Grouped {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                to.write_char(',')?;
            }
            to.write_char(digit)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The names of all elements of `text`; a panic where that is no XML.
    pub fn shapes_of(text: &str) -> Vec<&str> {
        let (mut open, mut found, mut rest) = (Vec::new(), Vec::new(), text);
        while let Some((before, tag)) = rest.split_once('<') {
            // Text: what stands for letters is all that begins like that.
            for (at, _) in before.match_indices('&') {
                let known = ["&amp;", "&lt;", "&gt;", "&quot;"];
                assert!(known.iter().any(|known| before[at..].starts_with(known)), "{before}");
            }
            assert!(!before.contains('>') && (!open.is_empty() || before.trim().is_empty()));
            let (tag, behind) = tag.split_once('>').unwrap();
            rest = behind;
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
                continue;
            }
            let body = tag.strip_suffix('/').unwrap_or(tag);
            let name = body.split(' ').next().unwrap();
            let quotes: Vec<&str> = body[name.len()..].split('"').collect();
            assert!(quotes.len() % 2 == 1 && !body.contains('&'), "{tag}");
            for (number, part) in quotes.iter().enumerate().take(quotes.len() - 1) {
                assert!(number % 2 == 1 || part.starts_with(' ') && part.ends_with('='), "{tag}");
                assert!(!part.contains("NaN") && !part.contains("inf"), "{tag}");
            }
            found.push(name);
            if body.len() == tag.len() {
                open.push(name);
            }
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?}");
        found
    }

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (100 << 10, "100 KiB"),
            (1_000_000, "977 KiB"),
            ((1 << 20) - 1, "1024 KiB"),
            (1_515_472_556, "1.41 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(Grouped(1_234_567).to_string(), "1,234,567");
        assert_eq!(Grouped(999).to_string(), "999");
    }

    #[test]
    fn pixels_have_hundredths() {
        for (pixels, text) in
            [(0.0, "0"), (1.0, "1"), (-2.5, "-2.5"), (0.125, "0.13"), (-0.004, "0"), (9.09, "9.09")]
        {
            assert_eq!(Short(pixels).to_string(), text);
        }
    }

    #[test]
    fn text_is_escaped() {
        let text = Escaped("a<b>&\"c\"\u{1}\n\u{ffff}é").to_string();
        assert_eq!(text, "a&lt;b&gt;&amp;&quot;c&quot;\u{fffd}\u{fffd}\u{fffd}é");
    }

    #[test]
    fn steps_are_round_and_scales_meet_their_ends() {
        let steps = [0, 1, 3, 7, 11, 1_000_001].map(round_step);
        assert_eq!(steps, [1, 1, 5, 10, 20, 2_000_000]);
        let panel = Area::panel(10.0, 100.0);
        let time = Scale::across(panel, 5, u64::MAX);
        assert_eq!(time.pixel(5), LEFT);
        assert_eq!(time.pixel(u64::MAX), WIDTH - RIGHT);
        assert_eq!(time.ticks(1 << 62).count(), 3);
        let bytes = Scale::upwards(panel, 0);
        assert_eq!((bytes.pixel(0), bytes.pixel(1)), (110.0, 10.0));
    }
}
