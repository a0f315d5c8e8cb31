// forebay for C++17: pools, streams, caches, prefetchers, and the standard library's containers on them.
//
//     forebay::pool pool;
//     std::vector<float, forebay::allocator<float>> weights(1 << 20, pool);
//
//     forebay::memory_resource resource(pool);
//     std::pmr::unordered_map<int, std::pmr::string> names(&resource);
//
// A thin layer over forebay.h, which has the full account of each call; header only. What
// fails throws: out_of_memory, a std::bad_alloc, when there is no room, and error otherwise.
// Destructors and deallocation never throw. A pool must outlive what was allocated from it.
//
// SPDX-License-Identifier: Apache-2.0 OR MIT.

#ifndef FOREBAY_HPP
#define FOREBAY_HPP

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <limits>
#include <memory>
#include <memory_resource>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "forebay.h"

namespace forebay {

/// What every exception of forebay carries: the status, and this thread's message, copied
/// when the exception is made. Both are kept in place, so that throwing needs no memory.
class failure {
public:
    /// Copies forebay_last_error().
    explicit failure(forebay_status status) noexcept : status_(status) {
        std::strncpy(message_, forebay_last_error(), sizeof message_ - 1);
    }

    /// Which error it was; never FOREBAY_OK.
    [[nodiscard]] forebay_status status() const noexcept { return status_; }

protected:
    [[nodiscard]] const char *message() const noexcept { return message_; }

private:
    forebay_status status_;
    char message_[1024] = {};
};

/// A call failed for another reason than memory. what() names the argument and the limit.
class error : public std::exception, public failure {
public:
    using failure::failure;
    const char *what() const noexcept override { return message(); }
};

/// The limit, the device or the address space has no room left. Caught as std::bad_alloc by
/// programs that do not know forebay. what() has the pool's figures.
class out_of_memory : public std::bad_alloc, public failure {
public:
    using failure::failure;
    const char *what() const noexcept override { return message(); }
};

/// Throws the exception that belongs to `status`, unless it is FOREBAY_OK. For calls of
/// forebay.h made directly.
inline void check(forebay_status status) {
    if (status == FOREBAY_OK) return;
    if (status == FOREBAY_ERROR_OUT_OF_MEMORY) throw out_of_memory(status);
    throw error(status);
}

/// A point in a stream's order, passed once everything queued before it is done. A value:
/// copy it freely; it holds nothing.
class fence {
public:
    explicit fence(forebay_fence value) noexcept : value_(value) {}

    /// Whether it is passed now. Does not wait. Throws error if its stream never was.
    [[nodiscard]] bool passed() const {
        std::int32_t passed = 0;
        check(forebay_fence_query(value_, &passed));
        return passed != 0;
    }

    /// Waits until it is passed. Throws error as passed() does, and in the child of a fork.
    void wait() const { check(forebay_fence_wait(value_)); }

    /// The fence as forebay.h knows it.
    [[nodiscard]] forebay_fence get() const noexcept { return value_; }

private:
    forebay_fence value_;
};

/// A host stream with a thread of its own, which does what is queued in order. Owned by this
/// object; moving hands it on and leaves the default stream (NULL) behind.
class stream {
public:
    /// Throws out_of_memory when no thread is to be had.
    stream() { check(forebay_stream_create(&handle_)); }

    /// Takes over a handle of forebay_stream_create.
    [[nodiscard]] static stream adopt(forebay_stream handle) noexcept { return stream(handle); }

    stream(stream &&other) noexcept : handle_(other.release()) {}
    stream &operator=(stream &&other) noexcept {
        stream(std::move(other)).swap(*this);
        return *this;
    }

    /// Does what is queued, then ends the stream. Must not be run by the stream's own work:
    /// the stream stays then, until the process ends.
    ~stream() { (void)forebay_stream_destroy(handle_); }

    /// Queues `work()` behind everything queued before. The callable is moved or copied, and
    /// destroyed on the stream's thread when it is done; if it throws, std::terminate. Throws
    /// error when the stream takes no more work, std::bad_alloc without memory for the copy.
    template <class F>
    void submit(F &&work) {
        using callable = std::decay_t<F>;
        auto copy = std::make_unique<callable>(std::forward<F>(work));
        check(forebay_stream_submit(
            handle_,
            [](void *user) noexcept {
                std::unique_ptr<callable> mine(static_cast<callable *>(user));
                (*mine)();
            },
            copy.get()));
        // The stream has it now. It may be gone already.
        (void)copy.release();
    }

