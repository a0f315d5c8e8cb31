"""Tensors kept by shape and dtype, as long as they are worth their bytes.

    cache = TensorCache(max_size=100, eviction_policy="lru")
    tensor = cache.get((256, 256), np.float32)
    if tensor is None:
        tensor = compute()
        cache.add(tensor)

On the host tensors are numpy arrays, on a GPU PyTorch's. Their memory is forebay's: of a pool of the
cache's own or, on a GPU, of the pool that PyTorch's tensors come from where ``forebay.torch`` is
enabled. When that pool is short of memory the cache gives it entries, those first that are worth
least, before anything is out of memory.
"""

import ctypes
import math
import os
import threading

from ._abi import CacheConfig, CachePin, CacheStatistics
from ._library import ForebayError, check, library, tensor_key
from ._opened import Opened
from .pool import Pool

__all__ = ["TensorCache", "caches"]

#: The numbers of ``forebay_cache_policy``.
POLICIES = {"lru": 0, "lfu": 1, "adaptive": 2}

_opened = Opened()


def caches():
    """The caches of this process that are open, oldest first."""
    return [cache for cache in _opened.all() if cache._handle is not None]


def _after_fork():
    """Threads that held a lock are not in the child to let it go."""
    for cache in _opened.all():
        cache._reading = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


class _Memory:
    """Bytes of a pool, for numpy and PyTorch to view; what becomes of them when the last view is gone
    is in ``_leave``."""

    def __init__(self, address, size, is_cuda, leave, read_only):
        self.address, self.size, self._leave = address, size, leave
        interface = {
            "shape": (size,),
            "typestr": "|u1",
            # PyTorch knows no tensors that are only read.
            "data": (address, read_only and not is_cuda),
            "version": 3,
        }
        if is_cuda:
            self.__cuda_array_interface__ = interface
        else:
            self.__array_interface__ = interface

    def __del__(self):
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


