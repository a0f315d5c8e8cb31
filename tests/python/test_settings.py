"""What `forebay.configure` finds: on a machine with no GPU, and on the simulated driver."""

# Needs: numpy

import os
import subprocess
import sys
import unittest
from unittest import mock

import forebay
from forebay import settings

_NAMES = ("POOL_SIZE", "MAX_PINNED", "POLICY", "DEVICE")


class Configure(unittest.TestCase):
    def setUp(self):
        clean = mock.patch.dict(os.environ)
        clean.start()
        self.addCleanup(clean.stop)
        names = [f"FOREBAY_{name}" for name in _NAMES]
        for name in (*names, "LOCAL_RANK", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES"):
            os.environ.pop(name, None)
        settings._current = None

    def with_gpus(self, *sizes):
        """As if the driver had GPUs with so many bytes."""
        for name, function in (
            ("_gpu_count", lambda: len(sizes)),
            ("_gpu_bytes", lambda index: sizes[index] if index < len(sizes) else 0),
        ):
            patch = mock.patch.object(settings, name, function)
            patch.start()
            self.addCleanup(patch.stop)

    def test_sizes_on_the_host_are_of_the_share(self):
        made = forebay.configure(
            "60%", "8GiB", device="cpu", local_world_size=4, host_bytes=1000
        )
        self.assertEqual((made.pool_size, made.max_pinned), (600, 8 << 30))
        with mock.patch.object(settings, "_available", lambda: 64 << 30):
            made = forebay.configure(0.5, 0.25, device="cpu", local_world_size=4)
        self.assertEqual((made.pool_size, made.max_pinned), (8 << 30, 4 << 30))
        made = forebay.configure(device="cpu")
        self.assertEqual((made.pool_size, made.max_pinned, made.policy), (None, None, "balanced"))

    def test_what_is_left_is_read(self):
        share = forebay.configure("100%", device="cpu", local_world_size=2).pool_size
        with open("/proc/meminfo") as lines:
            total = int(next(lines).split()[1]) << 10
        self.assertTrue(0 < share <= total // 2)

    def test_sizes_on_a_gpu_are_of_the_gpu(self):
        self.with_gpus(80 << 30, 40 << 30)
        made = forebay.configure("50%", 0.5, local_rank=1, local_world_size=2, host_bytes=64)
        self.assertEqual((made.device, made.pool_size), ("cuda:1", 20 << 30))
        # Pinned memory is the host's.
        self.assertEqual(made.max_pinned, 32)
        with self.assertRaisesRegex(ValueError, "pool_size is '60%': a part of .* cuda:5"):
            forebay.configure("60%", device="cuda:5")

    def test_the_local_device(self):
        self.assertEqual(forebay.configure(device="cuda").device, "cuda:0")
        self.with_gpus()
        self.assertEqual(forebay.configure().device, "cpu")
        self.with_gpus(1, 1, 1)
        self.assertEqual(forebay.configure().device, "cuda:0")
        self.assertEqual(forebay.configure(local_rank=2).device, "cuda:2")
        os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"] = "1", "2"
        made = forebay.configure()
        self.assertEqual((made.device, made.local_rank, made.local_world_size), ("cuda:1", 1, 2))
        self.assertEqual(forebay.configure(local_rank=0).device, "cuda:0")
        self.assertEqual(forebay.configure(device="cuda:2").device, "cuda:2")
        with self.assertRaisesRegex(ValueError, "local_rank is 3, and this process sees 3 GPUs"):
            forebay.configure(local_rank=3, local_world_size=4)
        # A launcher that shows each worker its own.
        self.with_gpus(1)
        self.assertEqual(forebay.configure(local_rank=3, local_world_size=4).device, "cuda:0")

    def test_the_driver(self):
        """The simulated one, where the tests run with it."""
        made = forebay.configure("50%")
        if settings._driver() is None:
            self.assertEqual(made.device, "cpu")
        else:
            self.assertEqual(made.device, "cuda:0")
            self.assertEqual(made.pool_size, settings._gpu_bytes(0) // 2)
            self.assertGreater(made.pool_size, 1 << 20)
            self.assertEqual(settings._gpu_bytes(99), 0)
        # In whole pages.
        less = made.pool_size - made.pool().pool.statistics()["limit_bytes"]
        self.assertTrue(0 <= less < 2 << 20)
        made.close()

    def test_no_devices_to_see(self):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self.assertEqual(forebay.configure().device, "cpu")

    def test_the_environment(self):
        os.environ.update(
            FOREBAY_POOL_SIZE="25%",
            FOREBAY_MAX_PINNED="1e6",
            FOREBAY_POLICY="latency_first",
            FOREBAY_DEVICE="cpu",
        )
        made = forebay.configure(host_bytes=400)
        self.assertEqual((made.pool_size, made.max_pinned), (100, 1_000_000))
        self.assertEqual((made.policy, made.device), ("latency_first", "cpu"))
        # What is given counts more.
        made = forebay.configure("1 kB", policy="balanced", host_bytes=400)
        self.assertEqual((made.pool_size, made.policy), (1000, "balanced"))
        for name, value, message in (
            ("FOREBAY_POOL_SIZE", "lots", "FOREBAY_POOL_SIZE is 'lots'; it must be bytes"),
            ("FOREBAY_POLICY", "greedy", "FOREBAY_POLICY is 'greedy'; it must be one of"),
            ("FOREBAY_DEVICE", "tpu", "FOREBAY_DEVICE is 'tpu'; it must be 'local', 'cpu'"),
            ("LOCAL_RANK", "-1", "LOCAL_RANK is '-1'; it must be a whole number, 0 or more"),
            ("LOCAL_WORLD_SIZE", "0", "LOCAL_WORLD_SIZE is 0; it must be a whole .* 1 or more"),
        ):
            with mock.patch.dict(os.environ, {name: value}):
                with self.assertRaisesRegex(ValueError, message):
                    forebay.configure()

    def test_errors_change_nothing(self):
        made = forebay.configure("1 GiB", device="cpu")
        for arguments in (
            {"pool_size": "much"},
            {"max_pinned": -1},
            {"policy": "greedy"},
            {"device": "tpu"},
            {"device": "pinned"},
            {"local_rank": 4, "local_world_size": 4},
            {"local_rank": True},
        ):
            with self.assertRaisesRegex(ValueError, f"{next(iter(arguments))} is "):
                forebay.configure(**arguments)
        self.assertIs(settings.current(), made)

    def test_current_is_the_environment_where_nothing_was_said(self):
        os.environ["FOREBAY_POOL_SIZE"], os.environ["FOREBAY_DEVICE"] = "3MiB", "cpu"
        self.assertEqual(settings.current().pool_size, 3 << 20)

    def test_the_pool_keeps_the_bounds(self):
        made = forebay.configure("8 MiB", "1 MiB", "conservative", "cpu")
        self.assertEqual(forebay.pools(), [])
        pool = made.pool()
        self.assertIs(made.pool(), pool)
        self.assertEqual(forebay.pools(), [pool.pool])
        self.assertEqual(pool.pool.statistics()["limit_bytes"], 8 << 20)
        self.assertEqual(pool.pool.report()["policy"], "conservative")
        array = pool.allocate((1000,), "float64")
        prefetcher = made.prefetcher(lookahead=3, keep=1)
        self.assertEqual((prefetcher.lookahead, prefetcher.keep), (3, 1))
        self.assertEqual((prefetcher.device, prefetcher.max_pinned_bytes), ("cpu", 1 << 20))
        made.close()
        made.close()
        # It ends with its last array.
        array[:] = 1
        del array, pool
        self.assertEqual(forebay.pools(), [])
        again = made.pool()
        # A pool that somebody closed is opened anew.
        again.close()
        self.assertIsNotNone(made.pool().pool.handle)
        made.close()

    def test_a_child_of_fork_opens_its_own(self):
        made = forebay.configure("8 MiB", device="cpu")
        mine = made.pool()
        child = os.fork()
        if child == 0:
            own = made.pool()
            os._exit(0 if own is not mine and own.pool.handle is not None else 1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertIs(made.pool(), mine)
        made.close()

    def test_configuring_reserves_nothing(self):
        program = (
            "import forebay, sys; from forebay import _library\n"
            "forebay.configure('1GiB', device='cpu')\n"
            "assert _library.library.cache_info().currsize == 0 and 'numpy' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True)


if __name__ == "__main__":
    unittest.main()
