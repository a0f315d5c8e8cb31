#!/usr/bin/env python3
"""Measures a forebay host pool beside its peers.

Rounds are interleaved over the allocators, in random order; a figure is the median over the rounds
of nanoseconds of thread CPU time per operation. One JSON line per comparison goes to stdout, a table
to stderr. In every line ratio = ours / peer, target is the largest ratio that is good enough (null:
only reported), and met says whether it was reached. A peer_name is

    glibc, mimalloc, ...   that allocator
    best:NAME              the fastest of them in this case
    limit                  a fixed number of nanoseconds
    forebay:CASE           the same pool in another case (threads, or sizes, shall make no difference)
    peak live              of a trace, in bytes, beside what the pool had reserved at its peak
A figure that could not be had is null, and the line's "missing" says why.

Cases (pool_bench --list): pair: a block is freed before the next is taken; batch: many are live, then
freed; xfree: freed by another thread than took them (the cost to both together); mixed: 64 slots of
tensor sizes flipped at random; live: N blocks of mixed sizes live, one replaced at random (one
operation, not a pair), played by those that keep their books outside the blocks: others would be
timed faulting in pages. "touched" writes one byte in each page, -2t runs two threads on one pool.

Bytes 4 KiB apart fall into one in 64 of a cache's sets, so beyond 512 KiB touching is what costs, not
the allocator: 7 to 8 ns a page on an EPYC with 512 KiB of L2, with huge pages and without; 0.5 ns where
they are 4160 bytes apart. How many miss is chance: pair-touched-1MiB took 1.2 to 2.0 us from process to
process (forebay, median of 9: 1.43 us, and 1.38 us under PR_SET_THP_DISABLE; glibc 1.90 us both ways).
A pair of mixed-touched touches 1170 pages on average: some 6 to 9 us, whoever has given the blocks.

The default ends within about a minute. For figures to quote, on a machine with nothing else to do:
--rounds 15 --time-ms 50 --keep-slow, about a quarter of an hour.
"""
import argparse
import fnmatch
import glob
import json
import os
import random
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PEERS = os.path.join(ROOT, "build/peers")
OURS = "forebay"
TUNED = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=67108864"
SIZES = ["16B", "256B", "4KiB", "64KiB", "1MiB", "16MiB", "64MiB"]
LARGE = {"1MiB", "16MiB", "64MiB"}
SAME = 1.1  # "flat": within a tenth
# A peer this many times slower than the best after so many rounds is not measured again in that case.
SETTLED = {1: 20, 2: 5}


class Allocator:
    def __init__(self, name, spec, preload=None, tunables=None, needs=None, families=None, library_path=None):
        self.name, self.spec, self.families = name, spec, families
        self.needs = needs or preload
        self.env = dict(os.environ)
        if preload:
            self.env["LD_PRELOAD"] = preload
        if tunables:
            self.env["GLIBC_TUNABLES"] = tunables
        if library_path:
            self.env["LD_LIBRARY_PATH"] = library_path

    def plays(self, case):
        return self.families is None or case.split("-")[0] in self.families


def peers():
    lib = os.path.join(PEERS, "lib")
    table = os.path.join(lib, "libpeers.so")
    general = ["pair", "batch", "xfree", "mixed"]
    umf = os.path.join(lib, "libumf.so.1")
    return [
        Allocator("glibc", "malloc", families=general),
        Allocator("glibc_tuned", "malloc", tunables=TUNED, families=general),
        Allocator("mimalloc", f"table:{table}:mimalloc", needs=table, families=general),
        Allocator("jemalloc", "malloc", preload=os.path.join(lib, "libjemalloc.so.2"), families=general),
        Allocator("tcmalloc", "malloc", preload=os.path.join(lib, "libtcmalloc_minimal.so.4"), families=general),
        Allocator("rpmalloc", f"table:{table}:rpmalloc", needs=table, families=general),
        Allocator("snmalloc", f"table:{table}:snmalloc", needs=table, families=general),
        Allocator("umf", f"umf:{umf}", needs=umf, library_path=lib),
        Allocator("umf_scalable", f"umf:{umf}:scalable", needs=os.path.join(lib, "libtbbmalloc.so.2"),
                  library_path=lib),
        Allocator("vma", f"table:{table}:vma", needs=table, families=["live"]),
    ]


class Figures:
    """Samples per (allocator, case), and why some are not there."""

    def __init__(self):
        self.samples, self.failures = {}, {}

    def median(self, name, case):
        samples = self.samples.get((name, case))
        return statistics.median(samples) if samples else None

    def best(self, case, names):
        known = [(self.median(n, case), n) for n in names if self.median(n, case) is not None]
        return min(known) if known else (None, None)


