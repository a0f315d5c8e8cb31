// Prefetchers: batches of memory and of files, slots that are lent, who may have what when, and
// every bad input.

#include "check.h"

#include <time.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

static const forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;
static const forebay_status state = FOREBAY_ERROR_INVALID_STATE;

static forebay_prefetcher *prefetcher_of(forebay_pool *pool, uint32_t slots)
{
    forebay_prefetcher_config config = FOREBAY_PREFETCHER_CONFIG_INIT;
    config.slots = slots;
    forebay_prefetcher *prefetcher = NULL;
    if (!CHECK_OK(forebay_prefetcher_create(pool, &config, &prefetcher))) {
        exit(1);
    }
    return prefetcher;
}

static forebay_prefetch_leaf leaf_of(const void *data, size_t size)
{
    forebay_prefetch_leaf leaf = {.data = data, .size = size};
    return leaf;
}

static uint64_t submit(forebay_prefetcher *prefetcher, const void *data, size_t size)
{
    forebay_prefetch_leaf leaf = leaf_of(data, size);
    uint64_t ticket = 0;
    CHECK_OK(forebay_prefetch_submit(prefetcher, &leaf, 1, FOREBAY_PREFETCH_FOREVER, &ticket));
    CHECK(ticket != 0);
    return ticket;
}

static forebay_prefetch_batch wait_for(forebay_prefetcher *prefetcher, uint64_t ticket)
{
    forebay_prefetch_batch batch = {0};
    CHECK_OK(forebay_prefetch_wait(prefetcher, ticket, NULL, &batch));
    return batch;
}

static forebay_prefetch_statistics counts_of(forebay_prefetcher *prefetcher)
{
    forebay_prefetch_statistics stats = FOREBAY_PREFETCH_STATISTICS_INIT;
    CHECK_OK(forebay_prefetch_stats(prefetcher, &stats));
    return stats;
}

static unsigned char byte_of(size_t seed, size_t at)
{
    return (unsigned char)(seed * 31 + at * 7 + at / 256);
}

static unsigned char *pattern(size_t seed, size_t size)
{
    unsigned char *bytes = malloc(size);
    for (size_t at = 0; at < size; at++) {
        bytes[at] = byte_of(seed, at);
    }
    return bytes;
}

static void batches_in_order(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_prefetcher *prefetcher = prefetcher_of(pool, 3);
    unsigned char *sources[8];
    uint64_t tickets[8];
    for (size_t at = 0; at < 8; at++) {
        sources[at] = pattern(at, MIB + at);
        if (at >= 3) {
            forebay_prefetch_batch batch = wait_for(prefetcher, tickets[at - 3]);
            CHECK_EQ(batch.size, MIB + at - 3);
            CHECK_EQ(memcmp(batch.ptr, sources[at - 3], batch.size), 0);
            CHECK_OK(forebay_prefetch_release(prefetcher, tickets[at - 3], NULL));
        }
        tickets[at] = submit(prefetcher, sources[at], MIB + at);
    }
    int32_t progress = -1;
    (void)wait_for(prefetcher, tickets[5]);
    CHECK_OK(forebay_prefetch_poll(prefetcher, tickets[5], &progress));
    CHECK_EQ(progress, FOREBAY_PREFETCH_PROGRESS_THERE);
    CHECK_OK(forebay_prefetch_release(prefetcher, tickets[5], NULL));
    CHECK_OK(forebay_prefetch_cancel(prefetcher, tickets[6]));
    forebay_prefetch_statistics stats = counts_of(prefetcher);
    CHECK_EQ(stats.submitted, 8);
    CHECK_EQ(stats.delivered, 6);
    CHECK_EQ(stats.cancelled, 1);
    CHECK_EQ(stats.used_slots, 1);
    CHECK_EQ(stats.slots, 3);
    CHECK_EQ(stats.staged_bytes, stats.submitted_bytes);
    // The last one nobody waits for.
    CHECK_OK(forebay_prefetcher_destroy(prefetcher));
    for (size_t at = 0; at < 8; at++) {
        free(sources[at]);
    }
    CHECK_OK(forebay_pool_destroy(pool));
}

