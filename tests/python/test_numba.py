"""forebay as Numba's memory manager, under Numba itself, on the simulated driver."""

import gc
import os
import subprocess
import sys
import threading
import unittest

import numpy as np
from numba import cuda

import forebay.numba
from forebay._library import pool_statistics

os.environ["FOREBAY_TORCH_LIMIT"] = "256MiB"
cuda.set_memory_manager(forebay.numba.Manager)

MIB = 1 << 20


def manager():
    return cuda.current_context().memory_manager


def live():
    manager()._give_back()
    return pool_statistics(manager()._pool).live_blocks


class Numba(unittest.TestCase):
    def test_arrays_hold_what_was_copied(self):
        self.assertIsInstance(manager(), forebay.numba.Manager)
        values = np.arange(100000, dtype=np.float64)
        before = live()
        array = cuda.to_device(values)
        self.assertEqual(live(), before + 1)
        self.assertTrue(np.array_equal(array.copy_to_host(), values))
        with cuda.pinned(values):
            self.assertTrue(np.array_equal(cuda.to_device(values).copy_to_host(), values))
        del array
        gc.collect()
        self.assertEqual(live(), before)

    def test_arrays_of_nothing(self):
        self.assertEqual(cuda.device_array(0).size, 0)

    def test_frees_are_collected(self):
        manager()._give_back()
        before = pool_statistics(manager()._pool).frees
        for _ in range(100):
            cuda.device_array(1000)
        frees = pool_statistics(manager()._pool).frees - before
        self.assertGreaterEqual(frees, 96)
        self.assertLess(len(manager()._freed), 32)

    def test_memory_info(self):
        info = manager().get_memory_info()
        array = cuda.device_array(64 * MIB, dtype=np.uint8)
        after = manager().get_memory_info()
        self.assertEqual(info.total, after.total)
        self.assertLessEqual(info.free, 256 * MIB)
        self.assertLess(after.free, info.free - 60 * MIB)
        del array

    def test_out_of_memory(self):
        with self.assertRaises(cuda.cudadrv.driver.CudaAPIError) as caught:
            cuda.device_array(300 * MIB, dtype=np.uint8)
        self.assertEqual(caught.exception.code, 2)
        self.assertIn("limit 268435456", str(caught.exception))
        # What was only collected is given back before there is no memory.
        for _ in range(10):
            cuda.device_array(200 * MIB, dtype=np.uint8)

    def test_ipc_is_refused(self):
        array = cuda.device_array(10)
        with self.assertRaisesRegex(NotImplementedError, "forebay_block_export"):
            array.get_ipc_handle()

    def test_threads(self):
        failures = []

        def work(number):
            try:
                for _ in range(50):
                    values = np.full(1000, number)
                    if not np.array_equal(cuda.to_device(values).copy_to_host(), values):
                        failures.append(number)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_by_the_environment_and_to_the_end(self):
        program = """
from numba import cuda
kept = cuda.device_array(1000)
assert type(cuda.current_context().memory_manager).__module__ == "forebay.numba"
"""
        environment = {**os.environ, "NUMBA_CUDA_MEMORY_MANAGER": "forebay.numba"}
        done = subprocess.run([sys.executable, "-c", program], env=environment,
                              capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
