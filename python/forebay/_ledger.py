"""Which lines of Python hold how many bytes, and held when most were held."""

import os
import sys
import threading
import time
import weakref
from collections import deque

__all__ = ["HERE", "Ledger", "fit"]

#: This package's files begin with it.
HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep

#: Events that are written down before they are added up.
_PENDING = 1024

#: Names of blocks that lines are told apart by; further ones count as no name.
_LABELS = 256

_now = time.perf_counter_ns


class _Line:
    """A line, in a block of a name: what it holds, and what of that came since the peak."""

    __slots__ = ("allocations", "held", "key", "since", "sum_xy", "sum_y", "sum_yy", "total")

    def __init__(self, key):
        self.key = key
        self.allocations = self.total = self.held = self.since = 0
        # Of the bytes held at the ends of steps, for a line through them.
        self.sum_y = self.sum_xy = self.sum_yy = 0


class _Local(threading.local):
    label = ""


class Ledger:
    """An observer of blocks. A call notes what happened, and once in a while all of that is added
    up; it may come on any thread, within a finalizer and so within another call, and never
    waits."""

    def __init__(self):
        self._events = deque()
        self._adding = threading.Lock()
        self._local = _Local()
        self._labels = {""}
        #: By code, line and label. Code objects are told apart by identity: comparing them is slow.
        self._lines = {}
        self._codes = {}
        #: By pool and address: size and line.
        self._live = {}
        #: Lines that hold more or less than at the peak.
        self._touched = set()
        self._pools = {}
        self.held = self.peak = 0
        self.peak_at = self.begun = _now()
        self.peak_step, self.peak_label = 0, ""
        self.allocations = self.frees = self.unknown_frees = 0
        self.steps = 0

    # ----- what happens

    def label(self, name):
        """From now on what this thread allocates is for ``name``; returns the name before."""
        before = self._local.label
        if name not in self._labels:
            if len(self._labels) < _LABELS:
                self._labels.add(name)
            else:
                name = ""
        self._local.label = name
        return before

    def __call__(self, pool, address, size):
        events, number = self._events, pool.number
        if number not in self._pools:
            self._pools[number] = weakref.ref(pool)
        if size > 0:
            # The first line that is not this package's.
            frame, code, line = sys._getframe(1), None, 0
            while frame is not None:
                code = frame.f_code
                if not code.co_filename.startswith(HERE):
                    line = frame.f_lineno
                    break
                frame, code = frame.f_back, None
            events.append((_now(), (number, address), size, code, line, self._local.label))
        else:
            events.append((0, (number, address), size, None, 0, ""))
        if len(events) > _PENDING and self._adding.acquire(blocking=False):
            try:
                self._add()
            finally:
                self._adding.release()

    # ----- what it comes to

    def _line(self, key, code):
        # As long as the code is kept its identity is nobody else's.
        self._codes[key[0]] = code
        found = self._lines[key] = _Line(key)
        return found

    def _add(self):
        events, live, lines, touched = self._events, self._live, self._lines, self._touched
        while events:
            at, where, size, code, number, label = events.popleft()
            if size > 0:
                key = (id(code), number, label)
                line = lines.get(key) or self._line(key, code)
                line.allocations += 1
                line.total += size
                if where in live:
                    # Somebody freed what was there without telling.
                    gone, owner = live[where]
                    self._leave(owner, gone)
                live[where] = (size, line)
                self.allocations += 1
                line.held += size
                self.held += size
                if self.held > self.peak:
                    self.peak, self.peak_at = self.held, at
                    self.peak_step, self.peak_label = self.steps, label
                    line.since = 0
                    for one in touched:
                        one.since = 0
                    touched.clear()
                    continue
                line.since += size
                touched.add(line)
            else:
                size, line = live.pop(where, (0, None))
                self.frees += 1
                if line is None:
                    # From before the ledger began.
                    self.unknown_frees += 1
                else:
                    self._leave(line, size)

    def _leave(self, line, size):
        self.held -= size
        line.held -= size
        line.since -= size
        self._touched.add(line)

    def settle(self):
        """Adds up what was noted."""
        with self._adding:
            self._add()
            # What lived in a pool that was closed went with it.
            pools = [(number, pool()) for number, pool in list(self._pools.items())]
            closed = {number for number, pool in pools if pool is None or pool.handle is None}
            if closed:
                for where in [where for where in self._live if where[0] in closed]:
                    size, line = self._live.pop(where)
                    self._leave(line, size)
                for number in closed:
                    del self._pools[number]

    def step(self):
        """A step of a loop ended: what each line holds now is a point of its growth."""
        self.settle()
        with self._adding:
            x, self.steps = self.steps, self.steps + 1
            for line in self._lines.values():
                y = line.held
                if y:
                    line.sum_y += y
                    line.sum_xy += x * y
                    line.sum_yy += y * y

    def _name(self, line):
        code = self._codes[line.key[0]]
        named = {"file": "", "line": 0, "function": "", "block": line.key[2]}
        if code is not None:
            named["file"], named["line"] = code.co_filename, line.key[1]
            named["function"] = getattr(code, "co_qualname", code.co_name)
        return named

    def _ranked(self, bytes_of, most):
        found = [(bytes_of(line), line) for line in list(self._lines.values())]
        found = sorted((one for one in found if one[0] > 0), key=lambda one: -one[0])
        return [{**self._name(line), "bytes": number} for number, line in found[:most]]

    def at_peak(self, most=5):
        """Who held most when most was held."""
        return self._ranked(lambda line: line.held - line.since, most)

    def live(self, most=5):
        """Who holds most now."""
        counts = {}
        for _, line in list(self._live.values()):
            counts[line] = counts.get(line, 0) + 1
        found = sorted((line for line in counts if line.held > 0), key=lambda line: -line.held)
        return [
            {**self._name(line), "bytes": line.held, "blocks": counts[line]}
            for line in found[:most]
        ]

    def growth(self, most=5):
        """Who holds more with every step: a line through the bytes at the ends of steps that
        explains more than nine tenths of how they vary."""
        with self._adding:
            sums = [(line, line.sum_y, line.sum_xy, line.sum_yy) for line in self._lines.values()]
            steps = self.steps
        found = []
        for line, *of in sums:
            slope, determined = fit(steps, *of)
            if slope >= 1 and determined > 0.9 and line.held > 0:
                found.append(
                    {**self._name(line), "bytes_per_step": round(slope), "r_squared": determined}
                )
        return sorted(found, key=lambda one: -one["bytes_per_step"])[:most]


def fit(count, sum_y, sum_xy, sum_yy):
    """Slope, and share of the variance that it explains, of a line through ``count`` points at
    x = 0, 1, 2 ... Sums are whole numbers, so that nothing is lost where the bytes are many. Fewer
    than five points say nothing."""
    if count < 5:
        return 0.0, 0.0
    sum_x, sum_xx = count * (count - 1) // 2, (count - 1) * count * (2 * count - 1) // 6
    xx = count * sum_xx - sum_x * sum_x
    xy = count * sum_xy - sum_x * sum_y
    yy = count * sum_yy - sum_y * sum_y
    if yy == 0:
        return 0.0, 0.0
    return xy / xx, (xy * xy) / (xx * yy)