static void leaves_of_all_kinds(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_prefetcher *prefetcher = prefetcher_of(pool, 2);
    unsigned char *bytes = pattern(3, 3 * MIB);
    FILE *file = tmpfile();
    CHECK(file != NULL);
    CHECK_EQ(fwrite(bytes, 1, 3 * MIB, file), 3 * MIB);
    CHECK_EQ(fflush(file), 0);
    forebay_prefetch_leaf leaves[4] = {
        leaf_of(bytes, 100),
        {.size = MIB, .offset = 5, .fd = fileno(file), .flags = FOREBAY_PREFETCH_LEAF_FILE},
        {.data = bytes, .size = 1, .flags = FOREBAY_PREFETCH_LEAF_PINNED},
        {.size = MIB + 1,
         .offset = 4096,
         .fd = fileno(file),
         .flags = FOREBAY_PREFETCH_LEAF_FILE | FOREBAY_PREFETCH_LEAF_DIRECT},
    };
    uint64_t ticket = 0;
    CHECK_OK(forebay_prefetch_submit(prefetcher, leaves, 4, 1000, &ticket));
    forebay_prefetch_batch batch = wait_for(prefetcher, ticket);
    const unsigned char *got = batch.ptr;
    size_t last = (256 + MIB + 1 + 4095) / 4096 * 4096;
    CHECK_EQ(batch.size, last + MIB + 1);
    CHECK_EQ(memcmp(got, bytes, 100), 0);
    CHECK_EQ(memcmp(got + 256, bytes + 5, MIB), 0);
    CHECK_EQ(got[256 + MIB], bytes[0]);
    CHECK_EQ(memcmp(got + last, bytes + 4096, MIB + 1), 0);
    CHECK_OK(forebay_prefetch_release(prefetcher, ticket, NULL));
    // What is not in the file is told by who waits, and that is all.
    leaves[1].offset = 3 * MIB - 10;
    CHECK_OK(forebay_prefetch_submit(prefetcher, leaves, 2, 1000, &ticket));
    CHECK_ERROR(forebay_prefetch_wait(prefetcher, ticket, NULL, &batch), FOREBAY_ERROR_IO,
                "ends at 3145728");
    CHECK_ERROR(forebay_prefetch_wait(prefetcher, ticket, NULL, &batch), invalid, "ticket");
    CHECK_EQ(counts_of(prefetcher).failed, 1);
    // A batch of nothing.
    CHECK_OK(forebay_prefetch_submit(prefetcher, NULL, 0, 0, &ticket));
    CHECK_EQ(wait_for(prefetcher, ticket).size, 0);
    CHECK_OK(forebay_prefetch_release(prefetcher, ticket, NULL));
    CHECK_OK(forebay_prefetcher_destroy(prefetcher));
    CHECK_OK(forebay_pool_destroy(pool));
    fclose(file);
    free(bytes);
}

static void slots_are_lent(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_prefetcher *prefetcher = prefetcher_of(pool, 1);
    forebay_prefetch_batch batch;
    uint64_t ticket = 0;
    void *ptr = NULL;
    CHECK_OK(forebay_prefetch_slot(prefetcher, 64 * KIB, 0, &ticket, &ptr));
    CHECK_ERROR(forebay_prefetch_slot(prefetcher, 1, 0, &ticket, &ptr), FOREBAY_ERROR_BUSY,
                "all 1 slots");
    CHECK_ERROR(forebay_prefetch_wait(prefetcher, ticket, NULL, &batch), state,
                "nothing was submitted");
    CHECK_ERROR(forebay_prefetch_submit_slot(prefetcher, ticket, MIB), invalid, "size is 1048576");
    memset(ptr, 9, 64 * KIB);
    CHECK_OK(forebay_prefetch_submit_slot(prefetcher, ticket, 64 * KIB));
    CHECK_ERROR(forebay_prefetch_submit_slot(prefetcher, ticket, 1), state, "submitted before");
    batch = wait_for(prefetcher, ticket);
    CHECK(batch.ptr == ptr);
    CHECK_EQ(batch.size, 64 * KIB);
    CHECK_OK(forebay_prefetch_release(prefetcher, ticket, NULL));
    CHECK_EQ(counts_of(prefetcher).staged_bytes, 0);
    CHECK_OK(forebay_prefetcher_destroy(prefetcher));
    CHECK_OK(forebay_pool_destroy(pool));
}

struct reader {
    forebay_prefetch_batch batch;
    int right;
};

static void read_batch(void *user)
{
    struct reader *reader = user;
    const struct timespec time = {0, 20000000};
    nanosleep(&time, NULL);
    const unsigned char *bytes = reader->batch.ptr;
    reader->right = 1;
    for (size_t at = 0; at < reader->batch.size; at++) {
        reader->right &= bytes[at] == byte_of(1, at);
    }
}

