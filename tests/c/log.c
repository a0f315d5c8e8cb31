// The log callback.

#include "check.h"

#include <pthread.h>

struct heard {
    pthread_mutex_t lock;
    unsigned lines;
    unsigned warnings;
    int32_t most;
    char last[512];
    char warning[512];
};

static void hear(int32_t level, const char *message, void *user)
{
    struct heard *heard = user;
    pthread_mutex_lock(&heard->lock);
    heard->lines++;
    heard->most = level > heard->most ? level : heard->most;
    snprintf(heard->last, sizeof heard->last, "%s", message);
    if (level == 2) {
        heard->warnings++;
        snprintf(heard->warning, sizeof heard->warning, "%s", message);
    }
    pthread_mutex_unlock(&heard->lock);
}

// Destroys a pool with one live block of 48 bytes, which is worth a warning.
static void make_a_warning(void)
{
    forebay_pool *pool = small_pool(8 << 20, 0);
    block_of(pool, 48);
    CHECK_ERROR(forebay_pool_destroy(pool), FOREBAY_ERROR_INVALID_STATE, "1 live block", "48");
}

int main(void)
{
    time_limit(300);
    struct heard first = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct heard second = {.lock = PTHREAD_MUTEX_INITIALIZER};

    // Off at first, and turning it off again is fine.
    make_a_warning();
    CHECK_OK(forebay_log_set_callback(0, NULL, NULL));

    int32_t levels[] = {0, -1, 6, INT32_MAX, INT32_MIN};
    for (size_t at = 0; at < sizeof levels / sizeof levels[0]; at++) {
        char number[16];
        snprintf(number, sizeof number, "%" PRId32, levels[at]);
        CHECK_ERROR(forebay_log_set_callback(levels[at], hear, &first),
                    FOREBAY_ERROR_INVALID_ARGUMENT, "max_level is", number, "1 to 5");
        make_a_warning();
        CHECK_EQ(first.lines, 0);
    }

    CHECK_OK(forebay_log_set_callback(2, hear, &first));
    make_a_warning();
    CHECK_EQ(first.warnings, 1);
    CHECK_EQ(first.most, 2);
    CHECK(strstr(first.warning, "live blocks") != NULL);
    CHECK(strstr(first.warning, "48") != NULL);

    // Level 1 has no warnings in it; a refused level changes nothing.
    CHECK_OK(forebay_log_set_callback(1, hear, &first));
    CHECK_ERROR(forebay_log_set_callback(9, hear, &second), FOREBAY_ERROR_INVALID_ARGUMENT,
                "max_level is 9");
    make_a_warning();
    CHECK_EQ(first.warnings, 1);
    CHECK_EQ(second.lines, 0);

    // Another function and another pointer, with all levels.
    CHECK_OK(forebay_log_set_callback(5, hear, &second));
    unsigned before = first.lines;
    make_a_warning();
    CHECK_EQ(first.lines, before);
    CHECK_EQ(second.warnings, 1);
    CHECK(second.most >= 4);
    CHECK(second.lines > second.warnings);

    CHECK_OK(forebay_log_set_callback(5, NULL, NULL));
    before = second.lines;
    make_a_warning();
    CHECK_EQ(second.lines, before);
    return check_end("log");
}
