// Eight threads, blocks of all sizes that others free, a fork every second, every byte checked.
// `stress SECONDS`.

#include "rig.h"

#include <sys/wait.h>

enum { THREADS = 8, SLOTS = 256 };

static unsigned char *slots[SLOTS];
static int stop;

// A block has its size in front; behind it what its size and address say.
static unsigned char expected(uintptr_t block, size_t size, size_t at)
{
    return (unsigned char)(block / 16 + size * 31 + at * 7);
}

static void fill(unsigned char *block, size_t size)
{
    memcpy(block, &size, sizeof size);
    for (size_t at = sizeof size; at < size; at++) {
        block[at] = expected((uintptr_t)block, size, at);
    }
}

static void check(const unsigned char *block, size_t limit, uintptr_t as)
{
    size_t size;
    memcpy(&size, block, sizeof size);
    for (size_t at = sizeof size; at < size && at < limit; at++) {
        if (block[at] != expected(as, size, at)) {
            fprintf(stderr, "a wrong byte: block %p of %zu bytes, at %zu\n", (void *)block, size,
                    at);
            abort();
        }
    }
}

static size_t size_of(uint64_t *random)
{
    switch (next_random(random) % 8) {
    case 0:
        return 16 + next_random(random) % (4 * MIB);
    case 1:
    case 2:
        return 16 + next_random(random) % (256 * KIB);
    case 3:
    case 4:
        return 60 * KIB + next_random(random) % (8 * KIB);
    default:
        return 16 + next_random(random) % 4096;
    }
}

static unsigned char *taken(uint64_t *random)
{
    size_t size = size_of(random);
    unsigned char *block = NULL;
    void *aligned = NULL;
    switch (next_random(random) % 4) {
    case 0:
        block = calloc(1, size);
        CHECK(block != NULL);
        for (size_t at = 0; at < size; at++) {
            CHECK(block[at] == 0);
        }
        break;
    case 1:
        CHECK(posix_memalign(&aligned, (size_t)16 << next_random(random) % 12, size) == 0);
        block = aligned;
        break;
    default:
        block = malloc(size);
    }
    CHECK(block != NULL);
    fill(block, size);
    return block;
}

static void turn(uint64_t *random)
{
    unsigned char **place = &slots[next_random(random) % SLOTS];
    unsigned char *block = __atomic_exchange_n(place, NULL, __ATOMIC_ACQ_REL);
    if (block != NULL && next_random(random) % 4 == 0) {
        check(block, SIZE_MAX, (uintptr_t)block);
        size_t size = size_of(random);
        size_t old;
        memcpy(&old, block, sizeof old);
        uintptr_t was = (uintptr_t)block;
        block = realloc(block, size);
        CHECK(block != NULL);
        check(block, size, was);
        fill(block, size);
    } else {
        if (block != NULL) {
            check(block, SIZE_MAX, (uintptr_t)block);
            free(block);
        }
        block = taken(random);
    }
    block = __atomic_exchange_n(place, block, __ATOMIC_ACQ_REL);
    if (block != NULL) {
        check(block, SIZE_MAX, (uintptr_t)block);
        free(block);
    }
}

static uint64_t turns;

static void *work(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        // Threads end, and others begin.
        for (int n = 0; n < 100; n++) {
            turn(&random);
        }
        __atomic_fetch_add(&turns, 100, __ATOMIC_RELAXED);
        if (next_random(&random) % 20 == 0) {
            break;
        }
    }
    return NULL;
}

static void child(uint64_t seed)
{
    alarm(120);
    for (int n = 0; n < 300; n++) {
        turn(&seed);
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    time_t end = time(NULL) + strtol(argv[1], NULL, 10);
    CHECK(warm_up());
    pthread_t threads[THREADS];
    for (uintptr_t n = 0; n < THREADS; n++) {
        CHECK(pthread_create(&threads[n], NULL, work, (void *)(n + 1)) == 0);
    }
    uint64_t seed = 100;
    int forks = 0;
    for (time_t last = time(NULL); time(NULL) < end;) {
        for (uintptr_t n = 0; n < THREADS; n++) {
            if (pthread_tryjoin_np(threads[n], NULL) == 0) {
                CHECK(pthread_create(&threads[n], NULL, work, (void *)++seed) == 0);
            }
        }
        if (time(NULL) != last) {
            last = time(NULL);
            pid_t pid = fork();
            if (pid == 0) {
                child(++seed);
            }
            int status = -1;
            CHECK(waitpid(pid, &status, 0) == pid);
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
            forks++;
        }
        sleep_ms(5);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int n = 0; n < THREADS; n++) {
        CHECK(pthread_join(threads[n], NULL) == 0);
    }
    for (int n = 0; n < SLOTS; n++) {
        if (slots[n] != NULL) {
            check(slots[n], SIZE_MAX, (uintptr_t)slots[n]);
            free(slots[n]);
        }
    }
    printf("done: %llu turns, %d forks\n", (unsigned long long)turns, forks);
    return 0;
}
