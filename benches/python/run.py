"""What arrays from a pool cost, beside numpy's own, and how much of that is Python.

Run by `make bench-python`. Figures are nanoseconds of thread CPU time, the median over rounds of
the least of a round; what is compared takes turns within one process. "touched" is written once,
from end to end, as its first user does; "set of 4": four arrays live at a time, as in an
expression.
"""

import ctypes
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

import forebay
from forebay._library import library
from forebay.manager import MemoryManager
from forebay.memory_pool import CPUMemoryPool

KIB, MIB = 1 << 10, 1 << 20
ROUNDS = 7
#: Aims: nanoseconds of Python for a pair; of numpy's time from 1 MiB on; of conservative's time;
#: milliseconds to import.
PYTHON_AIM, TOUCHED_AIM, POLICY_AIM, IMPORT_AIM = 2000, 1.0, 1 / 3, 60


def least(work, count, batches):
    """Nanoseconds of one of `count` in the best of some batches."""
    best = float("inf")
    for _ in range(batches):
        began = time.thread_time_ns()
        work(count)
        best = min(best, time.thread_time_ns() - began)
    return best / count


def side_by_side(works, count, batches=8):
    """Of each of `works` the median over rounds, in turns."""
    found = [[] for _ in works]
    for _ in range(ROUNDS):
        for work, times in zip(works, found):
            times.append(least(work, count, batches))
    return [statistics.median(times) for times in found]


def tell(case, ours, peer_name, peer, target=None, met=None):
    line = {
        "bench": "python", "case": case, "ours": round(ours, 1), "peer_name": peer_name,
        "peer": round(peer, 1), "ratio": round(ours / peer, 3),
        "target": target and round(target, 3),
        "met": met if met is not None or target is None else ours / peer <= target,
    }  # fmt: skip
    print(json.dumps(line), flush=True)


def pairs(size):
    """Freed, dropped, by the library's two functions alone, and numpy's."""
    pool, shape = CPUMemoryPool(256 * MIB), (size // 4,)
    allocate, free, empty, dtype = pool.allocate, pool.free, np.empty, np.float32
    functions, handle = library(), pool.pool.handle
    address = ctypes.c_void_p()

    def freed(count):
        for _ in range(count):
            free(allocate(shape, dtype))

    def dropped(count):
        for _ in range(count):
            allocate(shape, dtype)

    def two_calls(count):
        alloc, give, place = functions.forebay_alloc, functions.forebay_free, ctypes.byref(address)
        for _ in range(count):
            alloc(handle, size, None, place)
            give(handle, address, None)

    def numpys(count):
        for _ in range(count):
            empty(shape, dtype)

    return freed, dropped, two_calls, numpys


def touched(size, live):
    pool, shape = CPUMemoryPool(2048 * MIB), (size,)
    allocate, free, empty, dtype = pool.allocate, pool.free, np.empty, np.uint8

    def ours(count):
        for _ in range(count):
            made = [allocate(shape, dtype) for _ in range(live)]
            for array in made:
                array.fill(1)
            for array in made:
                free(array)
            del made, array

    def numpys(count):
        for _ in range(count):
            made = [empty(shape, dtype) for _ in range(live)]
            for array in made:
                array.fill(1)
            del made, array

    return ours, numpys


def of_policies():
    """A pair of 4 MiB, touched page by page, under the policy for no pause and under the one for
    little memory."""
    works = []
    for policy in ("latency_first", "conservative"):
        manager = MemoryManager(policy, max_cpu_bytes=256 * MIB)

        def pairs(count, manager=manager):
            for _ in range(count):
                tensor = manager.allocate_tensor((4 * MIB,), np.uint8, prefer_gpu=False)
                tensor[::4096] = 1
                manager.free_tensor(tensor)

        works.append(pairs)
    return side_by_side(works, 20, 4)


def of_import(module):
    """Milliseconds that importing `module` takes beyond numpy, in a process of its own."""
    program = (
        "import numpy, time; t = time.thread_time_ns(); "
        f"import {module}; print((time.thread_time_ns() - t) / 1e6)"
    )
    done = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        for _ in range(ROUNDS)
    ]
    return min(float(one.stdout) for one in done)


def main():
    for label, size in (("4 KiB", 4 * KIB), ("1 MiB", MIB)):
        freed, dropped, two_calls, numpys = side_by_side(pairs(size), 2000)
        for name, ours in (("allocate and free", freed), ("allocate and drop", dropped)):
            part = ours - two_calls
            tell(
                f"Python's part: {name}, {label}",
                part,
                "aim",
                PYTHON_AIM,
                PYTHON_AIM,
                part <= PYTHON_AIM,
            )
            tell(f"{name}, {label}", ours, "numpy", numpys)
        tell(f"allocate and free, {label}", freed, "two ctypes calls", two_calls)
    for size in (MIB, 4 * MIB, 16 * MIB, 64 * MIB):
        for live in (1, 4):
            count = max(1, 64 * MIB // size // live)
            ours, numpys = side_by_side(touched(size, live), count, 4)
            case = f"touched, {size // MIB} MiB" + (f", set of {live}" if live > 1 else "")
            tell(case, ours, "numpy", numpys, TOUCHED_AIM)
    ours, conservative = of_policies()
    tell("latency_first, 4 MiB", ours, "conservative", conservative, POLICY_AIM)
    for module in ("forebay", "forebay.memory"):
        ours = of_import(module)
        tell(f"import {module}, ms", ours, "aim", IMPORT_AIM, IMPORT_AIM, ours <= IMPORT_AIM)


if __name__ == "__main__":
    print(f"forebay {forebay.version()}, numpy {np.__version__}, Python {sys.version.split()[0]}, "
          f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)  # fmt: skip
    main()
