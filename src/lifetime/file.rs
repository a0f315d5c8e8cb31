//! Instances and plans as files: CSV, and a compact binary form with a checksum.
//!
//! The CSV has a header and one line per tensor. The columns `id,lower,upper,size` are needed,
//! `offset`, `alignment` and `alias` are known; a field of these three may be empty. In a plan
//! every offset is there; in an instance an offset is one that is fixed.
//!
//! The binary form is a plan. All numbers are LEB128, the last four bytes are the CRC-32 of
//! everything before them, least byte first:
//!
//! ```text
//! "forebay plan 1\n"  count  count times (id, lower, upper - lower, size, offset, flags, alias?)
//! ```
//!
//! `flags` are 128 for a fixed offset, 64 for an alias, which follows, and the binary
//! logarithm of the alignment.

use std::io::Write;
use std::path::Path;

use super::instance::{Instance, Tensor};
use super::plan::Plan;
use crate::error::{Error, Result, fail};

/// What a binary plan begins with.
const MAGIC: &[u8] = b"forebay plan 1\n";

const FIXED: u64 = 128;
const ALIAS: u64 = 64;

/// Columns by their names, in the order in which they are written.
const COLUMNS: [&str; 7] = ["id", "lower", "upper", "size", "offset", "alignment", "alias"];
const NEEDED: usize = 4;

/// One line: the columns that it has.
type Row = [Option<u64>; COLUMNS.len()];

/// Reads an instance from CSV. Offsets in it are fixed.
///
/// # Errors
/// `Io` when the file cannot be read, `MalformedTrace` with line and column when it does not
/// follow the format, `InvalidArgument` for a tensor that [`Instance::add`] refuses.
pub fn read_instance(path: impl AsRef<Path>) -> Result<Instance> {
    let path = path.as_ref();
    let text = read(path)?;
    let mut instance = Instance::new();
    for row in rows(&text, path)? {
        instance.add(tensor(&row, row[4]))?;
    }
    Ok(instance)
}

/// Reads a plan, CSV or binary, and checks it.
///
/// # Errors
/// As [`read_instance`], for which the binary form was changed or cut as well; and those of
/// [`Plan::new`].
pub fn read_plan(path: impl AsRef<Path>) -> Result<Plan> {
    let path = path.as_ref();
    let bytes = read(path)?;
    if bytes.starts_with(MAGIC) {
        return unpack(&bytes, path);
    }
    let (mut instance, mut offsets) = (Instance::new(), Vec::new());
    for (index, row) in rows(&bytes, path)?.iter().enumerate() {
        let Some(offset) = row[4] else {
            return Err(malformed(path, index + 2, "column offset is missing"));
        };
        instance.add(tensor(row, None))?;
        offsets.push(offset);
    }
    Plan::new(instance, offsets)
}

