"""What a program has at the moment: to be compared with what it had before."""

import contextlib
import ctypes
import gc
import os
import threading
import time


def loader_threads():
    """Names of forebay's threads that take batches from loaders."""
    return [one.name for one in threading.enumerate() if one.name == "forebay-loader"]


def soon(condition, seconds=10):
    """Whether `condition()` holds before the time is over.

    A thread that was joined stands in /proc for a moment longer: the kernel wakes whoever waits
    for it first, and removes it then.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def copy_threads():
    """How many threads of the library there are that copy."""
    found = 0
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            with open(f"/proc/self/task/{task}/comm", encoding="utf-8") as file:
                found += file.read().strip() == "forebay-copy"
    return found


def tasks():
    """How many threads there are, whoever's they are."""
    return len(os.listdir("/proc/self/task"))


def files():
    """How many files are open."""
    return len(os.listdir("/proc/self/fd"))


def shared():
    """Names in shared memory that are this program's: they say so."""
    return [name for name in os.listdir("/dev/shm") if str(os.getpid()) in name or "forebay" in name]


def one_arena():
    """Has all threads share one heap of the C library.

    It makes up to eight a core otherwise, and a thread that comes at an unlucky moment finds the
    next one: resident memory then grows in steps of megabytes, for a thousand epochs, until each
    of them has been filled once. To be called before there are threads.
    """
    arena_max = -8  # M_ARENA_MAX
    assert ctypes.CDLL(None).mallopt(arena_max, 1) == 1


def resident_bytes():
    """How much memory the program has."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope(points):
    """How much the second number grows where the first grows by 1."""
    count = len(points)
    x0, y0 = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    return sum((x - x0) * (y - y0) for x, y in points) / sum((x - x0) ** 2 for x, _ in points)
