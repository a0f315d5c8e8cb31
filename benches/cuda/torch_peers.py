"""PyTorch's allocators on the workloads of `bench_cuda`, as JSON lines: the native one, expandable
segments and cudaMallocAsync, each in a process of its own, and RMM where it can be imported.

Usage: python3 torch_peers.py
"""
import json
import os
import subprocess
import sys
import time

MIB = 1 << 20
BACKENDS = {
    "torch native": "",
    "torch expandable segments": "expandable_segments:True",
    "torch cudaMallocAsync": "backend:cudaMallocAsync",
    "rmm pool": "",
}


def pair_ns(torch):
    """Nanoseconds per operation of an allocation and its free, as in `hit-*`."""
    sizes = [1 << (9 + turn % 12) for turn in range(1200)]
    take = torch.cuda.caching_allocator_alloc
    give = torch.cuda.caching_allocator_delete
    rounds = []
    for _ in range(7):
        start = time.thread_time_ns()
        for size in sizes:
            give(take(size))
        rounds.append((time.thread_time_ns() - start) / (2 * len(sizes)))
    return sorted(rounds)[3]


def four_streams(torch):
    """Microseconds per step, and peak reserved over peak live bytes, as in `four-streams-*`."""
    streams = [torch.cuda.Stream() for _ in range(4)]
    state = 1

    def size():
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return 1 + (state >> 33) % (16 * MIB)

    live = peak = 0
    held = []
    torch.cuda.synchronize()
    start = time.perf_counter()
    for step in range(400):
        stream = streams[step % 4]
        with torch.cuda.stream(stream):
            block = torch.empty(size(), dtype=torch.uint8, device="cuda")
            block.zero_()
        held.append((block, stream))
        live += block.numel()
        peak = max(peak, live)
        if len(held) > 40:
            other = streams[(step + 1) % 4]
            block, own = held.pop((step * 7) % 40)
            other.wait_stream(own)
            with torch.cuda.stream(other):
                block.add_(1)
            block.record_stream(other)
            live -= block.numel()
            del block
    del held
    torch.cuda.synchronize()
    took = (time.perf_counter() - start) * 1e6 / 400
    reserved = torch.cuda.memory_stats().get("reserved_bytes.all.peak", 0)
    return took, reserved / peak


def one(name):
    import torch

    if name == "rmm pool":
        import rmm
        from rmm.allocators.torch import rmm_torch_allocator

        rmm.reinitialize(pool_allocator=True)
        torch.cuda.memory.change_current_allocator(rmm_torch_allocator)
    torch.zeros(1, device="cuda")
    figures = {}
    if name != "rmm pool":
        figures["pair-ns"] = pair_ns(torch)
    figures["four-streams-us-per-step"], ratio = four_streams(torch)
    if ratio > 0:
        figures["four-streams-reserved"] = ratio
    for case, value in figures.items():
        print(json.dumps({"bench": "cuda", "case": case, "peer_name": name, "peer": value}))


def main():
    if len(sys.argv) > 1:
        return one(sys.argv[1])
    for name, options in BACKENDS.items():
        environment = dict(os.environ)
        if options:
            environment["PYTORCH_CUDA_ALLOC_CONF"] = options
        try:
            run = subprocess.run([sys.executable, __file__, name], env=environment, timeout=60,
                                 capture_output=True, text=True)
            sys.stdout.write(run.stdout)
            problem = None if run.returncode == 0 else run.stderr.strip().splitlines()[-1:]
        except subprocess.TimeoutExpired:
            problem = ["took more than 60 s"]
        if problem is not None:
            print(json.dumps({"bench": "cuda", "case": "peer", "peer_name": name,
                              "missing": (problem or ["failed"])[0]}))


if __name__ == "__main__":
    main()
