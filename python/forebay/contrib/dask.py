"""A pool for each worker of a Dask cluster, and what it does on the dashboard.

    from forebay.contrib.dask import ForebaySetup, aggregate

    client.register_plugin(ForebaySetup(pool_size="60%", device="local"))
    ...
    print(aggregate(client))

Workers that join later are set up as they come.
"""

import inspect
import os
import socket

from distributed import WorkerPlugin, get_worker

from .. import workers
from ..settings import check_arguments, configure

__all__ = ["ForebaySetup", "aggregate", "worker_pool"]

#: What the dashboard's table of workers shows, which takes plain numbers and text.
_SHOWN = ("requested_bytes", "reserved_bytes", "hit_rate")


class ForebaySetup(WorkerPlugin):
    """Opens a pool in each worker, and puts its record with every heartbeat.

    ``pool_size``, ``max_pinned``, ``policy`` and ``device`` are those of ``forebay.configure``, and
    are of each worker, not of the cluster. On the host, the whole that ``"60%"`` is a part of is
    the worker's ``memory_limit``; where it has none, what is left to its process. ``torch=True``
    puts forebay in the place of PyTorch's CUDA allocator too.

    The record is ``worker.metrics["forebay"]``, and at the scheduler ``scheduler.workers[address]
    .metrics["forebay"]``; bytes and hit rate are columns of the dashboard's table of workers.
    ``worker_pool()`` is the pool, for tasks.

    Raises ValueError and TypeError here, on the client, for what cannot be read. Registering it
    again does nothing, even where a worker could not set it up; to change it, unregister
    ``"forebay"`` first: ``client.unregister_worker_plugin("forebay")``.
    """

    name = "forebay"
    idempotent = True

    def __init__(self, pool_size=None, max_pinned=None, policy=None, device=None, *, torch=False):
        check_arguments(pool_size, max_pinned, policy, device)
        self.pool_size, self.max_pinned, self.policy = pool_size, max_pinned, policy
        self.device, self.torch = device, torch
        self.settings = None
        self._last = None

    def setup(self, worker):
        """Opens the worker's pool; an error here is raised where the plugin is registered."""
        limit = getattr(worker.memory_manager, "memory_limit", None)
        settings = configure(
            self.pool_size, self.max_pinned, self.policy, self.device, host_bytes=limit or None
        )
        if self.torch:
            settings.enable_torch()
        settings.pool()
        self.settings = settings
        worker.metrics["forebay"] = self._record
        for shown in _SHOWN:
            worker.metrics[f"forebay_{shown}"] = self._number(shown)

    def teardown(self, worker):
        """Closes the pool; arrays that tasks still have stay as they are."""
        for name in ("forebay", *(f"forebay_{shown}" for shown in _SHOWN)):
            worker.metrics.pop(name, None)
        settings, self.settings = self.settings, None
        if settings is not None:
            settings.close()

    def _record(self, worker):
        self._last = workers.collect(_name(worker))
        return dict(self._last)

    def _number(self, shown):
        # Metrics are asked for in the order in which they were set: the record is this beat's.
        def number(worker):
            record = self._last
            if shown not in workers.RATIOS:
                return record[shown]
            # Text, for the table's last row adds numbers up, and a sum of ratios says nothing.
            ratio = record.ratio(shown)
            return "" if ratio is None else f"{ratio:.1%}"

        return number

    def __getstate__(self):
        # To each worker as it was made.
        return {**self.__dict__, "settings": None, "_last": None}


def _name(worker):
    name = str(worker.name)
    return f"worker {name}" if name.isdecimal() else name


def worker_pool():
    """The ``MemoryPool`` of the worker that runs this task. Raises ValueError outside of one, and
    where the plugin is not registered."""
    plugin = get_worker().plugins.get(ForebaySetup.name)
    if plugin is None or plugin.settings is None:
        raise ValueError("this worker has no pool: client.register_plugin(ForebaySetup(...))")
    return plugin.settings.pool()


def _of_process(dask_worker):
    """Which process a worker is in, and its record."""
    return (socket.gethostname(), os.getpid()), dict(workers.collect(_name(dask_worker)))


def aggregate(client):
    """Asks all workers of a cluster for their records: a ``forebay.workers.Summary``, with those
    that could not answer as ``missing``, a dictionary of errors by address. Workers that share a
    process have the same pools, and count once. An asynchronous client's is to be awaited.

    The plugin need not be registered.
    """
    found = client.run(_of_process, on_error="return")
    if inspect.isawaitable(found):
        return _awaited(found)
    return _summary(found)


async def _awaited(found):
    return _summary(await found)


def _summary(found):
    processes, missing = {}, {}
    for address, answer in sorted(found.items()):
        if isinstance(answer, BaseException):
            missing[address] = answer
        else:
            process, record = answer
            processes.setdefault(process, record)
    summary = workers.Summary(processes.values())
    summary.missing = missing
    return summary
