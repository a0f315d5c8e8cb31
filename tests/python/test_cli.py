"""``python -m forebay``."""

import contextlib
import ctypes
import io
import json
import os
import pickle
import pty
import re
import signal
import subprocess
import sys
import time
import types
import unittest
from unittest import mock

from folder import InFolder
from forebay._library import library
from forebay.cli import COMMANDS, _terminal, doctor, main
from forebay.formats import trace
from forebay.pool import Pool

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STEP = os.path.join(ROOT, "examples_c", "gpt_step.csv.gz")
DOCUMENT = os.path.join(ROOT, "docs", "python", "cli.md")


class Case(InFolder):
    def run_here(self, *argv):
        """Status, standard output and error of a command."""
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            status = main(list(argv))
        return status, out.getvalue(), error.getvalue()

    def done(self, *argv):
        status, out, error = self.run_here(*argv)
        self.assertEqual((status, error), (0, ""), argv)
        return out

    def json(self, *argv, status=0):
        found, out, error = self.run_here(*argv, "--json")
        self.assertEqual(found, status, error)
        return json.loads(out)

    def fails(self, status, argv, *parts):
        found, out, error = self.run_here(*argv)
        self.assertEqual((found, out), (status, ""), argv)
        # One line, from this command, that names what is wrong.
        self.assertEqual(error.count("\n"), 1, error)
        self.assertTrue(error.startswith("forebay"), error)
        for part in parts:
            self.assertIn(part, error)

    def trace(self, name, rows):
        with trace.Writer(self.path(name)) as writer:
            for row in rows:
                writer.write(*row)
        return self.path(name)


