// The counters of a pool, and its report as JSON.

#include "check.h"

#include <ctype.h>

#define MIB ((size_t)1 << 20)

static void counters(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_pool_statistics stats = stats_of(pool);
    CHECK_EQ(stats.struct_size, sizeof stats);
    CHECK_EQ(stats.requested_bytes, 0);
    CHECK_EQ(stats.allocations, 0);
    CHECK_EQ(stats.live_blocks, 0);
    CHECK_EQ(stats.limit_bytes, 64 * MIB);

    enum { COUNT = 200 };
    void *blocks[COUNT];
    size_t sizes[COUNT];
    uint64_t requested = 0, allocated = 0, peak = 0, total = 0;
    for (size_t at = 0; at < COUNT; at++) {
        sizes[at] = 1 + (at * 7919) % 100000;
        blocks[at] = block_of(pool, sizes[at]);
        size_t usable = 0;
        CHECK_OK(forebay_usable_size(pool, blocks[at], &usable));
        requested += sizes[at];
        allocated += usable;
        total += sizes[at];
        peak = requested > peak ? requested : peak;
        if (at % 4 == 3) {
            CHECK_OK(forebay_free(pool, blocks[at], NULL));
            requested -= sizes[at];
            allocated -= usable;
            blocks[at] = NULL;
        }
    }
    stats = stats_of(pool);
    CHECK_EQ(stats.requested_bytes, requested);
    CHECK_EQ(stats.requested_peak, peak);
    CHECK_EQ(stats.requested_total, total);
    CHECK_EQ(stats.allocated_bytes, allocated);
    CHECK(stats.allocated_peak >= stats.allocated_bytes);
    CHECK(stats.allocated_total >= stats.allocated_peak);
    CHECK(stats.allocated_bytes >= stats.requested_bytes);
    CHECK(stats.reserved_bytes >= stats.allocated_bytes);
    CHECK(stats.reserved_peak >= stats.reserved_bytes);
    CHECK(stats.reserved_total >= stats.reserved_peak);
    CHECK(stats.reserved_peak <= stats.limit_bytes);
    CHECK_EQ(stats.allocations, COUNT);
    CHECK_EQ(stats.frees, COUNT / 4);
    CHECK_EQ(stats.live_blocks, COUNT - COUNT / 4);
    CHECK_EQ(stats.hits + stats.misses, stats.allocations);
    CHECK(stats.misses > 0 && stats.hits > 0);
    CHECK(stats.system_calls > 0);
    CHECK_EQ(stats.failed, 0);
    CHECK_EQ(stats.invalid_frees, 0);

    // What fails is counted as that and as nothing else.
    void *out = NULL;
    CHECK_ERROR(forebay_alloc(pool, 65 * MIB, NULL, &out), FOREBAY_ERROR_OUT_OF_MEMORY, "limit");
    CHECK_ERROR(forebay_free(pool, &out, NULL), FOREBAY_ERROR_INVALID_POINTER, "ptr");
    CHECK_NOTHING_LOST(pool, &stats);
    CHECK_EQ(stats_of(pool).failed, 1);
    CHECK_EQ(stats_of(pool).invalid_frees, 1);

    // A hit makes no system call.
    uint64_t calls = stats_of(pool).system_calls;
    for (int round = 0; round < 100; round++) {
        CHECK_OK(forebay_free(pool, block_of(pool, 3000), NULL));
        CHECK_OK(forebay_free(pool, block_of(pool, MIB), NULL));
    }
    uint64_t warm = stats_of(pool).system_calls;
    CHECK(warm <= calls + 2);
    for (int round = 0; round < 100; round++) {
        CHECK_OK(forebay_free(pool, block_of(pool, 3000), NULL));
        CHECK_OK(forebay_free(pool, block_of(pool, MIB), NULL));
    }
    CHECK_EQ(stats_of(pool).system_calls, warm);

    CHECK_OK(forebay_free_batch(pool, blocks, COUNT, NULL, NULL));
    stats = stats_of(pool);
    CHECK_EQ(stats.live_blocks, 0);
    CHECK_EQ(stats.requested_bytes, 0);
    CHECK_EQ(stats.allocated_bytes, 0);
    CHECK_EQ(stats.allocations, stats.frees);
    CHECK(stats.requested_peak >= peak);

    // Peaks start again from what is there; totals go on.
    void *kept = block_of(pool, 5000);
    CHECK_OK(forebay_pool_reset_peaks(pool));
    forebay_pool_statistics reset = stats_of(pool);
    CHECK_EQ(reset.requested_peak, 5000);
    CHECK_EQ(reset.allocated_peak, reset.allocated_bytes);
    CHECK_EQ(reset.reserved_peak, reset.reserved_bytes);
    CHECK_EQ(reset.requested_total, stats.requested_total + 5000);
    CHECK_OK(forebay_free(pool, kept, NULL));
    CHECK_EQ(stats_of(pool).requested_peak, 5000);

    uint64_t trims = stats_of(pool).trims;
    CHECK_OK(forebay_pool_trim(pool, 0, NULL));
    CHECK_EQ(stats_of(pool).trims, trims + 1);
    CHECK_EQ(stats_of(pool).reserved_bytes, 0);
    CHECK_OK(forebay_pool_destroy(pool));
}

