"""Mode "global": forebay owns every block."""

import gc
import gzip
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import threading
import unittest

import rig
import torch
from rig import MIB

import forebay
import forebay.torch

os.environ["FOREBAY_TORCH_LIMIT"] = "512MiB"
forebay.torch.enable()

SINCE_2_9 = hasattr(torch, "accelerator") and hasattr(torch.accelerator, "memory_stats")
if not SINCE_2_9:
    # A capture there begins with kernels that set the state of the random numbers.
    os.environ["SIM_CUDART_KERNELS"] = "skip"


LAST = f"cuda:{torch.cuda.device_count() - 1}"


def empty(mib, **options):
    return torch.empty(int(mib * MIB), dtype=torch.uint8, device="cuda", **options)


#: What fill() copies from.
_ZEROS = torch.zeros(512 * MIB, dtype=torch.uint8).pin_memory()


def fill(tensor):
    """Zeroes it by a copy on the current stream: kernels are not run here."""
    return tensor.copy_(_ZEROS[: tensor.numel()], non_blocking=True)


class Tensors(rig.Case):
    def test_they_hold_what_was_copied(self):
        self.assertEqual(torch.cuda.get_allocator_backend(), "pluggable")
        self.assertEqual(forebay.torch.mode(), "global")
        forebay.torch.enable()
        values = torch.arange(300000, dtype=torch.float32)
        tensors = [values.to("cuda") for _ in range(5)]
        self.assertEqual(len({tensor.data_ptr() for tensor in tensors}), 5)
        for tensor in tensors:
            self.assertEqual(tensor.data_ptr() % 512, 0)
            self.assertTrue(torch.equal(tensor.cpu(), values))

    def test_empty_ones_have_no_memory(self):
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        nothing = [torch.empty(0, device="cuda") for _ in range(3)]
        self.assertEqual([tensor.data_ptr() for tensor in nothing], [0, 0, 0])
        del nothing
        self.assertEqual(torch.cuda.memory_stats()["allocation.all.allocated"], before)

    @unittest.skipIf(torch.cuda.device_count() < 2, "there is one device")
    def test_every_device_has_its_pool(self):
        values = torch.arange(100000, dtype=torch.int64)
        first = values.to("cuda:0")
        second = first.to("cuda:1")
        self.assertTrue(torch.equal(second.cpu(), values))
        self.assertGreater(torch.cuda.memory_allocated(1), 0)
        # The device that is current when it is freed is another one.
        with torch.cuda.device(0):
            del second
        self.assertEqual(torch.cuda.memory_allocated(1), 0)

    def test_eight_threads(self):
        gc.collect()
        before = torch.cuda.memory_allocated()

        def work(number):
            values = torch.full((10000 + number,), number, dtype=torch.int32)
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(100):
                    tensor = values.to("cuda")
                    kept = torch.empty_like(tensor)
                    kept.copy_(tensor)
                assert torch.equal(kept.cpu(), values)

        self.assertEqual(rig.on_threads(8, work), [])
        self.assertEqual(torch.cuda.memory_allocated(), before)

    def test_raw_memory(self):
        stream = torch.cuda.Stream()
        address = torch.cuda.caching_allocator_alloc(MIB, stream=stream)
        self.assertNotEqual(address, 0)
        torch.cuda.caching_allocator_delete(address)


class Streams(rig.Case):
    def test_memory_in_use_on_another_stream_is_not_given_out(self):
        first, second = torch.cuda.Stream(), torch.cuda.Stream()
        source = torch.full((4 * MIB,), 7, dtype=torch.uint8).pin_memory()
        target = torch.empty(4 * MIB, dtype=torch.uint8).pin_memory()
        with torch.cuda.stream(first):
            tensor = source.to("cuda", non_blocking=True)
        second.wait_stream(first)
        with torch.cuda.stream(second):
            target.copy_(tensor, non_blocking=True)
        tensor.record_stream(second)
        address = tensor.data_ptr()
        del tensor
        with torch.cuda.stream(first):
            other = empty(4)
            self.assertNotEqual(other.data_ptr(), address)
            fill(other)
        torch.cuda.synchronize()
        self.assertTrue(torch.equal(target, source))

    @rig.needs_the_checker
    def test_without_record_stream_the_race_is_found(self):
        # That the check above can fail.
        first, second = torch.cuda.Stream(), torch.cuda.Stream()
        target = torch.empty(4 * MIB, dtype=torch.uint8).pin_memory()
        with torch.cuda.stream(first):
            tensor = fill(empty(4))
        second.wait_stream(first)
        with torch.cuda.stream(second):
            target.copy_(tensor, non_blocking=True)
        del tensor
        with torch.cuda.stream(first):
            fill(empty(4))
        torch.cuda.synchronize()
        self.assertGreater(rig.hazards(), 0)

    def test_what_one_stream_freed_serves_another(self):
        forebay.torch.trim()
        stream = torch.cuda.Stream()
        big = fill(empty(400))
        del big
        with torch.cuda.stream(stream):
            # More than the limit has beside it: without reuse there is no room.
            again = fill(empty(400))
        del again

    def test_tensors_of_others_are_left_alone(self):
        view = torch.from_dlpack(empty(1))
        view.record_stream(torch.cuda.Stream())