class Commands(Case):
    def test_help_names_every_command_that_is_there(self):
        text = self.done("--help")
        for name in ("replay", "plan", "doctor", "export", "import", "merge-trace"):
            self.assertRegex(text, rf"\n    {name}\s")
            self.assertIn(f"usage: forebay {name}", self.done(name, "--help"))
        self.assertIn("exit status", text)

    def test_every_command_has_json(self):
        for name in COMMANDS:
            if re.search(rf"\n    {name}\s", self.done("--help")):
                self.assertIn("--json", self.done(name, "--help"), name)

    def test_wrong_use(self):
        self.fails(2, [], "COMMAND")
        self.fails(2, ["walk"], "'walk'")
        self.fails(2, ["replay"], "trace")
        self.fails(2, ["replay", STEP, "--no-such"], "--no-such")
        for argument in ("--rounds", "--rounds=0", "--rounds=1001", "--rounds=x", "--rounds=-1"):
            self.fails(2, ["replay", STEP, argument], "--rounds")
        self.fails(2, ["replay", STEP, "--policy", "best"], "--policy", "'best'", "balanced")
        self.fails(2, ["replay", STEP, "--limit", "much"], "--limit", "'much'")
        self.fails(2, ["replay", STEP, "--limit", "50%"], "--limit", "50%")
        self.fails(2, ["replay", STEP, "--device", "gpu"], "--device", "'gpu'")
        self.fails(2, ["replay", STEP, "--pol", "balanced"], "--pol")
        for argument in ("--time=0", "--time=x", "--time=nan", "--time=3601", "--time=-1"):
            self.fails(2, ["plan", STEP, argument], "--time")
        self.fails(2, ["plan", STEP, "--alignment", "96"], "--alignment", "96")
        self.fails(2, ["export", STEP], "-o")
        self.fails(2, ["export", STEP, "-o", "x.y"], "`x.y`", "--format")
        self.fails(2, ["export", STEP, "-o", "x.json", "--snapshot", "y"], "--snapshot", "chrome")
        self.fails(2, ["export", STEP, "-o", "x.pickle", "--name", "y"], "--name", "torch")
        self.fails(
            2, ["export", STEP, "-o", "x.csv", "--reserved", "balanced"], "--reserved", "rmm"
        )
        self.fails(2, ["export", STEP, "-o", "x.json", "--reserved", "y"], "--reserved", "'y'")
        self.fails(2, ["import", STEP, "-o", "x", "--device", "0"], "--device", "rmm")
        self.fails(2, ["merge-trace", STEP, "-o", "x", "--offset", "1=3"], "--offset", "trace 1")
        for offset in ("3", "a=3", "0=b", "-1=3", "0=99999999999999999"):
            self.fails(
                2, ["merge-trace", STEP, "-o", "x", f"--offset={offset}"], "--offset", offset
            )

    def test_what_fails_is_one_line(self):
        missing = self.path("missing.csv")
        for argv in (
            ["replay", missing], ["plan", missing], ["export", missing, "-o", self.path("x.json")],
            ["import", missing, "-o", self.path("x.csv")],
            ["merge-trace", missing, "-o", self.path("x")],
        ):  # fmt: skip
            self.fails(1, argv, missing, "No such file")
        with open(self.path("text.csv"), "w") as file:
            file.write("one, two\nthree\n")
        for argv in (
            ["replay", self.path("text.csv")], ["plan", self.path("text.csv")],
            ["export", self.path("text.csv"), "-o", self.path("x.json")],
            ["import", self.path("text.csv"), "-o", self.path("x.csv")],
            ["import", self.path("text.csv"), "-o", self.path("x.csv"), "--format", "torch"],
        ):  # fmt: skip
            self.fails(1, argv, "text.csv")
        self.fails(1, ["export", STEP, "-o", self.path("no/folder.json")], "no/folder.json")
        self.assertEqual(sorted(os.listdir(self.folder)), ["text.csv"])

    def test_a_program_of_its_own(self):
        ran = subprocess.run(
            [sys.executable, "-m", "forebay", "export", STEP, "-o", self.path("x.json")],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))
        self.assertIn("3,644 rows", ran.stdout)
        ran = subprocess.run([sys.executable, "-m", "forebay"], capture_output=True, timeout=120)
        self.assertEqual(ran.returncode, 2)

    def test_whoever_reads_may_have_enough(self):
        read, write = os.pipe()
        os.close(read)
        with open(write, "wb") as out:
            ran = subprocess.run(
                [sys.executable, "-m", "forebay", "plan", STEP, "--top", "1000"],
                stdout=out, stderr=subprocess.PIPE, timeout=120,
            )  # fmt: skip
        self.assertEqual((ran.returncode, ran.stderr), (1, b""))

    def test_a_command_imports_no_other(self):
        code = (
            "import sys; from forebay.__main__ import main; main(['export', '--help']);"
            "print([name for name in sys.modules if name.startswith('forebay.')], file=sys.stderr);"
            "print('numpy' in sys.modules, file=sys.stderr)"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
        )
        self.assertIn("forebay.cli.export", ran.stderr)
        for other in ("replay", "plan", "doctor", "pool", "torch", "cache"):
            self.assertNotIn(f"forebay.cli.{other}'", ran.stderr)
            self.assertNotIn(f"forebay.{other}'", ran.stderr)
        self.assertTrue(ran.stderr.endswith("False\n"))


class Replay(Case):
    def test_numbers(self):
        found = self.json("replay", STEP, "--rounds", "2", "--malloc")
        self.assertEqual((len(found["rounds"]), len(found["malloc_rounds"])), (2, 2))
        for one in found["rounds"] + found["malloc_rounds"]:
            self.assertEqual((one["events"], one["allocations"], one["frees"]), (3644, 1822, 1822))
            self.assertGreater(one["ns_per_operation"], 0)
        blocks = trace.Blocks()
        list(blocks.follow(trace.read(STEP)))
        self.assertEqual(found["trace_peak_requested"], blocks.peak)
        self.assertGreaterEqual(found["reserved_peak"], found["allocated_peak"])
        self.assertGreaterEqual(found["allocated_peak"], found["requested_peak"])
        for one in found["rounds"]:
            self.assertEqual(one["hits"] + one["misses"], 1822)
        self.assertGreater(found["rounds"][1]["hits"], found["rounds"][0]["hits"])

    def test_table(self):
        text = self.done(
            "replay", STEP, "--rounds", "2", "--malloc", "--policy", "aggressive_reuse"
        )
        for part in ("1,822 allocations", "policy aggressive_reuse", "ns per operation", "later"):
            self.assertIn(part, text)
        self.assertLessEqual(max(map(len, text.splitlines())), 100)
        self.assertNotIn("later", self.done("replay", STEP, "--rounds", "1"))

    def test_what_is_asked_for_is_done(self):
        rows = [(1 + number % 3, 0, "allocate", 1 + number, 1 << 21, 0) for number in range(6)]
        path = self.trace("t.csv", rows)
        plain = self.json("replay", path, "--rounds", "1")["rounds"][0]
        touched = self.json("replay", path, "--rounds", "1", "--touch", "--threads")
        self.assertTrue(touched["touch"] and touched["threads"])
        # 12 MiB are 6 huge pages at least.
        self.assertGreater(touched["rounds"][0]["minor_faults"], plain["minor_faults"])
        self.assertEqual(touched["rounds"][0]["live_at_end"], 6)

    def test_what_does_not_fit_is_a_finding(self):
        found = self.json("replay", STEP, "--limit", "64MiB", "--rounds", "1", status=1)
        self.assertGreater(found["failed_allocations"], 0)
        self.assertLessEqual(found["reserved_peak"], 64 << 20)
        status, out, _ = self.run_here("replay", STEP, "--limit", "64MiB", "--rounds", "1")
        self.assertEqual(status, 1)
        self.assertIn(f"{found['failed_allocations']:,} allocations failed", out)

    def test_a_trace_that_makes_no_sense(self):
        path = self.trace("t.csv", [(1, 0, "free", 7, 8, 0)])
        self.fails(1, ["replay", path], "line 2", "0x7")


