// Before main and after it: constructors, destructors, atexit, thread-specific data.

#include "rig.h"

static void *kept[64];
static void *late;

__attribute__((constructor(101))) static void first(void)
{
    for (int n = 0; n < 64; n++) {
        kept[n] = malloc(n % 2 ? MIB : 100);
        memset(kept[n], n, 100);
    }
}

static void check_and_free(void)
{
    for (int n = 0; n < 64; n++) {
        CHECK(((unsigned char *)kept[n])[99] == n);
        free(kept[n]);
        kept[n] = NULL;
    }
    // Others come after this one, and may free what is taken here.
    late = calloc(1, 2 * MIB);
    CHECK(late != NULL);
}

__attribute__((destructor(101))) static void last(void)
{
    CHECK(is_pooled(late));
    memset(late, 1, 2 * MIB);
    free(late);
    void *block = malloc(5 * MIB);
    memset(block, 1, 5 * MIB);
    free(block);
    write(1, "done\n", 5);
}

int main(void)
{
    CHECK(atexit(check_and_free) == 0);
    CHECK(warm_up());
    return 0;
}
