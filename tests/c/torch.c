// PyTorch's door, called as PyTorch calls it, in a process without PyTorch: NULL stands for what
// would be thrown.

#include "check.h"

#include "driver.h"

#include <pthread.h>

static const forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;
static const forebay_status state = FOREBAY_ERROR_INVALID_STATE;

static forebay_torch_statistics torch_stats(int device)
{
    forebay_torch_statistics stats = FOREBAY_TORCH_STATISTICS_INIT;
    CHECK_OK(forebay_torch_stats(device, &stats));
    return stats;
}

static void options(void)
{
    CHECK_ERROR(forebay_torch_configure("3 apples", NULL), invalid, "limit is \"3 apples\"");
    CHECK_ERROR(forebay_torch_configure(NULL, "fast"), invalid, "policy is \"fast\"");
    setenv("FOREBAY_TORCH_LIMIT", "2.5", 1);
    CHECK_ERROR(forebay_torch_configure(NULL, NULL), invalid, "FOREBAY_TORCH_LIMIT is \"2.5\"");
    // What is given goes before what the environment says.
    CHECK_OK(forebay_torch_configure("256MiB", "latency_first"));
    forebay_torch_statistics stats = FOREBAY_TORCH_STATISTICS_INIT;
    CHECK_ERROR(forebay_torch_stats(0, &stats), state, "device 0 has no pool yet");
    CHECK_ERROR(forebay_torch_reset_peaks(0), state, "no pool yet");
    CHECK_ERROR(forebay_torch_reset_totals(0), state, "no pool yet");
    CHECK_EQ(forebay_torch_is_used(0), 0);
    CHECK_EQ(forebay_torch_is_used(-1), 0);
    CHECK_EQ(forebay_torch_is_used(1000), 0);
}

static void blocks(void)
{
    forebay_torch_init(1);
    CHECK(forebay_torch_malloc(0, 0, NULL) == NULL);
    CHECK_EQ(forebay_torch_is_used(0), 0);
    forebay_torch_free(NULL, 0, 0, NULL);
    CHECK(forebay_torch_malloc(1, 99, NULL) == NULL);
    CHECK(strstr(forebay_last_error(), "device_index is 99") || strstr(forebay_last_error(), "99"));
    CHECK(forebay_torch_malloc(1, -1, NULL) == NULL);
    CHECK(strstr(forebay_last_error(), "device is -1") != NULL);

    forebay_stream stream = driver_stream();
    void *small = forebay_torch_malloc(1000, 0, NULL);
    void *large = forebay_torch_malloc(3 * MIB, 0, stream);
    CHECK(small != NULL && large != NULL);
    CHECK_EQ((uintptr_t)small % 512, 0);
    CHECK_ERROR(forebay_torch_configure("1GiB", NULL), state, "device 0 has its pool already");
    driver_set(large, 7, 3 * MIB, stream);
    CHECK_EQ(driver_byte(large), 7);

    forebay_torch_statistics stats = torch_stats(0);
    CHECK_EQ(stats.all.blocks.current, 2);
    CHECK_EQ(stats.small.blocks.current, 1);
    CHECK_EQ(stats.small.requested_bytes.current, 1000);
    CHECK_EQ(stats.small.allocated_bytes.current, 1024);
    CHECK_EQ(stats.large.allocated_bytes.peak, 3 * MIB);
    CHECK_EQ(stats.limit_bytes, 256 * MIB);
    CHECK(stats.reserved_bytes >= 3 * MIB && stats.device_bytes > 256 * MIB);
    CHECK(stats.stretches >= 1);

    // The pool is an ordinary one, but for its end.
    forebay_pool *pool = NULL;
    CHECK_ERROR(forebay_torch_pool(0, NULL), invalid, "out is NULL");
    CHECK_OK(forebay_torch_pool(0, &pool));
    CHECK_OK(forebay_pool_check(pool));
    CHECK_ERROR(forebay_pool_destroy(pool), state, "until the process ends");
    CHECK_OK(forebay_pool_check(pool));

    size_t size = 0;
    CHECK(forebay_torch_base_allocation((char *)large + 100, &size) == large);
    CHECK_EQ(size, 3 * MIB);
    CHECK(forebay_torch_base_allocation(&size, NULL) == NULL);

    // Peaks and totals start again.
    forebay_torch_free(small, 1000, 0, NULL);
    CHECK_OK(forebay_torch_reset_peaks(0));
    CHECK_OK(forebay_torch_reset_totals(0));
    stats = torch_stats(0);
    CHECK_EQ(stats.all.blocks.peak, 1);
    CHECK_EQ(stats.all.allocated_bytes.peak, 3 * MIB);
    CHECK_EQ(stats.all.allocated_bytes.allocated, 0);
    forebay_torch_free(large, 3 * MIB, 0, stream);
    stats = torch_stats(0);
    CHECK_EQ(stats.all.blocks.freed, 1);
    CHECK_EQ(stats.all.blocks.current, 0);

    // Wrong frees are reported, and change nothing.
    forebay_torch_free(large, 3 * MIB, 0, stream);
    forebay_torch_free(&size, 1, 0, stream);
    CHECK_EQ(torch_stats(0).all.blocks.freed, 1);
    CHECK_OK(forebay_pool_check(pool));
    forebay_torch_reset();
    CHECK_EQ(torch_stats(0).reserved_bytes, 0);
}

