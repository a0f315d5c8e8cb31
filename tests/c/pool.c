// Pools as a whole: created, limited, emptied, checked, forked, destroyed.

#include "check.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#define MIB ((uint64_t)1 << 20)
#define PAGE (2 * MIB)

// What `*out` holds before a call that must not touch it.
static char untouched_byte;
#define UNTOUCHED ((void *)&untouched_byte)

static void refused_config(const forebay_pool_config *config, forebay_status expected,
                           const char *name, const char *number)
{
    forebay_pool *out = UNTOUCHED;
    CHECK_ERROR(forebay_pool_create(config, &out), expected, name, number);
    CHECK(out == UNTOUCHED);
}

static void configs(void)
{
    CHECK_ERROR(forebay_pool_create(NULL, NULL), FOREBAY_ERROR_INVALID_ARGUMENT, "out is NULL");
    forebay_pool_config config = FOREBAY_POOL_CONFIG_INIT;
    CHECK_ERROR(forebay_pool_create(&config, NULL), FOREBAY_ERROR_INVALID_ARGUMENT,
                "out is NULL");

    // struct_size: never set, too small, garbage.
    size_t sizes[] = {0, 1, sizeof(size_t), sizeof config - 1, SIZE_MAX, (size_t)1 << 20};
    for (size_t at = 0; at < sizeof sizes / sizeof sizes[0]; at++) {
        config.struct_size = sizes[at];
        refused_config(&config, FOREBAY_ERROR_INVALID_ARGUMENT,
                       "forebay_pool_config.struct_size is", dec(sizes[at]));
        CHECK(strstr(forebay_last_error(), dec(sizeof config)) != NULL);
    }

    // A later release's config: fine as long as nothing is asked that this one lacks.
    struct {
        forebay_pool_config config;
        unsigned char later[40];
    } larger;
    memset(&larger, 0, sizeof larger);
    larger.config.struct_size = sizeof larger;
    forebay_pool *pool = NULL;
    if (CHECK_OK(forebay_pool_create(&larger.config, &pool))) {
        CHECK_OK(forebay_pool_destroy(pool));
    }
    size_t unknown[] = {0, 7, sizeof larger.later - 1};
    for (size_t at = 0; at < sizeof unknown / sizeof unknown[0]; at++) {
        larger.later[unknown[at]] = 1;
        refused_config(&larger.config, FOREBAY_ERROR_INVALID_ARGUMENT, "forebay_pool_config: byte",
                       dec(sizeof larger.config + unknown[at]));
        larger.later[unknown[at]] = 0;
    }

#define REFUSED(field, value, expected, name, number)                                          \
    do {                                                                                       \
        forebay_pool_config one = FOREBAY_POOL_CONFIG_INIT;                                    \
        one.field = (value);                                                                   \
        refused_config(&one, expected, name, number);                                          \
    } while (0)
    const forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;
    // A machine without a GPU says what is missing.
    for (int32_t kind = FOREBAY_DEVICE_KIND_CUDA; kind <= FOREBAY_DEVICE_KIND_PINNED; kind++) {
        forebay_pool_config gpu = FOREBAY_POOL_CONFIG_INIT;
        gpu.device_kind = kind;
        gpu.max_bytes = 64 * MIB;
        forebay_pool *out = UNTOUCHED;
        forebay_status status = forebay_pool_create(&gpu, &out);
        if (status == FOREBAY_OK) {
            CHECK_OK(forebay_pool_destroy(out));
        } else {
            CHECK(out == UNTOUCHED);
            CHECK_EQ(status, FOREBAY_ERROR_UNSUPPORTED);
            CHECK(strstr(forebay_last_error(), "CUDA driver") != NULL);
        }
    }
    REFUSED(device_kind, 3, invalid, "device_kind is", "3");
    REFUSED(device_kind, -1, invalid, "device_kind is", "-1");
    REFUSED(device_index, 1, invalid, "device_index is", "1");
    REFUSED(device_index, INT32_MIN, invalid, "device_index is", "-2147483648");
    REFUSED(policy, 5, invalid, "policy is", "5");
    REFUSED(policy, -1, invalid, "policy is", "-1");
    REFUSED(flags, 16, invalid, "flags is", "0x10");
    REFUSED(flags, UINT64_MAX, invalid, "flags is", "0xffffffffffffffff");
    REFUSED(reserved, 1, invalid, "reserved is", "1");
    REFUSED(block_size, 3, invalid, "block_size is", "3");
    REFUSED(block_size, MIB + 1, invalid, "block_size is", "1048577");
    REFUSED(block_size, (uint64_t)1 << 31, invalid, "block_size is", "2147483648");
    REFUSED(block_size, UINT64_MAX, invalid, "block_size is", "18446744073709551615");
    REFUSED(max_bytes, 1, invalid, "max_bytes is", "1");
    REFUSED(max_bytes, PAGE - 1, invalid, "max_bytes is", "2097151");
    REFUSED(max_bytes, ((uint64_t)1 << 46) + 1, invalid, "max_bytes is", "70368744177665");
    REFUSED(max_bytes, UINT64_MAX, invalid, "max_bytes is", "18446744073709551615");
    REFUSED(initial_bytes, UINT64_MAX, invalid, "initial_bytes is", "18446744073709551615");
#undef REFUSED
    forebay_pool_config both = FOREBAY_POOL_CONFIG_INIT;
    both.max_bytes = PAGE;
    both.initial_bytes = PAGE + 1;
    refused_config(&both, invalid, "initial_bytes is", "2097153");

    // What is not refused: all policies and flags, the smallest pool, initial bytes.
    for (int32_t policy = 0; policy <= 4; policy++) {
        for (uint64_t flags = 0; flags < 16; flags++) {
            forebay_pool_config fine = FOREBAY_POOL_CONFIG_INIT;
            fine.policy = policy;
            fine.flags = flags;
            fine.max_bytes = 4 * PAGE;
            fine.initial_bytes = PAGE;
            fine.block_size = flags % 2 == 0 ? 0 : 4096;
            pool = pool_of(&fine);
            CHECK_EQ(stats_of(pool).limit_bytes, 4 * PAGE);
            CHECK(stats_of(pool).reserved_bytes >= PAGE);
            void *block = block_of(pool, 5000);
            size_t usable = 0;
            CHECK_OK(forebay_usable_size(pool, block, &usable));
            CHECK(usable >= 5000);
            memset(block, 1, usable);
            CHECK_OK(forebay_pool_check(pool));
            CHECK_OK(forebay_free(pool, block, NULL));
            CHECK_OK(forebay_pool_check(pool));
            CHECK_OK(forebay_pool_destroy(pool));
        }
    }
    pool = small_pool(PAGE, 0);
    CHECK_EQ(stats_of(pool).limit_bytes, PAGE);
    CHECK_OK(forebay_free(pool, block_of(pool, PAGE), NULL));
    CHECK_OK(forebay_pool_destroy(pool));
}