static void struct_sizes(void)
{
    forebay_pool *pool = small_pool(16 * MIB, 0);
    void *block = block_of(pool, 100);
    CHECK_ERROR(forebay_pool_stats(pool, NULL), FOREBAY_ERROR_INVALID_ARGUMENT, "out is NULL");
    forebay_pool_statistics stats = FOREBAY_POOL_STATISTICS_INIT;
    size_t bad[] = {0, 8, sizeof stats - 1, SIZE_MAX};
    for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
        memset(&stats, 0x77, sizeof stats);
        stats.struct_size = bad[at];
        CHECK_ERROR(forebay_pool_stats(pool, &stats), FOREBAY_ERROR_INVALID_ARGUMENT,
                    "forebay_pool_statistics.struct_size is", dec(bad[at]),
                    dec(sizeof stats));
        CHECK_EQ(stats.struct_size, bad[at]);
        CHECK_EQ(stats.live_blocks, 0x7777777777777777u);
    }
    // A later release's: what this one lacks becomes zero, and no byte behind it is touched.
    struct {
        forebay_pool_statistics stats;
        uint64_t later[3];
        uint64_t behind;
    } larger;
    memset(&larger, 0x77, sizeof larger);
    size_t size = sizeof larger - sizeof larger.behind;
    larger.stats.struct_size = size;
    CHECK_OK(forebay_pool_stats(pool, &larger.stats));
    CHECK_EQ(larger.stats.struct_size, size);
    CHECK_EQ(larger.stats.live_blocks, 1);
    CHECK_EQ(larger.stats.requested_bytes, 100);
    CHECK_EQ(larger.later[0] | larger.later[1] | larger.later[2], 0);
    CHECK_EQ(larger.behind, 0x7777777777777777u);
    CHECK_OK(forebay_free(pool, block, NULL));
    CHECK_OK(forebay_pool_destroy(pool));
}

// Whether a text is JSON, by RFC 8259: `at` goes behind the value, NULL when there is none.
static const char *json_value(const char *at, int depth);

static const char *json_space(const char *at)
{
    return at + strspn(at, " \t\r\n");
}

static const char *json_string(const char *at)
{
    if (*at++ != '"') {
        return NULL;
    }
    for (; *at != '"'; at++) {
        if ((unsigned char)*at < 0x20) {
            return NULL;
        }
        if (*at == '\\') {
            at++;
            if (*at == 'u') {
                for (int digit = 0; digit < 4; digit++) {
                    if (!isxdigit((unsigned char)*++at)) {
                        return NULL;
                    }
                }
            } else if (*at == '\0' || strchr("\"\\/bfnrt", *at) == NULL) {
                return NULL;
            }
        }
    }
    return at + 1;
}

static const char *json_digits(const char *at)
{
    return isdigit((unsigned char)*at) ? at + strspn(at, "0123456789") : NULL;
}

