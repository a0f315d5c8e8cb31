"""MemoryTracker: exact peaks, who held what, and what is said of it."""

# Needs: numpy

import gc
import io
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from html.parser import HTMLParser

import numpy as np

import forebay
from blocks import BlockPool
from forebay import _advice, _ledger, _observe, _summary, _units
from forebay._timeline import _POINTS, Timeline
from forebay.cache import TensorCache
from forebay.memory import MemoryPool
from forebay.prefetch import Prefetcher
from forebay.profiler import MemoryTracker

MIB = 1 << 20
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def line_here():
    return sys._getframe(1).f_lineno


class Peaks(unittest.TestCase):
    def setUp(self):
        self.pool = BlockPool(name="peaks")
        self.addCleanup(self.pool.close)

    def test_a_peak_is_exact_however_short(self):
        before = self.pool.take(3 * MIB)
        # Higher than all that comes, and over before the tracker begins.
        self.pool.give(self.pool.take(100 * MIB))
        tracker = MemoryTracker(self.pool, track_timeline=False)
        with tracker:
            self.pool.give(self.pool.take(10 * MIB))
            block = self.pool.take(2 * MIB)
        stats = tracker.get_stats()
        self.assertEqual(stats["peak_requested"], 13 * MIB)
        self.assertEqual(stats["peak_requested_bound"], 13 * MIB)
        self.assertEqual((stats["entry_requested"], stats["current_requested"]), (3 * MIB, 5 * MIB))
        self.assertEqual((stats["num_allocations"], stats["num_frees"]), (2, 1))
        self.assertEqual((stats["leaked_bytes"], stats["leaked_blocks"]), (2 * MIB, 1))
        # The pool still knows of the time before.
        self.assertEqual(self.pool.statistics()["requested_peak"], 103 * MIB)
        self.pool.give(before)
        self.pool.give(block)

    def test_parts_within_parts_hide_nothing(self):
        tracker = MemoryTracker(self.pool, track_timeline=False)
        with tracker:
            with tracker.track("outer"):
                self.pool.give(self.pool.take(20 * MIB))
                with tracker.track("inner"):
                    self.pool.give(self.pool.take(5 * MIB))
                with tracker.track("later"):
                    pass
            with tracker.track("after"):
                self.pool.give(self.pool.take(1 * MIB))
        peaks = {
            name: tracker.get_delta(name).peak_mb for name in ("outer", "inner", "later", "after")
        }
        self.assertEqual(peaks, {"outer": 20, "inner": 5, "later": 0, "after": 1})
        self.assertEqual(tracker.get_stats()["peak_allocated"], 20 * MIB)
        self.assertEqual(self.pool.statistics()["allocated_peak"], 20 * MIB)

    def test_random_parts_against_a_model(self):
        """Parts open and close in any order, as those of several threads do; each knows its
        peak."""
        random.seed(5)
        tracker = MemoryTracker(self.pool, track_timeline=False, track_allocations=False)
        with tracker:
            live, open_parts, held, total_peak, made = [], [], 0, 0, 0
            for _ in range(600):
                action = random.random()
                if action < 0.45:
                    block = self.pool.take(random.randrange(1, 64) * 4096)
                    live.append(block)
                    held += block[1]
                    total_peak = max(total_peak, held)
                    for part in open_parts:
                        part[2] = max(part[2], held)
                elif action < 0.8 and live:
                    block = live.pop(random.randrange(len(live)))
                    held -= block[1]
                    self.pool.give(block)
                elif action < 0.9 and len(open_parts) < 8:
                    made += 1
                    part = tracker.track(f"part {made}")
                    part.__enter__()
                    open_parts.append([part, f"part {made}", held])
                elif open_parts:
                    part, name, peak = open_parts.pop(random.randrange(len(open_parts)))
                    part.__exit__(None, None, None)
                    self.assertEqual(tracker.get_delta(name).peak_allocated_bytes, peak)
                self.assertEqual(self.pool.statistics()["requested_bytes"], held)
            for part, *_ in open_parts:
                part.__exit__(None, None, None)
        self.assertEqual(tracker.get_stats()["peak_requested"], total_peak)
        self.assertEqual(self.pool.statistics()["requested_peak"], total_peak)

    def test_trackers_do_not_hide_from_each_other(self):
        first, second = MemoryTracker(self.pool), MemoryTracker(self.pool)
        with first:
            self.pool.give(self.pool.take(8 * MIB))
            with second:
                self.pool.give(self.pool.take(2 * MIB))
        self.assertEqual(first.get_stats()["peak_allocated"], 8 * MIB)
        self.assertEqual(second.get_stats()["peak_allocated"], 2 * MIB)

    def test_several_pools_have_a_bound(self):
        with BlockPool(name="other") as other:
            tracker = MemoryTracker([self.pool, other], track_timeline=False)
            with tracker:
                self.pool.give(self.pool.take(8 * MIB))
                other.give(other.take(4 * MIB))
            stats = tracker.get_stats()
            self.assertEqual(stats["peak_requested"], 8 * MIB)
            self.assertEqual(stats["peak_requested_bound"], 12 * MIB)
            # The books know better: they see every block.
            self.assertEqual(tracker.to_dict()["peak"]["bytes"], 8 * MIB)

    def test_snapshots_are_compared(self):
        tracker = MemoryTracker(self.pool)
        with tracker:
            first = tracker.snapshot("before")
            block = self.pool.take(4 * MIB)
            tracker.snapshot("with")
            self.pool.give(block)
            tracker.snapshot("after")
            grown = tracker.compare("before", "with")
            self.assertEqual(
                (grown.delta_bytes, grown.delta_blocks, grown.delta_mb), (4 * MIB, 1, 4)
            )
            over = tracker.compare(first, "after")
            self.assertEqual((over.delta_bytes, over.peak_allocated_bytes), (0, 4 * MIB))
            with self.assertRaisesRegex(ValueError, "second is 'none'.*'before', 'with', 'after'"):
                tracker.compare("before", "none")
        self.assertEqual(tracker.get_snapshot("with").allocated_mb, 4)
        self.assertEqual(tracker.get_snapshot("with").max_allocated_mb, 4)
        self.assertIsNone(tracker.get_snapshot("none"))
        self.assertIsNone(tracker.get_delta("none"))


