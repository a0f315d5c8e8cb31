// One case, so many rounds of it: `pairs CASE ROUNDS`. Prints how many operations that were.
// scripts/budget.sh runs it under cachegrind with N and with 2 N rounds; the difference is
// what N rounds cost, without the start, the warm-up and the end.

#include <linux/membarrier.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "forebay.h"

#define BATCH 1000

static forebay_pool *pool;

static void need(int fine, const char *what) {
    if (!fine) {
        fprintf(stderr, "pairs: %s: %s\n", what, forebay_last_error());
        exit(1);
    }
}

static void pairs(size_t size, long rounds) {
    for (long i = 0; i < rounds; i++) {
        void *block;
        need(forebay_alloc(pool, size, NULL, &block) == FOREBAY_OK, "alloc");
        need(forebay_free(pool, block, NULL) == FOREBAY_OK, "free");
    }
}

// More blocks than a front cache holds: it is filled from the shared pool and emptied into it.
static void batches(long rounds) {
    static size_t sizes[BATCH];
    static void *blocks[BATCH];
    for (int i = 0; i < BATCH; i++) sizes[i] = 256;
    for (long i = 0; i < rounds; i++) {
        need(forebay_alloc_batch(pool, sizes, BATCH, NULL, blocks) == FOREBAY_OK, "alloc_batch");
        need(forebay_free_batch(pool, blocks, BATCH, NULL, NULL) == FOREBAY_OK, "free_batch");
    }
}

// One thread allocates, another one frees.
static void *handed[BATCH];
static pthread_barrier_t turn;

static void *freeing(void *rounds) {
    for (long i = 0; i < *(long *)rounds; i++) {
        pthread_barrier_wait(&turn);
        for (int j = 0; j < BATCH; j++)
            need(forebay_free(pool, handed[j], NULL) == FOREBAY_OK, "free");
        pthread_barrier_wait(&turn);
    }
    return NULL;
}

static void across(long rounds) {
    pthread_t thread;
    need(pthread_barrier_init(&turn, NULL, 2) == 0, "pthread_barrier_init");
    need(pthread_create(&thread, NULL, freeing, &rounds) == 0, "pthread_create");
    for (long i = 0; i < rounds; i++) {
        for (int j = 0; j < BATCH; j++)
            need(forebay_alloc(pool, 256, NULL, &handed[j]) == FOREBAY_OK, "alloc");
        pthread_barrier_wait(&turn);
        pthread_barrier_wait(&turn);
    }
    pthread_join(thread, NULL);
}

static long replay(const char *path, long rounds) {
    forebay_replay_options options = FOREBAY_REPLAY_OPTIONS_INIT;
    forebay_replay_report report = FOREBAY_REPLAY_REPORT_INIT;
    options.repeat = (uint32_t)rounds;
    need(forebay_trace_replay(pool, path, &options, &report) == FOREBAY_OK, "replay");
    need(report.failed_allocations == 0, "replay: allocations failed");
    return (long)report.events;
}

int main(int argc, char **argv) {
    long rounds = argc == 3 ? atol(argv[2]) : 0;
    if (rounds < 1) {
        fprintf(stderr, "usage: pairs CASE ROUNDS\n");
        return 2;
    }
    // Without it front caches are only used under their lock, and the counts mean nothing.
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) != 0 ||
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) != 0) {
        perror("pairs: membarrier");
        return 1;
    }
    forebay_pool_config config = FOREBAY_POOL_CONFIG_INIT;
    config.max_bytes = 16ull << 30;
    need(forebay_pool_create(&config, &pool) == FOREBAY_OK, "pool_create");
    const char *name = argv[1];
    long operations;
    if (strncmp(name, "pair-", 5) == 0) {
        pairs((size_t)atol(name + 5), 100);
        pairs((size_t)atol(name + 5), rounds);
        operations = rounds;
    } else if (strcmp(name, "batch-256") == 0) {
        batches(10);
        batches(rounds);
        operations = rounds * BATCH;
    } else if (strcmp(name, "across-256") == 0) {
        across(rounds + 10);
        operations = rounds * BATCH;
    } else if (strncmp(name, "replay-", 7) == 0) {
        replay(name + 7, 64);
        operations = replay(name + 7, rounds);
    } else {
        fprintf(stderr, "pairs: no case `%s`\n", name);
        return 2;
    }
    need(forebay_pool_destroy(pool) == FOREBAY_OK, "pool_destroy");
    printf("%ld\n", operations);
    return 0;
}
