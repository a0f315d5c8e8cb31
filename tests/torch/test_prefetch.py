"""Prefetcher and DoubleBuffer with PyTorch: tensors on a GPU, DataLoader, and what others do."""

import gc
import warnings
import weakref

import forebay.memory
import left
import numpy
import rig
import torch
from rig import Case, hazards, needs_the_checker

from forebay._library import pool_statistics
from forebay.prefetch import DoubleBuffer, Prefetcher
from forebay.torch._pool import pool_of

DEVICE = "cuda:0"

# A test below looks at how resident memory grows.
left.one_arena()


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


def pairs(workers=0):
    """A DataLoader of pairs in an order of its own, the same each time."""
    data = torch.utils.data.TensorDataset(
        torch.rand(45, 3, 17, 5, generator=torch.Generator().manual_seed(1)), torch.arange(45)
    )
    return torch.utils.data.DataLoader(
        data, batch_size=4, shuffle=True, num_workers=workers, pin_memory=False,
        generator=torch.Generator().manual_seed(7),
    )


def as_apex_does(loader):
    """What the prefetcher of apex's examples is documented to do, without the normalization: the next
    batch is loaded and sent on a stream of its own before the last one is given out."""
    source, side, ahead = iter(loader), torch.cuda.Stream(), None

    def preload():
        following = next(source, None)
        if following is None:
            return None
        with torch.cuda.stream(side):
            return [part.to(DEVICE, non_blocking=True) for part in following]

    ahead = preload()
    while ahead is not None:
        torch.cuda.current_stream().wait_stream(side)
        batch = ahead
        for part in batch:
            part.record_stream(torch.cuda.current_stream())
        ahead = preload()
        yield batch


def as_timm_does(loader):
    """What timm's prefetching loader is documented to do, without the normalization: a batch is given
    out once the next one has been sent on a stream of its own."""
    side, batch = torch.cuda.Stream(), None
    for following in loader:
        with torch.cuda.stream(side):
            following = [part.to(DEVICE, non_blocking=True) for part in following]
        if batch is not None:
            yield batch
        torch.cuda.current_stream().wait_stream(side)
        batch = following
    if batch is not None:
        yield batch


