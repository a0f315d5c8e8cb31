// forebay: pools, caches and prefetch in stream order.
//
//     forebay_pool *pool;
//     if (forebay_pool_create(NULL, &pool) != FOREBAY_OK) return 1;
//     void *block;
//     if (forebay_alloc(pool, 1 << 20, NULL, &block) != FOREBAY_OK)
//         fprintf(stderr, "%s\n", forebay_last_error());
//     forebay_free(pool, block, NULL);
//     forebay_pool_destroy(pool);
//
// Every function that can fail returns a status; results go out through the last parameters,
// which are untouched on failure, and forebay_last_error() has the thread's message. All calls
// are safe from any thread. Public structs begin with struct_size: set it to sizeof and leave
// what you do not know zero, and a program built today works with any later library.
//
// Three numbers are never mixed: requested bytes were asked for, allocated bytes are those of
// the blocks given out, reserved bytes are mapped.
//
// This file is generated from src/capi; SPDX-License-Identifier: Apache-2.0 OR MIT.


#ifndef FOREBAY_H
#define FOREBAY_H

#include <stddef.h>
#include <stdint.h>

// The version of this header; forebay_version() is that of the library.
#define FOREBAY_VERSION_MAJOR 0
#define FOREBAY_VERSION_MINOR 1
#define FOREBAY_VERSION_PATCH 0
#define FOREBAY_VERSION \
    (FOREBAY_VERSION_MAJOR << 16 | FOREBAY_VERSION_MINOR << 8 | FOREBAY_VERSION_PATCH)

// Warns when the result is not looked at.
#if defined(__cplusplus) && __cplusplus >= 201703L
#define FOREBAY_NODISCARD [[nodiscard]]
#elif defined(__GNUC__)
#define FOREBAY_NODISCARD __attribute__((warn_unused_result))
#else
#define FOREBAY_NODISCARD
#endif

// Defaults: `forebay_pool_config config = FOREBAY_POOL_CONFIG_INIT;`, and so on. Both forms set
// struct_size, zero the rest, and are quiet under -Wextra.
#ifdef __cplusplus
#define FOREBAY_INIT(type) [] { type value{}; value.struct_size = sizeof(type); return value; }()
#else
#define FOREBAY_INIT(type) { .struct_size = sizeof(type) }
#endif
#define FOREBAY_POOL_CONFIG_INIT FOREBAY_INIT(forebay_pool_config)
#define FOREBAY_POOL_STATISTICS_INIT FOREBAY_INIT(forebay_pool_statistics)
#define FOREBAY_DEFRAG_REPORT_INIT FOREBAY_INIT(forebay_defrag_report)
#define FOREBAY_CACHE_CONFIG_INIT FOREBAY_INIT(forebay_cache_config)
#define FOREBAY_CACHE_STATISTICS_INIT FOREBAY_INIT(forebay_cache_statistics)
#define FOREBAY_CACHE_SIMULATE_OPTIONS_INIT FOREBAY_INIT(forebay_cache_simulate_options)
#define FOREBAY_MEMORY_INFO_INIT FOREBAY_INIT(forebay_memory_info_t)
#define FOREBAY_LIFETIME_SUGGESTIONS_INIT FOREBAY_INIT(forebay_lifetime_suggestions)
#define FOREBAY_PLAN_OPTIONS_INIT FOREBAY_INIT(forebay_plan_options)
#define FOREBAY_PLAN_SUMMARY_INIT FOREBAY_INIT(forebay_plan_summary)
#define FOREBAY_PLAN_USAGE_INIT FOREBAY_INIT(forebay_plan_usage)
#define FOREBAY_PREFETCHER_CONFIG_INIT FOREBAY_INIT(forebay_prefetcher_config)
#define FOREBAY_PREFETCH_STATISTICS_INIT FOREBAY_INIT(forebay_prefetch_statistics)
#define FOREBAY_REPORT_OPTIONS_INIT FOREBAY_INIT(forebay_report_options)
#define FOREBAY_REPLAY_OPTIONS_INIT FOREBAY_INIT(forebay_replay_options)
#define FOREBAY_REPLAY_REPORT_INIT FOREBAY_INIT(forebay_replay_report)
#define FOREBAY_TORCH_STATISTICS_INIT FOREBAY_INIT(forebay_torch_statistics)


/// Blocks are zeroed before they are given out.
#define FOREBAY_POOL_ZERO_ON_ALLOC 1

/// Freed bytes are overwritten with 0xDF.
#define FOREBAY_POOL_POISON_ON_FREE 2

/// At least 16 guard bytes lie behind each block; they are checked when it is freed and by
/// `forebay_pool_check`.
#define FOREBAY_POOL_GUARD_BYTES 4

/// Threads keep no just-freed blocks for themselves: every call goes to the shared pool.
#define FOREBAY_POOL_NO_FRONT_CACHE 8

/// Write one byte in every 4096 of each block, and its last byte.
#define FOREBAY_REPLAY_TOUCH 1

/// One thread per thread of the trace, taking turns in the trace's order.
#define FOREBAY_REPLAY_THREADS 2

/// Write a plan in the compact form, with a checksum, instead of CSV.
#define FOREBAY_PLAN_BINARY 1

/// Take no time: the best of a few orders in which tensors are placed one after the other.
#define FOREBAY_PLAN_GREEDY 1

/// Colour tensors by their id, and not by their size.
#define FOREBAY_PLAN_SVG_BY_ID 1

/// Events instead of time from left to right.
#define FOREBAY_REPORT_BY_EVENTS 1

/// Leave the plan out.
#define FOREBAY_REPORT_NO_PLAN 2

/// No copy threads: the thread that submits a batch copies and reads. Beside `copy_threads` 0.
#define FOREBAY_PREFETCHER_SYNCHRONOUS 1

/// The leaf is a range of a file.
#define FOREBAY_PREFETCH_LEAF_FILE 1

/// The leaf's memory is pinned: a device copies from there, and nothing is staged. For a pool on the
/// host it makes no difference.
#define FOREBAY_PREFETCH_LEAF_PINNED 2

/// The file is read past the page cache, as far as its system can (O_DIRECT).
#define FOREBAY_PREFETCH_LEAF_DIRECT 4

/// A leaf begins at a multiple of this in its batch.
#define FOREBAY_PREFETCH_ALIGNMENT 256

/// One with `FOREBAY_PREFETCH_LEAF_DIRECT` begins at a multiple of this; if `offset` is one too,
/// nothing but its end goes through the page cache.
#define FOREBAY_PREFETCH_DIRECT_ALIGNMENT 4096

/// Wait as long as it takes.
#define FOREBAY_PREFETCH_FOREVER UINT32_MAX

/// What a call came to. `FOREBAY_OK` is 0; everything else is an error, and
/// `forebay_last_error` has its message.
///
enum forebay_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /// Done.
    FOREBAY_OK = 0,
    /// An argument is outside what the function accepts; the message names it and the limit.
    FOREBAY_ERROR_INVALID_ARGUMENT = 1,
    /// The limit, the device or the address space has no room left.
    FOREBAY_ERROR_OUT_OF_MEMORY = 2,
    /// A pointer that this pool did not give out, or that was freed before. Nothing changed.
    FOREBAY_ERROR_INVALID_POINTER = 3,
    /// A panic was caught inside this pool earlier. It can only be destroyed.
    FOREBAY_ERROR_POISONED = 4,
    /// The object is not in a state in which this can be done.
    FOREBAY_ERROR_INVALID_STATE = 5,
    /// This system, device or build cannot do it.
    FOREBAY_ERROR_UNSUPPORTED = 6,
    /// A file could not be read or written.
    FOREBAY_ERROR_IO = 7,
    /// A trace, or a file of tensors or of a plan, does not follow its format; or a trace frees
    /// what it never allocated.
    FOREBAY_ERROR_MALFORMED_TRACE = 8,
    /// Guard bytes behind a block were overwritten.
    FOREBAY_ERROR_CORRUPTION = 9,
    /// A defect of forebay.
    FOREBAY_ERROR_INTERNAL = 10,
    /// Nothing is to be had without waiting; try again.
    FOREBAY_ERROR_BUSY = 11,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum forebay_status forebay_status;
#else
typedef int32_t forebay_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/// Where a pool's bytes live.
enum forebay_device_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /// System memory.
    FOREBAY_DEVICE_KIND_HOST = 0,
    /// An NVIDIA GPU, by its driver.
    FOREBAY_DEVICE_KIND_CUDA = 1,
    /// System memory that GPUs copy from and to at full speed. All of the limit is taken, and
    /// registered with the driver, when the pool is created.
    FOREBAY_DEVICE_KIND_PINNED = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum forebay_device_kind forebay_device_kind;
#else
typedef int32_t forebay_device_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/// How a pool weighs speed against memory.
enum forebay_policy
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /// Eight size classes per doubling; keeps up to half of the limit idle, and gives back
    /// what has been idle for ten seconds, and everything idle when less than a sixteenth of
    /// the memory is left, of the machine's or of what a control group allows.
    FOREBAY_POLICY_BALANCED = 0,
    /// Sixteen size classes per doubling, no front caches; a free gives its pages back.
    FOREBAY_POLICY_CONSERVATIVE = 1,
    /// One size class per doubling; gives nothing back unless asked.
    FOREBAY_POLICY_AGGRESSIVE_REUSE = 2,
    /// As balanced, but every block is zeroed, blocks of 2 MiB and more begin at a multiple
    /// of that, and up to three quarters of the limit are kept idle until little is left.
    FOREBAY_POLICY_QUALITY_FIRST = 3,
    /// Four size classes per doubling; `initial_bytes` are mapped and touched at the start,
    /// and nothing is given back unless asked.
    FOREBAY_POLICY_LATENCY_FIRST = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum forebay_policy forebay_policy;
#else
typedef int32_t forebay_policy;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/// What becomes of the bytes of a pool that sleeps.
enum forebay_sleep_mode
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /// They are gone: after waking, blocks hold anything.
    FOREBAY_SLEEP_MODE_DISCARD = 0,
    /// They are kept in pinned system memory, and come back. Cuda pools only.
    FOREBAY_SLEEP_MODE_BACKUP = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum forebay_sleep_mode forebay_sleep_mode;
#else
typedef int32_t forebay_sleep_mode;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/// Which entries of a cache stay.
enum forebay_cache_policy
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /// Those that were used last.
    FOREBAY_CACHE_POLICY_LRU = 0,
    /// Those that are used often, by an estimate that forgets (W-TinyLFU).
    FOREBAY_CACHE_POLICY_LFU = 1,
    /// What whichever does best of LIRS, LRU, GDSF and W-TinyLFU with two windows would keep: each
    /// runs beside the cache on keys alone.
    FOREBAY_CACHE_POLICY_ADAPTIVE = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum forebay_cache_policy forebay_cache_policy;
#else
typedef int32_t forebay_cache_policy;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/// How far a batch is.
enum forebay_prefetch_progress
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /// Its sources are still needed.
    FOREBAY_PREFETCH_PROGRESS_STAGING = 0,
    /// It is on its way to the device: sources that are not pinned are not needed any more.
    FOREBAY_PREFETCH_PROGRESS_SENT = 1,
    /// It is there.
    FOREBAY_PREFETCH_PROGRESS_THERE = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum forebay_prefetch_progress forebay_prefetch_progress;
#else
typedef int32_t forebay_prefetch_progress;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/// What bounds the memory of a process.
enum forebay_memory_limit
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /// The machine: what the kernel says is available of it (`MemAvailable`).
    FOREBAY_MEMORY_LIMIT_MACHINE = 0,
    /// A control group, at the limit where the kernel begins to kill: `memory.max` or, in version
    /// 1, `memory.limit_in_bytes`.
    FOREBAY_MEMORY_LIMIT_GROUP_MAX = 1,
    /// A control group, at the limit where whoever allocates is slowed down: `memory.high`.
    FOREBAY_MEMORY_LIMIT_GROUP_HIGH = 2,
    /// A control group of version 1, memory and swap together: `memory.memsw.limit_in_bytes`.
    FOREBAY_MEMORY_LIMIT_GROUP_SWAP = 3,
    /// `RLIMIT_AS`: addresses that are mapped, reservations of pools included.
    FOREBAY_MEMORY_LIMIT_ADDRESS_SPACE = 4,
    /// `RLIMIT_DATA`: private memory that can be written to.
    FOREBAY_MEMORY_LIMIT_DATA = 5,
    /// What the kernel promises, where it keeps to it (`vm.overcommit_memory` is 2).
    FOREBAY_MEMORY_LIMIT_COMMIT = 6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum forebay_memory_limit forebay_memory_limit;
#else
typedef int32_t forebay_memory_limit;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/// How things stand with memory.
enum forebay_memory_level
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /// There is enough.
    FOREBAY_MEMORY_LEVEL_OK = 0,
    /// Some task waits for memory for more than 10 % of the time, or less than 10 % of some limit
    /// is left.
    FOREBAY_MEMORY_LEVEL_ELEVATED = 1,
    /// All tasks wait for memory for more than 5 % of the time, or less than 3 % of some limit is
    /// left, or a control group has slowed down who allocates since a reading in the last ten
    /// seconds.
    FOREBAY_MEMORY_LEVEL_CRITICAL = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum forebay_memory_level forebay_memory_level;
#else
typedef int32_t forebay_memory_level;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/// A cache: blocks of pools, kept under keys as long as they are worth their bytes, and given up
/// before a pool runs out of memory. Opaque. Every function that takes one may be called from any
/// thread.
typedef struct forebay_cache forebay_cache;

/// Lifetimes of the tensors of a program, as they are recorded. Opaque. Every function that takes
/// one may be called from any thread.
typedef struct forebay_lifetime forebay_lifetime;

/// Offsets for the tensors of a record, so that no two that live at one time overlap. Opaque, and
/// never changes. Every function that takes one may be called from any thread.
typedef struct forebay_plan forebay_plan;

/// A pool: memory of one device, handed out and taken back in stream order. Opaque. Every
/// function that takes one may be called from any thread.
typedef struct forebay_pool forebay_pool;

/// A prefetcher: a few slots of a pool, and what fills them with batches ahead of their use.
/// Opaque. Every function that takes one may be called from any thread.
typedef struct forebay_prefetcher forebay_prefetcher;

