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
import ctypes
import math
import os
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections import deque

from . import _tree
from ._abi import (
    PREFETCH_ALIGNMENT,
    PREFETCH_FOREVER,
    PREFETCHER_SYNCHRONOUS,
    PoolConfig,
    PrefetchBatch,
    PrefetcherConfig,
    PrefetchLeaf,
    PrefetchStatistics,
)
from ._device import usable
from ._library import ForebayError, check, library

__all__ = ["DoubleBuffer", "Prefetcher", "ShapeMismatch", "headspace"]

#: How long ``close`` waits for a loader that does not come back.
CLOSE_SECONDS = 5.0

#: Bytes that a slot is filled with when it is released, in debug mode.
_POISON = 0xDB


class ShapeMismatch(ValueError):
    """Data that does not fit the buffer that it is for."""


class _Bytes:
    """A slot's memory, for numpy and PyTorch to view; keeps the slots as long as there is a view."""

    def __init__(self, native, address, size):
        self.native = native
        interface = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}
        if native.torch is not None:
            self.__cuda_array_interface__ = interface
        else:
            self.__array_interface__ = interface


class _Native:
    """A prefetcher of the library, its pool, and views of its slots."""

    handle = pool = None

    def __init__(self, device, slots, copy_threads, max_batch_bytes, max_pinned_bytes):
        lib = library()
        self.process = os.getpid()
        self.torch = None
        self.owns_pool = str(device) == "cpu"
        if self.owns_pool:
            config = PoolConfig(struct_size=ctypes.sizeof(PoolConfig))
            pool = ctypes.c_void_p()
            check(lib.forebay_pool_create(ctypes.byref(config), ctypes.byref(pool)))
            self.pool = pool
        else:
            import torch

            from .torch._pool import pool_of

            self.torch = torch
            chosen = torch.device(device)
            if chosen.type != "cuda":
                raise ValueError(f"device is {device!r}; it must be 'cpu' or a CUDA device")
            torch.cuda.init()
            self.index = chosen.index if chosen.index is not None else torch.cuda.current_device()
            self.pool = pool_of(self.index)
        config = PrefetcherConfig(struct_size=ctypes.sizeof(PrefetcherConfig))
        config.slots, config.copy_threads = slots, copy_threads
        config.flags = 0 if copy_threads else PREFETCHER_SYNCHRONOUS
        config.max_slot_bytes, config.max_pinned_bytes = max_batch_bytes, max_pinned_bytes
        handle = ctypes.c_void_p()
        check(lib.forebay_prefetcher_create(self.pool, ctypes.byref(config), ctypes.byref(handle)))
        self.handle = handle

    def __del__(self):
        # With the last view of a slot.
        if getattr(self, "process", None) != os.getpid():
            return
        if self.handle is not None:
            library().forebay_prefetcher_destroy(self.handle)
        if self.pool is not None and self.owns_pool:
            library().forebay_pool_destroy(self.pool)

    @property
    def stream(self):
        if self.torch is None:
            return None
        return self.torch.cuda.current_stream(self.index).cuda_stream or None

    def submit(self, leaves):
        """The ticket of a batch; waits for a slot."""
        array = (PrefetchLeaf * len(leaves))()
        for place, leaf in zip(array, leaves):
            place.data, place.size = leaf.address or None, leaf.size
        ticket = ctypes.c_uint64()
        # Without the interpreter's lock, as all calls.
        check(
            library().forebay_prefetch_submit(
                self.handle, array, len(leaves), PREFETCH_FOREVER, ctypes.byref(ticket)
            )
        )
        return ticket.value

    def wait(self, ticket):
        batch = PrefetchBatch()
        check(
            library().forebay_prefetch_wait(self.handle, ticket, self.stream, ctypes.byref(batch))
        )
        return batch.ptr, batch.size

    def release(self, ticket):
        check(library().forebay_prefetch_release(self.handle, ticket, self.stream))

    def cancel(self, ticket):
        library().forebay_prefetch_cancel(self.handle, ticket)

    def close(self):
        library().forebay_prefetcher_close(self.handle)

    def stats(self):
        stats = PrefetchStatistics(struct_size=ctypes.sizeof(PrefetchStatistics))
        check(library().forebay_prefetch_stats(self.handle, ctypes.byref(stats)))
        return {name: getattr(stats, name) for name, _ in PrefetchStatistics._fields_[1:]}

    def flat(self, address, size):
        """The bytes of a slot. Views keep the slots, so that the slots do not keep views."""
        memory = _Bytes(self, address, size)
        if self.torch is not None:
            return self.torch.as_tensor(memory, device=f"cuda:{self.index}")
        import numpy

        return numpy.asarray(memory)

    def leaves_of(self, address, size, leaves, copy):
        """The leaves of a batch, where they are now."""
        flat = self.flat(address, size) if size else None
        made, at = [], 0
        for leaf in leaves:
            at = -(-at // PREFETCH_ALIGNMENT) * PREFETCH_ALIGNMENT
            made.append(self._leaf(flat, at, leaf, copy))
            at += leaf.size
        return made

    def _leaf(self, flat, at, leaf, copy):
        if self.torch is not None:
            dtype = leaf.dtype
            if not leaf.is_torch:
                dtype = _torch_dtype(self.torch, dtype)
            if leaf.size == 0:
                return self.torch.empty(leaf.shape, dtype=dtype, device=f"cuda:{self.index}")
            found = flat[at : at + leaf.size].view(dtype).view(leaf.shape)
            return found.clone() if copy else found
        if leaf.is_torch:
            import torch

            if leaf.size == 0:
                return torch.empty(leaf.shape, dtype=leaf.dtype)
            found = torch.from_numpy(flat[at : at + leaf.size]).view(leaf.dtype).view(leaf.shape)
            return found.clone() if copy else found
        if leaf.size == 0:
            import numpy

            return numpy.empty(leaf.shape, leaf.dtype)
        found = flat[at : at + leaf.size].view(leaf.dtype).reshape(leaf.shape)
        return found.copy() if copy else found

    def poison(self, address, size):
        if size:
            self.flat(address, size)[:size] = _POISON


def _torch_dtype(torch, dtype):
    found = getattr(torch, dtype.name, None)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"an array has dtype {dtype}, which PyTorch has no type for")
    return found


