"""The two documents that this package was asked for by: every block of code in them runs as it is
written, but for the line that imports it, and does what it is there for.

FOREBAY_WISHES names the folder that has them; they are not part of this project.
"""

import contextlib
import io
import os
import pathlib
import re
import sys
import time
import types
import unittest
import warnings

import numpy as np

FOLDER = os.environ.get("FOREBAY_WISHES")
MIB = 1 << 20

#: Where what they import is here.
_MODULES = {
    "kitsune": "forebay.optimizer",
    "kitsune.memory": "forebay.memory",
    "kitsune.profiler": "forebay.profiler",
    "noodlenet.vision.memory": "forebay.memory",
    "noodlenet.vision.ops_audio": "forebay.audio",
}
_IMPORT = re.compile(r"^from ((?:kitsune|noodlenet)[\w.]*) import ", re.MULTILINE)
# A block ends with its fence, or with the document.
_BLOCK = re.compile(r"^```python\n(.*?)(?:^```|\Z)", re.MULTILINE | re.DOTALL)

try:
    import torch
except ImportError:
    torch = None


def blocks_of(name):
    return _BLOCK.findall((pathlib.Path(FOLDER) / name).read_text())


def stand_in_for_torch():
    """What the blocks of the first document name of PyTorch, where it is not installed."""
    return types.SimpleNamespace(float32=np.float32)


def random_tensor(*shape):
    if torch is not None:
        return torch.rand(*shape)
    return np.random.rand(*shape).astype(np.float32)


def on_host(tensor):
    return np.asarray(tensor.cpu() if hasattr(tensor, "cpu") else tensor)