    /// Waits until everything queued before this call is done.
    void synchronize() const { check(forebay_stream_synchronize(handle_)); }

    /// The fence behind everything queued so far.
    [[nodiscard]] fence record() const {
        forebay_fence value{};
        check(forebay_stream_record(handle_, &value));
        return fence(value);
    }

    /// What is queued from now on waits until `until` is passed.
    void wait(fence until) { check(forebay_stream_wait(handle_, until.get())); }

    /// The handle, which stays this object's.
    [[nodiscard]] forebay_stream get() const noexcept { return handle_; }

    /// As get(), so that a stream can be named wherever a handle is taken.
    operator forebay_stream() const noexcept { return handle_; }

    /// The handle, which is the caller's from here on.
    [[nodiscard]] forebay_stream release() noexcept { return std::exchange(handle_, nullptr); }

    void swap(stream &other) noexcept { std::swap(handle_, other.handle_); }

private:
    explicit stream(forebay_stream handle) noexcept : handle_(handle) {}

    forebay_stream handle_ = nullptr;
};

/// What a pool is made from; see forebay_pool_config. As it is, it stands for a balanced pool
/// on system memory. Sizes are bytes.
struct pool_options {
    forebay_device_kind device_kind = FOREBAY_DEVICE_KIND_HOST;
    std::int32_t device_index = 0;
    std::uint64_t max_bytes = 0;  // 0: as many as the device has
    std::uint64_t initial_bytes = 0;
    std::uint64_t block_size = 0;
    forebay_policy policy = FOREBAY_POLICY_BALANCED;
    std::uint64_t flags = 0;  // FOREBAY_POOL_..., ORed together
};

/// A pool, owned by this object. Moving hands it on and leaves an object without a pool behind,
/// of which every call but destruction and assignment fails. All calls are safe from any
/// thread, those that change the object itself (moves, destroy, release) are not.
///
/// Where a call takes a stream, none means the default stream: the calling thread.
class pool {
public:
    /// Throws error naming the option, out_of_memory when `initial_bytes` are not to be had.
    explicit pool(const pool_options &options = {}) {
        forebay_pool_config config{};
        config.struct_size = sizeof config;
        config.device_kind = options.device_kind;
        config.device_index = options.device_index;
        config.max_bytes = options.max_bytes;
        config.initial_bytes = options.initial_bytes;
        config.block_size = options.block_size;
        config.policy = options.policy;
        config.flags = options.flags;
        check(forebay_pool_create(&config, &handle_));
    }

    /// Takes over a pool of forebay_pool_create.
    [[nodiscard]] static pool adopt(forebay_pool *handle) noexcept { return pool(handle); }

    pool(pool &&other) noexcept : handle_(other.release()) {}
    pool &operator=(pool &&other) noexcept {
        pool(std::move(other)).swap(*this);
        return *this;
    }

    /// Gives all memory back, that of live blocks included.
    ~pool() { (void)forebay_pool_destroy(handle_); }

    /// As the destructor, but says it: throws error (FOREBAY_ERROR_INVALID_STATE) when blocks
    /// were live. The pool is gone all the same.
    void destroy() { check(forebay_pool_destroy(release())); }

    /// A block of at least `size` bytes, at a multiple of 16. It is the caller's until
    /// deallocate(). Throws out_of_memory; error for a size of 0 or of more than 2^46.
    [[nodiscard]] void *allocate(std::size_t size, forebay_stream on = nullptr) {
        void *block = nullptr;
        check(forebay_alloc(handle_, size, on, &block));
        return block;
    }

    /// As allocate(), at a multiple of `alignment`, a power of two of at most 2^30.
    [[nodiscard]] void *allocate_aligned(std::size_t size, std::size_t alignment,
                                         forebay_stream on = nullptr) {
        void *block = nullptr;
        check(forebay_alloc_aligned(handle_, size, alignment, on, &block));
        return block;
    }

    /// As allocate(), but nullptr on any failure; forebay_last_error() says which.
    [[nodiscard]] void *try_allocate(std::size_t size,
                                     forebay_stream on = nullptr) noexcept {
        void *block = nullptr;
        return forebay_alloc(handle_, size, on, &block) == FOREBAY_OK ? block : nullptr;
    }

    /// Gives a block back; nullptr is fine. Work queued on `on` before may still use it.
    /// The status may be looked at or not: a pointer that is no live block changes nothing.
    forebay_status deallocate(void *block, forebay_stream on = nullptr) noexcept {
        return forebay_free(handle_, block, on);
    }

