"""The ranks of a torchrun job: their records side by side, their traces on one clock.

    summary = forebay.contrib.torchrun.gather()        # on every rank
    if summary is not None:                            # rank 0
        print(summary)

    with forebay.contrib.torchrun.trace("step.{rank}.csv.gz"):
        train_one_step()

Both are collective: every rank has to call them, in the same order. They run over gloo, on the CPU,
in a group of their own, and leave the job's groups alone.

They talk from one rank to another, never by PyTorch's collectives: those run on threads of the group,
which want the interpreter's lock to let go of the last tensors, while ``destroy_process_group`` has
that lock and waits for the threads (seen with PyTorch 2.6).
"""

import contextlib
import datetime
import json
import os
import time
import weakref

from .. import settings, workers
from .._library import ForebayError
from ..pool import Pool

__all__ = ["clock_offset", "gather", "trace"]

#: How often clocks are compared; the quickest exchange counts.
_EXCHANGES = 16

#: What a message to a rank begins with: the version of the exchange.
_VERSION = 1

#: The group of all ranks that was made for this, and the default group it was made beside. They are
#: PyTorch's: a group that outlives ``destroy_process_group`` can end the process with its threads.
_made = None


def _distributed():
    """``torch.distributed``, or None where this is the only process."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist
    size = os.environ.get("WORLD_SIZE") or "1"
    if size != "1":
        raise ForebayError(
            f"WORLD_SIZE is {size}, and torch.distributed is not initialised: call "
            "torch.distributed.init_process_group() first"
        )
    return None


def _gloo(dist, group, timeout):
    """The group to talk in: ``group``, if it is gloo's, or one of all ranks that is made once."""
    global _made
    if group is not None:
        try:
            backend = str(dist.get_backend(group))
        except ValueError:
            raise ValueError(f"group does not have this rank, {dist.get_rank()}") from None
        if "gloo" not in backend:
            raise ValueError(
                f"group is one of {backend}; it must be one of gloo: "
                "torch.distributed.new_group(backend='gloo')"
            )
        return group
    world = dist.group.WORLD
    group = _made[1]() if _made is not None and _made[0]() is world else None
    if group is None:
        group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout))
        _made = weakref.ref(world), weakref.ref(group)
    return group


def _meet(dist, group, timeout, what):
    """Waits for all ranks; an error that names those who did not come."""
    global _made
    try:
        dist.monitored_barrier(
            group, timeout=datetime.timedelta(seconds=timeout), wait_all_ranks=True
        )
    except RuntimeError as error:
        # Its connections are not to be trusted any more.
        _made = None
        raise ForebayError(f"{what}: not every rank came within {timeout:g} s: {error}") from None


def _joined(group, timeout, what):
    """``torch.distributed`` and the group, all ranks having come; None and None where there is one
    process."""
    if isinstance(timeout, bool) or not 0 < timeout < 1e6:
        raise ValueError(f"timeout is {timeout!r}; it must be seconds, more than 0")
    dist = _distributed()
    if dist is None:
        return None, None
    try:
        group = _gloo(dist, group, timeout)
    except RuntimeError as error:
        raise ForebayError(f"{what}: not every rank came within {timeout:g} s: {error}") from None
    _meet(dist, group, timeout, what)
    return dist, group


def gather(group=None, timeout=60.0, *, record=None):
    """The records of all ranks of ``group`` (a gloo group; None is all ranks, whatever backend they
    have) as a ``forebay.workers.Summary``, on the first rank of the group; None on the others.

    Every rank has to call it. Raises ``ForebayError`` when some did not within ``timeout`` seconds:
    on the first rank it names them, but for the first call, where it is the group that cannot be
    made. The ranks are then not to call anything of this module again. ``record`` is this rank's,
    by default ``forebay.workers.collect()``. In a process by itself, its own.
    """
    dist, group = _joined(group, timeout, "gather")
    rank = 0 if dist is None else dist.get_rank()
    if record is None:
        record = workers.collect(f"rank {rank}")
    if dist is None:
        return workers.Summary([record])
    found = _to_first(dist, group, json.dumps(record).encode())
    return found and workers.Summary([json.loads(text) for text in found])


