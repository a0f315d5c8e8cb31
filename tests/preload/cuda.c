// CUDA's allocation calls, of the runtime and of the driver, on the simulated ones, which check the
// order of every access. `cuda pooled|passed`.

#include "rig.h"

#include <dlfcn.h>

// As NVIDIA declares them.
extern int cudaMalloc(void **out, size_t size);
extern int cudaFree(void *ptr);
extern int cudaMallocAsync(void **out, size_t size, void *stream);
extern int cudaFreeAsync(void *ptr, void *stream);
extern int cudaMemGetInfo(size_t *free, size_t *total);
extern int cudaGetLastError(void);
extern int cudaSetDevice(int device);
extern int cudaGetDevice(int *device);
extern int cudaDeviceSynchronize(void);
extern int cudaStreamCreateWithFlags(void **stream, unsigned flags);
extern int cudaStreamSynchronize(void *stream);
extern int cuMemAlloc_v2(uint64_t *out, size_t size);
extern int cuMemFree_v2(uint64_t address);
extern int cuMemAllocAsync(uint64_t *out, size_t size, void *stream);
extern int cuMemFreeAsync(uint64_t address, void *stream);
extern int cuMemGetInfo_v2(size_t *free, size_t *total);

// The simulated driver's own.
struct range {
    uint64_t start, bytes;
};
extern int simLaunch(void *stream, const char *name, const struct range *reads, size_t read_count,
                     const struct range *writes, size_t write_count, uint64_t ns, int fill);
extern size_t simHazards(void);

static void kernel(void *stream, void *memory, size_t bytes)
{
    struct range writes = {(uintptr_t)memory, bytes};
    CHECK(simLaunch(stream, "kernel", NULL, 0, &writes, 1, 100000, -1) == 0);
}

static int pooled;
static void *a, *b;

static void plain(void)
{
    void *first = NULL, *second = NULL;
    CHECK(cudaMalloc(&first, 10 * MIB) == 0 && first != NULL);
    CHECK((uintptr_t)first % 256 == 0);
    kernel(a, first, 10 * MIB);
    kernel(a, first, 10 * MIB);
    // Waits, so that any stream may have it next.
    CHECK(cudaFree(first) == 0);
    CHECK(cudaMalloc(&second, 10 * MIB) == 0);
    CHECK(!pooled || second == first);
    kernel(b, second, 10 * MIB);
    // Freed in the order of a stream, it is waited for.
    CHECK(cudaFreeAsync(second, b) == 0);
    CHECK(cudaMalloc(&first, 10 * MIB) == 0);
    CHECK(!pooled || second == first);
    kernel(a, first, 10 * MIB);
    CHECK(cudaFree(first) == 0);
    CHECK(simHazards() == 0);
}

static void ordered(void)
{
    void *first = NULL, *second = NULL;
    CHECK(cudaMallocAsync(&first, 6 * MIB, a) == 0);
    kernel(a, first, 6 * MIB);
    CHECK(cudaFreeAsync(first, a) == 0);
    CHECK(cudaMallocAsync(&second, 6 * MIB, a) == 0);
    CHECK(!pooled || second == first);
    kernel(a, second, 6 * MIB);
    CHECK(cudaFreeAsync(second, a) == 0);
    // Another stream does not get what is in use.
    CHECK(cudaMallocAsync(&second, 6 * MIB, b) == 0);
    kernel(b, second, 6 * MIB);
    CHECK(simHazards() == 0);
    CHECK(cudaFree(second) == 0);
    CHECK(simHazards() == 0);
}

static void info(void)
{
    size_t before = 0, total = 0, between = 0, after = 0;
    CHECK(cudaMemGetInfo(&before, &total) == 0);
    void *block = NULL;
    CHECK(cudaMalloc(&block, 100 * MIB) == 0);
    CHECK(cudaMemGetInfo(&between, &total) == 0);
    CHECK(between <= before - 100 * MIB);
    CHECK(cudaFree(block) == 0);
    CHECK(cudaMemGetInfo(&after, &total) == 0);
    // What the pool keeps counts as free.
    CHECK(after == before && after <= total);
    CHECK(cuMemGetInfo_v2(&after, &total) == 0 && after == before);
}

