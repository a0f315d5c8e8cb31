// Host streams and fences.

#include "check.h"

#include <pthread.h>
#include <sys/wait.h>

// Work that holds a stream until it is let go.
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int open;
};

#define GATE_INIT {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0}

static void hold(void *user)
{
    struct gate *gate = user;
    pthread_mutex_lock(&gate->lock);
    while (!gate->open) {
        pthread_cond_wait(&gate->changed, &gate->lock);
    }
    pthread_mutex_unlock(&gate->lock);
}

static void open_gate(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->open = 1;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

struct order {
    unsigned count;
    unsigned wrong;
};

struct item {
    struct order *order;
    unsigned number;
};

static void note(void *user)
{
    struct item *item = user;
    item->order->wrong += item->order->count != item->number;
    item->order->count++;
}

static void in_order(void)
{
    enum { MANY = 1000 };
    static struct item items[MANY];
    struct order order = {0, 0};
    unsigned many = rounds(MANY, 100);
    forebay_stream stream = NULL;
    CHECK_OK(forebay_stream_create(&stream));
    CHECK(stream != NULL);
    for (unsigned at = 0; at < many; at++) {
        items[at] = (struct item){&order, at};
        CHECK_OK(forebay_stream_submit(stream, note, &items[at]));
    }
    CHECK_OK(forebay_stream_synchronize(stream));
    CHECK_EQ(order.count, many);
    CHECK_EQ(order.wrong, 0);

    // Destroying it does what is queued.
    struct item last = {&order, many};
    CHECK_OK(forebay_stream_submit(stream, note, &last));
    CHECK_OK(forebay_stream_destroy(stream));
    CHECK_EQ(order.count, many + 1);
}

static void fences(void)
{
    forebay_stream a = NULL, b = NULL;
    CHECK_OK(forebay_stream_create(&a));
    CHECK_OK(forebay_stream_create(&b));
    CHECK(a != b);
    struct gate gate = GATE_INIT;
    CHECK_OK(forebay_stream_submit(a, hold, &gate));
    forebay_fence fence = {0, 0};
    CHECK_OK(forebay_stream_record(a, &fence));
    int32_t passed = -1;
    CHECK_OK(forebay_fence_query(fence, &passed));
    CHECK_EQ(passed, 0);

    // b waits for a: what is queued on b behind the wait is not done yet.
    struct order order = {0, 0};
    struct item item = {&order, 0};
    CHECK_OK(forebay_stream_wait(b, fence));
    CHECK_OK(forebay_stream_submit(b, note, &item));
    forebay_fence behind = {0, 0};
    CHECK_OK(forebay_stream_record(b, &behind));
    CHECK_OK(forebay_fence_query(behind, &passed));
    CHECK_EQ(passed, 0);

    open_gate(&gate);
    CHECK_OK(forebay_fence_wait(fence));
    CHECK_OK(forebay_fence_query(fence, &passed));
    CHECK_EQ(passed, 1);
    // The calling thread waits as a stream does.
    CHECK_OK(forebay_stream_wait(NULL, behind));
    CHECK_EQ(order.count, 1);

    // The fences of a destroyed stream are passed.
    CHECK_OK(forebay_stream_destroy(a));
    passed = -1;
    CHECK_OK(forebay_fence_query(fence, &passed));
    CHECK_EQ(passed, 1);
    CHECK_OK(forebay_fence_wait(fence));
    CHECK_OK(forebay_stream_destroy(b));
}

static void the_default_stream(void)
{
    struct order order = {0, 0};
    struct item item = {&order, 0};
    CHECK_OK(forebay_stream_submit(NULL, note, &item));
    CHECK_EQ(order.count, 1);
    CHECK_OK(forebay_stream_synchronize(NULL));
    forebay_fence fence = {7, 7};
    CHECK_OK(forebay_stream_record(NULL, &fence));
    int32_t passed = -1;
    CHECK_OK(forebay_fence_query(fence, &passed));
    CHECK_EQ(passed, 1);
    CHECK_OK(forebay_fence_wait(fence));
    CHECK_OK(forebay_stream_wait(NULL, fence));
    CHECK_OK(forebay_stream_destroy(NULL));
}

struct suicide {
    forebay_stream stream;
    forebay_status status;
    char message[256];
};

static void destroy_myself(void *user)
{
    struct suicide *suicide = user;
    suicide->status = forebay_stream_destroy(suicide->stream);
    snprintf(suicide->message, sizeof suicide->message, "%s", forebay_last_error());
}

static void bad_input(void)
{
    CHECK_ERROR(forebay_stream_create(NULL), FOREBAY_ERROR_INVALID_ARGUMENT, "out is NULL");

    forebay_stream gone = NULL;
    CHECK_OK(forebay_stream_create(&gone));
    CHECK_OK(forebay_stream_destroy(gone));
    // Destroyed before, a small integer, a far away number, a pointer into this program.
    static int local;
    forebay_stream bad[] = {gone, (forebay_stream)(uintptr_t)1, (forebay_stream)UINTPTR_MAX,
                            (forebay_stream)(void *)&local};
    for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
        const char *number = hex(bad[at]);
        CHECK_ERROR(forebay_stream_destroy(bad[at]), FOREBAY_ERROR_INVALID_ARGUMENT, "stream",
                    number);
        CHECK_ERROR(forebay_stream_submit(bad[at], note, NULL), FOREBAY_ERROR_INVALID_ARGUMENT,
                    "stream", number);
        CHECK_ERROR(forebay_stream_synchronize(bad[at]), FOREBAY_ERROR_INVALID_ARGUMENT, "stream",
                    number);
        forebay_fence fence = {11, 12};
        CHECK_ERROR(forebay_stream_record(bad[at], &fence), FOREBAY_ERROR_INVALID_ARGUMENT,
                    "stream", number);
        CHECK_EQ(fence.stream, 11);
        CHECK_EQ(fence.sequence, 12);
        forebay_fence none = {0, 0};
        CHECK_ERROR(forebay_stream_wait(bad[at], none), FOREBAY_ERROR_INVALID_ARGUMENT, "stream",
                    number);
    }

    forebay_stream stream = NULL;
    CHECK_OK(forebay_stream_create(&stream));
    CHECK_ERROR(forebay_stream_submit(stream, NULL, NULL), FOREBAY_ERROR_INVALID_ARGUMENT,
                "work is NULL");
    CHECK_ERROR(forebay_stream_record(stream, NULL), FOREBAY_ERROR_INVALID_ARGUMENT,
                "out is NULL");
    forebay_fence fence = {0, 0};
    CHECK_OK(forebay_stream_record(stream, &fence));
    CHECK_ERROR(forebay_fence_query(fence, NULL), FOREBAY_ERROR_INVALID_ARGUMENT,
                "passed is NULL");

    // Fences of no stream.
    uint64_t handles[] = {1, UINT64_MAX, (uint64_t)(uintptr_t)&local | 1};
    for (size_t at = 0; at < sizeof handles / sizeof handles[0]; at++) {
        forebay_fence none = {handles[at], 1};
        int32_t passed = 77;
        CHECK_ERROR(forebay_fence_query(none, &passed), FOREBAY_ERROR_INVALID_ARGUMENT, "stream",
                    "0x");
        CHECK_EQ(passed, 77);
        CHECK_ERROR(forebay_fence_wait(none), FOREBAY_ERROR_INVALID_ARGUMENT, "stream", "0x");
        CHECK_ERROR(forebay_stream_wait(stream, none), FOREBAY_ERROR_INVALID_ARGUMENT, "stream",
                    "0x");
    }

    // A fence that no call recorded, behind work that was never queued: nobody could ever
    // pass it, so waiting for it would never end.
    forebay_fence ahead = {fence.stream, fence.sequence + 1000};
    int32_t passed = 77;
    CHECK_ERROR(forebay_fence_query(ahead, &passed), FOREBAY_ERROR_INVALID_ARGUMENT, "sequence",
                dec(ahead.sequence));
    CHECK_EQ(passed, 77);
    CHECK_ERROR(forebay_fence_wait(ahead), FOREBAY_ERROR_INVALID_ARGUMENT, "sequence",
                dec(ahead.sequence));
    CHECK_ERROR(forebay_stream_wait(stream, ahead), FOREBAY_ERROR_INVALID_ARGUMENT, "sequence",
                dec(ahead.sequence));

    // From its own work a stream cannot be destroyed, and it goes on afterwards.
    struct suicide suicide = {stream, FOREBAY_OK, ""};
    CHECK_OK(forebay_stream_submit(stream, destroy_myself, &suicide));
    CHECK_OK(forebay_stream_synchronize(stream));
    CHECK_EQ(suicide.status, FOREBAY_ERROR_INVALID_STATE);
    CHECK(strstr(suicide.message, hex(stream)) != NULL);
    struct order order = {0, 0};
    struct item item = {&order, 0};
    CHECK_OK(forebay_stream_submit(stream, note, &item));
    CHECK_OK(forebay_stream_synchronize(stream));
    CHECK_EQ(order.count, 1);
    CHECK_OK(forebay_stream_destroy(stream));
}

