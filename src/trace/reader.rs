//! Reads traces, plain or gzip, and names the place of everything that is wrong in them.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::event::{Action, Event};
use super::{HEADER, SITE};
use crate::error::{Error, Result, fail};

/// The longest line read, in bytes. A row has at most 113 and its site, if no number is padded
/// with zeros; the limit keeps a file that is no trace from being taken into memory whole.
const LONGEST_LINE: u64 = 1024;

/// Bytes read or unpacked at a time.
const BUFFER: usize = 64 * 1024;

/// The first two bytes of a gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A trace in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Where it came from; used in messages.
    pub path: PathBuf,
    /// Its rows in their order: row `i` stands in line `i + 2` of the file.
    pub events: Vec<Event>,
}

impl Trace {
    /// Reads the file at `path` as a whole.
    ///
    /// # Errors
    /// `Io` when the file cannot be read, `MalformedTrace` when it does not follow the
    /// format, `OutOfMemory` when its events do not fit in memory.
    pub fn load(path: impl AsRef<Path>) -> Result<Trace> {
        let mut reader = Reader::open(path)?;
        let mut events = Vec::new();
        while let Some(event) = reader.read()? {
            if events.len() == events.capacity() {
                let more = events.len().max(BUFFER / size_of::<Event>());
                events.try_reserve_exact(more).map_err(|_| {
                    let path = reader.path.display();
                    fail!(OutOfMemory, "trace `{path}`: no memory for {more} further events")
                })?;
            }
            events.push(event);
        }
        Ok(Trace { path: reader.path, events })
    }

    /// The line of the file in which event `index` stands.
    pub fn line_of(index: usize) -> u64 {
        index as u64 + 2
    }
}

/// Reads a trace row by row.
///
/// Lines may end in CR LF. The last line need not end at all. A blank line is malformed.
pub struct Reader<R> {
    path: PathBuf,
    input: R,
    line: u64,
    text: Vec<u8>,
    /// Whether rows have a site, and where that of the event last read begins in `text`: behind its
    /// end before there is one.
    has_sites: bool,
    site: usize,
    /// The input failed; asking it again would give the same error without end.
    broken: bool,
}

impl Reader<Box<dyn BufRead + Send>> {
    /// Opens the file at `path`, sees from its first bytes whether it is gzip, and reads
    /// the header.
    ///
    /// # Errors
    /// `Io` when the file cannot be read, `MalformedTrace` when the header is missing.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut file = File::open(path)
            .map_err(|error| fail!(Io, "trace `{}`: cannot open: {error}", path.display()))?;
        let mut start = Vec::new();
        file.by_ref()
            .take(GZIP_MAGIC.len() as u64)
            .read_to_end(&mut start)
            .map_err(|error| fail!(Io, "trace `{}`: cannot read: {error}", path.display()))?;
        let gzip = start == GZIP_MAGIC;
        // The bytes looked at go in front again, so that a pipe will do for a file.
        let whole = BufReader::with_capacity(BUFFER, Cursor::new(start).chain(file));
        let input: Box<dyn BufRead + Send> = match gzip {
            true => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(whole))),
            false => Box::new(whole),
        };
        Reader::new(input, path)
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads the header from `input`, which is plain text. `path` is its name in messages.
    ///
    /// # Errors
    /// `Io` when `input` cannot be read, `MalformedTrace` when the header is missing.
    pub fn new(input: R, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let mut reader = Reader {
            path,
            input,
            line: 0,
            text: Vec::new(),
            has_sites: false,
            site: usize::MAX,
            broken: false,
        };
        let more = match reader.next_line()? {
            true => reader.text.strip_prefix(HEADER.as_bytes()),
            false => None,
        };
        reader.has_sites = more == Some(SITE.as_bytes());
        if !reader.has_sites && more != Some(b"") {
            let (path, found) = (reader.path.display(), Shown(&reader.text));
            return Err(fail!(
                MalformedTrace,
                "trace `{path}`, line 1: {found} is not the header `{HEADER}`"
            ));
        }
        Ok(reader)
    }

    /// The next event, or none at the end.
    ///
    /// # Errors
    /// `Io` when the input cannot be read, `MalformedTrace` with the line, the column and
    /// its text when the row is not one of a trace. After the latter, the next call goes on
    /// behind that row; after the former there are no more events.
    pub fn read(&mut self) -> Result<Option<Event>> {
        self.site = usize::MAX;
        if !self.next_line()? {
            return Ok(None);
        }
        match parse(&self.text, self.has_sites) {
            Ok((event, site)) => {
                self.site = site;
                Ok(Some(event))
            }
            Err(malformed) => Err(self.malformed(&malformed)),
        }
    }

    /// Where the program asked for what the event last read is about; empty where the trace does
    /// not say.
    pub fn site(&self) -> &[u8] {
        self.text.get(self.site..).unwrap_or_default()
    }

    /// The number of the line last read; the header is line 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Reads one line into `text`, without its end. False at the end of the input.
    fn next_line(&mut self) -> Result<bool> {
        self.text.clear();
        if self.broken {
            return Ok(false);
        }
        let mut limited = self.input.by_ref().take(LONGEST_LINE);
        let read = limited.read_until(b'\n', &mut self.text).map_err(|error| {
            self.broken = true;
            let (path, line) = (self.path.display(), self.line + 1);
            fail!(Io, "trace `{path}`, line {line}: cannot read: {error}")
        })?;
        if read == 0 {
            return Ok(false);
        }
        self.line += 1;
        if self.text.last() == Some(&b'\n') {
            self.text.pop();
            if self.text.last() == Some(&b'\r') {
                self.text.pop();
            }
        } else if read as u64 == LONGEST_LINE {
            let (path, line) = (self.path.display(), self.line);
            return Err(fail!(
                MalformedTrace,
                "trace `{path}`, line {line}: longer than {LONGEST_LINE} bytes"
            ));
        }
        Ok(true)
    }

    #[cold]
    fn malformed(&self, malformed: &Malformed) -> Error {
        let (path, line, row) = (self.path.display(), self.line, Shown(&self.text));
        match *malformed {
            Malformed::Column { name, ref range, expected } => {
                let text = Shown(&self.text[range.clone()]);
                fail!(
                    MalformedTrace,
                    "trace `{path}`, line {line}, column {name}: {text} is not {expected}"
                )
            }
            Malformed::Missing(name) => {
                fail!(
                    MalformedTrace,
                    "trace `{path}`, line {line}, column {name}: missing in {row}"
                )
            }
            Malformed::Extra => fail!(
                MalformedTrace,
                "trace `{path}`, line {line}: more columns than `{HEADER}` in {row}"
            ),
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        self.read().transpose()
    }
}

