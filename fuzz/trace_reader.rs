//! Arbitrary bytes as a trace: read to the end without a panic, and what is wrong is told
//! with its line.
//!
//! The fuzz target and `tests/c_door.rs` share this file.

use forebay::trace::Reader;

const HEADER: &str = "Thread,Time,Action,Pointer,Size,Stream\n";

/// A text that is close to a trace, after `choices`: rows of columns that are right, or nearly.
pub fn text(choices: &[u8]) -> Vec<u8> {
    const COLUMNS: [&[&str]; 6] = [
        &["1", "18446744073709551615", "18446744073709551616", "", "-1", "1 "],
        &["00:00:00.000001", "23:59:59.999999", "24:00:00.000000", "0:0:0.0", "00:00:60.000000"],
        &["allocate", "free", "allocate failure", "allocat", "Free", ""],
        &["0x10", "10", "(nil)", "0x", "0xFFFFFFFFFFFFFFFF", "0x10000000000000000", "g"],
        &["1", "0", "4096", "99999999999999999999", "1.5"],
        &["0x0", "0", "ff", "0xg", ""],
    ];
    let mut text = HEADER.as_bytes().to_vec();
    let mut choices = choices.iter();
    while let Some(&choice) = choices.next() {
        let columns = match choice {
            0..240 => 6,
            240..248 => 5,
            248.. => 7,
        };
        for column in 0..columns {
            let of = COLUMNS[column % COLUMNS.len()];
            // Mostly right, so that rows behind the first are read as well.
            let number = choices.next().map_or(0, |&byte| usize::from(byte).saturating_sub(200));
            if column > 0 {
                text.push(b',');
            }
            text.extend_from_slice(of[number % of.len()].as_bytes());
        }
        text.extend_from_slice(if choice % 16 == 15 { b"\r\n" } else { b"\n" });
    }
    text
}

/// Reads `data`; returns how many events it has.
pub fn run(data: &[u8]) -> u64 {
    let lines = data.split(|&byte| byte == b'\n').count() as u64;
    let named = || {
        // SAFETY: the text stays until this thread's next call that fails.
        let message =
            unsafe { std::ffi::CStr::from_ptr(forebay::capi::status::forebay_last_error()) };
        let message = message.to_string_lossy();
        assert!(message.contains("line "), "no line in: {message}");
    };
    let mut reader = match Reader::new(data, "fuzzed") {
        Ok(reader) => reader,
        Err(_) => {
            named();
            return 0;
        }
    };
    let (mut events, mut errors) = (0, 0);
    loop {
        match reader.read() {
            Ok(Some(_)) => events += 1,
            Ok(None) => break,
            Err(_) => {
                errors += 1;
                named();
            }
        }
        // A line that is too long is told in pieces of 1 KiB.
        assert!(events + errors <= lines + data.len() as u64 / 1024, "it does not end");
        assert!(reader.line() > events + errors, "the header is a line too");
    }
    events
}
