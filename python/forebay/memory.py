"""Everything for arrays in memory of pools, under one name.

    from forebay.memory import MemoryPool, TensorCache, Prefetcher

Each of these has a page in docs/python/; which.md there says which one is for what. Importing this
loads nothing but Python: each name brings its file with it when it is first asked for.
"""

import importlib

_WHERE = {
    "CPUMemoryPool": "memory_pool",
    "DoubleBuffer": "prefetch",
    "GPUMemoryPool": "memory_pool",
    "LifetimeAnalyzer": "lifetime",
    "MemoryBlock": "block",
    "MemoryManager": "manager",
    "MemoryPolicy": "manager",
    "MemoryPool": "memory_pool",
    "MemoryStats": "memory_stats",
    "OutOfMemory": "memory_pool",
    "Prefetcher": "prefetch",
    "ReusePlan": "reuse_plan",
    "ShapeMismatch": "prefetch",
    "SystemMemoryMonitor": "monitor",
    "TensorCache": "cache",
    "headspace": "prefetch",
}

__all__ = list(_WHERE)


def __getattr__(name):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{_WHERE[name]}", __package__), name)
    globals()[name] = found
    return found


def __dir__():
    return sorted(__all__)