/// Why a row is not one.
enum Malformed {
    Column { name: &'static str, range: std::ops::Range<usize>, expected: &'static str },
    Missing(&'static str),
    Extra,
}

/// Bytes of a file in a message: quoted, printable, and not too many of them.
struct Shown<'a>(&'a [u8]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MOST: usize = 120;
        match self.0.get(..MOST) {
            Some(start) => write!(f, "`{}...`", start.escape_ascii()),
            None => write!(f, "`{}`", self.0.escape_ascii()),
        }
    }
}

/// The event of a row, and where in the row its site begins.
fn parse(row: &[u8], has_site: bool) -> std::result::Result<(Event, usize), Malformed> {
    let mut columns = Columns { row, next: Some(0) };
    let event = Event {
        thread: columns.take("Thread", "a decimal number below 2^64", decimal)?,
        time: columns.take("Time", "a time of day as HH:MM:SS.ffffff", time)?,
        action: columns.take(
            "Action",
            "`allocate`, `allocate failure` or `free`",
            Action::from_name,
        )?,
        pointer: columns.take("Pointer", "a hexadecimal number below 2^64", hexadecimal)?,
        size: columns.take("Size", "a decimal number below 2^64", decimal)?,
        stream: columns.take("Stream", "a hexadecimal number below 2^64", hexadecimal)?,
    };
    match (columns.next, has_site) {
        (None, false) => Ok((event, row.len())),
        (Some(site), true) => Ok((event, site)),
        (None, true) => Err(Malformed::Missing("Site")),
        (Some(_), false) => Err(Malformed::Extra),
    }
}

/// The columns of a row not looked at yet.
struct Columns<'a> {
    row: &'a [u8],
    /// Where the next column starts, if there is one.
    next: Option<usize>,
}

