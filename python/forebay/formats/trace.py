"""Traces: the log of a pool's traffic, a row for each allocation and free, plain or gzip.

The columns are ``Thread,Time,Action,Pointer,Size,Stream``, and perhaps ``Site``: text up to the end
of the line that says where the program asked. Files are read and written piece by piece, whatever
their size.
"""

import collections
import contextlib
import gzip
import os
import re

from . import FormatError
from ._file import created

__all__ = ["ALLOCATE", "FAILURE", "FREE", "HEADER", "Blocks", "Event", "Writer", "is_trace", "read"]

HEADER = "Thread,Time,Action,Pointer,Size,Stream"
#: What it goes on with where rows have a site.
_SITE = ",Site"
ALLOCATE, FREE, FAILURE = "allocate", "free", "allocate failure"

#: One row. ``time`` is in microseconds since the midnight before the first row, and goes on behind
#: the next midnight; ``pointer`` is the block's address, ``size`` the bytes asked for.
Event = collections.namedtuple("Event", "thread time action pointer size stream")

DAY = 86_400_000_000

_LONGEST = 1024
_CHUNK = 1 << 18
_MOST = 1 << 64
_GZIP = b"\x1f\x8b"

_ROW = re.compile(
    rb"([0-9]+),([0-9]{2}:[0-9]{2}:[0-9]{2})\.([0-9]{6}),(allocate|free|allocate failure),"
    rb"(?:0[xX])?([0-9a-fA-F]+|\(nil\)),([0-9]+),(?:0[xX])?([0-9a-fA-F]+|\(nil\))"
)
_COLUMNS = (
    (rb"[0-9]+", "a decimal number below 2^64"),
    (rb"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}", "a time of day as HH:MM:SS.ffffff"),
    (rb"allocate|free|allocate failure", "`allocate`, `allocate failure` or `free`"),
    (rb"(0[xX])?[0-9a-fA-F]+|\(nil\)", "a hexadecimal number below 2^64"),
    (rb"[0-9]+", "a decimal number below 2^64"),
    (rb"(0[xX])?[0-9a-fA-F]+|\(nil\)", "a hexadecimal number below 2^64"),
)
_ACTIONS = {name.encode(): name for name in (ALLOCATE, FREE, FAILURE)}


def shown(text):
    """Bytes of a file in a message: printable, and not too many of them."""
    short = text[:120].decode("ascii", "backslashreplace").encode("unicode_escape").decode()
    return f"`{short}{'...' if len(text) > 120 else ''}`"


def _hexadecimal(text):
    return 0 if text == b"(nil)" else int(text, 16)


@contextlib.contextmanager
def opened(path):
    """The file at ``path`` for reading, unpacked if it is gzip; what goes wrong with it below is a
    ``FormatError``, or an ``OSError`` of the system's."""
    with open(path, "rb") as file:
        packed = file.peek(2)[:2] == _GZIP
        stream = gzip.GzipFile(fileobj=file) if packed else file
        try:
            yield stream
        except (EOFError, gzip.BadGzipFile) as error:
            raise FormatError(f"`{path}`: damaged gzip: {error}") from None
        except Exception as error:
            # zlib's own error, without importing it for the plain ones.
            if packed and type(error).__module__ == "zlib":
                raise FormatError(f"`{path}`: damaged gzip: {error}") from None
            raise


def lines(path, stream):
    """The lines of ``stream`` as bytes, without their ends. None may be longer than any row is."""
    rest, number = b"", 0
    while True:
        chunk = stream.read(_CHUNK)
        if not chunk:
            break
        pieces = (rest + chunk).split(b"\n")
        rest = pieces.pop()
        for piece in pieces:
            number += 1
            if len(piece) > _LONGEST:
                raise FormatError(f"`{path}`, line {number}: longer than {_LONGEST} bytes")
            yield piece[:-1] if piece.endswith(b"\r") else piece
        if len(rest) > _LONGEST:
            raise FormatError(f"`{path}`, line {number + 1}: longer than {_LONGEST} bytes")
    if rest:
        yield rest[:-1] if rest.endswith(b"\r") else rest


def is_trace(path):
    """Whether the file at ``path`` begins as a trace does."""
    with opened(path) as stream:
        return stream.read(len(HEADER)) == HEADER.encode()


def _wrong(path, number, row):
    names = HEADER.split(",")
    fields = row.split(b",")
    for name, (pattern, expected), field in zip(names, _COLUMNS, fields):
        value = None
        if re.fullmatch(pattern, field):
            value = _hexadecimal(field) if "hexa" in expected else 0
            value = int(field) if expected.startswith("a decimal") else value
        if value is None or value >= _MOST:
            return FormatError(
                f"trace `{path}`, line {number}, column {name}: {shown(field)} is not {expected}"
            )
    if len(fields) < len(names):
        what = f"column {names[len(fields)]}: missing in {shown(row)}"
        return FormatError(f"trace `{path}`, line {number}, {what}")
    return FormatError(
        f"trace `{path}`, line {number}: more columns than `{HEADER}` in {shown(row)}"
    )


