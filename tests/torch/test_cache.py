"""TensorCache on a GPU: PyTorch's tensors in forebay's pool."""

import gc
import os

import rig
import torch
from rig import MIB

import forebay.torch
from forebay.cache import TensorCache

os.environ["FOREBAY_TORCH_LIMIT"] = "256MiB"
forebay.torch.enable()


def values(number, dtype=torch.float32):
    return torch.full((1000,), number, dtype=dtype)


class Cache(rig.Case):
    def test_tensors_come_back(self):
        cache = TensorCache(device="cuda")
        for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
            cache.add(values(1, dtype).to("cuda"))
            found = cache.get((1000,), dtype)
            self.assertEqual((found.dtype, found.device.type), (dtype, "cuda"))
            self.assertTrue(torch.equal(found.cpu(), values(1, dtype)))
        self.assertIsNone(cache.get((999,), torch.float32))
        self.assertIsNotNone(cache.get(1000, "float32"))
        # From the host too.
        cache.add(values(5))
        self.assertEqual(cache.get(1000, "float32").cpu().unique().tolist(), [5.0])

    def test_take_and_put(self):
        cache = TensorCache(device="cuda")
        cache.add(values(1))
        mine = cache.take(1000, torch.float32)
        self.assertIsNone(cache.get(1000, torch.float32))
        mine.copy_(values(2))
        address = mine.data_ptr()
        cache.put(mine)
        del mine
        found = cache.get(1000, torch.float32)
        self.assertEqual(found.data_ptr(), address)
        self.assertEqual(found.cpu().unique().tolist(), [2.0])
        taken = None
        del found
        gc.collect()
        live = torch.cuda.memory_stats()["allocation.all.current"]
        taken = cache.take(1000, torch.float32)
        del taken
        gc.collect()
        self.assertEqual(cache.get_stats()["size"], 0)
        self.assertEqual(torch.cuda.memory_stats()["allocation.all.current"], live)

    def test_entries_give_way_to_tensors(self):
        cache = TensorCache(device="cuda")
        for number in range(6):
            cache.add(torch.zeros(32 * MIB, dtype=torch.uint8))
        pinned = cache.get(32 * MIB, torch.uint8)
        # There is room for it without what nobody reads.
        large = torch.empty(200 * MIB, dtype=torch.uint8, device="cuda")
        stats = cache.get_stats()
        self.assertGreater(stats["pressed"], 0)
        self.assertEqual(stats["pinned_entries"], 1)
        self.assertEqual(pinned.cpu().sum(), 0)
        del large, pinned

    def test_reads_are_in_order_on_other_streams(self):
        cache = TensorCache(device="cuda", max_size=1)
        first, second = torch.cuda.Stream(), torch.cuda.Stream()
        target = torch.empty(4 * MIB, dtype=torch.uint8).pin_memory()
        source = torch.full((4 * MIB,), 3, dtype=torch.uint8).pin_memory()
        with torch.cuda.stream(first):
            cache.add(source.to("cuda", non_blocking=True))
        with torch.cuda.stream(second):
            found = cache.get(4 * MIB, torch.uint8)
            target.copy_(found, non_blocking=True)
            del found
        # It leaves, and its memory is used again, while the copy may still read it.
        with torch.cuda.stream(first):
            cache.clear()
            other = torch.empty(4 * MIB, dtype=torch.uint8, device="cuda")
            other.copy_(torch.zeros(4 * MIB, dtype=torch.uint8).pin_memory(), non_blocking=True)
        torch.cuda.synchronize()
        self.assertEqual(target.unique().tolist(), [3])

    def test_wrong_device(self):
        if torch.cuda.device_count() > 1:
            cache = TensorCache(device="cuda:0")
            with self.assertRaisesRegex(ValueError, "tensor is on cuda:1"):
                cache.add(torch.empty(10, device="cuda:1"))


if __name__ == "__main__":
    rig.main()
