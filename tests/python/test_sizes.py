"""Sizes as people write them."""

# Needs: numpy

import fractions
import unittest

import numpy as np

from forebay import sizes


class Sizes(unittest.TestCase):
    def test_what_can_be_written(self):
        for given, wanted in (
            (1, 1),
            (1 << 40, 1 << 40),
            (np.int64(4096), 4096),
            (5e9, 5_000_000_000),
            ("1", 1),
            ("1073741824", 1 << 30),
            ("1_000_000", 1_000_000),
            ("5GB", 5_000_000_000),
            ("5 gb", 5_000_000_000),
            ("5G", 5_000_000_000),
            ("8GiB", 8 << 30),
            (" 8gib ", 8 << 30),
            ("8Gi", 8 << 30),
            ("1.5 KiB", 1536),
            (".5kB", 500),
            ("1e9", 10**9),
            ("2.5e3 MB", 2_500_000_000),
            ("100B", 100),
            ("3PB", 3 * 10**15),
            ("1PiB", 1 << 50),
            ("9007199254740993", 9007199254740993),
        ):
            self.assertEqual(sizes.parse(given), wanted, given)
        self.assertIsNone(sizes.parse(None))

    def test_parts(self):
        for given, wanted in (
            (0.6, 600),
            (1.0, 1000),
            (np.float32(0.5), 500),
            (fractions.Fraction(1, 4), 250),
            ("60%", 600),
            ("60 %", 600),
            ("12.5%", 125),
            ("100%", 1000),
            ("0.6", 600),
            ("1.0", 1000),
        ):
            self.assertEqual(sizes.parse(given, 1000), wanted, given)
        # The whole is asked for when it is needed, and not before.
        self.assertEqual(sizes.parse("50%", lambda: 64), 32)
        self.assertEqual(sizes.parse("5GB", lambda: self.fail("it was not needed")), 5 * 10**9)

    def test_what_cannot_be_read_names_the_argument(self):
        for given in (
            "", "GB", "much", "5 XB", "5GBs", "-5GB", "+5", "nan", "inf", "0x10", "5,5GB", "1 000",
            "%", "1e", "5%%", "1e400 kBB",
        ):
            with self.assertRaisesRegex(ValueError, "pool_size is .*it must be bytes"):
                sizes.parse(given, 1000, name="pool_size")
        for given in ("150%", "0%", 0.0, -0.5, "0.0", float("nan"), "1e-400%"):
            with self.assertRaisesRegex(ValueError, "pool_size is"):
                sizes.parse(given, 1000, name="pool_size")
        for given in (0, -1, "0", "0GB", float("inf"), 1 << 63, "1e300", "0.1B", "9999PiB"):
            with self.assertRaisesRegex(ValueError, "max_pinned is .* 1 byte or more"):
                sizes.parse(given, name="max_pinned")
        with self.assertRaisesRegex(ValueError, "no whole number of bytes"):
            sizes.parse(1.5)
        with self.assertRaisesRegex(ValueError, "a part of the GPU, which is not known"):
            sizes.parse("60%", of="the GPU")
        for given in (True, b"5GB", [1], 1j):
            with self.assertRaisesRegex(TypeError, "pool_size is"):
                sizes.parse(given, name="pool_size")


if __name__ == "__main__":
    unittest.main()
