"""Blocks of pools in tracemalloc."""

# Needs: numpy

import gc
import sys
import tracemalloc
import unittest

from forebay import ForebayError, _observe
from forebay.formats import tracemalloc as blocks
from forebay.memory import MemoryPool

MIB = 1 << 20


def line_here():
    return sys._getframe(1).f_lineno


class Domain(unittest.TestCase):
    def setUp(self):
        self.pool = MemoryPool(64 * MIB, device="cpu", name="traced")
        self.addCleanup(self.pool.close)
        self.addCleanup(blocks.stop)

    def test_lines_that_hold_blocks(self):
        before = self.pool.allocate((1024, 1024))
        blocks.start()
        first, first_line = self.pool.allocate((512, 1024)), line_here()
        second = [self.pool.allocate(MIB) for _ in range(3)]
        second_line = line_here() - 1
        found = blocks.lines(tracemalloc.take_snapshot())
        self.assertEqual(
            [(one["file"], one["line"], one["bytes"], one["blocks"]) for one in found],
            [(__file__, second_line, 3 * MIB, 3), (__file__, first_line, 2 * MIB, 1)],
        )
        self.pool.free(first)
        second.pop()
        gc.collect()
        # It was there before, and is not known.
        self.pool.free(before)
        found = blocks.lines(tracemalloc.take_snapshot())
        self.assertEqual([(one["bytes"], one["blocks"]) for one in found], [(2 * MIB, 2)])
        second.clear()
        gc.collect()
        self.assertEqual(blocks.lines(tracemalloc.take_snapshot()), [])

    def test_it_ends_what_it_began(self):
        self.assertFalse(tracemalloc.is_tracing())
        blocks.start()
        blocks.start()
        self.assertEqual(len(_observe.observers), 1)
        self.assertTrue(tracemalloc.is_tracing())
        blocks.stop()
        blocks.stop()
        self.assertFalse(tracemalloc.is_tracing())
        self.assertEqual(_observe.observers, [])
        self.pool.free(self.pool.allocate(MIB))
        tracemalloc.start(20)
        try:
            blocks.start()
            blocks.stop()
            self.assertTrue(tracemalloc.is_tracing())
        finally:
            tracemalloc.stop()

    def test_too_few_frames(self):
        with self.assertRaisesRegex(ValueError, "frames is 3; it must be 7 or more"):
            blocks.start(3)
        tracemalloc.start(1)
        try:
            with self.assertRaisesRegex(ForebayError, "keeps 1 frames a trace; start it with 7"):
                blocks.start()
        finally:
            tracemalloc.stop()
        self.assertEqual(_observe.observers, [])


if __name__ == "__main__":
    unittest.main()
