"""Memory snapshots of PyTorch's own allocator and of forebay's, as traces; and PyTorch's reader of
what is exported."""

import os
import pickle
import tempfile
import unittest

import rig
import torch
from rig import MIB

from forebay.formats import torch_snapshot, trace

os.environ["SIM_CUDART_KERNELS"] = "skip"


def work():
    """Some blocks, on two streams, of which one waits; one that does not fit. Returns what it
    keeps."""
    other, kept = torch.cuda.Stream(), []
    for number in range(120):
        tensor = torch.empty(1000 * (number + 1), device="cuda")
        if number % 10 == 0:
            kept.append(tensor)
        if number % 7 == 0:
            with torch.cuda.stream(other):
                kept.append(torch.empty(300_000, device="cuda"))
            tensor.record_stream(other)
    try:
        torch.empty(1 << 40, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        pass
    return kept


def as_trace(test, path):
    """The snapshot at ``path`` as a trace, which must make sense and end as the snapshot does. What
    the import found, and the blocks at the end."""
    with open(path, "rb") as file:
        snapshot = pickle.load(file)
    out = path + ".csv"
    found = torch_snapshot.import_trace(path, out, 0)
    blocks = trace.Blocks()
    rows = list(blocks.follow(trace.read(out)))
    test.assertEqual(
        (blocks.wrong, found.replaced, len(rows)), (0, 0, found.rows), blocks.first_wrong
    )
    live = {
        block["address"]: block["requested_size"]
        for segment in snapshot["segments"]
        if segment["device"] == 0
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    }
    test.assertEqual({at: size for at, (size, _) in blocks.live.items()}, live)
    test.assertEqual(sum(row[0].action == trace.FAILURE for row in rows), 1)
    # Who asked: this file, whose functions are here.
    with open(out, encoding="utf-8") as file:
        asked = [line.split(",", 6)[6] for line in file if ",allocate," in line]
    told = sum("test_snapshot.py:" in site for site in asked)
    test.assertGreaterEqual(told, len(asked) - found.earlier)
    test.assertGreater(told, 0)
    return found, blocks


class Native(rig.Case):
    def test_its_own_snapshots_are_read(self):
        for most in (100_000, 100):
            torch.cuda.memory._record_memory_history(max_entries=most)
            early = torch.empty(5 * MIB, device="cuda")
            kept = work()
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "snapshot.pickle")
                torch.cuda.memory._dump_snapshot(path)
                found, blocks = as_trace(self, path)
            torch.cuda.memory._record_memory_history(None)
            # Where the history was cut, what its beginning had is there none the less.
            self.assertEqual(found.earlier > 0, most == 100)
            self.assertGreaterEqual(blocks.bytes, 20 * MIB)
            del early, kept

    def test_forebays_snapshots_are_read(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "snapshot.pickle")
            rig.script(
                f"""
                import sys
                import torch, forebay.torch
                forebay.torch.enable("global", limit=512 << 20)
                forebay.torch.record_memory_history()
                import test_snapshot
                kept = test_snapshot.work()
                torch.cuda.synchronize()
                forebay.torch.dump_snapshot({path!r})
                """
            )
            found, _ = as_trace(self, path)
            self.assertEqual(found.earlier, 0)


class Viewer(unittest.TestCase):
    def test_pytorch_shows_what_is_exported(self):
        from torch.cuda import _memory_viz

        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "step.pickle")
            torch_snapshot.export_trace(os.path.join(root, "examples_c", "gpt_step.csv.gz"), path)
            with open(path, "rb") as file:
                snapshot = pickle.load(file)
        # The pages that the step used, in one segment.
        self.assertRegex(_memory_viz.segsum(snapshot), r"\n\[ *\] [0-9.]+GiB")
        shown = _memory_viz.trace(snapshot)
        self.assertIn("5466 entries", shown)
        self.assertEqual(shown.count(" = MEM["), 1822)
        self.assertEqual(shown.count("# free completed for"), 1822)


if __name__ == "__main__":
    unittest.main()
