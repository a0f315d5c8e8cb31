// Four pairs of malloc and free a round, of small sizes: `small ROUNDS`. scripts/preload_budget.sh runs
// it under cachegrind.

#include <stdlib.h>

int main(int argc, char **argv) {
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 1;
    for (long i = 0; i < rounds; i++) {
        for (size_t size = 16; size <= 1024; size *= 4) {
            void *volatile block = malloc(size);
            free(block);
        }
    }
    return 0;
}
