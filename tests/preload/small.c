// A program that does nothing large: no thread, nothing loaded.

#include "rig.h"

int main(void)
{
    void *blocks[1000];
    for (int round = 0; round < 100; round++) {
        for (size_t at = 0; at < 1000; at++) {
            blocks[at] = malloc(at * 30 + 1);
            memset(blocks[at], 1, at * 30 + 1);
        }
        for (size_t at = 0; at < 1000; at++) {
            free(blocks[at]);
        }
    }
    // A few large ones are nothing yet.
    for (int n = 0; n < 10; n++) {
        free(used(malloc(MIB)));
    }
    sleep_ms(100);
    CHECK(number_in("/proc/self/status", "Threads:") == 1);
    CHECK(mapped("libforebay_preload.so") > 0);
    CHECK(mapped("libforebay.so") == 0);
    puts("done");
    return 0;
}
