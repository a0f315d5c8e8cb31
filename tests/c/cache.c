// Caches: blocks under keys, their budgets, pins, ages, what a pool short of memory gets, and every
// bad input.

#include "check.h"

#include <time.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

static const forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;

static void rest(long milliseconds)
{
    const struct timespec time = {0, milliseconds * 1000000};
    nanosleep(&time, NULL);
}

static forebay_cache *cache_of(forebay_pool *pool, uint64_t max_bytes, uint64_t max_entries)
{
    forebay_cache_config config = FOREBAY_CACHE_CONFIG_INIT;
    config.max_bytes = max_bytes;
    config.max_entries = max_entries;
    forebay_cache *cache = NULL;
    if (!CHECK_OK(forebay_cache_create(&pool, 1, &config, &cache))) {
        exit(1);
    }
    return cache;
}

static forebay_cache_statistics cache_stats(forebay_cache *cache)
{
    forebay_cache_statistics stats = FOREBAY_CACHE_STATISTICS_INIT;
    CHECK_OK(forebay_cache_stats(cache, &stats));
    CHECK_OK(forebay_cache_check(cache));
    return stats;
}

static void put(forebay_cache *cache, forebay_pool *pool, const char *key, size_t size, int byte)
{
    void *block = block_of(pool, size);
    memset(block, byte, size);
    CHECK_OK(forebay_cache_put(cache, key, strlen(key), block, NULL));
}

static forebay_cache_pin get(forebay_cache *cache, const char *key)
{
    forebay_cache_pin pin = {(void *)1, 1, 1};
    CHECK_OK(forebay_cache_get(cache, key, strlen(key), NULL, &pin));
    return pin;
}

static int has(forebay_cache *cache, const char *key)
{
    forebay_cache_pin pin = get(cache, key);
    CHECK_OK(forebay_cache_release(cache, pin, NULL));
    return pin.ptr != NULL;
}

static void first_steps(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_cache *cache = cache_of(pool, 8 * MIB, 0);
    CHECK(!has(cache, "a"));
    put(cache, pool, "a", 1000, 1);
    forebay_cache_pin pin = get(cache, "a");
    CHECK(pin.ptr != NULL && pin.ticket != 0);
    CHECK_EQ(pin.size, 1000);
    CHECK_EQ(((unsigned char *)pin.ptr)[999], 1);
    // Reads are shared: each get has a pin of its own.
    forebay_cache_pin second = get(cache, "a");
    CHECK(second.ptr == pin.ptr && second.ticket != pin.ticket);
    CHECK_EQ(cache_stats(cache).pinned_entries, 1);
    CHECK_OK(forebay_cache_release(cache, pin, NULL));
    CHECK_OK(forebay_cache_release(cache, second, NULL));
    CHECK_EQ(cache_stats(cache).pinned_entries, 0);

    // Several entries of one key: the newest is got.
    put(cache, pool, "a", 2000, 2);
    put(cache, pool, "a", 3000, 3);
    pin = get(cache, "a");
    CHECK_EQ(pin.size, 3000);
    CHECK_OK(forebay_cache_release(cache, pin, NULL));
    void *block = NULL;
    size_t size = 0;
    CHECK_OK(forebay_cache_take(cache, "a", 1, NULL, &block, &size));
    CHECK_EQ(size, 3000);
    CHECK_EQ(((unsigned char *)block)[2999], 3);
    CHECK_OK(forebay_free(pool, block, NULL));
    CHECK_OK(forebay_cache_take(cache, "a", 1, NULL, &block, NULL));
    CHECK_EQ(((unsigned char *)block)[1999], 2);
    // What was taken can be put again, under another key too.
    CHECK_OK(forebay_cache_put(cache, "b", 1, block, NULL));
    CHECK_OK(forebay_cache_take(cache, "c", 1, NULL, &block, &size));
    CHECK(block == NULL && size == 0);

    size_t removed = 9;
    CHECK_OK(forebay_cache_remove(cache, "a", 1, &removed));
    CHECK_EQ(removed, 1);
    CHECK_OK(forebay_cache_remove(cache, "a", 1, &removed));
    CHECK_EQ(removed, 0);
    CHECK_OK(forebay_cache_remove(cache, "b", 1, NULL));
    forebay_cache_statistics stats = cache_stats(cache);
    CHECK_EQ(stats.entries, 0);
    CHECK_EQ(stats.bytes, 0);
    CHECK_EQ(stats.puts, 4);
    CHECK_EQ(stats.taken, 2);
    CHECK_EQ(stats.removed, 2);
    CHECK_EQ(stats.hits, 5);
    CHECK_EQ(stats.misses, 2);
    CHECK_EQ(stats_of(pool).live_blocks, 0);

    const char *text = "copied";
    CHECK_OK(forebay_cache_put_copy(cache, "copy", 4, text, 7, NULL));
    pin = get(cache, "copy");
    CHECK(pin.ptr != text && strcmp(pin.ptr, text) == 0);
    CHECK_EQ(pin.size, 7);
    CHECK_OK(forebay_cache_release(cache, pin, NULL));
    CHECK_OK(forebay_cache_destroy(cache));
    CHECK_EQ(stats_of(pool).live_blocks, 0);
    CHECK_OK(forebay_pool_destroy(pool));
}

