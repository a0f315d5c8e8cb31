"""KitsuneOptimizer: the settings of the first wish around an optimizer, used."""

import copy
import unittest

import torch

from forebay.optimizer import KitsuneOptimizer

MIB = 1 << 20


def model_of():
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 6 * 6, 32),
        torch.nn.Linear(32, 4),
    )


def train(model, optimizer, steps, loader=None):
    torch.manual_seed(4)
    batches = loader or [(torch.randn(8, 3, 8, 8), torch.randn(8, 4)) for _ in range(steps)]
    for data, target in optimizer.wrap(batches) if hasattr(optimizer, "wrap") else batches:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(data), target).backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def optimizers():
    yield lambda parameters: torch.optim.AdamW(parameters, lr=1e-2)
    yield lambda parameters: torch.optim.Adam(parameters, lr=1e-2, amsgrad=True, foreach=True)
    yield lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9)
    yield lambda parameters: torch.optim.SGD(parameters, lr=1e-2)


class Optimizer(unittest.TestCase):
    def test_it_computes_the_same_bit_for_bit(self):
        for make in optimizers():
            plain, wrapped = model_of(), model_of()
            base = make(wrapped.parameters())
            optimizer = KitsuneOptimizer(
                base, memory_efficient=True, prefetch_enabled=True, pool_size=512 * MIB
            )
            expected = train(plain, make(plain.parameters()), 6)
            found = train(wrapped, optimizer, 6)
            for one, other in zip(expected, found):
                self.assertTrue(torch.equal(one, other), type(base).__name__)

    def test_the_state_is_in_the_pool(self):
        model = model_of()
        optimizer = KitsuneOptimizer(torch.optim.Adam(model.parameters()))
        train(model, optimizer, 3)
        state = sum(
            value.nbytes
            for one in optimizer.state.values()
            for value in one.values()
            if value.dim()
        )
        stats = optimizer.get_stats()["cpu"]
        self.assertEqual(stats["current_usage"], state)
        self.assertEqual(state, 2 * sum(parameter.nbytes for parameter in model.parameters()))
        # Moved once, not in every step.
        self.assertEqual(stats["allocations_count"], stats["live_allocations"])

    def test_pool_size_is_a_limit(self):
        model = torch.nn.Linear(1024, 1024)
        optimizer = KitsuneOptimizer(torch.optim.Adam(model.parameters()), pool_size=6 * MIB)
        for _ in range(3):
            model(torch.randn(2, 1024)).sum().backward()
            optimizer.step()
        stats = optimizer.get_stats()["cpu"]
        self.assertLessEqual(stats["reserved_peak"], 6 * MIB)
        # One of the two that belong to the weight has no room: asked for once.
        self.assertEqual(stats["failed_allocations"], 1)

    def test_gradients_are_dropped_or_zeroed(self):
        for efficient, keyword, kept in (
            (True, None, False),
            (True, False, True),
            (False, False, True),
            (False, True, False),
        ):
            model = torch.nn.Linear(4, 4)
            base = torch.optim.SGD(model.parameters(), lr=0.1)
            optimizer = KitsuneOptimizer(base, memory_efficient=efficient)
            model(torch.ones(1, 4)).sum().backward()
            optimizer.zero_grad(set_to_none=keyword)
            self.assertEqual(model.weight.grad is not None, kept)
            if kept:
                self.assertFalse(model.weight.grad.any())

    def test_checkpoints_go_both_ways(self):
        model = model_of()
        optimizer = KitsuneOptimizer(torch.optim.Adam(model.parameters()))
        train(model, optimizer, 2)
        saved = copy.deepcopy(optimizer.state_dict())
        weights = copy.deepcopy(model.state_dict())
        expected = train(model, optimizer, 2)
        for wrap in (KitsuneOptimizer, lambda base: base):
            model.load_state_dict(weights)
            again = wrap(torch.optim.Adam(model.parameters()))
            # A copy: an optimizer goes on with the very tensors that it is given.
            again.load_state_dict(copy.deepcopy(saved))
            for one, other in zip(expected, train(model, again, 2)):
                self.assertTrue(torch.equal(one, other))

    def test_schedulers_hooks_and_groups(self):
        model, called = torch.nn.Linear(4, 4), []
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = KitsuneOptimizer(base)
        self.assertIsInstance(optimizer, torch.optim.Optimizer)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        optimizer.register_step_post_hook(lambda *_: called.append(1))
        for _ in range(2):
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
            scheduler.step()
        self.assertEqual(base.param_groups[0]["lr"], 0.025)
        self.assertEqual(len(called), 2)
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})
        self.assertEqual(len(base.param_groups), 2)
        self.assertEqual(optimizer.step(lambda: 5.0), 5.0)
        self.assertEqual(repr(optimizer), f"KitsuneOptimizer({base!r})")
        self.assertEqual(optimizer.defaults, base.defaults)

    def test_prefetch_can_be_off(self):
        loader = [1, 2]
        base = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
        self.assertIs(KitsuneOptimizer(base, prefetch_enabled=False).wrap(loader), loader)
        wrapped = KitsuneOptimizer(base, lookahead=1).wrap([torch.ones(2), torch.zeros(2)])
        self.assertEqual([batch.sum().item() for batch in wrapped], [2.0, 0.0])
        self.assertEqual(len(wrapped), 2)

    def test_what_is_no_optimizer(self):
        with self.assertRaisesRegex(TypeError, "base_optimizer is int"):
            KitsuneOptimizer(3)


if __name__ == "__main__":
    unittest.main()
