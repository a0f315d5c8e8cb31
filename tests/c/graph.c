// Graphs: captured, ended, released; and what they refuse. With streams that are forgotten, and
// pools that sleep, for those need a driver too.

#include "check.h"

#include "driver.h"

static void graphs(void)
{
    const forebay_status state = FOREBAY_ERROR_INVALID_STATE;
    const forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;
    forebay_pool *pool = driver_pool(64 * MIB);
    forebay_stream stream = driver_stream();
    CHECK_ERROR(forebay_graph_begin(NULL, 1, stream), invalid, "pool is NULL");
    CHECK_ERROR(forebay_graph_end(NULL, 1), invalid, "pool is NULL");
    CHECK_ERROR(forebay_graph_release(NULL, 1), invalid, "pool is NULL");
    CHECK_ERROR(forebay_graph_begin(pool, 0, stream), invalid, "graph is 0");
    CHECK_ERROR(forebay_graph_begin(pool, UINT64_MAX, stream), invalid, "18446744073709551615");
    CHECK_ERROR(forebay_graph_end(pool, 7), state, "graph 7 is not being captured");
    CHECK_ERROR(forebay_graph_release(pool, 7), state, "graph 7");

    CHECK_OK(forebay_graph_begin(pool, 7, stream));
    CHECK_ERROR(forebay_graph_begin(pool, 7, stream), state, "graph 7 is being captured");
    CHECK_ERROR(forebay_graph_begin(pool, 8, stream), state, "capturing graph 7");
    CHECK_ERROR(forebay_graph_release(pool, 7), state, "end that");
    CHECK_ERROR(forebay_pool_forget_stream(pool, stream), state, "capturing a graph");
    CHECK_ERROR(forebay_pool_sleep(pool, FOREBAY_SLEEP_MODE_DISCARD), state, "being captured");
    CHECK_EQ(DRIVER("cuStreamBeginCapture_v2", (void *, int), stream, 2), 0);
    void *inner = NULL, *output = NULL, *graph = NULL, *launched = NULL;
    CHECK_OK(forebay_alloc(pool, 5 * MIB, stream, &inner));
    driver_set(inner, 1, 5 * MIB, stream);
    CHECK_OK(forebay_alloc(pool, MIB, stream, &output));
    driver_set(output, 2, MIB, stream);
    CHECK_OK(forebay_free(pool, inner, stream));
    CHECK_EQ(DRIVER("cuStreamEndCapture", (void *, void **), stream, &graph), 0);
    CHECK_OK(forebay_graph_end(pool, 7));
    CHECK_EQ(DRIVER("cuGraphInstantiateWithFlags", (void **, void *, uint64_t), &launched, graph,
                    (uint64_t)0),
             0);

    // What is taken now is not what the graph writes.
    void *eager = NULL;
    CHECK_OK(forebay_alloc(pool, 5 * MIB, stream, &eager));
    CHECK(eager != inner);
    driver_set(eager, 3, 5 * MIB, stream);
    CHECK_EQ(DRIVER("cuGraphLaunch", (void *, void *), launched, stream), 0);
    CHECK_EQ(driver_byte(eager), 3);
    CHECK_EQ(driver_byte(output), 2);
    CHECK_OK(forebay_free(pool, eager, stream));
    CHECK_OK(forebay_free(pool, output, stream));
    CHECK_EQ(DRIVER("cuGraphExecDestroy", (void *), launched), 0);
    CHECK_EQ(DRIVER("cuGraphDestroy", (void *), graph), 0);
    CHECK_OK(forebay_graph_release(pool, 7));

    // A capture that nobody announced.
    CHECK_EQ(DRIVER("cuStreamBeginCapture_v2", (void *, int), stream, 2), 0);
    CHECK_ERROR(forebay_alloc(pool, 9 * MIB, stream, &inner), state, "forebay_graph_begin");
    CHECK_EQ(DRIVER("cuStreamEndCapture", (void *, void **), stream, &graph), 0);
    CHECK_EQ(DRIVER("cuGraphDestroy", (void *), graph), 0);
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_pool_destroy(pool));
}

static void streams(void)
{
    forebay_pool *pool = driver_pool(32 * MIB);
    forebay_stream stream = driver_stream(), other = driver_stream();
    CHECK_ERROR(forebay_pool_forget_stream(pool, NULL), FOREBAY_ERROR_INVALID_ARGUMENT,
                "stream 0");
    void *block = NULL;
    CHECK_ERROR(forebay_alloc(pool, 1000, (forebay_stream)(uintptr_t)2, &block),
                FOREBAY_ERROR_INVALID_ARGUMENT, "stream is 0x2");
    CHECK_OK(forebay_alloc(pool, 30 * MIB, stream, &block));
    driver_set(block, 1, 30 * MIB, stream);
    CHECK_OK(forebay_free(pool, block, stream));
    CHECK_OK(forebay_pool_forget_stream(pool, stream));
    CHECK_EQ(DRIVER("cuStreamDestroy_v2", (void *), stream), 0);
    CHECK_OK(forebay_alloc(pool, 30 * MIB, other, &block));
    driver_set(block, 2, 30 * MIB, other);
    CHECK_EQ(driver_byte(block), 2);
    CHECK_OK(forebay_free(pool, block, other));
    CHECK_OK(forebay_pool_destroy(pool));
}

static void sleep_and_wake(void)
{
    const forebay_status state = FOREBAY_ERROR_INVALID_STATE;
    forebay_pool *pool = driver_pool(32 * MIB);
    CHECK_ERROR(forebay_pool_sleep(pool, 2), FOREBAY_ERROR_INVALID_ARGUMENT, "mode is 2");
    CHECK_ERROR(forebay_pool_sleep(NULL, 0), FOREBAY_ERROR_INVALID_ARGUMENT, "pool is NULL");
    CHECK_ERROR(forebay_pool_wake(NULL), FOREBAY_ERROR_INVALID_ARGUMENT, "pool is NULL");
    CHECK_ERROR(forebay_pool_wake(pool), state, "does not sleep");
    void *block = NULL;
    CHECK_OK(forebay_alloc(pool, 9 * MIB, NULL, &block));
    driver_set(block, 4, 9 * MIB, NULL);
    CHECK_OK(forebay_pool_sleep(pool, FOREBAY_SLEEP_MODE_BACKUP));
    forebay_pool_statistics now = FOREBAY_POOL_STATISTICS_INIT;
    CHECK_OK(forebay_pool_stats(pool, &now));
    CHECK_EQ(now.reserved_bytes, 0);
    CHECK_ERROR(forebay_pool_sleep(pool, FOREBAY_SLEEP_MODE_BACKUP), state, "sleeps already");
    void *none = NULL;
    CHECK_ERROR(forebay_alloc(pool, 1000, NULL, &none), state, "forebay_pool_wake");
    CHECK(none == NULL);
    CHECK_OK(forebay_pool_wake(pool));
    CHECK_EQ(driver_byte(block), 4);
    CHECK_OK(forebay_free(pool, block, NULL));
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_pool_destroy(pool));
}

int main(void)
{
    if (!driver_is_there()) {
        puts("graph: there is no CUDA driver");
        return 77;
    }
    graphs();
    streams();
    sleep_and_wake();
    return check_end("graph");
}
