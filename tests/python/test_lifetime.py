"""LifetimeAnalyzer and ReusePlan: what lives when, and plans that pools serve from."""

# Needs: numpy

import os
import random
import tempfile
import unittest

import numpy as np

import forebay
from forebay.lifetime import LifetimeAnalyzer
from forebay.memory_pool import CPUMemoryPool
from forebay.reuse_plan import ReusePlan

KIB = 1 << 10
MIB = 1 << 20


def array(size):
    return np.empty(size, np.uint8)


class Identity(unittest.TestCase):
    def test_views_are_their_tensor(self):
        analyzer, tensor = LifetimeAnalyzer(), np.zeros((16, 64), np.float32)
        analyzer.record_usage(0, [tensor, tensor[3:], tensor.T, tensor.view(np.uint8)])
        analyzer.record_usage(0, [tensor.reshape(-1)])
        self.assertEqual((analyzer.num_tensors, analyzer.peak_bytes), (1, tensor.nbytes))

    def test_one_that_comes_later_at_the_same_address_is_another(self):
        pool, analyzer = CPUMemoryPool(16 * MIB), LifetimeAnalyzer()
        addresses = set()
        for step in range(5):
            tensor = pool.allocate((256,), np.float32)
            addresses.add(tensor.ctypes.data)
            analyzer.record_usage(step, {"t": tensor})
            del tensor
        self.assertEqual((len(addresses), analyzer.num_tensors), (1, 5))
        self.assertEqual(analyzer.peak_bytes, 1024)

    def test_it_keeps_nothing_alive(self):
        pool, analyzer = CPUMemoryPool(16 * MIB), LifetimeAnalyzer()
        tensor = pool.allocate((256,), np.float32)
        analyzer.record_usage(0, [tensor])
        del tensor
        self.assertEqual(pool.get_stats()["live_allocations"], 0)

    def test_blocks_and_arrays_over_them(self):
        pool, analyzer = CPUMemoryPool(16 * MIB), LifetimeAnalyzer()
        block = pool.allocate(4096)
        analyzer.record_usage(0, [block, block.data, block.view((8, 8))])
        self.assertEqual((analyzer.num_tensors, analyzer.peak_bytes), (1, 4096))

    def test_one_array_is_not_a_list_of_rows(self):
        analyzer = LifetimeAnalyzer()
        analyzer.record_usage(0, np.zeros((4, 4)))
        self.assertEqual(analyzer.num_tensors, 1)

    def test_wrong_use_changes_nothing(self):
        analyzer, tensor = LifetimeAnalyzer(), array(KIB)
        analyzer.record_usage(3, [tensor, np.empty(0)])
        with self.assertRaisesRegex(ValueError, "step is 2"):
            analyzer.record_usage(2, [tensor])
        with self.assertRaisesRegex(TypeError, "str"):
            analyzer.record_usage(4, [array(KIB), "text"])
        with self.assertRaises(TypeError):
            analyzer.record_usage(1.5, [])
        self.assertEqual((analyzer.num_tensors, analyzer.num_steps), (1, 1))
        with self.assertRaisesRegex(ValueError, "algorithm"):
            analyzer.compute_reuse_plan(algorithm="magic")


