//! `ASAN_OPTIONS=detect_leaks=0 cargo +nightly fuzz run c_door -- -max_len=4096`: the C
//! functions, against a model. The handle of a pool stays behind by design, and so do the
//! leaks that the sanitizer would report.
#![no_main]

#[path = "../c_door/mod.rs"]
mod c_door;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    c_door::run(data);
});
