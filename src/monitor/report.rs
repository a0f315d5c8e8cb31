//! A reading as JSON.

use std::fmt::{self, Display, Write};

use super::group::{Events, Group, Usage, Version};
use super::info::Info;
use super::nvml::{Gpu, Gpus};
use super::pressure::{Pressure, Stall};

/// Version of the JSON's schema. It grows when a key changes its meaning or goes away; new keys do
/// not change it.
const SCHEMA: u32 = 1;

impl Info {
    /// Everything as JSON, GPUs included.
    pub fn json(&self, gpus: &Gpus) -> String {
        let mut text = String::with_capacity(4096);
        // Writing to a String cannot fail.
        let _ = self.write(&mut text, gpus);
        text
    }

    fn write(&self, to: &mut String, gpus: &Gpus) -> fmt::Result {
        let (machine, process, bound) = (&self.machine, &self.process, &self.headroom.bound);
        write!(
            to,
            "{{\"schema\":{SCHEMA},\"available_bytes\":{},\"left_bytes\":{},\"reserve_bytes\":{},\
             \"limit_bytes\":{},\"limit_source\":{},\"total_bytes\":{},\"swap_available_bytes\":{},\
             \"level\":\"{}\",\"pinned_bytes\":{},\"oom_kills\":{},",
            self.headroom.available(),
            bound.left,
            self.headroom.reserve,
            bound.limit,
            Text(&bound.source),
            self.total,
            self.swap_available,
            self.level.name(),
            self.pinned,
            self.oom_kills,
        )?;
        write!(
            to,
            "\"machine\":{{\"total_bytes\":{},\"available_bytes\":{},\"free_bytes\":{},\
             \"buffers_bytes\":{},\"cached_bytes\":{},\"shared_bytes\":{},\"swap_total_bytes\":{},\
             \"swap_free_bytes\":{},\"huge_page_bytes\":{},\"huge_pages\":{},\
             \"huge_pages_free\":{}}},",
            machine.total,
            machine.available,
            machine.free,
            machine.buffers,
            machine.cached,
            machine.shared,
            machine.swap_total,
            machine.swap_free,
            machine.huge_page,
            machine.huge_pages,
            machine.huge_pages_free,
        )?;
        write!(
            to,
            "\"process\":{{\"resident_bytes\":{},\"resident_peak\":{},\"anonymous_bytes\":{},\
             \"shared_bytes\":{},\"mapped_bytes\":{},\"data_bytes\":{},\"locked_bytes\":{},\
             \"pinned_bytes\":{},\"swapped_bytes\":{},\"huge_bytes\":{}}},",
            process.resident,
            process.resident_peak,
            process.anonymous,
            process.shared,
            process.mapped,
            process.data,
            process.locked,
            process.pinned,
            process.swapped,
            process.huge,
        )?;
        to.push_str("\"limits\":");
        list(to, &self.bounds, |to, bound| {
            let (source, limit, left) = (Text(&bound.source), bound.limit, bound.left);
            write!(to, "{{\"source\":{source},\"limit_bytes\":{limit},\"left_bytes\":{left}}}")
        })?;
        to.push_str(",\"groups\":");
        list(to, &self.groups, group)?;
        to.push_str(",\"pressure\":{\"machine\":");
        or_null(to, self.machine_pressure.as_ref(), pressure)?;
        to.push_str(",\"group\":");
        or_null(to, self.group_pressure.as_ref(), pressure)?;
        to.push_str("},\"events\":");
        or_null(to, self.events.as_ref(), |to, events| {
            let Events { high, max, oom, oom_kill } = events;
            write!(to, "{{\"high\":{high},\"max\":{max},\"oom\":{oom},\"oom_kill\":{oom_kill}}}")
        })?;
        write!(to, ",\"nvml\":{},\"driver_version\":", Text(&gpus.state))?;
        or_null(to, gpus.driver.as_ref(), |to, version| write!(to, "{}", Text(version)))?;
        to.push_str(",\"gpus\":");
        list(to, &gpus.devices, gpu)?;
        to.push('}');
        Ok(())
    }
}