def measure(figures, program, allocator, cases, time_ms, seed):
    command = [program, "--time-ms", str(time_ms), "--seed", str(seed), allocator.spec, *cases]
    run = subprocess.run(command, env=allocator.env, capture_output=True, text=True)
    reason = run.stderr.strip().splitlines()
    for case in cases:
        figures.failures[allocator.name, case] = reason[-1] if reason else f"exit status {run.returncode}"
    for line in run.stdout.splitlines():
        case, value = line.split(" ", 1)
        if value.startswith("failed"):
            figures.failures[allocator.name, case] = f"{value}; {' '.join(reason)}".strip("; ")
        else:
            figures.samples.setdefault((allocator.name, case), []).append(float(value))
            del figures.failures[allocator.name, case]


def run_rounds(figures, options, allocators, cases):
    groups = {}
    for case in cases:  # neighbours in time: the cases of one family
        groups.setdefault("-".join(p for p in case.split("-") if p not in SIZES), []).append(case)
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds}", file=sys.stderr)
        for group in groups.values():
            for allocator in random.sample(allocators, len(allocators)):
                wanted = [c for c in group if allocator.plays(c)
                          and (allocator.name, c) not in figures.failures
                          and not settled(figures, options, allocator, c, allocators)]
                if wanted:
                    measure(figures, options.program, allocator, wanted, options.time_ms, number)


def settled(figures, options, allocator, case, allocators):
    """More rounds of a peer that is far behind would cost most of the time and change nothing."""
    done = len(figures.samples.get((allocator.name, case), []))
    if options.keep_slow or allocator.name == OURS or done == 0:
        return False
    best, _ = figures.best(case, [a.name for a in allocators])
    return figures.median(allocator.name, case) > SETTLED[min(done, max(SETTLED))] * best


def split(case):
    """Family, touched, size or count, threads."""
    parts = case.split("-")
    detail = [p for p in parts[1:] if p not in ("touched", "2t")]
    return parts[0], "touched" in parts, detail[0] if detail else "", 2 if "2t" in parts else 1


def target_against_best(case):
    family, touched, size, _ = split(case)
    if family == "pair" and touched:
        return 1.03
    if family == "pair" and size in LARGE:
        return 1.0
    if family == "mixed" and touched:
        return 0.8
    return None


def own_targets(case):
    """(peer_name, ns or the name of another case, target)"""
    family, touched, size, threads = split(case)
    if family == "pair" and not touched and threads == 1 and size not in LARGE:
        yield "limit", 8.0, 1.0
    if family == "xfree":
        yield "limit", 40.0 if SIZES.index(size) <= SIZES.index("4KiB") else 100.0, 1.0
    if family == "live":
        yield "limit", 40.0, 1.0
        if size != "1k":
            yield "forebay:live-1k", "live-1k", SAME
    if family in ("pair", "mixed") and not touched and threads == 2:
        yield "forebay:" + case[:-3], case[:-3], 1.1
    if family == "pair" and not touched and threads == 1 and size in LARGE - {"1MiB"}:
        yield "forebay:pair-1MiB", "pair-1MiB", SAME


def emit(case, ours, peer_name, peer, target, why=None):
    ratio = ours / peer if ours is not None and peer else None
    line = {"bench": "pool", "case": case, "ours": ours, "peer_name": peer_name, "peer": peer,
            "ratio": None if ratio is None else round(ratio, 4), "target": target,
            "met": None if ratio is None or target is None else ratio <= target}
    if why:
        line["missing"] = why
    print(json.dumps(line))
    return line


def report(figures, allocators, cases):
    """Prints every comparison and returns, per case, those that stand in the table."""
    names = [a.name for a in allocators if a.name != OURS]
    judged = {}
    for case in cases:
        ours = figures.median(OURS, case)
        target = target_against_best(case)
        if ours is None:
            emit(case, None, OURS, None, None, figures.failures.get((OURS, case), "not measured"))
        for allocator in allocators:
            if allocator.name == OURS or not allocator.plays(case):
                continue
            peer = figures.median(allocator.name, case)
            why = None if peer is not None else figures.failures.get((allocator.name, case), "not measured")
            emit(case, ours, allocator.name, peer, target, why)
        best, name = figures.best(case, names)
        lines = []
        if name:
            lines.append(emit(case, ours, "best:" + name, best, target))
        for peer_name, peer, own_target in own_targets(case):
            peer = figures.median(OURS, peer) if isinstance(peer, str) else peer
            if peer is not None:
                lines.append(emit(case, ours, peer_name, peer, own_target))
        judged[case] = lines
    return judged


