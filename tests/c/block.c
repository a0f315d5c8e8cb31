// Blocks: taken, given back, asked about, and every way to do that wrong.

#include "check.h"

#include <pthread.h>
#include <time.h>

#define MIB ((size_t)1 << 20)
#define SIZE_LIMIT ((size_t)1 << 46)
#define ALIGNMENT_LIMIT ((size_t)1 << 30)

// What `*out` holds before a call that must not touch it.
static char untouched_byte;
#define UNTOUCHED ((void *)&untouched_byte)

static void fill(void *block, size_t size, unsigned seed)
{
    unsigned char *bytes = block;
    for (size_t at = 0; at < size; at++) {
        bytes[at] = (unsigned char)(seed + at * 31);
    }
}

static int is_filled(const void *block, size_t size, unsigned seed)
{
    const unsigned char *bytes = block;
    for (size_t at = 0; at < size; at++) {
        if (bytes[at] != (unsigned char)(seed + at * 31)) {
            return 0;
        }
    }
    return 1;
}

static void alloc_and_free(void)
{
    forebay_pool *pool = pool_of(NULL);
    size_t sizes[] = {1,         15,        16,      17,          4096,        32768,
                      32769,     65536,     MIB - 1, MIB,         2 * MIB + 1, 16 * MIB,
                      3 * MIB + 7};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    void *blocks[COUNT];
    uint64_t requested = 0;
    for (size_t at = 0; at < COUNT; at++) {
        blocks[at] = block_of(pool, sizes[at]);
        requested += sizes[at];
        CHECK_EQ((uintptr_t)blocks[at] % (sizes[at] > 32768 ? 512 : 16), 0);
        size_t usable = 0;
        CHECK_OK(forebay_usable_size(pool, blocks[at], &usable));
        CHECK(usable >= sizes[at]);
        // All of it, for usable bytes are the caller's.
        fill(blocks[at], usable, (unsigned)at);
    }
    CHECK_OK(forebay_pool_check(pool));
    CHECK_EQ(stats_of(pool).requested_bytes, requested);
    CHECK_EQ(stats_of(pool).live_blocks, COUNT);
    for (size_t at = 0; at < COUNT; at++) {
        CHECK(is_filled(blocks[at], sizes[at], (unsigned)at));
        CHECK_OK(forebay_free(pool, blocks[at], NULL));
    }
    forebay_pool_statistics before = stats_of(pool);
    CHECK_EQ(before.live_blocks, 0);
    CHECK_EQ(before.requested_bytes, 0);
    CHECK_EQ(before.allocated_bytes, 0);
    CHECK_OK(forebay_free(pool, NULL, NULL));
    CHECK_NOTHING_LOST(pool, &before);
    CHECK_OK(forebay_pool_destroy(pool));
}

static void aligned(void)
{
    forebay_pool *pool = pool_of(NULL);
    for (size_t alignment = 1; alignment <= 64 * MIB; alignment *= 2) {
        size_t sizes[] = {1, 100, 40000, 3 * MIB};
        void *blocks[4];
        for (size_t at = 0; at < 4; at++) {
            blocks[at] = NULL;
            CHECK_OK(forebay_alloc_aligned(pool, sizes[at], alignment, NULL, &blocks[at]));
            CHECK_EQ((uintptr_t)blocks[at] % alignment, 0);
            CHECK(blocks[at] != NULL);
            fill(blocks[at], sizes[at], (unsigned)at);
        }
        for (size_t at = 0; at < 4; at++) {
            CHECK(is_filled(blocks[at], sizes[at], (unsigned)at));
            CHECK_OK(forebay_free(pool, blocks[at], NULL));
        }
    }
    forebay_pool_statistics before = stats_of(pool);
    size_t bad[] = {0, 3, 24, 48, ALIGNMENT_LIMIT + 1, ALIGNMENT_LIMIT * 2, SIZE_MAX,
                    SIZE_MAX / 2 + 1};
    for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
        void *out = UNTOUCHED;
        CHECK_ERROR(forebay_alloc_aligned(pool, 64, bad[at], NULL, &out),
                    FOREBAY_ERROR_INVALID_ARGUMENT, "alignment is", dec(bad[at]),
                    dec(ALIGNMENT_LIMIT));
        CHECK(out == UNTOUCHED);
    }
    size_t sizes[] = {0, SIZE_LIMIT + 1, SIZE_MAX};
    for (size_t at = 0; at < sizeof sizes / sizeof sizes[0]; at++) {
        void *out = UNTOUCHED;
        CHECK_ERROR(forebay_alloc_aligned(pool, sizes[at], 64, NULL, &out),
                    FOREBAY_ERROR_INVALID_ARGUMENT, "size is", dec(sizes[at]));
        CHECK(out == UNTOUCHED);
    }
    CHECK_ERROR(forebay_alloc_aligned(pool, 64, 64, NULL, NULL), FOREBAY_ERROR_INVALID_ARGUMENT,
                "out is NULL");
    void *out = UNTOUCHED;
    CHECK_ERROR(forebay_alloc_aligned(NULL, 64, 64, NULL, &out), FOREBAY_ERROR_INVALID_ARGUMENT,
                "pool is NULL");
    CHECK(out == UNTOUCHED);
    CHECK_NOTHING_LOST(pool, &before);
    CHECK_OK(forebay_pool_destroy(pool));
}

