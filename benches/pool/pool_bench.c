/* Measures one allocator: nanoseconds of thread CPU time per operation, one line per case.
 *
 * Thread CPU time leaves out the time other programs ran; run.py interleaves rounds over the
 * allocators and compares medians. Each case runs in a process forked for it, so that what an
 * earlier case left behind (kept memory, adapted thresholds) does not reach it. */
#define _GNU_SOURCE
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "allocator.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define PAGE 4096
#define MAX_CASES 64
#define MAX_BATCH 1000
#define CASE_SECONDS 30 /* a case that takes longer has gone wrong */

struct bench_case {
    char name[32];
    double (*run)(const struct bench_case *c); /* returns ns per operation */
    size_t size;                               /* of a block, where all are of one size */
    unsigned count;                            /* blocks live at a time, where it is fixed */
    bool touched;                              /* write one byte in each page of a block */
    unsigned threads;                          /* 1 or 2, all on the one allocator */
};

static struct allocator allocator;
static double budget_ns = 5e6; /* CPU time measured per case and thread, after warming up */
static uint64_t seed = 1;

static uint64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static long page_faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_minflt;
}

static inline void touch(void *ptr, size_t size) {
    for (size_t at = 0; at < size; at += PAGE) ((volatile char *)ptr)[at] = 1;
}

/* xorshift64*: a nanosecond a draw, the same sequence for every allocator of a round. */
static inline uint32_t draw(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)((*state * 0x2545F4914F6CDD1Du) >> 32);
}

static inline uint32_t draw_below(uint64_t *state, uint32_t bound) {
    return (uint32_t)(((uint64_t)draw(state) * bound) >> 32);
}

/* ---- threads ---- */

struct worker {
    const struct bench_case *c;
    double (*measure)(struct worker *w);
    pthread_barrier_t *start; /* met when warm */
    unsigned index;
    double ns;
};

/* Moves the calling thread to the index-th CPU that the process may use. On one CPU two threads would
 * take turns, and what they cost each other would not show. */
static void pin(unsigned index) {
    cpu_set_t allowed, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) fail("sched_getaffinity failed");
    for (unsigned cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || seen++ < index) continue;
        CPU_SET(cpu, &one);
        if (pthread_setaffinity_np(pthread_self(), sizeof one, &one) != 0) fail("cannot use CPU %u", cpu);
        return;
    }
    fail("two threads want two CPUs");
}

static void *worker_main(void *argument) {
    struct worker *w = argument;
    pin(w->index);
    if (allocator.thread_start != NULL) allocator.thread_start();
    w->ns = w->measure(w);
    if (allocator.thread_end != NULL) allocator.thread_end();
    return NULL;
}

/* Runs measure on the case's threads and returns the mean of what they measured. One thread means
 * the main thread, alone: allocators may be cheaper in a process that never had a second. */
static double run_workers(const struct bench_case *c, double (*measure)(struct worker *)) {
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, c->threads);
    struct worker workers[2];
    pthread_t ids[2];
    for (unsigned i = 0; i < c->threads; i++)
        workers[i] = (struct worker){.c = c, .measure = measure, .start = &start, .index = i};
    if (c->threads == 1) return measure(&workers[0]);
    double sum = 0;
    for (unsigned i = 0; i < c->threads; i++)
        if (pthread_create(&ids[i], NULL, worker_main, &workers[i]) != 0) fail("no thread");
    for (unsigned i = 0; i < c->threads; i++) {
        pthread_join(ids[i], NULL);
        sum += workers[i].ns;
    }
    return sum / c->threads;
}

/* Repetitions before any counts: fresh memory has been touched and adaptive thresholds have settled
 * by then. Where one alone takes long, it has to do. */
#define WARM_REPETITIONS 8
#define WARM_REPETITIONS_NS 40000000

/* Doubles the repetitions until they take an eighth of the budget, then repeats that many until the
 * budget is spent. */
