"""Files of other tools: torch snapshots, Perfetto, Chrome and RMM."""

import gzip
import json
import os
import pickle
import pickletools
import random
import subprocess
import sys
import time
import tracemalloc
import unittest

from folder import InFolder
from forebay._library import library
from forebay.formats import FormatError, chrome, perfetto, plain_pickle, rmm, torch_snapshot, trace
from forebay.formats.reserved import Reserved
from forebay.pool import Pool

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STEP = os.path.join(ROOT, "examples_c", "gpt_step.csv.gz")


class Folder(InFolder):
    def file(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return self.path(name)

    def trace(self, name, rows):
        with trace.Writer(self.path(name)) as writer:
            for row in rows:
                writer.write(*row)
        return self.path(name)

    def fails(self, call, *parts):
        with self.assertRaises(FormatError) as caught:
            call()
        for part in parts:
            self.assertIn(part, str(caught.exception))

    def assert_no_rest(self):
        self.assertEqual([name for name in os.listdir(self.folder) if name.endswith(".part")], [])


def history(seed, steps=400, streams=(0, 0x10), failures=True):
    """The rows of a trace that makes sense."""
    chance = random.Random(seed)
    live, rows, now = {}, [], chance.randrange(trace.DAY)
    for _ in range(steps):
        now += chance.randrange(1000)
        thread = chance.randrange(1, 4)
        kind = chance.random()
        if failures and kind < 0.03:
            rows.append((thread, now, trace.FAILURE, 0, chance.randrange(1, 1 << 50), streams[0]))
        elif kind < 0.55 or not live:
            pointer = 0x7F00_0000_0000 + (chance.randrange(1 << 12) << 21)
            if pointer in live:
                continue
            stream = chance.choice(streams)
            live[pointer] = chance.randrange(1 << 21)
            rows.append((thread, now, trace.ALLOCATE, pointer, live[pointer], stream))
        else:
            pointer = chance.choice(sorted(live))
            size = live.pop(pointer)
            rows.append((thread, now, trace.FREE, pointer, size, chance.choice(streams)))
    return rows


class Traces(Folder):
    def test_what_is_written_is_read(self):
        for name in ("t.csv", "t.csv.gz"):
            rows = history(1)
            path = self.trace(name, rows)
            self.assertEqual([tuple(event) for event in trace.read(path)], rows)
            self.assertTrue(trace.is_trace(path))

    def test_the_library_reads_what_is_written_and_the_other_way_round(self):
        path = self.path("pool.csv.gz")
        with Pool("cpu") as pool, pool.trace(path, sites=False):
            import ctypes

            blocks = []
            for size in (1, 4096, 3 << 20):
                block = ctypes.c_void_p()
                self.assertEqual(library().forebay_alloc(pool.handle, size, None, block), 0)
                blocks.append(block)
            for block in blocks:
                self.assertEqual(library().forebay_free(pool.handle, block, None), 0)
        events = list(trace.read(path))
        self.assertEqual([event.action for event in events], ["allocate"] * 3 + ["free"] * 3)
        self.assertEqual([event.size for event in events], [1, 4096, 3 << 20] * 2)
        again = self.trace("again.csv", events)
        self.assertEqual(library().forebay_trace_replay(None, again.encode(), None, None), 0)
        with gzip.open(path) as one, open(again, "rb") as other:
            self.assertEqual(one.read(), other.read())

    def test_midnight(self):
        late = trace.DAY - 5
        rows = [(1, late, "allocate", 1, 2, 0), (1, late + 10, "free", 1, 2, 0)]
        path = self.trace("t.csv", rows)
        with open(path) as file:
            self.assertIn("00:00:00.000005", file.read())
        self.assertEqual([tuple(event) for event in trace.read(path)], rows)

    def test_other_ways_to_write_the_same(self):
        path = self.file(
            "t.csv",
            trace.HEADER
            + "\r\n1,00:00:00.000001,allocate,0X1F,2,(nil)\r\n2,01:00:00.000000,free,1f,2,1F",
        )
        self.assertEqual(
            [tuple(event) for event in trace.read(path)],
            [(1, 1, "allocate", 31, 2, 0), (2, 3_600_000_000, "free", 31, 2, 31)],
        )

    def test_errors_name_the_place(self):
        good = "1,00:00:00.000001,allocate,0x1,2,0x0\n"
        for row, *parts in (
            ("1,00:00:00.000001,allocate,0x1,2", "column Stream: missing"),
            (good.strip() + ",7", "more columns"),
            ("x,00:00:00.000001,allocate,0x1,2,0x0", "column Thread", "`x`", "decimal"),
            ("1,24:00:00.000001,allocate,0x1,2,0x0", "column Time"),
            ("1,00:60:00.000001,allocate,0x1,2,0x0", "column Time"),
            ("1,00:00:00.00001,allocate,0x1,2,0x0", "column Time"),
            ("1,00:00:00.000001,Allocate,0x1,2,0x0", "column Action"),
            ("1,00:00:00.000001,allocate,0xg,2,0x0", "column Pointer"),
            ("1,00:00:00.000001,allocate,0x1,-2,0x0", "column Size"),
            ("1,00:00:00.000001,allocate,0x1,1_0,0x0", "column Size"),
            ("1,00:00:00.000001,allocate,0x1,18446744073709551616,0x0", "column Size"),
            ("1,00:00:00.000001,allocate,0x10000000000000000,1,0x0", "column Pointer"),
            ("1,00:00:00.000001,allocate,0x1,1,0x10000000000000000", "column Stream"),
            ("", "column Thread"),
            ("9" * 2000, "longer than 1024 bytes"),
        ):
            path = self.file("t.csv", f"{trace.HEADER}\n{good}{row}\n{good}")
            self.fails(lambda: list(trace.read(path)), "t.csv", "line 3", *parts)
        for content in (b"", b"Thread\n", b"\x00" * 100):
            path = self.file("t.csv", content)
            self.fails(lambda: list(trace.read(path)), "line 1", "is not the header")
            self.assertFalse(trace.is_trace(path))

    def test_damaged_gzip(self):
        with open(self.trace("t.csv.gz", history(2)), "rb") as file:
            whole = file.read()
        for damaged in (whole[:-20], whole[:5], whole[:200] + b"\0" * 40 + whole[240:]):
            path = self.file("d.csv.gz", damaged)
            self.fails(lambda: list(trace.read(path)), "d.csv.gz")

    def test_a_line_without_an_end_is_not_taken_into_memory(self):
        path = self.path("t.csv.gz")
        with gzip.open(path, "wb") as file:
            for _ in range(64):
                file.write(b"1" * (1 << 20))
        tracemalloc.start()
        try:
            self.fails(lambda: list(trace.read(path)), "longer than 1024 bytes")
            self.assertLess(tracemalloc.get_traced_memory()[1], 4 << 20)
        finally:
            tracemalloc.stop()

    def test_a_file_is_there_whole_or_not_at_all(self):
        for name in ("t.csv", "t.csv.gz"):
            path = self.file(name, "what was there")
            with self.assertRaises(KeyError):
                with trace.Writer(path) as writer:
                    writer.write(1, 2, "allocate", 3, 4, 5)
                    raise KeyError
            with open(path) as file:
                self.assertEqual(file.read(), "what was there")
        self.assert_no_rest()
        with self.assertRaises(OSError) as caught:
            with trace.Writer(self.path("no/such/folder.csv")):
                pass
        self.assertTrue(caught.exception.filename.endswith("no/such/folder.csv"))

    def test_blocks_are_followed_as_a_model_has_them(self):
        for seed in range(20):
            chance, live, model, rows = random.Random(seed), {}, [], []
            for _ in range(200):
                action = chance.choice(["allocate", "free", "allocate failure"])
                pointer, size = chance.randrange(6), chance.randrange(3)
                rows.append((1, 0, action, pointer, size, 0))
                if action == "allocate" and pointer and pointer not in live:
                    live[pointer] = size
                elif action == "free":
                    live.pop(pointer, None)
                model.append(sum(live.values()))
            blocks = trace.Blocks()
            list(blocks.follow(trace.Event(*row) for row in rows))
            self.assertEqual({at: size for at, (size, _) in blocks.live.items()}, live)
            self.assertEqual((blocks.bytes, blocks.peak), (model[-1], max(model)))
            self.assertEqual(blocks.rows, len(rows))

    def test_rows_that_make_no_sense_are_counted_as_the_library_counts_them(self):
        rows = [
            (1, 0, "allocate", 1, 5, 0), (1, 0, "allocate", 1, 6, 0), (1, 0, "free", 2, 1, 0),
            (1, 0, "free", 1, 4, 0), (1, 0, "allocate", 0, 0, 0), (1, 0, "free", 0, 0, 0),
            (1, 0, "allocate", 0, 3, 0),
        ]  # fmt: skip
        path = self.trace("t.csv", rows)
        blocks = trace.Blocks()
        list(blocks.follow(trace.read(path)))
        self.assertEqual(blocks.wrong, 4)
        self.assertEqual(blocks.first_wrong, "line 3: allocate of 0x1, which is live")
        with Pool("cpu") as pool:
            self.assertNotEqual(
                library().forebay_trace_replay(pool.handle, path.encode(), None, None), 0
            )
        self.assertIn(b"(4 such rows in all)", library().forebay_last_error())


class Pickles(Folder):
    PLAIN = {
        "numbers": [
            0,
            1,
            255,
            256,
            65535,
            65536,
            -1,
            -(1 << 31),
            1 << 31,
            1 << 63,
            -(1 << 63),
            1 << 200,
        ],
        "text": ["", "a", "\u00e4\u4e2d", "x" * 300, "a"],
        "rest": [
            None,
            True,
            False,
            1.5,
            -0.0,
            float("inf"),
            (),
            (1,),
            (1, 2),
            (1, 2, 3),
            (1, 2, 3, 4),
        ],
        "deep": [[[[{"a": {"b": []}}]]], {}, []],
        "many": list(range(5000)),
        "keys": {str(number): number for number in range(3000)},
    }

    def test_every_protocol_is_read(self):
        for protocol in (2, 3, 4, 5):
            path = self.file("p", pickle.dumps(self.PLAIN, protocol))
            self.assertEqual(plain_pickle.load(path), self.PLAIN)
        shared = ["x"]
        path = self.file("p", pickle.dumps({"a": shared, "b": shared}, 2))
        found = plain_pickle.load(path)
        self.assertIs(found["a"], found["b"])

    def test_what_is_written_is_read_by_pickle(self):
        path = self.path("p")
        with open(path, "wb") as file:
            writer = plain_pickle.Writer(file)
            writer.begin()
            writer.put(self.PLAIN)
            writer.end()
        with open(path, "rb") as file:
            whole = file.read()
        self.assertEqual(pickle.loads(whole), self.PLAIN)
        self.assertEqual(plain_pickle.load(path), self.PLAIN)
        with self.assertRaises(TypeError):
            writer.operations({1, 2})

    def test_only_operations_that_memory_viz_knows(self):
        # The page's own reader, MemoryViz.js, knows these and throws at any other.
        known = set(
            "PROTO FRAME MARK STOP EMPTY_DICT EMPTY_LIST EMPTY_TUPLE DICT LIST TUPLE TUPLE1 "
            "TUPLE2 TUPLE3 SETITEM SETITEMS APPEND APPENDS BININT BININT1 BININT2 LONG1 BINFLOAT "
            "NEWTRUE NEWFALSE NONE SHORT_BINUNICODE BINUNICODE BINGET LONG_BINGET BINPUT "
            "LONG_BINPUT MEMOIZE".split()
        )
        torch_snapshot.export_trace(STEP, self.path("p"))
        with open(self.path("p"), "rb") as file:
            used = {operation.name for operation, _, _ in pickletools.genops(file)}
        self.assertEqual(used - known, set())

    def test_what_would_run_code_is_refused_and_does_not(self):
        touched = self.path("touched")

        class Evil:
            def __reduce__(self):
                return os.system, (f"touch {touched}",)

        call = b"cos\nsystem\n"
        for content in (
            pickle.dumps(Evil(), 2),
            pickle.dumps({"segments": [Evil()]}, 4),
            b"\x80\x02" + call + b"X\x04\0\0\0true\x85R.",
            b"\x80\x02(X\x04\0\0\0trueios\nsystem\n.",
            b"\x80\x02(" + call + b"X\x04\0\0\0trueo.",
            b"\x80\x02" + call + b")\x81}b.",
            b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
            b"\x80\x02\x82\x01.",
            b"\x80\x02X\x01\0\0\0aQ.",
            b"\x80\x02Pa\n.",
            b"\x80\x05\x97.",
            pickle.dumps({1, 2}, 4),
            pickle.dumps(b"bytes", 4),
        ):
            path = self.file("p", content)
            self.fails(lambda: plain_pickle.load(path), "byte ", "is none of plain data")
            self.fails(lambda: torch_snapshot.import_trace(path, self.path("t.csv")), "byte ")
        self.assertFalse(os.path.exists(touched))
        self.assertFalse(os.path.exists(self.path("t.csv")))

    def test_the_byte_is_named(self):
        for content, at, what in (
            (b"", 0, "begins with"),
            (b"(dp0\n.", 0, "begins with"),
            (b"\x80\x09N.", 1, "protocol 9"),
            (b"\x80\x02", 2, "ends here"),
            (b"\x80\x02X\xff\xff\xff\xffa.", 2, "ends here"),
            (b"\x80\x02\x8a\x20a.", 2, "ends here"),
            (b"\x80\x02h\x05.", 2, "was not kept"),
            (b"\x80\x02Na.", 3, "nothing for it"),
            (b"\x80\x02N}a.", 4, "no list"),
            (b"\x80\x02]K\x01K\x02s.", 7, "no dict"),
            (b"\x80\x02}(K\x01K\x02u.", 8, "no text"),
            (b"\x80\x02}(X\x01\0\0\0au.", 10, "no value"),
            (b"\x80\x02X\x01\0\0\0\xff.", 2, "UTF-8"),
            (b"\x80\x02u.", 2, "nothing for it"),
            (b"\x80\x02.", 2, "nothing for it"),
            (b"\x80\x04N\x94q\x00.", 0, ""),
        ):
            path = self.file("p", content)
            self.fails(
                lambda: plain_pickle.load(path), f"byte {at}" if what else "as no pickler", what
            )

    def test_a_hostile_file_takes_no_more_memory_than_a_good_one(self):
        tuples = b"\x80\x02)" + b"\x85" * 150_000
        for content in (
            # A number that would be an index into a table of billions.
            b"\x80\x02Nr\xff\xff\xff\xffj\xff\xff\xff\xff\x86.",
            # A frame, and a text, that are longer than the file.
            b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
            b"\x80\x04X\xff\xff\xff\x7fN.",
            # A tuple in a tuple...: whoever asks for its hash has no stack left.
            tuples + b".",
            b"\x80\x02}" + tuples[2:] + b"Ns.",
            # A list that holds itself.
            b"\x80\x02]q\x00h\x00a.",
        ):
            path = self.file("p", content)
            tracemalloc.start()
            try:
                try:
                    plain_pickle.load(path)
                except FormatError:
                    pass
                self.assertLess(tracemalloc.get_traced_memory()[1], 100 * len(content) + (1 << 20))
            finally:
                tracemalloc.stop()

    def test_a_changed_file_gives_an_error_or_plain_data(self):
        chance = random.Random(3)
        torch_snapshot.export_trace(self.trace("t.csv", history(4, 60)), self.path("ours"))
        with open(self.path("ours"), "rb") as file:
            ours = file.read()
        plain = {str, int, float, bool, type(None), list, dict, tuple}
        refused = 0
        for whole in (ours, pickle.dumps(pickle.loads(ours), 4)):
            for _ in range(700):
                changed = bytearray(whole)
                for _ in range(chance.randrange(1, 4)):
                    changed[chance.randrange(len(changed))] = chance.randrange(256)
                if chance.random() < 0.2:
                    del changed[chance.randrange(len(changed)) :]
                path = self.file("p", bytes(changed))
                try:
                    found = plain_pickle.load(path)
                    self.assertIn(type(found), plain)
                    torch_snapshot.import_trace(path, self.path("t2.csv"))
                    list(trace.read(self.path("t2.csv")))
                except FormatError:
                    refused += 1
        self.assertGreater(refused, 500)
        self.assert_no_rest()

    def test_a_pipe_will_do(self):
        content = pickle.dumps(self.PLAIN, 4)
        code = (
            "import sys; from forebay.formats import plain_pickle;"
            "print(len(plain_pickle.load('/dev/stdin')))"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code], input=content, capture_output=True, check=True, timeout=60
        )
        self.assertEqual(int(ran.stdout), len(self.PLAIN))


