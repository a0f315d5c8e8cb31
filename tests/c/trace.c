// Traces: recorded, replayed, and every way they can be malformed.

#include "check.h"

#include <pthread.h>
#include <sys/stat.h>

#define MIB ((size_t)1 << 20)
#define HEADER "Thread,Time,Action,Pointer,Size,Stream\n"

// Files of this test lie in a directory of their own.
static char directory[] = "forebay-trace-XXXXXX";

static const char *path_of(const char *name)
{
    static char paths[4][128];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static const char *write_file(const char *name, const char *text)
{
    const char *path = path_of(name);
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
    return path;
}

// Lines of a file.
static unsigned lines_of(const char *path)
{
    FILE *file = fopen(path, "rb");
    unsigned lines = 0;
    CHECK(file != NULL);
    for (int byte = 0; file != NULL && (byte = fgetc(file)) != EOF;) {
        lines += byte == '\n';
    }
    if (file != NULL) {
        fclose(file);
    }
    return lines;
}

static forebay_replay_report replay_of(forebay_pool *pool, const char *path, uint32_t flags,
                                       uint32_t repeat)
{
    forebay_replay_options options = FOREBAY_REPLAY_OPTIONS_INIT;
    options.flags = flags;
    options.repeat = repeat;
    forebay_replay_report report = FOREBAY_REPLAY_REPORT_INIT;
    CHECK_OK(forebay_trace_replay(pool, path, &options, &report));
    return report;
}

static void *allocate_elsewhere(void *user)
{
    forebay_pool *pool = user;
    CHECK_OK(forebay_free(pool, block_of(pool, 300), NULL));
    return NULL;
}

// What a pool did is in the file, and a replay does it again.
static void record_and_replay(const char *name)
{
    const char *path = path_of(name);
    forebay_pool *pool = small_pool(64 * MIB, 0);
    // What was before the start is not in the trace.
    CHECK_OK(forebay_free(pool, block_of(pool, 5000), NULL));
    CHECK_OK(forebay_trace_start(pool, path));
    enum { COUNT = 20 };
    void *blocks[COUNT];
    uint64_t requested = 0;
    for (size_t at = 0; at < COUNT; at++) {
        blocks[at] = block_of(pool, 100 + at * 10000);
        requested += 100 + at * 10000;
    }
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, allocate_elsewhere, pool), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    forebay_stream stream = NULL;
    CHECK_OK(forebay_stream_create(&stream));
    CHECK_OK(forebay_free(pool, blocks[0], stream));
    CHECK_OK(forebay_free_batch(pool, blocks + 1, COUNT - 2, NULL, NULL));

    // Twice at a time is refused, and the file that is written stays what it is.
    CHECK_ERROR(forebay_trace_start(pool, path), FOREBAY_ERROR_INVALID_STATE, "traced already");
    CHECK_ERROR(forebay_trace_start(pool, path_of("other.csv")), FOREBAY_ERROR_INVALID_STATE,
                "traced already");
    CHECK(access(path_of("other.csv"), F_OK) != 0);
    CHECK_OK(forebay_trace_stop(pool));
    CHECK_ERROR(forebay_trace_stop(pool), FOREBAY_ERROR_INVALID_STATE, "not being traced");

    // What comes after the stop is not in it either.
    CHECK_OK(forebay_free(pool, blocks[COUNT - 1], NULL));
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_stream_destroy(stream));
    CHECK_OK(forebay_pool_destroy(pool));

    struct {
        forebay_pool *pool;
        uint32_t flags;
        uint32_t repeat;
    } ways[] = {{NULL, 0, 0},
                {NULL, FOREBAY_REPLAY_TOUCH, 1},
                {small_pool(64 * MIB, 0), 0, 1},
                {small_pool(64 * MIB, 0), FOREBAY_REPLAY_TOUCH, 3},
                {small_pool(64 * MIB, 0), FOREBAY_REPLAY_TOUCH | FOREBAY_REPLAY_THREADS, 2}};
    for (size_t way = 0; way < sizeof ways / sizeof ways[0]; way++) {
        forebay_replay_report report =
            replay_of(ways[way].pool, path, ways[way].flags, ways[way].repeat);
        unsigned repeat = ways[way].repeat == 0 ? 1 : ways[way].repeat;
        CHECK_EQ(report.events, repeat * 2 * COUNT + repeat);
        CHECK_EQ(report.allocations, repeat * (COUNT + 1));
        CHECK_EQ(report.frees, repeat * COUNT);
        CHECK_EQ(report.failed_allocations, 0);
        CHECK_EQ(report.live_at_end, 1);
        CHECK_EQ(report.peak_requested, requested + 300);
        if (ways[way].pool != NULL) {
            CHECK_EQ(stats_of(ways[way].pool).live_blocks, 0);
            CHECK_EQ(stats_of(ways[way].pool).allocations, repeat * (COUNT + 1));
            CHECK_EQ(stats_of(ways[way].pool).requested_peak, requested + 300);
            CHECK_OK(forebay_pool_check(ways[way].pool));
            CHECK_OK(forebay_pool_destroy(ways[way].pool));
        }
    }
}