static const char *json_number(const char *at)
{
    at += *at == '-';
    if (at[0] == '0' && isdigit((unsigned char)at[1])) {
        return NULL;
    }
    at = json_digits(at);
    if (at != NULL && *at == '.') {
        at = json_digits(at + 1);
    }
    if (at != NULL && (*at == 'e' || *at == 'E')) {
        at += at[1] == '+' || at[1] == '-' ? 2 : 1;
        at = json_digits(at);
    }
    return at;
}

// An object or a list, whose opening bracket is at `at`.
static const char *json_members(const char *at, int depth)
{
    int object = *at == '{';
    char end = object ? '}' : ']';
    at = json_space(at + 1);
    if (*at == end) {
        return at + 1;
    }
    for (;;) {
        if (object) {
            at = json_string(json_space(at));
            if (at == NULL || *(at = json_space(at)) != ':') {
                return NULL;
            }
            at++;
        }
        at = json_value(at, depth + 1);
        if (at == NULL) {
            return NULL;
        }
        at = json_space(at);
        if (*at == end) {
            return at + 1;
        }
        if (*at++ != ',') {
            return NULL;
        }
    }
}

static const char *json_value(const char *at, int depth)
{
    static const char *const words[] = {"true", "false", "null"};
    if (depth > 32) {
        return NULL;
    }
    at = json_space(at);
    if (*at == '{' || *at == '[') {
        return json_members(at, depth);
    }
    if (*at == '"') {
        return json_string(at);
    }
    for (size_t word = 0; word < 3; word++) {
        if (strncmp(at, words[word], strlen(words[word])) == 0) {
            return at + strlen(words[word]);
        }
    }
    return json_number(at);
}

static int is_json(const char *text)
{
    const char *end = json_value(text, 0);
    return end != NULL && *json_space(end) == '\0';
}

// The checker can tell one from the other.
static void the_checker(void)
{
    static const char *const good[] = {
        "{}",   "[]",      "0",   "-1.5e+3",  "\"a\\n\\u00e9\"",       " [1, 2 ,{\"a\":null}] ",
        "true", "[0.000]", "1e9", "[[],{}]", "{\"a\":{\"b\":[false]}}"};
    static const char *const bad[] = {"",      "{",      "[1,]",     "{\"a\"}",  "{\"a\":1,}",
                                      "01",    "1.",     ".5",       "NaN",      "inf",
                                      "\"",    "'a'",    "[1 2]",    "{a:1}",    "[1]]",
                                      "\"\\x\"", "{\"a\":}", "\"\n\"", "{} {}",   "-"};
    for (size_t at = 0; at < sizeof good / sizeof good[0]; at++) {
        CHECK(is_json(good[at]));
    }
    for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
        CHECK(!is_json(bad[at]));
    }
}

// The report, in memory that ends where it ends. The caller frees it.
static char *report_of(forebay_pool *pool)
{
    size_t length = 0;
    CHECK_OK(forebay_pool_stats_json(pool, NULL, 0, &length));
    size_t capacity = length + 256;
    char *text = malloc(capacity);
    memset(text, 'x', capacity);
    CHECK_OK(forebay_pool_stats_json(pool, text, capacity, &length));
    CHECK_EQ(strlen(text), length);
    CHECK(is_json(text));
    return text;
}

// The number behind the first "key":, with `inside` before it.
static uint64_t number_of(const char *text, const char *inside, const char *key)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = inside == NULL ? text : strstr(text, inside);
    at = at == NULL ? NULL : strstr(at, quoted);
    CHECK(at != NULL);
    return at == NULL ? UINT64_MAX : strtoull(at + strlen(quoted), NULL, 10);
}

