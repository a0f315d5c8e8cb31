#!/usr/bin/env python3
"""Measures programs under libforebay_preload.so beside other allocators under LD_PRELOAD.

Rounds are paired: in each, every allocator runs a program once, in random order, in a process of its
own. A ratio is the median over the rounds of forebay / peer, of the processor time of all threads,
which a machine that does other things disturbs least; that of wall time and fault counts
stand beside it, for faults cost several times more on virtual machines than on others. Peak resident
memory, and with --idle what is resident so long after the work, are figures of their own. One
JSON line per comparison goes to stdout, a table to stderr. In every line target is the largest ratio
that is good enough, and met says whether it was reached: 1.02 of the best of all where blocks are
large, 1.02 of glibc where they are small; 1.10 of glibc's peak and 1.05 of what it has when idle.

Programs are in programs.py. The default ends within about a minute; --long has PyTorch, pandas,
scikit-learn, a compiler, databases and CPython's own tests too.
"""
import argparse
import collections
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = os.path.join(HERE, "programs.py")
PEERS = os.path.join(ROOT, "build/peers/lib")
TUNED = (
    "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184"
    ":glibc.malloc.top_pad=67108864"
)
SHORT = ["elementwise_16M", "elementwise_1M", "live_12x8M", "image_batch", "zeros_4M", "python_objects"]
TARGETS = {"cpu_ms": 1.02, "peak_mib": 1.10, "idle_mib": 1.05}
# What may be resident in programs that are through and only waited for.
WAITING_MIB = 4096


def missing(what, why):
    print(f"bench-preload: no {what}: {why}", file=sys.stderr)


def allocators(library, variants):
    # Programs go elsewhere and start others.
    library = os.path.abspath(library)
    preloads = {
        "jemalloc": "libjemalloc.so.2",
        "tcmalloc": "libtcmalloc_minimal.so.4",
        "mimalloc": "libmimalloc.so",
    }
    found = {"forebay": {"LD_PRELOAD": library}, "glibc": {}, "glibc_tuned": {"GLIBC_TUNABLES": TUNED}}
    for variant in variants:
        found[f"forebay;{variant}"] = {"LD_PRELOAD": library, "FOREBAY_PRELOAD": variant}
    for name, file in preloads.items():
        path = os.path.join(PEERS, file)
        if os.path.exists(path):
            found[name] = {"LD_PRELOAD": path}
        else:
            missing(name, f"{path} is not there (make bench-peers)")
    return found


class Run:
    """A program under an allocator. What it cost is known when this is made; what stays, later."""

    def __init__(self, command, environment):
        self.command = command
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        self.numbers = {}
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.command}: {status}\n{self.errors.read()[-2000:]}")
        self.numbers.update(json.loads(line))

    def end(self):
        if self.process.returncode is None:
            self.read()
            self.process.stdout.close()
            status = self.process.wait()
            if status != 0:
                raise RuntimeError(f"{self.command}: {status}")


class Bench:
    def __init__(self, options):
        self.options = options
        self.waiting = collections.deque()
        self.environment = {
            k: v for k, v in os.environ.items()
            if k not in ("LD_PRELOAD", "FOREBAY_PRELOAD", "GLIBC_TUNABLES")
        }
        self.environment.update(
            OMP_WAIT_POLICY="PASSIVE", PYTHONHASHSEED="1", BENCH_IDLE_SECONDS=str(options.idle),
            BENCH_REDIS=os.path.abspath(options.redis),
        )

    def run(self, name, group, allocator):
        while sum(run.numbers["peak_mib"] for run in self.waiting) > WAITING_MIB:
            self.waiting.popleft().end()
        environment = {**self.environment, **allocator}
        if group.startswith("redis"):
            # Debian's links jemalloc. The C library comes before it here, and after what is measured.
            first = [environment["LD_PRELOAD"]] if "LD_PRELOAD" in environment else []
            environment["LD_PRELOAD"] = " ".join([*first, "libc.so.6"])
            environment["LD_LIBRARY_PATH"] = environment["BENCH_REDIS"]
        python = self.options.torch_python if group == "torch" else self.options.python
        run = Run([python, PROGRAMS, name], environment)
        self.waiting.append(run)
        return run


def can_run(options, name, group):
    """Whether there is what the program needs; it is named when there is not."""
    modules = {"numpy": "numpy", "pandas": "pandas", "sklearn": "sklearn", "torch": "torch"}
    if group in modules:
        python = options.torch_python if group == "torch" else options.python
        there = python and subprocess.run([python, "-c", f"import {modules[group]}"], capture_output=True, check=False)
        if not there or there.returncode != 0:
            missing(name, f"{python or 'no Python'} has no {modules[group]}")
            return False
    if group.startswith("redis") and not os.path.exists(os.path.join(options.redis, "redis-server")):
        missing(name, f"no redis-server in {options.redis}")
        return False
    program = {"gcc": "cc", "sqlite": "sqlite3"}.get(name)
    if program and not shutil.which(program):
        missing(name, f"{program} is not installed")
        return False
    if name == "cpython_tests":
        there = subprocess.run([options.python, "-c", "import test.test_list"], capture_output=True, check=False)
        if there.returncode != 0:
            missing(name, f"{options.python} has no tests")
            return False
    return True


