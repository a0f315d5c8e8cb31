//! The variable `FOREBAY_PRELOAD`: `host,cuda;threshold=64K;policy=balanced;stats=exit;trace=FILE`.

use core::fmt;

/// What it is called.
pub const NAME: &str = "FOREBAY_PRELOAD";

/// Least threshold: blocks of more than 32 KiB are runs of their own in a pool, which have no
/// rounding but to [`crate::pool::GRANULE`].
const THRESHOLD_LEAST: usize = 33 << 10;
/// Greatest threshold.
const THRESHOLD_MOST: usize = 1 << 30;
/// Most bytes in the name of a trace.
pub const PATH_MOST: usize = 500;

/// What the variable says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether malloc and its like are served.
    pub host: bool,
    /// Whether CUDA's allocation calls are served.
    pub cuda: bool,
    /// The least request that comes from the pool.
    pub threshold: usize,
    /// A `forebay_policy`.
    pub policy: i32,
    /// Whether a table is printed at the end.
    pub stats: bool,
    /// The file that a trace goes to.
    pub trace: Option<&'static [u8]>,
}

impl Options {
    /// What holds where the variable says nothing.
    pub const DEFAULT: Options = Options {
        host: true,
        cuda: false,
        threshold: 64 << 10,
        policy: 0,
        stats: false,
        trace: None,
    };
}

