"""Who is told of each block that Python's pools give out and take back.

Nobody, as long as nobody watches: a pool looks whether the list is empty, and that is all.

    if observers:
        tell(pool, address, size)     # behind an allocation
    if observers:
        tell(pool, address, -size)    # before a free: behind it the address may be another's

An observer is called with ``pool`` (a ``forebay.Pool``), ``address`` and the bytes that were asked for,
below zero for a free; on any thread, in finalizers too. It must not raise, allocate from a pool, or
wait for a lock.
"""

import os

__all__ = ["observers", "tell"]

#: Changed in place, so that those who imported it see it.
observers = []


def tell(pool, address, size):
    for observer in list(observers):
        observer(pool, address, size)


# A child of fork has no sampler, and is nobody's to watch.
os.register_at_fork(after_in_child=observers.clear)