/// Writes `plan` as CSV, or in the binary form.
///
/// # Errors
/// `Io`.
pub fn write_plan(plan: &Plan, path: impl AsRef<Path>, binary: bool) -> Result<()> {
    let path = path.as_ref();
    let bytes = if binary { pack(plan) } else { csv(plan).into_bytes() };
    let written = std::fs::File::create(path).and_then(|mut file| file.write_all(&bytes));
    written.map_err(|error| fail!(Io, "plan `{}`: cannot write: {error}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path);
    bytes.map_err(|error| fail!(Io, "plan `{}`: cannot read: {error}", path.display()))
}

fn malformed(path: &Path, line: usize, what: &str) -> Error {
    fail!(MalformedTrace, "plan `{}`, line {line}: {what}", path.display())
}

fn tensor(row: &Row, offset: Option<u64>) -> Tensor {
    let needed = |column: usize| row[column].unwrap_or(0);
    Tensor {
        id: needed(0),
        lower: needed(1),
        upper: needed(2),
        size: needed(3),
        alignment: row[5].unwrap_or(1),
        offset,
        alias: row[6],
    }
}

/// The rows of a CSV file; row `i` stands in line `i + 2`.
fn rows(bytes: &[u8], path: &Path) -> Result<Vec<Row>> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(malformed(path, 1, "this is no text, and no plan that was saved as binary"));
    };
    let mut lines = text.lines();
    let header = lines.next().unwrap_or("");
    let mut columns = Vec::new();
    for name in header.split(',') {
        match COLUMNS.iter().position(|column| *column == name.trim()) {
            Some(column) if !columns.contains(&column) => columns.push(column),
            _ => {
                let what = format!("column `{name:.32}` twice, or not one of {COLUMNS:?}");
                return Err(malformed(path, 1, &what));
            }
        }
    }
    if let Some(missing) = (0..NEEDED).find(|column| !columns.contains(column)) {
        return Err(malformed(path, 1, &format!("column {} is missing", COLUMNS[missing])));
    }
    let mut rows = Vec::new();
    for (index, line) in lines.enumerate() {
        let (mut row, mut fields) = (Row::default(), line.split(','));
        for &column in &columns {
            let name = COLUMNS[column];
            let Some(field) = fields.next().map(str::trim) else {
                return Err(malformed(path, index + 2, &format!("column {name} is missing")));
            };
            if field.is_empty() && column >= NEEDED {
                continue;
            }
            let Ok(number) = field.parse() else {
                let what = format!("column {name}: `{field:.32}` is not a number below 2^64");
                return Err(malformed(path, index + 2, &what));
            };
            row[column] = Some(number);
        }
        if fields.next().is_some() {
            return Err(malformed(path, index + 2, "more columns than the header has"));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn csv(plan: &Plan) -> String {
    use std::fmt::Write;
    let tensors = plan.instance().tensors();
    let aligned = tensors.iter().any(|tensor| tensor.alignment != 1);
    let aliased = tensors.iter().any(|tensor| tensor.alias.is_some());
    let columns = 5 + if aliased { 2 } else { usize::from(aligned) };
    let mut text = COLUMNS[..columns].join(",");
    text.push('\n');
    for (tensor, offset) in tensors.iter().zip(plan.offsets()) {
        let Tensor { id, lower, upper, size, alignment, alias, .. } = tensor;
        // Writing to a string does not fail.
        let _ = write!(text, "{id},{lower},{upper},{size},{offset}");
        if columns > 5 {
            let _ = write!(text, ",{alignment}");
        }
        if columns > 6 {
            text.push(',');
            if let Some(alias) = alias {
                let _ = write!(text, "{alias}");
            }
        }
        text.push('\n');
    }
    text
}

fn pack(plan: &Plan) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let mut put = |mut number: u64| {
        while number >= 128 {
            bytes.push(number as u8 | 128);
            number >>= 7;
        }
        bytes.push(number as u8);
    };
    put(plan.offsets().len() as u64);
    for (tensor, &offset) in plan.instance().tensors().iter().zip(plan.offsets()) {
        let fixed = if tensor.offset.is_some() { FIXED } else { 0 };
        let alias = if tensor.alias.is_some() { ALIAS } else { 0 };
        let flags = fixed | alias | u64::from(tensor.alignment.trailing_zeros());
        let lived = tensor.upper - tensor.lower;
        for number in [tensor.id, tensor.lower, lived, tensor.size, offset, flags] {
            put(number);
        }
        tensor.alias.map(&mut put);
    }
    let checksum = checksum(&bytes);
    bytes.extend(checksum);
    bytes
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

fn unpack(bytes: &[u8], path: &Path) -> Result<Plan> {
    let broken = |what: &str| fail!(MalformedTrace, "plan `{}`: {what}", path.display());
    let Some((bytes, sum)) = bytes.split_last_chunk::<4>() else {
        return Err(broken("cut short"));
    };
    if *sum != checksum(bytes) {
        return Err(broken("its checksum does not match: it was cut or changed"));
    }
    let mut rest = &bytes[MAGIC.len()..];
    let mut next = || -> Result<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let Some((&byte, behind)) = rest.split_first() else {
                return Err(broken("it ends within a tensor"));
            };
            rest = behind;
            let part = u64::from(byte & 127);
            if part << shift >> shift != part {
                break;
            }
            number |= part << shift;
            if byte < 128 {
                return Ok(number);
            }
        }
        Err(broken("a number in it has more than 64 bits"))
    };
    let count = next()?;
    let (mut instance, mut offsets) = (Instance::new(), Vec::new());
    for _ in 0..count {
        let (id, lower, lived, size, offset) = (next()?, next()?, next()?, next()?, next()?);
        let flags = next()?;
        let alias = if flags & ALIAS != 0 { Some(next()?) } else { None };
        let (Some(upper), true) = (lower.checked_add(lived), flags < 256) else {
            return Err(broken("a tensor in it ends beyond 64 bits, or has unknown flags"));
        };
        instance.add(Tensor {
            id,
            lower,
            upper,
            size,
            alignment: 1 << (flags & 63),
            offset: (flags & FIXED != 0).then_some(offset),
            alias,
        })?;
        offsets.push(offset);
    }
    if !rest.is_empty() {
        return Err(broken("there is more behind the last tensor"));
    }
    Plan::new(instance, offsets)
}
