"""What a pool would have reserved at each row of a trace."""

import contextlib
import ctypes

from .._library import check, library, pool_statistics
from ..pool import Pool
from . import trace

__all__ = ["Reserved"]


class Reserved:
    """A pool on the host into which the rows of a trace are replayed, one by one; nobody writes to
    its memory. A context manager: ``after(event)`` gives the bytes that are reserved behind
    ``event``.

    ``policy`` is the pool's, ``max_bytes`` the most that it reserves. Allocations that fail are
    counted in ``failed``. Rows must make sense, as those of ``trace.Blocks.follow`` do.
    """

    def __init__(self, policy="balanced", max_bytes=None):
        self._policy, self._max_bytes = policy, max_bytes
        self._blocks, self._streams = {}, {}
        self.failed = 0

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._pool = Pool("cpu", policy=self._policy, max_bytes=self._max_bytes)
            stack.callback(self._end)
            self._close = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self._close.__exit__(*error)

    def _end(self):
        # Blocks end with the pool; its streams must be there as long as it is.
        self._pool.close()
        for stream in self._streams.values():
            library().forebay_stream_destroy(stream)

    def _stream(self, number):
        """A stream for each of the trace's; 0 is the default stream."""
        if not number:
            return None
        found = self._streams.get(number)
        if found is None:
            found = ctypes.c_void_p()
            check(library().forebay_stream_create(ctypes.byref(found)))
            self._streams[number] = found
        return found

    def after(self, event):
        if event.action == trace.ALLOCATE:
            block = ctypes.c_void_p()
            stream = self._stream(event.stream)
            if library().forebay_alloc(self._pool.handle, event.size, stream, ctypes.byref(block)):
                self.failed += 1
            else:
                self._blocks[event.pointer] = block
        elif event.action == trace.FREE:
            block = self._blocks.pop(event.pointer, None)
            if block is not None:
                stream = self._stream(event.stream)
                check(library().forebay_free(self._pool.handle, block, stream))
        return pool_statistics(self._pool.handle).reserved_bytes
