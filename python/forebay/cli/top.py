"""``python -m forebay top``: the live view, of another process."""

import contextlib
import json
import sys
import time

from .. import _top, publishing
from .._library import ForebayError

__all__ = ["add_arguments", "run"]


def add_arguments(parser):
    """The arguments of ``python -m forebay top``."""
    parser.add_argument(
        "pid",
        type=int,
        nargs="?",
        metavar="PID",
        help="the process; it may be left out where only one publishes",
    )
    parser.add_argument("--once", action="store_true", help="print it once, and end")
    parser.add_argument("--json", action="store_true", help="print what is published, as JSON")
    parser.add_argument(
        "--interval",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="how often it is read (1); with --once, what rates are over",
    )


def run(args) -> int:
    """What ``python -m forebay top`` does; 0 when all went well, 1 when the process cannot be
    shown, 2 for what was called wrongly. Errors are a line on standard error."""
    if not 0 <= args.interval <= 3600:
        return _failed(f"--interval is {args.interval}; it must be 0 to 3600 seconds", 2)
    try:
        pid = args.pid
        if pid is None:
            states = publishing.published()
            if not states:
                return _failed(
                    "no process publishes: start one with FOREBAY_PUBLISH=1, or call "
                    "forebay.publish() in it",
                    1,
                )
            if len(states) > 1:
                listed = "".join(
                    f"\n{one['pid']:>8}  {_top.plain(one['command'])[:70]}" for one in states
                )
                return _failed(f"several processes publish; name one:{listed}", 2)
            pid = states[0]["pid"]
        state = publishing.read(pid)
    except ForebayError as error:
        return _failed(str(error), 1)
    if args.json:
        print(json.dumps(state))
        return 0
    if args.once or not _top.is_terminal(sys.stdout):
        return _print_once(pid, state, args.interval)
    asked = True
    with _top.ends_well():
        state, asked = _top.live(lambda: publishing.read(pid), max(args.interval, 0.05), sys.stdout)
    if not asked:
        _top.show(state, None, sys.stdout)
        print(f"\nProcess {pid} has ended, or publishes no more.")
    return 0


def _print_once(pid, state, interval):
    """Once, with rates over ``interval`` seconds."""
    before = None
    if interval:
        time.sleep(interval)
        with contextlib.suppress(ForebayError):
            later = publishing.read(pid)
            if later["clock"] != state["clock"]:
                before, state = state, later
    _top.show(state, before, sys.stdout)
    return 0


def _failed(message, status):
    print(f"forebay top: {message}", file=sys.stderr)
    return status