def snapshot(events=(), segments=(), **more):
    return {
        "segments": list(segments),
        "device_traces": [list(events)],
        "allocator_settings": {},
        "external_annotations": [],
        **more,
    }


def entry(action, address, size, time=0, stream=0):
    return torch_snapshot.event(action, address, size, stream, time, [])


class TorchSnapshots(Folder):
    def dump(self, value, protocol=4):
        return self.file("s.pickle", pickle.dumps(value, protocol))

    def rows(self, value, **how):
        path = self.dump(value)
        found = torch_snapshot.import_trace(path, self.path("t.csv"), **how)
        rows = [tuple(event) for event in trace.read(self.path("t.csv"))]
        self.assertEqual(found.rows, len(rows))
        return rows, found

    def exported(self, *args, **how):
        torch_snapshot.export_trace(*args, **how)
        with open(args[1], "rb") as file:
            return pickle.load(file)

    def test_what_is_exported_is_imported_the_same(self):
        for seed in range(10):
            rows = history(seed)
            source = self.trace("a.csv", rows)
            torch_snapshot.export_trace(source, self.path("s.pickle"), device=seed % 3)
            found = torch_snapshot.import_trace(self.path("s.pickle"), self.path("b.csv"))
            # Of two days, the time of day is left.
            self.assertEqual([tuple(event) for event in trace.read(self.path("b.csv"))], rows)
            self.assertEqual((found.rows, found.earlier, found.replaced), (len(rows), 0, 0))

    def test_blocks_tile_their_segments_and_the_history_ends_there(self):
        for seed in range(6):
            source = self.trace("a.csv", history(seed))
            found = self.exported(source, self.path("s.pickle"))
            live = {}
            for one in found["device_traces"][0]:
                if one["action"] == "alloc":
                    live[one["addr"]] = one["size"]
                elif one["action"] == "free_completed":
                    del live[one["addr"]]
            active = {}
            for segment in found["segments"]:
                at = segment["address"]
                for block in segment["blocks"]:
                    self.assertEqual(block["address"], at)
                    at += block["size"]
                    if block["state"] == "active_allocated":
                        active[block["address"]] = block["requested_size"]
                self.assertEqual(at, segment["address"] + segment["total_size"])
            self.assertEqual(active, live)
            self.assertTrue(active)

    def test_the_memory_of_a_pool_is_what_its_snapshot_says(self):
        import ctypes

        with Pool("cpu", policy="conservative") as pool:
            with pool.trace(self.path("t.csv")):
                block, other = ctypes.c_void_p(), ctypes.c_void_p()
                library().forebay_alloc(pool.handle, 9 << 20, None, ctypes.byref(block))
                library().forebay_alloc(pool.handle, 5 << 20, None, ctypes.byref(other))
                library().forebay_free(pool.handle, block, None)
            pool.trim()
            memory = pool.snapshot()
            found = self.exported(self.path("t.csv"), self.path("s.pickle"), snapshot=memory)
            library().forebay_free(pool.handle, other, None)
        self.assertEqual(
            sum(segment["total_size"] for segment in found["segments"]),
            sum(stretch["size"] for stretch in memory["stretches"]),
        )
        blocks = [block for segment in found["segments"] for block in segment["blocks"]]
        live = [block for block in blocks if block["state"] == "active_allocated"]
        self.assertEqual([block["requested_size"] for block in live], [5 << 20])
        # What has no pages any more is said to be gone behind its last use.
        actions = [one["action"] for one in found["device_traces"][0]]
        self.assertEqual(actions[:4], ["alloc", "alloc", "free_requested", "free_completed"])
        self.assertIn("segment_free", actions[4:])

    def test_what_lived_before_the_history_comes_first(self):
        events = [
            entry("free_completed", 0x1000, 64, 100),
            entry("alloc", 0x1000, 32, 101),
            entry("free_requested", 0x2000, 16, 102),
            entry("free_completed", 0x2000, 16, 110),
        ]
        block = {"address": 0x9000, "size": 512, "requested_size": 500, "state": "active_allocated"}
        gone = {**block, "address": 0x9200, "state": "inactive"}
        segments = [{"device": 0, "address": 0x9000, "stream": 7, "blocks": [block, gone]}]
        rows, found = self.rows(snapshot(events, segments))
        self.assertEqual(
            rows,
            [
                (1, 100, "allocate", 0x1000, 64, 0),
                (1, 100, "allocate", 0x2000, 16, 0),
                (1, 100, "allocate", 0x9000, 500, 7),
                (1, 100, "free", 0x1000, 64, 0),
                (1, 101, "allocate", 0x1000, 32, 0),
                (1, 102, "free", 0x2000, 16, 0),
            ],
        )
        self.assertEqual((found.earlier, found.replaced), (3, 0))

    def test_a_free_that_was_left_out_is_put_in(self):
        events = [
            entry("alloc", 0x1000, 64, 1),
            entry("alloc", 0x1000, 32, 2),
            entry("oom", 9, 99, 3),
        ]
        rows, found = self.rows(snapshot(events))
        self.assertEqual(
            [row[2:5] for row in rows],
            [
                ("allocate", 0x1000, 64), ("free", 0x1000, 64), ("allocate", 0x1000, 32),
                ("allocate failure", 0, 99),
            ],
        )  # fmt: skip
        self.assertEqual(found.replaced, 1)

    def test_devices(self):
        two = snapshot(device_traces=[[entry("alloc", 1, 2)], [entry("alloc", 3, 4)]])
        self.fails(lambda: self.rows(two), "devices [0, 1]", "name one")
        self.assertEqual(self.rows(two, device=1)[0], [(1, 0, "allocate", 3, 4, 0)])
        self.assertEqual(self.rows(two, device=5)[0], [])
        one = snapshot(device_traces=[[], [], [entry("alloc", 3, 4)]])
        self.assertEqual(self.rows(one)[0], [(1, 0, "allocate", 3, 4, 0)])

    def test_errors_name_the_entry(self):
        good = entry("alloc", 1, 2)
        for value, *parts in (
            ([], "no snapshot"),
            ({"segments": 1}, "no snapshot"),
            (snapshot(device_traces=3), "device_traces is no list"),
            (snapshot(device_traces=[3]), "device_traces[0] is no list"),
            (snapshot([good, 7]), "device_traces[0][1]", "int"),
            (
                snapshot([good, {"action": "alloc", "size": 1, "stream": 0}]),
                "device_traces[0][1]",
                "'addr'",
            ),
            (snapshot([entry("alloc", 1, "x")]), "device_traces[0][0]", "size is 'x'"),
            (snapshot([entry("alloc", 1, -1)]), "size is -1"),
            (snapshot([entry("alloc", 1 << 64, 1)]), "addr is"),
            (snapshot([{**good, "user_metadata": 5}]), "must be text"),
            (snapshot([], [7]), "segments[0]"),
            (snapshot([], [{"address": 1}]), "segments[0]", "blocks"),
            (
                snapshot(
                    [], [{"address": 1, "blocks": [{"size": "a", "state": "active_allocated"}]}]
                ),
                "segments[0]",
            ),
        ):
            self.fails(lambda: self.rows(value), "s.pickle", *parts)
        self.assertFalse(os.path.exists(self.path("t.csv")))

    def test_every_way_to_have_the_lists(self):
        # Items one by one, in one piece, from what was kept, and of a list that is made by its
        # mark.
        for count in (0, 1, 2, 1000, 1001, 2500):
            events = [entry("alloc", 1 + number, 2) for number in range(count)]
            for protocol in (2, 4):
                self.assertEqual(len(self.rows(snapshot(events))[0]), count)
                for many in ([events], [[], events], [events, []]):
                    path = self.dump(snapshot(device_traces=many), protocol)
                    found = torch_snapshot.import_trace(path, self.path("t.csv"))
                    self.assertEqual(found.rows, count)
        shared = [entry("alloc", 5, 2)]
        value = snapshot(other=shared)
        value = {"other": shared, **snapshot(device_traces=[shared])}
        self.assertEqual(len(self.rows(value)[0]), 1)
        listed = b"\x80\x02}(X\x08\0\0\0segments]X\x0d\0\0\0device_traces](("
        listed += pickle.dumps(entry("alloc", 5, 2), 2)[2:-1] + b"leu."
        path = self.file("l.pickle", listed)
        self.assertEqual(torch_snapshot.import_trace(path, self.path("t.csv")).rows, 1)

    def test_addresses_without_bounds_are_no_memory(self):
        source = self.trace("t.csv", [(1, 0, "allocate", 1, 1 << 63, 0)])
        self.fails(lambda: torch_snapshot.export_trace(source, self.path("s")), "pages")
        source = self.trace("t.csv", [(1, 0, "allocate", 1, 9, 0), (1, 0, "allocate", 2, 9, 0)])
        self.fails(lambda: torch_snapshot.export_trace(source, self.path("s")), "overlap")
        self.assertFalse(os.path.exists(self.path("s")))

    def test_who_asked_is_in_the_trace(self):
        def frame(filename, line, name):
            return {"filename": filename, "line": line, "name": name}

        step, model = frame("/home/me/run/train.py", 3, "step"), frame("/x/model.py", 7, "forward")
        inner = [
            frame("??", 0, "c10::cuda::MemPool, allocate"),
            frame("/usr/lib/python3.11/contextlib.py", 81, "inner"),
            frame("/venv/lib/python3.11/site-packages/torch/nn/functional.py", 5, "linear"),
        ]
        deep = [frame("/venv/lib/python3.11/site-packages/other/deep.py", n, "f\n,g") for n in range(9)]
        stacks = [inner + [model, inner[2], step], [*inner, *deep], inner, [], inner[:1], [step, 5], 7, [{}]]
        events = [entry("alloc", 0x1000 * (1 + at), 64, at) for at in range(len(stacks))]
        events += [entry("free_completed", 0x1000, 64, 90)]
        for one, stack in zip(events, stacks):
            one["frames"] = stack
        events[-1]["frames"] = [step]
        block = {"size": 512, "state": "active_allocated", "frames": [step]}
        rows, _ = self.rows(snapshot(events, [{"address": 0x90000, "blocks": [block]}]))
        self.assertEqual(len(rows), len(stacks) + 2)
        with open(self.path("t.csv"), encoding="utf-8") as file:
            header, *lines = file.read().splitlines()
        self.assertEqual(header, trace.HEADER + ",Site")
        told = "other/deep.py:{} f ,g"
        self.assertEqual(
            [line.split(",", 6)[6] for line in lines],
            [
                # What lived before, and is told of at the end.
                "run/train.py:3 step",
                "x/model.py:7 forward < run/train.py:3 step",
                " < ".join(told.format(number) for number in range(3)),
                "c10::cuda::MemPool, allocate < python3.11/contextlib.py:81 inner < "
                "nn/functional.py:5 linear",
                "",
                "c10::cuda::MemPool, allocate",
                # What is no stack, in a part or as a whole.
                "", "", "",
                "",
            ],
        )  # fmt: skip
        # Without a stack anywhere, no row has a site.
        self.rows(snapshot([entry("alloc", 0x1000, 64)]))
        with open(self.path("t.csv"), encoding="utf-8") as file:
            self.assertEqual(file.readline(), trace.HEADER + "\n")

    def test_rows_may_have_a_site(self):
        text = trace.HEADER + ",Site\n1,00:00:00.000001,allocate,0x5,7,0x0,a.py:1 f(x, y)\n"
        path = self.file("s.csv", (text + "1,00:00:00.000002,free,0x5,7,0x0,\n").encode())
        self.assertEqual([event.action for event in trace.read(path)], ["allocate", "free"])
        self.fails(lambda: list(trace.read(self.file("w.csv", text.replace(",7,", ",x,").encode()))), "column Size")
        self.fails(lambda: list(trace.read(self.file("h.csv", text.replace("Site", "Sit").encode()))), "line 1")

    def test_memory_does_not_grow_with_the_events(self):
        frames = [
            {"name": f"f{number}", "filename": "a.py", "line": number} for number in range(200)
        ]

        def peak(count):
            events = []
            for number in range(count):
                one = entry("alloc" if number % 2 == 0 else "free_completed", 0x1000, 64, number)
                one["frames"] = frames[number % 100 : number % 100 + 30]
                events.append(one)
            path = self.dump(snapshot(events))
            del events
            tracemalloc.start()
            try:
                torch_snapshot.import_trace(path, self.path("t.csv"))
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        few, many = peak(5_000), peak(10_000)
        # 56 bytes an event are kept, in an array that grows by an eighth.
        self.assertLess(many - few, 5_000 * 56 * 1.3)

    def test_a_snapshot_of_15_000_events_takes_seconds_at_most(self):
        frames = [
            {"name": f"f{number}", "filename": "a.py", "line": number} for number in range(500)
        ]
        events = []
        for number in range(5_000):
            at = 0x1000 + number % 700 * 0x1000
            for action in ("alloc", "free_requested", "free_completed"):
                one = entry(action, at, 512, number)
                one["frames"] = frames[number % 400 : number % 400 + 20]
                events.append(one)
        path = self.dump(snapshot(events))
        began = time.process_time()
        found = torch_snapshot.import_trace(path, self.path("t.csv"))
        self.assertEqual(found.rows, 10_000)
        # Of the processor's time. It was a third of a second; machines may be slow, and busy.
        self.assertLess(time.process_time() - began, 5)