static double time_repetitions(struct worker *w, void (*body)(struct worker *, uint64_t)) {
    uint64_t repetitions = 1, done = 0, before = cpu_ns(), spent;
    for (int i = 0; i < WARM_REPETITIONS && cpu_ns() - before < WARM_REPETITIONS_NS; i++) body(w, 1);
    pthread_barrier_wait(w->start);
    for (;; repetitions *= 2) {
        before = cpu_ns();
        body(w, repetitions);
        spent = cpu_ns() - before;
        if ((double)spent >= budget_ns / 8) break;
    }
    done = repetitions;
    while ((double)spent < budget_ns) {
        before = cpu_ns();
        body(w, repetitions);
        spent += cpu_ns() - before;
        done += repetitions;
    }
    return (double)spent / (double)done;
}

/* ---- pairs: a block is freed before the next is taken ---- */

static void pair_body(struct worker *w, uint64_t repetitions) {
    size_t size = w->c->size;
    bool touched = w->c->touched;
    for (; repetitions > 0; repetitions--) {
        void *ptr = take(&allocator, size);
        if (touched) touch(ptr, size);
        give(&allocator, ptr);
    }
}

static double pair_measure(struct worker *w) { return time_repetitions(w, pair_body); }
static double pair_run(const struct bench_case *c) { return run_workers(c, pair_measure); }

/* ---- batches: count blocks are live, then all are freed, oldest first ---- */

static void batch_body(struct worker *w, uint64_t repetitions) {
    void *blocks[MAX_BATCH];
    for (; repetitions > 0; repetitions--) {
        for (unsigned i = 0; i < w->c->count; i++) blocks[i] = take(&allocator, w->c->size);
        for (unsigned i = 0; i < w->c->count; i++) give(&allocator, blocks[i]);
    }
}

static double batch_measure(struct worker *w) {
    return time_repetitions(w, batch_body) / w->c->count;
}
static double batch_run(const struct bench_case *c) { return run_workers(c, batch_measure); }

/* ---- handed over: one thread takes batches, another frees them; two batches are on the way ---- */

#define EXCHANGES 300
#define WARM_EXCHANGES 30

static struct {
    sem_t full[2], empty[2];
    void *blocks[2][MAX_BATCH];
} exchange;

/* What two readings of the clock cost; short batches would show it. */
static uint64_t clock_cost(void) {
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < 1000; i++) {
        uint64_t before = cpu_ns(), cost = cpu_ns() - before;
        if (cost < least) least = cost;
    }
    return least;
}

static double exchange_measure(struct worker *w) {
    const struct bench_case *c = w->c;
    bool taker = w->index == 0;
    uint64_t spent = 0, cost = clock_cost();
    for (int i = 0; i < EXCHANGES; i++) {
        void **blocks = exchange.blocks[i % 2];
        while (sem_wait(taker ? &exchange.empty[i % 2] : &exchange.full[i % 2]) != 0) continue;
        uint64_t before = cpu_ns();
        for (unsigned k = 0; k < c->count; k++) {
            if (taker)
                blocks[k] = take(&allocator, c->size);
            else
                give(&allocator, blocks[k]);
        }
        uint64_t took = cpu_ns() - before;
        if (i >= WARM_EXCHANGES) spent += took > cost ? took - cost : 0;
        sem_post(taker ? &exchange.full[i % 2] : &exchange.empty[i % 2]);
    }
    return (double)spent / (EXCHANGES - WARM_EXCHANGES) / c->count;
}

static double exchange_run(const struct bench_case *c) {
    for (int i = 0; i < 2; i++) {
        sem_init(&exchange.full[i], 0, 0);
        sem_init(&exchange.empty[i], 0, 1);
    }
    /* The mean of the two, twice: what taking costs one thread plus what freeing costs the other. */
    return run_workers(c, exchange_measure) * 2;
}

/* ---- mixed tensors: 64 slots; a random slot is freed if held, else gets a random size ---- */

#define SLOTS 64
#define FILL_FLIPS 128 /* from empty slots to about half of them held */
#define TOUCHED_FLIPS 200
#define UNTOUCHED_FLIPS 2000
#define WARM_PASSES 30
#define WARM_NS 80000000