class Plan(Case):
    def rows(self):
        """Four blocks, two at a time, of which an arena of two is enough."""
        return [
            (1, 0, "allocate", 1, 1024, 0),
            (1, 1, "allocate", 2, 512, 0),
            (1, 2, "free", 1, 1024, 0),
            (1, 3, "allocate", 3, 1024, 0),
            (1, 4, "free", 2, 512, 0),
            (1, 5, "allocate", 4, 512, 0),
            (1, 6, "free", 3, 1024, 0),
            (1, 7, "free", 4, 512, 0),
        ]

    def test_numbers(self):
        path = self.trace("t.csv", self.rows())
        found = self.json(
            "plan", path, "-o", self.path("p.csv"), "--svg", self.path("p.svg"), "--top", "2"
        )
        self.assertEqual(found["tensors"], 4)
        self.assertEqual((found["lower_bound"], found["arena_bytes"]), (1536, 1536))
        self.assertEqual((found["gap_bytes"], found["optimal"], found["valid"]), (0, True, True))
        self.assertEqual([one["size"] for one in found["largest"]], [1024, 1024])
        self.assertEqual(found["suggestions"]["total_bytes"], 3072)
        with open(self.path("p.csv")) as file:
            lines = file.read().splitlines()
        self.assertEqual((lines[0][:26], len(lines)), ("id,lower,upper,size,offset", 5))
        with open(self.path("p.svg")) as file:
            self.assertTrue(file.read(100).startswith("<svg"))

    def test_a_plan_is_read_again(self):
        self.done("plan", STEP, "-o", self.path("p.csv"))
        first, again = self.json("plan", STEP), self.json("plan", self.path("p.csv"))
        self.assertEqual(again["arena_bytes"], first["arena_bytes"])
        self.assertEqual(again["tensors"], 1822)

    def test_table(self):
        text = self.done("plan", STEP, "--top", "3")
        for part in ("1,822 tensors", "bound", "greedy", "arena", "sharers", "freed later"):
            self.assertIn(part, text)
        self.assertNotIn("sharers", self.done("plan", STEP, "--top", "0"))

    def hard(self):
        """One that keeps the planner busy."""
        import random

        chance = random.Random(1)
        path = self.path("hard.csv")
        with open(path, "w") as file:
            file.write("id,lower,upper,size\n")
            for number in range(3000):
                lower = chance.randrange(3000)
                upper = lower + 1 + chance.randrange(200)
                file.write(f"{number},{lower},{upper},{chance.randrange(1, 1 << 20)}\n")
        return path

    def test_ctrl_c_takes_the_plan_so_far(self):
        ran = subprocess.Popen(
            [sys.executable, "-m", "forebay", "plan", self.hard(), "--time", "600", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            # It must be planning: when it is, it has used some time.
            while ran.poll() is None and _used_seconds(ran.pid) < 2:
                time.sleep(0.05)
            ran.send_signal(signal.SIGINT)
            out, error = ran.communicate(timeout=120)
        finally:
            ran.kill()
        self.assertEqual((ran.returncode, error), (0, ""))
        found = json.loads(out)
        self.assertTrue(found["valid"])
        self.assertLess(found["elapsed_ns"], 500e9)

    def test_progress_on_a_terminal_only(self):
        argv = [sys.executable, "-m", "forebay", "plan", self.hard(), "--time", "1"]
        quiet = subprocess.run(argv, capture_output=True, text=True, timeout=300)
        self.assertEqual((quiet.returncode, quiet.stderr), (0, ""))
        terminal, other = pty.openpty()
        ran = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=other, text=True)
        os.close(other)
        drawn = b""
        try:
            while chunk := os.read(terminal, 4096):
                drawn += chunk
        except OSError:
            # The other end is closed.
            pass
        out, _ = ran.communicate(timeout=300)
        os.close(terminal)
        self.assertIn(b"plan: [=", drawn)
        self.assertIn(b"above the bound", drawn)
        # It leaves an empty line behind.
        self.assertTrue(drawn.endswith(b"\r\x1b[K"))
        self.assertEqual(out.splitlines()[:4], quiet.stdout.splitlines()[:4])


def _used_seconds(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class ExportAndImport(Case):
    def test_there_and_back(self):
        with trace.opened(STEP) as file:
            whole = file.read()
        for name in ("x.pickle", "x.csv.gz"):
            found = self.json("export", STEP, "-o", self.path(name))
            self.assertEqual((found["rows"], found["passed_over"]), (3644, 0))
            found = self.json("import", self.path(name), "-o", self.path("back.csv"))
            self.assertEqual(found["rows"], 3644)
            with open(self.path("back.csv"), "rb") as file:
                self.assertEqual(file.read(), whole)

    def test_the_ending_or_the_option_says_which(self):
        for name, first in (
            ("x.pickle", b"\x80\x02"),
            ("x.pkl", b"\x80\x02"),
            ("x.json", b'{"'),
            ("x.pftrace", b"\x0a"),
            ("x.csv", b"Thread"),
            ("x.csv.gz", b"\x1f\x8b"),
        ):
            self.done("export", STEP, "-o", self.path(name))
            with open(self.path(name), "rb") as file:
                self.assertTrue(file.read(8).startswith(first), name)
        self.done("export", STEP, "-o", self.path("x.csv"), "--format", "chrome", "--name", "mine")
        with open(self.path("x.csv")) as file:
            self.assertEqual(json.load(file)["traceEvents"][0]["args"]["name"], "mine")

    def test_a_snapshot_of_the_pool(self):
        with Pool("cpu") as pool:
            with pool.trace(self.path("t.csv")):
                block = ctypes.c_void_p()
                library().forebay_alloc(pool.handle, 3 << 20, None, ctypes.byref(block))
            with open(self.path("pool.json"), "w") as file:
                json.dump(pool.snapshot(), file)
            reserved = pool.statistics()["reserved_bytes"]
        self.done(
            "export", self.path("t.csv"), "-o", self.path("x.pickle"), "--snapshot",
            self.path("pool.json"), "--device", "1",
        )  # fmt: skip
        with open(self.path("x.pickle"), "rb") as file:
            found = pickle.load(file)
        self.assertEqual(sum(one["total_size"] for one in found["segments"]), reserved)
        self.assertEqual([len(events) for events in found["device_traces"]], [0, 1])
        for content in (
            "",
            "{}",
            '{"stretches": 1}',
            '{"stretches": [{"address": 1, "size": 2, "pieces": [1]}]}',
            '{"stretches": [{"address": 1, "size": 2, "pieces": [[1, 2, "a", "live", 0, 0]]}]}',
            '{"stretches": [{"address": 1, "size": 2, "pieces": [[1, 2, 3, "x", 0, 0]]}]}',
        ):  # fmt: skip
            with open(self.path("pool.json"), "w") as file:
                file.write(content)
            self.fails(
                1, ["export", self.path("t.csv"), "-o", self.path("y.pickle"), "--snapshot",
                    self.path("pool.json")], "pool.json", "Pool.snapshot()",
            )  # fmt: skip

    def test_what_makes_no_sense_is_a_finding(self):
        path = self.trace("t.csv", [(1, 0, "free", 7, 8, 0), (1, 0, "allocate", 1, 8, 0)])
        for name in ("x.json", "x.pftrace", "x.pickle", "x.csv"):
            status, out, error = self.run_here("export", path, "-o", self.path(name))
            self.assertEqual(status, 1)
            self.assertIn("line 2: free of 0x7, which is not live (1 such rows in all)", error)
            self.assertIn("2 rows", out)

    def test_what_is_read_may_be_written(self):
        path = self.trace("t.csv.gz", [(1, 0, "allocate", 1, 8, 0)])
        self.done("export", path, "-o", path)
        self.assertEqual(len(list(trace.read(path))), 1)

    def test_notes(self):
        from forebay.formats import torch_snapshot

        events = [
            torch_snapshot.event("free_completed", 5, 6, 0, 1, []),
            torch_snapshot.event("alloc", 9, 6, 0, 1, []),
            torch_snapshot.event("alloc", 9, 6, 0, 1, []),
        ]
        with open(self.path("s.pickle"), "wb") as file:
            pickle.dump({"segments": [], "device_traces": [events]}, file, protocol=4)
        text = self.done("import", self.path("s.pickle"), "-o", self.path("t.csv"))
        self.assertIn("1 blocks lived before", text)
        self.assertIn("1 blocks were replaced", text)


class MergeTrace(Case):
    def test_offsets_are_beside_the_traces_or_given(self):
        rows = [(1, 50, "allocate", 1, 8, 0), (1, 60, "free", 1, 8, 0)]
        paths = [self.trace(f"r{rank}.csv", rows) for rank in range(3)]
        with open(paths[1] + ".rank.json", "w") as file:
            json.dump(
                {"rank": 7, "world_size": 9, "clock_offset_ns": 1500, "clock_error_ns": 3}, file
            )
        found = self.json("merge-trace", *paths, "-o", self.path("m"), "--offset", "2=-40")[
            "traces"
        ]
        self.assertEqual([one["offset_ns"] for one in found], [0, 1500, -40])
        self.assertEqual(
            [one["name"] for one in found], ["rank 0: r0.csv", "rank 7: r1.csv", "rank 2: r2.csv"]
        )
        self.assertGreater(os.path.getsize(self.path("m")), 100)
        text = self.done("merge-trace", *paths, "-o", self.path("m"))
        self.assertIn("moved by +1,500 ns", text)
        self.assertIn("ui.perfetto.dev", text)
        for content in (
            "{",
            "[]",
            '{"clock_offset_ns": "a"}',
            '{"clock_offset_ns": 1e30}',
            '{"rank": null}',
        ):
            with open(paths[1] + ".rank.json", "w") as file:
                file.write(content)
            self.fails(1, ["merge-trace", *paths, "-o", self.path("m")], "r1.csv.rank.json")


class Doctor(Case):
    def findings(self):
        return {one.name: one for one in doctor.examine()}

    def test_lines(self):
        status, out, error = self.run_here("doctor")
        found = self.json("doctor", status=status)
        self.assertEqual(found["problems"] > 0, status == 1)
        self.assertEqual(error, "")
        for one in found["findings"]:
            self.assertIn(one["status"], ("ok", "warning", "problem"))
            self.assertEqual(one["status"] == "ok", one["advice"] == "")
            self.assertRegex(out, rf"(?m)^{one['status']} +{re.escape(one['name'])} ")
        names = [one["name"] for one in found["findings"]]
        for name in (
            "Python",
            "numpy",
            "library",
            "host pool",
            "preload",
            "driver",
            "torch",
            "cupy",
        ):
            self.assertIn(name, names)
        self.assertIn(f"{found['problems']} problem", out)

    def test_a_library_that_is_not_there(self):
        environment = {**os.environ, "FOREBAY_LIBRARY": "/no/such/libforebay.so"}
        ran = subprocess.run(
            [sys.executable, "-m", "forebay", "doctor", "--json"], env=environment,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        self.assertEqual((ran.returncode, ran.stderr), (1, ""))
        found = {one["name"]: one for one in json.loads(ran.stdout)["findings"]}
        self.assertEqual(found["library"]["status"], "problem")
        self.assertIn("/no/such/libforebay.so", found["library"]["advice"])
        self.assertNotIn("host pool", found)

    def test_limits_of_the_process(self):
        code = (
            "import resource, sys; from forebay.cli import main;"
            "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30));"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100));"
            "sys.exit(main(['doctor', '--json']))"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
        )
        found = {one["name"]: one for one in json.loads(ran.stdout)["findings"]}
        self.assertEqual(
            (found["RLIMIT_AS"]["status"], found["RLIMIT_AS"]["found"]),
            ("warning", "8.00 GiB of addresses"),
        )
        self.assertEqual(found["RLIMIT_NOFILE"]["status"], "warning")
        self.assertIn("ulimit -v", found["RLIMIT_AS"]["advice"])

    def test_a_preloaded_library_that_was_not_taken(self):
        with mock.patch.dict(os.environ, {"LD_PRELOAD": "/x/libforebay_preload.so"}):
            self.assertEqual(self.findings()["preload"].status, "problem")
        with mock.patch.dict(os.environ, {"FOREBAY_PRELOAD": "cuda"}):
            self.assertEqual(self.findings()["preload"].status, "warning")

    def test_settings_of_the_kernel(self):
        for path, content, name, status in (
            ("/proc/sys/vm/overcommit_memory", "2", "overcommit", "warning"),
            ("/proc/sys/vm/overcommit_memory", "1", "overcommit", "ok"),
            ("/proc/sys/vm/overcommit_memory", None, "overcommit", None),
            ("/proc/sys/vm/max_map_count", "1000", "max_map_count", "warning"),
            ("/proc/sys/vm/max_map_count", "262144", "max_map_count", "ok"),
            (
                "/sys/kernel/mm/transparent_hugepage/enabled",
                "always madvise [never]",
                "huge pages",
                "warning",
            ),
            (
                "/sys/kernel/mm/transparent_hugepage/enabled",
                "[always] madvise never",
                "huge pages",
                "ok",
            ),
            ("/sys/kernel/mm/transparent_hugepage/enabled", None, "huge pages", None),
        ):
            real = doctor._text

            def read(asked):
                return content if asked == path else real(asked)  # noqa: B023

            with mock.patch.object(doctor, "_text", read):
                found = self.findings().get(name)
            self.assertEqual(found and found.status, status, (path, content))

    def memory(self, level="ok", kills=0, gpus=()):
        """What is said of a machine whose monitor reads this."""
        info = {
            "system_available": 3 << 30,
            "system_total": 8 << 30,
            "limit_source": "cgroup v2 /a memory.max",
            "level": level,
            "oom_kills": kills,
            "gpus": list(gpus),
        }
        monitor = types.ModuleType("forebay.monitor")
        monitor.SystemMemoryMonitor = lambda: types.SimpleNamespace(get_memory_info=lambda: info)
        with mock.patch.dict(sys.modules, {"forebay.monitor": monitor}):
            return {one.name: one for one in doctor._memory()}

    def test_memory_that_is_left(self):
        for level, status in (("ok", "ok"), ("elevated", "warning"), ("critical", "problem")):
            found = self.memory(level)
            self.assertEqual(list(found), ["memory"])
            self.assertEqual(found["memory"].status, status)
            self.assertEqual(
                found["memory"].found,
                "3.00 GiB left of 8.00 GiB, as cgroup v2 /a memory.max has it",
            )
        found = self.memory(kills=3)["oom kills"]
        self.assertEqual((found.status, found.found), ("warning", "3 processes were killed here"))
        gpus = [
            {"index": 0, "total": 100 << 30, "free": 9 << 30},
            {"index": 1, "total": 100 << 30, "free": 50 << 30},
            {"index": 2, "total": None, "free": None},
        ]
        found = self.memory(gpus=gpus)
        self.assertEqual(list(found), ["memory", "GPU 0 memory", "GPU 1 memory"])
        self.assertEqual([one.status for one in found.values()], ["ok", "warning", "ok"])

    def test_a_kernel_without_io_uring(self):
        import errno

        with mock.patch.object(doctor, "_system_call", lambda *_: errno.ENOSYS):
            self.assertEqual(self.findings()["io_uring"].status, "warning")
        with mock.patch.object(doctor, "_system_call", lambda *_: errno.EFAULT):
            self.assertEqual(self.findings()["io_uring"].status, "ok")

    def torch(self, version, cuda):
        package = self.path("torch")
        os.makedirs(package, exist_ok=True)
        open(os.path.join(package, "__init__.py"), "w").close()
        with open(os.path.join(package, "version.py"), "w") as file:
            file.write(f"__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\n")
        with mock.patch.object(sys, "path", [self.folder, *sys.path]):
            (found,) = doctor._torch()
        return found.status, found.found

    def test_versions_of_torch(self):
        self.assertEqual(
            self.torch("2.13.0+cu130", "13.0"),
            ("ok", "2.13.0+cu130, CUDA 13.0: forebay.torch can be enabled"),
        )
        self.assertEqual(self.torch("2.5.1", "12.4")[0], "warning")
        self.assertEqual(self.torch("9.0.0", "20.0")[0], "warning")
        status, found = self.torch("2.13.0+cpu", None)
        self.assertEqual(status, "ok")
        self.assertIn("without CUDA", found)
        self.assertNotIn("torch", sys.modules)

    def driver(self, **results):
        """What is said of a driver whose calls end as ``results`` have it, and fill in nothing."""

        class Driver:
            def __getattr__(self, name):
                def call(*_):
                    return results.get(name, 0)

                return call

        real = ctypes.CDLL
        made = lambda name, *rest, **how: (  # noqa: E731
            Driver() if name == "libcuda.so.1" else real(name, *rest, **how)
        )
        with mock.patch.object(ctypes, "CDLL", made):
            return {one.name: one for one in doctor._driver()}

    def test_drivers_that_do_not_work(self):
        for result, part in (
            (100, "CUDA_VISIBLE_DEVICES"),
            (803, "reboot"),
            (34, "stub"),
            (999, "nvidia-smi"),
        ):
            found = self.driver(cuInit=result)["devices"]
            self.assertEqual(found.status, "problem")
            self.assertIn(part, found.advice)
            self.assertIn(f"({result})", found.found)
        self.assertEqual(self.driver()["devices"].found, "none")

        def none(name, *rest, **how):
            raise OSError

        for nodes, status in ((True, "problem"), (False, "ok")):
            with mock.patch.object(ctypes, "CDLL", none):
                with mock.patch.object(os.path, "exists", lambda path: nodes):  # noqa: B023
                    (found,) = doctor._driver()
            self.assertEqual(found.status, status)


class Terminal(unittest.TestCase):
    def test_columns(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            _terminal.columns([("a", "1"), ("bcd", "10")], ("x", "number"))
        self.assertEqual(out.getvalue(), "  x    number\n  a         1\n  bcd      10\n")


class Document(Case):
    def test_every_command_of_it_runs(self):
        with open(DOCUMENT, encoding="utf-8") as file:
            blocks = re.findall(r"```sh\n(.*?)```", file.read(), re.DOTALL)
        self.assertGreater(len(blocks), 3)
        os.mkdir(self.path("bin"))
        # The program as pip installs it.
        with open(self.path("bin/forebay"), "w") as file:
            file.write(f'#!/bin/sh\nexec "{sys.executable}" -m forebay "$@"\n')
        os.chmod(self.path("bin/forebay"), 0o755)
        python_path = os.pathsep.join(
            os.path.abspath(path)
            for path in os.environ.get("PYTHONPATH", "").split(os.pathsep)
            if path
        )
        environment = {
            **os.environ, "PYTHONPATH": python_path,
            "PATH": f"{self.path('bin')}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        if os.environ.get("FOREBAY_LIBRARY"):
            environment["FOREBAY_LIBRARY"] = os.path.abspath(os.environ["FOREBAY_LIBRARY"])
        os.symlink(STEP, self.path("step.csv.gz"))
        with open(self.path("prepare.py"), "w") as file:
            file.write(_PREPARE)
        subprocess.run(
            [sys.executable, "prepare.py"],
            cwd=self.folder,
            env=environment,
            check=True,
            timeout=120,
        )
        for block in blocks:
            ran = subprocess.run(
                ["bash", "-euc", block], cwd=self.folder, env=environment, capture_output=True,
                text=True, timeout=300,
            )  # fmt: skip
            self.assertEqual(ran.returncode, 0, f"{block}\n{ran.stdout}\n{ran.stderr}")


#: What the page takes for granted: a snapshot of PyTorch's, traces of two ranks.
_PREPARE = """
import shutil
from forebay.formats import torch_snapshot

torch_snapshot.export_trace("step.csv.gz", "snapshot.pickle")
for rank in range(2):
    shutil.copy("step.csv.gz", f"rank{rank}.csv.gz")
"""


if __name__ == "__main__":
    unittest.main()
