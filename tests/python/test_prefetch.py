"""Prefetcher and DoubleBuffer on the host: numpy arrays."""

import collections
import dataclasses
import gc
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import unittest
import warnings

import numpy as np

import forebay
import forebay.prefetch
import left
from forebay.prefetch import DoubleBuffer, Prefetcher, ShapeMismatch, headspace

LOOKAHEADS = (0, 1, 2, 8)

# A test below looks at how resident memory grows.
left.one_arena()


def batches(count, size=1000):
    """Batches that tell which they are."""
    for number in range(count):
        yield np.full(size, number, np.int64), np.float32(number)


class Loader:
    """A loader with a length, a data set, and a state."""

    def __init__(self, count, state=True):
        self.count, self.dataset, self.at = count, "the data", 0
        if state:
            self.state_dict = lambda: {"at": self.at}
            self.load_state_dict = lambda state: setattr(self, "at", state["at"])

    def __len__(self):
        return self.count

    def __iter__(self):
        while self.at < self.count:
            self.at += 1
            yield np.full(10, self.at - 1)
        self.at = 0


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass(frozen=True)
class Sample:
    image: np.ndarray
    name: str


class Wrapped(unittest.TestCase):
    def tearDown(self):
        gc.collect()
        self.assertEqual(left.loader_threads(), [])

    def test_the_same_batches_in_the_same_order(self):
        for lookahead in LOOKAHEADS:
            loader = Prefetcher(lookahead=lookahead).wrap(list(batches(20)))
            self.assertEqual(len(loader), 20)
            for _ in range(3):
                seen = 0
                for number, (data, target) in enumerate(loader):
                    self.assertEqual((data.dtype, data.shape), (np.int64, (1000,)))
                    self.assertTrue((data == number).all())
                    self.assertEqual(target, number)
                    seen += 1
                self.assertEqual(seen, 20)
            loader.close()
            loader.close()

    def test_batches_are_in_slots(self):
        loader = Prefetcher(lookahead=2).wrap(batches(30))
        addresses = {data.ctypes.data for data, _ in loader}
        self.assertLessEqual(len(addresses), 3)
        stats = loader.stats()
        self.assertEqual((stats["slots"], stats["num_items"], stats["delivered"]), (3, 30, 30))
        self.assertAlmostEqual(stats["copies_per_byte"], 1, delta=0.03)
        self.assertEqual(stats["used_slots"], 0)

    def test_nested_batches_keep_their_types(self):
        order = collections.OrderedDict(b=np.arange(3), a=[np.zeros((2, 3)), "text", None, 7])
        default = collections.defaultdict(list, x=np.ones(4, np.float16))
        batch = {
            "order": order,
            "default": default,
            "point": Point(np.arange(6).reshape(2, 3), (np.bool_(True), b"bytes")),
            "sample": Sample(np.full((3, 3), 9, np.uint8), "name"),
            "empty": np.empty((0, 5)),
            "scalar": np.array(3.5),
            "object": np.array([{}, []], dtype=object),
            "fortran": np.asfortranarray(np.arange(12).reshape(3, 4)),
            "record": np.zeros(3, [("a", "i4"), ("b", "f8")]),
        }
        for lookahead in LOOKAHEADS:
            (got,) = Prefetcher(lookahead=lookahead, copy=True).wrap([batch])
            self.assertIs(type(got["order"]), collections.OrderedDict)
            self.assertEqual(list(got["order"]), ["b", "a"])
            self.assertEqual(got["order"]["b"].tolist(), [0, 1, 2])
            self.assertEqual(got["order"]["a"][1:], ["text", None, 7])
            self.assertEqual(got["order"]["a"][0].shape, (2, 3))
            self.assertEqual(got["default"]["missing"], [])
            self.assertEqual(got["default"]["x"].dtype, np.float16)
            self.assertIsInstance(got["point"], Point)
            self.assertEqual(got["point"].x.tolist(), [[0, 1, 2], [3, 4, 5]])
            self.assertEqual(got["point"].y[1], b"bytes")
            self.assertIsInstance(got["sample"], Sample)
            self.assertEqual((got["sample"].image.sum(), got["sample"].name), (81, "name"))
            self.assertEqual(got["empty"].shape, (0, 5))
            self.assertEqual((got["scalar"].shape, float(got["scalar"])), ((), 3.5))
            self.assertIs(got["object"], batch["object"])
            self.assertEqual(got["fortran"].tolist(), batch["fortran"].tolist())
            self.assertEqual(got["record"].dtype, batch["record"].dtype)
        self.assertEqual(list(default), ["x"])

    def test_ragged_and_growing_batches(self):
        sizes = [1, 5000, 100, 300_000, 0, 70_000, 1_000_000, 3]
        for lookahead in LOOKAHEADS:
            loader = Prefetcher(lookahead=lookahead).wrap([np.arange(size) for size in sizes])
            for size, got in zip(sizes, loader):
                self.assertTrue(np.array_equal(got, np.arange(size)))

    def test_what_a_loader_has_is_there(self):
        loader = Prefetcher().wrap(Loader(5))
        self.assertEqual(loader.dataset, "the data")
        with self.assertRaises(AttributeError):
            loader.nothing
        with Prefetcher().wrap(Loader(5)) as loader:
            self.assertEqual(sum(1 for _ in loader), 5)
        with self.assertRaisesRegex(forebay.ForebayError, "closed"):
            iter(loader)

    def test_empty_and_short_loaders(self):
        for lookahead in LOOKAHEADS:
            self.assertEqual(list(Prefetcher(lookahead=lookahead).wrap([])), [])
            (only,) = Prefetcher(lookahead=lookahead, copy=True).wrap([np.arange(3)])
            self.assertEqual(only.tolist(), [0, 1, 2])

    def test_errors_are_raised_in_their_place(self):
        class Broken(Exception):
            pass

        def loader(at):
            for number in range(5):
                if number == at:
                    raise Broken(f"at {at}")
                yield np.full(3, number)

        for lookahead, at in itertools.product(LOOKAHEADS, (0, 2, 4)):
            seen = []
            error = None
            try:
                for got in Prefetcher(lookahead=lookahead).wrap(loader(at)):
                    seen.append(got[0])
            except Broken as caught:
                error = caught
            self.assertEqual((seen, str(error)), (list(range(at)), f"at {at}"))
            # With its traceback, and what was going on.
            told = "".join(traceback.format_exception(error))
            self.assertIn("in loader\n", told)
            if sys.version_info >= (3, 11):
                self.assertIn(f"while batch {at} was prefetched", told)

    def test_200_epochs_left_early_leave_nothing(self):
        ended = []

        def loader():
            try:
                yield from batches(1000, 100_000)
            finally:
                ended.append(threading.current_thread().name)

        # A loader of its own for each, and one for all.
        again = Prefetcher().wrap([np.full(100_000, number) for number in range(50)])
        resident, before = [], None
        for epoch in range(200):
            for lookahead in (0, 2):
                for number, _ in enumerate(Prefetcher(lookahead=lookahead).wrap(loader())):
                    if number == epoch % 4:
                        break
            for number, got in enumerate(again):
                self.assertEqual((got[0], got[-1]), (number, number))
                if number == epoch % 7:
                    break
            self.assertEqual(again.stats()["used_slots"], 0)
            if epoch == 20:
                before = left.tasks(), left.files()
            if epoch >= 40 and epoch % 10 == 0:
                resident.append((epoch, left.resident_bytes()))
        self.assertEqual(len(ended), 400)
        self.assertEqual(set(ended), {"forebay-loader", "MainThread"})
        # The library's own thread, which looks after idle memory, comes and goes.
        self.assertTrue(left.soon(lambda: left.tasks() <= before[0] + 1))
        self.assertEqual((left.files(), left.shared()), (before[1], []))
        self.assertLess(left.slope(resident), 64 << 10)
        again.close()

    def test_the_consumers_thread_asks_for_the_iterator(self):
        # There a DataLoader forks its workers, which must not happen beside it.
        asked = []

        class Forking:
            def __iter__(self):
                asked.append(threading.current_thread())
                return iter(batches(3))

        for lookahead in LOOKAHEADS:
            loader = Prefetcher(lookahead=lookahead).wrap(Forking())
            for _ in range(2):
                self.assertEqual([int(data[0]) for data, _ in loader], [0, 1, 2])
            loader.close()
        self.assertEqual(asked, 2 * len(LOOKAHEADS) * [threading.current_thread()])

    def test_a_closed_loader_has_no_threads_though_batches_are_kept(self):
        loader = Prefetcher(keep=1).wrap(list(batches(50)))
        kept = [data for data, _ in itertools.islice(loader, 2)]
        iterator = iter(loader)
        next(iterator)
        # Their names come with them, a moment later.
        self.assertTrue(left.soon(lambda: left.copy_threads() == 2))
        loader.close()
        self.assertTrue(left.soon(lambda: left.copy_threads() == 0))
        self.assertEqual(len(kept), 2)

    def test_batches_outlive_the_loader(self):
        loader = Prefetcher(keep=1).wrap(batches(5))
        held = list(itertools.islice(loader, 2))
        loader.close()
        del loader
        gc.collect()
        self.assertEqual([data[0] for data, _ in held], [0, 1])

    def test_keep_copy_and_debug(self):
        last = collections.deque(maxlen=3)
        for number, (data, _) in enumerate(Prefetcher(keep=2, debug=True).wrap(batches(20))):
            last.append(data)
            expected = range(max(number - 2, 0), number + 1)
            self.assertEqual([one[0] for one in last], list(expected))
        stale = None
        for data, _ in Prefetcher(lookahead=1, debug=True).wrap(batches(2)):
            stale = data if stale is None else stale
        self.assertIn(hex(int(stale[0]) & 0xFF), ("0xdb", "0x1"))
        kept = [data for data, _ in Prefetcher(copy=True).wrap(batches(20))]
        self.assertEqual([one[0] for one in kept], list(range(20)))

    def test_a_loader_that_hangs_is_left_after_a_while(self):
        hang = threading.Event()

        def loader():
            yield np.zeros(3)
            hang.wait()

        old, forebay.prefetch.CLOSE_SECONDS = forebay.prefetch.CLOSE_SECONDS, 0.2
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                begun = time.perf_counter()
                wrapped = Prefetcher().wrap(loader())
                for _ in wrapped:
                    break
                wrapped.close()
                self.assertLess(time.perf_counter() - begun, 20)
            self.assertTrue(any("hang.wait()" in str(one.message) for one in caught), caught)
        finally:
            forebay.prefetch.CLOSE_SECONDS = old
            hang.set()
        self.assertTrue(left.soon(lambda: not left.loader_threads()))

    def test_the_interpreter_ends_with_a_pass_under_way(self):
        program = """
            import itertools, numpy, threading
            from forebay.prefetch import Prefetcher
            loader = Prefetcher().wrap(numpy.zeros(1000) for _ in itertools.count())
            iterator = iter(loader)
            next(iterator)
            %s
        """
        on_a_thread = "threading.Thread(target=lambda: next(iterator)).start()"
        for last in ("", "raise KeyboardInterrupt", on_a_thread):
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(program % last)],
                capture_output=True, text=True, timeout=60, check=False,
            )
            self.assertEqual(done.returncode != 0, "Keyboard" in last, done.stderr)

    def test_a_child_is_told(self):
        loader = Prefetcher().wrap(batches(10))
        iterator = iter(loader)
        next(iterator)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            told = b"nothing"
            try:
                next(iterator)
            except forebay.ForebayError as error:
                told = str(error).encode()
            os.write(write, told)
            os._exit(0)
        os.waitpid(child, 0)
        self.assertIn(b"fork()", os.read(read, 1000))
        os.close(read)
        os.close(write)
        self.assertEqual(next(iterator)[0][0], 1)
        loader.close()

    def test_state_is_what_was_consumed(self):
        for own in (True, False):
            loader = Prefetcher(lookahead=4).wrap(Loader(10, own))
            iterator = iter(loader)
            for _ in range(3):
                next(iterator)
            time.sleep(0.05)
            state = loader.state_dict()
            self.assertEqual(state["consumed"], 3)
            iterator.close()
            again = Prefetcher(lookahead=4).wrap(Loader(10, own))
            again.load_state_dict(state)
            self.assertEqual(again.state_dict(), state)
            iterator = iter(again)
            self.assertEqual([next(iterator)[0] for _ in range(2)], [3, 4])
            # It counts from where the first one began.
            state = again.state_dict()
            self.assertEqual(state["consumed"], 5)
            self.assertEqual([got[0] for got in iterator], list(range(5, 10)))
            # What is saved at the end of a pass is where the next one begins.
            ended = again.state_dict()
            self.assertEqual(ended["consumed"], 0)
            self.assertEqual([got[0] for got in again], list(range(10)))
            for saved, first in ((state, 5), (ended, 0)):
                again.load_state_dict(saved)
                self.assertEqual([got[0] for got in again], list(range(first, 10)))
            again.close()

    def test_it_says_what_it_is_bound_by(self):
        def slow():
            for batch in batches(10):
                time.sleep(0.02)
                yield batch

        loader = Prefetcher().wrap(slow())
        for _ in loader:
            pass
        stats = loader.stats()
        self.assertEqual(stats["verdict"], "bound by: loader")
        self.assertGreater(stats["overlap_efficiency"], 0.8)
        loader = Prefetcher().wrap(batches(10))
        for _ in loader:
            time.sleep(0.02)
        self.assertEqual(loader.stats()["verdict"], "bound by: compute")

    def test_headspace(self):
        def slow():
            for batch in batches(6):
                time.sleep(0.02)
                yield batch

        found = headspace(slow(), lambda batch: time.sleep(0.02), n=5)
        self.assertEqual(found["batches"], 5)
        self.assertGreater(found["gain"], 1.5)
        with self.assertRaises(ValueError):
            headspace([], print)

    def test_the_pool_of_a_loader_is_one_of_the_pools_while_it_lives(self):
        gc.collect()
        before = forebay.pools()
        loader = Prefetcher(lookahead=1).wrap(list(batches(4)))
        for _ in range(2):
            for batch in loader:
                (pool,) = (one for one in forebay.pools() if one not in before)
                self.assertEqual(pool.name, f"prefetch #{loader.number}")
                self.assertEqual(pool.part_of, "prefetch")
            # Between two passes it waits for the next one.
            self.assertEqual(pool.statistics()["live_blocks"], 2)
        loader.close()
        del batch
        self.assertIsNone(pool.handle)
        # A batch that somebody has keeps it.
        loader = Prefetcher(lookahead=1).wrap(list(batches(4)))
        iterator = iter(loader)
        kept = next(iterator)[0]
        (pool,) = (one for one in forebay.pools() if one not in before)
        expected = kept.copy()
        loader.close()
        del loader, iterator
        gc.collect()
        self.assertIn(pool, forebay.pools())
        self.assertTrue(np.array_equal(kept, expected))
        del kept
        gc.collect()
        self.assertIsNone(pool.handle)
        self.assertEqual(forebay.pools(), before)

    def test_wrong_arguments(self):
        for wrong in ({"lookahead": -1}, {"lookahead": 63}, {"num_workers": 65}, {"keep": True},
                      {"lookahead": 40, "keep": 40}):
            with self.assertRaises(ValueError):
                Prefetcher(**wrong)
        with self.assertRaisesRegex(forebay.ForebayError, "more than 100 bytes"):
            list(Prefetcher(max_batch_bytes=100).wrap([np.zeros(1000)]))
        self.assertEqual(Prefetcher(max_batch_bytes=100).memory_bound_bytes, 300)


