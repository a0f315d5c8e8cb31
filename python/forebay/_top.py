"""A live view of the pools, caches and prefetchers of a process, in a terminal.

``python -m forebay top PID`` shows a process that publishes (``forebay.publish``),
``forebay.top()`` this one.
"""

import contextlib
import os
import select
import shutil
import signal
import sys
import threading
import time
from unicodedata import combining, east_asian_width

from . import publishing
from ._library import ForebayError
from ._units import count, fitted, share, size, span

__all__ = ["top"]

#: How often a terminal is looked at whether it has another size.
_GLANCE = 0.25

_BOLD, _DIM, _LIVE, _HELD, _ALARM = "1", "2", "36", "34", "31"


# ----- what is shown


def plain(text):
    """A name as it can be shown, a column a character: what it is called is up to the program that
    is watched."""
    return "".join(
        one
        if one.isprintable() and not combining(one) and east_asian_width(one) not in "WF"
        else "?"
        for one in str(text)
    )


class _Painter:
    """Lines of so many columns, in colour or not, with blocks or plain characters."""

    def __init__(self, width, colour, blocks):
        self.width, self.colour = width, colour
        self.live, self.held, self.free = "█▒░" if blocks else "#=."
        self.ellipsis = "…" if blocks else "~"

    def line(self, *parts):
        """Parts are text, or text and how it looks; what is beyond the width is cut off."""
        left, made = self.width, ""
        for part in parts:
            text, look = part if isinstance(part, tuple) else (part, "")
            text = text[:left]
            left -= len(text)
            if not self.colour or not look or not text:
                made += text
            else:
                made += f"\x1b[{look}m{text}\x1b[0m"
        return made

    def fit(self, text, width):
        return fitted(plain(text), width).replace("…", self.ellipsis)

    def bar(self, live, held, whole, width):
        """Parts of a bar: what is live, what is held besides, and the rest."""
        whole = max(whole, held, live, 1)
        # What is there is seen.
        first = max(round(width * live / whole), 1) if live else 0
        second = max(round(width * held / whole), first, 1) if held else first
        return (
            (self.live * first, _LIVE),
            (self.held * (second - first), _HELD),
            (self.free * (width - second), _DIM),
        )


def _rate(now, before, name, seconds):
    """How many a second, between two readings; None when there is only one."""
    if before is None or not seconds or name not in now or name not in before:
        return None
    return max(now[name] - before[name], 0) / seconds


def _told(rate):
    return "-" if rate is None else count(rate)


def _hits(now, before):
    """Hits of what was asked for since the reading before, or of all."""
    for first in (before, None):
        hits = now["hits"] - (first["hits"] if first else 0)
        asked = hits + now["misses"] - (first["misses"] if first else 0)
        if asked > 0:
            return share(hits, asked)
    return "-"


def _by_number(things):
    return {one["number"]: one for one in things}


def _scale(pool):
    """What a bar is of: the limit, where it is within reach, else the most that was reserved."""
    limit, most = pool["limit_bytes"], pool["reserved_peak"]
    return (limit, "[]") if limit <= 8 * most else (most, "()")


def _pool_lines(paint, state, before, seconds):
    earlier = _by_number(before["pools"]) if before else {}
    # What is left of the numbers is for names, and bars.
    room = paint.width - 51
    longest = max(len(str(pool["name"])) for pool in state["pools"])
    name = max(min(longest, 32, room - 8), 6)
    bar = max(room - name, 4)
    head = f"{'Pools':{name}} {'':{bar + 2}}"
    head += f"{'live':>9}{'reserved':>9}{'limit':>9}{'allocs/s':>9}{'hits':>6}{'torn':>6}"
    lines = [paint.line((head, _BOLD))]
    for pool in sorted(state["pools"], key=lambda one: -one["reserved_bytes"]):
        old = earlier.get(pool["number"])
        whole, ends = _scale(pool)
        torn = pool.get("external_fragmentation")
        near = pool["reserved_bytes"] > 0.95 * pool["limit_bytes"]
        lines.append(
            paint.line(
                f"{paint.fit(pool['name'], name):{name}} {ends[0]}",
                *paint.bar(pool["allocated_bytes"], pool["reserved_bytes"], whole, bar),
                f"{ends[1]}{_short(pool['allocated_bytes']):>9}",
                (f"{_short(pool['reserved_bytes']):>9}", _ALARM if near else ""),
                f"{_short(pool['limit_bytes']):>9}",
                f"{_told(_rate(pool, old, 'allocations', seconds)):>9}{_hits(pool, old):>6}",
                f"{'-' if torn is None else share(torn, 1):>6}",
            )
        )
    return lines


def _short(number):
    return size(number).replace(" ", "").replace("iB", "i") if number else "0"


