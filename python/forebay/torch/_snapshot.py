"""Snapshots, in the format of PyTorch's own: for ``memory_viz`` and whoever reads them."""

import functools
import os
import pickle

from .._library import json_of, library
from ._history import HISTORY
from ._pool import pool_of, used_devices

_STATES = {"live": "active_allocated", "waiting": "active_pending_free", "free": "inactive"}

_PAGE = 2 << 20


@functools.lru_cache(65536)
def _frame(code, line):
    return {"name": code.co_qualname if hasattr(code, "co_qualname") else code.co_name,
            "filename": code.co_filename, "line": line}


def _frames(stack):
    return [_frame(code, line) for code, line in stack]


def _segment(device, stretch):
    blocks = []
    for address, size, requested, state, _stream, _small in stretch["pieces"]:
        live = state == "live"
        if HISTORY.enabled == "all" and state == "waiting":
            # The history says that its free is completed.
            state = "free"
        blocks.append(
            {
                "address": address,
                "size": size,
                "requested_size": requested,
                "state": _STATES[state],
                "frames": _frames(HISTORY.frames.get(address, ())) if live else [],
            }
        )
    live = [block for block in blocks if block["state"] == "active_allocated"]
    allocated = sum(block["size"] for block in live)
    waiting = sum(block["size"] for block in blocks if block["state"] == "active_pending_free")
    return {
        "device": device,
        "address": stretch["address"],
        "total_size": stretch["size"],
        "allocated_size": allocated,
        "active_size": allocated + waiting,
        "requested_size": sum(block["requested_size"] for block in live),
        "stream": 0,
        "segment_type": "large",
        "segment_pool_id": (0, 0),
        "is_expandable": True,
        "frames": [],
        "blocks": blocks,
    }


def segments():
    """What ``torch.cuda.memory_snapshot()`` gives: a segment for each stretch of mapped addresses."""
    found = []
    for device in used_devices():
        memory = json_of(library().forebay_pool_snapshot_json, pool_of(device))
        found += [_segment(device, stretch) for stretch in memory["stretches"]]
    return found


def _event(action, address, size, stream, time_us, frames):
    entry = {
        "action": action,
        "addr": address,
        "size": size,
        "stream": stream,
        "time_us": time_us,
        "compile_context": "N/A",
        "user_metadata": "",
        "pool_id": (0, 0),
        "frames": frames,
    }
    if action == "oom":
        entry["device_free"] = entry.pop("addr")
    return entry


def _trace(entries, stretches):
    """A device's events. Addresses that lost their pages since get an event that says so, behind
    the last one that used them: a viewer that goes back in time needs a segment for each block."""
    last = {}
    for number, entry in enumerate(entries):
        if entry.action != "oom":
            for page in range(entry.address // _PAGE, (entry.address + max(entry.size, 1) - 1) // _PAGE + 1):
                last[page] = number
    mapped = set()
    for address, size in stretches:
        mapped.update(range(address // _PAGE, (address + size) // _PAGE))
    # Neighbours that were last used by the same event went together.
    gone = {}
    for page in sorted(page for page in last if page not in mapped):
        ranges = gone.setdefault(last[page], [])
        if ranges and ranges[-1][1] == page:
            ranges[-1][1] = page + 1
        else:
            ranges.append([page, page + 1])
    events = []
    for number, entry in enumerate(entries):
        events.append(_event(*entry[:5], _frames(entry.frames)))
        for first, end in gone.get(number, ()):
            where = (first * _PAGE, (end - first) * _PAGE)
            events.append(_event("segment_free", *where, 0, entry.time_us, []))
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
        "allocator_settings": {
            "backend": "forebay",
            "PYTORCH_CUDA_ALLOC_CONF": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
            "expandable_segments": True,
            "max_split_size": -1,
            "garbage_collection_threshold": 0.0,
        },
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
