// What PyTorch's door throws where there is C++ and no PyTorch.

#include <forebay.h>

#include <cstdio>
#include <cstring>
#include <new>

static int failures;

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            std::printf("%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);           \
            ++failures;                                                                        \
        }                                                                                      \
    } while (0)

int main()
{
    void *block = forebay_torch_malloc(1000, 0, nullptr);
    CHECK(block != nullptr);
    for (int round = 0; round < 3; ++round) {
        bool thrown = false;
        try {
            forebay_torch_malloc(std::size_t{1} << 45, 0, nullptr);
        } catch (const std::bad_alloc &) {
            thrown = true;
        }
        CHECK(thrown);
        CHECK(std::strstr(forebay_last_error(), "out of memory") != nullptr);
    }
    // The pool goes on, and a free throws nothing.
    void *other = forebay_torch_malloc(5 << 20, 0, nullptr);
    CHECK(other != nullptr);
    forebay_torch_free(other, 5 << 20, 0, nullptr);
    forebay_torch_free(other, 5 << 20, 0, nullptr);
    forebay_torch_free(block, 1000, 0, nullptr);
    // A hook that has to tell of an error throws too.
    bool thrown = false;
    try {
        forebay_torch_set_memory_fraction(2.0, 0);
    } catch (const std::bad_alloc &) {
        thrown = true;
    }
    CHECK(thrown);
    CHECK(forebay_torch_segment_malloc(std::size_t{1} << 45, 0, nullptr) == nullptr);
    if (failures == 0) {
        std::printf("torch: all checks passed\n");
    }
    return failures != 0;
}
