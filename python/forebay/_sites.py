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

#: Lines that were made, by code and number of each frame; and how many are kept.
_lines, _MOST = {}, 1 << 12

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
    frame, places = sys._getframe(2), []
    while frame is not None and len(places) < 2 * _FRAMES:
        code = frame.f_code
        if not code.co_filename.startswith(_OWN):
            places += code, frame.f_lineno
        frame = frame.f_back
    places = tuple(places)
    line = _lines.get(places)
    if line is None:
        line = " < ".join(map(_text, places[::2], places[1::2])).encode(errors="replace")
        if len(_lines) >= _MOST:
            _lines.clear()
        line = _lines[places] = line.replace(b"\0", b" ")
    return line


def _text(code, number):
    # A folder tells one `model.py` from another; the whole path is long.
    place = "/".join(code.co_filename.rsplit("/", 2)[-2:])
    return f"{place}:{number} {code.co_name}"
