"""Publishing, and the view of a process that publishes: by hand, and in a terminal of its own."""

# Needs: numpy

import contextlib
import errno
import fcntl
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest

import numpy as np

import forebay
from blocks import BlockPool
from forebay import _state, _top, publishing
from forebay.cache import TensorCache
from forebay.prefetch import Prefetcher

MIB = 1 << 20

#: A process that publishes until its input ends.
PUBLISHER = """
import sys, threading, numpy as np, forebay
from blocks import BlockPool
from forebay.cache import TensorCache
pool = BlockPool(name="activations", max_bytes=64 << 20)
cache = TensorCache(max_size=4)
cache.add(np.zeros(1000))
block = pool.take(8 << 20)
forebay.publish(0.05)
print("ready", flush=True)
ended = threading.Event()
def work():
    while not ended.is_set():
        for _ in range(20):
            pool.give(pool.take(4 << 20))
            cache.get(1000, float)
        ended.wait(0.01)
worker = threading.Thread(target=work)
worker.start()
sys.stdin.read()
ended.set()
worker.join()
"""


def environment(**changed):
    found = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p), **changed)
    return {name: value for name, value in found.items() if value is not None}


class Folders(unittest.TestCase):
    """A runtime folder of the test's own."""

    def setUp(self):
        self.runtime = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.runtime)
        before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = self.runtime

        def restore():
            publishing.unpublish()
            if before is None:
                del os.environ["XDG_RUNTIME_DIR"]
            else:
                os.environ["XDG_RUNTIME_DIR"] = before

        self.addCleanup(restore)
        self.folder = os.path.join(self.runtime, "forebay")

    def publisher(self, **changed):
        """A process that publishes."""
        process = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(**changed),
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.stdin.close)
        self.assertEqual(process.stdout.readline(), "ready\n")
        return process

    def command(self, *arguments):
        """The command as ``python -m forebay top`` has it."""
        return [
            sys.executable,
            "-c",
            "import argparse, sys; from forebay.cli import top; parser = argparse.ArgumentParser(); "
            "top.add_arguments(parser); sys.exit(top.run(parser.parse_args()))",
            *map(str, arguments),
        ]

    def run_command(self, *arguments, **changed):
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, env=environment(**changed)
        )
        return done.returncode, done.stdout, done.stderr