def read(path):
    """The rows of the trace at ``path``, one ``Event`` after the other.

    Raises ``FormatError`` with line and column where the file is no trace, ``OSError`` where it
    cannot be read.
    """
    with opened(path) as stream:
        found = lines(path, stream)
        first = next(found, b"").decode("latin-1")
        if first == HEADER + _SITE:
            # The text is the last column: it may have commas. Whoever reads rows here has no use for it.
            found = (row if row.count(b",") < 6 else b",".join(row.split(b",", 6)[:6]) for row in found)
        elif first != HEADER:
            raise FormatError(
                f"trace `{path}`, line 1: {shown(first.encode('latin-1'))} is not the header `{HEADER}`"
            )
        yield from _rows(path, found)


def _rows(path, found):
    match, make = _ROW.fullmatch, Event._make
    # The time of day goes on where a day ends: a row half a day back is of the next day.
    days, last, number = 0, 0, 1
    clock, seconds = None, 0
    for row in found:
        number += 1
        parts = match(row)
        if parts is None:
            raise _wrong(path, number, row)
        thread, day_time, fraction, action, pointer, size, stream = parts.groups()
        if day_time != clock:
            hours, minutes, rest = int(day_time[:2]), int(day_time[3:5]), int(day_time[6:])
            if hours > 23 or minutes > 59 or rest > 59:
                raise _wrong(path, number, row)
            clock, seconds = day_time, (hours * 3600 + minutes * 60 + rest) * 1_000_000
        time = days + seconds + int(fraction)
        if time < last - DAY // 2:
            days += DAY
            time += DAY
        last = time
        thread, pointer = int(thread), _hexadecimal(pointer)
        size, stream = int(size), _hexadecimal(stream)
        if thread >= _MOST or pointer >= _MOST or size >= _MOST or stream >= _MOST:
            raise _wrong(path, number, row)
        yield make((thread, time, _ACTIONS[action], pointer, size, stream))


class Writer:
    """Writes a trace to the file ``path``, as gzip when the name ends in ".gz".

    A context manager. ``write`` takes rows; when the block is left by an error, there is no file.
    With ``sites`` rows have one.
    """

    def __init__(self, path, sites=False):
        self._path = os.fspath(path)
        self._sites = sites
        self._rows = [f"{HEADER}{_SITE if sites else ''}\n"]
        self.count = 0
        self._clock, self._text = None, ""

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(created(self._path))
            if self._path.endswith(".gz"):
                self._file = stack.enter_context(gzip.GzipFile("", "wb", 6, self._file, 0))
            self._close = stack.pop_all()
        return self

    def write(self, thread, time, action, pointer, size, stream, site=""):
        """Appends a row; the fields are ``Event``'s. Of ``time`` the time of day is kept. ``site`` is
        one line, and left out where rows have none."""
        seconds, fraction = divmod(time, 1_000_000)
        if seconds != self._clock:
            minutes, rest = divmod(seconds % 86_400, 60)
            self._clock = seconds
            self._text = f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"
        end = f",{site}\n" if self._sites else "\n"
        self._rows.append(
            f"{thread},{self._text}.{fraction:06},{action},{pointer:#x},{size},{stream:#x}{end}"
        )
        self.count += 1
        if len(self._rows) >= 4096:
            self._flush()

    def _flush(self):
        self._file.write("".join(self._rows).encode())
        self._rows.clear()

    def __exit__(self, *error):
        with self._close.pop_all() as stack:
            # What ends the block is what the file is told, or an error while the rest is written.
            if error[0] is not None:
                return stack.__exit__(*error)
            self._flush()


class Blocks:
    """Follows the blocks of a trace from row to row.

    ``live`` has size, stream and thread of each by its address. Rows that make no sense, such as a
    free of what is not live, are passed over and counted in ``wrong``; ``first_wrong`` tells of the
    first. ``bytes`` are live now, ``peak`` at most; ``rows`` were read.
    """

    def __init__(self):
        self.live = {}
        self.bytes = self.peak = self.wrong = self.rows = 0
        self.first_wrong = None

    def follow(self, events):
        """For each of ``events`` that changes something, or failed: the event, and the block's
        bytes and stream as it was allocated with."""
        live = self.live
        for number, event in enumerate(events, 2):
            _, _, action, pointer, size, stream = event
            self.rows += 1
            if action == ALLOCATE:
                if pointer and pointer not in live:
                    live[pointer] = (size, stream)
                    self.bytes += size
                    if self.bytes > self.peak:
                        self.peak = self.bytes
                    yield event, size, stream
                elif pointer or size:
                    # No bytes at the null pointer are nothing, and no mistake.
                    what = "which is live" if pointer else f"which has {size} bytes"
                    self._count(f"line {number}: allocate of {pointer:#x}, {what}")
            elif action == FREE:
                block = live.pop(pointer, None)
                if block is not None:
                    self.bytes -= block[0]
                    if block[0] != size:
                        self._count(
                            f"line {number}: free of {pointer:#x} with {size} bytes, which has "
                            f"{block[0]}"
                        )
                    yield event, *block
                elif pointer or size:
                    self._count(f"line {number}: free of {pointer:#x}, which is not live")
            else:
                yield event, size, stream

    def _count(self, what):
        self.wrong += 1
        if self.first_wrong is None:
            self.first_wrong = what