// Every function says so when its pool is NULL or no more.
static void without_a_pool(forebay_pool *pool, const char *why)
{
    const forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;
    void *out = UNTOUCHED;
    size_t size = 64, number = 99;
    char text[16] = "kept";
    forebay_pool_statistics stats = FOREBAY_POOL_STATISTICS_INIT;
    stats.live_blocks = 77;
    forebay_defrag_report report = FOREBAY_DEFRAG_REPORT_INIT;
    report.pages_moved = 77;
    CHECK_ERROR(forebay_pool_trim(pool, 0, &number), invalid, "pool", why);
    CHECK_ERROR(forebay_pool_wait_for_frees(pool), invalid, "pool", why);
    CHECK_ERROR(forebay_pool_defragment(pool, &report), invalid, "pool", why);
    CHECK_ERROR(forebay_pool_set_policy(pool, 0), invalid, "pool", why);
    CHECK_ERROR(forebay_pool_set_limit(pool, 0), invalid, "pool", why);
    CHECK_ERROR(forebay_pool_set_decay(pool, 0), invalid, "pool", why);
    const void *first = UNTOUCHED;
    CHECK_ERROR(forebay_pool_addresses(pool, &first, &number), invalid, "pool", why);
    CHECK(first == UNTOUCHED);
    CHECK_EQ(number, 99);
    CHECK_ERROR(forebay_pool_set_oom_callback(pool, NULL, NULL), invalid, "pool", why);
    CHECK_ERROR(forebay_pool_check(pool), invalid, "pool", why);
    CHECK_ERROR(forebay_alloc(pool, 64, NULL, &out), invalid, "pool", why);
    CHECK_ERROR(forebay_alloc_aligned(pool, 64, 64, NULL, &out), invalid, "pool", why);
    CHECK_ERROR(forebay_free(pool, UNTOUCHED, NULL), invalid, "pool", why);
    CHECK_ERROR(forebay_realloc(pool, NULL, 64, NULL, &out), invalid, "pool", why);
    CHECK_ERROR(forebay_alloc_batch(pool, &size, 1, NULL, &out), invalid, "pool", why);
    CHECK_ERROR(forebay_free_batch(pool, &out, 1, NULL, &number), invalid, "pool", why);
    CHECK_ERROR(forebay_usable_size(pool, UNTOUCHED, &number), invalid, "pool", why);
    CHECK_ERROR(forebay_pool_owns(pool, UNTOUCHED, &out, &number), invalid, "pool", why);
    CHECK_ERROR(forebay_record_stream(pool, UNTOUCHED, NULL), invalid, "pool", why);
    CHECK_ERROR(forebay_pool_stats(pool, &stats), invalid, "pool", why);
    CHECK_ERROR(forebay_pool_reset_peaks(pool), invalid, "pool", why);
    CHECK_ERROR(forebay_pool_stats_json(pool, text, sizeof text, &number), invalid, "pool", why);
    CHECK_ERROR(forebay_trace_start(pool, "pool.csv"), invalid, "pool", why);
    CHECK(access("pool.csv", F_OK) != 0);
    CHECK_ERROR(forebay_trace_stop(pool), invalid, "pool", why);
    CHECK(out == UNTOUCHED);
    CHECK_EQ(number, 99);
    CHECK_EQ(stats.live_blocks, 77);
    CHECK_EQ(report.pages_moved, 77);
    CHECK(strcmp(text, "kept") == 0);
}

