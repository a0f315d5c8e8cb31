"""``torch.cuda.memory_stats`` of forebay's pools: every key that PyTorch documents.

What PyTorch calls small and large is up to 1 MiB and beyond here too. Its pools of segments have no
counterpart: pages serve all sizes, so what is reserved is counted as large. A segment is a stretch
of mapped addresses; its peak, and that of inactive memory, is the highest that was read.
"""

import ctypes

from .. import _peaks
from .._abi import TorchStatistics
from .._library import check, library
from ._pool import device_index, is_used, pool_of

_KINDS = {"all": "all", "small_pool": "small", "large_pool": "large"}

#: The highest values that were read, of what has no peak of its own: by device and key.
_read_peaks = {}


def statistics(device):
    """``forebay_torch_statistics`` of a device; all zero as long as it has no pool."""
    stats = TorchStatistics(struct_size=ctypes.sizeof(TorchStatistics))
    if is_used(device):
        check(library().forebay_torch_stats(device, ctypes.byref(stats)))
        # The pool's own peak may have been started again.
        earlier = _peaks.before(pool_of(device)).get("reserved_peak", 0)
        stats.reserved_peak = max(stats.reserved_peak, earlier)
    return stats


def _number(number):
    return {
        "current": number.current,
        "peak": number.peak,
        "allocated": number.allocated,
        "freed": number.freed,
    }


def _level(device, key, current, peak=None, total=None):
    """A number that is counted as a whole."""
    if peak is None:
        peak = _read_peaks[device, key] = max(_read_peaks.get((device, key), 0), current)
    total = current if total is None else total
    return {"current": current, "peak": peak, "allocated": total, "freed": max(total - current, 0)}


def _whole(level):
    nothing = {"current": 0, "peak": 0, "allocated": 0, "freed": 0}
    return {"all": level, "small_pool": nothing, "large_pool": dict(level)}


def nested(device):
    """``torch.cuda.memory_stats_as_nested_dict``."""
    stats = statistics(device)
    result = {}
    for key, field in (
        ("allocation", "blocks"),
        ("allocated_bytes", "allocated_bytes"),
        ("requested_bytes", "requested_bytes"),
    ):
        result[key] = {
            kind: _number(getattr(getattr(stats, name), field)) for kind, name in _KINDS.items()
        }
    # Active is what is allocated, and what was freed while streams still use it.
    allocated = stats.all.allocated_bytes
    result["active"] = {kind: dict(value) for kind, value in result["allocation"].items()}
    active = {kind: dict(value) for kind, value in result["allocated_bytes"].items()}
    for kind in ("all", "large_pool"):
        active[kind]["current"] += stats.waiting_bytes
        active[kind]["peak"] = max(active[kind]["peak"], active[kind]["current"])
    result["active_bytes"] = active
    inactive = max(stats.reserved_bytes - allocated.current - stats.waiting_bytes, 0)
    result["segment"] = _whole(_level(device, "segment", stats.stretches))
    result["reserved_bytes"] = _whole(
        _level(device, "reserved", stats.reserved_bytes, stats.reserved_peak, stats.reserved_total)
    )
    result["inactive_split"] = _whole(_level(device, "inactive", stats.free_runs))
    result["inactive_split_bytes"] = _whole(_level(device, "inactive_bytes", inactive))
    nothing = {"current": 0, "peak": 0, "allocated": 0, "freed": 0}
    result["oversize_allocations"] = dict(nothing)
    result["oversize_segments"] = dict(nothing)
    result["num_alloc_retries"] = 0
    result["num_ooms"] = stats.failed
    result["num_sync_all_streams"] = 0
    result["num_device_alloc"] = stats.misses
    result["num_device_free"] = stats.trims
    result["num_oom_rejections"] = 0
    result["max_split_size"] = -1
    result["reserved_bytes_by_private_pools"] = {}
    return result


def reset_peaks(device):
    """``torch.cuda.reset_peak_memory_stats``."""
    for key in [key for key in _read_peaks if key[0] == device]:
        del _read_peaks[key]
    if is_used(device):
        check(library().forebay_torch_reset_peaks(device))
        _peaks.forget(pool_of(device))


def reset_totals(device):
    """``torch.cuda.reset_accumulated_memory_stats``."""
    if is_used(device):
        check(library().forebay_torch_reset_totals(device))


def memory_stats(device=None):
    """What forebay's pool of a device counts, with PyTorch's keys, flat: in either mode. In mode
    ``"pool"`` its blocks are PyTorch's segments."""
    flat = {}

    def put(prefix, value):
        if isinstance(value, dict):
            for key, inner in value.items():
                put(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    put("", nested(device_index(device)))
    return dict(sorted(flat.items()))
