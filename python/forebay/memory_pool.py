"""Arrays and blocks from a pool.

    pool = MemoryPool(pool_size=512 << 20, device="cpu")
    tensor = pool.allocate((1024, 1024), np.float32)
    pool.free(tensor)                # or drop it

On the host arrays are numpy's (PyTorch's where the dtype is), on a GPU PyTorch's tensors. They are
made over memory of the pool: what was freed is given out again without a call of the system.
"""

import contextlib
import ctypes
import math
from typing import Any

import numpy

from ._abi import (
    ERROR_INVALID_ARGUMENT,
    ERROR_OUT_OF_MEMORY,
    POOL_GUARD_BYTES,
    POOL_POISON_ON_FREE,
    DefragReport,
)
from ._dtype import SIZE_MAX, dtype_of, is_torch, shape_of
from ._library import ForebayError, check, library
from ._observe import observers, tell
from .block import Block, MemoryBlock, Source, block_type
from .memory_stats import MemoryStats
from .pool import POLICIES, Pool

__all__ = ["CPUMemoryPool", "GPUMemoryPool", "MemoryPool", "OutOfMemory"]

MIB = 1 << 20

_ndarray = numpy.ndarray


class OutOfMemory(ForebayError, MemoryError):
    """A strict pool has no memory for an allocation. ``holders`` are its biggest live blocks, up to
    five, each ``{"address", "requested_bytes"}``, largest first."""

    def __init__(self, message, holders=()):
        super().__init__(message, ERROR_OUT_OF_MEMORY, "FOREBAY_ERROR_OUT_OF_MEMORY")
        self.holders = list(holders)


class _Closed:
    """What a closed pool has in place of its source."""

    def __getattr__(self, _):
        raise ForebayError("the pool is closed")


_CLOSED = _Closed()