static void destruction(void)
{
    CHECK_OK(forebay_pool_destroy(NULL));
    without_a_pool(NULL, "NULL");
    forebay_pool *empty = small_pool(16 * MIB, 0);
    CHECK_OK(forebay_free(empty, block_of(empty, 100), NULL));
    CHECK_OK(forebay_pool_destroy(empty));
    without_a_pool(empty, "destroyed");
    CHECK_ERROR(forebay_pool_destroy(empty), FOREBAY_ERROR_INVALID_ARGUMENT, "pool", "destroyed");

    // With live blocks: reported, and done all the same.
    forebay_pool *full = small_pool(16 * MIB, 0);
    block_of(full, 100);
    block_of(full, 1000);
    block_of(full, 3 * MIB);
    CHECK_ERROR(forebay_pool_destroy(full), FOREBAY_ERROR_INVALID_STATE, "3 live blocks",
                dec(1100 + 3 * MIB));
    without_a_pool(full, "destroyed");
}

static void addresses(void)
{
    forebay_pool *pool = small_pool(32 * MIB, 0);
    const void *first = NULL;
    size_t bytes = 0;
    CHECK_OK(forebay_pool_addresses(pool, &first, &bytes));
    CHECK(bytes >= 32 * MIB);
    CHECK_EQ((uintptr_t)first % PAGE, 0);
    CHECK_OK(forebay_pool_addresses(pool, NULL, NULL));
    for (size_t size = 1; size <= 8 * MIB; size *= 8) {
        char *block = block_of(pool, size);
        CHECK((uintptr_t)block - (uintptr_t)first <= bytes - size);
        CHECK_OK(forebay_free(pool, block, NULL));
    }
    CHECK_OK(forebay_pool_destroy(pool));
}

