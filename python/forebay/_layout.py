"""Where in a slot the leaves of a batch are, and what is submitted so that they come there."""

import ctypes
import math

from ._arrays import is_tensor, torch_dtype
from ._abi import PREFETCH_LEAF_PINNED, PrefetchLeaf
from ._tree import Differs

#: A leaf begins at a multiple of this in a slot, in bytes.
_ALIGNMENT = 256

#: What has fewer bytes goes to the device as quickly staged, in one copy for all, as by itself.
_WORTH_A_COPY = 64 << 10

#: But for tensors, as long as they are no more than this: then nothing need be staged at all.
_FEW = 8

#: Bytes below which arrays of numpy that are side by side are put together before they are submitted.
_SMALL = 4096

_WORDS = ctypes.sizeof(PrefetchLeaf) // 8


class Leaf:
    """What a leaf is, and where in a slot it is."""

    __slots__ = ("at", "size", "dtype", "shape", "given", "is_torch", "strides", "first")

    def __init__(self, array, at, to_torch):
        #: As it was given.
        self.given, self.shape = array.dtype, tuple(array.shape)
        self.is_torch = is_tensor(array)
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
# Of one that ``asks`` it may be pinned memory, which a device reads where it is.


class _ArraySource:
    """An array of numpy."""

    __slots__ = ("index", "size", "asks")

    def __init__(self, index, leaf, asks):
        self.index, self.size, self.asks = index, leaf.size, asks

    def place(self, arrays):
        import numpy

        array = numpy.asarray(arrays[self.index], order="C")
        return array.ctypes.data, array

    @staticmethod
    def is_pinned(array):
        import torch

        # PyTorch warns of what it may not write to.
        return array.flags.writeable and torch.from_numpy(array).is_pinned()


class _TensorSource:
    """A tensor."""

    __slots__ = ("index", "size", "is_complex", "strided", "asks")

    def __init__(self, index, leaf, asks):
        import torch

        self.index, self.size, self.strided = index, leaf.size, torch.strided
        self.asks = asks
        self.is_complex = leaf.given.is_complex

    def place(self, arrays):
        tensor = arrays[self.index]
        if not tensor.is_cpu or tensor.layout is not self.strided:
            raise Differs
        is_lazy = tensor.is_neg() or (self.is_complex and tensor.is_conj())
        if is_lazy or not tensor.is_contiguous():
            tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
        return tensor.data_ptr(), tensor

    @staticmethod
    def is_pinned(tensor):
        return tensor.is_pinned()


class _SmallArrays:
    """Small arrays of numpy, side by side in the slot. They are put together here, for the interpreter
    takes some forty times as long to find out where an array is as to copy one."""

    __slots__ = ("first", "end", "size", "between")
    asks = False

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


def _sources(leaves, tensors, on_gpu):
    """What the bytes of ``leaves`` are submitted as; ``tensors`` says which are tensors."""
    few = sum(tensors) <= _FEW
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
            leaf, kind = leaves[at], _TensorSource if tensors[at] else _ArraySource
            is_worth_it = leaf.size >= _WORTH_A_COPY or (few and tensors[at] and leaf.size > 0)
            sources.append(kind(at, leaf, on_gpu and is_worth_it))
            at += 1
    return sources


class Layout:
    """Where in a slot the leaves of a batch are."""

    def __init__(self, arrays, to_torch):
        self.leaves, at = [], 0
        for array in arrays:
            at = -(-at // _ALIGNMENT) * _ALIGNMENT
            leaf = Leaf(array, at, to_torch)
            self.leaves.append(leaf)
            at += leaf.size
        tensors = [is_tensor(array) for array in arrays]
        self._sources = _sources(self.leaves, tensors, to_torch)
        #: Those that may be pinned, with their rows.
        self._asking = [at for at, source in enumerate(self._sources) if source.asks]
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
        """Writes down where ``arrays`` are; returns what has to stay until they are staged, and
        until they are on the device."""
        places = [source.place(arrays) for source in self._sources]
        # The address is a row's first word.
        self._words[::_WORDS] = [address for address, _ in places]
        straight = []
        for at in self._asking:
            held = places[at][1]
            is_pinned = self._sources[at].is_pinned(held)
            self.table[at].flags = PREFETCH_LEAF_PINNED if is_pinned else 0
            if is_pinned:
                straight.append(held)
        return [held for _, held in places], straight
