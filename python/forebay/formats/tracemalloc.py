"""Blocks of pools in ``tracemalloc``, in a domain of their own beside what Python allocates.

    from forebay.formats import tracemalloc as blocks

    blocks.start()
    ...
    snapshot = tracemalloc.take_snapshot()
    for line in blocks.lines(snapshot):
        print(line["file"], line["line"], line["bytes"])
    blocks.stop()

Whatever reads ``tracemalloc`` sees them then: ``snapshot.filter_traces`` with
``tracemalloc.DomainFilter(True, DOMAIN)`` leaves them alone, with False what is not forebay's. It
is told of blocks that come from ``forebay.memory``'s pools while it is on; an allocation takes some
microseconds more.
"""

import ctypes
import os
import tracemalloc

from .. import _observe
from .._ledger import HERE
from .._library import ForebayError

__all__ = ["DOMAIN", "lines", "start", "stop"]

#: The number of the domain.
DOMAIN = 0xF08E

#: So many frames may be this package's, between a block and the line that asked for it.
_OURS = 6

# As long as these run no other thread's Python does.
_track = ctypes.pythonapi.PyTraceMalloc_Track
_track.restype, _track.argtypes = ctypes.c_int, [ctypes.c_uint, ctypes.c_size_t, ctypes.c_size_t]
_untrack = ctypes.pythonapi.PyTraceMalloc_Untrack
_untrack.restype, _untrack.argtypes = ctypes.c_int, [ctypes.c_uint, ctypes.c_size_t]

_started = False


def _tell(_, address, size):
    if size > 0:
        _track(DOMAIN, address, size)
    else:
        _untrack(DOMAIN, address)


def start(frames: int = 12) -> None:
    """Begins to tell ``tracemalloc`` of blocks, and starts it with ``frames`` frames a trace where
    it is not running. Raises ``ValueError`` when those are less than 7, and ``ForebayError`` when
    it runs with less: the last ones are this package's."""
    global _started
    if frames <= _OURS:
        raise ValueError(f"frames is {frames}; it must be {_OURS + 1} or more")
    if not tracemalloc.is_tracing():
        tracemalloc.start(frames)
        _started = True
    elif tracemalloc.get_traceback_limit() <= _OURS:
        raise ForebayError(
            f"tracemalloc keeps {tracemalloc.get_traceback_limit()} frames a trace; "
            f"start it with {_OURS + 1} or more, as tracemalloc.start({frames})"
        )
    if _tell not in _observe.observers:
        _observe.observers.append(_tell)


def stop() -> None:
    """Ends what ``start`` began, ``tracemalloc`` too if it was started there: blocks that live then
    stay in its books otherwise. Safe to call twice."""
    global _started
    if _tell in _observe.observers:
        _observe.observers.remove(_tell)
    if _started:
        _started = False
        tracemalloc.stop()


def lines(snapshot) -> list:
    """Who holds the blocks in ``snapshot``: {"file", "line", "bytes", "blocks"}, most bytes first,
    of the first line outside this package."""
    held = {}
    only = snapshot.filter_traces([tracemalloc.DomainFilter(inclusive=True, domain=DOMAIN)])
    for trace in only.traces:
        # The most recent frame is the last.
        for frame in reversed(trace.traceback):
            if not os.path.abspath(frame.filename).startswith(HERE):
                break
        else:
            frame = trace.traceback[-1]
        line = held.setdefault((frame.filename, frame.lineno), [0, 0])
        line[0] += trace.size
        line[1] += 1
    found = [
        {"file": file, "line": line, "bytes": size, "blocks": blocks}
        for (file, line), (size, blocks) in held.items()
    ]
    return sorted(found, key=lambda one: -one["bytes"])