// What a thread's front cache holds goes back too, once the thread has stopped calling.
static void decay(void)
{
    forebay_pool *pool = small_pool(512 * MIB, 0);
    CHECK_ERROR(forebay_pool_set_decay(pool, 86400001), FOREBAY_ERROR_INVALID_ARGUMENT,
                "milliseconds is 86400001; the limit is 86400000");
    CHECK_OK(forebay_pool_set_decay(pool, 86400000));
    CHECK_OK(forebay_pool_set_decay(pool, 500));
    char *stays = block_of(pool, MIB);
    memset(stays, 5, MIB);
    char *goes = block_of(pool, 8 * MIB);
    memset(goes, 6, 8 * MIB);
    CHECK_OK(forebay_free(pool, goes, NULL));
    CHECK(stats_of(pool).reserved_bytes >= 9 * MIB);
    for (int tenths = 0; tenths < 100 && stats_of(pool).trims == 0; tenths++) {
        struct timespec tenth = {0, 100000000};
        nanosleep(&tenth, NULL);
    }
    CHECK(stats_of(pool).trims > 0);
    // What lives is in one page, or lies across two.
    CHECK(stats_of(pool).reserved_bytes <= 2 * PAGE);
    CHECK_EQ(stays[MIB - 1], 5);
    char *again = block_of(pool, MIB);
    memset(again, 7, MIB);
    CHECK_OK(forebay_pool_set_decay(pool, 0));
    CHECK_OK(forebay_free(pool, again, NULL));
    CHECK_OK(forebay_free(pool, stays, NULL));
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_pool_destroy(pool));
}

static void limits(void)
{
    forebay_pool *pool = small_pool(32 * MIB, 0);
    char *large = block_of(pool, 8 * MIB);
    char *small = block_of(pool, 100);
    memset(large, 7, 8 * MIB);
    forebay_pool_statistics before = stats_of(pool);
    CHECK_EQ(before.limit_bytes, 32 * MIB);

    uint64_t bad[] = {1, PAGE - 1, PAGE, 8 * MIB, 4 * 32 * MIB + PAGE, (uint64_t)1 << 46,
                      UINT64_MAX};
    for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
        CHECK_ERROR(forebay_pool_set_limit(pool, bad[at]), FOREBAY_ERROR_INVALID_ARGUMENT,
                    "max_bytes is", dec(bad[at]));
        CHECK_NOTHING_LOST(pool, &before);
    }
    CHECK_EQ((unsigned char)large[8 * MIB - 1], 7);

    // Lower, as far as what lives leaves room; then higher again.
    CHECK_OK(forebay_pool_set_limit(pool, 12 * MIB));
    CHECK_EQ(stats_of(pool).limit_bytes, 12 * MIB);
    void *out = UNTOUCHED;
    CHECK_ERROR(forebay_alloc(pool, 8 * MIB, NULL, &out), FOREBAY_ERROR_OUT_OF_MEMORY, "limit",
                dec(12 * MIB));
    CHECK(out == UNTOUCHED);
    CHECK_OK(forebay_pool_set_limit(pool, 64 * MIB));
    void *more = block_of(pool, 40 * MIB);
    CHECK_OK(forebay_pool_check(pool));

    // Idle memory beyond a lower limit is given back.
    CHECK_OK(forebay_free(pool, more, NULL));
    CHECK_OK(forebay_free(pool, large, NULL));
    CHECK_OK(forebay_pool_set_limit(pool, 4 * MIB));
    CHECK(stats_of(pool).reserved_bytes <= 4 * MIB);
    CHECK_OK(forebay_pool_set_limit(pool, 0));
    CHECK(stats_of(pool).limit_bytes >= 64 * MIB);
    CHECK_OK(forebay_free(pool, small, NULL));
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_pool_destroy(pool));
}

