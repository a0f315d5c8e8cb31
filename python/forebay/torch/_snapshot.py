"""Snapshots, in the format of PyTorch's own: for ``memory_viz`` and whoever reads them."""

import functools
import os
import pickle

from .._library import json_of, library
from ..formats.torch_snapshot import event, segment, settings, unmapped
from ._history import HISTORY
from ._pool import pool_of, used_devices


@functools.lru_cache(65536)
def _frame(code, line):
    return {"name": code.co_qualname if hasattr(code, "co_qualname") else code.co_name,
            "filename": code.co_filename, "line": line}


def _frames(stack):
    return [_frame(code, line) for code, line in stack]


def _live_frames(address):
    return _frames(HISTORY.frames.get(address, ()))


def segments():
    """What ``torch.cuda.memory_snapshot()`` gives: a segment for each stretch of mapped addresses."""
    # The history says that what waits is free.
    waiting = "free" if HISTORY.enabled == "all" else "waiting"
    found = []
    for device in used_devices():
        memory = json_of(library().forebay_pool_snapshot_json, pool_of(device))
        found += [segment(device, one, _live_frames, waiting) for one in memory["stretches"]]
    return found


def _trace(entries, stretches):
    """A device's events, and those that say where addresses lost their pages since."""
    uses = (
        (number, entry.address, entry.size)
        for number, entry in enumerate(entries)
        if entry.action != "oom"
    )
    gone = unmapped(uses, stretches)
    events = []
    for number, entry in enumerate(entries):
        events.append(event(*entry[:5], _frames(entry.frames)))
        for address, size in gone.get(number, ()):
            events.append(event("segment_free", address, size, 0, entry.time_us, []))
    return events


def snapshot(include_traces=True):
    """What ``torch.cuda.memory._snapshot()`` gives."""
    import torch

    found = segments()
    traces = []
    for device in range(torch.cuda.device_count()):
        entries = list(HISTORY.entries.get(device, ())) if include_traces else []
        here = [(one["address"], one["total_size"]) for one in found if one["device"] == device]
        traces.append(_trace(entries, here))
    return {
        "segments": found,
        "device_traces": traces,
        "allocator_settings": settings(
            PYTORCH_CUDA_ALLOC_CONF=os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "")
        ),
        "external_annotations": [],
    }


def memory_snapshot():
    """The memory of forebay's pools, with PyTorch's keys: a list of segments with their blocks, in
    either mode. In mode ``"pool"`` its blocks are PyTorch's segments."""
    return segments()


def dump_snapshot(path):
    """Writes a snapshot to the file ``path``, for https://pytorch.org/memory_viz and
    ``torch/cuda/_memory_viz.py``: the memory now and, where ``record_memory_history()`` was called
    before, what happened since, with Python stacks. A pickle of protocol 4, which that page reads.

    In mode ``"pool"`` PyTorch's own snapshot is written.
    """
    from . import mode

    if mode() == "pool":
        import torch

        taken = torch.cuda.memory._snapshot()
    else:
        taken = snapshot()
    with open(path, "wb") as file:
        pickle.dump(taken, file, protocol=4)
