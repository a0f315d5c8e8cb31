//! Writes traces, plain or gzip, through one buffer.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::event::{Event, NANOSECONDS_PER_DAY};
use super::{HEADER, SITE};
use crate::error::{Result, fail};

/// Bytes gathered before they go to the file or the compressor.
const BUFFER: usize = 64 * 1024;

/// Writes a trace file row by row.
///
/// Nothing is allocated per row. A writer that is dropped without [`Writer::finish`]
/// writes what it holds and loses any error on the way.
pub struct Writer {
    path: PathBuf,
    buffer: BufWriter<Output>,
}

impl Writer {
    /// Creates the file at `path`, or empties the one that is there, and writes the header.
    /// A name that ends in `.gz` makes a gzip file.
    ///
    /// # Errors
    /// `Io` when the file cannot be created.
    pub fn create(path: impl AsRef<Path>) -> Result<Writer> {
        Writer::create_compressed(path.as_ref(), Compression::default(), false)
    }

    /// As [`Writer::create`], with the effort that goes into a gzip file. With `sites`, all rows
    /// are written by [`Writer::write_row_of`].
    pub(super) fn create_compressed(
        path: &Path,
        level: Compression,
        sites: bool,
    ) -> Result<Writer> {
        let file = File::create(path)
            .map_err(|error| fail!(Io, "trace `{}`: cannot create: {error}", path.display()))?;
        let gzip = path.extension().is_some_and(|extension| extension == "gz");
        let output = match gzip {
            true => Output::Gzip(GzEncoder::new(file, level)),
            false => Output::Plain(file),
        };
        let mut buffer = BufWriter::with_capacity(BUFFER, output);
        match writeln!(buffer, "{HEADER}{}", if sites { SITE } else { "" }) {
            Ok(()) => Ok(Writer { path: path.to_owned(), buffer }),
            Err(error) => Err(write_failed(path, &error)),
        }
    }

    /// Appends one row. Of the time, what is below a microsecond is cut.
    ///
    /// # Errors
    /// `InvalidArgument` when the time is not within a day, `Io` when the file cannot be
    /// written.
    pub fn write(&mut self, event: &Event) -> Result<()> {
        if event.time >= NANOSECONDS_PER_DAY {
            return Err(fail!(
                InvalidArgument,
                "event.time is {} ns; a day has {NANOSECONDS_PER_DAY}",
                event.time
            ));
        }
        self.write_row(&Row::new(event)).map_err(|error| write_failed(&self.path, &error))
    }

    /// Writes everything out and closes the file.
    ///
    /// # Errors
    /// `Io` when the file cannot be written.
    pub fn finish(self) -> Result<()> {
        let Writer { path, buffer } = self;
        close(buffer).map_err(|error| write_failed(&path, &error))
    }

    /// Lets go of the file without writing what was gathered for it.
    pub(super) fn abandon(self) {
        let (output, _) = self.buffer.into_parts();
        if let Output::Gzip(encoder) = output {
            // Dropped it would end the file. Its descriptor stays open.
            std::mem::forget(encoder);
        }
    }

    pub(super) fn write_row(&mut self, row: &Row) -> io::Result<()> {
        self.buffer.write_all(row.as_bytes())
    }

    /// Appends a row with its site, which is one line.
    pub(super) fn write_row_of(&mut self, row: &Row, site: &[u8]) -> io::Result<()> {
        let (columns, end) = row.as_bytes().split_at(row.as_bytes().len() - 1);
        for part in [columns, b",", site, end] {
            self.buffer.write_all(part)?;
        }
        Ok(())
    }
}

fn close(buffer: BufWriter<Output>) -> io::Result<()> {
    match buffer.into_inner().map_err(io::IntoInnerError::into_error)? {
        Output::Plain(mut file) => file.flush(),
        Output::Gzip(encoder) => encoder.finish()?.flush(),
    }
}

pub(super) fn write_failed(path: &Path, error: &io::Error) -> crate::error::Error {
    fail!(Io, "trace `{}`: cannot write: {error}", path.display())
}

enum Output {
    Plain(File),
    Gzip(GzEncoder<File>),
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Plain(file) => file.write(bytes),
            Output::Gzip(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Plain(file) => file.flush(),
            Output::Gzip(encoder) => encoder.flush(),
        }
    }
}

/// The longest row: two numbers of 20 digits, two of 16 behind `0x`, 15 of time, the
/// longest action, five commas and the end of the line.
const LONGEST: usize = 2 * 20 + 2 * 18 + 15 + "allocate failure".len() + 6;

/// The text of one row. Digits are set by hand: the formatting machinery of the standard
/// library costs several times as much, and the recorder runs beside every allocation.
pub(super) struct Row {
    bytes: [u8; LONGEST],
    length: usize,
    time_at: usize,
}

impl Row {
    pub(super) fn new(event: &Event) -> Row {
        let mut row = Row { bytes: [0; LONGEST], length: 0, time_at: 0 };
        row.decimal(event.thread);
        row.text(b",");
        row.time_at = row.length;
        row.text(b"00:00:00.000000,");
        row.set_time(event.time);
        row.text(event.action.name().as_bytes());
        row.text(b",0x");
        row.hexadecimal(event.pointer);
        row.text(b",");
        row.decimal(event.size);
        row.text(b",0x");
        row.hexadecimal(event.stream);
        row.text(b"\n");
        row
    }