static void policies(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    int32_t bad[] = {-1, 5, INT32_MAX, INT32_MIN};
    forebay_pool_statistics before = stats_of(pool);
    for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
        char number[16];
        snprintf(number, sizeof number, "%" PRId32, bad[at]);
        CHECK_ERROR(forebay_pool_set_policy(pool, bad[at]), FOREBAY_ERROR_INVALID_ARGUMENT,
                    "policy is", number, "0 to 4");
        CHECK_NOTHING_LOST(pool, &before);
    }
    // From each to each, with blocks that live through the change and without.
    for (int32_t from = 0; from <= 4; from++) {
        for (int32_t to = 0; to <= 4; to++) {
            CHECK_OK(forebay_pool_set_policy(pool, from));
            unsigned char *small = block_of(pool, 1000);
            unsigned char *large = block_of(pool, 3 * MIB);
            small[999] = 1;
            large[3 * MIB - 1] = 2;
            CHECK_OK(forebay_pool_set_policy(pool, to));
            CHECK_OK(forebay_pool_check(pool));
            unsigned char *other = block_of(pool, 1000);
            if (to == FOREBAY_POLICY_QUALITY_FIRST) {
                CHECK(other[0] == 0 && other[999] == 0);
            }
            other[0] = 3;
            CHECK_EQ(small[999], 1);
            CHECK_EQ(large[3 * MIB - 1], 2);
            CHECK_OK(forebay_free(pool, large, NULL));
            CHECK_OK(forebay_free(pool, small, NULL));
            CHECK_OK(forebay_free(pool, other, NULL));
            CHECK_EQ(stats_of(pool).live_blocks, 0);
            CHECK_OK(forebay_pool_check(pool));
        }
    }
    CHECK_OK(forebay_pool_destroy(pool));
}

static void trims(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    void *kept = block_of(pool, 100);
    void *large = block_of(pool, 20 * MIB);
    memset(large, 1, 20 * MIB);
    CHECK_OK(forebay_free(pool, large, NULL));
    forebay_pool_statistics before = stats_of(pool);
    CHECK(before.reserved_bytes >= 20 * MIB);

    size_t released = 99;
    CHECK_OK(forebay_pool_wait_for_frees(pool));
    CHECK_OK(forebay_pool_trim(pool, SIZE_MAX, &released));
    CHECK_EQ(released, 0);
    CHECK_EQ(stats_of(pool).reserved_bytes, before.reserved_bytes);
    CHECK_OK(forebay_pool_trim(pool, 12 * MIB, &released));
    CHECK_EQ(stats_of(pool).reserved_bytes, before.reserved_bytes - released);
    CHECK(stats_of(pool).reserved_bytes >= 12 * MIB);
    CHECK(stats_of(pool).reserved_bytes < 12 * MIB + PAGE);
    CHECK_OK(forebay_pool_trim(pool, 0, NULL));
    // The page that something lives in stays.
    CHECK_EQ(stats_of(pool).reserved_bytes, PAGE);
    CHECK(stats_of(pool).trims > before.trims);
    CHECK_OK(forebay_pool_trim(pool, 0, &released));
    CHECK_EQ(released, 0);
    CHECK_NOTHING_LOST(pool, &before);
    CHECK_OK(forebay_free(pool, block_of(pool, 20 * MIB), NULL));
    CHECK_OK(forebay_free(pool, kept, NULL));
    CHECK_OK(forebay_pool_destroy(pool));
}

static int by_address(const void *a, const void *b)
{
    uintptr_t left = (uintptr_t) * (unsigned char *const *)a;
    uintptr_t right = (uintptr_t) * (unsigned char *const *)b;
    return (left > right) - (left < right);
}