def _cache_lines(paint, state, before, seconds):
    earlier = _by_number(before["caches"]) if before else {}
    name = max(paint.width - 54, 12)
    head = f"{'Caches':{name}} {'bytes':>9}{'tensors':>9}{'gets/s':>9}{'hits':>7}{'evicted':>9}  "
    lines = [paint.line((head + "policy", _BOLD))]
    for one in sorted(state["caches"], key=lambda one: -one["bytes"]):
        old = earlier.get(one["number"])
        rates = [_rate(one, old, which, seconds) for which in ("hits", "misses")]
        gets = None if None in rates else sum(rates)
        lines.append(
            paint.line(
                f"{paint.fit(one['name'], name):{name}} {_short(one['bytes']):>9}"
                f"{count(one['entries']):>9}{_told(gets):>9}{_hits(one, old):>7}"
                f"{count(one['evicted']):>9}  {plain(one['policy'])}"
            )
        )
    return lines


def _prefetch_lines(paint, state, before, seconds):
    earlier = _by_number(before["prefetchers"]) if before else {}
    name = max(paint.width - 62, 12)
    head = (
        f"{'Prefetch':{name}} {'batches':>9}{'batch/s':>9}{'copied/s':>10}{'late':>7}{'slots':>7}  "
    )
    lines = [paint.line((head + "verdict", _BOLD))]
    for one in state["prefetchers"]:
        old = earlier.get(one["number"])
        copied = _rate(one, old, "bytes_copied", seconds)
        slots = f"{one.get('used_slots', 0)}/{one.get('slots', 0)}"
        verdict = plain(one.get("verdict", "-"))
        look = _ALARM if not verdict.endswith("compute") else ""
        lines.append(
            paint.line(
                f"{paint.fit(one['name'], name):{name}} {count(one.get('num_items', 0)):>9}"
                f"{_told(_rate(one, old, 'num_items', seconds)):>9}"
                f"{'-' if copied is None else _short(copied):>10}"
                f"{count(one.get('late', 0)):>7}{slots:>7}  ",
                (verdict, look),
            )
        )
    return lines


def _head_lines(paint, state):
    process, machine = state["process"], state["machine"]
    age = f"pid {state['pid']}"
    command = paint.fit(state.get("command", ""), max(paint.width - len(age) - 11, 10))
    first = paint.line(("forebay ", _BOLD), f"{command}  ", (age, _DIM))
    parts = f"process {size(process['rss_bytes'])}, at most {size(process['peak_rss_bytes'])}"
    if "system_available" in machine:
        parts += f"; left {size(machine['system_available'])}"
    if "pressure_some_avg10" in machine:
        parts += f"; pressure {machine['pressure_some_avg10']:.1f} %"
    level = machine.get("level", "")
    alarm = _ALARM if level not in ("", "ok") else ""
    source = machine.get("limit_source", "")
    tail = f"  {plain(level)}" + (
        f" ({plain(source)})" if source not in ("", "MemAvailable") else ""
    )
    lines = [first, paint.line(parts, (tail, alarm))]
    gpus = [
        f"GPU {gpu['index']}: {size(gpu['free'])} of {size(gpu['total'])} left"
        for gpu in machine.get("gpus", ())
        if gpu.get("free") is not None and gpu.get("total") is not None
    ]
    return [*lines, paint.line("; ".join(gpus))] if gpus else lines


def render(state, before=None, *, width=80, height=None, colour=False, blocks=True, foot=""):
    """The lines of the view: ``width`` columns, and no more than ``height`` lines if that is given.
    ``before`` is a reading before ``state``, for what is a rate."""
    paint = _Painter(width, colour, blocks)
    seconds = state["clock"] - before["clock"] if before else 0
    sections = []
    if state["pools"]:
        sections.append(_pool_lines(paint, state, before, seconds))
    if state["caches"]:
        sections.append(_cache_lines(paint, state, before, seconds))
    if state["prefetchers"]:
        sections.append(_prefetch_lines(paint, state, before, seconds))
    lines = _head_lines(paint, state)
    if not sections:
        lines += ["", paint.line("No pool, cache or prefetcher is open.")]
    room = None if height is None else height - len(lines) - (2 if foot else 0)
    for section in _shared(sections, room):
        shown, left = section
        lines += ["", *shown]
        if left:
            lines.append(paint.line((f"  and {left} more", _DIM)))
    if foot:
        if height is not None:
            lines = lines[: height - 1]
            lines += [""] * (height - 1 - len(lines))
        else:
            lines.append("")
        lines.append(paint.line((foot, _DIM)))
    return lines