static void no_memory(void)
{
    CHECK(forebay_torch_malloc(300 * MIB, 0, NULL) == NULL);
    CHECK(strstr(forebay_last_error(), "out of memory") != NULL);
    CHECK_EQ(torch_stats(0).failed, 1);
    forebay_torch_set_memory_fraction(0.01, 0);
    uint64_t limit = torch_stats(0).limit_bytes;
    CHECK(limit <= torch_stats(0).device_bytes / 100 && limit > 0);
    // What cannot be leaves the limit as it is.
    forebay_torch_set_memory_fraction(-1, 0);
    CHECK(strstr(forebay_last_error(), "fraction is -1") != NULL);
    CHECK_EQ(torch_stats(0).limit_bytes, limit);
}

static uint64_t seen[3];

static void observe(int32_t happening, void *ptr, size_t size, int device, void *stream)
{
    (void)stream;
    CHECK_EQ(device, 0);
    CHECK((happening == 2) == (ptr == NULL));
    seen[happening] += size;
}

static void observed(void)
{
    forebay_torch_set_observer(observe);
    void *block = forebay_torch_malloc(12345, 0, NULL);
    CHECK(forebay_torch_malloc((size_t)1 << 40, 0, NULL) == NULL);
    forebay_torch_free(block, 12345, 0, NULL);
    forebay_torch_set_observer(NULL);
    forebay_torch_free(forebay_torch_malloc(1, 0, NULL), 1, 0, NULL);
    CHECK_EQ(seen[0], 12345);
    CHECK_EQ(seen[1], 12345);
    CHECK_EQ(seen[2], (size_t)1 << 40);
}

// A capture announced without a stream: what is taken in it is the graph's.
static void graphs(void)
{
    forebay_stream stream = driver_stream(), other = driver_stream();
    void *graph = NULL;
    forebay_torch_begin_allocate_to_pool(0, 0, 0, NULL);
    for (int round = 0; round < 2; round++) {
        forebay_torch_begin_allocate_to_pool(0, 5, 0, NULL);
        // The random numbers' state comes from the default stream, which does not capture.
        void *eager = forebay_torch_malloc(8, 0, other);
        CHECK_EQ(DRIVER("cuStreamBeginCapture_v2", (void *, int), stream, 2), 0);
        void *inner = forebay_torch_malloc(MIB, 0, stream);
        void *output = forebay_torch_malloc(2 * MIB, 0, stream);
        driver_set(inner, 1, MIB, stream);
        driver_set(output, 2, 2 * MIB, stream);
        forebay_torch_free(inner, MIB, 0, stream);
        CHECK_EQ(DRIVER("cuStreamEndCapture", (void *, void **), stream, &graph), 0);
        forebay_torch_end_allocate_to_pool(0, 5, 0);
        void *after = forebay_torch_malloc(MIB, 0, stream);
        CHECK(after != inner);
        forebay_torch_free(after, MIB, 0, stream);
        forebay_torch_free(output, 2 * MIB, 0, stream);
        forebay_torch_free(eager, 8, 0, other);
        CHECK_EQ(DRIVER("cuGraphDestroy", (void *), graph), 0);
    }
    // Each graph is released once; a release too many is only reported.
    forebay_torch_release_pool(0, 5, 0);
    forebay_torch_release_pool(0, 5, 0);
    forebay_torch_release_pool(0, 5, 0);
    CHECK(strstr(forebay_last_error(), "has no memory in pool") != NULL);
    // A capture without any allocation.
    forebay_torch_begin_allocate_to_pool(0, 0, 6, NULL);
    forebay_torch_begin_allocate_to_pool(0, 0, 6, NULL);
    CHECK(strstr(forebay_last_error(), "is being captured already") != NULL);
    forebay_torch_end_allocate_to_pool(0, 0, 6);
    forebay_torch_release_pool(0, 0, 6);
}