/// What a stream handle points to. Opaque; there is nothing to see.
typedef struct forebay_stream_object forebay_stream_object;

/// Gets a line of the log: its level (1 error, 2 warning, 3 information, 4 detail, 5 trace),
/// the text, which is gone after the call, and the pointer that was given with the function.
/// Called from any thread, several at a time; must not throw, must not call forebay.
typedef void (*forebay_log_fn)(int32_t level, const char *message, void *user);

/// A stream: a queue of work that is done in order. For host pools one comes from
/// `forebay_stream_create`; for cuda pools it is a `CUstream`. NULL is the default stream: on
/// the host that is the calling thread itself, whose work is done when its call returns.
/// A handle is a value: copying it copies nothing, and none is given twice. One of a destroyed
/// stream is refused, but for alloc and free by a thread that used it before: for them it is
/// a stream without work.
typedef struct forebay_stream_object *forebay_stream;

/// Work for a stream. Called once, on the stream's own thread, with the pointer it was
/// queued with; must not throw.
typedef void (*forebay_stream_fn)(void *user);

/// A point in a stream's order: passed once everything queued before it is done. A plain
/// value; there is nothing to release.
typedef struct forebay_fence {
    /// The stream's handle as a number.
    uint64_t stream;
    /// How many pieces of work have to be done on it.
    uint64_t sequence;
} forebay_fence;

/// What a pool is made from. Set `struct_size` and leave the rest zero for a balanced pool on
/// system memory; `FOREBAY_POOL_CONFIG_INIT` does.
typedef struct forebay_pool_config {
    /// sizeof(forebay_pool_config).
    size_t struct_size;
    /// Where the bytes live: a `forebay_device_kind`.
    int32_t device_kind;
    /// Which GPU, as the driver counts them (for pinned memory: whose streams order its use);
    /// 0 on the host.
    int32_t device_index;
    /// Most bytes mapped at a time; 0 = as many as the device has.
    uint64_t max_bytes;
    /// Bytes mapped at creation.
    uint64_t initial_bytes;
    /// 0, or a power of two: every size is rounded up to a multiple of it.
    uint64_t block_size;
    /// A `forebay_policy`.
    int32_t policy;
    /// Zero.
    uint32_t reserved;
    /// `FOREBAY_POOL_...`, ORed together.
    uint64_t flags;
} forebay_pool_config;

/// What `forebay_pool_defragment` did. Set `struct_size` before the call.
typedef struct forebay_defrag_report {
    /// sizeof(forebay_defrag_report).
    size_t struct_size;
    /// Pages of 2 MiB that were moved.
    uint64_t pages_moved;
    /// By how many bytes the largest free run grew.
    uint64_t bytes_gained;
    /// System calls that were made.
    uint64_t system_calls;
    /// Bytes of the largest free run before.
    uint64_t largest_free_before;
    /// Bytes of the largest free run after.
    uint64_t largest_free_after;
} forebay_defrag_report;

/// Called when memory is short, with the bytes that are needed and the pointer it was set
/// with. It may free blocks of the pool. Non-zero: try again. Must not throw.
typedef int32_t (*forebay_oom_fn)(size_t size, void *user);

/// Called when there is no block at hand, with the size that was asked for. `busy` is not 0 when the
/// call came in the middle of another one of the thread that it interrupted: the pool cannot be
/// asked then. What it returns is the result. Must not throw.
typedef void *(*forebay_alloc_miss_fn)(size_t size, int32_t busy);

/// Called when a block is not the thread's to take back at hand, with its address. `busy` and the
/// result, a `forebay_status`, as for `forebay_alloc_miss_fn`.
typedef int32_t (*forebay_free_miss_fn)(void *ptr, int32_t busy);

/// Where an exported block lies in its pages. Set `struct_size` before the call; another process
/// needs it together with the descriptors.
typedef struct forebay_shared_block {
    /// sizeof(forebay_shared_block).
    size_t struct_size;
    /// How many pages of 2 MiB there are, each with a descriptor.
    uint64_t pages;
    /// How far into the first page the block begins, in bytes.
    uint64_t offset;
    /// Bytes of the block.
    uint64_t size;
} forebay_shared_block;

/// The counters of a pool. Set `struct_size` before the call. Requested, allocated and
/// reserved are three numbers: bytes asked for, bytes of the blocks given out, bytes mapped.
/// "Now" is exact; a peak is exact while one thread uses the pool, and otherwise low by no
/// more than what front caches hold.
typedef struct forebay_pool_statistics {
    /// sizeof(forebay_pool_statistics).
    size_t struct_size;
    /// Bytes asked for by blocks that are given out now.
    uint64_t requested_bytes;
    /// The most that was.
    uint64_t requested_peak;
    /// Bytes asked for by all allocations.
    uint64_t requested_total;
    /// Bytes of the blocks given out now.
    uint64_t allocated_bytes;
    /// The most that was.
    uint64_t allocated_peak;
    /// Bytes of all blocks ever given out.
    uint64_t allocated_total;
    /// Bytes mapped now.
    uint64_t reserved_bytes;
    /// The most that was.
    uint64_t reserved_peak;
    /// All bytes ever mapped.
    uint64_t reserved_total;
    /// Allocations that succeeded.
    uint64_t allocations;
    /// Frees that succeeded.
    uint64_t frees;
    /// Allocations served from what was mapped and in place.
    uint64_t hits;
    /// Allocations for which pages had to be mapped or moved.
    uint64_t misses;
    /// Allocations that failed.
    uint64_t failed;
    /// Frees of what was no live block.
    uint64_t invalid_frees;
    /// System calls made for this pool.
    uint64_t system_calls;
    /// Times that idle pages were given back.
    uint64_t trims;
    /// Most bytes that may be mapped.
    uint64_t limit_bytes;
    /// Blocks given out now.
    uint64_t live_blocks;
} forebay_pool_statistics;

/// How a trace is replayed. Set `struct_size`; all else zero is once, without touching.
typedef struct forebay_replay_options {
    /// sizeof(forebay_replay_options).
    size_t struct_size;
    /// `FOREBAY_REPLAY_...`, ORed together.
    uint32_t flags;
    /// How often the whole trace is replayed; 0 is taken for 1.
    uint32_t repeat;
} forebay_replay_options;

/// What a replay did and cost; sums over all rounds. Set `struct_size` before the call.
typedef struct forebay_replay_report {
    /// sizeof(forebay_replay_report).
    size_t struct_size;
    /// Rows.
    uint64_t events;
    /// Blocks that were allocated.
    uint64_t allocations;
    /// Blocks that rows of the trace freed. What lives at the end of a round is freed too,
    /// uncounted and unmeasured.
    uint64_t frees;
    /// Allocations that failed; their frees are skipped.
    uint64_t failed_allocations;
    /// Blocks that lived at the end of the last round.
    uint64_t live_at_end;
    /// Most bytes requested and live at a time, by the trace itself.
    uint64_t peak_requested;
    /// CPU time of the replaying threads, in nanoseconds: the calls, touching, and the loop
    /// around them.
    uint64_t nanoseconds;
    /// Page faults that needed no disk.
    uint64_t minor_faults;
    /// Page faults that did.
    uint64_t major_faults;
} forebay_replay_report;

/// What a cache is made from. Set `struct_size`, and at least one of the two limits.
typedef struct forebay_cache_config {
    /// sizeof(forebay_cache_config).
    size_t struct_size;
    /// Most bytes of blocks; 0 = no limit but the pools'.
    uint64_t max_bytes;
    /// Most entries; 0 = no limit.
    uint64_t max_entries;
    /// How old an entry may be, since it was put, when it is got; in milliseconds, 0 = any age.
    uint64_t time_to_live_ms;
    /// What a hit is worth besides its bytes, as bytes: the more, the more is a hit on a small
    /// entry worth. 0 = 64 KiB; 1 is the goal of most bytes, 2^50 that of most hits.
    uint64_t entry_worth;
    /// A `forebay_cache_policy`.
    int32_t policy;
    /// Zero.
    uint32_t reserved;
} forebay_cache_config;

/// An entry that is being read: from `forebay_cache_get` to `forebay_cache_release`. A plain
/// value; copies are the same pin.
typedef struct forebay_cache_pin {
    /// First byte of the block; NULL when nothing was found.
    void *ptr;
    /// Bytes that were asked for when the block was allocated.
    size_t size;
    /// Which pin it is; never 0 for one that is held.
    uint64_t ticket;
} forebay_cache_pin;

/// The counters of a cache. Set `struct_size` before the call.
typedef struct forebay_cache_statistics {
    /// sizeof(forebay_cache_statistics).
    size_t struct_size;
    /// Entries now, those included that left and are still being read.
    uint64_t entries;
    /// Bytes of their blocks.
    uint64_t bytes;
    /// The most that was when a call returned.
    uint64_t bytes_peak;
    /// Entries that are being read.
    uint64_t pinned_entries;
    /// Bytes of their blocks.
    uint64_t pinned_bytes;
    /// Gets and takes that found something.
    uint64_t hits;
    /// Gets and takes that did not.
    uint64_t misses;
    /// Blocks that were put.
    uint64_t puts;
    /// Of them, those that went back to their pool at once, for all others were worth more.
    uint64_t refused;
    /// Entries that made room for others, or went by `forebay_cache_evict`.
    uint64_t evicted;
    /// Bytes of their blocks.
    uint64_t evicted_bytes;
    /// Entries that were given up because a pool was short of memory.
    uint64_t pressed;
    /// Bytes of their blocks.
    uint64_t pressed_bytes;
    /// Entries that were too old.
    uint64_t expired;
    /// Entries that were removed by their key, or with all others.
    uint64_t removed;
    /// Entries that were taken.
    uint64_t taken;
    /// Bytes of the cache's own bookkeeping, without the bytes of keys.
    uint64_t bookkeeping_bytes;
} forebay_cache_statistics;

/// The cache that is simulated. Set `struct_size`, and at least one of the two limits. Fields
/// are as in `forebay_cache_config`.
typedef struct forebay_cache_simulate_options {
    /// sizeof(forebay_cache_simulate_options).
    size_t struct_size;
    /// Most bytes of objects; 0 = no limit.
    uint64_t max_bytes;
    /// Most objects; 0 = no limit.
    uint64_t max_entries;
    /// What a hit is worth besides its bytes, as bytes. 0 = 64 KiB; 1 is the goal of most bytes,
    /// 2^50 that of most hits.
    uint64_t entry_worth;
} forebay_cache_simulate_options;

/// What a policy had. Set `struct_size` of the first in an array before the call; it holds for
/// all of them.
typedef struct forebay_cache_outcome {
    /// sizeof(forebay_cache_outcome).
    size_t struct_size;
    /// The policy's name; the library's, for good.
    const char *name;
    /// A `forebay_cache_policy`, or -1 for one that is here to compare with.
    int32_t policy;
    /// Zero.
    uint32_t reserved;
    /// Accesses.
    uint64_t requests;
    /// Of them, those that found their object.
    uint64_t hits;
    /// Bytes of the objects that were asked for.
    uint64_t bytes;
    /// Of them, those that were found.
    uint64_t hit_bytes;
    /// Hits by what they are worth, in parts of what all accesses are worth: 0 to 1.
    double worth;
    /// Bytes of the policy's bookkeeping for each object that was kept at the end.
    double bookkeeping_per_entry;
} forebay_cache_outcome;

/// What could be better in a program, by bytes. Set `struct_size` before the call.
typedef struct forebay_lifetime_suggestions {
    /// sizeof(forebay_lifetime_suggestions).
    size_t struct_size;
    /// Tensors.
    uint64_t tensors;
    /// Steps or times from the first to the last, both included.
    uint64_t steps;
    /// Bytes of all tensors.
    uint64_t total_bytes;
    /// The peak of live bytes.
    uint64_t peak_bytes;
    /// What the plan needs.
    uint64_t planned_bytes;
    /// `total_bytes` less `planned_bytes`: what the plan saves over a place for each.
    uint64_t reusable_bytes;
    /// Tensors that live for at most a tenth of the time.
    uint64_t temporary_tensors;
    /// Their bytes.
    uint64_t temporary_bytes;
    /// Tensors that live for at least nine tenths of it.
    uint64_t long_lived_tensors;
    /// Their bytes.
    uint64_t long_lived_bytes;
    /// Tensors that were allocated and never used; 0 where no uses were recorded at all.
    uint64_t never_read_tensors;
    /// Their bytes.
    uint64_t never_read_bytes;
    /// Tensors that were freed later than after their last use.
    uint64_t free_earlier_tensors;
    /// Their bytes.
    uint64_t free_earlier_bytes;
    /// By how much `peak_bytes` would sink if they were freed after their last use.
    uint64_t free_earlier_peak_bytes;
} forebay_lifetime_suggestions;

/// How far the planner is.
typedef struct forebay_plan_progress {
    /// sizeof(forebay_plan_progress), as the library knows it.
    size_t struct_size;
    /// Bytes of the best arena so far.
    uint64_t arena_bytes;
    /// What no arena can be below.
    uint64_t lower_bound;
    /// Since it began, in nanoseconds.
    uint64_t elapsed_ns;
} forebay_plan_progress;

/// How a plan is made. Set `struct_size`; all else zero is within a second.
typedef struct forebay_plan_options {
    /// sizeof(forebay_plan_options).
    size_t struct_size;
    /// When to stop with the best so far, in milliseconds; 0 is 1000, or no time at all with
    /// `FOREBAY_PLAN_GREEDY`.
    uint64_t time_limit_ms;
    /// Two runs with one seed do the same, up to where the time ends.
    uint64_t seed;
    /// `FOREBAY_PLAN_GREEDY`, or 0.
    uint32_t flags;
    /// Zero.
    uint32_t reserved;
    /// Called at most twenty times a second, by the planning thread; anything but 0 ends the
    /// planning with the best so far. NULL: not called.
    int32_t (*progress)(const struct forebay_plan_progress *progress, void *user);
    /// Passed to `progress`.
    void *user;
} forebay_plan_options;

