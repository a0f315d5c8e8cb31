// Reports: one page of a trace, titles that mean harm, callbacks, and bad input.

#include "check.h"

#define HEADER "Thread,Time,Action,Pointer,Size,Stream\n"

static const forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;

static const char *const trace = "report-<i>&.csv";
static const char *const page = "report-page.html";

static void write_trace(const char *text)
{
    FILE *file = fopen(trace, "wb");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

// The page that was written, and away with it.
static const char *read_page(void)
{
    static char text[1 << 20];
    FILE *file = fopen(page, "rb");
    CHECK(file != NULL);
    text[file == NULL ? 0 : fread(text, 1, sizeof text - 1, file)] = 0;
    CHECK(file == NULL || fclose(file) == 0);
    CHECK_EQ(remove(page), 0);
    return text;
}

static void written(void)
{
    write_trace(HEADER "1,00:00:01.000001,allocate,0x200,3000000,0x0\n"
                       "1,00:00:01.000002,allocate,0x1000000,1000000,0x7\n"
                       "2,00:00:01.000003,free,0x200,3000000,0x0\n");
    CHECK_OK(forebay_trace_report(trace, page, NULL));
    const char *text = read_page();
    CHECK(strncmp(text, "<!doctype html>", 15) == 0 && strstr(text, "</html>") != NULL);
    CHECK(strstr(text, "\"live_bytes\":4000000,\"blocks\":2") != NULL);
    CHECK(strstr(text, "\"lower_bound\":") != NULL && strstr(text, "\"axis\":\"time\"") != NULL);
    // The name of the file is text wherever it stands.
    CHECK(strstr(text, "<h1>report-&lt;i&gt;&amp;.csv</h1>") != NULL);
    CHECK(strstr(text, "<i>") == NULL);

    forebay_report_options options = FOREBAY_REPORT_OPTIONS_INIT;
    options.title = "</script><script>alert(1)</script>\"'{{body}}\xff";
    options.max_points = 100;
    options.flags = FOREBAY_REPORT_BY_EVENTS | FOREBAY_REPORT_NO_PLAN;
    CHECK_OK(forebay_trace_report(trace, page, &options));
    text = read_page();
    CHECK(strstr(text, "<script>alert") == NULL && strstr(text, "</script><script>alert") == NULL);
    CHECK(strstr(text, "&lt;/script&gt;&lt;script&gt;alert(1)") != NULL);
    CHECK(strstr(text, "\"plan\":null") != NULL && strstr(text, "\"axis\":\"events\"") != NULL);
    CHECK_EQ(remove(trace), 0);
}

// A pool that does the same beside has everything back, and the page has what it reserved.
static void beside(void)
{
    write_trace(HEADER "1,00:00:01.000001,allocate,0x200,3000000,0x0\n"
                       "1,00:00:01.000002,allocate,0x1000000,50000000,0x7\n"
                       "1,00:00:01.000003,allocate,0x8000000,50000000,0x7\n"
                       "2,00:00:01.000004,free,0x200,3000000,0x7\n");
    forebay_report_options options = FOREBAY_REPORT_OPTIONS_INIT;
    options.pool = small_pool((size_t)64 << 20, 0);
    CHECK_OK(forebay_trace_report(trace, page, &options));
    const char *text = read_page();
    // The second large one has no room.
    CHECK(strstr(text, "\"refused\":1}") != NULL && strstr(text, "\"reserved_most\":[") != NULL);
    CHECK(strstr(text, "1 allocation had no memory there") != NULL);
    CHECK(strstr(text, "\"reserved\":{\"most_bytes\":5") != NULL);
    CHECK_OK(forebay_pool_check(options.pool));
    CHECK_OK(forebay_pool_destroy(options.pool));
    CHECK_ERROR(forebay_trace_report(trace, page, &options), invalid, "pool", "destroyed");
    CHECK(access(page, F_OK) != 0);
    CHECK_EQ(remove(trace), 0);
}

static int count(const forebay_report_progress *progress, void *user)
{
    CHECK_EQ(progress->struct_size, sizeof *progress);
    CHECK(progress->planning <= 1 && progress->events > 0);
    unsigned *calls = user;
    ++*calls;
    return 1;
}

// A callback that has enough ends the reading; the page says so.
static void ended_early(void)
{
    FILE *file = fopen(trace, "wb");
    CHECK(file != NULL && fputs(HEADER, file) >= 0);
    enum { ROWS = 400000 };
    for (unsigned row = 0; file != NULL && row < ROWS; row++) {
        fprintf(file, "1,00:00:00.%06u,%s,0x1000,64,0x0\n", row, row % 2 ? "free" : "allocate");
    }
    CHECK(file != NULL && fclose(file) == 0);
    unsigned calls = 0;
    forebay_report_options options = FOREBAY_REPORT_OPTIONS_INIT;
    options.progress = count;
    options.user = &calls;
    CHECK_OK(forebay_trace_report(trace, page, &options));
    const char *text = read_page();
    // On a machine that reads it all before the first call, nothing is missing.
    CHECK((strstr(text, "\"whole\":false") != NULL) == (strstr(text, "the trace goes on") != NULL));
    CHECK(calls > 0 || strstr(text, "\"events\":400000,") != NULL);
    CHECK_EQ(remove(trace), 0);
}

static void bad_input(void)
{
    write_trace(HEADER "1,00:00:00.000001,free,0x10,8,0x0\n"
                       "1,00:00:00.000002,allocate,0x10,8,0x0\n");
    CHECK_ERROR(forebay_trace_report(NULL, page, NULL), invalid, "trace is NULL");
    CHECK_ERROR(forebay_trace_report("", page, NULL), invalid, "trace is empty");
    CHECK_ERROR(forebay_trace_report(trace, NULL, NULL), invalid, "out is NULL");
    CHECK_ERROR(forebay_trace_report(trace, "", NULL), invalid, "out is empty");
    CHECK_ERROR(forebay_trace_report("no-such-trace.csv", page, NULL), FOREBAY_ERROR_IO, "no-such");
    CHECK_ERROR(forebay_trace_report(trace, "no/such/folder", NULL), FOREBAY_ERROR_IO, "no/such");
    forebay_report_options options = FOREBAY_REPORT_OPTIONS_INIT;
    options.flags = 4;
    CHECK_ERROR(forebay_trace_report(trace, page, &options), invalid, "flags is 0x4");
    options.flags = 0;
    options.max_points = 99;
    CHECK_ERROR(forebay_trace_report(trace, page, &options), invalid, "max_points is 99",
                "100 to 4000");
    options.max_points = 4001;
    CHECK_ERROR(forebay_trace_report(trace, page, &options), invalid, "max_points is 4001");
    options.max_points = 0;
    options.struct_size = 8;
    CHECK_ERROR(forebay_trace_report(trace, page, &options), invalid, "forebay_report_options");
    CHECK(access(page, F_OK) != 0);

    // What makes no sense is named on the page, and told.
    CHECK_ERROR(forebay_trace_report(trace, page, NULL), FOREBAY_ERROR_MALFORMED_TRACE, "line 2");
    const char *text = read_page();
    CHECK(strstr(text, "line 2: free of 0x10, which is not live") != NULL);
    CHECK(strstr(text, "\"faults\":1") != NULL && strstr(text, "\"live_bytes\":8") != NULL);
    write_trace(HEADER "1,00:00:00.000001,allocate,0x10,8\n");
    CHECK_ERROR(forebay_trace_report(trace, page, NULL), FOREBAY_ERROR_MALFORMED_TRACE, "line 2",
                "column Stream");
    CHECK(access(page, F_OK) != 0);
    // A trace without rows is one.
    write_trace(HEADER);
    CHECK_OK(forebay_trace_report(trace, page, NULL));
    CHECK(strstr(read_page(), "Nothing stands out") != NULL);
    CHECK_EQ(remove(trace), 0);
}

int main(void)
{
    time_limit(300);
    written();
    beside();
    ended_early();
    bad_input();
    return check_end("report");
}