static void refusals(void)
{
    void *block = &block;
    CHECK(cudaMalloc(NULL, MIB) != 0);
    CHECK(cudaGetLastError() != 0);
    CHECK(cudaMalloc(&block, (size_t)1 << 44) == 2);
    CHECK(cudaGetLastError() == 2);
    CHECK(cudaMallocAsync(&block, (size_t)1 << 44, a) == 2);
    CHECK(cudaGetLastError() == 2);
    CHECK(cudaMalloc(&block, 0) == 0 && block == NULL);
    CHECK(cudaFree(NULL) == 0);
    CHECK(cudaFree(&block) != 0);
    CHECK(cudaGetLastError() != 0);
    if (pooled) {
        CHECK(cudaMalloc(&block, MIB) == 0);
        CHECK(cudaFree(block) == 0);
        CHECK(cudaFree(block) == 1);
    }
}

static void devices(void)
{
    void *one = NULL;
    CHECK(cudaSetDevice(1) == 0);
    CHECK(cudaMalloc(&one, 3 * MIB) == 0);
    void *stream = NULL;
    CHECK(cudaStreamCreateWithFlags(&stream, 1) == 0);
    kernel(stream, one, 3 * MIB);
    CHECK(cudaSetDevice(0) == 0);
    CHECK(cudaFree(one) == 0);
    int device = -1;
    CHECK(cudaGetDevice(&device) == 0 && device == 0);
    CHECK(cudaSetDevice(1) == 0);
    CHECK(cudaMalloc(&one, 3 * MIB) == 0);
    kernel(stream, one, 3 * MIB);
    CHECK(cudaSetDevice(0) == 0);
    // The driver's twin finds its way too.
    CHECK(cuMemFree_v2((uintptr_t)one) == 0);
    CHECK(cudaGetDevice(&device) == 0 && device == 0);
    CHECK(simHazards() == 0);
}

static void driver(void)
{
    uint64_t first = 0, second = 0;
    CHECK(cuMemAlloc_v2(&first, 5 * MIB) == 0);
    kernel(a, (void *)first, 5 * MIB);
    // The simulated driver's own free waits for nothing.
    CHECK(pooled || cudaDeviceSynchronize() == 0);
    CHECK(cuMemFree_v2(first) == 0);
    CHECK(cuMemAlloc_v2(&second, 5 * MIB) == 0);
    CHECK(!pooled || second == first);
    CHECK(cuMemFree_v2(second) == 0);
    CHECK(cuMemAllocAsync(&first, 7 * MIB, b) == 0);
    kernel(b, (void *)first, 7 * MIB);
    CHECK(cuMemFreeAsync(first, b) == 0);
    CHECK(cuMemAllocAsync(&second, 7 * MIB, b) == 0);
    CHECK(!pooled || second == first);
    kernel(b, (void *)second, 7 * MIB);
    CHECK(cuMemFreeAsync(second, b) == 0);
    CHECK(simHazards() == 0);
}

static void *work(void *stream)
{
    for (int n = 0; n < 100; n++) {
        void *block = NULL, *other = NULL;
        CHECK(cudaMallocAsync(&block, (size_t)(n % 7 + 1) * MIB, stream) == 0);
        kernel(stream, block, MIB);
        CHECK(cudaMalloc(&other, MIB) == 0);
        kernel(stream, other, MIB);
        CHECK(cudaFreeAsync(block, stream) == 0);
        CHECK(cudaStreamSynchronize(stream) == 0);
        CHECK(cudaFree(other) == 0);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    pooled = strcmp(argv[1], "pooled") == 0;
    CHECK(cudaStreamCreateWithFlags(&a, 1) == 0);
    CHECK(cudaStreamCreateWithFlags(&b, 1) == 0);
    if (pooled) {
        plain();
        ordered();
        info();
        driver();
        devices();
    }
    refusals();
    pthread_t threads[2];
    CHECK(pthread_create(&threads[0], NULL, work, a) == 0);
    CHECK(pthread_create(&threads[1], NULL, work, b) == 0);
    CHECK(pthread_join(threads[0], NULL) == 0 && pthread_join(threads[1], NULL) == 0);
    CHECK(cudaDeviceSynchronize() == 0);
    CHECK(simHazards() == 0);
    puts("done");
    return 0;
}
