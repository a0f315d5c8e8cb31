// Checks for the C tests. A failing check prints where it stands, what was expected and what
// forebay said, the program goes on, and its exit status is 1 in the end.
//
// Include it first: it says which POSIX the program is written for.

#ifndef FOREBAY_TESTS_CHECK_H
#define FOREBAY_TESTS_CHECK_H

#define _XOPEN_SOURCE 700

#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <forebay.h>

#if defined(__GNUC__)
#define CHECK_UNUSED __attribute__((unused))
#define CHECK_PRINTF __attribute__((format(printf, 3, 4)))
#else
#define CHECK_UNUSED
#define CHECK_PRINTF
#endif

// Checks are made by several threads at once.
static uint64_t check_count;
static uint64_t check_failures;

static void check_counted(void)
{
    __atomic_fetch_add(&check_count, 1, __ATOMIC_RELAXED);
}

CHECK_PRINTF static void check_failed(const char *file, int line, const char *format, ...)
{
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    __atomic_fetch_add(&check_failures, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "%s:%d: %s\n", file, line, text);
}

// That `condition` holds.
#define CHECK(condition)                                                                       \
    do {                                                                                       \
        check_counted();                                                                       \
        if (!(condition)) {                                                                    \
            check_failed(__FILE__, __LINE__, "%s does not hold", #condition);                  \
        }                                                                                      \
    } while (0)

// That two numbers are equal.
#define CHECK_EQ(got, expected)                                                                \
    check_equal(__FILE__, __LINE__, #got, (uint64_t)(got), (uint64_t)(expected))

CHECK_UNUSED static void check_equal(const char *file, int line, const char *what, uint64_t got,
                                     uint64_t expected)
{
    check_counted();
    if (got != expected) {
        check_failed(file, line, "%s is %" PRIu64 ", expected %" PRIu64, what, got, expected);
    }
}

// That a call succeeds. Has the value 1 when it does.
#define CHECK_OK(call) check_ok(__FILE__, __LINE__, #call, call)

CHECK_UNUSED static int check_ok(const char *file, int line, const char *what,
                                 forebay_status status)
{
    check_counted();
    if (status == FOREBAY_OK) {
        return 1;
    }
    check_failed(file, line, "%s: %s: %s", what, forebay_status_name(status),
                 forebay_last_error());
    return 0;
}

// That a call ends with the status `expected`, and that the message has each of the strings
// that follow: the argument's name and the number.
#define CHECK_ERROR(call, expected, ...)                                                       \
    check_error(__FILE__, __LINE__, #call, call, expected, __VA_ARGS__, (const char *)NULL)

CHECK_UNUSED static void check_error(const char *file, int line, const char *what,
                                     forebay_status status, forebay_status expected, ...)
{
    check_counted();
    if (status != expected) {
        check_failed(file, line, "%s: %s, expected %s: %s", what, forebay_status_name(status),
                     forebay_status_name(expected), forebay_last_error());
        return;
    }
    va_list parts;
    va_start(parts, expected);
    for (const char *part; (part = va_arg(parts, const char *)) != NULL;) {
        check_counted();
        if (strstr(forebay_last_error(), part) == NULL) {
            check_failed(file, line, "%s: %s: the message lacks \"%s\": %s", what,
                         forebay_status_name(status), part, forebay_last_error());
        }
    }
    va_end(parts);
}

// Numbers as they stand in messages. The text is good for the next seven calls.
static char *check_text(void)
{
    static char texts[8][32];
    static unsigned next;
    return texts[next++ % 8];
}

CHECK_UNUSED static const char *hex(const void *pointer)
{
    char *text = check_text();
    snprintf(text, 32, "0x%" PRIxPTR, (uintptr_t)pointer);
    return text;
}

CHECK_UNUSED static const char *dec(uint64_t number)
{
    char *text = check_text();
    snprintf(text, 32, "%" PRIu64, number);
    return text;
}

CHECK_UNUSED static forebay_pool_statistics stats_of(forebay_pool *pool)
{
    forebay_pool_statistics stats = FOREBAY_POOL_STATISTICS_INIT;
    CHECK_OK(forebay_pool_stats(pool, &stats));
    return stats;
}

// That nothing was lost or taken since `before`: what lives and what ever lived is the same,
// and the bookkeeping is whole. The counters of what failed may have moved.
#define CHECK_NOTHING_LOST(pool, before) check_nothing_lost(__FILE__, __LINE__, pool, before)

CHECK_UNUSED static void check_nothing_lost(const char *file, int line, forebay_pool *pool,
                                            const forebay_pool_statistics *before)
{
    forebay_pool_statistics now = stats_of(pool);
    check_equal(file, line, "live_blocks", now.live_blocks, before->live_blocks);
    check_equal(file, line, "requested_bytes", now.requested_bytes, before->requested_bytes);
    check_equal(file, line, "requested_total", now.requested_total, before->requested_total);
    check_equal(file, line, "allocated_bytes", now.allocated_bytes, before->allocated_bytes);
    check_equal(file, line, "allocated_total", now.allocated_total, before->allocated_total);
    check_equal(file, line, "allocations", now.allocations, before->allocations);
    check_equal(file, line, "frees", now.frees, before->frees);
    check_equal(file, line, "limit_bytes", now.limit_bytes, before->limit_bytes);
    check_ok(file, line, "forebay_pool_check", forebay_pool_check(pool));
}

CHECK_UNUSED static forebay_pool *pool_of(const forebay_pool_config *config)
{
    forebay_pool *pool = NULL;
    if (!CHECK_OK(forebay_pool_create(config, &pool))) {
        exit(1);
    }
    return pool;
}

// A pool with a limit and flags, which is what most tests need.
CHECK_UNUSED static forebay_pool *small_pool(uint64_t max_bytes, uint64_t flags)
{
    forebay_pool_config config = FOREBAY_POOL_CONFIG_INIT;
    config.max_bytes = max_bytes;
    config.flags = flags;
    return pool_of(&config);
}

// A block that a test cannot do without.
CHECK_UNUSED static void *block_of(forebay_pool *pool, size_t size)
{
    void *block = NULL;
    if (!CHECK_OK(forebay_alloc(pool, size, NULL, &block))) {
        exit(1);
    }
    return block;
}

// Repetitions: `few` where each costs a hundred times more, such as under valgrind.
CHECK_UNUSED static unsigned rounds(unsigned many, unsigned few)
{
    const char *wish = getenv("FOREBAY_TEST_SHORT");
    return wish != NULL && strcmp(wish, "1") == 0 ? few : many;
}

// Ends a test that hangs, by the signal, so that the runner sees a failure.
CHECK_UNUSED static void time_limit(unsigned seconds)
{
    alarm(seconds);
}

// Prints how many checks there were; the program's exit status.
static int check_end(const char *noun)
{
    fprintf(stderr, "%s: %" PRIu64 " checks, %" PRIu64 " failed\n", noun, check_count,
            check_failures);
    return check_failures == 0 && check_count > 0 ? 0 : 1;
}

#endif