/// What is wrong with the variable: a part of it, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Neither a half nor a known name before `=`.
    Unknown(&'static [u8]),
    /// Not a size, or outside the limits.
    Threshold(&'static [u8]),
    /// No policy.
    Policy(&'static [u8]),
    /// Not `exit`.
    Stats(&'static [u8]),
    /// Empty, or too long.
    Trace(&'static [u8]),
    /// Said twice.
    Twice(&'static [u8]),
}

impl fmt::Display for Problem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (part, must) = match *self {
            Problem::Unknown(part) => (
                part,
                "is not known; there are host, cuda, threshold=, policy=, stats= and trace=, with \
                 semicolons between them",
            ),
            Problem::Threshold(part) => (
                part,
                "is no threshold; it must be a number of bytes, or one with K, M or G, from 33K \
                 to 1G",
            ),
            Problem::Policy(part) => (
                part,
                "is no policy; it must be balanced, conservative, aggressive_reuse, \
                 quality_first or latency_first",
            ),
            Problem::Stats(part) => (part, "is no time for statistics; it must be exit"),
            Problem::Trace(part) => (part, "is no file; it must have 1 to 500 bytes"),
            Problem::Twice(part) => (part, "is said twice"),
        };
        to.write_str("'")?;
        for chunk in part.utf8_chunks() {
            to.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                to.write_str("?")?;
            }
        }
        write!(to, "' {must}")
    }
}

fn threshold_of(text: &'static [u8]) -> Option<usize> {
    let (digits, shift) = match text.split_last()? {
        (b'K' | b'k', digits) => (digits, 10),
        (b'M' | b'm', digits) => (digits, 20),
        (b'G' | b'g', digits) => (digits, 30),
        _ => (text, 0),
    };
    if digits.is_empty() {
        return None;
    }
    let mut number = 0usize;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(usize::from(digit - b'0'))?;
    }
    let bytes = number.checked_mul(1 << shift)?;
    (THRESHOLD_LEAST..=THRESHOLD_MOST).contains(&bytes).then_some(bytes)
}

/// What `text` says. Empty is as if it were not there.
pub fn parse(text: &'static [u8]) -> Result<Options, Problem> {
    let mut options = Options::DEFAULT;
    // A bit for each part that has been there.
    let mut seen = 0u32;
    for part in text.split(|&byte| byte == b';').map(<[u8]>::trim_ascii) {
        if part.is_empty() {
            continue;
        }
        let mut pair = part.splitn(2, |&byte| byte == b'=').map(<[u8]>::trim_ascii);
        let (name, value) = (pair.next().unwrap_or(part), pair.next());
        let bit = match (name, value) {
            (b"threshold", Some(value)) => {
                options.threshold = threshold_of(value).ok_or(Problem::Threshold(value))?;
                1
            }
            (b"policy", Some(value)) => {
                options.policy = match value {
                    b"balanced" => 0,
                    b"conservative" => 1,
                    b"aggressive_reuse" => 2,
                    b"quality_first" => 3,
                    b"latency_first" => 4,
                    _ => return Err(Problem::Policy(value)),
                };
                2
            }
            (b"stats", Some(value)) => {
                options.stats = value == b"exit";
                if !options.stats {
                    return Err(Problem::Stats(value));
                }
                4
            }
            (b"trace", Some(value)) => {
                if value.is_empty() || value.len() > PATH_MOST {
                    return Err(Problem::Trace(value));
                }
                options.trace = Some(value);
                8
            }
            (halves, None) => {
                (options.host, options.cuda) = (false, false);
                for half in halves.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    match half {
                        b"host" => options.host = true,
                        b"cuda" => options.cuda = true,
                        _ => return Err(Problem::Unknown(half)),
                    }
                }
                16
            }
            _ => return Err(Problem::Unknown(part)),
        };
        if seen & bit != 0 {
            return Err(Problem::Twice(name));
        }
        seen |= bit;
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::{Options, Problem, parse};

    #[test]
    fn what_it_says_is_what_holds() {
        assert_eq!(parse(b""), Ok(Options::DEFAULT));
        assert_eq!(parse(b" ; ;"), Ok(Options::DEFAULT));
        let cuda = Options { host: false, cuda: true, ..Options::DEFAULT };
        assert_eq!(parse(b"cuda"), Ok(cuda));
        assert_eq!(parse(b"cuda , host"), Ok(Options { cuda: true, ..Options::DEFAULT }));
        let all = b"host,cuda;threshold=256k; policy=latency_first;stats=exit;trace=a=b.csv.gz";
        let told = Options {
            host: true,
            cuda: true,
            threshold: 256 << 10,
            policy: 4,
            stats: true,
            trace: Some(b"a=b.csv.gz"),
        };
        assert_eq!(parse(all), Ok(told));
        for (text, bytes) in [
            (&b"threshold=65536"[..], 65536),
            (b"threshold=33K", 33 << 10),
            (b"threshold=4M", 4 << 20),
            (b"threshold=1G", 1 << 30),
        ] {
            assert_eq!(parse(text), Ok(Options { threshold: bytes, ..Options::DEFAULT }));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for value in
            [&b""[..], b"K", b"64KB", b"-1", b"32K", b"2G", b"0x10000", b"99999999999999999999G"]
        {
            let text = Box::leak([b"threshold=", value].concat().into_boxed_slice());
            assert_eq!(parse(text), Err(Problem::Threshold(value)), "{value:?}");
        }
        assert_eq!(parse(b"hots"), Err(Problem::Unknown(b"hots")));
        assert_eq!(parse(b"host,gpu"), Err(Problem::Unknown(b"gpu")));
        assert_eq!(parse(b"speed=9"), Err(Problem::Unknown(b"speed=9")));
        assert_eq!(parse(b"policy=fast"), Err(Problem::Policy(b"fast")));
        assert_eq!(parse(b"stats=now"), Err(Problem::Stats(b"now")));
        assert_eq!(parse(b"trace="), Err(Problem::Trace(b"")));
        assert_eq!(parse(b"stats=exit;stats=exit"), Err(Problem::Twice(b"stats")));
        let long = Box::leak([&b"trace="[..], &[b'x'; 501]].concat().into_boxed_slice());
        assert!(matches!(parse(long), Err(Problem::Trace(_))));
        let said = parse(b"threshold=\xff12Q").unwrap_err().to_string();
        assert_eq!(
            said,
            "'?12Q' is no threshold; it must be a number of bytes, or one with K, M or G, from \
             33K to 1G"
        );
    }
}