static void budgets(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_cache *cache = cache_of(pool, MIB, 0);
    char key[16];
    for (int number = 0; number < 100; number++) {
        snprintf(key, sizeof key, "%d", number);
        put(cache, pool, key, 100 * KIB, number);
        forebay_cache_statistics stats = cache_stats(cache);
        CHECK(stats.bytes <= MIB);
        CHECK_EQ(stats_of(pool).live_blocks, stats.entries);
    }
    CHECK(has(cache, "99") && !has(cache, "89"));
    CHECK(cache_stats(cache).bytes_peak <= MIB);

    // What was used last stays.
    CHECK(has(cache, "91"));
    put(cache, pool, "new", 100 * KIB, 7);
    CHECK(has(cache, "91") && !has(cache, "90"));

    // What is pinned stays, and what has no room beside it goes back at once.
    put(cache, pool, "large", MIB, 1);
    forebay_cache_pin pin = get(cache, "large");
    CHECK_EQ(cache_stats(cache).entries, 1);
    put(cache, pool, "small", 10, 1);
    CHECK(!has(cache, "small") && has(cache, "large"));
    CHECK_EQ(cache_stats(cache).refused, 1);
    size_t freed = 9;
    CHECK_OK(forebay_cache_evict(cache, MIB, &freed));
    CHECK_EQ(freed, 0);
    // Removed while it is read: nobody finds it, and its bytes count until its reader is done.
    CHECK_OK(forebay_cache_clear(cache, NULL));
    CHECK(!has(cache, "large"));
    CHECK_EQ(cache_stats(cache).bytes, MIB);
    CHECK_EQ(((unsigned char *)pin.ptr)[MIB - 1], 1);
    CHECK_OK(forebay_cache_release(cache, pin, NULL));
    CHECK_EQ(cache_stats(cache).bytes, 0);
    CHECK_OK(forebay_cache_destroy(cache));

    cache = cache_of(pool, 0, 3);
    for (int number = 0; number < 9; number++) {
        snprintf(key, sizeof key, "%d", number);
        put(cache, pool, key, 1, number);
        CHECK(cache_stats(cache).entries <= 3);
    }
    CHECK_OK(forebay_cache_evict(cache, 1, &freed));
    CHECK(freed >= 1);
    CHECK_EQ(cache_stats(cache).entries, 2);
    CHECK_OK(forebay_cache_evict(cache, SIZE_MAX, NULL));
    CHECK_EQ(cache_stats(cache).entries, 0);
    CHECK_OK(forebay_cache_destroy(cache));
    CHECK_EQ(stats_of(pool).live_blocks, 0);
    CHECK_OK(forebay_pool_destroy(pool));
}

static void ages(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_cache_config config = FOREBAY_CACHE_CONFIG_INIT;
    config.max_entries = 10;
    config.time_to_live_ms = 20;
    forebay_cache *cache = NULL;
    CHECK_OK(forebay_cache_create(&pool, 1, &config, &cache));
    put(cache, pool, "a", 1, 1);
    put(cache, pool, "b", 1, 1);
    rest(40);
    CHECK(!has(cache, "a"));
    void *block = (void *)1;
    CHECK_OK(forebay_cache_take(cache, "b", 1, NULL, &block, NULL));
    CHECK(block == NULL);
    CHECK_EQ(cache_stats(cache).expired, 2);
    CHECK_EQ(stats_of(pool).live_blocks, 0);
    put(cache, pool, "c", 1, 1);
    size_t expired = 9;
    CHECK_OK(forebay_cache_expire(cache, 1000 * 1000, &expired));
    CHECK_EQ(expired, 0);
    CHECK_OK(forebay_cache_expire(cache, 0, &expired));
    CHECK_EQ(expired, 1);
    CHECK_OK(forebay_cache_destroy(cache));
    CHECK_OK(forebay_pool_destroy(pool));
}

