"""Batches in front of who works on them, in bounded memory.

    prefetcher = Prefetcher(lookahead=2, device="cuda")
    for data, target in prefetcher.wrap(dataloader):
        output = model(data)

A thread takes batches from the loader; forebay's own threads copy them, without the interpreter, to a
slot, and from there one copy brings them to the device, beside what is computed. There are
``lookahead + 1`` slots, and no more memory than they have.

A batch is valid until the next one is asked for: its slot is then for another one, behind the work that
is queued on the current stream. ``keep`` is for those who need the last few, ``copy`` for those who
keep them all.
"""

import atexit
import os
import queue
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections import deque

from ._device import usable
from ._library import ForebayError
from ._opened import Opened
from ._packer import Packer
from ._slots import Slots
from .double_buffer import DoubleBuffer, ShapeMismatch

__all__ = ["DoubleBuffer", "Prefetcher", "ShapeMismatch", "headspace"]

#: How long ``close`` waits for a loader that does not come back.
CLOSE_SECONDS = 5.0

_END = object()


class _Times:
    """Where the time of an iteration went, in seconds, and what it saw."""

    COUNTED = ("load", "put", "get", "compute", "items", "ready", "passed")

    def __init__(self):
        self.begun = time.perf_counter()
        self.load = self.put = self.get = self.compute = 0.0
        self.items = self.ready = self.passed = 0

    def add(self, other):
        for name in self.COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class _Line:
    """What the loader's thread and the consumer share. The thread knows nothing else, so that an
    iterator that is forgotten ends."""

    def __init__(self, slots, loader, skip):
        self.slots, self.loader, self.skip = slots, loader, skip
        self.packer = Packer(slots.to_torch)
        self.source = None
        #: Batches in order, and the end: ticket, how to build them, the loader's state behind them. A
        #: queue that is one call, for a lock that is taken in Python a signal can leave taken.
        self.ready = queue.SimpleQueue()
        self.closed = False
        self.error = None
        self.times = _Times()

    def begin(self):
        """Begins the pass, on the consumer's own thread, with an error kept for its first batch. A
        DataLoader forks its workers here: beside a thread that imports something, or has a lock,
        they would wait for it for ever."""
        # For the same reason: what multiprocessing imports late, with the first tensor that comes
        # from a worker, which another thread may be at when workers are forked.
        import hmac  # noqa: F401
        import multiprocessing.resource_sharer  # noqa: F401

        begun = time.perf_counter()
        try:
            self.source = iter(self.loader)
        except Exception as error:
            self.error = error
        taken = time.perf_counter() - begun
        self.times.load += taken
        # As the first batch, it is waited for whatever one does.
        self.times.begun += taken

    def load(self):
        """The next batch, submitted; None at the end."""
        times, begun = self.times, time.perf_counter()
        if self.source is None:
            self.source = iter(self.loader)
        skip, self.skip = self.skip, 0
        for _ in range(skip):
            if self.closed or next(self.source, _END) is _END:
                break
        batch = next(self.source, _END)
        if batch is _END:
            return None
        state = self.state()
        packed = self.packer.pack(batch)
        loaded = time.perf_counter()
        times.load += loaded - begun
        times.passed += packed.tree.passed
        ticket = self.slots.submit(packed)
        times.put += time.perf_counter() - loaded
        return ticket, packed, state

    def state(self):
        """The loader's own state, as it is now; None if it has none."""
        snapshot = getattr(self.loader, "state_dict", None)
        return snapshot() if callable(snapshot) else None

    def produce(self):
        """What the thread does."""
        try:
            while not self.closed and self.error is None:
                item = self.load()
                if item is None:
                    break
                self.ready.put(item)
                if self.closed:
                    self.call_off()
        except BaseException as error:
            self.error = error
        finally:
            try:
                self.leave_source()
            finally:
                self.ready.put(_END)

    def take(self):
        """The next item; None at the end. Waits for the thread."""
        item = self.ready.get()
        if item is not _END:
            return item
        if self.closed:
            raise ForebayError("the pass was closed while a batch was waited for")
        # It leads to frames that lead here.
        error, self.error = self.error, None
        if error is not None:
            raise error
        return None

    def leave_source(self):
        """Ends the loader's iterator, on the thread where it runs."""
        source, self.source = self.source, None
        end = getattr(source, "close", None)
        if callable(end):
            try:
                end()
            except Exception as error:
                warnings.warn(f"the loader's iterator did not close: {error!r}", RuntimeWarning)

    def call_off(self):
        """Nobody gets what is ready."""
        while not self.ready.empty():
            try:
                item = self.ready.get_nowait()
            except queue.Empty:
                # Another thread was faster.
                return
            if item is not _END:
                self.slots.cancel(item[0])

    def close(self):
        """No more batches. A thread that waits for a slot gets one that was ready, and sees that it is
        over."""
        self.closed = True
        self.call_off()
        # For one who waits.
        self.ready.put(_END)


