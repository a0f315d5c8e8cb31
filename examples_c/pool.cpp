// The standard library's containers on a pool.
//
//     c++ -std=c++17 pool.cpp $(pkg-config --cflags --libs forebay) -o pool && ./pool

#include <forebay.hpp>

#include <cstdio>
#include <memory_resource>
#include <string>
#include <vector>

int main() try {
    forebay::pool_options options;
    options.max_bytes = 64 << 20;
    forebay::pool pool(options);

    std::vector<float, forebay::allocator<float>> weights(1 << 20, 0.5f, pool);

    forebay::memory_resource resource(pool);
    std::pmr::vector<std::pmr::string> names(&resource);
    names.emplace_back("a name that is too long to be kept inside of the string itself");

    const auto stats = pool.stats();
    std::printf("%llu blocks, %llu bytes requested, %llu reserved\n",
                static_cast<unsigned long long>(stats.live_blocks),
                static_cast<unsigned long long>(stats.requested_bytes),
                static_cast<unsigned long long>(stats.reserved_bytes));

    weights.resize(1 << 26);  // 256 MiB: more than the limit
} catch (const forebay::out_of_memory &full) {
    std::printf("as expected: %s\n", full.what());
} catch (const std::exception &failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 1;
}