// A trace that is still running when its pool goes is whole.
static void destroyed_while_tracing(void)
{
    const char *path = path_of("destroyed.csv");
    forebay_pool *pool = small_pool(16 * MIB, 0);
    CHECK_OK(forebay_trace_start(pool, path));
    CHECK_OK(forebay_free(pool, block_of(pool, 100), NULL));
    CHECK_OK(forebay_pool_destroy(pool));
    CHECK_EQ(lines_of(path), 3);
    CHECK_EQ(replay_of(NULL, path, 0, 1).events, 2);
}

// An allocation that does not fit is counted, and the rest of the trace is replayed.
static void too_large(void)
{
    const char *path = write_file("large.csv", HEADER
                                  "1,00:00:00.000001,allocate,0x1000,33554432,0x0\n"
                                  "1,00:00:00.000002,allocate,0x2000,100,0x0\n"
                                  "1,00:00:00.000003,free,0x1000,33554432,0x0\n"
                                  "1,00:00:00.000004,free,0x2000,100,0x0\n");
    forebay_pool *pool = small_pool(16 * MIB, 0);
    forebay_replay_report report = replay_of(pool, path, FOREBAY_REPLAY_TOUCH, 2);
    CHECK_EQ(report.events, 8);
    CHECK_EQ(report.failed_allocations, 2);
    CHECK_EQ(report.allocations, 2);
    CHECK_EQ(report.frees, 2);
    CHECK_EQ(report.live_at_end, 0);
    CHECK_EQ(report.peak_requested, 33554532);
    CHECK_EQ(stats_of(pool).failed, 2);
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_pool_destroy(pool));
}

static void malformed(void)
{
    static const struct {
        const char *text;
        const char *line;
        const char *column;
        const char *found;
    } all[] = {
        {"", "line 1", "header", "Thread,Time"},
        {"\n", "line 1", "header", "Thread,Time"},
        {"Thread,Time\n", "line 1", "header", "`Thread,Time`"},
        {HEADER "x,00:00:00.000001,allocate,0x1,1,0x0\n", "line 2", "column Thread", "`x`"},
        {HEADER "-1,00:00:00.000001,allocate,0x1,1,0x0\n", "line 2", "column Thread", "`-1`"},
        {HEADER ",00:00:00.000001,allocate,0x1,1,0x0\n", "line 2", "column Thread", "``"},
        {HEADER "1,24:00:00.000001,allocate,0x1,1,0x0\n", "line 2", "column Time", "`24:00"},
        {HEADER "1,now,allocate,0x1,1,0x0\n", "line 2", "column Time", "`now`"},
        {HEADER "1,00:00:00.000001,resize,0x1,1,0x0\n", "line 2", "column Action", "`resize`"},
        {HEADER "1,00:00:00.000001,allocate,zz,1,0x0\n", "line 2", "column Pointer", "`zz`"},
        {HEADER "1,00:00:00.000001,allocate,0x11112222333344445,1,0x0\n", "line 2",
         "column Pointer", "`0x11112222333344445`"},
        {HEADER "1,00:00:00.000001,allocate,0x1,-5,0x0\n", "line 2", "column Size", "`-5`"},
        {HEADER "1,00:00:00.000001,allocate,0x1,18446744073709551616,0x0\n", "line 2",
         "column Size", "`18446744073709551616`"},
        {HEADER "1,00:00:00.000001,allocate,0x1,1,\n", "line 2", "column Stream", "``"},
        {HEADER "1,00:00:00.000001,allocate,0x1,1\n", "line 2", "column Stream", "missing"},
        {HEADER "1\n", "line 2", "column Time", "missing"},
        {HEADER "1,00:00:00.000001,allocate,0x1,1,0x0,7\n", "line 2", "more columns", "0x0,7"},
        {HEADER "1,00:00:00.000001,allocate,0x10,1,0x0\n"
                "1,00:00:00.000002,free,0x10,1,0x0\n"
                "1,00:00:00.000003,free,0x10,one,0x0\n",
         "line 4", "column Size", "`one`"},
    };
    forebay_pool *pool = small_pool(16 * MIB, 0);
    void *block = block_of(pool, 100);
    forebay_pool_statistics before = stats_of(pool);
    for (size_t at = 0; at < sizeof all / sizeof all[0]; at++) {
        const char *path = write_file("malformed.csv", all[at].text);
        forebay_replay_report report = {.struct_size = sizeof report, .events = 77};
        CHECK_ERROR(forebay_trace_replay(pool, path, NULL, &report),
                    FOREBAY_ERROR_MALFORMED_TRACE, path, all[at].line, all[at].column,
                    all[at].found);
        CHECK_EQ(report.events, 77);
        CHECK_ERROR(forebay_trace_replay(NULL, path, NULL, NULL), FOREBAY_ERROR_MALFORMED_TRACE,
                    all[at].line);
        CHECK_NOTHING_LOST(pool, &before);
    }
    // No gzip behind its first two bytes.
    const char *path = write_file("broken.csv.gz", "\x1f\x8b rubbish");
    CHECK_ERROR(forebay_trace_replay(pool, path, NULL, NULL), FOREBAY_ERROR_IO, path, "line 1");
    CHECK_NOTHING_LOST(pool, &before);
    CHECK_OK(forebay_free(pool, block, NULL));
    CHECK_OK(forebay_pool_destroy(pool));
}

