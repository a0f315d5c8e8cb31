"""forebay in Ray's workers: a cluster of two processes on this machine. `make test-ray`."""

import os
import re
import socket
import sys
import time
import unittest
import urllib.request

import ray

import forebay
from forebay.contrib import ray as contrib

sys.path.insert(1, os.path.join(os.path.dirname(__file__), "..", "python"))

from test_workers_docs import run_example  # noqa: E402


@ray.remote(num_cpus=0)
class Worker:
    def take(self, size, times):
        pool = forebay.settings.current().pool()
        for _ in range(times):
            pool.free(pool.allocate((size,), "uint8"))
        contrib.export_gauges()
        return os.getpid(), pool.pool.statistics()["limit_bytes"], pool.pool.report()["policy"]


class Ray(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            cls.port = free.getsockname()[1]
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100 << 20,
            runtime_env=contrib.runtime_env("64MiB", policy="conservative", device="cpu"),
            _metrics_export_port=cls.port,
        )
        cls.actors = [Worker.remote() for _ in range(2)]

    @classmethod
    def tearDownClass(cls):
        ray.shutdown()

    def test_each_is_configured(self):
        found = ray.get([actor.take.remote(1 << 20, 3) for actor in self.actors])
        self.assertEqual(len({pid for pid, _, _ in found}), 2)
        self.assertEqual([rest for _, *rest in found], [[64 << 20, "conservative"]] * 2)

    def test_records_side_by_side(self):
        before = contrib.gather(self.actors).total["allocations"]
        ray.get([actor.take.remote(1 << 20, 5) for actor in self.actors])
        summary = contrib.gather(self.actors)
        self.assertEqual(summary.total["names"], ["actor 0", "actor 1"])
        self.assertEqual(summary.total["allocations"] - before, 10)

    def metrics(self):
        """What Prometheus would be given; nothing as long as Ray's agent is on its way."""
        try:
            page = f"http://127.0.0.1:{self.port}/metrics"
            with urllib.request.urlopen(page, timeout=10) as answer:
                return answer.read().decode()
        except OSError:
            return ""

    def test_gauges_are_exported(self):
        ray.get([actor.take.remote(1 << 20, 5) for actor in self.actors])
        until, found = time.monotonic() + 60, []
        while time.monotonic() < until:
            text = self.metrics()
            found = re.findall(r"^ray_forebay_limit_bytes\{(.*)\} (\S+)$", text, re.MULTILINE)
            if len(found) == 2:
                break
            time.sleep(1)
        self.assertEqual([float(value) for _, value in found], [64 << 20] * 2)
        self.assertEqual(len({re.search('worker="([^"]+)"', tags)[1] for tags, _ in found}), 2)

    def test_what_cannot_be_read_is_said_here(self):
        with self.assertRaisesRegex(ValueError, "pool_size is 'much'"):
            contrib.runtime_env("much")
        made = contrib.runtime_env(0.5, 1 << 30)
        wanted = {"FOREBAY_POOL_SIZE": "0.5", "FOREBAY_MAX_PINNED": str(1 << 30)}
        self.assertEqual(made["env_vars"], wanted)


class Page(unittest.TestCase):
    def test_the_example(self):
        printed = run_example("ray.md")
        self.assertIn("[4000000, 4000000]\n", printed)
        self.assertIn("2 workers\n", printed)


if __name__ == "__main__":
    unittest.main()