static void defragments(void)
{
    enum { COUNT = 8 };
    forebay_pool *pool = small_pool(COUNT * 4 * MIB, 0);
    unsigned char *blocks[COUNT];
    for (size_t at = 0; at < COUNT; at++) {
        blocks[at] = block_of(pool, 4 * MIB);
    }
    qsort(blocks, COUNT, sizeof blocks[0], by_address);
    for (size_t at = 0; at < COUNT; at++) {
        memset(blocks[at], (int)at + 1, 4 * MIB);
    }
    // Every other one by address, so that no two free runs are neighbours.
    for (size_t at = 0; at < COUNT; at += 2) {
        CHECK_OK(forebay_free(pool, blocks[at], NULL));
    }
    forebay_pool_statistics before = stats_of(pool);

    // A report that cannot be written: nothing is done for it.
    size_t sizes[] = {0, 8, sizeof(forebay_defrag_report) - 1, SIZE_MAX};
    for (size_t at = 0; at < sizeof sizes / sizeof sizes[0]; at++) {
        forebay_defrag_report bad = {.struct_size = sizes[at], .pages_moved = 77};
        CHECK_ERROR(forebay_pool_defragment(pool, &bad), FOREBAY_ERROR_INVALID_ARGUMENT,
                    "forebay_defrag_report.struct_size is", dec(sizes[at]));
        CHECK_EQ(bad.pages_moved, 77);
    }
    CHECK_EQ(stats_of(pool).system_calls, before.system_calls);

    struct {
        forebay_defrag_report report;
        uint64_t later;
    } larger = {FOREBAY_DEFRAG_REPORT_INIT, 77};
    larger.report.struct_size = sizeof larger;
    CHECK_OK(forebay_pool_defragment(pool, &larger.report));
    CHECK_EQ(larger.later, 0);
    CHECK_EQ(larger.report.struct_size, sizeof larger);
    CHECK_EQ(larger.report.largest_free_before, 4 * MIB);
    CHECK_EQ(larger.report.largest_free_after, COUNT / 2 * 4 * MIB);
    CHECK_EQ(larger.report.bytes_gained, (COUNT / 2 - 1) * 4 * MIB);
    CHECK(larger.report.pages_moved >= (COUNT / 2 - 1) * 2);
    CHECK(larger.report.system_calls > 0);
    CHECK_NOTHING_LOST(pool, &before);
    CHECK_EQ(stats_of(pool).reserved_bytes, before.reserved_bytes);
    // Once is enough.
    forebay_defrag_report report = FOREBAY_DEFRAG_REPORT_INIT;
    CHECK_OK(forebay_pool_defragment(pool, &report));
    CHECK_EQ(report.pages_moved, 0);
    CHECK_EQ(report.bytes_gained, 0);
    CHECK_OK(forebay_pool_defragment(pool, NULL));
    void *wide = block_of(pool, COUNT / 2 * 4 * MIB);
    memset(wide, 0xEE, COUNT / 2 * 4 * MIB);
    CHECK_OK(forebay_free(pool, wide, NULL));
    for (size_t at = 1; at < COUNT; at += 2) {
        CHECK_EQ(blocks[at][0], at + 1);
        CHECK_EQ(blocks[at][4 * MIB - 1], at + 1);
        CHECK_OK(forebay_free(pool, blocks[at], NULL));
    }
    CHECK_OK(forebay_pool_destroy(pool));
}

struct relief {
    forebay_pool *pool;
    void *block;
    unsigned calls;
    size_t least;
    int32_t answer;
    int forget;
};

static int32_t relieve(size_t size, void *user)
{
    struct relief *relief = user;
    relief->calls++;
    relief->least = size;
    if (relief->block != NULL) {
        CHECK_OK(forebay_free(relief->pool, relief->block, NULL));
        relief->block = NULL;
    }
    if (relief->forget) {
        CHECK_OK(forebay_pool_set_oom_callback(relief->pool, NULL, NULL));
    }
    return relief->answer;
}

