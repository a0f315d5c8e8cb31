"""Batches of any shape: the arrays in them, and the way back.

A leaf is an array of numpy or a tensor of PyTorch on the CPU, or what speaks DLPack there. What is
none, and no container of any, stays in its place as it is.

What a batch is made of is learnt once, as a tree of nodes, and where its leaves go in a slot, as a
layout. Of the batches after it one walk sees whether they are made like that.
"""

import copy
import ctypes
import dataclasses
import math
import sys
from collections import UserDict
from collections.abc import Mapping

from ._abi import PrefetchLeaf

#: A leaf begins at a multiple of this in a slot, in bytes.
ALIGNMENT = 256

#: Types of values that are no leaves, and never looked into.
_PLAIN = frozenset((str, bytes, bytearray, int, float, complex, bool, type(None)))

#: Memory that the processor can read, as DLPack numbers it: its own, and what CUDA and ROCm pinned.
_READABLE = (1, 3, 11)

#: Bytes below which arrays of numpy that are side by side are put together before they are submitted.
_SMALL = 4096

_WORDS = ctypes.sizeof(PrefetchLeaf) // 8


class Differs(Exception):
    """A batch is not made like the one before it."""

    def __init__(self):
        super().__init__("the batch changed while it was read")


# What arrays are.


def torch_dtype(dtype):
    """PyTorch's type for a numpy dtype; None if it has none."""
    torch = sys.modules["torch"]
    found = getattr(torch, dtype.name, None) if dtype.isnative else None
    return found if isinstance(found, torch.dtype) else None


def _is_tensor(value):
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _looks_like_an_array(value):
    numpy = sys.modules.get("numpy")
    return (
        (numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)))
        or _is_tensor(value)
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
    if _is_tensor(value):
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


# Nodes: ``read`` puts the arrays of a value into one list, and what else has to be known of it into
# another, and ``make`` makes a value like it of others, taking from both in that order.


class _Plain:
    """A value that is passed on, of a type that is plain."""

    __slots__ = ()

    def read(self, value, arrays, others):
        if type(value) not in _PLAIN:
            raise Differs
        others.append(value)

    def make(self, arrays, others):
        return next(others)


class _Other:
    """A value that is passed on, for nothing is known of its type, or it cannot be packed."""

    __slots__ = ("kind", "to_torch")

    def __init__(self, kind, to_torch):
        self.kind, self.to_torch = kind, to_torch

    def read(self, value, arrays, others):
        if type(value) is not self.kind:
            raise Differs
        if _looks_like_an_array(value) and array_of(value, self.to_torch) is not None:
            raise Differs
        others.append(value)

    def make(self, arrays, others):
        return next(others)


class _Array:
    """A leaf that is an array or a tensor itself."""

    __slots__ = ("kind",)

    def __init__(self, kind):
        self.kind = kind

    def read(self, value, arrays, others):
        if type(value) is not self.kind:
            raise Differs
        arrays.append(value)

    def make(self, arrays, others):
        return next(arrays)


class _Convertible:
    """A leaf that becomes an array: of a class of its own, a scalar, or by DLPack."""

    __slots__ = ("kind", "to_torch")

    def __init__(self, kind, to_torch):
        self.kind, self.to_torch = kind, to_torch

    def read(self, value, arrays, others):
        if type(value) is not self.kind:
            raise Differs
        array = array_of(value, self.to_torch)
        if array is None:
            raise Differs
        arrays.append(array)

    def make(self, arrays, others):
        return next(arrays)


class _Container:
    """A value with parts."""

    __slots__ = ("kind", "names", "parts")

    def __init__(self, kind, names, parts):
        self.kind, self.names, self.parts = kind, names, parts

    def made(self, arrays, others):
        return [part.make(arrays, others) for part in self.parts]


class _Dict(_Container):
    __slots__ = ()

    def read(self, value, arrays, others):
        if type(value) is not dict or list(value) != self.names:
            raise Differs
        for part, inner in zip(self.parts, value.values()):
            part.read(inner, arrays, others)

    def make(self, arrays, others):
        return dict(zip(self.names, self.made(arrays, others)))


