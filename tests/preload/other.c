// An allocator that is not the C library's, as programs link one: blocks have a word in front, and
// what does not have it is not freed here.

#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MARK 0x6f74686572616c6cull

struct head {
    size_t size;
    void *start;
    uint64_t unused, mark;
};

extern void *__libc_malloc(size_t size);
extern void __libc_free(void *ptr);

long other_live;

static void *take(size_t alignment, size_t size)
{
    if (size > PTRDIFF_MAX / 2) {
        errno = ENOMEM;
        return NULL;
    }
    char *start = __libc_malloc(size + 2 * alignment + sizeof(struct head));
    if (start == NULL) {
        return NULL;
    }
    uintptr_t at = ((uintptr_t)start + sizeof(struct head) + alignment - 1) / alignment * alignment;
    // Never where a pool's blocks are.
    at += at % 512 == 0 && alignment < 512 ? alignment : 0;
    struct head *head = (struct head *)at - 1;
    *head = (struct head){size, start, 0, MARK};
    __atomic_fetch_add(&other_live, 1, __ATOMIC_RELAXED);
    return (void *)at;
}

static struct head *head_of(void *ptr)
{
    struct head *head = (struct head *)ptr - 1;
    if (head->mark != MARK) {
        static const char text[] = "other: freed what is not mine\n";
        write(2, text, sizeof text - 1);
        abort();
    }
    return head;
}

void *malloc(size_t size) { return take(16, size); }

void free(void *ptr)
{
    if (ptr != NULL) {
        struct head *head = head_of(ptr);
        head->mark = 0;
        __atomic_fetch_sub(&other_live, 1, __ATOMIC_RELAXED);
        __libc_free(head->start);
    }
}

void *calloc(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    void *block = take(16, bytes);
    return block == NULL ? NULL : memset(block, 0, bytes);
}

void *realloc(void *ptr, size_t size)
{
    void *block = take(16, size);
    if (block != NULL && ptr != NULL) {
        size_t old = head_of(ptr)->size;
        memcpy(block, ptr, old < size ? old : size);
        free(ptr);
    }
    return block;
}

void *memalign(size_t alignment, size_t size) { return take(alignment < 16 ? 16 : alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
void *valloc(size_t size) { return take(4096, size); }
void *pvalloc(size_t size) { return take(4096, size); }

int posix_memalign(void **out, size_t alignment, size_t size)
{
    if (alignment < sizeof(void *) || (alignment & (alignment - 1)) != 0) {
        return EINVAL;
    }
    void *block = memalign(alignment, size);
    if (block == NULL) {
        return ENOMEM;
    }
    *out = block;
    return 0;
}

size_t malloc_usable_size(void *ptr) { return ptr == NULL ? 0 : head_of(ptr)->size; }
