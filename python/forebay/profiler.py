"""What memory a program used, when, and which of its lines held it.

    tracker = MemoryTracker()
    with tracker:
        for batch in loader:
            with tracker.track("forward"):
                output = model(batch)
            tracker.step()
    tracker.print_summary()

See ``MemoryTracker``.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, replace

from . import _advice, _observe, _summary
from ._ledger import Ledger, fit
from ._levels import LEVELS, Levels, MemoryDelta, MemorySnapshot
from ._library import ForebayError
from ._peaks import Mark
from ._state import Reader, cache_states, every_pool
from ._timeline import Timeline
from .pool import Pool

__all__ = ["MemoryDelta", "MemorySnapshot", "MemoryTracker"]

#: Counters that are told as what was added.
_ADDED = (
    "allocations",
    "frees",
    "hits",
    "misses",
    "failed",
    "invalid_frees",
    "system_calls",
    "trims",
    "requested_total",
    "allocated_total",
    "reserved_total",
)


def _pool_of(thing):
    """The ``forebay.Pool`` that ``thing`` is, or is built on."""
    for one in (thing, getattr(thing, "pool", None), getattr(thing, "_pool", None)):
        if isinstance(one, Pool):
            return one
    raise TypeError(f"pools has {thing!r}; each must be a forebay pool")


class _TorchDevice:
    """Where PyTorch's tensors of a device come from, for the books."""

    handle = True

    def __init__(self, device):
        self.number = -1 - device