// Under every flag that changes what a size becomes.
static void bad_sizes(void)
{
    uint64_t flags[] = {0, FOREBAY_POOL_GUARD_BYTES, FOREBAY_POOL_NO_FRONT_CACHE,
                        FOREBAY_POOL_ZERO_ON_ALLOC | FOREBAY_POOL_POISON_ON_FREE};
    for (size_t flag = 0; flag < sizeof flags / sizeof flags[0]; flag++) {
        forebay_pool_config config = FOREBAY_POOL_CONFIG_INIT;
        config.flags = flags[flag];
        config.max_bytes = 64 * MIB;
        // Twice the same: the second time with the largest rounding there is.
        for (config.block_size = 0; config.block_size <= ALIGNMENT_LIMIT;
             config.block_size += ALIGNMENT_LIMIT) {
            forebay_pool *pool = pool_of(&config);
            forebay_pool_statistics before = stats_of(pool);
            size_t bad[] = {0, SIZE_LIMIT + 1, SIZE_MAX / 2, SIZE_MAX - 1, SIZE_MAX};
            for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
                void *out = UNTOUCHED;
                CHECK_ERROR(forebay_alloc(pool, bad[at], NULL, &out),
                            FOREBAY_ERROR_INVALID_ARGUMENT, "size is", dec(bad[at]));
                CHECK(out == UNTOUCHED);
                if (bad[at] != 0) {
                    CHECK(strstr(forebay_last_error(), dec(SIZE_LIMIT)) != NULL);
                }
                CHECK_ERROR(forebay_realloc(pool, NULL, bad[at], NULL, &out),
                            FOREBAY_ERROR_INVALID_ARGUMENT, "size is", dec(bad[at]));
                CHECK(out == UNTOUCHED);
            }
            size_t large[] = {SIZE_LIMIT, SIZE_LIMIT - 1, 64 * MIB + 1, 2048 * MIB};
            for (size_t at = 0; at < sizeof large / sizeof large[0]; at++) {
                void *out = UNTOUCHED;
                CHECK_ERROR(forebay_alloc(pool, large[at], NULL, &out),
                            FOREBAY_ERROR_OUT_OF_MEMORY, dec(large[at]), "limit",
                            dec(64 * MIB));
                CHECK(out == UNTOUCHED);
            }
            CHECK_NOTHING_LOST(pool, &before);
            CHECK_OK(forebay_pool_destroy(pool));
        }
    }
}

static void null_arguments(void)
{
    forebay_pool *pool = small_pool(16 * MIB, 0);
    void *block = block_of(pool, 100);
    fill(block, 100, 1);
    forebay_pool_statistics before = stats_of(pool);
    void *out = UNTOUCHED;
    size_t number = 99;
    size_t one_size = 100;

    CHECK_ERROR(forebay_alloc(NULL, 1, NULL, &out), FOREBAY_ERROR_INVALID_ARGUMENT,
                "pool is NULL");
    CHECK_ERROR(forebay_alloc(pool, 1, NULL, NULL), FOREBAY_ERROR_INVALID_ARGUMENT,
                "out is NULL");
    CHECK_ERROR(forebay_free(NULL, block, NULL), FOREBAY_ERROR_INVALID_ARGUMENT, "pool is NULL");
    CHECK_ERROR(forebay_realloc(NULL, block, 1, NULL, &out), FOREBAY_ERROR_INVALID_ARGUMENT,
                "pool is NULL");
    CHECK_ERROR(forebay_realloc(pool, block, 1, NULL, NULL), FOREBAY_ERROR_INVALID_ARGUMENT,
                "out is NULL");
    CHECK_ERROR(forebay_alloc_batch(NULL, &one_size, 1, NULL, &out),
                FOREBAY_ERROR_INVALID_ARGUMENT, "pool is NULL");
    CHECK_ERROR(forebay_alloc_batch(pool, NULL, 3, NULL, &out), FOREBAY_ERROR_INVALID_ARGUMENT,
                "sizes is NULL", "3");
    CHECK_ERROR(forebay_alloc_batch(pool, &one_size, 1, NULL, NULL),
                FOREBAY_ERROR_INVALID_ARGUMENT, "out is NULL", "1");
    CHECK_OK(forebay_alloc_batch(pool, NULL, 0, NULL, NULL));
    CHECK_ERROR(forebay_free_batch(NULL, &block, 1, NULL, &number),
                FOREBAY_ERROR_INVALID_ARGUMENT, "pool is NULL");
    CHECK_ERROR(forebay_free_batch(pool, NULL, 5, NULL, &number), FOREBAY_ERROR_INVALID_ARGUMENT,
                "ptrs is NULL", "5");
    CHECK_EQ(number, 99);
    CHECK_OK(forebay_free_batch(pool, NULL, 0, NULL, NULL));
    CHECK_ERROR(forebay_usable_size(NULL, block, &number), FOREBAY_ERROR_INVALID_ARGUMENT,
                "pool is NULL");
    CHECK_ERROR(forebay_usable_size(pool, block, NULL), FOREBAY_ERROR_INVALID_ARGUMENT,
                "out is NULL");
    CHECK_ERROR(forebay_usable_size(pool, NULL, &number), FOREBAY_ERROR_INVALID_POINTER,
                "ptr 0x0");
    CHECK_ERROR(forebay_pool_owns(NULL, block, &out, &number), FOREBAY_ERROR_INVALID_ARGUMENT,
                "pool is NULL");
    CHECK_ERROR(forebay_record_stream(NULL, block, NULL), FOREBAY_ERROR_INVALID_ARGUMENT,
                "pool is NULL");
    CHECK_ERROR(forebay_record_stream(pool, NULL, NULL), FOREBAY_ERROR_INVALID_POINTER,
                "ptr 0x0");
    CHECK(out == UNTOUCHED);
    CHECK_EQ(number, 99);
    CHECK(is_filled(block, 100, 1));
    CHECK_NOTHING_LOST(pool, &before);
    CHECK_OK(forebay_free(pool, block, NULL));
    CHECK_OK(forebay_pool_destroy(pool));
}

