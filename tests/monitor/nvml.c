// A made-up libnvidia-ml.so.1: two GPUs, of which MADE_UP_REFUSED ("name code") refuses one call.
// What is used grows with each time that it is asked for.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} memory_v2;

typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} process_v2;

static int refused(const char *call)
{
    char name[64] = "";
    int code = 0;
    const char *wish = getenv("MADE_UP_REFUSED");
    if (wish != NULL && sscanf(wish, "%63s %d", name, &code) == 2 && strcmp(name, call) == 0) {
        return code;
    }
    return 0;
}

#define REFUSE                                                                                 \
    do {                                                                                       \
        int code = refused(__func__);                                                          \
        if (code != 0) {                                                                       \
            return code;                                                                       \
        }                                                                                      \
    } while (0)

int nvmlInit_v2(void)
{
    REFUSE;
    return 0;
}

int nvmlSystemGetDriverVersion(char *to, unsigned room)
{
    REFUSE;
    return snprintf(to, room, "570.86.15") < (int)room ? 0 : 7;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    REFUSE;
    *count = 2;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    static int handles[2];
    REFUSE;
    if (index >= 2) {
        return 2;
    }
    *device = &handles[index];
    return 0;
}

int nvmlDeviceGetName(void *device, char *to, unsigned room)
{
    REFUSE;
    return device != NULL && snprintf(to, room, "Made-up \"H0\"") < (int)room ? 0 : 7;
}

int nvmlDeviceGetUUID(void *device, char *to, unsigned room)
{
    REFUSE;
    return device != NULL && snprintf(to, room, "GPU-0001") < (int)room ? 0 : 7;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2 *memory)
{
    static unsigned long long asked;
    REFUSE;
    if (device == NULL || memory->version != (sizeof(memory_v2) | 2 << 24)) {
        return 25;
    }
    memory->total = 1000;
    memory->reserved = 100;
    memory->used = 1 + asked++ / 2;
    memory->free = 900 - memory->used;
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned *count, process_v2 *to)
{
    REFUSE;
    if (device == NULL || *count < 1) {
        *count = 1;
        return 7;
    }
    memset(to, 0, sizeof *to);
    to->pid = (unsigned)getpid();
    to->used = 77;
    *count = 1;
    return 0;
}
