"""``forebay replay TRACE``: a trace into a pool, and what it cost."""

import ctypes
import os
import statistics

from .. import _abi
from .._library import check, library, version
from ..pool import POLICIES, Pool
from . import DONE, FOUND
from ._terminal import columns, count, mib, percent, print_json, progress, size


def add_arguments(parser):
    parser.add_argument("trace", help="a trace or a log of RAPIDS RMM, plain or gzip")
    parser.add_argument("--policy", choices=sorted(POLICIES), default="balanced")
    parser.add_argument(
        "--device", default="cpu", help='the pool\'s: "cpu" (the default), "cuda", "cuda:N"'
    )
    parser.add_argument(
        "--limit", type=size, metavar="SIZE", help="what the pool may reserve at most, as 8GiB"
    )
    parser.add_argument(
        "--rounds", type=count(1, 1000), default=3, metavar="N",
        help="replay it N times, 1 to 1000; 3 if not given",
    )  # fmt: skip
    parser.add_argument(
        "--threads", action="store_true",
        help="a thread for each of the trace's, taking turns in its order",
    )  # fmt: skip
    parser.add_argument("--touch", action="store_true", help="write to every page of each block")
    parser.add_argument("--malloc", action="store_true", help="the C library's malloc beside it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _round(pool, path, flags):
    """One round. What the library reports, and the pool's counters behind it."""
    options = _abi.ReplayOptions(struct_size=ctypes.sizeof(_abi.ReplayOptions), flags=flags)
    report = _abi.ReplayReport(struct_size=ctypes.sizeof(_abi.ReplayReport))
    handle = pool.handle if pool else None
    before = pool.statistics() if pool else {}
    check(
        library().forebay_trace_replay(
            handle, os.fsencode(path), ctypes.byref(options), ctypes.byref(report)
        )
    )
    after = pool.statistics() if pool else {}
    found = {name: getattr(report, name) for name, _ in report._fields_[1:]}
    for name in ("hits", "misses", "system_calls"):
        if pool:
            found[name] = after[name] - before[name]
    operations = found["allocations"] + found["frees"]
    found["ns_per_operation"] = found["nanoseconds"] / operations if operations else 0.0
    return found


def run(args) -> int:
    flags = (_abi.REPLAY_TOUCH if args.touch else 0) | (_abi.REPLAY_THREADS if args.threads else 0)
    rounds, malloc = [], []
    try:
        pool = Pool(args.device, max_bytes=args.limit, policy=args.policy)
    except ValueError as error:
        from . import UsageError

        raise UsageError(f"argument --device: {error}") from None
    with pool, progress("replay", "rounds") as shown:
        for number in range(args.rounds):
            shown.done(number, args.rounds)
            # In turn, so that both have the same of whatever else the machine does.
            rounds.append(_round(pool, args.trace, flags))
            if args.malloc:
                malloc.append(_round(None, args.trace, flags))
        reached = pool.statistics()
    failed = sum(one["failed_allocations"] for one in rounds)
    peaks = {
        f"{name}_peak": reached[f"{name}_peak"] for name in ("requested", "allocated", "reserved")
    }
    if args.json:
        print_json({
            "trace": args.trace, "version": version(), "policy": args.policy, "device": pool.device,
            "threads": args.threads, "touch": args.touch, **peaks,
            "trace_peak_requested": rounds[0]["peak_requested"], "failed_allocations": failed,
            "rounds": rounds, "malloc_rounds": malloc,
        })  # fmt: skip
    else:
        _print(args, rounds, malloc, peaks, failed)
    return FOUND if failed else DONE


def _print(args, rounds, malloc, peaks, failed):
    first = rounds[0]
    print(
        f"{args.trace}: {first['allocations']:,} allocations, {first['frees']:,} frees, "
        f"{first['live_at_end']:,} live at the end"
    )
    written = "every page written to" if args.touch else "bookkeeping only"
    print(f"forebay {version()}, policy {args.policy}, {args.device}; {written}; thread CPU time\n")
    sides = [("forebay", rounds)] + ([("malloc", malloc)] if malloc else [])
    heading, lines = ["a round"], {name: [name] for name in _LINES}
    for who, side in sides:
        heading += [f"{who}, first"] + (["later"] if len(side) > 1 else [])
        for name, figure in _LINES.items():
            lines[name].append(figure(side[0]))
            if len(side) > 1:
                lines[name].append(_later(figure, side[1:]))
    columns(lines.values(), heading)
    print()
    reserved = peaks["reserved_peak"]
    columns([
        ("peak requested", f"{mib(peaks['requested_peak'])} MiB"),
        ("peak allocated", f"{mib(peaks['allocated_peak'])} MiB"),
        ("peak reserved", f"{mib(reserved)} MiB"),
        ("in use at the peak", percent(peaks["requested_peak"], reserved)),
    ])  # fmt: skip
    if len(rounds) > 1:
        print("\nlater: the median of the rounds after the first")
    if failed:
        print(f"\n{failed:,} allocations failed: the pool may reserve too little (--limit)")


def _later(figure, rounds):
    """The figure of the round in the middle."""
    middle = statistics.median_low(one["nanoseconds"] for one in rounds)
    return figure(next(one for one in rounds if one["nanoseconds"] == middle))


_LINES = {
    "ns per operation": lambda one: f"{one['ns_per_operation']:,.1f}",
    "page faults": lambda one: f"{one['minor_faults'] + one['major_faults']:,}",
    "system calls": lambda one: f"{one['system_calls']:,}" if "hits" in one else "-",
    "hit rate": lambda one: (
        percent(one["hits"], one["hits"] + one["misses"]) if "hits" in one else "-"
    ),
}