static void streams_have_their_order(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_prefetcher *prefetcher = prefetcher_of(pool, 1);
    forebay_stream stream;
    CHECK_OK(forebay_stream_create(&stream));
    unsigned char *first = pattern(1, 256 * KIB), *second = pattern(2, 256 * KIB);
    uint64_t ticket = submit(prefetcher, first, 256 * KIB);
    struct reader reader = {{0}, 0};
    CHECK_OK(forebay_prefetch_wait(prefetcher, ticket, stream, &reader.batch));
    CHECK_OK(forebay_stream_submit(stream, read_batch, &reader));
    CHECK_OK(forebay_prefetch_release(prefetcher, ticket, stream));
    CHECK_ERROR(forebay_prefetch_release(prefetcher, ticket, stream), invalid, "ticket");
    // The slot is free when the stream is done with it.
    ticket = submit(prefetcher, second, 256 * KIB);
    CHECK(reader.right);
    (void)wait_for(prefetcher, ticket);
    CHECK_OK(forebay_prefetch_release(prefetcher, ticket, NULL));
    CHECK_OK(forebay_prefetcher_destroy(prefetcher));
    CHECK_OK(forebay_stream_destroy(stream));
    CHECK_OK(forebay_pool_destroy(pool));
    free(first);
    free(second);
}

static void ends(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_prefetcher *prefetcher = prefetcher_of(pool, 2);
    unsigned char *source = pattern(4, 8 * MIB);
    uint64_t held = submit(prefetcher, source, 100), other = submit(prefetcher, source, 8 * MIB);
    forebay_prefetch_leaf leaf = leaf_of(source, 1);
    forebay_prefetch_batch batch = wait_for(prefetcher, held);
    uint64_t ticket = 0;
    CHECK_ERROR(forebay_prefetch_submit(prefetcher, &leaf, 1, 5, &ticket), FOREBAY_ERROR_BUSY,
                "all 2 slots");
    CHECK_EQ(ticket, 0);
    CHECK_OK(forebay_prefetcher_close(prefetcher));
    CHECK_OK(forebay_prefetcher_close(prefetcher));
    free(source);
    CHECK_ERROR(forebay_prefetch_submit(prefetcher, &leaf, 1, 0, &ticket), state, "closed");
    CHECK_ERROR(forebay_prefetch_slot(prefetcher, 1, 0, &ticket, (void **)&batch.ptr), state,
                "closed");
    CHECK_ERROR(forebay_prefetch_wait(prefetcher, other, NULL, &batch), invalid, "ticket");
    CHECK_ERROR(forebay_prefetcher_destroy(prefetcher), state, "1 batches");
    // The block is whose the batch was.
    CHECK_OK(forebay_free(pool, batch.ptr, NULL));
    CHECK_ERROR(forebay_prefetcher_destroy(prefetcher), invalid, "destroyed before");
    CHECK_ERROR(forebay_prefetcher_close(prefetcher), invalid, "destroyed before");
    CHECK_ERROR(forebay_prefetch_cancel(prefetcher, held), invalid, "destroyed before");
    CHECK_OK(forebay_prefetcher_destroy(NULL));
    // A pool that goes first takes its blocks along, but for those that somebody has.
    for (int has = 0; has < 2; has++) {
        pool = has ? small_pool(64 * MIB, 0) : pool;
        prefetcher = prefetcher_of(pool, 2);
        unsigned char *bytes = pattern(1, 1000);
        held = submit(prefetcher, bytes, 1000);
        if (has) {
            (void)wait_for(prefetcher, held);
            CHECK_ERROR(forebay_pool_destroy(pool), state, "1 live blocks");
            CHECK_OK(forebay_prefetch_release(prefetcher, held, NULL));
        } else {
            CHECK_OK(forebay_pool_destroy(pool));
            CHECK_ERROR(forebay_prefetch_wait(prefetcher, held, NULL, &batch), invalid, "ticket");
        }
        CHECK_ERROR(forebay_prefetch_submit(prefetcher, &leaf, 1, 0, &ticket), state, "closed");
        CHECK_OK(forebay_prefetcher_destroy(prefetcher));
        free(bytes);
    }
}