static const size_t tensor_sizes[] = {
    512,       2 * KIB,   4 * KIB, 16 * KIB, 64 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, 256 * KIB, 512 * KIB,
    1 * MIB,   1 * MIB,   2 * MIB, 3211264,  4 * MIB,  6422528,  8 * MIB,   12845056,  16 * MIB,  38535168,
};

static void flip(void **slots, uint64_t *state, bool touched) {
    void **slot = &slots[draw_below(state, SLOTS)];
    if (*slot != NULL) {
        give(&allocator, *slot);
        *slot = NULL;
    } else {
        size_t size = tensor_sizes[draw_below(state, sizeof tensor_sizes / sizeof *tensor_sizes)];
        *slot = take(&allocator, size);
        if (touched) touch(*slot, size);
    }
}

/* One pass from empty slots to empty slots; returns the ns of its flips after the fill. Every pass of
 * every allocator makes the same draws: the few largest sizes weigh most. It repeats itself, as a
 * training step does, so an allocator that keeps memory has all it needs after a few passes. */
static uint64_t mixed_pass(const struct worker *w, unsigned flips) {
    void *slots[SLOTS] = {NULL};
    uint64_t state = seed * 2 + w->index, before, took;
    for (unsigned i = 0; i < FILL_FLIPS; i++) flip(slots, &state, w->c->touched);
    before = cpu_ns();
    for (unsigned i = 0; i < flips; i++) flip(slots, &state, w->c->touched);
    took = cpu_ns() - before;
    for (unsigned i = 0; i < SLOTS; i++)
        if (slots[i] != NULL) give(&allocator, slots[i]);
    return took;
}

static double mixed_measure(struct worker *w) {
    unsigned flips = w->c->touched ? TOUCHED_FLIPS : UNTOUCHED_FLIPS;
    uint64_t begin = cpu_ns(), spent = 0, passes = 0;
    long first = LONG_MAX, faults = 0;
    /* Who still faults in as many pages as at first will go on so, and is not waited for. Who keeps
     * them is: a virtual machine's host may take 6 ms to find the memory behind a new huge page. */
    for (int i = 0; i < WARM_PASSES && (faults < first / 4 || cpu_ns() - begin < WARM_NS); i++) {
        long so_far = page_faults();
        mixed_pass(w, flips);
        faults = page_faults() - so_far;
        if (i == 0) first = faults, faults = 0;
    }
    pthread_barrier_wait(w->start);
    while ((double)spent < budget_ns) {
        spent += mixed_pass(w, flips);
        passes++;
    }
    return (double)spent / (double)passes / (flips / 2);
}

static double mixed_run(const struct bench_case *c) { return run_workers(c, mixed_measure); }

/* ---- live: count blocks are live; a random one is freed and replaced by one of another size ---- */

#define LIVE_SIZES 4096 /* multiples of 64 B to 256 KiB, evenly spread on a log scale */

static size_t live_sizes[LIVE_SIZES];
static void **live_blocks;
static uint64_t live_state;

static void live_body(struct worker *w, uint64_t repetitions) {
    for (; repetitions > 0; repetitions--) {
        void **block = &live_blocks[draw_below(&live_state, w->c->count)];
        give(&allocator, *block);
        *block = take(&allocator, live_sizes[draw_below(&live_state, LIVE_SIZES)]);
    }
}

static double live_measure(struct worker *w) {
    live_body(w, 2 * (uint64_t)w->c->count); /* the order of the first blocks is forgotten */
    return time_repetitions(w, live_body) / 2;
}

static double live_run(const struct bench_case *c) {
    live_state = seed;
    live_blocks = calloc(c->count, sizeof *live_blocks);
    if (live_blocks == NULL) fail("no memory for %u pointers", c->count);
    for (int i = 0; i < LIVE_SIZES; i++)
        live_sizes[i] = ((size_t)exp2(12.0 * i / (LIVE_SIZES - 1))) * 64;
    for (unsigned i = 0; i < c->count; i++)
        live_blocks[i] = take(&allocator, live_sizes[draw_below(&live_state, LIVE_SIZES)]);
    return run_workers(c, live_measure);
}

/* ---- the list ---- */

static struct bench_case cases[MAX_CASES];
static unsigned case_count;

