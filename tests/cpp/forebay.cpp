// forebay.hpp: what throws and what does not, who owns, and the standard containers.

#include <forebay.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <memory_resource>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

void *allocate_in_second_unit(forebay::pool &pool);
std::size_t sum_in_second_unit(const std::vector<int, forebay::allocator<int>> &numbers);
void fail_in_second_unit();

#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);  \
            std::exit(1);                                                         \
        }                                                                         \
    } while (0)

/// Runs `call`, which must throw an `Expected`, and returns it.
template <class Expected, class Call>
Expected thrown(Call call) {
    try {
        call();
    } catch (const Expected &exception) {
        return exception;
    }
    std::fprintf(stderr, "nothing was thrown\n");
    std::exit(1);
}

bool contains(const char *text, const char *part) { return std::strstr(text, part) != nullptr; }

constexpr std::size_t MiB = 1 << 20;

forebay::pool small_pool() {
    forebay::pool_options options;
    options.max_bytes = 16 * MiB;
    return forebay::pool(options);
}

static_assert(!std::is_copy_constructible_v<forebay::pool>);
static_assert(std::is_nothrow_move_constructible_v<forebay::pool>);
static_assert(std::is_nothrow_move_assignable_v<forebay::pool>);
static_assert(!std::is_copy_constructible_v<forebay::stream>);
static_assert(!std::is_copy_assignable_v<forebay::stream>);
static_assert(std::is_nothrow_move_constructible_v<forebay::stream>);
static_assert(std::is_nothrow_copy_constructible_v<forebay::error>);
static_assert(std::is_nothrow_copy_constructible_v<forebay::out_of_memory>);
static_assert(std::is_base_of_v<std::bad_alloc, forebay::out_of_memory>);
static_assert(!std::is_convertible_v<forebay_pool *, forebay::pool>);

void a_pool_gives_and_takes() {
    forebay::pool pool;
    void *block = pool.allocate(1000);
    std::memset(block, 7, 1000);
    CHECK(pool.usable_size(block) >= 1000);
    CHECK(pool.stats().live_blocks == 1);
    CHECK(pool.stats().requested_bytes == 1000);
    CHECK(pool.deallocate(block) == FOREBAY_OK);
    CHECK(pool.deallocate(block) == FOREBAY_ERROR_INVALID_POINTER);
    CHECK(pool.deallocate(nullptr) == FOREBAY_OK);

    void *aligned = pool.allocate_aligned(100, 4096);
    CHECK(reinterpret_cast<std::uintptr_t>(aligned) % 4096 == 0);
    pool.deallocate(aligned);
    pool.check_integrity();

    CHECK(pool.stats().reserved_bytes > 0);
    pool.wait_for_frees();
    CHECK(pool.trim() > 0);
    CHECK(pool.stats().reserved_bytes == 0);
    const auto report = pool.defragment();
    CHECK(report.largest_free_after >= report.largest_free_before);

    const std::string json = pool.stats_json();
    CHECK(json.front() == '{' && json.back() == '}');
    CHECK(json.find("\"policy\":\"balanced\"") != std::string::npos);
    pool.sleep(FOREBAY_SLEEP_MODE_DISCARD);
    try {
        pool.sleep(FOREBAY_SLEEP_MODE_DISCARD);
        CHECK(false);
    } catch (const forebay::error &error) {
        CHECK(error.status() == FOREBAY_ERROR_INVALID_STATE);
    }
    pool.wake();
    pool.set_policy(FOREBAY_POLICY_LATENCY_FIRST);
    CHECK(pool.stats_json().find("\"policy\":\"latency_first\"") != std::string::npos);

    CHECK(pool.stats().requested_peak >= 1000);
    pool.reset_peaks();
    CHECK(pool.stats().requested_peak == 0);
    pool.set_limit(32 * MiB);
    CHECK(pool.stats().limit_bytes == 32 * MiB);
    pool.destroy();
    CHECK(pool.get() == nullptr);
}

void the_report_has_room_for_every_class() {
    forebay::pool pool;
    std::vector<void *> blocks;
    for (std::size_t size = 16; size < 64 * 1024; size += size / 8)
        blocks.push_back(pool.allocate(size));
    CHECK(pool.stats_json().size() > 2048);
    for (void *block : blocks) pool.deallocate(block);
}

