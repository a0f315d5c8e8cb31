#!/usr/bin/env python3
"""Records the memory traffic of a GPT-like model's training steps.

Trains a small GPT (explicit attention scores, tied head, cross entropy, AdamW
one parameter at a time) for a few steps and writes the life of every tensor
storage as a log in RMM's format: one `allocate` row when a storage is first
seen, one `free` row when it dies. Views and in-place operations share a storage
and make no rows. The first step creates the optimizer's state; the later ones
repeat. Everything is dropped at the end, so the log ends with nothing live.

Why fake tensors: under PyTorch's FakeTensorMode operations compute shapes and
lifetimes, not values. Storages are born and die as autograd and the optimizer
make them, yet the recording takes seconds, no memory to speak of and
no GPU. Why on the cpu device: without a GPU, autograd refuses fake cuda
tensors.

Where the log differs from a run without a recorder:
- it leaves out workspaces that a kernel takes and gives back inside one
  operation, and Python numbers that PyTorch wraps as tensors of 8 bytes;
- while a dispatch mode is on, autograd adds gradients that meet (two per layer,
  at the residual connections) into a new tensor instead of the older one;
- AdamW's 4-byte step counters are in it, which a training run on a GPU keeps in
  system memory.
With real tensors in place of fake ones a smaller model gave the same rows.

The log has no real addresses and times. A pointer is a name: addresses count up
by size and are never used twice. The time is the row's number in microseconds.
The same torch and the same options give the same bytes on every run.

Recorded with Python 3.11 and torch 2.8.0, the Linux wheel of the Python Package
Index. To repeat it:

    python3 -m venv .venv
    .venv/bin/pip install torch==2.8.0 numpy==2.4.6
    .venv/bin/python scripts/record_gpt_step.py

That wheel is linked against CUDA's libraries, which pip installs with it
(gigabytes). They must be there for the import; nothing here calls them.
"""

import argparse
import gc
import gzip
import io
import math
import pathlib
import sys
import weakref

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FIRST_POINTER = 0x1_0000_0000
# Names are this far apart at least, as the addresses of a device allocator are.
POINTER_STEP = 512