    /// How many bytes the live block at `block` has room for. Throws error if it is none.
    [[nodiscard]] std::size_t usable_size(const void *block) const {
        std::size_t size = 0;
        check(forebay_usable_size(handle_, block, &size));
        return size;
    }

    /// Work on `on` uses a block that was allocated on another one: once freed, it is not
    /// given out again before that work is done. Throws error if it is no live block.
    void record_stream(void *block, forebay_stream on) {
        check(forebay_record_stream(handle_, block, on));
    }

    /// Waits until streams are done with what was freed on them so far.
    void wait_for_frees() { check(forebay_pool_wait_for_frees(handle_)); }

    /// Gives idle memory back until at most `keep_bytes` are mapped, or nothing idle is left.
    /// Returns the bytes given back.
    std::size_t trim(std::size_t keep_bytes = 0) {
        std::size_t released = 0;
        check(forebay_pool_trim(handle_, keep_bytes, &released));
        return released;
    }

    /// Moves idle pages together; live blocks stay where they are. Throws out_of_memory when
    /// the system refuses, and nothing is lost.
    forebay_defrag_report defragment() {
        forebay_defrag_report report{};
        report.struct_size = sizeof report;
        check(forebay_pool_defragment(handle_, &report));
        return report;
    }

    /// Gives the device all memory back and keeps every address until wake(). Throws error, and
    /// nothing has changed, when it cannot.
    void sleep(forebay_sleep_mode mode) { check(forebay_pool_sleep(handle_, mode)); }

    /// Throws out_of_memory, and it sleeps on, when the device has not enough.
    void wake() { check(forebay_pool_wake(handle_)); }

    /// Of a cuda pool: `stream` is about to be destroyed.
    void forget_stream(forebay_stream stream) { check(forebay_pool_forget_stream(handle_, stream)); }

    /// Of a cuda pool: `graph` is about to be captured on `stream`, see forebay_graph_begin.
    void begin_graph(std::uint64_t graph, forebay_stream stream) {
        check(forebay_graph_begin(handle_, graph, stream));
    }

    void end_graph(std::uint64_t graph) { check(forebay_graph_end(handle_, graph)); }

    /// Ends what plan::apply began; the next allocation is the first of a step; how well it fits.
    void remove_plan() { check(forebay_pool_remove_plan(handle_)); }
    void begin_step() { check(forebay_pool_begin_step(handle_)); }
    [[nodiscard]] forebay_plan_usage plan_usage() const {
        forebay_plan_usage usage{};
        usage.struct_size = sizeof usage;
        check(forebay_pool_plan_usage(handle_, &usage));
        return usage;
    }

    void release_graph(std::uint64_t graph) { check(forebay_graph_release(handle_, graph)); }

    void set_policy(forebay_policy policy) { check(forebay_pool_set_policy(handle_, policy)); }

    /// At most `max_bytes` mapped from now on; 0: as many as the device has. Throws error, the
    /// old limit kept, when live blocks take more.
    void set_limit(std::uint64_t max_bytes) { check(forebay_pool_set_limit(handle_, max_bytes)); }

    /// Walks over the whole pool; throws error (FOREBAY_ERROR_CORRUPTION) naming the block
    /// whose guard bytes were overwritten. For tests and debugging.
    void check_integrity() const { check(forebay_pool_check(handle_)); }

    /// The counters, without making any thread wait.
    [[nodiscard]] forebay_pool_statistics stats() const {
        forebay_pool_statistics statistics{};
        statistics.struct_size = sizeof statistics;
        check(forebay_pool_stats(handle_, &statistics));
        return statistics;
    }

    /// Starts the peaks again from what is there now.
    void reset_peaks() { check(forebay_pool_reset_peaks(handle_)); }

    /// A report on everything, in the schema of forebay_pool_stats_json. Walks over every block.
    [[nodiscard]] std::string stats_json() const {
        std::size_t length = 0;
        check(forebay_pool_stats_json(handle_, nullptr, 0, &length));
        for (;;) {
            // Other threads may make the report longer before it is written.
            std::string json(length + 256, '\0');
            const std::size_t capacity = json.size();
            const auto status = forebay_pool_stats_json(handle_, json.data(), capacity, &length);
            if (status == FOREBAY_OK) {
                json.resize(length);
                return json;
            }
            if (length < capacity) check(status);
        }
    }

    /// The handle, which stays this object's; nullptr after a move.
    [[nodiscard]] forebay_pool *get() const noexcept { return handle_; }

    /// The handle, which is the caller's from here on.
    [[nodiscard]] forebay_pool *release() noexcept { return std::exchange(handle_, nullptr); }

