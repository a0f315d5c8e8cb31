"""What pools hold at a moment, held at most since another, and what lies between two."""

import time
from dataclasses import dataclass

from ._state import process_memory

__all__ = ["LEVELS", "Levels", "MemoryDelta", "MemorySnapshot"]

_MIB = 1 << 20

LEVELS = ("requested", "allocated", "reserved")

#: Each with the names of what it is and was at most.
_KEYS = tuple((level, f"{level}_bytes", f"{level}_peak") for level in LEVELS)


class Levels:
    """What the pools hold, and held at most since a mark."""

    def __init__(self, pools, mark):
        #: Each pool that is open, with its counters.
        self.pools = mark.counters(pools)
        self.rss_bytes, _ = process_memory()
        self.time_s = time.perf_counter()
        self.live_blocks = 0
        self.now = now = dict.fromkeys(LEVELS, 0)
        # Exact of one pool. Several need not have had their peaks at one time: at least the highest
        # of them, and at most their sum.
        self.peaks = peaks = dict.fromkeys(LEVELS, 0)
        for _, counted in self.pools:
            self.live_blocks += counted["live_blocks"]
            for name, current, peak in _KEYS:
                now[name] += counted[current]
                if counted[peak] > peaks[name]:
                    peaks[name] = counted[peak]
        for name in LEVELS:
            if now[name] > peaks[name]:
                peaks[name] = now[name]

    @property
    def requested_bytes(self):
        return self.now["requested"]

    @property
    def allocated_bytes(self):
        return self.now["allocated"]

    @property
    def reserved_bytes(self):
        return self.now["reserved"]


@dataclass(frozen=True)
class MemorySnapshot:
    """Bytes at one moment, over all pools that are watched; ``max_`` is since the tracker began."""

    name: str
    time_s: float
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    max_requested_bytes: int
    max_allocated_bytes: int
    max_reserved_bytes: int
    rss_bytes: int
    live_blocks: int

    @property
    def allocated_mb(self) -> float:
        """MiB, as all that end in ``_mb``."""
        return self.allocated_bytes / _MIB

    @property
    def reserved_mb(self) -> float:
        return self.reserved_bytes / _MIB

    @property
    def max_allocated_mb(self) -> float:
        return self.max_allocated_bytes / _MIB

    @property
    def max_reserved_mb(self) -> float:
        return self.max_reserved_bytes / _MIB


@dataclass(frozen=True)
class MemoryDelta:
    """Bytes at two moments, and the most between them."""

    name: str
    start_allocated_bytes: int
    end_allocated_bytes: int
    peak_allocated_bytes: int
    delta_bytes: int
    delta_requested_bytes: int
    delta_reserved_bytes: int
    delta_rss_bytes: int
    delta_blocks: int
    seconds: float

    @property
    def delta_mb(self) -> float:
        return self.delta_bytes / _MIB

    @property
    def peak_mb(self) -> float:
        return self.peak_allocated_bytes / _MIB

    @classmethod
    def between(cls, name, start, end, peak):
        """From one of ``Levels`` or snapshots to another."""
        return cls(
            name=name,
            start_allocated_bytes=start.allocated_bytes,
            end_allocated_bytes=end.allocated_bytes,
            peak_allocated_bytes=peak,
            delta_bytes=end.allocated_bytes - start.allocated_bytes,
            delta_requested_bytes=end.requested_bytes - start.requested_bytes,
            delta_reserved_bytes=end.reserved_bytes - start.reserved_bytes,
            delta_rss_bytes=end.rss_bytes - start.rss_bytes,
            delta_blocks=end.live_blocks - start.live_blocks,
            seconds=end.time_s - start.time_s,
        )


MemorySnapshot.__module__ = MemoryDelta.__module__ = "forebay.profiler"
