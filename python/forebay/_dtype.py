"""What may be named as a dtype: numpy's, by class, name or object, and PyTorch's."""

import operator
import sys

#: Most bytes of one block, ``forebay_alloc``'s limit.
SIZE_MAX = 1 << 46


def is_torch(dtype):
    """Whether ``dtype`` is one of PyTorch's."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(dtype, torch.dtype)


def dtype_of(dtype):
    """``dtype`` as numpy's, or as it is if it is PyTorch's.

    The types that numpy has not, bfloat16 and those of 8 and fewer bits, are ``ml_dtypes``'s. Where
    that is not installed they are refused: integers of the same size would hold them, and be wrong
    at the first assignment.
    """
    if is_torch(dtype):
        return dtype
    import numpy

    try:
        found = numpy.dtype(dtype)
    except TypeError as error:
        found = _extended(dtype, error)
    if found.hasobject:
        raise TypeError(f"dtype is {found}: references cannot be kept in a pool")
    if found.itemsize == 0:
        raise TypeError(f"dtype is {found}, whose elements have no bytes")
    return found


def _extended(dtype, error):
    import numpy

    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", "")
    if name != "bfloat16" and not name.startswith(
        ("float4", "float6", "float8", "int2", "int4", "uint2", "uint4")
    ):
        raise TypeError(f"dtype is {dtype!r}: {error}") from None
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError(
            f"dtype is {name!r}, which numpy has not: install ml_dtypes for arrays of it, or name "
            f"torch.{name} for a PyTorch tensor"
        ) from None
    if not hasattr(ml_dtypes, name):
        raise TypeError(f"dtype is {name!r}, which neither numpy nor ml_dtypes has")
    return numpy.dtype(getattr(ml_dtypes, name))


def torch_dtype(torch, dtype):
    """PyTorch's type for ``dtype``."""
    if isinstance(dtype, torch.dtype):
        return dtype
    name = dtype if isinstance(dtype, str) else dtype_of(dtype).name
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"dtype is {dtype!r}, which PyTorch has no type for")
    return found


def shape_of(shape):
    """``shape`` as a tuple of lengths."""
    try:
        lengths = tuple(operator.index(length) for length in shape)
    except TypeError:
        raise TypeError(
            f"shape is {shape!r}; it must be whole numbers, or bytes as one number"
        ) from None
    if any(length < 0 for length in lengths):
        raise ValueError(f"shape is {lengths}; lengths must be 0 or more")
    return lengths
