"""Pools on the workers of a Dask cluster: two processes, and one that joins later."""

import logging
import os
import pickle
import time
import unittest

from distributed import Client, LocalCluster

import forebay
from forebay.contrib.dask import ForebaySetup, aggregate, worker_pool

COLUMNS = ("forebay_requested_bytes", "forebay_reserved_bytes", "forebay_hit_rate")


def take(size, count=1):
    """A task: takes blocks, keeps none; which process, and what its pool may take."""
    pool = worker_pool()
    for _ in range(count):
        pool.free(pool.allocate((size,), "uint8"))
    return os.getpid(), pool.pool.statistics()["limit_bytes"], len(forebay.pools())


def pools_left():
    """A task: pools that stay. Dask's profiler may refer to a frame, and what is in it, for a
    moment."""
    until = time.monotonic() + 10
    while forebay.pools() and time.monotonic() < until:
        time.sleep(0.01)
    return len(forebay.pools())


def no_record(dask_worker):
    raise OSError("not today")


class Cluster(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            memory_limit="512MiB",
            dashboard_address=None,
            silence_logs=logging.ERROR,
        )
        cls.client = Client(cls.cluster)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.cluster.close()

    def setUp(self):
        self.client.register_plugin(ForebaySetup("50%", "10%", "conservative", device="cpu"))
        self.addCleanup(self.unregister)

    def unregister(self):
        # Some tests have done it.
        if "forebay" in self.cluster.scheduler.worker_plugins:
            self.client.unregister_worker_plugin("forebay")

    def on_each(self, function, *arguments):
        addresses = sorted(self.cluster.scheduler.workers)
        futures = [
            self.client.submit(function, *arguments, workers=[address], pure=False)
            for address in addresses
        ]
        return addresses, self.client.gather(futures)

    def metrics(self, address, condition):
        """The scheduler's view of a worker, once it is so."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            metrics = self.cluster.scheduler.workers[address].metrics
            if "forebay" in metrics and condition(metrics["forebay"]):
                return metrics
            time.sleep(0.05)
        self.fail(f"no heartbeat of {address} was so: {metrics.get('forebay')}")

    def test_a_pool_of_its_own_in_each(self):
        _, answers = self.on_each(take, 1 << 20)
        self.assertEqual(len({pid for pid, _, _ in answers}), 2)
        # Half of a worker's limit, not of the machine or the cluster.
        self.assertEqual([(limit, pools) for _, limit, pools in answers], [(256 << 20, 1)] * 2)

    def test_records_come_with_heartbeats(self):
        addresses, _ = self.on_each(take, 3 << 20, 7)
        for address in addresses:
            metrics = self.metrics(address, lambda record: record["allocations"] == 7)
            record = metrics["forebay"]
            self.assertEqual((record["workers"], record["pools"]), (1, 1))
            self.assertEqual(record["limit_bytes"], 256 << 20)
            self.assertGreaterEqual(record["reserved_peak_bytes"], 3 << 20)
            # As the dashboard takes them.
            self.assertEqual(metrics["forebay_reserved_bytes"], record["reserved_bytes"])
            for column in COLUMNS:
                self.assertIsInstance(metrics[column], str if "rate" in column else int)
            self.assertRegex(metrics["forebay_hit_rate"], r"^\d+\.\d%$")

    def test_aggregate(self):
        self.on_each(take, 1 << 20, 3)
        summary = aggregate(self.client)
        self.assertEqual(len(summary.workers), 2)
        self.assertEqual(summary.total["allocations"], 6)
        # Of three that there were in the test before, the cluster closed whichever it liked.
        self.assertRegex(" ".join(summary.total["names"]), "^worker [0-2] worker [0-2]$")
        self.assertEqual(summary.missing, {})
        self.assertRegex(str(summary), "^2 workers\n")

    def test_a_worker_that_joins_later(self):
        self.cluster.scale(3)
        self.client.wait_for_workers(3)
        try:
            addresses, answers = self.on_each(take, 1 << 20)
            self.assertEqual(len({pid for pid, _, _ in answers}), 3)
            self.assertEqual([limit for _, limit, _ in answers], [256 << 20] * 3)
            for address in addresses:
                self.metrics(address, lambda record: record["allocations"] >= 1)
            self.assertEqual(aggregate(self.client).total["workers"], 3)
        finally:
            self.cluster.scale(2)
            until = time.monotonic() + 20
            while len(self.cluster.scheduler.workers) != 2 and time.monotonic() < until:
                time.sleep(0.05)
        self.assertEqual(aggregate(self.client).total["workers"], 2)

    def test_registered_again_it_stays(self):
        before = self.on_each(take, 1 << 20)[1]
        self.client.register_plugin(ForebaySetup("1MiB", device="cpu"))
        self.assertEqual(self.on_each(take, 1 << 20)[1], before)
        self.unregister()
        self.client.register_plugin(ForebaySetup("64MiB", device="cpu"))
        self.assertEqual([limit for _, limit, _ in self.on_each(take, 1)[1]], [64 << 20] * 2)

    def test_unregistered_nothing_is_left(self):
        self.unregister()
        addresses, pools = self.on_each(pools_left)
        self.assertEqual(pools, [0, 0])
        for address in addresses:
            until = time.monotonic() + 20
            while "forebay" in self.cluster.scheduler.workers[address].metrics:
                self.assertLess(time.monotonic(), until)
                time.sleep(0.05)
        with self.assertRaisesRegex(ValueError, "this worker has no pool"):
            self.client.submit(take, 1, pure=False).result()
        self.assertEqual(aggregate(self.client).total["pools"], 0)

    def test_an_array_in_use_outlives_its_pool(self):
        def hold():
            import builtins

            builtins.forebay_held = worker_pool().allocate((1 << 20,), "uint8")

        def let_go():
            import builtins

            builtins.forebay_held[:] = 7
            total = int(builtins.forebay_held.sum())
            del builtins.forebay_held
            return total, pools_left()

        self.on_each(hold)
        self.unregister()
        self.assertEqual(self.on_each(let_go)[1], [(7 << 20, 0)] * 2)

    def test_an_error_of_a_worker_is_raised_here(self):
        self.unregister()
        with self.assertRaisesRegex(forebay.ForebayError, "driver|device"):
            self.client.register_plugin(ForebaySetup(device="cuda:77"))
        # And the workers work.
        self.assertEqual(len(aggregate(self.client).workers), 2)

    def test_who_does_not_answer(self):
        from unittest import mock

        with mock.patch("forebay.contrib.dask._of_process", no_record):
            summary = aggregate(self.client)
        self.assertEqual((len(summary.workers), len(summary.missing)), (0, 2))
        self.assertRegex(str(next(iter(summary.missing.values()))), "not today")


class OneProcess(unittest.TestCase):
    def test_workers_that_share_one_count_once(self):
        with LocalCluster(
            n_workers=2, processes=False, memory_limit=0, dashboard_address=None
        ) as cluster, Client(cluster) as client:
            client.register_plugin(ForebaySetup("8MiB", device="cpu"))
            summary = aggregate(client)
            self.assertEqual((len(summary.workers), summary.total["pools"]), (1, 2))


class Arguments(unittest.TestCase):
    def test_errors_on_the_client(self):
        for arguments, message in (
            ({"pool_size": "much"}, "pool_size is 'much'"),
            ({"max_pinned": "-1"}, "max_pinned is '-1'"),
            ({"policy": "greedy"}, "policy is 'greedy'; it must be one of 'balanced'"),
            ({"device": "tpu"}, "device is 'tpu'"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                ForebaySetup(**arguments)

    def test_pickles(self):
        plugin = pickle.loads(pickle.dumps(ForebaySetup("60%", "8GiB", device="cpu")))
        self.assertEqual((plugin.pool_size, plugin.max_pinned), ("60%", "8GiB"))
        self.assertEqual((plugin.name, plugin.idempotent), ("forebay", True))

    def test_outside_of_a_worker(self):
        with self.assertRaises(ValueError):
            worker_pool()


if __name__ == "__main__":
    unittest.main()
