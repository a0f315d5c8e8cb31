"""Slots of a prefetcher of the library, from Python: what submits batches to them, and views of
what is in them."""

import contextlib
import ctypes
import os

from ._abi import (
    PREFETCH_FOREVER,
    PREFETCHER_SYNCHRONOUS,
    PrefetchBatch,
    PrefetcherConfig,
    PrefetchStatistics,
)
from ._library import check, library
from .pool import Pool

#: Bytes that a slot is filled with when it is released, in debug mode.
_POISON = 0xDB


class _Owner:
    """A prefetcher of the library, and its pool if that is its own: there as long as anything views
    a slot."""

    handle = own = None

    def __init__(self, config, pool, name):
        """``pool`` is the one to use; None: one of its own, called ``name``."""
        self.process = os.getpid()
        #: Pinned memory that the device may still read; it is here, for the prefetcher waits for the
        #: device before it goes. By ticket that of batches that nobody has got yet, that of one
        #: without a ticket yet, and by ticket that of those that were got, with the event behind
        #: which it was read.
        self.sent, self.submitting, self.got = {}, None, {}
        if pool is None:
            self.own = Pool(name=name, part_of="prefetch")
            pool = self.own.handle
        handle = ctypes.c_void_p()
        check(
            library().forebay_prefetcher_create(pool, ctypes.byref(config), ctypes.byref(handle))
        )
        self.handle = handle

    def __del__(self):
        # In a forked child it is all the parent's.
        if self.process != os.getpid():
            return
        if self.handle is not None:
            library().forebay_prefetcher_destroy(self.handle)
        if self.own is not None:
            self.own.close()


class _Bytes:
    """A slot's memory, for numpy and PyTorch to view; keeps the slots as long as there is a view."""

    def __init__(self, owner, address, size, on_gpu):
        self.owner = owner
        interface = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}
        if on_gpu:
            self.__cuda_array_interface__ = interface
        else:
            self.__array_interface__ = interface


class _View:
    """What makes leaves of the memory of one slot."""

    def __init__(self, owner, address, size, gpu):
        self.size, self._gpu = size, gpu
        memory = _Bytes(owner, address, size, gpu is not None)
        if gpu is None:
            import numpy

            self._array = numpy.ndarray
            self.flat = numpy.asarray(memory)
        else:
            # What is made while gradients are switched off for good is of no use where they are not.
            with gpu.torch.inference_mode(False):
                self.flat = gpu.torch.as_tensor(memory, device=gpu.device)
        #: Its bytes as PyTorch has them, by type.
        self._typed = {}

    def _of_type(self, dtype):
        import torch

        with torch.inference_mode(False):
            flat = torch.from_numpy(self.flat) if self._gpu is None else self.flat
            self._typed[dtype] = flat[: self.size - self.size % dtype.itemsize].view(dtype)

    def leaf(self, leaf):
        """One that is not empty."""
        if not leaf.is_torch:
            return self._array(leaf.shape, leaf.dtype, self.flat, leaf.at)
        if leaf.dtype not in self._typed:
            self._of_type(leaf.dtype)
        return self._typed[leaf.dtype].as_strided(leaf.shape, leaf.strides, leaf.first)


class _Gpu:
    """PyTorch, and the device that is meant."""

    def __init__(self, device):
        import torch

        self.torch = torch
        chosen = torch.device(device)
        if chosen.type != "cuda":
            raise ValueError(f"device is {device!r}; it must be 'cpu' or a CUDA device")
        torch.cuda.init()
        index = chosen.index if chosen.index is not None else torch.cuda.current_device()
        self.index, self.device = index, torch.device("cuda", index)


