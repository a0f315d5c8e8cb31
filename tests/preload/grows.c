// Blocks that only grow, before there is a pool: they are the C library's, whole at every step, and it
// may keep their memory for the next.

#include "rig.h"

#include <sys/resource.h>

static void grow(size_t most)
{
    size_t size = 4 * KIB;
    unsigned char *block = malloc(size);
    CHECK(block != NULL);
    memset(block, 7, size);
    while (size < most) {
        size_t more = size + size / 8;
        block = realloc(block, more);
        CHECK(block != NULL && block[0] == 7 && block[size - 1] == 7);
        memset(block + size, 7, more - size);
        size = more;
    }
    CHECK(block[size / 2] == 7);
    free(block);
}

static long faults(void)
{
    struct rusage used;
    CHECK(getrusage(RUSAGE_SELF, &used) == 0);
    return used.ru_minflt;
}

int main(void)
{
    for (int n = 0; n < 4; n++) {
        grow(8 * MIB);
    }
    long before = faults();
    for (int n = 0; n < 8; n++) {
        grow(8 * MIB);
    }
    // Each time anew it would be 2000 a turn.
    CHECK(faults() - before < 4000);
    puts("done");
    return 0;
}