class _Times:
    """Where the time of an iteration went, in seconds."""

    def __init__(self):
        self.begun = time.perf_counter()
        self.load = self.put = self.get = self.compute = 0.0
        self.items = self.ready = 0


class _Line:
    """What the loader's thread and the consumer share. The thread knows nothing else, so that an
    iterator that is forgotten ends."""

    def __init__(self, native, loader, skip):
        self.native, self.loader, self.skip = native, loader, skip
        self.changed = threading.Condition()
        #: Batches in order: ticket, leaves, how to build them, the loader's state behind them.
        self.ready = deque()
        self.ended = self.closed = False
        self.error = None
        self.times = _Times()

    def produce(self):
        """What the thread does."""
        iterator = None
        try:
            iterator = iter(self.loader)
            for _ in range(self.skip):
                if next(iterator, self) is self:
                    break
            while not self.closed:
                item = self.load(iterator)
                if item is None:
                    break
                with self.changed:
                    if not self.closed:
                        self.ready.append(item)
                        self.changed.notify_all()
                        continue
                self.native.cancel(item[0])
        except BaseException as error:
            with self.changed:
                if not self.closed:
                    self.error = error
        finally:
            # On this thread, where a generator runs.
            end = getattr(iterator, "close", None)
            if callable(end):
                try:
                    end()
                except Exception:
                    pass
            iterator = None
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def load(self, iterator):
        """The next batch, submitted; None at the end."""
        times, begun = self.times, time.perf_counter()
        try:
            batch = next(iterator)
        except StopIteration:
            return None
        snapshot = getattr(self.loader, "state_dict", None)
        state = snapshot() if callable(snapshot) else None
        leaves, build = _tree.flatten(batch)
        loaded = time.perf_counter()
        times.load += loaded - begun
        ticket = self.native.submit(leaves)
        times.put += time.perf_counter() - loaded
        return ticket, leaves, build, state

    def close(self):
        """No more batches: those that nobody got are called off."""
        with self.changed:
            self.closed = True
            items, self.ready = list(self.ready), deque()
            self.changed.notify_all()
        for item in items:
            # A thread that waits for a slot gets this one, and sees that it is over.
            self.native.cancel(item[0])