static void streams(void)
{
    forebay_stream first = driver_stream(), second = driver_stream();
    void *block = forebay_torch_malloc(MIB, 0, first);
    driver_set(block, 1, MIB, second);
    forebay_torch_record_stream(block, second);
    // What is not ours is left alone.
    forebay_torch_record_stream(&block, second);
    forebay_torch_record_stream(NULL, second);
    forebay_torch_free(block, MIB, 0, first);
    void *next = forebay_torch_malloc(MIB, 0, first);
    CHECK(next != block);
    CHECK_EQ(DRIVER("cuStreamSynchronize", (void *), second), 0);
    forebay_torch_free(next, MIB, 0, first);
}

static void segments(void)
{
    forebay_stream stream = driver_stream();
    CHECK(forebay_torch_segment_malloc(0, 0, stream) == NULL);
    CHECK(forebay_torch_segment_malloc((size_t)1 << 40, 0, stream) == NULL);
    forebay_torch_segment_free(NULL, 0, 0, stream);
    void *eager = forebay_torch_segment_malloc(2 * MIB, 0, stream);
    CHECK(eager != NULL);
    driver_set(eager, 1, 2 * MIB, stream);
    forebay_torch_segment_free(eager, 2 * MIB, 0, stream);
    // A segment that is taken in a capture is nobody else's until it is given back.
    void *graph = NULL;
    CHECK_EQ(DRIVER("cuStreamBeginCapture_v2", (void *, int), stream, 2), 0);
    void *captured = forebay_torch_segment_malloc(2 * MIB, 0, stream);
    CHECK(captured != NULL && captured != eager);
    driver_set(captured, 2, 2 * MIB, stream);
    CHECK_EQ(DRIVER("cuStreamEndCapture", (void *, void **), stream, &graph), 0);
    CHECK_EQ(DRIVER("cuGraphDestroy", (void *), graph), 0);
    forebay_torch_segment_free(captured, 2 * MIB, 0, stream);
    forebay_torch_segment_free(captured, 2 * MIB, 0, stream);
    CHECK_EQ(torch_stats(0).all.blocks.current, 0);
}

static void *hammer(void *stream)
{
    for (int round = 0; round < 2000; round++) {
        size_t size = 1 + (size_t)round * 733 % (2 * MIB);
        forebay_torch_free(forebay_torch_malloc(size, 0, stream), size, 0, stream);
    }
    return NULL;
}

static void threads(void)
{
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(pthread_create(&thread[i], NULL, hammer, driver_stream()), 0);
    }
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(pthread_join(thread[i], NULL), 0);
    }
    forebay_torch_statistics stats = torch_stats(0);
    CHECK_EQ(stats.all.blocks.current, 0);
    CHECK_EQ(stats.all.allocated_bytes.current, 0);
    CHECK_EQ(stats.all.requested_bytes.current, 0);
}

static void picture(void)
{
    forebay_pool *pool = NULL;
    CHECK_OK(forebay_torch_pool(0, &pool));
    void *block = forebay_torch_malloc(40000, 0, NULL);
    char *text = malloc(1 << 20);
    size_t length = 0;
    CHECK_ERROR(forebay_pool_snapshot_json(pool, text, 3, &length), invalid, "capacity is 3");
    CHECK_ERROR(forebay_pool_snapshot_json(pool, NULL, 3, NULL), invalid, "buffer is NULL");
    CHECK_OK(forebay_pool_snapshot_json(pool, text, 1 << 20, &length));
    CHECK_EQ(strlen(text), length);
    char piece[64];
    snprintf(piece, sizeof piece, "[%" PRIuPTR ",40448,40000,\"live\",0,0]", (uintptr_t)block);
    CHECK(strstr(text, piece) != NULL);
    free(text);
    forebay_torch_free(block, 40000, 0, NULL);
}

int main(void)
{
    if (!driver_is_there()) {
        puts("torch: there is no CUDA driver");
        return 77;
    }
    options();
    blocks();
    no_memory();
    observed();
    graphs();
    streams();
    segments();
    threads();
    picture();
    return check_end("torch");
}
