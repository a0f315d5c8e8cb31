"""What tests/python has on forebay.memory, its pages and its wishes, with PyTorch's tensors on a
GPU: the same programs."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))

from test_memory import *  # noqa: E402, F403
from test_memory_docs import *  # noqa: E402, F403
from test_wishes import *  # noqa: E402, F403

if __name__ == "__main__":
    unittest.main()
