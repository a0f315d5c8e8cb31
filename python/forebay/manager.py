"""Tensors where there is room for them, on a GPU or in system memory, by one policy.

    manager = MemoryManager(policy=MemoryPolicy.BALANCED)
    tensor = manager.allocate_tensor((1024, 1024), np.float32)
    manager.free_tensor(tensor)
"""

import enum
import threading
import warnings
from typing import Any

from . import _device
from .memory_pool import MIB, MemoryPool
from .monitor import SystemMemoryMonitor

__all__ = ["MemoryManager", "MemoryPolicy"]


class MemoryPolicy(enum.Enum):
    """How pools weigh speed against memory."""

    #: Least memory: sixteen size classes per doubling, and a free gives its pages back.
    CONSERVATIVE = "conservative"
    #: Eight classes; keeps up to half of its limit idle, for ten seconds.
    BALANCED = "balanced"
    #: One class per doubling, and all that was freed is kept: for what repeats.
    AGGRESSIVE_REUSE = "aggressive_reuse"
    #: Every tensor is zeroed, large ones begin at a multiple of 2 MiB, and none that was wanted on
    #: a GPU is in system memory without a warning.
    QUALITY_FIRST = "quality_first"
    #: Memory is mapped and touched at the start, and none is given back: no system call afterwards.
    LATENCY_FIRST = "latency_first"


#: What is fixed of each policy: size classes per doubling, the share of the limit that may be idle,
#: what is ready at the start, when idle memory goes back, what blocks hold.
_EFFECTS = {
    MemoryPolicy.CONSERVATIVE: (16, 0.0, "nothing", "with each free", "anything"),
    MemoryPolicy.BALANCED: (
        8,
        0.5,
        "nothing",
        "after ten seconds, or when memory is short",
        "anything",
    ),
    MemoryPolicy.AGGRESSIVE_REUSE: (1, 1.0, "nothing", "with cleanup()", "anything"),
    MemoryPolicy.QUALITY_FIRST: (8, 0.75, "nothing", "when memory is short", "zeros"),
    MemoryPolicy.LATENCY_FIRST: (4, 1.0, "warm_bytes", "with cleanup()", "anything"),
}

_NO_POOL = {
    "current_usage": 0,
    "max_size": 0,
    "available_blocks": 0,
    "total_blocks": 0,
    "usage_percentage": 0.0,
    "requested_bytes": 0,
    "allocated_bytes": 0,
    "reserved_bytes": 0,
}


def _policy(policy):
    try:
        return MemoryPolicy(policy)
    except ValueError:
        names = ", ".join(f"MemoryPolicy.{one.name}" for one in MemoryPolicy)
        raise ValueError(f"policy is {policy!r}; it must be one of {names}, or its value") from None