void options_reach_the_pool() {
    forebay::pool_options options;
    options.policy = FOREBAY_POLICY_QUALITY_FIRST;
    options.max_bytes = 8 * MiB;
    options.initial_bytes = 4 * MiB;
    options.block_size = 4096;
    forebay::pool pool(options);
    const auto stats = pool.stats();
    CHECK(stats.limit_bytes == 8 * MiB);
    CHECK(stats.reserved_bytes == 4 * MiB);
    void *block = pool.allocate(1);
    CHECK(pool.usable_size(block) >= 4096);
    pool.deallocate(block);

    options.block_size = 3;
    const auto bad = thrown<forebay::error>([&] { forebay::pool refused(options); });
    CHECK(bad.status() == FOREBAY_ERROR_INVALID_ARGUMENT);
    CHECK(contains(bad.what(), "block_size"));

    forebay::pool_options elsewhere;
    elsewhere.device_kind = FOREBAY_DEVICE_KIND_CUDA;
    CHECK(thrown<forebay::error>([&] { forebay::pool refused(elsewhere); }).status() ==
          FOREBAY_ERROR_UNSUPPORTED);
}

void errors_say_what_happened() {
    forebay::pool pool = small_pool();
    const auto zero = thrown<forebay::error>([&] { (void)pool.allocate(0); });
    CHECK(zero.status() == FOREBAY_ERROR_INVALID_ARGUMENT);
    CHECK(contains(zero.what(), "size"));

    int local = 0;
    const auto foreign = thrown<forebay::error>([&] { (void)pool.usable_size(&local); });
    CHECK(foreign.status() == FOREBAY_ERROR_INVALID_POINTER);

    // As std::exception, and after later failures, the message is the same.
    try {
        (void)pool.allocate_aligned(16, 3);
        CHECK(false);
    } catch (const std::exception &exception) {
        const std::string before = exception.what();
        CHECK(pool.try_allocate(0) == nullptr);
        CHECK(before == exception.what());
        CHECK(contains(exception.what(), "alignment"));
    }

    const auto far = thrown<forebay::error>(fail_in_second_unit);
    CHECK(far.status() == FOREBAY_ERROR_INVALID_ARGUMENT);
    CHECK(far.what()[0] != '\0');

    // Destroying with live blocks is no exception in a destructor, and one when asked for.
    {
        forebay::pool leaky = small_pool();
        (void)leaky.allocate(64);
    }
    forebay::pool leaky = small_pool();
    (void)leaky.allocate(64);
    CHECK(thrown<forebay::error>([&] { leaky.destroy(); }).status() == FOREBAY_ERROR_INVALID_STATE);
    CHECK(leaky.get() == nullptr);
}

void out_of_memory_is_a_bad_alloc() {
    forebay::pool pool = small_pool();
    try {
        (void)pool.allocate(64 * MiB);
        CHECK(false);
    } catch (const std::bad_alloc &exception) {
        CHECK(contains(exception.what(), "67108864"));
    }
    const auto full = thrown<forebay::out_of_memory>([&] { (void)pool.allocate(64 * MiB); });
    CHECK(full.status() == FOREBAY_ERROR_OUT_OF_MEMORY);
    CHECK(pool.try_allocate(64 * MiB) == nullptr);
    CHECK(contains(forebay_last_error(), "67108864"));
    CHECK(pool.stats().failed == 3);

    // In containers too; what was there stays, and room that is made can be used.
    std::vector<char, forebay::allocator<char>> bytes(8 * MiB, 'x', pool);
    thrown<forebay::out_of_memory>([&] { bytes.resize(64 * MiB); });
    CHECK(bytes.size() == 8 * MiB && bytes.back() == 'x');
    thrown<std::length_error>([&] { bytes.reserve(std::size_t{1} << 47); });
    bytes = std::vector<char, forebay::allocator<char>>(pool);
    bytes.resize(14 * MiB);

    forebay::memory_resource resource(pool);
    thrown<std::bad_alloc>([&] { (void)resource.allocate(std::size_t{1} << 60); });
    forebay::allocator<std::uint64_t> numbers(pool);
    thrown<std::bad_array_new_length>([&] { (void)numbers.allocate(SIZE_MAX / 4); });
}

void moves_hand_the_pool_on() {
    forebay::pool first = small_pool();
    forebay_pool *handle = first.get();
    void *block = first.allocate(100);

    forebay::pool second(std::move(first));
    CHECK(second.get() == handle && first.get() == nullptr);
    CHECK(thrown<forebay::error>([&] { (void)first.allocate(1); }).status() ==
          FOREBAY_ERROR_INVALID_ARGUMENT);

    forebay::pool third = small_pool();
    third = std::move(second);
    CHECK(third.get() == handle && second.get() == nullptr);
    forebay::pool &self = third;
    third = std::move(self);
    CHECK(third.get() == handle);
    CHECK(third.deallocate(block) == FOREBAY_OK);

    forebay_pool *released = third.release();
    CHECK(released == handle && third.get() == nullptr);
    forebay::pool fourth = forebay::pool::adopt(released);
    fourth.deallocate(fourth.allocate(1));

    // A pool that was moved still serves containers that were made before.
    forebay::pool moved = small_pool();
    std::vector<int, forebay::allocator<int>> numbers(moved);
    forebay::pool kept(std::move(moved));
    numbers.assign(1000, 1);
    CHECK(kept.stats().live_blocks == 1);
}

