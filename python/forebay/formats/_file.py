"""Files that are written whole or not at all."""

import contextlib
import os


@contextlib.contextmanager
def created(path, mode="wb", **how):
    """The file ``path``, opened for writing. When the block is left by an error it is removed: half a
    file looks like a whole one."""
    file = open(path, mode, **how)
    try:
        with file:
            yield file
    except BaseException:
        if os.path.isfile(path):
            os.unlink(path)
        raise
