"""Pools of memory on one device."""

import contextlib
import ctypes
import os
import threading

from . import _abi, _peaks, _sites
from ._library import check, json_of, library, pool_statistics
from ._opened import Opened

__all__ = ["POLICIES", "Pool", "pools"]

#: The numbers of ``forebay_policy``.
POLICIES = {
    name: getattr(_abi, f"POLICY_{name.upper()}")
    for name in ("balanced", "conservative", "aggressive_reuse", "quality_first", "latency_first")
}

_KINDS = {
    "cpu": _abi.DEVICE_KIND_HOST,
    "cuda": _abi.DEVICE_KIND_CUDA,
    "pinned": _abi.DEVICE_KIND_PINNED,
}

_opened = Opened()


def device_of(device):
    """Kind and number of ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"pinned"`` or a ``torch.device``."""
    kind, colon, index = str(device).partition(":")
    if kind not in _KINDS or (colon and not (kind == "cuda" and index.isdecimal())):
        raise ValueError(f"device is {device!r}; it must be 'cpu', 'cuda', 'cuda:N' or 'pinned'")
    return kind, int(index or 0)


def pools():
    """The pools of this process that are open and were made from Python, ``forebay.torch``'s
    among them, oldest first."""
    return [pool for pool in _opened.all() if pool.handle is not None]


class Pool:
    """A pool: memory of one device, given out and taken back in stream order.

    ``device`` is ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"pinned"``; ``max_bytes`` the most bytes it
    reserves (None: what the device has; ``"pinned"`` needs a number and takes all of it at once);
    ``initial_bytes`` are reserved at the start; ``policy`` is one of ``POLICIES``; ``flags`` are
    ``forebay_pool_config``'s. ``name`` is for reports. ``part_of`` says what made the pool for
    itself: ``"cache"`` or ``"prefetch"``; None for pools that somebody asked for.

    Raises ``ForebayError`` with the library's message. All methods may be called from any thread.
    Nothing is reserved before the first use but for ``initial_bytes``.
    """

    #: ``forebay_pool *``; None once the pool is closed.
    handle = None
    part_of = None
    #: Whether a trace wants to know who asks.
    tells_sites = False

    def __init__(
        self,
        device="cpu",
        *,
        max_bytes=None,
        initial_bytes=0,
        block_size=0,
        policy="balanced",
        flags=0,
        name=None,
        part_of=None,
    ):
        kind, index = device_of(device)
        if policy not in POLICIES:
            raise ValueError(f"policy is {policy!r}; it must be one of {', '.join(map(repr, POLICIES))}")
        config = _abi.PoolConfig(struct_size=ctypes.sizeof(_abi.PoolConfig))
        config.device_kind, config.device_index = _KINDS[kind], index
        config.max_bytes, config.initial_bytes = max_bytes or 0, initial_bytes
        config.block_size, config.policy, config.flags = block_size, POLICIES[policy], flags
        handle = ctypes.c_void_p()
        check(library().forebay_pool_create(ctypes.byref(config), ctypes.byref(handle)))
        self.part_of = part_of
        self._own(handle, f"cuda:{index}" if kind == "cuda" else kind, name, owned=True)

    @classmethod
    def of_torch(cls, device=None):
        """The pool that ``forebay.torch`` serves ``device`` from; closing it does nothing."""
        from .torch._pool import device_index, pool_of

        index = device_index(device)
        for pool in pools():
            if not pool._owned and pool.index == index:
                return pool
        self = cls.__new__(cls)
        self._own(pool_of(index), f"cuda:{index}", f"torch cuda:{index}", owned=False)
        return self

    def _own(self, handle, device, name, owned):
        self.handle, self.device, self._owned = handle, device, owned
        #: Held while other threads than its user's look at the pool: it is not ended meanwhile.
        self.reading = threading.RLock()
        self.kind, self.index = device_of(device)
        # A child of fork has the memory, and must not end what is the parent's.
        self._process = os.getpid()
        self.number = _opened.number()
        self.name = name or f"{device} #{self.number}"
        _opened.add(self)

    @property
    def is_cuda(self):
        return self.kind == "cuda"

    def statistics(self):
        """The counters of ``forebay_pool_statistics`` by name: bytes as requested, allocated and
        reserved, each with its peak, and how often what happened."""
        with self.reading:
            handle = self.handle
            counted = pool_statistics(handle)
        found = {name: getattr(counted, name) for name, _ in counted._fields_[1:]}
        return _peaks.raised(found, _peaks.before(handle) or found)

    def report(self):
        """Everything the pool tells of itself, as the object that ``forebay_pool_stats_json`` in
        ``forebay.h`` describes. Walks over every block."""
        with self.reading:
            return json_of(library().forebay_pool_stats_json, self.handle)

    def snapshot(self):
        """Every stretch of memory and every block, as ``forebay_pool_snapshot_json`` describes."""
        with self.reading:
            return json_of(library().forebay_pool_snapshot_json, self.handle)

    def trim(self, keep_bytes=0):
        """Gives idle memory back until at most ``keep_bytes`` are reserved; returns the bytes."""
        check(library().forebay_pool_wait_for_frees(self.handle))
        released = ctypes.c_size_t()
        check(library().forebay_pool_trim(self.handle, keep_bytes, ctypes.byref(released)))
        return released.value

    @contextlib.contextmanager
    def trace(self, path, *, sites=True):
        """Writes every allocation and free to the file ``path`` while the block runs, for ``python
        -m forebay replay``, ``plan`` and ``report``. As gzip when the name ends in ".gz".

        With ``sites``, arrays and blocks have the lines that asked for them beside them, the three
        innermost that are not this package's, by which a report explains the peak. That takes a
        few microseconds each; without, the file is what RAPIDS RMM writes."""
        names = os.fsencode(path)
        if sites:
            check(library().forebay_trace_start_with_sites(self.handle, names))
        else:
            check(library().forebay_trace_start(self.handle, names))
        try:
            with _sites.told(self) if sites else contextlib.nullcontext():
                yield self
        finally:
            check(library().forebay_trace_stop(self.handle))

    def close(self):
        """Ends the pool. What was allocated from it must not be used any more."""
        handle, self.handle = self.handle, None
        if handle is not None and self._owned and self._process == os.getpid():
            with self.reading:
                library().forebay_pool_destroy(handle)
            _peaks.forget(handle)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        self.close()

    def __repr__(self):
        return f"<forebay.Pool {self.name!r} on {self.device}{'' if self.handle else ', closed'}>"


def _after_fork():
    """Threads that held a lock are not in the child to let it go."""
    for pool in _opened.all():
        pool.reading = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