void vectors_live_in_the_pool() {
    forebay::pool pool;
    forebay::pool other;
    using ints = std::vector<int, forebay::allocator<int>>;
    {
        ints numbers(pool);
        for (int i = 0; i < 100000; i++) numbers.push_back(i);
        CHECK(sum_in_second_unit(numbers) == 4999950000u);
        CHECK(pool.stats().requested_bytes == numbers.capacity() * sizeof(int));

        ints copy = numbers;
        CHECK(copy == numbers && copy.get_allocator() == numbers.get_allocator());

        // Assignment takes the allocator along, so a move is a swap of pointers.
        ints elsewhere({1, 2, 3}, other);
        CHECK(elsewhere.get_allocator() != numbers.get_allocator());
        const int *data = numbers.data();
        elsewhere = std::move(numbers);
        CHECK(elsewhere.data() == data);
        CHECK(other.stats().live_blocks == 0);
    }
    CHECK(pool.stats().live_blocks == 0);

    // Node containers allocate another type than their own.
    std::map<int, int, std::less<>, forebay::allocator<std::pair<const int, int>>> map(pool);
    for (int i = 0; i < 1000; i++) map[i] = -i;
    CHECK(map.at(999) == -999);
    CHECK(pool.stats().live_blocks == 1000);

    struct alignas(64) line {
        char bytes[64];
    };
    std::vector<line, forebay::allocator<line>> lines(3, pool);
    CHECK(reinterpret_cast<std::uintptr_t>(lines.data()) % 64 == 0);

    // No elements, no memory, and still a pointer that can be given back.
    forebay::allocator<int> allocator(pool);
    allocator.deallocate(allocator.allocate(0), 0);
    forebay::allocator<long> rebound(allocator);
    CHECK(rebound == allocator);

    void *block = allocate_in_second_unit(pool);
    CHECK(pool.deallocate(block) == FOREBAY_OK);
}

void pmr_containers_live_in_the_pool() {
    forebay::pool pool;
    forebay::pool other;
    forebay::memory_resource resource(pool);
    {
        std::pmr::vector<std::pmr::string> words(&resource);
        for (int i = 0; i < 1000; i++) words.emplace_back(100, 'a');
        CHECK(words[999].get_allocator().resource() == &resource);
        CHECK(pool.stats().live_blocks == 1001);

        std::pmr::monotonic_buffer_resource arena(&resource);
        std::pmr::set<int> numbers(&arena);
        for (int i = 0; i < 1000; i++) numbers.insert(i);
        CHECK(pool.stats().live_blocks > 1001 && pool.stats().live_blocks < 1100);
    }
    CHECK(pool.stats().live_blocks == 0);

    void *nothing = resource.allocate(0, 1);
    CHECK(nothing != nullptr);
    resource.deallocate(nothing, 0, 1);
    void *aligned = resource.allocate(8, 1024);
    CHECK(reinterpret_cast<std::uintptr_t>(aligned) % 1024 == 0);
    resource.deallocate(aligned, 8, 1024);
    CHECK(thrown<forebay::error>([&] { (void)resource.allocate(8, std::size_t{1} << 31); }).status() ==
          FOREBAY_ERROR_INVALID_ARGUMENT);

    forebay::stream stream;
    CHECK(resource == forebay::memory_resource(pool));
    CHECK(resource != forebay::memory_resource(other));
    CHECK(resource != forebay::memory_resource(pool, stream));
    CHECK(resource != *std::pmr::new_delete_resource());
    CHECK(pool.stats().live_blocks == 0);
}

