//! How the pools are to be made: from what was asked for, or from the environment.

use crate::error::{Result, fail};
use crate::pool::{Config, Policy};

/// Most bytes of a pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// As many as the device has.
    Device,
    /// This many.
    Bytes(u64),
    /// This part of what the device has.
    Fraction(f64),
}

impl Limit {
    /// In bytes, on a device of `total`; 0 for all of it.
    pub fn bytes(self, total: u64) -> u64 {
        match self {
            Limit::Device => 0,
            Limit::Bytes(bytes) => bytes,
            Limit::Fraction(fraction) => (total as f64 * fraction) as u64,
        }
    }

    /// A limit as it is written: bytes ("17179869184"), with a unit ("16GiB" of 1024, "16 GB" or "16G"
    /// of 1000, as `forebay.sizes` has them), or a part of the device between 0 and 1 ("0.9",
    /// "90%"). `name` is for the error.
    pub fn parse(text: &str, name: &str) -> Result<Limit> {
        let wrong = || {
            fail!(
                InvalidArgument,
                "{name} is \"{text}\"; it must be bytes (\"17179869184\", \"16GiB\") or a part of \
                 the device (\"0.9\", \"90%\")"
            )
        };
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..digits], text[digits..].trim().to_ascii_lowercase());
        let value: f64 = number.parse().map_err(|_| wrong())?;
        let unit = unit.strip_suffix('b').unwrap_or(&unit);
        let (unit, step) = unit.strip_suffix('i').map_or((unit, 1000u64), |unit| (unit, 1024));
        let unit = match unit {
            "%" => return Limit::fraction(value / 100.0).ok_or_else(wrong),
            "" if step == 1024 => return Err(wrong()),
            "" if number.contains('.') || value <= 1.0 => {
                return Limit::fraction(value).ok_or_else(wrong);
            }
            "" => 1,
            "k" => step,
            "m" => step.pow(2),
            "g" => step.pow(3),
            "t" => step.pow(4),
            _ => return Err(wrong()),
        };
        let bytes = value * unit as f64;
        if bytes < 1.0 || bytes > crate::pool::SIZE_MAX as f64 {
            return Err(wrong());
        }
        Ok(Limit::Bytes(bytes as u64))
    }

    fn fraction(value: f64) -> Option<Limit> {
        (value > 0.0 && value <= 1.0).then_some(Limit::Fraction(value))
    }
}

/// What pools are made from.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most bytes.
    pub limit: Limit,
    /// The preset.
    pub policy: Policy,
}

impl Options {
    /// From `limit` and `policy` as they are written; where one is none, from
    /// `FOREBAY_TORCH_LIMIT` and `FOREBAY_TORCH_POLICY`, and where these are not set either, all
    /// of the device and the balanced policy.
    pub fn of(limit: Option<&str>, policy: Option<&str>) -> Result<Options> {
        let set = |name: &'static str, given: Option<&str>, named: &'static str| match given {
            Some(text) => Some((text.to_owned(), named)),
            None => match std::env::var(name) {
                Ok(text) if !text.is_empty() => Some((text, name)),
                _ => None,
            },
        };
        let limit = match set("FOREBAY_TORCH_LIMIT", limit, "limit") {
            Some((text, name)) => Limit::parse(&text, name)?,
            None => Limit::Device,
        };
        let policy = match set("FOREBAY_TORCH_POLICY", policy, "policy") {
            Some((text, name)) => policy_named(&text, name)?,
            None => Policy::Balanced,
        };
        Ok(Options { limit, policy })
    }

    /// The pool on a device of `total` bytes.
    pub fn config(&self, total: u64) -> Config {
        let max_bytes = self.limit.bytes(total);
        Config { max_bytes, policy: self.policy, ..Config::default() }
    }
}

fn policy_named(text: &str, name: &str) -> Result<Policy> {
    let found = Policy::ALL.into_iter().find(|policy| policy.name() == text.trim());
    found.ok_or_else(|| {
        let names: Vec<&str> = Policy::ALL.iter().map(|policy| policy.name()).collect();
        fail!(InvalidArgument, "{name} is \"{text}\"; it must be one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_bytes_or_parts() {
        let parse = |text| Limit::parse(text, "limit").unwrap();
        assert_eq!(parse("17179869184"), Limit::Bytes(16 << 30));
        assert_eq!(parse("16GiB"), Limit::Bytes(16 << 30));
        assert_eq!(parse(" 1.5 gi "), Limit::Bytes(3 << 29));
        assert_eq!(parse("1.5g"), Limit::Bytes(1_500_000_000));
        assert_eq!(parse("512MB"), Limit::Bytes(512_000_000));
        assert_eq!(parse("0.9"), Limit::Fraction(0.9));
        assert_eq!(parse("1"), Limit::Fraction(1.0));
        assert_eq!(parse("50%"), Limit::Fraction(0.5));
        for wrong in ["", "0", "1.1", "-3", "3 apples", "120%", "1e400g", "99999999T", ".", "5i"] {
            let error = Limit::parse(wrong, "limit").unwrap_err();
            let said = error.message();
            assert!(said.starts_with("limit is ") && said.contains(wrong), "{said}");
        }
    }

    #[test]
    fn policies_go_by_their_names() {
        assert_eq!(policy_named("latency_first", "policy").unwrap(), Policy::LatencyFirst);
        let said = policy_named("fast", "policy").unwrap_err().message();
        assert!(said.contains("\"fast\"") && said.contains("aggressive_reuse"), "{said}");
    }
}