class MemoryPool:
    """A pool that gives out arrays.

    ``pool_size`` is the most bytes that it reserves (None: what the device has). ``block_size`` is
    the unit that ``get_usage()`` counts in; sizes are not rounded up to it: that is what
    ``round_to`` is for, a power of two. ``device`` is ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or
    ``"pinned"``; where there is no such GPU it becomes ``"cpu"`` with one warning, or with
    ``strict_device`` a ``ForebayError``. With ``defragment`` a ``trim()`` or ``clear()`` also moves
    what stays idle together; a pool that would run out of memory does so in any case.

    ``policy`` is a name of ``MemoryPolicy``. ``initial_bytes`` are reserved at the start.
    ``strict`` raises ``OutOfMemory`` where otherwise None is returned and ``last_error`` says why.
    ``debug`` overwrites what is freed, guards what is behind a block, and raises for what is no
    live tensor of the pool.

    All methods may be called from any thread. The pool ends with its last tensor, or with
    ``close()`` when all are gone.
    """

    #: Why the last allocation failed; None if none did.
    last_error: str | None = None

    def __init__(
        self,
        pool_size: int | None = 512 * MIB,
        block_size: int = 4 * MIB,
        device: Any = "cuda",
        defragment: bool = True,
        *,
        policy: str = "balanced",
        initial_bytes: int = 0,
        round_to: int = 0,
        strict: bool = False,
        strict_device: bool = False,
        debug: bool = False,
        name: str | None = None,
    ):
        for argument, value in (("pool_size", pool_size), ("block_size", block_size)):
            if value is None and argument == "pool_size":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{argument} is {value!r}; it must be 1 or more bytes")
        self.block_size, self.auto_defragment = block_size, defragment
        self.strict, self.debug = strict, debug
        flags = POOL_POISON_ON_FREE | POOL_GUARD_BYTES if debug else 0

        def make(device):
            return Pool(
                device,
                max_bytes=pool_size,
                initial_bytes=initial_bytes,
                block_size=round_to,
                policy=getattr(policy, "value", policy),
                flags=flags,
                name=name,
            )

        if str(device).partition(":")[0] == "cuda":
            from ._device import open_pool

            pool = open_pool(make, device, strict_device)
        else:
            pool = make(device)
        self.device = pool.device
        self._source = Source(pool)
        # What the library is not asked: frees of what is no block, sizes beyond all limits.
        self._invalid = self._impossible = 0
        # What is asked for again and again; of a GPU nothing is in here.
        self._specs = {}

    @property
    def pool(self) -> Pool:
        """The ``forebay.Pool`` beneath, with its trace, report and snapshot."""
        return self._source.pool

    def allocate(self, shape, dtype="float32"):
        """An array of ``shape`` and ``dtype``, with any bytes in it (zeros with
        ``"quality_first"``); or for a whole number a ``MemoryBlock`` of so many bytes.

        ``dtype`` is numpy's class, name or dtype, or PyTorch's, and then a tensor of PyTorch is
        returned on the host too. The array is the caller's until ``free``, or until nothing refers
        to it or a view of it. None when there is no memory, or with ``strict`` ``OutOfMemory``.

        Raises ``ValueError`` and ``TypeError`` for what is no shape or dtype.
        """
        source = self._source
        try:
            spec = self._specs[shape, dtype]
        except (KeyError, TypeError):
            if source.pool.is_cuda:
                return self._allocate_on_device(shape, dtype)
            spec = self._spec(shape, dtype)
            if spec is None:
                return None
        from_address, size, shape, dtype, wrap = spec
        try:
            cell = source.cells.pop()
        except IndexError:
            cell = source.new_cell()
        status = source.alloc(source.handle, size, None, cell[1])
        if status:
            source.cells.append(cell)
            return self._failed(status)
        address = cell[0].value
        source.cells.append(cell)
        block = from_address(address)
        block.source = source
        if observers:
            tell(source.pool, address, size.value)
        if wrap is None:
            return _ndarray(shape, dtype, block)
        return wrap(block, shape, dtype)

    def free(self, tensor) -> bool:
        """Gives the memory of ``tensor`` back; it must not be used any more, nor its views. A
        ``MemoryBlock``, or a view of a tensor, will do. On a GPU work that is queued on the current
        stream may still use it.

        False for what is not a live tensor of this pool, which is counted as ``invalid_frees``;
        with ``debug`` a ``ForebayError``.
        """
        source = self._source
        try:
            block = tensor.base
            if block.source is not source:
                return self._not_mine(tensor)
            # Of two threads that free a tensor one gets past this.
            del block.source
        except AttributeError:
            return self._free_found(source, tensor)
        block.source = None
        if observers:
            tell(source.pool, ctypes.addressof(block), -ctypes.sizeof(block))
        status = source.free(source.handle, block, None)
        if status:
            check(status)
        return True

    def _free_found(self, source, tensor):
        """``free`` for all but arrays of numpy that lie on their block."""
        block = _block_of(tensor)
        try:
            if block is None or block.source is not source:
                return self._not_mine(tensor)
            del block.source
        except AttributeError:
            return self._not_mine(tensor)
        block.source = None
        if isinstance(block, Block):
            if observers:
                tell(source.pool, ctypes.addressof(block), -ctypes.sizeof(block))
            status = source.free(source.handle, block, None)
        else:
            from . import _device

            stream = _device.current_stream(source.pool.index)
            status = _device.give_back(source, block, stream)
        if isinstance(tensor, MemoryBlock):
            tensor._ended()
        if status:
            check(status)
        return True

    def _spec(self, shape, dtype):
        """How ``shape`` and ``dtype`` are allocated on the host; None if they are more than any
        pool has. Up to four thousand are kept."""
        if isinstance(shape, int) and not isinstance(shape, bool):
            size, wrap, found, lengths = shape, self._memory_block, None, None
            if size < 1:
                raise ValueError(f"size is {size}; it must be 1 or more bytes")
        else:
            lengths, found = shape_of(shape), dtype_of(dtype)
            size = math.prod(lengths) * found.itemsize
            wrap = _torch_view if is_torch(found) else None
        if size > SIZE_MAX:
            return self._too_large(size)
        # An array without elements has an address too.
        size = max(size, 1)
        spec = block_type(size).from_address, ctypes.c_size_t(size), lengths, found, wrap
        if len(self._specs) >= 4096:
            self._specs.clear()
        with contextlib.suppress(TypeError):
            # Lists are shapes, and no keys.
            self._specs[shape, dtype] = spec
        return spec

    @staticmethod
    def _memory_block(block, _shape, _dtype):
        return MemoryBlock._of(block, ctypes.addressof(block), ctypes.sizeof(block), _host_view)

    def _allocate_on_device(self, shape, dtype):
        from . import _device

        whole = isinstance(shape, int) and not isinstance(shape, bool)
        index = self.pool.index
        size = shape if whole else math.prod(shape_of(shape)) * _device.item_size(dtype)
        if whole and size < 1:
            raise ValueError(f"size is {size}; it must be 1 or more bytes")
        if size > SIZE_MAX:
            return self._too_large(size)
        block, status = _device.take(self._source, index, max(size, 1))
        if status:
            return self._failed(status)

        def make(block, shape, dtype):
            return _device.view(block, index, shape, dtype)

        return (
            MemoryBlock._of(block, block.address, size, make)
            if whole
            else make(block, shape, dtype)
        )

    def _failed(self, status):
        message = library().forebay_last_error().decode(errors="replace")
        if status not in (ERROR_OUT_OF_MEMORY, ERROR_INVALID_ARGUMENT):
            raise ForebayError(message, status, library().forebay_status_name(status).decode())
        return self._refused(message)

    def _too_large(self, size):
        self._impossible += 1
        return self._refused(f"size is {size}; the limit is {SIZE_MAX}")

    def _refused(self, message):
        self.last_error = message
        if self.strict:
            raise OutOfMemory(message, self.pool.report()["largest_live_blocks"][:5])

    def _not_mine(self, tensor):
        self._invalid += 1
        if self.debug:
            raise ForebayError(
                f"tensor, {type(tensor).__name__}, is no live one of this pool: it is another's, or "
                "was freed before"
            )
        return False

    def owns(self, tensor) -> bool:
        """Whether ``tensor``, or what it is a view of, is live and of this pool."""
        return getattr(_block_of(tensor), "source", None) is self._source

    def allocate_like(self, tensor):
        """An array with the shape and dtype of ``tensor``; its values are not copied."""
        return self.allocate(tuple(tensor.shape), tensor.dtype)

    @contextlib.contextmanager
    def allocate_temp(self, shape, dtype="float32"):
        """An array for the ``with`` block, freed behind it."""
        tensor = self.allocate(shape, dtype)
        try:
            yield tensor
        finally:
            if tensor is not None:
                self.free(tensor)

    def record_stream(self, tensor, stream: int) -> None:
        """Says that work on ``stream``, a ``CUstream`` as a number, uses ``tensor``: when it is
        freed, its memory is not given out again before what is queued there by then is done."""
        if not self.owns(tensor):
            raise ForebayError("tensor is no live tensor of this pool")
        block = _block_of(tensor)
        address = getattr(block, "address", None) or ctypes.addressof(block)
        check(library().forebay_record_stream(self._source.handle, address, stream))

    def trim(self, keep_bytes: int = 0) -> int:
        """Gives idle memory back to the device until at most ``keep_bytes`` are reserved; returns
        the bytes."""
        released = self.pool.trim(keep_bytes)
        if self.auto_defragment:
            self.defragment()
        return released

    def clear(self) -> int:
        """Gives all idle memory back to the device; returns the bytes. Live tensors stay."""
        return self.trim(0)

    def defragment(self) -> int:
        """Moves idle memory together. Live tensors stay where they are. Returns by how many bytes
        the largest free run grew."""
        report = DefragReport(struct_size=ctypes.sizeof(DefragReport))
        check(library().forebay_pool_defragment(self._source.handle, ctypes.byref(report)))
        return report.bytes_gained

    def set_policy(self, policy: Any) -> None:
        """Changes the policy: a name, or a ``MemoryPolicy``. Live tensors stay as they are."""
        name = getattr(policy, "value", policy)
        if name not in POLICIES:
            raise ValueError(
                f"policy is {name!r}; it must be one of {', '.join(map(repr, POLICIES))}"
            )
        check(library().forebay_pool_set_policy(self._source.handle, POLICIES[name]))

    def get_stats(self) -> MemoryStats:
        """The counters; see ``MemoryStats`` for their names."""
        source = self._source
        counted = source.pool.statistics()
        counted["invalid_frees"] += self._invalid
        counted["failed"] += self._impossible
        counted["finalized_frees"] = source.dropped
        return MemoryStats(counted, source.pool.report)

    @property
    def stats(self) -> MemoryStats:
        """``get_stats()``."""
        return self.get_stats()

    @property
    def cached_bytes(self) -> int:
        """Bytes that are reserved and not given out."""
        return self.get_stats()["bytes_cached"]

    def get_usage(self) -> dict:
        """``current_usage`` (bytes of live tensors, as asked for), ``max_size`` (bytes),
        ``usage_percentage`` (0 to 100), and of ``block_size``: ``total_blocks`` that the pool may
        reserve, and ``available_blocks`` that live tensors leave of them."""
        counted = self._source.pool.statistics()
        limit, used = counted["limit_bytes"], counted["requested_bytes"]
        return {
            "current_usage": used,
            "max_size": limit,
            "available_blocks": max(limit - counted["allocated_bytes"], 0) // self.block_size,
            "total_blocks": limit // self.block_size,
            "usage_percentage": 100.0 * used / limit if limit else 0.0,
            "requested_bytes": used,
            "allocated_bytes": counted["allocated_bytes"],
            "reserved_bytes": counted["reserved_bytes"],
        }

    def close(self) -> None:
        """Ends the pool, or has its last tensor end it: those that live stay as they are."""
        self._source = _CLOSED
        self._specs = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        state = ", closed" if self._source is _CLOSED else ""
        return f"<forebay.{type(self).__name__} on {self.device}{state}>"