// Everything that takes a block refuses `ptr`, and nothing changes but the counter.
static void refused(forebay_pool *pool, void *ptr, const char *why)
{
    forebay_pool_statistics before = stats_of(pool);
    void *out = UNTOUCHED;
    size_t number = 99;
    CHECK_ERROR(forebay_free(pool, ptr, NULL), FOREBAY_ERROR_INVALID_POINTER, "ptr", hex(ptr),
                why);
    CHECK_EQ(stats_of(pool).invalid_frees, before.invalid_frees + 1);
    CHECK_ERROR(forebay_free_batch(pool, &ptr, 1, NULL, &number), FOREBAY_ERROR_INVALID_POINTER,
                "ptrs[0]", hex(ptr), why);
    CHECK_EQ(number, 0);
    CHECK_EQ(stats_of(pool).invalid_frees, before.invalid_frees + 2);
    number = 99;
    CHECK_ERROR(forebay_realloc(pool, ptr, 64, NULL, &out), FOREBAY_ERROR_INVALID_POINTER, "ptr",
                hex(ptr), why);
    CHECK_ERROR(forebay_usable_size(pool, ptr, &number), FOREBAY_ERROR_INVALID_POINTER, "ptr",
                hex(ptr), why);
    CHECK_ERROR(forebay_record_stream(pool, ptr, NULL), FOREBAY_ERROR_INVALID_POINTER, "ptr",
                hex(ptr), why);
    CHECK(out == UNTOUCHED);
    CHECK_EQ(number, 99);
    CHECK_NOTHING_LOST(pool, &before);
}

static void bad_pointers(uint64_t flags)
{
    forebay_pool *pool = small_pool(64 * MIB, flags);
    forebay_pool *other = small_pool(64 * MIB, flags);
    forebay_pool *gone = small_pool(64 * MIB, flags);
    size_t sizes[] = {16, 100, 4096, 32768, 40000, MIB, 5 * MIB};
    for (size_t at = 0; at < sizeof sizes / sizeof sizes[0]; at++) {
        size_t size = sizes[at];
        char *block = block_of(pool, size);
        char *neighbour = block_of(pool, size);
        fill(neighbour, size, 3);

        // Inside: next to the start, a multiple of 16 away, at the end.
        size_t inside[] = {1, 8, size / 2, size - 1};
        for (size_t place = 0; place < sizeof inside / sizeof inside[0]; place++) {
            refused(pool, block + inside[place], "inside");
        }
        // Of another pool, and of none: on the stack, of malloc, before the first page.
        char *theirs = block_of(other, size);
        refused(pool, theirs, "belongs to pool");
        char *mallocs = malloc(size);
        refused(pool, mallocs, "not belong");
        free(mallocs);
        refused(pool, &size, "not belong");
        refused(pool, (void *)(uintptr_t)16, "not belong");
        refused(pool, (void *)UINTPTR_MAX, "not belong");
        CHECK_OK(forebay_free(other, theirs, NULL));

        // Of a pool that is no more.
        if (at == 0) {
            char *lost = block_of(gone, size);
            CHECK_ERROR(forebay_pool_destroy(gone), FOREBAY_ERROR_INVALID_STATE, "1 live block");
            refused(pool, lost, "not belong");
        }

        // Twice; and it is not given out twice afterwards.
        CHECK_OK(forebay_free(pool, block, NULL));
        refused(pool, block, "");
        CHECK(strstr(forebay_last_error(), "freed before") != NULL ||
              strstr(forebay_last_error(), "no live block") != NULL);
        char *first = block_of(pool, size);
        char *second = block_of(pool, size);
        CHECK(first != second);
        CHECK(first != neighbour && second != neighbour);
        CHECK_OK(forebay_free(pool, first, NULL));
        CHECK_OK(forebay_free(pool, second, NULL));
        CHECK(is_filled(neighbour, size, 3));

        // Twice, with all that is idle gone in between.
        CHECK_OK(forebay_free(pool, neighbour, NULL));
        CHECK_OK(forebay_pool_trim(pool, 0, NULL));
        refused(pool, neighbour, "");
    }
    CHECK_EQ(stats_of(pool).live_blocks, 0);
    CHECK_OK(forebay_pool_destroy(pool));
    CHECK_OK(forebay_pool_destroy(other));
}

