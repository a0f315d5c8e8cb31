"""Plans: where in one arena each tensor of a program can be."""

import ctypes
import os
import tempfile
from collections.abc import Mapping
from typing import Any

from ._abi import (
    PLAN_BINARY,
    PLAN_GREEDY,
    PlanOptions,
    PlanSummary,
    PlanTensor,
    PlanUsage,
)
from ._library import check, library

__all__ = ["ReusePlan"]

_ALGORITHMS = {"search": 0, "greedy": PLAN_GREEDY}


class Record:
    """A record of lifetimes in the library."""

    def __init__(self):
        self.handle = ctypes.c_void_p()
        check(library().forebay_lifetime_create(ctypes.byref(self.handle)))

    def __del__(self):
        if getattr(self, "handle", None):
            library().forebay_lifetime_destroy(self.handle)

    def plan(self, algorithm="search", time_limit=1.0, alignment=512, ids=(), progress=None):
        """The handle of a plan for what is recorded; the tensors ``ids`` are aligned first."""
        if algorithm not in _ALGORITHMS:
            raise ValueError(f"algorithm is {algorithm!r}; it must be 'search' or 'greedy'")
        if not time_limit >= 0:
            raise ValueError(f"time_limit is {time_limit!r}; it must be 0 or more seconds")
        for one in ids:
            check(library().forebay_lifetime_align(self.handle, one, alignment))
        options = PlanOptions(struct_size=ctypes.sizeof(PlanOptions))
        options.flags = _ALGORITHMS[algorithm]
        if algorithm == "search":
            options.time_limit_ms = max(int(time_limit * 1000), 1)
        if progress is not None:
            told = dict(PlanOptions._fields_)["progress"]

            def tell(so_far, _):
                now = so_far.contents
                return 0 if progress(now.arena_bytes, now.lower_bound) is not False else 1

            options.progress = told(tell)
        handle = ctypes.c_void_p()
        status = library().forebay_lifetime_plan(
            self.handle, ctypes.byref(options), ctypes.byref(handle)
        )
        check(status)
        return handle


