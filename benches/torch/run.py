"""What an allocation and a free cost the host under PyTorch: its own allocator, a pluggable one that
does nothing but count up, and forebay in mode "global", each in processes of its own, in turn.

Run by `make bench-torch`, in the rig of scripts/test_torch.sh: the driver is simulated, so that hits
can be compared and nothing else can. A figure is thread CPU time, the median of the rounds' minima.
"""

import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build" / "torch"
ROUNDS = 5
KIB = 1024
SIZES = {
    "4KiB": [4 * KIB],
    "1MiB": [1024 * KIB],
    "20MiB": [20 << 20],
    "mixed": [512, 4 * KIB, 1024 * KIB, 6 << 20, 40 * KIB, 700],
}
#: Aims: of native's raw pair, and of native's pair through at::empty.
RAW_AIM, EMPTY_AIM = 0.5, 1.0


def build(torch):
    """The C++ side, built against the installed PyTorch."""
    package = pathlib.Path(torch.__file__).parent
    BUILD.mkdir(parents=True, exist_ok=True)
    made = BUILD / f"pairs-{torch.__version__}.so"
    source = HERE / "pairs.cpp"
    if made.exists() and made.stat().st_mtime > source.stat().st_mtime:
        return made
    abi = int(torch._C._GLIBCXX_USE_CXX11_ABI)
    libraries = ["-lc10", "-ltorch_cpu", "-ltorch_cuda"]
    command = [
        os.environ.get("CXX", "c++"), "-std=c++20", "-O2", "-shared", "-fPIC", "-w",
        f"-D_GLIBCXX_USE_CXX11_ABI={abi}", f"-I{package}/include",
        f"-I{package}/include/torch/csrc/api/include", str(source), "-o", str(made),
        f"-L{package}/lib", "-Wl,--no-as-needed", *libraries, "-Wl,--allow-shlib-undefined",
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LD_")}
    subprocess.run(command, check=True, env=environment)
    return made


def measure(which):
    """In a process of its own: a line of JSON."""
    import torch

    if which == "forebay":
        import forebay.torch

        forebay.torch.enable()
    elif which == "trivial":
        path = str(BUILD / "trivial.so")
        allocator = torch.cuda.memory.CUDAPluggableAllocator(path, "trivial_malloc", "trivial_free")
        torch.cuda.memory.change_current_allocator(allocator)
    torch.cuda.init()
    torch.empty(1, device="cuda")
    pairs = ctypes.CDLL(str(build(torch)))
    found = {}
    for name in ("raw_pairs", "empty_pairs", "live_pairs"):
        getattr(pairs, name).restype = ctypes.c_double
    for label, sizes in SIZES.items():
        array = (ctypes.c_size_t * len(sizes))(*sizes)
        for name, extra in (("raw_pairs", ()), ("empty_pairs", ()), ("live_pairs", (64,))):
            function = getattr(pairs, name)
            function(array, len(sizes), 2000, *extra)
            # The least of batches: what disturbs them only adds.
            found[f"{name} {label}"] = min(
                function(array, len(sizes), 5000, *extra) for _ in range(12)
            )
    def from_python():
        start = time.thread_time_ns()
        for _ in range(2000):
            torch.empty(1024, device="cuda")
        return (time.thread_time_ns() - start) / 2000

    found["python 4KiB"] = min(from_python() for _ in range(10))
    print(json.dumps(found))


TRIVIAL = """
#include <stddef.h>
static _Thread_local char *next;
void *trivial_malloc(size_t size, int device, void *stream)
{
    (void)device, (void)stream;
    if (next == NULL) next = (char *)0x100000000000 + ((size_t)&next << 8);
    return next += (size + 511) / 512 * 512;
}
void trivial_free(void *ptr, size_t size, int device, void *stream)
{
    (void)ptr, (void)size, (void)device, (void)stream;
}
"""


def main():
    import torch

    build(torch)
    subprocess.run(
        [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-xc", "-", "-o",
         str(BUILD / "trivial.so")],
        input=TRIVIAL, text=True, check=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("LD_")},
    )  # fmt: skip
    found = {"native": [], "trivial": [], "forebay": []}
    for _ in range(ROUNDS):
        for which, rounds in found.items():
            done = subprocess.run(
                [sys.executable, __file__, which], check=True, capture_output=True, text=True
            )
            rounds.append(json.loads(done.stdout.splitlines()[-1]))
    for case in found["native"][0]:
        ours, *peers = (
            statistics.median(one[case] for one in found[which])
            for which in ("forebay", "native", "trivial")
        )
        for name, peer in zip(("native", "trivial"), peers):
            target = None
            if name == "native":
                target = RAW_AIM if case.startswith("raw") else EMPTY_AIM
            line = {
                "bench": "torch", "case": case, "ours": round(ours, 1), "peer_name": name,
                "peer": round(peer, 1), "ratio": round(ours / peer, 3), "target": target,
                "met": None if target is None else ours / peer <= target,
            }  # fmt: skip
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        main()