    void swap(pool &other) noexcept { std::swap(handle_, other.handle_); }

private:
    explicit pool(forebay_pool *handle) noexcept : handle_(handle) {}

    forebay_pool *handle_ = nullptr;
};

namespace detail {

// What a container asks for: sizes of 0 are legal there, and too much is std::bad_alloc.
inline constexpr std::size_t max_block_bytes = std::size_t{1} << 46;
inline constexpr std::size_t natural_alignment = 16;

inline void *allocate(forebay_pool *from, forebay_stream on, std::size_t size,
                      std::size_t alignment) {
    void *block = nullptr;
    if (size == 0) size = 1;
    const auto status = alignment <= natural_alignment
                            ? forebay_alloc(from, size, on, &block)
                            : forebay_alloc_aligned(from, size, alignment, on, &block);
    if (status != FOREBAY_OK && size > max_block_bytes) throw out_of_memory(status);
    check(status);
    return block;
}

}  // namespace detail

/// A pool, or a pool and a stream, for the containers of std::pmr. Owns neither. It holds the
/// pool's handle, so the pool object may be moved meanwhile; the pool itself must outlive it.
///
/// Allocation throws out_of_memory, and error for an alignment of more than 2^30.
class memory_resource : public std::pmr::memory_resource {
public:
    explicit memory_resource(const pool &from, forebay_stream on = nullptr) noexcept
        : memory_resource(from.get(), on) {}
    explicit memory_resource(forebay_pool *from, forebay_stream on = nullptr) noexcept
        : pool_(from), stream_(on) {}

    [[nodiscard]] forebay_pool *pool_handle() const noexcept { return pool_; }
    [[nodiscard]] forebay_stream stream_handle() const noexcept { return stream_; }

private:
    void *do_allocate(std::size_t bytes, std::size_t alignment) override {
        return detail::allocate(pool_, stream_, bytes, alignment);
    }

    void do_deallocate(void *block, std::size_t, std::size_t) override {
        (void)forebay_free(pool_, block, stream_);
    }

    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override {
        const auto *same = dynamic_cast<const memory_resource *>(&other);
        return same != nullptr && same->pool_ == pool_ && same->stream_ == stream_;
    }

    forebay_pool *pool_;
    forebay_stream stream_;
};

/// A pool, or a pool and a stream, as the allocator of a standard container. Owns neither, as
/// memory_resource. Allocators are equal when pool and stream are; a container that is copied,
/// moved, assigned or swapped takes its allocator along, so that no element is ever copied
/// because two containers differ in it.
template <class T>
class allocator {
public:
    using value_type = T;
    using propagate_on_container_copy_assignment = std::true_type;
    using propagate_on_container_move_assignment = std::true_type;
    using propagate_on_container_swap = std::true_type;
    using is_always_equal = std::false_type;

    /// Not explicit: a container's constructor can be given the pool itself.
    allocator(const pool &from, forebay_stream on = nullptr) noexcept
        : allocator(from.get(), on) {}
    explicit allocator(forebay_pool *from, forebay_stream on = nullptr) noexcept
        : pool_(from), stream_(on) {}
    template <class U>
    allocator(const allocator<U> &other) noexcept
        : pool_(other.pool_handle()), stream_(other.stream_handle()) {}

    /// Room for `count` elements. Throws std::bad_array_new_length when that overflows,
    /// otherwise out_of_memory.
    [[nodiscard]] T *allocate(std::size_t count) {
        if (count > std::numeric_limits<std::size_t>::max() / sizeof(T))
            throw std::bad_array_new_length();
        return static_cast<T *>(
            detail::allocate(pool_, stream_, count * sizeof(T), alignof(T)));
    }

    void deallocate(T *block, std::size_t) noexcept {
        (void)forebay_free(pool_, block, stream_);
    }

    /// With it, a container refuses an impossible size with std::length_error at once.
    [[nodiscard]] std::size_t max_size() const noexcept {
        return detail::max_block_bytes / sizeof(T);
    }