class Fragments(rig.Case):
    PROGRAM = """
        import torch
        {enable}
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((600 << 20) / total)
        blocks = [torch.empty(8 << 20, dtype=torch.uint8, device="cuda") for _ in range(48)]
        del blocks[::2]
        try:
            large = torch.empty(300 << 20, dtype=torch.uint8, device="cuda")
            print("runs", torch.cuda.memory_reserved() - torch.cuda.memory_allocated() >> 20)
        except torch.OutOfMemoryError:
            print("out of memory with", torch.cuda.memory_allocated() >> 20)
        """

    def test_a_program_that_fragments_runs(self):
        # Half of each segment is free, and of PyTorch's own none can be given back.
        said, _ = rig.script(self.PROGRAM.format(enable=""))
        self.assertEqual(said, "out of memory with 192\n")
        said, _ = rig.script(
            self.PROGRAM.format(enable="import forebay.torch; forebay.torch.enable()")
        )
        word, idle = said.split()
        self.assertEqual(word, "runs")
        self.assertLessEqual(int(idle), 8, "MiB reserved beside what lives")

    def test_a_step_that_repeats_asks_the_driver_for_nothing(self):
        sizes = [700, 40000, MIB, 5 * MIB, 12 * MIB]

        def step():
            live = [torch.empty(size, dtype=torch.uint8, device="cuda") for size in sizes]
            del live[::2]
            return live + [torch.empty(2 * MIB, dtype=torch.uint8, device="cuda")]

        for _ in range(3):
            step()
        before = forebay.torch.pool_report()
        for _ in range(200):
            step()
        after = forebay.torch.pool_report()
        for key in ("system_calls", "misses", "reserved"):
            self.assertEqual(after[key], before[key], key)
        self.assertEqual(after["allocations"], before["allocations"] + 200 * 6)


