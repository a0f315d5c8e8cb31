//! `make install`: the files are where they belong, and programs are built through pkg-config
//! and CMake from an installed tree, shared and static.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics, in helpers too.

mod native;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

const PREFIX: &str = "/opt/forebay";

/// The root of the tree that `make install` wrote.
static STAGE: LazyLock<PathBuf> = LazyLock::new(|| {
    let stage = native::empty_folder("install-stage");
    native::run(
        Command::new("make")
            .arg("install")
            .arg(format!("PREFIX={PREFIX}"))
            .arg(format!("DESTDIR={}", stage.display()))
            .current_dir(native::root())
            // A make that runs the tests must not hand its options down.
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL"),
    );
    stage
});

fn pkg_config(stage: &Path, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command
        .args(arguments)
        .arg("forebay")
        .env("PKG_CONFIG_LIBDIR", stage.join("opt/forebay/lib/pkgconfig"))
        .env("PKG_CONFIG_SYSROOT_DIR", stage);
    native::stdout_of(&mut command).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn every_file_is_where_it_belongs() {
    let stage = STAGE.as_path();
    let version = env!("CARGO_PKG_VERSION");
    let base = stage.join("opt/forebay");
    let plain = [
        format!("lib/libforebay.so.{version}"),
        "lib/libforebay.a".into(),
        "lib/libforebay_preload.so".into(),
        "lib/pkgconfig/forebay.pc".into(),
        "lib/cmake/forebay/forebay-config.cmake".into(),
        "lib/cmake/forebay/forebay-config-version.cmake".into(),
        "include/forebay.h".into(),
        "include/forebay.hpp".into(),
    ];
    for file in &plain {
        let kind = base.join(file).symlink_metadata().unwrap_or_else(|error| {
            panic!("{file}: {error}");
        });
        assert!(kind.is_file(), "{file}");
    }
    let link = |name: &str| std::fs::read_link(base.join("lib").join(name)).unwrap();
    assert_eq!(link("libforebay.so.0"), PathBuf::from(format!("libforebay.so.{version}")));
    assert_eq!(link("libforebay.so"), PathBuf::from("libforebay.so.0"));

    let mut files = 0;
    let mut folders = vec![base.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read(&path).unwrap();
            let has = |part: &str| text.windows(part.len()).any(|at| at == part.as_bytes());
            if !path.to_str().unwrap().contains("libforebay") {
                assert!(!has("@"), "{}: a template's place is not filled", path.display());
                assert!(!has(stage.to_str().unwrap()), "{} names DESTDIR", path.display());
            }
        }
    }
    assert_eq!(files, plain.len() + 2, "more is installed than is said");
}

#[test]
fn a_program_that_knows_nothing_of_it_gets_a_pool() {
    let library = STAGE.join("opt/forebay/lib/libforebay_preload.so");
    // Until there is a pool, for half a minute at most.
    let script = "import time\nleft = 6000\nwhile left:\n  left -= 1\n  bytearray(1 << 20)\n  \
                  time.sleep(0.005)\n  if left > 200 and left % 20 == 0 and 'libforebay.so' in \
                  open('/proc/self/maps').read(): left = 200";
    let output = native::run(
        Command::new("python3")
            .args(["-c", script])
            .env("LD_PRELOAD", library)
            .env("FOREBAY_PRELOAD", "stats=exit")
            .env_remove("LD_LIBRARY_PATH"),
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("requests served"), "{said}");
}

#[test]
fn a_program_is_built_through_pkg_config() {
    let stage = STAGE.as_path();
    let folder = native::empty_folder("install-pkg-config-build");
    let source = [native::root().join("examples_c/pool.c")];
    let lib = stage.join("opt/forebay/lib");

    let shared = folder.join("shared");
    let flags = pkg_config(stage, &["--cflags", "--libs"]);
    native::compile(native::Language::C, "c99", &source, &shared, &flags);
    let said = native::stdout_of(Command::new(&shared).env("LD_LIBRARY_PATH", &lib));
    assert!(said.starts_with("requested 1000000"), "{said}");
    let alone = Command::new(&shared).env_remove("LD_LIBRARY_PATH").output().unwrap();
    assert!(!alone.status.success(), "it was not the installed library that it ran with");

    let fixed = folder.join("static");
    let mut flags = pkg_config(stage, &["--static", "--cflags", "--libs"]);
    for flag in flags.iter_mut().filter(|flag| *flag == "-lforebay") {
        *flag = "-l:libforebay.a".into();
    }
    native::compile(native::Language::C, "c99", &source, &fixed, &flags);
    let said = native::stdout_of(Command::new(&fixed).env_remove("LD_LIBRARY_PATH"));
    assert!(said.starts_with("requested 1000000"), "{said}");

    assert_eq!(pkg_config(stage, &["--modversion"]), [env!("CARGO_PKG_VERSION")]);
}

/// CMake is not asked for; the test's output says so when it is not there.
#[test]
fn a_program_is_built_through_cmake() {
    let stage = STAGE.as_path();
    if Command::new("cmake").arg("--version").output().is_err() {
        // Past the capture of what passing tests print.
        let _ = writeln!(std::io::stderr(), "NOT CHECKED: the CMake files; there is no cmake");
        return;
    }
    let folder = native::empty_folder("install-cmake-build");
    let lists = "cmake_minimum_required(VERSION 3.16)\n\
                 project(consumer LANGUAGES C CXX)\n\
                 set(CMAKE_CXX_STANDARD 17)\n\
                 find_package(forebay 0.1 REQUIRED)\n\
                 add_executable(shared ${EXAMPLES}/pool.c)\n\
                 target_link_libraries(shared PRIVATE forebay::forebay)\n\
                 add_executable(fixed ${EXAMPLES}/pool.cpp)\n\
                 target_link_libraries(fixed PRIVATE forebay::static)\n\
                 find_package(forebay 1.0 QUIET)\n\
                 if(forebay_FOUND)\n\
                   message(FATAL_ERROR \"0.x was taken for 1.0\")\n\
                 endif()\n";
    std::fs::write(folder.join("CMakeLists.txt"), lists).unwrap();
    native::run(
        Command::new("cmake")
            .arg("-S")
            .arg(&folder)
            .arg("-B")
            .arg(folder.join("build"))
            .arg(format!("-DEXAMPLES={}", native::root().join("examples_c").display()))
            .arg(format!("-DCMAKE_PREFIX_PATH={}", stage.join("opt/forebay").display())),
    );
    native::run(Command::new("cmake").arg("--build").arg(folder.join("build")));
    let said = native::stdout_of(&mut Command::new(folder.join("build/shared")));
    assert!(said.starts_with("requested 1000000"), "{said}");
    let said = native::stdout_of(&mut Command::new(folder.join("build/fixed")));
    assert!(said.contains("as expected: out of memory"), "{said}");
}

#[test]
fn a_wrong_place_is_refused() {
    let install = |prefix: &str, libdir: &str| {
        let output = Command::new(native::root().join("scripts/install.sh"))
            .args(["target/release", prefix, libdir, "/nowhere"])
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, said) = install("usr", "usr/lib");
    assert_eq!(status, Some(2));
    assert!(said.contains("PREFIX is 'usr'; it must be an absolute path"), "{said}");
    let (status, said) = install("/usr", "/lib");
    assert_eq!(status, Some(2));
    assert!(said.contains("LIBDIR is '/lib'; it must lie in PREFIX, '/usr'"), "{said}");
}