class _Host:
    """numpy arrays in a pool on system memory."""

    kind, index, is_cuda, stream = 0, 0, False, None

    pool = None

    def __init__(self, max_bytes, name):
        # Room for what is taken out, beside what is in.
        limit = None if max_bytes is None else max(4 * max_bytes, 64 << 20)
        self.pool = Pool(max_bytes=limit, name=name, part_of="cache")
        #: Kept for what is freed behind the pool's end, in a child of fork.
        self.handle = self.pool.handle

    def __del__(self):
        # With the last tensor, and the cache; whoever looks at the pool keeps it no longer.
        if self.pool is not None:
            self.pool.close()

    @staticmethod
    def dtype(dtype):
        import numpy

        return numpy.dtype(dtype)

    @staticmethod
    def bytes_of(tensor):
        """Shape, dtype, address and bytes; and what has to stay until they are read."""
        import numpy

        tensor = numpy.asarray(tensor, order="C")
        if tensor.dtype.hasobject:
            raise TypeError(f"tensor has dtype {tensor.dtype}: references cannot be cached")
        return tensor.shape, tensor.dtype, tensor.ctypes.data, tensor.nbytes, tensor

    @staticmethod
    def view(memory, shape, dtype):
        import numpy

        return numpy.asarray(memory)[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    @staticmethod
    def memory_of(tensor):
        base = tensor
        while base is not None and not isinstance(base, _Memory):
            base = getattr(base, "base", None)
        return base


class _Cuda:
    """PyTorch's tensors on a GPU, in the pool that ``forebay.torch`` uses."""

    kind, is_cuda = 1, True

    def __init__(self, device):
        import torch

        from .torch._pool import pool_of

        self.torch = torch
        self.device = torch.device(device)
        self.index = self.device.index if self.device.index is not None else torch.cuda.current_device()
        torch.cuda.init()
        self.handle = pool_of(self.index)

    @property
    def stream(self):
        return self.torch.cuda.current_stream(self.index).cuda_stream or None

    def dtype(self, dtype):
        if isinstance(dtype, self.torch.dtype):
            return dtype
        import numpy

        name = dtype if isinstance(dtype, str) else numpy.dtype(dtype).name
        found = getattr(self.torch, name, None)
        if not isinstance(found, self.torch.dtype):
            raise TypeError(f"dtype is {dtype!r}, which PyTorch has no type for")
        return found

    def bytes_of(self, tensor):
        if not isinstance(tensor, self.torch.Tensor) or not tensor.is_cuda:
            tensor = self.torch.as_tensor(tensor, device=f"cuda:{self.index}")
        if tensor.device.index != self.index:
            raise ValueError(f"tensor is on {tensor.device}, the cache on cuda:{self.index}")
        tensor = tensor.detach().contiguous()
        size = tensor.numel() * tensor.element_size()
        return tuple(tensor.shape), tensor.dtype, tensor.data_ptr(), size, tensor

    def view(self, memory, shape, dtype):
        flat = self.torch.as_tensor(memory, device=f"cuda:{self.index}")
        size = math.prod(shape) * dtype.itemsize
        tensor = flat[:size].view(dtype).view(shape)
        tensor.forebay_memory = memory
        return tensor

    @staticmethod
    def memory_of(tensor):
        return getattr(tensor, "forebay_memory", None)


def _key(tensors, shape, dtype):
    """Shape and dtype as they are kept, and the library's key for them."""
    dtype = tensors.dtype(dtype)
    name = str(dtype).removeprefix("torch.")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return shape, dtype, tensor_key(name, shape, tensors.kind, tensors.index)


class TensorCache:
    """Tensors by shape and dtype.

    ``max_size`` is the most tensors and ``max_bytes`` the most bytes that are kept; ``eviction_policy``
    says which go first: ``"lru"``, ``"lfu"`` (W-TinyLFU, Einziger, Friedman, Manes 2017, with a window
    of a fifth) or ``"adaptive"`` (shadows of several policies, the best of which leads). ``ttl`` is the
    age in seconds from which ``cleanup()`` removes tensors. ``device`` is ``"cpu"`` (numpy arrays) or a
    CUDA device (PyTorch's tensors, on the stream that is current). ``cost_per_entry`` is what a hit is
    worth besides its bytes, as bytes.

    Several tensors may have one shape and dtype. All methods may be called from any thread.
    """

    #: None before the cache is there, and when it is closed.
    _handle = _tensors = None

    def __init__(
        self,
        max_size=100,
        eviction_policy="lru",
        *,
        max_bytes=None,
        ttl=300.0,
        device="cpu",
        cost_per_entry=64 << 10,
    ):
        if eviction_policy not in POLICIES:
            raise ValueError(
                f"eviction_policy is {eviction_policy!r}; it must be one of "
                f"{', '.join(map(repr, POLICIES))}"
            )
        if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
            raise ValueError(f"max_size is {max_size!r}; it must be 1 or more tensors")
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes!r}; it must be 1 or more bytes, or None")
        self.ttl, self.eviction_policy, self.device = ttl, eviction_policy, str(device)
        #: Held while the counters are read: the cache is not ended meanwhile.
        self._reading = threading.RLock()
        self.number = _opened.number()
        #: Its memory; None when the cache is closed, for then it belongs to who reads it.
        self._tensors = (
            _Host(max_bytes, f"cache #{self.number}") if self.device == "cpu" else _Cuda(device)
        )
        config = CacheConfig(struct_size=ctypes.sizeof(CacheConfig))
        config.max_entries, config.max_bytes = max_size, max_bytes or 0
        config.policy, config.entry_worth = POLICIES[eviction_policy], cost_per_entry
        handle = ctypes.c_void_p()
        pools = (ctypes.c_void_p * 1)(self._tensors.handle)
        check(library().forebay_cache_create(pools, 1, ctypes.byref(config), ctypes.byref(handle)))
        self._handle = handle
        _opened.add(self)

    def _open(self):
        """The library's cache, and its memory."""
        handle, tensors = self._handle, self._tensors
        if handle is None or tensors is None:
            raise ForebayError("the cache is closed")
        return handle, tensors

    def get(self, shape, dtype):
        """The newest tensor of ``shape`` and ``dtype``, to read; None if there is none. The same one may
        be got again and again. It stays as it is as long as it is referred to, and is read-only on
        the host; on a GPU nobody may write to it. Work on the current stream may use it; for
        others, ``tensor.record_stream`` in mode ``"global"`` of ``forebay.torch``."""
        cache, tensors = self._open()
        shape, dtype, key = _key(tensors, shape, dtype)
        pin, stream = CachePin(), tensors.stream
        check(library().forebay_cache_get(cache, key, len(key), stream, ctypes.byref(pin)))
        if not pin.ptr:
            return None

        def release(keep=self):
            # The cache may be closed by now; then the block was left to who reads it.
            if keep._handle is None:
                library().forebay_free(tensors.handle, pin.ptr, stream)
            else:
                library().forebay_cache_release(keep._handle, pin, stream)

        memory = _Memory(pin.ptr, pin.size, tensors.is_cuda, release, True)
        return tensors.view(memory, shape, dtype)

    def take(self, shape, dtype):
        """A tensor of ``shape`` and ``dtype`` for the caller alone, out of the cache; None if there is
        none. It may be written to, and given back with ``put``; else its memory goes back to the
        pool with the last reference. Raises ``ForebayError`` when all of them are being read."""
        cache, tensors = self._open()
        shape, dtype, key = _key(tensors, shape, dtype)
        block, size, stream = ctypes.c_void_p(), ctypes.c_size_t(), tensors.stream
        check(
            library().forebay_cache_take(
                cache, key, len(key), stream, ctypes.byref(block), ctypes.byref(size)
            )
        )
        if not block.value:
            return None

        def leave(address=block.value):
            library().forebay_free(tensors.handle, address, stream)

        memory = _Memory(block.value, size.value, tensors.is_cuda, leave, False)
        memory.taken_from = self
        return tensors.view(memory, shape, dtype)

    def add(self, tensor):
        """Keeps a copy of ``tensor``. Raises ``ForebayError`` when it is larger than ``max_bytes``."""
        cache, tensors = self._open()
        shape, dtype, address, size, held = tensors.bytes_of(tensor)
        _, _, key = _key(tensors, shape, dtype)
        if size == 0:
            raise ValueError(f"tensor has the shape {shape}, and no bytes to keep")
        stream = tensors.stream
        check(library().forebay_cache_put_copy(cache, key, len(key), address, size, stream))
        del held

    def put(self, tensor):
        """Gives a tensor that was taken back to the cache, without a copy: it must not be used any
        more. Of any other tensor a copy is kept, as with ``add``."""
        cache, tensors = self._open()
        memory = tensors.memory_of(tensor)
        if getattr(memory, "taken_from", None) is not self or memory._leave is None:
            self.add(tensor)
            return
        shape, dtype, address, _, _ = tensors.bytes_of(tensor)
        if address != memory.address:
            self.add(tensor)
            return
        _, _, key = _key(tensors, shape, dtype)
        check(library().forebay_cache_put(cache, key, len(key), address, tensors.stream))
        memory._leave = None

    def remove(self, shape, dtype):
        """Removes all tensors of ``shape`` and ``dtype``; returns how many."""
        cache, tensors = self._open()
        _, _, key = _key(tensors, shape, dtype)
        removed = ctypes.c_size_t()
        check(library().forebay_cache_remove(cache, key, len(key), ctypes.byref(removed)))
        return removed.value

    def evict(self, size):
        """Gives at least ``size`` bytes back to the pool, those tensors first that are worth least, or
        all that nobody reads; returns the bytes."""
        cache, _ = self._open()
        freed = ctypes.c_size_t()
        check(library().forebay_cache_evict(cache, size, ctypes.byref(freed)))
        return freed.value

    def cleanup(self, max_age=None):
        """Removes tensors that were put longer than ``max_age`` seconds ago (by default ``ttl``);
        returns how many."""
        age = self.ttl if max_age is None else max_age
        cache, _ = self._open()
        expired = ctypes.c_size_t()
        check(
            library().forebay_cache_expire(cache, max(int(age * 1000), 0), ctypes.byref(expired))
        )
        return expired.value

    def clear(self):
        """Removes all tensors; returns how many."""
        cache, _ = self._open()
        removed = ctypes.c_size_t()
        check(library().forebay_cache_clear(cache, ctypes.byref(removed)))
        return removed.value

    def get_stats(self):
        """The counters: ``hits``, ``misses``, ``cache_efficiency`` (hits of all gets and takes, 0 to 1),
        ``size`` (tensors), ``bytes``, and those of ``forebay_cache_statistics``."""
        stats = CacheStatistics(struct_size=ctypes.sizeof(CacheStatistics))
        with self._reading:
            cache, _ = self._open()
            check(library().forebay_cache_stats(cache, ctypes.byref(stats)))
        counted = {name: getattr(stats, name) for name, _ in CacheStatistics._fields_[1:]}
        asked = stats.hits + stats.misses
        counted["size"] = stats.entries
        counted["cache_efficiency"] = stats.hits / asked if asked else 0.0
        return counted

    def __len__(self):
        return self.get_stats()["entries"]

    def close(self):
        """Gives all memory back. Tensors that are still read, or were taken, stay as they are; a cache
        on the host keeps its pool for them."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        with self._reading:
            # It is destroyed even if it says that tensors are being read.
            library().forebay_cache_destroy(handle)
        self._tensors = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        self.close()
