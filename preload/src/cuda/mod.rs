//! Placeholder until the cuda half.
pub fn want(_: bool) {}
pub fn end() {}
