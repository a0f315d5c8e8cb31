"""MemoryPool and MemoryManager on a GPU: PyTorch's tensors over a pool of their own."""

import unittest
import warnings

import numpy as np
import torch
from rig import MIB, Case

import forebay
from forebay.manager import MemoryManager
from forebay.memory_pool import CPUMemoryPool, GPUMemoryPool, MemoryPool, OutOfMemory


class Pool(Case):
    def setUp(self):
        self.pool = MemoryPool(pool_size=64 * MIB, device="cuda", strict_device=True)

    def test_a_tensor_is_pytorchs_and_its_memory_the_pools(self):
        tensor = self.pool.allocate(shape=(64, 1024), dtype=torch.float32)
        self.assertIsInstance(tensor, torch.Tensor)
        self.assertEqual((tensor.device, tensor.dtype), (torch.device("cuda", 0), torch.float32))
        self.assertEqual(tuple(tensor.shape), (64, 1024))
        found = self.pool.pool.report()["largest_live_blocks"]
        self.assertEqual(found, [{"address": tensor.data_ptr(), "requested_bytes": 262144}])
        self.assertEqual(self.pool.get_stats()["limit_bytes"], 64 * MIB)
        self.assertTrue(self.pool.free(tensor))
        self.assertFalse(self.pool.free(tensor))
        self.assertEqual(self.pool.get_stats()["invalid_frees"], 1)

    def test_every_way_of_naming_a_dtype(self):
        for dtype, expected in (
            (np.float32, torch.float32),
            ("int16", torch.int16),
            (np.dtype("float64"), torch.float64),
            ("bfloat16", torch.bfloat16),
            (torch.bfloat16, torch.bfloat16),
            (bool, torch.bool),
        ):
            self.assertEqual(self.pool.allocate((4,), dtype).dtype, expected)
        with self.assertRaises(TypeError):
            self.pool.allocate((4,), "U3")

    def test_values_go_there_and_back(self):
        tensor = self.pool.allocate((3, 4), "float32")
        values = np.random.rand(3, 4)
        tensor[:] = values
        self.assertTrue(np.array_equal(tensor.copy(), values.astype(np.float32)))
        self.assertEqual(np.asarray(tensor).shape, (3, 4))
        # What comes of it is plain.
        self.assertIs(type(tensor.cpu()), torch.Tensor)
        self.assertIs(type(tensor[1:]), torch.Tensor)

    def test_dropped_tensors_go_back_with_their_last_view(self):
        tensor = self.pool.allocate((1000,))
        part = tensor[500:].view(torch.int32)
        del tensor
        self.assertEqual(self.pool.get_stats()["live_allocations"], 1)
        del part
        stats = self.pool.get_stats()
        self.assertEqual((stats["live_allocations"], stats["finalized_frees"]), (0, 1))

    def test_a_block(self):
        pool = GPUMemoryPool(max_size=64 * MIB)
        block = pool.allocate(MIB)
        self.assertEqual((block.size, tuple(block.data.shape)), (MIB, (MIB,)))
        self.assertEqual(block.data.data_ptr(), block.pointer)
        self.assertGreaterEqual(block.capacity, MIB)
        self.assertEqual(block.view((4, 4), "float16").dtype, torch.float16)
        with self.assertRaises(ValueError):
            block.view((MIB,), "float32")
        self.assertTrue(pool.free(block))
        self.assertEqual((block.data, pool.free(block)), (None, False))

    def test_dlpack(self):
        tensor = self.pool.allocate((8,), "int32")
        other = torch.from_dlpack(tensor)
        self.assertEqual(other.data_ptr(), tensor.data_ptr())
        del tensor
        self.assertEqual(self.pool.get_stats()["live_allocations"], 1)
        del other
        self.assertEqual(self.pool.get_stats()["live_allocations"], 0)

    def test_memory_is_used_again_in_stream_order(self):
        side = torch.cuda.Stream()
        for _ in range(20):
            with torch.cuda.stream(side):
                first = self.pool.allocate((MIB,), "uint8")
                first.copy_(torch.zeros(MIB, dtype=torch.uint8), non_blocking=True)
                # On the stream that is current: its work comes first.
                self.pool.free(first)
            second = self.pool.allocate((MIB,), "uint8")
            second.copy_(torch.ones(MIB, dtype=torch.uint8), non_blocking=True)
            del second

    def test_a_stream_that_is_recorded(self):
        side = torch.cuda.Stream()
        for _ in range(20):
            tensor = self.pool.allocate((MIB,), "uint8")
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                tensor.copy_(torch.zeros(MIB, dtype=torch.uint8), non_blocking=True)
            self.pool.record_stream(tensor, side.cuda_stream)
            del tensor
            other = self.pool.allocate((MIB,), "uint8")
            other.copy_(torch.ones(MIB, dtype=torch.uint8), non_blocking=True)
            del other
        with self.assertRaises(forebay.ForebayError):
            self.pool.record_stream(torch.empty(3, device="cuda"), side.cuda_stream)

    def test_no_memory(self):
        held = self.pool.allocate((40 * MIB,), "uint8")
        self.assertIsNone(self.pool.allocate((40 * MIB,), "uint8"))
        self.assertIn("limit", self.pool.last_error)
        strict = MemoryPool(8 * MIB, device="cuda:0", strict=True)
        with self.assertRaises(OutOfMemory):
            strict.allocate((16 * MIB,), "uint8")
        del held

    def test_another_pools_tensor(self):
        other = CPUMemoryPool(4 * MIB).allocate((4,), torch.float32)
        self.assertFalse(self.pool.free(other))
        self.assertFalse(self.pool.free(torch.empty(3, device="cuda")))

    def test_no_such_device(self):
        with self.assertRaises(forebay.ForebayError):
            MemoryPool(4 * MIB, device="cuda:77", strict_device=True)


class Manager(Case):
    def test_the_gpu_is_preferred_and_the_host_has_what_it_has_no_room_for(self):
        manager = MemoryManager(max_gpu_bytes=8 * MIB)
        first = manager.allocate_tensor((4 * MIB,), np.uint8)
        self.assertTrue(first.is_cuda)
        second = manager.allocate_tensor((8 * MIB,), np.uint8)
        self.assertIsInstance(second, np.ndarray)
        third = manager.allocate_tensor((4,), np.uint8, prefer_gpu=False)
        self.assertIsInstance(third, np.ndarray)
        stats = manager.get_statistics()
        self.assertEqual(stats["gpu_pool"]["current_usage"], 4 * MIB)
        self.assertEqual(stats["cpu_pool"]["current_usage"], 8 * MIB + 4)
        self.assertEqual(stats["policy_effects"]["fallbacks"], 1)
        for tensor in (first, second, third):
            self.assertTrue(manager.free_tensor(tensor))
            self.assertFalse(manager.free_tensor(tensor))

    def test_quality_first_says_that_it_is_not_on_the_gpu(self):
        manager = MemoryManager("quality_first", max_gpu_bytes=8 * MIB)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            first = manager.allocate_tensor((4 * MIB,), np.uint8)
        self.assertFalse(first.copy().any())
        with self.assertWarns(RuntimeWarning):
            manager.allocate_tensor((8 * MIB,), np.uint8)


if __name__ == "__main__":
    unittest.main()
