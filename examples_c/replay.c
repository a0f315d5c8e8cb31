// Replays a trace of allocations into a forebay pool and into malloc, round by round in turn,
// and prints what each cost. `make run` runs it on a training step of a GPT-like model.

#include <errno.h>
#include <forebay.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ROUNDS 1000

static const char usage[] =
    "usage: replay [options] [TRACE]\n"
    "TRACE is a log of RAPIDS RMM, plain or gzip; examples_c/gpt_step.csv.gz if none is given.\n"
    "  --rounds N     replay it N times into each, 1 to 1000; 5 if not given\n"
    "  --no-touch     leave out the section in which the memory is written to\n"
    "  --policy NAME  balanced, conservative, aggressive_reuse, quality_first, latency_first\n"
    "  --limit BYTES  what the pool may map at most; 0, the whole machine, if not given\n";

static const char *const policies[] = {"balanced", "conservative", "aggressive_reuse",
                                       "quality_first", "latency_first"};

struct options {
    const char *trace;
    uint32_t rounds;
    int touch;
    int32_t policy;
    uint64_t limit;
};

// What one allocator did in each round. The pool's counters stay zero for malloc.
struct rounds {
    double ns_per_operation[MAX_ROUNDS];
    double page_faults[MAX_ROUNDS];
    double hit_percent[MAX_ROUNDS];
    double system_calls[MAX_ROUNDS];
    forebay_replay_report last;
    uint64_t failed;
};

static int forebay_failed(const char *what) {
    fprintf(stderr, "replay: %s: %s\n", what, forebay_last_error());
    return 1;
}

static int wrong_usage(const char *problem, const char *argument) {
    fprintf(stderr, "replay: %s: %s\n%s", problem, argument, usage);
    return 2;
}

// One round into `pool`, or into malloc when it is NULL. 0, or the exit status.
static int replay_round(forebay_pool *pool, const struct options *options, int touch,
                        struct rounds *to, uint32_t round) {
    forebay_pool_statistics before = FOREBAY_POOL_STATISTICS_INIT;
    forebay_pool_statistics after = FOREBAY_POOL_STATISTICS_INIT;
    forebay_replay_options how = FOREBAY_REPLAY_OPTIONS_INIT;
    forebay_replay_report *report = &to->last;
    report->struct_size = sizeof *report;
    how.flags = touch ? FOREBAY_REPLAY_TOUCH : 0;
    if (pool != NULL && forebay_pool_stats(pool, &before) != FOREBAY_OK)
        return forebay_failed("statistics");
    if (forebay_trace_replay(pool, options->trace, &how, report) != FOREBAY_OK)
        return forebay_failed(options->trace);
    if (pool != NULL && forebay_pool_stats(pool, &after) != FOREBAY_OK)
        return forebay_failed("statistics");

    uint64_t operations = report->allocations + report->frees;
    uint64_t hits = after.hits - before.hits;
    uint64_t served = hits + after.misses - before.misses;
    to->ns_per_operation[round] =
        operations == 0 ? 0 : (double)report->nanoseconds / (double)operations;
    to->page_faults[round] = (double)(report->minor_faults + report->major_faults);
    to->hit_percent[round] = served == 0 ? 0 : 100 * (double)hits / (double)served;
    to->system_calls[round] = (double)(after.system_calls - before.system_calls);
    to->failed += report->failed_allocations;
    return 0;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The median of all rounds but the first. Sorts them.
static double later(double *values, uint32_t rounds) {
    uint32_t count = rounds - 1;
    qsort(values + 1, count, sizeof *values, by_value);
    return (values[1 + (count - 1) / 2] + values[1 + count / 2]) / 2;
}

static void print_cell(int known, double value, const char *unit) {
    char text[32] = "-";
    if (known)
        snprintf(text, sizeof text, value < 1000 && *unit != 'x' ? "%.1f%s" : "%.0f%s", value,
                 *unit == 'x' ? "" : unit);
    printf("%12s", text);
}

// `unit` "x" is a count. `malloc` NULL: it cannot tell.
static void print_rounds(const char *name, double *forebay, double *malloc_, uint32_t rounds,
                         const char *unit) {
    printf("  %-22s", name);
    print_cell(1, forebay[0], unit);
    print_cell(rounds > 1, rounds > 1 ? later(forebay, rounds) : 0, unit);
    print_cell(malloc_ != NULL, malloc_ != NULL ? malloc_[0] : 0, unit);
    print_cell(malloc_ != NULL && rounds > 1,
               malloc_ != NULL && rounds > 1 ? later(malloc_, rounds) : 0, unit);
    putchar('\n');
}

static double mib(uint64_t bytes) { return (double)bytes / (1 << 20); }

static void print_section(const struct options *options, int touch, struct rounds *forebay,
                          struct rounds *malloc_, const forebay_pool_statistics *stats) {
    printf("\n  %-22s%24s%24s\n", touch ? "EVERY PAGE WRITTEN TO" : "BOOKKEEPING ONLY", "forebay",
           "malloc");
    printf("  %-22s%12s%12s%12s%12s\n", "per round", "first", "later", "first", "later");
    print_rounds("ns per operation", forebay->ns_per_operation, malloc_->ns_per_operation,
                 options->rounds, "");
    print_rounds("page faults", forebay->page_faults, malloc_->page_faults, options->rounds, "x");
    print_rounds("system calls", forebay->system_calls, NULL, options->rounds, "x");
    print_rounds("hit rate", forebay->hit_percent, NULL, options->rounds, " %");
    printf("  %-22s%24.1f%24.1f\n", "peak requested, MiB", mib(stats->requested_peak),
           mib(malloc_->last.peak_requested));
    printf("  %-22s%24.1f%24s\n", "peak allocated, MiB", mib(stats->allocated_peak), "-");
    printf("  %-22s%24.1f%24s\n", "peak reserved, MiB", mib(stats->reserved_peak), "-");
    double used = stats->reserved_peak == 0
                      ? 1
                      : (double)stats->requested_peak / (double)stats->reserved_peak;
    printf("  %-22s%22.1f %%%24s\n", "fragmentation", 100 * (1 - used), "-");
    if (forebay->failed + malloc_->failed > 0)
        printf("  %-22s%24" PRIu64 "%24" PRIu64 "\n", "failed, all rounds", forebay->failed,
               malloc_->failed);
}

static void print_heading(const struct options *options, const forebay_replay_report *report) {
    printf("%s: %" PRIu64 " allocations, %" PRIu64 " frees\n", options->trace,
           report->allocations, report->frees);
    uint32_t version = forebay_version();
    printf("forebay %" PRIu32 ".%" PRIu32 ".%" PRIu32 ", policy %s; thread CPU time; rounds in turn: %" PRIu32
           "\n",
           version >> 16, version >> 8 & 255, version & 255, policies[options->policy],
           options->rounds);
}

// A fresh pool beside malloc, with or without writing to the memory. 0, or the exit status.
static int replay_section(const struct options *options, int touch, int first_section) {
    static struct rounds forebay, malloc_;
    memset(&forebay, 0, sizeof forebay);
    memset(&malloc_, 0, sizeof malloc_);
    forebay_pool_config config = FOREBAY_POOL_CONFIG_INIT;
    config.policy = options->policy;
    config.max_bytes = options->limit;
    forebay_pool *pool;
    if (forebay_pool_create(&config, &pool) != FOREBAY_OK) return forebay_failed("pool");

    int status = 0;
    for (uint32_t round = 0; round < options->rounds && status == 0; round++) {
        // Who goes first changes, for what the other left behind in the processor's caches.
        for (uint32_t turn = round; turn < round + 2 && status == 0; turn++)
            status = turn % 2 == 0 ? replay_round(pool, options, touch, &forebay, round)
                                   : replay_round(NULL, options, touch, &malloc_, round);
    }
    forebay_pool_statistics stats = FOREBAY_POOL_STATISTICS_INIT;
    if (status == 0 && forebay_pool_stats(pool, &stats) != FOREBAY_OK)
        status = forebay_failed("statistics");
    if (status == 0) {
        if (first_section) print_heading(options, &malloc_.last);
        print_section(options, touch, &forebay, &malloc_, &stats);
        if (forebay.failed + malloc_.failed > 0) {
            fprintf(stderr, "replay: allocations failed, so the figures are not of equal work\n");
            status = 1;
        }
    }
    if (forebay_pool_destroy(pool) != FOREBAY_OK && status == 0) status = forebay_failed("pool");
    return status;
}

// 0, or -1 when `text` is no number from `least` to `most`.
static int number(const char *text, uint64_t least, uint64_t most, uint64_t *out) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0) return -1;
    if (value < least || value > most) return -1;
    *out = value;
    return 0;
}