class NoMemory(rig.Case):
    def test_it_is_an_out_of_memory_error(self):
        before = torch.cuda.memory_stats()["num_ooms"]
        live = empty(100)
        with self.assertRaises(torch.OutOfMemoryError) as caught:
            empty(600)
        said = str(caught.exception)
        for part in ("600.00 MiB", "GPU 0", "limit of 512.00 MiB", "largest free run", "raise it"):
            self.assertIn(part, said)
        self.assertIsInstance(caught.exception, RuntimeError)
        self.assertIs(torch.cuda.OutOfMemoryError, torch.OutOfMemoryError)
        self.assertEqual(torch.cuda.memory_stats()["num_ooms"], before + 1)
        # Nothing is left behind that a later call would trip over.
        self.assertEqual(fill(empty(1)).cpu().sum(), 0)
        del live

    def test_on_the_threads_of_autograd(self):
        threads = []

        class Greedy(torch.autograd.Function):
            @staticmethod
            def forward(context, value):
                return value

            @staticmethod
            def backward(context, gradient):
                threads.append(threading.get_ident())
                return empty(600).float()

        with self.assertRaises(torch.OutOfMemoryError) as caught:
            value = torch.empty(10, device="cuda", requires_grad=True)
            Greedy.apply(value).backward(torch.empty(10, device="cuda"))
        self.assertIn("600.00 MiB", str(caught.exception))
        self.assertNotEqual(threads, [threading.get_ident()])

    def test_it_can_be_recovered_from(self):
        blocks = []
        with self.assertRaises(torch.OutOfMemoryError):
            while True:
                blocks.append(empty(32))
        self.assertEqual(len(blocks), 16)
        blocks.clear()
        self.assertEqual(empty(500).numel(), 500 * MIB)

    def test_observers_are_told(self):
        told = []
        torch._C._cuda_attach_out_of_memory_observer(lambda *what: told.append(what))
        with self.assertRaises(torch.OutOfMemoryError):
            empty(700)
        self.assertEqual(len(told), 1)
        self.assertEqual(told[0][:2], (0, 700 * MIB))

    def test_streams_that_hold_memory_are_named(self):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            inner = fill(empty(200))
            del inner
        with self.assertRaises(torch.OutOfMemoryError) as caught:
            empty(400)
        self.assertIn("for graphs: 200.00 MiB (stream 0x", str(caught.exception))
        del graph

    def test_streams_that_were_recorded_are_named(self):
        # Work that goes on: what it uses was freed, and is not to be had.
        stream, other = torch.cuda.Stream(), torch.cuda.Stream()
        with torch.cuda.stream(stream):
            tensor = empty(100)
        tensor.record_stream(other)
        report = forebay.torch.memory_stats()
        del tensor
        held = forebay.torch.memory_stats()["active_bytes.all.current"]
        self.assertEqual(held, report["active_bytes.all.current"])
        self.assertEqual(
            forebay.torch.memory_stats()["allocated_bytes.all.current"],
            report["allocated_bytes.all.current"] - 100 * MIB,
        )

    def test_what_fails_otherwise_is_a_runtime_error(self):
        forebay.torch.sleep()
        with self.assertRaises(RuntimeError) as caught:
            empty(1)
        self.assertNotIsInstance(caught.exception, torch.OutOfMemoryError)
        self.assertIn("forebay", str(caught.exception))
        forebay.torch.wake()

    def test_fractions_and_limits(self):
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(256 * MIB / total)
        with self.assertRaises(torch.OutOfMemoryError):
            empty(300)
        self.assertAlmostEqual(
            torch.cuda.get_per_process_memory_fraction(), 256 * MIB / total, places=6
        )
        live = empty(100)
        with self.assertRaisesRegex(RuntimeError, "live blocks"):
            torch.cuda.set_per_process_memory_fraction(50 * MIB / total)
        del live
        torch.cuda.set_per_process_memory_fraction(512 * MIB / total)


class Numbers(rig.Case):
    KEYS = [
        f"{name}.{kind}.{what}"
        for name in (
            "allocation",
            "segment",
            "active",
            "inactive_split",
            "allocated_bytes",
            "reserved_bytes",
            "active_bytes",
            "inactive_split_bytes",
            "requested_bytes",
        )
        for kind in ("all", "small_pool", "large_pool")
        for what in ("current", "peak", "allocated", "freed")
    ] + [
        f"{name}.{what}"
        for name in ("oversize_allocations", "oversize_segments")
        for what in ("current", "peak", "allocated", "freed")
    ] + [
        "num_alloc_retries",
        "num_ooms",
        "num_sync_all_streams",
        "num_device_alloc",
        "num_device_free",
        "max_split_size",
    ]

    def test_every_key_is_there(self):
        stats = torch.cuda.memory_stats()
        self.assertEqual([key for key in self.KEYS if key not in stats], [])
        flat = forebay.torch.memory_stats()
        self.assertEqual([key for key in self.KEYS if key not in flat], [])

    def test_they_count(self):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.reset_accumulated_memory_stats()
        start = torch.cuda.memory_allocated()
        small = torch.empty(1000, dtype=torch.uint8, device="cuda")
        large = empty(20)
        self.assertEqual(torch.cuda.memory_allocated(), start + 1024 + 20 * MIB)
        stats = torch.cuda.memory_stats()
        self.assertEqual(stats["allocation.small_pool.allocated"], 1)
        self.assertEqual(stats["allocation.large_pool.allocated"], 1)
        self.assertEqual(stats["requested_bytes.all.allocated"], 1000 + 20 * MIB)
        reserved = torch.cuda.memory_reserved()
        self.assertGreaterEqual(reserved, 20 * MIB)
        del large
        self.assertEqual(torch.cuda.max_memory_allocated(), start + 1024 + 20 * MIB)
        torch.cuda.reset_peak_memory_stats()
        self.assertEqual(torch.cuda.max_memory_allocated(), start + 1024)
        stats = torch.cuda.memory_stats()
        self.assertEqual(stats["allocated_bytes.large_pool.freed"], 20 * MIB)
        for name in ("active_bytes", "allocated_bytes"):
            parts = [stats[f"{name}.{kind}_pool.current"] for kind in ("small", "large")]
            self.assertEqual(stats[f"{name}.all.current"], sum(parts))
        torch.cuda.empty_cache()
        self.assertLess(torch.cuda.memory_reserved(), reserved)
        self.assertGreaterEqual(torch.cuda.max_memory_reserved(), torch.cuda.memory_reserved())
        del small

    def test_the_summary(self):
        said = torch.cuda.memory_summary()
        self.assertIn("Allocated memory", said)
        self.assertIn("CUDA OOMs", torch.cuda.memory_summary(abbreviated=True))

    def test_free_memory_of_the_device(self):
        free, total = torch.cuda.mem_get_info()
        self.assertLessEqual(free, total)

    def test_a_device_that_nothing_was_allocated_on(self):
        said, _ = rig.script(
            """
            import torch, forebay.torch
            forebay.torch.enable()
            torch.cuda.init()
            print(torch.cuda.memory_allocated(), torch.cuda.max_memory_reserved(torch.cuda.device_count() - 1))
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.reset_accumulated_memory_stats()
            torch.cuda.empty_cache()
            print(torch.cuda.memory_snapshot())
            """
        )
        self.assertEqual(said.split(), ["0", "0", "[]"])

    def test_the_twins_of_torch_accelerator(self):
        if not SINCE_2_9:
            self.skipTest("this PyTorch has no torch.accelerator.memory_stats")
        live = empty(3)
        accelerator = torch.accelerator
        self.assertEqual(accelerator.memory_allocated(), torch.cuda.memory_allocated())
        self.assertEqual(accelerator.max_memory_reserved(), torch.cuda.max_memory_reserved())
        self.assertEqual(accelerator.memory_stats()["allocation.all.current"],
                         torch.cuda.memory_stats()["allocation.all.current"])
        accelerator.reset_peak_memory_stats()
        accelerator.reset_accumulated_memory_stats()
        del live
        accelerator.empty_cache()
        self.assertEqual(torch.cuda.memory_stats()["allocated_bytes.all.allocated"], 0)

    def test_the_report_of_the_pool(self):
        live = empty(5)
        report = forebay.torch.pool_report()
        self.assertEqual(report["device"], "cuda")
        self.assertGreaterEqual(report["allocated"]["current"], 5 * MIB)
        del live