static void bad_streams(void)
{
    forebay_pool *pool = small_pool(16 * MIB, 0);
    void *block = block_of(pool, 1000);
    fill(block, 1000, 5);
    forebay_stream gone = NULL;
    CHECK_OK(forebay_stream_create(&gone));
    CHECK_OK(forebay_stream_destroy(gone));
    forebay_stream bad[] = {gone, (forebay_stream)(uintptr_t)7, (forebay_stream)UINTPTR_MAX};
    forebay_pool_statistics before = stats_of(pool);
    for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
        void *out = UNTOUCHED;
        size_t size = 1000;
        size_t freed = 99;
        const char *number = hex(bad[at]);
        CHECK_ERROR(forebay_alloc(pool, size, bad[at], &out), FOREBAY_ERROR_INVALID_ARGUMENT,
                    "stream", number);
        CHECK_ERROR(forebay_alloc_aligned(pool, size, 64, bad[at], &out),
                    FOREBAY_ERROR_INVALID_ARGUMENT, "stream", number);
        CHECK_ERROR(forebay_alloc_batch(pool, &size, 1, bad[at], &out),
                    FOREBAY_ERROR_INVALID_ARGUMENT, "stream", number, "sizes[0]");
        CHECK_ERROR(forebay_realloc(pool, block, 4 * MIB, bad[at], &out),
                    FOREBAY_ERROR_INVALID_ARGUMENT, "stream", number);
        CHECK_ERROR(forebay_realloc(pool, block, 999, bad[at], &out),
                    FOREBAY_ERROR_INVALID_ARGUMENT, "stream", number);
        CHECK_ERROR(forebay_free(pool, block, bad[at]), FOREBAY_ERROR_INVALID_ARGUMENT, "stream",
                    number);
        CHECK_ERROR(forebay_free_batch(pool, &block, 1, bad[at], &freed),
                    FOREBAY_ERROR_INVALID_ARGUMENT, "stream", number, "ptrs[0]");
        CHECK_EQ(freed, 0);
        CHECK_ERROR(forebay_record_stream(pool, block, bad[at]), FOREBAY_ERROR_INVALID_ARGUMENT,
                    "stream", number);
        CHECK(out == UNTOUCHED);
    }
    CHECK_NOTHING_LOST(pool, &before);
    CHECK(is_filled(block, 1000, 5));
    CHECK_OK(forebay_free(pool, block, NULL));
    CHECK_OK(forebay_pool_destroy(pool));
}

static void reallocs(uint64_t flags)
{
    forebay_pool *pool = small_pool(256 * MIB, flags);
    size_t sizes[] = {1, 10, 11, 5000, 5001, 40000, 100, 3 * MIB, 9 * MIB, 2 * MIB, 70000, 16};
    void *block = NULL;
    size_t old = 0;
    for (size_t at = 0; at < sizeof sizes / sizeof sizes[0]; at++) {
        void *next = UNTOUCHED;
        size_t size = sizes[at];
        if (!CHECK_OK(forebay_realloc(pool, block, size, NULL, &next))) {
            break;
        }
        CHECK(next != UNTOUCHED && next != NULL);
        CHECK(is_filled(next, old < size ? old : size, 9));
        fill(next, size, 9);
        block = next;
        old = size;
        CHECK_EQ(stats_of(pool).live_blocks, 1);
        CHECK_EQ(stats_of(pool).requested_bytes, size);
        CHECK_OK(forebay_pool_check(pool));
    }
    forebay_pool_statistics before = stats_of(pool);
    size_t bad[] = {0, SIZE_LIMIT + 1, SIZE_MAX};
    for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
        void *out = UNTOUCHED;
        CHECK_ERROR(forebay_realloc(pool, block, bad[at], NULL, &out),
                    FOREBAY_ERROR_INVALID_ARGUMENT, "size is", dec(bad[at]));
        CHECK(out == UNTOUCHED);
    }
    void *out = UNTOUCHED;
    CHECK_ERROR(forebay_realloc(pool, block, 512 * MIB, NULL, &out), FOREBAY_ERROR_OUT_OF_MEMORY,
                dec(512 * MIB), "limit", dec(256 * MIB));
    CHECK(out == UNTOUCHED);
    CHECK(is_filled(block, old, 9));
    CHECK_NOTHING_LOST(pool, &before);
    CHECK_OK(forebay_free(pool, block, NULL));
    CHECK_OK(forebay_pool_destroy(pool));
}

