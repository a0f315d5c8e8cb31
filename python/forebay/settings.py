"""How much memory this process may take, and where: one of the workers of a machine, or the only
one.

    forebay.configure(pool_size="60%", max_pinned="8GiB", policy="balanced", device="local")

reserves nothing. ``pool()`` of what it returns opens the pool, ``prefetcher()`` makes prefetchers,
and ``enable_torch()`` puts forebay in the place of PyTorch's allocator, each within these bounds.
"""

import ctypes
import os
import threading

from . import sizes
from ._library import ForebayError
from ._units import size
from .pool import POLICIES, device_of

__all__ = ["Settings", "check_arguments", "configure", "current"]

#: A whole to see whether a size can be read.
_ANY = 1 << 40

_lock = threading.Lock()
_current = None


class Settings:
    """What ``configure`` found: ``device`` (``"cpu"`` or ``"cuda:N"``), ``pool_size`` and
    ``max_pinned`` (bytes, or None for no bound), ``policy``, ``local_rank`` (None where nobody
    said) and ``local_world_size``."""

    def __init__(self, device, pool_size, max_pinned, policy, local_rank, local_world_size):
        self.device, self.pool_size, self.max_pinned = device, pool_size, max_pinned
        self.policy, self.local_rank, self.local_world_size = policy, local_rank, local_world_size
        self._pool = None
        self._process = os.getpid()
        self._lock = threading.Lock()

    def pool(self):
        """The process's ``forebay.memory.MemoryPool`` within these bounds, opened the first time,
        and again after it was closed. Raises ``ForebayError`` when the device is not there."""
        from .memory_pool import MemoryPool

        with self._lock:
            # A child of fork opens its own.
            if self._process != os.getpid():
                self._pool, self._process = None, os.getpid()
            if self._pool is None or not _is_open(self._pool):
                self._pool = MemoryPool(
                    self.pool_size, device=self.device, policy=self.policy, strict_device=True,
                    name="worker",
                )
            return self._pool

    def prefetcher(self, lookahead=2, num_workers=2, **options):
        """A ``forebay.prefetch.Prefetcher`` for the device, which pins at most ``max_pinned``
        bytes; ``options`` are its own."""
        from .prefetch import Prefetcher

        options.setdefault("device", self.device)
        options.setdefault("max_pinned_bytes", self.max_pinned)
        return Prefetcher(lookahead, num_workers, **options)

    def enable_torch(self, mode=None):
        """``forebay.torch.enable`` with ``pool_size`` as the limit of each device, and the
        policy."""
        from . import torch

        torch.enable(mode, limit=self.pool_size, policy=self.policy)

    def to_dict(self):
        """All of them, as what JSON can hold."""
        return {
            "device": self.device,
            "pool_size": self.pool_size,
            "max_pinned": self.max_pinned,
            "policy": self.policy,
            "local_rank": self.local_rank,
            "local_world_size": self.local_world_size,
        }

    def close(self):
        """Closes the pool, if it is open; what was allocated from it stays as it is. Safe to call
        twice."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def __repr__(self):
        bound = "no bound" if self.pool_size is None else size(self.pool_size)
        return f"<forebay.Settings {self.device}, {bound}, {self.policy}>"


def configure(
    pool_size=None,
    max_pinned=None,
    policy=None,
    device=None,
    *,
    local_rank=None,
    local_world_size=None,
    host_bytes=None,
) -> Settings:
    """Settles what ``forebay.settings.current()`` says, and returns it. Reserves nothing.

    ``pool_size`` is the most that this process's pool reserves, and ``max_pinned`` the most system
    memory that each of its prefetchers pins, as ``forebay.sizes`` reads them: bytes, or a part of
    the whole; None is no bound. The whole of ``pool_size`` is the GPU's memory or, with
    ``device="cpu"``, this process's share of the machine: what is left to the process (in its
    container, not on the host) by the number of workers. That of ``max_pinned`` is always the
    share.

    ``policy`` is one of ``forebay.pool.POLICIES``. ``device`` is ``"cpu"``, ``"cuda:N"`` or
    ``"local"``: the GPU of this worker, which is the one with the number ``local_rank`` where the
    process sees several, else the first that it sees; ``"cpu"`` where there is none. ``local_rank``
    and ``local_world_size`` are read from ``LOCAL_RANK`` and ``LOCAL_WORLD_SIZE``, which torchrun
    sets. ``host_bytes`` is the share itself, for those who know it better.

    What is None is read from ``FOREBAY_POOL_SIZE``, ``FOREBAY_MAX_PINNED``, ``FOREBAY_POLICY`` and
    ``FOREBAY_DEVICE``; else it is no bound, ``"balanced"`` and ``"local"``.

    Raises ValueError or TypeError that names the argument, or the variable; the settings are then
    as they were. A pool that is open stays as it is, with who has it.
    """
    global _current
    policy, named = _given("policy", policy, "balanced")
    _check_policy(policy, named)
    local_rank = _number("local_rank", local_rank, None, 0)
    local_world_size = _number("local_world_size", local_world_size, 1, 1)
    if local_rank is not None and local_world_size <= local_rank and local_world_size != 1:
        raise ValueError(f"local_rank is {local_rank}, of {local_world_size} workers here")
    device, named = _given("device", device, "local")
    device = _local(local_rank) if device == "local" else _device(device, named)

    def share():
        return host_bytes if host_bytes is not None else _available() // local_world_size

    def whole():
        return _gpu_bytes(device_of(device)[1]) if device.startswith("cuda") else share()

    pool_size, named = _given("pool_size", pool_size, None)
    pool_size = sizes.parse(pool_size, whole, name=named, of=f"the memory of {device}")
    max_pinned, named = _given("max_pinned", max_pinned, None)
    max_pinned = sizes.parse(max_pinned, share, name=named, of="this process's share of memory")
    made = Settings(device, pool_size, max_pinned, policy, local_rank, local_world_size)
    with _lock:
        _current = made
    return made


def check_arguments(pool_size=None, max_pinned=None, policy=None, device=None):
    """Raises what ``configure`` would for how its arguments are written, on any machine: what they
    are parts of, and which devices there are, is not asked."""
    sizes.parse(pool_size, _ANY, name="pool_size")
    sizes.parse(max_pinned, _ANY, name="max_pinned")
    if policy is not None:
        _check_policy(policy, "policy")
    if device is not None and device != "local":
        _device(device, "device")


def current() -> Settings:
    """What was configured; what the environment says, if nothing was."""
    found = _current
    return found if found is not None else configure()


def _is_open(pool):
    try:
        return pool.pool.handle is not None
    except ForebayError:
        return False


def _given(name, value, default):
    """The value of an argument, of its variable, or the default; and the name for errors."""
    if value is not None:
        return value, name
    variable = f"FOREBAY_{name.upper()}"
    return os.environ.get(variable) or default, variable


def _check_policy(policy, named):
    if policy not in POLICIES:
        known = ", ".join(map(repr, POLICIES))
        raise ValueError(f"{named} is {policy!r}; it must be one of {known}")


def _number(name, value, default, least):
    if value is None:
        name = name.upper()
        value = os.environ.get(name) or None
        if value is None:
            return default
        value = int(value) if value.isdecimal() else value
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, {least} or more")
    return value


def _device(device, named):
    try:
        kind, index = device_of(device)
    except ValueError:
        kind = "pinned"
    if kind == "pinned":
        raise ValueError(f"{named} is {device!r}; it must be 'local', 'cpu', 'cuda' or 'cuda:N'")
    return f"cuda:{index}" if kind == "cuda" else kind


def _local(local_rank):
    """The device of this worker. CUDA counts those from 0 that ``CUDA_VISIBLE_DEVICES`` lets it
    see."""
    count = _gpu_count()
    if not count:
        return "cpu"
    # Launchers show each worker all devices, or its own.
    if local_rank is None or count == 1:
        return "cuda:0"
    if local_rank >= count:
        raise ValueError(
            f"local_rank is {local_rank}, and this process sees {count} GPUs: start fewer workers, "
            "or give each a device"
        )
    return f"cuda:{local_rank}"


def _driver():
    """The CUDA driver, initialised; None where there is none. Makes no context."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


def _gpu_count():
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return 0
    driver, count = _driver(), ctypes.c_int()
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _gpu_bytes(index):
    """The memory of a GPU; 0 if that is not known."""
    driver, device, size = _driver(), ctypes.c_int(), ctypes.c_size_t()
    if driver is None or driver.cuDeviceGet(ctypes.byref(device), index):
        return 0
    return 0 if driver.cuDeviceTotalMem_v2(ctypes.byref(size), device) else size.value


def _available():
    """Bytes that are left to this process."""
    from .monitor import SystemMemoryMonitor

    return SystemMemoryMonitor().get_available_memory()