def number(value):
    if value is None:
        return "-"
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def table(figures, allocators, judged):
    out = sys.stderr
    names = [a.name for a in allocators]
    print("\nns of thread CPU time per operation, medians; ratio = forebay / the other", file=out)
    print(f"{'case':<24}" + "".join(f"{n:>12}" for n in names) + "  verdicts", file=out)
    for case, lines in judged.items():
        verdicts = []
        for line in lines:
            if line["ratio"] is None:
                continue
            verdict = f"{line['ratio']:.2f} x {line['peer_name']}"
            if line["peer_name"] == "limit":
                verdict = f"at most {line['peer']:g} ns"
            elif line["target"] is not None:
                verdict += f" (at most {line['target']:g})"
            if line["target"] is not None:
                verdict += " met" if line["met"] else " MISSED"
            verdicts.append(verdict)
        row = "".join(f"{number(figures.median(n, case)):>12}" for n in names)
        print(f"{case:<24}{row}  {'; '.join(verdicts)}", file=out)


def trace_lines(options):
    """Peak reserved / peak live on recorded traces; a ratio of bytes, which repeats exactly."""
    case, target = "trace", 1.05
    files = sorted(glob.glob(os.path.join(options.traces, "*.csv*"))) if options.traces else []
    library = options.ours.partition(":")[2]
    why = None
    if not options.traces:
        why = "no folder of traces given (--traces DIR)"
    elif not files:
        why = f"{options.traces} holds no trace (*.csv, *.csv.gz)"
    elif not options.ours.startswith("forebay:"):
        why = f"{options.ours} replays no traces"
    if why:
        print(f"\ntraces: {why}", file=sys.stderr)
        emit(case, None, "peak live", None, target, why)
        return True
    print("\npeak reserved / peak live, bytes", file=sys.stderr)
    program = os.path.join(os.path.dirname(options.program), "trace_peaks")
    good = True
    for path in files:
        name = f"{case}-{os.path.basename(path).split('.csv')[0]}"
        run = subprocess.run([program, library, path], capture_output=True, text=True)
        if run.returncode != 0:
            good = False
            emit(name, None, "peak live", None, target, run.stderr.strip() or f"exit status {run.returncode}")
            print(f"{name:<44} failed: {run.stderr.strip()}", file=sys.stderr)
            continue
        reserved, live = (int(n) for n in run.stdout.rsplit(" ", 2)[1:])
        line = emit(name, reserved, "peak live", live, target)
        print(f"{name:<44}{reserved:>16,}{live:>16,}{line['ratio']:>8.3f} "
              f"{'met' if line['met'] else 'MISSED'} (at most {target:g})", file=sys.stderr)
    return good


def missing_reasons():
    try:
        with open(os.path.join(PEERS, "missing"), encoding="utf-8") as lines:
            return dict(line.rstrip("\n").split("\t", 1) for line in lines)
    except FileNotFoundError:
        return {}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--time-ms", type=int, default=5, help="CPU time measured per case and round")
    parser.add_argument("--cases", default="*", help='patterns with commas between, as "pair-*,mixed*"')
    parser.add_argument("--quick", action="store_true", help="one round of 2 ms: does it run, not how fast")
    parser.add_argument("--keep-slow", action="store_true",
                        help="measure peers that are far behind in every round, too")
    parser.add_argument("--traces", default="", help="a folder of traces in RMM's log format")
    parser.add_argument("--program", default=os.path.join(ROOT, "build/bench/pool_bench"))
    parser.add_argument("--ours", default=f"forebay:{ROOT}/target/release/libforebay.so",
                        help="another allocator in forebay's place, as pool_bench takes it")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.time_ms = 1, 2
    if options.rounds < 1:
        parser.error("--rounds wants at least 1")
    return options


def main():
    options = parse()
    known = subprocess.run([options.program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    patterns = options.cases.split(",")
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            sys.exit(f"run.py: no case matches {pattern}; {options.program} --list names them")
    cases = [c for c in known if any(fnmatch.fnmatch(c, p) for p in patterns)]

    allocators, reasons = [Allocator(OURS, options.ours)], missing_reasons()
    for peer in peers():
        if peer.needs is None or os.path.exists(peer.needs):
            allocators.append(peer)
        else:
            why = reasons.get(peer.name, "not installed; scripts/install_peers.sh gets it")
            print(f"{peer.name} is missing: {why}", file=sys.stderr)
            emit("all", None, peer.name, None, None, why)

    figures = Figures()
    run_rounds(figures, options, allocators, cases)
    table(figures, allocators, report(figures, allocators, cases))
    for (name, case), why in figures.failures.items():
        print(f"{name} {case}: {why}", file=sys.stderr)
    good = trace_lines(options)
    # Unmet targets are figures; only a pool that could not be measured is a failure.
    sys.exit(0 if good and all(figures.median(OURS, c) is not None for c in cases) else 1)


if __name__ == "__main__":
    main()