static void batches(void)
{
    enum { COUNT = 100 };
    forebay_pool *pool = small_pool(64 * MIB, 0);
    size_t sizes[COUNT];
    void *blocks[COUNT];
    for (size_t at = 0; at < COUNT; at++) {
        sizes[at] = 1 + at * 397;
        blocks[at] = UNTOUCHED;
    }
    CHECK_OK(forebay_alloc_batch(pool, sizes, COUNT, NULL, blocks));
    for (size_t at = 0; at < COUNT; at++) {
        fill(blocks[at], sizes[at], (unsigned)at);
    }
    CHECK_EQ(stats_of(pool).live_blocks, COUNT);
    for (size_t at = 0; at < COUNT; at++) {
        CHECK(is_filled(blocks[at], sizes[at], (unsigned)at));
    }
    size_t freed = 99;
    void *second = blocks[1];
    blocks[1] = NULL;
    CHECK_OK(forebay_free_batch(pool, blocks, COUNT, NULL, &freed));
    CHECK_EQ(freed, COUNT);
    CHECK_EQ(stats_of(pool).live_blocks, 1);
    CHECK_OK(forebay_free(pool, second, NULL));

    // All or nothing: a bad size, and one that is too large, in the middle.
    size_t wrong[] = {0, SIZE_MAX, 65 * MIB};
    forebay_status expected[] = {FOREBAY_ERROR_INVALID_ARGUMENT, FOREBAY_ERROR_INVALID_ARGUMENT,
                                 FOREBAY_ERROR_OUT_OF_MEMORY};
    for (size_t at = 0; at < 3; at++) {
        forebay_pool_statistics before = stats_of(pool);
        for (size_t place = 0; place < COUNT; place++) {
            blocks[place] = UNTOUCHED;
        }
        size_t right = sizes[42];
        sizes[42] = wrong[at];
        CHECK_ERROR(forebay_alloc_batch(pool, sizes, COUNT, NULL, blocks), expected[at],
                    "sizes[42]", dec(wrong[at]));
        sizes[42] = right;
        for (size_t place = 0; place < COUNT; place++) {
            CHECK(blocks[place] == UNTOUCHED);
        }
        // Those before it were taken and given back, so the totals have moved.
        forebay_pool_statistics now = stats_of(pool);
        CHECK_EQ(now.live_blocks, before.live_blocks);
        CHECK_EQ(now.requested_bytes, before.requested_bytes);
        CHECK_EQ(now.allocated_bytes, before.allocated_bytes);
        CHECK_EQ(now.allocations - before.allocations, now.frees - before.frees);
        CHECK_OK(forebay_pool_check(pool));
    }

    // A batch larger than memory, which no array can be.
    size_t size = 16;
    void *out = UNTOUCHED;
    forebay_pool_statistics before = stats_of(pool);
    size_t counts[] = {SIZE_MAX, SIZE_MAX / 8, SIZE_MAX / 16 + 1};
    for (size_t at = 0; at < sizeof counts / sizeof counts[0]; at++) {
        freed = 99;
        CHECK_ERROR(forebay_alloc_batch(pool, &size, counts[at], NULL, &out),
                    FOREBAY_ERROR_INVALID_ARGUMENT, "count is", dec(counts[at]));
        CHECK_ERROR(forebay_free_batch(pool, &out, counts[at], NULL, &freed),
                    FOREBAY_ERROR_INVALID_ARGUMENT, "count is", dec(counts[at]));
        CHECK(out == UNTOUCHED);
        CHECK_EQ(freed, 99);
    }
    CHECK_NOTHING_LOST(pool, &before);

    // Stops at the first that cannot be freed; the rest lives.
    CHECK_OK(forebay_alloc_batch(pool, sizes, COUNT, NULL, blocks));
    void *right = blocks[10];
    blocks[10] = UNTOUCHED;
    CHECK_ERROR(forebay_free_batch(pool, blocks, COUNT, NULL, &freed),
                FOREBAY_ERROR_INVALID_POINTER, "ptrs[10]", hex(UNTOUCHED));
    CHECK_EQ(freed, 10);
    CHECK_EQ(stats_of(pool).live_blocks, COUNT - 10);
    blocks[10] = right;
    CHECK_OK(forebay_free_batch(pool, blocks + 10, COUNT - 10, NULL, NULL));
    CHECK_EQ(stats_of(pool).live_blocks, 0);
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_pool_destroy(pool));
}

static void owners(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    size_t sizes[] = {1, 100, 4096, 40000, 3 * MIB};
    for (size_t at = 0; at < sizeof sizes / sizeof sizes[0]; at++) {
        char *block = block_of(pool, sizes[at]);
        size_t usable = 0;
        CHECK_OK(forebay_usable_size(pool, block, &usable));
        size_t offsets[] = {0, sizes[at] / 2, usable - 1};
        for (size_t place = 0; place < 3; place++) {
            void *found = UNTOUCHED;
            size_t size = 99;
            CHECK_OK(forebay_pool_owns(pool, block + offsets[place], &found, &size));
            CHECK(found == block);
            CHECK_EQ(size, usable);
            CHECK_OK(forebay_pool_owns(pool, block + offsets[place], NULL, NULL));
        }
        CHECK_OK(forebay_free(pool, block, NULL));
        void *none[] = {block, block + sizes[at] / 2, NULL, &usable, (void *)UINTPTR_MAX};
        for (size_t place = 0; place < sizeof none / sizeof none[0]; place++) {
            void *found = UNTOUCHED;
            size_t size = 99;
            CHECK_OK(forebay_pool_owns(pool, none[place], &found, &size));
            CHECK(found == NULL);
            CHECK_EQ(size, 0);
        }
    }
    CHECK_OK(forebay_pool_destroy(pool));
}

