//! Programs that never heard of forebay, under `libforebay_preload.so`: those of `tests/preload`,
//! one for each thing that can go wrong, the C tests of this project, and some that are here
//! anyway.
//!
//! `FOREBAY_TEST_STRESS=1800` has the stress program run for half an hour.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics, in helpers too.

mod native;

use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use forebay::trace::{Action, Trace};

/// A folder with the two libraries under the names by which they are found.
static LIBRARIES: LazyLock<PathBuf> = LazyLock::new(|| {
    let built = std::env::current_exe().unwrap();
    let folder = native::empty_folder("preload-lib");
    for (file, name) in [
        ("libforebay.so", "libforebay.so"),
        ("libforebay.so", "libforebay.so.0"),
        ("libforebay_preload.so", "libforebay_preload.so"),
    ] {
        let library = built.with_file_name(file);
        assert!(library.exists(), "no {}", library.display());
        symlink(library, folder.join(name)).unwrap();
    }
    folder
});

fn preload() -> PathBuf {
    LIBRARIES.join("libforebay_preload.so")
}

/// A program of `tests/preload`, compiled once for each test that wants it under `name`.
fn program(noun: &str, name: &str, arguments: &[&str]) -> PathBuf {
    let folder = native::empty_folder(&format!("preload-{name}"));
    let to = folder.join(noun);
    let source = native::root().join("tests/preload").join(noun).with_extension("c");
    // Calls of the allocator are what is tested: the compiler leaves none out.
    // And what dlsym gives is a function, whatever ISO C says.
    let all =
        ["-D_GNU_SOURCE", "-fno-builtin-malloc", "-fno-builtin-free", "-pthread", "-Wno-pedantic"];
    let all = all.iter().chain(arguments).chain(&["-ldl"]);
    native::compile(native::Language::C, "gnu11", &[source], &to, all);
    to
}

/// `program` under the preloaded library, with `variable` as FOREBAY_PRELOAD.
fn preloaded(program: impl AsRef<Path>, variable: &str) -> Command {
    let mut command = Command::new(program.as_ref());
    command.env("LD_PRELOAD", preload());
    if variable.is_empty() {
        command.env_remove("FOREBAY_PRELOAD");
    } else {
        command.env("FOREBAY_PRELOAD", variable);
    }
    command
}