static void oom_callback(void)
{
    forebay_pool *pool = small_pool(8 * MIB, 0);
    struct relief relief = {pool, block_of(pool, 6 * MIB), 0, 0, 1, 0};
    CHECK_OK(forebay_pool_set_oom_callback(pool, relieve, &relief));
    // It frees what is in the way, and the allocation goes through.
    void *block = block_of(pool, 5 * MIB);
    CHECK_EQ(relief.calls, 1);
    CHECK(relief.least >= 5 * MIB);
    // It has nothing to free, but says that it had: asked 16 times, no more.
    void *out = UNTOUCHED;
    relief.calls = 0;
    CHECK_ERROR(forebay_alloc(pool, 5 * MIB, NULL, &out), FOREBAY_ERROR_OUT_OF_MEMORY, "limit");
    CHECK_EQ(relief.calls, 16);
    CHECK(out == UNTOUCHED);
    // It says that it had nothing: asked once.
    relief.calls = 0;
    relief.answer = 0;
    CHECK_ERROR(forebay_alloc(pool, 5 * MIB, NULL, &out), FOREBAY_ERROR_OUT_OF_MEMORY, "limit");
    CHECK_EQ(relief.calls, 1);
    // Not asked for what is refused anyway, nor for what there is.
    relief.calls = 0;
    CHECK_ERROR(forebay_alloc(pool, SIZE_MAX, NULL, &out), FOREBAY_ERROR_INVALID_ARGUMENT,
                "size is");
    CHECK_OK(forebay_free(pool, block_of(pool, MIB), NULL));
    CHECK_EQ(relief.calls, 0);
    // Taken away by itself: never called again.
    relief.forget = 1;
    CHECK_ERROR(forebay_alloc(pool, 5 * MIB, NULL, &out), FOREBAY_ERROR_OUT_OF_MEMORY, "limit");
    CHECK_EQ(relief.calls, 1);
    CHECK_ERROR(forebay_alloc(pool, 5 * MIB, NULL, &out), FOREBAY_ERROR_OUT_OF_MEMORY, "limit");
    CHECK_EQ(relief.calls, 1);
    CHECK_OK(forebay_free(pool, block, NULL));
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_pool_destroy(pool));
}

// Takes blocks until there are no more, gives one back, takes it again, gives all back.
static void use_up(forebay_pool *pool, size_t size)
{
    enum { MOST = 1 << 16 };
    static void *blocks[MOST];
    size_t count = 0;
    forebay_status status = FOREBAY_OK;
    while (count < MOST) {
        void *out = UNTOUCHED;
        status = forebay_alloc(pool, size, NULL, &out);
        if (status != FOREBAY_OK) {
            CHECK(out == UNTOUCHED);
            break;
        }
        memset(out, 1, size);
        blocks[count++] = out;
    }
    CHECK_EQ(status, FOREBAY_ERROR_OUT_OF_MEMORY);
    CHECK(strstr(forebay_last_error(), dec(size)) != NULL);
    CHECK(count > 0 && count < MOST);
    CHECK_EQ(stats_of(pool).live_blocks, count);
    CHECK_OK(forebay_pool_check(pool));
    if (count > 0) {
        CHECK_OK(forebay_free(pool, blocks[count - 1], NULL));
        blocks[count - 1] = block_of(pool, size);
    }
    CHECK_OK(forebay_free_batch(pool, blocks, count, NULL, NULL));
    CHECK_EQ(stats_of(pool).live_blocks, 0);
    CHECK_OK(forebay_pool_check(pool));
}

