"""Records and traces of the ranks of a torchrun job: two processes on this machine, over gloo.

The job runs once; each rank writes what it found, and the tests look at that."""

import gzip
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import unittest

sys.path.insert(1, os.path.join(os.path.dirname(__file__), "..", "python"))

from test_workers_docs import run_example  # noqa: E402

JOB = """
import datetime, json, os, sys, time
import torch.distributed as dist
import forebay
from forebay import workers
from forebay.contrib import torchrun

def take(size, times=1):
    for _ in range(times):
        pool.free(pool.allocate((size,), "uint8"))

def error_of(call):
    begun = time.monotonic()
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error), time.monotonic() - begun]

dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=120))
rank, folder, found = dist.get_rank(), sys.argv[1], {}
pool = forebay.configure("64MiB", device="cpu").pool()

# Rank 1 takes more, and longer.
take(1 << 20, times=3 + rank)
for _ in range(6):
    workers.record_step(0.010 + 0.010 * rank)
summary = torchrun.gather()
found["gather"] = summary and {**summary.to_dict(), "straggler": summary.straggler()}
# As often as one likes, beside the job's own collectives, and in its groups.
dist.barrier()
found["of_all"] = getattr(torchrun.gather(dist.group.WORLD, timeout=60), "total", None)
alone = dist.new_group([1], backend="gloo")
if rank == 1:
    found["of_one"] = torchrun.gather(alone).total
else:
    found["not_in"] = error_of(lambda: torchrun.gather(alone))

# Rank 1 is three seconds ahead.
real, ahead = time.time_ns, rank * 3_000_000_000
time.time_ns = lambda: real() + ahead
found["clock"] = torchrun.clock_offset()
time.time_ns = real

with torchrun.trace(folder + "/step.{rank}.csv.gz") as found["path"]:
    take(1 << 16, times=2 + rank)
take(1 << 20)
found["one_path"] = error_of(torchrun.trace(folder + "/step.csv").__enter__)

# Rank 1 does not come.
if rank == 0:
    found["missing"] = error_of(lambda: torchrun.gather(timeout=2))
    open(folder + "/told", "w").close()
else:
    while not os.path.exists(folder + "/told"):
        time.sleep(0.05)
with open(f"{folder}/found.{rank}.json", "w") as file:
    json.dump(found, file)
"""


