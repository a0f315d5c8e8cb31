#define _GNU_SOURCE
#include "allocator.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Addresses, not memory: more than any case holds. */
#define POOL_BYTES (64ull << 30)

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    _Exit(1);
}

void *library_open(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) fail("%s", dlerror());
    return library;
}

void *library_symbol(void *library, const char *name) {
    void *symbol = dlsym(library, name);
    if (symbol == NULL) fail("%s", dlerror());
    return symbol;
}

/* The twin of PeerTable in benches/peers/src/lib.rs. */
struct peer_table {
    void *(*alloc)(size_t size);
    void (*free)(void *ptr);
    void (*process_start)(void);
    void (*thread_start)(void);
    void (*thread_end)(void);
};

static void open_table(struct allocator *a, const char *library, const char *name) {
    char symbol[64];
    snprintf(symbol, sizeof symbol, "peer_%s", name);
    const struct peer_table *table = library_symbol(library_open(library), symbol);
    if (table->process_start != NULL) table->process_start();
    a->kind = ALLOCATOR_PLAIN;
    a->plain.alloc = table->alloc;
    a->plain.free = table->free;
    a->thread_start = table->thread_start;
    a->thread_end = table->thread_end;
}

static void open_forebay(struct allocator *a, const char *path) {
    void *library = library_open(path);
    __typeof__(&forebay_pool_create) create = library_symbol(library, "forebay_pool_create");
    __typeof__(&forebay_last_error) error = library_symbol(library, "forebay_last_error");
    forebay_pool_config config = {.struct_size = sizeof config};
    config.device_kind = FOREBAY_DEVICE_KIND_HOST;
    config.policy = FOREBAY_POLICY_BALANCED;
    config.max_bytes = POOL_BYTES;
    a->kind = ALLOCATOR_FOREBAY;
    a->forebay.alloc = library_symbol(library, "forebay_alloc");
    a->forebay.free = library_symbol(library, "forebay_free");
    if (create(&config, &a->forebay.pool) != FOREBAY_OK) fail("forebay_pool_create: %s", error());
}

/* UMF 1.x, declared by hand: its headers are not needed to measure it. A result of 0 is success,
 * and every parameters object is a pointer behind a create function. */
static void open_umf(struct allocator *a, const char *path, int scalable) {
    void *library = library_open(path);
    int (*provider_params)(void **) = library_symbol(library, "umfOsMemoryProviderParamsCreate");
    const void *(*provider_ops)(void) = library_symbol(library, "umfOsMemoryProviderOps");
    int (*provider_create)(const void *, const void *, void **) =
        library_symbol(library, "umfMemoryProviderCreate");
    int (*pool_create)(const void *, void *, const void *, unsigned, void **) =
        library_symbol(library, "umfPoolCreate");

    void *params, *provider;
    if (provider_params(&params) != 0 || provider_create(provider_ops(), params, &provider) != 0)
        fail("UMF makes no OS memory provider");
    const void *(*pool_ops)(void);
    if (scalable) {
        /* oneTBB's allocator, which gives back large blocks at once unless it is told. */
        int (*pool_params)(void **) = library_symbol(library, "umfScalablePoolParamsCreate");
        int (*keep_all)(void *, _Bool) =
            library_symbol(library, "umfScalablePoolParamsSetKeepAllMemory");
        if (pool_params(&params) != 0 || keep_all(params, 1) != 0)
            fail("UMF takes no settings for a scalable pool");
        pool_ops = library_symbol(library, "umfScalablePoolOps");
    } else {
        int (*pool_params)(void **) = library_symbol(library, "umfDisjointPoolParamsCreate");
        int (*set_poolable)(void *, size_t) =
            library_symbol(library, "umfDisjointPoolParamsSetMaxPoolableSize");
        int (*set_capacity)(void *, size_t) =
            library_symbol(library, "umfDisjointPoolParamsSetCapacity");
        /* By default it pools up to 2 MiB and keeps 4 free slabs of a size; the cases hold more,
         * and the peer shall not lose for want of a setting. */
        if (pool_params(&params) != 0 || set_poolable(params, 128u << 20) != 0 ||
            set_capacity(params, 64) != 0)
            fail("UMF takes no settings for a disjoint pool");
        pool_ops = library_symbol(library, "umfDisjointPoolOps");
    }
    if (pool_create(pool_ops(), provider, params, 0, &a->umf.pool) != 0)
        fail("UMF makes no %s pool", scalable ? "scalable" : "disjoint");
    a->kind = ALLOCATOR_UMF;
    a->umf.alloc = library_symbol(library, "umfPoolMalloc");
    a->umf.free = library_symbol(library, "umfPoolFree");
}

void allocator_open(struct allocator *a, const char *spec) {
    memset(a, 0, sizeof *a);
    char *copy = strdup(spec), *rest = NULL;
    if (copy == NULL) fail("no memory");
    const char *kind = strtok_r(copy, ":", &rest);
    const char *library = strtok_r(NULL, ":", &rest);
    const char *name = strtok_r(NULL, ":", &rest);
    if (kind != NULL && strcmp(kind, "malloc") == 0 && library == NULL) {
        a->kind = ALLOCATOR_PLAIN;
        a->plain.alloc = malloc;
        a->plain.free = free;
    } else if (kind != NULL && strcmp(kind, "table") == 0 && name != NULL) {
        open_table(a, library, name);
    } else if (kind != NULL && strcmp(kind, "umf") == 0 && library != NULL) {
        open_umf(a, library, name != NULL && strcmp(name, "scalable") == 0);
    } else if (kind != NULL && strcmp(kind, "forebay") == 0 && library != NULL) {
        open_forebay(a, library);
    } else {
        fail("allocator \"%s\" is none of malloc, table:LIBRARY:NAME, umf:LIBRARY[:scalable], forebay:LIBRARY",
             spec);
    }
}