// An allocation that needs what the cache holds gets it.
static void pressure(void)
{
    forebay_pool *pool = small_pool(32 * MIB, 0);
    forebay_cache *cache = cache_of(pool, 64 * MIB, 0);
    char key[16];
    for (int number = 0; number < 40; number++) {
        snprintf(key, sizeof key, "%d", number);
        put(cache, pool, key, MIB, number);
    }
    forebay_cache_pin pin = get(cache, "20");
    CHECK(pin.ptr != NULL);
    void *block = block_of(pool, 28 * MIB);
    CHECK_EQ(((unsigned char *)pin.ptr)[MIB - 1], 20);
    CHECK(cache_stats(cache).pressed >= 20);
    CHECK_OK(forebay_cache_release(cache, pin, NULL));
    CHECK(has(cache, "20"));
    CHECK_OK(forebay_free(pool, block, NULL));
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_cache_destroy(cache));
    CHECK_OK(forebay_pool_destroy(pool));
}

// On streams: a reader waits for the writing, and memory for the reader.
static void set(void *user)
{
    rest(20);
    memset(user, 5, MIB);
}

static volatile int sum;

static void look(void *user)
{
    rest(20);
    sum = ((unsigned char *)user)[0] + ((unsigned char *)user)[MIB - 1];
}

static void streams(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_cache *cache = cache_of(pool, 8 * MIB, 0);
    forebay_stream writer = NULL, reader = NULL;
    CHECK_OK(forebay_stream_create(&writer));
    CHECK_OK(forebay_stream_create(&reader));
    void *block = NULL;
    CHECK_OK(forebay_alloc(pool, MIB, writer, &block));
    memset(block, 0, MIB);
    CHECK_OK(forebay_stream_submit(writer, set, block));
    CHECK_OK(forebay_cache_put(cache, "x", 1, block, writer));
    forebay_cache_pin pin;
    CHECK_OK(forebay_cache_get(cache, "x", 1, reader, &pin));
    CHECK_OK(forebay_stream_submit(reader, look, pin.ptr));
    CHECK_OK(forebay_cache_release(cache, pin, reader));
    // The thread itself waits for what is written, not for who reads.
    pin = get(cache, "x");
    CHECK_EQ(((unsigned char *)pin.ptr)[MIB - 1], 5);
    CHECK_OK(forebay_cache_release(cache, pin, NULL));
    // Taken to be written to: everybody who read it is done.
    CHECK_OK(forebay_cache_take(cache, "x", 1, NULL, &block, NULL));
    CHECK_EQ(sum, 10);
    CHECK_OK(forebay_stream_submit(writer, set, block));
    CHECK_OK(forebay_cache_put(cache, "x", 1, block, writer));
    CHECK_ERROR(forebay_cache_get(cache, "x", 1, (forebay_stream)(uintptr_t)0x777, &pin), invalid,
                "0x777");
    CHECK_EQ(cache_stats(cache).pinned_entries, 0);
    pin = get(cache, "x");
    CHECK_ERROR(forebay_cache_release(cache, pin, (forebay_stream)(uintptr_t)0x777), invalid, "0x777");
    CHECK_OK(forebay_cache_release(cache, pin, reader));
    CHECK_OK(forebay_stream_destroy(writer));
    CHECK_OK(forebay_stream_destroy(reader));
    // A stream that is gone is done with everything.
    CHECK_OK(forebay_cache_clear(cache, NULL));
    CHECK_EQ(stats_of(pool).live_blocks, 0);
    CHECK_OK(forebay_cache_destroy(cache));
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_pool_destroy(pool));
}

