//! Key traces: what was asked for, in order, for a look at how policies would do.
//!
//! What a file is shows its content. Gzip is unpacked; for other packers give the unpacked
//! bytes, `xz -dc trace.xz | simulate /dev/stdin`.
//!
//! | it begins with | what it is |
//! | --- | --- |
//! | `{` | JSON lines; every number in the array `hash_ids` is a key, in order (the traces of Mooncake, FAST'25) |
//! | a byte that no text has | keys of four bytes, the highest first |
//! | one column | a key a line; a line that is `*` is passed over |
//! | two columns | key and bytes |
//! | three columns | time, key and bytes |
//!
//! Columns are parted by blanks, tabs or commas. A key is any text; the same key with other
//! bytes is another object. Empty lines and those that begin with `#` are passed over.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, Result, fail};

/// The longest line read, in bytes: a file that is no trace is not taken into memory whole.
const LONGEST_LINE: u64 = 1 << 20;
/// Bytes read or unpacked at a time.
const BUFFER: usize = 64 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A key trace in memory.
#[derive(Clone, Debug, Default)]
pub struct KeyTrace {
    /// Where it came from; used in messages.
    pub path: PathBuf,
    /// What was asked for, in order, as indices into `bytes`.
    pub accesses: Vec<u32>,
    /// The bytes of each object; 1 where the trace has none.
    pub bytes: Vec<u64>,
    /// Whether the trace has bytes.
    pub is_sized: bool,
}

impl KeyTrace {
    /// Reads the file at `path` as a whole.
    ///
    /// # Errors
    /// `Io` when the file cannot be read, `MalformedTrace` when it is none of the formats or
    /// has no accesses, `OutOfMemory`.
    pub fn load(path: impl AsRef<Path>) -> Result<KeyTrace> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|error| io(path, "open", &error))?;
        KeyTrace::read(file, path)
    }

    /// Reads `input`, plain or gzip. `path` is its name in messages.
    ///
    /// # Errors
    /// As [`KeyTrace::load`].
    pub fn read(input: impl Read, path: impl AsRef<Path>) -> Result<KeyTrace> {
        let path = path.as_ref();
        let mut input = BufReader::with_capacity(BUFFER, input);
        // The bytes looked at go in front again, so that a pipe will do for a file.
        let mut start = Vec::new();
        (&mut input)
            .take(GZIP_MAGIC.len() as u64)
            .read_to_end(&mut start)
            .map_err(|error| io(path, "read", &error))?;
        let gzip = start == GZIP_MAGIC;
        let whole = Cursor::new(start).chain(input);
        match gzip {
            true => KeyTrace::parse(BufReader::new(MultiGzDecoder::new(whole)), path),
            false => KeyTrace::parse(whole, path),
        }
    }

    /// The trace of these objects, by number, each of `bytes` of its number.
    pub fn of(accesses: Vec<u32>, bytes: Vec<u64>, is_sized: bool) -> KeyTrace {
        KeyTrace { path: PathBuf::new(), accesses, bytes, is_sized }
    }

    /// Bytes of all its objects.
    pub fn total_bytes(&self) -> u64 {
        self.bytes.iter().sum()
    }

    fn parse(mut input: impl BufRead, path: &Path) -> Result<KeyTrace> {
        let mut start = Vec::new();
        (&mut input)
            .take(BUFFER as u64)
            .read_to_end(&mut start)
            .map_err(|error| io(path, "read", &error))?;
        let is_text =
            start.iter().all(|&byte| byte >= 0x20 || matches!(byte, b'\t' | b'\n' | b'\r'));
        let mut building = Building::new(path);
        let input = Cursor::new(start).chain(input);
        match is_text {
            true => building.lines(input)?,
            false => building.words(input)?,
        }
        if building.trace.accesses.is_empty() {
            let path = path.display();
            return Err(fail!(MalformedTrace, "key trace `{path}`: there is no key in it"));
        }
        Ok(building.trace)
    }
}

fn io(path: &Path, what: &str, error: &std::io::Error) -> Error {
    fail!(Io, "key trace `{}`: cannot {what}: {error}", path.display())
}

struct Building {
    trace: KeyTrace,
    objects: HashMap<(u64, u64), u32>,
    /// Columns of a line, once there was one.
    columns: Option<usize>,
}

impl Building {
    fn new(path: &Path) -> Building {
        let trace = KeyTrace { path: path.to_owned(), ..KeyTrace::default() };
        Building { trace, objects: HashMap::new(), columns: None }
    }

    fn push(&mut self, key: u64, bytes: u64) -> Result<()> {
        let trace = &mut self.trace;
        let room = trace.accesses.try_reserve(1).is_ok()
            && trace.bytes.try_reserve(1).is_ok()
            && self.objects.try_reserve(1).is_ok();
        if !room || trace.bytes.len() >= u32::MAX as usize - 1 {
            let (path, len) = (trace.path.display(), trace.accesses.len());
            return Err(fail!(OutOfMemory, "key trace `{path}`: no memory behind access {len}"));
        }
        let object = *self.objects.entry((key, bytes)).or_insert_with(|| {
            trace.bytes.push(bytes);
            trace.bytes.len() as u32 - 1
        });
        trace.accesses.push(object);
        Ok(())
    }

    /// Keys of four bytes.
    fn words(&mut self, mut input: impl BufRead) -> Result<()> {
        let mut word = [0; 4];
        loop {
            let mut have = 0;
            while have < word.len() {
                match input.read(&mut word[have..]) {
                    Ok(0) if have == 0 => return Ok(()),
                    Ok(0) => {
                        return Err(fail!(
                            MalformedTrace,
                            "key trace `{}`: no text, and not a multiple of four bytes",
                            self.trace.path.display()
                        ));
                    }
                    Ok(more) => have += more,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(io(&self.trace.path, "read", &error)),
                }
            }
            self.push(u64::from(u32::from_be_bytes(word)), 1)?;
        }
    }

