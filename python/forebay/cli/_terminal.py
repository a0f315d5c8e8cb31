"""What commands print: tables, progress, arguments as people write them."""

import argparse
import contextlib
import json
import sys
import time

from .. import sizes


def print_json(value):
    json.dump(value, sys.stdout, indent=2)
    print()


def columns(rows, heading=None, left=(0,)):
    """Prints rows of texts in columns: to the left those in ``left``, the others to the right."""
    shown = [heading, *rows] if heading else list(rows)
    widths = [max(map(len, column)) for column in zip(*shown)]
    for row in shown:
        cells = (
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths))
        )
        print(("  " + "  ".join(cells)).rstrip())


def mib(size):
    """Bytes in MiB, for a column of them."""
    return f"{size / (1 << 20):,.1f}"


def percent(part, whole):
    return f"{100 * part / whole:.1f} %" if whole else "-"


def count(least, most):
    """The type of an argument: a whole number from ``least`` to ``most``."""

    def parse(text):
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return parse


def seconds(text):
    """The type of an argument: seconds, 0.001 to 3600."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0.001 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.001 to 3600")
    return value


def size(text):
    """The type of an argument: bytes, such as 1073741824, "1GiB" or "5GB"."""
    try:
        return sizes.parse(text, of="what is asked for here")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class Progress:
    """A line on stderr that says how far it is, where stderr is a terminal; else nothing.

    ``done(part, whole)`` draws a bar, ``done(number)`` a number; both at most ten times a second.
    """

    def __init__(self, what, unit="rows"):
        self._what, self._unit = what, unit
        self._next, self._drawn = 0, False
        self._shown = sys.stderr.isatty()

    def done(self, part, whole=None, note=""):
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next, self._drawn = now + 0.1, True
        if whole:
            full = round(30 * min(part / whole, 1))
            text = f"[{'=' * full}{' ' * (30 - full)}]"
        else:
            text = f"{part:,} {self._unit}"
        sys.stderr.write(f"\r\x1b[K{self._what}: {text} {note}"[:100])
        sys.stderr.flush()

    def end(self):
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextlib.contextmanager
def progress(what, unit="rows"):
    """A ``Progress`` that is gone behind the block."""
    shown = Progress(what, unit)
    try:
        yield shown
    finally:
        shown.end()


def note_wrong(blocks, path):
    """Says on stderr which rows of a trace were passed over. True if there were any."""
    if blocks.wrong:
        print(
            f"forebay: `{path}`, {blocks.first_wrong} ({blocks.wrong} such rows in all)",
            file=sys.stderr,
        )
    return blocks.wrong > 0
