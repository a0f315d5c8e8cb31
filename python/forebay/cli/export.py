"""``forebay export TRACE``: a trace for other tools."""

import contextlib
import importlib
import json

from ..formats import FormatError
from . import DONE, FOUND, UsageError
from ._terminal import count, note_wrong, print_json, progress

#: The formats, by what a file's name ends in.
_ENDINGS = {
    ".pickle": "torch",
    ".pkl": "torch",
    ".pftrace": "perfetto",
    ".perfetto-trace": "perfetto",
    ".json": "chrome",
    ".csv": "rmm",
    ".csv.gz": "rmm",
}

_FORMATS = ("torch", "perfetto", "chrome", "rmm")


def add_arguments(parser):
    parser.add_argument("trace", help="a trace, plain or gzip")
    parser.add_argument("-o", "--output", metavar="FILE", required=True)
    parser.add_argument(
        "--format", choices=_FORMATS,
        help="torch: a snapshot for pytorch.org/memory_viz; perfetto: for ui.perfetto.dev; "
        "chrome: Chrome's JSON; rmm: RMM's CSV. By default what the name of FILE ends in: "
        + ", ".join(_ENDINGS),
    )  # fmt: skip
    parser.add_argument(
        "--snapshot", metavar="FILE",
        help="torch: the pool's memory at the end, the JSON of Pool.snapshot()",
    )  # fmt: skip
    parser.add_argument(
        "--device", type=count(0, 63), default=0, metavar="N", help="torch: the number of the GPU"
    )
    parser.add_argument(
        "--reserved", metavar="POLICY",
        help="perfetto, chrome: also what a pool of that policy has reserved; the trace is "
        "replayed into one",
    )  # fmt: skip
    parser.add_argument(
        "--name", help="perfetto, chrome: the name of the process; by default TRACE"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _format(args):
    if args.format:
        return args.format
    for ending, found in _ENDINGS.items():
        if args.output.endswith(ending):
            return found
    raise UsageError(f"argument -o: `{args.output}` ends in no known format; name it with --format")


def _snapshot(path):
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        for stretch in found["stretches"]:
            numbers = [stretch["address"], stretch["size"]]
            for address, size, requested, state, _, _ in stretch["pieces"]:
                numbers += (address, size, requested)
                if state not in ("live", "waiting", "free"):
                    raise ValueError(f"state {state!r:.40}")
            if set(map(type, numbers)) != {int} or not 0 <= min(numbers) <= max(numbers) < 1 << 64:
                raise ValueError("a number that is none")
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"`{path}` is not what Pool.snapshot() gives: {error!r:.80}") from None
    return found


def _reserved(policy):
    if policy is None:
        return contextlib.nullcontext()
    from ..formats.reserved import Reserved
    from ..pool import POLICIES

    if policy not in POLICIES:
        raise UsageError(
            f"argument --reserved: {policy!r} is none of {', '.join(sorted(POLICIES))}"
        )
    return Reserved(policy)


def run(args) -> int:
    chosen = _format(args)
    for name in ("snapshot", "name", "reserved"):
        wanted = ("torch",) if name == "snapshot" else ("perfetto", "chrome")
        if getattr(args, name) is not None and chosen not in wanted:
            raise UsageError(f"argument --{name}: the format {chosen} has no place for it")
    with progress("export") as shown:
        if chosen == "torch":
            from ..formats import torch_snapshot

            snapshot = _snapshot(args.snapshot) if args.snapshot else None
            blocks = torch_snapshot.export_trace(
                args.trace, args.output, snapshot, args.device, shown.done
            )
        elif chosen in ("perfetto", "chrome"):
            writer = importlib.import_module(f"forebay.formats.{chosen}")
            with _reserved(args.reserved) as reserved:
                blocks = writer.export_trace(
                    args.trace, args.output, args.name, progress=shown.done, reserved=reserved
                )
        else:
            from ..formats import rmm

            blocks = rmm.export_trace(args.trace, args.output, shown.done)
    if args.json:
        print_json({
            "trace": args.trace, "output": args.output, "format": chosen, "rows": blocks.rows,
            "peak_bytes": blocks.peak, "live_bytes": blocks.bytes, "passed_over": blocks.wrong,
            "first_passed_over": blocks.first_wrong,
        })  # fmt: skip
    else:
        print(f"{args.output}: {blocks.rows:,} rows as {chosen}")
    return FOUND if note_wrong(blocks, args.trace) else DONE
