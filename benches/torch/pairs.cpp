// Pairs of allocation and free through PyTorch's C++ interface, for benches/torch/run.py, which
// loads this into a Python process and so chooses the allocator.

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>

#include <ctime>
#include <vector>

namespace at::cuda {
// Declared here, for PyTorch's own header wants the CUDA toolkit.
c10::Allocator *getCUDADeviceAllocator();
}

namespace {

double cpu_ns()
{
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

} // namespace

// Nanoseconds of thread CPU time for one pair, of `count` with sizes from `sizes` in turn.
extern "C" double raw_pairs(const std::size_t *sizes, int kinds, int count)
{
    c10::Allocator *allocator = at::cuda::getCUDADeviceAllocator();
    const double start = cpu_ns();
    for (int i = 0; i < count; i++) {
        c10::DataPtr block = allocator->allocate(sizes[i % kinds]);
    }
    return (cpu_ns() - start) / count;
}

// The same through at::empty.
extern "C" double empty_pairs(const std::size_t *sizes, int kinds, int count)
{
    const auto options = at::device(at::kCUDA).dtype(at::kByte);
    const double start = cpu_ns();
    for (int i = 0; i < count; i++) {
        at::Tensor tensor = at::empty({static_cast<std::int64_t>(sizes[i % kinds])}, options);
    }
    return (cpu_ns() - start) / count;
}

// As a step does: `depth` tensors that live at a time, the oldest freed first.
extern "C" double live_pairs(const std::size_t *sizes, int kinds, int count, int depth)
{
    c10::Allocator *allocator = at::cuda::getCUDADeviceAllocator();
    std::vector<c10::DataPtr> live(static_cast<std::size_t>(depth));
    const double start = cpu_ns();
    for (int i = 0; i < count; i++) {
        live[static_cast<std::size_t>(i % depth)] = allocator->allocate(sizes[i % kinds]);
    }
    return (cpu_ns() - start) / count;
}
