"""Reports: a trace as one page to read, and its numbers."""

import contextlib
import ctypes
import html
import json
import os
import sys
import tempfile

from . import _abi
from ._library import check, library
from .pool import POLICIES, Pool

__all__ = ["Report", "report"]


class Report:
    """What ``report`` made of a trace.

    ``path`` is the file of the page, None if it was not kept; ``html`` its text. In a notebook the
    object shows the page.
    """

    def __init__(self, path, page):
        self.path, self.html = path, page
        self._numbers = None

    @property
    def numbers(self):
        """The numbers of the page, as a dict: bytes by name, times in nanoseconds, or in events
        where ``axis`` is ``"events"``. ``peak``, ``plan`` (None without one), ``actions``,
        ``holders`` (who held the peak, by size), ``left`` (what is live at the end), ``sizes``,
        ``streams``, ``threads``, and ``series``, over time, in stretches of ``series["width"]``."""
        if self._numbers is None:
            start = '<script type="application/json" id="data">'
            data = self.html.partition(start)[2].partition("</script>")[0]
            self._numbers = json.loads(data)
        return self._numbers

    @property
    def faults(self):
        """Rows of the trace that make no sense, and are in none of the other numbers."""
        return self.numbers["faults"]

    def __repr__(self):
        peak = self.numbers["peak"]["live_bytes"]
        where = f", {self.path}" if self.path else ""
        return f"<forebay report {self.numbers['title']!r}: peak {_bytes(peak)}{where}>"

    def _repr_html_(self):
        # Scripts of the page run in a frame that reaches nothing outside of it.
        return (
            '<iframe sandbox="allow-scripts" style="width:100%;height:44rem;border:0" '
            f'title="forebay report" srcdoc="{html.escape(self.html)}"></iframe>'
        )


def report(
    trace: "str | os.PathLike",
    out: "str | os.PathLike | None" = None,
    *,
    title: str = "",
    max_points: int = 0,
    plan_time: float = 1.0,
    by_events: bool = False,
    pool=None,
    progress=None,
) -> Report:
    """Reads the trace in the file ``trace``, plain or gzip, and writes the page to the file
    ``out``; None keeps it in memory.

    ``title`` is the heading (empty: the file's name), ``max_points`` the most points of a track
    over time (0: 2000, else 100 to 4000), ``plan_time`` the seconds that the planner may take (0:
    no plan). ``by_events`` has events from left to right instead of time. ``pool`` is a
    ``forebay.Pool`` that does what the trace says while it is read, so that the page has what it
    reserves too; it has all its blocks back afterwards. ``progress`` is called with the rows that were read and whether the plan is being made; when it returns false, or
    Ctrl-C is pressed, the page is about what there is so far, and ``numbers["whole"]`` is false if
    rows were not read.

    Raises ``ForebayError`` with the library's message; ``out`` is then as it was. Rows that free
    what was never allocated are no error: ``faults`` counts them, and the page names the first.
    """
    if not 0 <= plan_time <= 3600:
        raise ValueError(f"plan_time is {plan_time!r}; it must be from 0 to 3600 seconds")

    @_Progress
    def told(found, _):
        at = found.contents
        try:
            # None, of a function that returns nothing, goes on.
            more = progress is None or progress(at.events, bool(at.planning)) in (None, True)
        except KeyboardInterrupt:
            more = False
        return 0 if more else 1

    options = _abi.ReportOptions(struct_size=ctypes.sizeof(_abi.ReportOptions))
    options.title, options.max_points = title.encode(errors="replace"), max_points
    options.plan_time_limit_ms, options.progress = max(1, round(plan_time * 1000)), told
    if pool is not None:
        options.pool = pool.handle
    if by_events:
        options.flags |= _abi.REPORT_BY_EVENTS
    if plan_time == 0:
        options.flags |= _abi.REPORT_NO_PLAN
    with contextlib.ExitStack() as stack:
        # Beside its place, so that a page is there whole or not at all.
        folder = None if out is None else os.path.dirname(os.path.abspath(out))
        beside = stack.enter_context(tempfile.TemporaryDirectory(prefix=".forebay-", dir=folder))
        made = os.path.join(beside, "page.html")
        status = library().forebay_trace_report(
            os.fsencode(trace), os.fsencode(made), ctypes.byref(options)
        )
        # Some rows make no sense, and the page says which.
        if not (status == _abi.ERROR_MALFORMED_TRACE and os.path.exists(made)):
            check(status)
        with open(made, encoding="utf-8") as file:
            page = file.read()
        if out is not None:
            os.replace(made, out)
    return Report(None if out is None else os.fspath(out), page)


