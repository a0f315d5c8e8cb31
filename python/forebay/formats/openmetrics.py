"""What lives in this process, for Prometheus and all that read OpenMetrics 1.0.

``exposition()`` is the text for who serves it over HTTP with ``CONTENT_TYPE``; ``write(path)`` puts
it into a file. Names begin with ``forebay_``; sizes are bytes, times seconds, parts 0 to 1; what
only grows ends in ``_total``. Things of one kind are told apart by the labels ``name``, ``device``
and ``number``.
"""

import contextlib
import math
import os

from .._state import Reader

__all__ = ["CONTENT_TYPE", "exposition", "write"]

#: The type of the text, for HTTP.
CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_GAUGE, _COUNTER = "gauge", "counter"

#: Of each kind of thing: name behind "forebay_pool_" and the like, type, key, factor, what it is.
_POOL = (
    ("requested_bytes", _GAUGE, "requested_bytes", 1, "Bytes asked for by live blocks"),
    ("requested_peak_bytes", _GAUGE, "requested_peak", 1, "The most bytes asked for at a time"),
    ("allocated_bytes", _GAUGE, "allocated_bytes", 1, "Bytes of live blocks, rounded"),
    ("allocated_peak_bytes", _GAUGE, "allocated_peak", 1, "The most bytes of blocks at a time"),
    ("reserved_bytes", _GAUGE, "reserved_bytes", 1, "Bytes mapped"),
    ("reserved_peak_bytes", _GAUGE, "reserved_peak", 1, "The most bytes mapped at a time"),
    ("limit_bytes", _GAUGE, "limit_bytes", 1, "The most bytes that may be mapped"),
    ("free_bytes", _GAUGE, "free_bytes", 1, "Bytes mapped that no block has"),
    ("idle_bytes", _GAUGE, "idle_bytes", 1, "Bytes of whole pages that nobody uses"),
    ("waiting_bytes", _GAUGE, "waiting_bytes", 1, "Bytes freed that streams may still use"),
    ("front_cache_bytes", _GAUGE, "front_cache_bytes", 1, "Bytes that threads keep for themselves"),
    ("largest_free_run_bytes", _GAUGE, "largest_free_run", 1, "The most free bytes in one piece"),
    ("live_blocks", _GAUGE, "live_blocks", 1, "Blocks given out"),
    (
        "external_fragmentation_ratio",
        _GAUGE,
        "external_fragmentation",
        1,
        "1 - largest free run / free bytes",
    ),
    (
        "internal_fragmentation_ratio",
        _GAUGE,
        "internal_fragmentation",
        1,
        "1 - requested / allocated bytes",
    ),
    ("allocations", _COUNTER, "allocations", 1, "Allocations that succeeded"),
    ("frees", _COUNTER, "frees", 1, "Frees that succeeded"),
    ("hits", _COUNTER, "hits", 1, "Allocations served from what was mapped and in place"),
    ("misses", _COUNTER, "misses", 1, "Allocations for which pages were mapped or moved"),
    ("failed_allocations", _COUNTER, "failed", 1, "Allocations that failed"),
    ("invalid_frees", _COUNTER, "invalid_frees", 1, "Frees of what was no live block"),
    ("system_calls", _COUNTER, "system_calls", 1, "System calls made for the pool"),
    ("trims", _COUNTER, "trims", 1, "Times that idle pages were given back"),
    ("served_bytes", _COUNTER, "requested_total", 1, "Bytes asked for by all allocations"),
    ("mapped_bytes", _COUNTER, "reserved_total", 1, "All bytes ever mapped"),
)

_CACHE = (
    ("bytes", _GAUGE, "bytes", 1, "Bytes of the tensors in the cache"),
    ("peak_bytes", _GAUGE, "bytes_peak", 1, "The most bytes that were in the cache"),
    ("tensors", _GAUGE, "entries", 1, "Tensors in the cache"),
    ("pinned_bytes", _GAUGE, "pinned_bytes", 1, "Bytes of the tensors that are being read"),
    ("hits", _COUNTER, "hits", 1, "Tensors that were asked for and there"),
    ("misses", _COUNTER, "misses", 1, "Tensors that were asked for and not there"),
    ("puts", _COUNTER, "puts", 1, "Tensors that were put into the cache"),
    ("refused", _COUNTER, "refused", 1, "Tensors that were not taken"),
    ("evicted", _COUNTER, "evicted", 1, "Tensors that gave way to others"),
    ("evicted_bytes", _COUNTER, "evicted_bytes", 1, "Bytes of those"),
    ("pressed", _COUNTER, "pressed", 1, "Tensors that went because a pool was short of memory"),
    ("pressed_bytes", _COUNTER, "pressed_bytes", 1, "Bytes of those"),
    ("expired", _COUNTER, "expired", 1, "Tensors that were too old"),
)

