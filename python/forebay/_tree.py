"""Batches of any shape: the arrays in them, and the way back.

A leaf is an array of numpy or a tensor of PyTorch on the CPU, or what speaks DLPack there. What is
none, and no container of any, stays in its place as it is.
"""

import copy
import dataclasses
import sys
from collections.abc import Mapping

#: Types that are never looked into.
_PLAIN = (str, bytes, bytearray, int, float, complex, bool, type(None))


class Leaf:
    """A leaf's dtype and shape, and where its bytes are."""

    __slots__ = ("address", "size", "dtype", "shape", "is_torch", "held")

    def __init__(self, address, size, dtype, shape, is_torch, held):
        self.address, self.size = address, size
        self.dtype, self.shape, self.is_torch = dtype, shape, is_torch
        #: Keeps the bytes until they are staged.
        self.held = held


def _of_numpy(array):
    import numpy

    if array.dtype.hasobject:
        return None
    array = numpy.asarray(array, order="C")
    return Leaf(array.ctypes.data, array.nbytes, array.dtype, array.shape, False, array)


def _of_torch(tensor, torch):
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.is_quantized:
        return None
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    size = tensor.numel() * tensor.element_size()
    return Leaf(tensor.data_ptr(), size, tensor.dtype, tuple(tensor.shape), True, tensor)


def _leaf(value):
    """The leaf that ``value`` is; None if it is none."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return _of_numpy(numpy.asarray(value))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _of_torch(value, torch)
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        kind, _ = value.__dlpack_device__()
        # 1 is the CPU.
        if int(kind) == 1:
            import numpy

            return _of_numpy(numpy.from_dlpack(value))
    return None


def _copy_with(value, names, parts):
    made = copy.copy(value)
    for name, part in zip(names, parts):
        # As it can be with those that are frozen, too.
        object.__setattr__(made, name, part)
    return made


def _mapping(value, keys, parts):
    if type(value) is dict:
        return dict(zip(keys, parts))
    made = copy.copy(value)
    try:
        made.update(zip(keys, parts))
    except (AttributeError, TypeError):
        made = type(value)(dict(zip(keys, parts)))
    return made


def flatten(batch):
    """The leaves of a batch, in order, and a function that makes a batch like it of others."""
    leaves = []

    def walk(value):
        if isinstance(value, _PLAIN):
            return lambda _: value
        leaf = _leaf(value)
        if leaf is not None:
            index = len(leaves)
            leaves.append(leaf)
            return lambda made: made[index]
        if isinstance(value, Mapping):
            keys = list(value)
            parts = [walk(value[key]) for key in keys]
            return lambda made: _mapping(value, keys, [part(made) for part in parts])
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            parts = [walk(part) for part in value]
            return lambda made: type(value)(*[part(made) for part in parts])
        if isinstance(value, (list, tuple)):
            parts = [walk(part) for part in value]
            return lambda made: type(value)([part(made) for part in parts])
        names = None
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value)]
        elif hasattr(type(value), "__attrs_attrs__"):
            names = [field.name for field in type(value).__attrs_attrs__]
        if names is not None:
            parts = [walk(getattr(value, name)) for name in names]
            return lambda made: _copy_with(value, names, [part(made) for part in parts])
        return lambda _: value

    return leaves, walk(batch)
