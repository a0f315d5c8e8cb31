// Blocks that other threads free, and threads that end with blocks and take some in the end.

#include "rig.h"

enum { THREADS = 8, ROUNDS = 300, SLOTS = 64 };

static void *slots[SLOTS];
static pthread_key_t key;

// Runs when the thread is as good as gone.
static void in_the_end(void *value)
{
    memset(value, 2, MIB);
    void *block = malloc(2 * MIB);
    memset(block, 3, 2 * MIB);
    free(value);
    block = realloc(block, 3 * MIB);
    free(block);
    // Once more, for the rounds that the C library makes.
    static __thread int rounds;
    if (rounds++ < 2) {
        pthread_setspecific(key, malloc(MIB));
    }
}

static void *work(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    pthread_setspecific(key, malloc(MIB));
    for (int round = 0; round < ROUNDS; round++) {
        size_t size = 40 * KIB + next_random(&random) % (300 * KIB);
        unsigned char *block = malloc(size);
        memset(block, (int)(size % 251), size);
        memcpy(block, &size, sizeof size);
        block = __atomic_exchange_n(&slots[next_random(&random) % SLOTS], block, __ATOMIC_ACQ_REL);
        if (block != NULL) {
            memcpy(&size, block, sizeof size);
            for (size_t at = sizeof size; at < size; at += 97) {
                CHECK(block[at] == size % 251);
            }
            free(block);
        }
    }
    return NULL;
}

int main(void)
{
    CHECK(warm_up());
    CHECK(pthread_key_create(&key, in_the_end) == 0);
    for (int generation = 0; generation < 10; generation++) {
        pthread_t threads[THREADS];
        for (uintptr_t n = 0; n < THREADS; n++) {
            CHECK(pthread_create(&threads[n], NULL, work, (void *)(n + 1)) == 0);
        }
        for (int n = 0; n < THREADS; n++) {
            CHECK(pthread_join(threads[n], NULL) == 0);
        }
    }
    for (int n = 0; n < SLOTS; n++) {
        free(slots[n]);
    }
    puts("done");
    return 0;
}
