"""Two buffers of one shape: one is worked on while the other is filled."""

import itertools
import sys

from ._device import usable
from ._library import ForebayError
from ._packer import Packer
from ._slots import Slots

__all__ = ["DoubleBuffer", "ShapeMismatch"]


_numbers = itertools.count(1)


class ShapeMismatch(ValueError):
    """Data that does not fit the buffer that it is for."""


class _Half:
    """One of two buffers: a slot of its own."""

    def __init__(self, device, copy_threads, name, zeros):
        self._slots = Slots(device, 1, copy_threads, name=name)
        # So the slot is there, and known.
        self._ticket = self._slots.submit(zeros)
        address, size = self._slots.wait(self._ticket)
        (self.view,) = self._slots.leaves(address, size, zeros.layout)
        #: "empty", "loading" or "ready".
        self.state = "empty"
        #: Somebody may use the slot: when the buffer is empty, too, as long as it is not filled.
        self._is_held, self._packed = True, None

    def fill(self, packed):
        self._release()
        self._ticket, self._packed = self._slots.submit(packed), packed
        self.state = "loading"

    def arrive(self):
        """The current stream waits for what was loaded."""
        if self.state == "loading":
            self._slots.wait(self._ticket)
            self.state, self._is_held, self._packed.held = "ready", True, None

    @property
    def current(self):
        """What is in it: all of it, but for a batch that is shorter."""
        self.arrive()
        shape = None if self._packed is None else self._packed.layout.leaves[0].shape
        return self.view if shape is None or shape == self.view.shape else self.view[: shape[0]]

    def _release(self):
        if self._is_held:
            self._slots.release(self._ticket)
            self._is_held = False

    def leave(self):
        """What is queued on the current stream was the last to use it."""
        if self.state == "loading":
            self._slots.cancel(self._ticket)
        self._release()
        self.state, self._packed = "empty", None

    def close(self):
        self.leave()
        self._slots.close()


class DoubleBuffer:
    """Two buffers of one shape: one is worked on while the other is filled.

        for data in dataloader:
            current = buffer.get_current()
            buffer.prefetch_next(data)
            output = model(current)
            buffer.swap()

    ``prefetch_next`` fills the current buffer if nothing is in it, and else the other one; so this loop
    sees every batch once, in order, and on a GPU, where the host is ahead, the next copy runs beside
    the model all the same. Where the host waits in every step, ``prime(first)`` or ``iterate`` keep one
    batch ahead.
    """

    def __init__(self, buffer_size, dtype=None, device="cpu", *, num_workers=1):
        self.shape = (buffer_size,) if isinstance(buffer_size, int) else tuple(buffer_size)
        device = usable(device)
        self.device, self.num_workers = device, num_workers
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(dtype, torch.dtype):
            zeros = torch.zeros(self.shape, dtype=dtype)
        else:
            import numpy

            zeros = numpy.zeros(self.shape, numpy.float32 if dtype is None else dtype)
        self.dtype, self.nbytes = zeros.dtype, zeros.nbytes
        if self.nbytes < 1:
            raise ValueError(f"buffer_size is {buffer_size!r}; it must have 1 element or more")
        self._packer = Packer(str(device) != "cpu")
        packed = self._packer.pack(zeros)
        if not packed.layout.leaves:
            raise TypeError(f"dtype is {self.dtype}; a buffer on {device} cannot have it")
        threads = 1 if num_workers else 0
        number = next(_numbers)
        self._current = _Half(device, threads, f"buffer #{number}a", packed)
        self._other = _Half(device, threads, f"buffer #{number}b", packed)

    def get_current(self):
        """The current buffer. What is queued on the current stream from now on may use it."""
        self._current.arrive()
        return self._current.view

    def _fitting(self, data, is_part=False):
        """``data``, to be submitted; ``is_part``: it may be shorter."""
        packed = self._packer.pack(data)
        leaves = packed.layout.leaves
        if len(leaves) != 1:
            raise ShapeMismatch(f"data has {len(leaves)} arrays; it must be one")
        shape, dtype = leaves[0].shape, leaves[0].given
        given, wanted = str(dtype).removeprefix("torch."), str(self.dtype).removeprefix("torch.")
        if given != wanted:
            raise ShapeMismatch(f"data has dtype {given}; the buffer has {wanted}")
        is_part = is_part and shape[1:] == self.shape[1:] and 0 < shape[0] < self.shape[0]
        if shape != self.shape and not is_part:
            raise ShapeMismatch(f"data has shape {shape}; the buffer has {self.shape}")
        return packed

    def prefetch_next(self, data):
        """Fills the current buffer if it is empty, else the other one."""
        self._fill(self._fitting(data))

    def _fill(self, packed):
        if self._current.state == "empty":
            self._current.fill(packed)
            self._current.arrive()
        elif self._other.state == "empty":
            self._other.fill(packed)
        else:
            raise ForebayError("both buffers are full: call swap()")

    def swap(self):
        """The other buffer becomes the current one. The old one may be filled behind what is queued on
        the current stream."""
        self._current.leave()
        self._current, self._other = self._other, self._current
        self._current.arrive()

    def prime(self, first):
        """Fills the current buffer, before a loop that stays one batch ahead."""
        if self._current.state != "empty":
            raise ForebayError("the current buffer is full: call swap()")
        self.prefetch_next(first)

    def iterate(self, loader):
        """Every batch of ``loader``, one ahead; a last one that is shorter as a shorter view. Afterwards,
        and when it is left early, both buffers are empty."""
        source, is_ahead, ended = iter(loader), False, None
        try:
            while ended is None:
                try:
                    self._fill(self._fitting(next(source), is_part=True))
                except Exception as error:
                    # The end as well: it comes behind the batch that is still to be given out.
                    ended = error
                if is_ahead:
                    yield self._current.current
                    self.swap()
                is_ahead = True
        finally:
            self._current.leave()
            self._other.leave()
        if not isinstance(ended, StopIteration):
            raise ended

    def close(self):
        """Gives the buffers back when nobody refers to them any more. Safe to call twice."""
        self._current.close()
        self._other.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
