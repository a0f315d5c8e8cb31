"""Which device is there, and arrays over blocks of a GPU."""

import ctypes
import functools
import math
import sys
import warnings

from ._dtype import dtype_of, shape_of, torch_dtype
from ._library import ForebayError, library
from ._observe import observers, tell
from .pool import device_of

_warned = False


def fall_back(device, reason):
    """``"cpu"`` in place of ``device``. Says so once in a process."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"device is {str(device)!r}, and there is none: forebay uses system memory in its "
            f"place ({reason})",
            RuntimeWarning,
            stacklevel=4,
        )
    return "cpu"


def usable(device):
    """``device``, or ``"cpu"`` where PyTorch has no such GPU: for what hands out PyTorch's
    tensors."""
    if device_of(device)[0] != "cuda":
        return device
    try:
        import torch
    except ImportError:
        return fall_back(device, "PyTorch, whose tensors they would be, is not installed")
    if not torch.cuda.is_available():
        return fall_back(device, "torch.cuda.is_available() is False")
    return device


class DeviceBlock:
    """A block of a GPU's memory. It goes back on the stream that it was allocated on, behind what
    is queued there; ``pool.record_stream`` names others."""

    __slots__ = ("__weakref__", "address", "size", "source", "stream")

    def __init__(self, address, size, stream):
        self.address, self.size, self.stream = address, size, stream

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": (self.size,),
            "typestr": "|u1",
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }

    def __del__(self):
        source = getattr(self, "source", None)
        if source is not None:
            give_back(source, self, self.stream)
            source.dropped += 1


class DeviceArray:
    """An array over a block where neither PyTorch nor CuPy is there to make one: ``shape``,
    ``dtype`` (numpy's) and ``nbytes``, for whoever takes ``__cuda_array_interface__``, such as
    Numba."""

    __slots__ = ("__weakref__", "dtype", "forebay_block", "shape")

    def __init__(self, block, shape, dtype):
        self.forebay_block, self.shape, self.dtype = block, shape, dtype

    @property
    def nbytes(self):
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self):
        interface = self.forebay_block.__cuda_array_interface__
        return {**interface, "shape": self.shape, "typestr": self.dtype.str}

    def __repr__(self):
        block = self.forebay_block
        return f"<forebay array of {self.dtype} {self.shape} at {block.address:#x} on a GPU>"


def item_size(dtype):
    """Bytes of an element, of types that only PyTorch has too."""
    torch = _module("torch")
    return (dtype_of(dtype) if torch is None else torch_dtype(torch, dtype)).itemsize


def take(source, index, size):
    """A block of ``size`` bytes on the stream that is current, or the status of its failure."""
    address, stream = ctypes.c_void_p(), current_stream(index)
    status = library().forebay_alloc(source.handle, size, stream, ctypes.byref(address))
    if status:
        return None, status
    block = DeviceBlock(address.value, size, stream)
    block.source = source
    if observers:
        tell(source.pool, block.address, size)
    return block, status


def give_back(source, block, stream):
    """Ends a block, whose ``source`` nobody else has; its status."""
    block.source = None
    if observers:
        tell(source.pool, block.address, -block.size)
    return library().forebay_free(source.handle, block.address, stream)


def current_stream(index):
    """The stream that is current in PyTorch or CuPy, as a number; None for the default one."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.cuda.current_stream(index).cuda_stream or None
    cupy = sys.modules.get("cupy")
    return (cupy.cuda.get_current_stream().ptr or None) if cupy is not None else None


def view(block, index, shape, dtype):
    """An array over ``block``: PyTorch's tensor, else CuPy's array, else a ``DeviceArray``. It
    keeps the block."""
    shape = shape_of(shape)
    size = math.prod(shape) * item_size(dtype)
    if size > block.size:
        raise ValueError(f"shape {shape} of {dtype} has {size} bytes; the block has {block.size}")
    torch = _module("torch")
    if torch is not None:
        dtype = torch_dtype(torch, dtype)
        flat = torch.as_tensor(block, device=f"cuda:{index}")
        made = flat[:size].view(dtype).view(shape).as_subclass(_tensor_type())
        made.forebay_block = block
        return made
    cupy = _module("cupy")
    if cupy is None:
        return DeviceArray(block, shape, dtype_of(dtype))
    memory = cupy.cuda.UnownedMemory(block.address, block.size, block, index)
    return cupy.ndarray(shape, dtype_of(dtype), cupy.cuda.MemoryPointer(memory, 0))


def _module(name):
    try:
        return __import__(name)
    except ImportError:
        return None


@functools.cache
def _tensor_type():
    """PyTorch's tensors with what programs for numpy's arrays do to them. What is computed from
    them is plain."""
    import numpy
    import torch

    class DeviceTensor(torch.Tensor):
        __torch_function__ = torch._C._disabled_torch_function_impl

        def __setitem__(self, key, value):
            if isinstance(value, (numpy.ndarray, numpy.generic)):
                # Converted on the host: the copy has fewer bytes, or as many.
                value = torch.as_tensor(value, dtype=self.dtype).to(self.device)
            super().__setitem__(key, value)

        def __array__(self, dtype=None, copy=None):
            host = self.detach().cpu().numpy()
            return host if dtype is None else host.astype(dtype)

        def copy(self):
            """Its values as a numpy array."""
            return self.__array__()

    return DeviceTensor


def open_pool(make, device, strict):
    """``make(device)``, or ``make("cpu")`` where there is no such GPU, unless ``strict``."""
    try:
        return make(device)
    except ForebayError as error:
        absent = error.name in ("FOREBAY_ERROR_UNSUPPORTED", "FOREBAY_ERROR_INVALID_ARGUMENT")
        if strict or device_of(device)[0] == "cpu" or not absent:
            raise
        if error.name == "FOREBAY_ERROR_INVALID_ARGUMENT" and "device" not in str(error):
            raise
        reason = str(error)
    return make(fall_back(device, reason))