class Publishing(Folders):
    def test_a_file_that_is_the_users_alone(self):
        with BlockPool(name="mine") as pool:
            block = pool.take(3 * MIB)
            path = forebay.publish(0.05)
            self.assertEqual(path, os.path.join(self.folder, f"{os.getpid()}.json"))
            self.assertEqual(stat.S_IMODE(os.stat(self.folder).st_mode), 0o700)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
            state = publishing.read(os.getpid())
            told = {one["name"]: one for one in state["pools"]}["mine"]
            self.assertEqual((told["requested_bytes"], told["live_blocks"]), (3 * MIB, 1))
            pool.give(block)
            until = time.monotonic() + 20
            while time.monotonic() < until:
                state = publishing.read(os.getpid())
                if {one["name"]: one for one in state["pools"]}["mine"]["live_blocks"] == 0:
                    break
                time.sleep(0.02)
            else:
                self.fail("it was not written again")
            self.assertEqual([one["pid"] for one in publishing.published()], [os.getpid()])
        forebay.unpublish()
        self.assertEqual(os.listdir(self.folder), [])
        forebay.unpublish()
        with self.assertRaisesRegex(
            forebay.ForebayError, "publishes nothing: start it with FOREBAY_PUBLISH=1"
        ):
            publishing.read(os.getpid())

    def test_one_thread_and_its_interval(self):
        def threads():
            return [one for one in threading.enumerate() if one.name == "forebay-publisher"]

        self.assertEqual(threads(), [])
        forebay.publish(3600)
        forebay.publish(0.02)
        self.assertEqual(len(threads()), 1)
        clock, until = publishing.read(os.getpid())["clock"], time.monotonic() + 20
        while publishing.read(os.getpid())["clock"] == clock and time.monotonic() < until:
            time.sleep(0.01)
        self.assertNotEqual(publishing.read(os.getpid())["clock"], clock)
        forebay.unpublish()
        self.assertEqual(threads(), [])
        for interval in (0, -1, None, "1", True, 1e9, float("nan")):
            with self.assertRaisesRegex(ValueError, "interval is"):
                forebay.publish(interval)

    def test_readers_never_see_half_a_file(self):
        pools = [BlockPool(name=f"pool {number}") for number in range(20)]
        forebay.publish(0.01)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            self.assertEqual(len(publishing.read(os.getpid())["pools"]) >= 20, True)
        for pool in pools:
            pool.close()

    def test_a_process_that_ends_leaves_nothing(self):
        process = self.publisher()
        self.assertEqual(os.listdir(self.folder), [f"{process.pid}.json"])
        process.stdin.close()
        self.assertEqual(process.wait(), 0)
        self.assertEqual(os.listdir(self.folder), [])

    def test_what_killed_processes_leave_goes_with_the_next(self):
        process = self.publisher()
        process.kill()
        process.wait()
        self.assertEqual(len(os.listdir(self.folder)), 1)
        with self.assertRaisesRegex(forebay.ForebayError, f"there is no process {process.pid}"):
            publishing.read(process.pid)
        self.assertEqual(publishing.published(), [])
        # Of a process in another container, whose numbers are not ours, nothing is known.
        with open(os.path.join(self.folder, f"{process.pid}.json")) as file:
            state = json.load(file)
        other = os.path.join(self.folder, "999999999.json")
        with open(other, "w") as file:
            json.dump({**state, "namespace": 1}, file)
        forebay.publish()
        self.assertEqual(
            sorted(os.listdir(self.folder)), sorted([f"{os.getpid()}.json", "999999999.json"])
        )

    def test_a_number_that_was_given_again_is_another_process(self):
        forebay.publish(3600)
        path = os.path.join(self.folder, f"{os.getpid()}.json")
        with open(path) as file:
            state = json.load(file)
        with open(path, "w") as file:
            json.dump({**state, "start": state["start"] - 1}, file)
        with self.assertRaisesRegex(forebay.ForebayError, "publishes nothing"):
            publishing.read(os.getpid())

    def test_folders_of_others_are_not_believed(self):
        forebay.publish(3600)
        os.chmod(self.folder, 0o755)
        with self.assertRaisesRegex(forebay.ForebayError, "publishes nothing"):
            publishing.read(os.getpid())
        publishing.unpublish()
        # It goes to the other place, and says so if that is no better.
        shutil.rmtree(self.folder)
        os.symlink("/tmp", self.folder)
        path = forebay.publish(3600)
        self.assertFalse(path.startswith(self.runtime))
        publishing.unpublish()

    def test_files_that_are_none(self):
        forebay.publish(3600)
        path = os.path.join(self.folder, f"{os.getpid()}.json")
        for content, message in (
            ("{", "is not JSON"),
            ("[]", "another version"),
            ('{"schema": 2}', "another version"),
        ):
            with open(path, "w") as file:
                file.write(content)
            with self.assertRaisesRegex(forebay.ForebayError, message):
                publishing.read(os.getpid())
        os.unlink(path)
        os.mkfifo(path)
        with self.assertRaisesRegex(forebay.ForebayError, "is not a file of user"):
            publishing.read(os.getpid())
        os.unlink(path)
        os.symlink("/etc/passwd", path)
        with self.assertRaisesRegex(forebay.ForebayError, "publishes nothing"):
            publishing.read(os.getpid())
        os.unlink(path)

    def test_by_environment_from_the_first_use_on(self):
        program = (
            "import threading, time, os, forebay\n"
            "names = lambda: [one.name for one in threading.enumerate()]\n"
            "assert 'forebay-publisher' not in names()\n"
            "pool = forebay.Pool('cpu')\n"
            "assert 'forebay-publisher' in names()\n"
            "from forebay import publishing\n"
            "until = time.monotonic() + 20\n"
            "while time.monotonic() < until:\n"
            "    try:\n"
            "        assert len(publishing.read(os.getpid())['pools']) == 1\n"
            "        break\n"
            "    except forebay.ForebayError:\n"
            "        time.sleep(0.01)\n"
            "else:\n"
            "    raise SystemExit('it published nothing')\n"
        )
        for value, expected in (("0.05", ""), ("1", "")):
            done = subprocess.run(
                [sys.executable, "-c", program],
                capture_output=True,
                text=True,
                env=environment(FOREBAY_PUBLISH=value),
            )
            self.assertEqual((done.returncode, done.stderr), (0, expected))
        done = subprocess.run(
            [sys.executable, "-c", "import forebay; print(forebay.version())"],
            capture_output=True,
            text=True,
            env=environment(FOREBAY_PUBLISH="often"),
        )
        self.assertEqual(done.returncode, 0)
        self.assertIn("FOREBAY_PUBLISH is 'often'; it must be 1, or", done.stderr)

    def test_a_child_of_fork_leaves_the_file_alone(self):
        path = forebay.publish(3600)
        pid = os.fork()
        if pid == 0:
            status = 1
            with contextlib.suppress(BaseException):
                publishing.unpublish()
                status = 0 if os.path.exists(path) else 2
            os._exit(status)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        self.assertTrue(os.path.exists(path))

    def test_pools_come_and_go_meanwhile(self):
        forebay.publish(0.01)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            with BlockPool(name="short") as pool, TensorCache(max_size=2) as cache:
                pool.give(pool.take(MIB))
                cache.add(np.zeros(10))
        self.assertEqual(publishing.read(os.getpid())["pid"], os.getpid())


