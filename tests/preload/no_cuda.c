// A program without the runtime: `call` asks for GPU memory all the same, by what the loader finds,
// `load` has the driver loaded and asks for none.

#include "rig.h"

#include <dlfcn.h>

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    if (strcmp(argv[1], "load") == 0) {
        CHECK(dlopen("libcuda.so.1", RTLD_NOW) != NULL);
    } else {
        int (*alloc)(void **, size_t) = (int (*)(void **, size_t))dlsym(RTLD_DEFAULT, "cudaMalloc");
        CHECK(alloc != NULL);
        void *block = &block;
        CHECK(alloc(&block, MIB) == 3);
        CHECK(alloc(&block, MIB) == 3);
        CHECK(block == (void *)&block);
    }
    puts("done");
    return 0;
}
