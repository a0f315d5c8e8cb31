//! forebay
pub mod error;
