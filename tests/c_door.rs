//! The C functions against a model, driven by random bytes: some seconds here, hours in
//! `fuzz/`. `FOREBAY_FUZZ_SECONDS=600 cargo test --release --test c_door` runs for as long as
//! it says, with other bytes every time; a failure prints the seed, which
//! `FOREBAY_FUZZ_SEED` repeats.

// That is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

#[path = "../fuzz/c_door/mod.rs"]
mod c_door;
#[path = "../fuzz/trace_reader.rs"]
mod trace_reader;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.next() % most).map(|_| self.next() as u8).collect()
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is `{text}`, not a number")))
}

/// Runs `one` with the bytes of seed after seed.
fn drive(runs: u64, one: impl Fn(&mut Random)) {
    if let Some(seed) = number("FOREBAY_FUZZ_SEED") {
        return one(&mut Random(seed));
    }
    let seconds = number("FOREBAY_FUZZ_SECONDS").map(Duration::from_secs);
    let first = match seconds {
        None => 0,
        Some(_) => std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    let start = Instant::now();
    let mut done = 0;
    while seconds.map_or(done < runs, |seconds| start.elapsed() < seconds) {
        let seed = first.wrapping_add(done);
        let result =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one(&mut Random(seed))));
        if let Err(panic) = result {
            eprintln!("repeat it with FOREBAY_FUZZ_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
        done += 1;
    }
    eprintln!("{done} runs in {:.1} s", start.elapsed().as_secs_f64());
}

#[test]
fn random_programs_get_what_the_model_says() {
    drive(150, |random| {
        let program = random.bytes(4096);
        c_door::run(&program);
    });
}

#[test]
fn random_traces_are_read_or_refused() {
    drive(20_000, |random| {
        let trace = trace_reader::text(&random.bytes(400));
        trace_reader::run(&trace);
        trace_reader::run(&random.bytes(400));
    });
}
