//! Blocks that other processes and other devices use.
//!
//! A block is exported by its pages, whole ones: each as a file descriptor. Another process
//! then has them for as long as it likes, so from then on such a page is never moved or given
//! back before the pool is gone. Once the block is freed, new blocks may come to lie in it.

use std::os::fd::OwnedFd;

use super::Pool;
use crate::error::{Result, fail};
use crate::space::PAGE;

/// Where a block lies in its pages.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// How many pages it lies in.
    pub pages: u64,
    /// How far into the first page it begins, in bytes.
    pub offset: u64,
    /// Its bytes that were asked for.
    pub size: u64,
}

impl Pool {
    /// Where the block at `address` lies, if it is one that can be exported: a run of its own.
    pub fn exported_extent(&self, address: usize) -> Result<Extent> {
        self.check_open()?;
        if self.planned_extent(address).is_some() {
            return Err(fail!(
                InvalidArgument,
                "ptr {address:#x} is a block of the pool's plan, which shares its pages with many; \
                 it cannot be exported"
            ));
        }
        let block = self.live_block(address)?;
        let head = block.head();
        if !head.is_large() {
            return Err(fail!(
                InvalidArgument,
                "ptr {address:#x} is a block of {} bytes, which shares its page with many; only \
                 larger ones, from 33 KiB, can be exported",
                head.size()
            ));
        }
        let offset = address as u64 % PAGE;
        let pages = (offset + head.size()).div_ceil(PAGE);
        Ok(Extent { pages, offset, size: head.requested(block.index) })
    }

    /// Shares the pages of the block at `address`: a descriptor each, in their order. What else
    /// lies in its first and last page is shared with it.
    pub fn export(&self, address: usize) -> Result<Vec<OwnedFd>> {
        let extent = self.exported_extent(address)?;
        self.check_awake()?;
        let first = address - extent.offset as usize;
        let mut pages = Vec::new();
        let mut result = Ok(());
        for page in 0..extent.pages {
            match self.device.share(first + (page * PAGE) as usize) {
                Ok(page) => pages.push(page),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        // Wherever it goes from here, its pages stay; of some of them another process may have
        // been told even if not of all.
        if !pages.is_empty() {
            self.core.lock().fix(address);
        }
        result.map(|()| pages)
    }

    /// Lets the device with the number `ordinal` use the pool's memory, now and from now on.
    pub fn allow_peer(&self, ordinal: u32) -> Result<()> {
        self.check_open()?;
        self.device.allow_peer(ordinal)
    }
}
