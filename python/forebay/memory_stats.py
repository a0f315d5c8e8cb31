"""The counters of a pool, under every name that they are asked for by."""

from collections.abc import Mapping

__all__ = ["MemoryStats"]


class Rate(float):
    """A share from 0 to 1: a number, and a function that returns it, for both ways of asking."""

    def __call__(self):
        return float(self)


class MemoryStats(Mapping):
    """Counters at one moment: ``stats["peak_usage"]`` and ``stats.peak_usage`` are the same.

    Bytes come in three kinds that are never mixed: *requested* were asked for, *allocated* are
    those of the blocks that were given out for them, *reserved* are mapped.

    ``requested_bytes``, ``requested_peak``, ``requested_total``, and so ``allocated_`` and
        ``reserved_``: now, the most that was, and of all allocations together
    ``current_usage``, ``peak_usage``
        ``requested_bytes`` and ``requested_peak``
    ``total_allocated``, ``total_freed``
        requested bytes of all allocations, and of all frees
    ``bytes_allocated``, ``peak_bytes_allocated``, ``bytes_cached``
        ``allocated_bytes`` and ``allocated_peak``; what is reserved and not given out
    ``allocations_count``, ``frees_count``, ``live_allocations``
        how many succeeded, and are given out now; ``total_allocations``, ``total_deallocations``
        and ``active_tensors`` are the same
    ``cache_hits``, ``cache_misses``, ``hit_rate``
        allocations from memory that was there, those for which the device was asked, and the
        hits of both, 0 to 1; ``stats.hit_rate()`` too
    ``failed_allocations``, ``invalid_frees``, ``finalized_frees``
        allocations that found no memory; frees of what is not the pool's, or was freed before;
        tensors that were dropped without ``free``
    ``num_size_classes``, ``fragmentation``
        classes of small blocks in use; 1 - largest free run / free. Read when they are asked for:
        the pool walks over every block for them

    and everything that ``forebay_pool_statistics`` in ``forebay.h`` has.
    """

    _LATE = ("num_size_classes", "fragmentation")

    def __init__(self, counted, report):
        asked = counted["hits"] + counted["misses"]
        self._report = report
        self._numbers = {
            "total_allocations": counted["allocations"],
            "total_deallocations": counted["frees"],
            "cache_hits": counted["hits"],
            "cache_misses": counted["misses"],
            "hit_rate": Rate(counted["hits"] / asked if asked else 0.0),
            "bytes_allocated": counted["allocated_bytes"],
            "bytes_cached": max(counted["reserved_bytes"] - counted["allocated_bytes"], 0),
            "peak_bytes_allocated": counted["allocated_peak"],
            "active_tensors": counted["live_blocks"],
            "total_allocated": counted["requested_total"],
            "total_freed": counted["requested_total"] - counted["requested_bytes"],
            "peak_usage": counted["requested_peak"],
            "current_usage": counted["requested_bytes"],
            "allocations_count": counted["allocations"],
            "frees_count": counted["frees"],
            "live_allocations": counted["live_blocks"],
            "failed_allocations": counted["failed"],
            **counted,
        }

    def __getitem__(self, name):
        if name in self._LATE and name not in self._numbers:
            report = self._report()
            self._numbers["num_size_classes"] = len(report["size_classes"])
            self._numbers["fragmentation"] = report["external_fragmentation"]
        return self._numbers[name]

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"MemoryStats has no {name!r}") from None

    def __iter__(self):
        yield from self._LATE
        yield from (name for name in self._numbers if name not in self._LATE)

    def __len__(self):
        return len(set(self._numbers).union(self._LATE))

    def __repr__(self):
        shown = ", ".join(f"{name}={value}" for name, value in self._numbers.items())
        return f"MemoryStats({shown})"
