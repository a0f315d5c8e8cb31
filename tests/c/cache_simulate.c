// Key traces against policies: what is written for whom, and every bad input.

#include "check.h"

#define COUNT 9

static const forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;
static const char path[] = "cache_simulate.trace";

static void write_file(const char *text, size_t size)
{
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL);
    CHECK_EQ(fwrite(text, 1, size, file), size);
    CHECK_EQ(fclose(file), 0);
}

// A loop of 50 keys, 40 times.
static void write_loop(void)
{
    char text[50 * 40 * 4];
    size_t size = 0;
    for (int at = 0; at < 50 * 40; at++)
        size += (size_t)sprintf(text + size, "%d\n", at % 50);
    write_file(text, size);
}

static forebay_status simulate(uint64_t entries, forebay_cache_outcome *outcomes, size_t capacity,
                               size_t *count)
{
    forebay_cache_simulate_options options = FOREBAY_CACHE_SIMULATE_OPTIONS_INIT;
    options.max_entries = entries;
    return forebay_cache_simulate(path, &options, outcomes, capacity, count);
}

static const forebay_cache_outcome *of(const forebay_cache_outcome *outcomes, const char *name)
{
    for (size_t at = 0; at < COUNT; at++)
        if (strcmp(outcomes[at].name, name) == 0)
            return &outcomes[at];
    CHECK_EQ(0, 1);
    return outcomes;
}

static void the_best_comes_first(void)
{
    forebay_cache_outcome outcomes[COUNT] = {{.struct_size = sizeof outcomes[0]}};
    size_t count = 0;
    write_loop();
    CHECK_OK(simulate(30, outcomes, COUNT, &count));
    CHECK_EQ(count, COUNT);
    CHECK_EQ(of(outcomes, "lru")->hits, 0);
    CHECK_EQ(of(outcomes, "lru")->policy, FOREBAY_CACHE_POLICY_LRU);
    CHECK_EQ(of(outcomes, "lfu")->policy, FOREBAY_CACHE_POLICY_LFU);
    CHECK_EQ(of(outcomes, "adaptive")->policy, FOREBAY_CACHE_POLICY_ADAPTIVE);
    CHECK_EQ(of(outcomes, "lirs")->policy, -1);
    CHECK(of(outcomes, "adaptive")->hits > 900);
    for (size_t at = 0; at < COUNT; at++) {
        CHECK_EQ(outcomes[at].struct_size, sizeof outcomes[at]);
        CHECK_EQ(outcomes[at].requests, 2000);
        CHECK_EQ(outcomes[at].bytes, 2000);
        CHECK_EQ(outcomes[at].hit_bytes, outcomes[at].hits);
        CHECK(outcomes[at].bookkeeping_per_entry > 0);
        CHECK(at == 0 || outcomes[at - 1].worth >= outcomes[at].worth);
    }
}

static void sizes_and_releases(void)
{
    static const char sized[] = "1 a 10\n2 b 90\n3 a 10\n4 b 90\n5 c 200\n6 c 200\n";
    // As a later release's: larger, with bytes that this one does not know.
    struct {
        forebay_cache_outcome known;
        unsigned char more[24];
    } later[2];
    memset(later, 0x5a, sizeof later);
    later[0].known.struct_size = sizeof later[0];
    forebay_cache_simulate_options options = FOREBAY_CACHE_SIMULATE_OPTIONS_INIT;
    size_t count = 0;
    write_file(sized, sizeof sized - 1);
    options.max_bytes = 100;
    CHECK_OK(forebay_cache_simulate(path, &options, &later[0].known, 2, &count));
    CHECK_EQ(count, COUNT);
    for (size_t at = 0; at < 2; at++) {
        CHECK_EQ(later[at].known.struct_size, sizeof later[0]);
        CHECK_EQ(later[at].known.hits, 2);
        CHECK_EQ(later[at].known.hit_bytes, 100);
        CHECK_EQ(later[at].known.bytes, 600);
        CHECK_EQ(later[at].more[23], 0);
    }
    // How many there are, and nothing else.
    count = 0;
    CHECK_OK(forebay_cache_simulate(path, &options, NULL, 0, &count));
    CHECK_EQ(count, COUNT);
    CHECK_OK(forebay_cache_simulate(path, &options, NULL, 0, NULL));
}

static void bad_input(void)
{
    forebay_cache_outcome outcome = {.struct_size = sizeof outcome, .hits = 77};
    forebay_cache_simulate_options options = FOREBAY_CACHE_SIMULATE_OPTIONS_INIT;
    size_t count = 5;
    write_loop();
    CHECK_ERROR(simulate(0, &outcome, 1, &count), invalid, "both 0");
    CHECK_ERROR(simulate(1, NULL, 1, &count), invalid, "outcomes is NULL");
    CHECK_ERROR(forebay_cache_simulate(path, NULL, &outcome, 1, &count), invalid, "options is NULL");
    CHECK_ERROR(forebay_cache_simulate(NULL, &options, &outcome, 1, &count), invalid,
                "path is NULL");
    CHECK_ERROR(forebay_cache_simulate("", &options, &outcome, 1, &count), invalid, "path is empty");
    options.max_entries = 1;
    CHECK_ERROR(forebay_cache_simulate("/nowhere/t", &options, &outcome, 1, &count),
                FOREBAY_ERROR_IO, "cannot open");
    options.struct_size = 3;
    CHECK_ERROR(forebay_cache_simulate(path, &options, &outcome, 1, &count), invalid,
                "forebay_cache_simulate_options.struct_size is 3");
    outcome.struct_size = 0;
    CHECK_ERROR(simulate(1, &outcome, 1, &count), invalid, "forebay_cache_outcome.struct_size is 0");
    outcome.struct_size = sizeof outcome;
    write_file("1\n1 2\n", 6);
    CHECK_ERROR(simulate(1, &outcome, 1, &count), FOREBAY_ERROR_MALFORMED_TRACE, "line 2");
    write_file("a 0\n", 4);
    CHECK_ERROR(simulate(1, &outcome, 1, &count), FOREBAY_ERROR_MALFORMED_TRACE, "line 1");
    write_file("", 0);
    CHECK_ERROR(simulate(1, &outcome, 1, &count), FOREBAY_ERROR_MALFORMED_TRACE, "no key");
    CHECK_EQ(outcome.hits, 77);
    CHECK_EQ(count, 5);
}

int main(void)
{
    time_limit(300);
    the_best_comes_first();
    sizes_and_releases();
    bad_input();
    remove(path);
    return check_end("cache_simulate");
}
