"""``forebay import FILE``: the files of other tools as a trace."""

from . import DONE, UsageError
from ._terminal import count, print_json, progress

_FORMATS = ("torch", "rmm")


def add_arguments(parser):
    parser.add_argument("file", help="a memory snapshot of PyTorch, or a log of RAPIDS RMM")
    parser.add_argument("-o", "--output", metavar="TRACE", required=True, help=".gz: as gzip")
    parser.add_argument(
        "--format", choices=_FORMATS, help="by default what the first bytes of the file are"
    )
    parser.add_argument(
        "--device", type=count(0, 1023), metavar="N",
        help="torch: the number of the GPU, if there are several",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _format(args):
    if args.format:
        return args.format
    with open(args.file, "rb") as file:
        start = file.read(2)
    # A pickle begins with its protocol; a log is text, or gzip.
    return "torch" if start[:1] == b"\x80" else "rmm"


def run(args) -> int:
    chosen = _format(args)
    if args.device is not None and chosen != "torch":
        raise UsageError(f"argument --device: the format {chosen} has no devices")
    with progress("import", "events") as shown:
        if chosen == "torch":
            from ..formats import torch_snapshot

            found = torch_snapshot.import_trace(args.file, args.output, args.device, shown.done)
            rows, more = found.rows, {"earlier": found.earlier, "replaced": found.replaced}
        else:
            from ..formats import rmm

            rows, more = rmm.import_trace(args.file, args.output, shown.done), {}
    if args.json:
        print_json({
            "file": args.file, "output": args.output, "format": chosen, "rows": rows, **more,
        })  # fmt: skip
        return DONE
    print(f"{args.output}: {rows:,} rows from {chosen}")
    if more.get("earlier"):
        print(f"  {more['earlier']:,} blocks lived before the history began; they come first")
    if more.get("replaced"):
        print(f"  {more['replaced']:,} blocks were replaced with no free; it is there now")
    return DONE
