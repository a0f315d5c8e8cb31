"""What lives in this process, as plain numbers: pools, caches, prefetchers, and the process itself.

``Reader().read()`` is what ``forebay.publish`` writes, ``top`` shows and ``formats.openmetrics``
turns into text.
"""

import os
import sys
import time

from ._library import ForebayError
from .pool import Pool, pools

__all__ = [
    "Reader",
    "cache_states",
    "caches",
    "every_pool",
    "loaders",
    "process_memory",
    "started",
]

#: Of the time between two readings, the most that walks over the blocks of pools may take.
_WALKING = 0.01

#: What a walk over the blocks tells.
_WALKED = (
    "policy",
    "external_fragmentation",
    "internal_fragmentation",
    "free_bytes",
    "idle_bytes",
    "waiting_bytes",
    "front_cache_bytes",
    "largest_free_run",
)

_PAGE = os.sysconf("SC_PAGESIZE")


#: Those behind PyTorch, by device: nobody else need keep them.
_torch_pools = {}


def every_pool():
    """``forebay.pools()``, with those that PyTorch's tensors came from by now."""
    if "forebay.torch._pool" in sys.modules:
        from .torch._pool import used_devices

        for device in used_devices():
            if device not in _torch_pools:
                _torch_pools[device] = Pool.of_torch(device)
    return pools()


def caches():
    """The caches that are open; the module is not imported for it."""
    module = sys.modules.get("forebay.cache")
    # One that is being imported has none yet.
    return module.caches() if hasattr(module, "caches") else []


def loaders():
    """The prefetched loaders that are open, likewise."""
    module = sys.modules.get("forebay.prefetch")
    return module.loaders() if hasattr(module, "loaders") else []


def process_memory():
    """Resident bytes of this process: all of them, and those that are no file's."""
    # Without a file object, which takes longer than the kernel does.
    descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _, resident, shared, _ = os.read(descriptor, 128).split(None, 3)
    finally:
        os.close(descriptor)
    resident = int(resident)
    return resident * _PAGE, (resident - int(shared)) * _PAGE


def started(pid):
    """When a process started, in ticks since the machine did: with its number, which process it is.
    None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Its name, in parentheses, may have any character.
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _peak_resident():
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


#: What the monitor tells of the machine, as far as it is known.
_MACHINE = (
    "level",
    "limit_source",
    "system_available",
    "system_total",
    "pressure_some_avg10",
    "pressure_full_avg10",
    "oom_kills",
    "gpus",
)


def _machine():
    """What the machine has left for this process; nothing where the kernel does not say."""
    from .monitor import SystemMemoryMonitor

    try:
        told = SystemMemoryMonitor().get_memory_info()
    except ForebayError:
        return {}
    return {name: told[name] for name in _MACHINE if told.get(name) is not None}


def _cache_of(one):
    counted = one.get_stats()
    counted["number"], counted["name"] = one.number, f"{one.device} #{one.number}"
    counted["device"], counted["policy"] = one.device, one.eviction_policy
    return counted


def _prefetcher_of(one):
    stats = one.stats()
    found = {name: value for name, value in stats.items() if isinstance(value, (int, float, str))}
    found["stall_ms"] = stats.get("stall_ms", {})
    found["number"], found["name"] = one.number, type(one.loader).__name__
    found["device"] = str(one.prefetcher.device)
    found["lookahead"] = one.prefetcher.lookahead
    return found


def cache_states():
    """Each cache that is open."""
    return _all_of(_cache_of, caches())


def _all_of(read, things):
    """What is read of each; what is closed meanwhile is left out."""
    found = []
    for one in things:
        try:
            found.append(read(one))
        except (ForebayError, AttributeError):
            continue
    return found


class Reader:
    """Reads again and again; so it knows rates, and how often it can afford to walk over blocks."""

    def __init__(self):
        self._walked = {}

    def _walk(self, pool, now):
        """What only a walk tells, from when it was last worth its time; empty before."""
        when, cost, found = self._walked.get(pool.number, (None, 0.0, {}))
        if when is None or now - when > cost / _WALKING:
            begun = time.perf_counter()
            report = pool.report()
            found = {name: report[name] for name in _WALKED if name in report}
            self._walked[pool.number] = (now, time.perf_counter() - begun, found)
        return found

    def read(self):
        """The state now, an object that JSON can have. All sizes are bytes; ``clock`` is the
        machine's monotonic clock in seconds, ``time`` seconds since 1970."""
        now = time.monotonic()

        def pool_of(pool):
            counted = {"number": pool.number, "name": pool.name, "device": pool.device}
            counted["part_of"] = pool.part_of
            counted.update(pool.statistics())
            counted.update(self._walk(pool, now))
            return counted

        open_pools = every_pool()
        self._walked = {
            pool.number: self._walked[pool.number]
            for pool in open_pools
            if pool.number in self._walked
        }
        resident, anonymous = process_memory()
        return {
            "schema": 1,
            "pid": os.getpid(),
            "start": started(os.getpid()),
            "command": command(),
            "time": time.time(),
            "clock": now,
            "process": {
                "rss_bytes": resident,
                "anonymous_bytes": anonymous,
                "peak_rss_bytes": _peak_resident(),
            },
            "machine": _machine(),
            "pools": _all_of(pool_of, open_pools),
            "caches": cache_states(),
            "prefetchers": _all_of(_prefetcher_of, loaders()),
        }


def command():
    """How this process is called: its program, and what it was given."""
    given = list(getattr(sys, "orig_argv", sys.argv))
    words = [os.path.basename(given[0])] + given[1:] if given else []
    return " ".join(words)[:200]