/// A plan as a whole. Set `struct_size` before the call.
typedef struct forebay_plan_summary {
    /// sizeof(forebay_plan_summary).
    size_t struct_size;
    /// Tensors.
    uint64_t tensors;
    /// Bytes of an arena for it: the largest offset plus size.
    uint64_t arena_bytes;
    /// What no arena can be below: the peak of live bytes.
    uint64_t lower_bound;
    /// Bytes of all tensors.
    uint64_t total_bytes;
    /// How long it took to make, in nanoseconds; 0 for one that was loaded.
    uint64_t elapsed_ns;
    /// 1 when it is known that no plan is smaller, else 0.
    uint32_t optimal;
    /// Zero.
    uint32_t reserved;
} forebay_plan_summary;

/// One tensor of a plan.
typedef struct forebay_plan_tensor {
    /// Its id.
    uint64_t id;
    /// When it begins to live.
    uint64_t lower;
    /// When it no longer lives.
    uint64_t upper;
    /// Its bytes.
    uint64_t size;
    /// Where it is in the arena.
    uint64_t offset;
} forebay_plan_tensor;

/// How well a plan fits what a pool is asked for. Set `struct_size` before the call.
typedef struct forebay_plan_usage {
    /// sizeof(forebay_plan_usage).
    size_t struct_size;
    /// Bytes of the plan's arena in the pool: whole pages of 2 MiB.
    uint64_t arena_bytes;
    /// Tensors of a step.
    uint64_t tensors;
    /// Steps that began.
    uint64_t steps;
    /// Allocations that got their place in the plan.
    uint64_t served;
    /// Allocations that got a block beside it: too many, of another size, in another order, or
    /// while somebody still had the place.
    uint64_t diverged;
    /// All bytes that were asked for in these.
    uint64_t diverged_bytes;
    /// Tensors that are in their places now.
    uint64_t live;
} forebay_plan_usage;

/// How far a report is.
typedef struct forebay_report_progress {
    /// sizeof(forebay_report_progress), as the library knows it.
    size_t struct_size;
    /// Rows of the trace that were read.
    uint64_t events;
    /// Since it began, in nanoseconds.
    uint64_t elapsed_ns;
    /// 1 when the trace was read and the plan is being made, else 0.
    uint32_t planning;
    /// Zero.
    uint32_t reserved;
} forebay_report_progress;

/// How a report is made. Set `struct_size`; all else zero is the usual.
typedef struct forebay_report_options {
    /// sizeof(forebay_report_options).
    size_t struct_size;
    /// The heading, in UTF-8; what is not becomes U+FFFD. NULL or empty: the file's name.
    const char *title;
    /// The most points of a track over time, from 100 to 4000; 0 is 2000.
    uint32_t max_points;
    /// `FOREBAY_REPORT_...`, ORed together.
    uint32_t flags;
    /// How long the planner may take, in milliseconds; 0 is 1000.
    uint64_t plan_time_limit_ms;
    /// Called at most twenty times a second, by the calling thread; anything but 0 ends the
    /// reading, or the planning, and the report is of what there is so far and says so. NULL: not
    /// called.
    int32_t (*progress)(const struct forebay_report_progress *progress, void *user);
    /// Passed to `progress`.
    void *user;
    /// Does what the trace says while it is read, on host streams without work, and the report has
    /// what it reserves over time. It has all its blocks back afterwards. NULL: that is left out.
    struct forebay_pool *pool;
} forebay_report_options;

/// What a prefetcher is made from. Set `struct_size`; all else may be 0.
typedef struct forebay_prefetcher_config {
    /// sizeof(forebay_prefetcher_config).
    size_t struct_size;
    /// Slots, 1 to 64: the batches that it is ahead, and the one that is worked on. 0 = 3.
    uint32_t slots;
    /// Threads that copy and read, up to 64. 0 = 2.
    uint32_t copy_threads;
    /// Bytes of a slot at first. 0: slots are taken with the first batches.
    uint64_t slot_bytes;
    /// Bytes that a slot grows to for a larger batch. 0: `slot_bytes`; if both are 0, no limit but
    /// the pool's.
    uint64_t max_slot_bytes;
    /// Most bytes of pinned memory, for a pool on a GPU; slots beyond it are staged in memory that
    /// is not, which is slower. 0: a quarter of what the process may have of the system's, in a
    /// container of what that allows.
    uint64_t max_pinned_bytes;
    /// `FOREBAY_PREFETCHER_` flags.
    uint64_t flags;
} forebay_prefetcher_config;

/// A part of a batch: `size` bytes at `data`, or in a file.
typedef struct forebay_prefetch_leaf {
    /// First byte; NULL for a file.
    const void *data;
    /// How many bytes; may be 0.
    size_t size;
    /// First byte in the file.
    uint64_t offset;
    /// An open file, with `FOREBAY_PREFETCH_LEAF_FILE`.
    int32_t fd;
    /// `FOREBAY_PREFETCH_LEAF_` flags.
    uint32_t flags;
} forebay_prefetch_leaf;

/// A batch that a consumer has: from `forebay_prefetch_wait` to `forebay_prefetch_release`. A plain
/// value.
typedef struct forebay_prefetch_batch {
    /// First byte of the first leaf, in the pool's memory; NULL when nothing was ever in the slot.
    void *ptr;
    /// Bytes to the end of the last leaf.
    size_t size;
} forebay_prefetch_batch;

/// The counters of a prefetcher. Set `struct_size` before the call.
typedef struct forebay_prefetch_statistics {
    /// sizeof(forebay_prefetch_statistics).
    size_t struct_size;
    /// Slots.
    uint64_t slots;
    /// Of them, those in use.
    uint64_t used_slots;
    /// Bytes of the slots in the pool.
    uint64_t slot_bytes;
    /// Bytes of pinned memory for staging now.
    uint64_t pinned_bytes;
    /// And at most.
    uint64_t pinned_peak;
    /// Bytes of staging memory that could not be pinned, or was not to be.
    uint64_t pageable_bytes;
    /// Batches that were submitted.
    uint64_t submitted;
    /// Their bytes.
    uint64_t submitted_bytes;
    /// Of them, those that threads copied or read.
    uint64_t staged_bytes;
    /// Batches that a consumer got.
    uint64_t delivered;
    /// Of them, those that were not staged yet when they were waited for.
    uint64_t late;
    /// Batches that were called off.
    uint64_t cancelled;
    /// Batches that could not be read, or sent.
    uint64_t failed;
    /// Copies that the device was told to make.
    uint64_t sends;
    /// How often a slot became larger.
    uint64_t grown;
    /// Nanoseconds that submits waited for a slot.
    uint64_t submit_wait_ns;
    /// Nanoseconds that consumers waited for a batch to be staged.
    uint64_t wait_ns;
    /// Nanoseconds that threads copied and read, all together.
    uint64_t stage_ns;
    /// Nanoseconds that threads waited for the device to be done with staging memory.
    uint64_t drain_ns;
} forebay_prefetch_statistics;

/// What is left to this process, and why. Set `struct_size` before the call. Sizes are bytes; what
/// the kernel does not say is 0.
///
/// Of each limit there is something left: of the machine what the kernel says is available, of a
/// control group its limit less what it uses, without what could be reclaimed (inactive files,
/// half of the active ones, reclaimable slabs; never shared memory), of the process's own limits
/// the rest. The least of them is what is left.
typedef struct forebay_memory_info_t {
    /// sizeof(forebay_memory_info_t).
    size_t struct_size;
    /// What can be had: what is left, less the reserve, and not below 0.
    uint64_t available_bytes;
    /// What is left of the limit that is reached first.
    uint64_t left_bytes;
    /// What should stay unused: 256 MiB or an eighth of the limit, whichever is less, and at least
    /// 2 % of the limit.
    uint64_t reserve_bytes;
    /// The limit that is reached first ...
    uint64_t limit_bytes;
    /// ... and which it is: a `forebay_memory_limit`. `forebay_memory_info_json` names its group.
    int32_t limit_source;
    /// How things stand: a `forebay_memory_level`.
    int32_t level;
    /// The most memory that this process could have: the machine's, or what the tightest group
    /// allows.
    uint64_t total_bytes;
    /// The machine's memory, whatever groups allow.
    uint64_t machine_total_bytes;
    /// What of that is available to somebody: `MemAvailable`.
    uint64_t machine_available_bytes;
    /// Swap space that is free and may be used by this process.
    uint64_t swap_available_bytes;
    /// Bytes of this process that are resident (`VmRSS`).
    uint64_t process_resident_bytes;
    /// The most that were (`VmHWM`).
    uint64_t process_resident_peak;
    /// Bytes of addresses that are mapped (`VmSize`), reservations included.
    uint64_t process_mapped_bytes;
    /// Bytes that are locked (`VmLck`).
    uint64_t process_locked_bytes;
    /// Bytes that are pinned for devices (`VmPin`), as far as their drivers say so.
    uint64_t process_pinned_bytes;
    /// Bytes that forebay itself has pinned for GPUs. They are in use as all others are.
    uint64_t pinned_bytes;
    /// Percent of the last 10 seconds in which some task waited for memory: in the process's control
    /// group or, where that does not say, on the machine (PSI).
    double pressure_some_avg10;
    /// The same of the last 60 seconds.
    double pressure_some_avg60;
    /// Percent of the last 10 seconds in which all tasks waited.
    double pressure_full_avg10;
    /// The same of the last 60 seconds.
    double pressure_full_avg60;
    /// Microseconds that some task waited since the group, or the machine, was there.
    uint64_t pressure_some_us;
    /// Microseconds that all waited.
    uint64_t pressure_full_us;
    /// Times that the control group's processes were slowed down at a `memory.high`.
    uint64_t high_events;
    /// Processes that were killed for want of memory: in the control group, or on the machine
    /// where there is none.
    uint64_t oom_kills;
    /// Bytes of a huge page of those that an administrator set aside.
    uint64_t huge_page_bytes;
    /// How many of them there are.
    uint64_t huge_pages;
    /// How many of them are free.
    uint64_t huge_pages_free;
} forebay_memory_info_t;

/// How many of something there are, and there were.
typedef struct forebay_torch_number {
    /// Now.
    uint64_t current;
    /// At most, since the peaks were last reset; exact in all threads.
    uint64_t peak;
    /// Added in all, since the totals were last reset.
    uint64_t allocated;
    /// Taken away in all, since then.
    uint64_t freed;
} forebay_torch_number;

/// Blocks and bytes of a kind of tensors.
typedef struct forebay_torch_numbers {
    /// Blocks.
    struct forebay_torch_number blocks;
    /// Bytes of the blocks.
    struct forebay_torch_number allocated_bytes;
    /// Bytes that were asked for.
    struct forebay_torch_number requested_bytes;
} forebay_torch_numbers;

/// What PyTorch's `memory_stats` tells of one device, for tensors of up to 1 MiB, larger ones, and
/// all of them. Set `struct_size` before the call.
typedef struct forebay_torch_statistics {
    /// sizeof(forebay_torch_statistics).
    size_t struct_size;
    /// All tensors.
    struct forebay_torch_numbers all;
    /// Those of up to 1 MiB.
    struct forebay_torch_numbers small;
    /// Larger ones.
    struct forebay_torch_numbers large;
    /// Bytes mapped now.
    uint64_t reserved_bytes;
    /// The most that was, since the peaks were last reset.
    uint64_t reserved_peak;
    /// All bytes ever mapped.
    uint64_t reserved_total;
    /// Bytes that are freed and held for work on streams, or for graphs.
    uint64_t waiting_bytes;
    /// Stretches of mapped addresses.
    uint64_t stretches;
    /// Free pieces of mapped memory.
    uint64_t free_runs;
    /// Allocations for which pages were mapped or moved.
    uint64_t misses;
    /// Allocations that failed for lack of memory, or otherwise.
    uint64_t failed;
    /// Times that idle pages were given back.
    uint64_t trims;
    /// Most bytes that may be mapped.
    uint64_t limit_bytes;
    /// Bytes that the device has.
    uint64_t device_bytes;
} forebay_torch_statistics;

/// Called with what happened (0: an allocation, 1: a free, 2: an allocation that was refused for
/// lack of memory, whose address is NULL), the address, the bytes that were asked for, the device
/// and the stream; without a lock, on the thread that allocates or frees. It may take the
/// interpreter's lock. It must not throw.
typedef void (*forebay_torch_observer)(int32_t happening,
                                       void *ptr,
                                       size_t size,
                                       int device,
                                       void *stream);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/// This thread's last error as text: which argument, which limit, which number. Never NULL;
/// empty if no call of this thread has failed yet. A call that succeeds leaves it as it is.
///
/// The text belongs to the thread and stays until its next call that fails, or its end.
const char *forebay_last_error(void);

/// The name of `status`, such as "FOREBAY_ERROR_OUT_OF_MEMORY"; "FOREBAY_UNKNOWN" for a number
/// that is none. The text is static.
const char *forebay_status_name(int32_t status);

/// The version of the library that is running: major << 16 | minor << 8 | patch. Compare with
/// `FOREBAY_VERSION`, that of the header.
uint32_t forebay_version(void);

/// Has the log of this process go to `callback`, lines of a level up to `max_level` (1 to
/// 5); `callback` NULL turns it off, as it is at first. `user` is passed on to it and stays
/// the caller's; it must be valid until another function is set and calls that were under
/// way have returned.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`; `FOREBAY_ERROR_INVALID_STATE` in a Rust program that
/// has set a subscriber of its own, which gets the log then.
forebay_status forebay_log_set_callback(int32_t max_level,
                                        forebay_log_fn callback,
                                        void *user);

/// Makes a stream on the host, with a thread of its own, and writes its handle to `*out`.
/// End it with `forebay_stream_destroy`.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL), `FOREBAY_ERROR_OUT_OF_MEMORY` (no
/// thread to be had).
///
/// The caller's part:
/// `out` is NULL or valid for writing.
forebay_status forebay_stream_create(forebay_stream *out);

/// Does what is queued on `stream`, then ends it. NULL is fine: nothing happens. Blocks that
/// were freed on it are free for everybody afterwards.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (not a stream, or destroyed before),
/// `FOREBAY_ERROR_INVALID_STATE` (called by work on that very stream).
forebay_status forebay_stream_destroy(forebay_stream stream);

