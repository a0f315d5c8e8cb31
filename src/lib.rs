//! forebay
pub mod error;
pub mod replay;
pub mod trace;
