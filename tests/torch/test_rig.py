"""The rig itself: PyTorch with the allocator that it comes with, on the simulated runtime and
driver. What fails here is no fault of forebay's."""

import ctypes
import gc
import threading
import unittest

import rig
import torch
from rig import MIB

CUDA_MAJOR = int(torch.version.cuda.split(".")[0])
#: Its capture begins with kernels that set the state of the random numbers.
CAPTURE_HAS_KERNELS = not hasattr(getattr(torch, "accelerator", None), "memory_stats")


def setUpModule():
    if not rig.SIMULATED:
        raise unittest.SkipTest("there is no rig to test: this is a GPU")


def empty(mib, device="cuda"):
    return torch.empty(mib * MIB, dtype=torch.uint8, device=device)


def runtime(name, *arguments):
    """Calls a function of the runtime by itself."""
    code = getattr(ctypes.CDLL(f"libcudart.so.{CUDA_MAJOR}"), name)(*arguments)
    if code:
        raise RuntimeError(f"{name}: {code}")


def advance(ns):
    """Lets the simulated devices work for that long."""
    ctypes.CDLL("libcuda.so.1").simAdvance(ctypes.c_uint64(ns))


class Devices(rig.Case):
    def test_there_are_two(self):
        self.assertTrue(torch.cuda.is_available())
        self.assertEqual(torch.cuda.device_count(), 2)
        self.assertTrue(torch.cuda.can_device_access_peer(0, 1))
        self.assertFalse(torch.cuda.can_device_access_peer(0, 0))

    def test_properties(self):
        for device in range(2):
            about = torch.cuda.get_device_properties(device)
            self.assertEqual(about.name, f"Simulated device {device}")
            self.assertEqual((about.major, about.minor), (9, 0))
            self.assertEqual(about.multi_processor_count, 132)
            self.assertEqual(about.max_threads_per_multi_processor, 2048)
            self.assertEqual(about.warp_size, 32)
            free, total = torch.cuda.mem_get_info(device)
            self.assertEqual(about.total_memory, total)
            self.assertLessEqual(free, total)
        self.assertEqual(torch.cuda.get_device_capability(), (9, 0))

    def test_a_thread_has_a_device_of_its_own(self):
        seen = []
        with torch.cuda.device(1):
            self.assertEqual(torch.cuda.current_device(), 1)
            thread = threading.Thread(target=lambda: seen.append(torch.cuda.current_device()))
            thread.start()
            thread.join()
            self.assertEqual(empty(1).device.index, 1)
        self.assertEqual((seen, torch.cuda.current_device()), ([0], 0))

    def test_without_one(self):
        rig.script(
            "import torch; assert not torch.cuda.is_available() and not torch.cuda.device_count()",
            SIM_CUDA_DEVICES="0",
        )


class Memory(rig.Case):
    def test_statistics(self):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        tensor = empty(30)
        self.assertEqual(torch.cuda.memory_allocated() - before, 30 * MIB)
        free, _ = torch.cuda.mem_get_info()
        del tensor
        self.assertEqual(torch.cuda.memory_allocated(), before)
        torch.cuda.empty_cache()
        self.assertEqual(torch.cuda.mem_get_info()[0] - free, 30 * MIB)
        self.assertIn("Allocated memory", torch.cuda.memory_summary())
        self.assertIsInstance(torch.cuda.memory_snapshot(), list)

    def test_out_of_memory_and_after(self):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_stats()["num_ooms"]
        many = []
        said = r"Tried to allocate (1\.00 G|1024\.00 M)iB"
        with self.assertRaisesRegex(torch.OutOfMemoryError, said):
            while True:
                many.append(empty(1024))
        self.assertGreater(len(many), 5)
        self.assertEqual(torch.cuda.memory_stats()["num_ooms"], before + 1)
        del many[-1]
        values = torch.arange(MIB, dtype=torch.int32)
        self.assertTrue(torch.equal(values.cuda().cpu(), values))
        del many
        torch.cuda.empty_cache()

    def test_a_pool_with_functions_of_python(self):
        def allocate(size, device, stream):
            at = ctypes.c_void_p()
            runtime("cudaMalloc", ctypes.byref(at), ctypes.c_size_t(size))
            seen.append(("allocate", size, device))
            return at.value

        def free(at, size, device, stream):
            runtime("cudaFree", ctypes.c_void_p(at))
            seen.append(("free", size, device))

        seen = []
        size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
        functions = (
            ctypes.CFUNCTYPE(pointer, size, number, pointer)(allocate),
            ctypes.CFUNCTYPE(None, pointer, size, number, pointer)(free),
        )
        addresses = [ctypes.cast(function, pointer).value for function in functions]
        allocator = torch._C._cuda_customAllocator(*addresses)
        pool = torch.cuda.MemPool(allocator)
        values = torch.arange(MIB)
        with torch.cuda.use_mem_pool(pool):
            tensor = torch.empty_like(values, device="cuda")
        tensor.copy_(values)
        self.assertTrue(torch.equal(tensor.cpu(), values))
        del tensor, pool
        gc.collect()
        torch.cuda.empty_cache()
        self.assertEqual([what for what, _, _ in seen], ["allocate", "free"])
        self.assertEqual(seen[0][1:], seen[1][1:])

    def test_other_backends(self):
        for backend in ("backend:cudaMallocAsync", "expandable_segments:True"):
            with self.subTest(backend):
                said, _ = rig.script(
                    """
                    import torch
                    values = torch.arange(3000000)
                    tensors = [values.cuda() for _ in range(4)]
                    side = torch.cuda.Stream()
                    side.wait_stream(torch.cuda.current_stream())
                    with torch.cuda.stream(side):
                        other = torch.empty_like(tensors[0]).copy_(tensors[0])
                    tensors[0].record_stream(side)
                    side.synchronize()
                    assert torch.equal(other.cpu(), values)
                    assert torch.equal(tensors[3].cpu(), values)
                    try:
                        torch.empty(1 << 40, device="cuda")
                    except torch.OutOfMemoryError:
                        print("out of memory")
                    del tensors
                    torch.cuda.synchronize()
                    torch.cuda.empty_cache()
                    import rig
                    assert rig.hazards() == 0
                    print(torch.cuda.get_allocator_backend())
                    """,
                    PYTORCH_CUDA_ALLOC_CONF=backend,
                    PYTORCH_ALLOC_CONF=backend,
                )
                name = "native" if "segments" in backend else "cudaMallocAsync"
                self.assertEqual(said.split("\n"), ["out of memory", name, ""])


