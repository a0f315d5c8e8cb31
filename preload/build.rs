//! How the library is linked: its SONAME, and that it stays.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libforebay_preload.so");
    // Pointers of its pool are freed until the process ends, by whoever has them.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete,-z,now");
}
