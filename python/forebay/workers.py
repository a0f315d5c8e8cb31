"""One record of what a worker's memory does, which adds up over workers.

    record = forebay.workers.collect()                 # of this process
    summary = forebay.workers.Summary([record, ...])   # of all of them
    print(summary)                                     # min, median, max, and who; who is late

A record is flat and has only numbers that can be added, or of which the largest counts: numerators
and denominators, never ratios. So records may be merged in any order and in any groups, on the way
to one place or there. ``forebay.contrib`` brings them there from Dask, Ray and torchrun; ``python
-m forebay merge rank*.json`` from files.
"""

import contextlib
import itertools
import json
import os
import re
import socket
import statistics
import sys
import threading
import time

from ._library import ForebayError
from ._state import caches, every_pool, loaders
from ._units import size

__all__ = ["Summary", "WorkerStats", "collect", "merge", "record_step", "save", "step"]

#: The version of the record. A field once in it keeps its name, its unit and its rule.
VERSION = 1

#: How each field of a record is merged: added up ("sum"), the largest ("max"), bucket by bucket
#: ("add"), names together ("union"), or the same in all ("same").
RULES = {
    "version": "same",
    # Who: names of workers, and how many; when the newest record was made.
    "names": "union",
    "workers": "sum",
    "time_ns": "max",
    # Pools, those of caches and loaders among them. Peaks add up to what all workers could have had
    # at once, at most.
    "pools": "sum",
    "requested_bytes": "sum",
    "requested_peak_bytes": "sum",
    "allocated_bytes": "sum",
    "allocated_peak_bytes": "sum",
    "reserved_bytes": "sum",
    "reserved_peak_bytes": "sum",
    "largest_reserved_peak_bytes": "max",
    "host_reserved_bytes": "sum",
    "cuda_reserved_bytes": "sum",
    "pinned_reserved_bytes": "sum",
    # Of the pools that somebody gave a limit: the limits, and what is reserved.
    "limit_bytes": "sum",
    "limited_bytes": "sum",
    "live_blocks": "sum",
    "allocations": "sum",
    "frees": "sum",
    "hits": "sum",
    "misses": "sum",
    "failed": "sum",
    "invalid_frees": "sum",
    "system_calls": "sum",
    "trims": "sum",
    # Caches that are open. Their bytes are in a pool, and counted there too.
    "caches": "sum",
    "cache_entries": "sum",
    "cache_bytes": "sum",
    "cache_hits": "sum",
    "cache_misses": "sum",
    "cache_evicted_bytes": "sum",
    # Prefetched loaders that are open; times of the consumer but for "load". What they pin is in no
    # pool.
    "loaders": "sum",
    "batches": "sum",
    "late_batches": "sum",
    "batch_bytes": "sum",
    "loader_pinned_bytes": "sum",
    "batch_load_ns": "sum",
    "batch_wait_ns": "sum",
    "batch_wall_ns": "sum",
    # The process: what it has in memory, and had at most.
    "rss_bytes": "sum",
    "rss_peak_bytes": "sum",
    "largest_rss_peak_bytes": "max",
    # Steps that were recorded.
    "steps": "sum",
    "step_ns": "sum",
    "longest_step_ns": "max",
    "step_histogram": "add",
}

#: What is read from a record: what, by what.
RATIOS = {
    "hit_rate": (("hits",), ("hits", "misses")),
    "reserved_in_use": (("allocated_bytes",), ("reserved_bytes",)),
    "allocated_in_use": (("requested_bytes",), ("allocated_bytes",)),
    "limit_in_use": (("limited_bytes",), ("limit_bytes",)),
    "cache_efficiency": (("cache_hits",), ("cache_hits", "cache_misses")),
    "late_share": (("late_batches",), ("batches",)),
    "waiting_share": (("batch_wait_ns",), ("batch_wall_ns",)),
    "mean_step_ns": (("step_ns",), ("steps",)),
}

_STARTS = {"union": (), "add": (), "same": VERSION}


