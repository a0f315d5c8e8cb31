"""What to do about memory, from what was measured: nothing, where there is nothing to gain."""

import os

from ._units import count, fitted, many, size

__all__ = ["actions", "where"]

#: Fewer bytes than this are not worth a line.
_LEAST = 1 << 20

#: The most that is advised at once.
_MOST = 3


def where(holder):
    """A line of Python, short."""
    if not holder.get("file"):
        return "no line of Python"
    place = f"{os.path.basename(holder['file'])}:{holder['line']}"
    return (
        f"{place} {holder['function']}"
        if holder.get("function", "") not in ("", "<module>")
        else place
    )


def _name(pool):
    return repr(fitted(pool["name"], 24))


def actions(found):
    """Up to three things to do, those that gain most first: {"kind", "bytes", "message"}. ``found``
    is what ``MemoryTracker.to_dict`` has."""
    advised = []

    def advise(kind, number, message):
        if number >= _LEAST:
            advised.append({"kind": kind, "bytes": int(number), "message": message})

    _growth(found, advise)
    for pool in found["pools"]:
        _limit(pool, advise)
        if pool["closed"]:
            continue
        _idle(pool, advise)
        # What a cache or a loader makes its own pool with is nobody else's to choose.
        if pool.get("part_of") is None:
            _rounding(pool, advise)
            _torn(pool, advise)
            _misses(pool, advise)
    # One of a kind: the one that gains most.
    best = {}
    for one in sorted(advised, key=lambda one: -one["bytes"]):
        best.setdefault(one["kind"], one)
    return list(best.values())[:_MOST]


def _growth(found, advise):
    growth, steps = found["growth"], found["steps"]
    per_step = growth["requested_bytes_per_step"]
    grown = per_step * (steps - 1)
    # Of what was let go of afterwards nothing need be said.
    if per_step and found["live"]["bytes"] > grown / 2:
        lines = growth["lines"]
        holder = f", most of it from {fitted(where(lines[0]), 40)}" if lines else ""
        advise(
            "growth",
            grown,
            f"let go of what each step keeps: {size(per_step)} a step, "
            f"{size(grown)} in {many(steps, 'step')}{holder}",
        )


def _limit(pool, advise):
    if pool["failed"]:
        peak, reserved = pool["requested"]["peak"], pool["reserved"]["peak"]
        limit = pool["limit_bytes"]
        advise(
            "limit",
            reserved,
            f"{many(pool['failed'], 'allocation')} of {_name(pool)} failed: "
            f"at most {size(peak)} were asked for at a time, and {size(reserved)} of {size(limit)} "
            "taken; raise the limit, or make batches smaller",
        )


def _idle(pool, advise):
    idle = pool.get("idle_bytes", 0) + pool.get("front_cache_bytes", 0)
    if idle > pool["reserved"]["current"] / 4:
        advise(
            "idle",
            idle,
            f"{size(idle)} of {_name(pool)} are idle: trim() gives what is whole pages back",
        )


def _rounding(pool, advise):
    lost = pool["allocated"]["peak"] - pool["requested"]["peak"]
    if lost > pool["requested"]["peak"] / 8 and pool.get("policy") not in (None, "conservative"):
        advise(
            "rounding",
            lost,
            f"rounding took {size(lost)} at the peak of {_name(pool)}: policy='conservative' "
            "rounds by 6 % at most",
        )


def _torn(pool, advise):
    free = pool.get("free_bytes", 0)
    torn = free - pool.get("largest_free_run", free)
    if torn > free / 2 and torn > pool["reserved"]["current"] / 4:
        advise(
            "fragmentation",
            torn,
            f"{size(torn)} of {_name(pool)} are free in pieces: defragment() makes them one",
        )


def _misses(pool, advise):
    asked = pool["hits"] + pool["misses"]
    if asked >= 1000 and pool["misses"] > asked / 10:
        peak = pool["reserved"]["peak"]
        advise(
            "misses",
            peak,
            f"{count(pool['misses'])} of {count(asked)} allocations of {_name(pool)} waited for "
            f"pages: initial_bytes={peak} takes {size(peak)} once",
        )