impl Columns<'_> {
    fn take<T>(
        &mut self,
        name: &'static str,
        expected: &'static str,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> std::result::Result<T, Malformed> {
        let start = self.next.ok_or(Malformed::Missing(name))?;
        let rest = &self.row[start..];
        let length = rest.iter().position(|&byte| byte == b',');
        self.next = length.map(|length| start + length + 1);
        let range = start..start + length.unwrap_or(rest.len());
        match read(&self.row[range.clone()]) {
            Some(value) => Ok(value),
            None => Err(Malformed::Column { name, range, expected }),
        }
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

fn hexadecimal(text: &[u8]) -> Option<u64> {
    let digits = match text {
        // What `%p` of the GNU C library prints for a null pointer.
        b"(nil)" => return Some(0),
        [b'0', b'x' | b'X', digits @ ..] => digits,
        digits => digits,
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &byte| {
        let digit = char::from(byte).to_digit(16)?;
        // The top digit must be free before the others move up.
        if value >> 60 != 0 {
            return None;
        }
        Some(value << 4 | u64::from(digit))
    })
}

/// `HH:MM:SS.ffffff` in nanoseconds.
fn time(text: &[u8]) -> Option<u64> {
    let text: &[u8; 15] = text.try_into().ok()?;
    if (text[2], text[5], text[8]) != (b':', b':', b'.') {
        return None;
    }
    let hours = decimal(&text[0..2]).filter(|&hours| hours < 24)?;
    let minutes = decimal(&text[3..5]).filter(|&minutes| minutes < 60)?;
    let seconds = decimal(&text[6..8]).filter(|&seconds| seconds < 60)?;
    let microseconds = decimal(&text[9..15])?;
    Some((((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + microseconds) * 1000)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::super::event::NANOSECONDS_PER_DAY;
    use super::super::scratch::Scratch;
    use super::super::writer::Writer;
    use super::*;
    use crate::error::Kind;

    const ROW: &str = "1,00:00:00.029409,allocate,0x100000200,6297600,0x0";
    const EVENT: Event = Event {
        thread: 1,
        time: 29_409_000,
        action: Action::Allocate,
        pointer: 0x1_0000_0200,
        size: 6_297_600,
        stream: 0,
    };

    fn read(text: &str) -> Result<Vec<Event>> {
        Reader::new(text.as_bytes(), "t.csv")?.collect()
    }

    fn read_row(row: &str) -> Result<Event> {
        read(&format!("{HEADER}\n{row}\n")).map(|events| events[0])
    }

    #[test]
    fn a_row_is_read() {
        assert_eq!(read_row(ROW), Ok(EVENT));
        assert_eq!(
            read_row("140234,23:59:59.999999,allocate failure,(nil),0,0x7f00"),
            Ok(Event {
                thread: 140_234,
                time: NANOSECONDS_PER_DAY - 1000,
                action: Action::AllocateFailure,
                pointer: 0,
                size: 0,
                stream: 0x7f00,
            })
        );
    }

    #[test]
    fn hexadecimal_needs_no_prefix() {
        let stream = |text| read_row(&format!("1,00:00:00.000000,free,0x1,2,{text}"));
        for (text, number) in [("0", 0), ("10", 16), ("0x10", 16), ("7fAb", 0x7fab), ("0XA", 10)] {
            assert_eq!(stream(text).unwrap().stream, number, "{text}");
        }
        assert_eq!(stream("ffffffffffffffff").unwrap().stream, u64::MAX);
        assert_eq!(stream("0x000ffffffffffffffff").unwrap().stream, u64::MAX);
    }

    #[test]
    fn line_ends_of_both_kinds_and_none() {
        for text in [
            format!("{HEADER}\n{ROW}\n{ROW}\n"),
            format!("{HEADER}\r\n{ROW}\r\n{ROW}\r\n"),
            format!("{HEADER}\n{ROW}\n{ROW}"),
        ] {
            assert_eq!(read(&text), Ok(vec![EVENT; 2]), "{text:?}");
        }
        assert_eq!(read(&format!("{HEADER}\n")), Ok(vec![]));
    }

    #[test]
    fn the_header_must_be_there() {
        for text in ["", "\n", ROW, "Thread,Time,Action,Pointer,Size\n", "thread,time\n"] {
            let error = read(text).unwrap_err();
            assert_eq!(error.kind(), Kind::MalformedTrace);
            let message = error.message();
            assert!(message.starts_with("trace `t.csv`, line 1: `"), "{message}");
            assert!(message.ends_with(&format!("is not the header `{HEADER}`")), "{message}");
        }
    }

    #[test]
    fn each_malformed_row_is_named() {
        let cases = [
            ("x,00:00:00.000000,free,0x1,2,0x0", "column Thread: `x` is not a decimal"),
            (",00:00:00.000000,free,0x1,2,0x0", "column Thread: `` is not a decimal"),
            ("-1,00:00:00.000000,free,0x1,2,0x0", "column Thread: `-1` is not"),
            ("18446744073709551616,00:00:00.000000,free,0x1,2,0x0", "column Thread: `1844"),
            ("1,0:00:00.000000,free,0x1,2,0x0", "column Time: `0:00:00.000000` is not a time"),
            ("1,24:00:00.000000,free,0x1,2,0x0", "column Time: `24:00:00.000000` is not"),
            ("1,00:60:00.000000,free,0x1,2,0x0", "column Time: `00:60:00.000000` is not"),
            ("1,00:00:60.000000,free,0x1,2,0x0", "column Time: `00:00:60.000000` is not"),
            ("1,00:00:00:000000,free,0x1,2,0x0", "column Time: `00:00:00:000000` is not"),
            ("1,00:00:00.00000a,free,0x1,2,0x0", "column Time: `00:00:00.00000a` is not"),
            ("1,00:00:00.0000000,free,0x1,2,0x0", "column Time: `00:00:00.0000000` is not"),
            ("1,00:00:00.000000,Free,0x1,2,0x0", "column Action: `Free` is not `allocate`,"),
            ("1,00:00:00.000000,,0x1,2,0x0", "column Action: `` is not `allocate`,"),
            ("1,00:00:00.000000,free,0xg,2,0x0", "column Pointer: `0xg` is not a hexadecimal"),
            ("1,00:00:00.000000,free,0x,2,0x0", "column Pointer: `0x` is not"),
            ("1,00:00:00.000000,free,,2,0x0", "column Pointer: `` is not"),
            (
                "1,00:00:00.000000,free,0x10000000000000000,2,0x0",
                "column Pointer: `0x10000000000000000` is not a hexadecimal number below 2^64",
            ),
            ("1,00:00:00.000000,free,0x1,2.5,0x0", "column Size: `2.5` is not a decimal"),
            ("1,00:00:00.000000,free,0x1,0x2,0x0", "column Size: `0x2` is not"),
            (
                "1,00:00:00.000000,free,0x1,18446744073709551616,0x0",
                "column Size: `18446744073709551616` is not a decimal number below 2^64",
            ),
            ("1,00:00:00.000000,free,0x1,2,s", "column Stream: `s` is not a hexadecimal"),
            ("1,00:00:00.000000,free,0x1,2,0x0 ", "column Stream: `0x0 ` is not"),
            ("1,00:00:00.000000,free,0x1,2,\u{fc}", "column Stream: `\\xc3\\xbc` is not"),
            ("1,00:00:00.000000,free,0x1,2", "column Stream: missing in `1,00:00:00.000000,free"),
            ("1", "column Time: missing in `1`"),
            ("", "column Thread: `` is not"),
        ];
        for (row, expected) in cases {
            let error = read(&format!("{HEADER}\n{ROW}\n{row}\n")).unwrap_err();
            assert_eq!(error.kind(), Kind::MalformedTrace, "{row}");
            let message = error.message();
            let expected = format!("trace `t.csv`, line 3, {expected}");
            assert!(message.starts_with(&expected), "{message}\n{expected}");
        }
    }

    #[test]
    fn too_many_columns_are_named() {
        let error = read_row(&format!("{ROW},7")).unwrap_err();
        assert_eq!(
            error.message(),
            format!("trace `t.csv`, line 2: more columns than `{HEADER}` in `{ROW},7`")
        );
    }

    #[test]
    fn a_site_is_the_rest_of_the_line() {
        let text =
            format!("{HEADER},Site\r\n{ROW},model.py:7 f(a, b)\r\n{ROW},\n{ROW}\n{ROW},\u{e9},");
        let mut reader = Reader::new(text.as_bytes(), "t.csv").unwrap();
        assert_eq!(reader.site(), b"");
        for site in ["model.py:7 f(a, b)", ""] {
            assert_eq!(reader.read(), Ok(Some(EVENT)));
            assert_eq!(reader.site(), site.as_bytes());
        }
        let error = reader.read().unwrap_err();
        let said = format!("trace `t.csv`, line 4, column Site: missing in `{ROW}`");
        assert_eq!(error.message(), said);
        assert_eq!(reader.read(), Ok(Some(EVENT)));
        assert_eq!(reader.site(), "\u{e9},".as_bytes());
        // Where there is no such column there are no sites.
        let text = format!("{HEADER}\n{ROW}\n");
        let mut reader = Reader::new(text.as_bytes(), "t.csv").unwrap();
        assert_eq!(reader.read(), Ok(Some(EVENT)));
        assert_eq!(reader.site(), b"");
        for header in [
            "Thread,Time,Action,Pointer,Size,Stream,",
            "Thread,Time,Action,Pointer,Size,Stream,Sites",
        ] {
            assert!(read(&format!("{header}\n")).is_err());
        }
    }

    #[test]
    fn reading_goes_on_behind_a_malformed_row() {
        let text = format!("{HEADER}\nx\n{ROW}\n");
        let mut reader = Reader::new(text.as_bytes(), "t.csv").unwrap();
        assert_eq!(reader.read().unwrap_err().kind(), Kind::MalformedTrace);
        assert_eq!(reader.read(), Ok(Some(EVENT)));
        assert_eq!(reader.line(), 3);
        assert_eq!(reader.read(), Ok(None));
    }

    #[test]
    fn an_endless_line_is_refused() {
        let text = format!("{HEADER}\n{}", "0".repeat(1 << 20));
        let error = read(&text).unwrap_err();
        assert_eq!(error.kind(), Kind::MalformedTrace);
        assert_eq!(error.message(), "trace `t.csv`, line 2: longer than 1024 bytes");
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_is_seen_by_its_bytes_and_not_by_the_name() {
        let text = format!("{HEADER}\n{ROW}\n");
        for (name, bytes) in [("a.csv", gzip(&text)), ("b.csv.gz", text.clone().into_bytes())] {
            let file = Scratch::new(name);
            std::fs::write(file.path(), bytes).unwrap();
            let trace = Trace::load(file.path()).unwrap();
            assert_eq!((trace.events, trace.path), (vec![EVENT], file.path().to_owned()));
        }
    }

    #[test]
    fn gzip_files_put_together_are_one() {
        let file = Scratch::new("two.csv.gz");
        let mut bytes = gzip(&format!("{HEADER}\n{ROW}\n"));
        bytes.extend(gzip(&format!("{ROW}\n")));
        std::fs::write(file.path(), bytes).unwrap();
        assert_eq!(Trace::load(file.path()).unwrap().events, [EVENT; 2]);
    }

    #[test]
    fn a_gzip_file_cut_short_is_an_error() {
        let file = Scratch::new("cut.csv.gz");
        let bytes = gzip(&format!("{HEADER}\n{}", format!("{ROW}\n").repeat(100)));
        std::fs::write(file.path(), &bytes[..bytes.len() - 9]).unwrap();
        let error = Trace::load(file.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        assert!(error.message().contains("cannot read"), "{error}");
        // The error is the last item: an iteration over a broken file ends.
        let items: Vec<_> = Reader::open(file.path()).unwrap().collect();
        assert_eq!(items.iter().filter(|item| item.is_err()).count(), 1);
        assert!(items[items.len() - 1].is_err());
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let missing = Trace::load("/nonexistent/t.csv").unwrap_err();
        assert_eq!(missing.kind(), Kind::Io);
        assert!(missing.message().starts_with("trace `/nonexistent/t.csv`: cannot open"));
        let folder = Trace::load("/").unwrap_err();
        assert_eq!(folder.kind(), Kind::Io);
        assert!(folder.message().starts_with("trace `/`: cannot read"), "{folder}");
    }

    fn event() -> impl Strategy<Value = Event> {
        let action =
            prop_oneof![Just(Action::Allocate), Just(Action::AllocateFailure), Just(Action::Free)];
        // Numbers of every length, and times that are whole microseconds.
        let number = || (any::<u64>(), 0..64u32).prop_map(|(value, shift)| value >> shift);
        let time = (0..NANOSECONDS_PER_DAY / 1000).prop_map(|microseconds| microseconds * 1000);
        (number(), time, action, number(), number(), number()).prop_map(
            |(thread, time, action, pointer, size, stream)| Event {
                thread,
                time,
                action,
                pointer,
                size,
                stream,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(events in proptest::collection::vec(event(), 0..200)) {
            for name in ["identity.csv", "identity.csv.gz"] {
                let file = Scratch::new(name);
                let mut writer = Writer::create(file.path()).unwrap();
                for event in &events {
                    writer.write(event).unwrap();
                }
                writer.finish().unwrap();
                prop_assert_eq!(&Trace::load(file.path()).unwrap().events, &events);
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for sites in ["", SITE] {
                let mut text = format!("{HEADER}{sites}\n").into_bytes();
                text.extend(&bytes);
                let lines = text.split_inclusive(|&byte| byte == b'\n').count();
                let reader = Reader::new(&text[..], "t.csv").unwrap();
                // Every line behind the header answers: as an event or as an error.
                prop_assert_eq!(reader.count(), lines - 1);
            }
        }
    }
}