class WorkerStats(dict):
    """A record: a flat dictionary with the fields of ``RULES``, of one worker or of many. Without
    arguments the record of no worker, which changes nothing it is merged with.

    ``fields`` are those that are not zero. Raises ValueError where one is not known, or is not what
    it must be: an int of 0 or more; a list of them, or of names.
    """

    def __init__(self, fields=(), /, **more):
        super().__init__((name, _start(rule)) for name, rule in RULES.items())
        given = dict(fields, **more)
        if given.get("version", VERSION) != VERSION:
            raise ValueError(
                f"the record has version {given['version']!r}; this package reads {VERSION}"
            )
        for name, value in given.items():
            if name not in RULES:
                raise ValueError(f"a record has no field {name!r}")
            self[name] = _checked(name, value)

    def merge(self, other) -> "WorkerStats":
        """A new record, of the workers of both. Raises ValueError where one is in both: what it did
        would be counted twice."""
        return merge([self, other])

    def ratio(self, name):
        """One of ``RATIOS``, by name; None where nothing was counted that it could be a part of."""
        over, under = RATIOS[name]
        below = sum(self[field] for field in under)
        return sum(self[field] for field in over) / below if below else None

    def step_quantile(self, part):
        """The time within which ``part`` (0 to 1) of the steps were done, in nanoseconds, at most a
        fourth too much; None without steps."""
        if not 0 <= part <= 1:
            raise ValueError(f"part is {part!r}; it must be 0 to 1")
        wanted = max(part * self["steps"], 1)
        if not self["steps"]:
            return None
        for bucket, total in enumerate(itertools.accumulate(self["step_histogram"])):
            if total >= wanted:
                return min(_edge(bucket + 1), self["longest_step_ns"])
        return self["longest_step_ns"]


def _start(rule):
    start = _STARTS.get(rule, 0)
    return list(start) if isinstance(start, tuple) else start


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _checked(name, value):
    rule = RULES[name]
    if rule == "union":
        if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
            raise ValueError(f"{name} is {value!r}; it must be a list of text")
        if len(set(value)) != len(value):
            raise ValueError(f"{name} is {value!r}, with one more than once")
        return sorted(value)
    if rule == "add":
        if not isinstance(value, (list, tuple)) or not all(map(_is_count, value)):
            raise ValueError(f"{name} is {value!r}; it must be a list of counts")
        return list(value)
    if not _is_count(value):
        raise ValueError(f"{name} is {value!r}; it must be a whole number, 0 or more")
    return value


def merge(records) -> WorkerStats:
    """One record of all ``records``: of no worker for none. The order does not matter, nor whether
    some were merged before. Raises ValueError for a worker that is in more than one."""
    merged = WorkerStats()
    names = set()
    for record in records:
        record = record if isinstance(record, WorkerStats) else WorkerStats(record)
        twice = names.intersection(record["names"])
        if twice:
            raise ValueError(f"the worker {min(twice)!r} is in more than one record")
        names.update(record["names"])
        for field, rule in RULES.items():
            if rule == "sum":
                merged[field] += record[field]
            elif rule == "max":
                merged[field] = max(merged[field], record[field])
            elif rule == "add":
                pairs = itertools.zip_longest(merged[field], record[field], fillvalue=0)
                merged[field] = [one + other for one, other in pairs]
    merged["names"] = sorted(names)
    return merged


def _bucket(nanoseconds):
    """The bucket of a time: four for each power of two, at most a fourth wide."""
    if nanoseconds < 4:
        return max(nanoseconds, 0)
    power = nanoseconds.bit_length() - 1
    return 4 * (power - 1) + (nanoseconds >> (power - 2) & 3)


