"""forebay as CuPy's allocator.

    import cupy, forebay.cupy
    forebay.cupy.enable()

Arrays that are made from then on come from forebay's pool of the current device, the one that
PyTorch's tensors come from where ``forebay.torch`` is enabled too: one pool for both.
"""

import ctypes

from ._abi import ERROR_OUT_OF_MEMORY
from ._library import ForebayError, check, library

__all__ = ["disable", "enable", "free", "malloc"]

#: Pool and stream of each live block, by address: CuPy names neither when it frees.
_live = {}
#: Handles of pools by device.
_pools = {}


def _pool(device):
    pool = _pools.get(device)
    if pool is None:
        pool = ctypes.c_void_p()
        check(library().forebay_torch_pool(device, ctypes.byref(pool)))
        _pools[device] = pool
    return pool


def malloc(size, device):
    """Address of ``size`` bytes on the device with the number ``device``, for use on CuPy's current
    stream; 0 for a size of 0. Raises ``cupy.cuda.memory.OutOfMemoryError``."""
    if size == 0:
        return 0
    import cupy

    stream = cupy.cuda.get_current_stream().ptr
    pool = _pool(device)
    block = ctypes.c_void_p()
    status = library().forebay_alloc(pool, size, stream, ctypes.byref(block))
    if status == ERROR_OUT_OF_MEMORY:
        total = cupy.cuda.runtime.memGetInfo()[1]
        raise cupy.cuda.memory.OutOfMemoryError(size, total) from _error()
    check(status)
    _live[block.value] = pool, stream
    return block.value


def _error():
    return ForebayError(library().forebay_last_error().decode(errors="replace"), ERROR_OUT_OF_MEMORY)


def free(address, device):
    """Gives back what ``malloc`` gave. Work queued so far on the stream of the allocation is the last
    to use it: an array that another stream uses needs that stream to be waited for first, as
    with CuPy's own pool."""
    block = _live.pop(address, None)
    if block is not None:
        pool, stream = block
        check(library().forebay_free(pool, address, stream))


def enable():
    """Makes forebay CuPy's allocator on all devices. Arrays that live stay where they are, and go
    back to where they came from. Raises ``ForebayError`` when CuPy or the library is missing."""
    library()
    try:
        import cupy
    except ImportError as error:
        raise ForebayError(f"forebay.cupy needs CuPy, which cannot be imported: {error}") from None
    cupy.cuda.set_allocator(cupy.cuda.PythonFunctionAllocator(malloc, free).malloc)


def disable():
    """Gives CuPy its own pool back."""
    import cupy

    cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
