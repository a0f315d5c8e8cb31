"""What lives in this process, written where this user's other programs can read it.

``forebay.publish()``, or ``FOREBAY_PUBLISH=1`` in the environment, writes a file of JSON now and
then; ``python -m forebay top PID`` shows it. The file is ``PID.json`` in the folder ``forebay`` of
``$XDG_RUNTIME_DIR``, else in ``/tmp/forebay-UID``, which nobody else may read; it goes when the
process ends, and those of processes that were killed go with the next that publishes.
"""

import atexit
import contextlib
import json
import math
import os
import stat
import threading
import time
import warnings

from . import _state
from ._library import ForebayError

__all__ = ["publish", "published", "read", "unpublish"]

#: A file that is larger is not one of ours.
_LARGEST = 16 << 20

_lock = threading.Lock()
_publisher = None


def publish(interval: float = 0.5) -> str:
    """Begins to publish every ``interval`` seconds, until ``unpublish()`` or the end of the
    process, or changes how often; returns the file's path. It is there when this returns. A thread
    does it, for which a reading costs some 1 ms, and walks over the blocks of pools no more than
    a hundredth of its time. A child of fork publishes nothing before it calls this itself.

    Raises ``ValueError`` for an interval that is none, ``ForebayError`` where there is no folder
    that is this user's alone.
    """
    number = isinstance(interval, (int, float)) and not isinstance(interval, bool)
    if not number or not 0.01 <= interval <= 3600:
        raise ValueError(f"interval is {interval!r}; it must be 0.01 to 3600 seconds")
    global _publisher
    with _lock:
        if _publisher is None:
            made = _Publisher(interval)
            made.write()
            made.start()
            _publisher = made
        else:
            _publisher.interval = interval
            _publisher.again.set()
        return _publisher.path


def unpublish() -> None:
    """Ends what ``publish`` began, and removes the file. Safe to call twice."""
    global _publisher
    with _lock:
        ended, _publisher = _publisher, None
    if ended is not None:
        ended.end()


def begin(wanted):
    """What ``FOREBAY_PUBLISH`` asks for: "1", or seconds. It never fails: publishing is a
    favour."""
    try:
        seconds = 0.5 if wanted == "1" else float(wanted)
        if not math.isfinite(seconds) or not 0.01 <= seconds <= 3600:
            raise ValueError("seconds")
    except ValueError:
        warnings.warn(
            f"FOREBAY_PUBLISH is {wanted!r}; it must be 1, or 0.01 to 3600 seconds", stacklevel=3
        )
        return
    global _publisher
    with _lock:
        if _publisher is not None:
            return
        try:
            # The library is being loaded: it is read from the first time on.
            _publisher = _Publisher(seconds)
        except (ForebayError, OSError) as error:
            warnings.warn(f"FOREBAY_PUBLISH: {error}", stacklevel=3)
            return
        _publisher.start()


class _Publisher:
    """A thread that writes the state of this process to a file."""

    def __init__(self, interval):
        self.interval, self.pid = interval, os.getpid()
        self.folder = _own_folder()
        self.path = os.path.join(self.folder, f"{self.pid}.json")
        self.again, self._stop, self._thread = threading.Event(), False, None
        self._reader = _state.Reader()
        _clean(self.folder)

    def start(self):
        self._thread = threading.Thread(target=self._run, name="forebay-publisher", daemon=True)
        self._thread.start()

    def _run(self):
        while True:
            self.again.wait(self.interval)
            self.again.clear()
            if self._stop:
                return
            # A full disk, or a folder that was tidied away: the next time may be better.
            with contextlib.suppress(OSError, ForebayError):
                self.write()

    def write(self):
        state = self._reader.read()
        state["interval_s"], state["namespace"] = self.interval, _namespace()
        _own_folder()
        unfinished = os.path.join(self.folder, f".{self.pid}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(unfinished, flags, 0o600), "w", encoding="utf-8") as file:
            json.dump(state, file)
        os.replace(unfinished, self.path)

    def end(self):
        self._stop = True
        self.again.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)
        for path in (self.path, os.path.join(self.folder, f".{self.pid}.tmp")):
            with contextlib.suppress(OSError):
                os.unlink(path)


def _after_fork():
    """The thread, and the file, are the parent's."""
    global _lock, _publisher
    _lock, _publisher = threading.Lock(), None


os.register_at_fork(after_in_child=_after_fork)
atexit.register(unpublish)


# ----- folders and files


def _namespace():
    """In which numbers of processes ours is one: folders may be seen from several."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _own_folders(uid):
    """Where a process of ``uid`` with this environment publishes: the first that can be had."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        yield os.path.join(runtime, "forebay")
    yield f"/tmp/forebay-{uid}"


def _folders(uid):
    """Where the files of a user may be. Its processes may have had another environment."""
    return dict.fromkeys((*_own_folders(uid), f"/run/user/{uid}/forebay"))


def _belongs(path, uid):
    """Whether ``path`` is a folder, and ``uid``'s alone."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077


def _own_folder():
    uid = os.geteuid()
    for path in _own_folders(uid):
        with contextlib.suppress(OSError):
            os.mkdir(path, 0o700)
        if _belongs(path, uid):
            return path
    raise ForebayError(
        f"{path} is no folder that is this user's alone (mode 0700); remove it, or set "
        "XDG_RUNTIME_DIR"
    )


def _clean(folder):
    """Removes what processes left that are no more: those that have their numbers where we have."""
    for name in os.listdir(folder):
        number, _, ending = name.removeprefix(".").partition(".")
        if not number.isdecimal() or ending not in ("json", "tmp"):
            continue
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError, ForebayError):
            if ending == "tmp":
                if _state.started(int(number)) is None:
                    os.unlink(path)
                continue
            state = _load(path, os.geteuid())
            here = state.get("namespace") == _namespace()
            if here and _state.started(int(number)) != state.get("start"):
                os.unlink(path)


def _load(path, uid):
    """The state in a file that belongs to ``uid``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != uid:
            raise ForebayError(f"{path} is not a file of user {uid}")
        text = file.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise ForebayError(f"{path} has more than {_LARGEST} bytes")
    try:
        state = json.loads(text)
    except ValueError:
        raise ForebayError(f"{path} is not JSON") from None
    if not isinstance(state, dict) or state.get("schema") != 1:
        raise ForebayError(f"{path} is of another version of forebay")
    return state


def read(pid: int) -> dict:
    """What the process ``pid`` published last. Only a file that its user owns, in a folder that is
    that user's alone, is believed.

    Raises ``ForebayError`` when there is no such process, or it publishes nothing."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        raise ForebayError(f"there is no process {pid}") from None
    for folder in _folders(uid):
        if not _belongs(folder, uid):
            continue
        try:
            state = _load(os.path.join(folder, f"{pid}.json"), uid)
        except OSError:
            continue
        if state.get("pid") == pid and state.get("start") == _state.started(pid):
            return state
    raise ForebayError(
        f"process {pid} publishes nothing: start it with FOREBAY_PUBLISH=1, or call "
        "forebay.publish() in it"
    )


def published() -> list:
    """The states of all processes of this user that publish, newest process last."""
    found, uid = {}, os.geteuid()
    for folder in _folders(uid):
        if not _belongs(folder, uid):
            continue
        for name in os.listdir(folder):
            number, _, ending = name.partition(".")
            if number.isdecimal() and ending == "json":
                with contextlib.suppress(ForebayError):
                    found[int(number)] = read(int(number))
    return sorted(found.values(), key=lambda state: state["start"])


def age(state):
    """Seconds since ``state`` was read."""
    return max(time.monotonic() - state["clock"], 0.0)
