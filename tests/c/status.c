// Statuses, the version and the thread's last error.

#include "check.h"

#include <pthread.h>

static void names(void)
{
    static const struct {
        int32_t status;
        const char *name;
    } all[] = {
        {FOREBAY_OK, "FOREBAY_OK"},
        {FOREBAY_ERROR_INVALID_ARGUMENT, "FOREBAY_ERROR_INVALID_ARGUMENT"},
        {FOREBAY_ERROR_OUT_OF_MEMORY, "FOREBAY_ERROR_OUT_OF_MEMORY"},
        {FOREBAY_ERROR_INVALID_POINTER, "FOREBAY_ERROR_INVALID_POINTER"},
        {FOREBAY_ERROR_POISONED, "FOREBAY_ERROR_POISONED"},
        {FOREBAY_ERROR_INVALID_STATE, "FOREBAY_ERROR_INVALID_STATE"},
        {FOREBAY_ERROR_UNSUPPORTED, "FOREBAY_ERROR_UNSUPPORTED"},
        {FOREBAY_ERROR_IO, "FOREBAY_ERROR_IO"},
        {FOREBAY_ERROR_MALFORMED_TRACE, "FOREBAY_ERROR_MALFORMED_TRACE"},
        {FOREBAY_ERROR_CORRUPTION, "FOREBAY_ERROR_CORRUPTION"},
        {FOREBAY_ERROR_INTERNAL, "FOREBAY_ERROR_INTERNAL"},
        {FOREBAY_ERROR_BUSY, "FOREBAY_ERROR_BUSY"},
    };
    CHECK_EQ(FOREBAY_OK, 0);
    for (size_t at = 0; at < sizeof all / sizeof all[0]; at++) {
        CHECK_EQ(all[at].status, at);
        CHECK(strcmp(forebay_status_name(all[at].status), all[at].name) == 0);
    }
    int32_t none[] = {-1, sizeof all / sizeof all[0], INT32_MAX, INT32_MIN};
    for (size_t at = 0; at < sizeof none / sizeof none[0]; at++) {
        CHECK(strcmp(forebay_status_name(none[at]), "FOREBAY_UNKNOWN") == 0);
    }
}

static void version(void)
{
    CHECK_EQ(forebay_version(), FOREBAY_VERSION);
    CHECK_EQ(forebay_version() >> 16, FOREBAY_VERSION_MAJOR);
    CHECK_EQ(forebay_version() >> 8 & 0xFF, FOREBAY_VERSION_MINOR);
    CHECK_EQ(forebay_version() & 0xFF, FOREBAY_VERSION_PATCH);
}

static void *other_thread(void *unused)
{
    (void)unused;
    CHECK(strcmp(forebay_last_error(), "") == 0);
    CHECK_ERROR(forebay_pool_set_limit(NULL, 7), FOREBAY_ERROR_INVALID_ARGUMENT, "pool is NULL");
    return NULL;
}

static void last_error(void)
{
    CHECK(forebay_last_error() != NULL);
    CHECK(strcmp(forebay_last_error(), "") == 0);

    CHECK_ERROR(forebay_pool_create(NULL, NULL), FOREBAY_ERROR_INVALID_ARGUMENT, "out is NULL");
    char kept[256];
    snprintf(kept, sizeof kept, "%s", forebay_last_error());

    // A call that succeeds leaves it, and so does another thread's failure.
    CHECK_OK(forebay_pool_destroy(NULL));
    CHECK(strcmp(forebay_last_error(), kept) == 0);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, other_thread, NULL), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(strcmp(forebay_last_error(), kept) == 0);

    CHECK_ERROR(forebay_stream_create(NULL), FOREBAY_ERROR_INVALID_ARGUMENT, "out is NULL");
    CHECK_ERROR(forebay_stream_submit(NULL, NULL, NULL), FOREBAY_ERROR_INVALID_ARGUMENT,
                "work is NULL");

    // A message that is longer than the buffer is cut, and still ends.
    char path[4000];
    memset(path, 'x', sizeof path - 1);
    path[0] = '/';
    path[sizeof path - 1] = '\0';
    CHECK_ERROR(forebay_trace_replay(NULL, path, NULL, NULL), FOREBAY_ERROR_IO, "/xxxx");
    CHECK(strlen(forebay_last_error()) > 256 && strlen(forebay_last_error()) < sizeof path);
}

int main(void)
{
    time_limit(300);
    last_error();
    names();
    version();
    return check_end("status");
}