static void add(struct bench_case c, const char *kind, const char *detail) {
    if (case_count == MAX_CASES) fail("more than %d cases", MAX_CASES);
    snprintf(c.name, sizeof c.name, "%s%s%s%s%s", kind, c.touched ? "-touched" : "",
             *detail != '\0' ? "-" : "", detail, c.threads == 2 && c.run != exchange_run ? "-2t" : "");
    cases[case_count++] = c;
}

static void list_cases(void) {
    static const struct {
        const char *name;
        size_t size;
        unsigned batch;
    } sizes[] = {{"16B", 16, 1000},      {"256B", 256, 1000},      {"4KiB", 4 * KIB, 256},
                 {"64KiB", 64 * KIB, 64}, {"1MiB", MIB, 16},        {"16MiB", 16 * MIB, 8},
                 {"64MiB", 64 * MIB, 0}};
    static const struct {
        const char *name;
        unsigned count;
    } live[] = {{"1k", 1000}, {"10k", 10000}, {"100k", 100000}};
    const unsigned size_count = sizeof sizes / sizeof *sizes;

    for (unsigned threads = 1; threads <= 2; threads++)
        for (unsigned touched = 0; touched <= 1; touched++)
            for (unsigned i = 0; i < size_count; i++)
                add((struct bench_case){.run = pair_run, .size = sizes[i].size, .touched = touched,
                                        .threads = threads},
                    "pair", sizes[i].name);
    for (unsigned i = 0; i < size_count; i++) {
        if (sizes[i].batch == 0) continue;
        struct bench_case c = {.size = sizes[i].size, .count = sizes[i].batch};
        c.run = batch_run, c.threads = 1, add(c, "batch", sizes[i].name);
        c.run = exchange_run, c.threads = 2, add(c, "xfree", sizes[i].name);
    }
    for (unsigned threads = 1; threads <= 2; threads++)
        for (unsigned touched = 0; touched <= 1; touched++)
            add((struct bench_case){.run = mixed_run, .touched = touched, .threads = threads}, "mixed", "");
    for (unsigned i = 0; i < sizeof live / sizeof *live; i++)
        add((struct bench_case){.run = live_run, .count = live[i].count, .threads = 1}, "live",
            live[i].name);
}

static void run_case(const char *spec, const struct bench_case *c) {
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) fail("no process for case %s", c->name);
    if (child == 0) {
        alarm(CASE_SECONDS);
        allocator_open(&allocator, spec);
        printf("%s %.2f\n", c->name, c->run(c));
        fflush(stdout);
        _Exit(0);
    }
    int status;
    while (waitpid(child, &status, 0) < 0) continue;
    if (WIFSIGNALED(status))
        printf("%s failed: %s\n", c->name,
               WTERMSIG(status) == SIGALRM ? "took too long" : strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) != 0)
        printf("%s failed: exit status %d\n", c->name, WEXITSTATUS(status));
}

int main(int argc, char **argv) {
    list_cases();
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (unsigned i = 0; i < case_count; i++) puts(cases[i].name);
        return 0;
    }
    int at = 1;
    for (; at + 1 < argc && argv[at][0] == '-'; at += 2) {
        char *end;
        unsigned long value = strtoul(argv[at + 1], &end, 10);
        if (*end != '\0' || value == 0 || value > 60000) fail("%s wants 1 to 60000", argv[at]);
        if (strcmp(argv[at], "--time-ms") == 0)
            budget_ns = (double)value * 1e6;
        else if (strcmp(argv[at], "--seed") == 0)
            seed = value;
        else
            fail("unknown option %s", argv[at]);
    }
    if (argc - at < 2)
        fail("usage: pool_bench --list | pool_bench [--time-ms N] [--seed N] ALLOCATOR CASE...");
    const char *spec = argv[at++];
    for (; at < argc; at++) {
        unsigned i = 0;
        while (i < case_count && strcmp(cases[i].name, argv[at]) != 0) i++;
        if (i == case_count) fail("no case \"%s\"; --list names them", argv[at]);
        run_case(spec, &cases[i]);
    }
    return 0;
}
