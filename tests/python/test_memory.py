"""forebay.memory as it was asked for: every name, argument, default and key of the two documents
that describe it, in programs of our own."""

# Needs: numpy

import inspect
import time
import unittest
import warnings

import numpy as np

import forebay.memory
from forebay.memory import (
    CPUMemoryPool,
    DoubleBuffer,
    GPUMemoryPool,
    LifetimeAnalyzer,
    MemoryBlock,
    MemoryManager,
    MemoryPolicy,
    MemoryPool,
    Prefetcher,
    TensorCache,
)

MIB = 1 << 20


def on_host(tensor):
    return np.asarray(tensor.cpu() if hasattr(tensor, "cpu") else tensor)


class Names(unittest.TestCase):
    #: Arguments with their defaults, as documented.
    ARGUMENTS = {
        MemoryPool: {
            "pool_size": 512 * MIB,
            "block_size": 4 * MIB,
            "device": "cuda",
            "defragment": True,
        },
        CPUMemoryPool: {"max_size": ..., "block_size": MIB},
        GPUMemoryPool: {"max_size": ..., "block_size": MIB},
        MemoryBlock: {
            "pointer": ...,
            "size": ...,
            "timestamp": ...,
            "data": None,
            "in_use": True,
        },
        MemoryManager: {"policy": MemoryPolicy.BALANCED},
        MemoryPool.allocate: {"shape": ..., "dtype": "float32"},
        MemoryManager.allocate_tensor: {"shape": ..., "dtype": ..., "prefer_gpu": True},
        MemoryManager.free_tensor: {"tensor": ...},
        MemoryManager.set_policy: {"policy": ...},
        MemoryBlock.is_expired: {"max_age": ...},
        TensorCache: {"max_size": 100, "eviction_policy": "lru"},
        TensorCache.get: {"shape": ..., "dtype": ...},
        TensorCache.add: {"tensor": ...},
        Prefetcher: {"lookahead": 2, "num_workers": 2, "pin_memory": True, "device": ...},
        DoubleBuffer: {"buffer_size": ..., "dtype": ..., "device": ...},
        LifetimeAnalyzer.record_usage: {"step": ..., "tensors": ...},
    }

    def test_arguments_and_defaults(self):
        for function, arguments in self.ARGUMENTS.items():
            parameters = inspect.signature(function).parameters
            for name, default in arguments.items():
                with self.subTest(function=function.__qualname__, argument=name):
                    self.assertIn(name, parameters)
                    if default is not ...:
                        self.assertEqual(parameters[name].default, default)

    def test_every_name_is_there_and_no_other(self):
        documented = {
            "MemoryPool", "CPUMemoryPool", "GPUMemoryPool", "MemoryBlock", "DoubleBuffer",
            "Prefetcher", "LifetimeAnalyzer", "TensorCache", "MemoryManager", "MemoryPolicy",
            "SystemMemoryMonitor",
        }  # fmt: skip
        self.assertLessEqual(documented, set(forebay.memory.__all__))
        self.assertEqual(dir(forebay.memory), sorted(forebay.memory.__all__))
        with self.assertRaises(AttributeError):
            forebay.memory.no_such_name