class Snapshots(rig.Case):
    def check(self, snapshot):
        live = 0
        for segment in snapshot["segments"]:
            at = segment["address"]
            for block in segment["blocks"]:
                self.assertEqual(block["address"], at)
                at += block["size"]
                live += block["size"] if block["state"] == "active_allocated" else 0
            self.assertEqual(at, segment["address"] + segment["total_size"])
        allocated = sum(map(torch.cuda.memory_allocated, range(torch.cuda.device_count())))
        self.assertEqual(live, allocated)

    def test_they_are_tiled_by_blocks(self):
        held = [torch.empty(size * 1001 + 1, device=LAST) for size in range(60)]
        held += [torch.empty(700, device="cuda") for _ in range(40)]
        del held[::3]
        self.check(torch.cuda.memory._snapshot())
        self.assertEqual(torch.cuda.memory_snapshot(), forebay.torch.memory_snapshot())
        reserved = sum(segment["total_size"] for segment in torch.cuda.memory_snapshot())
        self.assertEqual(reserved, sum(map(torch.cuda.memory_reserved, range(torch.cuda.device_count()))))

    def test_history_has_python_stacks(self):
        forebay.torch.record_memory_history(None)
        torch.cuda.memory._record_memory_history(max_entries=1000)

        def a_function_to_be_found():
            return empty(6)

        kept = a_function_to_be_found()
        gone = empty(7)
        address = gone.data_ptr()
        del gone
        with self.assertRaises(torch.OutOfMemoryError):
            empty(900)
        torch.cuda.empty_cache()
        snapshot = torch.cuda.memory._snapshot()
        self.check(snapshot)
        trace = snapshot["device_traces"][0]
        actions = [entry["action"] for entry in trace if entry["action"] != "segment_free"]
        self.assertEqual(actions, ["alloc", "alloc", "free_requested", "free_completed", "oom"])
        names = [frame["name"] for frame in trace[0]["frames"]]
        self.assertTrue(any("a_function_to_be_found" in name for name in names), names)
        self.assertEqual([entry["addr"] for entry in trace if entry["action"] == "free_completed"],
                         [address])
        self.assertIn("device_free", [entry for entry in trace if entry["action"] == "oom"][0])
        block = next(block for segment in snapshot["segments"] for block in segment["blocks"]
                     if block["address"] == kept.data_ptr())
        self.assertTrue(any("a_function_to_be_found" in frame["name"] for frame in block["frames"]))
        if hasattr(torch.cuda.memory, "_allocation_traceback"):
            found = torch.cuda.memory._allocation_traceback(kept.data_ptr())
            self.assertTrue(any("a_function_to_be_found" in frame["name"] for frame in found))
        # Off: nothing more is recorded.
        torch.cuda.memory._record_memory_history(None)
        self.assertEqual(torch.cuda.memory._snapshot()["device_traces"][0], [])
        del kept

    def test_the_newest_entries_stay(self):
        forebay.torch.record_memory_history(max_entries=10, context=None, clear_history=True)
        for _ in range(50):
            empty(1)
        trace = forebay.torch._snapshot.snapshot()["device_traces"][0]
        self.assertEqual(len([entry for entry in trace if entry["action"] != "segment_free"]), 10)
        self.assertEqual(trace[-1]["action"], "free_completed")
        forebay.torch.record_memory_history(None)
        with self.assertRaisesRegex(RuntimeError, "enabled is 'some'"):
            forebay.torch.record_memory_history("some")
        with self.assertRaisesRegex(RuntimeError, "skip_actions has 'everything'"):
            forebay.torch.record_memory_history(skip_actions=["everything"])

    def test_pytorch_reads_what_is_dumped(self):
        forebay.torch.record_memory_history(None)
        torch.cuda.memory._record_memory_history(max_entries=10000)
        held = [torch.empty(size * 50001 + 1, device="cuda") for size in range(30)]
        del held[::2]
        torch.cuda.empty_cache()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "snapshot.pickle")
            for dump in (torch.cuda.memory._dump_snapshot, forebay.torch.dump_snapshot):
                dump(path)
                with open(path, "rb") as file:
                    self.check(pickle.load(file))
            import pickletools

            with open(path, "rb") as file:
                used = {operation.name for operation, _, _ in pickletools.genops(file)}
            # What the reader in memory_viz's page knows.
            known = set(
                "PROTO FRAME MARK STOP EMPTY_DICT EMPTY_LIST EMPTY_TUPLE DICT LIST TUPLE TUPLE1 "
                "TUPLE2 TUPLE3 SETITEM SETITEMS APPEND APPENDS BININT BININT1 BININT2 LONG1 BINFLOAT "
                "NEWTRUE NEWFALSE NONE SHORT_BINUNICODE BINUNICODE BINGET LONG_BINGET BINPUT "
                "LONG_BINPUT MEMOIZE".split()
            )
            self.assertEqual(used - known, set())
            viz = pathlib.Path(torch.__file__).parent / "cuda" / "_memory_viz.py"
            for what in ("stats", "trace", "trace_plot", "segment_plot"):
                done = subprocess.run(
                    [sys.executable, viz, what, path, "-o", os.path.join(folder, "page.html")]
                    if what.endswith("plot")
                    else [sys.executable, viz, what, path],
                    capture_output=True, text=True, check=False,
                )
                self.assertEqual(done.returncode, 0, f"{what}: {done.stderr}")
        torch.cuda.memory._record_memory_history(None)
        del held

    def test_a_step_is_recorded(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "step.csv.gz")
            with forebay.torch.record(path):
                for _ in range(3):
                    empty(2)
            with gzip.open(path, "rt") as file:
                rows = file.read().splitlines()
            self.assertEqual(rows[0], "Thread,Time,Action,Pointer,Size,Stream")
            self.assertEqual(len(rows), 7)
            self.assertIn(str(2 * MIB), rows[1])
            with self.assertRaises(forebay.ForebayError):
                with forebay.torch.record(os.path.join(folder, "no", "such", "folder")):
                    pass


