"""forebay as CuPy's allocator. CuPy's wheels have NVIDIA's runtime inside, which takes no simulated
driver: a module stands in for it that has of CuPy what the door uses, as CuPy documents it, on the
driver's own functions."""

import ctypes
import os
import sys
import types
import unittest

_driver = ctypes.CDLL("libcuda.so.1")


def _call(name, *arguments):
    code = getattr(_driver, name)(*arguments)
    if code:
        raise RuntimeError(f"{name}: {code}")


def _start():
    context = ctypes.c_void_p()
    _call("cuInit", 0)
    _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    _call("cuCtxSetCurrent", context)


class Stream:
    current = None

    def __init__(self):
        stream = ctypes.c_void_p()
        _call("cuStreamCreate", ctypes.byref(stream), 1)
        self.ptr = stream.value

    def __enter__(self):
        self.before, Stream.current = Stream.current, self

    def __exit__(self, *_):
        Stream.current = self.before


class OutOfMemoryError(MemoryError):
    def __init__(self, size, total, limit=0):
        super().__init__(f"Out of memory allocating {size} bytes (allocated so far: {total} bytes).")


class Pointer:
    """`MemoryPointer` over `PythonFunctionAllocatorMemory`."""

    def __init__(self, size, malloc, free):
        self.ptr, self._free = malloc(size, 0), free

    def __del__(self):
        if getattr(self, "ptr", 0):
            self._free(self.ptr, 0)


class PythonFunctionAllocator:
    def __init__(self, malloc, free):
        self._functions = malloc, free

    def malloc(self, size):
        return Pointer(size, *self._functions)


def _stand_in():
    cupy = types.ModuleType("cupy")
    null = types.SimpleNamespace(ptr=0)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()

    def info():
        _call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    cupy.cuda = types.SimpleNamespace(
        PythonFunctionAllocator=PythonFunctionAllocator,
        get_current_stream=lambda: Stream.current or null,
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=types.SimpleNamespace(memGetInfo=info),
        set_allocator=lambda allocator: setattr(cupy, "allocator", allocator),
    )
    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(malloc="cupy's own")
    return cupy


_start()
os.environ["FOREBAY_TORCH_LIMIT"] = "256MiB"
cupy = sys.modules["cupy"] = _stand_in()

import forebay.cupy  # noqa: E402
from forebay._library import pool_statistics  # noqa: E402

MIB = 1 << 20


class CuPy(unittest.TestCase):
    def setUp(self):
        forebay.cupy.enable()

    def live(self):
        return pool_statistics(forebay.cupy._pool(0)).live_blocks

    def test_memory_comes_and_goes(self):
        before = self.live()
        first, second = cupy.allocator(5 * MIB), cupy.allocator(100)
        self.assertEqual(self.live(), before + 2)
        address = first.ptr
        del first
        self.assertEqual(cupy.allocator(5 * MIB).ptr, address)
        del second
        self.assertEqual(self.live(), before)
        self.assertEqual(cupy.allocator(0).ptr, 0)
        self.assertEqual(forebay.cupy._live, {})

    def test_each_block_is_of_its_stream(self):
        stream = Stream()
        with stream:
            block = cupy.allocator(3 * MIB)
            _call("cuMemsetD8Async", ctypes.c_uint64(block.ptr), 1, ctypes.c_size_t(3 * MIB),
                  ctypes.c_void_p(stream.ptr))
        address = block.ptr
        # It is freed while another stream is current, and is still that of the first one.
        del block
        other = cupy.allocator(3 * MIB)
        self.assertNotEqual(other.ptr, address)
        with stream:
            self.assertEqual(cupy.allocator(3 * MIB).ptr, address)

    def test_out_of_memory_is_cupy_s(self):
        with self.assertRaises(OutOfMemoryError) as caught:
            cupy.allocator(300 * MIB)
        self.assertIn("out of memory in pool", str(caught.exception.__cause__))

    def test_its_own_pool_comes_back(self):
        forebay.cupy.disable()
        self.assertEqual(cupy.allocator, "cupy's own")

    def test_without_cupy(self):
        sys.modules["cupy"] = None
        try:
            with self.assertRaisesRegex(forebay.ForebayError, "needs CuPy"):
                forebay.cupy.enable()
        finally:
            sys.modules["cupy"] = cupy


if __name__ == "__main__":
    unittest.main()