def rich_state(**changed):
    """A reading with something of everything."""
    with BlockPool(name="work", max_bytes=64 * MIB) as pool, TensorCache(max_size=4) as cache:
        pool.give(pool.take(16 * MIB))
        block = pool.take(8 * MIB)
        cache.add(np.zeros(1000))
        cache.get(1000, float)
        loader = Prefetcher(lookahead=1).wrap([np.zeros(10), np.ones(10)])
        list(loader)
        state = _state.Reader().read()
        loader.close()
        pool.give(block)
    return {**state, **changed}


class View(unittest.TestCase):
    def test_rows_say_what_was_read(self):
        state = rich_state()
        state["pools"] = [one for one in state["pools"] if one["name"] == "work"]
        lines = _top.render(state, width=80)
        text = "\n".join(lines)
        self.assertRegex(text, r"(?m)^work +\[█+▒*░+\] +8\.00Mi +\d\d\.0Mi +64\.0Mi +- +\d+ %")
        self.assertRegex(text, r"(?m)^cpu #\d+ .* 1 +- +100 % +0 +lru$")
        self.assertRegex(text, r"(?m)^list +2 +- .*bound by: ")
        self.assertIn(f"pid {os.getpid()}", lines[0])
        # A cache and a loader have pools of their own, called after them.
        state = rich_state()
        caches = [one["number"] for one in state["caches"]]
        loaders = [one["number"] for one in state["prefetchers"]]
        text = "\n".join(_top.render(state, width=80))
        self.assertRegex(text, rf"(?m)^cache #{caches[-1]} +\(")
        self.assertRegex(text, rf"(?m)^prefetch #{loaders[-1]} +\(")
        self.assertRegex(lines[1], r"^process [\d.]+ MiB, at most [\d.]+ MiB; left [\d.]+ GiB")

    def test_rates_are_of_two_readings(self):
        before = rich_state()
        before["pools"] = [one for one in before["pools"] if one["name"] == "work"]
        state = json.loads(json.dumps(before))
        state["clock"] = before["clock"] + 2
        state["pools"][0]["allocations"] += 5000
        state["pools"][0]["hits"] += 4500
        state["pools"][0]["misses"] += 500
        lines = _top.render(state, before, width=100)
        row = next(line for line in lines if line.startswith("work"))
        self.assertRegex(row, r" 2\.5k +90 % ")

    def test_it_fits_any_terminal(self):
        state = rich_state()
        pool, cache, loader = state["pools"][-1], state["caches"][-1], state["prefetchers"][-1]
        state["pools"] = [
            dict(pool, number=n, name=f"pool with a long name {n}" * 3) for n in range(30)
        ]
        state["caches"] = [dict(cache, number=n) for n in range(9)]
        state["prefetchers"] = [dict(loader) for _ in range(5)]
        state["command"] = "python " * 50
        for width in (20, 40, 79, 80, 81, 120, 250):
            for height in (5, 10, 24, 30, 60, 100):
                lines = _top.render(state, state, width=width, height=height, foot="q quits")
                self.assertEqual(len(lines), height)
                self.assertLessEqual(max(map(len, lines)), width)
                self.assertEqual(lines[-1], "q quits")
        text = "\n".join(_top.render(state, width=80, height=24, foot="q quits"))
        for word in ("Pools", "Caches", "Prefetch", "more"):
            self.assertIn(word, text)

    def test_names_cannot_write_to_the_terminal(self):
        state = rich_state(command="\x1b[2Jrm\r\n")
        for section in ("pools", "caches", "prefetchers"):
            state[section][-1]["name"] = "\x1b]0;title\x07\n"
        state["caches"][-1]["policy"] = "\x9b31m"
        # Two columns wide, and none.
        state["pools"][-1]["name"] += "\u4e00\u0301"
        for line in _top.render(state, width=200):
            self.assertTrue(line.isprintable(), line)
            self.assertNotRegex(line, "\u4e00|\u0301")

    def test_colour_changes_no_column(self):
        state = rich_state()
        plain = _top.render(state, state, width=80)
        coloured = _top.render(state, state, width=80, colour=True)
        self.assertEqual([re.sub(r"\x1b\[[\d;]*m", "", line) for line in coloured], plain)
        self.assertTrue(any("\x1b[" in line for line in coloured))
        ascii_only = "\n".join(_top.render(state, width=80, blocks=False))
        self.assertTrue(ascii_only.isascii())

    def test_bars(self):
        paint = _top._Painter(80, False, True)
        for live, held, whole, drawn in (
            (0, 0, 100, "░░░░░░░░░░"),
            (50, 70, 100, "█████▒▒░░░"),
            (100, 100, 100, "██████████"),
            (1, 1, 10**9, "█░░░░░░░░░"),
            (0, 1, 10**9, "▒░░░░░░░░░"),
            (0, 0, 0, "░░░░░░░░░░"),
            (9, 200, 100, "▒" * 10),
        ):
            made = "".join(text for text, _ in paint.bar(live, held, whole, 10))
            self.assertEqual(len(made), 10)
            if live != 9:
                self.assertEqual(made, drawn)

    def test_of_this_process(self):
        with BlockPool(name="seen"):
            out = io.StringIO()
            forebay.top(file=out)
            self.assertIn("\nseen", out.getvalue())
            self.assertNotIn("\x1b", out.getvalue())
        with self.assertRaisesRegex(ValueError, "interval is 0"):
            forebay.top(interval=0)
        with self.assertRaisesRegex(forebay.ForebayError, "there is no process 999999999"):
            forebay.top(999999999, file=io.StringIO())

    def test_the_machine_as_far_as_it_is_known(self):
        state = rich_state(machine={})
        self.assertRegex(_top.render(state)[1], r"^process .* MiB, at most .* MiB *$")
        gpu = {"index": 0, "free": 30 << 30, "total": 80 << 30}
        machine = {
            "level": "critical",
            "limit_source": "cgroup v2 /a memory.high",
            "system_available": MIB,
            "pressure_some_avg10": 12.34,
            "gpus": [gpu, {**gpu, "index": 1, "free": None}],
        }
        lines = _top.render(rich_state(machine=machine), width=120)
        self.assertTrue(
            lines[1].endswith(
                "; left 1.00 MiB; pressure 12.3 %  critical (cgroup v2 /a memory.high)"
            )
        )
        self.assertEqual(lines[2], "GPU 0: 30.0 GiB of 80.0 GiB left")

    def test_nothing_open_is_said(self):
        state = {**rich_state(), "pools": [], "caches": [], "prefetchers": []}
        self.assertIn("No pool, cache or prefetcher is open.", _top.render(state))