class Graphs(rig.Case):
    def capture(self, tensor, **options):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, **options):
            inner = torch.empty_like(tensor)
            inner.copy_(tensor)
            output = torch.empty_like(tensor)
            output.copy_(inner)
            del inner
        return graph, output

    def test_what_a_graph_uses_stays_its_own(self):
        source = fill(empty(2))
        graph, output = self.capture(source)
        for value in (1, 2, 3):
            others = [torch.full((2 * MIB,), 9, dtype=torch.uint8).to("cuda") for _ in range(8)]
            source.copy_(torch.full((2 * MIB,), value, dtype=torch.uint8))
            graph.replay()
            self.assertEqual(output.cpu().unique().tolist(), [value])
            for other in others:
                self.assertEqual(other.cpu().unique().tolist(), [9])
        del graph, output, others

    def test_its_memory_comes_back(self):
        gc.collect()
        torch.cuda.empty_cache()
        start = torch.cuda.memory_reserved()
        source = empty(8)
        for _ in range(3):
            graph, output = self.capture(source)
            graph.replay()
            del graph, output
        del source
        gc.collect()
        torch.cuda.empty_cache()
        # What lay there before may have gone too.
        self.assertLessEqual(torch.cuda.memory_reserved(), start)

    def test_two_graphs_share_a_pool(self):
        source = torch.full((MIB,), 5, dtype=torch.uint8).to("cuda")
        pool = torch.cuda.graph_pool_handle()
        first, one = self.capture(source, pool=pool)
        second, two = self.capture(source, pool=pool)
        first.replay()
        self.assertEqual(one.cpu().unique().tolist(), [5])
        second.replay()
        self.assertEqual(two.cpu().unique().tolist(), [5])
        del first, one
        second.replay()
        del second, two

    def test_allocations_beside_a_capture(self):
        # With the state of the random numbers, which comes from the default stream.
        graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        with torch.cuda.graph(graph, capture_error_mode="relaxed"):
            inside = empty(1)
            with torch.cuda.stream(side):
                outside = empty(1)
        self.assertNotEqual(inside.data_ptr(), outside.data_ptr())
        del graph, inside, outside

    def test_out_of_memory_in_a_capture(self):
        graph = torch.cuda.CUDAGraph()
        with self.assertRaises(torch.OutOfMemoryError):
            with torch.cuda.graph(graph):
                empty(600)
        del graph
        torch.cuda.synchronize()
        self.assertEqual(fill(empty(1)).cpu().sum(), 0)