// Rows that are well formed and make no sense: told, and everything else is replayed.
static void nonsense(void)
{
    static const struct {
        const char *row;
        const char *what;
        uint64_t allocations;
        uint64_t frees;
    } all[] = {
        {"1,00:00:00.000003,free,0xdead0,8,0x0\n", "0xdead0", 1, 1},
        {"1,00:00:00.000003,allocate,0x1000,8,0x0\n", "0x1000", 1, 1},
        {"1,00:00:00.000003,allocate,0x0,8,0x0\n", "null pointer", 1, 1},
        {"1,00:00:00.000003,free,0x0,8,0x0\n", "line 3", 1, 1},
    };
    forebay_pool *pool = small_pool(16 * MIB, 0);
    for (size_t at = 0; at < sizeof all / sizeof all[0]; at++) {
        char text[512];
        snprintf(text, sizeof text,
                 HEADER "1,00:00:00.000001,allocate,0x1000,100,0x0\n%s"
                        "1,00:00:00.000004,free,0x1000,100,0x0\n",
                 all[at].row);
        const char *path = write_file("nonsense.csv", text);
        forebay_replay_report report = FOREBAY_REPLAY_REPORT_INIT;
        CHECK_ERROR(forebay_trace_replay(pool, path, NULL, &report),
                    FOREBAY_ERROR_MALFORMED_TRACE, path, "line 3", all[at].what, "1 such row");
        CHECK_EQ(report.events, 3);
        CHECK_EQ(report.allocations, all[at].allocations);
        CHECK_EQ(report.frees, all[at].frees);
        CHECK_EQ(report.live_at_end, 0);
        CHECK_EQ(stats_of(pool).live_blocks, 0);
        CHECK_EQ(stats_of(pool).invalid_frees, 0);
        CHECK_OK(forebay_pool_check(pool));
    }
    CHECK_OK(forebay_pool_destroy(pool));
}