def breaking(batches):
    """Batches up to the one that is None, which is an error."""
    for batch in batches:
        if batch is None:
            raise RuntimeError("a file is broken")
        yield batch


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
        plain = list(pairs())
        self.assertEqual(len(plain), 12)
        for workers in (0, 2):
            for device in ("cpu", DEVICE):
                ours = Prefetcher(device=device).wrap(pairs(workers))
                count = 0
                for expected, *others in zip(
                    plain, pairs(workers), as_apex_does(pairs(workers)), as_timm_does(pairs(workers)), ours
                ):
                    for got in others:
                        self.assertEqual(len(got), 2)
                        self.assertTrue(same(got[0], expected[0]) and same(got[1], expected[1]))
                    self.assertEqual(others[-1][0].device.type, torch.device(device).type)
                    count += 1
                self.assertEqual(count, 12)
                ours.close()

    def test_a_loader_that_breaks_beside_the_patterns_of_others(self):
        # A batch that is loaded ahead of its turn breaks there, in theirs: ours gives what was before.
        broken = [(torch.ones(3), torch.ones(1))] * 3 + [None]
        delivered = {}
        for name, pattern in (
            ("apex", as_apex_does),
            ("timm", as_timm_does),
            ("ours", Prefetcher(device=DEVICE).wrap),
        ):
            delivered[name] = 0
            with self.assertRaises(RuntimeError):
                for _ in pattern(breaking(broken)):
                    delivered[name] += 1
        self.assertEqual(delivered, {"apex": 2, "timm": 2, "ours": 3})

    def test_200_epochs_left_early_leave_nothing(self):
        batches = [torch.full((5000,), number, dtype=torch.uint8) for number in range(9)]
        pool = pool_of(0)
        live, resident, before = pool_statistics(pool).live_blocks, [], None
        again = Prefetcher(lookahead=1, device=DEVICE).wrap(batches)
        for epoch in range(200):
            lookahead = epoch % 4
            loader = Prefetcher(lookahead=lookahead, device=DEVICE).wrap(batches)
            for one in (loader, again):
                for number, batch in enumerate(one):
                    if number == lookahead + 2:
                        self.assertEqual(batch.cpu().unique().tolist(), [number])
                        break
                # All slots were used by now: they are what is pinned, and no more.
                stats = one.stats()
                self.assertEqual(stats["pinned_bytes"], stats["slots"] * (2 << 20))
                self.assertEqual(stats["peak_pinned_bytes"], stats["pinned_bytes"])
                self.assertEqual((stats["pageable_bytes"], stats["used_slots"]), (0, 0))
            self.assertEqual(stats["slots"], 2)
            loader.close()
            del batch, loader
            if epoch == 20:
                before = left.tasks(), left.files()
            if epoch >= 40 and epoch % 10 == 0:
                resident.append((epoch, left.resident_bytes()))
        self.assertTrue(left.soon(lambda: left.tasks() <= before[0] + 1))
        self.assertEqual((left.files(), left.shared()), (before[1], []))
        self.assertLess(left.slope(resident), 64 << 10)
        again.close()
        del again
        self.assertEqual(pool_statistics(pool).live_blocks, live)

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

    def test_what_cannot_be_packed_follows_what_can(self):
        dense, sparse, on_a_gpu = torch.ones(3, 3), torch.eye(3).to_sparse(), torch.eye(3).to(DEVICE)
        batches = [[dense], [sparse], [dense], [on_a_gpu], [dense], [dense.to(torch.int8)], [None]]
        for device in ("cpu", DEVICE):
            loader = Prefetcher(device=device, copy=True).wrap(batches)
            for (expected,), (got,) in zip(batches, loader):
                if expected is None or expected is sparse or expected is on_a_gpu:
                    self.assertIs(got, expected)
                else:
                    self.assertTrue(same(got, expected))
            self.assertEqual(loader.stats()["passed_through"], 2)
            loader.close()

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

    def test_ragged_and_growing_batches(self):
        # Slots move as they grow, and what was made of them before is not taken for them.
        types = (torch.uint8, torch.float64, torch.bfloat16, torch.int32)
        sizes = [1, 5000, 100, 300_000, 0, 70_000, 3_000_000, 3, 2_999_999, 17] * 2
        batches = [
            [torch.arange(size % 999 + 1).to(types[at % 4]), torch.full((size,), at).to(types[at % 3])]
            for at, size in enumerate(sizes)
        ]
        for device in ("cpu", DEVICE):
            for lookahead in (0, 1, 3):
                loader = Prefetcher(lookahead=lookahead, keep=1, device=device).wrap(batches)
                count = 0
                for expected, got in zip(batches, loader):
                    self.assertTrue(all(same(one, other) for one, other in zip(expected, got)))
                    count += 1
                self.assertEqual(count, len(batches))
                loader.close()

    def test_pinned_tensors_go_straight(self):
        # A small one beside it, too: then nothing is staged.
        batches = [
            (torch.full((300_000,), float(n)).pin_memory(), torch.full((7,), n).pin_memory())
            for n in range(9)
        ]
        for lookahead in (0, 1, 3):
            loader = Prefetcher(lookahead=lookahead, device=DEVICE).wrap(batches)
            for _ in range(2):
                for expected, got in zip(batches, loader):
                    self.assertTrue(all(same(one, other) for one, other in zip(expected, got)))
            stats = loader.stats()
            self.assertEqual((stats["submitted"], stats["sends"]), (18, 2 * 18))
            self.assertEqual((stats["staged_bytes"], stats["copies_per_byte"]), (0, 0))
            loader.close()

    def test_pinned_and_other_tensors_in_one_batch(self):
        pinned = [torch.full((20_000 + n,), n, dtype=torch.int64).pin_memory() for n in range(5)]
        other = [torch.full((1000,), -n, dtype=torch.int64) for n in range(5)]
        # A part of a pinned tensor, what is not contiguous, what changes from batch to batch.
        batches = [[pinned[n][5:], other[n], pinned[n][::2]] for n in range(5)]
        batches += [[other[0].repeat(20), other[1], other[2]], [pinned[0], other[1], pinned[1][:0]]]
        loader = Prefetcher(device=DEVICE, copy=True).wrap(batches)
        for expected, got in zip(batches, loader):
            self.assertTrue(all(same(one, two) for one, two in zip(expected, got)))
        straight = sum(batch[0].nbytes for batch in batches if batch[0].is_pinned())
        stats = loader.stats()
        payload = sum(part.nbytes for batch in batches for part in batch)
        self.assertEqual((stats["staged_bytes"], stats["submitted"]), (payload - straight, 7))
        loader.close()
        # Many small ones are staged, and sent in one copy.
        many = [[torch.full((10,), n).pin_memory() for n in range(40)]] * 3
        loader = Prefetcher(device=DEVICE).wrap(many)
        self.assertEqual([[int(part[0]) for part in got] for got in loader], [list(range(40))] * 3)
        stats = loader.stats()
        self.assertEqual((stats["sends"], stats["staged_bytes"]), (3, 3 * 40 * 80))
        loader.close()

    def test_arrays_in_pinned_pools_go_straight(self):
        with forebay.memory.MemoryPool(8 * rig.MIB, device="pinned") as pool:
            live = pool.pool.statistics()["live_blocks"]

            def loader():
                for number in range(8):
                    array = pool.allocate((100_000,), numpy.float32)
                    tensor = pool.allocate((1000,), torch.float32)
                    array[:], small = number, numpy.full(1000, number)
                    yield array, tensor.fill_(number), small

            wrapped = Prefetcher(lookahead=1, device=DEVICE).wrap(loader())
            for number, got in enumerate(wrapped):
                self.assertEqual([one.unique().tolist() for one in map(torch.Tensor.cpu, got)],
                                 [[number]] * 3)
            # What may not be written to is asked for no place of its own, and staged.
            stats = wrapped.stats()
            self.assertEqual((stats["staged_bytes"], stats["submitted"]), (8 * 8000, 8))
            wrapped.close()
            array = pool.allocate((100_000,), numpy.float32)
            array[:] = 5
            array.flags.writeable = False
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                (got,) = Prefetcher(device=DEVICE, copy=True).wrap([array])
            self.assertEqual(got.cpu().unique().tolist(), [5])
            del array
            gc.collect()
            self.assertEqual(pool.pool.statistics()["live_blocks"], live)

    def test_pinned_memory_stays_until_it_was_read(self):
        """As a DataLoader does: who lets go of a pinned tensor gives its memory to the next one."""
        count, size, held = 30, 100_000, []

        def loader():
            for number in range(count):
                batch = torch.full((size,), number).pin_memory()
                held.append(weakref.ref(batch))
                yield batch
                del batch
                # Whatever has no tensor any more is written over.
                for _ in range(3):
                    torch.empty(size, dtype=torch.int64, pin_memory=True).fill_(-1)

        for lookahead in (0, 2):
            held.clear()
            wrapped, seen = Prefetcher(lookahead=lookahead, device=DEVICE).wrap(loader()), []
            for batch in wrapped:
                # No step waits for the device: it is as far behind as it may be.
                back = torch.empty(size, dtype=torch.int64).pin_memory()
                seen.append(back.copy_(batch, non_blocking=True))
                # Those that were got and not read, and those that nobody has got yet.
                alive = sum(one() is not None for one in held)
                self.assertLessEqual(alive, 4 * wrapped.stats()["slots"] + 2)
            torch.cuda.synchronize()
            self.assertEqual([one.unique().tolist() for one in seen], [[n] for n in range(count)])
            self.assertEqual(wrapped.stats()["staged_bytes"], 0)
            # The loader is closed, and the last batch is still somebody's.
            wrapped.close()
            self.assertEqual([one for one in held if one() is not None], [])
            self.assertEqual(int(batch[0]), count - 1)
            del batch
        self.assertEqual(hazards(), 0)

    def test_pinned_batches_that_nobody_gets(self):
        pinned = [torch.full((100_000,), n).pin_memory() for n in range(20)]
        held = [weakref.ref(one) for one in pinned]
        wrapped = Prefetcher(lookahead=4, device=DEVICE).wrap(iter(pinned))
        for _ in wrapped:
            break
        wrapped.close()
        # Nothing reads them any more.
        for one in pinned:
            one.fill_(-1)
        torch.cuda.synchronize()
        del one, pinned, wrapped
        gc.collect()
        self.assertEqual(sum(one() is not None for one in held), 0)
        self.assertEqual(hazards(), 0)

    def test_a_double_buffer_takes_pinned_data_from_where_it_is(self):
        buffer = DoubleBuffer(buffer_size=(50_000,), dtype=torch.float32, device=DEVICE)
        seen = []
        for number in range(1, 9):
            current = buffer.get_current()
            buffer.prefetch_next(torch.full((50_000,), float(number)).pin_memory())
            torch.empty(50_000, pin_memory=True).fill_(-1)
            seen.append(torch.empty(50_000).pin_memory().copy_(current, non_blocking=True))
            buffer.swap()
        torch.cuda.synchronize()
        self.assertEqual([one.unique().tolist() for one in seen], [[float(n)] for n in range(1, 9)])
        # All that was staged are the zeros that it began with.
        halves = buffer._current, buffer._other
        staged = sum(half._slots.stats()["staged_bytes"] for half in halves)
        self.assertEqual(staged, 2 * 50_000 * 4)
        buffer.close()

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
