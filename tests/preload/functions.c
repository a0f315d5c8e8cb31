// Every function of the allocator, below the threshold, above it and across.

#include "rig.h"

#include <dlfcn.h>
#include <sys/mman.h>

static void fill(void *block, size_t bytes, unsigned seed)
{
    for (size_t at = 0; at < bytes; at += 64) {
        ((unsigned char *)block)[at] = (unsigned char)(at / 64 * 7 + seed);
    }
    ((unsigned char *)block)[bytes - 1] = (unsigned char)seed;
}

static int holds(const void *block, size_t bytes, size_t whole, unsigned seed)
{
    for (size_t at = 0; at < bytes; at += 64) {
        if (at != whole - 1
            && ((const unsigned char *)block)[at] != (unsigned char)(at / 64 * 7 + seed)) {
            return 0;
        }
    }
    return 1;
}

static int is_zero(const unsigned char *block, size_t bytes)
{
    for (size_t at = 0; at < bytes; at++) {
        if (block[at] != 0) {
            return 0;
        }
    }
    return 1;
}

// Sizes that cannot be, which the compiler shall not see through.
static volatile size_t too_much = PTRDIFF_MAX;
static volatile size_t half = SIZE_MAX / 2;

static const size_t sizes[] = {1, 100, 33 * KIB, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 100001,
                               MIB, 3 * MIB + 17, 40 * MIB};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static void plain(void)
{
    for (int n = 0; n < SIZES; n++) {
        unsigned char *block = malloc(sizes[n]);
        CHECK(block != NULL);
        CHECK(is_pooled(block) || sizes[n] < 64 * KIB);
        CHECK(malloc_usable_size(block) >= sizes[n]);
        memset(block, 0xab, malloc_usable_size(block));
        errno = 4711;
        free(block);
        CHECK(errno == 4711);
    }
    free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
    void *nothing = malloc(0);
    free(nothing);
    errno = 0;
    CHECK(used(malloc(too_much + 1)) == NULL);
    CHECK(errno == ENOMEM);
}

static void zeroed(void)
{
    for (int round = 0; round < 4; round++) {
        for (int n = 0; n < SIZES; n++) {
            unsigned char *block = calloc(1, sizes[n]);
            CHECK(block != NULL && is_zero(block, sizes[n]));
            CHECK(is_pooled(block) || sizes[n] < 64 * KIB);
            memset(block, 0xff, sizes[n]);
            free(block);
            block = calloc(sizes[n], 3);
            CHECK(block != NULL && is_zero(block, 3 * sizes[n]));
            memset(block, 0xff, 3 * sizes[n]);
            free(block);
        }
    }
    errno = 0;
    CHECK(used(calloc(half, 3)) == NULL);
    CHECK(errno == ENOMEM);
}

static void resized(void)
{
    for (int from = 0; from < SIZES; from++) {
        for (int to = 0; to < SIZES; to++) {
            unsigned char *block = malloc(sizes[from]);
            fill(block, sizes[from], 3);
            unsigned char *other = realloc(block, sizes[to]);
            CHECK(other != NULL);
            size_t both = sizes[from] < sizes[to] ? sizes[from] : sizes[to];
            CHECK(holds(other, both, sizes[from], 3));
            memset(other, 1, malloc_usable_size(other));
            free(other);
        }
    }
    // All that there is room for counts, not only what was asked for.
    unsigned char *block = malloc(100001);
    size_t room = malloc_usable_size(block);
    memset(block, 0x5a, room);
    block = realloc(block, 50 * MIB);
    for (size_t at = 0; at < room; at++) {
        CHECK(block[at] == 0x5a);
    }
    errno = 0;
    CHECK(used(realloc(used(block), too_much)) == NULL);
    CHECK(errno == ENOMEM);
    CHECK(block[room - 1] == 0x5a);
    CHECK(realloc(block, 0) == NULL);
    block = realloc(NULL, MIB);
    CHECK(is_pooled(block));
    block = reallocarray(block, 3, MIB);
    CHECK(malloc_usable_size(block) >= 3 * MIB);
    errno = 0;
    CHECK(used(reallocarray(used(block), half, 3)) == NULL);
    CHECK(errno == ENOMEM);
    free(block);
    // One byte more each time, as growing buffers do.
    block = NULL;
    for (size_t size = 60 * KIB; size < 70 * KIB; size += 13) {
        block = realloc(block, size);
        block[size - 1] = 9;
        CHECK(size == 60 * KIB || block[size - 14] == 9);
    }
    free(block);
}