    /// Replaces the time, in nanoseconds of the day. It has a fixed width, so that a row
    /// can be made before its moment is known.
    pub(super) fn set_time(&mut self, nanoseconds: u64) {
        let microseconds = nanoseconds / 1000;
        let seconds = microseconds / 1_000_000;
        let field = &mut self.bytes[self.time_at..self.time_at + 15];
        digits(&mut field[0..2], seconds / 3600);
        digits(&mut field[3..5], seconds / 60 % 60);
        digits(&mut field[6..8], seconds % 60);
        digits(&mut field[9..15], microseconds % 1_000_000);
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn text(&mut self, text: &[u8]) {
        self.bytes[self.length..self.length + text.len()].copy_from_slice(text);
        self.length += text.len();
    }

    fn decimal(&mut self, value: u64) {
        let width = value.checked_ilog10().map_or(1, |power| power as usize + 1);
        digits(&mut self.bytes[self.length..self.length + width], value);
        self.length += width;
    }

    fn hexadecimal(&mut self, mut value: u64) {
        let width = value.checked_ilog2().map_or(1, |power| power as usize / 4 + 1);
        for digit in self.bytes[self.length..self.length + width].iter_mut().rev() {
            *digit = b"0123456789abcdef"[(value % 16) as usize];
            value /= 16;
        }
        self.length += width;
    }
}

/// Fills `field` with the last decimal digits of `value`.
fn digits(field: &mut [u8], mut value: u64) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Action;
    use super::super::scratch::Scratch;
    use super::*;
    use crate::error::Kind;

    const EVENT: Event = Event {
        thread: 1,
        time: 29_409_000,
        action: Action::Allocate,
        pointer: 0x1_0000_0200,
        size: 6_297_600,
        stream: 0,
    };

    #[test]
    fn a_plain_file_is_the_header_and_the_rows() {
        let file = Scratch::new("plain.csv");
        let mut writer = Writer::create(file.path()).unwrap();
        writer.write(&EVENT).unwrap();
        let failure = Event { action: Action::AllocateFailure, pointer: 0, stream: 0xab, ..EVENT };
        writer.write(&failure).unwrap();
        let free = Event { action: Action::Free, time: NANOSECONDS_PER_DAY - 1, ..EVENT };
        writer.write(&free).unwrap();
        writer.finish().unwrap();
        assert_eq!(
            std::fs::read_to_string(file.path()).unwrap(),
            "Thread,Time,Action,Pointer,Size,Stream\n\
             1,00:00:00.029409,allocate,0x100000200,6297600,0x0\n\
             1,00:00:00.029409,allocate failure,0x0,6297600,0xab\n\
             1,23:59:59.999999,free,0x100000200,6297600,0x0\n"
        );
    }

    #[test]
    fn the_longest_row_fits() {
        let event = Event {
            thread: u64::MAX,
            time: NANOSECONDS_PER_DAY - 1,
            action: Action::AllocateFailure,
            pointer: u64::MAX,
            size: u64::MAX,
            stream: u64::MAX,
        };
        let row = Row::new(&event);
        assert_eq!(row.as_bytes().len(), LONGEST);
        assert_eq!(
            row.as_bytes(),
            b"18446744073709551615,23:59:59.999999,allocate failure,0xffffffffffffffff,\
              18446744073709551615,0xffffffffffffffff\n"
        );
    }

    #[test]
    fn digits_agree_with_the_standard_library() {
        let edges = (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit]);
        let tens = (0..20).flat_map(|power| [10u64.pow(power) - 1, 10u64.pow(power)]);
        for value in edges.chain(tens).chain([u64::MAX]) {
            let event = Event { thread: value, pointer: value, ..EVENT };
            let text = format!("{value},00:00:00.029409,allocate,{value:#x},6297600,0x0\n");
            assert_eq!(Row::new(&event).as_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn a_time_beyond_a_day_is_refused_and_nothing_written() {
        let file = Scratch::new("time.csv");
        let mut writer = Writer::create(file.path()).unwrap();
        let late = Event { time: NANOSECONDS_PER_DAY, ..EVENT };
        let error = writer.write(&late).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.message().contains("event.time is 86400000000000 ns"), "{error}");
        writer.finish().unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), format!("{HEADER}\n"));
    }

    #[test]
    fn a_name_with_gz_makes_a_gzip_file() {
        let file = Scratch::new("packed.csv.gz");
        Writer::create(file.path()).unwrap().finish().unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap()[..2], [0x1f, 0x8b]);
    }

    #[test]
    fn a_file_that_cannot_be_created_is_named() {
        let error = Writer::create("/nonexistent/t.csv").err().unwrap();
        assert_eq!(error.kind(), Kind::Io);
        assert!(error.message().starts_with("trace `/nonexistent/t.csv`: cannot create"));
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let writer = Writer::create("/dev/full").unwrap();
        let error = writer.finish().unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        assert!(error.message().starts_with("trace `/dev/full`: cannot write"), "{error}");
    }
}
