//! How much there is: bytes, entries, and what of them a part may have.

/// Most bytes and most entries; `u64::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

impl Budget {
    /// None at all.
    pub const NONE: Budget = Budget { bytes: u64::MAX, entries: u64::MAX };
}

/// Bytes and entries of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes, as [`Size`] rounds them.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

impl Load {
    #[inline]
    pub fn add(&mut self, size: Size) {
        self.bytes += size.bytes();
        self.entries += 1;
    }

    #[inline]
    pub fn sub(&mut self, size: Size) {
        self.bytes -= size.bytes();
        self.entries -= 1;
    }

    /// Whether there is more than the budget.
    #[inline]
    pub fn is_over(&self, budget: Budget) -> bool {
        self.bytes > budget.bytes || self.entries > budget.entries
    }
}

/// An entry's bytes in 30 bits: exact below 32 MiB, above that to one part in 2^24, rounded
/// down, up to 2^48 bytes and more.
///
/// A policy's sums are made of what this gives back, so that they fit together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size(u32);

impl Size {
    const MANTISSA: u32 = 25;
    /// No bytes.
    pub const ZERO: Size = Size(0);
    /// Bits that it leaves free at the upper end.
    pub const SPARE: u32 = 2;

    /// So many, as far as they fit.
    #[inline]
    pub fn of(bytes: u64) -> Size {
        if bytes >> Size::MANTISSA == 0 {
            return Size(bytes as u32);
        }
        Size::of_many(bytes)
    }

    fn of_many(bytes: u64) -> Size {
        let bits = u64::BITS - bytes.leading_zeros();
        let exponent = bits.saturating_sub(Size::MANTISSA).min(31);
        let mantissa = (bytes >> exponent).min((1 << Size::MANTISSA) - 1) as u32;
        Size(exponent << Size::MANTISSA | mantissa)
    }

    /// How many they are.
    #[inline]
    pub fn bytes(self) -> u64 {
        u64::from(self.0 & ((1 << Size::MANTISSA) - 1)) << (self.0 >> Size::MANTISSA)
    }

    /// It as a number that has its upper bits free.
    #[inline]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The one that is in the lower bits of a number.
    #[inline]
    pub fn from_bits(bits: u32) -> Size {
        Size(bits & (u32::MAX >> Size::SPARE))
    }
}

/// What the cache has, what it may have, and what it can have.
///
/// A pool that needs memory takes entries while the cache is within its budget. From then on
/// it is full with what it has left, until it has grown again.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// What there is.
    pub load: Load,
    budget: Budget,
    /// At most the budget.
    full: Budget,
}

impl Room {
    pub const fn new() -> Room {
        Room { load: Load { bytes: 0, entries: 0 }, budget: Budget::NONE, full: Budget::NONE }
    }

    pub fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
        self.full = budget;
    }

    /// Whether bytes have a limit.
    #[inline]
    pub fn counts_bytes(&self) -> bool {
        self.budget.bytes != u64::MAX
    }

    /// Parts are measured in bytes; in entries when only these have a limit.
    #[inline]
    pub fn measure(&self, load: Load) -> u64 {
        if self.counts_bytes() { load.bytes } else { load.entries }
    }

    /// What it is full with.
    #[inline]
    pub fn full(&self) -> Budget {
        self.full
    }

    #[inline]
    pub fn add(&mut self, size: Size) {
        if self.load.is_over(self.full) {
            // Nobody asked for a victim: it has grown.
            self.full.bytes = self.full.bytes.max(self.load.bytes).min(self.budget.bytes);
            self.full.entries = self.full.entries.max(self.load.entries).min(self.budget.entries);
        }
        self.load.add(size);
    }

    #[inline]
    pub fn sub(&mut self, size: Size) {
        self.load.sub(size);
    }

    /// A victim is asked for.
    #[inline]
    pub fn asked(&mut self) {
        if !self.load.is_over(self.full) {
            self.full = Budget { bytes: self.load.bytes, entries: self.load.entries };
        }
    }

    /// Whether a victim will be asked for.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.load.is_over(self.full)
    }

    /// What room an entry takes of what there is too little of: bytes, or one of the entries.
    #[inline]
    pub fn room_of(&self, size: Size) -> u64 {
        if self.load.entries > self.full.entries && self.load.bytes <= self.full.bytes {
            1
        } else {
            size.bytes().max(1)
        }
    }
}