    fn lines(&mut self, mut input: impl BufRead) -> Result<()> {
        let (mut text, mut line) = (Vec::new(), 0u64);
        loop {
            text.clear();
            line += 1;
            let read = (&mut input)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut text)
                .map_err(|error| io(&self.trace.path, "read", &error))?;
            if read == 0 {
                return Ok(());
            }
            if read as u64 == LONGEST_LINE && text.last() != Some(&b'\n') {
                return Err(self.malformed(line, &format!("longer than {LONGEST_LINE} bytes")));
            }
            let row = text.trim_ascii();
            match row.first() {
                None | Some(b'#') => {}
                _ if row == b"*" => {}
                Some(b'{') => self.hash_ids(row, line)?,
                _ => self.row(row, line)?,
            }
        }
    }

    fn row(&mut self, row: &[u8], line: u64) -> Result<()> {
        let mut columns = [&row[..0]; 3];
        let mut count = 0;
        let parted = row.split(|byte| matches!(byte, b' ' | b'\t' | b','));
        for column in parted.filter(|column| !column.is_empty()) {
            if count == columns.len() {
                return Err(self.malformed(line, "more than three columns"));
            }
            columns[count] = column;
            count += 1;
        }
        let expected = *self.columns.get_or_insert(count);
        if count != expected || count == 0 {
            let what = format!("{count} columns; there were {expected} so far");
            return Err(self.malformed(line, &what));
        }
        self.trace.is_sized = count > 1;
        let key = if count == 3 { columns[1] } else { columns[0] };
        let bytes = match count {
            1 => Some(1),
            _ => std::str::from_utf8(columns[count - 1]).ok().and_then(|text| text.parse().ok()),
        };
        match bytes {
            Some(bytes) if (1..=BYTES_MAX).contains(&bytes) => self.push(key_of(key), bytes),
            _ => {
                let what = format!("the bytes are not a number from 1 to {BYTES_MAX}");
                Err(self.malformed(line, &what))
            }
        }
    }

    /// A line of JSON: only the one array is looked at.
    fn hash_ids(&mut self, row: &[u8], line: u64) -> Result<()> {
        const NAME: &[u8] = b"\"hash_ids\"";
        let start = row.windows(NAME.len()).position(|window| window == NAME);
        let array = start.map(|start| row[start + NAME.len()..].trim_ascii_start());
        let array = array.and_then(|rest| rest.strip_prefix(b":")).map(<[u8]>::trim_ascii_start);
        let array = array.and_then(|rest| rest.strip_prefix(b"["));
        let end = array.and_then(|rest| rest.iter().position(|&byte| byte == b']'));
        let (Some(array), Some(end)) = (array, end) else {
            return Err(self.malformed(line, "there is no array `hash_ids`"));
        };
        for number in array[..end].split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if !number.is_empty() {
                self.push(key_of(number), 1)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn malformed(&self, line: u64, what: &str) -> Error {
        let path = self.trace.path.display();
        fail!(MalformedTrace, "key trace `{path}`, line {line}: {what}")
    }
}

/// The most bytes of an object.
pub const BYTES_MAX: u64 = 1 << 48;

fn key_of(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<KeyTrace> {
        KeyTrace::read(text, "t")
    }

    fn message(text: &[u8]) -> String {
        read(text).unwrap_err().message()
    }

    #[test]
    fn formats_are_told_apart() {
        let keys = read(b"1\r\n*\n2\n\n# no key\n1\n").unwrap();
        assert_eq!((keys.accesses, keys.bytes, keys.is_sized), (vec![0, 1, 0], vec![1, 1], false));
        let pairs = read(b"a,10\nb 20\na\t10\na 11").unwrap();
        assert_eq!((pairs.accesses, pairs.bytes), (vec![0, 1, 0, 2], vec![10, 20, 11]));
        assert!(pairs.is_sized);
        let timed = read(b"1 a 10\n2 a 10\n").unwrap();
        assert_eq!((timed.accesses, timed.bytes), (vec![0, 0], vec![10]));
        let words = read(&[0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1]).unwrap();
        assert_eq!(words.accesses, [0, 1, 0]);
        let json =
            read(b"{\"x\": [9], \"hash_ids\": [0, 5,7]}\n{\"hash_ids\":[5], \"y\":1}").unwrap();
        assert_eq!(json.accesses, [0, 1, 2, 1]);
    }

    #[test]
    fn gzip_is_unpacked() {
        use std::io::Write;
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(b"1\n2\n1\n").unwrap();
        assert_eq!(read(&packed.finish().unwrap()).unwrap().accesses, [0, 1, 0]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(message(b""), "key trace `t`: there is no key in it");
        assert_eq!(message(b"1\n1 2\n"), "key trace `t`, line 2: 2 columns; there were 1 so far");
        assert_eq!(message(b"1 2 3 4\n"), "key trace `t`, line 1: more than three columns");
        assert!(message(b"1 0\n").contains("line 1: the bytes are not a number from 1 to"));
        assert_eq!(message(b"{\"a\":1}\n"), "key trace `t`, line 1: there is no array `hash_ids`");
        assert!(message(&[0, 0, 0, 1, 2]).contains("not a multiple of four bytes"));
        let long = vec![b'1'; LONGEST_LINE as usize + 1];
        assert!(message(&long).contains("line 1: longer than"));
        let missing = KeyTrace::load("/nowhere/t").unwrap_err();
        assert!(missing.message().starts_with("key trace `/nowhere/t`: cannot open: "));
    }
}