/// Queues `work(user)` on `stream`, behind everything queued before. `user` stays the
/// caller's and must be valid until the work is done. On NULL, the calling thread, the work
/// is done before this returns.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`work` is NULL, not a stream),
/// `FOREBAY_ERROR_INVALID_STATE` (the stream is being destroyed, or was made before a fork).
///
/// The caller's part:
/// `work` may be called with `user`, once, from another thread.
forebay_status forebay_stream_submit(forebay_stream stream, forebay_stream_fn work, void *user);

/// Waits until everything that was queued on `stream` before this call is done.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (not a stream), `FOREBAY_ERROR_INVALID_STATE` (made
/// before a fork, in whose child its thread is missing).
forebay_status forebay_stream_synchronize(forebay_stream stream);

/// Writes the fence behind everything queued on `stream` so far to `*out`.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL, not a stream).
///
/// The caller's part:
/// `out` is NULL or valid for writing.
forebay_status forebay_stream_record(forebay_stream stream, struct forebay_fence *out);

/// Makes what is queued on `stream` from now on wait until `fence` is passed. On NULL, the
/// calling thread, it waits before this returns.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (not a stream), `FOREBAY_ERROR_INVALID_STATE` (the
/// stream is being destroyed, or was made before a fork).
forebay_status forebay_stream_wait(forebay_stream stream, struct forebay_fence fence);

/// Writes 1 to `*passed` when `fence` is passed, else 0. Does not wait. The fences of a
/// destroyed stream are passed.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`passed` is NULL, the fence is of no stream).
///
/// The caller's part:
/// `passed` is NULL or valid for writing.
forebay_status forebay_fence_query(struct forebay_fence fence, int32_t *passed);

/// Waits until `fence` is passed.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (the fence is of no stream),
/// `FOREBAY_ERROR_INVALID_STATE` (its stream was made before a fork, in whose child its thread is
/// missing).
forebay_status forebay_fence_wait(struct forebay_fence fence);

/// Creates a pool and writes it to `*out`. `config` NULL stands for all defaults; it is not
/// kept. The pool is the caller's, until `forebay_pool_destroy`. Addresses for it are reserved
/// now, memory is mapped as it is needed.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL; the message
/// names the field of `config`; there is no device `device_index`), `FOREBAY_ERROR_UNSUPPORTED` (no
/// CUDA driver, or one that is too old), `FOREBAY_ERROR_OUT_OF_MEMORY` (no addresses, or not
/// `initial_bytes`), `FOREBAY_ERROR_INVALID_STATE` (the driver failed; CUDA was used before a fork).
///
/// The caller's part:
/// `config` is NULL or points to a config with `struct_size` set; `out` is NULL or valid for
/// writing.
FOREBAY_NODISCARD
forebay_status forebay_pool_create(const struct forebay_pool_config *config,
                                   struct forebay_pool **out);

/// Destroys a pool and gives all its memory back, that of live blocks included: the log has
/// a warning with their number and bytes. NULL is fine: nothing happens. No call with this
/// pool may be under way in another thread; later ones get `FOREBAY_ERROR_INVALID_ARGUMENT`.
/// Works on a poisoned pool.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (destroyed before), `FOREBAY_ERROR_INVALID_STATE` (blocks
/// were live; the pool is destroyed all the same, and the message tells how many; or it is
/// PyTorch's allocator, from `forebay_torch_pool`, and stays).
///
/// The caller's part:
/// `pool` is NULL or came from `forebay_pool_create`.
forebay_status forebay_pool_destroy(struct forebay_pool *pool);

/// Gives idle memory back to the system until at most `keep_bytes` are mapped, or nothing
/// idle is left. Front caches are emptied first. The bytes given back go to `*released`
/// (may be NULL).
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for every call; `released` is NULL or valid for writing.
forebay_status forebay_pool_trim(struct forebay_pool *pool,
                                 size_t keep_bytes,
                                 size_t *released);

/// Waits until streams are done with what was freed on them so far, so that all of it is idle:
/// before a `forebay_pool_trim` that is to give back as much as there is.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for every call.
forebay_status forebay_pool_wait_for_frees(struct forebay_pool *pool);

/// Moves idle pages together, so that the largest free run is as large as it can be; live
/// blocks stay where they are. What it did goes to `*report` (may be NULL).
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`, `FOREBAY_ERROR_OUT_OF_MEMORY` (the
/// system refused to move pages; nothing is lost).
///
/// The caller's part:
/// `pool` as for every call; `report` is NULL or points to a report with `struct_size` set.
forebay_status forebay_pool_defragment(struct forebay_pool *pool,
                                       struct forebay_defrag_report *report);

/// Changes the policy, a `forebay_policy`. Size classes follow when no small block is live;
/// otherwise those that live keep the old ones in use.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for every call.
forebay_status forebay_pool_set_policy(struct forebay_pool *pool, int32_t policy);

/// Changes the limit to `max_bytes` mapped bytes; 0 = as many as the device has. Idle memory
/// beyond a lower limit is given back.
///
/// Errors, with the old limit kept: `FOREBAY_ERROR_INVALID_ARGUMENT` (less than a page of 2 MiB,
/// less than what live blocks take, or more than the addresses that were reserved at
/// creation, four times the limit it was created with), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for every call.
forebay_status forebay_pool_set_limit(struct forebay_pool *pool,
                                      uint64_t max_bytes);

/// Gives the device all memory of a pool back and keeps every address, blocks included, until
/// `forebay_pool_wake`. Waits for all work on the device first; nobody queues work that uses the
/// pool's blocks before it is awake. `mode` is a `forebay_sleep_mode`. Meanwhile blocks may be
/// freed, and their pages do not come back; calls that need memory answer
/// `FOREBAY_ERROR_INVALID_STATE`. Pages that were exported stay. What the pool has reserved says
/// `forebay_pool_stats`.
///
/// Errors, with nothing changed: `FOREBAY_ERROR_INVALID_ARGUMENT` (`mode`),
/// `FOREBAY_ERROR_INVALID_STATE` (it sleeps already; a graph is being captured; the driver
/// failed), `FOREBAY_ERROR_OUT_OF_MEMORY` (no pinned memory for the backup),
/// `FOREBAY_ERROR_UNSUPPORTED` (a backup of a host pool; memory that cannot be given back in
/// parts).
///
/// The caller's part:
/// `pool` as for every call.
forebay_status forebay_pool_sleep(struct forebay_pool *pool,
                                  int32_t mode);

/// Gets memory from the device for every address of the pool that has live blocks, and the
/// backup into it, if there is one.
///
/// Errors: `FOREBAY_ERROR_OUT_OF_MEMORY` (the device has not enough: the pool sleeps on, nothing
/// is lost, and this can be called again), `FOREBAY_ERROR_INVALID_STATE` (it does not sleep; the
/// driver failed).
///
/// The caller's part:
/// `pool` as for every call.
forebay_status forebay_pool_wake(struct forebay_pool *pool);

/// Tells a cuda pool that `stream` is about to be destroyed: what was freed on it is everybody's
/// once its work is done, and the handle may be another stream's afterwards. A stream that was
/// destroyed without this is found out, and costs a wait for everything on the device.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (the default stream, which stays; a stream of another
/// device), `FOREBAY_ERROR_INVALID_STATE` (the stream is capturing a graph, or is no stream).
///
/// The caller's part:
/// `pool` as for every call; `stream` is a stream of its device.
forebay_status forebay_pool_forget_stream(struct forebay_pool *pool,
                                          forebay_stream stream);

/// Has memory that lay idle for `milliseconds` go back to the system at once, whatever the policy
/// says; 0 = as the policy says. Front caches count: what a thread kept that has made no call for
/// that long goes back too. A thread of the library looks every second while pages are mapped, so
/// it takes up to twice the time and a second. At first it is 0.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (more than 86400000, a day), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for every call.
forebay_status forebay_pool_set_decay(struct forebay_pool *pool,
                                      uint64_t milliseconds);

/// Writes the first of the addresses that a pool reserved when it was created to `*first`, and how
/// many bytes they are to `*bytes` (both may be NULL). Every block of the pool lies there, and
/// nothing else does, until it is destroyed: so a pointer is told from others by one
/// comparison.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool`), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for every call; `first` and `bytes` are NULL or valid for writing.
forebay_status forebay_pool_addresses(struct forebay_pool *pool,
                                      const void **first,
                                      size_t *bytes);

/// Has `callback(size, user)` called before an allocation fails for lack of memory, up to 16
/// times for one allocation; NULL for nothing. `user` stays the caller's and must be valid
/// until another function is set, or the pool is destroyed.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for every call; `callback` may be called with `user` from any thread.
forebay_status forebay_pool_set_oom_callback(struct forebay_pool *pool,
                                             forebay_oom_fn callback,
                                             void *user);

/// Checks every invariant of the pool's bookkeeping and, with `FOREBAY_POOL_GUARD_BYTES`, the
/// guard bytes of every live block. Walks over everything: for tests and debugging.
///
/// Errors: `FOREBAY_ERROR_CORRUPTION` (the message names the block and the byte),
/// `FOREBAY_ERROR_INTERNAL` (the bookkeeping is wrong), `FOREBAY_ERROR_INVALID_ARGUMENT`,
/// `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for every call.
forebay_status forebay_pool_check(struct forebay_pool *pool);

/// Takes a block of at least `size` bytes for work on `stream` and writes its first byte to
/// `*out`. It is the caller's until `forebay_free`. The address is a multiple of 16, and of 512
/// for more than 32 KiB. Its bytes hold anything, unless policy or flags say otherwise.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` or `out` is NULL, a
/// size of 0 or of more than 2^46 bytes, not a stream), `FOREBAY_ERROR_OUT_OF_MEMORY` (the
/// message has requested, live and reserved bytes, the limit, the largest free run and the
/// largest live sizes), `FOREBAY_ERROR_INVALID_STATE` (the pool sleeps; a capture that was not
/// announced; CUDA after a fork; the driver failed), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` is NULL or came from `forebay_pool_create`; `out` is NULL or valid for writing.
FOREBAY_NODISCARD
forebay_status forebay_alloc(struct forebay_pool *pool,
                             size_t size,
                             forebay_stream stream,
                             void **out);

/// As `forebay_alloc`, with the first byte at a multiple of `alignment`, a power of two of at
/// most 2^30.
///
/// The caller's part:
/// As for `forebay_alloc`.
FOREBAY_NODISCARD
forebay_status forebay_alloc_aligned(struct forebay_pool *pool,
                                     size_t size,
                                     size_t alignment,
                                     forebay_stream stream,
                                     void **out);

/// Gives a block back on `stream`: work queued there before this call may still use it.
/// `stream` gets it again at once, other streams once that work is done. NULL is fine:
/// nothing happens. Any thread may free a block.
///
/// Errors: `FOREBAY_ERROR_INVALID_POINTER` (not the start of a live block of this pool; counted,
/// nothing changed), `FOREBAY_ERROR_CORRUPTION` (its guard bytes were overwritten; it is freed),
/// `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for `forebay_alloc`. `ptr` is not followed; whoever frees it no longer uses it.
forebay_status forebay_free(struct forebay_pool *pool,
                            void *ptr,
                            forebay_stream stream);

/// Takes a block of at least `size` bytes that the calling thread has at hand, for work on the default
/// stream: no lock, no system call, `errno` as it was. Where there is none, whatever the reason,
/// returns what `miss` does, which may ask `forebay_alloc`; NULL when `miss` is NULL. The block is
/// as one of `forebay_alloc`.
///
/// For threads that must not wait, and for the handlers of signals: one may call this wherever the
/// thread is not in another function of this pool than `forebay_alloc_at_hand` and
/// `forebay_free_at_hand`.
///
/// The caller's part:
/// As for `forebay_alloc`; `miss` is NULL or a function of that type.
FOREBAY_NODISCARD
void *forebay_alloc_at_hand(struct forebay_pool *pool,
                            size_t size,
                            forebay_alloc_miss_fn miss);

/// Gives a block back that the calling thread can take back at hand, as `forebay_free` does on the
/// default stream: no lock, no system call, `errno` as it was. Else returns what `miss` does, which
/// may call `forebay_free`; `FOREBAY_ERROR_BUSY`, and nothing changed, when `miss` is NULL. The
/// result is a `forebay_status`.
///
/// Who may call it where: as for `forebay_alloc_at_hand`.
///
/// The caller's part:
/// As for `forebay_free`; `miss` is NULL or a function of that type.
int32_t forebay_free_at_hand(struct forebay_pool *pool,
                             void *ptr,
                             forebay_free_miss_fn miss);

/// Changes the block at `ptr` to `size` bytes and writes its first byte, which may be another
/// one, to `*out`; the bytes that both sizes have are kept. `ptr` NULL allocates. All work
/// on the block is done, as the bytes may be copied, or their pages moved, by this call. On
/// success `ptr` is no longer the caller's.
///
/// Errors, with the old block and `*out` untouched: those of `forebay_alloc`, and
/// `FOREBAY_ERROR_INVALID_POINTER`.
///
/// The caller's part:
/// As for `forebay_alloc` and `forebay_free`.
FOREBAY_NODISCARD
forebay_status forebay_realloc(struct forebay_pool *pool,
                               void *ptr,
                               size_t size,
                               forebay_stream stream,
                               void **out);

/// Takes a block for each of `count` sizes and writes their first bytes to `out[0 .. count]`:
/// all of them, or none. `count` 0 is fine.
///
/// Errors, with `out` untouched: those of `forebay_alloc`; the message names which size.
///
/// The caller's part:
/// As for `forebay_alloc`; `sizes` and `out` have `count` elements.
FOREBAY_NODISCARD
forebay_status forebay_alloc_batch(struct forebay_pool *pool,
                                   const size_t *sizes,
                                   size_t count,
                                   forebay_stream stream,
                                   void **out);

/// Gives `count` blocks back on `stream`, in order. NULL pointers are passed over. Stops at
/// the first that cannot be freed; `*freed` (may be NULL) is how many pointers were dealt
/// with.
///
/// Errors: those of `forebay_free`; the message names which pointer.
///
/// The caller's part:
/// As for `forebay_free`; `ptrs` has `count` elements, `freed` is NULL or valid for writing.
forebay_status forebay_free_batch(struct forebay_pool *pool,
                                  void *const *ptrs,
                                  size_t count,
                                  forebay_stream stream,
                                  size_t *freed);

