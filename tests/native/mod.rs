//! Programs in C and C++, compiled against the library that `cargo test` built, and run.

// Each test uses its part of this.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The top of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// An empty folder for what the test called `name` makes.
pub fn empty_folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A language with its compiler, `$CC` or `$CXX` where they are set.
#[derive(Clone, Copy)]
pub enum Language {
    C,
    Cpp,
}

impl Language {
    fn compiler(self) -> Command {
        let (variable, default) = match self {
            Language::C => ("CC", "cc"),
            Language::Cpp => ("CXX", "c++"),
        };
        let words = std::env::var(variable).unwrap_or_default();
        let mut words = words.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or(default));
        command.args(words);
        command
    }
}

/// Runs `command`; its output, or a panic with all it said when it cannot or fails.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}

/// As [`run`]; what it printed.
pub fn stdout_of(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).unwrap()
}

/// Compiles `sources` into the program `to`, in which a warning is an error; `arguments` stand
/// at the end, as libraries must.
pub fn compile<A: AsRef<OsStr>>(
    language: Language,
    standard: &str,
    sources: &[PathBuf],
    to: &Path,
    arguments: impl IntoIterator<Item = A>,
) {
    let mut compiler = language.compiler();
    compiler.args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-O1"]);
    compiler.arg(format!("-std={standard}")).arg("-o").arg(to);
    run(compiler.args(sources).args(arguments));
}

/// A folder in which the loader finds the simulated driver as `libcuda.so.1`.
pub fn simulated_driver(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let driver = program.parent().unwrap().join("libsim_cuda.so");
    assert!(driver.exists(), "{driver:?}");
    let folder = empty_folder(&format!("{name}-driver"));
    symlink(driver, folder.join("libcuda.so.1")).unwrap();
    folder
}

/// The library under test, under the names by which programs look for it, in a folder of the
/// test called `name`: what to compile and link with.
pub fn with_library(name: &str) -> Vec<String> {
    // `cargo test` puts it beside the test binary, and nowhere else.
    let library = std::env::current_exe().unwrap().with_file_name("libforebay.so");
    assert!(library.exists(), "no {}", library.display());
    let folder = empty_folder(&format!("{name}-lib"));
    for link in ["libforebay.so", "libforebay.so.0"] {
        symlink(&library, folder.join(link)).unwrap();
    }
    vec![
        format!("-I{}", root().join("include").display()),
        format!("-L{}", folder.display()),
        "-lforebay".into(),
        format!("-Wl,-rpath,{}", folder.display()),
    ]
}