static void contents(void)
{
    uint64_t flags[] = {FOREBAY_POOL_ZERO_ON_ALLOC,
                        FOREBAY_POOL_ZERO_ON_ALLOC | FOREBAY_POOL_POISON_ON_FREE};
    for (size_t flag = 0; flag < 2; flag++) {
        forebay_pool *pool = small_pool(64 * MIB, flags[flag]);
        size_t sizes[] = {1, 100, 5000, 40000, 3 * MIB};
        for (size_t at = 0; at < sizeof sizes / sizeof sizes[0]; at++) {
            for (int round = 0; round < 3; round++) {
                unsigned char *block = block_of(pool, sizes[at]);
                size_t other = 0;
                for (size_t byte = 0; byte < sizes[at]; byte++) {
                    other += block[byte] != 0;
                }
                CHECK_EQ(other, 0);
                memset(block, 0xA5, sizes[at]);
                CHECK_OK(forebay_free(pool, block, NULL));
            }
        }
        CHECK_OK(forebay_pool_destroy(pool));
    }
    // A freed block of a slab keeps its page, so its bytes can be looked at.
    forebay_pool *pool = small_pool(64 * MIB, FOREBAY_POOL_POISON_ON_FREE);
    void *neighbour = block_of(pool, 64);
    volatile unsigned char *block = block_of(pool, 64);
    memset((void *)(uintptr_t)block, 1, 64);
    CHECK_OK(forebay_free(pool, (void *)(uintptr_t)block, NULL));
    for (size_t at = 0; at < 64; at++) {
        CHECK_EQ(block[at], 0xDF);
    }
    CHECK_OK(forebay_free(pool, neighbour, NULL));
    CHECK_OK(forebay_pool_destroy(pool));
}

// One byte behind a block: found by the check, by free, and by realloc.
static void guard_bytes(void)
{
    size_t sizes[] = {1, 24, 100, 4096, 40000, 3 * MIB};
    for (size_t at = 0; at < sizeof sizes / sizeof sizes[0]; at++) {
        forebay_pool *pool = small_pool(64 * MIB, FOREBAY_POOL_GUARD_BYTES);
        size_t size = sizes[at];
        unsigned char *block = block_of(pool, size);
        fill(block, size, 4);
        CHECK_OK(forebay_pool_check(pool));
        unsigned char kept = block[size];
        block[size] ^= 0xFF;
        CHECK_ERROR(forebay_pool_check(pool), FOREBAY_ERROR_CORRUPTION, hex(block), dec(size),
                    "bytes behind");
        // The bytes may not be trusted, so they are not copied: the block stays what it was.
        void *out = UNTOUCHED;
        forebay_pool_statistics before = stats_of(pool);
        CHECK_ERROR(forebay_realloc(pool, block, size * 2, NULL, &out),
                    FOREBAY_ERROR_CORRUPTION, hex(block), dec(size));
        CHECK(out == UNTOUCHED);
        block[size] = kept;
        CHECK_NOTHING_LOST(pool, &before);
        CHECK(is_filled(block, size, 4));

        block[size + 15] ^= 1;
        CHECK_ERROR(forebay_free(pool, block, NULL), FOREBAY_ERROR_CORRUPTION, hex(block),
                    dec(size), dec(size + 15));
        // It is freed all the same.
        CHECK_EQ(stats_of(pool).live_blocks, 0);
        CHECK_OK(forebay_pool_check(pool));
        CHECK_ERROR(forebay_free(pool, block, NULL), FOREBAY_ERROR_INVALID_POINTER, hex(block));
        CHECK_OK(forebay_pool_destroy(pool));
    }
}

static void wait_for_flag(void *user)
{
    while (__atomic_load_n((int *)user, __ATOMIC_ACQUIRE) == 0) {
        nanosleep(&(struct timespec){0, 200000}, NULL);
    }
}