class Double(unittest.TestCase):
    def test_the_wish(self):
        buffer = DoubleBuffer(buffer_size=(4, 3), dtype=np.float32)
        self.assertEqual(buffer.get_current().tolist(), [[0.0] * 3] * 4)
        seen = []
        for number in range(1, 8):
            current = buffer.get_current()
            buffer.prefetch_next(np.full((4, 3), number, np.float32))
            seen.append(float(current.sum()) / 12)
            buffer.swap()
        self.assertEqual(seen, [1, 2, 3, 4, 5, 6, 7])
        buffer.close()
        buffer.close()

    def test_one_ahead(self):
        data = [np.full((4, 3), number, np.float32) for number in range(6)]
        buffer = DoubleBuffer((4, 3))
        buffer.prime(data[0])
        seen = []
        for after in data[1:] + [None]:
            current = buffer.get_current()
            if after is not None:
                buffer.prefetch_next(after)
            seen.append(current[0, 0])
            buffer.swap()
        self.assertEqual(seen, list(range(6)))

    def test_iterate_takes_a_short_last_batch(self):
        data = [np.full((4, 3), number, np.float32) for number in range(5)] + [np.ones((2, 3), np.float32)]
        buffer = DoubleBuffer((4, 3))
        for _ in range(2):
            seen = [(got.shape, got[0, 0]) for got in buffer.iterate(data)]
            expected = [((4, 3), number) for number in range(5)] + [((2, 3), 1)]
            self.assertEqual(seen, expected)
        self.assertEqual(list(buffer.iterate([])), [])

    def test_an_iteration_that_ends_early_leaves_empty_buffers(self):
        data = [np.full((4, 3), number, np.float32) for number in range(6)]

        def breaks():
            yield from data[:3]
            raise OSError("no more")

        for workers in (0, 1):
            buffer = DoubleBuffer((4, 3), num_workers=workers)
            for last in range(5):
                for got in buffer.iterate(data):
                    if got[0, 0] == last:
                        break
            # An error comes behind the batches before it, whoever made it.
            for wrong, expected in ((breaks(), OSError), (data[:3] + [np.zeros(7)], ShapeMismatch)):
                seen = []
                with self.assertRaises(expected):
                    seen.extend(got[0, 0] for got in buffer.iterate(wrong))
                self.assertEqual(seen, [0, 1, 2])
            self.assertEqual([got[0, 0] for got in buffer.iterate(data)], list(range(6)))
            buffer.close()

    def test_what_does_not_fit_is_refused(self):
        buffer = DoubleBuffer((4, 3))
        for wrong in (np.zeros((3, 3), np.float32), np.zeros((4, 3)), [np.zeros(3), np.zeros(3)]):
            with self.assertRaises(ShapeMismatch):
                buffer.prefetch_next(wrong)
        good = np.zeros((4, 3), np.float32)
        buffer.prefetch_next(good)
        buffer.prefetch_next(good)
        with self.assertRaisesRegex(forebay.ForebayError, "both buffers are full"):
            buffer.prefetch_next(good)
        with self.assertRaises(ValueError):
            DoubleBuffer((0, 3))
        view = buffer.get_current()
        names = [pool.name for pool in forebay.pools() if pool.name.startswith("buffer #")][-2:]
        self.assertEqual((len(names), names[0][:-1]), (2, names[1][:-1]))
        buffer.close()
        del buffer
        gc.collect()
        self.assertEqual(view.sum(), 0)
        # That of the half that somebody looks at stays.
        self.assertEqual(len([pool for pool in forebay.pools() if pool.name in names]), 1)
        del view
        gc.collect()
        self.assertEqual([pool for pool in forebay.pools() if pool.name in names], [])


if __name__ == "__main__":
    unittest.main()
