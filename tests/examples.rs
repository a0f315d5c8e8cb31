//! The programs in `examples_c/`: each compiles without a warning and prints what it promises.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics, in helpers too.

mod native;

use std::path::PathBuf;
use std::process::Command;

use native::Language::{self, C, Cpp};

/// Compiled in a folder of `test`: tests run at the same time.
fn example(test: &str, language: Language, standard: &str, file: &str) -> PathBuf {
    let name = format!("example-{test}");
    let program = native::empty_folder(&name).join("program");
    let library = native::with_library(&name);
    let source = native::root().join("examples_c").join(file);
    native::compile(language, standard, &[source], &program, library);
    program
}

#[test]
fn pool_in_c_prints_the_three_numbers() {
    let said = native::stdout_of(&mut Command::new(example("c", C, "c99", "pool.c")));
    assert!(said.starts_with("requested 1000000, allocated 100"), "{said}");
    assert!(said.ends_with("reserved 2097152 bytes\n"), "{said}");
}

#[test]
fn pool_in_cpp_runs_into_its_limit() {
    let said = native::stdout_of(&mut Command::new(example("cpp", Cpp, "c++17", "pool.cpp")));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("3 blocks, "), "{said}");
    assert!(lines[1].starts_with("as expected: out of memory"), "{said}");
}

#[test]
fn monitor_says_what_is_left_and_why() {
    let said = native::stdout_of(&mut Command::new(example("monitor", C, "c99", "monitor.c")));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 5, "{said}");
    assert!(lines[0].contains(" GiB available, level "), "{said}");
    assert!(lines[1].contains(" GiB left of "), "{said}");
    assert!(lines[4].starts_with("{\"schema\":1,"), "{said}");
}

#[test]
fn cuda_streams_shares_a_pool_or_says_that_there_is_no_driver() {
    let program = example("cuda", C, "c99", "cuda_streams.c");
    let driver = native::simulated_driver("example-cuda");
    let said = native::stdout_of(Command::new(&program).env("LD_LIBRARY_PATH", driver));
    assert!(said.contains("on one stream: the same block\n"), "{said}");
    assert!(said.contains("on two streams: 60 MiB of 64, in order\n"), "{said}");
    assert!(said.ends_with("allocated 60 MiB, reserved 60 MiB\n"), "{said}");
    let said = native::stdout_of(&mut Command::new(program));
    assert!(said.contains("no CUDA driver") || said.contains("on one stream"), "{said}");
}

