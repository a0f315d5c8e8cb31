"""What a batch is made of: containers in containers, leaves, and what is neither.

A leaf is an array of numpy or a tensor of PyTorch on the CPU, or what speaks DLPack there. What is
none, and no container of any, stays in its place as it is. It is learnt once, as a tree of nodes; of
the batches after it one walk sees whether they are made like that.
"""

import copy
import dataclasses
from collections import UserDict
from collections.abc import Mapping

from ._arrays import array_of, looks_like_an_array

#: Types of values that are no leaves, and never looked into.
_PLAIN = frozenset((str, bytes, bytearray, int, float, complex, bool, type(None)))


class Differs(Exception):
    """A batch is not made like the one before it."""

    def __init__(self):
        super().__init__("the batch changed while it was read")


# Nodes: ``read`` puts the arrays of a value into one list, and what else has to be known of it into
# another, and ``make`` makes a value like it of others, taking from both in that order.


class _Passed:
    """A value that is passed on."""

    __slots__ = ()

    def make(self, arrays, others):
        return next(others)


class _Plain(_Passed):
    """One of a type that is plain."""

    __slots__ = ()

    def read(self, value, arrays, others):
        if type(value) not in _PLAIN:
            raise Differs
        others.append(value)


class _Other(_Passed):
    """One of whose type nothing is known, or that cannot be packed."""

    __slots__ = ("kind", "to_torch")

    def __init__(self, kind, to_torch):
        self.kind, self.to_torch = kind, to_torch

    def read(self, value, arrays, others):
        if type(value) is not self.kind:
            raise Differs
        if looks_like_an_array(value) and array_of(value, self.to_torch) is not None:
            raise Differs
        others.append(value)


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


class _Convertible(_Array):
    """A leaf that becomes an array: of a class of its own, a scalar, or by DLPack."""

    __slots__ = ("to_torch",)

    def __init__(self, kind, to_torch):
        super().__init__(kind)
        self.to_torch = to_torch

    def read(self, value, arrays, others):
        if type(value) is not self.kind:
            raise Differs
        array = array_of(value, self.to_torch)
        if array is None:
            raise Differs
        arrays.append(array)


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
        if looks_like_an_array(value):
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
