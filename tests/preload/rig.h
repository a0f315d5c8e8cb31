// What the programs of tests/preload.rs share. Each checks one thing that a library under
// LD_PRELOAD can get wrong, and says where it stands when it does not hold.

#ifndef FOREBAY_TESTS_PRELOAD_RIG_H
#define FOREBAY_TESTS_PRELOAD_RIG_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);      \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

// Keeps the compiler from leaving out what it takes for useless.
static inline void *used(void *ptr)
{
    __asm__ volatile("" : "+r"(ptr) : : "memory");
    return ptr;
}

// Whether a block is the pool's: those begin at multiples of 512, those of the C library 16 bytes
// behind one.
static inline int is_pooled(const void *ptr)
{
    return ptr != NULL && (uintptr_t)ptr % 512 == 0;
}

static inline void sleep_ms(long ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

// Does what makes a pool worth its while, until there is one; 0 when there is none after as many
// seconds as FOREBAY_TEST_WAIT says, or a minute.
static inline int warm_up(void)
{
    const char *wait = getenv("FOREBAY_TEST_WAIT");
    long seconds = wait != NULL ? strtol(wait, NULL, 10) : 60;
    for (long n = 0; n < seconds * 100; n++) {
        // Another allocator's may come to lie like the pool's, but not three of them.
        void *blocks[3] = {used(malloc(MIB)), used(malloc(MIB)), used(malloc(MIB))};
        int pooled = is_pooled(blocks[0]) && is_pooled(blocks[1]) && is_pooled(blocks[2]);
        for (int at = 0; at < 3; at++) {
            free(blocks[at]);
        }
        if (pooled) {
            return 1;
        }
        if (n > 16) {
            sleep_ms(10);
        }
    }
    return 0;
}

static inline uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

// A number out of a file of /proc: the first behind `name`.
static inline long number_in(const char *path, const char *name)
{
    char line[4096];
    long number = -1;
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    while (number < 0 && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0) {
            number = strtol(line + strlen(name), NULL, 10);
        }
    }
    fclose(file);
    return number;
}

// How many lines of /proc/self/maps have `name` in them.
static inline int mapped(const char *name)
{
    char line[4096];
    int count = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        count += strstr(line, name) != NULL;
    }
    fclose(file);
    return count;
}

#endif
