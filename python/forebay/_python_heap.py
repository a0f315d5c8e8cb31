"""What Python and numpy allocate by themselves, by ``tracemalloc``."""

import tracemalloc

from ._ledger import HERE

__all__ = ["PythonHeap"]

#: Lines that are told.
_MOST = 10


class PythonHeap:
    """Watches from now on until ``end()``; ``tracemalloc`` runs afterwards if it did before."""

    def __init__(self):
        self._was_tracing = tracemalloc.is_tracing()
        if not self._was_tracing:
            tracemalloc.start()
        tracemalloc.reset_peak()
        self._entry = tracemalloc.get_traced_memory()[0]
        self._before = tracemalloc.take_snapshot()

    def end(self):
        """Bytes at the start, now and at most, and the lines that have more than at the start; None
        if somebody else ended ``tracemalloc``."""
        if not tracemalloc.is_tracing():
            return None
        current, peak = tracemalloc.get_traced_memory()
        changes = tracemalloc.take_snapshot().compare_to(self._before, "lineno")
        if not self._was_tracing:
            tracemalloc.stop()
        grown = [
            {
                "file": change.traceback[0].filename,
                "line": change.traceback[0].lineno,
                "bytes": change.size_diff,
                "blocks": change.count_diff,
            }
            for change in changes
            if change.size_diff > 0 and not change.traceback[0].filename.startswith(HERE)
        ]
        grown.sort(key=lambda line: -line["bytes"])
        return {
            "entry_bytes": self._entry,
            "current_bytes": current,
            "peak_bytes": peak,
            "grown": grown[:_MOST],
        }
