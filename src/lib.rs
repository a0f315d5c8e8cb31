//! forebay
pub mod device;
pub mod error;
pub mod order;
pub mod space;
