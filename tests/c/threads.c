// Four threads on one pool: blocks of random sizes go from hand to hand and are freed by
// whoever has them last. Every block carries a pattern, so that two owners of one byte show.

#include "check.h"

#include <pthread.h>

enum { THREADS = 4, HELD = 64, PLACES = 256 };

struct block {
    unsigned char *bytes;
    size_t size;
    unsigned char seed;
};

// Where threads leave blocks for each other.
static struct block places[PLACES];
static pthread_mutex_t places_lock = PTHREAD_MUTEX_INITIALIZER;

static forebay_pool *pool;
static uint64_t all_allocations;
static uint64_t all_frees;

// xorshift64*: the same sequence on every machine.
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

static size_t random_size(uint64_t *state)
{
    uint64_t number = next_random(state);
    switch (number % 16) {
    case 0:
        return 1 + (number >> 8) % (1 << 20);
    case 1:
    case 2:
        return 1 + (number >> 8) % (128 << 10);
    default:
        return 1 + (number >> 8) % 2048;
    }
}

// Large blocks are written at both ends only.
static size_t ends(size_t size)
{
    return size < 4096 ? size : 1024;
}

static void write_pattern(const struct block *block)
{
    memset(block->bytes, block->seed, ends(block->size));
    memset(block->bytes + block->size - ends(block->size), block->seed, ends(block->size));
}

static size_t count_other(const unsigned char *bytes, size_t size, unsigned char value)
{
    size_t other = 0;
    for (size_t at = 0; at < size; at++) {
        other += bytes[at] != value;
    }
    return other;
}

static void check_pattern(const struct block *block)
{
    size_t length = ends(block->size);
    CHECK_EQ(count_other(block->bytes, length, block->seed), 0);
    CHECK_EQ(count_other(block->bytes + block->size - length, length, block->seed), 0);
}

static void give_back(struct block *block)
{
    if (block->bytes == NULL) {
        return;
    }
    check_pattern(block);
    CHECK_OK(forebay_free(pool, block->bytes, NULL));
    __atomic_fetch_add(&all_frees, 1, __ATOMIC_RELAXED);
    block->bytes = NULL;
}

// Swaps a block with one that another thread left.
static void swap(struct block *block, size_t place)
{
    pthread_mutex_lock(&places_lock);
    struct block other = places[place];
    places[place] = *block;
    pthread_mutex_unlock(&places_lock);
    *block = other;
}

static void *work(void *user)
{
    uint64_t state = 0x9E3779B97F4A7C15u * (1 + *(unsigned *)user);
    struct block held[HELD] = {{NULL, 0, 0}};
    for (unsigned round = rounds(100000, 1500); round > 0; round--) {
        uint64_t number = next_random(&state);
        struct block *block = &held[number % HELD];
        switch ((number >> 8) % 8) {
        case 0:
        case 1:
            swap(block, (number >> 16) % PLACES);
            break;
        case 2:
            if (block->bytes != NULL) {
                // Contents go along: as many as both sizes have.
                size_t size = 1 + (number >> 16) % 8192;
                void *moved = NULL;
                check_pattern(block);
                if (CHECK_OK(forebay_realloc(pool, block->bytes, size, NULL, &moved))) {
                    size_t kept = ends(size < block->size ? size : block->size);
                    kept = kept < ends(block->size) ? kept : ends(block->size);
                    CHECK_EQ(count_other(moved, kept, block->seed), 0);
                    block->bytes = moved;
                    block->size = size;
                    write_pattern(block);
                }
            }
            break;
        default:
            give_back(block);
            block->size = random_size(&state);
            block->seed = (unsigned char)(number >> 40);
            void *bytes = NULL;
            if (CHECK_OK(forebay_alloc(pool, block->size, NULL, &bytes))) {
                block->bytes = bytes;
                write_pattern(block);
                __atomic_fetch_add(&all_allocations, 1, __ATOMIC_RELAXED);
            }
        }
        if (round % 5000 == 0) {
            CHECK_OK(forebay_pool_check(pool));
        }
        if (round % 7000 == 0) {
            CHECK_OK(forebay_pool_trim(pool, 0, NULL));
        }
    }
    for (size_t at = 0; at < HELD; at++) {
        give_back(&held[at]);
    }
    return NULL;
}

static void together(uint64_t flags)
{
    forebay_pool_config config = FOREBAY_POOL_CONFIG_INIT;
    config.flags = flags;
    pool = pool_of(&config);
    all_allocations = 0;
    all_frees = 0;
    pthread_t threads[THREADS];
    unsigned numbers[THREADS];
    for (unsigned at = 0; at < THREADS; at++) {
        numbers[at] = at;
        CHECK_EQ(pthread_create(&threads[at], NULL, work, &numbers[at]), 0);
    }
    for (unsigned at = 0; at < THREADS; at++) {
        CHECK_EQ(pthread_join(threads[at], NULL), 0);
    }
    CHECK_OK(forebay_pool_check(pool));
    uint64_t left = 0;
    for (size_t at = 0; at < PLACES; at++) {
        left += places[at].bytes != NULL;
    }
    CHECK_EQ(stats_of(pool).live_blocks, left);
    CHECK(left > 0);
    for (size_t at = 0; at < PLACES; at++) {
        give_back(&places[at]);
    }
    forebay_pool_statistics stats = stats_of(pool);
    CHECK_EQ(stats.live_blocks, 0);
    CHECK_EQ(stats.requested_bytes, 0);
    CHECK_EQ(stats.allocated_bytes, 0);
    CHECK_EQ(stats.allocations, stats.frees);
    // A realloc that moves is an allocation and a free of its own.
    CHECK_EQ(stats.allocations - all_allocations, stats.frees - all_frees);
    CHECK(stats.allocations >= all_allocations);
    CHECK_EQ(stats.hits + stats.misses, stats.allocations);
    CHECK_EQ(stats.failed, 0);
    CHECK_EQ(stats.invalid_frees, 0);
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_pool_trim(pool, 0, NULL));
    CHECK_EQ(stats_of(pool).reserved_bytes, 0);
    CHECK_OK(forebay_pool_destroy(pool));
}

// Many threads, one after the other: what they kept for themselves is not lost with them.
static void *short_life(void *unused)
{
    (void)unused;
    void *blocks[32];
    for (size_t at = 0; at < 32; at++) {
        blocks[at] = block_of(pool, 1 + at * 500);
    }
    CHECK_OK(forebay_free_batch(pool, blocks, 32, NULL, NULL));
    return NULL;
}

static void one_after_the_other(void)
{
    pool = pool_of(NULL);
    uint64_t reserved = 0;
    for (unsigned round = 0; round < rounds(500, 50); round++) {
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, short_life, NULL), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        if (round == 10) {
            reserved = stats_of(pool).reserved_bytes;
        }
    }
    CHECK_EQ(stats_of(pool).reserved_bytes, reserved);
    CHECK_EQ(stats_of(pool).live_blocks, 0);
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_pool_destroy(pool));
}

int main(void)
{
    time_limit(300);
    together(0);
    together(FOREBAY_POOL_NO_FRONT_CACHE | FOREBAY_POOL_GUARD_BYTES | FOREBAY_POOL_POISON_ON_FREE);
    one_after_the_other();
    return check_end("threads");
}
