"""The end of the interpreter, with tensors that outlive it."""

import unittest

import rig
import torch
from forebay.torch._enable import can_route

CAN_ROUTE = can_route(torch)

START = """
import atexit, os, sys, threading, torch, forebay.torch
forebay.torch.enable({mode!r})
def empty(mib):
    return torch.empty(mib << 20, dtype=torch.uint8, device="cuda")
"""


class End(unittest.TestCase):
    def both(self, text, kernels="refuse"):
        for mode in ("global", "pool") if CAN_ROUTE else ("global",):
            with self.subTest(mode=mode):
                _, said = rig.script(START.format(mode=mode) + text, SIM_CUDART_KERNELS=kernels)
                self.assertNotIn("forebay:", said)

    def test_live_globals(self):
        self.both("kept = [empty(3), empty(1)]")

    def test_tensors_that_nobody_ever_frees(self):
        self.both("torch.cuda.never_freed = empty(3)\nsys.stdin_tensor = empty(1)")

    def test_raw_memory_that_nobody_frees(self):
        self.both("torch.cuda.caching_allocator_alloc(1000)")

    def test_a_sudden_end(self):
        self.both("kept = empty(3)\nsys.stdout.flush()\nos._exit(0)")

    def test_freed_by_handlers_at_exit(self):
        self.both("kept = [empty(3)]\natexit.register(kept.clear)")

    def test_a_tensor_of_a_thread_that_ended(self):
        self.both("""
kept = []
thread = threading.Thread(target=lambda: kept.append(empty(2)))
thread.start(); thread.join()
""")

    def test_a_history_that_is_still_on(self):
        rig.script(START.format(mode="global") + """
forebay.torch.record_memory_history()
kept = [empty(3)]
""")

    def test_a_graph_that_is_still_there(self):
        self.both("""
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    output = empty(2)
graph.replay()
""", kernels="skip")

    def test_asleep(self):
        self.both("kept = empty(3)\nforebay.torch.sleep()")

    def test_a_forked_child_lets_go_of_what_it_inherits(self):
        self.both("""
kept = [empty(3), empty(1)]
child = os.fork()
if child == 0:
    kept.clear()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert empty(3).data_ptr() not in [one.data_ptr() for one in kept]
""")

    def test_without_a_tensor(self):
        self.both("")

    def test_the_allocator_s_object_is_gone(self):
        rig.script(START.format(mode="global") + """
import gc
kept = empty(3)
forebay.torch._enable._allocators.clear()
gc.collect()
del kept
empty(4)
""")

    def test_an_error_that_ends_the_program(self):
        _, said = rig.script(START.format(mode="global") + "empty(1 << 20)", status=1)
        self.assertIn("OutOfMemoryError: CUDA out of memory. Tried to allocate", said)


if __name__ == "__main__":
    rig.main()