    [[nodiscard]] forebay_pool *pool_handle() const noexcept { return pool_; }
    [[nodiscard]] forebay_stream stream_handle() const noexcept { return stream_; }

private:
    forebay_pool *pool_;
    forebay_stream stream_;
};

template <class T, class U>
[[nodiscard]] bool operator==(const allocator<T> &a, const allocator<U> &b) noexcept {
    return a.pool_handle() == b.pool_handle() && a.stream_handle() == b.stream_handle();
}

template <class T, class U>
[[nodiscard]] bool operator!=(const allocator<T> &a, const allocator<U> &b) noexcept {
    return !(a == b);
}

/// Gives a block back to the pool and on the stream it was allocated on.
struct block_deleter {
    forebay_pool *pool = nullptr;
    forebay_stream stream = nullptr;
    void operator()(void *block) const noexcept { (void)forebay_free(pool, block, stream); }
};

/// A block of plain bytes that frees itself.
using unique_block = std::unique_ptr<void, block_deleter>;

/// Allocates one; throws as pool::allocate does.
[[nodiscard]] inline unique_block make_block(pool &from, std::size_t size,
                                             forebay_stream on = nullptr) {
    return unique_block(from.allocate(size, on), block_deleter{from.get(), on});
}

/// What a cache is made from; see forebay_cache_config. One of the two limits at least is set.
struct cache_options {
    std::uint64_t max_bytes = 0;    // 0: no limit but the pools'
    std::uint64_t max_entries = 0;  // 0: no limit
    std::uint64_t time_to_live_ms = 0;
    std::uint64_t entry_worth = 0;
    forebay_cache_policy policy = FOREBAY_CACHE_POLICY_LRU;
};

/// An entry of a cache that is being read: it stays where and as it is as long as this lives, and
/// is released on the stream that it was got on. Empty when nothing was found. Moving hands it on.
/// The cache must outlive it.
class cached {
public:
    cached() noexcept = default;
    cached(cached &&other) noexcept
        : cache_(std::exchange(other.cache_, nullptr)),
          pin_(std::exchange(other.pin_, forebay_cache_pin{})),
          stream_(std::exchange(other.stream_, nullptr)) {}
    cached &operator=(cached &&other) noexcept {
        cached(std::move(other)).swap(*this);
        return *this;
    }

    ~cached() {
        if (pin_.ptr != nullptr) (void)forebay_cache_release(cache_, pin_, stream_);
    }

    /// Whether there was an entry.
    [[nodiscard]] explicit operator bool() const noexcept { return pin_.ptr != nullptr; }

    /// Its first byte, to be read.
    [[nodiscard]] const void *data() const noexcept { return pin_.ptr; }

    /// Bytes that were asked for when its block was allocated.
    [[nodiscard]] std::size_t size() const noexcept { return pin_.size; }

    /// The reader is done by what is queued on `on`. Empty afterwards. Throws error, and still
    /// reads, when there is no such stream.
    void release(forebay_stream on) {
        if (pin_.ptr == nullptr) return;
        check(forebay_cache_release(cache_, pin_, on));
        pin_ = forebay_cache_pin{};
    }

    void swap(cached &other) noexcept {
        std::swap(cache_, other.cache_);
        std::swap(pin_, other.pin_);
        std::swap(stream_, other.stream_);
    }

private:
    friend class cache;
    cached(forebay_cache *from, forebay_cache_pin pin, forebay_stream on) noexcept
        : cache_(from), pin_(pin), stream_(on) {}

    forebay_cache *cache_ = nullptr;
    forebay_cache_pin pin_{};
    forebay_stream stream_ = nullptr;
};

/// A cache, owned by this object: blocks of pools under keys, which are any bytes. All calls are
/// safe from any thread, those that change the object itself (moves, destroy) are not.
class cache {
public:
    /// Throws error naming the option.
    cache(const pool &over, const cache_options &options) : cache({over.get()}, options) {}
    cache(std::initializer_list<forebay_pool *> over, const cache_options &options) {
        forebay_cache_config config{};
        config.struct_size = sizeof config;
        config.max_bytes = options.max_bytes;
        config.max_entries = options.max_entries;
        config.time_to_live_ms = options.time_to_live_ms;
        config.entry_worth = options.entry_worth;
        config.policy = options.policy;
        check(forebay_cache_create(over.begin(), over.size(), &config, &handle_));
    }

