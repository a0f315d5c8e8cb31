"""Logs of RAPIDS RMM: the CSV of its logging resource adaptor.

A trace of forebay's is such a log already. Those in the field are of many versions: with the
microseconds behind a colon, with a column more, in quotes, with pointers as ``%p`` has them.
"""

import csv
import re

from . import FormatError, trace

__all__ = ["export_trace", "import_trace"]

_TIME = re.compile(r"(\d{1,2}):(\d{2}):(\d{2})(?:[.:,](\d{1,9}))?$", re.ASCII)
_NUMBER = re.compile(r"\d+$", re.ASCII)
_HEXADECIMAL = re.compile(r"(?:0[xX])?[0-9a-fA-F]+$")
_NULL = {"(nil)", "nullptr", "NULL", "0x0"}
_ACTIONS = {
    "allocate": trace.ALLOCATE,
    "free": trace.FREE,
    "deallocate": trace.FREE,
    "allocate failure": trace.FAILURE,
}
_NEEDED = ("thread", "time", "action", "pointer", "size", "stream")


def _number(text):
    return int(text) if _NUMBER.match(text) else None


def _hexadecimal(text):
    if text in _NULL:
        return 0
    return int(text, 16) if _HEXADECIMAL.match(text) else None


def _time(text):
    found = _TIME.match(text)
    if not found:
        return None
    hours, minutes, seconds = (int(part) for part in found.groups()[:3])
    if hours > 23 or minutes > 59 or seconds > 59:
        return None
    # Microseconds, whatever number of digits the log has.
    fraction = int(((found.group(4) or "") + "000000")[:6])
    return ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction


_READ = {
    "thread": (_number, "a decimal number"),
    "time": (_time, "a time of day as HH:MM:SS.ffffff"),
    "action": (_ACTIONS.get, "`allocate`, `allocate failure` or `free`"),
    "pointer": (_hexadecimal, "a hexadecimal number"),
    "size": (_number, "a decimal number"),
    "stream": (_hexadecimal, "a hexadecimal number"),
}


def _rows(path):
    with trace.opened(path) as stream:
        text = (line.decode("utf-8", "replace") for line in trace.lines(path, stream))
        try:
            yield from csv.reader(text)
        except csv.Error as error:
            raise FormatError(f"log `{path}`: {error}") from None


def import_trace(log, out, progress=None):
    """Reads the RMM log ``log`` and writes it as a trace to ``out``. Returns the number of rows.

    Columns are found by the names in the header; those that a trace does not have are left out.
    ``progress`` is called now and then with the number of rows so far. Raises ``FormatError`` with
    line and column.
    """
    rows = _rows(log)
    header = [name.strip().lower() for name in next(rows, [])]
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise FormatError(f"log `{log}`, line 1: there is no column {missing[0].capitalize()}")
    columns = [(name, header.index(name), *_READ[name]) for name in _NEEDED]
    with trace.Writer(out) as writer:
        for number, row in enumerate(rows, 2):
            if not row:
                continue
            values = []
            for name, at, parse, expected in columns:
                text = row[at].strip() if at < len(row) else ""
                value = parse(text)
                if value is None or (name != "action" and value >= 1 << 64):
                    place = f"log `{log}`, line {number}, column {name.capitalize()}"
                    raise FormatError(f"{place}: {trace.shown(text.encode())} is not {expected}")
                values.append(value)
            writer.write(*values)
            if progress and not number & 0xFFFF:
                progress(number)
    return writer.count


def export_trace(source, out, progress=None):
    """Writes the trace ``source`` as RMM itself writes its log to ``out``, for its replay benchmark
    and for what reads its logs: every row, whether it makes sense or not.

    Returns the ``trace.Blocks`` at the end. ``progress`` is called now and then with the number of
    rows so far.
    """
    blocks = trace.Blocks()
    with trace.Writer(out) as writer:

        def written():
            for event in trace.read(source):
                writer.write(*event)
                yield event

        for number, _ in enumerate(blocks.follow(written())):
            if progress and not number & 0x3FFF:
                progress(number)
    return blocks
