"""MemoryPool on a GPU under CuPy. CuPy's wheels have NVIDIA's runtime inside, which takes no
simulated driver: a module stands in for it that has of CuPy what pools use, as CuPy documents it."""

import sys
import types
import unittest

import numpy as np


class UnownedMemory:
    def __init__(self, ptr, size, owner, device_id=-1):
        self.ptr, self.size, self._keeps, self.device_id = ptr, size, owner, device_id


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset


class NDArray:
    def __init__(self, shape, dtype=float, memptr=None):
        self.shape, self.dtype, self.data, self.base = shape, np.dtype(dtype), memptr, None

    def __getitem__(self, rows):
        """A view of some first rows."""
        view = NDArray((rows.stop, *self.shape[1:]), self.dtype, self.data)
        view.base = self
        return view


cupy = types.ModuleType("cupy")
cupy.ndarray = NDArray
cupy.cuda = types.SimpleNamespace(
    UnownedMemory=UnownedMemory,
    MemoryPointer=MemoryPointer,
    get_current_stream=lambda: types.SimpleNamespace(ptr=0),
)
sys.modules["cupy"] = cupy

import forebay  # noqa: E402
from forebay.memory_pool import MemoryPool  # noqa: E402

MIB = 1 << 20


class Cupy(unittest.TestCase):
    def setUp(self):
        try:
            self.pool = MemoryPool(64 * MIB, device="cuda", strict_device=True)
        except forebay.ForebayError as error:
            self.skipTest(f"there is no GPU: {error}")

    def test_arrays_are_cupys(self):
        array = self.pool.allocate((512, 1024), np.float32)
        self.assertIs(type(array), NDArray)
        self.assertEqual((array.shape, array.dtype), ((512, 1024), np.float32))
        self.assertEqual(array.data.mem.size, 2 * MIB)
        largest = self.pool.pool.report()["largest_live_blocks"]
        self.assertEqual(largest, [{"address": array.data.ptr, "requested_bytes": 2 * MIB}])
        self.assertTrue(self.pool.owns(array) and self.pool.free(array))
        self.assertFalse(self.pool.owns(array) or self.pool.free(array))

    def test_dropped_arrays_go_back_with_their_last_view(self):
        array = self.pool.allocate((512, 1024), np.float32)
        part = array[:3]
        del array
        self.assertEqual(self.pool.get_stats()["live_allocations"], 1)
        del part
        stats = self.pool.get_stats()
        self.assertEqual((stats["live_allocations"], stats["finalized_frees"]), (0, 1))

    def test_one_that_was_freed_is_not_the_next_one_at_its_address(self):
        first = self.pool.allocate((512, 1024), np.float32)
        self.pool.free(first)
        second = self.pool.allocate((512, 1024), np.float32)
        self.assertEqual(first.data.ptr, second.data.ptr)
        self.assertFalse(self.pool.free(first))
        self.assertTrue(self.pool.free(second))

    def test_blocks(self):
        block = self.pool.allocate(MIB)
        self.assertEqual((block.data.shape, block.data.dtype), ((MIB,), np.uint8))
        self.assertEqual(block.data.data.ptr, block.pointer)
        self.assertTrue(self.pool.free(block))
        with self.assertRaises(TypeError):
            self.pool.allocate((2,), "no such")


if __name__ == "__main__":
    unittest.main()
