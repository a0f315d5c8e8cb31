"""forebay as Numba's memory manager for CUDA (an EMM plugin).

    from numba import cuda
    import forebay.numba
    cuda.set_memory_manager(forebay.numba.Manager)      # before the first use of CUDA

or, without a line in the program, ``NUMBA_CUDA_MEMORY_MANAGER=forebay.numba``. Device arrays then come
from forebay's pool of the device, the one that PyTorch's tensors come from where
``forebay.torch`` is enabled too. Pinned and mapped memory stays Numba's own.
"""

import ctypes
import threading

from ._abi import ERROR_OUT_OF_MEMORY
from ._library import check, library, pool_statistics

try:
    from numba import cuda
    from numba.cuda import HostOnlyCUDAMemoryManager, MemoryInfo, MemoryPointer
except ImportError as error:
    from ._library import ForebayError

    raise ForebayError(f"forebay.numba needs Numba, which cannot be imported: {error}") from None

#: Freed blocks are given back together when they are this many, or a quarter of the device.
_BATCH = 32
_SHARE = 4


class Manager(HostOnlyCUDAMemoryManager):
    """Numba's device memory from forebay.

    Numba tells a manager of no streams: neither where memory is used, nor where it is freed. So
    freed blocks are collected, and given back together after everything on the device was waited
    for: what Numba's own manager does with its deallocations.

    ``cuda.close()`` resets the device, and with it every pool of the process: nothing for programs in
    which others use forebay too.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._pool = None
        self._freed = []
        self._freed_bytes = 0
        self._lock = threading.Lock()

    @property
    def interface_version(self):
        return 1

    def initialize(self):
        if self._pool is None:
            pool = ctypes.c_void_p()
            check(library().forebay_torch_pool(self.context.device.id, ctypes.byref(pool)))
            self._pool = pool
        super().initialize()

    def memalloc(self, size):
        """``size`` bytes of the context's device. Raises ``CudaAPIError`` of CUDA_ERROR_OUT_OF_MEMORY
        when there are none."""
        # The allocation that Numba asks for may be of no bytes.
        wanted = max(size, 1)
        block = ctypes.c_void_p()
        status = library().forebay_alloc(self._pool, wanted, None, ctypes.byref(block))
        if status == ERROR_OUT_OF_MEMORY and self._give_back():
            status = library().forebay_alloc(self._pool, wanted, None, ctypes.byref(block))
        if status == ERROR_OUT_OF_MEMORY:
            message = library().forebay_last_error().decode(errors="replace")
            raise cuda.cudadrv.driver.CudaAPIError(2, f"[2] CUDA_ERROR_OUT_OF_MEMORY: {message}")
        check(status)
        address = block.value

        def finalizer():
            with self._lock:
                self._freed.append(address)
                self._freed_bytes += wanted
                many = len(self._freed) >= _BATCH or self._freed_bytes * _SHARE >= self._total()
            if many:
                self._give_back()

        return MemoryPointer(self.context, ctypes.c_uint64(address), size, finalizer=finalizer)

    def _give_back(self):
        """Gives collected blocks back; whether there were any."""
        with self._lock:
            freed, self._freed, self._freed_bytes = self._freed, [], 0
        if not freed:
            return False
        self.context.synchronize()
        for address in freed:
            check(library().forebay_free(self._pool, address, None))
        return True

    def _total(self):
        total = getattr(self, "_limit", None)
        if total is None:
            total = self._limit = pool_statistics(self._pool).limit_bytes
        return total

    def get_memory_info(self):
        """Free bytes, those that the device has and the pool may take and those that the pool holds
        idle, and all bytes of the device."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        cuda.cudadrv.driver.driver.cuMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        stats = pool_statistics(self._pool)
        idle = stats.reserved_bytes - min(stats.allocated_bytes, stats.reserved_bytes)
        room = stats.limit_bytes - min(stats.reserved_bytes, stats.limit_bytes)
        return MemoryInfo(free=min(free.value, room) + idle, total=total.value)

    def get_ipc_handle(self, memory):
        """Not possible: memory that is mapped page by page has no handle of the older kind that
        Numba passes on. ``forebay_block_export`` in forebay.h gives file descriptors, and the offset
        of the block in them."""
        raise NotImplementedError(
            "forebay's memory has no CUDA IPC handle; export it with forebay_block_export "
            "(forebay.h), or send the array through system memory"
        )

    def reset(self):
        self._give_back()
        super().reset()


#: What ``NUMBA_CUDA_MEMORY_MANAGER=forebay.numba`` looks for.
_numba_memory_manager = Manager