// The process has 64 MiB of addresses. In a child, so that the library is loaded and the
// limit is gone with it.
static void address_space(uint64_t max_bytes, size_t size)
{
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        struct rlimit limit = {64 * MIB, 64 * MIB};
        CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
        forebay_pool_config config = FOREBAY_POOL_CONFIG_INIT;
        config.max_bytes = max_bytes;
        forebay_pool *pool = pool_of(&config);
        use_up(pool, size);
        use_up(pool, size);
        void *out = UNTOUCHED;
        CHECK_ERROR(forebay_alloc(pool, 1 << 30, NULL, &out), FOREBAY_ERROR_OUT_OF_MEMORY,
                    dec(1 << 30));
        CHECK(out == UNTOUCHED);
        CHECK_OK(forebay_pool_destroy(pool));
        pool = pool_of(&config);
        CHECK_OK(forebay_free(pool, block_of(pool, size), NULL));
        CHECK_OK(forebay_pool_destroy(pool));
        _exit(check_end("pool, with 64 MiB of addresses"));
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

// Allocates and frees until it is told to stop.
struct busy {
    forebay_pool *pool;
    forebay_stream stream;
    int stop;
};

static void *be_busy(void *user)
{
    struct busy *busy = user;
    size_t sizes[] = {16, 3000, 50000, 700, 1 << 20};
    void *held[5] = {NULL};
    for (unsigned round = 0; !__atomic_load_n(&busy->stop, __ATOMIC_RELAXED); round++) {
        unsigned at = round % 5;
        forebay_stream stream = round % 3 == 0 ? busy->stream : NULL;
        CHECK_OK(forebay_free(busy->pool, held[at], stream));
        held[at] = NULL;
        CHECK_OK(forebay_alloc(busy->pool, sizes[at], stream, &held[at]));
        if (round % 64 == 0) {
            // Lets the others have the processor, of which there may be one.
            nanosleep(&(struct timespec){0, 50000}, NULL);
        }
    }
    CHECK_OK(forebay_free_batch(busy->pool, held, 5, NULL, NULL));
    return NULL;
}

// A child frees what its parent took, takes and frees its own, and the parent sees none of it.
static void forks(uint64_t flags)
{
    forebay_pool *pool = small_pool(256 * MIB, flags);
    forebay_stream stream = NULL;
    CHECK_OK(forebay_stream_create(&stream));
    struct busy busy = {pool, stream, 0};
    enum { THREADS = 3 };
    pthread_t threads[THREADS];
    unsigned char *small = block_of(pool, 1000);
    unsigned char *large = block_of(pool, 5 * MIB);
    memset(small, 1, 1000);
    memset(large, 2, 5 * MIB);
    for (size_t at = 0; at < THREADS; at++) {
        CHECK_EQ(pthread_create(&threads[at], NULL, be_busy, &busy), 0);
    }
    for (unsigned round = rounds(50, 3); round > 0; round--) {
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            CHECK_EQ(small[999], 1);
            CHECK_EQ(large[5 * MIB - 1], 2);
            CHECK_OK(forebay_pool_check(pool));
            CHECK_OK(forebay_free(pool, small, NULL));
            CHECK_OK(forebay_free(pool, large, NULL));
            void *blocks[20];
            for (size_t at = 0; at < 20; at++) {
                size_t size = 100 << (at % 15);
                blocks[at] = block_of(pool, size);
                memset(blocks[at], 3, size);
            }
            CHECK_OK(forebay_free_batch(pool, blocks, 20, NULL, NULL));
            CHECK_ERROR(forebay_free(pool, small, NULL), FOREBAY_ERROR_INVALID_POINTER, "ptr");
            CHECK_OK(forebay_pool_check(pool));
            forebay_pool *own = small_pool(16 * MIB, 0);
            CHECK_OK(forebay_free(own, block_of(own, 100), NULL));
            CHECK_OK(forebay_pool_destroy(own));
            _exit(check_failures == 0 ? 0 : 1);
        }
        int status = -1;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
        CHECK_EQ(small[999], 1);
        CHECK_EQ(large[5 * MIB - 1], 2);
    }
    __atomic_store_n(&busy.stop, 1, __ATOMIC_RELAXED);
    for (size_t at = 0; at < THREADS; at++) {
        CHECK_EQ(pthread_join(threads[at], NULL), 0);
    }
    CHECK_OK(forebay_pool_check(pool));
    CHECK_EQ(stats_of(pool).live_blocks, 2);
    CHECK_OK(forebay_free(pool, small, NULL));
    CHECK_OK(forebay_free(pool, large, NULL));
    CHECK_OK(forebay_stream_destroy(stream));
    CHECK_OK(forebay_pool_destroy(pool));
}

int main(void)
{
    time_limit(300);
    // First, while the process has no other pool whose addresses would count.
    if (getenv("FOREBAY_TEST_VALGRIND") == NULL) {
        address_space(0, MIB);
        address_space(0, 5000);
        address_space((uint64_t)1 << 30, 3 * MIB);
        address_space(16 * MIB, 1000);
    } else {
        fprintf(stderr, "pool: no limit of the address space here, for valgrind's own memory "
                        "counts against it\n");
    }
    configs();
    destruction();
    limits();
    addresses();
    decay();
    policies();
    trims();
    defragments();
    oom_callback();
    forks(0);
    forks(FOREBAY_POOL_NO_FRONT_CACHE | FOREBAY_POOL_GUARD_BYTES);
    return check_end("pool");
}
