"""Mode "pool": PyTorch's own allocator on segments of forebay's."""

import gc
import os
import unittest

import rig
import torch
from rig import MIB

import forebay
import forebay.torch

os.environ["FOREBAY_TORCH_MODE"] = "pool"
os.environ["SIM_CUDART_KERNELS"] = "skip"
ROUTES = forebay.torch._enable.can_route(torch)
if ROUTES:
    forebay.torch.enable(limit=512 * MIB)


def empty(mib):
    return torch.empty(int(mib * MIB), dtype=torch.uint8, device="cuda")


@unittest.skipUnless(ROUTES, "this PyTorch cannot route all threads to a pool")
class Pool(rig.Case):
    def test_everything_of_pytorch_is_there(self):
        self.assertEqual(torch.cuda.get_allocator_backend(), "native")
        self.assertEqual(forebay.torch.mode(), "pool")
        forebay.torch.enable()
        values = torch.arange(3000000, dtype=torch.int32)
        tensor = values.to("cuda")
        self.assertTrue(torch.equal(tensor.cpu(), values))
        # Its numbers, and forebay's of its segments.
        self.assertGreaterEqual(torch.cuda.memory_allocated(), 12 * 10**6)
        numbers = forebay.torch.memory_stats()
        self.assertGreaterEqual(numbers["allocated_bytes.all.current"], 12 * 10**6)
        self.assertGreaterEqual(torch.cuda.memory_reserved(),
                                numbers["requested_bytes.all.current"])
        address = tensor.data_ptr()
        stretches = forebay.torch.memory_snapshot()
        self.assertTrue(any(stretch["address"] <= address < stretch["address"] + stretch["total_size"]
                            for stretch in stretches))
        torch.cuda.memory._record_memory_history(max_entries=100)
        empty(1)
        self.assertTrue(torch.cuda.memory._snapshot()["device_traces"][0])
        torch.cuda.memory._record_memory_history(None)
        with self.assertRaisesRegex(forebay.ForebayError, "PyTorch's own"):
            forebay.torch.record_memory_history()

    @unittest.skipIf(torch.cuda.device_count() < 2, "there is one device")
    def test_both_devices(self):
        values = torch.arange(10000)
        self.assertTrue(torch.equal(values.to("cuda:1").cpu(), values))
        self.assertGreater(forebay.torch.memory_stats(1)["allocation.all.current"], 0)

    def test_out_of_memory_is_pytorch_s(self):
        before = torch.cuda.memory_stats()["num_ooms"]
        with self.assertRaises(torch.OutOfMemoryError) as caught:
            empty(600)
        self.assertIn("Tried to allocate 600.00 MiB", str(caught.exception))
        self.assertEqual(torch.cuda.memory_stats()["num_ooms"], before + 1)
        self.assertEqual(empty(1).numel(), MIB)

    def test_on_the_threads_of_autograd(self):
        class Greedy(torch.autograd.Function):
            @staticmethod
            def forward(context, value):
                return value

            @staticmethod
            def backward(context, gradient):
                return empty(600).float()

        with self.assertRaises(torch.OutOfMemoryError):
            value = torch.empty(10, device="cuda", requires_grad=True)
            Greedy.apply(value).backward(torch.empty(10, device="cuda"))

    def test_streams_and_threads(self):
        def work(number):
            values = torch.full((100000,), number, dtype=torch.int32)
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(20):
                    tensor = values.to("cuda", non_blocking=True)
                    tensor.record_stream(torch.cuda.default_stream())
                stream.synchronize()
                assert torch.equal(tensor.cpu(), values)

        self.assertEqual(rig.on_threads(8, work), [])

    def test_graphs(self):
        source = torch.full((3 * MIB,), 3, dtype=torch.uint8).to("cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = torch.empty_like(source)
            output.copy_(source)
        for _ in range(3):
            other = torch.full((3 * MIB,), 9, dtype=torch.uint8).to("cuda")
            graph.replay()
            self.assertEqual(output.cpu().unique().tolist(), [3])
            self.assertEqual(other.cpu().unique().tolist(), [9])
        del graph, output
        gc.collect()
        torch.cuda.synchronize()

    def test_sleep_and_wake(self):
        values = torch.arange(500000, dtype=torch.int32)
        tensor = values.to("cuda")
        address = tensor.data_ptr()
        forebay.torch.sleep("backup")
        self.assertEqual(forebay.torch.memory_stats()["reserved_bytes.all.current"], 0)
        forebay.torch.wake()
        self.assertEqual(tensor.data_ptr(), address)
        self.assertTrue(torch.equal(tensor.cpu(), values))


class OnePool(rig.Case):
    def test_a_mem_pool_of_one_s_own(self):
        rig.script(
            """
            import gc, torch, forebay.torch
            pool = forebay.torch.mem_pool()
            before = torch.empty(30 << 20, dtype=torch.uint8, device="cuda")
            with torch.cuda.use_mem_pool(pool):
                inside = torch.empty(30 << 20, dtype=torch.uint8, device="cuda")
            numbers = forebay.torch.memory_stats()
            assert numbers["requested_bytes.all.current"] == 30 << 20, numbers
            assert forebay.torch.mode() is None
            # PyTorch gives segments back when the pool is gone.
            del inside, pool
            gc.collect()
            torch.cuda.empty_cache()
            assert forebay.torch.memory_stats()["allocation.all.current"] == 0
            """
        )

    @unittest.skipIf(ROUTES, "this PyTorch can")
    def test_an_older_pytorch(self):
        with self.assertRaisesRegex(forebay.ForebayError, "mode='pool' needs 2.8"):
            forebay.torch.enable("pool")
        self.assertIsNone(forebay.torch.mode())

    @unittest.skipUnless(ROUTES, "this PyTorch cannot route all threads to a pool")
    def test_it_ends(self):
        rig.script(
            """
            import torch, forebay.torch
            forebay.torch.enable("pool")
            inside = torch.empty(30 << 20, dtype=torch.uint8, device="cuda")
            forebay.torch.disable()
            forebay.torch.disable()
            count = forebay.torch.memory_stats()["allocation.all.current"]
            outside = torch.empty(300 << 20, dtype=torch.uint8, device="cuda")
            assert forebay.torch.memory_stats()["allocation.all.current"] == count > 0
            forebay.torch.enable("pool")
            again = torch.empty(200 << 20, dtype=torch.uint8, device="cuda")
            assert forebay.torch.memory_stats()["allocation.all.current"] > count
            """
        )


if __name__ == "__main__":
    rig.main()
