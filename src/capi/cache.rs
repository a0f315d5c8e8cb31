//! Caches: blocks of pools under keys.

use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use super::guard::{PublicStruct, guard, out, read_sized, write_sized, write_text};
use super::handle::{Handles, Owned};
use super::pool::{forebay_pool, shared_pool};
use super::status::forebay_status;
use super::stream::{forebay_stream, stream_of};
use crate::cache::{Cache, Config, DIMENSIONS_MAX, Goal, KEY_MAX, Kind, POOLS_MAX, key_of_tensor};
use crate::error::{Error, Result, fail};
use crate::pool::Pool;

/// A cache: blocks of pools, kept under keys as long as they are worth their bytes, and given up
/// before a pool runs out of memory. Opaque. Every function that takes one may be called from any
/// thread.
#[allow(non_camel_case_types)]
pub struct forebay_cache {
    _private: [u8; 0],
}

static HANDLES: Handles<Owned<Cache>> = Handles::new("cache", "forebay_cache_create");

/// Which entries of a cache stay.
#[allow(non_camel_case_types)]
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum forebay_cache_policy {
    /// Those that were used last.
    Lru = 0,
    /// Those that are used often, by an estimate that forgets (W-TinyLFU).
    Lfu = 1,
    /// What whichever does best of LIRS, LRU, GDSF and W-TinyLFU with two windows would keep: each
    /// runs beside the cache on keys alone.
    Adaptive = 2,
}

/// What a cache is made from. Set `struct_size`, and at least one of the two limits.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_cache_config {
    /// sizeof(forebay_cache_config).
    pub struct_size: usize,
    /// Most bytes of blocks; 0 = no limit but the pools'.
    pub max_bytes: u64,
    /// Most entries; 0 = no limit.
    pub max_entries: u64,
    /// How old an entry may be, since it was put, when it is got; in milliseconds, 0 = any age.
    pub time_to_live_ms: u64,
    /// What a hit is worth besides its bytes, as bytes: the more, the more is a hit on a small
    /// entry worth. 0 = 64 KiB; 1 is the goal of most bytes, 2^50 that of most hits.
    pub entry_worth: u64,
    /// A `forebay_cache_policy`.
    pub policy: i32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_cache_config {
    const FIRST: usize = 48;
    const NAME: &'static str = "forebay_cache_config";
}

/// An entry that is being read: from `forebay_cache_get` to `forebay_cache_release`. A plain
/// value; copies are the same pin.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_cache_pin {
    /// First byte of the block; NULL when nothing was found.
    pub ptr: *mut c_void,
    /// Bytes that were asked for when the block was allocated.
    pub size: usize,
    /// Which pin it is; never 0 for one that is held.
    pub ticket: u64,
}

/// The counters of a cache. Set `struct_size` before the call.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct forebay_cache_statistics {
    /// sizeof(forebay_cache_statistics).
    pub struct_size: usize,
    /// Entries now, those included that left and are still being read.
    pub entries: u64,
    /// Bytes of their blocks.
    pub bytes: u64,
    /// The most that was when a call returned.
    pub bytes_peak: u64,
    /// Entries that are being read.
    pub pinned_entries: u64,
    /// Bytes of their blocks.
    pub pinned_bytes: u64,
    /// Gets and takes that found something.
    pub hits: u64,
    /// Gets and takes that did not.
    pub misses: u64,
    /// Blocks that were put.
    pub puts: u64,
    /// Of them, those that went back to their pool at once, for all others were worth more.
    pub refused: u64,
    /// Entries that made room for others, or went by `forebay_cache_evict`.
    pub evicted: u64,
    /// Bytes of their blocks.
    pub evicted_bytes: u64,
    /// Entries that were given up because a pool was short of memory.
    pub pressed: u64,
    /// Bytes of their blocks.
    pub pressed_bytes: u64,
    /// Entries that were too old.
    pub expired: u64,
    /// Entries that were removed by their key, or with all others.
    pub removed: u64,
    /// Entries that were taken.
    pub taken: u64,
    /// Bytes of the cache's own bookkeeping, without the bytes of keys.
    pub bookkeeping_bytes: u64,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl PublicStruct for forebay_cache_statistics {
    const FIRST: usize = 144;
    const NAME: &'static str = "forebay_cache_statistics";
}