class FakePool:
    """What the books need to know of a pool."""

    handle = True

    def __init__(self, number):
        self.number = number


class Books(unittest.TestCase):
    def test_holders_at_the_peak_against_a_model(self):
        """Every line's bytes at the peak and now, after every step of a random program, by a model
        that copies everything at each new peak."""
        for seed in range(20):
            random.seed(seed)
            pool = FakePool(1)
            books = _ledger.Ledger()
            # Lines are told apart by the part they are in.
            held, live, at_peak, peak = {}, {}, {}, 0
            for number in range(400):
                if live and random.random() < 0.48:
                    address = random.choice(list(live))
                    label, size = live.pop(address)
                    books(pool, address, -size)
                    held[label] -= size
                else:
                    label, size = f"part {random.randrange(6)}", random.randrange(1, 1000)
                    books.label(label)
                    books(pool, number + 1, size)
                    live[number + 1] = label, size
                    held[label] = held.get(label, 0) + size
                if sum(held.values()) > peak:
                    peak, at_peak = sum(held.values()), dict(held)
                if random.random() < 0.2:
                    books.settle()
                    self.assertEqual((books.held, books.peak), (sum(held.values()), peak))
                    found = {one["block"]: one["bytes"] for one in books.at_peak(10)}
                    self.assertEqual(found, {name: size for name, size in at_peak.items() if size})
                    now = {one["block"]: one["bytes"] for one in books.live(10)}
                    self.assertEqual(now, {name: size for name, size in held.items() if size})
                    self.assertLessEqual(len(books._touched), 6)
            books.settle()
            self.assertEqual(books.allocations - books.frees, len(live))

    def test_lines_are_named(self):
        pool = BlockPool(name="named")
        self.addCleanup(pool.close)
        tracker = MemoryTracker(pool, track_timeline=False)
        with tracker:
            with tracker.track("load"):
                first = pool.take(6 * MIB)
            second = pool.take(2 * MIB)
            pool.give(first)
        peak = tracker.to_dict()["peak"]
        # BlockPool.take is a line of this program as any other.
        code = BlockPool.take.__code__
        where = {(one["file"], one["block"]): one["bytes"] for one in peak["holders"]}
        self.assertEqual(
            where, {(code.co_filename, "load"): 6 * MIB, (code.co_filename, ""): 2 * MIB}
        )
        live = tracker.to_dict()["live"]["holders"]
        self.assertEqual([(one["bytes"], one["blocks"]) for one in live], [(2 * MIB, 1)])
        pool.give(second)

    def test_lines_of_the_package_are_nobodys(self):
        books = _ledger.Ledger()
        _observe.observers.append(books)
        try:
            _observe.tell(FakePool(1), 1, 100)
            here = line_here() - 1
        finally:
            _observe.observers.remove(books)
        books.settle()
        self.assertEqual(
            [(one["file"], one["line"]) for one in books.at_peak()], [(__file__, here)]
        )

    def test_blocks_from_before_and_of_closed_pools(self):
        books = _ledger.Ledger()
        pool, other = FakePool(1), FakePool(2)
        books(pool, 5, -100)
        books(pool, 6, 70)
        books(other, 6, 50)
        books.settle()
        self.assertEqual((books.held, books.unknown_frees), (120, 1))
        pool.handle = None
        books.settle()
        self.assertEqual(books.held, 50)
        # Nothing is kept that its user let go.
        del other
        books.settle()
        self.assertEqual((books.held, books.live()), (0, []))

    def test_a_free_that_nobody_told_of(self):
        books, pool = _ledger.Ledger(), FakePool(1)
        books(pool, 5, 100)
        books(pool, 5, 30)
        books.settle()
        self.assertEqual((books.held, books.peak), (30, 100))
        books(pool, 5, -30)
        books.settle()
        self.assertEqual((books.held, books.live()), (0, []))

    def test_finalizers_may_free_while_books_are_kept(self):
        """A free that comes out of the garbage collector, in the middle of a call on that
        thread."""
        pool = FakePool(1)

        class Block:
            def __init__(self, address):
                self.address, self.me = address, self
                books(pool, address, 10)

            def __del__(self):
                books(pool, self.address, -10)

        books = _ledger.Ledger()
        before = gc.get_threshold()
        gc.set_threshold(5)
        try:
            for number in range(5000):
                Block(number)
                if number % 100 == 0:
                    books.settle()
        finally:
            gc.set_threshold(*before)
        gc.collect()
        books.settle()
        self.assertEqual((books.held, books.allocations, books.frees), (0, 5000, 5000))

    def test_threads(self):
        books, pools = _ledger.Ledger(), [FakePool(number) for number in range(4)]

        def work(pool):
            books.label(f"thread {pool.number}")
            for number in range(3000):
                books(pool, number, 8)
                if number % 2:
                    books(pool, number, -8)

        threads = [threading.Thread(target=work, args=(pool,)) for pool in pools]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        books.settle()
        self.assertEqual(books.held, 4 * 1500 * 8)
        self.assertEqual({one["bytes"] for one in books.live()}, {1500 * 8})
        self.assertEqual(len(books.live()), 4)

    def test_growth_needs_a_line_through_the_steps(self):
        pool, books = FakePool(1), _ledger.Ledger()
        random.seed(1)
        address = 0
        for step in range(40):
            books.label("grows")
            address += 1
            books(pool, address, 1000 + random.randrange(100))
            if step == 0:
                books.label("stays")
                books(pool, 10**6, 5000)
            # Up and down, and no way to say whether it grows.
            books.label("wobbles")
            books(pool, 2 * 10**6 + step, random.randrange(1, 10**5))
            if step:
                books(pool, 2 * 10**6 + step - 1, -1)
            books.step()
        grown = books.growth()
        self.assertEqual([one["block"] for one in grown], ["grows"])
        self.assertAlmostEqual(grown[0]["bytes_per_step"], 1050, delta=30)

    def test_the_fit_is_that_of_least_squares(self):
        random.seed(3)
        for _ in range(50):
            ys = [random.randrange(10**13) + 10**12 * x for x in range(random.randrange(5, 60))]
            xs = range(len(ys))
            slope, determined = _ledger.fit(
                len(ys), sum(ys), sum(x * y for x, y in zip(xs, ys)), sum(y * y for y in ys)
            )
            self.assertAlmostEqual(slope / np.polyfit(xs, ys, 1)[0], 1, places=6)
            self.assertAlmostEqual(determined, np.corrcoef(xs, ys)[0, 1] ** 2, places=6)
        self.assertEqual(_ledger.fit(4, 1, 1, 1), (0, 0))
        self.assertEqual(_ledger.fit(9, 9 * 7, 7 * 36, 9 * 49), (0, 0))

    def test_names_of_parts_are_bounded(self):
        books = _ledger.Ledger()
        for number in range(1000):
            books.label(f"part {number}")
            books(FakePool(1), number, 1)
        books.settle()
        self.assertLessEqual(len(books._lines), _ledger._LABELS)