// Who asked is in the file, when that is wished for.
static void with_sites(void)
{
    const char *path = path_of("sites.csv");
    forebay_pool *pool = small_pool(16 * MIB, 0);
    CHECK_OK(forebay_trace_start_with_sites(pool, path));
    CHECK_ERROR(forebay_trace_start_with_sites(pool, path), FOREBAY_ERROR_INVALID_STATE,
                "traced already");
    CHECK_OK(forebay_trace_site("model.c:7 forward(a, b)"));
    void *first = block_of(pool, 1000);
    char long_text[500];
    memset(long_text, 'x', sizeof long_text);
    long_text[sizeof long_text - 1] = '\0';
    CHECK_OK(forebay_trace_site(long_text));
    void *second = block_of(pool, 2000);
    CHECK_OK(forebay_trace_site("two\nlines"));
    void *third = block_of(pool, 3000);
    CHECK_OK(forebay_trace_site(NULL));
    void *fourth = block_of(pool, 4000);
    CHECK_OK(forebay_trace_site("not of a free"));
    void *const blocks[] = {first, second, third, fourth};
    CHECK_OK(forebay_free_batch(pool, blocks, 4, NULL, NULL));
    CHECK_OK(forebay_trace_site(""));
    CHECK_OK(forebay_trace_stop(pool));

    char expected[3][512] = {",model.c:7 forward(a, b)\n", ",", ",two lines\n"};
    memset(expected[1] + 1, 'x', 400);
    memcpy(expected[1] + 401, "\n", 2);
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    char line[1024];
    CHECK(fgets(line, sizeof line, file) != NULL);
    CHECK_EQ(strcmp(line, "Thread,Time,Action,Pointer,Size,Stream,Site\n"), 0);
    int allocations = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        const char *tail = allocations < 3 ? expected[allocations] : ",0x0,\n";
        size_t length = strlen(line), end = strlen(tail);
        CHECK(length > end && strcmp(line + length - end, tail) == 0);
        allocations += strstr(line, ",allocate,") != NULL;
    }
    CHECK_EQ(allocations, 4);
    CHECK_EQ(fclose(file), 0);
    // To whoever does not ask it is a trace like any other.
    CHECK_OK(forebay_trace_replay(pool, path, NULL, NULL));
    CHECK_OK(forebay_pool_destroy(pool));
}

static void bad_arguments(void)
{
    const forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;
    forebay_pool *pool = small_pool(16 * MIB, 0);
    const char *path = write_file("fine.csv", HEADER "1,00:00:00.000001,allocate,0x10,1,0x0\n");
    forebay_pool_statistics before = stats_of(pool);
    CHECK_ERROR(forebay_trace_start(pool, NULL), invalid, "path is NULL");
    CHECK_ERROR(forebay_trace_start_with_sites(pool, NULL), invalid, "path is NULL");
    CHECK_ERROR(forebay_trace_start_with_sites(NULL, path), invalid, "pool is NULL");
    CHECK_ERROR(forebay_trace_start(pool, ""), invalid, "path is empty");
    CHECK_ERROR(forebay_trace_start(pool, path_of("none/trace.csv")), FOREBAY_ERROR_IO,
                "none/trace.csv", "cannot create");
    CHECK_ERROR(forebay_trace_start(pool, directory), FOREBAY_ERROR_IO, directory);
    CHECK_ERROR(forebay_trace_stop(pool), FOREBAY_ERROR_INVALID_STATE, "not being traced");
    CHECK_ERROR(forebay_trace_replay(pool, NULL, NULL, NULL), invalid, "path is NULL");
    CHECK_ERROR(forebay_trace_replay(pool, "", NULL, NULL), invalid, "path is empty");
    CHECK_ERROR(forebay_trace_replay(pool, path_of("none.csv"), NULL, NULL), FOREBAY_ERROR_IO,
                "none.csv", "cannot open");
    CHECK_ERROR(forebay_trace_replay(pool, directory, NULL, NULL), FOREBAY_ERROR_IO, directory);

    forebay_replay_options options = FOREBAY_REPLAY_OPTIONS_INIT;
    forebay_replay_report report = FOREBAY_REPLAY_REPORT_INIT;
    report.events = 77;
    uint32_t flags[] = {4, UINT32_MAX};
    const char *shown[] = {"0x4", "0xffffffff"};
    for (size_t at = 0; at < 2; at++) {
        options.flags = flags[at];
        CHECK_ERROR(forebay_trace_replay(pool, path, &options, &report), invalid, "flags is",
                    shown[at], "0x3");
    }
    options.flags = 0;
    size_t sizes[] = {0, 8, 15, SIZE_MAX};
    for (size_t at = 0; at < sizeof sizes / sizeof sizes[0]; at++) {
        options.struct_size = sizes[at];
        CHECK_ERROR(forebay_trace_replay(pool, path, &options, &report), invalid,
                    "forebay_replay_options.struct_size is", dec(sizes[at]));
        forebay_replay_report bad = {.struct_size = sizes[at], .events = 77};
        CHECK_ERROR(forebay_trace_replay(pool, path, NULL, &bad), invalid,
                    "forebay_replay_report.struct_size is", dec(sizes[at]));
        CHECK_EQ(bad.events, 77);
    }
    CHECK_EQ(report.events, 77);
    // Nothing was replayed for a report that could not be written.
    CHECK_NOTHING_LOST(pool, &before);

    struct {
        forebay_replay_options options;
        uint64_t later;
    } larger = {FOREBAY_REPLAY_OPTIONS_INIT, 0};
    larger.options.struct_size = sizeof larger;
    CHECK_OK(forebay_trace_replay(pool, path, &larger.options, NULL));
    larger.later = 1;
    CHECK_ERROR(forebay_trace_replay(pool, path, &larger.options, NULL), invalid,
                "forebay_replay_options: byte 16");
    CHECK_OK(forebay_pool_destroy(pool));
    CHECK_ERROR(forebay_trace_replay(pool, path, NULL, NULL), invalid, "pool", "destroyed");
}