class Command(Folders):
    def test_once_and_json(self):
        process = self.publisher()
        status, out, err = self.run_command(process.pid, "--once", "--interval", "0.3")
        self.assertEqual((status, err), (0, ""))
        self.assertRegex(out, r"(?m)^activations +\[.*\] +\S+Mi +\S+Mi +64\.0Mi +[\d.]+k? +\d+ %")
        self.assertNotIn("\x1b", out)
        status, out, err = self.run_command("--json")
        self.assertEqual((status, err, json.loads(out)["pid"]), (0, "", process.pid))

    def test_wrong_use(self):
        status, out, err = self.run_command()
        self.assertEqual((status, out), (1, ""))
        self.assertIn("no process publishes: start one with FOREBAY_PUBLISH=1", err)
        status, _, err = self.run_command(os.getpid())
        self.assertEqual(status, 1)
        self.assertIn(f"process {os.getpid()} publishes nothing", err)
        self.assertEqual(self.run_command("--interval", "-1")[0], 2)
        first, second = self.publisher(), self.publisher()
        status, _, err = self.run_command()
        self.assertEqual(status, 2)
        self.assertRegex(err, rf"name one:\n +{first.pid}  .*\n +{second.pid}  ")

    def test_errors_are_one_line(self):
        _, _, err = self.run_command(999999999)
        self.assertEqual(err, "forebay top: there is no process 999999999\n")