    cache(cache &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    cache &operator=(cache &&other) noexcept {
        cache(std::move(other)).swap(*this);
        return *this;
    }

    /// Gives its blocks back to their pools.
    ~cache() { (void)forebay_cache_destroy(handle_); }

    /// As the destructor, but says it: throws error (FOREBAY_ERROR_INVALID_STATE) when entries
    /// were being read. The cache is gone all the same.
    void destroy() { check(forebay_cache_destroy(std::exchange(handle_, nullptr))); }

    /// Puts a block of one of the cache's pools, written by what is queued on `on`. From now on it
    /// is the cache's; when this throws it stays the caller's.
    void put(std::string_view key, void *block, forebay_stream on = nullptr) {
        check(forebay_cache_put(handle_, key.data(), key.size(), block, on));
    }

    /// As above, of a block that frees itself, on its stream.
    void put(std::string_view key, unique_block &&block) {
        put(key, block.get(), block.get_deleter().stream);
        (void)block.release();
    }

    /// Puts a copy of `size` bytes, in a block of the first pool.
    void put_copy(std::string_view key, const void *from, std::size_t size,
                  forebay_stream on = nullptr) {
        check(forebay_cache_put_copy(handle_, key.data(), key.size(), from, size, on));
    }

    /// The newest entry of `key`, to be read by what is queued on `on`; empty when there is none.
    [[nodiscard]] cached get(std::string_view key, forebay_stream on = nullptr) {
        forebay_cache_pin pin{};
        check(forebay_cache_get(handle_, key.data(), key.size(), on, &pin));
        return cached(handle_, pin, on);
    }

    /// Takes an entry of `key` out: its block is the caller's, for what is queued on `on`; nullptr
    /// when there is none. Throws error (FOREBAY_ERROR_INVALID_STATE) when all are being read.
    [[nodiscard]] void *take(std::string_view key, forebay_stream on = nullptr,
                             std::size_t *size = nullptr) {
        void *block = nullptr;
        check(forebay_cache_take(handle_, key.data(), key.size(), on, &block, size));
        return block;
    }

    /// Removes the entries of `key`; how many.
    std::size_t remove(std::string_view key) {
        std::size_t removed = 0;
        check(forebay_cache_remove(handle_, key.data(), key.size(), &removed));
        return removed;
    }

    /// Evicts until so many bytes are free, or all that is left is being read; the bytes.
    std::size_t evict(std::size_t bytes) {
        std::size_t freed = 0;
        check(forebay_cache_evict(handle_, bytes, &freed));
        return freed;
    }

    /// Removes what was put so long ago or earlier; how many entries.
    std::size_t expire(std::uint64_t age_ms) {
        std::size_t expired = 0;
        check(forebay_cache_expire(handle_, age_ms, &expired));
        return expired;
    }

    /// Removes all entries; how many.
    std::size_t clear() {
        std::size_t removed = 0;
        check(forebay_cache_clear(handle_, &removed));
        return removed;
    }

    [[nodiscard]] forebay_cache_statistics stats() const {
        forebay_cache_statistics statistics{};
        statistics.struct_size = sizeof statistics;
        check(forebay_cache_stats(handle_, &statistics));
        return statistics;
    }

    /// The counters, in the schema of forebay_cache_stats_json.
    [[nodiscard]] std::string stats_json() const {
        std::size_t length = 0;
        check(forebay_cache_stats_json(handle_, nullptr, 0, &length));
        // Counters grow meanwhile, by a few digits at most.
        std::string json(length + 256, '\0');
        check(forebay_cache_stats_json(handle_, json.data(), json.size(), &length));
        json.resize(length);
        return json;
    }

    /// The handle, which stays this object's; nullptr after a move.
    [[nodiscard]] forebay_cache *get() const noexcept { return handle_; }

    void swap(cache &other) noexcept { std::swap(handle_, other.handle_); }

private:
    forebay_cache *handle_ = nullptr;
};

/// A plan, owned by this object: where each tensor of a step goes in one arena.
class plan {
public:
    /// Reads one that was saved; throws error when the file was cut, changed, or is none.
    [[nodiscard]] static plan load(const char *path) {
        forebay_plan *handle = nullptr;
        check(forebay_plan_load(path, &handle));
        return plan(handle);
    }

