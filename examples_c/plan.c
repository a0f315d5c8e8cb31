// Plans the memory of a trace or an instance, says what it needs and what could be better, and draws
// it.
//
//   plan FILE                          a trace of RAPIDS RMM (first column Thread), plain or gzip;
//                                      or a CSV with the columns id,lower,upper,size
//   plan FILE --svg plan.svg           the plan beside the one of the first greedy order
//   plan FILE --save plan.csv          offsets, to be loaded by forebay_plan_load

#define _POSIX_C_SOURCE 200809L // isatty

#include <errno.h>
#include <forebay.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "usage: plan FILE [options]\n"
    "FILE is a log of RAPIDS RMM, plain or gzip, or a CSV with the columns id,lower,upper,size.\n"
    "  --seconds N   stop with the best plan so far after N seconds, 1 to 3600; 1 if not given\n"
    "  --seed N      another seed of the search\n"
    "  --top N       print the N largest tensors; 10 if not given\n"
    "  --svg FILE    write a picture, the first greedy plan above\n"
    "  --trace FILE  write a picture of the bytes live and reserved over time (traces only)\n"
    "  --save FILE   write the plan as CSV\n";

struct options {
    const char *file, *svg, *trace, *save;
    uint64_t seconds, seed, top;
};

static int forebay_failed(const char *what) {
    fprintf(stderr, "plan: %s: %s\n", what, forebay_last_error());
    return 1;
}

static int wrong_usage(const char *problem, const char *argument) {
    fprintf(stderr, "plan: %s: %s\n%s", problem, argument, usage);
    return 2;
}

static int number(const char *text, uint64_t least, uint64_t most, uint64_t *to) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0) return 0;
    *to = value;
    return value >= least && value <= most;
}

static double mib(uint64_t bytes) { return (double)bytes / (1 << 20); }

// Percent above the bound.
static double above(uint64_t bytes, uint64_t bound) {
    return bound == 0 ? 0 : 100 * ((double)bytes / (double)bound - 1);
}

// A bar on stderr: how much of the time is over. `user` is the time in nanoseconds.
static int draw_bar(const forebay_plan_progress *progress, void *user) {
    double share = (double)progress->elapsed_ns / *(const double *)user;
    int full = (int)(30 * (share < 1 ? share : 1));
    fprintf(stderr, "\r[%.*s%*s] %5.1f s, %.1f MiB, %.2f %% above the bound ", full,
            "==============================", 30 - full, "", (double)progress->elapsed_ns * 1e-9,
            mib(progress->arena_bytes), above(progress->arena_bytes, progress->lower_bound));
    return 0;
}

// Whether the file begins as a trace does, or is packed, as instances are not.
static int is_trace(const char *path) {
    char start[8] = "";
    FILE *file = fopen(path, "rb");
    if (file == NULL) return 0;
    size_t length = fread(start, 1, sizeof start - 1, file);
    fclose(file);
    return (length > 1 && memcmp(start, "\x1f\x8b", 2) == 0) || strncmp(start, "Thread,", 7) == 0;
}

