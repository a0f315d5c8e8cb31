/* One allocator under measurement, whatever its calling convention. */
#ifndef POOL_BENCH_ALLOCATOR_H
#define POOL_BENCH_ALLOCATOR_H

#include <stddef.h>

#include "forebay.h"

enum allocator_kind { ALLOCATOR_PLAIN, ALLOCATOR_FOREBAY, ALLOCATOR_UMF };

struct allocator {
    enum allocator_kind kind;
    union {
        struct {
            void *(*alloc)(size_t size);
            void (*free)(void *ptr);
        } plain; /* malloc and free, or a library's own names for them */
        struct {
            __typeof__(&forebay_alloc) alloc;
            __typeof__(&forebay_free) free;
            forebay_pool *pool;
        } forebay;
        struct {
            void *(*alloc)(void *pool, size_t size);
            int (*free)(void *pool, void *ptr);
            void *pool;
        } umf;
    };
    void (*thread_start)(void); /* NULL, or to be called on each thread but the first */
    void (*thread_end)(void);
};

/* Opens the allocator that spec names, and ends the process with a message when that fails:
 *   malloc              malloc and free of this process (whatever is preloaded)
 *   table:LIBRARY:NAME  the table peer_NAME in LIBRARY (benches/peers)
 *   umf:LIBRARY         UMF's disjoint pool over its OS provider
 *   forebay:LIBRARY     a balanced host pool
 * It is never closed: the process ends with the measurement. */
void allocator_open(struct allocator *allocator, const char *spec);

/* Symbols of a shared library; both end the process with a message on failure. */
void *library_open(const char *path);
void *library_symbol(void *library, const char *name);

/* Prints the program's name and the message and ends the process. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2), cold));

/* The kind never changes, so its branch is predicted; every kind pays the same for it. */
static inline void *take(const struct allocator *a, size_t size) {
    void *ptr = NULL;
    if (a->kind == ALLOCATOR_PLAIN) {
        ptr = a->plain.alloc(size);
    } else if (a->kind == ALLOCATOR_FOREBAY) {
        if (a->forebay.alloc(a->forebay.pool, size, NULL, &ptr) != FOREBAY_OK) ptr = NULL;
    } else {
        ptr = a->umf.alloc(a->umf.pool, size);
    }
    if (__builtin_expect(ptr == NULL, 0)) fail("no memory for a block of %zu bytes", size);
    return ptr;
}

static inline void give(const struct allocator *a, void *ptr) {
    if (a->kind == ALLOCATOR_PLAIN) {
        a->plain.free(ptr);
    } else if (a->kind == ALLOCATOR_FOREBAY) {
        if (__builtin_expect(a->forebay.free(a->forebay.pool, ptr, NULL) != FOREBAY_OK, 0))
            fail("forebay_free refused a live block");
    } else if (__builtin_expect(a->umf.free(a->umf.pool, ptr) != 0, 0)) {
        fail("umfPoolFree refused a live block");
    }
}

#endif