class SleepAndWake(rig.Case):
    def test_addresses_and_bytes_stay(self):
        values = torch.arange(500000, dtype=torch.int32)
        tensor = values.to("cuda")
        address, reserved = tensor.data_ptr(), torch.cuda.memory_reserved()
        forebay.torch.sleep("backup")
        self.assertEqual(torch.cuda.memory_reserved(), 0)
        forebay.torch.wake()
        self.assertEqual(tensor.data_ptr(), address)
        self.assertTrue(torch.equal(tensor.cpu(), values))
        self.assertLessEqual(torch.cuda.memory_reserved(), reserved)
        forebay.torch.sleep("discard")
        gone = tensor
        del gone, tensor
        forebay.torch.wake()
        with self.assertRaisesRegex(forebay.ForebayError, "mode is 'deep'"):
            forebay.torch.sleep("deep")
        with self.assertRaises(forebay.ForebayError):
            forebay.torch.wake()

    def test_a_graph_is_replayed_after_it(self):
        source = torch.full((MIB,), 3, dtype=torch.uint8).to("cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = torch.empty_like(source)
            output.copy_(source)
        forebay.torch.sleep("backup", device=0)
        forebay.torch.wake(0)
        graph.replay()
        self.assertEqual(output.cpu().unique().tolist(), [3])
        del graph, output

    def test_trim(self):
        del_me = empty(64)
        del del_me
        self.assertGreater(forebay.torch.trim(), 0)


class Refused(rig.Case):
    """What no pluggable allocator has: an error that names the alternative."""

    def refused(self, call, *parts):
        with self.assertRaises(RuntimeError) as caught:
            call()
        for part in ("forebay", "Instead", "mode='pool'", *parts):
            self.assertIn(part, str(caught.exception))

    def test_each(self):
        self.refused(lambda: torch.cuda.MemPool(), "torch.cuda.MemPool")
        self.refused(lambda: empty(1).untyped_storage()._share_cuda_(), "another process")
        self.refused(lambda: torch._C._cuda_getCheckpointState(0, (0, 1)), "cudagraph_trees")
        self.refused(lambda: torch._C._cuda_checkPoolLiveAllocations(0, (0, 1), set()), "trees")

        def benchmark():
            torch.backends.cudnn.benchmark = True

        self.refused(benchmark, "cudnn.benchmark")
        torch.backends.cudnn.benchmark = False
        with self.assertRaisesRegex(forebay.ForebayError, "use mode='pool'"):
            forebay.torch.mem_pool()
        with self.assertRaisesRegex(forebay.ForebayError, "cannot be ended"):
            forebay.torch.disable()
        with self.assertRaisesRegex(forebay.ForebayError, "enabled in mode 'global' already"):
            forebay.torch.enable("pool")


if __name__ == "__main__":
    rig.main()