def _shared(sections, room):
    """Each section as far as there is room, and how many of its rows there is none for. A line in
    front of each, and one that says what is missing, are counted."""
    if room is None or sum(len(section) + 1 for section in sections) <= room:
        return [(section, 0) for section in sections]
    # Short ones whole, and the rest for the long ones.
    shown, left = {}, room - sum(3 for _ in sections)
    order = sorted(range(len(sections)), key=lambda place: len(sections[place]))
    for rank, place in enumerate(order):
        rows = len(sections[place]) - 1
        mine = max(min(rows, left // (len(order) - rank)), 0)
        left -= mine
        shown[place] = (sections[place][: 1 + mine], rows - mine)
    return [shown[place] for place in range(len(sections))]


# ----- where it is shown


class _Terminal:
    """The screen and keys of a terminal, and as they were afterwards, and while it is stopped."""

    def __init__(self, out):
        self.out, self._before, self._stopped = out, None, None
        self.keys = sys.stdin.isatty() if sys.stdin is not None else False

    def __enter__(self):
        self._take()
        if threading.current_thread() is threading.main_thread():
            self._stopped = signal.signal(signal.SIGTSTP, self._stop)
        return self

    def __exit__(self, *_):
        if self._stopped is not None:
            signal.signal(signal.SIGTSTP, self._stopped)
        self._leave()

    def _stop(self, *_):
        """Ctrl-Z: who had the terminal before has it until this goes on."""
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()

    def _take(self):
        if self.keys:
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin.fileno())
        # The other screen, without a cursor.
        self.out.write("\x1b[?1049h\x1b[?25l")
        self.out.flush()

    def _leave(self):
        with contextlib.suppress(OSError, ValueError):
            self.out.write("\x1b[?25h\x1b[?1049l")
            self.out.flush()
        if self._before is not None:
            import termios

            with contextlib.suppress(termios.error):
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def show(self, lines):
        self.out.write("\x1b[H" + "\x1b[K\r\n".join(lines) + "\x1b[K\x1b[J")
        self.out.flush()

    def size(self):
        try:
            return os.get_terminal_size(self.out.fileno())
        except (OSError, ValueError):
            return os.terminal_size((80, 24))

    def wait(self, seconds, shown):
        """Until ``seconds`` are over, or the terminal is not of the size ``shown`` any more; True
        when q was pressed."""
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            if left <= 0 or self.size() != shown:
                return False
            if not self.keys:
                time.sleep(min(left, _GLANCE))
                continue
            ready, _, _ = select.select([sys.stdin], [], [], min(left, _GLANCE))
            # At the end of its input it is read as nothing: nobody is there to press a key.
            pressed = os.read(sys.stdin.fileno(), 64) if ready else b" "
            if pressed in (b"", b"\x1b") or pressed[0] in b"qQ":
                return True


def _draws_blocks(out):
    return (getattr(out, "encoding", None) or "").lower().replace("-", "") == "utf8"


def is_terminal(out):
    return out.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def live(read, interval, out):
    """Shows what ``read`` gives until q is pressed, or it gives no more; returns the last state,
    and whether q was pressed."""
    colour, blocks = "NO_COLOR" not in os.environ, _draws_blocks(out)
    before, state, next_reading = None, read(), 0.0
    with _Terminal(out) as terminal:
        while True:
            now = time.monotonic()
            if now >= next_reading:
                try:
                    found = read()
                except ForebayError:
                    return state, False
                if found["clock"] != state["clock"]:
                    before, state = state, found
                next_reading = now + interval
            shown = terminal.size()
            foot = "q quits   [ ] of the limit   ( ) of the most reserved"
            old = publishing.age(state)
            if old > 2 + 3 * state.get("interval_s", 0):
                foot += f"   last seen {span(old)} ago"
            terminal.show(
                render(
                    state,
                    before,
                    width=max(shown.columns, 20),
                    height=max(shown.lines, 5),
                    colour=colour,
                    blocks=blocks,
                    foot=foot,
                )
            )
            if terminal.wait(max(next_reading - time.monotonic(), 0.01), shown):
                return state, True


@contextlib.contextmanager
def ends_well():
    """A request to end leaves the terminal as it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number, _):
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except KeyboardInterrupt:
        # As good as q.
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def show(state, before, out):
    columns = shutil.get_terminal_size((80, 24)).columns if out.isatty() else 80
    lines = render(state, before, width=max(columns, 20), blocks=_draws_blocks(out))
    out.write("\n".join(line.rstrip() for line in lines) + "\n")
    out.flush()


#: Of this process: who reads it, and what was read last.
_own = {}


def top(pid=None, *, once=False, interval=1.0, file=None):
    """Shows the pools, caches and prefetchers of this process, or of the process ``pid`` that
    publishes, on ``file`` (standard output): in a terminal live, every ``interval`` seconds, until
    q is pressed; with ``once``, or where there is no terminal, as text, once. Rates are those since
    the call before.

    Raises ``ValueError`` for an interval that is none, ``ForebayError`` when ``pid`` publishes
    nothing.
    """
    out = file or sys.stdout
    if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not interval > 0:
        raise ValueError(f"interval is {interval!r}; it must be more than 0 seconds")
    if pid is None:
        from ._state import Reader

        reader = _own.setdefault("reader", Reader())
        read = reader.read
    else:

        def read():
            return publishing.read(pid)

    if not once and is_terminal(out):
        with ends_well():
            live(read, interval, out)
        return
    state = read()
    show(state, _own.get(pid), out)
    _own[pid] = state