const _: () = assert!(size_of::<forebay_cache_config>() == forebay_cache_config::FIRST);
const _: () = assert!(size_of::<forebay_cache_statistics>() == forebay_cache_statistics::FIRST);

/// Runs `body` with the cache behind a handle; a panic in it poisons the cache.
///
/// # Safety
/// `cache` is NULL or came from `forebay_cache_create`, and is not destroyed before this returns.
#[inline(always)]
unsafe fn with_cache(
    cache: *const forebay_cache,
    body: impl FnOnce(&Cache) -> Result<()>,
) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { HANDLES.with(cache, body, Cache::poison) }
}

/// The bytes of a key.
///
/// # Safety
/// `key` is NULL or has `key_size` bytes.
#[inline(always)]
unsafe fn key_of<'a>(key: *const c_void, key_size: usize) -> Result<&'a [u8]> {
    if key.is_null() {
        return Err(fail!(InvalidArgument, "key is NULL; it must have 1 to {KEY_MAX} bytes"));
    }
    // What is longer is refused without being looked at.
    let most = key_size.min(KEY_MAX + 1);
    // SAFETY: the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(key.cast(), most) })
        .and_then(|bytes| if key_size > KEY_MAX { Err(long_key(key_size)) } else { Ok(bytes) })
}

#[cold]
fn long_key(key_size: usize) -> Error {
    fail!(InvalidArgument, "key_size is {key_size}; a key has 1 to {KEY_MAX} bytes")
}

/// Writes a number that the caller may not want.
///
/// # Safety
/// `to` is NULL or valid for writing.
unsafe fn tell(to: *mut usize, number: u64) {
    // SAFETY: the caller's promise.
    if let Some(to) = unsafe { to.as_mut() } {
        *to = number as usize;
    }
}

fn policy_of(number: i32) -> Result<Kind> {
    // In the order of `forebay_cache_policy`.
    let kind = usize::try_from(number).ok().and_then(|number| Kind::ALL.get(number));
    kind.copied().ok_or_else(|| {
        fail!(InvalidArgument, "policy is {number}; it must be 0 to {}", Kind::ALL.len() - 1)
    })
}

fn config_of(config: &forebay_cache_config) -> Result<Config> {
    if config.reserved != 0 {
        return Err(fail!(InvalidArgument, "reserved is {}; it must be 0", config.reserved));
    }
    let live = config.time_to_live_ms;
    Ok(Config {
        max_bytes: config.max_bytes,
        max_entries: config.max_entries,
        policy: policy_of(config.policy)?,
        goal: match config.entry_worth {
            0 => Goal::default(),
            per_entry => Goal { per_entry },
        },
        time_to_live: (live > 0).then_some(Duration::from_millis(live)),
    })
}

