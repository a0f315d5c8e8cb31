"""What can go wrong in a pass, at each number of batches ahead: every cell of the table ends within its
bound, and leaves neither threads nor files behind. Who hangs is shown where, and ends the run."""

import faulthandler
import gc
import os
import signal
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
from forebay.prefetch import Prefetcher

LOOKAHEADS = (0, 1, 2, 8)
BATCHES = 12

#: How long a pass waits for a loader that hangs, here; otherwise forebay.prefetch.CLOSE_SECONDS.
PATIENCE = 0.2

#: Seconds that a cell may take. Machines that run tests are slow; what hangs takes for ever.
QUICK, WITH_A_PROGRAM = 40, 90


def batch(number, size=3000):
    return {"data": np.full(size, number, np.int64), "number": number}


def number_of(got):
    """Which batch it is, if it is whole."""
    number = got["number"]
    assert (got["data"] == number).all(), f"batch {number} is not whole"
    return number


class Broken(Exception):
    pass


class Loader:
    """A loader that says how far it is, and breaks or hangs at some batch."""

    def __init__(self, count=BATCHES, breaks_at=None, hangs_at=None):
        self.count, self.breaks_at, self.hangs_at = count, breaks_at, hangs_at
        self.loaded, self.ended = 0, []
        self.hangs, self.go_on = threading.Event(), threading.Event()

    def __iter__(self):
        try:
            for number in range(self.count):
                if number == self.breaks_at:
                    raise Broken(f"at {number}")
                if number == self.hangs_at:
                    self.hangs.set()
                    self.go_on.wait()
                self.loaded += 1
                yield batch(number)
        finally:
            self.ended.append(threading.current_thread().name)


def wrap(loader, lookahead, **options):
    return Prefetcher(lookahead=lookahead, **options).wrap(loader)


def interrupt_in(seconds):
    """As ctrl-C does; by a signal of its own, which nobody else waits for."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def run(program, *arguments):
    """A program of its own; its status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True, text=True, timeout=WITH_A_PROGRAM, check=False,
    )
    return done.returncode, done.stdout + done.stderr


