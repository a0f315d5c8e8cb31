//! `cargo +nightly fuzz run trace_reader`: the reader of traces, on bytes as they are and on
//! what is nearly a trace.
#![no_main]

#[path = "../trace_reader.rs"]
mod trace_reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    trace_reader::run(data);
    trace_reader::run(&trace_reader::text(data));
});