/// Creates a cache for blocks of the `count` pools in `pools`, 1 to 256 of them, and writes it to
/// `*out`. The cache is the caller's, until `forebay_cache_destroy`; the pools stay the caller's.
/// When one of them is short of memory, it asks the cache for some before an allocation fails:
/// entries that nobody reads go back to the pool, those first that are worth least.
///
/// A pool may be destroyed before the cache: the cache first gives back what it has of it, but for
/// what is being read, and puts of its blocks get `FOREBAY_ERROR_INVALID_POINTER` or
/// `FOREBAY_ERROR_INVALID_STATE` from then on.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL, `count`, a pool that is
/// there twice or destroyed; both limits are 0; the message names the field of `config`).
///
/// # Safety
/// `pools` is NULL or has `count` pools; `config` is NULL or points to a config with `struct_size`
/// set; `out` is NULL or valid for writing.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_create(
    pools: *const *mut forebay_pool,
    count: usize,
    config: *const forebay_cache_config,
    out: *mut *mut forebay_cache,
) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { self::out(out, "out")? };
        if count == 0 || count > POOLS_MAX {
            return Err(fail!(
                InvalidArgument,
                "count is {count}; a cache has 1 to {POOLS_MAX} pools"
            ));
        }
        if pools.is_null() {
            return Err(fail!(InvalidArgument, "pools is NULL; it must have {count} elements"));
        }
        if config.is_null() {
            return Err(fail!(InvalidArgument, "config is NULL; a cache has one limit at least"));
        }
        // SAFETY: the caller's promise.
        let pools = unsafe { std::slice::from_raw_parts(pools, count) };
        // SAFETY: the caller's promise.
        let pools = pools.iter().map(|&pool| unsafe { shared_pool(pool) });
        let pools: Vec<Arc<Pool>> = pools.collect::<Result<_>>()?;
        // SAFETY: the caller's promise.
        let config = config_of(&unsafe { read_sized(config)? })?;
        *out = HANDLES.keep(Owned::new(Cache::over(&pools, &config)?)).cast();
        Ok(())
    })
}

/// Destroys a cache: the blocks of its entries go back to their pools. NULL is fine: nothing
/// happens. No call with this cache may be under way in another thread; later ones get
/// `FOREBAY_ERROR_INVALID_ARGUMENT`. Works on a poisoned cache, whose blocks stay live.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (destroyed before), `FOREBAY_ERROR_INVALID_STATE`
/// (entries were being read; the cache is destroyed all the same, and their blocks are live blocks
/// of their pools, for who reads them to free with `forebay_free`).
///
/// # Safety
/// `cache` is NULL or came from `forebay_cache_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_destroy(cache: *mut forebay_cache) -> forebay_status {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { HANDLES.take(cache) }?.map_or(Ok(()), Cache::destroy)
    })
}

/// Puts the live block at `ptr` of one of the cache's pools under `key`, `key_size` bytes that are
/// copied: from now on the block is the cache's, with the contents that what is queued on `stream`
/// gives it. There may be several entries of one key. To keep within its limits the cache gives
/// back to their pools those entries that are worth least and that nobody reads, which may be this
/// very block: it counts as put all the same.
///
/// Errors, with the block still the caller's: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` or `key` is
/// NULL; `key_size` is 0 or more than 65536; the block is larger than the cache's limit; no such
/// stream), `FOREBAY_ERROR_INVALID_POINTER` (no live block of the cache's pools),
/// `FOREBAY_ERROR_INVALID_STATE` (the pool was destroyed), `FOREBAY_ERROR_OUT_OF_MEMORY` (no
/// memory for the entry), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `cache` as for every call; `key` is NULL or has `key_size` bytes; nobody frees the block or
/// writes to it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_put(
    cache: *mut forebay_cache,
    key: *const c_void,
    key_size: usize,
    ptr: *mut c_void,
    stream: forebay_stream,
) -> forebay_status {
    let body = |cache: &Cache| {
        // SAFETY: the caller's promise.
        let key = unsafe { key_of(key, key_size)? };
        cache.put(key, ptr as usize, stream_of(stream))
    };
    // SAFETY: the caller's promise.
    unsafe { with_cache(cache, body) }
}