/// Runs a program of `tests/preload` that ends with "done" and says nothing else.
fn expect_done(noun: &str) {
    let program = program(noun, noun, &[]);
    let output = native::run(&mut preloaded(program, ""));
    assert_eq!(said(&output), "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

macro_rules! programs {
    ($($noun:ident)*) => {$(
        #[test]
        fn $noun() {
            expect_done(stringify!($noun));
        }
    )*};
}

programs! { functions small early before grows threads forks signals idle }

/// Past the capture of what passing tests print.
fn not_checked(what: &str) {
    let _ = writeln!(std::io::stderr(), "NOT CHECKED: {what}");
}

#[test]
fn stress() {
    let seconds = std::env::var("FOREBAY_TEST_STRESS").unwrap_or_else(|_| "6".into());
    let program = program("stress", "stress", &[]);
    for variable in ["", "threshold=33K;policy=conservative"] {
        let output = native::run(preloaded(&program, variable).arg(&seconds));
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.starts_with("done"), "{told}");
        assert_eq!(said(&output), "");
    }
}

#[test]
fn the_next_allocator_is_the_one_that_the_program_links() {
    let folder = native::empty_folder("preload-other-lib");
    let library = folder.join("libother.so");
    let source = native::root().join("tests/preload/other.c");
    let how = ["-shared", "-fPIC", "-fno-builtin", "-Wno-missing-prototypes"];
    native::compile(native::Language::C, "gnu11", std::slice::from_ref(&source), &library, how);
    let link = [
        format!("-L{}", folder.display()),
        "-lother".into(),
        format!("-Wl,-rpath,{}", folder.display()),
    ];
    let link: Vec<&str> = link.iter().map(String::as_str).collect();
    let shared = program("beside_other", "beside-shared", &link);
    let output = native::run(preloaded(shared, "stats=exit").arg("shared"));
    assert!(said(&output).contains("requests served"), "{}", said(&output));

    // The other way round: an allocator in the program itself comes first, and gets everything.
    let object = folder.join("other.o");
    native::compile(native::Language::C, "gnu11", &[source], &object, ["-c", "-fno-builtin"]);
    let link = [object.to_str().unwrap(), "-rdynamic"];
    let inside = program("beside_other", "beside-inside", &link);
    let output = native::run(preloaded(inside, "stats=exit").arg("inside"));
    assert_eq!(said(&output), "");
}

#[test]
fn a_wrong_free_ends_the_program_and_says_why() {
    let program = program("wrong", "wrong", &[]);
    for (how, why) in [("twice", "freed before"), ("inside", "ptr")] {
        let output = preloaded(&program, "").arg(how).output().unwrap();
        assert_eq!(output.status.signal(), Some(6), "{how}: {}", said(&output));
        let said = said(&output);
        assert!(said.starts_with("forebay_preload: free(): invalid pointer: "), "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn libraries_come_and_go() {
    let program = program("loaded", "loaded", &[]);
    native::run(preloaded(&program, "").args(["libm.so.6", "pooled"]));
    // As any library it is harmless, and fits where little thread-local storage is left.
    let mut command = Command::new(&program);
    command.env_remove("LD_PRELOAD").env("FOREBAY_PRELOAD", "stats=exit");
    let output = native::run(command.arg(preload()).arg("unpooled"));
    assert_eq!(said(&output), "");
}

/// A library with much storage of that kind could not be loaded by who has little left, and each
/// library gets a part of what all share.
#[test]
fn thread_local_storage_is_little() {
    let table = native::stdout_of(
        Command::new("readelf").env("LC_ALL", "C").args(["--segments", "--wide"]).arg(preload()),
    );
    let row = table.lines().find(|row| row.trim_start().starts_with("TLS")).unwrap();
    let bytes = row.split_whitespace().nth(5).unwrap();
    let bytes = u64::from_str_radix(bytes.trim_start_matches("0x"), 16).unwrap();
    assert!(bytes <= 256, "{row}");
}

#[test]
fn it_exports_what_it_stands_for_and_nothing_else() {
    let table = native::stdout_of(
        Command::new("readelf").env("LC_ALL", "C").args(["--dyn-syms", "--wide"]).arg(preload()),
    );
    let mut exported: Vec<&str> = table
        .lines()
        .map(|row| row.split_whitespace().collect::<Vec<_>>())
        .filter(|row| row.len() == 8 && row[6] != "UND" && row[6] != "Ndx")
        .map(|row| row[7])
        .filter(|name| !name.starts_with("cu"))
        .collect();
    exported.sort_unstable();
    assert_eq!(
        exported,
        [
            "aligned_alloc",
            "calloc",
            "cfree",
            "free",
            "free_aligned_sized",
            "free_sized",
            "malloc",
            "malloc_usable_size",
            "memalign",
            "posix_memalign",
            "pvalloc",
            "realloc",
            "reallocarray",
            "valloc"
        ]
    );
}

/// A folder with the simulated driver and runtime under the names that programs look for.
fn simulated_cuda(name: &str) -> PathBuf {
    let folder = native::simulated_driver(name);
    let runtime = std::env::current_exe().unwrap().with_file_name("libsim_cudart.so");
    assert!(runtime.exists(), "{}", runtime.display());
    symlink(runtime, folder.join("libcudart.so.13")).unwrap();
    folder
}

#[test]
fn cuda() {
    let folder = simulated_cuda("preload-cuda");
    let search = format!("-L{}", folder.display());
    let program = program("cuda", "cuda", &[&search, "-l:libcudart.so.13", "-l:libcuda.so.1"]);
    let run = |variable: &str, how: &str| {
        let mut command = preloaded(&program, variable);
        command.arg(how).env("LD_LIBRARY_PATH", &folder).env("SIM_CUDA_DEVICES", "2");
        let output = native::run(&mut command);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
        said(&output)
    };
    let said = run("host,cuda;stats=exit", "pooled");
    for table in
        ["GPU 0, freed by waiting", "GPU 0, in stream order", "GPU 1, freed by waiting", "host"]
    {
        assert!(said.contains(table), "{table}: {said}");
    }
    assert_eq!(run("cuda", "pooled"), "");
    assert_eq!(run("host", "passed"), "");
    let said = run("cuda;policy=quickly", "passed");
    assert!(said.contains("'quickly' is no policy"), "{said}");
}

#[test]
fn cuda_that_cannot_be_seen() {
    let folder = simulated_cuda("preload-no-cuda");
    let program = program("no_cuda", "no-cuda", &[]);
    let run = |variable: &str, how: &str| {
        let mut command = preloaded(&program, variable);
        said(&native::run(command.arg(how).env("LD_LIBRARY_PATH", &folder)))
    };
    let once = run("cuda", "call");
    assert_eq!(once.lines().count(), 1, "{once}");
    assert!(once.contains("no shared libcudart or libcuda"), "{once}");
    let once = run("cuda", "load");
    assert_eq!(once.lines().count(), 1, "{once}");
    assert!(once.contains("linked in statically"), "{once}");
    assert_eq!(run("host", "call"), "");
    assert_eq!(run("host", "load"), "");
}

#[test]
fn a_bad_value_is_named_once_and_the_program_runs() {
    let program = program("small", "small-bad", &[]);
    let output = native::run(&mut preloaded(program, "threshold=12Q"));
    assert_eq!(
        said(&output),
        "forebay_preload: FOREBAY_PRELOAD: '12Q' is no threshold; it must be a number of bytes, or \
         one with K, M or G, from 33K to 1G; nothing is pooled\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
}

#[test]
fn without_the_library_beside_it_the_program_runs() {
    let folder = native::empty_folder("preload-alone");
    let alone = folder.join("libforebay_preload.so");
    std::fs::copy(preload(), &alone).unwrap();
    let program = program("stress", "stress-alone", &[]);
    // It waits for a pool in vain, and says so.
    let output = preloaded(program, "")
        .env("LD_PRELOAD", &alone)
        .env_remove("LD_LIBRARY_PATH")
        .env("FOREBAY_TEST_WAIT", "3")
        .arg("1")
        .output()
        .unwrap();
    let said = said(&output);
    let ours = said.lines().filter(|line| line.starts_with("forebay_preload: ")).count();
    assert_eq!(ours, 1, "{said}");
    assert!(said.contains("no libforebay.so.0, beside this library or elsewhere"), "{said}");
    assert!(said.contains("warm_up() does not hold"), "{said}");
}

#[test]
fn a_table_at_the_end_and_a_trace() {
    let program = program("early", "early-trace", &[]);
    let folder = program.parent().unwrap();
    let output = native::run(
        preloaded(&program, "host; stats=exit; trace=out-%p.csv.gz").current_dir(folder),
    );
    let said = said(&output);
    let number = |name: &str| -> u64 {
        let row = said.lines().find(|row| row.contains(name));
        let row = row.unwrap_or_else(|| panic!("no {name} in {said}"));
        row.split_whitespace().last().unwrap().parse().unwrap()
    };
    assert!(number("large requests before the pool") >= 32);
    let requests = number("requests served");
    assert!(requests >= 1);
    let process = said.strip_prefix("forebay_preload: process ").unwrap();
    let process = process.split(',').next().unwrap();
    let trace = Trace::load(folder.join(format!("out-{process}.csv.gz"))).unwrap();
    let taken = |event: &&forebay::trace::Event| event.action == Action::Allocate;
    let taken: Vec<_> = trace.events.iter().filter(taken).collect();
    assert_eq!(taken.len() as u64, requests);
    assert!(taken.iter().any(|event| event.size == 2 << 20));
}

/// One core in the process: the program's own library is what serves its large blocks.
#[test]
fn programs_that_use_forebay_themselves() {
    let folder = native::empty_folder("preload-c");
    let link = native::with_library("preload-c");
    // Not block.c: to it what malloc gives is of no pool.
    for noun in ["status", "log", "stream", "pool", "stats", "trace", "threads", "cache"] {
        let to = folder.join(noun);
        let source = native::root().join("tests/c").join(noun).with_extension("c");
        let with = link.iter().map(String::as_str).chain(["-pthread", "-ldl"]);
        native::compile(native::Language::C, "c99", &[source], &to, with);
        let mut command = preloaded(&to, "threshold=33K;stats=exit");
        native::run(command.current_dir(&folder).env("FOREBAY_TEST_SHORT", "1"));
    }
}

#[test]
fn cpp_programs() {
    let folder = native::empty_folder("preload-cpp");
    let link = native::with_library("preload-cpp");
    let to = folder.join("forebay");
    let sources =
        ["forebay.cpp", "second_unit.cpp"].map(|file| native::root().join("tests/cpp").join(file));
    let with = link.iter().map(String::as_str).chain(["-pthread", "-ldl"]);
    native::compile(native::Language::Cpp, "c++17", &sources, &to, with);
    native::run(&mut preloaded(&to, "threshold=33K"));
}

#[test]
fn valgrind_has_its_own_way() {
    let program = program("wrong", "valgrind", &[]);
    let output = Command::new("valgrind")
        .args(["-q", "--error-exitcode=9", "--trace-children=no"])
        .arg(program)
        .arg("inside")
        .env("LD_PRELOAD", preload())
        .env("FOREBAY_PRELOAD", "stats=exit")
        .env("FOREBAY_TEST_WAIT", "3")
        .output()
        .unwrap_or_else(|error| panic!("valgrind does not start ({error}); install it"));
    // No pool, as the program finds in the end; and nothing that valgrind has to say.
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("warm_up() does not hold"), "{said}");
    assert!(!said.contains("=="), "{said}");
}

#[test]
fn address_sanitizer_has_its_own_way() {
    let run = |name: &str, how: &[&str], options: &str| {
        let folder = native::empty_folder(&format!("preload-{name}"));
        let probe = folder.join("probe.c");
        std::fs::write(&probe, "int main(void) { return 0; }\n").unwrap();
        let mut compiler = Command::new("cc");
        let can = compiler.args(how).arg(&probe).arg("-o").arg(folder.join("probe")).output();
        if !can.is_ok_and(|output| output.status.success()) {
            not_checked(&format!("programs with {how:?}; the compiler has no such thing"));
            return None;
        }
        let program = program("threads", &format!("{name}-threads"), how);
        Some(
            preloaded(program, "stats=exit")
                .env("FOREBAY_TEST_WAIT", "3")
                .env("ASAN_OPTIONS", options)
                .output()
                .unwrap(),
        )
    };
    // Its library refuses to come second, unless told otherwise; then all goes on to it.
    if let Some(output) = run("asan", &["-fsanitize=address"], "") {
        assert!(said(&output).contains("runtime does not come first"), "{}", said(&output));
    }
    let through = |output: Output| {
        assert_eq!(output.status.signal(), None, "{}", said(&output));
        // Not even a table.
        assert!(!said(&output).contains("forebay_preload"), "{}", said(&output));
    };
    let options = "verify_asan_link_order=0:detect_leaks=0";
    let second = run("asan-second", &["-fsanitize=address"], options);
    let inside = run("asan-inside", &["-fsanitize=address", "-static-libasan"], "detect_leaks=0");
    second.into_iter().chain(inside).for_each(through);
}

#[test]
fn python_with_large_buffers() {
    let script = "
import hashlib, os, threading, zlib
def work():
    for n in range(200):
        data = bytes(range(256)) * (400 * (n % 20 + 1))
        assert zlib.decompress(zlib.compress(data, 1)) == data
        more = bytearray(data); more += data; del more[:100]
        assert hashlib.sha256(bytes(more[-100:])).digest() == hashlib.sha256(data[-100:]).digest()
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
for n in range(5):
    pid = os.fork()
    if pid == 0:
        work(); os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
[thread.join() for thread in threads]
print('done')
";
    let output = native::run(preloaded("python3", "stats=exit").args(["-c", script]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
    assert!(said(&output).contains("requests served"), "{}", said(&output));
}

#[test]
fn numpy() {
    // `make test-torch` installs one that has it.
    let installed = native::root().join(".venv-python/bin/python");
    let installed = if installed.exists() { installed } else { "python3".into() };
    let python = std::env::var_os("FOREBAY_TEST_PYTHON").map_or(installed, PathBuf::from);
    let there = Command::new(&python).args(["-c", "import numpy"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        not_checked(
            "NumPy; make test-torch installs it, or set FOREBAY_TEST_PYTHON to a Python that has it",
        );
        return;
    }
    let script = "
import numpy as np
random = np.random.default_rng(1)
a = random.random((512, 1024))
for n in range(100):
    b = a * 2 + 1
    zeros = np.zeros((n + 1, 4096)); assert not zeros.any(); zeros += 1
    c = np.concatenate([b, zeros[:, :1024].repeat(2, axis=0)])
    assert c.shape[0] == 512 + 2 * (n + 1)
    d = np.sort(c.ravel()); assert d[0] <= d[-1]
    f = np.fft.irfft(np.fft.rfft(a)); assert np.allclose(f, a)
print('done')
";
    let output = native::run(preloaded(python, "stats=exit").args(["-c", script]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
    assert!(said(&output).contains("requests served"), "{}", said(&output));
}