class Faults(unittest.TestCase):
    """The cells: each is called with how far ahead the pass is, and how many threads copy."""

    def setUp(self):
        self.patience, forebay.prefetch.CLOSE_SECONDS = forebay.prefetch.CLOSE_SECONDS, PATIENCE

    def tearDown(self):
        forebay.prefetch.CLOSE_SECONDS = self.patience

    def raises_at(self, at, lookahead, threads):
        loader = Loader(breaks_at=at)
        wrapped = wrap(loader, lookahead, num_workers=threads)
        iterator, seen, told = iter(wrapped), [], "nothing was raised"
        try:
            for got in iterator:
                seen.append(number_of(got))
        except Broken as error:
            told = "".join(traceback.format_exception(error))
        self.assertEqual(seen, list(range(at)))
        self.assertIn(f"Broken: at {at}", told)
        # Where it was raised, on whichever thread.
        self.assertIn("in __iter__", told)
        if sys.version_info >= (3, 11):
            self.assertIn(f"while batch {at} was prefetched", told)
        # The pass is over, and the next one is whole.
        self.assertEqual(list(iterator), [])
        loader.breaks_at = None
        self.assertEqual([number_of(got) for got in wrapped], list(range(BATCHES)))
        wrapped.close()

    def raise_at_the_first(self, lookahead, threads):
        self.raises_at(0, lookahead, threads)

    def raise_at_one_between(self, lookahead, threads):
        self.raises_at(5, lookahead, threads)

    def raise_at_the_last(self, lookahead, threads):
        self.raises_at(BATCHES - 1, lookahead, threads)

    def raise_before_the_first(self, lookahead, threads):
        class Closed:
            def __iter__(self):
                raise Broken("no file")

        wrapped = wrap(Closed(), lookahead, num_workers=threads)
        with self.assertRaisesRegex(Broken, "no file"):
            list(wrapped)
        wrapped.close()

    def raise_at_the_end_of_it(self, lookahead, threads):
        def loader():
            try:
                for number in range(BATCHES):
                    yield batch(number)
            finally:
                raise Broken("its file does not close")

        # An error that nobody can be given is a warning.
        wrapped = wrap(loader(), lookahead, num_workers=threads)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for got in wrapped:
                if number_of(got) == 1:
                    break
            wrapped.close()
        self.assertTrue(any("its file does not close" in str(one.message) for one in caught))

    def hang_behind_the_consumer(self, lookahead, threads):
        loader = Loader(hangs_at=3)
        wrapped = wrap(loader, lookahead, num_workers=threads)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for got in wrapped:
                if number_of(got) == 1:
                    if lookahead > 1:
                        loader.hangs.wait()
                    break
            wrapped.close()
        if lookahead > 1:
            # It says where the thread is left.
            self.assertTrue(any("go_on.wait()" in str(one.message) for one in caught), caught)
        loader.go_on.set()

    def hang_in_front_of_the_consumer(self, lookahead, threads):
        loader = Loader(hangs_at=3)
        wrapped = wrap(loader, lookahead, num_workers=threads)
        seen, outcome = [], []

        def consume():
            try:
                seen.extend(number_of(got) for got in wrapped)
            except forebay.ForebayError as error:
                outcome.append(str(error))

        consumer = threading.Thread(target=consume)
        consumer.start()
        loader.hangs.wait()
        while lookahead and len(seen) < 3:
            time.sleep(0.001)
        if lookahead == 0:
            # Nobody but the loader itself can end that.
            loader.go_on.set()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if lookahead:
                wrapped.close()
            consumer.join(QUICK / 2)
        self.assertFalse(consumer.is_alive())
        if lookahead:
            # It had not asked yet, or it waited.
            self.assertEqual(seen, [0, 1, 2])
            self.assertTrue(not outcome or "while a batch was waited for" in outcome[0], outcome)
        else:
            self.assertEqual(seen, list(range(BATCHES)))
        loader.go_on.set()
        wrapped.close()

    def slow_consumer(self, lookahead, threads):
        loader = Loader(count=30)
        wrapped = wrap(loader, lookahead, num_workers=threads)
        for seen, got in enumerate(wrapped, 1):
            time.sleep(0.003)
            self.assertEqual(number_of(got), seen - 1)
            # What is ready, and one in the loader's hand.
            self.assertLessEqual(loader.loaded, seen + lookahead + (lookahead > 0))
        stats = wrapped.stats()
        self.assertEqual((stats["slots"], stats["num_items"]), (lookahead + 1, 30))
        wrapped.close()

    def left_with_break(self, lookahead, threads):
        loader = Loader(count=1000)
        wrapped = wrap(loader, lookahead, num_workers=threads)
        for last in (0, 1, 7):
            for got in wrapped:
                if number_of(got) == last:
                    break
            self.assertEqual(wrapped.stats()["used_slots"], 0)
        # Each time it ended where it ran.
        self.assertEqual(set(loader.ended), {"forebay-loader" if lookahead else "MainThread"})
        self.assertEqual(len(loader.ended), 3)
        wrapped.close()

    def interrupt_in_the_loop(self, lookahead, threads):
        wrapped = wrap(Loader(count=10**6), lookahead, num_workers=threads)
        for round in range(8):
            with self.assertRaises(KeyboardInterrupt):
                interrupt_in(0.01 + 0.003 * round)
                for expected, got in enumerate(wrapped):
                    self.assertEqual(number_of(got), expected)
            # Whatever it came into: the next pass has all its slots.
            for expected, got in zip(range(20), wrapped):
                self.assertEqual(number_of(got), expected)
        wrapped.close()

    def interrupt_of_one_who_waits(self, lookahead, threads):
        loader = Loader(hangs_at=2)
        wrapped = wrap(loader, lookahead, num_workers=threads)
        with warnings.catch_warnings(), self.assertRaises(KeyboardInterrupt):
            warnings.simplefilter("ignore")
            interrupt_in(0.1)
            for got in wrapped:
                self.assertLess(number_of(got), 2)
        loader.go_on.set()
        loader.hangs_at = None
        self.assertEqual([number_of(got) for got in wrapped], list(range(BATCHES)))
        wrapped.close()

    def fork(self, lookahead, threads):
        wrapped = wrap(Loader(), lookahead, num_workers=threads)
        iterator = iter(wrapped)
        self.assertEqual(number_of(next(iterator)), 0)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            told = []
            for call in (lambda: next(iterator), lambda: iter(wrapped)):
                try:
                    call()
                except forebay.ForebayError as error:
                    told.append("fork()" in str(error))
            wrapped.close()
            again = wrap(Loader(), lookahead, num_workers=threads)
            told.append([number_of(got) for got in again] == list(range(BATCHES)))
            again.close()
            os.write(write, repr(told).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as file:
            self.assertEqual(file.read(), "[True, True, True]")
        os.waitpid(child, 0)
        # The parent has not noticed.
        self.assertEqual([number_of(got) for got in iterator], list(range(1, BATCHES)))
        wrapped.close()

    def fork_whose_child_ends_by_itself(self, lookahead, threads):
        status, told = run(
            """
            import itertools, numpy, os, sys
            from forebay.prefetch import Prefetcher
            lookahead, threads = map(int, sys.argv[1:])
            loader = (numpy.zeros(1000) for _ in itertools.count())
            iterator = iter(Prefetcher(lookahead=lookahead, num_workers=threads).wrap(loader))
            next(iterator)
            child = os.fork()
            if child == 0:
                sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            next(iterator)
            """,
            lookahead, threads,
        )
        self.assertEqual((status, told), (0, ""))

    def end_of_the_interpreter(self, lookahead, threads):
        program = """
            import itertools, numpy, sys, threading
            import forebay.prefetch
            from forebay.prefetch import Prefetcher
            lookahead, threads, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
            forebay.prefetch.CLOSE_SECONDS = 0.2

            def loader():
                for number in itertools.count():
                    if number == 2 and how == "hang":
                        threading.Event().wait()
                    yield numpy.zeros(1000)

            iterator = iter(Prefetcher(lookahead=lookahead, num_workers=threads).wrap(loader()))
            next(iterator)
            if how == "interrupt":
                raise KeyboardInterrupt
            if how == "thread":
                threading.Thread(target=lambda: next(iterator)).start()
            """
        for how in ("plain", "interrupt", "thread", "hang"):
            status, told = run(program, lookahead, threads, how)
            self.assertEqual(status != 0, how == "interrupt", told)
            self.assertNotIn("Fatal", told)

    def shorter_than_the_lookahead(self, lookahead, threads):
        for count in range(1, lookahead + 1):
            wrapped = wrap(Loader(count=count), lookahead, num_workers=threads)
            for _ in range(2):
                self.assertEqual([number_of(got) for got in wrapped], list(range(count)))
            wrapped.close()

    def empty_loader(self, lookahead, threads):
        wrapped = wrap(Loader(count=0), lookahead, num_workers=threads)
        for _ in range(3):
            self.assertEqual(list(wrapped), [])
        self.assertEqual(wrapped.stats()["num_items"], 0)
        wrapped.close()

    def leaves_of_no_size(self, lookahead, threads):
        shapes = [(0,), (0, 5), (3, 0, 2), (4,), (0,)]
        loader = [[np.ones(shape), np.zeros(0, np.int8)] for shape in shapes] + [[], [np.empty(0)]]
        wrapped = wrap(loader, lookahead, num_workers=threads)
        got = [[(one.shape, one.dtype, float(one.sum())) for one in each] for each in wrapped]
        expected = [[(one.shape, one.dtype, float(one.sum())) for one in each] for each in loader]
        self.assertEqual(got, expected)
        wrapped.close()

    def mixed_types(self, lookahead, threads):
        types = ["?", "i1", "u2", "f2", "f4", "i8", "f8", "c16", ">i4", "M8[ns]", "S5", "U3"]
        loader = []
        for number in range(BATCHES):
            turned = types[number:] + types[:number]
            loader.append([np.arange(40).astype("i8").astype(one) for one in turned])
        wrapped = wrap(loader, lookahead, num_workers=threads)
        for expected, got in zip(loader, wrapped):
            for one, other in zip(expected, got):
                self.assertEqual(one.dtype, other.dtype)
                self.assertTrue((one == other).all())
        wrapped.close()

    def growing_shapes(self, lookahead, threads):
        sizes = [2**at for at in range(21)] + [3, 10**5]
        wrapped = wrap((np.arange(size) for size in sizes), lookahead, num_workers=threads)
        for size, got in zip(sizes, wrapped):
            self.assertTrue(np.array_equal(got, np.arange(size)))
        # Slots grow by half at least, each.
        self.assertLessEqual(wrapped.stats()["grown"], (lookahead + 1) * 21)
        wrapped.close()
        wrapped = wrap(map(np.arange, sizes), lookahead, num_workers=threads, max_batch_bytes=8 << 10)
        seen = []
        with self.assertRaisesRegex(forebay.ForebayError, "more than 8192 bytes"):
            seen.extend(len(got) for got in wrapped)
        self.assertEqual(seen, sizes[:11])
        wrapped.close()


#: What goes wrong, and within how many seconds it is over.
TABLE = {
    "raise_at_the_first": QUICK,
    "raise_at_one_between": QUICK,
    "raise_at_the_last": QUICK,
    "raise_before_the_first": QUICK,
    "raise_at_the_end_of_it": QUICK,
    "hang_behind_the_consumer": QUICK,
    "hang_in_front_of_the_consumer": QUICK,
    "slow_consumer": QUICK,
    "left_with_break": QUICK,
    "interrupt_in_the_loop": QUICK,
    "interrupt_of_one_who_waits": QUICK,
    "fork": QUICK,
    "fork_whose_child_ends_by_itself": WITH_A_PROGRAM,
    "end_of_the_interpreter": 4 * WITH_A_PROGRAM,
    "shorter_than_the_lookahead": QUICK,
    "empty_loader": QUICK,
    "leaves_of_no_size": QUICK,
    "mixed_types": QUICK,
    "growing_shapes": QUICK,
}


def cell(name, lookahead, bound):
    def test(self):
        for threads in (2, 0):
            before, begun = left.files(), time.perf_counter()
            # A test that hangs cannot fail: the interpreter says where it is, and ends.
            faulthandler.dump_traceback_later(bound, exit=True)
            try:
                getattr(self, name)(lookahead, threads)
            finally:
                faulthandler.cancel_dump_traceback_later()
            self.assertLess(time.perf_counter() - begun, bound)
            gc.collect()
            ended = left.soon(lambda: not left.loader_threads() and not left.copy_threads())
            self.assertTrue(ended, (left.loader_threads(), left.copy_threads()))
            self.assertEqual(left.files(), before)

    return test


for fault, seconds in TABLE.items():
    for ahead in LOOKAHEADS:
        setattr(Faults, f"test_{fault}_{ahead}_ahead", cell(fault, ahead, seconds))

if __name__ == "__main__":
    unittest.main()
