// Idle memory goes back to the system in seconds, what threads kept for themselves included.

#include "rig.h"

static pthread_barrier_t turn;

static void *work(void *unused)
{
    (void)unused;
    for (int n = 0; n < 20; n++) {
        unsigned char *block = malloc(16 * MIB);
        memset(block, 1, 16 * MIB);
        free(block);
    }
    pthread_barrier_wait(&turn);
    pthread_barrier_wait(&turn);
    return NULL;
}

int main(void)
{
    long before = number_in("/proc/self/status", "VmRSS:");
    CHECK(warm_up());
    unsigned char *live = malloc(10 * MIB);
    memset(live, 3, 10 * MIB);
    CHECK(pthread_barrier_init(&turn, NULL, 4) == 0);
    pthread_t threads[3];
    for (int n = 0; n < 3; n++) {
        CHECK(pthread_create(&threads[n], NULL, work, NULL) == 0);
    }
    pthread_barrier_wait(&turn);
    void *blocks[20];
    for (int n = 0; n < 20; n++) {
        blocks[n] = malloc(8 * MIB);
        memset(blocks[n], 2, 8 * MIB);
    }
    for (int n = 0; n < 20; n++) {
        free(blocks[n]);
    }
    CHECK(number_in("/proc/self/status", "VmRSS:") > before + 150 * 1024);
    long after = 0;
    for (int tenths = 0; tenths < 300; tenths++) {
        sleep_ms(100);
        after = number_in("/proc/self/status", "VmRSS:");
        if (after < before + 24 * 1024) {
            break;
        }
    }
    CHECK(after < before + 24 * 1024);
    CHECK(live[10 * MIB - 1] == 3);
    pthread_barrier_wait(&turn);
    for (int n = 0; n < 3; n++) {
        CHECK(pthread_join(threads[n], NULL) == 0);
    }
    free(live);
    puts("done");
    return 0;
}
