"""Prefetcher and DoubleBuffer with PyTorch: tensors on a GPU, DataLoader, and what others do."""

import numpy
import rig
import torch
from rig import Case, hazards, needs_the_checker

from forebay.prefetch import DoubleBuffer, Prefetcher

DEVICE = "cuda:0"


class Samples(torch.utils.data.Dataset):
    """Samples that tell which they are."""

    def __len__(self):
        return 45

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {
            "image": torch.rand(3, 17, 5, generator=generator),
            "label": index,
            "half": torch.full((4,), index, dtype=torch.bfloat16),
            "name": f"sample {index}",
        }


def same(one, other):
    return one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())


class Prefetch(Case):
    def test_the_same_batches_as_the_loader(self):
        loader = torch.utils.data.DataLoader(Samples(), batch_size=4)
        plain = list(loader)
        for lookahead in (0, 1, 2, 5):
            wrapped = Prefetcher(lookahead=lookahead, device=DEVICE).wrap(loader)
            self.assertEqual(len(wrapped), len(loader))
            self.assertIs(wrapped.dataset, loader.dataset)
            for _ in range(2):
                count = 0
                for expected, got in zip(plain, wrapped):
                    for key in ("image", "label", "half"):
                        self.assertEqual(got[key].device.type, "cuda")
                        self.assertTrue(same(got[key], expected[key]), key)
                    self.assertEqual(got["name"], expected["name"])
                    count += 1
                self.assertEqual(count, 12)
            stats = wrapped.stats()
            self.assertEqual(stats["sends"], stats["submitted"])
            self.assertEqual(stats["peak_pinned_bytes"], (lookahead + 1) * (2 << 20))
            wrapped.close()

    def test_on_the_cpu_tensors_stay_tensors(self):
        loader = torch.utils.data.DataLoader(Samples(), batch_size=4)
        count = 0
        for expected, got in zip(loader, Prefetcher(device="cpu").wrap(loader)):
            self.assertTrue(same(got["image"], expected["image"]))
            self.assertTrue(same(got["half"], expected["half"]))
            self.assertFalse(got["image"].is_cuda)
            count += 1
        self.assertEqual(count, 12)

    def test_beside_the_patterns_of_others(self):
        # A stream of one's own and record_stream, as apex and timm have it.
        batches = [torch.rand(64, 33) for _ in range(20)]

        def on_a_side_stream():
            side, ahead = torch.cuda.Stream(), None
            for batch in batches:
                with torch.cuda.stream(side):
                    following = batch.pin_memory().to(DEVICE, non_blocking=True)
                if ahead is not None:
                    yield ahead
                torch.cuda.current_stream().wait_stream(side)
                following.record_stream(torch.cuda.current_stream())
                ahead = following
            yield ahead

        ours = Prefetcher(device=DEVICE).wrap(batches)
        for expected, theirs, got in zip(batches, on_a_side_stream(), ours):
            self.assertTrue(same(theirs, expected) and same(got, expected))
        ours.close()

    def test_a_step_reads_what_it_was_given(self):
        # Copies to the host that are queued and not waited for: a slot that is used again too early
        # shows in them.
        batches = [torch.full((1000,), float(number)) for number in range(40)]
        for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
            loader = Prefetcher(device=DEVICE).wrap(batches)
            seen = []
            with torch.cuda.stream(stream):
                for batch in loader:
                    seen.append(torch.empty(1000).pin_memory().copy_(batch, non_blocking=True))
            stream.synchronize()
            self.assertEqual([one.unique().tolist() for one in seen], [[float(n)] for n in range(40)])
            self.assertEqual(loader.stats()["copies_per_byte"], 1)
            loader.close()

    def test_arrays_become_tensors(self):
        (got,) = Prefetcher(device=DEVICE, copy=True).wrap([{"x": numpy.arange(6).reshape(2, 3)}])
        self.assertEqual((got["x"].tolist(), got["x"].dtype), ([[0, 1, 2], [3, 4, 5]], torch.int64))
        # What PyTorch has no type for stays what it is, and where it is.
        batch = [numpy.zeros(3, [("a", "i4")]), numpy.ones(3, ">f4"), numpy.array(["name"])]
        loader = Prefetcher(device=DEVICE).wrap([batch])
        (got,) = loader
        self.assertTrue(all(one is other for one, other in zip(got, batch)))
        self.assertEqual(loader.stats()["passed_through"], 3)

    def test_every_kind_of_tensor(self):
        values = torch.arange(12.0).to(torch.complex64).reshape(3, 4) * 1j
        on_a_gpu = torch.ones(3).to(DEVICE)
        sparse = torch.eye(3).to_sparse()
        for device in ("cpu", DEVICE):
            loader = Prefetcher(device=device, copy=True).wrap(
                [
                    [
                        values + number, (values + number).conj(), values.conj().imag, values.T,
                        torch.nn.Parameter(torch.full((3,), float(number))), torch.tensor(number),
                        torch.empty(0, 3), torch.tensor([True, False]), torch.ones(2).expand(5, 2),
                        on_a_gpu, sparse,
                    ]
                    for number in range(3)
                ]
            )
            for number, got in enumerate(loader):
                self.assertTrue(all(one.device.type == torch.device(device).type for one in got[:9]))
                self.assertTrue(same(got[0], values + number))
                self.assertTrue(same(got[1], (values + number).conj().resolve_conj()))
                self.assertTrue(same(got[2], values.conj().imag.resolve_neg()))
                self.assertTrue(same(got[3], values.T))
                self.assertEqual(got[4].tolist(), [number] * 3)
                self.assertEqual((got[5].shape, int(got[5])), ((), number))
                self.assertEqual((got[6].shape, got[7].tolist()), ((0, 3), [True, False]))
                self.assertTrue(same(got[8], torch.ones(5, 2)))
                # On the device already, or without a place in a slot: as they are, and counted.
                self.assertIs(got[9], on_a_gpu)
                self.assertIs(got[10], sparse)
            self.assertEqual(loader.stats()["passed_through"], 2 * 3)

    def test_batches_of_a_validation_and_of_a_training_in_turns(self):
        # What is made in inference mode is of no use for gradients, and slots are made there first.
        for device in ("cpu", DEVICE):
            loader = Prefetcher(device=device).wrap([torch.ones(2, 2)] * 2)
            with torch.inference_mode():
                self.assertEqual(sum(1 for _ in loader), 2)
            weight = torch.ones(2, 2, requires_grad=True)
            for batch in loader:
                self.assertFalse(batch.is_inference())
                if device == "cpu":
                    (batch * weight).sum().backward()
                    self.assertEqual(weight.grad.unique().numel(), 1)
            loader.close()

    def test_without_pinned_memory(self):
        loader = Prefetcher(device=DEVICE, pin_memory=False).wrap([torch.ones(1000)] * 5)
        for batch in loader:
            self.assertEqual(batch.cpu().unique().tolist(), [1])
        stats = loader.stats()
        self.assertEqual((stats["peak_pinned_bytes"], stats["pageable_bytes"]), (0, 3 * (2 << 20)))
        loader.close()

    def test_double_buffer(self):
        buffer = DoubleBuffer(buffer_size=(8, 3, 5), dtype=torch.float32, device=DEVICE)
        self.assertEqual(float(buffer.get_current().cpu().sum()), 0)
        seen = []
        for number in range(1, 9):
            current = buffer.get_current()
            buffer.prefetch_next(torch.full((8, 3, 5), float(number)))
            seen.append(torch.empty(8, 3, 5).pin_memory().copy_(current, non_blocking=True))
            buffer.swap()
        torch.cuda.synchronize()
        self.assertEqual([one.unique().tolist() for one in seen], [[float(n)] for n in range(1, 9)])
        data = [torch.full((8, 3, 5), float(number)) for number in range(5)] + [torch.ones(2, 3, 5)]
        seen = [(len(got), got.cpu().unique().tolist()) for got in buffer.iterate(data)]
        self.assertEqual(seen, [(8, [n]) for n in range(5)] + [(2, [1])])
        buffer.close()

    @needs_the_checker
    def test_a_batch_that_is_used_too_late_is_found(self):
        loader = Prefetcher(lookahead=1, device=DEVICE).wrap([torch.ones(1000)] * 6)
        side, target = torch.cuda.Stream(), torch.empty(1000).pin_memory()
        for batch in loader:
            # Work on a stream that the prefetcher is not told of.
            with torch.cuda.stream(side):
                target.copy_(batch, non_blocking=True)
        torch.cuda.synchronize()
        loader.close()
        self.assertGreater(hazards(), 0)


if __name__ == "__main__":
    rig.main()
