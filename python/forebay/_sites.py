"""Who asks for memory, for traces that say so: the lines that call this package."""

import contextlib
import ctypes
import os
import sys

from ._library import library
from ._opened import Opened

__all__ = ["add", "told"]

#: Frames that are told of each allocation.
_FRAMES = 3

_OWN = os.path.dirname(__file__) + os.sep

#: Where blocks come from: each a ``block.Source``.
_sources = Opened()


def add(source):
    """``source`` is there: it tells, from now on or later, while its pool is traced so."""
    source.number = _sources.number()
    _sources.add(source)
    if source.pool.tells_sites:
        _tell(source)


@contextlib.contextmanager
def told(pool):
    """While this is open, who allocates from ``pool`` tells who asked."""
    pool.tells_sites = True
    for source in _sources.all():
        if source.pool is pool:
            _tell(source)
    try:
        yield
    finally:
        pool.tells_sites = False
        for source in _sources.all():
            if source.pool is pool:
                source.alloc = ctypes.CDLL.__getitem__(library(), "forebay_alloc")


def _tell(source):
    alloc = ctypes.CDLL.__getitem__(library(), "forebay_alloc")
    site = library().forebay_trace_site

    def telling(*arguments):
        site(_here())
        try:
            return alloc(*arguments)
        finally:
            # What the library allocates for other calls of this thread was not asked for here.
            site(None)

    source.alloc = telling


def _here():
    """The innermost frames that are not of this package, as a line."""
    frame, found = sys._getframe(2), []
    while frame is not None and len(found) < _FRAMES:
        code = frame.f_code
        if not code.co_filename.startswith(_OWN):
            # A folder tells one `model.py` from another; the whole path is long.
            place = "/".join(code.co_filename.rsplit("/", 2)[-2:])
            found.append(f"{place}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(found).encode(errors="replace").replace(b"\0", b" ")
