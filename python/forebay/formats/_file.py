"""Files that are written whole or not at all."""

import contextlib
import os


@contextlib.contextmanager
def created(path, mode="wb", **how):
    """The file ``path``, opened for writing. It is there, or another than it was, when the block is
    left without an error, and not before: it may be what the block reads. Pipes and devices are
    written to as they are."""
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, mode, **how) as file:
            yield file
        return
    path = os.path.realpath(path)
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, mode, **how) as file:
            yield file
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(part)
        if isinstance(error, OSError) and error.filename == part:
            error.filename = path
        raise
