// Four pairs of malloc and free a round, of small sizes: `small ROUNDS`. Or a pair of so many bytes, of
// which the preloaded library has a pool: `small ROUNDS SIZE`. scripts/preload_budget.sh runs it under
// cachegrind.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

// Asks for blocks until three in a row begin where those of a pool do, or for a minute.
static void wait_for_pool(size_t size) {
    for (int turn = 0, pooled = 0; turn < 6000 && pooled < 3; turn++) {
        void *volatile block = malloc(size);
        pooled = (uintptr_t)block % 512 == 0 ? pooled + 1 : 0;
        free(block);
        if (turn > 100) usleep(10000);
    }
}

int main(int argc, char **argv) {
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 1;
    size_t size = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    if (size > 0) {
        wait_for_pool(size);
        for (long i = 0; i < rounds; i++) {
            void *volatile block = malloc(size);
            free(block);
        }
        return 0;
    }
    for (long i = 0; i < rounds; i++) {
        for (size_t size = 16; size <= 1024; size *= 4) {
            void *volatile block = malloc(size);
            free(block);
        }
    }
    return 0;
}