class Job(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        program = os.path.join(cls.folder.name, "job.py")
        with open(program, "w") as file:
            file.write(JOB)
        command = [
            "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", program,
            cls.folder.name,
        ]
        ran = subprocess.run(
            [sys.executable, *command],
            stderr=subprocess.PIPE,
            text=True,
            timeout=500,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        if ran.returncode:
            raise AssertionError(ran.stderr)
        cls.found = [json.loads(cls.read(f"found.{rank}.json")) for rank in (0, 1)]

    @classmethod
    def read(cls, name):
        with open(os.path.join(cls.folder.name, name), "rb") as file:
            return file.read()

    def test_the_first_rank_has_all_records(self):
        self.assertIsNone(self.found[1]["gather"])
        found = self.found[0]["gather"]
        self.assertEqual([one["names"] for one in found["workers"]], [["rank 0"], ["rank 1"]])
        self.assertEqual([one["allocations"] for one in found["workers"]], [3, 4])
        total = found["total"]
        self.assertEqual((total["workers"], total["allocations"], total["steps"]), (2, 7, 12))
        self.assertEqual(total["limit_bytes"], 128 << 20)

    def test_the_late_one_is_named(self):
        straggler = self.found[0]["gather"]["straggler"]
        self.assertEqual((straggler["kind"], straggler["worker"]), ("step", "rank 1"))

    def test_groups(self):
        self.assertEqual(self.found[0]["of_all"]["names"], ["rank 0", "rank 1"])
        self.assertIsNone(self.found[1]["of_all"])
        self.assertEqual(self.found[1]["of_one"]["names"], ["rank 1"])
        kind, text, _ = self.found[0]["not_in"]
        self.assertEqual((kind, text), ("ValueError", "group does not have this rank, 0"))

    def test_who_does_not_come_is_named_in_time(self):
        kind, text, seconds = self.found[0]["missing"]
        self.assertEqual(kind, "ForebayError")
        self.assertRegex(text, "gather: not every rank came within 2 s: .*[Rr]anks? .*1")
        self.assertLess(seconds, 30)

    def test_clocks(self):
        """Three seconds, within the error that is stated."""
        self.assertEqual(self.found[0]["clock"], [0, 0])
        offset, error = self.found[1]["clock"]
        self.assertTrue(0 < error < 1_000_000_000, error)
        self.assertLessEqual(abs(offset + 3_000_000_000), error)

    def test_traces(self):
        for rank, found in enumerate(self.found):
            path = os.path.join(self.folder.name, f"step.{rank}.csv.gz")
            self.assertEqual(found["path"], path)
            rows = gzip.decompress(self.read(path)).decode().splitlines()
            self.assertEqual(rows[0], "Thread,Time,Action,Pointer,Size,Stream,Site")
            self.assertEqual(sum(",allocate," in row for row in rows), 2 + rank)
            beside = json.loads(self.read(f"{path}.rank.json"))
            self.assertEqual((beside["rank"], beside["world_size"]), (rank, 2))
            # One machine, one clock.
            self.assertLessEqual(abs(beside["clock_offset_ns"]), beside["clock_error_ns"])
            self.assertGreater(beside["begun_ns"], 1_700_000_000 * 10**9)
            kind, text, _ = found["one_path"]
            self.assertEqual(kind, "ValueError")
            self.assertIn("the same for all 2 ranks; put {rank} in it", text)


class Page(unittest.TestCase):
    def test_the_example(self):
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
        printed = run_example("torchrun.md", *launcher)
        self.assertEqual(printed.count("2 workers\n"), 1)
        self.assertRegex(printed, "steps +5 +5 +5\n")


class ByItself(unittest.TestCase):
    def test_a_process_by_itself(self):
        program = """
            import forebay, os, sys
            from forebay.contrib import torchrun
            forebay.configure("64MiB", device="cpu")
            summary = torchrun.gather()
            assert summary.total["names"] == ["rank 0"], summary.total
            assert torchrun.clock_offset() == (0, 0)
            with torchrun.trace(sys.argv[1] + "/one.csv") as path:
                pass
            assert os.path.exists(path) and os.path.exists(path + ".rank.json")

            def fails(error, text, **arguments):
                try:
                    torchrun.gather(**arguments)
                except error as found:
                    assert text in str(found), found
                else:
                    raise AssertionError(arguments)

            for timeout in (0, -1, float("nan"), True):
                fails(ValueError, "timeout is", timeout=timeout)
            os.environ["WORLD_SIZE"] = "2"
            fails(forebay.ForebayError, "init_process_group")
        """
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", textwrap.dedent(program), folder]
            subprocess.run(command, check=True, timeout=300)


class OnAGpu(unittest.TestCase):
    def test_tensors_of_pytorch(self):
        """Configured, traced and counted where PyTorch's tensors are forebay's."""
        program = """
            import sys, torch, forebay
            from forebay import workers
            from forebay.contrib import torchrun
            settings = forebay.configure("256MiB", device="local")
            assert settings.device == "cuda:0", settings
            settings.enable_torch()
            kept = torch.empty(1 << 20, device="cuda")
            with torchrun.trace(sys.argv[1] + "/gpu.csv") as path:
                torch.empty(3 << 20, dtype=torch.uint8, device="cuda")
            with open(path) as file:
                rows = file.read().splitlines()
            assert sum(",allocate," in row and ",3145728," in row for row in rows) == 1, rows
            record = workers.collect()
            assert record["pools"] == 1, record
            assert record["requested_bytes"] == 4 << 20, record
            assert record["cuda_reserved_bytes"] == record["reserved_bytes"] >= 4 << 20, record
            assert record["limit_bytes"] == 256 << 20, record
            try:
                torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
            except torch.OutOfMemoryError:
                pass
            else:
                raise AssertionError("more than the limit")
            assert workers.collect()["failed"] >= 1
        """
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", textwrap.dedent(program), folder]
            subprocess.run(command, check=True, timeout=300)


if __name__ == "__main__":
    unittest.main()