def _edge(bucket):
    """The least time of a bucket."""
    return bucket if bucket < 4 else (4 + bucket % 4) << (bucket // 4 - 1)


class _Steps:
    """The steps of this process."""

    def __init__(self):
        self.clear()

    def clear(self):
        # A new lock: in a child of fork nobody may be there to let the old one go.
        self.lock = threading.Lock()
        self.count = self.total = self.longest = 0
        self.buckets = []

    def add(self, nanoseconds):
        bucket = _bucket(nanoseconds)
        with self.lock:
            self.count += 1
            self.total += nanoseconds
            self.longest = max(self.longest, nanoseconds)
            if bucket >= len(self.buckets):
                self.buckets.extend([0] * (bucket + 1 - len(self.buckets)))
            self.buckets[bucket] += 1

    def into(self, record):
        with self.lock:
            record["steps"], record["step_ns"] = self.count, self.total
            record["longest_step_ns"] = self.longest
            record["step_histogram"] = list(self.buckets)


_steps = _Steps()
# The parent's are the parent's.
os.register_at_fork(after_in_child=_steps.clear)


def record_step(seconds):
    """Counts a step of this worker that took ``seconds``: what a straggler is told by."""
    if not 0 <= seconds < 1e9:
        raise ValueError(f"seconds is {seconds!r}; it must be 0 or more, and less than 1e9")
    _steps.add(round(seconds * 1e9))


@contextlib.contextmanager
def step():
    """Counts the block as a step of this worker, with the time that it took. One that raises is not
    counted."""
    begun = time.perf_counter_ns()
    yield
    _steps.add(time.perf_counter_ns() - begun)


def worker_name():
    """What this worker is called where nobody said: ``"rank N"`` under torchrun, else host and
    process."""
    rank = os.environ.get("RANK", "")
    return f"rank {rank}" if rank.isdecimal() else f"{socket.gethostname()}:{os.getpid()}"


def collect(name=None) -> WorkerStats:
    """The record of this process: all pools (``forebay.pools()``, and PyTorch's where
    ``forebay.torch`` is enabled), caches and prefetched loaders that are open, and its steps.
    ``name`` is the worker's.

    Imports nothing that is not imported, and opens nothing. What is closed while it looks is left
    out. May be called from any thread; some 100 µs, and 15 for each pool.
    """
    record = WorkerStats(
        names=[worker_name() if name is None else str(name)], workers=1, time_ns=time.time_ns()
    )
    for pool in every_pool():
        _add_pool(record, pool)
    record["largest_reserved_peak_bytes"] = record["reserved_peak_bytes"]
    for cache in caches():
        with contextlib.suppress(ForebayError):
            stats = cache.get_stats()
            record["caches"] += 1
            for field in ("entries", "bytes", "hits", "misses", "evicted_bytes"):
                record[f"cache_{field}"] += stats[field]
    for loader in loaders():
        with contextlib.suppress(ForebayError):
            _add_loader(record, loader.stats())
    record["rss_bytes"], record["rss_peak_bytes"] = _resident()
    record["largest_rss_peak_bytes"] = record["rss_peak_bytes"]
    _steps.into(record)
    return record


def _add_pool(record, pool):
    try:
        stats = pool.statistics()
    except ForebayError:
        return
    record["pools"] += 1
    for kind in ("requested", "allocated", "reserved"):
        record[f"{kind}_bytes"] += stats[f"{kind}_bytes"]
        record[f"{kind}_peak_bytes"] += stats[f"{kind}_peak"]
    kind = "host" if pool.kind == "cpu" else pool.kind
    record[f"{kind}_reserved_bytes"] += stats["reserved_bytes"]
    # What a cache or a loader bounds its own pool by is not what the worker may have.
    if stats["limit_bytes"] and pool.part_of is None:
        record["limit_bytes"] += stats["limit_bytes"]
        record["limited_bytes"] += stats["reserved_bytes"]
    for field in (
        "live_blocks", "allocations", "frees", "hits", "misses", "failed", "invalid_frees",
        "system_calls", "trims",
    ):
        record[field] += stats[field]


def _add_loader(record, stats):
    record["loaders"] += 1
    record["batches"] += stats["num_items"]
    record["late_batches"] += stats["late_batches"]
    record["batch_bytes"] += stats.get("submitted_bytes", 0)
    record["loader_pinned_bytes"] += stats.get("pinned_bytes", 0)
    record["batch_load_ns"] += round(stats["load_s"] * 1e9)
    record["batch_wait_ns"] += round(stats["ave_get_time"] * stats["num_items"] * 1e9)
    record["batch_wall_ns"] += round(stats["wall_s"] * 1e9)


def _resident():
    """Bytes of the process that are in memory, and were at most."""
    found = {}
    with contextlib.suppress(OSError), open("/proc/self/status") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name in ("VmRSS", "VmHWM"):
                found[name] = int(value.split()[0]) << 10
    return found.get("VmRSS", 0), found.get("VmHWM", 0)


#: A worker is a straggler when its steps take this much of the median of the others'.
LATE = 1.2
#: Or when it waits for data for this much more of its time than the median of the others.
WAITING = 0.1
#: Memory is out of balance when a worker's peak is this much of the median of the others'.
HEAVY = 1.5
#: As long as nobody has recorded this many steps, or waited for this many batches, nothing is said.
ENOUGH = 5

#: The rows of the table: title, field or ratio, and how it is written.
_ROWS = (
    ("reserved peak", "reserved_peak_bytes", size),
    ("reserved", "reserved_bytes", size),
    ("requested", "requested_bytes", size),
    ("of the limit", "limit_in_use", "{:.1%}".format),
    ("in use of reserved", "reserved_in_use", "{:.1%}".format),
    ("pool hits", "hit_rate", "{:.2%}".format),
    ("out of memory", "failed", "{:,}".format),
    ("in caches", "cache_bytes", size),
    ("cache hits", "cache_efficiency", "{:.1%}".format),
    ("waiting for data", "waiting_share", "{:.1%}".format),
    ("late batches", "late_share", "{:.1%}".format),
    ("pinned by loaders", "loader_pinned_bytes", size),
    ("steps", "steps", "{:,}".format),
    ("mean step", "mean_step_ns", lambda nanoseconds: f"{nanoseconds / 1e6:.2f} ms"),
    ("resident peak", "rss_peak_bytes", size),
)


class Summary:
    """Workers side by side: ``workers``, their records in the order of their names; ``total``, the
    record of all; ``rows()``, ``findings()``; as text, a table.

    ``records`` are of one worker each. Raises ValueError for others, and for a worker that is there
    twice.
    """

    def __init__(self, records):
        made = [one if isinstance(one, WorkerStats) else WorkerStats(one) for one in records]
        for record in made:
            if len(record["names"]) != 1 or record["workers"] != 1:
                raise ValueError(
                    f"a record is of {record['workers']} workers; a summary takes those of one each"
                )
        self.workers = sorted(made, key=lambda record: _natural(record["names"][0]))
        self.total = merge(self.workers)

    def values(self, name):
        """A field or ratio of every worker that has it, by name of the worker."""
        found = {}
        for record in self.workers:
            value = record.ratio(name) if name in RATIOS else record[name]
            if value is not None:
                found[record["names"][0]] = value
        return found

    def rows(self):
        """For each line of the table a dictionary: ``title``, ``field``, ``min``, ``median``,
        ``max``, and ``worker``, who has the most (None where all have the same). Bytes, counts,
        parts of 1 and nanoseconds; fields that are zero everywhere are left out."""
        rows = []
        for title, field, _ in _ROWS:
            found = self.values(field)
            if not any(found.values()):
                continue
            least, most = min(found.values()), max(found.values())
            who = None if least == most else max(found, key=found.get)
            rows.append(
                {
                    "title": title,
                    "field": field,
                    "min": least,
                    "median": statistics.median(found.values()),
                    "max": most,
                    "worker": who,
                }
            )
        return rows

    def straggler(self):
        """The finding that says who the others wait for; None if there is none. Where workers wait
        for each other in every step, all steps take as long as the slowest: then it is told by who
        waits for data."""
        for finding in self.findings():
            if finding["kind"] in ("step", "data"):
                return finding
        return None

    def findings(self):
        """What is out of balance, at most one of a kind, as dictionaries: ``kind`` (``"step"``,
        ``"data"``, ``"memory"``), ``worker``, ``value`` and the ``median`` of the others, and
        ``message``."""
        found = []

        def say(kind, outlier, message):
            who, value, median = outlier
            found.append(
                {"kind": kind, "worker": who, "value": value, "median": median, "message": message}
            )

        step = self._outlier("mean_step_ns", "steps")
        if step and step[1] > LATE * step[2]:
            who, own, others = step[0], step[1] / 1e6, step[2] / 1e6
            text = f"{who} takes {own:.2f} ms for a step, the others {others:.2f} ms"
            say("step", step, text)
        data = self._outlier("waiting_share", "batches")
        if data and data[1] - data[2] > WAITING:
            who, own, others = data
            text = (
                f"{who} waits for data for {own:.0%} of its time, the others for {others:.0%}: "
                "its loader is the slow one"
            )
            say("data", data, text)
        memory = self._outlier("reserved_peak_bytes")
        if memory and memory[1] > HEAVY * memory[2]:
            who, own, others = memory[0], size(memory[1]), size(memory[2])
            text = (
                f"{who} reserved {own} at its peak, the others {others}: it is the first to run "
                "out of memory"
            )
            say("memory", memory, text)
        return found

    def _outlier(self, name, counted=None):
        """Who has the most of something, how much, and the median of the others; of those who
        counted ``ENOUGH``. None where there are no others."""
        values = self.values(name)
        if counted is not None:
            enough = self.values(counted)
            values = {who: value for who, value in values.items() if enough[who] >= ENOUGH}
        if len(values) < 2:
            return None
        who = max(values, key=values.get)
        most = values.pop(who)
        return who, most, statistics.median(values.values())

    def to_dict(self):
        """All of it, as what JSON can hold; ``Summary(summary["workers"])`` reads it."""
        return {
            "version": VERSION,
            "workers": [dict(record) for record in self.workers],
            "total": dict(self.total),
            "rows": self.rows(),
            "findings": self.findings(),
        }

    def __str__(self):
        count = len(self.workers)
        rows = [("", "min", "median", "max", "worker")]
        written = {field: write for _, field, write in _ROWS}
        for row in self.rows():
            write = written[row["field"]]
            # A median of counts may lie between two.
            median = row["median"]
            if isinstance(median, float) and median.is_integer():
                median = int(median)
            numbers = [write(number) for number in (row["min"], median, row["max"])]
            rows.append((row["title"], *numbers, row["worker"] or ""))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [f"{count} worker{'' if count == 1 else 's'}"]
        for title, *numbers, who in rows:
            cells = [text.rjust(width) for text, width in zip(numbers, widths[1:])]
            lines.append("  ".join(["", title.ljust(widths[0]), *cells, who]).rstrip())
        total = self.total
        lines.append(
            f"  together: {size(total['reserved_bytes'])} reserved, "
            f"{size(total['requested_bytes'])} requested, "
            f"{total['allocations']:,} allocations, {total['failed']:,} failed"
        )
        lines += [finding["message"] for finding in self.findings()]
        return "\n".join(lines)


def _natural(name):
    """A key by which "rank 10" comes after "rank 9"."""
    parts = re.split("([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def save(path, record=None):
    """Writes a record (by default ``collect()``) to the file ``path`` as JSON, whole or not at
    all."""
    record = collect() if record is None else record
    path = os.fspath(path)
    beside = f"{path}.{os.getpid()}.part"
    try:
        with open(beside, "w") as file:
            json.dump(record, file)
            file.write("\n")
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def load(path):
    """The records in a file: one, a list of them, or a summary's. Raises OSError, and ValueError
    that names the file."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if isinstance(found, dict) and isinstance(found.get("workers"), list):
            found = found["workers"]
        if isinstance(found, dict):
            found = [found]
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise ValueError("it has no record in it")
        return [WorkerStats(one) for one in found]
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def add_arguments(parser):
    """The arguments of ``python -m forebay merge``."""
    parser.description = "Puts records of workers side by side: least, median and most, and who."
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="records as save() and merge -o write them"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write all of it there, as JSON")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")


def run(args) -> int:
    """``python -m forebay merge``: 0, or 1 with a line on standard error."""
    try:
        summary = Summary(record for path in args.files for record in load(path))
        if args.output:
            save(args.output, summary.to_dict())
    except OSError as error:
        print(f"forebay merge: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"forebay merge: {error}", file=sys.stderr)
        return 1
    if args.json:
        json.dump(summary.to_dict(), sys.stdout, indent=2)
        print()
    elif not args.output:
        print(summary)
    return 0
