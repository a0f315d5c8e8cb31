"""Arrays of numpy, tensors of PyTorch, and what speaks DLPack: which of them can be packed."""

import sys

#: Memory that the processor can read, as DLPack numbers it: its own, and what CUDA and ROCm pinned.
_READABLE = (1, 3, 11)


def torch_dtype(dtype):
    """PyTorch's type for a numpy dtype; None if it has none."""
    torch = sys.modules["torch"]
    found = getattr(torch, dtype.name, None) if dtype.isnative else None
    return found if isinstance(found, torch.dtype) else None


def is_tensor(value):
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def looks_like_an_array(value):
    numpy = sys.modules.get("numpy")
    return (
        (numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)))
        or is_tensor(value)
        or (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"))
    )


def _is_in_memory(tensor):
    """Whether its elements are in memory of the host, at regular distances."""
    strided = tensor.layout is sys.modules["torch"].strided
    return strided and tensor.is_cpu and not tensor.is_nested


def _array_of_numpy(value, numpy, to_torch):
    if isinstance(value, numpy.ma.MaskedArray):
        # Its mask would be lost.
        return None
    array = numpy.asarray(value)
    if array.dtype.hasobject or (isinstance(value, numpy.generic) and array.dtype.kind in "SU"):
        return None
    return None if to_torch and torch_dtype(array.dtype) is None else array


def array_of(value, to_torch):
    """The array or tensor on the CPU that ``value`` is; None if it is none, or none that can be
    packed."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return _array_of_numpy(value, numpy, to_torch)
    if is_tensor(value):
        return value if _is_in_memory(value) and not value.is_quantized else None
    if int(value.__dlpack_device__()[0]) not in _READABLE:
        return None
    import numpy

    try:
        array = numpy.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError):
        # Of a type that numpy does not know.
        return None
    return _array_of_numpy(array, numpy, to_torch)