// A picture of what lives, and of what a pool had reserved.
static void drawn(void)
{
    static char text[1 << 16];
    const char *trace = write_file("<drawn>.csv", HEADER
                                   "1,00:00:00.000001,allocate,0x10,3000000,0x0\n"
                                   "1,00:00:00.000002,allocate,0x20,1000000,0x7\n"
                                   "1,00:00:00.000003,free,0x10,3000000,0x0\n");
    const char *svg = path_of("drawn.svg");
    for (int pooled = 0; pooled < 2; pooled++) {
        forebay_pool *pool = pooled ? small_pool(64 * MIB, 0) : NULL;
        CHECK_OK(forebay_trace_svg(pool, trace, svg, 0));
        FILE *file = fopen(svg, "rb");
        CHECK(file != NULL);
        text[file == NULL ? 0 : fread(text, 1, sizeof text - 1, file)] = 0;
        CHECK(file == NULL || fclose(file) == 0);
        CHECK(strncmp(text, "<svg ", 5) == 0 && strstr(text, "</svg>") != NULL);
        CHECK(strstr(text, "3 steps; bound (most live bytes) 3.81 MiB") != NULL);
        CHECK((strstr(text, "most reserved ") != NULL) == pooled);
        CHECK(strstr(text, "&lt;drawn&gt;.csv") != NULL && strstr(text, "<drawn>") == NULL);
        // All blocks were freed again: nothing is left to report.
        CHECK_OK(pooled ? forebay_pool_destroy(pool) : FOREBAY_OK);
    }
    CHECK_EQ(unlink(svg), 0);
    forebay_pool *small = small_pool(2 * MIB, 0);
    CHECK_OK(forebay_trace_svg(small, trace, svg, 0));
    CHECK_OK(forebay_pool_destroy(small));
    CHECK_EQ(unlink(svg), 0);

    forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;
    CHECK_ERROR(forebay_trace_svg(NULL, NULL, svg, 0), invalid, "path is NULL");
    CHECK_ERROR(forebay_trace_svg(NULL, trace, NULL, 0), invalid, "svg is NULL");
    CHECK_ERROR(forebay_trace_svg(NULL, trace, "", 0), invalid, "svg is empty");
    CHECK_ERROR(forebay_trace_svg(NULL, trace, svg, 2), invalid, "flags is 0x2");
    CHECK_ERROR(forebay_trace_svg(NULL, svg, svg, 0), FOREBAY_ERROR_IO, svg);
    CHECK_ERROR(forebay_trace_svg(NULL, trace, "no/such/folder", 0), FOREBAY_ERROR_IO, "no/such");
    CHECK_EQ(unlink(trace), 0);
    // What makes no sense is left out of the picture, and told.
    trace = write_file("nonsense.csv", HEADER "1,00:00:00.000001,free,0x10,8,0x0\n");
    CHECK_ERROR(forebay_trace_svg(NULL, trace, svg, 0), FOREBAY_ERROR_MALFORMED_TRACE, "line 2");
    CHECK_EQ(unlink(svg), 0);
}

int main(void)
{
    time_limit(300);
    if (mkdtemp(directory) == NULL) {
        perror(directory);
        return 1;
    }
    record_and_replay("trace.csv");
    record_and_replay("trace.csv.gz");
    with_sites();
    destroyed_while_tracing();
    too_large();
    malformed();
    nonsense();
    bad_arguments();
    drawn();

    static const char *const names[] = {"trace.csv", "trace.csv.gz",  "destroyed.csv",
                                        "large.csv", "malformed.csv", "broken.csv.gz",
                                        "fine.csv",  "nonsense.csv", "sites.csv"};
    for (size_t at = 0; at < sizeof names / sizeof names[0]; at++) {
        CHECK_EQ(unlink(path_of(names[at])), 0);
    }
    // Empty, then: nothing else was made.
    CHECK_EQ(rmdir(directory), 0);
    return check_end("trace");
}