class _Mapping(_Container):
    __slots__ = ()

    def read(self, value, arrays, others):
        if type(value) is not self.kind or list(value) != self.names:
            raise Differs
        others.append(value)
        for part, name in zip(self.parts, self.names):
            part.read(value[name], arrays, others)

    def make(self, arrays, others):
        value, items = next(others), dict(zip(self.names, self.made(arrays, others)))
        if not isinstance(value, (dict, UserDict)):
            # A copy may share with it what it is made of.
            try:
                return self.kind(items)
            except TypeError:
                pass
        made = copy.copy(value)
        made.update(items)
        return made


class _Sequence(_Container):
    __slots__ = ()

    def read(self, value, arrays, others):
        if type(value) is not self.kind or len(value) != len(self.parts):
            raise Differs
        for part, inner in zip(self.parts, value):
            part.read(inner, arrays, others)

    def make(self, arrays, others):
        return self.kind(self.made(arrays, others))


class _NamedTuple(_Sequence):
    __slots__ = ()

    def make(self, arrays, others):
        return self.kind(*self.made(arrays, others))


class _Fields(_Container):
    """A dataclass, or a class of attrs."""

    __slots__ = ()

    def read(self, value, arrays, others):
        if type(value) is not self.kind:
            raise Differs
        others.append(value)
        for part, name in zip(self.parts, self.names):
            part.read(getattr(value, name), arrays, others)

    def make(self, arrays, others):
        made = copy.copy(next(others))
        for name, part in zip(self.names, self.made(arrays, others)):
            # As it can be with those that are frozen, too.
            object.__setattr__(made, name, part)
        return made