static void bad_configs(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_prefetcher *prefetcher = NULL;
    forebay_prefetcher_config good = FOREBAY_PREFETCHER_CONFIG_INIT, config = good;
    CHECK_ERROR(forebay_prefetcher_create(NULL, &good, &prefetcher), invalid, "pool is NULL");
    CHECK_ERROR(forebay_prefetcher_create(pool, &good, NULL), invalid, "out is NULL");
    config.struct_size = 8;
    CHECK_ERROR(forebay_prefetcher_create(pool, &config, &prefetcher), invalid, "struct_size is 8");
    config = good;
    config.slots = 65;
    CHECK_ERROR(forebay_prefetcher_create(pool, &config, &prefetcher), invalid, "slots is 65");
    config = good;
    config.copy_threads = 65;
    CHECK_ERROR(forebay_prefetcher_create(pool, &config, &prefetcher), invalid,
                "copy_threads is 65");
    config.copy_threads = 1;
    config.flags = FOREBAY_PREFETCHER_SYNCHRONOUS;
    CHECK_ERROR(forebay_prefetcher_create(pool, &config, &prefetcher), invalid,
                "copy_threads is 1");
    config.flags = 6;
    CHECK_ERROR(forebay_prefetcher_create(pool, &config, &prefetcher), invalid, "flags is 0x6");
    config = good;
    config.slot_bytes = 100;
    config.max_slot_bytes = 99;
    CHECK_ERROR(forebay_prefetcher_create(pool, &config, &prefetcher), invalid,
                "max_slot_bytes is 99");
    config.slot_bytes = (uint64_t)1 << 50;
    CHECK_ERROR(forebay_prefetcher_create(pool, &config, &prefetcher), invalid, "slot_bytes is");
    config = good;
    config.slot_bytes = (uint64_t)1 << 45;
    CHECK_ERROR(forebay_prefetcher_create(pool, &config, &prefetcher),
                FOREBAY_ERROR_OUT_OF_MEMORY, "35184372088832");
    CHECK(prefetcher == NULL);
    // Without a config, and without threads.
    CHECK_OK(forebay_prefetcher_create(pool, NULL, &prefetcher));
    CHECK_EQ(counts_of(prefetcher).slots, 3);
    CHECK_OK(forebay_prefetcher_destroy(prefetcher));
    config = good;
    config.flags = FOREBAY_PREFETCHER_SYNCHRONOUS;
    config.slot_bytes = 1000;
    CHECK_OK(forebay_prefetcher_create(pool, &config, &prefetcher));
    char byte = 7;
    int32_t progress = -1;
    uint64_t ticket = submit(prefetcher, &byte, 1);
    CHECK_OK(forebay_prefetch_poll(prefetcher, ticket, &progress));
    CHECK_EQ(progress, FOREBAY_PREFETCH_PROGRESS_THERE);
    CHECK_OK(forebay_prefetcher_destroy(prefetcher));
    CHECK_OK(forebay_pool_destroy(pool));
}