class Screen:
    """What a terminal shows of what it is sent: as much of one as the view uses."""

    def __init__(self, columns, lines):
        self.other = False
        self.resize(columns, lines)

    def resize(self, columns, lines):
        self.columns, self.lines, self.row, self.column = columns, lines, 0, 0
        self.rows = [[" "] * columns for _ in range(lines)]

    def feed(self, text):
        for escape, control, plain in re.findall(
            r"(\x1b\[[?\d;]*[A-Za-z])|([\r\n])|([^\x1b\r\n]+)", text
        ):
            if plain:
                for one in plain:
                    assert self.column < self.columns, "it wrote beyond the edge"
                    self.rows[self.row][self.column] = one
                    self.column += 1
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                assert self.row + 1 < self.lines, "it scrolled"
                self.row += 1
            elif escape == "\x1b[H":
                self.row = self.column = 0
            elif escape == "\x1b[K":
                self.rows[self.row][self.column :] = [" "] * (self.columns - self.column)
            elif escape == "\x1b[J":
                for row in self.rows[self.row + 1 :]:
                    row[:] = [" "] * self.columns
            elif escape in ("\x1b[?1049h", "\x1b[?1049l"):
                self.other = escape.endswith("h")
                self.resize(self.columns, self.lines)
            else:
                assert re.fullmatch(r"\x1b\[(\?25[hl]|[\d;]*m)", escape), repr(escape)

    def text(self):
        return "\n".join("".join(row).rstrip() for row in self.rows)