static int policy_named(const char *name, int32_t *out) {
    for (int32_t i = 0; i < (int32_t)(sizeof policies / sizeof *policies); i++)
        if (strcmp(policies[i], name) == 0) return *out = i, 0;
    return -1;
}

int main(int argc, char **argv) {
    struct options options = {"examples_c/gpt_step.csv.gz", 5, 1, FOREBAY_POLICY_BALANCED, 0};
    int named = 0;
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        uint64_t rounds;
        if (strcmp(argument, "--help") == 0) return fputs(usage, stdout) < 0;
        if (strcmp(argument, "--no-touch") == 0) {
            options.touch = 0;
        } else if (strcmp(argument, "--rounds") == 0) {
            if (number(value, 1, MAX_ROUNDS, &rounds) != 0)
                return wrong_usage("--rounds needs a number from 1 to 1000, not", value);
            options.rounds = (uint32_t)rounds;
            i++;
        } else if (strcmp(argument, "--policy") == 0) {
            if (policy_named(value, &options.policy) != 0)
                return wrong_usage("--policy has no such name", value);
            i++;
        } else if (strcmp(argument, "--limit") == 0) {
            if (number(value, 0, UINT64_MAX, &options.limit) != 0)
                return wrong_usage("--limit needs a number of bytes, not", value);
            i++;
        } else if (argument[0] == '-') {
            return wrong_usage("no such option", argument);
        } else if (named++ == 0) {
            options.trace = argument;
        } else {
            return wrong_usage("one trace at a time; the second is", argument);
        }
    }

    int status = options.touch ? replay_section(&options, 1, 1) : 0;
    if (status == 0) status = replay_section(&options, 0, !options.touch);
    if (status == 0)
        puts("\nlater: the median of the rounds after the first.  -: malloc cannot tell.\n"
             "fragmentation: 1 - peak requested / peak reserved.");
    if (status == 0 && (fflush(stdout) != 0 || ferror(stdout))) {
        perror("replay: output");
        status = 1;
    }
    return status;
}