class ReusePlan(Mapping):
    """An offset for each tensor, so that no two that live at one time overlap:
    ``plan["arena_bytes"]`` and ``plan.arena_bytes`` are the same.

    ``arena_bytes`` is what all of them need, ``lower_bound_bytes`` what no plan of
    tensors with that alignment can be below, ``gap`` the first by the second (1.0: it is the best
    there is), ``optimal`` whether that is known, ``offsets`` {id: bytes}, ``assignments`` a list of
    {``id``, ``name``, ``size``, ``first_use``, ``last_use``, ``offset``, ``reuses``} with the ids
    that share bytes with it, ``algorithm`` ("search" or "greedy") and ``elapsed_s``. A plan never
    changes, and was checked when it was made.
    """

    _KEYS = (
        "arena_bytes",
        "lower_bound_bytes",
        "offsets",
        "assignments",
        "gap",
        "algorithm",
        "optimal",
        "elapsed_s",
    )

    def __init__(self, handle, names, algorithm):
        self._handle, self._names, self.algorithm = handle, names, algorithm
        summary = PlanSummary(struct_size=ctypes.sizeof(PlanSummary))
        check(library().forebay_plan_summarize(handle, ctypes.byref(summary)))
        self.arena_bytes, self.lower_bound_bytes = summary.arena_bytes, summary.lower_bound
        self.total_bytes, self.optimal = summary.total_bytes, bool(summary.optimal)
        self.elapsed_s = summary.elapsed_ns / 1e9
        self._tensors = [self._tensor(index) for index in range(summary.tensors)]
        self.offsets = {tensor.id: tensor.offset for tensor in self._tensors}
        self._assignments = None

    def __del__(self):
        if getattr(self, "_handle", None):
            library().forebay_plan_destroy(self._handle)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ReusePlan":
        """The plan in the file ``path``, as ``to_csv`` or ``save`` wrote it; it is checked."""
        handle = ctypes.c_void_p()
        check(library().forebay_plan_load(os.fsencode(path), ctypes.byref(handle)))
        return cls(handle, {}, "search")

    def _tensor(self, index):
        tensor = PlanTensor()
        check(library().forebay_plan_tensor_at(self._handle, index, ctypes.byref(tensor)))
        return tensor

    def _sharers(self, tensor):
        count = ctypes.c_size_t()
        call = library().forebay_plan_sharers
        check(call(self._handle, tensor, None, 0, ctypes.byref(count)))
        ids = (ctypes.c_uint64 * count.value)()
        check(call(self._handle, tensor, ids, count.value, ctypes.byref(count)))
        return list(ids)

    @property
    def gap(self) -> float:
        """``arena_bytes`` by ``lower_bound_bytes``; 1.0 of a plan without tensors."""
        return self.arena_bytes / self.lower_bound_bytes if self.lower_bound_bytes else 1.0

    @property
    def assignments(self) -> list:
        """Every tensor with its place, in the order of recording."""
        if self._assignments is None:
            self._assignments = [
                {
                    "id": tensor.id,
                    "name": self._names.get(tensor.id),
                    "size": tensor.size,
                    "first_use": tensor.lower,
                    "last_use": tensor.upper - 1,
                    "offset": tensor.offset,
                    "reuses": self._sharers(tensor.id),
                }
                for tensor in self._tensors
            ]
        return self._assignments

    def __getitem__(self, key):
        if key not in self._KEYS:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self):
        return iter(self._KEYS)

    def __len__(self):
        return len(self._KEYS)

    def validate(self) -> bool:
        """Checks it against the lifetimes that it was made for: True, or a ``ForebayError`` that
        names the tensors which are in each other's way."""
        record = Record()
        uses = [(tensor.lower, tensor) for tensor in self._tensors]
        uses += [(tensor.upper - 1, tensor) for tensor in self._tensors]
        for step, tensor in sorted(uses, key=lambda use: use[0]):
            check(library().forebay_lifetime_record(record.handle, step, tensor.id, tensor.size))
        check(library().forebay_plan_validate(self._handle, record.handle))
        return True

    def apply(self, pool: Any) -> None:
        """Has ``pool``, a ``MemoryPool`` or ``forebay.Pool``, serve what is allocated from now on
        from the plan's arena, as long as allocations come as they were recorded: each as soon as it
        was made, with all that was there then. Raises ``ForebayError`` when a plan is applied
        already, or there is no memory for the arena."""
        check(library().forebay_pool_apply_plan(_handle_of(pool), self._handle, None))

    @staticmethod
    def remove(pool: Any) -> None:
        """Ends what ``apply`` began; nothing that was served from the plan may be live."""
        check(library().forebay_pool_remove_plan(_handle_of(pool)))

    @staticmethod
    def begin_step(pool: Any) -> None:
        """Says that the next allocation from ``pool`` is the first of a step. Steps that go as
        planned need it not."""
        check(library().forebay_pool_begin_step(_handle_of(pool)))

    @staticmethod
    def usage(pool: Any) -> dict:
        """How well the plan of ``pool`` fits: ``served`` allocations got their place, ``diverged``
        a block beside it; with ``arena_bytes``, ``tensors``, ``steps``, ``diverged_bytes`` and
        ``live``."""
        usage = PlanUsage(struct_size=ctypes.sizeof(PlanUsage))
        check(library().forebay_pool_plan_usage(_handle_of(pool), ctypes.byref(usage)))
        return {name: getattr(usage, name) for name, _ in PlanUsage._fields_[1:]}

    def save(self, path: str | os.PathLike) -> None:
        """Writes it to the file ``path`` in the compact form, which has a checksum."""
        check(library().forebay_plan_save(self._handle, os.fsencode(path), PLAN_BINARY))

    def to_csv(self, path: str | os.PathLike | None = None) -> str | None:
        """Writes it to the file ``path`` as CSV, ``id,lower,upper,size,offset``, MiniMalloc's
        columns, with ``upper`` not included; without ``path`` it is returned."""
        if path is not None:
            check(library().forebay_plan_save(self._handle, os.fsencode(path), 0))
            return None
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "plan.csv")
            self.to_csv(file)
            with open(file) as text:
                return text.read()

    def to_svg(self, path: str | os.PathLike, before: "ReusePlan | None" = None) -> None:
        """Draws it to the file ``path``: address by time. ``before`` is another plan of the same
        tensors, to see both."""
        other = None if before is None else before._handle
        check(library().forebay_plan_svg(self._handle, other, os.fsencode(path), 0))

    def __repr__(self):
        best = ", optimal" if self.optimal else f", {self.gap:.3f} of the lower bound"
        return (
            f"<forebay.ReusePlan of {len(self._tensors)} tensors, {self.arena_bytes} bytes{best}>"
        )


def _handle_of(pool):
    """The library's handle of a ``MemoryPool`` or a ``forebay.Pool``."""
    return getattr(pool, "pool", pool).handle
