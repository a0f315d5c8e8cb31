"""Records of workers: what adds up, side by side, and from this process."""

# Needs: numpy

import argparse
import contextlib
import gc
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
import unittest

import numpy as np

import forebay
from folder import InFolder
from forebay import workers
from forebay.cache import TensorCache
from forebay.prefetch import Prefetcher
from forebay.workers import RULES, Summary, WorkerStats, collect, merge


def random_record(chance, names):
    """A record of some workers whose names nobody else has."""
    record = WorkerStats()
    for field, rule in RULES.items():
        if rule in ("sum", "max"):
            record[field] = chance.choice((0, 1, chance.randrange(1 << 62)))
        elif rule == "add":
            record[field] = [chance.randrange(1 << 40) for _ in range(chance.randrange(9))]
    record["names"] = sorted(next(names) for _ in range(chance.randrange(3)))
    return record


def naming():
    number = 0
    while True:
        number += 1
        yield f"w{number}"


class Records(unittest.TestCase):
    def test_merging_is_associative_and_commutative(self):
        chance = random.Random(7)
        for _ in range(300):
            names = naming()
            a, b, c = (random_record(chance, names) for _ in range(3))
            before = json.dumps([a, b, c])
            self.assertEqual(a.merge(b), b.merge(a))
            self.assertEqual(a.merge(b).merge(c), a.merge(b.merge(c)))
            self.assertEqual(merge([a, b, c]), merge([c, a.merge(b)]))
            # Nothing is the record of nobody, and merging changes neither.
            self.assertEqual(a.merge(WorkerStats()), a)
            self.assertEqual(json.dumps([a, b, c]), before)
            # As itself after a way as JSON.
            self.assertEqual(WorkerStats(json.loads(json.dumps(a))), a)

    def test_each_field_by_its_rule(self):
        """Field by field, against sums over all that were merged."""
        chance, names = random.Random(11), naming()
        records = [random_record(chance, names) for _ in range(40)]
        merged = records[0]
        for record in records[1:]:
            merged = merged.merge(record)
        for field, rule in RULES.items():
            values = [record[field] for record in records]
            if rule == "sum":
                self.assertEqual(merged[field], sum(values), field)
            elif rule == "max":
                self.assertEqual(merged[field], max(values), field)
            elif rule == "add":
                longest = max(map(len, values))
                wanted = np.sum([value + [0] * (longest - len(value)) for value in values], axis=0)
                self.assertEqual(merged[field], wanted.tolist())
        names = sorted(one for record in records for one in record["names"])
        self.assertEqual(merged["names"], names)

    def test_ratios_are_of_sums(self):
        one = WorkerStats(names=["a"], workers=1, hits=1, misses=0)
        other = WorkerStats(names=["b"], workers=1, hits=1, misses=98)
        self.assertEqual((one.ratio("hit_rate"), other.ratio("hit_rate")), (1.0, 1 / 99))
        self.assertEqual(one.merge(other).ratio("hit_rate"), 0.02)
        self.assertIsNone(WorkerStats().ratio("hit_rate"))
        for name, (over, under) in workers.RATIOS.items():
            self.assertLessEqual({*over, *under}, set(RULES), name)

    def test_nobody_is_counted_twice(self):
        one = WorkerStats(names=["rank 3"], workers=1)
        with self.assertRaisesRegex(ValueError, "'rank 3' is in more than one"):
            one.merge(one)

    def test_what_is_no_record(self):
        for fields, message in (
            ({"version": 2}, "version 2; this package reads 1"),
            ({"hit_rate": 1}, "no field 'hit_rate'"),
            ({"hits": -1}, "hits is -1"),
            ({"hits": 0.5}, "hits is 0.5"),
            ({"hits": True}, "hits is True"),
            ({"names": "rank 0"}, "names is 'rank 0'; it must be a list"),
            ({"names": ["a", "a"]}, "more than once"),
            ({"step_histogram": [1, "2"]}, "step_histogram is"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                WorkerStats(fields)

    def test_buckets_of_steps(self):
        """Each time lies between the edges of its bucket, which is a fourth wide at most."""
        chance = random.Random(3)
        large = (chance.randrange(1 << chance.randrange(1, 63)) for _ in range(3000))
        for nanoseconds in (*range(300), *large):
            bucket = workers._bucket(nanoseconds)
            low, high = workers._edge(bucket), workers._edge(bucket + 1)
            self.assertTrue(low <= nanoseconds < high, nanoseconds)
            self.assertLessEqual(high - low, max(low / 4, 1))

    def test_quantiles(self):
        chance = random.Random(5)
        for _ in range(50):
            times = sorted(chance.randrange(1, 10**9) for _ in range(chance.randrange(1, 200)))
            steps = workers._Steps()
            for nanoseconds in times:
                steps.add(nanoseconds)
            record = WorkerStats()
            steps.into(record)
            self.assertEqual(record["longest_step_ns"], times[-1])
            for part in (0, 0.1, 0.5, 0.9, 0.99, 1):
                # The least time within which so many are done.
                exact = times[max(-(-round(part * len(times) * 1e6) // 10**6), 1) - 1]
                found = record.step_quantile(part)
                self.assertTrue(exact <= found <= exact * 1.25 + 1, (part, exact, found))
        self.assertIsNone(WorkerStats().step_quantile(0.5))
        with self.assertRaisesRegex(ValueError, "part is 2"):
            WorkerStats().step_quantile(2)


class SideBySide(unittest.TestCase):
    def of(self, **fields):
        """Records of as many workers as each field has values."""
        count = len(next(iter(fields.values())))
        return Summary(
            WorkerStats(
                {field: values[at] for field, values in fields.items()},
                names=[f"rank {at}"],
                workers=1,
            )
            for at in range(count)
        )

    def row(self, summary, field):
        return next(row for row in summary.rows() if row["field"] == field)

    def test_table(self):
        summary = self.of(
            reserved_bytes=[3 << 30, 1 << 30, 2 << 30],
            hits=[90, 99, 50],
            misses=[10, 1, 50],
            failed=[0, 0, 0],
            steps=[7, 7, 7],
        )
        row = self.row(summary, "reserved_bytes")
        self.assertEqual((row["min"], row["median"], row["max"]), (1 << 30, 2 << 30, 3 << 30))
        self.assertEqual(row["worker"], "rank 0")
        row = self.row(summary, "hit_rate")
        self.assertEqual((row["min"], row["median"], row["max"]), (0.5, 0.9, 0.99))
        self.assertEqual(row["worker"], "rank 1")
        self.assertIsNone(self.row(summary, "steps")["worker"])
        self.assertNotIn("failed", [row["field"] for row in summary.rows()])
        text = str(summary)
        self.assertRegex(text, r"^3 workers\n")
        self.assertRegex(text, r"reserved +1.00 GiB +2.00 GiB +3.00 GiB  rank 0\n")
        self.assertRegex(text, r"pool hits +50.00% +90.00% +99.00%  rank 1\n")
        self.assertIn("together: 6.00 GiB reserved", text)
        self.assertEqual(max(map(len, text.splitlines())) <= 80, True)
        again = Summary(json.loads(json.dumps(summary.to_dict()))["workers"])
        self.assertEqual(str(again), text)
        self.assertEqual(again.total, summary.total)

    def test_order_of_ranks(self):
        records = [WorkerStats(names=[f"rank {n}"], workers=1) for n in (10, 9, 0, 2)]
        records.append(WorkerStats(names=["a:80"], workers=1))
        names = [record["names"][0] for record in Summary(records).workers]
        self.assertEqual(names, ["a:80", "rank 0", "rank 2", "rank 9", "rank 10"])

    def test_straggler_by_steps(self):
        steps = [10, 10, 10]
        even = self.of(steps=steps, step_ns=[100_000_000, 110_000_000, 105_000_000])
        self.assertIsNone(even.straggler())
        late = self.of(steps=steps, step_ns=[100_000_000, 110_000_000, 200_000_000])
        found = late.straggler()
        self.assertEqual((found["kind"], found["worker"]), ("step", "rank 2"))
        self.assertEqual((found["value"], found["median"]), (2e7, 1.05e7))
        self.assertIn("rank 2 takes 20.00 ms for a step, the others 10.50 ms", str(late))
        # Two workers are enough, a few steps are not.
        self.assertIsNotNone(self.of(steps=[9, 9], step_ns=[9, 18]).straggler())
        self.assertIsNone(self.of(steps=[4, 4], step_ns=[4, 400]).straggler())
        self.assertIsNone(self.of(steps=[9], step_ns=[9]).straggler())

    def test_straggler_by_data(self):
        """Steps take the same, for all wait for all; who waits for its loader is the one."""
        summary = self.of(
            steps=[50] * 3,
            step_ns=[5000] * 3,
            batches=[50] * 3,
            batch_wait_ns=[100, 2500, 120],
            batch_wall_ns=[5000] * 3,
        )
        found = summary.straggler()
        self.assertEqual((found["kind"], found["worker"], found["value"]), ("data", "rank 1", 0.5))
        # All of them: nobody waits for anybody.
        alike = self.of(batches=[9] * 3, batch_wait_ns=[25] * 3, batch_wall_ns=[50] * 3)
        self.assertIsNone(alike.straggler())

    def test_memory_out_of_balance_is_no_straggler(self):
        summary = self.of(reserved_peak_bytes=[1 << 30, 1 << 30, 2 << 30])
        self.assertIsNone(summary.straggler())
        self.assertEqual([one["kind"] for one in summary.findings()], ["memory"])
        self.assertIn("rank 2 reserved 2.00 GiB at its peak, the others 1.00 GiB", str(summary))

    def test_a_summary_is_of_single_workers(self):
        merged = merge(WorkerStats(names=[f"rank {n}"], workers=1) for n in range(2))
        with self.assertRaisesRegex(ValueError, "of 2 workers; a summary takes those of one"):
            Summary([merged])
        self.assertEqual(str(Summary([])).splitlines()[0], "0 workers")


class ThisProcess(unittest.TestCase):
    def setUp(self):
        workers._steps.clear()

    def test_pools_caches_loaders_and_steps(self):
        before = collect("me")
        self.assertEqual((before["names"], before["workers"], before["version"]), (["me"], 1, 1))
        with forebay.Pool(max_bytes=64 << 20, initial_bytes=4 << 20), TensorCache() as cache:
            cache.add(np.zeros(1000, np.float32))
            cache.get(1000, np.float32)
            cache.get(1001, np.float32)
            with Prefetcher(lookahead=1).wrap([np.arange(10)] * 7) as loader:
                for _ in loader:
                    with workers.step():
                        pass
                record = collect("me")
        workers.record_step(0.25)
        # That of the cache, and that of the loader.
        self.assertEqual(record["pools"] - before["pools"], 3)
        self.assertGreaterEqual(record["reserved_bytes"] - before["reserved_bytes"], 4 << 20)
        self.assertEqual(record["host_reserved_bytes"], record["reserved_bytes"])
        self.assertEqual(record["limit_bytes"] - before["limit_bytes"], 64 << 20)
        self.assertEqual(record["caches"] - before["caches"], 1)
        for field, wanted in (("entries", 1), ("hits", 1), ("misses", 1), ("bytes", 4096)):
            difference = record[f"cache_{field}"] - before[f"cache_{field}"]
            self.assertTrue(wanted <= difference <= 2 * wanted, field)
        self.assertEqual((record["loaders"], record["batches"], record["batch_bytes"]), (1, 7, 560))
        self.assertGreater(record["batch_wall_ns"], 0)
        self.assertEqual((record["steps"], sum(record["step_histogram"])), (7, 7))
        self.assertGreater(record["rss_bytes"], 1 << 20)
        self.assertGreaterEqual(record["rss_peak_bytes"], record["rss_bytes"])
        # Closed by now.
        after = collect("me")
        self.assertEqual((after["caches"], after["loaders"]), (before["caches"], 0))
        self.assertEqual((after["steps"], after["longest_step_ns"]), (8, 250_000_000))

    def test_a_byte_of_a_cache_or_a_loader_is_counted_once(self):
        def reserved():
            return sum(pool.statistics()["reserved_bytes"] for pool in forebay.pools())

        gc.collect()
        before, known = collect("before"), set(forebay.pools())
        three = [np.zeros(300_000)] * 3
        with TensorCache() as cache, Prefetcher(lookahead=1).wrap(three) as loader:
            cache.add(np.zeros(500_000))
            batches = iter(loader)
            # Both slots are there.
            next(batches), next(batches)
            record = collect("now")
            opened = set(forebay.pools()) - known
            mine = {pool.part_of: pool.statistics() for pool in opened}
            self.assertEqual(set(mine), {"cache", "prefetch"})
            # In the pools all of it, once; what the cache holds is the part of that it is.
            self.assertEqual(record["reserved_bytes"], reserved())
            for kind in ("requested", "allocated", "reserved"):
                added = record[f"{kind}_bytes"] - before[f"{kind}_bytes"]
                self.assertEqual(added, sum(stats[f"{kind}_bytes"] for stats in mine.values()))
            self.assertEqual(mine["cache"]["requested_bytes"], 4_000_000)
            self.assertGreaterEqual(mine["prefetch"]["requested_bytes"], 2 * 2_400_000)
            held = record["cache_bytes"] - before["cache_bytes"]
            self.assertEqual(held, mine["cache"]["allocated_bytes"])
            self.assertEqual(record["loader_pinned_bytes"], 0)
            self.assertEqual(record["host_reserved_bytes"], record["reserved_bytes"])
            # Their bounds are their own.
            self.assertEqual(record["limit_bytes"], before["limit_bytes"])
            self.assertEqual(record["limited_bytes"], before["limited_bytes"])
            merged = before.merge(record)
            for field in ("reserved_bytes", "requested_bytes", "cache_bytes"):
                self.assertEqual(merged[field], before[field] + record[field])
            del batches, opened
        self.assertEqual(set(forebay.pools()), known)

    def test_a_step_that_raises_is_none(self):
        with self.assertRaises(KeyError), workers.step():
            raise KeyError
        self.assertEqual(collect()["steps"], 0)
        for seconds in (-1, float("nan"), float("inf")):
            with self.assertRaisesRegex(ValueError, "seconds is"):
                workers.record_step(seconds)

    def test_a_child_of_fork_has_steps_of_its_own(self):
        workers.record_step(1)
        with workers._steps.lock:
            child = os.fork()
            if child == 0:
                workers.record_step(2)
                record = collect()
                os._exit(0 if (record["steps"], record["step_ns"]) == (1, 2 * 10**9) else 1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertEqual(collect()["steps"], 1)

    def test_names(self):
        os.environ["RANK"] = "12"
        try:
            self.assertEqual(collect()["names"], ["rank 12"])
        finally:
            del os.environ["RANK"]
        self.assertRegex(collect()["names"][0], f":{os.getpid()}$")

    def test_nothing_is_opened_by_looking(self):
        """The library is not even loaded."""
        program = (
            "from forebay import workers, _library; import sys\n"
            "record = workers.collect()\n"
            "assert record['pools'] == record['caches'] == record['loaders'] == 0, record\n"
            "assert _library.library.cache_info().currsize == 0\n"
            "assert not {'numpy', 'torch', 'forebay.cache', 'forebay.prefetch'} & {*sys.modules}\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True)

    def test_while_others_open_and_close(self):
        over, errors = threading.Event(), []
        # So that threads meet in the middle of things.
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1e-6)
        again = Prefetcher(lookahead=0).wrap([np.zeros(4)] * 2)
        self.addCleanup(again.close)

        def churn():
            try:
                while not over.is_set():
                    for _ in again if threading.current_thread() is threads[0] else ():
                        pass
                    with forebay.Pool(initial_bytes=1 << 20), TensorCache() as cache:
                        cache.add(np.zeros(10))
                        for _ in Prefetcher(lookahead=1).wrap([np.zeros(4)]):
                            pass
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=churn) for _ in range(2)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            WorkerStats(collect())
        over.set()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])


class Files(InFolder):
    def run_merge(self, *arguments):
        parser = argparse.ArgumentParser()
        workers.add_arguments(parser)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = workers.run(parser.parse_args(arguments))
        return code, out.getvalue(), err.getvalue()

    def save(self, count):
        paths = []
        for rank in range(count):
            record = WorkerStats(names=[f"rank {rank}"], workers=1)
            record["reserved_bytes"] = (rank + 1) << 20
            paths.append(self.path(f"rank{rank}.json"))
            workers.save(paths[-1], record)
        return paths

    def test_merge(self):
        paths = self.save(3)
        code, out, err = self.run_merge(*paths)
        self.assertEqual((code, err), (0, ""))
        self.assertRegex(out, r"reserved +1.00 MiB +2.00 MiB +3.00 MiB  rank 2")
        code, out, _ = self.run_merge("--json", *paths)
        self.assertEqual((code, json.loads(out)["total"]["reserved_bytes"]), (0, 6 << 20))
        # What was merged can be merged again.
        all_of = self.path("all.json")
        self.assertEqual(self.run_merge(*paths[:2], "-o", all_of), (0, "", ""))
        code, out, _ = self.run_merge("--json", all_of, paths[2])
        self.assertEqual((code, json.loads(out)["total"]["workers"]), (0, 3))
        # Only whole files are there.
        self.assertEqual(len(os.listdir(self.folder)), 4)

    def test_errors_name_the_file(self):
        paths = self.save(1)
        code, out, err = self.run_merge(*paths, *paths)
        self.assertEqual((code, out), (1, ""))
        self.assertIn("'rank 0' is in more than one", err)
        code, _, err = self.run_merge(self.path("none.json"))
        self.assertEqual(code, 1)
        path = self.path("none.json")
        self.assertEqual(err, f"forebay merge: {path}: No such file or directory\n")
        code, _, err = self.run_merge(*paths, "-o", self.path("no/where.json"))
        self.assertEqual((code, err.count("\n")), (1, 1))
        self.assertIn("no/where.json", err)
        for text in ("", "[1]", "3", '{"hits": -1}', '{"version": 9}', "\0"):
            with open(self.path("bad.json"), "w") as file:
                file.write(text)
            code, _, err = self.run_merge(self.path("bad.json"))
            self.assertEqual(code, 1, text)
            self.assertIn("bad.json: ", err)
            self.assertEqual(err.count("\n"), 1)

    def test_save_leaves_nothing_half_written(self):
        with self.assertRaises(TypeError):
            workers.save(self.path("x.json"), {"hits": object()})
        self.assertEqual(os.listdir(self.folder), [])


if __name__ == "__main__":
    unittest.main()