class StorageRecorder(TorchDispatchMode):
    """Writes a row when an operation's output has a storage not seen before, and
    another when that storage dies."""

    def __init__(self):
        super().__init__()
        self.rows = []
        self.sizes = set()
        self.live_bytes = 0
        self.peak_bytes = 0
        # StorageImpl's address -> (pointer, size). An address is unique while its
        # storage lives, and leaves the table when the storage dies.
        self.live = {}
        self._next_pointer = FIRST_POINTER

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        values = (outputs,) if len(returns) == 1 else outputs or ()
        for value, declared in zip(values, returns, strict=True):
            # What an operation writes in place was seen when it was made. The fake
            # value may be a stand-in with a storage of its own (an optimizer's step
            # counter, whose value the mode follows), so identity cannot tell.
            if declared.alias_info is not None and declared.alias_info.is_write:
                continue
            for tensor in tree_leaves(value):
                if isinstance(tensor, torch.Tensor):
                    self._see(tensor.untyped_storage())
        return outputs

    def _see(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self.live or size == 0:
            return
        pointer = self._next_pointer
        self._next_pointer += math.ceil(size / POINTER_STEP) * POINTER_STEP
        self.live[key] = (pointer, size)
        self.sizes.add(size)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.rows.append(("allocate", pointer, size))
        # PyTorch keeps a storage's Python object for as long as the storage lives,
        # whoever holds it (autograd's graph included), so its end is the storage's.
        weakref.finalize(storage, self._free, key).atexit = False

    def _free(self, key):
        pointer, size = self.live.pop(key)
        self.live_bytes -= size
        self.rows.append(("free", pointer, size))


class Attention(nn.Module):
    def __init__(self, width, heads, sequence):
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        future = torch.ones(sequence, sequence, dtype=torch.bool).triu(diagonal=1)
        self.register_buffer("future", future)

    def forward(self, x):
        batch, sequence, width = x.shape
        query, key, value = (
            part.view(batch, sequence, self.heads, width // self.heads).transpose(1, 2)
            for part in self.query_key_value(x).split(width, dim=2)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(width // self.heads)
        scores = scores.masked_fill(self.future, float("-inf")).softmax(dim=-1)
        mixed = (scores @ value).transpose(1, 2).reshape(batch, sequence, width)
        return self.project(mixed)


class Block(nn.Module):
    def __init__(self, width, heads, sequence):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, sequence)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * width, width),
        )

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Gpt(nn.Module):
    def __init__(self, layers, width, heads, sequence, vocabulary):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(sequence, width)
        self.blocks = nn.Sequential(
            *(Block(width, heads, sequence) for _ in range(layers))
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens, targets):
        positions = torch.arange(tokens.shape[1])
        x = self.blocks(self.token(tokens) + self.position(positions))
        # The head is tied: logits are products with the token embeddings.
        logits = functional.linear(self.norm(x), self.token.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def train_step(model, optimizer, options):
    text = torch.randint(options.vocabulary, (options.batch, options.sequence + 1))
    tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    optimizer.zero_grad(set_to_none=True)
    loss = model(tokens, targets)
    loss.backward()
    optimizer.step()


def train(options):
    model = Gpt(
        options.layers,
        options.width,
        options.heads,
        options.sequence,
        options.vocabulary,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, foreach=False)
    for _ in range(options.steps):
        train_step(model, optimizer, options)
    return sum(parameter.numel() for parameter in model.parameters())


def record(options):
    """Trains, and returns the recorder and the model's number of parameters."""
    torch.manual_seed(0)
    # Reference counts alone decide when storages die: a collection in mid-step
    # would come at a moment that depends on the interpreter, not on the model.
    gc.disable()
    recorder = StorageRecorder()
    with FakeTensorMode(), recorder:
        parameters = train(options)
    gc.collect()
    gc.enable()
    if recorder.live:
        sys.exit(f"{len(recorder.live)} storages outlived the training: the log is not complete")
    return recorder, parameters


def write_log(rows, path):
    """Writes rows as RMM's log format, gzipped without a name or a time."""
    with (
        open(path, "wb") as file,
        gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="ascii", newline="\n") as log,
    ):
        log.write("Thread,Time,Action,Pointer,Size,Stream\n")
        for number, (action, pointer, size) in enumerate(rows):
            seconds, micros = divmod(number, 1_000_000)
            minutes, seconds = divmod(seconds, 60)
            hours, minutes = divmod(minutes, 60)
            time = f"{hours:02}:{minutes:02}:{seconds:02}.{micros:06}"
            log.write(f"1,{time},{action},{pointer:#x},{size},0x0\n")


def parse_options():
    def positive(text):
        value = int(text)
        if value < 1:
            raise argparse.ArgumentTypeError(f"{value} is below 1")
        return value

    output = pathlib.Path(__file__).resolve().parent.parent / "examples_c" / "gpt_step.csv.gz"
    parser = argparse.ArgumentParser(
        description="Record the memory traffic of a GPT-like model's training steps.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--layers", type=positive, default=6, help="transformer blocks")
    parser.add_argument("--width", type=positive, default=512, help="floats per token")
    parser.add_argument("--heads", type=positive, default=8, help="attention heads per block")
    parser.add_argument("--sequence", type=positive, default=512, help="tokens per sequence")
    parser.add_argument("--batch", type=positive, default=4, help="sequences per step")
    parser.add_argument("--vocabulary", type=positive, default=16384, help="distinct tokens")
    parser.add_argument("--steps", type=positive, default=3, help="training steps")
    parser.add_argument("--output", type=pathlib.Path, default=output, help="the log, gzipped")
    options = parser.parse_args()
    if options.width % options.heads:
        parser.error(f"--width {options.width} is not a multiple of --heads {options.heads}")
    return options


def main():
    options = parse_options()
    recorder, parameters = record(options)
    try:
        write_log(recorder.rows, options.output)
    except OSError as error:
        sys.exit(f"--output {options.output}: {error.strerror}")
    print(
        f"{len(recorder.rows)} rows, peak live {recorder.peak_bytes} bytes, "
        f"{len(recorder.sizes)} distinct sizes, {parameters} parameters, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