/// Writes how many bytes the live block at `ptr` has room for to `*out`: at least what was
/// asked for.
///
/// Errors: `FOREBAY_ERROR_INVALID_POINTER`, `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// As for `forebay_alloc`; `ptr` is not followed.
forebay_status forebay_usable_size(struct forebay_pool *pool,
                                   const void *ptr,
                                   size_t *out);

/// Finds the live block that `address` lies in: its first byte goes to `*block` and its bytes
/// to `*size` (both may be NULL). When there is none, they become NULL and 0, and the call
/// succeeds.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool`), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// As for `forebay_alloc`; `block` and `size` are NULL or valid for writing; `address` is not
/// followed.
forebay_status forebay_pool_owns(struct forebay_pool *pool,
                                 const void *address,
                                 void **block,
                                 size_t *size);

/// Says that work on `stream` uses the live block at `ptr`, which was allocated on another
/// stream. When the block is freed later, it is not given out again before what is queued on
/// `stream` by then is done. It stays the caller's.
///
/// Errors: `FOREBAY_ERROR_INVALID_POINTER`, `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// As for `forebay_alloc`; `ptr` is not followed.
forebay_status forebay_record_stream(struct forebay_pool *pool,
                                     void *ptr,
                                     forebay_stream stream);

/// Exports the block at `ptr` of a cuda pool, so that another process on this machine can use it:
/// writes a file descriptor for each of its pages to `fds`, which has room for `capacity` of
/// them, and where the block lies in them to `*shared`. The descriptors are the caller's, to be
/// sent over a socket and closed. With `fds` NULL only `*shared` is written.
///
/// What else lies in the block's first and last page is shared with it. A page that was exported
/// is never moved or given back before the pool is destroyed, and new blocks may come to lie in
/// it once the block is freed: it is for the two processes to agree when that is.
///
/// Errors, with nothing written: `FOREBAY_ERROR_INVALID_ARGUMENT` (`capacity` is too little; the
/// block has 32 KiB or less; `shared` is NULL), `FOREBAY_ERROR_INVALID_POINTER`,
/// `FOREBAY_ERROR_UNSUPPORTED` (memory that cannot be shared), `FOREBAY_ERROR_INVALID_STATE` (the
/// pool sleeps, or the driver failed).
///
/// The caller's part:
/// `pool` as for every call; `fds` is NULL or has room for `capacity` numbers; `shared` is NULL or
/// points to a struct with `struct_size` set.
forebay_status forebay_block_export(struct forebay_pool *pool,
                                    void *ptr,
                                    int32_t *fds,
                                    size_t capacity,
                                    struct forebay_shared_block *shared);

/// Maps a block that another process exported, for the GPU `device_index`, and writes its first
/// byte to `*out`. `fds` are the descriptors of its pages, in their order; they stay the caller's
/// and may be closed afterwards. End it with `forebay_block_close`. The processes order
/// their work on it themselves.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL, a layout that cannot
/// be, a descriptor that is no such page, no such device), `FOREBAY_ERROR_UNSUPPORTED` (no
/// driver, or one that cannot), `FOREBAY_ERROR_OUT_OF_MEMORY` (no addresses).
///
/// The caller's part:
/// `fds` is NULL or has `shared->pages` numbers; `shared` is NULL or points to a struct with
/// `struct_size` set; `out` is NULL or valid for writing.
forebay_status forebay_block_import(int32_t device_index,
                                    const int32_t *fds,
                                    const struct forebay_shared_block *shared,
                                    void **out);

/// Unmaps an imported block, once work on the device is done, which this waits for. NULL is fine:
/// nothing happens.
///
/// Errors: `FOREBAY_ERROR_INVALID_POINTER` (not what `forebay_block_import` gave, or closed
/// before).
forebay_status forebay_block_close(void *ptr);

/// Lets the GPU `device_index` use the memory of a pool on another GPU, now and from now on. Its
/// streams are not the pool's: make them wait for the pool's own before they use a block, and the
/// other way round before it is freed.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (no such device), `FOREBAY_ERROR_UNSUPPORTED` (the
/// two cannot reach each other, or the pool has no virtual memory management).
///
/// The caller's part:
/// `pool` as for every call.
forebay_status forebay_pool_allow_peer(struct forebay_pool *pool,
                                       int32_t device_index);

/// Announces that a graph is about to be captured on `stream`: from now on until
/// `forebay_graph_end`, what is taken on `stream`, and on streams that take part in its capture,
/// comes from memory of `graph`'s own, and stays it until `forebay_graph_release`. `graph` is any
/// number but 0 and 2^64 - 1. Several graphs may have one number, one after the other; they share
/// memory, and are launched one after the other too. To be called before the capture begins, or
/// in it before anything is taken. The pool's own calls of the driver do not disturb a capture.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` is NULL, the number, not a stream),
/// `FOREBAY_ERROR_INVALID_STATE` (the graph, or the stream, is being captured already),
/// `FOREBAY_ERROR_UNSUPPORTED` (a pool on the host).
///
/// The caller's part:
/// `pool` as for every call; `stream` is a stream of its device.
forebay_status forebay_graph_begin(struct forebay_pool *pool,
                                   uint64_t graph,
                                   forebay_stream stream);

/// The capture of `graph` is over, and all streams that took part have joined. Blocks that live
/// may be freed from now on like any other, and are the graph's still.
///
/// Errors: `FOREBAY_ERROR_INVALID_STATE` (it is not being captured),
/// `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` is NULL).
///
/// The caller's part:
/// `pool` as for every call.
forebay_status forebay_graph_end(struct forebay_pool *pool, uint64_t graph);

/// One graph of this number is gone: to be called once for each `forebay_graph_begin`. With the
/// last one its memory becomes everybody's, as soon as the work is done that is queued now on
/// streams that the pool knows: launches on other streams must be done already.
///
/// Errors: `FOREBAY_ERROR_INVALID_STATE` (no such graph, or it is being captured),
/// `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` is NULL).
///
/// The caller's part:
/// `pool` as for every call.
forebay_status forebay_graph_release(struct forebay_pool *pool, uint64_t graph);

/// Writes the counters of `pool` to `*out`. Walks over nothing, and makes no thread wait.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL, its `struct_size` is not set),
/// `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for `forebay_alloc`; `out` is NULL or points to a struct with `struct_size` set.
forebay_status forebay_pool_stats(struct forebay_pool *pool,
                                  struct forebay_pool_statistics *out);

/// Starts the peaks again from what is there now.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for `forebay_alloc`.
forebay_status forebay_pool_reset_peaks(struct forebay_pool *pool);

/// Writes a report on everything as JSON, with a NUL behind it, to `buffer`, which has
/// `capacity` bytes; its length without the NUL goes to `*length` (may be NULL). `buffer` NULL
/// with `capacity` 0 asks for the length only; leave some room, for it changes with the pool.
/// Walks over every block: for reports, not for every step.
///
/// The object has "schema" (1), "pool", "device", "policy", "limit_bytes", "address_bytes";
/// "requested", "allocated" and "reserved", each {"current", "peak", "total"}; the counters of
/// `forebay_pool_statistics` and "front_cache_misses"; "free_bytes", "free_runs", "idle_bytes"
/// (whole pages nobody uses), "waiting_bytes" (freed, but streams may use them),
/// "front_cache_bytes", "unmapped_runs", "largest_free_run"; "external_fragmentation" (1 -
/// largest free run / free) and "internal_fragmentation" (1 - requested / allocated); "large"
/// {"live_blocks", "live_bytes"}; "size_classes", a list of {"size", "slabs", "blocks",
/// "live_blocks", "requested_bytes"}; "largest_live_blocks", a list of up to 16 {"address",
/// "requested_bytes"}. All sizes are bytes.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`buffer` is NULL, or too small: `*length` is set, the
/// buffer untouched), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for `forebay_alloc`; `buffer` is NULL or has `capacity` bytes; `length` is NULL or
/// valid for writing.
forebay_status forebay_pool_stats_json(struct forebay_pool *pool,
                                       char *buffer,
                                       size_t capacity,
                                       size_t *length);

/// Writes a picture of the memory of `pool` as JSON, in the way of `forebay_pool_stats_json`: every
/// mapped stretch of addresses, piece by piece. Walks over every block.
///
/// The object has "schema" (1), "pool", and "stretches", a list in the order of addresses of
/// {"address", "size", "pieces"}; pieces are lists [address, size, requested, state, stream,
/// small] that follow each other without a gap: bytes, and the bytes that were asked for (0 of what
/// is not live); "live", "waiting" (freed, but streams may use it, or it is a graph's) or "free";
/// the stream it was taken or freed on, 0 where nobody knows; 1 for blocks of slabs, of up to
/// 32 KiB.
///
/// Errors: those of `forebay_pool_stats_json`.
///
/// The caller's part:
/// As for `forebay_pool_stats_json`.
forebay_status forebay_pool_snapshot_json(struct forebay_pool *pool,
                                          char *buffer,
                                          size_t capacity,
                                          size_t *length);

/// Starts to write every allocation and free of `pool` to the file `path`, in the log format
/// of RAPIDS RMM (`Thread,Time,Action,Pointer,Size,Stream`), as gzip when the name ends in
/// ".gz". Until `forebay_trace_stop` every call takes a lock and writes a row, some 200 ns, and
/// 300 as gzip.
///
/// Errors: `FOREBAY_ERROR_INVALID_STATE` (it is being traced already), `FOREBAY_ERROR_IO` (the file
/// cannot be made), `FOREBAY_ERROR_INVALID_ARGUMENT`, `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for `forebay_alloc`; `path` is NULL or a string that ends with a NUL.
forebay_status forebay_trace_start(struct forebay_pool *pool,
                                   const char *path);

/// As `forebay_trace_start`, with one column more, `Site`: where the program asked, as
/// `forebay_trace_site` was told. `forebay_trace_report` explains the peak by it.
///
/// Errors: those of `forebay_trace_start`.
///
/// The caller's part:
/// `pool` as for `forebay_alloc`; `path` is NULL or a string that ends with a NUL.
forebay_status forebay_trace_start_with_sites(struct forebay_pool *pool, const char *path);

/// What the calling thread allocates from now on, from whatever pool, is asked for at `site`: any
/// text, such as "model.c:42 forward"; NULL or "" is not told. The text is copied: control
/// characters become blanks, and what is longer than 400 bytes is cut. Only traces with sites
/// look at it, so a program can leave the calls in.
///
/// Errors: none but `FOREBAY_ERROR_POISONED`, of a panic inside.
///
/// The caller's part:
/// `site` is NULL or a string that ends with a NUL.
forebay_status forebay_trace_site(const char *site);

/// Ends the recording and closes the file.
///
/// Errors: `FOREBAY_ERROR_INVALID_STATE` (it is not being traced), `FOREBAY_ERROR_IO` (a row could not
/// be written; the recording ended there), `FOREBAY_ERROR_INVALID_ARGUMENT`.
///
/// The caller's part:
/// `pool` as for `forebay_alloc`.
forebay_status forebay_trace_stop(struct forebay_pool *pool);

/// Replays the trace in the file `path`, plain or gzip, into `pool`; `pool` NULL is the C
/// library's malloc and free, for comparison. Streams of the trace become streams of their
/// own on the host, without work on them. `options` and `report` may be NULL.
///
/// Errors: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (the message names line and column; or
/// the trace frees what it never allocated, in which case everything else was replayed and
/// `*report` is set), `FOREBAY_ERROR_INVALID_ARGUMENT`, and those of `forebay_free`. An allocation
/// that fails is counted and does not end the replay.
///
/// The caller's part:
/// `pool` is NULL or as for `forebay_alloc`; `path` is NULL or a string that ends with a NUL;
/// `options` and `report` are NULL or point to structs with `struct_size` set.
forebay_status forebay_trace_replay(struct forebay_pool *pool,
                                    const char *path,
                                    const struct forebay_replay_options *options,
                                    struct forebay_replay_report *report);

/// Writes a picture of the trace in the file `path`, plain or gzip, to the file `svg`: the bytes that
/// live after each of its steps, their most, below which no arena can be, and what `pool` has
/// reserved at each step when the trace is replayed into it; `pool` NULL leaves that out. One SVG of a
/// bounded size, light or dark as its reader has it. `flags` is 0.
///
/// Errors: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (the message names line and column; or
/// the trace frees what it never allocated, in which case the picture of everything else is written),
/// `FOREBAY_ERROR_INVALID_ARGUMENT` (`path` or `svg` is NULL, `flags` are not known), and those of
/// `forebay_free`. The picture says how many allocations failed.
///
/// The caller's part:
/// `pool` is NULL or as for `forebay_alloc`; `path` and `svg` are NULL or strings that end with a NUL.
forebay_status forebay_trace_svg(struct forebay_pool *pool,
                                 const char *path,
                                 const char *svg,
                                 uint32_t flags);

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
/// The caller's part:
/// `pools` is NULL or has `count` pools; `config` is NULL or points to a config with `struct_size`
/// set; `out` is NULL or valid for writing.
FOREBAY_NODISCARD
forebay_status forebay_cache_create(struct forebay_pool *const *pools,
                                    size_t count,
                                    const struct forebay_cache_config *config,
                                    struct forebay_cache **out);

/// Destroys a cache: the blocks of its entries go back to their pools. NULL is fine: nothing
/// happens. No call with this cache may be under way in another thread; later ones get
/// `FOREBAY_ERROR_INVALID_ARGUMENT`. Works on a poisoned cache, whose blocks stay live.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (destroyed before), `FOREBAY_ERROR_INVALID_STATE`
/// (entries were being read; the cache is destroyed all the same, and their blocks are live blocks
/// of their pools, for who reads them to free with `forebay_free`).
///
/// The caller's part:
/// `cache` is NULL or came from `forebay_cache_create`.
forebay_status forebay_cache_destroy(struct forebay_cache *cache);

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
/// The caller's part:
/// `cache` as for every call; `key` is NULL or has `key_size` bytes; nobody frees the block or
/// writes to it any more.
forebay_status forebay_cache_put(struct forebay_cache *cache,
                                 const void *key,
                                 size_t key_size,
                                 void *ptr,
                                 forebay_stream stream);

