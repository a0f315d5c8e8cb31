"""The examples in the pages of forebay.memory run, each page from its top to its end."""

# Needs: numpy

import contextlib
import io
import pathlib
import re
import unittest
import warnings

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "python"
#: What an example of each page prints at least.
PAGES = {
    "memory_pool.md": ["4194304\n", "%", "limit", "[]"],
    "memory_block.md": ["1048576 1048576 True\n"],
    "memory_manager.md": ["'policy': 'aggressive_reuse'"],
    "lifetime.md": ["4194304 6 tensors", "2097152 bytes, optimal", "'served': 60, 'diverged': 0"],
    "tensor_cache.md": ["True 0.5\n"],
    "prefetcher.md": ["4 28\n5 "],
    "double_buffer.md": ["0.0\n12.0\n24.0\n36.0\n48.0\n"],
    "which.md": ["2 3 [", "scratch"],
    "coming_from.md": ["8388608 "],
}
#: Those that are PyTorch's too.
TORCH = {"optimizer.md": ["4160\n"]}


def blocks_of(name):
    return re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(), re.MULTILINE | re.DOTALL)


class Pages(unittest.TestCase):
    def check(self, name, expected):
        blocks, names, printed = blocks_of(name), {}, io.StringIO()
        self.assertTrue(blocks, f"{name} has no example")
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            # No GPU.
            warnings.simplefilter("ignore", RuntimeWarning)
            for number, block in enumerate(blocks, 1):
                exec(compile(block, f"{name}, example {number}", "exec"), names)
        for part in expected:
            self.assertIn(part, printed.getvalue(), name)

    def test_every_example(self):
        for name, expected in PAGES.items():
            with self.subTest(page=name):
                self.check(name, expected)

    def test_every_example_for_pytorch(self):
        try:
            import torch  # noqa: F401
        except ImportError:
            self.skipTest("PyTorch is not installed")
        for name, expected in TORCH.items():
            with self.subTest(page=name):
                self.check(name, expected)

    def test_links_lead_to_files(self):
        for name in (*PAGES, *TORCH):
            for link in re.findall(r"\]\(([^)#]+)\)", (DOCS / name).read_text()):
                self.assertTrue((DOCS / link).exists(), f"{name} links to {link}")


if __name__ == "__main__":
    unittest.main()