class Copies(rig.Case):
    def test_both_ways(self):
        for count in (1, 77, 1000003):
            values = torch.arange(count, dtype=torch.float32)
            there = values.cuda()
            other = torch.empty_like(there)
            other.copy_(there)
            self.assertTrue(torch.equal(other.cpu(), values))

    def test_pinned_memory_is_copied_when_time_passes(self):
        values = torch.arange(MIB, dtype=torch.float32).pin_memory()
        self.assertTrue(values.is_pinned())
        side, back = torch.cuda.Stream(), torch.zeros(MIB).pin_memory()
        with torch.cuda.stream(side):
            there = values.to("cuda", non_blocking=True)
            back.copy_(there, non_blocking=True)
        self.assertFalse(side.query())
        self.assertEqual(back.count_nonzero(), 0)
        advance(10**9)
        self.assertTrue(side.query())
        self.assertTrue(torch.equal(back, values))

    def test_between_devices(self):
        values = torch.arange(100000)
        there = values.to("cuda:1")
        here = there.to("cuda:0")
        self.assertEqual((there.device.index, here.device.index), (1, 0))
        self.assertTrue(torch.equal(here.cpu(), values))

    def test_sets(self):
        tensor = torch.arange(MIB, dtype=torch.uint8).cuda()
        at, half = ctypes.c_void_p(tensor.data_ptr()), ctypes.c_size_t(MIB // 2)
        runtime("cudaMemset", at, 7, half)
        torch.cuda.synchronize()
        expected = torch.arange(MIB, dtype=torch.uint8)
        expected[: MIB // 2] = 7
        self.assertTrue(torch.equal(tensor.cpu(), expected))


class Streams(rig.Case):
    def setUp(self):
        self.values = torch.arange(MIB, dtype=torch.float32).pin_memory()
        self.side = torch.cuda.Stream()

    def test_events(self):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record(self.side)
        with torch.cuda.stream(self.side):
            there = self.values.to("cuda", non_blocking=True)
        last.record(self.side)
        self.assertFalse(last.query())
        last.synchronize()
        self.assertTrue(last.query())
        # 25 bytes a nanosecond.
        self.assertAlmostEqual(first.elapsed_time(last), 4 * MIB / 25e6, places=3)
        self.assertTrue(torch.equal(there.cpu(), self.values))

    def test_priorities(self):
        self.assertEqual(torch.cuda.Stream(priority=-1).priority, -1)
        self.assertEqual(self.side.priority, 0)

    def test_a_recorded_stream_keeps_the_memory(self):
        torch.cuda.empty_cache()
        tensor, back = self.values.cuda(), torch.empty(MIB).pin_memory()
        at = tensor.data_ptr()
        self.side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.side):
            back.copy_(tensor, non_blocking=True)
        tensor.record_stream(self.side)
        del tensor
        other = torch.empty(MIB, device="cuda")
        self.assertNotEqual(other.data_ptr(), at)
        other.copy_(self.values, non_blocking=True)
        self.side.synchronize()
        again = torch.empty(MIB, device="cuda")
        self.assertEqual(again.data_ptr(), at)
        self.assertTrue(torch.equal(back, self.values))

    def test_without_it_the_rig_finds_the_hazard(self):
        _, errors = rig.script(
            """
            import rig, torch
            values, back = (torch.zeros(1 << 20).pin_memory() for _ in range(2))
            tensor, side = values.cuda(), torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                back.copy_(tensor, non_blocking=True)
            at = tensor.data_ptr()
            del tensor
            other = torch.empty(1 << 20, device="cuda")
            assert other.data_ptr() == at
            assert rig.hazards() == 0
            other.copy_(values, non_blocking=True)
            assert rig.hazards() == 1
            """
        )
        self.assertIn("no order between two accesses", errors)


class Kernels(unittest.TestCase):
    def test_they_are_refused_by_default(self):
        said, errors = rig.script(
            """
            import torch
            tensor = torch.arange(100).cuda()
            try:
                tensor + 1
            except RuntimeError as error:
                print(str(error).split("\\n")[0])
            assert torch.equal(tensor.cpu(), torch.arange(100))
            """,
            SIM_CUDART_LOG="1",
            SIM_CUDART_KERNELS="refuse",
        )
        self.assertEqual(said, "CUDA error: the simulated CUDA runtime does not do this\n")
        self.assertEqual(errors.count("sim_cudart: a kernel"), 1)

    def test_they_can_be_skipped(self):
        rig.script(
            """
            import torch
            tensor = torch.arange(100).cuda()
            torch.cuda.synchronize()
            (tensor + 1) * 2
            assert not torch.cuda.current_stream().query()
            torch.cuda.synchronize()
            """,
            SIM_CUDART_KERNELS="skip",
        )


class Graphs(unittest.TestCase):
    def test_a_capture_and_its_runs(self):
        kernels = "skip" if CAPTURE_HAS_KERNELS else "refuse"
        rig.script(
            """
            import torch, warnings
            warnings.simplefilter("error")
            source = torch.zeros(1 << 20).cuda()
            result = torch.zeros(1 << 20).cuda()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                between = torch.empty(1 << 20, device="cuda")
                between.copy_(source)
                result.copy_(between)
            assert result.cpu().count_nonzero() == 0, "nothing has run"
            for factor in range(1, 4):
                values = torch.arange(1 << 20, dtype=torch.float32) * factor
                source.copy_(values)
                graph.replay()
                assert torch.equal(result.cpu(), values)
                assert torch.equal(between.cpu(), values)
            graph.reset()
            import rig
            assert rig.hazards() == 0
            """,
            SIM_CUDART_KERNELS=kernels,
        )

    def test_an_allocation_outside_of_the_pool_is_not_captured(self):
        said, _ = rig.script(
            """
            import ctypes, torch
            lib = ctypes.CDLL(f"libcudart.so.{torch.version.cuda.split('.')[0]}")
            empty = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(empty):
                    print(lib.cudaMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(512)))
            except RuntimeError as error:
                print("failed")
            print(torch.arange(3).cuda().cpu().tolist())
            """,
            SIM_CUDART_KERNELS="skip",
        )
        self.assertEqual(said.split("\n"), ["900", "failed", "[0, 1, 2]", ""])


class Threads(rig.Case):
    def test_eight_at_once(self):
        failures = []

        def work(number):
            device, values = f"cuda:{number % 2}", torch.full((50000,), float(number))
            stream = torch.cuda.Stream(device)
            try:
                with torch.cuda.stream(stream):
                    for _ in range(50):
                        tensor = torch.empty(50000, device=device)
                        tensor.copy_(values)
                        if not torch.equal(tensor.cpu(), values):
                            failures.append(number)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_a_backward_pass_allocates_on_its_own(self):
        class Copy(torch.autograd.Function):
            @staticmethod
            def forward(context, tensor):
                return torch.empty_like(tensor).copy_(tensor)

            @staticmethod
            def backward(context, gradient):
                threads.append(threading.get_native_id())
                return torch.empty_like(gradient).copy_(gradient)

        threads = []
        for device in ("cuda:0", "cuda:1"):
            tensor = torch.empty(1000, device=device, requires_grad=True)
            values = torch.arange(1000, dtype=torch.float32)
            Copy.apply(tensor).backward(values.to(device))
            self.assertTrue(torch.equal(tensor.grad.cpu(), values))
        self.assertNotIn(threading.get_native_id(), threads)
        self.assertEqual(len(set(threads)), 2)


class End(unittest.TestCase):
    def test_it_is_clean(self):
        for text in (
            "torch.cuda.init()",
            "kept = torch.empty(1000, device='cuda')",
            "torch.cuda.kept = torch.arange(1000).cuda(), torch.cuda.Stream(), torch.cuda.Event()",
            "import os; kept = torch.empty(1000, device='cuda:1'); os._exit(0)",
        ):
            with self.subTest(text):
                _, errors = rig.script(f"import torch; {text}")
                self.assertEqual(errors, "")


if __name__ == "__main__":
    rig.main()