static void json(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    char *text = report_of(pool);
    CHECK_EQ(number_of(text, NULL, "live_blocks"), 0);
    free(text);

    size_t sizes[] = {16, 100, 100, 5000, 70000, MIB, 3 * MIB};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    void *blocks[COUNT];
    for (size_t at = 0; at < COUNT; at++) {
        blocks[at] = block_of(pool, sizes[at]);
    }
    CHECK_OK(forebay_free(pool, blocks[3], NULL));
    blocks[3] = NULL;
    text = report_of(pool);
    forebay_pool_statistics stats = stats_of(pool);
    static const char *const keys[] = {
        "schema", "pool", "device", "policy", "limit_bytes", "address_bytes", "requested",
        "allocated", "reserved", "allocations", "frees", "live_blocks", "hits", "misses",
        "front_cache_misses", "failed", "invalid_frees", "system_calls", "trims", "free_bytes",
        "free_runs", "idle_bytes", "waiting_bytes", "front_cache_bytes", "unmapped_runs",
        "largest_free_run", "external_fragmentation", "internal_fragmentation", "large",
        "size_classes", "largest_live_blocks"};
    for (size_t at = 0; at < sizeof keys / sizeof keys[0]; at++) {
        char quoted[64];
        snprintf(quoted, sizeof quoted, "\"%s\":", keys[at]);
        check_counted();
        if (strstr(text, quoted) == NULL) {
            check_failed(__FILE__, __LINE__, "the report lacks %s", quoted);
        }
    }
    CHECK_EQ(number_of(text, NULL, "schema"), 1);
    CHECK_EQ(number_of(text, NULL, "limit_bytes"), stats.limit_bytes);
    CHECK_EQ(number_of(text, "\"requested\":", "current"), stats.requested_bytes);
    CHECK_EQ(number_of(text, "\"requested\":", "peak"), stats.requested_peak);
    CHECK_EQ(number_of(text, "\"requested\":", "total"), stats.requested_total);
    CHECK_EQ(number_of(text, "\"allocated\":", "current"), stats.allocated_bytes);
    CHECK_EQ(number_of(text, "\"reserved\":", "current"), stats.reserved_bytes);
    CHECK_EQ(number_of(text, NULL, "allocations"), stats.allocations);
    CHECK_EQ(number_of(text, NULL, "frees"), stats.frees);
    CHECK_EQ(number_of(text, NULL, "live_blocks"), COUNT - 1);
    CHECK_EQ(number_of(text, "\"large\":", "live_blocks"), 3);
    CHECK_EQ(number_of(text, "\"largest_live_blocks\":", "requested_bytes"), 3 * MIB);
    CHECK_EQ(number_of(text, "\"largest_live_blocks\":", "address"), (uintptr_t)blocks[6]);
    CHECK(strstr(text, "\"device\":\"host\"") != NULL);
    CHECK(strstr(text, "\"policy\":\"balanced\"") != NULL);

    // Too small by one byte, or by all of them: the length is told, the buffer untouched.
    size_t length = strlen(text);
    size_t capacities[] = {1, length / 2, length};
    char *buffer = calloc(length + 2, 1);
    for (size_t at = 0; at < 3; at++) {
        size_t told = 0;
        memset(buffer, 'x', length + 1);
        CHECK_ERROR(forebay_pool_stats_json(pool, buffer, capacities[at], &told),
                    FOREBAY_ERROR_INVALID_ARGUMENT, "capacity is", dec(capacities[at]),
                    dec(told + 1));
        CHECK(told >= length - 8 && told <= length + 8);
        CHECK_EQ(strspn(buffer, "x") >= capacities[at], 1);
    }
    free(buffer);
    size_t told = 0;
    CHECK_ERROR(forebay_pool_stats_json(pool, NULL, 100, &told), FOREBAY_ERROR_INVALID_ARGUMENT,
                "buffer is NULL", "100");
    CHECK_OK(forebay_pool_stats_json(pool, NULL, 0, NULL));
    free(text);
    CHECK_NOTHING_LOST(pool, &stats);
    CHECK_OK(forebay_free_batch(pool, blocks, COUNT, NULL, NULL));

    // Under every policy, and with hundreds of blocks.
    for (int32_t policy = 0; policy <= 4; policy++) {
        CHECK_OK(forebay_pool_set_policy(pool, policy));
        void *many[300];
        for (size_t at = 0; at < 300; at++) {
            many[at] = block_of(pool, 1 + at * 100);
        }
        text = report_of(pool);
        CHECK_EQ(number_of(text, NULL, "live_blocks"), 300);
        free(text);
        CHECK_OK(forebay_free_batch(pool, many, 300, NULL, NULL));
    }
    CHECK_OK(forebay_pool_destroy(pool));
}

int main(void)
{
    time_limit(300);
    counters();
    struct_sizes();
    the_checker();
    json();
    return check_end("stats");
}
