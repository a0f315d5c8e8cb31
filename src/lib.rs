//! forebay
pub mod capi;
pub mod device;
pub mod error;
pub mod order;
pub mod pool;
pub mod replay;
pub mod space;
pub mod trace;
