"""SystemMemoryMonitor: its numbers beside the kernel's own, limits that bind, GPUs made up."""

# Needs: numpy

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

from forebay import ForebayError, _library, monitor
from forebay.monitor import SystemMemoryMonitor

MIB = 1 << 20
ROOT = pathlib.Path(__file__).resolve().parents[2]


def meminfo(name):
    with open("/proc/meminfo") as file:
        lines = dict(line.split(":") for line in file)
    return int(lines[name].split()[0]) * 1024


def in_process(program, **environment):
    """What a Python program prints, as JSON."""
    environment = {**os.environ, **environment}
    output = subprocess.run([sys.executable, "-c", program], env=environment, check=True,
                            stdout=subprocess.PIPE)
    return json.loads(output.stdout)


class Monitor(unittest.TestCase):
    def test_the_wish(self):
        monitor = SystemMemoryMonitor()
        info = monitor.get_memory_info()
        for name in ("process_rss", "system_used", "system_available"):
            self.assertIsInstance(info[name], int)
            self.assertGreater(info[name], 0)
        available = monitor.get_available_memory()
        self.assertIsInstance(available, int)
        self.assertGreater(available, info["process_rss"])

    def test_the_numbers_agree_with_each_other_and_with_the_kernel(self):
        info = SystemMemoryMonitor().get_memory_info()
        self.assertEqual(info["system_total"], info["system_available"] + info["system_used"])
        share = 100 * info["system_used"] / info["system_total"]
        self.assertAlmostEqual(info["system_percent"], share, delta=0.06)
        self.assertEqual(info["host_total"], meminfo("MemTotal"))
        self.assertLessEqual(info["system_total"], info["host_total"])
        self.assertLess(info["system_available"], info["host_available"])
        # Others use memory at the same time.
        self.assertAlmostEqual(info["host_available"], meminfo("MemAvailable"), delta=2048 * MIB)
        self.assertLess(info["process_rss"], info["process_vms"])
        self.assertIn(info["level"], ("ok", "elevated", "critical"))
        self.assertIsInstance(info["limit_source"], str)
        self.assertEqual(info["pinned_bytes"], 0)
        self.assertIsInstance(info["gpus"], list)
        if os.path.exists("/proc/pressure/memory"):
            self.assertGreaterEqual(info["pressure_some_avg10"], 0)
            self.assertGreaterEqual(info["pressure_some_avg10"], info["pressure_full_avg10"])

    def test_what_is_taken_is_seen(self):
        monitor = SystemMemoryMonitor()
        before = monitor.get_memory_info()["process_rss"]
        block = bytearray(b"x") * (128 * MIB)
        after = monitor.get_memory_info()["process_rss"]
        self.assertGreater(after - before, 100 * MIB)
        del block

    def test_a_limit_binds_and_is_named(self):
        program = """if True:
            import json, resource
            from forebay.monitor import SystemMemoryMonitor
            monitor = SystemMemoryMonitor()
            mapped = monitor.get_memory_info()["process_vms"]
            resource.setrlimit(resource.RLIMIT_AS, (mapped + (300 << 20), -1))
            info = monitor.get_memory_info()
            print(json.dumps([info, monitor.get_report(), monitor.get_available_memory()]))
        """
        info, report, available = in_process(program)
        self.assertEqual((info["limit_source"], report["limit_source"]), ("RLIMIT_AS",) * 2)
        self.assertLessEqual(report["left_bytes"], 300 * MIB)
        self.assertGreater(report["left_bytes"], 200 * MIB)
        self.assertEqual(available, max(0, report["left_bytes"] - report["reserve_bytes"]))
        self.assertGreater(info["host_available"], info["system_available"])
        # It is no limit of memory.
        self.assertGreater(info["system_total"], report["limit_bytes"])

    def test_a_reading_is_one_call(self):
        calls = []
        report = monitor.library().forebay_memory_info_json

        class Counted:
            def forebay_memory_info_json(self, *arguments):
                calls.append(arguments)
                return report(*arguments)

        before, monitor.library = monitor.library, Counted
        try:
            reader = SystemMemoryMonitor()
            reader.get_memory_info()
            self.assertEqual(len(calls), 1)
            reader.get_available_memory()
            self.assertEqual(len(calls), 2)
            # One with too little room, once.
            reader._room = 64
            info = reader.get_memory_info()
            self.assertEqual(len(calls), 4)
            self.assertGreater(info["system_total"], 0)
            reader.get_memory_info()
            self.assertEqual(len(calls), 5)
        finally:
            monitor.library = before

    def test_errors_are_the_library_s(self):
        with self.assertRaises(ForebayError) as caught:
            _library.check(_library.library().forebay_memory_info_json(None, 10, None))
        self.assertIn("buffer is NULL", str(caught.exception))

    @unittest.skipUnless(shutil.which("cc"), "no C compiler")
    def test_gpus(self):
        program = """if True:
            import json
            from forebay.monitor import SystemMemoryMonitor
            print(json.dumps(SystemMemoryMonitor().get_memory_info()["gpus"]))
        """
        with tempfile.TemporaryDirectory() as folder:
            source = ROOT / "tests" / "monitor" / "nvml.c"
            made_up = os.path.join(folder, "libnvidia-ml.so.1")
            subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", made_up], check=True)
            gpus = in_process(program, LD_LIBRARY_PATH=folder)
            refused = in_process(program, LD_LIBRARY_PATH=folder,
                                 MADE_UP_REFUSED="nvmlDeviceGetMemoryInfo_v2 15")
        self.assertEqual(len(gpus), 2)
        self.assertIn(gpus[1].pop("process"), (77, None))
        expected = {"index": 1, "name": 'Made-up "H0"', "uuid": "GPU-0001", "total": 1000,
                    "free": 899, "used": 1, "reserved": 100}
        self.assertEqual(gpus[1], expected)
        self.assertEqual([refused[0][name] for name in ("total", "free", "used")], [None] * 3)
        self.assertEqual(refused[0]["uuid"], "GPU-0001")


if __name__ == "__main__":
    unittest.main()