/// As `forebay_cache_put`, of a copy: a block of `size` bytes of the cache's first pool gets the
/// bytes at `from`, which must be where that pool's device can read them (in the GPU's memory for a
/// cuda pool), in the order of `stream`. On the host the copy is done when this returns.
///
/// Errors: those of `forebay_cache_put` and of `forebay_alloc`; `FOREBAY_ERROR_INVALID_ARGUMENT`
/// when `from` is NULL or `size` is 0.
///
/// The caller's part:
/// `cache` as for every call; `key` is NULL or has `key_size` bytes; `from` is NULL or has `size`
/// bytes.
forebay_status forebay_cache_put_copy(struct forebay_cache *cache,
                                      const void *key,
                                      size_t key_size,
                                      const void *from,
                                      size_t size,
                                      forebay_stream stream);

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
/// The caller's part:
/// `cache` as for every call; `key` is NULL or has `key_size` bytes; `out` is NULL or valid for
/// writing.
forebay_status forebay_cache_get(struct forebay_cache *cache,
                                 const void *key,
                                 size_t key_size,
                                 forebay_stream stream,
                                 struct forebay_cache_pin *out);

/// Ends a read: `pin` is what `forebay_cache_get` gave, and its reader's last work is queued on
/// `stream` by now. The block is nobody else's before that work is done. A pin whose `ptr` is NULL
/// is fine: nothing happens.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` is NULL; the pin was released before, or is
/// none of this cache's; no such stream, and then the pin is still held),
/// `FOREBAY_ERROR_OUT_OF_MEMORY` (no memory to note the stream; the pin is still held),
/// `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `cache` as for every call.
forebay_status forebay_cache_release(struct forebay_cache *cache,
                                     struct forebay_cache_pin pin,
                                     forebay_stream stream);

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
/// The caller's part:
/// `cache` as for every call; `key` is NULL or has `key_size` bytes; `ptr` and `size` are NULL or
/// valid for writing.
forebay_status forebay_cache_take(struct forebay_cache *cache,
                                  const void *key,
                                  size_t key_size,
                                  forebay_stream stream,
                                  void **ptr,
                                  size_t *size);

/// Removes all entries of `key`; how many goes to `*removed` (may be NULL). Nobody gets them any
/// more; their blocks go back to their pools, of those that are being read with the last release.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` or `key` is NULL; `key_size` is 0 or more than
/// 65536), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `cache` as for every call; `key` is NULL or has `key_size` bytes; `removed` is NULL or valid for
/// writing.
forebay_status forebay_cache_remove(struct forebay_cache *cache,
                                    const void *key,
                                    size_t key_size,
                                    size_t *removed);

/// Evicts entries, those first that are worth least, until `bytes` of blocks went back to their
/// pools or nothing is left that nobody reads; the bytes go to `*freed` (may be NULL).
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` is NULL), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `cache` as for every call; `freed` is NULL or valid for writing.
forebay_status forebay_cache_evict(struct forebay_cache *cache, size_t bytes, size_t *freed);

/// Removes the entries that were put `age_ms` milliseconds ago or earlier, as
/// `forebay_cache_remove` does; how many goes to `*expired` (may be NULL). Ages are known to four
/// milliseconds.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` is NULL), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `cache` as for every call; `expired` is NULL or valid for writing.
forebay_status forebay_cache_expire(struct forebay_cache *cache,
                                    uint64_t age_ms,
                                    size_t *expired);

/// Removes all entries, as `forebay_cache_remove` does; how many goes to `*removed` (may be NULL).
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` is NULL), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `cache` as for every call; `removed` is NULL or valid for writing.
forebay_status forebay_cache_clear(struct forebay_cache *cache,
                                   size_t *removed);

/// Writes the counters of `cache` to `*out`.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`cache` or `out` is NULL, `struct_size` is not set).
///
/// The caller's part:
/// `cache` as for every call; `out` is NULL or points to a struct with `struct_size` set.
forebay_status forebay_cache_stats(struct forebay_cache *cache,
                                   struct forebay_cache_statistics *out);

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
/// The caller's part:
/// `cache` as for every call; `buffer` is NULL or has `capacity` bytes; `length` is NULL or valid
/// for writing.
forebay_status forebay_cache_stats_json(struct forebay_cache *cache,
                                        char *buffer,
                                        size_t capacity,
                                        size_t *length);

/// Checks every invariant of the cache's bookkeeping. Walks over everything: for tests and
/// debugging.
///
/// Errors: `FOREBAY_ERROR_INTERNAL` (the bookkeeping is wrong), `FOREBAY_ERROR_INVALID_ARGUMENT`
/// (`cache` is NULL), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `cache` as for every call.
forebay_status forebay_cache_check(struct forebay_cache *cache);

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
/// The caller's part:
/// `dtype` is NULL or a string; `shape` is NULL or has `dimensions` numbers; `buffer` is NULL or has
/// `capacity` bytes; `length` is NULL or valid for writing.
forebay_status forebay_cache_tensor_key(const char *dtype,
                                        const int64_t *shape,
                                        size_t dimensions,
                                        int32_t device_kind,
                                        uint32_t device_index,
                                        char *buffer,
                                        size_t capacity,
                                        size_t *length);

/// Runs the key trace in the file `path`, plain or gzip, against caches of every policy, without
/// memory of a pool, and writes what each had to `outcomes`, an array of `capacity`: the best by
/// what hits are worth first. The first whose `policy` is not -1 is the one to choose. `*count`
/// is how many policies there are (9 in this release); when `capacity` is less, the best are
/// written, and `outcomes` may be NULL when it is 0. `count` may be NULL.
///
/// Every access of the trace is a `forebay_cache_get`, and a put of the object when it was not
/// there. A trace is text with a key a line; or key and bytes; or time, key and bytes; or lines of
/// JSON with keys in the array "hash_ids"; or binary, each key four bytes with the highest
/// first. Where it has no bytes each object has one. It is read into memory, 4 bytes an
/// access and some 40 an object. Other packers: `xz -dc trace.xz | program`, with "/dev/stdin" for
/// a path.
///
/// Errors: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (the message names the line),
/// `FOREBAY_ERROR_OUT_OF_MEMORY`, `FOREBAY_ERROR_INVALID_ARGUMENT`. After an error nothing was written.
///
/// The caller's part:
/// `path` is NULL or a string that ends with a NUL; `options` is NULL or points to a struct with
/// `struct_size` set; `outcomes` is NULL or has `capacity` structs, of as many bytes each as
/// `struct_size` of the first says; `count` is NULL or valid for writing.
forebay_status forebay_cache_simulate(const char *path,
                                      const struct forebay_cache_simulate_options *options,
                                      struct forebay_cache_outcome *outcomes,
                                      size_t capacity,
                                      size_t *count);

/// Creates an empty record and writes it to `*out`. It is the caller's, until
/// `forebay_lifetime_destroy`.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL).
///
/// The caller's part:
/// `out` is NULL or valid for writing.
FOREBAY_NODISCARD forebay_status forebay_lifetime_create(struct forebay_lifetime **out);

/// Destroys a record; plans made from it stay. NULL is fine: nothing happens.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (destroyed before).
///
/// The caller's part:
/// `lifetime` is NULL or came from `forebay_lifetime_create`.
forebay_status forebay_lifetime_destroy(struct forebay_lifetime *lifetime);

/// The tensor `id` of `bytes` bytes is used in `step`. A tensor that was not allocated before
/// lives from the step of its first use to that of its last, both included.
///
/// Errors, with nothing recorded: `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` is NULL or
/// destroyed; `step` is below the last one, or 2^64 - 1; `bytes` is 0, or not that of the first
/// use), `FOREBAY_ERROR_INVALID_STATE` (it was freed), `FOREBAY_ERROR_OUT_OF_MEMORY`.
///
/// The caller's part:
/// `lifetime` as for `forebay_lifetime_destroy`.
forebay_status forebay_lifetime_record(struct forebay_lifetime *lifetime,
                                       uint64_t step,
                                       uint64_t id,
                                       uint64_t bytes);

/// The tensor `id` of `bytes` bytes is allocated at `time`, which may be a step: it lives until
/// `forebay_lifetime_record_free`, or to the end.
///
/// Errors, with nothing recorded: `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` is NULL or
/// destroyed; `time` is below the last one, or 2^64 - 1; `bytes` is 0; `id` is known),
/// `FOREBAY_ERROR_OUT_OF_MEMORY`.
///
/// The caller's part:
/// `lifetime` as for `forebay_lifetime_destroy`.
forebay_status forebay_lifetime_record_alloc(struct forebay_lifetime *lifetime,
                                             uint64_t time,
                                             uint64_t id,
                                             uint64_t bytes);

/// The tensor `id` is freed at `time`: what is allocated then may have its place.
///
/// Errors, with nothing recorded: `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` is NULL or
/// destroyed; `id` is not known; `time` is below the last one, or not after the tensor's
/// allocation and last use), `FOREBAY_ERROR_INVALID_STATE` (it was freed before).
///
/// The caller's part:
/// `lifetime` as for `forebay_lifetime_destroy`.
forebay_status forebay_lifetime_record_free(struct forebay_lifetime *lifetime,
                                            uint64_t time,
                                            uint64_t id);

/// The offset of the tensor `id` shall be a multiple of `alignment`, a power of two.
///
/// Errors, with nothing changed: `FOREBAY_ERROR_INVALID_ARGUMENT`.
///
/// The caller's part:
/// `lifetime` as for `forebay_lifetime_destroy`.
forebay_status forebay_lifetime_align(struct forebay_lifetime *lifetime,
                                      uint64_t id,
                                      uint64_t alignment);

/// The tensor `id` shall be at `offset`.
///
/// Errors, with nothing changed: `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` is NULL or
/// destroyed, `id` is not known). Whether it can be there is seen when a plan is made.
///
/// The caller's part:
/// `lifetime` as for `forebay_lifetime_destroy`.
forebay_status forebay_lifetime_fix(struct forebay_lifetime *lifetime,
                                    uint64_t id,
                                    uint64_t offset);

/// The tensor `id` may be written in the place of `with`, as an operator does that works in place:
/// they may have the same offset while both live. `with` was recorded before `id`.
///
/// Errors, with nothing changed: `FOREBAY_ERROR_INVALID_ARGUMENT`.
///
/// The caller's part:
/// `lifetime` as for `forebay_lifetime_destroy`.
forebay_status forebay_lifetime_alias(struct forebay_lifetime *lifetime,
                                      uint64_t id,
                                      uint64_t with);

/// Adds the blocks of the trace in the file `path`, as `forebay_trace_start` writes it: ids count
/// from `first_id`, times are rows, sizes are rounded up to `alignment`, a power of two, which is
/// the alignment of the offsets too.
///
/// Errors: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (what came before stays recorded),
/// `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` is NULL or destroyed; `path` is NULL; an id is
/// known), `FOREBAY_ERROR_OUT_OF_MEMORY`.
///
/// The caller's part:
/// `lifetime` as for `forebay_lifetime_destroy`; `path` is NULL or a string that ends with a NUL.
forebay_status forebay_lifetime_add_trace(struct forebay_lifetime *lifetime,
                                          const char *path,
                                          uint64_t first_id,
                                          uint64_t alignment);

/// Adds the tensors of the CSV file `path`: columns `id,lower,upper,size`, and if they are there
/// `offset` (fixed), `alignment` and `alias`, empty where there is none.
///
/// Errors: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (the message names line and column),
/// `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` is NULL or destroyed; `path` is NULL; a tensor that
/// ends before it begins, has no bytes or the id of another), `FOREBAY_ERROR_OUT_OF_MEMORY`.
///
/// The caller's part:
/// `lifetime` as for `forebay_lifetime_destroy`; `path` is NULL or a string that ends with a NUL.
forebay_status forebay_lifetime_add_instance(struct forebay_lifetime *lifetime,
                                             const char *path);

/// What could be better in the program, given `plan`, which was made from these lifetimes.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL, something destroyed, a
/// plan for other tensors, `struct_size` is not set).
///
/// The caller's part:
/// `lifetime` as for `forebay_lifetime_destroy`; `plan` as for `forebay_plan_destroy`; `out` is NULL
/// or points to a struct with `struct_size` set.
FOREBAY_NODISCARD
forebay_status forebay_lifetime_suggest(struct forebay_lifetime *lifetime,
                                        const struct forebay_plan *plan,
                                        struct forebay_lifetime_suggestions *out);

/// Makes a plan for what `lifetime` has recorded so far and writes it to `*out`. The plan is the
/// caller's, until `forebay_plan_destroy`. `options` NULL is the same as all zero. Blocks until the
/// plan is known to be the best, the time is over, or the callback ends it. The record stays as it
/// is, and other threads may go on recording.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`lifetime` or `out` is NULL;
/// `lifetime` is destroyed; two tensors with fixed offsets overlap; all bytes together are beyond
/// 2^60; the message names the field of `options`), `FOREBAY_ERROR_OUT_OF_MEMORY`.
///
/// The caller's part:
/// `lifetime` as for `forebay_lifetime_destroy`; `options` is NULL or points to a struct with
/// `struct_size` set, whose `progress` can be called; `out` is NULL or valid for writing.
FOREBAY_NODISCARD
forebay_status forebay_lifetime_plan(struct forebay_lifetime *lifetime,
                                     const struct forebay_plan_options *options,
                                     struct forebay_plan **out);

/// Destroys a plan. NULL is fine: nothing happens.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (destroyed before).
///
/// The caller's part:
/// `plan` is NULL or came from `forebay_lifetime_plan` or `forebay_plan_load`.
forebay_status forebay_plan_destroy(struct forebay_plan *plan);

/// Writes what `plan` needs, and how good it is, to `*out`.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`plan` or `out` is NULL, `plan`
/// is destroyed, `struct_size` is not set).
///
/// The caller's part:
/// `plan` as for `forebay_plan_destroy`; `out` is NULL or points to a struct with `struct_size` set.
FOREBAY_NODISCARD
forebay_status forebay_plan_summarize(const struct forebay_plan *plan,
                                      struct forebay_plan_summary *out);

/// Writes the offset of the tensor `id` to `*out`, in bytes.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`plan` or `out` is NULL, `plan`
/// is destroyed, no such `id`).
///
/// The caller's part:
/// `plan` as for `forebay_plan_destroy`; `out` is NULL or valid for writing.
FOREBAY_NODISCARD
forebay_status forebay_plan_offset(const struct forebay_plan *plan,
                                   uint64_t id,
                                   uint64_t *out);

/// Writes the tensor number `index`, in the order of recording, to `*out`.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`plan` or `out` is NULL, `plan`
/// is destroyed, `index` is not below the number of tensors).
///
/// The caller's part:
/// `plan` as for `forebay_plan_destroy`; `out` is NULL or valid for writing.
FOREBAY_NODISCARD
forebay_status forebay_plan_tensor_at(const struct forebay_plan *plan,
                                      size_t index,
                                      struct forebay_plan_tensor *out);

/// Writes the ids of the tensors that share bytes of the arena with the tensor `id` to `ids`, which
/// has room for `capacity` of them, and how many there are to `*count`. Those beyond `capacity` are
/// not written. `ids` NULL with `capacity` 0 asks for the number only.
///
/// Errors, with nothing written: `FOREBAY_ERROR_INVALID_ARGUMENT` (`plan` or `count` is NULL, `ids`
/// is NULL and `capacity` is not 0, `plan` is destroyed, no such `id`).
///
/// The caller's part:
/// `plan` as for `forebay_plan_destroy`; `ids` is NULL or has `capacity` elements; `count` is NULL or
/// valid for writing.
FOREBAY_NODISCARD
forebay_status forebay_plan_sharers(const struct forebay_plan *plan,
                                    uint64_t id,
                                    uint64_t *ids,
                                    size_t capacity,
                                    size_t *count);

/// Checks that `plan` is a plan for what `lifetime` has recorded: the same tensors, no two that
/// live at one time overlap, each where its alignment and its fixed offset allow.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL, something destroyed; the message names the
/// tensors that are in each other's way, or that only one side has).
///
/// The caller's part:
/// `plan` as for `forebay_plan_destroy`; `lifetime` as for `forebay_lifetime_destroy`.
FOREBAY_NODISCARD
forebay_status forebay_plan_validate(const struct forebay_plan *plan,
                                     struct forebay_lifetime *lifetime);

/// Writes `plan` to the file `path`: CSV with the columns `id,lower,upper,size,offset` (and
/// `alignment` and `alias` where a tensor has one), or with `FOREBAY_PLAN_BINARY` in `flags` the
/// compact form, which has a checksum.
///
/// Errors: `FOREBAY_ERROR_IO` (what was written of the file stays), `FOREBAY_ERROR_INVALID_ARGUMENT`
/// (`plan` or `path` is NULL, `plan` is destroyed, `flags` are not known).
///
/// The caller's part:
/// `plan` as for `forebay_plan_destroy`; `path` is NULL or a string that ends with a NUL.
forebay_status forebay_plan_save(const struct forebay_plan *plan,
                                 const char *path,
                                 uint32_t flags);

/// Writes a picture of `plan` to the file `path`: address by time, a rectangle per tensor, and live
/// bytes beneath. With `before`, another plan of the same tensors, that one is above it, on the
/// same scale; NULL leaves it out. One SVG of at most some 2 MB, light or dark as its reader has
/// it: tensors smaller than a pixel are merged, and the largest say what they are where the pointer
/// rests. Colours are by size, or with `FOREBAY_PLAN_SVG_BY_ID` in `flags` by id.
///
/// Errors: `FOREBAY_ERROR_IO` (what was written of the file stays), `FOREBAY_ERROR_INVALID_ARGUMENT`
/// (`plan` or `path` is NULL, a plan is destroyed, `before` is one of other tensors, `flags` are not
/// known).
///
/// The caller's part:
/// `plan` and `before` as for `forebay_plan_destroy`; `path` is NULL or a string that ends with a NUL.
forebay_status forebay_plan_svg(const struct forebay_plan *plan,
                                const struct forebay_plan *before,
                                const char *path,
                                uint32_t flags);

/// Reads a plan from the file `path`, in either form, checks it, and writes it to `*out`. The plan
/// is the caller's, until `forebay_plan_destroy`.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (the file is not
/// one, was cut or changed), `FOREBAY_ERROR_INVALID_ARGUMENT` (`path` or `out` is NULL; tensors in it
/// overlap, or are not what can be recorded).
///
/// The caller's part:
/// `path` is NULL or a string that ends with a NUL; `out` is NULL or valid for writing.
FOREBAY_NODISCARD
forebay_status forebay_plan_load(const char *path,
                                 struct forebay_plan **out);

/// Serves what is allocated in `pool` from now on from `plan`: an allocation that is the next
/// tensor of the plan, by its size, gets that tensor's place in one arena, and after the last
/// tensor comes the first of the next step. So a program that repeats a step needs the plan's
/// arena and no more, and no call of the device.
///
/// A program may do otherwise. An allocation that is none of the next tensors, or whose place
/// somebody still has, gets a block beside the arena, as without a plan, and is counted; the
/// plan is found again by the sizes that follow, or at `forebay_pool_begin_step`. Tensors that live
/// on over the end of a step, as weights do, are not expected again.
///
/// On a GPU places are used again in stream order: a stream that takes a place which another
/// one had waits for that one on the device. Work that is captured as a graph is not served from
/// a plan.
///
/// The arena's memory is taken on `stream`, whose work it is behind. What the pool has idle
/// besides is given back. All else stays as it was: blocks that were given out before, statistics,
/// the limit. `plan` may be destroyed afterwards.
///
/// The tensors' offsets are multiples of 512, or of the pool's block size if that is more: plan
/// with that alignment (`forebay_lifetime_add_trace`, `forebay_lifetime_align`). Sizes match when
/// they are equal after rounding up to the least alignment in the plan.
///
/// Errors, with nothing changed: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` or `plan` is NULL or
/// destroyed; the plan has no tensors, or one at another offset; the arena is beyond the limit of
/// sizes), `FOREBAY_ERROR_INVALID_STATE` (a plan is applied already; the pool sleeps; it writes
/// guard bytes or poison, for which a plan has no room; `stream` captures a graph),
/// `FOREBAY_ERROR_OUT_OF_MEMORY`, `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for every call; `plan` as for `forebay_plan_destroy`; `stream` is a stream of the
/// pool's device.
FOREBAY_NODISCARD
forebay_status forebay_pool_apply_plan(struct forebay_pool *pool,
                                       const struct forebay_plan *plan,
                                       forebay_stream stream);