static int by_bytes(const void *a, const void *b) {
    const forebay_plan_tensor *x = a, *y = b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static int print_tensors(const forebay_plan *plan, uint64_t tensors, uint64_t top) {
    forebay_plan_tensor *all = malloc((size_t)(tensors == 0 ? 1 : tensors) * sizeof *all);
    if (all == NULL) return fprintf(stderr, "plan: no memory for the table\n"), 1;
    for (size_t at = 0; at < tensors; at++) {
        if (forebay_plan_tensor_at(plan, at, &all[at]) != FOREBAY_OK) {
            free(all);
            return forebay_failed("tensor");
        }
    }
    qsort(all, (size_t)tensors, sizeof *all, by_bytes);
    printf("\n%12s %12s %12s %12s %14s %8s\n", "tensor", "from", "until", "MiB", "offset", "sharers");
    int status = 0;
    for (size_t at = 0; at < tensors && at < top && status == 0; at++) {
        size_t sharers = 0;
        if (forebay_plan_sharers(plan, all[at].id, NULL, 0, &sharers) != FOREBAY_OK)
            status = forebay_failed("sharers");
        printf("%12" PRIu64 " %12" PRIu64 " %12" PRIu64 " %12.3f %14" PRIu64 " %8zu\n", all[at].id,
               all[at].lower, all[at].upper, mib(all[at].size), all[at].offset, sharers);
    }
    free(all);
    return status;
}

static void print_summary(const char *name, const forebay_plan_summary *now,
                          const forebay_plan_summary *greedy) {
    printf("%s: %" PRIu64 " tensors, %.1f MiB in all\n", name, now->tensors, mib(now->total_bytes));
    printf("bound   %12.3f MiB: the most that lives at a time\n", mib(now->lower_bound));
    printf("greedy  %12.3f MiB, %.2f %% above the bound, in %.3f s\n", mib(greedy->arena_bytes),
           above(greedy->arena_bytes, greedy->lower_bound), (double)greedy->elapsed_ns * 1e-9);
    printf("arena   %12.3f MiB, %.2f %% above the bound, in %.3f s%s\n", mib(now->arena_bytes),
           above(now->arena_bytes, now->lower_bound), (double)now->elapsed_ns * 1e-9,
           now->optimal ? ": no plan is smaller" : "");
}

static void print_suggestions(const forebay_lifetime_suggestions *found) {
    const struct {
        const char *what;
        uint64_t tensors, bytes;
    } rows[] = {
        {"live for a tenth of the time or less", found->temporary_tensors, found->temporary_bytes},
        {"live for nine tenths of it or more", found->long_lived_tensors, found->long_lived_bytes},
        {"allocated and never used", found->never_read_tensors, found->never_read_bytes},
        {"freed later than after their last use", found->free_earlier_tensors,
         found->free_earlier_bytes},
    };
    printf("\nreusable: %.3f MiB of %.3f; freed at once after use: %.3f MiB less at the peak\n",
           mib(found->reusable_bytes), mib(found->total_bytes), mib(found->free_earlier_peak_bytes));
    for (size_t at = 0; at < sizeof rows / sizeof *rows; at++)
        printf("  %-40s%8" PRIu64 " tensors%14.3f MiB\n", rows[at].what, rows[at].tensors,
               mib(rows[at].bytes));
}

// What a pool of its own has reserved while the trace is replayed into it, as a picture.
static int draw_trace(const struct options *options) {
    forebay_pool *pool;
    if (forebay_pool_create(NULL, &pool) != FOREBAY_OK) return forebay_failed("pool");
    int status = 0;
    if (forebay_trace_svg(pool, options->file, options->trace, 0) != FOREBAY_OK)
        status = forebay_failed(options->trace);
    if (forebay_pool_destroy(pool) != FOREBAY_OK && status == 0) status = forebay_failed("pool");
    return status;
}

static int report(forebay_lifetime *lifetime, const forebay_plan *plan, const forebay_plan *greedy,
                  const struct options *options) {
    forebay_plan_summary now = FOREBAY_PLAN_SUMMARY_INIT, before = FOREBAY_PLAN_SUMMARY_INIT;
    forebay_lifetime_suggestions found = FOREBAY_LIFETIME_SUGGESTIONS_INIT;
    if (forebay_plan_summarize(plan, &now) != FOREBAY_OK ||
        forebay_plan_summarize(greedy, &before) != FOREBAY_OK ||
        forebay_lifetime_suggest(lifetime, plan, &found) != FOREBAY_OK)
        return forebay_failed("summary");
    print_summary(options->file, &now, &before);
    int status = print_tensors(plan, now.tensors, options->top);
    print_suggestions(&found);
    if (options->svg != NULL && forebay_plan_svg(plan, greedy, options->svg, 0) != FOREBAY_OK)
        status = forebay_failed(options->svg);
    if (options->save != NULL && forebay_plan_save(plan, options->save, 0) != FOREBAY_OK)
        status = forebay_failed(options->save);
    if (options->trace != NULL && status == 0) status = draw_trace(options);
    return status;
}

// Reads the file, plans twice, reports. 0, or the exit status.
static int run(forebay_lifetime *lifetime, const struct options *options) {
    forebay_status read = is_trace(options->file)
                              ? forebay_lifetime_add_trace(lifetime, options->file, 0, 512)
                              : forebay_lifetime_add_instance(lifetime, options->file);
    if (read != FOREBAY_OK) return forebay_failed(options->file);
    double time_ns = (double)options->seconds * 1e9;
    forebay_plan_options how = FOREBAY_PLAN_OPTIONS_INIT;
    forebay_plan *plan = NULL, *greedy = NULL;
    how.flags = FOREBAY_PLAN_GREEDY;
    if (forebay_lifetime_plan(lifetime, &how, &greedy) != FOREBAY_OK) return forebay_failed("plan");
    how.flags = 0;
    how.time_limit_ms = options->seconds * 1000;
    how.seed = options->seed;
    if (isatty(STDERR_FILENO)) {
        how.progress = draw_bar;
        how.user = &time_ns;
    }
    int status = 0;
    if (forebay_lifetime_plan(lifetime, &how, &plan) != FOREBAY_OK) status = forebay_failed("plan");
    if (how.progress != NULL) fprintf(stderr, "\r%79s\r", "");
    if (status == 0) status = report(lifetime, plan, greedy, options);
    if (forebay_plan_destroy(plan) != FOREBAY_OK || forebay_plan_destroy(greedy) != FOREBAY_OK)
        status = forebay_failed("plan");
    return status;
}

int main(int argc, char **argv) {
    struct options options = {NULL, NULL, NULL, NULL, 1, 0, 10};
    for (int at = 1; at < argc; at++) {
        const char *argument = argv[at], *value = at + 1 < argc ? argv[at + 1] : "";
        if (strcmp(argument, "--help") == 0) return fputs(usage, stdout) < 0;
        if (argument[0] != '-') {
            if (options.file != NULL) return wrong_usage("one file at a time; the second is", argument);
            options.file = argument;
            continue;
        }
        at++;
        if (strcmp(argument, "--seconds") == 0) {
            if (!number(value, 1, 3600, &options.seconds))
                return wrong_usage("--seconds needs a number from 1 to 3600, not", value);
        } else if (strcmp(argument, "--seed") == 0) {
            if (!number(value, 0, UINT64_MAX, &options.seed))
                return wrong_usage("--seed needs a number, not", value);
        } else if (strcmp(argument, "--top") == 0) {
            if (!number(value, 0, UINT64_MAX, &options.top))
                return wrong_usage("--top needs a number, not", value);
        } else if (strcmp(argument, "--svg") == 0 && *value != '\0') {
            options.svg = value;
        } else if (strcmp(argument, "--trace") == 0 && *value != '\0') {
            options.trace = value;
        } else if (strcmp(argument, "--save") == 0 && *value != '\0') {
            options.save = value;
        } else {
            return wrong_usage("no such option, or nothing behind it", argument);
        }
    }
    if (options.file == NULL) return wrong_usage("no file", "");
    if (options.trace != NULL && !is_trace(options.file))
        return wrong_usage("--trace needs a trace, not", options.file);

    forebay_lifetime *lifetime;
    if (forebay_lifetime_create(&lifetime) != FOREBAY_OK) return forebay_failed("lifetime");
    int status = run(lifetime, &options);
    if (forebay_lifetime_destroy(lifetime) != FOREBAY_OK) status = forebay_failed("lifetime");
    if (status == 0 && (fflush(stdout) != 0 || ferror(stdout))) {
        perror("plan: output");
        status = 1;
    }
    return status;
}
