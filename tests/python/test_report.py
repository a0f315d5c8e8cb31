"""Reports: their numbers, and the page in a headless Chromium."""

import contextlib
import gzip
import html
import io
import json
import os
import pathlib
import random
import re
import sys
import tempfile
import time
import unittest
from argparse import ArgumentParser

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import forebay
from chromium import Chromium
from forebay.report import add_arguments, report, run

HEADER = "Thread,Time,Action,Pointer,Size,Stream\n"
MIB = 1 << 20


def clock(microseconds):
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:06}"


def rows(events, seed=7):
    """A program with layers: what it keeps, what lives for a step, what is gone at once; three
    streams, two threads, sizes of all kinds. At least so many rows."""
    chance = random.Random(seed)
    now, top, free, written = 0, 0x7F00_0000_0000, {}, 0

    def row(block, action, stream=None):
        nonlocal now, written
        address, size, own, thread = block
        now += chance.randint(1, 9)
        written += 1
        stream = own if stream is None else stream
        return f"{thread},{clock(now)},{action},{address:#x},{size},{stream:#x}\n"

    def new(size, stream=0, thread=1):
        nonlocal top
        rounded = -(-size // 512) * 512
        if free.get(rounded):
            address = free[rounded].pop()
        else:
            address, top = top, top + rounded
        return (address, size, stream, thread)

    def gone(block):
        free.setdefault(-(-block[1] // 512) * 512, []).append(block[0])

    for size in (256 * MIB, 96 * MIB):
        yield row(new(size), "allocate")
    for _ in range(200):
        yield row(new(chance.choice((4 * MIB, 2048, 8192))), "allocate")
    while written < events:
        kept, batch = [], chance.randint(50, 64)
        for _ in range(60):
            for _ in range(6):
                block = new(batch * chance.choice((4096, 16384, 65536)), chance.choice((0, 0, 7)))
                kept.append(block)
                yield row(block, "allocate")
                for size in (chance.randint(1, 2 * MIB), chance.randint(16, 4000)):
                    short = new(size, 0, 2)
                    yield row(short, "allocate")
                    yield row(short, "free")
                    gone(short)
        while kept:
            block = kept.pop()
            yield row(block, "free", 9 if chance.random() < 0.1 else None)
            gone(block)
        now += 20_000


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


class OnePage(unittest.TestCase):
    """A report that all tests look at."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.trace = os.path.join(cls.folder.name, "step.csv.gz")
        with gzip.open(cls.trace, "wt", compresslevel=1) as file:
            file.write(HEADER)
            file.writelines(rows(15_000))
        cls.page = os.path.join(cls.folder.name, "report.html")
        cls.report = report(cls.trace, cls.page, title="A <step> & more", plan_time=0.2)


class Numbers(OnePage):
    def test_they_are_those_of_the_trace(self):
        live, total, peak, most, streams = {}, 0, 0, [], {}
        with gzip.open(self.trace, "rt") as file:
            next(file)
            for line in file:
                _, _, action, pointer, size, stream = line.strip().split(",")
                if action == "allocate":
                    live[pointer] = int(size)
                    total += int(size)
                    streams[int(stream, 16)] = streams.get(int(stream, 16), 0) + 1
                else:
                    total -= live.pop(pointer)
                if total > peak:
                    peak, most = total, sorted(live.values(), reverse=True)
        numbers = self.report.numbers
        self.assertEqual(numbers["peak"]["live_bytes"], peak)
        self.assertEqual(numbers["peak"]["blocks"], len(most))
        held = {one["size"]: one["blocks"] for one in numbers["holders"]}
        self.assertEqual(held, {size: most.count(size) for size in most})
        left = {one["size"]: one["blocks"] for one in numbers["left"]}
        self.assertEqual(sum(left.values()), len(live))
        told = {one["name"]: one["allocations"] for one in numbers["streams"] if one["allocations"]}
        self.assertEqual(told, streams)
        self.assertEqual(max(numbers["series"]["live_most"]), peak)
        self.assertLessEqual(2 * len(numbers["series"]["live_most"]), 2000)
        plan = numbers["plan"]
        self.assertGreaterEqual(plan["arena_bytes"], plan["lower_bound"])
        self.assertGreaterEqual(plan["lower_bound"], peak)
        self.assertGreaterEqual(numbers["most_pages_bytes"], peak)

    def test_titles_paths_and_addresses_are_text(self):
        name = "</script><script>alert(1)</script>.csv".replace("/", "\\")
        name = os.path.join(self.folder.name, name)
        with open(name, "w") as file:
            file.write(HEADER + "1,00:00:00.000001,free,0x10,8,0x0\n")
        made = report(name, title='</title><img src=x onerror="alert(1)">{{data}}')
        self.assertIsNone(made.path)
        self.assertEqual(made.faults, 1)
        self.assertEqual(made.html.count("<script"), 2)
        self.assertNotIn("<img", made.html)
        self.assertEqual(made.numbers["title"], '</title><img src=x onerror="alert(1)">{{data}}')

    def test_a_pool_beside_shows_what_it_reserves(self):
        with forebay.Pool(max_bytes=8 << 30) as pool:
            numbers = report(self.trace, plan_time=0, pool=pool).numbers
            self.assertEqual(pool.statistics()["requested_bytes"], 0)
        self.assertIsNone(self.report.numbers["reserved"])
        self.assertEqual(numbers["reserved"]["refused"], 0)
        self.assertGreaterEqual(numbers["reserved"]["most_bytes"], numbers["peak"]["live_bytes"])
        series = numbers["series"]["reserved_most"]
        self.assertEqual(max(series), numbers["reserved"]["most_bytes"])

    def test_errors_leave_the_page_as_it_was(self):
        out = os.path.join(self.folder.name, "kept.html")
        pathlib.Path(out).write_text("kept")
        broken = os.path.join(self.folder.name, "broken.csv")
        pathlib.Path(broken).write_text(HEADER + "1,00:00:00.000001,allocate,0x10\n")
        with self.assertRaisesRegex(forebay.ForebayError, "line 2, column Size"):
            report(broken, out)
        with self.assertRaisesRegex(forebay.ForebayError, "max_points is 5"):
            report(self.trace, out, max_points=5)
        with self.assertRaisesRegex(ValueError, "plan_time is -1"):
            report(self.trace, out, plan_time=-1)
        self.assertEqual(pathlib.Path(out).read_text(), "kept")
        files = os.listdir(self.folder.name)
        self.assertFalse([file for file in files if file.startswith(".forebay")])

    def test_progress_can_end_it(self):
        told = []
        made = report(self.trace, plan_time=5, progress=lambda *at: told.append(at) or False)
        self.assertLessEqual(len(told), 2)
        self.assertEqual(made.numbers["whole"], not told or told[0][1])
        self.assertTrue(report(self.trace, plan_time=0, progress=lambda *_: None).numbers["whole"])

    def test_the_command_prints_what_is_asked_for(self):
        def command(*arguments):
            parser, said, wrong = ArgumentParser(), io.StringIO(), io.StringIO()
            add_arguments(parser)
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
                status = run(parser.parse_args(arguments))
            return status, said.getvalue(), wrong.getvalue()

        out = os.path.join(self.folder.name, "command.html")
        status, said, _ = command(self.trace, "-o", out, "--json", "--time", "0", "--title", "T")
        told = json.loads(said)
        self.assertEqual((status, told["title"], told["plan"]), (0, "T", None))
        self.assertNotIn("series", told)
        status, said, _ = command(self.trace, "-o", out, "--time", "0.1", "--events")
        self.assertIn("peak of live bytes", said)
        self.assertNotIn("reserved", said)
        _, said, _ = command(self.trace, "-o", out, "--time", "0", "--pool", "conservative")
        self.assertIn("reserved by a pool", said)
        self.assertIn(f"page: {out}", said)
        bad = os.path.join(self.folder.name, "bad.csv")
        pathlib.Path(bad).write_text(HEADER + "1,00:00:00.000001,free,0x10,8,0x0\n")
        status, _, wrong = command(bad, "-o", out)
        self.assertEqual((status, "1 rows make no sense" in wrong), (1, True))

    def test_a_notebook_shows_it_in_a_frame_of_its_own(self):
        shown = self.report._repr_html_()
        frame = r'<iframe sandbox="allow-scripts" [^>]*? srcdoc="([^"]*)"></iframe>'
        inner = re.fullmatch(frame, shown)
        self.assertEqual(html.unescape(inner[1]), self.report.html)

    def test_a_million_events_are_a_page_below_two_megabytes(self):
        trace = os.path.join(self.folder.name, "million.csv")
        with open(trace, "w") as file:
            file.write(HEADER)
            file.writelines(rows(1_000_000))
        begun = time.perf_counter()
        made = report(trace, self.page + ".million")
        seconds = time.perf_counter() - begun
        size = os.path.getsize(self.page + ".million")
        print(f"a million events: {seconds:.1f} s, {size:,} bytes", file=sys.stderr)
        self.assertGreaterEqual(made.numbers["events"], 1_000_000)
        self.assertLess(size, 2_000_000)
        self.assertGreaterEqual(len(made.numbers["series"]["live_most"]), 500)


class Page(OnePage):
    """What a person sees."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.browser = Chromium()
        cls.addClassCleanup(cls.browser.close)

    def setUp(self):
        self.browser.complaints.clear()
        self.browser.requests.clear()
        self.browser.size(1200)
        self.browser.media("light")
        self.browser.open(self.page)

    def tearDown(self):
        self.assertEqual(self.browser.complaints, [])
        self.assertEqual(set(self.browser.requests), {pathlib.Path(self.page).resolve().as_uri()})

    def evaluate(self, expression):
        return self.browser.evaluate(expression)

    def text(self, selector):
        return self.evaluate(f"document.querySelector({selector!r}).textContent")

    def test_everything_is_there(self):
        self.assertEqual(self.evaluate("document.documentElement.dataset.ready"), "yes")
        self.assertEqual(self.text("h1"), "A <step> & more")
        for chart in ("bytes", "unused", "rate", "map", "plan"):
            drawn = self.evaluate(
                f"document.querySelectorAll('#{chart} svg path, #{chart} svg rect').length"
            )
            self.assertGreaterEqual(drawn, 3, chart)
            _, _, width, height = self.browser.box(f"#{chart} .plot svg")
            self.assertTrue(width > 900 and height > 100, (chart, width, height))
        sections = "[...document.querySelectorAll('section')].map((e) => e.id).join(' ')"
        sections = self.evaluate(sections)
        self.assertEqual(sections, "do time peak maps traffic sizes streams left notes")
        self.assertGreater(self.evaluate("document.querySelectorAll('tbody tr').length"), 20)
        self.assertEqual(self.evaluate("document.querySelectorAll('#map rect').length"), 1200)

    def test_nothing_of_the_page_is_wider_than_the_screen(self):
        for width in (400, 700, 1200, 2400):
            self.browser.size(width)
            self.assertLessEqual(self.evaluate("document.documentElement.scrollWidth"), width)

    def test_light_and_dark(self):
        def ground():
            return brightness(self.evaluate("getComputedStyle(document.body).backgroundColor"))

        def contrast():
            ink = self.evaluate("getComputedStyle(document.body).color")
            return abs(ground() - brightness(ink))

        self.assertGreater(ground(), 700)
        self.assertGreater(contrast(), 400)
        fill = "getComputedStyle(document.querySelector('#bytes .c0')).fill"
        light = self.evaluate(fill)
        self.browser.click(*self.browser.box("#theme")[:2])
        self.assertLess(ground(), 150)
        self.assertGreater(contrast(), 400)
        dark = self.evaluate(fill)
        self.assertNotEqual(light, dark)
        self.browser.click(*self.browser.box("#theme")[:2])
        self.assertGreater(ground(), 700)
        self.browser.media("dark")
        self.browser.open(self.page)
        self.assertLess(ground(), 150)
        self.assertEqual(self.evaluate(fill), dark)
        # Paper is white.
        self.browser.media("dark", "print")
        self.assertGreater(ground(), 700)
        self.assertEqual(self.evaluate(fill), light)
        shown = self.evaluate("getComputedStyle(document.getElementById('controls')).display")
        self.assertEqual(shown, "none")
        self.assertTrue(self.browser.pdf().startswith(b"%PDF"))

    def tip(self):
        tip = "document.getElementById('tip')"
        return self.evaluate(f"{tip}.hidden ? '' : {tip}.innerText")

    def test_the_pointer_is_told_what_it_points_at(self):
        x, y, _, _ = self.browser.box("#bytes .plot")
        self.browser.move(x, y)
        series = self.report.numbers["series"]
        at = int(0.5 * self.report.numbers["extent"] / series["width"])
        shown = [f"{number:,} bytes" for number in series["live_most"][at - 1 : at + 2]]
        self.assertTrue(any(text in self.tip() for text in shown), (self.tip(), shown))
        for word in ("from", "allocated", "on pages"):
            self.assertIn(word, self.tip())
        # A block of the map says what it is.
        x, y, _, _ = self.browser.box("#map rect.b")
        self.browser.move(x, y)
        self.assertRegex(self.tip(), r"iB at 0x7f[0-9a-f]+, from .* (for|to)")
        self.browser.move(5, 5)
        self.assertEqual(self.tip(), "")

    def view(self, chart="bytes"):
        svg = f"document.querySelector('#{chart} .plot > svg')"
        box = self.evaluate(f"{svg}.getAttribute('viewBox')")
        left, _, width, _ = map(float, box.split())
        return left, width

    def test_time_is_zoomed_by_button_key_and_pointer_in_all_charts(self):
        self.assertEqual(self.view(), (0, 4000))
        self.browser.click(*self.browser.box("[data-zoom=in]")[:2])
        self.assertEqual(self.view(), (1000, 2000))
        for chart in ("unused", "rate", "map", "plan"):
            self.assertEqual(self.view(chart), (1000, 2000))
        labels = self.evaluate("document.querySelector('#bytes .x').innerText")
        self.assertGreaterEqual(len(labels.split()), 4)
        self.browser.click(*self.browser.box("[data-zoom=out]")[:2])
        self.assertEqual(self.view(), (0, 4000))
        x, y, width, _ = self.browser.box("#bytes .plot")
        self.browser.move(x - width / 4, y)
        self.browser.move(x - width / 4, y, type="mousePressed", button="left", clickCount=1)
        for part in (0.1, 0, -0.1, 0.25):
            self.browser.move(x + width * part, y, button="left", buttons=1)
        self.browser.move(x + width / 4, y, type="mouseReleased", button="left", clickCount=1)
        left, shown = self.view()
        self.assertAlmostEqual(left, 1000, delta=20)
        self.assertAlmostEqual(shown, 2000, delta=40)
        self.browser.key("Escape")
        self.evaluate("document.querySelector('#bytes .plot').focus()")
        self.browser.key("0", "0")
        self.assertEqual(self.view(), (0, 4000))
        self.browser.key("+", "+")
        self.assertEqual(self.view()[1], 2000)
        for _ in range(40):
            self.browser.key("+", "+")
        self.assertGreater(self.view()[1], 0)

    def test_keys_move_through_a_chart(self):
        self.evaluate("document.querySelector('#bytes .plot').focus()")
        self.browser.key("Home")
        first = self.tip()
        self.browser.key("ArrowRight")
        second = self.tip()
        self.browser.key("ArrowLeft")
        self.assertEqual(self.tip(), first)
        self.assertNotEqual(first, second)
        self.browser.key("End")
        self.assertNotIn(self.tip(), (first, second, ""))

    def test_tables_are_sorted_by_any_column(self):
        column = (
            "[...document.querySelectorAll('#peak tbody')[0].rows]"
            ".map((row) => Number(row.cells[1].dataset.v))"
        )
        before = self.evaluate(column)
        for order in (True, False):
            self.browser.click(*self.browser.box("#peak th:nth-child(2) button")[:2])
            self.assertEqual(self.evaluate(column), sorted(before, reverse=order))
        head = "document.querySelector('#peak th:nth-child(2)')"
        said = self.evaluate(f"{head}.getAttribute('aria-sort')")
        self.assertEqual(said, "ascending")

    def test_it_can_be_read_without_its_script(self):
        self.browser.call("Emulation.setScriptExecutionDisabled", value=True)
        try:
            self.browser.open(self.page)
        finally:
            self.browser.call("Emulation.setScriptExecutionDisabled", value=False)
        self.assertIsNone(self.evaluate("document.documentElement.dataset.ready"))
        self.assertTrue(self.evaluate("document.getElementById('controls').hidden"))
        self.assertRegex(self.text("#map rect title"), "iB at 0x")
        labels = self.evaluate("document.querySelectorAll('#bytes .x span').length")
        self.assertGreaterEqual(labels, 3)

    def test_a_trace_of_nothing_is_a_page_too(self):
        empty = os.path.join(self.folder.name, "empty.csv")
        pathlib.Path(empty).write_text(HEADER)
        page = os.path.join(self.folder.name, "empty.html")
        report(empty, page)
        self.browser.open(page)
        self.assertEqual(self.evaluate("document.documentElement.dataset.ready"), "yes")
        self.evaluate("document.querySelector('#bytes .plot').focus()")
        for key in ("Home", "End", "ArrowRight"):
            self.browser.key(key)
        self.browser.move(*self.browser.box("#bytes .plot")[:2])
        self.assertEqual(self.browser.complaints, [])
        self.browser.requests.clear()
        self.browser.open(self.page)


if __name__ == "__main__":
    unittest.main()
