// Reads a file of batches ahead of their use, and says how far reading and working overlapped.
//
//   prefetch FILE                      batches of 4 MiB, two ahead
//   prefetch FILE --batch 1048576 --slots 5 --threads 4 --direct
//
// Work is a checksum of each batch. First the file is read and worked on in turns, with one slot and
// no threads, then ahead.

#define _XOPEN_SOURCE 700

#include <errno.h>
#include <fcntl.h>
#include <forebay.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SLOTS_MAX 64

static const char usage[] = "usage: prefetch FILE [--batch BYTES] [--slots N] [--threads N] [--direct]\n";

struct wish {
    const char *path;
    uint64_t batch, slots, threads;
    uint32_t flags;
};

struct outcome {
    uint64_t batches, sum;
    double seconds, working;
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int failed(const char *what) {
    fprintf(stderr, "prefetch: %s: %s\n", what, forebay_last_error());
    return 1;
}

// Fletcher's sum, modulo 2^32.
static uint64_t checksum(const unsigned char *bytes, size_t size) {
    uint32_t first = 0, second = 0;
    for (size_t at = 0; at < size; at++) {
        first += bytes[at];
        second += first;
    }
    return (uint64_t)second << 32 | first;
}

static int submit(forebay_prefetcher *prefetcher, const struct wish *wish, int fd, uint64_t offset,
                  uint64_t end, uint64_t *ticket) {
    forebay_prefetch_leaf leaf = {.fd = fd, .offset = offset};
    leaf.flags = FOREBAY_PREFETCH_LEAF_FILE | wish->flags;
    leaf.size = (size_t)(end - offset < wish->batch ? end - offset : wish->batch);
    return forebay_prefetch_submit(prefetcher, &leaf, 1, FOREBAY_PREFETCH_FOREVER, ticket);
}

// Works on each batch, the next ones being read: as many as there are slots beside this one's.
static int work(forebay_pool *pool, const struct wish *wish, int fd, uint64_t bytes, int ahead,
                struct outcome *outcome) {
    forebay_prefetcher_config config = FOREBAY_PREFETCHER_CONFIG_INIT;
    config.slot_bytes = wish->batch;
    config.slots = ahead ? (uint32_t)wish->slots : 1;
    config.copy_threads = ahead ? (uint32_t)wish->threads : 0;
    config.flags = ahead ? 0 : FOREBAY_PREFETCHER_SYNCHRONOUS;
    forebay_prefetcher *prefetcher;
    if (forebay_prefetcher_create(pool, &config, &prefetcher) != FOREBAY_OK)
        return failed("no prefetcher");
    uint64_t tickets[SLOTS_MAX], submitted = 0, begun = 0;
    const uint64_t batches = (bytes + wish->batch - 1) / wish->batch;
    double start = now();
    int status = 0;
    while (begun < batches && status == 0) {
        while (submitted < batches && submitted - begun < config.slots && status == 0) {
            uint64_t *ticket = &tickets[submitted % config.slots];
            if (submit(prefetcher, wish, fd, submitted * wish->batch, bytes, ticket) != FOREBAY_OK)
                status = failed("submit");
            submitted++;
        }
        forebay_prefetch_batch batch;
        uint64_t ticket = tickets[begun % config.slots];
        if (status == 0 && forebay_prefetch_wait(prefetcher, ticket, NULL, &batch) != FOREBAY_OK)
            status = failed("wait");
        if (status == 0) {
            double before = now();
            // The same whatever the order is.
            outcome->sum += checksum(batch.ptr, batch.size) * (2 * begun + 1);
            outcome->working += now() - before;
            if (forebay_prefetch_release(prefetcher, ticket, NULL) != FOREBAY_OK)
                status = failed("release");
        }
        begun++;
    }
    outcome->seconds = now() - start;
    outcome->batches = batches;
    if (forebay_prefetcher_destroy(prefetcher) != FOREBAY_OK && status == 0)
        status = failed("destroy");
    return status;
}

static void print(const char *name, uint64_t bytes, const struct outcome *outcome) {
    printf("%-10s %8.3f s  %8.2f GB/s  working %5.1f %% of the time, checksum %016" PRIx64 "\n", name,
           outcome->seconds, (double)bytes / outcome->seconds * 1e-9,
           100 * outcome->working / outcome->seconds, outcome->sum);
}

static int run(const struct wish *wish) {
    int fd = open(wish->path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    if (fd < 0 || fstat(fd, &about) != 0) {
        fprintf(stderr, "prefetch: %s: %s\n", wish->path, strerror(errno));
        return 1;
    }
    uint64_t bytes = (uint64_t)about.st_size;
    forebay_pool *pool;
    if (forebay_pool_create(NULL, &pool) != FOREBAY_OK) {
        close(fd);
        return failed("no pool");
    }
    struct outcome turns = {0}, ahead = {0};
    int status = work(pool, wish, fd, bytes, 0, &turns);
    if (status == 0)
        status = work(pool, wish, fd, bytes, 1, &ahead);
    forebay_pool_destroy(pool);
    close(fd);
    if (status != 0)
        return status;
    printf("%s: %" PRIu64 " batches of %" PRIu64 " bytes\n", wish->path, ahead.batches, wish->batch);
    print("in turns", bytes, &turns);
    print("ahead", bytes, &ahead);
    // What reading and working take when neither waits for the other is the longer of the two.
    double reading = turns.seconds - turns.working;
    double best = reading > turns.working ? reading : turns.working;
    printf("%-10s %8.3f s  is the least that both take in turns; overlap %.2f\n", "limit", best,
           best / ahead.seconds);
    if (ahead.sum != turns.sum) {
        fprintf(stderr, "prefetch: the checksums differ\n");
        return 1;
    }
    return 0;
}

static int number(const char *text, uint64_t least, uint64_t most, uint64_t *to) {
    char *end;
    errno = 0;
    *to = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 && *to >= least && *to <= most;
}

int main(int argc, char **argv) {
    struct wish wish = {NULL, (uint64_t)4 << 20, 3, 2, 0};
    for (int at = 1; at < argc; at++) {
        const char *argument = argv[at], *value = argv[at + 1];
        int right = 1;
        if (strcmp(argument, "--direct") == 0) {
            wish.flags = FOREBAY_PREFETCH_LEAF_DIRECT;
        } else if (argument[0] != '-' && wish.path == NULL) {
            wish.path = argument;
        } else {
            at++;
            right = value != NULL && ((strcmp(argument, "--batch") == 0 &&
                                       number(value, 4096, (uint64_t)1 << 40, &wish.batch)) ||
                                      (strcmp(argument, "--slots") == 0 &&
                                       number(value, 1, SLOTS_MAX, &wish.slots)) ||
                                      (strcmp(argument, "--threads") == 0 &&
                                       number(value, 1, 64, &wish.threads)));
        }
        if (!right) {
            fprintf(stderr, "prefetch: not understood: %s\n%s", argument, usage);
            return 2;
        }
    }
    if (wish.path == NULL) {
        fputs(usage, stderr);
        return 2;
    }
    return run(&wish);
}
