//! Caches over pools: what is not the same for every memory.

use std::sync::Arc;

use super::engine::Cache;
use super::{Config, fork, key};
use crate::error::Result;
use crate::order::Stream;
use crate::pool::Pool;

impl Cache<Pool> {
    /// A cache for blocks of `pools`.
    pub fn over(pools: &[Arc<Pool>], config: &Config) -> Result<Arc<Cache>> {
        let cache = Cache::create(pools, config)?;
        fork::enter(&cache);
        Ok(cache)
    }

    /// As [`Cache::put`], of a copy of the `size` bytes at `from` in a block of the first pool.
    ///
    /// # Safety
    /// The bytes are there and are the caller's to read, in the order of `stream`.
    pub unsafe fn put_copy(
        &self,
        key: &[u8],
        from: usize,
        size: usize,
        stream: Stream,
    ) -> Result<()> {
        self.check_open()?;
        key::check(key)?;
        self.check_size(size as u64)?;
        let pool = self.memory(0)?;
        // SAFETY: the caller's promise.
        let address = unsafe { pool.alloc_copy(from, size, stream)? };
        self.put(key, address, stream).inspect_err(|_| {
            let _ = pool.free(address, stream);
        })
    }
}