// A block that other streams use is not given out before they are done with it.
static void record_stream(void)
{
    forebay_pool *pool = small_pool(4 * MIB, 0);
    forebay_stream a = NULL, b = NULL;
    CHECK_OK(forebay_stream_create(&a));
    CHECK_OK(forebay_stream_create(&b));
    void *block = NULL;
    CHECK_OK(forebay_alloc(pool, 3 * MIB, a, &block));
    int done = 0;
    CHECK_OK(forebay_stream_submit(b, wait_for_flag, &done));
    CHECK_OK(forebay_record_stream(pool, block, b));
    // Twice is fine.
    CHECK_OK(forebay_record_stream(pool, block, b));
    CHECK_OK(forebay_record_stream(pool, block, NULL));
    CHECK_EQ(stats_of(pool).live_blocks, 1);
    CHECK_OK(forebay_free(pool, block, a));
    CHECK_EQ(stats_of(pool).live_blocks, 0);
    // There is room for a small block beside it, and that is what a gets now.
    void *small = NULL;
    CHECK_OK(forebay_alloc(pool, 512 << 10, a, &small));
    CHECK((char *)small + (512 << 10) <= (char *)block || (char *)small >= (char *)block + 3 * MIB);
    __atomic_store_n(&done, 1, __ATOMIC_RELEASE);
    CHECK_OK(forebay_stream_synchronize(b));
    void *again = NULL;
    CHECK_OK(forebay_alloc(pool, 3 * MIB, a, &again));
    CHECK_OK(forebay_free(pool, again, a));
    CHECK_OK(forebay_free(pool, small, a));
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_stream_destroy(a));
    CHECK_OK(forebay_stream_destroy(b));
    CHECK_OK(forebay_pool_destroy(pool));
}

// A limit of 16 MiB: what does not fit is a status, and what is freed can be had again.
static void out_of_memory(uint64_t flags)
{
    forebay_pool *pool = small_pool(16 * MIB, flags);
    size_t sizes[] = {64, 1000, 20000, 40000, MIB, 7 * MIB};
    for (size_t at = rounds(0, 2); at < sizeof sizes / sizeof sizes[0]; at++) {
        size_t size = sizes[at];
        size_t most = 17 * MIB / size + 1;
        void **blocks = calloc(most, sizeof *blocks);
        size_t count = 0;
        forebay_status status = FOREBAY_OK;
        while (count < most) {
            void *out = UNTOUCHED;
            status = forebay_alloc(pool, size, NULL, &out);
            if (status != FOREBAY_OK) {
                CHECK(out == UNTOUCHED);
                break;
            }
            blocks[count++] = out;
        }
        CHECK_EQ(status, FOREBAY_ERROR_OUT_OF_MEMORY);
        CHECK(count > 0 && count < most);
        const char *message = forebay_last_error();
        CHECK(strstr(message, dec(size)) != NULL);
        CHECK(strstr(message, "limit 16777216") != NULL);
        CHECK(strstr(message, "live") != NULL && strstr(message, "reserved") != NULL);
        CHECK(strstr(message, "largest free run") != NULL);
        CHECK(strstr(message, "largest live sizes") != NULL);
        forebay_pool_statistics before = stats_of(pool);
        CHECK_EQ(before.live_blocks, count);
        CHECK_EQ(before.requested_bytes, count * size);
        CHECK(before.reserved_bytes <= 16 * MIB);
        void *out = UNTOUCHED;
        CHECK_ERROR(forebay_alloc(pool, size, NULL, &out), FOREBAY_ERROR_OUT_OF_MEMORY, "limit");
        CHECK(out == UNTOUCHED);
        CHECK_EQ(stats_of(pool).failed, before.failed + 1);
        CHECK_NOTHING_LOST(pool, &before);

        // One free makes room for one, and for no more than that.
        CHECK_OK(forebay_free(pool, blocks[count / 2], NULL));
        blocks[count / 2] = block_of(pool, size);
        CHECK_EQ(stats_of(pool).live_blocks, count);
        CHECK_OK(forebay_free_batch(pool, blocks, count, NULL, NULL));
        CHECK_EQ(stats_of(pool).live_blocks, 0);
        CHECK_OK(forebay_pool_check(pool));
        free(blocks);
    }
    CHECK_OK(forebay_pool_destroy(pool));
}

// What a miss was called with, and what it returns.
static size_t missed_size;
static void *missed_ptr;
static int32_t missed_busy;
static int misses;

static void *on_alloc_miss(size_t size, int32_t busy)
{
    missed_size = size;
    missed_busy = busy;
    misses++;
    return UNTOUCHED;
}

static int32_t on_free_miss(void *ptr, int32_t busy)
{
    missed_ptr = ptr;
    missed_busy = busy;
    misses++;
    return FOREBAY_ERROR_IO;
}

static void *free_elsewhere(void *given)
{
    void **both = given;
    // A thread with nothing at hand yet, and then one that has.
    CHECK_EQ(forebay_free_at_hand(both[0], both[1], NULL), FOREBAY_ERROR_BUSY);
    void *own = block_of(both[0], 64 << 10);
    CHECK_OK(forebay_free(both[0], own, NULL));
    CHECK_EQ(forebay_free_at_hand(both[0], both[1], NULL), FOREBAY_ERROR_BUSY);
    CHECK_OK(forebay_free(both[0], both[1], NULL));
    return NULL;
}