#[test]
fn cache_says_which_policy_to_choose() {
    let program = example("cache", C, "c99", "cache.c");
    let trace = program.with_file_name("loop.trace");
    let keys: String = (0..4000).map(|at| format!("{}\n", at % 100)).collect();
    std::fs::write(&trace, keys).unwrap();
    let said = native::stdout_of(Command::new(&program).arg(&trace).args([
        "--entries",
        "60",
        "--goal",
        "hits",
    ]));
    assert!(said.contains("4000 accesses, 4000 bytes\n"), "{said}");
    assert_eq!(row(&said, "lru")[0], "0.00");
    assert!(said.ends_with("choose: adaptive\n"), "{said}");
    for wrong in [&["--entries", "60"][..], &["t", "--entries", "x"], &["t", "--what", "1"]] {
        let output = Command::new(&program).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

/// The figures of the row `name`: pool first and later, malloc first and later, or one of each.
fn row<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let line = table.lines().find(|line| line.trim_start().starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no row `{name}` in\n{table}"));
    line.trim_start()[name.len()..].split_whitespace().collect()
}

#[test]
fn plan_says_what_a_trace_needs_and_draws_it() {
    let program = example("plan", C, "c99", "plan.c");
    let file = |name: &str| program.with_file_name(name);
    let (svg, timeline, saved) = (file("plan.svg"), file("trace.svg"), file("plan.csv"));
    let said = native::stdout_of(
        Command::new(&program)
            .args(["examples_c/gpt_step.csv.gz", "--seconds", "60", "--top", "3"])
            .args([&"--svg".into(), &svg, &"--trace".into(), &timeline, &"--save".into(), &saved])
            .current_dir(native::root()),
    );
    assert!(said.starts_with("examples_c/gpt_step.csv.gz: 1822 tensors, "), "{said}");
    // It ends at the bound, with a minute for it.
    assert_eq!(row(&said, "bound")[0], row(&said, "arena")[0], "{said}");
    assert!(said.contains("no plan is smaller") && said.contains("reusable: "), "{said}");
    let table: Vec<&str> = said.lines().skip_while(|line| !line.contains("sharers")).collect();
    assert_eq!(table.iter().position(|line| line.is_empty()), Some(4), "{said}");
    for (path, part) in [(&svg, ">before: arena "), (&timeline, "; most reserved ")] {
        let picture = std::fs::read_to_string(path).unwrap();
        assert!(picture.starts_with("<svg ") && picture.contains(part), "{path:?}");
    }
    // What was saved is an instance with offsets: all fixed, so that nothing is left to plan.
    let said = native::stdout_of(Command::new(&program).arg(&saved));
    assert!(said.contains(": 1822 tensors, ") && said.contains("no plan is smaller"), "{said}");
    let saved = saved.to_str().unwrap();
    let cases: [(&[&str], i32, &str); 7] = [
        (&["no-such-file.csv"], 1, "no-such-file.csv"),
        (&["Cargo.toml"], 1, "line 1"),
        (&[], 2, "no file"),
        (&["a.csv", "b.csv"], 2, "b.csv"),
        (&["a.csv", "--seconds", "0"], 2, "from 1 to 3600, not: 0"),
        (&["a.csv", "--fast"], 2, "no such option, or nothing behind it: --fast"),
        (&[saved, "--trace", "t.svg"], 2, "--trace needs a trace"),
    ];
    for (arguments, status, message) in cases {
        let mut command = Command::new(&program);
        let output = command.args(arguments).current_dir(native::root()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(message), "{arguments:?}: {said}");
    }
}

#[test]
fn replay_prints_the_pool_beside_malloc() {
    let replay = example("beside", C, "c99", "replay.c");
    let said = native::stdout_of(
        Command::new(replay).args(["--no-touch", "--rounds", "3"]).current_dir(native::root()),
    );
    assert!(said.lines().all(|line| line.len() <= 80), "wider than 80 columns:\n{said}");
    assert!(said.starts_with("examples_c/gpt_step.csv.gz: 1822 allocations, 1822 frees\n"));
    let times = row(&said, "ns per operation");
    assert_eq!(times.len(), 4, "{said}");
    assert!(times.iter().all(|time| time.parse::<f64>().unwrap() > 0.0), "{said}");
    // Both see the same trace, and only the pool can tell what it mapped.
    let requested = row(&said, "peak requested, MiB");
    assert_eq!(requested[0], requested[1], "{said}");
    let reserved = row(&said, "peak reserved, MiB");
    assert!(reserved[0].parse::<f64>().unwrap() >= requested[0].parse::<f64>().unwrap(), "{said}");
    assert_eq!(reserved[1], "-", "{said}");
}

#[test]
fn replay_writes_to_the_memory_of_a_small_trace() {
    let replay = example("small", C, "c99", "replay.c");
    let folder = native::empty_folder("replay-small");
    let trace = folder.join("small.csv");
    let rows = "Thread,Time,Action,Pointer,Size,Stream\n\
                1,00:00:00.000000,allocate,0x1000,8388608,0x0\n\
                1,00:00:00.000001,free,0x1000,8388608,0x0\n";
    std::fs::write(&trace, rows).unwrap();
    let said = native::stdout_of(Command::new(replay).arg(&trace).args(["--rounds", "4"]));
    assert!(said.contains("EVERY PAGE WRITTEN TO"), "{said}");
    assert!(said.contains("BOOKKEEPING ONLY"), "{said}");
    assert_eq!(row(&said, "hit rate")[..4], ["0.0", "%", "100.0", "%"], "{said}");
    assert_eq!(row(&said, "system calls")[1], "0", "{said}");
}

#[test]
fn replay_ends_with_an_error_that_says_why() {
    let replay = example("errors", C, "c99", "replay.c");
    let folder = native::empty_folder("replay-errors");
    let trace = folder.join("broken.csv");
    std::fs::write(&trace, "Thread,Time,Action,Pointer,Size,Stream\n1,0,grow,0x1,1,0x0\n").unwrap();
    let broken = trace.to_str().unwrap();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["no-such-file.csv"], 1, "no-such-file.csv"),
        (&[broken], 1, "line 2"),
        (&["--limit", "104857600", "--no-touch"], 1, "allocations failed"),
        (&["--limit", "-1"], 2, "--limit needs a number of bytes, not: -1"),
        (&["--rounds", "1001"], 2, "from 1 to 1000, not: 1001"),
        (&["--policy", "fast"], 2, "--policy has no such name: fast"),
        (&["--fast"], 2, "no such option: --fast"),
        (&["a.csv", "b.csv"], 2, "b.csv"),
    ];
    for (arguments, status, message) in cases {
        let output =
            Command::new(&replay).args(arguments).current_dir(native::root()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(message), "{arguments:?}: {said}");
    }
}

#[test]
fn prefetch_reads_ahead_what_it_reads_in_turns() {
    let program = example("prefetch", C, "c99", "prefetch.c");
    let folder = native::empty_folder("prefetch-file");
    let file = folder.join("batches");
    let bytes: Vec<u8> = (0..9_000_001u32).map(|at| (at * 7 + at / 256) as u8).collect();
    std::fs::write(&file, bytes).unwrap();
    for more in [&["--batch", "1048576"][..], &["--slots", "1"], &["--direct", "--threads", "3"]] {
        let said = native::stdout_of(Command::new(&program).arg(&file).args(more));
        let sums: Vec<&str> =
            said.lines().filter_map(|line| line.split("checksum ").nth(1)).collect();
        assert_eq!(sums.len(), 2, "{said}");
        assert_eq!(sums[0], sums[1], "{said}");
        assert!(said.contains("overlap "), "{said}");
    }
    for (arguments, status) in [(&[][..], 2), (&["--slots", "65"], 2), (&["no-such-file"], 1)] {
        let output = Command::new(&program).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
    }
}