class _Iterator:
    """One pass over the loader."""

    _line = _thread = None

    def __init__(self, owner, slots, index, skip):
        self._owner, self._slots = owner, slots
        #: Batches that the consumer has: ticket, address, bytes.
        self._held = deque()
        self._line = _Line(slots, owner.loader, skip)
        self._index, self._left = index, None
        if owner.prefetcher.lookahead > 0:
            self._line.begin()
            self._thread = threading.Thread(
                target=self._line.produce, name="forebay-loader", daemon=True
            )
            self._thread.start()

    def __iter__(self):
        return self

    def _following(self):
        """The next batch, or that there is none."""
        prefetcher = self._owner.prefetcher
        while len(self._held) > prefetcher.keep:
            self._release_one()
        line = self._line
        if self._thread is None:
            item = line.load()
        else:
            line.times.ready += line.ready.qsize()
            item = line.take()
        if item is None:
            return _END
        ticket, packed, state = item
        # Noted before it is got, so that a signal leaves no batch to nobody.
        held = [ticket, None, 0]
        self._held.append(held)
        held[1:] = address, size = self._slots.wait(ticket)
        # The sources were copied by now.
        packed.held = None
        batch = packed.make(self._slots.leaves(address, size, packed.layout, prefetcher.copy))
        self._index += 1
        self._owner._is_at(self._index, state)
        return batch

    def __next__(self):
        line = self._line
        if line is None:
            raise StopIteration
        if self._slots.is_of_parent:
            raise ForebayError("the pass began before fork(); wrap the loader in the child")
        times, now = line.times, time.perf_counter()
        if self._left is not None:
            times.compute += now - self._left
        try:
            batch = self._following()
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt) and hasattr(error, "add_note"):
                error.add_note(f"while batch {self._index} was prefetched")
            self.close()
            raise
        if batch is _END:
            # The next pass is a whole one.
            self._owner._is_at(0, line.state())
            self.close()
            raise StopIteration
        self._left = time.perf_counter()
        if times.items:
            times.get += self._left - now
        else:
            # Whatever one does, the first one is waited for.
            times.begun += self._left - now
        times.items += 1
        return batch

    def _release_one(self):
        ticket, address, size = self._held[0]
        if self._owner.prefetcher.debug:
            self._slots.poison(address, size)
        self._slots.release(ticket)
        self._held.popleft()

    def _drop_one(self):
        """Releases a batch, or if it was never got calls it off."""
        try:
            self._release_one()
        except ForebayError:
            self._slots.cancel(self._held.popleft()[0])

    def _join(self):
        """Waits for the thread; whether it is over."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        try:
            thread.join(CLOSE_SECONDS)
        except RuntimeError:
            # It did not start, or a signal came while it did.
            return False
        if not thread.is_alive():
            return True
        frame = sys._current_frames().get(thread.ident)
        where = "".join(traceback.format_stack(frame)) if frame else ""
        warnings.warn(
            f"the loader did not come back within {CLOSE_SECONDS} s; its thread {thread.name!r} is "
            f"left at\n{where}",
            RuntimeWarning,
            stacklevel=3,
        )
        return False

    def close(self):
        """Ends the pass: the thread ends, and slots are free. Safe to call twice."""
        line, self._line = self._line, None
        if line is None or self._slots.is_of_parent:
            return
        line.close()
        while self._held:
            self._drop_one()
        if self._thread is None:
            line.leave_source()
        ended = self._join()
        self._owner._ended(line.times, self._slots, ended)

    def __del__(self):
        self.close()


_opened = Opened()


def loaders():
    """The prefetched loaders of this process that are open, oldest first."""
    return _opened.all()


def _close_all():
    for loader in loaders():
        loader.close()


# Before threads are waited for, and before a device's driver is unloaded.
getattr(threading, "_register_atexit", atexit.register)(_close_all)


class _Wrapped:
    """A loader with its batches prefetched. Each ``iter()`` is a new pass; what it has besides, such as
    ``dataset`` or ``sampler``, is the loader's."""

    def __init__(self, prefetcher, loader):
        self.prefetcher, self.loader = prefetcher, loader
        self._process, self._closed = os.getpid(), False
        #: Slots between two passes, and the pass under way.
        self._idle, self._now = None, None
        #: Batches given out in this pass, and the loader's state behind them.
        self._consumed, self._loader_state = 0, None
        #: The next pass begins there, and how many batches its loader is still to be taken past.
        self._goes_on, self._skip = False, 0
        self._total, self._wall = _Times(), 0.0
        self._counted = {}
        self.number = _opened.number()
        _opened.add(self)

    def __getattr__(self, name):
        if name.startswith("_") or name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self):
        return len(self.loader)

    def _pass(self):
        """The pass under way; None if there is none."""
        now = self._now() if self._now is not None else None
        return None if now is None or now._line is None else now

    def __iter__(self):
        if self._process != os.getpid():
            raise ForebayError("the loader was wrapped before fork(); wrap it in the child")
        if self._closed:
            raise ForebayError("the loader is closed")
        now = self._pass()
        if now is not None:
            # One pass at a time: the slots are this loader's.
            now.close()
        slots, self._idle = self._idle, None
        if slots is None:
            slots = self.prefetcher._slots(f"prefetch #{self.number}")
        if not self._goes_on:
            self._is_at(0, None)
        skip, self._skip, self._goes_on = self._skip, 0, False
        made = _Iterator(self, slots, self._consumed, skip)
        self._now = weakref.ref(made)
        return made

    def _is_at(self, consumed, state):
        self._consumed, self._loader_state = consumed, state

    def _ended(self, times, slots, is_quiet):
        """A pass is over; whether nobody is in its slots any more."""
        self._total.add(times)
        self._wall += time.perf_counter() - times.begun
        self._counted = slots.stats()
        # A signal may have come between a slot and the note of it.
        if is_quiet and not self._closed and self._counted["used_slots"] == 0:
            self._idle = slots
        else:
            slots.close()

    def close(self):
        """Ends the pass under way, and its threads; memory goes with the last batch that is referred
        to. Safe to call twice."""
        self._closed = True
        now = self._pass()
        if now is not None:
            now.close()
        idle, self._idle = self._idle, None
        if idle is not None:
            idle.close()
        _opened.discard(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def state_dict(self):
        """Where the consumer is, not the thread ahead of it: to go on there with ``load_state_dict``. At
        the end of a pass that is where the next one begins. Where the loader has a ``state_dict``, its
        state behind the last batch that was given out."""
        return {"consumed": self._consumed, "loader": self._loader_state}

    def load_state_dict(self, state):
        """The next pass begins behind the batches of ``state``. Where the loader has no state of its own
        they are loaded, and dropped."""
        load, has_own = getattr(self.loader, "load_state_dict", None), state["loader"] is not None
        has_own = has_own and callable(load)
        if has_own:
            load(state["loader"])
        self._goes_on, self._skip = True, 0 if has_own else state["consumed"]
        self._is_at(state["consumed"], state["loader"])

    def stats(self):
        """Numbers of all passes so far; seconds but where the name says otherwise. ``verdict`` says
        what the passes were bound by."""
        now, total, wall, counted = self._pass(), _Times(), self._wall, self._counted
        total.add(self._total)
        # Once: another thread may look, and the pass end meanwhile.
        line = now._line if now is not None else None
        if line is not None:
            total.add(line.times)
            wall += time.perf_counter() - line.times.begun
            counted = now._slots.stats()
        items = total.items
        staged, stage_s = counted.get("staged_bytes", 0), counted.get("stage_ns", 0) / 1e9
        threads = max(self.prefetcher.num_workers, 1)
        stall = {
            "stage": counted.get("wait_ns", 0) / 1e6,
            "copy": counted.get("drain_ns", 0) / 1e6,
        }
        stall["loader"] = max(total.get * 1e3 - stall["stage"], 0.0)
        busiest = max(total.load, total.compute, stage_s / threads)
        lookahead = self.prefetcher.lookahead
        submitted = counted.get("submitted_bytes", 0)
        return {
            **counted,
            "num_items": items,
            "ave_put_time": total.put / items if items else 0.0,
            "ave_get_time": total.get / items if items else 0.0,
            "occupancy_rate": total.ready / (items * lookahead) if items and lookahead else 0.0,
            "passed_through": total.passed,
            "load_s": total.load,
            "compute_s": total.compute,
            "wall_s": wall,
            "overlap_efficiency": min(busiest / wall, 1.0) if wall else 0.0,
            "stall_ms": stall,
            "late_batches": counted.get("late", 0),
            "bytes_copied": staged,
            "copies_per_byte": staged / submitted if submitted else 0.0,
            "stage_gbps": staged / stage_s / 1e9 if stage_s else 0.0,
            "peak_pinned_bytes": counted.get("pinned_peak", 0),
            "verdict": "bound by: " + _bound(total.get, wall, stall),
        }


def _bound(waited, wall, stall):
    """What a consumer waits for, if it waits for a twentieth of its time."""
    if not wall or waited < 0.05 * wall:
        return "compute"
    names = {"loader": "loader", "stage": "staging", "copy": "PCIe"}
    return names[max(stall, key=stall.get)]


class Prefetcher:
    """How batches are prefetched.

    ``lookahead`` batches are ready, or on their way, beside the one that is worked on; 0 does
    everything when it is asked for, on the caller's thread. ``num_workers`` are threads that copy: one
    more takes batches from the loader. ``device`` is ``"cpu"`` (arrays and tensors stay what they are)
    or a CUDA device (PyTorch's tensors; arrays become tensors; ``"cpu"`` with one warning where there
    is none). What cannot be packed stays in its place as it is: objects, strings, sparse tensors, and
    what is on a device already. ``pin_memory=False`` stages in memory that is not pinned; tensors
    that are pinned already are not staged, and stay until the device has read them. ``keep`` batches
    stay valid beside the last one. ``copy`` gives tensors that stay. ``debug`` overwrites a batch
    when it is not valid any more. ``max_batch_bytes`` and ``max_pinned_bytes`` bound memory.
    """

    def __init__(
        self,
        lookahead=2,
        num_workers=2,
        pin_memory=True,
        device="cpu",
        *,
        keep=0,
        copy=False,
        debug=False,
        max_batch_bytes=None,
        max_pinned_bytes=None,
    ):
        for name, number, most in (
            ("lookahead", lookahead, 62),
            ("num_workers", num_workers, 64),
            ("keep", keep, 62),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= most:
                raise ValueError(f"{name} is {number!r}; it must be 0 to {most}")
        if lookahead + keep > 62:
            raise ValueError(f"lookahead and keep are {lookahead + keep} together; 62 is the most")
        device = usable(device)
        self.lookahead, self.num_workers, self.keep = lookahead, num_workers, keep
        self.pin_memory, self.device, self.copy, self.debug = pin_memory, device, copy, debug
        self.max_batch_bytes, self.max_pinned_bytes = max_batch_bytes, max_pinned_bytes

    @property
    def slots(self):
        """How many batches there is memory for."""
        return self.lookahead + self.keep + 1

    @property
    def memory_bound_bytes(self):
        """Most bytes that the slots take on the device; None without ``max_batch_bytes``."""
        return None if self.max_batch_bytes is None else self.slots * self.max_batch_bytes

    def _slots(self, name):
        pinned = 1 if not self.pin_memory else self.max_pinned_bytes or 0
        workers = self.num_workers if self.lookahead else 0
        most = self.max_batch_bytes or 0
        return Slots(self.device, self.slots, workers, most, pinned, name=name)

    def wrap(self, loader):
        """``loader``, any iterable, with its batches prefetched: something to iterate over again and
        again, with ``close``, ``stats``, ``state_dict`` and whatever the loader has."""
        return _Wrapped(self, loader)


def headspace(loader, step, n=10):
    """What prefetching could gain at most: ``step(batch)`` is called for ``n`` batches as they come, and
    for the same batches again without the loader. Returns seconds per batch, ``now_s`` and ``best_s``
    (the slower of loading and working), and ``gain``, their ratio. A step on a GPU has to wait for it,
    for instance with ``loss.item()``."""
    if n < 1:
        raise ValueError(f"n is {n}; it must be 1 or more batches")
    batches, load = [], 0.0
    iterator = iter(loader)
    step_now = 0.0
    while len(batches) < n:
        begun = time.perf_counter()
        batch = next(iterator, headspace)
        loaded = time.perf_counter()
        if batch is headspace:
            break
        load += loaded - begun
        step(batch)
        step_now += time.perf_counter() - loaded
        batches.append(batch)
    if not batches:
        raise ValueError("the loader has no batches")
    begun = time.perf_counter()
    for batch in batches:
        step(batch)
    again = time.perf_counter() - begun
    count = len(batches)
    now, best = (load + step_now) / count, max(load, again) / count
    return {
        "batches": count,
        "load_s": load / count,
        "step_s": again / count,
        "now_s": now,
        "best_s": best,
        "gain": now / best if best else 1.0,
    }
