"""What lives when, and what could be better.

    analyzer = LifetimeAnalyzer()
    for step, tensors in enumerate(training_tensors):
        analyzer.record_usage(step, tensors)
    plan = analyzer.compute_reuse_plan()

A tensor is its memory: views of one are one tensor, and one that comes later at the same address is
another. Nothing here keeps a tensor alive.
"""

import ctypes
import operator
import sys
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from ._abi import LifetimeSuggestions
from ._library import check, library
from .reuse_plan import Record, ReusePlan

__all__ = ["LifetimeAnalyzer"]


class _Tensor:
    """What is known of one tensor. ``gone`` is the step in which it was found to be no more."""

    __slots__ = ("bytes", "dtype", "expired", "first", "gone", "id", "last", "longest", "name")

    def __init__(self, id, size, name, dtype, step, expired):
        self.id, self.bytes, self.name, self.dtype = id, size, name, dtype
        self.first = self.last = step
        self.longest, self.gone, self.expired = 0, None, expired


def _storage(tensor):
    """A key for the memory of ``tensor``, its bytes, and a function that says whether it is gone.
    The key is nobody else's as long as that function is kept and says no."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, torch.Tensor):
        from torch.multiprocessing.reductions import StorageWeakRef

        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        return ("torch", reference.cdata), storage.nbytes(), reference.expired
    owner, size = tensor, getattr(tensor, "nbytes", None)
    if size is None and hasattr(tensor, "pointer"):
        # A block.
        owner, size = getattr(tensor, "_block", None) or tensor, tensor.size
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(tensor, numpy.ndarray):
        # The last in the chain of views that can be watched.
        while True:
            base = owner.base if isinstance(owner, numpy.ndarray) else None
            if base is None or not type(base).__weakrefoffset__:
                break
            owner = base
        size = getattr(owner, "nbytes", None) or memoryview(owner).nbytes
    if not isinstance(size, int):
        raise TypeError(f"tensors has a {type(tensor).__name__}, which is no array")
    reference = weakref.ref(owner)
    return id(owner), size, lambda: reference() is None


class LifetimeAnalyzer:
    """Records which tensors are used in which step, and says what memory they need.

    Tensors are numpy's arrays, PyTorch's tensors on any device, ``MemoryBlock``, and whatever has
    ``nbytes`` and can be referred to weakly. One lives from the step of its first use to that of
    its last, both included. May be called from one thread at a time.
    """

    def __init__(self):
        self._record = Record()
        self._tensors = []
        #: Those that are not known to be gone, by the key of their memory.
        self._known = {}
        self._step = None
        self._aligned = {}
        self._suggested = None

    def record_usage(self, step: int, tensors: Mapping[str, Any] | Iterable[Any]) -> None:
        """Says that ``tensors``, arrays or a mapping of names to arrays, are used in ``step``. May
        be called several times in one step. Arrays without bytes are passed over.

        Raises ``ValueError`` when ``step`` is below the last one, and ``TypeError`` for what is no
        array.
        """
        step = operator.index(step)
        if step < 0 or (self._step is not None and step < self._step):
            raise ValueError(
                f"step is {step}; it must be {self._step or 0} or more: steps go forward"
            )
        if hasattr(tensors, "nbytes") or hasattr(tensors, "pointer"):
            tensors = (tensors,)
        named = (
            tensors.items() if isinstance(tensors, Mapping) else ((None, one) for one in tensors)
        )
        found = [(name, tensor, _storage(tensor)) for name, tensor in named]
        if step != self._step:
            self._look(step)
        for name, tensor, storage in found:
            self._use(step, name, tensor, *storage)
        self._step, self._suggested = step, None

    def _look(self, step):
        """Finds out who is gone."""
        for key in [key for key, tensor in self._known.items() if tensor.expired()]:
            self._known.pop(key).gone = step

    def _use(self, step, name, tensor, key, size, expired):
        if size == 0:
            return
        known = self._known.get(key)
        if known is not None and (known.bytes != size or known.expired()):
            known.gone, known = step, None
        if known is None:
            dtype = str(getattr(tensor, "dtype", "uint8")).removeprefix("torch.")
            known = _Tensor(len(self._tensors), size, name, dtype, step, expired)
            check(library().forebay_lifetime_record(self._record.handle, step, known.id, size))
            self._tensors.append(known)
            self._known[key] = known
        elif step != known.last:
            check(library().forebay_lifetime_record(self._record.handle, step, known.id, size))
        known.longest = max(known.longest, step - known.last)
        known.last = step
        known.name = known.name or name

    @property
    def num_tensors(self) -> int:
        """How many tensors were recorded."""
        return len(self._tensors)

    @property
    def num_steps(self) -> int:
        """Steps from the first to the last, both included."""
        return self._step - self._tensors[0].first + 1 if self._tensors else 0

    def timeline(self) -> list[tuple[int, int]]:
        """(step, bytes that are in use from then on), for each step in which that changes."""
        return _sums((tensor.first, tensor.last + 1, tensor.bytes) for tensor in self._tensors)

    @property
    def peak_bytes(self) -> int:
        """Most bytes that were in use in one step."""
        return max((live for _, live in self.timeline()), default=0)

    def compute_reuse_plan(
        self,
        algorithm: str = "search",
        time_limit: float = 1.0,
        alignment: int = 512,
        progress=None,
    ) -> ReusePlan:
        """Where in one arena each tensor can be, by what is recorded so far.

        ``algorithm`` is ``"search"``, within ``time_limit`` seconds, or ``"greedy"``, at once.
        Offsets are multiples of ``alignment``; 512 is what a pool needs for ``apply``.
        ``progress(arena_bytes, lower_bound_bytes)`` is called some times a second, and ends the
        search when it returns False.
        """
        # Each tensor is told once.
        ids = [one.id for one in self._tensors if self._aligned.get(one.id) != alignment]
        handle = self._record.plan(algorithm, time_limit, alignment, ids, progress)
        self._aligned.update(dict.fromkeys(ids, alignment))
        check(library().forebay_plan_validate(handle, self._record.handle))
        names = {tensor.id: tensor.name for tensor in self._tensors}
        return ReusePlan(handle, names, algorithm)

    def get_optimization_suggestions(self, time_limit: float = 1.0) -> dict:
        """What could be better, in bytes: a plan is made for it, within ``time_limit`` seconds.

        ``reusable_bytes`` is what a plan saves over a place for each tensor (``total_bytes`` less
        ``planned_bytes``); ``peak_bytes`` were in use at once, ``lower_bound_bytes`` no plan can be
        below. ``temporary_tensors`` live for at most a tenth of the ``num_steps``,
        ``long_lived_tensors`` for nine tenths. ``suggestions`` is a list of {``kind``, ``tensors``
        (ids), ``bytes_saved``, ``message``, ``confidence`` (0 to 1)}, the most bytes first, of the
        kinds "reuse", "free_earlier" (they were there after their last use), "offload" (long
        between two uses) and "dtype" (float64).
        """
        if self._suggested is not None:
            return self._suggested
        plan = self.compute_reuse_plan(time_limit=time_limit)
        counted = LifetimeSuggestions(struct_size=ctypes.sizeof(LifetimeSuggestions))
        if self._tensors:
            check(
                library().forebay_lifetime_suggest(
                    self._record.handle, plan._handle, ctypes.byref(counted)
                )
            )
        suggestions = [
            one
            for one in (
                self._reuse(counted),
                self._free_earlier(),
                self._offload(),
                self._narrower(),
            )
            if one is not None
        ]
        self._suggested = {
            "reusable_bytes": counted.reusable_bytes,
            "total_bytes": counted.total_bytes,
            "peak_bytes": counted.peak_bytes,
            "planned_bytes": counted.planned_bytes,
            "lower_bound_bytes": plan.lower_bound_bytes,
            "num_tensors": counted.tensors,
            "num_steps": counted.steps,
            "temporary_tensors": counted.temporary_tensors,
            "temporary_bytes": counted.temporary_bytes,
            "long_lived_tensors": counted.long_lived_tensors,
            "long_lived_bytes": counted.long_lived_bytes,
            "never_read": counted.never_read_tensors,
            "suggestions": sorted(suggestions, key=lambda one: -one["bytes_saved"]),
        }
        return self._suggested

    def _reuse(self, counted):
        if not counted.reusable_bytes:
            return None
        ids = [tensor.id for tensor in self._tensors]
        message = (
            f"{counted.tensors} tensors of {counted.total_bytes} bytes fit into "
            f"{counted.planned_bytes}: compute_reuse_plan().apply(pool)"
        )
        return _suggestion("reuse", ids, counted.reusable_bytes, message, 1.0)

    def _free_earlier(self):
        """By how much the peak would sink if nothing were there after its last use."""
        end = 0 if self._step is None else self._step + 1
        there = [
            (one.first, max(end if one.gone is None else one.gone, one.last + 1), one.bytes)
            for one in self._tensors
        ]
        late = [
            tensor.id
            for tensor, (_, until, _) in zip(self._tensors, there)
            if until > tensor.last + 1
        ]
        saved = max((live for _, live in _sums(there)), default=0) - self.peak_bytes
        if not late or saved <= 0:
            return None
        message = f"{len(late)} tensors were there after their last use: drop them then"
        return _suggestion("free_earlier", late, saved, message, 0.8)

    def _offload(self):
        """Those that nobody uses for half of the time, between two uses."""
        half = max(self.num_steps / 2, 4)
        idle = [tensor for tensor in self._tensors if tensor.longest >= half]
        if not idle:
            return None
        saved = sum(tensor.bytes for tensor in idle)
        message = (
            f"{len(idle)} tensors are unused for {max(tensor.longest for tensor in idle)} steps: "
            "they could be in system memory, or be computed again"
        )
        return _suggestion("offload", [tensor.id for tensor in idle], saved, message, 0.5)

    def _narrower(self):
        wide = [tensor for tensor in self._tensors if tensor.dtype == "float64"]
        if not wide:
            return None
        ids = [tensor.id for tensor in wide]
        saved = self.peak_bytes - max(
            live
            for _, live in _sums(
                (one.first, one.last + 1, one.bytes // 2 if one.dtype == "float64" else one.bytes)
                for one in self._tensors
            )
        )
        message = f"{len(wide)} tensors are float64; as float32 the peak is {saved} bytes lower"
        return _suggestion("dtype", ids, saved, message, 0.3)

    def __repr__(self):
        return f"<forebay.LifetimeAnalyzer of {self.num_tensors} tensors in {self.num_steps} steps>"


def _suggestion(kind, tensors, saved, message, confidence):
    return {
        "kind": kind,
        "tensors": tensors,
        "bytes_saved": saved,
        "message": message,
        "confidence": confidence,
    }


def _sums(intervals):
    """(time, sum) where the sum of the bytes of ``intervals`` (from, to, bytes) changes."""
    changes = {}
    for begin, end, size in intervals:
        changes[begin] = changes.get(begin, 0) + size
        changes[end] = changes.get(end, 0) - size
    live, made = 0, []
    for time in sorted(changes):
        live += changes[time]
        made.append((time, live))
    return made