class Watching(unittest.TestCase):
    def test_a_thread_lives_as_long_as_the_block(self):
        def names():
            return [thread.name for thread in threading.enumerate()]

        tracker = MemoryTracker(interval=1)
        self.assertNotIn("forebay-tracker", names())
        with tracker:
            self.assertIn("forebay-tracker", names())
            self.assertEqual(len(_observe.observers), 1)
            time.sleep(0.05)
        self.assertNotIn("forebay-tracker", names())
        self.assertEqual(_observe.observers, [])
        self.assertGreater(len(tracker.get_allocation_timeline()), 3)
        with MemoryTracker(track_timeline=False, track_allocations=False):
            self.assertNotIn("forebay-tracker", names())
            self.assertEqual(_observe.observers, [])

    def test_it_ends_with_an_error_too(self):
        tracker = MemoryTracker(interval=1)
        with self.assertRaises(ZeroDivisionError), tracker, tracker.track("part"):
            raise ZeroDivisionError
        self.assertEqual(_observe.observers, [])
        self.assertIsNotNone(tracker.get_delta("part"))
        self.assertIn("ended", repr(tracker))

    def test_pools_come_and_go_meanwhile(self):
        """Counters are never read of a pool that is being ended."""
        stop, failed = threading.Event(), []

        def churn():
            try:
                while not stop.is_set():
                    pool = BlockPool(name="short")
                    pool.give(pool.take(MIB))
                    pool.close()
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=churn) for _ in range(2)]
        tracker = MemoryTracker(interval=0.2)
        with tracker:
            for thread in threads:
                thread.start()
            for _ in range(50):
                with tracker.track("part"):
                    tracker.snapshot()
                tracker.step()
            stop.set()
            for thread in threads:
                thread.join()
        self.assertEqual(failed, [])
        self.assertEqual(tracker.get_stats()["leaked_bytes"], 0)
        json.loads(tracker.to_json())

    def test_it_keeps_no_pool(self):
        tracker = MemoryTracker()
        with tracker:
            pool = BlockPool(name="dropped")
            pool.take(MIB)
            number = pool.number
            del pool
            gc.collect()
            self.assertNotIn(number, [one.number for one in forebay.pools()])
        self.assertEqual(tracker.to_dict()["live"]["holders"], [])

    def test_without_pools_it_is_the_process(self):
        program = (
            "import numpy as np; from forebay.profiler import MemoryTracker\n"
            "tracker = MemoryTracker(interval=5, trace_python=True)\n"
            "with tracker:\n"
            "    kept = np.arange(30 << 17)\n"
            "    del kept\n"
            "    kept = np.arange(10 << 17)\n"
            "stats = tracker.get_stats()\n"
            "assert stats['source'] == 'process', stats\n"
            "assert stats['current_allocated'] - stats['entry_allocated'] > 9 << 20, stats\n"
            "assert 30 << 20 <= stats['peak_python'] < 45 << 20, stats\n"
            "tracker.print_summary()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("no forebay pool was open", done.stdout)
        self.assertIn("10.0Mi more at <string>:6", done.stdout)

    def test_it_is_entered_again(self):
        pool = BlockPool(name="again")
        self.addCleanup(pool.close)
        tracker = MemoryTracker(pool)
        with tracker:
            pool.give(pool.take(9 * MIB))
        with tracker:
            pool.give(pool.take(2 * MIB))
            with self.assertRaisesRegex(forebay.ForebayError, "in a block already"):
                tracker.__enter__()
            # While it runs it says what is so far.
            self.assertEqual(tracker.get_stats()["peak_requested"], 2 * MIB)
        self.assertEqual(tracker.get_stats()["peak_requested"], 2 * MIB)

    def test_wrong_use(self):
        for interval in (0, -1, "5", None, True, float("nan")):
            with self.assertRaisesRegex(ValueError, "interval is"):
                MemoryTracker(interval=interval)
        with self.assertRaisesRegex(TypeError, "pools has 'cpu'"):
            MemoryTracker(pools=["cpu"])
        tracker = MemoryTracker()
        for call in (tracker.step, tracker.snapshot, tracker.get_stats, tracker.print_summary):
            with self.assertRaisesRegex(forebay.ForebayError, "is in no block"):
                call()
        self.assertIsNone(tracker._repr_html_())

    def test_a_child_of_fork_is_not_watched(self):
        tracker = MemoryTracker(interval=1)
        with tracker:
            pid = os.fork()
            if pid == 0:
                try:
                    watched = bool(_observe.observers)
                    with BlockPool(name="child") as pool:
                        pool.give(pool.take(MIB))
                        pool.statistics()
                    os._exit(1 if watched else 0)
                except BaseException:
                    os._exit(2)
            self.assertEqual(os.waitpid(pid, 0)[1], 0)
            self.assertEqual(len(_observe.observers), 1)

    def test_forks_while_it_reads(self):
        """A child may use pools and trackers of its own, and leave the block, whenever it began."""
        pool = BlockPool(name="parent")
        self.addCleanup(pool.close)
        for _ in range(20):
            pid = None
            with MemoryTracker(interval=0.01):
                pool.give(pool.take(MIB))
                pid = os.fork()
                if pid:
                    # It has so long to hang.
                    until = time.monotonic() + 60
                    ended = (0, 0)
                    while ended == (0, 0):
                        self.assertLess(time.monotonic(), until)
                        ended = os.waitpid(pid, os.WNOHANG)
                        time.sleep(0.001)
                    self.assertEqual(ended, (pid, 0))
            if pid == 0:
                status = 1
                try:
                    with BlockPool(name="child") as mine, MemoryTracker(mine) as tracker:
                        mine.give(mine.take(MIB))
                    status = 0 if tracker.get_stats()["peak_requested"] == MIB else 2
                finally:
                    os._exit(status)

    def test_caches_are_told_of(self):
        with TensorCache(max_size=4) as cache:
            cache.add(np.zeros(1000))
            cache.get(1000, float)
            tracker = MemoryTracker()
            with tracker:
                cache.get(1000, float)
                cache.get(999, float)
            told = tracker.to_dict()["caches"]
            self.assertEqual([(one["hits"], one["misses"]) for one in told], [(1, 1)])
            self.assertIn("50 % hits", tracker.summary())


    def test_what_caches_and_loaders_hold_is_seen(self):
        with TensorCache(max_size=2000) as cache:
            tracker = MemoryTracker()
            with tracker:
                for number in range(1500):
                    cache.add(np.zeros(1000 + number))
                with Prefetcher(lookahead=1).wrap([np.zeros(500_000)] * 3) as loader:
                    self.assertEqual(sum(batch.size for batch in loader), 1_500_000)
                    tracker.step()
            told = {pool["name"]: pool for pool in tracker.to_dict()["pools"]}
            mine, slots = told[f"cache #{cache.number}"], told[f"prefetch #{loader.number}"]
            self.assertEqual((mine["part_of"], mine["closed"]), ("cache", False))
            self.assertEqual((slots["part_of"], slots["closed"]), ("prefetch", True))
            self.assertEqual(mine["requested"]["current"], sum(range(1000, 2500)) * 8)
            self.assertEqual(slots["requested"]["peak"], 2 * 4_000_000)
            # What they chose for their pools is no advice to anybody.
            for told in tracker.to_dict()["actions"]:
                self.assertNotIn(told["kind"], ("misses", "rounding", "fragmentation"))


class Arrays(unittest.TestCase):
    """Arrays of MemoryPool: each allocation and each way to free one is told."""

    def setUp(self):
        self.pool = MemoryPool(64 * MIB, device="cpu", name="arrays")
        self.addCleanup(self.pool.close)

    def test_every_way_to_free(self):
        tracker = MemoryTracker(self.pool, track_timeline=False)
        with tracker:
            freed, first = self.pool.allocate((256, 1024)), line_here()
            dropped, second = self.pool.allocate((256, 1024)), line_here()
            kept, third = self.pool.allocate(MIB), line_here()
            view = dropped[10:]
            del dropped
            self.assertEqual(len(tracker.to_dict()["live"]["holders"]), 3)
            self.pool.free(freed)
            del view
            gc.collect()
            holders = tracker.to_dict()["live"]["holders"]
            self.assertEqual([(one["line"], one["bytes"]) for one in holders], [(third, MIB)])
            self.pool.free(kept)
        told = tracker.to_dict()
        self.assertEqual(told["live"], {"bytes": 0, "blocks": 0, "holders": []})
        lines = sorted((one["file"], one["line"], one["bytes"]) for one in told["peak"]["holders"])
        self.assertEqual(lines, [(__file__, line, MIB) for line in (first, second, third)])
        self.assertEqual(told["peak"]["unseen_bytes"], 0)
        self.assertEqual(tracker.get_stats()["num_frees"], 3)

    def test_threads(self):
        tracker, failed = MemoryTracker(self.pool, interval=1), []

        def work():
            try:
                for number in range(300):
                    with tracker.track("work"):
                        tensor = self.pool.allocate((number % 7 + 1, 1000))
                        if number % 2:
                            self.pool.free(tensor)
                        del tensor
            except Exception as error:
                failed.append(error)

        with tracker:
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.assertEqual(failed, [])
        stats = tracker.get_stats()
        self.assertEqual((stats["num_allocations"], stats["num_frees"]), (1200, 1200))
        told = tracker.to_dict()
        self.assertEqual(told["live"]["holders"], [])
        self.assertEqual(told["blocks"][0]["times"], 1200)
        # The books are kept in the order of events, and so is the pool: up to four threads are
        # between the two.
        self.assertLessEqual(abs(told["peak"]["bytes"] - told["peaks"]["requested"]), 4 * 7 * 4000)


class TimelineTest(unittest.TestCase):
    def test_it_is_bounded_and_keeps_the_highest(self):
        random.seed(9)
        timeline, highest = Timeline(), 0
        for number in range(70_000):
            value = random.randrange(10**9)
            highest = max(highest, value)
            timeline.add({"time_s": number, "bytes": value})
        points = timeline.points()
        self.assertLessEqual(len(points), 2 * _POINTS)
        self.assertGreater(len(points), _POINTS // 2)
        self.assertEqual(max(point["bytes"] for point in points), highest)
        times = [point["time_s"] for point in points]
        self.assertEqual(times, sorted(times))
        self.assertEqual(times[-1], 69_999)

    def test_points_have_what_was_read(self):
        pool = BlockPool(name="line")
        self.addCleanup(pool.close)
        tracker = MemoryTracker(pool, track_timeline=False)
        with tracker:
            tracker.step()
            block = pool.take(MIB)
            tracker.step()
            pool.give(block)
        points = tracker.get_allocation_timeline()
        self.assertEqual([point["requested_bytes"] for point in points], [0, 0, MIB, 0])
        self.assertEqual([point["step"] for point in points], [0, 0, 1, 2])
        self.assertGreater(points[0]["rss_bytes"], MIB)


def everything(long=True):
    """A result that has something to say in every section."""
    name = "n" * 200 if long else "work"
    holder = {"file": f"/x/{name}.py", "line": 123456, "function": name, "block": name}
    level = {"entry": 1 << 40, "current": 1023 << 40, "peak": 1023 << 40}
    pool = {
        "number": 1,
        "name": name,
        "device": "cuda:0",
        "closed": False,
        "policy": "balanced",
        "requested": {**level, "peak": 300 << 40},
        "allocated": level,
        "reserved": level,
        "limit_bytes": 1023 << 40,
        "live_blocks": {"entry": 0, "current": 10**9},
        "allocations": 10**12,
        "frees": 10**12,
        "hits": 10**12,
        "misses": 10**12,
        "failed": 10**9,
        "invalid_frees": 1,
        "system_calls": 10**9,
        "trims": 1,
        "requested_total": 1 << 60,
        "allocated_total": 1 << 60,
        "reserved_total": 1 << 60,
        "external_fragmentation": 0.99,
        "internal_fragmentation": 0.99,
        "free_bytes": 900 << 40,
        "idle_bytes": 900 << 40,
        "waiting_bytes": 0,
        "front_cache_bytes": 0,
        "largest_free_run": 1,
    }
    found = {
        "schema": 1,
        "name": name,
        "source": "pools",
        "seconds": 1e6,
        "steps": 10**6,
        "pools": [dict(pool, closed=number > 6) for number in range(9)],
        "process": {"entry_rss_bytes": 1 << 50, "rss_bytes": 1 << 50, "peak_rss_bytes": 1 << 50},
        "peaks": {"requested": 1 << 50, "allocated": 1 << 50, "reserved": 1 << 50},
        "peak": {
            "bytes": 100 << 40,
            "time_s": 1e6,
            "step": 10**6,
            "block": name,
            "unseen_bytes": 1 << 40,
            "holders": [{**holder, "bytes": 9 << 40}] * 10,
        },
        "live": {
            "bytes": 9 << 40,
            "blocks": 10**9,
            "holders": [{**holder, "bytes": 1 << 40, "blocks": 9}] * 9,
        },
        "growth": {
            "requested_bytes_per_step": 1 << 40,
            "rss_bytes_per_step": 1 << 40,
            "lines": [{**holder, "bytes_per_step": 1 << 40, "r_squared": 0.99}] * 5,
        },
        "blocks": [
            {
                "name": name,
                "peak_allocated_bytes": 1 << 50,
                "delta_bytes": -(1 << 50),
                "times": 10**9,
                "seconds": 9e5,
            }
        ]
        * 9,
        "caches": [
            {
                "name": name,
                "bytes": 1 << 50,
                "entries": 10**9,
                "hits": 1,
                "misses": 1,
                "evicted": 10**9,
                "policy": "lru",
            }
        ]
        * 3,
        "prefetchers": [
            {"name": name, "num_items": 10**9, "late": 10**9, "verdict": "bound by: loader"}
        ]
        * 3,
        "python": {
            "current_bytes": 1 << 50,
            "peak_bytes": 1 << 50,
            "entry_bytes": 1 << 50,
            "grown": [{**holder, "bytes": 1 << 40, "blocks": 1}] * 10,
        },
    }
    found["actions"] = _advice.actions(found)
    return found


class Saying(unittest.TestCase):
    def assertFits(self, text):
        lines = text.split("\n")
        self.assertLessEqual(len(lines), 40, text)
        for line in lines:
            self.assertLessEqual(len(line), 80, line)

    def test_it_fits_whatever_there_is_to_say(self):
        found = everything()
        text = _summary.text(found)
        self.assertFits(text)
        # Nothing was cut off: the last section is there, and has its three.
        self.assertEqual(len(found["actions"]), 3)
        what = text[text.index("What to do") :]
        self.assertEqual(sum(line.startswith("- ") for line in what.split("\n")), 3)

    def test_numbers_of_a_small_program(self):
        pool = BlockPool(name="small", max_bytes=64 * MIB)
        self.addCleanup(pool.close)
        tracker = MemoryTracker(pool, name="demo")
        with tracker:
            for _ in range(3):
                with tracker.track("forward"):
                    pool.give(pool.take(16 * MIB))
                tracker.step()
        out = io.StringIO()
        tracker.print_summary(out)
        text = out.getvalue()
        self.assertFits(text.rstrip("\n"))
        self.assertRegex(text, r"^Memory demo: .*, 3 steps\n")
        self.assertRegex(text, r"\nsmall +0 +16\.0Mi +0 +16\.0Mi +16\.0Mi +16\.0Mi +25 %\n")
        self.assertRegex(
            text, r"\nPeak: 16\.0 MiB at .*, in step 0, in 'forward'; held by\n +16\.0 MiB  100 %"
        )
        self.assertRegex(text, r"3 allocations \(.*/s\), 3 frees, 67 % hits")
        self.assertRegex(text, r"\n  forward +16\.0 MiB +0 B +3 ")
        # It gives idle memory back when told to, and that is all there is to do.
        self.assertRegex(text, r"What to do\n- 16\.0 MiB of 'small' are idle: trim\(\)")
        self.assertNotIn("Growth", text)
        self.assertNotIn("Not there at the start", text)

    def test_nothing_to_do_is_not_said(self):
        pool = BlockPool(name="fine")
        self.addCleanup(pool.close)
        block = pool.take(16 * MIB)
        tracker = MemoryTracker(pool)
        with tracker:
            pass
        self.assertEqual(tracker.to_dict()["actions"], [])
        self.assertNotIn("What to do", tracker.summary())
        pool.give(block)

    def test_growth_is_said_with_its_bytes(self):
        pool = BlockPool(name="grows")
        self.addCleanup(pool.close)
        tracker = MemoryTracker(pool)
        with tracker:
            for _ in range(12):
                pool.take(2 * MIB)
                tracker.step()
        action = tracker.to_dict()["actions"][0]
        self.assertEqual((action["kind"], action["bytes"]), ("growth", 22 * MIB))
        self.assertIn(
            "2.00 MiB a step, 22.0 MiB in 12 steps, most of it from blocks.py:", action["message"]
        )

    def test_what_was_let_go_of_is_no_growth_to_mend(self):
        pool = BlockPool(name="shrinks")
        self.addCleanup(pool.close)
        tracker = MemoryTracker(pool)
        with tracker:
            kept = []
            for _ in range(12):
                kept.append(pool.take(2 * MIB))
                tracker.step()
            while kept:
                pool.give(kept.pop())
        self.assertEqual(tracker.to_dict()["growth"]["requested_bytes_per_step"], 2 * MIB)
        self.assertNotIn("growth", [one["kind"] for one in tracker.to_dict()["actions"]])

    def test_a_limit_that_was_hit_is_said(self):
        pool = BlockPool(name="tight", max_bytes=8 * MIB)
        self.addCleanup(pool.close)
        tracker = MemoryTracker(pool)
        with tracker:
            block = pool.take(6 * MIB)
            with self.assertRaises(forebay.ForebayError):
                pool.take(16 * MIB)
        kinds = [one["kind"] for one in tracker.to_dict()["actions"]]
        self.assertIn("limit", kinds)
        pool.give(block)

    def test_json_is_exact(self):
        pool = BlockPool(name="json")
        self.addCleanup(pool.close)
        tracker = MemoryTracker(pool)
        with tracker:
            pool.give(pool.take(12345))
        told = json.loads(tracker.to_json())
        self.assertEqual(told["pools"][0]["requested"]["peak"], 12345)
        self.assertEqual(told["timeline"], tracker.get_allocation_timeline())

    def test_notebooks_get_escaped_html(self):
        found = everything()
        found["pools"][0]["name"] = "<script>alert(1)</script>"
        found["peak"]["holders"][0]["block"] = '"><img src=x>'
        page = _summary.html(
            found,
            [
                {"time_s": 0, "reserved_bytes": 0},
                {"time_s": 1, "reserved_bytes": 9, "allocated_bytes": 4},
            ][:0],
        )
        self.assertNotIn("<script", page)
        self.assertNotIn("<img", page)
        seen = []

        class Tags(HTMLParser):
            def handle_starttag(self, tag, attributes):
                seen.append(tag)
                for name, value in attributes:
                    assert name not in ("src", "href", "onload"), (tag, name, value)

        Tags().feed(page)
        self.assertIn("table", seen)
        tracker = MemoryTracker(interval=1)
        with tracker:
            time.sleep(0.02)
        self.assertIn("<svg", tracker._repr_html_())

    def test_units(self):
        for number, text in (
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10 * 1024, "10.0 KiB"),
            (1023.7 * 1024, "1.00 MiB"),
            (MIB - 1, "1.00 MiB"),
            (100 * MIB, "100 MiB"),
            (-3 << 30, "-3.00 GiB"),
            (1 << 60, "1.00 EiB"),
        ):
            self.assertEqual(_units.size(number), text)
        for number, text in (
            (0, "0"),
            (7, "7"),
            (0.25, "0.2"),
            (999, "999"),
            (999.6, "1.0k"),
            (12345, "12.3k"),
            (999_600, "1.0M"),
            (2e9, "2.0G"),
            (5e12, "5000G"),
        ):
            self.assertEqual(_units.count(number), text)
        for number, text in (
            (0, "0 us"),
            (2e-6, "2.00 us"),
            (0.0123, "12.3 ms"),
            (4.561, "4.56 s"),
            (75, "1 min 15 s"),
            (3723, "1:02:03"),
        ):
            self.assertEqual(_units.span(number), text)


class Imports(unittest.TestCase):
    def test_they_start_and_load_nothing(self):
        program = (
            "import sys, threading, forebay, forebay.profiler, forebay.publishing, forebay._top\n"
            "from forebay.formats import openmetrics\n"
            "from forebay import _library, _observe\n"
            "assert _library.library.cache_info().currsize == 0\n"
            "assert threading.active_count() == 1 and not _observe.observers\n"
            "assert 'numpy' not in sys.modules and 'tracemalloc' not in sys.modules\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))


class Pages(unittest.TestCase):
    def test_examples_run(self):
        """Each block of a page, in order, as one program."""
        for page in ("profiler.md", "top.md"):
            text = (REPOSITORY / "docs" / "python" / page).read_text()
            blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
            self.assertTrue(blocks, page)
            with tempfile.TemporaryDirectory() as folder:
                program = pathlib.Path(folder, "train.py")
                program.write_text("\n".join(blocks))
                done = subprocess.run(
                    [sys.executable, program], capture_output=True, text=True, env=os.environ
                )
            self.assertEqual((done.returncode, done.stderr), (0, ""), page)
            if page == "profiler.md":
                # What the page shows is what it prints, but for times and what the process has.
                shown = text[text.index("```\nMemory:") :]
                for line in (
                    "40.0 MiB   91 %  train.py:",
                    "Growth: 2.00 MiB a step of what is requested",
                ):
                    self.assertIn(line, shown)
                    self.assertIn(line, done.stdout)


if __name__ == "__main__":
    unittest.main()
