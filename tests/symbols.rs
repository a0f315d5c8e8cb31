//! What the shared library shows to the world: its symbols, compared with `abi/symbols.txt`
//! (`FOREBAY_BLESS=1 cargo test --test symbols` writes it anew) and with the header, its name,
//! and that it stays loaded.

#![allow(clippy::unwrap_used)] // That is how a test fails.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// What `readelf` says about the library of this build.
fn readelf(arguments: &[&str]) -> String {
    let library = std::env::current_exe().unwrap().with_file_name("libforebay.so");
    assert!(library.exists(), "{} is not there; cargo builds it with the tests", library.display());
    let output = Command::new("readelf")
        .env("LC_ALL", "C")
        .args(arguments)
        .arg(library)
        .output()
        .unwrap_or_else(|error| panic!("readelf does not start ({error}); install binutils"));
    assert!(output.status.success(), "readelf: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every symbol that others can link against.
fn exported() -> BTreeSet<String> {
    let table = readelf(&["--dyn-syms", "--wide"]);
    let symbols: BTreeSet<String> = table
        .lines()
        .filter_map(|line| {
            // Num: Value Size Type Bind Vis Ndx Name
            let columns: Vec<&str> = line.split_whitespace().collect();
            let &[_, _, _, _, bind, _, section, name, ..] = columns.as_slice() else {
                return None;
            };
            let defined = section != "UND" && section != "Ndx";
            (defined && bind != "LOCAL").then(|| name.to_owned())
        })
        .collect();
    assert!(!symbols.is_empty(), "readelf shows no symbol:\n{table}");
    symbols
}

#[test]
fn the_symbols_are_those_of_the_list() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("abi/symbols.txt");
    let now: String = exported().into_iter().map(|symbol| symbol + "\n").collect();
    if std::env::var_os("FOREBAY_BLESS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let listed = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        listed, now,
        "abi/symbols.txt (left) and the library (right) differ; a symbol that goes away breaks \
         programs. If it is meant: FOREBAY_BLESS=1 cargo test --test symbols"
    );
}

#[test]
fn nothing_but_forebay_leaks_out() {
    let strangers: Vec<String> =
        exported().into_iter().filter(|symbol| !symbol.starts_with("forebay_")).collect();
    assert!(strangers.is_empty(), "exported without our prefix: {strangers:?}");
}

/// The functions that the header declares: a name before an opening bracket, outside of
/// comments, macros and function types.
fn declared() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/forebay.h");
    let text = std::fs::read_to_string(path).unwrap();
    let mut continued = false;
    let code: String = text
        .lines()
        .filter(|line| {
            let directive = continued || line.trim_start().starts_with('#');
            continued = directive && line.ends_with('\\');
            !directive && !line.trim_start().starts_with("//")
        })
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    let functions: BTreeSet<String> = code
        .split('(')
        .filter_map(|before| {
            let start = before.rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
            let name = &before[start + 1..];
            name.starts_with("forebay_").then(|| name.to_owned())
        })
        .collect();
    assert!(functions.contains("forebay_alloc"), "found in the header: {functions:?}");
    functions
}

#[test]
fn the_header_declares_what_is_exported() {
    let (declared, exported) = (declared(), exported());
    let missing: Vec<_> = declared.difference(&exported).collect();
    let undeclared: Vec<_> = exported.difference(&declared).collect();
    assert!(missing.is_empty(), "declared in the header, but not exported: {missing:?}");
    assert!(undeclared.is_empty(), "exported, but not declared in the header: {undeclared:?}");
}

#[test]
fn the_name_and_the_flags() {
    let dynamic = readelf(&["--dynamic", "--wide"]);
    let name = format!("Library soname: [libforebay.so.{}]", env!("CARGO_PKG_VERSION_MAJOR"));
    assert!(dynamic.contains(&name), "no `{name}` in:\n{dynamic}");
    let flags = dynamic.lines().find(|line| line.contains("(FLAGS_1)")).unwrap_or_default();
    // Threads and exit handlers of ours run its code until the end: dlclose must not unmap it.
    for flag in ["NODELETE", "NOW"] {
        assert!(flags.split_whitespace().any(|word| word == flag), "no {flag} in `{flags}`");
    }
}