void streams_keep_order() {
    forebay::pool pool;
    forebay::stream first;
    forebay::stream second;

    // `second` waits for a fence on `first`, so the two run one after the other.
    std::vector<int> order;
    forebay::fence gate_passed = [&] {
        first.submit([&order] {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            order.push_back(1);
        });
        return first.record();
    }();
    second.wait(gate_passed);
    second.submit([&order, token = std::make_unique<int>(2)] { order.push_back(*token); });
    second.synchronize();
    CHECK(gate_passed.passed());
    CHECK((order == std::vector<int>{1, 2}));

    void *block = pool.allocate(1000, first);
    pool.record_stream(block, second);
    pool.deallocate(block, first);
    second.record().wait();

    {
        std::vector<int, forebay::allocator<int>> numbers(100, forebay::allocator<int>(pool, first));
        CHECK(numbers.get_allocator().stream_handle() == first.get());
        CHECK(numbers.get_allocator() != forebay::allocator<int>(pool));
    }

    // What is queued is done before a stream ends, and the callable is gone afterwards.
    auto shared = std::make_shared<int>(0);
    {
        forebay::stream moved(std::move(second));
        CHECK(second.get() == nullptr);
        moved.submit([shared] { *shared += 1; });
        second = std::move(moved);
        second.submit([shared] { *shared += 1; });
        forebay::stream last = forebay::stream::adopt(second.release());
    }
    CHECK(*shared == 2 && shared.use_count() == 1);

    // A stream that is gone takes no work, and the callable is not lost.
    forebay_stream gone = nullptr;
    {
        forebay::stream short_lived;
        gone = short_lived.get();
    }
    forebay::stream dangling = forebay::stream::adopt(gone);
    thrown<forebay::error>([&] { dangling.submit([shared] { *shared += 1; }); });
    CHECK(*shared == 2 && shared.use_count() == 1);
    CHECK(pool.stats().live_blocks == 0);
}

void blocks_free_themselves() {
    forebay::pool pool;
    {
        forebay::unique_block block = forebay::make_block(pool, 1000);
        std::memset(block.get(), 1, 1000);
        forebay::unique_block moved = std::move(block);
        CHECK(!block && moved);
        CHECK(pool.stats().live_blocks == 1);
    }
    CHECK(pool.stats().live_blocks == 0);
    thrown<forebay::error>([&] { (void)forebay::make_block(pool, 0); });
}

static_assert(!std::is_copy_constructible_v<forebay::prefetcher>);
static_assert(std::is_nothrow_move_constructible_v<forebay::prefetcher>);
static_assert(!std::is_copy_constructible_v<forebay::batch>);
static_assert(std::is_nothrow_move_assignable_v<forebay::batch>);

void prefetchers_have_batches_ahead() {
    forebay::pool pool;
    forebay::prefetcher_options options;
    options.slots = 2;
    forebay::prefetcher prefetcher(pool, options);
    const char first[] = "first", second[] = "second";
    auto one = prefetcher.submit(first, sizeof first);
    auto two = prefetcher.submit(second, sizeof second);
    auto busy = thrown<forebay::error>([&] { (void)prefetcher.submit(first, sizeof first, 0); });
    CHECK(busy.status() == FOREBAY_ERROR_BUSY);
    {
        forebay::batch batch = prefetcher.wait(one);
        CHECK(batch && batch.size() == sizeof first);
        CHECK(std::strcmp(static_cast<const char *>(batch.data()), "first") == 0);
        forebay::batch moved = std::move(batch);
        CHECK(!batch && moved);
        moved.release(nullptr);
        CHECK(!moved && moved.data() == nullptr);
        moved = prefetcher.wait(two);
        CHECK(std::strcmp(static_cast<const char *>(moved.data()), "second") == 0);
    }
    CHECK(prefetcher.stats().used_slots == 0 && prefetcher.stats().delivered == 2);
    prefetcher.cancel(prefetcher.submit(first, sizeof first));
    prefetcher.close();
    auto closed = thrown<forebay::error>([&] { (void)prefetcher.submit(first, sizeof first); });
    CHECK(closed.status() == FOREBAY_ERROR_INVALID_STATE);
}

static_assert(!std::is_copy_constructible_v<forebay::cache>);
static_assert(std::is_nothrow_move_constructible_v<forebay::cache>);
static_assert(!std::is_copy_constructible_v<forebay::cached>);
static_assert(std::is_nothrow_move_assignable_v<forebay::cached>);

static_assert(!std::is_copy_constructible_v<forebay::plan>);
static_assert(std::is_nothrow_move_constructible_v<forebay::lifetime>);

void plans_serve_steps() {
    forebay::lifetime lifetime;
    constexpr std::size_t mib = std::size_t(1) << 20;
    lifetime.record_alloc(0, 7, mib);
    lifetime.record_free(1, 7);
    lifetime.record_alloc(2, 8, mib);
    for (std::uint64_t id : {7, 8}) lifetime.align(id, 512);
    forebay::plan plan = lifetime.make_plan();
    CHECK(plan.summary().arena_bytes == mib && plan.offset(8) == plan.offset(7));
    CHECK(lifetime.suggest(plan).reusable_bytes == mib);
    plan.save("plan.bin", FOREBAY_PLAN_BINARY);
    plan = forebay::plan::load("plan.bin");
    CHECK(std::remove("plan.bin") == 0);
    forebay::pool pool;
    plan.apply(pool);
    void *first = pool.allocate(mib);
    pool.deallocate(first);
    void *second = pool.allocate(mib);
    CHECK(first == second);
    pool.deallocate(second);
    CHECK(thrown<forebay::error>([&] { plan.apply(pool); }).status() ==
          FOREBAY_ERROR_INVALID_STATE);
    pool.begin_step();
    CHECK(pool.plan_usage().served == 2 && pool.plan_usage().diverged == 0);
    pool.remove_plan();
}

