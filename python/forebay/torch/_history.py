"""The history of allocations, with Python stacks: ``torch.cuda.memory._record_memory_history``."""

import atexit
import collections
import sys
import time

from .._abi import TorchObserver
from .._library import ForebayError, library

#: What a call may leave out of the history.
_ACTIONS = {
    "alloc",
    "free_requested",
    "free_completed",
    "segment_alloc",
    "segment_free",
    "oom",
    "snapshot",
}

#: What happened, as ``forebay_torch_observer`` has it.
ALLOC, FREE = 0, 1

#: Who watches when nobody does.
NOBODY = TorchObserver()

Entry = collections.namedtuple("Entry", "action address size stream time_us frames")


class History:
    """What was allocated and freed since recording began, newest ``max_entries`` of each device."""

    def __init__(self):
        self.enabled = None
        self.context = None
        self.max_entries = sys.maxsize
        self.skip = frozenset()
        #: By device.
        self.entries = {}
        #: Frames of what lives, by address.
        self.frames = {}
        #: Called when there is no memory, with device, bytes asked for, bytes limit, bytes free.
        self.oom_observers = []
        #: Called with each allocation and free: device, address, and bytes, below zero for a free.
        self.watchers = []
        # Kept as long as the library may call it.
        self._callback = TorchObserver(self._observe)
        self._watching = False

    def start(self, enabled, context, max_entries, clear, skip):
        if enabled not in (None, "state", "all"):
            raise RuntimeError(f"enabled is {enabled!r}; it must be None, 'state' or 'all'")
        if context not in (None, "state", "alloc", "all"):
            raise RuntimeError(f"context is {context!r}; it must be None, 'state', 'alloc' or 'all'")
        unknown = set(skip) - _ACTIONS
        if unknown:
            raise RuntimeError(f"skip_actions has {sorted(unknown)[0]!r}; known are {sorted(_ACTIONS)}")
        if clear or enabled is None:
            self.entries.clear()
        self.enabled, self.context, self.skip = enabled, context, frozenset(skip)
        self.max_entries = max(int(max_entries), 0)
        for device, entries in list(self.entries.items()):
            self.entries[device] = self._ring(entries)
        if enabled is None:
            self.frames.clear()
        self._watch()

    def watch_for_ooms(self, observer):
        self.oom_observers.append(observer)
        self._watch()

    def watch(self, watcher):
        self.watchers.append(watcher)
        self._watch()

    def unwatch(self, watcher):
        if watcher in self.watchers:
            self.watchers.remove(watcher)
            self._watch()

    def _ring(self, entries=()):
        limit = self.max_entries
        return collections.deque(entries, None if limit >= sys.maxsize else limit)

    def _watch(self):
        wanted = bool(self.enabled or self.oom_observers or self.watchers)
        if wanted != self._watching:
            library().forebay_torch_set_observer(self._callback if wanted else NOBODY)
            self._watching = wanted

    def stop_watching(self):
        """The interpreter is ending: tensors that are freed later have nobody to tell."""
        library().forebay_torch_set_observer(NOBODY)

    def _stack(self, wanted):
        """The Python frames that led here, innermost first: code and line."""
        if not wanted:
            return ()
        frame, frames = sys._getframe(2), []
        while frame is not None:
            frames.append((frame.f_code, frame.f_lineno))
            frame = frame.f_back
        return tuple(frames)

    def _observe(self, happening, address, size, device, stream):
        if happening in (ALLOC, FREE):
            for watcher in list(self.watchers):
                watcher(device, address, size if happening == ALLOC else -size)
        if not self.enabled:
            if happening not in (ALLOC, FREE):
                self._tell(device, size)
            return
        address, stream, now = address or 0, stream or 0, time.time_ns() // 1000
        everything = self.enabled == "all"
        if happening == ALLOC:
            frames = self._stack(self.context)
            if frames:
                self.frames[address] = frames
            if everything:
                kept = frames if self.context in ("alloc", "all") else ()
                self._put(device, "alloc", address, size, stream, now, kept)
        elif happening == FREE:
            self.frames.pop(address, None)
            if everything:
                frames = self._stack(self.context == "all")
                self._put(device, "free_requested", address, size, stream, now, frames)
                self._put(device, "free_completed", address, size, stream, now, ())
        else:
            frames = self._stack(self.context)
            self._put(device, "oom", self._free_bytes(device), size, stream, now, frames)
            self._tell(device, size)

    def _put(self, device, action, address, size, stream, now, frames):
        if action in self.skip:
            return
        entries = self.entries.get(device)
        if entries is None:
            entries = self.entries.setdefault(device, self._ring())
        entries.append(Entry(action, address, size, stream, now, frames))

    def _free_bytes(self, device):
        from ._stats import statistics

        stats = statistics(device)
        return max(stats.device_bytes - stats.reserved_bytes, 0)

    def _tell(self, device, size):
        from ._stats import statistics

        stats = statistics(device)
        for observer in self.oom_observers:
            try:
                observer(device, size, stats.reserved_bytes, self._free_bytes(device))
            except Exception:
                sys.excepthook(*sys.exc_info())


HISTORY = History()
atexit.register(lambda: HISTORY._watching and HISTORY.stop_watching())


def record_memory_history(
    enabled="all",
    context="all",
    stacks="python",
    max_entries=sys.maxsize,
    clear_history=False,
    skip_actions=(),
):
    """Starts to record what is allocated and freed, with the Python stacks that did it, or, with
    ``enabled=None``, stops. The arguments are those of ``torch.cuda.memory._record_memory_history``, which
    in mode ``"global"`` is this; stacks have Python frames only, and none on threads that run no
    Python, such as autograd's.

    ``dump_snapshot(path)`` writes what was recorded. While it records, an allocation costs some
    microseconds more, and takes the interpreter's lock.
    """
    from . import mode

    if mode() != "global":
        raise ForebayError(
            "forebay sees tensors in mode 'global' only; in mode 'pool', PyTorch's own "
            "torch.cuda.memory._record_memory_history does"
        )
    if stacks not in ("python", "all"):
        raise RuntimeError(f"stacks is {stacks!r}; it must be 'python' or 'all'")
    HISTORY.start(enabled, context, max_entries, clear_history, skip_actions or ())
