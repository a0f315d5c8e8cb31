// A second translation unit with the same header, twice: what it defines must be one thing.

#include <forebay.hpp>
#include <forebay.hpp>

#include <vector>

void *allocate_in_second_unit(forebay::pool &pool) { return pool.allocate(4096); }

std::size_t sum_in_second_unit(const std::vector<int, forebay::allocator<int>> &numbers) {
    std::size_t sum = 0;
    for (int number : numbers) sum += static_cast<std::size_t>(number);
    return sum;
}

// Thrown here, caught in the first unit: the type must be one.
void fail_in_second_unit() { forebay::check(forebay_pool_trim(nullptr, 0, nullptr)); }
