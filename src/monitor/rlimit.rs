//! The limits that this process was started with, from `/proc/self/limits` (getrlimit(2)).

use super::files::Files;

/// Limits of this process, in bytes; none where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of addresses that are mapped: `RLIMIT_AS`.
    pub addresses: Option<u64>,
    /// Of private memory that can be written to: `RLIMIT_DATA`.
    pub data: Option<u64>,
}

impl Limits {
    pub(super) fn read(files: &Files) -> Limits {
        files.text("/proc/self/limits").map_or(Limits::default(), |text| Limits::parse(&text))
    }

    fn parse(text: &str) -> Limits {
        let soft = |name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Limits { addresses: soft("Max address space "), data: soft("Max data size ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_the_one_that_holds() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max data size             5000                 unlimited            bytes     \n\
                    Max address space         unlimited            7000                 bytes     \n";
        assert_eq!(Limits::parse(text), Limits { addresses: None, data: Some(5000) });
        assert_eq!(Limits::parse("Max address space \nMax data size x\n"), Limits::default());
    }
}