def _to_first(dist, group, text):
    """What every rank of the group says, by rank, on its first; None on the others."""
    import torch

    first = dist.get_global_rank(group, 0)
    length = torch.tensor([len(text)], dtype=torch.int64)
    if dist.get_rank(group) != 0:
        dist.send(length, first, group=group)
        dist.send(torch.frombuffer(bytearray(text), dtype=torch.uint8), first, group=group)
        return None
    found = [text]
    for other in range(1, dist.get_world_size(group)):
        other = dist.get_global_rank(group, other)
        dist.recv(length, other, group=group)
        said = torch.empty(int(length), dtype=torch.uint8)
        dist.recv(said, other, group=group)
        found.append(said.numpy().tobytes())
    return found


def clock_offset(group=None, timeout=60.0):
    """What to add to this rank's clock, ``time.time_ns()``, to come to that of the group's first
    rank, and how far off that may be: two numbers of nanoseconds. (0, 0) on the first.

    Every rank has to call it, as with ``gather``. The ranks send each other their times: the answer
    was given between the question and its arrival, so half of the quickest exchange is the error.
    """
    dist, group = _joined(group, timeout, "clock_offset")
    return (0, 0) if dist is None else _compare(dist, group)


def _compare(dist, group):
    import torch

    clock = torch.zeros(2, dtype=torch.int64)
    first = dist.get_global_rank(group, 0)
    if dist.get_rank(group) == 0:
        for other in range(1, dist.get_world_size(group)):
            other, found = dist.get_global_rank(group, other), []
            for _ in range(_EXCHANGES):
                asked = time.time_ns()
                dist.send(clock, other, group=group)
                dist.recv(clock, other, group=group)
                heard = time.time_ns()
                # What the other's clock said in the middle, on this clock.
                found.append(((heard - asked + 1) // 2, (asked + heard) // 2 - int(clock[0])))
            error, offset = min(found)
            dist.send(torch.tensor([offset, error]), other, group=group)
        return 0, 0
    for _ in range(_EXCHANGES):
        dist.recv(clock, first, group=group)
        clock[0] = time.time_ns()
        dist.send(clock, first, group=group)
    dist.recv(clock, first, group=group)
    return int(clock[0]), int(clock[1])


def _pool():
    """Where this rank's tensors come from: PyTorch's pool, or the configured one."""
    from ..torch import mode

    return Pool.of_torch() if mode() is not None else settings.current().pool()


@contextlib.contextmanager
def trace(path, pool=None, *, group=None, timeout=60.0):
    """Writes every allocation and free of this rank while the block runs to a file of its own, for
    ``python -m forebay merge-trace``: ``path``, where ``{rank}`` becomes the rank. ``pool`` is a
    ``forebay.Pool`` or ``MemoryPool``; None is the one that ``forebay.torch`` serves the current
    device from, or else that of ``forebay.configure``. Gives the path.

    Beside the trace, in ``<path>.rank.json``, is what it takes to lay it on the first rank's clock:
    ``rank``, ``world_size``, ``clock_offset_ns`` (to be added to its times), ``clock_error_ns`` and
    ``begun_ns`` (since 1970, on this rank's clock).

    Every rank has to begin it, as with ``gather``; the block itself waits for nobody.
    """
    path = os.fspath(path)
    dist, group = _joined(group, timeout, "trace")
    rank, size, offset, error = 0, 1, 0, 0
    if dist is not None:
        rank, size = dist.get_rank(), dist.get_world_size(group)
        if size > 1 and "{rank}" not in path:
            raise ValueError(f"path is {path!r}, the same for all {size} ranks; put {{rank}} in it")
        offset, error = _compare(dist, group)
    path = path.replace("{rank}", str(rank))
    beside = {
        "version": _VERSION,
        "rank": rank,
        "world_size": size,
        "clock_offset_ns": offset,
        "clock_error_ns": error,
        "begun_ns": time.time_ns(),
    }
    pool = _pool() if pool is None else pool
    with getattr(pool, "pool", pool).trace(path):
        workers.save(f"{path}.rank.json", beside)
        yield path
