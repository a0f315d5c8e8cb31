//! The C tests of `tests/c`: each is compiled by the system's C compiler (`$CC`, or `cc`)
//! against `include/forebay.h` and the shared library of this build, and run twice, as it is
//! and under valgrind.

#![allow(clippy::unwrap_used)] // That is how a test fails.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// A directory of these tests' own, under the target directory.
fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// A directory with the library under the names that the linker and the loader look for.
/// Cargo leaves it beside the test programs, without the name that its SONAME promises.
fn library() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let program = std::env::current_exe().unwrap();
        let library = program.with_file_name("libforebay.so");
        assert!(
            library.exists(),
            "{} is not there; cargo builds it with the tests",
            library.display()
        );
        let directory = scratch("lib");
        for name in ["libforebay.so", "libforebay.so.0"] {
            let link = directory.join(name);
            // Made anew: it may lead to the library of another profile.
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(&library, &link).unwrap();
        }
        directory
    })
}

fn compile(noun: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| OsString::from("cc"));
    let program = scratch("c").join(noun);
    let mut rpath = OsString::from("-Wl,-rpath,");
    rpath.push(library());
    let mut command = Command::new(&compiler);
    command
        .args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-g", "-pthread"])
        .arg("-I")
        .arg(root.join("include"))
        .arg(root.join("tests/c").join(noun).with_extension("c"))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(library())
        .arg(rpath)
        .arg("-lforebay")
        .arg("-ldl");
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("no C compiler `{}` ({error}); set CC", compiler.display()));
    expect_success(&format!("compiling {noun}.c"), &output);
    program
}

fn expect_success(what: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn run(noun: &str) {
    let program = compile(noun);
    let directory = program.parent().unwrap();
    let mut command = Command::new(&program);
    if ON_A_GPU.contains(&noun) {
        command.env("LD_LIBRARY_PATH", driver());
    }
    let output = command.current_dir(directory).output().unwrap();
    expect_success(&format!("{noun}.c"), &output);

    if ON_A_GPU.contains(&noun) {
        // The simulated driver's devices are more addresses than valgrind has.
        return;
    }
    let suppressions = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/valgrind.supp");
    let mut suppress = OsString::from("--suppressions=");
    suppress.push(suppressions);
    let output = Command::new("valgrind")
        .args(["-q", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=definite"])
        .args(["--errors-for-leak-kinds=definite", "--fair-sched=yes", "--num-callers=50"])
        .arg(suppress)
        .arg(&program)
        .current_dir(directory)
        .env("FOREBAY_TEST_SHORT", "1")
        .env("FOREBAY_TEST_VALGRIND", "1")
        .output();
    match output {
        Ok(output) => expect_success(&format!("{noun}.c under valgrind"), &output),
        Err(error) => panic!("valgrind does not start ({error}); install it, the C tests need it"),
    }
}

/// Those that need a driver; they end with status 77 where there is none.
const ON_A_GPU: &[&str] = &["graph", "share", "torch"];

/// A folder in which the loader finds the simulated driver.
fn driver() -> &'static Path {
    static DRIVER: OnceLock<PathBuf> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let built = std::env::current_exe().unwrap().with_file_name("libsim_cuda.so");
        assert!(built.exists(), "{built:?}");
        let folder = scratch("driver");
        let link = folder.join("libcuda.so.1");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(built, link).unwrap();
        folder
    })
}

macro_rules! programs {
    ($($noun:ident)*) => {
        /// All of them, for the check that none is forgotten.
        const NOUNS: &[&str] = &[$(stringify!($noun)),*];

        $(
            #[test]
            fn $noun() {
                run(stringify!($noun));
            }
        )*
    };
}

programs! { status log stream pool block share graph stats trace torch threads cache cache_simulate lifetime plan planned prefetch monitor report }

#[test]
fn every_program_is_run() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
    let mut found: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let mut listed: Vec<&str> = NOUNS.to_vec();
    found.sort();
    listed.sort_unstable();
    assert_eq!(found, listed, "tests/c and the list in tests/c.rs differ");
}