class Model:
    """Remembers what it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, data):
        self.seen.append(on_host(data).copy())
        return data


@unittest.skipUnless(FOLDER, "FOREBAY_WISHES names no folder with the two documents")
class Document(unittest.TestCase):
    name = None

    @classmethod
    def setUpClass(cls):
        if cls.name is None:
            raise unittest.SkipTest("what the two documents have in common")

    def run_blocks(self, cases):
        """Runs the document's blocks in order, in one namespace: later ones go on with what earlier
        ones made. A case is a function that gets the namespace, makes what its block takes for
        granted, runs it, and checks what came of it."""
        blocks = blocks_of(self.name)
        self.assertEqual(len(blocks), len(cases), "a block has no case, or a case no block")
        names = {"np": np, "time": time, "torch": torch or stand_in_for_torch()}
        for number, (source, case) in enumerate(zip(blocks, cases), 1):
            source = _IMPORT.sub(lambda found: f"from {_MODULES[found[1]]} import ", source)
            with self.subTest(block=number, case=case.__name__):
                code = compile(source, f"{self.name}, block {number}", "exec")

                def run(code=code):
                    text = io.StringIO()
                    with contextlib.redirect_stdout(text), warnings.catch_warnings():
                        warnings.simplefilter("ignore", RuntimeWarning)
                        exec(code, names)
                    return text.getvalue()

                case(names, run)


class Kitsune(Document):
    name = "kitsune_memory_api.md"

    def test_every_block(self):
        self.run_blocks(
            [
                self.memory_pool,
                self.double_buffer,
                self.prefetcher,
                self.suggestions,
                self.frequent_allocations,
                self.memory_tracker,
                self.reuse_plan,
                self.checkpoint,
                self.optimizer,
            ]
        )

    def memory_pool(self, names, run):
        self.assertRegex(run(), r"^Hit rate: \d+\.\d\d%\n$")
        self.assertEqual(tuple(names["tensor"].shape), (1024, 1024))
        stats = names["pool"].get_stats()
        self.assertEqual((stats["total_allocations"], stats["active_tensors"]), (1, 0))
        self.assertEqual(stats["limit_bytes"], 512 * MIB)

    def double_buffer(self, names, run):
        names["model"], batches = Model(), [random_tensor(64, 3, 224, 224) for _ in range(3)]
        names["dataloader"] = batches
        run()
        self.assertEqual(len(names["model"].seen), 3)
        for seen, batch in zip(names["model"].seen, batches):
            self.assertTrue(np.array_equal(seen, on_host(batch)))

    def prefetcher(self, names, run):
        names["model"] = Model()
        batches = [(random_tensor(8, 3), random_tensor(8)) for _ in range(7)]
        names["dataloader"] = batches
        run()
        self.assertEqual(len(names["model"].seen), 7)
        for seen, (data, _) in zip(names["model"].seen, batches):
            self.assertTrue(np.array_equal(seen, on_host(data)))

    def suggestions(self, names, run):
        tensors = [np.empty((250, 1000), np.float32) for _ in range(2001)]
        names["training_tensors"] = [tensors[step : step + 2] for step in range(2000)]
        self.assertEqual(run(), "Can reuse 2.00 GB\n")
        # All but two, with the alignment of one.
        saved = names["suggestions"]["reusable_bytes"]
        self.assertTrue(0 <= 1999 * 1000 * 1000 - saved < 512, saved)

    def frequent_allocations(self, names, run):
        run()
        stats = names["pool"].get_stats()
        self.assertEqual((stats["total_allocations"], stats["active_tensors"]), (1000, 0))
        self.assertGreaterEqual(stats["hit_rate"], 0.99)
        self.assertEqual(tuple(names["temp"].shape), (256, 256))

    def memory_tracker(self, names, run):
        from forebay.memory import MemoryPool

        pool = MemoryPool(64 * MIB, device="cpu")
        names["dataloader"] = [random_tensor(8, 3) for _ in range(3)]
        names["model"] = lambda batch: pool.free(pool.allocate((1024, 1024)))
        text = run()
        lines = text.splitlines()
        self.assertTrue(0 < len(lines) <= 40, len(lines))
        self.assertLessEqual(max(map(len, lines)), 80)
        self.assertGreaterEqual(names["tracker"].get_stats()["peak_allocated"], 4 * MIB)

    def reuse_plan(self, names, run):
        tensors = [random_tensor(256, 1024) for _ in range(11)]
        steps = iter(range(10))

        def active():
            step = next(steps)
            return tensors[step : step + 2]

        names["num_steps"], names["get_active_tensors"] = 10, active
        run()
        plan = names["reuse_plan"]
        self.assertEqual((plan["arena_bytes"], plan["gap"]), (2 * MIB, 1.0))
        self.assertTrue(plan.validate())

    def checkpoint(self, names, run):
        if torch is None:
            self.skipTest("this block is PyTorch's alone, which is not installed")
        run()
        x = torch.ones(2, requires_grad=True)
        names["forward_with_checkpointing"](lambda one: one * 3, x).sum().backward()
        self.assertEqual(x.grad.tolist(), [3.0, 3.0])

    def optimizer(self, names, run):
        if torch is None:
            self.skipTest("optimizers are PyTorch's, which is not installed")
        weight = torch.nn.Parameter(torch.ones(1000))
        names["base_optimizer"] = torch.optim.Adam([weight])
        run()
        optimizer = names["optimizer"]
        weight.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        self.assertIsNone(weight.grad)
        self.assertEqual(optimizer.get_stats()["cpu"]["current_usage"], 2 * weight.nbytes)
        self.assertEqual(len(list(optimizer.wrap([weight.detach()] * 3))), 3)


class Noodle(Document):
    name = "noodlevision_memory_api.md"

    def test_every_block(self):
        self.run_blocks(
            [
                self.manager,
                self.allocate_tensor,
                self.free_tensor,
                self.set_policy,
                self.get_statistics,
                self.cleanup,
                self.pools,
                self.allocate,
                self.free,
                self.get_stats,
                self.get_usage,
                self.memory_block,
                self.is_expired,
                self.tensor_cache,
                self.cache_get,
                self.cache_add,
                self.cache_stats,
                self.cache_cleanup,
                self.monitor,
                self.memory_info,
                self.available_memory,
                self.basic_management,
                self.pool_usage,
                self.cache_usage,
                self.policy_comparison,
                self.error_handling,
                self.audio_processor,
            ]
        )

    def manager(self, names, run):
        run()
        self.assertEqual(names["manager"].policy.value, "balanced")

    def allocate_tensor(self, names, run):
        run()
        tensor = names["tensor"]
        self.assertEqual(tuple(tensor.shape), (1024, 1024))
        self.assertIn("float32", str(tensor.dtype))
        self.assertTrue(0.49 < on_host(tensor).mean() < 0.51)

    def free_tensor(self, names, run):
        run()
        stats = names["manager"].get_statistics()
        self.assertEqual((stats["allocations_count"], stats["live_allocations"]), (1, 0))

    def set_policy(self, names, run):
        run()
        self.assertEqual(names["manager"].get_statistics()["policy"], "aggressive_reuse")

    def get_statistics(self, names, run):
        self.assertRegex(
            run(), r"^CPU usage: 0\.0%\nGPU usage: 0\.0%\nCache efficiency: \d\.\d\d\n$"
        )

    def cleanup(self, names, run):
        run()
        self.assertLess(names["manager"].get_statistics()["policy_effects"]["idle_bytes"], 4 * MIB)

    def pools(self, names, run):
        run()
        self.assertEqual(names["cpu_pool"].get_usage()["max_size"], 512 * MIB)
        self.assertEqual(names["gpu_pool"].get_usage()["max_size"], 1024 * MIB)

    def allocate(self, names, run):
        run()
        block = names["block"]
        self.assertEqual((block.size, block.data.nbytes, block.in_use), (MIB, MIB, True))
        self.assertEqual(names["cpu_pool"].get_usage()["current_usage"], MIB)

    def free(self, names, run):
        run()
        self.assertFalse(names["block"].in_use)
        self.assertEqual(names["cpu_pool"].get_usage()["current_usage"], 0)

    def get_stats(self, names, run):
        self.assertEqual(run(), f"Total allocated: {MIB} bytes\nPeak usage: {MIB} bytes\n")

    def get_usage(self, names, run):
        self.assertEqual(run(), "Current usage: 0 bytes\nUsage percentage: 0.0%\n")

    def memory_block(self, names, run):
        run()
        block = names["block"]
        self.assertEqual((block.size, block.data, block.in_use), (1024, None, True))

    def is_expired(self, names, run):
        self.assertEqual(run(), "")
        self.assertTrue(names["block"].is_expired(-1.0))

    def tensor_cache(self, names, run):
        run()
        self.assertEqual(len(names["cache"]), 0)

    def cache_get(self, names, run):
        self.assertEqual(run(), "Tensor not in cache\n")

    def cache_add(self, names, run):
        run()
        found = names["cache"].get((256, 256), np.float64)
        self.assertTrue(np.array_equal(found, names["tensor"]))

    def cache_stats(self, names, run):
        self.assertEqual(run(), "Cache hits: 1\nCache misses: 1\nCache efficiency: 0.50\n")

    def cache_cleanup(self, names, run):
        run()
        self.assertEqual(len(names["cache"]), 1)

    def monitor(self, names, run):
        run()

    def memory_info(self, names, run):
        found = re.fullmatch(
            r"Process RSS: (\d+) bytes\nSystem used: (\d+) bytes\nSystem available: (\d+) bytes\n",
            run(),
        )
        for number in found.groups():
            self.assertGreater(int(number), MIB)

    def available_memory(self, names, run):
        available = int(re.fullmatch(r"Available memory: (\d+) bytes\n", run())[1])
        # What there is, not what this process has.
        self.assertLessEqual(available, names["info"]["system_total"])
        self.assertGreater(available, 0)

    def basic_management(self, names, run):
        from forebay.audio import ChromaOperator, MFCCOperator, SpectrogramOperator

        names.update(
            SpectrogramOperator=SpectrogramOperator,
            MFCCOperator=MFCCOperator,
            ChromaOperator=ChromaOperator,
        )
        text = run()
        self.assertIn("CPU usage", text)
        self.assertEqual(set(names["results"]), {"spectrogram", "mfcc", "chroma"})
        stats = names["stats"]
        used = stats["cpu_pool"]["current_usage"] + stats["gpu_pool"]["current_usage"]
        # What is freed by now has its shape still.
        self.assertEqual(used, sum(tensor.nbytes for tensor in names["results"].values()))
        self.assertEqual(names["manager"].get_statistics()["live_allocations"], 0)

    def pool_usage(self, names, run):
        text = run()
        self.assertEqual(text.count("Block in use: True"), 10)
        self.assertEqual(text.count(f"Block size: {16 * MIB} bytes"), 10)
        self.assertIn(f"Peak usage: {160 * MIB} bytes", text)
        self.assertEqual(names["pool"].get_usage()["current_usage"], 0)

    def cache_usage(self, names, run):
        text = run()
        # What it adds is computed in float64 no more than once a shape.
        self.assertIn("Cache hits: 57\nCache misses: 3\nCache efficiency: 0.95\n", text)

    def policy_comparison(self, names, run):
        text = run()
        self.assertEqual(text.count("Allocations: 100"), 5)
        self.assertEqual(set(names["results"]), {one.value for one in names["MemoryPolicy"]})
        efficiency = {policy: one["cache_efficiency"] for policy, one in names["results"].items()}
        self.assertGreaterEqual(efficiency["aggressive_reuse"], 0.99)
        self.assertLessEqual(efficiency["conservative"], efficiency["aggressive_reuse"])

    def error_handling(self, names, run):
        text = run()
        self.assertTrue(text.startswith("Allocation successful") or "Fallback" in text, text)
        self.assertIsNotNone(names["tensor"])

    def audio_processor(self, names, run):
        run()
        results, audio = names["results"], names["audio"]
        self.assertEqual(set(results), {"spectrogram", "mfcc", "chroma"})
        for name, operator in names["processor"].operators.items():
            self.assertTrue(np.allclose(on_host(results[name]), operator(audio)), name)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[1:]])