/// Ends what `forebay_pool_apply_plan` began. The arena's memory is the pool's again, behind all
/// work that used it.
///
/// Errors, with nothing changed: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` is NULL or destroyed),
/// `FOREBAY_ERROR_INVALID_STATE` (no plan is applied, or blocks of it are given out),
/// `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for every call.
forebay_status forebay_pool_remove_plan(struct forebay_pool *pool);

/// Says that the next allocation is the first of a step. Steps that go as planned follow each
/// other without it. With it a step that went otherwise leaves no trace in the next, however
/// alike the sizes are.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` is NULL or destroyed),
/// `FOREBAY_ERROR_INVALID_STATE` (no plan is applied), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for every call.
forebay_status forebay_pool_begin_step(struct forebay_pool *pool);

/// Writes how well the plan of `pool` fits to `*out`.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`pool` is NULL or destroyed,
/// `out` is NULL, `struct_size` is not set), `FOREBAY_ERROR_INVALID_STATE` (no plan is applied),
/// `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `pool` as for every call; `out` is NULL or points to a struct with `struct_size` set.
FOREBAY_NODISCARD
forebay_status forebay_pool_plan_usage(struct forebay_pool *pool,
                                       struct forebay_plan_usage *out);

/// Writes a report of the trace in the file `trace`, plain or gzip, to the file `out`: one page of
/// HTML below 2 MB that needs nothing else, light or dark as its reader has it. It shows what lived
/// when, who held the peak, addresses over time as they were and as a plan would have them, sizes,
/// streams, threads, what is live at the end, and at most three things to do. Its numbers are in it
/// as JSON too, in the element with the id "data". The trace is read once; memory is bounded by
/// what lives in it at a time, and some 100 MB for the plan. `options` may be NULL.
///
/// Errors: `FOREBAY_ERROR_IO`, `FOREBAY_ERROR_MALFORMED_TRACE` (the message names line and column,
/// and nothing is written; or the trace frees what it never allocated, in which case the report of
/// everything else is written and names such rows), `FOREBAY_ERROR_INVALID_ARGUMENT` (`trace` or
/// `out` is NULL, the pool is destroyed; the message names the field of `options`), and those of
/// `forebay_free`.
///
/// The caller's part:
/// `trace` and `out` are NULL or strings that end with a NUL; `options` is NULL or points to a
/// struct with `struct_size` set, whose `title` is NULL or such a string, whose `progress` can
/// be called, and whose `pool` is NULL or as for `forebay_alloc`.
forebay_status forebay_trace_report(const char *trace,
                                    const char *out,
                                    const struct forebay_report_options *options);

/// Creates a prefetcher whose slots are blocks of `pool`, on the host or on a GPU, and writes it to
/// `*out`. It is the caller's, until `forebay_prefetcher_destroy`; `config` NULL is all defaults.
/// The pool stays the caller's; if it is destroyed first, it closes the prefetcher and takes its
/// blocks, and what is left to do is `forebay_prefetcher_destroy`. While the pool sleeps no batch may
/// be on its way.
///
/// Memory is (slots) x (bytes of a slot) in the pool, and on a GPU as much again of the system's,
/// pinned, in whole pages of 2 MiB for each slot. It is taken here as far as `slot_bytes` says.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL, `pool` is NULL or
/// destroyed; the message names the field of `config`), `FOREBAY_ERROR_OUT_OF_MEMORY`,
/// `FOREBAY_ERROR_UNSUPPORTED` (a pool on pinned memory), `FOREBAY_ERROR_INVALID_STATE` (a pool on a
/// GPU that was made before a fork), `FOREBAY_ERROR_POISONED` (the pool is).
///
/// The caller's part:
/// `pool` is NULL or came from `forebay_pool_create`; `config` is NULL or points to a config with
/// `struct_size` set; `out` is NULL or valid for writing.
FOREBAY_NODISCARD
forebay_status forebay_prefetcher_create(struct forebay_pool *pool,
                                         const struct forebay_prefetcher_config *config,
                                         struct forebay_prefetcher **out);

/// Ends a prefetcher for everybody: batches that nobody got are called off, their sources are not
/// needed any more when this returns, and calls that wait, or come later, get
/// `FOREBAY_ERROR_INVALID_STATE`. Batches that consumers have stay, and are still to be released.
/// Waits for its threads, which end with the part of a batch, at most 512 KiB, or the call of the
/// driver that they are at, and for the device where a batch that is called off came from pinned
/// memory. May be called while others are under way, and twice.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`prefetcher` is NULL or destroyed),
/// `FOREBAY_ERROR_INVALID_STATE` (it was made before a fork), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `prefetcher` is NULL or came from `forebay_prefetcher_create`.
forebay_status forebay_prefetcher_close(struct forebay_prefetcher *prefetcher);

/// Destroys a prefetcher, closed or not: its blocks go back to the pool, and its pinned memory to
/// the system. Waits for what is queued on the device. NULL is fine: nothing happens. No call with
/// it may be under way in another thread; later ones get `FOREBAY_ERROR_INVALID_ARGUMENT`. In a
/// forked child nothing is given back: it is the parent's.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (destroyed before), `FOREBAY_ERROR_INVALID_STATE`
/// (batches were not released; it is destroyed all the same, and their blocks are live blocks of
/// the pool, for who has them to free with `forebay_free`). An error of the device is told after
/// everything was given back that could be.
///
/// The caller's part:
/// `prefetcher` is NULL or came from `forebay_prefetcher_create`.
forebay_status forebay_prefetcher_destroy(struct forebay_prefetcher *prefetcher);

/// Submits a batch: the `count` leaves, one behind the other in a slot, each at the next multiple of
/// `FOREBAY_PREFETCH_ALIGNMENT` (or, where it says so, of `FOREBAY_PREFETCH_DIRECT_ALIGNMENT`).
/// Returns at once; threads copy and read. Its ticket, never 0, goes to `*ticket`. When all slots
/// are in use, this waits for one, at most `timeout_ms` milliseconds; 0 = not at all,
/// `FOREBAY_PREFETCH_FOREVER` = as long as it takes.
///
/// `leaves` is only read in this call. What the leaves lead to stays the caller's, and stays as it
/// is until `forebay_prefetch_poll` says that it is not needed, or the batch was waited for, or
/// cancelled. Pinned memory is needed until the batch is there.
///
/// Errors, with `*ticket` untouched and nothing needed any more: `FOREBAY_ERROR_BUSY` (no slot in
/// time), `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL; the message names the leaf; more bytes than a
/// slot may have), `FOREBAY_ERROR_OUT_OF_MEMORY` (the slot has to grow, and the pool has no room),
/// `FOREBAY_ERROR_INVALID_STATE` (closed; made before a fork), `FOREBAY_ERROR_POISONED`. What goes
/// wrong later is told by who waits for the batch.
///
/// The caller's part:
/// `prefetcher` as for every call; `leaves` is NULL or has `count` elements, whose `data` have their
/// sizes; `ticket` is NULL or valid for writing.
forebay_status forebay_prefetch_submit(struct forebay_prefetcher *prefetcher,
                                       const struct forebay_prefetch_leaf *leaves,
                                       size_t count,
                                       uint32_t timeout_ms,
                                       uint64_t *ticket);

/// Lends the caller a slot of at least `size` bytes, to write a batch to: its first byte, in memory
/// of the host that is pinned for a pool on a GPU, goes to `*ptr`, the ticket to `*ticket`. It is
/// submitted with `forebay_prefetch_submit_slot`, or given back with `forebay_prefetch_cancel`. So
/// nothing of the batch is copied by a processor. Waits as `forebay_prefetch_submit` does, and for
/// the device where it still copies what the slot had before.
///
/// Errors, with the results untouched: as of `forebay_prefetch_submit`.
///
/// The caller's part:
/// `prefetcher` as for every call; `ticket` and `ptr` are NULL or valid for writing.
forebay_status forebay_prefetch_slot(struct forebay_prefetcher *prefetcher,
                                     size_t size,
                                     uint32_t timeout_ms,
                                     uint64_t *ticket,
                                     void **ptr);

