"""A small GPT and a 3-D U-Net with inputs of varying sizes, trained for some steps on PyTorch's
allocators and on forebay in both modes, each in a process of its own: peak reserved, steps per second,
retries, and losses, which have to be equal to the last bit. JSON lines.

Usage: python3 train.py [--steps 30] [--device cpu]
"""

import argparse
import json
import os
import subprocess
import sys
import time

BACKENDS = {
    "native": {},
    "expandable segments": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    "cudaMallocAsync": {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"},
    "forebay global": {"FOREBAY_TORCH_MODE": "global"},
    "forebay pool": {"FOREBAY_TORCH_MODE": "pool"},
}


def gpt(torch, small):
    """A decoder of a few layers, and its batches: sequences of many lengths."""
    nn = torch.nn
    width, layers, heads, words = (64, 2, 2, 100) if small else (768, 12, 12, 50257)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
            self.out, self.norm2 = nn.Linear(width, width), nn.LayerNorm(width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x):
            batch, length, _ = x.shape
            parts = self.qkv(self.norm(x)).view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
            mixed = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
            return x + self.mlp(self.norm2(x))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places = nn.Embedding(words, width), nn.Embedding(1024, width)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.head = nn.Linear(width, words)

        def forward(self, tokens):
            x = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    def batch(step, device):
        length = [128, 512, 256, 1024, 384, 768][step % 6] // (16 if small else 1)
        tokens = torch.randint(words, (2 if small else 8, length + 1), device=device)
        return tokens[:, :-1], tokens[:, 1:]

    def loss(model, inputs, targets):
        return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    return Gpt(), batch, loss


def unet(torch, small):
    """A U-Net over volumes of many shapes, as segmentation has them."""
    nn = torch.nn
    width = 4 if small else 24

    def stage(inside, outside):
        return nn.Sequential(
            nn.Conv3d(inside, outside, 3, padding=1), nn.InstanceNorm3d(outside), nn.LeakyReLU(),
            nn.Conv3d(outside, outside, 3, padding=1), nn.InstanceNorm3d(outside), nn.LeakyReLU(),
        )  # fmt: skip

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [width, 2 * width, 4 * width]
            self.down = nn.ModuleList(stage(a, b) for a, b in zip([1, *widths], widths))
            self.bottom = stage(widths[-1], 2 * widths[-1])
            self.lift = nn.ModuleList(nn.ConvTranspose3d(2 * w, w, 2, 2) for w in reversed(widths))
            self.up = nn.ModuleList(stage(2 * w, w) for w in reversed(widths))
            self.head = nn.Conv3d(width, 3, 1)

        def forward(self, x):
            kept = []
            for down in self.down:
                kept.append(down(x))
                x = nn.functional.max_pool3d(kept[-1], 2)
            x = self.bottom(x)
            for lift, up in zip(self.lift, self.up):
                x = up(torch.cat([lift(x), kept.pop()], 1))
            return self.head(x)

    def batch(step, device):
        shape = [(96, 96, 96), (64, 128, 96), (112, 80, 64), (128, 128, 64), (80, 96, 128)][step % 5]
        shape = [max(side // 64 * 8, 16) for side in shape] if small else shape
        return (torch.randn(2, 1, *shape, device=device),
                torch.randint(3, (2, *shape), device=device))

    def loss(model, inputs, targets):
        return nn.functional.cross_entropy(model(inputs), targets)

    return UNet(), batch, loss


MODELS = {"gpt": gpt, "unet3d": unet}


def train(name, steps, device):
    """In a process of its own: a line of JSON."""
    import torch

    if os.environ.get("FOREBAY_TORCH_MODE") and device == "cuda":
        import forebay.torch

        forebay.torch.enable()
    torch.manual_seed(0)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    model, batch, loss_of = MODELS[name](torch, device == "cpu")
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses, start = [], 0.0
    warm = max(steps // 3, 1)
    for step in range(steps):
        if step == warm:
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
        loss = loss_of(model, *batch(step, device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    found = {"steps_per_second": (steps - warm) / seconds,
             "losses": [float(loss).hex() for loss in losses]}
    if device == "cuda":
        stats = torch.cuda.memory_stats()
        found["peak_reserved"] = torch.cuda.max_memory_reserved()
        found["peak_allocated"] = torch.cuda.max_memory_allocated()
        found["retries"] = stats.get("num_alloc_retries", 0)
    print(json.dumps(found))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        train(options.one, options.steps, options.device)
        return
    for model in MODELS:
        found = {}
        for backend, environment in BACKENDS.items():
            command = [sys.executable, __file__, "--one", model, "--steps", str(options.steps),
                       "--device", options.device]
            done = subprocess.run(command, env={**os.environ, **environment},
                                  capture_output=True, text=True, check=False)
            line = {"bench": "torch", "case": f"train-{model}", "allocator": backend}
            if done.returncode:
                line["missing"] = done.stderr.strip().splitlines()[-1:]
            else:
                found[backend] = json.loads(done.stdout.splitlines()[-1])
                line.update(found[backend])
                native = found.get("native", {}).get("losses")
                line["same_losses"] = line.pop("losses") == native if native else None
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