    plan(plan &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    plan &operator=(plan &&other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~plan() { (void)forebay_plan_destroy(handle_); }

    /// Writes it to a file; FOREBAY_PLAN_BINARY in `flags` for the compact form.
    void save(const char *path, std::uint32_t flags = 0) const {
        check(forebay_plan_save(handle_, path, flags));
    }

    /// Where the tensor `id` is, in bytes from the arena's start.
    [[nodiscard]] std::size_t offset(std::uint64_t id) const {
        std::uint64_t offset = 0;
        check(forebay_plan_offset(handle_, id, &offset));
        return offset;
    }

    [[nodiscard]] forebay_plan_summary summary() const {
        forebay_plan_summary summary{};
        summary.struct_size = sizeof summary;
        check(forebay_plan_summarize(handle_, &summary));
        return summary;
    }

    /// Serves what is allocated in `with` from now on from this plan, which need not stay.
    void apply(pool &with, forebay_stream on = nullptr) const {
        check(forebay_pool_apply_plan(with.get(), handle_, on));
    }

    [[nodiscard]] forebay_plan *get() const noexcept { return handle_; }

private:
    friend class lifetime;
    explicit plan(forebay_plan *handle) noexcept : handle_(handle) {}

    forebay_plan *handle_;
};

/// Lifetimes of the tensors of a program, as they are recorded. Owned by this object.
class lifetime {
public:
    lifetime() { check(forebay_lifetime_create(&handle_)); }
    lifetime(lifetime &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    lifetime &operator=(lifetime &&other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~lifetime() { (void)forebay_lifetime_destroy(handle_); }

    /// The tensor `id` of `bytes` is used in `step`.
    void record(std::uint64_t step, std::uint64_t id, std::size_t bytes) {
        check(forebay_lifetime_record(handle_, step, id, bytes));
    }

    /// It begins to live, and no longer lives, at `time`.
    void record_alloc(std::uint64_t time, std::uint64_t id, std::size_t bytes) {
        check(forebay_lifetime_record_alloc(handle_, time, id, bytes));
    }
    void record_free(std::uint64_t time, std::uint64_t id) {
        check(forebay_lifetime_record_free(handle_, time, id));
    }

    /// Its offset shall be a multiple of `alignment`; 512 and more for plans that pools apply.
    void align(std::uint64_t id, std::size_t alignment) {
        check(forebay_lifetime_align(handle_, id, alignment));
    }

    /// Adds the blocks of a trace, with sizes and offsets in multiples of `alignment`.
    void add_trace(const char *path, std::uint64_t first_id = 0, std::size_t alignment = 512) {
        check(forebay_lifetime_add_trace(handle_, path, first_id, alignment));
    }

    /// A plan for what is recorded, within the time; none is a second.
    [[nodiscard]] forebay::plan make_plan(std::uint64_t time_limit_ms = 0,
                                          std::uint32_t flags = 0) const {
        forebay_plan_options options{};
        options.struct_size = sizeof options;
        options.time_limit_ms = time_limit_ms;
        options.flags = flags;
        forebay_plan *made = nullptr;
        check(forebay_lifetime_plan(handle_, &options, &made));
        return forebay::plan(made);
    }

    /// What could be better in the program, given a plan for it.
    [[nodiscard]] forebay_lifetime_suggestions suggest(const forebay::plan &given) const {
        forebay_lifetime_suggestions found{};
        found.struct_size = sizeof found;
        check(forebay_lifetime_suggest(handle_, given.get(), &found));
        return found;
    }

    [[nodiscard]] forebay_lifetime *get() const noexcept { return handle_; }

private:
    forebay_lifetime *handle_ = nullptr;
};

/// What a prefetcher is made from; see forebay_prefetcher_config.
struct prefetcher_options {
    std::uint32_t slots = 0;
    std::uint32_t copy_threads = 0;
    std::uint64_t slot_bytes = 0;
    std::uint64_t max_slot_bytes = 0;
    std::uint64_t max_pinned_bytes = 0;
    std::uint64_t flags = 0;
};

/// A batch that was waited for: in its slot as long as this lives, and released then, on the stream
/// that it was waited for with. The prefetcher must outlive it.
class batch {
public:
    batch() noexcept = default;
    batch(batch &&other) noexcept
        : prefetcher_(std::exchange(other.prefetcher_, nullptr)),
          ticket_(other.ticket_),
          bytes_(std::exchange(other.bytes_, forebay_prefetch_batch{})),
          stream_(other.stream_) {}
    batch &operator=(batch &&other) noexcept {
        batch(std::move(other)).swap(*this);
        return *this;
    }

    ~batch() {
        if (prefetcher_ != nullptr) (void)forebay_prefetch_release(prefetcher_, ticket_, stream_);
    }

    [[nodiscard]] void *data() const noexcept { return bytes_.ptr; }
    [[nodiscard]] std::size_t size() const noexcept { return bytes_.size; }
    explicit operator bool() const noexcept { return prefetcher_ != nullptr; }

    /// Ends it now: its last use is queued on `on`. Throws error, and then it is still held.
    void release(forebay_stream on) {
        if (prefetcher_ == nullptr) return;
        check(forebay_prefetch_release(prefetcher_, ticket_, on));
        prefetcher_ = nullptr;
        bytes_ = forebay_prefetch_batch{};
    }

    void swap(batch &other) noexcept {
        std::swap(prefetcher_, other.prefetcher_);
        std::swap(ticket_, other.ticket_);
        std::swap(bytes_, other.bytes_);
        std::swap(stream_, other.stream_);
    }

private:
    friend class prefetcher;
    batch(forebay_prefetcher *from, std::uint64_t ticket, forebay_prefetch_batch bytes,
          forebay_stream on) noexcept
        : prefetcher_(from), ticket_(ticket), bytes_(bytes), stream_(on) {}

    forebay_prefetcher *prefetcher_ = nullptr;
    std::uint64_t ticket_ = 0;
    forebay_prefetch_batch bytes_{};
    forebay_stream stream_ = nullptr;
};

/// A prefetcher, owned by this object: batches in slots of a pool, ahead of their use. All calls are
/// safe from any thread, but for moving and destroying it.
class prefetcher {
public:
    explicit prefetcher(const pool &over, const prefetcher_options &options = {}) {
        forebay_prefetcher_config config{};
        config.struct_size = sizeof config;
        config.slots = options.slots;
        config.copy_threads = options.copy_threads;
        config.slot_bytes = options.slot_bytes;
        config.max_slot_bytes = options.max_slot_bytes;
        config.max_pinned_bytes = options.max_pinned_bytes;
        config.flags = options.flags;
        check(forebay_prefetcher_create(over.get(), &config, &handle_));
    }

    prefetcher(prefetcher &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    prefetcher &operator=(prefetcher &&other) noexcept {
        prefetcher(std::move(other)).swap(*this);
        return *this;
    }

    /// Waits for its threads, and for what is queued on the device.
    ~prefetcher() { (void)forebay_prefetcher_destroy(handle_); }

    /// Ends it for everybody; see forebay_prefetcher_close.
    void close() { check(forebay_prefetcher_close(handle_)); }

    /// Submits a batch of `count` leaves, whose sources stay until it was waited for; its ticket.
    /// Throws error (FOREBAY_ERROR_BUSY) when no slot is free in time.
    [[nodiscard]] std::uint64_t submit(const forebay_prefetch_leaf *leaves, std::size_t count,
                                       std::uint32_t timeout_ms = FOREBAY_PREFETCH_FOREVER) {
        std::uint64_t ticket = 0;
        check(forebay_prefetch_submit(handle_, leaves, count, timeout_ms, &ticket));
        return ticket;
    }

    /// As above, of `size` bytes at `data`.
    [[nodiscard]] std::uint64_t submit(const void *data, std::size_t size,
                                       std::uint32_t timeout_ms = FOREBAY_PREFETCH_FOREVER) {
        forebay_prefetch_leaf leaf{};
        leaf.data = data;
        leaf.size = size;
        return submit(&leaf, 1, timeout_ms);
    }

    /// Gets a batch for what is queued on `on` from now on.
    [[nodiscard]] batch wait(std::uint64_t ticket, forebay_stream on = nullptr) {
        forebay_prefetch_batch bytes{};
        check(forebay_prefetch_wait(handle_, ticket, on, &bytes));
        return batch(handle_, ticket, bytes, on);
    }

    /// Calls a batch off that nobody got: its sources are not needed any more.
    void cancel(std::uint64_t ticket) { check(forebay_prefetch_cancel(handle_, ticket)); }

    [[nodiscard]] forebay_prefetch_statistics stats() const {
        forebay_prefetch_statistics statistics{};
        statistics.struct_size = sizeof statistics;
        check(forebay_prefetch_stats(handle_, &statistics));
        return statistics;
    }

    /// The handle, which stays this object's; nullptr after a move.
    [[nodiscard]] forebay_prefetcher *get() const noexcept { return handle_; }

    void swap(prefetcher &other) noexcept { std::swap(handle_, other.handle_); }

private:
    forebay_prefetcher *handle_ = nullptr;
};

/// What is left to this process now, and why; see forebay_memory_info. Throws error where the
/// kernel does not say.
[[nodiscard]] inline forebay_memory_info_t memory_info() {
    forebay_memory_info_t info{};
    info.struct_size = sizeof info;
    check(forebay_memory_info(&info));
    return info;
}

/// Everything that is known of this process's memory, GPUs included, in the schema of
/// forebay_memory_info_json.
[[nodiscard]] inline std::string memory_info_json() {
    std::size_t length = 4096;
    for (;;) {
        // It may be longer when it is written than when its length was asked for.
        std::string json(length + 256, '\0');
        const auto status = forebay_memory_info_json(json.data(), json.size(), &length);
        if (status == FOREBAY_OK) {
            json.resize(length);
            return json;
        }
        if (length < json.size()) check(status);
    }
}

}  // namespace forebay

#endif  // FOREBAY_HPP
