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

/// The key of tensors of one kind, as text: `float32[3,224,224]/cuda:0`.
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
    let _ = write!(text, "]/{device}:{index}");
    Ok(text)
}

/// A key in two words, as an entry has it: up to 15 bytes themselves, with their number behind
/// them, or the number of a longer key and where it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    low: u64,
    high: u64,
}

/// Most bytes that a name has itself.
const SHORT: usize = 15;
/// Where the number of bytes stands, and what stands there for a longer key.
const LENGTH: u32 = 56;
const LONG: u64 = 0xFF;

/// Up to eight bytes as a number, the first one lowest. Loads of fixed sizes, for a copy of some
/// bytes is a call.
#[inline(always)]
fn number(bytes: &[u8]) -> u64 {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    match (bytes, word(0), bytes.len().checked_sub(4).and_then(word)) {
        (bytes, Some(first), Some(last)) => {
            let shift = 8 * (bytes.len() as u32 - 4);
            u64::from(u32::from_le_bytes(first)) | u64::from(u32::from_le_bytes(last)) << shift
        }
        (&[a, b, c], ..) => u64::from(a) | u64::from(b) << 8 | u64::from(c) << 16,
        (&[a, b], ..) => u64::from(a) | u64::from(b) << 8,
        (&[a], ..) => u64::from(a),
        _ => 0,
    }
}

impl Name {
    /// The name of a short key.
    #[inline(always)]
    fn of_short(key: &[u8]) -> Name {
        let (low, high) = key.split_at(key.len().min(8));
        Name { low: number(low), high: number(high) | (key.len() as u64) << LENGTH }
    }

    /// The name of a longer key that has this number and is kept in this place.
    pub fn of_long(hash: u64, place: u32) -> Name {
        Name { low: hash, high: LONG << LENGTH | u64::from(place) }
    }

    /// Where the key is kept, if it is a long one.
    #[inline]
    pub fn place(self) -> Option<u32> {
        (self.high >> LENGTH == LONG).then_some(self.high as u32)
    }
}

/// A key that is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its number.
    pub hash: u64,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Its name, if it is short.
    name: Option<Name>,
}

impl Asked<'_> {
    /// Its name, if that has all its bytes.
    #[inline]
    pub fn name(&self) -> Option<Name> {
        self.name
    }
}

/// Numbers from keys, with a secret that keeps others from choosing keys that collide.
///
/// Two words at a time are multiplied with each other and the halves of the product folded
/// together, as wyhash by Wang Yi does it: short keys cost two multiplications.
#[derive(Clone, Copy, Debug)]
pub struct Hash {
    secrets: [u64; 3],
}

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
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

    /// Looks at a key, which is to be looked for.
    #[inline(always)]
    pub fn ask<'a>(&self, key: &'a [u8]) -> Asked<'a> {
        if key.len() <= SHORT {
            let name = Name::of_short(key);
            return Asked { hash: self.of_short(name), bytes: key, name: Some(name) };
        }
        Asked { hash: self.of_long(key), bytes: key, name: None }
    }

    #[inline(always)]
    fn of_short(&self, name: Name) -> u64 {
        let [a, b, c] = self.secrets;
        fold(fold(name.low ^ a, name.high ^ b) ^ c, a)
    }

    fn of_long(&self, key: &[u8]) -> u64 {
        let [a, b, c] = self.secrets;
        let mut state = a ^ key.len() as u64;
        let mut pairs = key.chunks_exact(16);
        for pair in &mut pairs {
            let (low, high) = pair.split_at(8);
            state = fold(number(low) ^ b, number(high) ^ state);
        }
        let rest = pairs.remainder();
        let (low, high) = rest.split_at(rest.len().min(8));
        state = fold(number(low) ^ b, number(high) ^ state);
        fold(state ^ c, a)
    }

    /// The number of the key that has this name.
    #[inline]
    pub fn of(&self, name: Name) -> u64 {
        if name.place().is_some() { name.low } else { self.of_short(name) }
    }
}

/// Keys that are too long for their names.
#[derive(Default)]
pub struct Longs {
    places: Vec<Long>,
    /// How many places are in no use: they are in a list.
    vacant: Option<u32>,
}

struct Long {
    /// In a place that is in no use, a key that was: the next one is often as long.
    bytes: Box<[u8]>,
    next: Option<u32>,
}