class Plans(unittest.TestCase):
    def test_a_chain_needs_two_places(self):
        analyzer, chain = LifetimeAnalyzer(), [array(MIB) for _ in range(6)]
        for step in range(5):
            analyzer.record_usage(step, {f"t{step}": chain[step], f"t{step + 1}": chain[step + 1]})
        plan = analyzer.compute_reuse_plan()
        self.assertEqual((plan.arena_bytes, plan.lower_bound_bytes), (2 * MIB, 2 * MIB))
        self.assertTrue(plan.optimal and plan.validate())
        self.assertEqual((plan.gap, plan["gap"]), (1.0, 1.0))
        self.assertEqual(set(plan["offsets"].values()), {0, MIB})
        first = plan.assignments[0]
        self.assertEqual(
            (first["name"], first["size"], first["first_use"], first["last_use"]), ("t0", MIB, 0, 0)
        )
        self.assertTrue(first["reuses"])
        self.assertEqual(set(plan), {*dict(plan)})
        self.assertLessEqual({"algorithm", "elapsed_s", "assignments"}, set(plan))
        with self.assertRaises(KeyError):
            plan["no_such"]

    def test_random_lifetimes_never_overlap_in_place_and_time(self):
        chance = random.Random(11)
        for _ in range(30):
            analyzer, live = LifetimeAnalyzer(), []
            for step in range(20):
                live = [one for one in live if chance.random() < 0.7]
                live += [array(chance.randrange(1, 64) * 100) for _ in range(chance.randrange(4))]
                analyzer.record_usage(step, live)
            for algorithm in ("search", "greedy"):
                plan = analyzer.compute_reuse_plan(algorithm, time_limit=0.05)
                rows = plan.assignments
                for one in rows:
                    self.assertEqual(one["offset"] % 512, 0)
                    for other in rows:
                        if one["id"] < other["id"] and (
                            one["first_use"] <= other["last_use"]
                            and other["first_use"] <= one["last_use"]
                        ):
                            apart = (
                                one["offset"] + one["size"] <= other["offset"]
                                or other["offset"] + other["size"] <= one["offset"]
                            )
                            self.assertTrue(apart, (one, other))
                self.assertGreaterEqual(plan.arena_bytes, plan.lower_bound_bytes)
                self.assertGreaterEqual(plan.lower_bound_bytes, analyzer.peak_bytes)
                self.assertEqual(plan.algorithm, algorithm)

    def test_csv_there_and_back(self):
        analyzer, kept = LifetimeAnalyzer(), [array(size * KIB) for size in (4, 8, 4)]
        for step in range(2):
            analyzer.record_usage(step, kept[step : step + 2])
        plan = analyzer.compute_reuse_plan()
        lines = plan.to_csv().splitlines()
        self.assertTrue(lines[0].startswith("id,lower,upper,size,offset"))
        self.assertEqual(len(lines), 4)
        with tempfile.TemporaryDirectory() as folder:
            for name, write in (("p.csv", plan.to_csv), ("p.plan", plan.save)):
                path = os.path.join(folder, name)
                write(path)
                again = ReusePlan.load(path)
                self.assertEqual(
                    (again.offsets, again.arena_bytes), (plan.offsets, plan.arena_bytes)
                )
            plan.to_svg(os.path.join(folder, "p.svg"), before=again)
            with open(os.path.join(folder, "p.svg")) as text:
                self.assertIn("<svg", text.read(2000))
            with self.assertRaises(forebay.ForebayError):
                ReusePlan.load(os.path.join(folder, "no such"))

    def test_a_pool_serves_from_it(self):
        analyzer, pool = LifetimeAnalyzer(), CPUMemoryPool(64 * MIB)

        def step(record=None):
            held = []
            for index, size in enumerate((1, 2, 1, 3)):
                held.append(pool.allocate((size * MIB,), np.uint8))
                held[-1][:] = index
                if record is not None:
                    # All that is there: the new one finds its place while the old ones have theirs.
                    record(index, held)
                held = held[-2:]
            return held

        step(analyzer.record_usage)
        plan = analyzer.compute_reuse_plan()
        self.assertLess(plan.arena_bytes, 7 * MIB)
        plan.apply(pool)
        for _ in range(5):
            held = step()
            self.assertTrue((held[-1] == 3).all() and (held[0] == 2).all())
            del held
        usage = plan.usage(pool)
        self.assertEqual((usage["served"], usage["diverged"]), (20, 0))
        with self.assertRaises(forebay.ForebayError):
            plan.apply(pool)
        plan.begin_step(pool)
        plan.remove(pool)
        with self.assertRaises(forebay.ForebayError):
            plan.usage(pool)

    def test_progress_and_none(self):
        plan = LifetimeAnalyzer().compute_reuse_plan()
        self.assertEqual((plan.arena_bytes, plan.gap, plan.assignments), (0, 1.0, []))
        told, chance = [], random.Random(3)
        analyzer, live = LifetimeAnalyzer(), []
        for step in range(200):
            live = [one for one in live if chance.random() < 0.9]
            live += [array(chance.randrange(1, 900)) for _ in range(3)]
            analyzer.record_usage(step, live)
        analyzer.compute_reuse_plan(progress=lambda *so_far: told.append(so_far), time_limit=0.5)
        self.assertTrue(all(arena >= bound > 0 for arena, bound in told))


class Suggestions(unittest.TestCase):
    def test_the_documents_keys(self):
        analyzer, chain = LifetimeAnalyzer(), [array(MIB) for _ in range(6)]
        for step in range(5):
            analyzer.record_usage(step, chain[step : step + 2])
        found = analyzer.get_optimization_suggestions()
        self.assertEqual(found["reusable_bytes"], 4 * MIB)
        self.assertEqual(found["total_bytes"] - found["planned_bytes"], found["reusable_bytes"])
        self.assertEqual((found["peak_bytes"], found["lower_bound_bytes"]), (2 * MIB, 2 * MIB))
        self.assertEqual((found["num_tensors"], found["num_steps"]), (6, 5))
        for key in ("temporary_tensors", "long_lived_tensors", "never_read"):
            self.assertIn(key, found)
        best = found["suggestions"][0]
        self.assertEqual((best["kind"], best["bytes_saved"]), ("reuse", 4 * MIB))
        self.assertEqual(set(best), {"kind", "tensors", "bytes_saved", "message", "confidence"})

    def kinds(self, analyzer):
        return {one["kind"]: one for one in analyzer.get_optimization_suggestions()["suggestions"]}

    def test_what_is_there_after_its_last_use(self):
        analyzer, held = LifetimeAnalyzer(), []
        for step in range(4):
            held.append(array(MIB))
            analyzer.record_usage(step, held[-1:])
        self.assertEqual(self.kinds(analyzer)["free_earlier"]["bytes_saved"], 3 * MIB)
        analyzer, tensor = LifetimeAnalyzer(), None
        for step in range(4):
            tensor = None
            tensor = array(MIB)
            analyzer.record_usage(step, [tensor])
        self.assertNotIn("free_earlier", self.kinds(analyzer))

    def test_what_is_unused_for_long_and_what_is_wide(self):
        analyzer, weight = LifetimeAnalyzer(), array(MIB)
        wide = np.zeros(KIB, np.float64)
        for step in range(20):
            analyzer.record_usage(step, [weight, wide] if step in (0, 19) else [wide])
        kinds = self.kinds(analyzer)
        self.assertEqual(kinds["offload"]["bytes_saved"], MIB)
        self.assertEqual(kinds["dtype"]["bytes_saved"], 4 * KIB)

    def test_timeline(self):
        analyzer, one, two = LifetimeAnalyzer(), array(10), array(20)
        analyzer.record_usage(0, [one])
        analyzer.record_usage(1, [one, two])
        analyzer.record_usage(5, [two])
        self.assertEqual(analyzer.timeline(), [(0, 10), (1, 30), (2, 20), (6, 0)])
        self.assertEqual(analyzer.peak_bytes, 30)


if __name__ == "__main__":
    unittest.main()