class Slots:
    """A prefetcher of the library, on the host with a pool of its own, or in PyTorch's on a GPU."""

    def __init__(
        self, device, slots, copy_threads, max_batch_bytes=0, max_pinned_bytes=0, *, name=None
    ):
        """``name`` is that of a pool of their own, in reports."""
        self._gpu, pool = None, None
        if str(device) != "cpu":
            from .torch._pool import pool_of

            self._gpu = _Gpu(device)
            pool = pool_of(self._gpu.index)
        config = PrefetcherConfig(struct_size=ctypes.sizeof(PrefetcherConfig))
        config.slots, config.copy_threads = slots, copy_threads
        config.flags = 0 if copy_threads else PREFETCHER_SYNCHRONOUS
        config.max_slot_bytes, config.max_pinned_bytes = max_batch_bytes, max_pinned_bytes
        self._owner = _Owner(config, pool, name)
        self._handle, self._count = self._owner.handle, slots
        # Of the owner, not of this: views keep the owner, and this keeps views.
        self._views = {}

    @property
    def to_torch(self):
        """Whether arrays become tensors."""
        return self._gpu is not None

    @property
    def is_of_parent(self):
        """Whether this is a forked child, which has no threads for them."""
        return self._owner.process != os.getpid()

    @property
    def _stream(self):
        if self._gpu is None:
            return None
        return self._gpu.torch.cuda.current_stream(self._gpu.index).cuda_stream or None

    def submit(self, packed):
        """The ticket of a batch; waits for a slot."""
        ticket, table, owner = ctypes.c_uint64(), packed.layout.table, self._owner
        if packed.straight:
            # A signal may come before the ticket is known.
            owner.submitting = packed.straight
        # Without the interpreter's lock, as all calls.
        check(
            library().forebay_prefetch_submit(
                self._handle, table, len(table), PREFETCH_FOREVER, ctypes.byref(ticket)
            )
        )
        if packed.straight:
            owner.sent[ticket.value] = packed.straight
            packed.straight = owner.submitting = None
        return ticket.value

    def wait(self, ticket):
        """Where a batch is, for work that is queued on the current stream from now on. What was
        staged of it is not needed any more."""
        batch = PrefetchBatch()
        check(
            library().forebay_prefetch_wait(self._handle, ticket, self._stream, ctypes.byref(batch))
        )
        if ticket in self._owner.sent:
            self._keep_until_read(ticket)
        return batch.ptr, batch.size

    def _keep_until_read(self, ticket):
        """Keeps a batch's pinned memory until the current stream, which waits for the copy, is past
        it."""
        owner, cuda = self._owner, self._gpu.torch.cuda
        event = cuda.Event()
        event.record(cuda.current_stream(self._gpu.index))
        owner.got[ticket] = event, owner.sent[ticket]
        del owner.sent[ticket]
        # The host is as far ahead with batches that are staged.
        self._let_go(2 * self._count)

    def _let_go(self, most):
        """Lets go of pinned memory that was read, and waits until that of at most so many batches
        is kept."""
        got = self._owner.got
        # Another thread may do the same: each batch by its ticket, and never one for another.
        for ticket, (event, _) in got.copy().items():
            if not event.query():
                if len(got) <= most:
                    return
                event.synchronize()
            got.pop(ticket, None)

    def release(self, ticket):
        """What is queued on the current stream was the last use of a batch."""
        check(library().forebay_prefetch_release(self._handle, ticket, self._stream))
        if self._owner.got:
            self._let_go(2 * self._count)

    def cancel(self, ticket):
        """Calls a batch off, if it is still to come."""
        if not library().forebay_prefetch_cancel(self._handle, ticket):
            self._owner.sent.pop(ticket, None)

    def close(self):
        """Ends everything under way; memory goes with the last view."""
        if self.is_of_parent:
            return
        library().forebay_prefetcher_close(self._handle)
        # A device that has failed reads nothing any more, and cannot be asked.
        with contextlib.suppress(RuntimeError):
            self._let_go(0)

    def stats(self):
        stats = PrefetchStatistics(struct_size=ctypes.sizeof(PrefetchStatistics))
        check(library().forebay_prefetch_stats(self._handle, ctypes.byref(stats)))
        return {name: getattr(stats, name) for name, _ in PrefetchStatistics._fields_[1:]}

    def _view(self, address, size):
        view = self._views.get(address)
        if view is None or view.size < size:
            if len(self._views) >= self._count:
                # Of slots that were somewhere else before they grew.
                self._views.clear()
            self._views[address] = view = _View(self._owner, address, size, self._gpu)
        return view

    def _empty(self, leaf):
        if not leaf.is_torch:
            import numpy

            return numpy.empty(leaf.shape, leaf.dtype)
        import torch

        device = "cpu" if self._gpu is None else self._gpu.device
        return torch.empty(leaf.shape, dtype=leaf.dtype, device=device)

    def leaves(self, address, size, layout, copied=False):
        """The leaves of a batch, where they are now, or copies of them."""
        view = self._view(address, size) if size else None
        made = [view.leaf(leaf) if leaf.size else self._empty(leaf) for leaf in layout.leaves]
        if not copied:
            return made
        return [it.clone() if leaf.is_torch else it.copy() for it, leaf in zip(made, layout.leaves)]

    def poison(self, address, size):
        """Makes it seen when a batch is used that is not valid any more."""
        if size:
            self._view(address, size).flat[:size] = _POISON