/// As `forebay_cache_put`, of a copy: a block of `size` bytes of the cache's first pool gets the
/// bytes at `from`, which must be where that pool's device can read them (in the GPU's memory for a
/// cuda pool), in the order of `stream`. On the host the copy is done when this returns.
///
/// Errors: those of `forebay_cache_put` and of `forebay_alloc`; `FOREBAY_ERROR_INVALID_ARGUMENT`
/// when `from` is NULL or `size` is 0.
///
/// # Safety
/// `cache` as for every call; `key` is NULL or has `key_size` bytes; `from` is NULL or has `size`
/// bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_put_copy(
    cache: *mut forebay_cache,
    key: *const c_void,
    key_size: usize,
    from: *const c_void,
    size: usize,
    stream: forebay_stream,
) -> forebay_status {
    let body = |cache: &Cache| {
        // SAFETY: the caller's promise.
        let key = unsafe { key_of(key, key_size)? };
        if from.is_null() {
            return Err(fail!(InvalidArgument, "from is NULL; it must have {size} bytes"));
        }
        // SAFETY: the caller's promise.
        unsafe { cache.put_copy(key, from as usize, size, stream_of(stream)) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_cache(cache, body) }
}

/// Gets the newest entry of `key` to read, and writes it to `*out`. It is pinned: it stays where
/// and as it is until `forebay_cache_release`, however many read it. Work that is queued on
/// `stream` from now on may read it; if the block was written on another stream, `stream` is made
/// to wait for that on the device, or, on NULL on the host, the caller waits. When there is no
/// entry, `out->ptr` becomes NULL, and the call succeeds. Nobody writes to a block that was got.
///
/// Errors, with `*out` untouched and nothing pinned: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache`,
/// `key` or `out` is NULL; `key_size` is 0 or more than 65536; there is no such stream to be made to
/// wait), `FOREBAY_ERROR_INVALID_STATE` (`stream` cannot be made to wait),
/// `FOREBAY_ERROR_OUT_OF_MEMORY`, `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `cache` as for every call; `key` is NULL or has `key_size` bytes; `out` is NULL or valid for
/// writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_get(
    cache: *mut forebay_cache,
    key: *const c_void,
    key_size: usize,
    stream: forebay_stream,
    out: *mut forebay_cache_pin,
) -> forebay_status {
    let body = |cache: &Cache| {
        // SAFETY: the caller's promise.
        let (out, key) = unsafe { (self::out(out, "out")?, key_of(key, key_size)?) };
        *out = match cache.get(key, stream_of(stream))? {
            Some(read) => forebay_cache_pin {
                ptr: read.address as *mut c_void,
                size: read.bytes as usize,
                ticket: read.ticket,
            },
            None => forebay_cache_pin { ptr: std::ptr::null_mut(), size: 0, ticket: 0 },
        };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_cache(cache, body) }
}

/// Ends a read: `pin` is what `forebay_cache_get` gave, and its reader's last work is queued on
/// `stream` by now. The block is nobody else's before that work is done. A pin whose `ptr` is NULL
/// is fine: nothing happens.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` is NULL; the pin was released before, or is
/// none of this cache's; no such stream, and then the pin is still held),
/// `FOREBAY_ERROR_OUT_OF_MEMORY` (no memory to note the stream; the pin is still held),
/// `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `cache` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_release(
    cache: *mut forebay_cache,
    pin: forebay_cache_pin,
    stream: forebay_stream,
) -> forebay_status {
    let body = |cache: &Cache| {
        if pin.ptr.is_null() {
            return Ok(());
        }
        cache.release(pin.ticket, pin.ptr as usize, stream_of(stream))
    };
    // SAFETY: the caller's promise.
    unsafe { with_cache(cache, body) }
}