static void bad_calls(void)
{
    forebay_pool *pool = small_pool(64 * MIB, 0);
    forebay_prefetcher_config config = FOREBAY_PREFETCHER_CONFIG_INIT;
    config.slot_bytes = 1000;
    forebay_prefetcher *prefetcher = NULL;
    CHECK_OK(forebay_prefetcher_create(pool, &config, &prefetcher));
    char bytes[2000] = {0};
    forebay_prefetch_leaf leaf = leaf_of(bytes, 10);
    forebay_prefetch_batch batch = {0};
    forebay_prefetch_statistics stats = FOREBAY_PREFETCH_STATISTICS_INIT;
    uint64_t ticket = 0;
    int32_t progress = -1;
    void *ptr = NULL;
    CHECK_ERROR(forebay_prefetcher_close(NULL), invalid, "prefetcher is NULL");
    CHECK_ERROR(forebay_prefetch_submit(NULL, &leaf, 1, 0, &ticket), invalid, "prefetcher is NULL");
    CHECK_ERROR(forebay_prefetch_submit(prefetcher, NULL, 1, 0, &ticket), invalid,
                "leaves is NULL");
    CHECK_ERROR(forebay_prefetch_submit(prefetcher, &leaf, 1, 0, NULL), invalid, "ticket is NULL");
    CHECK_ERROR(forebay_prefetch_slot(NULL, 1, 0, &ticket, &ptr), invalid, "prefetcher is NULL");
    CHECK_ERROR(forebay_prefetch_slot(prefetcher, 1, 0, NULL, &ptr), invalid, "ticket is NULL");
    CHECK_ERROR(forebay_prefetch_slot(prefetcher, 1, 0, &ticket, NULL), invalid, "ptr is NULL");
    CHECK_ERROR(forebay_prefetch_slot(prefetcher, 1001, 0, &ticket, &ptr), invalid,
                "size is 1001");
    CHECK_ERROR(forebay_prefetch_submit_slot(NULL, 1, 0), invalid, "prefetcher is NULL");
    CHECK_ERROR(forebay_prefetch_submit_slot(prefetcher, 1, 0), invalid, "ticket 0x1");
    CHECK_ERROR(forebay_prefetch_wait(NULL, 1, NULL, &batch), invalid, "prefetcher is NULL");
    CHECK_ERROR(forebay_prefetch_wait(prefetcher, 1, NULL, &batch), invalid, "ticket 0x1");
    CHECK_ERROR(forebay_prefetch_wait(prefetcher, 1, NULL, NULL), invalid, "out is NULL");
    CHECK_ERROR(forebay_prefetch_poll(NULL, 1, &progress), invalid, "prefetcher is NULL");
    CHECK_ERROR(forebay_prefetch_poll(prefetcher, 1, &progress), invalid, "ticket 0x1");
    CHECK_ERROR(forebay_prefetch_poll(prefetcher, 1, NULL), invalid, "progress is NULL");
    CHECK_ERROR(forebay_prefetch_cancel(NULL, 1), invalid, "prefetcher is NULL");
    CHECK_ERROR(forebay_prefetch_cancel(prefetcher, 0), invalid, "ticket 0");
    CHECK_ERROR(forebay_prefetch_release(NULL, 1, NULL), invalid, "prefetcher is NULL");
    CHECK_ERROR(forebay_prefetch_release(prefetcher, 99, NULL), invalid, "ticket 0x63");
    CHECK_ERROR(forebay_prefetch_stats(NULL, &stats), invalid, "prefetcher is NULL");
    CHECK_ERROR(forebay_prefetch_stats(prefetcher, NULL), invalid, "out is NULL");
    stats.struct_size = 1;
    CHECK_ERROR(forebay_prefetch_stats(prefetcher, &stats), invalid, "struct_size is 1");

    // Leaves.
    struct {
        forebay_prefetch_leaf leaf;
        const char *says;
    } wrong[] = {
        {{NULL, 5, 0, 0, 0}, "leaves[0].data is NULL"},
        {{bytes, 5, 0, 0, 8}, "leaves[0].flags is 0x8"},
        {{bytes, 5, 0, 0, FOREBAY_PREFETCH_LEAF_FILE}, "leaves[0] is a file"},
        {{bytes, 5, 1, 0, 0}, "leaves[0] is no file"},
        {{bytes, 5, 0, 0, FOREBAY_PREFETCH_LEAF_DIRECT}, "leaves[0] is no file"},
        {{NULL, 5, 0, -1, FOREBAY_PREFETCH_LEAF_FILE}, "leaves[0].fd is -1"},
        {{NULL, 5, UINT64_MAX - 1, 0, FOREBAY_PREFETCH_LEAF_FILE}, "leaves[0].offset is"},
        {{bytes, 1001, 0, 0, 0}, "more than 1000 bytes"},
        {{bytes, SIZE_MAX, 0, 0, 0}, "more than 1000 bytes"},
    };
    for (size_t at = 0; at < sizeof wrong / sizeof *wrong; at++) {
        CHECK_ERROR(forebay_prefetch_submit(prefetcher, &wrong[at].leaf, 1, 0, &ticket), invalid,
                    wrong[at].says);
    }
    CHECK_EQ(ticket, 0);
    CHECK_EQ(counts_of(prefetcher).used_slots, 0);

    // In the wrong order, and on streams that are none.
    int place;
    forebay_stream none = (forebay_stream)(void *)&place;
    ticket = submit(prefetcher, bytes, 10);
    CHECK_ERROR(forebay_prefetch_release(prefetcher, ticket, NULL), state, "not waited for");
    CHECK_ERROR(forebay_prefetch_wait(prefetcher, ticket, none, &batch), invalid, "stream");
    (void)wait_for(prefetcher, ticket);
    CHECK_ERROR(forebay_prefetch_cancel(prefetcher, ticket), state, "release it instead");
    CHECK_ERROR(forebay_prefetch_release(prefetcher, ticket, none), invalid, "stream");
    CHECK_OK(forebay_prefetch_release(prefetcher, ticket, NULL));
    CHECK_ERROR(forebay_prefetch_cancel(prefetcher, ticket), invalid, "released or cancelled");
    CHECK_OK(forebay_prefetcher_destroy(prefetcher));
    CHECK_OK(forebay_pool_destroy(pool));
}

int main(void)
{
    time_limit(300);
    batches_in_order();
    leaves_of_all_kinds();
    slots_are_lent();
    streams_have_their_order();
    ends();
    bad_configs();
    bad_calls();
    return check_end("prefetch");
}
