// What is left to this process, and why. Run it in a container, or under `ulimit -v`.
//
//     cc monitor.c $(pkg-config --cflags --libs forebay) -o monitor && ./monitor

#include <forebay.h>
#include <stdio.h>

#define GIB (1.0 / (1 << 30))

int main(void) {
    static const char *const limits[] = {"the machine", "a control group's maximum",
                                         "a control group's memory.high",
                                         "a control group's memory and swap", "RLIMIT_AS",
                                         "RLIMIT_DATA", "what the kernel promises"};
    static const char *const levels[] = {"ok", "elevated", "critical"};
    forebay_memory_info_t info = FOREBAY_MEMORY_INFO_INIT;
    if (forebay_memory_info(&info) != FOREBAY_OK)
        return fprintf(stderr, "%s\n", forebay_last_error()), 1;
    printf("%.2f GiB available, level %s\n", GIB * info.available_bytes, levels[info.level]);
    printf("%.2f of %.2f GiB left of %s, %.2f in reserve\n", GIB * info.left_bytes,
           GIB * info.limit_bytes, limits[info.limit_source], GIB * info.reserve_bytes);
    printf("%.2f GiB resident, %.2f pinned by forebay\n", GIB * info.process_resident_bytes,
           GIB * info.pinned_bytes);
    printf("waited for memory %.2f %% of the last 10 s, %.2f %% with all tasks\n",
           info.pressure_some_avg10, info.pressure_full_avg10);

    // Everything, control groups and GPUs too.
    char report[65536];
    if (forebay_memory_info_json(report, sizeof report, NULL) == FOREBAY_OK) puts(report);
}