// A pool that goes before its cache, and a cache that goes while it is read.
static void ends(void)
{
    forebay_pool *pools[2] = {small_pool(64 * MIB, 0), small_pool(64 * MIB, 0)};
    forebay_cache_config config = FOREBAY_CACHE_CONFIG_INIT;
    config.max_entries = 10;
    forebay_cache *cache = NULL;
    CHECK_OK(forebay_cache_create(pools, 2, &config, &cache));
    put(cache, pools[0], "0", 100, 1);
    put(cache, pools[1], "1", 100, 2);
    put(cache, pools[0], "pinned", 100, 3);
    void *own = block_of(pools[0], 100);
    forebay_cache_pin pin = get(cache, "pinned");
    CHECK_ERROR(forebay_pool_destroy(pools[0]), FOREBAY_ERROR_INVALID_STATE, "2 live blocks");
    CHECK(!has(cache, "0") && !has(cache, "pinned") && has(cache, "1"));
    CHECK_ERROR(forebay_cache_put(cache, "own", 3, own, NULL), FOREBAY_ERROR_INVALID_STATE,
                "destroyed");
    CHECK_ERROR(forebay_cache_put_copy(cache, "own", 3, "x", 1, NULL), FOREBAY_ERROR_INVALID_STATE,
                "destroyed");
    CHECK_OK(forebay_cache_release(cache, pin, NULL));
    CHECK_EQ(cache_stats(cache).entries, 1);

    pin = get(cache, "1");
    CHECK_ERROR(forebay_cache_destroy(cache), FOREBAY_ERROR_INVALID_STATE, "1 pinned entries");
    CHECK_EQ(((unsigned char *)pin.ptr)[99], 2);
    CHECK_EQ(stats_of(pools[1]).live_blocks, 1);
    CHECK_OK(forebay_free(pools[1], pin.ptr, NULL));
    CHECK_ERROR(forebay_cache_release(cache, pin, NULL), invalid, "cache was destroyed");
    CHECK_ERROR(forebay_cache_destroy(cache), invalid, "cache was destroyed");
    CHECK_OK(forebay_cache_destroy(NULL));
    CHECK_OK(forebay_pool_destroy(pools[1]));
    CHECK_ERROR(forebay_cache_create(pools, 1, &config, &cache), invalid, "pool was destroyed");
}

static void bad_configs(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_cache_config config = FOREBAY_CACHE_CONFIG_INIT;
    forebay_cache *cache = (forebay_cache *)1;
    CHECK_ERROR(forebay_cache_create(&pool, 1, &config, &cache), invalid, "both 0");
    config.max_entries = 1;
    CHECK_ERROR(forebay_cache_create(&pool, 1, &config, NULL), invalid, "out is NULL");
    CHECK_ERROR(forebay_cache_create(&pool, 1, NULL, &cache), invalid, "config is NULL");
    CHECK_ERROR(forebay_cache_create(NULL, 1, &config, &cache), invalid, "pools is NULL");
    CHECK_ERROR(forebay_cache_create(&pool, 0, &config, &cache), invalid, "count is 0");
    CHECK_ERROR(forebay_cache_create(&pool, 257, &config, &cache), invalid, "count is 257");
    forebay_pool *twice[2] = {pool, pool};
    CHECK_ERROR(forebay_cache_create(twice, 2, &config, &cache), invalid, "pools[1]");
    twice[1] = NULL;
    CHECK_ERROR(forebay_cache_create(twice, 2, &config, &cache), invalid, "pool is NULL");
    config.policy = 77;
    CHECK_ERROR(forebay_cache_create(&pool, 1, &config, &cache), invalid, "policy is 77");
    config.policy = 0;
    config.reserved = 3;
    CHECK_ERROR(forebay_cache_create(&pool, 1, &config, &cache), invalid, "reserved is 3");
    config.reserved = 0;
    config.struct_size = 0;
    CHECK_ERROR(forebay_cache_create(&pool, 1, &config, &cache), invalid, "struct_size is 0");
    CHECK(cache == (forebay_cache *)1);
    CHECK_OK(forebay_pool_destroy(pool));
}

