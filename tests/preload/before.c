// What a program used before there was a pool, it does not keep beside the pool: the C library keeps
// blocks of sizes that it has seen freed, if it is left to itself.

#include "rig.h"

int main(void)
{
    unsigned char *block = NULL;
    int pooled = 0;
    for (int n = 0; n < 6000 && !pooled; n++) {
        block = malloc(16 * MIB);
        CHECK(block != NULL);
        memset(block, 1, 16 * MIB);
        pooled = is_pooled(block);
        free(block);
        sleep_ms(n > 16 ? 10 : 0);
    }
    CHECK(pooled);
    CHECK(number_in("/proc/self/status", "VmHWM:") < 28 * 1024);
    // Blocks below the threshold stay where they were.
    CHECK(!is_pooled(block = malloc(1000)));
    free(block);
    puts("done");
    return 0;
}
