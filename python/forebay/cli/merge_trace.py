"""``forebay merge-trace TRACE...``: the traces of ranks in one file, for Perfetto."""

import json
import os

from ..formats import FormatError, perfetto
from . import DONE, FOUND, UsageError
from ._terminal import note_wrong, print_json, progress

#: Beside a trace: rank, world size, and what is added to its times to come to those of rank 0.
_SIDECAR = ".rank.json"

#: A day, which no two clocks are apart.
_MOST = 86_400_000_000_000


def add_arguments(parser):
    parser.description = (
        "A process for each trace, on one clock. What a clock is ahead or behind is read from "
        f"TRACE{_SIDECAR}, as forebay.contrib.torchrun writes it, or given with --offset."
    )
    parser.add_argument("traces", nargs="+", metavar="TRACE", help="of one rank, plain or gzip")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="for ui.perfetto.dev")
    parser.add_argument(
        "--offset", action="append", type=_offset, default=[], metavar="N=NANOSECONDS",
        help="add this to the times of trace N, counted from 0 in the order given here",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _offset(text):
    import argparse

    number, equals, value = text.partition("=")
    try:
        found = int(number), int(value)
    except ValueError:
        found = -1, 0
    if not equals or found[0] < 0 or abs(found[1]) > _MOST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not N=NANOSECONDS, a number and at most a day either way"
        )
    return found


def _beside(path):
    """Rank and offset in the file beside the trace; None and 0 where there is none."""
    name = path + _SIDECAR
    try:
        with open(name, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        return None, 0
    except ValueError as error:
        raise FormatError(f"`{name}`: {error}") from None
    values = []
    for key in ("rank", "clock_offset_ns"):
        value = found.get(key, 0) if isinstance(found, dict) else None
        if type(value) is not int or abs(value) > _MOST:
            raise FormatError(f"`{name}`: {key} is {value!r:.60}, and no number that it can be")
        values.append(value)
    return tuple(values)


def run(args) -> int:
    given = dict(args.offset)
    if given and max(given) >= len(args.traces):
        raise UsageError(
            f"argument --offset: there is no trace {max(given)}; there are {len(args.traces)}, "
            "from 0"
        )
    sources = []
    for number, path in enumerate(args.traces):
        rank, offset = _beside(path)
        who = f"rank {number if rank is None else rank}: {os.path.basename(path)}"
        sources.append((path, who, given.get(number, offset)))
    with progress("merge-trace") as shown:
        found = perfetto.merge_traces(sources, args.output, shown.done)
    if args.json:
        print_json({
            "output": args.output,
            "traces": [
                {"trace": path, "name": who, "offset_ns": offset, "rows": blocks.rows,
                 "peak_bytes": blocks.peak, "passed_over": blocks.wrong}
                for (path, who, offset), blocks in zip(sources, found)
            ],
        })  # fmt: skip
    else:
        for (_, who, offset), blocks in zip(sources, found):
            print(f"{who}: {blocks.rows:,} rows{f', moved by {offset:+,} ns' if offset else ''}")
        print(f"{args.output}: for https://ui.perfetto.dev")
    # All of them, not only up to the first that has some.
    wrong = [note_wrong(blocks, path) for (path, *_), blocks in zip(sources, found)]
    return FOUND if any(wrong) else DONE
