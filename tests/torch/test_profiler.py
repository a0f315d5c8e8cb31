"""MemoryTracker over PyTorch's tensors: what they hold, and which lines of the program."""

import gc

import rig
import torch
from rig import MIB

import forebay.torch
from forebay.profiler import MemoryTracker

forebay.torch.enable()


def tensor(size):
    return torch.empty(size, dtype=torch.uint8, device="cuda")


class Profiler(rig.Case):
    def test_peaks_and_holders(self):
        before = tensor(64 * MIB)
        del before
        highest = torch.cuda.max_memory_reserved()
        self.assertGreaterEqual(highest, 64 * MIB)
        forebay.torch.trim()
        tracker = MemoryTracker(interval=5)
        with tracker:
            with tracker.track("forward"):
                kept = tensor(16 * MIB)
                gone = tensor(8 * MIB)
                del gone
            with tracker.track("backward"):
                again = tensor(4 * MIB)
        stats = tracker.get_stats()
        self.assertEqual(stats["source"], "pools")
        self.assertEqual((stats["peak_requested"], stats["num_allocations"]), (24 * MIB, 3))
        self.assertEqual((stats["leaked_bytes"], stats["leaked_blocks"]), (20 * MIB, 2))
        self.assertEqual(tracker.get_delta("backward").peak_mb, 20)
        holders = tracker.to_dict()["peak"]["holders"]
        self.assertEqual(
            sorted((one["bytes"], one["block"]) for one in holders), [(24 * MIB, "forward")]
        )
        self.assertEqual(holders[0]["file"], __file__)
        # What PyTorch tells is what it was without a tracker.
        self.assertEqual(torch.cuda.max_memory_reserved(), highest)
        torch.cuda.reset_peak_memory_stats()
        self.assertLess(torch.cuda.max_memory_reserved(), highest)
        del kept, again

    def test_tensors_that_go_by_garbage_collection(self):
        tracker = MemoryTracker(interval=1)
        with tracker:
            for _ in range(200):
                ring = [tensor(4096)]
                ring.append(ring)
                del ring
            gc.collect()
            tracker.step()
        self.assertEqual(tracker.to_dict()["live"]["holders"], [])
        self.assertEqual(tracker.get_stats()["num_frees"], 200)

    def test_nobody_watches_afterwards(self):
        from forebay.torch._history import HISTORY

        with MemoryTracker():
            self.assertTrue(HISTORY._watching)
        self.assertFalse(HISTORY._watching)
        self.assertEqual(HISTORY.watchers, [])


if __name__ == "__main__":
    rig.main()