static void bad_calls(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0), *other = small_pool(64 * MIB, 0);
    forebay_cache *cache = cache_of(pool, MIB, 0);
    void *block = block_of(pool, 100), *foreign = block_of(other, 100);
    void *large = block_of(pool, MIB + 1), *out = (void *)1;
    char *long_key = calloc(1, MIB);
    forebay_cache_pin pin = {(void *)1, 2, 3}, none = {(void *)1, 2, 3};
    size_t size = 7;
    forebay_pool_statistics before = stats_of(pool);

    CHECK_ERROR(forebay_cache_put(NULL, "k", 1, block, NULL), invalid, "cache is NULL");
    CHECK_ERROR(forebay_cache_put(cache, NULL, 1, block, NULL), invalid, "key is NULL");
    CHECK_ERROR(forebay_cache_put(cache, "", 0, block, NULL), invalid, "key_size is 0", "65536");
    CHECK_ERROR(forebay_cache_put(cache, long_key, MIB, block, NULL), invalid, "key_size is 1048576",
                "65536");
    CHECK_ERROR(forebay_cache_put(cache, "k", 1, NULL, NULL), FOREBAY_ERROR_INVALID_POINTER, "0x0");
    CHECK_ERROR(forebay_cache_put(cache, "k", 1, foreign, NULL), FOREBAY_ERROR_INVALID_POINTER,
                hex(foreign), "of no pool");
    CHECK_ERROR(forebay_cache_put(cache, "k", 1, (char *)block + 1, NULL),
                FOREBAY_ERROR_INVALID_POINTER, "block");
    CHECK_ERROR(forebay_cache_put(cache, "k", 1, large, NULL), invalid, "max_bytes", dec(MIB));
    CHECK_ERROR(forebay_cache_put(cache, "k", 1, block, (forebay_stream)(uintptr_t)0x777), invalid,
                "0x777");
    CHECK_ERROR(forebay_cache_put_copy(cache, "k", 1, NULL, 1, NULL), invalid, "from is NULL");
    CHECK_ERROR(forebay_cache_put_copy(cache, "k", 1, "x", 0, NULL), invalid, "size is 0");
    CHECK_ERROR(forebay_cache_put_copy(cache, "k", 1, large, MIB + 1, NULL), invalid, "max_bytes");
    CHECK_ERROR(forebay_cache_put_copy(cache, "k", 0, "x", 1, NULL), invalid, "key_size is 0");
    CHECK_ERROR(forebay_cache_put_copy(NULL, "k", 1, "x", 1, NULL), invalid, "cache is NULL");
    CHECK_ERROR(forebay_cache_get(NULL, "k", 1, NULL, &pin), invalid, "cache is NULL");
    CHECK_ERROR(forebay_cache_get(cache, "k", 1, NULL, NULL), invalid, "out is NULL");
    CHECK_ERROR(forebay_cache_get(cache, NULL, 1, NULL, &pin), invalid, "key is NULL");
    CHECK_ERROR(forebay_cache_get(cache, "k", 0, NULL, &pin), invalid, "key_size is 0");
    CHECK_ERROR(forebay_cache_get(cache, long_key, 65537, NULL, &pin), invalid, "key_size is 65537");
    CHECK(pin.ptr == none.ptr && pin.ticket == none.ticket);
    CHECK_ERROR(forebay_cache_take(NULL, "k", 1, NULL, &out, &size), invalid, "cache is NULL");
    CHECK_ERROR(forebay_cache_take(cache, "k", 1, NULL, NULL, &size), invalid, "ptr is NULL");
    CHECK_ERROR(forebay_cache_take(cache, "k", 0, NULL, &out, &size), invalid, "key_size is 0");
    CHECK_ERROR(forebay_cache_remove(NULL, "k", 1, &size), invalid, "cache is NULL");
    CHECK_ERROR(forebay_cache_remove(cache, "k", 0, &size), invalid, "key_size is 0");
    CHECK_ERROR(forebay_cache_evict(NULL, 1, &size), invalid, "cache is NULL");
    CHECK_ERROR(forebay_cache_expire(NULL, 1, &size), invalid, "cache is NULL");
    CHECK_ERROR(forebay_cache_clear(NULL, &size), invalid, "cache is NULL");
    CHECK_ERROR(forebay_cache_check(NULL), invalid, "cache is NULL");
    CHECK(out == (void *)1 && size == 7);
    CHECK_NOTHING_LOST(pool, &before);

    // The longest key there can be.
    CHECK_OK(forebay_cache_put(cache, long_key, 65536, block, NULL));
    CHECK_OK(forebay_cache_get(cache, long_key, 65536, NULL, &pin));
    CHECK(pin.ptr == block);
    // A pin is released once, by who has it.
    CHECK_ERROR(forebay_cache_take(cache, long_key, 65536, NULL, &out, &size),
                FOREBAY_ERROR_INVALID_STATE, "being read");
    CHECK_ERROR(forebay_cache_release(NULL, pin, NULL), invalid, "cache is NULL");
    none = pin;
    none.ticket += 1;
    CHECK_ERROR(forebay_cache_release(cache, none, NULL), invalid, "not held");
    none = pin;
    none.ptr = foreign;
    CHECK_ERROR(forebay_cache_release(cache, none, NULL), invalid, "not held");
    CHECK_OK(forebay_cache_release(cache, pin, NULL));
    CHECK_ERROR(forebay_cache_release(cache, pin, NULL), invalid, "not held");
    none.ptr = NULL;
    CHECK_OK(forebay_cache_release(cache, none, NULL));

    forebay_cache_statistics stats = FOREBAY_CACHE_STATISTICS_INIT;
    CHECK_ERROR(forebay_cache_stats(NULL, &stats), invalid, "cache is NULL");
    CHECK_ERROR(forebay_cache_stats(cache, NULL), invalid, "out is NULL");
    stats.struct_size = 3;
    CHECK_ERROR(forebay_cache_stats(cache, &stats), invalid, "struct_size is 3");
    CHECK_OK(forebay_cache_destroy(cache));
    CHECK_OK(forebay_free(pool, large, NULL));
    CHECK_EQ(stats_of(pool).live_blocks, 0);
    CHECK_OK(forebay_free(other, foreign, NULL));
    CHECK_OK(forebay_pool_destroy(pool));
    CHECK_OK(forebay_pool_destroy(other));
    free(long_key);
}

