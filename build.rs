//! How the shared library is linked: its SONAME, and that it stays.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let major = std::env::var("CARGO_PKG_VERSION_MAJOR").unwrap_or_default();
    // Programs find the library they were built for by this name.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libforebay.so.{major}");
    // Threads and exit handlers of ours run its code until the process ends: dlclose must not
    // take it away. And every symbol is resolved at once, so that none is in the middle of a
    // call.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete,-z,now");
}
