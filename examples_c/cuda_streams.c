// Two streams of a GPU share a pool: what one frees, the other uses once that is safe. Needs no
// CUDA toolkit; the few functions of the driver that it calls it finds like the library does.
//
//     cc cuda_streams.c $(pkg-config --cflags --libs forebay) -ldl -o cuda_streams && ./cuda_streams

#include <dlfcn.h>
#include <forebay.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define MIB ((size_t)1 << 20)

// The driver's types are an int for a device, pointers for contexts and streams, and a number for
// an address; every function returns 0 or a code.
typedef int (*init_fn)(unsigned);
typedef int (*retain_fn)(void **context, int device);
typedef int (*current_fn)(void *context);
typedef int (*stream_create_fn)(void **stream, unsigned flags);
typedef int (*stream_fn)(void *stream);
typedef int (*event_create_fn)(void **event, unsigned flags);
typedef int (*record_fn)(void *event, void *stream);
typedef int (*wait_fn)(void *stream, void *event, unsigned flags);
typedef int (*set_fn)(uint64_t to, unsigned char value, size_t bytes, void *stream);

static void *driver;

static void *find(const char *name) {
    void *function = dlsym(driver, name);
    if (function == NULL) {
        fprintf(stderr, "the driver has no %s\n", name);
        exit(1);
    }
    return function;
}

static void need(int code, const char *what) {
    if (code != 0) {
        fprintf(stderr, "%s: %d %s\n", what, code, forebay_last_error());
        exit(1);
    }
}

// A function's address in a pointer to data is what POSIX gives; C99 has no cast for it.
#define DRIVER(type, variable, name)     \
    type variable;                       \
    *(void **)&variable = find(name)

int main(void) {
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (driver == NULL) {
        puts("there is no CUDA driver here (libcuda.so.1): nothing to show");
        return 0;
    }
    DRIVER(init_fn, init, "cuInit");
    DRIVER(retain_fn, retain, "cuDevicePrimaryCtxRetain");
    DRIVER(current_fn, make_current, "cuCtxSetCurrent");
    DRIVER(stream_create_fn, stream_create, "cuStreamCreate");
    DRIVER(stream_fn, stream_destroy, "cuStreamDestroy_v2");
    DRIVER(stream_fn, stream_synchronize, "cuStreamSynchronize");
    DRIVER(event_create_fn, event_create, "cuEventCreate");
    DRIVER(record_fn, record, "cuEventRecord");
    DRIVER(wait_fn, wait_for, "cuStreamWaitEvent");
    DRIVER(set_fn, set, "cuMemsetD8Async");
    void *context, *streams[2];
    need(init(0), "cuInit");
    need(retain(&context, 0), "cuDevicePrimaryCtxRetain");
    need(make_current(context), "cuCtxSetCurrent");
    for (int i = 0; i < 2; i++) need(stream_create(&streams[i], 1), "cuStreamCreate");
    forebay_stream a = streams[0], b = streams[1];

    forebay_pool_config config = FOREBAY_POOL_CONFIG_INIT;
    config.device_kind = FOREBAY_DEVICE_KIND_CUDA;
    config.max_bytes = 64 * MIB;
    forebay_pool *pool;
    need(forebay_pool_create(&config, &pool), "forebay_pool_create");

    // Freed on its own stream, a block is there again at once: no driver call, no waiting.
    void *first, *again;
    need(forebay_alloc(pool, 20 * MIB, a, &first), "forebay_alloc");
    need(set((uintptr_t)first, 1, 20 * MIB, a), "cuMemsetD8Async");
    need(forebay_free(pool, first, a), "forebay_free");
    need(forebay_alloc(pool, 20 * MIB, a, &again), "forebay_alloc");
    printf("on one stream: %s block\n", first == again ? "the same" : "another");

    // B uses a block of A's, behind what A did to it, and says so: then it may be freed on A without
    // A waiting for B.
    void *event;
    need(event_create(&event, 2), "cuEventCreate");
    need(record(event, a), "cuEventRecord");
    need(wait_for(b, event, 0), "cuStreamWaitEvent");
    need(forebay_record_stream(pool, again, b), "forebay_record_stream");
    need(set((uintptr_t)again, 2, 20 * MIB, b), "cuMemsetD8Async");
    need(forebay_free(pool, again, a), "forebay_free");

    // More than half of the limit: B gets what A freed, behind a wait on the device if need be.
    void *large;
    need(forebay_alloc(pool, 60 * MIB, b, &large), "forebay_alloc");
    need(set((uintptr_t)large, 3, 60 * MIB, b), "cuMemsetD8Async");
    puts("on two streams: 60 MiB of 64, in order");

    forebay_pool_statistics now = FOREBAY_POOL_STATISTICS_INIT;
    need(forebay_pool_stats(pool, &now), "forebay_pool_stats");
    printf("allocated %" PRIu64 " MiB, reserved %" PRIu64 " MiB\n", now.allocated_bytes / MIB,
           now.reserved_bytes / MIB);
    need(forebay_free(pool, large, b), "forebay_free");

    for (int i = 0; i < 2; i++) {
        need(stream_synchronize(streams[i]), "cuStreamSynchronize");
        need(forebay_pool_forget_stream(pool, streams[i]), "forebay_pool_forget_stream");
        need(stream_destroy(streams[i]), "cuStreamDestroy_v2");
    }
    need(forebay_pool_destroy(pool), "forebay_pool_destroy");
}