_PREFETCHER = (
    ("slots", _GAUGE, "slots", 1, "Batches that there is memory for"),
    ("used_slots", _GAUGE, "used_slots", 1, "Slots that hold a batch"),
    ("pinned_bytes", _GAUGE, "pinned_bytes", 1, "Bytes of pinned memory"),
    ("pinned_peak_bytes", _GAUGE, "pinned_peak", 1, "The most bytes of pinned memory"),
    ("batches", _COUNTER, "num_items", 1, "Batches that were given out"),
    ("late_batches", _COUNTER, "late", 1, "Batches that were waited for"),
    ("copied_bytes", _COUNTER, "staged_bytes", 1, "Bytes that were copied to slots"),
    ("load_seconds", _COUNTER, "load_s", 1, "Time in which the loader worked"),
    ("compute_seconds", _COUNTER, "compute_s", 1, "Time between batches"),
    ("wait_seconds", _COUNTER, "wait_ns", 1e-9, "Time in which batches were waited for"),
)

_PROCESS = (
    ("resident_memory_bytes", _GAUGE, "rss_bytes", 1, "Resident bytes of the process"),
    ("resident_memory_peak_bytes", _GAUGE, "peak_rss_bytes", 1, "The most that were resident"),
)

_MACHINE = (
    ("available_bytes", _GAUGE, "system_available", 1, "Bytes that are left to the process"),
    (
        "pressure_some_ratio",
        _GAUGE,
        "pressure_some_avg10",
        0.01,
        "Part of 10 s some waited for memory",
    ),
    (
        "pressure_full_ratio",
        _GAUGE,
        "pressure_full_avg10",
        0.01,
        "Part of 10 s all waited for memory",
    ),
    ("oom_kills", _COUNTER, "oom_kills", 1, "Processes of the control group killed for memory"),
)

#: The unit that a name ends in.
_UNITS = ("bytes", "seconds", "ratio")

_reader = Reader()


def _escaped(value):
    """A label's value: any text."""
    return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value):
    if isinstance(value, int):
        return str(value)
    return (
        repr(value)
        if math.isfinite(value)
        else {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    )


def _families(prefix, families, things):
    """The lines of each family that has a sample. ``things`` are labels and numbers."""
    for name, kind, key, factor, what in families:
        samples = [
            (labels, numbers[key] if factor == 1 else numbers[key] * factor)
            for labels, numbers in things
            if isinstance(numbers.get(key), (int, float))
        ]
        if not samples:
            continue
        full = f"forebay_{prefix}_{name}"
        yield f"# TYPE {full} {kind}"
        unit = full.rpartition("_")[2]
        if unit in _UNITS:
            yield f"# UNIT {full} {unit}"
        yield f"# HELP {full} {what}."
        ending = "_total" if kind == _COUNTER else ""
        for labels, value in samples:
            yield f"{full}{ending}{labels} {_number(value)}"


def _labelled(things):
    found = []
    for one in things:
        named = [(label, one.get(label, "")) for label in ("name", "device", "number")]
        text = ",".join(f'{label}="{_escaped(value)}"' for label, value in named)
        found.append((f"{{{text}}}", one))
    return found


def exposition(state: "dict | None" = None) -> str:
    """The text. ``state`` is what ``forebay.publishing.read`` gave of another process; None is this
    process now."""
    if state is None:
        state = _reader.read()
    lines = []
    for prefix, families, things in (
        ("pool", _POOL, _labelled(state["pools"])),
        ("cache", _CACHE, _labelled(state["caches"])),
        ("prefetcher", _PREFETCHER, _labelled(state["prefetchers"])),
        ("process", _PROCESS, [("", state["process"])]),
        ("memory", _MACHINE, [("", state["machine"])]),
    ):
        lines += _families(prefix, families, things)
    return "\n".join([*lines, "# EOF", ""])


def write(path, state: "dict | None" = None) -> None:
    """Writes the text to the file ``path``, whole: who reads it meanwhile reads what was there
    before."""
    unfinished = f"{os.fspath(path)}.{os.getpid()}.part"
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(exposition(state))
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
