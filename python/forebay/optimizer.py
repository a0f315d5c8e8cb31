"""Memory settings around an optimizer of PyTorch.

    optimizer = KitsuneOptimizer(base_optimizer, memory_efficient=True, prefetch_enabled=True)
    for data, target in optimizer.wrap(dataloader):
        optimizer.zero_grad()
        loss(model(data), target).backward()
        optimizer.step()
"""

from typing import Any

import torch

from .memory_pool import MIB, MemoryPool
from .prefetch import Prefetcher

__all__ = ["KitsuneOptimizer"]


class KitsuneOptimizer(torch.optim.Optimizer):
    """``base_optimizer``, with its memory looked after. What it computes is the same, bit for bit.

    ``memory_efficient``: gradients are dropped by ``zero_grad()``, not zeroed, and the optimizer's
    state, for Adam twice the bytes of the parameters, is in one pool per device, of at most
    ``pool_size`` bytes; state that has no room there stays where PyTorch put it.
    ``prefetch_enabled``: ``wrap(loader)`` prefetches, ``lookahead`` batches, to the device of the
    parameters.

    Everything else is the base optimizer's: hooks, ``param_groups``, ``state_dict()``, schedulers.
    """

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        memory_efficient: bool = True,
        prefetch_enabled: bool = True,
        pool_size: int = 512 * MIB,
        *,
        lookahead: int = 2,
    ):
        # Not the base class's: there is an optimizer already.
        if not isinstance(base_optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"base_optimizer is {type(base_optimizer).__name__}; it must be a "
                "torch.optim.Optimizer"
            )
        self.base_optimizer = base_optimizer
        self.memory_efficient, self.prefetch_enabled = memory_efficient, prefetch_enabled
        self.pool_size, self.lookahead = pool_size, lookahead
        self._pools = {}
        #: Storages of state that is in a pool, or that no pool had room for, by parameter and name.
        self._settled = {}

    def __getattr__(self, name):
        # Only what the wrapper has not.
        if name == "base_optimizer":
            raise AttributeError(name)
        return getattr(self.base_optimizer, name)

    @property
    def param_groups(self):
        """The base optimizer's."""
        return self.base_optimizer.param_groups

    @property
    def state(self):
        """The base optimizer's."""
        return self.base_optimizer.state

    @property
    def defaults(self):
        """The base optimizer's."""
        return self.base_optimizer.defaults

    def step(self, *arguments, **named):
        """A step of the base optimizer; returns what that returns."""
        result = self.base_optimizer.step(*arguments, **named)
        self._settle()
        return result

    def zero_grad(self, set_to_none: bool | None = None) -> None:
        """Drops the gradients with ``memory_efficient``; else as the base optimizer does.
        ``set_to_none`` overrules."""
        if set_to_none is None and self.memory_efficient:
            set_to_none = True
        named = {} if set_to_none is None else {"set_to_none": set_to_none}
        self.base_optimizer.zero_grad(**named)

    def state_dict(self):
        """The base optimizer's: a checkpoint of it can be loaded with or without this wrapper."""
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict):
        """Loads a checkpoint into the base optimizer; its state moves to the pool."""
        self.base_optimizer.load_state_dict(state_dict)
        self._settle()

    def add_param_group(self, param_group):
        """Adds parameters to the base optimizer."""
        self.base_optimizer.add_param_group(param_group)

    def _settle(self):
        """Moves state that is new to pools."""
        if not self.memory_efficient:
            return
        for parameter, state in self.base_optimizer.state.items():
            for name, value in state.items():
                # Counters of steps are read on the host all the time, and are of no size.
                if (
                    not isinstance(value, torch.Tensor)
                    or value.dim() == 0
                    or value.layout != torch.strided
                ):
                    continue
                key = id(parameter), name
                if self._settled.get(key) == value.data_ptr():
                    continue
                moved = self._in_pool(value)
                if moved is not None:
                    state[name] = moved
                self._settled[key] = state[name].data_ptr()

    def _in_pool(self, value):
        """A copy of ``value`` in the pool of its device; None if there is no room."""
        device = str(value.device)
        if value.device.type not in ("cpu", "cuda"):
            return None
        pool = self._pools.get(device)
        if pool is None:
            pool = MemoryPool(
                self.pool_size, device=device, name=f"optimizer {device}", strict_device=True
            )
            self._pools[device] = pool
        made = pool.allocate(tuple(value.shape), value.dtype)
        if made is None:
            return None
        # As a plain tensor; its memory stays as long as any view of it.
        made = made.as_subclass(torch.Tensor)
        if not value.is_contiguous():
            strides_of = torch.empty_like(value, device="meta").stride()
            made = made.reshape(-1).as_strided(value.shape, strides_of)
        return made.copy_(value)

    def wrap(self, loader: Any):
        """``loader`` with its batches prefetched to the device of the parameters; ``loader`` itself
        without ``prefetch_enabled``."""
        if not self.prefetch_enabled:
            return loader
        device = next(
            (str(one.device) for group in self.param_groups for one in group["params"]), "cpu"
        )
        return Prefetcher(lookahead=self.lookahead, device=device).wrap(loader)

    def get_stats(self) -> dict:
        """Of each device the statistics of the pool with the state, ``MemoryPool.get_stats()``."""
        return {device: pool.get_stats() for device, pool in self._pools.items()}

    def __repr__(self):
        return f"KitsuneOptimizer({self.base_optimizer!r})"
