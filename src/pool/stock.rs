//! Blocks on their way from threads that free what others allocate to those others.
//!
//! Where one thread allocates and another one frees, the cache of the one that frees runs over
//! and that of the one that allocates runs dry, again and again. Block by block through the
//! space that is work for both, and for nothing: so whole batches go from the one to the other
//! as they are. (The transfer cache of TCMalloc does the same.) A batch holds blocks of one
//! size that were freed on one stream, and only allocations on that stream get it, which need no
//! fence. Under the core's lock.

use super::bin::Entry;
use crate::order::Stream;

/// Most batches in stock.
const BATCHES_MAX: usize = 256;
/// Most of them of one size.
const OF_A_SIZE_MAX: usize = 32;

/// Blocks of one size, freed on one stream. Their words say that they are cached.
#[derive(Debug)]
pub struct Batch {
    /// The bin they are from.
    pub bin: usize,
    /// Bytes of each.
    pub size: u64,
    /// Where they were freed.
    pub stream: Stream,
    /// The blocks, never none.
    pub entries: Vec<Entry>,
}

impl Batch {
    fn bytes(&self) -> u64 {
        self.size * self.entries.len() as u64
    }

    fn fits(&self, bin: usize, size: u64, stream: Stream) -> bool {
        self.bin == bin && self.size == size && self.stream == stream
    }
}

/// What is on its way.
#[derive(Debug, Default)]
pub struct Stock {
    batches: Vec<Batch>,
    bytes: u64,
}

impl Stock {
    /// Takes `batch` in, unless that is more than there may be, `bound` bytes: then it comes
    /// back.
    pub fn put(&mut self, batch: Batch, bound: u64) -> Result<(), Batch> {
        let (bin, size, stream) = (batch.bin, batch.size, batch.stream);
        let same = self.batches.iter().filter(|other| other.fits(bin, size, stream)).count();
        let bytes = self.bytes + batch.bytes();
        if self.batches.len() == BATCHES_MAX || same == OF_A_SIZE_MAX || bytes > bound {
            return Err(batch);
        }
        self.bytes = bytes;
        self.batches.push(batch);
        Ok(())
    }

    /// The batch that came last of blocks of `size` bytes, from bin `bin` and `stream`.
    #[inline]
    pub fn take(&mut self, bin: usize, size: u64, stream: Stream) -> Option<Batch> {
        let at = self.batches.iter().rposition(|batch| batch.fits(bin, size, stream))?;
        let batch = self.batches.remove(at);
        self.bytes -= batch.bytes();
        Some(batch)
    }

    /// Everything.
    pub fn drain(&mut self) -> Vec<Batch> {
        self.bytes = 0;
        std::mem::take(&mut self.batches)
    }

    /// How many blocks there are.
    pub fn count(&self) -> usize {
        self.batches.iter().map(|batch| batch.entries.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(bin: usize, stream: u64, entries: usize) -> Batch {
        let entry = Entry { address: 1, word: std::ptr::null() };
        Batch { bin, size: 64, stream: Stream(stream), entries: vec![entry; entries] }
    }

    #[test]
    fn a_batch_goes_to_its_own_size_and_stream_only() {
        let mut stock = Stock::default();
        stock.put(batch(3, 7, 2), 1000).unwrap();
        stock.put(batch(3, 7, 4), 1000).unwrap();
        assert!(stock.take(4, 64, Stream(7)).is_none());
        assert!(stock.take(3, 128, Stream(7)).is_none());
        assert!(stock.take(3, 64, Stream(8)).is_none());
        assert_eq!(stock.take(3, 64, Stream(7)).map(|batch| batch.entries.len()), Some(4));
        assert_eq!(stock.count(), 2);
    }

    #[test]
    fn it_is_bounded_and_loses_nothing() {
        let mut stock = Stock::default();
        assert_eq!(stock.put(batch(1, 0, 3), 128).unwrap_err().entries.len(), 3);
        stock.put(batch(1, 0, 2), 128).unwrap();
        assert!(stock.put(batch(1, 0, 1), 128).is_err());
        assert_eq!(stock.drain().len(), 1);
        // Empty again, bytes too.
        let fill = |bin: usize, stock: &mut Stock| {
            (0..100).filter(|_| stock.put(batch(bin, 0, 1), u64::MAX).is_ok()).count()
        };
        assert_eq!(fill(0, &mut stock), OF_A_SIZE_MAX);
        assert_eq!(
            (1..20).map(|bin| fill(bin, &mut stock)).sum::<usize>(),
            BATCHES_MAX - OF_A_SIZE_MAX
        );
        assert_eq!(stock.count(), BATCHES_MAX);
    }
}
