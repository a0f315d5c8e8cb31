"""MemoryPool and its kin on the host: arrays, blocks, their ends, and what is counted."""

# Needs: numpy

import ctypes
import os
import random
import tempfile
import threading
import unittest
import warnings

import numpy as np

import forebay
from forebay import _device
from forebay._library import check, library
from forebay.block import MemoryBlock
from forebay.memory_pool import CPUMemoryPool, GPUMemoryPool, MemoryPool, OutOfMemory
from forebay.memory_stats import MemoryStats

MIB = 1 << 20


class Arrays(unittest.TestCase):
    def setUp(self):
        self.pool = MemoryPool(pool_size=64 * MIB, device="cpu")

    def test_an_array_is_plain_numpy_with_its_shape_and_dtype(self):
        for shape, dtype in (
            ((3, 5), np.float64),
            ([7], "int16"),
            ((), "float32"),
            ((2, 0, 3), bool),
        ):
            array = self.pool.allocate(shape, dtype)
            self.assertIs(type(array), np.ndarray)
            self.assertEqual((array.shape, array.dtype), (tuple(shape), np.dtype(dtype)))
            self.assertTrue(array.flags.c_contiguous and array.flags.writeable)
            array[...] = 1
            self.assertTrue((array == 1).all())
            self.assertTrue(self.pool.free(array))
        self.assertEqual(self.pool.get_stats()["current_usage"], 0)

    def test_every_way_of_naming_a_dtype(self):
        for dtype in (np.float32, np.dtype("float32"), "float32", "f4", np.dtype(np.float32).type):
            self.assertEqual(self.pool.allocate((2,), dtype).dtype, np.float32)
        self.assertEqual(self.pool.allocate((2,)).dtype, np.float32)
        self.assertEqual(self.pool.allocate_like(np.zeros((3, 2), np.int8)).shape, (3, 2))
        for bad in (object, "no such", "V0"):
            with self.assertRaises(TypeError):
                self.pool.allocate((2,), bad)
        try:
            import ml_dtypes
        except ImportError:
            with self.assertRaisesRegex(TypeError, "ml_dtypes"):
                self.pool.allocate((2,), "bfloat16")
        else:
            self.assertEqual(self.pool.allocate((2,), "bfloat16").dtype, ml_dtypes.bfloat16)

    def test_bad_shapes_are_named(self):
        for bad, error in (
            ((-1,), ValueError),
            ((1.5,), TypeError),
            ("ab", TypeError),
            (0, ValueError),
        ):
            with self.assertRaises(error):
                self.pool.allocate(bad)
        with self.assertRaisesRegex(ValueError, "pool_size is 0"):
            MemoryPool(pool_size=0, device="cpu")
        with self.assertRaisesRegex(ValueError, "block_size"):
            MemoryPool(block_size=-1, device="cpu")

    def test_freed_memory_is_used_again(self):
        first = self.pool.allocate((256, 256))
        address = first.ctypes.data
        self.assertTrue(self.pool.free(first))
        again = self.pool.allocate((256, 256))
        self.assertEqual(again.ctypes.data, address)

    def test_what_is_freed_twice_or_foreign_is_refused_and_counted(self):
        tensor = self.pool.allocate((4,))
        self.assertTrue(self.pool.free(tensor))
        other = CPUMemoryPool(4 * MIB).allocate((4,))
        for wrong in (tensor, np.zeros(4), other, None, 7, "text"):
            self.assertIs(self.pool.free(wrong), False)
        stats = self.pool.get_stats()
        self.assertEqual((stats["invalid_frees"], stats["frees_count"]), (6, 1))
        strict = MemoryPool(4 * MIB, device="cpu", debug=True)
        with self.assertRaises(forebay.ForebayError):
            strict.free(np.zeros(4))

    def test_a_view_frees_its_tensor(self):
        tensor = self.pool.allocate((4, 8))
        self.assertTrue(self.pool.free(tensor.reshape(-1)[4:].view(np.int32)))
        self.assertFalse(self.pool.free(tensor))

    def test_dropped_tensors_go_back_with_their_last_view(self):
        tensor = self.pool.allocate((1000,))
        tensor[:] = np.arange(1000)
        part = tensor[500:]
        del tensor
        self.assertEqual(self.pool.get_stats()["live_allocations"], 1)
        other = self.pool.allocate((1000,))
        other[:] = -1
        self.assertEqual(part.tolist(), list(range(500, 1000)))
        del part, other
        stats = self.pool.get_stats()
        self.assertEqual((stats["live_allocations"], stats["finalized_frees"]), (0, 2))

    def test_a_closed_pool_ends_with_its_last_tensor(self):
        tensor = self.pool.allocate((1000,))
        tensor[:] = 7
        inner = self.pool.pool
        number = inner.number
        del inner
        self.pool.close()
        self.pool.close()
        self.assertTrue((tensor == 7).all())
        self.assertIn(number, [pool.number for pool in forebay.pools()])
        for call in (lambda: self.pool.allocate((1,)), self.pool.get_stats, self.pool.trim):
            with self.assertRaisesRegex(forebay.ForebayError, "closed"):
                call()
        del tensor
        self.assertNotIn(number, [pool.number for pool in forebay.pools()])

    def test_temporaries(self):
        with self.pool.allocate_temp((10,), "int32") as tensor:
            self.assertEqual(self.pool.get_stats().active_tensors, 1)
            self.assertEqual(tensor.dtype, np.int32)
        self.assertEqual(self.pool.get_stats().active_tensors, 0)

    def test_one_call_of_the_library_for_each_operation(self):
        source, calls = self.pool._source, []
        alloc, free = source.alloc, source.free

        def counting(name, function):
            def call(*arguments):
                calls.append(name)
                return function(*arguments)

            return call

        from forebay import block, memory_pool

        class Refusing:
            def __getattr__(self, name):
                raise AssertionError(f"{name} was called")

        self.pool.free(self.pool.allocate((64, 64), np.float32))
        source.alloc, source.free = counting("alloc", alloc), counting("free", free)
        libraries = memory_pool.library, block.library
        memory_pool.library = block.library = Refusing
        try:
            tensor = self.pool.allocate((64, 64), np.float32)
            self.pool.free(tensor)
            tensor = self.pool.allocate((64, 64), np.float32)
            del tensor
            self.pool.free(self.pool.allocate(4096))
        finally:
            memory_pool.library, block.library = libraries
            source.alloc, source.free = alloc, free
        self.assertEqual(calls, ["alloc", "free"] * 3)

    def test_an_allocation_inside_of_another(self):
        # What a signal handler or a finalizer does between the call and its result.
        source = self.pool._source
        alloc, inner = source.alloc, []

        def interrupted(*arguments):
            status = alloc(*arguments)
            source.alloc = alloc
            inner.append(self.pool.allocate((100,)))
            return status

        source.alloc = interrupted
        outer = self.pool.allocate((100,))
        outer[:], inner[0][:] = 1, 2
        self.assertNotEqual(outer.ctypes.data, inner[0].ctypes.data)
        self.assertTrue((outer == 1).all())

    def test_random_calls_beside_a_model(self):
        for policy in (
            "balanced",
            "conservative",
            "aggressive_reuse",
            "quality_first",
            "latency_first",
        ):
            pool = CPUMemoryPool(32 * MIB, policy=policy)
            chance, live = random.Random(7), []
            for step in range(1500):
                if chance.random() < 0.55:
                    shape = tuple(chance.randrange(1, 60) for _ in range(chance.randrange(1, 4)))
                    tensor = pool.allocate(shape, chance.choice(("uint8", np.int32, np.float64)))
                    if tensor is None:
                        self.assertIn("limit", pool.last_error)
                        continue
                    if policy == "quality_first":
                        self.assertFalse(tensor.any())
                    tensor[...] = step % 251
                    live.append((tensor, step % 251))
                elif live:
                    tensor, value = live.pop(chance.randrange(len(live)))
                    self.assertTrue((tensor == value).all())
                    if chance.random() < 0.5:
                        self.assertTrue(pool.free(tensor))
                    del tensor
                stats = pool.get_stats()
                self.assertEqual(stats["current_usage"], sum(tensor.nbytes for tensor, _ in live))
                self.assertEqual(stats["live_allocations"], len(live))
                self.assertLessEqual(stats["allocated_bytes"], stats["reserved_bytes"])
            for tensor, value in live:
                self.assertTrue((tensor == value).all())

    def test_threads_share_a_pool(self):
        errors = []

        def work(seed):
            chance = random.Random(seed)
            try:
                for _ in range(2000):
                    tensor = self.pool.allocate((chance.randrange(1, 300),), np.int64)
                    tensor[:] = seed
                    if not (tensor == seed).all():
                        errors.append(seed)
                    if chance.random() < 0.5:
                        self.pool.free(tensor)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        self.assertEqual(self.pool.get_stats()["current_usage"], 0)

    def test_one_of_many_threads_frees_a_tensor(self):
        for _ in range(50):
            tensor, barrier, freed = self.pool.allocate((10,)), threading.Barrier(4), []

            def free(tensor=tensor, barrier=barrier, freed=freed):
                barrier.wait()
                freed.append(self.pool.free(tensor))

            threads = [threading.Thread(target=free) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(sorted(freed), [False, False, False, True])

    def test_observers_are_told(self):
        from forebay._observe import observers

        seen = []
        observers.append(lambda pool, address, size: seen.append((pool, address, size)))
        try:
            tensor = self.pool.allocate((4, 4), np.float32)
            address = tensor.ctypes.data
            self.pool.free(tensor)
            dropped = self.pool.allocate((8,), np.float32)
            del dropped
        finally:
            observers.clear()
        self.assertEqual([size for _, _, size in seen], [64, -64, 32, -32])
        self.assertEqual(seen[0][:2], (self.pool.pool, address))


class Limits(unittest.TestCase):
    def test_none_and_the_reason_when_there_is_no_memory(self):
        pool = CPUMemoryPool(max_size=8 * MIB)
        held = pool.allocate((4 * MIB,), np.uint8)
        self.assertIsNone(pool.allocate((6 * MIB,), np.uint8))
        self.assertIn("limit", pool.last_error)
        self.assertIsNone(pool.allocate((1 << 40, 1 << 40), np.float64))
        self.assertIn("the limit is", pool.last_error)
        stats = pool.get_stats()
        self.assertEqual((stats["failed_allocations"], stats["allocations_count"]), (2, 1))
        self.assertLessEqual(stats["reserved_peak"], 8 * MIB)
        del held

    def test_strict_raises_with_the_biggest_holders(self):
        pool = CPUMemoryPool(max_size=8 * MIB, strict=True)
        held = [pool.allocate((size * MIB,), np.uint8) for size in (1, 3, 2)]
        with self.assertRaises(OutOfMemory) as caught:
            pool.allocate((6 * MIB,), np.uint8)
        self.assertIsInstance(caught.exception, MemoryError)
        self.assertIsInstance(caught.exception, forebay.ForebayError)
        sizes = [holder["requested_bytes"] for holder in caught.exception.holders]
        self.assertEqual(sizes, [3 * MIB, 2 * MIB, MIB])
        self.assertEqual(caught.exception.holders[0]["address"], held[1].ctypes.data)

    def test_usage(self):
        pool = CPUMemoryPool(max_size=16 * MIB, block_size=MIB)
        tensor = pool.allocate((4 * MIB,), np.uint8)
        usage = pool.get_usage()
        self.assertEqual(usage["current_usage"], 4 * MIB)
        self.assertEqual(usage["max_size"], 16 * MIB)
        self.assertEqual((usage["available_blocks"], usage["total_blocks"]), (12, 16))
        self.assertEqual(usage["usage_percentage"], 25.0)
        del tensor

    def test_clear_gives_everything_idle_back(self):
        pool = MemoryPool(64 * MIB, device="cpu")
        live, idle = pool.allocate((MIB,)), pool.allocate((4 * MIB,))
        pool.free(idle)
        self.assertGreaterEqual(pool.cached_bytes, 16 * MIB)
        self.assertGreaterEqual(pool.clear(), 16 * MIB)
        self.assertLess(pool.cached_bytes, 4 * MIB)
        self.assertGreaterEqual(pool.defragment(), 0)
        del live

    def test_round_to(self):
        pool = MemoryPool(64 * MIB, device="cpu", round_to=65536)
        block = pool.allocate(100)
        self.assertEqual((block.size, block.capacity), (100, 65536))


class Blocks(unittest.TestCase):
    def test_a_block(self):
        pool = CPUMemoryPool(max_size=16 * MIB)
        block = pool.allocate(MIB)
        self.assertIsInstance(block, MemoryBlock)
        self.assertEqual((block.size, block.in_use, block.data.shape), (MIB, True, (MIB,)))
        self.assertEqual((block.data.dtype, block.data.ctypes.data), (np.uint8, block.pointer))
        self.assertIs(block.data, block.data)
        self.assertGreaterEqual(block.capacity, block.size)
        block.view((16, 16), np.float32)[:] = 1.5
        self.assertEqual(block.data[:4].tobytes(), np.float32(1.5).tobytes())
        with self.assertRaises(ValueError):
            block.view((MIB,), np.float32)
        self.assertFalse(block.is_expired(300.0))
        self.assertTrue(block.is_expired(-1.0))
        self.assertTrue(pool.free(block))
        self.assertEqual((block.in_use, block.data), (False, None))
        self.assertFalse(pool.free(block))
        with self.assertRaises(ValueError):
            block.view((1,))

    def test_a_block_that_is_dropped(self):
        pool = CPUMemoryPool(max_size=16 * MIB)
        data = pool.allocate(MIB).data
        self.assertEqual(pool.get_stats().live_allocations, 1)
        del data
        self.assertEqual(pool.get_stats().live_allocations, 0)

    def test_one_made_by_hand_is_nobodys(self):
        array = np.arange(4, dtype=np.float32)
        block = MemoryBlock(pointer=array.ctypes.data, size=16, timestamp=0.0, data=array)
        self.assertTrue(block.is_expired(300.0))
        self.assertEqual(block.view((2, 2)).tolist(), [[0, 1], [2, 3]])
        self.assertEqual(block.capacity, 16)
        self.assertFalse(CPUMemoryPool(max_size=4 * MIB).free(block))
        self.assertIsNone(MemoryBlock(1, 2, 3.0).data)


class Traces(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "t.csv")
        self.pool = CPUMemoryPool(16 * MIB)

    def lines(self):
        with open(self.path, encoding="utf-8") as file:
            return file.read().splitlines()

    def asked(self):
        """Bytes and site of each allocation, in order."""
        header, *lines = self.lines()
        self.assertEqual(header, "Thread,Time,Action,Pointer,Size,Stream,Site")
        rows = [line.split(",", 6) for line in lines]
        # Of a free it is not told who did it.
        self.assertEqual({row[6] for row in rows if row[2] == "free"}, {""})
        return [(int(row[4]), row[6]) for row in rows if row[2] == "allocate"]

    def test_a_trace_has_who_asked(self):
        def deep(size):
            return self.pool.allocate((size,), np.uint8)

        with self.pool.pool.trace(self.path):
            first = deep(1000)
            second = self.pool.allocate(2000)
            # A pool of Python's over the same memory, that comes while it is traced.
            later = MemoryPool.__new__(MemoryPool)
            later.__dict__.update(self.pool.__dict__, _source=type(self.pool._source)(self.pool.pool))
            third = later.allocate((3000,), np.uint8)
            self.pool.free(first)
        del second, third
        (one, here), (two, _), (three, there) = self.asked()
        self.assertEqual((one, two, three), (1000, 2000, 3000))
        name = os.path.join(os.path.basename(os.path.dirname(__file__)), os.path.basename(__file__))
        self.assertRegex(here, rf"^{name}:\d+ deep < {name}:\d+ test_a_trace_has_who_asked < .*:\d+ ")
        self.assertRegex(there, rf"^{name}:\d+ test_a_trace_has_who_asked < ")

    def test_what_others_allocate_was_not_asked_for_here(self):
        with self.pool.pool.trace(self.path):
            mine = self.pool.allocate((1000,), np.uint8)
            check(library().forebay_trace_site(b"their own"))
            theirs = ctypes.c_void_p()
            alloc = library().forebay_alloc
            check(alloc(self.pool.pool.handle, 500, None, ctypes.byref(theirs)))
            check(library().forebay_trace_site(None))
            del mine
            again = self.pool.allocate((700,), np.uint8)
            other = ctypes.c_void_p()
            check(alloc(self.pool.pool.handle, 600, None, ctypes.byref(other)))
            for one in (theirs, other):
                check(library().forebay_free(self.pool.pool.handle, one, None))
        del again
        sites = dict(self.asked())
        self.assertEqual((sites[500], sites[600]), ("their own", ""))
        self.assertTrue(sites[1000] and sites[700])

    def test_without_sites_it_is_the_log_of_rmm(self):
        with self.pool.pool.trace(self.path, sites=False):
            self.pool.allocate((1000,))
        header, row, *_ = self.lines()
        self.assertEqual(header, "Thread,Time,Action,Pointer,Size,Stream")
        self.assertEqual(row.count(","), 5)

    def test_two_at_a_time_are_refused_and_the_first_goes_on(self):
        with self.pool.pool.trace(self.path):
            with self.assertRaisesRegex(forebay.ForebayError, "traced already"):
                with self.pool.pool.trace(self.path + "2"):
                    pass
            self.pool.allocate((1000,), np.uint8)
        self.assertIn("test_memory_pool.py", self.asked()[0][1])


class Stats(unittest.TestCase):
    def test_keys_and_attributes_are_the_same(self):
        pool = CPUMemoryPool(16 * MIB)
        held = [pool.allocate((1000,)) for _ in range(3)]
        pool.free(held.pop())
        stats = pool.get_stats()
        self.assertIsInstance(stats, MemoryStats)
        for name, value in stats.items():
            self.assertEqual(getattr(stats, name), value)
        self.assertEqual(len(stats), len(dict(stats)))
        self.assertEqual((stats["total_allocations"], stats["total_deallocations"]), (3, 1))
        self.assertEqual((stats["total_allocated"], stats["total_freed"]), (12000, 4000))
        self.assertEqual((stats["current_usage"], stats["peak_usage"]), (8000, 12000))
        self.assertEqual(stats["hit_rate"], stats.hit_rate())
        self.assertEqual(stats["num_size_classes"], 1)
        self.assertIsInstance(stats, MemoryStats)
        self.assertNotIn("no_such", stats)
        with self.assertRaises(AttributeError):
            stats.no_such


class Devices(unittest.TestCase):
    def test_without_a_gpu_it_is_system_memory_and_one_warning(self):
        try:
            forebay.Pool("cuda")
        except forebay.ForebayError:
            pass
        else:
            self.skipTest("there is a GPU")
        _device._warned = False
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pools = [
                MemoryPool(4 * MIB),
                GPUMemoryPool(4 * MIB),
                MemoryPool(4 * MIB, device="cuda:1"),
            ]
        self.assertEqual([pool.device for pool in pools], ["cpu"] * 3)
        self.assertEqual(len(caught), 1)
        self.assertEqual(caught[0].filename, __file__)
        self.assertIsInstance(pools[0].allocate((2, 2)), np.ndarray)
        with self.assertRaises(forebay.ForebayError):
            MemoryPool(4 * MIB, strict_device=True)
        with self.assertRaisesRegex(ValueError, "device is 'tpu'"):
            MemoryPool(device="tpu")

    def test_a_gpu_without_pytorch(self):
        try:
            import torch  # noqa: F401
        except ImportError:
            pass
        else:
            self.skipTest("PyTorch makes the tensors")
        try:
            pool = MemoryPool(16 * MIB, strict_device=True)
        except forebay.ForebayError:
            self.skipTest("there is no GPU")
        array = pool.allocate((512, 1024), np.float32)
        found = array.__cuda_array_interface__
        self.assertEqual((found["shape"], found["typestr"]), ((512, 1024), "<f4"))
        self.assertEqual(
            (array.shape, array.dtype, array.nbytes), ((512, 1024), np.float32, 2 * MIB)
        )
        largest = pool.pool.report()["largest_live_blocks"]
        self.assertEqual(largest, [{"address": found["data"][0], "requested_bytes": 2 * MIB}])
        self.assertTrue(pool.owns(array) and pool.free(array))
        self.assertFalse(pool.owns(array) or pool.free(array))
        block = pool.allocate(MIB)
        data = block.data
        self.assertEqual((data.shape, data.nbytes), ((MIB,), MIB))
        del block, data
        stats = pool.get_stats()
        self.assertEqual((stats["live_allocations"], stats["finalized_frees"]), (0, 1))

    def test_a_child_of_fork_may_use_and_free_it(self):
        pool = CPUMemoryPool(16 * MIB)
        tensor = pool.allocate((100,))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                other = pool.allocate((100,))
                other[:] = tensor[:] = 3
                code = 0 if pool.free(tensor) and pool.free(other) else 2
            finally:
                os._exit(code)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertTrue(pool.free(tensor))

    def test_nothing_stays_when_types_and_pools_go(self):
        before = len(forebay.pools())
        for _ in range(20):
            CPUMemoryPool(4 * MIB).allocate((10,))
        self.assertEqual(len(forebay.pools()), before)


if __name__ == "__main__":
    unittest.main()