void caches_keep_blocks() {
    forebay::pool pool = small_pool();
    forebay::cache_options options;
    options.max_bytes = 4 * MiB;
    forebay::cache cache(pool, options);
    CHECK(!cache.get("a"));
    forebay::unique_block block = forebay::make_block(pool, 1000);
    std::memset(block.get(), 7, 1000);
    cache.put("a", std::move(block));
    CHECK(!block);
    {
        forebay::cached read = cache.get("a");
        CHECK(read && read.size() == 1000);
        CHECK(static_cast<const unsigned char *>(read.data())[999] == 7);
        forebay::cached second = cache.get("a");
        second = std::move(read);
        CHECK(!read && second);
        CHECK(cache.stats().pinned_entries == 1);
        auto error = thrown<forebay::error>([&] { (void)cache.take("a"); });
        CHECK(error.status() == FOREBAY_ERROR_INVALID_STATE && contains(error.what(), "pinned"));
        second.release(nullptr);
        CHECK(!second && cache.stats().pinned_entries == 0);
    }
    // Keys are any bytes.
    const std::string key("\0\1\0", 3);
    cache.put_copy(key, "text", 5);
    CHECK(!cache.get(std::string_view(key.data(), 2)));
    CHECK(std::strcmp(static_cast<const char *>(cache.get(key).data()), "text") == 0);

    // A block that cannot be put stays the caller's.
    forebay::unique_block large = forebay::make_block(pool, 5 * MiB);
    auto error = thrown<forebay::error>([&] { cache.put("large", std::move(large)); });
    CHECK(large && contains(error.what(), "max_bytes"));
    large.reset();

    std::size_t size = 0;
    void *taken = cache.take("a", nullptr, &size);
    CHECK(taken != nullptr && size == 1000);
    cache.put("b", taken);
    CHECK(cache.take("a") == nullptr);
    CHECK(cache.remove("b") == 1 && cache.expire(1000000) == 0);
    CHECK(cache.evict(1) > 0 && cache.clear() == 0);
    CHECK(contains(cache.stats_json().c_str(), "\"policy\":\"lru\""));

    forebay::cache moved = std::move(cache);
    CHECK(cache.get() == nullptr);
    thrown<forebay::error>([&] { cache.clear(); });
    moved.put_copy("x", "y", 2);
    {
        forebay::cached read = moved.get("x");
        auto error = thrown<forebay::error>([&] { moved.destroy(); });
        CHECK(contains(error.what(), "1 pinned"));
        pool.deallocate(const_cast<void *>(read.data()));
    }
    forebay::pool other = small_pool();
    options.policy = FOREBAY_CACHE_POLICY_LFU;
    forebay::cache both({pool.get(), other.get()}, options);
    both.put("1", other.allocate(100));
    both.put("2", pool.allocate(100));
    CHECK(both.stats().entries == 2);
    both.destroy();
    CHECK(pool.stats().live_blocks == 0 && other.stats().live_blocks == 0);
    thrown<forebay::error>([&] { forebay::cache(pool, forebay::cache_options()); });
}

void what_is_left_is_known() {
    const forebay_memory_info_t info = forebay::memory_info();
    CHECK(info.total_bytes > 0 && info.available_bytes <= info.left_bytes);
    const std::string json = forebay::memory_info_json();
    CHECK(json.front() == '{' && json.back() == '}');
    CHECK(json.find("\"limit_source\":") != std::string::npos);
}

int main() {
    a_pool_gives_and_takes();
    the_report_has_room_for_every_class();
    options_reach_the_pool();
    errors_say_what_happened();
    out_of_memory_is_a_bad_alloc();
    moves_hand_the_pool_on();
    vectors_live_in_the_pool();
    pmr_containers_live_in_the_pool();
    streams_keep_order();
    blocks_free_themselves();
    caches_keep_blocks();
    plans_serve_steps();
    prefetchers_have_batches_ahead();
    what_is_left_is_known();
    std::puts("forebay.hpp: all checks passed");
}
