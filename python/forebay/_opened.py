"""What is open of one kind in this process: pools, caches, prefetched loaders."""

import itertools
import weakref

__all__ = ["Opened"]


class Opened:
    """Things that have a ``number``, as long as anybody else keeps them.

    There is no lock: each step is one of the interpreter's own. So any thread may ask, a signal's
    handler and a finalizer too, and a child of fork has none that a thread of its parent's holds.
    """

    def __init__(self):
        self._numbers = itertools.count(1)
        self._things = weakref.WeakValueDictionary()

    def number(self):
        """One that no other of them has."""
        return next(self._numbers)

    def add(self, thing):
        """``thing`` is open, and whoever asks from now on sees it."""
        self._things[thing.number] = thing

    def discard(self, thing):
        """``thing`` is closed. Safe to say twice."""
        self._things.pop(thing.number, None)

    def all(self):
        """All that are open, oldest first."""
        # Not by iterating, which others that open and close would disturb.
        things = [reference() for reference in self._things.valuerefs()]
        return sorted((one for one in things if one is not None), key=lambda one: one.number)
