"""The examples of the pages for many workers and for audio, each run as the program that it is.

Those for torchrun and Ray run where these are: tests/torch/test_torchrun.py, tests/ray/test_ray.py.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "python"


def run_example(page, *launcher):
    """What the example of a page prints."""
    (program,) = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "example.py")
        pathlib.Path(path).write_text(program)
        ran = subprocess.run(
            [sys.executable, *launcher, path],
            stdout=subprocess.PIPE,
            text=True,
            timeout=300,
            cwd=folder,
        )
    if ran.returncode:
        raise AssertionError(f"{page} failed: {ran.stdout}")
    return ran.stdout


class Pages(unittest.TestCase):
    def test_workers(self):
        printed = run_example("workers.md")
        self.assertRegex(printed, "^2 workers\n")
        self.assertRegex(printed, "mean step .* rank 1\n")
        self.assertRegex(printed, r"\nrank 1 takes .* ms for a step, the others .* ms\n$")

    def test_dask(self):
        printed = run_example("dask.md")
        self.assertIn("[1000.0, 2000.0]", printed)
        self.assertIn("2 workers\n", printed)

    def test_audio(self):
        self.assertEqual(run_example("audio.md"), "(128, 427)\n(13, 427)\n(12, 427)\n")

    def test_links_lead_to_files(self):
        for page in ("workers", "dask", "torchrun", "ray", "audio"):
            for link in re.findall(r"\]\(([^)#]+)\)", (DOCS / f"{page}.md").read_text()):
                self.assertTrue((DOCS / link).exists(), f"{page}.md links to {link}")


if __name__ == "__main__":
    unittest.main()
