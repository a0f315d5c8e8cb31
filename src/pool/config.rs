//! What a pool is made from, and what of it is refused.

use super::Policy;
use crate::error::{Result, fail};

/// Largest `block_size`, in bytes.
pub const BLOCK_SIZE_MAX: u64 = 1 << 30;

/// Guard bytes behind a block, at least.
pub const GUARD_BYTES: usize = 16;

/// Switches of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Blocks are zeroed before they are given out.
    pub zero_on_alloc: bool,
    /// Freed bytes are overwritten.
    pub poison_on_free: bool,
    /// Guard bytes behind each block are checked.
    pub guard_bytes: bool,
    /// Threads keep no just-freed blocks for themselves.
    pub no_front_cache: bool,
}

impl Flags {
    /// Whether a block's bytes have to be written or read when it is given out or back.
    pub fn touch_contents(self) -> bool {
        self.zero_on_alloc || self.poison_on_free || self.guard_bytes
    }
}

/// What a pool is made from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    /// Most bytes mapped; 0 = as many as the device has.
    pub max_bytes: u64,
    /// Bytes mapped at the start.
    pub initial_bytes: u64,
    /// Every size is rounded up to a multiple of this power of two; 0 = no such rounding.
    pub block_size: u64,
    /// The preset.
    pub policy: Policy,
    /// The switches.
    pub flags: Flags,
}

impl Config {
    /// The error for what cannot be.
    pub fn check(&self) -> Result<()> {
        if self.block_size != 0
            && (!self.block_size.is_power_of_two() || self.block_size > BLOCK_SIZE_MAX)
        {
            return Err(fail!(
                InvalidArgument,
                "block_size is {}; it must be 0 or a power of two of at most {BLOCK_SIZE_MAX}",
                self.block_size
            ));
        }
        if self.max_bytes > super::SIZE_MAX {
            return Err(fail!(
                InvalidArgument,
                "max_bytes is {}; the limit is {}",
                self.max_bytes,
                super::SIZE_MAX
            ));
        }
        if self.max_bytes != 0 && self.max_bytes < crate::space::PAGE {
            return Err(fail!(
                InvalidArgument,
                "max_bytes is {}; a pool maps pages of {} bytes, so that is the least",
                self.max_bytes,
                crate::space::PAGE
            ));
        }
        if self.max_bytes != 0 && self.initial_bytes > self.max_bytes {
            return Err(fail!(
                InvalidArgument,
                "initial_bytes is {}, more than max_bytes, {}",
                self.initial_bytes,
                self.max_bytes
            ));
        }
        Ok(())
    }
}
