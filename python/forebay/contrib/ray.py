"""forebay in Ray's workers: how much each may take, gauges for Prometheus, records side by side.

    ray.init(runtime_env=forebay.contrib.ray.runtime_env(pool_size="25%", device="local"))

    @ray.remote(num_gpus=1)
    class Trainer:
        def step(self):
            pool = forebay.settings.current().pool()
            ...
            forebay.contrib.ray.export_gauges()

    print(forebay.contrib.ray.gather(trainers))
"""

import os
import threading

from .. import settings, workers

__all__ = ["export_gauges", "gather", "runtime_env", "setup"]

#: The fields and ratios that become gauges, by what Prometheus is told of them.
_GAUGES = {
    "requested_bytes": "Bytes that are allocated, as they were asked for",
    "allocated_bytes": "Bytes of the blocks that are allocated",
    "reserved_bytes": "Bytes that pools have mapped",
    "reserved_peak_bytes": "Most bytes that pools had mapped",
    "limit_bytes": "Limits of the pools that have one",
    "live_blocks": "Blocks that are allocated",
    "hit_rate": "Allocations that pools had memory for, of all, 0 to 1",
    "failed": "Allocations that there was no memory for",
    "cache_bytes": "Bytes in caches",
    "cache_efficiency": "Hits of caches, of all gets, 0 to 1",
    "loader_pinned_bytes": "Pinned bytes of prefetched loaders",
    "waiting_share": "Time that loops waited for data, of all, 0 to 1",
    "rss_bytes": "Bytes of the process in memory",
}

_lock = threading.Lock()
_gauges = {}


def runtime_env(pool_size=None, max_pinned=None, policy=None, device=None) -> dict:
    """Ray's runtime environment for workers that are so configured; the arguments are those of
    ``forebay.configure``, and of each worker. Its ``env_vars`` may be added to.

    On the host, a part is one of what is left to a worker's process: Ray gives workers no share of
    the memory. Raises ValueError and TypeError here for what cannot be read.
    """
    settings.check_arguments(pool_size, max_pinned, policy, device)
    given = {
        "FOREBAY_POOL_SIZE": pool_size,
        "FOREBAY_MAX_PINNED": max_pinned,
        "FOREBAY_POLICY": policy,
        "FOREBAY_DEVICE": device,
    }
    named = {name: str(value) for name, value in given.items() if value is not None}
    return {"worker_process_setup_hook": setup, "env_vars": named}


def setup():
    """Ray's ``worker_process_setup_hook``: a worker whose ``FOREBAY_*`` variables cannot be read
    does not start, and says why.

    Opens nothing. Ray tells a worker its GPUs when it gives it a task; ``settings.current()`` of
    the task finds them.
    """
    settings.check_arguments(
        *(os.environ.get(f"FOREBAY_{name}") or None for name in
          ("POOL_SIZE", "MAX_PINNED", "POLICY", "DEVICE"))
    )


def export_gauges(record=None):
    """Sets Ray's gauges to what ``forebay.workers.collect()`` finds, or to ``record``: Prometheus
    has them as ``ray_forebay_reserved_bytes`` and so on, with the worker's name as the tag
    ``worker``. Keeps them; call it once a step, or as often as they shall change. Returns the
    record."""
    from ray.util.metrics import Gauge

    record = workers.collect() if record is None else record
    with _lock:
        for name, description in _GAUGES.items():
            if name not in _gauges:
                _gauges[name] = Gauge(f"forebay_{name}", description, tag_keys=("worker",))
    tags = {"worker": ", ".join(record["names"])}
    for name, gauge in list(_gauges.items()):
        value = record.ratio(name) if name in workers.RATIOS else record[name]
        # A ratio of nothing stays what it was.
        if value is not None:
            gauge.set(value, tags)
    return record


def _record_of(_, name):
    return dict(workers.collect(name))


def gather(actors, timeout=60.0):
    """The records of the processes of ``actors`` as a ``forebay.workers.Summary``: each is called
    ``actor N``, by its place. Raises ``ray.exceptions.GetTimeoutError`` when they do not answer
    within ``timeout`` seconds: an actor answers between two of its calls."""
    import ray

    asked = [
        actor.__ray_call__.remote(_record_of, f"actor {at}") for at, actor in enumerate(actors)
    ]
    return workers.Summary(ray.get(asked, timeout=timeout))
