//! `include/forebay.hpp`, by the checks in `tests/cpp/`.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics, in helpers too.

mod native;

use std::process::Command;

use native::Language::Cpp;

/// Two translation units, so that what the header defines twice is one thing.
#[test]
fn the_cpp_header_does_what_it_says() {
    let folder = native::empty_folder("cpp");
    let library = native::with_library("cpp");
    let sources =
        ["forebay.cpp", "second_unit.cpp"].map(|name| native::root().join("tests/cpp").join(name));
    for standard in ["c++17", "c++20"] {
        let program = folder.join(standard);
        native::compile(Cpp, standard, &sources, &program, &library);
        let said = native::stdout_of(&mut Command::new(&program));
        assert_eq!(said, "forebay.hpp: all checks passed\n");
    }
}

/// PyTorch's door in a C++ program without PyTorch: what is thrown is `std::bad_alloc`.
#[test]
fn without_pytorch_bad_alloc_is_thrown() {
    let folder = native::empty_folder("cpp-torch");
    let sources = [native::root().join("tests/cpp/torch.cpp")];
    let program = folder.join("torch");
    native::compile(Cpp, "c++17", &sources, &program, native::with_library("cpp-torch"));
    let mut command = Command::new(&program);
    command.env("LD_LIBRARY_PATH", native::simulated_driver("cpp-torch"));
    assert_eq!(native::stdout_of(&mut command), "torch: all checks passed\n");
}

/// Options by name, as C++20 has it.
#[test]
fn options_are_designated_in_cpp20() {
    let folder = native::empty_folder("cpp20");
    let source = folder.join("options.cpp");
    let text = "#include <forebay.hpp>\n\
                int main() {\n\
                    forebay::pool pool({.max_bytes = 4 << 20, .flags = FOREBAY_POOL_GUARD_BYTES});\n\
                    return pool.stats().limit_bytes == 4 << 20 ? 0 : 1;\n\
                }\n";
    std::fs::write(&source, text).unwrap();
    let program = folder.join("options");
    native::compile(Cpp, "c++20", &[source], &program, native::with_library("cpp20"));
    native::run(&mut Command::new(&program));
}
