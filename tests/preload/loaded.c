// Libraries that come and go: a plugin that leaves blocks behind, and the preloaded library itself
// loaded as others are, where it does nothing. `loaded FILE pooled|unpooled`.

#include "rig.h"

#include <dlfcn.h>

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    int pooled = strcmp(argv[2], "pooled") == 0;
    for (int round = 0; round < 3; round++) {
        void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
        void *(*take)(size_t) = (void *(*)(size_t))dlsym(library, "malloc");
        CHECK(take != NULL);
        CHECK(!pooled || warm_up());
        void *block = used(take(MIB));
        memset(block, 1, MIB);
        CHECK(dlclose(library) == 0);
        if (!pooled) {
            // Not even for one who takes its functions out by hand is there a pool.
            for (int n = 0; n < 40; n++) {
                free(used(malloc(MIB)));
            }
            CHECK(mapped("libforebay.so") == 0);
        }
        free(block);
    }
    puts("done");
    return 0;
}
