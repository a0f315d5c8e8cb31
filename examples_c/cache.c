// Runs a key trace against every cache policy and says which to choose.
//
//   cache TRACE --entries 1000                 at most 1000 objects
//   cache TRACE --bytes 1073741824             at most 1 GiB
//   xz -dc trace.xz | cache /dev/stdin ...     what is packed otherwise than by gzip

#include <errno.h>
#include <forebay.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// More policies than there are.
#define MOST 32

static const char usage[] =
    "usage: cache TRACE [options], with one of --entries and --bytes at least\n"
    "TRACE has a key a line, or key and bytes, or time, key and bytes; plain or gzip.\n"
    "  --entries N  the cache has at most N objects\n"
    "  --bytes N    their bytes are N at most\n"
    "  --goal WHAT  what counts: hits, bytes, or both (64 KiB a hit and its bytes) if not given\n";

static int wrong_usage(const char *problem, const char *argument) {
    fprintf(stderr, "cache: %s: %s\n%s", problem, argument, usage);
    return 2;
}

static int number(const char *text, uint64_t *to) {
    char *end;
    errno = 0;
    *to = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0;
}

// Percent of `all`.
static double percent(uint64_t part, uint64_t all) {
    return all == 0 ? 0 : 100 * (double)part / (double)all;
}

static int print(const char *trace, const forebay_cache_simulate_options *options) {
    static forebay_cache_outcome outcomes[MOST];
    size_t count = 0;
    outcomes[0].struct_size = sizeof outcomes[0];
    if (forebay_cache_simulate(trace, options, outcomes, MOST, &count) != FOREBAY_OK) {
        fprintf(stderr, "cache: %s\n", forebay_last_error());
        return 1;
    }
    if (count > MOST)
        count = MOST;
    printf("%s: %" PRIu64 " accesses, %" PRIu64 " bytes\n", trace, outcomes[0].requests,
           outcomes[0].bytes);
    printf("%-14s %8s %8s %8s %12s\n", "policy", "hit %", "byte %", "worth %", "bytes/entry");
    const char *choice = NULL;
    for (size_t at = 0; at < count; at++) {
        const forebay_cache_outcome *one = &outcomes[at];
        printf("%-14s %8.2f %8.2f %8.2f %12.0f%s\n", one->name, percent(one->hits, one->requests),
               percent(one->hit_bytes, one->bytes), 100 * one->worth, one->bookkeeping_per_entry,
               one->policy < 0 ? "   (to compare with)" : "");
        if (choice == NULL && one->policy >= 0)
            choice = one->name;
    }
    printf("choose: %s\n", choice);
    return 0;
}

int main(int argc, char **argv) {
    forebay_cache_simulate_options options = FOREBAY_CACHE_SIMULATE_OPTIONS_INIT;
    const char *trace = NULL;
    for (int at = 1; at < argc; at++) {
        const char *argument = argv[at], *value = argv[at + 1];
        if (argument[0] != '-') {
            if (trace != NULL)
                return wrong_usage("more than one trace", argument);
            trace = argument;
            continue;
        }
        if (value == NULL)
            return wrong_usage("what is it", argument);
        at++;
        if (strcmp(argument, "--entries") == 0) {
            if (!number(value, &options.max_entries))
                return wrong_usage("not a number", value);
        } else if (strcmp(argument, "--bytes") == 0) {
            if (!number(value, &options.max_bytes))
                return wrong_usage("not a number", value);
        } else if (strcmp(argument, "--goal") == 0) {
            if (strcmp(value, "hits") == 0)
                options.entry_worth = (uint64_t)1 << 50;
            else if (strcmp(value, "bytes") == 0)
                options.entry_worth = 1;
            else if (strcmp(value, "both") != 0)
                return wrong_usage("no such goal", value);
        } else {
            return wrong_usage("no such option", argument);
        }
    }
    if (trace == NULL)
        return wrong_usage("no trace", "");
    return print(trace, &options);
}