// A stream's thread is not in the child of a fork: calls say so instead of waiting forever.
static void in_a_child(void)
{
    forebay_stream stream = NULL;
    CHECK_OK(forebay_stream_create(&stream));
    struct gate gate = GATE_INIT;
    CHECK_OK(forebay_stream_submit(stream, hold, &gate));
    forebay_fence fence = {0, 0};
    CHECK_OK(forebay_stream_record(stream, &fence));
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        const char *number = hex(stream);
        CHECK_ERROR(forebay_stream_submit(stream, note, NULL), FOREBAY_ERROR_INVALID_STATE,
                    "stream", number, "fork");
        CHECK_ERROR(forebay_stream_synchronize(stream), FOREBAY_ERROR_INVALID_STATE, "stream",
                    number, "fork");
        CHECK_ERROR(forebay_fence_wait(fence), FOREBAY_ERROR_INVALID_STATE, "stream", number,
                    "fork");
        CHECK_OK(forebay_stream_destroy(stream));
        // One made here works.
        forebay_stream own = NULL;
        struct order order = {0, 0};
        struct item item = {&order, 0};
        CHECK_OK(forebay_stream_create(&own));
        CHECK_OK(forebay_stream_submit(own, note, &item));
        CHECK_OK(forebay_stream_synchronize(own));
        CHECK_EQ(order.count, 1);
        CHECK_OK(forebay_stream_destroy(own));
        _exit(check_end("stream, the child"));
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    open_gate(&gate);
    CHECK_OK(forebay_stream_synchronize(stream));
    CHECK_OK(forebay_stream_destroy(stream));
}

int main(void)
{
    time_limit(300);
    in_order();
    fences();
    the_default_stream();
    bad_input();
    in_a_child();
    return check_end("stream");
}