class CPUMemoryPool(MemoryPool):
    """A ``MemoryPool`` on system memory, of at most ``max_size`` bytes."""

    def __init__(self, max_size: int | None = 512 * MIB, block_size: int = MIB, **options):
        super().__init__(max_size, block_size, "cpu", **options)


class GPUMemoryPool(MemoryPool):
    """A ``MemoryPool`` on a GPU, of at most ``max_size`` bytes; on system memory, with one warning,
    where there is none."""

    def __init__(
        self,
        max_size: int | None = 1024 * MIB,
        block_size: int = MIB,
        device: Any = "cuda",
        **options,
    ):
        super().__init__(max_size, block_size, device, **options)


def _host_view(block, shape, dtype):
    """An array over the first bytes of ``block``."""
    dtype = dtype_of(dtype)
    if is_torch(dtype):
        return _torch_view(block, shape_of(shape), dtype)
    lengths = (shape,) if isinstance(shape, int) else shape_of(shape)
    if math.prod(lengths) * dtype.itemsize > ctypes.sizeof(block):
        raise ValueError(
            f"shape {lengths} of {dtype} has more bytes than the block's {ctypes.sizeof(block)}"
        )
    return _ndarray(lengths, dtype, block)


def _torch_view(block, shape, dtype):
    """A tensor of PyTorch on the host over the first bytes of ``block``."""
    import torch

    size = math.prod(shape) * dtype.itemsize
    if size == 0:
        made = torch.empty(shape, dtype=dtype)
    else:
        made = torch.from_numpy(_ndarray((size,), "uint8", block)).view(dtype).view(shape)
    made.forebay_block = block
    return made


def _block_of(tensor):
    """The block that ``tensor``, a view of an array, a ``MemoryBlock`` or a tensor of PyTorch, lies
    in; None if there is none."""
    if isinstance(tensor, MemoryBlock):
        return tensor._block
    found = getattr(tensor, "forebay_block", None)
    if found is not None:
        return found
    while tensor is not None and not isinstance(tensor, Block):
        tensor = getattr(tensor, "base", None)
    return tensor