static void texts(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_cache *cache = cache_of(pool, MIB, 0);
    char text[1024] = "untouched";
    size_t length = 0;
    CHECK_OK(forebay_cache_stats_json(cache, NULL, 0, &length));
    CHECK(length > 100 && length < sizeof text);
    CHECK_ERROR(forebay_cache_stats_json(cache, text, length, NULL), invalid, "capacity is",
                dec(length + 1));
    CHECK_EQ(strcmp(text, "untouched"), 0);
    CHECK_ERROR(forebay_cache_stats_json(cache, NULL, 5, NULL), invalid, "buffer is NULL");
    CHECK_ERROR(forebay_cache_stats_json(NULL, text, sizeof text, NULL), invalid, "cache is NULL");
    CHECK_OK(forebay_cache_stats_json(cache, text, sizeof text, NULL));
    CHECK(strstr(text, "\"policy\":\"lru\",\"max_bytes\":1048576,\"max_entries\":null") != NULL);
    CHECK_EQ(strlen(text), length);

    const int64_t shape[3] = {3, 224, -1};
    CHECK_OK(forebay_cache_tensor_key("float32", shape, 2, FOREBAY_DEVICE_KIND_CUDA, 1, text,
                                      sizeof text, &length));
    CHECK_EQ(strcmp(text, "float32[3,224]/cuda:1"), 0);
    CHECK_EQ(length, strlen(text));
    CHECK_OK(forebay_cache_tensor_key("u8", NULL, 0, 0, 0, text, sizeof text, NULL));
    CHECK_EQ(strcmp(text, "u8[]/host:0"), 0);
    CHECK_ERROR(forebay_cache_tensor_key(NULL, shape, 2, 0, 0, text, 99, NULL), invalid,
                "dtype is NULL");
    CHECK_ERROR(forebay_cache_tensor_key("", shape, 2, 0, 0, text, 99, NULL), invalid,
                "dtype has 0 bytes");
    CHECK_ERROR(forebay_cache_tensor_key("\xff", shape, 2, 0, 0, text, 99, NULL), invalid, "UTF-8");
    CHECK_ERROR(forebay_cache_tensor_key("u8", NULL, 2, 0, 0, text, 99, NULL), invalid,
                "shape is NULL");
    CHECK_ERROR(forebay_cache_tensor_key("u8", shape, 3, 0, 0, text, 99, NULL), invalid,
                "shape[2] is -1");
    CHECK_ERROR(forebay_cache_tensor_key("u8", shape, 65, 0, 0, text, 99, NULL), invalid,
                "dimensions is 65");
    CHECK_ERROR(forebay_cache_tensor_key("u8", shape, 2, 9, 0, text, 99, NULL), invalid,
                "device_kind is 9");
    CHECK_ERROR(forebay_cache_tensor_key("u8", shape, 2, 0, 0, text, 3, &length), invalid,
                "capacity is 3");
    CHECK_EQ(strcmp(text, "u8[]/host:0"), 0);
    CHECK_OK(forebay_cache_destroy(cache));
    CHECK_OK(forebay_pool_destroy(pool));
}

int main(void)
{
    time_limit(300);
    first_steps();
    budgets();
    ages();
    pressure();
    streams();
    ends();
    bad_configs();
    bad_calls();
    texts();
    return check_end("cache");
}
