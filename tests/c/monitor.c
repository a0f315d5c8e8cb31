// What is left to this process: the numbers, the report as JSON, and every bad input.

#include "check.h"

#include <sys/resource.h>
#include <sys/wait.h>

#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

static forebay_memory_info_t info_now(void)
{
    forebay_memory_info_t info = FOREBAY_MEMORY_INFO_INIT;
    CHECK_OK(forebay_memory_info(&info));
    return info;
}

static void numbers(void)
{
    forebay_memory_info_t info = info_now();
    CHECK_EQ(info.struct_size, sizeof info);
    CHECK(info.machine_total_bytes > 0);
    CHECK(info.machine_available_bytes <= info.machine_total_bytes);
    CHECK(info.total_bytes > 0 && info.total_bytes <= info.machine_total_bytes);
    CHECK(info.left_bytes <= info.limit_bytes);
    CHECK(info.left_bytes <= info.machine_available_bytes);
    uint64_t left = info.left_bytes, reserve = info.reserve_bytes;
    CHECK_EQ(info.available_bytes, left > reserve ? left - reserve : 0);
    CHECK(reserve >= info.limit_bytes / 50 && reserve <= info.limit_bytes);
    CHECK(info.limit_source >= FOREBAY_MEMORY_LIMIT_MACHINE);
    CHECK(info.limit_source <= FOREBAY_MEMORY_LIMIT_COMMIT);
    CHECK(info.level >= FOREBAY_MEMORY_LEVEL_OK && info.level <= FOREBAY_MEMORY_LEVEL_CRITICAL);
    CHECK(info.process_resident_bytes > 0);
    CHECK(info.process_resident_bytes <= info.process_resident_peak);
    CHECK(info.process_resident_bytes <= info.process_mapped_bytes);
    CHECK(info.pressure_some_avg10 >= 0 && info.pressure_some_avg10 <= 100);
    CHECK(info.pressure_full_avg10 >= 0 && info.pressure_full_avg10 <= 100);
    CHECK(info.huge_pages_free <= info.huge_pages);
    CHECK_EQ(info.pinned_bytes, 0);

    // What is taken is seen: twice as much as any noise.
    size_t size = 64 * MIB;
    volatile char *block = malloc(size);
    CHECK(block != NULL);
    for (size_t at = 0; at < size; at += 4096) {
        block[at] = 1;
    }
    forebay_memory_info_t after = info_now();
    CHECK(after.process_resident_bytes >= info.process_resident_bytes + size / 2);
    free((void *)block);
}

// A limit of the process binds, and the report names it.
static void a_limit_of_its_own(void)
{
    if (getenv("FOREBAY_TEST_VALGRIND") != NULL) {
        return; // It has mapped more than such a limit.
    }
    pid_t child = fork();
    if (child == 0) {
        check_count = check_failures = 0;
        uint64_t mapped = info_now().process_mapped_bytes;
        struct rlimit limit = {mapped + 48 * MIB, RLIM_INFINITY};
        CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
        forebay_memory_info_t info = info_now();
        CHECK_EQ(info.limit_source, FOREBAY_MEMORY_LIMIT_ADDRESS_SPACE);
        CHECK_EQ(info.limit_bytes, limit.rlim_cur);
        CHECK(info.left_bytes <= 48 * MIB && info.left_bytes >= 32 * MIB);
        CHECK(info.total_bytes > info.limit_bytes || info.total_bytes >= GIB);
        char text[32768];
        CHECK_OK(forebay_memory_info_json(text, sizeof text, NULL));
        CHECK(strstr(text, "\"limit_source\":\"RLIMIT_AS\"") != NULL);
        _exit(check_failures == 0 && check_count > 0 ? 0 : 1);
    }
    int status = 1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

static void struct_sizes(void)
{
    CHECK_ERROR(forebay_memory_info(NULL), FOREBAY_ERROR_INVALID_ARGUMENT, "out is NULL");
    forebay_memory_info_t info = FOREBAY_MEMORY_INFO_INIT;
    size_t bad[] = {0, 8, sizeof info - 1, SIZE_MAX};
    for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
        memset(&info, 0x77, sizeof info);
        info.struct_size = bad[at];
        CHECK_ERROR(forebay_memory_info(&info), FOREBAY_ERROR_INVALID_ARGUMENT,
                    "forebay_memory_info_t.struct_size is", dec(bad[at]), dec(sizeof info));
        CHECK_EQ(info.struct_size, bad[at]);
        CHECK_EQ(info.total_bytes, 0x7777777777777777u);
    }
    // A later release's: what this one lacks becomes zero, and no byte behind it is touched.
    struct {
        forebay_memory_info_t info;
        uint64_t later[3];
        uint64_t behind;
    } larger;
    memset(&larger, 0x77, sizeof larger);
    size_t size = sizeof larger - sizeof larger.behind;
    larger.info.struct_size = size;
    CHECK_OK(forebay_memory_info(&larger.info));
    CHECK_EQ(larger.info.struct_size, size);
    CHECK(larger.info.total_bytes > 0 && larger.info.total_bytes < 0x7777777777777777u);
    CHECK_EQ(larger.later[0] | larger.later[1] | larger.later[2], 0);
    CHECK_EQ(larger.behind, 0x7777777777777777u);
}

static void report(void)
{
    size_t length = 0;
    CHECK_OK(forebay_memory_info_json(NULL, 0, &length));
    CHECK(length > 500);
    CHECK_OK(forebay_memory_info_json(NULL, 0, NULL));
    CHECK_ERROR(forebay_memory_info_json(NULL, 10, &length), FOREBAY_ERROR_INVALID_ARGUMENT,
                "buffer is NULL", "10");
    char small[16];
    memset(small, 0x77, sizeof small);
    length = 0;
    CHECK_ERROR(forebay_memory_info_json(small, sizeof small, &length),
                FOREBAY_ERROR_INVALID_ARGUMENT, "capacity is 16", "report");
    CHECK(length > 500);
    CHECK_EQ(small[0], 0x77);

    char *text = malloc(2 * length);
    CHECK_OK(forebay_memory_info_json(text, 2 * length, &length));
    CHECK_EQ(strlen(text), length);
    CHECK_EQ(strncmp(text, "{\"schema\":1,", 12), 0);
    CHECK_EQ(text[length - 1], '}');
    static const char *const parts[] = {
        "\"available_bytes\":", "\"limit_source\":\"", "\"level\":\"", "\"machine\":{",
        "\"process\":{", "\"limits\":[{\"source\":\"MemAvailable\",", "\"groups\":[",
        "\"pressure\":{", "\"nvml\":\"", "\"gpus\":[",
    };
    for (size_t at = 0; at < sizeof parts / sizeof parts[0]; at++) {
        CHECK(strstr(text, parts[at]) != NULL);
    }
    free(text);
}

int main(void)
{
    time_limit(120);
    numbers();
    a_limit_of_its_own();
    struct_sizes();
    report();
    return check_end("monitor");
}
