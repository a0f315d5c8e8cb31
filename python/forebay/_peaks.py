"""The most that pools had since any moment, for several who ask at the same time.

A pool has one peak of each kind, which can be started again. Whoever begins a ``Mark`` starts them
again, and what they were is kept for those whose marks are older, and for ``Pool.statistics()``. So
a mark says exactly what happened since it began, however short that was, but for a peak that comes
and goes in the microsecond between reading and starting again.
"""

import os
import threading

from ._library import ForebayError, library, pool_statistics

__all__ = ["PEAKS", "Mark", "before", "forget"]

PEAKS = ("requested_peak", "allocated_peak", "reserved_peak")

_lock = threading.Lock()

#: Marks that have begun and not ended.
_marks = []

#: By handle, which stays its pool's for ever: peaks before they were started again.
_before = {}


def before(handle):
    """The peaks of a pool from before they were started again, by name; empty if they never
    were."""
    return _before.get(handle.value, {})


def forget(handle):
    """The pool's peaks were started again by its user, or it is closed."""
    _before.pop(handle.value, None)


def raised(into, peaks):
    """``into`` with each peak at least as high as in ``peaks``."""
    for name in PEAKS:
        if peaks[name] >= into.get(name, 0):
            into[name] = peaks[name]
    return into


def _counted(pool, again=False):
    """Handle and counters of ``pool``, peaks since they were last started again, which they are
    with ``again``; None when it is closed."""
    try:
        # As long as this is held a pool that is being closed is not destroyed.
        with pool.reading:
            handle = pool.handle
            found = pool_statistics(handle)
            if again:
                library().forebay_pool_reset_peaks(handle)
    except ForebayError:
        return None
    return handle, {name: getattr(found, name) for name, _ in found._fields_[1:]}


class Mark:
    """Begun now: the most that each of ``pools`` has from now on."""

    def __init__(self, pools):
        self._most = {}
        with _lock:
            for pool in pools:
                found = _counted(pool, again=True)
                if found is None:
                    continue
                handle, counted = found
                raised(_before.setdefault(handle.value, {}), counted)
                for mark in _marks:
                    raised(mark._most.setdefault(pool.number, {}), counted)
            _marks.append(self)

    def counters(self, pools):
        """Each of ``pools`` that is open, and its counters now, with the peaks since the mark."""
        told = []
        with _lock:
            for pool in pools:
                found = _counted(pool)
                if found is None:
                    continue
                counted, most = found[1], self._most.get(pool.number)
                if most is not None:
                    raised(counted, most)
                told.append((pool, counted))
        return told

    def end(self):
        with _lock:
            if self in _marks:
                _marks.remove(self)


def _after_fork():
    """Marks are the parent's, and so is who held the lock."""
    global _lock
    _lock = threading.Lock()
    _marks.clear()


os.register_at_fork(after_in_child=_after_fork)