fn group(to: &mut String, (group, usage): &(Group, Option<Usage>)) -> fmt::Result {
    let (version, path) = (group.version.number(), Text(&group.path));
    write!(to, "{{\"version\":{version},\"path\":{path},\"max_bytes\":{}", Known(group.max))?;
    let (name, second) = match group.version {
        Version::One => ("with_swap_max_bytes", group.with_swap),
        Version::Two => ("high_bytes", group.high),
    };
    let used = Known(usage.map(|usage| usage.used));
    let reclaimable = Known(usage.map(|usage| usage.reclaimable));
    write!(to, ",\"{name}\":{},\"used_bytes\":{used}", Known(second))?;
    write!(to, ",\"reclaimable_bytes\":{reclaimable}}}")
}

fn pressure(to: &mut String, pressure: &Pressure) -> fmt::Result {
    let stall = |to: &mut String, name, stall: &Stall| {
        let Stall { avg10, avg60, avg300, total } = stall;
        write!(to, "\"{name}\":{{\"avg10\":{avg10:.2},\"avg60\":{avg60:.2},")?;
        write!(to, "\"avg300\":{avg300:.2},\"total_us\":{total}}}")
    };
    to.push('{');
    stall(to, "some", &pressure.some)?;
    to.push(',');
    stall(to, "full", &pressure.full)?;
    to.push('}');
    Ok(())
}

fn gpu(to: &mut String, gpu: &Gpu) -> fmt::Result {
    write!(to, "{{\"index\":{},\"name\":", gpu.index)?;
    or_null(to, gpu.name.as_ref(), |to, name| write!(to, "{}", Text(name)))?;
    to.push_str(",\"uuid\":");
    or_null(to, gpu.uuid.as_ref(), |to, uuid| write!(to, "{}", Text(uuid)))?;
    let (total, free, used) = (Known(gpu.total), Known(gpu.free), Known(gpu.used));
    write!(to, ",\"total_bytes\":{total},\"free_bytes\":{free},\"used_bytes\":{used}")?;
    let (reserved, own) = (Known(gpu.reserved), Known(gpu.own));
    write!(to, ",\"reserved_bytes\":{reserved},\"process_bytes\":{own}}}")
}

fn list<T>(
    to: &mut String,
    items: &[T],
    write: impl Fn(&mut String, &T) -> fmt::Result,
) -> fmt::Result {
    to.push('[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            to.push(',');
        }
        write(to, item)?;
    }
    to.push(']');
    Ok(())
}

fn or_null<T>(
    to: &mut String,
    value: Option<&T>,
    write: impl Fn(&mut String, &T) -> fmt::Result,
) -> fmt::Result {
    match value {
        Some(value) => write(to, value),
        None => to.write_str("null"),
    }
}

/// A number, or `null` where it is not known.
struct Known(Option<u64>);

impl Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("null"),
        }
    }
}

/// A string of JSON, with quotes; names of groups may hold anything.
struct Text<'a, T: ?Sized>(&'a T);

impl<T: Display + ?Sized> Display for Text<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escaped<'a, 'b>(&'a mut fmt::Formatter<'b>);

        impl Write for Escaped<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|character| match character {
                    '"' | '\\' => write!(self.0, "\\{character}"),
                    ..' ' | '\u{7f}' => write!(self.0, "\\u{:04x}", character as u32),
                    _ => self.0.write_char(character),
                })
            }
        }

        f.write_char('"')?;
        write!(Escaped(f), "{}", self.0)?;
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(Text("a\"b\\c\nd\u{7f}\u{e9}").to_string(), r#""a\"b\\c\u000ad\u007fé""#);
        assert_eq!(Text("").to_string(), "\"\"");
        assert_eq!(Known(None).to_string(), "null");
    }
}
