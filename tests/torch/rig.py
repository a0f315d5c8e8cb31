"""What the tests of PyTorch's door have in common. They run unmodified wheels on the simulated
runtime and driver, whose folder `make test-torch` puts in front of the loader; each file is a
process of its own, for an allocator is chosen once in a process."""

import ctypes
import os
import subprocess
import sys
import textwrap
import threading
import unittest

MIB = 1 << 20

_DRIVER = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)

#: Not so on a machine with a GPU, where scripts/gpu_check.sh runs the same tests.
SIMULATED = hasattr(_DRIVER, "simHazards")


def hazards():
    """How many accesses to memory were not in order; they are printed. A GPU does not tell."""
    if not SIMULATED:
        return 0
    _DRIVER.simHazards.restype = ctypes.c_size_t
    return _DRIVER.simHazards()


#: For tests of what the checker finds.
needs_the_checker = unittest.skipUnless(SIMULATED, "a GPU does not check the order")


class Case(unittest.TestCase):
    """A test after which every access has been in order."""

    def tearDown(self):
        import torch

        torch.cuda.synchronize()
        self.assertEqual(hazards(), 0, "accesses without an order")


def script(text, status=0, **environment):
    """Runs a program of its own in the same rig; what it printed, output and errors. Fails when it
    ends otherwise than with `status`."""
    command = [sys.executable, "-c", textwrap.dedent(text)]
    environment = {**os.environ, **environment}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != status:
        raise AssertionError(f"ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout, done.stderr


def on_threads(count, work):
    """Calls `work(number)` on so many threads at a time; a list of what went wrong."""
    failures = []

    def guarded(number):
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def main():
    unittest.main(verbosity=1)