class _Iterator:
    """One pass over the loader."""

    _line = None

    def __init__(self, owner, native, skip):
        self._owner, self._native = owner, native
        self._held = deque()
        self._line = _Line(native, owner.loader, skip)
        self._thread = self._source = None
        self._index, self._left = skip, None
        if owner.prefetcher.lookahead > 0:
            self._thread = threading.Thread(
                target=self._line.produce, name="forebay-loader", daemon=True
            )
            self._thread.start()

    def __iter__(self):
        return self

    def _take(self):
        """The next item; None at the end."""
        line = self._line
        if self._thread is None:
            if self._source is None:
                self._source = iter(line.loader)
                for _ in range(line.skip):
                    next(self._source, None)
            return line.load(self._source)
        with line.changed:
            line.times.ready += len(line.ready)
            while not line.ready and not line.ended:
                line.changed.wait()
            if line.ready:
                return line.ready.popleft()
            if line.error is not None:
                raise line.error
            return None

    def __next__(self):
        line = self._line
        if line is None:
            raise StopIteration
        if self._native.process != os.getpid():
            raise ForebayError("the pass began before fork(); wrap the loader in the child")
        times, now = line.times, time.perf_counter()
        if self._left is not None:
            times.compute += now - self._left
        prefetcher = self._owner.prefetcher
        try:
            while len(self._held) > prefetcher.keep:
                self._release_one()
            item = self._take()
            if item is None:
                self.close()
                raise StopIteration
            ticket, leaves, build, state = item
            address, size = self._native.wait(ticket)
            self._held.append((ticket, address, size))
            # The sources were copied by now.
            for leaf in leaves:
                leaf.held = None
            batch = build(self._native.leaves_of(address, size, leaves, prefetcher.copy))
        except StopIteration:
            raise
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt) and hasattr(error, "add_note"):
                error.add_note(f"while batch {self._index} was prefetched")
            self.close()
            raise
        self._index += 1
        self._owner._consumed = self._index
        self._owner._loader_state = state
        self._left = time.perf_counter()
        if times.items:
            times.get += self._left - now
        else:
            # Whatever one does, the first one is waited for.
            times.begun += self._left - now
        times.items += 1
        return batch

    def _release_one(self):
        ticket, address, size = self._held.popleft()
        if self._owner.prefetcher.debug:
            self._native.poison(address, size)
        self._native.release(ticket)

    def close(self):
        """Ends the pass: the thread ends, and slots are free. Safe to call twice."""
        line, self._line = self._line, None
        if line is None or self._native.process != os.getpid():
            return
        self._owner._add(line.times)
        line.close()
        source, self._source = self._source, None
        if hasattr(source, "close"):
            source.close()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)
            if thread.is_alive():
                frame = sys._current_frames().get(thread.ident)
                where = "".join(traceback.format_stack(frame)) if frame else ""
                warnings.warn(
                    f"the loader did not come back within {CLOSE_SECONDS} s; its thread "
                    f"{thread.name!r} is left at\n{where}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                # It may still have a slot to submit to.
                self._owner._forget(self._native)
        while self._held:
            self._release_one()
        self._owner._give(self._native)

    def __del__(self):
        self.close()


#: Loaders that are open, to be closed before the interpreter goes.
_OPEN = weakref.WeakSet()


def _close_all():
    for loader in list(_OPEN):
        loader.close()


# Before threads are waited for, and before a device's driver is unloaded.
getattr(threading, "_register_atexit", atexit.register)(_close_all)


class _Wrapped:
    """A loader with its batches prefetched. Each ``iter()`` is a new pass; what it has besides, such as
    ``dataset`` or ``sampler``, is the loader's."""

    def __init__(self, prefetcher, loader):
        self.prefetcher, self.loader = prefetcher, loader
        self._process, self._closed = os.getpid(), False
        self._idle, self._now = None, None
        self._consumed, self._skip, self._loader_state = 0, 0, None
        self._total, self._wall = _Times(), 0.0
        self._counted = {}
        _OPEN.add(self)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        if self._process != os.getpid():
            raise ForebayError("the loader was wrapped before fork(); wrap it in the child")
        if self._closed:
            raise ForebayError("the loader is closed")
        now = self._now() if self._now is not None else None
        if now is not None:
            # One pass at a time: the slots are this loader's.
            now.close()
        native, self._idle = self._idle, None
        if native is None:
            native = self.prefetcher._native()
        skip, self._skip = self._skip, 0
        self._consumed, self._loader_state = skip, None
        made = _Iterator(self, native, skip)
        self._now = weakref.ref(made)
        return made

    def _give(self, native):
        if native is not self._lost and not self._closed:
            self._idle = native
        self._counted = native.stats()

    _lost = None

    def _forget(self, native):
        self._lost = native
        native.close()

    def _add(self, times):
        total = self._total
        for name in ("load", "put", "get", "compute", "items", "ready"):
            setattr(total, name, getattr(total, name) + getattr(times, name))
        self._wall += time.perf_counter() - times.begun

    def close(self):
        """Ends the pass under way, and its threads; memory goes with the last batch that is referred
        to. Safe to call twice."""
        self._closed = True
        now = self._now() if self._now is not None else None
        if now is not None:
            now.close()
        idle, self._idle = self._idle, None
        if idle is not None and idle.process == os.getpid():
            idle.close()
        _OPEN.discard(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def state_dict(self):
        """Where the consumer is, not the thread ahead of it: to go on there with ``load_state_dict``.
        Where the loader has a ``state_dict``, its state behind the last batch that was given out."""
        return {"consumed": self._consumed, "loader": self._loader_state}

    def load_state_dict(self, state):
        """The next pass begins behind the batches of ``state``. Where the loader has no state of its own
        they are loaded, and dropped."""
        load = getattr(self.loader, "load_state_dict", None)
        if state["loader"] is not None and callable(load):
            load(state["loader"])
            self._skip = 0
        else:
            self._skip = state["consumed"]

    def stats(self):
        """Numbers of all passes so far; seconds but where the name says otherwise. ``verdict`` says
        what the passes were bound by."""
        now = self._now() if self._now is not None else None
        native = now._native if now is not None else self._idle
        counted = native.stats() if native is not None else dict(self._counted)
        total, wall = self._total, self._wall
        times = [total] + ([now._line.times] if now is not None and now._line is not None else [])
        if len(times) == 2:
            wall += time.perf_counter() - times[1].begun

        def of(name):
            return sum(getattr(one, name) for one in times)

        items = of("items")
        staged, stage_s = counted.get("staged_bytes", 0), counted.get("stage_ns", 0) / 1e9
        threads = max(self.prefetcher.num_workers, 1)
        stall = {
            "stage": counted.get("wait_ns", 0) / 1e6,
            "copy": counted.get("drain_ns", 0) / 1e6,
        }
        stall["loader"] = max(of("get") * 1e3 - stall["stage"], 0.0)
        busiest = max(of("load"), of("compute"), stage_s / threads)
        lookahead = self.prefetcher.lookahead
        submitted = counted.get("submitted_bytes", 0)
        return {
            **counted,
            "num_items": items,
            "ave_put_time": of("put") / items if items else 0.0,
            "ave_get_time": of("get") / items if items else 0.0,
            "occupancy_rate": of("ready") / (items * lookahead) if items and lookahead else 0.0,
            "load_s": of("load"),
            "compute_s": of("compute"),
            "wall_s": wall,
            "overlap_efficiency": min(busiest / wall, 1.0) if wall else 0.0,
            "stall_ms": stall,
            "late_batches": counted.get("late", 0),
            "bytes_copied": staged,
            "copies_per_byte": staged / submitted if submitted else 0.0,
            "stage_gbps": staged / stage_s / 1e9 if stage_s else 0.0,
            "peak_pinned_bytes": counted.get("pinned_peak", 0),
            "verdict": "bound by: " + _bound(of("get"), wall, stall),
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
    or a CUDA device (PyTorch's tensors; arrays become tensors; ``"cpu"`` with one warning where there is
    none). ``pin_memory=False`` stages in memory
    that is not pinned. ``keep`` batches stay valid beside the last one. ``copy`` gives tensors that
    stay. ``debug`` overwrites a batch when it is not valid any more. ``max_batch_bytes`` and
    ``max_pinned_bytes`` bound memory.
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

    def _native(self):
        pinned = 1 if not self.pin_memory else self.max_pinned_bytes or 0
        workers = self.num_workers if self.lookahead else 0
        return _Native(self.device, self.slots, workers, self.max_batch_bytes or 0, pinned)

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


class _Half:
    """One of two buffers: a slot of its own."""

    def __init__(self, owner):
        self.native = _Native(owner.device, 1, 1 if owner.num_workers else 0, owner.nbytes, 0)
        # Zeros, and so the slot is there, and known.
        import numpy

        zeros = numpy.zeros(owner.nbytes, numpy.uint8)
        leaf = _tree.flatten(zeros)[0][0]
        self.ticket, self.held = self.native.submit([leaf]), True
        self.address, _ = self.native.wait(self.ticket)
        made = _tree.Leaf(0, owner.nbytes, owner.dtype, owner.shape, owner.is_torch, None)
        self.view = self.native.leaves_of(self.address, owner.nbytes, [made], False)[0]
        self.state, self.count, self.source = "empty", owner.shape[0] if owner.shape else 0, None

    def fill(self, leaf, count):
        if self.held:
            self.leave()
        self.ticket, self.source, self.count = self.native.submit([leaf]), leaf, count
        self.state = "loading"

    def arrive(self):
        """The current stream waits for what was loaded."""
        if self.state == "loading":
            self.native.wait(self.ticket)
            self.state, self.held, self.source = "ready", True, None

    def leave(self):
        """What is queued on the current stream was the last to use it."""
        if self.held:
            self.native.release(self.ticket)
            self.held = False
        self.state = "empty"

    def close(self):
        if self.state == "loading":
            self.native.cancel(self.ticket)
        elif self.held:
            self.native.release(self.ticket)
        self.state, self.held = "empty", False
        self.native.close()


class DoubleBuffer:
    """Two buffers of one shape: one is worked on while the other is filled.

        for data in dataloader:
            current = buffer.get_current()
            buffer.prefetch_next(data)
            output = model(current)
            buffer.swap()

    ``prefetch_next`` fills the current buffer if nothing is in it, and else the other one; so this loop
    sees every batch once, in order, and on a GPU, where the host is ahead, the next copy runs beside
    the model all the same. Where the host waits in every step, ``prime(first)`` or ``iterate`` keep one
    batch ahead.
    """

    def __init__(self, buffer_size, dtype=None, device="cpu", *, num_workers=1):
        shape = (buffer_size,) if isinstance(buffer_size, int) else tuple(buffer_size)
        device = usable(device)
        self.shape, self.device, self.num_workers = shape, device, num_workers
        torch = sys.modules.get("torch")
        self.is_torch = torch is not None and isinstance(dtype, torch.dtype)
        if self.is_torch:
            self.dtype, item = dtype, torch.empty(0, dtype=dtype).element_size()
        else:
            import numpy

            self.dtype = numpy.dtype(numpy.float32 if dtype is None else dtype)
            item = self.dtype.itemsize
        self.nbytes = math.prod(shape) * item
        if self.nbytes < 1:
            raise ValueError(f"buffer_size is {buffer_size!r}; it must have 1 element or more")
        self._current, self._other = _Half(self), _Half(self)

    def get_current(self):
        """The current buffer. What is queued on the current stream from now on may use it."""
        self._current.arrive()
        return self._current.view

    def _fits(self, data, partial):
        leaves, _ = _tree.flatten(data)
        if len(leaves) != 1:
            raise ShapeMismatch(f"data has {len(leaves)} arrays; it must be one")
        leaf = leaves[0]
        given, wanted = str(leaf.dtype).removeprefix("torch."), str(self.dtype).removeprefix("torch.")
        if given != wanted:
            raise ShapeMismatch(f"data has dtype {given}; the buffer has {wanted}")
        if leaf.shape == self.shape:
            return leaf
        part = partial and leaf.shape[1:] == self.shape[1:] and 0 < leaf.shape[0] < self.shape[0]
        if not part:
            raise ShapeMismatch(
                f"data has shape {leaf.shape}; the buffer has {self.shape}"
                + ("" if partial else ", and iterate() takes a last batch that is shorter")
            )
        return leaf

    def prefetch_next(self, data):
        """Fills the current buffer if it is empty, else the other one."""
        leaf = self._fits(data, False)
        self._fill(leaf, self.shape[0])

    def _fill(self, leaf, count):
        if self._current.state == "empty":
            self._current.fill(leaf, count)
            self._current.arrive()
        elif self._other.state == "empty":
            self._other.fill(leaf, count)
        else:
            raise ForebayError("both buffers are full: call swap()")

    def swap(self):
        """The other buffer becomes the current one. The old one may be filled behind what is queued on
        the current stream."""
        self._current.leave()
        self._current, self._other = self._other, self._current
        self._current.arrive()

    def prime(self, first):
        """Fills the current buffer, before a loop that stays one batch ahead."""
        if self._current.state != "empty":
            raise ForebayError("the current buffer is full: call swap()")
        self.prefetch_next(first)

    def iterate(self, loader):
        """Every batch of ``loader``, one ahead; a last one that is shorter as a shorter view."""
        ahead = None
        for data in loader:
            leaf = self._fits(data, True)
            if ahead is None:
                self._fill(leaf, leaf.shape[0])
                ahead = leaf
                continue
            self._fill(leaf, leaf.shape[0])
            yield self.get_current()[: self._current.count]
            self.swap()
        if ahead is not None:
            yield self.get_current()[: self._current.count]
            self.swap()

    def close(self):
        """Gives the buffers back when nobody refers to them any more. Safe to call twice."""
        self._current.close()
        self._other.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
