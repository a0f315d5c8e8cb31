// Frees a block of the pool twice, or a pointer into one.

#include "rig.h"

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    CHECK(warm_up());
    char *block = used(malloc(MIB));
    CHECK(is_pooled(block));
    if (strcmp(argv[1], "twice") == 0) {
        free(block);
    } else {
        block += 4096;
    }
    free(used(block));
    puts("done");
    return 0;
}
