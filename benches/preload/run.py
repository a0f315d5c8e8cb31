#!/usr/bin/env python3
"""Measures programs under libforebay_preload.so beside other allocators under LD_PRELOAD.

Rounds are paired: in each, every allocator runs a program once, in random order, in a process of its
own. A ratio is the median over the rounds of forebay / peer, of the processor time of all threads,
which a machine that does other things disturbs least; that of wall time, fault counts and peak memory
stand beside it, for faults cost several times more on virtual machines than on others. One
JSON line per comparison goes to stdout, a table to stderr. In every line target is the largest ratio
that is good enough, and met says whether it was reached: 1.02 of the best of all where blocks are
large, 1.02 of glibc where they are small.

Programs are in programs.py. The default ends within about a minute; --long has PyTorch, compilers and
a database too, and what is resident ten seconds after the work.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = os.path.join(ROOT, "build/peers/lib")
TUNED = (
    "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184"
    ":glibc.malloc.top_pad=67108864"
)
SHORT = ["elementwise_16M", "elementwise_1M", "live_12x8M", "image_batch", "zeros_4M", "python_objects"]
TARGET = 1.02


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
            print(f"bench-preload: no {name}: {path} is not there (make bench-peers)", file=sys.stderr)
    return found


def measure(python, name, environment, idle):
    clean = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "FOREBAY_PRELOAD", "GLIBC_TUNABLES")}
    clean.update(environment, OMP_WAIT_POLICY="PASSIVE", PYTHONHASHSEED="1", BENCH_IDLE_SECONDS=str(idle))
    command = [python, os.path.join(HERE, "programs.py"), name]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name} under {environment}: {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def paired(ours, theirs, what):
    """The median over the rounds of ours / theirs."""
    return statistics.median(one[what] / max(other[what], 1e-9) for one, other in zip(ours, theirs))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--library", required=True, help="libforebay_preload.so, with libforebay.so.0 beside it")
    parser.add_argument("--python", default=sys.executable, help="one that has NumPy, and PyTorch for --long")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="", help="names, with commas; see programs.py --list")
    parser.add_argument("--peers", default="", help="names, with commas; all by default")
    parser.add_argument("--variant", action="append", default=[], help="a value of FOREBAY_PRELOAD, as one more")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--idle", type=float, default=0, help="seconds after which resident memory is looked at")
    options = parser.parse_args()

    programs = os.path.join(HERE, "programs.py")
    listed = subprocess.run([options.python, programs, "--list"], capture_output=True, text=True, check=True)
    groups = dict(line.split() for line in listed.stdout.splitlines())
    cases = options.cases.split(",") if options.cases else list(groups) if options.long else SHORT
    if any(groups[name] == "torch" for name in cases):
        there = subprocess.run([options.python, "-c", "import torch"], capture_output=True, check=False)
        if there.returncode != 0:
            print("bench-preload: no PyTorch; its programs are left out", file=sys.stderr)
            cases = [name for name in cases if groups[name] != "torch"]
    known = allocators(options.library, options.variant)
    if options.peers:
        wanted = options.peers.split(",")
        known = {k: v for k, v in known.items() if k in wanted or k.startswith("forebay")}

    shuffled = random.Random(1)
    print(f"{'case':<22}{'allocator':<30}{'wall ms':>10}{'cpu ms':>10}{'faults':>10}{'peak MiB':>10}"
          f"{'idle MiB':>10}{'ours/it':>9}", file=sys.stderr)
    for name in cases:
        results = {allocator: [] for allocator in known}
        for _ in range(options.rounds):
            order = list(known)
            shuffled.shuffle(order)
            for allocator in order:
                results[allocator].append(measure(options.python, name, known[allocator], options.idle))
        middle = {
            allocator: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            for allocator, rounds in results.items()
        }
        peers = [allocator for allocator in known if not allocator.startswith("forebay")]
        best = min(peers, key=lambda peer: middle[peer]["cpu_ms"])
        against = {peer: peer for peer in peers}
        if groups[name] != "small":
            against["best:" + best] = best
        for label, peer in against.items():
            ratio = paired(results["forebay"], results[peer], "cpu_ms")
            judged = label.startswith("best:") or (groups[name] == "small" and peer == "glibc")
            print(json.dumps({
                "bench": "preload", "case": name, "ours": round(middle["forebay"]["cpu_ms"], 3),
                "peer_name": label, "peer": round(middle[peer]["cpu_ms"], 3), "ratio": round(ratio, 3),
                "target": TARGET if judged else None, "met": ratio <= TARGET if judged else None,
                "wall_ratio": round(paired(results["forebay"], results[peer], "wall_ms"), 3),
                "faults": [round(middle[one]["faults"]) for one in ("forebay", peer)],
                "peak_mib": [round(middle[one]["peak_mib"]) for one in ("forebay", peer)],
            }), flush=True)
        for allocator, row in middle.items():
            ratio = paired(results["forebay"], results[allocator], "cpu_ms")
            print(f"{name:<22}{allocator:<30}{row['wall_ms']:>10.2f}{row['cpu_ms']:>10.2f}{row['faults']:>10.0f}"
                  f"{row['peak_mib']:>10.0f}{row.get('idle_mib', 0):>10.0f}{ratio:>9.2f}", file=sys.stderr)
        sys.stderr.flush()


if __name__ == "__main__":
    main()