class Programs(unittest.TestCase):
    def setUp(self):
        # Most of these prefer a GPU, and there may be none.
        warnings.filterwarnings("ignore", message="device is 'cuda'", category=RuntimeWarning)

    def test_a_pool(self):
        pool = MemoryPool(pool_size=64 * MIB, block_size=2 * MIB, device="cuda", defragment=True)
        for _ in range(100):
            temp = pool.allocate((256, 256))
            self.assertIs(pool.free(temp), True)
        tensor = pool.allocate(shape=(8, 4), dtype=np.float32)
        stats = pool.get_stats()
        for key in (
            "total_allocations", "total_deallocations", "cache_hits", "cache_misses", "hit_rate",
            "bytes_allocated", "bytes_cached", "peak_bytes_allocated", "num_size_classes",
            "active_tensors", "total_allocated", "total_freed", "peak_usage", "current_usage",
            "allocations_count", "frees_count",
        ):  # fmt: skip
            self.assertGreaterEqual(stats[key], 0, key)
            self.assertEqual(getattr(stats, key), stats[key])
        self.assertEqual((stats["total_allocations"], stats["active_tensors"]), (101, 1))
        self.assertGreaterEqual(stats["hit_rate"], 0.97)
        self.assertTrue(pool.free(tensor))

    def test_pools_of_blocks(self):
        for pool in (
            CPUMemoryPool(max_size=64 * MIB, block_size=MIB),
            GPUMemoryPool(max_size=64 * MIB, block_size=MIB),
        ):
            began = time.time()
            blocks = [pool.allocate(3 * MIB) for _ in range(4)]
            # On a GPU without PyTorch there is nobody to write to them.
            written = hasattr(type(blocks[0].data), "__setitem__")
            for number, block in enumerate(blocks):
                if written:
                    block.data[:] = np.full(block.data.shape, number)
            usage = pool.get_usage()
            self.assertEqual(usage["current_usage"], 12 * MIB)
            self.assertEqual((usage["max_size"], usage["total_blocks"]), (64 * MIB, 64))
            self.assertEqual((usage["available_blocks"], usage["usage_percentage"]), (52, 18.75))
            for number, block in enumerate(blocks):
                self.assertEqual(tuple(block.data.shape), (3 * MIB,))
                if written:
                    self.assertTrue((on_host(block.data) == number).all())
                self.assertTrue(block.in_use and began - 1 <= block.timestamp <= time.time() + 1)
                self.assertFalse(block.is_expired(max_age=3600.0))
                pool.free(block)
                self.assertFalse(block.in_use)
            stats = pool.get_stats()
            self.assertEqual((stats["total_allocated"], stats["total_freed"]), (12 * MIB, 12 * MIB))
            self.assertEqual(stats["peak_usage"], 12 * MIB)

    def test_a_manager_under_every_policy(self):
        values = np.arange(12.0).reshape(3, 4)
        for policy in MemoryPolicy:
            manager = MemoryManager(policy=policy, warm_bytes=8 * MIB)
            tensors = []
            for dtype in (np.float32, np.dtype("float64"), "int16"):
                tensor = manager.allocate_tensor((3, 4), dtype, prefer_gpu=True)
                tensor[:] = values
                tensors.append(tensor)
            for tensor in tensors:
                self.assertTrue(np.array_equal(on_host(tensor), values))
            stats = manager.get_statistics()
            self.assertEqual(
                set(stats) - {"live_allocations", "policy_effects"},
                {
                    "policy", "system_memory", "cpu_pool", "gpu_pool", "cache_stats",
                    "allocations_count",
                },
            )  # fmt: skip
            self.assertEqual((stats["policy"], stats["allocations_count"]), (policy.value, 3))
            self.assertTrue(0 <= stats["cache_stats"]["cache_efficiency"] <= 1)
            for place in ("cpu_pool", "gpu_pool"):
                self.assertTrue(0 <= stats[place]["usage_percentage"] <= 100)
            for tensor in tensors:
                manager.free_tensor(tensor)
            manager.cleanup()
            self.assertEqual(manager.get_statistics()["live_allocations"], 0)

    def test_a_cache(self):
        for policy in ("lru", "lfu", "adaptive"):
            cache = TensorCache(max_size=50, eviction_policy=policy)
            for _ in range(20):
                for size in (32, 64, 128):
                    tensor = cache.get((size, size), np.float32)
                    if tensor is None:
                        cache.add(np.full((size, size), size, np.float32))
                    else:
                        self.assertTrue((tensor == size).all())
            stats = cache.get_stats()
            self.assertEqual((stats["hits"], stats["misses"]), (57, 3))
            self.assertEqual(stats["cache_efficiency"], 0.95)
            cache.cleanup()

    def test_a_double_buffer(self):
        buffer = DoubleBuffer(buffer_size=(4, 3), dtype=np.float32, device="cuda")
        batches, seen = [np.full((4, 3), number, np.float32) for number in range(5)], []
        for data in batches:
            current = buffer.get_current()
            buffer.prefetch_next(data)
            seen.append(on_host(current).copy())
            buffer.swap()
        self.assertTrue(np.array_equal(seen, batches))

    def test_a_prefetcher(self):
        for workers in (0, 2):
            prefetcher = Prefetcher(
                lookahead=2, num_workers=workers, pin_memory=False, device="cuda"
            )
            batches = [(np.full(9, number), np.array([number])) for number in range(6)]
            loader = prefetcher.wrap(batches)
            for _ in range(2):
                seen = [(on_host(data).sum(), on_host(target)[0]) for data, target in loader]
                self.assertEqual(seen, [(9 * number, number) for number in range(6)])

    def test_an_analyzer(self):
        analyzer, tensors = LifetimeAnalyzer(), [np.empty(MIB, np.uint8) for _ in range(9)]
        for step in range(8):
            analyzer.record_usage(step, tensors[step : step + 2])
        suggestions = analyzer.get_optimization_suggestions()
        for key in (
            "reusable_bytes", "total_bytes", "peak_bytes", "planned_bytes", "lower_bound_bytes",
            "num_tensors", "num_steps", "temporary_tensors", "long_lived_tensors", "never_read",
            "suggestions",
        ):  # fmt: skip
            self.assertIn(key, suggestions)
        self.assertEqual(suggestions["reusable_bytes"], 7 * MIB)
        plan = analyzer.compute_reuse_plan()
        self.assertEqual(plan["arena_bytes"], 2 * MIB)
        self.assertEqual(
            set(plan["assignments"][0]),
            {"id", "name", "size", "first_use", "last_use", "offset", "reuses"},
        )


if __name__ == "__main__":
    unittest.main()