class MemoryManager:
    """A pool on system memory and one on a GPU, each made when it is first needed, under one
    policy.

    ``policy`` is a ``MemoryPolicy`` or its value. ``max_cpu_bytes`` and ``max_gpu_bytes`` bound the
    pools (None: what the device has); ``warm_bytes`` are mapped at the start with
    ``LATENCY_FIRST``. ``device`` is the GPU. ``strict`` raises ``OutOfMemory`` where otherwise None
    is returned.

    All methods may be called from any thread.
    """

    #: Why the last allocation failed; None if none did.
    last_error: str | None = None

    def __init__(
        self,
        policy: MemoryPolicy | str = MemoryPolicy.BALANCED,
        *,
        max_cpu_bytes: int | None = None,
        max_gpu_bytes: int | None = None,
        warm_bytes: int = 64 * MIB,
        device: Any = "cuda",
        strict: bool = False,
    ):
        self._policy = _policy(policy)
        self._limits = {"cpu": max_cpu_bytes, "gpu": max_gpu_bytes}
        self.warm_bytes, self.device, self.strict = warm_bytes, device, strict
        self._pools = {}
        #: Those that are there: replaced, never changed, so that it can be read without the lock.
        self._made = ()
        self._lock = threading.Lock()
        self._fallbacks = self._own_allocations = 0

    @property
    def policy(self) -> MemoryPolicy:
        """The policy that is followed."""
        return self._policy

    def _pool(self, place):
        """The pool on ``"cpu"`` or ``"gpu"``; None for a GPU that is not there."""
        try:
            return self._pools[place]
        except KeyError:
            pass
        with self._lock:
            if place not in self._pools:
                device = "cpu" if place == "cpu" else _device.usable(self.device)
                made = None
                if (place == "cpu") == (device == "cpu"):
                    made = MemoryPool(
                        self._limits[place],
                        MIB,
                        device,
                        policy=self._policy,
                        initial_bytes=self._ready_bytes(self._limits[place]),
                        # On the GPU there is another place to try.
                        strict=self.strict and place == "cpu",
                        strict_device=True,
                    )
                    self._made += (made,)
                self._pools[place] = made
            return self._pools[place]

    def _ready_bytes(self, limit):
        """Bytes that are mapped and touched before anybody waits for them."""
        if self._policy is not MemoryPolicy.LATENCY_FIRST:
            return 0
        return self.warm_bytes if limit is None else min(self.warm_bytes, limit // 2)

    def _warm(self, pool):
        """What the library does with the first bytes of a pool, for one that is there."""
        size = self._ready_bytes(pool.get_usage()["max_size"])
        block = pool.allocate(size) if size else None
        if block is not None:
            if pool.device == "cpu":
                block.data[::4096] = 0
            pool.free(block)
            self._own_allocations += 1

    def allocate_tensor(self, shape, dtype="float32", prefer_gpu: bool = True):
        """A tensor of ``shape`` and ``dtype``: on the GPU if ``prefer_gpu`` says so, there is one,
        and it has room (PyTorch's), else in system memory (numpy's), with the same dtype. None when
        there is no memory: ``last_error`` says why.

        Tensors that are in system memory although a GPU was there are counted as ``fallbacks``;
        with ``QUALITY_FIRST`` each comes with a warning.
        """
        tensor = None
        if prefer_gpu:
            pool = self._pool("gpu")
            if pool is not None:
                tensor = pool.allocate(shape, dtype)
                if tensor is None:
                    self._fell_back(pool)
        if tensor is None:
            pool = self._pool("cpu")
            tensor = pool.allocate(shape, dtype)
        if tensor is None:
            self.last_error = pool.last_error
        return tensor

    def _fell_back(self, pool):
        self._fallbacks += 1
        if self._policy is MemoryPolicy.QUALITY_FIRST:
            warnings.warn(
                f"a tensor that was wanted on {pool.device} is in system memory: {pool.last_error}",
                RuntimeWarning,
                stacklevel=3,
            )

    def free_tensor(self, tensor) -> bool:
        """Gives a tensor's memory back. False for what is not a live tensor of this manager, which
        is counted."""
        for pool in self._made:
            if pool.owns(tensor):
                return pool.free(tensor)
        # Counted by the pool that it would have been.
        return self._pool("cpu").free(tensor)

    def set_policy(self, policy: MemoryPolicy | str) -> None:
        """Changes the policy, of what is there too. Live tensors stay as they are; their size
        classes are used until they are freed."""
        self._policy = _policy(policy)
        for pool in self._made:
            pool.set_policy(self._policy)
            self._warm(pool)

    def monitor_and_adapt(self, latency_ms: float | None = None) -> MemoryPolicy:
        """Chooses the policy by what is measured, and returns it: ``CONSERVATIVE`` when the
        machine, or the control group, is critically short of memory; ``AGGRESSIVE_REUSE`` when a
        pool has nine tenths of its limit given out; ``LATENCY_FIRST`` when ``latency_ms``, what the
        caller measured, is above 16, a frame; ``BALANCED`` otherwise."""
        usage = [pool.get_usage()["usage_percentage"] for pool in self._made]
        if SystemMemoryMonitor().get_memory_info()["level"] == "critical":
            chosen = MemoryPolicy.CONSERVATIVE
        elif max(usage, default=0.0) > 90.0:
            chosen = MemoryPolicy.AGGRESSIVE_REUSE
        elif latency_ms is not None and latency_ms > 16.0:
            chosen = MemoryPolicy.LATENCY_FIRST
        else:
            chosen = MemoryPolicy.BALANCED
        if chosen is not self._policy:
            self.set_policy(chosen)
        return chosen

    def get_statistics(self) -> dict:
        """What the manager knows, as a dictionary:

        ``policy`` (its value); ``system_memory`` (``SystemMemoryMonitor.get_memory_info()``);
        ``cpu_pool`` and ``gpu_pool`` (``MemoryPool.get_usage()``; zeros where there is none);
        ``cache_stats`` (``hits``: allocations from memory that was freed or warm, ``misses``,
        ``cache_efficiency``: the share of hits, 0 to 1, ``evictions``: how often idle memory was
        given back, ``total_cached_bytes``: what is idle); ``allocations_count`` (since the start),
        ``live_allocations``; ``policy_effects`` (what the policy fixes, and
        ``reserved_per_requested`` at the peaks, ``hit_rate``, ``system_calls``, ``idle_bytes`` and
        ``fallbacks``, which are measured).
        """
        with self._lock:
            pools = dict(self._pools)
        made = {place: pool for place, pool in pools.items() if pool is not None}
        counted = [pool.get_stats() for pool in made.values()]

        def total(name):
            return sum(one[name] for one in counted)

        hits, misses, idle = total("cache_hits"), total("cache_misses"), total("bytes_cached")
        efficiency = hits / (hits + misses) if hits + misses else 0.0
        classes, share, warm, gives_back, contents = _EFFECTS[self._policy]
        limit = total("limit_bytes")
        usage = {place: pool.get_usage() for place, pool in made.items()}
        return {
            "policy": self._policy.value,
            "system_memory": SystemMemoryMonitor().get_memory_info(),
            "cpu_pool": usage.get("cpu", dict(_NO_POOL)),
            "gpu_pool": usage.get("gpu", dict(_NO_POOL)),
            "cache_stats": {
                "hits": hits,
                "misses": misses,
                "evictions": total("trims"),
                "total_cached_bytes": idle,
                "cache_efficiency": efficiency,
            },
            "allocations_count": total("allocations_count") - self._own_allocations,
            "live_allocations": total("live_allocations"),
            "policy_effects": {
                "policy": self._policy.value,
                "size_classes_per_doubling": classes,
                "idle_limit_bytes": int(share * limit),
                "warm_bytes": self.warm_bytes if warm == "warm_bytes" else 0,
                "gives_back": gives_back,
                "contents": contents,
                "reserved_per_requested": _ratio(total("reserved_peak"), total("requested_peak")),
                "hit_rate": efficiency,
                "system_calls": total("system_calls"),
                "idle_bytes": idle,
                "fallbacks": self._fallbacks,
            },
        }

    def cleanup(self) -> int:
        """Gives all idle memory back; returns the bytes. Live tensors stay as they are, and the
        manager goes on."""
        return sum(pool.trim(0) for pool in self._made)

    def close(self) -> None:
        """Ends the pools, each with its last tensor."""
        with self._lock:
            pools, self._made, self._pools = self._made, (), {}
        for pool in pools:
            pool.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        return f"<forebay.MemoryManager {self._policy.value}>"


def _ratio(over, under):
    return over / under if under else 0.0
