//! Keys: bytes that name what an entry holds.

use std::fmt::Write;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::error::{Result, fail};

/// Most bytes of a key.
pub const KEY_MAX: usize = 64 << 10;

/// Most dimensions of a shape.
pub const DIMENSIONS_MAX: usize = 64;

/// The error of a key that no entry can have.
pub fn check(key: &[u8]) -> Result<()> {
    if key.is_empty() {
        return Err(fail!(InvalidArgument, "key_size is 0; a key has 1 to {KEY_MAX} bytes"));
    }
    if key.len() > KEY_MAX {
        return Err(fail!(
            InvalidArgument,
            "key_size is {}; a key has 1 to {KEY_MAX} bytes",
            key.len()
        ));
    }
    Ok(())
}

/// The key of tensors of one kind, as text: `float32[3,224,224]@cuda:0`.
pub fn of_tensor(dtype: &str, shape: &[i64], device: &str, index: u32) -> Result<String> {
    if dtype.is_empty() || dtype.len() > 64 {
        return Err(fail!(
            InvalidArgument,
            "dtype has {} bytes; its name has 1 to 64, such as \"float32\"",
            dtype.len()
        ));
    }
    if shape.len() > DIMENSIONS_MAX {
        return Err(fail!(
            InvalidArgument,
            "dimensions is {}; the limit is {DIMENSIONS_MAX}",
            shape.len()
        ));
    }
    if let Some(at) = shape.iter().position(|&length| length < 0) {
        return Err(fail!(InvalidArgument, "shape[{at}] is {}; the least is 0", shape[at]));
    }
    let mut text = String::with_capacity(dtype.len() + 24 * shape.len() + 24);
    text.push_str(dtype);
    text.push('[');
    for (at, length) in shape.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = write!(text, "{}{length}", if at == 0 { "" } else { "," });
    }
    let _ = write!(text, "]@{device}:{index}");
    Ok(text)
}

/// A number from bytes, with a secret that keeps others from choosing keys that collide.
///
/// Two words at a time are multiplied with each other and the halves of the product folded
/// together, as wyhash by Wang Yi does it: short keys, which most are, cost two multiplications.
#[derive(Clone, Copy, Debug)]
pub struct Hash {
    secrets: [u64; 3],
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

impl Hash {
    /// With secrets that the system chose.
    pub fn new() -> Hash {
        let random = RandomState::new();
        let secret = |number: u64| {
            let mut hasher = random.build_hasher();
            hasher.write_u64(number);
            hasher.finish() | 1
        };
        Hash { secrets: [secret(0), secret(1), secret(2)] }
    }

    /// The number of `key`.
    #[inline]
    pub fn of(&self, key: &[u8]) -> u64 {
        let [a, b, c] = self.secrets;
        let mut state = a ^ key.len() as u64;
        let mut pairs = key.chunks_exact(16);
        for pair in &mut pairs {
            let (low, high) = pair.split_at(8);
            state = fold(word(low) ^ b, word(high) ^ state);
        }
        let rest = pairs.remainder();
        let (low, high) = rest.split_at(rest.len().min(8));
        state = fold(word(low) ^ b, word(high) ^ state);
        fold(state ^ c, a)
    }
}

impl Default for Hash {
    fn default() -> Hash {
        Hash::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_spread_in_all_bits() {
        let hash = Hash::new();
        let mut counts = [0u32; 64];
        let keys = 4096u64;
        for key in 0..keys {
            let number = hash.of(&key.to_le_bytes());
            (0..64).for_each(|bit| counts[bit] += (number >> bit & 1) as u32);
        }
        // Eight standard deviations of a fair coin.
        let slack = 8 * 32;
        for (bit, &count) in counts.iter().enumerate() {
            assert!(count.abs_diff(keys as u32 / 2) < slack, "bit {bit}: {count} of {keys}");
        }
    }

    #[test]
    fn length_and_every_byte_count() {
        let hash = Hash::new();
        for length in 0..64 {
            let mut key = vec![0; length];
            let plain = hash.of(&key);
            assert_eq!(plain, hash.of(&key));
            for at in 0..length {
                key[at] = 1;
                assert_ne!(plain, hash.of(&key), "byte {at} of {length}");
                key[at] = 0;
            }
            key.push(0);
            assert_ne!(plain, hash.of(&key), "{length} zeros and one more");
        }
    }

    #[test]
    fn a_tensor_has_a_readable_key() {
        assert_eq!(
            of_tensor("float32", &[3, 224, 0], "cuda", 1).unwrap(),
            "float32[3,224,0]@cuda:1"
        );
        assert_eq!(of_tensor("u8", &[], "host", 0).unwrap(), "u8[]@host:0");
        assert!(of_tensor("", &[], "host", 0).is_err());
        assert!(of_tensor("u8", &[1, -1], "host", 0).is_err());
        assert!(of_tensor("u8", &[1; 65], "host", 0).is_err());
    }
}