def ratio_of(ours, theirs, what):
    """The median over the rounds of ours / theirs."""
    return statistics.median(
        one.numbers[what] / max(other.numbers[what], 1e-9) for one, other in zip(ours, theirs)
    )


def middle(runs, what):
    values = [run.numbers[what] for run in runs]
    return None if None in values else statistics.median(values)


def report(name, group, results):
    ours = results["forebay"]
    peers = [allocator for allocator in results if not allocator.startswith("forebay")]
    small = group.endswith("small")

    def line(what, case, label, peer, judged, **more):
        value = ratio_of(ours, results[peer], what)
        target = TARGETS[what] if judged else None
        print(json.dumps({
            "bench": "preload", "case": case, "ours": round(middle(ours, what), 3), "peer_name": label,
            "peer": round(middle(results[peer], what), 3), "ratio": round(value, 3), "target": target,
            "met": value <= target if judged else None, **more,
        }), flush=True)

    best = min(peers, key=lambda peer: middle(results[peer], "cpu_ms"))
    against = [(peer, peer) for peer in peers] + ([] if small else [("best:" + best, best)])
    for label, peer in against:
        line(
            "cpu_ms", name, label, peer, label.startswith("best:") or (small and peer == "glibc"),
            wall_ratio=round(ratio_of(ours, results[peer], "wall_ms"), 3),
            faults=[round(middle(results[one], "faults")) for one in ("forebay", peer)],
        )
    for peer in peers:
        for what in ("peak_mib", "idle_mib"):
            if middle(ours, what) is not None:
                line(what, f"{name}:{what.split('_', 1)[0]}", peer, peer, peer == "glibc")
    for allocator, runs in results.items():
        row = {what: middle(runs, what) for what in runs[0].numbers}
        idle = row["idle_mib"]
        print(f"{name:<22}{allocator:<30}{row['wall_ms']:>10.2f}{row['cpu_ms']:>10.2f}{row['faults']:>10.0f}"
              f"{row['peak_mib']:>10.1f}{'' if idle is None else f'{idle:.1f}':>10}"
              f"{ratio_of(ours, runs, 'cpu_ms'):>9.2f}", file=sys.stderr)
    sys.stderr.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--library", required=True, help="libforebay_preload.so, with libforebay.so.0 beside it")
    parser.add_argument("--python", default=sys.executable, help="one that has NumPy; pandas and scikit-learn too for --long")
    parser.add_argument("--torch-python", default="", help="one that has PyTorch")
    parser.add_argument("--redis", default=os.path.join(ROOT, "build/bench/redis"), help="a folder with Redis's programs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="", help="names, with commas; see programs.py --list")
    parser.add_argument("--peers", default="", help="names, with commas; all by default")
    parser.add_argument("--variant", action="append", default=[], help="a value of FOREBAY_PRELOAD, as one more")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--idle", type=float, default=0, help="seconds after which resident memory is looked at")
    options = parser.parse_args()

    listed = subprocess.run([options.python, PROGRAMS, "--list"], capture_output=True, text=True, check=True)
    groups = dict(line.split() for line in listed.stdout.splitlines())
    cases = options.cases.split(",") if options.cases else list(groups) if options.long else SHORT
    cases = [name for name in cases if can_run(options, name, groups[name])]
    known = allocators(options.library, options.variant)
    if options.peers:
        wanted = options.peers.split(",")
        known = {k: v for k, v in known.items() if k in wanted or k.startswith("forebay")}

    shuffled = random.Random(1)
    print(f"{'case':<22}{'allocator':<30}{'wall ms':>10}{'cpu ms':>10}{'faults':>10}{'peak MiB':>10}"
          f"{'idle MiB':>10}{'ours/it':>9}", file=sys.stderr)
    bench = Bench(options)
    last = None
    # A case is told when the next is through: by then most of its programs have idled enough.
    for name in [*cases, None]:
        results = {allocator: [] for allocator in known}
        for _ in range(options.rounds if name else 0):
            order = list(known)
            shuffled.shuffle(order)
            for allocator in order:
                results[allocator].append(bench.run(name, groups[name], known[allocator]))
        if last:
            for runs in last[2].values():
                for run in runs:
                    run.end()
            report(*last)
        last = name and (name, groups[name], results)


if __name__ == "__main__":
    main()
