//! Time lost for want of memory (kernel documentation, psi.rst).

/// How long tasks waited for memory, as shares of the time in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Over the last ten seconds.
    pub avg10: f64,
    /// Over the last minute.
    pub avg60: f64,
    /// Over the last five minutes.
    pub avg300: f64,
    /// Microseconds since the machine, or the group, was there.
    pub total: u64,
}

/// What `memory.pressure` and `/proc/pressure/memory` say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Some task waited.
    pub some: Stall,
    /// All of them that had something to do waited.
    pub full: Stall,
}

impl Pressure {
    /// None where a line or a number is missing, or is no share.
    pub(super) fn parse(text: &str) -> Option<Pressure> {
        let stall = |name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            let word = |name| {
                line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
            };
            let share =
                |name| word(name)?.parse().ok().filter(|share: &f64| (0.0..=100.0).contains(share));
            let total = word("total")?.parse().ok()?;
            Some(Stall {
                avg10: share("avg10")?,
                avg60: share("avg60")?,
                avg300: share("avg300")?,
                total,
            })
        };
        Some(Pressure { some: stall("some")?, full: stall("full")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: &str = "some avg10=12.50 avg60=3.00 avg300=0.10 total=123456";
    const FULL: &str = "full avg10=6.00 avg60=1.00 avg300=0.00 total=999";

    #[test]
    fn both_lines() {
        let pressure = Pressure::parse(&format!("{SOME}\n{FULL}\n")).unwrap();
        let some = Stall { avg10: 12.5, avg60: 3.0, avg300: 0.1, total: 123_456 };
        let full = Stall { avg10: 6.0, avg60: 1.0, avg300: 0.0, total: 999 };
        assert_eq!(pressure, Pressure { some, full });
    }

    #[test]
    fn what_is_no_share_is_nothing() {
        assert_eq!(Pressure::parse(""), None);
        assert_eq!(Pressure::parse(SOME), None);
        for wrong in ["nan", "inf", "-1", "101", "", "x"] {
            let text = format!("{SOME}\n{}", FULL.replace("6.00", wrong));
            assert_eq!(Pressure::parse(&text), None, "{wrong}");
        }
        assert_eq!(Pressure::parse(&format!("{SOME}\n{}", FULL.replace("999", "-9"))), None);
    }
}