static void at_hand(uint64_t flags)
{
    forebay_pool_config config = FOREBAY_POOL_CONFIG_INIT;
    config.flags = flags;
    forebay_pool *pool = pool_of(&config);
    int hits = flags == 0;
    size_t sizes[] = {1, 4096, 32768, 32769, 64 << 10, 200000, MIB, 5 * MIB};
    for (size_t at = 0; at < sizeof sizes / sizeof sizes[0]; at++) {
        // Nothing is at hand before anything was freed.
        misses = 0;
        CHECK(forebay_alloc_at_hand(pool, sizes[at], NULL) == NULL || sizes[at] <= 32768);
        CHECK_OK(forebay_free(pool, block_of(pool, sizes[at]), NULL));
        forebay_pool_statistics before = stats_of(pool);
        void *block = forebay_alloc_at_hand(pool, sizes[at], on_alloc_miss);
        if (!hits) {
            CHECK(block == UNTOUCHED);
            CHECK_EQ(missed_size, sizes[at]);
            CHECK_EQ(missed_busy, 0);
            CHECK_EQ(misses, 1);
            CHECK(forebay_alloc_at_hand(pool, sizes[at], NULL) == NULL);
            block = block_of(pool, sizes[at]);
        }
        fill(block, sizes[at], (unsigned)at);
        forebay_pool_statistics during = stats_of(pool);
        CHECK_EQ(during.allocations, before.allocations + 1);
        CHECK_EQ(during.requested_bytes, before.requested_bytes + sizes[at]);
        CHECK_EQ(during.live_blocks, before.live_blocks + 1);
        CHECK(is_filled(block, sizes[at], (unsigned)at));
        if (hits) {
            CHECK_OK(forebay_free_at_hand(pool, block, on_free_miss));
            CHECK_EQ(misses, 0);
        } else {
            CHECK_EQ(forebay_free_at_hand(pool, block, on_free_miss), FOREBAY_ERROR_IO);
            CHECK(missed_ptr == block && missed_busy == 0 && misses == 2);
            CHECK_EQ(forebay_free_at_hand(pool, block, NULL), FOREBAY_ERROR_BUSY);
            CHECK_OK(forebay_free(pool, block, NULL));
        }
        CHECK_EQ(stats_of(pool).frees, before.frees + 1);
        CHECK_EQ(stats_of(pool).live_blocks, before.live_blocks);
        // What is freed twice, and what is no block, is for forebay_free to refuse.
        void *bad[] = {block, (char *)block + 1, NULL, &config};
        for (size_t one = 0; one < 4; one++) {
            misses = 0;
            CHECK_EQ(forebay_free_at_hand(pool, bad[one], on_free_miss), FOREBAY_ERROR_IO);
            CHECK(missed_ptr == bad[one] && misses == 1);
        }
        CHECK_EQ(stats_of(pool).frees, before.frees + 1);
    }
    size_t none[] = {0, SIZE_MAX, SIZE_MAX - 511, SIZE_LIMIT, SIZE_LIMIT + 1};
    for (size_t at = 0; at < sizeof none / sizeof none[0]; at++) {
        CHECK(forebay_alloc_at_hand(pool, none[at], on_alloc_miss) == UNTOUCHED);
        CHECK_EQ(missed_size, none[at]);
        CHECK(forebay_alloc_at_hand(pool, none[at], NULL) == NULL);
    }
    CHECK(forebay_alloc_at_hand(NULL, 100, on_alloc_miss) == UNTOUCHED);
    CHECK_EQ(forebay_free_at_hand(NULL, NULL, on_free_miss), FOREBAY_ERROR_IO);

    // Another thread's block; from then on those of this one are compared and swapped.
    void *both[] = {pool, block_of(pool, 64 << 10)};
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, free_elsewhere, both), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    void *block = block_of(pool, 64 << 10);
    CHECK_EQ(forebay_free_at_hand(pool, block, NULL), hits ? FOREBAY_OK : FOREBAY_ERROR_BUSY);
    CHECK_EQ(forebay_free_at_hand(pool, block, NULL), FOREBAY_ERROR_BUSY);
    if (!hits) {
        CHECK_OK(forebay_free(pool, block, NULL));
    }
    // More than a front cache holds is never at hand.
    block = block_of(pool, 100 * MIB);
    CHECK_EQ(forebay_free_at_hand(pool, block, NULL), FOREBAY_ERROR_BUSY);
    CHECK_OK(forebay_free(pool, block, NULL));
    CHECK_EQ(stats_of(pool).live_blocks, 0);
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_pool_destroy(pool));
}

int main(void)
{
    time_limit(300);
    alloc_and_free();
    at_hand(0);
    at_hand(FOREBAY_POOL_NO_FRONT_CACHE);
    at_hand(FOREBAY_POOL_POISON_ON_FREE);
    aligned();
    bad_sizes();
    null_arguments();
    bad_pointers(0);
    bad_pointers(FOREBAY_POOL_NO_FRONT_CACHE);
    bad_pointers(FOREBAY_POOL_GUARD_BYTES | FOREBAY_POOL_POISON_ON_FREE);
    bad_streams();
    reallocs(0);
    reallocs(FOREBAY_POOL_GUARD_BYTES | FOREBAY_POOL_POISON_ON_FREE);
    batches();
    owners();
    contents();
    guard_bytes();
    record_stream();
    out_of_memory(0);
    out_of_memory(FOREBAY_POOL_NO_FRONT_CACHE);
    return check_end("block");
}