def _fields_of(value):
    """The names of the fields of a dataclass or of a class of attrs; None if it is neither."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [field.name for field in dataclasses.fields(value)]
    if hasattr(type(value), "__attrs_attrs__"):
        return [field.name for field in type(value).__attrs_attrs__]
    return None


class Tree:
    """What batches are made of, as one of them is."""

    def __init__(self, batch, to_torch):
        self.to_torch = to_torch
        #: How many values are passed on that are not plain.
        self.passed = 0
        self.root = self._node(batch)

    def _node(self, value):
        kind = type(value)
        if kind in _PLAIN:
            return _Plain()
        if _looks_like_an_array(value):
            array = array_of(value, self.to_torch)
            if array is not None:
                return _Array(kind) if array is value else _Convertible(kind, self.to_torch)
        elif isinstance(value, Mapping):
            names = list(value)
            parts = [self._node(value[name]) for name in names]
            return (_Dict if kind is dict else _Mapping)(kind, names, parts)
        elif isinstance(value, (list, tuple)):
            parts = [self._node(part) for part in value]
            return (_NamedTuple if hasattr(value, "_fields") else _Sequence)(kind, None, parts)
        else:
            names = _fields_of(value)
            if names is not None:
                parts = [self._node(getattr(value, name)) for name in names]
                return _Fields(kind, names, parts)
        self.passed += not isinstance(value, (str, bytes, bytearray, int, float, complex))
        return _Other(kind, self.to_torch)

    def read(self, batch):
        """The arrays in a batch, and what else has to be known to make one like it."""
        arrays, others = [], []
        self.root.read(batch, arrays, others)
        return arrays, others

    def make(self, arrays, others):
        """The batch, with these arrays."""
        return self.root.make(iter(arrays), iter(others))


class Leaf:
    """What a leaf is, and where in a slot it is."""

    __slots__ = ("at", "size", "dtype", "shape", "given", "is_torch", "strides", "first")

    def __init__(self, array, at, to_torch):
        #: As it was given.
        self.given, self.shape = array.dtype, tuple(array.shape)
        self.is_torch = _is_tensor(array)
        self.dtype = self.given
        item = array.element_size() if self.is_torch else array.itemsize
        if to_torch and not self.is_torch:
            self.dtype, self.is_torch = torch_dtype(self.given), True
        self.at, self.size = at, item * math.prod(self.shape)
        # For PyTorch, which counts in elements.
        self.first = at // item if item else 0
        strides, step = [], 1
        for length in reversed(self.shape):
            strides.append(step)
            step *= max(length, 1)
        self.strides = tuple(reversed(strides))


# Sources: what is submitted as one. ``place`` says where its bytes are, and what has to stay for that.


class _ArraySource:
    """An array of numpy."""

    __slots__ = ("index", "size")

    def __init__(self, index, leaf):
        self.index, self.size = index, leaf.size

    def place(self, arrays):
        import numpy

        array = numpy.asarray(arrays[self.index], order="C")
        return array.ctypes.data, array


class _TensorSource:
    """A tensor."""

    __slots__ = ("index", "size", "is_complex")

    def __init__(self, index, leaf):
        self.index, self.size, self.is_complex = index, leaf.size, leaf.given.is_complex

    def place(self, arrays):
        tensor = arrays[self.index]
        if not tensor.is_cpu:
            raise Differs
        is_lazy = tensor.is_neg() or (self.is_complex and tensor.is_conj())
        if is_lazy or not tensor.is_contiguous():
            tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
        return tensor.data_ptr(), tensor


class _SmallArrays:
    """Small arrays of numpy, side by side in the slot. They are put together here, for the interpreter
    takes some forty times as long to find out where an array is as to copy one."""

    __slots__ = ("first", "end", "size", "between")

    def __init__(self, first, leaves):
        self.first, self.end = first, first + len(leaves)
        self.size = leaves[-1].at + leaves[-1].size - leaves[0].at
        following = [leaf.at for leaf in leaves[1:]] + [leaves[-1].at + leaves[-1].size]
        self.between = [bytes(at - leaf.at - leaf.size) for leaf, at in zip(leaves, following)]

    def place(self, arrays):
        import numpy

        pieces = []
        for array, gap in zip(arrays[self.first : self.end], self.between):
            pieces += array.tobytes(), gap
        joined = numpy.frombuffer(b"".join(pieces), numpy.uint8)
        return joined.ctypes.data, joined


def _sources(leaves, tensors):
    """What the bytes of ``leaves`` are submitted as; ``tensors`` says which are tensors."""
    small = [not tensor and leaf.size < _SMALL for leaf, tensor in zip(leaves, tensors)]
    sources, at = [], 0
    while at < len(leaves):
        end = at
        while end < len(leaves) and small[end]:
            end += 1
        if end - at > 1:
            sources.append(_SmallArrays(at, leaves[at:end]))
            at = end
        else:
            kind = _TensorSource if tensors[at] else _ArraySource
            sources.append(kind(at, leaves[at]))
            at += 1
    return sources


class Layout:
    """Where in a slot the leaves of a batch are."""

    def __init__(self, arrays, to_torch):
        self.leaves, at = [], 0
        for array in arrays:
            at = -(-at // ALIGNMENT) * ALIGNMENT
            leaf = Leaf(array, at, to_torch)
            self.leaves.append(leaf)
            at += leaf.size
        self._sources = _sources(self.leaves, [_is_tensor(array) for array in arrays])
        #: What is submitted: sizes stay, and addresses are new each time.
        self.table = (PrefetchLeaf * len(self._sources))()
        for row, source in zip(self.table, self._sources):
            row.size = source.size
        self._words = (ctypes.c_uint64 * (_WORDS * len(self._sources))).from_buffer(self.table)

    def fits(self, arrays):
        """Whether arrays have the types and shapes that it was made for."""
        for array, leaf in zip(arrays, self.leaves):
            if array.shape != leaf.shape or array.dtype != leaf.given:
                return False
        return True

    def place(self, arrays):
        """Writes down where ``arrays`` are; returns what has to stay for it."""
        places = [source.place(arrays) for source in self._sources]
        # The address is a row's first word.
        self._words[::_WORDS] = [address for address, _ in places]
        return [held for _, held in places]


class Packed:
    """A batch, taken apart."""

    __slots__ = ("tree", "layout", "held", "others")

    def __init__(self, tree, layout, held, others):
        self.tree, self.layout, self.others = tree, layout, others
        #: What is copied from; it stays until the batch is staged.
        self.held = held

    def make(self, arrays):
        """A batch like it, with these arrays."""
        return self.tree.make(arrays, self.others)


class Packer:
    """Takes batches apart. The last one's tree and layout are the next one's, if they can be."""

    def __init__(self, to_torch):
        self.to_torch = to_torch
        self._tree = self._layout = None

    def pack(self, batch):
        """``batch``, taken apart, and its layout's table filled."""
        if self._tree is not None:
            try:
                return self._pack(batch)
            except Differs:
                pass
        self._tree, self._layout = Tree(batch, self.to_torch), None
        return self._pack(batch)

    def _pack(self, batch):
        arrays, others = self._tree.read(batch)
        layout = self._layout
        if layout is None or not layout.fits(arrays):
            if any(array_of(array, self.to_torch) is not array for array in arrays):
                raise Differs
            self._layout = layout = Layout(arrays, self.to_torch)
        return Packed(self._tree, layout, layout.place(arrays), others)