_Progress = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(_abi.ReportProgress), ctypes.c_void_p)


def _bytes(number):
    """Bytes to three digits."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    at = min(max(number.bit_length() - 1, 0) // 10, len(units) - 1)
    value = number / (1 << 10 * at)
    return f"{round(value)} {units[at]}" if value >= 999.5 else f"{value:.3g} {units[at]}"


def add_arguments(parser):
    """The arguments of ``python -m forebay report``."""
    parser.add_argument("trace", help="a trace, plain or gzip")
    parser.add_argument("-o", "--output", metavar="FILE", help="the page; report.html if not given")
    parser.add_argument("--title", default="", help="the heading; the file's name if not given")
    parser.add_argument(
        "--points", type=int, default=0, metavar="N",
        help="points of a track over time, 100 to 4000; 2000 if not given",
    )  # fmt: skip
    parser.add_argument(
        "--time", type=float, default=1.0, metavar="SECONDS",
        help="for the plan; 0 leaves it out, 1 if not given",
    )  # fmt: skip
    parser.add_argument(
        "--events", action="store_true", help="events instead of time from left to right"
    )
    parser.add_argument(
        "--pool", metavar="POLICY", choices=list(POLICIES),
        help="have a host pool of this policy do the same, and show what it reserves",
    )  # fmt: skip
    parser.add_argument("--open", action="store_true", help="show the page in a browser")
    parser.add_argument(
        "--json", action="store_true",
        help="print the numbers, but for those over time, as one JSON object",
    )  # fmt: skip


def run(args) -> int:
    """``python -m forebay report``: 0, or 1 when rows of the trace make no sense."""
    out = args.output or "report.html"
    shown = sys.stderr.isatty()

    def progress(events, planning):
        sys.stderr.write(f"\r\x1b[Kreport: {events:,} rows{', planning' if planning else ''}")
        sys.stderr.flush()

    with contextlib.ExitStack() as stack:
        if shown:
            stack.callback(sys.stderr.write, "\r\x1b[K")
        pool = stack.enter_context(Pool(policy=args.pool)) if args.pool else None
        made = report(
            args.trace, out, title=args.title, max_points=args.points, plan_time=args.time,
            by_events=args.events, pool=pool, progress=progress if shown else None,
        )  # fmt: skip
    numbers = made.numbers
    if args.json:
        short = {name: value for name, value in numbers.items() if name not in ("series", "groups")}
        json.dump({"page": out, **short}, sys.stdout, indent=2)
        print()
    else:
        _print(numbers, out)
    if args.open:
        import pathlib
        import webbrowser

        webbrowser.open(pathlib.Path(out).resolve().as_uri())
    if made.faults:
        said = f"forebay: {args.trace}: {made.faults} rows make no sense; see the page"
        print(said, file=sys.stderr)
    return 1 if made.faults else 0


def _print(numbers, out):
    peak, plan = numbers["peak"], numbers["plan"]
    rows = [
        ("events", f"{numbers['events']:,}"),
        ("peak of live bytes", _bytes(peak["live_bytes"])),
        ("allocated for them", _bytes(peak["allocated_bytes"])),
        ("on pages, at the most", _bytes(numbers["most_pages_bytes"])),
    ]
    if numbers["reserved"]:
        rows.append(("reserved by a pool", _bytes(numbers["reserved"]["most_bytes"])))
    if plan:
        rows.append(("arena of a plan", _bytes(plan["arena_bytes"])))
    for name, value in rows:
        print(f"{name:24}{value:>14}")
    for action in numbers["actions"]:
        print(f"\n{_bytes(action['bytes'])}: {action['found']}\n  {action['advice']}")
    print(f"\npage: {out}")
