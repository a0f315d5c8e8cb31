// A program with an allocator of its own: `shared`, linked as a library, which then is the next
// one; `inside`, in the program itself, which then is everybody's.

#include "rig.h"

extern long other_live;

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    int is_shared = strcmp(argv[1], "shared") == 0;
    int pooled = 0;
    for (int n = 0; n < 300 && !pooled; n++) {
        void *block = used(malloc(MIB));
        pooled = is_pooled(block);
        free(block);
        sleep_ms(n < 20 || !is_shared ? 0 : 10);
    }
    CHECK(pooled == is_shared);
    long before = other_live;
    void *small = malloc(100);
    CHECK(other_live == before + 1);
    void *large = malloc(MIB);
    CHECK(is_pooled(large) == is_shared);
    CHECK(other_live == before + (is_shared ? 1 : 2));
    // From one to the other and back.
    memset(small, 6, 100);
    small = realloc(small, 2 * MIB);
    CHECK(((char *)small)[99] == 6);
    small = realloc(small, 50);
    CHECK(((char *)small)[49] == 6);
    char *line = strdup("a string that the C library takes");
    free(line);
    free(small);
    free(large);
    puts("done");
    return 0;
}
