//! The name by which programs look for the runtime. Its symbols have no version: the loader takes
//! them for any, and says so only to programs that link it themselves.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let major = if std::env::var_os("CARGO_FEATURE_CUDA_12").is_some() { 12 } else { 13 };
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcudart.so.{major}");
}
