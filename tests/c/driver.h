// The few functions of the CUDA driver that tests call themselves, found as the library finds them.
// Include check.h first.

#ifndef FOREBAY_TESTS_DRIVER_H
#define FOREBAY_TESTS_DRIVER_H

#include <dlfcn.h>

#define MIB ((uint64_t)1 << 20)

static void *driver_library;

// Calls a function of the driver; every one returns 0 or a code.
#define DRIVER(name, types, ...) (((int (*) types)driver_find(name))(__VA_ARGS__))

// A function without a type: compilers let that become any other.
static void (*driver_find(const char *name))(void)
{
    void (*function)(void);
    void *found = dlsym(driver_library, name);
    if (found == NULL) {
        check_failed(__FILE__, __LINE__, "the driver has no %s", name);
        exit(1);
    }
    *(void **)&function = found;
    return function;
}

// Whether there is a driver; its device 0 is current then.
CHECK_UNUSED static int driver_is_there(void)
{
    driver_library = dlopen("libcuda.so.1", RTLD_NOW);
    if (driver_library == NULL) {
        return 0;
    }
    void *context = NULL;
    CHECK_EQ(DRIVER("cuInit", (unsigned), 0), 0);
    CHECK_EQ(DRIVER("cuDevicePrimaryCtxRetain", (void **, int), &context, 0), 0);
    CHECK_EQ(DRIVER("cuCtxSetCurrent", (void *), context), 0);
    return 1;
}

CHECK_UNUSED static forebay_stream driver_stream(void)
{
    void *stream = NULL;
    CHECK_EQ(DRIVER("cuStreamCreate", (void **, unsigned), &stream, 1), 0);
    return (forebay_stream)stream;
}

CHECK_UNUSED static void driver_set(void *to, int value, size_t bytes, forebay_stream stream)
{
    CHECK_EQ(DRIVER("cuMemsetD8Async", (uint64_t, unsigned char, size_t, void *),
                    (uint64_t)(uintptr_t)to, (unsigned char)value, bytes, stream),
             0);
}

// The byte at `from`, once all work is done.
CHECK_UNUSED static int driver_byte(const void *from)
{
    unsigned char byte = 0;
    CHECK_EQ(((int (*)(void))driver_find("cuCtxSynchronize"))(), 0);
    CHECK_EQ(DRIVER("cuMemcpyDtoH_v2", (void *, uint64_t, size_t), &byte,
                    (uint64_t)(uintptr_t)from, 1),
             0);
    return byte;
}

CHECK_UNUSED static forebay_pool *driver_pool(uint64_t bytes)
{
    forebay_pool_config config = FOREBAY_POOL_CONFIG_INIT;
    config.device_kind = FOREBAY_DEVICE_KIND_CUDA;
    config.max_bytes = bytes;
    forebay_pool *pool = NULL;
    CHECK_OK(forebay_pool_create(&config, &pool));
    return pool;
}

#endif
