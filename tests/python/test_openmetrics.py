"""The OpenMetrics text, read by a parser that allows nothing that version 1.0 does not."""

# Needs: numpy

import os
import re
import tempfile
import unittest

import numpy as np

from blocks import BlockPool
from forebay.cache import TensorCache
from forebay.formats import openmetrics
from forebay.prefetch import Prefetcher

MIB = 1 << 20

_LABEL = r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"'
_SAMPLE = re.compile(rf"(\w+)(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (\S+)")


def parse(text):
    """Families by name: {"type", "unit", "help", "samples": {labels: number}}."""
    assert text.endswith("# EOF\n"), text[-40:]
    families, current = {}, None
    for line in text[: -len("# EOF\n")].split("\n")[:-1]:
        described = re.fullmatch(r"# (TYPE|UNIT|HELP) ([a-zA-Z_]\w*) (.+)", line)
        if described:
            what, name, value = described.groups()
            if what == "TYPE":
                assert name not in families, f"{name} comes twice"
                assert value in ("gauge", "counter"), line
                current = families[name] = {"type": value, "samples": {}}
                current["name"] = name
            else:
                assert current["name"] == name and not current["samples"], line
                assert what.lower() not in current, line
                current[what.lower()] = value
            continue
        sample = _SAMPLE.fullmatch(line)
        assert sample, repr(line)
        name, labels = sample.group(1), sample.group(2) or ""
        ending = "_total" if current["type"] == "counter" else ""
        assert name == current["name"] + ending, line
        named = tuple(
            (key, re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), value))
            for key, value in re.findall(_LABEL, labels)
        )
        assert named not in current["samples"], line
        number = float(line.rpartition(" ")[2])
        assert current["type"] != "counter" or number >= 0, line
        current["samples"][named] = number
    for name, family in families.items():
        assert name.startswith("forebay_"), name
        assert family["samples"] and family["help"].endswith("."), name
        assert not name.endswith("_total"), name
        unit = name.rpartition("_")[2]
        if unit in ("bytes", "seconds", "ratio"):
            assert family["unit"] == unit, name
        else:
            assert "unit" not in family, name
    return families


class OpenMetrics(unittest.TestCase):
    def test_numbers_are_those_of_the_things(self):
        with BlockPool(name="work", max_bytes=64 * MIB) as pool, TensorCache(max_size=9) as cache:
            block = pool.take(3 * MIB)
            cache.add(np.zeros(1000))
            cache.get(1000, float)
            loader = Prefetcher(lookahead=1).wrap([np.zeros(10), np.ones(10)])
            list(loader)
            families = parse(openmetrics.exposition())

            def of(name, thing):
                found = families[name]["samples"]
                return next(value for labels, value in found.items() if ("name", thing) in labels)

            self.assertEqual(of("forebay_pool_requested_bytes", "work"), 3 * MIB)
            self.assertEqual(of("forebay_pool_limit_bytes", "work"), 64 * MIB)
            self.assertEqual(of("forebay_pool_allocations", "work"), 1)
            self.assertEqual(of("forebay_cache_hits", f"cpu #{cache.number}"), 1)
            self.assertEqual(of("forebay_prefetcher_batches", "list"), 2)
            self.assertGreater(
                families["forebay_process_resident_memory_bytes"]["samples"][()], MIB
            )
            self.assertGreater(families["forebay_memory_available_bytes"]["samples"][()], MIB)
            self.assertEqual(families["forebay_pool_allocations"]["type"], "counter")
            self.assertEqual(families["forebay_pool_external_fragmentation_ratio"]["unit"], "ratio")
            loader.close()
            pool.give(block)

    def test_names_of_any_kind(self):
        names = ['a "quoted" name', "a\\b", "a\nb", "größe", "", "same", "same", "}{,="]
        pools = [BlockPool(name=name or " ") for name in names]
        try:
            families = parse(openmetrics.exposition())
            found = [
                dict(labels)["name"] for labels in families["forebay_pool_live_blocks"]["samples"]
            ]
            self.assertEqual(sorted(found), sorted(name or " " for name in names))
        finally:
            for pool in pools:
                pool.close()

    def test_no_metric_without_a_thing(self):
        state = openmetrics._reader.read()
        text = openmetrics.exposition(
            {**state, "pools": [], "caches": [], "prefetchers": [], "machine": {}}
        )
        self.assertEqual(
            sorted(parse(text)),
            ["forebay_process_resident_memory_bytes", "forebay_process_resident_memory_peak_bytes"],
        )

    def test_numbers_that_are_none(self):
        for number, text in (
            (1, "1"),
            (0.5, "0.5"),
            (float("inf"), "+Inf"),
            (float("-inf"), "-Inf"),
            (float("nan"), "NaN"),
        ):
            self.assertEqual(openmetrics._number(number), text)

    def test_a_file_is_written_whole(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "forebay.prom")
            openmetrics.write(path)
            with open(path, encoding="utf-8") as file:
                parse(file.read())
            self.assertEqual(os.listdir(folder), ["forebay.prom"])
            with self.assertRaises(OSError):
                openmetrics.write(folder)
            self.assertEqual(os.listdir(folder), ["forebay.prom"])


if __name__ == "__main__":
    unittest.main()
