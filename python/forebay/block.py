"""Blocks of a pool as Python's objects: they go back with their last reference.

An array of a pool is a plain ``numpy.ndarray`` over a ``Block``. The array refers to the block, as
do its views, and the block to its pool; so memory is given back when nobody can see it any more,
and a pool ends behind its last block.
"""

import ctypes
import time
from typing import Any

from . import _sites
from ._library import library
from ._observe import observers, tell

__all__ = ["MemoryBlock"]


class Source:
    """Where blocks come from: a pool, and its two functions in the form that costs least to call.

    Without ``argtypes`` ctypes converts nothing; what is passed is of the right C type already: a
    handle, a size, a place for the address, the block itself.
    """

    __slots__ = ("__weakref__", "alloc", "cells", "dropped", "free", "handle", "number", "pool")

    def __init__(self, pool):
        self.pool, self.handle = pool, pool.handle
        # Not the library's own functions, which have types: others of the same name.
        self.alloc = ctypes.CDLL.__getitem__(library(), "forebay_alloc")
        _sites.add(self)
        self.free = ctypes.CDLL.__getitem__(library(), "forebay_free")
        #: Places for addresses that nobody uses. A call takes one and puts it back: a signal
        #: handler or a finalizer that allocates in the middle takes another.
        self.cells = []
        #: Blocks that went back with their last reference.
        self.dropped = 0

    def new_cell(self):
        """A place for an address, and its own address as an argument."""
        cell = ctypes.c_void_p()
        return cell, ctypes.byref(cell)


class Block:
    """Bytes of a pool that are given out. ``source`` is where they go back to; None when they
    did."""

    __slots__ = ()

    def __del__(self):
        try:
            source = self.source
        except AttributeError:
            # Somebody was interrupted between two lines.
            return
        if source is not None:
            if observers:
                tell(source.pool, ctypes.addressof(self), -ctypes.sizeof(self))
            source.free(source.handle, self, None)
            source.dropped += 1

    def __repr__(self):
        state = "" if self.source else ", given back"
        return f"<forebay block of {ctypes.sizeof(self)} bytes{state}>"


_types = {}


def block_type(size):
    """The type of blocks of ``size`` bytes. It has exactly these, for whoever asks for its
    buffer."""
    found = _types.get(size)
    if found is None:
        if len(_types) >= 4096:
            # Sizes that never come again; blocks keep their types.
            _types.clear()
        members = {
            "_type_": ctypes.c_char,
            "_length_": size,
            "__slots__": ("__weakref__", "source"),
        }
        found = _types[size] = type("Block", (Block, ctypes.Array), members)
    return found


class MemoryBlock:
    """A block of memory, as ``pool.allocate(size)`` gives it.

    ``pointer`` is the address of its first byte, ``size`` the bytes that were asked for and
    ``timestamp`` when, in seconds since 1970. ``data`` is all of it as a flat array of uint8 (on a
    GPU a tensor), made when it is first asked for; None once the block was freed. ``in_use`` says
    whether it is given out.

    One that is made by hand describes memory of somebody else: it owns nothing, and pools refuse
    it.
    """

    __slots__ = (
        "__weakref__",
        "_block",
        "_data",
        "_make",
        "in_use",
        "pointer",
        "size",
        "timestamp",
    )

    def __init__(
        self,
        pointer: int,
        size: int,
        timestamp: float | None = None,
        data: Any = None,
        in_use: bool = True,
    ):
        self.pointer, self.size = pointer, size
        self.timestamp = time.time() if timestamp is None else timestamp
        self.in_use, self._data = in_use, data
        self._block = self._make = None

    @classmethod
    def _of(cls, block, pointer, size, make):
        """The one over ``block``; ``make`` gives arrays over it."""
        self = cls(pointer, size)
        self._block, self._make = block, make
        return self

    @property
    def data(self):
        if self._data is None and self._make is not None:
            self._data = self._make(self._block, (self.size,), "uint8")
        return self._data

    @data.setter
    def data(self, data):
        self._data = data

    @property
    def capacity(self) -> int:
        """Bytes that there is room for: ``size``, rounded up as the pool does."""
        source = getattr(self._block, "source", None)
        if source is None:
            return self.size
        room = ctypes.c_size_t()
        status = library().forebay_usable_size(source.handle, self.pointer, ctypes.byref(room))
        return self.size if status else room.value

    def view(self, shape, dtype="float32"):
        """The first bytes as an array of ``shape`` and ``dtype``, which must fit; it keeps the
        block."""
        if self._make is not None:
            return self._make(self._block, shape, dtype)
        if self._data is None:
            raise ValueError("the block has no data: it was freed, or made without")
        import numpy

        from ._dtype import dtype_of, shape_of

        flat = numpy.asarray(self._data).reshape(-1)
        return numpy.ndarray(shape_of(shape), dtype_of(dtype), flat)

    def is_expired(self, max_age: float) -> bool:
        """Whether it was allocated more than ``max_age`` seconds ago."""
        return time.time() - self.timestamp > max_age

    def _ended(self):
        self.in_use, self._data, self._make = False, None, None

    def __repr__(self):
        state = "in use" if self.in_use else "free"
        return f"<forebay.MemoryBlock of {self.size} bytes at {self.pointer:#x}, {state}>"