@contextlib.contextmanager
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class InTerminal(Folders):
    @classmethod
    def setUpClass(cls):
        # Who is started in the background ignores it, and so do those that are started by it.
        interrupts = interruptible()
        interrupts.__enter__()
        cls.addClassCleanup(interrupts.__exit__, None, None, None)

    def start(self, pid, columns=80, lines=24, interval=0.1, **changed):
        self.master, self.slave = pty.openpty()
        self.addCleanup(os.close, self.master)
        self.addCleanup(os.close, self.slave)
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        self.screen, self.sent = Screen(columns, lines), ""
        process = subprocess.Popen(
            self.command(pid, "--interval", interval),
            stdin=self.slave,
            stdout=self.slave,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=environment(**{"TERM": "xterm", "PYTHONIOENCODING": "utf-8", **changed}),
        )
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def resize(self, columns, lines):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, seen, seconds=30):
        """Feeds the screen until it shows what is wanted."""
        limit, rest = time.monotonic() + seconds, b""
        while time.monotonic() < limit:
            if seen(self.screen.text()):
                return self.screen.text()
            if not select.select([self.master], [], [], 0.1)[0]:
                continue
            try:
                rest += os.read(self.master, 65536)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                break
            # Whole characters, and whole sequences.
            whole = rest.rfind(b"\x1b[J") + 3 if b"\x1b[J" in rest else 0
            if b"\x1b[?1049l" in rest[whole:]:
                whole = len(rest)
            text, rest = rest[:whole].decode(), rest[whole:]
            self.sent += text
            self.screen.feed(text)
        self.fail(f"it was not shown:\n{self.screen.text()}")

    def test_live(self):
        watched = self.publisher()
        process = self.start(watched.pid)
        text = self.until(lambda text: re.search(r"activations .* [\d.]+k? +100 %", text))
        self.assertTrue(self.screen.other)
        lines = text.split("\n")
        self.assertIn(f"pid {watched.pid}", lines[0])
        self.assertTrue(lines[23].startswith("q quits"), text)
        self.assertRegex(text, r"(?m)^cpu #\d+ .*lru$")
        # Another size is drawn anew, and nothing of before is left.
        self.screen.resize(120, 40)
        self.resize(120, 40)
        text = self.until(lambda text: text.split("\n")[39].startswith("q quits"))
        self.assertEqual(text.count("q quits"), 1)
        self.assertGreater(max(map(len, text.split("\n"))), 85)
        os.write(self.master, b"x\x1b[A")
        time.sleep(0.3)
        self.assertIsNone(process.poll())
        os.write(self.master, b"q")
        self.assertEqual(process.wait(30), 0)
        self.until(lambda _: not self.screen.other)
        self.assertEqual(process.stderr.read(), b"")
        self.assertEqual(termios.tcgetattr(self.slave), self.before)

    def test_another_size_is_drawn_at_once(self):
        process = self.start(self.publisher().pid, interval=3600)
        self.until(lambda text: text.split("\n")[23].startswith("q quits"))
        self.screen.resize(72, 12)
        self.resize(72, 12)
        text = self.until(lambda text: text.split("\n")[11].startswith("q quits"))
        self.assertIn("activations", text)
        os.write(self.master, b"q")
        self.assertEqual(process.wait(30), 0)

    def test_a_process_that_ends(self):
        watched = self.publisher()
        process = self.start(watched.pid)
        self.until(lambda text: "activations" in text)
        watched.stdin.close()
        watched.wait()
        self.assertEqual(process.wait(30), 0)
        rest = b""
        while select.select([self.master], [], [], 0.2)[0]:
            rest += os.read(self.master, 65536)
        self.assertIn(f"Process {watched.pid} has ended", rest.decode())
        self.assertIn("\x1b[?25h\x1b[?1049l", rest.decode())
        self.assertEqual(termios.tcgetattr(self.slave), self.before)

    def test_ended_by_a_signal_it_tidies_up(self):
        watched = self.publisher()
        for number, status in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 0)):
            process = self.start(watched.pid)
            self.until(lambda text: "activations" in text)
            process.send_signal(number)
            self.assertEqual(process.wait(30), status)
            self.until(lambda _: not self.screen.other)
            self.assertEqual(termios.tcgetattr(self.slave), self.before)

    def test_stopped_it_leaves_the_terminal(self):
        watched = self.publisher()
        process = self.start(watched.pid)
        self.until(lambda text: "activations" in text)
        process.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status))
        self.assertEqual(termios.tcgetattr(self.slave), self.before)
        self.until(lambda _: not self.screen.other)
        process.send_signal(signal.SIGCONT)
        self.until(lambda text: self.screen.other and "activations" in text)
        os.write(self.master, b"q")
        self.assertEqual(process.wait(30), 0)
        self.assertEqual(termios.tcgetattr(self.slave), self.before)

    def test_a_terminal_that_knows_nothing_gets_it_once(self):
        watched = self.publisher()
        process = self.start(watched.pid, TERM="dumb")
        self.assertEqual(process.wait(30), 0)
        rest = b""
        while select.select([self.master], [], [], 0.2)[0]:
            rest += os.read(self.master, 65536)
        self.assertNotIn(b"\x1b", rest)
        self.assertIn(b"activations", rest)


if __name__ == "__main__":
    unittest.main()
