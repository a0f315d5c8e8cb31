"""forebay as PyTorch's CUDA allocator.

    import torch, forebay.torch
    forebay.torch.enable()                 # before the first CUDA tensor

and the script goes on as before: ``torch.cuda.memory_allocated()``, ``memory_summary()``, snapshots,
``torch.OutOfMemoryError``, graphs and ``record_stream`` work. See ``enable`` for the two modes and
what each of them loses.
"""

from ._enable import disable, enable, mem_pool, mode
from ._history import record_memory_history
from ._pool import pool_report, record, sleep, trim, wake
from ._snapshot import dump_snapshot, memory_snapshot
from ._stats import memory_stats

__all__ = [
    "disable",
    "dump_snapshot",
    "enable",
    "mem_pool",
    "memory_snapshot",
    "memory_stats",
    "mode",
    "pool_report",
    "record",
    "record_memory_history",
    "sleep",
    "trim",
    "wake",
]