class MemoryTracker:
    """Watches memory while a ``with`` block runs.

    ``pools`` are those to watch; None is all of forebay's in this process, PyTorch's among them,
    also those that are made later. ``track_allocations`` keeps books on which line of Python holds
    how many bytes, of blocks that come from ``forebay.memory``'s pools, and PyTorch's tensors where
    ``forebay.torch`` is enabled in mode ``"global"``: exactly, some three microseconds for an
    allocation and its free. ``track_timeline`` reads all counters every ``interval`` milliseconds,
    on a thread that lives as long as the block. ``trace_python`` lets ``tracemalloc`` watch what
    Python and numpy allocate besides, which makes that some times slower.

    The resident bytes of the process are read beside them. Where no pool is open while the block
    runs they are all there is: ``get_stats()["source"]`` is then ``"process"``, and what is called
    allocated and reserved there is what is resident.

    Peaks of a pool are exact however short they were: the pool keeps them, and they start again
    with every block that begins. Inner blocks do not hide anything from outer ones, nor from
    ``Pool.statistics()``; who calls ``forebay_pool_stats`` from C sees peaks since the last block
    began.

    It can be entered again, and begins anew. All numbers are bytes and seconds unless they say
    otherwise. A child of fork is not watched. Raises ``ValueError`` and ``TypeError`` for what
    cannot be, ``ForebayError`` for what comes in the wrong order.
    """

    def __init__(
        self,
        pools=None,
        track_allocations: bool = True,
        track_timeline: bool = True,
        interval: float = 100,
        *,
        trace_python: bool = False,
        name: str = "",
    ):
        if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not interval > 0:
            raise ValueError(f"interval is {interval!r}; it must be more than 0 milliseconds")
        if pools is not None and not isinstance(pools, (list, tuple, set, frozenset)):
            pools = [pools]
        self._chosen = None if pools is None else [_pool_of(one) for one in pools]
        self.track_allocations, self.track_timeline = track_allocations, track_timeline
        self.interval, self.trace_python, self.name = interval, trace_python, name
        self._reset()

    def _reset(self):
        self._begun = self._ended = self._mark = self._ledger = self._observer = self._thread = None
        self._lock = threading.Lock()
        self._timeline = Timeline()
        self._snapshots, self._deltas, self._counts = {}, {}, Counter()
        self._entry, self._entry_caches, self._last = {}, {}, {}
        #: Highest sums that were seen, of what has no exact peak.
        self._seen = dict.fromkeys((*LEVELS, "rss"), 0)
        self._steps, self._sums = 0, {"requested": [0, 0, 0], "rss": [0, 0, 0]}
        self._result = self._python = self._heap = None
        self._had_pools, self._torch, self._process = False, {}, os.getpid()

    # ----- watching

    def _pools(self):
        return every_pool() if self._chosen is None else self._chosen

    @property
    def _running(self):
        return self._begun is not None and self._ended is None

    def __enter__(self):
        if self._running:
            raise ForebayError("the tracker is in a block already; make another one")
        self._reset()
        heap = None
        if self.trace_python:
            from ._python_heap import PythonHeap

            heap = PythonHeap()
        self._heap, self._mark = heap, Mark(self._pools())
        self._begun = time.perf_counter()
        levels = Levels(self._pools(), self._mark)
        self._entry = {pool.number: counted for pool, counted in levels.pools}
        self._entry_rss = levels.rss_bytes
        self._entry_caches = {one["number"]: one for one in cache_states()}
        if self.track_allocations:
            self._ledger = Ledger()
            self._observer = self._ledger if self._chosen is None else self._of_chosen
            _observe.observers.append(self._observer)
            self._watch_torch(True)
        self._take(levels)
        if self.track_timeline:
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._sample, name="forebay-tracker", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(self, *_):
        if not self._running:
            raise ForebayError("the tracker is in no block")
        if self._process != os.getpid():
            # A child of fork leaves its parent's block.
            self._reset()
            return
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join()
        if self.track_allocations:
            if self._observer in _observe.observers:
                _observe.observers.remove(self._observer)
            self._watch_torch(False)
        if self._heap is not None:
            self._python, self._heap = self._heap.end(), None
        self._ended = time.perf_counter()
        try:
            self._result = self._collect()
        finally:
            self._mark.end()

    def _of_chosen(self, pool, address, size):
        if pool in self._chosen:
            self._ledger(pool, address, size)

    def _watch_torch(self, on):
        module = sys.modules.get("forebay.torch._history")
        if module is None or sys.modules["forebay.torch"].mode() != "global":
            return
        (module.HISTORY.watch if on else module.HISTORY.unwatch)(self._torch_block)

    def _torch_block(self, device, address, size):
        source = self._torch.get(device)
        if source is None:
            # No lock here: the pool of the device itself is not looked up.
            source = self._torch.setdefault(device, _TorchDevice(device))
        if self._chosen is None or any(
            not one._owned and one.index == device for one in self._chosen
        ):
            self._ledger(source, address, size)

    def _sample(self):
        while not self._stop.wait(self.interval / 1000):
            self._take()

    def _take(self, levels=None):
        """One reading, for the timeline."""
        with self._lock:
            if levels is None:
                levels = Levels(self._pools(), self._mark)
            self._had_pools = self._had_pools or bool(levels.pools)
            for pool, counted in levels.pools:
                who = {"name": pool.name, "device": pool.device, "part_of": pool.part_of}
                self._last[pool.number] = (who, counted)
            seen = self._seen
            for name in LEVELS:
                seen[name] = max(seen[name], levels.now[name], levels.peaks[name])
            seen["rss"] = max(seen["rss"], levels.rss_bytes)
            point = {"time_s": time.perf_counter() - self._begun, "step": self._steps}
            point.update((f"{name}_bytes", levels.now[name]) for name in LEVELS)
            point["rss_bytes"] = levels.rss_bytes
            self._timeline.add(point)
            return levels

    def step(self):
        """A step of a loop ended. Growth is told per step, and peaks say in which step they
        were."""
        self._need_running()
        levels = self._take()
        x, self._steps = self._steps, self._steps + 1
        for name, y in (("requested", levels.now["requested"]), ("rss", levels.rss_bytes)):
            sums = self._sums[name]
            sums[0] += y
            sums[1] += x * y
            sums[2] += y * y
        if self._ledger is not None:
            self._ledger.step()

    def _need_running(self):
        if not self._running:
            raise ForebayError("the tracker is in no block: `with tracker:` begins one")

    @contextlib.contextmanager
    def track(self, name: str):
        """A part of the block: its own peak and change go to ``get_delta(name)``, and what lines
        allocate in it, on this thread, is told apart from the rest. Parts may be within each other;
        of one that comes again ``get_delta`` tells the last, with the highest peak of all."""
        self._need_running()
        name = str(name)
        mark = Mark(self._pools())
        start = Levels(self._pools(), mark)
        before = self._ledger.label(name) if self._ledger is not None else None
        try:
            yield self
        finally:
            if self._ledger is not None:
                self._ledger.label(before)
            end = Levels(self._pools(), mark)
            mark.end()
            delta = MemoryDelta.between(name, start, end, end.peaks["allocated"])
            with self._lock:
                self._counts[name] += 1
                known = self._deltas.get(name)
                if known is not None and known.peak_allocated_bytes > delta.peak_allocated_bytes:
                    delta = replace(delta, peak_allocated_bytes=known.peak_allocated_bytes)
                self._deltas[name] = delta

    def snapshot(self, name: str = "") -> MemorySnapshot:
        """The bytes now, kept under ``name`` for ``compare``."""
        self._need_running()
        levels = self._take()
        made = MemorySnapshot(
            name=name or f"snapshot {len(self._snapshots) + 1}",
            time_s=time.perf_counter() - self._begun,
            **{f"{level}_bytes": levels.now[level] for level in LEVELS},
            **{f"max_{level}_bytes": self._seen[level] for level in LEVELS},
            rss_bytes=levels.rss_bytes,
            live_blocks=levels.live_blocks,
        )
        self._snapshots[made.name] = made
        return made

    def get_snapshot(self, name: str):
        """What ``snapshot(name)`` saw; None if there was none."""
        return self._snapshots.get(name)

    def get_delta(self, name: str):
        """What the last ``track(name)`` saw; None if there was none."""
        return self._deltas.get(name)

    def compare(self, first, second) -> MemoryDelta:
        """From one snapshot, or name of one, to another. Its peak is the highest of the timeline
        between them."""
        one, other = self._snapshot_of("first", first), self._snapshot_of("second", second)
        between = [
            point["allocated_bytes"]
            for point in self._timeline.points()
            if one.time_s <= point["time_s"] <= other.time_s
        ]
        peak = max([one.allocated_bytes, other.allocated_bytes, *between])
        return MemoryDelta.between(f"{one.name} to {other.name}", one, other, peak)

    def _snapshot_of(self, argument, given):
        if isinstance(given, MemorySnapshot):
            return given
        if given not in self._snapshots:
            known = ", ".join(map(repr, self._snapshots)) or "none"
            raise ValueError(f"{argument} is {given!r}, and no snapshot; there are: {known}")
        return self._snapshots[given]

    # ----- what it comes to

    def _pool_result(self, number, who, counted, walked):
        entry = self._entry.get(number, {})
        closed = walked is None
        found = {"number": number, **who, "closed": closed}
        for level in LEVELS:
            found[level] = {
                "entry": entry.get(f"{level}_bytes", 0),
                "current": 0 if closed else counted[f"{level}_bytes"],
                "peak": counted[f"{level}_peak"],
            }
        found["limit_bytes"] = counted["limit_bytes"]
        found["live_blocks"] = {
            "entry": entry.get("live_blocks", 0),
            "current": 0 if closed else counted["live_blocks"],
        }
        found.update((key, counted[key] - entry.get(key, 0)) for key in _ADDED)
        found.update(walked or {})
        return found

    def _collect(self):
        """Everything, as ``to_dict`` has it but for the timeline."""
        self._take()
        seconds = (self._ended or time.perf_counter()) - self._begun
        state = Reader().read()
        walked = {pool["number"]: pool for pool in state["pools"]}
        names = ("policy", "external_fragmentation", "internal_fragmentation", "free_bytes")
        names += ("idle_bytes", "waiting_bytes", "front_cache_bytes", "largest_free_run")
        pools = []
        with self._lock:
            for number, (who, counted) in sorted(self._last.items()):
                tells = walked.get(number)
                if tells is not None:
                    tells = {key: tells[key] for key in names if key in tells}
                pools.append(self._pool_result(number, who, counted, tells))
            seen, steps, deltas = dict(self._seen), self._steps, dict(self._deltas)
            counts, rss = dict(self._counts), state["process"]["rss_bytes"]
        found = {
            "schema": 1,
            "name": self.name,
            "source": "pools" if self._had_pools else "process",
            "seconds": seconds,
            "steps": steps,
            "pools": pools,
            "process": {
                "entry_rss_bytes": self._entry_rss,
                "rss_bytes": rss,
                "peak_rss_bytes": max(seen["rss"], rss),
            },
            "peaks": {level: seen[level] for level in LEVELS},
            "peak": self._peak_result(pools),
            "live": self._live_result(pools),
            "growth": self._growth_result(),
            "blocks": [{**asdict(delta), "times": counts[name]} for name, delta in deltas.items()],
            "caches": self._cache_results(state["caches"]),
            "prefetchers": state["prefetchers"],
            "python": self._python,
        }
        found["actions"] = _advice.actions(found)
        return found

    def _peak_result(self, pools):
        ledger, total = self._ledger, sum(pool["requested"]["peak"] for pool in pools)
        if ledger is not None:
            ledger.settle()
        if ledger is not None and ledger.peak:
            return {
                "bytes": ledger.peak,
                "time_s": (ledger.peak_at - ledger.begun) / 1e9,
                "step": ledger.peak_step,
                "block": ledger.peak_label,
                "holders": ledger.at_peak(10),
                # Of caches and prefetchers, whose pools are no lines', of C, and of before.
                "unseen_bytes": max(total - ledger.peak, 0),
            }
        points = self._timeline.points()
        name = "requested_bytes" if self._had_pools else "rss_bytes"
        highest = max(points, key=lambda point: point[name])
        return {
            "bytes": highest[name],
            "time_s": highest["time_s"],
            "step": highest["step"],
            "block": "",
            "holders": [],
            "unseen_bytes": highest[name],
        }

    def _live_result(self, pools):
        still = [pool for pool in pools if not pool["closed"]]
        added = [pool["requested"]["current"] - pool["requested"]["entry"] for pool in still]
        blocks = [pool["live_blocks"]["current"] - pool["live_blocks"]["entry"] for pool in still]
        holders = self._ledger.live(10) if self._ledger is not None else []
        return {"bytes": sum(added), "blocks": sum(blocks), "holders": holders}

    def _growth_result(self):
        found = {}
        for name, sums in self._sums.items():
            slope, determined = fit(self._steps, *sums)
            certain = slope >= 1 and determined > 0.9
            found[f"{name}_bytes_per_step"] = round(slope) if certain else 0
        found["lines"] = self._ledger.growth(5) if self._ledger is not None else []
        return found

    def _cache_results(self, caches):
        found = []
        for one in caches:
            entry = self._entry_caches.get(one["number"], {})
            asked = {name: one[name] - entry.get(name, 0) for name in ("hits", "misses", "evicted")}
            found.append(
                {
                    "name": one["name"],
                    "policy": one["policy"],
                    "bytes": one["bytes"],
                    "entries": one["entries"],
                    **asked,
                }
            )
        return found

    def _now(self):
        """The result, at the end or so far."""
        if self._result is not None:
            return self._result
        self._need_running()
        return self._collect()

    def get_stats(self) -> dict:
        """The numbers of all pools together: ``current_``, ``peak_`` and ``entry_`` of
        ``requested``, ``allocated`` and ``reserved``, the peaks exact of one pool; of several the
        highest sum that was read, or peak of one of them, and at most ``peak_..._bound``.
        ``num_allocations``, ``num_frees``, ``hit_rate`` and ``fragmentation`` (1 - largest free run
        / free bytes, of the pool where it is worst) are of the block. ``source`` is ``"pools"`` or
        ``"process"``."""
        found = self._now()
        pools, process = found["pools"], found["process"]
        stats = {"source": found["source"], "seconds": found["seconds"], "steps": found["steps"]}
        for level in LEVELS:
            for moment in ("current", "entry"):
                stats[f"{moment}_{level}"] = sum(pool[level][moment] for pool in pools)
            stats[f"peak_{level}"] = found["peaks"][level]
            stats[f"peak_{level}_bound"] = sum(pool[level]["peak"] for pool in pools)
        if found["source"] == "process":
            for level in LEVELS:
                stats[f"current_{level}"] = process["rss_bytes"]
                stats[f"entry_{level}"] = process["entry_rss_bytes"]
                stats[f"peak_{level}"] = stats[f"peak_{level}_bound"] = process["peak_rss_bytes"]
        for name in _ADDED:
            stats[name] = sum(pool[name] for pool in pools)
        asked = stats["hits"] + stats["misses"]
        stats["num_allocations"], stats["num_frees"] = stats["allocations"], stats["frees"]
        stats["hit_rate"] = stats["hits"] / asked if asked else 0.0
        stats["live_allocations"] = sum(pool["live_blocks"]["current"] for pool in pools)
        stats["fragmentation"] = max(
            (pool.get("external_fragmentation", 0) for pool in pools), default=0
        )
        stats["rss_bytes"], stats["peak_rss_bytes"] = (
            process["rss_bytes"],
            process["peak_rss_bytes"],
        )
        stats["leaked_bytes"], stats["leaked_blocks"] = (
            found["live"]["bytes"],
            found["live"]["blocks"],
        )
        if found["python"] is not None:
            stats["peak_python"] = found["python"]["peak_bytes"]
        return stats

    def get_allocation_timeline(self) -> list:
        """Readings in the order of time, each a dictionary with ``time_s`` since the block began,
        ``step``, ``requested_bytes``, ``allocated_bytes``, ``reserved_bytes`` and ``rss_bytes``:
        one each ``interval``, one at each step and snapshot, the first and the last. At most
        10,000: of longer runs each stands for several, with the highest of each number."""
        with self._lock:
            return self._timeline.points()

    def to_dict(self) -> dict:
        """Everything, with exact bytes, as an object that JSON can have."""
        return {**self._now(), "timeline": self.get_allocation_timeline()}

    def to_json(self, indent=None) -> str:
        """``to_dict()`` as text."""
        return json.dumps(self.to_dict(), indent=indent)

    def summary(self) -> str:
        """What ``print_summary`` prints."""
        return _summary.text(self._now())

    def print_summary(self, file=None):
        """Prints at most 40 lines of at most 80 columns: what the pools and the process hold and
        held, who held most at the peak, how often memory was asked for, how it is torn, what is
        left and grows, and, where the numbers say so, up to three things to do and what each
        gains."""
        print(self.summary(), file=file or sys.stdout)

    def _repr_html_(self):
        if self._begun is None:
            return None
        return _summary.html(self._now(), self.get_allocation_timeline())

    def __repr__(self):
        state = "running" if self._running else "not begun" if self._begun is None else "ended"
        return f"<forebay.profiler.MemoryTracker{' ' + self.name if self.name else ''}, {state}>"
