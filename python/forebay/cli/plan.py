"""``forebay plan FILE``: the blocks of a trace in one arena, as low as it gets."""

import contextlib
import ctypes
import heapq
import os
import signal
import threading

from .. import _abi
from .._library import check, library
from ..formats.trace import is_trace
from . import DONE, UsageError
from ._terminal import columns, count, mib, print_json, progress, seconds


def add_arguments(parser):
    parser.add_argument(
        "file", help="a trace, plain or gzip, or a CSV with the columns id,lower,upper,size"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write the plan there, as CSV")
    parser.add_argument(
        "--time", type=seconds, default=1.0, metavar="SECONDS",
        help="stop with the best so far then; 1 if not given. Ctrl-C stops earlier",
    )  # fmt: skip
    parser.add_argument("--seed", type=count(0, 2**64 - 1), default=0, metavar="N")
    parser.add_argument(
        "--alignment", type=count(1, 1 << 30), default=512, metavar="BYTES",
        help="of the blocks of a trace, a power of two; 512 if not given",
    )  # fmt: skip
    parser.add_argument(
        "--top", type=count(0, 10_000), default=10, metavar="N", help="the N largest; 10"
    )
    parser.add_argument(
        "--svg", metavar="FILE", help="draw the plan, below the first greedy one, as a picture"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


class _Lifetime:
    """What a file says of the lives of its blocks, and plans of it."""

    def __init__(self, path, alignment):
        self._open, self._interrupts = contextlib.ExitStack(), []
        handle = ctypes.c_void_p()
        check(library().forebay_lifetime_create(ctypes.byref(handle)))
        self.handle = handle
        self._open.callback(library().forebay_lifetime_destroy, handle)
        name = os.fsencode(path)
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            if is_trace(path):
                check(library().forebay_lifetime_add_trace(handle, name, 0, alignment))
            else:
                check(library().forebay_lifetime_add_instance(handle, name))
            undo.pop_all()

    def close(self):
        self._open.close()

    def plan(self, time, seed=0, flags=0, watch=None):
        """A plan, which ends with this object. ``watch`` is called with bytes, the bound and
        seconds so far. An interrupt ends it with the plan so far, and the next one at once."""
        interrupts = self._interrupts

        @_Progress
        def watching(found, _):
            at = found.contents
            if watch:
                watch(at.arena_bytes, at.lower_bound, at.elapsed_ns * 1e-9)
            return bool(interrupts)

        options = _abi.PlanOptions(
            struct_size=ctypes.sizeof(_abi.PlanOptions), seed=seed, flags=flags
        )
        # Also without a watch: a signal is seen when Python runs.
        options.time_limit_ms, options.progress = round(time * 1000), watching
        plan = ctypes.c_void_p()
        with _interrupted(lambda *_: interrupts.append(True)):
            status = library().forebay_lifetime_plan(
                self.handle, ctypes.byref(options), ctypes.byref(plan)
            )
        check(status)
        self._open.callback(library().forebay_plan_destroy, plan)
        return plan

    def suggestions(self, plan):
        found = _abi.LifetimeSuggestions(struct_size=ctypes.sizeof(_abi.LifetimeSuggestions))
        check(library().forebay_lifetime_suggest(self.handle, plan, ctypes.byref(found)))
        return _fields(found)


_Progress = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(_abi.PlanProgress), ctypes.c_void_p)


@contextlib.contextmanager
def _interrupted(call):
    """Calls ``call`` for an interrupt, which raised in a callback would be lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, call)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _fields(struct):
    names = (name for name, _ in struct._fields_ if name not in ("struct_size", "reserved"))
    return {name: getattr(struct, name) for name in names}


def _summary(plan):
    found = _abi.PlanSummary(struct_size=ctypes.sizeof(_abi.PlanSummary))
    check(library().forebay_plan_summarize(plan, ctypes.byref(found)))
    return _fields(found)


def _largest(plan, tensors, top):
    """The ``top`` largest tensors; of one size, those recorded first."""

    def every():
        for at in range(tensors if top else 0):
            found = _abi.PlanTensor()
            check(library().forebay_plan_tensor_at(plan, at, ctypes.byref(found)))
            yield found.size, -at, found

    found = []
    for _, _, tensor in sorted(heapq.nlargest(top, every()), reverse=True):
        sharers = ctypes.c_size_t()
        check(library().forebay_plan_sharers(plan, tensor.id, None, 0, ctypes.byref(sharers)))
        found.append({**_fields(tensor), "sharers": sharers.value})
    return found


def run(args) -> int:
    if args.alignment & (args.alignment - 1):
        raise UsageError(f"argument --alignment: {args.alignment} is not a power of two")
    lifetime = _Lifetime(args.file, args.alignment)
    with contextlib.closing(lifetime):
        greedy = lifetime.plan(0, flags=_abi.PLAN_GREEDY)
        with progress("plan") as shown:

            def watch(arena, bound, elapsed):
                note = f"{elapsed:.1f} s, {mib(arena)} MiB, {_above(arena, bound)} above the bound"
                shown.done(elapsed, args.time, note)

            plan = lifetime.plan(args.time, args.seed, watch=watch)
        check(library().forebay_plan_validate(plan, lifetime.handle))
        if args.output:
            check(library().forebay_plan_save(plan, os.fsencode(args.output), 0))
        if args.svg:
            check(library().forebay_plan_svg(plan, greedy, os.fsencode(args.svg), 0))
        summary, before = _summary(plan), _summary(greedy)
        largest = _largest(plan, summary["tensors"], args.top)
        suggestions = lifetime.suggestions(plan)
    if args.json:
        print_json({
            "file": args.file, **summary, "optimal": bool(summary["optimal"]),
            "gap_bytes": summary["arena_bytes"] - summary["lower_bound"], "valid": True,
            "greedy_bytes": before["arena_bytes"], "largest": largest, "suggestions": suggestions,
        })  # fmt: skip
    else:
        _print(args, summary, before, largest, suggestions)
    return DONE


def _above(arena, bound):
    return f"{100 * (arena / bound - 1):.2f} %" if bound else "-"


def _print(args, summary, greedy, largest, suggestions):
    bound, arena = summary["lower_bound"], summary["arena_bytes"]
    total = mib(summary["total_bytes"])
    print(f"{args.file}: {summary['tensors']:,} tensors, {total} MiB in all\n")
    columns([
        ("bound", f"{mib(bound)} MiB", "", "the most that lives at a time"),
        ("greedy", f"{mib(greedy['arena_bytes'])} MiB", _above(greedy["arena_bytes"], bound), ""),
        ("arena", f"{mib(arena)} MiB", _above(arena, bound), _how_good(summary)),
    ], left=(0, 3))  # fmt: skip
    if largest:
        print()
        fields = ("id", "lower", "upper", "size", "offset", "sharers")
        rows = [[str(one[name]) for name in fields] for one in largest]
        columns(rows, ("tensor", "from", "until", "bytes", "offset", "sharers"))
    print()
    columns(_advice(suggestions), ("", "tensors", "MiB"))
    for what, path in (("plan", args.output), ("picture", args.svg)):
        if path:
            print(f"\n{what}: {path}")


def _how_good(summary):
    if summary["optimal"]:
        return "checked; no plan is smaller"
    return f"checked; the best of {summary['elapsed_ns'] * 1e-9:.1f} s (--time)"


def _advice(found):
    rows = [
        ("places that others have too", "", found["reusable_bytes"]),
        ("live for a tenth of the time or less", found["temporary_tensors"],
         found["temporary_bytes"]),
        ("live for nine tenths of it or more", found["long_lived_tensors"],
         found["long_lived_bytes"]),
        ("allocated and never used", found["never_read_tensors"], found["never_read_bytes"]),
        ("freed later than after their last use", found["free_earlier_tensors"],
         found["free_earlier_bytes"]),
        ("less at the peak if freed at once", "", found["free_earlier_peak_bytes"]),
    ]  # fmt: skip
    return [(what, f"{number:,}" if number != "" else "", mib(size)) for what, number, size in rows]
