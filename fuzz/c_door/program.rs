//! Bytes read as a program: the decoder.

/// The program: numbers out of bytes, zeros once they have run out.
pub struct Program<'a>(pub &'a [u8]);

impl Program<'_> {
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    pub fn number(&mut self, bytes: u32) -> u64 {
        (0..bytes).fold(0, |value, _| value << 8 | u64::from(self.byte()))
    }

    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { self.number(2) as usize % limit }
    }

    /// True once in `times`.
    pub fn rarely(&mut self, times: u8) -> bool {
        self.byte() % times == times - 1
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.byte() as usize % from.len()]
    }
}