/// Submits what was written to a slot that was lent: its first `size` bytes. Nobody writes there any
/// more.
///
/// Errors, with the slot still lent: `FOREBAY_ERROR_INVALID_ARGUMENT` (`prefetcher` is NULL; no such
/// ticket; `size` is more than the slot has), `FOREBAY_ERROR_INVALID_STATE` (submitted before;
/// closed; the device refused), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `prefetcher` as for every call.
forebay_status forebay_prefetch_submit_slot(struct forebay_prefetcher *prefetcher,
                                            uint64_t ticket,
                                            size_t size);

/// Gets a batch, for work that is queued on `stream` from now on, and writes where it is to `*out`.
/// On a GPU `stream` is made to wait for the copy, on the device; the caller waits here for nothing
/// but the staging, if that is not done yet. The batch stays as it is until
/// `forebay_prefetch_release`. It may be got again, for another stream; that those are done with it
/// before it is released is the caller's part. Batches may be waited for in any order.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL; no such ticket; no such
/// stream), `FOREBAY_ERROR_INVALID_STATE` (nothing was submitted yet; closed; `stream` is capturing a
/// graph), `FOREBAY_ERROR_POISONED`, and that of a batch that could not be staged or sent, for
/// instance `FOREBAY_ERROR_IO`: that batch is over, its ticket is none any more. After the others it
/// may be waited for again.
///
/// The caller's part:
/// `prefetcher` as for every call; `out` is NULL or valid for writing.
forebay_status forebay_prefetch_wait(struct forebay_prefetcher *prefetcher,
                                     uint64_t ticket,
                                     forebay_stream stream,
                                     struct forebay_prefetch_batch *out);

/// Writes how far a batch is, a `forebay_prefetch_progress`, to `*progress`. Does not wait.
///
/// Errors, with `*progress` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL, no such ticket),
/// `FOREBAY_ERROR_INVALID_STATE` (made before a fork), `FOREBAY_ERROR_POISONED`, and that of a batch
/// that could not be staged or sent, which is still to be waited for or cancelled.
///
/// The caller's part:
/// `prefetcher` as for every call; `progress` is NULL or valid for writing.
forebay_status forebay_prefetch_poll(struct forebay_prefetcher *prefetcher,
                                     uint64_t ticket,
                                     int32_t *progress);

/// Calls a batch off that nobody got, or gives back a slot that was lent. When this returns its
/// sources are not needed any more, and its slot is free. Waits for threads to end the part of it
/// that they are at, at most 512 KiB each, and where it came from pinned memory for the device.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`prefetcher` is NULL, no such ticket),
/// `FOREBAY_ERROR_INVALID_STATE` (the batch was got: release it), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `prefetcher` as for every call.
forebay_status forebay_prefetch_cancel(struct forebay_prefetcher *prefetcher,
                                       uint64_t ticket);

/// Gives a batch back whose last use is queued on `stream` by now. The slot gets the next batch
/// behind that: on a GPU the copy waits on the device.
///
/// Errors, with the batch still the caller's: `FOREBAY_ERROR_INVALID_ARGUMENT` (`prefetcher` is NULL;
/// no such ticket, or released before; no such stream), `FOREBAY_ERROR_INVALID_STATE` (it was not
/// waited for; `stream` is capturing a graph), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `prefetcher` as for every call.
forebay_status forebay_prefetch_release(struct forebay_prefetcher *prefetcher,
                                        uint64_t ticket,
                                        forebay_stream stream);

/// Writes the counters to `*out`, as many as its `struct_size` has room for.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (a NULL; `struct_size`),
/// `FOREBAY_ERROR_INVALID_STATE` (made before a fork), `FOREBAY_ERROR_POISONED`.
///
/// The caller's part:
/// `prefetcher` as for every call; `out` is NULL or points to a struct with `struct_size` set.
forebay_status forebay_prefetch_stats(struct forebay_prefetcher *prefetcher,
                                      struct forebay_prefetch_statistics *out);

/// Writes what is left to this process now, and why, to `*out`. Reads a few dozen small files of
/// the kernel's: for every second, not for every step. Asks no GPU.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL, its `struct_size` is not set),
/// `FOREBAY_ERROR_UNSUPPORTED` (the kernel does not say).
///
/// The caller's part:
/// `out` is NULL or points to a struct with `struct_size` set.
forebay_status forebay_memory_info(struct forebay_memory_info_t *out);

/// Writes everything that is known of this process's memory as JSON, with a NUL behind it, to
/// `buffer`, which has `capacity` bytes; its length without the NUL goes to `*length` (may be
/// NULL). `buffer` NULL with `capacity` 0 asks for the length only; leave some room, for it changes
/// from one reading to the next. GPUs are asked through NVML, if its library is there: the first
/// time that takes as long as opening it does, and then at most one reading a second is made, which
/// all callers share. No GPU is started to ask it.
///
/// The object has "schema" (1); the numbers of `forebay_memory_info_t` under "available_bytes",
/// "left_bytes", "reserve_bytes", "limit_bytes", "total_bytes", "swap_available_bytes",
/// "pinned_bytes", "oom_kills"; "limit_source", such as "MemAvailable", "cgroup v2 /a/b
/// memory.high", "RLIMIT_AS"; "level" ("ok", "elevated", "critical"); "machine" {"total_bytes",
/// "available_bytes", "free_bytes", "buffers_bytes", "cached_bytes", "shared_bytes" (tmpfs too),
/// "swap_total_bytes", "swap_free_bytes", "huge_page_bytes", "huge_pages", "huge_pages_free"};
/// "process" {"resident_bytes", "resident_peak", "anonymous_bytes", "shared_bytes",
/// "mapped_bytes", "data_bytes", "locked_bytes", "pinned_bytes", "swapped_bytes", "huge_bytes"};
/// "limits", all that bound this process, a list of {"source", "limit_bytes", "left_bytes"};
/// "groups", the control groups from the inmost outwards, a list of {"version",
/// "path", "max_bytes", "high_bytes" (version 1: "with_swap_max_bytes"), "used_bytes",
/// "reclaimable_bytes"}, the last two null without a limit, unless it is the inmost; "pressure",
/// {"machine", "group"}, each null or {"some", "full"}, each {"avg10", "avg60", "avg300",
/// "total_us"}; "events" of the control group, null or {"high", "max", "oom", "oom_kill"}; "nvml"
/// ("ok", "none" without the library, or what went wrong), "driver_version", and "gpus", a list of
/// {"index", "name", "uuid", "total_bytes", "free_bytes", "used_bytes" (without what is reserved),
/// "reserved_bytes", "process_bytes"}. null is what nobody says; "process_bytes" is null in
/// containers, where NVML may number processes otherwise.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`buffer` is NULL, or too small: `*length` is set, the
/// buffer untouched), `FOREBAY_ERROR_UNSUPPORTED` (the kernel does not say).
///
/// The caller's part:
/// `buffer` is NULL or has `capacity` bytes; `length` is NULL or valid for writing.
forebay_status forebay_memory_info_json(char *buffer,
                                        size_t capacity,
                                        size_t *length);

/// Settles how pools are made, before the first one is. `limit` is the most that each may map:
/// bytes ("17179869184", "16GiB") or a part of the device ("0.9", "90%"); `policy` is the name of a
/// `forebay_policy` ("balanced", "conservative", "aggressive_reuse", "quality_first",
/// "latency_first"). NULL stands for `FOREBAY_TORCH_LIMIT` and `FOREBAY_TORCH_POLICY`, and where they
/// are not set for all of the device, and balanced. Both texts stay the caller's.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (the message names what cannot be read),
/// `FOREBAY_ERROR_INVALID_STATE` (a device has its pool already).
///
/// The caller's part:
/// `limit` and `policy` are NULL or strings that end with a NUL.
forebay_status forebay_torch_configure(const char *limit,
                                       const char *policy);

/// Writes the pool behind PyTorch's tensors on `device` to `*out`; it is made now if there is none.
/// All functions of this header may be used on it but `forebay_pool_destroy`: it stays the
/// library's, until the process ends.
///
/// Errors, with `*out` untouched: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL, there is no such
/// device, or what the environment says cannot be read), and those of `forebay_pool_create`.
///
/// The caller's part:
/// `out` is NULL or valid for writing.
forebay_status forebay_torch_pool(int device,
                                  struct forebay_pool **out);

/// Whether the device has its pool: something was allocated on it, or `forebay_torch_pool` was
/// called. 0 or 1.
int32_t forebay_torch_is_used(int device);

/// Writes the numbers of `device` to `*out`. Walks over the free runs, not over the blocks.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT` (`out` is NULL, its `struct_size` is not set),
/// `FOREBAY_ERROR_INVALID_STATE` (the device has no pool yet).
///
/// The caller's part:
/// `out` is NULL or points to a struct with `struct_size` set.
forebay_status forebay_torch_stats(int device, struct forebay_torch_statistics *out);

/// Starts the peaks of `device` again from what is there now.
///
/// Errors: `FOREBAY_ERROR_INVALID_STATE` (the device has no pool yet).
forebay_status forebay_torch_reset_peaks(int device);

/// Starts what `device` gave out and took back again from nothing.
///
/// Errors: `FOREBAY_ERROR_INVALID_STATE` (the device has no pool yet).
forebay_status forebay_torch_reset_totals(int device);

/// Has `observer` see every allocation, free and refusal from now on; NULL for nobody. It stays
/// the caller's, and is callable until another one is set and calls under way are over.
///
/// The caller's part:
/// `observer` is NULL or may be called from any thread.
void forebay_torch_set_observer(forebay_torch_observer observer);

/// Allocates `size` bytes on the device with the number `device` for use on `stream`, in the
/// way that `torch.cuda.memory.CUDAPluggableAllocator` wants it: to be named to it together
/// with `forebay_torch_free`. The pool is made at the first call, with the limit and the policy
/// of `forebay_torch_configure`, or of `FOREBAY_TORCH_LIMIT` and `FOREBAY_TORCH_POLICY`.
///
/// A size of 0 gets NULL. Without memory it throws `c10::OutOfMemoryError`, which becomes
/// `torch.OutOfMemoryError`; for any other error `c10::Error`, a RuntimeError. A caller in a
/// process without PyTorch gets `std::bad_alloc`, and NULL where there is no C++;
/// `forebay_last_error` has the reason.
void *forebay_torch_malloc(size_t size, int device, void *stream);

/// Takes back what `forebay_torch_malloc` gave; `size`, `device` and `stream` are those of that
/// call. NULL is fine. Never throws: what is not ours is reported on the standard error, counted,
/// and left alone.
///
/// The caller's part:
/// Work queued on `stream`, and on streams that were recorded, is the last to use the memory.
void forebay_torch_free(void *ptr,
                        size_t size,
                        int device,
                        void *stream);

/// Allocates a segment of `size` bytes on the device with the number `device`, for the allocator
/// of a `torch.cuda.MemPool`: to be named to `torch.cuda.memory.CUDAPluggableAllocator` together
/// with `forebay_torch_segment_free`. NULL when there is no memory, or for another error, which
/// is in `forebay_last_error`: PyTorch frees what it can, asks once more and then raises its own
/// `torch.OutOfMemoryError`. A size of 0 gets NULL.
void *forebay_torch_segment_malloc(size_t size,
                                   int device,
                                   void *stream);

/// Takes back what `forebay_torch_segment_malloc` gave; `size`, `device` and `stream` are those
/// of that call. NULL is fine. Never throws: what is not ours is reported on the standard error
/// and left alone.
///
/// The caller's part:
/// Work queued on `stream` is the last to use the memory.
void forebay_torch_segment_free(void *ptr, size_t size, int device, void *stream);

/// Hook `set_init_fn`: PyTorch has found `device_count` devices. A pool is made when its device is
/// first used.
void forebay_torch_init(int device_count);

/// Hook `set_reset_fn`, for `torch.cuda.empty_cache()`: idle memory goes back to the devices. Waits
/// for work that uses what was freed, as PyTorch's own does. Never throws.
void forebay_torch_reset(void);

/// Hook `set_memory_fraction_fn`, for `torch.cuda.set_per_process_memory_fraction`: the pool of
/// `device` takes at most this part of the device's memory, from now on.
///
/// Throws `c10::Error` (a RuntimeError) when live tensors take more than that, or `fraction` is not
/// in (0, 1].
void forebay_torch_set_memory_fraction(double fraction,
                                       int device);

/// Hook `set_base_alloc_fn`: the first byte of the block that `ptr` lies in, and its bytes to
/// `*size` (may be NULL); NULL for what is not ours.
///
/// The caller's part:
/// `size` is NULL or valid for writing.
void *forebay_torch_base_allocation(void *ptr, size_t *size);

/// Hook `set_record_stream_fn`, for `Tensor.record_stream`: work on `stream` uses the memory of
/// `ptr`. What is not ours, a tensor that was made elsewhere, is left alone.
///
/// Throws `c10::Error` when the stream cannot be followed: to go on would not be safe.
void forebay_torch_record_stream(void *ptr, void *stream);

/// Hook `set_begin_allocate_to_pool`: a graph is about to be captured, and what is taken in its
/// capture belongs to the pool with the numbers `first` and `second`. The last argument, a
/// `std::function` that says which streams are meant, is not looked at: the driver says which
/// streams capture.
///
/// Throws `c10::Error` when that pool is being captured into already.
void forebay_torch_begin_allocate_to_pool(int device,
                                          uint64_t first,
                                          uint64_t second,
                                          void *_filter);

/// Hook `set_end_allocate_to_pool_fn`: the capture is over. Never throws.
void forebay_torch_end_allocate_to_pool(int device, uint64_t first, uint64_t second);

/// Hook `set_release_pool`, called once for each graph that was captured into the pool: with the
/// last one its memory is everybody's. Never throws: it is called by destructors.
void forebay_torch_release_pool(int device,
                                uint64_t first,
                                uint64_t second);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FOREBAY_H */
