/* Replays allocation traces into a fresh pool each, bookkeeping only, and prints how much the pool
 * had reserved at its peak beside how much the trace had live at its own:
 *   FILE RESERVED_PEAK REQUESTED_PEAK (bytes) */
#include <stdio.h>

#include "allocator.h"

/* Of addresses; the traces come from GPUs of up to 80 GiB. */
#define POOL_BYTES (256ull << 30)

int main(int argc, char **argv) {
    if (argc < 3) fail("usage: trace_peaks LIBRARY TRACE...");
    void *library = library_open(argv[1]);
    __typeof__(&forebay_pool_create) create = library_symbol(library, "forebay_pool_create");
    __typeof__(&forebay_pool_destroy) destroy = library_symbol(library, "forebay_pool_destroy");
    __typeof__(&forebay_pool_stats) stats = library_symbol(library, "forebay_pool_stats");
    __typeof__(&forebay_trace_replay) replay = library_symbol(library, "forebay_trace_replay");
    __typeof__(&forebay_last_error) error = library_symbol(library, "forebay_last_error");

    for (int i = 2; i < argc; i++) {
        forebay_pool_config config = {.struct_size = sizeof config};
        config.device_kind = FOREBAY_DEVICE_KIND_HOST;
        config.policy = FOREBAY_POLICY_BALANCED;
        config.max_bytes = POOL_BYTES;
        forebay_pool *pool;
        if (create(&config, &pool) != FOREBAY_OK) fail("forebay_pool_create: %s", error());

        forebay_replay_options options = {.struct_size = sizeof options, .repeat = 1};
        forebay_replay_report report = {.struct_size = sizeof report};
        forebay_pool_statistics numbers = {.struct_size = sizeof numbers};
        if (replay(pool, argv[i], &options, &report) != FOREBAY_OK) fail("%s: %s", argv[i], error());
        if (report.failed_allocations != 0)
            fail("%s: %llu allocations failed", argv[i], (unsigned long long)report.failed_allocations);
        if (stats(pool, &numbers) != FOREBAY_OK) fail("forebay_pool_stats: %s", error());
        printf("%s %llu %llu\n", argv[i], (unsigned long long)numbers.reserved_peak,
               (unsigned long long)report.peak_requested);
        if (destroy(pool) != FOREBAY_OK) fail("forebay_pool_destroy: %s", error());
    }
    return 0;
}