static void aligned(void)
{
    for (size_t alignment = 8; alignment <= 4 * MIB; alignment *= 2) {
        for (int n = 0; n < SIZES; n++) {
            void *block = NULL;
            CHECK(posix_memalign(&block, alignment, sizes[n]) == 0);
            CHECK((uintptr_t)block % alignment == 0);
            memset(block, 1, sizes[n]);
            block = realloc(block, sizes[n] + 70000);
            CHECK(block != NULL);
            free(block);
            block = memalign(alignment, sizes[n]);
            CHECK((uintptr_t)block % alignment == 0);
            memset(block, 1, sizes[n]);
            free(block);
            block = aligned_alloc(alignment, (sizes[n] + alignment - 1) / alignment * alignment);
            CHECK((uintptr_t)block % alignment == 0);
            memset(block, 1, sizes[n]);
            free(block);
        }
    }
    void *block = &block;
    CHECK(posix_memalign(&block, 24, MIB) == EINVAL);
    CHECK(posix_memalign(&block, 4, MIB) == EINVAL);
    CHECK(block == (void *)&block);
    block = valloc(MIB);
    CHECK((uintptr_t)block % 4096 == 0 && is_pooled(block));
    free(block);
    block = pvalloc(MIB + 1);
    CHECK((uintptr_t)block % 4096 == 0 && malloc_usable_size(block) >= MIB + 4096);
    free(block);
    free(valloc(10));
    free(pvalloc(10));
}

// Names that not every C library has.
static void others(void)
{
    void (*cfree)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "cfree");
    void (*sized)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    void (*both)(void *, size_t, size_t) =
        (void (*)(void *, size_t, size_t))dlsym(RTLD_DEFAULT, "free_aligned_sized");
    CHECK(cfree != NULL && sized != NULL && both != NULL);
    for (int n = 0; n < SIZES; n++) {
        cfree(malloc(sizes[n]));
        sized(malloc(sizes[n]), sizes[n]);
        both(memalign(64, sizes[n]), 64, sizes[n]);
    }
}

// What nobody wrote to is not touched to make it zero, and neither is what came back meanwhile.
static void fresh_zeros(void)
{
    size_t bytes = 512 * MIB;
    unsigned char *block = calloc(1, bytes);
    CHECK(is_pooled(block));
    long resident = number_in("/proc/self/status", "VmRSS:");
    CHECK(resident < 256 * 1024);
    block[300 * MIB] = 1;
    free(block);
    block = calloc(1, bytes);
    CHECK(block[300 * MIB] == 0);
    CHECK(number_in("/proc/self/status", "VmRSS:") < 256 * 1024);
    free(block);
}

// Programs give advice on memory of theirs.
static void advised(void)
{
    unsigned char *block = malloc(8 * MIB);
    memset(block, 7, 8 * MIB);
    unsigned char *page = (unsigned char *)(((uintptr_t)block + 4095) / 4096 * 4096);
    madvise(page, 4 * MIB, MADV_HUGEPAGE);
    madvise(page, 4 * MIB, MADV_DONTNEED);
    CHECK(page[0] == 0);
    free(block);
    block = calloc(1, 8 * MIB);
    CHECK(is_zero(block, 8 * MIB));
    free(block);
}

int main(void)
{
    CHECK(warm_up());
    plain();
    zeroed();
    resized();
    aligned();
    others();
    advised();
    fresh_zeros();
    puts("done");
    return 0;
}