def fields(message):
    """A small decoder of protobuf: number and value of each field."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    found = []
    while at < len(message):
        key = varint()
        if key & 7 == 0:
            found.append((key >> 3, varint()))
        elif key & 7 == 2:
            length = varint()
            if at + length > len(message):
                raise ValueError("a field is longer than its message")
            found.append((key >> 3, message[at : at + length]))
            at += length
        else:
            raise ValueError(f"kind {key & 7}")
    return found


def decoded(path):
    """Tracks by number: parent, name and unit or process; and the events as (time, track,
    value)."""
    with open(path, "rb") as file:
        packets = fields(file.read())
    tracks, events, notes = {}, [], []
    for number, packet in packets:
        assert number == 1
        packet = dict(fields(packet))
        assert packet[10] == 1
        if 60 in packet:
            track = dict(fields(packet[60]))
            process = dict(fields(track[3])) if 3 in track else {}
            unit = dict(fields(track[8]))[3] if 8 in track else None
            name = track.get(2, process.get(6)).decode()
            tracks[track[1]] = (track.get(5), name, unit, process.get(1))
            continue
        event = dict(fields(packet[11]))
        assert event[11] in tracks
        if event[9] == 4:
            events.append((packet[8], event[11], event[30]))
        else:
            assert event[9] == 3
            numbers = [dict(fields(one)) for field, one in fields(packet[11]) if field == 4]
            notes.append(
                (packet[8], event[23].decode(), {one[10].decode(): one[3] for one in numbers})
            )
    return tracks, events, notes


def counters(rows):
    """What the counters of a trace should be: name, and (time, value) each."""
    found, live, total, streams = {}, {}, 0, {}
    for _, now, action, pointer, size, stream in rows:
        if action == "allocate":
            live[pointer] = stream
        elif action == "free":
            stream, size = live.pop(pointer), -size
        else:
            continue
        total += size
        streams[stream] = streams.get(stream, 0) + size
        found.setdefault("live bytes", []).append((now, total))
        found.setdefault("live blocks", []).append((now, len(live)))
        found.setdefault(f"live bytes, stream {stream:#x}", []).append((now, streams[stream]))
    return found


class Perfetto(Folder):
    def test_numbers(self):
        for value in (0, 1, 127, 128, 300, (1 << 63) - 1, (1 << 64) - 1):
            self.assertEqual(fields(b"\x08" + perfetto.varint(value)), [(1, value)])
        self.assertEqual(perfetto.varint(300), b"\xac\x02")

    def test_counters_are_the_models(self):
        for seed in range(5):
            rows = history(seed)
            blocks = perfetto.export_trace(self.trace("t.csv", rows), self.path("p"), "the name", 7)
            self.assertEqual(blocks.wrong, 0)
            tracks, events, notes = decoded(self.path("p"))
            process = [at for at, track in tracks.items() if track[3] is not None]
            self.assertEqual([tracks[at] for at in process], [(None, "the name", None, 7)])
            found = {}
            for at, track, value in events:
                parent, name, unit, _ = tracks[track]
                self.assertEqual(parent, process[0])
                self.assertEqual(unit, 2 if name == "live blocks" else 3)
                found.setdefault(name, []).append((at // 1000, value))
            self.assertEqual(found, counters(rows))
            failed = [(row[1] * 1000, row[4]) for row in rows if row[2] == "allocate failure"]
            self.assertEqual([(at, numbers["bytes"]) for at, _, numbers in notes], failed)
            self.assertEqual({name for _, name, _ in notes}, {"out of memory"})

    def test_ranks_have_processes_and_one_clock(self):
        before = [(1, trace.DAY - 10, "allocate", 1, 5, 0), (1, trace.DAY + 10, "free", 1, 5, 0)]
        after = [(1, 20, "allocate", 1, 7, 0)]
        sources = [
            (self.trace("r0.csv", before), "rank 0", 0),
            (self.trace("r1.csv", after), "rank 1", -4_000),
        ]
        perfetto.merge_traces(sources, self.path("p"))
        tracks, events, _ = decoded(self.path("p"))
        names = {track[1]: at for at, track in tracks.items() if track[3] is not None}
        self.assertEqual(sorted(names), ["rank 0", "rank 1"])
        self.assertEqual(len({tracks[at][3] for at in names.values()}), 2)
        times = {}
        for at, track, _ in events:
            times.setdefault(tracks[track][0], set()).add(at)
        first, second = (sorted(times[names[name]]) for name in ("rank 0", "rank 1"))
        # Rank 1 began 20 microseconds behind midnight, rank 0 10 before, and its clock is 4 ahead.
        self.assertEqual([at - first[0] for at in (*first, *second)], [0, 20_000, 26_000])
        self.fails(
            lambda: perfetto.merge_traces([(sources[0][0], "x", -(10**18))], self.path("q")),
            "begins",
        )
        self.assertFalse(os.path.exists(self.path("q")))

    def test_a_sum_beyond_what_a_counter_can_hold(self):
        rows = [(1, 0, "allocate", at, (1 << 64) - 1, 0) for at in (1, 2)]
        perfetto.export_trace(self.trace("t.csv", rows), self.path("p"))
        self.assertEqual(max(value for _, _, value in decoded(self.path("p"))[1]), (1 << 63) - 1)


class ReservedBytes(Folder):
    def test_they_are_the_librarys(self):
        rows = history(7, failures=False)
        source = self.trace("t.csv", rows)
        with Reserved("aggressive_reuse") as reserved:
            perfetto.export_trace(source, self.path("p"), reserved=reserved)
        tracks, events, _ = decoded(self.path("p"))
        found = [value for _, track, value in events if tracks[track][1] == "reserved bytes"]
        with Pool("cpu", policy="aggressive_reuse") as pool:
            self.assertEqual(
                library().forebay_trace_replay(pool.handle, source.encode(), None, None), 0
            )
            peak = pool.statistics()["reserved_peak"]
        live = [value for _, track, value in events if tracks[track][1] == "live bytes"]
        self.assertEqual(len(found), len(rows))
        self.assertTrue(all(held >= used for held, used in zip(found, live)))
        self.assertEqual(max(found), peak)
        with Reserved("aggressive_reuse") as reserved:
            chrome.export_trace(source, self.path("c.json"), reserved=reserved)
        with open(self.path("c.json")) as file:
            events = json.load(file)["traceEvents"]
        again = [one["args"]["bytes"] for one in events if one["name"] == "reserved bytes"]
        self.assertEqual(again, found)

    def test_what_does_not_fit(self):
        source = self.trace("t.csv", [(1, 0, "allocate", at, 3 << 20, at) for at in range(1, 9)])
        with Reserved(max_bytes=8 << 20) as reserved:
            perfetto.export_trace(source, self.path("p"), reserved=reserved)
        self.assertEqual(reserved.failed, 6)


class Chrome(Folder):
    def test_counters_are_the_models(self):
        for seed in range(5):
            rows = history(seed)
            source = self.trace("t.csv", rows)
            chrome.export_trace(source, self.path("c.json"), 'a "name"', 9)
            with open(self.path("c.json")) as file:
                events = json.load(file)["traceEvents"]
            self.assertEqual(events[0]["args"], {"name": 'a "name"'})
            self.assertEqual({one["pid"] for one in events}, {9})
            found = {}
            for one in events[1:]:
                if one["ph"] == "C":
                    (value,) = one["args"].values()
                    found.setdefault(one["name"], []).append((one["ts"], value))
            self.assertEqual(found, counters(rows))
            failed = [row[4] for row in rows if row[2] == "allocate failure"]
            self.assertEqual([one["args"]["bytes"] for one in events if one["ph"] == "i"], failed)


class Rmm(Folder):
    def test_what_is_exported_is_imported_the_same(self):
        rows = history(5)
        source = self.trace("t.csv", rows)
        self.assertEqual(rmm.export_trace(source, self.path("r.csv.gz")).rows, len(rows))
        self.assertEqual(rmm.import_trace(self.path("r.csv.gz"), self.path("b.csv")), len(rows))
        with open(source, "rb") as one, open(self.path("b.csv"), "rb") as other:
            self.assertEqual(one.read(), other.read())

    def test_logs_in_the_field(self):
        log = self.file(
            "r.csv",
            "Thread,Time,Action,Pointer,Size,Stream\n"
            "14,11:22:33:456789,allocate,0x7f0a,1024,0\n"
            "14,11:22:33.5,free,0x7f0a,1024,(nil)\n"
            "\n"
            '14,11:22:34.123456789,"allocate failure",(nil),99,0x1\n',
        )
        self.assertEqual(rmm.import_trace(log, self.path("t.csv")), 3)
        base = ((11 * 60 + 22) * 60 + 33) * 1_000_000
        self.assertEqual(
            [tuple(event) for event in trace.read(self.path("t.csv"))],
            [
                (14, base + 456_789, "allocate", 0x7F0A, 1024, 0),
                (14, base + 500_000, "free", 0x7F0A, 1024, 0),
                (14, base + 1_123_456, "allocate failure", 0, 99, 1),
            ],
        )
        log = self.file(
            "r.csv", "size, stream,Device,pointer,Action,TIME,thread\n5,0x2,gpu,ff,free,1:02:03,6\n"
        )
        rmm.import_trace(log, self.path("t.csv"))
        now = ((1 * 60 + 2) * 60 + 3) * 1_000_000
        self.assertEqual(
            [tuple(event) for event in trace.read(self.path("t.csv"))],
            [(6, now, "free", 255, 5, 2)],
        )

    def test_errors_name_the_place(self):
        good = "1,00:00:00.000001,allocate,0x1,2,0x0"
        self.fails(
            lambda: rmm.import_trace(self.file("r.csv", "a,b\n"), self.path("t.csv")),
            "no column Thread",
        )
        for row, column in (
            (good.replace("allocate", "moved"), "Action"),
            (good.replace("00:00:00", "99:00:00"), "Time"),
            (good.replace(",2,", ",two,"), "Size"),
            (good.replace(",2,", f",{1 << 64},"), "Size"),
            (good.replace("0x1", "zz"), "Pointer"),
            (good[:-4], "Stream"),
            (good.replace("1,", ",", 1), "Thread"),
        ):
            log = self.file("r.csv", f"{trace.HEADER}\n{good}\n{row}\n")
            self.fails(
                lambda: rmm.import_trace(log, self.path("t.csv")), "line 3", f"column {column}"
            )
        self.assertFalse(os.path.exists(self.path("t.csv")))
        self.assert_no_rest()


class Importing(unittest.TestCase):
    def test_nothing_is_loaded(self):
        code = (
            "import sys; before = set(sys.modules);"
            "from forebay.formats import chrome, perfetto, rmm, torch_snapshot;"
            "from forebay._library import library;"
            "print(library.cache_info().currsize, 'numpy' in sys.modules, 'torch' in sys.modules)"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        self.assertEqual(ran.stdout.split(), ["0", "False", "False"])


if __name__ == "__main__":
    unittest.main()
