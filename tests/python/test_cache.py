"""TensorCache on the host: numpy arrays."""

# Needs: numpy

import gc
import os
import subprocess
import sys
import threading
import unittest

import numpy as np

import forebay
from forebay._library import pool_statistics
from forebay.cache import TensorCache


def pool_of(cache):
    """The pool that a cache on the host has for itself."""
    (found,) = (one for one in forebay.pools() if one.name == f"cache #{cache.number}")
    return found


class Cache(unittest.TestCase):
    def test_the_wish(self):
        cache = TensorCache(max_size=100, eviction_policy="lru")
        self.assertIsNone(cache.get((256, 256), np.float32))
        tensor = np.random.rand(256, 256).astype(np.float32)
        cache.add(tensor)
        for _ in range(3):
            found = cache.get((256, 256), np.float32)
            self.assertTrue(np.array_equal(found, tensor))
        self.assertEqual((found.dtype, found.shape), (np.float32, (256, 256)))
        stats = cache.get_stats()
        self.assertEqual((stats["hits"], stats["misses"], stats["size"]), (3, 1, 1))
        self.assertEqual(stats["cache_efficiency"], 0.75)
        self.assertEqual(cache.cleanup(), 0)
        self.assertEqual(cache.cleanup(0), 1)
        self.assertIsNone(cache.get((256, 256), np.float32))

    def test_reads_are_shared_and_read_only(self):
        cache = TensorCache()
        cache.add(np.arange(1000))
        first, second = cache.get(1000, int), cache.get((1000,), "int64")
        self.assertEqual(first.ctypes.data, second.ctypes.data)
        with self.assertRaises(ValueError):
            first[0] = 1
        # What is read stays, whatever becomes of the entry; so do slices of it.
        part = first[500:]
        self.assertEqual(cache.clear(), 1)
        del first, second
        cache.add(np.zeros(1000, int))
        self.assertEqual(part.tolist(), list(range(500, 1000)))
        self.assertEqual(cache.get_stats()["pinned_entries"], 1)
        del part
        gc.collect()
        self.assertEqual(cache.get_stats()["pinned_entries"], 0)

    def test_take_and_put_are_exclusive(self):
        cache = TensorCache()
        cache.add(np.zeros((4, 8), np.float32))
        mine = cache.take((4, 8), np.float32)
        self.assertIsNone(cache.take((4, 8), np.float32))
        address = mine.ctypes.data
        mine[:] = 7
        cache.put(mine)
        found = cache.get((4, 8), np.float32)
        self.assertEqual(found.ctypes.data, address)
        self.assertEqual(found.tolist(), [[7.0] * 8] * 4)
        with self.assertRaisesRegex(forebay.ForebayError, "being read"):
            cache.take((4, 8), np.float32)
        # Another's array is copied.
        own = np.ones((4, 8), np.float32)
        cache.put(own)
        own[:] = 0
        self.assertEqual(cache.get((4, 8), np.float32).sum(), 32)
        self.assertEqual(len(cache), 2)

    def test_taken_and_dropped(self):
        cache = TensorCache()
        pool = pool_of(cache)
        cache.add(np.zeros(100000))
        taken = cache.take(100000, float)
        self.assertEqual(pool.statistics()["live_blocks"], 1)
        del taken
        gc.collect()
        self.assertEqual(pool.statistics()["live_blocks"], 0)

    def test_keys_are_shape_and_dtype(self):
        cache = TensorCache()
        cache.add(np.zeros((2, 3), np.float32))
        for shape, dtype in (((3, 2), np.float32), ((2, 3), np.float64), ((2, 3, 1), np.float32)):
            self.assertIsNone(cache.get(shape, dtype))
        self.assertIsNotNone(cache.get([2, 3], "float32"))
        cache.add(np.float64(3.5))
        self.assertEqual(cache.get((), float).item(), 3.5)
        self.assertEqual(cache.remove((2, 3), "float32"), 1)

    def test_both_budgets_hold(self):
        cache = TensorCache(max_size=3)
        for number in range(10):
            cache.add(np.full(100 + number, number))
        self.assertEqual(len(cache), 3)
        self.assertIsNotNone(cache.get(109, int))
        for policy in ("lru", "lfu", "adaptive"):
            cache = TensorCache(max_size=1000, max_bytes=1 << 20, eviction_policy=policy)
            for number in range(100):
                cache.add(np.zeros(10000 + number, np.uint8))
                self.assertLessEqual(cache.get_stats()["bytes"], 1 << 20)
            self.assertGreater(cache.evict(100000), 0)
            with self.assertRaisesRegex(forebay.ForebayError, "max_bytes"):
                cache.add(np.zeros(2 << 20, np.uint8))

    def test_wrong_use(self):
        for wrong in ({"eviction_policy": "mru"}, {"max_size": 0}, {"max_size": True}, {"max_bytes": 0}):
            with self.assertRaises(ValueError) as caught:
                TensorCache(**wrong)
            self.assertIn(next(iter(wrong)), str(caught.exception))
        cache = TensorCache()
        with self.assertRaisesRegex(ValueError, "no bytes"):
            cache.add(np.zeros(0))
        with self.assertRaisesRegex(TypeError, "references"):
            cache.add(np.array([object()]))
        with self.assertRaises(TypeError):
            cache.get((1,), "no such type")
        cache.close()
        cache.close()
        with self.assertRaisesRegex(forebay.ForebayError, "closed"):
            cache.get((1,), float)

    def test_what_is_read_outlives_the_cache(self):
        with TensorCache() as cache:
            cache.add(np.arange(5000))
            read = cache.get(5000, int)
            cache.add(np.arange(6000))
            taken = cache.take(6000, int)
            pool = pool_of(cache)
        self.assertNotIn(cache, forebay.cache.caches())
        self.assertIn(pool, forebay.pools())
        del cache
        gc.collect()
        self.assertEqual(read.sum(), sum(range(5000)))
        self.assertEqual(taken.sum(), sum(range(6000)))
        self.assertEqual(pool.statistics()["live_blocks"], 2)
        del read
        gc.collect()
        self.assertEqual(pool.statistics()["live_blocks"], 1)
        # It goes with the last one, also where somebody still looks at it.
        del taken
        gc.collect()
        self.assertIsNone(pool.handle)
        self.assertNotIn(pool, forebay.pools())

    def test_its_pool_is_one_of_the_pools_while_it_lives(self):
        gc.collect()
        before = forebay.pools()
        with TensorCache() as cache, TensorCache(max_bytes=1 << 20) as small:
            mine, other = pool_of(cache), pool_of(small)
            self.assertEqual([one for one in forebay.pools() if one not in before], [mine, other])
            self.assertEqual((mine.name, mine.part_of), (f"cache #{cache.number}", "cache"))
            self.assertNotEqual(mine.name, other.name)
            self.assertEqual(other.statistics()["limit_bytes"], 64 << 20)
            cache.add(np.zeros(100000))
            told = mine.statistics()
            self.assertEqual((told["live_blocks"], told["requested_bytes"]), (1, 800000))
            self.assertEqual(cache.get_stats()["bytes"], told["allocated_bytes"])
        # Nobody reads anything of theirs: they are closed, not just let go of.
        self.assertEqual((mine.handle, other.handle), (None, None))
        self.assertEqual(forebay.pools(), before)
        # One that was forgotten, too.
        cache = TensorCache()
        cache.add(np.zeros(10))
        del cache
        gc.collect()
        self.assertEqual(forebay.pools(), before)
        # And one that was never made.
        with self.assertRaises(forebay.ForebayError):
            TensorCache(max_bytes=1 << 60)
        gc.collect()
        self.assertEqual(forebay.pools(), before)

    def test_a_child_of_fork_ends_nothing_of_the_parents(self):
        cache = TensorCache()
        cache.add(np.arange(5000))
        read, pool = cache.get(5000, int), pool_of(cache)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                kept, handle = read, pool.handle
                cache.close()
                read = None
                pool.close()
                # The array is the child's own, whatever it closes.
                fine = kept.sum() == sum(range(5000)) and pool_statistics(handle).live_blocks > 0
                kept = None
                gc.collect()
                status = 0 if fine else 2
            finally:
                os._exit(status)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertEqual(read.sum(), sum(range(5000)))
        self.assertEqual(pool.statistics()["live_blocks"], 1)
        self.assertEqual(len(cache), 1)

    def test_threads(self):
        cache = TensorCache(max_size=20)
        failures = []

        def work(number):
            try:
                for turn in range(300):
                    size = 100 + (turn * 7 + number) % 40
                    found = cache.get(size, np.int32)
                    if found is None:
                        cache.add(np.full(size, size, np.int32))
                    elif (found != size).any():
                        failures.append(size)
                    taken = cache.take(size, np.int32) if found is None else None
                    if taken is not None:
                        cache.put(taken)
            except forebay.ForebayError as error:
                # All of them are being read.
                if "being read" not in str(error):
                    failures.append(error)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertLessEqual(len(cache), 20)

    def test_the_end_of_the_interpreter(self):
        program = """
import numpy as np
from forebay.cache import TensorCache
cache = TensorCache()
cache.add(np.zeros(1000))
read = cache.get(1000, float)
cache.add(np.zeros(2000))
taken = cache.take(2000, float)
"""
        done = subprocess.run([sys.executable, "-c", program], env=os.environ,
                              capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