/// Takes an entry of `key` that nobody reads out of the cache: its block is the caller's, for work
/// that is queued on `stream` from now on, to be freed or put again. Its first byte goes to `*ptr`
/// and the bytes that were asked for when it was allocated to `*size` (may be NULL). Of several
/// entries, one that was put on `stream` is preferred, then the newest. When there is none, `*ptr`
/// becomes NULL, and the call succeeds.
///
/// Errors, with `*ptr` and `*size` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache`, `key` or
/// `ptr` is NULL; `key_size` is 0 or more than 65536; no such stream),
/// `FOREBAY_ERROR_INVALID_STATE` (all entries of the key are being read; `stream` cannot be made to
/// wait for who read it, and then the entry's block went back to its pool),
/// `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `cache` as for every call; `key` is NULL or has `key_size` bytes; `ptr` and `size` are NULL or
/// valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_take(
    cache: *mut forebay_cache,
    key: *const c_void,
    key_size: usize,
    stream: forebay_stream,
    ptr: *mut *mut c_void,
    size: *mut usize,
) -> forebay_status {
    let body = |cache: &Cache| {
        // SAFETY: the caller's promise.
        let (ptr, key) = unsafe { (out(ptr, "ptr")?, key_of(key, key_size)?) };
        let taken = cache.take(key, stream_of(stream))?;
        let (address, bytes) = taken.map_or((0, 0), |taken| (taken.address, taken.bytes));
        *ptr = address as *mut c_void;
        // SAFETY: the caller's promise.
        unsafe { tell(size, bytes) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_cache(cache, body) }
}

/// Removes all entries of `key`; how many goes to `*removed` (may be NULL). Nobody gets them any
/// more; their blocks go back to their pools, of those that are being read with the last release.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` or `key` is NULL; `key_size` is 0 or more than
/// 65536), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `cache` as for every call; `key` is NULL or has `key_size` bytes; `removed` is NULL or valid for
/// writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_remove(
    cache: *mut forebay_cache,
    key: *const c_void,
    key_size: usize,
    removed: *mut usize,
) -> forebay_status {
    let body = |cache: &Cache| {
        // SAFETY: the caller's promise.
        unsafe { tell(removed, cache.remove(key_of(key, key_size)?)?) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_cache(cache, body) }
}

/// Evicts entries, those first that are worth least, until `bytes` of blocks went back to their
/// pools or nothing is left that nobody reads; the bytes go to `*freed` (may be NULL).
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` is NULL), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `cache` as for every call; `freed` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_evict(
    cache: *mut forebay_cache,
    bytes: usize,
    freed: *mut usize,
) -> forebay_status {
    let body = |cache: &Cache| {
        // SAFETY: the caller's promise.
        unsafe { tell(freed, cache.evict(bytes as u64)?) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_cache(cache, body) }
}

/// Removes the entries that were put `age_ms` milliseconds ago or earlier, as
/// `forebay_cache_remove` does; how many goes to `*expired` (may be NULL). Ages are known to four
/// milliseconds.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` is NULL), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `cache` as for every call; `expired` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_expire(
    cache: *mut forebay_cache,
    age_ms: u64,
    expired: *mut usize,
) -> forebay_status {
    let body = |cache: &Cache| {
        // SAFETY: the caller's promise.
        unsafe { tell(expired, cache.expire(Duration::from_millis(age_ms))?) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_cache(cache, body) }
}

/// Removes all entries, as `forebay_cache_remove` does; how many goes to `*removed` (may be NULL).
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` is NULL), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `cache` as for every call; `removed` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_clear(
    cache: *mut forebay_cache,
    removed: *mut usize,
) -> forebay_status {
    let body = |cache: &Cache| {
        // SAFETY: the caller's promise.
        unsafe { tell(removed, cache.clear()?) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_cache(cache, body) }
}

/// Writes the counters of `cache` to `*out`.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` or `out` is NULL, `struct_size` is not set).
///
/// # Safety
/// `cache` as for every call; `out` is NULL or points to a struct with `struct_size` set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_stats(
    cache: *mut forebay_cache,
    out: *mut forebay_cache_statistics,
) -> forebay_status {
    let body = |cache: &Cache| {
        // SAFETY: the caller's promise.
        unsafe { self::out(out, "out")? };
        let stats = cache.stats();
        let count = stats.counters;
        let value = forebay_cache_statistics {
            struct_size: 0,
            entries: stats.entries,
            bytes: stats.bytes,
            bytes_peak: count.bytes_peak,
            pinned_entries: stats.pinned_entries,
            pinned_bytes: stats.pinned_bytes,
            hits: count.hits,
            misses: count.misses,
            puts: count.puts,
            refused: count.refused,
            evicted: count.evicted,
            evicted_bytes: count.evicted_bytes,
            pressed: count.pressed,
            pressed_bytes: count.pressed_bytes,
            expired: count.expired,
            removed: count.removed,
            taken: count.taken,
            bookkeeping_bytes: stats.bookkeeping_bytes,
        };
        // SAFETY: the caller's promise.
        unsafe { write_sized(out, &value) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_cache(cache, body) }
}

/// Writes the counters of `cache` as JSON, with a NUL behind it, to `buffer`, which has `capacity`
/// bytes; its length without the NUL goes to `*length` (may be NULL). `buffer` NULL with `capacity`
/// 0 asks for the length only; leave some room, for it changes with the cache.
///
/// The object has "schema" (1), "policy", "max_bytes" and "max_entries" (null for none),
/// "hit_ratio", and the counters of `forebay_cache_statistics`.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` is NULL; `buffer` is NULL, or too small:
/// `*length` is set, the buffer untouched).
///
/// # Safety
/// `cache` as for every call; `buffer` is NULL or has `capacity` bytes; `length` is NULL or valid
/// for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_stats_json(
    cache: *mut forebay_cache,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> forebay_status {
    let body = |cache: &Cache| {
        let text = cache.stats().json();
        // SAFETY: the caller's promise.
        unsafe { write_text(&text, "report", buffer, capacity, length) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_cache(cache, body) }
}

/// Checks every invariant of the cache's bookkeeping. Walks over everything: for tests and
/// debugging.
///
/// Errors: `FOREBAY_ERROR_INTERNAL` (the bookkeeping is wrong), `FOREBAY_ERROR_INVALID_ARGUMENT`
/// (`cache` is NULL), `FOREBAY_ERROR_POISONED`.
///
/// # Safety
/// `cache` as for every call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_check(cache: *mut forebay_cache) -> forebay_status {
    // SAFETY: the caller's promise.
    unsafe { with_cache(cache, Cache::check) }
}

/// Builds a key for tensors of one kind: writes it, as text with a NUL behind it such as
/// `float32[3,224,224]/cuda:0`, to `buffer`, which has `capacity` bytes; its length without the NUL,
/// which is the `key_size`, goes to `*length` (may be NULL). `dtype` is the type's name, `shape` has
/// `dimensions` lengths, at most 64, and the device is a `forebay_device_kind` and its number.
/// `buffer` NULL with `capacity` 0 asks for the length only.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`dtype` is NULL, empty, longer than 64 bytes or not
/// UTF-8; `shape` is NULL or has a negative length; `dimensions`; no such device kind; `buffer` is
/// NULL, or too small: `*length` is set, the buffer untouched).
///
/// # Safety
/// `dtype` is NULL or a string; `shape` is NULL or has `dimensions` numbers; `buffer` is NULL or has
/// `capacity` bytes; `length` is NULL or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_cache_tensor_key(
    dtype: *const c_char,
    shape: *const i64,
    dimensions: usize,
    device_kind: i32,
    device_index: u32,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> forebay_status {
    guard(|| {
        if dtype.is_null() {
            return Err(fail!(InvalidArgument, "dtype is NULL; it must be the type's name"));
        }
        // SAFETY: the caller's promise.
        let Ok(dtype) = unsafe { CStr::from_ptr(dtype) }.to_str() else {
            return Err(fail!(InvalidArgument, "dtype is not UTF-8"));
        };
        if dimensions > DIMENSIONS_MAX {
            return Err(fail!(
                InvalidArgument,
                "dimensions is {dimensions}; the limit is {DIMENSIONS_MAX}"
            ));
        }
        let shape = match (shape.is_null(), dimensions) {
            (_, 0) => &[][..],
            (true, _) => {
                return Err(fail!(
                    InvalidArgument,
                    "shape is NULL; it must have {dimensions} elements"
                ));
            }
            // SAFETY: the caller's promise.
            (false, _) => unsafe { std::slice::from_raw_parts(shape, dimensions) },
        };
        let device = match device_kind {
            0 => "host",
            1 => "cuda",
            2 => "pinned",
            other => {
                return Err(fail!(InvalidArgument, "device_kind is {other}; it must be 0 to 2"));
            }
        };
        let key = key_of_tensor(dtype, shape, device, device_index)?;
        // SAFETY: the caller's promise.
        unsafe { write_text(&key, "key", buffer, capacity, length) }
    })
}