/// Longer keys are not kept for the next one.
const SPARE_MAX: usize = 256;

impl Longs {
    /// The key in this place.
    pub fn get(&self, place: u32) -> &[u8] {
        &self.places[place as usize].bytes
    }

    /// Keeps a key. None when there is no memory for it.
    pub fn keep(&mut self, key: &[u8]) -> Option<u32> {
        if let Some(place) = self.vacant {
            let long = &mut self.places[place as usize];
            if long.bytes.len() == key.len() {
                long.bytes.copy_from_slice(key);
            } else {
                long.bytes = boxed(key)?;
            }
            self.vacant = long.next.take();
            return Some(place);
        }
        let place = u32::try_from(self.places.len()).ok()?;
        self.places.try_reserve(1).ok()?;
        self.places.push(Long { bytes: boxed(key)?, next: None });
        Some(place)
    }

    /// The key in this place is not needed any more.
    pub fn give_up(&mut self, place: u32) {
        let long = &mut self.places[place as usize];
        if long.bytes.len() > SPARE_MAX {
            long.bytes = Box::default();
        }
        long.next = self.vacant.replace(place);
    }

    /// Bytes of bookkeeping, without the keys.
    pub fn bookkeeping_bytes(&self) -> usize {
        self.places.capacity() * size_of::<Long>()
    }
}

fn boxed(key: &[u8]) -> Option<Box<[u8]>> {
    let mut own = Vec::new();
    own.try_reserve_exact(key.len()).ok()?;
    own.extend_from_slice(key);
    Some(own.into_boxed_slice())
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
            let number = hash.ask(&key.to_le_bytes()).hash;
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
        for length in 1..64 {
            let mut key = vec![0; length];
            let plain = hash.ask(&key).hash;
            assert_eq!(plain, hash.ask(&key).hash);
            for at in 0..length {
                key[at] = 1;
                assert_ne!(plain, hash.ask(&key).hash, "byte {at} of {length}");
                key[at] = 0;
            }
            key.push(0);
            assert_ne!(plain, hash.ask(&key).hash, "{length} zeros and one more");
        }
    }

    #[test]
    fn short_keys_have_names_of_their_own() {
        let hash = Hash::new();
        let bytes: Vec<u8> = (1..=16).collect();
        let mut names = Vec::new();
        for length in 1..=15 {
            for from in 0..=16 - length {
                let key = &bytes[from..from + length];
                let name = hash.ask(key).name().unwrap();
                assert_eq!(name.place(), None);
                let mut own = name.low.to_le_bytes().to_vec();
                own.extend(name.high.to_le_bytes());
                assert_eq!((&own[..length], own[15]), (key, length as u8));
                assert!(own[length..15].iter().all(|&byte| byte == 0));
                assert_eq!(hash.of(name), hash.ask(key).hash);
                names.push(name);
            }
        }
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name));
        }
        assert!(hash.ask(&bytes).name().is_none());
        let long = Name::of_long(7, 9);
        assert_eq!((long.place(), hash.of(long)), (Some(9), 7));
    }

    #[test]
    fn places_of_long_keys_serve_again() {
        let mut longs = Longs::default();
        let keys: Vec<Vec<u8>> = [16, 300, 16, 65536].map(|length| vec![7; length]).to_vec();
        let places: Vec<u32> = keys.iter().map(|key| longs.keep(key).unwrap()).collect();
        for (place, key) in places.iter().zip(&keys) {
            assert_eq!(longs.get(*place), key);
        }
        places.iter().for_each(|&place| longs.give_up(place));
        let mut again: Vec<u32> = keys.iter().map(|key| longs.keep(key).unwrap()).collect();
        for (place, key) in again.iter().zip(&keys) {
            assert_eq!(longs.get(*place), key);
        }
        again.sort_unstable();
        assert_eq!(again, places);
    }

    #[test]
    fn a_tensor_has_a_readable_key() {
        let key = of_tensor("float32", &[3, 224, 0], "cuda", 1).unwrap();
        assert_eq!(key, "float32[3,224,0]/cuda:1");
        assert_eq!(of_tensor("u8", &[], "host", 0).unwrap(), "u8[]/host:0");
        assert!(of_tensor("", &[], "host", 0).is_err());
        assert!(of_tensor("u8", &[1, -1], "host", 0).is_err());
        assert!(of_tensor("u8", &[1; 65], "host", 0).is_err());
    }
}
