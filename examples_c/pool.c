// A first program: a pool, a block, what the pool counted.
//
//     cc pool.c $(pkg-config --cflags --libs forebay) -o pool && ./pool

#include <forebay.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    forebay_pool *pool;
    void *block;
    if (forebay_pool_create(NULL, &pool) != FOREBAY_OK ||
        forebay_alloc(pool, 1000000, NULL, &block) != FOREBAY_OK)
        return fprintf(stderr, "%s\n", forebay_last_error()), 1;
    memset(block, 1, 1000000);

    forebay_pool_statistics now = FOREBAY_POOL_STATISTICS_INIT;
    if (forebay_pool_stats(pool, &now) == FOREBAY_OK)
        printf("requested %" PRIu64 ", allocated %" PRIu64 ", reserved %" PRIu64 " bytes\n",
               now.requested_bytes, now.allocated_bytes, now.reserved_bytes);
    forebay_free(pool, block, NULL);
    forebay_pool_destroy(pool);
}
